//! The bounds of a status. All objects of a cluster share one small database, so a status is limited in size whatever
//! the query is.

use std::collections::BTreeSet;

use super::status::{QueryPhase, ResultPreview, ShuffleQueryStatus, StageState};
use crate::conditions::MAX_MESSAGE;
use crate::text::shorten;

/// Most rows of a result preview.
pub const PREVIEW_MAX_ROWS: usize = 20;
/// Most bytes of a result preview, as JSON.
pub const PREVIEW_MAX_BYTES: usize = 4 << 10;
/// Most columns of a result preview.
pub const PREVIEW_MAX_COLUMNS: usize = 64;
/// Most characters of one column name or value of a result preview.
pub const PREVIEW_MAX_TEXT: usize = 256;
/// Length to which values are cut before rows are left out, in characters.
const PREVIEW_SHORT_TEXT: usize = 64;
/// Shortest text to which values are cut before whole columns are left out.
const PREVIEW_MIN_TEXT: usize = 16;
/// Most stages in the list.
pub const MAX_STAGES: usize = 128;
/// Classes of the histogram of a stage's partitions.
pub const HISTOGRAM_CLASSES: usize = 10;
/// Most conditions.
pub(super) const MAX_CONDITIONS: usize = 8;
/// Most characters of the message beside the phase.
pub const MAX_SHORT_MESSAGE: usize = 256;
/// Most characters of a stage's label.
pub(super) const MAX_LABEL: usize = 64;
/// Most characters of a `2/5` summary.
const MAX_SUMMARY: usize = 32;
/// Most characters of the sink's location.
const MAX_LOCATION: usize = 1024;
/// No status of a running query is larger than this, as JSON, in bytes.
pub const HARD_STATUS_BYTES: usize = 64 << 10;
/// A query of up to 32 stages stays below this, as JSON, in bytes.
pub const TYPICAL_STATUS_BYTES: usize = 16 << 10;
/// No status of a finished query is larger than this, as JSON, in bytes: it fits the termination message of a pod,
/// which Kubernetes cuts at 4096 bytes.
pub const TERMINAL_STATUS_BYTES: usize = 4 << 10;

/// The status within its bounds: texts are shortened, then stages and preview rows are left out, the larger of both
/// first, until the whole fits. Left-out stages are counted in `stagesOmitted`; running stages stay longest, waiting
/// ones go first, of finished ones those that took the least time. What is within the bounds stays as it is.
pub fn bound(mut status: ShuffleQueryStatus) -> ShuffleQueryStatus {
    shorten_texts(&mut status);
    status.conditions.truncate(MAX_CONDITIONS);
    drop_stages(&mut status, MAX_STAGES);
    if let Some(preview) = status.preview.take() {
        status.preview = bound_preview(preview);
    }
    let limit = if status.phase.is_terminal() {
        TERMINAL_STATUS_BYTES
    } else {
        HARD_STATUS_BYTES
    };
    while json_bytes(&status) > limit && shrink(&mut status) {}
    status
}

/// Bytes of a value as JSON. These types always serialise; if one did not, it would count as too large.
fn json_bytes(value: &impl serde::Serialize) -> usize {
    serde_json::to_vec(value).map_or(usize::MAX, |json| json.len())
}

/// One step smaller; false when nothing is left to take.
fn shrink(status: &mut ShuffleQueryStatus) -> bool {
    shrink_lists(status) || shrink_longest_text(status)
}

/// Leaves out a stage, or a part of the preview, whichever of both is larger; false when neither is left.
pub fn shrink_lists(status: &mut ShuffleQueryStatus) -> bool {
    let stages = if status.stages.is_empty() {
        0
    } else {
        json_bytes(&status.stages)
    };
    let preview = status.preview.as_ref().map_or(0, json_bytes);
    if preview > stages {
        let kept = status.preview.as_mut().is_some_and(shrink_preview);
        if !kept {
            status.preview = None;
        }
        return true;
    }
    if stages > 0 {
        let keep = status.stages.len() - 1;
        drop_stages(status, keep);
        return true;
    }
    false
}

/// Halves the longest message or location.
fn shrink_longest_text(status: &mut ShuffleQueryStatus) -> bool {
    let texts = status
        .conditions
        .iter_mut()
        .map(|condition| &mut condition.message);
    let texts = texts.chain(status.message.as_mut());
    let texts = texts.chain(status.error.as_mut().map(|error| &mut error.message));
    let texts = texts.chain(status.sink.as_mut().map(|sink| &mut sink.location));
    match texts.max_by_key(|text| text.len()) {
        Some(text) if text.chars().count() > 1 => {
            let half = text.chars().count() / 2;
            shorten(text, half);
            true
        }
        _ => false,
    }
}

