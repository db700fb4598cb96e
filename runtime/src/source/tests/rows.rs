//! Rows that were lost or changed on their way, and files that take more memory than they are worth.

use super::*;
use crate::planner::ScanExec;
use crate::source::classify_error;
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::physical_plan::{ExecutionPlan, collect};
use parquet::basic::{Compression, Encoding};
use parquet::data_type::{Int96, Int96Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use sluice_core::failure::AttemptFailure;
use sluice_core::plan::{FileRange, InputFile, Split};

/// What an attempt answers that reads these ranges of files with so much memory.
async fn scan(
    spec: &TableSpec,
    memory: usize,
    ranges: impl Fn(&InputFile) -> Vec<(u64, u64)>,
) -> Result<Vec<RecordBatch>, AttemptFailure> {
    let (planned, manifest) = open(spec).await.unwrap();
    let plan = planned.sql("select * from t").await.unwrap();
    let plan = plan.create_physical_plan().await.unwrap();
    let mut source: Arc<dyn ExecutionPlan> = plan;
    while let Some(child) = source.children().first().map(|child| Arc::clone(child)) {
        source = child;
    }
    let ranges: Vec<_> = manifest.tables["t"]
        .iter()
        .flat_map(|file| {
            ranges(file).into_iter().map(|(start, end)| FileRange {
                file: file.clone(),
                start,
                end,
            })
        })
        .collect();
    let filled = ScanExec::new(0, source)
        .filled(&Split::Files(ranges.clone()))
        .unwrap();
    let runtime = RuntimeEnvBuilder::new()
        .with_object_store_registry(manifest.stores())
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(memory)))
        .build_arc()
        .unwrap();
    let session = SessionContext::new_with_config_rt(SessionConfig::new(), runtime);
    collect(filled, session.task_ctx())
        .await
        .map_err(|error| classify_error(&error, &ranges))
}

fn whole(file: &InputFile) -> Vec<(u64, u64)> {
    vec![(0, file.size)]
}

fn halves(file: &InputFile) -> Vec<(u64, u64)> {
    let middle = file.size / 2;
    vec![(0, middle), (middle, file.size)]
}

const PLENTY: usize = 1 << 30;

