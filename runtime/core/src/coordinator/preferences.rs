//! Which workers the tasks of a stage prefer, since most of their input lies there, and for how long slots are requested of
//! those first.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::Coordinator;
use super::attempts::Winner;
use super::stage_table::{StageRun, StageTable};
use super::worker_registry::Worker;
use crate::ids::{ExchangeId, StageId, TaskId, WorkerId};
use crate::layout::{Layout, Shard, TaskLayout};
use crate::locality::{
    DataLocality, Holders, LocalityLevel, NodeLocation, preferred_workers, workers_by_files,
};
use crate::plan::{ReadKind, Stage};
use crate::time::Instant;

impl StageTable {
    /// When slots are no longer requested of preferred workers first.
    pub(super) fn preference_deadlines(&self) -> impl Iterator<Item = Instant> {
        self.iter().filter_map(StageRun::preference_ends)
    }
}

impl Coordinator {
    /// By task of a stage with this layout, the worker that it prefers; empty if none prefers any.
    pub(super) fn preferred_workers(&self, stage: &Stage, layout: &Layout) -> Vec<Option<Arc<WorkerId>>> {
        let usable = self.workers.usable();
        let slots: BTreeMap<_, _> = usable
            .map(|worker| (worker.shared_id(), worker.slots()))
            .collect();
        if slots.len() < 2 {
            return Vec::new();
        }
        if stage.inputs.is_empty() {
            return match stage.data.is_anywhere() && !stage.files.is_empty() {
                true => workers_by_files(&stage.files, &slots),
                false => Vec::new(),
            };
        }
        let mut inputs = vec![Holders::default(); layout.tasks.len()];
        for (number, input) in (0..).zip(&stage.inputs) {
            match input.read {
                ReadKind::AllPartitions => {
                    let exchange = &self.graph.exchanges[input.exchange.0 as usize];
                    let whole = self.held_of(input.exchange, 0..exchange.partitions);
                    inputs.iter_mut().for_each(|held| held.merge(&whole));
                }
                ReadKind::OwnPartition => self.add_partitions(number, input.exchange, layout, &mut inputs),
                ReadKind::OwnRange => self.add_ranges(input.exchange, layout, &mut inputs),
            }
        }
        preferred_workers(&inputs, &slots, &self.policy.locality)
    }

    /// Decides the layouts of scans that are about to start, and with them which worker each task prefers.
    pub(super) fn begin_scans_with_files(&mut self) {
        if self.slots.with_grants().next().is_none() {
            return;
        }
        let begins = |stage: &StageId| {
            let has_files = !self.graph.stages[stage.0 as usize].files.is_empty();
            has_files && self.layouts.get(*stage).is_none()
        };
        let scans: Vec<StageId> = self.schedulable().filter(begins).collect();
        scans.into_iter().for_each(|scan| self.finalize_layout(scan));
    }

    /// The workers have changed: the tasks of scans that run prefer others.
    pub(super) fn prefer_by_files_again(&mut self) {
        let scans = self.graph.stages.iter().filter(|stage| !stage.files.is_empty());
        let preferred = scans.filter_map(|stage| {
            let layout = self.layouts.get(stage.id)?;
            let waits = self.stages.get(stage.id).has_waiting();
            waits.then(|| (stage.id, self.preferred_workers(stage, layout)))
        });
        let preferred: Vec<_> = preferred.collect();
        for (scan, preferred) in preferred {
            self.stages.get_mut(scan).prefer(preferred);
        }
    }

    /// Who holds some partitions of an exchange.
    fn held_of(&self, exchange: ExchangeId, partitions: Range<u32>) -> Holders {
        let mut held = Holders::default();
        for writer in self.writers(exchange) {
            held.merge(&self.layouts.held_of(writer, partitions.clone()));
        }
        held
    }

