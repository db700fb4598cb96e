//! Files that a query must not read, and files that are not what they claim: refused by name, within seconds, and the
//! worker survives.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::metadata::{ParquetMetaDataReader, ParquetMetaDataWriter};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use sluice_core::coordinator::{Outcome, QueryFailure};
use sluice_crds::ErrorReason;

use super::program::{Ended, Folder, Program, Worker};
use super::query::query;
use super::watched::Watched;

fn over(location: &str, format: &str) -> String {
    query(
        "select count(*) as n, max(concat(s, '')) as s from t",
        &[&format!("{{name: t, location: '{location}', format: {format}}}")],
        &[],
    )
}

#[test]
fn statements_and_functions_that_reach_other_files_are_refused() {
    let folder = Folder::new();
    let secret = folder.write("secret.csv", "s\nhidden\n");
    let secret = secret.to_string_lossy();
    folder.write("rows.csv", "s\nshown\n");
    let statements = [
        "select * from '/etc/passwd'".to_owned(),
        format!("select * from '{secret}'"),
        format!("select * from \"{secret}\""),
        format!("select * from read_csv('{secret}')"),
        format!("select * from csv_scan('{secret}')"),
        format!("select * from parquet_metadata('{secret}')"),
        format!("select * from read_parquet('{secret}')"),
        format!("copy t to '{}'", folder.at("copy.csv").display()),
        format!("copy (select 1) to '{}'", folder.at("copy.csv").display()),
        format!("create external table u stored as csv location '{secret}'"),
        format!("create unbounded external table u stored as csv location '{secret}'"),
        "create view u as select 1".to_owned(),
        "set datafusion.catalog.information_schema = true".to_owned(),
        "reset datafusion.execution.batch_size".to_owned(),
        "show tables".to_owned(),
        "show all".to_owned(),
        "select * from information_schema.tables".to_owned(),
        "select * from information_schema.df_settings".to_owned(),
        "insert into t values ('x')".to_owned(),
        "with x as (select 1) insert into t select * from x".to_owned(),
        "select s into u from t".to_owned(),
        "prepare p as select 1".to_owned(),
        "drop table t".to_owned(),
        "describe t".to_owned(),
    ];
    for statement in statements {
        eprintln!("{statement}");
        let yaml = query(&statement, &["{name: t, location: rows.csv, format: csv}"], &[]);
        let ended = folder
            .run(&yaml, &["--local-workers", "1", "--output", "csv"])
            .expect(2, &["error: "]);
        assert_eq!(ended.stdout, "", "{statement}");
        assert!(!ended.stderr.contains("hidden"), "{statement}: {}", ended.stderr);
    }
    assert_eq!(folder.names(), ["query.yaml", "rows.csv", "secret.csv"]);
}

#[test]
fn locations_that_escape_are_refused() {
    let folder = Folder::new();
    folder.write("secret.csv", "s\nhidden\n");
    folder.write("inner/rows.csv", "s\nshown\n");
    let cases = [
        ("inner/../secret.csv", "`..` segment"),
        ("../secret.csv", "`..` segment"),
        ("inner/%2e%2e/secret.csv", "encoded dot"),
        ("inner/%2E%2e%2fsecret.csv", "encoded dot"),
        ("inner%2f..%2fsecret.csv", "encoded dot"),
        ("file:///tmp/%2e%2e/etc/passwd", "encoded dot"),
        ("inner/rows.csv%00", "encoded dot"),
        ("http://localhost/x.csv", "scheme"),
        ("file://host/x.csv", "file URL without an absolute path"),
    ];
    for (location, problem) in cases {
        let ended = folder.run(&over(location, "csv"), &["--local-workers", "1"]);
        ended.expect(2, &["spec.tables[0].location", problem]);
    }
}

