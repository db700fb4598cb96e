use super::*;

fn relation(rows: f64, base_rows: f64) -> Relation {
    Relation { rows, base_rows }
}

fn class(members: &[usize], domain: f64) -> KeyClass {
    let members = members.iter().map(|member| RelationSet::of(*member));
    KeyClass {
        members: members.fold(RelationSet::default(), RelationSet::with),
        domain,
    }
}

fn leaf(index: usize) -> JoinTree {
    JoinTree::Relation(index)
}

/// As written: one after the other.
fn left_deep(count: usize) -> JoinTree {
    (1..count).fold(leaf(0), |tree, index| tree.join(leaf(index)))
}

fn problem(relations: Vec<Relation>, classes: Vec<KeyClass>) -> JoinProblem {
    JoinProblem {
        written: left_deep(relations.len()),
        relations,
        classes,
        conditions: Vec::new(),
        max_cost_ratio: 1.0,
    }
}

/// TPC-H q05: customer, orders (of a year), lineitem, supplier, nation, region (one of five).
fn local_suppliers() -> JoinProblem {
    problem(
        vec![
            relation(150_000.0, 150_000.0),
            relation(225_000.0, 1_500_000.0),
            relation(6_000_000.0, 6_000_000.0),
            relation(10_000.0, 10_000.0),
            relation(25.0, 25.0),
            relation(1.0, 5.0),
        ],
        vec![
            class(&[0, 1], 150_000.0),
            class(&[1, 2], 1_500_000.0),
            class(&[2, 3], 10_000.0),
            class(&[0, 3, 4], 25.0),
            class(&[4, 5], 5.0),
        ],
    )
}

#[test]
fn the_most_selective_relations_are_joined_first() {
    let order = solve(&local_suppliers()).expect("another order");
    assert!(order.cost < order.written_cost / 3.0, "{order:?}");
    // Region and nation leave five nations, and those a fifth of customers and suppliers, before a line is joined.
    let nations = leaf(5).join(leaf(4));
    let orders = nations.join(leaf(0)).join(leaf(1));
    let lines = orders.join(leaf(2));
    assert_eq!(order.tree, leaf(3).join(lines));
}

#[test]
fn two_keys_of_one_table_are_one_key() {
    let problem = problem(
        vec![
            relation(6_000_000.0, 6_000_000.0),
            relation(800_000.0, 800_000.0),
            relation(10_000.0, 10_000.0),
        ],
        vec![class(&[0, 1], 200_000.0), class(&[0, 1, 2], 10_000.0)],
    );
    let set = RelationSet::of(0).with(RelationSet::of(1));
    assert!((cardinality::rows(&problem, set) - 6_000_000.0).abs() < 1.0);
}

#[test]
fn rows_of_a_set_are_those_of_its_keys_and_conditions() {
    let mut problem = problem(
        vec![
            relation(100.0, 1_000.0),
            relation(5_000.0, 5_000.0),
            relation(10.0, 10.0),
        ],
        vec![class(&[0, 1], 1_000.0), class(&[1, 2], 10.0)],
    );
    let set = |bits| RelationSet(bits);
    for (bits, rows) in [(1, 100.0), (3, 500.0), (6, 5_000.0), (7, 500.0), (5, 1_000.0)] {
        assert!(
            (cardinality::rows(&problem, set(bits)) - rows).abs() < 1e-6,
            "{bits}"
        );
    }
    problem.conditions.push(Condition {
        relations: set(3),
        selectivity: 0.1,
    });
    assert!((cardinality::rows(&problem, set(3)) - 50.0).abs() < 1e-6);
    assert!((cardinality::rows(&problem, set(6)) - 5_000.0).abs() < 1e-6);
}

#[test]
fn the_order_of_the_text_stays_unless_another_one_is_much_cheaper() {
    let mut problem = local_suppliers();
    let order = solve(&problem).expect("another order");
    problem.max_cost_ratio = order.cost / order.written_cost * 0.99;
    assert_eq!(solve(&problem), None);
    problem.max_cost_ratio = 1.0;
    problem.written = order.tree;
    assert_eq!(solve(&problem), None, "it is the best one already");
}

#[test]
fn relations_without_a_key_between_them_are_left_alone() {
    let relations = vec![relation(10.0, 10.0); 3];
    assert_eq!(
        solve(&problem(relations.clone(), vec![class(&[0, 1], 10.0)])),
        None
    );
    assert_eq!(
        solve(&problem(relations[..2].to_vec(), vec![class(&[0, 1], 10.0)])),
        None
    );
    let long = vec![relation(10.0, 10.0); MAX_RELATIONS + 1];
    assert_eq!(solve(&problem(long, Vec::new())), None);
}

#[test]
fn a_long_chain_is_ordered_too_and_every_relation_is_joined_once() {
    for count in (3..=12).chain([20, MAX_RELATIONS]) {
        let relations = (0..count).map(|index| {
            let rows = 1_000.0 * (count - index) as f64;
            relation(rows, rows)
        });
        // A star: all of them join the first.
        let classes = (1..count).map(|index| class(&[0, index], 1_000.0 * (count - index) as f64));
        let problem = problem(relations.collect(), classes.collect());
        let Some(order) = solve(&problem) else { continue };
        let mut leaves = Vec::new();
        collect(&order.tree, &mut leaves);
        leaves.sort_unstable();
        assert_eq!(leaves, (0..count).collect::<Vec<_>>());
        assert!(order.cost <= order.written_cost, "{count}");
        assert_eq!(
            solve(&problem),
            Some(order),
            "the same problem has the same answer"
        );
    }
}

fn collect(tree: &JoinTree, leaves: &mut Vec<usize>) {
    match tree {
        JoinTree::Relation(index) => leaves.push(*index),
        JoinTree::Join(left, right) => {
            collect(left, leaves);
            collect(right, leaves);
        }
    }
}
