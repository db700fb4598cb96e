//! What the user sees of a running query: progress, rows and the status file.

use sluice_core::coordinator::Outcome;
use tokio_util::sync::CancellationToken;

use sluice_proto::QueryReport;

use super::analyze::analyzed;
use super::client::{Client, CoordinatorLost};
use super::error::FollowError;
use super::progress::Progress;
use super::result_printer::ResultPrinter;
use super::row_printer::OutputFormat;
use super::status::StatusFile;
use crate::planner::ExplainedQuery;
use crate::stderr::print_stderr;

/// How a query is shown.
pub struct View<'a> {
    /// The form of its rows; `None` where they go to a sink.
    pub rows: Option<OutputFormat>,
    /// Whether to show no progress.
    pub quiet: bool,
    /// Where its status is kept.
    pub status: Option<&'a mut StatusFile>,
    /// The plan, if how it ran is printed at the end.
    pub analyze: Option<ExplainedQuery>,
}

/// Shows progress and prints rows until the query has ended and its rows are printed. Cancels the query once
/// `interrupted` is cancelled, or when standard output is closed.
///
/// # Errors
/// The query did not succeed, or not all of its rows were printed.
pub async fn follow(
    client: &Client,
    view: &mut View<'_>,
    interrupted: &CancellationToken,
) -> Result<(), FollowError> {
    let streams = view.rows.is_some_and(|format| format != OutputFormat::Table);
    let mut progress = Progress::new(view.quiet, streams);
    let mut printing = view
        .rows
        .map(|rows| ResultPrinter::start(client, rows))
        .transpose()?;
    let status = &mut view.status;
    let mut show = |seen: &QueryReport| {
        progress.show(&seen.snapshot);
        if let Some(status) = status {
            status.update(seen);
        }
    };
    let (ended, print_failure) = watch(client, &mut show, &mut printing, interrupted).await;
    let (seen, outcome) = match ended {
        Ok(ended) => ended,
        Err(_) if interrupted.is_cancelled() => return Err(FollowError::Query(Outcome::Cancelled)),
        Err(lost) => return Err(lost.into()),
    };
    progress.finish(&seen.snapshot);
    if let Some(status) = &mut view.status {
        status.finish(&seen)?;
    }
    if let Some(plan) = &view.analyze {
        print_stderr(analyzed(plan, &seen.status()).trim_end().to_owned());
    }
    match (outcome, print_failure) {
        (Outcome::Succeeded, None) => {}
        // Rows may have stopped because the query failed: report its own cause first.
        (outcome @ Outcome::Failed(_), _) | (outcome @ Outcome::Cancelled, None) => {
            return Err(FollowError::Query(outcome));
        }
        (Outcome::Succeeded | Outcome::Cancelled, Some(print_failure)) => return Err(print_failure),
    }
    let Some(printing) = printing else {
        return Ok(());
    };
    tokio::select! {
        printed = printing.finish() => printed,
        () = interrupted.cancelled() => Err(FollowError::Query(Outcome::Cancelled)),
    }
}

/// Watches the query to its end, and cancels it on an interrupt or a print failure. Also returns the print failure.
async fn watch(
    client: &Client,
    show: &mut impl FnMut(&QueryReport),
    printing: &mut Option<ResultPrinter>,
    interrupted: &CancellationToken,
) -> (
    Result<(QueryReport, Outcome), CoordinatorLost>,
    Option<FollowError>,
) {
    let mut watching = client.clone();
    let watched = watching.watch(show);
    tokio::pin!(watched);
    let cancel = || {
        let mut client = client.clone();
        // If the call fails, the coordinator is lost, and the watch ends too.
        tokio::spawn(async move { client.cancel().await })
    };
    let (mut print_failure, mut asked) = (None, false);
    loop {
        tokio::select! {
            ended = &mut watched => return (ended, print_failure),
            failure = stopped(printing), if print_failure.is_none() => {
                print_failure = Some(failure);
                cancel();
            }
            () = interrupted.cancelled(), if !asked => {
                asked = true;
                cancel();
            }
        }
    }
}

async fn stopped(printing: &mut Option<ResultPrinter>) -> FollowError {
    match printing {
        Some(printing) => printing.failure().await,
        None => std::future::pending().await,
    }
}
