//! What the ledger's records add up to: pure, and the same for everyone who replays them.
use std::collections::BTreeMap;

use driftline_schemas::clock::{MINUTE, Micros};
use driftline_schemas::config::{JudgeConfig, ModelSettings};
use driftline_schemas::event::{MAX_SKEW, Reason};
use driftline_schemas::ledger::{
    Applied, AppliedModel, ChainInfo, ConfigEpoch, Entry, Input, Job, PartCounts, Record, RetiredObjects, Shape,
    WindowState,
};
use driftline_schemas::raw::{Facts, RawKind, RetiredTotals};
use driftline_schemas::tables::Task;
use driftline_schemas::window::Window;
use serde::{Deserialize, Serialize};

use crate::eras::{self, Era};
use crate::shared::Shared;
use crate::watermark;

/// The state of everything, after the first [`LedgerState::next_seq`] records.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LedgerState {
    /// The next free slot as far as this replica knows.
    pub next_seq: u64,
    /// The configuration in force.
    pub config: Option<Shared<ConfigEpoch>>,
    /// All configurations there have been, by epoch: a job follows the one it was decided under.
    pub epochs: BTreeMap<u64, Shared<ConfigEpoch>>,
    /// Source partitions by chain name.
    pub chains: BTreeMap<String, ChainState>,
    /// Models by name.
    pub models: BTreeMap<String, Shared<ModelState>>,
    /// Label objects that a prediction which is still to come might need.
    pub labels: Vec<LabelObject>,
    /// The last record that was more than a report of work done: whoever had found something before it, and has not said
    /// so, loses the slot.
    #[serde(default)]
    pub last_decision: u64,
    /// Ids that are to be left out, by model.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub forgotten: BTreeMap<String, Shared<ForgottenIds>>,
}

/// What is to be left out of a model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ForgottenIds {
    /// Keyed hash of an id → the record that asked for it.
    pub ids: BTreeMap<String, u64>,
    /// The last record that asked.
    pub last: u64,
    /// Up to this record nothing is left in the store.
    pub done: u64,
    /// When the last record asked.
    pub asked_at: Micros,
}

impl ForgottenIds {
    /// Whether objects are still to be rewritten.
    pub fn is_open(&self) -> bool {
        self.done < self.last
    }
}

/// One source partition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChainState {
    /// What it carries.
    pub info: ChainInfo,
    /// First offset that is not applied yet; `None` until its genesis is known.
    pub applied_to: Option<i64>,
    /// The last statement that it stands at its end.
    pub facts: Option<Facts>,
    /// Kafka records applied.
    pub records: u64,
    /// Offsets without a record.
    pub skipped: u64,
    /// Offsets lost, by an operator's word.
    pub gaps: u64,
    /// Events accepted.
    pub accepted: u64,
    /// Events rejected, by reason.
    pub rejected: BTreeMap<Reason, u64>,
    /// Of the events accepted, those that `forget` has taken out, by model.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub forgotten: BTreeMap<String, u64>,
    /// Of the events accepted, those of models that are not tracked.
    #[serde(default)]
    pub untracked: u64,
    /// What lies behind its boundary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<Box<RetiredChain>>,
}

impl ChainState {
    /// The first offset whose object is kept, or its genesis; `None` until that is known.
    pub fn kept_from(&self) -> Option<i64> {
        self.retired.as_ref().map(|retired| retired.to).or(self.info.genesis)
    }

    /// Accepted events that have been taken out, all models together.
    pub fn forgotten_total(&self) -> u64 {
        self.forgotten.values().sum()
    }
}

/// The part of a chain that lies behind its boundary.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RetiredChain {
    /// The boundary.
    pub to: i64,
    /// What its objects held.
    pub totals: RetiredTotals,
    /// First offsets of objects that may still be in the store.
    pub deleting: Vec<i64>,
}

