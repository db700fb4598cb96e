//! The status of a worker.

use sluice_proto::wire;

use super::Shared;

/// The longest zone name, bytes: a label's value has at most 63.
const MAX_ZONE_BYTES: usize = 63;

impl Shared {
    /// The state of the worker at this moment.
    pub(super) async fn status(&self) -> wire::WorkerStatus {
        let stats = self.store.stats().await;
        wire::WorkerStatus {
            slots: self.options.slots,
            slots_in_use: self.slots.in_use().await,
            held_bytes: stats.memory_bytes.saturating_add(stats.disk_bytes),
            spill_used_bytes: stats.disk_bytes.saturating_add(stats.operator_bytes),
            queries: u32::try_from(self.sessions.count()).unwrap_or(u32::MAX),
            draining: self.draining.is_cancelled(),
        }
    }

    /// The zone of the worker's node, once known: the downward API file gets the label after the pod has a node.
    pub(super) async fn zone(&self) -> Option<String> {
        let file = self.options.zone_file.as_ref()?;
        let text = tokio::fs::read_to_string(file).await.ok()?;
        let zone = text.trim();
        (!zone.is_empty() && zone.len() <= MAX_ZONE_BYTES).then(|| zone.to_owned())
    }
}
