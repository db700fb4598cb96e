//! The 22 TPC-H queries over the same Parquet files, on plain DataFusion in one process and on Sluice with worker
//! processes, alternating in one run.
//!
//! ```text
//! cargo bench --bench tpch -- --scale 1
//! ```
//!
//! `--skew` compares Sluice with itself instead: a join of which one key has half of the rows, with and without layouts that
//! follow the data. `--straggler` does so too: with a slow worker, with and without duplicates of what it runs.
//!
//! Both sides are timed alike: a process is started, plans one query, runs it, prints its rows as JSON lines and
//! ends. On the side of Sluice that process holds the coordinator, and the workers, new for each query, run before
//! it starts, as those of a pool do.

mod measure;
mod plain;
mod pool;
mod report;
mod skew;
mod straggler;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Parser;

use measure::Run;
use pool::Pool;
use report::{Comparison, Report, Side};

/// The tables of TPC-H.
const TABLES: [&str; 8] = [
    "customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier",
];

/// Compares Sluice with plain DataFusion on TPC-H, and prints a table.
#[derive(Parser)]
#[command(name = "tpch")]
struct Args {
    /// The scale factor: 1 is about 1 GB of raw data. It is generated once, into the target folder.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// The queries, by number; all 22 if none is given.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=22))]
    queries: Vec<u8>,
    /// Timed runs of each query on each side after one that does not count; the best one is reported.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Worker processes of one slot each, and partitions of plain DataFusion.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Memory of each worker, as `sluice worker --memory` takes it; default: the worker's own.
    #[arg(long)]
    memory: Option<String>,
    /// Compression of shuffle data, as a query's `shuffle.compression`; default: the query's own.
    #[arg(long)]
    compression: Option<String>,
    /// Seconds after which a run counts as failed.
    #[arg(long, default_value_t = 900)]
    limit: u64,
    /// Run this SQL file on plain DataFusion in this process: what the benchmark starts for one side.
    #[arg(long, requires = "data")]
    plain: Option<PathBuf>,
    /// The folder of the tables, for --plain.
    #[arg(long, requires = "plain")]
    data: Option<PathBuf>,
    /// Run a join of which one key has half of the rows, with `shuffle.adaptive.mode` Auto and Off.
    #[arg(long, conflicts_with_all = ["queries", "compression"])]
    skew: bool,
    /// Run a query on four workers of which one gets a tenth of the time, with `shuffle.speculation.mode` Auto and Off.
    #[arg(long, conflicts_with_all = ["queries", "compression", "skew", "workers"])]
    straggler: bool,
    /// Passed by `cargo bench`; without it nothing is measured.
    #[arg(long)]
    bench: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let ended = match (&args.plain, &args.data) {
        (Some(sql), Some(data)) => plain::run(sql, data, args.workers).map(|()| true),
        _ if args.bench => compare(&args),
        _ => {
            eprintln!("nothing is measured without `cargo bench --bench tpch`");
            Ok(true)
        }
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the comparison; answers whether every query ran on both sides with as many rows.
fn compare(args: &Args) -> anyhow::Result<bool> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the root of the repository")?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let data = tables(&target.join("tpch"), args.scale)?;
    if args.skew {
        return skew::compare(args, &data);
    }
    if args.straggler {
        return straggler::compare(args, &data);
    }
    let queries = if args.queries.is_empty() {
        (1..=22).collect()
    } else {
        args.queries.clone()
    };
    let mut report = Report::new(args.scale, args.runs, args.workers);
    for number in queries {
        let sql = root.join(format!("manifests/tpch/q{number:02}.sql"));
        let comparison =
            query(args, &sql, &data).unwrap_or_else(|error| Comparison::failed(format!("{error:#}")));
        eprintln!("q{number:02} {comparison}");
        report.add(number, comparison);
    }
    print!("{report}");
    Ok(report.complete())
}

/// The folder of the tables at `scale`, which is made if it is not there.
fn tables(parent: &Path, scale: f64) -> anyhow::Result<PathBuf> {
    let folder = parent.join(format!("scale-{scale}"));
    if folder.is_dir() {
        return folder.canonicalize().context("the tables' folder");
    }
    std::fs::create_dir_all(parent)?;
    let unfinished = tempfile::tempdir_in(parent)?;
    let out = unfinished.path().join("tables");
    let mut command = sluice();
    command
        .args(["data", "tpch", "--scale"])
        .arg(scale.to_string())
        .arg("--out")
        .arg(&out);
    ensure!(command.status()?.success(), "sluice data tpch failed");
    std::fs::rename(&out, &folder)?;
    folder.canonicalize().context("the tables' folder")
}

/// Measures one query on both sides.
fn query(args: &Args, sql: &Path, data: &Path) -> anyhow::Result<Comparison> {
    let limit = Duration::from_secs(args.limit);
    let scratch = tempfile::tempdir()?;
    let pool = Pool::start(args.workers, args.memory.as_deref(), scratch.path())?;
    let file = scratch.path().join("query.yaml");
    let status = scratch.path().join("status.json");
    std::fs::write(&file, query_file(args, sql, data)?)?;
    let (mut plain, mut ours) = (Side::default(), Side::default());
    let mut totals = None;
    for run in 0..=args.runs {
        let counts = run > 0;
        plain.add(
            counts,
            &measure::run(&mut plain_command(args, sql, data)?, limit).context("plain DataFusion")?,
        );
        let measured = measure::run(&mut sluice_command(&pool, &file, &status), limit).context("sluice")?;
        ours.add(
            counts,
            &Run {
                peak_bytes: measured.peak_bytes + pool.peak_bytes(),
                ..measured
            },
        );
        totals = Some(report::totals(&std::fs::read_to_string(&status)?)?);
    }
    let totals = totals.context("no run")?;
    if plain.rows != ours.rows {
        bail!(
            "{:?} rows on plain DataFusion, {:?} on sluice",
            plain.rows,
            ours.rows
        );
    }
    Ok(Comparison::measured(plain, ours, totals))
}

fn sluice() -> Command {
    Command::new(env!("CARGO_BIN_EXE_sluice"))
}

fn plain_command(args: &Args, sql: &Path, data: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("--plain")
        .arg(sql)
        .arg("--data")
        .arg(data)
        .arg("--workers")
        .arg(args.workers.to_string());
    Ok(command)
}

fn sluice_command(pool: &Pool, file: &Path, status: &Path) -> Command {
    let mut command = sluice();
    command
        .args(["run", "--quiet", "--output", "json", "--workers"])
        .arg(pool.addresses());
    command.arg("--status").arg(status).arg(file);
    command
}

/// A query over the eight tables, as JSON, which is YAML too.
fn query_file(args: &Args, sql: &Path, data: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(sql).with_context(|| sql.display().to_string())?;
    let mut object = query_object(&text, data);
    object["spec"]["shuffle"] = serde_json::json!({"partitions": args.workers});
    if let Some(compression) = &args.compression {
        object["spec"]["shuffle"]["compression"] = compression.as_str().into();
    }
    Ok(serde_json::to_string_pretty(&object)?)
}

/// A query over the eight tables.
fn query_object(sql: &str, data: &Path) -> serde_json::Value {
    let tables = TABLES
        .map(|name| serde_json::json!({"name": name, "location": data.join(name), "format": "parquet"}));
    serde_json::json!({
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "ShuffleQuery",
        "metadata": {"name": "tpch"},
        "spec": {"sql": sql, "tables": tables},
    })
}
