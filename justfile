# What is done often, by name: `just` lists it. Each recipe is a command that README.md, CONTRIBUTING.md or e2e/README.md
# explains. The whole workspace is named everywhere: with -p Cargo resolves other features, and builds most of it once more.

# lists the recipes
default:
    @just --list

# both programs, for development
build:
    cargo build --locked --workspace --bins

# types and borrows only, of tests too: the fastest answer
check:
    cargo check --locked --workspace --all-targets

# what CI refuses before it runs a test
lint:
    cargo fmt --all --check
    cargo clippy --locked --workspace --all-targets -- -D warnings
    python3 .ci/deny.py

# unit tests and suites; `just test -- planner::` for some
test *ARGS:
    cargo test --locked --workspace --lib --test it {{ ARGS }}

# definitions and reference pages, from the types
generate:
    cargo run --locked --example gen-crds

# takes over what snapshot tests print now; look at the diff
snapshots:
    INSTA_UPDATE=always cargo test --locked --workspace --lib

# a query on this machine
run QUERY *ARGS:
    cargo run --locked --bin sluice -- run {{ QUERY }} {{ ARGS }}

# release programs and their image, symbols beside it
image:
    cargo build --release --locked --workspace --bins
    e2e/image/build target/release/sluice target/release/sluice-operator -o target/sluice-image.tar

# tests on a real cluster, as root on Linux; `just e2e -- -- crds` for some
e2e *ARGS:
    e2e/run {{ ARGS }}

# TPC-H against plain DataFusion, on a machine that does nothing else
bench *ARGS:
    cargo bench --locked --bench tpch -- {{ ARGS }}

# What a decision of the coordinator costs, and a task of its memory.
bench-scheduler *ARGS:
    cargo bench --locked --bench scheduler -- {{ ARGS }}

# every check of a change
ci:
    .ci/run
