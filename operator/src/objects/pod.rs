//! What the pods of workers and coordinators have in common.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, EmptyDirVolumeSource, EnvFromSource, EnvVar, EnvVarSource,
    GRPCAction, LocalObjectReference, ObjectFieldSelector, PersistentVolumeClaimVolumeSource,
    PodSecurityContext, Probe, SeccompProfile, SecretEnvSource, SecurityContext, Volume, VolumeMount,
};
use sluice_crds::WorkerPoolSpec;
use sluice_crds::process;
use sluice_crds::worker_pool::{ClaimVolume, PodMetadata};
use sluice_proto::LIVENESS_SERVICE;
use sluice_proto::log::LogFormat;

use super::names;
use super::quantity::quantity;

/// The program in the image.
pub const PROGRAM: &str = "/usr/bin/sluice";
/// User and group that the processes run as.
const NOBODY: i64 = 65_532;
/// Where the public key is mounted.
pub const KEY_FOLDER: &str = "/etc/sluice/keys";
/// The public key in its ConfigMap, and in [`KEY_FOLDER`].
pub const KEY_FILE: &str = "public.pem";
/// Most bytes in /tmp. Spilled data has volumes of its own.
pub const TMP_BYTES: u64 = 64 << 20;

/// Volumes of a pod and their mounts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Volumes {
    pub volumes: Vec<Volume>,
    pub mounts: Vec<VolumeMount>,
}

impl Volumes {
    pub fn add(&mut self, volume: Volume, mount_path: impl Into<String>, read_only: bool) {
        self.mounts.push(VolumeMount {
            name: volume.name.clone(),
            mount_path: mount_path.into(),
            read_only: read_only.then_some(true),
            ..VolumeMount::default()
        });
        self.volumes.push(volume);
    }

    /// The volumes of every pod of a pool and of its queries: /tmp, the pool's claims, and the public key if tokens are checked.
    pub fn common(pool: &str, spec: &WorkerPoolSpec, with_key: bool) -> Self {
        let mut all = Self::default();
        all.add(empty_dir("tmp", TMP_BYTES), "/tmp", false);
        if with_key {
            all.add(config_map("keys", names::key(pool)), KEY_FOLDER, true);
        }
        let data = spec.data_volumes.iter().map(|claim| ("data", claim, true));
        let sinks = spec.sink_volumes.iter().map(|claim| ("sink", claim, false));
        for (kind, claim, read_only) in data.chain(sinks) {
            all.add(claim_volume(kind, claim, read_only), &claim.mount_path, read_only);
        }
        all
    }
}

fn claim_volume(kind: &str, claim: &ClaimVolume, read_only: bool) -> Volume {
    Volume {
        name: format!("{kind}-{}", claim.name),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.claim_name.clone(),
            read_only: read_only.then_some(true),
        }),
        ..Volume::default()
    }
}

/// Space on the disk of the node. The kubelet evicts a pod that uses more than `bytes`.
pub fn empty_dir(name: &str, bytes: u64) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: None,
            size_limit: Some(quantity(bytes)),
        }),
        ..Volume::default()
    }
}

/// The keys of a ConfigMap as files.
pub fn config_map(name: &str, config_map: String) -> Volume {
    Volume {
        name: name.to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: config_map,
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// The security context of a pod, as the Pod Security Standard `restricted` requires it.
pub fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(NOBODY),
        run_as_group: Some(NOBODY),
        fs_group: Some(NOBODY),
        // Without it the kubelet changes the group of the whole volume before every start.
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            localhost_profile: None,
        }),
        ..PodSecurityContext::default()
    }
}

/// The security context of a container, as the Pod Security Standard `restricted` requires it.
pub fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            add: None,
        }),
        ..SecurityContext::default()
    }
}

pub fn env(name: &str, value: impl Into<String>) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value.into()),
        value_from: None,
    }
}

/// The log format of a process, if it is not the default. Existing pods then stay as they are.
pub fn log_format(format: LogFormat) -> Vec<EnvVar> {
    match format {
        LogFormat::Text => Vec::new(),
        LogFormat::Json => vec![env(process::env::LOG_FORMAT, format.to_string())],
    }
}

/// An environment variable that is a field of the pod.
pub fn env_field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: Some("v1".to_owned()),
                field_path: path.to_owned(),
            }),
            ..EnvVarSource::default()
        }),
    }
}

/// The credentials of a pool as environment variables. Only the kubelet reads the Secret.
pub fn credentials(spec: &WorkerPoolSpec) -> Option<Vec<EnvFromSource>> {
    let credentials = spec.credentials.as_ref()?;
    Some(vec![EnvFromSource {
        secret_ref: Some(SecretEnvSource {
            name: credentials.secret_name.clone(),
            optional: None,
        }),
        ..EnvFromSource::default()
    }])
}

/// The image of a pool's workers and of its queries' coordinators; `default` where the pool names none.
pub fn image<'a>(spec: &'a WorkerPoolSpec, default: &'a str) -> &'a str {
    spec.image.as_deref().unwrap_or(default)
}

/// The Secrets that a pool's images are pulled with.
pub fn pull_secrets(spec: &WorkerPoolSpec) -> Option<Vec<LocalObjectReference>> {
    let names = spec.image_pull_secrets.iter();
    let secrets: Vec<_> = names
        .map(|secret| LocalObjectReference {
            name: secret.name.clone(),
        })
        .collect();
    (!secrets.is_empty()).then_some(secrets)
}

/// `ours` with the user's labels.
pub fn with_user_labels(
    ours: BTreeMap<String, String>,
    metadata: Option<&PodMetadata>,
) -> BTreeMap<String, String> {
    let mut labels = metadata
        .map(|metadata| metadata.labels.clone())
        .unwrap_or_default();
    labels.extend(ours);
    labels
}

/// Startup, readiness and liveness probes of a container.
#[derive(Clone, Debug, PartialEq)]
pub struct Probes {
    pub startup: Probe,
    pub readiness: Probe,
    pub liveness: Probe,
}

/// Probes of the gRPC health service on `port`.
pub fn probes(port: u16) -> Probes {
    let probe = |service: Option<&str>, period_seconds, failure_threshold| Probe {
        grpc: Some(GRPCAction {
            port: i32::from(port),
            service: service.map(str::to_owned),
        }),
        period_seconds: Some(period_seconds),
        failure_threshold: Some(failure_threshold),
        timeout_seconds: Some(5),
        ..Probe::default()
    };
    Probes {
        startup: probe(None, 1, 300),
        readiness: probe(None, 5, 2),
        // One minute without an answer: restarts would make an overloaded node worse. A draining worker is alive but not ready.
        liveness: probe(Some(LIVENESS_SERVICE), 10, 6),
    }
}
