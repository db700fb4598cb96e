//! Tests against a real cluster, the one that `KUBECONFIG` names. Without it every test says that it was skipped;
//! with `SLUICE_E2E_REQUIRED=1` it fails instead. `e2e/README.md` tells how to get a cluster.

mod crds;
mod harness;
