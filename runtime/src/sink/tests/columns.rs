//! What the columns of a result may be.

use super::*;

#[tokio::test]
async fn columns_that_a_format_cannot_hold_are_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let list = DataType::List(Arc::new(Field::new("item", DataType::Int64, true)));
    let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("l", list, false)]));
    for (format, holds) in [("parquet", true), ("csv", false), ("json", true), ("arrow", true)] {
        let sink = sink(&folder, "q1", format, "Fail");
        let checked = sink.check_columns(&schema);
        assert_eq!(checked.is_ok(), holds, "{format}: {checked:?}");
        if let Err(error) = checked {
            assert!(
                error
                    .to_string()
                    .starts_with("sink.format csv cannot hold column `l`"),
                "{error}"
            );
            assert_eq!(error.reason(), ErrorReason::InvalidSpec);
        }
    }
    let twice = Field::new("a", DataType::Int64, true);
    let schema: SchemaRef = Arc::new(Schema::new(vec![twice.clone(), twice]));
    let error = sink(&folder, "q1", "json", "Fail")
        .check_columns(&schema)
        .unwrap_err();
    assert!(error.to_string().contains("two are named `a`"), "{error}");
}

/// Two rows of the types that queries yield; `keys` is a dictionary.
fn all_types(format: &str, keys: DictionaryArray<Int32Type>) -> RecordBatch {
    let decimals = Decimal128Array::from(vec![12345, -1]).with_precision_and_scale(15, 2);
    let times = TimestampMicrosecondArray::from(vec![Some(1), None]).with_timezone("UTC");
    let texts = StringViewArray::from(vec!["a\nb,\"c\"", "a string longer than a view holds"]);
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("i", Arc::new(Int64Array::from(vec![Some(1), None]))),
        ("f", Arc::new(Float64Array::from(vec![f64::NAN, -0.0]))),
        ("d", Arc::new(decimals.unwrap())),
        ("s", Arc::new(texts)),
        ("t", Arc::new(times)),
        ("b", Arc::new(BinaryArray::from(vec![&b"\0\xff"[..], b""]))),
        ("k", Arc::new(keys)),
    ];
    if format != "csv" {
        let nested = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), None]);
        columns.push(("n", Arc::new(nested)));
    }
    let columns = columns.into_iter().map(|(name, column)| (name, column, true));
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

#[tokio::test]
async fn every_type_that_a_query_yields_comes_back() {
    for format in ["parquet", "csv", "json", "arrow"] {
        let folder = TempDir::new().unwrap();
        let sink = sink(&folder, "q1", format, "Fail");
        let dictionaries: [DictionaryArray<Int32Type>; 2] = [
            vec![Some("x"), None].into_iter().collect(),
            vec![Some("y"), Some("z")].into_iter().collect(),
        ];
        let batches = dictionaries.map(|keys| all_types(format, keys));
        let mut writer = sink.open(attempt(0, 0), batches[0].schema()).unwrap();
        for batch in &batches {
            writer.write(batch).unwrap();
        }
        writer.finish().unwrap();
        sink.commit(&[attempt(0, 0)]).unwrap();
        if format == "csv" {
            // Line breaks in values need an option of the table that reads them.
            let text = fs::read_to_string(sink.location().join("part-00000.csv")).unwrap();
            assert_eq!(text.matches("\"a\nb,\"\"c\"\"\"").count(), 2);
            continue;
        }
        let read = rows(sink.location(), format).await;
        let texts: Vec<_> = read
            .iter()
            .map(|batch| cast(batch.column_by_name("k").unwrap(), &DataType::Utf8).unwrap())
            .collect();
        let mut keys: Vec<_> = texts
            .iter()
            .flat_map(|texts| {
                texts
                    .as_any()
                    .downcast_ref::<StringArray>()
                    .unwrap()
                    .iter()
                    .collect::<Vec<_>>()
            })
            .collect();
        keys.sort_unstable();
        assert_eq!(keys, [None, Some("x"), Some("y"), Some("z")], "{format}");
    }
}

#[tokio::test]
async fn the_files_of_a_result_have_one_schema() {
    for format in ["parquet", "arrow"] {
        let folder = TempDir::new().unwrap();
        let sink = sink(&folder, "q1", format, "Fail");
        for (task, nullable) in [(0, true), (1, false)] {
            let item = Arc::new(Field::new("item", DataType::Int64, nullable));
            let lists = ListArray::new(
                item,
                arrow::buffer::OffsetBuffer::from_lengths([1]),
                Arc::new(Int64Array::from(vec![7])),
                None,
            );
            let columns: [(&str, ArrayRef, bool); 2] = [
                ("v", Arc::new(Int64Array::from(vec![1])), nullable),
                ("l", Arc::new(lists), nullable),
            ];
            let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
            let mut writer = sink.open(attempt(task, 0), batch.schema()).unwrap();
            writer.write(&batch).unwrap();
            writer.finish().unwrap();
        }
        sink.commit(&[attempt(0, 0), attempt(1, 0)]).unwrap();
        let schemas = [0, 1].map(|number| {
            let path = sink.location().join(format!("part-{number:05}.{format}"));
            let file = fs::File::open(path).unwrap();
            let schema = if format == "parquet" {
                let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file);
                Arc::clone(reader.unwrap().schema())
            } else {
                arrow_ipc::reader::FileReader::try_new(file, None)
                    .unwrap()
                    .schema()
            };
            schema.fields().clone()
        });
        assert_eq!(schemas[0], schemas[1], "{format}");
        assert_eq!(
            rows(sink.location(), format)
                .await
                .iter()
                .map(RecordBatch::num_rows)
                .sum::<usize>(),
            2
        );
    }
}
