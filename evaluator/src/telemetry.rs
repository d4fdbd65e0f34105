//! One function per thing that happens.
use std::collections::BTreeSet;
use std::sync::{LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use driftline_ledger::LedgerState;
use opentelemetry::metrics::{Counter, Histogram, Meter};
use opentelemetry::{KeyValue, global};

use crate::figures::{Exported, Figures, ServingFigures};

/// Models of which it is told once that their values are pooled; of more it is only counted.
const POOLED_TOLD_MAX: usize = 1_000;

struct Instruments {
    pooled: Counter<u64>,
    binned: Counter<u64>,
    evaluations: Counter<u64>,
    unreadable: Counter<u64>,
    duration: Histogram<f64>,
}

static INSTRUMENTS: OnceLock<Instruments> = OnceLock::new();

/// Apart from the instruments: a scrape holds the lock that making an instrument needs, and reads the figures under it. If it
/// had to wait for instruments in the making, both would wait for ever.
static EXPORTED: LazyLock<Mutex<Exported>> = LazyLock::new(Mutex::default);

fn instruments() -> &'static Instruments {
    INSTRUMENTS.get_or_init(|| Instruments::new(&global::meter("driftline")))
}

impl Instruments {
    fn new(meter: &Meter) -> Self {
        show_figures(meter);
        Self {
            pooled: meter
                .u64_counter("driftline_values_pooled")
                .with_description(
                    "evaluations in which a segment, or the version, had more values than get rows of their own",
                )
                .build(),
            binned: meter
                .u64_counter("driftline_windows_binned")
                .with_description("evaluations of windows with more rows than memory holds, whose metrics have a bound on their error")
                .build(),
            evaluations: meter
                .u64_counter("driftline_evaluations")
                .with_description("revisions of windows that were evaluated")
                .build(),
            unreadable: meter
                .u64_counter("driftline_reference_errors")
                .with_description("a model's reference file could not be read")
                .build(),
            duration: meter
                .f64_histogram("driftline_evaluation_duration")
                .with_description("from a judged window to its figures")
                .with_unit("s")
                .with_boundaries(driftline_store::SECONDS.to_vec())
                .build(),
        }
    }
}

/// A segment, or the version, has more values than get rows of their own. The log says so once a model and name.
pub(crate) fn values_pooled(model: &str, name: &str, max: usize) {
    if is_first_pooled(model, Some(name)) {
        tracing::warn!(
            model,
            segment = name,
            max_segment_values = max,
            "more values than get rows of their own; the rarest are `__other__` together"
        );
    }
}

/// Counts that a model's values of a segment, or its classes (no name), were pooled; whether it is to be told.
fn is_first_pooled(model: &str, name: Option<&str>) -> bool {
    static TOLD: LazyLock<Mutex<BTreeSet<(String, Option<String>)>>> = LazyLock::new(Mutex::default);
    instruments().pooled.add(1, &[]);
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    told.len() < POOLED_TOLD_MAX && told.insert((model.to_owned(), name.map(str::to_owned)))
}

/// A window has more classes than are told apart.
pub(crate) fn classes_pooled(model: &str, max: usize) {
    if is_first_pooled(model, None) {
        tracing::warn!(
            model,
            max,
            "more classes than are told apart; the rarest labels are `__other__` together: are they classes, or ids?"
        );
    }
}

/// A window has several classes, and the positive one is none of them: all are counted as one, as if they were the negative one. The log says so once a
/// model: where positives are rare, some windows have none.
pub(crate) fn positive_class_absent(model: &str, positive_class: &str, seen: &str) {
    static TOLD: LazyLock<Mutex<BTreeSet<String>>> = LazyLock::new(Mutex::default);
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if told.len() < POOLED_TOLD_MAX && told.insert(model.to_owned()) {
        tracing::warn!(
            model,
            positive_class,
            seen,
            "no label and no prediction of a window is of the positive class, and there are several others, which count as one: is it spelled right?"
        );
    }
}

/// A window has more rows than the memory of a query holds: values that need all of them say how far they may be off.
pub(crate) fn window_binned(model: &str, rows: u64) {
    instruments().binned.add(1, &[]);
    tracing::warn!(model, rows, "more rows than memory_max holds; what needs all of them at once has an error_bound");
}

/// A query needed more memory than was planned for it.
pub(crate) fn out_of_memory(model: &str, error: &crate::Error) {
    tracing::warn!(
        model,
        error = error as &dyn std::error::Error,
        "a query was refused its memory; asked again with less"
    );
}

/// Versions share more rows than the memory of a query holds.
pub(crate) fn not_paired(model: &str, rows: u64) {
    tracing::warn!(model, rows, "more rows than memory_max holds; versions are compared as if they shared no ids");
}

fn exported() -> MutexGuard<'static, Exported> {
    EXPORTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The models' figures are asked for when they are scraped: what is no longer exported must not stay behind.
