//! Types that do not fit, and constants that are no value of their type.

use super::super::names::{expression, with_sql_types};
use super::super::sentence::Sentence;
use super::{MessageContext, Pattern, first};

/// Patterns and their sentences.
pub(super) const PATTERNS: &[(&str, Pattern)] = &[
    (
        "Cannot coerce arithmetic expression {} to valid types",
        |seen, parts| Some(operation(seen, first(parts))),
    ),
    (
        "Cannot infer common argument type for comparison operation {}",
        |seen, parts| Some(operation(seen, first(parts))),
    ),
    (
        "Cannot infer common argument type for {} operation {}",
        |seen, parts| Some(operation(seen, parts.get(1).copied().unwrap_or_default())),
    ),
    ("Cannot get result type for {} operation {}: {}", |seen, parts| {
        Some(operation(seen, parts.get(1).copied().unwrap_or_default()))
    }),
    (
        "Cannot create filter with non-boolean predicate '{}' returning {}",
        |seen, parts| {
            let what = expression(first(parts));
            let kind = with_sql_types(parts.get(1).copied().unwrap_or_default());
            let at = seen.at(|text| text.at_name(&what));
            Some(Sentence::new(
                format!("the condition {what}"),
                at,
                format!("is {kind}"),
                "compare it, so that it is BOOLEAN",
            ))
        },
    ),
    ("Unary operator '{}' only supports {}", |seen, parts| {
        Some(unary(seen, first(parts), "a number or an interval"))
    }),
    ("Unary operator '{}' requires a boolean", |seen, parts| {
        Some(unary(seen, first(parts), "BOOLEAN"))
    }),
    (
        "Failed to coerce then ({}) and else ({}) to common types in CASE",
        |seen, parts| Some(mixed(seen, "CASE", "the results of CASE", parts)),
    ),
    (
        "Failed to coerce case ({}) and when ({}) to common types in CASE",
        |seen, parts| Some(mixed(seen, "CASE", "what CASE compares", parts)),
    ),
    (
        "There isn't a common type to coerce {} and {} in {} expression",
        |seen, parts| {
            let keyword = parts.get(2).copied().unwrap_or_default();
            Some(mixed(seen, keyword, &format!("the sides of {keyword}"), parts))
        },
    ),
    ("Failed to coerce types {} and {} in BETWEEN", |seen, parts| {
        Some(mixed(seen, "BETWEEN", "the sides of BETWEEN", parts))
    }),
    (
        "Incompatible inputs for Union: Previous inputs were of type {}, but got incompatible type {} on column '{}'",
        |seen, parts| {
            let column = expression(parts.get(2).copied().unwrap_or_default());
            Some(mixed(
                seen,
                "UNION",
                &format!("the sides of UNION at column {column}"),
                parts,
            ))
        },
    ),
    ("Unsupported SQL type {}", |seen, parts| {
        let name = first(parts);
        let at = seen.at(|text| text.at_name(name));
        let fix = "write BIGINT, INT, DOUBLE, DECIMAL(p, s), VARCHAR, BOOLEAN, DATE, TIMESTAMP, or another name of docs/sql.md";
        Some(Sentence::new(format!("type {name}"), at, "does not exist", fix))
    }),
    ("Cannot cast string '{}' to value of {} type", |seen, parts| {
        let kind = with_sql_types(parts.get(1).copied().unwrap_or_default());
        Some(no_value(seen, first(parts), &kind))
    }),
    ("Can't cast value {} to type {}", |seen, parts| {
        let kind = with_sql_types(parts.get(1).copied().unwrap_or_default());
        let at = seen.at(|text| text.at_value(first(parts)));
        Some(Sentence::new(
            first(parts),
            at,
            format!("is out of the range of {kind}"),
            "use a larger type",
        ))
    }),
    ("Error parsing timestamp from '{}': {}", |seen, parts| {
        let value = first(parts);
        let at = seen.at(|text| text.at_value(value));
        let fix = "write it as '2026-01-31T12:00:00'";
        Some(Sentence::new(format!("'{value}'"), at, "is no TIMESTAMP", fix))
    }),
    ("Overflow converting {} to Nanosecond.", |seen, parts| {
        let value = first(parts);
        let at = seen.at(|text| {
            let date = value.strip_suffix(" 00:00:00").unwrap_or(value);
            let at = text.at_value(value);
            if at.is_empty() { text.at_value(date) } else { at }
        });
        Some(Sentence::new(
            format!("'{value}'"),
            at,
            "is out of the range of TIMESTAMP, which has the years 1677 to 2262",
            "write TIMESTAMP(6), which counts microseconds",
        ))
    }),
    (
        "There is only support Literal types for field at idx: {} in Window Function",
        |seen, parts| {
            let argument: u64 = first(parts).parse().unwrap_or_default();
            Some(variable_argument(seen, argument.saturating_add(1)))
        },
    ),
    (
        "Expected a signed integer literal for the second argument of",
        |seen, _| Some(variable_argument(seen, 2)),
    ),
    ("Invalid input syntax for type interval: \"{}\"", |seen, parts| {
        let value = first(parts);
        let at = seen.at(|text| text.at_value(value));
        Some(Sentence::new(
            format!("'{value}'"),
            at,
            "is no INTERVAL",
            "write it as '1 day 2 hours'",
        ))
    }),
    ("Invalid HexStringLiteral '{}'", |seen, parts| {
        let value = first(parts);
        let at = seen.at(|text| text.at_value(value));
        Some(Sentence::new(
            format!("x'{value}'"),
            at,
            "is no bytes",
            "write an even number of digits 0-9 and a-f",
        ))
    }),
    ("Divide by zero", |seen, _| {
        Some(Sentence::new(
            "a constant of the query",
            &seen.at,
            "is divided by zero",
            "divide by nullif(…, 0)",
        ))
    }),
    ("Overflow happened on: {}", |seen, parts| {
        let fix = "use a larger type";
        Some(Sentence::new(
            format!("the constant {}", first(parts)),
            &seen.at,
            "is out of the range of its type",
            fix,
        ))
    }),
    ("regex parse error:{}error: {}", |seen, parts| {
        let pattern = first(parts).trim().lines().next().unwrap_or_default().trim();
        let at = seen.at(|text| text.at_value(pattern));
        let why = parts.get(1).copied().unwrap_or_default();
        let what = format!("the regular expression '{pattern}'");
        Some(Sentence::new(
            what,
            at,
            format!("is malformed ({why})"),
            "correct it, or put \\ before a sign meant as itself",
        ))
    }),
    ("Placeholder '{}' was not provided", |seen, parts| {
        Some(parameter(seen, first(parts)))
    }),
    ("variable [\"{}\"] has no type", |seen, parts| {
        Some(parameter(seen, first(parts)))
    }),
];