#[test]
fn links_that_leave_the_folder_of_a_table_are_refused_by_name() {
    let folder = Folder::new();
    let secret = folder.write("secret/rows.csv", "s\nhidden\n");
    folder.write("table/rows.csv", "s\nshown\n");
    std::os::unix::fs::symlink(&secret, folder.at("table/link.csv")).expect("a link can be made");
    let refused = |ended: Ended| {
        let ended = ended.expect(2, &["table t", "link", "leaves"]);
        assert!(!ended.stderr.contains("hidden"), "{}", ended.stderr);
    };
    refused(folder.run(&over("table", "csv"), &["--local-workers", "1"]));
    std::fs::remove_file(folder.at("table/link.csv")).expect("the link is there");
    std::os::unix::fs::symlink(folder.at("secret"), folder.at("table/link")).expect("a link can be made");
    refused(folder.run(&over("table", "csv"), &["--local-workers", "1"]));
    std::fs::remove_file(folder.at("table/link")).expect("the link is there");
    let good = folder
        .run(
            &over("table", "csv"),
            &["--local-workers", "1", "--output", "csv"],
        )
        .expect(0, &[]);
    assert_eq!(good.stdout, "n,s\n1,shown\n");
}

/// A Parquet file of several row groups and pages.
fn parquet_bytes() -> Vec<u8> {
    let numbers = Int64Array::from_iter_values(0..20_000);
    let texts = StringArray::from_iter_values((0..20_000).map(|row| format!("row {row} of many")));
    let columns = [
        ("n", std::sync::Arc::new(numbers) as _),
        ("s", std::sync::Arc::new(texts) as _),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(5_000))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).expect("a writer");
    writer.write(&batch).expect("rows can be written");
    writer.into_inner().expect("a file can be closed")
}

/// Runs a query on this worker and another good one after it; answers how the first ended.
fn survives(folder: &Folder, worker: &mut Worker, yaml: &str) -> Ended {
    let arguments = ["--workers", &worker.address.clone(), "--output", "csv"];
    let ended = folder.run(yaml, &arguments);
    worker.assert_well();
    let good = query("select 1 as n", &[], &[]);
    assert_eq!(folder.run(&good, &arguments).expect(0, &[]).stdout, "n\n1\n");
    ended
}

#[test]
fn files_that_are_not_what_they_claim_fail_the_query_by_name() {
    let folder = Folder::new();
    let mut worker = Worker::start();
    let good = parquet_bytes();
    let footer = good.len() - 8;
    let flipped = |place: usize| {
        let mut bytes = good.clone();
        bytes[place] ^= 0xff;
        bytes
    };
    let zeroed = |from: usize, to: usize| {
        let mut bytes = good.clone();
        bytes[from..to].fill(0);
        bytes
    };
    let cases: Vec<(&str, &str, Vec<u8>)> = vec![
        ("empty.parquet", "parquet", Vec::new()),
        ("short.parquet", "parquet", b"PAR1".to_vec()),
        ("text.parquet", "parquet", b"s\nno parquet at all\n".to_vec()),
        ("truncated.parquet", "parquet", good[..good.len() / 2].to_vec()),
        ("headless.parquet", "parquet", good[100..].to_vec()),
        ("footer.parquet", "parquet", flipped(footer - 40)),
        ("length.parquet", "parquet", flipped(footer + 1)),
        ("pages.parquet", "parquet", zeroed(4, good.len() / 3)),
        ("ragged.csv", "csv", b"n,s\n1,a\n2,b,c\n3\n".to_vec()),
        ("binary.csv", "csv", vec![0xff; 4096]),
        ("object.json", "json", b"{\"s\": \"a\"}\n{\"s\": \n".to_vec()),
        ("text.json", "json", b"no json at all\n".to_vec()),
        (
            "text.arrow",
            "arrow",
            b"no arrow at all, but long enough to hold a header and a footer".to_vec(),
        ),
    ];
    for (name, format, bytes) in cases {
        folder.write(name, bytes);
        eprintln!("{name}");
        let ended = survives(&folder, &mut worker, &over(name, format));
        assert!(matches!(ended.code, Some(2 | 3)), "{name}: {ended:?}");
        assert!(
            ended.stderr.contains(name),
            "{name} is not named: {}",
            ended.stderr
        );
        assert!(!ended.stderr.contains("panicked"), "{name}: {}", ended.stderr);
    }
}

