//! Advice for an operator that ran out of memory, by the name of its memory consumer.

/// Advice for a consumer with this name, as DataFusion and the shuffle name them.
pub(super) fn advice(consumer: &str) -> &'static str {
    let is = |names: &[&str]| names.iter().any(|name| consumer.starts_with(name));
    if is(&["TopK", "PartitionedTopK"]) {
        "rows of ORDER BY with LIMIT stay in memory: a smaller LIMIT, fewer or shorter columns, more memory a slot \
         (raise workers.memory, or lower slots)"
    } else if is(&["HashJoinInput", "SymmetricHashJoin"]) {
        "the smaller side of a join, or the list of NOT IN, stays in memory: more memory a slot (raise workers.memory, \
         or lower slots), a larger shuffle.partitions, or NOT EXISTS in place of NOT IN"
    } else if is(&["NestedLoopJoin", "CrossJoin", "PiecewiseMergeJoin"]) {
        "one side of a join without an equality stays in memory: filter it before, join by an equality, or more memory \
         a slot (raise workers.memory, or lower slots)"
    } else if is(&["RecursiveQuery"]) {
        "the rows of a recursive query stay in memory: fewer rows, or more memory a slot (raise workers.memory, or \
         lower slots)"
    } else if is(&["AggregateStream"]) {
        "what an aggregate without GROUP BY collects stays in memory, distinct values or one long text: count(*) over \
         SELECT DISTINCT spills, or more memory a slot (raise workers.memory, or lower slots)"
    } else if consumer.contains("Aggregate") || consumer.contains("GroupedHash") {
        "groups, and the distinct values of each, that do not fit: a larger shuffle.partitions, or more memory a slot \
         (raise workers.memory, or lower slots)"
    } else if is(&["sink", "ParquetSink", "scan"]) {
        "rows that are read or written at once: more memory a slot (raise workers.memory, or lower slots)"
    } else {
        "raise workers.memory or shuffle.partitions, or lower slots"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_advised_can_help_the_operator_that_it_is_said_of() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            // A larger number of partitions makes no LIMIT smaller.
            ("TopK[0]", &["LIMIT", "workers.memory", "slots"], &["partitions"]),
            ("PartitionedTopKRank[3]", &["LIMIT"], &["partitions"]),
            ("HashJoinInput[0]", &["shuffle.partitions", "NOT EXISTS"], &[]),
            ("HashJoinInput", &["NOT IN"], &[]),
            ("NestedLoopJoinLoad[0]", &["equality"], &["partitions"]),
            ("CrossJoinExec", &["equality"], &["partitions"]),
            ("AggregateStream[0]", &["SELECT DISTINCT"], &["partitions"]),
            ("FinalHashAggregateStream[0]", &["shuffle.partitions"], &["LIMIT"]),
            (
                "GroupedHashAggregateStream[0] (count(x))",
                &["shuffle.partitions"],
                &["LIMIT"],
            ),
            ("RecursiveQuery", &["recursive"], &["partitions"]),
            ("shuffle write", &["workers.memory"], &[]),
            ("ExternalSorterMerge[0]", &["workers.memory"], &["LIMIT"]),
        ];
        for (consumer, said, unsaid) in cases {
            let advice = advice(consumer);
            for part in *said {
                assert!(advice.contains(part), "{consumer}: {advice}");
            }
            for part in *unsaid {
                assert!(!advice.contains(part), "{consumer}: {advice}");
            }
            assert!(
                advice.contains("workers.memory") && advice.contains("slots"),
                "{advice}"
            );
        }
    }
}
