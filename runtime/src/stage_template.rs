//! What all tasks of a stage share, as it travels in `DefineStage`.

use prost::Message;
use sluice_core::plan::ExchangeKind;
use sluice_crds::shuffle_query::Compression;

use crate::planner::{Fragment, OutputSpec};
use crate::sink::Sink;

/// What all tasks of a stage share.
#[derive(Debug, Clone, PartialEq)]
pub struct StageTemplate {
    /// The plan.
    pub fragment: Fragment,
    /// How rows find their partition.
    pub output: OutputSpec,
    /// How frames are compressed.
    pub compression: Compression,
    /// Where the rows go instead, in the root stages of a query with a sink.
    pub sink: Option<Sink>,
}

/// The form of a template on the wire. Both sides are of one build, or the session is refused.
#[derive(Clone, PartialEq, Message)]
struct Encoded {
    #[prost(message, optional, tag = "1")]
    fragment: Option<Fragment>,
    #[prost(uint32, tag = "2")]
    kind: u32,
    #[prost(bytes = "vec", repeated, tag = "3")]
    keys: Vec<Vec<u8>>,
    #[prost(uint32, tag = "4")]
    partitions: u32,
    #[prost(uint32, tag = "5")]
    compression: u32,
    #[prost(string, optional, tag = "6")]
    sink_json: Option<String>,
}

const KINDS: [ExchangeKind; 4] = [
    ExchangeKind::Forward,
    ExchangeKind::Hash,
    ExchangeKind::Range,
    ExchangeKind::Broadcast,
];
const COMPRESSIONS: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd];

fn position<T: PartialEq>(all: &[T], one: &T) -> u32 {
    all.iter()
        .position(|other| other == one)
        .and_then(|index| u32::try_from(index).ok())
        .unwrap_or(u32::MAX)
}

fn at<T: Copy>(all: &[T], index: u32) -> Option<T> {
    usize::try_from(index)
        .ok()
        .and_then(|index| all.get(index))
        .copied()
}

impl StageTemplate {
    /// The template as bytes.
    ///
    /// # Errors
    /// A sink that has no JSON form.
    pub fn encode(&self) -> anyhow::Result<bytes::Bytes> {
        let encoded = Encoded {
            fragment: Some(self.fragment.clone()),
            kind: position(&KINDS, &self.output.kind),
            keys: self.output.keys.clone(),
            partitions: self.output.partitions,
            compression: position(&COMPRESSIONS, &self.compression),
            sink_json: self.sink.as_ref().map(serde_json::to_string).transpose()?,
        };
        Ok(encoded.encode_to_vec().into())
    }

    /// Reads what `encode` wrote.
    ///
    /// # Errors
    /// Bytes that `encode` did not write.
    pub fn decode(bytes: &[u8]) -> anyhow::Result<Self> {
        let encoded = Encoded::decode(bytes)?;
        let missing = |what| anyhow::anyhow!("the stage has no legal {what}");
        Ok(Self {
            fragment: encoded.fragment.ok_or_else(|| missing("fragment"))?,
            output: OutputSpec {
                kind: at(&KINDS, encoded.kind).ok_or_else(|| missing("kind of exchange"))?,
                keys: encoded.keys,
                partitions: encoded.partitions,
            },
            compression: at(&COMPRESSIONS, encoded.compression).ok_or_else(|| missing("compression"))?,
            sink: encoded
                .sink_json
                .as_deref()
                .map(serde_json::from_str)
                .transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_survives_the_wire_and_noise_is_refused() {
        for (kind, compression) in KINDS.into_iter().zip(COMPRESSIONS.into_iter().cycle()) {
            let output = OutputSpec {
                kind,
                keys: vec![vec![1, 2]],
                partitions: 7,
            };
            let fragment = Fragment {
                plan: vec![9],
                ..Fragment::default()
            };
            let template = StageTemplate {
                fragment,
                output,
                compression,
                sink: None,
            };
            let bytes = template.encode().expect("it encodes");
            assert_eq!(StageTemplate::decode(&bytes).expect("it decodes"), template);
        }
        assert!(StageTemplate::decode(&[0xff, 0x01]).is_err());
        assert!(StageTemplate::decode(&[]).is_err());
    }
}
