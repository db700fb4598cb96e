//! Every kind of operator and expression that fragments can hold is made by a query here, encoded, decoded and found to
//! be what it was; or it is known why no query makes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_ipc::writer::FileWriter;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::execution::options::{ArrowReadOptions, JsonReadOptions};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{CsvReadOptions, SessionContext};
use datafusion_proto::physical_plan::{DeduplicatingProtoConverter, PhysicalProtoConverterExtension};
use datafusion_proto::protobuf::physical_expr_node::ExprType;
use datafusion_proto::protobuf::physical_plan_node::PhysicalPlanType;

use super::super::codec::FragmentCodec;
use super::super::scan::ScanExec;
use super::super::{fragment, plan, round_trip, window};
use super::harness::Bench;
use crate::source::tpch::TpchTable;

/// The names of all variants, and that of one. A variant that a new version adds does not compile until it is here.
macro_rules! kinds {
    ($all:ident, $of:ident, $type:ident, $($kind:ident),* $(,)?) => {
        const $all: &[&str] = &[$(stringify!($kind)),*];

        fn $of(message: &$type) -> &'static str {
            match message {
                $($type::$kind(_) => stringify!($kind)),*
            }
        }
    };
}

kinds!(
    OPERATORS,
    operator_kind,
    PhysicalPlanType,
    ParquetScan,
    CsvScan,
    Empty,
    Projection,
    GlobalLimit,
    LocalLimit,
    Aggregate,
    HashJoin,
    Sort,
    CoalesceBatches,
    Filter,
    Merge,
    Repartition,
    Window,
    CrossJoin,
    AvroScan,
    Extension,
    Union,
    Explain,
    SortPreservingMerge,
    NestedLoopJoin,
    Analyze,
    JsonSink,
    SymmetricHashJoin,
    Interleave,
    PlaceholderRow,
    CsvSink,
    ParquetSink,
    Unnest,
    JsonScan,
    Cooperative,
    GenerateSeries,
    SortMergeJoin,
    MemoryScan,
    AsyncFunc,
    Buffer,
    ArrowScan,
    ScalarSubquery,
);

kinds!(
    EXPRESSIONS,
    expression_kind,
    ExprType,
    Column,
    Literal,
    BinaryExpr,
    AggregateExpr,
    IsNullExpr,
    IsNotNullExpr,
    NotExpr,
    Case,
    Cast,
    Sort,
    Negative,
    InList,
    TryCast,
    WindowExpr,
    ScalarUdf,
    LikeExpr,
    Extension,
    UnknownColumn,
    HashExpr,
    ScalarSubquery,
    DynamicFilter,
    HigherOrderUdf,
    Lambda,
    LambdaVariable,
    RangeExpr,
);

/// Operators of ours, in extensions.
const OURS: &[&str] = &[
    "ShuffleReadExec",
    "ScanExec",
    "RecursiveQueryExec",
    "WorkTablePlaceholder",
    "BoundedWindowAggExec",
    "WindowAggExec",
    "OpaqueExec",
    "TpchScanExec",
];

/// Kinds that no query makes, with the reason.
const NEVER: &[(&str, &str)] = &[
    ("CoalesceBatches", "DataFusion's rules make none any more"),
    ("Repartition", "a cut takes its place"),
    ("Window", "our own message carries them whole"),
    ("AvroScan", "no table is of this format"),
    ("Explain", "not a query"),
    ("Analyze", "not a query"),
    ("JsonSink", "not a query"),
    ("CsvSink", "not a query"),
    ("ParquetSink", "not a query"),
    ("SymmetricHashJoin", "tables have an end"),
    ("Interleave", "a union in one task takes its place"),
    ("Cooperative", "every leaf yields of its own"),
    ("SchemaExec", "DataFusion's unions cast their inputs"),
    ("AsyncFunc", "no function is asynchronous"),
    ("Buffer", "switched off"),
    (
        "ScalarSubquery",
        "switched off: it hands its value over in memory",
    ),
    ("Negative expression", "a checked function takes its place"),
    ("AggregateExpr expression", "within an aggregate"),
    ("WindowExpr expression", "within a window"),
    ("Sort expression", "within a sort"),
    ("UnknownColumn expression", "of partitionings that are cut"),
    ("HashExpr expression", "of dynamic filters"),
    ("RangeExpr expression", "of range partitionings, which are cut"),
    ("HigherOrderUdf expression", "our dialect has no lambdas"),
    ("Lambda expression", "our dialect has no lambdas"),
    ("LambdaVariable expression", "our dialect has no lambdas"),
    ("Extension", "by their own names"),
    ("Extension expression", "we have none of our own"),
    (
        "ScalarSubquery expression",
        "switched off: it hands its value over in memory",
    ),
];

