//! Follows the raw chains by their known next names, and routes the labels it meets.
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::Array;
use arrow::array::AsArray;
use arrow::datatypes::Float64Type;
use bytes::Bytes;
use driftline_ledger::forget::Omissions;
use driftline_ledger::state::LabelObject;
use driftline_ledger::{ForgetKey, LedgerState};
use driftline_schemas::clock::Micros;
use driftline_schemas::config::ModelSettings;
use driftline_schemas::ledger::{Applied, AppliedModel, ChainInfo, Entry, Input, Shape, WindowState};
use driftline_schemas::raw::{Facts, Genesis, ModelIndex, RawFooter, RawKind};
use driftline_schemas::tables::Task;
use driftline_schemas::window::{BASE_WINDOW, Window};
use driftline_store::{Manifest, Object, Store, TopicKind, paths};

use crate::error::Error;
use crate::filter::{IdFilter, id_hash};
use crate::objects::{self, LabelRow, RoutedLabel};
use crate::route::{LabelIds, ModelIds, RouteIndex, WindowIds, is_in_time};
use crate::{forget, scrub};

/// Objects applied in one record at most: more make larger records, fewer make more of them.
const OBJECTS_MAX: usize = 256;
/// Bytes of raw objects applied in one record at most; bounds what one step holds in memory.
const BYTES_MAX: usize = 128 << 20;

/// Scores count in a [`Shape`] up to this: larger lets their sum leave the range of a double, which JSON cannot hold;
/// smaller would change the order of means.
const SHAPE_SCORE_MAX: f64 = 1e100;

/// What was found since the ledger's last record.
#[derive(Debug, Default)]
pub struct Findings {
    /// Entries to append.
    pub entries: Vec<Entry>,
    /// Labels that the entries route.
    pub labels: Vec<RoutedLabel>,
    /// Whether some chain may have more than was taken.
    pub has_more: bool,
}

/// Reads the raw chains, and keeps the index of ids.
pub struct Follower {
    store: Store,
    index: RouteIndex,
    /// The ledger's length when the index was last brought in line with it.
    synced: Option<u64>,
    /// The key of forgotten ids, once something was forgotten. It never changes.
    forget_key: Option<ForgetKey>,
}

impl Follower {
    /// A follower with an empty index; [`Follower::sync`] fills it from the store.
    pub fn new(store: Store) -> Self {
        Self { store, index: RouteIndex::default(), synced: None, forget_key: None }
    }

    /// Brings the index in line with the ledger: loads what is missing, forgets what is final.
    pub async fn sync(&mut self, state: &LedgerState) -> Result<(), Error> {
        if self.synced == Some(state.next_seq) {
            return Ok(());
        }
        for (name, model) in &state.models {
            for record in model.windows.values() {
                let start = record.window.start;
                if record.state == WindowState::Final {
                    if let Some(ids) = self.index.models.get_mut(name) {
                        ids.windows.remove(&start);
                    }
                    continue;
                }
                self.sync_window(name, record).await?;
            }
        }
        let findable: HashSet<(&str, i64)> =
            state.labels.iter().map(|object| (object.chain.as_str(), object.from)).collect();
        for model in self.index.models.values_mut() {
            model.labels.retain(|(chain, from), _| findable.contains(&(chain.as_str(), *from)));
        }
        for object in &state.labels {
            self.sync_labels(object).await?;
        }
        self.synced = Some(state.next_seq);
        Ok(())
    }

