//! Reports that are made by themselves: when, of what, and who is told.
use chrono_tz::Tz;

use super::alerts::{AlertsConfig, SinkKind};
use super::reader::{Reader, is_web};
use crate::clock::{DAY, MINUTE, Micros};
use crate::cron::{Cron, days_before};
use crate::window::{WindowLength, WindowSpec};

/// Longest period of a report: longer ones are slips of the pen.
const PERIOD_MAX: Micros = 3_660 * DAY;
/// Occurrences that a process makes up for at most, whatever the file says.
const CATCH_UP_MAX: i64 = 100;

/// One of `[[reports]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportSpec {
    /// Its name; unique, and a folder in the store.
    pub name: String,
    /// When it is made.
    pub cron: Cron,
    /// The zone of `cron`, and of periods of the calendar.
    pub time_zone: Tz,
    /// Models that it is about; empty: all that the store knows.
    pub models: Vec<String>,
    /// What time it is about.
    pub period: Period,
    /// What is written, each once.
    pub formats: Vec<ReportFormat>,
    /// Names of the sinks of `[alerts]` that are told; none: it only lies in the store.
    pub sinks: Vec<String>,
    /// Of occurrences that were missed the newest so many are made up for; those before are left out.
    pub catch_up: u32,
    /// Where the store's folder `reports/` can be reached; `None`: links are names in the store.
    pub link: Option<String>,
}

/// The time that a report is about, as of its occurrence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// So many microseconds up to the occurrence; whole days are days of the calendar.
    Back(Micros),
    /// The last day, week (from Monday) or month that was over.
    Calendar(WindowLength),
}

impl Period {
    /// First instant, and first instant after, of the period of an occurrence.
    pub fn of(self, occurrence: Micros, zone: Tz) -> (Micros, Micros) {
        match self {
            Self::Back(length) if length % DAY == 0 => {
                (days_before(zone, occurrence, (length / DAY).unsigned_abs()), occurrence)
            }
            Self::Back(length) => (occurrence - length, occurrence),
            Self::Calendar(length) => {
                let calendar = WindowSpec { length, timezone: zone };
                let end = calendar.window_of(occurrence).start;
                (calendar.window_of(end - 1).start, end)
            }
        }
    }
}

/// What a report is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReportFormat {
    /// One self-contained page.
    Html,
    /// The same for programs.
    Json,
    /// The same for people without a browser.
    Markdown,
}

impl ReportFormat {
    /// Its word, which is the file's extension.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Html => "html",
            Self::Json => "json",
            Self::Markdown => "md",
        }
    }

    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Html => "text/html; charset=utf-8",
            Self::Json => "application/json",
            Self::Markdown => "text/markdown; charset=utf-8",
        }
    }
}

/// All of `[[reports]]`; their sinks are those of `[alerts]`.
pub(super) fn read_reports(root: &mut Reader, alerts: &AlertsConfig) -> Vec<ReportSpec> {
    let mut reports: Vec<ReportSpec> = Vec::new();
    for mut part in root.tables("reports") {
        if let Some(report) = read_report(&mut part, alerts) {
            if reports.iter().any(|other| other.name == report.name) {
                part.fault("name", format!("{:?} is listed twice", report.name));
            }
            reports.push(report);
        }
        root.absorb(part);
    }
    reports
}

fn read_report(section: &mut Reader, alerts: &AlertsConfig) -> Option<ReportSpec> {
    let name = section.text("name");
    if name.is_none() {
        section.fault("name", "is missing".into());
    }
    let cron = read_cron(section);
    let time_zone = section.text("time_zone").map_or(Some(Tz::UTC), |name| section.zone("time_zone", &name));
    let models = section.list("models").unwrap_or_default();
    let period = read_period(section);
    let formats = read_formats(section);
    let sinks = section.list("sinks").unwrap_or_default();
    for name in &sinks {
        match alerts.sinks.iter().find(|sink| sink.name == *name) {
            None => section.fault("sinks", format!("there is no sink {name:?} in [[alerts.sinks]]")),
            Some(sink) if matches!(sink.kind, SinkKind::Alertmanager | SinkKind::Pagerduty) => {
                section
                    .fault("sinks", format!("{name:?} is of type {:?}, which takes alerts only", sink.kind.as_str()));
            }
            Some(_) => {}
        }
    }
    let catch_up = section.integer("catch_up", 3);
    if !(1..=CATCH_UP_MAX).contains(&catch_up) {
        section.fault("catch_up", format!("must be 1 to {CATCH_UP_MAX}"));
    }
    let link = section.text("link");
    if link.as_ref().is_some_and(|link| !is_web(link)) {
        section.fault("link", "must begin with https:// or http://, and hold no blanks".into());
    }
    Some(ReportSpec {
        name: name?,
        cron: cron?,
        time_zone: time_zone?,
        models,
        period,
        formats,
        sinks,
        catch_up: catch_up.clamp(1, CATCH_UP_MAX) as u32,
        link,
    })
}

