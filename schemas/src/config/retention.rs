//! How long what is kept is kept. By default: for ever.
use super::reader::Reader;
use crate::clock::{MINUTE, Micros};

/// Between a boundary and the deletion of what lies behind it, unless it is set.
const GRACE: Micros = 60 * MINUTE;
/// Records and snapshots of the ledger younger than this are what processes read on from.
const LEDGER_MIN: Micros = 60 * MINUTE;

/// How long each kind of object is kept, microseconds; `None`: for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionConfig {
    /// Raw objects, and the dead letters in them: from when they were written, and never before nothing needs them.
    pub raw: Option<Micros>,
    /// `history/` of windows that are final: from their end.
    pub history: Option<Micros>,
    /// `metrics_log/` of windows that are final: from their end.
    pub metrics_log: Option<Micros>,
    /// `metrics` and its siblings (all tables but `history` and `metrics_log`) of windows that are final: from their end.
    pub metrics: Option<Micros>,
    /// `routed/` and `filters/`: from when they were written, and never before nothing needs them.
    pub routed: Option<Micros>,
    /// Records and snapshots of the ledger: from when they were written; the newest snapshot that is older stays.
    pub ledger: Option<Micros>,
    /// How long objects outlive the boundary that gives them up: who is in the midst of one comes to its end. Nothing else
    /// rests on it.
    pub grace: Micros,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { raw: None, history: None, metrics_log: None, metrics: None, routed: None, ledger: None, grace: GRACE }
    }
}

impl RetentionConfig {
    /// Whether anything is ever deleted.
    pub fn deletes(&self) -> bool {
        let kinds = [self.raw, self.history, self.metrics_log, self.metrics, self.routed, self.ledger];
        kinds.iter().any(Option::is_some)
    }
}

pub(super) fn read_retention(section: &mut Reader) -> RetentionConfig {
    let config = RetentionConfig {
        raw: section.retention("raw"),
        history: section.retention("history"),
        metrics_log: section.retention("metrics_log"),
        metrics: section.retention("metrics"),
        routed: section.retention("routed"),
        ledger: section.retention("ledger"),
        grace: section.duration("grace", GRACE),
    };
    if config.ledger.is_some_and(|kept| kept < LEDGER_MIN) {
        section.fault("ledger", "must be at least 1h: running processes read on from there".into());
    }
    // Without its history a label's place in the account cannot be told any more.
    if let Some(history) = config.history
        && config.raw.is_none_or(|raw| raw > history)
    {
        section.fault("history", "must not be shorter than retention.raw: raw labels are accounted by it".into());
    }
    config
}
