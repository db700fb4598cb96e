//! Events of Kubernetes.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};
use sluice_crds::{ConditionReason, ProgressReason};
use tracing::Instrument as _;

/// Most bytes of a note that the API server accepts.
const MAX_NOTE: usize = 1024;
/// Longest time of publishing an event.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);

/// Publishes `event` about `object` in a task of its own: nothing depends on it.
pub fn publish(recorder: &Recorder, event: Event, object: ObjectReference) {
    let recorder = recorder.clone();
    let publish = async move {
        let published = tokio::time::timeout(PUBLISH_TIMEOUT, recorder.publish(&event, &object));
        if let Ok(Err(error)) = published.await {
            tracing::debug!(%error, "the event was not published");
        }
    };
    tokio::spawn(publish.in_current_span());
}

/// The event of a transition to `reason`: a warning if `reason` is an error or requires action by a user. `note` is cut to the
/// API server's limit.
pub fn event(reason: ConditionReason, action: &str, mut note: String) -> Option<Event> {
    let type_ = match reason {
        ConditionReason::Error(_) => EventType::Warning,
        ConditionReason::Progress(reason) if requires_user_action(reason) => EventType::Warning,
        ConditionReason::Progress(_) => EventType::Normal,
    };
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

/// Whether a user must act before the object makes progress.
const fn requires_user_action(reason: ProgressReason) -> bool {
    match reason {
        ProgressReason::PoolNotFound
        | ProgressReason::SqlNotFound
        | ProgressReason::ResultLost
        | ProgressReason::CoordinatorRestarting
        | ProgressReason::CoordinatorUnreachable
        | ProgressReason::NamespaceQuotaReached
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
        | ProgressReason::Queued
        | ProgressReason::CoordinatorStarting
        | ProgressReason::CoordinatorServing
        | ProgressReason::Suspended
        | ProgressReason::WorkersStarting
        | ProgressReason::WorkersDraining
        | ProgressReason::WorkersReady
        | ProgressReason::ScaledToZero => false,
    }
}

#[cfg(test)]
mod tests {
    use sluice_crds::ErrorReason;

    use super::*;

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let event = event(ErrorReason::Internal.into(), "End", "ü".repeat(1_000)).unwrap();
        assert_eq!(event.note.unwrap().len(), MAX_NOTE);
    }
}
