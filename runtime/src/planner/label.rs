//! What a stage does, in a few words, and which tables it reads.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::physical_plan::ExecutionPlan;

use super::cut::operator;
use super::scan::{ScanExec, file_config};

/// The longest label, in characters.
const MAX_CHARS: usize = 80;

/// What a fragment does, in the order in which its rows pass: `scan lineitem, join, aggregate`.
pub(crate) fn label(plan: &Arc<dyn ExecutionPlan>) -> String {
    let mut words = Vec::new();
    collect(plan, &mut words);
    if words.is_empty() {
        words.push("forward".to_owned());
    }
    let label = words.join(", ");
    if label.chars().count() <= MAX_CHARS {
        return label;
    }
    let short: String = label.chars().take(MAX_CHARS - 1).collect();
    format!("{short}…")
}

/// The names of the tables that a fragment scans with the leaves that `counts` answers for.
pub(crate) fn tables(plan: &Arc<dyn ExecutionPlan>, counts: &impl Fn(u32) -> bool) -> BTreeSet<String> {
    let children = plan.children().into_iter();
    let mut names: BTreeSet<String> = children.flat_map(|child| tables(child, counts)).collect();
    let scan = plan.downcast_ref::<ScanExec>().filter(|scan| counts(scan.leaf()));
    names.extend(scan.and_then(ScanExec::table).map(str::to_owned));
    names
}

fn collect(plan: &Arc<dyn ExecutionPlan>, words: &mut Vec<String>) {
    for child in plan.children() {
        collect(child, words);
    }
    let word = match operator(plan) {
        "ScanExec" => plan
            .downcast_ref::<ScanExec>()
            .map_or_else(|| "scan".to_owned(), scan),
        "DataSourceExec" | "PlaceholderRowExec" => "values".to_owned(),
        "LazyMemoryExec" => "series".to_owned(),
        "AggregateExec" => "aggregate".to_owned(),
        "SortExec" | "PartialSortExec" => "sort".to_owned(),
        "SortPreservingMergeExec" => "merge".to_owned(),
        "HashJoinExec" | "SortMergeJoinExec" | "NestedLoopJoinExec" | "CrossJoinExec" => "join".to_owned(),
        "BoundedWindowAggExec" | "WindowAggExec" => "window".to_owned(),
        "GlobalLimitExec" | "LocalLimitExec" => "limit".to_owned(),
        "UnnestExec" => "unnest".to_owned(),
        "UnionExec" => "union".to_owned(),
        "RecursiveQueryExec" => "recursion".to_owned(),
        _ => return,
    };
    if words.last() != Some(&word) {
        words.push(word);
    }
}

fn scan(scan: &ScanExec) -> String {
    match scan.table() {
        Some(table) => format!("scan {table}"),
        None => match file_config(scan.source()) {
            Some(config) => format!("scan {}", config.file_source().file_type()),
            None => "scan".to_owned(),
        },
    }
}
