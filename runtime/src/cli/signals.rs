//! Ctrl-C, termination signals and hangups.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use sluice_crds::process::exit_code;

use crate::stderr::print_stderr;

/// Signals within this time are one request: `timeout` and some shells signal both the process and its group.
const REPEAT_WINDOW: Duration = Duration::from_millis(500);
/// How long a process that must end at once runs its exit hooks.
const EXIT_HOOKS_TIMEOUT: Duration = Duration::from_secs(2);

/// The requests that signals make; each token is cancelled by its signal.
#[derive(Debug, Clone, Default)]
pub struct Signals {
    /// SIGINT, or SIGHUP unless it is ignored, as under nohup.
    pub interrupt: CancellationToken,
    pub terminate: CancellationToken,
    pub terminate_again: CancellationToken,
}

/// What a process does before a second signal ends it. Clones share the hooks.
#[derive(Clone, Default)]
pub struct ExitHooks(Arc<Mutex<Vec<Hook>>>);

type Hook = Box<dyn FnOnce() + Send>;

impl ExitHooks {
    /// Adds a hook, which runs after those added before. It may block briefly. What it cleans up may still be in use.
    pub fn add(&self, hook: impl FnOnce() + Send + 'static) {
        let mut hooks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hooks.push(Box::new(hook));
    }

    fn run_all(&self) {
        let hooks = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        hooks.into_iter().for_each(|hook| hook());
    }
}

/// Handles signals from now on. None of them ends the process by default any more, so call this before there is
/// anything to clean up. A second Ctrl-C ends the process at once.
pub fn listen() -> Signals {
    spawn_listener(Listener::default())
}

/// A token that the first SIGINT, SIGTERM or SIGHUP cancels. A second one ends the process at once, after these hooks.
pub fn cancel_on_signal(exit_hooks: &ExitHooks) -> CancellationToken {
    let asked = CancellationToken::new();
    spawn_listener(Listener {
        asked: Signals {
            interrupt: asked.clone(),
            terminate: asked.clone(),
            terminate_again: CancellationToken::new(),
        },
        second_ends: true,
        exit_hooks: exit_hooks.clone(),
        accepted: None,
    });
    asked
}

#[derive(Default)]
struct Listener {
    asked: Signals,
    /// Whether a second signal of either kind ends the process at once.
    second_ends: bool,
    exit_hooks: ExitHooks,
    /// When the last request was accepted.
    accepted: Option<Instant>,
}

/// Handles signals on a thread of its own, so that blocked threads do not delay them.
fn spawn_listener(mut listener: Listener) -> Signals {
    let asked = listener.asked.clone();
    let (ready, listening) = mpsc::channel();
    let named = thread::Builder::new().name("signals".to_owned());
    let spawned = named.spawn(move || {
        let Ok(runtime) = Builder::new_current_thread().enable_all().build() else {
            return;
        };
        runtime.block_on(async {
            let received = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
            let hangup = (!is_hangup_ignored()).then(|| signal(SignalKind::hangup()).ok());
            if let (Ok(interrupt), Ok(terminate)) = received {
                let _ = ready.send(());
                listener.run(interrupt, terminate, hangup.flatten()).await;
            }
        });
    });
    if spawned.is_ok() {
        // Without a handler the other end is dropped, and signals end the process by default.
        let _ = listening.recv();
    }
    asked
}

impl Listener {
    async fn run(&mut self, mut interrupt: Signal, mut terminate: Signal, mut hangup: Option<Signal>) {
        loop {
            tokio::select! {
                _ = interrupt.recv() => self.on_interrupt(),
                _ = terminate.recv() => self.on_terminate(),
                () = received(&mut hangup) => self.on_interrupt(),
            }
        }
    }

    fn on_interrupt(&mut self) {
        if !self.asked.interrupt.is_cancelled() {
            self.asked.interrupt.cancel();
            self.accept();
        } else if self.is_another_request() {
            exit_now(&self.exit_hooks);
        }
    }

    fn on_terminate(&mut self) {
        if !self.asked.terminate.is_cancelled() {
            self.asked.terminate.cancel();
            self.accept();
        } else if !self.second_ends {
            self.asked.terminate_again.cancel();
        } else if self.is_another_request() {
            exit_now(&self.exit_hooks);
        }
    }

    fn is_another_request(&self) -> bool {
        self.accepted
            .is_none_or(|accepted| accepted.elapsed() >= REPEAT_WINDOW)
    }

    fn accept(&mut self) {
        self.accepted = Some(Instant::now());
        if self.second_ends {
            Self::announce();
        }
    }

    /// Tells the user about the second signal. Uses another thread because standard error may block.
    fn announce() {
        let line = || print_stderr("stopping; press Ctrl-C again to stop at once");
        // Only a hint: the stop continues without it.
        let _ = thread::Builder::new().spawn(line);
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether SIGHUP is ignored, as under nohup.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 == 1)
}

fn exit_now(exit_hooks: &ExitHooks) -> ! {
    let (done, all_done) = mpsc::channel();
    let exit_hooks = exit_hooks.clone();
    let hooks = move || {
        exit_hooks.run_all();
        print_stderr("stopped at once");
        let _ = done.send(());
    };
    // If the hooks block, or no thread can be started, the process ends without them.
    if thread::Builder::new().spawn(hooks).is_ok() {
        let _ = all_done.recv_timeout(EXIT_HOOKS_TIMEOUT);
    }
    std::process::exit(exit_code::CANCELLED.into())
}
