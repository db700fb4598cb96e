//! Claims that pods mount: who can, and where.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use super::*;

/// Claims by phase, modes and the node affinity of their volume, and whether `replicas` workers can mount them.
#[test]
fn claims_that_not_all_pods_can_mount() {
    let on_node = json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}]);
    let in_zone = json!([{"matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["z"]}]}]);
    for (list, mode, affinity, replicas, mountable) in [
        ("dataVolumes", Some("ReadWriteMany"), None, 3, true),
        ("sinkVolumes", Some("ReadWriteMany"), None, 3, true),
        ("dataVolumes", Some("ReadOnlyMany"), None, 3, true),
        ("sinkVolumes", Some("ReadOnlyMany"), None, 3, false),
        ("dataVolumes", Some("ReadWriteOnce"), None, 3, false),
        ("dataVolumes", Some("ReadWriteOnce"), None, 1, true),
        ("dataVolumes", Some("ReadWriteOnce"), Some(&on_node), 3, true),
        ("dataVolumes", Some("ReadWriteOnce"), Some(&in_zone), 3, false),
        ("dataVolumes", Some("ReadWriteOncePod"), Some(&on_node), 1, false),
        ("dataVolumes", None, None, 1, false),
    ] {
        let mut seen = observed(
            &json!({"replicas": replicas, list: [{"name": "v", "claimName": "c", "mountPath": "/v"}]}),
            &[],
        );
        let claim = mode.map(|mode| json!({"spec": {"accessModes": [mode], "volumeName": "pv"}}));
        let claim = claim.map(|claim| Arc::new(serde_json::from_value(claim).unwrap()));
        let volume = affinity
            .map(|terms| json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}}));
        let volume = volume.map(|volume| Arc::new(serde_json::from_value(volume).unwrap()));
        seen.claims = volume_claims::mounted(&seen.pool.spec, |_| claim.clone(), |_| volume.clone());
        let wanted = decide(&seen);
        let case = format!("{list} {mode:?} {affinity:?} {replicas}");
        assert_eq!(wanted.blocked.is_none(), mountable, "{case}");
        assert_eq!(wanted.create.is_empty(), !mountable, "{case}");
        let said = readiness(&status(&seen, &wanted, &[]));
        assert_eq!(
            said.contains("VolumesUnmountable: spec."),
            !mountable,
            "{case}: {said}"
        );
    }
}

/// The pods of a pool share the node that a ReadWriteOnce claim is attached to, where they can.
#[test]
fn pods_go_where_their_claim_is_attached() {
    let volume = |name: &str| json!([{"name": "v", "claimName": "c", "mountPath": format!("/{name}")}]);
    for (list, modes, workers, together) in [
        ("dataVolumes", json!(["ReadWriteOnce"]), &["ready old"][..], true),
        ("sinkVolumes", json!(["ReadWriteOnce"]), &[], true),
        (
            "dataVolumes",
            json!(["ReadWriteOnce", "ReadOnlyMany"]),
            &[],
            false,
        ),
        ("sinkVolumes", json!(["ReadWriteOnce", "ReadOnlyMany"]), &[], true),
        (
            "sinkVolumes",
            json!(["ReadWriteOnce", "ReadWriteMany"]),
            &[],
            false,
        ),
        // Nobody shares a node that does not answer.
        ("dataVolumes", json!(["ReadWriteOnce"]), &["lost"], false),
    ] {
        let mut seen = observed(&json!({"replicas": 1, list: volume(list)}), workers);
        let claim = json!({"spec": {"accessModes": modes}});
        let claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
        let claim = Arc::new(claim);
        seen.claims = volume_claims::mounted(&seen.pool.spec, |_| Some(claim.clone()), |_| None);
        let created = decide(&seen).create;
        assert_eq!(created.len(), 1, "{list} {modes} {workers:?}");
        let pod = serde_json::to_value(&created[0]).unwrap();
        let required = pod.pointer(
            "/spec/affinity/podAffinity/requiredDuringSchedulingIgnoredDuringExecution/0/topologyKey",
        );
        let expected = together.then(|| json!("kubernetes.io/hostname"));
        assert_eq!(required, expected.as_ref(), "{list} {modes} {workers:?}");
    }
}
