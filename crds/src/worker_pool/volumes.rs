//! Volumes of workers: disks for spilling, claims with data, claims for sinks.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::embedded::{DNS_LABEL_PATTERN, OBJECT_NAME_PATTERN};
use crate::units::ByteSize;

/// Most spill volumes of one worker.
pub const MAX_SPILL_VOLUMES: usize = 8;
/// Most claims in each of `dataVolumes` and `sinkVolumes`.
pub const MAX_CLAIM_VOLUMES: usize = 16;
/// Most characters of the name of a volume: pods add a prefix, and names have at most 63 characters.
pub const MAX_VOLUME_NAME: usize = 40;
/// What a mount path looks like: absolute, every part starts with a letter, a digit or `_`; no `..`, no `//`, no slash
/// at the end.
pub const MOUNT_PATH_PATTERN: &str = "^(/[A-Za-z0-9_][A-Za-z0-9_.@=+-]*)+$";
/// Folders of the container that no claim may cover.
pub const RESERVED_PATHS: [&str; 12] = [
    "/bin", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/spill", "/sys", "/tmp", "/usr",
];

/// Default size of the spill volume.
pub const DEFAULT_SPILL_SIZE: ByteSize = ByteSize::from_mib(10 << 10);
/// Name of the default spill volume.
pub const DEFAULT_SPILL_VOLUME: &str = "default";

/// Disk space of one worker for spilled data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpillSpec {
    /// Most bytes on disk of one worker, for example 50GiB. 0 forbids spilling: a query that would need it fails. At
    /// most the volumes together.
    pub limit: ByteSize,
    /// Volumes that share the spilled data, mounted at /spill/NAME. Without them, one emptyDir of the size of the
    /// limit. Outside a cluster, spilled data goes to the folder of temporary files instead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = MAX_SPILL_VOLUMES),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub volumes: Vec<SpillVolume>,
}

/// One spill volume: exactly one of emptyDir and ephemeral.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.emptyDir) != has(self.ephemeral)")
        .message("exactly one of emptyDir and ephemeral must be set"),
)]
pub struct SpillVolume {
    /// Name of the volume, unique within the pool.
    #[schemars(length(min = 1, max = MAX_VOLUME_NAME), regex(pattern = DNS_LABEL_PATTERN))]
    pub name: String,
    /// Space on the disk of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EmptyDirVolume>,
    /// An ephemeral volume, which is created and deleted with the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<EphemeralVolume>,
}

impl SpillVolume {
    /// Bytes of the volume; `None` if it is neither kind.
    pub fn size(&self) -> Option<ByteSize> {
        let empty_dir = self.empty_dir.as_ref().map(|volume| volume.size_limit);
        empty_dir.or(self.ephemeral.as_ref().map(|volume| volume.size))
    }
}

/// Space on the disk of the node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EmptyDirVolume {
    /// Size, for example 50GiB. The pod gets an eighth and 64 MiB more, as the kubelet evicts a pod that uses more than
    /// it has.
    pub size_limit: ByteSize,
}

/// A generic ephemeral volume: a claim that is created and deleted with the pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EphemeralVolume {
    /// Storage class of the claim. Without it, the default of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME_PATTERN))]
    pub storage_class_name: Option<String>,
    /// Size of the claim, for example 200GiB.
    pub size: ByteSize,
}

/// A PersistentVolumeClaim of the namespace, mounted in the workers of a pool and in the coordinators of its queries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimVolume {
    /// Name of the volume, unique among dataVolumes and sinkVolumes of the pool.
    #[schemars(length(min = 1, max = MAX_VOLUME_NAME), regex(pattern = DNS_LABEL_PATTERN))]
    pub name: String,
    /// Name of the claim. All pods must be able to mount it at once.
    #[schemars(length(min = 1, max = 253), regex(pattern = OBJECT_NAME_PATTERN))]
    pub claim_name: String,
    /// Where it is mounted: an absolute path outside the folders of the image, such as /data, that no other volume of
    /// the pool lies in or contains.
    #[schemars(length(min = 1, max = 256), regex(pattern = MOUNT_PATH_PATTERN))]
    #[x_kube(
        validation = Rule::new(not_reserved()).message("a claim must not be mounted over a folder of the image, /spill or /tmp")
    )]
    pub mount_path: String,
}

/// CEL: a path lies in none of the reserved folders.
fn not_reserved() -> String {
    let paths = RESERVED_PATHS.map(|path| format!("'{path}/'")).join(", ");
    format!("![{paths}].exists(folder, (self + '/').startsWith(folder))")
}

/// CEL over a list: no path lies in another.
pub(super) const APART_RULE: &str =
    "self.all(a, self.all(b, a.name == b.name || !(a.mountPath + '/').startsWith(b.mountPath + '/')))";
/// Message of [`APART_RULE`].
pub(super) const APART_MESSAGE: &str = "no mountPath may equal or lie in another";

/// CEL over a pool: names and paths of data volumes and of sink volumes do not meet.
pub(super) const LISTS_APART_RULE: &str = "!has(self.dataVolumes) || !has(self.sinkVolumes) || \
     self.dataVolumes.all(a, self.sinkVolumes.all(b, a.name != b.name \
     && !(a.mountPath + '/').startsWith(b.mountPath + '/') && !(b.mountPath + '/').startsWith(a.mountPath + '/')))";
/// Message of [`LISTS_APART_RULE`].
pub(super) const LISTS_APART_MESSAGE: &str =
    "a sink volume needs another name than every data volume, and a mountPath apart from theirs";
