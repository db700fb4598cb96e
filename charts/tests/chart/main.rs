//! Tests of the chart without a cluster: what `helm template` makes of it. They need helm and say so where there is none;
//! with `SLUICE_E2E_REQUIRED=1` they fail instead.

#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected fails; clippy sees no tests outside of test functions"
)]

mod helm;
mod kustomize;
mod manifests;
mod notes;
mod objects;
mod schema;
mod snapshots;
mod user_roles;
mod values;
