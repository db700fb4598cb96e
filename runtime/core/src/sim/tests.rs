//! Seeds that pass, and the proof that the checks can fail.

use super::plan::{Plan, Sabotage};
use super::world::{Run, World};
use crate::coordinator::Outcome;
use sluice_crds::ErrorReason;

/// Seeds that every test run tries.
const SEEDS: u64 = 400;

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
