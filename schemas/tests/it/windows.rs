//! Calendar windows are those that Python's zoneinfo finds minute by minute (`golden/make_golden.py`).
use chrono::DateTime;
use driftline_schemas::window::{TZDATA, Window, WindowLength, WindowSpec};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    made_by: MadeBy,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct MadeBy {
    tzdata: String,
}

#[derive(Deserialize)]
struct Case {
    timezone: String,
    window: WindowLength,
    boundaries: Vec<String>,
}

#[test]
fn t1_calendar_windows_are_those_of_zoneinfo() {
    let golden: Golden = serde_json::from_str(include_str!("../../golden/windows.json")).unwrap();
    assert_eq!(golden.made_by.tzdata, TZDATA, "make the golden values again with the same database");
    let mut windows = 0;
    for case in &golden.cases {
        let spec = WindowSpec { length: case.window, timezone: case.timezone.parse().unwrap() };
        let times = case.boundaries.iter().map(|text| DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros());
        let times: Vec<i64> = times.collect();
        for pair in times.windows(2) {
            let window = Window { start: pair[0], end: pair[1] };
            // Every ten minutes: where clocks went back over midnight, an hour of yesterday lies within today.
            for time in (window.start..window.end).step_by(10 * 60_000_000).chain([window.end - 1]) {
                assert_eq!(spec.window_of(time), window, "{} {:?} at {time}", case.timezone, case.window);
            }
            windows += 1;
        }
    }
    assert_eq!(windows, golden.cases.iter().map(|case| case.boundaries.len() - 1).sum::<usize>());
    assert!(windows > 100);
}
