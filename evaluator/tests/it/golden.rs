//! E2: equal to scikit-learn and SciPy on the same rows, with 1, 2 and 8 partitions.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use arrow::array::AsArray;
use driftline_evaluator::Reference;
use driftline_evaluator::drift::{
    Bins, Counts, SampleRef, Shares, chi_square, deviation, kolmogorov, ks_2samp, population_stability_index,
    wasserstein,
};
use driftline_schemas::tables::Task;
use serde::{Deserialize, de::DeserializeOwned};

use crate::rows::{batch, booleans, context, doubles, evaluate_everywhere, maps, overall, session, texts};

/// Relative, and absolute below one.
const TOLERANCE: f64 = 1e-12;

#[derive(Deserialize)]
struct Golden<C> {
    cases: Vec<C>,
}

fn cases<C: DeserializeOwned>(file: &str) -> Vec<C> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(file);
    let text = std::fs::read_to_string(path).expect("golden file");
    serde_json::from_str::<Golden<C>>(&text).expect("golden cases").cases
}

fn check(what: &str, ours: Option<f64>, theirs: Option<f64>, tolerance: f64) {
    match (ours, theirs) {
        (None, None) => {}
        (Some(a), Some(b)) => assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "{what}: {a} is not {b}"),
        _ => panic!("{what}: {ours:?} is not {theirs:?}"),
    }
}

#[derive(Deserialize)]
struct BinaryCase {
    name: String,
    label: Vec<u8>,
    score: Vec<Option<f64>>,
    threshold: f64,
    expected: BTreeMap<String, Option<f64>>,
}

#[tokio::test]
async fn e2_binary_equals_scikit_learn() {
    for case in cases::<BinaryCase>("binary.json") {
        let labels: Vec<Option<&str>> = case.label.iter().map(|y| Some(if *y == 1 { "fraud" } else { "ok" })).collect();
        let mut context = context(Task::Binary);
        context.positive_class = Some("fraud".to_owned());
        context.threshold = case.threshold;
        let rows = batch(vec![("label", texts(&labels)), ("score", doubles(&case.score))]);
        let window = evaluate_everywhere(&rows, &context).await;
        for (metric, theirs) in &case.expected {
            check(&format!("{} {metric}", case.name), overall(&window, metric, None).value, *theirs, TOLERANCE);
        }
        sql_functions_agree(&case).await;
    }
}

/// The single functions say what the report says.
async fn sql_functions_agree(case: &BinaryCase) {
    let positive: Vec<Option<bool>> = case.label.iter().map(|y| Some(*y == 1)).collect();
    let rows = batch(vec![("y", booleans(&positive)), ("score", doubles(&case.score))]);
    for partitions in [1, 2, 8] {
        let session = session(&rows, partitions);
        for metric in ["roc_auc", "average_precision", "log_loss", "brier_score", "expected_calibration_error"] {
            let query = format!("SELECT {metric}(score, y) FROM rows");
            let result = session.sql(&query).await.expect("plans").collect().await.expect("runs");
            let column = result[0].column(0).as_primitive::<arrow::datatypes::Float64Type>();
            let ours = column.iter().next().flatten();
            check(&format!("sql {} {metric}", case.name), ours, case.expected[metric], TOLERANCE);
        }
    }
}

#[derive(Deserialize)]
struct MulticlassCase {
    name: String,
    label: Vec<String>,
    prediction: Vec<String>,
    classes: Vec<String>,
    probabilities: Option<Vec<Vec<f64>>>,
    expected: BTreeMap<String, Option<f64>>,
    by_class: BTreeMap<String, BTreeMap<String, Option<f64>>>,
}

#[tokio::test]
async fn e2_multiclass_equals_scikit_learn() {
    for case in cases::<MulticlassCase>("multiclass.json") {
        let labels: Vec<Option<&str>> = case.label.iter().map(|y| Some(y.as_str())).collect();
        let predictions: Vec<Option<&str>> = case.prediction.iter().map(|p| Some(p.as_str())).collect();
        let mut columns = vec![("label", texts(&labels)), ("prediction", texts(&predictions))];
        if let Some(probabilities) = &case.probabilities {
            let rows: Vec<Option<Vec<(&str, f64)>>> = probabilities
                .iter()
                .map(|row| Some(case.classes.iter().map(String::as_str).zip(row.iter().copied()).collect()))
                .collect();
            columns.push(("probabilities", maps(&rows)));
        }
        let window = evaluate_everywhere(&batch(columns), &context(Task::Multiclass)).await;
        for (metric, theirs) in &case.expected {
            check(&format!("{} {metric}", case.name), overall(&window, metric, None).value, *theirs, TOLERANCE);
        }
        for (metric, by_class) in &case.by_class {
            for (class, theirs) in by_class {
                let ours = overall(&window, metric, Some(class)).value;
                check(&format!("{} {metric} of {class}", case.name), ours, *theirs, TOLERANCE);
            }
        }
    }
}

