//! Every part of an expression is planned, or refused by name.

use std::collections::BTreeSet;

use datafusion::sql::sqlparser::ast::{
    CeilFloorKind, DateTimeField, DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentClause, FunctionArgumentList, FunctionArguments, Spanned, Value, WindowFrame, WindowSpec,
    WindowType,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use super::clauses::check_sort_keys;
use super::refusal::{Checked, Refusal, absent};

/// An approximate percentile is made of at most so many centroids.
const MAX_CENTROIDS: u64 = 65_536;

/// Refuses what of an expression is not planned; its operands are visited on their own.
#[allow(
    clippy::too_many_lines,
    reason = "one arm for each kind of expression that the parser knows"
)]
pub(super) fn check(expr: &Expr, scalars: &BTreeSet<&str>) -> Checked {
    let at = expr.span();
    match expr {
        Expr::Function(function) => check_function(function, scalars),
        Expr::Cast {
            kind: _,
            expr: _,
            data_type: _,
            array,
            format,
        } => {
            absent(*array, "CAST … ARRAY", at)?;
            absent(format.is_some(), "CAST … FORMAT", at)
        }
        Expr::Ceil { expr: _, field } | Expr::Floor { expr: _, field } => match field {
            CeilFloorKind::DateTimeField(DateTimeField::NoDateTime) => Ok(()),
            CeilFloorKind::DateTimeField(_) => Err(Refusal::new(
                "CEIL or FLOOR TO a unit of time",
                at,
                "write date_trunc(…)",
            )),
            CeilFloorKind::Scale(_) => Err(Refusal::new(
                "CEIL or FLOOR with a scale",
                at,
                "multiply before and divide behind",
            )),
        },
        Expr::Convert { .. } => Err(Refusal::new("CONVERT", at, "write CAST(… AS …)")),
        Expr::Collate { .. } => absent(true, "COLLATE", at),
        Expr::Like { any, .. } | Expr::ILike { any, .. } => absent(*any, "LIKE ANY", at),
        Expr::IsNormalized { .. } => absent(true, "IS NORMALIZED", at),
        Expr::MatchAgainst { .. } => absent(true, "MATCH … AGAINST", at),
        Expr::OuterJoin(_) => Err(Refusal::new("(+)", at, "write LEFT JOIN or RIGHT JOIN")),
        Expr::Prior(_) => absent(true, "PRIOR", at),
        Expr::MemberOf(_) => absent(true, "MEMBER OF", at),
        Expr::JsonAccess { .. } => absent(true, "a JSON path", at),
        Expr::Interval(interval) => {
            let precise =
                interval.leading_precision.is_some() || interval.fractional_seconds_precision.is_some();
            absent(precise, "the precision of an INTERVAL", at)
        }
        Expr::Identifier(_)
        | Expr::CompoundIdentifier(_)
        | Expr::CompoundFieldAccess { .. }
        | Expr::IsFalse(_)
        | Expr::IsNotFalse(_)
        | Expr::IsTrue(_)
        | Expr::IsNotTrue(_)
        | Expr::IsNull(_)
        | Expr::IsNotNull(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotUnknown(_)
        | Expr::IsDistinctFrom(_, _)
        | Expr::IsNotDistinctFrom(_, _)
        | Expr::InList { .. }
        | Expr::InSubquery { .. }
        | Expr::InUnnest { .. }
        | Expr::Between { .. }
        | Expr::BinaryOp { .. }
        | Expr::SimilarTo { .. }
        | Expr::RLike { .. }
        | Expr::AnyOp { .. }
        | Expr::AllOp { .. }
        | Expr::UnaryOp { .. }
        | Expr::AtTimeZone { .. }
        | Expr::Extract { .. }
        | Expr::Position { .. }
        | Expr::Substring { .. }
        | Expr::Trim { .. }
        | Expr::Overlay { .. }
        | Expr::Nested(_)
        | Expr::Value(_)
        | Expr::Prefixed { .. }
        | Expr::TypedString(_)
        | Expr::Case { .. }
        | Expr::Exists { .. }
        | Expr::Subquery(_)
        | Expr::GroupingSets(_)
        | Expr::Cube(_)
        | Expr::Rollup(_)
        | Expr::Tuple(_)
        | Expr::Struct { .. }
        | Expr::Named { .. }
        | Expr::Dictionary(_)
        | Expr::Map(_)
        | Expr::Array(_)
        | Expr::Wildcard(_)
        | Expr::QualifiedWildcard(_, _)
        | Expr::Lambda(_) => Ok(()),
    }
}

fn check_function(function: &Function, scalars: &BTreeSet<&str>) -> Checked {
    let Function {
        name,
        uses_odbc_syntax: _,
        parameters,
        args,
        filter,
        null_treatment,
        over,
        within_group,
    } = function;
    let at = name.span();
    let parametric = match parameters {
        FunctionArguments::None => false,
        FunctionArguments::List(_) | FunctionArguments::Subquery(_) => true,
    };
    absent(parametric, "a second list of arguments", at)?;
    check_sort_keys(within_group)?;
    match over {
        None | Some(WindowType::NamedWindow(_)) => {}
        Some(WindowType::WindowSpec(window)) => check_window(window)?,
    }
    let mut distinct = false;
    let mut modified = false;
    match args {
        FunctionArguments::None => {}
        FunctionArguments::Subquery(_) => {
            return Err(Refusal::new(
                "a subquery in place of arguments",
                at,
                "put it in parentheses",
            ));
        }
        FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment,
            args: _,
            clauses,
        }) => {
            distinct = duplicate_treatment.is_some();
            modified = !clauses.is_empty();
            for clause in clauses {
                if let FunctionArgumentClause::OrderBy(keys) = clause {
                    check_sort_keys(keys)?;
                }
            }
        }
    }
    let lower = name.to_string().to_lowercase();
    if let FunctionArguments::List(list) = args
        && list.duplicate_treatment == Some(DuplicateTreatment::Distinct)
        && list.args.len() > 1
        && lower == "count"
    {
        let fix = "write count(*) over a subquery with SELECT DISTINCT";
        return Err(Refusal::new("count(DISTINCT …) of several arguments", at, fix));
    }
    if lower == "approx_percentile_cont" {
        check_centroids(function, at)?;
    }
    if !scalars.contains(lower.as_str()) {
        return Ok(());
    }
    let of = |clause: &str| format!("{clause} of {lower}, which gives a value for each row,");
    absent(distinct, &of("DISTINCT or ALL"), at)?;
    absent(modified, &of("a clause among the arguments"), at)?;
    absent(filter.is_some(), &of("FILTER"), at)?;
    absent(null_treatment.is_some(), &of("IGNORE or RESPECT NULLS"), at)?;
    absent(over.is_some(), &of("OVER"), at)?;
    absent(!within_group.is_empty(), &of("WITHIN GROUP"), at)
}

