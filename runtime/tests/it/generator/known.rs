//! Faults that are known and not yet mended, by the narrowest shape of a finding that shows them. Such a finding is
//! counted and not reported.

use super::ast::{Body, GroupKind, Part, Query, any};
use super::suite::Finding;

type Is = fn(&Query, &Finding) -> bool;

/// Each with the reason.
const KNOWN: &[(&str, Is)] = &[
    (
        "a constant of the side of an outer join that may be missing counts as one after it",
        constant_of_outer_join,
    ),
    (
        "a false filter is pushed below a grouping that has the empty set",
        filter_below_the_empty_set,
    ),
    ("GROUPING SETS (()) gives no row", only_the_empty_set),
    (
        "INTERSECT ALL and EXCEPT ALL do not count rows",
        set_operation_counts,
    ),
];

/// Which known fault a finding shows.
pub fn reason(query: &Query, found: &Finding) -> Option<&'static str> {
    let known = KNOWN.iter().find(|(_, is)| is(query, found));
    known.map(|(why, _)| *why)
}

fn constant_of_outer_join(_: &Query, found: &Finding) -> bool {
    let outer = ["Left", "Right", "Full"].map(|kind| format!("join_type={kind},"));
    let joins = outer.iter().any(|kind| found.told.contains(kind));
    found.told.contains("in another order") && joins && !found.told.contains("SortExec")
}

fn filter_below_the_empty_set(query: &Query, found: &Finding) -> bool {
    let has_sets = |part: Part<'_>| match part {
        Part::Select(select) => {
            let group = select.group.as_ref();
            group.is_some_and(|group| group.kind != GroupKind::Plain)
        }
        Part::Query(_) | Part::From(_) | Part::Expr(_) => false,
    };
    let empty = found.told.contains("EmptyExec");
    found.kind.starts_with("inherited") && empty && any(Part::Query(query), &has_sets)
}

fn only_the_empty_set(query: &Query, _: &Finding) -> bool {
    any(Part::Query(query), &|part| match part {
        Part::Select(select) => select.group.as_ref().is_some_and(
            |group| matches!(&group.kind, GroupKind::Sets(sets) if sets.iter().all(Vec::is_empty)),
        ),
        Part::Query(_) | Part::From(_) | Part::Expr(_) => false,
    })
}

fn set_operation_counts(query: &Query, found: &Finding) -> bool {
    let counts = |part: Part<'_>| match part {
        Part::Query(query) => {
            matches!(&query.body, Body::Set { operator, .. } if ["INTERSECT ALL", "EXCEPT ALL"].contains(operator))
        }
        Part::Select(_) | Part::From(_) | Part::Expr(_) => false,
    };
    found.kind.starts_with("inherited") && any(Part::Query(query), &counts)
}