pub(super) fn read_cron(section: &mut Reader) -> Option<Cron> {
    let Some(text) = section.text("cron") else {
        section.fault(
            "cron",
            "is missing: minute, hour, day of the month, month, day of the week, like \"0 7 * * mon\"".into(),
        );
        return None;
    };
    Cron::parse(&text).map_err(|why| section.fault("cron", why)).ok()
}

fn read_period(section: &mut Reader) -> Period {
    let Some(text) = section.text("period") else { return Period::Back(7 * DAY) };
    match text.as_str() {
        "day" => return Period::Calendar(WindowLength::Day),
        "week" => return Period::Calendar(WindowLength::Week),
        "month" => return Period::Calendar(WindowLength::Month),
        _ => {}
    }
    let parsed = humantime::parse_duration(&text).ok().and_then(|length| Micros::try_from(length.as_micros()).ok());
    match parsed {
        Some(length) if (MINUTE..=PERIOD_MAX).contains(&length) => return Period::Back(length),
        Some(_) => section.fault("period", format!("{text:?} is not within 1m and {}d", PERIOD_MAX / DAY)),
        None => {
            let wanted = "no duration like \"7d\", nor \"day\", \"week\" or \"month\": the last one that was over";
            section.fault("period", format!("{text:?} is {wanted}"));
        }
    }
    Period::Back(7 * DAY)
}

