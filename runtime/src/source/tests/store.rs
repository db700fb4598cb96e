//! What the store serves: the files of the manifest, as they were listed, and bytes that they have.

use super::*;
use crate::source::{classify_error, verify};
use datafusion::error::DataFusionError;
use datafusion::execution::object_store::ObjectStoreUrl;
use futures::StreamExt;
use object_store::path::Path as StorePath;
use object_store::{Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use parquet::file::properties::WriterProperties;
use sluice_core::failure::{AttemptFailure, BadInputKind};
use std::time::{Duration, SystemTime};

/// Writes a file long ago: another write gives it another time, however coarse the clock is.
fn write_old(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
}

async fn store_of(spec: &TableSpec) -> (Arc<dyn ObjectStore>, StorePath, InputManifest) {
    let manifest = InputManifest::list(std::slice::from_ref(spec), Path::new("/nowhere"))
        .await
        .unwrap();
    let runtime = session(&manifest).runtime_env();
    let store = runtime.object_store(ObjectStoreUrl::local_filesystem()).unwrap();
    let path = StorePath::parse(&manifest.tables["t"][0].path).unwrap();
    (store, path, manifest)
}

fn kind(error: Error) -> (BadInputKind, String) {
    match classify_error(&DataFusionError::ObjectStore(Box::new(error)), &[]) {
        AttemptFailure::BadInput { kind, message } => (kind, message),
        other => panic!("{other:?}"),
    }
}

fn part(range: std::ops::Range<u64>) -> GetOptions {
    GetOptions {
        range: Some(GetRange::Bounded(range)),
        ..GetOptions::default()
    }
}

#[tokio::test]
async fn bytes_that_a_file_does_not_have_are_refused_before_room_is_made() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "a.csv", "x\n1\n");
    let (store, location, _) = store_of(&files("csv", &path)).await;
    assert_eq!(
        store.get_ranges(&location, &[0..2, 2..4]).await.unwrap(),
        ["x\n", "1\n"]
    );
    #[expect(clippy::reversed_empty_ranges, reason = "a corrupt file can name it")]
    for range in [0..5, 0..1 << 60, 5..6, 3..2, u64::MAX - 1..u64::MAX] {
        let error = store
            .get_ranges(&location, &[0..1, range.clone()])
            .await
            .unwrap_err();
        let (kind, message) = kind(error);
        assert_eq!(kind, BadInputKind::InputCorrupt);
        let named = format!(
            "a.csv cannot be decoded: bytes {}..{} are named",
            range.start, range.end
        );
        assert!(message.contains(&named), "{message}");
    }
    let error = store.get_opts(&location, part(5..1 << 60)).await.unwrap_err();
    assert_eq!(kind(error).0, BadInputKind::InputCorrupt);
    // As the interface has it, the end is cut.
    let cut = store.get_opts(&location, part(2..1 << 60)).await.unwrap();
    assert_eq!(cut.bytes().await.unwrap(), "1\n");
}

#[tokio::test]
async fn a_file_that_was_not_listed_is_not_served() {
    let folder = TempDir::new().unwrap();
    write(&folder, "a.csv", "x\n1\n");
    let (store, location, _) = store_of(&files("csv", folder.path())).await;
    write(&folder, "b.csv", "x\n2\n");
    let other = StorePath::from(location.to_string().replace("a.csv", "b.csv"));
    let (kind, message) = kind(store.get(&other).await.unwrap_err());
    assert_eq!(kind, BadInputKind::ForbiddenPath);
    assert!(
        message.contains("b.csv cannot be read: the query had not listed it"),
        "{message}"
    );
}

