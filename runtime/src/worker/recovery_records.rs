//! What a worker keeps beside the outputs of a query for a successor of its coordinator: the layouts by which tasks read, and
//! the reports of their successes.
//!
//! A record lives as long as the query's outputs do. It takes a bounded part of the worker's memory: what has no room is not
//! kept, and the task of that output runs again if the coordinator is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message;
use sluice_core::ids::{AttemptId, CoordinatorEpoch, QueryId};
use sluice_proto::wire;
use wire::worker_message::Message as ToCoordinator;

/// The part of the worker's memory that records may have: a 64th.
const MEMORY_DIVISOR: u64 = 64;

/// The records of all queries.
#[derive(Clone)]
pub(super) struct RecoveryRecords {
    records: Arc<Mutex<Records>>,
}

struct Records {
    queries: BTreeMap<QueryId, QueryRecord>,
    bytes: u64,
    limit: u64,
}

struct QueryRecord {
    plan_fingerprint: u64,
    layouts: BTreeMap<u32, wire::StageLayout>,
    reports: BTreeMap<AttemptId, Report>,
}

struct Report {
    /// The coordinator that started the attempt.
    epoch: CoordinatorEpoch,
    success: wire::AttemptSucceeded,
}

/// What a session begins with.
pub(super) struct Found {
    /// Outputs of attempts that this coordinator started.
    pub(super) held: Vec<AttemptId>,
    /// What it is told of those of earlier coordinators, before the welcome.
    pub(super) recovered: Vec<ToCoordinator>,
}

impl RecoveryRecords {
    pub(super) fn new(memory_bytes: u64) -> Self {
        Self {
            records: Arc::new(Mutex::new(Records {
                queries: BTreeMap::new(),
                bytes: 0,
                limit: memory_bytes / MEMORY_DIVISOR,
            })),
        }
    }

    /// A coordinator opens the query. Answers whether what is here is of the same plan; if not, the record begins anew.
    pub(super) fn open(&self, query: &QueryId, plan_fingerprint: u64) -> bool {
        let mut records = self.lock();
        let known = records.queries.get(query);
        if known.is_some_and(|known| known.plan_fingerprint == plan_fingerprint) {
            return true;
        }
        let is_new = !records.forget_query(query);
        let record = QueryRecord {
            plan_fingerprint,
            layouts: BTreeMap::new(),
            reports: BTreeMap::new(),
        };
        records.queries.insert(query.clone(), record);
        is_new
    }

    /// Keeps the layout of a stage.
    pub(super) fn keep_layout(&self, query: &QueryId, layout: wire::StageLayout) {
        let mut records = self.lock();
        records.change(query, layout.encoded_len(), |record| {
            let before = record.layouts.insert(layout.stage, layout);
            before.map_or(0, |before| before.encoded_len())
        });
    }

    /// Keeps the report of an attempt that a coordinator of this epoch started.
    pub(super) fn keep_report(
        &self,
        query: &QueryId,
        (attempt, epoch): (AttemptId, CoordinatorEpoch),
        success: wire::AttemptSucceeded,
    ) {
        let mut records = self.lock();
        records.change(query, success.encoded_len(), |record| {
            let before = record.reports.insert(attempt, Report { epoch, success });
            before.map_or(0, |before| before.success.encoded_len())
        });
    }

    /// Forgets an output that is dropped.
    pub(super) fn forget(&self, query: &QueryId, attempt: AttemptId) {
        let mut records = self.lock();
        records.change(query, 0, |record| {
            let before = record.reports.remove(&attempt);
            before.map_or(0, |before| before.success.encoded_len())
        });
    }

    /// Forgets a query whose outputs are dropped.
    pub(super) fn forget_query(&self, query: &QueryId) {
        self.lock().forget_query(query);
    }