/// The last of three arguments of approx_percentile_cont, or of two behind which WITHIN GROUP stands: it allocates as many
/// centroids at once.
fn check_centroids(function: &Function, at: Span) -> Checked {
    let FunctionArguments::List(list) = &function.args else {
        return Ok(());
    };
    let place = if function.within_group.is_empty() { 2 } else { 1 };
    let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(centroids))) = list.args.get(place) else {
        return Ok(());
    };
    let is_bounded = matches!(centroids, Expr::Value(value) if matches!(&value.value,
        Value::Number(text, _) if text.parse::<u64>().is_ok_and(|count| (1..=MAX_CENTROIDS).contains(&count))));
    absent(
        !is_bounded,
        "a number of centroids that is not between 1 and 65536",
        at,
    )
}

fn check_window(window: &WindowSpec) -> Checked {
    let WindowSpec {
        window_name,
        partition_by: _,
        order_by,
        window_frame,
    } = window;
    if let Some(name) = window_name {
        return Err(Refusal::new(
            "a window that extends another one",
            name.span,
            "write the whole definition",
        ));
    }
    if let Some(WindowFrame {
        units: _,
        start_bound: _,
        end_bound: _,
    }) = window_frame
    {
        // All of it is planned.
    }
    check_sort_keys(order_by)
}
