//! Schemas of the Kubernetes types that a spec embeds: what a user may write of them, described in a line each and
//! bounded. The generated ones are longer than all of ours together and bound nothing.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::json;

use crate::bounds::MAX_SECONDS;

/// Most entries of a map of labels or of a node selector.
pub const MAX_LABELS: usize = 32;
/// Most entries of `requests` or of `limits`.
pub const MAX_RESOURCES: usize = 16;
/// Most tolerations.
pub const MAX_TOLERATIONS: usize = 16;
/// Most characters of the value of an annotation.
pub const MAX_ANNOTATION: usize = 1024;

/// What a resource quantity of Kubernetes looks like as a string: `2`, `500m`, `1.5`, `4Gi`, `1G`. Digits are bounded,
/// exponents are not taken: nobody writes memory as 1e9.
pub const QUANTITY_PATTERN: &str = "^[0-9]{1,15}([.][0-9]{1,9})?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$";
/// What the value of a label looks like; 63 characters at most.
pub const LABEL_VALUE_PATTERN: &str = "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$";
/// What the name of most objects looks like (a DNS subdomain, RFC 1123); 253 characters at most.
pub const OBJECT_NAME_PATTERN: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// What the name of a pool or of a volume looks like (a DNS label, RFC 1123); 63 characters at most.
pub const DNS_LABEL_PATTERN: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// What a key of a ConfigMap looks like; 253 characters at most.
pub const CONFIG_KEY_PATTERN: &str = "^[-._a-zA-Z0-9]+$";

/// `core/v1` ResourceRequirements, without claims.
pub(crate) fn resources(_: &mut SchemaGenerator) -> Schema {
    let amounts = |description: &str| {
        json!({
            "description": description,
            "type": "object",
            "maxProperties": MAX_RESOURCES,
            "additionalProperties": {
                "x-kubernetes-int-or-string": true,
                "minimum": 0,
                "maxLength": 28,
                "pattern": QUANTITY_PATTERN,
            },
        })
    };
    json_schema!({
        "type": "object",
        "properties": {
            "requests": amounts("What the node must have free for the pod, by resource: cpu, memory and others."),
            "limits": amounts("What the pod may use at most, by resource. Above its memory it is killed."),
        },
    })
}

/// A list of `core/v1` Toleration.
pub(crate) fn tolerations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": MAX_TOLERATIONS,
        "items": {
            "type": "object",
            "properties": {
                "key": {
                    "description": "Key of the taint. Without it, and with operator Exists, every taint.",
                    "type": "string",
                    "maxLength": 317,
                },
                "operator": {
                    "description": "How the value is compared: Equal (default) or Exists.",
                    "type": "string",
                    "enum": ["Equal", "Exists"],
                },
                "value": {
                    "description": "Value of the taint, with operator Equal.",
                    "type": "string",
                    "maxLength": 63,
                    "pattern": LABEL_VALUE_PATTERN,
                },
                "effect": {
                    "description": "Effect of the taint. Without it, every effect.",
                    "type": "string",
                    "enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"],
                },
                "tolerationSeconds": {
                    "description": "With effect NoExecute: how long the pod may stay. Without it, for ever.",
                    "type": "integer",
                    "minimum": 0,
                    "maximum": MAX_SECONDS,
                },
            },
        },
    })
}

/// A map of labels, or a node selector.
pub(crate) fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": MAX_LABELS,
        "additionalProperties": { "type": "string", "maxLength": 63, "pattern": LABEL_VALUE_PATTERN },
    })
}

/// A map of annotations.
pub(crate) fn annotations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": MAX_LABELS,
        "additionalProperties": { "type": "string", "maxLength": MAX_ANNOTATION },
    })
}
