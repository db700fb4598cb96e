//! Fragments: a stage's plan as bytes, and a fresh plan for each attempt out of them.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::{LexOrdering, Partitioning, PhysicalExpr};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion::prelude::SessionConfig;
use datafusion_proto::physical_plan::from_proto::parse_physical_sort_exprs;
use datafusion_proto::physical_plan::to_proto::serialize_physical_sort_exprs;
use datafusion_proto::physical_plan::{
    DeduplicatingProtoConverter, PhysicalPlanDecodeContext, PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf;
use prost::Message;
use sluice_core::plan::{ExchangeKind, Split};
pub use sluice_proto::wire::Fragment;

use super::codec::FragmentCodec;
use super::error::{PlanError, plain};
use super::scan::ScanExec;
use super::session::travelling_options;
use super::shuffle_read_exec::{InputProvider, ShuffleReadExec};
use super::swapped_joins::swap_joins;
use super::{runtime_filters, task_filters, top_k_input, window};

/// How the rows of a task find their partition of the exchange that it writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSpec {
    /// The kind of exchange.
    pub kind: ExchangeKind,
    /// Over the task's output columns, each encoded: the key expressions of a hash exchange, the sort keys of a range
    /// exchange; otherwise none.
    pub keys: Vec<Vec<u8>>,
    /// How many partitions each task writes, at least 1.
    pub partitions: u32,
}

/// What one task reads through its scan leaves: leaf number to split.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskSplits {
    /// Leaf number to split.
    pub splits: BTreeMap<u32, Split>,
}

/// Encodes a schema, with its metadata.
///
/// # Errors
/// [`PlanError::Internal`] for a type that has no encoding.
pub fn encode_schema(schema: &Schema) -> Result<Vec<u8>, PlanError> {
    let message = protobuf::Schema::try_from(schema).map_err(|error| PlanError::internal("schema", error))?;
    Ok(message.encode_to_vec())
}

/// Decodes what [`encode_schema`] wrote.
///
/// # Errors
/// [`PlanError::Fragment`] for malformed bytes.
pub fn decode_schema(bytes: &[u8]) -> Result<SchemaRef, PlanError> {
    let message = protobuf::Schema::decode(bytes).map_err(|error| PlanError::fragment("schema", error))?;
    let schema = Schema::try_from(&message).map_err(|error| PlanError::fragment("schema", error))?;
    Ok(Arc::new(schema))
}

/// Encodes `plan` (one partition, slots filled by input number) as a fragment.
pub(crate) fn encode(plan: &Arc<dyn ExecutionPlan>, config: &SessionConfig) -> Result<Fragment, PlanError> {
    let mut inputs: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let mut failed = None;
    // The closure's error type is DataFusion's; ours is kept aside.
    let walked = plan.apply(|node| {
        if let Some(read) = node.downcast_ref::<ShuffleReadExec>() {
            match encode_schema(&read.schema()) {
                Ok(schema) => {
                    inputs.insert(read.input_index(), schema);
                }
                Err(error) => failed = Some(error),
            }
        }
        Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
    });
    walked.map_err(|error| PlanError::internal("encode", error))?;
    if let Some(error) = failed {
        return Err(error);
    }
    let slots = window::with_placeholders(plan).map_err(|error| unsupported(&error))?;
    let message = DeduplicatingProtoConverter {}
        .execution_plan_to_proto(&slots, &FragmentCodec)
        .map_err(|error| unsupported(&error))?;
    Ok(Fragment {
        plan: message.encode_to_vec(),
        options: travelling_options(config),
        inputs: inputs.into_values().collect(),
        output: encode_schema(&plan.schema())?,
    })
}

fn unsupported(error: &DataFusionError) -> PlanError {
    let message = error.find_root().strip_backtrace();
    let first = message.split(". Plan:").next().unwrap_or_default();
    PlanError::Unsupported {
        what: format!("an operator or expression ({})", plain(first)),
        fix: "write it another way".into(),
    }
}

/// Encodes key expressions.
pub(crate) fn encode_keys(keys: &[Arc<dyn PhysicalExpr>]) -> Result<Vec<Vec<u8>>, PlanError> {
    keys.iter()
        .map(|key| {
            let message = DeduplicatingProtoConverter {}
                .physical_expr_to_proto(key, &FragmentCodec)
                .map_err(|error| unsupported(&error))?;
            Ok(message.encode_to_vec())
        })
        .collect()
}

/// Encodes the keys of an order.
pub(crate) fn encode_sort_keys(ordering: &LexOrdering) -> Result<Vec<Vec<u8>>, PlanError> {
    let keys = ordering.iter().cloned();
    let messages = serialize_physical_sort_exprs(keys, &FragmentCodec, &DeduplicatingProtoConverter {})
        .map_err(|error| unsupported(&error))?;
    Ok(messages.iter().map(Message::encode_to_vec).collect())
}

