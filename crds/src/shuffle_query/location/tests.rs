//! Locations, good and bad; crds/cases has more.

use super::{ENCODED_RULE, Location, LocationError, MAX_LOCATION_BYTES, PARENT_RULE, SCHEME_RULE, every};
use crate::shuffle_query::{MAX_LOCATIONS, MAX_TABLES};

#[test]
fn locations_are_judged_by_their_text() {
    for good in [
        "a",
        "/",
        ".",
        "./a:b",
        "a/.../b",
        "..a/b..",
        "file:///",
        "file:///a%20b",
        "a%",
        "a%2",
        "%é",
        "é/ü",
        "%252e",
        "proc/x",
        "./dev",
        "/devices",
        "/etc/sluice2",
        "/%70roc",
        "/data/proc",
    ] {
        let expected = match good.starts_with("file:") {
            true => Location::FileUrl(good.to_owned()),
            false => Location::Path(good.to_owned()),
        };
        assert_eq!(good.parse(), Ok(expected), "{good}");
    }
    for (bad, error) in [
        ("", LocationError::Empty),
        ("a\n", LocationError::ControlCharacter),
        ("..", LocationError::Parent),
        ("a/..", LocationError::Parent),
        ("file:///a/../b", LocationError::Parent),
        ("file:///a/%2E%2e/b", LocationError::Encoded),
        ("a/.%2e/b", LocationError::Encoded),
        ("a%00", LocationError::Encoded),
        ("/proc/self/environ", LocationError::System("/proc")),
        ("//proc", LocationError::System("/proc")),
        ("/./sys/./kernel", LocationError::System("/sys")),
        ("file:///dev/fd/0", LocationError::System("/dev")),
        ("file:////dev", LocationError::System("/dev")),
        ("file:///%70roc/1", LocationError::System("/proc")),
        ("/etc/sluice/", LocationError::System("/etc/sluice")),
        ("/run/secrets/a", LocationError::System("/run/secrets")),
        ("/var/run//secrets/x", LocationError::System("/var/run/secrets")),
        ("s3://b/k", LocationError::Scheme("s3".to_owned())),
        ("file:a", LocationError::FileUrl),
        ("file://host/a", LocationError::FileUrl),
    ] {
        assert_eq!(bad.parse::<Location>(), Err(error), "{bad}");
    }
    assert_eq!(
        "é".repeat(513).parse::<Location>(),
        Err(LocationError::TooLong(1026))
    );
}

/// The price that the API server puts on a rule before it takes a CRD, without small change; its limit is 10 million.
fn estimated_cost(rule: &str) -> usize {
    let expression = rule
        .split("matches('")
        .nth(1)
        .and_then(|rest| rest.split("')").next())
        .unwrap();
    let text = (MAX_LOCATION_BYTES * 4 + 1).div_ceil(10);
    text * expression.len().div_ceil(4) * MAX_LOCATIONS * MAX_TABLES
}

#[test]
fn rules_are_cheap_enough_for_the_api_server() {
    for rule in [PARENT_RULE, ENCODED_RULE, SCHEME_RULE] {
        assert!(
            estimated_cost(rule) < 9_000_000,
            "{rule}: {}",
            estimated_cost(rule)
        );
        assert!(!every(rule).contains("self.matches"), "{}", every(rule));
    }
}
