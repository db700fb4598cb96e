//! Splits of tables.

use sluice_core::plan::{FileRange, InputFile, Split};

use crate::{WireError, need, wire};

/// What one scan leaf of a task reads.
#[derive(Debug, Clone, PartialEq)]
pub struct LeafSplit {
    /// The leaf's number in the fragment.
    pub leaf: u32,
    /// What it reads.
    pub split: Split,
}

impl From<LeafSplit> for wire::LeafSplit {
    fn from(LeafSplit { leaf, split }: LeafSplit) -> Self {
        use wire::leaf_split::Split as Wire;
        let split = match split {
            Split::Files(ranges) => Wire::Files(wire::FileRanges {
                ranges: ranges.into_iter().map(Into::into).collect(),
            }),
            Split::Tpch { part, parts } => Wire::Tpch(wire::TpchPart { part, parts }),
            Split::Whole => Wire::Whole(wire::Whole {}),
        };
        Self {
            leaf,
            split: Some(split),
        }
    }
}

impl TryFrom<wire::LeafSplit> for LeafSplit {
    type Error = WireError;

    fn try_from(wire: wire::LeafSplit) -> Result<Self, WireError> {
        use wire::leaf_split::Split as Wire;
        let split = match need(wire.split, "splits.split")? {
            Wire::Files(files) => {
                let ranges = files.ranges.into_iter().map(FileRange::try_from);
                Split::Files(ranges.collect::<Result<_, _>>()?)
            }
            Wire::Tpch(wire::TpchPart { part, parts }) if part < parts => Split::Tpch { part, parts },
            Wire::Tpch(wire::TpchPart { part, .. }) => {
                return Err(WireError::impossible("splits.tpch.part", part));
            }
            Wire::Whole(_) => Split::Whole,
        };
        Ok(Self {
            leaf: wire.leaf,
            split,
        })
    }
}

impl From<FileRange> for wire::FileRange {
    fn from(range: FileRange) -> Self {
        let InputFile {
            path,
            size,
            modified_nanos,
            etag,
        } = range.file;
        let file = wire::InputFile {
            path,
            size,
            modified_nanos,
            etag,
        };
        Self {
            file: Some(file),
            start: range.start,
            end: range.end,
        }
    }
}

impl TryFrom<wire::FileRange> for FileRange {
    type Error = WireError;

    fn try_from(wire: wire::FileRange) -> Result<Self, WireError> {
        let wire::InputFile {
            path,
            size,
            modified_nanos,
            etag,
        } = need(wire.file, "ranges.file")?;
        if wire.start > wire.end || wire.end > size {
            return Err(WireError::impossible("ranges.end", wire.end));
        }
        let file = InputFile {
            path,
            size,
            modified_nanos,
            etag,
        };
        Ok(Self {
            file,
            start: wire.start,
            end: wire.end,
        })
    }
}
