//! Stamps the build, so that a coordinator and workers of different builds refuse each other; makes a release small.

use std::env;
use std::path::Path;
use std::process::Command;

#[path = "build/link.rs"]
mod link;
#[path = "build/stamp.rs"]
mod stamp;

fn main() {
    println!("cargo::rerun-if-env-changed=SLUICE_BUILD");
    println!("cargo::rerun-if-changed=build/link.rs");
    link::smaller_programs();
    match identity() {
        Ok(stamp) => println!("cargo::rustc-env=SLUICE_BUILD={stamp}"),
        Err(problem) => println!("cargo::error={problem}"),
    }
}

/// What the builder says, or else what is built: the same sources of the same compiler are the same build, in a
/// repository, in an archive and in a container alike.
fn identity() -> Result<String, String> {
    if let Some(given) = stamp::given(env::var("SLUICE_BUILD").ok().as_deref())? {
        return Ok(given);
    }
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let package = variable("CARGO_MANIFEST_DIR");
    let package = Path::new(&package);
    let files = stamp::sources(package)?;
    // File by file: Cargo would look at snapshots of tests too, if it were told the folders. No file comes or goes
    // without a change of another one, which names it.
    for file in &files {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    let compiler = Command::new(variable("RUSTC")).arg("-vV").output();
    let compiler = compiler.map_err(|problem| format!("{}: {problem}", variable("RUSTC")))?;
    // Hash functions are chosen by what the processor can do.
    let made_by = [
        String::from_utf8_lossy(&compiler.stdout).into_owned(),
        variable("TARGET"),
        variable("CARGO_CFG_TARGET_FEATURE"),
    ];
    stamp::stamp(package, &files, &made_by)
}