    async fn sync_window(&mut self, model: &str, record: &driftline_ledger::WindowRecord) -> Result<(), Error> {
        let open = record.open.iter().flat_map(|job| &job.inputs);
        let uncovered: Vec<&str> = open.chain(&record.pending).filter_map(raw_path).collect();
        let windows = &mut self.index.models.entry(model.to_owned()).or_default().windows;
        let ids = windows.entry(record.window.start).or_insert_with(|| WindowIds::new(record.window));
        let is_stale = ids.revision != record.history_revision;
        let missing: Vec<String> =
            uncovered.iter().filter(|path| !ids.holds(path)).map(|path| (*path).to_owned()).collect();
        if is_stale {
            let filters = self.filters(model, record).await?;
            let ids = self.window_ids(model, record.window);
            ids.cover(record.history_revision, filters, |path| uncovered.contains(&path));
        }
        for path in missing {
            let Some(object) = self.store.get(&path).await? else { continue };
            let footer = footer_of(&path, &object.bytes)?;
            let Some(share) = footer.models.iter().find(|share| share.model == model) else { continue };
            let inside = |window: i64| record.window.contains(window * BASE_WINDOW);
            let hashes = prediction_hashes(&object.bytes, share, |base| inside(base).then_some(record.window))?;
            let hashes = hashes.into_values().flatten().collect();
            self.window_ids(model, record.window).add(&path, hashes);
        }
        Ok(())
    }

    fn window_ids(&mut self, model: &str, window: Window) -> &mut WindowIds {
        let windows = &mut self.index.models.entry(model.to_owned()).or_default().windows;
        windows.entry(window.start).or_insert_with(|| WindowIds::new(window))
    }

    async fn filters(&self, model: &str, record: &driftline_ledger::WindowRecord) -> Result<Vec<IdFilter>, Error> {
        let mut filters = Vec::new();
        for part in 0..record.parts {
            let name = driftline_schemas::history::part_name(record.window, part);
            let path = paths::filter(model, &name, record.history_revision);
            let stored = self.store.get(&path).await?;
            let filter = stored.and_then(|object| IdFilter::from_bytes(&object.bytes));
            filters.push(match filter {
                Some(filter) => filter,
                None => self.filter_from_history(model, record.window, part).await?,
            });
        }
        Ok(filters)
    }

    /// The filter lies beside the data; should it be gone, the data has all it held.
    async fn filter_from_history(&self, model: &str, window: Window, part: u32) -> Result<IdFilter, Error> {
        let path = crate::judge::history_path(model, window, part);
        let Some(object) = self.store.get(&path).await? else { return Ok(IdFilter::new(Vec::new())) };
        let total = objects::row_count(&object.bytes)?;
        let Some(batch) = objects::read_rows(&object.bytes, &[0..total], &["prediction_id"])? else {
            return Ok(IdFilter::new(Vec::new()));
        };
        let ids = objects::text(&batch, "prediction_id")?;
        Ok(IdFilter::new(ids.iter().flatten().map(id_hash).collect()))
    }

    async fn sync_labels(&mut self, object: &LabelObject) -> Result<(), Error> {
        let key = (object.chain.clone(), object.from);
        let is_known = |model: &String| self.index.models.get(model).is_some_and(|ids| ids.labels.contains_key(&key));
        if object.models.keys().all(is_known) {
            return Ok(());
        }
        let path = paths::raw_object(&object.chain, object.from as u64);
        let Some(stored) = self.store.get(&path).await? else { return Ok(()) };
        let footer = footer_of(&path, &stored.bytes)?;
        for share in footer.models.iter().filter(|share| object.models.contains_key(&share.model)) {
            let labels = read_labels(&stored.bytes, &footer, &share.model)?;
            self.add_labels(&object.chain, object.from, &share.model, &labels);
        }
        Ok(())
    }

    fn add_labels(&mut self, chain: &str, from: i64, model: &str, labels: &[LabelRow]) {
        let known = &mut self.index.models.entry(model.to_owned()).or_default().labels;
        let times = || labels.iter().map(|label| label.time);
        known.entry((chain.to_owned(), from)).or_insert_with(|| LabelIds {
            chain: chain.to_owned(),
            from,
            oldest: times().min().unwrap_or(Micros::MAX),
            newest: times().max().unwrap_or(Micros::MIN),
            filter: IdFilter::new(labels.iter().map(|label| id_hash(&label.id)).collect()),
        });
    }

    /// What is to be left out of what is applied; `None` if nothing was ever forgotten.
    async fn omissions(&mut self, state: &LedgerState) -> Result<Option<Omissions>, Error> {
        if state.forgotten.is_empty() {
            return Ok(None);
        }
        if self.forget_key.is_none() {
            self.forget_key = Some(ForgetKey::load(&self.store).await?);
        }
        Ok(self.forget_key.clone().map(|key| Omissions::of(state, key)))
    }

