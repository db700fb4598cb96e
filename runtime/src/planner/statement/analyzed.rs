//! `EXPLAIN ANALYZE` before a query.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::tokens;

/// The query behind `EXPLAIN ANALYZE`, each sign in its place: the words before it are blanks. `None` without these words.
pub fn analyzed_query(sql: &str) -> Option<String> {
    let tokens = tokens(sql);
    let is_seen = |token: &&_| !matches!(token, Token::Whitespace(_));
    let words = tokens.iter().map(|token| &token.token).filter(is_seen);
    let is = |token: &Token, keyword: &str| match token {
        Token::Word(word) => word.quote_style.is_none() && word.value.eq_ignore_ascii_case(keyword),
        _ => false,
    };
    let words: Vec<_> = words.take(3).collect();
    let [explain, analyze, first] = words.as_slice() else {
        return None;
    };
    if !is(explain, "explain") || !is(analyze, "analyze") {
        return None;
    }
    // The parser takes other options of EXPLAIN too, for which the query stays as it is.
    let mut seen = tokens.iter().filter(|token| is_seen(&&token.token));
    let start = seen.nth(2)?.span.start;
    if !is(first, "select") && !is(first, "with") && !is(first, "values") && **first != Token::LParen {
        return None;
    }
    let mut query = String::with_capacity(sql.len());
    for (number, line) in (1_u64..).zip(sql.split_inclusive('\n')) {
        for (column, sign) in (1_u64..).zip(line.chars()) {
            let before = (number, column) < (start.line, start.column);
            query.push(if before && !sign.is_whitespace() {
                ' '
            } else {
                sign
            });
        }
    }
    Some(query)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_stays_in_its_place() {
        for (sql, query) in [
            ("EXPLAIN ANALYZE SELECT 1", Some("                SELECT 1")),
            (
                "-- é\nexplain\n analyze\n  with a AS (SELECT 1)\nSELECT 2",
                Some("    \n       \n        \n  with a AS (SELECT 1)\nSELECT 2"),
            ),
            ("EXPLAIN SELECT 1", None),
            ("EXPLAIN ANALYZE VERBOSE SELECT 1", None),
            ("EXPLAIN ANALYZE DELETE FROM a", None),
            ("SELECT 1", None),
            ("", None),
        ] {
            assert_eq!(analyzed_query(sql).as_deref(), query, "{sql}");
        }
    }
}
