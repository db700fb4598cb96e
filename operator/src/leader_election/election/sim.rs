//! Candidates against a lease, with clocks that are wrong and run at different speeds, requests and answers that are
//! late or lost, and operators that stop, crash and come back. Everything follows from a seed.

use std::collections::BTreeMap;

use super::*;

/// What the candidates are put through.
#[derive(Clone, Copy)]
struct FaultProfile {
    /// The slowest and the fastest clock, in seconds shown per second.
    speeds: (f64, f64),
    /// How many of a hundred requests never arrive; as many answers get lost.
    lost: u32,
    /// Longest time that a request or its answer takes, in milliseconds.
    delay: u64,
    /// How many of a hundred waits end with the operator's stop, and as many with its crash.
    gone: u32,
}

const HEAVY_FAULTS: FaultProfile = FaultProfile {
    // 10 s and 15 s differ by 1.5; these by less.
    speeds: (0.85, 1.2),
    lost: 15,
    delay: 4_000,
    gone: 1,
};

enum Step {
    /// Something that a candidate waits for comes about.
    Told(Event),
    /// A request reaches the API server; its answer takes `back`, or is lost.
    Arrived(Action, Option<u64>),
}

struct Candidate {
    election: Election,
    /// Milliseconds of true time at its start, and the speed and offset of its clocks.
    born: u64,
    speed: f64,
    wrong_by: i64,
    /// The true millisecond until which it leads unless it learns better; it acts until then.
    leads_until: Option<u64>,
    /// Steps of an earlier request, answered too late, are dropped.
    request: u64,
}

impl Candidate {
    fn now(&self, time: u64) -> Now {
        let elapsed = Duration::from_secs_f64((time - self.born) as f64 / 1000.0 * self.speed);
        let shown = (time as f64 * self.speed) as i64 + self.wrong_by;
        Now {
            elapsed,
            wall: Timestamp::from_millisecond(shown).unwrap(),
        }
    }

    /// The true time that passes while this candidate's clock shows `time`, rounded up as timers do.
    fn global_time(&self, time: Duration) -> u64 {
        (time.as_secs_f64() / self.speed * 1000.0) as u64 + 1
    }
}

struct Simulation {
    faults: FaultProfile,
    random: SmallRng,
    time: u64,
    candidates: BTreeMap<u64, Candidate>,
    /// By time and order: the candidate, its request and what happens.
    agenda: BTreeMap<(u64, u64), (u64, u64, Step)>,
    order: u64,
    steps: u64,
    lease: Option<Stored>,
    version: u64,
    /// From when to when somebody led without a gap in the holder's name.
    terms: u64,
    /// The first moment at which two led.
    two_led: Option<u64>,
}

impl Simulation {
    fn new(seed: u64, faults: FaultProfile) -> Self {
        let mut simulation = Self {
            faults,
            random: SmallRng::seed_from_u64(seed),
            time: 0,
            candidates: BTreeMap::new(),
            agenda: BTreeMap::new(),
            order: 0,
            steps: 0,
            lease: None,
            version: 0,
            terms: 0,
            two_led: None,
        };
        simulation.start();
        simulation.start();
        simulation
    }

    fn start(&mut self) {
        let id = self.order;
        let (slowest, fastest) = self.faults.speeds;
        let speed = if self.random.random() { slowest } else { fastest };
        let candidate = Candidate {
            election: Election::new(format!("candidate-{id}"), Timing::default(), self.random.random()),
            born: self.time,
            speed,
            wrong_by: self.random.random_range(-86_400_000..86_400_000),
            leads_until: None,
            request: 0,
        };
        self.candidates.insert(id, candidate);
        let after = self.random.random_range(0..3_000);
        self.plan(after, id, 0, Step::Told(Event::Due));
    }

