//! From a YAML file to a valid query and its pool.

use std::fmt::Write;
use std::io::Read;
use std::path::{Path, PathBuf};

use sluice_crds::{Resource, ShuffleQuery, WorkerPoolSpec, parse_documents, validate_pool, validate_query};

use super::error::PrepareError;

/// A valid query and, if it has any, the shape of its workers.
#[derive(Debug, Clone)]
pub struct LoadedQuery {
    pub query: ShuffleQuery,
    /// Its inline workers, or the pool of the same file that it names.
    pub pool: Option<WorkerPoolSpec>,
    /// The folder that relative locations start from: the file's own.
    pub base: PathBuf,
}

impl LoadedQuery {
    pub fn name(&self) -> &str {
        self.query.metadata.name.as_deref().unwrap_or("query")
    }
}

/// Reads and checks a file (`-`: standard input).
///
/// # Errors
/// The file cannot be read, is not YAML of our kinds, holds no query or several, or breaks a rule.
pub fn load(file: &Path) -> Result<LoadedQuery, PrepareError> {
    let text = read(file).map_err(|error| PrepareError::BadInput(format!("{}: {error}", file.display())))?;
    let fail = |message: String| PrepareError::BadInput(format!("{}: {message}", file.display()));
    let mut queries = Vec::new();
    let mut pools = Vec::new();
    for resource in parse_documents(&text).map_err(|error| fail(error.to_string()))? {
        match resource {
            Resource::Query(query) => queries.push(*query),
            Resource::Pool(pool) => pools.push(*pool),
        }
    }
    let mut problems: Vec<_> = queries.iter().flat_map(validate_query).collect();
    problems.extend(pools.iter().flat_map(validate_pool));
    if !problems.is_empty() {
        let mut message = String::from("not valid");
        for problem in problems {
            let _ = write!(message, "\n  {problem}");
        }
        return Err(fail(message));
    }
    let count = queries.len();
    let (Some(query), None) = (queries.pop(), queries.pop()) else {
        return Err(fail(format!(
            "it holds {count} ShuffleQuery documents; give exactly one"
        )));
    };
    let named = query
        .spec
        .worker_pool_ref
        .as_ref()
        .map(|reference| reference.name.as_str());
    let of_file = pools
        .into_iter()
        .find(|pool| pool.metadata.name.as_deref() == named && named.is_some());
    let pool = query.spec.workers.clone().or(of_file.map(|pool| pool.spec));
    let base = base(file).map_err(|error| fail(format!("its folder: {error}")))?;
    Ok(LoadedQuery { query, pool, base })
}

fn base(file: &Path) -> std::io::Result<PathBuf> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new(".")).canonicalize()
}

fn read(file: &Path) -> std::io::Result<String> {
    if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(file)
}
