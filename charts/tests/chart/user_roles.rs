//! Roles for people, each with what its holders are trusted with (SECURITY.md).

use serde_json::{Value, json};

use crate::helm::{Helm, run};

const WRITES: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];
const READS: [&str; 3] = ["get", "list", "watch"];
const OTHERS: [&str; 3] = ["view", "edit", "admin"];

fn roles(helm: &Helm, values: &Value) -> Vec<Value> {
    let objects = helm.objects(values).into_iter();
    let ours = objects.filter(|object| {
        let name = object["metadata"]["name"].as_str().unwrap();
        object["kind"] == "ClusterRole" && (name.contains("reader") || name.contains("author"))
    });
    ours.collect()
}

/// The roles of readers, of authors of queries and of pools.
fn three(roles: &[Value]) -> [&Value; 3] {
    ["sluice-reader", "sluice-query-author", "sluice-pool-author"].map(|name| {
        let role = roles.iter().find(|role| role["metadata"]["name"] == name);
        role.unwrap_or_else(|| panic!("no {name}"))
    })
}

/// What a role lets its holders do with resources of Sluice; nothing else is in it.
fn may(role: &Value, verb: &str, resource: &str) -> bool {
    let has = |list: &Value, word: &str| list.as_array().unwrap().contains(&json!(word));
    let rules = role["rules"].as_array().unwrap();
    rules.iter().any(|rule| {
        assert_eq!(
            rule["apiGroups"],
            json!(["sluice.dev"]),
            "{}",
            role["metadata"]["name"]
        );
        has(&rule["verbs"], verb) && has(&rule["resources"], resource)
    })
}

/// To which roles of Kubernetes a role gives its rights.
fn given_to(role: &Value) -> [bool; 3] {
    let labels = &role["metadata"]["labels"];
    OTHERS.map(|to| !labels[format!("rbac.authorization.k8s.io/aggregate-to-{to}")].is_null())
}

#[test]
fn users_may_do_what_they_are_trusted_with() {
    run("users_may_do_what_they_are_trusted_with", |helm| {
        let all = roles(helm, &json!({}));
        let [reader, queries, pools] = three(&all);
        let may_write = |role: &Value| {
            let may_all = |resource: &str| WRITES.map(|verb| may(role, verb, resource));
            ["shufflequeries", "workerpools"].map(|resource| match may_all(resource) {
                [true, true, true, true, true] => true,
                [false, false, false, false, false] => false,
                some => panic!("{resource}: {some:?} of {WRITES:?}"),
            })
        };
        let may = [reader, queries, pools].map(|role| {
            let status = ["shufflequeries/status", "workerpools/status"];
            let writes = |verb: &&str| status.iter().any(|status| may(role, verb, status));
            assert!(!WRITES.iter().any(writes), "status is the operator's");
            may_write(role)
        });
        assert_eq!(may, [[false, false], [true, false], [false, true]]);
    });
}

#[test]
fn users_read_what_they_need() {
    run("users_read_what_they_need", |helm| {
        let all = roles(helm, &json!({}));
        let [reader, queries, pools] = three(&all);
        for verb in READS {
            for resource in ["shufflequeries", "workerpools"] {
                assert!(
                    may(reader, verb, resource) && may(queries, verb, resource),
                    "{verb} {resource}"
                );
            }
            assert!(may(pools, verb, "workerpools"), "{verb}");
        }
        assert!(may(pools, "patch", "workerpools/scale"));
        assert!(!may(queries, "patch", "workerpools/scale"));
    });
}

/// The right to make pools is about that to make pods: `edit` does not get it.
#[test]
fn roles_of_kubernetes_get_what_fits() {
    run("roles_of_kubernetes_get_what_fits", |helm| {
        let all = roles(helm, &json!({}));
        let given = three(&all).map(given_to);
        assert_eq!(
            given,
            [[true, true, true], [false, true, true], [false, false, true]]
        );
        let alone = roles(helm, &json!({"rbac": {"userRoles": {"aggregate": false}}}));
        assert_eq!(three(&alone).map(given_to), [[false; 3]; 3]);
    });
}

#[test]
fn roles_of_users_can_be_left_out() {
    run("roles_of_users_can_be_left_out", |helm| {
        for rbac in [json!({"userRoles": {"create": false}}), json!({"create": false})] {
            assert_eq!(roles(helm, &json!({"rbac": rbac})), Vec::<Value>::new());
        }
        // Releases that live side by side own different objects.
        let namespaced = roles(helm, &json!({"scope": "Namespaced"}));
        assert_eq!(namespaced.len(), 3);
        for role in namespaced {
            assert!(
                role["metadata"]["name"]
                    .as_str()
                    .unwrap()
                    .ends_with(":sluice-system:sluice")
            );
        }
    });
}
