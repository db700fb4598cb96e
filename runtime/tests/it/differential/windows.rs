//! Window functions.

use super::tables::shared;
use super::{WINDOWS, check};

#[tokio::test(flavor = "multi_thread")]
async fn windows() {
    check(&shared(), &[
        ("row number", "select id, g, row_number() over (partition by g order by note) as n from big where id % 30 = 0"),
        ("best of each", "select * from (select id, k, row_number() over (partition by k order by x desc, id) as n from big) q where n = 1 and k % 40 = 7"),
        ("rank", "select id, rank() over (partition by g order by s, k), dense_rank() over (partition by g order by s) from mid where id % 70 = 0"),
        ("unpartitioned", "select id, row_number() over (order by note) as n, sum(d) over (order by note) as s from big where id % 30 = 0"),
        ("whole partition", "select id, x - avg(x) over (partition by g) as away, count(*) over (partition by k) as c from big where id % 20 = 0"),
        ("over everything", "select id, count(*) over () as c, max(x) over () as m from small"),
        ("rows frame", "select id, sum(d) over (partition by g order by id rows between 3 preceding and 2 following) as s from big where id % 20 = 0"),
        ("rows frame to the end", "select id, min(x) over (partition by g order by id rows between 1 following and unbounded following) as m from mid where id % 70 = 0"),
        ("range frame", "select id, count(*) over (partition by g order by j range between 100 preceding and 100 following) as c from mid where id % 70 = 0"),
        ("range frame of time", "select id, count(*) over (order by day range between interval '3' day preceding and current row) as c from small"),
        ("groups frame", "select id, sum(k) over (partition by yes order by g groups between 1 preceding and current row) as s from mid where id % 70 = 0"),
        ("lag and lead", "select id, lag(s, 2, 'none') over (partition by g order by id) as a, lead(d) over (partition by g order by id) as b from mid where id % 70 = 0"),
        ("first, last, nth", "select id, first_value(note) over w as a, last_value(note) over w as b, nth_value(note, 3) over w as c from mid where id % 70 = 0 window w as (partition by g order by id)"),
        ("ntile", "select id, ntile(7) over (partition by g order by id) as n, percent_rank() over (partition by g order by k, id) as p, cume_dist() over (partition by g order by k, id) as c from mid where id % 70 = 0"),
        ("two partitionings", "select id, row_number() over (partition by g order by id) as a, row_number() over (partition by s order by id) as b from mid where id % 70 = 0"),
        ("over groups", "select g, count(*) as c, rank() over (order by count(*) desc, g) as r from big group by g"),
        ("hard floats as keys", "select id, f, count(*) over (partition by f) as c, row_number() over (partition by f order by id) as n from mid where id % 70 = 0"),
        ("null keys", "select id, k, count(*) over (partition by k) as c from mid where id % 70 = 0"),
        ("order behind it", "select id, sum(x) over (partition by g order by id) as s from mid where id % 70 = 0 order by s desc, id limit 20"),
        ("of nothing", "select id, row_number() over (partition by g order by id) as n from none"),
    ], WINDOWS, &[
        ("a window over all rows needs one task", &["unpartitioned", "over everything", "range frame of time", "over groups"]),
        ("a table without rows is read by one task", &["of nothing"]),
    ]).await;
}
