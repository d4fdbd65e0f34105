//! Which occurrences of a schedule are to be made: pure.
use driftline_schemas::clock::Micros;
use driftline_schemas::config::ReportSpec;

/// Occurrences that are counted at most when some are left out: a schedule of every minute that rested for a year has many.
const COUNTED_MAX: u64 = 1_000;

/// What is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The occurrence, microseconds UTC.
    pub occurrence: Micros,
    /// Occurrences before it that were missed and are left out; at most a thousand are counted.
    pub skipped: u64,
}

/// The next occurrence to be made of those in `(done_to, now]`: the newest `catch_up` are made, the oldest of them first, and
/// those before are left out.
pub fn due(spec: &ReportSpec, done_to: Micros, now: Micros) -> Option<Due> {
    let mut occurrence = None;
    let mut until = now;
    for _ in 0..spec.catch_up {
        match spec.cron.last_until(spec.time_zone, until).filter(|at| *at > done_to) {
            None => break,
            Some(at) => {
                occurrence = Some(at);
                until = at - 1;
            }
        }
    }
    let occurrence = occurrence?;
    let mut skipped = 0;
    let mut until = occurrence - 1;
    while let Some(at) = spec.cron.last_until(spec.time_zone, until).filter(|at| *at > done_to && skipped < COUNTED_MAX)
    {
        skipped += 1;
        until = at - 1;
    }
    Some(Due { occurrence, skipped })
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use driftline_schemas::clock::{MINUTE, show};
    use driftline_schemas::config::Config;

    use super::*;

    fn spec(lines: &str) -> ReportSpec {
        let text = format!("[[reports]]\nname = \"r\"\n{lines}");
        Config::from_table(text.parse().expect("TOML")).expect("a good file").reports.remove(0)
    }

    fn at(text: &str) -> Micros {
        DateTime::parse_from_rfc3339(text).expect(text).timestamp_micros()
    }

    /// All that is made until `now`, one after the other.
    fn made(spec: &ReportSpec, mut done_to: Micros, now: Micros) -> Vec<(String, u64)> {
        std::iter::from_fn(|| {
            let due = due(spec, done_to, now)?;
            done_to = due.occurrence;
            Some((show(due.occurrence), due.skipped))
        })
        .collect()
    }

    #[test]
    fn of_many_that_were_missed_the_newest_are_made_the_oldest_of_them_first() {
        let daily = spec("cron = \"0 7 * * *\"");
        let (before, now) = (at("2026-11-20T07:00:00Z"), at("2026-11-28T06:59:00Z"));
        let all = made(&daily, before, now);
        let wanted = [("2026-11-25T07:00:00Z", 4), ("2026-11-26T07:00:00Z", 0), ("2026-11-27T07:00:00Z", 0)];
        assert_eq!(all, wanted.map(|(at, skipped)| (at.to_owned(), skipped)));
        assert_eq!(made(&daily, before, before), [], "not the one that is made already");
        assert_eq!(made(&daily, before - 1, before).len(), 1, "at its very time");
        let newest = spec("cron = \"0 7 * * *\"\ncatch_up = 1");
        assert_eq!(made(&newest, before, now), [("2026-11-27T07:00:00Z".to_owned(), 6)]);
    }

    #[test]
    fn counting_what_is_left_out_has_an_end() {
        let every_minute = spec("cron = \"* * * * *\"");
        let now = at("2026-11-28T07:00:00Z");
        assert_eq!(due(&every_minute, now - 10_000_000 * MINUTE, now).map(|due| due.skipped), Some(COUNTED_MAX));
    }

    #[test]
    fn across_changes_of_the_clocks_each_day_has_one() {
        let night = spec("cron = \"30 2 * * *\"\ntime_zone = \"Europe/Amsterdam\"");
        let spring = made(&night, at("2026-03-28T12:00:00Z"), at("2026-03-30T12:00:00Z"));
        assert_eq!(
            spring,
            [("2026-03-29T01:00:00Z".to_owned(), 0), ("2026-03-30T00:30:00Z".to_owned(), 0)],
            "02:30 is skipped, and made at 03:00"
        );
        let autumn = made(&night, at("2026-10-24T12:00:00Z"), at("2026-10-26T12:00:00Z"));
        assert_eq!(
            autumn,
            [("2026-10-25T00:30:00Z".to_owned(), 0), ("2026-10-26T01:30:00Z".to_owned(), 0)],
            "02:30 comes twice, and is made once"
        );
    }
}
