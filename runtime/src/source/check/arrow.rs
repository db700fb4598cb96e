//! Footers, blocks and messages of Arrow IPC.

use std::ops::Range;

use arrow::datatypes::Schema;
use arrow_ipc::convert::fb_to_schema;
use arrow_ipc::{
    Block, CompressionType, Footer, Message, MessageHeader, RecordBatch, root_as_footer, root_as_message,
};

use super::{CheckError, OpenFile};

const MAGIC: &[u8] = b"ARROW1";
/// Magic number and padding before the first message.
const HEAD: u64 = 8;
/// Length of the footer and magic number behind it.
const TAIL: u64 = 10;
const CONTINUATION: [u8; 4] = [0xff; 4];
/// The length before each compressed buffer of what it was.
const PREFIX: i64 = 8;

fn fail<T>(problem: impl Into<String>) -> Result<T, CheckError> {
    Err(CheckError::Arrow(problem.into()))
}

/// The schema of a file of either format.
pub(super) fn schema(file: &OpenFile) -> Result<Schema, CheckError> {
    if is_file_format(file)? {
        let bytes = footer_bytes(file)?;
        return match footer(file, &bytes)?.schema() {
            Some(schema) => Ok(fb_to_schema(schema)),
            None => fail("its footer has no schema"),
        };
    }
    let Some(first) = StreamMessage::read(file, 0)? else {
        return fail("it holds no message");
    };
    match first.parsed()?.header_as_schema() {
        Some(schema) => Ok(fb_to_schema(schema)),
        None => fail("its first message is no schema"),
    }
}

/// Checks the dictionaries of a file, and those of its batches that begin within `bytes`.
pub(super) fn check_blocks(file: &OpenFile, bytes: &Range<u64>) -> Result<(), CheckError> {
    if !is_file_format(file)? {
        return fail("it has no footer, unlike the other files of the table: give it a table of its own");
    }
    let footer_bytes = footer_bytes(file)?;
    let footer = footer(file, &footer_bytes)?;
    let dictionaries = footer.dictionaries().into_iter().flatten();
    let dictionaries = dictionaries.map(|block| (block, MessageHeader::DictionaryBatch));
    let batches = footer.recordBatches().into_iter().flatten();
    let batches = batches.filter(|block| bytes.contains(&wide(block.offset())));
    let batches = batches.map(|block| (block, MessageHeader::RecordBatch));
    for (block, kind) in dictionaries.chain(batches) {
        let at = wide(block.offset());
        let length = wide(block.metaDataLength().into());
        let Some(metadata) = file.read(at, length)? else {
            return fail("it is shorter than its footer says");
        };
        let message = match metadata.split_at_checked(8) {
            Some((head, rest)) if head.starts_with(&CONTINUATION) => rest,
            Some(_) => metadata.get(4..).unwrap_or_default(),
            None => return fail("a block is too short for a message"),
        };
        let message = parsed(message)?;
        if message.header_type() != kind {
            let found = message.header_type();
            return fail(format!(
                "its footer names a {kind:?} at byte {at}, where there is a {found:?}"
            ));
        }
        check_message(&message, file, at + length, block.bodyLength())?;
    }
    Ok(())
}

/// Checks every message of a stream.
pub(super) fn check_stream(file: &OpenFile) -> Result<(), CheckError> {
    if is_file_format(file)? {
        return fail("it has a footer, unlike the other files of the table: give it a table of its own");
    }
    let mut at = 0;
    while let Some(message) = StreamMessage::read(file, at)? {
        let parsed = message.parsed()?;
        check_message(&parsed, file, message.body, parsed.bodyLength())?;
        at = message.body + wide(parsed.bodyLength());
    }
    Ok(())
}

fn is_file_format(file: &OpenFile) -> Result<bool, CheckError> {
    let length = u64::try_from(MAGIC.len()).unwrap_or(0);
    Ok(file.read(0, length)?.is_some_and(|magic| magic == MAGIC))
}

/// A number that was checked to be none below zero.
fn wide(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn footer_bytes(file: &OpenFile) -> Result<Vec<u8>, CheckError> {
    let tail = file.size.checked_sub(TAIL).filter(|tail| *tail >= HEAD);
    let tail = tail.map(|tail| file.read(tail, TAIL)).transpose()?.flatten();
    let length = match tail.as_deref() {
        Some([a, b, c, d, magic @ ..]) if magic == MAGIC => i32::from_le_bytes([*a, *b, *c, *d]),
        _ => return fail("it does not end as an Arrow file does"),
    };
    let room = file.size - HEAD - TAIL;
    match u64::try_from(length) {
        Ok(length) if length > 0 && length <= room => {
            let bytes = file.read(file.size - TAIL - length, length)?;
            bytes.map_or_else(|| fail("it has no footer"), Ok)
        }
        _ => fail(format!("its footer is said to have {length} bytes, of {room}")),
    }
}

/// The footer, with blocks that lie in the file.
fn footer<'a>(file: &OpenFile, bytes: &'a [u8]) -> Result<Footer<'a>, CheckError> {
    let footer = match root_as_footer(bytes) {
        Ok(footer) => footer,
        Err(error) => return fail(format!("its footer is corrupt: {error}")),
    };
    if footer.recordBatches().is_none() {
        return fail("its footer names no batches");
    }
    let end = file.size - TAIL - u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let blocks = footer.dictionaries().into_iter().flatten();
    let mut sum = 0_u64;
    for block in blocks.chain(footer.recordBatches().into_iter().flatten()) {
        sum = sum.saturating_add(block_length(block, end)?);
    }
    if sum > end {
        return fail(format!("its footer names blocks of {sum} bytes in all, of {end}"));
    }
    Ok(footer)
}

