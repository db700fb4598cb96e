//! Window operators in fragments. datafusion-proto 55 leaves out the FILTER of an aggregate, and of a window function that
//! it ignores nulls and that it was reversed.

mod filters;
mod frames;
mod range_keys;

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{ReversedUDWF, WindowUDF};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::window::{
    PlainAggregateWindowExpr, SlidingAggregateWindowExpr, StandardWindowExpr, WindowExpr,
};
use datafusion::physical_plan::windows::{
    BoundedWindowAggExec, WindowAggExec, WindowUDFExpr, create_udwf_window_expr,
};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, InputOrderMode, PlanProperties,
};
use datafusion_proto::physical_plan::from_proto::{parse_physical_sort_exprs, parse_physical_window_expr};
use datafusion_proto::physical_plan::to_proto::{
    serialize_physical_sort_exprs, serialize_physical_window_expr,
};
use datafusion_proto::physical_plan::{PhysicalPlanDecodeContext, PhysicalProtoConverterExtension};
use datafusion_proto::protobuf;
use prost::Message;

use super::codec::{FragmentCodec, index, malformed};
use super::fixed_node::fixed_node;

pub(super) use filters::filters_as_columns;
pub(super) use frames::runnable_frames;
pub(super) use range_keys::wide_range_keys;

/// Stands for a window operator in a fragment that is being encoded: datafusion-proto encodes those itself.
#[derive(Debug)]
pub(crate) struct WindowPlaceholder {
    window: Arc<dyn ExecutionPlan>,
    input: Arc<dyn ExecutionPlan>,
}

/// A window operator. Without `order` it keeps all rows of a partition in memory.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct WindowMessage {
    #[prost(message, repeated, tag = "1")]
    functions: Vec<FunctionMessage>,
    #[prost(bool, tag = "2")]
    can_repartition: bool,
    #[prost(message, optional, tag = "3")]
    order: Option<OrderMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct FunctionMessage {
    #[prost(message, optional, tag = "1")]
    function: Option<protobuf::PhysicalWindowExprNode>,
    #[prost(message, optional, tag = "2")]
    filter: Option<protobuf::PhysicalExprNode>,
    #[prost(bool, tag = "3")]
    ignore_nulls: bool,
    #[prost(bool, tag = "4")]
    is_reversed: bool,
    /// ORDER BY in the arguments of an aggregate.
    #[prost(message, repeated, tag = "5")]
    order_by: Vec<protobuf::PhysicalSortExprNode>,
}

/// How the input is ordered by the keys of partitions.
#[derive(Clone, PartialEq, Message)]
struct OrderMessage {
    /// Of all keys.
    #[prost(bool, tag = "1")]
    sorted: bool,
    /// Of these keys.
    #[prost(uint64, repeated, tag = "2")]
    columns: Vec<u64>,
}

type WindowParts<'a> = (&'a [Arc<dyn WindowExpr>], Option<&'a InputOrderMode>);

/// The functions of a window operator, and how its input is ordered if that bounds its memory.
pub(super) fn functions_of(plan: &Arc<dyn ExecutionPlan>) -> Option<WindowParts<'_>> {
    if let Some(window) = plan.downcast_ref::<BoundedWindowAggExec>() {
        return Some((window.window_expr(), Some(&window.input_order_mode)));
    }
    let window = plan.downcast_ref::<WindowAggExec>()?;
    Some((window.window_expr(), None))
}

/// Whether a window operator takes its input as sorted by keys of its partitions, and finds no such ordering of it. It looks
/// for one when it runs: then it fails, or takes several partitions for one.
pub(super) fn misses_partitions(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let (Some((functions, order)), Some(input)) = (functions_of(plan), plan.children().pop()) else {
        return false;
    };
    let keys = functions
        .first()
        .map_or(&[][..], |function| function.partition_by());
    let sorted: Vec<Arc<dyn PhysicalExpr>> = match order {
        Some(InputOrderMode::Linear) => Vec::new(),
        Some(InputOrderMode::PartiallySorted(places)) => places
            .iter()
            .filter_map(|place| keys.get(*place).cloned())
            .collect(),
        Some(InputOrderMode::Sorted) | None => keys.to_vec(),
    };
    let found = input.equivalence_properties().find_longest_permutation(&sorted);
    found.is_ok_and(|(found, _)| found.len() < sorted.len())
}

