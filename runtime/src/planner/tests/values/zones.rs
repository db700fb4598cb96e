//! Timestamps with a time zone.

use super::super::harness::Bench;
use super::wrong_rows;

#[tokio::test]
async fn timestamps_with_a_zone_are_moments() {
    let bench = Bench::new().await;
    let queries: &[(&str, &[&str])] = &[
        (
            "SELECT TIMESTAMPTZ '2020-06-01 23:00:00+02', CAST('2020-06-01 23:00:00' AS TIMESTAMP WITH TIME ZONE)",
            &["2020-06-01T21:00:00Z|2020-06-01T23:00:00Z"],
        ),
        (
            "SELECT TIMESTAMPTZ '2020-06-01 23:00:00+02' = TIMESTAMP '2020-06-01 21:00:00'",
            &["true"],
        ),
        // The day begins in the zone.
        (
            "SELECT date_trunc('day', TIMESTAMPTZ '2020-06-01 23:00:00+00' AT TIME ZONE 'Europe/Berlin')",
            &["2020-06-02T00:00:00+02:00"],
        ),
        (
            "SELECT extract(hour FROM TIMESTAMP '2020-06-01 23:00:00' AT TIME ZONE 'UTC' AT TIME ZONE 'Europe/Berlin')",
            &["1"],
        ),
        (
            "SELECT to_local_time(TIMESTAMPTZ '2020-06-01 23:00:00+00' AT TIME ZONE 'Europe/Berlin')",
            &["2020-06-02T01:00:00"],
        ),
        (
            "SELECT arrow_typeof(to_timestamp('2020-01-01'))",
            &["Timestamp(ns)"],
        ),
    ];
    assert_eq!(wrong_rows(&bench, queries).await, Vec::<String>::new());
}
