//! The stages of one session, within the limits of one query and of the worker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sluice_core::failure::{AttemptFailure, BadInputKind, Resource};
use sluice_core::ids::StageId;
use sluice_core::limits::{TooLarge, check_fragment_bytes, check_partitions, check_stages};

use crate::stage_template::StageTemplate;

/// The bytes of encoded stages that all sessions of a worker may keep together. Clones share the budget.
#[derive(Debug, Clone)]
pub(super) struct FragmentBudget {
    used: Arc<AtomicU64>,
    limit: u64,
}

impl FragmentBudget {
    pub(super) fn new(limit: u64) -> Self {
        Self {
            used: Arc::default(),
            limit,
        }
    }

    pub(super) fn reserve(&self, bytes: u64) -> Result<(), AttemptFailure> {
        let within = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, within);
        taken.map(|_| ()).map_err(|used| AttemptFailure::ResourcesExhausted {
            resource: Resource::Plans,
            message: format!(
                "the plans of all queries at this worker have {used} bytes, and this one would bring {bytes} more than \
                 the {} that it keeps: lower maxConcurrentQueries of the pool, or raise workers.memory",
                self.limit
            ),
        })
    }

    pub(super) fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A stage, or why its attempts fail.
type StageResult = Result<Arc<StageTemplate>, AttemptFailure>;

/// The stages that a session has defined.
pub(super) struct SessionStages {
    known: BTreeMap<StageId, (u64, StageResult)>,
    bytes: u64,
    budget: FragmentBudget,
}

impl SessionStages {
    pub(super) fn new(budget: &FragmentBudget) -> Self {
        Self {
            known: BTreeMap::new(),
            bytes: 0,
            budget: budget.clone(),
        }
    }

    /// Adds an encoded stage, or replaces it if it was defined before.
    ///
    /// # Errors
    /// The failure of all its attempts.
    pub(super) fn define(&mut self, stage: StageId, encoded: &[u8]) -> Result<(), AttemptFailure> {
        self.forget(stage);
        check_stages(self.known.len() as u64 + 1).map_err(|error| too_large(&error))?;
        let bytes = encoded.len() as u64;
        let taken = self.reserve(bytes);
        let known = taken.and_then(|()| {
            self.bytes += bytes;
            decode(encoded).inspect_err(|_| self.release(bytes))
        });
        let kept = if known.is_ok() { bytes } else { 0 };
        let failure = known.as_ref().err().cloned();
        self.known.insert(stage, (kept, known));
        failure.map_or(Ok(()), Err)
    }

    /// The stage of an attempt.
    ///
    /// # Errors
    /// The failure of the attempt.
    pub(super) fn get(&self, stage: StageId) -> StageResult {
        match self.known.get(&stage) {
            Some((_, known)) => known.clone(),
            None => {
                check_stages(self.known.len() as u64 + 1).map_err(|error| too_large(&error))?;
                Err(AttemptFailure::Refused {
                    message: "the stage's fragment is unknown".to_owned(),
                })
            }
        }
    }

    fn reserve(&self, bytes: u64) -> Result<(), AttemptFailure> {
        check_fragment_bytes(self.bytes.saturating_add(bytes)).map_err(|error| too_large(&error))?;
        self.budget.reserve(bytes)
    }

    fn release(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.budget.release(bytes);
    }

    fn forget(&mut self, stage: StageId) {
        if let Some((bytes, _)) = self.known.remove(&stage) {
            self.release(bytes);
        }
    }
}

impl Drop for SessionStages {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
    }
}

fn decode(encoded: &[u8]) -> StageResult {
    let template = StageTemplate::decode(encoded).map_err(|error| AttemptFailure::Refused {
        message: format!("the stage's fragment cannot be decoded by this build: {error}"),
    })?;
    check_partitions(template.output.partitions).map_err(|error| too_large(&error))?;
    Ok(Arc::new(template))
}

