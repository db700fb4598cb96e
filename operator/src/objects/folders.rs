//! The folders that a query may access: its tables and its sink, within the volumes of its pool.

use std::path::Path;

use sluice_crds::worker_pool::ClaimVolume;
use sluice_crds::{ShuffleQuery, WorkerPoolSpec};
use sluice_proto::auth::Folders;

/// Most bytes of paths in a token. A query with more gets the mount paths instead.
const MAX_PATH_BYTES: usize = 3072;

/// The folders of a query in a pool, for its token.
///
/// # Errors
/// A location that no volume of the pool holds, with what to do.
pub fn folders(query: &ShuffleQuery, pool: &str, spec: &WorkerPoolSpec) -> Result<Folders, String> {
    let mut tables = Vec::new();
    for (index, table) in query.spec.tables.iter().enumerate() {
        let one = table.location.iter().map(|location| (String::new(), location));
        let several = table.locations.iter().flatten().enumerate();
        let several = several.map(|(number, location)| (format!("s[{number}]"), location));
        for (which, location) in one.chain(several) {
            tables.push((format!("spec.tables[{index}].location{which}"), location.as_str()));
        }
    }
    // Results of other queries can be tables, too.
    let read: Vec<_> = spec.data_volumes.iter().chain(&spec.sink_volumes).collect();
    let write: Vec<_> = spec.sink_volumes.iter().collect();
    let sink = query.spec.sink.as_ref();
    let sink = sink.map(|sink| ("spec.sink.location".to_owned(), sink.location.as_str()));
    Ok(Folders {
        read: within(tables, &read, (pool, "dataVolumes or sinkVolumes"))?,
        write: within(sink, &write, (pool, "sinkVolumes"))?,
    })
}

fn within<'a>(
    locations: impl IntoIterator<Item = (String, &'a str)>,
    volumes: &[&ClaimVolume],
    (pool, field): (&str, &str),
) -> Result<Vec<String>, String> {
    let (mut paths, mut mounts) = (Vec::new(), Vec::new());
    for (name, location) in locations {
        let path = path_of(location);
        let mount = volumes
            .iter()
            .map(|volume| volume.mount_path.as_str())
            .find(|mount| Path::new(&path).starts_with(mount));
        let Some(mount) = mount else {
            return Err(format!(
                "{name}: {location} is in no volume of WorkerPool {pool}: name a path below the mountPath of one of its {field}"
            ));
        };
        paths.push(path);
        mounts.push(mount.to_owned());
    }
    let bytes: usize = paths.iter().map(String::len).sum();
    let mut folders = if bytes > MAX_PATH_BYTES { mounts } else { paths };
    folders.sort();
    folders.dedup();
    Ok(folders)
}

/// The path of a location. One that cannot be decoded lies in no volume.
fn path_of(location: &str) -> String {
    let Some(encoded) = location.strip_prefix("file://") else {
        return location.to_owned();
    };
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = match (first, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match (escaped, after) {
            (Some((high, low)), [_, _, after @ ..]) => {
                bytes.push(high * 16 + low);
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_default()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn folders_of(tables: &Value, sink: Option<&str>) -> Result<Folders, String> {
        let mut spec = json!({"sql": "SELECT 1", "workerPoolRef": {"name": "p"}, "tables": tables});
        if let Some(sink) = sink {
            spec["sink"] = json!({"location": sink, "format": "csv"});
        }
        let query = ShuffleQuery::new("q", serde_json::from_value(spec).unwrap());
        let pool: WorkerPoolSpec = serde_json::from_value(json!({
            "replicas": 1,
            "dataVolumes": [{"name": "d", "claimName": "d", "mountPath": "/data"}],
            "sinkVolumes": [{"name": "s", "claimName": "s", "mountPath": "/out"}],
        }))
        .unwrap();
        folders(&query, "p", &pool)
    }

    fn table(location: &str) -> Value {
        json!({"name": "t", "location": location, "format": "csv"})
    }

    #[test]
    fn a_query_gets_its_tables_and_its_sink_and_no_more() {
        let several = json!({"name": "u", "locations": ["/data/u/1", "/out/u"], "format": "csv"});
        let generated = json!({"name": "g", "tpch": {"scaleFactor": 1}});
        let tables = json!([table("file:///data/a%20t"), several, generated]);
        let folders = folders_of(&tables, Some("/out/r")).unwrap();
        assert_eq!(folders.read, ["/data/a t", "/data/u/1", "/out/u"]);
        assert_eq!(folders.write, ["/out/r"]);
    }

    #[test]
    fn what_no_volume_holds_is_refused_by_its_field() {
        for location in [
            "/etc/sluice/token",
            "/database/t",
            "data/t",
            "file:///%65tc/passwd",
            "/",
        ] {
            let problem = folders_of(&json!([table(location)]), None).unwrap_err();
            assert!(problem.starts_with("spec.tables[0].location: "), "{problem}");
            assert!(
                problem.contains(location) && problem.contains("dataVolumes"),
                "{problem}"
            );
        }
        let problem = folders_of(&json!([]), Some("/data/r")).unwrap_err();
        assert!(problem.contains("spec.sink.location: /data/r") && problem.contains("sinkVolumes"));
    }

    #[test]
    fn a_token_that_would_be_too_long_names_mounts() {
        let locations: Vec<_> = (0..64)
            .map(|number| format!("/data/{}/{number}", "x".repeat(100)))
            .collect();
        let table = json!({"name": "u", "locations": locations, "format": "csv"});
        assert_eq!(folders_of(&json!([table]), None).unwrap().read, ["/data"]);
    }
}
