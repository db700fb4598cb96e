//! Clauses that do not go together: groups, sets, subqueries, limits and frames.

use super::super::names::{expression, with_sql_types};
use super::super::sentence::Sentence;
use super::{MessageContext, Pattern, first};

/// Patterns and their sentences.
pub(super) const PATTERNS: &[(&str, Pattern)] = &[
    (
        "Column in {} must be in GROUP BY or an aggregate function: While expanding wildcard, column \"{}\" must",
        |seen, parts| {
            let column = expression(parts.get(1).copied().unwrap_or_default());
            let at = seen.at(|text| text.at_name(&column));
            let fix = format!("add it to GROUP BY, or write first_value({column})");
            Some(Sentence::new(
                format!("column {column}"),
                at,
                "is neither grouped nor aggregated",
                fix,
            ))
        },
    ),
    (
        "HAVING clause references: {} must appear in the GROUP BY",
        |seen, parts| {
            let at = seen.at(|text| text.at_sign("HAVING"));
            let what = format!("HAVING{at} refers to {}, which", expression(first(parts)));
            Some(Sentence::new(
                what,
                "",
                "is neither grouped nor aggregated",
                "add it to GROUP BY, or use WHERE",
            ))
        },
    ),
    (
        "Aggregate functions are not allowed in the WHERE clause",
        |seen, _| {
            let at = seen.at(|text| text.at_sign("WHERE"));
            Some(Sentence::new(
                "WHERE",
                at,
                "has an aggregate function",
                "use HAVING, or a subquery",
            ))
        },
    ),
    (
        "Aggregate function calls cannot be nested: '{}' is nested inside '{}'",
        |seen, parts| {
            let inner = expression(first(parts));
            let outer = parts.get(1).copied().unwrap_or_default();
            let outer = outer.split('(').next().unwrap_or_default();
            let at = seen.at(|text| text.at_call(outer));
            let fix = "compute it in a subquery and aggregate its result";
            Some(Sentence::new(
                format!("the aggregate {inner}"),
                at,
                format!("is an argument of {outer}"),
                fix,
            ))
        },
    ),
    (
        "Cannot find column with position {} in SELECT clause. Valid columns: 1 to {}",
        position,
    ),
    ("Order by column out of bounds, specified: {}, max: {}", position),
    ("Order by index starts at 1", |_, _| {
        Some(Sentence::new(
            "ORDER BY 0",
            "",
            "names no column",
            "write 1 for the first column of SELECT",
        ))
    }),
    (
        "For SELECT DISTINCT, ORDER BY expressions {} must appear in select list",
        |seen, parts| {
            let key = expression(first(parts));
            let at = seen.at(|text| text.at_name(&key));
            Some(Sentence::new(
                format!("{key}, by which SELECT DISTINCT is ordered,"),
                at,
                "is not selected",
                "select it, or remove it from ORDER BY",
            ))
        },
    ),
    ("QUALIFY clause requires window functions", |seen, _| {
        let at = seen.at(|text| text.at_sign("QUALIFY"));
        Some(Sentence::new(
            "QUALIFY",
            at,
            "has no window function, and SELECT has none",
            "use WHERE",
        ))
    }),
    ("{} queries have different number of columns", |seen, parts| {
        let fields = seen
            .notes
            .iter()
            .filter_map(|note| note.strip_prefix("this side has "));
        let counts: Vec<&str> = fields.filter_map(|note| note.split(' ').next()).collect();
        let what = format!("the sides of {}", first(parts));
        // The span is that of the whole query.
        let at = seen.text.at_sign(first(parts));
        let says = match counts.as_slice() {
            [left, right] => format!("have {left} and {right} columns"),
            _ => "differ in the number of columns".to_owned(),
        };
        Some(Sentence::new(
            what,
            at,
            says,
            "select as many on each side; NULL fills one",
        ))
    }),
    (
        "Too many columns! The subquery should only return one column: {}",
        |seen, parts| {
            let what = "a subquery in the place of a value";
            Some(Sentence::new(
                what,
                &seen.at,
                format!("gives the columns {}", first(parts)),
                "select one of them",
            ))
        },
    ),
    (
        "Correlated scalar subquery must be aggregated to return at most one row",
        |seen, _| {
            let what = "a subquery in the place of a value, which uses columns of the query around it,";
            Some(Sentence::new(
                what,
                &seen.at,
                "may give several rows",
                "aggregate it, as with max(…), or write a join",
            ))
        },
    ),
    (
        "Physical plan does not support logical expression OuterReferenceColumn({}name: \"{}\"",
        |seen, parts| {
            let column = parts.get(1).copied().unwrap_or_default();
            let at = seen.at(|text| text.at_name(column));
            let what = format!("the use of column {column} in a subquery");
            Some(Sentence::new(
                what,
                at,
                "is not supported in this form",
                "write a join",
            ))
        },
    ),
    (
        "Physical plan does not support logical expression WindowFunction",
        |seen, _| {
            let fix = "compute it in a subquery, or filter with QUALIFY";
            Some(Sentence::new(
                "a window function",
                &seen.at,
                "stands where none can be computed",
                fix,
            ))
        },
    ),
    (
        "Physical plan does not support logical expression AggregateFunction",
        |seen, _| {
            let fix = "compute it in a subquery, or filter with HAVING";
            Some(Sentence::new(
                "an aggregate function",
                &seen.at,
                "stands where none can be computed",
                fix,
            ))
        },
    ),
    (
        "Physical plan does not support logical expression {}(",
        |seen, parts| {
            let place = "stands where it is not supported";
            let (what, says, fix) = match first(parts) {
                "ScalarSubquery" => (
                    "a subquery in the place of a value",
                    "uses columns of the query around it outside of WHERE, or that query has a LIMIT or a window",
                    "compare them in WHERE, or write a join",
                ),
                "Exists" | "InSubquery" | "SetComparison" => {
                    ("a subquery", place, "write a join, or use WHERE")
                }
                _ => ("an expression", place, "write a join, or use WHERE"),
            };
            Some(Sentence::new(what, &seen.at, says, fix))
        },
    ),
    (
        "Inconsistent data length across values list: got {} values in row {} but expected {}",
        |seen, parts| {
            let at = seen.at(|text| text.at_sign("VALUES"));
            let row: u64 = parts.get(1).and_then(|row| row.parse().ok()).unwrap_or_default();
            let expected = parts.get(2).copied().unwrap_or_default();
            let what = format!("row {} of VALUES", row.saturating_add(1));
            let says = format!("has {} values, the first one {expected}", first(parts));
            Some(Sentence::new(what, at, says, "write as many in each row"))
        },
    ),
    ("Unsupported {} expression: ", |seen, parts| {
        Some(variable_limit(seen, first(parts)))
    }),
    ("{} of a subquery in EXISTS are not numbers", |seen, _| {
        Some(variable_limit(seen, "LIMIT"))
    }),
    ("{} must be >= 0, '{}' was provided", limit),
    ("{} must be >=0, '{}' was provided", limit),
    (
        "Expected {} to be an integer or null, but got {}",
        |seen, parts| {
            let keyword = first(parts);
            let kind = with_sql_types(parts.get(1).copied().unwrap_or_default());
            let at = seen.at(|text| text.at_sign(keyword));
            Some(Sentence::new(
                keyword,
                at,
                format!("is {kind}"),
                "write a whole number",
            ))
        },
    ),
    ("Invalid window frame: {}", |seen, parts| {
        let at = seen.at(|text| text.at_sign("OVER"));
        let fix =
            "begin with UNBOUNDED PRECEDING, n PRECEDING, CURRENT ROW or n FOLLOWING, and end no earlier";
        Some(Sentence::new(
            "the frame of a window",
            at,
            format!("is not valid ({})", first(parts)),
            fix,
        ))
    }),
];

/// A number in the place of a column.
fn position(seen: &MessageContext<'_>, parts: &[&str]) -> Option<Sentence> {
    let most = parts.get(1).copied().unwrap_or_default();
    let at = seen.at(|text| text.at_value(first(parts)));
    let fix = match most {
        "1" => "write 1, or the column's name".to_owned(),
        most => format!("write 1 to {most}, or the column's name"),
    };
    Some(Sentence::new(
        format!("column number {}", first(parts)),
        at,
        "is not in SELECT",
        fix,
    ))
}

fn limit(seen: &MessageContext<'_>, parts: &[&str]) -> Option<Sentence> {
    let keyword = first(parts);
    let value = parts.get(1).copied().unwrap_or_default();
    let at = seen.at(|text| text.at_sign(keyword));
    Some(Sentence::new(
        format!("{keyword} {value}"),
        at,
        "is negative",
        "write 0 or more",
    ))
}

fn variable_limit(seen: &MessageContext<'_>, keyword: &str) -> Sentence {
    let at = seen.at(|text| text.at_sign(keyword));
    let fix = "write a whole number, or compare row_number() with QUALIFY";
    Sentence::new(keyword, at, "is no constant", fix)
}
