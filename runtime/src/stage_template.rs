//! What all tasks of a stage share, as `DefineStage` carries it.

use anyhow::Context;
use prost::Message;
use sluice_crds::shuffle_query::Compression;
use sluice_proto::wire;

use crate::planner::{Fragment, MadeFilter, OutputSpec};
use crate::sink::Sink;

/// What all tasks of a stage share.
#[derive(Debug, Clone, PartialEq)]
pub struct StageTemplate {
    pub fragment: Fragment,
    /// How rows find their partition.
    pub output: OutputSpec,
    /// How frames are compressed.
    pub compression: Compression,
    /// The sink, in root stages of a query that has one: rows go there instead of the exchange.
    pub sink: Option<Sink>,
    /// The runtime filters that each task makes.
    pub filters: Vec<MadeFilter>,
}

impl StageTemplate {
    /// The template as bytes.
    ///
    /// # Errors
    /// A sink that has no JSON form.
    pub fn encode(&self) -> anyhow::Result<bytes::Bytes> {
        let output = wire::StageOutput {
            kind: wire::ExchangeKind::from(self.output.kind).into(),
            keys: self.output.keys.clone(),
            partitions: self.output.partitions,
        };
        let template = wire::StageTemplate {
            fragment: Some(self.fragment.clone()),
            output: Some(output),
            compression: wire::Compression::from(self.compression).into(),
            sink_json: self.sink.as_ref().map(serde_json::to_string).transpose()?,
            filters: self
                .filters
                .iter()
                .map(|made| wire::MadeFilter {
                    column: made.column,
                    max_bytes: made.max_bytes,
                })
                .collect(),
        };
        Ok(template.encode_to_vec().into())
    }

    /// Reads what `encode` wrote.
    ///
    /// # Errors
    /// The bytes were not written by `encode`.
    pub fn decode(bytes: &[u8]) -> anyhow::Result<Self> {
        let template = wire::StageTemplate::decode(bytes)?;
        let compression = template.frame_compression()?;
        let output = template.output.context("the stage has no output")?;
        Ok(Self {
            fragment: template.fragment.context("the stage has no fragment")?,
            output: OutputSpec {
                kind: output.exchange_kind()?,
                keys: output.keys,
                partitions: output.partitions,
            },
            compression,
            sink: template
                .sink_json
                .as_deref()
                .map(serde_json::from_str)
                .transpose()?,
            filters: template
                .filters
                .iter()
                .map(|made| MadeFilter {
                    column: made.column,
                    max_bytes: made.max_bytes,
                })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use sluice_core::plan::ExchangeKind;

    use super::*;

    #[test]
    fn a_template_survives_the_wire_and_noise_is_refused() {
        let kinds = [
            ExchangeKind::Forward,
            ExchangeKind::Hash,
            ExchangeKind::Range,
            ExchangeKind::Broadcast,
        ];
        let compressions = [Compression::None, Compression::Lz4, Compression::Zstd];
        for (kind, compression) in kinds.into_iter().zip(compressions.into_iter().cycle()) {
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
                filters: Vec::new(),
            };
            let bytes = template.encode().expect("it encodes");
            assert_eq!(StageTemplate::decode(&bytes).expect("it decodes"), template);
        }
        for (kind, compression) in [(0, 1), (9, 1), (1, 0), (1, 9)] {
            let unknown = wire::StageTemplate {
                fragment: Some(Fragment::default()),
                output: Some(wire::StageOutput {
                    kind,
                    ..wire::StageOutput::default()
                }),
                compression,
                sink_json: None,
                filters: Vec::new(),
            };
            let refused = StageTemplate::decode(&unknown.encode_to_vec());
            assert!(refused.is_err(), "{kind} {compression}");
        }
        assert!(StageTemplate::decode(&[0xff, 0x01]).is_err());
        assert!(StageTemplate::decode(&[]).is_err());
    }
}
