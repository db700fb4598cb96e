//! From the text of a location to a path of this machine.

use std::path::{Path, PathBuf};

use sluice_crds::shuffle_query::{Location, LocationError};
use thiserror::Error;
use url::Url;

/// Why a location is no path.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidLocation {
    #[error("location `{location}` {problem}: {}", problem.fix())]
    Text {
        /// As it was written.
        location: String,
        problem: LocationError,
    },
    /// A URL that no path belongs to.
    #[error(
        "location `{0}` is not a file URL with an absolute path: write file:/// and the path, or the path alone"
    )]
    Url(String),
}

/// The path that a location names. A relative one lies below `base`. Does not follow symbolic links.
///
/// # Errors
///
/// If the text is no [`Location`] or no file URL.
pub fn local_path(location: &str, base: &Path) -> Result<PathBuf, InvalidLocation> {
    let parsed = location.parse().map_err(|problem| InvalidLocation::Text {
        location: location.to_owned(),
        problem,
    })?;
    match parsed {
        Location::Path(path) => Ok(base.join(path)),
        Location::FileUrl(url) => Url::parse(&url)
            .ok()
            .filter(|url| url.query().is_none() && url.fragment().is_none())
            .and_then(|url| url.to_file_path().ok())
            .ok_or(InvalidLocation::Url(url)),
    }
}
