//! Footers, pages and page indices of Parquet.

use std::collections::BTreeSet;
use std::ops::Range;

use parquet::basic::{Compression, Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData,
};

use super::thrift::{Compact, ThriftError};
use super::{CheckError, OpenFile};

/// Length of the footer and magic number behind it.
const TAIL: u64 = 8;
const MAGIC: &[u8] = b"PAR1";
/// What is read of a page at first: most headers are smaller.
const HEADER: u64 = 256;
/// The largest header that is read: statistics in it may be long texts.
const MAX_HEADER: u64 = 16 << 20;

fn fail<T>(problem: impl Into<String>) -> Result<T, CheckError> {
    Err(CheckError::Parquet(ParquetError::General(problem.into())))
}

/// The footer of a file, in which columns lie before it and agree about the rows.
pub(super) fn footer(file: &OpenFile) -> Result<ParquetMetaData, CheckError> {
    let tail = file.size.checked_sub(TAIL);
    let tail = tail.map(|tail| file.read(tail, TAIL)).transpose()?.flatten();
    let length = match tail.as_deref() {
        Some([a, b, c, d, magic @ ..]) if magic == MAGIC => u32::from_le_bytes([*a, *b, *c, *d]),
        _ => return fail("it does not end as a Parquet file does"),
    };
    let length = u64::from(length);
    let end = file.size - TAIL;
    let start = end.checked_sub(length);
    let bytes = start.map(|start| file.read(start, length)).transpose()?.flatten();
    let (Some(start), Some(bytes)) = (start, bytes) else {
        return fail(format!("its footer is said to have {length} bytes, of {end}"));
    };
    if let Err(broken) = Compact::new(&bytes).skip_struct() {
        return fail(format!("its footer is corrupt: {}", text(broken)));
    }
    let footer = ParquetMetaDataReader::decode_metadata(&bytes).map_err(CheckError::Parquet)?;
    let groups = footer.row_groups();
    groups.iter().try_for_each(|group| check_group(group, start))?;
    let sum = groups
        .iter()
        .map(RowGroupMetaData::num_rows)
        .fold(0, i64::saturating_add);
    let rows = footer.file_metadata().num_rows();
    if rows != sum {
        return fail(format!(
            "its footer says that it has {rows} rows, and its row groups {sum}"
        ));
    }
    Ok(footer)
}

fn text(broken: ThriftError) -> &'static str {
    match broken {
        ThriftError::Short => "a length in it goes beyond its end",
        ThriftError::Malformed => "it has a value of no known type",
    }
}

fn check_group(group: &RowGroupMetaData, end: u64) -> Result<(), CheckError> {
    let rows = group.num_rows();
    for column in group.columns() {
        let name = column.column_path().string();
        if chunk(column).is_none_or(|bytes| bytes.end > end) {
            return fail(format!(
                "its footer names a column chunk of {name} of {} bytes from byte {} on, and there are {end}",
                column.compressed_size(),
                first_page(column),
            ));
        }
        let (values, uncompressed) = (column.num_values(), column.uncompressed_size());
        let flat = column.column_descr().max_rep_level() == 0;
        if rows < 0 || values < 0 || uncompressed < 0 || (flat && values != rows) {
            return fail(format!(
                "its footer says that a row group has {rows} rows, its column {name} {values} values in {} bytes",
                column.compressed_size(),
            ));
        }
    }
    Ok(())
}

fn first_page(column: &ColumnChunkMetaData) -> i64 {
    column
        .dictionary_page_offset()
        .unwrap_or_else(|| column.data_page_offset())
}

/// The bytes of a column chunk.
fn chunk(column: &ColumnChunkMetaData) -> Option<Range<u64>> {
    let start = u64::try_from(first_page(column)).ok()?;
    let length = u64::try_from(column.compressed_size()).ok()?;
    Some(start..start.checked_add(length)?)
}

