//! Runs one query in every engine and every shape, and finds differences between the answers.

use super::ast::{Expr, Query};
use super::engine::{Answer, Bench, Fleets, HANG, SHAPES, SLOW, against_plain, many, plain_rows};
use super::judge::{self, Row};
use super::oracle_duckdb::DuckDb;
use super::render::{self, Dialect};
use super::tables::Database;
use crate::compare::Rows;

/// Smaller queries and tables to try for one finding.
const MAX_STEPS: u32 = 1_000;

/// As many for a query that hangs: each takes minutes.
const MAX_HUNG_STEPS: u32 = 10;

/// A query as every engine is asked.
pub struct Asked {
    pub sql: String,
    /// In the words of DuckDB.
    pub duckdb: String,
    /// The columns by which it orders its rows.
    order: Vec<usize>,
}

impl Asked {
    /// A text that DataFusion and DuckDB read in the same way.
    pub fn text(sql: &str) -> Self {
        Self {
            sql: sql.to_owned(),
            duckdb: sql.to_owned(),
            order: Vec::new(),
        }
    }
}

impl From<&Query> for Asked {
    fn from(query: &Query) -> Self {
        Self {
            sql: render::sql(query, Dialect::DataFusion),
            duckdb: render::sql(query, Dialect::DuckDb),
            order: places(query),
        }
    }
}

/// What runs queries.
pub struct Suite {
    pub fleets: Fleets,
    pub duckdb: Option<DuckDb>,
    /// Changes the answer of Sluice: an artificial defect for tests of the suite.
    pub defect: Option<fn(&mut Rows)>,
}

/// The verdict on one query.
#[derive(Debug)]
pub enum Verdict {
    /// All engines and shapes agree on this many rows.
    Agreed(usize),
    /// Nothing was compared, for a reason of a kind.
    Nothing(String),
    Found(Finding),
}

/// Something wrong.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What is wrong; the same for smaller queries with the same fault.
    pub kind: String,
    /// The place of the shape among [`SHAPES`].
    pub shape: usize,
    /// What differs, and the answers.
    pub told: String,
    /// There was no answer in time.
    pub hung: bool,
}

/// What the other engines say.
struct Expected {
    plain: Result<crate::harness::Plain, String>,
    duckdb: Option<Result<Vec<Row>, String>>,
    order: Vec<usize>,
}

impl Suite {
    /// Makes the tables of a database known to every engine, and to these shapes.
    pub async fn bench(&mut self, database: &Database, shapes: &[usize]) -> Bench {
        let bench = Bench::of(database, shapes).await;
        self.load(&bench);
        bench
    }

    /// Makes the tables of a bench known to DuckDB.
    pub fn load(&mut self, bench: &Bench) {
        if let Some(duckdb) = &mut self.duckdb {
            let names = bench.tables.specs.iter().map(|table| table.name.as_str());
            let loaded = duckdb.load(&bench.tables.base, names);
            loaded.expect("DuckDB reads the tables");
        }
    }

    /// Runs a query in these shapes, and compares.
    pub async fn examine(&mut self, bench: &Bench, query: &Asked, shapes: &[usize]) -> Verdict {
        let duckdb = self.duckdb.as_mut();
        let duckdb = duckdb.map(|duckdb| duckdb.rows(&query.duckdb));
        let expected = Expected {
            plain: bench.plain(&query.sql).await,
            duckdb,
            order: query.order.clone(),
        };
        if let Some(kind) = expected.incomparable() {
            return Verdict::Nothing(kind);
        }
        let mut refused = None;
        for shape in shapes {
            let answer = self.answer(bench, query, *shape).await;
            match expected.judge(&answer, *shape) {
                Ok(()) => {}
                Err(Verdict::Nothing(kind)) => refused = Some(kind),
                Err(found) => return found,
            }
        }
        match refused {
            Some(kind) => Verdict::Nothing(kind),
            None => Verdict::Agreed(expected.count()),
        }
    }

