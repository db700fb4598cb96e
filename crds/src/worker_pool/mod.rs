//! The `WorkerPool` resource: workers that queries share.

mod autoscaling;
mod placement;
mod pods;
mod spec;
mod status;
mod volumes;

pub use autoscaling::AutoscalingSpec;
pub use placement::{AntiAffinity, DataAffinity, LocalityHint, MAX_LOCALITY, PlacementSpec, ZonePolicy};
pub use pods::{
    CoordinatorSpec, CredentialsSpec, EgressPolicy, ImagePullPolicy, ImagePullSecret, PodMetadata,
    RESERVED_KEY_PREFIXES,
};
pub use spec::{
    DEFAULT_SLOTS_PER_WORKER, IMAGE_PATTERN, MAX_CONCURRENT_QUERIES, MAX_DRAIN_TIMEOUT_SECONDS, MAX_IMAGE,
    MAX_REPLICAS, MAX_SLOTS_PER_WORKER, MAX_WORKER_POOL_NAME, MIN_MEMORY, SERVICE_NAME_PATTERN, WorkerPool,
    WorkerPoolSpec,
};
pub use status::{MAX_ZONES, WorkerPoolStatus};
pub use volumes::{
    ClaimVolume, DEFAULT_SPILL_SIZE, DEFAULT_SPILL_VOLUME, EmptyDirVolume, EphemeralVolume,
    MAX_CLAIM_VOLUMES, MAX_SPILL_VOLUMES, MAX_VOLUME_NAME, MOUNT_PATH_PATTERN, RESERVED_PATHS, SpillSpec,
    SpillVolume,
};

#[cfg(test)]
mod tests;
