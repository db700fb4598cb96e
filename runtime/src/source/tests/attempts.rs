//! What an attempt meets: changed files, bad bytes, bad values.

use super::*;
use crate::source::{classify_error, classify_task_error, verify};
use datafusion::error::DataFusionError;
use sluice_core::failure::{AttemptFailure, BadInputKind};
use sluice_core::plan::FileRange;

fn bad_input(failure: AttemptFailure) -> (BadInputKind, String) {
    match failure {
        AttemptFailure::BadInput { kind, message } => (kind, message),
        other => panic!("{other:?}"),
    }
}

async fn failure(spec: &TableSpec, sql: &str) -> (BadInputKind, String) {
    let (session, manifest) = open(spec).await.unwrap();
    let ranges: Vec<_> = manifest.tables["t"]
        .iter()
        .map(|file| FileRange {
            file: file.clone(),
            start: 0,
            end: file.size,
        })
        .collect();
    let frame = session.sql(sql).await.unwrap();
    bad_input(classify_error(&frame.collect().await.unwrap_err(), &ranges))
}

#[tokio::test]
async fn a_changed_file_is_named() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "a.csv", "x\n1\n");
    let (session, manifest) = open(&files("csv", folder.path())).await.unwrap();
    let runtime = session.runtime_env();
    let pinned = &manifest.tables["t"];
    verify(&runtime, pinned).await.unwrap();
    let modified = fs::metadata(&path).unwrap().modified().unwrap();

    fs::write(&path, "x\n22\n").unwrap();
    let (kind, message) = bad_input(verify(&runtime, pinned).await.unwrap_err());
    assert_eq!(kind, BadInputKind::InputChanged);
    assert!(
        message.contains("a.csv changed its size from 4 to 5 bytes"),
        "{message}"
    );

    fs::write(&path, "x\n2\n").unwrap();
    let (_, message) = bad_input(verify(&runtime, pinned).await.unwrap_err());
    assert!(message.contains("a.csv was written"), "{message}");

    // Another file of the same size and time.
    let other = write(&folder, "b", "x\n3\n");
    fs::File::open(&other).unwrap().set_modified(modified).unwrap();
    fs::rename(&other, &path).unwrap();
    let (_, message) = bad_input(verify(&runtime, pinned).await.unwrap_err());
    assert!(message.contains("a.csv was written"), "{message}");

    fs::remove_file(&path).unwrap();
    let (kind, message) = bad_input(verify(&runtime, pinned).await.unwrap_err());
    assert_eq!(kind, BadInputKind::InputChanged);
    assert!(message.contains("a.csv was removed"), "{message}");
}

#[tokio::test]
async fn a_file_that_became_a_link_is_forbidden() {
    let (folder, secret) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let path = write(&folder, "a.csv", "x\n1\n");
    let outside = write(&secret, "s.csv", "x\n2\n");
    let (session, manifest) = open(&files("csv", folder.path())).await.unwrap();
    fs::remove_file(&path).unwrap();
    symlink(&outside, &path).unwrap();
    let pinned = &manifest.tables["t"];
    let (kind, message) = bad_input(verify(&session.runtime_env(), pinned).await.unwrap_err());
    assert_eq!(kind, BadInputKind::ForbiddenPath);
    assert!(
        message.contains("a.csv cannot be read: it is outside"),
        "{message}"
    );
    // The scan itself meets the same wall.
    let error = session
        .sql("select x from t")
        .await
        .unwrap()
        .collect()
        .await
        .unwrap_err();
    assert_eq!(
        bad_input(classify_error(&error, &[])).0,
        BadInputKind::ForbiddenPath,
        "{error}"
    );
}

#[tokio::test]
async fn bad_lines_of_csv_are_told() {
    let folder = TempDir::new().unwrap();
    let good = "1,2\n".repeat(1500);
    let path = write(&folder, "a.csv", &format!("a,b\n{good}1,2,3\n"));
    let (kind, message) = failure(&files("csv", &path), "select sum(a) from t").await;
    assert_eq!(kind, BadInputKind::InputCorrupt);
    assert!(
        message.contains("a.csv cannot be decoded") && message.contains("line 1502"),
        "{message}"
    );
    let path = write(&folder, "b.csv", &format!("a,b\n{good}1,two\n"));
    let (kind, message) = failure(&files("csv", &path), "select sum(b) from t").await;
    assert_eq!(kind, BadInputKind::InputCorrupt);
    assert!(
        message.contains("b.csv") && message.contains("'two'") && message.contains("line 150"),
        "{message}"
    );
}

#[tokio::test]
async fn bad_json_and_parquet_pages_are_told() {
    let folder = TempDir::new().unwrap();
    let path = write(
        &folder,
        "a.json",
        &format!("{}{{\"a\": ", "{\"a\": 1}\n".repeat(1500)),
    );
    let mut spec = files("json", &path);
    spec.schema = serde_json::from_value(json!([{"name": "a", "type": "Int64"}])).unwrap();
    let (kind, message) = failure(&spec, "select sum(a) from t").await;
    assert_eq!(kind, BadInputKind::InputCorrupt);
    assert!(message.contains("a.json"), "{message}");

    let path = folder.path().join("a.parquet");
    write_parquet(&path, &batch(0, 5000));
    let mut bytes = fs::read(&path).unwrap();
    for byte in &mut bytes[4..60] {
        *byte = 0xff;
    }
    fs::write(&path, bytes).unwrap();
    let (kind, message) = failure(&files("parquet", &path), "select sum(id) from t").await;
    assert_eq!(kind, BadInputKind::InputCorrupt);
    assert!(message.contains("a.parquet cannot be decoded"), "{message}");
}

#[tokio::test]
async fn bad_values_are_no_bad_files() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "a.csv", "a,b\n0,x\n");
    for sql in [
        "select 1 / a from t",
        "select cast(b as int) from t",
        "select cast(b as timestamp) from t",
    ] {
        let (session, manifest) = open(&files("csv", &path)).await.unwrap();
        let ranges = manifest.tables["t"].iter().map(|file| FileRange {
            file: file.clone(),
            start: 0,
            end: 4,
        });
        let ranges: Vec<_> = ranges.collect();
        let error = session.sql(sql).await.unwrap().collect().await.unwrap_err();
        assert_eq!(
            bad_input(classify_error(&error, &ranges)).0,
            BadInputKind::InvalidValue,
            "{sql}: {error}"
        );
        // Which row it was nobody knows, but the files of the task.
        let (_, message) = bad_input(classify_task_error(&error, &ranges));
        let read = format!("(the task reads {})", path.display());
        assert!(message.ends_with(&read), "{message}");
    }
}

#[test]
fn other_errors_keep_their_kind() {
    let error = DataFusionError::ResourcesExhausted("pool".to_owned()).context("while sorting");
    assert!(
        matches!(classify_error(&error, &[]), AttemptFailure::ResourcesExhausted { message, .. } if message == "pool")
    );
    let error = DataFusionError::Internal("odd".to_owned());
    assert!(matches!(
        classify_error(&error, &[]),
        AttemptFailure::Failed { .. }
    ));
    let typed = AttemptFailure::Cancelled;
    let error = DataFusionError::Shared(Arc::new(DataFusionError::External(Box::new(typed.clone()))));
    assert_eq!(classify_error(&error, &[]), typed);
    let error =
        arrow::error::ArrowError::ExternalError(Box::new(DataFusionError::External(Box::new(typed.clone()))));
    assert_eq!(classify_error(&DataFusionError::from(error), &[]), typed);
}
