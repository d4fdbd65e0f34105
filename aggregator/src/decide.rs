//! What to judge, and when a window's state moves on: a pure function of the ledger's state and the clock.
use driftline_ledger::{LedgerState, ModelState, WindowRecord, watermark};
use driftline_schemas::clock::Micros;
use driftline_schemas::config::ReviseConfig;
use driftline_schemas::ledger::{ConfigEpoch, Entry, Job, Shape, WindowState};
use driftline_schemas::tables::Task;

/// Whether delays are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Debounced, as configured.
    Ordinary,
    /// Everything that is new is judged at once, and windows whose end the clock has passed are sealed:
    /// `--until-caught-up` has read all there was.
    CaughtUp,
}

/// A part of a window should stay under so many bytes of Parquet: joining it takes ten times as much memory, and two are joined at once.
const PART_BYTES_MAX: u64 = 64 << 20;
/// Bytes that a joined row takes, before anything is known: smaller makes parts too large, larger makes too many. A row of twenty numeric features
/// takes 220.
const ROW_BYTES_GUESS: u64 = 240;

/// Everything that is to be decided now, given all that is known.
pub fn decide(state: &LedgerState, now: Micros, urgency: Urgency) -> Vec<Entry> {
    let Some(epoch) = &state.config else { return Vec::new() };
    let config = &epoch.config;
    let idle_until = watermark::idle_until(&state.chains, config.idle_timeout);
    let mut entries = Vec::new();
    for (name, model) in &state.models {
        let inferred = infer_task(state, name, model);
        if let Some((task, positive_class)) = &inferred {
            let positive_class = positive_class.clone();
            entries.push(Entry::Task { model: name.clone(), task: *task, positive_class });
        }
        let known = inferred.as_ref().or(model.task.as_ref());
        let horizons = state.horizons(name);
        let passed = watermark::of_everything(model, &state.chains);
        let forgets = state.forgotten.get(name).map_or(0, |forgotten| forgotten.last);
        for window in model.windows.values() {
            let Some(epoch) = state.epoch_of(name, window) else { continue };
            let label_horizon = horizons.of(window.window.start);
            let subject = Subject { name, model, revise: &config.revise, epoch, label_horizon, known, forgets };
            let next = next_state(&subject, window, Clock { now, idle_until, passed, urgency });
            if next != window.state {
                entries.push(Entry::State { model: name.clone(), window: window.window, state: next });
            }
            if let Some(job) = next_job(&subject, window, next, now, urgency) {
                entries.push(Entry::Decided(job));
            }
        }
    }
    entries
}

/// What the state of a window depends on, besides itself.
#[derive(Clone, Copy)]
struct Clock {
    now: Micros,
    idle_until: Option<Micros>,
    passed: Option<Micros>,
    urgency: Urgency,
}

fn next_state(subject: &Subject<'_>, window: &WindowRecord, clock: Clock) -> WindowState {
    let (model, revise) = (subject.model, subject.revise);
    let end = window.window.end;
    let is_sealed = window.state >= WindowState::Sealed
        || model.watermark.is_some_and(|watermark| watermark >= end)
        || clock.idle_until.is_some_and(|idle_until| idle_until >= end)
        || (clock.urgency == Urgency::CaughtUp && end <= clock.now);
    if !is_sealed {
        return WindowState::Open;
    }
    let horizon = subject.label_horizon;
    let is_over = clock.passed.is_some_and(|passed| passed >= end.saturating_add(horizon))
        || window.first_decided_at.is_some_and(|first| clock.now >= first.max(end).saturating_add(horizon));
    let is_quiet = clock.now >= window.touched_at.saturating_add(revise.max_delay);
    // A window becomes final only with everything that came before in its figures.
    if window.state == WindowState::Final || (is_over && is_quiet && window.revision > 0) {
        WindowState::Final
    } else {
        WindowState::Sealed
    }
}

/// A window's model, and what its jobs follow.
struct Subject<'a> {
    name: &'a str,
    model: &'a ModelState,
    /// When windows are judged again; as it is now, for all windows.
    revise: &'a ReviseConfig,
    /// What the window's figures depend on: as it is where the window begins, or as `reevaluate` has said.
    epoch: &'a ConfigEpoch,
    /// How long its labels count.
    label_horizon: Micros,
    known: Option<&'a (Task, Option<String>)>,
    /// The last record that asked to forget ids of the model.
    forgets: u64,
}

impl Subject<'_> {
    fn refusal(&self) -> Option<&'static str> {
        let config = &self.epoch.config;
        if !config.accepts(self.name) {
            Some("unknown_model")
        } else if self.model.ordinal >= config.models_max && !config.models.contains_key(self.name) {
            Some("too_many_models")
        } else {
            None
        }
    }
}

