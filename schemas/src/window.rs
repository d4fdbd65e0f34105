//! Windows: which one an event belongs to (**T1**: exactly one of its model).
use chrono::{DateTime, Datelike, Days, LocalResult, Months, NaiveDate, NaiveDateTime, NaiveTime, TimeZone, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use crate::clock::{DAY, MINUTE, Micros, time_of};

/// The length of a base window. Frozen in the manifest: every model window is a union of base windows.
pub const BASE_WINDOW: Micros = MINUTE;

/// The base window's number that holds `event_time`.
pub fn base_window_index(event_time: Micros) -> i64 {
    event_time.div_euclid(BASE_WINDOW)
}

/// A half-open interval of event time, `[start, end)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Window {
    /// First instant inside, microseconds UTC.
    pub start: Micros,
    /// First instant after, microseconds UTC.
    pub end: Micros,
}

impl Window {
    /// Whether `time` lies in `[start, end)`.
    pub fn contains(&self, time: Micros) -> bool {
        self.start <= time && time < self.end
    }

    /// Length in microseconds; a calendar day may have 23 or 25 hours.
    pub fn length(&self) -> Micros {
        self.end - self.start
    }

    /// The UTC date of the start: the `date=` folder of every table.
    pub fn date(&self) -> NaiveDate {
        time_of(self.start).date_naive()
    }
}

/// How long a model's windows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowLength {
    /// So many microseconds, aligned to 1970-01-01T00:00Z.
    Fixed(Micros),
    /// A calendar day of the model's time zone.
    Day,
    /// Monday to Sunday in the model's time zone.
    Week,
    /// A calendar month of the model's time zone.
    Month,
}

/// A model's windows: a length, and the time zone that calendar lengths follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSpec {
    /// The length.
    pub length: WindowLength,
    /// IANA time zone; fixed lengths ignore it.
    #[serde(with = "timezone_name")]
    pub timezone: Tz,
}

/// A time zone is written by its IANA name.
mod timezone_name {
    use chrono_tz::Tz;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[allow(clippy::trivially_copy_pass_by_ref)] // the signature is serde's
    pub(super) fn serialize<S: Serializer>(timezone: &Tz, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(timezone.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Tz, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map_err(|_| D::Error::custom(format!("{name:?} is no IANA time zone")))
    }
}

impl WindowSpec {
    /// Windows of a fixed length in microseconds.
    pub fn fixed(micros: Micros) -> Self {
        Self { length: WindowLength::Fixed(micros), timezone: Tz::UTC }
    }

    /// The one window that holds `event_time`.
    pub fn window_of(&self, event_time: Micros) -> Window {
        match self.length {
            WindowLength::Fixed(length) => {
                let start = event_time.div_euclid(length) * length;
                Window { start, end: start + length }
            }
            _ => self.calendar_window(event_time),
        }
    }

    /// An upper bound of the length in microseconds.
    pub fn length_max(&self) -> Micros {
        match self.length {
            WindowLength::Fixed(length) => length,
            WindowLength::Day => 25 * 60 * MINUTE,
            WindowLength::Week => 7 * DAY + 60 * MINUTE,
            WindowLength::Month => 31 * DAY + 60 * MINUTE,
        }
    }

    fn calendar_window(&self, event_time: Micros) -> Window {
        let today = time_of(event_time).with_timezone(&self.timezone).date_naive();
        let first = self.first_day(today);
        let window = self.between(first);
        // A midnight that is skipped moves a boundary past it: the instants before still belong to the day before.
        if event_time < window.start {
            self.between(self.first_day(first - Days::new(1)))
        } else if event_time >= window.end {
            self.between(self.next_first_day(first))
        } else {
            window
        }
    }

    fn between(&self, first: NaiveDate) -> Window {
        Window { start: self.midnight(first), end: self.midnight(self.next_first_day(first)) }
    }

    fn first_day(&self, day: NaiveDate) -> NaiveDate {
        match self.length {
            WindowLength::Week => day - Days::new(u64::from(day.weekday().num_days_from_monday())),
            WindowLength::Month => day.with_day(1).expect("every month has a first day"),
            WindowLength::Day | WindowLength::Fixed(_) => day,
        }
    }

