//! How many rows a part of a logical plan has, by what its tables tell of themselves.

use std::collections::HashMap;

use datafusion::arrow::datatypes::DataType;
use datafusion::catalog::default_table_source::source_as_provider;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, JoinType, TableReference};
use datafusion::error::Result;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Distinct, Expr, FetchType, Join, LogicalPlan, TableScan};
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use sluice_core::join_order::Relation;

use super::selectivity::{self, Bounds};

/// The part of the rows that a semi join or an anti join keeps.
const SEMI_JOIN: f64 = 0.5;
/// Rows for each group where nothing is known of the keys.
const ROWS_PER_GROUP: f64 = 10.0;

/// What the tables of a query tell.
pub(super) struct Estimator {
    tables: HashMap<TableReference, TableFacts>,
}

struct TableFacts {
    rows: f64,
    columns: HashMap<String, Bounds>,
}

impl Estimator {
    /// Asks the tables that `plan` scans.
    pub async fn of(state: &SessionState, plan: &LogicalPlan) -> Result<Self> {
        let mut scans = Vec::new();
        plan.apply(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                scans.push(scan.clone());
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        let mut tables = HashMap::new();
        for scan in scans {
            if tables.contains_key(&scan.table_name) {
                continue;
            }
            if let Some(facts) = facts_of(state, &scan).await? {
                tables.insert(scan.table_name, facts);
            }
        }
        Ok(Self { tables })
    }

    /// The rows of an input of a chain, if they can be estimated.
    pub fn relation(&self, plan: &LogicalPlan) -> Option<Relation> {
        let estimated = match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan, &[])?,
            LogicalPlan::Filter(filter) => {
                let conditions = split_conjunction(&filter.predicate);
                match filter.input.as_ref() {
                    LogicalPlan::TableScan(scan) => self.scan(scan, &conditions)?,
                    input => {
                        let below = self.relation(input)?;
                        let kept = selectivity::of_all(&conditions, &|column| self.bounds(input, column));
                        Relation {
                            rows: below.rows * kept,
                            ..below
                        }
                    }
                }
            }
            LogicalPlan::Projection(projection) => self.relation(&projection.input)?,
            LogicalPlan::SubqueryAlias(alias) => self.relation(&alias.input)?,
            LogicalPlan::Window(window) => self.relation(&window.input)?,
            LogicalPlan::Repartition(repartition) => self.relation(&repartition.input)?,
            LogicalPlan::Sort(sort) => limited(self.relation(&sort.input)?, sort.fetch),
            LogicalPlan::Limit(limit) => match limit.get_fetch_type().ok()? {
                FetchType::Literal(fetch) => limited(self.relation(&limit.input)?, fetch),
                FetchType::UnsupportedExpr => return None,
            },
            LogicalPlan::Aggregate(aggregate) => self.groups(&aggregate.input, &aggregate.group_expr)?,
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let columns = input.schema().columns().into_iter().map(Expr::Column);
                self.groups(input, &columns.collect::<Vec<_>>())?
            }
            LogicalPlan::Distinct(Distinct::On(distinct)) => {
                self.groups(&distinct.input, &distinct.on_expr)?
            }
            LogicalPlan::Join(join) => self.join(join)?,
            LogicalPlan::Union(union) => {
                let inputs = union.inputs.iter().map(|input| self.relation(input));
                whole(
                    inputs
                        .collect::<Option<Vec<_>>>()?
                        .iter()
                        .map(|input| input.rows)
                        .sum(),
                )
            }
            LogicalPlan::EmptyRelation(_) => whole(1.0),
            LogicalPlan::Values(values) => whole(values.values.len() as f64),
            _ => return None,
        };
        let known = estimated.rows.is_finite() && estimated.base_rows.is_finite();
        known.then_some(Relation {
            rows: estimated.rows.max(1.0),
            base_rows: estimated.base_rows.max(1.0),
        })
    }

    /// How many values an expression of a relation may have, before conditions.
    pub fn distinct(&self, plan: &LogicalPlan, expr: &Expr) -> Option<f64> {
        match expr {
            Expr::Column(column) => self.bounds(plan, column)?.distinct,
            Expr::Alias(alias) => self.distinct(plan, &alias.expr),
            Expr::Cast(cast) => self.distinct(plan, &cast.expr),
            _ => None,
        }
    }

    /// The part of pairs that a condition on several relations keeps.
    pub fn selectivity_between(&self, condition: &Expr) -> f64 {
        selectivity::of_all(&[condition], &|_| None)
    }

    fn scan(&self, scan: &TableScan, above: &[&Expr]) -> Option<Relation> {
        let facts = self.tables.get(&scan.table_name)?;
        // A filter that the scan prunes files by stands above it too.
        let mut conditions = above.to_vec();
        conditions.extend(scan.filters.iter().filter(|own| !above.contains(own)));
        let kept = selectivity::of_all(&conditions, &|column| facts.columns.get(&column.name).copied());
        let all = Relation {
            rows: facts.rows * kept,
            base_rows: facts.rows,
        };
        Some(limited(all, scan.fetch))
    }

    fn groups(&self, input: &LogicalPlan, keys: &[Expr]) -> Option<Relation> {
        let rows = self.relation(input)?.rows;
        let unknown = rows / ROWS_PER_GROUP;
        let combinations: f64 = keys
            .iter()
            .map(|key| self.distinct(input, key).unwrap_or(unknown).max(1.0))
            .product();
        Some(whole(combinations.min(rows)))
    }

    fn join(&self, join: &Join) -> Option<Relation> {
        let (left, right) = (self.relation(&join.left)?, self.relation(&join.right)?);
        let domain = if join.on.is_empty() {
            1.0
        } else {
            left.base_rows.min(right.base_rows)
        };
        let conditions = join.filter.iter().flat_map(split_conjunction).collect::<Vec<_>>();
        let kept = selectivity::of_all(&conditions, &|_| None);
        let inner = left.rows * right.rows / domain.max(1.0) * kept;
        Some(whole(match join.join_type {
            JoinType::Inner => inner,
            JoinType::Left => inner.max(left.rows),
            JoinType::Right => inner.max(right.rows),
            JoinType::Full => inner.max(left.rows + right.rows),
            JoinType::LeftSemi | JoinType::LeftAnti => left.rows * SEMI_JOIN,
            JoinType::RightSemi | JoinType::RightAnti => right.rows * SEMI_JOIN,
            JoinType::LeftMark => left.rows,
            JoinType::RightMark => right.rows,
        }))
    }

    /// What is known of a column of a plan: that of the table which it comes from.
    fn bounds(&self, plan: &LogicalPlan, column: &Column) -> Option<Bounds> {
        match plan {
            LogicalPlan::TableScan(scan) => self
                .tables
                .get(&scan.table_name)?
                .columns
                .get(&column.name)
                .copied(),
            LogicalPlan::SubqueryAlias(alias) => {
                let place = alias.schema.maybe_index_of_column(column)?;
                self.bounds(&alias.input, &column_at(&alias.input, place)?)
            }
            LogicalPlan::Projection(projection) => {
                let place = projection.schema.maybe_index_of_column(column)?;
                match projection.expr.get(place)? {
                    Expr::Column(below) => self.bounds(&projection.input, below),
                    Expr::Alias(alias) => match alias.expr.as_ref() {
                        Expr::Column(below) => self.bounds(&projection.input, below),
                        _ => None,
                    },
                    _ => None,
                }
            }
            other => {
                let inputs = other.inputs();
                let mut owners = inputs.iter().filter(|input| input.schema().has_column(column));
                match (owners.next(), owners.next()) {
                    (Some(input), None) => self.bounds(input, column),
                    _ => None,
                }
            }
        }
    }
}

