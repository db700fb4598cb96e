//! The session in which queries are planned, and the context in which tasks run.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::config::ConfigOptions;
use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::optimizer::{Optimizer, OptimizerRule};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::prelude::SessionConfig;

use super::aggregate_input::EliminateGroupKeys;
use super::broadcast::{BroadcastLimit, BroadcastSmallBuilds};
use super::correlated::KeysAsColumns;
use super::empty_unions::PropagateEmpty;
use super::error::PlanError;
use super::filters::PushFilters;
use super::limited_aggregates::LimitAggregates;
use super::null_safe::{ExtractJoinKeys, OrderInnerJoins};
use super::opaque::EnsureKnownRequirements;
use super::rules::{PartitionUnsafeJoins, SplitScans};
use super::runtime_filters::RuntimeFilterPolicy;
use super::series::ReadSeriesColumns;
use super::sort_merge::{HashJoinLimit, PushProjections, SortMergeLargeBuilds};
use super::split::SplitTarget;
use super::task_filters::TASK_FILTERS;
use super::values::CheckValues;
use crate::functions::FUNCTIONS;

/// The option that sets those of [`TASK_FILTERS`].
const ALL_TASK_FILTERS: &str = "datafusion.optimizer.enable_dynamic_filter_pushdown";

/// What must hold in every session, on the planning side and in tasks. An optimisation that shares state
/// between operators in one process does not survive a cut; one that adds partitions of its own fights with
/// the splits.
const FIXED: &[(&str, &str)] = &[
    // A filter that a join or a sort fills while it runs would stay empty on the other side of a cut: tasks make them.
    (ALL_TASK_FILTERS, "false"),
    (TASK_FILTERS[0], "false"),
    (TASK_FILTERS[1], "false"),
    (
        "datafusion.optimizer.enable_aggregate_dynamic_filter_pushdown",
        "false",
    ),
    // Scalar subqueries become joins: the physical form hands its value over in process memory.
    (
        "datafusion.optimizer.enable_physical_uncorrelated_scalar_subquery",
        "false",
    ),
    // Splits decide the parallelism of scans.
    ("datafusion.optimizer.enable_round_robin_repartition", "false"),
    ("datafusion.optimizer.repartition_file_scans", "false"),
    ("datafusion.execution.enable_file_stream_work_stealing", "false"),
    // A split holds files in no order that a sort may rely on.
    ("datafusion.optimizer.enable_sort_pushdown", "false"),
    ("datafusion.execution.split_file_groups_by_statistics", "false"),
    ("datafusion.optimizer.preserve_file_partitions", "0"),
    // Operators that datafusion-proto does not encode.
    ("datafusion.optimizer.enable_window_topn", "false"),
    ("datafusion.optimizer.enable_piecewise_merge_join", "false"),
    (
        "datafusion.optimizer.allow_symmetric_joins_without_pruning",
        "false",
    ),
    ("datafusion.execution.hash_join_buffering_capacity", "0"),
    // A rule that fails is an error of the query, never a silent other plan.
    ("datafusion.optimizer.skip_failed_rules", "false"),
    // Sources come from the query's tables alone.
    ("datafusion.catalog.information_schema", "false"),
    // Where a name stands in the text, for messages.
    ("datafusion.sql_parser.collect_spans", "true"),
];

/// The names of the tables that a query declares, for messages: an extension of the session's configuration. Those that
/// the SQL does not read need not be registered.
#[derive(Debug)]
pub struct DeclaredTables(pub Vec<String>);

/// The deepest nesting of parentheses, operators and subqueries that the SQL parser follows.
pub(crate) const RECURSION_LIMIT: usize = 50;

/// The session configuration for a query whose exchanges have `partitions` partitions (at least 1). Values set
/// on it afterwards travel to the tasks with each fragment. An extension of type [`SplitTarget`] replaces the sizes
/// by which scans are divided, one of type [`BroadcastLimit`] the bound of build sides that every task gets, one of type
/// [`HashJoinLimit`] the bound of build sides from which on joins sort, one of type [`SharedMerge`](super::cut::order::SharedMerge) the bound from which on tasks share the merge of ordered rows.
pub fn session_options(partitions: usize) -> SessionConfig {
    let mut options = ConfigOptions::new();
    for (key, value) in FIXED {
        let set = options.set(key, value);
        debug_assert!(set.is_ok(), "{key} is no option of this DataFusion: {set:?}");
    }
    options.execution.target_partitions = partitions.max(1);
    options.execution.planning_concurrency = 2;
    SessionConfig::from(options).with_extension(Arc::new(SplitTarget::new(partitions)))
}

