//! Which coordinator gets a worker's free slots.
//!
//! Coordinators request slots. The worker grants them one by one to the session that holds the fewest, among equals to the
//! one that has waited longest (max-min fairness). A granted slot is consumed by an assignment or released.

use std::collections::BTreeMap;

/// One coordinator's session at this worker, numbered by the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

#[derive(Debug, Default)]
struct Lease {
    /// Slots requested for beyond those granted and unconsumed.
    requested: u32,
    /// Granted, not yet consumed.
    granted: u32,
    /// Consumed by running attempts.
    running: u32,
    /// The sequence number of the last grant to this session. The smaller, the longer it has waited.
    last_grant: u64,
}

/// The slots of one worker and who holds them.
#[derive(Debug)]
pub struct SlotLeases {
    total: u32,
    sessions: BTreeMap<SessionId, Lease>,
    grants: u64,
    /// Whether no slot is granted any more.
    draining: bool,
}

impl SlotLeases {
    /// A worker with `total` slots, all free.
    pub fn new(total: u32) -> Self {
        Self {
            total,
            sessions: BTreeMap::new(),
            grants: 0,
            draining: false,
        }
    }

    /// Grants nothing from now on. Granted slots may still be consumed.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Slots granted or running.
    pub fn in_use(&self) -> u32 {
        let held = self.sessions.values().map(|lease| lease.granted + lease.running);
        held.fold(0, u32::saturating_add)
    }

    /// Slots neither granted nor running.
    pub fn free(&self) -> u32 {
        self.total.saturating_sub(self.in_use())
    }

    /// Sets how many slots a session requests beyond its unconsumed grants. Replaces its last request.
    pub fn request(&mut self, session: SessionId, slots: u32) {
        self.sessions.entry(session).or_default().requested = slots;
    }

    /// A session gives granted slots back.
    pub fn release(&mut self, session: SessionId, slots: u32) {
        if let Some(lease) = self.sessions.get_mut(&session) {
            lease.granted = lease.granted.saturating_sub(slots);
        }
    }

    /// Consumes a granted slot for an assignment. False if the session has none.
    pub fn consume(&mut self, session: SessionId) -> bool {
        match self.sessions.get_mut(&session) {
            Some(lease) if lease.granted > 0 => {
                lease.granted -= 1;
                lease.running += 1;
                true
            }
            Some(_) | None => false,
        }
    }

    /// An attempt of the session ended.
    pub fn finish(&mut self, session: SessionId) {
        if let Some(lease) = self.sessions.get_mut(&session) {
            lease.running = lease.running.saturating_sub(1);
        }
    }

    /// The session ended; slots of attempts that still run stay taken until they finish.
    pub fn close(&mut self, session: SessionId) {
        if let Some(lease) = self.sessions.get_mut(&session) {
            lease.requested = 0;
            lease.granted = 0;
        }
        self.sessions
            .retain(|_, lease| lease.requested + lease.granted + lease.running > 0);
    }

    /// Grants free slots. Returns how many each session got.
    pub fn grant(&mut self) -> BTreeMap<SessionId, u32> {
        let mut granted = BTreeMap::new();
        let free = if self.draining { 0 } else { self.free() };
        for _ in 0..free {
            let waiting = self.sessions.iter_mut().filter(|(_, lease)| lease.requested > 0);
            let Some((session, lease)) =
                waiting.min_by_key(|(_, lease)| (lease.granted + lease.running, lease.last_grant))
            else {
                break;
            };
            self.grants += 1;
            lease.last_grant = self.grants;
            lease.requested -= 1;
            lease.granted += 1;
            *granted.entry(*session).or_insert(0) += 1;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionId = SessionId(1);
    const B: SessionId = SessionId(2);

    #[test]
    fn free_slots_are_shared_evenly() {
        let mut leases = SlotLeases::new(4);
        leases.request(A, 10);
        leases.request(B, 10);
        assert_eq!(leases.grant(), BTreeMap::from([(A, 2), (B, 2)]));
        assert_eq!(leases.free(), 0);
    }

    #[test]
    fn a_late_coordinator_gets_the_slots_that_come_free() {
        let mut leases = SlotLeases::new(2);
        leases.request(A, 5);
        assert_eq!(leases.grant(), BTreeMap::from([(A, 2)]));
        assert!(leases.consume(A) && leases.consume(A));
        leases.request(A, 3);
        leases.request(B, 3);
        assert!(leases.grant().is_empty());
        leases.finish(A);
        assert_eq!(leases.grant(), BTreeMap::from([(B, 1)]));
    }

    #[test]
    fn nothing_is_assigned_without_a_grant() {
        let mut leases = SlotLeases::new(1);
        assert!(!leases.consume(A));
        leases.request(A, 1);
        leases.grant();
        assert!(leases.consume(A));
        assert!(!leases.consume(A));
    }

    #[test]
    fn a_closed_session_gives_its_grants_back_but_not_what_still_runs() {
        let mut leases = SlotLeases::new(2);
        leases.request(A, 2);
        leases.grant();
        leases.consume(A);
        leases.close(A);
        assert_eq!(leases.free(), 1);
        leases.finish(A);
        assert_eq!(leases.free(), 2);
    }

    #[test]
    fn released_grants_go_to_others() {
        let mut leases = SlotLeases::new(1);
        leases.request(A, 1);
        leases.grant();
        leases.request(B, 1);
        leases.release(A, 1);
        assert_eq!(leases.grant(), BTreeMap::from([(B, 1)]));
    }

    #[test]
    fn a_draining_worker_grants_nothing_but_keeps_its_word() {
        let mut leases = SlotLeases::new(2);
        leases.request(A, 2);
        leases.request(B, 1);
        assert_eq!(leases.grant(), BTreeMap::from([(A, 1), (B, 1)]));
        leases.drain();
        assert!(leases.consume(A), "it was granted before");
        leases.release(B, 1);
        assert!(leases.grant().is_empty());
        assert_eq!(leases.in_use(), 1);
        leases.finish(A);
        assert!(leases.grant().is_empty());
        assert_eq!(leases.in_use(), 0);
    }
}
