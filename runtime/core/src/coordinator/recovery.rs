//! The successor of a lost coordinator: it waits until workers have told what they hold, and takes over the outputs that it
//! may. A task whose output is taken over does not run again.
//!
//! Workers keep the report of each output beside it, and the layout by which the tasks of its stage read. Both are good for
//! a successor with the same plan. It takes an output only if the output has the rows that the task would write now: another
//! attempt of its stage, and of all that the stage reads, writes the same rows, and the stage's layout is the same.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Coordinator;
use super::event::Action;
use super::outcome::QueryState;
use super::policy::Policy;
use super::stage_table::{StageRun, StageTable};
use super::topology::Topology;
use super::worker_registry::Worker;
use crate::ids::{StageId, WorkerId};
use crate::message::{FinishedOutput, Recovered};
use crate::plan::{Determinism, StageGraph};
use crate::snapshot::RecoveryCounts;
use crate::time::Instant;

/// What is kept for a successor, and what was taken over from a predecessor.
#[derive(Debug)]
pub(super) struct Recovery {
    /// Until when no task starts, since workers may yet tell of its output.
    waits_until: Option<Instant>,
    stages: Vec<RecoverableStage>,
    /// Outputs that could not be used.
    discarded: u32,
}

#[derive(Debug)]
struct RecoverableStage {
    /// Whether a successor may take over the outputs of its tasks.
    is_recoverable: bool,
    /// Whether its layout depends on what it reads.
    reads: bool,
    /// The workers that keep its layout in their sessions.
    told: BTreeSet<Arc<WorkerId>>,
}

impl Recovery {
    pub(super) fn new(graph: &StageGraph, topology: &Topology, policy: &Policy, started: Instant) -> Self {
        let mut stages: Vec<RecoverableStage> = Vec::with_capacity(graph.stages.len());
        for stage in &graph.stages {
            let repeats = match stage.determinism {
                Determinism::Determinate | Determinism::Unordered => true,
                Determinism::Indeterminate => false,
            };
            let mut inputs = topology.inputs[stage.id.0 as usize].iter();
            // Inputs come before their readers.
            let inputs_repeat = inputs.all(|input| stages[input.0 as usize].is_recoverable);
            // What an earlier coordinator's attempts wrote beside the sink is removed.
            let in_sink = policy.sink && topology.roots.contains(&stage.id);
            stages.push(RecoverableStage {
                is_recoverable: repeats && inputs_repeat && !in_sink,
                reads: !stage.inputs.is_empty(),
                told: BTreeSet::new(),
            });
        }
        Self {
            waits_until: (!policy.recovery_wait.is_zero()).then_some(started + policy.recovery_wait),
            stages,
            discarded: 0,
        }
    }

    /// Whether no task may start yet.
    pub(super) fn is_waiting(&self) -> bool {
        self.waits_until.is_some()
    }

    /// When the wait ends at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waits_until
    }

    /// Ends the wait: no other worker will tell.
    pub(super) fn stop_waiting(&mut self) {
        self.waits_until = self.waits_until.map(|_| Instant::default());
    }

    /// Forgets who keeps the layout of a stage that starts over.
    pub(super) fn forget_layout(&mut self, stage: StageId) {
        self.stages[stage.0 as usize].told.clear();
    }

    /// Forgets what a worker was told in a session that is over.
    pub(super) fn end_session(&mut self, worker: &WorkerId) {
        for stage in &mut self.stages {
            stage.told.remove(worker);
        }
    }

    /// What was found.
    pub(super) fn counts(&self, stages: &StageTable) -> RecoveryCounts {
        let recovered = stages.iter().map(|stage| stage.counts().recovered);
        RecoveryCounts {
            recovered_tasks: recovered.fold(0, u32::saturating_add),
            discarded_outputs: self.discarded,
        }
    }
}

