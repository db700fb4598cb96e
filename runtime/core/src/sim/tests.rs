//! Seeds that pass, and the proof that the checks can fail.

mod audit;

use std::collections::BTreeSet;

use super::audit::check_nothing_follows;
use super::defects::Defect;
use super::plan::{Plan, Scenario};
use super::world::{Run, World};
use crate::coordinator::{Action, Outcome};
use sluice_crds::ErrorReason;

/// Seeds that every test run tries.
const SEEDS: u64 = 600;
/// Seeds of each scenario that has an end of its own.
const SEEDS_OF_ENDS: u64 = 200;

fn run(scenario: Scenario, seed: u64, defect: Defect, trace: bool) -> Result<Run, String> {
    let (mut plan, rng) = Plan::new(seed, scenario);
    plan.inject(defect);
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
        match run(scenario, seed, Defect::None, false) {
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
    assert_often(
        &runs,
        15,
        "coalesced partitions, lost work and succeeded",
        |run| succeeded(run) && run.coalesced_stages > 0 && run.lost_attempts > 0,
    );
    assert_often(&runs, 3, "split partitions, lost work and succeeded", |run| {
        succeeded(run) && run.split_stages > 0 && run.lost_attempts > 0
    });
    assert_often(&runs, 3, "had an attempt that stood still and succeeded", |run| {
        succeeded(run) && run.hung > 0
    });
    assert_often(
        &runs,
        1,
        "made what was read and dropped again and succeeded",
        |run| succeeded(run) && run.ran_again > 0,
    );
    assert_often(
        &runs,
        3,
        "sorted what did not fit, lost work and succeeded",
        |run| succeeded(run) && run.sorted_tasks > 0 && run.lost_attempts > 0,
    );
    assert_often(
        &runs,
        10,
        "read most of an input where it lay, lost work and succeeded",
        |run| succeeded(run) && run.at_preferred_worker > 0 && run.lost_attempts > 0,
    );
    assert_often(&runs, 3, "did not run what reads nothing, and succeeded", |run| {
        succeeded(run) && run.skipped > 0
    });
    // Two workers that go for other reasons may have run the same task, the more so the fewer tasks there are.
    assert_often(&runs, 96, "did not end for a task that is innocent", |run| {
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
fn sim_seeds_that_lose_their_coordinators() {
    let runs = honest_runs(Scenario::Recovery, SEEDS);
    assert_often(&runs, 80, "succeeded", |run| run.outcome == Outcome::Succeeded);
    assert_often(&runs, 30, "took outputs over and succeeded", |run| {
        run.outcome == Outcome::Succeeded && run.recovered > 0
    });
    assert_often(
        &runs,
        10,
        "took outputs over, coalesced partitions and succeeded",
        |run| run.outcome == Outcome::Succeeded && run.recovered > 0 && run.coalesced_stages > 0,
    );
    assert_often(&runs, 1, "could not use outputs and succeeded", |run| {
        run.outcome == Outcome::Succeeded && run.discarded > 0
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

#[test]
fn sim_seeds_with_a_limit() {
    let runs = honest_runs(Scenario::Limit, SEEDS);
    let succeeded = |run: &Run| run.outcome == Outcome::Succeeded;
    assert_often(&runs, 80, "succeeded", succeeded);
    assert_often(&runs, 30, "succeeded without all of their tasks", |run| {
        succeeded(run) && run.skipped > 0
    });
    assert_often(
        &runs,
        5,
        "lost work and succeeded without all of their tasks",
        |run| succeeded(run) && run.lost_attempts > 0 && run.skipped > 0,
    );
}

#[test]
fn sim_seeds_with_joins_that_change() {
    let runs = honest_runs(Scenario::Join, SEEDS);
    let succeeded = |run: &Run| run.outcome == Outcome::Succeeded;
    assert_often(&runs, 80, "succeeded", succeeded);
    assert_often(&runs, 10, "read small inputs whole and succeeded", |run| {
        succeeded(run) && run.broadcast_tasks > 0
    });
    assert_often(
        &runs,
        2,
        "read small inputs whole, lost work and succeeded",
        |run| succeeded(run) && run.broadcast_tasks > 0 && run.lost_attempts > 0,
    );
    assert_often(&runs, 10, "swapped the sides of a join and succeeded", |run| {
        succeeded(run) && run.swapped_joins > 0
    });
}

#[test]
fn sim_seeds_with_a_slow_worker() {
    let runs = honest_runs(Scenario::Slow, SEEDS);
    let succeeded = |run: &Run| run.outcome == Outcome::Succeeded;
    assert_often(&runs, 80, "succeeded", succeeded);
    assert_often(&runs, 30, "had a duplicate that won and succeeded", |run| {
        succeeded(run) && run.duplicates_won > 0
    });
    assert_often(&runs, 20, "had a duplicate in vain and succeeded", |run| {
        succeeded(run) && run.duplicates_wasted > 0
    });
    assert_often(
        &runs,
        10,
        "had a duplicate that won, lost work and succeeded",
        |run| succeeded(run) && run.duplicates_won > 0 && run.lost_attempts > 0,
    );
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
    let run = run(scenario, seed, Defect::None, trace).expect("the rules hold");
    println!("{:?} after {} steps", run.outcome, run.steps);
    assert!(is_plausible(scenario, &run.outcome), "{:?}", run.outcome);
}

/// Asserts that some defective run is complained of in these words.
fn assert_noticed(scenario: Scenario, defect: Defect, words: &str) {
    let mut complaints = (0..SEEDS).filter_map(|seed| run(scenario, seed, defect, false).err());
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
    assert_noticed(Scenario::Any, Defect::DropSuccess, "has not ended");
}

#[test]
fn a_task_that_goes_on_killing_workers_is_noticed() {
    assert_noticed(Scenario::Poison, Defect::ReportAllDrained, "one task has killed");
}

#[test]
fn a_repeated_row_is_noticed() {
    assert_noticed(Scenario::Any, Defect::RepeatRow, "twice");
}

#[test]
fn lost_rows_are_noticed() {
    assert_noticed(Scenario::Any, Defect::LoseChunk, "other rows");
}

#[test]
fn rows_of_other_ranges_are_noticed() {
    assert_noticed(Scenario::Any, Defect::KeepForeignRows, "twice");
}

#[test]
fn a_partition_that_no_task_reads_is_noticed() {
    assert_noticed(Scenario::Any, Defect::SkipPartition, "0 twice");
    assert_noticed(Scenario::Any, Defect::AssignTooFew, "of input 0 0 times");
}

#[test]
fn a_map_task_that_no_shard_reads_is_noticed() {
    assert_noticed(Scenario::Any, Defect::SkipMapTask, "of input 0 0 times");
}

#[test]
fn an_input_of_a_join_that_is_read_in_part_is_noticed() {
    assert_noticed(Scenario::Join, Defect::ReadPartOfWhole, "of input 0 0 times");
    assert_noticed(Scenario::Join, Defect::SkipMapTask, "missing");
}

#[test]
fn tasks_that_swap_other_joins_than_their_stage_are_noticed() {
    assert_noticed(Scenario::Join, Defect::SwapInSome, "swaps other joins");
}

#[test]
fn a_partition_whose_bytes_are_not_told_of_is_noticed() {
    assert_noticed(Scenario::Any, Defect::DropFilledPartition, "other rows");
}

#[test]
fn an_output_that_a_worker_does_not_know_is_noticed() {
    assert_noticed(Scenario::Any, Defect::DropUpdate, "without knowing");
}

#[test]
fn an_output_of_which_a_worker_is_told_again_is_noticed() {
    assert_noticed(Scenario::Any, Defect::RepeatUpdate, "was told of");
}

#[test]
fn a_worker_that_goes_on_with_an_output_that_was_lost_is_noticed() {
    assert_noticed(Scenario::Any, Defect::KeepFirstUpdate, "the result has");
}

#[test]
fn a_partition_that_two_tasks_read_is_noticed() {
    assert_noticed(Scenario::Any, Defect::ReadPartitionTwice, "0 missing");
}

#[test]
fn a_filter_that_lacks_keys_is_noticed() {
    assert_noticed(Scenario::Any, Defect::DropKeys, "missing");
}

#[test]
fn rows_that_are_taken_for_none_are_noticed() {
    assert_noticed(Scenario::Any, Defect::ReportNoRows, "missing");
}

#[test]
fn a_join_that_is_never_sorted_is_noticed() {
    assert_noticed(Scenario::Any, Defect::NeverSort, "nothing went wrong, but");
}

#[test]
fn rows_of_two_runs_of_a_stage_are_noticed() {
    assert_noticed(Scenario::Any, Defect::HideIndeterminacy, "the result has");
}

#[test]
fn outputs_that_a_successor_takes_over_wrongly_are_noticed() {
    assert_noticed(Scenario::Recovery, Defect::HideIndeterminacy, "the result has");
    assert_noticed(Scenario::Recovery, Defect::NumberAgain, "was used before");
    assert_noticed(Scenario::Recovery, Defect::RelabelOutputs, "the result has");
}

#[test]
fn an_output_that_is_kept_for_nobody_is_noticed() {
    assert_noticed(Scenario::Any, Defect::KeepOutputs, "was read and is kept");
}

#[test]
fn a_loser_that_is_not_cancelled_is_noticed() {
    assert_noticed(Scenario::Slow, Defect::NeverCancel, "is at work though");
}

#[test]
fn a_loser_that_readers_are_told_of_is_noticed() {
    assert_noticed(Scenario::Slow, Defect::TellLoser, "without success");
}

#[test]
fn a_limit_with_too_few_rows_is_noticed() {
    assert_noticed(Scenario::Limit, Defect::HalfLimit, "a limit got");
}

#[test]
fn rows_of_two_runs_of_a_limit_are_noticed() {
    assert_noticed(Scenario::Limit, Defect::HideIndeterminacy, "the result has");
}

#[test]
fn a_client_that_hands_rows_out_twice_is_noticed() {
    assert_noticed(Scenario::Client, Defect::DeliverAgain, "twice");
}

#[test]
fn a_client_that_gives_up_for_rows_of_another_attempt_is_noticed() {
    assert_noticed(Scenario::Client, Defect::FailForAnyRow, "had left");
}

#[test]
fn a_calm_query_that_fails_is_noticed() {
    assert_noticed(Scenario::Any, Defect::FailAttempts, "nothing went wrong, but");
}

#[test]
fn a_sink_that_shows_files_of_a_failed_query_is_noticed() {
    assert_noticed(Scenario::Any, Defect::KeepFiles, "the sink shows files");
}

#[test]
fn an_attempt_that_a_worker_has_no_slot_for_is_noticed() {
    assert_noticed(Scenario::Any, Defect::GrantTwice, "where the query has no slot");
}

#[test]
fn a_wish_to_be_woken_after_the_end_is_noticed() {
    assert_noticed(Scenario::Any, Defect::EndEarly, "still wants to be woken");
}

#[test]
fn words_after_the_end_are_noticed() {
    assert_eq!(check_nothing_follows(None, &[]), Ok(()));
    let complaint = check_nothing_follows(None, &[Action::AbortSink]).expect_err("an action");
    assert!(complaint.contains("after the query's end"), "{complaint}");
}

#[test]
fn deadlines_that_do_not_end_a_query_in_time_are_noticed() {
    assert_noticed(Scenario::Deadline, Defect::LongTimeouts, "has not ended");
    assert_noticed(Scenario::Deadline, Defect::ShortTimeouts, "counted as exceeded");
}

#[test]
fn workers_that_are_waited_for_too_long_or_too_shortly_are_noticed() {
    assert_noticed(Scenario::Abandoned, Defect::LongTimeouts, "has not ended");
    assert_noticed(Scenario::Abandoned, Defect::ShortTimeouts, "gave up");
}
