//! Checks that a fragment carries its whole plan: a plan that decodes to something else gives wrong rows silently.

use std::fmt::Debug;
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::expressions::{CastExpr, Literal};
use datafusion::physical_expr::{LexOrdering, PhysicalExpr};
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::JoinOnRef;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

use super::error::PlanError;
use super::runtime_filters::RuntimeFilterExec;
use super::shuffle_read_exec::ShuffleReadExec;
use super::window;

/// Compares a plan with what its fragment decodes to, operator by operator.
///
/// # Errors
/// [`PlanError::Unsupported`] with the first operator that is not what it was; [`PlanError::Internal`] for a window that could
/// not run.
pub(crate) fn check(
    plan: &Arc<dyn ExecutionPlan>,
    decoded: &Arc<dyn ExecutionPlan>,
) -> Result<(), PlanError> {
    let mut open = vec![(Arc::clone(plan), Arc::clone(decoded))];
    while let Some((plan, decoded)) = open.pop() {
        let forms = form_of(&plan).and_then(|before| Ok((before, form_of(&decoded)?)));
        let (before, after) = forms.map_err(|error| PlanError::internal("fragment", error))?;
        if let Some(what) = before.differs_from(&after) {
            // The encoding turns them to other floats.
            if before.expressions.iter().any(has_half_float) {
                return Err(PlanError::Unsupported {
                    what: "a constant of the type Float16".into(),
                    fix: "CAST it to FLOAT".into(),
                });
            }
            return Err(PlanError::Unsupported {
                what: format!("{} with options that workers would not see ({what})", plan.name()),
                fix: "write it another way".into(),
            });
        }
        if window::misses_partitions(&decoded) {
            return Err(PlanError::internal(
                "fragment",
                "a window does not find the order of its partitions",
            ));
        }
        let is_recursive = plan.downcast_ref::<RecursiveQueryExec>().is_some();
        for (plan, decoded) in plan.children().into_iter().zip(decoded.children()) {
            let decoded = if is_recursive {
                term(plan, decoded).map_err(|error| PlanError::internal("fragment", error))?
            } else {
                decoded
            };
            open.push((Arc::clone(plan), Arc::clone(decoded)));
        }
    }
    Ok(())
}

/// A term of a recursive query. The query casts its terms to its schema whenever it is built, once more than before.
fn term<'a>(
    plan: &Arc<dyn ExecutionPlan>,
    decoded: &'a Arc<dyn ExecutionPlan>,
) -> Result<&'a Arc<dyn ExecutionPlan>> {
    let Some(cast) = decoded.downcast_ref::<ProjectionExec>() else {
        return Ok(decoded);
    };
    let is_cast = form_of(plan)?.differs_from(&form_of(cast.input())?).is_none();
    Ok(if is_cast { cast.input() } else { decoded })
}

/// All that decides an operator's rows, beside those of its inputs.
#[derive(Default)]
struct OperatorForm {
    options: Vec<(&'static str, String)>,
    expressions: Vec<Arc<dyn PhysicalExpr>>,
}

impl OperatorForm {
    fn option(&mut self, name: &'static str, value: &dyn Debug) {
        self.options.push((name, format!("{value:?}")));
    }

    fn order(&mut self, name: &'static str, ordering: &LexOrdering) {
        for key in ordering {
            self.option(name, &key.options);
            self.expressions.push(Arc::clone(&key.expr));
        }
    }

    fn filter(&mut self, filter: Option<&JoinFilter>) {
        self.option("has a filter", &filter.is_some());
        if let Some(filter) = filter {
            self.option("columns of the filter", &filter.column_indices());
            self.expressions.push(Arc::clone(filter.expression()));
        }
    }

    fn keys(&mut self, on: JoinOnRef<'_>) {
        for (left, right) in on {
            self.expressions.extend([Arc::clone(left), Arc::clone(right)]);
        }
    }

