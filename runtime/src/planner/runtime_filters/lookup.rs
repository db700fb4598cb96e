//! Tests keys of rows by a filter: in batches, and as a condition that a scan tests before it decodes other columns.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, BooleanArray, RecordBatch, downcast_integer};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::datatypes::{ArrowNativeType, DataType, Date32Type, Schema};
use datafusion::common::hash_utils::{RandomState, create_hashes};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::metrics::Count;
use sluice_core::key_filter::KeyLookup;

/// Of the hashes of keys, the same at all workers. Another seed than that of partitions, so that the keys of one partition are
/// spread over the whole filter.
const SEED: u64 = 0x51ce;

/// The hashes of keys. Those of NULLs mean nothing.
///
/// # Errors
/// A type that has no hash.
pub(crate) fn hash_keys(keys: &Arc<dyn Array>, hashes: &mut Vec<u64>) -> Result<()> {
    hashes.clear();
    if hash_numbers(keys, hashes) {
        return Ok(());
    }
    hashes.resize(keys.len(), 0);
    create_hashes([keys], &RandomState::with_seed(SEED), hashes)?;
    Ok(())
}

/// Hashes keys that are whole numbers of at most 64 bits or days; whether they are. This costs a fifth of a general hash, and the
/// filters of large joins hash each row of a scan.
fn hash_numbers(keys: &dyn Array, hashes: &mut Vec<u64>) -> bool {
    macro_rules! numbers {
        ($key:ty) => {{
            let numbers = keys.as_primitive::<$key>().values().iter();
            hashes.extend(numbers.map(|number| hash_number(number.as_usize() as u64)));
            true
        }};
    }
    downcast_integer! {
        keys.data_type() => (numbers),
        DataType::Date32 => numbers!(Date32Type),
        _ => false,
    }
}

/// A hash whose upper half, which says the word of a filter, is the same for eight neighbours. Keys of large tables mostly lie in the order
/// in which they were given: a scan then reads a word that is in the cache, where each key would wait for memory otherwise.
fn hash_number(number: u64) -> u64 {
    const UPPER: u64 = 0xffff_ffff_0000_0000;
    let own = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    (mix(number >> 3) & UPPER) | own
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, *Fast Splittable Pseudorandom Number Generators*, 2014).
fn mix(word: u64) -> u64 {
    let mut hash = (word ^ SEED).wrapping_add(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// Which keys the filter admits. NULL matches nothing.
pub(super) fn admitted(
    lookup: &KeyLookup,
    keys: &Arc<dyn Array>,
    hashes: &mut Vec<u64>,
) -> Result<BooleanArray> {
    hash_keys(keys, hashes)?;
    let of_row = |row| hashes.get(row).is_some_and(|hash| lookup.admits(*hash));
    let admitted = BooleanBuffer::collect_bool(hashes.len(), of_row);
    let admitted = match keys.nulls() {
        None => admitted,
        Some(nulls) => &admitted & nulls.inner(),
    };
    Ok(BooleanArray::new(admitted, None))
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use datafusion::arrow::array::{ArrayRef, Date32Array, Int8Array, Int64Array, StringArray, UInt64Array};
    use sluice_core::key_filter::KeyFilter;

    use super::*;

    fn hashes(keys: &ArrayRef) -> Vec<u64> {
        let mut hashes = vec![1];
        hash_keys(keys, &mut hashes).expect("keys have hashes");
        hashes
    }

    #[test]
    fn unequal_keys_have_unequal_hashes_and_a_slice_has_those_of_its_rows() {
        let keys: [ArrayRef; 5] = [
            Arc::new(Int64Array::from_iter_values(-500..500)),
            Arc::new(UInt64Array::from_iter_values(
                (0..1_000).map(|key| u64::MAX - key),
            )),
            Arc::new(Int8Array::from_iter_values(i8::MIN..i8::MAX)),
            Arc::new(Date32Array::from_iter_values(-500..500)),
            Arc::new(StringArray::from_iter_values(
                (0..1_000).map(|key| key.to_string()),
            )),
        ];
        for keys in keys {
            let all = hashes(&keys);
            let distinct: BTreeSet<u64> = all.iter().copied().collect();
            assert_eq!(
                (all.len(), distinct.len()),
                (keys.len(), keys.len()),
                "{}",
                keys.data_type()
            );
            assert_eq!(hashes(&keys.slice(3, 7)), all[3..10]);
        }
    }

    #[test]
    fn hashes_of_neighbouring_keys_fill_the_whole_filter() {
        // So many have a Bloom filter, which admits others by chance alone.
        let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(0..200_000));
        let filter = KeyFilter::of(hashes(&keys));
        let others: ArrayRef = Arc::new(Int64Array::from_iter_values(1_000_000..1_100_000));
        let admitted = admitted(&filter.lookup(), &others, &mut Vec::new()).expect("keys have hashes");
        assert!(admitted.true_count() < 1_000, "{}", admitted.true_count());
    }

    #[test]
    fn null_is_not_admitted() {
        let keys: ArrayRef = Arc::new(Int64Array::from(vec![Some(0), None, Some(7), None, Some(8)]));
        let known: ArrayRef = Arc::new(Int64Array::from(vec![0, 7]));
        let filter = KeyFilter::of(hashes(&known));
        let admitted = admitted(&filter.lookup(), &keys, &mut Vec::new()).expect("keys have hashes");
        assert_eq!(
            admitted,
            BooleanArray::from(vec![true, false, true, false, false])
        );
    }
}
