//! Tests keys of rows by a filter: in batches, and as a condition that a scan tests before it decodes other columns.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{Array, BooleanArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::hash_utils::{RandomState, create_hashes};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::metrics::Count;
use sluice_core::key_filter::KeyLookup;

/// The hashes of keys, the same at all workers. Another seed than that of partitions, so that the keys of one partition are
/// spread over the whole filter.
const HASHES: RandomState = RandomState::with_seed(0x51ce);

/// The hashes of keys. Those of NULLs mean nothing.
///
/// # Errors
/// A type that has no hash.
pub(crate) fn hash_keys(keys: &Arc<dyn Array>, hashes: &mut Vec<u64>) -> Result<()> {
    hashes.clear();
    hashes.resize(keys.len(), 0);
    create_hashes([keys], &HASHES, hashes)?;
    Ok(())
}

/// Which keys the filter admits. NULL matches nothing.
pub(super) fn admitted(
    lookup: &KeyLookup,
    keys: &Arc<dyn Array>,
    hashes: &mut Vec<u64>,
) -> Result<BooleanArray> {
    hash_keys(keys, hashes)?;
    Ok(match keys.nulls() {
        None => hashes.iter().map(|hash| Some(lookup.admits(*hash))).collect(),
        Some(nulls) => (0..)
            .zip(&*hashes)
            .map(|(row, hash)| Some(nulls.is_valid(row) && lookup.admits(*hash)))
            .collect(),
    })
}

/// Whether a filter admits a key.
pub(super) struct AdmittedExpr {
    key: Arc<dyn PhysicalExpr>,
    lookup: Arc<KeyLookup>,
    /// Counts the keys that it does not admit.
    dropped: Count,
}

impl AdmittedExpr {
    pub(super) fn new(key: Arc<dyn PhysicalExpr>, lookup: Arc<KeyLookup>, dropped: Count) -> Self {
        Self { key, lookup, dropped }
    }
}

impl fmt::Debug for AdmittedExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AdmittedExpr({:?})", self.key)
    }
}

impl fmt::Display for AdmittedExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} admitted", self.key)
    }
}

impl PartialEq for AdmittedExpr {
    fn eq(&self, other: &Self) -> bool {
        self.key.eq(&other.key) && Arc::ptr_eq(&self.lookup, &other.lookup)
    }
}

impl Eq for AdmittedExpr {}

impl Hash for AdmittedExpr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
        Arc::as_ptr(&self.lookup).hash(state);
    }
}

impl PhysicalExpr for AdmittedExpr {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, _: &Schema) -> Result<bool> {
        Ok(false)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let keys = self.key.evaluate(batch)?.into_array(batch.num_rows())?;
        let admitted = admitted(&self.lookup, &keys, &mut Vec::new())?;
        self.dropped.add(admitted.len() - admitted.true_count());
        Ok(ColumnarValue::Array(Arc::new(admitted)))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.key]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let key = children
            .pop()
            .ok_or_else(|| DataFusionError::Internal("a test of a key has one key".to_owned()))?;
        Ok(Arc::new(Self::new(
            key,
            Arc::clone(&self.lookup),
            self.dropped.clone(),
        )))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
