//! The file of one attempt.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use serde::{Deserialize, Serialize};
use sluice_core::ids::AttemptId;

use super::encode::{Encoder, check_columns, extension};
use super::error::SinkError;
use super::files::{at, remove_folder, sync_folder};
use super::paths::SinkPaths;

/// Name of an attempt's receipt: with it, the file beside it is complete.
const RECEIPT: &str = "receipt.json";
/// How often to recreate a folder that another attempt removes meanwhile.
const FOLDER_TRIES: usize = 8;

/// What an attempt has written. The file is complete if its receipt exists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkReceipt {
    pub files: u64,
    pub rows: u64,
    pub bytes: u64,
}

/// Writes the rows of one attempt of a root task. Dropped before [`Self::finish`], it removes what it wrote.
pub struct SinkWriter {
    folder: PathBuf,
    file: PathBuf,
    encoder: Option<Encoder>,
    /// The encoder's buffers.
    reservation: MemoryReservation,
    rows: u64,
    finished: bool,
}

impl SinkWriter {
    pub(super) fn open(
        paths: &SinkPaths,
        attempt: AttemptId,
        schema: &SchemaRef,
        pool: &Arc<dyn MemoryPool>,
    ) -> Result<Self, SinkError> {
        check_columns(paths.format, schema)?;
        let folder = paths.attempt_folder(attempt);
        remove_folder(&folder)?;
        let path = attempt_file(paths, attempt);
        let file = create(&folder, &path)?;
        let mut writer = Self {
            folder,
            file: path,
            encoder: None,
            reservation: MemoryConsumer::new("sink").register(pool),
            rows: 0,
            finished: false,
        };
        let encoder = Encoder::new(paths.format, file, schema);
        writer.encoder = Some(encoder.map_err(|error| SinkError::encode(&writer.file, &error))?);
        Ok(writer)
    }

    /// Appends rows. Encodes and writes on the calling thread.
    ///
    /// # Errors
    ///
    /// If the columns are others than those of [`super::Sink::open`] or the file cannot be written.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), SinkError> {
        if let Some(encoder) = &mut self.encoder {
            let written = encoder
                .write(batch)
                .and_then(|()| charge(encoder, &self.reservation));
            written.map_err(|error| SinkError::encode(&self.file, &error))?;
        }
        self.rows += u64::try_from(batch.num_rows()).unwrap_or(0);
        Ok(())
    }

    /// Completes the file and makes it durable.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn finish(mut self) -> Result<SinkReceipt, SinkError> {
        let Some(encoder) = self.encoder.take() else {
            return Err(SinkError::io(&self.file, "write", &ErrorKind::BrokenPipe.into()));
        };
        let file = encoder
            .finish()
            .map_err(|error| SinkError::encode(&self.file, &error))?;
        at(&self.file, "sync", file.sync_all())?;
        let written = SinkReceipt {
            files: 1,
            rows: self.rows,
            bytes: at(&self.file, "look at", file.metadata())?.len(),
        };
        write_json(&self.folder.join(RECEIPT), &written)?;
        sync_folder(&self.folder)?;
        self.finished = true;
        Ok(written)
    }
}

impl Drop for SinkWriter {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // Errors cannot be reported here; the query's commit or abort removes the rest.
        let _ = fs::remove_dir_all(&self.folder);
        // After the commit or the abort this attempt may be the last user of these.
        for folder in self.folder.ancestors().skip(1).take(3) {
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
    }
}

/// Reserves memory for the encoder's buffers. If the pool is exhausted, writes them to disk, and reserves the rest
/// unconditionally.
fn charge(encoder: &mut Encoder, reservation: &MemoryReservation) -> Result<(), ArrowError> {
    if reservation.try_resize(encoder.buffered_bytes()).is_err() {
        encoder.flush_large_group()?;
        reservation.resize(encoder.buffered_bytes());
    }
    Ok(())
}

fn create(folder: &Path, path: &Path) -> Result<File, SinkError> {
    let mut tries = 1;
    loop {
        let created = fs::create_dir_all(folder).and_then(|()| File::create(path));
        match created {
            Err(error) if error.kind() == ErrorKind::NotFound && tries < FOLDER_TRIES => tries += 1,
            created => return at(path, "create", created),
        }
    }
}

/// The file of an attempt.
pub fn attempt_file(paths: &SinkPaths, attempt: AttemptId) -> PathBuf {
    let name = format!("part.{}", extension(paths.format));
    paths.attempt_folder(attempt).join(name)
}

/// The receipt of an attempt, if it completed its file.
pub fn receipt(paths: &SinkPaths, attempt: AttemptId) -> Result<SinkReceipt, SinkError> {
    let path = paths.attempt_folder(attempt).join(RECEIPT);
    let text = fs::read(path).map_err(|_| SinkError::Incomplete(attempt))?;
    serde_json::from_slice(&text).map_err(|_| SinkError::Incomplete(attempt))
}

/// Writes a small file durably.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), SinkError> {
    let text = serde_json::to_vec(value).map_err(|error| SinkError::encode(path, &error))?;
    let mut file = at(path, "create", File::create(path))?;
    at(
        path,
        "write",
        file.write_all(&text).and_then(|()| file.sync_all()),
    )
}
