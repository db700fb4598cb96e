//! A query with a time to live is deleted after its end, and what it owned goes too.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::Api;
use kube::api::ListParams;
use serde_json::json;

use crate::harness::{self, Pool, Query, query, wait_until};

#[test]
fn a_query_with_a_time_to_live_goes_with_all_it_owned() {
    harness::run("time-to-live", |space| async move {
        harness::install_operator(&space).await?;
        Pool::apply_ready(&space, "p").await?;
        let spec = json!({
            "sql": "SELECT count(*) AS nations FROM nation",
            "tables": [{"name": "nation", "tpch": {"scaleFactor": 0.01}}],
            "workerPoolRef": {"name": "p"},
            "ttlSecondsAfterFinished": 3,
        });
        let query = Query::submit(&space, query("brief", &spec)).await?;
        query.wait_until_succeeded().await?;
        query.wait_until_gone().await?;
        let (client, namespace) = (&space.client, &space.namespace);
        let pods = Api::<Pod>::namespaced(client.clone(), namespace);
        let inputs = Api::<ConfigMap>::namespaced(client.clone(), namespace);
        let tokens = Api::<Secret>::namespaced(client.clone(), namespace);
        wait_until("what it owned is gone", Duration::from_secs(120), || async {
            let its = ListParams::default().labels("sluice.dev/query=brief");
            let left = [
                pods.list(&its).await?.items.len(),
                inputs.list(&its).await?.items.len(),
                tokens.list(&its).await?.items.len(),
            ];
            Ok(if left == [0; 3] {
                Ok(())
            } else {
                Err(format!("{left:?}"))
            })
        })
        .await
    });
}
