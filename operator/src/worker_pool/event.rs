//! Events of Kubernetes: one for each transition of a pool, none for workers that come and go.

use kube::runtime::events::{Event, EventType};
use sluice_crds::{
    Condition, ConditionReason, ConditionStatus, PoolConditionType, ProgressReason, WorkerPoolStatus,
};

/// Most bytes of a note, as the API server takes it.
const MAX_NOTE: usize = 1024;

/// What happened between two statuses of a pool, if it is worth an event: it became ready or is not any more, or it is not
/// for another reason.
pub fn between(old: &WorkerPoolStatus, new: &WorkerPoolStatus) -> Option<Event> {
    let now = ready(new)?;
    let same = ready(old).is_some_and(|before| before.status == now.status && before.reason == now.reason);
    if same {
        return None;
    }
    let type_ = match now.reason {
        ConditionReason::Error(_) => EventType::Warning,
        ConditionReason::Progress(reason) if needs_a_hand(reason) => EventType::Warning,
        ConditionReason::Progress(_) => EventType::Normal,
    };
    let action = match now.status {
        ConditionStatus::True => "Serve",
        ConditionStatus::False | ConditionStatus::Unknown => "Scale",
    };
    let mut note = now.message.clone();
    while note.len() > MAX_NOTE {
        note.pop();
    }
    Some(Event {
        type_,
        reason: serde_json::to_value(now.reason).ok()?.as_str()?.to_owned(),
        note: Some(note).filter(|note| !note.is_empty()),
        action: action.to_owned(),
        secondary: None,
    })
}

fn ready(status: &WorkerPoolStatus) -> Option<&Condition<PoolConditionType>> {
    let mut conditions = status.conditions.iter();
    conditions.find(|condition| condition.type_ == PoolConditionType::Ready)
}

/// Whether somebody must do something before the pool has its workers.
const fn needs_a_hand(reason: ProgressReason) -> bool {
    match reason {
        ProgressReason::ImagePullFailed
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
        | ProgressReason::PoolNotFound
        | ProgressReason::SqlNotFound
        | ProgressReason::CoordinatorStarting
        | ProgressReason::CoordinatorServing
        | ProgressReason::CoordinatorRestarting
        | ProgressReason::Suspended
        | ProgressReason::WorkersStarting
        | ProgressReason::WorkersLeaving
        | ProgressReason::WorkersReady => false,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use sluice_crds::{ErrorReason, Time};

    use super::*;

    fn status(status: ConditionStatus, reason: ConditionReason, message: &str) -> WorkerPoolStatus {
        WorkerPoolStatus {
            conditions: vec![Condition {
                type_: PoolConditionType::Ready,
                status,
                reason,
                message: message.to_owned(),
                observed_generation: None,
                last_transition_time: Time(Timestamp::UNIX_EPOCH),
            }],
            ..WorkerPoolStatus::default()
        }
    }

    #[test]
    fn transitions_make_events_and_progress_makes_none() {
        let none = WorkerPoolStatus::default();
        let not = ConditionStatus::False;
        let starts = |message| status(not, ProgressReason::WorkersStarting.into(), message);
        let stuck = status(not, ProgressReason::Unschedulable.into(), "no node");
        let ready = status(ConditionStatus::True, ProgressReason::WorkersReady.into(), "");
        let leaving = status(ConditionStatus::True, ProgressReason::WorkersLeaving.into(), "1");
        let wrong = status(not, ErrorReason::InvalidSpec.into(), "spec.replicas");
        let (one, two) = (starts("0 of 2"), starts("1 of 2"));
        assert!(between(&one, &two).is_none());
        assert!(between(&ready, &ready).is_none());
        assert!(between(&one, &none).is_none());
        for (old, new, type_, reason, action, note) in [
            (
                &none,
                &one,
                EventType::Normal,
                "WorkersStarting",
                "Scale",
                Some("0 of 2"),
            ),
            (
                &one,
                &stuck,
                EventType::Warning,
                "Unschedulable",
                "Scale",
                Some("no node"),
            ),
            (&stuck, &ready, EventType::Normal, "WorkersReady", "Serve", None),
            (
                &ready,
                &leaving,
                EventType::Normal,
                "WorkersLeaving",
                "Serve",
                Some("1"),
            ),
            (
                &ready,
                &wrong,
                EventType::Warning,
                "InvalidSpec",
                "Scale",
                Some("spec.replicas"),
            ),
        ] {
            let event = between(old, new).unwrap();
            assert_eq!(
                (
                    event.type_,
                    event.reason.as_str(),
                    event.action.as_str(),
                    event.note.as_deref()
                ),
                (type_, reason, action, note)
            );
        }
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let new = status(
            ConditionStatus::False,
            ProgressReason::PodRefused.into(),
            &"ü".repeat(1_000),
        );
        let note = between(&WorkerPoolStatus::default(), &new).unwrap().note.unwrap();
        assert_eq!(note.len(), MAX_NOTE);
    }
}
