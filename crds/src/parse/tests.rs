//! What a YAML file of a user becomes.

use super::{MAX_BRACKETS, MAX_DOCUMENTS, MAX_YAML_BYTES, ParseError, Resource, parse_documents};

const QUERY: &str =
    "apiVersion: sluice.dev/v1alpha1\nkind: ShuffleQuery\nmetadata: {name: q}\nspec: {sql: SELECT 1}\n";
const POOL: &str = "apiVersion: sluice.dev/v1alpha1\nkind: WorkerPool\nmetadata: {name: p}\nspec: {}\n";

fn message(yaml: &str) -> String {
    parse_documents(yaml).unwrap_err().to_string()
}

#[test]
fn a_query_and_its_pool_stand_in_one_file() {
    let yaml = format!("# both\n---\n{QUERY}---\n{POOL}---\n");
    let resources = parse_documents(&yaml).unwrap();
    let [Resource::Query(query), Resource::Pool(pool)] = resources.as_slice() else {
        panic!("{resources:?}")
    };
    assert_eq!(query.spec.sql.as_deref(), Some("SELECT 1"));
    assert_eq!(query.spec.retry, crate::shuffle_query::RetrySpec::default());
    assert_eq!(pool.spec, crate::WorkerPoolSpec::default());
}

#[test]
fn the_message_names_document_field_and_fix() {
    let yaml = format!(
        "{POOL}---\n{}",
        QUERY.replace("{sql: SELECT 1}", "{sql: SELECT 1, deadline: 5}")
    );
    assert_eq!(
        message(&yaml),
        "document 2: spec.deadline is not a field: remove it; fields here are deadlineSeconds, \
         preview, priority, retry, shuffle, sink, sql, sqlFrom, suspend, tables, ttlSecondsAfterFinished, workerPoolRef, workers"
    );
}

#[test]
fn broken_yaml_is_located() {
    let text = message(&format!("{QUERY}---\nspec: [1, 2\nkind: x\n"));
    assert!(
        text.starts_with("document 2 is not valid YAML: ") && text.contains("line 7"),
        "{text}"
    );
}

#[test]
fn a_field_written_twice_is_refused() {
    let text = message(&QUERY.replace("spec:", "kind: ShuffleQuery\nspec:"));
    assert!(text.contains("the field `kind` is written twice"), "{text}");
}

#[test]
fn what_is_no_resource_is_refused() {
    for (yaml, expected) in [
        ("", "no content"),
        ("# nothing\n---\n---\n", "no content"),
        ("just a text", "the document has no fields"),
        ("- 1", "the document has no fields"),
        ("kind: ShuffleQuery", "apiVersion is missing"),
        ("apiVersion: sluice.dev/v1alpha1", "kind is missing"),
        (
            "apiVersion: sluice.dev/v1alpha1\nkind: Pod",
            "kind `Pod` is not known",
        ),
        (
            "apiVersion: sluice.dev/v1alpha1\nkind: ShuffleQuery",
            "spec is missing",
        ),
        ("1: 2", "a field name in quotes"),
        ("a: {b: !x 1}", "a.b: a YAML tag"),
        ("a: [.nan]", "a[0]: NaN is not a finite number at line 1 column 5"),
    ] {
        assert!(
            message(yaml).contains(expected),
            "{yaml:?} gives {:?}",
            message(yaml)
        );
    }
}

#[test]
fn malformed_metadata_is_an_error() {
    let text = message(&QUERY.replace("{name: q}", "{name: q, labels: [a]}"));
    assert!(text.contains("metadata"), "{text}");
}

#[test]
fn a_status_is_skipped() {
    let yaml = format!("{QUERY}status: {{phase: Nonsense, stages: 7}}\n");
    let resources = parse_documents(&yaml).unwrap();
    let [Resource::Query(query)] = resources.as_slice() else {
        panic!("{resources:?}")
    };
    assert_eq!(query.status, None);
}

#[test]
fn size_and_number_of_documents_are_bounded() {
    let long = format!("{QUERY}#{}", "x".repeat(MAX_YAML_BYTES));
    assert!(matches!(parse_documents(&long), Err(ParseError::TooLong(_))));
    let many = format!("---\n{POOL}").repeat(MAX_DOCUMENTS + 1);
    assert_eq!(parse_documents(&many), Err(ParseError::TooManyDocuments));
}

#[test]
fn deep_yaml_ends_in_an_error() {
    for text in ["[", "{a: ", "- ", "? "] {
        let times = MAX_BRACKETS;
        assert!(parse_documents(&text.repeat(times)).is_err(), "{text}");
        assert!(
            parse_documents(&format!("{}{}", text.repeat(120), "x, ".repeat(1_000))).is_err(),
            "{text}"
        );
    }
    assert_eq!(
        parse_documents(&"[".repeat(MAX_BRACKETS + 1)),
        Err(ParseError::TooManyBrackets)
    );
}

#[test]
fn aliases_cannot_grow_without_bound() {
    let mut exponential = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..30 {
        let below = vec![format!("*a{}", level - 1); 10].join(", ");
        exponential.push_str(&format!("a{level}: &a{level} [{below}]\n"));
    }
    let square = format!("a: &a [{}]\nb: [{}]", "x, ".repeat(20_000), "*a, ".repeat(20_000));
    let texts = format!("a: &a {}\nb: [{}]", "x".repeat(100_000), "*a, ".repeat(20_000));
    let documents = format!("a: &a {}\nb: [{}]\n---\n", "x".repeat(1_000), "*a, ".repeat(200)).repeat(100);
    for yaml in [exponential, square, texts, documents] {
        let text = message(&yaml);
        assert!(
            text.contains("aliases expanded")
                || text.contains("repetition limit")
                || text.contains("apiVersion"),
            "{text}"
        );
    }
}

#[test]
fn an_alias_stands_for_its_anchor() {
    let yaml = QUERY.replace(
        "{sql: SELECT 1}",
        "{sql: &s SELECT 1, sink: {location: *s, format: csv}}",
    );
    let resources = parse_documents(&yaml).unwrap();
    let [Resource::Query(query)] = resources.as_slice() else {
        panic!("{resources:?}")
    };
    assert_eq!(
        query.spec.sink.as_ref().map(|sink| sink.location.as_str()),
        Some("SELECT 1")
    );
}

#[test]
fn random_bytes_and_mutations_never_panic() {
    let base = format!("{QUERY}---\n{POOL}");
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % bound as u64).unwrap()
    };
    for _ in 0..2_000 {
        let mut bytes = base.clone().into_bytes();
        for _ in 0..=next(4) {
            let at = next(bytes.len());
            let new = b"{}[]:-&*!|>'\"%@`#,?\n\t \0~1e."[next(27)];
            if next(2) == 0 {
                bytes[at] = new;
            } else {
                bytes.insert(at, new);
            }
        }
        if let Ok(text) = String::from_utf8(bytes) {
            for resource in parse_documents(&text).into_iter().flatten() {
                match resource {
                    Resource::Query(query) => drop(crate::validate_query(&query)),
                    Resource::Pool(pool) => drop(crate::validate_pool(&pool)),
                }
            }
        }
    }
}
