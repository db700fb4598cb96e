//! Desired state of a `WorkerPool`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::WorkerPoolStatus;
use super::autoscaling::AutoscalingSpec;
use super::placement::PlacementSpec;
use super::pods::{
    CoordinatorSpec, CredentialsSpec, EgressPolicy, ImagePullPolicy, ImagePullSecret, PodMetadata,
};
use super::volumes::{
    APART_MESSAGE, APART_RULE, ClaimVolume, DEFAULT_SPILL_SIZE, DEFAULT_SPILL_VOLUME, EmptyDirVolume,
    LISTS_APART_MESSAGE, LISTS_APART_RULE, MAX_CLAIM_VOLUMES, SpillSpec, SpillVolume,
};
use crate::bounds::{MAX_PRIORITY, MAX_SECONDS};
use crate::embedded::resources;
use crate::units::{ByteSize, NANOS_IN_ONE, nanos, quantity_bytes};

/// Most workers of one pool.
pub const MAX_REPLICAS: u32 = 1000;
/// Least query memory of one worker. Below it not even one batch of rows and one shuffle buffer fit.
pub const MIN_MEMORY: ByteSize = ByteSize::from_mib(1);
/// Most slots of one worker.
pub const MAX_SLOTS_PER_WORKER: u32 = 256;
/// Slots of a worker whose spec names neither slots nor CPUs.
pub const DEFAULT_SLOTS_PER_WORKER: u32 = 2;
/// Most characters of the name of a pool: its Service and its pods put a suffix behind it and hold 63.
pub const MAX_WORKER_POOL_NAME: usize = 50;
/// What the name of a pool looks like, as its Service demands: a DNS label that starts with a letter (RFC 1035).
pub const SERVICE_NAME_PATTERN: &str = "^[a-z]([-a-z0-9]*[a-z0-9])?$";
/// Most queries of a pool at the same time.
pub const MAX_CONCURRENT_QUERIES: u32 = 10_000;
/// Longest drain of a worker, in seconds: a week.
pub const MAX_DRAIN_TIMEOUT_SECONDS: u32 = 604_800;
/// Most characters of the name of an image.
pub const MAX_IMAGE: usize = 512;
/// What the name of an image looks like, loosely: the registry judges the rest.
pub const IMAGE_PATTERN: &str = "^[A-Za-z0-9][A-Za-z0-9_.:/@-]*$";

