//! The enums of a stage's template.

use sluice_core::plan::ExchangeKind;
use sluice_crds::shuffle_query::Compression;

use crate::{WireError, wire};

impl From<ExchangeKind> for wire::ExchangeKind {
    fn from(kind: ExchangeKind) -> Self {
        match kind {
            ExchangeKind::Forward => Self::Forward,
            ExchangeKind::Hash => Self::Hash,
            ExchangeKind::Range => Self::Range,
            ExchangeKind::Broadcast => Self::Broadcast,
        }
    }
}

impl From<Compression> for wire::Compression {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::None,
            Compression::Lz4 => Self::Lz4,
            Compression::Zstd => Self::Zstd,
        }
    }
}

impl wire::StageOutput {
    /// The kind of the exchange that the stage writes.
    ///
    /// # Errors
    /// None that this build knows.
    pub fn exchange_kind(&self) -> Result<ExchangeKind, WireError> {
        match wire::ExchangeKind::try_from(self.kind) {
            Ok(wire::ExchangeKind::Forward) => Ok(ExchangeKind::Forward),
            Ok(wire::ExchangeKind::Hash) => Ok(ExchangeKind::Hash),
            Ok(wire::ExchangeKind::Range) => Ok(ExchangeKind::Range),
            Ok(wire::ExchangeKind::Broadcast) => Ok(ExchangeKind::Broadcast),
            Ok(wire::ExchangeKind::Unspecified) | Err(_) => {
                Err(WireError::impossible("stage_template.output.kind", self.kind))
            }
        }
    }
}

impl wire::StageTemplate {
    /// How the frames of the stage are compressed.
    ///
    /// # Errors
    /// In no way that this build knows.
    pub fn frame_compression(&self) -> Result<Compression, WireError> {
        match wire::Compression::try_from(self.compression) {
            Ok(wire::Compression::None) => Ok(Compression::None),
            Ok(wire::Compression::Lz4) => Ok(Compression::Lz4),
            Ok(wire::Compression::Zstd) => Ok(Compression::Zstd),
            Ok(wire::Compression::Unspecified) | Err(_) => Err(WireError::impossible(
                "stage_template.compression",
                self.compression,
            )),
        }
    }
}
