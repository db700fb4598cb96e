//! What `kubectl get` prints.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use kube::Resource;
use kube::api::GetParams;
use kube::core::Request;
use serde_json::Value;

use super::space::Space;

/// The cells of one object's line, by the names of their columns.
///
/// # Errors
///
/// There is no such object, or the API server makes no table of it.
pub async fn columns<K: Resource<DynamicType = ()>>(
    space: &Space,
    name: &str,
) -> Result<BTreeMap<String, Value>> {
    let path = K::url_path(&(), Some(&space.namespace));
    let mut request = Request::new(path)
        .get(name, &GetParams::default())
        .context("the request")?;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io".parse()?;
    request.headers_mut().insert("accept", table);
    let mut table: Value = space.client.request(request).await?;
    let Value::Array(cells) = table["rows"][0]["cells"].take() else {
        anyhow::bail!("no table: {table}");
    };
    let names = table["columnDefinitions"].as_array().context("no columns")?;
    let names = names
        .iter()
        .map(|column| column["name"].as_str().unwrap_or_default().to_owned());
    Ok(names.zip(cells).collect())
}
