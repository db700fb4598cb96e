//! The termination message of a coordinator: what remains of a query's outcome when its pod is gone.
//!
//! A coordinator writes it as JSON to the file that `SLUICE_TERMINATION_LOG` names, and the kubelet shows it in the pod's
//! status. It is written only when the query has ended, not by a coordinator that was stopped or superseded.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};
use sluice_crds::shuffle_query::status::{
    QueryError, QueryPhase, QueryTotals, ResultPreview, ShuffleQueryStatus, SinkStatus, SpeculationCounts,
    StageStatus, TaskCounts,
};
use sluice_crds::shuffle_query::{bound, shrink_lists};
use sluice_crds::text::shorten;
use sluice_crds::{
    Condition, ConditionReason, ConditionStatus, ErrorReason, ProgressReason, QueryConditionType,
};

/// The longest message, bytes: the kubelet cuts the message of a container there.
pub const MAX_BYTES: usize = 4 * 1024;

/// How a query ended, with all that the status of an ended query shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Termination {
    /// Succeeded, Failed or Cancelled.
    pub phase: QueryPhase,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ErrorReason>,
    /// The same for people; cut where the whole would be too long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The stage in which it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<u32>,
    /// The task of that stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<u32>,
    /// What the whole query did; zeros where a predecessor did it.
    #[serde(default)]
    pub totals: QueryTotals,
    /// What its sink shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<SinkStatus>,
    /// When the coordinator took the query up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the first row could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_row_time: Option<Time>,
    /// When the query ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Time>,
    /// Stages done of stages planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stages_done: Option<String>,
    /// Tasks done of tasks planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks_done: Option<String>,
    /// Attempts that ran near their data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_attempts: Option<String>,
    /// The duplicates of slow attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speculation: Option<SpeculationCounts>,
    /// Tasks over the whole query.
    #[serde(default)]
    pub tasks: TaskCounts,
    /// Stages, as far as there is room.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageStatus>,
    /// Stages for which there is none.
    #[serde(default)]
    pub stages_omitted: u32,
    /// First rows of a result without a sink, as far as there is room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<ResultPreview>,
}

impl From<&ShuffleQueryStatus> for Termination {
    fn from(status: &ShuffleQueryStatus) -> Self {
        let error = status.error.as_ref();
        Self {
            phase: status.phase,
            reason: error.map(|error| error.reason),
            message: error.map(|error| error.message.clone()),
            stage: error.and_then(|error| error.stage),
            task: error.and_then(|error| error.task),
            totals: status.totals,
            sink: status.sink.clone(),
            start_time: status.start_time.clone(),
            first_row_time: status.first_row_time.clone(),
            end_time: status.end_time.clone(),
            stages_done: status.stages_done.clone(),
            tasks_done: status.tasks_done.clone(),
            local_attempts: status.local_attempts.clone(),
            speculation: status.speculation,
            tasks: status.tasks,
            stages: status.stages.clone(),
            stages_omitted: status.stages_omitted,
            preview: status.preview.clone(),
        }
    }
}

impl Termination {
    /// The message of a query that failed before it could run.
    pub fn refused(reason: ErrorReason, message: String, at: Timestamp) -> Self {
        let at = Time(at);
        let status = ShuffleQueryStatus {
            phase: QueryPhase::Failed,
            error: Some(QueryError {
                reason,
                message,
                stage: None,
                task: None,
            }),
            start_time: Some(at.clone()),
            end_time: Some(at),
            ..ShuffleQueryStatus::default()
        };
        Self::from(&status)
    }

