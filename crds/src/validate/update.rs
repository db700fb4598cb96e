//! What may change in a query that exists.

use super::Problem;
use crate::shuffle_query::ShuffleQuery;

/// Everything that a change of a query may not change: all of the spec but suspend, deadlineSeconds,
/// ttlSecondsAfterFinished and priority, and the phase of a query that ended. Empty if the change is allowed; whether
/// the new object is valid in itself is for [`super::validate_query`].
pub fn validate_query_update(old: &ShuffleQuery, new: &ShuffleQuery) -> Vec<Problem> {
    let (before, after) = (&old.spec, &new.spec);
    let mut problems = Vec::new();
    let mut fixed = |field: &str, same: bool| {
        if !same {
            problems.push(Problem::new(
                format!("spec.{field}"),
                "was changed",
                "create another query; only suspend, deadlineSeconds, ttlSecondsAfterFinished and priority may change",
            ));
        }
    };
    fixed("sql", before.sql == after.sql);
    fixed("sqlFrom", before.sql_from == after.sql_from);
    fixed("tables", before.tables == after.tables);
    fixed("sink", before.sink == after.sink);
    fixed("preview", before.preview == after.preview);
    fixed("shuffle", before.shuffle == after.shuffle);
    fixed("retry", before.retry == after.retry);
    fixed("workerPoolRef", before.worker_pool_ref == after.worker_pool_ref);
    fixed("workers", before.workers == after.workers);
    let phase = |query: &ShuffleQuery| query.status.as_ref().map(|status| status.phase);
    if let Some(ended) = phase(old).filter(|phase| phase.is_terminal())
        && phase(new) != Some(ended)
    {
        problems.push(Problem::new(
            "status.phase",
            format!("was {ended:?}, which is final"),
            "leave it; create another query to run it again",
        ));
    }
    problems
}
