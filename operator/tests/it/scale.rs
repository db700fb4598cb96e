//! Measures the cost and the speed of the operator and prints a table, only with `SLUICE_MEASURE=1`: see docs/benchmarks.md.
//! Kubelet, coordinators and workers run in this process; API server, scheduler and controller manager are real.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, watcher};
use serde_json::json;
use sluice_core::coordinator::Outcome;
use sluice_crds::shuffle_query::status::QueryPhase;
use sluice_crds::{ShuffleQuery, WorkerPool};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::coordinators::{Coordinator, programs, snapshot, succeeds};
use crate::faults::Faults;
use crate::harness::{SIGNING_KEY, TestEnv, run};
use crate::kubelet::{Exit, Kubelet, Program};
use crate::pods::{object, query};

/// Queries that have ended, and queries that run.
const FINISHED: usize = 10_000;
const ACTIVE: usize = 1_000;
/// Queries that are ended one after the other, and the time between two.
const ENDED: usize = 200;
const BETWEEN: Duration = Duration::from_millis(100);
/// Queries whose requests are counted.
const COUNTED: usize = 20;
/// Concurrent requests of the test.
const MAX_CONCURRENT_REQUESTS: usize = 64;

/// An operator in a process of its own.
struct Process(Child, PathBuf);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have exited by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn start(env: &TestEnv) -> Self {
        let log = std::env::temp_dir().join(format!("{}.log", env.namespace));
        let namespace = &env.namespace;
        let child = Command::new(env!("CARGO_BIN_EXE_sluice-operator"))
            .args(["--image=localhost/sluice:test", "--listen=127.0.0.1:0"])
            .arg(format!("--signing-key-file={SIGNING_KEY}"))
            .args([
                format!("--namespaces={namespace}"),
                format!("--lease-namespace={namespace}"),
            ])
            .stderr(fs::File::create(&log).unwrap())
            .env("RUST_LOG", "warn")
            .spawn()
            .unwrap();
        Self(child, log)
    }

    /// Resident memory, MiB, now and at its highest.
    fn memory(&mut self) -> (f64, f64) {
        let ended = self.0.try_wait().unwrap();
        assert!(ended.is_none(), "{ended:?}: see {}", self.1.display());
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let of = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
            let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
            kib / 1024.0
        };
        (of("VmRSS:"), of("VmHWM:"))
    }
}

/// Coordinators that run until they are signalled, and the times of their reports.
#[derive(Default)]
struct SignalledCoordinators {
    ends: Mutex<HashMap<String, watch::Sender<bool>>>,
    reported: Mutex<HashMap<(String, QueryPhase), Instant>>,
}

impl SignalledCoordinators {
    fn program(self: &Arc<Self>) -> Program {
        let coordinators = self.clone();
        programs(move |coordinator| coordinators.clone().run(coordinator))
    }

    async fn run(self: Arc<Self>, coordinator: Coordinator) -> Exit {
        coordinator.container.report_running(true).await;
        let name = coordinator.query().to_owned();
        let mut end = {
            let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
            ends.entry(name.clone()).or_default().subscribe()
        };
        self.note(&name, QueryPhase::Running);
        coordinator.report(&snapshot(2, 1, None));
        let _ = end.wait_for(|ends| *ends).await;
        self.note(&name, QueryPhase::Succeeded);
        coordinator.end(Outcome::Succeeded).await
    }

    fn note(&self, query: &str, phase: QueryPhase) {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        reported.insert((query.to_owned(), phase), Instant::now());
    }

    fn end(&self, query: &str) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.entry(query.to_owned()).or_default().send_replace(true);
    }
}

/// When the API server first showed each query in each phase.
type PhaseTimes = Arc<Mutex<HashMap<(String, QueryPhase), Instant>>>;

