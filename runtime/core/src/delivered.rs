//! What of a query's result has left it. A reader that failed is followed by another one, which reads everything again:
//! each row must leave once, and rows of two attempts of a task must not mix.

use std::collections::BTreeMap;

use crate::ids::{AttemptId, TaskId};

/// Rows that have left the query, by root task. What comes of an attempt comes in the same order each time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivered {
    tasks: BTreeMap<TaskId, Rows>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rows {
    attempt: AttemptId,
    /// Rows of the attempt that have left.
    left: u64,
    /// Rows of it that the reader at work has read.
    read: u64,
    /// Whether all of its rows have left: then no other attempt is needed, whatever becomes of it.
    complete: bool,
}

/// Rows of this attempt have left the query and those that follow them will not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowsLeft(pub AttemptId);

impl Delivered {
    /// Another reader begins.
    pub fn restart(&mut self) {
        for rows in self.tasks.values_mut() {
            rows.read = 0;
        }
    }

    /// Takes rows that were read of an attempt. Answers how many of them, counted from the first, have left before; the
    /// others leave now.
    ///
    /// # Errors
    /// Rows of another attempt of the task have left, but not all.
    pub fn take(&mut self, attempt: AttemptId, rows: u64) -> Result<u64, RowsLeft> {
        let task = self.task(attempt);
        if task.complete {
            return Ok(rows);
        }
        task.replace(attempt)?;
        let before = task.left.saturating_sub(task.read).min(rows);
        task.read = task.read.saturating_add(rows);
        task.left = task.left.max(task.read);
        Ok(before)
    }

    /// Takes the end of an attempt's rows.
    ///
    /// # Errors
    /// Rows of another attempt of the task have left, but not all.
    pub fn end(&mut self, attempt: AttemptId) -> Result<(), RowsLeft> {
        let task = self.task(attempt);
        if !task.complete {
            task.replace(attempt)?;
            task.complete = true;
        }
        Ok(())
    }

    /// Whether rows of this attempt have left and the rest of them is still to come, so that the query needs it.
    pub fn has_part_of(&self, attempt: AttemptId) -> bool {
        let task = self.tasks.get(&attempt.task_id());
        task.is_some_and(|rows| rows.attempt == attempt && rows.left > 0 && !rows.complete)
    }

    /// Takes note that no row of this attempt counts, not even if all were read.
    ///
    /// # Errors
    /// Rows of it have left.
    pub fn supersede(&mut self, attempt: AttemptId) -> Result<(), RowsLeft> {
        let task = self.tasks.get(&attempt.task_id());
        let Some(rows) = task.filter(|rows| rows.attempt == attempt) else {
            return Ok(());
        };
        if rows.left > 0 {
            return Err(RowsLeft(attempt));
        }
        self.tasks.remove(&attempt.task_id());
        Ok(())
    }

    fn task(&mut self, attempt: AttemptId) -> &mut Rows {
        self.tasks.entry(attempt.task_id()).or_insert(Rows {
            attempt,
            left: 0,
            read: 0,
            complete: false,
        })
    }
}

