//! Kinds of faults that files of sqllogictest and attacks have found.

use sluice_core::failure::{AttemptFailure, BadInputKind};

use super::harness::Bench;
use crate::source::classify_error;

#[tokio::test]
async fn arguments_that_a_function_refuses_end_the_query() {
    let bench = Bench::new().await;
    for (sql, says) in [
        ("SELECT encode('a', 'nope') AS x", "no built-in encoding"),
        (
            "SELECT approx_percentile_cont(k, 1.5) AS x FROM mid",
            "between 0.0 and 1.0",
        ),
        (
            "SELECT count(*) FROM mid WHERE w ~ '(\\w{1,1000}){1,1000}'",
            "make its repetitions smaller",
        ),
    ] {
        let error = bench.try_rows(sql, 3).await.unwrap_err();
        let failure = classify_error(&error, &[]);
        let AttemptFailure::BadInput {
            kind: BadInputKind::InvalidValue,
            message,
        } = &failure
        else {
            panic!("{sql}: {failure:?}");
        };
        assert!(
            message.contains(says) && !message.contains("Error during"),
            "{message}"
        );
    }
}
