//! The search for the cheapest order.

use std::collections::BTreeMap;

use super::{JoinOrder, JoinProblem, JoinTree, MAX_RELATIONS, RelationSet, cardinality};

/// The most relations for which all trees are compared.
const MAX_EXHAUSTIVE: usize = 10;

/// A tree of joins with what it costs and gives.
#[derive(Debug, Clone)]
struct Candidate {
    tree: JoinTree,
    cost: f64,
    rows: f64,
}

/// The order in which the chain should run; `None` if it should run as it is written. It has no joins without a key.
pub fn solve(problem: &JoinProblem) -> Option<JoinOrder> {
    let count = problem.relations.len();
    if !(3..=MAX_RELATIONS).contains(&count) {
        return None;
    }
    let best = if count <= MAX_EXHAUSTIVE {
        cheapest(problem, count)
    } else {
        greedy(problem, count)
    }?;
    let written = candidate_of(problem, &problem.written);
    // The last rows are the same for every order.
    let (cost, written_cost) = (best.cost - best.rows, written.cost - written.rows);
    let better = best.tree != problem.written && cost <= written_cost * problem.max_cost_ratio;
    better.then_some(JoinOrder {
        tree: best.tree,
        cost,
        written_cost,
    })
}

fn relation(problem: &JoinProblem, index: usize) -> Candidate {
    Candidate {
        tree: JoinTree::Relation(index),
        cost: 0.0,
        rows: cardinality::rows(problem, RelationSet::of(index)),
    }
}

/// What a given tree costs, its left sides being the build sides.
fn candidate_of(problem: &JoinProblem, tree: &JoinTree) -> Candidate {
    match tree {
        JoinTree::Relation(index) => relation(problem, *index),
        JoinTree::Join(left, right) => {
            let (left, right) = (candidate_of(problem, left), candidate_of(problem, right));
            let rows = cardinality::rows(problem, tree.relations());
            Candidate {
                tree: tree.clone(),
                cost: left.cost + right.cost + left.rows + rows,
                rows,
            }
        }
    }
}

/// Both joined, the smaller one being the build side.
fn join(one: &Candidate, other: &Candidate, rows: f64) -> Candidate {
    let (build, probe) = if one.rows <= other.rows {
        (one, other)
    } else {
        (other, one)
    };
    Candidate {
        tree: build.tree.clone().join(probe.tree.clone()),
        cost: one.cost + other.cost + build.rows + rows,
        rows,
    }
}

fn is_joined(problem: &JoinProblem, one: RelationSet, other: RelationSet) -> bool {
    let mut classes = problem.classes.iter();
    classes.any(|class| class.members.meets(one) && class.members.meets(other))
}

/// The cheapest tree of all.
fn cheapest(problem: &JoinProblem, count: usize) -> Option<Candidate> {
    let all = RelationSet((1 << count) - 1);
    let mut best: BTreeMap<RelationSet, Candidate> = BTreeMap::new();
    for index in 0..count {
        best.insert(RelationSet::of(index), relation(problem, index));
    }
    for set in (1..=all.0).map(RelationSet).filter(|set| set.0.count_ones() > 1) {
        let rows = cardinality::rows(problem, set);
        let mut chosen: Option<Candidate> = None;
        // Every division of the set, each once: that part which has the lowest relation.
        let lowest = set.0 & set.0.wrapping_neg();
        let mut part = (set.0 - 1) & set.0;
        while part > 0 {
            let (one, other) = (RelationSet(part), RelationSet(set.0 & !part));
            if part & lowest != 0
                && let (Some(left), Some(right)) = (best.get(&one), best.get(&other))
                && is_joined(problem, one, other)
            {
                let joined = join(left, right, rows);
                if chosen.as_ref().is_none_or(|chosen| joined.cost < chosen.cost) {
                    chosen = Some(joined);
                }
            }
            part = (part - 1) & set.0;
        }
        if let Some(chosen) = chosen {
            best.insert(set, chosen);
        }
    }
    best.remove(&all)
}

/// The tree that joins the pair with the fewest rows first.
fn greedy(problem: &JoinProblem, count: usize) -> Option<Candidate> {
    let mut parts: Vec<(RelationSet, Candidate)> = (0..count)
        .map(|index| (RelationSet::of(index), relation(problem, index)))
        .collect();
    while parts.len() > 1 {
        let mut chosen: Option<(usize, usize, f64)> = None;
        for (at, (one, _)) in parts.iter().enumerate() {
            for (beside, (other, _)) in parts.iter().enumerate().skip(at + 1) {
                if !is_joined(problem, *one, *other) {
                    continue;
                }
                let rows = cardinality::rows(problem, one.with(*other));
                if chosen.is_none_or(|(_, _, fewest)| rows < fewest) {
                    chosen = Some((at, beside, rows));
                }
            }
        }
        let (at, beside, rows) = chosen?;
        let (other_set, other) = parts.remove(beside);
        let (one_set, one) = parts.remove(at);
        parts.push((one_set.with(other_set), join(&one, &other, rows)));
    }
    parts.pop().map(|(_, candidate)| candidate)
}
