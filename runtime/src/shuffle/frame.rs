//! Frames: the encoding of rows at rest and on the wire.
//!
//! A frame is a header and the Arrow IPC messages of one record batch, preceded by its complete dictionaries: a frame
//! decodes alone. The schema is not in it; writer and reader know it from their fragments.
//!
//! | header field | type, little endian |
//! |---|---|
//! | length of what follows the header, in bytes | u32 |
//! | rows | u32 |
//! | checksum: CRC-32C of the other header fields, as they stand here, and of the digest | u32 |
//! | chain: XXH3-64 of the digest, seeded with the chain of the frame before (0 at a stream's start) | u64 |
//!
//! The digest is the XXH3-64 of what follows the header, so that the bytes are hashed once. The checksum detects
//! damaged bytes; the chain detects intact frames in the wrong place.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::buffer::{Buffer, MutableBuffer};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow_ipc::writer::{
    DictionaryTracker, EncodedData, IpcDataGenerator, IpcWriteContext, IpcWriteOptions, write_message,
};
use arrow_ipc::{CompressionType, MessageHeader, MetadataVersion};
use bytes::{BufMut, Bytes, BytesMut};
use sluice_crds::shuffle_query::Compression;
use thiserror::Error;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::compact::{batch_bytes, compact, gc_views};

#[cfg(test)]
mod tests;

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 20;
/// The longest frame without its header, 1 GiB. Longer ones cannot be written; a longer length is damaged.
pub const MAX_FRAME_BYTES: usize = 1 << 30;

/// The most decompressed bytes of a batch, 4 GiB. A frame that claims more is damaged.
const MAX_BATCH_BYTES: u64 = 4 << 30;

/// The most bytes that a decoder allocates because of an unverified length.
const MAX_TRUSTED_BYTES: usize = 4 << 20;

const CONTINUATION: [u8; 4] = [0xff; 4];

/// Why encoding or decoding failed.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The batch cannot be written by Arrow.
    #[error("the rows cannot be encoded: {0}")]
    Unencodable(#[from] ArrowError),
    /// One row, or one batch that is not divided further, is longer than a frame may be.
    #[error("a frame of {bytes} bytes is longer than {MAX_FRAME_BYTES} bytes: make rows or batches smaller")]
    TooLong {
        /// Bytes without the header.
        bytes: usize,
    },
    /// The bytes are not those that were written.
    #[error("the checksum of the frame at offset {offset} does not match")]
    ChecksumMismatch {
        /// Where the frame starts in its stream.
        offset: u64,
    },
    /// The frame is intact, but does not follow the previous one.
    #[error("the frame at offset {offset} is not the next one of its stream")]
    ChainMismatch {
        /// Where the frame starts in its stream.
        offset: u64,
    },
    /// The stream ends within a frame.
    #[error("the stream ends within the frame at offset {offset}")]
    Truncated {
        /// Where the frame starts in its stream.
        offset: u64,
    },
    /// The checksum matches but the content is not a batch of the schema: writer and reader disagree.
    #[error("the frame at offset {offset} cannot be decoded: {message}")]
    Undecodable {
        /// Where the frame starts in its stream.
        offset: u64,
        /// What is wrong.
        message: String,
    },
}

/// Encodes and decodes rows of one schema.
#[derive(Debug)]
pub struct FrameFormat {
    schema: SchemaRef,
    /// The schema with dictionary ids, as the decoder needs it.
    numbered: SchemaRef,
    dictionaries: usize,
    options: IpcWriteOptions,
}

impl FrameFormat {
    /// The format for a schema; the compression matters to writers only.
    pub fn new(schema: SchemaRef, compression: Compression) -> Result<Self, ArrowError> {
        let codec = match compression {
            Compression::None => None,
            Compression::Lz4 => Some(CompressionType::LZ4_FRAME),
            Compression::Zstd => Some(CompressionType::ZSTD),
        };
        let options = IpcWriteOptions::default().try_with_compression(codec)?;
        let mut tracker = DictionaryTracker::new(false);
        let message = IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(
            &schema,
            &mut tracker,
            &options,
        );
        let numbered = arrow_ipc::convert::try_schema_from_flatbuffer_bytes(&message.ipc_message)?;
        Ok(Self {
            schema,
            numbered: Arc::new(numbered),
            dictionaries: tracker.dict_id().len(),
            options,
        })
    }

