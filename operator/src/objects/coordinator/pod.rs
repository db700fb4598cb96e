//! The pod of a coordinator.

use k8s_openapi::api::core::v1::{
    Affinity, Container, ContainerPort, EnvVar, NodeAffinity, Pod, PodAffinity, PodAffinityTerm, PodSpec,
    PreferredSchedulingTerm, Probe, SecretVolumeSource, Toleration, Volume, WeightedPodAffinityTerm,
};
use kube::ResourceExt;
use kube::api::ObjectMeta;
use sluice_crds::process::{env, port};
use sluice_crds::worker_pool::{DataAffinity, ImagePullPolicy};
use sluice_crds::{ShuffleQuery, WorkerPoolSpec};
use sluice_proto::log::LogFormat;

use super::{INPUT_FILE, MEMORY_FACTOR, TOKEN_FILE, metadata, resources, table_locality};
use crate::objects::worker::slot_memory;
use crate::objects::{affinity, labels, names, pod};

pub const COORDINATOR_CONTAINER: &str = "coordinator";
const INPUT_FOLDER: &str = "/etc/sluice/query";
const TOKEN_FOLDER: &str = "/etc/sluice/token";
/// Seconds that a coordinator stays on an unreachable node. Its successor does not wait longer.
const UNREACHABLE_SECONDS: i64 = 30;
/// Seconds that a coordinator may take to stop. It has nothing to save.
const GRACE_SECONDS: i64 = 10;
/// Seconds until a coordinator serves. It lists the files of all tables and plans first.
const STARTUP_SECONDS: i32 = 600;
/// Seconds between two liveness probes.
const LIVENESS_SECONDS: i32 = 30;
/// Annotations that keep node autoscalers from evicting a coordinator, since its query would start over. A pool can override
/// them.
const UNDISTURBED: [(&str, &str); 2] = [
    ("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"),
    ("karpenter.sh/do-not-disrupt", "true"),
];
/// Weight of a zone with workers among the preferences.
const NEAR_WORKERS: i32 = 50;

/// The inputs of a coordinator's pod.
#[derive(Clone, Copy, Debug)]
pub struct CoordinatorPlan<'a> {
    pub query: &'a ShuffleQuery,
    pub epoch: u64,
    pub pool: &'a str,
    pub pool_spec: &'a WorkerPoolSpec,
    /// The image of the pool's workers: coordinators only use workers of their own build.
    pub image: &'a str,
    /// The multiple of the pool's coordinator memory.
    pub memory_factor: u32,
    pub log_format: LogFormat,
    /// Whether it must run on the node of the workers, because a claim can be attached to one node at a time.
    pub with_workers: bool,
}

pub fn coordinator_pod(plan: &CoordinatorPlan<'_>) -> Pod {
    let spec = plan.pool_spec;
    let user = spec.pod_metadata.as_ref();
    let name = names::coordinator(&plan.query.name_any(), plan.epoch);
    let ours = metadata(plan.query, Some(plan.pool), Some(plan.epoch), name);
    let mut annotations = user.map(|user| user.annotations.clone()).unwrap_or_default();
    for (key, value) in UNDISTURBED {
        annotations
            .entry(key.to_owned())
            .or_insert_with(|| value.to_owned());
    }
    annotations.insert(MEMORY_FACTOR.to_owned(), plan.memory_factor.to_string());
    let volumes = volumes(plan);
    Pod {
        metadata: ObjectMeta {
            labels: Some(pod::with_user_labels(ours.labels.unwrap_or_default(), user)),
            annotations: Some(annotations),
            ..ours
        },
        spec: Some(PodSpec {
            containers: vec![container(plan, volumes.mounts)],
            volumes: Some(volumes.volumes),
            restart_policy: Some("Never".to_owned()),
            termination_grace_period_seconds: Some(GRACE_SECONDS),
            service_account_name: Some(names::workers(plan.pool)),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            security_context: Some(pod::pod_security()),
            image_pull_secrets: pod::pull_secrets(spec),
            affinity: Some(near(plan)),
            node_selector: Some(spec.placement.node_selector.clone()).filter(|labels| !labels.is_empty()),
            tolerations: Some(tolerations(spec)),
            priority_class_name: spec.placement.priority_class_name.clone(),
            scheduler_name: spec.placement.scheduler_name.clone(),
            ..PodSpec::default()
        }),
        status: None,
    }
}

