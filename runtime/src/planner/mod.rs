//! Planning: SQL becomes stages.
//!
//! DataFusion makes a physical plan; [`cut`] divides it at its exchanges into stages; each stage's plan is
//! encoded as a [`Fragment`], and [`decode_task`] makes a fresh plan of it for each attempt of a task.
//!
//! ```text
//! SQL -> statement -> DataFusion (with our rules) -> cut -> Fragment -> decode_task -> partition 0
//! ```

mod aggregate_input;
mod broadcast;
mod codec;
mod correlated;
mod cut;
mod determinism;
mod empty_inputs;
mod empty_unions;
mod error;
mod explain;
mod filters;
mod fixed_node;
mod fragment;
mod grouping;
mod join_order;
mod label;
mod limited_aggregates;
mod named;
mod null_safe;
mod on_conditions;
mod opaque;
mod outer;
mod outer_keys;
mod quantified;
mod recursion;
mod round_trip;
mod rules;
mod runtime_filters;
mod sample;
mod scalar;
mod scan;
mod schema_exec;
mod semantics;
mod series;
mod session;
mod set_operations;
mod shuffle_read_exec;
mod sort_merge;
mod sorted_joins;
mod split;
mod split_inputs;
mod statement;
mod stored;
mod swapped_joins;
mod task_filters;
mod top_k_input;
mod values;
mod window;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::sql::parser::Statement;
use sluice_core::locality::{DataLocality, FilesHash, MAX_TASKS_WITH_FILES};
use sluice_core::plan::{Split, StageGraph};

pub use broadcast::BroadcastLimit;
pub use cut::cut;
pub use cut::order::SharedMerge;
use error::{Names, QueryText};

pub use error::PlanError;
pub use explain::{ExplainedQuery, explain, explain_parts};
pub use fragment::{Fragment, OutputSpec, TaskSplits, decode_schema, decode_task, encode_schema};
pub use join_order::JoinOrderPolicy;
pub(crate) use runtime_filters::{FilterMaker, ROWS_FILTERED};
pub use runtime_filters::{MadeFilter, RuntimeFilterPolicy};
pub use scan::ScanExec;
pub use session::{DeclaredTables, session_options, session_state, task_context};
pub use shuffle_read_exec::{InputProvider, InputStream, ReadMode, RowFacts, ShuffleReadExec};
pub use sort_merge::HashJoinLimit;
pub use sorted_joins::sort_joins;
pub use split::{Cuts, FilePart, SplitTarget, SplittableFile, split_files};
pub use statement::analyzed_query;
use statement::{Sampled, TableColumns};
pub(crate) use task_filters::TASK_FILTERS;

/// A query cut into stages.
#[derive(Debug)]
pub struct PlannedQuery {
    /// The stages and exchanges, as the coordinator sees them.
    pub graph: StageGraph,
    /// For each stage of the graph, in order, what its tasks run.
    pub stages: Vec<PlannedStage>,
    /// The columns of the result.
    pub schema: SchemaRef,
    /// The parts that run in a single task for the sake of right rows, and why.
    pub notes: Vec<PlanNote>,
    /// For each exchange of the graph, in order, why the plan is cut there.
    pub reasons: Vec<String>,
    /// The joins that run in another order than the text's, for [`explain`].
    join_orders: Vec<String>,
}

/// What the tasks of one stage run.
#[derive(Debug)]
pub struct PlannedStage {
    /// The plan of each task, with empty slots.
    pub fragment: Fragment,
    /// How the rows find their partition of the exchange that the stage writes.
    pub output: OutputSpec,
    /// The runtime filters that each task makes of the rows that it writes.
    pub filters: Vec<MadeFilter>,
    /// For each task what its scan leaves read.
    pub tasks: Vec<TaskSplits>,
    /// The tables of which each of its tasks reads a part. A small one that every task reads whole is not among them.
    pub tables: BTreeSet<String>,
    /// The fragment's plan, for [`explain`].
    plan: Arc<dyn ExecutionPlan>,
}

/// A part of a plan that runs in a single task although its input has more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanNote {
    /// The operator, as `NestedLoopJoin`.
    pub operator: String,
    /// Why.
    pub reason: String,
}

/// The stack, in bytes, that a thread which decodes and runs tasks needs: operators and expressions recurse as
/// deep as the planner lets them be nested.
pub const TASK_STACK_BYTES: usize = 16 << 20;

