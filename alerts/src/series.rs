//! What a rule looks at: the values of one thing over windows, and its name for people and machines.
use std::collections::BTreeMap;

use driftline_schemas::clock::Micros;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// Characters of a name of people's own that sentences show.
const NAME_MAX: usize = 200;

/// One thing that a rule looks at, window after window.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Series {
    /// The rule's name.
    pub rule: String,
    /// Model.
    pub model: String,
    /// The metric, the method of drift, or the check of quality.
    pub metric: String,
    /// Version; none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_version: Option<String>,
    /// The names that a segment crosses; none: all rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<String>,
    /// Their values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment_value: Option<String>,
    /// The column, of drift and quality.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// The class, of a metric of one class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
}

impl Series {
    /// Its labels, as Alertmanager has them; `severity` is not among them.
    pub fn labels(&self) -> BTreeMap<&'static str, &str> {
        let mut labels = BTreeMap::from([
            ("alertname", self.rule.as_str()),
            ("model_name", self.model.as_str()),
            ("metric", self.metric.as_str()),
        ]);
        let optional = [
            ("model_version", &self.model_version),
            ("segment", &self.segment),
            ("segment_value", &self.segment_value),
            ("column_name", &self.column),
            ("class", &self.class),
        ];
        labels.extend(optional.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))));
        labels
    }

    /// Sixteen hexadecimal digits that stand for the labels.
    pub fn fingerprint(&self) -> String {
        let mut text = String::new();
        for (name, value) in self.labels() {
            text.push_str(&format!("{}:{name}{}:{value}", name.len(), value.len()));
        }
        format!("{:016x}", xxh3_64(text.as_bytes()))
    }

    /// Whether it is a model's: a delay of its watermark is told under no model, and still the model's.
    pub fn is_of(&self, model: &str) -> bool {
        let of_pipeline = self.model == driftline_store::paths::NO_MODEL && self.column.as_deref() == Some(model);
        self.model == model || of_pipeline
    }

    /// `f1 of card-fraud, region = eu, version 3`.
    pub fn show(&self) -> String {
        let model = plain(&self.model);
        let mut text = match &self.column {
            Some(column) if self.model == driftline_store::paths::NO_MODEL => {
                format!("{} of {}", self.metric, plain(column))
            }
            None if self.model == driftline_store::paths::NO_MODEL => self.metric.clone(),
            Some(column) => format!("{} of {} in {model}", self.metric, plain(column)),
            None => format!("{} of {model}", self.metric),
        };
        if let Some(class) = &self.class {
            text.push_str(&format!(", class {}", plain(class)));
        }
        if let (Some(segment), Some(value)) = (&self.segment, &self.segment_value) {
            text.push_str(&format!(", {} = {}", plain(segment), plain(value)));
        }
        if let Some(version) = &self.model_version {
            text.push_str(&format!(", version {}", plain(version)));
        }
        text
    }
}

/// A name for people: what producers have put into it is cut, and its control characters are shown as such.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::new();
    for (at, c) in text.chars().enumerate() {
        if at == NAME_MAX {
            plain.push('…');
            break;
        }
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            plain.extend(c.escape_default());
        } else {
            plain.push(c);
        }
    }
    plain
}

/// What one window says of a series at one revision.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// First instant of the window, microseconds.
    pub window_start: Micros,
    /// First instant after it.
    pub window_end: Micros,
    /// The window's revision.
    pub revision: u64,
    /// Its state.
    pub state: String,
    /// The value.
    pub value: f64,
    /// The tolerated level.
    pub level: f64,
    /// Lower bound of the value's interval at 95 %.
    pub ci_low: Option<f64>,
    /// Upper bound.
    pub ci_high: Option<f64>,
    /// Of drift: the p-value.
    pub p_value: Option<f64>,
    /// Rows.
    pub n: i64,
    /// Labelled rows.
    pub n_labelled: i64,
    /// Natural logarithm of the e-value; none where the point decides.
    pub ln_e: Option<f64>,
}

