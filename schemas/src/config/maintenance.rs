//! Maintenance by schedule: times that come again, in which nobody is told.
use chrono_tz::Tz;

use super::alerts::Rule;
use super::reader::Reader;
use super::reports::read_cron;
use crate::clock::{DAY, MINUTE, Micros, show};
use crate::cron::Cron;

/// Longest maintenance: longer ones are slips of the pen.
const LENGTH_MAX: Micros = 366 * DAY;
/// Stands for a length that could not be read.
const NO_LENGTH: Micros = -1;
/// From when on a schedule is looked at: 2026-01-01T00:00Z. Earlier, zones had rules that hold no more.
const LOOK_FROM: Micros = 1_767_225_600_000_000;
/// Times that are looked at for one at which people are told. Fewer could call a schedule endless that is not, if it begins
/// more often than this and leaves out but a few of its days; more cost a second at the start.
const LOOKS_MAX: usize = 2_000;

/// One of `[[alerts.maintenance]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maintenance {
    /// Its name; unique.
    pub name: String,
    /// When it begins.
    pub cron: Cron,
    /// The zone of `cron`.
    pub time_zone: Tz,
    /// How long it lasts from then, microseconds; hours as they pass, whatever the clocks do.
    pub length: Micros,
    /// Models that it is for; empty: all.
    pub models: Vec<String>,
    /// Names of the rules that it is for; empty: all.
    pub rules: Vec<String>,
}

impl Maintenance {
    /// Whether it lasts at a time.
    pub fn holds(&self, time: Micros) -> bool {
        self.cron.last_until(self.time_zone, time).is_some_and(|begin| time < begin + self.length)
    }

    /// Until when it lasts, if it does at a time: where one begins before another has ended, until the last of them.
    pub fn until(&self, time: Micros) -> Option<Micros> {
        let mut begin = self.cron.last_until(self.time_zone, time).filter(|begin| time < begin + self.length)?;
        for _ in 0..LOOKS_MAX {
            match self.cron.last_until(self.time_zone, begin + self.length) {
                Some(next) if next > begin => begin = next,
                _ => break,
            }
        }
        Some(begin + self.length)
    }

    /// When it begins for the first time after a time.
    pub fn next_after(&self, time: Micros) -> Option<Micros> {
        self.cron.next_after(self.time_zone, time)
    }

    /// Whether there is any time, within two years of one at which it begins, at which people are told.
    fn ends(&self) -> bool {
        let begin = self.next_after(LOOK_FROM - 1).unwrap_or(LOOK_FROM);
        let mut time = begin;
        for _ in 0..LOOKS_MAX {
            if time > begin + 732 * DAY {
                return false;
            }
            match self.cron.last_until(self.time_zone, time).filter(|begin| time < begin + self.length) {
                Some(begin) => time = begin + self.length,
                None => return true,
            }
        }
        false
    }

    /// What it is now, for people: `now, until …`, or `next at …`.
    pub fn show_at(&self, now: Micros) -> String {
        match (self.until(now), self.next_after(now)) {
            (Some(until), _) => format!("now, until {}", show(until)),
            (None, Some(next)) => format!("next at {}", show(next)),
            (None, None) => "never again".to_owned(),
        }
    }
}

/// All of `[[alerts.maintenance]]`; its rules are those of `[alerts]`.
pub(super) fn read_maintenance(section: &mut Reader, rules: &[Rule], rule_names: &[String]) -> Vec<Maintenance> {
    let mut all: Vec<Maintenance> = Vec::new();
    for mut part in section.tables("maintenance") {
        if let Some(one) = read_one(&mut part, rules, rule_names) {
            if all.iter().any(|other| other.name == one.name) {
                part.fault("name", format!("{:?} is listed twice", one.name));
            }
            all.push(one);
        }
        section.absorb(part);
    }
    all
}