/// The stack of the thread that plans. Planners of nested queries recurse, and a query may be 64 KiB long; only
/// the pages in use cost memory.
const PLANNING_STACK: usize = 256 << 20;

/// Plans one query: parses `sql`, which must be a single query over the tables registered in `state` (made by
/// [`session_state`]), and cuts it into stages.
///
/// Runs inside a tokio runtime, on a thread of its own with a deep stack.
///
/// # Errors
/// See [`PlanError`]; each names the place and the fix.
pub async fn plan(state: &SessionState, sql: &str) -> Result<PlannedQuery, PlanError> {
    let state = state.clone();
    let sql = sql.to_owned();
    let runtime = tokio::runtime::Handle::try_current()
        .map_err(|error| PlanError::internal("planning thread", error))?;
    on_a_deep_stack(move || runtime.block_on(plan_here(&state, &sql))).await
}

/// The names of the tables that `sql` reads, as far as its text tells: of those that are declared no other one is
/// needed to [`plan`] it. `state` need not know any table.
///
/// # Errors
/// As [`plan`], for a text that is no single query.
pub async fn tables_read(state: &SessionState, sql: &str) -> Result<BTreeSet<String>, PlanError> {
    let state = state.clone();
    let sql = sql.to_owned();
    on_a_deep_stack(move || {
        let (statement, _) = parse(&state, &sql, None)?;
        let references = state
            .resolve_table_references(&statement)
            .map_err(|error| error::describe(error, &query_text(&state, &sql)))?;
        Ok(references
            .iter()
            .map(|reference| reference.table().to_owned())
            .collect())
    })
    .await
}

fn parse(
    state: &SessionState,
    sql: &str,
    tables: Option<&TableColumns>,
) -> Result<(Statement, Vec<Sampled>), PlanError> {
    let scalars = state.scalar_functions().keys().map(String::as_str).collect();
    statement::parse(sql, &scalars, tables)
}

/// The columns of all tables of a session.
async fn table_columns(state: &SessionState) -> Result<TableColumns, DataFusionError> {
    let schema = state.schema_for_ref("any")?;
    let mut columns = TableColumns::new();
    for name in schema.table_names() {
        if let Some(table) = schema.table(&name).await? {
            let fields = table
                .schema()
                .fields()
                .iter()
                .map(|field| field.name().clone())
                .collect();
            columns.insert(name, fields);
        }
    }
    Ok(columns)
}

/// Runs a planner's work on a thread whose stack is deep enough for every query.
async fn on_a_deep_stack<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PlanError> + Send + 'static,
) -> Result<T, PlanError> {
    let (done, result) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("sluice-plan".into())
        .stack_size(PLANNING_STACK)
        .spawn(move || {
            // Nobody waits any more: the caller was cancelled.
            let _cancelled = done.send(work()).is_err();
        })
        .map_err(|error| PlanError::internal("planning thread", error))?;
    result
        .await
        .map_err(|_| PlanError::internal("planning thread", "it ended without a plan"))?
}

async fn plan_here(state: &SessionState, sql: &str) -> Result<PlannedQuery, PlanError> {
    let refused = |error| error::describe(error, &query_text(state, sql));
    let tables = table_columns(state).await.map_err(refused)?;
    let (statement, samples) = parse(state, sql, Some(&tables))?;
    let planned = state.statement_to_plan(statement).await.map_err(refused)?;
    let logical = query_plan(planned, &samples)?.map_err(refused)?;
    let policy = state.config().get_extension::<JoinOrderPolicy>();
    let policy = policy.map_or_else(JoinOrderPolicy::default, |given| *given);
    let optimized = state.optimize(&logical).map_err(refused)?;
    let ordered = join_order::order_joins(state, optimized, policy).await;
    let (optimized, join_orders) = ordered.map_err(refused)?;
    let physical = aggregate_input::physical_plan(state, &optimized)
        .await
        .map_err(refused)?;
    let mut planned = cut(&physical, state.task_ctx().as_ref())?;
    planned.join_orders = join_orders;
    // DataFusion's plan loses the ordering if the sort key is not selected.
    planned.graph.ordered |= planned.root_tasks() == 1;
    planned.graph.ordered &= orders_rows(&logical);
    let filters = state.config().get_extension::<RuntimeFilterPolicy>();
    let filters = filters.map_or_else(RuntimeFilterPolicy::default, |given| *given);
    runtime_filters::add(&mut planned, filters, state.task_ctx().as_ref())?;
    Ok(planned)
}

