//! What the functions and operators of SQL do with values: one rule for NaN and -0.0, errors instead of overflows and
//! panics, and a bound of what they allocate. docs/sql.md states the rules.
//!
//! [`Checked`] wraps scalar functions, arithmetic and casts; [`Exact`], [`Canonical`] and [`Extreme`] wrap aggregates. A rule of the
//! planner puts them into every query, the wire format carries them to workers.

mod canonical;
mod checked;
mod error;
mod exact;
mod extremes;
mod float_window;
mod floats;
mod growth;
mod interval_sums;
mod merged_window;
mod moments;
mod null_slots;
mod operation;
mod rewrite;
mod summand;
mod sums;
#[cfg(test)]
mod tests;
mod text;
mod wire;

use std::sync::{Arc, LazyLock};

use datafusion::arrow::datatypes::DataType;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::AggregateUDF;

use canonical::Canonical;
use checked::Checked;
use exact::Exact;
use extremes::Extreme;
use operation::Operation;

pub(crate) use error::{reason_of, unread_pattern, without_kind};
pub(crate) use floats::contains_float;
pub(crate) use rewrite::{canonical, check};
pub(crate) use wire::{decode_aggregate, decode_scalar, encode_aggregate, encode_scalar};

/// All functions that a fragment may name, built once per process.
pub(crate) static FUNCTIONS: LazyLock<SessionState> =
    LazyLock::new(|| SessionStateBuilder::new().with_default_features().build());

/// Scalar functions that hand values on as they are and that rules of DataFusion know by their type.
const PASSED_THROUGH: [&str; 3] = ["get_field", "input_file_name", "file_row_index"];

/// Whether a scalar function runs as it is.
fn is_passed_through(name: &str) -> bool {
    PASSED_THROUGH.contains(&name)
}

/// Aggregates that compute floats; the others hand on those they are given.
const COMPUTING: [&str; 24] = [
    "approx_median",
    "approx_percentile_cont",
    "approx_percentile_cont_with_weight",
    "avg",
    "corr",
    "covar_pop",
    "covar_samp",
    "median",
    "percentile_cont",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "stddev",
    "stddev_pop",
    "sum",
    "var",
    "var_pop",
    "var_samp",
];

/// What runs in place of an aggregate function over arguments of these types; `None` where it runs as it is.
fn checked_aggregate(function: &Arc<AggregateUDF>, arguments: &[DataType]) -> Option<Arc<AggregateUDF>> {
    let implementation = function.inner();
    let is_checked = implementation.downcast_ref::<Exact>().is_some()
        || implementation.downcast_ref::<Canonical>().is_some()
        || implementation.downcast_ref::<Extreme>().is_some();
    if is_checked {
        return None;
    }
    if let Some(exact) = Exact::of(function, arguments) {
        return Some(Arc::new(AggregateUDF::from(exact)));
    }
    if let Some(extreme) = Extreme::of(function, arguments) {
        return Some(Arc::new(AggregateUDF::from(extreme)));
    }
    let is_float = function
        .return_type(arguments)
        .is_ok_and(|result| contains_float(&result));
    if is_float && COMPUTING.contains(&function.name()) {
        return Some(Arc::new(AggregateUDF::from(Canonical::new(function))));
    }
    None
}