/// `Int64 + Utf8View`.
fn operation(seen: &MessageContext<'_>, operation: &str) -> Sentence {
    let sign = operation
        .split(' ')
        .find(|part| !part.is_empty() && !part.starts_with(char::is_alphanumeric));
    let sign = sign.or_else(|| {
        operation
            .split(' ')
            .find(|part| matches!(*part, "AND" | "OR" | "IS"))
    });
    let at = seen.at(|text| sign.map_or_else(String::new, |sign| text.at_sign(sign)));
    let fix = "CAST one side to the type of the other";
    Sentence::new(with_sql_types(operation), at, "is not defined", fix)
}

fn unary(seen: &MessageContext<'_>, sign: &str, needs: &str) -> Sentence {
    let at = seen.at(|text| text.at_sign(sign));
    Sentence::new(
        format!("the operand of {sign}"),
        at,
        format!("is not {needs}"),
        "CAST it, or compare it",
    )
}

/// Two types that have none in common.
fn mixed(seen: &MessageContext<'_>, keyword: &str, what: &str, parts: &[&str]) -> Sentence {
    let at = seen.at(|text| text.at_sign(keyword));
    let types: Vec<String> = parts.iter().take(2).map(|kind| with_sql_types(kind)).collect();
    let says = format!("are {}, which have no type in common", types.join(" and "));
    Sentence::new(what, at, says, "CAST one to the type of the other")
}

fn no_value(seen: &MessageContext<'_>, value: &str, kind: &str) -> Sentence {
    let at = seen.at(|text| text.at_value(value));
    let fix = match kind {
        "DATE" => "write it as '2026-01-31'",
        "BOOLEAN" => "write true or false",
        _ => "correct it, or CAST the other side to VARCHAR",
    };
    Sentence::new(format!("'{value}'"), at, format!("is no {kind}"), fix)
}

/// An argument of a window function.
fn variable_argument(seen: &MessageContext<'_>, number: u64) -> Sentence {
    let at = seen.at(|text| text.at_sign("OVER"));
    let fix = match number {
        3 => "write a constant, or put coalesce(…, …) around the function",
        _ => "write a whole number",
    };
    let what = format!("argument {number} of the window function");
    Sentence::new(what, at, "is no constant", fix)
}

fn parameter(seen: &MessageContext<'_>, name: &str) -> Sentence {
    let at = seen.at(|text| {
        let at = text.at_value(name);
        if at.is_empty() { text.at_name(name) } else { at }
    });
    Sentence::new(
        format!("parameter {name}"),
        at,
        "has no value",
        "write the value: queries have no parameters",
    )
}