/// Where row groups begin. One without columns has no place.
pub(super) fn group_starts(footer: &ParquetMetaData) -> Vec<u64> {
    let first = |group: &RowGroupMetaData| group.columns().first().and_then(chunk);
    let starts = footer.row_groups().iter().filter_map(first);
    starts.map(|first| first.start).collect()
}

/// Checks the headers of the pages that a scan of `bytes` reads, and the page indices if it uses them. Answers the most
/// bytes that its decoders hold at once: of each column a dictionary, a page, and the values of a batch.
pub(super) fn check_pages(
    file: &OpenFile,
    bytes: &Range<u64>,
    columns: Option<&BTreeSet<String>>,
    skips_pages: bool,
) -> Result<u64, CheckError> {
    let footer = footer(file)?;
    let mut most = 0;
    for group in footer.row_groups() {
        if skips_pages {
            group
                .columns()
                .iter()
                .try_for_each(|column| check_index(file, column))?;
        }
        // As DataFusion has it: a row group belongs to the range that holds its first page.
        let first = group.columns().first().and_then(chunk);
        if !first.is_some_and(|first| bytes.contains(&first.start)) {
            continue;
        }
        let mut held = 0_u64;
        for column in group.columns() {
            let root = column.column_path().parts().first();
            if columns.is_none_or(|columns| root.is_some_and(|root| columns.contains(root))) {
                held = held.saturating_add(check_chunk(file, column)?);
            }
        }
        most = most.max(held);
    }
    Ok(most)
}

/// The decoder makes room for as many pages as an offset index says it has.
fn check_index(file: &OpenFile, column: &ColumnChunkMetaData) -> Result<(), CheckError> {
    let (Some(at), Some(length)) = (column.offset_index_offset(), column.offset_index_length()) else {
        return Ok(());
    };
    let bytes = match (u64::try_from(at), u64::try_from(length)) {
        (Ok(at), Ok(length)) => file.read(at, length)?,
        _ => None,
    };
    let name = column.column_path().string();
    match bytes.map(|bytes| Compact::new(&bytes).skip_struct()) {
        Some(Ok(())) => Ok(()),
        Some(Err(broken)) => fail(format!(
            "the page index of column {name} is corrupt: {}",
            text(broken)
        )),
        None => fail(format!(
            "its footer names a page index of column {name} of {length} bytes from byte {at} on, and there are {}",
            file.size
        )),
    }
}

/// What a page's header says, as far as it decides how much room is made.
#[derive(Default)]
struct Page {
    uncompressed: i64,
    compressed: i64,
    /// Values of a page of data.
    values: i64,
    /// Values of a dictionary.
    entries: i64,
}

/// Rows of a batch that a scan decodes at most.
const BATCH_ROWS: i64 = 8192;
/// Bytes of a value, with its levels, that is no text. Texts stay in their pages.
const VALUE_BYTES: i64 = 16;

/// Checks a column chunk; answers the most bytes that its decoder holds at once.
fn check_chunk(file: &OpenFile, column: &ColumnChunkMetaData) -> Result<u64, CheckError> {
    let name = column.column_path().string();
    let mut bytes = match chunk(column) {
        Some(bytes) => bytes,
        None => return fail(format!("column {name} has no bytes")),
    };
    let mut values = 0_i64;
    let (mut dictionary, mut largest) = (0_i64, 0_i64);
    // A row of a list may have all values of a page, which a run stands for.
    let flat = column.column_descr().max_rep_level() == 0;
    // What follows the last value is not read.
    while !bytes.is_empty() && values < column.num_values() {
        let (page, header) = page(file, &bytes, &name)?;
        check_page(&page, column, bytes.end - bytes.start - header).or_else(|problem| {
            fail(format!(
                "a page of column {name} at byte {} {problem}",
                bytes.start
            ))
        })?;
        values = values.saturating_add(page.values);
        let batch = if flat {
            page.values.min(BATCH_ROWS)
        } else {
            page.values
        };
        let decoded = page
            .uncompressed
            .saturating_add(batch.saturating_mul(VALUE_BYTES));
        if page.entries > 0 {
            dictionary = dictionary.max(page.uncompressed);
        } else {
            largest = largest.max(decoded);
        }
        bytes.start += header + u64::try_from(page.compressed).unwrap_or(0);
    }
    Ok(u64::try_from(dictionary.saturating_add(largest)).unwrap_or(0))
}