    /// The schema of all batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn payload(&self, batch: &RecordBatch, context: &mut IpcWriteContext) -> Result<BytesMut, FrameError> {
        let mut tracker = DictionaryTracker::new(false);
        for _ in 0..self.dictionaries {
            tracker.next_dict_id();
        }
        let batch = gc_views(&compact(batch)?)?;
        let bytes = batch_bytes(&batch);
        if bytes as u64 > MAX_BATCH_BYTES / 2 {
            return Err(FrameError::TooLong { bytes });
        }
        let generator = IpcDataGenerator::default();
        let (dictionaries, rows) = generator.encode(&batch, &mut tracker, &self.options, context)?;
        let length = |data: &EncodedData| data.ipc_message.len() + data.arrow_data.len() + 128;
        let estimate = dictionaries.iter().map(length).sum::<usize>() + length(&rows);
        let mut out = BytesMut::with_capacity(HEADER_BYTES + estimate);
        out.put_bytes(0, HEADER_BYTES);
        let mut writer = out.writer();
        for message in dictionaries.into_iter().chain([rows]) {
            write_message(&mut writer, message, &self.options)?;
        }
        Ok(writer.into_inner())
    }

    /// Decodes a payload whose checksum is verified. Arrow validates what it decodes; its panics become errors here.
    fn batch(&self, payload: &Buffer) -> Result<RecordBatch, String> {
        catch_unwind(AssertUnwindSafe(|| self.decode_messages(payload)))
            .unwrap_or_else(|_| Err("the messages contradict each other".to_owned()))
    }

    fn decode_messages(&self, payload: &Buffer) -> Result<RecordBatch, String> {
        let mut dictionaries: HashMap<i64, ArrayRef> = HashMap::new();
        let mut rest = payload.clone();
        loop {
            let (head, body, after) = split_message(&rest)?;
            let message = arrow_ipc::root_as_message(&head).map_err(|error| error.to_string())?;
            let version = message.version();
            if version != MetadataVersion::V5 {
                return Err(format!("IPC metadata version {version:?} is not known here"));
            }
            if message.header_type() == MessageHeader::DictionaryBatch {
                let batch = message
                    .header_as_dictionary_batch()
                    .filter(|b| b.data().is_some());
                let batch = batch.ok_or("a dictionary without values")?;
                if let Some(values) = batch.data() {
                    check_buffers(&values, &body)?;
                }
                arrow_ipc::reader::read_dictionary(&body, batch, &self.numbered, &mut dictionaries, &version)
                    .map_err(|error| error.to_string())?;
                rest = after;
                continue;
            }
            let batch = message.header_as_record_batch();
            let batch = batch.ok_or("a message that is neither dictionary nor rows")?;
            check_buffers(&batch, &body)?;
            if !after.is_empty() {
                return Err("bytes after the rows".to_owned());
            }
            let numbered = Arc::clone(&self.numbered);
            let batch =
                arrow_ipc::reader::read_record_batch(&body, batch, numbered, &dictionaries, None, &version);
            let batch = batch.map_err(|error| error.to_string())?;
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            let schema = Arc::clone(&self.schema);
            return RecordBatch::try_new_with_options(schema, batch.columns().to_vec(), &options)
                .map_err(|error| error.to_string());
        }
    }
}

/// The most bytes that one compressed byte can stand for: each length byte of an LZ4 run adds 255, and a ZSTD block of
/// 128 KiB has at least four bytes.
fn max_expansion(codec: CompressionType) -> u64 {
    match codec {
        CompressionType::LZ4_FRAME => 255,
        _ => 32 << 10,
    }
}

