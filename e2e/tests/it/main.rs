//! Tests against a real cluster, the one that `KUBECONFIG` names. Without it every test says that it was skipped;
//! with `SLUICE_E2E_REQUIRED=1` it fails instead. `e2e/README.md` tells how to get a cluster.

mod alone;
mod answers;
mod bad_query;
mod cancel;
mod coordinator_lost;
mod crds;
mod deadline;
mod diagnostics;
mod harness;
mod helm_install;
mod helm_rollback;
mod helm_two_releases;
mod helm_uninstall;
mod helm_upgrade;
mod image;
mod kind;
mod operator_lost;
mod pool_changes;
mod query_succeeds;
mod samples;
mod spill;
mod suspend;
mod time_to_live;
mod volumes;
mod worker_lost;
mod worker_pool;
