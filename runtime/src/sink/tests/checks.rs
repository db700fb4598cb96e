//! What is refused before a query runs.

use super::*;

#[tokio::test]
async fn a_location_that_exists_is_refused_before_and_at_the_commit() {
    let folder = TempDir::new().unwrap();
    let sink_ = sink(&folder, "q1", "csv", "Fail");
    sink_.check(&[]).unwrap();
    write(&sink_, attempt(0, 0), &[1]).await;
    fs::create_dir(sink_.location()).unwrap();
    let error = sink_.check(&[]).unwrap_err();
    assert_eq!(error.reason(), ErrorReason::SinkExists);
    assert!(
        error.to_string().contains("out/result exists: remove it"),
        "{error}"
    );
    assert_eq!(sink_.commit(&[attempt(0, 0)]).unwrap_err(), error);
    assert_eq!(names(sink_.location()), [""; 0]);
    // Another query that got there first keeps the place; the same query recognises its own.
    let other = sink(&folder, "q2", "csv", "Replace");
    write(&other, attempt(0, 0), &[2]).await;
    other.commit(&[attempt(0, 0)]).unwrap();
    assert_eq!(sink_.commit(&[attempt(0, 0)]).unwrap_err(), error);
    assert!(other.committed().unwrap().is_some() && sink_.committed().unwrap().is_none());
    sink_.abort().unwrap();
    assert_eq!(values(sink_.location(), "csv").await, [2]);
    assert_eq!(names(&folder.path().join("out")), ["result"]);
}

#[tokio::test]
async fn what_cannot_be_replaced_is_refused() {
    let folder = TempDir::new().unwrap();
    let replacing = sink(&folder, "q1", "csv", "Replace");
    fs::create_dir_all(replacing.location().join("in")).unwrap();
    let input = replacing.location().join("in").canonicalize().unwrap();
    let forbidden = |error: SinkError, words: &str| {
        assert_eq!(error.reason(), ErrorReason::ForbiddenPath);
        assert!(error.to_string().contains(words), "{error}");
    };
    forbidden(replacing.check(&[input]).unwrap_err(), "holds the input");
    forbidden(
        replacing.check(&[PathBuf::from("/elsewhere")]).unwrap_err(),
        "holds in, which no query has written there",
    );
    let above = folder.path().canonicalize().unwrap();
    forbidden(replacing.check(&[above]).unwrap_err(), "is within the input");
    symlink("/proc", folder.path().join("link")).unwrap();
    let spec = serde_json::from_value(json!({"location": "link/self/out", "format": "csv"})).unwrap();
    let system = Sink::new(&spec, folder.path()).unwrap();
    forbidden(
        system.check(&InputRoots::default()).unwrap_err(),
        "leads into /proc",
    );
    fs::remove_dir(replacing.location().join("in")).unwrap();
    replacing.check(&[]).unwrap();
    fs::remove_dir_all(replacing.location()).unwrap();
    fs::write(replacing.location(), "x").unwrap();
    forbidden(replacing.check(&[]).unwrap_err(), "is a file");
    fs::remove_file(replacing.location()).unwrap();
    symlink("/nowhere", replacing.location()).unwrap();
    forbidden(replacing.check(&[]).unwrap_err(), "is a link");
    for location in ["/", "file:///"] {
        let spec = serde_json::from_value(json!({"location": location, "format": "csv"})).unwrap();
        forbidden(Sink::new(&spec, Path::new("/base")).unwrap_err(), "is no folder");
    }
    let spec = serde_json::from_value(json!({"location": "a/../b", "format": "csv"})).unwrap();
    let error = Sink::new(&spec, Path::new("/base")).unwrap_err();
    assert_eq!(error.reason(), ErrorReason::InvalidSpec);
    let spec = serde_json::from_value(json!({"location": "./b/", "format": "csv"})).unwrap();
    assert_eq!(
        Sink::new(&spec, Path::new("/base")).unwrap().location(),
        Path::new("/base/b")
    );
}

#[tokio::test]
async fn another_schema_or_an_unwritable_place_is_an_error() {
    let folder = TempDir::new().unwrap();
    let sink = sink(&folder, "q1", "parquet", "Fail");
    let mut writer = sink.open(attempt(0, 0), batch(&[]).schema()).unwrap();
    let names: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    let both = RecordBatch::try_from_iter([("v", Arc::clone(&names)), ("w", names)]).unwrap();
    assert!(matches!(
        writer.write(&both).unwrap_err(),
        SinkError::Encode { .. }
    ));
    fs::write(folder.path().join("file"), "").unwrap();
    let spec = serde_json::from_value(json!({"location": "file/sub/result", "format": "csv"})).unwrap();
    let blocked = Sink::new(&spec, folder.path()).unwrap();
    let error = blocked.check(&InputRoots::default()).unwrap_err();
    assert_eq!(error.reason(), ErrorReason::SinkFailed, "{error}");
}

#[tokio::test]
async fn no_sink_is_in_a_spill_folder() {
    let folder = TempDir::new().unwrap();
    let spill = crate::owned_dir::OwnedDir::create(folder.path(), "i3", |_| false).unwrap();
    std::os::unix::fs::symlink(spill.path(), folder.path().join("link")).unwrap();
    for location in ["i3/result", "link/result", "i3"] {
        let spec = serde_json::from_value(json!({"location": location, "format": "csv"})).unwrap();
        let error = Sink::new(&spec, folder.path())
            .unwrap()
            .check(&InputRoots::default())
            .unwrap_err();
        assert_eq!(error.reason(), ErrorReason::ForbiddenPath);
        assert!(
            error.to_string().contains("leads into the spill folder"),
            "{error}"
        );
    }
}
