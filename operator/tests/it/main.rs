//! The operator in this process against the API server that `KUBECONFIG` names. A control plane is enough: the tests act as
//! kubelets. Without `KUBECONFIG` every test is skipped; with `SLUICE_E2E_REQUIRED=1` it fails instead.

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