const QUERIES: &[&str] = &[
    "SELECT id, -k AS n, k IS NULL AS a, k IS NOT NULL AS b, NOT ends_with(s, 'a') AS c FROM big WHERE s LIKE '%1%' OR k IN (1, 2, 3, 5, 8, 13)",
    "SELECT CASE WHEN k > 3 THEN 'a' ELSE s END AS c, CAST(k AS DOUBLE) AS d, TRY_CAST(s AS INT) AS t, upper(s) FROM big",
    "SELECT id, unnest(l) AS x FROM big",
    "SELECT g, sum(d) FILTER (WHERE k > 3), count(DISTINCT k) FROM big GROUP BY g",
    "SELECT g, k, count(*) FROM big WHERE g = 1 GROUP BY ROLLUP (g, k)",
    "SELECT * FROM generate_series(1, 10)",
    "SELECT x FROM (VALUES (1), (2)) v(x)",
    "SELECT 1 AS one",
    "SELECT id FROM big WHERE false",
    "SELECT id FROM big ORDER BY d, id",
    "SELECT id FROM big ORDER BY d, id LIMIT 10 OFFSET 3",
    "SELECT id FROM big LIMIT 10 OFFSET 3",
    "SELECT a.id FROM big a JOIN mid b ON a.k = b.k AND a.d > b.d",
    "SELECT a.id FROM big a LEFT JOIN (SELECT k, 5 AS c FROM mid) b ON a.k = b.k ORDER BY b.c",
    "SELECT a.id FROM tiny a CROSS JOIN mid b",
    "SELECT a.id FROM tiny a JOIN mid b ON a.k < b.k",
    "SELECT id FROM big UNION ALL SELECT k FROM mid",
    "SELECT k FROM big UNION SELECT k FROM mid",
    "SELECT id, s FROM big UNION ALL SELECT id, 'x' FROM mid",
    "SELECT g, count(*) FROM (SELECT g FROM big UNION ALL SELECT id FROM mid) GROUP BY g",
    "SELECT g, sum(n) FROM (SELECT g, count(*) AS n FROM big GROUP BY g UNION ALL SELECT g, count(*) FROM mid GROUP BY g)
     GROUP BY g",
    "SELECT max(id) FROM big WHERE d > (SELECT avg(d) FROM mid)",
    "SELECT count(*) FROM big b WHERE EXISTS (SELECT 1 FROM mid m WHERE m.k = b.k) OR b.id = 1",
    "SELECT id, row_number() OVER (PARTITION BY g ORDER BY id) AS n, sum(id) OVER () AS t FROM big",
    "WITH RECURSIVE n(v) AS (SELECT 1 UNION ALL SELECT v + 1 FROM n JOIN tiny t ON t.id = n.v) SELECT v FROM n",
    "WITH RECURSIVE n(v) AS (SELECT id FROM big UNION SELECT (v * 2) % 11 FROM n) SELECT v FROM n",
    "SELECT id FROM of_csv WHERE id > 3 LIMIT 2",
    "SELECT id FROM of_json WHERE id > 3 LIMIT 2",
    "SELECT id FROM of_arrow WHERE id > 3 LIMIT 2",
    "SELECT id FROM big TABLESAMPLE BERNOULLI (30) REPEATABLE (4)",
    "SELECT id FROM of_csv TABLESAMPLE SYSTEM (30) REPEATABLE (4)",
    "SELECT l_orderkey, count(*) FROM lineitem WHERE l_quantity > 3 GROUP BY l_orderkey",
];

