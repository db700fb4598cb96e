//! Compaction of arrays: views and dictionaries refer to buffers that many batches may share, and would be sent with
//! all of them.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, BinaryViewArray, RecordBatch, RecordBatchOptions, StringViewArray,
    UInt64Array, make_array,
};
use arrow::buffer::Buffer;
use arrow::compute::take;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow_select::dictionary::garbage_collect_any_dictionary;

/// The same rows without unreferenced parts of shared buffers.
pub fn compact(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    each_column(batch, compact_array)
}

/// The same rows, with the bytes of views in one buffer per column. A decoded frame is one allocation, and DataFusion's
/// sort counts its capacity once for every view buffer.
pub fn gc_views(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    each_column(batch, |column| {
        Ok(match column.data_type() {
            DataType::Utf8View if column.as_string_view().data_buffers().len() > 1 => {
                Arc::new(column.as_string_view().gc())
            }
            DataType::BinaryView if column.as_binary_view().data_buffers().len() > 1 => {
                Arc::new(column.as_binary_view().gc())
            }
            _ => Arc::clone(column),
        })
    })
}

fn each_column(
    batch: &RecordBatch,
    change: impl Fn(&ArrayRef) -> Result<ArrayRef, ArrowError>,
) -> Result<RecordBatch, ArrowError> {
    if !batch
        .columns()
        .iter()
        .any(|column| may_share_buffers(column.data_type()))
    {
        return Ok(batch.clone());
    }
    let columns = batch.columns().iter().map(change);
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &options)
}

/// The bytes of a batch's rows, without those of sliced-off rows.
pub fn batch_bytes(batch: &RecordBatch) -> usize {
    let column_bytes = |column: &ArrayRef| {
        let data = column.to_data();
        let sliced = data.get_slice_memory_size();
        let views = match column.data_type() {
            DataType::Utf8View => column.as_string_view().total_buffer_bytes_used(),
            DataType::BinaryView => column.as_binary_view().total_buffer_bytes_used(),
            _ => nested_view_bytes(&data),
        };
        sliced.unwrap_or_else(|_| column.get_array_memory_size()) + views
    };
    batch.columns().iter().map(column_bytes).sum()
}

/// Bytes that nested views refer to: Arrow counts only the views themselves.
fn nested_view_bytes(data: &ArrayData) -> usize {
    let bytes_of = |child: &ArrayData| match child.data_type() {
        DataType::Utf8View | DataType::BinaryView => child.buffers().iter().skip(1).map(Buffer::len).sum(),
        _ => nested_view_bytes(child),
    };
    data.child_data().iter().map(bytes_of).sum()
}

/// Whether arrays of the type may refer to shared buffers.
fn may_share_buffers(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8View | DataType::BinaryView | DataType::Dictionary(_, _) => true,
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::FixedSizeList(field, _)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::Map(field, _)
        | DataType::RunEndEncoded(_, field) => may_share_buffers(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| may_share_buffers(field.data_type())),
        DataType::Union(fields, _) => fields
            .iter()
            .any(|(_, field)| may_share_buffers(field.data_type())),
        _ => false,
    }
}

fn compact_array(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match array.data_type() {
        DataType::Utf8View => Ok(compact_strings(array.as_string_view())),
        DataType::BinaryView => Ok(compact_binary(array.as_binary_view())),
        DataType::Dictionary(_, _) => {
            let compacted = garbage_collect_any_dictionary(array.as_any_dictionary())?;
            let values = compact_array(compacted.as_any_dictionary().values())?;
            Ok(compacted.as_any_dictionary().with_values(values))
        }
        nested if may_share_buffers(nested) => {
            // `take` of all rows trims the children to these rows, if Arrow supports it for the type. Then compact the
            // children themselves.
            let rows = UInt64Array::from_iter_values(0..array.len() as u64);
            let taken = take(array, &rows, None).unwrap_or_else(|_| Arc::clone(array));
            let data = taken.to_data();
            let children = data.child_data().iter().cloned();
            let children = children.map(|child| Ok(compact_array(&make_array(child))?.to_data()));
            let children = children.collect::<Result<Vec<_>, ArrowError>>()?;
            Ok(make_array(data.into_builder().child_data(children).build()?))
        }
        _ => Ok(Arc::clone(array)),
    }
}

/// Up to a fifth of waste is cheaper than a copy.
fn should_copy(used: usize, held: usize) -> bool {
    held > used + used / 4
}

fn compact_strings(array: &StringViewArray) -> ArrayRef {
    let held = array.data_buffers().iter().map(|buffer| buffer.len()).sum();
    if should_copy(array.total_buffer_bytes_used(), held) {
        Arc::new(array.gc())
    } else {
        Arc::new(array.clone())
    }
}

fn compact_binary(array: &BinaryViewArray) -> ArrayRef {
    let held = array.data_buffers().iter().map(|buffer| buffer.len()).sum();
    if should_copy(array.total_buffer_bytes_used(), held) {
        Arc::new(array.gc())
    } else {
        Arc::new(array.clone())
    }
}
