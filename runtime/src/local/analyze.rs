//! `--explain-analyze`: the plan of a query, and beside each stage how it ran.

use std::time::Duration;

use indicatif::{HumanBytes, HumanCount};
use sluice_crds::shuffle_query::status::{ShuffleQueryStatus, StageStatus};

use crate::planner::ExplainedQuery;

/// The smallest class of the histogram of partitions, bytes. Each next one has four times as many.
const SMALLEST_CLASS: u64 = 64 << 10;

/// The text for a query that ended with this status.
pub fn analyzed(plan: &ExplainedQuery, status: &ShuffleQueryStatus) -> String {
    let mut text = String::new();
    for (id, stage) in &plan.stages {
        text.push_str(stage);
        match status.stages.iter().find(|ran| ran.id == *id) {
            Some(ran) => lines(ran)
                .iter()
                .for_each(|line| text.push_str(&format!("  ran: {line}\n"))),
            None => text.push_str("  ran: it is not in the status, which keeps the largest stages\n"),
        }
    }
    text.push_str(&plan.rest);
    text.push_str(&total(status));
    text
}

/// How a stage ran.
fn lines(stage: &StageStatus) -> Vec<String> {
    let mut lines = vec![format!(
        "{}, {} of {} tasks, {} rows ({}) in, {} rows ({}) out",
        seconds(stage.elapsed_millis),
        stage.tasks_done,
        stage.tasks_planned,
        HumanCount(stage.rows_read),
        HumanBytes(stage.bytes_read),
        HumanCount(stage.rows_out),
        HumanBytes(stage.bytes_out),
    )];
    lines.extend(problems(stage));
    lines.extend(layout(stage));
    lines.extend(joins(stage));
    lines.extend(locality(stage));
    lines.extend(speculation(stage));
    if let Some(filters) = &stage.filters {
        let mut text = Vec::new();
        if filters.made > 0 {
            text.push(format!("{} made", filters.made));
        }
        if filters.used + filters.missed > 0 {
            text.push(format!(
                "{} used, {} not there in time",
                filters.used, filters.missed
            ));
            text.push(format!("{} rows left out", HumanCount(filters.rows_filtered)));
            text.push(format!("waited {}", seconds(filters.waited_ms)));
        }
        lines.push(format!("runtime filters: {}", text.join(", ")));
    }
    let firsts = [
        ("first bytes", stage.first_chunk_ms),
        ("first row", stage.first_reduce_row_ms),
    ];
    let firsts = firsts
        .iter()
        .filter_map(|(what, millis)| Some(format!("{what} after {}", seconds((*millis)?))));
    let firsts: Vec<_> = firsts.collect();
    if !firsts.is_empty() {
        lines.push(firsts.join(", "));
    }
    lines
}

