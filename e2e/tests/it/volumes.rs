//! Claims of a pool: one query writes TPC-H tables as Parquet through a sink volume, another reads them from a read-only
//! data volume and writes its own result, which a third reads back.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sluice_crds::shuffle_query::status::ShuffleQueryStatus;

use crate::answers;
use crate::harness::{self, Pool, Query, Space, query, rows, sample};

#[test]
fn tables_and_results_lie_on_volumes() {
    harness::run_with_shared_folder("volumes", |space, shared| async move {
        let folder = shared.join(&space.namespace);
        let outcome = on_volumes(&space, &folder).await;
        // Written by another user; the test runs as root where it makes nodes.
        let removed = fs::remove_dir_all(&folder);
        outcome?;
        removed.with_context(|| folder.display().to_string())
    });
}

async fn on_volumes(space: &Space, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    // Pods run as a user that this machine does not know.
    fs::set_permissions(folder, Permissions::from_mode(0o777))?;
    space.create_claim("out", "ReadWriteMany", folder).await?;
    space.create_claim("tables", "ReadOnlyMany", folder).await?;
    harness::install_operator(space).await?;
    let claims = json!({
        "sinkVolumes": [{"name": "out", "claimName": "out", "mountPath": "/out"}],
        "dataVolumes": [{"name": "tables", "claimName": "tables", "mountPath": "/tables"}],
    });
    Pool::apply(space, "p", 3, claims)
        .await?
        .wait_until_ready(3)
        .await?;

    let lineitem = json!([{"name": "lineitem", "tpch": {"scaleFactor": 0.1}}]);
    let written = run(
        space,
        "write",
        "SELECT * FROM lineitem",
        lineitem,
        Some("/out/lineitem"),
    )
    .await?;
    let committed = written.sink.context("nothing committed")?;
    assert_eq!(
        (committed.rows, committed.location.as_str()),
        (600_572, "/out/lineitem")
    );
    assert_eq!(parquet_files(&folder.join("lineitem"))?, committed.files);

    // The same rows as from the generator.
    let summary = sample("tpch-pricing-summary.yaml")?;
    let sql = summary["spec"]["sql"].as_str().context("the sample has SQL")?;
    let lineitem = json!([{"name": "lineitem", "location": "/tables/lineitem", "format": "parquet"}]);
    run(space, "read", sql, lineitem, Some("/out/summary")).await?;
    let result = json!([{"name": "summary", "location": "/tables/summary", "format": "parquet"}]);
    let sql = "SELECT * FROM summary ORDER BY l_returnflag, l_linestatus";
    let status = run(space, "back", sql, result, None).await?;
    assert_eq!(rows(&status)?, answers::pricing_summary());
    Ok(())
}

async fn run(
    space: &Space,
    name: &str,
    sql: &str,
    tables: Value,
    sink: Option<&str>,
) -> Result<ShuffleQueryStatus> {
    let mut spec = json!({"sql": sql, "tables": tables, "workerPoolRef": {"name": "p"}});
    if let Some(location) = sink {
        spec["sink"] = json!({"location": location, "format": "parquet"});
    }
    Query::submit(space, query(name, &spec))
        .await?
        .wait_until_succeeded()
        .await
}

fn parquet_files(folder: &Path) -> Result<u32> {
    let mut count = 0;
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        count += u32::from(
            entry?
                .path()
                .extension()
                .is_some_and(|extension| extension == "parquet"),
        );
    }
    Ok(count)
}
