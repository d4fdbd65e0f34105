//! Deletes what is older than its retention and nobody needs any more. Without a retention nothing is deleted, ever.
//!
//! ```text
//! raw/      Retired (ledger) ─► boundary.json ─► grace ─► delete ─► Deleted (ledger)
//! history/  Folded (ledger) ─► delete          metrics …  by date, when all its windows are final
//! ctl/      a snapshot ─► boundary.json ─► grace ─► delete
//! ```
//!
//! What is needed is read off the ledger: a raw object that a waiting or open job lists, or that a label which is still findable
//! rests in, stays. Every step can be done twice, by anyone; a process that dies in between leaves what the next one finishes.
use std::collections::HashSet;

use chrono::NaiveDate;
use driftline_ledger::state::{ChainState, ModelState};
use driftline_ledger::{LedgerState, Outcome, Replica, WindowRecord};
use driftline_schemas::clock::{self, DAY, Micros};
use driftline_schemas::config::RetentionConfig;
use driftline_schemas::ledger::{Entry, Input, RetiredObjects, WindowState};
use driftline_schemas::raw::RetiredTotals;
use driftline_store::{Boundary, Manifest, Store, decode_segment, paths};

use crate::error::Error;
use crate::follow::footer_of;
use crate::telemetry;

/// Raw objects of one chain that are given up together: more make longer records, fewer let a backlog last.
const OBJECTS_MAX: usize = 4096;
/// Records of the ledger deleted in one pass.
const RECORDS_MAX: u64 = 10_000;
/// How often a record is tried against other writers before the next pass tries anew.
const TRIES: u32 = 100;
/// Rows of no date are kept under this one.
const NO_DATE: &str = "1970-01-01";
/// The tables that hold the latest revision of each window, and go together.
const METRICS_TABLES: &[&str] = &[
    "metrics",
    "confusion",
    "drift",
    "estimates",
    "label_lag",
    "quality",
    "serving",
    "errors",
    "comparisons",
    "curves",
    "windows",
    "accounts",
];

/// What a pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// Objects given up, to be deleted after the grace.
    pub retired: u64,
    /// Objects deleted.
    pub deleted: u64,
    /// Windows of which only the account is left.
    pub folded: u64,
}

/// Deletes what is due, and gives up what will be.
///
/// While something is being forgotten nothing is given up: the counts of both would run into each other.
pub async fn pass(store: &Store, replica: &mut Replica, config: &RetentionConfig, now: Micros) -> Result<Kept, Error> {
    let mut kept = Kept::default();
    replica.catch_up().await?;
    if is_forgetting(&replica.state) {
        return Ok(kept);
    }
    let chains: Vec<String> = replica.state.chains.keys().cloned().collect();
    for chain in &chains {
        if let Some(age) = config.raw {
            kept.retired += retire(store, replica, chain, now - age, now).await?;
        }
        kept.deleted += delete_retired(store, replica, chain, config.grace, now).await?;
    }
    if let Some(age) = config.history {
        kept.folded += fold(store, replica, now - age, now).await?;
        kept.deleted += delete_history(store, &replica.state).await?;
    }
    if let Some(age) = config.metrics_log {
        kept.deleted += delete_dates(store, &replica.state, "metrics_log", now - age).await?;
    }
    if let Some(age) = config.metrics {
        for table in METRICS_TABLES {
            kept.deleted += delete_dates(store, &replica.state, table, now - age).await?;
        }
    }
    if let Some(age) = config.routed {
        kept.deleted += delete_routed(store, &replica.state, now - age).await?;
        kept.deleted += delete_filters(store, &replica.state, now - age).await?;
    }
    if let Some(age) = config.ledger {
        kept.deleted += delete_records(store, config.grace, now - age, now).await?;
    }
    telemetry::kept(kept);
    Ok(kept)
}

/// From here on builds that do not know of boundaries must neither read on nor write.
async fn refuse_older_builds(store: &Store, now: Micros) -> Result<(), Error> {
    Ok(Manifest::raise_format(store, driftline_store::manifest::FORMAT_VERSION, clock::time_of(now)).await?)
}

fn is_forgetting(state: &LedgerState) -> bool {
    state.forgotten.values().any(|forgotten| forgotten.is_open())
}

/// What waiting and running jobs read.
fn inputs(state: &LedgerState) -> impl Iterator<Item = &Input> {
    let windows = state.models.values().flat_map(|model| model.windows.values());
    windows.flat_map(|w| w.pending.iter().chain(w.open.iter().flat_map(|job| &job.inputs)))
}

/// Raw objects that something still reads.
struct Needed<'a> {
    paths: HashSet<&'a str>,
    labels: HashSet<(&'a str, i64)>,
}

