//! Sorted runs and the parts of them that tasks read.

use prost::bytes::Bytes;
use sluice_core::ranges::{Bound, ByteRange, KeyRange, MAX_KEY_BYTES, MAX_SAMPLES, RunSample, SortedRun};

use crate::{WireError, wire};

impl From<SortedRun> for wire::SortedRun {
    fn from(run: SortedRun) -> Self {
        let samples = run.samples.into_iter().map(|sample| wire::RunSample {
            key: sample.key.into(),
            offset: sample.offset,
        });
        Self {
            samples: samples.collect(),
            end: run.end,
        }
    }
}

impl TryFrom<wire::SortedRun> for SortedRun {
    type Error = WireError;

    fn try_from(wire: wire::SortedRun) -> Result<Self, WireError> {
        if wire.samples.len() > MAX_SAMPLES {
            return Err(WireError::impossible("run.samples", wire.samples.len()));
        }
        let samples: Vec<RunSample> = wire
            .samples
            .into_iter()
            .map(|sample| {
                Ok(RunSample {
                    key: key(sample.key)?,
                    offset: sample.offset,
                })
            })
            .collect::<Result<_, WireError>>()?;
        let ascend = |pair: &[RunSample]| match pair {
            [before, after] => before.key <= after.key && before.offset < after.offset,
            _ => true,
        };
        let starts = samples.first().is_none_or(|sample| sample.offset == 0);
        let ends = samples
            .last()
            .map_or(wire.end == 0, |sample| sample.offset < wire.end);
        if !(samples.windows(2).all(ascend) && starts && ends) {
            return Err(WireError::impossible(
                "run",
                "samples that do not ascend from 0 to the end",
            ));
        }
        Ok(Self {
            samples,
            end: wire.end,
        })
    }
}

impl From<KeyRange> for wire::KeyRange {
    fn from(range: KeyRange) -> Self {
        let bound = |bound: Bound| wire::Bound {
            key: bound.key.into(),
            map_task: bound.map_task,
        };
        Self {
            lower: range.lower.map(bound),
            upper: range.upper.map(bound),
        }
    }
}

impl TryFrom<wire::KeyRange> for KeyRange {
    type Error = WireError;

    fn try_from(wire: wire::KeyRange) -> Result<Self, WireError> {
        let bound = |bound: wire::Bound| {
            Ok::<_, WireError>(Bound {
                key: key(bound.key)?,
                map_task: bound.map_task,
            })
        };
        Ok(Self {
            lower: wire.lower.map(bound).transpose()?,
            upper: wire.upper.map(bound).transpose()?,
        })
    }
}

impl From<ByteRange> for wire::ByteRange {
    fn from(range: ByteRange) -> Self {
        Self {
            start: range.start,
            end: range.end,
        }
    }
}

impl TryFrom<wire::ByteRange> for ByteRange {
    type Error = WireError;

    fn try_from(wire: wire::ByteRange) -> Result<Self, WireError> {
        if wire.start > wire.end {
            return Err(WireError::impossible("range.start", wire.start));
        }
        Ok(Self {
            start: wire.start,
            end: wire.end,
        })
    }
}

fn key(bytes: Bytes) -> Result<Vec<u8>, WireError> {
    if bytes.len() > MAX_KEY_BYTES {
        return Err(WireError::impossible("key", format!("{} bytes", bytes.len())));
    }
    Ok(bytes.into())
}
