//! Gathers what a decision about a pool is made from.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use sluice_crds::WorkerPool;

use super::autoscaling;
use super::controller::PoolReconciler;
use super::observed::{Observed, Settings};
use super::revision::Revision;
use super::worker::{PollResult, Worker};
use crate::controller_runtime::api;
use crate::demand::PoolDemand;
use crate::objects::{labels, names};
use crate::rpc::worker::WorkerRpc;
use crate::volume_claims;

impl<R: WorkerRpc> PoolReconciler<R> {
    /// Reads everything around `pool` from the caches.
    pub(super) fn observe(&self, pool: Arc<WorkerPool>) -> Observed {
        let now = Timestamp::now();
        let name = pool.name_any();
        let namespace = pool.namespace().unwrap_or_default();
        let of_pool = |pod: &Pod| {
            pod.namespace().as_deref() == Some(&*namespace) && pod.labels().get(labels::POOL) == Some(&name)
        };
        let mut pods = self.stores.pods.state();
        pods.retain(|pod| of_pool(pod));
        pods.sort_by_key(|pod| (pod.name_any().len(), pod.name_any()));
        let taken = pods.iter().map(|pod| pod.name_any()).collect();
        pods.retain(|pod| is_controlled_by(pod, &pool));
        let settings = Settings {
            default_image: self.operator.image.clone(),
            public_key: self.keys.as_ref().map(|keys| keys.public_pem()),
            log_format: self.operator.config.log_format,
        };
        let (replicas, demand) = self.replicas(&pool, now);
        let answers = self.poller.answers(&pool.uid().unwrap_or_default());
        let revision = Revision::of(&pool, &pods, &settings.default_image);
        let workers = pods.into_iter();
        let workers = workers.map(|pod| self.worker(pod, &answers, &revision)).collect();
        let claim = |claim: &str| self.stores.claims.get(&ObjectRef::new(claim).within(&namespace));
        let volume = |volume: &str| self.stores.volumes.get(&ObjectRef::new(volume));
        Observed {
            workers,
            taken,
            claims: volume_claims::mounted(&pool.spec, claim, volume),
            revision,
            settings,
            replicas,
            demand,
            now,
            pool,
        }
    }

    fn worker(&self, pod: Arc<Pod>, answers: &BTreeMap<String, PollResult>, revision: &Revision) -> Worker {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let node = node.and_then(|node| self.stores.nodes.get(&ObjectRef::new(node)));
        let uid = pod.uid().unwrap_or_default();
        let marked = self.assumed_draining().get(&uid).copied();
        let answer = answers.get(&uid).cloned().unwrap_or_default();
        Worker::observe(pod, node.as_deref(), answer, marked, revision)
    }

    /// The number of workers that the pool should have, and its demand.
    fn replicas(&self, pool: &WorkerPool, now: Timestamp) -> (u32, PoolDemand) {
        let spec = &pool.spec;
        let (namespace, name) = (pool.namespace().unwrap_or_default(), pool.name_any());
        let max_queries = spec.max_concurrent_queries;
        let demand = self
            .operator
            .demand
            .of((&namespace, &name), max_queries, spec.slots());
        let Some(scaling) = &spec.autoscaling else {
            return (spec.replicas, demand);
        };
        let wanted = autoscaling::wanted(spec, scaling, demand);
        let status = pool.status.as_ref();
        let has = status.map(|status| status.desired_replicas.unwrap_or(status.replicas));
        let mut histories = self.histories();
        let history = histories.entry((namespace, name)).or_default();
        (history.settle(now, wanted, has, scaling), demand)
    }
}

fn is_controlled_by(pod: &Pod, pool: &WorkerPool) -> bool {
    let wanted = Pod {
        metadata: kube::core::ObjectMeta {
            owner_references: names::owned_by(pool),
            ..kube::core::ObjectMeta::default()
        },
        ..Pod::default()
    };
    api::same_owner(pod, &wanted)
}
