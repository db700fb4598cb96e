//! Events of Kubernetes: one for each transition of a pool, none for workers that come and go.

use kube::runtime::events::Event;
use sluice_crds::{Condition, ConditionStatus, PoolConditionType, WorkerPoolStatus};

use crate::controller_runtime::events::event;

/// The event of the transition between two statuses, if it is worth one: the pool became ready, stopped being ready, or has
/// another reason.
pub fn between(old: &WorkerPoolStatus, new: &WorkerPoolStatus) -> Option<Event> {
    let now = ready(new)?;
    let same = ready(old).is_some_and(|before| before.status == now.status && before.reason == now.reason);
    if same {
        return None;
    }
    let action = match now.status {
        ConditionStatus::True => "Serve",
        ConditionStatus::False | ConditionStatus::Unknown => "Scale",
    };
    event(now.reason, action, now.message.clone())
}

fn ready(status: &WorkerPoolStatus) -> Option<&Condition<PoolConditionType>> {
    let mut conditions = status.conditions.iter();
    conditions.find(|condition| condition.type_ == PoolConditionType::Ready)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use kube::runtime::events::EventType;
    use sluice_crds::{ConditionReason, ErrorReason, ProgressReason, Time};

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
        let leaving = status(ConditionStatus::True, ProgressReason::WorkersDraining.into(), "1");
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
                "WorkersDraining",
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
}
