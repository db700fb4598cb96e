//! The binary `sluice`.

#[tokio::main]
async fn main() -> std::process::ExitCode {
    sluice::cli::run().await
}
