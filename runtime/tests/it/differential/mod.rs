//! What TPC-H does not cover: every case on plain DataFusion and on three workers of two slots, with one partition, with
//! five, and with thirteen of which tasks read several.

mod aggregates;
mod columns;
mod files;
mod joins;
mod nested;
mod rows;
mod sets;
mod subqueries;
pub mod tables;
mod windows;

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::harness::{AMPLE_MEMORY, Case, Division, Fleet, Ran, Tables, compare};

const DIVISIONS: [Division; 3] = [
    Division::Planned(1),
    Division::Planned(5),
    Division::Coalesced(13),
];

/// Joins.
const JOINS: &[&str] = &[
    "HashJoinExec",
    "SortMergeJoinExec",
    "NestedLoopJoinExec",
    "CrossJoinExec",
];
/// Operators that finish groups.
const GROUPS: &[&str] = &["AggregateExec: mode=Final", "AggregateExec: mode=Single"];
/// Window operators.
const WINDOWS: &[&str] = &["WindowAggExec", "BoundedWindowAggExec"];
/// Sorts.
const SORTS: &[&str] = &["SortExec"];
/// Table scans.
const SCANS: &[&str] = &["ScanExec"];
/// Readers of an exchange.
const READERS: &[&str] = &[];

/// Cases whose operators run in one task, by the reason.
type Alone<'a> = &'a [(&'a str, &'a [&'a str])];

/// Compares each (name, SQL) with plain DataFusion. With several partitions, one of these operators must run in several
/// tasks, except in the cases of `alone`: a case that runs in one task tests little.
async fn check(tables: &Tables, cases: &[(&str, &str)], operators: &[&str], alone: Alone<'_>) {
    check_cases(tables, &Case::all(cases), operators, alone).await;
}

async fn check_cases(tables: &Tables, cases: &[Case], operators: &[&str], alone: Alone<'_>) {
    let fleet = Fleet::start(3, 2, AMPLE_MEMORY).await;
    let ran = compare(&fleet, tables, cases, &DIVISIONS).await;
    fleet.stop().await;
    let alone: BTreeSet<&str> = alone.iter().flat_map(|(_, names)| *names).copied().collect();
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert!(alone.is_subset(&names), "no such cases: {:?}", &alone - &names);
    let coalesced: usize = ran.iter().map(Ran::coalesced_stages).sum();
    let meets = operators == JOINS || operators == GROUPS || operators == WINDOWS;
    assert!(coalesced > 0 || !meets, "no case coalesced partitions");
    let several = ran.iter().skip(1).step_by(DIVISIONS.len());
    let mut wrong = String::new();
    for (case, ran) in cases.iter().zip(several) {
        let tasks = most_tasks(ran, operators);
        if tasks < 2 && !alone.contains(case.name.as_str()) {
            let _infallible = writeln!(wrong, "{}: {tasks} tasks\n{}", case.name, ran.explained);
        }
    }
    assert!(wrong.is_empty(), "not spread as the cases say:\n{wrong}");
}

/// The most tasks of any stage that has one of these operators, or that reads an exchange.
fn most_tasks(ran: &Ran, operators: &[&str]) -> u32 {
    let mut stages = ran.snapshot.stages.iter();
    let (mut tasks, mut most) = (0, 0);
    for line in ran.explained.lines() {
        if line.starts_with("stage ") {
            tasks = stages.next().map_or(0, |stage| stage.done);
        }
        let does = match line.strip_prefix("  | ") {
            Some(operator) => operators
                .iter()
                .any(|known| operator.trim_start().starts_with(known)),
            None => operators.is_empty() && line.starts_with("  input "),
        };
        if does {
            most = most.max(tasks);
        }
    }
    most
}
