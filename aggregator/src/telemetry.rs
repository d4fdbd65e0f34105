//! One function per thing that happens.
use std::collections::BTreeSet;
use std::sync::{LazyLock, Mutex, Once, OnceLock, PoisonError};
use std::time::Duration;

use driftline_ledger::LedgerState;
use driftline_schemas::clock::{Micros, SECOND};
use driftline_schemas::ledger::{ConfigEpoch, Entry, Job, WindowState};
use opentelemetry::metrics::{Counter, Gauge, Histogram};
use opentelemetry::{KeyValue, global};

use crate::follow::Findings;
use crate::forget::Forgotten;
use crate::retain::Kept;

/// Models of which the log says once that their columns are too many; of more it is only counted.
const MODELS_TOLD_MAX: usize = 1_000;
/// Models whose change of configuration has a line of the log.
const MODELS_SHOWN: usize = 20;

struct Instruments {
    objects: Counter<u64>,
    rows: Counter<u64>,
    routed: Counter<u64>,
    decided: Counter<u64>,
    judged: Counter<u64>,
    judge_duration: Histogram<f64>,
    watermark_delay: Gauge<f64>,
    windows: Gauge<u64>,
    unjudged: Gauge<u64>,
    deleted: Counter<u64>,
    rewritten: Counter<u64>,
    untracked: Counter<u64>,
    into_json: Counter<u64>,
}

fn instruments() -> &'static Instruments {
    static INSTRUMENTS: OnceLock<Instruments> = OnceLock::new();
    INSTRUMENTS.get_or_init(|| {
        let meter = global::meter("driftline");
        Instruments {
            objects: meter.u64_counter("driftline_objects_applied").build(),
            rows: meter.u64_counter("driftline_rows_applied").build(),
            routed: meter.u64_counter("driftline_labels_routed").build(),
            decided: meter.u64_counter("driftline_revisions_decided").build(),
            judged: meter.u64_counter("driftline_revisions").build(),
            judge_duration: meter
                .f64_histogram("driftline_judge_duration")
                .with_unit("s")
                .with_boundaries(driftline_store::SECONDS.to_vec())
                .build(),
            watermark_delay: meter.f64_gauge("driftline_watermark_delay").with_unit("s").build(),
            windows: meter.u64_gauge("driftline_windows").build(),
            unjudged: meter.u64_gauge("driftline_unjudged_rows").build(),
            deleted: meter.u64_counter("driftline_objects_deleted").build(),
            rewritten: meter.u64_counter("driftline_objects_rewritten").build(),
            untracked: meter
                .u64_counter("driftline_rows_untracked")
                .with_description("rows of models beyond twice models_max: they are in raw/ and in no window")
                .build(),
            into_json: meter
                .u64_counter("driftline_columns_into_json")
                .with_description("parts whose features or tags beyond max_feature_columns went into JSON")
                .build(),
        }
    })
}

/// This process's configuration is the one in force.
pub fn configured(epoch: &ConfigEpoch) {
    tracing::info!(epoch = epoch.epoch, "configuration recorded in the ledger");
    for (model, from) in epoch.from.iter().take(MODELS_SHOWN) {
        tracing::info!(model, from = %driftline_schemas::clock::show(*from), "its windows follow the new configuration from here on");
    }
}

/// Another process has recorded another configuration, and all follow it.
pub fn other_configuration(epoch: u64) {
    tracing::warn!(
        epoch,
        "the ledger follows another configuration than this process was given, the one recorded last"
    );
}

