//! The runtime filters that an attempt makes of the rows that it writes.

use std::sync::Arc;

use datafusion::arrow::array::{Array, RecordBatch};
use datafusion::error::{DataFusionError, Result};
use sluice_core::key_filter::{KeyFilter, KeyFilterBuilder};

use super::MadeFilter;
use super::bounds::BoundsBuilder;
use super::lookup::hash_keys;
use super::values::ValuesBuilder;

/// What one filter is made of.
struct OneFilter {
    column: usize,
    hashes: KeyFilterBuilder,
    bounds: BoundsBuilder,
    values: ValuesBuilder,
}

/// Collects the keys of all rows.
pub(crate) struct FilterMaker {
    filters: Vec<OneFilter>,
    hashes: Vec<u64>,
}

impl FilterMaker {
    pub(crate) fn new(filters: &[MadeFilter]) -> Self {
        let builder = |made: &MadeFilter| OneFilter {
            column: made.column as usize,
            hashes: KeyFilterBuilder::new(usize::try_from(made.max_bytes).unwrap_or(usize::MAX)),
            bounds: BoundsBuilder::default(),
            values: ValuesBuilder::default(),
        };
        Self {
            filters: filters.iter().map(builder).collect(),
            hashes: Vec::new(),
        }
    }

    /// Adds the keys of some rows. A NULL is skipped, since it matches nothing.
    pub(crate) fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        for filter in &mut self.filters {
            let column = filter.column;
            let keys: &Arc<dyn Array> = batch.columns().get(column).ok_or_else(|| {
                DataFusionError::Internal(format!("a runtime filter is made of column {column}"))
            })?;
            hash_keys(keys, &mut self.hashes)?;
            filter.bounds.add(keys)?;
            filter.values.add(keys, &self.hashes)?;
            for (row, hash) in self.hashes.iter().enumerate() {
                if keys.is_valid(row) {
                    filter.hashes.insert(*hash);
                }
            }
        }
        Ok(())
    }

    /// The filters, in their order.
    pub(crate) fn finish(self) -> Result<Vec<KeyFilter>> {
        let filters = self.filters.into_iter().map(|filter| {
            Ok(KeyFilter {
                hashes: filter.hashes.finish(),
                bounds: filter.bounds.finish()?,
                values: filter.values.finish(),
            })
        });
        filters.collect()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int64Array, StringArray};
    use sluice_core::key_filter::{KeyBounds, KeyHashes, KeyValues};

    use super::*;

    fn exact_keys(filter: &KeyFilter) -> Option<usize> {
        match &filter.hashes {
            KeyHashes::Exact(hashes) => Some(hashes.len()),
            KeyHashes::Bloom(_) | KeyHashes::Everything => None,
        }
    }

    #[test]
    fn each_filter_has_the_keys_of_its_column_and_null_is_none() {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(1), Some(3)]));
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), Some("b"), None, Some("c")]));
        let columns = [("n", Arc::clone(&numbers)), ("t", Arc::clone(&texts))];
        let batch =
            RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true)));
        let made = [1, 0].map(|column| MadeFilter {
            column,
            max_bytes: 1 << 20,
        });
        let mut filters = FilterMaker::new(&made);
        filters.add(&batch.expect("a batch")).expect("keys have hashes");
        let filters = filters.finish().expect("keys have extremes");
        assert_eq!(
            filters.iter().map(exact_keys).collect::<Vec<_>>(),
            [Some(3), Some(2)]
        );
        let bounds = KeyBounds::Numbers {
            least: 1,
            greatest: 3,
        };
        assert_eq!(filters[1].bounds, Some(bounds));
        let texts_found = ["a", "b", "c"].map(|text| text.as_bytes().to_vec());
        let values = filters.iter().map(|filter| filter.values.clone());
        assert_eq!(
            values.collect::<Vec<_>>(),
            [
                Some(KeyValues::Bytes(texts_found.into())),
                Some(KeyValues::Numbers([1, 3].into()))
            ]
        );
        let mut hashes = Vec::new();
        for (filter, keys) in filters.iter().zip([texts, numbers]) {
            hash_keys(&keys, &mut hashes).expect("keys have hashes");
            let lookup = filter.lookup();
            assert!((0..4).all(|row| keys.is_null(row) || lookup.admits(hashes[row])));
        }
    }
}
