//! Folders that may not contain tables or sinks: system folders, and spill folders of processes.

use std::fs;
use std::path::Path;

use sluice_core::ids::Incarnation;
use sluice_crds::shuffle_query::system_folder;

use crate::owned_dir::lock_path;

/// The name prefix of a run's folder, before its query id.
pub const RUN_PREFIX: &str = "sluice-run-";

/// Whether a name is that of a worker's spill folder (its incarnation) or of a run's (its query).
pub fn is_spill_name(name: &str) -> bool {
    is_incarnation(name) || name.starts_with(RUN_PREFIX)
}

/// Whether a name is a displayed [`Incarnation`].
pub fn is_incarnation(name: &str) -> bool {
    let number = name.strip_prefix('i').and_then(|number| number.parse().ok());
    number.is_some_and(|number| Incarnation(number).to_string() == name)
}

/// Describes the forbidden folder that contains a path, links resolved. A folder with the name of a spill folder is one
/// if it has a lock file.
pub fn forbidden_folder(resolved: &Path) -> Option<String> {
    if let Some(folder) = resolved.to_str().and_then(system_folder) {
        return Some(folder.to_owned());
    }
    let is_spill = |folder: &&Path| {
        let name = folder.file_name().and_then(|name| name.to_str());
        name.is_some_and(is_spill_name) && fs::symlink_metadata(lock_path(folder)).is_ok()
    };
    let folder = resolved.ancestors().find(is_spill)?;
    Some(format!("the spill folder {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owned_dir::OwnedDir;

    #[test]
    fn spill_folders_and_those_of_the_system_are_forbidden_with_all_that_is_in_them() {
        let root = tempfile::tempdir().expect("a folder");
        let top = root.path().canonicalize().expect("it exists");
        let none = |path: &Path| assert_eq!(forbidden_folder(path), None, "{}", path.display());
        for name in ["i12", "sluice-run-q"] {
            none(&top.join(name));
            let _own = OwnedDir::create(&top, name, is_spill_name).expect("it is made");
            let own = top.join(name);
            for path in [own.clone(), own.join("q"), own.join("q/0.seg")] {
                let folder = forbidden_folder(&path).expect("it is a spill folder");
                assert_eq!(folder, format!("the spill folder {}", top.join(name).display()));
            }
            none(&top);
            none(&top.join("data"));
        }
        // Folders of others' names with a lock file beside them are theirs.
        for name in ["data", "i12x", "i007", "items"] {
            fs::write(top.join(name).with_extension("lock"), "").expect("a file");
            none(&top.join(name));
        }
        for system in ["/proc/self/environ", "/etc/sluice/key.pem", "/dev", "/sys/x"] {
            assert!(forbidden_folder(Path::new(system)).is_some(), "{system}");
        }
    }
}
