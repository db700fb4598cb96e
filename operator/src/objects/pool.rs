//! The objects of a pool other than its pods.

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

const DNS_PORT: u16 = 53;

#[derive(Clone, Debug, PartialEq)]
pub struct PoolObjects {
    /// The headless Service, with a DNS name for every worker and one for all.
    pub service: Service,
    /// A drained node takes one worker at a time.
    pub disruption_budget: PodDisruptionBudget,
    /// The account of the workers. No token is mounted.
    pub service_account: ServiceAccount,
    /// The traffic that workers may receive and send.
    pub network_policy: NetworkPolicy,
    /// The same for the coordinators of the pool's queries.
    pub coordinator_policy: NetworkPolicy,
    /// The public key that verifies tokens, if tokens are checked.
    pub key: Option<ConfigMap>,
}

impl PoolObjects {
    /// The objects of `pool`; `public_key` verifies tokens, in PEM.
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
            // A worker that is not ready holds no data that an eviction would lose.
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

/// Operators in any namespace.
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

/// Egress rules for every destination: traffic that no policy allows is denied once another policy of the namespace selects the
/// pod. The DNS server may be anywhere.
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