/// One model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelState {
    /// Its number in order of appearance, from 0: those from `models_max` on are refused.
    pub ordinal: usize,
    /// Inferred task and positive class.
    pub task: Option<(Task, Option<String>)>,
    /// What its predictions look like, while nobody has said its task.
    pub shape: Shape,
    /// Which configuration its windows follow, the oldest first.
    pub eras: Vec<Era>,
    /// Event time has passed this; it never goes back (**T2**).
    pub watermark: Option<Micros>,
    /// Newest event of each partition, by chain name.
    pub partitions: BTreeMap<String, PartitionTime>,
    /// Its windows by start.
    pub windows: BTreeMap<Micros, WindowRecord>,
    /// Prediction rows applied.
    pub predictions: u64,
    /// Label rows applied.
    pub labels: u64,
    /// The windows whose history has been deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folded: Option<Folded>,
}

impl ModelState {
    /// Whether a window's history has been deleted: it is never judged again.
    pub fn is_folded(&self, start: Micros) -> bool {
        self.folded.as_ref().is_some_and(|folded| start < folded.before)
    }
}

/// Windows of which only their account is left.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Folded {
    /// First event time that is kept.
    pub before: Micros,
    /// How many there were.
    pub windows: u64,
    /// Their accounts together. Rows that come later still are `after_final`.
    pub counts: PartCounts,
}

/// A model's newest event in one partition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartitionTime {
    /// Predictions or labels.
    pub kind: RawKind,
    /// Largest event time.
    pub max_event_time: Micros,
    /// When the raw object that holds it was written.
    pub written_at: Micros,
}

/// One window of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WindowRecord {
    /// The window.
    pub window: Window,
    /// Its state.
    pub state: WindowState,
    /// The state that its last job was decided under.
    pub judged_state: Option<WindowState>,
    /// Number of parts; 0 before the first job.
    pub parts: u32,
    /// The last revision decided.
    pub revision: u64,
    /// The last revision published.
    pub completed: u64,
    /// The last revision that wrote `history/`.
    pub history_revision: u64,
    /// The job in work, if any.
    pub open: Option<Job>,
    /// Parts of the open job that are judged.
    pub judged: BTreeMap<u32, PartCounts>,
    /// The account as of the last revision published, by part.
    pub counts: BTreeMap<u32, PartCounts>,
    /// Objects applied and not in any job yet.
    pub pending: Vec<Input>,
    /// Prediction rows in `pending`.
    pub pending_rows: u64,
    /// Prediction rows in the open job's inputs.
    pub open_rows: u64,
    /// Prediction rows applied.
    pub rows: u64,
    /// Label rows routed here.
    pub labels: u64,
    /// `rows` at the last decision.
    pub rows_decided: u64,
    /// `labels` at the last decision.
    pub labels_decided: u64,
    /// Rows that came when the window was no longer open.
    pub late: u64,
    /// Since when something new waits.
    pub dirty_since: Option<Micros>,
    /// When the last row or label came.
    pub touched_at: Micros,
    /// When the first job was decided.
    pub first_decided_at: Option<Micros>,
    /// When the last job was decided.
    pub decided_at: Option<Micros>,
    /// The configuration changed: judge all rows anew.
    pub rejudge: bool,
    /// The configuration that `reevaluate` put it under; else it follows that of its era.
    pub epoch: Option<u64>,
    /// Bytes of `history/` written for it so far.
    pub bytes_written: u64,
}

/// A label object that is still findable by id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelObject {
    /// Chain name.
    pub chain: String,
    /// First offset: names the object.
    pub from: i64,
    /// First offset after.
    pub to: i64,
    /// When it was applied.
    pub applied_at: Micros,
    /// Label times by model: smallest and largest.
    pub models: BTreeMap<String, (Micros, Micros)>,
}

impl WindowRecord {
    /// A window of which nothing is known yet.
    pub fn new(window: Window) -> Self {
        Self {
            window,
            state: WindowState::Open,
            judged_state: None,
            parts: 0,
            revision: 0,
            completed: 0,
            history_revision: 0,
            open: None,
            judged: BTreeMap::new(),
            counts: BTreeMap::new(),
            pending: Vec::new(),
            pending_rows: 0,
            open_rows: 0,
            rows: 0,
            labels: 0,
            rows_decided: 0,
            labels_decided: 0,
            late: 0,
            dirty_since: None,
            touched_at: 0,
            first_decided_at: None,
            decided_at: None,
            rejudge: false,
            epoch: None,
            bytes_written: 0,
        }
    }

