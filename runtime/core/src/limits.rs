//! How large a query may be. The planner refuses a larger one before it runs. A worker refuses what exceeds the limits,
//! whoever sends it, since one query must not take down a process that other queries share.

/// Stages of one query.
pub const MAX_STAGES: u32 = 1024;

/// Bytes of all encoded stages of one query, plans and all.
pub const MAX_FRAGMENT_BYTES: u64 = 64 << 20;

/// Partitions of one exchange.
pub const MAX_PARTITIONS: u32 = sluice_crds::shuffle_query::MAX_PARTITIONS;

/// Tasks of one query. It bounds the tables of the coordinator.
pub const MAX_TASKS: u64 = 1 << 20;

/// Streams that one attempt reads: the partitions that it reads of each map task, where an exchange that is read twice counts
/// twice. It bounds the tables of the reader.
pub const MAX_STREAMS_PER_ATTEMPT: u64 = 1 << 20;

/// Streams that one fetch asks for: a reader of one partition has one of each map task.
pub const MAX_STREAMS_PER_FETCH: usize = 256;

/// Attempts that the messages of one session may name, each message counted: more than a query of [`MAX_TASKS`] needs,
/// fewer than a worker has memory to remember.
pub const MAX_ATTEMPTS_PER_SESSION: u64 = 4 << 20;

/// Map tasks whose outputs the messages of one session may name: more than a query of [`MAX_TASKS`] has, also where layouts have
/// split partitions.
pub const MAX_MAP_OUTPUTS_PER_SESSION: usize = 2 << 20;

/// The part of a worker's memory that the stages of all its sessions may take.
pub const FRAGMENT_MEMORY_DIVISOR: u64 = 8;

/// Bytes of encoded stages that a worker with so much memory keeps for all its sessions together: at least those of one.
pub fn worker_fragment_bytes(memory_bytes: u64) -> u64 {
    (memory_bytes / FRAGMENT_MEMORY_DIVISOR).max(MAX_FRAGMENT_BYTES)
}

/// Why a query is too large.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    /// More than [`MAX_STAGES`].
    #[error(
        "the query has {0} stages, more than {MAX_STAGES}: make several queries of it, or join, group and unite \
         less often"
    )]
    Stages(u64),
    /// More than [`MAX_FRAGMENT_BYTES`].
    #[error(
        "the plans of the query's stages have {0} bytes, more than {MAX_FRAGMENT_BYTES}: write shorter lists and \
         expressions, or make several queries of it"
    )]
    FragmentBytes(u64),
    /// More than [`MAX_PARTITIONS`].
    #[error(
        "an exchange of the query has {0} partitions, more than {MAX_PARTITIONS}: lower shuffle.partitions"
    )]
    Partitions(u32),
    /// More than [`MAX_TASKS`].
    #[error("the query has {0} tasks, more than {MAX_TASKS}: lower shuffle.partitions")]
    Tasks(u64),
    /// More than [`MAX_STREAMS_PER_ATTEMPT`].
    #[error(
        "a task of the query reads {0} streams, more than {MAX_STREAMS_PER_ATTEMPT}: lower shuffle.partitions"
    )]
    Streams(u64),
}

/// Checks a sum of encoded stages.
///
/// # Errors
///
/// It is too large.
pub fn check_fragment_bytes(bytes: u64) -> Result<(), TooLarge> {
    if bytes > MAX_FRAGMENT_BYTES {
        return Err(TooLarge::FragmentBytes(bytes));
    }
    Ok(())
}

/// Checks a number of stages.
///
/// # Errors
///
/// There are too many.
pub fn check_stages(stages: u64) -> Result<(), TooLarge> {
    if stages > u64::from(MAX_STAGES) {
        return Err(TooLarge::Stages(stages));
    }
    Ok(())
}

/// Checks the partitions of an exchange.
///
/// # Errors
///
/// There are too many.
pub fn check_partitions(partitions: u32) -> Result<(), TooLarge> {
    if partitions > MAX_PARTITIONS {
        return Err(TooLarge::Partitions(partitions));
    }
    Ok(())
}

/// Checks the tasks of a graph.
///
/// # Errors
///
/// There are too many.
pub fn check_tasks(tasks: u64) -> Result<(), TooLarge> {
    if tasks > MAX_TASKS {
        return Err(TooLarge::Tasks(tasks));
    }
    Ok(())
}

/// Checks what one attempt reads: the map tasks of each input, and the partitions that it takes of each of them.
///
/// # Errors
///
/// There are too many streams.
pub fn check_streams(inputs: impl IntoIterator<Item = (u64, u64)>) -> Result<(), TooLarge> {
    let streams = inputs
        .into_iter()
        .map(|(tasks, partitions)| tasks.saturating_mul(partitions));
    let streams = streams.fold(0, u64::saturating_add);
    if streams > MAX_STREAMS_PER_ATTEMPT {
        return Err(TooLarge::Streams(streams));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_as_large_as_it_may_be_passes_and_one_more_does_not() {
        assert_eq!(check_stages(1024), Ok(()));
        assert_eq!(check_stages(1025), Err(TooLarge::Stages(1025)));
        assert_eq!(check_fragment_bytes(64 << 20), Ok(()));
        let bytes = (64 << 20) + 1;
        assert_eq!(check_fragment_bytes(bytes), Err(TooLarge::FragmentBytes(bytes)));
        assert_eq!(check_partitions(65_536), Ok(()));
        assert_eq!(check_partitions(65_537), Err(TooLarge::Partitions(65_537)));
        assert_eq!(check_tasks(1 << 20), Ok(()));
        assert_eq!(check_tasks((1 << 20) + 1), Err(TooLarge::Tasks((1 << 20) + 1)));
        assert_eq!(check_streams([(1 << 19, 1), (1 << 18, 2)]), Ok(()));
        let streams = (1 << 20) + 1;
        assert_eq!(
            check_streams([(1 << 20, 1), (1, 1)]),
            Err(TooLarge::Streams(streams))
        );
        assert_eq!(check_streams([(u64::MAX, 2)]), Err(TooLarge::Streams(u64::MAX)));
    }

    #[test]
    fn a_worker_keeps_an_eighth_of_its_memory_for_plans_and_at_least_those_of_one_query() {
        assert_eq!(worker_fragment_bytes(8 << 30), 1 << 30);
        assert_eq!(worker_fragment_bytes(1 << 20), MAX_FRAGMENT_BYTES);
    }

    #[test]
    fn messages_say_what_to_do() {
        let message = TooLarge::Partitions(70_000).to_string();
        assert!(
            message.contains("70000") && message.contains("shuffle.partitions"),
            "{message}"
        );
    }
}
