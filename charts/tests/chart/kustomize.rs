//! The kustomize base: one entry of `images:` sets the image of everything.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::helm::{documents, root};

fn kubectl() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cache = env::var_os("SLUICE_CLUSTER_BIN").map(PathBuf::from).or_else(|| {
        let home = env::var_os("HOME")?;
        Some(Path::new(&home).join(".cache/sluice-cluster/bin"))
    });
    let mut folders = env::split_paths(&path).chain(cache);
    folders.find_map(|folder| Some(folder.join("kubectl")).filter(|file| file.is_file()))
}

/// The objects of an overlay over the base.
fn built(kubectl: &Path, overlay: &Value) -> Vec<Value> {
    // Kustomize takes bases by relative paths alone.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let up: PathBuf = folder.path().components().skip(1).map(|_| "..").collect();
    let base = root().join("manifests").canonicalize().unwrap();
    let mut overlay = overlay.clone();
    overlay["resources"] = json!([up.join(base.strip_prefix("/").unwrap())]);
    std::fs::write(folder.path().join("kustomization.yaml"), overlay.to_string()).unwrap();
    let output = Command::new(kubectl)
        .arg("kustomize")
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    documents(&String::from_utf8(output.stdout).unwrap())
}

#[test]
fn one_image_of_an_overlay_is_that_of_the_operator_and_with_it_of_workers() {
    let Some(kubectl) = kubectl() else {
        let required = env::var("SLUICE_E2E_REQUIRED").is_ok_and(|value| value == "1");
        assert!(!required, "no kubectl on the PATH or in the cluster's cache");
        eprintln!("SKIPPED: no kubectl on the PATH or in the cluster's cache");
        return;
    };
    let images =
        json!([{"name": "localhost/sluice", "newName": "registry.example/sluice", "newTag": "1.2.3"}]);
    let objects = built(&kubectl, &json!({"images": images}));
    let of_kind =
        |kind: &str| -> Vec<&Value> { objects.iter().filter(|object| object["kind"] == kind).collect() };
    assert_eq!(of_kind("CustomResourceDefinition").len(), 2);
    let deployment = of_kind("Deployment")[0];
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    // By this name the operator finds its container.
    assert_eq!(container["name"], "operator");
    assert_eq!(container["image"], "registry.example/sluice:1.2.3");
    // Nothing else names an image: the operator reads that of its pod.
    let args = container["args"].to_string();
    assert!(!args.contains("--image"), "{args}");
    let env = container["env"].to_string();
    assert!(!env.contains("SLUICE_IMAGE") && env.contains("POD_NAME"), "{env}");
    let text = deployment.to_string();
    assert!(!text.contains("localhost/sluice"), "{text}");
}