/// What it cost beyond its work.
fn problems(stage: &StageStatus) -> Option<String> {
    let counts = [
        (stage.tasks_skipped, "tasks not needed"),
        (stage.attempts_failed, "attempts failed"),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let mut text: Vec<_> = counts.map(|(count, what)| format!("{count} {what}")).collect();
    if stage.bytes_spilled > 0 {
        text.push(format!("{} spilled", HumanBytes(stage.bytes_spilled)));
    }
    if stage.backpressure_events > 0 {
        text.push(format!(
            "rows waited for room {} times",
            stage.backpressure_events
        ));
    }
    (!text.is_empty()).then(|| text.join(", "))
}

/// How its inputs were divided.
fn layout(stage: &StageStatus) -> Option<String> {
    if stage.planned_reduce_tasks == 0 || stage.adaptive_reduce_tasks == 0 {
        return None;
    }
    let mut text = format!(
        "layout: {} tasks of {} planned",
        stage.adaptive_reduce_tasks, stage.planned_reduce_tasks
    );
    if stage.adaptive_target_bytes > 0 {
        text.push_str(&format!(
            ", at most {} each",
            HumanBytes(stage.adaptive_target_bytes)
        ));
    }
    if stage.skew_split_tasks > 0 {
        text.push_str(&format!(
            ", {} of them share hot partitions",
            stage.skew_split_tasks
        ));
    }
    let classes = stage.partition_bytes_histogram.iter().zip(0u32..);
    for (partitions, class) in classes.filter(|(partitions, _)| **partitions > 0) {
        let below = SMALLEST_CLASS.saturating_mul(4u64.saturating_pow(class));
        text.push_str(&format!("; {partitions} partitions below {}", HumanBytes(below)));
    }
    Some(text)
}

/// Which joins were done in another way than planned.
fn joins(stage: &StageStatus) -> Option<String> {
    let switches = stage.join_switches?;
    let counts = [
        (switches.swapped_joins, "with their sides swapped"),
        (switches.broadcast_tasks, "tasks read the small inputs whole"),
        (switches.sorted_tasks, "tasks sorted for want of memory"),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let text: Vec<_> = counts.map(|(count, what)| format!("{count} {what}")).collect();
    Some(format!("joins: {}", text.join(", ")))
}

/// What duplicates of slow attempts did.
fn speculation(stage: &StageStatus) -> Option<String> {
    let counts = stage.speculation?;
    Some(format!(
        "speculation: {} duplicates of slow attempts, {} won, {} wasted ({})",
        counts.launched,
        counts.won,
        counts.wasted,
        seconds(counts.wasted_ms),
    ))
}

/// Where attempts ran that had a reason to run somewhere.
fn locality(stage: &StageStatus) -> Option<String> {
    let counts = stage.locality?;
    let levels = [
        (counts.worker, "at the worker of most of their input"),
        (
            counts.same_files,
            "at the worker that reads these files in every query",
        ),
        (counts.node, "on a node with their data"),
        (counts.zone, "in a zone with their data"),
        (
            counts.near_workers_busy,
            "elsewhere, as workers near it were busy",
        ),
        (counts.no_worker_near, "elsewhere, as none was near it"),
    ];
    let levels = levels.iter().filter(|(count, _)| *count > 0);
    let text: Vec<_> = levels.map(|(count, at)| format!("{count} {at}")).collect();
    Some(format!("attempts: {}", text.join(", ")))
}

fn total(status: &ShuffleQueryStatus) -> String {
    let after = |millis: Option<u64>| millis.map_or_else(|| "-".to_owned(), seconds);
    format!(
        "query: {}, first row after {}, {} rows, {} shuffled, {} spilled\n",
        after(status.duration_millis),
        after(status.time_to_first_row_millis),
        HumanCount(status.totals.rows_written),
        HumanBytes(status.totals.bytes_shuffled),
        HumanBytes(status.totals.bytes_spilled),
    )
}

fn seconds(millis: u64) -> String {
    format!("{:.2} s", Duration::from_millis(millis).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use sluice_crds::shuffle_query::status::{
        SpeculationCounts, StageFilters, StageJoinSwitches, StageLocality, StageState,
    };

    use super::*;

    fn stage(id: u32) -> StageStatus {
        let bare = serde_json::json!({"id": id, "label": "scan", "state": StageState::Done});
        serde_json::from_value(bare).expect("a stage")
    }

    #[test]
    fn every_stage_says_how_it_ran() {
        let plan = ExplainedQuery {
            stages: vec![
                (0, "stage s0\n".to_owned()),
                (1, "stage s1\n".to_owned()),
                (2, "stage s2\n".to_owned()),
            ],
            rest: "result\n".to_owned(),
        };
        let mut status = ShuffleQueryStatus {
            duration_millis: Some(2_340),
            stages: vec![
                StageStatus {
                    elapsed_millis: 1_500,
                    tasks_planned: 4,
                    tasks_done: 3,
                    tasks_skipped: 1,
                    rows_read: 1_000,
                    bytes_read: 2_048,
                    rows_out: 10,
                    bytes_out: 100,
                    bytes_spilled: 4_096,
                    filters: Some(StageFilters {
                        used: 1,
                        rows_filtered: 990,
                        waited_ms: 20,
                        ..StageFilters::default()
                    }),
                    ..stage(0)
                },
                StageStatus {
                    planned_reduce_tasks: 8,
                    adaptive_reduce_tasks: 2,
                    adaptive_target_bytes: 128 << 20,
                    partition_bytes_histogram: vec![7, 0, 1],
                    join_switches: Some(StageJoinSwitches {
                        sorted_tasks: 0,
                        swapped_joins: 1,
                        broadcast_tasks: 2,
                    }),
                    locality: Some(StageLocality {
                        asked: 2,
                        worker: 1,
                        near_workers_busy: 1,
                        same_files: 3,
                        ..StageLocality::default()
                    }),
                    speculation: Some(SpeculationCounts {
                        launched: 3,
                        won: 2,
                        wasted: 1,
                        wasted_ms: 450,
                    }),
                    first_chunk_ms: Some(5),
                    ..stage(1)
                },
            ],
            ..ShuffleQueryStatus::default()
        };
        status.totals.rows_written = 10;
        insta::assert_snapshot!("analyzed", analyzed(&plan, &status));
    }
}
