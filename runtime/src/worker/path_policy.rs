//! Folders that the attempts of one session may read and write, whatever its coordinator says: those of its token, and
//! those that the worker was started with.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use sluice_core::failure::{AttemptFailure, BadInputKind};
use sluice_proto::auth::Folders;

use super::WorkerOptions;
use crate::forbidden::forbidden_folder;
use crate::source::InputRoots;

/// The folders of a session. Each set limits on its own; a missing set limits nothing.
#[derive(Debug, Clone, Default)]
pub(super) struct PathPolicy {
    read: Vec<BTreeSet<PathBuf>>,
    /// The sinks that the token names.
    sinks: Option<BTreeSet<PathBuf>>,
    /// Folders that contain sinks: staging files beside a sink stay in them too.
    sink_dirs: Option<BTreeSet<PathBuf>>,
    /// The worker's spill folders: no table and no sink may be there.
    spill: BTreeSet<PathBuf>,
}

impl PathPolicy {
    /// The policy of a session whose token, if tokens are checked, names `folders`. Resolves links. Blocks.
    pub(super) fn new(options: &WorkerOptions, folders: Option<&Folders>) -> Self {
        let claimed = |paths: &[String]| resolved(paths.iter().map(Path::new));
        let given = |dirs: &Option<Vec<PathBuf>>| {
            dirs.as_ref()
                .map(|dirs| resolved(dirs.iter().map(PathBuf::as_path)))
        };
        let read = folders.map(|folders| claimed(&folders.read));
        Self {
            read: read.into_iter().chain(given(&options.data_dirs)).collect(),
            sinks: folders.map(|folders| claimed(&folders.write)),
            sink_dirs: given(&options.sink_dirs),
            spill: resolved(options.spill_dirs.iter().map(PathBuf::as_path)),
        }
    }

    /// A policy that allows nothing.
    pub(super) fn nothing() -> Self {
        Self {
            read: vec![BTreeSet::new()],
            sinks: Some(BTreeSet::new()),
            sink_dirs: None,
            spill: BTreeSet::new(),
        }
    }

    /// The allowed part of the roots that a coordinator names, links resolved. Blocks.
    pub(super) fn read_roots(&self, asked: &[String]) -> InputRoots {
        let mut roots = resolved(asked.iter().map(Path::new));
        roots.retain(|root| self.forbidden(root).is_none());
        for bound in &self.read {
            roots = common(&roots, bound);
        }
        roots.into_iter().collect()
    }

    /// Describes the forbidden folder that contains a path, links resolved.
    fn forbidden(&self, resolved: &Path) -> Option<String> {
        let spill = resolved.ancestors().find(|above| self.spill.contains(*above));
        let spill = spill.map(|folder| format!("the spill folder {}", folder.display()));
        spill.or_else(|| forbidden_folder(resolved))
    }

    /// Checks that attempts may write a sink here. Blocks.
    ///
    /// # Errors
    /// The sink is in a forbidden folder, or outside the allowed ones.
    pub(super) fn check_sink(&self, location: &Path) -> Result<(), AttemptFailure> {
        let resolved = resolve(location);
        let refused = |problem: String| AttemptFailure::BadInput {
            kind: BadInputKind::ForbiddenPath,
            message: format!("the sink {} {problem}", location.display()),
        };
        if let Some(folder) = self.forbidden(&resolved) {
            return Err(refused(format!(
                "leads into {folder}, which is no place for results"
            )));
        }
        let is_claimed = self.sinks.as_ref().is_none_or(|sinks| lies_in(&resolved, sinks));
        let is_given = self
            .sink_dirs
            .as_ref()
            .is_none_or(|dirs| resolved.parent().is_some_and(|beside| lies_in(beside, dirs)));
        if is_claimed && is_given {
            return Ok(());
        }
        Err(refused(
            "is outside the folders that the query may write".to_owned(),
        ))
    }
}

fn resolved<'a>(paths: impl Iterator<Item = &'a Path>) -> BTreeSet<PathBuf> {
    paths.filter(|path| path.is_absolute()).map(resolve).collect()
}

/// Resolves links of the existing part of a path. The missing part may not contain `..`, which could lead anywhere.
fn resolve(path: &Path) -> PathBuf {
    let mut missing: Vec<OsString> = Vec::new();
    let mut existing = path;
    loop {
        if let Ok(found) = existing.canonicalize() {
            let rest = missing.iter().rev();
            return rest.fold(found, |found, part| found.join(part));
        }
        let (Some(above), Some(name)) = (existing.parent(), existing.file_name()) else {
            return path.to_owned();
        };
        missing.push(name.to_owned());
        existing = above;
    }
}

/// Whether a path is one of the folders or below one.
fn lies_in(path: &Path, folders: &BTreeSet<PathBuf>) -> bool {
    path.ancestors().any(|above| folders.contains(above))
}

