//! The samples of `manifests/` on a cluster: right rows, and everything that they bring along. They run as they are, but
//! for two that are of files: what those say to change on a cluster is changed.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use crate::answers::{self, table};
use crate::harness::{self, Pool, Query, Space, columns, query, rows, sample, samples};

/// Those that need claims; the first two of them, as they are, no cluster.
const OF_FILES: [&str; 3] = ["csv", "sink", "cluster/volumes"];

/// The rows of those that bring all that they need.
fn complete() -> Vec<(&'static str, Vec<Vec<String>>)> {
    let workers = ["IRAQ|633", "IRAN|630", "EGYPT|623", "JAPAN|622", "CANADA|621"];
    let pool = [
        "1-URGENT|30111",
        "2-HIGH|30172",
        "3-MEDIUM|29563",
        "4-NOT SPECIFIED|29910",
        "5-LOW|30244",
    ];
    let regions = ["AFRICA|5", "AMERICA|5", "ASIA|5", "EUROPE|5", "MIDDLE EAST|5"];
    vec![
        ("workers", table(&workers)),
        ("worker-pool", table(&pool)),
        ("spill", table(&["600572|180949710"])),
        ("lifecycle", table(&regions)),
        ("placement", table(&["18|53", "7|50", "8|47"])),
        ("tpch-pricing-summary", answers::pricing_summary()),
        ("tpch-join", answers::join()),
        ("cluster/sql-from", table(&["0|5", "1|5", "2|5", "3|5", "4|5"])),
    ]
}

/// Needs no cluster.
#[test]
fn no_sample_is_left_out() -> Result<()> {
    let mut found = BTreeSet::new();
    for folder in ["", "cluster/"] {
        for entry in fs::read_dir(manifests().join(folder))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            found.extend(name.strip_suffix(".yaml").map(|name| format!("{folder}{name}")));
        }
    }
    let complete = complete();
    let tried = complete.iter().map(|(name, _)| *name).chain(OF_FILES);
    let tried: BTreeSet<_> = tried.map(str::to_owned).collect();
    assert_eq!(found, tried, "the folder on the left, this file on the right");
    Ok(())
}

#[test]
fn samples_that_bring_their_workers() {
    harness::run("samples", |space| async move {
        harness::install_operator(&space).await?;
        for (name, expected) in complete() {
            let status = apply(&space, name).await?.wait_until_succeeded().await?;
            assert_eq!(rows(&status)?, expected, "{name}");
            if name == "spill" {
                assert!(status.totals.bytes_spilled > 0, "{:?}", status.totals);
            }
        }
        assert_printed(&space).await
    });
}

/// Applies a sample, and returns its query.
async fn apply(space: &Space, name: &str) -> Result<Query> {
    let mut query = None;
    for document in samples(&format!("{name}.yaml"))? {
        if document["kind"] == "ShuffleQuery" {
            query = Some(Query::submit(space, document).await?);
        } else {
            space.apply(document).await?;
        }
    }
    query.with_context(|| format!("{name} has no query"))
}

/// What `kubectl get` prints of a query and of a pool.
async fn assert_printed(space: &Space) -> Result<()> {
    // Another test changes the columns.
    let _same = harness::share_definitions().await;
    let line = columns::<sluice_crds::ShuffleQuery>(space, "worker-pool").await?;
    assert_eq!(line["Phase"], json!("Succeeded"), "{line:?}");
    for whole in ["Stages", "Tasks"] {
        let text = line[whole].as_str().unwrap_or_default();
        let done = text
            .split_once('/')
            .is_some_and(|(done, of)| done == of && done != "0");
        assert!(done, "{whole} in {line:?}");
    }
    assert!(line["Rows"].as_u64().is_some_and(|rows| rows > 0), "{line:?}");
    assert!(line["TTFR(ms)"].as_u64().is_some(), "{line:?}");
    assert_eq!(line["Spill(bytes)"].as_u64().unwrap_or_default(), 0, "{line:?}");
    assert!(line["Local"].is_null(), "nothing should run near data: {line:?}");
    let line = columns::<sluice_crds::ShuffleQuery>(space, "spill").await?;
    assert!(
        line["Spill(bytes)"].as_u64().is_some_and(|bytes| bytes > 0),
        "{line:?}"
    );
    let line = columns::<sluice_crds::ShuffleQuery>(space, "placement").await?;
    // One of its workers is in the zone of the data, where nodes have zones.
    let near = line["Local"].as_str().and_then(|text| text.strip_suffix('%'));
    assert!(near.is_some_and(|share| share.parse::<u8>().is_ok()), "{line:?}");
    let line = columns::<sluice_crds::WorkerPool>(space, "placed").await?;
    assert_eq!(line["Ready"], json!("3/3"), "{line:?}");
    assert_eq!(line["Slots"], json!(6), "{line:?}");
    let zones = line["Zones"].as_str().unwrap_or_default();
    assert!(!zones.contains(['[', '"']), "{line:?}");
    assert!(line["Spill(bytes)"].as_u64().is_some(), "{line:?}");
    Ok(())
}

