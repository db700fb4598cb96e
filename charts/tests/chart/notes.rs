//! What the notes tell to type works.

use serde_json::{Value, json};
use sluice_crds::{Resource, parse_documents, validate_query};

use crate::helm::{Helm, NAMESPACE, RELEASE, chart, everything, root, run};

fn notes(helm: &Helm, values: &Value) -> String {
    let chart = chart();
    let chart = chart.to_str().unwrap();
    let args = [
        "install",
        RELEASE,
        chart,
        "--namespace",
        NAMESPACE,
        "--dry-run=client",
    ];
    let said = helm.output(&args, values).unwrap();
    said.split_once("\nNOTES:\n").expect("no notes").1.to_owned()
}

#[test]
fn the_query_of_the_notes_is_valid() {
    run("the_query_of_the_notes_is_valid", |helm| {
        for (values, pool) in [(json!({}), None), (everything(), Some("default"))] {
            let notes = notes(helm, &values);
            let (_, text) = notes.split_once("<<'YAML'\n").unwrap();
            let (text, _) = text.split_once("  YAML\n").unwrap();
            let text: String = text
                .lines()
                .map(|line| format!("{}\n", line.strip_prefix("  ").unwrap()))
                .collect();
            let resources = parse_documents(&text).unwrap();
            let [Resource::Query(query)] = resources.as_slice() else {
                panic!("{resources:?}")
            };
            assert_eq!(validate_query(query), []);
            let its = query.spec.worker_pool_ref.as_ref().map(|its| its.name.as_str());
            assert_eq!((its, query.spec.workers.is_some()), (pool, pool.is_none()));
        }
    });
}

#[test]
fn the_notes_name_what_is_installed() {
    run("the_notes_name_what_is_installed", |helm| {
        let all = notes(helm, &json!({"fullnameOverride": "flow"}));
        assert!(all.contains("serves all namespaces"), "{all}");
        assert!(
            all.contains("kubectl -n sluice-system rollout status deployment/flow-operator"),
            "{all}"
        );
        let two = notes(helm, &json!({"scope": "Namespaced", "namespaces": ["a", "b"]}));
        assert!(two.contains("serves the namespaces a,b"), "{two}");
        assert!(two.contains("kubectl -n a apply"), "{two}");
    });
}

/// The commands for this machine are those of the README, which `.ci/readme.py` runs.
#[test]
fn the_quick_start_on_this_machine_is_in_the_readme() {
    let read = |file: &str| std::fs::read_to_string(root().join(file)).unwrap();
    let (quick_start, readme) = (read("docs/quickstart.md"), read("README.md"));
    let blocks: Vec<_> = quick_start.split("```sh\n").skip(1).collect();
    assert!(!blocks.is_empty(), "no block for this machine");
    for block in blocks {
        let (commands, _) = block.split_once("```").unwrap();
        assert!(
            readme.contains(&format!("```sh\n{commands}```")),
            "README.md does not have: {commands}"
        );
    }
}
