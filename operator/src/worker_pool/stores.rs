//! The watches of the pool reconciler, and which pools an event concerns.

use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{
    ConfigMap, Node, NodeSpec, NodeStatus, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec,
    Pod, Service, ServiceAccount,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::runtime::Controller;
use kube::runtime::reflector::store::WriterDropped;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, ResourceExt};
use sluice_crds::WorkerPool;
use tokio::sync::OnceCell;

use crate::config::Scope;
use crate::controller_runtime::unreadable::Unreadable;
use crate::controller_runtime::watch;
use crate::objects::labels::{self, Component};

/// The stores that a reconcile of a pool reads.
pub struct Stores {
    pub pods: Store<Pod>,
    /// All nodes, reduced to labels, taints and conditions.
    pub nodes: Store<Node>,
    /// All claims of the scope.
    pub claims: Store<PersistentVolumeClaim>,
    /// All volumes, reduced to their claim and node affinity.
    pub volumes: Store<PersistentVolume>,
    pub services: Store<Service>,
    pub disruption_budgets: Store<PodDisruptionBudget>,
    pub service_accounts: Store<ServiceAccount>,
    pub network_policies: Store<NetworkPolicy>,
    /// ConfigMaps with the public keys of pools.
    pub config_maps: Store<ConfigMap>,
    /// Set once all stores are filled. A store of kube 5 wakes only the last of several waiters; this wakes all.
    filled: OnceCell<()>,
}

impl Stores {
    /// The stores of `scope`, and the controller that fills them.
    pub fn watch(
        client: &Client,
        scope: &Scope,
        unreadable: Unreadable,
        gone: impl Fn(&ObjectRef<WorkerPool>) + Send + 'static,
    ) -> (Arc<Self>, Controller<WorkerPool>) {
        let ours = labels::watched(Component::Worker);
        let (pools, pool_events) = watch::resources::<WorkerPool>(client, scope, unreadable);
        let known = pools.clone();
        let pool_events = pool_events.inspect(move |pool| {
            if let Ok(pool) = pool {
                let pool = ObjectRef::from_obj(pool);
                if known.get(&pool).is_none() {
                    gone(&pool);
                }
            }
        });
        let (pods, pod_events) = watch::labelled(client, scope, &ours);
        let (services, service_events) = watch::labelled(client, scope, &ours);
        let (disruption_budgets, budget_events) = watch::labelled(client, scope, &ours);
        let (service_accounts, account_events) = watch::labelled(client, scope, &ours);
        let (network_policies, policy_events) = watch::labelled(client, scope, &ours);
        let (config_maps, config_events) = watch::labelled(client, scope, &ours);
        let (claims, claim_events) = watch::stripped(scope.api(client), "", strip_claim);
        let (nodes, node_events) = watch::stripped(Api::all(client.clone()), "", strip_node);
        let (volumes, volume_events) = watch::stripped(Api::all(client.clone()), "", strip_volume);
        let (of_nodes, of_claims, of_volumes) = (pods.clone(), pools.clone(), pools.clone());
        let controller = Controller::for_stream(pool_events, pools)
            .owns_stream::<Pod>(pod_events)
            .owns_stream::<Service>(service_events)
            .owns_stream::<PodDisruptionBudget>(budget_events)
            .owns_stream::<ServiceAccount>(account_events)
            .owns_stream::<NetworkPolicy>(policy_events)
            .owns_stream::<ConfigMap>(config_events)
            .watches_stream(node_events, move |node: Node| {
                pools_on(&of_nodes, &node.name_any())
            })
            .watches_stream(claim_events, move |claim: PersistentVolumeClaim| {
                pools_with(&of_claims, claim.namespace().as_deref(), &claim.name_any())
            })
            .watches_stream(volume_events, move |volume: PersistentVolume| {
                let claim = volume.spec.and_then(|spec| spec.claim_ref).unwrap_or_default();
                let name = claim.name.unwrap_or_default();
                pools_with(&of_volumes, claim.namespace.as_deref(), &name)
            });
        let stores = Self {
            pods,
            nodes,
            claims,
            volumes,
            services,
            disruption_budgets,
            service_accounts,
            network_policies,
            config_maps,
            filled: OnceCell::new(),
        };
        (Arc::new(stores), controller)
    }

    /// Waits until every store is filled. A decision from less would create what exists and miss what is lost.
    pub async fn wait(&self) -> Result<(), WriterDropped> {
        let fill = async {
            tokio::try_join!(
                self.pods.wait_until_ready(),
                self.nodes.wait_until_ready(),
                self.claims.wait_until_ready(),
                self.volumes.wait_until_ready(),
                self.services.wait_until_ready(),
                self.disruption_budgets.wait_until_ready(),
                self.service_accounts.wait_until_ready(),
                self.network_policies.wait_until_ready(),
                self.config_maps.wait_until_ready(),
            )
            .map(drop)
        };
        self.filled.get_or_try_init(|| fill).await.copied()
    }
}

/// The pools with workers on the node.
fn pools_on(pods: &Store<Pod>, node: &str) -> Vec<ObjectRef<WorkerPool>> {
    let pods = pods.state();
    let there = pods.iter().filter(|pod| {
        let on = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        on == Some(node)
    });
    let mut pools: Vec<_> = there
        .filter_map(|pod| {
            let pool = pod.labels().get(labels::POOL)?;
            Some(ObjectRef::new(pool).within(&pod.namespace()?))
        })
        .collect();
    pools.sort_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
    pools.dedup();
    pools
}

/// The pools that mount the claim.
fn pools_with(pools: &Store<WorkerPool>, namespace: Option<&str>, claim: &str) -> Vec<ObjectRef<WorkerPool>> {
    let mounts = |pool: &WorkerPool| {
        let mut claims = pool.spec.data_volumes.iter().chain(&pool.spec.sink_volumes);
        pool.namespace().as_deref() == namespace && claims.any(|mounted| mounted.claim_name == claim)
    };
    let pools = pools.state();
    let mounting = pools.iter().filter(|pool| mounts(pool));
    mounting.map(|pool| ObjectRef::from_obj(pool.as_ref())).collect()
}

fn strip_node(node: &mut Node) {
    node.metadata.annotations = None;
    node.spec = node.spec.take().map(|spec| NodeSpec {
        taints: spec.taints,
        ..NodeSpec::default()
    });
    node.status = node.status.take().map(|status| NodeStatus {
        conditions: status.conditions.map(|conditions| {
            let ready = |condition: &k8s_openapi::api::core::v1::NodeCondition| condition.type_ == "Ready";
            conditions.into_iter().filter(ready).collect()
        }),
        ..NodeStatus::default()
    });
}

fn strip_claim(claim: &mut PersistentVolumeClaim) {
    claim.metadata.annotations = None;
    claim.metadata.labels = None;
}

fn strip_volume(volume: &mut PersistentVolume) {
    volume.metadata.annotations = None;
    volume.metadata.labels = None;
    volume.spec = volume.spec.take().map(|spec| PersistentVolumeSpec {
        claim_ref: spec.claim_ref,
        node_affinity: spec.node_affinity,
        ..PersistentVolumeSpec::default()
    });
}
