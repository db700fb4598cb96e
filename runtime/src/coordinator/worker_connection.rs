//! One session with a worker, and what was sent in it once and for all.

use std::collections::BTreeSet;

use bytes::Bytes;
use sluice_core::ids::{FilterId, StageId};
use sluice_core::message::AssignedFilter;
use sluice_proto::auth::FetchKey;
use sluice_proto::wire;
use sluice_proto::wire::coordinator_message::Message as ToWorker;
use tokio::sync::mpsc;

pub(super) struct WorkerConnection {
    pub(super) address: String,
    /// The key for fetches of the query's data there.
    pub(super) fetch_key: FetchKey,
    outbound: mpsc::UnboundedSender<wire::CoordinatorMessage>,
    /// Stages whose template was sent in this session.
    defined_stages: BTreeSet<StageId>,
    /// Runtime filters whose keys were sent in this session.
    defined_filters: BTreeSet<FilterId>,
}

impl WorkerConnection {
    pub(super) fn new(
        address: String,
        fetch_key: FetchKey,
        outbound: mpsc::UnboundedSender<wire::CoordinatorMessage>,
    ) -> Self {
        Self {
            address,
            fetch_key,
            outbound,
            defined_stages: BTreeSet::new(),
            defined_filters: BTreeSet::new(),
        }
    }

    pub(super) fn send(&self, message: ToWorker) {
        // A closed session reports its own end.
        let _ = self.outbound.send(wire::CoordinatorMessage::of(message));
    }

    /// Sends the template of a stage, unless it was sent.
    pub(super) fn define_stage(&mut self, stage: StageId, template: &Bytes) {
        if self.defined_stages.insert(stage) {
            self.send(ToWorker::DefineStage(wire::DefineStage {
                stage: stage.0,
                template: template.clone(),
            }));
        }
    }

    /// Sends the keys of filters that were not sent.
    pub(super) fn define_filters(&mut self, filters: &[AssignedFilter]) {
        for filter in filters {
            if self.defined_filters.insert(filter.id) {
                self.send(ToWorker::DefineFilter(wire::DefineFilter {
                    filter: filter.id.0,
                    keys: Some(filter.keys.as_ref().into()),
                }));
            }
        }
    }
}
