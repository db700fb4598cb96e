//! A chain of inner joins, taken apart and put together in another order.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchemaRef, JoinConstraint, JoinType, NullEquality};
use datafusion::error::Result;
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{Expr, ExprSchemable, Filter, Join, LogicalPlan, Projection};
use sluice_core::join_order::{
    Condition, JoinOrder, JoinProblem, JoinTree, KeyClass, MAX_RELATIONS, RelationSet,
};

use super::estimate::Estimator;

/// Inner joins with keys, whatever their order.
pub(super) struct Chain {
    /// What is joined.
    relations: Vec<LogicalPlan>,
    classes: Vec<Class>,
    /// What is no key, and the relations that it reads.
    conditions: Vec<(RelationSet, Expr)>,
    written: JoinTree,
}

/// Expressions that equal each other in every row of the result, one a relation.
struct Class {
    members: BTreeMap<usize, Expr>,
    /// Whether what equals a member equals all of them.
    transitive: bool,
}

/// A join whose place is free: its rows are all pairs that fulfil its keys and conditions.
fn is_free(join: &Join) -> bool {
    join.join_type == JoinType::Inner
        && join.null_equality == NullEquality::NullEqualsNothing
        && !join.null_aware
        && !join.on.is_empty()
}

/// Whether a plan is a join of a chain, or a projection that hands some columns of one on.
pub(super) fn is_link(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Join(join) => is_free(join),
        LogicalPlan::Projection(projection) => {
            let columns = |expr: &Expr| matches!(expr, Expr::Column(_));
            projection.expr.iter().all(columns) && is_link(&projection.input)
        }
        _ => false,
    }
}

impl Chain {
    /// The chain that ends with `plan`, if it has at least three relations.
    pub fn of(plan: &LogicalPlan) -> Option<Self> {
        if !matches!(plan, LogicalPlan::Join(_)) || !is_link(plan) {
            return None;
        }
        let mut parts = Parts::default();
        let written = parts.take_apart(plan);
        if !(3..=MAX_RELATIONS).contains(&parts.relations.len()) {
            return None;
        }
        parts.into_chain(written)
    }

    /// What is to be decided; `None` if the rows of a relation are not known.
    pub fn problem(&self, estimator: &Estimator, max_cost_ratio: f64) -> Option<JoinProblem> {
        let relations = self.relations.iter().map(|plan| estimator.relation(plan));
        let relations = relations.collect::<Option<Vec<_>>>()?;
        let classes = self.classes.iter().map(|class| {
            let distinct = class.members.iter().filter_map(|(relation, expr)| {
                let plan = self.relations.get(*relation)?;
                let rows = relations.get(*relation)?.base_rows;
                Some(estimator.distinct(plan, expr).unwrap_or(rows).min(rows))
            });
            KeyClass {
                members: class.relations(),
                domain: distinct.fold(f64::INFINITY, f64::min).max(1.0),
            }
        });
        let conditions = self.conditions.iter().map(|(relations, expr)| Condition {
            relations: *relations,
            selectivity: estimator.selectivity_between(expr),
        });
        Some(JoinProblem {
            classes: classes.collect(),
            conditions: conditions.collect(),
            written: self.written.clone(),
            relations,
            max_cost_ratio,
        })
    }

    /// Changes what is joined.
    pub fn map_relations(
        &mut self,
        mut change: impl FnMut(LogicalPlan) -> Result<Transformed<LogicalPlan>>,
    ) -> Result<()> {
        for relation in &mut self.relations {
            *relation = change(relation.clone())?.data;
        }
        Ok(())
    }

    /// The joins in this order, with the columns of `schema`.
    pub fn build(&self, tree: &JoinTree, schema: &DFSchemaRef) -> Result<LogicalPlan> {
        let joined = Arc::new(self.join(tree)?);
        let columns = schema.columns().into_iter().map(Expr::Column).collect();
        let projection = Projection::try_new_with_schema(columns, joined, Arc::clone(schema))?;
        Ok(LogicalPlan::Projection(projection))
    }

