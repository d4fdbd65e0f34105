//! Which configuration a window follows. Pure.
//!
//! ```text
//!   event time ──────────────┬──────────────────────────┬─────────►
//!   era 0: epoch 1, hours     │ era 1: epoch 3, days      │ era 2 …
//!   └ windows that start here ┘ seam: a boundary of both  └ written in the ledger
//! ```
//!
//! What a model's figures depend on changes at an event time, the seam, which the ledger's record of the configuration
//! names: windows that start before it keep what they had, whenever their events come. So a new configuration rewrites
//! nothing, and an event keeps its one window (**T1**). `reevaluate` puts windows that there are under the configuration in
//! force; where they begin and end, and which labels belong to them, it leaves alone.
use std::collections::BTreeMap;
use std::sync::LazyLock;

use driftline_schemas::clock::Micros;
use driftline_schemas::config::{JudgeConfig, ModelSettings};
use driftline_schemas::ledger::ConfigEpoch;
use driftline_schemas::window::{Window, WindowSpec, within_calendars};
use serde::{Deserialize, Serialize};

use crate::state::{LedgerState, ModelState, WindowRecord};

/// Boundaries of the longer windows that are tried for a seam: more find rarer meetings, and let a change wait longer.
const SEAMS_TRIED: usize = 2;

/// From an event time on, a model's windows follow a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Era {
    /// First event time.
    pub from: Micros,
    /// The configuration's number.
    pub epoch: u64,
}

/// How long after its prediction a label counts, by the start of the prediction's window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Horizons(Vec<(Micros, Micros)>);

impl Horizons {
    /// One horizon for all windows.
    pub fn always(horizon: Micros) -> Self {
        Self(vec![(Micros::MIN, horizon)])
    }

    /// Of the window that starts here.
    pub fn of(&self, start: Micros) -> Micros {
        let holds = self.0.iter().rev().find(|(from, _)| *from <= start).or(self.0.first());
        holds.map_or(0, |(_, horizon)| *horizon)
    }

    /// The longest of all.
    pub fn longest(&self) -> Micros {
        self.0.iter().map(|(_, horizon)| *horizon).max().unwrap_or(0)
    }

    /// Where each begins, and how long it is.
    pub fn iter(&self) -> impl Iterator<Item = (Micros, Micros)> + '_ {
        self.0.iter().copied()
    }
}

impl LedgerState {
    /// The next configuration's record: where it begins for each model that it changes something for.
    pub fn next_epoch(&self, config: JudgeConfig) -> ConfigEpoch {
        let epoch = self.config.as_ref().map_or(0, |epoch| epoch.epoch) + 1;
        let begins = |(name, model): (&String, _)| Some((name.clone(), self.begins_at(name, model, &config)?));
        let from = self.models.iter().map(|(name, model)| (name, &**model)).filter_map(begins).collect();
        ConfigEpoch { epoch, config, from }
    }

    /// Where a configuration begins for a model; `None` if it changes nothing that the model's figures depend on.
    pub(crate) fn begins_at(&self, name: &str, model: &ModelState, config: &JudgeConfig) -> Option<Micros> {
        let last = self.epochs.get(&model.eras.last()?.epoch)?;
        if last.config.judges_alike(config, name) {
            return None;
        }
        // An era that no event has reached has left no trace, and is forgotten with what follows it.
        let Some((start, newest)) = model.windows.last_key_value() else {
            return Some(model.folded.as_ref().map_or(Micros::MIN, |folded| folded.before));
        };
        Some(seam(&self.era_settings(name, *start).window, &config.model(name).window, newest.window.end))
    }

    /// The settings of the era that a window starts in: its length, and which labels belong to it, for ever.
    pub fn era_settings(&self, name: &str, start: Micros) -> &ModelSettings {
        let era = self.models.get(name).and_then(|model| model.era_at(start));
        era.and_then(|era| self.epochs.get(&era.epoch))
            .map_or_else(|| self.settings_in_force(name), |e| e.config.model(name))
    }

    /// The configuration that a window is judged by: the one that `reevaluate` put it under, else that of its era.
    pub fn epoch_of(&self, name: &str, record: &WindowRecord) -> Option<&ConfigEpoch> {
        let era = || self.models.get(name).and_then(|model| model.era_at(record.window.start)).map(|era| era.epoch);
        let epoch = record.epoch.or_else(era).and_then(|epoch| self.epochs.get(&epoch));
        epoch.or(self.config.as_ref()).map(|epoch| &**epoch)
    }

