//! The delivery position of a query's result. A reader that fails is replaced by one that reads everything again, so the
//! cursor decides which rows are new: each row is delivered once, and rows of two attempts of a task never mix.

use std::collections::BTreeMap;

use crate::ids::{AttemptId, TaskId};

/// Rows delivered to the client, by root task. An attempt's rows come in the same order each time they are read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResultCursor {
    tasks: BTreeMap<TaskId, Rows>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rows {
    attempt: AttemptId,
    /// Rows of the attempt that were delivered.
    delivered: u64,
    /// Rows of the attempt that the current reader has read.
    read: u64,
    /// Whether all rows of the attempt were delivered. The task then needs no other attempt.
    complete: bool,
}

/// Some rows of this attempt were delivered, and the rest cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartiallyDelivered(pub AttemptId);

impl ResultCursor {
    /// Starts over with a new reader.
    pub fn restart(&mut self) {
        for rows in self.tasks.values_mut() {
            rows.read = 0;
        }
    }

    /// Advances past rows that were read of an attempt. Returns how many of them, counted from the first, were delivered
    /// before; the caller delivers the others.
    ///
    /// # Errors
    /// Some rows of another attempt of the task were delivered, but not all.
    pub fn take(&mut self, attempt: AttemptId, rows: u64) -> Result<u64, PartiallyDelivered> {
        let task = self.task(attempt);
        if task.complete {
            return Ok(rows);
        }
        task.replace(attempt)?;
        let before = task.delivered.saturating_sub(task.read).min(rows);
        task.read = task.read.saturating_add(rows);
        task.delivered = task.delivered.max(task.read);
        Ok(before)
    }

    /// Records that all rows of an attempt were read.
    ///
    /// # Errors
    /// Some rows of another attempt of the task were delivered, but not all.
    pub fn end(&mut self, attempt: AttemptId) -> Result<(), PartiallyDelivered> {
        let task = self.task(attempt);
        if !task.complete {
            task.replace(attempt)?;
            task.complete = true;
        }
        Ok(())
    }

    /// Whether some but not all rows of this attempt were delivered. The query then needs the rest of this very attempt.
    pub fn is_partially_delivered(&self, attempt: AttemptId) -> bool {
        let task = self.tasks.get(&attempt.task_id());
        task.is_some_and(|rows| rows.attempt == attempt && rows.delivered > 0 && !rows.complete)
    }

    /// Discards an attempt whose stage started over: none of its rows count.
    ///
    /// # Errors
    /// Rows of the attempt were delivered.
    pub fn supersede(&mut self, attempt: AttemptId) -> Result<(), PartiallyDelivered> {
        let task = self.tasks.get(&attempt.task_id());
        let Some(rows) = task.filter(|rows| rows.attempt == attempt) else {
            return Ok(());
        };
        if rows.delivered > 0 {
            return Err(PartiallyDelivered(attempt));
        }
        self.tasks.remove(&attempt.task_id());
        Ok(())
    }

    fn task(&mut self, attempt: AttemptId) -> &mut Rows {
        self.tasks.entry(attempt.task_id()).or_insert(Rows {
            attempt,
            delivered: 0,
            read: 0,
            complete: false,
        })
    }
}