    fn plan(&mut self, after: u64, id: u64, request: u64, step: Step) {
        self.order += 1;
        self.agenda
            .insert((self.time + after, self.order), (id, request, step));
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn run(&mut self, until: u64) {
        while let Some(((time, _), (id, request, step))) = self.agenda.pop_first() {
            if time > until {
                self.plan(time - self.time, id, request, step);
                self.time = until;
                return;
            }
            self.time = time;
            self.steps += 1;
            assert!(self.steps < 1_000_000, "time stands still at {time} ms");
            match step {
                // A request outlives its sender.
                Step::Arrived(action, back) => {
                    let event = self.answer(action);
                    if let Some(back) = back {
                        self.plan(back, id, request, Step::Told(event));
                    }
                }
                Step::Told(event) => self.schedule_event(id, request, event),
            }
        }
    }

    fn schedule_event(&mut self, id: u64, request: u64, event: Event) {
        let Some(candidate) = self
            .candidates
            .get_mut(&id)
            .filter(|candidate| candidate.request == request)
        else {
            return;
        };
        candidate.request += 1;
        let now = candidate.now(self.time);
        let led = candidate.leads_until.is_some();
        let action = candidate.election.handle(now, event);
        candidate.leads_until = match candidate.election.phase {
            Phase::Leading { until } => {
                Some(self.time + candidate.global_time(until.saturating_sub(now.elapsed)))
            }
            Phase::Candidate | Phase::Releasing { .. } | Phase::Ended(_) => None,
        };
        let leads = candidate.leads_until.is_some();
        self.terms += u64::from(leads && !led);
        let leading = self
            .candidates
            .values()
            .filter(|other| other.leads_until > Some(self.time));
        if leading.count() > 1 {
            self.two_led.get_or_insert(self.time);
        }
        self.act(id, action);
    }

    fn act(&mut self, id: u64, action: Action) {
        let candidate = &self.candidates[&id];
        let request = candidate.request;
        let within = match &action {
            Action::Wait(time) => {
                let time = candidate.global_time(*time);
                return self.wait(id, request, time);
            }
            Action::Read { within } | Action::Write { within, .. } => candidate.global_time(*within),
            Action::End(_) => {
                self.candidates.remove(&id);
                return self.start();
            }
        };
        self.plan(within, id, request, Step::Told(Event::Failed));
        let delay = self.faults.delay;
        let (there, back) = (
            self.random.random_range(0..=delay),
            self.random.random_range(0..=delay),
        );
        let (arrives, answered) = (!self.chance(self.faults.lost), !self.chance(self.faults.lost));
        if arrives {
            self.plan(
                there,
                id,
                request,
                Step::Arrived(action, answered.then_some(back)),
            );
        }
    }

    fn wait(&mut self, id: u64, request: u64, time: u64) {
        let early = self.random.random_range(0..=time);
        if self.chance(self.faults.gone) {
            // A crash: it acts until then, and comes back under another name.
            self.candidates.remove(&id);
            return self.start();
        }
        if self.chance(self.faults.gone)
            && !matches!(self.candidates[&id].election.phase, Phase::Releasing { .. })
        {
            return self.plan(early, id, request, Step::Told(Event::StopAsked));
        }
        self.plan(time, id, request, Step::Told(Event::Due));
    }

    /// What the API server does: it replaces the version that is named, or creates what is not there.
    fn answer(&mut self, action: Action) -> Event {
        match action {
            Action::Read { .. } => self.lease.clone().map_or(Event::Missing, Event::Found),
            Action::Write { record, over, .. } => {
                if over != self.lease.as_ref().map(|lease| lease.version.clone()) {
                    return Event::Refused;
                }
                self.version += 1;
                let stored = Stored {
                    record,
                    version: self.version.to_string(),
                };
                self.lease = Some(stored.clone());
                Event::Wrote(stored)
            }
            Action::Wait(_) | Action::End(_) => unreachable!("not a request"),
        }
    }
}

const HOUR: u64 = 3_600_000;

#[test]
fn two_never_lead_and_without_faults_one_does() {
    let mut terms = 0;
    for seed in 0..300 {
        // Quick answers let many tries into one lease, slow ones overtake each other.
        let delay = [50, 500, 4_000][seed as usize % 3];
        let mut simulation = Simulation::new(
            seed,
            FaultProfile {
                delay,
                ..HEAVY_FAULTS
            },
        );
        simulation.run(HOUR);
        simulation.faults = FaultProfile {
            lost: 0,
            delay: 50,
            gone: 0,
            ..HEAVY_FAULTS
        };
        // A dead holder's 15 s on the slowest clock, and a few tries.
        simulation.run(HOUR + 40_000);
        let time = simulation.time;
        let leading = simulation
            .candidates
            .values()
            .filter(|other| other.leads_until > Some(time));
        assert_eq!(leading.count(), 1, "seed {seed}");
        simulation.run(HOUR + 640_000);
        assert_eq!(simulation.two_led, None, "seed {seed}");
        terms += simulation.terms;
    }
    assert!(terms > 3_000, "only {terms} terms: the faults hid the election");
}

#[test]
fn clocks_that_differ_by_more_than_the_times_allow_are_caught() {
    let faults = FaultProfile {
        speeds: (0.5, 1.2),
        ..HEAVY_FAULTS
    };
    let caught = (0..300).any(|seed| {
        let mut simulation = Simulation::new(seed, faults);
        simulation.run(HOUR);
        simulation.two_led.is_some()
    });
    assert!(caught, "the simulation sees nothing");
}

#[test]
fn without_faults_the_first_leader_stays() {
    let mut simulation = Simulation::new(
        7,
        FaultProfile {
            lost: 0,
            delay: 50,
            gone: 0,
            ..HEAVY_FAULTS
        },
    );
    simulation.run(HOUR);
    assert_eq!((simulation.terms, simulation.two_led), (1, None));
    // Renewed every 2 s and a little, on a clock of either speed.
    assert!(
        (1_300..2_200).contains(&simulation.version),
        "{} writes",
        simulation.version
    );
}
