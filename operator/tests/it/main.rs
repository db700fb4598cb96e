//! The operator in this process against the API server that `KUBECONFIG` names: a control plane is enough, the tests
//! play the kubelets. Without `KUBECONFIG` every test says that it was skipped; with `SLUICE_E2E_REQUIRED=1` it fails
//! instead.

#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected fails; clippy sees no tests outside of test functions"
)]

mod api;
mod behaviour;
mod commands;
mod coordinators;
mod crds;
mod faults;
mod harness;
mod kubelet;
mod leader;
mod lifecycle;
mod pods;
mod rbac;
mod scale;
mod sweep;
mod watches;
