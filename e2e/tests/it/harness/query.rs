//! A ShuffleQuery of a test.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_crds::shuffle_query::status::{QueryPhase, ShuffleQueryStatus};
use sluice_crds::{ShuffleQuery, Time};

use super::space::Space;
use super::wait::wait_until;

/// A debug build of everything on a machine that may be busy.
const QUERY_TIMEOUT: Duration = Duration::from_secs(400);
/// A coordinator has 10 s to end, and as long to be told before; the garbage collector has other work, too.
const END_TIMEOUT: Duration = Duration::from_secs(120);
/// How often a query that was over too soon is made anew.
const TRIES: usize = 3;
/// How much larger its tables are then.
const LARGER: f64 = 4.0;

/// A query in the namespace of a test.
#[derive(Clone)]
pub struct Query {
    space: Space,
    /// As it was submitted.
    object: Value,
    queries: Api<ShuffleQuery>,
    pods: Api<Pod>,
    name: String,
}

/// The documents of a file of `manifests/samples`.
///
/// # Errors
///
/// It cannot be read.
pub fn samples(file: &str) -> Result<Vec<Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../manifests/samples")
        .join(file);
    let named = || path.display().to_string();
    let text = std::fs::read_to_string(&path).with_context(named)?;
    let documents = serde_yaml::Deserializer::from_str(&text);
    documents
        .map(|document| Value::deserialize(document).with_context(named))
        .collect()
}

/// The one document of a file of `manifests/samples`.
///
/// # Errors
///
/// It cannot be read.
pub fn sample(file: &str) -> Result<Value> {
    let mut documents = samples(file)?;
    match (documents.pop(), documents.is_empty()) {
        (Some(document), true) => Ok(document),
        _ => bail!("{file} has not one document"),
    }
}

/// The one query of a file of `manifests/samples`, in this pool instead of with workers of its own.
///
/// # Errors
///
/// It cannot be read.
pub fn sample_in_pool(file: &str, pool: &str) -> Result<Value> {
    let mut query = sample(file)?;
    let spec = query["spec"].as_object_mut().context("no spec")?;
    spec.remove("workers");
    spec.insert("workerPoolRef".to_owned(), json!({"name": pool}));
    Ok(query)
}

/// A query of this name and spec.
pub fn query(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "ShuffleQuery",
        "metadata": {"name": name},
        "spec": spec,
    })
}

impl Query {
    /// Applies a query.
    ///
    /// # Errors
    ///
    /// The API server refuses it.
    pub async fn submit(space: &Space, query: Value) -> Result<Self> {
        let name = query["metadata"]["name"].as_str().context("a name")?.to_owned();
        space.apply(query.clone()).await?;
        Ok(Self {
            space: space.clone(),
            object: query,
            queries: Api::namespaced(space.client.clone(), &space.namespace),
            pods: Api::namespaced(space.client.clone(), &space.namespace),
            name,
        })
    }

    /// Changes fields of its spec.
    ///
    /// # Errors
    ///
    /// The API server refuses it.
    pub async fn change(&self, spec: Value) -> Result<()> {
        let change = Patch::Merge(json!({"spec": spec}));
        self.queries
            .patch(&self.name, &PatchParams::default(), &change)
            .await?;
        Ok(())
    }

