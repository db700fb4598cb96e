//! What TPC-H does not ask for: every case on plain DataFusion and on three workers of two slots, with one partition
//! and with five.

mod aggregates;
mod columns;
mod files;
mod joins;
mod nested;
mod rows;
mod sets;
mod subqueries;
mod tables;
mod windows;

use crate::harness::{AMPLE_MEMORY, Case, Fleet, Ran, Tables, compare};

const PARTITIONS: [Option<u32>; 2] = [Some(1), Some(5)];

/// Compares each (name, SQL) with plain DataFusion.
async fn check(tables: &Tables, cases: &[(&str, &str)]) -> Vec<Ran> {
    let fleet = Fleet::start(3, 2, AMPLE_MEMORY).await;
    let ran = compare(&fleet, tables, &Case::all(cases), &PARTITIONS).await;
    fleet.stop().await;
    ran
}

/// The number of tasks of the stage with the most.
fn most_tasks(ran: &Ran) -> u32 {
    ran.snapshot
        .stages
        .iter()
        .map(|stage| stage.tasks)
        .max()
        .unwrap_or(0)
}
