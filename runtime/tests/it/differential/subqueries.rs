//! Scalar and correlated subqueries.

use sluice_core::coordinator::Outcome;

use super::tables::shared;
use super::{READERS, check};
use crate::harness::{AMPLE_MEMORY, Fleet, NoRows, plain, run};

#[tokio::test(flavor = "multi_thread")]
async fn subqueries() {
    check(&shared(), &[
        ("scalar", "select count(*), sum(id) from big where x > (select avg(x) from mid)"),
        ("scalar shown", "select id, (select max(x) from big) as m from small"),
        ("scalar of nothing", "select count(*) from big where x > (select max(x) from none)"),
        ("scalar in a group", "select g, sum(x) / (select sum(x) from big) as share from big group by g"),
        ("scalar in having", "select k, count(*) from big group by k having count(*) > (select avg(c) * 2.2 from (select count(*) as c from big group by k) q)"),
                (
            "scalar of one row",
            "select count(*) from big where k = (select k from tiny where id = 3)",
        ),
        (
            "scalar of a limit",
            "select count(*) from big where g < (select g + 1 from small order by id limit 1)",
        ),
        (
            "scalar with the name of a column outside",
            "select g, (select sum(x) from big) as a, sum(x) as b from big group by g",
        ),
        (
            "scalar within a scalar",
            "select (select max(id) from small where k > (select min(k) from tiny)) as m",
        ),
("two scalars", "select (select count(*) from big) as a, (select count(*) from none) as b"),
        ("correlated maximum", "select count(*), sum(b.id) from big b where b.x = (select max(m.x) from mid m where m.k = b.k)"),
        ("correlated count", "select sm.id, (select count(*) from big b where b.k = sm.k) as c from small sm"),
        ("correlated sum without rows", "select ti.id, (select sum(x) from none n where n.k = ti.k) as c from tiny ti"),
        ("correlated twice", "select count(*) from small sm where sm.x > (select avg(b.x) from big b where b.g = sm.g) and exists (select 1 from mid m where m.k = sm.k)"),
        ("nested", "select count(*) from big where k in (select k from small where j in (select j from mid where g = 2) or g = 1)"),
        ("from", "select q.g, max(q.c) from (select g, k, count(*) as c from big group by g, k) q group by q.g"),
        ("any", "select count(*) from small where k = any (select k from big where g = 2)"),
        ("lateral", "select ti.id, l.c from tiny ti cross join lateral (select count(*) as c from big b where b.k = ti.k) l"),
    ], READERS, &[
        ("a small table outside is read by one task", &["scalar shown", "scalar within a scalar", "correlated sum without rows", "any"]),
        ("it has one row", &["two scalars"]),
    ]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scalar_of_several_rows_fails_the_query() {
    let fleet = Fleet::start(2, 1, AMPLE_MEMORY).await;
    for sql in [
        "select count(*) from big where k = (select k from tiny)",
        "select count(*) from tiny where k = (select k from big where x < 100)",
        "select (select id from small) as a",
    ] {
        assert!(
            plain(&shared(), sql).await.is_err(),
            "plain DataFusion has rows: {sql}"
        );
        let ended = run(&fleet, &shared().query(sql, Some(3))).await;
        let Err(NoRows::Ended {
            outcome: Outcome::Failed(failure),
            ..
        }) = ended
        else {
            panic!("it did not fail: {sql}")
        };
        assert!(
            failure.message.contains("more than one row"),
            "{sql}: {}",
            failure.message
        );
    }
    fleet.stop().await;
}
