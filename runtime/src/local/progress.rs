//! Progress of a query on standard error: one live line per stage on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount, MultiProgress, ProgressBar, ProgressStyle};
use sluice_core::snapshot::{QuerySnapshot, StageSnapshot, StageState};

use crate::stderr::print_stderr;

/// Shows snapshots as they come.
pub enum Progress {
    /// One line per stage, redrawn.
    Live {
        lines: MultiProgress,
        /// One bar per stage, by stage id.
        bars: Vec<ProgressBar>,
    },
    /// One line per state change of a stage.
    Plain {
        /// The state of each stage that was printed last.
        said: Vec<Option<StageState>>,
    },
    Quiet,
}

impl Progress {
    /// Live on a terminal, unless rows stream to the same terminal, which would break live lines.
    pub fn new(quiet: bool, rows_stream: bool) -> Self {
        if quiet {
            Self::Quiet
        } else if std::io::stderr().is_terminal() && !(rows_stream && std::io::stdout().is_terminal()) {
            Self::Live {
                lines: MultiProgress::new(),
                bars: Vec::new(),
            }
        } else {
            Self::Plain { said: Vec::new() }
        }
    }

    /// Shows the query as it is now.
    pub fn show(&mut self, snapshot: &QuerySnapshot) {
        match self {
            Self::Live { lines, bars } => {
                for stage in &snapshot.stages {
                    let index = usize::try_from(stage.id.0).unwrap_or(usize::MAX);
                    if index == bars.len() {
                        bars.push(lines.add(stage_bar(stage)));
                    }
                    let Some(bar) = bars.get(index) else { continue };
                    bar.set_position(u64::from(stage.done));
                    bar.set_message(describe(stage, snapshot));
                }
            }
            Self::Plain { said } => {
                said.resize(snapshot.stages.len(), None);
                for (stage, said) in snapshot.stages.iter().zip(said) {
                    let worth_saying = matches!(stage.state, StageState::Running | StageState::Done);
                    if worth_saying && *said != Some(stage.state) {
                        *said = Some(stage.state);
                        print_stderr(format!(
                            "stage {} {}: {}",
                            stage.id.0,
                            stage.label,
                            describe(stage, snapshot)
                        ));
                    }
                }
            }
            Self::Quiet => {}
        }
    }

    /// Keeps the last state on the screen and adds the totals.
    pub fn finish(&self, snapshot: &QuerySnapshot) {
        match self {
            Self::Live { bars, .. } => bars.iter().for_each(ProgressBar::abandon),
            Self::Plain { .. } => {}
            Self::Quiet => return,
        }
        print_stderr(total(snapshot));
    }
}

fn stage_bar(stage: &StageSnapshot) -> ProgressBar {
    // The template is a constant; an invalid one would give a bar without style.
    let style = ProgressStyle::with_template("{prefix:30} {bar:20} {pos:>4}/{len:4} {msg}");
    let bar = ProgressBar::new(u64::from(stage.tasks));
    if let Ok(style) = style {
        bar.set_style(style);
    }
    let label: String = stage.label.chars().take(26).collect();
    bar.with_prefix(format!("{:>2} {label}", stage.id.0))
}

fn describe(stage: &StageSnapshot, snapshot: &QuerySnapshot) -> String {
    let mut text = match stage.state {
        StageState::Waiting => return "waiting".into(),
        StageState::Schedulable => return "ready".into(),
        StageState::Running => format!("{}/{} tasks, {} running", stage.done, stage.tasks, stage.running),
        StageState::Done => format!("{}/{} tasks", stage.done, stage.tasks),
    };
    if stage.skipped > 0 {
        text.push_str(&format!(", {} not needed", stage.skipped));
    }
    let metrics = &stage.metrics;
    text.push_str(&format!(
        ", {} rows, {}",
        HumanCount(metrics.rows_out),
        HumanBytes(metrics.bytes_out)
    ));
    if metrics.bytes_spilled > 0 {
        text.push_str(&format!(", {} spilled", HumanBytes(metrics.bytes_spilled)));
    }
    if stage.failed_attempts + stage.lost_attempts > 0 {
        text.push_str(&format!(
            ", {} attempts failed, {} lost",
            stage.failed_attempts, stage.lost_attempts
        ));
    }
    if let Some(started) = stage.started {
        let span = stage.ended.unwrap_or(snapshot.now).since(started);
        text.push_str(&format!(", {}", seconds(span)));
    }
    text
}

fn total(snapshot: &QuerySnapshot) -> String {
    let mut sum = sluice_core::metrics::AttemptMetrics::default();
    for stage in &snapshot.stages {
        sum += stage.metrics;
    }
    let tasks: u32 = snapshot.stages.iter().map(|stage| stage.tasks).sum();
    let span = snapshot.ended.unwrap_or(snapshot.now).since(snapshot.started);
    let first_row = snapshot.first_row.map(|first| first.since(snapshot.started));
    format!(
        "{} stages, {tasks} tasks on {} workers in {}; first row after {}; {} rows read, {} shuffled, {} spilled",
        snapshot.stages.len(),
        snapshot.workers,
        seconds(span),
        first_row.map_or_else(|| "-".into(), seconds),
        HumanCount(sum.rows_read),
        HumanBytes(sum.shuffle_bytes_in),
        HumanBytes(sum.bytes_spilled),
    )
}

fn seconds(span: Duration) -> String {
    format!("{:.2} s", span.as_secs_f64())
}
