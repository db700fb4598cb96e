//! The lifecycle of a pool and its queries, and the objects that it leaves: the same whatever faults the operator meets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sluice_crds::shuffle_query::status::QueryPhase;
use sluice_crds::{ConditionReason, ProgressReason, ShuffleQuery, WorkerPool};
use sluice_operator::objects::{labels, names};

use crate::coordinators::{Coordinator, programs, snapshot, succeeds};
use crate::faults::Faults;
use crate::harness::{Running, TIMEOUT, TestEnv};
use crate::kubelet::{Exit, Kubelet};
use crate::pods::{Kind, pool, query};

/// The query whose first coordinator is lost.
const LOST_QUERY: &str = "lost";
/// Longest time of one step; the API server may be away for minutes.
const STEP_TIMEOUT: Duration = Duration::from_secs(300);
/// How long to wait before watches list again with expired history. It doubles each time, since the wait of the watches doubles
/// too.
const RELIST_DELAY: Duration = Duration::from_secs(5);
/// When objects exist that an operator creates before it sees a deletion: at once, or once its cache has caught up.
const SOON: Duration = Duration::from_millis(300);
const LATE: Duration = Duration::from_secs(3);

/// The objects after a lifecycle, and those left behind.
#[derive(Debug, PartialEq)]
pub struct FinalState {
    /// Before the deletion: every object by kind and name, without what differs between runs.
    pub objects: BTreeMap<String, Value>,
    /// How many pods every coordinator had, by pod name.
    pub coordinators: BTreeMap<String, usize>,
    /// After the deletion: objects without an owner, and objects that still exist later.
    pub orphans: Vec<String>,
}

impl FinalState {
    /// The differences, one in each line.
    pub fn differs_from(&self, wanted: &Self) -> Vec<String> {
        let mut all = Vec::new();
        let names: BTreeSet<_> = self.objects.keys().chain(wanted.objects.keys()).collect();
        for name in names {
            let (here, there) = (self.objects.get(name), wanted.objects.get(name));
            differences(
                name,
                here.unwrap_or(&Value::Null),
                there.unwrap_or(&Value::Null),
                &mut all,
            );
        }
        if self.coordinators != wanted.coordinators {
            all.push(format!(
                "coordinators: {:?}, not {:?}",
                self.coordinators, wanted.coordinators
            ));
        }
        if self.orphans != wanted.orphans {
            all.push(format!("orphans: {:?}", self.orphans));
        }
        all
    }
}

