//! Queries of others over tables of others, TPC-DS for one, compared with plain DataFusion and DuckDB in every shape.
//!
//! `SLUICE_GENERATOR_FOLDER` names a folder: below `tables/` it has a folder of Parquet files for each table, and below
//! `queries/` a file of SQL for each query. Where nobody names one, the queries are some over generated tables.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sluice_crds::shuffle_query::FileFormat;

use super::duckdb;
use super::engine::{Bench, Fleets, SHAPES};
use super::suite::{Asked, Suite, Verdict, shape_name};
use super::tables::Database;
use crate::differential::tables::of_files;
use crate::harness::Tables;

/// The names in a folder, in order.
fn names(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

fn tables(base: &Path) -> Tables {
    let paths = names(base);
    let names = paths.iter().filter_map(|path| path.file_name()?.to_str());
    Tables {
        specs: names.map(|name| of_files(name, FileFormat::Parquet)).collect(),
        base: base.to_owned(),
    }
}

/// A folder with tables and queries as one that somebody names has them.
fn example(folder: &Path) {
    let queries = folder.join("queries");
    fs::create_dir_all(&queries).expect("a folder can be made");
    Database::of_seed(1).write(&folder.join("tables"));
    for (name, sql) in [
        ("count.sql", "SELECT k, count(*) FROM a GROUP BY k ORDER BY k"),
        ("join.sql", "SELECT a.id, b.id FROM a LEFT JOIN b ON a.k = b.k;\n"),
    ] {
        fs::write(queries.join(name), sql).expect("a file can be written");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_of_a_folder() {
    let own = tempfile::tempdir().expect("a temporary folder can be made");
    let named = std::env::var_os("SLUICE_GENERATOR_FOLDER").map(PathBuf::from);
    if named.is_none() {
        example(own.path());
    }
    let folder = named.as_deref().unwrap_or(own.path());
    let mut suite = Suite {
        fleets: Fleets::start().await,
        duckdb: duckdb(),
        defect: None,
    };
    let all: Vec<usize> = (0..SHAPES.len()).collect();
    let bench = Bench::over(tables(&folder.join("tables")), &all).await;
    suite.load(&bench);
    let (mut findings, mut agreed) = (Vec::new(), 0);
    let mut nothing: BTreeMap<String, u64> = BTreeMap::new();
    for path in names(&folder.join("queries")) {
        let sql = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        match suite.examine(&bench, &Asked::text(&sql), &all).await {
            Verdict::Agreed(_) => agreed += 1,
            Verdict::Nothing(kind) => *nothing.entry(kind).or_default() += 1,
            Verdict::Found(found) => {
                let shape = shape_name(found.shape);
                let told = format!(
                    "{}, {shape}\n{}\n{sql}\n{}",
                    path.display(),
                    found.kind,
                    found.told
                );
                eprintln!("\n{told}\n");
                findings.push(told);
            }
        }
    }
    suite.fleets.stop().await;
    println!(
        "{agreed} agreed, {} findings, nothing compared: {nothing:#?}",
        findings.len()
    );
    assert!(findings.is_empty(), "{}", findings.join("\n\n"));
    assert!(agreed > 0 && (named.is_some() || agreed == 2), "{nothing:#?}");
}
