//! The search for the weakest segments finds what was hidden, and little else.

use arrow::array::RecordBatch;
use driftline_evaluator::window::weakest::{RowMetric, Search, WeakSegment, Weakest, search};
use driftline_schemas::tables::Task;

use crate::rows::{batch, context, doubles, session, texts};

/// A draw in [0, 1) that depends on its place alone.
fn draw(place: u64) -> f64 {
    let mut x = place.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((x ^ (x >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Right nine times in ten, but for `us` and `mobile` together, where it is a coin; the other columns are noise.
fn rows(n: u64, is_hidden: bool) -> RecordBatch {
    let pick = |row: u64, salt: u64, of: &[&'static str]| of[(draw(row * 7 + salt) * of.len() as f64) as usize];
    let regions: Vec<_> = (0..n).map(|row| pick(row, 1, &["eu", "us", "jp"])).collect();
    let channels: Vec<_> = (0..n).map(|row| pick(row, 2, &["web", "mobile"])).collect();
    let is_hit = |row: u64| {
        let weak = is_hidden && regions[row as usize] == "us" && channels[row as usize] == "mobile";
        draw(row * 7 + 3) < if weak { 0.5 } else { 0.9 }
    };
    let labels: Vec<bool> = (0..n).map(|row| draw(row * 7 + 4) < 0.4).collect();
    let text = |positive: bool| Some(if positive { "1" } else { "0" });
    let column = |values: &[&'static str]| texts(&values.iter().map(|v| Some(*v)).collect::<Vec<_>>());
    batch(vec![
        ("tag_region", column(&regions)),
        ("feature_channel_text", column(&channels)),
        ("tag_noise", texts(&(0..n).map(|row| Some(pick(row, 6, &["a", "b", "c", "d", "e"]))).collect::<Vec<_>>())),
        ("feature_age", doubles(&(0..n).map(|row| Some((draw(row * 7 + 5) * 80.0).floor())).collect::<Vec<_>>())),
        ("feature_constant", doubles(&(0..n).map(|_| Some(1.0)).collect::<Vec<_>>())),
        ("label", texts(&labels.iter().map(|y| text(*y)).collect::<Vec<_>>())),
        ("prediction", texts(&(0..n).map(|row| text(labels[row as usize] == is_hit(row))).collect::<Vec<_>>())),
    ])
}

async fn find(rows: &RecordBatch, task: Task, wanted: Search) -> Weakest {
    let one = search(&session(rows, 1), "rows", &context(task), wanted).await.expect("searches");
    let many = search(&session(rows, 8), "rows", &context(task), wanted).await.expect("searches");
    assert_eq!(one, many, "8 partitions");
    one
}

fn named(slice: &WeakSegment) -> (&str, &str) {
    (&slice.segment, &slice.segment_value)
}

const ACCURACY: Search = Search { metric: RowMetric::Accuracy, crosses: true, min_rows: 30 };

#[tokio::test]
async fn a_hidden_cross_is_found_first_and_its_values_are_right() {
    let found = find(&rows(3000, true), Task::Binary, ACCURACY).await;
    let first = &found.segments[0];
    assert_eq!(named(first), ("region,features.channel", "us,mobile"), "{:?}", &found.segments[..3]);
    assert!(first.is_weak && (first.value - 0.5).abs() < 0.1 && (first.rest - 0.9).abs() < 0.03, "{first:?}");
    assert!(first.ci_high < 0.0 && first.p_value <= first.p_adjusted);
    assert!(found.segments.iter().all(|slice| !slice.segment.contains("constant") && slice.n >= 30));
    assert!(found.segments.iter().any(|slice| slice.segment == "features.age"), "numbers are cut into parts");
    let single = find(&rows(3000, true), Task::Binary, Search { crosses: false, ..ACCURACY }).await;
    assert!(single.segments.iter().all(|slice| !slice.segment.contains(',')) && single.looked_at < found.looked_at);
    let large = find(&rows(3000, true), Task::Binary, Search { min_rows: 700, ..ACCURACY }).await;
    assert!(large.segments.iter().all(|slice| slice.n >= 700));
}

#[tokio::test]
async fn where_nothing_is_hidden_nothing_is_called_weak() {
    let found = find(&rows(3000, false), Task::Binary, ACCURACY).await;
    assert!(found.looked_at > 60, "{}", found.looked_at);
    let weak: Vec<_> = found.segments.iter().filter(|slice| slice.is_weak).collect();
    assert!(weak.is_empty(), "{weak:?}");
}

#[tokio::test]
async fn every_metric_of_every_task_is_searched_and_nothing_comes_of_no_rows() {
    let binary = batch(vec![
        ("tag_region", texts(&["eu", "us"].repeat(50).iter().map(|v| Some(*v)).collect::<Vec<_>>())),
        ("label", texts(&["1", "1", "0", "0"].repeat(25).iter().map(|v| Some(*v)).collect::<Vec<_>>())),
        ("score", doubles(&[0.9, 0.2, 0.1, 0.7].repeat(25).iter().map(|v| Some(*v)).collect::<Vec<_>>())),
    ]);
    for (metric, eu, us) in [
        (RowMetric::Accuracy, 1.0, 0.0),
        (RowMetric::Precision, 1.0, 0.0),
        (RowMetric::Recall, 1.0, 0.0),
        (RowMetric::Specificity, 1.0, 0.0),
        (RowMetric::BrierScore, 0.01, f64::midpoint(0.64, 0.49)),
        (RowMetric::LogLoss, -(0.9_f64.ln()), -(0.2_f64.ln() + 0.3_f64.ln()) / 2.0),
    ] {
        let found = find(&binary, Task::Binary, Search { metric, crosses: true, min_rows: 20 }).await;
        let slice = &found.segments[0];
        assert_eq!((found.segments.len(), named(slice)), (1, ("region", "us")), "{metric:?}");
        assert!((slice.value - us).abs() < 1e-12 && (slice.rest - eu).abs() < 1e-12 && slice.is_weak, "{slice:?}");
    }
    let numbers = batch(vec![
        ("tag_region", texts(&["eu", "us"].repeat(50).iter().map(|v| Some(*v)).collect::<Vec<_>>())),
        ("label_value", doubles(&(0..100).map(|row| Some(f64::from(row))).collect::<Vec<_>>())),
        (
            "prediction_value",
            doubles(&(0..100).map(|row| Some(f64::from(row) + f64::from(row % 2 * 3 + row % 5))).collect::<Vec<_>>()),
        ),
    ]);
    for metric in RowMetric::of(Task::Regression) {
        let found = find(&numbers, Task::Regression, Search { metric: *metric, crosses: true, min_rows: 20 }).await;
        assert_eq!(named(&found.segments[0]), ("region", "us"), "{metric:?}");
    }
    let none: [Option<&str>; 0] = [];
    let empty = batch(vec![("tag_region", texts(&none)), ("label", texts(&none)), ("prediction", texts(&none))]);
    let nothing = find(&empty, Task::Binary, ACCURACY).await;
    assert_eq!((nothing.looked_at, nothing.segments.len()), (0, 0));
}

#[tokio::test]
async fn b1_what_is_looked_at_is_bounded_and_what_is_not_is_named() {
    let n = 60;
    let names: Vec<String> = (0..30).map(|tag| format!("tag_t{tag:02}")).collect();
    let values: Vec<String> = (0..n).map(|row| format!("v{}", row % 20)).collect();
    let column = || texts(&values.iter().map(|v| Some(v.as_str())).collect::<Vec<_>>());
    let mut columns: Vec<(&str, _)> = names.iter().map(|name| (name.as_str(), column())).collect();
    columns.extend([("label", texts(&vec![Some("1"); n])), ("prediction", texts(&vec![Some("1"); n]))]);
    let wanted = Search { min_rows: 2, ..ACCURACY };
    let found =
        search(&session(&batch(columns), 2), "rows", &context(Task::Multiclass), wanted).await.expect("searches");
    assert_eq!(found.left_out, ["t24", "t25", "t26", "t27", "t28", "t29"]);
    assert!(found.looked_at <= 24 * 13, "all are alike, so no cross is more than a side of it: {}", found.looked_at);
}

fn named_texts(values: &[&str]) -> arrow::array::ArrayRef {
    texts(&values.iter().map(|value| Some(*value)).collect::<Vec<_>>())
}

#[tokio::test]
async fn slices_are_corrected_for_all_that_were_looked_at_the_better_ones_too() {
    // `eu` is right half of the time, `us` and `jp` nine times in ten.
    let regions: Vec<&str> = (0..600).map(|row| ["eu", "us", "jp"][row % 3]).collect();
    let is_hit =
        |row: usize| if row.is_multiple_of(3) { (row / 3).is_multiple_of(2) } else { !(row / 3).is_multiple_of(10) };
    let rows = batch(vec![
        ("tag_region", named_texts(&regions)),
        ("label", named_texts(&["1"; 600])),
        ("prediction", named_texts(&(0..600).map(|row| if is_hit(row) { "1" } else { "0" }).collect::<Vec<_>>())),
    ]);
    let found = find(&rows, Task::Binary, ACCURACY).await;
    assert_eq!(found.looked_at, 3);
    let first = &found.segments[0];
    assert_eq!((named(first), found.segments.len()), (("region", "eu"), 1));
    assert!((first.p_adjusted / (3.0 * first.p_value) - 1.0).abs() < 1e-12, "the least of three: {first:?}");
}

#[tokio::test]
async fn a_slice_without_enough_rows_outside_of_it_is_not_looked_at() {
    let regions: Vec<&str> = (0..100).map(|row| if row < 95 { "eu" } else { "us" }).collect();
    let said: Vec<&str> = (0..100).map(|row| if row < 95 && row % 2 == 0 { "0" } else { "1" }).collect();
    let rows = batch(vec![
        ("tag_region", named_texts(&regions)),
        ("label", named_texts(&["1"; 100])),
        ("prediction", named_texts(&said)),
    ]);
    let found = find(&rows, Task::Binary, ACCURACY).await;
    assert_eq!((found.looked_at, found.segments.len()), (0, 0), "five rows say nothing of the rest");
}

#[tokio::test]
async fn rows_that_do_not_count_and_numbers_that_are_none_are_in_no_slice() {
    // A hundred numbers, all right; a hundred rows without one, all wrong, of which half were refused.
    let ages: Vec<Option<f64>> = (0..200).map(|row| Some(if row < 100 { f64::from(row) } else { f64::NAN })).collect();
    let said: Vec<&str> = (0..200).map(|row| if row < 100 { "1" } else { "0" }).collect();
    let refused: Vec<Option<&str>> = (0..200).map(|row| (row >= 150).then_some("task_mismatch")).collect();
    let regions: Vec<&str> = (0..200).map(|row| if row < 100 { "eu" } else { "us" }).collect();
    let rows = batch(vec![
        ("feature_age", doubles(&ages)),
        ("tag_region", named_texts(&regions)),
        ("label", named_texts(&["1"; 200])),
        ("prediction", named_texts(&said)),
        ("invalid_reason", texts(&refused)),
    ]);
    let wanted = Search { min_rows: 20, crosses: false, ..ACCURACY };
    let found = find(&rows, Task::Binary, wanted).await;
    let slices: Vec<_> = found.segments.iter().map(|slice| (named(slice), slice.n, slice.value)).collect();
    assert_eq!(slices, [(("region", "us"), 50, 0.0)]);
    // What is published is another matter than what is looked at.
    let mut context = context(Task::Binary);
    context.segments_min_rows = 120;
    let same = search(&session(&rows, 2), "rows", &context, wanted).await.expect("searches");
    assert_eq!(same, found);
}

#[tokio::test]
async fn means_are_compared_by_welchs_test() {
    let regions: Vec<&str> = (0..100).map(|row| ["eu", "us"][row % 2]).collect();
    let error = |row: i32| f64::from(row % 2 * 3 + row % 5);
    let rows = batch(vec![
        ("tag_region", named_texts(&regions)),
        ("label_value", doubles(&(0..100).map(|row| Some(f64::from(row))).collect::<Vec<_>>())),
        ("prediction_value", doubles(&(0..100).map(|row| Some(f64::from(row) + error(row))).collect::<Vec<_>>())),
    ]);
    let wanted = Search { metric: RowMetric::MeanAbsoluteError, crosses: false, min_rows: 20 };
    let found = find(&rows, Task::Regression, wanted).await;
    let slice = &found.segments[0];
    // scipy.stats.ttest_ind([3 + r % 5 for odd r], [r % 5 for even r], equal_var=False), and its confidence_interval().
    assert!((slice.ci_low - 2.4330092987118626).abs() < 1e-9, "{slice:?}");
    assert!((slice.ci_high - 3.5669907012881374).abs() < 1e-9, "{slice:?}");
    assert!((slice.p_value / 9.975958196832645e-18 - 1.0).abs() < 1e-6, "{slice:?}");
}