fn differences(path: &str, here: &Value, there: &Value, all: &mut Vec<String>) {
    match (here, there) {
        (Value::Object(one), Value::Object(other)) => {
            let names: BTreeSet<_> = one.keys().chain(other.keys()).collect();
            for name in names {
                differences(&format!("{path}.{name}"), &here[name], &there[name], all);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (n, (here, there)) in one.iter().zip(other).enumerate() {
                differences(&format!("{path}[{n}]"), here, there, all);
            }
        }
        _ if here == there => {}
        _ => all.push(format!("{path}: {here}, not {there}")),
    }
}

/// The faults of each operator of a lifecycle, by its number.
pub type FaultsOf<'a> = &'a mut (dyn FnMut(u32) -> Faults + 'a);

/// A running lifecycle.
pub struct LifecycleRun<'a> {
    env: &'a TestEnv,
    faults_of: FaultsOf<'a>,
    operator: Running,
    deaths: u32,
    /// Whether the deletion is left to the garbage collector alone.
    gc: bool,
}

impl<'a> LifecycleRun<'a> {
    fn new(env: &'a TestEnv, faults_of: FaultsOf<'a>, gc: bool) -> Self {
        let operator = env.start("operator-0", faults_of(0));
        Self {
            env,
            faults_of,
            operator,
            deaths: 0,
            gc,
        }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.env.client.clone(), &self.env.namespace)
    }

    /// Waits for `condition`. A crashed operator is replaced. An operator that waits for a lost event gets a new one.
    async fn wait_until(&mut self, what: &str, mut condition: impl AsyncFnMut() -> bool) {
        let begin = Instant::now();
        let (mut looked, mut timeout) = (begin, RELIST_DELAY);
        while !condition().await {
            self.succeed().await;
            if self.operator.faults.fault_count() > 0 && looked.elapsed() > timeout {
                (looked, timeout) = (Instant::now(), 2 * timeout);
                self.operator.faults.forget_history();
            }
            assert!(
                begin.elapsed() < STEP_TIMEOUT,
                "not within {} s: {what}",
                STEP_TIMEOUT.as_secs()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn succeed(&mut self) {
        if self.operator.ended().is_none() {
            return;
        }
        self.deaths += 1;
        self.env.release_lease().await;
        let faults = (self.faults_of)(self.deaths).unreachable_until(self.operator.faults.reachable_at());
        let name = format!("operator-{}", self.deaths);
        self.operator = self.env.start(&name, faults);
    }

    async fn create<K>(&self, object: &K)
    where
        K: Kind,
    {
        let created = self.api::<K>().create(&PostParams::default(), object).await;
        created.unwrap();
    }

    async fn edit_pool(&self, spec: Value) {
        let patch = Patch::Merge(json!({"spec": spec}));
        let pools = self.api::<WorkerPool>();
        pools.patch("p", &PatchParams::default(), &patch).await.unwrap();
    }

    /// Waits until the pool has exactly its wanted pods.
    async fn wait_until_pool_settles(&mut self, what: &str) {
        let (pools, pods) = (self.api::<WorkerPool>(), self.api::<Pod>());
        self.wait_until(what, async || {
            let pool = pools.get("p").await.unwrap();
            let status = pool.status.unwrap_or_default();
            let workers = ListParams::default().labels("app.kubernetes.io/component=worker");
            let there = pods.list(&workers).await.unwrap().items.len();
            let settled = ConditionReason::from(ProgressReason::WorkersReady);
            let mut conditions = status.conditions.iter();
            status.observed_generation == pool.metadata.generation
                && conditions.any(|condition| condition.reason == settled)
                && status.ready_replicas == pool.spec.replicas
                && there == usize::try_from(pool.spec.replicas).unwrap()
        })
        .await;
    }

    async fn wait_until_query_succeeds(&mut self, name: &str) {
        self.create(&query(name, "p")).await;
        let queries = self.api::<ShuffleQuery>();
        self.wait_until(name, async || {
            let status = queries.get(name).await.unwrap().status.unwrap_or_default();
            assert!(
                !status.phase.is_terminal() || status.phase == QueryPhase::Succeeded,
                "{status:?}"
            );
            status.phase == QueryPhase::Succeeded
        })
        .await;
    }

    /// Waits until nothing exists and nothing comes back. Returns what does.
    async fn wait_until_gone(&mut self) -> Vec<String> {
        let begin = Instant::now();
        let mut looked = begin;
        let timeout = if self.gc { STEP_TIMEOUT } else { TIMEOUT };
        loop {
            let misled = self.operator.faults.fault_count() > 0;
            let mut left = objects_left(self.env).await;
            if left.is_empty() {
                // An operator that has not seen the deletion creates objects again once. Their owner is gone.
                tokio::time::sleep(if misled { LATE } else { SOON }).await;
                left = objects_left(self.env).await;
            }
            if left.is_empty() || begin.elapsed() > timeout {
                return left;
            }
            self.succeed().await;
            if misled && looked.elapsed() > RELIST_DELAY {
                looked = Instant::now();
                self.operator.faults.forget_history();
            }
            if !self.gc {
                delete_objects(self.env).await;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// A pool grows. One query succeeds, and one loses its first coordinator. The pods of the pool change, and it shrinks.
    /// Everything is deleted.
    async fn run(&mut self, kubelet: &Kubelet, disturbance: impl AsyncFnOnce()) -> FinalState {
        self.create(&pool("p", 1)).await;
        self.wait_until_pool_settles("the pool starts").await;
        self.edit_pool(json!({"replicas": 2})).await;
        self.wait_until_pool_settles("the pool grows").await;
        self.wait_until_query_succeeds("plain").await;
        self.wait_until_query_succeeds(LOST_QUERY).await;
        self.edit_pool(json!({"replicas": 1, "podMetadata": {"labels": {"edited": "yes"}}}))
            .await;
        self.wait_until_pool_settles("the pool shrinks and its pods change")
            .await;
        disturbance().await;
        let pods = self.api::<Pod>();
        let coordinators = ListParams::default().labels("app.kubernetes.io/component=coordinator");
        self.wait_until("coordinators are tidied up", async || {
            pods.list(&coordinators).await.unwrap().items.is_empty()
        })
        .await;
        let maps = self.api::<ConfigMap>();
        self.wait_until("inputs are removed", async || {
            let mut there = 0;
            for query in ["plain", LOST_QUERY] {
                let input = maps.get_opt(&names::input(query)).await.unwrap();
                there += usize::from(input.is_some());
            }
            there == 0
        })
        .await;
        let objects = objects(self.env).await;
        let mut orphans = orphans(self.env).await;
        for name in ["plain", LOST_QUERY] {
            let queries = self.api::<ShuffleQuery>();
            queries.delete(name, &DeleteParams::default()).await.unwrap();
        }
        let pools = self.api::<WorkerPool>();
        pools.delete("p", &DeleteParams::default()).await.unwrap();
        orphans.extend(self.wait_until_gone().await);
        FinalState {
            objects,
            coordinators: coordinators_of(kubelet),
            orphans,
        }
    }
}

/// Runs the lifecycle once in `env`, with `faults_of` for its operators and `disturbance` before the deletion. Returns the final
/// state and the number of operators that crashed. The garbage collector of Kubernetes sends 20 requests a second, too few for
/// one lifecycle: `gc` waits for it; otherwise objects with an owner count as gone with it.
pub async fn run_lifecycle(
    env: &TestEnv,
    faults_of: FaultsOf<'_>,
    gc: bool,
    disturbance: impl AsyncFnOnce(),
) -> (FinalState, u32) {
    let kubelet = Kubelet::start(env, programs(coordinator)).await;
    let mut run = LifecycleRun::new(env, faults_of, gc);
    let left = run.run(&kubelet, disturbance).await;
    run.operator.kill();
    run.operator.end().await;
    env.release_lease().await;
    (left, run.deaths)
}

async fn coordinator(coordinator: Coordinator) -> Exit {
    if coordinator.query() == LOST_QUERY && coordinator.epoch() == 1 {
        coordinator.container.report_running(true).await;
        coordinator.report(&snapshot(2, 1, None));
        tokio::time::sleep(Duration::from_millis(50)).await;
        return Exit::evicted();
    }
    succeeds(coordinator).await
}

/// How many pods each coordinator had.
pub fn coordinators_of(kubelet: &Kubelet) -> BTreeMap<String, usize> {
    let mut coordinators = BTreeMap::new();
    for pod in kubelet.started() {
        if pod.pod.labels().get(labels::COMPONENT).map(String::as_str) == Some("coordinator") {
            *coordinators.entry(pod.name).or_default() += 1;
        }
    }
    coordinators
}

/// Every custom resource and every object of the operator in the namespace, without what differs between runs.
async fn objects(env: &TestEnv) -> BTreeMap<String, Value> {
    let mut all = Listing::default();
    all.add::<WorkerPool>(env, "").await;
    all.add::<ShuffleQuery>(env, "").await;
    all.add_owned(env).await;
    all.objects
}

/// Objects whose owner is neither an existing custom resource nor a pool of a query.
async fn orphans(env: &TestEnv) -> Vec<String> {
    let mut all = Listing::default();
    all.add::<WorkerPool>(env, "").await;
    all.add::<ShuffleQuery>(env, "").await;
    let owners = std::mem::take(&mut all.uids);
    all.owners.clear();
    all.add_owned(env).await;
    let belongs = |owner: &String| owners.contains(owner);
    let orphans = all
        .owners
        .iter()
        .filter(|(_, owner)| !owner.as_ref().is_some_and(belongs));
    orphans.map(|(name, _)| name.clone()).collect()
}

/// Deletes what the operator made.
async fn delete_objects(env: &TestEnv) {
    async fn all<K>(env: &TestEnv)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let api = Api::<K>::namespaced(env.client.clone(), &env.namespace);
        let ours = ListParams::default().labels(&format!("{}={}", labels::NAME, labels::SLUICE));
        let params = DeleteParams::default().grace_period(0);
        api.delete_collection(&params, &ours).await.unwrap();
    }
    all::<Pod>(env).await;
    all::<Secret>(env).await;
    all::<ConfigMap>(env).await;
    all::<Service>(env).await;
    all::<ServiceAccount>(env).await;
    all::<PodDisruptionBudget>(env).await;
    all::<NetworkPolicy>(env).await;
}

async fn objects_left(env: &TestEnv) -> Vec<String> {
    objects(env).await.into_keys().collect()
}

#[derive(Default)]
struct Listing {
    objects: BTreeMap<String, Value>,
    uids: BTreeSet<String>,
    /// The uid of the controller of each object, by its name.
    owners: Vec<(String, Option<String>)>,
}

impl Listing {
    async fn add_owned(&mut self, env: &TestEnv) {
        let ours = format!("{}={}", labels::NAME, labels::SLUICE);
        self.add::<Pod>(env, &ours).await;
        self.add::<Secret>(env, &ours).await;
        self.add::<ConfigMap>(env, &ours).await;
        self.add::<Service>(env, &ours).await;
        self.add::<ServiceAccount>(env, &ours).await;
        self.add::<PodDisruptionBudget>(env, &ours).await;
        self.add::<NetworkPolicy>(env, &ours).await;
    }

    async fn add<K>(&mut self, env: &TestEnv, selector: &str)
    where
        K: Kind,
    {
        let api = Api::<K>::namespaced(env.client.clone(), &env.namespace);
        let found = api.list(&ListParams::default().labels(selector)).await.unwrap();
        for object in found {
            let mut controllers = object.owner_references().iter();
            let controller = controllers.find(|owner| owner.controller == Some(true));
            if controller.is_some_and(|owner| owner.kind == "ConfigMap") {
                // A token: the garbage collector deletes it with the input of its query.
                continue;
            }
            let name = format!("{} {}", K::kind(&()), normalized_name(&object.name_any()));
            self.uids.extend(object.uid());
            self.owners
                .push((name.clone(), controller.map(|owner| owner.uid.clone())));
            let owners: Vec<_> = object
                .owner_references()
                .iter()
                .map(|owner| &owner.name)
                .collect();
            let metadata =
                json!({"labels": object.labels(), "annotations": object.annotations(), "owners": owners});
            let mut value = serde_json::to_value(&object).unwrap();
            value["metadata"] = metadata;
            if K::group(&()) != ShuffleQuery::group(&()) {
                // They belong to the scheduler, the kubelet and the disruption controller.
                value["status"] = Value::Null;
            }
            strip_run_specifics(&mut value, &env.namespace);
            // Two equal objects are one too many.
            let count = self.objects.keys().filter(|key| key.starts_with(&name)).count();
            let name = if count == 0 {
                name
            } else {
                format!("{name} again {count}")
            };
            self.objects.insert(name, value);
        }
    }
}

/// The number of a worker depends on which predecessor was deleted first.
fn normalized_name(name: &str) -> String {
    match name.strip_prefix("p-") {
        Some(number) if number.parse::<u32>().is_ok() => "p-n".to_owned(),
        _ => name.to_owned(),
    }
}

/// Removes times, random names, and what only a coordinator reports that is followed to its end: an operator that was away has
/// only its termination message, with phase, reason and totals.
fn strip_run_specifics(value: &mut Value, namespace: &str) {
    const RUN_SPECIFIC_FIELDS: [&str; 22] = [
        "creationTimestamp",
        "lastTransitionTime",
        "lastProbeTime",
        "startTime",
        "startedAt",
        "finishedAt",
        "admittedTime",
        "firstRowTime",
        "endTime",
        "timeToFirstRowMillis",
        "durationMillis",
        "podIP",
        "podIPs",
        "clusterIP",
        "nodeName",
        "hostname",
        "token",
        "secretName",
        "stages",
        "stagesDone",
        "tasks",
        "tasksDone",
    ];
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !RUN_SPECIFIC_FIELDS.contains(&name.as_str()));
            if fields.get("type").is_some_and(|type_| type_ == "Accepted") {
                fields.remove("reason");
            }
            fields
                .values_mut()
                .for_each(|value| strip_run_specifics(value, namespace));
        }
        Value::Array(items) => {
            items.retain(|item| item["type"] != "WorkersReady");
            items
                .iter_mut()
                .for_each(|item| strip_run_specifics(item, namespace));
        }
        Value::String(text) => *text = normalized_name(&text.replace(namespace, "namespace")),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
