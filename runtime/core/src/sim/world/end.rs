//! What must hold when a query has ended.

use super::World;
use crate::coordinator::{Event, Outcome};
use crate::ids::StageId;
use crate::sim::audit::{Violation, check_failure_time, check_nothing_follows};
use crate::sim::limit::check_limit_result;
use crate::sim::model::Row;
use crate::snapshot::StageState;
use crate::time::Instant;
use sluice_crds::shuffle_query::ShuffleRetention;

impl World {
    pub(super) fn check_end(&mut self) -> Result<(), Violation> {
        let wake = self.coordinator.next_deadline();
        let later = self.coordinator.handle(Instant(self.now + 1), Event::Ticked);
        check_nothing_follows(wake, &later)?;
        if let Some(outcome) = &self.outcome {
            check_failure_time(outcome, self.now, self.usable_worker_at, &self.plan.policy)?;
            self.audit.on_poison(outcome)?;
            self.audit
                .on_outcome(outcome, &self.client.left, &self.client.ended)?;
        }
        self.check_retention()?;
        let left: Vec<Row> = self.client.left.values().flatten().copied().collect();
        match self.outcome {
            Some(Outcome::Succeeded) => {
                let rows = match &self.visible {
                    Some(winners) => winners
                        .iter()
                        .filter_map(|winner| self.staged.get(winner))
                        .flatten()
                        .copied()
                        .collect(),
                    None => left,
                };
                match self
                    .plan
                    .graph
                    .exchanges
                    .iter()
                    .any(|exchange| exchange.fetch.is_some())
                {
                    true => check_limit_result(&self.plan.graph, &rows, &self.reference),
                    false => self.audit.on_result(rows, &self.reference),
                }
            }
            Some(Outcome::Failed(_) | Outcome::Cancelled) if self.plan.is_calm() => {
                Err(format!("nothing went wrong, but: {:?}", self.outcome))
            }
            Some(Outcome::Failed(_) | Outcome::Cancelled) | None if self.visible.is_some() => {
                Err("the sink shows files of a query that did not succeed".to_owned())
            }
            Some(Outcome::Failed(_) | Outcome::Cancelled) | None => {
                self.audit.on_part(&left, &self.reference)
            }
        }
    }

    /// Checks that a client has the rows of a query of which workers keep no more than these.
    fn check_retention(&self) -> Result<(), Violation> {
        let (policy, graph) = (&self.plan.policy, &self.plan.graph);
        let is_root = |stage: StageId| graph.stages[stage.0 as usize].output == graph.result;
        let snapshot = self.coordinator.snapshot(Instant(self.now));
        // Rows that were taken count though their attempt was lost later.
        let mut roots = snapshot.stages.iter().filter(|stage| is_root(stage.id));
        let are_there = roots.all(|root| root.state == StageState::Done);
        let delivered = self.outcome == Some(Outcome::Succeeded) && !policy.sink;
        // A successor that found all rows of the result has not begun to drop what they were made of.
        if self.coordinator.is_recovering()
            || !delivered
            || !are_there
            || policy.retention != ShuffleRetention::UntilRead
        {
            return Ok(());
        }
        self.audit.on_kept(|stage| !is_root(stage))
    }
}
