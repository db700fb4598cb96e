//! What was measured, as a Markdown table.

use std::fmt::{self, Display, Formatter};

use anyhow::Context;
use sluice_crds::ShuffleQueryStatus;

use super::measure::Run;

const MIB: f64 = 1024.0 * 1024.0;

/// The runs of one query on one side.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Side {
    best_seconds: Option<f64>,
    peak_bytes: u64,
    /// Rows of the result.
    pub rows: Option<u64>,
}

impl Side {
    /// Adds a run; the time of a warm-up does not count.
    pub(super) fn add(&mut self, counts: bool, run: &Run) {
        if counts {
            self.best_seconds = Some(
                self.best_seconds
                    .map_or(run.seconds, |best| best.min(run.seconds)),
            );
        }
        self.peak_bytes = self.peak_bytes.max(run.peak_bytes);
        self.rows = Some(run.rows);
    }

    fn seconds(&self) -> f64 {
        self.best_seconds.unwrap_or(f64::NAN)
    }
}

/// What a query moved, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    shuffled: u64,
    spilled: u64,
}

/// Reads what a query moved from the status file of its run.
pub(super) fn totals(status: &str) -> anyhow::Result<Totals> {
    let status: ShuffleQueryStatus = serde_json::from_str(status).context("the status file")?;
    Ok(Totals {
        shuffled: status.totals.bytes_shuffled,
        spilled: status.totals.bytes_spilled,
    })
}

/// One query on both sides.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Comparison(Result<(Side, Side, Totals), String>);

impl Comparison {
    /// It ran on both sides, plain DataFusion first.
    pub(super) fn measured(plain: Side, ours: Side, totals: Totals) -> Self {
        Self(Ok((plain, ours, totals)))
    }

    /// It did not, for this reason.
    pub(super) fn failed(reason: String) -> Self {
        Self(Err(reason))
    }
}

impl Display for Comparison {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Ok((plain, ours, _)) => {
                let (plain, ours) = (plain.seconds(), ours.seconds());
                write!(to, "{plain:.3} s, sluice {ours:.3} s, ratio {:.2}", ours / plain)
            }
            Err(reason) => write!(to, "failed: {reason}"),
        }
    }
}

/// All queries.
#[derive(Debug)]
pub(super) struct Report {
    scale: f64,
    runs: u32,
    workers: u32,
    queries: Vec<(u8, Comparison)>,
}

impl Report {
    /// An empty report.
    pub(super) fn new(scale: f64, runs: u32, workers: u32) -> Self {
        Self {
            scale,
            runs,
            workers,
            queries: Vec::new(),
        }
    }

    /// Adds a query.
    pub(super) fn add(&mut self, number: u8, comparison: Comparison) {
        self.queries.push((number, comparison));
    }

    /// Whether every query ran on both sides.
    pub(super) fn complete(&self) -> bool {
        self.queries.iter().all(|(_, comparison)| comparison.0.is_ok())
    }

    fn sums(&self, to: &mut Formatter<'_>) -> fmt::Result {
        let measured: Vec<_> = self
            .queries
            .iter()
            .filter_map(|(_, comparison)| comparison.0.as_ref().ok())
            .collect();
        let plain: f64 = measured.iter().map(|(plain, ..)| plain.seconds()).sum();
        let ours: f64 = measured.iter().map(|(_, ours, _)| ours.seconds()).sum();
        let logarithms: f64 = measured
            .iter()
            .map(|(plain, ours, _)| (ours.seconds() / plain.seconds()).ln())
            .sum();
        let shuffled: u64 = measured.iter().map(|(.., totals)| totals.shuffled).sum();
        let spilled: u64 = measured.iter().map(|(.., totals)| totals.spilled).sum();
        let plain_peak = measured
            .iter()
            .map(|(plain, ..)| plain.peak_bytes)
            .max()
            .unwrap_or(0);
        let our_peak = measured
            .iter()
            .map(|(_, ours, _)| ours.peak_bytes)
            .max()
            .unwrap_or(0);
        let count = measured.len();
        writeln!(
            to,
            "| sum, highest peak | | {plain:.2} | {ours:.2} | {:.2} | {} | {} | {} | {} |",
            ours / plain,
            mebibytes(plain_peak),
            mebibytes(our_peak),
            mebibytes(shuffled),
            mebibytes(spilled)
        )?;
        let mean = (logarithms / count as f64).exp();
        writeln!(
            to,
            "\nGeometric mean of the ratios: {mean:.2} over {count} of {} queries.",
            self.queries.len()
        )
    }
}

impl Display for Report {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            scale,
            runs,
            workers,
            queries,
        } = self;
        writeln!(to, "{}\n", machine())?;
        writeln!(
            to,
            "TPC-H at scale {scale}, Parquet. DataFusion: one process, {workers} partitions. Sluice: {workers} worker \
             processes of one slot. Best of {runs} runs after a warm-up. Peak: resident memory summed over \
             processes, MiB. Shuffled and spilled: MiB.\n"
        )?;
        writeln!(
            to,
            "| query | rows | DataFusion s | Sluice s | ratio | peak | Sluice peak | shuffled | spilled |"
        )?;
        writeln!(to, "|---|--:|--:|--:|--:|--:|--:|--:|--:|")?;
        for (number, comparison) in queries {
            match &comparison.0 {
                Ok((plain, ours, totals)) => writeln!(
                    to,
                    "| q{number:02} | {} | {:.3} | {:.3} | {:.2} | {} | {} | {} | {} |",
                    ours.rows.unwrap_or(0),
                    plain.seconds(),
                    ours.seconds(),
                    ours.seconds() / plain.seconds(),
                    mebibytes(plain.peak_bytes),
                    mebibytes(ours.peak_bytes),
                    mebibytes(totals.shuffled),
                    mebibytes(totals.spilled)
                )?,
                Err(reason) => writeln!(
                    to,
                    "| q{number:02} | failed: {} | | | | | | | |",
                    reason.replace('\n', " ")
                )?,
            }
        }
        self.sums(to)
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / MIB)
}

/// The processor, the cores and the memory of this machine.
fn machine() -> String {
    let read = |file: &str, key: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key)).map(str::to_owned);
        line.and_then(|line| line.split_once(':').map(|(_, value)| value.trim().to_owned()))
    };
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let model = read("/proc/cpuinfo", "model name").unwrap_or_else(|| "an unknown processor".into());
    let kilobytes =
        read("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    let memory = kilobytes.map_or_else(
        || "unknown".into(),
        |kilobytes| format!("{:.1} GiB", kilobytes / (MIB)),
    );
    format!("Machine: {model}, {cores} cores, {memory} of memory.")
}
