//! Rows of the TPC-H tables (TPC-H specification 3.0.1, clause 4.2) as Arrow batches, and how many there are.

use std::ops::RangeInclusive;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use sluice_crds::shuffle_query::{MAX_SCALE_FACTOR, TpchTable};
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RegionArrow,
    SupplierArrow,
};

/// Smallest scale factor. Far below it a table that others refer to would have no rows, which the rules that
/// generate the keys do not allow.
pub const MIN_SCALE_FACTOR: f64 = 0.001;

/// Rows that one part aims at: some hundred milliseconds of work.
const ROWS_PER_PART: u64 = 300_000;
/// Rows below which a part is not worth a task.
const MIN_ROWS_PER_PART: u64 = 10_000;
/// Most parts of one table; what is larger gets larger parts.
const MAX_PARTS: u64 = 1024;
/// Lines of an order on average: 1 to 7, evenly distributed.
const LINES_PER_ORDER: u64 = 4;
/// Suppliers of each part.
const SUPPLIERS_PER_PART: u64 = 4;

/// Whether tables of this scale factor can be generated.
pub fn is_scale_factor(scale_factor: f64) -> bool {
    const SCALE_FACTORS: RangeInclusive<f64> = MIN_SCALE_FACTOR..=MAX_SCALE_FACTOR;
    SCALE_FACTORS.contains(&scale_factor)
}

/// Rows of a table, and whether the count is exact: that of lineitem is an expectation.
pub fn row_count(table: TpchTable, scale_factor: f64) -> (u64, bool) {
    let scaled = |rows: i64| u64::try_from(rows).unwrap_or(0);
    match table {
        TpchTable::Nation => (25, true),
        TpchTable::Region => (5, true),
        TpchTable::Customer => (
            scaled(CustomerGenerator::calculate_row_count(scale_factor, 1, 1)),
            true,
        ),
        TpchTable::Orders => (
            scaled(OrderGenerator::calculate_row_count(scale_factor, 1, 1)),
            true,
        ),
        TpchTable::Part => (
            scaled(PartGenerator::calculate_row_count(scale_factor, 1, 1)),
            true,
        ),
        TpchTable::Supplier => (
            scaled(SupplierGenerator::calculate_row_count(scale_factor, 1, 1)),
            true,
        ),
        TpchTable::Partsupp => (
            row_count(TpchTable::Part, scale_factor).0 * SUPPLIERS_PER_PART,
            true,
        ),
        TpchTable::Lineitem => (
            row_count(TpchTable::Orders, scale_factor).0 * LINES_PER_ORDER,
            false,
        ),
    }
}

/// How many parts a table is read in, at least 1: at least `partitions` if the table is large enough, and more
/// where a part would be too long.
pub fn plan_parts(table: TpchTable, scale_factor: f64, partitions: usize) -> u32 {
    let (rows, _) = row_count(table, scale_factor);
    let wanted = u64::try_from(partitions)
        .unwrap_or(MAX_PARTS)
        .min(rows / MIN_ROWS_PER_PART);
    let parts = rows.div_ceil(ROWS_PER_PART).max(wanted).clamp(1, MAX_PARTS);
    u32::try_from(parts).unwrap_or(1)
}

/// Columns of a table.
pub fn schema(table: TpchTable) -> SchemaRef {
    match table {
        TpchTable::Customer => CustomerArrow::schema_ref(),
        TpchTable::Lineitem => LineItemArrow::schema_ref(),
        TpchTable::Nation => NationArrow::schema_ref(),
        TpchTable::Orders => OrderArrow::schema_ref(),
        TpchTable::Part => PartArrow::schema_ref(),
        TpchTable::Partsupp => PartSuppArrow::schema_ref(),
        TpchTable::Region => RegionArrow::schema_ref(),
        TpchTable::Supplier => SupplierArrow::schema_ref(),
    }
}

/// Bytes of the comment of a row on average; it is the only long column.
pub fn comment_bytes(table: TpchTable) -> usize {
    match table {
        TpchTable::Customer => 73,
        TpchTable::Lineitem => 27,
        TpchTable::Nation => 74,
        TpchTable::Orders => 49,
        TpchTable::Part => 14,
        TpchTable::Partsupp => 124,
        TpchTable::Region => 66,
        TpchTable::Supplier => 63,
    }
}

/// The batches of one part.
pub type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>;

/// Part `part` (from 0) of `parts` of a table in batches of `batch_rows` rows. The parts in their order hold the rows
/// of the table in its order. A part that the table does not have is empty.
///
/// The first call in a process builds a pool of text (300 MiB, about a second of work) and blocks meanwhile.
pub fn batches(table: TpchTable, scale_factor: f64, part: u32, parts: u32, batch_rows: usize) -> Batches {
    let batch_rows = batch_rows.max(1);
    // The generators count parts from 1; those of the two fixed tables ignore parts and always give all rows.
    let fixed = matches!(table, TpchTable::Nation | TpchTable::Region);
    let (Ok(number), Ok(parts)) = (i32::try_from(u64::from(part) + 1), i32::try_from(parts)) else {
        return Box::new(std::iter::empty());
    };
    if !is_scale_factor(scale_factor) || number > parts || (fixed && part > 0) {
        return Box::new(std::iter::empty());
    }
    macro_rules! generate {
        ($generator:ident, $arrow:ident) => {
            Box::new($arrow::new($generator::new(scale_factor, number, parts)).with_batch_size(batch_rows))
        };
    }
    match table {
        TpchTable::Customer => generate!(CustomerGenerator, CustomerArrow),
        TpchTable::Lineitem => generate!(LineItemGenerator, LineItemArrow),
        TpchTable::Nation => generate!(NationGenerator, NationArrow),
        TpchTable::Orders => generate!(OrderGenerator, OrderArrow),
        TpchTable::Part => generate!(PartGenerator, PartArrow),
        TpchTable::Partsupp => generate!(PartSuppGenerator, PartSuppArrow),
        TpchTable::Region => generate!(RegionGenerator, RegionArrow),
        TpchTable::Supplier => generate!(SupplierGenerator, SupplierArrow),
    }
}
