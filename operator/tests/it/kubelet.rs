//! The kubelet of a test. It binds every pod of the namespace to its node, gives it an address of this machine, runs a
//! [`Program`] of the test as its container, and reports its state to the API server. Pods that the scheduler places are left to
//! it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, Node, Pod};
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::TestEnv;

/// How long a program may take to stop. It is shorter than the grace period of pods, as tests wait for it.
const GRACE: Duration = Duration::from_secs(2);

/// The program of a pod. It says when it is ready, and ends.
pub type Program = Arc<dyn Fn(Container) -> BoxFuture<'static, Exit> + Send + Sync>;

/// How a container ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code.
    pub code: i32,
    /// The container's reason: Completed, Error, OOMKilled.
    pub reason: &'static str,
    /// The termination message.
    pub message: String,
    /// The reason and message of a pod that Kubernetes ended: Evicted.
    pub pod: Option<(&'static str, &'static str)>,
}

impl Exit {
    /// It exits by itself with this termination message.
    pub fn with(code: i32, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: if code == 0 { "Completed" } else { "Error" },
            message: message.into(),
            pod: None,
        }
    }

    /// It runs out of memory.
    pub fn out_of_memory() -> Self {
        Self {
            reason: "OOMKilled",
            ..Self::with(137, "")
        }
    }

    /// It is evicted.
    pub fn evicted() -> Self {
        Self {
            pod: Some(("Evicted", "The node was low on resource: memory.")),
            ..Self::with(137, "")
        }
    }

    /// It is stopped by SIGTERM.
    pub fn stopped() -> Self {
        Self::with(143, "")
    }
}

/// A pod that was started.
#[derive(Clone, Debug)]
pub struct Started {
    /// Its name.
    pub name: String,
    /// The pod as it was at its start.
    pub pod: Arc<Pod>,
}

/// The kubelet of one namespace. It stops when it is dropped; its node is deleted with the test's
/// [`TestEnv`](crate::harness::TestEnv).
pub struct Kubelet {
    node: Arc<KubeletState>,
    _running: AbortOnDropHandle<()>,
}

/// What all pods of the node share.
struct KubeletState {
    client: Client,
    namespace: String,
    name: String,
    program: Program,
    /// Reports nothing to the API server while it is true, like a node that is unreachable.
    unreachable: watch::Sender<bool>,
    started: Mutex<Vec<Started>>,
    /// The metadata of every version of every pod, in order.
    versions: Mutex<Vec<ObjectMeta>>,
    /// By uid.
    pods: Mutex<BTreeMap<String, PodHandle>>,
}

struct PodHandle {
    name: String,
    terminate: CancellationToken,
    end: watch::Sender<Option<Exit>>,
    _runs: AbortOnDropHandle<()>,
}

impl Kubelet {
    /// Registers a node that takes no pods but those of the test's namespace, and runs `program` in each of them.
    pub async fn start(env: &TestEnv, program: Program) -> Self {
        let name = node_name(&env.namespace);
        register(&env.client, &name).await;
        let node = Arc::new(KubeletState {
            client: env.client.clone(),
            namespace: env.namespace.clone(),
            name,
            program,
            unreachable: watch::Sender::new(false),
            started: Mutex::default(),
            versions: Mutex::default(),
            pods: Mutex::default(),
        });
        let running = AbortOnDropHandle::new(tokio::spawn(node.clone().run()));
        Self {
            node,
            _running: running,
        }
    }

    /// Ends the container of a pod that runs.
    pub fn end(&self, pod: &str, exit: Exit) {
        let pods = locked(&self.node.pods);
        let handle = pods.values().find(|handle| handle.name == pod);
        handle.expect("no such pod runs").end.send_replace(Some(exit));
    }

    /// Stops or resumes all reports to the API server: deletions do not finish and ends do not show meanwhile.
    pub fn set_unreachable(&self, unreachable: bool) {
        self.node.unreachable.send_replace(unreachable);
    }

    /// The metadata of every version of every pod so far.
    pub fn pod_versions(&self) -> Vec<ObjectMeta> {
        locked(&self.node.versions).clone()
    }

