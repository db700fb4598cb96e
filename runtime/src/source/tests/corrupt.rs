//! Files with wrong bytes: rows, or an error that names the file; never a length that is believed.

use super::*;
use crate::planner::{
    InputProvider, InputStream, SplitTarget, decode_task, plan, session_options, session_state, task_context,
};
use crate::source::classify_error;
use arrow::array::DictionaryArray;
use arrow::datatypes::Int32Type;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use arrow_ipc::{Block, CompressionType, root_as_footer};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::common::collect;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::Compression;
use parquet::file::metadata::{ParquetMetaDataReader, ParquetMetaDataWriter};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use sluice_core::plan::{FileRange, Split};

/// A scan reads no shuffle.
struct NoInputs;

impl InputProvider for NoInputs {
    fn open(
        &self,
        stream: InputStream,
        _: &Arc<TaskContext>,
    ) -> datafusion::error::Result<SendableRecordBatchStream> {
        Err(DataFusionError::Internal(format!("{stream:?}")))
    }
}

/// Reads a table as tasks do, each file in pieces where it can be cut. The error is the user's.
async fn scan(spec: &TableSpec, sql: &str) -> Result<Vec<RecordBatch>, String> {
    let tables = std::slice::from_ref(spec);
    let told = |error: SourceError| format!("{:?}: {error}", error.reason);
    let manifest = InputManifest::list(tables, Path::new("/nowhere"))
        .await
        .map_err(told)?;
    let target = SplitTarget {
        tasks: 2,
        min_bytes: 1,
        max_bytes: 1 << 40,
    };
    let runtime = RuntimeEnvBuilder::new()
        .with_object_store_registry(manifest.stores())
        .build_arc()
        .unwrap();
    let options = session_options(2).with_extension(Arc::new(target));
    let context = SessionContext::new_with_state(session_state(options, Arc::clone(&runtime)));
    register_tables(&context, tables, &manifest).await.map_err(told)?;
    let planned = plan(&context.state(), sql)
        .await
        .map_err(|error| format!("{:?}: {error}", error.reason()))?;
    let [stage] = planned.stages.as_slice() else {
        panic!("one stage scans: {}", crate::planner::explain(&planned));
    };
    let inputs: Arc<dyn InputProvider> = Arc::new(NoInputs);
    let mut rows = Vec::new();
    for task in &stage.tasks {
        let ranges: Vec<FileRange> = task
            .splits
            .values()
            .flat_map(|split| match split {
                Split::Files(ranges) => ranges.clone(),
                Split::Tpch { .. } | Split::Whole => Vec::new(),
            })
            .collect();
        let context = task_context(&stage.fragment.options, "t", Arc::clone(&runtime)).unwrap();
        let plan = decode_task(&stage.fragment, task, &context, &inputs, &[]).unwrap();
        let scanned = match plan.execute(0, context) {
            Ok(stream) => collect(stream).await,
            Err(error) => Err(error),
        };
        rows.extend(scanned.map_err(|error| format!("{:?}", classify_error(&error, &ranges)))?);
    }
    Ok(rows)
}

const SQL: &str = "select id, name, kind from t where id >= 0";

/// Rows of three types; `kind` becomes a dictionary where the format has them.
fn sample(first: i64, count: i64) -> RecordBatch {
    let plain = batch(first, count);
    let kinds: DictionaryArray<Int32Type> = (first..first + count)
        .map(|id| ["red", "green", "blue"][id as usize % 3])
        .collect();
    RecordBatch::try_from_iter([
        ("id", Arc::clone(plain.column(0))),
        ("name", Arc::clone(plain.column(1))),
        ("kind", Arc::new(kinds) as ArrayRef),
    ])
    .unwrap()
}

fn parquet_bytes(compression: Compression, version: WriterVersion) -> Vec<u8> {
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_writer_version(version)
        .set_max_row_group_row_count(Some(20))
        .set_data_page_row_count_limit(10)
        .set_write_batch_size(5)
        .set_created_by("a".to_owned())
        .build();
    let options = ArrowWriterOptions::new()
        .with_properties(properties)
        .with_skip_arrow_metadata(true);
    let rows = sample(0, 40);
    let mut writer = ArrowWriter::try_new_with_options(Vec::new(), rows.schema(), options).unwrap();
    writer.write(&rows).unwrap();
    writer.into_inner().unwrap()
}

fn arrow_bytes(compression: Option<CompressionType>) -> Vec<u8> {
    let options = IpcWriteOptions::default()
        .try_with_compression(compression)
        .unwrap();
    let rows = sample(0, 40);
    let mut writer = FileWriter::try_new_with_options(Vec::new(), &rows.schema(), options).unwrap();
    writer.write(&rows.slice(0, 20)).unwrap();
    writer.write(&rows.slice(20, 20)).unwrap();
    writer.into_inner().unwrap()
}

