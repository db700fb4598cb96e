//! Seeds that pass, and the proof that the checks can fail.

use std::collections::{BTreeMap, BTreeSet};

use super::audit::{Audit, judge_silence};
use super::plan::{Plan, Sabotage, Scenario};
use super::world::{Run, World};
use crate::coordinator::{Action, Event, MAX_ATTEMPTS_PER_TASK, Outcome, QueryFailure};
use crate::failure::{AttemptFailure, FetchError};
use crate::ids::{AttemptId, Incarnation, StageEpoch, StageId, StreamEpoch, StreamId, WorkerId};
use crate::layout::LayoutId;
use crate::locality::NodeLocation;
use crate::message::{Assignment, InputState, InputUpdate};
use crate::metrics::AttemptMetrics;
use sluice_crds::ErrorReason;

/// Seeds that every test run tries.
const SEEDS: u64 = 600;
/// Seeds of each scenario that has an end of its own.
const SEEDS_OF_ENDS: u64 = 200;

fn run(scenario: Scenario, seed: u64, sabotage: Sabotage, trace: bool) -> Result<Run, String> {
    let (mut plan, rng) = Plan::new(seed, scenario);
    plan.put_in(sabotage);
    if trace {
        println!("{plan:#?}");
    }
    World::new(plan, rng, trace)?.run()
}

/// What an honest run may end with when things went wrong.
fn is_plausible(scenario: Scenario, outcome: &Outcome) -> bool {
    let Outcome::Failed(failure) = outcome else {
        return true;
    };
    match failure.reason {
        ErrorReason::ResultPartiallyRead | ErrorReason::PoisonTask => true,
        ErrorReason::FetchFailed | ErrorReason::TaskFailed | ErrorReason::SinkFailed => {
            scenario != Scenario::Abandoned
        }
        ErrorReason::DeadlineExceeded => scenario == Scenario::Deadline,
        ErrorReason::WorkersLost => scenario == Scenario::Abandoned,
        _ => false,
    }
}

/// How the first seeds of a scenario end; the rules must hold in all of them.
fn honest_runs(scenario: Scenario, seeds: u64) -> Vec<Run> {
    let mut broken = Vec::new();
    let mut runs = Vec::new();
    for seed in 0..seeds {
        match run(scenario, seed, Sabotage::None, false) {
            Ok(run) if is_plausible(scenario, &run.outcome) => runs.push(run),
            Ok(run) => broken.push(format!("{}: {:?}", replay(scenario, seed), run.outcome)),
            Err(violation) => broken.push(format!("{}: {violation}", replay(scenario, seed))),
        }
    }
    assert!(
        broken.is_empty(),
        "{} seeds:\n{}",
        broken.len(),
        broken.join("\n")
    );
    runs
}

/// Asserts that at least so many in a hundred runs were of a kind, or the seeds do not try what they are for.
fn assert_often(runs: &[Run], percent: usize, what: &str, is_so: impl Fn(&Run) -> bool) {
    let count = runs.iter().filter(|run| is_so(run)).count();
    println!("{count} of {} {what}", runs.len());
    assert!(
        count * 100 >= runs.len() * percent,
        "only {count} of {} queries {what}",
        runs.len()
    );
}

fn failed_for(run: &Run, reason: ErrorReason) -> bool {
    matches!(&run.outcome, Outcome::Failed(failure) if failure.reason == reason)
}

#[test]
fn sim_seeds() {
    let runs = honest_runs(Scenario::Any, SEEDS);
    let succeeded = |run: &Run| run.outcome == Outcome::Succeeded;
    assert_often(&runs, 80, "succeeded", succeeded);
    assert_often(&runs, 20, "lost work and succeeded", |run| {
        succeeded(run) && run.lost_attempts > 0
    });
    assert_often(&runs, 3, "had an attempt that stood still and succeeded", |run| {
        succeeded(run) && run.hung > 0
    });
    // Two workers that go for other reasons may have run the same task.
    assert_often(&runs, 98, "did not end for a task that is innocent", |run| {
        !failed_for(run, ErrorReason::PoisonTask)
    });
}