impl OutputSpec {
    /// The order in which a task of a range exchange writes the rows of `schema`; `None` for other kinds.
    ///
    /// # Errors
    /// [`PlanError::Fragment`] for keys that do not decode.
    pub fn sorted_by(
        &self,
        schema: &Schema,
        context: &TaskContext,
    ) -> Result<Option<LexOrdering>, PlanError> {
        match self.kind {
            ExchangeKind::Range => {}
            ExchangeKind::Forward | ExchangeKind::Broadcast | ExchangeKind::Hash => return Ok(None),
        }
        let malformed = |error: &dyn std::fmt::Display| PlanError::fragment("sort key", error);
        let keys = self.keys.iter().map(|key| {
            protobuf::PhysicalSortExprNode::decode(key.as_slice()).map_err(|error| malformed(&error))
        });
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        let decode = PhysicalPlanDecodeContext::new(context, &FragmentCodec);
        let sort = parse_physical_sort_exprs(&keys, &decode, schema, &DeduplicatingProtoConverter {})
            .map_err(|error| malformed(&error))?;
        let ordering = LexOrdering::new(sort).ok_or_else(|| malformed(&"there is none"))?;
        Ok(Some(ordering))
    }

    /// The partitioning that puts the rows of `schema` into partitions, for DataFusion's batch partitioner.
    ///
    /// # Errors
    /// [`PlanError::Fragment`] for keys that do not decode.
    pub fn partitioning(&self, schema: &Schema, context: &TaskContext) -> Result<Partitioning, PlanError> {
        let partitions = self.partitions.max(1) as usize;
        match self.kind {
            ExchangeKind::Forward | ExchangeKind::Broadcast | ExchangeKind::Range => {
                Ok(Partitioning::UnknownPartitioning(1))
            }
            ExchangeKind::Hash => {
                let decode = PhysicalPlanDecodeContext::new(context, &FragmentCodec);
                let keys = self
                    .keys
                    .iter()
                    .map(|key| {
                        let message = protobuf::PhysicalExprNode::decode(key.as_slice())
                            .map_err(|error| PlanError::fragment("hash key", error))?;
                        DeduplicatingProtoConverter {}
                            .proto_to_physical_expr(&message, schema, &decode)
                            .map_err(|error| PlanError::fragment("hash key", error))
                    })
                    .collect::<Result<Vec<_>, _>>()?;
                Ok(Partitioning::Hash(keys, partitions))
            }
        }
    }
}

/// Decodes a fragment into a plan with empty slots.
pub(crate) fn decode_empty(
    fragment: &Fragment,
    context: &TaskContext,
) -> Result<Arc<dyn ExecutionPlan>, PlanError> {
    // datafusion-proto 55 unwraps some values of malformed messages. Nothing outlives the unwinding: the plan
    // under construction is dropped, the context only read.
    let decoded = catch_unwind(AssertUnwindSafe(|| {
        let message = protobuf::PhysicalPlanNode::decode(fragment.plan.as_slice())
            .map_err(|error| PlanError::fragment("plan", error))?;
        let decode = PhysicalPlanDecodeContext::new(context, &FragmentCodec);
        DeduplicatingProtoConverter {}
            .proto_to_execution_plan(&message, &decode)
            .map_err(|error| PlanError::fragment("plan", error))
    }));
    decoded.unwrap_or_else(|_| Err(PlanError::fragment("plan", "its bytes are malformed")))
}

/// A fresh plan for one attempt of a task: its scans read `splits`, its shuffle reads open streams of
/// `inputs`, and the sides of the joins with the numbers in `swapped` have changed places. Partition 0 of it is the task's rows. Never share it between attempts: operators keep state.
/// `context` is from [`super::task_context`] with the fragment's options.
///
/// # Errors
/// [`PlanError::Fragment`] for bytes that do not decode or a scan without split.
pub fn decode_task(
    fragment: &Fragment,
    splits: &TaskSplits,
    context: &TaskContext,
    inputs: &Arc<dyn InputProvider>,
    swapped: &[u32],
) -> Result<Arc<dyn ExecutionPlan>, PlanError> {
    let plan = swap_joins(decode_empty(fragment, context)?, swapped)?;
    let partitions = plan.output_partitioning().partition_count();
    if partitions != 1 {
        return Err(PlanError::fragment(
            "plan",
            format!("it has {partitions} partitions, a task runs a plan of one"),
        ));
    }
    plan.transform_up(|node| {
        if let Some(scan) = node.downcast_ref::<ScanExec>() {
            let split = splits.splits.get(&scan.leaf()).ok_or_else(|| {
                external(PlanError::fragment(
                    "splits",
                    format!("scan {} has no split", scan.leaf()),
                ))
            })?;
            return Ok(Transformed::yes(scan.filled(split).map_err(external)?));
        }
        if let Some(read) = node.downcast_ref::<ShuffleReadExec>() {
            let bound: Arc<dyn ExecutionPlan> = Arc::new(read.bound(Arc::clone(inputs)));
            return Ok(Transformed::yes(bound));
        }
        Ok(Transformed::no(node))
    })
    .data()
    .and_then(|plan| runtime_filters::bind(plan, inputs))
    .and_then(|plan| task_filters::push_down(plan, context))
    .and_then(top_k_input::narrow_inputs)
    .map_err(|error| match error {
        DataFusionError::External(error) => match error.downcast::<PlanError>() {
            Ok(error) => *error,
            Err(error) => PlanError::fragment("plan", error),
        },
        error => PlanError::fragment("plan", error),
    })
}

fn external(error: PlanError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
