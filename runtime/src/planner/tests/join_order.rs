//! Inner joins run in the order with the fewest rows between them, and the rows stay the same.

use std::fmt::Write;
use std::sync::Arc;

use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::prelude::SessionContext;
use sluice_crds::shuffle_query::TpchTable as TableName;

use super::super::{JoinOrderPolicy, explain, plan, session_options, session_state};
use super::harness::Bench;
use super::tpch::query;
use crate::source::tpch::TpchTable;

/// A session over tables of TPC-H that are not generated, as nothing reads them.
fn tpch(policy: JoinOrderPolicy) -> SessionContext {
    let config = session_options(4).with_extension(Arc::new(policy));
    let session = SessionContext::new_with_state(session_state(config, Arc::new(RuntimeEnv::default())));
    for table in TableName::ALL {
        let generated = TpchTable::new(table, 1.0).unwrap();
        session.register_table(table.name(), Arc::new(generated)).unwrap();
    }
    session
}

#[tokio::test]
async fn joins_of_tpch() {
    let mut shown = String::new();
    let (session, written) = (
        tpch(JoinOrderPolicy::default()),
        tpch(JoinOrderPolicy {
            enabled: false,
            ..JoinOrderPolicy::default()
        }),
    );
    for number in 1..=22 {
        let planned = plan(&session.state(), &query(number)).await.unwrap();
        let text = explain(&planned);
        for order in &planned.join_orders {
            assert!(text.contains(order), "{text}");
            writeln!(shown, "q{number:02} {order}").unwrap();
        }
        let planned = plan(&written.state(), &query(number)).await.unwrap();
        assert!(planned.join_orders.is_empty());
    }
    insta::assert_snapshot!("join_orders", shown);
}

