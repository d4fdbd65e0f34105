//! The loop on a store in memory: what the evaluator publishes in, records and messages out.
use driftline_ledger::WindowRecord;
use driftline_ledger::shared::Shared;
use driftline_schemas::clock::{DAY, MINUTE, time_of};
use driftline_schemas::config::Config;
use driftline_schemas::tables::{MetricRow, WindowRow, metric_rows_to_batch, window_rows_to_batch};
use driftline_schemas::window::Window;
use parquet::arrow::ArrowWriter;

use super::*;
use crate::life::Kind;
use crate::silence::Silence;

const HOUR: Micros = 3_600_000_000;
const RULE: &str = "[[alerts.rules]]\nname = \"low\"\nmetric = \"accuracy\"\nbelow = 0.8\n";

fn parts(store: &Store, me: &str, text: &str) -> Parts {
    Parts {
        store: store.clone(),
        members: Members::new(me, vec![ROLE.into()]),
        config: Config::from_table(text.parse().expect("TOML")).expect("a good file").alerts,
        poll_interval: Duration::from_millis(5),
        evaluated: None,
    }
}

fn metric(hour: i64, revision: u64, value: f64) -> MetricRow {
    MetricRow {
        model: "m".into(),
        window_start: time_of(hour * HOUR),
        window_end: time_of((hour + 1) * HOUR),
        metric: "accuracy".into(),
        value: Some(value),
        ci_low: Some(value - 0.01),
        ci_high: Some(value + 0.01),
        ci_level: Some(0.95),
        n: 5_000,
        n_labelled: 5_000,
        state: "sealed".into(),
        revision: revision as i64,
        decided_at: time_of(0),
        ..MetricRow::default()
    }
}

fn window(hour: i64, revision: u64, state: &str) -> WindowRow {
    WindowRow {
        model: "m".into(),
        window_start: time_of(hour * HOUR),
        window_end: time_of((hour + 1) * HOUR),
        state: state.into(),
        revision: revision as i64,
        predictions: 5_000,
        labelled: 5_000,
        waiting: 0,
        expired: 0,
        failed: 0,
        invalid: 0,
        duplicates: 0,
        after_final: 0,
        label_coverage: Some(1.0),
        late_predictions: 0,
        decided_at: time_of(0),
    }
}

async fn put(store: &Store, path: &str, batch: arrow::array::RecordBatch) {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).expect("a writer");
    writer.write(&batch).expect("written");
    writer.close().expect("closed");
    store.put(path, bytes.into()).await.expect("stored");
}

