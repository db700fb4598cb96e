//! The samples, which users copy: `sluice validate` accepts them and `sluice run` runs them.

use std::path::{Path, PathBuf};

use sluice_crds::shuffle_query::status::ShuffleQueryStatus;

use super::program::{Ended, Folder, run, sluice};
use super::query::{plain_csv, query, sorted_rows};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/samples")
}

/// Samples of this folder, in the order of their names.
fn samples(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the samples are there");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut samples: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    samples.sort();
    samples
}

#[test]
fn every_sample_is_valid() {
    let mut all = samples(&folder());
    assert!(all.len() >= 9, "{all:?}");
    // The other sample of that folder has a ConfigMap, which the command line does not know.
    all.push(folder().join("cluster/volumes.yaml"));
    for path in all {
        let mut command = sluice();
        command.arg("validate").arg(&path);
        let ended = run(command).expect(0, &[]);
        assert_eq!(ended.stdout, format!("ShuffleQuery {} is valid\n", name(&path)));
    }
}

/// How the rows of a sample are known to be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    /// Printed, in a total order.
    Printed,
    /// Written to files, in any order.
    Written,
}

/// Every sample that runs without a cluster. Those of the folder `cluster` need one: claims, and a ConfigMap.
const SAMPLES: [(&str, Rows); 9] = [
    ("csv", Rows::Printed),
    ("lifecycle", Rows::Printed),
    ("placement", Rows::Printed),
    ("sink", Rows::Written),
    ("spill", Rows::Printed),
    ("tpch-join", Rows::Printed),
    ("tpch-pricing-summary", Rows::Printed),
    ("worker-pool", Rows::Printed),
    ("workers", Rows::Printed),
];

/// Where the sample with a sink writes: one fixed path of the machine.
const SINK: &str = "/tmp/sluice-samples/orders-by-day";

#[test]
fn every_sample_has_the_rows_of_plain_datafusion() {
    let found = samples(&folder());
    assert_eq!(
        found.iter().map(|path| name(path)).collect::<Vec<_>>(),
        SAMPLES.map(|(name, _)| name),
        "say in SAMPLES how a new one is checked"
    );
    for (path, (_, rows)) in found.iter().zip(SAMPLES) {
        match rows {
            Rows::Printed => prints(path),
            Rows::Written => writes(path),
        }
    }
}

fn name(path: &Path) -> &str {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    stem.expect("a name of words")
}

/// Runs a file as a user does, except for the spill folder. Returns how it ended, and its status.
fn run_sample(path: &Path, folder: &Folder) -> (Ended, ShuffleQueryStatus) {
    let status = folder.at("status.json");
    let mut command = sluice();
    command.arg("run").arg(path).args(["--output", "csv", "--status"]);
    command.arg(&status).arg("--spill-dir").arg(folder.at("spill"));
    let ended = run(command).expect(0, &[]);
    let status = std::fs::read_to_string(status).expect("it was written");
    (ended, serde_json::from_str(&status).expect("it is a status"))
}

fn prints(path: &Path) {
    let folder = Folder::new();
    let (ended, status) = run_sample(path, &folder);
    let expected = plain_csv(path);
    assert!(expected.lines().count() > 1, "{}: no rows", path.display());
    assert_eq!(ended.stdout, expected, "{}", path.display());
    // What it is there to show.
    let spilled = status.totals.bytes_spilled > 0;
    assert!(spilled || name(path) != "spill", "{:?}", status.totals);
}

fn writes(path: &Path) {
    let folder = Folder::new();
    let text = std::fs::read_to_string(path).expect("the sample is there");
    let ours = folder.at("written");
    assert_eq!(text.matches(SINK).count(), 1, "{}", path.display());
    let copy = folder.write("sample.yaml", text.replace(SINK, &ours.to_string_lossy()));
    let (ended, status) = run_sample(&copy, &folder);
    assert_eq!(ended.stdout, "");
    let back = query(
        "select * from written",
        &["{name: written, location: written, format: parquet}"],
        &[],
    );
    let (expected, got) = (plain_csv(path), plain_csv(&folder.write("back.yaml", back)));
    let (expected, got) = (sorted_rows(&expected), sorted_rows(&got));
    assert!(expected.len() > 10_000, "{} rows", expected.len());
    assert!(expected == got, "{}: other rows were written", path.display());
    let committed = status.sink.expect("it says what was written");
    assert_eq!(committed.rows, expected.len() as u64);
}
