//! A namespace for each test, and operators in it. Each operator has its own runtime and can crash.

use std::cell::RefCell;
use std::env;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use futures::FutureExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::client::ClientBuilder;
use kube::{Api, Client};
use sluice_operator::config::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::faults::Faults;
use crate::{crds, kubelet, rbac};

/// Longest wait for something that does happen. On a busy machine, controllers of Kubernetes such as quotas may take half a
/// minute.
pub const TIMEOUT: Duration = Duration::from_secs(120);
/// Time between two polls; each is a request.
const POLL_PERIOD: Duration = Duration::from_millis(50);
/// The port of an operator, which has an address of its own.
const PORT: u16 = 8080;
/// The key that signs tokens.
pub const SIGNING_KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/signing-key.pem");

tokio::task_local! {
    /// The operators that this test started, by name, and how they ended.
    static OPERATORS: RefCell<Vec<(String, watch::Receiver<Option<End>>)>>;
}

/// The namespace of a test, and clients for it.
pub struct TestEnv {
    /// The namespace with the leases and custom resources of the test.
    pub namespace: String,
    /// The test's client, with all rights.
    pub client: Client,
    /// The test's way to the API server.
    pub config: kube::Config,
}

/// Runs `test` in a new namespace with the rules of manifests/rbac.yaml, and deletes both. Without a cluster it is skipped.
pub fn run(name: &str, test: impl AsyncFnOnce(&TestEnv)) {
    if env::var_os("KUBECONFIG").is_none() {
        let required = env::var("SLUICE_E2E_REQUIRED").is_ok_and(|required| required == "1");
        assert!(!required, "{name} needs a cluster: KUBECONFIG is not set");
        eprintln!("SKIPPED {name}: KUBECONFIG is not set");
        return;
    }
    if env::var_os("RUST_LOG").is_some() {
        // Another test has set it already.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .try_init();
    }
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(OPERATORS.scope(RefCell::default(), run_in_namespace(test)));
}

/// Runs `test` in a new namespace, with the rules of manifests/rbac.yaml, and removes both.
pub async fn run_in_namespace(test: impl AsyncFnOnce(&TestEnv)) {
    let env = TestEnv::new().await;
    let ended = AssertUnwindSafe(test(&env)).catch_unwind().await;
    env.remove().await;
    if let Err(panic) = ended {
        resume_unwind(panic);
    }
}

impl TestEnv {
    async fn new() -> Self {
        let config = kube::Config::infer().await.unwrap();
        let client = Client::try_from(config.clone()).unwrap();
        crds::install(&client).await;
        let namespace = format!("sluice-it-{:08x}", rand::random::<u32>());
        let metadata = ObjectMeta {
            name: Some(namespace.clone()),
            ..ObjectMeta::default()
        };
        let object = Namespace {
            metadata,
            ..Namespace::default()
        };
        let namespaces = Api::<Namespace>::all(client.clone());
        namespaces.create(&PostParams::default(), &object).await.unwrap();
        let accounts = Api::<ServiceAccount>::namespaced(client.clone(), &namespace);
        eventually("pods may be created in the namespace", async || {
            accounts.get_opt("default").await.unwrap().is_some()
        })
        .await;
        rbac::install(&client, &namespace).await;
        Self {
            namespace,
            client,
            config,
        }
    }

    async fn remove(&self) {
        kubelet::remove_node(&self.client, &self.namespace).await;
        rbac::remove(&self.client, &self.namespace).await;
        let namespaces = Api::<Namespace>::all(self.client.clone());
        namespaces
            .delete(&self.namespace, &DeleteParams::background())
            .await
            .unwrap();
    }

    /// A client with only the rights of an operator.
    pub fn operators_config(&self) -> kube::Config {
        let mut config = self.config.clone();
        let account = rbac::ACCOUNT;
        config.auth_info.impersonate = Some(format!("system:serviceaccount:{}:{account}", self.namespace));
        config.auth_info.impersonate_groups = Some(vec![
            "system:serviceaccounts".into(),
            format!("system:serviceaccounts:{}", self.namespace),
            "system:authenticated".into(),
        ]);
        config
    }

    /// Starts an operator called `name` that serves this namespace.
    pub fn start(&self, name: &str, faults: Faults) -> Running {
        self.start_with(name, faults, &[])
    }