fn stream_bytes() -> Vec<u8> {
    let rows = sample(0, 40);
    let mut writer = StreamWriter::try_new(Vec::new(), &rows.schema()).unwrap();
    writer.write(&rows).unwrap();
    writer.into_inner().unwrap()
}

/// A folder with one file, to be written again and again.
struct Bad {
    _folder: TempDir,
    path: PathBuf,
    format: &'static str,
}

impl Bad {
    fn new(format: &'static str) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(format!("bad.{format}"));
        Self {
            _folder: folder,
            path,
            format,
        }
    }

    async fn read(&self, bytes: &[u8]) -> Result<Vec<RecordBatch>, String> {
        fs::write(&self.path, bytes).unwrap();
        scan(&files(self.format, &self.path), SQL).await
    }

    /// The error that these bytes give, which must name the file.
    async fn refused(&self, bytes: &[u8]) -> String {
        let error = self.read(bytes).await.unwrap_err();
        self.check_error(&error, "");
        error
    }

    fn check_error(&self, error: &str, what: &str) {
        let name = format!("bad.{}", self.format);
        assert!(
            error.contains(&name) || error.contains("InvalidSql"),
            "{what}: not named: {error}"
        );
        assert!(
            !error.contains("Failed {"),
            "{what}: would be tried again: {error}"
        );
    }

    /// Reads the file with one byte after the other replaced.
    async fn flip(&self, good: &[u8], places: impl Iterator<Item = usize>) {
        let whole = self.read(good).await.unwrap();
        let rows: usize = whole.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(rows, 40);
        let mut bytes = good.to_vec();
        for place in places {
            for flip in [0xff, 0x80, 0x01] {
                bytes[place] = good[place] ^ flip;
                let what = format!("byte {place} of {} ^ {flip:#x}", good.len());
                match self.read(&bytes).await {
                    // Values may differ: the formats have no checksums.
                    Ok(read) => {
                        let rows: usize = read.iter().map(RecordBatch::num_rows).sum();
                        assert!(rows <= 40, "{what}: {rows} rows");
                    }
                    Err(error) => self.check_error(&error, &what),
                }
            }
            bytes[place] = good[place];
        }
    }
}

fn parquet_footer_start(good: &[u8]) -> usize {
    let tail = &good[good.len() - 8..];
    good.len() - 8 - u32::from_le_bytes(tail[..4].try_into().unwrap()) as usize
}

