//! What `/metrics` says of the models: for each, the figures of its newest published window that has truth, over all versions
//! and segments. More than that is in the tables; this is for a dashboard and for alerts.
use std::collections::{BTreeMap, BTreeSet};

use driftline_ledger::{LedgerState, WindowRecord};
use driftline_schemas::tables::WindowRow;

use crate::EvaluatedWindow;
use crate::metrics::serving::{ERROR_RATE, LATENCY_P95, REQUESTS_PER_SECOND};

/// Values of `metric` are the evaluator's own names, so the number of models bounds the series of one instrument, at about
/// 40 for each. More models than fit are left to SQL.
const MODELS_MAX: usize = 500;

/// One window's figures.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// First instant of the window and first after it, microseconds.
    pub window: (i64, i64),
    /// The revision that the figures are of.
    pub revision: u64,
    /// The metrics that are defined, by name.
    pub metrics: Vec<(String, f64)>,
    /// Predictions in the window.
    pub predictions: u64,
    /// Those with a label.
    pub labelled: u64,
    /// The share of predictions that have a label, of those that can have one.
    pub labelled_ratio: Option<f64>,
    /// Columns that have drifted by the method that decides for them; none where drift was not measured.
    pub drifted_columns: Option<u64>,
    /// How its requests were served.
    pub serving: ServingFigures,
}

/// How a window's requests were served.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServingFigures {
    /// The window's first instant, microseconds.
    window_start: i64,
    revision: u64,
    /// Requests a second.
    pub requests_per_second: Option<f64>,
    /// The share of requests that failed.
    pub error_rate: Option<f64>,
    /// The 95 % quantile of latency, seconds.
    pub latency_p95_secs: Option<f64>,
}

impl ServingFigures {
    fn of(row: &WindowRow, evaluated: &EvaluatedWindow) -> Self {
        let all = evaluated.serving.iter().filter(|s| s.segment.is_none() && s.model_version.is_none());
        let value = |name: &str| all.clone().find(|s| s.metric == name).and_then(|s| s.value);
        Self {
            window_start: row.window_start.timestamp_micros(),
            revision: row.revision.max(0) as u64,
            requests_per_second: value(REQUESTS_PER_SECOND),
            error_rate: value(ERROR_RATE),
            latency_p95_secs: value(LATENCY_P95).map(|ms| ms / 1e3),
        }
    }

    /// Whether the ledger knows of no newer window with requests, whether they have labels or not.
    fn is_newest(&self, model: &str, state: &LedgerState) -> bool {
        is_newest(state, model, (self.window_start, self.revision), |record| record.published().accepted() > 0)
    }
}

impl Figures {
    /// The figures of a window that was published.
    pub fn of(row: &WindowRow, evaluated: &EvaluatedWindow) -> Self {
        let all = evaluated.metrics.iter().filter(|m| m.segment.is_none() && m.model_version.is_none());
        let metrics = all.filter(|m| m.class.is_none()).filter_map(|m| Some((m.metric.clone(), m.value?))).collect();
        let drift = evaluated.drift.iter().filter(|d| d.segment.is_none() && d.model_version.is_none());
        let decides = drift.filter(|d| d.decides != Some(false));
        let judged: Vec<_> = decides.filter_map(|d| Some((d.column_name.as_str(), d.drifted?))).collect();
        let drifted: BTreeSet<&str> = judged.iter().filter(|(_, drifted)| *drifted).map(|(name, _)| *name).collect();
        Self {
            window: (row.window_start.timestamp_micros(), row.window_end.timestamp_micros()),
            revision: row.revision.max(0) as u64,
            metrics,
            predictions: row.predictions.max(0) as u64,
            labelled: row.labelled.max(0) as u64,
            labelled_ratio: row.label_coverage,
            drifted_columns: (!judged.is_empty()).then_some(drifted.len() as u64),
            serving: ServingFigures::of(row, evaluated),
        }
    }

    /// Whether the ledger knows of nothing newer.
    fn is_newest(&self, model: &str, state: &LedgerState) -> bool {
        is_newest(state, model, (self.window.0, self.revision), |record| record.published().labelled > 0)
    }
}

