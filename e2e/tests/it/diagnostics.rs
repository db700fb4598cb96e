//! The diagnostics of a failed test show what happened, and no secret.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::harness::{self, Pool, Query, query};

#[test]
fn objects_events_and_logs_of_a_failed_test_are_kept() {
    harness::run("diagnostics", |space| async move {
        harness::install_operator(&space).await?;
        let pool = Pool::apply(&space, "p", 1, json!({})).await?;
        pool.wait_until_ready(1).await?;
        let spec = json!({
            "sql": "SELECT no_such_column FROM nation",
            "tables": [{"name": "nation", "tpch": {"scaleFactor": 0.01}}],
            "workerPoolRef": {"name": "p"},
        });
        Query::submit(&space, query("bad", &spec))
            .await?
            .wait_until_ended()
            .await?;
        let other = space.create_namespace(&format!("{}-b", space.namespace)).await?;
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "elsewhere"}});
        other.apply(map).await?;
        harness::keep(&space).await?;
        let kept = |name: &str| {
            let path = space.evidence.join(name);
            fs::read_to_string(&path).with_context(|| path.display().to_string())
        };
        for (file, text) in [
            ("shufflequeries.yaml", "no_such_column"),
            ("workerpools.yaml", "readyReplicas: 1"),
            ("pods.yaml", "name: p-0"),
            ("events.txt", "InvalidSql"),
            ("nodes.yaml", "kubelet"),
        ] {
            ensure!(kept(file)?.contains(text), "{file} says nothing of {text}");
        }
        let elsewhere = format!("{}/configmaps.yaml", other.namespace);
        ensure!(kept(&elsewhere)?.contains("name: elsewhere"), "{elsewhere}");
        // Diagnostics that were written before the removal are not written again.
        other
            .apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "later"}}))
            .await?;
        harness::keep(&space).await?;
        ensure!(!kept(&elsewhere)?.contains("name: later"), "{elsewhere}");
        let files: Vec<_> = fs::read_dir(&space.evidence)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<_>>()?;
        for pod in ["p-0", "sluice-operator"] {
            let is_log = |file: &&String| file.starts_with(pod) && file.ends_with(".log");
            ensure!(
                files.iter().any(|file| is_log(&file)),
                "no log of {pod}: {files:?}"
            );
        }
        ensure!(!files.iter().any(|file| file.contains("secret")), "{files:?}");
        // The test did not fail.
        fs::remove_dir_all(&space.evidence)?;
        Ok(())
    });
}
