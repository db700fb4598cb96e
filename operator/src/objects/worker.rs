//! The pod of one worker.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, DownwardAPIVolumeFile, DownwardAPIVolumeSource, EnvVar, EphemeralVolumeSource,
    ObjectFieldSelector, PersistentVolumeClaimSpec, PersistentVolumeClaimTemplate, Pod, PodSpec,
    ResourceRequirements, Volume, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use kube::core::ObjectMeta;
use sluice_crds::process::{env, port};
use sluice_crds::worker_pool::{ClaimVolume, EphemeralVolume, SpillVolume};
use sluice_crds::{ByteSize, WorkerPool, WorkerPoolSpec};
use sluice_proto::log::LogFormat;

use super::affinity::{self, NodeSelectorTerms};
use super::pod::{self, KEY_FILE, KEY_FOLDER, PROGRAM, TMP_BYTES, Volumes};
use super::quantity::{bytes_of, quantity};
use super::{labels, names};

/// Name of the gRPC port.
const PORT_NAME: &str = "grpc";
/// Name of the container.
pub const CONTAINER: &str = "worker";
/// Where the pod's own labels are mounted.
const POD_FOLDER: &str = "/etc/sluice/pod";
/// Least size of a spill volume. A worker that may not spill still needs the folder.
const MIN_SPILL_VOLUME: u64 = 16 << 20;
/// An emptyDir is larger than its size by an eighth and these bytes. The worker counts the bytes that it writes; the kubelet also
/// counts whole blocks, folders and files being deleted. Without the margin it would evict a worker with a full disk, whose query
/// should fail with a reason instead.
const SPILL_MARGIN: u64 = 64 << 20;
/// Seconds between SIGTERM and SIGKILL. An evicted worker may finish its attempts.
const GRACE_SECONDS: i64 = 60;

/// The inputs of a worker's pod.
#[derive(Clone, Debug)]
pub struct WorkerPod<'a> {
    pub pool: &'a WorkerPool,
    pub number: u32,
    pub image: &'a str,
    pub spec_hash: &'a str,
    /// Whether tokens are checked: the pool's public key is mounted.
    pub with_key: bool,
    pub log_format: LogFormat,
    /// The node selector terms of each claim that only some nodes can reach.
    pub claims: &'a [NodeSelectorTerms],
    /// Whether it must run on the node of the pool's other workers.
    pub same_node: bool,
}

impl WorkerPod<'_> {
    pub fn build(&self) -> Pod {
        let pool = self.pool.name_any();
        let metadata = self.pool.spec.pod_metadata.as_ref();
        let mut annotations = metadata
            .map(|metadata| metadata.annotations.clone())
            .unwrap_or_default();
        annotations.insert(labels::SPEC_HASH.to_owned(), self.spec_hash.to_owned());
        Pod {
            metadata: ObjectMeta {
                name: Some(names::worker(&pool, self.number)),
                namespace: self.pool.namespace(),
                labels: Some(pod::with_user_labels(labels::of_pool(&pool), metadata)),
                annotations: Some(annotations),
                owner_references: names::owned_by(self.pool),
                ..ObjectMeta::default()
            },
            spec: Some(self.spec(&pool)),
            status: None,
        }
    }

    fn spec(&self, pool: &str) -> PodSpec {
        let spec = &self.pool.spec;
        let placement = &spec.placement;
        let volumes = self.volumes(pool);
        PodSpec {
            hostname: Some(names::worker(pool, self.number)),
            subdomain: Some(names::workers(pool)),
            restart_policy: Some("Always".to_owned()),
            service_account_name: Some(names::workers(pool)),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(GRACE_SECONDS),
            security_context: Some(pod::pod_security()),
            image_pull_secrets: pod::pull_secrets(spec),
            affinity: affinity::affinity(pool, placement, self.claims, self.same_node),
            topology_spread_constraints: affinity::spread(pool, placement.zones),
            node_selector: Some(placement.node_selector.clone()).filter(|selector| !selector.is_empty()),
            tolerations: Some(placement.tolerations.clone()).filter(|tolerations| !tolerations.is_empty()),
            priority_class_name: placement.priority_class_name.clone(),
            scheduler_name: placement.scheduler_name.clone(),
            containers: vec![self.container(&volumes)],
            volumes: Some(volumes.volumes),
            ..PodSpec::default()
        }
    }

    fn container(&self, volumes: &Volumes) -> Container {
        let spec = &self.pool.spec;
        let probes = pod::probes(port::WORKER);
        Container {
            name: CONTAINER.to_owned(),
            image: Some(self.image.to_owned()),
            image_pull_policy: spec.image_pull_policy.map(|policy| policy.name().to_owned()),
            command: Some(vec![PROGRAM.to_owned(), "worker".to_owned()]),
            env: Some(self.env()),
            env_from: pod::credentials(spec),
            ports: Some(vec![ContainerPort {
                name: Some(PORT_NAME.to_owned()),
                container_port: i32::from(port::WORKER),
                protocol: Some("TCP".to_owned()),
                ..ContainerPort::default()
            }]),
            resources: Some(resources(spec)),
            security_context: Some(pod::container_security()),
            startup_probe: Some(probes.startup),
            readiness_probe: Some(probes.readiness),
            liveness_probe: Some(probes.liveness),
            volume_mounts: Some(volumes.mounts.clone()),
            ..Container::default()
        }
    }

    fn env(&self) -> Vec<EnvVar> {
        let spec = &self.pool.spec;
        let folders: Vec<_> = spec.spill_volumes().iter().map(spill_folder).collect();
        let mut env = pod::log_format(self.log_format);
        env.extend([
            pod::env(env::LISTEN, format!("0.0.0.0:{}", port::WORKER)),
            pod::env_field(env::WORKER_NAME, "metadata.name"),
            pod::env_field(env::POD_UID, "metadata.uid"),
            pod::env(env::POOL, self.pool.name_any()),
            pod::env(env::NAMESPACE, self.pool.namespace().unwrap_or_default()),
            pod::env(
                env::DATA_DIRS,
                mounts(spec.data_volumes.iter().chain(&spec.sink_volumes)),
            ),
            pod::env(env::SINK_DIRS, mounts(&spec.sink_volumes)),
            pod::env_field(env::NODE, "spec.nodeName"),
            pod::env(env::ZONE_FILE, format!("{POD_FOLDER}/zone")),
            pod::env(env::SLOTS, spec.slots().to_string()),
            pod::env(env::SPILL_DIRS, folders.join(",")),
            pod::env(env::SPILL_LIMIT, spec.spill_limit().bytes().to_string()),
        ]);
        if let Some(memory) = spec.query_memory() {
            env.push(pod::env(env::MEMORY, memory.bytes().to_string()));
        }
        if self.with_key {
            let file = format!("{KEY_FOLDER}/{KEY_FILE}");
            env.push(pod::env(env::VERIFY_KEY_FILE, file));
        }
        env
    }

    fn volumes(&self, pool: &str) -> Volumes {
        let spec = &self.pool.spec;
        let mut all = Volumes::common(pool, spec, self.with_key);
        all.add(zone_volume(), POD_FOLDER, true);
        for volume in spec.spill_volumes() {
            all.add(spill_volume(&volume), spill_folder(&volume), false);
        }
        all
    }
}