/// What stands of each window of a model, by hour: its revision, its accuracy, and its state.
type Standing = BTreeMap<i64, (u64, f64, &'static str)>;

/// Publishes it as the evaluator does, and returns what the ledger says of it.
async fn publish(store: &Store, standing: &Standing) -> LedgerState {
    let mut model = ModelState::default();
    let mut dates: BTreeMap<chrono::NaiveDate, (Vec<MetricRow>, Vec<WindowRow>)> = BTreeMap::new();
    for (hour, (revision, value, state)) in standing {
        let of = Window { start: hour * HOUR, end: (hour + 1) * HOUR };
        let mut record = WindowRecord::new(of);
        (record.revision, record.completed) = (*revision, *revision);
        model.windows.insert(of.start, record);
        let (metrics, windows) = dates.entry(of.date()).or_default();
        metrics.push(metric(*hour, *revision, *value));
        windows.push(window(*hour, *revision, state));
    }
    for (date, (metrics, windows)) in dates {
        put(store, &paths::table("metrics", "m", date, "metrics"), metric_rows_to_batch(&metrics)).await;
        put(store, &paths::table("windows", "m", date, "windows"), window_rows_to_batch(&windows)).await;
    }
    let mut ledger = LedgerState::default();
    ledger.models.insert("m".into(), Shared::new(model));
    ledger
}

fn standing(hours: impl IntoIterator<Item = i64>, value: f64, state: &'static str) -> Standing {
    hours.into_iter().map(|hour| (hour, (1, value, state))).collect()
}

/// All that has happened, in order.
async fn happened(store: &Store, model: &str) -> Vec<Transition> {
    let (_, records) = Log::open(store, model, 0).await.expect("a chain");
    records.into_iter().flat_map(|record| record.transitions).collect()
}

async fn kinds(store: &Store) -> Vec<(Kind, Micros)> {
    happened(store, "m").await.iter().map(|t| (t.kind, t.evidence.window_start / HOUR)).collect()
}

#[tokio::test]
async fn a_backlog_is_judged_to_its_end_without_further_news_and_nothing_is_judged_twice() {
    let store = Store::in_memory();
    let one = parts(&store, "one", RULE);
    let windows = WINDOWS_A_STEP as i64 + 6;
    let ledger = publish(&store, &standing(0..windows, 0.9, "sealed")).await;
    let mut follower = Follower::open(&one, "m").await.expect("opened");
    let mut judged = Vec::new();
    for is_new in [true, false, false] {
        let did = follower.step(&one, &ledger, "m", is_new).await.expect("judged");
        judged.push((did, follower.cursor.windows.len() as i64));
    }
    assert_eq!(judged, [(true, windows - 6), (true, windows), (false, windows)]);
    // Nothing is new: nobody looks, whatever stands there.
    let ledger = publish(&store, &standing(0..=windows, 0.9, "sealed")).await;
    assert!(!follower.step(&one, &ledger, "m", false).await.expect("judged"));
    assert!(follower.step(&one, &ledger, "m", true).await.expect("judged"));
    assert!(!follower.step(&one, &ledger, "m", true).await.expect("judged"), "there is news, of others");
    // Whoever comes after knows which revisions have been judged.
    let mut next = Follower::open(&one, "m").await.expect("opened");
    assert!(!next.step(&one, &ledger, "m", true).await.expect("judged"));
}

#[tokio::test]
async fn b1_of_a_long_history_the_newest_windows_are_looked_at_and_remembered() {
    let store = Store::in_memory();
    let one = parts(&store, "one", RULE);
    let first = |ledger: &LedgerState| ledger.models["m"].windows.len() - WINDOWS_MAX;
    // Their rows have been deleted: that they were looked at is all there is.
    let mut ledger = LedgerState::default();
    let mut model = ModelState::default();
    for hour in 0..WINDOWS_MAX as i64 + 100 {
        let mut record = WindowRecord::new(Window { start: hour * HOUR, end: (hour + 1) * HOUR });
        record.completed = 1;
        model.windows.insert(hour * HOUR, record);
    }
    ledger.models.insert("m".into(), Shared::new(model.clone()));
    let mut follower = Follower::open(&one, "m").await.expect("opened");
    while follower.step(&one, &ledger, "m", true).await.expect("judged") {}
    let known = |follower: &Follower| {
        let windows = &follower.cursor.windows;
        (windows.len(), windows.keys().next().map(|start| (start / HOUR) as usize))
    };
    assert_eq!(known(&follower), (WINDOWS_MAX, Some(first(&ledger))));
    let newer = WINDOWS_MAX as i64 + 100;
    let mut record = WindowRecord::new(Window { start: newer * HOUR, end: (newer + 1) * HOUR });
    record.completed = 1;
    model.windows.insert(newer * HOUR, record);
    ledger.models.insert("m".into(), Shared::new(model));
    while follower.step(&one, &ledger, "m", true).await.expect("judged") {}
    assert_eq!(known(&follower), (WINDOWS_MAX, Some(first(&ledger))), "one comes, one goes");
}

#[tokio::test]
async fn a_window_that_was_final_wakes_nobody_and_one_that_becomes_final_does() {
    let store = Store::in_memory();
    let one = parts(&store, "one", RULE);
    let mut follower = Follower::open(&one, "m").await.expect("opened");
    let mut windows = standing(0..=5, 0.9, "sealed");
    windows.insert(1, (1, 0.9, "final"));
    let ledger = publish(&store, &windows).await;
    follower.step(&one, &ledger, "m", true).await.expect("judged");
    windows.insert(1, (2, 0.5, "final"));
    windows.insert(5, (2, 0.5, "final"));
    // Another process goes on: what was final is known from the store.
    let mut next = Follower::open(&one, "m").await.expect("opened");
    let ledger = publish(&store, &windows).await;
    next.step(&one, &ledger, "m", true).await.expect("judged");
    assert_eq!(kinds(&store).await, [(Kind::Missed, 1), (Kind::Firing, 5)]);
}

#[tokio::test]
async fn a_silence_is_written_beside_what_it_keeps_from_being_told() {
    let store = Store::in_memory();
    let one = parts(&store, "one", RULE);
    let now = clock::now_micros();
    let silence = |id: &str, model: &str| Silence {
        id: id.into(),
        model: Some(model.into()),
        rule: None,
        segment: None,
        segment_value: None,
        from: now - DAY,
        until: now + DAY,
        comment: "we know".into(),
    };
    silence("s1", "another").write(&store).await.expect("written");
    silence("s2", "m").write(&store).await.expect("written");
    let ledger = publish(&store, &standing([1], 0.5, "sealed")).await;
    let mut follower = Follower::open(&one, "m").await.expect("opened");
    follower.step(&one, &ledger, "m", true).await.expect("judged");
    let happened = happened(&store, "m").await;
    assert_eq!((happened.len(), happened[0].kind, happened[0].silenced.as_deref()), (1, Kind::Firing, Some("s2")));
}

#[tokio::test]
async fn whoever_is_second_decides_again_on_what_the_first_has_written() {
    let store = Store::in_memory();
    let (one, other) = (parts(&store, "one", RULE), parts(&store, "other", RULE));
    let mut first = Follower::open(&one, "m").await.expect("opened");
    let mut second = Follower::open(&other, "m").await.expect("opened");
    let mut windows = standing([1], 0.5, "sealed");
    first.step(&one, &publish(&store, &windows).await, "m", true).await.expect("judged");
    // The second knows nothing of it, and has a window more.
    windows.insert(2, (1, 0.9, "sealed"));
    second.step(&other, &publish(&store, &windows).await, "m", true).await.expect("judged");
    assert_eq!(kinds(&store).await, [(Kind::Firing, 1), (Kind::Resolved, 2)]);
    assert_eq!(second.log.state, Log::open(&store, "m", 0).await.expect("a chain").0.state);
}

#[tokio::test]
async fn alerts_of_rules_that_are_gone_end_when_a_process_begins() {
    let store = Store::in_memory();
    let one = parts(&store, "one", RULE);
    let ledger = publish(&store, &standing([1], 0.5, "sealed")).await;
    let mut follower = Follower::open(&one, "m").await.expect("opened");
    follower.step(&one, &ledger, "m", true).await.expect("judged");
    Follower::open(&parts(&store, "one", &RULE.replace("\"low\"", "\"other\"")), "m").await.expect("opened");
    assert_eq!(kinds(&store).await, [(Kind::Firing, 1), (Kind::Resolved, 1)]);
}

#[tokio::test]
async fn a_sink_is_told_from_the_first_record_on_if_it_was_there_then() {
    let store = Store::in_memory();
    let text = format!("{RULE}[[alerts.sinks]]\nname = \"ops\"\ntype = \"webhook\"\nurl = \"https://example.org\"\n");
    let one = parts(&store, "one", &text);
    let ledger = publish(&store, &standing([1], 0.5, "sealed")).await;
    let mut follower = Follower::open(&one, "m").await.expect("opened");
    follower.step(&one, &ledger, "m", true).await.expect("judged");
    let noted = store.get(&paths::alerting_sent("m", "ops")).await.expect("readable").expect("enrolled");
    let noted: serde_json::Value = serde_json::from_slice(&noted.bytes).expect("JSON");
    assert_eq!((follower.log.next, &noted["next"]), (1, &0.into()));
}

#[test]
fn what_is_read_is_what_rules_rest_on() {
    let order: Vec<Micros> = (0..1_000).map(|hour| hour * HOUR).collect();
    let needed = |rule: &str| {
        let text = format!("[[alerts.rules]]\nname = \"r\"\n{rule}");
        let config = Config::from_table(text.parse().expect("TOML")).expect("a good file").alerts;
        let spec = |_| WindowSpec::fixed(HOUR);
        let needed = learned_from(&config, "m", &order, [900 * HOUR], spec);
        (needed.len(), needed.first().map(|start| start / HOUR), needed.last().map(|start| start / HOUR))
    };
    let memory = judge::MEMORY as i64;
    let run = (judge::MEMORY, Some(900 - memory), Some(899));
    assert_eq!(needed("metric = \"accuracy\"\nbelow = 0.8"), run, "evidence of the run before it adds up");
    assert_eq!(needed("metric = \"accuracy\"\nbelow = 0.8\ndecide = \"point\""), (0, None, None));
    assert_eq!(needed("drift = \"*\""), (0, None, None), "a test is of its window alone");
    // Half of the windows may lack the series.
    let learned = "metric = \"accuracy\"\nbelow = { change = 0.1, windows = 50 }\ndecide = \"point\"";
    assert_eq!(needed(learned), (100, Some(800), Some(899)));
    assert_eq!(needed(&format!("{learned}\nmodels = [\"other\"]")), (0, None, None));
}

#[tokio::test]
async fn the_pipeline_is_looked_at_once_a_minute_and_each_minute_is_final() {
    let store = Store::in_memory();
    let text = "[[alerts.rules]]\nname = \"nobody\"\npipeline = \"collectors\"\nbelow = 1\nfor = \"2 of 60\"\n";
    let one = parts(&store, "one", text);
    let (name, ledger) = (paths::NO_MODEL, LedgerState::default());
    let mut follower = Follower::open(&one, name).await.expect("opened");
    let minute = || clock::now_micros().div_euclid(pipeline::TICK);
    // Not across the end of a minute.
    let mut looks = Vec::new();
    for _ in 0..2 {
        let begin = minute();
        looks = vec![
            follower.look(&one, &ledger).await.expect("looked"),
            follower.look(&one, &ledger).await.expect("looked"),
        ];
        if minute() == begin {
            break;
        }
    }
    assert_eq!(looks.last(), Some(&false));
    let tracked = follower.log.state.series.values().next().expect("nobody reads");
    assert!(tracked.windows.values().all(|seen| seen.is_final && seen.is_bad), "{tracked:?}");
    // An hour ago it was so, too; the minutes between, in which nobody looked, are minutes.
    let mut earlier = follower.log.state.clone();
    let tracked = earlier.series.values_mut().next().expect("nobody reads");
    let (newest, seen) = tracked.windows.pop_last().expect("a minute");
    for ago in [20, 59] {
        tracked.windows.insert(newest - ago * MINUTE, seen.clone());
    }
    follower.log.append("w", 0, &[], vec![], &earlier).await.expect("the store").expect("nobody else");
    follower.cursor.tick = 0;
    follower.look(&one, &ledger).await.expect("looked");
    let happened = happened(&store, name).await;
    assert_eq!(happened.last().map(|transition| transition.kind), Some(Kind::Firing), "{happened:?}");
    let kept: Vec<usize> =
        follower.log.state.series.values().map(|tracked| tracked.episodes[0].windows.len()).collect();
    assert_eq!(kept, [3]);
}
