//! DuckDB as a second opinion: the Python package, in a virtual environment below the target folder.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value as Json, json};

use super::judge::Cell;
use crate::harness::kept_folder;

/// The version whose rows are compared.
const VERSION: &str = "1.5.6";

/// One process that answers queries.
pub struct DuckDb {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl DuckDb {
    /// Starts it. Installs it first if necessary.
    ///
    /// # Errors
    /// DuckDB cannot be installed or started.
    pub fn start() -> Result<Self, String> {
        let python = installed()?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/generator/duckdb_rows.py");
        let mut child = Command::new(&python)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", python.display()))?;
        let requests = child.stdin.take().ok_or("no standard input")?;
        let answers = child.stdout.take().ok_or("no standard output")?;
        let mut duckdb = Self {
            child,
            requests,
            answers: BufReader::new(answers),
        };
        duckdb.rows("SELECT 1")?;
        Ok(duckdb)
    }

    /// The rows of a query.
    ///
    /// # Errors
    /// DuckDB's message.
    pub fn rows(&mut self, sql: &str) -> Result<Vec<Vec<Cell>>, String> {
        let failed = |error: &dyn std::fmt::Display| format!("no answer of DuckDB: {error}");
        writeln!(self.requests, "{}", json!({ "sql": sql })).map_err(|error| failed(&error))?;
        self.requests.flush().map_err(|error| failed(&error))?;
        let mut line = String::new();
        self.answers
            .read_line(&mut line)
            .map_err(|error| failed(&error))?;
        let answer: Json = serde_json::from_str(&line).map_err(|error| failed(&error))?;
        if let Some(error) = answer.get("error").and_then(Json::as_str) {
            return Err(error.to_owned());
        }
        let rows = answer.get("rows").and_then(Json::as_array).ok_or("no rows")?;
        let cells = |row: &Json| row.as_array().into_iter().flatten().map(cell).collect();
        Ok(rows.iter().map(cells).collect())
    }

    /// Reloads the tables in the folders of `base`.
    ///
    /// # Errors
    /// DuckDB's message.
    pub fn load<'a>(&mut self, base: &Path, tables: impl Iterator<Item = &'a str>) -> Result<(), String> {
        for table in tables {
            let files = base.join(table).join("*.parquet");
            self.rows(&format!(
                "CREATE OR REPLACE TABLE {table} AS SELECT * FROM read_parquet('{}')",
                files.display()
            ))?;
        }
        Ok(())
    }
}

impl Drop for DuckDb {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn cell(cell: &Json) -> Cell {
    match cell {
        Json::String(text) => Cell::Text(text.clone()),
        Json::Array(pair) => {
            let text = |place: usize| pair.get(place).and_then(Json::as_str).unwrap_or_default();
            match text(0) {
                "i" | "d" => Cell::exact(text(1)),
                "f" => Cell::Float(text(1).parse().expect("a float of Python")),
                _ => Cell::Text(text(1).to_owned()),
            }
        }
        _ => Cell::Null,
    }
}

/// The Python that has DuckDB. Concurrent tests, in other processes too, install it one at a time: each would delete
/// the unfinished installation of another.
fn installed() -> Result<PathBuf, String> {
    let kept = kept_folder("duckdb");
    let folder = kept.join(VERSION);
    let python = folder.join("bin/python");
    let ready = folder.join("ready");
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let turn = File::create(kept.join("installing")).map_err(failed)?;
    turn.lock().map_err(failed)?;
    if ready.exists() {
        return Ok(python);
    }
    command(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&folder),
    )?;
    let package = format!("duckdb=={VERSION}");
    command(Command::new(&python).args(["-m", "pip", "install", "--quiet", &package]))?;
    std::fs::write(&ready, "").map_err(failed)?;
    Ok(python)
}

fn command(command: &mut Command) -> Result<(), String> {
    let output = command.output();
    let output = output.map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "{:?} ended with {}: {}",
        command.get_program(),
        output.status,
        said.trim()
    ))
}
