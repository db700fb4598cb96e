//! Aggregates that compute floats, with canonical results: the order of the values may decide which NaN or zero is
//! computed.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray};
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::expr::{AggregateFunctionParams, WindowFunctionParams};
use datafusion::logical_expr::function::{AccumulatorArgs, AggregateFunctionSimplification, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, Expr, GroupsAccumulator,
    ReversedUDAF, SetMonotonicity, Signature,
};

use super::float_window::FloatWindow;
use super::floats::{canonical_array, canonical_scalar};
use super::merged_window::MergedWindow;
use super::moments::{is_of_moments, without_infinities};

/// An aggregate function of which the results have the one form of floats.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Canonical {
    function: Arc<AggregateUDF>,
}

impl Canonical {
    pub(crate) fn new(function: &Arc<AggregateUDF>) -> Self {
        Self {
            function: Arc::clone(function),
        }
    }

    pub(crate) fn function(&self) -> &Arc<AggregateUDF> {
        &self.function
    }
}

/// The planner sees a checked aggregate as the function that it wraps.
macro_rules! as_its_function {
    () => {
        fn name(&self) -> &str {
            self.function.name()
        }

        fn aliases(&self) -> &[String] {
            self.function.aliases()
        }

        fn schema_name(&self, params: &AggregateFunctionParams) -> Result<String> {
            self.function.schema_name(params)
        }

        fn human_display(&self, params: &AggregateFunctionParams) -> Result<String> {
            self.function.human_display(params)
        }

        fn window_function_schema_name(&self, params: &WindowFunctionParams) -> Result<String> {
            self.function.window_function_schema_name(params)
        }

        fn display_name(&self, params: &AggregateFunctionParams) -> Result<String> {
            self.function.display_name(params)
        }

        fn window_function_display_name(&self, params: &WindowFunctionParams) -> Result<String> {
            self.function.window_function_display_name(params)
        }

        fn signature(&self) -> &Signature {
            self.function.signature()
        }

        fn return_type(&self, types: &[DataType]) -> Result<DataType> {
            self.function.return_type(types)
        }

        fn return_field(&self, fields: &[FieldRef]) -> Result<FieldRef> {
            self.function.return_field(fields)
        }

        fn is_nullable(&self) -> bool {
            self.function.is_nullable()
        }

        fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
            self.function.coerce_types(types)
        }

        fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
            self.function.default_value(data_type)
        }

        fn supports_null_handling_clause(&self) -> bool {
            self.function.supports_null_handling_clause()
        }

        fn supports_within_group_clause(&self) -> bool {
            self.function.supports_within_group_clause()
        }

        fn documentation(&self) -> Option<&Documentation> {
            self.function.documentation()
        }

        fn order_sensitivity(&self) -> AggregateOrderSensitivity {
            self.function.order_sensitivity()
        }
    };
}
pub(super) use as_its_function;

impl AggregateUDFImpl for Canonical {
    as_its_function!();

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(CanonicalAccumulator {
            inner: self.function.accumulator(args)?,
            of_moments: is_of_moments(self.function.name()),
        }))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        if let Some(window) = FloatWindow::of(self.function.name(), &args) {
            return Ok(Box::new(window));
        }
        if let Some(window) = MergedWindow::of(&self.function, &args)? {
            return Ok(Box::new(window));
        }
        let sliding = self.function.create_sliding_accumulator(args)?;
        Ok(Box::new(CanonicalAccumulator {
            inner: sliding,
            of_moments: false,
        }))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        self.function.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.function.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        let groups = self.function.create_groups_accumulator(args)?;
        Ok(Box::new(CanonicalGroups {
            inner: groups,
            of_moments: is_of_moments(self.function.name()),
        }))
    }

    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        let simplify = self.function.simplify()?;
        Some(Box::new(move |function, info| {
            let simple: Expr = simplify(function, info)?;
            super::rewrite::checked(simple, info.schema())
        }))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        match self.function.reverse_udf() {
            ReversedUDAF::Identical => ReversedUDAF::Identical,
            ReversedUDAF::NotSupported => ReversedUDAF::NotSupported,
            ReversedUDAF::Reversed(reversed) => {
                ReversedUDAF::Reversed(Arc::new(AggregateUDF::from(Self::new(&reversed))))
            }
        }
    }

    fn set_monotonicity(&self, _: &DataType) -> SetMonotonicity {
        SetMonotonicity::NotMonotonic
    }
}

#[derive(Debug)]
struct CanonicalAccumulator {
    inner: Box<dyn Accumulator>,
    of_moments: bool,
}

impl Accumulator for CanonicalAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        if self.of_moments {
            return self.inner.update_batch(&without_infinities(values));
        }
        self.inner.update_batch(values)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        canonical_scalar(self.inner.evaluate()?)
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.inner.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.inner.merge_batch(states)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.retract_batch(values)
    }

    fn supports_retract_batch(&self) -> bool {
        self.inner.supports_retract_batch()
    }
}

struct CanonicalGroups {
    inner: Box<dyn GroupsAccumulator>,
    of_moments: bool,
}

impl GroupsAccumulator for CanonicalGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        count: usize,
    ) -> Result<()> {
        if self.of_moments {
            let values = without_infinities(values);
            return self.inner.update_batch(&values, groups, filter, count);
        }
        self.inner.update_batch(values, groups, filter, count)
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        canonical_array(&self.inner.evaluate(emit)?)
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        self.inner.state(emit)
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], count: usize) -> Result<()> {
        self.inner.merge_batch(states, groups, count)
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        if self.of_moments {
            return self.inner.convert_to_state(&without_infinities(values), filter);
        }
        self.inner.convert_to_state(values, filter)
    }

    fn size(&self) -> usize {
        self.inner.size()
    }
}