/// The same plan with a placeholder in place of each window operator.
pub(super) fn with_placeholders(plan: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    Arc::clone(plan)
        .transform_up(|node| {
            if functions_of(&node).is_none() {
                return Ok(Transformed::no(node));
            }
            let input = match node.children().as_slice() {
                [input] => Arc::clone(input),
                _ => return Err(malformed("a window has one input")),
            };
            let placeholder = WindowPlaceholder { window: node, input };
            Ok(Transformed::yes(Arc::new(placeholder) as Arc<dyn ExecutionPlan>))
        })
        .data()
}

/// What a window function is beside what datafusion-proto encodes.
pub(super) struct FunctionOptions {
    pub(super) ignore_nulls: bool,
    pub(super) is_reversed: bool,
    pub(super) filter: Option<Arc<dyn PhysicalExpr>>,
}

/// The aggregate of a window, if it is one.
pub(super) fn aggregate_of(function: &Arc<dyn WindowExpr>) -> Option<&AggregateFunctionExpr> {
    let any = function.as_any();
    if let Some(plain) = any.downcast_ref::<PlainAggregateWindowExpr>() {
        return Some(plain.get_aggregate_expr());
    }
    let sliding = any.downcast_ref::<SlidingAggregateWindowExpr>()?;
    Some(sliding.get_aggregate_expr())
}

/// The window function, if it is no aggregate.
pub(super) fn standard_of(function: &Arc<dyn WindowExpr>) -> Option<&WindowUDFExpr> {
    let standard = function.as_any().downcast_ref::<StandardWindowExpr>()?;
    standard.get_standard_func_expr().as_any().downcast_ref()
}

/// # Errors
/// A function that tells neither.
pub(super) fn options_of(function: &Arc<dyn WindowExpr>, input: &Schema) -> Result<FunctionOptions> {
    if let Some(aggregate) = aggregate_of(function) {
        return Ok(FunctionOptions {
            ignore_nulls: aggregate.ignore_nulls(),
            is_reversed: aggregate.is_reversed(),
            filter: filter_of(function, input)?,
        });
    }
    // The debug form alone tells these two; it ends with them.
    let text = format!("{:?}", standard_of(function).ok_or_else(|| unknown(function))?);
    for (ignore_nulls, is_reversed) in [(false, false), (false, true), (true, false), (true, true)] {
        if text.ends_with(&format!(
            "is_reversed: {is_reversed}, ignore_nulls: {ignore_nulls} }}"
        )) {
            return Ok(FunctionOptions {
                ignore_nulls,
                is_reversed,
                filter: None,
            });
        }
    }
    Err(unknown(function))
}

fn unknown(function: &Arc<dyn WindowExpr>) -> DataFusionError {
    DataFusionError::NotImplemented(format!(
        "the window function {} cannot be sent to a worker",
        function.name()
    ))
}

/// The FILTER of an aggregate, which the debug form alone tells, at its end: a column of the input, since
/// [`filters_as_columns`] has made it one.
fn filter_of(function: &Arc<dyn WindowExpr>, input: &Schema) -> Result<Option<Arc<dyn PhysicalExpr>>> {
    let text = format!("{function:?}");
    if text.ends_with("filter: None }") {
        return Ok(None);
    }
    for (index, field) in input.fields().iter().enumerate() {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), index));
        if text.ends_with(&format!("filter: Some({column:?}) }}")) {
            return Ok(Some(column));
        }
    }
    Err(unknown(function))
}

/// # Errors
/// A malformed message, or a function that this build does not have.
pub(super) fn decode(
    window: &WindowMessage,
    input: &Arc<dyn ExecutionPlan>,
    context: &PhysicalPlanDecodeContext<'_>,
    converter: &dyn PhysicalProtoConverterExtension,
) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = input.schema();
    let functions = window.functions.iter();
    let functions = functions.map(|function| decode_function(function, &schema, context, converter));
    let functions = functions.collect::<Result<Vec<_>>>()?;
    let input = Arc::clone(input);
    let Some(order) = &window.order else {
        let plan = WindowAggExec::try_new(functions, input, window.can_repartition)?;
        return Ok(Arc::new(plan));
    };
    let columns = order.columns.iter().map(|column| index(*column));
    let mode = match (order.sorted, columns.collect::<Result<Vec<_>>>()?) {
        (true, _) => InputOrderMode::Sorted,
        (false, columns) if columns.is_empty() => InputOrderMode::Linear,
        (false, columns) => InputOrderMode::PartiallySorted(columns),
    };
    let plan = BoundedWindowAggExec::try_new(functions, input, mode, window.can_repartition)?;
    Ok(Arc::new(plan))
}

