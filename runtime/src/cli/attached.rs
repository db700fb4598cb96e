//! The side of an attached process: it writes its address or its termination message as its first line, and stops when its
//! parent closes its standard input. `local/child_process.rs` is the side of the parent.

use std::io::{Read, Write};

use tokio_util::sync::CancellationToken;

/// Writes the first line of an attached process: its address, or its termination message.
pub(super) fn announce(line: impl std::fmt::Display) {
    // A parent that has gone is noticed on standard input.
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Cancels `parent_gone` when standard input closes.
pub(super) fn watch_stdin(parent_gone: CancellationToken) {
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        let mut input = std::io::stdin().lock();
        while matches!(input.read(&mut buffer), Ok(1..)) {}
        parent_gone.cancel();
    });
}
