//! The commands of docs/quickstart.md for any cluster, as they stand there but for the image.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::harness::{self, output};

/// Before a block whose commands are run here.
const OPENS: &str = "```sh cluster\n";
const IMAGE: &str = "image.repository=localhost/sluice --set image.tag=dev";

fn blocks() -> Result<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/quickstart.md");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let after = text.split(OPENS).skip(1);
    let blocks = after.filter_map(|rest| rest.split("\n```").next());
    Ok(blocks.map(str::to_owned).collect())
}

async fn shell(commands: &str) -> Result<String> {
    output("bash", &["-euo", "pipefail", "-c", commands]).await
}

/// What a run that failed has left.
async fn clear() -> Result<String> {
    shell(
        "helm uninstall sluice --namespace sluice-system --ignore-not-found --wait
         kubectl delete namespace sluice-system --ignore-not-found",
    )
    .await
}

#[test]
fn the_quick_start_does_what_it_says() {
    harness::run("helm-quickstart", |space| async move {
        let (repository, tag) = space.image.rsplit_once(':').context("an image with a tag")?;
        let ours = format!("image.repository={repository} --set image.tag={tag}");
        clear().await?;
        let blocks = blocks()?;
        ensure!(blocks.len() == 5, "{} blocks of {OPENS:?}", blocks.len());
        ensure!(
            blocks[0].contains(IMAGE),
            "the first one names the image: {}",
            blocks[0]
        );
        let mut said = Vec::new();
        for (index, block) in blocks.iter().enumerate() {
            // The first one installs the definitions.
            let mine = (index == 0).then(harness::definitions);
            let mine = match mine {
                Some(mine) => Some(mine.await),
                None => None,
            };
            let done = shell(&block.replace(IMAGE, &ours)).await;
            drop(mine);
            if done.is_err() {
                // The first problem is the one to tell.
                drop(clear().await);
            }
            said.push(done?);
        }
        ensure!(said[1].contains("Succeeded"), "{}", said[1]);
        ensure!(
            said[3].contains("[\"") && said[3].lines().count() > 10,
            "{}",
            said[3]
        );
        Ok(())
    });
}