#[test]
fn a_ragged_line_is_named_even_where_a_declared_schema_hides_it_from_planning() {
    let folder = Folder::new();
    let mut worker = Worker::start();
    let mut text = String::from("n,s\n");
    for row in 0..5_000 {
        text.push_str(&format!("{row},text\n"));
    }
    text.push_str("5000,one,too many\n");
    folder.write("rows.csv", text);
    let schema = "schema: [{name: n, type: Int64}, {name: s, type: Utf8}]";
    let table = format!("{{name: t, location: rows.csv, format: csv, {schema}}}");
    let yaml = query("select sum(n) from t", &[&table], &[]);
    let ended = survives(&folder, &mut worker, &yaml);
    ended.expect(2, &["InputCorrupt", "rows.csv", "500"]);
}

#[test]
fn a_damaged_table_fails_the_queries_that_read_it_alone() {
    let folder = Folder::new();
    let mut worker = Worker::start();
    folder.write("rows.csv", "n\n1\n2\n");
    folder.write(
        "damaged.parquet",
        "no parquet at all, but long enough to hold a footer",
    );
    let tables = [
        "{name: t, location: rows.csv, format: csv}",
        "{name: damaged, location: damaged.parquet, format: parquet}",
    ];
    let ended = survives(
        &folder,
        &mut worker,
        &query("select sum(n) as sum from t", &tables, &[]),
    );
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let sql = "with t as (select n from t) select n from t where n in (select n from damaged)";
    let ended = survives(&folder, &mut worker, &query(sql, &tables, &[]));
    ended.expect(2, &["table damaged", "damaged.parquet"]);
}

/// Byte flips all over a good file: an error or rows, never a lost worker or a hang.
#[test]
fn no_flipped_byte_of_a_parquet_file_ends_a_worker() {
    let folder = Folder::new();
    let mut worker = Worker::start();
    let good = parquet_bytes();
    let step = good.len() / 12;
    for place in (4..good.len())
        .step_by(step)
        .chain(good.len() - 60..good.len() - 50)
    {
        let mut bytes = good.clone();
        bytes[place] ^= 0x55;
        folder.write("rows.parquet", bytes);
        let arguments = ["--workers", &worker.address, "--output", "csv"];
        let ended = folder.run(&over("rows.parquet", "parquet"), &arguments);
        assert!(matches!(ended.code, Some(0 | 2 | 3)), "byte {place}: {ended:?}");
        assert!(
            !ended.stderr.contains("panicked"),
            "byte {place}: {}",
            ended.stderr
        );
        worker.assert_well();
    }
    folder.write("rows.parquet", &good);
    let ended = survives(&folder, &mut worker, &over("rows.parquet", "parquet")).expect(0, &[]);
    assert_eq!(ended.stdout, "n,s\n20000,row 9999 of many\n");
}

/// A Parquet file whose page says that it had 2 GiB before it was compressed.
fn with_huge_page(rows: &RecordBatch) -> Vec<u8> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_dictionary_enabled(false)
        .set_offset_index_disabled(true)
        .set_statistics_enabled(EnabledStatistics::None)
        .build();
    let mut writer =
        ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties)).expect("a file can be begun");
    writer.write(rows).expect("rows can be written");
    let good = writer.into_inner().expect("a file can be closed");
    let tail = good.len() - 8;
    let length = u32::from_le_bytes(std::array::from_fn(|byte| good[tail + byte]));
    let start = tail - usize::try_from(length).expect("a small footer");
    let footer = ParquetMetaDataReader::decode_metadata(&good[start..tail]).expect("a footer");
    // The page's header: field 1, its type; field 2, the length, which now takes five bytes.
    assert_eq!((good[4], good[6]), (0x15, 0x15));
    let rest = good[7..].iter().position(|byte| byte & 0x80 == 0);
    let rest = rest.expect("a number ends") + 8;
    let mut bytes = [&good[..7], &[0xfe, 0xff, 0xff, 0xff, 0x0f], &good[rest..start]].concat();
    let mut changed = footer.into_builder();
    let mut groups = changed.take_row_groups();
    let column = groups[0].column(0).clone();
    let longer = column.compressed_size() + i64::try_from(bytes.len() - start).expect("a few bytes");
    let column = column.into_builder().set_total_compressed_size(longer).build();
    let group = groups[0].clone().into_builder();
    let group = group.set_column_metadata(vec![column.expect("a column chunk")]);
    groups[0] = group.build().expect("a row group");
    let changed = changed.set_row_groups(groups).build();
    ParquetMetaDataWriter::new(&mut bytes, &changed)
        .finish()
        .expect("a footer can be written");
    bytes
}