    fn next_first_day(&self, first: NaiveDate) -> NaiveDate {
        match self.length {
            WindowLength::Week => first + Days::new(7),
            WindowLength::Month => first + Months::new(1),
            WindowLength::Day | WindowLength::Fixed(_) => first + Days::new(1),
        }
    }

    /// The first instant of a local day; a midnight that does not exist is the first instant that does.
    fn midnight(&self, day: NaiveDate) -> Micros {
        let mut local: NaiveDateTime = day.and_time(NaiveTime::MIN);
        loop {
            match self.timezone.from_local_datetime(&local) {
                LocalResult::Single(time) | LocalResult::Ambiguous(time, _) => {
                    let time: DateTime<Utc> = time.with_timezone(&Utc);
                    return time.timestamp_micros();
                }
                LocalResult::None => local += chrono::Duration::minutes(1),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Micros {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros()
    }

    fn calendar(length: WindowLength, zone: &str) -> WindowSpec {
        WindowSpec { length, timezone: zone.parse().unwrap() }
    }

    #[test]
    fn fixed_windows_align_to_the_epoch_and_own_their_start() {
        let spec = WindowSpec::fixed(3_600_000_000);
        let window = spec.window_of(at("2026-01-01T10:00:00Z"));
        assert_eq!(window.start, at("2026-01-01T10:00:00Z"));
        assert_eq!(spec.window_of(window.end - 1), window);
        assert_ne!(spec.window_of(window.end), window);
    }

    #[test]
    fn days_across_daylight_saving_have_23_and_25_hours() {
        let spec = calendar(WindowLength::Day, "Europe/Amsterdam");
        assert_eq!(spec.window_of(at("2026-03-29T12:00:00Z")).length(), 23 * 60 * MINUTE);
        assert_eq!(spec.window_of(at("2026-10-25T12:00:00Z")).length(), 25 * 60 * MINUTE);
        assert_eq!(spec.window_of(at("2026-10-25T22:59:59Z")).start, at("2026-10-24T22:00:00Z"));
    }

    #[test]
    fn a_midnight_that_does_not_exist_is_the_first_instant_that_does() {
        // Cairo moved its clocks forward at midnight on 2023-04-28.
        let spec = calendar(WindowLength::Day, "Africa/Cairo");
        assert_eq!(spec.window_of(at("2023-04-28T10:00:00Z")).start, at("2023-04-27T22:00:00Z"));
    }

    #[test]
    fn weeks_start_on_monday_and_months_on_the_first() {
        let week = calendar(WindowLength::Week, "UTC").window_of(at("2026-11-22T23:00:00Z"));
        assert_eq!((week.start, week.end), (at("2026-11-16T00:00:00Z"), at("2026-11-23T00:00:00Z")));
        let month = calendar(WindowLength::Month, "America/New_York").window_of(at("2026-03-31T12:00:00Z"));
        assert_eq!((month.start, month.end), (at("2026-03-01T05:00:00Z"), at("2026-04-01T04:00:00Z")));
    }

    proptest! {
        /// T1: an instant lies in exactly one window, and its window is the window of every instant in it.
        #[test]
        fn t1_an_event_has_exactly_one_window(
            time in 946_684_800_000_000i64..4_102_444_800_000_000,
            length in prop_oneof![Just(WindowLength::Day), Just(WindowLength::Week), Just(WindowLength::Month),
                (1i64..5000).prop_map(|minutes| WindowLength::Fixed(minutes * MINUTE))],
            zone in prop_oneof![Just("UTC"), Just("Europe/Amsterdam"), Just("America/Sao_Paulo"), Just("Africa/Cairo"),
                Just("Asia/Kathmandu"), Just("Pacific/Apia"), Just("America/Havana")],
        ) {
            let spec = calendar(length, zone);
            let window = spec.window_of(time);
            prop_assert!(window.contains(time));
            prop_assert_eq!(spec.window_of(window.start), window);
            prop_assert_eq!(spec.window_of(window.end - 1), window);
            prop_assert_eq!(spec.window_of(window.end).start, window.end);
        }
    }
}
