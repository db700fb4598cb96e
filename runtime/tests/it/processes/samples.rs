//! The samples are what people copy from: the command line finds nothing wrong with them.

use std::path::{Path, PathBuf};

use super::program::{run, sluice};

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
    // The other sample of that folder has a ConfigMap, of which the command line knows nothing.
    all.push(folder().join("cluster/volumes.yaml"));
    for path in all {
        let mut command = sluice();
        command.arg("validate").arg(&path);
        let name = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .expect("a name of words");
        let ended = run(command).expect(0, &[]);
        assert_eq!(ended.stdout, format!("ShuffleQuery {name} is valid\n"));
    }
}
