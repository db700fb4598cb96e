//! Names of tables, columns and functions that are not known, and calls of functions with other arguments than theirs.

use super::super::messages::plain;
use super::super::names::{any_of, expression, instead, nearest, with_sql_types};
use super::super::sentence::Sentence;
use super::{MessageContext, Pattern, first};

/// Patterns and their sentences.
pub(super) const PATTERNS: &[(&str, Pattern)] = &[
    ("table '{}' not found", |seen, parts| {
        Some(unknown_table(seen, first(parts)))
    }),
    ("table function '{}' not found", |seen, parts| {
        Some(unknown_table_function(seen, first(parts)))
    }),
    ("Invalid function '{}'.", |seen, parts| {
        Some(unknown_function(seen, first(parts)))
    }),
    ("Invalid qualifier {}", |seen, parts| {
        let name = first(parts);
        let at = seen.at(|text| text.at_name(name));
        let fix = "write the name or alias of one of its tables";
        Some(Sentence::new(
            format!("table {name}"),
            at,
            "is not in this FROM",
            fix,
        ))
    }),
    ("Unsupported compound identifier '{}'. Expected", |seen, parts| {
        let name = first(parts);
        let at = seen.at(|text| text.at_name(name));
        Some(Sentence::new(
            format!("the name {name}"),
            at,
            "has too many parts",
            "write table or table.column",
        ))
    }),
    (
        "WITH query name \"{}\" specified more than once",
        |seen, parts| {
            let name = first(parts);
            let at = seen.at(|text| text.at_definition(name));
            Some(Sentence::new(
                format!("the name {name}"),
                at,
                "stands for two queries of one WITH",
                "rename one of them",
            ))
        },
    ),
    (
        "Projections require unique expression names but the expression \"{}\" at position {} and \"{}\" at position {} have",
        same_names,
    ),
    ("The window {} is not defined", |seen, parts| {
        let name = first(parts);
        let at = seen.at(|text| text.at_name(name));
        Some(Sentence::new(
            format!("window {name}"),
            at,
            "is not defined",
            "define it in a WINDOW clause",
        ))
    }),
    ("Substring without for/from is not valid", |seen, _| {
        let at = seen.at(|text| text.at_call("substr"));
        Some(Sentence::new(
            "substr",
            at,
            "has one argument",
            "write substr(text, from) or substr(text, from, length)",
        ))
    }),
    (
        "{}No function matches the given name and argument types '{}({})'.{}",
        wrong_arguments,
    ),
    ("NTILE requires a positive integer", |seen, _| {
        let at = seen.at(|text| text.at_call("ntile"));
        Some(Sentence::new(
            "the argument of ntile",
            at,
            "is no positive integer",
            "write 1 or more",
        ))
    }),
    (
        "Argument {} to grouping function is not in grouping columns",
        |seen, parts| {
            let at = seen.at(|text| text.at_call("grouping"));
            let what = format!("grouping({})", first(parts));
            Some(Sentence::new(
                what,
                at,
                "is of a column that is not grouped",
                "add the column to GROUP BY",
            ))
        },
    ),
];

fn unknown_table(seen: &MessageContext<'_>, name: &str) -> Sentence {
    let name = name.strip_prefix("datafusion.public.").unwrap_or(name);
    let name = name.strip_prefix("datafusion.").unwrap_or(name);
    let at = seen.at(|text| text.at_name(name));
    let subject = format!("table {name}");
    let tables: Vec<&str> = seen.text.names.tables.iter().map(String::as_str).collect();
    if let Some((_, table)) = name.rsplit_once('.')
        && tables.contains(&table)
    {
        return Sentence::new(
            subject,
            at,
            "is in a schema, and there are none",
            format!("write {table}"),
        );
    }
    let mut fix = instead(&nearest(name, tables.iter().copied()), &tables)
        .map_or_else(String::new, |fix| format!("{fix}, or "));
    fix.push_str("declare it under spec.tables");
    Sentence::new(subject, at, "is not declared", fix)
}