/// Desired state of a pool of workers, or of the inline workers of one query. Outside a cluster, replicas,
/// slotsPerWorker, memory and spill.limit apply; the other fields are about pods and have no effect.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "WorkerPool",
    plural = "workerpools",
    shortname = "wp",
    namespaced,
    status = "WorkerPoolStatus",
    derive = "PartialEq",
    doc = "A pool of workers that ShuffleQueries share.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    validation = Rule::new(format!("size(self.metadata.name) <= {MAX_WORKER_POOL_NAME} && self.metadata.name.matches('{SERVICE_NAME_PATTERN}')"))
        .message("the name of a pool has at most 50 lower-case letters, digits and '-', and starts with a letter"),
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.ready","description":"Ready workers of those wanted."}"#,
    printcolumn = r#"{"name":"Slots","type":"integer","jsonPath":".status.slots","description":"Slots of the ready workers."}"#,
    printcolumn = r#"{"name":"Spill(bytes)","type":"integer","jsonPath":".status.spillUsedBytes","description":"Bytes that the workers have on disk."}"#,
    printcolumn = r#"{"name":"Zones","type":"string","jsonPath":".status.zoneList","description":"Zones with workers."}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason","priority":1}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].message","priority":1}"#
)]
#[x_kube(validation = Rule::new(LISTS_APART_RULE).message(LISTS_APART_MESSAGE))]
pub struct WorkerPoolSpec {
    /// Number of workers. With 0, queries wait until the pool grows. No effect with autoscaling.
    #[serde(default = "default_replicas")]
    #[schemars(range(max = MAX_REPLICAS))]
    pub replicas: u32,
    /// Lets the pool choose its number of workers by the demand of its queries. No effect outside a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<AutoscalingSpec>,
    /// Attempts that one worker runs at the same time. Without it, the CPUs of its limit, or else of its request, rounded up;
    /// 2 if the resources name no CPU, and outside a cluster. Twice the CPUs keep them busy while attempts wait for input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_SLOTS_PER_WORKER))]
    pub slots_per_worker: Option<u32>,
    /// Query memory of one worker: operators and shuffle buffers together, for example 2GiB. At least 1MiB.
    /// Without it, 70 % of the memory limit of the pod; without a limit, a share of the memory that the worker finds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// Disk space for what does not fit into memory. Without it, 10GiB on the disk of the node; outside a cluster,
    /// the space is bounded by the disk alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spill: Option<SpillSpec>,
    /// Image of workers and coordinators. Without it, the operator's image at the time of the last change of the pods'
    /// spec: a newer operator alone restarts no pod. Not for the inline workers of a query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_IMAGE), regex(pattern = IMAGE_PATTERN))]
    pub image: Option<String>,
    /// When the image is pulled: Always, IfNotPresent or Never. Without it, as Kubernetes decides by the image's tag.
    /// Not for the inline workers of a query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ImagePullPolicy")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// Secrets to pull the image with. Not for the inline workers of a query.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub image_pull_secrets: Vec<ImagePullSecret>,
    /// Requests and limits of one worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "resources")]
    pub resources: Option<ResourceRequirements>,
    /// Claims with data, mounted read-only in workers and coordinators. Not for the inline workers of a query.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = MAX_CLAIM_VOLUMES),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    #[x_kube(validation = Rule::new(APART_RULE).message(APART_MESSAGE))]
    pub data_volumes: Vec<ClaimVolume>,
    /// Claims for results, mounted writable in workers and coordinators. Not for the inline workers of a query.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = MAX_CLAIM_VOLUMES),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    #[x_kube(validation = Rule::new(APART_RULE).message(APART_MESSAGE))]
    pub sink_volumes: Vec<ClaimVolume>,
    /// Credentials of workers and coordinators. Not for the inline workers of a query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CredentialsSpec>,
    /// Where the pods run.
    #[serde(default)]
    pub placement: PlacementSpec,
    /// Labels and annotations of the pods. Not for the inline workers of a query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_metadata: Option<PodMetadata>,
    /// Ready workers that a query needs before it is admitted.
    #[serde(default = "default_min_ready_workers")]
    #[schemars(range(min = 1, max = MAX_REPLICAS))]
    pub min_ready_workers: u32,
    /// Queries that run at the same time; further ones wait, by priority, then age.
    #[serde(default = "default_max_concurrent_queries")]
    #[schemars(range(min = 1, max = MAX_CONCURRENT_QUERIES))]
    pub max_concurrent_queries: u32,
    /// Deadline of queries that set no deadlineSeconds themselves, in seconds. Without it they have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_SECONDS))]
    pub default_deadline_seconds: Option<u32>,
    /// Seconds after which an ended query is deleted that sets no ttlSecondsAfterFinished itself, as long as the pool
    /// exists. Without it, such queries stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = MAX_SECONDS))]
    pub default_ttl_seconds_after_finished: Option<u32>,
    /// Highest effective priority: a query with a higher one waits as if it had this one. Without it, there is no cap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -MAX_PRIORITY, max = MAX_PRIORITY))]
    pub max_query_priority: Option<i32>,
    /// Where the pods may connect to, in namespaces whose NetworkPolicies deny what none allows: Any (the data may be
    /// anywhere) or Internal (each other and DNS; nothing else, in any namespace).
    #[serde(default)]
    pub egress: EgressPolicy,
    /// Seconds that a draining worker may take to finish its attempts and to serve the data that it holds.
    #[serde(default = "default_drain_timeout_seconds")]
    #[schemars(range(max = MAX_DRAIN_TIMEOUT_SECONDS))]
    pub drain_timeout_seconds: u32,
    /// The coordinators of the pool's queries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coordinator: Option<CoordinatorSpec>,
}

