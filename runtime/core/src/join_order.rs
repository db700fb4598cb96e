//! In which order a chain of inner joins runs. README.md beside the parts says how it is decided.

mod cardinality;
mod search;
#[cfg(test)]
mod tests;

pub use search::solve;

/// The most relations of one chain.
pub const MAX_RELATIONS: usize = 64;

/// Relations of a chain as a set: bit `i` is relation `i`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct RelationSet(pub u64);

impl RelationSet {
    /// The set of one relation, below [`MAX_RELATIONS`].
    pub fn of(relation: usize) -> Self {
        Self(1 << relation)
    }

    /// All relations of both.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all relations of `other` are in it.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether a relation is in both.
    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether it has no relation.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its relations in ascending order.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..MAX_RELATIONS).filter(move |relation| self.0 >> relation & 1 == 1)
    }
}

/// One input of the chain: a table with its conditions, or anything that is not an inner join.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Relation {
    /// Estimated rows.
    pub rows: f64,
    /// Rows of what it reads, before its conditions.
    pub base_rows: f64,
}

/// Expressions of the relations that equal each other in every row of the result.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyClass {
    /// Relations that have one of them, each once.
    pub members: RelationSet,
    /// The least estimated number of distinct values of a member, before conditions; at least 1.
    pub domain: f64,
}

/// A condition on several relations that is no key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Condition {
    /// The relations that it reads.
    pub relations: RelationSet,
    /// Estimated part of the rows that it keeps, 0 to 1.
    pub selectivity: f64,
}

/// A chain of inner joins.
#[derive(Debug, Clone, PartialEq)]
pub struct JoinProblem {
    /// Its inputs.
    pub relations: Vec<Relation>,
    /// Its keys.
    pub classes: Vec<KeyClass>,
    /// What else its rows must fulfil.
    pub conditions: Vec<Condition>,
    /// The chain as it was written.
    pub written: JoinTree,
    /// The most that another order may cost, as a part of what the written one costs.
    pub max_cost_ratio: f64,
}

/// An order of joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinTree {
    /// An input, by its index.
    Relation(usize),
    /// Both joined; the hash table is built from the left one.
    Join(Box<JoinTree>, Box<JoinTree>),
}

impl JoinTree {
    /// Joins both.
    #[must_use]
    pub fn join(self, right: Self) -> Self {
        Self::Join(Box::new(self), Box::new(right))
    }

    /// The relations under it.
    pub fn relations(&self) -> RelationSet {
        match self {
            Self::Relation(relation) => RelationSet::of(*relation),
            Self::Join(left, right) => left.relations().with(right.relations()),
        }
    }
}

/// An order that is better than the written one.
#[derive(Debug, Clone, PartialEq)]
pub struct JoinOrder {
    /// The joins.
    pub tree: JoinTree,
    /// Estimated rows held and handed on by the joins.
    pub cost: f64,
    /// The same of the written order.
    pub written_cost: f64,
}
