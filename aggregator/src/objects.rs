//! Reading and writing the Parquet objects that the aggregator deals in: raw, routed.
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use bytes::Bytes;
use driftline_schemas::clock::Micros;
use driftline_schemas::raw::{RawFooter, timestamp_type};
use driftline_schemas::window::Window;
use parquet::arrow::ArrowWriter;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use crate::error::Error;

/// One label on its way to a window.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelRow {
    /// Prediction id that it names.
    pub id: String,
    /// Its own time.
    pub time: Micros,
    /// Canonical class, or `None`: it withdraws.
    pub label: Option<String>,
    /// The label's number, if it is one.
    pub value: Option<f64>,
    /// The time of the prediction that it names, if it says.
    pub hint: Option<Micros>,
    /// Where it came from.
    pub position: LabelPosition,
}

/// A label's position; the order decides between labels of equal time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelPosition {
    /// Topic.
    pub topic: Arc<str>,
    /// Partition.
    pub partition: i64,
    /// Offset.
    pub offset: i64,
    /// Element of a JSON array.
    pub index: i64,
}

/// A label and the window it is to be judged with.
#[derive(Debug, Clone, PartialEq)]
pub struct RoutedLabel {
    /// Model.
    pub model: String,
    /// Window.
    pub window: Window,
    /// The label.
    pub label: LabelRow,
}

/// The rows of some models of an object, with some columns, as one batch. `None` if it has none of them.
pub fn read_rows(
    bytes: &Bytes,
    rows: &[std::ops::Range<usize>],
    columns: &[&str],
) -> Result<Option<RecordBatch>, Error> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes.clone())?;
    let total = builder.metadata().file_metadata().num_rows() as usize;
    let wanted: usize = rows.iter().map(ExactSizeIterator::len).sum();
    if wanted == 0 {
        return Ok(None);
    }
    let roots: Vec<usize> = columns
        .iter()
        .filter_map(|name| builder.parquet_schema().root_schema().get_fields().iter().position(|f| f.name() == *name))
        .collect();
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
    let builder = builder.with_projection(mask).with_batch_size(wanted.max(1));
    let reader = builder.with_row_selection(selection(rows, total)).build()?;
    let schema = reader_schema(&reader);
    let batches = reader.collect::<Result<Vec<_>, _>>()?;
    Ok(Some(concat_batches(&schema, &batches)?))
}

fn reader_schema(reader: &impl arrow::record_batch::RecordBatchReader) -> SchemaRef {
    reader.schema()
}

fn selection(rows: &[std::ops::Range<usize>], total: usize) -> RowSelection {
    let mut selectors = Vec::new();
    let mut at = 0;
    for range in rows {
        selectors.push(RowSelector::skip(range.start - at));
        selectors.push(RowSelector::select(range.len()));
        at = range.end;
    }
    selectors.push(RowSelector::skip(total - at));
    selectors.into()
}

/// The rows of one model in a raw object, by its footer.
pub fn model_rows(footer: &RawFooter, model: &str) -> Option<std::ops::Range<usize>> {
    let index = footer.models.iter().find(|index| index.model == model)?;
    Some(index.first_row as usize..(index.first_row + index.rows) as usize)
}

/// The labels in a batch of raw label rows.
pub fn labels_of(batch: &RecordBatch, topic: &str, partition: u32) -> Result<Vec<LabelRow>, Error> {
    let topic: Arc<str> = topic.into();
    let id = text(batch, "prediction_id")?;
    let time = times(batch, "event_time")?;
    let label = text(batch, "label")?;
    let value =
        batch.column_by_name("label_value").ok_or_else(|| missing("label_value"))?.as_primitive::<Float64Type>();
    let hint = times(batch, "prediction_timestamp")?;
    let offset = ints(batch, "offset")?;
    let index = ints(batch, "index")?;
    let rows = 0..batch.num_rows();
    Ok(rows
        .map(|row| LabelRow {
            id: id.value(row).to_owned(),
            time: time.value(row),
            label: label.is_valid(row).then(|| label.value(row).to_owned()),
            value: value.is_valid(row).then(|| value.value(row)),
            hint: hint.is_valid(row).then(|| hint.value(row)),
            position: LabelPosition {
                topic: topic.clone(),
                partition: i64::from(partition),
                offset: offset.value(row),
                index: index.value(row),
            },
        })
        .collect())
}

/// Columns of a raw label object that a label is made of.
pub const LABEL_COLUMNS: &[&str] =
    &["offset", "index", "event_time", "prediction_id", "label", "label_value", "prediction_timestamp"];

fn routed_schema() -> SchemaRef {
    let field = |name: &str, kind: DataType, nullable: bool| Field::new(name, kind, nullable);
    Arc::new(Schema::new(vec![
        field("model_name", DataType::Utf8, false),
        field("window_start", DataType::Int64, false),
        field("window_end", DataType::Int64, false),
        field("prediction_id", DataType::Utf8, false),
        field("event_time", timestamp_type(), false),
        field("label", DataType::Utf8, true),
        field("label_value", DataType::Float64, true),
        field("prediction_timestamp", timestamp_type(), true),
        field("topic", DataType::Utf8, false),
        field("partition", DataType::Int64, false),
        field("offset", DataType::Int64, false),
        field("index", DataType::Int64, false),
    ]))
}