    /// The pods that were started so far, in order.
    pub fn started(&self) -> Vec<Started> {
        locked(&self.node.started).clone()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The node of a namespace.
pub fn node_name(namespace: &str) -> String {
    format!("{namespace}-node")
}

/// Deletes the node of a namespace, if there is one.
pub async fn remove_node(client: &Client, namespace: &str) {
    let nodes = Api::<Node>::all(client.clone());
    let deleted = nodes
        .delete(&node_name(namespace), &DeleteParams::default())
        .await;
    match deleted {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.is_not_found() => {}
        Err(error) => panic!("{error}"),
    }
}

/// A node that is ready; its taint keeps the scheduler away.
async fn register(client: &Client, name: &str) {
    let nodes = Api::<Node>::all(client.clone());
    let taints = json!([{"key": "sluice-it", "value": name, "effect": "NoSchedule"}]);
    let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
                      "spec": {"taints": taints}});
    let node: Node = serde_json::from_value(node).unwrap();
    match nodes.create(&PostParams::default(), &node).await {
        Ok(_) => {}
        // Left by an earlier kubelet.
        Err(kube::Error::Api(status)) if status.is_already_exists() => return,
        Err(error) => panic!("{error}"),
    }
    let now = Timestamp::now().to_string();
    let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
                       "lastHeartbeatTime": now, "lastTransitionTime": now});
    let room = json!({"cpu": "1000", "memory": "1000Gi", "pods": "10000", "ephemeral-storage": "1000Gi"});
    let status = json!({"status": {"conditions": [ready], "capacity": room, "allocatable": room}});
    let params = PatchParams::default();
    nodes
        .patch_status(name, &params, &Patch::Merge(&status))
        .await
        .unwrap();
    // Admission taints every new node as not ready.
    let spec = json!({"spec": {"taints": taints}});
    nodes.patch(name, &params, &Patch::Merge(&spec)).await.unwrap();
}

/// An address of this machine that no other pod or operator of any test has: the second byte is claimed for this process by a port.
pub fn address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    static CLAIM: LazyLock<(u8, TcpListener)> = LazyLock::new(|| {
        let mut bytes = 1..=254_u8;
        let claim = bytes.find_map(|byte| {
            let listener = TcpListener::bind((Ipv4Addr::new(127, byte, 255, 255), 7399));
            listener.ok().map(|listener| (byte, listener))
        });
        claim.expect("all addresses are taken")
    });
    let [_, _, third, fourth] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    Ipv4Addr::new(127, CLAIM.0, third, fourth)
}

