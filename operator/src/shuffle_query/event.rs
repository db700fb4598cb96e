//! Events of Kubernetes: one for each transition of a query, none for progress.

use kube::runtime::events::Event;
use sluice_crds::ProgressReason;
use sluice_crds::shuffle_query::status::{QueryPhase, ShuffleQueryStatus};

use crate::controller_runtime::events::event;

/// The event of the transition between two statuses, if it is worth one.
pub fn between(old: &ShuffleQueryStatus, new: &ShuffleQueryStatus) -> Option<Event> {
    if old.phase == new.phase && old.reason == new.reason && old.coordinator_epoch == new.coordinator_epoch {
        return None;
    }
    let reason = new.reason?;
    if old.reason.is_none() && reason == ProgressReason::Admitted.into() {
        // It did not wait. The event that it runs comes next.
        return None;
    }
    let action = match new.phase {
        QueryPhase::Pending if new.admitted_time.is_none() => "Admit",
        QueryPhase::Pending => "StartCoordinator",
        QueryPhase::Running => "Run",
        QueryPhase::Suspended => "Suspend",
        QueryPhase::Succeeded | QueryPhase::Failed | QueryPhase::Cancelled => "End",
    };
    let note = new.message.clone().or_else(|| summary(new));
    event(reason, action, note.unwrap_or_default())
}

/// A summary of a query that succeeded.
fn summary(new: &ShuffleQueryStatus) -> Option<String> {
    if new.phase != QueryPhase::Succeeded {
        return None;
    }
    let rows = new
        .sink
        .as_ref()
        .map_or(new.totals.rows_written, |sink| sink.rows);
    let tenths = new.duration_millis? / 100;
    let speculation = new.speculation.map(|counts| {
        let (launched, won) = (counts.launched, counts.won);
        format!(", {launched} speculative attempts of which {won} won")
    });
    let recovery = new.recovery.map(|counts| {
        let (recovered, discarded) = (counts.recovered_tasks, counts.discarded_outputs);
        format!(", {recovered} tasks recovered from a lost coordinator, {discarded} outputs of it not usable")
    });
    Some(format!(
        "{rows} rows, {}.{} s, {} tasks{}{}",
        tenths / 10,
        tenths % 10,
        new.tasks.planned,
        speculation.unwrap_or_default(),
        recovery.unwrap_or_default()
    ))
}

#[cfg(test)]
mod tests {
    use kube::runtime::events::EventType;
    use sluice_crds::shuffle_query::status::{RecoveryCounts, SpeculationCounts};
    use sluice_crds::{ConditionReason, ErrorReason};

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
    fn the_event_of_an_end_says_what_was_done() {
        let running = status(QueryPhase::Running, ProgressReason::Running.into());
        let mut ended = ShuffleQueryStatus {
            message: None,
            duration_millis: Some(10_390),
            ..status(QueryPhase::Succeeded, ProgressReason::Completed.into())
        };
        (ended.totals.rows_written, ended.tasks.planned) = (4, 19);
        let event = between(&running, &ended).expect("it has ended");
        assert_eq!(event.note.as_deref(), Some("4 rows, 10.3 s, 19 tasks"));
        ended.speculation = Some(SpeculationCounts {
            launched: 3,
            won: 2,
            ..SpeculationCounts::default()
        });
        let event = between(&running, &ended).expect("it has ended");
        let note = "4 rows, 10.3 s, 19 tasks, 3 speculative attempts of which 2 won";
        assert_eq!(event.note.as_deref(), Some(note));
        ended.speculation = None;
        ended.recovery = Some(RecoveryCounts {
            recovered_tasks: 12,
            discarded_outputs: 1,
        });
        let event = between(&running, &ended).expect("it has ended");
        let note = "4 rows, 10.3 s, 19 tasks, 12 tasks recovered from a lost coordinator, 1 outputs of it not usable";
        assert_eq!(event.note.as_deref(), Some(note));
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
        let admitted = status(QueryPhase::Pending, ProgressReason::Admitted.into());
        assert!(between(&ShuffleQueryStatus::default(), &admitted).is_none());
        assert!(between(&waiting, &admitted).is_some(), "it waited");
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
}
