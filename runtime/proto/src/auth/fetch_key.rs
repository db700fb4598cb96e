//! Keys of fetches: each worker makes one for each session that it serves, and its coordinator passes it on with the worker's
//! address to the readers of the same query. It opens that query's data at that worker and nothing elsewhere.

use std::fmt;

use tonic::metadata::{MetadataMap, MetadataValue};

use crate::WireError;

const METADATA_KEY: &str = "sluice-fetch-key-bin";
const BYTES: usize = 32;

/// The key of one query's data at one worker. It shows nothing of itself when it is printed.
#[derive(Clone, PartialEq, Eq)]
pub struct FetchKey([u8; BYTES]);

impl fmt::Debug for FetchKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FetchKey(..)")
    }
}

impl FetchKey {
    /// The key of these bytes, which nobody can guess.
    pub const fn new(random: [u8; BYTES]) -> Self {
        Self(random)
    }

    /// Whether a fetch came with this key. The time that it takes tells nothing about the key.
    pub fn opens(&self, shown: Option<&Self>) -> bool {
        let Some(shown) = shown else { return false };
        let pairs = self.0.iter().zip(&shown.0);
        pairs.fold(0, |differs, (own, shown)| differs | (own ^ shown)) == 0
    }

    /// Adds the key to a fetch.
    pub fn attach(&self, metadata: &mut MetadataMap) {
        let mut value = MetadataValue::from_bytes(&self.0);
        value.set_sensitive(true);
        metadata.insert_bin(METADATA_KEY, value);
    }

    /// The key that came with a fetch, if one did.
    pub fn of(metadata: &MetadataMap) -> Option<Self> {
        let bytes = metadata.get_bin(METADATA_KEY)?.to_bytes().ok()?;
        <[u8; BYTES]>::try_from(&bytes[..]).ok().map(Self)
    }

    /// The key as it travels in messages.
    pub(crate) fn to_wire(key: Option<&Self>) -> prost::bytes::Bytes {
        key.map(|key| prost::bytes::Bytes::copy_from_slice(&key.0))
            .unwrap_or_default()
    }

    /// The key of a message; empty is none.
    pub(crate) fn from_wire(bytes: &[u8], field: &'static str) -> Result<Option<Self>, WireError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let key = <[u8; BYTES]>::try_from(bytes).map_err(|_| WireError::impossible(field, bytes.len()))?;
        Ok(Some(Self(key)))
    }
}

/// Where a worker serves fetches of a query, and what opens its data there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchEndpoint {
    /// host:port; empty of a worker that is gone.
    pub address: String,
    /// The key, of a worker that has a session with the query.
    pub key: Option<FetchKey>,
}
