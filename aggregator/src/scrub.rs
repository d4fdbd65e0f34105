//! Takes rows out of the objects of the store: what is left is as if the ids had never come, but for the counts. Pure.
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use bytes::Bytes;
use driftline_ledger::forget::Omissions;
use driftline_schemas::ledger::PartCounts;
use driftline_schemas::raw::{FORMAT_FORGOTTEN, ModelIndex, RawFooter};
use parquet::file::properties::WriterProperties;

use crate::error::Error;
use crate::filter::{IdFilter, id_hash};
use crate::judge::{self, HistoryFooter};
use crate::objects::{self, write_parquet};

/// What a dead letter says instead of what was wrong with it.
const FORGOTTEN_DETAIL: &str = "forgotten";

/// A raw object without the rows that are to be left out; `None` if it has none of them.
///
/// Accepted rows go, and the footer counts them by model and base window. A dead letter stays, with its reason and its
/// position, but without its payload.
pub fn raw(path: &str, bytes: &Bytes, omissions: &Omissions) -> Result<Option<(Bytes, RawFooter)>, Error> {
    let mut footer = crate::follow::footer_of(path, bytes)?;
    let concerned = footer.models.iter().any(|share| omissions.concern(&share.model));
    if !concerned && footer.rejected_total() == 0 {
        return Ok(None);
    }
    let Some(all) = objects::read_all(bytes)? else { return Ok(None) };
    let mut goes = vec![false; all.num_rows()];
    for share in footer.models.iter_mut().filter(|share| omissions.concern(&share.model)) {
        mark(&all, share, omissions, &mut goes)?;
    }
    let letters = dead_letters(&all, omissions)?;
    if letters.is_none() && !goes.contains(&true) {
        return Ok(None);
    }
    let rows = letters.unwrap_or(all);
    let stays: BooleanArray = goes.iter().map(|goes| Some(!goes)).collect();
    let rows = filter_record_batch(&rows, &stays)?;
    let mut first_row = 0;
    for share in &mut footer.models {
        share.first_row = first_row;
        first_row += share.rows;
    }
    footer.accepted = first_row;
    footer.format = FORMAT_FORGOTTEN;
    let properties = WriterProperties::builder().set_key_value_metadata(Some(vec![footer.to_key_value()]));
    Ok(Some((write_parquet(&rows, properties)?, footer)))
}

/// Marks a model's rows that go, and moves them from one count of its index to the other.
fn mark(all: &RecordBatch, share: &mut ModelIndex, omissions: &Omissions, goes: &mut [bool]) -> Result<(), Error> {
    let (ids, bases) = (objects::text(all, "prediction_id")?, objects::ints(all, "base_window")?);
    let mut forgotten: BTreeMap<i64, u64> = share.forgotten.iter().copied().collect();
    let mut left: BTreeMap<i64, u64> = share.base_windows.iter().copied().collect();
    let mut gone = 0;
    let (first, rows) = (share.first_row as usize, share.rows as usize);
    for (row, goes) in goes.iter_mut().enumerate().skip(first).take(rows) {
        if omissions.has(&share.model, ids.value(row)) {
            *goes = true;
            gone += 1;
            *forgotten.entry(bases.value(row)).or_default() += 1;
            if let Some(rows) = left.get_mut(&bases.value(row)) {
                *rows -= 1;
            }
        }
    }
    share.rows -= gone;
    share.base_windows = left.into_iter().filter(|(_, rows)| *rows > 0).collect();
    share.forgotten = forgotten.into_iter().collect();
    Ok(())
}

/// All rows, the payloads that hold one of the ids blanked; `None` if there is no such payload.
fn dead_letters(all: &RecordBatch, omissions: &Omissions) -> Result<Option<RecordBatch>, Error> {
    let missing = |name: &str| Error::Corrupt(format!("a raw object has no column `{name}`"));
    let column = |name: &str| all.column_by_name(name).ok_or_else(|| missing(name));
    let payloads = column("payload")?.as_binary_opt::<i32>().ok_or_else(|| missing("payload"))?;
    let details = objects::text(all, "detail")?;
    let holds = |row: usize| {
        let in_detail = details.is_valid(row) && omissions.occur_in(details.value(row).as_bytes());
        in_detail || (payloads.is_valid(row) && omissions.occur_in(payloads.value(row)))
    };
    let blank: Vec<bool> = (0..all.num_rows()).map(holds).collect();
    if !blank.contains(&true) {
        return Ok(None);
    }
    let payload: BinaryArray = payloads.iter().zip(&blank).map(|(payload, blank)| payload.filter(|_| !blank)).collect();
    let detail: StringArray = details
        .iter()
        .zip(&blank)
        .map(|(detail, blank)| if *blank { Some(FORGOTTEN_DETAIL) } else { detail })
        .collect();
    let mut columns: Vec<ArrayRef> = all.columns().to_vec();
    let schema = all.schema();
    for (at, field) in schema.fields().iter().enumerate() {
        match field.name().as_str() {
            "payload" => columns[at] = Arc::new(payload.clone()),
            "detail" => columns[at] = Arc::new(detail.clone()),
            // A rejected record may have been read as far as its id.
            "prediction_id" => {
                let ids = columns[at].as_string::<i32>();
                let ids: StringArray = ids.iter().zip(&blank).map(|(id, blank)| id.filter(|_| !blank)).collect();
                columns[at] = Arc::new(ids);
            }
            _ => {}
        }
    }
    Ok(Some(RecordBatch::try_new(schema, columns)?))
}

