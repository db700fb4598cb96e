//! A join of which one key has half of the rows, with `shuffle.adaptive.mode: Auto` and `Off`.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use sluice_crds::ShuffleQueryStatus;
use sluice_crds::shuffle_query::status::StageStatus;

use super::pool::Pool;
use super::{Args, measure, query_object, sluice_command};

/// Half of the rows of lineitem have the key 0, as have the first hundred orders: what the join does for it is nearly all that it does.
const SQL: &str = "
    SELECT o.month, count(*) AS lines, sum(l.price) AS price, min(l.comment) AS comment FROM
        (SELECT CASE WHEN (l_orderkey + l_linenumber) % 2 = 0 THEN 0 ELSE l_orderkey END AS key,
            l_extendedprice AS price, l_comment AS comment FROM lineitem) l
    JOIN (SELECT CASE WHEN o_orderkey <= 400 THEN 0 ELSE o_orderkey END AS key, o_comment AS comment,
            date_trunc('month', o_orderdate) AS month FROM orders) o
    ON l.key = o.key AND l.comment < o.comment GROUP BY o.month ORDER BY o.month";

/// The best run with a mode, and how the hot stage was divided.
#[derive(Default)]
struct Measured {
    seconds: Option<f64>,
    rows: Option<u64>,
    join: Option<StageStatus>,
}

impl Measured {
    fn add(&mut self, counts: bool, run: &measure::Run, status: &ShuffleQueryStatus) -> anyhow::Result<()> {
        ensure!(
            self.rows.is_none_or(|rows| rows == run.rows),
            "runs have different numbers of rows"
        );
        self.rows = Some(run.rows);
        if counts && self.seconds.is_none_or(|best| run.seconds < best) {
            self.seconds = Some(run.seconds);
        }
        // The join is the first stage that reads others.
        let join = status.stages.iter().find(|stage| stage.planned_reduce_tasks > 0);
        self.join = join.cloned();
        Ok(())
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} s", self.seconds.unwrap_or_default())?;
        let Some(join) = &self.join else {
            return Ok(());
        };
        write!(
            f,
            ", join: {} tasks of {} planned, {} of them shards, partitions by bytes {:?}",
            join.adaptive_reduce_tasks,
            join.planned_reduce_tasks,
            join.skew_split_tasks,
            join.partition_bytes_histogram
        )
    }
}

/// Runs both, alternating, and prints them with their ratio. Answers whether they had as many rows.
pub(super) fn compare(args: &Args, data: &Path) -> anyhow::Result<bool> {
    let limit = Duration::from_secs(args.limit);
    let scratch = tempfile::tempdir()?;
    let pool = Pool::start(args.workers, args.memory.as_deref(), scratch.path())?;
    let status = scratch.path().join("status.json");
    let mut sides = [("Off", Measured::default()), ("Auto", Measured::default())];
    for run in 0..=args.runs {
        for (mode, measured) in &mut sides {
            let mut query = query_object(SQL, data);
            query["spec"]["shuffle"] = json!({"adaptive": {"mode": *mode}});
            let file = scratch.path().join(format!("{mode}.yaml"));
            std::fs::write(&file, query.to_string())?;
            let seen = measure::run(&mut sluice_command(&pool, &file, &status), limit).context(*mode)?;
            let told = serde_json::from_str(&std::fs::read_to_string(&status)?)?;
            measured.add(run > 0, &seen, &told)?;
        }
    }
    let [(_, off), (_, auto)] = &sides;
    println!("adaptive.mode Off:  {off}");
    println!("adaptive.mode Auto: {auto}");
    let ratio = off.seconds.unwrap_or_default() / auto.seconds.unwrap_or(f64::INFINITY);
    println!(
        "Auto is {ratio:.2} times as fast, {} workers of one slot",
        args.workers
    );
    Ok(off.rows == auto.rows)
}
