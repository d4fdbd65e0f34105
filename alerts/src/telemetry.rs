//! One function per thing that happens.
use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};

use opentelemetry::metrics::Counter;
use opentelemetry::{KeyValue, global};

use crate::life::{State, Status, Transition};
use crate::send::Outcome;

struct Instruments {
    transitions: Counter<u64>,
    deliveries: Counter<u64>,
    reports: Counter<u64>,
}

static INSTRUMENTS: OnceLock<Instruments> = OnceLock::new();
/// Firing alerts by model and severity, as of the last step of this process.
static FIRING: LazyLock<Mutex<BTreeMap<(String, &'static str), u64>>> = LazyLock::new(Mutex::default);

fn instruments() -> &'static Instruments {
    INSTRUMENTS.get_or_init(|| {
        let meter = global::meter("driftline");
        meter
            .u64_observable_gauge("driftline_alerts_firing")
            .with_description("alerts that are firing")
            .with_callback(|observer| {
                for ((model, severity), count) in FIRING.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                    let labels = [KeyValue::new("model", model.clone()), KeyValue::new("severity", *severity)];
                    observer.observe(*count, &labels);
                }
            })
            .build();
        Instruments {
            transitions: meter
                .u64_counter("driftline_alert_transitions")
                .with_description("alerts that were raised, revised, resolved, withdrawn and so on")
                .build(),
            deliveries: meter
                .u64_counter("driftline_alert_deliveries")
                .with_description("notifications by sink and outcome")
                .build(),
            reports: meter.u64_counter("driftline_reports").with_description("scheduled reports by outcome").build(),
        }
    })
}

/// Alerts of a model have changed, or were read.
pub fn stepped(model: &str, transitions: &[Transition], state: &State) {
    for transition in transitions {
        let labels = [KeyValue::new("model", model.to_owned()), KeyValue::new("transition", transition.kind.as_str())];
        instruments().transitions.add(1, &labels);
    }
    instruments();
    let mut firing = FIRING.lock().unwrap_or_else(PoisonError::into_inner);
    firing.retain(|(other, _), _| other != model);
    for tracked in state.series.values() {
        let count = tracked.episodes.iter().filter(|episode| episode.status == Status::Firing).count() as u64;
        if count > 0 {
            *firing.entry((model.to_owned(), tracked.severity.as_str())).or_default() += count;
        }
    }
}

/// Another process looks after a model from now on, and shows its alerts.
pub fn left(model: &str) {
    FIRING.lock().unwrap_or_else(PoisonError::into_inner).retain(|(other, _), _| other != model);
}

/// A sink was told, or not.
pub fn delivery(sink: &str, outcome: &Outcome) {
    let outcome = match outcome {
        Outcome::Done => "delivered",
        Outcome::Again { .. } => "failed",
        Outcome::Refused { .. } => "refused",
        Outcome::Gone => "gone",
    };
    instruments().deliveries.add(1, &[KeyValue::new("sink", sink.to_owned()), KeyValue::new("outcome", outcome)]);
}

/// An occurrence of a report was made.
pub fn report_made(report: &str, made: &crate::reports::Made) {
    tracing::info!(
        report,
        occurrence = driftline_schemas::clock::show(made.occurrence),
        models = made.models.len(),
        skipped = made.skipped,
        "report made"
    );
    instruments().reports.add(1, &[KeyValue::new("report", report.to_owned()), KeyValue::new("outcome", "made")]);
}

/// A report could not be made; it is tried again.
pub fn report_failed(report: &str, model: &str, why: &str) {
    tracing::warn!(report, model, why, "a report cannot be made now; it is tried again");
    instruments().reports.add(1, &[KeyValue::new("report", report.to_owned()), KeyValue::new("outcome", "failed")]);
}

/// A step failed and will be tried again.
pub fn step_failed(error: &crate::Error, pause: std::time::Duration) {
    tracing::warn!(%error, ?pause, "alerts are interrupted; nothing is lost, trying again");
}