fn arrow_footer_start(good: &[u8]) -> usize {
    let tail = &good[good.len() - 10..];
    good.len() - 10 - u32::from_le_bytes(tail[..4].try_into().unwrap()) as usize
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_of_a_parquet_footer_does_harm() {
    let good = parquet_bytes(Compression::SNAPPY, WriterVersion::PARQUET_1_0);
    Bad::new("parquet")
        .flip(&good, parquet_footer_start(&good)..good.len())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_of_parquet_pages_does_harm() {
    for (compression, version) in [
        (Compression::SNAPPY, WriterVersion::PARQUET_1_0),
        (Compression::UNCOMPRESSED, WriterVersion::PARQUET_2_0),
        (Compression::LZ4_RAW, WriterVersion::PARQUET_2_0),
    ] {
        let good = parquet_bytes(compression, version);
        Bad::new("parquet")
            .flip(&good, (0..parquet_footer_start(&good)).step_by(11))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_of_an_arrow_file_does_harm() {
    let good = arrow_bytes(Some(CompressionType::LZ4_FRAME));
    let footer = arrow_footer_start(&good);
    Bad::new("arrow")
        .flip(&good, (0..footer).step_by(11).chain(footer..good.len()))
        .await;
    let good = arrow_bytes(None);
    Bad::new("arrow")
        .flip(&good, (0..arrow_footer_start(&good)).step_by(11))
        .await;
    let good = stream_bytes();
    Bad::new("arrow").flip(&good, (0..good.len()).step_by(5)).await;
}

#[tokio::test]
async fn a_column_chunk_that_is_larger_than_its_file_is_not_believed() {
    let good = parquet_bytes(Compression::SNAPPY, WriterVersion::PARQUET_1_0);
    let start = parquet_footer_start(&good);
    let footer = ParquetMetaDataReader::decode_metadata(&good[start..good.len() - 8]).unwrap();
    let bad = Bad::new("parquet");
    for length in [1 << 20, 1 << 40, 1 << 62, -1] {
        let mut changed = footer.clone().into_builder();
        let mut groups = changed.take_row_groups();
        let mut columns = groups[1].columns().to_vec();
        columns[0] = columns[0]
            .clone()
            .into_builder()
            .set_total_compressed_size(length)
            .build()
            .unwrap();
        groups[1] = groups[1]
            .clone()
            .into_builder()
            .set_column_metadata(columns)
            .build()
            .unwrap();
        let changed = changed.set_row_groups(groups).build();
        let mut bytes = good[..start].to_vec();
        ParquetMetaDataWriter::new(&mut bytes, &changed).finish().unwrap();
        let error = bad.refused(&bytes).await;
        assert!(
            error.starts_with("InputCorrupt") && error.contains("a column chunk of id"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_list_that_is_longer_than_a_parquet_footer_is_not_believed() {
    let good = parquet_bytes(Compression::SNAPPY, WriterVersion::PARQUET_1_0);
    let start = parquet_footer_start(&good);
    let footer = &good[start..good.len() - 8];
    // Field 4, a list of two structs: the row groups.
    let place = footer.windows(2).position(|two| two == [0x19, 0x2c]).unwrap();
    let mut bytes = good[..start + place + 1].to_vec();
    bytes.extend([0xfc, 0xff, 0xff, 0xff, 0xff, 0x07]);
    bytes.extend(&footer[place + 2..]);
    let length = u32::try_from(bytes.len() - start).unwrap();
    bytes.extend(length.to_le_bytes());
    bytes.extend(b"PAR1");
    let error = Bad::new("parquet").refused(&bytes).await;
    assert!(error.contains("a length in it goes beyond its end"), "{error}");
}

/// The file with another uncompressed length, of five bytes, in the header of its first page.
fn with_length(good: &[u8], length: [u8; 5]) -> Vec<u8> {
    let start = parquet_footer_start(good);
    let footer = ParquetMetaDataReader::decode_metadata(&good[start..good.len() - 8]).unwrap();
    // The header: field 1, the type; field 2, the length.
    assert_eq!((good[4], good[6]), (0x15, 0x15));
    let end = 8 + good[7..].iter().position(|byte| byte & 0x80 == 0).unwrap();
    let mut bytes = [&good[..7], &length, &good[end..start]].concat();
    let more = i64::try_from(bytes.len() - start).unwrap();
    let mut changed = footer.into_builder();
    let mut groups = changed.take_row_groups();
    let [column] = groups[0].columns() else {
        panic!("one column, or the others move");
    };
    let column = column.clone();
    let larger = column.compressed_size() + more;
    let column = column
        .into_builder()
        .set_total_compressed_size(larger)
        .build()
        .unwrap();
    groups[0] = groups[0]
        .clone()
        .into_builder()
        .set_column_metadata(vec![column])
        .build()
        .unwrap();
    let changed = changed.set_row_groups(groups).build();
    ParquetMetaDataWriter::new(&mut bytes, &changed).finish().unwrap();
    bytes
}

#[tokio::test]
async fn a_page_that_cannot_be_as_large_as_it_says_is_not_believed() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("bad.parquet");
    for compression in [Compression::SNAPPY, Compression::LZ4_RAW] {
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .set_dictionary_enabled(false)
            .set_offset_index_disabled(true)
            .set_statistics_enabled(EnabledStatistics::None)
            .build();
        let rows = batch(0, 500).project(&[0]).unwrap();
        let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties)).unwrap();
        writer.write(&rows).unwrap();
        let good = writer.into_inner().unwrap();
        let read = async |bytes: Vec<u8>| {
            fs::write(&path, bytes).unwrap();
            scan(&files("parquet", &path), "select id from t").await
        };
        let page = 500 * 8;
        let said = [
            0x80 | (page * 2 % 128) as u8,
            0x80 | (page * 2 / 128) as u8,
            0x80,
            0x80,
            0,
        ];
        let whole = read(with_length(&good, said)).await;
        assert_eq!(whole.unwrap()[0].num_rows(), 500, "nothing else was changed");
        let error = read(with_length(&good, [0xfe, 0xff, 0xff, 0xff, 0x0f]))
            .await
            .unwrap_err();
        assert!(
            error.contains("bad.parquet cannot be decoded")
                && error.contains("is said to have been 2147483647"),
            "{error}"
        );
    }
}

/// A footer's block, and where its bytes are in the file.
fn blocks(good: &[u8]) -> Vec<(usize, Block)> {
    let start = arrow_footer_start(good);
    let footer = root_as_footer(&good[start..good.len() - 10]).unwrap();
    let blocks = footer.dictionaries().into_iter().flatten();
    let blocks = blocks.chain(footer.recordBatches().into_iter().flatten());
    let place = |block: &Block| {
        let found = good[start..]
            .windows(block.0.len())
            .position(|bytes| bytes == block.0);
        (start + found.unwrap(), *block)
    };
    blocks.map(place).collect()
}

#[tokio::test]
async fn a_block_that_is_larger_than_its_arrow_file_is_not_believed() {
    let good = arrow_bytes(None);
    let bad = Bad::new("arrow");
    let blocks = blocks(&good);
    assert_eq!(blocks.len(), 3, "a dictionary and two batches");
    for (place, block) in blocks {
        let (at, metadata) = (block.offset(), block.metaDataLength());
        for wrong in [
            Block::new(at, metadata, 1 << 40),
            Block::new(at, metadata, 1 << 60),
            Block::new(at, metadata, i64::MAX),
            Block::new(at, metadata, -8),
            Block::new(at, i32::MAX, block.bodyLength()),
            Block::new(at, 0, block.bodyLength()),
            Block::new(1 << 40, metadata, block.bodyLength()),
            Block::new(-8, metadata, block.bodyLength()),
        ] {
            let mut bytes = good.clone();
            bytes[place..place + wrong.0.len()].copy_from_slice(&wrong.0);
            let error = bad.refused(&bytes).await;
            assert!(
                error.starts_with("InputCorrupt") && error.contains("its footer names a block"),
                "{wrong:?}: {error}"
            );
        }
    }
    let mut bytes = good.clone();
    let length = good.len() - 10;
    bytes[length..length + 4].copy_from_slice(&i32::MAX.to_le_bytes());
    let error = bad.refused(&bytes).await;
    assert!(
        error.contains("its footer is said to have 2147483647 bytes"),
        "{error}"
    );
}

#[tokio::test]
async fn a_compressed_buffer_that_cannot_have_been_as_large_is_not_believed() {
    let bad = Bad::new("arrow");
    for compression in [CompressionType::LZ4_FRAME, CompressionType::ZSTD] {
        // Texts that compress, so that their length precedes them.
        let names: ArrayRef = Arc::new(StringArray::from(vec!["the same text again and again"; 100]));
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![7; 100]));
        let rows =
            RecordBatch::try_from_iter([("id", ids), ("name", Arc::clone(&names)), ("kind", names)]).unwrap();
        let options = IpcWriteOptions::default()
            .try_with_compression(Some(compression))
            .unwrap();
        let mut writer = FileWriter::try_new_with_options(Vec::new(), &rows.schema(), options).unwrap();
        writer.write(&rows).unwrap();
        let good = writer.into_inner().unwrap();
        assert_eq!(bad.read(&good).await.unwrap()[0].num_rows(), 100);
        // What the 100 integers were.
        let said = 800_i64.to_le_bytes();
        let place = good.windows(8).position(|bytes| bytes == said).unwrap();
        for wrong in [1_i64 << 40, 1 << 60, i64::MAX, -2] {
            let mut bytes = good.clone();
            bytes[place..place + 8].copy_from_slice(&wrong.to_le_bytes());
            let error = bad.refused(&bytes).await;
            assert!(
                error.contains("InputCorrupt") && error.contains("is said to have been"),
                "{wrong}: {error}"
            );
        }
    }
}

#[tokio::test]
async fn a_message_that_is_larger_than_its_stream_is_not_believed() {
    let good = stream_bytes();
    let bad = Bad::new("arrow");
    assert_eq!(bad.read(&good).await.unwrap()[0].num_rows(), 40);
    let second = 8 + i32::from_le_bytes(good[4..8].try_into().unwrap()) as usize;
    for place in [4, second + 4] {
        let mut bytes = good.clone();
        bytes[place..place + 4].copy_from_slice(&i32::MAX.to_le_bytes());
        let error = bad.refused(&bytes).await;
        assert!(error.contains("is said to have 2147483647 bytes"), "{error}");
    }
}

#[tokio::test]
async fn files_of_both_arrow_formats_need_tables_of_their_own() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("a.arrow"), arrow_bytes(None)).unwrap();
    fs::write(folder.path().join("b.arrow"), stream_bytes()).unwrap();
    let error = scan(&files("arrow", folder.path()), SQL).await.unwrap_err();
    assert!(
        error.contains("b.arrow cannot be decoded") && error.contains("a table of its own"),
        "{error}"
    );
    fs::rename(folder.path().join("b.arrow"), folder.path().join("0.arrow")).unwrap();
    let error = scan(&files("arrow", folder.path()), SQL).await.unwrap_err();
    assert!(
        error.contains("a.arrow cannot be decoded") && error.contains("a table of its own"),
        "{error}"
    );
}
