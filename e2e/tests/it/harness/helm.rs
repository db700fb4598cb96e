//! Helm and kubectl, as people type them. `e2e/cluster/in` has both on the PATH.

use std::path::Path;
use std::process::Stdio;
use std::sync::LazyLock;

use anyhow::{Context, Result, bail};
use tokio::process::Command;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::crds::apply_crds;
use super::space::Space;

/// Where the commands run, so that they can name files of the repository.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// A release that is not ready by then will not be.
const TIMEOUT: &str = "180s";

/// The definitions belong to the whole cluster. A test that changes them excludes all that use them as they are.
static DEFINITIONS: LazyLock<RwLock<()>> = LazyLock::new(RwLock::default);

/// No other test changes the definitions while the guard lives. Others may hold one too, and may apply the definitions of
/// the repository, which changes nothing. A test that takes a second guard can wait for itself.
pub async fn share_definitions() -> RwLockReadGuard<'static, ()> {
    DEFINITIONS.read().await
}

/// No other test uses, installs or changes the definitions while the guard lives.
pub async fn lock_definitions() -> RwLockWriteGuard<'static, ()> {
    DEFINITIONS.write().await
}

/// A release of the chart that serves its namespace alone.
#[derive(Clone)]
pub struct Release {
    space: Space,
    namespace: String,
    name: String,
}

impl Release {
    /// A release of this name, not installed yet.
    pub fn new(space: &Space, name: &str) -> Self {
        Self {
            space: space.clone(),
            namespace: space.namespace.clone(),
            name: name.to_owned(),
        }
    }

    /// The same in another namespace.
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            ..self.clone()
        }
    }

    /// Installs it, with these values over those of a test, and waits until it is ready.
    ///
    /// # Errors
    ///
    /// Helm's.
    pub async fn install(&self, values: &[&str]) -> Result<String> {
        let _same = share_definitions().await;
        self.chart("install", values).await
    }

    /// Upgrades it as docs/operations.md says: the values given before are kept, all others are the new chart's. The
    /// caller shares or locks the definitions.
    ///
    /// # Errors
    ///
    /// Helm's.
    pub async fn upgrade(&self, values: &[&str]) -> Result<String> {
        self.chart("upgrade", &[&["--reset-then-reuse-values"], values].concat())
            .await
    }

    async fn chart(&self, verb: &str, more: &[&str]) -> Result<String> {
        let (repository, tag) = self.space.image.rsplit_once(':').context("an image with a tag")?;
        let (repository, tag) = (
            format!("image.repository={repository}"),
            format!("image.tag={tag}"),
        );
        let mut args = vec![verb, &self.name, "charts/sluice", "--wait", "--timeout", TIMEOUT];
        if verb == "install" {
            args.extend(["--set", "scope=Namespaced", "--set", &repository, "--set", &tag]);
        }
        args.extend(more);
        self.helm(&args).await
    }

    /// Runs helm in the namespace of the release.
    ///
    /// # Errors
    ///
    /// What it said.
    pub async fn helm(&self, args: &[&str]) -> Result<String> {
        let namespace = ["--namespace", &self.namespace];
        output("helm", &[args, &namespace].concat()).await
    }

    /// Its test: a query runs and has the right rows. What the job's log says.
    ///
    /// # Errors
    ///
    /// Helm's.
    pub async fn test(&self) -> Result<String> {
        self.helm(&["test", &self.name, "--timeout", TIMEOUT]).await
    }

    /// Uninstalls it.
    ///
    /// # Errors
    ///
    /// Helm's.
    pub async fn uninstall(&self) -> Result<String> {
        self.helm(&["uninstall", &self.name, "--wait", "--timeout", TIMEOUT])
            .await
    }
}

/// Runs `body`, which may change the definitions, and makes them those of the repository again however it ends. It tells
/// problems by errors: a panic would leave them as they are.
///
/// # Errors
///
/// Those of `body`; or the definitions cannot be restored.
pub async fn restoring_definitions<T>(space: &Space, body: impl Future<Output = Result<T>>) -> Result<T> {
    let _mine = lock_definitions().await;
    let outcome = body.await;
    let restored = apply_crds(&space.client).await;
    let outcome = outcome?;
    restored.context("the definitions are not restored")?;
    Ok(outcome)
}

/// Runs a program at the root of the repository; what it printed.
///
/// # Errors
///
/// It is not there, or it failed: what it said.
pub async fn output(program: &str, args: &[&str]) -> Result<String> {
    // Helm's own folders, so that nothing of the user's configuration takes part.
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("helm");
    let done = Command::new(program)
        .args(args)
        .current_dir(Path::new(ROOT))
        .env("HELM_CACHE_HOME", &home)
        .env("HELM_CONFIG_HOME", &home)
        .env("HELM_DATA_HOME", &home)
        .stdin(Stdio::null())
        // A test that takes too long is dropped, and takes its children along.
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("{program} (e2e/cluster/build --with-helm)"))?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    if !done.status.success() {
        let problem = String::from_utf8_lossy(&done.stderr);
        bail!("{program} {}: {problem}{text}", args.join(" "));
    }
    Ok(text)
}
