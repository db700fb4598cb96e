//! Tasks that take their workers along, and tasks that were only there when a worker went.

use super::fixture::{
    Query, assigned, attempt, chain, failed, failure, lost, map_reduce, policy, succeeded, worker,
};
use crate::coordinator::{Action, Event};
use crate::failure::{AttemptFailure, FetchError};
use crate::ids::{AttemptId, Incarnation, WorkerId};
use crate::message::Recovered;
use crate::time::Instant;
use sluice_crds::ErrorReason;

/// How a worker with an attempt goes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Goes {
    /// Its session breaks.
    Breaks,
    /// It says nothing any more.
    Silent,
    /// Its session breaks, and another start of it is there.
    Dies,
    /// Its session breaks, and it is there again as it was.
    Returns,
    /// It drains first.
    Drained,
    /// The attempt had ended there, without success.
    Idle,
}

fn start(name: &str, incarnation: u64) -> WorkerId {
    WorkerId {
        name: name.to_owned(),
        incarnation: Incarnation(incarnation),
    }
}

fn drop_next(query: &mut Query, goes: Goes, id: AttemptId) -> Vec<Action> {
    let name = format!("w{}", id.attempt);
    let begun = query.join(&name, 1);
    assert_eq!(assigned(&begun), [(name.clone(), id)], "{goes:?}");
    match goes {
        Goes::Breaks => query.lose(&name),
        Goes::Silent => {
            let until = query.now + 15_000;
            query.tick_at(until)
        }
        Goes::Dies => {
            query.lose(&name);
            let drained = Event::WorkerDrained {
                worker: start(&name, 2),
            };
            // The new start takes no work, so that the next worker has it.
            let mut all = query.handle(Event::WorkerJoined {
                worker: start(&name, 2),
                slots: 0,
                location: crate::locality::NodeLocation::default(),
                held: Vec::new(),
                recovered: Recovered::default(),
            });
            all.extend(query.run(drained));
            all
        }
        Goes::Returns => {
            query.lose(&name);
            query.handle(Event::WorkerJoined {
                worker: start(&name, 1),
                slots: 0,
                location: crate::locality::NodeLocation::default(),
                held: Vec::new(),
                recovered: Recovered::default(),
            })
        }
        Goes::Drained => {
            query.run(Event::WorkerDrained {
                worker: worker(&name),
            });
            query.lose(&name)
        }
        Goes::Idle => {
            let refused = AttemptFailure::Cancelled;
            query.fail(&name, id, refused);
            query.now += 250;
            query.run(Event::WorkerDrained {
                worker: worker(&name),
            });
            query.lose(&name)
        }
    }
}

#[test]
fn two_workers_that_are_lost_with_a_task_end_the_query() {
    use Goes::{Breaks, Dies, Drained, Idle, Returns, Silent};
    // How the workers go, and how long the query waits for the last of them; none where it goes on.
    let cases: &[(&[Goes], Option<u64>)] = &[
        (&[Breaks, Breaks], Some(15_000)),
        (&[Dies, Dies], Some(0)),
        (&[Dies, Breaks], Some(15_000)),
        (&[Silent, Breaks], Some(15_000)),
        (&[Breaks, Silent], Some(15_000)),
        (&[Breaks], None),
        (&[Dies], None),
        (&[Breaks, Returns], None),
        (&[Returns, Breaks], None),
        (&[Returns, Returns, Returns, Returns], None),
        (&[Drained, Drained, Drained], None),
        (&[Drained, Breaks, Drained], None),
        (&[Breaks, Idle], None),
        (&[Breaks, Drained, Idle, Breaks], Some(15_000)),
    ];
    for (ways, patience) in cases {
        let lenient = crate::coordinator::Policy {
            no_workers_grace: std::time::Duration::from_secs(3_600),
            ..policy()
        };
        let mut query = Query::new(chain(1), lenient);
        let mut last = Vec::new();
        for (number, goes) in (0..).zip(*ways) {
            last = drop_next(&mut query, *goes, attempt(0, 0, number));
        }
        let Some(patience) = patience else {
            let next = u32::try_from(ways.len()).expect("few");
            let begun = query.join("healthy", 1);
            assert_eq!(
                assigned(&begun),
                [("healthy".to_owned(), attempt(0, 0, next))],
                "{ways:?}"
            );
            continue;
        };
        if *patience > 0 {
            assert_eq!(
                last.iter()
                    .filter(|action| matches!(action, Action::EndQuery { .. }))
                    .count(),
                0
            );
            let deadline = query.now + patience;
            assert_eq!(query.machine.next_deadline(), Some(Instant(deadline)), "{ways:?}");
            assert_eq!(assigned(&query.join("healthy", 1)), [], "{ways:?}: it is held");
            query.now = deadline - 1;
            assert_eq!(
                query.run(Event::WorkerHeard {
                    worker: worker("healthy")
                }),
                []
            );
            last = query.tick_at(deadline);
        }
        let failure = failure(&last);
        assert_eq!(failure.reason, ErrorReason::PoisonTask, "{ways:?}");
        for word in ["s0.t0", "stage 0", "w0/i1", "2 times", "run the query again"] {
            assert!(failure.message.contains(word), "{word}: {}", failure.message);
        }
        assert_eq!(
            failure.attempt.map(|id| id.task_id()),
            Some(attempt(0, 0, 0).task_id())
        );
    }
}

