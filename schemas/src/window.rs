//! Windows: which one an event belongs to (**T1**: exactly one of its model).
//!
//! Calendar windows follow the rules of IANA's time zone database as it is compiled into this build ([`TZDATA`]). Another
//! build may know other rules; so a window that the ledger holds is taken from there, and never computed again.
use chrono::{Datelike, Days, LocalResult, Months, NaiveDate, NaiveTime, TimeZone, Timelike};
use chrono_tz::{GapInfo, Tz};
use serde::{Deserialize, Serialize};

use crate::clock::{DAY, MINUTE, Micros, time_of};

/// The length of a base window. Frozen in the manifest: every model window is a union of base windows.
pub const BASE_WINDOW: Micros = MINUTE;

/// The release of IANA's time zone database in this build.
pub const TZDATA: &str = chrono_tz::IANA_TZDB_VERSION;

/// The years 0001 to 9999: a time outside lies in the first or last window. A label may name any time, and must not stop us.
const TIME_RANGE: (Micros, Micros) = (-62_135_596_800_000_000, 253_402_300_799_999_999);

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
    /// IANA time zone; of a fixed length, which ignores it, UTC.
    #[serde(with = "timezone_name")]
    pub timezone: Tz,
}

impl Default for WindowSpec {
    /// Hours.
    fn default() -> Self {
        Self::fixed(60 * MINUTE)
    }
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

/// A time in the years 0001 to 9999: what lies outside counts as their first or last instant.
pub fn within_calendars(time: Micros) -> Micros {
    time.clamp(TIME_RANGE.0, TIME_RANGE.1)
}

impl WindowSpec {
    /// Windows of a fixed length in microseconds.
    pub fn fixed(micros: Micros) -> Self {
        Self { length: WindowLength::Fixed(micros), timezone: Tz::UTC }
    }

    /// The one window that holds `event_time`.
    pub fn window_of(&self, event_time: Micros) -> Window {
        let event_time = within_calendars(event_time);
        match self.length {
            WindowLength::Fixed(length) => {
                let start = event_time.div_euclid(length) * length;
                Window { start, end: start + length }
            }
            _ => self.calendar_window(event_time),
        }
    }

    /// The same windows, said in one way only: fixed lengths have no zone.
    #[must_use]
    pub fn plain(self) -> Self {
        match self.length {
            WindowLength::Fixed(length) => Self::fixed(length),
            _ => self,
        }
    }

    /// The length in microseconds of a window across which the clocks do not change; of the longest month.
    pub fn ordinary_length(&self) -> Micros {
        match self.length {
            WindowLength::Fixed(length) => length,
            WindowLength::Day => DAY,
            WindowLength::Week => 7 * DAY,
            WindowLength::Month => 31 * DAY,
        }
    }

    /// An upper bound of the length in microseconds. Zones have moved by up to a day: a day then lasts two.
    pub fn length_max(&self) -> Micros {
        match self.length {
            WindowLength::Fixed(length) => length,
            _ => self.ordinary_length() + DAY + 60 * MINUTE,
        }
    }

    /// The time `by` before the start of a window. In calendar windows whole days are days of the calendar: a week before
    /// a midnight is a midnight, whatever the clocks did between.
    pub fn back(&self, start: Micros, by: Micros) -> Micros {
        let is_calendar = !matches!(self.length, WindowLength::Fixed(_));
        let start = within_calendars(start);
        match u64::try_from(by / DAY) {
            Ok(days) if is_calendar && by % DAY == 0 => {
                self.local_date(start).checked_sub_days(Days::new(days)).map_or(TIME_RANGE.0, |day| self.midnight(day))
            }
            _ => start.saturating_sub(by),
        }
    }

    /// Whether two windows start in the same hour of the week; of calendar windows, on the same weekday of their zone.
    pub fn is_same_hour_of_week(&self, start: Micros, other: Micros) -> bool {
        let place = |start: Micros| {
            let time = time_of(within_calendars(start));
            match self.length {
                WindowLength::Fixed(_) => (time.weekday(), time.hour()),
                _ => (time.with_timezone(&self.timezone).weekday(), 0),
            }
        };
        place(start) == place(other)
    }

    fn local_date(&self, time: Micros) -> NaiveDate {
        time_of(time).with_timezone(&self.timezone).date_naive()
    }

