//! Emptied vectors that keep their room from one event to the next.
use std::borrow::Cow;

use super::{DecodedEvent, FeatureValue};

/// The entries of a map of an event.
pub(super) type Entries<'a, V> = Vec<(Cow<'a, str>, V)>;

/// Room for the maps of an event, and for the names of the fields that nobody knows.
#[derive(Default)]
pub(super) struct Spare<'a> {
    pub(super) unknown: Vec<Cow<'a, str>>,
    pub(super) probabilities: Entries<'a, f64>,
    pub(super) features: Entries<'a, FeatureValue<'a>>,
    pub(super) tags: Entries<'a, Cow<'a, str>>,
    pub(super) attributions: Entries<'a, f64>,
}

impl<'a> Spare<'a> {
    /// Takes the maps of an event that is no longer needed.
    pub(super) fn take_back(&mut self, event: DecodedEvent<'a>) {
        fn back<V>(spare: &mut Vec<V>, entries: Option<Vec<V>>) {
            if let Some(mut entries) = entries {
                entries.clear();
                *spare = entries;
            }
        }
        back(&mut self.probabilities, event.probabilities);
        back(&mut self.features, event.features);
        back(&mut self.tags, event.tags);
        back(&mut self.attributions, event.attributions);
    }

    /// Whether no unknown field occurs twice.
    pub(super) fn unknown_are_distinct(&mut self) -> bool {
        self.unknown.len() < 2 || self.repeated_unknown().is_none()
    }

    /// The first unknown field, in the order of names, that occurs twice.
    pub(super) fn repeated_unknown(&mut self) -> Option<&str> {
        self.unknown.sort_unstable();
        self.unknown.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0].as_ref())
    }

    /// The same room for data of another lifetime: collecting an emptied vector into one of equal layout keeps its
    /// allocation.
    pub(super) fn recycle<'b>(self) -> Spare<'b> {
        #[inline]
        fn empty<T, U>(mut entries: Vec<T>) -> Vec<U> {
            if entries.capacity() == 0 {
                return Vec::new();
            }
            entries.clear();
            entries.into_iter().filter_map(|_| None).collect()
        }
        Spare {
            unknown: empty(self.unknown),
            probabilities: empty(self.probabilities),
            features: empty(self.features),
            tags: empty(self.tags),
            attributions: empty(self.attributions),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_kept_from_one_event_to_the_next() {
        let mut spare = Spare::default();
        let features = vec![(Cow::Borrowed("a"), FeatureValue::Number(1.0)); 40];
        let room = features.as_ptr() as usize;
        spare.take_back(DecodedEvent { features: Some(features), ..DecodedEvent::default() });
        let spare: Spare<'static> = spare.recycle();
        assert!(spare.features.is_empty());
        assert_eq!((spare.features.as_ptr() as usize, spare.features.capacity()), (room, 40));
    }
}