#[derive(Deserialize)]
struct RegressionCase {
    name: String,
    label: Vec<Option<f64>>,
    prediction: Vec<Option<f64>>,
    expected: BTreeMap<String, Option<f64>>,
    baselines: BTreeMap<String, Option<f64>>,
}

#[tokio::test]
async fn e2_regression_equals_scikit_learn() {
    for case in cases::<RegressionCase>("regression.json") {
        let rows = batch(vec![("label_value", doubles(&case.label)), ("prediction_value", doubles(&case.prediction))]);
        let window = evaluate_everywhere(&rows, &context(Task::Regression)).await;
        for (metric, theirs) in &case.baselines {
            let ours = overall(&window, metric, None).baseline;
            check(&format!("{} baseline of {metric}", case.name), ours, *theirs, TOLERANCE);
        }
        for (metric, theirs) in &case.expected {
            check(&format!("{} {metric}", case.name), overall(&window, metric, None).value, *theirs, TOLERANCE);
            for partitions in [1, 2, 8] {
                let query = format!("SELECT {metric}(label_value, prediction_value) FROM rows");
                let result =
                    session(&rows, partitions).sql(&query).await.expect("plans").collect().await.expect("runs");
                let column = result[0].column(0).as_primitive::<arrow::datatypes::Float64Type>();
                check(&format!("sql {} {metric}", case.name), column.iter().next().flatten(), *theirs, TOLERANCE);
            }
        }
    }
}

#[derive(Deserialize)]
struct WeightedCase {
    name: String,
    rate: Vec<f64>,
    label: Vec<f64>,
    value: Vec<f64>,
    expected: BTreeMap<String, Option<f64>>,
}

#[tokio::test]
async fn e2_a_row_that_was_kept_by_chance_counts_as_scikit_learns_sample_weight() {
    for case in cases::<WeightedCase>("weighted.json") {
        let column = |values: &[f64]| doubles(&values.iter().map(|value| Some(*value)).collect::<Vec<_>>());
        let rates = ("sampling_rate", column(&case.rate));
        let (task, columns) = if case.name == "binary" {
            let labels: Vec<Option<&str>> =
                case.label.iter().map(|y| Some(if *y == 1.0 { "1" } else { "0" })).collect();
            (Task::Binary, vec![("label", texts(&labels)), ("score", column(&case.value)), rates])
        } else {
            let values = vec![("label_value", column(&case.label)), ("prediction_value", column(&case.value)), rates];
            (Task::Regression, values)
        };
        let window = evaluate_everywhere(&batch(columns), &context(task)).await;
        for (metric, theirs) in &case.expected {
            // A weight is rounded to 2⁻⁴⁰ of a row.
            check(&format!("{} {metric}", case.name), overall(&window, metric, None).value, *theirs, 1e-11);
        }
        assert_eq!(window.metrics[0].n, case.rate.len() as i64, "rows are counted as they are");
    }
}

#[derive(Deserialize)]
struct IntervalCase {
    name: String,
    label: Vec<u8>,
    score: Vec<f64>,
    expected: BTreeMap<String, [f64; 2]>,
}

#[tokio::test]
async fn e2_intervals_equal_scipys_and_delongs_definition() {
    for case in cases::<IntervalCase>("intervals.json") {
        let labels: Vec<Option<&str>> = case.label.iter().map(|y| Some(if *y == 1 { "1" } else { "0" })).collect();
        let scores: Vec<Option<f64>> = case.score.iter().map(|score| Some(*score)).collect();
        let rows = batch(vec![("label", texts(&labels)), ("score", doubles(&scores))]);
        let window = evaluate_everywhere(&rows, &context(Task::Binary)).await;
        for (metric, [low, high]) in &case.expected {
            let ours = overall(&window, metric, None);
            check(&format!("{} {metric} low", case.name), ours.ci_low, Some(*low), 1e-9);
            check(&format!("{} {metric} high", case.name), ours.ci_high, Some(*high), 1e-9);
            assert_eq!(ours.ci_level, Some(0.95));
        }
    }
}

#[derive(Deserialize)]
struct DriftCase {
    name: String,
    reference: Vec<f64>,
    current: Vec<f64>,
    statistic: f64,
    p_value: f64,
    psi: f64,
    wasserstein: f64,
    wasserstein_normed: Option<f64>,
    #[serde(flatten)]
    over_bins: OverBins,
}