#[test]
fn sim_seeds_with_a_slow_client() {
    let runs = honest_runs(Scenario::Client, SEEDS);
    assert_often(&runs, 70, "succeeded", |run| run.outcome == Outcome::Succeeded);
    assert_often(&runs, 1, "succeeded with a second reader", |run| {
        run.outcome == Outcome::Succeeded && run.client_went_on > 0
    });
    assert_often(&runs, 2, "lost an attempt of which rows had left", |run| {
        failed_for(run, ErrorReason::ResultPartiallyRead)
    });
}

#[test]
fn sim_seeds_with_a_deadline() {
    let runs = honest_runs(Scenario::Deadline, SEEDS_OF_ENDS);
    assert_often(&runs, 20, "missed their deadlines", |run| {
        failed_for(run, ErrorReason::DeadlineExceeded)
    });
    assert_often(&runs, 20, "kept them", |run| run.outcome == Outcome::Succeeded);
}

#[test]
fn sim_seeds_whose_workers_all_vanish() {
    let runs = honest_runs(Scenario::Abandoned, SEEDS_OF_ENDS);
    assert_often(&runs, 50, "were given up", |run| {
        failed_for(run, ErrorReason::WorkersLost)
    });
}

#[test]
fn sim_seeds_with_a_task_that_kills_its_workers() {
    let runs = honest_runs(Scenario::Poison, SEEDS);
    assert_often(&runs, 80, "were ended for it", |run| {
        failed_for(run, ErrorReason::PoisonTask)
    });
    assert_often(&runs, 80, "lost two workers to it", |run| run.killed == 2);
}

fn replay(scenario: Scenario, seed: u64) -> String {
    let prefix = scenario.prefix();
    format!("SLUICE_SIM_SEED={prefix}{seed} cargo test -p sluice-core sim_replay -- --nocapture")
}

/// Replays one seed with everything that happens in it; without a seed, the first one.
#[test]
fn sim_replay() {
    #[allow(
        clippy::disallowed_methods,
        reason = "the seed to replay is named by whoever runs the test"
    )]
    let wanted = std::env::var("SLUICE_SIM_SEED").ok();
    let trace = wanted.is_some();
    let wanted = wanted.unwrap_or_else(|| "0".to_owned());
    let numbered = |scenario: Scenario| {
        let number = wanted.strip_prefix(scenario.prefix())?;
        Some((scenario, number.parse().ok()?))
    };
    let (scenario, seed) = Scenario::ALL
        .into_iter()
        .find_map(numbered)
        .expect("SLUICE_SIM_SEED is a number, perhaps behind the name of a scenario");
    let run = run(scenario, seed, Sabotage::None, trace).expect("the rules hold");
    println!("{:?} after {} steps", run.outcome, run.steps);
    assert!(is_plausible(scenario, &run.outcome), "{:?}", run.outcome);
}

/// Asserts that some sabotaged run is complained of in these words.
fn assert_noticed(scenario: Scenario, sabotage: Sabotage, words: &str) {
    let mut complaints = (0..SEEDS).filter_map(|seed| run(scenario, seed, sabotage, false).err());
    let mut others = BTreeSet::new();
    let noticed = complaints.any(|complaint| {
        let so = complaint.contains(words);
        others.insert(complaint);
        so
    });
    assert!(noticed, "nobody says `{words}`: {others:#?}");
}

#[test]
fn a_query_that_never_ends_is_noticed() {
    assert_noticed(Scenario::Any, Sabotage::MuteSuccess, "has not ended");
}

#[test]
fn a_task_that_goes_on_killing_workers_is_noticed() {
    assert_noticed(Scenario::Poison, Sabotage::SayAllDrain, "one task has killed");
}

