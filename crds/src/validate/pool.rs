//! Rules of a `WorkerPool`.

use super::schema::{POOL, check_spec};
use super::{Problem, check_name};
use crate::worker_pool::{MIN_MEMORY, WorkerPool, WorkerPoolSpec};

/// Everything that is wrong with a pool; empty if it is valid.
pub fn validate_pool(pool: &WorkerPool) -> Vec<Problem> {
    let mut problems = Vec::new();
    check_name(pool.metadata.name.as_deref(), &mut problems);
    check_spec(&pool.spec, &POOL, &mut problems);
    check_workers(&pool.spec, "spec", &mut problems);
    problems
}

/// Rules of a pool's spec beyond the schema; `path` is where it stands.
pub(super) fn check_workers(workers: &WorkerPoolSpec, path: &str, problems: &mut Vec<Problem>) {
    if let Some(memory) = workers.memory.filter(|memory| *memory < MIN_MEMORY) {
        let fix = format!("write at least {MIN_MEMORY}, or remove the field");
        problems.push(Problem::new(
            format!("{path}.memory"),
            format!("is {memory}, too little to run"),
            fix,
        ));
    }
}