/// Queries of which a stage knows less or more of its rows when it is decoded: the nullability of a column, the input of
/// a window function without what other functions add, the casts of a recursive query's terms.
const DERIVED: &[&str] = &[
    "SELECT id FROM big UNION ALL SELECT k FROM mid",
    "SELECT id, s FROM big UNION ALL SELECT id, 'x' FROM mid",
    "SELECT id, row_number() OVER (PARTITION BY g ORDER BY id) AS n, sum(id) OVER () AS t FROM big",
    "WITH RECURSIVE n(v) AS (SELECT 1 UNION ALL SELECT v + 1 FROM n JOIN tiny t ON t.id = n.v) SELECT v FROM n",
    "WITH RECURSIVE n(v) AS (SELECT id FROM big UNION SELECT (v * 2) % 11 FROM n) SELECT v FROM n",
];

/// Sessions of several kinds over the tables.
async fn sessions(bench: &Bench, folder: &str) -> Vec<SessionContext> {
    let mut sessions = Vec::new();
    for (partitions, options) in [
        (1, &[][..]),
        (3, &[]),
        (3, &[("datafusion.optimizer.prefer_hash_join", "false")]),
        (
            3,
            &[("datafusion.optimizer.hash_join_single_partition_threshold", "0")],
        ),
    ] {
        let session = bench.session(partitions, options).await;
        register_formats(&session, folder).await;
        let lineitem = TpchTable::new(sluice_crds::shuffle_query::TpchTable::Lineitem, 0.01).unwrap();
        session.register_table("lineitem", Arc::new(lineitem)).unwrap();
        sessions.push(session);
    }
    sessions
}

/// Tables `of_csv`, `of_json` and `of_arrow` of files in `folder`.
pub(super) async fn register_formats(session: &SessionContext, folder: &str) {
    let csv = format!("{folder}/rows.csv");
    std::fs::write(&csv, text_rows(|id| format!("{id},{}\n", id % 7), "id,s\n")).unwrap();
    session
        .register_csv("of_csv", &csv, CsvReadOptions::new())
        .await
        .unwrap();
    let json = format!("{folder}/rows.json");
    std::fs::write(&json, text_rows(|id| format!("{{\"id\": {id}}}\n"), "")).unwrap();
    session
        .register_json("of_json", &json, JsonReadOptions::default())
        .await
        .unwrap();
    let arrow = format!("{folder}/rows.arrow");
    write_arrow(session, &arrow).await;
    session
        .register_arrow("of_arrow", &arrow, ArrowReadOptions::default())
        .await
        .unwrap();
}

fn text_rows(line: impl Fn(u32) -> String, header: &str) -> String {
    let lines = (0..3000).map(line);
    header.to_owned() + &lines.collect::<String>()
}

async fn write_arrow(session: &SessionContext, path: &str) {
    let rows = session.sql("SELECT id, g FROM mid ORDER BY id").await.unwrap();
    let batches = rows.collect().await.unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = FileWriter::try_new(file, &batches[0].schema()).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.finish().unwrap();
}

#[derive(Default)]
struct Seen {
    kinds: BTreeSet<String>,
    /// Queries that have a stage of which the whole debug form is another one after decoding.
    changed: BTreeMap<&'static str, String>,
}