    async fn answer(&mut self, bench: &Bench, query: &Asked, shape: usize) -> Answer {
        let mut answer = bench.ours(&self.fleets, &query.sql, shape, SLOW).await;
        if matches!(answer, Answer::Hung(_)) {
            // What still runs must not keep the next query waiting; and a busy machine is no fault of this one.
            self.fleets.replace(shape).await;
            answer = bench.ours(&self.fleets, &query.sql, shape, HANG).await;
        }
        if matches!(answer, Answer::Hung(_)) {
            self.fleets.replace(shape).await;
        }
        if let (Some(defect), Answer::Rows(rows)) = (self.defect, &mut answer) {
            defect(&mut rows.raw);
        }
        answer
    }

    /// Shrinks the query and its tables while they fail in the same way.
    pub async fn shrink(&mut self, query: &Query, database: &Database, found: Finding) -> Shrunk {
        let mut small = Shrunk {
            query: query.clone(),
            database: database.clone(),
            found,
        };
        let mut left = match small.found.hung {
            true => MAX_HUNG_STEPS,
            false => MAX_STEPS,
        };
        loop {
            let before = left;
            while self.smaller_query(&mut small, &mut left).await {}
            while self.smaller_tables(&mut small, &mut left).await {}
            // Smaller tables may make a smaller query fail, once more.
            let again = self.smaller_query(&mut small, &mut left).await;
            if !again || left == 0 || left == before {
                return small;
            }
        }
    }

    async fn smaller_query(&mut self, small: &mut Shrunk, left: &mut u32) -> bool {
        let bench = self.bench(&small.database, &[small.found.shape]).await;
        let mut any = false;
        'steps: loop {
            for query in super::shrink::queries(&small.query) {
                if *left == 0 {
                    return any;
                }
                *left -= 1;
                if let Some(found) = self.fails_so(&bench, &query, &small.found).await {
                    (small.query, small.found, any) = (query, found, true);
                    continue 'steps;
                }
            }
            return any;
        }
    }

    async fn smaller_tables(&mut self, small: &mut Shrunk, left: &mut u32) -> bool {
        for database in super::shrink::databases(&small.database) {
            if *left == 0 {
                return false;
            }
            *left -= 1;
            let bench = self.bench(&database, &[small.found.shape]).await;
            if let Some(found) = self.fails_so(&bench, &small.query, &small.found).await {
                (small.database, small.found) = (database, found);
                return true;
            }
        }
        false
    }

    async fn fails_so(&mut self, bench: &Bench, query: &Query, found: &Finding) -> Option<Finding> {
        match self.examine(bench, &query.into(), &[found.shape]).await {
            Verdict::Found(other) if other.kind == found.kind => Some(other),
            Verdict::Agreed(_) | Verdict::Nothing(_) | Verdict::Found(_) => None,
        }
    }
}

/// A finding and the smallest case that shows it.
pub struct Shrunk {
    pub query: Query,
    pub database: Database,
    pub found: Finding,
}

impl Expected {
    /// Why there is nothing to compare with; `None` if there is.
    fn incomparable(&self) -> Option<String> {
        match (&self.plain, &self.duckdb) {
            (Ok(plain), _) if many(&plain.rows.batches) => Some("more rows than are compared".to_owned()),
            (_, Some(Ok(_))) | (Ok(_), None | Some(Err(_))) => None,
            (Err(plain), None | Some(Err(_))) => Some(format!("no engine: {}", kind_of(plain))),
        }
    }

    fn count(&self) -> usize {
        match (&self.duckdb, &self.plain) {
            (Some(Ok(rows)), _) => rows.len(),
            (_, Ok(plain)) => plain_rows(plain).len(),
            _ => 0,
        }
    }

