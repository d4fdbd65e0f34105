//! Which windows a label may concern. The index here is built from the store alone and can be thrown away at any time.
//!
//! A label finds its windows by its `prediction_timestamp`, or through the id filters of all windows that it could still
//! count for, the one that its id's own time names first (UUIDv7, ULID). A prediction that comes after its label finds
//! it through the filters of the label objects that are still findable.
use std::collections::{BTreeMap, HashMap, HashSet};

use driftline_ledger::Horizons;
use driftline_schemas::clock::Micros;
use driftline_schemas::event::MAX_SKEW;
use driftline_schemas::window::Window;

use crate::filter::{IdFilter, id_hash, part_of, time_in_id};
use crate::objects::LabelRow;

/// The ids of everything that can still be joined.
#[derive(Debug, Default)]
pub struct RouteIndex {
    /// By model.
    pub models: HashMap<String, ModelIds>,
}

/// One model's ids.
#[derive(Debug, Default)]
pub struct ModelIds {
    /// Windows that are not final, by start.
    pub windows: BTreeMap<Micros, WindowIds>,
    /// Label objects that are still findable, by chain and first offset.
    pub labels: BTreeMap<(String, i64), LabelIds>,
}

/// The ids of one window: filters for what is in `history/`, exact hashes for what is not yet.
#[derive(Debug)]
pub struct WindowIds {
    /// The window.
    pub window: Window,
    /// Revision that `filters` are of; 0 if none.
    pub revision: u64,
    /// One filter a part.
    pub filters: Vec<IdFilter>,
    /// Hashes in `objects`, together.
    recent: HashSet<u64>,
    /// Raw objects that the filters do not cover.
    objects: Vec<(String, Box<[u64]>)>,
}

/// The ids in one label object.
#[derive(Debug)]
pub struct LabelIds {
    /// Chain of the object.
    pub chain: String,
    /// First offset: names the object.
    pub from: i64,
    /// Smallest label time.
    pub oldest: Micros,
    /// Largest label time.
    pub newest: Micros,
    /// The ids.
    pub filter: IdFilter,
}

impl WindowIds {
    /// A window without any id.
    pub fn new(window: Window) -> Self {
        Self { window, revision: 0, filters: Vec::new(), recent: HashSet::new(), objects: Vec::new() }
    }

    /// Whether the ids of a raw object are known apart from the filters.
    pub fn holds(&self, path: &str) -> bool {
        self.objects.iter().any(|(object, _)| object == path)
    }

    /// Adds the ids that a raw object has in this window; adding them twice changes nothing.
    pub fn add(&mut self, path: &str, hashes: Vec<u64>) {
        if !self.holds(path) {
            self.recent.extend(hashes.iter().copied());
            self.objects.push((path.to_owned(), hashes.into()));
        }
    }

    /// Takes the filters of a newer revision, and forgets the objects that it covers.
    pub fn cover(&mut self, revision: u64, filters: Vec<IdFilter>, is_uncovered: impl Fn(&str) -> bool) {
        self.revision = revision;
        self.filters = filters;
        self.objects.retain(|(path, _)| is_uncovered(path));
        self.recent = self.objects.iter().flat_map(|(_, hashes)| hashes.iter().copied()).collect();
    }

    fn may_contain(&self, model: &str, id: &str, hash: u64) -> bool {
        let part = part_of(model, id, self.filters.len() as u32) as usize;
        self.recent.contains(&hash) || self.filters.get(part).is_some_and(|filter| filter.may_contain(hash))
    }

    /// Bytes that the ids occupy.
    pub fn size(&self) -> usize {
        self.filters.iter().map(IdFilter::size).sum::<usize>()
            + self.recent.capacity() * 9
            + self.objects.iter().map(|(path, hashes)| path.len() + hashes.len() * 8).sum::<usize>()
    }
}

impl ModelIds {
    /// The windows that a label may concern: those that it could count for by its time and that may know its id.
    /// `named` is the window of its `prediction_timestamp`.
    pub fn windows_of(&self, model: &str, label: &LabelRow, named: Option<Window>, horizons: &Horizons) -> Vec<Window> {
        let hash = id_hash(&label.id);
        let knows =
            |ids: &&WindowIds| is_in_time(ids.window, label.time, horizons) && ids.may_contain(model, &label.id, hash);
        if let Some(named) = named {
            return self.windows.get(&named.start).filter(knows).map(|ids| ids.window).into_iter().collect();
        }
        // From the newest back. Windows may have had other lengths and horizons once, but they lie one after the other: before
        // the first that ended too long ago for the longest horizon there is none that did not.
        let until = label.time.saturating_add(MAX_SKEW);
        let may_count = |ids: &&WindowIds| ids.window.end.saturating_add(horizons.longest()) > label.time;
        let in_time = || self.windows.range(..=until).rev().map(|(_, ids)| ids).take_while(may_count);
        // Most labels name one window, and an id with a time in it names that window first.
        let likely = time_in_id(&label.id);
        let is_likely = |ids: &&WindowIds| likely.is_some_and(|time| ids.window.contains(time));
        let ordered = in_time().filter(|ids| is_likely(ids)).chain(in_time().filter(|ids| !is_likely(ids)));
        ordered.filter(knows).map(|ids| ids.window).collect()
    }

