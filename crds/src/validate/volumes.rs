//! Rules of the volumes of a pool.

use super::Problem;
use crate::units::ByteSize;
use crate::worker_pool::{ClaimVolume, RESERVED_PATHS, SpillSpec, WorkerPoolSpec};

/// Checks that each volume is of one kind and has a size, and that all together hold the limit.
pub(super) fn check_spill(spill: &SpillSpec, path: &str, problems: &mut Vec<Problem>) {
    for (index, volume) in spill.volumes.iter().enumerate() {
        let field = format!("{path}.volumes[{index}]");
        if volume.empty_dir.is_some() == volume.ephemeral.is_some() {
            let problem = "is not of one kind";
            problems.push(Problem::new(field, problem, "set either emptyDir or ephemeral"));
        } else if volume.size() == Some(ByteSize::default()) {
            let below = if volume.empty_dir.is_some() {
                "emptyDir.sizeLimit"
            } else {
                "ephemeral.size"
            };
            problems.push(Problem::new(
                format!("{field}.{below}"),
                "is 0",
                "write a size such as 50GiB",
            ));
        }
    }
    let sizes = spill
        .volumes
        .iter()
        .filter_map(|volume| volume.size().map(ByteSize::bytes));
    let room = ByteSize::from_bytes(sizes.fold(0, u64::saturating_add));
    if !spill.volumes.is_empty() && spill.limit > room {
        problems.push(Problem::new(
            format!("{path}.limit"),
            format!("is {}, more than the {room} of the volumes", spill.limit),
            "write less, or larger volumes",
        ));
    }
}

/// Checks names and mount paths of all claims of a pool.
pub(super) fn check_claims(workers: &WorkerPoolSpec, path: &str, problems: &mut Vec<Problem>) {
    let data = workers.data_volumes.iter().enumerate();
    let sinks = workers.sink_volumes.iter().enumerate();
    let data = data.map(|(index, volume)| (format!("{path}.dataVolumes[{index}]"), volume));
    let sinks = sinks.map(|(index, volume)| (format!("{path}.sinkVolumes[{index}]"), volume));
    let data_count = workers.data_volumes.len();
    let all: Vec<(String, &ClaimVolume)> = data.chain(sinks).collect();
    for (index, (field, volume)) in all.iter().enumerate() {
        if let Some(folder) = RESERVED_PATHS
            .iter()
            .find(|folder| lies_in(&volume.mount_path, folder))
        {
            problems.push(Problem::new(
                format!("{field}.mountPath"),
                format!("lies in {folder}, which the container needs"),
                "write another path, such as /data",
            ));
        }
        let before = all.iter().take(index);
        // The schema has already found equal names within one list.
        let sinks_only = |other: usize| index >= data_count && other < data_count;
        for (other, (_, earlier)) in before.enumerate() {
            if sinks_only(other) && earlier.name == volume.name {
                problems.push(Problem::new(
                    format!("{field}.name"),
                    format!("is the name of dataVolumes[{other}] too"),
                    "use each name once",
                ));
            }
            let nested = lies_in(&volume.mount_path, &earlier.mount_path)
                || lies_in(&earlier.mount_path, &volume.mount_path);
            if nested {
                problems.push(Problem::new(
                    format!("{field}.mountPath"),
                    format!("and {} hide one another", earlier.mount_path),
                    "write paths of which none lies in another",
                ));
            }
        }
    }
}

/// Whether a path is a folder or lies in it.
fn lies_in(path: &str, folder: &str) -> bool {
    let rest = path.strip_prefix(folder);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
