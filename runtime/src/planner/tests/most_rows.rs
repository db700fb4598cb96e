//! How many rows a plan can have at most.

use super::super::broadcast::most_rows::most_rows;
use super::harness::Bench;

#[tokio::test]
async fn no_filter_and_no_match_is_guessed() {
    let bench = Bench::new().await;
    for (sql, expected) in [
        ("SELECT id FROM mid", Some(300)),
        ("SELECT id FROM mid WHERE k % 7 = 3 AND g = 2", Some(300)),
        ("SELECT id FROM mid ORDER BY k LIMIT 9", Some(9)),
        ("SELECT count(*), max(k) FROM big", Some(1)),
        ("SELECT g, count(*) FROM mid GROUP BY g", Some(300)),
        ("SELECT g, s, count(*) FROM mid GROUP BY ROLLUP (g, s)", Some(900)),
        ("SELECT id FROM mid UNION ALL SELECT id FROM tiny", Some(307)),
        ("SELECT id, row_number() OVER (ORDER BY k) FROM mid", Some(300)),
        // A number for each row of one side.
        ("SELECT m.s FROM mid m JOIN tiny t ON m.g = t.id", Some(300)),
        ("SELECT m.s FROM mid m JOIN tiny t ON m.id = t.id", Some(7)),
        ("SELECT m.s FROM mid m JOIN big b ON m.id = b.k", Some(1200)),
        // The same five numbers in both.
        ("SELECT m.s FROM mid m JOIN tiny t ON m.g = t.g", Some(2100)),
        // Texts have no range.
        ("SELECT m.s FROM mid m JOIN tiny t ON m.s = t.s", Some(2100)),
        // Groups have their key once.
        (
            "SELECT m.s FROM mid m JOIN (SELECT g, count(*) FROM big GROUP BY g) b ON m.g = b.g",
            Some(300),
        ),
        // NULLs that match each other may be many.
        (
            "SELECT m.s FROM mid m JOIN tiny t ON m.g IS NOT DISTINCT FROM t.id",
            Some(2100),
        ),
        // Rows without a match.
        ("SELECT m.s FROM mid m LEFT JOIN tiny t ON m.g = t.g", Some(2400)),
        ("SELECT m.s FROM mid m FULL JOIN tiny t ON m.g = t.g", Some(2407)),
        (
            "SELECT m.s FROM mid m WHERE m.g IN (SELECT g FROM big)",
            Some(300),
        ),
        (
            "SELECT m.s FROM mid m WHERE NOT EXISTS (SELECT 1 FROM big b WHERE b.g = m.g)",
            Some(300),
        ),
        // A row number stays one if each row matches once, and does not if it may match often.
        (
            "SELECT b.s FROM big b JOIN (SELECT m.id FROM mid m JOIN tiny t ON m.g = t.id) x ON b.k = x.id",
            Some(1200),
        ),
        (
            "SELECT b.s FROM big b JOIN (SELECT m.id FROM mid m JOIN tiny t ON m.g = t.g) x ON b.k = x.id",
            Some(1200 * 2100),
        ),
        // Nothing bounds the rows of lists, or what is not known.
        ("SELECT unnest(l) FROM mid", None),
    ] {
        let plan = bench.plain().sql(sql).await.expect("valid SQL");
        let plan = plan.create_physical_plan().await.expect("a plan");
        assert_eq!(most_rows(&plan), expected, "{sql}");
    }
}
