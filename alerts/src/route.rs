//! Which sinks are told of what: those that a rule names, or all; and of these the ones that take it.
use driftline_schemas::clock::Micros;
use driftline_schemas::config::{GROUP_BY, Severity, Sink};

use crate::life::Episode;
use crate::series::Series;

/// Whether a sink takes alerts of a series. `named`: the sinks of its rule; empty: all.
pub fn takes(sink: &Sink, series: &Series, severity: Severity, named: &[String]) -> bool {
    let fits = |(name, wanted): (&String, &Vec<String>)| match name.as_str() {
        "model" => wanted.iter().any(|model| series.is_of(model)),
        name => wanted.contains(&label(series, name).1),
    };
    (named.is_empty() || named.contains(&sink.name)) && severity >= sink.min_severity && sink.matches.iter().all(fits)
}

/// The label that a series has of a name of `group_by` or `match`; empty if it has none, as in Prometheus.
pub(crate) fn label(series: &Series, name: &str) -> (&'static str, String) {
    let labels = series.labels();
    let label = GROUP_BY.iter().find(|(typed, _)| *typed == name).map_or("", |(_, label)| *label);
    (label, labels.get(label).map(|value| (*value).to_owned()).unwrap_or_default())
}

/// Whether a sink is to be told again that an alert fires.
pub fn is_due(sink: &Sink, episode: &Episode, now: Micros) -> bool {
    let Some(every) = sink.repeat else { return false };
    let again = episode.repeated.get(&sink.name).copied();
    let revised = episode.revised_at.filter(|_| sink.revisions);
    let last = [again, revised].into_iter().flatten().fold(episode.told_at, Micros::max);
    now - last >= every
}

#[cfg(test)]
mod tests {
    use driftline_schemas::config::Config;

    use super::*;

    fn sink(lines: &str) -> Sink {
        let text = format!("[[alerts.sinks]]\nname = \"s\"\ntype = \"slack\"\nurl = \"https://x\"\n{lines}");
        let mut config = Config::from_table(text.parse().expect("TOML")).expect("a good configuration");
        config.alerts.sinks.remove(0)
    }

    fn series() -> Series {
        Series {
            rule: "r".into(),
            model: "m".into(),
            metric: "f1".into(),
            segment: Some("region".into()),
            segment_value: Some("eu".into()),
            class: Some("1".into()),
            ..Series::default()
        }
    }

    #[test]
    fn a_sink_takes_what_it_asks_for_and_all_by_default() {
        let takes = |lines: &str| takes(&sink(lines), &series(), Severity::Error, &[]);
        for (lines, is_taken) in [
            ("", true),
            ("min_severity = \"error\"", true),
            ("min_severity = \"warning\"", true),
            ("min_severity = \"critical\"", false),
            ("match = { model = \"m\" }", true),
            ("match = { model = \"n\" }", false),
            ("match = { model = [\"n\", \"m\"], metric = \"f1\", rule = \"r\", class = 1 }", true),
            ("match = { model = \"m\", segment_value = \"us\" }", false),
            ("match = { segment = \"region\", segment_value = [\"us\", \"eu\"] }", true),
            // What an alert does not have is empty, so that whole models can be asked for.
            ("match = { version = \"\" }", true),
            ("match = { segment = \"\" }", false),
            ("match = { column = \"amount\" }", false),
        ] {
            assert_eq!(takes(lines), is_taken, "{lines}");
        }
        let named = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            super::takes(&sink(""), &series(), Severity::Info, &names)
        };
        assert!(named(&["a", "s"]) && !named(&["a"]));
        // A model's watermark is the model's.
        let delay = Series { model: "__none__".into(), column: Some("m".into()), ..Series::default() };
        assert!(super::takes(&sink("match = { model = \"m\" }"), &delay, Severity::Info, &[]));
    }
}
