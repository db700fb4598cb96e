//! Known faults that are not fixed yet, each described as narrowly as possible. A finding that matches one is counted
//! and not reported.

use super::ast::Query;
use super::suite::Finding;

type Is = fn(&Query, &Finding) -> bool;

/// Each with the reason.
const KNOWN: &[(&str, Is)] = &[];

/// Which known fault a finding shows.
pub fn reason(query: &Query, found: &Finding) -> Option<&'static str> {
    let known = KNOWN.iter().find(|(_, is)| is(query, found));
    known.map(|(why, _)| *why)
}