fn decode_function(
    message: &FunctionMessage,
    schema: &SchemaRef,
    context: &PhysicalPlanDecodeContext<'_>,
    converter: &dyn PhysicalProtoConverterExtension,
) -> Result<Arc<dyn WindowExpr>> {
    let function = message
        .function
        .as_ref()
        .ok_or_else(|| malformed("no window function"))?;
    let plain = parse_physical_window_expr(function, context, schema, converter)?;
    let (partition_by, order_by) = (plain.partition_by(), plain.order_by());
    let frame = Arc::clone(plain.get_window_frame());
    if let Some(aggregate) = aggregate_of(&plain) {
        let filter = message.filter.as_ref();
        let filter = filter.map(|filter| converter.proto_to_physical_expr(filter, schema, context));
        let filter = filter.transpose()?;
        let inner = parse_physical_sort_exprs(&message.order_by, context, schema, converter)?;
        let whole = AggregateExprBuilder::new(Arc::new(aggregate.fun().clone()), aggregate.expressions())
            .schema(Arc::clone(schema))
            .alias(aggregate.name())
            .with_ignore_nulls(message.ignore_nulls)
            .with_distinct(aggregate.is_distinct())
            .with_reversed(message.is_reversed)
            .order_by(inner)
            .build()?;
        let whole = Arc::new(whole);
        return Ok(if frame.is_ever_expanding() {
            Arc::new(PlainAggregateWindowExpr::new(
                whole,
                partition_by,
                order_by,
                frame,
                filter,
            ))
        } else {
            Arc::new(SlidingAggregateWindowExpr::new(
                whole,
                partition_by,
                order_by,
                frame,
                filter,
            ))
        });
    }
    let standard = standard_of(&plain).ok_or_else(|| unknown(&plain))?;
    let of = |fun: &Arc<WindowUDF>| {
        let name = plain.name().to_owned();
        create_udwf_window_expr(fun, standard.args(), schema, name, message.ignore_nulls)
    };
    let whole = match (message.is_reversed, standard.fun().reverse_expr()) {
        (false, _) => of(standard.fun())?,
        (true, ReversedUDWF::Reversed(original)) => {
            of(&original)?.reverse_expr().ok_or_else(|| unknown(&plain))?
        }
        (true, ReversedUDWF::Identical | ReversedUDWF::NotSupported) => return Err(unknown(&plain)),
    };
    Ok(Arc::new(StandardWindowExpr::new(
        whole,
        partition_by,
        order_by,
        frame,
    )))
}

impl WindowPlaceholder {
    pub(super) fn encode(
        &self,
        codec: &FragmentCodec,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<WindowMessage> {
        let (functions, order) =
            functions_of(&self.window).ok_or_else(|| malformed("a placeholder without a window"))?;
        let encoded = functions.iter().map(|function| {
            let options = options_of(function, &self.input.schema())?;
            let filter = options.filter.as_ref();
            let filter = filter.map(|filter| converter.physical_expr_to_proto(filter, codec));
            let order_by = aggregate_of(function).map_or(&[][..], AggregateFunctionExpr::order_bys);
            Ok(FunctionMessage {
                function: Some(serialize_physical_window_expr(function, codec, converter)?),
                filter: filter.transpose()?,
                ignore_nulls: options.ignore_nulls,
                is_reversed: options.is_reversed,
                order_by: serialize_physical_sort_exprs(order_by.iter().cloned(), codec, converter)?,
            })
        });
        Ok(WindowMessage {
            functions: encoded.collect::<Result<_>>()?,
            can_repartition: functions
                .iter()
                .all(|function| !function.partition_by().is_empty()),
            order: order.map(|order| match order {
                InputOrderMode::Linear => OrderMessage::default(),
                InputOrderMode::PartiallySorted(columns) => OrderMessage {
                    sorted: false,
                    columns: columns.iter().map(|column| *column as u64).collect(),
                },
                InputOrderMode::Sorted => OrderMessage {
                    sorted: true,
                    columns: Vec::new(),
                },
            }),
        })
    }
}

impl DisplayAs for WindowPlaceholder {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.window.fmt_as(format, f)
    }
}

impl ExecutionPlan for WindowPlaceholder {
    fn name(&self) -> &str {
        "WindowPlaceholder"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.window.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fixed_node!();

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        Err(DataFusionError::Internal("a window was never decoded".into()))
    }
}
