//! Faults that are known and not yet mended, by the narrowest shape of a finding that shows them. Such a finding is
//! counted and not reported.

use super::ast::Query;
use super::suite::Finding;

type Is = fn(&Query, &Finding) -> bool;

/// Each with the reason.
const KNOWN: &[(&str, Is)] = &[(
    "a constant of the side of an outer join that may be missing counts as one after it",
    constant_of_outer_join,
)];

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