/// What lies in both sets of folders.
fn common(one: &BTreeSet<PathBuf>, other: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let below = |inner: &BTreeSet<PathBuf>, outer: &BTreeSet<PathBuf>| {
        let inner = inner.iter().filter(|path| lies_in(path, outer));
        inner.cloned().collect::<Vec<_>>()
    };
    below(one, other).into_iter().chain(below(other, one)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(read: &[&[&Path]], sinks: Option<&[&Path]>, sink_dirs: Option<&[&Path]>) -> PathPolicy {
        let set = |paths: &[&Path]| resolved(paths.iter().copied());
        PathPolicy {
            read: read.iter().copied().map(set).collect(),
            sinks: sinks.map(set),
            sink_dirs: sink_dirs.map(set),
            spill: BTreeSet::new(),
        }
    }

    fn text(path: &Path) -> String {
        path.display().to_string()
    }

    #[test]
    fn what_a_coordinator_asks_for_is_cut_to_every_bound_behind_links() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let top = folder.path().canonicalize().expect("it exists");
        let at = |name: &str| top.join(name);
        for name in ["data/t", "data/u", "secret"] {
            std::fs::create_dir_all(at(name)).expect("it can be made");
        }
        std::os::unix::fs::symlink(at("secret"), at("data/t/link")).expect("it can be linked");
        let (data, t) = (at("data"), at("data/t"));
        let nothing = InputRoots::default();
        let only = |root: &Path| InputRoots::from_iter([root.to_owned()]);
        let claimed = bounds(&[&[t.as_path()], &[data.as_path()]], None, None);
        let roots = |asked: &[PathBuf]| {
            let asked: Vec<_> = asked.iter().map(|path| text(path)).collect();
            claimed.read_roots(&asked)
        };
        assert_eq!(roots(&[t.join("a.csv")]), only(&t.join("a.csv")));
        assert_eq!(roots(&["/".into()]), only(&t));
        for outside in [at("data/u"), at("secret"), at("data/t/link"), "/etc".into()] {
            assert_eq!(roots(std::slice::from_ref(&outside)), nothing, "{outside:?}");
        }
        assert_eq!(claimed.read_roots(&["data/t".into()]), nothing);
        // A claim that leads out of the worker's own folders allows nothing.
        let link = at("data/t/link");
        let out = bounds(&[&[link.as_path()], &[data.as_path()]], None, None);
        assert_eq!(out.read_roots(&[text(&link)]), nothing);
        assert_eq!(PathPolicy::default().read_roots(&[text(&t)]), only(&t));
    }

    #[test]
    fn a_sink_is_the_claimed_one_and_what_is_beside_it_stays_in_the_folder_that_was_given() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let top = folder.path().canonicalize().expect("it exists");
        let (mount, sink) = (top.join("out"), top.join("out/new/result"));
        std::fs::create_dir_all(&mount).expect("it can be made");
        let both = bounds(&[], Some(&[sink.as_path()]), Some(&[mount.as_path()]));
        assert_eq!(both.check_sink(&sink), Ok(()));
        for outside in [top.join("out/other"), top.join("elsewhere"), "/etc/x".into()] {
            let refused = both.check_sink(&outside).expect_err("it is not claimed");
            let AttemptFailure::BadInput { kind, message } = refused else {
                panic!("{refused:?}");
            };
            assert_eq!(kind, BadInputKind::ForbiddenPath);
            assert!(message.contains(&text(&outside)), "{message}");
        }
        // The mount itself would be replaced, and staging files would be outside of it.
        let whole = bounds(&[], Some(&[mount.as_path()]), Some(&[mount.as_path()]));
        assert!(whole.check_sink(&mount).is_err());
        assert_eq!(PathPolicy::default().check_sink(&sink), Ok(()));
    }

    #[test]
    fn nothing_of_a_query_is_in_a_spill_folder_or_one_of_the_system() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let top = folder.path().canonicalize().expect("it exists");
        let spill = top.join("spill/disk");
        std::fs::create_dir_all(spill.join("rows")).expect("it can be made");
        std::os::unix::fs::symlink(&spill, top.join("link")).expect("it can be linked");
        let bounds = PathPolicy {
            spill: resolved([spill.as_path()].into_iter()),
            ..PathPolicy::default()
        };
        let roots = |path: &Path| bounds.read_roots(&[text(path)]);
        for inside in [
            spill.clone(),
            spill.join("rows"),
            top.join("link/rows"),
            "/proc/self".into(),
            "/etc/sluice".into(),
        ] {
            assert_eq!(roots(&inside), InputRoots::default(), "{inside:?}");
            let refused = bounds
                .check_sink(&inside.join("out"))
                .expect_err("it is no place for results");
            let AttemptFailure::BadInput { kind, message } = refused else {
                panic!("{refused:?}");
            };
            assert_eq!(kind, BadInputKind::ForbiddenPath);
            assert!(message.contains("leads into"), "{message}");
        }
        assert_eq!(
            roots(&top.join("spill")),
            InputRoots::from_iter([top.join("spill")]),
            "what is above may hold tables too"
        );
        assert_eq!(bounds.check_sink(&top.join("spill/out")), Ok(()));
    }
}
