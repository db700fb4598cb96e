use super::*;
use crate::source::{InvalidLocation, local_path};

fn names(manifest: &InputManifest) -> Vec<String> {
    let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    manifest.tables["t"].iter().map(|file| name(&file.path)).collect()
}

#[tokio::test]
async fn a_folder_gives_its_files_of_the_format_in_order() {
    let folder = TempDir::new().unwrap();
    for name in [
        "b.csv",
        "a.csv",
        "deep/er/c.csv",
        "_d.csv",
        ".e.csv",
        "_f/g.csv",
        "_SUCCESS",
        "._a.csv.crc",
    ] {
        write(&folder, name, "x\n1\n");
    }
    let (session, manifest) = open(&files("csv", folder.path())).await.unwrap();
    assert_eq!(names(&manifest), ["a.csv", "b.csv", "c.csv"]);
    assert_eq!(rows(&session, "select count(*) from t").await, ["| 3 |"]);
}

#[tokio::test]
async fn no_file_of_a_folder_is_left_out_without_a_word() {
    for other in ["b.csv.gz", "b.parquet", "b", "deep/b.csv.tmp"] {
        let folder = TempDir::new().unwrap();
        write(&folder, "A.CSV", "x\n1\n");
        let (session, manifest) = open(&files("csv", folder.path())).await.unwrap();
        assert_eq!(names(&manifest), ["A.CSV"]);
        assert_eq!(rows(&session, "select count(*) from t").await, ["| 1 |"]);
        write(&folder, other, "x\n1\n");
        let error = refusal(&files("csv", folder.path())).await;
        assert!(
            error.contains(&format!("{other} does not end in .csv")),
            "{error}"
        );
    }
    let folder = TempDir::new().unwrap();
    write(&folder, "day=1/a.csv", "x\n1\n");
    let error = refusal(&files("csv", folder.path())).await;
    assert!(
        error.contains("day=1 is named as the value of a column"),
        "{error}"
    );
    let (session, _) = open(&files("csv", &folder.path().join("day=1"))).await.unwrap();
    assert_eq!(rows(&session, "select x from t").await, ["| 1 |"]);
}

#[tokio::test]
async fn no_link_leads_into_a_folder_of_the_system() {
    let folder = TempDir::new().unwrap();
    symlink("/proc/self", folder.path().join("link")).unwrap();
    let error = refusal(&files("csv", &folder.path().join("link/environ"))).await;
    assert!(
        error.starts_with("ForbiddenPath") && error.contains("leads into /proc"),
        "{error}"
    );
}

#[tokio::test]
async fn no_table_is_in_a_spill_folder() {
    let folder = TempDir::new().unwrap();
    let spill = crate::owned_dir::OwnedDir::create(folder.path(), "sluice-run-q", |_| false).unwrap();
    fs::write(spill.path().join("a.csv"), "x\n1\n").unwrap();
    symlink(spill.path(), folder.path().join("link")).unwrap();
    for inside in [
        spill.path().to_owned(),
        spill.path().join("a.csv"),
        folder.path().join("link"),
    ] {
        let error = refusal(&files("csv", &inside)).await;
        assert!(
            error.starts_with("ForbiddenPath") && error.contains("leads into the spill folder"),
            "{error}"
        );
    }
    // One above it would read it too. The lock file itself is no file of the table's format.
    let above = folder.path().join("above");
    let inner = crate::owned_dir::OwnedDir::create(&above, "i7", |_| false).unwrap();
    let error = refusal(&files("csv", &above)).await;
    assert!(error.contains("i7"), "either of both is refused: {error}");
    fs::create_dir(above.join("t")).unwrap();
    symlink(inner.path(), above.join("t/link")).unwrap();
    let error = refusal(&files("csv", &above.join("t"))).await;
    assert!(error.starts_with("ForbiddenPath"), "{error}");
}

