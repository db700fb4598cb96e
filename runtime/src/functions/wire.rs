//! Checked expressions and aggregates in fragments: which function, and what is checked.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{AggregateUDF, Operator, ScalarUDF};
use datafusion_proto::protobuf;
use prost::Message;

use super::{Canonical, Checked, Exact, Extreme, FUNCTIONS, Operation};

#[derive(Clone, PartialEq, Message)]
struct CheckedMessage {
    /// As the query has it.
    #[prost(string, tag = "1")]
    text: String,
    #[prost(oneof = "Kind", tags = "2, 3, 4, 5, 6")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    /// The function's name.
    #[prost(string, tag = "2")]
    Function(String),
    #[prost(message, tag = "3")]
    Binary(OperatorsMessage),
    #[prost(bool, tag = "4")]
    Negate(bool),
    #[prost(message, tag = "5")]
    Cast(protobuf::ArrowType),
    #[prost(bool, tag = "6")]
    Canonical(bool),
}

#[derive(Clone, PartialEq, Message)]
struct OperatorsMessage {
    /// As SQL writes them.
    #[prost(string, repeated, tag = "1")]
    operators: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct AggregateMessage {
    /// [`EXACT`], [`CANONICAL`] or [`EXTREME`].
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(string, tag = "2")]
    function: String,
}

const EXACT: u32 = 1;
const CANONICAL: u32 = 2;
const EXTREME: u32 = 3;

const OPERATORS: [Operator; 8] = [
    Operator::Plus,
    Operator::Minus,
    Operator::Multiply,
    Operator::Divide,
    Operator::Modulo,
    Operator::BitwiseShiftLeft,
    Operator::BitwiseShiftRight,
    Operator::StringConcat,
];

fn malformed(error: &dyn std::fmt::Display) -> DataFusionError {
    DataFusionError::Plan(format!("malformed function of a fragment: {error}"))
}

/// Writes what a function is beside its name; nothing where that is all.
pub(crate) fn encode_scalar(function: &ScalarUDF, buf: &mut Vec<u8>) -> Result<()> {
    let Some(checked) = function.inner().downcast_ref::<Checked>() else {
        return Ok(());
    };
    let kind = match checked.operation() {
        Operation::Function(function) => Kind::Function(function.name().to_owned()),
        Operation::Binary(operators) => Kind::Binary(OperatorsMessage {
            operators: operators.iter().map(ToString::to_string).collect(),
        }),
        Operation::Negate => Kind::Negate(true),
        Operation::Cast(target) => Kind::Cast(target.try_into()?),
        Operation::Canonical => Kind::Canonical(true),
    };
    let message = CheckedMessage {
        text: checked.text().to_owned(),
        kind: Some(kind),
    };
    message.encode(buf).map_err(|error| malformed(&error))
}

/// # Errors
/// Bytes that [`encode_scalar`] did not write, or a function that this build does not have.
pub(crate) fn decode_scalar(name: &str, buf: &[u8]) -> Result<Arc<ScalarUDF>> {
    let message = CheckedMessage::decode(buf).map_err(|error| malformed(&error))?;
    let unknown = || DataFusionError::NotImplemented(format!("this build has no function {name}"));
    let operation = match message.kind.ok_or_else(unknown)? {
        Kind::Function(function) => {
            let function = FUNCTIONS.scalar_functions().get(&function);
            Operation::Function(Arc::clone(function.ok_or_else(unknown)?))
        }
        Kind::Binary(message) => {
            let operators = message.operators.iter().map(|text| {
                let operator = OPERATORS
                    .into_iter()
                    .find(|operator| operator.to_string() == *text);
                operator.ok_or_else(unknown)
            });
            Operation::Binary(operators.collect::<Result<_>>()?)
        }
        Kind::Negate(_) => Operation::Negate,
        Kind::Cast(target) => Operation::Cast(DataType::try_from(&target)?),
        Kind::Canonical(_) => Operation::Canonical,
    };
    Ok(Arc::new(ScalarUDF::from(Checked::new(operation, message.text))))
}

/// As [`encode_scalar`], for aggregates.
pub(crate) fn encode_aggregate(function: &AggregateUDF, buf: &mut Vec<u8>) -> Result<()> {
    let implementation = function.inner();
    let (kind, inner) = if let Some(exact) = implementation.downcast_ref::<Exact>() {
        (EXACT, exact.function())
    } else if let Some(canonical) = implementation.downcast_ref::<Canonical>() {
        (CANONICAL, canonical.function())
    } else if let Some(extreme) = implementation.downcast_ref::<Extreme>() {
        (EXTREME, extreme.function())
    } else {
        return Ok(());
    };
    let message = AggregateMessage {
        kind,
        function: inner.name().to_owned(),
    };
    message.encode(buf).map_err(|error| malformed(&error))
}

/// # Errors
/// Bytes that [`encode_aggregate`] did not write, or a function that this build does not have.
pub(crate) fn decode_aggregate(name: &str, buf: &[u8]) -> Result<Arc<AggregateUDF>> {
    let message = AggregateMessage::decode(buf).map_err(|error| malformed(&error))?;
    let unknown = || DataFusionError::NotImplemented(format!("this build has no aggregate function {name}"));
    let inner = FUNCTIONS.aggregate_functions().get(&message.function);
    let inner = inner.ok_or_else(unknown)?;
    Ok(Arc::new(match message.kind {
        EXACT => AggregateUDF::from(Exact::named(inner).ok_or_else(unknown)?),
        CANONICAL => AggregateUDF::from(Canonical::new(inner)),
        EXTREME => AggregateUDF::from(Extreme::named(inner).ok_or_else(unknown)?),
        _ => return Err(unknown()),
    }))
}
