//! Scalar functions, arithmetic and casts that end in a value, or in an error that names them.

use std::fmt::Write;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{ExprSchema, ScalarValue};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::binary::BinaryTypeCoercer;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ExpressionPlacement, Operator, ReturnFieldArgs, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, StructFieldMapping, Volatility,
};

use super::error::guarded;
use super::floats::{canonical_value, contains_float};
use super::null_slots;
use super::operation::Operation;
use super::text::sql_type;

/// An expression that is checked while it runs. To the planner it is the function that it stands for.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    operation: Operation,
    /// As the query has it, for messages.
    text: String,
    /// Of what is no function.
    signature: Signature,
}

// The text decides nothing: the same operation over the same operands has the same values.
impl PartialEq for Checked {
    fn eq(&self, other: &Self) -> bool {
        self.operation == other.operation
    }
}

impl Eq for Checked {}

impl Hash for Checked {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.operation.hash(state);
    }
}

impl Checked {
    pub(crate) fn new(operation: Operation, text: String) -> Self {
        let operands = match operation {
            Operation::Binary(ref operators) => operators.len() + 1,
            Operation::Function(_) | Operation::Negate | Operation::Cast(_) | Operation::Canonical => 1,
        };
        Self {
            operation,
            text,
            signature: Signature::any(operands, Volatility::Immutable),
        }
    }

    /// The call of an operation over operands.
    pub(crate) fn call(operation: Operation, text: String, operands: Vec<Expr>) -> Expr {
        let function = ScalarUDF::from(Self::new(operation, text));
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(function), operands))
    }

    pub(crate) fn operation(&self) -> &Operation {
        &self.operation
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    fn function(&self) -> Option<&ScalarUDF> {
        match &self.operation {
            Operation::Function(function) => Some(function),
            Operation::Binary(_) | Operation::Negate | Operation::Cast(_) | Operation::Canonical => None,
        }
    }

    fn implementation(&self) -> Option<&dyn ScalarUDFImpl> {
        self.function().map(|function| function.inner().as_ref())
    }
}