fn read_formats(section: &mut Reader) -> Vec<ReportFormat> {
    let Some(words) = section.list("formats") else { return vec![ReportFormat::Html] };
    let all = [ReportFormat::Html, ReportFormat::Json, ReportFormat::Markdown];
    let mut formats = Vec::new();
    for word in &words {
        match all
            .iter()
            .find(|format| format.as_str() == word || (word == "markdown" && **format == ReportFormat::Markdown))
        {
            Some(format) => formats.push(*format),
            None => section.fault("formats", format!("{word:?} is none of \"html\", \"json\", \"md\"")),
        }
    }
    formats.sort_unstable();
    formats.dedup();
    if formats.is_empty() && words.is_empty() {
        section.fault("formats", "names none of \"html\", \"json\", \"md\"".into());
    }
    formats
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::super::Config;
    use super::*;
    use crate::clock::show;

    fn read(text: &str) -> Result<Vec<ReportSpec>, Vec<String>> {
        Config::from_table(text.parse().expect("TOML"))
            .map(|config| config.reports)
            .map_err(|faults| faults.iter().map(ToString::to_string).collect())
    }

    const SINKS: &str = "[[alerts.sinks]]\nname = \"hook\"\ntype = \"webhook\"\nurl = \"https://x\"\n\
                         [[alerts.sinks]]\nname = \"pager\"\ntype = \"pagerduty\"\nsecret = \"k\"\n";

    #[test]
    fn a_report_is_read_and_most_of_it_has_a_default() {
        let full = r#"
            [[reports]]
            name = "weekly"
            cron = "0 7 * * mon"
            time_zone = "Europe/Amsterdam"
            models = ["card-fraud"]
            period = "week"
            formats = ["md", "html", "html"]
            sinks = ["hook"]
            catch_up = 1
            link = "https://reports.example.org"
            [[reports]]
            name = "daily"
            cron = "@daily"
            "#;
        let reports = read(&format!("{SINKS}{full}")).expect("a good file");
        let [weekly, daily] = reports.as_slice() else { panic!("{reports:?}") };
        assert_eq!((weekly.time_zone, weekly.period), (Tz::Europe__Amsterdam, Period::Calendar(WindowLength::Week)));
        assert_eq!(weekly.formats, [ReportFormat::Html, ReportFormat::Markdown]);
        assert_eq!((daily.time_zone, daily.period, daily.catch_up), (Tz::UTC, Period::Back(7 * DAY), 3));
        assert_eq!((daily.formats.as_slice(), daily.models.len()), ([ReportFormat::Html].as_slice(), 0));
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let faults = read(&format!(
            "{SINKS}[[reports]]\ncron = \"0 25 * * *\"\ntime_zone = \"Europe/Amsterdm\"\nperiod = \"weekly\"\nformats = [\"pdf\"]\n\
             sinks = [\"nobody\", \"pager\"]\ncatch_up = 0\nlink = \"s3://x\"\nmodel = \"a\"\n[[reports]]\nname = \"b\"\nformats = []"
        ))
        .expect_err("many faults");
        let all = faults.join("\n");
        for fault in [
            "reports[0].name: is missing",
            "reports[0].cron: \"25\" is no hour",
            "reports[0].time_zone: \"Europe/Amsterdm\" is no IANA time zone; did you mean \"Europe/Amsterdam\"?",
            "reports[0].period: \"weekly\" is no duration like \"7d\"",
            "reports[0].formats: \"pdf\" is none of",
            "reports[0].sinks: there is no sink \"nobody\"",
            "reports[0].sinks: \"pager\" is of type \"pagerduty\", which takes alerts only",
            "reports[0].catch_up: must be 1 to 100",
            "reports[0].link: must begin with https://",
            "reports[0].model: is not a known key; did you mean `models`?",
            "reports[1].cron: is missing",
            "reports[1].formats: names none of",
        ] {
            assert!(all.contains(fault), "{fault} is not in\n{all}");
        }
        assert_eq!(faults.len(), 12, "{all}");
        for period in ["59s", "11years"] {
            let text = format!("[[reports]]\nname = \"a\"\ncron = \"@daily\"\nperiod = \"{period}\"");
            let wrong = format!("reports[0].period: \"{period}\" is not within 1m and 3660d");
            assert_eq!(read(&text).expect_err(period), [wrong]);
        }
        let twice = "[[reports]]\nname = \"a\"\ncron = \"@daily\"\n".repeat(2);
        assert_eq!(read(&twice).expect_err("twice"), ["reports[1].name: \"a\" is listed twice"]);
    }

    #[test]
    fn periods_follow_the_calendar_of_the_zone_across_changes_of_the_clocks() {
        let at = |text: &str| DateTime::parse_from_rfc3339(text).expect(text).timestamp_micros();
        let zone = Tz::Europe__Amsterdam;
        for (period, occurrence, from, to) in [
            // Monday 7 o'clock in summer time; the week before began at 7 o'clock in winter time.
            (Period::Back(7 * DAY), "2026-03-30T05:00:00Z", "2026-03-23T06:00:00Z", "2026-03-30T05:00:00Z"),
            (Period::Back(90 * MINUTE), "2026-03-30T05:00:00Z", "2026-03-30T03:30:00Z", "2026-03-30T05:00:00Z"),
            (
                Period::Calendar(WindowLength::Day),
                "2026-03-30T05:00:00Z",
                "2026-03-28T23:00:00Z",
                "2026-03-29T22:00:00Z",
            ),
            (
                Period::Calendar(WindowLength::Week),
                "2026-03-30T05:00:00Z",
                "2026-03-22T23:00:00Z",
                "2026-03-29T22:00:00Z",
            ),
            (
                Period::Calendar(WindowLength::Month),
                "2026-11-01T06:00:00Z",
                "2026-09-30T22:00:00Z",
                "2026-10-31T23:00:00Z",
            ),
            // At the very boundary: what was over then.
            (
                Period::Calendar(WindowLength::Month),
                "2026-10-31T23:00:00Z",
                "2026-09-30T22:00:00Z",
                "2026-10-31T23:00:00Z",
            ),
        ] {
            let (begin, end) = period.of(at(occurrence), zone);
            assert_eq!((show(begin).as_str(), show(end).as_str()), (from, to), "{period:?} of {occurrence}");
        }
    }
}
