//! Which inputs may be split. That their shards together have the same rows is shown by every query of these tests: the harness
//! splits all of them.

use super::super::plan;
use super::adaptive_joins::SHUFFLED;
use super::harness::Bench;

/// Of the stage that joins or groups, the inputs that may be split.
#[tokio::test]
async fn stages_say_which_inputs_may_be_split() {
    let bench = Bench::new().await;
    let session = bench.session(3, SHUFFLED).await;
    let mut told = String::new();
    for (sql, expected) in [
        (
            "SELECT a.id FROM big a JOIN mid b ON a.k = b.k",
            &[true, true][..],
        ),
        (
            "SELECT a.id, b.id FROM big a FULL JOIN mid b ON a.k = b.k",
            &[false, false],
        ),
        ("SELECT k, count(*) FROM big GROUP BY k", &[false]),
        ("SELECT DISTINCT k FROM big", &[false]),
        (
            "SELECT k, rank() OVER (PARTITION BY k ORDER BY id) FROM big",
            &[false],
        ),
        (
            "SELECT a.id, random() FROM big a JOIN mid b ON a.k = b.k",
            &[false, false],
        ),
    ] {
        let planned = plan(&session.state(), sql).await.unwrap();
        let stage = planned
            .graph
            .stages
            .iter()
            .rfind(|stage| !stage.inputs.is_empty())
            .unwrap();
        let may: Vec<bool> = stage.inputs.iter().map(|input| input.may_split).collect();
        if may != expected {
            told.push_str(&format!("{sql}: {may:?}\n"));
        }
    }
    assert_eq!(told, "");
    // Of an outer, semi or anti join, the side whose rows find their matches one by one.
    for sql in [
        "SELECT a.id, b.id FROM big a LEFT JOIN mid b ON a.k = b.k",
        "SELECT a.id, b.id FROM big a RIGHT JOIN mid b ON a.k = b.k",
        "SELECT a.id FROM big a WHERE k IN (SELECT k FROM mid)",
        "SELECT a.id FROM big a WHERE NOT EXISTS (SELECT 1 FROM mid b WHERE a.k = b.k)",
    ] {
        let planned = plan(&session.state(), sql).await.unwrap();
        let join = planned.graph.stages.last().unwrap();
        let may = join.inputs.iter().filter(|input| input.may_split).count();
        assert_eq!((may, join.inputs.len()), (1, 2), "{sql}");
    }
}

/// What is merged by map task has as many map tasks as were planned.
#[tokio::test]
async fn what_is_merged_in_order_is_not_split() {
    let bench = Bench::new().await;
    let session = bench.session(3, SHUFFLED).await;
    let sql = "SELECT a.id, b.id FROM big a JOIN mid b ON a.k = b.k ORDER BY a.id, b.id";
    let planned = plan(&session.state(), sql).await.unwrap();
    assert!(planned.graph.ordered);
    let mut inputs = planned.graph.stages.iter().flat_map(|stage| &stage.inputs);
    assert!(inputs.all(|input| !input.may_split), "{:?}", planned.graph);
}