/// Checks the positions of buffers and the declared lengths of compressed ones, which Arrow allocates before it
/// decompresses. A length beyond what the codec can produce is damaged.
fn check_buffers(batch: &arrow_ipc::RecordBatch<'_>, body: &Buffer) -> Result<(), String> {
    let mut total = 0u64;
    let most = batch
        .compression()
        .map(|compression| max_expansion(compression.codec()));
    for buffer in batch.buffers().into_iter().flatten() {
        let start = usize::try_from(buffer.offset()).ok();
        let length = usize::try_from(buffer.length()).ok();
        let range = start.zip(length).and_then(|(start, length)| {
            let end = start.checked_add(length)?;
            body.get(start..end)
        });
        let bytes = range.ok_or("a buffer outside the message")?;
        let Some(most) = most else {
            continue;
        };
        let Some((declared, compressed)) = bytes.split_first_chunk::<8>() else {
            continue;
        };
        // -1 marks uncompressed bytes.
        let declared = i64::from_le_bytes(*declared);
        let length = match declared {
            -1 => compressed.len() as u64,
            other => u64::try_from(other).map_err(|_| "a negative length")?,
        };
        if length > most.saturating_mul(compressed.len() as u64) {
            return Err(format!("{} bytes cannot stand for {length}", compressed.len()));
        }
        total = total.saturating_add(length);
        if total > MAX_BATCH_BYTES {
            return Err(format!("more than {MAX_BATCH_BYTES} bytes once decompressed"));
        }
    }
    Ok(())
}

/// The metadata and body of the first message, and the rest.
fn split_message(bytes: &Buffer) -> Result<(Buffer, Buffer, Buffer), String> {
    let cut = || "a message is cut".to_owned();
    let (prefix, _) = bytes.split_at_checked(8).ok_or_else(cut)?;
    let (marker, length) = prefix.split_at(4);
    if marker != CONTINUATION {
        return Err("no message where one should start".to_owned());
    }
    let length = <[u8; 4]>::try_from(length).map_err(|_| cut())?;
    let head_end = 8usize
        .checked_add(u32::from_le_bytes(length) as usize)
        .filter(|end| *end <= bytes.len())
        .ok_or_else(cut)?;
    let head = bytes.slice_with_length(8, head_end - 8);
    let message = arrow_ipc::root_as_message(&head).map_err(|error| error.to_string())?;
    let body_end = usize::try_from(message.bodyLength())
        .ok()
        .and_then(|length| head_end.checked_add(length))
        .filter(|end| *end <= bytes.len())
        .ok_or_else(cut)?;
    let body = bytes.slice_with_length(head_end, body_end - head_end);
    Ok((head, body, bytes.slice(body_end)))
}

/// Writes the frames of one stream.
#[derive(Debug)]
pub struct FrameEncoder {
    format: Arc<FrameFormat>,
    chain: u64,
}

impl FrameEncoder {
    /// At the start of a stream.
    pub fn new(format: Arc<FrameFormat>) -> Self {
        Self { format, chain: 0 }
    }

    /// Encodes the next frame of the stream. `context` is scratch space to reuse between calls.
    ///
    /// # Errors
    ///
    /// If Arrow cannot encode the batch, or it is longer than `MAX_FRAME_BYTES`; the stream is as before.
    pub fn encode(
        &mut self,
        batch: &RecordBatch,
        context: &mut IpcWriteContext,
    ) -> Result<Bytes, FrameError> {
        let mut frame = self.format.payload(batch, context)?;
        let bytes = frame.len() - HEADER_BYTES;
        let too_long = || FrameError::TooLong { bytes };
        let length = u32::try_from(bytes).ok().filter(|_| bytes <= MAX_FRAME_BYTES);
        let length = length.ok_or_else(too_long)?;
        let rows = u32::try_from(batch.num_rows()).map_err(|_| too_long())?;
        let (head, payload) = frame.split_at_mut(HEADER_BYTES);
        let digest = xxh3_64(payload);
        let chain = chained(digest, self.chain);
        let header = Header {
            length,
            rows,
            checksum: checksum(length, rows, chain, digest),
            chain,
        };
        head.copy_from_slice(&header.to_bytes());
        self.chain = chain;
        Ok(frame.freeze())
    }
}

/// The chain of a frame whose payload has this digest, after the frame with the chain `before`.
fn chained(digest: u64, before: u64) -> u64 {
    xxh3_64_with_seed(&digest.to_le_bytes(), before)
}

fn checksum(length: u32, rows: u32, chain: u64, digest: u64) -> u32 {
    let mut sum = crc32c::crc32c(&length.to_le_bytes());
    sum = crc32c::crc32c_append(sum, &rows.to_le_bytes());
    sum = crc32c::crc32c_append(sum, &chain.to_le_bytes());
    crc32c::crc32c_append(sum, &digest.to_le_bytes())
}

#[derive(Debug, Clone, Copy)]
struct Header {
    length: u32,
    rows: u32,
    checksum: u32,
    chain: u64,
}

