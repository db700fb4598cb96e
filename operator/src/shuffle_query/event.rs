//! Events of Kubernetes: one for each transition of a query, none for progress.

use kube::runtime::events::{Event, EventType};
use sluice_crds::ConditionReason;
use sluice_crds::ProgressReason;
use sluice_crds::shuffle_query::status::{QueryPhase, ShuffleQueryStatus};

/// Most bytes of a note, as the API server takes it.
const MAX_NOTE: usize = 1024;

/// What happened between two statuses of a query, if it is worth an event.
pub fn between(old: &ShuffleQueryStatus, new: &ShuffleQueryStatus) -> Option<Event> {
    if old.phase == new.phase && old.reason == new.reason && old.coordinator_epoch == new.coordinator_epoch {
        return None;
    }
    let reason = new.reason?;
    let type_ = match reason {
        ConditionReason::Error(_) => EventType::Warning,
        ConditionReason::Progress(reason) if needs_a_hand(reason) => EventType::Warning,
        ConditionReason::Progress(_) => EventType::Normal,
    };
    let action = match new.phase {
        QueryPhase::Pending if new.admitted_time.is_none() => "Admit",
        QueryPhase::Pending => "StartCoordinator",
        QueryPhase::Running => "Run",
        QueryPhase::Suspended => "Suspend",
        QueryPhase::Succeeded | QueryPhase::Failed | QueryPhase::Cancelled => "End",
    };
    let mut note = new.message.clone().unwrap_or_default();
    while note.len() > MAX_NOTE {
        note.pop();
    }
    Some(Event {
        type_,
        reason: serde_json::to_value(reason).ok()?.as_str()?.to_owned(),
        note: Some(note).filter(|note| !note.is_empty()),
        action: action.to_owned(),
        secondary: None,
    })
}

/// Whether somebody must do something before a query goes on.
const fn needs_a_hand(reason: ProgressReason) -> bool {
    match reason {
        ProgressReason::PoolNotFound
        | ProgressReason::SqlNotFound
        | ProgressReason::CoordinatorRestarting
        | ProgressReason::ImagePullFailed
        | ProgressReason::ContainerFailed
        | ProgressReason::QuotaExceeded
        | ProgressReason::PodRefused
        | ProgressReason::VolumeUnavailable
        | ProgressReason::VolumesUnmountable
        | ProgressReason::Tainted
        | ProgressReason::Unschedulable
        | ProgressReason::NameTaken => true,
        ProgressReason::Pending
        | ProgressReason::Valid
        | ProgressReason::Planned
        | ProgressReason::WaitingForWorkers
        | ProgressReason::WorkersRegistered
        | ProgressReason::Running
        | ProgressReason::Completed
        | ProgressReason::Admitted
        | ProgressReason::WaitingForPool
        | ProgressReason::WaitingForPlace
        | ProgressReason::CoordinatorStarting
        | ProgressReason::CoordinatorServing
        | ProgressReason::Suspended
        | ProgressReason::WorkersStarting
        | ProgressReason::WorkersLeaving
        | ProgressReason::WorkersReady => false,
    }
}

#[cfg(test)]
mod tests {
    use sluice_crds::ErrorReason;

    use super::*;

    fn status(phase: QueryPhase, reason: ConditionReason) -> ShuffleQueryStatus {
        ShuffleQueryStatus {
            phase,
            reason: Some(reason),
            message: Some("why".to_owned()),
            ..ShuffleQueryStatus::default()
        }
    }

    #[test]
    fn transitions_make_events_and_progress_makes_none() {
        let waiting = status(QueryPhase::Pending, ProgressReason::WaitingForPool.into());
        let missing = status(QueryPhase::Pending, ProgressReason::PoolNotFound.into());
        let running = status(QueryPhase::Running, ProgressReason::Running.into());
        let failed = status(QueryPhase::Failed, ErrorReason::TaskFailed.into());
        let mut further = running.clone();
        further.totals.rows_read = 7;
        assert!(between(&running, &further).is_none());
        for (old, new, type_, reason, action) in [
            (&missing, &waiting, EventType::Normal, "WaitingForPool", "Admit"),
            (&waiting, &missing, EventType::Warning, "PoolNotFound", "Admit"),
            (&waiting, &running, EventType::Normal, "Running", "Run"),
            (&running, &failed, EventType::Warning, "TaskFailed", "End"),
        ] {
            let event = between(old, new).unwrap();
            assert_eq!(
                (event.type_, event.reason.as_str(), event.action.as_str()),
                (type_, reason, action)
            );
            assert_eq!(event.note.as_deref(), Some("why"));
        }
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let mut new = status(QueryPhase::Failed, ErrorReason::Internal.into());
        new.message = Some("ü".repeat(1_000));
        let note = between(&ShuffleQueryStatus::default(), &new)
            .unwrap()
            .note
            .unwrap();
        assert_eq!(note.len(), MAX_NOTE);
    }
}
