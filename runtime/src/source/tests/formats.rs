use super::*;
use arrow::datatypes::DataType;

#[tokio::test]
async fn parquet_has_columns_rows_and_statistics() {
    let folder = TempDir::new().unwrap();
    write_parquet(&folder.path().join("a.parquet"), &batch(0, 1000));
    write_parquet(&folder.path().join("b.parquet"), &batch(1000, 10));
    let (session, _) = open(&files("parquet", folder.path())).await.unwrap();
    assert_eq!(
        rows(
            &session,
            "select count(*), max(id), max(name) from t where id >= 999"
        )
        .await,
        ["| 11 | 1009 | n999 |"]
    );
    let plan = session
        .sql("select count(*) from t")
        .await
        .unwrap()
        .create_physical_plan()
        .await
        .unwrap();
    let plan = datafusion::physical_plan::displayable(plan.as_ref())
        .indent(false)
        .to_string();
    assert!(plan.contains("PlaceholderRowExec"), "the footers answer:\n{plan}");
}

#[tokio::test]
async fn declared_columns_are_cast_and_absent_ones_are_null() {
    let folder = TempDir::new().unwrap();
    write_parquet(&folder.path().join("a.parquet"), &batch(0, 2000));
    let columns = json!([{"name": "name", "type": "Utf8"}, {"name": "more", "type": "Int32"}, {"name": "id", "type": "Utf8"}]);
    let spec = table(json!({"name": "t", "format": "parquet", "location": folder.path(), "schema": columns}));
    let (session, _) = open(&spec).await.unwrap();
    // As text '1999' sorts below '9'; bounds of the file's integers would prune the row group.
    assert_eq!(
        rows(&session, "select * from t where id = '9'").await,
        ["| n9 | | 9 |"]
    );
    assert_eq!(rows(&session, "select max(id) from t").await, ["| 999 |"]);
    let columns = json!([{"name": "more", "type": "Int32", "nullable": false}]);
    let spec = table(json!({"name": "t", "format": "parquet", "location": folder.path(), "schema": columns}));
    let error = refusal(&spec).await;
    assert!(error.contains("a.parquet has no column `more`"), "{error}");
}

#[tokio::test]
async fn parquet_files_that_disagree_are_named() {
    let folder = TempDir::new().unwrap();
    write_parquet(&folder.path().join("a.parquet"), &batch(0, 2));
    let ids: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    write_parquet(
        &folder.path().join("b.parquet"),
        &RecordBatch::try_from_iter([("id", ids)]).unwrap(),
    );
    let error = refusal(&files("parquet", folder.path())).await;
    assert!(
        error.contains("b.parquet has column `id` of type Utf8"),
        "{error}"
    );
    assert!(error.contains("a.parquet it is Int64"), "{error}");
}

