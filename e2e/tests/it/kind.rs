//! The commands of docs/quickstart.md for kind call docker and kind as they should. Programs that note how they are called
//! stand for those two: kind needs Docker, which a machine with a cluster of its own need not have.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Builds and saves images: the files that it is given must be there.
const DOCKER: &str = r#"#!/bin/sh
set -eu
echo "docker $*" >> "$CALLS"
case "$1 ${2-}" in
"info ") ;;
"build -f") test -f "$3" && test "$4" = -t && test -d "$6" && touch "$STATE/$5" ;;
"save localhost/sluice:dev") test -f "$STATE/$2" && test "$3" = -o && echo an image > "$4" ;;
*) exit 64 ;;
esac
"#;

/// One cluster, which is there once it was created.
const KIND: &str = r#"#!/bin/sh
set -eu
echo "kind $*" >> "$CALLS"
case "$1 $2" in
"get clusters") if [ -e "$STATE/cluster" ]; then echo sluice-e2e; fi ;;
"create cluster")
    test "$3" = --config && grep -q '^name: sluice-e2e$' "$4"
    test "$5" = --kubeconfig && echo a kubeconfig > "$6"
    touch "$STATE/cluster" ;;
"load image-archive") test -s "$3" && test "$4 $5" = "--name sluice-e2e" ;;
"delete cluster") test "$3 $4" = "--name sluice-e2e" && rm "$STATE/cluster" ;;
*) exit 64 ;;
esac
"#;

fn program(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// The first block of commands that is only shown.
fn block() -> Result<String> {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/quickstart.md"))?;
    let block = page.split("```console\n").nth(1);
    let block = block.and_then(|rest| rest.split("\n```").next());
    Ok(block.context("no block of commands for kind")?.to_owned())
}

#[test]
fn the_commands_for_kind_are_those_of_docker_and_kind() -> Result<()> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kind");
    // What an earlier run has left.
    let _ = fs::remove_dir_all(&folder);
    let (bin, state) = (folder.join("bin"), folder.join("state"));
    fs::create_dir_all(&bin)?;
    fs::create_dir_all(state.join("localhost"))?;
    program(&bin, "docker", DOCKER)?;
    program(&bin, "kind", KIND)?;
    let calls = folder.join("calls");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH")?);
    let image = folder.join("image.tar");
    let block = block()?.replace("target/sluice-image.tar", &image.display().to_string());
    // What is typed into the shell that the last command opens.
    let block = format!("{block} -c 'cat \"$KUBECONFIG\"'\ne2e/kind/kind down");
    let done = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &block])
        .current_dir(ROOT)
        .env("PATH", path)
        .env("STATE", &state)
        .env("CALLS", &calls)
        .env("XDG_CACHE_HOME", &folder)
        .stdin(Stdio::null())
        .output()?;
    let (said, problem) = (
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr),
    );
    ensure!(done.status.success(), "{problem}{said}");
    assert_eq!(said.trim_end(), "a kubeconfig");
    let calls = fs::read_to_string(&calls)?;
    let called = |start: &str| calls.lines().filter(|call| call.starts_with(start)).count();
    for (start, times) in [
        ("docker build", 1),
        ("docker save", 1),
        ("kind create", 1),
        ("kind load", 1),
        ("kind delete", 1),
    ] {
        ensure!(called(start) == times, "{start}: {calls}");
    }
    ensure!(!state.join("cluster").exists(), "{calls}");
    Ok(())
}