/// The plan of a query after our rewrites. The inner error is DataFusion's.
fn query_plan(
    planned: LogicalPlan,
    samples: &[Sampled],
) -> Result<Result<LogicalPlan, DataFusionError>, PlanError> {
    match planned {
        // The statement is a query, so its plan must be one.
        LogicalPlan::Dml(_)
        | LogicalPlan::Ddl(_)
        | LogicalPlan::Copy(_)
        | LogicalPlan::Statement(_)
        | LogicalPlan::Explain(_)
        | LogicalPlan::Analyze(_)
        | LogicalPlan::DescribeTable(_) => Err(PlanError::NotAQuery {
            what: "this statement".into(),
            position: "the beginning of the text".into(),
        }),
        query => Ok(grouping::plan_empty_sets(sample::sample_tables(query, samples)?)
            .and_then(set_operations::count_rows)
            .and_then(on_conditions::move_subqueries)
            .and_then(outer::lift_outer_conditions)
            .and_then(semantics::rewrite_predicates)
            .and_then(scalar::guard_scalar_subqueries)
            .and_then(outer_keys::join_with_outer_keys)
            .and_then(window::filters_as_columns)
            .and_then(window::runnable_frames)
            .and_then(window::wide_range_keys)),
    }
}

/// The text and the names that a query of this session may use.
fn query_text(state: &SessionState, sql: &str) -> QueryText {
    let declared = state.config().get_extension::<DeclaredTables>();
    let registered = || {
        let schema = state.schema_for_ref("any").ok();
        schema.map_or_else(Vec::new, |schema| schema.table_names())
    };
    // Their maps know no order.
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    let of_rows = state.scalar_functions().keys();
    let names = Names {
        tables: sorted(declared.map_or_else(registered, |declared| declared.0.clone())),
        functions: sorted(
            of_rows
                .chain(state.aggregate_functions().keys())
                .cloned()
                .collect(),
        ),
        window_functions: sorted(state.window_functions().keys().cloned().collect()),
        table_functions: sorted(state.table_functions().keys().cloned().collect()),
    };
    QueryText::new(statement::tokens(sql), names)
}

impl PlannedQuery {
    /// Notes where the rows of each table are. Tasks run near those that their stage scans.
    pub fn locate(&mut self, localities: &BTreeMap<String, DataLocality>) {
        for (stage, planned) in self.graph.stages.iter_mut().zip(&self.stages) {
            for of_table in planned.tables.iter().filter_map(|table| localities.get(table)) {
                stage.data.nodes.extend(of_table.nodes.iter().cloned());
                stage.data.zones.extend(of_table.zones.iter().cloned());
            }
        }
    }

    /// Notes which files the tasks of each scan read, so that the same worker reads them in the next query.
    pub fn hash_files(&mut self) {
        for (stage, planned) in self.graph.stages.iter_mut().zip(&self.stages) {
            if stage.inputs.is_empty() && planned.tasks.len() <= MAX_TASKS_WITH_FILES {
                let hashes = planned.tasks.iter().map(files_hash);
                stage.files = hashes.collect::<Option<_>>().unwrap_or_default();
            }
        }
    }

    /// How many tasks write the result.
    fn root_tasks(&self) -> u32 {
        let root = self.graph.exchanges.get(self.graph.result.0 as usize);
        let writers = root.map_or(&[][..], |exchange| &exchange.writers);
        writers
            .iter()
            .filter_map(|stage| self.graph.stages.get(stage.0 as usize))
            .map(|stage| stage.tasks)
            .sum()
    }
}

fn files_hash(task: &TaskSplits) -> Option<FilesHash> {
    let ranges = task.splits.values().filter_map(|split| match split {
        Split::Files(ranges) => Some(ranges),
        Split::Tpch { .. } | Split::Whole => None,
    });
    let ranges = ranges.flatten();
    FilesHash::of(ranges.map(|range| (range.file.path.as_str(), range.start)))
}

/// Whether the outermost query has an ORDER BY. That of a subquery orders nothing.
fn orders_rows(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(_) => true,
        LogicalPlan::Limit(limit) => orders_rows(&limit.input),
        LogicalPlan::Projection(projection) => orders_rows(&projection.input),
        _ => false,
    }
}