#[tokio::test]
async fn times_of_spark_beyond_2262_stay() {
    let folder = TempDir::new().unwrap();
    let schema = parquet::schema::parser::parse_message_type("message m { optional int96 t; }").unwrap();
    let file = fs::File::create(folder.path().join("a.parquet")).unwrap();
    let mut writer = SerializedFileWriter::new(file, Arc::new(schema), Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    // 9999-12-31 and 1970-01-02, as days of Julius.
    let mut values = [Int96::new(), Int96::new()];
    values[0].set_data(0, 0, 5_373_484);
    values[1].set_data(0, 0, 2_440_589);
    column
        .typed::<Int96Type>()
        .write_batch(&values, Some(&[1, 1]), None)
        .unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    let (session, _) = open(&files("parquet", folder.path())).await.unwrap();
    assert_eq!(
        rows(&session, "select t from t order by t").await,
        ["| 1970-01-02T00:00:00 |", "| 9999-12-31T00:00:00 |"]
    );
}

fn csv(folder: &TempDir, options: &serde_json::Value) -> TableSpec {
    table(json!({"name": "t", "format": "csv", "location": folder.path(), "options": options}))
}

#[tokio::test]
async fn line_breaks_within_quotes_are_values_or_an_error_but_never_rows() {
    let folder = TempDir::new().unwrap();
    let mut text = "a,b\n".to_owned();
    for row in 0..2500 {
        if row < 1500 {
            text.push_str("0,z\n");
            continue;
        }
        text.push_str(&format!("{row},\"x\ny, 5\"\" z\"\n"));
    }
    write(&folder, "a.csv", &text);
    let read = scan(&csv(&folder, &json!({})), PLENTY, whole).await.unwrap();
    assert_eq!(read.iter().map(RecordBatch::num_rows).sum::<usize>(), 2500);
    let options = json!({"newlinesInValues": false});
    let error = scan(&csv(&folder, &options), PLENTY, halves).await.unwrap_err();
    let AttemptFailure::BadInput { message, .. } = error else {
        panic!("{error:?}")
    };
    assert!(
        message.contains("a.csv") && message.contains("line 1502 has a line break within quotes"),
        "{message}"
    );
    // Quotes within a value that does not begin with one are no quotes.
    let plain: String = (0..1000).map(|row| format!("{row},5\" pipe\n")).collect();
    write(&folder, "a.csv", &format!("a,b\n{plain}"));
    let read = scan(&csv(&folder, &json!({"newlinesInValues": false})), PLENTY, halves).await;
    assert_eq!(
        read.unwrap().iter().map(RecordBatch::num_rows).sum::<usize>(),
        1000
    );
}

#[tokio::test]
async fn rows_behind_an_open_quote_are_not_taken_for_one_value() {
    let folder = TempDir::new().unwrap();
    let options = json!({});
    for (text, line) in [
        ("a,b\n1,\"x\n2,y\n3,z\n", 2),
        ("a,b\n1,x\n2,\"y\n\"\n3,\"\"\"", 5),
    ] {
        write(&folder, "a.csv", text);
        let error = scan(&csv(&folder, &options), PLENTY, whole).await.unwrap_err();
        let AttemptFailure::BadInput { message, .. } = error else {
            panic!("{error:?}")
        };
        let expected = format!("line {line} begins a quoted value that is not closed");
        assert!(
            message.contains("a.csv") && message.contains(&expected),
            "{message}"
        );
    }
    write(&folder, "a.csv", "a,b\n1,\"x\n\"\"\n\"");
    let read = scan(&csv(&folder, &options), PLENTY, whole).await.unwrap();
    assert_eq!(read.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
}

#[tokio::test]
async fn a_null_regex_acts_on_booleans() {
    let folder = TempDir::new().unwrap();
    write(&folder, "a.csv", "i,b\n1,true\n2,NA\n3,false\n");
    let (session, _) = open(&csv(&folder, &json!({"nullRegex": "^NA$"}))).await.unwrap();
    assert_eq!(
        rows(&session, "select i, b, arrow_typeof(b) from t order by i").await,
        [
            "| 1 | true | Boolean |",
            "| 2 | | Boolean |",
            "| 3 | false | Boolean |"
        ]
    );
    assert_eq!(rows(&session, "select i from t where not b").await, ["| 3 |"]);
}

#[tokio::test]
async fn columns_of_late_rows_and_files_are_there() {
    let folder = TempDir::new().unwrap();
    let mut text = "{\"a\": 1, \"s\": {\"x\": 1}}\n".repeat(3000);
    text.push_str("{\"a\": 2, \"late\": 7, \"s\": {\"y\": 8}}\n");
    write(&folder, "a.json", &text);
    for number in 0..70 {
        write(
            &folder,
            &format!("b{number:02}.json"),
            &format!("{{\"c{number}\": 1}}\n"),
        );
    }
    let (session, _) = open(&files("json", folder.path())).await.unwrap();
    assert_eq!(
        rows(&session, "select sum(late), sum(s['y']), sum(c69) from t").await,
        ["| 7 | 8 | 1 |"]
    );
    // Files beyond a sample may have other columns.
    let folder = TempDir::new().unwrap();
    for number in 0..70 {
        write(&folder, &format!("a{number:02}.csv"), "a,b\n1,2\n");
    }
    write(&folder, "b.csv", "b,a\n2,1\n");
    assert!(
        refusal(&files("csv", folder.path()))
            .await
            .contains("b.csv has other columns than")
    );
}

#[tokio::test]
async fn structs_and_lists_that_grow_are_read_by_a_declared_schema() {
    let folder = TempDir::new().unwrap();
    write(&folder, "a.json", "{\"s\": {\"x\": 1}, \"l\": [1]}\n");
    write(
        &folder,
        "b.json",
        "{\"s\": {\"x\": 2, \"y\": \"z\"}, \"l\": [2, 3]}\n",
    );
    for (name, end) in [("a", "parquet"), ("b", "parquet")] {
        let (session, _) = open(&files("json", &folder.path().join(format!("{name}.json"))))
            .await
            .unwrap();
        let frame = session.sql("select * from t").await.unwrap();
        let batch = frame.collect().await.unwrap().remove(0);
        fs::create_dir_all(folder.path().join("parquet")).unwrap();
        write_parquet(&folder.path().join(format!("parquet/{name}.{end}")), &batch);
    }
    let location = folder.path().join("parquet");
    assert!(
        refusal(&files("parquet", &location))
            .await
            .contains("declare a schema")
    );
    let columns =
        json!([{"name": "s", "type": "Struct(x: Int64, y: Utf8)"}, {"name": "l", "type": "List(Int64)"}]);
    let spec = table(json!({"name": "t", "format": "parquet", "location": location, "schema": columns}));
    let (session, _) = open(&spec).await.unwrap();
    assert_eq!(
        rows(
            &session,
            "select s['x'], s['y'], cardinality(l) from t order by 1"
        )
        .await,
        ["| 1 | | 1 |", "| 2 | z | 2 |"]
    );
}

#[tokio::test]
async fn a_row_beyond_its_bound_is_told_with_its_line() {
    let folder = TempDir::new().unwrap();
    let long = "1,".repeat(3 << 20);
    write(
        &folder,
        "a.json",
        &format!("{{\"a\": [1]}}\n{{\"a\": [{long}1]}}\n"),
    );
    let error = refusal(&files("json", folder.path())).await;
    assert!(
        error.contains("a.json") && error.contains("line 2 has more than 4194304 bytes"),
        "{error}"
    );
    let columns = json!([{"name": "a", "type": "List(Int64)"}]);
    let spec = table(json!({"name": "t", "format": "json", "location": folder.path(), "schema": columns}));
    let error = scan(&spec, PLENTY, whole).await.unwrap_err();
    assert!(format!("{error:?}").contains("line 2 has more than"), "{error:?}");
    let folder = TempDir::new().unwrap();
    write(&folder, "a.csv", &format!("a\n1\n\"{}\n", "x\n".repeat(5 << 20)));
    let error = refusal(&files("csv", folder.path())).await;
    assert!(error.contains("has more than 4194304 bytes"), "{error}");
}

#[tokio::test]
async fn objects_over_several_lines_are_told() {
    let folder = TempDir::new().unwrap();
    write(&folder, "a.json", "{\"a\": 1}\n{\n\"a\": 2\n}\n");
    let columns = json!([{"name": "a", "type": "Int64"}]);
    let spec = table(json!({"name": "t", "format": "json", "location": folder.path(), "schema": columns}));
    let error = scan(&spec, PLENTY, halves).await.unwrap_err();
    assert!(
        format!("{error:?}").contains("line 2 is no JSON object"),
        "{error:?}"
    );
}

#[tokio::test]
async fn pages_that_swell_are_charged_before_they_are_decoded() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.parquet");
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(Default::default()))
        .set_dictionary_enabled(false)
        .set_encoding(Encoding::PLAIN)
        .set_data_page_size_limit(1 << 30)
        .set_max_row_group_row_count(None)
        .set_data_page_row_count_limit(usize::MAX)
        .set_write_batch_size(32 << 20)
        .build();
    let zeros: ArrayRef = Arc::new(Int64Array::from(vec![0; 16 << 20]));
    let batch = RecordBatch::try_from_iter([("z", zeros)]).unwrap();
    let mut writer =
        ArrowWriter::try_new(fs::File::create(&path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    assert!(fs::metadata(&path).unwrap().len() < 100_000);
    let error = scan(&files("parquet", &path), 16 << 20, whole).await.unwrap_err();
    let AttemptFailure::ResourcesExhausted { message, .. } = error else {
        panic!("{error:?}")
    };
    assert!(
        message.contains("a.parquet") && message.contains("128 MiB at once"),
        "{message}"
    );
    let read = scan(&files("parquet", &path), PLENTY, whole).await.unwrap();
    assert_eq!(read.iter().map(RecordBatch::num_rows).sum::<usize>(), 16 << 20);
}

#[tokio::test]
async fn what_a_message_quotes_is_short() {
    let folder = TempDir::new().unwrap();
    write(&folder, "a.csv", &format!("a,b\n{},y\n", "x".repeat(100_000)));
    let columns = json!([{"name": "a", "type": "Int64"}, {"name": "b", "type": "Utf8"}]);
    let mut spec = csv(&folder, &json!({}));
    spec.schema = serde_json::from_value(columns).unwrap();
    let error = scan(&spec, PLENTY, whole).await.unwrap_err();
    let AttemptFailure::BadInput { message, .. } = error else {
        panic!("{error:?}")
    };
    assert!(
        message.len() <= 4096 && message.contains("a.csv"),
        "{} bytes",
        message.len()
    );
    assert!(
        message.contains("declare columns in the table's schema"),
        "{message}"
    );
}
