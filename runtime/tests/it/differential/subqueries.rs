//! Scalar and correlated subqueries.

use super::check;
use super::tables::shared;

#[tokio::test(flavor = "multi_thread")]
async fn subqueries() {
    check(&shared(), &[
        ("scalar", "select count(*), sum(id) from big where x > (select avg(x) from mid)"),
        ("scalar shown", "select id, (select max(x) from big) as m from small"),
        ("scalar of nothing", "select count(*) from big where x > (select max(x) from none)"),
        ("scalar in a group", "select g, sum(x) / (select sum(x) from big) as share from big group by g"),
        ("scalar in having", "select k, count(*) from big group by k having count(*) > (select avg(c) * 2.2 from (select count(*) as c from big group by k) q)"),
        ("two scalars", "select (select count(*) from big) as a, (select count(*) from none) as b"),
        ("correlated maximum", "select count(*), sum(b.id) from big b where b.x = (select max(m.x) from mid m where m.k = b.k)"),
        ("correlated count", "select sm.id, (select count(*) from big b where b.k = sm.k) as c from small sm"),
        ("correlated sum without rows", "select ti.id, (select sum(x) from none n where n.k = ti.k) as c from tiny ti"),
        ("correlated twice", "select count(*) from small sm where sm.x > (select avg(b.x) from big b where b.g = sm.g) and exists (select 1 from mid m where m.k = sm.k)"),
        ("nested", "select count(*) from big where k in (select k from small where j in (select j from mid where g = 2) or g = 1)"),
        ("from", "select q.g, max(q.c) from (select g, k, count(*) as c from big group by g, k) q group by q.g"),
        ("any", "select count(*) from small where k = any (select k from big where g = 2)"),
        ("lateral", "select ti.id, l.c from tiny ti cross join lateral (select count(*) as c from big b where b.k = ti.k) l"),
    ]).await;
}
