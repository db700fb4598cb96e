//! A query rests while it is suspended, and starts over when it is resumed.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;
use sluice_crds::shuffle_query::status::QueryPhase;

use crate::answers;
use crate::harness::{self, Pool, Query, rows, until};

#[test]
fn a_suspended_query_rests_and_starts_over() {
    harness::run("suspend", |space| async move {
        harness::install_operator(&space).await?;
        Pool::ready(&space, "p").await?;
        let query = Query::submit(&space, answers::long_query("p")).await?;
        query.until_under_way().await?;
        query.change(json!({"suspend": true})).await?;
        query
            .until("is suspended", |status| status.phase == QueryPhase::Suspended)
            .await?;
        let pods = Api::<Pod>::namespaced(space.client.clone(), &space.namespace);
        until("its coordinator is gone", Duration::from_secs(60), || async {
            let coordinators = ListParams::default().labels("sluice.dev/query=long");
            let left = pods.list(&coordinators).await?.items.len();
            Ok(if left == 0 {
                Ok(())
            } else {
                Err(format!("{left} pods"))
            })
        })
        .await?;
        query.change(json!({"suspend": false})).await?;
        let status = query.succeeded().await?;
        assert_eq!(rows(&status)?, answers::long_rows());
        assert_eq!(status.coordinator_epoch, 2, "a coordinator of its own");
        assert!(status.suspended_millis > 0);
        assert_eq!(status.suspended_time, None);
        Ok(())
    });
}
