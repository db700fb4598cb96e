//! Which rows go to which partition. All tasks of a query must agree, so the hash is DataFusion's.

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::metrics::Time;
use datafusion::physical_plan::repartition::BatchPartitioner;

/// How rows find their partition.
#[derive(Debug, Clone)]
pub enum Partitioning {
    /// By the hash of these expressions.
    Hash {
        keys: Vec<Arc<dyn PhysicalExpr>>,
        /// At least 1.
        partitions: u32,
    },
    /// All rows to partition 0, in their order (forward and broadcast exchanges).
    Single,
}

impl Partitioning {
    /// How many partitions there are.
    pub fn partitions(&self) -> u32 {
        match self {
            Self::Hash { partitions, .. } => *partitions,
            Self::Single => 1,
        }
    }
}

/// Splits batches by partition.
pub struct Partitioner {
    /// `None` when there is nothing to split.
    splitter: Option<BatchPartitioner>,
}

impl Partitioner {
    /// # Errors
    ///
    /// If there are no partitions.
    pub fn new(partitioning: &Partitioning) -> Result<Self> {
        if partitioning.partitions() == 0 {
            return Err(DataFusionError::Plan("an exchange has no partitions".to_owned()));
        }
        let time = Time::new();
        let splitter = match partitioning {
            Partitioning::Hash { keys, partitions } => Some(BatchPartitioner::new_hash_partitioner(
                keys.clone(),
                *partitions as usize,
                time,
            )?),
            Partitioning::Single => None,
        };
        Ok(Self { splitter })
    }

    /// The batch's rows by partition; partitions without rows are omitted.
    ///
    /// # Errors
    ///
    /// If the keys cannot be computed.
    pub fn split(&mut self, batch: RecordBatch) -> Result<Vec<(u32, RecordBatch)>> {
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        let Some(splitter) = &mut self.splitter else {
            return Ok(vec![(0, batch)]);
        };
        let mut parts = Vec::new();
        splitter.partition(batch, |partition, part| {
            if part.num_rows() > 0 {
                let partition = u32::try_from(partition)
                    .map_err(|_| DataFusionError::Internal(format!("partition {partition}")))?;
                parts.push((partition, part));
            }
            Ok(())
        })?;
        Ok(parts)
    }
}