    /// Compares one answer.
    fn judge(&self, answer: &Answer, shape: usize) -> Result<(), Verdict> {
        let found = |kind: String, told: String| {
            Err(Verdict::Found(Finding {
                kind,
                shape,
                told: format!("{told}\n{}", self.text()),
                hung: matches!(answer, Answer::Hung(_)),
            }))
        };
        let ours = match answer {
            Answer::Broken(message) | Answer::Hung(message) => {
                return found(format!("broken: {}", kind_of(message)), message.clone());
            }
            Answer::Refused(message) | Answer::Failed(message) => {
                let kind = kind_of(message);
                return match &self.plain {
                    // Plain DataFusion does not either.
                    Err(_) => Err(Verdict::Nothing(format!("refused: {kind}"))),
                    Ok(_) if is_allowed(message) => Err(Verdict::Nothing(format!("allowed: {kind}"))),
                    Ok(_) => found(format!("error: {kind}"), message.clone()),
                };
            }
            Answer::Rows(ours) => ours,
        };
        let rows = judge::rows(&ours.raw.batches);
        let from_plain = self.plain.as_ref().map(|plain| against_plain(plain, ours));
        let told = |difference: &str| {
            let shown = judge::shown_all(&rows);
            format!("{difference}\nSluice: {shown}\n{}", ours.explained)
        };
        match (&self.duckdb, from_plain) {
            (Some(Ok(theirs)), from_plain) => {
                let Some(difference) = judge::difference(theirs, &rows, &self.order) else {
                    return Ok(());
                };
                let kind = match from_plain {
                    Ok(None) => "inherited: rows of Sluice and DataFusion, others of DuckDB",
                    Ok(Some(_)) => "wrong: rows of Sluice, others of DataFusion and DuckDB",
                    Err(_) => "wrong: rows of Sluice, others of DuckDB, none of DataFusion",
                };
                found(kind.to_owned(), told(&difference))
            }
            (_, Ok(Some(difference))) => {
                let kind = "wrong: rows of Sluice, others of DataFusion, none of DuckDB";
                found(kind.to_owned(), told(&difference))
            }
            (Some(Err(message)), Ok(None)) if is_overflow(message) => {
                found("inherited: an overflow gives rows".to_owned(), told(message))
            }
            (Some(Err(message)), Ok(None)) => Err(Verdict::Nothing(format!("DuckDB: {}", kind_of(message)))),
            (None, Ok(None)) => Ok(()),
            (_, Err(message)) => Err(Verdict::Nothing(format!("Sluice alone: {}", kind_of(message)))),
        }
    }

    fn text(&self) -> String {
        let plain = match &self.plain {
            Ok(plain) => judge::shown_all(&plain_rows(plain)),
            Err(message) => message.clone(),
        };
        let duckdb = match &self.duckdb {
            Some(Ok(rows)) => judge::shown_all(rows),
            Some(Err(message)) => message.clone(),
            None => "not asked".to_owned(),
        };
        format!("DataFusion: {plain}\nDuckDB: {duckdb}")
    }
}

/// Errors, by their text, that are allowed where plain DataFusion has rows. Operators that cannot spill may run out of
/// memory. DataFusion refuses some windows only once it meets rows, which one engine alone may meet. Sluice refuses
/// merged columns that it cannot resolve, where DataFusion reads them from the wrong side, and subqueries over both sides of
/// an outer join.
fn is_allowed(message: &str) -> bool {
    let said = message.lines().next().unwrap_or_default();
    [
        "Resources exhausted",
        "sliding accumulator",
        "RIGHT or FULL JOIN",
        "uses columns of both sides in ON",
    ]
    .iter()
    .any(|allowed| said.contains(allowed))
}

fn is_overflow(message: &str) -> bool {
    message.contains("Overflow") || message.contains("Out of Range")
}

/// A message without what differs from query to query.
pub fn kind_of(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let plain = line.chars().filter(|letter| !letter.is_ascii_digit());
    plain.take(70).collect()
}

/// The columns by which a query orders its rows, as far as they are the first keys.
fn places(query: &Query) -> Vec<usize> {
    let columns = query.columns();
    let places = query.order.iter().map_while(|key| match &key.expr {
        Expr::Column {
            table: None, name, ..
        } => columns.iter().position(|(column, _)| column == name),
        _ => None,
    });
    places.collect()
}

/// The name of a shape.
pub fn shape_name(shape: usize) -> &'static str {
    SHAPES.get(shape).map_or("no shape", |shape| shape.name)
}
