//! One function per thing that happens.
use std::sync::OnceLock;
use std::time::Duration;

use driftline_schemas::tables::MetricRow;
use opentelemetry::metrics::{Counter, Gauge, Histogram};
use opentelemetry::{KeyValue, global};

struct Instruments {
    evaluations: Counter<u64>,
    duration: Histogram<f64>,
    metric: Gauge<f64>,
    labelled: Gauge<u64>,
}

/// Series of model metrics at most; more models than that are left to SQL.
const SERIES_MAX: usize = 2000;

fn instruments() -> &'static Instruments {
    static INSTRUMENTS: OnceLock<Instruments> = OnceLock::new();
    INSTRUMENTS.get_or_init(|| {
        let meter = global::meter("driftline");
        Instruments {
            evaluations: meter.u64_counter("driftline_evaluations").build(),
            duration: meter.f64_histogram("driftline_evaluation_duration").with_unit("s").build(),
            metric: meter.f64_gauge("driftline_model_metric").build(),
            labelled: meter.u64_gauge("driftline_model_labelled").build(),
        }
    })
}

/// A window was evaluated. `latest` says whether it is the newest of its model with labels: its figures are exported.
pub fn evaluated(model: &str, elapsed: Duration, rows: &[MetricRow], latest: bool, models: usize) {
    let i = instruments();
    i.evaluations.add(1, &[]);
    i.duration.record(elapsed.as_secs_f64(), &[]);
    if !latest || models > SERIES_MAX / 20 {
        return;
    }
    for row in rows.iter().filter(|row| row.segment.is_none() && row.model_version.is_none() && row.class.is_none()) {
        if let Some(value) = row.value {
            let labels = [KeyValue::new("model", model.to_owned()), KeyValue::new("metric", row.metric.clone())];
            i.metric.record(value, &labels);
        }
        i.labelled.record(row.n_labelled.max(0) as u64, &[KeyValue::new("model", model.to_owned())]);
    }
}

/// A step failed and will be repeated.
pub fn step_failed(error: &crate::Error, pause: Duration) {
    tracing::warn!(%error, ?pause, "evaluation is interrupted; nothing is lost, trying again");
}