/// The mount paths, separated by commas.
fn mounts<'a>(volumes: impl IntoIterator<Item = &'a ClaimVolume>) -> String {
    let mounts: Vec<_> = volumes
        .into_iter()
        .map(|volume| volume.mount_path.as_str())
        .collect();
    mounts.join(",")
}

/// The pod's zone as a file. The label is set after scheduling, too late for an environment variable.
fn zone_volume() -> Volume {
    Volume {
        name: "pod".to_owned(),
        downward_api: Some(DownwardAPIVolumeSource {
            default_mode: None,
            items: Some(vec![DownwardAPIVolumeFile {
                path: "zone".to_owned(),
                field_ref: Some(ObjectFieldSelector {
                    api_version: Some("v1".to_owned()),
                    field_path: format!("metadata.labels['{}']", labels::ZONE),
                }),
                ..DownwardAPIVolumeFile::default()
            }]),
        }),
        ..Volume::default()
    }
}

fn spill_folder(volume: &SpillVolume) -> String {
    format!("/spill/{}", volume.name)
}

fn volume_bytes(size: ByteSize) -> u64 {
    size.bytes().max(MIN_SPILL_VOLUME)
}

fn empty_dir_bytes(size: ByteSize) -> u64 {
    let size = volume_bytes(size);
    size.saturating_add(size / 8).saturating_add(SPILL_MARGIN)
}

fn spill_volume(volume: &SpillVolume) -> Volume {
    let name = format!("spill-{}", volume.name);
    match &volume.ephemeral {
        Some(ephemeral) => Volume {
            name,
            ephemeral: Some(EphemeralVolumeSource {
                volume_claim_template: Some(claim_template(ephemeral)),
            }),
            ..Volume::default()
        },
        None => pod::empty_dir(&name, empty_dir_bytes(volume.size().unwrap_or_default())),
    }
}

fn claim_template(volume: &EphemeralVolume) -> PersistentVolumeClaimTemplate {
    let storage = [("storage".to_owned(), quantity(volume_bytes(volume.size)))];
    PersistentVolumeClaimTemplate {
        metadata: None,
        spec: PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: volume.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(storage.into()),
                limits: None,
            }),
            ..PersistentVolumeClaimSpec::default()
        },
    }
}

/// Query memory of each slot of a worker, if it is known before the worker runs.
pub fn slot_memory(spec: &WorkerPoolSpec) -> Option<ByteSize> {
    let slots = u64::from(spec.slots().max(1));
    spec.query_memory()
        .map(|memory| ByteSize::from_bytes(memory.bytes() / slots))
}

/// Requests and limits of a worker. Where the spec has none, it requests its query memory and the disk space that it may fill:
/// the kubelet evicts pods without a request first.
fn resources(spec: &WorkerPoolSpec) -> ResourceRequirements {
    let mut resources = spec.resources.clone().unwrap_or_default();
    resources.claims = None;
    let on_node = spec.spill_volumes();
    let on_node = on_node.iter().filter_map(|volume| volume.empty_dir.as_ref());
    let disk = on_node.fold(TMP_BYTES, |sum, volume| {
        sum.saturating_add(empty_dir_bytes(volume.size_limit))
    });
    request(&mut resources, "ephemeral-storage", disk);
    if let Some(memory) = spec.memory {
        request(&mut resources, "memory", memory.bytes());
    }
    resources
}

/// Requests `wanted` bytes of a resource that the spec does not request, at most the limit.
fn request(resources: &mut ResourceRequirements, resource: &str, wanted: u64) {
    let limit = bytes_of(resources.limits.as_ref(), resource).unwrap_or(u64::MAX);
    let requests: &mut BTreeMap<String, Quantity> = resources.requests.get_or_insert_default();
    requests
        .entry(resource.to_owned())
        .or_insert_with(|| quantity(wanted.min(limit)));
}