    /// The status of a query of which only this message is left: it ended before a coordinator reported on it.
    pub fn status(&self) -> ShuffleQueryStatus {
        let at = self.end_time.clone().unwrap_or(Time(Timestamp::UNIX_EPOCH));
        let condition = |type_, status, reason: ConditionReason, message: &str| Condition {
            type_,
            status,
            reason,
            message: message.to_owned(),
            observed_generation: None,
            last_transition_time: at.clone(),
        };
        let message = self.message.clone().filter(|message| !message.is_empty());
        let said = message.as_deref().unwrap_or_default();
        let accepted = match self.reason {
            Some(reason) if reason.is_rejection() => (ConditionStatus::False, reason.into(), said),
            Some(_) | None => (ConditionStatus::True, ProgressReason::Valid.into(), ""),
        };
        let (succeeded, reason) = match self.reason {
            Some(reason) => (ConditionStatus::False, reason.into()),
            None => (ConditionStatus::True, ProgressReason::Completed.into()),
        };
        bound(ShuffleQueryStatus {
            phase: self.phase,
            reason: Some(reason),
            message: message.clone(),
            conditions: vec![
                condition(QueryConditionType::Accepted, accepted.0, accepted.1, accepted.2),
                condition(QueryConditionType::Succeeded, succeeded, reason, ""),
                condition(QueryConditionType::Complete, ConditionStatus::True, reason, ""),
            ],
            start_time: self.start_time.clone(),
            first_row_time: self.first_row_time.clone(),
            end_time: self.end_time.clone(),
            totals: self.totals,
            error: self.reason.map(|reason| QueryError {
                reason,
                message: message.unwrap_or_default(),
                stage: self.stage,
                task: self.task,
            }),
            sink: self.sink.clone(),
            stages_done: self.stages_done.clone(),
            tasks_done: self.tasks_done.clone(),
            local_attempts: self.local_attempts.clone(),
            speculation: self.speculation,
            tasks: self.tasks,
            stages: self.stages.clone(),
            stages_omitted: self.stages_omitted,
            preview: self.preview.clone(),
            ..ShuffleQueryStatus::default()
        })
    }

    /// The text, at most [`MAX_BYTES`] long. Stages and preview are shortened first, the larger of both before the other,
    /// then the message, then the sink's location.
    ///
    /// # Errors
    /// None that a value of this type can cause; JSON encoding has them in its signature.
    pub fn encode(&self) -> serde_json::Result<String> {
        let mut words = self.clone();
        loop {
            let text = serde_json::to_string(&words)?;
            let Some(over) = text.len().checked_sub(MAX_BYTES).filter(|over| *over > 0) else {
                return Ok(text);
            };
            if words.shrink_lists() {
                continue;
            }
            match (&mut words.message, &mut words.sink) {
                // A character takes six bytes at most, so each round takes off enough or leaves a short rest to the next.
                (Some(message), _) if !message.is_empty() => shorten_by(message, over.div_ceil(6).max(8)),
                (_, Some(sink)) if !sink.location.is_empty() => shorten_by(&mut sink.location, over.max(8)),
                _ => return Ok(text),
            }
        }
    }

