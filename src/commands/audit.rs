//! `audit`: the accounts, counted again from what is stored, and whether they add up (**A1**).
//!
//! Three countings meet here: the collectors' counters in the raw objects, the ledger's, and the rows themselves in
//! `raw/` and `history/`.
use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::prelude::SessionContext;
use driftline_evaluator::session::{Sessions, register_folder};
use driftline_evaluator::{account, sql_text};
use driftline_ledger::state::RetiredChain;
use driftline_ledger::{LedgerState, Replica};
use driftline_schemas::clock::show;
use driftline_schemas::raw::{Genesis, RawFooter, RawKind, RetiredTotals};
use driftline_schemas::tables::AccountRow;
use driftline_store::{Boundary, Manifest, Store, paths};
use std::sync::Arc;

use crate::cli::{AuditArgs, Global};
use crate::output::render;
use crate::{CheckFailed, config, pipeline};

pub(crate) async fn run(global: &Global, args: &AuditArgs) -> Result<()> {
    let config = config::load(global)?;
    let store = Store::open(&config.store.url, &config.store.options).context("open the store")?;
    let manifest = Manifest::load(&store).await.context("read the manifest")?;
    let manifest = manifest.with_context(|| format!("there is no Driftline store at {}", config.store.url))?;
    let mut replica = Replica::open(&store, "audit").await.context("read the ledger")?;
    if let Some(model) = args.model.as_ref().filter(|model| !replica.state.models.contains_key(*model)) {
        let known: Vec<&str> = replica.state.models.keys().map(String::as_str).take(10).collect();
        bail!("the store knows no model {model:?}; it knows {}", known.join(", "));
    }
    let sessions = pipeline::sessions(&config, &store);
    let mut tries = 0;
    let audit = loop {
        let audit = Audit::of(&store, &manifest, &sessions, &replica.state, args.model.as_deref()).await;
        let before = given_up(&replica.state);
        tries += 1;
        // Objects may have been deleted, or rewritten by `forget`, while they were counted; then they are counted again.
        if audit.as_ref().is_ok_and(|audit| audit.faults.is_empty()) || tries == TRIES {
            break audit?;
        }
        replica.catch_up().await.context("read the ledger")?;
        if given_up(&replica.state) == before {
            break audit?;
        }
    };
    print!("{}", render(&[audit.batch()?], args.format)?);
    for fault in &audit.faults {
        eprintln!("does not add up: {fault}");
    }
    if audit.faults.is_empty() {
        eprintln!("the accounts add up");
        Ok(())
    } else {
        Err(CheckFailed(format!("{} account(s) do not add up", audit.faults.len())).into())
    }
}

/// How often the store is counted, while what is counted goes.
const TRIES: u32 = 5;

/// What has been given up or taken out so far: when it changes, what was counted meanwhile does not count.
fn given_up(state: &LedgerState) -> (Vec<Option<i64>>, Vec<u64>, Vec<u64>) {
    let chains = state.chains.values();
    let windows = state.models.values().map(|model| model.folded.as_ref().map_or(0, |folded| folded.windows));
    (
        chains.clone().map(|chain| chain.retired.as_ref().map(|retired| retired.to)).collect(),
        chains.map(driftline_ledger::state::ChainState::forgotten_total).chain(windows).collect(),
        state.forgotten.values().flat_map(|forgotten| [forgotten.last, forgotten.done]).collect(),
    )
}

struct Audit {
    rows: Vec<AccountRow>,
    faults: Vec<String>,
    /// (model, kind) → events accepted into objects that the ledger has applied.
    accepted: BTreeMap<(String, RawKind2), u64>,
    /// Kind → events of tracked models that are in no window: they came before their model was tracked.
    untracked_before: BTreeMap<RawKind2, u64>,
}

/// The two kinds of events, ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum RawKind2 {
    Predictions,
    Labels,
}

impl Audit {
    async fn of(
        store: &Store,
        manifest: &Manifest,
        sessions: &Sessions,
        state: &LedgerState,
        only: Option<&str>,
    ) -> Result<Self> {
        let mut audit = Audit {
            rows: Vec::new(),
            faults: Vec::new(),
            accepted: BTreeMap::new(),
            untracked_before: BTreeMap::new(),
        };
        audit.partitions(store, manifest, state).await?;
        for name in state.models.keys() {
            if only.is_none_or(|model| model == name) {
                audit.windows(sessions, state, name).await?;
                audit.labels(sessions, state, name).await?;
            }
        }
        if only.is_none() {
            audit.untracked(state);
        }
        for (model, forgotten) in state.forgotten.iter().filter(|(_, forgotten)| forgotten.is_open()) {
            let asked = show(forgotten.asked_at);
            audit.fault(format!("model {model}: what was to be forgotten at {asked} may still be in the store; run `driftline forget` again"));
        }
        Ok(audit)
    }

