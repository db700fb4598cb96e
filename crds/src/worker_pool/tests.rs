//! What a pool's spec means where it does not say.

use serde_json::json;

use super::WorkerPoolSpec;
use crate::units::ByteSize;

fn spec(value: serde_json::Value) -> WorkerPoolSpec {
    serde_json::from_value(value).unwrap()
}

#[test]
fn query_memory_is_said_or_a_share_of_the_limit() {
    let memory = |value| spec(value).query_memory().map(ByteSize::bytes);
    assert_eq!(memory(json!({})), None);
    assert_eq!(
        memory(json!({ "resources": { "requests": { "memory": "1Gi" } } })),
        None
    );
    assert_eq!(
        memory(json!({ "resources": { "limits": { "memory": "1000" } } })),
        Some(700)
    );
    assert_eq!(
        memory(json!({ "resources": { "limits": { "memory": 1019 } } })),
        Some(713)
    );
    let both = json!({ "memory": "64MiB", "resources": { "limits": { "memory": "1Gi" } } });
    assert_eq!(memory(both), Some(64 << 20));
}

#[test]
fn slots_are_said_or_as_many_as_cpus() {
    let slots = |value| spec(value).slots();
    assert_eq!(slots(json!({})), 2);
    assert_eq!(
        slots(json!({ "resources": { "limits": { "memory": "1Gi" } } })),
        2
    );
    for (cpu, expected) in [
        (json!("8"), 8),
        (json!(8), 8),
        (json!("7.1"), 8),
        (json!("1500m"), 2),
        (json!("50m"), 1),
        (json!("0"), 1),
        (json!("1k"), 256),
    ] {
        assert_eq!(
            slots(json!({ "resources": { "requests": { "cpu": cpu } } })),
            expected,
            "{cpu}"
        );
    }
    let both = json!({ "requests": { "cpu": 1 }, "limits": { "cpu": 4 } });
    assert_eq!(slots(json!({ "resources": both })), 4);
    assert_eq!(slots(json!({ "resources": both, "slotsPerWorker": 9 })), 9);
}

#[test]
fn spill_volumes_are_said_or_one_of_the_size_of_the_limit() {
    let volumes = |value| {
        let volumes = spec(value).spill_volumes();
        let sized = volumes
            .iter()
            .map(|volume| (volume.name.clone(), volume.size().unwrap().to_string()));
        sized.collect::<Vec<_>>()
    };
    let one = |size: &str| vec![("default".to_owned(), size.to_owned())];
    assert_eq!(volumes(json!({})), one("10GiB"));
    assert_eq!(volumes(json!({ "spill": { "limit": "3GiB" } })), one("3GiB"));
    assert_eq!(volumes(json!({ "spill": { "limit": 0 } })), one("0"));
    let own = json!({ "spill": { "limit": "1GiB", "volumes": [
        { "name": "a", "emptyDir": { "sizeLimit": "1GiB" } },
        { "name": "b", "ephemeral": { "size": "2GiB" } },
    ] } });
    let expected = [("a", "1GiB"), ("b", "2GiB")].map(|(name, size)| (name.to_owned(), size.to_owned()));
    assert_eq!(volumes(own), expected);
}

#[test]
fn a_resource_may_be_a_number() {
    let spec = spec(json!({ "resources": { "limits": { "cpu": 2 } } }));
    let limits = spec.resources.unwrap().limits.unwrap();
    assert_eq!(limits["cpu"].0, "2");
}