#[test]
fn a_query_that_ends_for_a_task_which_killed_nobody_is_noticed() {
    let outcome = Outcome::Failed(QueryFailure {
        reason: ErrorReason::PoisonTask,
        message: String::new(),
        attempt: Some(attempt(0, 1)),
    });
    let start = |incarnation| WorkerId {
        incarnation: Incarnation(incarnation),
        ..worker()
    };
    let mut audit = Audit::default();
    for (number, incarnation) in [(0, 1), (1, 2)] {
        let complaint = audit.on_poison(&outcome).expect_err("too few were lost");
        assert!(
            complaint.contains(&format!("after {number} lost workers")),
            "{complaint}"
        );
        audit.on_event(&joined_as(start(incarnation)));
        let slots = Event::SlotsGranted {
            worker: start(incarnation),
            slots: 1,
        };
        audit.on_event(&slots);
        assert_eq!(audit.on_action(&assign(attempt(0, number))), Ok(()));
        audit.on_event(&Event::WorkerLost {
            worker: start(incarnation),
            message: String::new(),
        });
    }
    assert_eq!(audit.on_poison(&outcome), Ok(()));
    audit.on_event(&joined_as(start(2)));
    assert!(audit.on_poison(&outcome).is_err(), "it came back as it was");
}

#[test]
fn a_repeated_row_is_noticed() {
    assert_noticed(Scenario::Any, Sabotage::RepeatRow, "twice");
}

#[test]
fn lost_rows_are_noticed() {
    assert_noticed(Scenario::Any, Sabotage::LoseChunk, "other rows");
}

#[test]
fn rows_of_other_ranges_are_noticed() {
    assert_noticed(Scenario::Any, Sabotage::KeepStrangers, "twice");
}

#[test]
fn rows_of_two_runs_of_a_stage_are_noticed() {
    assert_noticed(Scenario::Any, Sabotage::HideIndeterminacy, "the result has");
}

#[test]
fn a_client_that_hands_rows_out_twice_is_noticed() {
    assert_noticed(Scenario::Client, Sabotage::HandOutAgain, "twice");
}

#[test]
fn a_client_that_gives_up_for_rows_of_another_attempt_is_noticed() {
    assert_noticed(Scenario::Client, Sabotage::GiveUpForAnyRow, "had left");
}

#[test]
fn a_calm_query_that_fails_is_noticed() {
    assert_noticed(Scenario::Any, Sabotage::FailAttempts, "nothing went wrong, but");
}

#[test]
fn a_sink_that_shows_files_of_a_failed_query_is_noticed() {
    assert_noticed(Scenario::Any, Sabotage::KeepFiles, "the sink shows files");
}

#[test]
fn an_attempt_that_a_worker_has_no_slot_for_is_noticed() {
    assert_noticed(Scenario::Any, Sabotage::GrantTwice, "where the query has no slot");
}

#[test]
fn a_wish_to_be_woken_after_the_end_is_noticed() {
    assert_noticed(Scenario::Any, Sabotage::EndUnasked, "still wants to be woken");
}

#[test]
fn words_after_the_end_are_noticed() {
    assert_eq!(judge_silence(None, &[]), Ok(()));
    let complaint = judge_silence(None, &[Action::AbortSink]).expect_err("an action");
    assert!(complaint.contains("after the query's end"), "{complaint}");
}

#[test]
fn deadlines_that_do_not_end_a_query_in_time_are_noticed() {
    assert_noticed(Scenario::Deadline, Sabotage::EndlessPatience, "has not ended");
    assert_noticed(Scenario::Deadline, Sabotage::HalfPatience, "counted as exceeded");
}

#[test]
fn workers_that_are_waited_for_too_long_or_too_shortly_are_noticed() {
    assert_noticed(Scenario::Abandoned, Sabotage::EndlessPatience, "has not ended");
    assert_noticed(Scenario::Abandoned, Sabotage::HalfPatience, "gave up");
}

fn attempt(epoch: u32, number: u32) -> AttemptId {
    AttemptId {
        stage: StageId(0),
        stage_epoch: StageEpoch(epoch),
        task: 0,
        attempt: number,
    }
}

fn worker() -> WorkerId {
    WorkerId {
        name: "w".to_owned(),
        incarnation: Incarnation(1),
    }
}

fn joined() -> Event {
    joined_as(worker())
}

fn joined_as(worker: WorkerId) -> Event {
    Event::WorkerJoined {
        worker,
        slots: 9,
        location: NodeLocation::default(),
        held: Vec::new(),
    }
}

