//! Runtime filters.

use sluice_core::key_filter::{KeyFilter, MAX_EXACT_KEYS};

use crate::wire::key_filter::Keys;
use crate::{WireError, need, wire};

impl From<&KeyFilter> for wire::KeyFilter {
    fn from(filter: &KeyFilter) -> Self {
        let bytes = |words: &[u64]| {
            words
                .iter()
                .flat_map(|word| word.to_le_bytes())
                .collect::<Vec<u8>>()
        };
        let keys = match filter {
            KeyFilter::Exact(hashes) => Keys::Exact(bytes(hashes).into()),
            KeyFilter::Bloom(words) => Keys::Bloom(bytes(words).into()),
            KeyFilter::Everything => Keys::Everything(wire::Everything {}),
        };
        Self { keys: Some(keys) }
    }
}

impl TryFrom<wire::KeyFilter> for KeyFilter {
    type Error = WireError;

    fn try_from(wire: wire::KeyFilter) -> Result<Self, WireError> {
        Ok(match need(wire.keys, "key_filter.keys")? {
            Keys::Exact(bytes) => {
                let hashes = words(&bytes, "key_filter.exact")?;
                if hashes.len() > MAX_EXACT_KEYS {
                    return Err(WireError::impossible("key_filter.exact", hashes.len()));
                }
                Self::of(hashes)
            }
            Keys::Bloom(bytes) => {
                let words = words(&bytes, "key_filter.bloom")?;
                let length = words.len();
                Self::bloom(words).ok_or_else(|| WireError::impossible("key_filter.bloom", length))?
            }
            Keys::Everything(_) => Self::Everything,
        })
    }
}

fn words(bytes: &[u8], field: &'static str) -> Result<Vec<u64>, WireError> {
    let (words, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(WireError::impossible(field, bytes.len()));
    }
    Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
}

#[cfg(test)]
mod tests {
    use sluice_core::key_filter::BLOOM_WORDS;

    use super::*;

    #[test]
    fn filters_keep_their_keys_on_the_wire() {
        let mut words = vec![0; BLOOM_WORDS];
        words[7] = 0xf0;
        for filter in [
            KeyFilter::default(),
            KeyFilter::of(vec![3, 1, u64::MAX]),
            KeyFilter::Bloom(words),
            KeyFilter::Everything,
        ] {
            assert_eq!(KeyFilter::try_from(wire::KeyFilter::from(&filter)), Ok(filter));
        }
    }

    #[test]
    fn filters_of_a_wrong_size_are_refused() {
        let exact = |bytes: usize| Keys::Exact(vec![0; bytes].into());
        let bloom = |bytes: usize| Keys::Bloom(vec![0; bytes].into());
        for keys in [exact(7), exact(8 * MAX_EXACT_KEYS + 8), bloom(8), bloom(0)] {
            let wire = wire::KeyFilter { keys: Some(keys) };
            assert!(KeyFilter::try_from(wire).is_err());
        }
        assert!(KeyFilter::try_from(wire::KeyFilter { keys: None }).is_err());
    }
}
