//! Build ids: a build is identified by its sources.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

#[path = "../../build/stamp.rs"]
mod stamp;

use stamp::{SOURCES, given, sources};

/// A workspace with a file for each source; answers where it is. The package is in its folder `runtime`.
fn workspace() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder can be made");
    for source in SOURCES {
        let file = match source.rsplit_once('/').map_or(source, |(_, name)| name) {
            "proto" => format!("{source}/a.proto"),
            "src" => format!("{source}/deep/a.rs"),
            _ => source.to_owned(),
        };
        write(folder.path(), &file, "one");
    }
    folder
}

fn write(workspace: &Path, file: &str, text: &str) {
    let path = workspace.join("runtime");
    fs::create_dir_all(&path).expect("a folder can be made");
    let path = path.join(file);
    fs::create_dir_all(path.parent().expect("it has a folder")).expect("a folder can be made");
    fs::write(path, text).expect("a file can be written");
}

fn stamp_of(workspace: &Path, compiler: &str) -> String {
    let package = workspace.join("runtime");
    let files = sources(&package).expect("everything is there");
    stamp::stamp(&package, &files, &[compiler.to_owned()]).expect("everything can be read")
}

#[test]
fn the_same_sources_have_one_stamp_wherever_they_are() {
    let (one, two) = (workspace(), workspace());
    let stamp = stamp_of(one.path(), "c");
    assert_eq!(stamp, stamp_of(two.path(), "c"));
    // Neither is compiled into the program.
    write(two.path(), "src/snapshots/a.snap", "text");
    write(two.path(), "tests/it/main.rs", "text");
    assert_eq!(stamp, stamp_of(two.path(), "c"));
    assert_ne!(stamp, stamp_of(two.path(), "another compiler"));
}

#[test]
fn every_source_counts_and_so_does_its_name() {
    let first = stamp_of(workspace().path(), "c");
    let mut seen = vec![first];
    for file in sources(&workspace().path().join("runtime")).expect("everything is there") {
        let changed = workspace();
        write(changed.path(), &file.to_string_lossy(), "two");
        seen.push(stamp_of(changed.path(), "c"));
    }
    let more = workspace();
    write(more.path(), "src/more.rs", "one");
    seen.push(stamp_of(more.path(), "c"));
    let moved = workspace();
    let package = moved.path().join("runtime");
    fs::rename(package.join("src/deep"), package.join("src/other")).expect("it is there");
    seen.push(stamp_of(moved.path(), "c"));
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), count, "two builds have one stamp: {seen:?}");
}

/// A package alone, without its workspace: the build fails with this text.
#[test]
fn what_cannot_be_told_apart_needs_a_name() {
    let alone = workspace();
    fs::remove_file(alone.path().join("Cargo.lock")).expect("it is there");
    let problem = sources(&alone.path().join("runtime")).expect_err("nothing tells the versions of crates");
    assert!(
        problem.contains("../Cargo.lock") && problem.contains("set SLUICE_BUILD"),
        "{problem}"
    );
}

#[test]
fn a_given_name_is_a_word() {
    assert_eq!(given(None), Ok(None));
    assert_eq!(given(Some("")), Ok(None));
    assert_eq!(given(Some("1.2-rc.1")), Ok(Some("1.2-rc.1".to_owned())));
    for bad in ["two words", "a\ncargo::x", "ä", &"a".repeat(65)] {
        let problem = given(Some(bad)).expect_err("no word");
        assert!(problem.contains("SLUICE_BUILD"), "{problem}");
    }
}

/// The program under test has its own stamp, or the one that its builder set.
#[test]
fn no_build_is_unknown() {
    let id = sluice::build_id::build_id();
    let stamp = id.strip_prefix(concat!(env!("CARGO_PKG_VERSION"), "+"));
    let stamp = stamp.unwrap_or_else(|| panic!("no version: {id}"));
    let given = std::env::var("SLUICE_BUILD").is_ok_and(|given| given == stamp);
    let digits = stamp.len() == 16 && stamp.chars().all(|digit| digit.is_ascii_hexdigit());
    assert!(given || digits, "{id}");
}