fn next_job(
    subject: &Subject<'_>,
    window: &WindowRecord,
    state: WindowState,
    now: Micros,
    urgency: Urgency,
) -> Option<Job> {
    let (model, settings) = (subject.model, subject.epoch.config.model(subject.name));
    let is_new = !window.pending.is_empty() || window.rejudge || window.judged_state != Some(state);
    if window.completed != window.revision || !is_new || !is_due(subject, window, state, now, urgency) {
        return None;
    }
    let inferred = || subject.known.map_or((Task::Binary, None), Clone::clone);
    let (task, positive_class) = match settings.task {
        Some(task) => (task, None),
        None => inferred(),
    };
    Some(Job {
        model: subject.name.to_owned(),
        window: window.window,
        revision: window.revision + 1,
        previous: window.history_revision,
        parts: if window.parts > 0 { window.parts } else { parts(model, window) },
        state,
        inputs: window.pending.clone(),
        rejudge: window.rejudge,
        epoch: subject.epoch.epoch,
        task,
        positive_class: settings.positive_class.clone().or(positive_class).or_else(|| guess(&model.shape).1),
        refusal: subject.refusal().map(str::to_owned),
        forgets: subject.forgets,
        decided_at: now,
    })
}

/// The debounce: growth after `min_delay`, anything new after a delay that grows with the window's age, both stretched
/// so that the rewritten bytes keep their bound.
fn is_due(subject: &Subject<'_>, window: &WindowRecord, state: WindowState, now: Micros, urgency: Urgency) -> bool {
    let (model, revise) = (subject.model, subject.revise);
    let becomes_final = state == WindowState::Final && window.judged_state != Some(WindowState::Final);
    if urgency == Urgency::CaughtUp || becomes_final || window.rejudge {
        return true;
    }
    let since_decision = window.decided_at.map_or(Micros::MAX, |at| now - at);
    let age = match (state, model.watermark) {
        (WindowState::Open, _) | (_, None) => 0,
        (_, Some(watermark)) => watermark - window.window.end,
    };
    let delay = age.clamp(revise.min_delay, revise.max_delay.max(revise.min_delay));
    let has_changed_state = window.judged_state.is_some_and(|judged| judged != state);
    let spacing = match spacing(window, state, subject.label_horizon, revise) {
        Some(spacing) if has_changed_state => spacing.min(revise.min_delay),
        Some(spacing) => spacing,
        // Not affordable; a mere change of state costs nothing.
        None if has_changed_state && window.pending.is_empty() => revise.min_delay,
        None => return false,
    };
    if since_decision < spacing {
        return false;
    }
    let has_grown = grown(window.rows_decided, window.rows, revise.min_growth)
        || grown(window.labels_decided, window.labels, revise.min_growth);
    if (has_grown || has_changed_state) && since_decision >= revise.min_delay {
        // The very first judgement waits too: rows that come together are judged together.
        return window.decided_at.is_some() || waited(window, now) >= revise.min_delay;
    }
    waited(window, now) >= delay
}

/// How long after the last decision the next one may be, so that the bytes rewritten for a window stay under
/// `max_amplification` times its size. `None`: it has to grow first, or to become final.
///
/// One revision is kept for the final state, and half of all for the time after the window has ended. What is left then
/// is spread so that each revision waits in proportion to the window's age, and the last falls on the horizon: early
/// labels are shown early, and late ones still find something left.
fn spacing(window: &WindowRecord, state: WindowState, horizon: Micros, revise: &ReviseConfig) -> Option<Micros> {
    let Some(decided_at) = window.decided_at.filter(|_| window.bytes_written > 0) else { return Some(0) };
    let spent = window.bytes_written as f64 / expected_bytes(window);
    let left = revise.max_amplification - 1.0 - spent;
    match state {
        WindowState::Open => (left >= (revise.max_amplification / 2.0).max(1.0)).then_some(0),
        WindowState::Sealed if left < 1.0 => None,
        WindowState::Sealed => {
            let born = window.first_decided_at.unwrap_or(decided_at).max(window.window.end);
            let age = (decided_at - born).max(revise.min_delay).max(1) as f64;
            let times = (horizon as f64 / age).max(1.0).powf(1.0 / left);
            Some((age * (times - 1.0)) as Micros)
        }
        // Rows that come too late are only marked: their rewriting waits twice as long each time.
        WindowState::Final => {
            Some((revise.min_delay as f64 * 2f64.powf((1.0 - left).clamp(0.0, 60.0))).min(4e18) as Micros)
        }
    }
}