impl<'a> Needed<'a> {
    fn of(state: &'a LedgerState) -> Self {
        let raw = inputs(state)
            .filter_map(|input| if let Input::Raw { path, .. } = input { Some(path.as_str()) } else { None });
        let labels = state.labels.iter().map(|object| (object.chain.as_str(), object.from)).collect();
        Self { paths: raw.collect(), labels }
    }

    fn has(&self, chain: &str, from: i64) -> bool {
        self.labels.contains(&(chain, from)) || self.paths.contains(paths::raw_object(chain, from as u64).as_str())
    }
}

/// Gives up the oldest objects of a chain that were written before `until`: the boundary moves behind them in the ledger.
///
/// # Returns
/// How many.
async fn retire(store: &Store, replica: &mut Replica, chain: &str, until: Micros, now: Micros) -> Result<u64, Error> {
    let Some(known) = replica.state.chains.get(chain).cloned() else { return Ok(0) };
    // One batch at a time: the names of those that are being deleted stand in the ledger's state.
    if known.retired.as_ref().is_some_and(|retired| !retired.deleting.is_empty()) {
        return Ok(0);
    }
    let Some(objects) = old_objects(store, &replica.state, chain, &known, until).await? else { return Ok(0) };
    refuse_older_builds(store, now).await?;
    let asked = |state: &LedgerState| state.forgotten.values().map(|forgotten| forgotten.last).max();
    let asked_before = asked(&replica.state);
    for _ in 0..TRIES {
        let state = &replica.state;
        let needed = Needed::of(state);
        let is_as_it_was = state.chains.get(chain).is_some_and(|chain| chain.retired == known.retired);
        let is_needed = objects.objects.iter().any(|from| needed.has(chain, *from));
        if !is_as_it_was || is_needed || asked(state) != asked_before {
            return Ok(0);
        }
        let entry = Entry::Retired(objects.clone());
        if let Outcome::Mine = replica.append(&[entry], None, now).await? {
            return Ok(objects.objects.len() as u64);
        }
    }
    Ok(0)
}

/// The oldest objects of a chain that are applied, old enough, and needed by nothing.
async fn old_objects(
    store: &Store,
    state: &LedgerState,
    chain: &str,
    known: &ChainState,
    until: Micros,
) -> Result<Option<RetiredObjects>, Error> {
    let (Some(mut at), Some(applied_to)) = (known.kept_from(), known.applied_to) else { return Ok(None) };
    let needed = Needed::of(state);
    let mut found = RetiredObjects {
        chain: chain.to_owned(),
        to: at,
        objects: Vec::new(),
        totals: RetiredTotals { written_at: Micros::MIN, ..RetiredTotals::default() },
    };
    while at < applied_to && found.objects.len() < OBJECTS_MAX && !needed.has(chain, at) {
        let path = paths::raw_object(chain, at as u64);
        let Some(end) = store.parquet_end(&path).await? else { break };
        let footer = footer_of(&path, &end)?;
        if footer.to > applied_to || footer.written_at > until {
            break;
        }
        found.objects.push(at);
        found.totals.add(&footer);
        found.totals.pool(|model| state.is_tracked(model));
        at = footer.to;
        found.to = at;
    }
    Ok((!found.objects.is_empty()).then_some(found))
}

/// Makes a chain's boundary durable, and deletes what has lain behind it for the grace.
///
/// # Returns
/// How many objects were deleted.
async fn delete_retired(
    store: &Store,
    replica: &mut Replica,
    chain: &str,
    grace: Micros,
    now: Micros,
) -> Result<u64, Error> {
    let Some(retired) = replica.state.chains.get(chain).and_then(|chain| chain.retired.clone()) else { return Ok(0) };
    if retired.deleting.is_empty() {
        return Ok(0);
    }
    let details = serde_json::to_value(&retired.totals).ok().and_then(|value| value.as_object().cloned());
    let path = paths::boundary(chain);
    let details = details.ok_or_else(|| Error::Corrupt(format!("the totals behind {path} are no JSON object")))?;
    // In this order: whoever finds a deleted slot free finds the boundary too.
    let boundary = Boundary::raise(store, &path, retired.to as u64, details, clock::time_of(now)).await?;
    if now - boundary.raised_at.timestamp_micros() < grace {
        return Ok(0);
    }
    for from in &retired.deleting {
        store.delete(&paths::raw_object(chain, *from as u64)).await?;
    }
    let entry = Entry::Deleted { chain: chain.to_owned(), to: retired.to };
    replica.append_anywhere(&[entry], now).await?;
    Ok(retired.deleting.len() as u64)
}

/// Whether nothing of a window is still to be done.
fn is_at_rest(window: &WindowRecord) -> bool {
    window.state == WindowState::Final
        && window.completed == window.revision
        && window.open.is_none()
        && !window.is_dirty()
}