fn watch_phases(env: &TestEnv) -> (PhaseTimes, AbortOnDropHandle<()>) {
    let shown = PhaseTimes::default();
    let queries = Api::<ShuffleQuery>::namespaced(env.client.clone(), &env.namespace);
    let events = watcher(queries, watcher::Config::default());
    let all = shown.clone();
    let watching = events.for_each(move |event| {
        // A list after a broken watch shows what was missed.
        if let Ok(watcher::Event::Apply(query) | watcher::Event::InitApply(query)) = event
            && let (Some(name), Some(status)) = (query.metadata.name, query.status)
        {
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry((name, status.phase)).or_insert_with(Instant::now);
        }
        async {}
    });
    (shown, AbortOnDropHandle::new(tokio::spawn(watching)))
}

/// Median and 99th percentile of the time from a coordinator's report of `phase` to the status, over `queries`.
fn lags(
    coordinators: &SignalledCoordinators,
    shown: &PhaseTimes,
    phase: QueryPhase,
    queries: &[String],
) -> (f64, f64) {
    let reported = coordinators
        .reported
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
    let mut lags: Vec<_> = queries
        .iter()
        .map(|query| {
            let key = (query.clone(), phase);
            shown[&key]
                .saturating_duration_since(reported[&key])
                .as_secs_f64()
        })
        .collect();
    lags.sort_by(f64::total_cmp);
    (lags[lags.len() / 2], lags[lags.len() * 99 / 100])
}

async fn wait(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !condition().await {
        assert!(
            begin.elapsed() < Duration::from_secs(600),
            "not within 600 s: {what}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn start_pool(env: &TestEnv) {
    let pools = Api::<WorkerPool>::namespaced(env.client.clone(), &env.namespace);
    let pool: WorkerPool = object(json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "WorkerPool", "metadata": {"name": "p"},
        "spec": {"replicas": 2, "maxConcurrentQueries": 10_000},
    }));
    pools.create(&PostParams::default(), &pool).await.unwrap();
    wait("the pool is ready", async || {
        let status = pools.get("p").await.unwrap().status.unwrap_or_default();
        status.ready_replicas == 2
    })
    .await;
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}-{n}")).collect()
}

/// Creates queries. Returns how long it took.
async fn submit(env: &TestEnv, names: &[String]) -> Duration {
    let queries = Api::<ShuffleQuery>::namespaced(env.client.clone(), &env.namespace);
    let begin = Instant::now();
    stream::iter(names)
        .for_each_concurrent(MAX_CONCURRENT_REQUESTS, async |name| {
            queries
                .create(&PostParams::default(), &query(name, "p"))
                .await
                .unwrap();
        })
        .await;
    begin.elapsed()
}

/// Creates queries that ended before this operator started.
async fn finished(env: &TestEnv) {
    let all = names("old", FINISHED);
    submit(env, &all).await;
    let queries = Api::<ShuffleQuery>::namespaced(env.client.clone(), &env.namespace);
    let stage = json!({"id": 0, "label": "scan t", "state": "Done", "tasksPlanned": 2, "tasksDone": 2});
    let status = json!({"status": {
        "phase": "Succeeded", "reason": "Completed", "observedGeneration": 1, "poolName": "p", "coordinatorEpoch": 1,
        "startTime": "2026-01-01T00:00:00Z", "admittedTime": "2026-01-01T00:00:01Z",
        "endTime": "2026-01-01T00:01:00Z", "totals": {"rowsRead": 1000}, "tasks": {"planned": 2, "done": 2},
        "stages": [stage], "preview": {"columns": ["a"], "rows": [["1"]]},
    }});
    stream::iter(&all)
        .for_each_concurrent(MAX_CONCURRENT_REQUESTS, async |name| {
            let patch = Patch::Merge(&status);
            queries
                .patch_status(name, &PatchParams::default(), &patch)
                .await
                .unwrap();
        })
        .await;
}

fn row(what: &str, measured: &str, goal: &str) {
    println!("| {what} | {measured} | {goal} |");
}

