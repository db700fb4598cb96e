//! What lies under NULL. Kernels compute there too: an aggregate that has met no value leaves the least or the largest number of
//! its type under NULL, with which `date_trunc` overflows.

use datafusion::arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, PrimitiveArray, downcast_primitive_array,
};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs};
use std::sync::Arc;

/// The arguments with zeros under NULL; `None` if there is no NULL among numbers and times.
pub(super) fn zeroed(mut args: ScalarFunctionArgs) -> Option<ScalarFunctionArgs> {
    let mut changed = false;
    for value in &mut args.args {
        if let ColumnarValue::Array(array) = value
            && let Some(zeroed) = zeroed_array(array)
        {
            *array = zeroed;
            changed = true;
        }
    }
    changed.then_some(args)
}

fn zeroed_array(array: &ArrayRef) -> Option<ArrayRef> {
    downcast_primitive_array!(
        array => zeroed_primitive(array),
        _ => None,
    )
}

fn zeroed_primitive<T: ArrowPrimitiveType>(array: &PrimitiveArray<T>) -> Option<ArrayRef> {
    let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0)?;
    let values = array.iter().map(Option::unwrap_or_default);
    let zeroed = PrimitiveArray::<T>::new(values.collect(), Some(nulls.clone()));
    Some(Arc::new(zeroed.with_data_type(array.data_type().clone())))
}
