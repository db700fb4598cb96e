//! Untrusted text in messages and logs: bounded, and without characters on which a terminal or a reader of lines acts.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, Write};

/// Most bytes of a message for people. Coordinators keep some of each task.
pub const MAX_TEXT_BYTES: usize = 4096;

/// The text, cut to [`MAX_TEXT_BYTES`] with an ellipsis at its end: a message of the engine can be of any length.
pub fn shortened(text: String) -> String {
    cut(text, MAX_TEXT_BYTES)
}

fn cut(mut text: String, bytes: usize) -> String {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes.saturating_sub('…'.len_utf8())));
        text.push('…');
        text.shrink_to_fit();
    }
    text
}

/// What a value displays, cut as [`shortened`] cuts it. No more than that is ever in memory: a message may hold a cell
/// of a table, and a cell any number of bytes.
pub fn shortened_display(value: &dyn fmt::Display) -> String {
    shortened_to(value, MAX_TEXT_BYTES)
}

/// What a value displays, cut to so many bytes, for a quotation with words around it.
pub fn shortened_to(value: &dyn fmt::Display, bytes: usize) -> String {
    let mut bounded = Bounded {
        text: String::new(),
        // One byte more than fits shows that something was cut.
        most: bytes + 1,
    };
    // An error says that the bound is met.
    let _ = write!(bounded, "{value}");
    cut(bounded.text, bytes)
}

struct Bounded {
    text: String,
    most: usize,
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = self.most.saturating_sub(self.text.len());
        if part.len() <= room {
            self.text.push_str(part);
            return Ok(());
        }
        // The character that crosses the bound is taken whole.
        self.text.push_str(&part[..part.ceil_char_boundary(room)]);
        Err(fmt::Error)
    }
}

/// Whether a terminal acts on the character instead of showing it, or shows what follows it in another order.
fn acts(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

/// The text on one line: characters that a terminal acts on, line breaks among them, are shown as in source code.
pub fn escaped(text: &str) -> Cow<'_, str> {
    escaped_but(text, &[])
}

/// The text as it may be shown on a terminal: as [`escaped`], but line breaks and tabs stay.
pub fn escaped_lines(text: &str) -> Cow<'_, str> {
    escaped_but(text, &['\n', '\t'])
}

fn escaped_but<'a>(text: &'a str, kept: &[char]) -> Cow<'a, str> {
    let is_escaped = |c: char| acts(c) && !kept.contains(&c);
    if !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_escaped(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// Writes log lines to standard error. One call is one line, as loggers make it: untrusted text in it neither begins a new
/// line nor moves the cursor.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogLines;

impl Write for LogLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        io::stderr().lock().write_all(log_line(line).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

fn log_line(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let (body, end) = match text.strip_suffix('\n') {
        Some(body) => (body, "\n"),
        None => (text.as_ref(), ""),
    };
    format!("{}{end}", escaped(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_neither_begins_a_line_nor_moves_the_cursor() {
        let said = "a\nERROR forged\r\x1b[2J\u{7}\u{9b}\u{202e}é";
        assert_eq!(escaped(said), r"a\nERROR forged\r\u{1b}[2J\u{7}\u{9b}\u{202e}é");
        assert_eq!(escaped_lines("a\n\tb\x1b[31m"), "a\n\tb\\u{1b}[31m");
        assert!(matches!(escaped("plain é"), Cow::Borrowed("plain é")));
        assert_eq!(log_line("WARN a\nb\n".as_bytes()), "WARN a\\nb\n");
        assert_eq!(log_line(b"\xff"), "\u{fffd}");
    }

    #[test]
    fn a_long_value_is_never_in_memory_as_a_whole() {
        struct Cell<'a>(&'a std::cell::Cell<u32>);
        impl fmt::Display for Cell<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for _ in 0..1_000_000 {
                    self.0.set(self.0.get() + 1);
                    f.write_str("ä€")?;
                }
                Ok(())
            }
        }
        let parts = std::cell::Cell::new(0);
        let said = shortened_display(&Cell(&parts));
        assert!(
            said.len() <= MAX_TEXT_BYTES && said.len() > MAX_TEXT_BYTES - 8,
            "{}",
            said.len()
        );
        assert!(said.ends_with('…'));
        assert!(parts.get() < 1_000, "{} parts were made", parts.get());
        let exact = "x".repeat(MAX_TEXT_BYTES);
        assert_eq!(shortened_display(&exact), exact);
        assert_eq!(shortened_display(&format!("{exact}y")).len(), MAX_TEXT_BYTES);
    }
}