impl Seen {
    fn operator(&mut self, node: &Arc<dyn ExecutionPlan>) {
        let slots = window::with_placeholders(node).unwrap();
        let message = DeduplicatingProtoConverter {}
            .execution_plan_to_proto(&slots, &FragmentCodec)
            .unwrap();
        let kind = operator_kind(&message.physical_plan_type.unwrap());
        match kind {
            "Extension" => self.kinds.insert(node.name().to_owned()),
            kind => self.kinds.insert(kind.to_owned()),
        };
        node.apply_expressions(&mut |expression| {
            self.expression(expression);
            Ok(TreeNodeRecursion::Continue)
        })
        .unwrap();
        if let Some(scan) = node.downcast_ref::<ScanExec>() {
            self.operator(scan.source());
        }
    }

    fn expression(&mut self, expression: &Arc<dyn PhysicalExpr>) {
        expression
            .apply(|part| {
                let message = DeduplicatingProtoConverter {}
                    .physical_expr_to_proto(part, &FragmentCodec)
                    .unwrap();
                let kind = expression_kind(&message.expr_type.unwrap());
                self.kinds.insert(format!("{kind} expression"));
                Ok(TreeNodeRecursion::Continue)
            })
            .unwrap();
    }

    fn compare(
        &mut self,
        sql: &'static str,
        plan: &Arc<dyn ExecutionPlan>,
        decoded: &Arc<dyn ExecutionPlan>,
    ) {
        let (before, after) = (debug_form(plan), debug_form(decoded));
        if before != after {
            let at = before
                .bytes()
                .zip(after.bytes())
                .position(|(one, two)| one != two);
            let at = at.unwrap_or_default().saturating_sub(60);
            let part = |text: &str| text.chars().skip(at).take(200).collect::<String>();
            self.changed
                .insert(sql, format!("{}\n   {}", part(&before), part(&after)));
        }
    }
}

/// All of a plan, but the names of tables, which are for people.
fn debug_form(plan: &Arc<dyn ExecutionPlan>) -> String {
    let text = format!("{plan:?}");
    let mut parts = text.split("table: Some(\"");
    let mut form = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.split_once("\")").map_or(part, |(_, rest)| rest);
        form.push_str("table: None");
        form.push_str(rest);
    }
    form
}

#[tokio::test]
async fn every_kind_of_operator_and_expression_travels() {
    let bench = Bench::new().await;
    let mut seen = Seen::default();
    let folder = tempfile::tempdir().unwrap();
    for session in sessions(&bench, folder.path().to_str().unwrap()).await {
        let state = session.state();
        for sql in QUERIES {
            // Planning compares every stage with what its fragment decodes to.
            let planned = plan(&state, sql)
                .await
                .unwrap_or_else(|error| panic!("{sql}: {error}"));
            for stage in &planned.stages {
                let decoded = fragment::decode_empty(&stage.fragment, &state.task_ctx()).unwrap();
                round_trip::check(&stage.plan, &decoded).unwrap();
                seen.compare(sql, &stage.plan, &decoded);
                stage
                    .plan
                    .apply(|node| {
                        seen.operator(node);
                        Ok(TreeNodeRecursion::Continue)
                    })
                    .unwrap();
            }
        }
    }
    let never: BTreeSet<&str> = NEVER.iter().map(|(kind, _)| *kind).collect();
    let operators = OPERATORS.iter().chain(OURS).map(|kind| (*kind).to_owned());
    let expressions = EXPRESSIONS.iter().map(|kind| format!("{kind} expression"));
    let missing: Vec<String> = operators
        .chain(expressions)
        .filter(|kind| !seen.kinds.contains(kind) && !never.contains(kind.as_str()))
        .collect();
    let made: Vec<&String> = seen
        .kinds
        .iter()
        .filter(|kind| never.contains(kind.as_str()))
        .collect();
    seen.changed.retain(|sql, _| !DERIVED.contains(sql));
    assert!(seen.changed.is_empty(), "{:#?}", seen.changed);
    assert!(
        missing.is_empty() && made.is_empty(),
        "no query has {missing:?}; some query has {made:?}"
    );
}