    /// The label objects that may hold a label for one of these predictions of one window.
    pub fn label_objects_of<'a>(
        &'a self,
        window: Window,
        hashes: &'a [u64],
        horizons: &'a Horizons,
    ) -> impl Iterator<Item = (&'a LabelIds, Vec<u64>)> {
        self.labels.values().filter_map(move |labels| {
            let overlaps = labels.newest >= window.start.saturating_sub(MAX_SKEW)
                && labels.oldest <= window.end.saturating_add(horizons.of(window.start));
            if !overlaps {
                return None;
            }
            let hits: Vec<u64> = hashes.iter().copied().filter(|hash| labels.filter.may_contain(*hash)).collect();
            (!hits.is_empty()).then_some((labels, hits))
        })
    }
}

/// Whether a label of this time could count for some prediction of the window.
pub fn is_in_time(window: Window, label_time: Micros, horizons: &Horizons) -> bool {
    label_time >= window.start.saturating_sub(MAX_SKEW)
        && label_time < window.end.saturating_add(horizons.of(window.start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::LabelPosition;
    use driftline_schemas::clock::{DAY, MINUTE};

    const HOUR: Micros = 60 * MINUTE;

    fn label(id: &str, time: Micros) -> LabelRow {
        let position = LabelPosition { topic: "l".into(), partition: 0, offset: 0, index: 0 };
        LabelRow { id: id.into(), time, label: Some("1".into()), value: Some(1.0), hint: None, position }
    }

    fn index(ids: &[(&str, i64)]) -> ModelIds {
        let mut model = ModelIds::default();
        for (id, hour) in ids {
            let window = Window { start: hour * HOUR, end: (hour + 1) * HOUR };
            let ids = model.windows.entry(window.start).or_insert_with(|| WindowIds::new(window));
            ids.add(&format!("raw/{id}"), vec![id_hash(id)]);
        }
        model
    }

    #[test]
    fn a_label_finds_every_window_that_knows_its_id_and_no_other() {
        let horizons = Horizons::always(30 * DAY);
        let model = index(&[("a", 10), ("b", 11), ("a", 12)]);
        let starts = |windows: Vec<Window>| windows.iter().map(|w| w.start / HOUR).collect::<Vec<_>>();
        assert_eq!(starts(model.windows_of("m", &label("a", 13 * HOUR), None, &horizons)), [12, 10]);
        assert_eq!(starts(model.windows_of("m", &label("c", 13 * HOUR), None, &horizons)), [0i64; 0]);
        // Too early for 12:00 by more than the skew, and too late for 10:00 by the horizon.
        assert_eq!(starts(model.windows_of("m", &label("a", 11 * HOUR), None, &horizons)), [10]);
        assert_eq!(starts(model.windows_of("m", &label("a", 30 * DAY + 11 * HOUR + 1), None, &horizons)), [12]);
        let named = Window { start: 12 * HOUR, end: 13 * HOUR };
        assert_eq!(starts(model.windows_of("m", &label("a", 13 * HOUR), Some(named), &horizons)), [12]);
        assert_eq!(starts(model.windows_of("m", &label("b", 13 * HOUR), Some(named), &horizons)), [0i64; 0]);
    }

    #[test]
    fn the_window_that_the_id_names_is_probed_first() {
        let ulid = "01ARZ3NDEKTSV4RRFFQ69G5FAV"; // 2016-07-30T23:54:10.259Z
        let hour = 1_469_922_850_259_000 / HOUR;
        let model = index(&[(ulid, hour), (ulid, hour + 1)]);
        let windows = model.windows_of("m", &label(ulid, (hour + 2) * HOUR), None, &Horizons::always(DAY));
        assert_eq!(windows.iter().map(|w| w.start / HOUR).collect::<Vec<_>>(), [hour, hour + 1]);
    }

    #[test]
    fn a_new_revision_covers_what_it_read_and_no_more() {
        let window = Window { start: 0, end: HOUR };
        let mut ids = WindowIds::new(window);
        ids.add("raw/1", vec![id_hash("a")]);
        ids.add("raw/2", vec![id_hash("b")]);
        ids.cover(1, vec![IdFilter::new(vec![id_hash("a")])], |path| path == "raw/2");
        assert!(ids.may_contain("m", "a", id_hash("a")) && ids.may_contain("m", "b", id_hash("b")));
        assert!(ids.holds("raw/2") && !ids.holds("raw/1"));
    }
}
