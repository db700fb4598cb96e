//! Which coordinator gets a worker's free slots.
//!
//! Coordinators request slots. The worker grants them one by one to the session that holds the fewest, among equals to the
//! one that has waited longest (max-min fairness). Slots for duplicates of slow attempts come after those that any session
//! needs for a task without an attempt. A granted slot is consumed by an assignment or released.

use std::collections::BTreeMap;

/// One coordinator's session at this worker, numbered by the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

#[derive(Debug, Default)]
struct Lease {
    /// Slots requested for beyond those granted and unconsumed.
    requested: u32,
    /// How many of those are for duplicates alone. They are granted last.
    speculative: u32,
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

    /// Sets how many slots a session requests beyond its unconsumed grants, and how many of them for duplicates alone. Replaces
    /// its last request.
    pub fn request(&mut self, session: SessionId, slots: u32, speculative_slots: u32) {
        let lease = self.sessions.entry(session).or_default();
        lease.requested = slots;
        lease.speculative = speculative_slots.min(slots);
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
            let next = waiting.min_by_key(|(_, lease)| {
                let is_for_duplicate = lease.requested == lease.speculative;
                (is_for_duplicate, lease.granted + lease.running, lease.last_grant)
            });
            let Some((session, lease)) = next else {
                break;
            };
            self.grants += 1;
            lease.last_grant = self.grants;
            lease.requested -= 1;
            lease.speculative = lease.speculative.min(lease.requested);
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
        leases.request(A, 10, 0);
        leases.request(B, 10, 0);
        assert_eq!(leases.grant(), BTreeMap::from([(A, 2), (B, 2)]));
        assert_eq!(leases.free(), 0);
    }

    #[test]
    fn a_late_coordinator_gets_the_slots_that_come_free() {
        let mut leases = SlotLeases::new(2);
        leases.request(A, 5, 0);
        assert_eq!(leases.grant(), BTreeMap::from([(A, 2)]));
        assert!(leases.consume(A) && leases.consume(A));
        leases.request(A, 3, 0);
        leases.request(B, 3, 0);
        assert!(leases.grant().is_empty());
        leases.finish(A);
        assert_eq!(leases.grant(), BTreeMap::from([(B, 1)]));
    }

    #[test]
    fn nothing_is_assigned_without_a_grant() {
        let mut leases = SlotLeases::new(1);
        assert!(!leases.consume(A));
        leases.request(A, 1, 0);
        leases.grant();
        assert!(leases.consume(A));
        assert!(!leases.consume(A));
    }

    #[test]
    fn a_closed_session_gives_its_grants_back_but_not_what_still_runs() {
        let mut leases = SlotLeases::new(2);
        leases.request(A, 2, 0);
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
        leases.request(A, 1, 0);
        leases.grant();
        leases.request(B, 1, 0);
        leases.release(A, 1);
        assert_eq!(leases.grant(), BTreeMap::from([(B, 1)]));
    }

    #[test]
    fn a_draining_worker_grants_nothing_but_keeps_its_word() {
        let mut leases = SlotLeases::new(2);
        leases.request(A, 2, 0);
        leases.request(B, 1, 0);
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

    #[test]
    fn slots_for_duplicates_come_after_those_that_any_query_needs() {
        // Slots that are free; what A, then B, request and how much of it for duplicates; what each gets.
        for (free, a, b, granted) in [
            // B comes first, though it has waited less and will hold more.
            (1, (2, 2), (2, 0), (0, 1)),
            (2, (2, 2), (2, 0), (0, 2)),
            (3, (2, 2), (2, 0), (1, 2)),
            (4, (2, 2), (2, 0), (2, 2)),
            // A has an ordinary request besides.
            (1, (2, 1), (2, 0), (1, 0)),
            (3, (2, 1), (2, 0), (1, 2)),
            // Duplicates are shared evenly too, and nobody else waits.
            (2, (2, 2), (2, 2), (1, 1)),
            (2, (2, 2), (0, 0), (2, 0)),
            // What is not requested is for nobody.
            (3, (1, u32::MAX), (1, 0), (1, 1)),
            (1, (1, u32::MAX), (1, 0), (0, 1)),
        ] {
            let mut leases = SlotLeases::new(free);
            leases.request(A, a.0, a.1);
            leases.request(B, b.0, b.1);
            let got = leases.grant();
            let of = |session| got.get(&session).copied().unwrap_or_default();
            assert_eq!((of(A), of(B)), granted, "{free} free, {a:?} and {b:?}");
        }
    }

    #[test]
    fn a_later_request_says_anew_what_is_for_duplicates() {
        let mut leases = SlotLeases::new(1);
        leases.request(A, 1, 0);
        assert_eq!(leases.grant(), BTreeMap::from([(A, 1)]));
        assert!(leases.consume(A));
        leases.request(A, 1, 1);
        leases.request(B, 1, 1);
        leases.request(A, 1, 0);
        leases.finish(A);
        assert_eq!(leases.grant(), BTreeMap::from([(A, 1)]), "a task of A waits now");
    }
}