/// The failure for a stage that no worker accepts.
fn too_large(error: &TooLarge) -> AttemptFailure {
    AttemptFailure::BadInput {
        kind: BadInputKind::UnsupportedPlan,
        message: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use sluice_core::limits::{MAX_FRAGMENT_BYTES, MAX_PARTITIONS, MAX_STAGES};
    use sluice_core::plan::ExchangeKind;
    use sluice_crds::shuffle_query::Compression;

    use super::*;
    use crate::planner::{Fragment, OutputSpec};

    fn encoded(plan_bytes: usize, partitions: u32) -> bytes::Bytes {
        let template = StageTemplate {
            fragment: Fragment {
                plan: vec![1; plan_bytes],
                ..Fragment::default()
            },
            output: OutputSpec {
                kind: ExchangeKind::Hash,
                keys: Vec::new(),
                partitions,
            },
            compression: Compression::None,
            sink: None,
            filters: Vec::new(),
        };
        template.encode().expect("it encodes")
    }

    fn is_too_large(result: Result<impl Sized, AttemptFailure>) -> bool {
        let kind = BadInputKind::UnsupportedPlan;
        matches!(result.err(), Some(AttemptFailure::BadInput { kind: of, .. }) if of == kind)
    }

    #[test]
    fn a_session_keeps_so_many_stages_and_bytes_of_them_and_no_more() {
        let budget = FragmentBudget::new(u64::MAX);
        let mut stages = SessionStages::new(&budget);
        for stage in 0..MAX_STAGES {
            assert_eq!(stages.define(StageId(stage), &encoded(1, 1)), Ok(()));
        }
        assert!(is_too_large(stages.define(StageId(MAX_STAGES), &encoded(1, 1))));
        assert!(is_too_large(stages.get(StageId(MAX_STAGES))));
        assert!(stages.get(StageId(0)).is_ok(), "what was there is there");
        assert_eq!(stages.define(StageId(0), &encoded(2, 1)), Ok(()), "told again");

        let mut stages = SessionStages::new(&budget);
        let half = usize::try_from(MAX_FRAGMENT_BYTES / 2).expect("it fits") - 100;
        assert_eq!(stages.define(StageId(0), &encoded(half, 1)), Ok(()));
        assert_eq!(stages.define(StageId(1), &encoded(half, 1)), Ok(()));
        assert!(is_too_large(stages.define(StageId(2), &encoded(half, 1))));
        assert!(is_too_large(stages.get(StageId(2))));
        // A stage that is told again counts once, and what was refused takes nothing.
        for _ in 0..3 {
            assert_eq!(stages.define(StageId(1), &encoded(half, 1)), Ok(()));
        }
    }

    #[test]
    fn a_stage_with_more_partitions_than_any_exchange_has_is_refused() {
        let mut stages = SessionStages::new(&FragmentBudget::new(u64::MAX));
        assert_eq!(stages.define(StageId(0), &encoded(1, MAX_PARTITIONS)), Ok(()));
        for partitions in [MAX_PARTITIONS + 1, u32::MAX] {
            assert!(is_too_large(stages.define(StageId(1), &encoded(1, partitions))));
            assert!(is_too_large(stages.get(StageId(1))));
        }
    }

    #[test]
    fn sessions_share_a_budget_and_give_it_back_with_their_end() {
        let budget = FragmentBudget::new(1_000);
        let (mut one, mut two) = (SessionStages::new(&budget), SessionStages::new(&budget));
        assert_eq!(one.define(StageId(0), &encoded(600, 1)), Ok(()));
        let short = two.define(StageId(0), &encoded(600, 1));
        let Err(AttemptFailure::ResourcesExhausted {
            resource: Resource::Plans,
            message,
        }) = short
        else {
            panic!("{short:?}");
        };
        assert!(message.contains("maxConcurrentQueries"), "{message}");
        assert!(two.get(StageId(0)).is_err());
        assert!(
            two.define(StageId(0), b"\xff\x01").is_err(),
            "what cannot be decoded"
        );
        drop(one);
        assert_eq!(two.define(StageId(0), &encoded(900, 1)), Ok(()));
        drop(two);
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }
}
