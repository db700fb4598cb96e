//! What every test gets: a client of the cluster, a namespace of its own that goes when the test ends, and, if it
//! failed, everything that was in that namespace under `target/e2e/<test>`.

mod config;
mod crds;
mod deploy;
mod diagnostics;
mod helm;
mod pool;
mod query;
mod space;
mod wait;

use std::any::Any;
use std::fs::File;
use std::future::Future;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use config::{ClusterConfig, Target};
pub use crds::{apply_crds, install_crds};
pub use deploy::{install_operator, kill_operator};
pub use helm::{Release, definitions, output};
pub use pool::Pool;
pub use query::{Query, in_order, query, rows, sample};
pub use space::Space;
pub use wait::until;

/// A test that takes longer hangs, and fails with its diagnostics instead of holding up the whole run.
const LONGEST_TEST: Duration = Duration::from_secs(600);
/// Starts the line of a skipped test, for whoever counts them.
const SKIPPED: &str = "SKIPPED";

/// Runs `body` in a namespace of its own. `test` names the test: lower-case words with dashes, at most 40 characters,
/// as it becomes part of the namespace's name and of the folder of its diagnostics.
///
/// # Panics
///
/// If the test fails, or the cluster cannot be reached, or there is none and the tests are required.
pub fn run<F, Fut>(test: &str, body: F)
where
    F: FnOnce(Space) -> Fut,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    let config = match config::target() {
        Target::Cluster(config) => config,
        Target::Skip(why) => return report_skip(test, &why),
        Target::Refuse(why) => panic!("{test}: {why}"),
    };
    drive(test, config, body);
}

/// The same with a folder that this machine and all nodes of the cluster have; a cluster without one skips the test.
///
/// # Panics
///
/// As [`run`], or if there is no such folder and the tests are required.
pub fn run_with_shared_folder<F, Fut>(test: &str, body: F)
where
    F: FnOnce(Space, PathBuf) -> Fut,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    if let Target::Cluster(config) = config::target() {
        let Some(folder) = config.shared.clone() else {
            let why = "SLUICE_E2E_SHARED names no folder that this machine and all nodes have";
            assert!(!config.required, "{test}: {why}, and the tests are required");
            return report_skip(test, why);
        };
        return drive(test, config, |space| body(space, folder));
    }
    run(test, |space| body(space, PathBuf::new()));
}

fn drive<F, Fut>(test: &str, config: ClusterConfig, body: F)
where
    F: FnOnce(Space) -> Fut,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    let (started, record) = (Instant::now(), config.evidence.join("tests.txt"));
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(in_a_space(test, config, body)));
    note(&record, test, outcome.is_ok(), started.elapsed());
    if let Err(error) = outcome {
        panic!("{test}: {error:#}");
    }
}

/// One line for each test that ran: how it ended, its seconds, its name.
fn note(record: &Path, test: &str, passed: bool, took: Duration) {
    let line = format!(
        "{} {:4} s  {test}\n",
        if passed { "passed" } else { "FAILED" },
        took.as_secs()
    );
    let noted = || {
        record.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        let mut file = File::options().create(true).append(true).open(record)?;
        file.write_all(line.as_bytes())
    };
    if let Err(problem) = noted() {
        eprintln!("{}: {problem}", record.display());
    }
}

/// Written to the stream itself: what goes through the macros is shown for failed tests alone.
fn report_skip(test: &str, why: &str) {
    // A closed standard error leaves nobody to tell.
    let _ = writeln!(std::io::stderr(), "{SKIPPED} {test}: {why}");
}

async fn in_a_space<F, Fut>(test: &str, config: ClusterConfig, body: F) -> Result<()>
where
    F: FnOnce(Space) -> Fut,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    let keep_failed = config.keep_failed;
    let space = Space::create(&config, test).await?;
    // In a task of its own, so that a panic ends the test and not the clean-up.
    let mut running = tokio::spawn(body(space.clone()));
    let outcome = match tokio::time::timeout(LONGEST_TEST, &mut running).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(failure)) => Err(match failure.try_into_panic() {
            Ok(panic) => anyhow!("{}", panic_message(panic.as_ref())),
            Err(failure) => failure.into(),
        }),
        Err(_) => {
            running.abort();
            Err(anyhow!("not done after {} s", LONGEST_TEST.as_secs()))
        }
    };
    match outcome {
        Ok(()) => space
            .remove()
            .await
            .context("the test passed, but its namespace did not go"),
        Err(error) => {
            let kept = diagnostics::keep(&space).await;
            let left = match keep_failed {
                true => format!("namespace {} is kept", space.namespace),
                false => match space.remove().await {
                    Ok(()) => format!("namespace {} is removed", space.namespace),
                    Err(problem) => format!("namespace {}: {problem:#}", space.namespace),
                },
            };
            match kept {
                Ok(()) => bail!("{error:#}\n{left}; what was in it: {}", space.evidence.display()),
                Err(problem) => bail!("{error:#}\n{left}; no diagnostics: {problem:#}"),
            }
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a message")
}
