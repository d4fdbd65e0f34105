//! The three accounts, as rows. They are kept by counters where things happen, and must always add up (**A1**).
use std::collections::BTreeMap;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use datafusion::prelude::SessionContext;
use driftline_ledger::state::WindowRecord;
use driftline_ledger::{Horizons, LedgerState, ModelState};
use driftline_schemas::clock::{self, show};
use driftline_schemas::event::MAX_SKEW;
use driftline_schemas::ledger::WindowState;
use driftline_schemas::raw::RawKind;
use driftline_schemas::tables::{AccountRow, WindowRow};
use driftline_store::{encode_segment, paths};

use crate::session::{Sessions, register_folder};
use crate::{Error, sql_text};

/// The model under which partition accounts are kept.
pub const NO_MODEL: &str = paths::NO_MODEL;

/// The accounts of all source partitions.
pub fn partitions(state: &LedgerState) -> Vec<AccountRow> {
    let mut rows = Vec::new();
    for chain in state.chains.values() {
        let key = format!("{}[{}]", chain.info.topic, chain.info.partition);
        let mut push = |term: &str, count: u64| rows.push(row(NO_MODEL, "partition", &key, term, count));
        push("records", chain.records);
        push("gaps", chain.skipped + chain.gaps);
        push("accepted", chain.accepted - chain.forgotten_total());
        if chain.forgotten_total() > 0 {
            push("forgotten", chain.forgotten_total());
        }
        for (reason, count) in &chain.rejected {
            push(&format!("rejected:{}", reason.as_str()), *count);
        }
    }
    rows.extend(untracked(state));
    rows
}

/// What was accepted of models that are not tracked, because there are too many: it is in no window, and in no model's account.
pub fn untracked(state: &LedgerState) -> Vec<AccountRow> {
    let of = |kind, key| {
        let count = state.untracked(kind);
        (count > 0).then(|| row(NO_MODEL, "untracked", key, "too_many_models", count))
    };
    [of(RawKind::Predictions, "predictions"), of(RawKind::Labels, "labels")].into_iter().flatten().collect()
}

/// The account of a window: each prediction in the first term that applies.
pub fn window(model: &str, record: &WindowRecord) -> Vec<AccountRow> {
    let counts = record.published();
    let is_final = record.judged_state == Some(WindowState::Final);
    let key = format!("{}/{}", show(record.window.start), show(record.window.end));
    let terms = [
        ("duplicate", counts.duplicates),
        ("after_final", counts.after_final),
        ("failed", counts.failed),
        ("invalid", counts.invalid),
        ("labelled", counts.labelled),
        (if is_final { "expired" } else { "waiting" }, counts.unlabelled),
        ("forgotten", counts.forgotten),
        ("unjudged", record.pending_rows + record.open_rows),
    ];
    let is_shown = |(term, count): &(&str, u64)| !["unjudged", "forgotten"].contains(term) || *count > 0;
    terms.into_iter().filter(is_shown).map(|(term, count)| row(model, "window", &key, term, count)).collect()
}

/// The account of the windows whose history has been deleted, together.
pub fn folded(model: &str, state: &ModelState) -> Vec<AccountRow> {
    let Some(folded) = &state.folded else { return Vec::new() };
    let (counts, key) = (&folded.counts, format!("…/{}", show(folded.before)));
    let terms = [
        ("duplicate", counts.duplicates),
        ("after_final", counts.after_final),
        ("failed", counts.failed),
        ("invalid", counts.invalid),
        ("labelled", counts.labelled),
        ("expired", counts.unlabelled),
        ("forgotten", counts.forgotten),
    ];
    let terms = terms.into_iter().filter(|(_, count)| *count > 0);
    terms.map(|(term, count)| row(model, "folded", &key, term, count)).collect()
}

