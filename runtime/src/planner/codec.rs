//! The nodes of a fragment that datafusion-proto does not know, or encodes without all of their options.

use std::str::FromStr;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::parsers::CompressionTypeVariant;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::physical_plan::{ArrowSource, FileScanConfig, FileScanConfigBuilder, FileSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF};
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_expr::expressions::{Literal, lit};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::work_table::WorkTableExec;
use datafusion_proto::physical_plan::from_proto::parse_physical_sort_exprs;
use datafusion_proto::physical_plan::to_proto::serialize_physical_sort_exprs;
use datafusion_proto::physical_plan::{
    PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf;
use prost::Message;

use super::opaque::OpaqueExec;
use super::recursion::WorkTablePlaceholder;
use super::runtime_filters::{RuntimeFilterExec, UsedFilter};
use super::sample::{Method, Sample};
use super::scalar::SINGLE_VALUE;
use super::scan::{ScanExec, file_config};
use super::schema_exec::SchemaExec;
use super::shuffle_read_exec::{ReadMode, RowFacts, ShuffleReadExec};
use super::window::{self, WindowMessage, WindowPlaceholder};
use crate::functions::{decode_aggregate, decode_scalar, encode_aggregate, encode_scalar};
use crate::source::tpch::TpchScanExec;

/// Encodes and decodes Sluice's own nodes and DataFusion's recursive queries.
#[derive(Debug)]
pub(crate) struct FragmentCodec;

/// One node that datafusion-proto does not know.
#[derive(Clone, PartialEq, Message)]
struct NodeMessage {
    #[prost(oneof = "Node", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9")]
    node: Option<Node>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Node {
    #[prost(message, tag = "1")]
    ShuffleRead(ShuffleReadMessage),
    #[prost(message, tag = "2")]
    Scan(Box<ScanMessage>),
    #[prost(message, tag = "3")]
    Schema(protobuf::Schema),
    #[prost(message, tag = "4")]
    Recursive(RecursiveMessage),
    #[prost(message, tag = "5")]
    WorkTable(WorkTableMessage),
    /// As the scan encodes itself.
    #[prost(bytes, tag = "6")]
    Tpch(Vec<u8>),
    #[prost(message, tag = "7")]
    Window(WindowMessage),
    #[prost(message, tag = "8")]
    Opaque(()),
    #[prost(message, tag = "9")]
    RuntimeFilter(RuntimeFilterMessage),
}

#[derive(Clone, PartialEq, Message)]
struct ShuffleReadMessage {
    #[prost(uint32, tag = "1")]
    input_index: u32,
    #[prost(message, optional, tag = "2")]
    schema: Option<protobuf::Schema>,
    /// 0: merged.
    #[prost(uint32, tag = "3")]
    streams: u32,
    #[prost(message, repeated, tag = "4")]
    orderings: Vec<protobuf::PhysicalSortExprNodeCollection>,
    #[prost(message, repeated, tag = "5")]
    constants: Vec<ConstantMessage>,
    #[prost(message, repeated, tag = "6")]
    equal: Vec<ColumnsMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct ConstantMessage {
    #[prost(uint64, tag = "1")]
    column: u64,
    /// A literal; none where the value is not known.
    #[prost(message, optional, tag = "2")]
    value: Option<protobuf::PhysicalExprNode>,
}

#[derive(Clone, PartialEq, Message)]
struct ColumnsMessage {
    #[prost(uint64, repeated, tag = "1")]
    columns: Vec<u64>,
}

/// A scan, and the options that datafusion-proto 55 leaves out of file scans or cuts to 32 bits.
#[derive(Clone, PartialEq, Message)]
struct ScanMessage {
    #[prost(uint32, tag = "1")]
    leaf: u32,
    #[prost(message, optional, boxed, tag = "2")]
    source: Option<Box<protobuf::PhysicalPlanNode>>,
    #[prost(string, optional, tag = "3")]
    compression: Option<String>,
    #[prost(uint64, optional, tag = "4")]
    limit: Option<u64>,
    #[prost(bool, tag = "5")]
    arrow_stream: bool,
    #[prost(message, optional, tag = "6")]
    sample: Option<SampleMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct SampleMessage {
    /// Rows that lie in a row are chosen together.
    #[prost(bool, tag = "1")]
    together: bool,
    #[prost(double, tag = "2")]
    percent: f64,
    #[prost(fixed64, tag = "3")]
    seed: u64,
}

/// Filters and their columns, in pairs.
#[derive(Clone, PartialEq, Message)]
struct RuntimeFilterMessage {
    #[prost(uint32, repeated, tag = "1")]
    filters: Vec<u32>,
    #[prost(uint64, repeated, tag = "2")]
    columns: Vec<u64>,
    #[prost(uint64, repeated, tag = "3")]
    of_keys: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct RecursiveMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    schema: Option<protobuf::Schema>,
    #[prost(bool, tag = "3")]
    distinct: bool,
}

#[derive(Clone, PartialEq, Message)]
struct WorkTableMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    schema: Option<protobuf::Schema>,
    #[prost(uint64, repeated, tag = "3")]
    projection: Vec<u64>,
}

impl PhysicalExtensionCodec for FragmentCodec {
    /// Asked for names that are no function of SQL, and for functions that are checked.
    fn try_decode_udaf(&self, name: &str, buf: &[u8]) -> Result<Arc<AggregateUDF>> {
        if !buf.is_empty() {
            return decode_aggregate(name, buf);
        }
        if name == SINGLE_VALUE.name() {
            return Ok(Arc::clone(&SINGLE_VALUE));
        }
        Err(DataFusionError::NotImplemented(format!(
            "this build has no aggregate function {name}"
        )))
    }

    fn try_encode_udaf(&self, function: &AggregateUDF, buf: &mut Vec<u8>) -> Result<()> {
        encode_aggregate(function, buf)
    }

    fn try_decode_udf(&self, name: &str, buf: &[u8]) -> Result<Arc<ScalarUDF>> {
        decode_scalar(name, buf)
    }

    fn try_encode_udf(&self, function: &ScalarUDF, buf: &mut Vec<u8>) -> Result<()> {
        encode_scalar(function, buf)
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let message = if let Some(read) = node.downcast_ref::<ShuffleReadExec>() {
            Node::ShuffleRead(encode_read(self, read, converter)?)
        } else if let Some(scan) = node.downcast_ref::<ScanExec>() {
            Node::Scan(Box::new(encode_scan(self, scan, converter)?))
        } else if node.downcast_ref::<SchemaExec>().is_some() {
            Node::Schema(node.schema().as_ref().try_into()?)
        } else if let Some(query) = node.downcast_ref::<RecursiveQueryExec>() {
            Node::Recursive(RecursiveMessage {
                name: query.name().to_owned(),
                schema: Some(node.schema().as_ref().try_into()?),
                distinct: query.is_distinct(),
            })
        } else if let Some(table) = node.downcast_ref::<WorkTablePlaceholder>() {
            Node::WorkTable(WorkTableMessage {
                name: table.table().to_owned(),
                schema: Some(table.table_schema().as_ref().try_into()?),
                projection: table.projection().iter().map(|column| *column as u64).collect(),
            })
        } else if let Some(window) = node.downcast_ref::<WindowPlaceholder>() {
            Node::Window(window.encode(self, converter)?)
        } else if node.downcast_ref::<OpaqueExec>().is_some() {
            Node::Opaque(())
        } else if let Some(filter) = node.downcast_ref::<RuntimeFilterExec>() {
            let used = filter.filters();
            Node::RuntimeFilter(RuntimeFilterMessage {
                filters: used.iter().map(|used| used.filter).collect(),
                columns: used.iter().map(|used| used.column as u64).collect(),
                of_keys: used.iter().map(|used| used.of_keys).collect(),
            })
        } else if let Some(scan) = node.downcast_ref::<TpchScanExec>() {
            Node::Tpch(scan.encode()?)
        } else {
            return Err(DataFusionError::NotImplemented(format!(
                "{} cannot be sent to a worker",
                node.name()
            )));
        };
        NodeMessage { node: Some(message) }
            .encode(buf)
            .map_err(|error| DataFusionError::Internal(format!("encoding {}: {error}", node.name())))
    }

    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let message = NodeMessage::decode(buf).map_err(|error| malformed(&error.to_string()))?;
        let decode = PhysicalPlanDecodeContext::new(context, self);
        match message.node.ok_or_else(|| malformed("no node"))? {
            Node::ShuffleRead(read) => decode_read(&read, &decode, converter),
            Node::Scan(scan) => decode_scan(&scan, &decode, converter),
            Node::Schema(schema) => {
                let [input] = inputs else {
                    return Err(malformed("a schema node has one input"));
                };
                Ok(Arc::new(SchemaExec::try_new(
                    Arc::clone(input),
                    schema_of(Some(&schema))?,
                )?))
            }
            Node::Recursive(query) => {
                let [first, again] = inputs else {
                    return Err(malformed("a recursive query has two inputs"));
                };
                Ok(Arc::new(RecursiveQueryExec::try_new(
                    query.name,
                    schema_of(query.schema.as_ref())?,
                    Arc::clone(first),
                    Arc::clone(again),
                    query.distinct,
                )?))
            }
            Node::Window(window) => {
                let [input] = inputs else {
                    return Err(malformed("a window has one input"));
                };
                window::decode(&window, input, &decode, converter)
            }
            Node::Opaque(()) => {
                let [input] = inputs else {
                    return Err(malformed("an opaque node has one input"));
                };
                Ok(Arc::new(OpaqueExec::new(Arc::clone(input))))
            }
            Node::RuntimeFilter(message) => {
                let [input] = inputs else {
                    return Err(malformed("a runtime filter has one input"));
                };
                decode_filter(&message, input)
            }
            Node::Tpch(scan) => Ok(Arc::new(TpchScanExec::decode(&scan)?)),
            Node::WorkTable(table) => {
                let schema = schema_of(table.schema.as_ref())?;
                let projection: Vec<usize> = table
                    .projection
                    .iter()
                    .map(|column| index(*column))
                    .collect::<Result<_>>()?;
                Ok(Arc::new(WorkTableExec::new(
                    table.name,
                    schema,
                    Some(projection),
                )?))
            }
        }
    }
}

pub(super) fn malformed(message: &str) -> DataFusionError {
    DataFusionError::Plan(format!("malformed fragment node: {message}"))
}

pub(super) fn index(number: u64) -> Result<usize> {
    usize::try_from(number).map_err(|error| malformed(&error.to_string()))
}

fn schema_of(schema: Option<&protobuf::Schema>) -> Result<SchemaRef> {
    let schema: Schema = schema.ok_or_else(|| malformed("no schema"))?.try_into()?;
    Ok(Arc::new(schema))
}

fn decode_filter(
    message: &RuntimeFilterMessage,
    input: &Arc<dyn ExecutionPlan>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let width = input.schema().fields().len();
    let filters = message
        .filters
        .iter()
        .zip(&message.columns)
        .zip(&message.of_keys)
        .map(|((filter, column), of_keys)| {
            let column = index(*column)?;
            if column >= width {
                return Err(malformed("a runtime filter tests a column that is not there"));
            }
            Ok(UsedFilter {
                filter: *filter,
                column,
                of_keys: *of_keys,
            })
        });
    let filters = filters.collect::<Result<_>>()?;
    Ok(Arc::new(RuntimeFilterExec::new(Arc::clone(input), filters)))
}

fn encode_read(
    codec: &FragmentCodec,
    read: &ShuffleReadExec,
    converter: &dyn PhysicalProtoConverterExtension,
) -> Result<ShuffleReadMessage> {
    let facts = read.facts();
    let orderings = facts
        .orderings
        .iter()
        .map(|ordering| {
            let nodes = serialize_physical_sort_exprs(ordering.iter().cloned(), codec, converter)?;
            Ok(protobuf::PhysicalSortExprNodeCollection {
                physical_sort_expr_nodes: nodes,
            })
        })
        .collect::<Result<_>>()?;
    let constants = facts.constants.iter().map(|(column, value)| {
        let literal = value.clone().map(lit);
        let value = literal.map(|literal| converter.physical_expr_to_proto(&literal, codec));
        Ok(ConstantMessage {
            column: *column as u64,
            value: value.transpose()?,
        })
    });
    let constants = constants.collect::<Result<_>>()?;
    let equal = facts.equal.iter().map(|columns| ColumnsMessage {
        columns: columns.iter().map(|column| *column as u64).collect(),
    });
    Ok(ShuffleReadMessage {
        input_index: read.input_index(),
        schema: Some(read.schema().as_ref().try_into()?),
        streams: match read.mode() {
            ReadMode::Merged => 0,
            ReadMode::PerMapTask(tasks) => tasks,
        },
        orderings,
        constants,
        equal: equal.collect(),
    })
}

fn decode_read(
    read: &ShuffleReadMessage,
    context: &PhysicalPlanDecodeContext<'_>,
    converter: &dyn PhysicalProtoConverterExtension,
) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = schema_of(read.schema.as_ref())?;
    let mode = match read.streams {
        0 => ReadMode::Merged,
        tasks => ReadMode::PerMapTask(tasks),
    };
    let mut orderings = Vec::with_capacity(read.orderings.len());
    for ordering in &read.orderings {
        let sort =
            parse_physical_sort_exprs(&ordering.physical_sort_expr_nodes, context, &schema, converter)?;
        orderings.extend(LexOrdering::new(sort));
    }
    let constants = read.constants.iter().map(|constant| {
        let value = constant.value.as_ref().map(|value| {
            let literal = converter.proto_to_physical_expr(value, &schema, context)?;
            let literal = literal.downcast_ref::<Literal>();
            let literal = literal.ok_or_else(|| malformed("a constant is no literal"))?;
            Ok::<_, DataFusionError>(literal.value().clone())
        });
        Ok((index(constant.column)?, value.transpose()?))
    });
    let equal = read
        .equal
        .iter()
        .map(|set| set.columns.iter().map(|column| index(*column)).collect());
    let facts = RowFacts {
        orderings,
        constants: constants.collect::<Result<_>>()?,
        equal: equal.collect::<Result<_>>()?,
    };
    Ok(Arc::new(ShuffleReadExec::try_new(
        read.input_index,
        &schema,
        mode,
        facts,
    )?))
}

fn encode_scan(
    codec: &FragmentCodec,
    scan: &ScanExec,
    converter: &dyn PhysicalProtoConverterExtension,
) -> Result<ScanMessage> {
    let source = converter.execution_plan_to_proto(scan.source(), codec)?;
    let mut message = ScanMessage {
        leaf: scan.leaf(),
        source: Some(Box::new(source)),
        compression: None,
        limit: None,
        arrow_stream: false,
        sample: scan.sample().map(|sample| SampleMessage {
            together: sample.method == Method::System,
            percent: sample.percent,
            seed: sample.seed,
        }),
    };
    if let Some(config) = file_config(scan.source()) {
        let compression = CompressionTypeVariant::from(config.file_compression_type);
        message.compression = Some(compression.to_string());
        message.limit = config.limit.map(|limit| limit as u64);
        message.arrow_stream = config.file_source().file_type() == "arrow_stream";
    }
    Ok(message)
}

fn decode_scan(
    scan: &ScanMessage,
    context: &PhysicalPlanDecodeContext<'_>,
    converter: &dyn PhysicalProtoConverterExtension,
) -> Result<Arc<dyn ExecutionPlan>> {
    let source = scan
        .source
        .as_deref()
        .ok_or_else(|| malformed("a scan without source"))?;
    let mut source = converter.proto_to_execution_plan(source, context)?;
    if let Some(config) = file_config(&source) {
        source = DataSourceExec::from_data_source(restore(config, scan)?);
    }
    let sample = scan.sample.as_ref().map(|sample| Sample {
        method: if sample.together {
            Method::System
        } else {
            Method::Bernoulli
        },
        percent: sample.percent,
        seed: sample.seed,
    });
    Ok(Arc::new(ScanExec::new(scan.leaf, source).sampled(sample)))
}

/// Puts back the options that the encoding lost.
fn restore(config: &FileScanConfig, scan: &ScanMessage) -> Result<FileScanConfig> {
    let limit = scan.limit.map(index).transpose()?;
    let mut builder = FileScanConfigBuilder::from(config.clone()).with_limit(limit);
    if let Some(compression) = &scan.compression {
        builder = builder.with_file_compression_type(FileCompressionType::from_str(compression)?);
    }
    if scan.arrow_stream {
        let stream: Arc<dyn FileSource> = Arc::new(ArrowSource::new_stream_file_source(
            config.file_source().table_schema().clone(),
        ));
        let stream = match config.file_source().projection() {
            Some(projection) => stream.try_pushdown_projection(projection)?.unwrap_or(stream),
            None => stream,
        };
        builder = builder.with_source(stream);
    }
    Ok(builder.build())
}
