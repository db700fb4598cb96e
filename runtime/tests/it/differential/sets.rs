//! Unions, intersections, differences, rows without tables, and recursion.

use super::tables::shared;
use super::{READERS, check, check_cases};
use crate::harness::Case;

#[tokio::test(flavor = "multi_thread")]
async fn set_operations() {
    check(&shared(), &[
        ("union all", "select g, count(*), sum(id) from (select g, id from big union all select g, id from mid union all select g, id from tiny) q group by g"),
        ("union all, rows", "select id, s from small union all select id, s from tiny union all select id, s from none"),
        ("union all, other names and types", "select k as a, s as b from small union all select id, note from tiny"),
        ("union all of one table", "select id from small where g = 1 union all select id from small where g <> 1"),
        ("union", "select k from big union select j from mid union select 7"),
        ("union of texts", "select s from big union select s from small"),
        ("union, ordered", "select id, note from small union all select id, note from tiny order by note, id"),
        ("union, limited", "select id from small union all select id from tiny order by id desc limit 11"),
        ("union joined", "select u.k, count(*), sum(u.x) from (select k, x from big union all select k, x from mid) u join small s on s.k = u.k group by u.k"),
        ("union on the build side", "select count(*), sum(b.x) from big b join (select k from small union all select k from tiny) u on b.k = u.k"),
        ("left join of a union", "select count(*), count(b.id) from (select k from small union all select k from tiny) u left join big b on b.k = u.k"),
        ("union of groups", "select g, count(*) from big group by g union all select g, count(*) from mid group by g"),
        ("union of a join and a scan", "select b.id from big b full join small s on b.k = s.k union all select id from tiny"),
        ("nested unions", "select count(*), sum(id) from (select id from (select id from small union all select id from tiny) a union all (select id from mid union all select id from none)) q"),
        ("windows over a union", "select id, row_number() over (partition by g order by id, x) as n from (select id, g, x from small union all select id, g, x from tiny) q"),
        ("cross join of unions", "select count(*) from (select id from tiny union all select id from tiny) a cross join (select id from small union all select id from none) b"),
        ("intersect", "select k, g from big intersect select k, g from mid"),
        ("except", "select k from big except select j from mid"),
        ("except with nulls", "select k from small except select k from big"),
        ("intersect of nothing", "select k from big intersect select k from none"),
        ("except nothing", "select g from big except select g from none"),
        ("mixed", "(select g from big union select 99) except (select g from tiny intersect select 1)"),
    ], READERS, &[
        ("they read no exchange", &["union all, rows", "union all, other names and types", "union all of one table"]),
        ("one task merges what others have sorted", &["union, ordered", "union, limited"]),
        ("one task ends a group of all rows", &["nested unions"]),
        ("small tables are read by one task", &["cross join of unions"]),
    ]).await;
}

/// DataFusion keeps all rows that have a match on the other side, or none of them.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_counted() {
    check_cases(&shared(), &Case::rewritten(&[
        (
            "intersect all",
            "select k from small intersect all select k from big",
            "select k from (select k, row_number() over (partition by k) as n from small) a where exists (select 1 from (select k, row_number() over (partition by k) as n from big) b where (a.k is not distinct from b.k) and a.n = b.n)",
        ),
        (
            "except all",
            "select g, yes from big except all select g, yes from mid",
            "select g, yes from (select g, yes, row_number() over (partition by g, yes) as n from big) a where not exists (select 1 from (select g, yes, row_number() over (partition by g, yes) as n from mid) b where (a.g is not distinct from b.g) and (a.yes is not distinct from b.yes) and a.n = b.n)",
        ),
        (
            "except all of a part",
            "select s, k from big except all select s, k from big where id % 3 = 0",
            "select s, k from big where id % 3 <> 0",
        ),
        (
            "intersect all of a part, counted",
            "select k, count(*) from (select k from mid intersect all (select k from mid union all select k from mid)) q group by k",
            "select k, count(*) from mid group by k",
        ),
    ]), READERS, &[]).await;
}

/// Plain DataFusion ignores TABLESAMPLE.
#[tokio::test(flavor = "multi_thread")]
async fn samples() {
    check_cases(&shared(), &Case::rewritten(&[
        (
            "all rows",
            "select g, count(*) as c from big tablesample bernoulli (100) group by g",
            "select g, count(*) as c from big group by g",
        ),
        (
            "the same rows twice",
            "select count(*) as c from big a tablesample (30) repeatable (5) full join big b tablesample (30) repeatable (5) on a.id = b.id where a.id is null or b.id is null",
            "select count(*) as c from big where id < 0",
        ),
        (
            "about a third",
            "select count(*) between 0.3 * (select count(*) from big) and 0.36 * (select count(*) from big) as c from big tablesample bernoulli (33) repeatable (1)",
            "select count(*) >= 0 as c from big",
        ),
    ]), READERS, &[
        ("one task ends a group of all rows", &["about a third"]),
    ]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_tables() {
    check(&shared(), &[
        ("one row", "select 1 as a, 'x' as b, null as c"),
        ("values", "select * from (values (1, 'a'), (2, null), (null, 'c')) as v (n, s)"),
        ("values joined", "select v.n, count(*) from big b join (values (1), (2), (9)) as v (n) on b.g = v.n group by v.n"),
        ("values alone", "values (1, 2.5), (3, null)"),
        ("values outer", "select v.n, count(b.id) from (values (1), (77)) as v (n) left join big b on b.g = v.n group by v.n"),
        ("generate_series", "select * from generate_series(1, 10)"),
        ("generate_series joined", "select count(*), sum(b.x) from big b join generate_series(1, 100) as r (n) on b.k = r.n"),
        ("generate_series, groups", "select value % 7 as r, count(*) from generate_series(1, 100000) group by r"),
        ("range", "select sum(value) from range(0, 1000)"),
        ("false", "select * from big where false"),
        ("constant group", "select count(*) from (select 1 as a) q group by a"),
        ("case and cast", "select id, case when k is null then 'none' when k < 100 then 'few' else cast(k as varchar) end as w, cast(d as double) as e, try_cast(s as int) as n from small"),
        ("coalesce and nullif", "select id, coalesce(k, -1) as a, nullif(g, 3) as b from small"),
        ("recursive numbers", "with recursive n(v) as (select 1 union all select v + 1 from n where v < 50) select v from n"),
        ("recursive over a table", "with recursive r(id, depth) as (select id, 0 from tiny where id = 0 union all select s.id, r.depth + 1 from small s join r on s.id = r.id * 2 + 1 where r.depth < 8) select id, depth from r"),
        ("recursive, joined", "with recursive n(v) as (select 0 union all select v + 1 from n where v < 4) select n.v, count(*) from n join big b on b.g = n.v group by n.v"),
        ("recursive union", "with recursive n(v) as (select 1 union select (v * 2) % 11 from n) select v from n"),
        ("common table used twice", "with c as (select g, sum(x) as x from big group by g) select a.g, b.x from c a join c b on a.g = b.g where a.x > 0"),
    ], READERS, &[
        ("there is nothing to exchange", &["one row", "values", "values alone", "generate_series", "range", "false", "constant group", "case and cast", "coalesce and nullif"]),
        ("each round of a recursive query needs all rows of the round before", &["recursive numbers", "recursive over a table", "recursive union"]),
    ]).await;
}
