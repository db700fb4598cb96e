//! The election: the decisions of one candidate for a lease, without IO and without a clock.
//!
//! The rules are those of client-go's leader election. No candidate compares another machine's clock with its own. A lease has
//! expired when its record has not changed for the lease duration *as this candidate saw it*, on its own monotonic clock. The
//! holder counts its shorter renewal deadline from the moment at which it sent its last successful write, which is before anybody
//! can have seen that write. So two candidates never lead at once, as long as no clock runs faster than another by more than the
//! ratio of the two times.
//!
//! Two rules are stricter than client-go's. The deadline counts from the sending of the last renewal, not from the start of the
//! next. A holder that sees another name in the lease ends at once.

use std::time::Duration;

use jiff::Timestamp;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

/// Longest wait of a candidate, as a multiple of the retry period, so that candidates that started together drift apart.
/// client-go's value.
const JITTER: f64 = 1.2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    lease: Duration,
    renewal: Duration,
    retry: Duration,
}

impl Default for Timing {
    /// client-go's: 15 s, 10 s, 2 s.
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            renewal: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// Times with which two could lead at once, or nobody for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a lease of {lease} s with renewals within {renewal} s, tried every {retry} s: the lease must be longer than the \
     renewal, and the renewal longer than {JITTER} times the retry period, which is at least 1 s"
)]
pub struct BadTiming {
    lease: u16,
    renewal: u16,
    retry: u16,
}

impl Timing {
    /// `lease`: after how many seconds without a change the others take over. `renewal`: after how many seconds
    /// without a successful renewal the holder ends. `retry`: seconds between two tries.
    ///
    /// # Errors
    /// The renewal is not shorter than the lease, or the retry period leaves no room for a second try.
    pub fn new(lease: u16, renewal: u16, retry: u16) -> Result<Self, BadTiming> {
        let room = f64::from(renewal) > JITTER * f64::from(retry);
        if lease <= renewal || !room || retry == 0 {
            return Err(BadTiming {
                lease,
                renewal,
                retry,
            });
        }
        let seconds = |value| Duration::from_secs(u64::from(value));
        Ok(Self {
            lease: seconds(lease),
            renewal: seconds(renewal),
            retry: seconds(retry),
        })
    }

    /// Longest time of one request, so that a dead connection leaves time for a second one.
    fn request(&self) -> Duration {
        self.renewal / 2
    }

    fn lease_seconds(&self) -> i32 {
        i32::try_from(self.lease.as_secs()).unwrap_or(i32::MAX)
    }
}

/// The time on a candidate's clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time since an arbitrary moment. Every decision uses it.
    pub elapsed: Duration,
    /// Wall clock time. It is written into the lease for people and never read.
    pub wall: Timestamp,
}

/// The content of a lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; nobody once it is given up.
    pub holder: Option<String>,
    /// How many seconds without a change the others wait.
    pub seconds: Option<i32>,
    /// When the holder became the holder, by its own clock.
    pub acquired: Option<Timestamp>,
    /// When the holder wrote last, by its own clock.
    pub renewed: Option<Timestamp>,
    /// How often the holder changed.
    pub transitions: i32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub record: Record,
    pub version: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The wait is over, or the election begins.
    Due,
    /// The lease was read.
    Found(Stored),
    /// There is no such lease.
    Missing,
    /// The write succeeded; this is what it left.
    Wrote(Stored),
    /// The write met another version of the lease than the expected one.
    Refused,
    /// There was no answer in time, or none that shows the state of the lease.
    Failed,
    /// The operator stops, and the work of the leader has ended. It comes once.
    StopAsked,
}

/// The next action; one at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Wait this long.
    Wait(Duration),
    /// Read the lease.
    Read {
        /// Give up after this time.
        within: Duration,
    },
    Write {
        record: Record,
        /// The version to replace; `None` creates the lease.
        over: Option<String>,
        /// Give up after this time.
        within: Duration,
    },
    /// The election has ended for this candidate.
    End(Outcome),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was asked to stop, and holds no lease.
    Stopped,
    /// It led and could not renew the lease in time.
    NotRenewed,
    /// It led, and another candidate holds the lease.
    Deposed,
}