impl Rows {
    /// Switches to another attempt, unless rows of the current one were delivered.
    fn replace(&mut self, attempt: AttemptId) -> Result<(), PartiallyDelivered> {
        if self.attempt != attempt && self.delivered > 0 {
            return Err(PartiallyDelivered(self.attempt));
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
        let mut cursor = ResultCursor::default();
        assert_eq!(cursor.take(attempt(0, 0), 10), Ok(0));
        assert_eq!(cursor.take(attempt(0, 0), 5), Ok(0));
        cursor.restart();
        // Frames may come in other batches.
        assert_eq!(cursor.take(attempt(0, 0), 12), Ok(12));
        assert_eq!(cursor.take(attempt(0, 0), 8), Ok(3));
        cursor.restart();
        assert_eq!(cursor.take(attempt(0, 0), 30), Ok(20));
        assert_eq!(cursor.end(attempt(0, 0)), Ok(()));
    }

    #[test]
    fn a_second_reader_that_fails_early_takes_nothing_back() {
        let mut cursor = ResultCursor::default();
        assert_eq!(cursor.take(attempt(0, 0), 10), Ok(0));
        cursor.restart();
        assert_eq!(cursor.take(attempt(0, 0), 4), Ok(4));
        cursor.restart();
        assert_eq!(cursor.take(attempt(0, 0), 12), Ok(10));
    }

    #[test]
    fn only_an_attempt_of_which_a_part_has_left_is_needed() {
        let mut cursor = ResultCursor::default();
        assert_eq!(cursor.take(attempt(0, 0), 10), Ok(0));
        assert_eq!(cursor.take(attempt(1, 0), 10), Ok(0));
        assert_eq!(cursor.end(attempt(1, 0)), Ok(()));
        assert!(cursor.is_partially_delivered(attempt(0, 0)));
        assert!(!cursor.is_partially_delivered(attempt(0, 1)));
        assert!(
            !cursor.is_partially_delivered(attempt(1, 0)),
            "all of it has left"
        );
        assert!(!cursor.is_partially_delivered(attempt(2, 0)), "it was not read");
        cursor.restart();
        assert!(
            cursor.is_partially_delivered(attempt(0, 0)),
            "a new reader changes nothing"
        );
    }

    #[test]
    fn an_attempt_that_was_read_to_its_end_is_not_needed_by_a_second_reader_either() {
        let mut cursor = ResultCursor::default();
        assert_eq!(cursor.take(attempt(0, 0), 10), Ok(0));
        assert_eq!(cursor.end(attempt(0, 0)), Ok(()));
        cursor.restart();
        assert_eq!(cursor.take(attempt(0, 0), 4), Ok(4));
        // The second reader has read a part of it only and fails.
        assert!(!cursor.is_partially_delivered(attempt(0, 0)));
        cursor.restart();
        assert_eq!(
            cursor.take(attempt(0, 1), 10),
            Ok(10),
            "the next reader may read its successor instead"
        );
        assert!(!cursor.is_partially_delivered(attempt(0, 1)));
        assert_eq!(cursor.end(attempt(0, 1)), Ok(()));
    }

    #[test]
    fn rows_of_two_attempts_do_not_mix() {
        let mut cursor = ResultCursor::default();
        assert_eq!(cursor.take(attempt(0, 0), 10), Ok(0));
        cursor.restart();
        assert_eq!(
            cursor.take(attempt(0, 1), 10),
            Err(PartiallyDelivered(attempt(0, 0)))
        );
        assert_eq!(cursor.end(attempt(0, 1)), Err(PartiallyDelivered(attempt(0, 0))));
        // Where all rows of one have left, what another one brings is dropped.
        assert_eq!(cursor.end(attempt(0, 0)), Ok(()));
        assert_eq!(cursor.take(attempt(0, 1), 10), Ok(10));
        assert_eq!(cursor.end(attempt(0, 1)), Ok(()));
    }

    #[test]
    fn rows_that_count_no_more_must_not_have_left() {
        let mut cursor = ResultCursor::default();
        assert_eq!(cursor.take(attempt(0, 0), 10), Ok(0));
        assert_eq!(cursor.end(attempt(0, 0)), Ok(()));
        assert_eq!(cursor.end(attempt(1, 0)), Ok(()));
        assert_eq!(cursor.supersede(attempt(2, 0)), Ok(()), "it was not read");
        assert_eq!(cursor.supersede(attempt(0, 1)), Ok(()), "it was not read");
        assert_eq!(cursor.supersede(attempt(1, 0)), Ok(()), "it had no rows");
        assert_eq!(
            cursor.supersede(attempt(0, 0)),
            Err(PartiallyDelivered(attempt(0, 0)))
        );
        assert_eq!(
            cursor.take(attempt(1, 1), 3),
            Ok(0),
            "those of its next run leave"
        );
    }
}
