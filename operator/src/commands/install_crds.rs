//! Installs the custom resource definitions of this release. Several releases of Sluice share them, so an older one never
//! replaces a newer one, and none is deleted here.

use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use semver::Version;
use serde_json::json;
use sluice_crds::yaml::{VERSION_ANNOTATION, shuffle_query_crd, worker_pool_crd};

/// Not the operator's manager: it does not own the definitions.
const FIELD_MANAGER: &str = "sluice-crds";
/// How long the API server may take to serve an accepted definition.
const ESTABLISH_TIMEOUT: Duration = Duration::from_secs(60);
/// Most attempts when a definition changes at the same time.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Ours is applied: there is none in the cluster, or one that is not newer or has no version.
    Apply,
    /// The definition in the cluster is of this newer release and stays.
    Keep(Version),
}

/// Why a definition in the cluster cannot be compared with ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "its annotation {VERSION_ANNOTATION} is `{found}`, which is no release such as 0.1.0: correct or remove it"
)]
pub struct NoRelease {
    found: String,
}

/// Whether the definition of release `ours` replaces one with the annotation `installed`, by the precedence of Semantic
/// Versioning 2.0.0. The same release is applied again, which reverts changes of others.
///
/// # Errors
/// The annotation is no version, so it is unknown what would be replaced.
pub fn decide(installed: Option<&str>, ours: &Version) -> Result<Decision, NoRelease> {
    let Some(found) = installed else {
        return Ok(Decision::Apply);
    };
    let installed = Version::parse(found).map_err(|_| NoRelease {
        found: found.to_owned(),
    })?;
    // Build metadata has no order.
    if installed.cmp_precedence(ours).is_gt() {
        return Ok(Decision::Keep(installed));
    }
    Ok(Decision::Apply)
}

/// Applies the definitions of this program.
///
/// # Errors
/// As [`install`].
pub async fn run(client: &Client) -> anyhow::Result<()> {
    install(client, &[shuffle_query_crd(), worker_pool_crd()]).await
}

/// Applies each definition unless a newer one is there, and waits until the API server serves it.
///
/// # Errors
/// One cannot be compared, is refused, or is not served in time.
pub async fn install(client: &Client, crds: &[CustomResourceDefinition]) -> anyhow::Result<()> {
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    for crd in crds {
        let name = crd.name_any();
        install_one(&api, &name, crd)
            .await
            .with_context(|| format!("CustomResourceDefinition {name}"))?;
    }
    Ok(())
}

async fn install_one(
    api: &Api<CustomResourceDefinition>,
    name: &str,
    crd: &CustomResourceDefinition,
) -> anyhow::Result<()> {
    let mut tries = 1;
    while let Err(problem) = apply_once(api, name, crd).await {
        let changed =
            matches!(problem.downcast_ref(), Some(kube::Error::Api(status)) if status.is_conflict());
        if !changed || tries == TRIES {
            return Err(problem);
        }
        tries += 1;
        tokio::time::sleep(PAUSE).await;
    }
    wait_until_served(api, name).await
}

/// Compares and applies. A definition that changes in between is a conflict (409) and is compared again, since a newer release
/// may have installed it. Only the very first definition can be replaced unseen.
async fn apply_once(
    api: &Api<CustomResourceDefinition>,
    name: &str,
    crd: &CustomResourceDefinition,
) -> anyhow::Result<()> {
    let release = |crd: &CustomResourceDefinition| crd.annotations().get(VERSION_ANNOTATION).cloned();
    let ours = release(crd).context("it has no release")?;
    let ours = Version::parse(&ours).context(ours)?;
    let found = api.get_opt(name).await?;
    let version = found.as_ref().and_then(ResourceExt::resource_version);
    if let Decision::Keep(theirs) = decide(found.as_ref().and_then(release).as_deref(), &ours)? {
        tracing::warn!(name, %theirs, %ours, "a newer definition is in the cluster and stays");
        return Ok(());
    }
    let mut body = serde_json::to_value(crd)?;
    body["apiVersion"] = json!("apiextensions.k8s.io/v1");
    body["kind"] = json!("CustomResourceDefinition");
    if let Some(version) = version {
        body["metadata"]["resourceVersion"] = json!(version);
    }
    let how = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(name, &how, &Patch::Apply(&body)).await?;
    tracing::info!(name, %ours, "the definition is applied");
    Ok(())
}

async fn wait_until_served(api: &Api<CustomResourceDefinition>, name: &str) -> anyhow::Result<()> {
    let served = async {
        loop {
            let crd = api.get(name).await?;
            for (type_, status) in [("NonStructuralSchema", "True"), ("NamesAccepted", "False")] {
                if let Some(fault) = condition(&crd, type_, status) {
                    bail!("the API server finds a fault in it: {fault}");
                }
            }
            if condition(&crd, "Established", "True").is_some() {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    match tokio::time::timeout(ESTABLISH_TIMEOUT, served).await {
        Ok(outcome) => outcome,
        Err(_) => bail!("not served after {} s", ESTABLISH_TIMEOUT.as_secs()),
    }
}

/// The message of a condition, if it has this status.
fn condition(crd: &CustomResourceDefinition, type_: &str, status: &str) -> Option<String> {
    let conditions = crd.status.as_ref()?.conditions.as_ref()?;
    let found = conditions
        .iter()
        .find(|one| one.type_ == type_ && one.status == status)?;
    Some(found.message.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(installed: Option<&str>) -> Decision {
        decide(installed, &Version::new(1, 10, 0)).unwrap()
    }

    #[test]
    fn absent_older_and_equal_ones_are_overwritten() {
        for installed in [
            None,
            Some("0.9.0"),
            Some("1.9.9"),
            Some("1.10.0-rc.2"),
            Some("1.10.0"),
            Some("1.10.0+b"),
        ] {
            assert_eq!(decided(installed), Decision::Apply, "{installed:?}");
        }
    }

    #[test]
    fn newer_ones_stay() {
        for installed in ["1.10.1", "1.11.0-rc.1", "2.0.0"] {
            assert_eq!(
                decided(Some(installed)),
                Decision::Keep(Version::parse(installed).unwrap())
            );
        }
    }

    #[test]
    fn what_is_no_release_is_not_overwritten() {
        let problem = decide(Some("latest"), &Version::new(1, 0, 0)).unwrap_err();
        assert!(
            problem.to_string().contains("sluice.dev/version is `latest`"),
            "{problem}"
        );
    }

    #[test]
    fn our_definitions_say_their_release() {
        for crd in [shuffle_query_crd(), worker_pool_crd()] {
            let release = crd.annotations().get(VERSION_ANNOTATION).unwrap();
            assert_eq!(release, env!("CARGO_PKG_VERSION"));
            Version::parse(release).unwrap();
        }
    }
}