    fn join(&self, tree: &JoinTree) -> Result<LogicalPlan> {
        let set = tree.relations();
        match tree {
            JoinTree::Relation(index) => {
                let own = self.conditions_of(|relations| *relations == set);
                let relation = self.relations.get(*index).cloned().unwrap_or_default();
                Ok(match conjunction(own) {
                    Some(own) => LogicalPlan::Filter(Filter::try_new(own, Arc::new(relation))?),
                    None => relation,
                })
            }
            JoinTree::Join(left, right) => {
                let (one, other) = (left.relations(), right.relations());
                let keys = self.classes.iter();
                let keys = keys.filter_map(|class| Some((class.member_in(one)?, class.member_in(other)?)));
                let between = self.conditions_of(|relations| {
                    set.contains(*relations) && !one.contains(*relations) && !other.contains(*relations)
                });
                let join = Join::try_new(
                    Arc::new(self.join(left)?),
                    Arc::new(self.join(right)?),
                    keys.collect(),
                    conjunction(between),
                    JoinType::Inner,
                    JoinConstraint::On,
                    NullEquality::NullEqualsNothing,
                    false,
                )?;
                Ok(LogicalPlan::Join(join))
            }
        }
    }

    fn conditions_of(&self, wanted: impl Fn(&RelationSet) -> bool) -> Vec<Expr> {
        let conditions = self.conditions.iter();
        conditions
            .filter(|(relations, _)| wanted(relations))
            .map(|(_, condition)| condition.clone())
            .collect()
    }

    /// For people: `(region, nation), customer instead of (customer, nation), region`.
    pub fn describe(&self, order: &JoinOrder) -> String {
        format!(
            "{}, not {}: about {:.0} rows held and handed on by joins instead of {:.0}",
            self.names(&order.tree),
            self.names(&self.written),
            order.cost,
            order.written_cost
        )
    }

    fn names(&self, tree: &JoinTree) -> String {
        match tree {
            JoinTree::Relation(index) => self.relations.get(*index).map(name).unwrap_or_default(),
            JoinTree::Join(left, right) => format!("({} {})", self.names(left), self.names(right)),
        }
    }
}

/// What people call a relation.
fn name(plan: &LogicalPlan) -> String {
    match plan {
        LogicalPlan::TableScan(scan) => scan.table_name.table().to_owned(),
        LogicalPlan::SubqueryAlias(alias) => alias.alias.table().to_owned(),
        LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(_) => "groups".to_owned(),
        other => match other.inputs().as_slice() {
            [input] => name(input),
            _ => "rows".to_owned(),
        },
    }
}

impl Class {
    fn relations(&self) -> RelationSet {
        let members = self.members.keys().map(|relation| RelationSet::of(*relation));
        members.fold(RelationSet::default(), RelationSet::with)
    }

    fn member_in(&self, relations: RelationSet) -> Option<Expr> {
        let mut members = self.members.iter();
        let found = members.find(|(relation, _)| relations.contains(RelationSet::of(**relation)));
        found.map(|(_, expr)| expr.clone())
    }
}

/// What the joins of a chain have, as it was written.
#[derive(Default)]
struct Parts {
    relations: Vec<LogicalPlan>,
    keys: Vec<(Expr, Expr)>,
    conditions: Vec<Expr>,
}

impl Parts {
    fn take_apart(&mut self, plan: &LogicalPlan) -> JoinTree {
        match plan {
            LogicalPlan::Join(join) if is_free(join) => {
                self.keys.extend(join.on.iter().cloned());
                let conditions = join.filter.iter().flat_map(split_conjunction);
                self.conditions.extend(conditions.cloned());
                let left = self.take_apart(&join.left);
                left.join(self.take_apart(&join.right))
            }
            LogicalPlan::Projection(projection) if is_link(plan) => self.take_apart(&projection.input),
            relation => {
                self.relations.push(relation.clone());
                JoinTree::Relation(self.relations.len() - 1)
            }
        }
    }