/// A session that plans queries for [`super::cut`]: DataFusion's functions and rules, plus ours. Register the
/// query's tables on it.
pub fn session_state(config: SessionConfig, runtime: Arc<RuntimeEnv>) -> SessionState {
    let target = config
        .get_extension::<SplitTarget>()
        .map_or_else(|| SplitTarget::new(config.target_partitions()), |target| *target);
    let mut rules = PhysicalOptimizer::new().rules;
    rules.insert(0, Arc::new(SplitScans::new(target, Arc::clone(&runtime))));
    let after_join_selection = rules
        .iter()
        .position(|rule| rule.name() == "join_selection")
        .map_or(1, |at| at + 1);
    let limit = config
        .get_extension::<BroadcastLimit>()
        .map_or_else(|| BroadcastLimit::of_slots(None), |limit| *limit);
    let builds = config
        .get_extension::<HashJoinLimit>()
        .map_or_else(|| HashJoinLimit::of_slots(None), |limit| *limit);
    let joins: [Arc<dyn PhysicalOptimizerRule + Send + Sync>; 3] = [
        Arc::new(PartitionUnsafeJoins),
        Arc::new(BroadcastSmallBuilds::new(limit)),
        Arc::new(SortMergeLargeBuilds::new(builds)),
    ];
    rules.splice(after_join_selection..after_join_selection, joins);
    let ours: [Arc<dyn PhysicalOptimizerRule + Send + Sync>; 3] = [
        Arc::new(PushProjections),
        Arc::new(EnsureKnownRequirements),
        Arc::new(LimitAggregates),
    ];
    for rule in &mut rules {
        if let Some(own) = ours.iter().find(|own| own.name() == rule.name()) {
            *rule = Arc::clone(own);
        }
    }
    rules.push(Arc::new(ReadSeriesColumns));
    let mut state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_optimizer_rules(logical_rules())
        .with_physical_optimizer_rules(rules)
        .with_analyzer_rule(Arc::new(CheckValues))
        .with_analyzer_rule(Arc::new(KeysAsColumns))
        .build();
    // The type TIMESTAMP WITH TIME ZONE loses its zone without this. Functions have been made by now: those that make timestamps
    // of texts and numbers make them without a zone.
    state.config_mut().options_mut().execution.time_zone = Some("+00:00".to_owned());
    state
}

/// DataFusion's rules for logical plans, with ours in the places of those that give other rows.
fn logical_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let mut rules = Optimizer::new().rules;
    let ours: [Arc<dyn OptimizerRule + Send + Sync>; 5] = [
        Arc::new(PropagateEmpty::default()),
        Arc::new(EliminateGroupKeys::default()),
        Arc::new(PushFilters::default()),
        Arc::new(OrderInnerJoins::default()),
        Arc::new(ExtractJoinKeys::default()),
    ];
    for rule in ours {
        let place = rules.iter_mut().find(|theirs| theirs.name() == rule.name());
        debug_assert!(place.is_some(), "DataFusion has no rule {}", rule.name());
        if let Some(place) = place {
            *place = rule;
        }
    }
    rules
}

/// The options that travel with a fragment: those that differ from DataFusion's defaults, by key. Where runtime filters are
/// wanted, those that forbid operators of a task to fill filters stay behind.
pub(crate) fn travelling_options(config: &SessionConfig) -> BTreeMap<String, String> {
    let defaults: BTreeMap<String, Option<String>> = ConfigOptions::new()
        .entries()
        .into_iter()
        .map(|entry| (entry.key, entry.value))
        .collect();
    let policy = config.get_extension::<RuntimeFilterPolicy>();
    let enabled = policy.is_some_and(|policy| policy.enabled);
    let stays = |key: &str| enabled && (TASK_FILTERS.contains(&key) || key == ALL_TASK_FILTERS);
    config
        .options()
        .entries()
        .into_iter()
        .filter(|entry| !stays(&entry.key))
        .filter(|entry| defaults.get(&entry.key) != Some(&entry.value))
        .filter_map(|entry| Some((entry.key, entry.value?)))
        .collect()
}

/// The context in which a task of a fragment runs: its session options with one partition, the built-in
/// functions and the worker's runtime (memory pool, disk, object stores). `task` names it in logs.
///
/// # Errors
/// [`PlanError::Fragment`] for an option that this build does not know.
pub fn task_context(
    options: &BTreeMap<String, String>,
    task: &str,
    runtime: Arc<RuntimeEnv>,
) -> Result<Arc<TaskContext>, PlanError> {
    let mut config = ConfigOptions::new();
    for (key, value) in options {
        config
            .set(key, value)
            .map_err(|error| PlanError::fragment("session options", error))?;
    }
    config.execution.target_partitions = 1;
    config.execution.planning_concurrency = 1;
    Ok(Arc::new(TaskContext::new(
        Some(task.to_owned()),
        task.to_owned(),
        SessionConfig::from(config),
        FUNCTIONS.scalar_functions().clone(),
        FUNCTIONS.higher_order_functions().clone(),
        FUNCTIONS.aggregate_functions().clone(),
        FUNCTIONS.window_functions().clone(),
        runtime,
    )))
}
