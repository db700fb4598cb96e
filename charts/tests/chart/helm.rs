//! Runs helm on the chart.

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde_json::{Value, json};

/// Namespace and name of the release, as manifests/install.yaml has them.
pub const NAMESPACE: &str = "sluice-system";
pub const RELEASE: &str = "sluice";
/// The Secret that has the key, unless a test says otherwise: without a cluster the chart makes none.
pub const KEY: &str = "sluice-signing-key";
/// The version of the cluster of e2e/.
const KUBERNETES: &str = "v1.34.4";

/// A way to render the chart.
pub struct Helm {
    program: PathBuf,
    /// Helm's own folders, so that nothing of the user's configuration takes part.
    home: tempfile::TempDir,
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The chart's folder.
pub fn chart() -> PathBuf {
    root().join("charts/sluice")
}

/// Runs `test` with helm, or says that there is none.
pub fn run(test: &str, body: impl FnOnce(&Helm)) {
    let Some(program) = program() else {
        let why = "no helm 4 on the PATH or in the cluster's cache (e2e/cluster/build --with-helm)";
        let required = env::var("SLUICE_E2E_REQUIRED").is_ok_and(|value| value == "1");
        assert!(
            !required,
            "{test}: {why}, and SLUICE_E2E_REQUIRED forbids to skip"
        );
        // To the stream itself: what goes through the macros is shown for failed tests alone.
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
        return;
    };
    let home = tempfile::tempdir().unwrap();
    body(&Helm { program, home });
}

fn program() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cache = env::var_os("SLUICE_CLUSTER_BIN").map(PathBuf::from).or_else(|| {
        let home = env::var_os("HOME")?;
        Some(Path::new(&home).join(".cache/sluice-cluster/bin"))
    });
    let mut folders = env::split_paths(&path).chain(cache);
    folders.find_map(|folder| Some(folder.join("helm")).filter(|file| is_helm_4(file)))
}

/// Messages and layout of what helm prints change with its major version.
fn is_helm_4(program: &Path) -> bool {
    let version = Command::new(program).args(["version", "--short"]).output();
    version.is_ok_and(|output| output.stdout.starts_with(b"v4."))
}

impl Helm {
    /// What a command prints, or what it complains of.
    pub fn output(&self, args: &[&str], values: &Value) -> Result<String, String> {
        let file = self.home.path().join("values.json");
        let values = merged(json!({"signingKey": {"existingSecret": KEY}}), values);
        std::fs::write(&file, values.to_string()).unwrap();
        let output = Command::new(&self.program)
            .args(args)
            .arg("--values")
            .arg(&file)
            .env("HELM_CACHE_HOME", self.home.path())
            .env("HELM_CONFIG_HOME", self.home.path())
            .env("HELM_DATA_HOME", self.home.path())
            // A cluster that answers nothing: these tests must not reach one.
            .env("KUBECONFIG", self.home.path().join("none"))
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if output.status.success() {
            Ok(text(output.stdout))
        } else {
            Err(text(output.stderr))
        }
    }

    /// The text of all objects with these values over the defaults, the jobs around the release included.
    pub fn try_render(&self, values: &Value, more: &[&str]) -> Result<String, String> {
        let chart = chart();
        let chart = chart.to_str().unwrap();
        let mut args = vec!["template", RELEASE, chart, "--namespace", NAMESPACE];
        args.extend(["--kube-version", KUBERNETES]);
        args.extend(more);
        self.output(&args, values)
    }

    /// As [`Helm::try_render`] of values that are good.
    pub fn render(&self, values: &Value) -> String {
        self.try_render(values, &[])
            .unwrap_or_else(|problem| panic!("{values}: {problem}"))
    }

    /// The objects with these values.
    pub fn objects(&self, values: &Value) -> Vec<Value> {
        documents(&self.render(values))
    }
}

/// The documents of a YAML text.
pub fn documents(text: &str) -> Vec<Value> {
    let documents = serde_yaml::Deserializer::from_str(text);
    let values = documents.map(|document| Value::deserialize(document).unwrap());
    values.filter(|value| !value.is_null()).collect()
}

/// Values in which every switch is on.
pub fn everything() -> Value {
    json!({
        "metrics": {"serviceMonitor": {"enabled": true}},
        "workerPool": {"create": true},
    })
}

/// `over` on top of `base`, as Helm merges values.
pub fn merged(mut base: Value, over: &Value) -> Value {
    if let (Value::Object(base), Value::Object(over)) = (&mut base, over) {
        for (name, value) in over {
            let under = base.remove(name).unwrap_or_default();
            base.insert(name.clone(), merged(under, value));
        }
        return Value::Object(base.clone());
    }
    over.clone()
}

/// The value at a path such as `a.b`, as nested objects.
pub fn nested(path: &str, value: Value) -> Value {
    path.rsplit('.').fold(value, |inner, name| json!({ name: inner }))
}
