//! From the text of a location to a path of this machine.

use std::path::{Path, PathBuf};

use sluice_crds::shuffle_query::{LocationError, check_location};
use thiserror::Error;
use url::Url;

/// Why a location is no path.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LocationProblem {
    /// The text alone is refused.
    #[error("location `{location}` {problem}: {}", problem.fix())]
    Text {
        /// The location as written.
        location: String,
        /// What is wrong with it.
        problem: LocationError,
    },
    /// A URL that no path belongs to.
    #[error(
        "location `{0}` is not a file URL with an absolute path: write file:/// and the path, or the path alone"
    )]
    Url(String),
}

/// The path that a location names: a path, which is relative to `base` unless it is absolute, or a `file:///` URL.
/// Symbolic links are not followed here.
///
/// # Errors
///
/// If the text is refused by [`check_location`] or is no file URL.
pub fn resolve_location(location: &str, base: &Path) -> Result<PathBuf, LocationProblem> {
    check_location(location).map_err(|problem| LocationProblem::Text {
        location: location.to_owned(),
        problem,
    })?;
    if !location.starts_with("file:///") {
        return Ok(base.join(location));
    }
    Url::parse(location)
        .ok()
        .filter(|url| url.query().is_none() && url.fragment().is_none())
        .and_then(|url| url.to_file_path().ok())
        .ok_or_else(|| LocationProblem::Url(location.to_owned()))
}