    /// What lies beyond the ledger's boundaries. `state` must be what [`Follower::sync`] saw last.
    pub async fn find(&mut self, state: &LedgerState, now: Micros) -> Result<Findings, Error> {
        let omissions = self.omissions(state).await?;
        let cache = HashMap::new();
        let mut step = Step { state: state.clone(), findings: Findings::default(), cache, omissions, now };
        self.find_chains(&mut step).await?;
        // Predictions first: a label that lies in the same record then finds its window at once.
        let mut chains: Vec<(String, RawKind)> =
            step.state.chains.iter().map(|(name, chain)| (name.clone(), chain.info.kind)).collect();
        chains.sort_by_key(|(name, kind)| (*kind != RawKind::Predictions, name.clone()));
        let (mut objects, mut bytes) = (0, 0);
        while !chains.is_empty() {
            let mut unfinished = Vec::new();
            for (chain, kind) in chains {
                if objects >= OBJECTS_MAX || bytes >= BYTES_MAX {
                    step.findings.has_more = true;
                    return Ok(step.findings);
                }
                match self.find_next(&mut step, &chain).await? {
                    0 => self.find_facts(&mut step, &chain).await?,
                    size => {
                        objects += 1;
                        bytes += size;
                        unfinished.push((chain, kind));
                    }
                }
            }
            chains = unfinished;
        }
        Ok(step.findings)
    }

    async fn find_chains(&self, step: &mut Step) -> Result<(), Error> {
        let Some(manifest) = Manifest::load(&self.store).await? else { return Ok(()) };
        let mut chains = BTreeMap::new();
        for chain in manifest.chains() {
            let name = paths::chain_name(&chain.key, chain.partition);
            let known = step.state.chains.get(&name);
            let mut genesis = known.and_then(|known| known.info.genesis);
            if genesis.is_none() {
                let path = paths::genesis(&name);
                if let Some(object) = self.store.get(&path).await? {
                    let read: Genesis =
                        serde_json::from_slice(&object.bytes).map_err(|source| Error::Json { path, source })?;
                    genesis = Some(read.from);
                }
            }
            let kind = if chain.kind == TopicKind::Labels { RawKind::Labels } else { RawKind::Predictions };
            let info =
                ChainInfo { topic: chain.topic, partition: chain.partition, kind, current: chain.current, genesis };
            if known.is_none_or(|known| known.info != info) {
                chains.insert(name, info);
            }
        }
        if !chains.is_empty() {
            step.push(Entry::Chains { chains });
        }
        Ok(())
    }

