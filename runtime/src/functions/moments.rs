//! Functions of the moments of their arguments: variance, covariance, correlation, regression.
//!
//! An infinity counts as NaN in them. DataFusion's means step from value to value: behind an infinity they are infinite or
//! NaN by the order of rows.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, Float64Array};
use datafusion::arrow::datatypes::Float64Type;

const NAMES: [&str; 15] = [
    "corr",
    "covar_pop",
    "covar_samp",
    "regr_avgx",
    "regr_avgy",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "stddev",
    "stddev_pop",
    "var",
    "var_pop",
];

/// Whether an aggregate is such a function.
pub(super) fn is_of_moments(name: &str) -> bool {
    NAMES.contains(&name)
}

/// The arguments with NaN for infinities.
pub(super) fn without_infinities(arguments: &[ArrayRef]) -> Vec<ArrayRef> {
    let finite = |array: &ArrayRef| match array.as_primitive_opt::<Float64Type>() {
        Some(floats) if floats.values().iter().any(|value| value.is_infinite()) => {
            let finite: Float64Array =
                floats.unary(|value| if value.is_infinite() { f64::NAN } else { value });
            Arc::new(finite) as ArrayRef
        }
        Some(_) | None => Arc::clone(array),
    };
    arguments.iter().map(finite).collect()
}