#[test]
fn samples_of_files() {
    harness::run_with_shared_folder("samples-of-files", |space, shared| async move {
        let folder = shared.join(&space.namespace);
        let outcome = over_files(&space, &folder).await;
        // Written by another user; the test runs as root where it makes nodes.
        let removed = fs::remove_dir_all(&folder);
        outcome?;
        removed.with_context(|| folder.display().to_string())
    });
}

async fn over_files(space: &Space, folder: &Path) -> Result<()> {
    let (tables, results) = (folder.join("tables"), folder.join("results"));
    for made in [&tables, &results] {
        fs::create_dir_all(made)?;
        // Pods run as a user that this machine does not know.
        fs::set_permissions(made, Permissions::from_mode(0o777))?;
    }
    copy(&manifests().join("data"), &tables.join("data"))?;
    space.create_claim("tables", "ReadOnlyMany", &tables).await?;
    space.create_claim("results", "ReadWriteMany", &results).await?;
    // Through another claim of the same folder: the samples only read it.
    space
        .create_claim("tables-made", "ReadWriteMany", &tables)
        .await?;
    harness::install_operator(space).await?;
    let maker = json!({"sinkVolumes": [{"name": "made", "claimName": "tables-made", "mountPath": "/made"}]});
    Pool::apply(space, "maker", 1, maker).await?;
    let spec = json!({
        "sql": "SELECT * FROM lineitem",
        "tables": [{"name": "lineitem", "tpch": {"scaleFactor": 0.1}}],
        "sink": {"location": "/made/lineitem", "format": "parquet"},
        "workerPoolRef": {"name": "maker"},
    });
    Query::submit(space, query("make", &spec))
        .await?
        .wait_until_succeeded()
        .await?;

    let status = apply(space, "cluster/volumes")
        .await?
        .wait_until_succeeded()
        .await?;
    let committed = status.sink.context("nothing committed")?;
    assert_eq!(
        (committed.rows, committed.location.as_str()),
        (4, "/results/lines-by-flag")
    );

    // Its places are relative to its own folder, which is on the volume here.
    let mut csv = sample("csv.yaml")?;
    for table in csv["spec"]["tables"].as_array_mut().context("tables")? {
        let place = table["location"].as_str().context("a location")?;
        table["location"] = json!(format!("/tables/{place}"));
    }
    csv["spec"]["workerPoolRef"] = json!({"name": "with-claims"});
    let status = Query::submit(space, csv).await?.wait_until_succeeded().await?;
    let expected = ["Graz|0|NULL|NULL", "Lima|2|16.0|18.4", "Oslo|3|-7.2|1.0"];
    assert_eq!(rows(&status)?, table(&expected));

    // What a pod has in its own /tmp no other pod sees.
    let mut sink = sample("sink.yaml")?;
    sink["spec"]["sink"]["location"] = json!("/results/orders-by-day");
    sink["spec"]["workerPoolRef"] = json!({"name": "with-claims"});
    let status = Query::submit(space, sink).await?.wait_until_succeeded().await?;
    let committed = status.sink.context("nothing committed")?;
    assert_eq!(committed.rows, status.totals.rows_written);
    assert!(committed.rows > 10_000, "{committed:?}");
    Ok(())
}

fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/samples")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let there = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &there)?;
        } else {
            fs::copy(entry.path(), there)?;
        }
    }
    Ok(())
}
