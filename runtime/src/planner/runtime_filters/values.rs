//! The keys of a filter by value, while they are few: found while rows are written, and a condition by which a scan asks the
//! statistics and Bloom filters of row groups.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::datatypes::Schema;
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, in_list, lit};
use sluice_core::key_filter::{KeyValues, MAX_BOUND_BYTES, MAX_KEY_VALUES};

use super::keys::{bytes, has_order, key_of_bytes, key_of_number, number};

/// Collects the values of all keys that are added, until they are too many.
pub(super) struct ValuesBuilder {
    /// By their hashes; `None` once they are too many or too long.
    found: Option<HashMap<u64, Vec<ScalarValue>>>,
    values: usize,
}

impl Default for ValuesBuilder {
    fn default() -> Self {
        Self {
            found: Some(HashMap::new()),
            values: 0,
        }
    }
}

impl ValuesBuilder {
    /// Adds keys, whose hashes are known. Equal hashes alone do not make keys equal: a key that were left out here would be left out
    /// of the scan.
    pub(super) fn add(&mut self, keys: &ArrayRef, hashes: &[u64]) -> Result<()> {
        if !has_order(keys.data_type()) {
            self.found = None;
        }
        for (row, hash) in hashes.iter().enumerate() {
            let Some(found) = &mut self.found else {
                return Ok(());
            };
            if keys.is_null(row) {
                continue;
            }
            let known = match found.entry(*hash) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => place.insert(Vec::new()),
            };
            let mut is_known = false;
            for value in known.iter() {
                is_known |= value.eq_array(keys, row)?;
            }
            if !is_known {
                known.push(ScalarValue::try_from_array(keys, row)?);
                self.values += 1;
                if self.values > MAX_KEY_VALUES {
                    self.found = None;
                }
            }
        }
        Ok(())
    }

    /// The values; none if they are too many or one is too long.
    pub(super) fn finish(self) -> Option<KeyValues> {
        let found: Vec<ScalarValue> = self.found?.into_values().flatten().collect();
        if let Some(numbers) = found.iter().map(number).collect() {
            return Some(KeyValues::Numbers(numbers));
        }
        let texts = found
            .iter()
            .map(|value| bytes(value).filter(|bytes| bytes.len() <= MAX_BOUND_BYTES));
        Some(KeyValues::Bytes(texts.collect::<Option<_>>()?))
    }
}

/// That a key of this column is one of the values; `None` if the type has no such keys.
pub(super) fn is_one_of(
    values: &KeyValues,
    column: &Column,
    schema: &Schema,
) -> Option<Arc<dyn PhysicalExpr>> {
    let data_type = schema.fields().get(column.index())?.data_type();
    let keys: Option<Vec<ScalarValue>> = match values {
        KeyValues::Numbers(values) => values
            .iter()
            .map(|value| key_of_number(*value, data_type))
            .collect(),
        KeyValues::Bytes(values) => values
            .iter()
            .map(|value| key_of_bytes(value, data_type))
            .collect(),
    };
    let keys: Vec<_> = keys?.into_iter().map(lit).collect();
    if keys.is_empty() {
        return None;
    }
    in_list(Arc::new(column.clone()), keys, &false, schema).ok()
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Date32Array, Decimal128Array, Float64Array, Int64Array, StringArray};
    use datafusion::arrow::datatypes::{DataType, Field};

    use super::*;

    fn values_of(batches: &[ArrayRef]) -> Option<KeyValues> {
        let mut builder = ValuesBuilder::default();
        for keys in batches {
            // The worst hash: all keys have the same.
            builder.add(keys, &vec![7; keys.len()]).expect("keys are values");
        }
        builder.finish()
    }

    #[test]
    fn values_are_all_keys_and_come_back_as_keys() {
        let long = "x".repeat(MAX_BOUND_BYTES + 1);
        let cases: [(Vec<ArrayRef>, Option<&str>); 6] = [
            (
                vec![
                    Arc::new(Int64Array::from(vec![Some(3), None, Some(-7), Some(3)])),
                    Arc::new(Int64Array::from(vec![None, Some(5)])),
                ],
                Some("k@0 IN (SET) ([-7, 3, 5])"),
            ),
            (
                vec![Arc::new(Date32Array::from(vec![1, 0]))],
                Some("k@0 IN (SET) ([1970-01-01, 1970-01-02])"),
            ),
            (
                vec![Arc::new(
                    Decimal128Array::from(vec![150])
                        .with_precision_and_scale(10, 2)
                        .expect("it fits"),
                )],
                Some("k@0 IN (SET) ([1.50])"),
            ),
            (
                vec![Arc::new(StringArray::from(vec![Some("b"), None, Some("ab")]))],
                Some("k@0 IN (SET) ([ab, b])"),
            ),
            (vec![Arc::new(StringArray::from(vec![long.as_str()]))], None),
            (vec![Arc::new(Float64Array::from(vec![1.0]))], None),
        ];
        for (batches, expected) in cases {
            let schema = Schema::new(vec![Field::new("k", batches[0].data_type().clone(), true)]);
            let condition = values_of(&batches).map(|values| {
                let condition = is_one_of(&values, &Column::new("k", 0), &schema).expect("keys of the type");
                condition.to_string()
            });
            assert_eq!(condition.as_deref(), expected, "{}", batches[0].data_type());
        }
    }

    #[test]
    fn values_are_unknown_once_they_are_too_many() {
        let keys = |keys: std::ops::Range<i64>| -> ArrayRef { Arc::new(keys.collect::<Int64Array>()) };
        let most = MAX_KEY_VALUES as i64;
        let known = values_of(&[keys(0..most), keys(0..most)]);
        assert_eq!(known.map(|values| values.len()), Some(MAX_KEY_VALUES));
        assert_eq!(
            values_of(&[keys(0..most), keys(most..most + 1), keys(0..1)]),
            None
        );
    }

    #[test]
    fn values_of_another_type_and_none_are_no_condition() {
        let column = Column::new("k", 0);
        let condition = |values: KeyValues, data_type| {
            is_one_of(
                &values,
                &column,
                &Schema::new(vec![Field::new("k", data_type, true)]),
            )
        };
        let numbers = || KeyValues::Numbers([1 << 70].into());
        assert!(condition(numbers(), DataType::Int64).is_none());
        assert!(condition(numbers(), DataType::Utf8).is_none());
        assert!(condition(KeyValues::Bytes([vec![0xff]].into()), DataType::Utf8).is_none());
        assert!(condition(KeyValues::Numbers([].into()), DataType::Int64).is_none());
    }
}