impl WorkerPoolSpec {
    /// Most workers that the pool may have.
    pub fn most_replicas(&self) -> u32 {
        let scaled = self.autoscaling.as_ref().map(|scaling| scaling.max_replicas);
        scaled.unwrap_or(self.replicas)
    }

    /// Attempts that one worker in a cluster runs at the same time: `slotsPerWorker`, or its number of CPUs.
    pub fn slots(&self) -> u32 {
        let resources = self.resources.as_ref();
        let cpus = |amounts: &Option<BTreeMap<String, Quantity>>| {
            let nanos = nanos(amounts.as_ref()?.get("cpu")?)?;
            let cpus = nanos.div_ceil(NANOS_IN_ONE).clamp(1, MAX_SLOTS_PER_WORKER.into());
            u32::try_from(cpus).ok()
        };
        let limit = || resources.and_then(|resources| cpus(&resources.limits));
        let request = || resources.and_then(|resources| cpus(&resources.requests));
        let said = self.slots_per_worker.or_else(limit).or_else(request);
        said.unwrap_or(DEFAULT_SLOTS_PER_WORKER)
    }

    /// Query memory of one worker where the spec decides it: `memory`, or 70 % of the memory limit of the pod. `None`
    /// leaves it to the worker.
    pub fn query_memory(&self) -> Option<ByteSize> {
        let limits = self
            .resources
            .as_ref()
            .and_then(|resources| resources.limits.as_ref());
        let limit = limits
            .and_then(|limits| limits.get("memory"))
            .and_then(quantity_bytes);
        let share = limit.map(|limit| limit.bytes() / 10 * 7 + limit.bytes() % 10 * 7 / 10);
        self.memory.or(share.map(ByteSize::from_bytes))
    }

    /// Most bytes on disk of one worker in a cluster: the limit, or 10GiB. 0 forbids spilling.
    pub fn spill_limit(&self) -> ByteSize {
        self.spill
            .as_ref()
            .map_or(DEFAULT_SPILL_SIZE, |spill| spill.limit)
    }

    /// Spill volumes of one worker in a cluster: those of the spec, or one emptyDir of the size of the limit. A worker that
    /// may not spill has a folder for it all the same.
    pub fn spill_volumes(&self) -> Vec<SpillVolume> {
        let volumes = self.spill.as_ref().map_or(&[][..], |spill| &spill.volumes);
        if !volumes.is_empty() {
            return volumes.to_vec();
        }
        let size_limit = self.spill_limit();
        vec![SpillVolume {
            name: DEFAULT_SPILL_VOLUME.to_owned(),
            empty_dir: Some(EmptyDirVolume { size_limit }),
            ephemeral: None,
        }]
    }
}

fn default_replicas() -> u32 {
    2
}

fn default_min_ready_workers() -> u32 {
    1
}

fn default_max_concurrent_queries() -> u32 {
    64
}

fn default_drain_timeout_seconds() -> u32 {
    600
}

impl Default for WorkerPoolSpec {
    fn default() -> Self {
        Self {
            replicas: default_replicas(),
            slots_per_worker: None,
            memory: None,
            spill: None,
            image: None,
            image_pull_policy: None,
            image_pull_secrets: Vec::new(),
            resources: None,
            data_volumes: Vec::new(),
            sink_volumes: Vec::new(),
            credentials: None,
            placement: PlacementSpec::default(),
            pod_metadata: None,
            min_ready_workers: default_min_ready_workers(),
            max_concurrent_queries: default_max_concurrent_queries(),
            autoscaling: None,
            default_deadline_seconds: None,
            default_ttl_seconds_after_finished: None,
            max_query_priority: None,
            egress: EgressPolicy::default(),
            drain_timeout_seconds: default_drain_timeout_seconds(),
            coordinator: None,
        }
    }
}