    /// Leaves out a stage or a part of the preview; false when neither is left.
    fn shrink_lists(&mut self) -> bool {
        let mut lists = ShuffleQueryStatus {
            stages: std::mem::take(&mut self.stages),
            stages_omitted: self.stages_omitted,
            preview: self.preview.take(),
            ..ShuffleQueryStatus::default()
        };
        let smaller = shrink_lists(&mut lists);
        (self.stages, self.stages_omitted) = (lists.stages, lists.stages_omitted);
        self.preview = lists.preview;
        smaller
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// It did not: the kubelet may show other texts, as the end of a crashed container's log.
    pub fn decode(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }
}

/// Cuts characters off the end, and marks the cut.
fn shorten_by(text: &mut String, characters: usize) {
    let kept = text.chars().count().saturating_sub(characters);
    shorten(text, kept);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(message: String) -> Termination {
        Termination::refused(ErrorReason::InvalidSql, message, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn it_survives_its_way_and_names_are_the_contract() {
        let words = failed("no such column".into());
        let text = words.encode().expect("it encodes");
        assert_eq!(Termination::decode(&text).expect("it decodes"), words);
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json["phase"], "Failed");
        assert_eq!(json["reason"], "InvalidSql");
        assert_eq!(json["endTime"], "1970-01-01T00:00:00Z");
        assert!(Termination::decode("thread 'main' panicked").is_err());
    }

    #[test]
    fn they_are_a_status_where_there_is_no_other() {
        let status = failed("no such column".into()).status();
        assert_eq!(
            (status.phase, status.reason),
            (QueryPhase::Failed, Some(ErrorReason::InvalidSql.into()))
        );
        assert_eq!(status.message.as_deref(), Some("no such column"));
        let error = status.error.expect("it failed");
        assert_eq!(
            (error.reason, error.message.as_str()),
            (ErrorReason::InvalidSql, "no such column")
        );
        let at = Some(Time(Timestamp::UNIX_EPOCH));
        assert_eq!((&status.start_time, &status.end_time), (&at, &at));
        let seen: Vec<_> = status.conditions.iter().map(|c| (c.type_, c.status)).collect();
        let accepted = (QueryConditionType::Accepted, ConditionStatus::False);
        assert_eq!(
            seen,
            [
                accepted,
                (QueryConditionType::Succeeded, ConditionStatus::False),
                (QueryConditionType::Complete, ConditionStatus::True)
            ]
        );

        let message = "it was lost".to_owned();
        let lost = Termination::refused(ErrorReason::CoordinatorLost, message, Timestamp::UNIX_EPOCH);
        assert_eq!(
            lost.status().conditions[0].status,
            ConditionStatus::True,
            "the query itself is good"
        );
    }

    fn succeeded(rows: usize, value: &str, stages: u32) -> Termination {
        let stage = |id| {
            let stage = serde_json::json!({"id": id, "label": "scan lineitem and more of it", "state": "Done",
                "tasksPlanned": 40, "tasksDone": 40, "rowsRead": 123_456_789, "elapsedMillis": id});
            serde_json::from_value(stage).expect("a stage")
        };
        Termination::from(&ShuffleQueryStatus {
            phase: QueryPhase::Succeeded,
            stages: (0..stages).map(stage).collect(),
            stages_done: Some(format!("{stages}/{stages}")),
            tasks_done: Some("40/40".to_owned()),
            speculation: Some(SpeculationCounts {
                launched: 3,
                won: 2,
                wasted: 1,
                wasted_ms: 700,
            }),
            preview: Some(ResultPreview {
                columns: vec!["a".to_owned(), "b".to_owned()],
                rows: vec![vec![value.to_owned(); 2]; rows],
                truncated: false,
            }),
            ..ShuffleQueryStatus::default()
        })
    }

    #[test]
    fn who_reads_them_late_has_the_rows_and_the_stages() {
        let words = succeeded(20, "a value", 5);
        let text = words.encode().expect("it encodes");
        let read = Termination::decode(&text).expect("it decodes");
        assert_eq!(read, words);
        let status = read.status();
        assert_eq!(
            (status.preview.as_ref(), status.stages.len()),
            (words.preview.as_ref(), 5)
        );
        assert_eq!(status.tasks_done.as_deref(), Some("40/40"));
        assert_eq!(
            status.speculation.map(|counts| (counts.launched, counts.won)),
            Some((3, 2))
        );

        for words in [succeeded(20, &"\u{1}".repeat(256), 128), succeeded(1, "1", 5_000)] {
            let text = words.encode().expect("it encodes");
            assert!(text.len() <= MAX_BYTES, "{}", text.len());
            let read = Termination::decode(&text).expect("it decodes");
            assert_eq!(
                read.stages.len() + read.stages_omitted as usize,
                words.stages.len()
            );
            let preview = read.preview.expect("it is only cut");
            assert!(!preview.rows.is_empty());
            assert_eq!(preview.truncated, Some(&preview) != words.preview.as_ref());
        }
    }

    #[test]
    fn words_of_an_older_build_have_neither() {
        let old = r#"{"phase": "Succeeded", "totals": {"rowsWritten": 4}}"#;
        let words = Termination::decode(old).expect("it decodes");
        assert_eq!((words.preview, words.stages), (None, Vec::new()));
    }

    #[test]
    fn long_words_are_cut_to_what_the_kubelet_takes() {
        for character in ["a", "é", "\u{1}", "\"", "🦀"] {
            let words = failed(character.repeat(5_000));
            let text = words.encode().expect("it encodes");
            assert!(text.len() <= MAX_BYTES, "{character:?}: {}", text.len());
            let message = Termination::decode(&text).expect("it decodes").message;
            let message = message.expect("it is only cut");
            assert!(
                message.starts_with(character) && message.ends_with('…'),
                "{message}"
            );
        }
        let sink = SinkStatus {
            location: "x".repeat(9_000),
            files: 1,
            rows: 2,
            bytes: 3,
        };
        let words = Termination {
            sink: Some(sink),
            ..failed("y".repeat(9_000))
        };
        assert!(words.encode().expect("it encodes").len() <= MAX_BYTES);
    }
}