/// Up to where a model's windows can go: those that are at rest and ended by `until`, in whole dates.
pub fn foldable(model: &ModelState, until: Micros) -> Option<Micros> {
    let mut before = None;
    let mut windows = model.windows.values().peekable();
    while let Some(window) = windows.next() {
        if !is_at_rest(window) || window.window.end > until {
            break;
        }
        // A date's account is one object: its windows stay or go together.
        if windows.peek().is_none_or(|next| next.window.date() != window.window.date()) {
            before = Some(window.window.end);
        }
    }
    before
}

/// Folds windows that ended by `until`.
///
/// # Returns
/// How many.
async fn fold(store: &Store, replica: &mut Replica, until: Micros, now: Micros) -> Result<u64, Error> {
    for _ in 0..TRIES {
        let state = &replica.state;
        let due = state.models.iter().filter_map(|(name, model)| Some((name.clone(), foldable(model, until)?)));
        let due: Vec<(String, Micros)> = due.collect();
        let windows = |(name, before): &(String, Micros)| state.models[name].windows.range(..before).count() as u64;
        let count = due.iter().map(windows).sum();
        if due.is_empty() || is_forgetting(state) {
            return Ok(0);
        }
        refuse_older_builds(store, now).await?;
        let entries: Vec<Entry> = due.into_iter().map(|(model, before)| Entry::Folded { model, before }).collect();
        if let Outcome::Mine = replica.append(&entries, None, now).await? {
            return Ok(count);
        }
    }
    Ok(0)
}

/// Deletes the history of folded windows, and what a worker that stood still has made of it since.
async fn delete_history(store: &Store, state: &LedgerState) -> Result<u64, Error> {
    let mut deleted = 0;
    for (name, model) in &state.models {
        let Some(before) = model.folded.as_ref().map(|folded| folded.before) else { continue };
        let folder = format!("history/model_name={}", driftline_store::encode_segment(name));
        for date in store.list_folders(&folder).await? {
            if date_of(&date).is_none_or(|date| start_of(date) >= before) {
                continue;
            }
            for listed in store.list(&format!("{folder}/{date}")).await? {
                if start_in_name(&listed.path).is_some_and(|start| start < before) {
                    store.delete(&listed.path).await?;
                    deleted += 1;
                }
            }
        }
    }
    Ok(deleted)
}

/// Deletes a table's objects of dates whose windows are all at rest and ended by `until`.
async fn delete_dates(store: &Store, state: &LedgerState, table: &str, until: Micros) -> Result<u64, Error> {
    let mut deleted = 0;
    for folder in store.list_folders(table).await? {
        let Some(name) = folder.strip_prefix("model_name=").map(decode_segment) else { continue };
        for date in store.list_folders(&format!("{table}/{folder}")).await? {
            if !date_of(&date).is_some_and(|date| is_over(state, &name, date, until)) {
                continue;
            }
            for listed in store.list(&format!("{table}/{folder}/{date}")).await? {
                store.delete(&listed.path).await?;
                deleted += 1;
            }
        }
    }
    Ok(deleted)
}

/// Whether all windows of a model that start on a date are at rest and ended by `until`.
fn is_over(state: &LedgerState, name: &str, date: NaiveDate, until: Micros) -> bool {
    let start = start_of(date);
    let windows = state.models.get(name).map(|model| model.windows.range(start..start + DAY));
    let mut windows = windows.into_iter().flatten().peekable();
    if windows.peek().is_none() {
        // Those that were there are folded; the longest that could begin here must be over.
        let length = state.era_settings(name, start).window.length_max();
        return start + DAY + length <= until;
    }
    windows.all(|(_, window)| is_at_rest(window) && window.window.end <= until)
}

/// Deletes routed labels that every job which lists them has taken in, and those that no record came to name.
async fn delete_routed(store: &Store, state: &LedgerState, until: Micros) -> Result<u64, Error> {
    let routed =
        inputs(state).filter_map(|input| if let Input::Routed { path } = input { Some(path.as_str()) } else { None });
    let needed: HashSet<&str> = routed.collect();
    let mut deleted = 0;
    for listed in store.list(paths::ROUTED).await? {
        let seq = name_of(&listed.path).split('-').next().and_then(|seq| seq.parse::<u64>().ok());
        // Its writer tries the slot in its name and those after it, and gives up at the first record that is no mere report:
        // once there is one, no record can come to name the object that does not name it by now.
        let is_settled = seq.is_some_and(|seq| seq <= state.last_decision && state.last_decision > 0);
        let is_old = listed.last_modified.timestamp_micros() <= until;
        if is_settled && is_old && !needed.contains(listed.path.as_str()) {
            store.delete(&listed.path).await?;
            deleted += 1;
        }
    }
    Ok(deleted)
}

