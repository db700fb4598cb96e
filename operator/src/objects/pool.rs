//! What a pool owns beside its pods.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use kube::core::ObjectMeta;
use sluice_crds::WorkerPool;

use super::pod::KEY_FILE;
use super::worker::PORT;
use super::{labels, names};

/// Everything that a pool owns beside its pods.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolObjects {
    /// Gives every worker a name, and all of them one.
    pub service: Service,
    /// A drained node takes one worker at a time.
    pub disruption_budget: PodDisruptionBudget,
    /// Whom the workers are, with no token to prove it.
    pub service_account: ServiceAccount,
    /// Who may talk to the workers.
    pub network_policy: NetworkPolicy,
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
            network_policy: network_policy(pool, &name),
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
                port: i32::from(PORT),
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

/// Workers are reached by pods of Sluice alone, those of the operator's namespace included; they themselves reach
/// everything: the data is wherever the user says.
fn network_policy(pool: &WorkerPool, name: &str) -> NetworkPolicy {
    let ours: BTreeMap<_, _> = [(labels::NAME.to_owned(), labels::SLUICE.to_owned())].into();
    let within = NetworkPolicyPeer {
        pod_selector: Some(labels::selector(ours)),
        ..NetworkPolicyPeer::default()
    };
    let operator = NetworkPolicyPeer {
        pod_selector: Some(labels::selector(
            [
                (labels::NAME.to_owned(), labels::SLUICE.to_owned()),
                (labels::COMPONENT.to_owned(), "operator".to_owned()),
            ]
            .into(),
        )),
        namespace_selector: Some(LabelSelector::default()),
        ip_block: None,
    };
    NetworkPolicy {
        metadata: metadata(pool, names::workers(name)),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(labels::selector(labels::workers_of(name))),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![NetworkPolicyIngressRule {
                from: Some(vec![within, operator]),
                ports: Some(vec![NetworkPolicyPort {
                    port: Some(IntOrString::Int(i32::from(PORT))),
                    protocol: Some("TCP".to_owned()),
                    end_port: None,
                }]),
            }]),
            egress: None,
        }),
    }
}