    /// `None` where a name stands for columns of several relations, or a condition must stay where it is.
    fn into_chain(self, written: JoinTree) -> Option<Chain> {
        let mut owners: HashMap<Column, usize> = HashMap::new();
        for (index, relation) in self.relations.iter().enumerate() {
            for column in relation.schema().columns() {
                if owners.insert(column, index).is_some() {
                    return None;
                }
            }
        }
        let mut chain = Chain {
            relations: self.relations,
            classes: Vec::new(),
            conditions: Vec::new(),
            written,
        };
        for (left, right) in self.keys {
            let (one, other) = (relations_of(&left, &owners)?, relations_of(&right, &owners)?);
            match (single(one), single(other)) {
                (Some(one), Some(other)) if one != other => chain.add_key((one, left), (other, right))?,
                _ => chain.add_condition(left.eq(right), &owners)?,
            }
        }
        for condition in self.conditions {
            chain.add_condition(condition, &owners)?;
        }
        Some(chain)
    }
}

impl Chain {
    fn add_condition(&mut self, condition: Expr, owners: &HashMap<Column, usize>) -> Option<()> {
        let relations = relations_of(&condition, owners)?;
        self.conditions.push((relations, condition));
        Some(())
    }

    /// Adds an equality. What equals the same value equals each other, unless a type has several forms of one value.
    fn add_key(&mut self, one: (usize, Expr), other: (usize, Expr)) -> Option<()> {
        let type_of = |(relation, expr): &(usize, Expr)| {
            let plan = self.relations.get(*relation)?;
            expr.get_type(plan.schema()).ok()
        };
        let (left, right) = (type_of(&one)?, type_of(&other)?);
        let transitive = left == right && has_one_form(&left);
        let mut class = Class {
            members: BTreeMap::from([one, other]),
            transitive,
        };
        if transitive {
            // Of all classes that have one of its members, one is made.
            let members = class.members.clone();
            let touches = |known: &Class| {
                let mut of_known = known.members.iter();
                known.transitive && of_known.any(|(relation, expr)| members.get(relation) == Some(expr))
            };
            let (touched, apart) = std::mem::take(&mut self.classes).into_iter().partition(touches);
            self.classes = apart;
            let touched: Vec<Class> = touched;
            for (relation, expr) in touched.into_iter().flat_map(|class| class.members) {
                match class.members.get(&relation) {
                    Some(known) if *known != expr => {
                        let equal = known.clone().eq(expr);
                        self.conditions.push((RelationSet::of(relation), equal));
                    }
                    Some(_) => {}
                    None => {
                        class.members.insert(relation, expr);
                    }
                }
            }
        }
        self.classes.push(class);
        Some(())
    }
}

/// Whether equal values of a type are the same bits, so that `a = b AND b = c` says no less than `a = c`.
fn has_one_form(data_type: &DataType) -> bool {
    data_type.is_integer()
        || matches!(
            data_type,
            DataType::Utf8
                | DataType::LargeUtf8
                | DataType::Utf8View
                | DataType::Date32
                | DataType::Decimal128(..)
                | DataType::Decimal256(..)
        )
}

fn single(relations: RelationSet) -> Option<usize> {
    let mut relations = relations.iter();
    match (relations.next(), relations.next()) {
        (Some(relation), None) => Some(relation),
        _ => None,
    }
}

/// The relations whose columns an expression reads; `None` if it must stay where it is.
fn relations_of(expr: &Expr, owners: &HashMap<Column, usize>) -> Option<RelationSet> {
    if expr.is_volatile() {
        return None;
    }
    let columns = expr.column_refs();
    let relations = columns.into_iter().map(|column| owners.get(column).copied());
    let relations = relations.collect::<Option<Vec<_>>>()?.into_iter();
    let relations = relations
        .map(RelationSet::of)
        .fold(RelationSet::default(), RelationSet::with);
    (!relations.is_empty()).then_some(relations)
}
