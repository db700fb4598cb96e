//! Compiles the .proto files in Rust: no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/sluice.proto"], ["proto"])?;
    // What is passed on as it came is shared; the parts of a stage's plan are owned by whoever decodes it.
    let shared = [
        "Bound",
        "DefineStage",
        "FetchChunk",
        "KeyFilter",
        "ResultChunk",
        "RunSample",
        "UpdateInputs",
        "Welcome",
        "WorkerEndpoint",
    ];
    let configure = tonic_prost_build::configure().btree_map(".sluice.v1alpha1.Fragment");
    let configure = shared.iter().fold(configure, |configure, message| {
        configure.bytes(format!(".sluice.v1alpha1.{message}"))
    });
    configure.compile_fds(descriptors)?;
    Ok(())
}
