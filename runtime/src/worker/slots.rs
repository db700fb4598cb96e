//! The task that owns the worker's slots: sessions request and release slots, the task grants them.

use std::collections::BTreeMap;

use sluice_core::leases::{SessionId, SlotLeases};
use tokio::sync::{mpsc, oneshot};

enum Command {
    Open(SessionId, mpsc::UnboundedSender<u32>),
    Request(SessionId, u32, u32),
    Release(SessionId, u32),
    Consume(SessionId, oneshot::Sender<bool>),
    Finish(SessionId),
    Close(SessionId),
    Drain,
    InUse(oneshot::Sender<u32>),
}

/// A handle of the task that owns the slots.
#[derive(Clone)]
pub(crate) struct Slots {
    commands: mpsc::UnboundedSender<Command>,
}

impl Slots {
    /// Starts the task for a worker with `total` slots. It ends when all handles are gone.
    pub(crate) fn start(total: u32) -> Self {
        let (commands, inbox) = mpsc::unbounded_channel();
        tokio::spawn(run(SlotLeases::new(total), inbox));
        Self { commands }
    }

    /// Opens a session; its grants arrive on the returned channel.
    pub(crate) fn open(&self, session: SessionId) -> SessionSlots {
        let (sender, grants) = mpsc::unbounded_channel();
        self.send(Command::Open(session, sender));
        SessionSlots {
            slots: self.clone(),
            session,
            grants,
        }
    }

    /// Stops granting slots.
    pub(crate) fn drain(&self) {
        self.send(Command::Drain);
    }

    /// Slots granted to coordinators or taken by attempts.
    pub(crate) async fn in_use(&self) -> u32 {
        let (answer, in_use) = oneshot::channel();
        self.send(Command::InUse(answer));
        in_use.await.unwrap_or_default()
    }

    fn send(&self, command: Command) {
        // The task ends only with its last handle, and this is one.
        let _ = self.commands.send(command);
    }
}

/// One session's side of the slots. Dropping it closes the session.
pub(crate) struct SessionSlots {
    slots: Slots,
    session: SessionId,
    grants: mpsc::UnboundedReceiver<u32>,
}

impl SessionSlots {
    pub(crate) fn request(&self, slots: u32, speculative_slots: u32) {
        let command = Command::Request(self.session, slots, speculative_slots);
        self.slots.send(command);
    }

    pub(crate) fn release(&self, slots: u32) {
        self.slots.send(Command::Release(self.session, slots));
    }

    /// The next grant.
    pub(crate) async fn granted(&mut self) -> u32 {
        match self.grants.recv().await {
            Some(slots) => slots,
            None => std::future::pending().await,
        }
    }

    /// Uses a granted slot for an attempt; `None` if the session has none. Dropping the guard returns the slot.
    pub(crate) async fn consume(&self) -> Option<SlotGuard> {
        let (answer, taken) = oneshot::channel();
        self.slots.send(Command::Consume(self.session, answer));
        let taken = taken.await.unwrap_or(false);
        taken.then(|| SlotGuard {
            slots: self.slots.clone(),
            session: self.session,
        })
    }
}

impl Drop for SessionSlots {
    fn drop(&mut self) {
        self.slots.send(Command::Close(self.session));
    }
}

/// A slot in use by an attempt.
pub(crate) struct SlotGuard {
    slots: Slots,
    session: SessionId,
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        self.slots.send(Command::Finish(self.session));
    }
}

async fn run(mut leases: SlotLeases, mut inbox: mpsc::UnboundedReceiver<Command>) {
    let mut sessions: BTreeMap<SessionId, mpsc::UnboundedSender<u32>> = BTreeMap::new();
    while let Some(command) = inbox.recv().await {
        match command {
            Command::Open(session, grants) => {
                sessions.insert(session, grants);
            }
            Command::Request(session, slots, speculative_slots) => {
                leases.request(session, slots, speculative_slots);
            }
            Command::Release(session, slots) => leases.release(session, slots),
            Command::Consume(session, answer) => {
                let taken = leases.consume(session);
                if answer.send(taken).is_err() && taken {
                    leases.finish(session);
                }
            }
            Command::Finish(session) => leases.finish(session),
            Command::Close(session) => {
                sessions.remove(&session);
                leases.close(session);
            }
            Command::Drain => leases.drain(),
            // The asker may be gone.
            Command::InUse(answer) => drop(answer.send(leases.in_use())),
        }
        for (session, slots) in leases.grant() {
            let told = sessions
                .get(&session)
                .is_some_and(|grants| grants.send(slots).is_ok());
            if !told {
                leases.release(session, slots);
            }
        }
    }
}