    /// Adds to each task's input what it reads of an exchange that is divided by partition.
    fn add_partitions(&self, number: u32, exchange: ExchangeId, layout: &Layout, inputs: &mut [Holders]) {
        let shard_of = |task: &TaskLayout| task.shard.clone().filter(|shard| shard.input == number);
        let is_split = layout.tasks.iter().any(|task| shard_of(task).is_some());
        let winners = is_split.then(|| self.map_task_winners(exchange));
        let winners: Vec<Option<&Winner>> = winners.into_iter().flatten().collect();
        // Tasks that read all partitions have the same.
        let mut last: Option<(Range<u32>, Holders)> = None;
        for (held, task) in inputs.iter_mut().zip(&layout.tasks) {
            if let Some(shard) = shard_of(task) {
                add_shard(&shard, &task.partitions, &winners, held);
                continue;
            }
            let part = match last.take() {
                Some((partitions, part)) if partitions == task.partitions => part,
                Some(_) | None => self.held_of(exchange, task.partitions.clone()),
            };
            held.merge(&part);
            last = Some((task.partitions.clone(), part));
        }
    }

    /// Adds to each task's input what it reads of sorted runs.
    fn add_ranges(&self, exchange: ExchangeId, layout: &Layout, inputs: &mut [Holders]) {
        let winners: Vec<Option<&Winner>> = self.map_task_winners(exchange).collect();
        for (held, task) in inputs.iter_mut().zip(&layout.tasks) {
            let Some(range) = task.range.as_deref() else {
                continue;
            };
            for (number, winner) in (0..).zip(&winners) {
                if let Some((winner, run)) = winner.and_then(|winner| Some((winner, winner.run()?))) {
                    let bytes = range.bytes_of(run, number);
                    held.add(&winner.worker, bytes.end.saturating_sub(bytes.start));
                }
            }
        }
    }

    /// Lets the preferences of stages that may run end after the longest wait.
    pub(super) fn begin_preferences(&mut self) {
        if !self.stages.iter().any(StageRun::has_preferences) {
            return;
        }
        let until = self.now + self.policy.locality.max_wait;
        // Scans ask for slots anywhere. Where their files were read before is worth no wait.
        let has_preferences = |stage: &StageId| {
            let reads_exchanges = !self.graph.stages[stage.0 as usize].inputs.is_empty();
            reads_exchanges && self.stages.get(*stage).has_preferences()
        };
        let stages: Vec<StageId> = self.schedulable().filter(has_preferences).collect();
        for stage in stages {
            self.stages.get_mut(stage).begin_preference(until);
        }
    }

    /// What is near the worker that a task prefers: its node and its zone.
    pub(super) fn near_preferred(&self, worker: &WorkerId) -> DataLocality {
        let known = self.workers.get(&worker.name);
        known
            .map(Worker::location)
            .map(NodeLocation::data)
            .unwrap_or_default()
    }

    /// How near a worker is to the one that a task prefers; `None` if it prefers none.
    pub(super) fn preference(&self, task: TaskId, worker: &Worker) -> Option<LocalityLevel> {
        let preferred = self.stages.get(task.stage).preferred_worker(task.task)?;
        if **preferred == *worker.id() {
            return Some(LocalityLevel::Worker);
        }
        let known = self.workers.get(&preferred.name);
        let level = known.map(|known| known.location().level_for(worker.location()));
        Some(level.unwrap_or(LocalityLevel::Elsewhere))
    }

    /// Whether the worker that a task prefers takes attempts.
    pub(super) fn prefers_usable_worker(&self, task: TaskId) -> bool {
        let preferred = self.stages.get(task.stage).preferred_worker(task.task);
        let known = preferred.and_then(|id| self.workers.get(&id.name).filter(|known| known.id() == &**id));
        known.is_some_and(|worker| self.workers.is_usable(worker))
    }
}

/// Adds what a task reads that reads its partitions of some map tasks only: one partition, or all of them.
fn add_shard(shard: &Shard, partitions: &Range<u32>, winners: &[Option<&Winner>], held: &mut Holders) {
    for number in &shard.map_tasks {
        let winner = winners.get(*number as usize).copied().flatten();
        if let Some((winner, bytes)) = winner.and_then(|winner| Some((winner, winner.bytes()?))) {
            let read = match partitions.len() {
                1 => bytes.of(partitions.start),
                _ => bytes.total(),
            };
            held.add(&winner.worker, read);
        }
    }
}