    /// Like [`Self::start`], with `flags` in place of the usual ones. The lease lasts as long as in production, since a busy
    /// machine may stall for seconds.
    pub fn start_with(&self, name: &str, faults: Faults, flags: &[&str]) -> Running {
        let listen = SocketAddr::from((kubelet::address(), PORT));
        let own = [
            "sluice-operator",
            "--image=localhost/sluice:test",
            &format!("--signing-key-file={SIGNING_KEY}"),
            "--lease-retry-seconds=1",
            &format!("--namespaces={}", self.namespace),
            &format!("--lease-namespace={}", self.namespace),
            &format!("--identity={name}"),
            &format!("--listen={listen}"),
        ];
        let name_of = |flag: &str| flag.split('=').next().unwrap_or_default().to_owned();
        let own = own
            .iter()
            .filter(|own| !flags.iter().any(|flag| name_of(flag) == name_of(own)));
        let config = Config::parse_from(own.chain(flags));
        let running = Running::start(config, self.operators_config(), faults, listen);
        OPERATORS.with(|all| all.borrow_mut().push((name.to_owned(), running.ended.clone())));
        running
    }

    /// Releases the lease of a crashed operator, instead of waiting until it expires.
    pub async fn release_lease(&self) {
        let leases = Api::<Lease>::namespaced(self.client.clone(), &self.namespace);
        match leases.delete("sluice-operator", &DeleteParams::default()).await {
            Ok(_) => {}
            // The operator crashed before it had one.
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// How an operator ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It returned, with this error.
    Returned(Result<(), String>),
    /// A fault crashed it.
    Crashed,
}

/// A running operator.
pub struct Running {
    stop: CancellationToken,
    kill: CancellationToken,
    ended: watch::Receiver<Option<End>>,
    listen: SocketAddr,
    /// The faults of its requests.
    pub faults: Faults,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill.cancel();
    }
}

impl Running {
    fn start(config: Config, kube: kube::Config, faults: Faults, listen: SocketAddr) -> Self {
        let (stop, kill) = (CancellationToken::new(), CancellationToken::new());
        let (ends, ended) = watch::channel(None);
        let running = Self {
            stop: stop.clone(),
            kill: kill.clone(),
            ended,
            listen,
            faults: faults.clone(),
        };
        thread::spawn(move || {
            // The tasks of the operator end with the runtime.
            let runtime = runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            let end = runtime.block_on(async {
                let client = ClientBuilder::try_from(kube).unwrap().with_layer(&faults).build();
                tokio::select! {
                    biased;
                    () = kill.cancelled() => End::Crashed,
                    () = faults.crashed() => End::Crashed,
                    ended = sluice_operator::run_with(config, client, stop) => {
                        End::Returned(ended.map_err(|error| format!("{error:#}")))
                    }
                }
            });
            runtime.shutdown_timeout(Duration::from_secs(1));
            ends.send_replace(Some(end));
        });
        running
    }

    /// Stops it as SIGTERM does.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Crashes it.
    pub fn kill(&self) {
        self.kill.cancel();
    }

    /// How it ended, if it did.
    pub fn ended(&self) -> Option<End> {
        self.ended.borrow().clone()
    }

    /// Waits for its end.
    pub async fn end(&self) -> End {
        let mut ended = self.ended.clone();
        let end = tokio::time::timeout(TIMEOUT, ended.wait_for(Option::is_some)).await;
        end.expect("the operator does not end").unwrap().clone().unwrap()
    }

    /// The body of a GET of `path`, if the status is 200.
    pub async fn get(&self, path: &str) -> Option<String> {
        let mut connection = TcpStream::connect(self.listen).await.ok()?;
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        connection.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.contains(" 200 ").then(|| body.to_owned())
    }

    /// Whether its metrics say that it leads.
    pub async fn leads(&self) -> bool {
        let metrics = self.get("/metrics").await.unwrap_or_default();
        metrics.lines().any(|line| line == "sluice_operator_leading 1")
    }
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    until(what, async || {
        if condition().await {
            Ok(())
        } else {
            Err(String::new())
        }
    })
    .await;
}

/// Polls until `look` returns a value. Its error describes the current state.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let begin = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) if begin.elapsed() >= TIMEOUT => {
                let seconds = TIMEOUT.as_secs();
                panic!("not within {seconds} s: {what}. {seen}{}", failed_operators())
            }
            Err(_) => tokio::time::sleep(POLL_PERIOD).await,
        }
    }
}

/// The operators of this test that ended unexpectedly, as the reason of a timeout.
fn failed_operators() -> String {
    let all = OPERATORS.with(|all| all.borrow().clone());
    let failed = all.into_iter().filter_map(|(name, ended)| {
        let End::Returned(Err(error)) = ended.borrow().clone()? else {
            return None;
        };
        Some(format!("\noperator {name} has ended: {error}"))
    });
    failed.collect()
}