fn container(plan: &CoordinatorPlan<'_>, mounts: Vec<k8s_openapi::api::core::v1::VolumeMount>) -> Container {
    let probes = pod::probes(port::COORDINATOR);
    let policy = plan.pool_spec.image_pull_policy.map(ImagePullPolicy::name);
    Container {
        name: COORDINATOR_CONTAINER.to_owned(),
        image: Some(plan.image.to_owned()),
        image_pull_policy: policy.map(str::to_owned),
        command: Some(vec![pod::PROGRAM.to_owned(), "coordinator".to_owned()]),
        args: Some(arguments(plan)),
        env: Some(environment(plan)),
        env_from: pod::credentials(plan.pool_spec),
        ports: Some(vec![ContainerPort {
            name: Some("grpc".to_owned()),
            container_port: i32::from(port::COORDINATOR),
            ..ContainerPort::default()
        }]),
        resources: Some(resources::resources(plan.pool_spec, plan.memory_factor)),
        security_context: Some(pod::container_security()),
        // There is no startup or readiness probe. A coordinator serves once it has planned, which the operator sees itself, and
        // ends soon after a short query.
        liveness_probe: Some(Probe {
            initial_delay_seconds: Some(STARTUP_SECONDS),
            period_seconds: Some(LIVENESS_SECONDS),
            failure_threshold: Some(3),
            ..probes.liveness
        }),
        volume_mounts: Some(mounts),
        // The end of the log, if the coordinator wrote no termination message.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

fn arguments(plan: &CoordinatorPlan<'_>) -> Vec<String> {
    let query = plan.query;
    let namespace = query.namespace().unwrap_or_default();
    let spec = plan.pool_spec;
    // From the spec, not from ready workers: a query has the same partitions in every epoch.
    let slots = spec.most_replicas().saturating_mul(spec.slots()).max(1);
    let options = [
        ("--query-id", query.uid().unwrap_or_default()),
        ("--epoch", plan.epoch.to_string()),
        ("--listen", format!("0.0.0.0:{}", port::COORDINATOR)),
        (
            "--workers",
            names::worker_address(plan.pool, &namespace, port::WORKER),
        ),
        ("--results", "preview".to_owned()),
        ("--total-slots", slots.to_string()),
    ];
    let slot_memory = slot_memory(spec).map(|memory| ("--slot-memory", memory.bytes().to_string()));
    let options = options
        .into_iter()
        .chain(slot_memory)
        .flat_map(|(flag, value)| [flag.to_owned(), value]);
    [format!("{INPUT_FOLDER}/{INPUT_FILE}")]
        .into_iter()
        .chain(options)
        .collect()
}

fn environment(plan: &CoordinatorPlan<'_>) -> Vec<EnvVar> {
    let mut all = pod::log_format(plan.log_format);
    all.extend([
        pod::env(env::POOL, plan.pool),
        pod::env(env::NAMESPACE, plan.query.namespace().unwrap_or_default()),
        pod::env(env::TOKEN_FILE, format!("{TOKEN_FOLDER}/{TOKEN_FILE}")),
        pod::env(
            env::VERIFY_KEY_FILE,
            format!("{}/{}", pod::KEY_FOLDER, pod::KEY_FILE),
        ),
        pod::env(env::TERMINATION_LOG, "/dev/termination-log"),
    ]);
    all
}

fn volumes(plan: &CoordinatorPlan<'_>) -> pod::Volumes {
    let query = plan.query.name_any();
    let mut volumes = pod::Volumes::common(plan.pool, plan.pool_spec, true);
    volumes.add(pod::config_map("query", names::input(&query)), INPUT_FOLDER, true);
    let token = Volume {
        name: "token".to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(names::token(
                &query,
                &plan.query.uid().unwrap_or_default(),
                plan.epoch,
            )),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    volumes.add(token, TOKEN_FOLDER, true);
    volumes
}

/// Prefers nodes near the tables that declare a locality, as the pool's weight allows, and near the workers.
fn near(plan: &CoordinatorPlan<'_>) -> Affinity {
    let near_workers = WeightedPodAffinityTerm {
        weight: NEAR_WORKERS,
        pod_affinity_term: PodAffinityTerm {
            label_selector: Some(labels::selector(labels::workers_of(plan.pool))),
            topology_key: labels::ZONE.to_owned(),
            ..PodAffinityTerm::default()
        },
    };
    let near_data = near_data(plan);
    Affinity {
        node_affinity: (!near_data.is_empty()).then_some(NodeAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(near_data),
            required_during_scheduling_ignored_during_execution: None,
        }),
        pod_affinity: Some(PodAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![near_workers]),
            required_during_scheduling_ignored_during_execution: plan
                .with_workers
                .then(|| affinity::with_workers(plan.pool)),
        }),
        pod_anti_affinity: None,
    }
}

fn near_data(plan: &CoordinatorPlan<'_>) -> Vec<PreferredSchedulingTerm> {
    let placement = &plan.pool_spec.placement;
    if placement.data_affinity == DataAffinity::Ignore {
        return Vec::new();
    }
    // A node that several tables name gets no more weight: a coordinator reads little of each.
    let mut terms = affinity::NodeSelectorTerms::new();
    for term in affinity::hints(table_locality(plan.query).chain(&placement.locality)) {
        if !terms.contains(&term) {
            terms.push(term);
        }
    }
    terms.truncate(affinity::MAX_TERMS);
    let terms = terms.into_iter().map(|preference| PreferredSchedulingTerm {
        weight: i32::try_from(placement.weight).unwrap_or(1).clamp(1, 100),
        preference,
    });
    terms.collect()
}

/// Ours come first. Kubernetes uses the first toleration that matches, and a pool that tolerates everything would keep its
/// coordinators on lost nodes.
fn tolerations(spec: &WorkerPoolSpec) -> Vec<Toleration> {
    let ours = ["not-ready", "unreachable"].map(|condition| Toleration {
        key: Some(format!("node.kubernetes.io/{condition}")),
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        toleration_seconds: Some(UNREACHABLE_SECONDS),
        value: None,
    });
    ours.into_iter()
        .chain(spec.placement.tolerations.iter().cloned())
        .collect()
}
