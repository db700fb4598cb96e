//! Where runtime filters go, and that rows are the same with them.

use std::fmt::Write;
use std::sync::Arc;

use super::super::{PlannedQuery, RuntimeFilterPolicy, explain, plan, session_options};
use super::harness::{Bench, Options, same_rows};

/// Every join moves both sides, so that each is written by a stage of its own.
pub(super) const SHUFFLED: Options<'static> = &[
    ("datafusion.optimizer.hash_join_single_partition_threshold", "0"),
    (
        "datafusion.optimizer.hash_join_single_partition_threshold_rows",
        "0",
    ),
];

/// The filters of a query: `key of the source > tables of the targets`.
fn filters(query: &PlannedQuery) -> Vec<String> {
    let mut made = vec![0; query.stages.len()];
    let text = |filter: &sluice_core::plan::RuntimeFilter| {
        let source = &query.stages[filter.source.0 as usize];
        let number = &mut made[filter.source.0 as usize];
        let column = source.filters[*number].column as usize;
        *number += 1;
        let key = source.plan.schema().field(column).name().clone();
        let targets = filter
            .targets
            .iter()
            .map(|target| &query.graph.stages[target.0 as usize].label);
        let targets: Vec<&str> = targets.map(String::as_str).collect();
        format!(
            "{key} of {} > {}",
            query.graph.stages[filter.source.0 as usize].label,
            targets.join(", ")
        )
    };
    query.graph.filters.iter().map(text).collect()
}

#[tokio::test]
async fn scans_get_the_keys_of_narrowed_sides_and_no_others() {
    let bench = Bench::new().await;
    let mut shown = String::new();
    for sql in [
        "SELECT b.id, m.g FROM big b JOIN mid m ON b.k = m.k WHERE m.g = 1",
        "SELECT b.id FROM big b JOIN mid m ON b.k = m.k",
        "SELECT b.id, m.g FROM big b LEFT JOIN mid m ON b.k = m.k AND m.g = 1",
        "SELECT b.id, m.g FROM big b RIGHT JOIN mid m ON b.k = m.k WHERE m.g = 1",
        "SELECT b.id, m.g FROM big b FULL JOIN mid m ON b.k = m.k AND m.g = 1",
        "SELECT b.id FROM big b WHERE b.k IN (SELECT k FROM mid WHERE g = 1)",
        "SELECT b.id FROM big b WHERE b.k NOT IN (SELECT k FROM mid WHERE g = 1)",
        "SELECT b.id FROM big b WHERE NOT EXISTS (SELECT 1 FROM mid m WHERE m.k = b.k AND m.g = 1)",
        // Whole groups are left out, by the key of the group and by no other column.
        "SELECT b.k, b.n FROM (SELECT k, count(*) n FROM big GROUP BY k) b JOIN mid m ON b.k = m.k WHERE m.g = 1",
        "SELECT b.k, b.n FROM (SELECT k, count(*) n FROM big GROUP BY k) b JOIN mid m ON b.n = m.id WHERE m.g = 1",
        // A row that is left out would change the numbers, or the choice, of others.
        "SELECT b.id, b.r FROM (SELECT id, k, row_number() OVER (ORDER BY id) r FROM big) b JOIN mid m ON b.k = m.k WHERE m.g = 1",
        "SELECT b.id FROM (SELECT id, k FROM big ORDER BY id LIMIT 50) b JOIN mid m ON b.k = m.k WHERE m.g = 1",
        // Both tables of the first join have the key of the second.
        "SELECT b.id, c.id FROM tiny b JOIN tiny c ON b.k = c.k JOIN mid m ON b.k = m.k WHERE m.g = 1",
        // Equal floating-point numbers have several forms.
        "SELECT b.id FROM big b JOIN mid m ON b.f = m.f WHERE m.g = 1",
        // NULL is equal to NULL here.
        "SELECT b.id FROM big b JOIN mid m ON b.k IS NOT DISTINCT FROM m.k WHERE m.g = 1",
        "SELECT b.id FROM big b JOIN mid m ON b.s = m.s AND b.d = m.d AND b.ts = m.ts WHERE m.g = 1",
        "SELECT b.id FROM (SELECT id, k FROM big UNION ALL SELECT id, g FROM big) b JOIN mid m ON b.k = m.k WHERE m.g = 1",
    ] {
        for partitions in [1, 3] {
            let query = bench.same(sql, partitions, SHUFFLED).await;
            if partitions == 3 {
                writeln!(shown, "{sql}\n    {}", filters(&query).join("\n    ")).unwrap();
            }
        }
    }
    insta::assert_snapshot!("runtime_filters", shown);
}

#[tokio::test]
async fn explain_says_who_makes_a_filter_and_who_uses_it() {
    let bench = Bench::new().await;
    let sql = "SELECT b.id, m.g FROM big b JOIN mid m ON b.k = m.k WHERE m.g = 1";
    let query = bench.same(sql, 3, SHUFFLED).await;
    let text = explain(&query);
    assert!(text.contains("makes filter f0 of k for stage s"), "{text}");
    assert!(text.contains("RuntimeFilterExec: k in f0"), "{text}");
}

#[tokio::test]
async fn scans_wait_for_what_a_filter_is_expected_to_leave_out() {
    let bench = Bench::new().await;
    let wait = async |condition: &str| {
        let sql = format!("SELECT b.id FROM big b JOIN mid m ON b.k = m.k WHERE {condition}");
        let query = bench.same(&sql, 3, SHUFFLED).await;
        let [filter] = query.graph.filters.as_slice() else {
            panic!("{condition}: {:?}", query.graph.filters);
        };
        filter.max_wait.as_nanos()
    };
    // The files know that ids run from 0 to 299, and nothing of the last characters of texts.
    let (few, unknown, most) = (
        wait("m.id < 3").await,
        wait("m.s LIKE '%1'").await,
        wait("m.id < 270").await,
    );
    assert!(unknown < few && most * 5 < unknown, "{few} {unknown} {most}");
}

#[tokio::test]
async fn small_scans_and_queries_that_want_none_have_no_filters() {
    let bench = Bench::new().await;
    let sql = "SELECT b.id, m.g FROM big b JOIN mid m ON b.k = m.k WHERE m.g = 1";
    let off = RuntimeFilterPolicy {
        enabled: false,
        min_scan_bytes: 0,
    };
    let all = RuntimeFilterPolicy { enabled: true, ..off };
    for (policy, expected) in [(off, 0), (RuntimeFilterPolicy::default(), 0), (all, 1)] {
        let mut config = session_options(3).with_extension(Arc::new(policy));
        for (key, value) in SHUFFLED {
            config.options_mut().set(key, value).unwrap();
        }
        let session = bench.session_of(config).await;
        let query = plan(&session.state(), sql).await.unwrap();
        assert_eq!(query.graph.filters.len(), expected, "{policy:?}");
        same_rows(bench.plain(), &session, sql).await.unwrap();
    }
}
