//! Stamps the build, so that a coordinator and workers of different builds refuse each other.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=../.git/HEAD");
    println!("cargo::rerun-if-changed=../.git/refs/heads");
    println!("cargo::rerun-if-env-changed=SLUICE_BUILD");
    let stamp = std::env::var("SLUICE_BUILD")
        .ok()
        .filter(|stamp| !stamp.is_empty())
        .or_else(revision);
    println!(
        "cargo::rustc-env=SLUICE_BUILD={}",
        stamp.unwrap_or_else(|| "unknown".into())
    );
}

fn revision() -> Option<String> {
    let output = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