    fn differs_from(&self, other: &Self) -> Option<String> {
        if self.options.len() != other.options.len() || self.expressions.len() != other.expressions.len() {
            return Some("it has more or fewer parts".into());
        }
        let mut options = self.options.iter().zip(&other.options);
        if let Some((before, after)) = options.find(|(before, after)| before != after) {
            return Some(format!("{}: {} became {}", before.0, before.1, after.1));
        }
        let mut expressions = self.expressions.iter().zip(&other.expressions);
        let (before, after) = expressions.find(|(before, after)| !are_same(before, after))?;
        Some(format!("{before} became {after}"))
    }
}

fn has_half_float(expression: &Arc<dyn PhysicalExpr>) -> bool {
    let is_half = |part: &Arc<dyn PhysicalExpr>| {
        let constant = part.downcast_ref::<Literal>();
        Ok(constant.is_some_and(|constant| constant.value().data_type() == DataType::Float16))
    };
    expression.exists(is_half).unwrap_or(false)
}

/// Whether two expressions give the same values. A cast may have lost the name that its column has above.
fn are_same(before: &Arc<dyn PhysicalExpr>, after: &Arc<dyn PhysicalExpr>) -> bool {
    let same = |before: &Arc<dyn PhysicalExpr>, after: &Arc<dyn PhysicalExpr>| {
        before == after || format!("{before:?}") == format!("{after:?}")
    };
    same(before, after)
        || match (with_unnamed_casts(before), with_unnamed_casts(after)) {
            (Ok(before), Ok(after)) => same(&before, &after),
            _ => false,
        }
}

fn with_unnamed_casts(expression: &Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
    Arc::clone(expression)
        .transform_up(|expression| {
            let Some(cast) = expression.downcast_ref::<CastExpr>() else {
                return Ok(Transformed::no(expression));
            };
            let options = Some(cast.cast_options().clone());
            let unnamed = CastExpr::new(Arc::clone(cast.expr()), cast.cast_type().clone(), options);
            Ok(Transformed::yes(Arc::new(unnamed) as Arc<dyn PhysicalExpr>))
        })
        .data()
}

fn form_of(plan: &Arc<dyn ExecutionPlan>) -> Result<OperatorForm> {
    let mut form = OperatorForm::default();
    // Its placeholder encodes it.
    form.option(
        "operator",
        &plan.name().replace("WorkTablePlaceholder", "WorkTableExec"),
    );
    let schema = plan.schema();
    // Nullability is derived from the inputs anew, and may be known better.
    let types = schema
        .fields()
        .iter()
        .map(|field| (field.name().clone(), field.data_type().clone()));
    form.option("columns", &types.collect::<Vec<_>>());
    form.option("partitions", &plan.output_partitioning().partition_count());
    form.option("fetch", &plan.fetch());
    form.option("inputs", &plan.children().len());
    plan.apply_expressions(&mut |expression| {
        form.expressions.push(Arc::clone(expression));
        Ok(TreeNodeRecursion::Continue)
    })?;
    joins(plan, &mut form);
    aggregates(plan, &mut form);
    windows(plan, &mut form)?;
    if let Some(sort) = plan.downcast_ref::<SortExec>() {
        form.order("order", sort.expr());
        form.option("keeps partitions", &sort.preserve_partitioning());
    } else if let Some(merge) = plan.downcast_ref::<SortPreservingMergeExec>() {
        form.order("order", merge.expr());
    } else if let Some(limit) = plan.downcast_ref::<GlobalLimitExec>() {
        form.option("limit", &(limit.skip(), limit.fetch()));
    } else if let Some(limit) = plan.downcast_ref::<LocalLimitExec>() {
        form.option("limit", &limit.fetch());
    } else if let Some(filter) = plan.downcast_ref::<FilterExec>() {
        form.option("columns kept", &filter.projection());
        form.expressions.push(Arc::clone(filter.predicate()));
    } else if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let expressions = projection.expr().iter();
        form.expressions
            .extend(expressions.map(|column| Arc::clone(&column.expr)));
    } else if let Some(unnest) = plan.downcast_ref::<UnnestExec>() {
        form.option("lists", &unnest.list_column_indices());
        form.option("structs", &unnest.struct_column_indices());
        form.option("options", unnest.options());
    } else if let Some(query) = plan.downcast_ref::<RecursiveQueryExec>() {
        form.option("recursion", &(query.name(), query.is_distinct()));
    } else if let Some(read) = plan.downcast_ref::<ShuffleReadExec>() {
        form.option("input", &(read.input_index(), read.mode(), read.facts()));
    } else if let Some(filter) = plan.downcast_ref::<RuntimeFilterExec>() {
        form.option("filters", &filter.filters());
    }
    Ok(form)
}

