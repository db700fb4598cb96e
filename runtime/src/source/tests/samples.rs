//! The samples are what a newcomer runs first: each is valid, and its tables can be read as its SQL reads them.

use super::*;
use crate::sink::Sink;
use sluice_crds::ShuffleQuery;
use sluice_crds::parse::{Resource, parse_documents};
use sluice_crds::validate::{validate_pool, validate_query};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/samples")
}

/// The query of a sample, which may hold pools beside it.
fn sample(path: &Path) -> ShuffleQuery {
    let text = fs::read_to_string(path).unwrap();
    let resources = parse_documents(&text).unwrap().into_iter();
    let mut queries = resources.filter_map(|resource| match resource {
        Resource::Query(query) => Some(*query),
        Resource::Pool(pool) => {
            assert_eq!(validate_pool(&pool), [], "{}", path.display());
            None
        }
    });
    match (queries.next(), queries.next()) {
        (Some(query), None) => query,
        other => panic!("{}: {other:?}", path.display()),
    }
}

async fn plan(query: &ShuffleQuery) -> SessionContext {
    let manifest = InputManifest::list(&query.spec.tables, &folder()).await.unwrap();
    let session = session(&manifest);
    register_tables(&session, &query.spec.tables, &manifest)
        .await
        .unwrap();
    session
}

#[tokio::test]
async fn every_sample_is_valid_and_plans() {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let query = sample(&path);
        assert_eq!(validate_query(&query), [], "{}", path.display());
        assert_eq!(
            query.metadata.name.as_deref(),
            path.file_stem().and_then(|stem| stem.to_str())
        );
        let frame = plan(&query)
            .await
            .sql(query.spec.sql.as_deref().unwrap())
            .await
            .unwrap();
        let schema = Arc::clone(frame.schema().inner());
        frame.create_physical_plan().await.unwrap();
        if let Some(sink) = &query.spec.sink {
            Sink::new(sink, &folder())
                .unwrap()
                .check_columns(&schema)
                .unwrap();
        }
        names.push(query.metadata.name.unwrap());
    }
    names.sort();
    assert_eq!(
        names,
        [
            "csv",
            "lifecycle",
            "placement",
            "sink",
            "spill",
            "tpch-join",
            "tpch-pricing-summary",
            "worker-pool",
            "workers"
        ]
    );
}

#[tokio::test]
async fn the_csv_sample_has_these_rows() {
    let query = sample(&folder().join("csv.yaml"));
    let session = plan(&query).await;
    assert_eq!(
        rows(&session, query.spec.sql.as_deref().unwrap()).await,
        [
            "| Graz | 0 | | |",
            "| Lima | 2 | 16.0 | 18.4 |",
            "| Oslo | 3 | -7.2 | 1.0 |",
        ]
    );
}