/// Lengths that only the scan meets, since planning reads no pages and no blocks.
#[test]
fn lengths_in_a_file_that_cannot_be_true_cost_a_worker_nothing() {
    let folder = Folder::new();
    let mut worker = Worker::start();
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["one text, again and again"; 1_000]));
    let rows = RecordBatch::try_from_iter([("s", texts)]).expect("one column");
    let lz4 = IpcWriteOptions::default()
        .try_with_compression(Some(CompressionType::LZ4_FRAME))
        .expect("it is built in");
    let mut writer =
        FileWriter::try_new_with_options(Vec::new(), &rows.schema(), lz4).expect("a file can be begun");
    writer.write(&rows).expect("rows can be written");
    let mut arrow = writer.into_inner().expect("a file can be closed");
    // The texts, and their uncompressed lengths.
    let said = 25_000_i64.to_le_bytes();
    let place = arrow
        .windows(8)
        .rposition(|bytes| bytes == said)
        .expect("they are compressed");
    arrow[place..place + 8].copy_from_slice(&(1_i64 << 60).to_le_bytes());
    let parquet = with_huge_page(&rows);
    for (name, format, bytes) in [
        ("rows.arrow", "arrow", arrow),
        ("rows.parquet", "parquet", parquet),
    ] {
        folder.write(name, bytes);
        let ended = survives(&folder, &mut worker, &over(name, format));
        ended.expect(2, &["InputCorrupt", name]);
    }
    let peak = worker.peak_bytes();
    assert!(peak < 1 << 30, "{peak} bytes");
}

/// Rewrites a file so that size and time differ from what was listed.
fn change(path: &Path) {
    std::fs::write(path, "s\nanother text than before\n").expect("it can be written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_changed_between_planning_and_scanning_fails_by_name() {
    for remove in [false, true] {
        let folder = Folder::new();
        let file = folder.write("rows.csv", "s\nas planned\n");
        let workers = [Worker::start()];
        // Planned and listed, but the worker cannot begin.
        workers[0].freeze();
        let query = Watched::start(&folder, &over("rows.csv", "csv"), &workers).await;
        if remove {
            std::fs::remove_file(&file).expect("it is there");
        } else {
            change(&file);
        }
        workers[0].thaw();
        let Outcome::Failed(QueryFailure { reason, message, .. }) = query.end().await.outcome else {
            panic!("rows of a file that is not the one that was planned");
        };
        assert_eq!(reason, ErrorReason::InputChanged, "{message}");
        assert!(message.contains(&*file.to_string_lossy()), "{message}");
        let [mut worker] = workers;
        worker.assert_well();
    }
}

/// Rewrites the file while the worker, which has read a part of it and has it open, is frozen.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_rewritten_while_it_is_scanned_fails_by_name() {
    let sql = "select max(encode(sha512(sha512(sha512(s))), 'hex')) as s from t";
    let yaml = query(
        sql,
        &["{name: t, location: rows.csv, format: csv}"],
        &["shuffle: {partitions: 1}"],
    );
    let mut missed = 0;
    loop {
        let folder = Folder::new();
        let text = format!("s\n{}", "as planned\n".repeat(400_000));
        let file = folder.write("rows.csv", &text);
        let workers = [Worker::start()];
        let mut query = Watched::start(&folder, &yaml, &workers).await;
        let seen = query
            .until_or_end("rows that are read", |seen| {
                seen.stages.iter().any(|stage| stage.metrics.rows_read > 0)
            })
            .await;
        workers[0].freeze();
        if seen.outcome.is_none() {
            std::fs::write(&file, text.replace("as planned", "as written")).expect("it can be written");
        }
        workers[0].thaw();
        match query.end().await.outcome {
            Outcome::Failed(QueryFailure { reason, message, .. }) => {
                assert_eq!(reason, ErrorReason::InputChanged, "{message}");
                assert!(message.contains(&*file.to_string_lossy()), "{message}");
                return;
            }
            // The scan had ended before the worker was frozen.
            Outcome::Succeeded => missed += 1,
            Outcome::Cancelled => panic!("nobody cancels it"),
        }
        assert!(missed < 5, "no scan was met at work");
    }
}