fn unknown_table_function(seen: &MessageContext<'_>, name: &str) -> Sentence {
    let at = seen.at(|text| text.at_call(name));
    let subject = format!("function {name} in FROM");
    if name.starts_with("read_") || name.ends_with("_scan") || name.starts_with("parquet") {
        let fix = "declare the files as a table under spec.tables";
        return Sentence::new(subject, at, "does not exist", fix);
    }
    let names: Vec<&str> = seen
        .text
        .names
        .table_functions
        .iter()
        .map(String::as_str)
        .collect();
    let near = nearest(name, names.iter().copied());
    let fix = instead(&near, &names).unwrap_or_else(|| "write unnest(…)".to_owned());
    Sentence::new(subject, at, "does not exist", fix)
}

fn unknown_function(seen: &MessageContext<'_>, name: &str) -> Sentence {
    let at = seen.at(|text| text.at_call(name));
    let subject = format!("function {name}");
    let names = &seen.text.names;
    let is_of_windows = |function: &String| function.eq_ignore_ascii_case(name);
    if names.window_functions.iter().any(is_of_windows) {
        return Sentence::new(subject, at, "has no window", "write OVER (…) behind it");
    }
    let all = names.functions.iter().chain(&names.window_functions);
    let near = nearest(name, all.map(String::as_str));
    let fix = if near.is_empty() {
        "write one of those in docs/sql.md".to_owned()
    } else {
        format!("write {}", any_of(&near))
    };
    Sentence::new(subject, at, "does not exist", fix)
}

fn same_names(seen: &MessageContext<'_>, parts: &[&str]) -> Option<Sentence> {
    let shown = first(parts);
    let other = parts.get(2).copied().unwrap_or_default();
    // The AS of a CAST is within its parentheses.
    let alias = shown.rsplit_once(" AS ").map(|(_, alias)| alias);
    let alias = alias.filter(|alias| alias.matches(')').count() <= alias.matches('(').count());
    let fix = "name one of them with AS";
    if alias.is_none() && shown != other {
        let names = [shown, other].map(|shown| with_sql_types(&expression(shown)));
        let at = seen.at(|text| text.at_name(other));
        let says = "have the same name in one SELECT";
        return Some(Sentence::new(names.join(" and "), at, says, fix));
    }
    let name = alias.unwrap_or(shown);
    let at = seen.at(|text| text.at_alias(name));
    Some(Sentence::new(
        format!("the name {}", expression(name)),
        at,
        "stands for two columns of one SELECT",
        fix,
    ))
}

/// `{why}No function matches … 'name(types)'. … Candidate functions: …`.
fn wrong_arguments(seen: &MessageContext<'_>, parts: &[&str]) -> Option<Sentence> {
    let [why, name, types, rest] = parts else {
        return None;
    };
    let at = seen.at(|text| text.at_call(name));
    let candidates = rest
        .split_once("Candidate functions:")
        .map_or("", |(_, listed)| listed);
    let candidates: Vec<String> = candidates
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.contains("UserDefined") && !line.contains("Any"))
        .map(|line| with_sql_types(&line.replace("(1)", "")))
        .collect();
    let why = why
        .rsplit(": ")
        .next()
        .unwrap_or_default()
        .trim()
        .trim_end_matches('.');
    let subject = format!("{name}({})", with_sql_types(types));
    if candidates.is_empty() {
        let says = if why.is_empty() {
            "is not defined".to_owned()
        } else {
            format!("is not defined ({})", plain(why))
        };
        return Some(Sentence::new(
            subject,
            at,
            says,
            "CAST the arguments, or give another number of them",
        ));
    }
    let shown: Vec<&str> = candidates.iter().map(String::as_str).collect();
    let fix = format!("write {}, with CAST where a type differs", any_of(&shown));
    Some(Sentence::new(subject, at, "is not defined", fix))
}
