use super::*;
use crate::source::generate::{GenerateError, generate_tpch};

fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let size = |entry: fs::DirEntry| match entry.metadata().unwrap() {
        metadata if metadata.is_dir() => size(&entry.path()),
        metadata => metadata.len(),
    };
    entries.map(size).sum()
}

#[tokio::test]
async fn files_hold_what_the_generated_tables_hold() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("data");
    fs::create_dir(&out).unwrap();
    let mut lines = Vec::new();
    let summary = generate_tpch(0.01, &out, |line| lines.push(line.to_owned()))
        .await
        .unwrap();
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        1,
        "nothing is left beside the folder"
    );
    assert_eq!(summary.files as usize, lines.len());
    assert_eq!(summary.bytes, size(&out));
    assert_eq!(fs::read_dir(out.join("lineitem")).unwrap().count(), 4);
    assert_eq!(fs::read_dir(out.join("nation")).unwrap().count(), 1);

    let names = [
        "lineitem", "orders", "partsupp", "customer", "part", "supplier", "nation", "region",
    ];
    let mut tables = Vec::new();
    for name in names {
        tables.push(table(
            json!({"name": name, "format": "parquet", "location": out.join(name)}),
        ));
        tables.push(table(
            json!({"name": format!("g_{name}"), "tpch": {"scaleFactor": 0.01, "table": name}}),
        ));
    }
    let manifest = InputManifest::list(&tables, folder.path()).await.unwrap();
    let session = session(&manifest);
    register_tables(&session, &tables, &manifest).await.unwrap();
    let mut count = 0;
    for name in names {
        let both = format!("select * from {name} except all select * from g_{name}");
        assert_eq!(rows(&session, &both).await, [""; 0], "{name}");
        let counts =
            format!("select (select count(*) from {name}) as a, (select count(*) from g_{name}) as b");
        let counts = rows(&session, &counts).await;
        let counts: Vec<u64> = counts[0]
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        assert_eq!(counts[0], counts[1], "{name}");
        count += counts[0];
    }
    assert_eq!(summary.rows, count);

    let error = generate_tpch(0.01, &out, |_| {}).await.unwrap_err();
    assert!(matches!(error, GenerateError::NotEmpty(_)), "{error}");
}

#[tokio::test]
async fn what_cannot_be_written_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    for scale in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = generate_tpch(scale, &folder.path().join("a"), |_| {})
            .await
            .unwrap_err();
        assert!(matches!(error, GenerateError::Scale(_)), "{error}");
    }
    fs::write(folder.path().join("file"), "").unwrap();
    let error = generate_tpch(0.01, &folder.path().join("file"), |_| {})
        .await
        .unwrap_err();
    assert!(error.to_string().starts_with("cannot read "), "{error}");
    // A caller that gives up, as Ctrl-C makes it.
    let out = folder.path().join("b");
    {
        let generating = generate_tpch(1.0, &out, |_| {});
        tokio::pin!(generating);
        assert!(futures::poll!(&mut generating).is_pending());
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
