//! Queries whose coordinators follow a script of the test.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::{Value, json};
use sluice_core::coordinator::Outcome;
use sluice_crds::ShuffleQuery;
use sluice_crds::shuffle_query::status::{QueryPhase, ShuffleQueryStatus};
use tokio::sync::watch;

use super::fixture::{Fixture, with_operator};
use crate::coordinators::{Coordinator, programs, snapshot};
use crate::harness::eventually;
use crate::kubelet::{Exit, Kubelet};

/// The signals that coordinators of a test wait for, and the events that they received.
#[derive(Clone, Default)]
pub struct CoordinatorSignals {
    signalled: watch::Sender<BTreeSet<String>>,
    events: Arc<Mutex<Vec<String>>>,
}

impl CoordinatorSignals {
    /// Lets the query's coordinator succeed.
    pub fn signal(&self, query: &str) {
        self.signalled.send_modify(|signalled| {
            signalled.insert(query.to_owned());
        });
    }

    /// The events of coordinators in order: `q-c1 is cancelled`, `q-c1 is stopped`.
    pub fn events(&self) -> Vec<String> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn record_event(&self, coordinator: &Coordinator, what: &str) {
        let words = format!("{} is {what}", coordinator.container.pod.name_any());
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.push(words);
    }

    /// A coordinator that runs until its query is signalled, and then succeeds.
    pub async fn follow(self, coordinator: Coordinator) -> Exit {
        coordinator.container.report_running(true).await;
        coordinator.report(&snapshot(2, 1, None));
        let mut signalled = self.signalled.subscribe();
        let query = coordinator.query().to_owned();
        let is_signalled = async {
            let _ = signalled.wait_for(|signalled| signalled.contains(&query)).await;
        };
        tokio::select! {
            () = coordinator.container.terminated() => {
                self.record_event(&coordinator, "stopped");
                Exit::stopped()
            }
            () = coordinator.cancelled() => {
                self.record_event(&coordinator, "cancelled");
                coordinator.end(Outcome::Cancelled).await
            }
            () = is_signalled => coordinator.end(Outcome::Succeeded).await,
        }
    }
}

/// A test whose coordinators wait for signals.
pub struct ScriptedQueries<'a> {
    pub fixture: &'a Fixture<'a>,
    pub kubelet: Kubelet,
    pub signals: CoordinatorSignals,
}