impl Evidence {
    /// `0.7120 [0.6800, 0.7400], below 0.8000, 1000 rows, 412 labelled`; of a delay `10m, above 5m`.
    pub fn show(&self, metric: &str) -> String {
        // Whole numbers are counts, unless the other one is none.
        let is_count = self.value.fract() == 0.0 && self.level.fract() == 0.0 && self.ci_low.is_none();
        let number = |value: f64| match value {
            seconds if metric.ends_with("_seconds") && (0.0..1e12).contains(&seconds) => {
                humantime::format_duration(std::time::Duration::from_secs(seconds.round() as u64)).to_string()
            }
            count if is_count => format!("{count:.0}"),
            large if large.abs() >= 1_000.0 => format!("{large:.1}"),
            small if small != 0.0 && small.abs() < 1e-3 => format!("{small:.2e}"),
            other => format!("{other:.4}"),
        };
        let interval = match (self.ci_low, self.ci_high) {
            (Some(low), Some(high)) => format!(" [{}, {}]", number(low), number(high)),
            _ => self.p_value.map_or_else(String::new, |p| format!(" (p = {p:.2e})")),
        };
        let side = match self.value.partial_cmp(&self.level) {
            Some(std::cmp::Ordering::Less) => "below",
            Some(std::cmp::Ordering::Greater) => "above",
            Some(std::cmp::Ordering::Equal) | None => "at",
        };
        let mut text = format!("{}{interval}, {side} {}", number(self.value), number(self.level));
        // Of the pipeline nothing rests on rows, and of drift, quality and requests nothing on labels.
        if self.n > 0 {
            text.push_str(&format!(", {} rows", self.n));
        }
        if self.n_labelled > 0 {
            text.push_str(&format!(", {} labelled", self.n_labelled));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_reads_as_what_it_is() {
        let of = |metric: &str, value: f64, level: f64, rest: Evidence| Evidence { value, level, ..rest }.show(metric);
        let share =
            Evidence { ci_low: Some(0.68), ci_high: Some(0.74), n: 1_000, n_labelled: 412, ..Evidence::default() };
        assert_eq!(of("f1", 0.71, 0.8, share), "0.7100 [0.6800, 0.7400], below 0.8000, 1000 rows, 412 labelled");
        assert_eq!(of("watermark_delay_seconds", 905.2, 300.0, Evidence::default()), "15m 5s, above 5m");
        assert_eq!(of("collectors", 0.0, 1.0, Evidence::default()), "0, below 1");
        let drift = Evidence { p_value: Some(1e-12), n: 500, ..Evidence::default() };
        assert_eq!(of("ks", 0.3, 0.1, drift), "0.3000 (p = 1.00e-12), above 0.1000, 500 rows");
        assert_eq!(of("mean_squared_error", 123_456.789, 1_000.5, Evidence::default()), "123456.8, above 1000.5");
        assert_eq!(of("error_rate", 0.000_21, 0.0001, Evidence::default()), "2.10e-4, above 1.00e-4");
    }

    #[test]
    fn a_fingerprint_stands_for_the_labels_and_nothing_else() {
        let series = Series { rule: "r".into(), model: "m".into(), metric: "f1".into(), ..Series::default() };
        let other = |change: fn(&mut Series)| {
            let mut other = series.clone();
            change(&mut other);
            other.fingerprint()
        };
        assert_eq!(series.fingerprint(), series.clone().fingerprint());
        assert_eq!(series.fingerprint().len(), 16);
        let all = [
            series.fingerprint(),
            other(|s| s.segment = Some("a".into())),
            other(|s| s.segment_value = Some("a".into())),
            other(|s| s.class = Some("a".into())),
            other(|s| s.rule = "r2".into()),
        ];
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len());
        assert_eq!(series.show(), "f1 of m");
    }
}