fn succeeded(id: AttemptId) -> Event {
    let metrics = AttemptMetrics::default();
    Event::AttemptSucceeded {
        worker: worker(),
        attempt: id,
        layout: LayoutId::default(),
        outputs: Vec::new(),
        run: None,
        metrics,
    }
}

fn assign(id: AttemptId) -> Action {
    let assignment = Assignment {
        attempt: id,
        stream_epoch: StreamEpoch(1),
        output_partitions: 1,
        inputs: Vec::new(),
        layout: LayoutId::default(),
        recommended_reduce_fetch_window_partitions: 1,
    };
    Action::AssignAttempt {
        worker: worker(),
        assignment,
    }
}

fn update(id: AttemptId, state: InputState) -> Action {
    let update = InputUpdate {
        map_attempt: id,
        stream_epoch: StreamEpoch(1),
        worker: worker(),
        state,
        range: None,
    };
    Action::UpdateInputs {
        worker: worker(),
        attempt: id,
        updates: vec![update],
    }
}

/// An audit that has seen these attempts run, one after the other, and succeed.
fn audit_after(attempts: &[AttemptId]) -> Audit {
    let mut audit = Audit::default();
    audit.on_event(&joined());
    audit.on_event(&Event::SlotsGranted {
        worker: worker(),
        slots: 1_000,
    });
    for id in attempts {
        assert_eq!(audit.on_action(&assign(*id)), Ok(()));
        audit.on_event(&succeeded(*id));
    }
    audit
}

fn complains(audit: &mut Audit, action: &Action, words: &str) {
    let complaint = audit.on_action(action).expect_err("the rule is broken");
    assert!(complaint.contains(words), "{complaint}");
}

#[test]
fn two_winners_of_a_task_are_noticed() {
    let won = |number| update(attempt(0, number), InputState::Won);
    let mut audit = audit_after(&[attempt(0, 0), attempt(0, 1)]);
    assert_eq!(audit.on_action(&won(0)), Ok(()));
    complains(&mut audit, &won(1), "have both won");

    let mut audit = audit_after(&[attempt(0, 0), attempt(0, 1)]);
    assert_eq!(audit.on_action(&won(0)), Ok(()));
    let failure = AttemptFailure::FetchFailed {
        map_attempt: attempt(0, 0),
        error: FetchError::Corrupt,
    };
    audit.on_event(&Event::AttemptFailed {
        worker: worker(),
        attempt: attempt(0, 9),
        failure,
    });
    assert_eq!(audit.on_action(&won(1)), Ok(()), "the first was lost");
}

#[test]
fn a_winner_without_success_is_noticed() {
    let commit = Action::CommitSink {
        winners: vec![attempt(0, 1)],
    };
    complains(&mut audit_after(&[attempt(0, 0)]), &commit, "without success");
}

#[test]
fn a_cancelled_attempt_that_wins_is_noticed() {
    let mut audit = audit_after(&[]);
    assert_eq!(audit.on_action(&assign(attempt(0, 0))), Ok(()));
    assert_eq!(
        audit.on_action(&Action::CancelAttempt {
            worker: worker(),
            attempt: attempt(0, 0)
        }),
        Ok(())
    );
    audit.on_event(&succeeded(attempt(0, 0)));
    complains(
        &mut audit,
        &update(attempt(0, 0), InputState::Won),
        "without success",
    );
}

#[test]
fn a_winner_of_an_old_run_is_noticed() {
    let mut audit = audit_after(&[attempt(0, 0), attempt(1, 1)]);
    complains(&mut audit, &update(attempt(0, 0), InputState::Won), "stale");
    complains(
        &mut audit,
        &assign(attempt(0, 2)),
        "run of the stage that is over",
    );
}

#[test]
fn attempts_out_of_bounds_are_noticed() {
    let mut audit = audit_after(&[attempt(0, 0)]);
    complains(&mut audit, &assign(attempt(0, 0)), "used before");
    let mut audit = audit_after(&[]);
    complains(
        &mut audit,
        &assign(attempt(0, MAX_ATTEMPTS_PER_TASK)),
        "more than",
    );
    let mut audit = audit_after(&[]);
    assert_eq!(audit.on_action(&assign(attempt(0, 0))), Ok(()));
    complains(&mut audit, &assign(attempt(0, 1)), "at work");
}