    fn calendar_window(&self, event_time: Micros) -> Window {
        let mut first = self.first_day(self.local_date(event_time));
        let mut window = self.between(first);
        // Clocks that go back over midnight repeat the end of a day that is over, and a boundary lies on the next whole
        // minute: then the local date is not that of the window. Days that a zone has left out are empty, and passed by.
        while event_time < window.start {
            first = self.first_day(first - Days::new(1));
            window = self.between(first);
        }
        while event_time >= window.end {
            first = self.next_first_day(first);
            window = self.between(first);
        }
        window
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

    /// The first instant of a local day; a midnight that does not exist is the first instant that does, one that comes twice
    /// is the first of the two.
    ///
    /// A boundary is put on the next whole minute, because a base window has one window of every model. That moves none since
    /// 1972: until then zones had offsets with seconds.
    fn midnight(&self, day: NaiveDate) -> Micros {
        let local = day.and_time(NaiveTime::MIN);
        let first = match self.timezone.from_local_datetime(&local) {
            LocalResult::Single(time) | LocalResult::Ambiguous(time, _) => Some(time),
            LocalResult::None => GapInfo::new(&local, &self.timezone).and_then(|gap| gap.end),
        };
        let first = first.map_or_else(|| local.and_utc(), |time| time.to_utc()).timestamp_micros();
        -(-first).div_euclid(BASE_WINDOW) * BASE_WINDOW
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, Offset};
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
    fn the_same_hour_of_the_week_comes_once_a_week() {
        let spec = WindowSpec::fixed(15 * MINUTE);
        let wednesday = at("2026-01-07T10:15:00Z");
        let same = |other: &str| spec.is_same_hour_of_week(wednesday, at(other));
        assert!(same("2025-12-31T10:45:00Z") && same("2026-01-07T10:00:00Z"));
        assert!(!same("2025-12-31T11:00:00Z") && !same("2025-12-30T10:15:00Z"));
        // A fixed length knows no zone: the clocks of one do not move its windows to other hours.
        let summer = WindowSpec { timezone: "Europe/Amsterdam".parse().unwrap(), ..WindowSpec::fixed(360 * MINUTE) };
        assert!(summer.is_same_hour_of_week(at("2026-03-31T06:00:00Z"), at("2026-03-24T06:00:00Z")));
        // In the week after the clocks went forward a Monday starts an hour earlier in UTC; in one zone its midnight is skipped.
        let days = calendar(WindowLength::Day, "Europe/Amsterdam");
        assert!(days.is_same_hour_of_week(at("2026-03-29T22:00:00Z"), at("2026-03-22T23:00:00Z")));
        assert!(!days.is_same_hour_of_week(at("2026-03-29T22:00:00Z"), at("2026-03-23T23:00:00Z")));
        // London's Mondays begin on Sunday in UTC while it is summer, and on Monday otherwise.
        let london = calendar(WindowLength::Day, "Europe/London");
        assert!(london.is_same_hour_of_week(at("2026-03-29T23:00:00Z"), at("2026-03-23T00:00:00Z")));
        assert!(!london.is_same_hour_of_week(at("2026-03-29T23:00:00Z"), at("2026-03-22T00:00:00Z")));
        let skipped = calendar(WindowLength::Day, "Africa/Cairo");
        let friday = skipped.window_of(at("2026-04-24T12:00:00Z")).start;
        assert_ne!(time_of(friday).with_timezone(&skipped.timezone).hour(), 0);
        assert!(skipped.is_same_hour_of_week(friday, skipped.window_of(at("2026-04-17T12:00:00Z")).start));
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

    #[test]
    fn a_time_beyond_all_calendars_has_a_window_too() {
        for zone in ["UTC", "Asia/Kolkata", "America/New_York", "Pacific/Apia"] {
            for length in [WindowLength::Fixed(7 * MINUTE), WindowLength::Day, WindowLength::Week, WindowLength::Month]
            {
                let spec = calendar(length, zone);
                for time in [Micros::MIN, Micros::MAX, TIME_RANGE.0, TIME_RANGE.1] {
                    assert!(spec.window_of(time).contains(within_calendars(time)), "{spec:?} {time}");
                    spec.back(time, 7 * DAY);
                }
            }
        }
    }

    #[test]
    fn a_week_before_midnight_is_midnight_across_daylight_saving() {
        let day = calendar(WindowLength::Day, "Europe/Amsterdam");
        assert_eq!(day.back(at("2026-03-31T22:00:00Z"), 7 * DAY), at("2026-03-24T23:00:00Z"));
        assert_eq!(day.back(at("2026-03-31T22:00:00Z"), 7 * DAY + MINUTE), at("2026-03-24T21:59:00Z"));
        assert_eq!(WindowSpec::fixed(DAY).back(at("2026-03-31T00:00:00Z"), 7 * DAY), at("2026-03-24T00:00:00Z"));
        // The day after a midnight that was skipped starts at 01:00, its predecessors do not.
        let skipped = calendar(WindowLength::Day, "America/Sao_Paulo");
        assert_eq!(skipped.back(at("2018-11-04T03:00:00Z"), DAY), at("2018-11-03T03:00:00Z"));
        assert_eq!(skipped.back(at("2018-11-05T02:00:00Z"), DAY), at("2018-11-04T03:00:00Z"));
    }

    /// Every boundary of the present that a zone's rules give lies on a whole minute as it is, so base windows never bend one.
    #[test]
    fn t1_no_zone_has_midnights_between_whole_minutes_since_2000() {
        for zone in chrono_tz::TZ_VARIANTS {
            for quarter in 0..200i64 {
                let time = time_of(at("2000-01-01T00:00:00Z") + quarter * 91 * DAY).with_timezone(&zone);
                assert_eq!(time.offset().fix().local_minus_utc() % 60, 0, "{zone} {time}");
            }
        }
    }

    fn any_length() -> impl Strategy<Value = WindowLength> {
        prop_oneof![
            Just(WindowLength::Day),
            Just(WindowLength::Week),
            Just(WindowLength::Month),
            (1i64..5000).prop_map(|minutes| WindowLength::Fixed(minutes * MINUTE))
        ]
    }

    /// Zones that did odd things at midnight.
    const ODD_ZONES: &[&str] = &[
        "Africa/Cairo",
        "America/Havana",
        "America/Juneau",
        "America/Sao_Paulo",
        "America/St_Johns",
        "Antarctica/Casey",
        "Asia/Kathmandu",
        "Asia/Manila",
        "Australia/Lord_Howe",
        "Europe/Amsterdam",
        "Pacific/Apia",
        "Pacific/Kwajalein",
    ];

    fn any_zone() -> impl Strategy<Value = Tz> {
        prop_oneof![
            proptest::sample::select(&chrono_tz::TZ_VARIANTS[..]),
            proptest::sample::select(ODD_ZONES).prop_map(|name| name.parse().unwrap())
        ]
    }

    /// A time, often near one of the zone's changes of its clocks.
    fn time_in(zone: Tz) -> impl Strategy<Value = Micros> {
        let (from, to) = (at("1840-01-01T00:00:00Z"), at("2110-01-01T00:00:00Z"));
        (from..to, any::<bool>(), -2 * DAY..2 * DAY).prop_map(move |(time, is_near, off)| {
            let offset = |at: Micros| time_of(at).with_timezone(&zone).offset().fix().local_minus_utc();
            let (mut low, mut high) = (time, (time + 400 * DAY).min(to));
            if !is_near || offset(low) == offset(high) {
                return time;
            }
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                if offset(middle) == offset(low) { low = middle } else { high = middle }
            }
            high + off / [1, 1_000, 1_000_000, 1_000_000_000][(time.rem_euclid(4)) as usize]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        /// T1: an instant lies in exactly one window, its window is the window of every instant in it, and the next begins
        /// where it ends; no base window is cut, and none is longer than is said.
        #[test]
        fn t1_an_event_has_exactly_one_window(
            (zone, time) in any_zone().prop_flat_map(|zone| (Just(zone), time_in(zone))),
            length in any_length(),
            inside in 0.0..1.0f64,
        ) {
            let spec = WindowSpec { length, timezone: zone };
            let window = spec.window_of(time);
            prop_assert!(window.contains(time));
            let inside = window.start + (window.length() as f64 * inside) as Micros;
            prop_assert_eq!(spec.window_of(window.start), window);
            prop_assert_eq!(spec.window_of(inside), window);
            prop_assert_eq!(spec.window_of(window.end - 1), window);
            prop_assert_eq!(spec.window_of(window.end).start, window.end);
            prop_assert_eq!(spec.window_of(window.start - 1).end, window.start);
            prop_assert_eq!((window.start % BASE_WINDOW, window.end % BASE_WINDOW), (0, 0));
            prop_assert!(window.length() <= spec.length_max());
        }

        /// Weeks and months are unions of days.
        #[test]
        fn t1_days_lie_in_one_week_and_one_month(
            (zone, time) in any_zone().prop_flat_map(|zone| (Just(zone), time_in(zone))),
        ) {
            let of = |length| WindowSpec { length, timezone: zone }.window_of(time);
            let day = of(WindowLength::Day);
            for longer in [of(WindowLength::Week), of(WindowLength::Month)] {
                prop_assert!(longer.start <= day.start && day.end <= longer.end);
            }
        }
    }
}