#[derive(Deserialize)]
struct OverBins {
    jensen_shannon: f64,
    hellinger: f64,
    total_variation: f64,
    l_infinity: f64,
    kl: f64,
    chi2: f64,
    chi2_p_value: f64,
}

#[derive(Deserialize)]
struct CategoryCase {
    name: String,
    reference: Vec<u64>,
    current: Vec<u64>,
    #[serde(flatten)]
    over_bins: OverBins,
}

fn check_over_bins(name: &str, reference: &Counts, current: &Counts, theirs: &OverBins) {
    let shares = Shares::of(reference, current).expect("rows");
    let test = chi_square(reference, current).expect("rows");
    for (what, ours, theirs) in [
        ("jensen_shannon", shares.jensen_shannon(), theirs.jensen_shannon),
        ("total_variation", shares.total_variation(), theirs.total_variation),
        ("l_infinity", shares.l_infinity(), theirs.l_infinity),
        ("kl", shares.kl(), theirs.kl),
        ("chi2", test.statistic, theirs.chi2),
        ("chi2 p-value", test.p_value, theirs.chi2_p_value),
    ] {
        check(&format!("{name} {what}"), Some(ours), Some(theirs), TOLERANCE);
    }
    // The peer's form, one less a sum of nearly 1, has half the digits.
    check(&format!("{name} hellinger"), Some(shares.hellinger()), Some(theirs.hellinger), 1e-7);
}

#[test]
fn e2_distances_of_categories_equal_scipy() {
    for case in cases::<CategoryCase>("categories.json") {
        let (reference, current) = (Counts::of_rows(&case.reference), Counts::of_rows(&case.current));
        check_over_bins(&case.name, &reference, &current, &case.over_bins);
    }
}

#[test]
fn e2_drift_equals_scipy() {
    for case in cases::<DriftCase>("drift.json") {
        let (mut reference, mut current) = (case.reference, case.current);
        reference.sort_by(f64::total_cmp);
        current.sort_by(f64::total_cmp);
        let test = ks_2samp(&reference, &current).expect("rows");
        check(&format!("{} statistic", case.name), Some(test.statistic), Some(case.statistic), TOLERANCE);
        check(&format!("{} p-value", case.name), Some(test.p_value), Some(case.p_value), TOLERANCE);
        let bins = Bins::deciles(&reference);
        let (of_reference, of_current) = (SampleRef::new(&reference, &[]), SampleRef::new(&current, &[]));
        let (binned_reference, binned_current) = (bins.weigh(of_reference), bins.weigh(of_current));
        let psi = population_stability_index(&binned_reference, &binned_current);
        check(&format!("{} psi", case.name), psi, Some(case.psi), TOLERANCE);
        let moved = wasserstein(of_reference, of_current);
        check(&format!("{} wasserstein", case.name), moved, Some(case.wasserstein), TOLERANCE);
        let normed = moved.zip(deviation(of_reference)).map(|(moved, deviation)| moved / deviation);
        check(&format!("{} wasserstein_normed", case.name), normed, case.wasserstein_normed, TOLERANCE);
        check_over_bins(&case.name, &binned_reference, &binned_current, &case.over_bins);
    }
}

#[derive(Deserialize)]
struct WeighedDriftCase {
    name: String,
    reference: Vec<f64>,
    reference_rate: Vec<f64>,
    current: Vec<f64>,
    current_rate: Vec<f64>,
    expected: BTreeMap<String, f64>,
}

#[tokio::test]
async fn e2_drift_of_rows_that_were_kept_by_chance_equals_scipy() {
    let column = |values: &[f64]| doubles(&values.iter().map(|value| Some(*value)).collect::<Vec<_>>());
    for case in cases::<WeighedDriftCase>("weighted_drift.json") {
        // Numbers as they are, and the same as categories.
        let rows = |values: &[f64], rates: &[f64]| {
            // As NumPy rounds; and zero has one sign.
            let words: Vec<String> = values.iter().map(|value| format!("{}", value.round_ties_even() + 0.0)).collect();
            let words: Vec<Option<&str>> = words.iter().map(|word| Some(word.as_str())).collect();
            batch(vec![
                ("feature_x", column(values)),
                ("feature_word_text", texts(&words)),
                ("sampling_rate", column(rates)),
            ])
        };
        let frozen = rows(&case.reference, &case.reference_rate);
        let mut context = context(Task::Binary);
        let mut versions = Vec::new();
        for partitions in [1, 2, 8] {
            let reference =
                Reference::from_table(&session(&frozen, partitions), "rows", Task::Binary).await.expect("reads");
            let json = serde_json::to_string(&reference).expect("serializes");
            assert_eq!(serde_json::from_str::<Reference>(&json).expect("deserializes"), reference);
            versions.push(reference.version.clone());
            context.reference = Some(Arc::new(reference));
        }
        versions.dedup();
        assert_eq!(versions.len(), 1, "{}", case.name);
        let window = evaluate_everywhere(&rows(&case.current, &case.current_rate), &context).await;
        let mut compared = 0;
        for row in &window.drift {
            let expected =
                |what: &str| case.expected.get(&format!("{}_{}{what}", row.column_name, row.method)).copied();
            let Some(statistic) = expected("") else {
                panic!("{} has no {} of {}", case.name, row.method, row.column_name)
            };
            let what = format!("{} {} {}", case.name, row.column_name, row.method);
            let tolerance = if row.method == "hellinger" { 1e-7 } else { 1e-10 };
            check(&what, row.statistic, Some(statistic), tolerance);
            // The method that decides for categories has the p-value of the test that goes with it.
            let tested = if row.method == "jensen_shannon" && row.column_name == "word" {
                case.expected.get("word_chi2_p_value").copied()
            } else {
                expected("_p_value")
            };
            check(&format!("{what} p-value"), row.p_value, tested, 1e-9);
            compared += 1;
        }
        assert_eq!(compared, 17, "{}", case.name);
        assert_eq!(window.drift[0].n, case.current.len() as i64, "rows are counted as they are");
    }
}

