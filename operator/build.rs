//! Makes a release small.

#[path = "../runtime/build/link.rs"]
mod link;

fn main() {
    println!("cargo::rerun-if-changed=../runtime/build/link.rs");
    link::smaller_programs();
}