fn column_at(plan: &LogicalPlan, place: usize) -> Option<Column> {
    plan.schema().columns().into_iter().nth(place)
}

/// A relation that is all that there is.
fn whole(rows: f64) -> Relation {
    Relation {
        rows,
        base_rows: rows,
    }
}

fn limited(relation: Relation, fetch: Option<usize>) -> Relation {
    match fetch {
        Some(fetch) => whole(relation.rows.min(fetch as f64)),
        None => relation,
    }
}

async fn facts_of(state: &SessionState, scan: &TableScan) -> Result<Option<TableFacts>> {
    let Ok(provider) = source_as_provider(&scan.source) else {
        return Ok(None);
    };
    let plan = provider.scan(state, None, &[], None).await?;
    let statistics = StatisticsContext::new().compute(plan.as_ref(), &StatisticsArgs::new())?;
    let Some(rows) = statistics.num_rows.get_value() else {
        return Ok(None);
    };
    let rows = *rows as f64;
    let fields = plan.schema();
    let columns = fields.fields().iter().zip(&statistics.column_statistics);
    let columns = columns.map(|(field, column)| {
        let range = match (column.min_value.get_value(), column.max_value.get_value()) {
            (Some(min), Some(max)) => selectivity::number(min).zip(selectivity::number(max)),
            _ => None,
        };
        let values = range.filter(|_| is_discrete(field.data_type()));
        let values = values.map(|(min, max)| max - min + 1.0);
        let counted = column.distinct_count.get_value().map(|count| *count as f64);
        let distinct = counted.or(values).map(|values| values.clamp(1.0, rows.max(1.0)));
        (field.name().clone(), Bounds { range, distinct })
    });
    Ok(Some(TableFacts {
        rows,
        columns: columns.collect(),
    }))
}

fn is_discrete(data_type: &DataType) -> bool {
    data_type.is_integer() || *data_type == DataType::Date32
}
