//! What a rule looks at: the values of one thing over windows, and its name for people and machines.
use std::collections::BTreeMap;

use driftline_schemas::clock::Micros;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

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

    /// `f1 of card-fraud, region = eu, version 3`.
    pub fn show(&self) -> String {
        let mut text = match &self.column {
            Some(column) if self.model == driftline_store::paths::NO_MODEL => format!("{} of {column}", self.metric),
            None if self.model == driftline_store::paths::NO_MODEL => self.metric.clone(),
            Some(column) => format!("{} of {column} in {}", self.metric, self.model),
            None => format!("{} of {}", self.metric, self.model),
        };
        if let Some(class) = &self.class {
            text.push_str(&format!(", class {class}"));
        }
        if let (Some(segment), Some(value)) = (&self.segment, &self.segment_value) {
            text.push_str(&format!(", {segment} = {value}"));
        }
        if let Some(version) = &self.model_version {
            text.push_str(&format!(", version {version}"));
        }
        text
    }
}

/// What one window says of a series at one revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// `0.712 [0.68, 0.74] against 0.8, 412 labelled`.
    pub fn show(&self) -> String {
        let interval = match (self.ci_low, self.ci_high) {
            (Some(low), Some(high)) => format!(" [{low:.4}, {high:.4}]"),
            _ => self.p_value.map_or_else(String::new, |p| format!(" (p = {p:.2e})")),
        };
        format!("{:.4}{interval} against {:.4}, {} rows, {} labelled", self.value, self.level, self.n, self.n_labelled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
