//! Whether tasks run near their data, as status reports it.

use sluice_crds::shuffle_query::status::{ShuffleQueryStatus, StageLocality};

use super::program::{Folder, Worker};
use super::query::{BY_PART, query};

/// The status of a query over rows on `node-1` and in `zone-a`, run by `worker`.
fn status_on(worker: &Worker, folder: &Folder) -> ShuffleQueryStatus {
    let table = "{name: lineitem, tpch: {scaleFactor: 0.01}, locality: [{node: node-1}, {zone: zone-a}]}";
    let yaml = query(BY_PART, &[table], &["shuffle: {partitions: 3}"]);
    let path = folder.at("status.json");
    let arguments = ["--workers", &worker.address, "--status", &path.to_string_lossy()];
    folder.run(&yaml, &arguments).expect(0, &[]);
    let text = std::fs::read_to_string(path).expect("it was written");
    serde_json::from_str(&text).expect("it is a status")
}

#[test]
fn the_status_tells_how_near_to_their_data_tasks_ran() {
    let folder = Folder::new();
    let zone = folder.write("zone", "zone-a\n");
    let zone = zone.to_string_lossy();
    // Counts of tasks with a preferred location: same node, same zone, elsewhere. A worker without a known location
    // counts nowhere.
    let cases: [(&[&str], _, [u32; 3]); 4] = [
        (&["--node", "node-1"], Some("100%"), [1, 0, 0]),
        (
            &["--node", "node-2", "--zone-file", &zone],
            Some("100%"),
            [0, 1, 0],
        ),
        (&["--node", "node-2"], Some("0%"), [0, 0, 1]),
        (&[], None, [0, 0, 0]),
    ];
    for (place, local, [node, zone, no_worker_near]) in cases {
        let worker = Worker::start_with("127.0.0.1:0", "512MiB", place);
        let status = status_on(&worker, &folder);
        assert_eq!(status.local_attempts.as_deref(), local, "{place:?}");
        let (scan, others) = status.stages.split_first().expect("it has stages");
        let tasks = scan.tasks_planned;
        let wanted = local.map(|_| StageLocality {
            asked: tasks,
            node: node * tasks,
            zone: zone * tasks,
            worker: 0,
            no_worker_near: no_worker_near * tasks,
            near_workers_busy: 0,
            // Where the place of the rows is not declared, and there is a choice.
            same_files: 0,
        });
        assert_eq!(scan.locality, wanted, "{place:?}");
        assert!(others.iter().all(|stage| stage.locality.is_none()), "{others:?}");
    }
}
