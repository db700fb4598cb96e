//! The hash of a pool's spec. Pods with another hash are replaced.

use serde_json::Value;
use sluice_crds::WorkerPoolSpec;
use xxhash_rust::xxh3::xxh3_64;

/// Fields that do not change a worker's pod.
const NOT_OF_PODS: [&str; 10] = [
    "replicas",
    "autoscaling",
    "defaultDeadlineSeconds",
    "defaultTtlSecondsAfterFinished",
    "maxQueryPriority",
    "egress",
    "minReadyWorkers",
    "maxConcurrentQueries",
    "drainTimeoutSeconds",
    "coordinator",
];

/// The hash of what the user says of a pool's pods, of their image, and of whether the user named it: 16 hexadecimal digits. It
/// leaves out fields with their default value, and what only the operator decides: an upgrade of the operator alone restarts no
/// pod.
pub fn spec_hash(spec: &WorkerPoolSpec, image: &str) -> String {
    let mut said = json(spec);
    if let Value::Object(fields) = &mut said {
        fields.retain(|field, _| !NOT_OF_PODS.contains(&field.as_str()));
        fields.insert("image".to_owned(), Value::String(image.to_owned()));
        if spec.image.is_some() {
            fields.insert("imageNamed".to_owned(), Value::Bool(true));
        }
    }
    let said = without(said, &json(&WorkerPoolSpec::default()));
    // Keys of JSON objects are sorted, so the order of fields in the types does not matter.
    format!("{:016x}", xxh3_64(said.to_string().as_bytes()))
}

/// The spec as JSON with its effective slots, so that writing down the default changes nothing.
fn json(spec: &WorkerPoolSpec) -> Value {
    // A spec came from JSON and can be converted back.
    let mut said = serde_json::to_value(spec).unwrap_or_default();
    if let Value::Object(fields) = &mut said {
        fields.insert("slotsPerWorker".to_owned(), spec.slots().into());
    }
    said
}

/// `value` without the fields that equal those of `default`.
fn without(value: Value, default: &Value) -> Value {
    let Value::Object(fields) = value else {
        return value;
    };
    let differing = fields.into_iter().filter_map(|(name, value)| {
        let default = default.get(&name).unwrap_or(&Value::Null);
        (&value != default).then(|| (name, without(value, default)))
    });
    Value::Object(differing.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(yaml: &str) -> String {
        spec_hash(&serde_yaml::from_str(yaml).unwrap(), "sluice:1")
    }

    #[test]
    fn what_a_pod_is_made_of_changes_the_hash() {
        let plain = hash("{}");
        for yaml in [
            "slotsPerWorker: 3",
            "memory: 1GiB",
            "spill: {limit: 1GiB}",
            "imagePullPolicy: Always",
            "imagePullSecrets: [{name: a}]",
            "resources: {requests: {cpu: 1}}",
            "dataVolumes: [{name: a, claimName: a, mountPath: /a}]",
            "sinkVolumes: [{name: a, claimName: a, mountPath: /a}]",
            "credentials: {secretName: a}",
            "placement: {zones: Pack}",
            "placement: {tolerations: [{operator: Exists}]}",
            "podMetadata: {labels: {a: b}}",
            "image: sluice:1",
        ] {
            assert_ne!(hash(yaml), plain, "{yaml}");
        }
        assert_ne!(spec_hash(&WorkerPoolSpec::default(), "sluice:2"), plain);
    }

    #[test]
    fn what_pods_do_not_see_leaves_the_hash() {
        let plain = hash("{}");
        for yaml in [
            "replicas: 7",
            "minReadyWorkers: 2",
            "maxConcurrentQueries: 3",
            "drainTimeoutSeconds: 3",
            "autoscaling: {maxReplicas: 3}",
            "defaultDeadlineSeconds: 3",
            "defaultTtlSecondsAfterFinished: 3",
            "maxQueryPriority: 3",
            "egress: Internal",
            "coordinator: {resources: {limits: {cpu: 1}}}",
            "slotsPerWorker: 2",
            "placement: {zones: Spread, weight: 100}",
        ] {
            assert_eq!(hash(yaml), plain, "{yaml}");
        }
    }

    #[test]
    fn slots_count_by_their_number_whoever_says_it() {
        let cpus = |slots: &str| hash(&format!("{{resources: {{limits: {{cpu: 4}}}}{slots}}}"));
        assert_eq!(cpus(""), cpus(", slotsPerWorker: 4"));
        assert_ne!(cpus(""), cpus(", slotsPerWorker: 2"));
    }

    #[test]
    fn the_hash_is_the_same_in_every_version() {
        let yaml = "{memory: 1GiB, placement: {zones: Pack, nodeSelector: {b: c, a: d}}, resources: {limits: {cpu: 2}}}";
        assert_eq!(hash("{}"), "0dde60657de7c7bb");
        assert_eq!(hash(yaml), "63ad84ba203ea3c8");
    }
}