    /// Whether there is something that its published figures do not show yet.
    pub fn is_dirty(&self) -> bool {
        !self.pending.is_empty() || self.rejudge || self.judged_state != Some(self.state)
    }

    /// Whether all parts of the open job stand in `history/`.
    pub fn is_judged(&self) -> bool {
        self.open.as_ref().is_some_and(|job| self.judged.len() == job.parts as usize)
    }

    /// The account over all parts, as published.
    pub fn published(&self) -> PartCounts {
        sum(&self.counts)
    }

    fn touch(&mut self, at: Micros) {
        self.dirty_since.get_or_insert(at);
        self.touched_at = self.touched_at.max(at);
    }
}

/// The account of all parts together.
pub fn sum(parts: &BTreeMap<u32, PartCounts>) -> PartCounts {
    let mut total = PartCounts::default();
    for counts in parts.values() {
        total.add(counts);
    }
    total
}

/// Models that are tracked at most, in multiples of `models_max`. Those beyond `models_max` are refused, and stay in history as
/// refused; without a bound behind them, an id in the place of a model's name would make a model, with windows and folders of its
/// own, of each prediction, and of each label.
const MODELS_TRACKED: usize = 2;

impl LedgerState {
    /// Whether a model is known, or somebody has named it in the configuration.
    pub fn is_tracked(&self, model: &str) -> bool {
        self.models.contains_key(model) || self.judge_config().is_some_and(|config| config.models.contains_key(model))
    }

    /// How many models that nobody knows yet may still become known (**B1**).
    pub fn room_for_models(&self) -> usize {
        let max = self.judge_config().map_or(usize::MAX, |config| config.models_max.saturating_mul(MODELS_TRACKED));
        max.saturating_sub(self.models.len())
    }

    /// Events accepted of a kind that belong to no model which is tracked.
    pub fn untracked(&self, kind: RawKind) -> u64 {
        self.chains.values().filter(|chain| chain.info.kind == kind).map(|chain| chain.untracked).sum()
    }

    /// The judging configuration in force.
    pub fn judge_config(&self) -> Option<&JudgeConfig> {
        self.config.as_ref().map(|epoch| &epoch.config)
    }

    /// A window, if anything was ever applied to it.
    pub fn window(&self, model: &str, start: Micros) -> Option<&WindowRecord> {
        self.models.get(model)?.windows.get(&start)
    }

    /// Takes the next record in.
    pub fn apply(&mut self, record: &Record) {
        debug_assert_eq!(record.seq, self.next_seq);
        for entry in &record.entries {
            self.apply_entry(entry, record.decided_at, record.routed.as_deref());
        }
        if !record.entries.iter().all(Entry::is_report) {
            self.last_decision = record.seq;
        }
        self.next_seq = record.seq + 1;
    }

