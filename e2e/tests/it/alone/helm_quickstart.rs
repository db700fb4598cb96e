//! The commands of docs/quickstart.md for any cluster, with Helm and without, as they stand there but for the image.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::answers;
use crate::harness::{self, Query, Space, output, rows, sample};

const IMAGE: &str = "image.repository=localhost/sluice --set image.tag=dev";
/// The namespace that the page names.
const NAMESPACE: &str = "sluice-system";
/// The image of manifests/install.yaml.
const PLAIN_IMAGE: &str = "localhost/sluice:dev";

fn page() -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/quickstart.md");
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The blocks of commands of one kind: the word after `sh`.
fn blocks(kind: &str) -> Result<Vec<String>> {
    let text = page()?;
    let opens = format!("```sh {kind}\n");
    let blocks = text.split(&opens).skip(1);
    let blocks = blocks.filter_map(|rest| rest.split("\n```").next());
    Ok(blocks.map(str::to_owned).collect())
}

/// Every block of the page is run by a test, or by `.ci/readme.py` as the README has it too. Needs no cluster.
#[test]
fn no_block_is_left_out() -> Result<()> {
    let page = page()?;
    let is_fence = |line: &&str| {
        ["```", "~~~"]
            .iter()
            .any(|fence| line.trim_start().starts_with(fence))
    };
    let opened: Vec<_> = page.lines().filter(is_fence).step_by(2).collect();
    for fence in &opened {
        let known = ["sh", "console", "sh cluster", "sh end", "sh manifests"];
        let info = fence.strip_prefix("```");
        ensure!(
            info.is_some_and(|info| known.contains(&info)),
            "nothing runs a block that starts with {fence}"
        );
    }
    // The one for kind, of which `kind.rs` takes the first.
    let shown = opened.iter().filter(|fence| **fence == "```console").count();
    ensure!(shown == 1, "{shown} blocks of `console`");
    Ok(())
}

async fn shell(commands: &str) -> Result<String> {
    output("bash", &["-euo", "pipefail", "-c", commands]).await
}

/// What a run that failed has left.
async fn remove_all() -> Result<String> {
    shell(
        "helm uninstall sluice --namespace sluice-system --ignore-not-found --wait
         kubectl delete -f manifests/install.yaml --ignore-not-found",
    )
    .await
}

// Both use the namespace that the page names, and the second operator serves all of the others too.
#[test]
fn the_quick_start_does_what_it_says() {
    harness::run_alone("helm-quickstart", |space| async move {
        let (repository, tag) = space.image.rsplit_once(':').context("an image with a tag")?;
        let ours = format!("image.repository={repository} --set image.tag={tag}");
        space.track_namespace(NAMESPACE);
        remove_all().await?;
        let blocks = blocks("cluster")?;
        ensure!(blocks.len() == 5, "{} blocks", blocks.len());
        ensure!(
            blocks[0].contains(IMAGE),
            "the first one names the image: {}",
            blocks[0]
        );
        let mut said = Vec::new();
        for block in blocks {
            let done = shell(&block.replace(IMAGE, &ours)).await;
            if done.is_err() {
                // The first problem is the one to tell.
                drop(harness::keep(&space).await);
                drop(remove_all().await);
            }
            said.push(done?);
        }
        ensure!(said[1].contains("Succeeded"), "{}", said[1]);
        ensure!(
            said[3].contains("[\"") && said[3].lines().count() > 10,
            "{}",
            said[3]
        );
        remove_definitions(&space).await
    });
}

/// The block that removes the last trace; other tests need the definitions again.
async fn remove_definitions(space: &Space) -> Result<()> {
    let end = blocks("end")?;
    let [end] = end.as_slice() else {
        bail!("{} blocks", end.len());
    };
    let _mine = harness::lock_definitions().await;
    let taken = shell(end).await;
    let left = shell("kubectl get crd -o name").await;
    harness::apply_crds(&space.client).await?;
    taken?;
    let left = left?;
    ensure!(!left.contains("sluice.dev"), "{left}");
    Ok(())
}

#[test]
fn the_manifests_do_without_helm() {
    harness::run_alone("manifests-install", |space| async move {
        space.track_namespace(NAMESPACE);
        remove_all().await?;
        let blocks = blocks("manifests")?;
        let [install, remove] = blocks.as_slice() else {
            bail!("{} blocks", blocks.len());
        };
        let apply = "-f manifests/install.yaml";
        ensure!(install.contains(apply), "{install}");
        // The image under the name that it has here.
        let ours = format!(
            "-f <(sed 's#{PLAIN_IMAGE}#{}#' manifests/install.yaml)",
            space.image
        );
        let installed = shell(&install.replace(apply, &ours)).await;
        let outcome = match installed {
            Ok(_) => run_sample(&space).await,
            Err(problem) => Err(problem),
        };
        if outcome.is_err() {
            drop(harness::keep(&space).await);
        }
        let removed = shell(remove).await;
        outcome?;
        removed?;
        Ok(())
    });
}

/// The operator serves every namespace, that of the test too.
async fn run_sample(space: &Space) -> Result<()> {
    let query = Query::submit(space, sample("tpch-pricing-summary.yaml")?).await?;
    assert_eq!(
        rows(&query.wait_until_succeeded().await?)?,
        answers::pricing_summary()
    );
    Ok(())
}