impl Rows {
    /// Goes over to an attempt, unless rows of another one have left.
    fn replace(&mut self, attempt: AttemptId) -> Result<(), RowsLeft> {
        if self.attempt != attempt && self.left > 0 {
            return Err(RowsLeft(self.attempt));
        }
        self.attempt = attempt;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{StageEpoch, StageId};

    fn attempt(task: u32, attempt: u32) -> AttemptId {
        AttemptId {
            stage: StageId(1),
            stage_epoch: StageEpoch(0),
            task,
            attempt,
        }
    }

    #[test]
    fn a_row_leaves_once_however_often_it_is_read() {
        let mut delivered = Delivered::default();
        assert_eq!(delivered.take(attempt(0, 0), 10), Ok(0));
        assert_eq!(delivered.take(attempt(0, 0), 5), Ok(0));
        delivered.restart();
        // Frames may come in other batches.
        assert_eq!(delivered.take(attempt(0, 0), 12), Ok(12));
        assert_eq!(delivered.take(attempt(0, 0), 8), Ok(3));
        delivered.restart();
        assert_eq!(delivered.take(attempt(0, 0), 30), Ok(20));
        assert_eq!(delivered.end(attempt(0, 0)), Ok(()));
    }

    #[test]
    fn a_second_reader_that_fails_early_takes_nothing_back() {
        let mut delivered = Delivered::default();
        assert_eq!(delivered.take(attempt(0, 0), 10), Ok(0));
        delivered.restart();
        assert_eq!(delivered.take(attempt(0, 0), 4), Ok(4));
        delivered.restart();
        assert_eq!(delivered.take(attempt(0, 0), 12), Ok(10));
    }

    #[test]
    fn only_an_attempt_of_which_a_part_has_left_is_needed() {
        let mut delivered = Delivered::default();
        assert_eq!(delivered.take(attempt(0, 0), 10), Ok(0));
        assert_eq!(delivered.take(attempt(1, 0), 10), Ok(0));
        assert_eq!(delivered.end(attempt(1, 0)), Ok(()));
        assert!(delivered.has_part_of(attempt(0, 0)));
        assert!(!delivered.has_part_of(attempt(0, 1)));
        assert!(!delivered.has_part_of(attempt(1, 0)), "all of it has left");
        assert!(!delivered.has_part_of(attempt(2, 0)), "it was not read");
        delivered.restart();
        assert!(
            delivered.has_part_of(attempt(0, 0)),
            "a new reader changes nothing"
        );
    }

    #[test]
    fn an_attempt_that_was_read_to_its_end_is_not_needed_by_a_second_reader_either() {
        let mut delivered = Delivered::default();
        assert_eq!(delivered.take(attempt(0, 0), 10), Ok(0));
        assert_eq!(delivered.end(attempt(0, 0)), Ok(()));
        delivered.restart();
        assert_eq!(delivered.take(attempt(0, 0), 4), Ok(4));
        // The second reader has read a part of it only and fails.
        assert!(!delivered.has_part_of(attempt(0, 0)));
        delivered.restart();
        assert_eq!(
            delivered.take(attempt(0, 1), 10),
            Ok(10),
            "the next reader may read its successor instead"
        );
        assert!(!delivered.has_part_of(attempt(0, 1)));
        assert_eq!(delivered.end(attempt(0, 1)), Ok(()));
    }

    #[test]
    fn rows_of_two_attempts_do_not_mix() {
        let mut delivered = Delivered::default();
        assert_eq!(delivered.take(attempt(0, 0), 10), Ok(0));
        delivered.restart();
        assert_eq!(delivered.take(attempt(0, 1), 10), Err(RowsLeft(attempt(0, 0))));
        assert_eq!(delivered.end(attempt(0, 1)), Err(RowsLeft(attempt(0, 0))));
        // Where all rows of one have left, what another one brings is dropped.
        assert_eq!(delivered.end(attempt(0, 0)), Ok(()));
        assert_eq!(delivered.take(attempt(0, 1), 10), Ok(10));
        assert_eq!(delivered.end(attempt(0, 1)), Ok(()));
    }

    #[test]
    fn rows_that_count_no_more_must_not_have_left() {
        let mut delivered = Delivered::default();
        assert_eq!(delivered.take(attempt(0, 0), 10), Ok(0));
        assert_eq!(delivered.end(attempt(0, 0)), Ok(()));
        assert_eq!(delivered.end(attempt(1, 0)), Ok(()));
        assert_eq!(delivered.supersede(attempt(2, 0)), Ok(()), "it was not read");
        assert_eq!(delivered.supersede(attempt(0, 1)), Ok(()), "it was not read");
        assert_eq!(delivered.supersede(attempt(1, 0)), Ok(()), "it had no rows");
        assert_eq!(delivered.supersede(attempt(0, 0)), Err(RowsLeft(attempt(0, 0))));
        assert_eq!(
            delivered.take(attempt(1, 1), 3),
            Ok(0),
            "those of its next run leave"
        );
    }
}