/// A window's row in `windows`, as of the revision that is being published.
pub fn window_row(model: &str, record: &WindowRecord) -> WindowRow {
    let counts = driftline_ledger::state::sum(&record.judged);
    let state = record.judged_state.unwrap_or(WindowState::Open);
    let is_final = state == WindowState::Final;
    let countable = counts.labelled + counts.unlabelled;
    WindowRow {
        model: model.to_owned(),
        window_start: clock::time_of(record.window.start),
        window_end: clock::time_of(record.window.end),
        state: state.as_str().to_owned(),
        revision: record.revision as i64,
        predictions: counts.accepted() as i64,
        labelled: counts.labelled as i64,
        waiting: if is_final { 0 } else { counts.unlabelled as i64 },
        expired: if is_final { counts.unlabelled as i64 } else { 0 },
        failed: counts.failed as i64,
        invalid: counts.invalid as i64,
        duplicates: counts.duplicates as i64,
        after_final: counts.after_final as i64,
        label_coverage: (countable > 0).then(|| counts.labelled as f64 / countable as f64),
        late_predictions: record.late as i64,
        decided_at: clock::time_of(record.decided_at.unwrap_or_default()),
    }
}

/// The account of a model's labels: each in one term. Labels are looked up in `history/` by id, apart from the way that
/// they were routed.
pub async fn labels(sessions: &Sessions, state: &LedgerState, model: &str) -> Result<Vec<AccountRow>, Error> {
    let mut terms: BTreeMap<&str, u64> =
        ["duplicate", "withdrawn", "joined", "superseded", "too_late", "unmatched", "pending"].map(|t| (t, 0)).into();
    // The join holds all labels that it looks up. Where these are more than memory holds, it takes longer share by share.
    let mut tables = LabelTables::register(sessions.open()?, state, model).await?;
    let mut shares = vec![(0, "TRUE".to_owned())];
    while let Some((depth, share)) = shares.pop() {
        match tables.look_up(&share, &mut terms).await {
            Err(error) if error.is_out_of_memory() && depth < DEPTH_MAX => {
                if depth == 0 {
                    tables = LabelTables::register(sessions.open_greedy()?, state, model).await?;
                }
                shares.extend(shares_of(depth, &share));
            }
            found => found?,
        }
    }
    // What lies behind a boundary was settled when it was given up; what was taken out cannot be looked up.
    let (mut retired, mut forgotten) = (0, 0);
    for chain in state.chains.values().filter(|chain| chain.info.kind == RawKind::Labels) {
        let of_model = |counts: &BTreeMap<String, u64>| counts.get(model).copied().unwrap_or_default();
        forgotten += of_model(&chain.forgotten);
        retired += chain
            .retired
            .as_ref()
            .map_or(0, |behind| of_model(&behind.totals.models).saturating_sub(of_model(&behind.totals.forgotten)));
    }
    terms.extend([("retired", retired), ("forgotten", forgotten)].into_iter().filter(|(_, count)| *count > 0));
    Ok(terms.into_iter().map(|(term, count)| row(model, "model", model, term, count)).collect())
}

/// How often shares of ids are divided again. Each time there are up to seventeen times as many, of which each reads all labels.
const DEPTH_MAX: usize = 4;
/// Characters of ids, each list a share: spread evenly in decimal and hexadecimal numbers, UUIDs, ULIDs and base 64.
const SHARES: [&str; 16] = [
    "0gwM", "1hxN", "2iyO", "3jzP", "4kAQ", "5lBR", "6mCS", "7nDT", "8oEU", "9pFV", "aqGW", "brHX", "csIY", "dtJZ",
    "euK", "fvL",
];

/// Divides a share of the ids, a condition of SQL, by the character that lies so far from their end. All rows of an id are in one.
fn shares_of(depth: usize, share: &str) -> Vec<(usize, String)> {
    let one_of = |characters: &str| {
        let behind = "_".repeat(depth);
        let each = characters.chars().map(|character| format!("prediction_id LIKE '%{character}{behind}'"));
        format!("({})", each.collect::<Vec<_>>().join(" OR "))
    };
    let others = format!("NOT {}", one_of(&SHARES.concat()));
    let parts = SHARES.map(one_of).into_iter().chain([others]);
    parts.map(|part| (depth + 1, format!("{share} AND {part}"))).collect()
}

/// What labels of a model are looked up in.
struct LabelTables<'a> {
    session: SessionContext,
    state: &'a LedgerState,
    model: &'a str,
    sources: Vec<(String, i64, i64)>,
    has_history: bool,
}

impl<'a> LabelTables<'a> {
    async fn register(session: SessionContext, state: &'a LedgerState, model: &'a str) -> Result<Self, Error> {
        let sources = register_labels(&session, state).await?;
        let folder = format!("history/model_name={}", encode_segment(model));
        let has_history = register_folder(&session, "history", &folder, &["date"]).await?;
        register_small_tables(&session, state, model)?;
        Ok(Self { session, state, model, sources, has_history })
    }