    fn fault(&mut self, text: String) {
        self.faults.push(text);
    }

    fn expect(&mut self, what: &str, left: u64, right: u64, words: &str) {
        if left != right {
            self.fault(format!("{what}: {left} {words} {right}"));
        }
    }

    fn push(&mut self, model: &str, scope: &str, key: &str, term: &str, count: u64) {
        self.rows.push(AccountRow {
            model: model.into(),
            scope: scope.into(),
            key: key.into(),
            term: term.into(),
            count: count as i64,
        });
    }

    /// Walks every chain from its genesis: contiguity (**C1**), the writers' counters, and the ledger's.
    async fn partitions(&mut self, store: &Store, manifest: &Manifest, state: &LedgerState) -> Result<()> {
        for chain in manifest.chains() {
            let name = paths::chain_name(&chain.key, chain.partition);
            let key = format!("{}[{}]", chain.topic, chain.partition);
            let Some(genesis) = store.get(&paths::genesis(&name)).await? else { continue };
            let genesis: Genesis = serde_json::from_slice(&genesis.bytes).context("read a genesis")?;
            let known = state.chains.get(&name);
            let applied_to = known.and_then(|chain| chain.applied_to).unwrap_or(genesis.from);
            let (mut at, mut total, mut unapplied) = (genesis.from, Totals::default(), 0);
            let mut applied = Totals::default();
            let is_labels = chain.kind == driftline_store::TopicKind::Labels;
            if let Some(retired) = known.and_then(|known| known.retired.as_ref()) {
                // Behind the boundary there is nothing left to count but what was written down when it was given up.
                at = retired.to;
                total.behind(&retired.totals);
                applied.behind(&retired.totals);
                self.accept_behind(&retired.totals, is_labels);
                self.boundary(store, &name, retired).await?;
            }
            loop {
                let path = paths::raw_object(&name, at as u64);
                let Some(object) = store.get(&path).await? else { break };
                let footer = RawFooter::from_bytes(&object.bytes).with_context(|| format!("read {path}"))?;
                self.object(&path, &footer, &object.bytes, at)?;
                total.add(&footer);
                if at < applied_to {
                    applied.add(&footer);
                    self.accept(&footer, is_labels);
                } else {
                    unapplied += footer.accepted + footer.forgotten_total();
                }
                at = footer.to;
            }
            self.expect(&key, (at - genesis.from) as u64, total.records + total.gaps, "offsets, but records + gaps =");
            if let Some(known) = known {
                self.expect(&key, known.forgotten_total(), applied.forgotten, "forgotten by the ledger, but raw/ says");
                self.expect(&key, known.accepted, applied.accepted, "accepted by the ledger, but raw/ says");
                self.expect(&key, known.records, applied.records, "records by the ledger, but raw/ says");
                self.expect(
                    &key,
                    known.rejected.values().sum(),
                    applied.rejected.values().sum(),
                    "rejected by the ledger, but raw/ says",
                );
            }
            self.push(account::NO_MODEL, "partition", &key, "records", total.records);
            self.push(account::NO_MODEL, "partition", &key, "gaps", total.gaps);
            self.push(account::NO_MODEL, "partition", &key, "accepted", total.accepted - total.forgotten);
            if total.forgotten > 0 {
                self.push(account::NO_MODEL, "partition", &key, "forgotten", total.forgotten);
            }
            for (reason, count) in &total.rejected {
                self.push(account::NO_MODEL, "partition", &key, &format!("rejected:{reason}"), *count);
            }
            if unapplied > 0 {
                self.push(account::NO_MODEL, "partition", &key, "accepted_unapplied", unapplied);
            }
        }
        Ok(())
    }

