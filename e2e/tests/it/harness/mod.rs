//! The environment of a test: a client of the cluster and a namespace that is deleted when the test ends. If it failed, the
//! content of the namespace is kept under `target/e2e/<test>`.

mod columns;
mod config;
mod crds;
mod deploy;
mod diagnostics;
mod helm;
mod leftovers;
mod node;
mod overlapping_queries;
mod pool;
mod query;
mod space;
mod wait;

use std::any::Any;
use std::fs::File;
use std::future::Future;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

pub use columns::columns;
use config::{ClusterConfig, Target};
pub use crds::apply_crds;
pub use deploy::{install_operator, kill_operator, operator_node};
pub use diagnostics::keep;
pub use helm::{Release, lock_definitions, output, restoring_definitions, share_definitions};
pub use overlapping_queries::while_queries_run;
pub use pool::Pool;
pub use query::{Query, in_order, query, rows, sample, sample_in_pool, samples};
pub use space::Space;
pub use wait::wait_until;

/// A test that takes longer hangs, and fails with its diagnostics instead of holding up the whole run.
const TEST_TIMEOUT: Duration = Duration::from_secs(600);
/// The same of one that measures a thousand queries.
const MEASURE_TIMEOUT: Duration = Duration::from_secs(3_600);
/// Starts the line of a skipped test, for whoever counts them.
const SKIPPED: &str = "SKIPPED";
/// Held for writing by a test that no other may run beside.
static ALONE_LOCK: RwLock<()> = RwLock::new(());

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
    run_with(test, |_| Ok(()), |space, ()| body(space));
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
    let folder = |config: &ClusterConfig| {
        let why = "SLUICE_E2E_SHARED names no folder that this machine and all nodes have";
        config.shared.clone().ok_or(why)
    };
    run_with(test, folder, body);
}

/// The same with a second name of the image; a cluster without one skips the test.
///
/// # Panics
///
/// As [`run`], or if there is no such name and the tests are required.
pub fn run_with_next_image<F, Fut>(test: &str, body: F)
where
    F: FnOnce(Space, String) -> Fut,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    let image = |config: &ClusterConfig| {
        let why = "SLUICE_E2E_NEXT_IMAGE names no other name of the image";
        config.next_image.clone().ok_or(why)
    };
    run_with(test, image, body);
}

/// The same with no other test beside it, as it changes nodes or measures. Such a test belongs into `alone`, which `e2e/run`
/// runs one at a time: elsewhere it holds up the tests that run side by side.
///
/// # Panics
///
/// As [`run`].
pub fn run_alone<F, Fut>(test: &str, body: F)
where
    F: FnOnce(Space) -> Fut,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    let _lock = ALONE_LOCK.write().unwrap_or_else(PoisonError::into_inner);
    run_locked(test, |_| Ok(()), |space, ()| body(space));
}

/// The same where nodes can be killed, and with no other test beside it; a cluster without that skips the test.
///
/// # Panics
///
/// As [`run`], or if nodes cannot be killed and the tests are required.
pub fn run_where_nodes_die<F, Fut>(test: &str, body: F)
where
    F: FnOnce(Space) -> Fut,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    let programs = |config: &ClusterConfig| {
        let why = "SLUICE_E2E_CLUSTER names no folder with node-kill and node-start";
        config.programs.is_some().then_some(()).ok_or(why)
    };
    let _lock = ALONE_LOCK.write().unwrap_or_else(PoisonError::into_inner);
    run_locked(test, programs, |space, ()| body(space));
}

fn run_with<T, F, Fut>(test: &str, needs: impl Fn(&ClusterConfig) -> Result<T, &'static str>, body: F)
where
    F: FnOnce(Space, T) -> Fut,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    let _lock = ALONE_LOCK.read().unwrap_or_else(PoisonError::into_inner);
    run_locked(test, needs, body);
}

fn run_locked<T, F, Fut>(test: &str, needs: impl Fn(&ClusterConfig) -> Result<T, &'static str>, body: F)
where
    F: FnOnce(Space, T) -> Fut,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    let config = match config::target() {
        Target::Cluster(config) => config,
        Target::Skip(why) => return report_skip(test, &why),
        Target::Refuse(why) => panic!("{test}: {why}"),
    };
    match needs(&config) {
        Ok(needed) => run_to_end(test, config, |space| body(space, needed)),
        Err(why) => {
            assert!(!config.required, "{test}: {why}, and the tests are required");
            report_skip(test, why);
        }
    }
}

fn run_to_end<F, Fut>(test: &str, config: ClusterConfig, body: F)
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
        .and_then(|runtime| runtime.block_on(run_in_namespace(test, config, body)));
    record_result(&record, test, outcome.is_ok(), started.elapsed());
    if let Err(error) = outcome {
        panic!("{test}: {error:#}");
    }
}

/// One line for each test that ran: how it ended, its seconds, its name.
fn record_result(record: &Path, test: &str, passed: bool, took: Duration) {
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

/// Tells what a test has measured: on standard error, and in the summary of `e2e/run`.
pub fn record_measurement(space: &Space, what: &str) {
    // As of a skipped test.
    let _ = writeln!(std::io::stderr(), "MEASURED {what}");
    let record = space.evidence.with_file_name("tests.txt");
    let noted = File::options().create(true).append(true).open(&record);
    if let Err(problem) = noted.and_then(|mut file| writeln!(file, "measured  {what}")) {
        eprintln!("{}: {problem}", record.display());
    }
}

/// Whether loads are measured that take long and the whole machine.
pub fn is_measuring() -> bool {
    std::env::var("SLUICE_MEASURE").is_ok_and(|measure| measure == "1")
}

/// Says that a load is not measured: nobody requires it who does not ask for it.
pub fn skip_measurement(test: &str) {
    report_skip(test, "SLUICE_MEASURE=1 is not set");
}

/// Says that a test which needs no cluster is skipped, and why.
///
/// # Panics
///
/// The tests are required.
pub fn skip(test: &str, why: &str) {
    assert!(!config::required(), "{test}: {why}, and the tests are required");
    report_skip(test, why);
}

/// Written to the stream itself: what goes through the macros is shown for failed tests alone.
fn report_skip(test: &str, why: &str) {
    // A closed standard error leaves nobody to tell.
    let _ = writeln!(std::io::stderr(), "{SKIPPED} {test}: {why}");
}

async fn run_in_namespace<F, Fut>(test: &str, config: ClusterConfig, body: F) -> Result<()>
where
    F: FnOnce(Space) -> Fut,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    let keep_failed = config.keep_failed;
    let space = Space::create(&config, test).await?;
    // In a task of its own, so that a panic ends the test and not the clean-up.
    let mut running = tokio::spawn(body(space.clone()));
    let longest = if is_measuring() {
        MEASURE_TIMEOUT
    } else {
        TEST_TIMEOUT
    };
    let outcome = match tokio::time::timeout(longest, &mut running).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(failure)) => Err(match failure.try_into_panic() {
            Ok(panic) => anyhow!("{}", panic_message(panic.as_ref())),
            Err(failure) => failure.into(),
        }),
        Err(_) => {
            running.abort();
            Err(anyhow!("not done after {} s", longest.as_secs()))
        }
    };
    let restored = node::restore(&space).await.context("a node did not come back");
    let outcome = match outcome.and(restored) {
        Ok(()) => leftovers::wait_until_nothing_is_left(&space).await,
        Err(error) => Err(error),
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