#[tokio::test]
async fn several_locations_and_a_file_of_any_name() {
    let folder = TempDir::new().unwrap();
    let odd = write(&folder, "one/x#1", "x\n1\n");
    write(&folder, "two/c.csv", "x\n2\n");
    let locations = [odd, folder.path().join("two"), folder.path().join("two/c.csv")];
    let spec = table(json!({"name": "t", "format": "csv", "locations": locations}));
    let error = refusal(&spec).await;
    assert!(error.contains("x#1 cannot be read"), "{error}");
    let odd = write(&folder, "one/a b%41ü.txt", "x\n1\n");
    let locations = [odd, folder.path().join("two"), folder.path().join("two/c.csv")];
    let spec = table(json!({"name": "t", "format": "csv", "locations": locations}));
    let (session, manifest) = open(&spec).await.unwrap();
    assert_eq!(manifest.tables["t"].len(), 2, "a file named twice is read once");
    assert_eq!(
        rows(&session, "select x from t order by x").await,
        ["| 1 |", "| 2 |"]
    );
}

#[tokio::test]
async fn relative_locations_and_urls() {
    let folder = TempDir::new().unwrap();
    write(&folder, "d/a b.csv", "x\n7\n");
    for location in [
        "d".to_owned(),
        "d/a b.csv".to_owned(),
        format!("file://{}/d/a%20b.csv", folder.path().display()),
    ] {
        let tables = [table(json!({"name": "t", "format": "csv", "location": location}))];
        let manifest = InputManifest::list(&tables, folder.path()).await.unwrap();
        let session = session(&manifest);
        register_tables(&session, &tables, &manifest).await.unwrap();
        assert_eq!(rows(&session, "select x from t").await, ["| 7 |"], "{location}");
    }
}

#[test]
fn locations_that_are_no_paths() {
    for location in [
        "../x",
        "a/../b",
        "a/%2e%2e/b",
        "file:///a/%2E%2e/b",
        "s3://b/k",
        "file:x",
        "",
    ] {
        let problem = local_path(location, Path::new("/base")).unwrap_err();
        assert!(
            matches!(problem, InvalidLocation::Text { .. }),
            "{location}: {problem}"
        );
    }
    for location in ["file:///a?b", "file:///a#b"] {
        let problem = local_path(location, Path::new("/base")).unwrap_err();
        assert!(
            matches!(problem, InvalidLocation::Url(_)),
            "{location}: {problem}"
        );
    }
    assert_eq!(local_path("a", Path::new("/base")).unwrap(), Path::new("/base/a"));
    assert_eq!(local_path("/a", Path::new("/base")).unwrap(), Path::new("/a"));
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let folder = TempDir::new().unwrap();
    let error = refusal(&files("csv", &folder.path().join("no"))).await;
    assert!(
        error.starts_with("TableNotFound: table t: location ") && error.contains("/no cannot be opened"),
        "{error}"
    );
    write(&folder, "_x.csv", "");
    let error = refusal(&files("csv", folder.path())).await;
    assert!(error.contains("no file ends in .csv in "), "{error}");
    let columns = json!([{"name": "a", "type": "Int64"}]);
    let spec = table(json!({"name": "t", "format": "csv", "location": folder.path(), "schema": columns}));
    let (session, _) = open(&spec).await.unwrap();
    assert_eq!(rows(&session, "select count(a) from t").await, ["| 0 |"]);
}