    /// One object: it begins where the one before ended, and its counters say what its rows say.
    fn object(&mut self, path: &str, footer: &RawFooter, bytes: &bytes::Bytes, at: i64) -> Result<()> {
        if footer.from != at || footer.to <= footer.from {
            self.fault(format!("{path}: holds [{}, {}), and the chain is at {at}", footer.from, footer.to));
        }
        let rows = driftline_aggregator::objects::row_count(bytes).with_context(|| format!("read {path}"))? as u64;
        self.expect(path, rows, footer.accepted + footer.rejected_total(), "rows, but accepted + rejected =");
        if footer.kind != RawKind::Gap && !footer.adds_up() {
            self.fault(format!("{path}: records, jumps and rows do not match its offsets"));
        }
        Ok(())
    }

    fn accept(&mut self, footer: &RawFooter, is_labels: bool) {
        let kind = if is_labels { RawKind2::Labels } else { RawKind2::Predictions };
        for share in &footer.models {
            *self.accepted.entry((share.model.clone(), kind)).or_default() += share.rows + share.forgotten_rows();
        }
    }

    fn accept_behind(&mut self, totals: &RetiredTotals, is_labels: bool) {
        let kind = if is_labels { RawKind2::Labels } else { RawKind2::Predictions };
        for (model, rows) in &totals.models {
            *self.accepted.entry((model.clone(), kind)).or_default() += rows;
        }
    }

    /// What is deleted lies behind a boundary that writers find: else a deleted slot could be filled again.
    async fn boundary(&mut self, store: &Store, chain: &str, retired: &RetiredChain) -> Result<()> {
        let path = paths::boundary(chain);
        let boundary = Boundary::read(store, &path).await.with_context(|| format!("read {path}"))?;
        let to = boundary.map_or(0, |boundary| boundary.to);
        let is_deleted = retired.deleting.is_empty();
        if is_deleted && to < retired.to as u64 {
            self.fault(format!("{path} says {to}, but objects up to {} are deleted", retired.to));
        }
        Ok(())
    }

    /// The windows' accounts by the ledger, against the rows in `history/`, against what was accepted.
    async fn windows(&mut self, sessions: &Sessions, state: &LedgerState, name: &str) -> Result<()> {
        let Some(model) = state.models.get(name) else { return Ok(()) };
        let counted = history_counts(sessions, name).await?;
        let mut sum = 0;
        for record in model.windows.values() {
            let rows = account::window(name, record);
            sum += rows.iter().map(|row| row.count as u64).sum::<u64>();
            let published = record.published();
            let key = format!("{name} {}", show(record.window.start));
            if record.completed == record.revision && record.revision > 0 {
                let found = counted.get(&record.window.start).copied().unwrap_or_default();
                let said = [
                    published.rows,
                    published.after_final,
                    published.failed,
                    published.invalid,
                    published.labelled,
                    published.unlabelled,
                ];
                if said != found {
                    self.fault(format!(
                        "{key}: the ledger says rows, after_final, failed, invalid, labelled, unlabelled = {said:?}, history/ has {found:?}"
                    ));
                }
            }
            self.rows.extend(rows);
        }
        let folded = account::folded(name, model);
        sum += folded.iter().map(|row| row.count as u64).sum::<u64>();
        self.rows.extend(folded);
        let accepted = self.accepted.get(&(name.to_owned(), RawKind2::Predictions)).copied().unwrap_or_default();
        if accepted > sum && state.untracked(RawKind::Predictions) > 0 {
            *self.untracked_before.entry(RawKind2::Predictions).or_default() += accepted - sum;
        } else {
            self.expect(
                &format!("model {name}, predictions"),
                accepted,
                sum,
                "accepted, but the windows' terms sum to",
            );
        }
        Ok(())
    }

    /// What belongs to no model that is tracked, by the ledger, against what raw/ has of such models.
    fn untracked(&mut self, state: &LedgerState) {
        self.rows.extend(account::untracked(state));
        for (kind, of, word) in [
            (RawKind::Predictions, RawKind2::Predictions, "predictions"),
            (RawKind::Labels, RawKind2::Labels, "labels"),
        ] {
            let counts =
                self.accepted.iter().filter(|((model, kind), _)| *kind == of && !state.models.contains_key(model));
            let found: u64 = counts.map(|(_, rows)| rows).sum();
            // A model that was named in the configuration later has rows from before that, which are not tracked either.
            let (before, said) = (self.untracked_before.get(&of).copied().unwrap_or_default(), state.untracked(kind));
            let what = format!("{word} of models that are not tracked");
            if of == RawKind2::Predictions {
                self.expect(&what, said, found + before, "by the ledger, but raw/ has");
            } else if said < found {
                self.fault(format!("{what}: {said} by the ledger, but raw/ has {found}"));
            }
        }
    }

