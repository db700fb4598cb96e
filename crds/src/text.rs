//! Texts of bounded length.

/// Cuts a text to `max_chars` characters, the last of them an ellipsis. Returns whether it was longer.
pub fn shorten(text: &mut String, max_chars: usize) -> bool {
    if text.chars().count() <= max_chars {
        return false;
    }
    let kept = max_chars.saturating_sub(1);
    let end = text.char_indices().nth(kept).map_or(text.len(), |(end, _)| end);
    text.truncate(end);
    if max_chars > 0 {
        text.push('…');
    }
    true
}

/// The text, cut as [`shorten`] cuts it.
pub fn shortened(text: &str, max_chars: usize) -> String {
    let mut text = text.to_owned();
    shorten(&mut text, max_chars);
    text
}

/// At most 60 characters of a text that a message quotes, control characters escaped.
pub(crate) fn excerpt(text: &str) -> String {
    shortened(text, 61).chars().flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::shortened;

    #[test]
    fn texts_are_cut_between_characters() {
        for (text, max_chars, expected) in [
            ("", 0, ""),
            ("äöü", 3, "äöü"),
            ("äöü", 2, "ä…"),
            ("äöü", 1, "…"),
            ("äöü", 0, ""),
        ] {
            assert_eq!(shortened(text, max_chars), expected, "{text} to {max_chars}");
        }
    }
}