    /// Takes the next object of a chain.
    ///
    /// # Returns
    /// Its size in bytes; 0 if there is none.
    async fn find_next(&mut self, step: &mut Step, chain: &str) -> Result<usize, Error> {
        let Some(from) = step.state.chains.get(chain).and_then(|chain| chain.applied_to) else { return Ok(0) };
        let path = paths::raw_object(chain, from as u64);
        let Some(mut object) = self.store.get(&path).await? else { return Ok(0) };
        if let Some(omissions) = &step.omissions
            && scrub::raw(&path, &object.bytes, omissions)?.is_some()
        {
            // What comes again is dropped before it is applied, and the object counts it.
            let rewrite = |object: &Object| Ok(scrub::raw(&path, &object.bytes, omissions)?.map(|(bytes, _)| bytes));
            forget::rewrite_object(&self.store, &path, rewrite).await?;
            let Some(rewritten) = self.store.get(&path).await? else { return Ok(0) };
            object = rewritten;
        }
        let footer = footer_of(&path, &object.bytes)?;
        if footer.from != from || footer.to <= from {
            return Err(Error::Corrupt(format!("{path} says that it holds [{}, {})", footer.from, footer.to)));
        }
        let kind = step.state.chains.get(chain).map_or(RawKind::Predictions, |chain| chain.info.kind);
        let mut models = Vec::new();
        let mut predictions = Vec::new();
        let (tracked, untracked) = tracked(&step.state, &footer);
        for share in &tracked {
            let mut applied = AppliedModel {
                model: share.model.clone(),
                rows: share.rows + share.forgotten_rows(),
                min_event_time: share.min_event_time,
                max_event_time: share.max_event_time,
                windows: Vec::new(),
                shape: None,
            };
            if kind == RawKind::Predictions {
                applied.windows = windows_of(&step.state, share);
                applied.shape = shape_if_wanted(&step.state, &object.bytes, share)?;
                let state = &step.state;
                let hashes = prediction_hashes(&object.bytes, share, |base| {
                    Some(state.window_of(&share.model, base * BASE_WINDOW))
                })?;
                predictions.push((share.model.clone(), hashes));
            }
            models.push(applied);
        }
        step.push(Entry::Applied(Applied {
            chain: chain.to_owned(),
            from,
            to: footer.to,
            written_at: footer.written_at,
            records: footer.records,
            skipped: footer.skipped_offsets,
            accepted: footer.accepted + footer.forgotten_total(),
            rejected: footer.rejected.clone(),
            gap: footer.kind == RawKind::Gap,
            forgotten: forgotten_by_model(&footer),
            untracked,
            models,
        }));
        for (model, windows) in predictions {
            self.route_predictions(step, &path, &model, windows).await?;
        }
        if kind == RawKind::Labels {
            for share in &tracked {
                let labels = read_labels(&object.bytes, &footer, &share.model)?;
                self.add_labels(chain, from, &share.model, &labels);
                self.route_labels(step, &share.model, &labels);
            }
        }
        Ok(object.bytes.len().max(1))
    }

    /// Predictions may have come after their labels.
    async fn route_predictions(
        &mut self,
        step: &mut Step,
        path: &str,
        model: &str,
        windows: BTreeMap<Window, Vec<u64>>,
    ) -> Result<(), Error> {
        let horizons = step.state.horizons(model);
        for (window, hashes) in windows {
            let is_final =
                step.state.window(model, window.start).is_some_and(|record| record.state == WindowState::Final);
            if is_final {
                continue;
            }
            let hits: Vec<(String, i64, Vec<u64>)> = self.index.models.get(model).map_or_else(Vec::new, |ids| {
                let objects = ids.label_objects_of(window, &hashes, &horizons);
                objects.map(|(labels, hits)| (labels.chain.clone(), labels.from, hits)).collect()
            });
            for (chain, from, mut hits) in hits {
                hits.sort_unstable();
                let labels = self.labels_of_object(step, &chain, from, model).await?;
                for label in labels.iter() {
                    let named = label.hint.map(|hint| step.state.window_of(model, hint));
                    let concerns = hits.binary_search(&id_hash(&label.id)).is_ok()
                        && is_in_time(window, label.time, &horizons)
                        && named.is_none_or(|named| named == window);
                    if concerns {
                        step.route(model, window, label);
                    }
                }
            }
            self.window_ids(model, window).add(path, hashes);
        }
        Ok(())
    }

    async fn labels_of_object(
        &self,
        step: &mut Step,
        chain: &str,
        from: i64,
        model: &str,
    ) -> Result<Arc<Vec<LabelRow>>, Error> {
        let key = (chain.to_owned(), from, model.to_owned());
        if let Some(labels) = step.cache.get(&key) {
            return Ok(labels.clone());
        }
        let path = paths::raw_object(chain, from as u64);
        let labels = match self.store.get(&path).await? {
            Some(object) => read_labels(&object.bytes, &footer_of(&path, &object.bytes)?, model)?,
            None => Vec::new(),
        };
        let labels = Arc::new(labels);
        step.cache.insert(key, labels.clone());
        Ok(labels)
    }

    fn route_labels(&self, step: &mut Step, model: &str, labels: &[LabelRow]) {
        let horizons = step.state.horizons(model);
        let nothing = ModelIds::default();
        let ids = self.index.models.get(model).unwrap_or(&nothing);
        for label in labels {
            let named = label.hint.map(|hint| step.state.window_of(model, hint));
            for window in ids.windows_of(model, label, named, &horizons) {
                step.route(model, window, label);
            }
        }
    }