impl Coordinator {
    /// Whether nothing starts yet, because workers may hold outputs of an earlier coordinator.
    pub fn is_recovering(&self) -> bool {
        self.recovery.is_waiting()
    }

    /// The layout of a stage, once it is decided.
    #[cfg(test)]
    pub(crate) fn layout_id(&self, stage: StageId) -> Option<crate::layout::LayoutId> {
        self.layouts.id(stage)
    }

    /// Lets a worker keep the layout by which an attempt there is about to read, and those by which its inputs were written,
    /// unless it keeps them or nobody could use them.
    pub(super) fn define_layout(&mut self, worker: &Arc<WorkerId>, stage: StageId) {
        let mut untold = BTreeSet::new();
        let mut todo = vec![stage];
        while let Some(stage) = todo.pop() {
            let keeping = &mut self.recovery.stages[stage.0 as usize];
            if keeping.is_recoverable && keeping.reads && keeping.told.insert(Arc::clone(worker)) {
                untold.insert(stage);
                todo.extend(&self.topology.inputs[stage.0 as usize]);
            }
        }
        let layouts = untold.into_iter().filter_map(|stage| self.stage_layout(stage));
        let defined = layouts.map(|layout| Action::DefineLayout {
            worker: WorkerId::clone(worker),
            layout: Arc::new(layout),
        });
        let defined: Vec<Action> = defined.collect();
        self.out.extend(defined);
    }

    /// Takes over what a worker holds of an earlier coordinator's attempts; drops what cannot be used.
    pub(super) fn adopt(&mut self, worker: &WorkerId, recovered: Recovered) {
        self.recovery.discarded = self.recovery.discarded.saturating_add(recovered.discarded);
        let at = self.workers.get(&worker.name).map(Worker::shared_id);
        let Some(at) = at else {
            return;
        };
        let mut layouts = recovered.layouts;
        // That of an input comes before that of its reader.
        layouts.sort_by_key(|layout| layout.stage);
        for layout in layouts {
            let stage = self.recovery.stages.get(layout.stage.0 as usize);
            if stage.is_some_and(|stage| stage.is_recoverable && stage.reads) {
                self.restore_layout(layout);
            }
        }
        for output in recovered.outputs {
            let id = output.attempt;
            if self.reinstate(worker, id) {
                continue;
            }
            if self.is_usable(&output) {
                self.cancel_task(id.task_id());
                self.stages.get_mut(id.stage).count_recovered(self.now);
                self.win_with(Arc::clone(&at), output);
            } else {
                self.recovery.discarded = self.recovery.discarded.saturating_add(1);
                self.retire(worker, id);
            }
        }
    }

    /// Whether the output of an earlier coordinator's attempt may count for its task, which has none.
    fn is_usable(&mut self, output: &FinishedOutput) -> bool {
        let id = output.attempt;
        let Some(stage) = self.recovery.stages.get(id.stage.0 as usize) else {
            return false;
        };
        let (is_recoverable, reads) = (stage.is_recoverable, stage.reads);
        let running = self.state == QueryState::Running;
        if !is_recoverable || !running {
            return false;
        }
        if !reads {
            self.finalize_layout(id.stage);
        }
        let of_stage = self.stages.get(id.stage);
        let run = of_stage.tasks().get(id.task as usize);
        let is_open = run.is_some_and(|run| run.winner().is_none() && !run.is_set_aside());
        is_open && self.layouts.id(id.stage) == Some(output.layout) && of_stage.epoch() == id.stage_epoch
    }

    /// Ends the wait for workers once it is over, and decides the layouts that waited for it.
    pub(super) fn end_recovery(&mut self) {
        if self.recovery.waits_until.is_none_or(|until| until > self.now) {
            return;
        }
        self.recovery.waits_until = None;
        let stages: Vec<StageId> = self.stages.iter().map(StageRun::id).collect();
        for stage in stages {
            self.finalize_layouts_after(stage);
        }
    }
}
