//! How many rows a set of joined relations has, by estimate.

use std::collections::BTreeMap;

use super::{JoinProblem, RelationSet};

/// Estimated rows of the relations of `set` joined, at least 1. It depends on the set alone, not on an order of joins.
pub fn rows(problem: &JoinProblem, set: RelationSet) -> f64 {
    let mut rows = 1.0;
    let mut joined = RelationSet::default();
    for relation in set.iter() {
        if let Some(next) = problem.relations.get(relation) {
            rows *= next.rows;
            rows /= domain(problem, joined, relation);
        }
        joined = joined.with(RelationSet::of(relation));
    }
    let covered = problem
        .conditions
        .iter()
        .filter(|condition| set.contains(condition.relations));
    let selectivity: f64 = covered.map(|condition| condition.selectivity).product();
    (rows * selectivity).max(1.0)
}

/// Combinations of key values by which a relation joins those that are joined already; 1 without a key.
fn domain(problem: &JoinProblem, joined: RelationSet, relation: usize) -> f64 {
    let next = RelationSet::of(relation);
    let of = |relation: usize| problem.relations.get(relation);
    let mut by_partner: BTreeMap<usize, f64> = BTreeMap::new();
    let classes = problem.classes.iter();
    for class in classes.filter(|class| class.members.contains(next) && class.members.meets(joined)) {
        // The partner that the relation shares most with: several keys of one table are one key.
        let members = joined
            .iter()
            .filter(|other| class.members.contains(RelationSet::of(*other)));
        let partner = members.max_by_key(|other| (shared(problem, *other, relation), usize::MAX - other));
        *by_partner.entry(partner.unwrap_or(relation)).or_insert(1.0) *= class.domain.max(1.0);
    }
    let capped = by_partner.into_iter().map(|(partner, combinations)| {
        let bases = [of(partner), of(relation)].into_iter().flatten();
        let smaller = bases
            .map(|relation| relation.base_rows)
            .fold(f64::INFINITY, f64::min);
        combinations.min(smaller.max(1.0))
    });
    capped.product()
}

/// In how many classes both are.
fn shared(problem: &JoinProblem, one: usize, other: usize) -> usize {
    let both = RelationSet::of(one).with(RelationSet::of(other));
    problem
        .classes
        .iter()
        .filter(|class| class.members.contains(both))
        .count()
}