/// The object of routed labels: sorted by model, window, id and position, so that equal contents are equal bytes.
pub fn write_routed(mut labels: Vec<RoutedLabel>) -> Result<Bytes, Error> {
    labels.sort_by(|a, b| {
        (&a.model, a.window, &a.label.id, &a.label.position).cmp(&(&b.model, b.window, &b.label.id, &b.label.position))
    });
    labels.dedup();
    let batch = RecordBatch::try_new(
        routed_schema(),
        vec![
            Arc::new(labels.iter().map(|l| Some(l.model.as_str())).collect::<StringArray>()) as ArrayRef,
            Arc::new(labels.iter().map(|l| l.window.start).collect::<Int64Array>()),
            Arc::new(labels.iter().map(|l| l.window.end).collect::<Int64Array>()),
            Arc::new(labels.iter().map(|l| Some(l.label.id.as_str())).collect::<StringArray>()),
            time_array(labels.iter().map(|l| Some(l.label.time))),
            Arc::new(labels.iter().map(|l| l.label.label.as_deref()).collect::<StringArray>()),
            Arc::new(labels.iter().map(|l| l.label.value).collect::<Float64Array>()),
            time_array(labels.iter().map(|l| l.label.hint)),
            Arc::new(labels.iter().map(|l| Some(&*l.label.position.topic)).collect::<StringArray>()),
            Arc::new(labels.iter().map(|l| l.label.position.partition).collect::<Int64Array>()),
            Arc::new(labels.iter().map(|l| l.label.position.offset).collect::<Int64Array>()),
            Arc::new(labels.iter().map(|l| l.label.position.index).collect::<Int64Array>()),
        ],
    )?;
    write_parquet(&batch, WriterProperties::builder())
}

/// A UTC time column.
pub fn time_array(times: impl Iterator<Item = Option<Micros>>) -> ArrayRef {
    Arc::new(times.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

/// One batch as a Parquet object: zstd, page statistics.
pub fn write_parquet(
    batch: &RecordBatch,
    properties: parquet::file::properties::WriterPropertiesBuilder,
) -> Result<Bytes, Error> {
    let level = ZstdLevel::try_new(3).expect("3 is a level of zstd");
    let properties = properties
        .set_compression(Compression::ZSTD(level))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_created_by(concat!("driftline ", env!("CARGO_PKG_VERSION")).to_owned())
        .build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties))?;
    writer.write(batch)?;
    writer.close()?;
    Ok(bytes.into())
}

/// The labels for one window in a routed object: its rows lie together, so the others are not decoded.
pub fn read_routed(bytes: &Bytes, model: &str, window: Window) -> Result<Vec<LabelRow>, Error> {
    let total = row_count(bytes)?;
    let Some(keys) = read_rows(bytes, &[0..total], &["model_name", "window_start"])? else { return Ok(Vec::new()) };
    let (models, starts) = (text(&keys, "model_name")?, ints(&keys, "window_start")?);
    let key = |row: usize| (models.value(row), starts.value(row));
    let rows: Vec<usize> = (0..total).collect();
    let first = rows.partition_point(|row| key(*row) < (model, window.start));
    let end = rows.partition_point(|row| key(*row) <= (model, window.start));
    let columns = [LABEL_COLUMNS, &["topic", "partition"]].concat();
    let Some(batch) = read_rows(bytes, &[first..end], &columns)? else { return Ok(Vec::new()) };
    let (topics, partitions) = (text(&batch, "topic")?, ints(&batch, "partition")?);
    let mut topic: Arc<str> = "".into();
    let mut labels = labels_of(&batch, "", 0)?;
    for (row, label) in labels.iter_mut().enumerate() {
        if &*topic != topics.value(row) {
            topic = topics.value(row).into();
        }
        label.position.topic = topic.clone();
        label.position.partition = partitions.value(row);
    }
    Ok(labels)
}

/// A text column.
pub fn text<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a StringArray, Error> {
    batch.column_by_name(name).and_then(|column| column.as_string_opt::<i32>()).ok_or_else(|| missing(name))
}

/// A column of whole numbers.
pub fn ints<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a Int64Array, Error> {
    batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int64Type>()).ok_or_else(|| missing(name))
}

/// A column of times.
pub fn times<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a TimestampMicrosecondArray, Error> {
    batch
        .column_by_name(name)
        .and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>())
        .ok_or_else(|| missing(name))
}

fn missing(name: &str) -> Error {
    Error::Corrupt(format!("an object has no column `{name}` of the type that it should have"))
}

/// Rows in a Parquet object.
pub fn row_count(bytes: &Bytes) -> Result<usize, Error> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes.clone())?;
    Ok(builder.metadata().file_metadata().num_rows() as usize)
}

/// All rows of a Parquet object, as one batch; `None` if it has none.
pub fn read_all(bytes: &Bytes) -> Result<Option<RecordBatch>, Error> {
    let rows = row_count(bytes)?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes.clone())?.with_batch_size(rows.max(1));
    let schema = builder.schema().clone();
    let batches = builder.build()?.collect::<Result<Vec<_>, _>>()?;
    let schema = batches.first().map_or(schema, RecordBatch::schema);
    Ok(if rows == 0 { None } else { Some(concat_batches(&schema, &batches)?) })
}