    /// Counts the labels that are kept and whose id is of a share: all of these, or none if it fails.
    async fn look_up(&self, share: &str, terms: &mut BTreeMap<&str, u64>) -> Result<(), Error> {
        if self.sources.is_empty() {
            return Ok(());
        }
        let sql = labels_sql(self.model, &self.sources, &self.state.horizons(self.model), self.has_history, share);
        for batch in self.session.sql(&sql).await?.collect().await? {
            add_terms(&batch, terms);
        }
        Ok(())
    }
}

fn add_terms(batch: &RecordBatch, terms: &mut BTreeMap<&str, u64>) {
    let (names, groups, copies) = (
        batch.column(0).as_string::<i32>(),
        batch.column(1).as_primitive::<Int64Type>(),
        batch.column(2).as_primitive::<Int64Type>(),
    );
    for at in 0..batch.num_rows() {
        if let Some(count) = terms.get_mut(names.value(at)) {
            *count += groups.value(at) as u64;
        }
        *terms.entry("duplicate").or_default() += copies.value(at) as u64;
    }
}

/// One table for each chain of labels; the ledger says from where on it is kept, and how far it has been applied.
async fn register_labels(session: &SessionContext, state: &LedgerState) -> Result<Vec<(String, i64, i64)>, Error> {
    let mut sources = Vec::new();
    for (name, chain) in state.chains.iter().filter(|(_, chain)| chain.info.kind == RawKind::Labels) {
        let table = format!("labels_{}", sources.len());
        if let Some(applied_to) = chain.applied_to
            && register_folder(session, &table, &paths::raw_folder(name), &[]).await?
        {
            sources.push((table, chain.kept_from().unwrap_or_default(), applied_to));
        }
    }
    Ok(sources)
}

/// Which windows are final, and which labels are still findable: small facts of the ledger, as tables.
fn register_small_tables(session: &SessionContext, state: &LedgerState, model: &str) -> Result<(), Error> {
    use arrow::array::{Int64Array, StringArray};
    let windows = state.models.get(model).map(|model| &model.windows);
    let finals = windows.into_iter().flat_map(|windows| windows.values()).filter(|w| w.state == WindowState::Final);
    let starts: Int64Array = finals.map(|record| record.window.start).collect();
    session
        .register_batch("finals", RecordBatch::try_from_iter([("final_start", std::sync::Arc::new(starts) as _)])?)?;
    let mut ranges: Vec<(&str, i64, i64, i64)> = Vec::new();
    for object in &state.labels {
        let Some(chain) = state.chains.get(&object.chain) else { continue };
        let partition = i64::from(chain.info.partition);
        match ranges.last_mut() {
            Some((topic, p, _, to)) if *topic == chain.info.topic && *p == partition && *to == object.from => {
                *to = object.to;
            }
            _ => ranges.push((&chain.info.topic, partition, object.from, object.to)),
        }
    }
    let column =
        |at: fn(&(&str, i64, i64, i64)) -> i64| std::sync::Arc::new(ranges.iter().map(at).collect::<Int64Array>());
    let topics: StringArray = ranges.iter().map(|range| Some(range.0)).collect();
    let batch = RecordBatch::try_from_iter([
        ("r_topic", std::sync::Arc::new(topics) as _),
        ("r_partition", column(|range| range.1) as _),
        ("r_from", column(|range| range.2) as _),
        ("r_to", column(|range| range.3) as _),
    ])?;
    session.register_batch("findable", batch)?;
    Ok(())
}

