//! How soon a query's new status must be written.

use std::time::Duration;

use sluice_crds::QueryConditionType;
use sluice_crds::shuffle_query::status::{ShuffleQueryStatus, StageState};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Nothing changed.
    Same,
    /// Counters moved.
    Progress,
    /// A stage started or ended.
    Stage,
    /// Something else changed within the phase, such as a step of the start.
    Step,
    /// The phase changed.
    Transition,
}

impl Urgency {
    /// Compares two statuses of a query.
    pub fn between(old: &ShuffleQueryStatus, new: &ShuffleQueryStatus) -> Self {
        let (still_old, still_new) = (without_clocks(old), without_clocks(new));
        if still_old == still_new {
            return Self::Same;
        }
        if without_progress(still_old.clone()) != without_progress(still_new.clone()) {
            return if old.phase == new.phase {
                Self::Step
            } else {
                Self::Transition
            };
        }
        let states = |status: &ShuffleQueryStatus| -> Vec<(u32, StageState)> {
            status
                .stages
                .iter()
                .map(|stage| (stage.id, stage.state))
                .collect()
        };
        if states(&still_old) != states(&still_new) {
            return Self::Stage;
        }
        Self::Progress
    }

    /// The least time between the last write and one of this urgency.
    pub const fn period(self) -> Duration {
        match self {
            Self::Same | Self::Progress => Duration::from_secs(5),
            Self::Stage => Duration::from_secs(1),
            // The steps of a fast start are not written. That the query runs is written at once.
            Self::Step => Duration::from_secs(2),
            Self::Transition => Duration::ZERO,
        }
    }
}

/// Elapsed times change even when nothing else does.
fn without_clocks(status: &ShuffleQueryStatus) -> ShuffleQueryStatus {
    let mut status = status.clone();
    for stage in &mut status.stages {
        if stage.state != StageState::Done {
            stage.elapsed_millis = 0;
        }
    }
    status
}

fn without_progress(mut status: ShuffleQueryStatus) -> ShuffleQueryStatus {
    for condition in &mut status.conditions {
        if condition.type_ == QueryConditionType::WorkersReady {
            // The message counts workers and slots.
            condition.message = String::new();
        }
    }
    ShuffleQueryStatus {
        stages: Vec::new(),
        stages_omitted: 0,
        stages_done: None,
        tasks_done: None,
        totals: Default::default(),
        tasks: Default::default(),
        preview: None,
        ..status
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;
    use sluice_crds::Time;
    use sluice_crds::shuffle_query::status::{QueryPhase, StageStatus};

    use super::*;

    fn stage(id: u32, state: StageState, elapsed_millis: u64) -> StageStatus {
        let stage = json!({"id": id, "label": "scan", "state": state, "elapsedMillis": elapsed_millis});
        serde_json::from_value(stage).unwrap()
    }

    #[test]
    fn only_what_changed_is_written_and_the_weightier_the_sooner() {
        let old = ShuffleQueryStatus {
            phase: QueryPhase::Running,
            stages: vec![stage(0, StageState::Done, 5), stage(1, StageState::Running, 7)],
            ..ShuffleQueryStatus::default()
        };
        let changed = |change: fn(&mut ShuffleQueryStatus)| {
            let mut new = old.clone();
            change(&mut new);
            Urgency::between(&old, &new)
        };
        assert_eq!(changed(|new| new.stages[1].elapsed_millis = 9_000), Urgency::Same);
        assert_eq!(changed(|new| new.totals.rows_read = 1), Urgency::Progress);
        assert_eq!(
            changed(|new| new.tasks_done = Some("1/2".to_owned())),
            Urgency::Progress
        );
        assert_eq!(
            changed(|new| new.stages[1].state = StageState::Done),
            Urgency::Stage
        );
        assert_eq!(
            changed(|new| new.phase = QueryPhase::Succeeded),
            Urgency::Transition
        );
        assert_eq!(changed(|new| new.coordinator_epoch = 2), Urgency::Step);
        assert_eq!(
            changed(|new| new.first_row_time = Some(Time(Timestamp::UNIX_EPOCH))),
            Urgency::Step
        );
    }
}