#[tokio::test]
async fn every_read_sees_that_a_file_was_written_since() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.csv");
    let replace = |by: &str| {
        let other = folder.path().join("other");
        fs::write(&other, by).unwrap();
        fs::rename(&other, &path).unwrap();
    };
    let rewrite = |by: &str| fs::write(&path, by).unwrap();
    for change in [&replace as &dyn Fn(&str), &rewrite] {
        write_old(&path, b"x\n1\n");
        let (store, location, _) = store_of(&files("csv", &path)).await;
        assert_eq!(store.get_range(&location, 0..2).await.unwrap(), "x\n");
        change("x\n2\n");
        let failures = [
            store.get_ranges(&location, &[0..1, 2..4]).await.unwrap_err(),
            store.get_range(&location, 2..4).await.unwrap_err(),
            store.get(&location).await.unwrap_err(),
            store.head(&location).await.unwrap_err(),
        ];
        for failure in failures {
            let (kind, message) = kind(failure);
            assert_eq!(kind, BadInputKind::InputChanged);
            assert!(
                message.contains("a.csv was written after the query had listed it"),
                "{message}"
            );
        }
    }
}

#[tokio::test]
async fn a_file_that_is_cut_while_it_is_read_ends_the_read() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.csv");
    write_old(&path, &[b'x'; 1 << 20]);
    let (store, location, _) = store_of(&files("csv", &path)).await;
    let mut chunks = store
        .get_opts(&location, part(10..1 << 20))
        .await
        .unwrap()
        .into_stream();
    let mut read = chunks.next().await.unwrap().unwrap().len();
    assert!(read < 1 << 19, "it comes in pieces");
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(1 << 19)
        .unwrap();
    let failure = loop {
        match chunks.next().await.expect("the rest is missing") {
            Ok(chunk) => read += chunk.len(),
            Err(failure) => break failure,
        }
    };
    assert!(read < 1 << 19, "{read}");
    let (kind, message) = kind(failure);
    assert_eq!(kind, BadInputKind::InputChanged);
    assert!(message.contains("a.csv was cut"), "{message}");
}

#[tokio::test]
async fn a_file_rewritten_after_the_first_rows_fails_the_scan_by_name() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.parquet");
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(1_000))
        .build();
    let rows = batch(0, 50_000);
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties)).unwrap();
    writer.write(&rows).unwrap();
    let good = writer.into_inner().unwrap();
    for in_place in [true, false] {
        write_old(&path, &good);
        let (session, _) = open(&files("parquet", &path)).await.unwrap();
        let frame = session.sql("select id, name from t").await.unwrap();
        let mut stream = frame.execute_stream().await.unwrap();
        let mut read = stream.next().await.unwrap().unwrap().num_rows();
        // The same bytes even: nobody can tell that without reading all of them again.
        if in_place {
            fs::write(&path, &good).unwrap();
        } else {
            let other = folder.path().join("other");
            fs::write(&other, &good).unwrap();
            fs::rename(&other, &path).unwrap();
        }
        let failure = loop {
            match stream.next().await.expect("rows are missing, and no error") {
                Ok(batch) => read += batch.num_rows(),
                Err(failure) => break failure,
            }
        };
        assert!(read < 50_000);
        match classify_error(&failure, &[]) {
            AttemptFailure::BadInput { kind, message } => {
                assert_eq!(kind, BadInputKind::InputChanged);
                assert!(message.contains("a.parquet was written"), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A reader of lines holds the file open: what was written meanwhile shows when its rows are to count.
#[tokio::test]
async fn a_text_file_rewritten_after_the_first_rows_is_seen_at_the_end() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.csv");
    write_old(&path, format!("x\n{}", "1\n".repeat(100_000)).as_bytes());
    let (session, manifest) = open(&files("csv", &path)).await.unwrap();
    let frame = session.sql("select x from t").await.unwrap();
    let mut stream = frame.execute_stream().await.unwrap();
    stream.next().await.unwrap().unwrap();
    fs::write(&path, format!("x\n{}", "2\n".repeat(100_000))).unwrap();
    while let Some(batch) = stream.next().await {
        batch.unwrap();
    }
    let changed = verify(&session.runtime_env(), &manifest.tables["t"]).await;
    let Err(AttemptFailure::BadInput { kind, message }) = changed else {
        panic!("{changed:?}");
    };
    assert_eq!(kind, BadInputKind::InputChanged);
    assert!(message.contains("a.csv was written"), "{message}");
}