/// Whether a window's start and revision are those of the newest window of a kind.
fn is_newest(state: &LedgerState, model: &str, window: (i64, u64), is_of_kind: fn(&WindowRecord) -> bool) -> bool {
    let mut windows = state.models.get(model).into_iter().flat_map(|model| model.windows.values().rev());
    let newest = windows.find(|record| is_of_kind(record));
    newest.is_some_and(|record| (record.window.start, record.completed) == window)
}

/// The figures that this process exports.
#[derive(Debug, Default)]
pub struct Exported {
    models: BTreeMap<String, Figures>,
    /// Of the newest window with requests: it seldom has labels yet.
    serving: BTreeMap<String, ServingFigures>,
}

impl Exported {
    /// Takes up what was just published, and drops what another process or a newer window has outdated, so that a model
    /// shows once however many evaluators there are.
    pub fn update(&mut self, published: impl IntoIterator<Item = (String, Figures)>, state: &LedgerState) {
        for (model, figures) in published {
            let fits = self.serving.len() < MODELS_MAX || self.serving.contains_key(&model);
            if fits && figures.serving.is_newest(&model, state) {
                self.serving.insert(model.clone(), figures.serving.clone());
            }
            let fits = self.models.len() < MODELS_MAX || self.models.contains_key(&model);
            if fits && figures.is_newest(&model, state) {
                self.models.insert(model, figures);
            }
        }
        self.models.retain(|model, figures| figures.is_newest(model, state));
        self.serving.retain(|model, figures| figures.is_newest(model, state));
    }

    /// How requests are served, by model.
    pub fn serving(&self) -> impl Iterator<Item = (&str, &ServingFigures)> {
        self.serving.iter().map(|(model, figures)| (model.as_str(), figures))
    }

    /// All of them, by model.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Figures)> {
        self.models.iter().map(|(model, figures)| (model.as_str(), figures))
    }
}

#[cfg(test)]
mod tests {
    use driftline_ledger::shared::Shared;
    use driftline_ledger::{ModelState, WindowRecord};
    use driftline_schemas::clock::{MINUTE, time_of};
    use driftline_schemas::ledger::PartCounts;
    use driftline_schemas::tables::{DriftRow, MetricRow};
    use driftline_schemas::window::Window;

    use super::*;

    const HOUR: i64 = 60 * MINUTE;

    fn metric(metric: &str, value: Option<f64>) -> MetricRow {
        MetricRow {
            model: "m".into(),
            window_start: time_of(0),
            window_end: time_of(HOUR),
            metric: metric.into(),
            value,
            n: 10,
            n_labelled: 4,
            state: "open".into(),
            revision: 1,
            decided_at: time_of(0),
            ..MetricRow::default()
        }
    }

    fn drift(column: &str, method: &str, drifted: Option<bool>) -> DriftRow {
        DriftRow {
            model: "m".into(),
            window_start: time_of(0),
            window_end: time_of(HOUR),
            column_name: column.into(),
            method: method.into(),
            threshold: 0.1,
            drifted,
            decides: Some(method == "ks"),
            n: 10,
            n_reference: 10,
            state: "open".into(),
            revision: 1,
            decided_at: time_of(0),
            ..DriftRow::default()
        }
    }

    fn row(start: i64, revision: i64, labelled: i64) -> WindowRow {
        WindowRow {
            model: "m".into(),
            window_start: time_of(start),
            window_end: time_of(start + HOUR),
            state: "open".into(),
            revision,
            predictions: 10,
            labelled,
            waiting: 10 - labelled,
            expired: 0,
            failed: 0,
            invalid: 0,
            duplicates: 0,
            after_final: 0,
            label_coverage: Some(labelled as f64 / 10.0),
            late_predictions: 0,
            decided_at: time_of(0),
        }
    }

    fn figures(start: i64, revision: i64) -> (String, Figures) {
        ("m".into(), Figures::of(&row(start, revision, 4), &EvaluatedWindow::default()))
    }