impl KubeletState {
    fn pods_api(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn run(self: Arc<Self>) {
        let mut events = watcher(self.pods_api(), watcher::Config::default()).boxed();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => self.on_pod(pod),
                Ok(watcher::Event::Delete(pod)) => {
                    locked(&self.pods).remove(&pod.uid().unwrap_or_default());
                }
                Ok(watcher::Event::Init | watcher::Event::InitDone) => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn on_pod(self: &Arc<Self>, mut pod: Pod) {
        pod.managed_fields_mut().clear();
        locked(&self.versions).push(pod.metadata.clone());
        let uid = pod.uid().unwrap_or_default();
        let mut pods = locked(&self.pods);
        let leaves = pod.metadata.deletion_timestamp.is_some();
        if let Some(handle) = pods.get(&uid) {
            if leaves {
                handle.terminate.cancel();
            }
            return;
        }
        let (terminate, end) = (CancellationToken::new(), watch::Sender::new(None));
        let (name, pod) = (pod.name_any(), Arc::new(pod));
        if leaves {
            terminate.cancel();
        } else {
            locked(&self.started).push(Started {
                name: name.clone(),
                pod: pod.clone(),
            });
        }
        let container = Container {
            pod,
            address: address(),
            node: self.clone(),
            terminate: terminate.clone(),
        };
        let runs = AbortOnDropHandle::new(tokio::spawn(container.run(end.subscribe())));
        let handle = PodHandle {
            name,
            terminate,
            end,
            _runs: runs,
        };
        pods.insert(uid, handle);
    }
}

/// A pod's only container, as its program sees it.
#[derive(Clone)]
pub struct Container {
    /// The pod as it was at its start.
    pub pod: Arc<Pod>,
    /// Its address.
    pub address: Ipv4Addr,
    node: Arc<KubeletState>,
    terminate: CancellationToken,
}

impl Container {
    /// The value of a label of the pod.
    pub fn label(&self, key: &str) -> &str {
        self.pod.labels().get(key).map_or("", String::as_str)
    }

    /// Reports that it runs, ready or not.
    pub async fn report_running(&self, ready: bool) {
        let state = json!({"running": {"startedAt": Timestamp::now()}});
        self.report_status("Running", ready, &state, &Exit::with(0, ""))
            .await;
    }

    /// Reports that it cannot start for this reason, such as ImagePullBackOff.
    pub async fn report_waiting(&self, reason: &str, message: &str) {
        let state = json!({"waiting": {"reason": reason, "message": message}});
        self.report_status("Pending", false, &state, &Exit::with(0, ""))
            .await;
    }

    /// Waits until the pod is deleted.
    pub async fn terminated(&self) {
        self.terminate.cancelled().await;
    }

    async fn run(self, mut end: watch::Receiver<Option<Exit>>) {
        if self.pod.metadata.deletion_timestamp.is_none() {
            self.bind().await;
            let stopped = async {
                self.terminate.cancelled().await;
                tokio::time::sleep(GRACE).await;
            };
            let exit = tokio::select! {
                biased;
                ended = end.wait_for(Option::is_some) => ended.ok().and_then(|exit| exit.clone()),
                exit = (self.node.program)(self.clone()) => Some(exit),
                () = stopped => None,
            };
            let exit = exit.unwrap_or_else(|| Exit::with(137, ""));
            let phase = if exit.code == 0 { "Succeeded" } else { "Failed" };
            let state = json!({"terminated": {"exitCode": exit.code, "reason": exit.reason,
                "message": exit.message, "finishedAt": Timestamp::now()}});
            self.report_status(phase, false, &state, &exit).await;
        }
        self.terminate.cancelled().await;
        self.wait_until_reachable().await;
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: self.pod.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default().grace_period(0)
        };
        // It may be gone: a pod that is not bound to a node is deleted at once.
        let _ = self.node.pods_api().delete(&self.pod.name_any(), &params).await;
    }

    /// Waits until the API server may receive reports.
    async fn wait_until_reachable(&self) {
        let mut unreachable = self.node.unreachable.subscribe();
        let _ = unreachable.wait_for(|unreachable| !unreachable).await;
    }

    async fn bind(&self) {
        let bound = self.pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
        if bound.is_some() {
            return;
        }
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(self.pod.name_any()),
                uid: self.pod.uid(),
                ..ObjectMeta::default()
            },
            target: k8s_openapi::api::core::v1::ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(self.node.name.clone()),
                ..Default::default()
            },
        };
        // The scheduler may have placed it, or it is gone.
        let _ = self
            .node
            .pods_api()
            .create_subresource::<Binding, Value>(
                "binding",
                &self.pod.name_any(),
                &PostParams::default(),
                &binding,
            )
            .await;
    }

    async fn report_status(&self, phase: &str, ready: bool, state: &Value, exit: &Exit) {
        self.wait_until_reachable().await;
        let name = self.pod.spec.as_ref().and_then(|spec| spec.containers.first());
        let name = name.map(|container| (&container.name, container.image.as_ref()));
        let (name, image) = name.unwrap();
        let now = Timestamp::now().to_string();
        let condition = |type_: &str, holds: bool| json!({"type": type_, "status": if holds { "True" } else { "False" }, "lastTransitionTime": now});
        let address = self.address.to_string();
        let body = json!({
            "metadata": {"uid": self.pod.uid()},
            "status": {
                "phase": phase, "podIP": address, "podIPs": [{"ip": address}], "startTime": now,
                "reason": exit.pod.map(|(reason, _)| reason), "message": exit.pod.map(|(_, message)| message),
                "conditions": [condition("PodScheduled", true), condition("Initialized", true),
                               condition("ContainersReady", ready), condition("Ready", ready)],
                "containerStatuses": [{"name": name, "image": image, "imageID": "", "restartCount": 0,
                                       "ready": ready, "started": phase == "Running", "state": state}],
            },
        });
        // The pod may be gone or replaced.
        let _ = self
            .node
            .pods_api()
            .patch_status(
                &self.pod.name_any(),
                &PatchParams::default(),
                &Patch::Merge(&body),
            )
            .await;
    }
}