/// Runs `test` with an operator, and coordinators that wait for their signal.
pub fn with_signalled_coordinators(name: &str, test: impl AsyncFnOnce(&ScriptedQueries<'_>)) {
    with_operator(name, async |fixture| {
        let signals = CoordinatorSignals::default();
        let all = signals.clone();
        let program = programs(move |coordinator| all.clone().follow(coordinator));
        let kubelet = Kubelet::start(fixture.env, program).await;
        let scripted = ScriptedQueries {
            fixture,
            kubelet,
            signals,
        };
        test(&scripted).await;
    });
}

/// Runs `test` with an operator, and coordinators that follow `script`.
pub fn with_scripted_coordinators<F>(
    name: &str,
    script: impl Fn(Coordinator) -> F + Send + Sync + 'static,
    test: impl AsyncFnOnce(&Fixture<'_>, &Kubelet),
) where
    F: Future<Output = Exit> + Send + 'static,
{
    with_operator(name, async |fixture| {
        let kubelet = Kubelet::start(fixture.env, programs(script)).await;
        test(fixture, &kubelet).await;
    });
}

impl Fixture<'_> {
    /// Creates a query on the pool `p` with additional `spec`.
    pub async fn create_query(&self, name: &str, spec: Value) -> ShuffleQuery {
        let mut whole = json!({"sql": "select 1"});
        if spec.get("workers").is_none() {
            whole["workerPoolRef"] = json!({"name": "p"});
        }
        for (field, value) in spec.as_object().unwrap() {
            whole[field] = value.clone();
        }
        if whole.get("sqlFrom").is_some() {
            whole.as_object_mut().unwrap().remove("sql");
        }
        self.create(
            json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "ShuffleQuery",
                           "metadata": {"name": name}, "spec": whole}),
        )
        .await
    }

    /// Changes the spec of a query.
    pub async fn edit_query(&self, name: &str, spec: Value) {
        self.merge::<ShuffleQuery>(name, json!({"spec": spec})).await;
    }

    pub async fn query_status(&self, name: &str) -> ShuffleQueryStatus {
        let query = self.api::<ShuffleQuery>().get(name).await.unwrap();
        query.status.unwrap_or_default()
    }

    /// Waits until the query is in this phase. Returns its status.
    pub async fn wait_for_phase(&self, name: &str, phase: QueryPhase) -> ShuffleQueryStatus {
        let mut status = ShuffleQueryStatus::default();
        eventually(&format!("{name} is {phase:?}"), async || {
            status = self.query_status(name).await;
            assert!(
                status.phase == phase || !status.phase.is_terminal(),
                "{name} is {:?} and not {phase:?}: {status:#?}",
                status.phase
            );
            status.phase == phase
        })
        .await;
        status
    }

    /// Waits until the query has failed. Returns reason and message.
    pub async fn wait_until_failed(&self, name: &str) -> (String, String) {
        let error = self.wait_for_phase(name, QueryPhase::Failed).await.error.unwrap();
        let reason = serde_json::to_value(error.reason).unwrap();
        (reason.as_str().unwrap().to_owned(), error.message)
    }

    /// Waits until the query waits with this reason. Returns the message.
    pub async fn wait_until_pending(&self, name: &str, reason: &str) -> String {
        let mut status = ShuffleQueryStatus::default();
        eventually(&format!("{name} waits: {reason}"), async || {
            status = self.query_status(name).await;
            status.phase == QueryPhase::Pending
                && serde_json::to_value(status.reason).unwrap() == json!(reason)
        })
        .await;
        status.message.unwrap_or_default()
    }

    /// Waits until this coordinator runs and its query with it.
    pub async fn wait_until_running(&self, name: &str, epoch: u64) -> ShuffleQueryStatus {
        let mut status = ShuffleQueryStatus::default();
        eventually(&format!("coordinator {epoch} of {name} runs"), async || {
            status = self.query_status(name).await;
            status.phase == QueryPhase::Running && status.coordinator_epoch == epoch
        })
        .await;
        status
    }

    /// The pods of a query's coordinators, by name.
    pub async fn coordinators(&self, query: &str) -> Vec<Pod> {
        let params = ListParams::default().labels(&format!("sluice.dev/query={query}"));
        let mut pods = self.api::<Pod>().list(&params).await.unwrap().items;
        pods.sort_by_key(ResourceExt::name_any);
        pods
    }

    /// Kinds and names of what a query owns.
    pub async fn owned_by_query(&self, query: &str) -> Vec<String> {
        let mut names = Vec::new();
        let owned = |owners: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference]| {
            owners
                .iter()
                .any(|owner| owner.kind == "ShuffleQuery" && owner.name == query)
        };
        let all = ListParams::default();
        for pod in self.api::<Pod>().list(&all).await.unwrap() {
            names.extend(owned(pod.owner_references()).then(|| format!("Pod {}", pod.name_any())));
        }
        for map in self.api::<ConfigMap>().list(&all).await.unwrap() {
            names.extend(owned(map.owner_references()).then(|| format!("ConfigMap {}", map.name_any())));
        }
        for secret in self.api::<Secret>().list(&all).await.unwrap() {
            // The owner of a Secret is the input.
            let input = sluice_operator::objects::names::input(query);
            let mut owners = secret.owner_references().iter();
            let ours = owners.any(|owner| owner.kind == "ConfigMap" && owner.name == input);
            names.extend(ours.then(|| format!("Secret {}", secret.name_any())));
        }
        for pool in self.api::<sluice_crds::WorkerPool>().list(&all).await.unwrap() {
            names.extend(owned(pool.owner_references()).then(|| format!("WorkerPool {}", pool.name_any())));
        }
        names
    }
}
