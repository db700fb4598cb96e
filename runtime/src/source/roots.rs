//! The places below which a query may read.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The declared locations of a query's tables: what its stores may serve. Symbolic links are resolved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InputRoots(Vec<PathBuf>);

impl InputRoots {
    /// Whether a path, links resolved, is a root or lies below one.
    pub fn hold(&self, path: &Path) -> bool {
        self.holding(path).is_some()
    }

    /// The root that a path, links resolved, is or lies below.
    pub fn holding(&self, path: &Path) -> Option<impl fmt::Display> {
        let root = self.0.iter().find(|root| path.starts_with(root));
        root.map(|root| root.display())
    }

    /// The first root that is a folder or lies below it. The folder's links are resolved.
    pub fn within(&self, folder: &Path) -> Option<impl fmt::Display> {
        let root = self.0.iter().find(|root| root.starts_with(folder));
        root.map(|root| root.display())
    }

    /// As they travel to workers.
    pub fn to_strings(&self) -> Vec<String> {
        self.0.iter().map(|root| root.display().to_string()).collect()
    }

    /// Resolves links again: what was listed before may have been replaced by a link since. Blocks.
    pub(super) fn resolved(&self) -> Self {
        let resolve = |root: &PathBuf| root.canonicalize().unwrap_or_else(|_| root.clone());
        Self(self.0.iter().map(resolve).collect())
    }
}

impl FromIterator<PathBuf> for InputRoots {
    fn from_iter<T: IntoIterator<Item = PathBuf>>(roots: T) -> Self {
        let mut roots: Vec<_> = roots.into_iter().collect();
        roots.sort();
        roots.dedup();
        Self(roots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_holds_itself_and_what_is_below_it() {
        let roots: InputRoots = ["/data/u", "/data/t", "/data/t"]
            .map(PathBuf::from)
            .into_iter()
            .collect();
        assert_eq!(roots.to_strings(), ["/data/t", "/data/u"]);
        for inside in ["/data/t", "/data/t/a.csv", "/data/u/x/y"] {
            assert!(roots.hold(Path::new(inside)), "{inside}");
        }
        for outside in ["/data", "/data/tt", "/", "/etc"] {
            assert!(!roots.hold(Path::new(outside)), "{outside}");
        }
        let within = |folder: &str| roots.within(Path::new(folder)).map(|root| root.to_string());
        assert_eq!(within("/data").as_deref(), Some("/data/t"));
        assert_eq!(within("/data/u").as_deref(), Some("/data/u"));
        assert_eq!(within("/data/u/x"), None);
        let text = serde_json::to_string(&roots).expect("paths of text");
        assert_eq!(text, r#"["/data/t","/data/u"]"#);
    }
}
