//! The least and the greatest key of a filter: found while rows are written, and a condition by which a scan leaves out files and
//! row groups.

use std::sync::Arc;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::DataType;
use datafusion::error::Result;
use datafusion::functions_aggregate::min_max::{MaxAccumulator, MinAccumulator};
use datafusion::logical_expr::{Accumulator, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use sluice_core::key_filter::{KeyBounds, MAX_BOUND_BYTES};

use super::keys::{bytes, has_order, key_of_bytes, key_of_number, number};

/// Finds the bounds of all keys that are added.
#[derive(Default)]
pub(super) struct BoundsBuilder {
    extremes: Option<(MinAccumulator, MaxAccumulator)>,
}

impl BoundsBuilder {
    pub(super) fn add(&mut self, keys: &ArrayRef) -> Result<()> {
        if !has_order(keys.data_type()) {
            return Ok(());
        }
        if self.extremes.is_none() {
            let data_type = keys.data_type();
            let least = MinAccumulator::try_new(data_type)?;
            self.extremes = Some((least, MaxAccumulator::try_new(data_type)?));
        }
        if let Some((least, greatest)) = &mut self.extremes {
            least.update_batch(std::slice::from_ref(keys))?;
            greatest.update_batch(std::slice::from_ref(keys))?;
        }
        Ok(())
    }

    /// The bounds; none without keys, and where they take too much room.
    pub(super) fn finish(self) -> Result<Option<KeyBounds>> {
        let Some((mut least, mut greatest)) = self.extremes else {
            return Ok(None);
        };
        let (least, greatest) = (least.evaluate()?, greatest.evaluate()?);
        if let (Some(least), Some(greatest)) = (number(&least), number(&greatest)) {
            return Ok(Some(KeyBounds::Numbers { least, greatest }));
        }
        let bounds = bytes(&least).zip(bytes(&greatest));
        let fits = |bound: &Vec<u8>| bound.len() <= MAX_BOUND_BYTES;
        let bounds = bounds.filter(|(least, greatest)| fits(least) && fits(greatest));
        Ok(bounds.map(|(least, greatest)| KeyBounds::Bytes { least, greatest }))
    }
}

/// That a key of this column lies within the bounds; `None` if the type has no such keys.
pub(super) fn within(
    bounds: &KeyBounds,
    column: &Column,
    data_type: &DataType,
) -> Option<Arc<dyn PhysicalExpr>> {
    let (least, greatest) = match bounds {
        KeyBounds::Numbers { least, greatest } => (
            key_of_number(*least, data_type)?,
            key_of_number(*greatest, data_type)?,
        ),
        KeyBounds::Bytes { least, greatest } => (
            key_of_bytes(least, data_type)?,
            key_of_bytes(greatest, data_type)?,
        ),
    };
    let compare = |operator, bound| -> Arc<dyn PhysicalExpr> {
        Arc::new(BinaryExpr::new(
            Arc::new(column.clone()),
            operator,
            Arc::new(Literal::new(bound)),
        ))
    };
    Some(Arc::new(BinaryExpr::new(
        compare(Operator::GtEq, least),
        Operator::And,
        compare(Operator::LtEq, greatest),
    )))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{
        Date32Array, Decimal128Array, Float64Array, Int64Array, StringViewArray, TimestampMicrosecondArray,
        UInt64Array,
    };

    use super::*;

    fn bounds_of(batches: &[ArrayRef]) -> Option<KeyBounds> {
        let mut builder = BoundsBuilder::default();
        for keys in batches {
            builder.add(keys).expect("keys have extremes");
        }
        builder.finish().expect("keys have extremes")
    }

    #[test]
    fn bounds_hold_for_all_batches_and_come_back_as_keys() {
        let long = "x".repeat(MAX_BOUND_BYTES + 1);
        let cases: [(Vec<ArrayRef>, Option<&str>); 9] = [
            (
                vec![
                    Arc::new(Int64Array::from(vec![Some(3), None, Some(-7)])),
                    Arc::new(Int64Array::from(vec![None, Some(5)])),
                    Arc::new(Int64Array::from(vec![None::<i64>])),
                ],
                Some("k@0 >= -7 AND k@0 <= 5"),
            ),
            (
                vec![Arc::new(UInt64Array::from(vec![u64::MAX, 1]))],
                Some("k@0 >= 1 AND k@0 <= 18446744073709551615"),
            ),
            (
                vec![Arc::new(Date32Array::from(vec![0, 1]))],
                Some("k@0 >= 1970-01-01 AND k@0 <= 1970-01-02"),
            ),
            (
                vec![Arc::new(
                    TimestampMicrosecondArray::from(vec![5]).with_timezone("+00:00"),
                )],
                Some("k@0 >= 5 AND k@0 <= 5"),
            ),
            (
                vec![Arc::new(
                    Decimal128Array::from(vec![150])
                        .with_precision_and_scale(10, 2)
                        .expect("it fits"),
                )],
                Some("k@0 >= 1.50 AND k@0 <= 1.50"),
            ),
            (
                vec![Arc::new(StringViewArray::from(vec![Some("b"), None, Some("ab")]))],
                Some("k@0 >= ab AND k@0 <= b"),
            ),
            (vec![Arc::new(StringViewArray::from(vec![long.as_str()]))], None),
            (vec![Arc::new(Float64Array::from(vec![1.0]))], None),
            (vec![Arc::new(Int64Array::from(vec![None::<i64>]))], None),
        ];
        for (batches, expected) in cases {
            let data_type = batches[0].data_type().clone();
            let bounds = bounds_of(&batches);
            let text = bounds.map(|bounds| {
                let condition = within(&bounds, &Column::new("k", 0), &data_type).expect("keys of the type");
                condition.to_string()
            });
            assert_eq!(text.as_deref(), expected, "{data_type}");
        }
    }

    #[test]
    fn bounds_of_another_type_are_no_condition() {
        let column = Column::new("k", 0);
        let numbers = KeyBounds::Numbers {
            least: -1,
            greatest: 1 << 70,
        };
        for data_type in [
            DataType::Int64,
            DataType::UInt8,
            DataType::Utf8,
            DataType::Float64,
        ] {
            assert!(within(&numbers, &column, &data_type).is_none(), "{data_type}");
        }
        let texts = KeyBounds::Bytes {
            least: vec![0xff],
            greatest: vec![0xff],
        };
        assert!(within(&texts, &column, &DataType::Utf8).is_none());
    }
}
