//! Random queries over random small tables, in several shapes of a run, compared with plain DataFusion and with DuckDB.
//!
//! Every query has a seed, and so have the tables of each [`QUERIES_OF_TABLES`] consecutive queries. By default a run
//! tries the same [`COUNT`] seeds, as far as time allows. These variables change that:
//!
//! - `SLUICE_GENERATOR_SEED`: the first seed.
//! - `SLUICE_GENERATOR_COUNT`: how many seeds.
//! - `SLUICE_GENERATOR_SECONDS`: how long at most.
//!
//! A run of one seed prints its query. A query that fails is shrunk with its tables, and printed with the command that repeats it.
//!
//! Queries of others over tables of others are compared in the same way where `SLUICE_GENERATOR_FOLDER` names their
//! folder: see [`folder`].

mod ast;
mod engine;
mod expressions;
mod folder;
mod grammar;
mod judge;
mod known;
mod oracle_duckdb;
mod render;
mod shrink;
mod suite;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;

use self::ast::Query;
use self::engine::{Fleets, SHAPES};
use self::oracle_duckdb::DuckDb;
use self::render::{Dialect, sql};
use self::suite::{Shrunk, Suite, Verdict, shape_name};
use self::tables::Database;
use crate::compare::Rows;

/// Queries over the same tables.
const QUERIES_OF_TABLES: u64 = 25;

/// Seeds of a run by default: about a minute.
const COUNT: u64 = 400;

/// The longest run by default, seconds.
const SECONDS: u64 = 60;

/// The least percentage of queries with the same rows in every engine and shape: a run of errors alone tests nothing.
const MIN_AGREED_PERCENT: u64 = 70;

/// A run tells how far it is after so many queries.
const PROGRESS: u64 = 100;

/// Findings after which a run ends.
const MAX_FINDINGS: usize = 40;

/// A number from the environment.
fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}")),
    )
}

/// DuckDB, if it is available. CI requires it.
fn duckdb() -> Option<DuckDb> {
    match DuckDb::start() {
        Ok(duckdb) => Some(duckdb),
        Err(why) => {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "no DuckDB to compare with: {why}"
            );
            eprintln!("SKIPPED: the comparison with DuckDB, which cannot be had: {why}");
            None
        }
    }
}

fn case_of_seed(seed: u64) -> (Database, Query) {
    let database = Database::of_seed(seed / QUERIES_OF_TABLES);
    let query = grammar::query_of_seed(&database, seed);
    (database, query)
}

fn report(seed: u64, shrunk: &Shrunk) -> String {
    let ours = sql(&shrunk.query, Dialect::DataFusion);
    let theirs = sql(&shrunk.query, Dialect::DuckDb);
    let theirs = if theirs == ours {
        String::new()
    } else {
        format!("\nfor DuckDB: {theirs}")
    };
    format!(
        "seed {seed}, {}\n{}\n{ours}{theirs}\n{}{}\nagain: SLUICE_GENERATOR_SEED={seed} SLUICE_GENERATOR_COUNT=1 \
         cargo test -p sluice --test it generator::random_queries -- --nocapture",
        shape_name(shrunk.found.shape),
        shrunk.found.kind,
        shrunk.database.text(),
        shrunk.found.told,
    )
}

/// What came of a run.
#[derive(Default)]
struct Tally {
    tried: u64,
    agreed: u64,
    with_rows: u64,
    known: BTreeMap<&'static str, u64>,
    /// Each with how often, and the first seed.
    nothing: BTreeMap<String, (u64, u64)>,
    findings: Vec<String>,
    kinds: BTreeSet<String>,
}

impl Tally {
    fn add(&mut self, seed: u64, shrunk: &Shrunk) {
        if let Some(why) = known::reason(&shrunk.query, &shrunk.found) {
            *self.known.entry(why).or_default() += 1;
            return;
        }
        let ours = sql(&shrunk.query, Dialect::DataFusion);
        let kind = format!("{}{}", shrunk.found.kind, ours.replace(char::is_numeric, ""));
        if self.kinds.insert(kind) {
            let told = report(seed, shrunk);
            eprintln!("\n{told}\n");
            self.findings.push(told);
        }
    }