/// ```text
/// Candidate --Wrote--> Leading --deadline | another holder--> Ended
///     |                   |
///     |               StopAsked
///     |                   v
///     +--StopAsked--> Releasing --released | deadline--> Ended
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Candidate,
    /// Leads while the monotonic clock shows less than `until`.
    Leading {
        until: Duration,
    },
    /// Releases the lease, and gives up at `until`.
    Releasing {
        until: Duration,
    },
    Ended(Outcome),
}

#[derive(Debug)]
pub struct Election {
    identity: String,
    timing: Timing,
    phase: Phase,
    seen: Option<Seen>,
    sent: Duration,
    /// Whether the result of the last write is unknown.
    unsure: bool,
    random: SmallRng,
}

#[derive(Debug)]
struct Seen {
    stored: Stored,
    /// When this candidate first saw the record as it is.
    since: Duration,
}

impl Election {
    /// A candidate. No two candidates may ever have the same `identity`, not even one after the other: a candidate takes a lease
    /// with its own name for its own. `seed` spreads the retries.
    pub fn new(identity: String, timing: Timing, seed: u64) -> Self {
        Self {
            identity,
            timing,
            phase: Phase::Candidate,
            seen: None,
            sent: Duration::ZERO,
            unsure: false,
            random: SmallRng::seed_from_u64(seed),
        }
    }

    /// Whether this candidate may act at `now`.
    pub fn leads(&self, now: Now) -> bool {
        matches!(self.phase, Phase::Leading { until } if now.elapsed < until)
    }