/// The length of a block that lies before `end`.
fn block_length(block: &Block, end: u64) -> Result<u64, CheckError> {
    let (at, metadata, body) = (block.offset(), block.metaDataLength(), block.bodyLength());
    let length = match (u64::try_from(metadata), u64::try_from(body)) {
        (Ok(metadata), Ok(body)) if metadata >= 8 => metadata.checked_add(body),
        _ => None,
    };
    let within = |length: &u64| {
        let last = u64::try_from(at).ok().and_then(|at| at.checked_add(*length));
        last.is_some_and(|last| last <= end)
    };
    match length.filter(within) {
        Some(length) => Ok(length),
        None => fail(format!(
            "its footer names a block at byte {at} of {metadata} and {body} bytes, and there are {end}"
        )),
    }
}

/// A message of a stream, and where its body begins.
struct StreamMessage {
    metadata: Vec<u8>,
    body: u64,
}

impl StreamMessage {
    /// The message at a byte; `None` at the end.
    fn read(file: &OpenFile, at: u64) -> Result<Option<Self>, CheckError> {
        let word = |at: u64| -> Result<Option<[u8; 4]>, CheckError> {
            let read = file.read(at, 4)?;
            Ok(read.and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()))
        };
        let (length, metadata) = match word(at)? {
            None => return Ok(None),
            Some(CONTINUATION) => match word(at + 4)? {
                None => return fail("it ends within a message"),
                Some(length) => (length, at + 8),
            },
            Some(length) => (length, at + 4),
        };
        let length = i32::from_le_bytes(length);
        if length == 0 {
            return Ok(None);
        }
        let read = match u64::try_from(length) {
            Ok(length) => file
                .read(metadata, length)?
                .map(|bytes| (bytes, metadata + length)),
            Err(_) => None,
        };
        match read {
            Some((metadata, body)) => Ok(Some(Self { metadata, body })),
            None => fail(format!(
                "a message at byte {at} is said to have {length} bytes, and the file has {}",
                file.size
            )),
        }
    }

    fn parsed(&self) -> Result<Message<'_>, CheckError> {
        parsed(&self.metadata)
    }
}

fn parsed(metadata: &[u8]) -> Result<Message<'_>, CheckError> {
    root_as_message(metadata).or_else(|error| fail(format!("a message is corrupt: {error}")))
}

/// Checks a message whose body begins at `body` and has `length` bytes.
fn check_message(message: &Message<'_>, file: &OpenFile, body: u64, length: i64) -> Result<(), CheckError> {
    let end = u64::try_from(length)
        .ok()
        .and_then(|length| body.checked_add(length));
    if end.is_none_or(|end| end > file.size) {
        return fail(format!(
            "a message is said to have {length} bytes from byte {body} on, and the file has {}",
            file.size
        ));
    }
    let batch = match message.header_type() {
        MessageHeader::RecordBatch => message.header_as_record_batch(),
        MessageHeader::DictionaryBatch => message
            .header_as_dictionary_batch()
            .and_then(|dictionary| dictionary.data()),
        MessageHeader::Schema => return Ok(()),
        other => {
            return fail(format!(
                "a message before byte {body} is of no known kind: {other:?}"
            ));
        }
    };
    match batch {
        Some(batch) => check_batch(&batch, file, body, length),
        None => fail("a batch has no description"),
    }
}

fn check_batch(batch: &RecordBatch<'_>, file: &OpenFile, body: u64, length: i64) -> Result<(), CheckError> {
    let rows = batch.length();
    let of_first = batch
        .nodes()
        .into_iter()
        .flatten()
        .map(|node| node.length())
        .next();
    if rows < 0 || of_first.is_some_and(|of_first| of_first != rows) {
        return fail(format!(
            "a batch is said to have {rows} rows, its first column {}",
            of_first.unwrap_or(0)
        ));
    }
    let growth = match batch.compression().map(|compression| compression.codec()) {
        None => None,
        // The most that a byte of a match stands for.
        Some(CompressionType::LZ4_FRAME) => Some(255),
        // A block of one repeated byte: 128 KiB in four bytes.
        Some(CompressionType::ZSTD) => Some(32 << 10),
        Some(other) => return fail(format!("a batch is compressed by {other:?}, which is unknown")),
    };
    for buffer in batch.buffers().into_iter().flatten() {
        let (at, bytes) = (buffer.offset(), buffer.length());
        let last = at.checked_add(bytes);
        if at < 0 || bytes < 0 || last.is_none_or(|last| last > length) {
            return fail(format!(
                "a batch has a buffer of {bytes} bytes from byte {at} of its {length}"
            ));
        }
        if let Some(growth) = growth
            && bytes > 0
        {
            check_uncompressed(file, body + wide(at), bytes, growth)?;
        }
    }
    Ok(())
}

/// Whether a compressed buffer of `bytes` bytes can hold what it is said to.
fn check_uncompressed(file: &OpenFile, at: u64, bytes: i64, growth: i64) -> Result<(), CheckError> {
    let prefix = match bytes >= PREFIX {
        true => file.read(at, wide(PREFIX))?,
        false => None,
    };
    let Some(said) = prefix.and_then(|prefix| <[u8; 8]>::try_from(prefix).ok()) else {
        return fail("a compressed buffer is too short for its length");
    };
    // -1 marks uncompressed bytes.
    let said = i64::from_le_bytes(said);
    if said >= -1 && said <= (bytes - PREFIX).saturating_mul(growth) {
        Ok(())
    } else {
        fail(format!(
            "a compressed buffer of {bytes} bytes is said to have been {said}"
        ))
    }
}