/// Bytes that a revision made now would have: those published, in proportion to the rows that there are by now.
fn expected_bytes(window: &WindowRecord) -> f64 {
    let growth = window.rows as f64 / window.rows_decided.max(1) as f64;
    window.published().bytes.max(1) as f64 * growth.max(1.0)
}

fn waited(window: &WindowRecord, now: Micros) -> Micros {
    window.dirty_since.map_or(0, |since| now - since)
}

/// Whether a count has grown by a share worth another look; the first one always is.
fn grown(before: u64, after: u64, min_growth: f64) -> bool {
    after > before && (before == 0 || (after - before) as f64 >= min_growth * before as f64)
}

/// Parts of a window: by the rows of the model's fullest window so far, else by the rate within this one.
fn parts(model: &ModelState, window: &WindowRecord) -> u32 {
    let fullest = model.windows.values().filter(|w| w.revision > 0).map(|w| w.rows).max();
    let bytes = model.windows.values().map(|w| (w.published().bytes, w.published().rows)).max();
    let row_bytes = match bytes {
        Some((bytes, rows)) if rows > 1000 => (bytes / rows).max(1),
        _ => ROW_BYTES_GUESS,
    };
    let expected = fullest.unwrap_or_else(|| {
        let newest = model.partitions.values().map(|p| p.max_event_time).max().unwrap_or(window.window.start);
        let elapsed = (newest.min(window.window.end) - window.window.start).max(window.window.length() / 100);
        (window.rows as f64 * window.window.length() as f64 / elapsed.max(1) as f64) as u64
    });
    let bytes = expected.max(window.rows).saturating_mul(row_bytes);
    (bytes.div_ceil(PART_BYTES_MAX)).clamp(1, 1024) as u32
}

/// The task of a model whose settings do not say: from what its predictions look like so far. `None` if it is known.
fn infer_task(state: &LedgerState, name: &str, model: &ModelState) -> Option<(Task, Option<String>)> {
    let is_said = state.all_settings(name).all(|settings| settings.task.is_some());
    if is_said || model.predictions == 0 || !model.windows.values().any(|w| !w.pending.is_empty()) {
        return None;
    }
    let (task, positive_class) = guess(&model.shape);
    // A class that shows up later can make a binary model multiclass; the other way there is no return.
    let is_news = match &model.task {
        None => true,
        Some((Task::Binary, known)) => task != Task::Binary || (known.is_none() && positive_class.is_some()),
        Some(_) => false,
    };
    is_news.then_some((task, positive_class))
}

/// The task that predictions of this shape most likely have, and a binary task's positive class.
pub fn guess(shape: &Shape) -> (Task, Option<String>) {
    let classes = &shape.classes;
    if shape.many_probabilities > 0 {
        return (Task::Multiclass, None);
    }
    let is_numeric = shape.textual == 0 && !classes.is_empty();
    let is_continuous = shape.fractional > 0 || classes.len() >= Shape::CLASSES_MAX;
    if shape.scored == 0 && is_numeric && (is_continuous || classes.len() > 2) {
        return (Task::Regression, None);
    }
    if classes.len() > 2 {
        return (Task::Multiclass, None);
    }
    (Task::Binary, positive_class(shape))
}

fn positive_class(shape: &Shape) -> Option<String> {
    // Of two numbers beside each other, such as 1 and 2, `1` is no more of a yes than the other.
    let is_numbered = |class: &str| class.parse::<f64>().is_ok_and(|number| number > 1.0);
    let is_scale = shape.classes.len() == 2 && shape.scored > 0 && shape.classes.keys().any(|class| is_numbered(class));
    for name in ["1", "true", "yes", "positive"] {
        if shape.classes.contains_key(name) && !is_scale {
            return Some(name.to_owned());
        }
    }
    for (negative, positive) in [("0", "1"), ("false", "true"), ("no", "yes"), ("negative", "positive")] {
        if shape.classes.contains_key(negative) {
            return Some(positive.to_owned());
        }
    }
    let mean = |(rows, sum): &(u64, f64)| sum / (*rows).max(1) as f64;
    match shape.classes.len() {
        2 if shape.scored > 0 => {
            shape.classes.iter().max_by(|a, b| mean(a.1).total_cmp(&mean(b.1))).map(|(class, _)| class.clone())
        }
        2 => shape.classes.keys().next_back().cloned(),
        // Without a class (scores only) or with one, nobody can tell; `1` and `true` count as positive until then.
        _ => None,
    }
}
