//! Rows of Parquet in the form of events.
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, RecordBatch, StructArray};
use arrow::compute::{cast, is_not_null, nullif};
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use arrow::error::ArrowError;
use driftline_schemas::history::{FEATURE_PREFIX, TAG_PREFIX, TEXT_SUFFIX};

/// Times without a zone, as pandas writes them, are in UTC.
pub(super) fn in_utc(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns()).map(|(field, column)| match field.data_type() {
        DataType::Timestamp(unit, None) => {
            let kind = DataType::Timestamp(*unit, Some("UTC".into()));
            let column = cast(column, &kind)?;
            Ok((Arc::new(Field::clone(field).with_data_type(kind)), column))
        }
        _ => Ok((Arc::clone(field), Arc::clone(column))),
    });
    let (fields, columns): (Vec<FieldRef>, Vec<ArrayRef>) =
        columns.collect::<Result<Vec<_>, ArrowError>>()?.into_iter().unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

/// History's flat columns as an event has them: `feature_x` and `feature_x_text` are the feature x, `tag_x` is the tag x. Where
/// there is a column `features`, or `tags`, they are left as they are.
pub(super) fn nested(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    let are_flat = |object: &str| schema.column_with_name(object).is_none();
    let (flat_features, flat_tags) = (are_flat("features"), are_flat("tags"));
    let (mut columns, mut features, mut tags) = (Vec::new(), Vec::new(), Vec::new());
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        let name = field.name();
        match (name.strip_prefix(FEATURE_PREFIX), name.strip_prefix(TAG_PREFIX)) {
            (Some(feature_name), _) if flat_features => features.push(feature(batch, feature_name, column)?),
            (_, Some(tag_name)) if flat_tags => tags.push(entry(tag_name, Arc::clone(column))),
            _ => columns.push((Arc::clone(field), Arc::clone(column))),
        }
    }
    if features.is_empty() && tags.is_empty() {
        return Ok(batch.clone());
    }
    for (name, entries) in [("features", features), ("tags", tags)] {
        if entries.is_empty() {
            continue;
        }
        let (fields, values): (Vec<FieldRef>, Vec<ArrayRef>) = entries.into_iter().unzip();
        columns.push(entry(name, Arc::new(StructArray::try_new(fields.into(), values, None)?)));
    }
    let (fields, columns): (Vec<FieldRef>, Vec<ArrayRef>) = columns.into_iter().unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

/// A feature's numbers, or its texts where it has no number: what is null is not written, so each row has the name once.
fn feature(batch: &RecordBatch, name: &str, column: &ArrayRef) -> Result<(FieldRef, ArrayRef), ArrowError> {
    let Some(name) = name.strip_suffix(TEXT_SUFFIX).filter(|_| is_text(column.data_type())) else {
        return Ok(entry(name, Arc::clone(column)));
    };
    match batch.column_by_name(&format!("{FEATURE_PREFIX}{name}")) {
        Some(numbers) => Ok(entry(name, nullif(column, &is_not_null(numbers)?)?)),
        None => Ok(entry(name, Arc::clone(column))),
    }
}

/// As history has it, only texts have the suffix: a numeric `feature_x_text` is the feature `x_text`.
fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

pub(super) fn entry(name: &str, column: ArrayRef) -> (FieldRef, ArrayRef) {
    (Arc::new(Field::new(name, column.data_type().clone(), true)), column)
}