fn show_figures(meter: &Meter) {
    let of = |model: &str| [KeyValue::new("model", model.to_owned())];
    meter
        .f64_observable_gauge("driftline_model_metric")
        .with_description("a model's metric in its newest window with labels, all versions and segments together")
        .with_callback(|observer| {
            for (model, figures) in exported().iter() {
                for (metric, value) in &figures.metrics {
                    let labels = [KeyValue::new("model", model.to_owned()), KeyValue::new("metric", metric.clone())];
                    observer.observe(*value, &labels);
                }
            }
        })
        .build();
    let count = |name: &'static str, about: &'static str, value: fn(&Figures) -> Option<u64>| {
        meter
            .u64_observable_gauge(name)
            .with_description(about)
            .with_callback(move |observer| {
                for (model, figures) in exported().iter() {
                    if let Some(value) = value(figures) {
                        observer.observe(value, &of(model));
                    }
                }
            })
            .build();
    };
    count("driftline_model_predictions", "predictions in that window", |figures| Some(figures.predictions));
    count("driftline_model_labelled", "those of them with a label", |figures| Some(figures.labelled));
    let drifted = "columns that have drifted in that window; none without a reference";
    count("driftline_model_drifted_columns", drifted, |figures| figures.drifted_columns);
    meter
        .f64_observable_gauge("driftline_model_labelled_ratio")
        .with_description("share of that window's predictions that have a label")
        .with_callback(move |observer| {
            for (model, figures) in exported().iter() {
                if let Some(ratio) = figures.labelled_ratio {
                    observer.observe(ratio, &of(model));
                }
            }
        })
        .build();
    let serving =
        |name: &'static str, unit: &'static str, about: &'static str, value: fn(&ServingFigures) -> Option<f64>| {
            meter
                .f64_observable_gauge(name)
                .with_description(about)
                .with_unit(unit)
                .with_callback(move |observer| {
                    for (model, figures) in exported().serving() {
                        if let Some(value) = value(figures) {
                            observer.observe(value, &of(model));
                        }
                    }
                })
                .build();
        };
    let about = "share of requests that failed, in the model's newest window, with labels or not";
    serving("driftline_model_error_ratio", "", about, |figures| figures.error_rate);
    let about = "95 % quantile of latency over all requests of that window";
    serving("driftline_model_latency_p95", "s", about, |figures| figures.latency_p95_secs);
    let about = "requests a second in that window";
    serving("driftline_model_requests_per_second", "", about, |figures| figures.requests_per_second);
    meter
        .f64_observable_gauge("driftline_model_window_end_timestamp")
        .with_description("when that window ends, in seconds since 1970")
        .with_unit("s")
        .with_callback(move |observer| {
            for (model, figures) in exported().iter() {
                observer.observe(figures.window.1 as f64 / 1e6, &of(model));
            }
        })
        .build();
}

/// A window was evaluated.
pub fn evaluated(elapsed: Duration) {
    let i = instruments();
    i.evaluations.add(1, &[]);
    i.duration.record(elapsed.as_secs_f64(), &[]);
}

/// A model's reference file could not be read; it is tried again, and windows are published without drift meanwhile.
pub(crate) fn reference_unreadable(model: &str, error: &crate::Error) {
    instruments().unreadable.add(1, &[KeyValue::new("model", model.to_owned())]);
    tracing::warn!(model, %error, "windows are published without drift; `driftline reevaluate` adds it once the file is there");
}

/// Windows may have been published, here or elsewhere: `/metrics` shows each model's newest one with labels.
pub fn published(figures: Vec<(String, Figures)>, state: &LedgerState) {
    instruments();
    exported().update(figures, state);
}

/// The accounts are not published this time.
pub fn accounts_left(error: &crate::Error) {
    tracing::warn!(%error, "the table `accounts` is as it was: labels cannot be counted within memory_max");
}

/// A step failed and will be repeated.
pub fn step_failed(error: &crate::Error, pause: Duration) {
    tracing::warn!(%error, ?pause, "evaluation is interrupted; nothing is lost, trying again");
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use opentelemetry::metrics::MeterProvider;
    use opentelemetry_sdk::metrics::SdkMeterProvider;
    use prometheus::Registry;

    use super::*;

    /// As if the first evaluation of a process met a scrape. Both used to wait for ever.
    #[test]
    fn a_scrape_does_not_wait_for_instruments_in_the_making() {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter().with_registry(registry.clone()).build().unwrap();
        let provider = SdkMeterProvider::builder().with_reader(exporter).build();
        let meter = provider.meter("driftline");
        let (begun, has_begun) = mpsc::sync_channel(1);
        let (scraped, is_scraped) = mpsc::sync_channel(1);
        let making = std::thread::spawn(move || {
            INSTRUMENTS.get_or_init(|| {
                show_figures(&meter);
                begun.send(()).unwrap();
                is_scraped.recv_timeout(Duration::from_secs(20)).expect("the scrape waits for this");
                Instruments::new(&meter)
            });
        });
        has_begun.recv_timeout(Duration::from_secs(20)).expect("no other test makes the instruments");
        // One more gauge, to see that callbacks were called at all.
        provider.meter("test").u64_observable_gauge("scraped").with_callback(|asked| asked.observe(1, &[])).build();
        assert!(registry.gather().iter().any(|family| family.name() == "scraped"));
        // A failed maker has hung up; its panic is the one to show.
        let _ = scraped.send(());
        making.join().expect("instruments are made");
    }
}
