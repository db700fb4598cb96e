//! `LIKE … ESCAPE`. DataFusion knows the backslash alone.

use datafusion::sql::sqlparser::ast::{Expr, Value, ValueWithSpan};

use super::refusal::{Checked, Refusal};

/// A pattern that escapes with another character, written with backslashes.
pub(super) fn escape_with_backslash(expr: &mut Expr) -> Checked {
    let (Expr::Like {
        pattern, escape_char, ..
    }
    | Expr::ILike {
        pattern, escape_char, ..
    }) = expr
    else {
        return Ok(());
    };
    let Some(ValueWithSpan { value: escape, span }) = &*escape_char else {
        return Ok(());
    };
    let refused = |fix: &str| Err(Refusal::new("LIKE … ESCAPE of such a pattern", *span, fix));
    let Value::SingleQuotedString(escape) = escape else {
        return refused("write the character in single quotes");
    };
    let mut characters = escape.chars();
    let (Some(escape), None) = (characters.next(), characters.next()) else {
        return refused("write one character");
    };
    if escape == '\\' {
        return Ok(());
    }
    let Expr::Value(ValueWithSpan {
        value: Value::SingleQuotedString(text),
        ..
    }) = pattern.as_mut()
    else {
        return refused("write the pattern as a text in single quotes, or escape with a backslash");
    };
    match with_backslashes(text, escape) {
        Some(written) => *text = written,
        None => return refused("write the character that it escapes behind the last one"),
    }
    *escape_char = None;
    Ok(())
}

/// `None` where nothing stands behind an escape.
fn with_backslashes(pattern: &str, escape: char) -> Option<String> {
    let mut written = String::with_capacity(pattern.len());
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        let (is_escaped, character) = match character == escape {
            true => (true, characters.next()?),
            false => (false, character),
        };
        if character == '\\' || (is_escaped && matches!(character, '%' | '_')) {
            written.push('\\');
        }
        written.push(character);
    }
    Some(written)
}