#[tokio::test]
async fn rows_do_not_depend_on_the_order_of_joins() {
    let bench = Bench::new().await;
    let mut reordered = 0;
    for sql in [
        "SELECT b.id, m.id, t.id FROM big b, mid m, tiny t WHERE b.k = m.k AND m.g = t.g AND t.id = 3",
        "SELECT b.id, m.id, t.id FROM big b, mid m, tiny t WHERE b.k = m.k AND m.k = t.k",
        "SELECT * FROM big b JOIN mid m ON b.k = m.k JOIN tiny t ON m.g = t.g AND b.id < t.id * 100",
        // A condition over all, and one that equality brings to another table.
        "SELECT b.id, m.id, t.id FROM big b, mid m, tiny t WHERE b.k = m.k AND m.g = t.g AND b.id + m.id > t.id * 50",
        "SELECT b.id, m.id, t.id FROM big b, mid m, tiny t WHERE b.k = m.k AND m.k = t.k AND t.k + 1 = m.g",
        // Keys of two columns of one table.
        "SELECT b.id, m.id, t.id FROM big b, mid m, tiny t WHERE b.k = m.k AND b.k = m.g AND m.g = t.g",
        "SELECT b.id, m.id, t.id FROM big b, mid m, tiny t WHERE b.k = t.k AND b.g = m.g AND m.g = t.g AND b.g = t.k",
        // Values with several forms.
        "SELECT b.id, m.id, t.id FROM big b, mid m, tiny t WHERE b.f = m.f AND m.f = t.f AND b.g = t.g",
        "SELECT b.id, m.id, t.id FROM big b, mid m, tiny t WHERE b.d = m.d AND m.d = t.d AND b.g = t.g",
        "SELECT b.id, m.id, t.id FROM big b, mid m, tiny t WHERE b.s = m.s AND m.s = t.s AND b.g = t.g",
        "SELECT b.id, m.id, t.id FROM big b, mid m, tiny t WHERE b.w = m.w AND m.w = t.w AND b.g = t.g",
        "SELECT b.id, m.id, t.id FROM big b, mid m, tiny t WHERE b.ts = m.ts AND m.ts = t.ts",
        "SELECT b.id, m.id, t.id FROM big b, mid m, tiny t WHERE b.k = m.id AND m.id = t.k AND t.g = 1",
        // Inputs that are more than a table.
        "SELECT b.n, m.id, t.id FROM (SELECT k, count(*) n FROM big GROUP BY k) b, mid m, tiny t \
         WHERE b.k = m.k AND m.g = t.g",
        "SELECT b.id, m.r, t.id FROM big b, (SELECT k, g, row_number() OVER (ORDER BY id) r FROM mid) m, tiny t \
         WHERE b.k = m.k AND m.g = t.g AND m.r < 20",
        "SELECT b.id, x.i FROM big b, (SELECT m.k, t.id i FROM mid m, tiny t, tiny u WHERE m.g = t.g AND t.k = u.k) x, none n \
         WHERE b.k = x.k AND x.k = n.k",
        "SELECT b.id, x.i FROM big b, (SELECT m.k, t.id i FROM mid m, tiny t, tiny u WHERE m.g = t.g AND t.k = u.k) x, tiny v \
         WHERE b.k = x.k AND x.k = v.k ORDER BY 1, 2",
        "SELECT b.id, u.x FROM big b, mid m, (SELECT g x FROM tiny UNION ALL SELECT k FROM tiny) u WHERE b.k = m.k AND m.g = u.x",
        // Joins around the chain, and in it.
        "SELECT b.id, m.id, t.id FROM big b JOIN mid m ON b.k = m.k JOIN tiny t ON m.g = t.g LEFT JOIN none n ON b.id = n.id",
        "SELECT b.id, m.id, t.id FROM big b LEFT JOIN mid m ON b.k = m.k JOIN tiny t ON b.g = t.g JOIN tiny u ON u.k = b.k",
        "SELECT b.id, m.id FROM big b, mid m, tiny t WHERE b.k = m.k AND m.g = t.g AND b.id IN (SELECT id FROM mid WHERE g = 2)",
        "SELECT b.id, m.id FROM big b, mid m, tiny t WHERE b.k = m.k AND m.g = t.g \
         AND m.id > (SELECT avg(id) FROM mid i WHERE i.k = m.k)",
        // A self-join of five, and a star.
        "SELECT a.id, e.id FROM tiny a, tiny b, tiny c, mid d, tiny e WHERE a.k = b.k AND b.k = c.k AND c.g = d.g AND d.k = e.k",
        "SELECT count(*), sum(b.id), min(t.s) FROM big b, mid m, tiny t, tiny u WHERE b.k = m.k AND b.g = t.g AND b.id = u.id",
        "SELECT * FROM big JOIN mid USING (k) JOIN tiny USING (k)",
    ] {
        for partitions in [1, 3] {
            let planned = bench.same(sql, partitions, &[]).await;
            reordered += planned.join_orders.len();
        }
    }
    assert!(reordered >= 25, "{reordered}");
}

#[tokio::test]
async fn joins_whose_place_is_not_free_stay() {
    let bench = Bench::new().await;
    for sql in [
        "SELECT b.id FROM big b JOIN mid m ON b.k = m.k",
        "SELECT b.id FROM big b LEFT JOIN mid m ON b.k = m.k LEFT JOIN tiny t ON m.g = t.g",
        "SELECT b.id FROM big b FULL JOIN mid m ON b.k = m.k FULL JOIN tiny t ON m.g = t.g",
        "SELECT b.id FROM big b, mid m, tiny t WHERE (b.k IS NOT DISTINCT FROM m.k) AND (m.g IS NOT DISTINCT FROM t.g)",
        // The rows of the series are not known.
        "SELECT b.id FROM big b, mid m, unnest(range(1, 4)) s(x) WHERE b.k = m.k AND m.g = s.x",
        // No key joins the third.
        "SELECT b.id FROM big b, mid m, tiny t WHERE b.k = m.k AND m.g < t.g AND b.id < 20",
    ] {
        let planned = bench.same(sql, 3, &[]).await;
        assert!(planned.join_orders.is_empty(), "{sql}\n{}", explain(&planned));
    }
}