    /// The settings of all eras of a model, the oldest first.
    pub fn all_settings<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a ModelSettings> {
        let eras = self.models.get(name).map_or(&[][..], |model| &model.eras);
        let settings = eras.iter().filter_map(|era| Some(self.epochs.get(&era.epoch)?.config.model(name)));
        let none = eras.is_empty().then(|| self.settings_in_force(name));
        settings.chain(none)
    }

    /// How long labels count, era by era.
    pub fn horizons(&self, name: &str) -> Horizons {
        let eras = self.models.get(name).map_or(&[][..], |model| &model.eras);
        if eras.is_empty() {
            return Horizons::always(self.settings_in_force(name).label_horizon);
        }
        Horizons(eras.iter().map(|era| (era.from, self.era_settings(name, era.from).label_horizon)).collect())
    }

    /// The one window of an event time.
    ///
    /// A window that the ledger holds stays what it is. Another is what its era says, less what others hold: where two builds
    /// disagree about a zone's rules, the windows that stand first win, and none overlap.
    pub fn window_of(&self, name: &str, event_time: Micros) -> Window {
        let time = within_calendars(event_time);
        let mut window = self.era_settings(name, time).window.window_of(time);
        let Some(model) = self.models.get(name) else { return window };
        if let Some((_, before)) = model.windows.range(..=time).next_back() {
            if before.window.contains(time) {
                return before.window;
            }
            window.start = window.start.max(before.window.end);
        }
        if let Some((next, _)) = model.windows.range(time..).next() {
            window.end = window.end.min(*next);
        }
        // Nor does a window reach across the time before which none is kept.
        if let Some(before) = model.folded.as_ref().map(|folded| folded.before) {
            if time < before {
                window.end = window.end.min(before);
            } else {
                window.start = window.start.max(before);
            }
        }
        for era in &model.eras {
            if era.from <= time {
                window.start = window.start.max(era.from);
            } else {
                window.end = window.end.min(era.from);
            }
        }
        window
    }

    fn settings_in_force(&self, name: &str) -> &ModelSettings {
        static DEFAULTS: LazyLock<ModelSettings> = LazyLock::new(ModelSettings::default);
        self.config.as_ref().map_or(&*DEFAULTS, |epoch| epoch.config.model(name))
    }
}

impl ModelState {
    /// A configuration holds from here on.
    pub(crate) fn begin(&mut self, from: Micros, epoch: u64) {
        self.eras.retain(|era| era.from < from);
        self.eras.push(Era { from, epoch });
    }

    fn era_at(&self, time: Micros) -> Option<&Era> {
        self.eras.iter().rev().find(|era| era.from <= time).or(self.eras.first())
    }
}

/// Where windows change their length: the first boundary common to both from `end` on, the end of the newest window.
///
/// Hours, days, weeks and months of one zone soon have one. Lengths that meet seldom or never (two zones, weeks and months)
/// change at `end`, and the first new window is the shorter for it.
fn seam(old: &WindowSpec, new: &WindowSpec, end: Micros) -> Micros {
    let (longer, other) = if old.ordinary_length() > new.ordinary_length() { (old, new) } else { (new, old) };
    let is_boundary = |of: &WindowSpec, time: Micros| of.window_of(time).start == time;
    let mut at = if is_boundary(longer, end) { end } else { longer.window_of(end).end };
    for _ in 0..SEAMS_TRIED {
        if is_boundary(other, at) {
            return at;
        }
        at = longer.window_of(at).end;
    }
    end
}

/// The eras of models whose settings a record changes, if it says where they begin or not.
pub(crate) fn begin_all(state: &mut LedgerState, epoch: &ConfigEpoch) {
    let begins: BTreeMap<String, Micros> = state
        .models
        .iter()
        .filter_map(|(name, model)| {
            let said = epoch.from.get(name).copied();
            // Records of older builds do not say it.
            let from = said.or_else(|| {
                if model.eras.is_empty() { Some(Micros::MIN) } else { state.begins_at(name, model, &epoch.config) }
            });
            Some((name.clone(), from?))
        })
        .collect();
    for (name, from) in begins {
        if let Some(model) = state.models.get_mut(&name) {
            model.make_mut().begin(from, epoch.epoch);
        }
    }
}
