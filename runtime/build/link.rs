//! What the linker is told for a release: equal functions become one, and relocations are packed. The operator has 14.8 MiB
//! instead of 15.9 so. Linkers that know these options are lld (that of the toolchain on x86-64 Linux) and mold.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

/// The program without functions that differ in nothing but their names (one of many element types, say), and with
/// relocations in the form that glibc reads since 2.36.
const ARGUMENTS: [&str; 2] = ["-Wl,--icf=all", "-Wl,-z,pack-relative-relocs"];

/// Tells Cargo the arguments for the programs of this package, if it makes a release and the linker knows them.
pub fn smaller_programs() {
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") && known() {
        for argument in ARGUMENTS {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
}

/// Whether a small program is linked with the arguments and runs. What is built for other machines cannot be tried.
fn known() -> bool {
    let variable = |name: &str| env::var(name).unwrap_or_default();
    if variable("HOST") != variable("TARGET") {
        return false;
    }
    let folder = variable("OUT_DIR");
    let (source, program) = (
        Path::new(&folder).join("probe.rs"),
        Path::new(&folder).join("probe"),
    );
    if std::fs::write(&source, "fn main() {}\n").is_err() {
        return false;
    }
    let mut compile = Command::new(variable("RUSTC"));
    compile.arg(&source).arg("-o").arg(&program);
    compile.args(ARGUMENTS.map(|argument| format!("-Clink-arg={argument}")));
    // The linker that Cargo was told to use, in both ways.
    if let Some(linker) = env::var("RUSTC_LINKER").ok().filter(|linker| !linker.is_empty()) {
        compile.arg(format!("-Clinker={linker}"));
    }
    let flags = variable("CARGO_ENCODED_RUSTFLAGS");
    compile.args(flags.split('\u{1f}').filter(|flag| !flag.is_empty()));
    let succeeds = |command: &mut Command| {
        let command = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    succeeds(&mut compile) && succeeds(&mut Command::new(&program))
}