#[tokio::test]
async fn what_is_no_parquet_file_is_named() {
    let folder = TempDir::new().unwrap();
    for (name, bytes) in [
        ("text", &b"id,name\n1,2\n and a line that is longer"[..]),
        ("empty", &b""[..]),
        ("short", &b"PAR1"[..]),
        (
            "footer",
            &b"PAR1xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\xff\xff\xff\x7fPAR1"[..],
        ),
        (
            "thrift",
            &b"PAR1\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x08\0\0\0PAR1"[..],
        ),
    ] {
        let path = folder.path().join(format!("{name}.parquet"));
        fs::write(&path, bytes).unwrap();
        let error = refusal(&files("parquet", &path)).await;
        let expected = format!(
            "InputCorrupt: table t: {} cannot be read as a Parquet file: ",
            path.display()
        );
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[tokio::test]
async fn csv_options_act() {
    let folder = TempDir::new().unwrap();
    write(&folder, "a.csv", "1;'x;y';\n2;'it\\'s';NA\n");
    let options = json!({"header": false, "delimiter": ";", "quote": "'", "escape": "\\"});
    let spec = table(json!({"name": "t", "format": "csv", "location": folder.path(), "options": options}));
    let (session, _) = open(&spec).await.unwrap();
    assert_eq!(
        rows(&session, "select column_1 + 1, column_2, column_3 is null from t").await,
        ["| 2 | x;y | true |", "| 3 | it's | false |"]
    );
}

#[tokio::test]
async fn csv_values_over_several_lines() {
    let folder = TempDir::new().unwrap();
    write(&folder, "a.csv", "a,b\n1,\"x\ny\"\n2,z\n");
    let options = json!({"newlinesInValues": true});
    let spec = table(json!({"name": "t", "format": "csv", "location": folder.path(), "options": options}));
    let (session, _) = open(&spec).await.unwrap();
    assert_eq!(
        rows(&session, "select a, length(b) from t order by a").await,
        ["| 1 | 3 |", "| 2 | 1 |"]
    );
}

#[tokio::test]
async fn a_null_regex_acts_on_every_type() {
    let folder = TempDir::new().unwrap();
    write(
        &folder,
        "a.csv",
        "n,s,d\n1,a,2024-01-02\nNA,NA,NA\n3,,2024-01-03\n",
    );
    let options = json!({"nullRegex": "^NA$"});
    let spec = table(json!({"name": "t", "format": "csv", "location": folder.path(), "options": options}));
    let (session, _) = open(&spec).await.unwrap();
    assert_eq!(
        rows(
            &session,
            "select n, arrow_typeof(n), s is null, s = '', arrow_typeof(d) from t order by n nulls last"
        )
        .await,
        [
            "| 1 | Int64 | false | false | Date32 |",
            "| 3 | Int64 | false | true | Date32 |",
            "| | Int64 | true | | Date32 |"
        ]
    );
    assert_eq!(
        rows(&session, "select count(*), count(d), max(d) from t").await,
        ["| 3 | 2 | 2024-01-03 |"]
    );
    let options = json!({"nullRegex": "(("});
    let spec = table(json!({"name": "t", "format": "csv", "location": folder.path(), "options": options}));
    assert!(
        refusal(&spec)
            .await
            .contains("options.nullRegex is not a regular expression")
    );
}

#[tokio::test]
async fn csv_guesses_widen_over_files() {
    let folder = TempDir::new().unwrap();
    write(&folder, "a.csv", "a,b,c,d\n1,1,2024-01-01,\n");
    write(&folder, "b.csv", "a,b,c,d\n1.5,x,,\n");
    write(&folder, "c.csv", "");
    let (session, _) = open(&files("csv", folder.path())).await.unwrap();
    assert_eq!(
        rows(
            &session,
            "select distinct arrow_typeof(a), arrow_typeof(b), arrow_typeof(c), arrow_typeof(d) from t"
        )
        .await,
        ["| Float64 | Utf8 | Date32 | Utf8 |"]
    );
    assert_eq!(
        rows(&session, "select sum(a), max(b) from t").await,
        ["| 2.5 | x |"]
    );
    write(&folder, "d.csv", "a,c,b,d\n1,2,3,4\n");
    let error = refusal(&files("csv", folder.path())).await;
    assert!(
        error.contains("d.csv has other columns than") && error.contains("a.csv"),
        "{error}"
    );
}

#[tokio::test]
async fn ragged_and_doubled_csv_is_told_with_its_line() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "a.csv", "a,b\n1,2\n1,2,3\n");
    let error = refusal(&files("csv", &path)).await;
    assert!(
        error.contains("a.csv cannot be read as a CSV file") && error.contains("line 3"),
        "{error}"
    );
    let path = write(&folder, "b.csv", "a,a\n1,2\n");
    assert!(
        refusal(&files("csv", &path))
            .await
            .contains("b.csv has several columns of one name")
    );
    let path = write(&folder, "c.csv", "\n\n");
    assert!(refusal(&files("csv", &path)).await.contains("has no columns"));
}

#[tokio::test]
async fn a_declared_csv_schema_follows_the_header() {
    let folder = TempDir::new().unwrap();
    write(&folder, "a.csv", "b,a\n1,2024-01-01T00:00:00\n");
    let spec =
        |columns| table(json!({"name": "t", "format": "csv", "location": folder.path(), "schema": columns}));
    let error = refusal(&spec(
        json!([{"name": "a", "type": "Int64"}, {"name": "b", "type": "Int64"}]),
    ))
    .await;
    assert!(
        error.contains("a.csv has column `b` where the schema declares `a`"),
        "{error}"
    );
    let error = refusal(&spec(json!([{"name": "b", "type": "Int64"}]))).await;
    assert!(error.contains("has 2 columns, the schema declares 1"), "{error}");
    let columns = json!([{"name": "b", "type": "Decimal128(10, 2)"}, {"name": "a", "type": "Timestamp(Microsecond, Europe/Berlin)"}]);
    let (session, _) = open(&spec(columns)).await.unwrap();
    assert_eq!(
        rows(&session, "select * from t").await,
        ["| 1.00 | 2024-01-01T00:00:00+01:00 |"]
    );
    let error = refusal(&spec(
        json!([{"name": "b", "type": "Timestamp(Second, Mars/North)"}, {"name": "a", "type": "Utf8"}]),
    ))
    .await;
    assert!(error.contains("there is no time zone `Mars/North`"), "{error}");
    let error = refusal(&spec(
        json!([{"name": "b", "type": "Utf8"}, {"name": "b", "type": "Utf8"}]),
    ))
    .await;
    assert!(error.contains("column `b` is declared twice"), "{error}");
}