#[derive(Deserialize)]
struct ComponentsCase {
    name: String,
    /// Feature by feature.
    reference: Vec<Vec<Option<f64>>>,
    current: Vec<Vec<Option<f64>>>,
    rates: Option<[Vec<f64>; 2]>,
    /// The mean error of the reference's rows, and of the others.
    errors: [f64; 2],
    expected: BTreeMap<String, f64>,
}

#[tokio::test]
async fn e2_rebuilding_from_components_equals_scikit_learn() {
    const NAMES: [&str; 5] = ["feature_a", "feature_b", "feature_c", "feature_d", "feature_e"];
    for case in cases::<ComponentsCase>("components.json") {
        let rows = |features: &[Vec<Option<f64>>], side: usize| {
            let mut columns: Vec<_> = NAMES.iter().zip(features).map(|(name, of)| (*name, doubles(of))).collect();
            let rates = case.rates.as_ref().map(|rates| rates[side].iter().map(|rate| Some(*rate)).collect::<Vec<_>>());
            columns.extend(rates.map(|rates| ("sampling_rate", doubles(&rates))));
            // A feature that is always the same has nothing in common with any.
            columns.push(("feature_same", doubles(&vec![Some(7.0); features[0].len()])));
            batch(columns)
        };
        let frozen = rows(&case.reference, 0);
        let reference = Reference::from_table(&session(&frozen, 1), "rows", Task::Binary).await.expect("reads");
        for partitions in [2, 8] {
            let again =
                Reference::from_table(&session(&frozen, partitions), "rows", Task::Binary).await.expect("reads");
            assert_eq!(again, reference, "{}", case.name);
        }
        let components = reference.components.clone().expect("two features or more");
        assert_eq!(components.features.len(), case.reference.len());
        check(
            &format!("{} errors of the reference", case.name),
            Some(components.errors.mean),
            Some(case.errors[0]),
            1e-9,
        );
        let mut context = context(Task::Binary);
        context.reference = Some(Arc::new(reference));
        let window = evaluate_everywhere(&rows(&case.current, 1), &context).await;
        let row = window.drift.iter().find(|row| row.method == "pca_reconstruction").expect("measured");
        assert_eq!((row.column_name.as_str(), row.decides), ("__features__", Some(true)));
        assert_eq!((row.n, row.n_reference), (case.current[0].len() as i64, case.reference[0].len() as i64));
        check(&case.name, row.statistic, case.expected.get("pca_reconstruction").copied(), 1e-8);
        let p_value = case.expected["pca_reconstruction_p_value"];
        check(&format!("{} p-value", case.name), row.p_value, Some(p_value), 1e-7);
        assert_eq!(row.drifted, Some(p_value < 0.05 && row.statistic.is_some_and(|s| s >= 0.1)), "{}", case.name);
    }
}

#[derive(Deserialize)]
struct KolmogorovCase {
    name: String,
    n: u64,
    x: f64,
    sf: f64,
}

#[test]
fn e2_kolmogorov_equals_scipy() {
    for case in cases::<KolmogorovCase>("kolmogorov.json") {
        // Above 100,000 rows the tail is its leading term.
        let tolerance = if case.n <= 140 {
            1e-11
        } else if case.n <= 100_000 {
            1e-9
        } else {
            1e-5
        };
        check(&case.name, Some(kolmogorov::sf(case.n, case.x)), Some(case.sf), tolerance);
    }
}
