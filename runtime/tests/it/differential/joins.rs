//! Joins of every type, with the larger table on either hand, partitioned and with a broadcast side.

use super::tables::shared;
use super::{JOINS, check};

#[tokio::test(flavor = "multi_thread")]
async fn inner_and_outer() {
    check(&shared(), &[
        ("inner, both large", "select count(*), sum(b.x), sum(m.id), count(distinct b.s) from big b join mid m on b.k = m.k"),
        ("inner, sides swapped", "select count(*), sum(b.x), sum(m.id) from mid m join big b on b.k = m.k"),
        ("inner, rows", "select b.id, m.id, b.s, m.d from big b join mid m on b.k = m.j where b.id % 50 = 3"),
        ("inner, small build", "select b.g, count(*), sum(s.d) from big b join small s on b.k = s.k group by b.g"),
        ("inner, small first", "select b.g, count(*), sum(s.d) from small s join big b on b.k = s.k group by b.g"),
        ("inner, two keys", "select count(*), min(b.id), max(m.id) from big b join mid m on b.g = m.g and b.s = m.s where b.k < 2000 and m.k < 2000"),
        ("inner, key expression", "select count(*), sum(m.id) from big b join mid m on b.k + 1 = m.k * 2"),
        ("inner, with filter", "select count(*), sum(b.id) from big b join mid m on b.k = m.k and b.x < m.x"),
        ("left, large left", "select count(*), count(m.id), sum(b.id), sum(m.x) from big b left join mid m on b.k = m.j"),
        ("left, large right", "select count(*), count(b.id), sum(b.x), sum(m.id) from mid m left join big b on b.k = m.j and b.g = 1"),
        ("left, small right", "select b.g, count(*), count(s.id), sum(s.id) from big b left join small s on b.k = s.j group by b.g"),
        ("left, small left", "select s.id, s.k, b.id, b.s from small s left join big b on b.k = s.j"),
        ("left, tiny left", "select t.id, count(b.id) from tiny t left join big b on b.k = t.j group by t.id"),
        ("right, large left", "select count(*), count(b.id), sum(m.id), sum(b.x) from big b right join mid m on b.k = m.j"),
        ("right, small left", "select b.g, count(*), count(s.id), sum(s.id) from small s right join big b on b.k = s.j group by b.g"),
        ("right, small right", "select s.id, s.k, b.id, b.s from big b right join small s on b.k = s.j"),
        ("full, both large", "select count(*), count(b.id), count(m.id), sum(b.x), sum(m.x) from big b full join mid m on b.k = m.j"),
        ("full, small left", "select count(*), count(b.id), count(s.id), sum(b.id), sum(s.id) from small s full join big b on b.k = s.j"),
        ("full, small right", "select count(*), count(b.id), count(s.id), sum(b.id), sum(s.id) from big b full join small s on b.k = s.j"),
        ("full, with filter", "select count(*), count(b.id), count(s.id) from big b full join small s on b.k = s.j and b.g = s.g"),
        ("full, rows", "select t.id, s.id from tiny t full join small s on t.g = s.id"),
        ("using", "select k, count(*) from big join small using (k) group by k"),
        ("natural", "select count(*) from (select k, g from big) a natural join (select k, g from small) b"),
        ("three tables", "select s.g, count(*), sum(b.x) from big b join mid m on b.k = m.k join small s on s.id = m.g group by s.g"),
        ("self join", "select count(*), sum(a.id - b.id) from mid a join mid b on a.k = b.j"),
    ], JOINS, &[
        ("both tables are small", &["full, rows"]),
    ]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn semi_anti_and_null_aware() {
    check(&shared(), &[
        ("exists, both large", "select count(*), sum(id) from big b where exists (select 1 from mid m where m.k = b.k)"),
        ("exists, small inside", "select count(*), sum(id) from big b where exists (select 1 from small s where s.k = b.k)"),
        ("exists, large inside", "select id, s from small sm where exists (select 1 from big b where b.k = sm.k and b.g = 2)"),
        ("exists, with filter", "select count(*), sum(id) from big b where exists (select 1 from mid m where m.k = b.k and m.x > b.x)"),
        ("in, both large", "select count(*), sum(id) from big where k in (select j from mid)"),
        ("in, large inside", "select id from small where k in (select k from big where g = 1)"),
        ("not exists, both large", "select count(*), sum(id) from big b where not exists (select 1 from mid m where m.j = b.k)"),
        ("not exists, small inside", "select count(*), sum(id) from big b where not exists (select 1 from small s where s.k = b.k)"),
        ("not exists, large inside", "select id, s from small sm where not exists (select 1 from big b where b.k = sm.k)"),
        ("not in, nulls inside", "select count(*), sum(id) from big where k not in (select k from small)"),
        ("not in, no nulls inside", "select count(*), sum(id) from big where k not in (select k from small where k is not null)"),
        ("not in, nulls on neither hand", "select count(*), sum(id) from big where j not in (select j from small)"),
        ("not in, large inside", "select id, k from small where k not in (select j from big where j < 30000)"),
        ("not in, both large", "select count(*), sum(id) from big where k not in (select j from mid)"),
        ("not in, nothing inside", "select count(*), sum(id) from big where k not in (select k from none)"),
        ("not in, no nulls on either hand", "select count(*), sum(id) from big where k is not null and k not in (select k from small where k is not null and g = 1)"),
        ("mark join", "select count(*) from big b where g = 1 or exists (select 1 from small s where s.k = b.k)"),
        ("in or", "select count(*) from big where x < 100 or k in (select k from small)"),
        ("left semi join", "select count(*), sum(b.id) from big b left semi join mid m on b.k = m.k"),
        ("left anti join", "select count(*), sum(b.id) from big b left anti join mid m on b.k = m.j"),
        ("right semi join", "select count(*), sum(m.id) from big b right semi join mid m on b.k = m.k"),
        ("right anti join", "select count(*), sum(m.id) from big b right anti join mid m on b.k = m.j"),
    ], JOINS, &[
        ("NOT IN over columns that may be null must see all rows of both sides", &["not in, nulls inside", "not in, no nulls inside", "not in, nulls on neither hand", "not in, large inside", "not in, both large", "not in, nothing inside", "not in, no nulls on either hand"]),
    ]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_equal_keys() {
    check(&shared(), &[
        ("cross", "select count(*), sum(s.id), sum(t.id) from mid s cross join tiny t"),
        ("cross, large left", "select b.g, count(*), sum(t.x) from big b cross join tiny t group by b.g"),
        ("inner", "select count(*), sum(b.id) from big b join tiny t on b.k < t.k"),
        ("left, small left", "select t.id, count(b.id) from tiny t left join big b on b.x < t.x - 1000 group by t.id"),
        ("left, small right", "select count(*), count(t.id) from big b left join tiny t on b.x < t.x - 900"),
        ("right", "select count(*), count(t.id) from tiny t right join big b on b.x < t.x - 900"),
        ("full", "select count(*), count(s.id), count(t.id) from small s full join tiny t on s.x < t.x - 1000"),
        ("exists", "select count(*), sum(id) from small sm where exists (select 1 from tiny ti where ti.x > sm.x + 1000)"),
        ("not exists", "select count(*), sum(id) from small sm where not exists (select 1 from tiny ti where ti.x > sm.x)"),
        ("between", "select count(*) from mid s join tiny t on s.x between t.x - 20 and t.x + 20"),
        ("or", "select count(*) from mid s join tiny t on s.k = t.k or s.g = t.g"),
    ], JOINS, &[
        ("a row of the broadcast side that finds no partner, or one partner of many, is found by one task", &["left, small left", "full", "exists", "not exists"]),
    ]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hard_keys_and_empty_sides() {
    check(&shared(), &[
        ("null keys never join", "select count(*) from big b join mid m on b.k = m.k where b.k is null or m.k is null"),
        ("null keys join where asked", "select count(*) from mid a join small b on a.k is not distinct from b.k"),
        ("nan and zeros", "select a.f, count(*), sum(a.id) from mid a join tiny b on a.f = b.f group by a.f"),
        ("nan and zeros, large", "select count(*), sum(b.id) from big b join (select distinct f from mid) m on b.f = m.f"),
        ("decimal", "select count(*), sum(a.id) from big a join small b on a.d = b.d"),
        ("text", "select count(*), sum(a.id) from big a join (select s, max(id) as id from mid group by s) b on a.s = b.s"),
        ("time", "select count(*) from big a join big b on a.t = b.t"),
        ("day", "select count(*), sum(a.x) from big a join (select distinct day from small) b on a.day = b.day"),
        ("boolean", "select a.yes, count(*) from big a join tiny b on a.yes = b.yes group by a.yes"),
        ("integers of two widths", "select count(*), sum(a.id) from big a join mid b on a.k = b.id"),
        ("integer and float", "select count(*) from mid a join tiny b on a.g = b.f"),
        ("nothing inside", "select count(*), sum(b.id) from big b join none n on b.k = n.k"),
        ("left, nothing right", "select count(*), count(n.id), sum(b.id) from big b left join none n on b.k = n.k"),
        ("left, nothing left", "select count(*) from none n left join big b on b.k = n.k"),
        ("right, nothing left", "select count(*), count(n.id), sum(b.id) from none n right join big b on b.k = n.k"),
        ("full, nothing left", "select count(*), count(n.id), sum(b.id) from none n full join big b on b.k = n.k"),
        ("full, nothing at all", "select count(*) from none a full join none b on a.k = b.k"),
        ("not exists, nothing inside", "select count(*), sum(id) from big b where not exists (select 1 from none n where n.k = b.k)"),
        ("filtered away", "select count(*), count(m.id) from big b left join (select * from mid where id < 0) m on b.k = m.k"),
        ("cross with nothing", "select count(*) from big cross join none"),
    ], JOINS, &[
        ("a table without rows is read by one task", &["full, nothing at all", "cross with nothing"]),
    ]).await;
}
