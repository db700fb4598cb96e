//! Result rows on standard output, written by a thread of their own: a slow or stopped reader blocks nothing else.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::Context;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::client::{Client, CoordinatorLost, ResultPart};
use super::error::FollowError;
use super::row_printer::{OutputFormat, RowPrinter};

/// Batches that wait for the thread.
const QUEUED: usize = 4;

/// Copies a result from a coordinator to standard output. Dropping it stops the copy; a blocked write lasts until the
/// process ends.
pub struct ResultPrinter {
    /// Reads the result from the coordinator; `None` once all of it is read.
    reading: Option<AbortOnDropHandle<Result<(), CoordinatorLost>>>,
    commands: mpsc::Sender<PrintCommand>,
    printed: oneshot::Receiver<Result<(), FollowError>>,
}

enum PrintCommand {
    Print(ResultPart),
    /// The query has succeeded: print what was kept back.
    Finish,
}

impl ResultPrinter {
    /// Starts to read and print the result.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(client: &Client, format: OutputFormat) -> anyhow::Result<Self> {
        let out = io::stdout().as_fd().try_clone_to_owned();
        let out = Stdout {
            file: File::from(out.context("standard output")?),
            closed: Arc::default(),
        };
        let (commands, inbox) = mpsc::channel(QUEUED);
        let (done, printed) = oneshot::channel();
        let thread = thread::Builder::new().name("rows".to_owned());
        thread.spawn(move || {
            let closed = Arc::clone(&out.closed);
            let printed = print(format, out, inbox).map_err(|error| {
                if closed.load(Ordering::Relaxed) {
                    return FollowError::OutputClosed;
                }
                FollowError::Other(error)
            });
            // Nobody receives it once the query has failed.
            let _ = done.send(printed);
        })?;
        let reading = tokio::spawn(read(client.clone(), commands.clone()));
        Ok(Self {
            reading: Some(AbortOnDropHandle::new(reading)),
            commands,
            printed,
        })
    }

    /// Waits for a failure to read or print the result, possibly for ever.
    pub async fn failure(&mut self) -> FollowError {
        loop {
            let Some(reading) = &mut self.reading else {
                return failed(&mut self.printed).await;
            };
            tokio::select! {
                failure = failed(&mut self.printed) => return failure,
                read = reading => {
                    self.reading = None;
                    match read {
                        Ok(Ok(())) => {}
                        Ok(Err(lost)) => return lost.into(),
                        Err(error) => return FollowError::Other(error.into()),
                    }
                }
            }
        }
    }

    /// Waits until the result of a query that has succeeded is printed.
    ///
    /// # Errors
    /// It cannot be read or printed.
    pub async fn finish(mut self) -> Result<(), FollowError> {
        if let Some(reading) = self.reading.take() {
            reading.await.map_err(anyhow::Error::from)??;
        }
        // A thread that has ended sends its result below.
        let _ = self.commands.send(PrintCommand::Finish).await;
        self.printed.await.map_err(anyhow::Error::from)?
    }
}

/// Why the thread ended early.
async fn failed(printed: &mut oneshot::Receiver<Result<(), FollowError>>) -> FollowError {
    match printed.await {
        Ok(Err(failure)) => failure,
        Ok(Ok(())) | Err(_) => FollowError::Other(anyhow::anyhow!("rows are printed no more")),
    }
}

async fn read(mut client: Client, commands: mpsc::Sender<PrintCommand>) -> Result<(), CoordinatorLost> {
    let mut result = client.read_result().await?;
    while let Some(part) = result.next().await? {
        if commands.send(PrintCommand::Print(part)).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Runs print commands until `Finish`, or until the query is given up.
fn print(format: OutputFormat, out: Stdout, mut inbox: mpsc::Receiver<PrintCommand>) -> anyhow::Result<()> {
    let mut out = Some(out);
    let mut printer = None;
    while let Some(command) = inbox.blocking_recv() {
        match command {
            PrintCommand::Print(ResultPart::Schema(schema)) => {
                let out = out.take();
                printer = out.map(|out| RowPrinter::new(format, schema, out));
            }
            PrintCommand::Print(ResultPart::Rows(batch)) => {
                if let Some(printer) = &mut printer {
                    printer.print(&batch)?;
                }
            }
            PrintCommand::Finish => {
                if let Some(printer) = printer.take() {
                    printer.finish()?;
                }
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Unbuffered standard output: a buffer would be flushed, and might block, at the end of the process. It notes a broken
/// pipe, which writers above it report only as text.
struct Stdout {
    file: File,
    closed: Arc<AtomicBool>,
}

impl Stdout {
    fn note_closed<T>(&self, written: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &written
            && error.kind() == io::ErrorKind::BrokenPipe
        {
            self.closed.store(true, Ordering::Relaxed);
        }
        written
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes);
        self.note_closed(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.file.flush();
        self.note_closed(flushed)
    }
}