fn labels_sql(
    model: &str,
    sources: &[(String, i64, i64)],
    horizons: &Horizons,
    has_history: bool,
    share: &str,
) -> String {
    let horizon = horizon_sql(horizons);
    let columns = "topic, partition, \"offset\", \"index\", prediction_id, CAST(event_time AS BIGINT) AS at, label, \
                   CAST(prediction_timestamp AS BIGINT) AS hint";
    let union: Vec<String> = sources
        .iter()
        .map(|(table, kept_from, applied_to)| {
            format!(
                "SELECT {columns} FROM {table} WHERE reason IS NULL AND model_name = {} AND \"offset\" >= {kept_from} \
                 AND \"offset\" < {applied_to} AND {share}",
                sql_text(model)
            )
        })
        .collect();
    let none = "SELECT CAST(NULL AS VARCHAR) AS h_id, CAST(NULL AS BIGINT) AS h_at, CAST(NULL AS BIGINT) AS h_start, \
                CAST(NULL AS BIGINT) AS h_end, CAST(NULL AS BOOLEAN) AS after_final, CAST(NULL AS BIGINT) AS w_at, \
                CAST(NULL AS VARCHAR) AS w_topic, CAST(NULL AS BIGINT) AS w_partition, CAST(NULL AS BIGINT) AS w_offset, \
                CAST(NULL AS BIGINT) AS w_index WHERE false";
    let some = format!(
        "SELECT prediction_id AS h_id, CAST(event_time AS BIGINT) AS h_at, CAST(window_start AS BIGINT) AS h_start, \
                CAST(window_end AS BIGINT) AS h_end, after_final, CAST(label_time AS BIGINT) AS w_at, \
                label_topic AS w_topic, label_partition AS w_partition, label_offset AS w_offset, label_index AS w_index \
                FROM history WHERE {share}"
    );
    let history = if has_history { some.as_str() } else { none };
    // 5 joined · 4 withdrawn · 3 superseded · 2 not judged yet · 1 too late · 0 no prediction of that id
    format!(
        "WITH l AS ({labels}), h AS ({history}),
         looked_up AS (
           SELECT l.*, CASE
             WHEN h_id IS NULL OR (hint IS NOT NULL AND NOT (hint >= h_start AND hint < h_end)) THEN 0
             WHEN w_topic = topic AND w_partition = partition AND w_offset = \"offset\" AND w_index = \"index\"
               THEN CASE WHEN label IS NULL THEN 4 ELSE 5 END
             WHEN at - h_at > {horizon} THEN 1
             WHEN at - h_at < -{MAX_SKEW} THEN 0
             WHEN w_at > at OR (w_at = at AND (w_topic > topic OR (w_topic = topic AND (w_partition > partition OR
               (w_partition = partition AND (w_offset > \"offset\" OR (w_offset = \"offset\" AND w_index > \"index\"))))))) THEN 3
             WHEN after_final OR final_start IS NOT NULL THEN 1
             ELSE 2 END AS rank
           FROM l LEFT JOIN h ON l.prediction_id = h.h_id LEFT JOIN finals ON h.h_start = finals.final_start),
         each AS (
           SELECT topic, partition, \"offset\", \"index\", prediction_id, at, label, hint, max(rank) AS rank
           FROM looked_up GROUP BY topic, partition, \"offset\", \"index\", prediction_id, at, label, hint),
         findable_each AS (
           SELECT each.*, r_topic IS NOT NULL AS is_findable FROM each LEFT JOIN findable
           ON topic = r_topic AND partition = r_partition AND \"offset\" >= r_from AND \"offset\" < r_to),
         unique_labels AS (
           SELECT prediction_id, at, label, hint, max(rank) AS rank, bool_or(is_findable) AS is_findable, count(*) AS copies
           FROM findable_each GROUP BY prediction_id, at, label, hint)
         SELECT CASE rank WHEN 5 THEN 'joined' WHEN 4 THEN 'withdrawn' WHEN 3 THEN 'superseded' WHEN 2 THEN 'pending'
             WHEN 1 THEN 'too_late' ELSE CASE WHEN is_findable THEN 'pending' ELSE 'unmatched' END END AS term,
           count(*) AS groups, CAST(sum(copies - 1) AS BIGINT) AS copies
         FROM unique_labels GROUP BY 1",
        labels = union.join(" UNION ALL "),
    )
}

/// The horizon of a history row, by the start of its window.
fn horizon_sql(horizons: &Horizons) -> String {
    let eras: Vec<(i64, i64)> = horizons.iter().collect();
    let [(_, first), later @ ..] = &eras[..] else { return "0".into() };
    if later.is_empty() {
        return first.to_string();
    }
    let newest_first = later.iter().rev().map(|(from, horizon)| format!("WHEN h_start >= {from} THEN {horizon} "));
    format!("CASE {}ELSE {first} END", newest_first.collect::<String>())
}

fn row(model: &str, scope: &str, key: &str, term: &str, count: u64) -> AccountRow {
    AccountRow { model: model.into(), scope: scope.into(), key: key.into(), term: term.into(), count: count as i64 }
}
