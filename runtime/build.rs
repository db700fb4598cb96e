//! Stamps the build, so that a coordinator and workers of different builds refuse each other.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=SLUICE_BUILD");
    let given = std::env::var("SLUICE_BUILD")
        .ok()
        .filter(|stamp| !stamp.is_empty());
    // A debug build would be made anew at every commit for the sake of a number that nobody deploys.
    let debug = std::env::var("PROFILE").is_ok_and(|profile| profile == "debug");
    let stamp = given.or_else(|| debug.then(|| "debug".into())).or_else(revision);
    println!(
        "cargo::rustc-env=SLUICE_BUILD={}",
        stamp.unwrap_or_else(|| "unknown".into())
    );
}

/// The commit that is built, where there is one.
fn revision() -> Option<String> {
    println!("cargo::rerun-if-changed=../.git/HEAD");
    println!("cargo::rerun-if-changed=../.git/refs/heads");
    let output = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