    /// A ledger in which each window is published at a revision with so many labels.
    fn ledger(windows: &[(i64, u64, u64)]) -> LedgerState {
        let mut model = ModelState::default();
        for (start, completed, labelled) in windows {
            let mut record = WindowRecord::new(Window { start: *start, end: start + HOUR });
            record.completed = *completed;
            let unlabelled = 10 - *labelled;
            record.counts = [(0, PartCounts { labelled: *labelled, unlabelled, ..PartCounts::default() })].into();
            model.windows.insert(*start, record);
        }
        let mut state = LedgerState::default();
        state.models.insert("m".into(), Shared::new(model));
        state
    }

    #[test]
    fn only_defined_metrics_of_all_rows_are_figures_and_a_column_counts_once() {
        let mut of_segment = metric("f1", Some(0.9));
        of_segment.segment = Some("region".into());
        let mut of_version = metric("f1", Some(0.8));
        of_version.model_version = Some("3".into());
        let mut of_class = metric("f1", Some(0.7));
        of_class.class = Some("fraud".into());
        let mut other = drift("amount", "ks", Some(true));
        other.segment = Some("region".into());
        let evaluated = EvaluatedWindow {
            metrics: vec![of_segment, of_version, of_class, metric("f1", Some(0.5)), metric("roc_auc", None)],
            drift: vec![
                other,
                drift("age", "ks", Some(true)),
                drift("age", "psi", Some(true)),
                drift("amount", "psi", Some(true)),
                drift("score", "ks", Some(false)),
                drift("city", "ks", None),
            ],
            ..EvaluatedWindow::default()
        };
        let figures = Figures::of(&row(0, 1, 4), &evaluated);
        assert_eq!(figures.metrics, [("f1".to_owned(), 0.5)]);
        assert_eq!((figures.predictions, figures.labelled, figures.labelled_ratio), (10, 4, Some(0.4)));
        assert_eq!(figures.drifted_columns, Some(1));
        assert_eq!(Figures::of(&row(0, 1, 4), &EvaluatedWindow::default()).drifted_columns, None);
    }

    #[test]
    fn a_model_shows_its_newest_window_with_truth_until_there_is_a_newer() {
        let mut exported = Exported::default();
        let shown = |exported: &Exported| exported.iter().map(|(_, f)| (f.window.0, f.revision)).collect::<Vec<_>>();
        let served =
            |exported: &Exported| exported.serving().map(|(_, f)| (f.window_start, f.revision)).collect::<Vec<_>>();
        // The window after it is published too, but has no label yet.
        exported.update([figures(0, 2), figures(HOUR, 1)], &ledger(&[(0, 2, 4), (HOUR, 1, 0)]));
        assert_eq!(shown(&exported), [(0, 2)]);
        assert_eq!(served(&exported), [(HOUR, 1)], "how requests are served needs no label");
        exported.update([figures(HOUR, 2)], &ledger(&[(0, 2, 4), (HOUR, 2, 1)]));
        assert_eq!(shown(&exported), [(HOUR, 2)]);
        // A revision of an older window changes nothing.
        exported.update([figures(0, 3)], &ledger(&[(0, 3, 5), (HOUR, 2, 1)]));
        assert_eq!(shown(&exported), [(HOUR, 2)]);
        // Another process has published the next revision: it shows there.
        exported.update([], &ledger(&[(0, 3, 5), (HOUR, 3, 2)]));
        assert_eq!((shown(&exported), served(&exported)), (vec![], vec![]));
    }

    #[test]
    fn b1_the_number_of_models_is_bounded() {
        let mut exported = Exported::default();
        let mut state = ledger(&[(0, 1, 1)]);
        let model = state.models.remove("m").unwrap();
        let names: Vec<String> = (0..MODELS_MAX + 10).map(|n| format!("m{n}")).collect();
        for name in &names {
            state.models.insert(name.clone(), model.clone());
        }
        exported.update(names.iter().map(|name| (name.clone(), figures(0, 1).1)), &state);
        assert_eq!((exported.iter().count(), exported.serving().count()), (MODELS_MAX, MODELS_MAX));
    }
}
