//! Runtime filters.

use sluice_core::key_filter::{
    KeyBounds, KeyFilter, KeyHashes, KeyValues, MAX_BOUND_BYTES, MAX_EXACT_KEYS, MAX_KEY_VALUES,
};

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
        let keys = match &filter.hashes {
            KeyHashes::Exact(hashes) => Keys::Exact(bytes(hashes).into()),
            KeyHashes::Bloom(words) => Keys::Bloom(bytes(words).into()),
            KeyHashes::Everything => Keys::Everything(wire::Everything {}),
        };
        let bounds = filter.bounds.as_ref().map(|bounds| match bounds {
            KeyBounds::Numbers { least, greatest } => wire::KeyBounds {
                numbers: true,
                least: least.to_be_bytes().to_vec(),
                greatest: greatest.to_be_bytes().to_vec(),
            },
            KeyBounds::Bytes { least, greatest } => wire::KeyBounds {
                numbers: false,
                least: least.clone(),
                greatest: greatest.clone(),
            },
        });
        let values = filter.values.as_ref().map(|values| match values {
            KeyValues::Numbers(values) => wire::KeyValues {
                numbers: true,
                values: values.iter().map(|value| value.to_be_bytes().to_vec()).collect(),
            },
            KeyValues::Bytes(values) => wire::KeyValues {
                numbers: false,
                values: values.iter().cloned().collect(),
            },
        });
        Self {
            keys: Some(keys),
            bounds,
            values,
        }
    }
}

impl TryFrom<wire::KeyFilter> for KeyFilter {
    type Error = WireError;

    fn try_from(wire: wire::KeyFilter) -> Result<Self, WireError> {
        let hashes = match need(wire.keys, "key_filter.keys")? {
            Keys::Exact(bytes) => {
                let hashes = words(&bytes, "key_filter.exact")?;
                if hashes.len() > MAX_EXACT_KEYS {
                    return Err(WireError::impossible("key_filter.exact", hashes.len()));
                }
                KeyHashes::of(hashes)
            }
            Keys::Bloom(bytes) => {
                let words = words(&bytes, "key_filter.bloom")?;
                let length = words.len();
                KeyHashes::bloom(words).ok_or_else(|| WireError::impossible("key_filter.bloom", length))?
            }
            Keys::Everything(_) => KeyHashes::Everything,
        };
        Ok(Self {
            hashes,
            bounds: wire.bounds.map(bounds).transpose()?,
            values: wire.values.map(values).transpose()?,
        })
    }
}

fn bounds(wire: wire::KeyBounds) -> Result<KeyBounds, WireError> {
    const FIELD: &str = "key_filter.bounds";
    if wire.numbers {
        return Ok(KeyBounds::Numbers {
            least: number(&wire.least, FIELD)?,
            greatest: number(&wire.greatest, FIELD)?,
        });
    }
    Ok(KeyBounds::Bytes {
        least: short(wire.least, FIELD)?,
        greatest: short(wire.greatest, FIELD)?,
    })
}

fn values(wire: wire::KeyValues) -> Result<KeyValues, WireError> {
    const FIELD: &str = "key_filter.values";
    if wire.values.len() > MAX_KEY_VALUES {
        return Err(WireError::impossible(FIELD, wire.values.len()));
    }
    let values = wire.values.into_iter();
    Ok(if wire.numbers {
        KeyValues::Numbers(
            values
                .map(|value| number(&value, FIELD))
                .collect::<Result<_, _>>()?,
        )
    } else {
        KeyValues::Bytes(
            values
                .map(|value| short(value, FIELD))
                .collect::<Result<_, _>>()?,
        )
    })
}

fn number(bytes: &[u8], field: &'static str) -> Result<i128, WireError> {
    let number = bytes.try_into().map(i128::from_be_bytes);
    number.map_err(|_| WireError::impossible(field, bytes.len()))
}

fn short(bytes: Vec<u8>, field: &'static str) -> Result<Vec<u8>, WireError> {
    if bytes.len() > MAX_BOUND_BYTES {
        return Err(WireError::impossible(field, bytes.len()));
    }
    Ok(bytes)
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
        let bounds = [
            None,
            Some(KeyBounds::Numbers {
                least: i128::MIN,
                greatest: -1,
            }),
            Some(KeyBounds::Bytes {
                least: Vec::new(),
                greatest: vec![255; MAX_BOUND_BYTES],
            }),
        ];
        for hashes in [
            KeyHashes::default(),
            KeyHashes::of(vec![3, 1, u64::MAX]),
            KeyHashes::Bloom(words),
            KeyHashes::Everything,
        ] {
            for bounds in bounds.clone() {
                let values = match &bounds {
                    None => None,
                    Some(KeyBounds::Numbers { least, .. }) => Some(KeyValues::Numbers([*least, 7].into())),
                    Some(KeyBounds::Bytes { greatest, .. }) => {
                        Some(KeyValues::Bytes([greatest.clone(), Vec::new()].into()))
                    }
                };
                let filter = KeyFilter {
                    hashes: hashes.clone(),
                    bounds,
                    values,
                };
                assert_eq!(KeyFilter::try_from(wire::KeyFilter::from(&filter)), Ok(filter));
            }
        }
    }

    #[test]
    fn filters_of_a_wrong_size_are_refused() {
        let exact = |bytes: usize| Keys::Exact(vec![0; bytes].into());
        let bloom = |bytes: usize| Keys::Bloom(vec![0; bytes].into());
        let wire = |keys, bounds| wire::KeyFilter {
            keys,
            bounds,
            values: None,
        };
        for keys in [exact(7), exact(8 * MAX_EXACT_KEYS + 8), bloom(8), bloom(0)] {
            assert!(KeyFilter::try_from(wire(Some(keys), None)).is_err());
        }
        assert!(KeyFilter::try_from(wire(None, None)).is_err());
        for (numbers, bytes) in [(true, 15), (true, 17), (false, MAX_BOUND_BYTES + 1)] {
            let bounds = wire::KeyBounds {
                numbers,
                least: vec![0; bytes],
                greatest: vec![0; 16],
            };
            assert!(KeyFilter::try_from(wire(Some(exact(8)), Some(bounds))).is_err());
        }
        for (numbers, values) in [
            (true, vec![vec![0; 15]]),
            (false, vec![vec![0; MAX_BOUND_BYTES + 1]]),
            (false, vec![Vec::new(); MAX_KEY_VALUES + 1]),
        ] {
            let filter = wire::KeyFilter {
                values: Some(wire::KeyValues { numbers, values }),
                ..wire(Some(exact(8)), None)
            };
            assert!(KeyFilter::try_from(filter).is_err());
        }
    }
}