/// Workers start between the listing and the coordinator, which must not list again.
#[test]
fn processes_run_on_the_files_that_were_listed_first() {
    let mut missed = 0;
    loop {
        let folder = Folder::new();
        let file = folder.write("rows.csv", "s\nas planned\n");
        let arguments = ["--processes", "--local-workers", "2", "--output", "csv"];
        let run = Program::start(folder.run_command(&over("rows.csv", "csv"), &arguments));
        // Its tables are listed before its spill folder is made.
        super::program::wait_until("a planned query", || folder.at("spill").exists());
        change(&file);
        let ended = run.end();
        if ended.code == Some(0) {
            assert_eq!(
                ended.stdout, "n,s\n1,as planned\n",
                "rows of a file that was not listed"
            );
            missed += 1;
            assert!(missed < 5, "no run was met between its two processes");
            continue;
        }
        ended.expect(2, &["rows.csv changed its size", "run the query again"]);
        return;
    }
}

#[test]
fn a_changed_file_ends_the_run_with_2() {
    let folder = Folder::new();
    let file = folder.write("rows.csv", "s\nas planned\n");
    let worker = Worker::start();
    worker.freeze();
    let arguments = ["--workers", &worker.address, "--output", "csv"];
    let sql = "select s, count(*) from t group by s";
    let yaml = query(sql, &["{name: t, location: rows.csv, format: csv}"], &[]);
    let run = Program::start(folder.run_command(&yaml, &arguments));
    // Its tables are listed before its spill folder is made.
    super::program::wait_until("a planned query", || folder.at("spill").exists());
    change(&file);
    worker.thaw();
    run.end()
        .expect(2, &["InputChanged", "rows.csv", "run the query again"]);
}

#[test]
fn deep_and_huge_input_is_refused_in_seconds() {
    let folder = Folder::new();
    let deep = format!("select {}1{}", "(".repeat(10_000), ")".repeat(10_000));
    folder
        .run(&query(&deep, &[], &[]), &["--local-workers", "1"])
        .expect(2, &["nested too deeply"]);
    let long = format!("select {}1", "1 + ".repeat(20_000));
    folder
        .run(&query(&long, &[], &[]), &["--local-workers", "1"])
        .expect(2, &["spec.sql"]);
    let brackets = "[".repeat(100_000);
    folder
        .run(&brackets, &["--local-workers", "1"])
        .expect(2, &["error: "]);
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n\
                d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e]\n";
    folder
        .run(bomb, &["--local-workers", "1"])
        .expect(2, &["error: "]);
}

#[test]
fn a_device_or_pipe_is_no_table() {
    let folder = Folder::new();
    let made = Command::new("mkfifo")
        .arg(folder.at("pipe.csv"))
        .status()
        .expect("mkfifo runs");
    assert!(made.success());
    folder
        .run(&over("pipe.csv", "csv"), &["--local-workers", "1"])
        .expect(2, &["pipe.csv", "neither a file nor a folder"]);
    folder
        .run(&over("/dev/zero", "csv"), &["--local-workers", "1"])
        .expect(2, &["spec.tables[0].location is in /dev"]);
}
