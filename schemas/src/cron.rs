//! Schedules as cron has them: five fields of local time, and what they mean where the clocks change.
//!
//! The rule is that of Vixie's cron. A local time that is skipped happens when the gap ends, once; one that comes twice happens
//! the first time. A schedule whose hour is `*` (or `*/n`) follows the hours as they pass instead: a skipped hour has no
//! occurrence, and one that comes twice has its own twice.
use std::fmt;

use chrono::{Datelike, Days, LocalResult, NaiveDate, NaiveTime, TimeZone};
use chrono_tz::{GapInfo, Tz};

use crate::clock::{Micros, time_of};
use crate::window::within_calendars;

/// Days that are looked through for an occurrence: a 29 February is at most eight years away.
const DAYS_MAX: u32 = 8 * 366 + 2;

/// A schedule; `Display` gives it as it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    text: String,
    minutes: Field,
    hours: Field,
    days: Field,
    months: Field,
    weekdays: Field,
}

/// The values that one field allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Field {
    /// Bit n: the value n.
    allowed: u64,
    /// It begins with `*`.
    is_any: bool,
}

impl Field {
    fn has(self, value: u32) -> bool {
        self.allowed >> value & 1 == 1
    }

    fn values(self) -> impl Iterator<Item = u32> {
        (0..60).filter(move |value| self.has(*value))
    }
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Cron {
    /// Reads `minute hour day-of-month month day-of-week`: numbers, `*`, ranges, lists, steps, English names of months and
    /// weekdays (0 and 7 are Sunday); or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`. Where both days are restricted
    /// either is enough.
    ///
    /// # Errors
    /// What is wrong, for the one who typed it; also if no day has it, like 30 February.
    pub fn parse(text: &str) -> Result<Self, String> {
        let plain = match text.trim() {
            "@hourly" => "0 * * * *",
            "@daily" | "@midnight" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            "@yearly" | "@annually" => "0 0 1 1 *",
            other => other,
        };
        let fields: Vec<&str> = plain.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields.as_slice() else {
            return Err(format!(
                "{text:?} has {} fields; five are minute, hour, day of the month, month and day of the week, like \"0 7 * * mon\"",
                fields.len()
            ));
        };
        let mut weekdays = field("day of the week", weekdays, 0, 7, &WEEKDAYS, 0)?;
        if weekdays.has(7) {
            weekdays.allowed |= 1;
        }
        let cron = Self {
            text: text.trim().to_owned(),
            minutes: field("minute", minutes, 0, 59, &[], 0)?,
            hours: field("hour", hours, 0, 23, &[], 0)?,
            days: field("day of the month", days, 1, 31, &[], 0)?,
            months: field("month", months, 1, 12, &MONTHS, 1)?,
            weekdays,
        };
        // 2000 to 2007 have a leap year, and every day of a month on every weekday that matters here.
        let first = NaiveDate::from_ymd_opt(2000, 1, 1).expect("a date");
        if !first.iter_days().take(DAYS_MAX as usize).any(|day| cron.is_day(day)) {
            return Err(format!("{text:?} never happens: no month of it has such a day"));
        }
        Ok(cron)
    }

    /// The first occurrence after a time; `None` at the end of the calendar.
    pub fn next_after(&self, zone: Tz, time: Micros) -> Option<Micros> {
        // Near a change of the clocks the occurrences of neighbouring days may interleave: they are looked at together.
        let mut day = local_date(zone, time).checked_sub_days(Days::new(1))?;
        for _ in 0..DAYS_MAX {
            let next = day.checked_add_days(Days::new(1))?;
            let of_two = self.of_day(zone, day).into_iter().chain(self.of_day(zone, next));
            if let Some(found) = of_two.filter(|at| *at > time).min() {
                return Some(found);
            }
            day = next;
        }
        None
    }

    /// The last occurrence at or before a time.
    pub fn last_until(&self, zone: Tz, time: Micros) -> Option<Micros> {
        let mut day = local_date(zone, time).checked_add_days(Days::new(1))?;
        for _ in 0..DAYS_MAX {
            let before = day.checked_sub_days(Days::new(1))?;
            let of_two = self.of_day(zone, day).into_iter().chain(self.of_day(zone, before));
            if let Some(found) = of_two.filter(|at| *at <= time).max() {
                return Some(found);
            }
            day = before;
        }
        None
    }

    fn is_day(&self, day: NaiveDate) -> bool {
        let of_month = self.days.has(day.day());
        let of_week = self.weekdays.has(day.weekday().num_days_from_sunday());
        let fits = match (self.days.is_any, self.weekdays.is_any) {
            (false, false) => of_month || of_week,
            _ => of_month && of_week,
        };
        fits && self.months.has(day.month())
    }

    /// The instants of a local day.
    fn of_day(&self, zone: Tz, day: NaiveDate) -> Vec<Micros> {
        if !self.is_day(day) {
            return Vec::new();
        }
        let mut instants = Vec::new();
        for hour in self.hours.values() {
            for minute in self.minutes.values() {
                let Some(time) = NaiveTime::from_hms_opt(hour, minute, 0) else { continue };
                let local = day.and_time(time);
                match zone.from_local_datetime(&local) {
                    LocalResult::Single(at) => instants.push(at.timestamp_micros()),
                    LocalResult::Ambiguous(first, second) => {
                        instants.push(first.timestamp_micros());
                        if self.hours.is_any {
                            instants.push(second.timestamp_micros());
                        }
                    }
                    LocalResult::None if self.hours.is_any => {}
                    LocalResult::None => {
                        let end = GapInfo::new(&local, &zone).and_then(|gap| gap.end);
                        instants.extend(end.map(|end| end.timestamp_micros()));
                    }
                }
            }
        }
        instants
    }
}

/// The local time of day so many days earlier; where it does not exist, the first instant after.
pub fn days_before(zone: Tz, time: Micros, days: u64) -> Micros {
    let local = time_of(within_calendars(time)).with_timezone(&zone).naive_local();
    let Some(earlier) = local.checked_sub_days(Days::new(days)) else { return time };
    match zone.from_local_datetime(&earlier) {
        LocalResult::Single(at) | LocalResult::Ambiguous(at, _) => at.timestamp_micros(),
        LocalResult::None => GapInfo::new(&earlier, &zone)
            .and_then(|gap| gap.end)
            .map_or_else(|| earlier.and_utc().timestamp_micros(), |end| end.timestamp_micros()),
    }
}

fn local_date(zone: Tz, time: Micros) -> NaiveDate {
    time_of(within_calendars(time)).with_timezone(&zone).date_naive()
}

fn field(what: &str, text: &str, low: u32, high: u32, names: &[&str], first_name: u32) -> Result<Field, String> {
    let wrong = |part: &str| {
        format!("{part:?} is no {what}: {low} to {high}, `*`, a range like {low}-{high}, a step like */2, or a list")
    };
    let value = |text: &str| -> Result<u32, String> {
        let lower = text.to_lowercase();
        let named = names.iter().position(|name| *name == lower).map(|at| at as u32 + first_name);
        let number = (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok());
        let value = named.or(number.flatten()).ok_or_else(|| wrong(text))?;
        if (low..=high).contains(&value) { Ok(value) } else { Err(wrong(text)) }
    };
    let mut allowed = 0_u64;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (part, None),
        };
        let (from, to) = match (range, range.split_once('-')) {
            // Seven is the Sunday that is zero already.
            ("*", _) => (low, if high == 7 { 6 } else { high }),
            (_, Some((from, to))) => (value(from)?, value(to)?),
            (single, None) if step.is_none() => (value(single)?, value(single)?),
            _ => return Err(format!("{part:?}: a step needs a range, like {low}-{high}/2 or */2")),
        };
        let step: u32 = match step {
            None => 1,
            Some(text) => text.parse().ok().filter(|step| (1..=high).contains(step)).ok_or_else(|| wrong(part))?,
        };
        if from > to {
            return Err(format!("{range:?} is a range that ends before it begins"));
        }
        for value in (from..=to).step_by(step as usize) {
            allowed |= 1 << value;
        }
    }
    Ok(Field { allowed, is_any: text.starts_with('*') })
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Timelike};
    use proptest::prelude::*;

    use super::*;
    use crate::clock::{DAY, MINUTE, show};

    fn at(text: &str) -> Micros {
        DateTime::parse_from_rfc3339(text).expect(text).timestamp_micros()
    }

    /// The next occurrences, `count` of them.
    fn next(cron: &str, zone: Tz, from: &str, count: usize) -> Vec<String> {
        let cron = Cron::parse(cron).expect(cron);
        let first = cron.next_after(zone, at(from));
        std::iter::successors(first, |time| cron.next_after(zone, *time)).take(count).map(show).collect()
    }

    #[test]
    fn ordinary_schedules() {
        let zone = Tz::Europe__Amsterdam;
        // 2026-11-23 is a Monday; Amsterdam is an hour ahead of UTC in winter.
        assert_eq!(
            next("0 7 * * 1", zone, "2026-11-21T00:00:00Z", 2),
            ["2026-11-23T06:00:00Z", "2026-11-30T06:00:00Z"]
        );
        assert_eq!(next("0 7 * * MON", zone, "2026-11-23T06:00:00Z", 1), ["2026-11-30T06:00:00Z"], "after, not at");
        assert_eq!(next("@monthly", Tz::UTC, "2026-11-21T00:00:00Z", 1), ["2026-12-01T00:00:00Z"]);
        assert_eq!(
            next("*/20 9-10 * * *", Tz::UTC, "2026-11-21T09:30:00Z", 4),
            ["2026-11-21T09:40:00Z", "2026-11-21T10:00:00Z", "2026-11-21T10:20:00Z", "2026-11-21T10:40:00Z"]
        );
        assert_eq!(next("0 0 29 feb *", Tz::UTC, "2026-01-01T00:00:00Z", 1), ["2028-02-29T00:00:00Z"]);
        assert_eq!(next("0 0 29 2 *", Tz::UTC, "2096-03-01T00:00:00Z", 1), ["2104-02-29T00:00:00Z"], "2100 has none");
        // Both days restricted: either is enough. 2026-11-27 is a Friday.
        assert_eq!(
            next("0 0 25 * fri", Tz::UTC, "2026-11-24T00:00:00Z", 2),
            ["2026-11-25T00:00:00Z", "2026-11-27T00:00:00Z"]
        );
        assert_eq!(next("0 0 * * 7", Tz::UTC, "2026-11-21T00:00:00Z", 1), ["2026-11-22T00:00:00Z"], "7 is Sunday");
        assert_eq!(next("0 0 * * 5-7", Tz::UTC, "2026-11-28T00:00:00Z", 1), ["2026-11-29T00:00:00Z"]);
    }

    #[test]
    fn a_time_that_the_clocks_skip_happens_when_the_gap_ends() {
        // 2026-03-29: 02:00 becomes 03:00, at 01:00 UTC.
        let zone = Tz::Europe__Amsterdam;
        assert_eq!(
            next("30 2 * * *", zone, "2026-03-28T00:00:00Z", 3),
            ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
        );
        // Several that are skipped are one.
        assert_eq!(
            next("*/15 2 * * *", zone, "2026-03-29T00:00:00Z", 2),
            ["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"]
        );
        // Hours that pass: the skipped one is none.
        assert_eq!(
            next("30 * * * *", zone, "2026-03-29T00:00:00Z", 2),
            ["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z"]
        );
        // Samoa left out 2011-12-30.
        assert_eq!(
            next("0 7 * * *", Tz::Pacific__Apia, "2011-12-29T17:00:00Z", 2),
            ["2011-12-30T10:00:00Z", "2011-12-30T17:00:00Z"]
        );
    }

    #[test]
    fn a_time_that_comes_twice_happens_the_first_time_and_hours_that_pass_both_times() {
        // 2026-10-25: 03:00 becomes 02:00, at 01:00 UTC.
        let zone = Tz::Europe__Amsterdam;
        assert_eq!(
            next("30 2 * * *", zone, "2026-10-24T12:00:00Z", 2),
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
        assert_eq!(
            next("30 * * * *", zone, "2026-10-25T00:00:00Z", 3),
            ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"]
        );
        // `*/2` are hours that pass, too; so are days of `*/2`, and both they and the weekday have to fit.
        assert_eq!(
            next("30 */2 * * *", zone, "2026-10-24T22:45:00Z", 3),
            ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T03:30:00Z"]
        );
        assert_eq!(
            next("0 0 */2 * mon", Tz::UTC, "2026-11-01T00:00:00Z", 2),
            ["2026-11-09T00:00:00Z", "2026-11-23T00:00:00Z"]
        );
        // In St. John's 00:01 became 23:01 of the day before, at 02:31 UTC: what follows midnight is the evening again.
        let zone = Tz::America__St_Johns;
        assert_eq!(
            next("30 * * * *", zone, "2010-11-07T02:30:30Z", 2),
            ["2010-11-07T03:00:00Z", "2010-11-07T04:00:00Z"]
        );
        let hourly = Cron::parse("0 * * * *").expect("good");
        let last = hourly.last_until(zone, at("2010-11-07T02:45:00Z")).map(show);
        assert_eq!(last.as_deref(), Some("2010-11-07T02:30:00Z"), "midnight is over in the evening");
        // Lord Howe's clocks move by half an hour.
        assert_eq!(
            next("45 1 * * *", Tz::Australia__Lord_Howe, "2026-04-04T00:00:00Z", 2),
            ["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"]
        );
    }

    #[test]
    fn days_before_keep_the_time_of_day() {
        let zone = Tz::Europe__Amsterdam;
        assert_eq!(show(days_before(zone, at("2026-03-30T05:00:00Z"), 7)), "2026-03-23T06:00:00Z");
        assert_eq!(show(days_before(zone, at("2026-03-30T00:30:00Z"), 1)), "2026-03-29T01:00:00Z", "skipped");
        assert_eq!(show(days_before(zone, at("2026-10-26T01:30:00Z"), 1)), "2026-10-25T00:30:00Z", "the first of two");
    }

    #[test]
    fn what_is_no_schedule_says_why() {
        for (text, why) in [
            ("", "has 0 fields"),
            ("0 7 * *", "has 4 fields"),
            ("0 0 7 * * *", "has 6 fields"),
            ("60 * * * *", "\"60\" is no minute: 0 to 59"),
            ("* 24 * * *", "\"24\" is no hour"),
            ("0 0 0 * *", "\"0\" is no day of the month"),
            ("0 0 * 13 *", "is no month"),
            ("0 0 * * 8", "is no day of the week"),
            ("0 0 * * monday", "is no day of the week"),
            ("0 7-3 * * *", "ends before it begins"),
            ("5/10 * * * *", "a step needs a range"),
            ("*/0 * * * *", "is no minute"),
            ("+5 * * * *", "is no minute"),
            ("0 0 30 2 *", "never happens"),
            ("0,,5 * * * *", "is no minute"),
        ] {
            let error = Cron::parse(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
        assert_eq!(Cron::parse(" 0 7 * * mon ").expect("good").to_string(), "0 7 * * mon");
    }

    fn piece(low: u32, high: u32) -> impl Strategy<Value = String> {
        prop_oneof![
            3 => Just("*".to_owned()),
            1 => (2_u32..7).prop_map(|step| format!("*/{step}")),
            3 => (low..=high).prop_map(|value| value.to_string()),
            2 => (low..=high, low..=high).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
            1 => (low..=high, low..=high).prop_map(|(a, b)| format!("{a},{b}")),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Away from changes of the clocks an occurrence is a minute whose local time has what the fields say, and every such
        /// minute is one.
        #[test]
        fn occurrences_are_the_minutes_that_fit(
            minute in piece(0, 59), hour in piece(0, 23), day in piece(1, 28), month in piece(1, 12), weekday in piece(0, 6),
            start in 0_i64..3_000_000,
        ) {
            let text = format!("{minute} {hour} {day} {month} {weekday}");
            let (cron, zone) = (Cron::parse(&text).expect("a schedule"), Tz::Asia__Kolkata);
            let from = at("2026-01-01T00:00:00Z") + start * MINUTE;
            let fits = |time: Micros| {
                let local = time_of(time).with_timezone(&zone);
                let day = cron.is_day(local.date_naive());
                day && cron.hours.has(local.hour()) && cron.minutes.has(local.minute())
            };
            let walked: Vec<Micros> = (1..=3 * 1440).map(|step| from + step * MINUTE).filter(|time| fits(*time)).collect();
            let until = from + 3 * DAY;
            let mut found = Vec::new();
            let mut time = from;
            while let Some(next) = cron.next_after(zone, time).filter(|next| *next <= until) {
                found.push(next);
                time = next;
            }
            prop_assert_eq!(&found, &walked);
            prop_assert_eq!(cron.last_until(zone, until).filter(|last| *last > from), walked.last().copied());
        }

        /// Forwards and backwards agree, across changes of the clocks too.
        #[test]
        fn the_last_one_until_the_next_one_is_the_next_one(
            minute in piece(0, 59), hour in piece(0, 23), start in 0_i64..30_000_000,
            zone in prop_oneof![Just(Tz::Europe__Amsterdam), Just(Tz::Australia__Lord_Howe), Just(Tz::America__Sao_Paulo), Just(Tz::Pacific__Apia)],
        ) {
            let cron = Cron::parse(&format!("{minute} {hour} * * *")).expect("a schedule");
            let from = at("2005-01-01T00:00:00Z") + start * MINUTE;
            let next = cron.next_after(zone, from).expect("there is always one");
            prop_assert!(next > from);
            prop_assert_eq!(cron.last_until(zone, next), Some(next));
            prop_assert!(cron.last_until(zone, next - 1).is_none_or(|last| last <= from));
        }
    }
}
