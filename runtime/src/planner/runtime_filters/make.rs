//! The runtime filters that an attempt makes of the rows that it writes.

use std::sync::Arc;

use datafusion::arrow::array::{Array, RecordBatch};
use datafusion::error::{DataFusionError, Result};
use sluice_core::key_filter::{KeyFilter, KeyFilterBuilder};

use super::MadeFilter;
use super::bounds::BoundsBuilder;
use super::exec::hash_keys;

/// Collects the keys of all rows.
pub(crate) struct FilterMaker {
    filters: Vec<(usize, KeyFilterBuilder, BoundsBuilder)>,
    hashes: Vec<u64>,
}

impl FilterMaker {
    pub(crate) fn new(filters: &[MadeFilter]) -> Self {
        let builder = |made: &MadeFilter| {
            let bytes = usize::try_from(made.max_bytes).unwrap_or(usize::MAX);
            let hashes = KeyFilterBuilder::new(bytes);
            (made.column as usize, hashes, BoundsBuilder::default())
        };
        Self {
            filters: filters.iter().map(builder).collect(),
            hashes: Vec::new(),
        }
    }

    /// Adds the keys of some rows. A NULL is skipped, since it matches nothing.
    pub(crate) fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        for (column, builder, bounds) in &mut self.filters {
            let keys: &Arc<dyn Array> = batch.columns().get(*column).ok_or_else(|| {
                DataFusionError::Internal(format!("a runtime filter is made of column {column}"))
            })?;
            bounds.add(keys)?;
            hash_keys(keys, &mut self.hashes)?;
            for (row, hash) in self.hashes.iter().enumerate() {
                if keys.is_valid(row) {
                    builder.insert(*hash);
                }
            }
        }
        Ok(())
    }

    /// The filters, in their order.
    pub(crate) fn finish(self) -> Result<Vec<KeyFilter>> {
        let filters = self.filters.into_iter().map(|(_, hashes, bounds)| {
            Ok(KeyFilter {
                hashes: hashes.finish(),
                bounds: bounds.finish()?,
            })
        });
        filters.collect()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int64Array, StringArray};
    use sluice_core::key_filter::{KeyBounds, KeyHashes};

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
        let mut hashes = Vec::new();
        for (filter, keys) in filters.iter().zip([texts, numbers]) {
            hash_keys(&keys, &mut hashes).expect("keys have hashes");
            let lookup = filter.lookup();
            assert!((0..4).all(|row| keys.is_null(row) || lookup.admits(hashes[row])));
        }
    }
}