    async fn labels(&mut self, sessions: &Sessions, state: &LedgerState, name: &str) -> Result<()> {
        let rows = account::labels(sessions, state, name).await.context("count the labels")?;
        let sum: i64 = rows.iter().map(|row| row.count).sum();
        let accepted = self.accepted.get(&(name.to_owned(), RawKind2::Labels)).copied().unwrap_or_default();
        self.expect(&format!("model {name}, labels"), accepted, sum as u64, "accepted, but the terms sum to");
        self.rows.extend(rows);
        Ok(())
    }

    fn batch(&self) -> Result<RecordBatch> {
        let text = |of: fn(&AccountRow) -> &str| -> ArrayRef {
            Arc::new(self.rows.iter().map(|row| Some(of(row))).collect::<StringArray>())
        };
        RecordBatch::try_from_iter([
            ("scope", text(|row| &row.scope)),
            ("model_name", text(|row| &row.model)),
            ("key", text(|row| &row.key)),
            ("term", text(|row| &row.term)),
            ("count", Arc::new(self.rows.iter().map(|row| row.count).collect::<Int64Array>()) as ArrayRef),
        ])
        .context("print the accounts")
    }
}

#[derive(Default)]
struct Totals {
    records: u64,
    gaps: u64,
    /// Those that `forget` has taken out included.
    accepted: u64,
    forgotten: u64,
    rejected: BTreeMap<String, u64>,
}

impl Totals {
    fn behind(&mut self, totals: &RetiredTotals) {
        self.records += totals.records;
        self.gaps += totals.gaps;
        self.accepted += totals.accepted;
        self.forgotten += totals.forgotten.values().sum::<u64>();
        for (reason, count) in &totals.rejected {
            *self.rejected.entry(reason.as_str().to_owned()).or_default() += count;
        }
    }

    fn add(&mut self, footer: &RawFooter) {
        self.records += footer.records;
        self.gaps += footer.skipped_offsets;
        if footer.kind == RawKind::Gap && footer.skipped_offsets == 0 {
            self.gaps += (footer.to - footer.from) as u64;
        }
        self.accepted += footer.accepted + footer.forgotten_total();
        self.forgotten += footer.forgotten_total();
        for (reason, count) in &footer.rejected {
            *self.rejected.entry(reason.as_str().to_owned()).or_default() += count;
        }
    }
}

/// Window start → rows, after final, failed, invalid, labelled, unlabelled, counted from the rows.
async fn history_counts(sessions: &Sessions, model: &str) -> Result<BTreeMap<i64, [u64; 6]>> {
    let session: SessionContext = sessions.open()?;
    let folder = format!("history/model_name={}", driftline_store::encode_segment(model));
    let mut counts = BTreeMap::new();
    if !register_folder(&session, "history", &folder, &["date"]).await? {
        return Ok(counts);
    }
    let sql = "SELECT CAST(window_start AS BIGINT), count(*), count(*) FILTER (WHERE after_final), \
               count(*) FILTER (WHERE NOT after_final AND error IS NOT NULL), \
               count(*) FILTER (WHERE NOT after_final AND error IS NULL AND invalid_reason IS NOT NULL), \
               count(*) FILTER (WHERE NOT after_final AND error IS NULL AND invalid_reason IS NULL AND label IS NOT NULL), \
               count(*) FILTER (WHERE NOT after_final AND error IS NULL AND invalid_reason IS NULL AND label IS NULL), \
               count(DISTINCT prediction_id || chr(0) || model_version) \
               FROM history GROUP BY 1";
    for batch in session.sql(sql).await?.collect().await? {
        use arrow::array::AsArray;
        let column = |at: usize| batch.column(at).as_primitive::<arrow::datatypes::Int64Type>();
        for row in 0..batch.num_rows() {
            let number = |at: usize| column(at).value(row) as u64;
            anyhow::ensure!(
                number(1) == number(7),
                CheckFailed(format!(
                    "history/ of {} has a prediction twice in the window at {}",
                    sql_text(model),
                    show(column(0).value(row))
                ))
            );
            counts.insert(column(0).value(row), [1, 2, 3, 4, 5, 6].map(number));
        }
    }
    Ok(counts)
}