#[test]
fn assignments_without_session_or_slot_are_noticed() {
    complains(&mut Audit::default(), &assign(attempt(0, 0)), "no session");
    let mut audit = Audit::default();
    audit.on_event(&joined());
    complains(&mut audit, &assign(attempt(0, 0)), "without a slot");
    complains(
        &mut audit,
        &Action::ReleaseSlots {
            worker: worker(),
            slots: 1,
        },
        "not granted",
    );
}

#[test]
fn actions_after_the_end_are_noticed() {
    let mut audit = Audit::default();
    let end = || Action::EndQuery {
        outcome: Outcome::Succeeded,
    };
    assert_eq!(audit.on_action(&end()), Ok(()));
    complains(&mut audit, &end(), "after the query's end");
}

#[test]
fn readers_that_mix_lose_or_invent_rows_are_noticed() {
    let stream = |number, partition| StreamId {
        attempt: attempt(0, number),
        partition,
    };
    let tasks = BTreeSet::from([attempt(0, 0).task_id()]);
    let mut audit = audit_after(&[attempt(0, 0), attempt(0, 1)]);
    audit.published = BTreeMap::from([(stream(0, 0), vec![1, 2]), (stream(1, 1), vec![3])]);
    let taken = |streams: &[(StreamId, Vec<u64>)]| streams.iter().cloned().collect::<BTreeMap<_, _>>();
    let judge = |streams: &[(StreamId, Vec<u64>)]| {
        audit
            .on_input_read(&tasks, &taken(streams), false)
            .err()
            .unwrap_or_default()
    };
    assert_eq!(judge(&[(stream(0, 0), vec![1, 2])]), "");
    assert!(judge(&[(stream(0, 0), vec![1, 2]), (stream(1, 1), vec![3])]).contains("mixed"));
    assert!(judge(&[(stream(0, 0), vec![1])]).contains("other rows"));
    assert!(judge(&[(stream(2, 0), vec![1])]).contains("not won"));
    assert!(judge(&[]).contains("without the rows"));
}

#[test]
fn an_end_for_rows_that_had_not_left_or_still_count_is_noticed() {
    let lost = attempt(0, 0);
    let outcome = Outcome::Failed(QueryFailure {
        reason: ErrorReason::ResultPartiallyRead,
        message: String::new(),
        attempt: Some(lost),
    });
    let mut audit = audit_after(&[lost]);
    let (part, none) = (BTreeMap::from([(lost, vec![1])]), BTreeSet::new());
    assert_eq!(audit.on_outcome(&outcome, &part, &none), Ok(()));
    for left in [BTreeMap::new(), BTreeMap::from([(lost, Vec::new())])] {
        let complaint = audit.on_outcome(&outcome, &left, &none).expect_err("no row");
        assert!(complaint.contains("no row of"), "{complaint}");
    }
    let ended = BTreeSet::from([lost]);
    let complaint = audit.on_outcome(&outcome, &part, &ended).expect_err("all rows");
    assert!(complaint.contains("they count"), "{complaint}");
    assert_eq!(audit.on_action(&update(lost, InputState::Superseded)), Ok(()));
    assert_eq!(audit.on_outcome(&outcome, &part, &ended), Ok(()));
}

#[test]
fn a_result_with_other_rows_is_noticed() {
    let audit = Audit::default();
    assert_eq!(audit.on_result(vec![2, 1], &[1, 2]), Ok(()));
    let complaint = audit.on_result(vec![1, 1], &[1, 2]).expect_err("other rows");
    assert!(complaint.contains("1 twice, 1 missing"), "{complaint}");
}

#[test]
fn rows_of_a_failed_query_that_left_twice_or_are_none_of_it_are_noticed() {
    let audit = Audit::default();
    assert_eq!(audit.on_part(&[2], &[1, 2]), Ok(()));
    for rows in [[2, 2], [2, 3]] {
        let complaint = audit.on_part(&rows, &[1, 2]).expect_err("a wrong row");
        assert!(complaint.contains("left twice, or is none"), "{complaint}");
    }
}