fn joins(plan: &Arc<dyn ExecutionPlan>, form: &mut OperatorForm) {
    if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        form.option(
            "join",
            &(
                join.join_type(),
                join.partition_mode(),
                join.null_equality(),
                join.null_aware,
            ),
        );
        form.option("columns kept", &join.projection);
        form.keys(join.on());
        form.filter(join.filter());
    } else if let Some(join) = plan.downcast_ref::<SortMergeJoinExec>() {
        form.option("join", &(join.join_type(), join.null_equality()));
        form.option("sorted by", &join.sort_options());
        form.keys(join.on());
        form.filter(join.filter().as_ref());
    } else if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() {
        form.option("join", join.join_type());
        form.option("columns kept", join.projection());
        form.filter(join.filter());
    }
}

fn aggregates(plan: &Arc<dyn ExecutionPlan>, form: &mut OperatorForm) {
    let Some(aggregate) = plan.downcast_ref::<AggregateExec>() else {
        return;
    };
    let groups = aggregate.group_expr();
    form.option("aggregation", aggregate.mode());
    form.option("grouping sets", &(groups.groups(), groups.has_grouping_set()));
    let limit = aggregate.limit_options();
    form.option("limit", &limit.map(|limit| (limit.limit(), limit.descending())));
    for (expression, _) in groups.expr().iter().chain(groups.null_expr()) {
        form.expressions.push(Arc::clone(expression));
    }
    for function in aggregate.aggr_expr() {
        form.option("aggregate", &(function.fun().name(), function.name()));
        form.option("DISTINCT", &function.is_distinct());
        form.option("IGNORE NULLS", &function.ignore_nulls());
        form.option("reversed", &function.is_reversed());
        form.expressions.extend(function.expressions());
        for key in function.order_bys() {
            form.option("order", &key.options);
            form.expressions.push(Arc::clone(&key.expr));
        }
    }
    for filter in aggregate.filter_expr() {
        form.option("has a FILTER", &filter.is_some());
        form.expressions.extend(filter.clone());
    }
}

fn windows(plan: &Arc<dyn ExecutionPlan>, form: &mut OperatorForm) -> Result<()> {
    let Some((functions, order)) = window::functions_of(plan) else {
        return Ok(());
    };
    let input = plan
        .children()
        .first()
        .map(|input| input.schema())
        .ok_or_else(|| DataFusionError::Internal("a window without input".into()))?;
    form.option("order of the input", &order);
    for function in functions {
        let options = window::options_of(function, &input)?;
        form.option("IGNORE NULLS", &options.ignore_nulls);
        form.option("reversed", &options.is_reversed);
        form.option("has a FILTER", &options.filter.is_some());
        form.expressions.extend(options.filter);
        // Whether a frame is causal follows from its bounds; before their types are known it may count as not.
        let frame = function.get_window_frame();
        let frame = (frame.units, &frame.start_bound, &frame.end_bound);
        form.option("window", &(function.name(), frame));
        form.expressions.extend(function.partition_by().iter().cloned());
        for key in function.order_by() {
            form.option("order", &key.options);
            form.expressions.push(Arc::clone(&key.expr));
        }
        if let Some(aggregate) = window::aggregate_of(function) {
            form.option("aggregate", &(aggregate.fun().name(), aggregate.is_distinct()));
            form.expressions.extend(aggregate.expressions());
            for key in aggregate.order_bys() {
                form.option("order of arguments", &key.options);
                form.expressions.push(Arc::clone(&key.expr));
            }
        } else if let Some(standard) = window::standard_of(function) {
            form.option("function", &standard.fun().name());
            form.expressions.extend(standard.args().iter().cloned());
        }
    }
    Ok(())
}
