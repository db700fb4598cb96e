//! The next deadline, and the snapshot of the query.

use super::Coordinator;
use super::event::Outcome;
use super::outcome::QueryState;
use super::stage_table::StageRun;
use super::worker_registry::Worker;
use crate::layout::Layout;
use crate::snapshot::{JoinSwitches, QuerySnapshot, ReduceSnapshot, StageSnapshot};
use crate::time::Instant;

impl Coordinator {
    /// When `Ticked` must be handed in at the latest; `None` once the query has ended.
    pub fn next_deadline(&self) -> Option<Instant> {
        let deadline = self.policy.deadline.map(|span| self.started + span);
        let (deadline, no_usable_worker) = match self.state {
            QueryState::Running => (deadline, self.no_usable_worker_since),
            QueryState::Committing { .. } => (deadline, None),
            QueryState::Ended { .. } => return None,
        };
        let silence = self.workers.next_liveness_deadline();
        let retries = self.stages.retry_deadlines(self.now);
        let waits: Vec<Instant> = match self.state {
            QueryState::Running => self
                .poison_deadlines()
                .chain(self.next_stall_check())
                .chain(self.next_straggler_check())
                .chain(self.slots.deadlines())
                .chain(self.filters.deadlines())
                .chain(self.stages.preference_deadlines())
                .chain(self.recovery.deadline())
                .collect(),
            QueryState::Committing { .. } | QueryState::Ended { .. } => Vec::new(),
        };
        let grace = no_usable_worker.map(|since| since + self.policy.no_workers_grace);
        let all = retries
            .chain(silence)
            .chain(waits)
            .chain(deadline)
            .chain(self.commit_deadline())
            .chain(grace);
        // Deadlines that have passed were acted upon.
        all.filter(|at| *at > self.now).min()
    }

    /// The query as it stands at `now`.
    pub fn snapshot(&self, now: Instant) -> QuerySnapshot {
        let (ended, outcome): (Option<Instant>, Option<Outcome>) = match &self.state {
            QueryState::Running | QueryState::Committing { .. } => (None, None),
            QueryState::Ended { at, outcome } => (Some(*at), Some(outcome.clone())),
        };
        QuerySnapshot {
            now,
            started: self.started,
            first_row: self.first_row,
            ended,
            outcome,
            workers: u32::try_from(self.workers.connected().count()).unwrap_or(u32::MAX),
            slots: self
                .workers
                .connected()
                .map(Worker::slots)
                .fold(0, u32::saturating_add),
            no_workers: None,
            recovery: self.recovery.counts(&self.stages),
            stages: self.stages.iter().map(|stage| self.observe(stage)).collect(),
        }
    }

    fn observe(&self, stage: &StageRun) -> StageSnapshot {
        let planned = &self.graph.stages[stage.id().0 as usize];
        let counts = stage.counts();
        StageSnapshot {
            id: stage.id(),
            label: planned.label.clone(),
            output: self.graph.exchanges[planned.output.0 as usize]
                .kind
                .word()
                .to_owned(),
            state: stage.state(self.inputs_done(stage.id())),
            tasks: self.layouts.tasks(stage.id()),
            running: stage.running(),
            done: stage.done(),
            skipped: stage.without_winner(),
            failed_attempts: counts.failed,
            lost_attempts: counts.lost,
            cancelled_attempts: counts.cancelled,
            attempts: counts.started,
            locality: stage.locality(),
            reduce: self.observe_reduce(stage),
            filters: self.filters.observe(stage.id()),
            join_switches: JoinSwitches {
                sorted_tasks: self.joins.sorted_tasks(stage.id()),
                swapped_joins: u32::try_from(self.layouts.swapped_joins(stage.id()).len())
                    .unwrap_or(u32::MAX),
                broadcast_tasks: self.layouts.get(stage.id()).map_or(0, Layout::broadcast_tasks),
            },
            speculation: counts.speculation,
            metrics: stage.metrics(),
            started: stage.started(),
            ended: stage.ended(),
        }
    }

    /// How the stage reads exchanges; `None` if it reads none.
    fn observe_reduce(&self, stage: &StageRun) -> Option<ReduceSnapshot> {
        let planned = &self.graph.stages[stage.id().0 as usize];
        if planned.inputs.is_empty() {
            return None;
        }
        let begun = stage.started().unwrap_or_default();
        let after = |at: Option<Instant>| at.map(|at| at.0.saturating_sub(begun.0));
        Some(ReduceSnapshot {
            planned_reduce_tasks: planned.tasks,
            adaptive_reduce_tasks: self
                .layouts
                .get(planned.id)
                .map(|_| self.layouts.tasks(planned.id)),
            adaptive_target_bytes: self.adaptive_policy(planned.id).map(|policy| policy.target_bytes),
            layout_events: self.layouts.events(planned.id),
            skew_split_tasks: self.layouts.shards(planned.id),
            layout_finalize_count: self.layouts.finalize_count(planned.id),
            reduce_fetch_window_partitions: self.policy.reduce_fetch_window_partitions,
            partition_bytes_histogram: self.layouts.partition_bytes_histogram(planned, &self.graph),
            first_chunk_ms: after(stage.first_chunk()),
            first_reduce_row_ms: after(stage.first_reduce_row()),
        })
    }
}
