//! `audit`: the accounts, counted again from what is stored, and whether they add up (**A1**).
//!
//! Three countings meet here: the collectors' counters in the raw objects, the ledger's, and the rows themselves in
//! `raw/` and `history/`.
use std::collections::BTreeMap;

use anyhow::{Context, Result};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::prelude::SessionContext;
use driftline_evaluator::session::{Sessions, register_folder};
use driftline_evaluator::{account, sql_text};
use driftline_ledger::{LedgerState, Replica};
use driftline_schemas::clock::show;
use driftline_schemas::raw::{Genesis, RawFooter, RawKind};
use driftline_schemas::tables::AccountRow;
use driftline_store::{Manifest, Store, paths};
use std::sync::Arc;

use crate::cli::{AuditArgs, Global};
use crate::output::render;
use crate::{CheckFailed, config, pipeline};

pub(crate) async fn run(global: &Global, args: &AuditArgs) -> Result<()> {
    let config = config::load(global)?;
    let store = Store::open(&config.store.url, &config.store.options).context("open the store")?;
    let manifest = Manifest::load(&store).await.context("read the manifest")?;
    let manifest = manifest.with_context(|| format!("there is no Driftline store at {}", config.store.url))?;
    let replica = Replica::open(&store, "audit").await.context("read the ledger")?;
    let sessions = pipeline::sessions(&config, &store);
    let mut audit = Audit { rows: Vec::new(), faults: Vec::new(), accepted: BTreeMap::new() };
    audit.partitions(&store, &manifest, &replica.state).await?;
    for name in replica.state.models.keys() {
        if args.model.as_ref().is_none_or(|model| model == name) {
            audit.windows(&sessions, &replica.state, name).await?;
            audit.labels(&sessions, &replica.state, name).await?;
        }
    }
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

struct Audit {
    rows: Vec<AccountRow>,
    faults: Vec<String>,
    /// (model, kind) → events accepted into objects that the ledger has applied.
    accepted: BTreeMap<(String, RawKind2), u64>,
}

/// The two kinds of events, ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum RawKind2 {
    Predictions,
    Labels,
}

impl Audit {
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
            let applied_to = state.chains.get(&name).and_then(|chain| chain.applied_to).unwrap_or(genesis.from);
            let (mut at, mut total, mut unapplied) = (genesis.from, Totals::default(), 0);
            let mut applied = Totals::default();
            loop {
                let path = paths::raw_object(&name, at as u64);
                let Some(object) = store.get(&path).await? else { break };
                let footer = RawFooter::from_bytes(&object.bytes).with_context(|| format!("read {path}"))?;
                self.object(&path, &footer, &object.bytes, at)?;
                total.add(&footer);
                if at < applied_to {
                    applied.add(&footer);
                    self.accept(&footer, chain.kind == driftline_store::TopicKind::Labels);
                } else {
                    unapplied += footer.accepted;
                }
                at = footer.to;
            }
            self.expect(&key, (at - genesis.from) as u64, total.records + total.gaps, "offsets, but records + gaps =");
            if let Some(known) = state.chains.get(&name) {
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
            self.push(account::NO_MODEL, "partition", &key, "accepted", total.accepted);
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
            *self.accepted.entry((share.model.clone(), kind)).or_default() += share.rows;
        }
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
        let accepted = self.accepted.get(&(name.to_owned(), RawKind2::Predictions)).copied().unwrap_or_default();
        self.expect(&format!("model {name}, predictions"), accepted, sum, "accepted, but the windows' terms sum to");
        Ok(())
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
    accepted: u64,
    rejected: BTreeMap<String, u64>,
}

impl Totals {
    fn add(&mut self, footer: &RawFooter) {
        self.records += footer.records;
        self.gaps += footer.skipped_offsets;
        if footer.kind == RawKind::Gap && footer.skipped_offsets == 0 {
            self.gaps += (footer.to - footer.from) as u64;
        }
        self.accepted += footer.accepted;
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