/// The page at the beginning of `bytes`, and the length of its header.
fn page(file: &OpenFile, bytes: &Range<u64>, column: &str) -> Result<(Page, u64), CheckError> {
    // Fields of the header, and of the headers of one kind of page in it.
    const INNER: i64 = 1 << 20;
    const DATA: i64 = 5;
    const DICTIONARY: i64 = 7;
    const DATA_V2: i64 = 8;
    let there = bytes.end - bytes.start;
    let mut length = HEADER;
    loop {
        let read = file.read(bytes.start, length.min(there))?.unwrap_or_default();
        let mut walk = Compact::new(&read);
        let mut page = Page::default();
        let mut inner = |field| matches!(field, DATA | DICTIONARY | DATA_V2).then_some(field * INNER);
        let walked = walk.integers(
            &mut inner,
            &mut |field, value| match (field / INNER, field % INNER) {
                (0, 2) => page.uncompressed = value,
                (0, 3) => page.compressed = value,
                (DATA | DATA_V2, 1) => page.values = value,
                (DICTIONARY, 1) => page.entries = value,
                _ => {}
            },
        );
        match walked {
            Ok(()) => return Ok((page, u64::try_from(walk.walked()).unwrap_or(u64::MAX))),
            Err(ThriftError::Short) if length < there && length < MAX_HEADER => length *= 8,
            Err(broken) => {
                let at = bytes.start;
                let broken = text(broken);
                return fail(format!(
                    "the header of a page of column {column} at byte {at} is corrupt: {broken}"
                ));
            }
        }
    }
}

/// Whether a page's header can be true; `there` bytes follow it.
fn check_page(page: &Page, column: &ColumnChunkMetaData, there: u64) -> Result<(), String> {
    let (compressed, uncompressed) = (page.compressed, page.uncompressed);
    if u64::try_from(compressed).map_or(true, |compressed| compressed > there) {
        return Err(format!("is said to have {compressed} bytes, of {there}"));
    }
    // Levels of a page of the second version are not compressed: one more.
    let most = growth(column.compression()).map(|growth| compressed.saturating_add(1).saturating_mul(growth));
    if uncompressed < 0 || most.is_some_and(|most| uncompressed > most) {
        return Err(format!(
            "of {compressed} bytes is said to have been {uncompressed} before compression"
        ));
    }
    let width = match column.column_type() {
        Type::BOOLEAN => 0,
        Type::INT32 | Type::FLOAT => 4,
        Type::INT64 | Type::DOUBLE => 8,
        Type::INT96 => 12,
        // Each has its length before it.
        Type::BYTE_ARRAY => 4,
        Type::FIXED_LEN_BYTE_ARRAY => i64::from(column.column_descr().type_length()),
    };
    let held = match column.compression() {
        Compression::UNCOMPRESSED => compressed,
        _ => uncompressed,
    };
    let entries = page.entries;
    if page.values < 0 || entries < 0 || entries.saturating_mul(width) > held {
        return Err(format!(
            "is said to have {} values, and a dictionary of {entries} in {held} bytes",
            page.values
        ));
    }
    Ok(())
}

/// How many bytes a compressed byte can stand for, where that is bounded by little. Whatever a page claims is charged
/// before it is decoded.
fn growth(compression: Compression) -> Option<i64> {
    match compression {
        // Copies of 64 bytes in three.
        Compression::SNAPPY => Some(64),
        Compression::LZ4 | Compression::LZ4_RAW => Some(255),
        // A match of 258 bytes in two bits.
        Compression::GZIP(_) => Some(1032),
        Compression::UNCOMPRESSED | Compression::LZO | Compression::BROTLI(_) | Compression::ZSTD(_) => None,
    }
}