    /// Takes one entry in, as if it stood in a record decided at `at`.
    pub fn apply_entry(&mut self, entry: &Entry, at: Micros, routed: Option<&str>) {
        match entry {
            Entry::Config(epoch) => self.apply_config(epoch),
            Entry::Chains { chains } => self.apply_chains(chains),
            Entry::Applied(applied) => self.apply_object(applied, at),
            Entry::Observed { chain, facts } => {
                if let Some(chain) = self.chains.get_mut(chain) {
                    chain.facts = Some(facts.clone());
                }
                self.advance_watermarks();
            }
            Entry::Routed { model, window, labels } => {
                let Some(path) = routed else { return };
                if self.models.get(model).is_some_and(|model| model.is_folded(window.start)) {
                    return;
                }
                let window = self.window_mut(model, *window);
                let input = Input::Routed { path: path.to_owned() };
                if !window.pending.contains(&input) {
                    window.pending.push(input);
                }
                window.labels += labels;
                window.touch(at);
            }
            Entry::Task { model, task, positive_class } => {
                self.apply_task(model, (*task, positive_class.clone()), at);
            }
            Entry::Decided(job) => self.apply_job(job, at),
            Entry::Judged { model, window, revision, part, counts } => {
                // A report may come late, of a window that is no longer kept.
                let Some(window) = self.known_window_mut(model, *window) else { return };
                if window.open.as_ref().is_some_and(|job| job.revision == *revision) {
                    // The first report stands: a later one may have read the object before `forget` rewrote it.
                    window.judged.entry(*part).or_insert_with(|| counts.clone());
                }
            }
            Entry::Completed { model, window, revision } => self.apply_completed(model, *window, *revision),
            Entry::State { model, window, state } => {
                let Some(window) = self.known_window_mut(model, *window) else { return };
                window.state = window.state.max(*state);
                self.retire_labels(at);
            }
            Entry::Reevaluate { model, from, to } => {
                let epoch = self.config.as_ref().map(|epoch| epoch.epoch);
                for window in self.model_mut(model).windows.values_mut() {
                    if from.is_none_or(|from| window.window.end > from) && to.is_none_or(|to| window.window.start < to)
                    {
                        window.epoch = epoch;
                        window.rejudge = true;
                        window.dirty_since.get_or_insert(at);
                    }
                }
            }
            Entry::Retired(objects) => self.apply_retired(objects),
            Entry::Deleted { chain, to } => {
                let retired = self.chains.get_mut(chain).and_then(|chain| chain.retired.as_mut());
                if let Some(retired) = retired.filter(|retired| retired.to == *to) {
                    retired.deleting.clear();
                }
            }
            Entry::Folded { model, before } => self.apply_folded(model, *before),
            Entry::Forget { model, ids } => {
                let seq = self.next_seq;
                let forgotten = self.forgotten.entry(model.clone()).or_default().make_mut();
                for id in ids {
                    forgotten.ids.entry(id.clone()).or_insert(seq);
                }
                forgotten.last = seq;
                forgotten.asked_at = at;
            }
            Entry::Scrubbed { chain, to, forgotten } => {
                if let Some(chain) = self.chains.get_mut(chain).filter(|chain| chain.applied_to == Some(*to)) {
                    chain.forgotten.clone_from(forgotten);
                }
            }
            Entry::ScrubbedPart { model, window, revision, part, counts } => {
                self.apply_scrubbed_part(model, *window, *revision, (*part, counts), at);
            }
            Entry::Forgotten { model, upto } => {
                if let Some(forgotten) = self.forgotten.get_mut(model) {
                    let forgotten = forgotten.make_mut();
                    forgotten.done = forgotten.done.max(*upto);
                }
            }
        }
    }

    fn apply_retired(&mut self, objects: &RetiredObjects) {
        let Some(chain) = self.chains.get_mut(&objects.chain) else { return };
        let retired = chain.retired.get_or_insert_default();
        retired.to = objects.to;
        retired.totals.merge(&objects.totals);
        retired.deleting.extend(&objects.objects);
    }

    /// Windows go, their account stays; and with them go the eras that no window is left of.
    fn apply_folded(&mut self, name: &str, before: Micros) {
        let Some(model) = self.models.get_mut(name) else { return };
        let model = model.make_mut();
        let kept = model.windows.split_off(&before);
        let gone = std::mem::replace(&mut model.windows, kept);
        let folded = model.folded.get_or_insert_default();
        folded.before = folded.before.max(before);
        folded.windows += gone.len() as u64;
        for window in gone.values() {
            folded.counts.add(&window.published());
        }
        let first = model.eras.iter().rposition(|era| era.from <= before).unwrap_or(0);
        model.eras.drain(..first);
        self.drop_epochs();
    }

    /// Lets go of configurations that nothing follows any more.
    fn drop_epochs(&mut self) {
        let mut used: std::collections::BTreeSet<u64> = self.config.iter().map(|epoch| epoch.epoch).collect();
        for model in self.models.values() {
            used.extend(model.eras.iter().map(|era| era.epoch));
            for window in model.windows.values() {
                used.extend(window.epoch.iter().chain(window.open.iter().map(|job| &job.epoch)));
            }
        }
        self.epochs.retain(|epoch, _| used.contains(epoch));
    }