fn read_one(section: &mut Reader, rules: &[Rule], rule_names: &[String]) -> Option<Maintenance> {
    let name = section.text("name");
    if name.is_none() {
        section.fault("name", "is missing: it says why nobody was told".into());
    }
    let cron = read_cron(section);
    let time_zone = section.text("time_zone").map_or(Some(Tz::UTC), |name| section.zone("time_zone", &name));
    let is_typed = section.table_has("for");
    let length = section.duration("for", NO_LENGTH);
    if !is_typed {
        section.fault("for", "is missing: how long it lasts, like \"3h\"".into());
    } else if length != NO_LENGTH && !(MINUTE..=LENGTH_MAX).contains(&length) {
        section.fault("for", format!("must be 1m to {}d", LENGTH_MAX / DAY));
    }
    let models = section.list("models");
    let named = section.list("rules");
    for (key, list) in [("models", &models), ("rules", &named)] {
        if list.as_ref().is_some_and(Vec::is_empty) {
            section.fault(key, "is empty; leave it out, and it is for all".into());
        }
    }
    let (models, named) = (models.unwrap_or_default(), named.unwrap_or_default());
    for rule in &named {
        if !rule_names.contains(rule) {
            section.fault("rules", format!("there is no rule {rule:?} in [[alerts.rules]]"));
        }
    }
    // A rule that looks at none of these models is never kept quiet.
    for rule in rules.iter().filter(|rule| named.contains(&rule.name) && !models.is_empty()) {
        if !rule.models.is_empty() && !models.iter().any(|model| rule.is_for(model)) {
            section.fault("rules", format!("{:?} looks at none of these models", rule.name));
        }
    }
    let one = Maintenance { name: name?, cron: cron?, time_zone: time_zone?, length, models, rules: named };
    if (MINUTE..=LENGTH_MAX).contains(&length) && !one.ends() {
        section.fault("for", format!("is so long that it never ends: it begins again before (\"{}\")", one.cron));
    }
    Some(one)
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn read(text: &str) -> Result<Vec<Maintenance>, Vec<String>> {
        Config::from_table(text.parse().expect("TOML"))
            .map(|config| config.alerts.maintenance)
            .map_err(|faults| faults.iter().map(ToString::to_string).collect())
    }

    fn at(text: &str) -> Micros {
        chrono::DateTime::parse_from_rfc3339(text).expect(text).timestamp_micros()
    }

    fn one(lines: &str) -> Maintenance {
        read(&format!("[[alerts.maintenance]]\nname = \"m\"\n{lines}")).expect(lines).remove(0)
    }

    /// When it lasts within a period, minute after minute: its beginnings and ends.
    fn spans(of: &Maintenance, from: &str, to: &str) -> Vec<(String, String)> {
        let (mut spans, mut since) = (Vec::new(), None);
        let mut minute = at(from);
        while minute <= at(to) {
            match (of.holds(minute), since) {
                (true, None) => since = Some(minute),
                (false, Some(begin)) => {
                    spans.push((show(begin), show(minute)));
                    since = None;
                }
                _ => {}
            }
            minute += MINUTE;
        }
        spans
    }

    #[test]
    fn maintenance_lasts_its_hours_whatever_the_clocks_do() {
        let night = one("cron = \"0 2 * * sun\"\ntime_zone = \"Europe/Amsterdam\"\nfor = \"3h\"");
        let span = |from: &str, to: &str| vec![(from.to_owned(), to.to_owned())];
        // In winter 2 o'clock is 1 o'clock in UTC, in summer midnight.
        let winter = spans(&night, "2026-03-21T12:00:00Z", "2026-03-22T12:00:00Z");
        assert_eq!(winter, span("2026-03-22T01:00:00Z", "2026-03-22T04:00:00Z"));
        let summer = spans(&night, "2026-04-04T12:00:00Z", "2026-04-05T12:00:00Z");
        assert_eq!(summer, span("2026-04-05T00:00:00Z", "2026-04-05T03:00:00Z"));
        // The clocks go forward at 2: it begins when the gap has ended, at 3 o'clock, and is over at 6.
        let forward = spans(&night, "2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z");
        assert_eq!(forward, span("2026-03-29T01:00:00Z", "2026-03-29T04:00:00Z"));
        // They go back at 3, so 2 o'clock comes twice: it begins the first time, once, and lasts three hours.
        let back = spans(&night, "2026-10-24T12:00:00Z", "2026-10-25T12:00:00Z");
        assert_eq!(back, span("2026-10-25T00:00:00Z", "2026-10-25T03:00:00Z"));
        // Begun before the clocks change, and ended after.
        let across = one("cron = \"30 1 * * *\"\ntime_zone = \"Europe/Amsterdam\"\nfor = \"2h\"");
        let forward = spans(&across, "2026-03-29T00:00:00Z", "2026-03-29T12:00:00Z");
        assert_eq!(forward, span("2026-03-29T00:30:00Z", "2026-03-29T02:30:00Z"));
        assert_eq!(across.until(at("2026-03-29T02:29:59Z")), Some(at("2026-03-29T02:30:00Z")));
        assert_eq!(across.until(at("2026-03-29T02:30:00Z")), None, "the end is out of it");
        assert_eq!(across.next_after(at("2026-03-29T00:30:00Z")), Some(at("2026-03-29T23:30:00Z")));
    }

    #[test]
    fn what_follows_without_a_break_is_one() {
        let weekdays = one("cron = \"0 0 * * mon-fri\"\nfor = \"24h\"");
        assert_eq!(weekdays.until(at("2026-11-24T15:00:00Z")), Some(at("2026-11-28T00:00:00Z")), "Tuesday to Saturday");
        assert_eq!(weekdays.until(at("2026-11-28T00:00:00Z")), None);
        assert_eq!(weekdays.show_at(at("2026-11-28T00:00:00Z")), "next at 2026-11-30T00:00:00Z");
        assert_eq!(weekdays.show_at(at("2026-11-27T00:00:00Z")), "now, until 2026-11-28T00:00:00Z");
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let faults = read(
            "[[alerts.rules]]\nname = \"r\"\nmetric = \"f1\"\nbelow = 0.8\nmodels = [\"a\"]\n\
             [[alerts.maintenance]]\ncron = \"0 25 * * *\"\ntime_zone = \"Europe/Amsterdm\"\nfor = \"3 o'clock\"\nrules = [\"s\"]\n\
             [[alerts.maintenance]]\nname = \"b\"\ncron = \"@daily\"\nmodels = []\nrule = [\"r\"]\n\
             [[alerts.maintenance]]\nname = \"c\"\ncron = \"@daily\"\nfor = \"30s\"\nmodels = [\"b\"]\nrules = [\"r\"]\n\
             [[alerts.maintenance]]\nname = \"c\"\ncron = \"@hourly\"\nfor = \"1h\"",
        )
        .expect_err("many faults");
        let all = faults.join("\n");
        for fault in [
            "alerts.maintenance[0].name: is missing",
            "alerts.maintenance[0].cron: \"25\" is no hour",
            "alerts.maintenance[0].time_zone: \"Europe/Amsterdm\" is no IANA time zone; did you mean \"Europe/Amsterdam\"?",
            "alerts.maintenance[0].for: must be a duration",
            "alerts.maintenance[0].rules: there is no rule \"s\"",
            "alerts.maintenance[1].for: is missing",
            "alerts.maintenance[1].models: is empty",
            "alerts.maintenance[1].rule: is not a known key; did you mean `rules`?",
            "alerts.maintenance[2].for: must be 1m to 366d",
            "alerts.maintenance[2].rules: \"r\" looks at none of these models",
            "alerts.maintenance[3].name: \"c\" is listed twice",
            "alerts.maintenance[3].for: is so long that it never ends",
        ] {
            assert!(all.contains(fault), "{fault} is not in\n{all}");
        }
        assert_eq!(faults.len(), 12, "{all}");
    }

    #[test]
    fn only_what_never_ends_is_called_endless() {
        for (lines, ends) in [
            ("cron = \"@daily\"\nfor = \"23h 59m\"", true),
            ("cron = \"@daily\"\nfor = \"24h\"", false),
            // A day of 25 hours has one in which people are told.
            ("cron = \"@daily\"\ntime_zone = \"Europe/Amsterdam\"\nfor = \"24h\"", true),
            ("cron = \"@daily\"\ntime_zone = \"Europe/Amsterdam\"\nfor = \"25h\"", false),
            ("cron = \"0 0 1 * *\"\nfor = \"30d\"", true),
            ("cron = \"0 0 1 * *\"\nfor = \"31d\"", false),
            ("cron = \"0 0 29 2 *\"\nfor = \"366d\"", true),
            ("cron = \"* 0-22 * * *\"\nfor = \"30m\"", true),
            ("cron = \"* * * * *\"\nfor = \"1m\"", false),
        ] {
            let read = read(&format!("[[alerts.maintenance]]\nname = \"m\"\n{lines}"));
            assert_eq!(read.is_ok(), ends, "{lines}: {read:?}");
        }
    }
}
