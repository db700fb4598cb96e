//! Four workers, of which one gets a tenth of the time, with `shuffle.speculation.mode: Auto` and `Off`, beside four that are well.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use sluice_crds::ShuffleQueryStatus;
use sluice_crds::shuffle_query::status::SpeculationCounts;

use super::pool::Pool;
use super::{Args, measure, query_object, sluice_command};

/// Workers of one slot each.
const WORKERS: u32 = 4;
/// Tasks of each stage.
const PARTITIONS: u32 = 24;
/// How long the slow worker runs, and then stands still.
const RUNS: Duration = Duration::from_millis(5);
const STANDS: Duration = Duration::from_millis(45);

/// Most of lineitem moves between workers, twice.
const SQL: &str = "
    SELECT lines, count(*) AS parts, sum(quantity) AS quantity, max(comment) AS comment FROM
        (SELECT l_partkey, l_suppkey, count(*) AS lines, sum(l_quantity) AS quantity, max(l_comment) AS comment
            FROM lineitem GROUP BY l_partkey, l_suppkey) AS parts
    GROUP BY lines ORDER BY lines";

/// Gives a process a tenth of the time, until it is dropped.
struct Slowdown {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Slowdown {
    fn of(process: Pid) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            // An error means that the process is gone, and then the run fails by itself.
            while !seen.load(Ordering::Relaxed) && kill_process(process, Signal::STOP).is_ok() {
                std::thread::sleep(STANDS);
                let _ = kill_process(process, Signal::CONT);
                std::thread::sleep(RUNS);
            }
        });
        Self {
            ends,
            thread: Some(thread),
        }
    }
}

impl Drop for Slowdown {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The best run of one kind, and its duplicates.
struct Side {
    name: &'static str,
    mode: &'static str,
    slow: bool,
    seconds: Option<f64>,
    rows: Option<u64>,
    duplicates: SpeculationCounts,
}

impl Side {
    fn new(name: &'static str, mode: &'static str, slow: bool) -> Self {
        Self {
            name,
            mode,
            slow,
            seconds: None,
            rows: None,
            duplicates: SpeculationCounts::default(),
        }
    }

    fn run(&mut self, args: &Args, data: &Path, pool: &Pool, scratch: &Path) -> anyhow::Result<f64> {
        let mut query = query_object(SQL, data);
        query["spec"]["shuffle"] = json!({
            "partitions": PARTITIONS,
            "adaptive": {"mode": "Off"},
            "speculation": {"mode": self.mode},
        });
        let file = scratch.join("query.yaml");
        std::fs::write(&file, query.to_string())?;
        let status = scratch.join("status.json");
        let slowdown = self.slow.then(|| pool.first()).flatten().map(Slowdown::of);
        let limit = Duration::from_secs(args.limit);
        let run = measure::run(&mut sluice_command(pool, &file, &status), limit).context(self.name)?;
        drop(slowdown);
        ensure!(
            self.rows.is_none_or(|rows| rows == run.rows),
            "runs have different numbers of rows"
        );
        self.rows = Some(run.rows);
        let status: ShuffleQueryStatus = serde_json::from_str(&std::fs::read_to_string(&status)?)?;
        if self.seconds.is_none_or(|best| run.seconds < best) {
            self.seconds = Some(run.seconds);
            self.duplicates = status.speculation.unwrap_or_default();
        }
        Ok(run.seconds)
    }

    fn best(&self) -> f64 {
        self.seconds.unwrap_or(f64::INFINITY)
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let duplicates = &self.duplicates;
        write!(
            f,
            "{}, speculation {}: {:.2} s, {} duplicates, {} won, {} wasted ({} ms)",
            self.name,
            self.mode,
            self.best(),
            duplicates.launched,
            duplicates.won,
            duplicates.wasted,
            duplicates.wasted_ms
        )
    }
}

/// Runs all of them in turn, and prints them with their ratios. Answers whether they had as many rows.
pub(super) fn compare(args: &Args, data: &Path) -> anyhow::Result<bool> {
    let scratch = tempfile::tempdir()?;
    let pool = Pool::start(WORKERS, args.memory.as_deref(), scratch.path())?;
    let mut sides = [
        Side::new("all well", "Off", false),
        Side::new("all well", "Auto", false),
        Side::new("one slow", "Off", true),
        Side::new("one slow", "Auto", true),
    ];
    for run in 0..args.runs {
        for side in &mut sides {
            let seconds = side.run(args, data, &pool, scratch.path())?;
            eprintln!(
                "run {run}: {}, speculation {}: {seconds:.2} s",
                side.name, side.mode
            );
        }
    }
    let [well_off, well, slow_off, slow] = &sides;
    for side in &sides {
        println!("{side}");
    }
    println!("all well, Auto to Off: {:.2}", well.best() / well_off.best());
    println!(
        "one slow, Off, to all well: {:.2}",
        slow_off.best() / well_off.best()
    );
    println!(
        "one slow, Auto, to all well: {:.2}",
        slow.best() / well_off.best()
    );
    Ok(sides.iter().all(|side| side.rows == well.rows))
}