fn without_operand() -> DataFusionError {
    DataFusionError::Internal("an operator lacks an operand".into())
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &str {
        match &self.operation {
            Operation::Function(function) => function.name(),
            Operation::Binary(operators) => match operators.as_slice() {
                [Operator::Plus] => "add",
                [Operator::Minus] => "subtract",
                [Operator::Multiply] => "multiply",
                [Operator::Divide] => "divide",
                [Operator::Modulo] => "modulo",
                [Operator::BitwiseShiftLeft] => "shift_left",
                [Operator::BitwiseShiftRight] => "shift_right",
                [Operator::StringConcat] => "concat_operator",
                _ => "operators",
            },
            Operation::Negate => "negate",
            Operation::Cast(_) => "checked_cast",
            Operation::Canonical => "canonical_float",
        }
    }

    fn aliases(&self) -> &[String] {
        self.function().map_or(&[], ScalarUDF::aliases)
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        match (&self.operation, args) {
            (Operation::Function(function), args) => function.schema_name(args),
            (Operation::Binary(operators), [first, rest @ ..]) => {
                let mut name = first.schema_name().to_string();
                for (operator, operand) in operators.iter().zip(rest) {
                    let _infallible = write!(name, " {operator} {}", operand.schema_name());
                }
                Ok(name)
            }
            // A key of a join stands beside the column that it is made of: the names must differ.
            (Operation::Cast(target), [operand]) => {
                Ok(format!("CAST({} AS {})", operand.schema_name(), sql_type(target)))
            }
            (Operation::Negate, [operand]) => Ok(format!("(- {})", operand.schema_name())),
            (_, [operand]) => Ok(format!("{}({})", self.name(), operand.schema_name())),
            _ => Err(without_operand()),
        }
    }

    fn signature(&self) -> &Signature {
        self.function().map_or(&self.signature, ScalarUDF::signature)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match (&self.operation, types) {
            (Operation::Function(function), types) => function.return_type(types),
            (Operation::Binary(operators), [first, rest @ ..]) => {
                let mut operands = operators.iter().zip(rest);
                operands.try_fold(first.clone(), |left, (operator, right)| {
                    BinaryTypeCoercer::new(&left, operator, right).get_result_type()
                })
            }
            (Operation::Cast(target), _) => Ok(target.clone()),
            (_, [operand]) => Ok(operand.clone()),
            _ => Err(without_operand()),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        if let Some(function) = self.function() {
            return function.return_field_from_args(args);
        }
        let types: Vec<_> = args
            .arg_fields
            .iter()
            .map(|field| field.data_type().clone())
            .collect();
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        let field = Field::new(self.name(), self.return_type(&types)?, nullable);
        Ok(Arc::new(match (&self.operation, args.arg_fields) {
            (Operation::Canonical | Operation::Negate, [operand]) => {
                field.with_metadata(operand.metadata().clone())
            }
            _ => field,
        }))
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        let updated = self.implementation()?.with_updated_config(config)?;
        let operation = Operation::Function(Arc::new(updated));
        Some(ScalarUDF::from(Self::new(operation, self.text.clone())))
    }

    #[allow(deprecated, reason = "it is asked of the function as DataFusion asks it")]
    fn is_nullable(&self, args: &[Expr], schema: &dyn ExprSchema) -> bool {
        self.function()
            .is_none_or(|function| function.is_nullable(args, schema))
    }

    fn is_strict(&self) -> bool {
        self.implementation().is_none_or(ScalarUDFImpl::is_strict)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let result = args.return_field.data_type().clone();
        let run = |args| guarded(&self.text, &result, || self.operation.run(&self.text, args));
        let value = match run(args.clone()) {
            Ok(value) => value,
            // It may have failed for what lies under NULL.
            Err(error) => run(null_slots::zeroed(args).ok_or(error)?)?,
        };
        if contains_float(&result) {
            return canonical_value(value);
        }
        Ok(value)
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let Some(function) = self.implementation() else {
            return Ok(ExprSimplifyResult::Original(args));
        };
        Ok(match function.simplify(args, info)? {
            ExprSimplifyResult::Simplified(expr) => {
                ExprSimplifyResult::Simplified(super::rewrite::checked(expr, info.schema())?)
            }
            ExprSimplifyResult::Original(args) => ExprSimplifyResult::Original(args),
        })
    }

    fn preimage(&self, args: &[Expr], literal: &Expr, info: &SimplifyContext) -> Result<PreimageResult> {
        self.implementation()
            .map_or(Ok(PreimageResult::None), |function| {
                function.preimage(args, literal, info)
            })
    }

    fn short_circuits(&self) -> bool {
        self.implementation().is_some_and(ScalarUDFImpl::short_circuits)
    }

    fn conditional_arguments<'a>(&self, args: &'a [Expr]) -> Option<(Vec<&'a Expr>, Vec<&'a Expr>)> {
        self.implementation()?.conditional_arguments(args)
    }

    fn evaluate_bounds(&self, input: &[&Interval]) -> Result<Interval> {
        match self.implementation() {
            Some(function) => function.evaluate_bounds(input),
            None => Interval::make_unbounded(&DataType::Null),
        }
    }

    fn propagate_constraints(
        &self,
        interval: &Interval,
        inputs: &[&Interval],
    ) -> Result<Option<Vec<Interval>>> {
        match self.implementation() {
            Some(function) => function.propagate_constraints(interval, inputs),
            None => Ok(Some(vec![])),
        }
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        match self.implementation() {
            Some(function) => function.output_ordering(inputs),
            None => Ok(SortProperties::Unordered),
        }
    }

    fn preserves_lex_ordering(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.implementation()
            .map_or(Ok(false), |function| function.preserves_lex_ordering(inputs))
    }

    fn strictly_order_preserving(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.implementation()
            .map_or(Ok(false), |function| function.strictly_order_preserving(inputs))
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match self.implementation() {
            Some(function) => function.coerce_types(types),
            None => Ok(types.to_vec()),
        }
    }

    fn struct_field_mapping(&self, literals: &[Option<ScalarValue>]) -> Option<StructFieldMapping> {
        self.implementation()?.struct_field_mapping(literals)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.function()?.documentation()
    }

    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        self.implementation()
            .map_or(ExpressionPlacement::KeepInPlace, |function| {
                function.placement(args)
            })
    }
}