/// A routed object without the labels that are to be left out; `None` if it has none of them.
pub fn routed(bytes: &Bytes, omissions: &Omissions) -> Result<Option<Bytes>, Error> {
    let Some(all) = objects::read_all(bytes)? else { return Ok(None) };
    let (models, ids) = (objects::text(&all, "model_name")?, objects::text(&all, "prediction_id")?);
    let stays: BooleanArray =
        (0..all.num_rows()).map(|row| Some(!omissions.has(models.value(row), ids.value(row)))).collect();
    if stays.false_count() == 0 {
        return Ok(None);
    }
    Ok(Some(write_parquet(&filter_record_batch(&all, &stays)?, WriterProperties::builder())?))
}

/// A history object at the same revision, without the rows that are to be left out, and its new account and filter.
pub struct ScrubbedHistory {
    /// The object.
    pub bytes: Bytes,
    /// Its account; `bytes` is its size.
    pub counts: PartCounts,
    /// The ids that are left.
    pub filter: IdFilter,
}

/// A history object without the rows that are to be left out; `None` if it has none of them.
pub fn history(bytes: &Bytes, footer: &HistoryFooter, omissions: &Omissions) -> Result<Option<ScrubbedHistory>, Error> {
    let Some(all) = objects::read_all(bytes)? else { return Ok(None) };
    let (left, gone) = without(&all, &footer.model, omissions)?;
    if gone == 0 {
        return Ok(None);
    }
    // A feature that only these rows had leaves no empty column behind: its name may tell of them too.
    let left = without_empty_columns(&left)?;
    let mut counts = crate::join::count(&left)?;
    counts.duplicates = footer.counts.duplicates;
    counts.forgotten = footer.counts.forgotten + gone;
    let ids = objects::text(&left, "prediction_id")?;
    let filter = IdFilter::new(ids.iter().flatten().map(id_hash).collect());
    let footer = HistoryFooter { counts: counts.clone(), ..footer.clone() };
    let bytes = judge::write_history(&left, &footer)?;
    counts.bytes = bytes.len() as u64;
    Ok(Some(ScrubbedHistory { bytes, counts, filter }))
}

/// The rows of one model that stay, and how many go.
pub(crate) fn without(rows: &RecordBatch, model: &str, omissions: &Omissions) -> Result<(RecordBatch, u64), Error> {
    if !omissions.concern(model) {
        return Ok((rows.clone(), 0));
    }
    let ids = objects::text(rows, "prediction_id")?;
    let stays: BooleanArray = ids.iter().map(|id| Some(!id.is_some_and(|id| omissions.has(model, id)))).collect();
    let gone = stays.false_count() as u64;
    Ok((if gone == 0 { rows.clone() } else { filter_record_batch(rows, &stays)? }, gone))
}

fn without_empty_columns(rows: &RecordBatch) -> Result<RecordBatch, Error> {
    let schema = rows.schema();
    let is_kept = |at: &usize| {
        let is_fixed = driftline_schemas::history::FIXED_COLUMNS.contains(&schema.field(*at).name().as_str());
        is_fixed || rows.column(*at).null_count() < rows.num_rows()
    };
    let kept: Vec<usize> = (0..rows.num_columns()).filter(is_kept).collect();
    Ok(rows.project(&kept)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::new_null_array;
    use arrow::datatypes::Schema;
    use driftline_ledger::{ForgetKey, LedgerState};
    use driftline_schemas::event::EventKind;
    use driftline_schemas::ledger::Entry;
    use driftline_schemas::raw::schema;

    #[test]
    fn objects_without_rows_stay_as_they_are() {
        let key = ForgetKey::new([3; 16]);
        let mut state = LedgerState::default();
        state.apply_entry(&Entry::Forget { model: "m".into(), ids: vec![key.hash("m", "a")] }, 0, None);
        let omissions = Omissions::of(&state, key);
        let empty = RecordBatch::new_empty(schema(EventKind::Predictions));
        assert_eq!(without(&empty, "m", &omissions).unwrap().1, 0);
        assert!(dead_letters(&empty, &omissions).unwrap().is_none());
        // Rows of a gap, or of a partition that only had dead letters without a model, have no id.
        let nulls = empty.schema().fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>();
        let columns = empty.columns().iter().map(|column| new_null_array(column.data_type(), 2)).collect();
        let nulls = RecordBatch::try_new(Arc::new(Schema::new(nulls)), columns).unwrap();
        assert_eq!(without(&nulls, "m", &omissions).unwrap().1, 0);
        assert!(dead_letters(&nulls, &omissions).unwrap().is_none());
    }
}