impl Header {
    fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut out = &mut bytes[..];
        out.put_u32_le(self.length);
        out.put_u32_le(self.rows);
        out.put_u32_le(self.checksum);
        out.put_u64_le(self.chain);
        bytes
    }

    fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        use bytes::Buf;
        Some(Self {
            length: bytes.try_get_u32_le().ok()?,
            rows: bytes.try_get_u32_le().ok()?,
            checksum: bytes.try_get_u32_le().ok()?,
            chain: bytes.try_get_u64_le().ok()?,
        })
    }
}

/// Decodes the frames of one stream from byte ranges that may cut them anywhere.
#[derive(Debug)]
pub struct FrameDecoder {
    format: Arc<FrameFormat>,
    /// The chain of the previous frame; unknown if reading started after it.
    chain: Option<u64>,
    /// The start of the current frame.
    offset: u64,
    head: Vec<u8>,
    payload: MutableBuffer,
}

impl FrameDecoder {
    /// Starts at the frame at `offset` of its stream. The chain of that frame is checked only if it is the first one.
    pub fn starting_at(format: Arc<FrameFormat>, offset: u64) -> Self {
        Self {
            format,
            chain: (offset == 0).then_some(0),
            offset,
            head: Vec::with_capacity(HEADER_BYTES),
            payload: MutableBuffer::new(0),
        }
    }

    /// Decodes the next bytes of the stream. Returns the batches that they complete.
    ///
    /// # Errors
    ///
    /// If the bytes are not what was written to this stream. The decoder is unusable then.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<Vec<RecordBatch>, FrameError> {
        let mut batches = Vec::new();
        loop {
            bytes = take_until(bytes, HEADER_BYTES - self.head.len(), |part| {
                self.head.extend_from_slice(part);
            });
            if self.head.len() < HEADER_BYTES {
                return Ok(batches);
            }
            let offset = self.offset;
            let header = Header::from_bytes(&self.head).ok_or(FrameError::Truncated { offset })?;
            let length = header.length as usize;
            if length > MAX_FRAME_BYTES {
                // The length is damaged.
                return Err(FrameError::ChecksumMismatch { offset });
            }
            if self.payload.capacity() == 0 {
                self.payload = MutableBuffer::with_capacity(length.min(MAX_TRUSTED_BYTES));
            }
            bytes = take_until(bytes, length - self.payload.len(), |part| {
                self.payload.extend_from_slice(part);
            });
            if self.payload.len() < length {
                return Ok(batches);
            }
            batches.push(self.finish_frame(header)?);
        }
    }

    fn finish_frame(&mut self, header: Header) -> Result<RecordBatch, FrameError> {
        let offset = self.offset;
        let payload = Buffer::from(std::mem::replace(&mut self.payload, MutableBuffer::new(0)));
        self.head.clear();
        let digest = xxh3_64(&payload);
        if checksum(header.length, header.rows, header.chain, digest) != header.checksum {
            return Err(FrameError::ChecksumMismatch { offset });
        }
        if self
            .chain
            .is_some_and(|before| chained(digest, before) != header.chain)
        {
            return Err(FrameError::ChainMismatch { offset });
        }
        let batch = self.format.batch(&payload);
        let batch = batch.map_err(|message| FrameError::Undecodable { offset, message })?;
        if batch.num_rows() != header.rows as usize {
            let message = format!("{} rows where {} were said", batch.num_rows(), header.rows);
            return Err(FrameError::Undecodable { offset, message });
        }
        self.chain = Some(header.chain);
        self.offset += (HEADER_BYTES + payload.len()) as u64;
        Ok(batch)
    }

    /// Bytes of the incomplete frame.
    pub fn pending_bytes(&self) -> usize {
        self.payload.len()
    }

    /// Ends the stream.
    ///
    /// # Errors
    ///
    /// If it has ended within a frame.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.head.is_empty() {
            Ok(())
        } else {
            Err(FrameError::Truncated { offset: self.offset })
        }
    }
}

/// Gives the first `most` bytes to `sink`, and the rest back.
fn take_until(bytes: &[u8], most: usize, sink: impl FnOnce(&[u8])) -> &[u8] {
    let (part, rest) = bytes.split_at(most.min(bytes.len()));
    sink(part);
    rest
}