    /// Handles an event and returns the next action. The first event is [`Event::Due`].
    #[expect(
        clippy::needless_pass_by_value,
        reason = "whoever tells an event has no use for it afterwards"
    )]
    pub fn handle(&mut self, now: Now, event: Event) -> Action {
        self.note(now, &event);
        match self.phase {
            Phase::Candidate => self.stand(now, &event),
            Phase::Leading { until } if now.elapsed >= until => self.end(Outcome::NotRenewed),
            Phase::Leading { until } => self.lead(now, &event, until),
            Phase::Releasing { until } if now.elapsed >= until => self.end(Outcome::Stopped),
            Phase::Releasing { until } => self.release(now, &event, until),
            Phase::Ended(outcome) => Action::End(outcome),
        }
    }

    fn note(&mut self, now: Now, event: &Event) {
        match event {
            Event::Found(stored) | Event::Wrote(stored) => {
                let since = match &self.seen {
                    Some(seen) if seen.stored.record == stored.record => seen.since,
                    Some(_) | None => now.elapsed,
                };
                let stored = stored.clone();
                self.seen = Some(Seen { stored, since });
                self.unsure = false;
            }
            Event::Missing => {
                self.seen = None;
                self.unsure = false;
            }
            Event::Due | Event::Refused | Event::Failed | Event::StopAsked => {}
        }
    }

    fn stand(&mut self, now: Now, event: &Event) -> Action {
        match event {
            Event::Due => self.read(self.timing.request()),
            Event::Found(_) if self.is_ours() || self.is_free(now) => self.claim(now, self.timing.request()),
            Event::Missing => self.claim(now, self.timing.request()),
            Event::Wrote(_) => self.renewed(now),
            Event::Found(_) | Event::Refused | Event::Failed => {
                let jitter = self.random.random_range(0.0..JITTER);
                Action::Wait(self.timing.retry.mul_f64(1.0 + jitter))
            }
            // The lease may be ours although the answer was lost.
            Event::StopAsked if self.unsure => self.start_release(now),
            Event::StopAsked => self.end(Outcome::Stopped),
        }
    }

    fn lead(&mut self, now: Now, event: &Event, until: Duration) -> Action {
        let left = until.saturating_sub(now.elapsed);
        let within = self.timing.request().min(left);
        match event {
            Event::Due if self.unsure => self.read(within),
            Event::Refused => self.read(within),
            Event::Found(_) if !self.is_ours() => self.end(Outcome::Deposed),
            Event::Due | Event::Found(_) | Event::Missing => self.claim(now, within),
            Event::Wrote(_) => self.renewed(now),
            Event::Failed => Action::Wait(self.timing.retry.min(left)),
            Event::StopAsked => self.start_release(now),
        }
    }

    fn release(&mut self, now: Now, event: &Event, until: Duration) -> Action {
        let left = until.saturating_sub(now.elapsed);
        match event {
            Event::Found(_) if self.is_ours() => self.give_up(now, left),
            Event::Found(_) | Event::Missing | Event::Wrote(_) => self.end(Outcome::Stopped),
            Event::Due | Event::Refused | Event::StopAsked => self.read(left),
            Event::Failed => Action::Wait(self.timing.retry.min(left)),
        }
    }

    /// Our write is in the lease.
    fn renewed(&mut self, now: Now) -> Action {
        let until = self.sent + self.timing.renewal;
        if now.elapsed >= until {
            // The answer is so late that others may soon see the lease as expired.
            return match self.phase {
                Phase::Leading { .. } => self.end(Outcome::NotRenewed),
                Phase::Candidate | Phase::Releasing { .. } | Phase::Ended(_) => {
                    self.read(self.timing.request())
                }
            };
        }
        self.phase = Phase::Leading { until };
        Action::Wait(self.timing.retry.min(until - now.elapsed))
    }

    fn is_ours(&self) -> bool {
        let holder = self
            .seen
            .as_ref()
            .and_then(|seen| seen.stored.record.holder.as_ref());
        holder == Some(&self.identity)
    }

    /// Whether the lease that was seen has no holder or has expired.
    fn is_free(&self, now: Now) -> bool {
        let Some(Seen { stored, since }) = &self.seen else {
            return true;
        };
        if stored.record.holder.as_deref().unwrap_or_default().is_empty() {
            return true;
        }
        let promised = stored
            .record
            .seconds
            .and_then(|seconds| u64::try_from(seconds).ok());
        let duration = promised.map_or(self.timing.lease, Duration::from_secs);
        now.elapsed >= since.saturating_add(duration)
    }

    fn read(&self, within: Duration) -> Action {
        Action::Read { within }
    }

    /// Writes our name into the lease, over the version that was seen.
    fn claim(&mut self, now: Now, within: Duration) -> Action {
        let ours = self.is_ours();
        let old = self.seen.as_ref().map(|seen| &seen.stored.record);
        let record = Record {
            holder: Some(self.identity.clone()),
            seconds: Some(self.timing.lease_seconds()),
            acquired: old
                .and_then(|old| old.acquired)
                .filter(|_| ours)
                .or(Some(now.wall)),
            renewed: Some(now.wall),
            transitions: old.map_or(0, |old| old.transitions.saturating_add(i32::from(!ours))),
        };
        self.write(now, record, within)
    }

    fn start_release(&mut self, now: Now) -> Action {
        let within = self.timing.request();
        self.phase = Phase::Releasing {
            until: now.elapsed + within,
        };
        if self.unsure {
            return self.read(within);
        }
        self.give_up(now, within)
    }

    /// Writes a lease without a holder that expires in a second.
    fn give_up(&mut self, now: Now, within: Duration) -> Action {
        let old = self.seen.as_ref().map(|seen| &seen.stored.record);
        let record = Record {
            holder: None,
            seconds: Some(1),
            acquired: Some(now.wall),
            renewed: Some(now.wall),
            transitions: old.map_or(0, |old| old.transitions),
        };
        self.write(now, record, within)
    }

    fn write(&mut self, now: Now, record: Record, within: Duration) -> Action {
        self.sent = now.elapsed;
        self.unsure = true;
        let over = self.seen.as_ref().map(|seen| seen.stored.version.clone());
        Action::Write { record, over, within }
    }

    fn end(&mut self, outcome: Outcome) -> Action {
        self.phase = Phase::Ended(outcome);
        Action::End(outcome)
    }
}
