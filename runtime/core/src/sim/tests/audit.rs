//! What the audit of a run notices, event by event and action by action.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::super::audit::Audit;
use super::super::model::random_graph;
use crate::coordinator::{Action, Event, MAX_ATTEMPTS_PER_TASK, Outcome, QueryFailure};
use crate::failure::{AttemptFailure, FetchError};
use crate::ids::{AttemptId, Incarnation, StageEpoch, StageId, StreamEpoch, StreamId, WorkerId};
use crate::layout::LayoutId;
use crate::locality::NodeLocation;
use crate::message::{Assignment, InputState, InputUpdate, Recovered};
use crate::metrics::AttemptMetrics;
use sluice_crds::ErrorReason;

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
        recovered: Recovered::default(),
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
        filters: Vec::new(),
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
        filters: Vec::new(),
        sort_joins: false,
        swapped_joins: Vec::new(),
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
        worker: Arc::new(worker()),
        state,
        filled_partitions: None,
    };
    Action::UpdateInputs {
        worker: worker(),
        updates: Arc::new(vec![update]),
        ranges: Vec::new(),
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
    let all: Vec<AttemptId> = (0..MAX_ATTEMPTS_PER_TASK)
        .map(|number| attempt(0, number))
        .collect();
    let mut audit = audit_after(&all);
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
fn attempts_beside_others_are_noticed() {
    let elsewhere = |id: AttemptId| match assign(id) {
        Action::AssignAttempt { assignment, .. } => Action::AssignAttempt {
            worker: WorkerId {
                name: "v".to_owned(),
                incarnation: Incarnation(1),
            },
            assignment,
        },
        other => other,
    };
    let begin = || {
        let mut audit = Audit::of(&random_graph(&mut SmallRng::seed_from_u64(0)), true);
        for name in ["w", "v"] {
            let worker = WorkerId {
                name: name.to_owned(),
                incarnation: Incarnation(1),
            };
            audit.on_event(&joined_as(worker.clone()));
            audit.on_event(&Event::SlotsGranted { worker, slots: 3 });
        }
        assert_eq!(audit.on_action(&assign(attempt(0, 0))), Ok(()));
        audit
    };
    complains(&mut begin(), &assign(attempt(0, 1)), "where its task runs");
    let mut audit = begin();
    assert_eq!(audit.on_action(&elsewhere(attempt(0, 1))), Ok(()), "a duplicate");
    complains(&mut audit, &elsewhere(attempt(0, 2)), "at work");
    audit.on_event(&succeeded(attempt(0, 0)));
    let complaint = audit.on_handled().expect_err("the duplicate goes on");
    assert!(complaint.contains("is at work though"), "{complaint}");
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
    let check_streams = |streams: &[(StreamId, Vec<u64>)]| {
        audit
            .on_input_read(&tasks, &taken(streams), false)
            .err()
            .unwrap_or_default()
    };
    assert_eq!(check_streams(&[(stream(0, 0), vec![1, 2])]), "");
    assert!(check_streams(&[(stream(0, 0), vec![1, 2]), (stream(1, 1), vec![3])]).contains("mixed"));
    assert!(check_streams(&[(stream(0, 0), vec![1])]).contains("other rows"));
    assert!(check_streams(&[(stream(2, 0), vec![1])]).contains("not won"));
    assert!(check_streams(&[]).contains("without the rows"));
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