/// Deletes filters of windows at rest, and of revisions that are no longer the last: no label is looked up in them.
async fn delete_filters(store: &Store, state: &LedgerState, until: Micros) -> Result<u64, Error> {
    let mut deleted = 0;
    for folder in store.list_folders(paths::FILTERS).await? {
        let Some(model) = folder.strip_prefix("model_name=").and_then(|name| state.models.get(&decode_segment(name)))
        else {
            continue;
        };
        for listed in store.list(&format!("{}/{folder}", paths::FILTERS)).await? {
            let Some(start) = start_in_name(&listed.path) else { continue };
            let revision = name_of(&listed.path).rsplit_once("_r").and_then(|(_, rest)| rest.parse::<u64>().ok());
            let is_done = match model.windows.get(&start) {
                None => model.is_folded(start),
                Some(window) => is_at_rest(window) || revision.is_some_and(|r| r < window.history_revision),
            };
            if is_done && listed.last_modified.timestamp_micros() <= until {
                store.delete(&listed.path).await?;
                deleted += 1;
            }
        }
    }
    Ok(deleted)
}

/// Moves the ledger's boundary to the newest snapshot that was written by `until`, and deletes records and snapshots that have
/// lain behind it for the grace.
async fn delete_records(store: &Store, grace: Micros, until: Micros, now: Micros) -> Result<u64, Error> {
    let snapshots = store.list(paths::SNAPSHOTS).await?;
    let seq_of = |path: &str| name_of(path).parse::<u64>().ok();
    let old = snapshots.iter().filter(|listed| listed.last_modified.timestamp_micros() <= until);
    if let Some((seq, path)) = old.filter_map(|listed| Some((seq_of(&listed.path)?, &listed.path))).max() {
        // It will be all there is of the records before it: it must be what they add up to.
        let object = store.get(path).await?.ok_or_else(|| Error::Gone { path: path.clone() })?;
        let state: LedgerState =
            serde_json::from_slice(&object.bytes).map_err(|source| Error::Json { path: path.clone(), source })?;
        if state.next_seq == seq {
            refuse_older_builds(store, now).await?;
            let none = serde_json::Map::new();
            Boundary::raise(store, paths::LEDGER_BOUNDARY, seq, none, clock::time_of(now)).await?;
        }
    }
    let Some(boundary) = Boundary::read(store, paths::LEDGER_BOUNDARY).await? else { return Ok(0) };
    if now - boundary.raised_at.timestamp_micros() < grace {
        return Ok(0);
    }
    let from = boundary.details.get("deleted").and_then(serde_json::Value::as_u64).unwrap_or(0);
    let to = boundary.to.min(from + RECORDS_MAX);
    let mut deleted = 0;
    for seq in from..to {
        store.delete(&format!("{}/{seq:020}.json", paths::LEDGER)).await?;
        deleted += 1;
    }
    for listed in snapshots.iter().filter(|listed| seq_of(&listed.path).is_some_and(|seq| seq < boundary.to)) {
        store.delete(&listed.path).await?;
        deleted += 1;
    }
    if to > from {
        boundary.note(store, paths::LEDGER_BOUNDARY, "deleted", to.into()).await?;
    }
    Ok(deleted)
}

/// A name without its folders and its ending.
fn name_of(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.split_once('.').map_or(name, |(name, _)| name)
}

/// The start of the window that an object is named after.
fn start_in_name(path: &str) -> Option<Micros> {
    let start = name_of(path).split('_').next()?;
    let time = chrono::NaiveDateTime::parse_from_str(start, "%Y%m%dT%H%M%SZ").ok()?;
    Some(time.and_utc().timestamp_micros())
}

/// The date of a folder `date=YYYY-MM-DD`, if it is one of windows.
fn date_of(folder: &str) -> Option<NaiveDate> {
    let date = folder.strip_prefix("date=").filter(|date| *date != NO_DATE)?;
    date.parse().ok()
}

fn start_of(date: NaiveDate) -> Micros {
    date.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_micros()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_window_and_their_date() {
        let path = "history/model_name=m/date=2026-01-05/20260105T100000Z_20260105T110000Z_p0.parquet";
        assert_eq!(start_in_name(path), Some(1_767_607_200_000_000));
        assert_eq!(
            name_of("filters/model_name=a.b/20260105T100000Z_20260105T110000Z_p0_r12.fuse")
                .rsplit_once("_r")
                .unwrap()
                .1,
            "12"
        );
        assert_eq!(start_in_name("metrics/model_name=m/date=2026-01-05/metrics.parquet"), None);
        assert_eq!(date_of("date=1970-01-01"), None);
        assert_eq!(date_of("date=2026-01-05").map(start_of), Some(1_767_571_200_000_000));
        assert_eq!(name_of("routed/00000000000000000042-abc.parquet"), "00000000000000000042-abc");
    }
}
