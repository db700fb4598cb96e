//! docs/sql.md says what the planner does.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use datafusion::prelude::{ParquetReadOptions, SessionContext};

use super::super::{PlanError, plan};
use super::harness::Bench;
use super::stage_runner::run;

/// Set, it makes the test write the lists of functions.
const WRITE: &str = "SLUICE_RENDER";

fn page_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/sql.md")
}

fn page() -> String {
    std::fs::read_to_string(page_path()).unwrap()
}

/// A session with the tables of the page.
async fn session(bench: &Bench) -> SessionContext {
    let session = bench.session(2, &[]).await;
    for (name, folder) in [("t", "big"), ("u", "mid")] {
        let path = bench.table(folder);
        let options = ParquetReadOptions::default();
        session
            .register_parquet(name, path.to_str().unwrap(), options)
            .await
            .unwrap();
    }
    session
}

/// What is between back-quotes, if that is all there is.
fn code(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`')
}

/// The rows of tables of refusals: name, example, what to write.
fn refusals(page: &str) -> Vec<[&str; 3]> {
    let mut rows = Vec::new();
    let mut within = false;
    for line in page.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        match cells.as_slice() {
            ["refused", "example", "why", "write instead"] => within = true,
            [name, example, _, instead] if within => rows.push([*name, code(example).expect(line), *instead]),
            _ if line.starts_with("|---") => {}
            _ => within = false,
        }
    }
    rows
}

/// The statements in blocks of SQL of the section about what works.
fn working(page: &str) -> Vec<&str> {
    let (_, section) = page.split_once("## What works\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let blocks = section.split("```sql\n").skip(1);
    let statements = blocks.flat_map(|block| block.split("```").next().unwrap().lines());
    statements.collect()
}

fn is_query(text: &str) -> bool {
    ["SELECT ", "WITH "].iter().any(|word| text.starts_with(word))
}

#[tokio::test]
async fn what_the_page_refuses_is_refused_by_that_name() {
    let (bench, page) = (Bench::new().await, page());
    let state = session(&bench).await.state();
    let rows = refusals(&page);
    assert!(rows.len() > 90, "{} rows", rows.len());
    let mut wrong = Vec::new();
    for [name, example, _] in rows {
        match plan(&state, example).await {
            Ok(_) => wrong.push(format!("{name}: it is planned: {example}")),
            // Another dialect's: the text cannot even be read.
            Err(PlanError::Syntax { .. }) => {}
            Err(error) if error.to_string().contains(name) => {}
            Err(error) => wrong.push(format!("{name}: {example}\n    {error}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn what_the_page_shows_runs() {
    let (bench, page) = (Bench::new().await, page());
    let session = session(&bench).await;
    let mut wrong = Vec::new();
    let instead = refusals(&page)
        .into_iter()
        .filter_map(|[_, _, instead]| code(instead));
    let queries: Vec<&str> = working(&page)
        .into_iter()
        .chain(instead.filter(|text| is_query(text)))
        .collect();
    assert!(queries.len() > 60, "{} queries", queries.len());
    for sql in queries {
        let rows = match plan(&session.state(), sql).await {
            Ok(planned) => run(&planned, &session.runtime_env())
                .await
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = rows {
            wrong.push(format!("{sql}\n    {error}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The text in quotes that the code begins with: its parts between what is put into it.
fn literal(code: &str) -> Vec<String> {
    let text = code.strip_prefix('"').and_then(|rest| rest.split('"').next());
    let parts = text
        .unwrap_or_default()
        .split('{')
        .map(|part| part.rsplit('}').next().unwrap_or(part));
    parts.filter(|part| part.len() > 3).map(str::to_owned).collect()
}

/// The names that the code gives to what it refuses.
fn names_in_code() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/planner/statement");
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        // The name is the first argument of one and the second of the other, where it is a text.
        for call in text.split("Refusal::new(").skip(1) {
            names.extend(literal(call.trim_start()));
        }
        for call in text.split("let what = ").skip(1) {
            names.extend(literal(call.trim_start_matches("format!(").trim_start()));
        }
        for call in text.split("absent(").skip(1) {
            let before = call.split([';', '{', '"']).next().unwrap_or_default();
            names.extend(literal(&call[before.len()..]));
        }
    }
    names
}

#[test]
fn the_page_names_all_that_is_refused() {
    let page = page();
    let names = names_in_code();
    assert!(names.len() > 60, "{names:?}");
    let missing: Vec<_> = names
        .iter()
        .filter(|name| !page.contains(name.as_str()))
        .collect();
    assert!(missing.is_empty(), "docs/sql.md does not name: {missing:?}");
}

/// The page with the list of names behind a marker.
fn with_list(page: &str, marker: &str, names: &BTreeSet<String>) -> String {
    let marker = format!("<!-- {marker} -->\n");
    let (before, after) = page.split_once(&marker).expect("the page has its markers");
    let after = after.trim_start_matches('\n');
    let end = after.find("\n\n").unwrap_or(after.len());
    let is_list = after.starts_with('`');
    let rest = if is_list {
        after[end..].trim_start_matches('\n')
    } else {
        after
    };
    let mut lines = vec![String::new()];
    for name in names {
        let line = lines.last_mut().unwrap();
        if line.len() + name.len() > 115 {
            lines.push(format!("`{name}`"));
        } else if line.is_empty() {
            line.push_str(&format!("`{name}`"));
        } else {
            line.push_str(&format!(" `{name}`"));
        }
    }
    let space = if rest.is_empty() { "" } else { "\n" };
    format!("{before}{marker}\n{}\n{space}{rest}", lines.join("\n"))
}

#[tokio::test]
async fn the_page_lists_the_functions() {
    let bench = Bench::new().await;
    let state = session(&bench).await.state();
    let lists: [(&str, BTreeSet<String>); 4] = [
        (
            "functions of rows",
            state.scalar_functions().keys().cloned().collect(),
        ),
        (
            "functions of groups",
            state.aggregate_functions().keys().cloned().collect(),
        ),
        (
            "functions of windows",
            state.window_functions().keys().cloned().collect(),
        ),
        (
            "functions in FROM",
            state.table_functions().keys().cloned().collect(),
        ),
    ];
    let found = page();
    let mut wanted = found.clone();
    for (marker, names) in lists {
        wanted = with_list(&wanted, marker, &names);
    }
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(page_path(), &wanted).unwrap();
    }
    assert!(
        found == wanted,
        "docs/sql.md lists other functions: run this test with {WRITE}=1"
    );
}