#[test]
fn a_second_worker_that_is_back_lets_the_task_run() {
    let mut query = Query::new(chain(1), policy());
    query.join("a", 1);
    query.join("b", 1);
    assert_eq!(assigned(&query.lose("a")), [("b".to_owned(), attempt(0, 0, 1))]);
    assert_eq!(assigned(&query.lose("b")), []);
    assert_eq!(assigned(&query.join("c", 1)), [], "it is held");
    let back = query.join("b", 1);
    assert_eq!(assigned(&back).len(), 1, "{back:?}");
    // What one worker did is forgotten with the task's success.
    let (name, id) = assigned(&back).remove(0);
    query.succeed(&name, id);
}

#[test]
fn a_task_that_has_won_is_no_suspect() {
    let mut query = Query::new(chain(1), policy());
    query.join("a", 1);
    query.join("b", 1);
    query.lose("a");
    query.succeed("b", attempt(0, 0, 1));
    // Its output is lost; it runs again, and that worker goes too.
    assert_eq!(assigned(&query.lose("b")), []);
    assert_eq!(
        assigned(&query.join("c", 1)),
        [("c".to_owned(), attempt(0, 0, 2))]
    );
    query.lose("c");
    assert_eq!(
        assigned(&query.join("d", 1)),
        [("d".to_owned(), attempt(0, 0, 3))]
    );
}

#[test]
fn suspects_run_apart_and_others_run_beside_them() {
    let mut query = Query::new(map_reduce(6, 1), policy());
    query.join("a", 3);
    let three = query.lose("a");
    assert_eq!(assigned(&three), []);
    // t0, t1 and t2 were lost with it.
    let begun = assigned(&query.join("b", 3));
    let tasks: Vec<u32> = begun.iter().map(|(_, id)| id.task).collect();
    assert_eq!(tasks, [0, 3, 4]);
    let other = assigned(&query.join("c", 3));
    let tasks: Vec<u32> = other.iter().map(|(_, id)| id.task).collect();
    assert_eq!(tasks, [1, 5]);
    // The slot of one that ended takes no second suspect; that of the suspect does.
    assert_eq!(assigned(&query.succeed("b", attempt(0, 3, 0))), []);
    let next = assigned(&query.succeed("b", attempt(0, 0, 1)));
    assert_eq!(next, [("b".to_owned(), attempt(0, 2, 1))]);
}

#[test]
fn after_two_lost_workers_suspects_run_one_by_one() {
    let mut query = Query::new(map_reduce(4, 1), policy());
    query.join("a", 2);
    query.join("b", 2);
    query.lose("a");
    query.lose("b");
    let begun = assigned(&query.join("c", 4));
    assert_eq!(begun, [("c".to_owned(), attempt(0, 0, 1))]);
    assert_eq!(assigned(&query.join("d", 4)), []);
    // The next start of the query's third worker: the task that ran there alone is the one.
    query.lose("c");
    let failure = failure(&query.tick_at(15_000));
    assert_eq!(failure.reason, ErrorReason::PoisonTask);
    assert!(failure.message.contains("s0.t0"), "{}", failure.message);
}

#[test]
fn a_suspect_that_waits_for_an_input_keeps_nobody_from_making_it() {
    let mut query = Query::new(map_reduce(1, 2), policy());
    query.join("a", 2);
    query.succeed("a", attempt(0, 0, 0));
    // Both readers are lost with it, and the output.
    query.lose("a");
    query.join("b", 3);
    query.succeed("b", attempt(0, 0, 1));
    query.join("c", 3);
    let state = query.machine.snapshot(Instant(0));
    assert_eq!(state.stages[1].running, 2, "apart");
    // The output cannot be read: its writer runs beside a reader that waits for it.
    let failed = AttemptFailure::FetchFailed {
        map_attempt: attempt(0, 0, 1),
        error: FetchError::Corrupt,
    };
    let again = query.fail("b", attempt(1, 0, 1), failed);
    assert_eq!(
        assigned(&again).iter().map(|(_, id)| *id).collect::<Vec<_>>(),
        [attempt(0, 0, 2)]
    );
}

#[test]
fn a_cancelled_attempt_counts_until_its_end_is_told() {
    let mut query = Query::new(chain(1), policy());
    query.join("a", 1);
    query.join("b", 1);
    query.lose("a");
    // The attempt on `b` is at work when that one is lost; the failure that comes late changes nothing.
    query.run(lost("b"));
    query.fail("b", attempt(0, 0, 1), failed("late"));
    query.run(succeeded("b", attempt(0, 0, 1)));
    assert_eq!(assigned(&query.join("c", 1)), []);
}