    fn counted(&self) -> u64 {
        self.agreed + self.known.values().sum::<u64>()
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{} queries: {} agreed, {} of them with rows, {} findings",
            self.tried,
            self.agreed,
            self.with_rows,
            self.findings.len()
        );
        for (why, count) in &self.known {
            let _infallible = write!(text, "\n  {count} known: {why}");
        }
        for (kind, (count, seed)) in &self.nothing {
            let share = 100.0 * *count as f64 / self.tried.max(1) as f64;
            let _infallible = write!(text, "\n  {share:5.2} % nothing compared: {kind} (seed {seed})");
        }
        text
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_queries() {
    let first = setting("SLUICE_GENERATOR_SEED").unwrap_or(0);
    let asked = (
        setting("SLUICE_GENERATOR_COUNT"),
        setting("SLUICE_GENERATOR_SECONDS"),
    );
    let (count, seconds) = match asked {
        (None, None) => (COUNT, SECONDS),
        (count, seconds) => (count.unwrap_or(u64::MAX), seconds.unwrap_or(u64::MAX)),
    };
    let started = Instant::now();
    let mut suite = Suite {
        fleets: Fleets::start().await,
        duckdb: duckdb(),
        defect: None,
    };
    let all: Vec<usize> = (0..SHAPES.len()).collect();
    let mut tally = Tally::default();
    let mut bench = None;
    for seed in first..first.saturating_add(count) {
        let (database, query) = case_of_seed(seed);
        if bench.is_none() || seed.is_multiple_of(QUERIES_OF_TABLES) {
            bench = Some(suite.bench(&database, &all).await);
        }
        let Some(tables) = &bench else { continue };
        tally.tried += 1;
        if count == 1 {
            println!("{}\n{}", database.text(), sql(&query, Dialect::DataFusion));
        }
        match suite.examine(tables, &(&query).into(), &all).await {
            Verdict::Agreed(rows) => {
                tally.agreed += 1;
                tally.with_rows += u64::from(rows > 0);
            }
            Verdict::Nothing(kind) => tally.nothing.entry(kind).or_insert((0, seed)).0 += 1,
            Verdict::Found(found) => {
                if let Some(why) = known::reason(&query, &found) {
                    *tally.known.entry(why).or_default() += 1;
                } else {
                    let shrunk = suite.shrink(&query, &database, found).await;
                    // Restores the tables of the seed for the next query.
                    bench = None;
                    tally.add(seed, &shrunk);
                }
            }
        }
        if tally.tried.is_multiple_of(PROGRESS) {
            eprintln!("seed {seed}: {}", tally.text().lines().next().unwrap_or_default());
        }
        if started.elapsed() > Duration::from_secs(seconds) || tally.findings.len() >= MAX_FINDINGS {
            break;
        }
    }
    suite.fleets.stop().await;
    println!("{}", tally.text());
    assert!(
        tally.findings.is_empty(),
        "{}\n\n{}",
        tally.findings.join("\n\n"),
        tally.text()
    );
    assert!(
        tally.tried < 100 || tally.counted() * 100 >= tally.tried * MIN_AGREED_PERCENT,
        "too few queries were compared: {}",
        tally.text()
    );
}

/// Drops the last row.
fn lose_a_row(rows: &mut Rows) {
    let last = rows.batches.iter_mut().rev().find(|batch| batch.num_rows() > 0);
    if let Some(batch) = last {
        *batch = RecordBatch::slice(batch, 0, batch.num_rows() - 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_row_is_found_and_shrunk() {
    let mut suite = Suite {
        fleets: Fleets::start().await,
        duckdb: duckdb(),
        defect: None,
    };
    let mut found = 0;
    for seed in 0.. {
        let (database, query) = case_of_seed(seed);
        let bench = suite.bench(&database, &[0]).await;
        suite.defect = None;
        let Verdict::Agreed(1..) = suite.examine(&bench, &(&query).into(), &[0]).await else {
            continue;
        };
        suite.defect = Some(lose_a_row);
        let Verdict::Found(finding) = suite.examine(&bench, &(&query).into(), &[0]).await else {
            panic!("a row less is not noticed: {}", sql(&query, Dialect::DataFusion));
        };
        let shrunk = suite.shrink(&query, &database, finding).await;
        let told = report(seed, &shrunk);
        let small = sql(&shrunk.query, Dialect::DataFusion);
        assert!(small.len() < 100, "{small}");
        let rows: usize = shrunk.database.tables.iter().map(|table| table.rows.len()).sum();
        assert!(rows <= 2, "{told}");
        assert!(told.contains(&format!("SLUICE_GENERATOR_SEED={seed} ")), "{told}");
        found += 1;
        if found == 5 {
            break;
        }
    }
    suite.fleets.stop().await;
}