/// Raw objects were applied and windows decided, by the ledger's word.
pub fn appended(findings: &Findings, decisions: &[Entry]) {
    let i = instruments();
    for entry in &findings.entries {
        if let Entry::Applied(applied) = entry {
            i.objects.add(1, &[]);
            i.rows.add(applied.models.iter().map(|model| model.rows).sum(), &[]);
            untracked(applied.untracked, &applied.chain);
        }
    }
    i.routed.add(findings.labels.len() as u64, &[]);
    for entry in decisions {
        match entry {
            Entry::Decided(job) => {
                i.decided.add(1, &[]);
                tracing::debug!(model = job.model, window = %show(job), revision = job.revision, inputs = job.inputs.len(), "decided");
            }
            Entry::State { model, window, state } => {
                tracing::info!(model, window = %driftline_schemas::clock::show(window.start), state = state.as_str(), "window");
            }
            Entry::Task { model, task, positive_class } => {
                tracing::info!(model, ?task, ?positive_class, "task inferred; set it in [[models]] to fix it");
            }
            _ => {}
        }
    }
}

/// Rows of models that are not tracked, for want of room. The log says so when it happens first.
fn untracked(rows: u64, chain: &str) {
    static TOLD: Once = Once::new();
    instruments().untracked.add(rows, &[]);
    if rows > 0 {
        TOLD.call_once(|| {
            tracing::warn!(
                chain,
                rows,
                "there are more than twice models_max models; rows of further ones stay in raw/, counted as too_many_models, in no window"
            );
        });
    }
}

/// Features or tags beyond `max_feature_columns` went into JSON. The log says so once a model.
pub fn went_into_json(model: &str, max: usize) {
    static TOLD: LazyLock<Mutex<BTreeSet<String>>> = LazyLock::new(Mutex::default);
    instruments().into_json.add(1, &[]);
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if told.len() < MODELS_TOLD_MAX && told.insert(model.to_owned()) {
        tracing::warn!(
            model,
            max_feature_columns = max,
            "more features or tags than columns; the last by name go into features_json or tags_json"
        );
    }
}

/// A part was judged.
pub fn judged(job: &Job, part: u32, elapsed: Duration) {
    let i = instruments();
    i.judged.add(1, &[KeyValue::new("model", job.model.clone())]);
    i.judge_duration.record(elapsed.as_secs_f64(), &[]);
    tracing::debug!(model = job.model, window = %show(job), revision = job.revision, part, ?elapsed, "judged");
}

/// How far things have come.
pub fn state(state: &LedgerState, now: Micros) {
    let i = instruments();
    for (name, model) in &state.models {
        let labels = [KeyValue::new("model", name.clone())];
        if let Some(watermark) = model.watermark {
            i.watermark_delay.record((now - watermark) as f64 / SECOND as f64, &labels);
        }
        for kind in [WindowState::Open, WindowState::Sealed, WindowState::Final] {
            let count = model.windows.values().filter(|window| window.state == kind).count() as u64;
            i.windows.record(count, &[labels[0].clone(), KeyValue::new("state", kind.as_str())]);
        }
        i.unjudged.record(model.windows.values().map(|w| w.pending_rows + w.open_rows).sum(), &labels);
    }
}

/// Retention has been kept.
pub fn kept(kept: Kept) {
    instruments().deleted.add(kept.deleted, &[]);
    if kept != Kept::default() {
        tracing::info!(given_up = kept.retired, deleted = kept.deleted, windows = kept.folded, "retention");
    }
}

/// Nothing is left in the store of what was to be forgotten of a model.
pub fn forgotten(model: &str, done: Forgotten) {
    instruments().rewritten.add(done.objects, &[]);
    tracing::info!(model, objects = done.objects, windows = done.windows, "forgotten");
}

/// What is done beside the loop failed, and will be done again.
pub fn house_failed(error: &crate::Error) {
    tracing::warn!(%error, "what is old was not deleted, or what was to be forgotten not finished; trying again later");
}

/// A worker did what the ledger had given to another long since; what it wrote is taken back.
pub fn came_too_late(path: &str) {
    tracing::warn!(path, "this process stood still until its window was gone; what it wrote is removed");
}

/// A step failed and will be repeated.
pub fn step_failed(error: &crate::Error, pause: Duration) {
    tracing::warn!(%error, ?pause, "the store does not answer; nothing is lost, trying again");
}

fn show(job: &Job) -> String {
    driftline_schemas::clock::show(job.window.start)
}
