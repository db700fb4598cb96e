//! What a pool owns beside its pods.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use kube::core::ObjectMeta;
use sluice_crds::WorkerPool;
use sluice_crds::process;
use sluice_crds::worker_pool::EgressPolicy;

use super::pod::KEY_FILE;
use super::{labels, names};

/// Port of the name service.
const DNS_PORT: u16 = 53;

/// Everything that a pool owns beside its pods.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolObjects {
    /// Gives every worker a name, and all of them one.
    pub service: Service,
    /// A drained node takes one worker at a time.
    pub disruption_budget: PodDisruptionBudget,
    /// Whom the workers are, with no token to prove it.
    pub service_account: ServiceAccount,
    /// Who may talk to the workers, and with whom they may.
    pub network_policy: NetworkPolicy,
    /// The same of the coordinators of the pool's queries.
    pub coordinator_policy: NetworkPolicy,
    /// The key that they check tokens with, if tokens are checked.
    pub key: Option<ConfigMap>,
}

impl PoolObjects {
    /// The objects of `pool`; `public_key` is the key that checks tokens, in PEM.
    pub fn build(pool: &WorkerPool, public_key: Option<&str>) -> Self {
        let name = pool.name_any();
        Self {
            service: service(pool, &name),
            disruption_budget: disruption_budget(pool, &name),
            service_account: ServiceAccount {
                metadata: metadata(pool, names::workers(&name)),
                automount_service_account_token: Some(false),
                ..ServiceAccount::default()
            },
            network_policy: network_policy(
                metadata(pool, names::workers(&name)),
                labels::workers_of(&name),
                ingress(vec![ours(), operator()], process::port::WORKER),
                egress(pool.spec.egress),
            ),
            coordinator_policy: network_policy(
                metadata(pool, names::coordinators(&name)),
                labels::coordinators_of(&name),
                ingress(vec![operator()], process::port::COORDINATOR),
                egress(pool.spec.egress),
            ),
            key: public_key.map(|pem| ConfigMap {
                metadata: metadata(pool, names::key(&name)),
                data: Some([(KEY_FILE.to_owned(), pem.to_owned())].into()),
                ..ConfigMap::default()
            }),
        }
    }
}

fn metadata(pool: &WorkerPool, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: pool.namespace(),
        labels: Some(labels::of_pool(&pool.name_any())),
        owner_references: names::owned_by(pool),
        ..ObjectMeta::default()
    }
}

fn service(pool: &WorkerPool, name: &str) -> Service {
    Service {
        metadata: metadata(pool, names::workers(name)),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(false),
            selector: Some(labels::workers_of(name)),
            ports: Some(vec![ServicePort {
                name: Some("grpc".to_owned()),
                port: i32::from(process::port::WORKER),
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::String("grpc".to_owned())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn disruption_budget(pool: &WorkerPool, name: &str) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(pool, names::workers(name)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(labels::selector(labels::workers_of(name))),
            // A worker that is not ready holds nothing that an eviction would lose.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}

/// Pods of Sluice in the same namespace.
fn ours() -> NetworkPolicyPeer {
    let ours: BTreeMap<_, _> = [(labels::NAME.to_owned(), labels::SLUICE.to_owned())].into();
    NetworkPolicyPeer {
        pod_selector: Some(labels::selector(ours)),
        ..NetworkPolicyPeer::default()
    }
}

/// Operators, in whatever namespace.
fn operator() -> NetworkPolicyPeer {
    let operator = [
        (labels::NAME.to_owned(), labels::SLUICE.to_owned()),
        (labels::COMPONENT.to_owned(), "operator".to_owned()),
    ];
    NetworkPolicyPeer {
        pod_selector: Some(labels::selector(operator.into())),
        namespace_selector: Some(LabelSelector::default()),
        ip_block: None,
    }
}

fn port(port: u16, protocol: &str) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::Int(i32::from(port))),
        protocol: Some(protocol.to_owned()),
        end_port: None,
    }
}

fn ingress(from: Vec<NetworkPolicyPeer>, to: u16) -> Vec<NetworkPolicyIngressRule> {
    vec![NetworkPolicyIngressRule {
        from: Some(from),
        ports: Some(vec![port(to, "TCP")]),
    }]
}

/// A rule for every way out: what no policy of a namespace names is denied where another one denies it. The name service may be
/// anywhere.
fn egress(policy: EgressPolicy) -> Vec<NetworkPolicyEgressRule> {
    match policy {
        EgressPolicy::Any => vec![NetworkPolicyEgressRule::default()],
        EgressPolicy::Internal => vec![
            NetworkPolicyEgressRule {
                to: Some(vec![ours()]),
                ports: Some(vec![port(process::port::WORKER, "TCP")]),
            },
            NetworkPolicyEgressRule {
                to: None,
                ports: Some(vec![port(DNS_PORT, "UDP"), port(DNS_PORT, "TCP")]),
            },
        ],
    }
}

fn network_policy(
    metadata: ObjectMeta,
    pods: BTreeMap<String, String>,
    ingress: Vec<NetworkPolicyIngressRule>,
    egress: Vec<NetworkPolicyEgressRule>,
) -> NetworkPolicy {
    NetworkPolicy {
        metadata,
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(labels::selector(pods)),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ingress: Some(ingress),
            egress: Some(egress),
        }),
    }
}
