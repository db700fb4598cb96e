//! What tells one build from another: a number over everything that goes into the program. Part of `build.rs`, and of
//! the test that holds it to this.

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};

/// What the program is made of, as seen from the folder of the package. Crates from elsewhere are in the lock file.
pub const SOURCES: [&str; 12] = [
    "../Cargo.lock",
    "../Cargo.toml",
    "../crds/Cargo.toml",
    "../crds/src",
    "Cargo.toml",
    "core/Cargo.toml",
    "core/src",
    "proto/Cargo.toml",
    "proto/build.rs",
    "proto/proto",
    "proto/src",
    "src",
];

/// The files of [`SOURCES`], in an order that no file system decides. Snapshots of tests are none of them.
///
/// # Errors
/// The package is not in its workspace, so that nobody can tell what is built.
pub fn sources(package: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    for source in SOURCES {
        collect(package, Path::new(source), &mut files).map_err(|problem| {
            format!(
                "no build can be told from another, as {source} cannot be read ({problem}): set SLUICE_BUILD"
            )
        })?;
    }
    files.sort();
    Ok(files)
}

fn collect(package: &Path, source: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let place = package.join(source);
    if !place.is_dir() {
        fs::metadata(place)?;
        files.push(source.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(place)? {
        let entry = entry?;
        let name = source.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            collect(package, &name, files)?;
        } else if name.extension().is_some_and(|end| end == "rs" || end == "proto") {
            files.push(name);
        }
    }
    Ok(())
}

/// The number over these files, and over what makes a program of them (compiler, target). The hasher may be another one
/// in another release of the compiler, which is another build in any case.
///
/// # Errors
/// A file cannot be read.
pub fn stamp(package: &Path, files: &[PathBuf], made_by: &[String]) -> Result<String, String> {
    let mut hasher = DefaultHasher::new();
    let mut add = |bytes: &[u8]| {
        hasher.write_usize(bytes.len());
        hasher.write(bytes);
    };
    for file in files {
        let content =
            fs::read(package.join(file)).map_err(|problem| format!("{}: {problem}", file.display()))?;
        add(file.to_string_lossy().as_bytes());
        add(&content);
    }
    for part in made_by {
        add(part.as_bytes());
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// What `SLUICE_BUILD` says, if it says anything.
///
/// # Errors
/// It is no word that can stand behind a version.
pub fn given(text: Option<&str>) -> Result<Option<String>, String> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let fits = |letter: char| letter.is_ascii_alphanumeric() || letter == '.' || letter == '-';
    if text.len() > 64 || !text.chars().all(fits) {
        return Err(format!(
            "SLUICE_BUILD is `{text}`: give at most 64 letters, digits, dots and dashes"
        ));
    }
    Ok(Some(text.to_owned()))
}