    async fn find_facts(&self, step: &mut Step, chain: &str) -> Result<(), Error> {
        let path = paths::facts(chain);
        let Some(object) = self.store.get(&path).await? else { return Ok(()) };
        let facts: Facts = serde_json::from_slice(&object.bytes).map_err(|source| Error::Json { path, source })?;
        if is_worth_recording(&step.state, chain, &facts) {
            step.push(Entry::Observed { chain: chain.to_owned(), facts });
        }
        Ok(())
    }
}

/// One step of following: the state with what was found so far.
struct Step {
    state: LedgerState,
    findings: Findings,
    cache: HashMap<(String, i64, String), Arc<Vec<LabelRow>>>,
    /// What is to be left out, if anything is.
    omissions: Option<Omissions>,
    now: Micros,
}

impl Step {
    fn push(&mut self, entry: Entry) {
        self.state.apply_entry(&entry, self.now, None);
        self.findings.entries.push(entry);
    }

    fn route(&mut self, model: &str, window: Window, label: &LabelRow) {
        self.findings.labels.push(RoutedLabel { model: model.to_owned(), window, label: label.clone() });
    }
}

/// Whether a statement could change a decision: others would only lengthen the ledger.
fn is_worth_recording(state: &LedgerState, name: &str, facts: &Facts) -> bool {
    let Some(chain) = state.chains.get(name) else { return false };
    if chain.applied_to != Some(facts.tail) {
        return false;
    }
    let Some(known) = &chain.facts else { return true };
    if known.tail != facts.tail || known.position != facts.position {
        return true;
    }
    let between = |time: Micros| known.confirmed_at < time && time <= facts.confirmed_at;
    let idle_timeout = state.judge_config().map_or(0, |config| config.idle_timeout);
    state.models.values().any(|model| {
        let has_unsealed_end = model.windows.values().any(|record| {
            record.state == WindowState::Open
                && (between(record.window.end)
                    || (record.window.end <= facts.confirmed_at && between(facts.at_end_since + idle_timeout)))
        });
        has_unsealed_end || model.partitions.values().any(|partition| between(partition.written_at + 1))
    })
}

fn raw_path(input: &Input) -> Option<&str> {
    match input {
        Input::Raw { path, .. } => Some(path),
        Input::Routed { .. } => None,
    }
}

pub(crate) fn footer_of(path: &str, bytes: &Bytes) -> Result<RawFooter, Error> {
    RawFooter::from_bytes(bytes).map_err(|source| Error::Footer { path: path.to_owned(), source })
}

/// The models of an object whose rows are applied, and how many rows the others have.
fn tracked<'f>(state: &LedgerState, footer: &'f RawFooter) -> (Vec<&'f ModelIndex>, u64) {
    let (mut tracked, mut untracked, mut room) = (Vec::new(), 0, state.room_for_models());
    for share in &footer.models {
        let is_known = state.models.contains_key(&share.model);
        if is_known || room > 0 || state.is_tracked(&share.model) {
            room = room.saturating_sub(usize::from(!is_known));
            tracked.push(share);
        } else {
            untracked += share.rows + share.forgotten_rows();
        }
    }
    (tracked, untracked)
}

fn forgotten_by_model(footer: &RawFooter) -> BTreeMap<String, u64> {
    let forgotten = footer.models.iter().map(|share| (share.model.clone(), share.forgotten_rows()));
    forgotten.filter(|(_, rows)| *rows > 0).collect()
}

/// The windows that a model's rows belong to, those taken out included: unions of their base windows.
fn windows_of(state: &LedgerState, share: &ModelIndex) -> Vec<(Window, u64)> {
    let mut windows: BTreeMap<Window, u64> = BTreeMap::new();
    for (base, rows) in share.base_windows.iter().chain(&share.forgotten) {
        *windows.entry(state.window_of(&share.model, base * BASE_WINDOW)).or_default() += rows;
    }
    windows.into_iter().collect()
}