#[tokio::test]
async fn a_link_that_leaves_the_location_is_refused_by_name() {
    let (folder, secret) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    write(&folder, "in/a.csv", "x\n1\n");
    let outside = write(&secret, "s.csv", "x\n2\n");
    symlink(folder.path().join("in/a.csv"), folder.path().join("in/again.csv")).unwrap();
    symlink(folder.path(), folder.path().join("in/up")).unwrap();
    let error = refusal(&files("csv", &folder.path().join("in"))).await;
    assert!(
        error.starts_with("ForbiddenPath") && error.contains("in/up is a link that leaves"),
        "{error}"
    );
    fs::remove_file(folder.path().join("in/up")).unwrap();
    symlink(folder.path().join("in"), folder.path().join("in/loop")).unwrap();
    let (_, manifest) = open(&files("csv", &folder.path().join("in"))).await.unwrap();
    assert_eq!(names(&manifest), ["a.csv"]);
    symlink(&outside, folder.path().join("in/b.csv")).unwrap();
    let error = refusal(&files("csv", &folder.path().join("in"))).await;
    assert!(
        error.starts_with("ForbiddenPath") && error.contains("in/b.csv is a link that leaves"),
        "{error}"
    );
    let spec =
        table(json!({"name": "t", "format": "csv", "locations": [folder.path().join("in"), secret.path()]}));
    assert!(
        refusal(&spec).await.starts_with("ForbiddenPath"),
        "a link into another location leaves its own"
    );
}

#[tokio::test]
async fn a_pipe_is_no_file() {
    let folder = TempDir::new().unwrap();
    let pipe = folder.path().join("p.csv");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let error = refusal(&files("csv", &pipe)).await;
    assert!(error.contains("is neither a file nor a folder"), "{error}");
    write(&folder, "a.csv", "x\n1\n");
    let error = refusal(&files("csv", folder.path())).await;
    assert!(error.contains("p.csv is neither a file nor a folder"), "{error}");
    // One that takes the place of a file is not opened, which would wait for a writer.
    fs::remove_file(&pipe).unwrap();
    let (session, _) = open(&files("csv", folder.path())).await.unwrap();
    let file = folder.path().join("a.csv");
    fs::remove_file(&file).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &file,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let frame = session.sql("select * from t").await.unwrap();
    let read = tokio::time::timeout(std::time::Duration::from_secs(60), frame.collect());
    assert!(read.await.expect("it does not wait").is_err());
}

#[tokio::test]
async fn sql_reaches_no_other_file() {
    let (folder, secret) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    write(&folder, "a.csv", "x\n1\n");
    let outside = write(&secret, "s.csv", "x\n2\n");
    let (session, _) = open(&files("csv", folder.path())).await.unwrap();
    let sql = format!("select * from '{}'", outside.display());
    let error = session.sql(&sql).await.unwrap_err();
    assert!(error.to_string().contains("not found"), "{error}");
    let error = session
        .read_csv(outside.to_str().unwrap(), Default::default())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("outside the declared tables"),
        "{error}"
    );
    let url = url::Url::parse("s3://bucket").unwrap();
    assert!(
        session
            .runtime_env()
            .object_store_registry
            .get_store(&url)
            .is_err()
    );
}

#[tokio::test]
async fn a_manifest_pins_the_files() {
    let folder = TempDir::new().unwrap();
    write(&folder, "a.csv", "x\n1\n");
    let tables = [files("csv", folder.path())];
    let manifest = InputManifest::list(&tables, folder.path()).await.unwrap();
    let text = serde_json::to_string(&manifest).unwrap();
    let manifest: InputManifest = serde_json::from_str(&text).unwrap();
    write(&folder, "b.csv", "x\n2\n");
    let session = session(&manifest);
    register_tables(&session, &tables, &manifest).await.unwrap();
    assert_eq!(rows(&session, "select x from t").await, ["| 1 |"]);
}

#[tokio::test]
async fn a_capital_in_a_name_needs_quotes() {
    let folder = TempDir::new().unwrap();
    write(&folder, "a.csv", "x\n1\n");
    let spec = table(json!({"name": "Big", "format": "csv", "location": folder.path()}));
    let (session, _) = open(&spec).await.unwrap();
    assert_eq!(rows(&session, "select x from \"Big\"").await, ["| 1 |"]);
    assert!(session.sql("select x from Big").await.is_err());
}