    fn apply_scrubbed_part(
        &mut self,
        model: &str,
        window: Window,
        revision: u64,
        (part, counts): (u32, &PartCounts),
        at: Micros,
    ) {
        let Some(window) = self.known_window_mut(model, window) else { return };
        if let Some(open) = &window.open
            && open.revision == revision
        {
            window.judged.insert(part, counts.clone());
        } else if window.history_revision == revision {
            window.counts.insert(part, counts.clone());
        } else {
            return;
        }
        window.rejudge = true;
        window.dirty_since.get_or_insert(at);
    }

    fn known_window_mut(&mut self, model: &str, window: Window) -> Option<&mut WindowRecord> {
        let known = self.models.get(model)?.windows.contains_key(&window.start);
        if !known {
            return None;
        }
        self.models.get_mut(model)?.make_mut().windows.get_mut(&window.start)
    }

    fn model_mut(&mut self, model: &str) -> &mut ModelState {
        let ordinal = self.models.len();
        let state = self
            .models
            .entry(model.to_owned())
            .or_insert_with(|| Shared::new(ModelState { ordinal, ..ModelState::default() }));
        let state = state.make_mut();
        if state.eras.is_empty()
            && let Some(config) = &self.config
        {
            state.begin(Micros::MIN, config.epoch);
        }
        state
    }

    fn window_mut(&mut self, model: &str, window: Window) -> &mut WindowRecord {
        self.model_mut(model).windows.entry(window.start).or_insert_with(|| WindowRecord::new(window))
    }

    fn apply_config(&mut self, epoch: &ConfigEpoch) {
        eras::begin_all(self, epoch);
        let epoch = Shared::new(epoch.clone());
        self.epochs.insert(epoch.epoch, epoch.clone());
        self.config = Some(epoch);
    }

    fn apply_chains(&mut self, chains: &BTreeMap<String, ChainInfo>) {
        for (name, info) in chains {
            let chain = self.chains.entry(name.clone()).or_insert_with(|| ChainState {
                info: info.clone(),
                applied_to: None,
                facts: None,
                records: 0,
                skipped: 0,
                gaps: 0,
                accepted: 0,
                rejected: BTreeMap::new(),
                forgotten: BTreeMap::new(),
                untracked: 0,
                retired: None,
            });
            chain.info = info.clone();
            chain.applied_to = chain.applied_to.or(info.genesis);
        }
    }

    fn apply_object(&mut self, applied: &Applied, at: Micros) {
        let Some(chain) = self.chains.get_mut(&applied.chain) else { return };
        chain.applied_to = Some(applied.to);
        chain.records += applied.records;
        if applied.gap {
            chain.gaps += (applied.to - applied.from) as u64;
        } else {
            chain.skipped += applied.skipped;
        }
        chain.accepted += applied.accepted;
        chain.untracked += applied.untracked;
        for (reason, count) in &applied.rejected {
            *chain.rejected.entry(*reason).or_default() += count;
        }
        for (model, count) in &applied.forgotten {
            *chain.forgotten.entry(model.clone()).or_default() += count;
        }
        let kind = chain.info.kind;
        for share in &applied.models {
            self.apply_share(applied, share, kind, at);
        }
        if kind == RawKind::Labels && !applied.models.is_empty() {
            let times = |share: &AppliedModel| (share.model.clone(), (share.min_event_time, share.max_event_time));
            self.labels.push(LabelObject {
                chain: applied.chain.clone(),
                from: applied.from,
                to: applied.to,
                applied_at: at,
                models: applied.models.iter().map(times).collect(),
            });
        }
        self.advance_watermarks();
    }

    fn apply_share(&mut self, applied: &Applied, share: &AppliedModel, kind: RawKind, at: Micros) {
        let model = self.model_mut(&share.model);
        let time = model.partitions.entry(applied.chain.clone()).or_insert(PartitionTime {
            kind,
            max_event_time: share.max_event_time,
            written_at: applied.written_at,
        });
        if share.max_event_time > time.max_event_time {
            time.max_event_time = share.max_event_time;
            time.written_at = applied.written_at;
        }
        if let Some(shape) = &share.shape {
            model.shape.merge(shape);
        }
        match kind {
            RawKind::Labels => model.labels += share.rows,
            _ => model.predictions += share.rows,
        }
        let path = driftline_store::paths::raw_object(&applied.chain, applied.from as u64);
        for (window, rows) in &share.windows {
            let folded = self.model_mut(&share.model).folded.as_mut();
            if let Some(folded) = folded.filter(|folded| window.start < folded.before) {
                folded.counts.after_final += rows;
                continue;
            }
            let window = self.window_mut(&share.model, *window);
            let after_final = window.state == WindowState::Final;
            window.pending.push(Input::Raw { path: path.clone(), after_final });
            window.pending_rows += rows;
            window.rows += rows;
            if window.state != WindowState::Open {
                window.late += rows;
            }
            window.touch(at);
        }
    }