/// Rates, memory and lags, with the operator in a process of its own.
async fn load(env: &TestEnv) {
    let coordinators = Arc::new(SignalledCoordinators::default());
    let kubelet = Kubelet::start(env, coordinators.program()).await;
    finished(env).await;
    let mut operator = Process::start(env);
    let (shown, _watching) = watch_phases(env);
    start_pool(env).await;

    let active = names("run", ACTIVE);
    let begin = Instant::now();
    let submitted = submit(env, &active).await;
    let is_coordinator = |pod: &crate::kubelet::Started| pod.name.starts_with("run-");
    let mut created = Vec::new();
    wait("every query has its pod", async || {
        let count = kubelet.started().iter().filter(|pod| is_coordinator(pod)).count();
        created.push((begin.elapsed(), count));
        count >= ACTIVE
    })
    .await;
    let took = begin.elapsed().as_secs_f64();
    let rate = f64::from(u32::try_from(ACTIVE).unwrap()) / took;
    let rate = format!("{rate:.1}/s, submitted in {:.1} s", submitted.as_secs_f64());
    row("custom resources, from apply to pods created", &rate, "20/s");
    wait("every query runs", async || {
        let shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        active
            .iter()
            .all(|name| shown.contains_key(&(name.clone(), QueryPhase::Running)))
    })
    .await;
    let (now, peak) = operator.memory();
    let memory = format!("{now:.0} MiB, {peak:.0} at its highest");
    row(
        "memory with 10,000 finished and 1,000 active queries",
        &memory,
        "150 MB",
    );
    let (median, p99) = lags(&coordinators, &shown, QueryPhase::Running, &active);
    let lag = format!("{median:.2} s, p99 {p99:.2} s");
    row(
        "change to status while 1,000 start at once, median",
        &lag,
        "p99 2 s",
    );

    for name in &active[..ENDED] {
        coordinators.end(name);
        tokio::time::sleep(BETWEEN).await;
    }
    wait("those that were called have ended", async || {
        let shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        let mut called = active[..ENDED].iter();
        called.all(|name| shown.contains_key(&(name.clone(), QueryPhase::Succeeded)))
    })
    .await;
    let (median, p99) = lags(&coordinators, &shown, QueryPhase::Succeeded, &active[..ENDED]);
    let lag = format!("{median:.2} s, p99 {p99:.2} s");
    row("change to status, ten changes a second, median", &lag, "p99 2 s");
}

/// Requests, with the operator in this process.
async fn requests(env: &TestEnv) {
    let _kubelet = Kubelet::start(env, programs(succeeds)).await;
    let operator = env.start("operator", Faults::none());
    start_pool(env).await;
    // Until the pool was idle once.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = operator.faults.requests();
    let all = names("counted", COUNTED);
    submit(env, &all).await;
    let queries = Api::<ShuffleQuery>::namespaced(env.client.clone(), &env.namespace);
    let pods = Api::<Pod>::namespaced(env.client.clone(), &env.namespace);
    let coordinators = ListParams::default().labels("app.kubernetes.io/component=coordinator");
    wait("all are done and tidied up", async || {
        let queries = queries.list(&ListParams::default()).await.unwrap();
        let done = |query: &ShuffleQuery| {
            let status = query.status.as_ref();
            status.is_some_and(|status| status.phase == QueryPhase::Succeeded)
        };
        queries.items.iter().all(done) && pods.list(&coordinators).await.unwrap().items.is_empty()
    })
    .await;
    let spent = operator.faults.requests() - before;
    let requests = format!(
        "{:.1}",
        f64::from(u32::try_from(spent).unwrap()) / f64::from(u32::try_from(COUNTED).unwrap())
    );
    row("API requests of a query, events included", &requests, "");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = operator.faults.requests();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let idle = (operator.faults.requests() - before).to_string();
    row(
        "requests in an idle minute, leases aside (one pool, 20 finished queries)",
        &idle,
        "",
    );
}

#[test]
fn measurements() {
    if std::env::var("SLUICE_MEASURE").is_ok_and(|measure| measure == "1") {
        println!("| what | measured | goal |\n|---|---|---|");
        run("measurements", async |env| load(env).await);
        run("measurements", async |env| requests(env).await);
    } else {
        eprintln!("SKIPPED measurements: SLUICE_MEASURE is not 1");
    }
}