    /// Deletes it.
    ///
    /// # Errors
    ///
    /// The API server refuses it.
    pub async fn delete(&self) -> Result<()> {
        self.queries.delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Its status; `None` if the query is gone.
    ///
    /// # Errors
    ///
    /// The API server is not reached.
    pub async fn status(&self) -> Result<Option<ShuffleQueryStatus>> {
        let query = self.queries.get_opt(&self.name).await?;
        Ok(query.map(|query| query.status.unwrap_or_default()))
    }

    /// Waits until the status is as `wanted` says.
    ///
    /// # Errors
    ///
    /// It does not become so, or the query ends before.
    pub async fn wait_until(
        &self,
        what: &str,
        wanted: impl Fn(&ShuffleQueryStatus) -> bool,
    ) -> Result<ShuffleQueryStatus> {
        let what = format!("query {}: {what}", self.name);
        wait_until(&what, QUERY_TIMEOUT, || async {
            let status = self.status().await?.context("the query is gone")?;
            if wanted(&status) {
                return Ok(Ok(status));
            }
            if status.phase.is_terminal() {
                bail!("{what}: it has ended before: {}", describe(&status));
            }
            Ok(Err(describe(&status)))
        })
        .await
    }

    /// How long ago it was submitted.
    ///
    /// # Errors
    ///
    /// It is gone.
    pub async fn age(&self) -> Result<Duration> {
        let query = self.queries.get(&self.name).await?;
        let submitted = query.metadata.creation_timestamp.context("no time")?.0;
        Ok(Timestamp::now().duration_since(submitted).try_into()?)
    }

    /// Waits until the query is in the middle of its work: some of its tasks are done, others run, and a third is to come. A
    /// status shows that every few seconds. On a machine that is so fast that none shows it, the query is made anew over
    /// larger tables, of which it must answer the same.
    ///
    /// # Errors
    ///
    /// It fails, or is over too soon however large its tables are.
    pub async fn wait_until_in_progress(&self) -> Result<ShuffleQueryStatus> {
        let mut object = self.object.clone();
        for _ in 0..TRIES {
            if let Some(status) = self.status_in_progress().await? {
                return Ok(status);
            }
            enlarge(&mut object)?;
            self.delete().await?;
            self.wait_until_gone().await?;
            self.wait_until_coordinators_gone().await?;
            self.space.apply(object.clone()).await?;
        }
        bail!("query {} is over too soon", self.name)
    }

    /// Its status in the middle of its work; `None` if most of that was done before.
    async fn status_in_progress(&self) -> Result<Option<ShuffleQueryStatus>> {
        let over = |status: &ShuffleQueryStatus| {
            let tasks = &status.tasks;
            status.phase == QueryPhase::Succeeded || tasks.done > tasks.planned / 3 * 2
        };
        let status = self
            .wait_until("some of its tasks are done", |status| {
                let tasks = &status.tasks;
                let middle = status.phase == QueryPhase::Running && tasks.done > 0 && tasks.running > 0;
                middle || over(status)
            })
            .await?;
        Ok((!over(&status)).then_some(status))
    }

    /// Waits until its coordinators' pods have ended or are gone.
    ///
    /// # Errors
    ///
    /// One runs on.
    pub async fn wait_until_coordinators_ended(&self) -> Result<()> {
        let what = format!("the coordinator of query {} ends", self.name);
        let coordinators = ListParams::default().labels(&format!("sluice.dev/query={}", self.name));
        wait_until(&what, END_TIMEOUT, || async {
            let pods = self.pods.list(&coordinators).await?.items.into_iter();
            let phases = pods.filter_map(|pod| pod.status.and_then(|status| status.phase));
            let mut running = phases.filter(|phase| !["Succeeded", "Failed"].contains(&phase.as_str()));
            Ok(running.next().map_or(Ok(()), Err))
        })
        .await
    }

    /// Waits until the query has ended.
    ///
    /// # Errors
    ///
    /// It takes too long.
    pub async fn wait_until_ended(&self) -> Result<ShuffleQueryStatus> {
        self.wait_until("has ended", |status| status.phase.is_terminal())
            .await
    }

    /// Waits until the query has succeeded.
    ///
    /// # Errors
    ///
    /// It takes too long, or ends in another way.
    pub async fn wait_until_succeeded(&self) -> Result<ShuffleQueryStatus> {
        self.wait_until("has succeeded", |status| status.phase == QueryPhase::Succeeded)
            .await
    }

    /// Waits until its coordinators' pods are gone.
    ///
    /// # Errors
    ///
    /// One stays.
    pub async fn wait_until_coordinators_gone(&self) -> Result<()> {
        let what = format!("the coordinator of query {} is gone", self.name);
        let coordinators = ListParams::default().labels(&format!("sluice.dev/query={}", self.name));
        wait_until(&what, END_TIMEOUT, || async {
            let left = self.pods.list(&coordinators).await?.items.len();
            Ok(if left == 0 {
                Ok(())
            } else {
                Err(format!("{left} pods"))
            })
        })
        .await
    }

    /// Waits until the query is gone.
    ///
    /// # Errors
    ///
    /// It stays.
    pub async fn wait_until_gone(&self) -> Result<()> {
        let what = format!("query {} is gone", self.name);
        wait_until(&what, END_TIMEOUT, || async {
            Ok(self
                .status()
                .await?
                .map_or(Ok(()), |status| Err(describe(&status))))
        })
        .await
    }
}

/// The rows of the preview, which must be complete.
///
/// # Errors
///
/// There is none, or it is cut.
pub fn rows(status: &ShuffleQueryStatus) -> Result<&[Vec<String>]> {
    let preview = status.preview.as_ref().context("no preview")?;
    if preview.truncated {
        bail!("the preview is cut: {preview:?}");
    }
    Ok(&preview.rows)
}

/// A time between two others, all of them there.
pub fn in_order(times: &[&Option<Time>]) -> bool {
    let known: Option<Vec<_>> = times
        .iter()
        .map(|time| time.as_ref().map(|time| time.0))
        .collect();
    known.is_some_and(|times| times.is_sorted())
}

/// The same query over larger generated tables.
fn enlarge(query: &mut Value) -> Result<()> {
    let tables = query["spec"]["tables"].as_array_mut().context("tables")?;
    for table in tables {
        let scale = &mut table["tpch"]["scaleFactor"];
        *scale = json!(scale.as_f64().context("a table that is not generated")? * LARGER);
    }
    Ok(())
}

fn describe(status: &ShuffleQueryStatus) -> String {
    format!(
        "{:?}, {:?} {:?}, epoch {}, tasks {:?}, error {:?}",
        status.phase,
        status.reason,
        status.message.as_deref().unwrap_or_default(),
        status.coordinator_epoch,
        status.tasks,
        status.error,
    )
}