fn prediction_hashes(
    bytes: &Bytes,
    share: &ModelIndex,
    window_of: impl Fn(i64) -> Option<Window>,
) -> Result<BTreeMap<Window, Vec<u64>>, Error> {
    let mut windows: BTreeMap<Window, Vec<u64>> = BTreeMap::new();
    let rows = share.first_row as usize..(share.first_row + share.rows) as usize;
    let Some(batch) = objects::read_rows(bytes, &[rows], &["base_window", "prediction_id"])? else {
        return Ok(windows);
    };
    let (bases, ids) = (objects::ints(&batch, "base_window")?, objects::text(&batch, "prediction_id")?);
    let mut last: Option<(i64, Option<Window>)> = None;
    for row in 0..batch.num_rows() {
        let base = bases.value(row);
        let window = match last {
            Some((known, window)) if known == base => window,
            _ => window_of(base),
        };
        last = Some((base, window));
        if let Some(window) = window {
            windows.entry(window).or_default().push(id_hash(ids.value(row)));
        }
    }
    Ok(windows)
}

fn read_labels(bytes: &Bytes, footer: &RawFooter, model: &str) -> Result<Vec<LabelRow>, Error> {
    let Some(rows) = objects::model_rows(footer, model) else { return Ok(Vec::new()) };
    let Some(batch) = objects::read_rows(bytes, &[rows], objects::LABEL_COLUMNS)? else { return Ok(Vec::new()) };
    objects::labels_of(&batch, &footer.topic, footer.partition)
}

/// What the predictions look like, as long as the model's task may still be inferred from it.
fn shape_if_wanted(state: &LedgerState, bytes: &Bytes, share: &ModelIndex) -> Result<Option<Shape>, Error> {
    let known = state.models.get(&share.model).and_then(|model| model.task.as_ref());
    let has = |wanted: fn(&ModelSettings) -> bool| state.all_settings(&share.model).any(wanted);
    let wants_task = has(|settings| settings.task.is_none()) && matches!(known, None | Some((Task::Binary, _)));
    let wants_class = has(|settings| settings.task == Some(Task::Binary) && settings.positive_class.is_none());
    if !wants_task && !wants_class {
        return Ok(None);
    }
    let rows = share.first_row as usize..(share.first_row + share.rows) as usize;
    let columns = ["prediction", "prediction_value", "score", "probabilities"];
    let Some(batch) = objects::read_rows(bytes, &[rows], &columns)? else { return Ok(None) };
    let predictions = objects::text(&batch, "prediction")?;
    let number = |name: &str| batch.column_by_name(name).map(AsArray::as_primitive::<Float64Type>);
    let (values, scores) = (number("prediction_value"), number("score"));
    let probabilities = batch.column_by_name("probabilities").map(AsArray::as_map);
    let mut shape = Shape::default();
    for row in 0..batch.num_rows() {
        let score = scores.filter(|scores| scores.is_valid(row)).map(|scores| scores.value(row));
        shape.scored += u64::from(score.is_some());
        let classes = probabilities.filter(|map| map.is_valid(row)).map_or(0, |map| map.value_length(row));
        shape.many_probabilities += u64::from(classes > 2);
        if predictions.is_null(row) {
            // The most probable class will stand for the prediction, so these are the names of the classes.
            if let Some(map) = probabilities.filter(|_| classes > 0) {
                shape.textual += 1;
                let names = map.value(row);
                names.column(0).as_string::<i32>().iter().flatten().for_each(|name| shape.push_class(name, 1, 0.0));
            }
            continue;
        }
        match values.filter(|values| values.is_valid(row)).map(|values| values.value(row)) {
            None => shape.textual += 1,
            Some(value) if value.fract() != 0.0 => shape.fractional += 1,
            Some(_) => {}
        }
        // A sum that overflows could not be written into the ledger.
        let score = score.unwrap_or(0.0).clamp(-SHAPE_SCORE_MAX, SHAPE_SCORE_MAX);
        shape.push_class(predictions.value(row), 1, score);
    }
    Ok(Some(shape))
}
