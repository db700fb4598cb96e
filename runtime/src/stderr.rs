//! Lines for people on standard error.

use std::io::Write;

use sluice_proto::text::escaped_lines;

/// Writes a line to standard error. A closed standard error must not end the process, and text from a file or a peer
/// must not control the terminal.
pub fn print_stderr(line: impl std::fmt::Display) {
    let line = line.to_string();
    let _ = writeln!(std::io::stderr(), "{}", escaped_lines(&line));
}
