//! Seeds that pass, and the proof that the checks can fail.

use std::collections::{BTreeMap, BTreeSet};

use super::audit::Audit;
use super::plan::{Plan, Sabotage};
use super::world::{Run, World};
use crate::coordinator::{Action, Event, MAX_ATTEMPTS_PER_TASK, Outcome};
use crate::failure::{AttemptFailure, FetchError};
use crate::ids::{
    AttemptId, Incarnation, LayoutVersion, StageEpoch, StageId, StreamEpoch, StreamId, WorkerId,
};
use crate::locality::Place;
use crate::message::{Assignment, InputState, InputUpdate};
use crate::metrics::AttemptMetrics;
use sluice_crds::ErrorReason;

/// Seeds that every test run tries.
const SEEDS: u64 = 600;

fn run(seed: u64, sabotage: Sabotage, trace: bool) -> Result<Run, String> {
    let (mut plan, rng) = Plan::new(seed);
    plan.sabotage = sabotage;
    if trace {
        println!("{plan:#?}");
    }
    World::new(plan, rng, trace)?.run()
}

/// What an honest run may end with when things went wrong.
fn is_plausible(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Succeeded | Outcome::Cancelled => true,
        Outcome::Failed(failure) => matches!(
            failure.reason,
            ErrorReason::RowsLeft
                | ErrorReason::FetchFailed
                | ErrorReason::TaskFailed
                | ErrorReason::SinkFailed
        ),
    }
}

#[test]
fn sim_seeds() {
    let mut broken = Vec::new();
    let (mut succeeded, mut recovered) = (0_u64, 0_u64);
    for seed in 0..SEEDS {
        match run(seed, Sabotage::None, false) {
            Ok(run) if is_plausible(&run.outcome) => {
                succeeded += u64::from(run.outcome == Outcome::Succeeded);
                recovered += u64::from(run.outcome == Outcome::Succeeded && run.lost_attempts > 0);
            }
            Ok(run) => broken.push(format!("{}: {:?}", replay(seed), run.outcome)),
            Err(violation) => broken.push(format!("{}: {violation}", replay(seed))),
        }
    }
    assert!(
        broken.is_empty(),
        "{} seeds:\n{}",
        broken.len(),
        broken.join("\n")
    );
    assert!(
        succeeded * 100 >= SEEDS * 80,
        "only {succeeded} of {SEEDS} queries succeeded"
    );
    assert!(
        recovered * 100 >= SEEDS * 20,
        "only {recovered} of {SEEDS} queries lost work and succeeded"
    );
}

fn replay(seed: u64) -> String {
    format!("SLUICE_SIM_SEED={seed} cargo test -p sluice-core sim_replay -- --nocapture")
}

/// Replays one seed with everything that happens in it; without a seed, the first one.
#[test]
fn sim_replay() {
    let seed = std::env::var("SLUICE_SIM_SEED").ok();
    let trace = seed.is_some();
    let seed = seed.map_or(0, |seed| seed.parse().expect("SLUICE_SIM_SEED is a number"));
    let run = run(seed, Sabotage::None, trace).expect("the rules hold");
    println!("{:?} after {} steps", run.outcome, run.steps);
    assert!(is_plausible(&run.outcome), "{:?}", run.outcome);
}

/// The first complaint of a sabotaged run.
fn complaint(sabotage: Sabotage) -> String {
    let complaints = (0..20).filter_map(|seed| run(seed, sabotage, false).err());
    complaints.min_by_key(String::len).expect("the checks notice")
}

#[test]
fn a_query_that_never_ends_is_noticed() {
    assert!(complaint(Sabotage::MuteSuccess).contains("has not ended"));
}

#[test]
fn a_repeated_row_is_noticed() {
    assert!(complaint(Sabotage::RepeatRow).contains("twice"));
}

#[test]
fn lost_rows_are_noticed() {
    assert!(complaint(Sabotage::LoseChunk).contains("other rows"));
}

#[test]
fn rows_of_two_runs_of_a_stage_are_noticed() {
    let complaints = (0..SEEDS).filter_map(|seed| run(seed, Sabotage::HideIndeterminacy, false).err());
    let mixed = complaints.filter(|complaint| complaint.contains("the result has"));
    assert!(mixed.count() > 0, "no run noticed");
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
    Event::WorkerJoined {
        worker: worker(),
        slots: 9,
        place: Place::default(),
        held: Vec::new(),
    }
}

fn succeeded(id: AttemptId) -> Event {
    let metrics = AttemptMetrics::default();
    Event::AttemptSucceeded {
        worker: worker(),
        attempt: id,
        outputs: Vec::new(),
        metrics,
    }
}

fn assign(id: AttemptId) -> Action {
    let assignment = Assignment {
        attempt: id,
        stream_epoch: StreamEpoch(1),
        output_partitions: 1,
        inputs: Vec::new(),
        layout_version: LayoutVersion(1),
        layout_fingerprint: 0,
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
            .on_input_read(&tasks, &taken(streams))
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
fn a_result_with_other_rows_is_noticed() {
    let audit = Audit::default();
    assert_eq!(audit.on_result(vec![2, 1], &[1, 2]), Ok(()));
    let complaint = audit.on_result(vec![1, 1], &[1, 2]).expect_err("other rows");
    assert!(complaint.contains("1 twice, 1 missing"), "{complaint}");
}