    /// Divides the outputs that are here by the coordinator that started their attempts.
    pub(super) fn found(&self, query: &QueryId, epoch: CoordinatorEpoch, held: &[AttemptId]) -> Found {
        let records = self.lock();
        let record = records.queries.get(query);
        let of_earlier = |attempt: &AttemptId| {
            let report = record?.reports.get(attempt)?;
            (report.epoch < epoch).then(|| (*attempt, report.success.clone()))
        };
        let outputs: BTreeMap<AttemptId, _> = held.iter().filter_map(of_earlier).collect();
        let any = !outputs.is_empty();
        let layouts = record.into_iter().flat_map(|record| record.layouts.values());
        let layouts = layouts.filter(|_| any).cloned();
        let known: BTreeSet<AttemptId> = outputs.keys().copied().collect();
        Found {
            held: held
                .iter()
                .copied()
                .filter(|attempt| !known.contains(attempt))
                .collect(),
            recovered: layouts
                .map(ToCoordinator::RecoveredLayout)
                .chain(outputs.into_values().map(ToCoordinator::RecoveredOutput))
                .collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Records {
    /// Changes a record by something of `bytes`, if there is room for it. `change` answers how many bytes it has freed.
    fn change(&mut self, query: &QueryId, bytes: usize, change: impl FnOnce(&mut QueryRecord) -> usize) {
        let taken = self.bytes.saturating_add(bytes as u64);
        let Some(record) = self.queries.get_mut(query).filter(|_| taken <= self.limit) else {
            return;
        };
        let freed = change(record) as u64;
        self.bytes = taken.saturating_sub(freed);
    }

    /// Whether there was one.
    fn forget_query(&mut self, query: &QueryId) -> bool {
        let Some(record) = self.queries.remove(query) else {
            return false;
        };
        let layouts = record.layouts.values().map(Message::encoded_len);
        let reports = record.reports.values().map(|report| report.success.encoded_len());
        let bytes: usize = layouts.chain(reports).sum();
        self.bytes = self.bytes.saturating_sub(bytes as u64);
        true
    }
}

#[cfg(test)]
mod tests {
    use sluice_core::ids::{StageEpoch, StageId};

    use super::*;

    fn query() -> QueryId {
        QueryId::new("q").expect("a legal id")
    }

    fn attempt(task: u32) -> AttemptId {
        AttemptId {
            stage: StageId(1),
            stage_epoch: StageEpoch(0),
            task,
            attempt: 0,
        }
    }

    fn keep(records: &RecoveryRecords, task: u32, epoch: u64, partitions: u32) {
        let output = |partition| wire::MapOutputPartitionMeta {
            partition,
            bytes: 1 << 40,
            rows: 1 << 30,
        };
        let success = wire::AttemptSucceeded {
            attempt: Some(attempt(task).into()),
            outputs: (0..partitions).map(output).collect(),
            ..wire::AttemptSucceeded::default()
        };
        records.keep_report(&query(), (attempt(task), CoordinatorEpoch(epoch)), success);
    }

    #[test]
    fn a_successor_is_told_of_what_is_here_and_another_plan_of_nothing() {
        let records = RecoveryRecords::new(1 << 30);
        assert!(records.open(&query(), 7), "nothing is here");
        let layout = wire::StageLayout {
            stage: 1,
            ..wire::StageLayout::default()
        };
        records.keep_layout(&query(), layout.clone());
        (0..3).for_each(|task| keep(&records, task, 1, 1));
        records.forget(&query(), attempt(1));
        let held = [attempt(0), attempt(2), attempt(9)];
        let own = records.found(&query(), CoordinatorEpoch(1), &held);
        assert_eq!((own.held.as_slice(), own.recovered.len()), (&held[..], 0));

        assert!(records.open(&query(), 7), "the same plan");
        keep(&records, 4, 2, 1);
        let held = [attempt(0), attempt(4), attempt(9)];
        let found = records.found(&query(), CoordinatorEpoch(2), &held);
        assert_eq!(
            found.held,
            [attempt(4), attempt(9)],
            "its own, and what has no report"
        );
        assert_eq!(found.recovered.len(), 2, "a layout and an output that is here");
        assert_eq!(found.recovered[0], ToCoordinator::RecoveredLayout(layout));

        assert!(!records.open(&query(), 8), "another plan");
        let found = records.found(&query(), CoordinatorEpoch(3), &held);
        assert_eq!((found.held.len(), found.recovered.len()), (3, 0));
        assert_eq!(records.lock().bytes, 0);
    }

    #[test]
    fn what_has_no_room_is_not_kept_and_what_is_forgotten_makes_room() {
        let records = RecoveryRecords::new(64 * 1_000);
        records.open(&query(), 7);
        (0..100).for_each(|task| keep(&records, task, 1, 10));
        let held: Vec<AttemptId> = (0..100).map(attempt).collect();
        let kept = |records: &RecoveryRecords| {
            let found = records.found(&query(), CoordinatorEpoch(2), &held);
            found.recovered.len()
        };
        let before = kept(&records);
        assert!((1..20).contains(&before), "{before}");
        assert!(records.lock().bytes <= 1_000);
        records.forget(&query(), attempt(0));
        keep(&records, 99, 1, 10);
        assert_eq!(kept(&records), before);
        records.forget_query(&query());
        assert_eq!((kept(&records), records.lock().bytes), (0, 0));
    }
}
