//! The test's own kubelet, coordinators and workers run a query from a pool without pods to its end.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::core::object::HasStatus;
use kube::{Api, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sluice_crds::shuffle_query::status::QueryPhase;
use sluice_crds::{ShuffleQuery, WorkerPool};
/// What the tests need of a kind that has namespaces.
pub use sluice_operator::controller_runtime::api::Object as Kind;

use crate::coordinators::{programs, succeeds};
use crate::faults::Faults;
use crate::harness::{TestEnv, eventually, run};
use crate::kubelet::Kubelet;

/// Reads an object.
pub fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// The phase of a query.
pub async fn phase(env: &TestEnv, query: &str) -> QueryPhase {
    let queries = Api::<ShuffleQuery>::namespaced(env.client.clone(), &env.namespace);
    let query = queries.get(query).await.unwrap();
    query.status().map_or(QueryPhase::Pending, |status| status.phase)
}

/// A pool of `replicas` workers.
pub fn pool(name: &str, replicas: u32) -> WorkerPool {
    object(json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "WorkerPool",
        "metadata": {"name": name}, "spec": {"replicas": replicas},
    }))
}

/// A query of `pool`.
pub fn query(name: &str, pool: &str) -> ShuffleQuery {
    object(json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "ShuffleQuery", "metadata": {"name": name},
        "spec": {"sql": "select 1", "workerPoolRef": {"name": pool}},
    }))
}

#[test]
fn a_query_runs_to_its_end_and_pods_go_when_their_owners_do() {
    run(
        "a_query_runs_to_its_end_and_pods_go_when_their_owners_do",
        async |env| {
            let kubelet = Kubelet::start(env, programs(succeeds)).await;
            let operator = env.start("operator", Faults::none());
            let pools = Api::<WorkerPool>::namespaced(env.client.clone(), &env.namespace);
            let queries = Api::<ShuffleQuery>::namespaced(env.client.clone(), &env.namespace);
            pools.create(&PostParams::default(), &pool("p", 2)).await.unwrap();
            queries
                .create(&PostParams::default(), &query("q", "p"))
                .await
                .unwrap();
            eventually("the query succeeds", async || {
                phase(env, "q").await == QueryPhase::Succeeded
            })
            .await;
            let status = queries.get("q").await.unwrap().status.unwrap();
            assert_eq!((status.tasks.done, status.totals.rows_written), (2, 20));
            let mut started: Vec<_> = kubelet.started().into_iter().map(|pod| pod.name).collect();
            // In any order: one worker is enough to begin with.
            started.sort();
            assert_eq!(started, ["p-0", "p-1", "q-c1"]);

            pools.delete("p", &DeleteParams::default()).await.unwrap();
            queries.delete("q", &DeleteParams::default()).await.unwrap();
            let pods = Api::<Pod>::namespaced(env.client.clone(), &env.namespace);
            eventually("all pods are gone", async || {
                let left = pods.list(&ListParams::default()).await.unwrap();
                left.iter().map(ResourceExt::name_any).count() == 0
            })
            .await;
            assert_eq!(operator.faults.forbidden(), [""; 0]);
        },
    );
}
