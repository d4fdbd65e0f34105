//! Rows on stdout.
use anyhow::{Context, Result};
use arrow::array::RecordBatch;
use arrow::json::WriterBuilder;
use arrow::json::writer::JsonArray;
use arrow::util::pretty::pretty_format_batches;

use crate::cli::Format;

/// Rows as text: a table, CSV with a header, or one JSON array of objects.
pub(crate) fn render(batches: &[RecordBatch], format: Format) -> Result<String> {
    let mut bytes = Vec::new();
    match format {
        Format::Table => return Ok(format!("{}\n", pretty_format_batches(batches).context("print a table")?)),
        Format::Csv => {
            let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(&mut bytes);
            for batch in batches {
                writer.write(&flat(batch)?).context("print CSV")?;
            }
        }
        Format::Json => {
            let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, JsonArray>(&mut bytes);
            writer.write_batches(&batches.iter().collect::<Vec<_>>()).context("print JSON")?;
            writer.finish().context("print JSON")?;
            bytes.push(b'\n');
        }
    }
    String::from_utf8(bytes).context("print text")
}

/// CSV knows no nested columns: they are shown as text.
fn flat(batch: &RecordBatch) -> Result<RecordBatch> {
    use arrow::datatypes::{DataType, Field, Schema};
    use arrow::util::display::{ArrayFormatter, FormatOptions};
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        if !column.data_type().is_nested() && *column.data_type() != DataType::Binary {
            fields.push(field.as_ref().clone());
            columns.push(column.clone());
            continue;
        }
        let options = FormatOptions::default().with_null("");
        let formatter = ArrayFormatter::try_new(column, &options).context("show a nested column")?;
        let texts: arrow::array::StringArray =
            (0..column.len()).map(|row| Some(formatter.value(row).to_string())).collect();
        fields.push(Field::new(field.name(), DataType::Utf8, true));
        columns.push(std::sync::Arc::new(texts));
    }
    RecordBatch::try_new(std::sync::Arc::new(Schema::new(fields)), columns).context("show nested columns")
}
