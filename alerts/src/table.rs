//! The table `alerts`: the chain's transitions as Parquet, by the date of their window.
use std::collections::BTreeMap;

use chrono::NaiveDate;
use driftline_schemas::clock::time_of;
use driftline_schemas::tables::{AlertRow, alert_rows_from_batch, alert_rows_to_batch, sort_alert_rows};
use driftline_store::{Expected, Replaced, Store, paths};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use crate::log::Record;
use crate::{Error, read};

/// A record's rows.
pub fn rows(record: &Record) -> Vec<AlertRow> {
    let row = |(position, transition): (usize, &crate::life::Transition)| {
        let (series, evidence) = (&transition.series, &transition.evidence);
        AlertRow {
            model: series.model.clone(),
            alert_id: transition.id.clone(),
            transition: transition.kind.as_str().to_owned(),
            rule: series.rule.clone(),
            severity: transition.severity.as_str().to_owned(),
            at: time_of(transition.at),
            opened_at: time_of(transition.opened_at),
            metric: series.metric.clone(),
            model_version: series.model_version.clone(),
            segment: series.segment.clone(),
            segment_value: series.segment_value.clone(),
            column_name: series.column.clone(),
            class: series.class.clone(),
            window_start: time_of(evidence.window_start),
            window_end: time_of(evidence.window_end),
            state: evidence.state.clone(),
            revision: evidence.revision as i64,
            value: evidence.value,
            level: evidence.level,
            ci_low: evidence.ci_low,
            ci_high: evidence.ci_high,
            p_value: evidence.p_value,
            ln_e_value: evidence.ln_e,
            n: evidence.n,
            n_labelled: evidence.n_labelled,
            previous_value: transition.before.as_ref().map(|before| before.value),
            previous_revision: transition.before.as_ref().map(|before| before.revision as i64),
            budget_share: record.budget_shares.get(position).copied().flatten(),
            silenced: transition.silenced.clone(),
            seq: record.seq as i64,
            position: position as i64,
            text: transition.show(),
        }
    };
    record.transitions.iter().enumerate().map(row).collect()
}

/// Puts a record's rows into the table. Doing it again changes nothing.
pub async fn publish(store: &Store, model: &str, record: &Record) -> Result<(), Error> {
    let mut dates: BTreeMap<NaiveDate, Vec<AlertRow>> = BTreeMap::new();
    for row in rows(record) {
        dates.entry(row.window_start.date_naive()).or_default().push(row);
    }
    for (date, new) in dates {
        merge(store, &paths::table("alerts", model, date, "alerts"), model, record.seq as i64, &new).await?;
    }
    Ok(())
}

async fn merge(store: &Store, path: &str, model: &str, seq: i64, new: &[AlertRow]) -> Result<(), Error> {
    loop {
        let existing = store.get(path).await?;
        let mut rows = match &existing {
            Some(object) => read::rows(path, object.bytes.clone(), model, alert_rows_from_batch)?,
            None => Vec::new(),
        };
        rows.retain(|row| row.seq != seq);
        rows.extend(new.iter().cloned());
        sort_alert_rows(&mut rows);
        let bytes = to_parquet(&rows).map_err(|e| Error::Table { path: path.to_owned(), source: e.into() })?;
        if existing.as_ref().is_some_and(|object| object.bytes == bytes) {
            return Ok(());
        }
        let expected = existing.map_or(Expected::Absent, |object| Expected::Version(object.version));
        if let Replaced::Done(_) = store.replace(path, bytes, expected).await? {
            return Ok(());
        }
    }
}

fn to_parquet(rows: &[AlertRow]) -> Result<bytes::Bytes, parquet::errors::ParquetError> {
    let batch = alert_rows_to_batch(rows);
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_created_by(concat!("driftline ", env!("CARGO_PKG_VERSION")).to_owned())
        .build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties))?;
    writer.write(&batch)?;
    writer.close()?;
    Ok(bytes.into())
}
