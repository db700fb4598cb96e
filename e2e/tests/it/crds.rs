//! The API server judges objects as the table of `crds/cases` says it does, so that the CEL rules and schemas there
//! and the checks in Rust are held against the same objects.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use kube::api::PostParams;
use kube::core::Request;
use kube::discovery::{ApiResource, Discovery};
use kube::{Client, Error};
use serde::Deserialize;
use sluice_crds::cases::{Case, cases};

use crate::harness::{self, Space, wait_until};

#[test]
fn the_api_server_judges_every_case_as_the_table_says() {
    harness::run("crds-cases", |space| async move {
        // Nobody may change them while the cases are judged.
        let _same = harness::share_definitions().await;
        harness::apply_crds(&space.client).await?;
        let kinds = Kinds::of(&space.client).await?;
        let cases = cases().map_err(|problem| anyhow!(problem))?;
        let (mut verdicts, mut mismatches) = (String::new(), Vec::new());
        for case in &cases {
            let verdict = judge(&space, &kinds, case)
                .await
                .with_context(|| case.title.clone())?;
            writeln!(
                verdicts,
                "{}: {}",
                case.title,
                verdict.as_ref().map_or_else(String::as_str, |()| "good")
            )?;
            if verdict.is_ok() != case.server_accepts {
                mismatches.push(mismatch(case, &verdict));
            }
        }
        std::fs::create_dir_all(&space.evidence)?;
        std::fs::write(space.evidence.join("verdicts.txt"), verdicts)?;
        if mismatches.is_empty() {
            return Ok(());
        }
        bail!(
            "{} of {} cases:\n{}",
            mismatches.len(),
            cases.len(),
            mismatches.join("\n")
        )
    });
}

fn mismatch(case: &Case, verdict: &Result<(), String>) -> String {
    match verdict {
        Ok(()) => format!(
            "- {}: the table says refused, the API server takes it",
            case.title
        ),
        Err(reason) => format!("- {}: the table says good, the API server: {reason}", case.title),
    }
}

/// Creates the object in a dry run. The inner error is the API server's refusal, the outer one is any other failure.
async fn judge(space: &Space, kinds: &Kinds, case: &Case) -> Result<Result<(), String>> {
    let Some(resource) = kinds.resource(&case.yaml)? else {
        return Ok(Err("it serves no such kind".to_owned()));
    };
    // The text of the case itself is sent: parsing it here would hide what the server's decoder finds.
    let path = format!(
        "/apis/{}/namespaces/{}/{}",
        resource.api_version, space.namespace, resource.plural
    );
    let mut request = Request::new(path.clone())
        .create(&PostParams::default(), case.yaml.clone().into_bytes())
        .context("the request")?;
    *request.uri_mut() = format!("{path}?dryRun=All&fieldValidation=Strict").parse()?;
    request
        .headers_mut()
        .insert("content-type", "application/yaml".parse()?);
    match space.client.request_text(request).await {
        Ok(_) => Ok(Ok(())),
        Err(Error::Api(status)) if matches!(status.code, 400 | 422) => Ok(Err(status.message)),
        Err(other) => Err(other.into()),
    }
}

/// Longest time between a definition's establishment and its discovery.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(30);

/// What the API server serves of our group.
struct Kinds(Vec<ApiResource>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    api_version: String,
    kind: String,
}

impl Kinds {
    /// Waits for them: discovery tells of a definition a moment after it is established.
    async fn of(client: &Client) -> Result<Self> {
        wait_until("both kinds are served", DISCOVERY_TIMEOUT, || async {
            let discovery = Discovery::new(client.clone()).filter(&[sluice_crds::GROUP]);
            let found = discovery.run().await?;
            let served = found
                .get(sluice_crds::GROUP)
                .map(|group| group.recommended_resources());
            let served = served.unwrap_or_default().into_iter();
            let served = Self(served.map(|(resource, _)| resource).collect());
            let is_served = |kind| served.0.iter().any(|resource| resource.kind == kind);
            Ok(match is_served("ShuffleQuery") && is_served("WorkerPool") {
                true => Ok(served),
                false => Err(format!("{:?}", served.0)),
            })
        })
        .await
    }

    /// Where an object of this text is created; none if its kind or version is not served.
    fn resource(&self, yaml: &str) -> Result<Option<&ApiResource>> {
        let head: Head = serde_yaml::from_str(yaml).context("its apiVersion and kind")?;
        Ok(self
            .0
            .iter()
            .find(|of| of.api_version == head.api_version && of.kind == head.kind))
    }
}