    /// What was judged by another guess is judged again: the outcome must not depend on what came first (**T4**).
    fn apply_task(&mut self, name: &str, task: (Task, Option<String>), at: Micros) {
        let is_guessed =
            |window: &WindowRecord| self.epoch_of(name, window).is_none_or(|e| e.config.model(name).task.is_none());
        let judged = self.models.get(name).into_iter().flat_map(|model| model.windows.values());
        let judged = judged.filter(|w| w.revision > 0 && w.state != WindowState::Final && is_guessed(w));
        let judged: Vec<Micros> = judged.map(|window| window.window.start).collect();
        let model = self.model_mut(name);
        if model.task.as_ref().is_some_and(|known| *known != task) {
            for start in judged {
                if let Some(window) = model.windows.get_mut(&start) {
                    window.rejudge = true;
                    window.dirty_since.get_or_insert(at);
                }
            }
        }
        model.task = Some(task);
    }

    fn apply_job(&mut self, job: &Job, at: Micros) {
        let window = self.window_mut(&job.model, job.window);
        window.revision = job.revision;
        window.parts = job.parts;
        window.judged_state = Some(job.state);
        window.pending.retain(|input| !job.inputs.contains(input));
        window.open_rows = window.pending_rows;
        window.pending_rows = 0;
        window.rows_decided = window.rows;
        window.labels_decided = window.labels;
        window.dirty_since = None;
        window.rejudge = false;
        window.first_decided_at.get_or_insert(at);
        window.decided_at = Some(at);
        window.judged.clear();
        window.open = Some(job.clone());
    }

    fn apply_completed(&mut self, model: &str, window: Window, revision: u64) {
        let Some(window) = self.known_window_mut(model, window) else { return };
        if window.revision != revision || !window.is_judged() {
            return;
        }
        window.completed = revision;
        if let Some(job) = window.open.take()
            && job.writes_history()
        {
            window.history_revision = revision;
            window.bytes_written += sum(&window.judged).bytes;
        }
        window.counts = std::mem::take(&mut window.judged);
        window.open_rows = 0;
    }

    fn advance_watermarks(&mut self) {
        let chains = &self.chains;
        let config = self.config.clone();
        for (name, model) in &mut self.models {
            let out_of_orderness = config.as_ref().map_or(MINUTE, |c| c.config.model(name).out_of_orderness);
            let next = watermark::of_predictions(model, chains, out_of_orderness);
            if next > model.watermark {
                model.make_mut().watermark = next;
            }
        }
    }

    /// Lets go of label objects that no window can need any more: the windows that there are have become final, and for
    /// one that is still to come the time has passed, by the partitions' own events or, where one is idle, by the clock.
    fn retire_labels(&mut self, at: Micros) {
        let labels = std::mem::take(&mut self.labels);
        let (models, chains) = (&self.models, &self.chains);
        let horizon = |name: &str| {
            let of_era = |settings: &ModelSettings| settings.label_horizon + settings.window.length_max();
            self.all_settings(name).map(of_era).max().unwrap_or(0)
        };
        let is_needed = |object: &LabelObject| {
            object.models.iter().any(|(name, (_, newest))| {
                let Some(model) = models.get(name) else { return true };
                let horizon = horizon(name);
                let until = newest + MAX_SKEW;
                let waiting = model.windows.range(..until).any(|(_, window)| window.state != WindowState::Final);
                let passed = watermark::of_everything(model, chains).is_some_and(|time| time >= until + horizon)
                    || at >= object.applied_at.max(*newest) + horizon;
                waiting || !passed
            })
        };
        self.labels = labels.into_iter().filter(is_needed).collect();
    }
}
