//! Groups, distinct values, grouping sets, and first values.

use super::tables::shared;
use super::{GROUPS, SORTS, check, check_cases};
use crate::harness::Case;

#[tokio::test(flavor = "multi_thread")]
async fn groups() {
    check(&shared(), &[
        ("no group", "select count(*), count(k), sum(x), avg(d), min(s), max(t), stddev(x), var_pop(x) from big"),
        ("few groups", "select g, count(*), sum(d), avg(x), min(note), max(day) from big group by g"),
        ("many groups", "select k, count(*), sum(d) from big group by k having count(*) > 8"),
        ("all rows are groups", "select count(*), sum(c) from (select id, count(*) as c from big group by id) q"),
        ("hard floats", "select f, count(*), sum(id) from big group by f"),
        ("texts and nulls", "select s, count(*), sum(d) from big where k < 3000 group by s"),
        ("decimals", "select d, count(*) from small group by d"),
        ("times", "select date_trunc('month', t) as m, count(*) from big group by m"),
        ("booleans", "select yes, bool_and(yes), count(*) from big group by yes"),
        ("three keys", "select g, yes, day % 3 as r, count(*), sum(x) from (select g, yes, cast(day as int) as day, x from big) q group by g, yes, r"),
        ("key expression", "select k % 10 as r, length(s) as l, count(*) from big group by r, l"),
        ("filter clause", "select g, count(*) filter (where x > 700), sum(d) filter (where yes) from big group by g"),
        ("arrays", "select g, array_agg(id order by id) from small where id < 40 group by g"),
        ("strings in order", "select g, string_agg(s, ',' order by id) from small where id < 60 group by g"),
        ("first and last", "select g, first_value(id order by note), last_value(id order by note) from big group by g"),
        ("median", "select g, median(x), approx_distinct(g) from big group by g"),
        ("percentile", "select g, approx_percentile_cont(x, 0.0) from tiny group by g"),
        ("correlation", "select g, corr(x, id), covar_samp(x, id), regr_slope(x, id) from big group by g"),
        ("bits", "select g, bit_and(k), bit_or(k), bit_xor(k) from big group by g"),
        ("nothing in", "select count(*), sum(x), min(s) from none"),
        ("groups of nothing", "select g, count(*) from none group by g"),
        ("groups filtered away", "select g, count(*) from big where id < 0 group by g"),
        ("groups of groups", "select c, count(*) from (select k, count(*) as c from big group by k) q group by c"),
        ("having without rows", "select g, count(*) from big group by g having count(*) < 0"),
    ], GROUPS, &[
        ("one task ends a group of all rows", &["no group", "nothing in"]),
        ("a table without rows is read by one task", &["groups of nothing"]),
    ]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn distinct_and_grouping_sets() {
    check(
        &shared(),
        &[
            ("distinct", "select distinct g, yes from big"),
            (
                "distinct, many",
                "select count(*) from (select distinct k, g from big) q",
            ),
            ("distinct, hard floats", "select distinct f from big"),
            (
                "distinct on",
                "select distinct on (g) g, id, note from big order by g, id",
            ),
            (
                "count distinct",
                "select count(distinct k), count(distinct s), count(distinct f) from big",
            ),
            (
                "count distinct in groups",
                "select g, count(distinct k), count(distinct s), sum(x) from big group by g",
            ),
            ("sum distinct", "select g, sum(distinct j) from big group by g"),
            ("count distinct of nothing", "select count(distinct k) from none"),
            (
                "grouping sets",
                "select g, yes, count(*), sum(d) from big group by grouping sets ((g, yes), (g), (yes), ())",
            ),
            (
                "rollup",
                "select g, yes, s, count(*) from big where k < 200 group by rollup (g, yes, s)",
            ),
            (
                "cube",
                "select g, yes, grouping(g), grouping(yes), count(*), avg(x) from big group by cube (g, yes)",
            ),
            (
                "cube with distinct",
                "select g, yes, count(distinct k) from big group by cube (g, yes)",
            ),
            (
                "rollup of nothing",
                "select g, yes, count(*) from none group by rollup (g, yes)",
            ),
        ],
        GROUPS,
        &[
            (
                "one task ends a group of all rows",
                &["count distinct", "count distinct of nothing"],
            ),
            ("a table without rows is read by one task", &["rollup of nothing"]),
        ],
    )
    .await;
}

/// DataFusion has no row for sets that are all empty, and pushes conditions without columns below the group of all
/// rows.
#[tokio::test(flavor = "multi_thread")]
async fn groups_of_all_rows() {
    check_cases(
        &shared(),
        &Case::rewritten(&[
            (
                "an empty set",
                "select count(*), sum(x) from big group by grouping sets (())",
                "select count(*), sum(x) from big",
            ),
            (
                "two empty sets",
                "select count(*) as c, sum(x) as s from big group by grouping sets ((), ())",
                "select c, s from (select count(*) as c, sum(x) as s from big) a cross join (values (1), (2)) b",
            ),
            (
                "empty sets of nothing",
                "select count(*) as column1 from none group by grouping sets ((), ())",
                "values (0), (0)",
            ),
            (
                "keys with one value",
                "select g, count(*) as c from big where g = 1 group by rollup (g)",
                "select g, count(*) as c from big where g = 1 group by g union all select null, count(*) from big where g = 1",
            ),
            (
                "keys that are equal",
                "select a.g as g, b.g as h, count(*) as c from big a join small b on a.g = b.g group by grouping sets ((a.g, b.g), (b.g), ())",
                "with q as (select a.g as g, b.g as h from big a join small b on a.g = b.g) select g, h, count(*) as c from q group by g, h union all select null, h, count(*) from q group by h union all select null, null, count(*) from q",
            ),
            (
                "keys in order",
                "select k, g, count(*) as c from (select k, g from big order by k, g limit 1000000) q group by grouping sets ((k, g), (g))",
                "select k, g, count(*) as c from big group by k, g union all select null, g, count(*) from big group by g",
            ),
            (
                "a false filter above",
                "select c from (select g, count(*) as c from big group by rollup (g)) q where g = 1 and g = 2",
                "select c from (select count(*) as c from big) q where c < 0",
            ),
        ]),
        GROUPS,
        &[
            ("one task ends a group of all rows", &["an empty set", "two empty sets", "empty sets of nothing"]),
            ("nothing is read", &["a false filter above"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn order() {
    check(
        &shared(),
        &[
            (
                "order by",
                "select id, k, s from big where id % 20 = 1 order by k desc nulls last, id",
            ),
            ("order by all", "select id, note from mid order by note"),
            (
                "order by hard floats",
                "select f, id from mid where id % 70 = 0 order by f, id",
            ),
            (
                "order by hard floats, downwards",
                "select f, id from mid where id % 70 = 0 order by f desc nulls first, id",
            ),
            ("top", "select id, x, note from big order by x desc, id limit 17"),
            (
                "top with nulls first",
                "select id, k from big order by k nulls first, id limit 9",
            ),
            (
                "top of groups",
                "select k, count(*) as c, sum(x) from big group by k order by c desc, k limit 12",
            ),
            (
                "order by a computed key",
                "select id, x + k as y from big order by x + k, id limit 30",
            ),
            (
                "order by what is not shown",
                "select id from big order by note desc limit 25",
            ),
            ("order by of nothing", "select id, s from none order by s limit 5"),
            (
                "order within a subquery",
                "select sum(id) from (select id from big order by x, id limit 500) q",
            ),
        ],
        SORTS,
        &[(
            "a table without rows is read by one task",
            &["order by of nothing"],
        )],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limit_and_offset() {
    check(
        &shared(),
        &[
            (
                "offset",
                "select id, note from big order by note limit 10 offset 1000",
            ),
            (
                "offset behind the end",
                "select id from mid where id % 70 = 0 order by id limit 10 offset 5000",
            ),
            (
                "offset alone",
                "select id from mid where id % 70 = 0 order by id offset 1990",
            ),
            ("limit 0", "select id from big order by id limit 0"),
            (
                "limit without order",
                "select count(*) from (select id from big limit 1234) q",
            ),
            (
                "limit above the rows",
                "select count(*) from (select id from small limit 99999) q",
            ),
            (
                "limit and offset without order",
                "select count(*) from (select id from big limit 1000 offset 149500) q",
            ),
            (
                "limit in a join",
                "select count(*) from big b join (select k from mid order by id limit 100) s on b.k = s.k",
            ),
        ],
        SORTS,
        &[
            (
                "nothing is sorted without an order",
                &[
                    "limit without order",
                    "limit above the rows",
                    "limit and offset without order",
                ],
            ),
            ("nothing is read", &["limit 0"]),
        ],
    )
    .await;
}