fn shorten_texts(status: &mut ShuffleQueryStatus) {
    for condition in &mut status.conditions {
        shorten(&mut condition.message, MAX_MESSAGE);
    }
    for stage in &mut status.stages {
        shorten(&mut stage.label, MAX_LABEL);
        stage.partition_bytes_histogram.truncate(HISTOGRAM_CLASSES);
    }
    for summary in [&mut status.stages_done, &mut status.tasks_done]
        .into_iter()
        .flatten()
    {
        shorten(summary, MAX_SUMMARY);
    }
    if let Some(message) = &mut status.message {
        shorten(message, MAX_SHORT_MESSAGE);
    }
    if let Some(error) = &mut status.error {
        shorten(&mut error.message, MAX_MESSAGE);
    }
    if let Some(sink) = &mut status.sink {
        shorten(&mut sink.location, MAX_LOCATION);
    }
}

/// Leaves out stages until `keep` are left.
fn drop_stages(status: &mut ShuffleQueryStatus, keep: usize) {
    let surplus = status.stages.len().saturating_sub(keep);
    if surplus == 0 {
        return;
    }
    let mut order: Vec<(u8, u64, usize)> = status
        .stages
        .iter()
        .enumerate()
        .map(|(index, stage)| match stage.state {
            StageState::Waiting => (0, u64::from(u32::MAX - stage.id), index),
            StageState::Done => (1, stage.elapsed_millis, index),
            StageState::Running => (2, stage.elapsed_millis, index),
        })
        .collect();
    order.sort_unstable();
    let dropped: BTreeSet<usize> = order.into_iter().take(surplus).map(|(.., index)| index).collect();
    let mut index = 0..;
    status
        .stages
        .retain(|_| index.next().is_some_and(|index| !dropped.contains(&index)));
    status.stages_omitted = status
        .stages_omitted
        .saturating_add(u32::try_from(surplus).unwrap_or(u32::MAX));
}

/// The preview within its bounds: values are cut to 64 characters before rows are left out, and one row stays for as long as
/// there is room for any. `None` if there is none.
pub fn bound_preview(mut preview: ResultPreview) -> Option<ResultPreview> {
    if preview.rows.len() > PREVIEW_MAX_ROWS {
        preview.rows.truncate(PREVIEW_MAX_ROWS);
        preview.truncated = true;
    }
    drop_columns(&mut preview, PREVIEW_MAX_COLUMNS);
    cut_values(&mut preview, PREVIEW_MAX_TEXT);
    while json_bytes(&preview) > PREVIEW_MAX_BYTES {
        if !shrink_preview(&mut preview) {
            return None;
        }
    }
    Some(preview)
}

/// One step smaller: shorter values, then a row less, then still shorter values, then fewer columns; false when nothing is
/// left to take.
fn shrink_preview(preview: &mut ResultPreview) -> bool {
    let texts = preview.columns.iter().chain(preview.rows.iter().flatten());
    let longest = texts.map(|text| text.chars().count()).max().unwrap_or(0);
    if longest > PREVIEW_SHORT_TEXT {
        cut_values(preview, (longest / 2).max(PREVIEW_SHORT_TEXT));
        return true;
    }
    if preview.rows.len() > 1 {
        preview.rows.pop();
        preview.truncated = true;
        return true;
    }
    if longest > PREVIEW_MIN_TEXT {
        cut_values(preview, (longest / 2).max(PREVIEW_MIN_TEXT));
        return true;
    }
    let columns = preview.columns.len();
    drop_columns(preview, columns / 2);
    columns > 1
}

fn drop_columns(preview: &mut ResultPreview, keep: usize) {
    for values in std::iter::once(&mut preview.columns).chain(&mut preview.rows) {
        if values.len() > keep {
            values.truncate(keep);
            preview.truncated = true;
        }
    }
}

fn cut_values(preview: &mut ResultPreview, most: usize) {
    for text in preview
        .columns
        .iter_mut()
        .chain(preview.rows.iter_mut().flatten())
    {
        preview.truncated |= shorten(text, most);
    }
}

impl ShuffleQueryStatus {
    /// Whether the status is final.
    pub const fn is_terminal(&self) -> bool {
        QueryPhase::is_terminal(self.phase)
    }
}

#[cfg(test)]
mod tests;
