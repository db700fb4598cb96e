//! Tests against a real cluster, the one that `KUBECONFIG` names. Without it every test says that it was skipped;
//! with `SLUICE_E2E_REQUIRED=1` it fails instead. `e2e/README.md` tells how to get a cluster.

mod answers;
mod bad_query;
mod cancel;
mod coordinator_lost;
mod crds;
mod harness;
mod helm_install;
mod helm_quickstart;
mod helm_rollback;
mod helm_two_releases;
mod helm_uninstall;
mod helm_upgrade;
mod kind;
mod latency;
mod node_drained;
mod node_lost;
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