#[tokio::test]
async fn json_is_one_object_a_line() {
    let folder = TempDir::new().unwrap();
    let path = write(
        &folder,
        "a.jsonl",
        "{\"a\": 1, \"b\": {\"c\": [1, 2]}}\n{\"a\": 2.5, \"n\": null}\n",
    );
    write(&folder, "b.ndjson", "{\"a\": 3}\n{\"z\": 1}\n");
    let (session, _) = open(&files("json", folder.path())).await.unwrap();
    assert_eq!(
        rows(&session, "select max(a), max(b['c'][2]), count(n) from t").await,
        ["| 3.0 | 2 | 0 |"]
    );
    let (session, _) = open(&files("json", &path)).await.unwrap();
    assert_eq!(rows(&session, "select sum(a) from t").await, ["| 3.5 |"]);
    write(&folder, "c.ndjson", "{\"a\": \"x\"}\n");
    let error = refusal(&files("json", folder.path())).await;
    assert!(error.contains("c.ndjson has column `a` of type Utf8"), "{error}");
    for text in ["[{\"a\": 1}]", "{\"a\": 1", "hello", "{\n \"a\": 1\n}"] {
        let path = write(&folder, "bad.json", text);
        let error = refusal(&files("json", &path)).await;
        assert!(
            error.contains("bad.json cannot be read as a file of one JSON object a line"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn arrow_files_are_read() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.arrow");
    let batch = batch(0, 5);
    let mut writer =
        arrow_ipc::writer::FileWriter::try_new(fs::File::create(&path).unwrap(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    let (session, _) = open(&files("arrow", folder.path())).await.unwrap();
    assert_eq!(
        rows(&session, "select sum(id), max(name) from t").await,
        ["| 10 | n4 |"]
    );
    for bytes in [
        &b"hello"[..],
        b"",
        b"ARROW1\0\0\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"ARROW1\0\0xxxxxxxxxxx\xff\xff\xff\x7fARROW1",
    ] {
        fs::write(&path, bytes).unwrap();
        let error = refusal(&files("arrow", &path)).await;
        assert!(
            error.contains("a.arrow cannot be read as an Arrow IPC file"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn generated_tables_are_registered_by_their_name() {
    let spec = table(json!({"name": "nation", "tpch": {"scaleFactor": 1}}));
    let (session, manifest) = open(&spec).await.unwrap();
    assert_eq!(manifest, InputManifest::default());
    assert_eq!(rows(&session, "select count(*) from nation").await, ["| 25 |"]);
    let spec = table(json!({"name": "o", "tpch": {"scaleFactor": 0.001, "table": "orders"}}));
    let (session, _) = open(&spec).await.unwrap();
    assert_eq!(rows(&session, "select count(*) from o").await, ["| 1500 |"]);
    let spec = table(json!({"name": "o", "tpch": {"scaleFactor": 0.00001, "table": "orders"}}));
    assert!(
        refusal(&spec)
            .await
            .contains("tpch.scaleFactor is 0.00001: write at least 0.001")
    );
}

#[test]
fn the_text_of_a_type_is_the_type() {
    let columns: Vec<_> = serde_json::from_value(json!([
        {"name": "a", "type": "Timestamp(Nanosecond)"},
        {"name": "b", "type": "Decimal128(38, 38)", "nullable": false},
    ]))
    .unwrap();
    let schema = crate::source::schema::declared(&columns).unwrap();
    assert_eq!(
        schema.field(0).data_type(),
        &DataType::Timestamp(arrow::datatypes::TimeUnit::Nanosecond, None)
    );
    assert_eq!(schema.field(1).data_type(), &DataType::Decimal128(38, 38));
    assert!(!schema.field(1).is_nullable());
}
