//! What lies between the values of an object, remembered from one event to the next.
//!
//! A producer writes its fields in the same order, with the same blanks, event after event. Where the bytes before a value
//! are those that were there last time, one comparison stands for reading a separator, a name and a colon.
use std::borrow::Cow;

/// Beyond it nothing is remembered: an object of so many entries is rare, and its names would crowd the cache.
const STEPS_MAX: usize = 512;

/// The entries of an object as they were written last.
#[derive(Debug, Default)]
pub(super) struct Shape {
    bytes: Vec<u8>,
    steps: Vec<Step>,
    /// So many first entries have names of which no two are equal.
    distinct: usize,
}

/// The bytes from the end of one value (or the opening brace) to the beginning of the next.
#[derive(Debug, Clone, Copy)]
struct Step {
    from: usize,
    to: usize,
    name_from: usize,
    name_to: usize,
    /// Those bytes, if they are no more than [`WIDE`], and which bits of so many bytes they take: nearly every name fits,
    /// and is compared without a call.
    wide: Option<Wide>,
}

/// Bytes that are compared at once.
const WIDE: usize = 32;

#[derive(Debug, Clone, Copy)]
struct Wide {
    expected: [u64; WIDE / 8],
    mask: [u64; WIDE / 8],
}

impl Wide {
    fn of(bytes: &[u8]) -> Option<Self> {
        let (mut expected, mut mask) = ([0; WIDE], [0; WIDE]);
        expected.get_mut(..bytes.len())?.copy_from_slice(bytes);
        mask[..bytes.len()].fill(0xff);
        Some(Self { expected: words(&expected), mask: words(&mask) })
    }

    #[inline]
    fn begins(&self, text: &[u8; WIDE]) -> bool {
        let text = words(text);
        (0..WIDE / 8).fold(0, |differ, at| differ | ((text[at] ^ self.expected[at]) & self.mask[at])) == 0
    }
}

#[inline]
fn words(bytes: &[u8; WIDE]) -> [u64; WIDE / 8] {
    let (words, _) = bytes.as_chunks::<8>();
    std::array::from_fn(|at| u64::from_le_bytes(words[at]))
}

impl Shape {
    /// If `text` goes on with entry number `step` as it was last time: how many bytes lie before its value, and which of
    /// them are the name.
    #[inline]
    pub(super) fn matches(&self, step: usize, text: &[u8]) -> Option<(usize, std::ops::Range<usize>)> {
        let step = self.steps.get(step)?;
        let is_next = match (&step.wide, text.first_chunk()) {
            (Some(wide), Some(text)) => wide.begins(text),
            _ => text.starts_with(&self.bytes[step.from..step.to]),
        };
        is_next.then_some((step.to - step.from, step.name_from..step.name_to))
    }

    /// Remembers entry number `step`, and forgets what came after it.
    pub(super) fn learn(&mut self, step: usize, before_value: &[u8], name: std::ops::Range<usize>) {
        if step >= STEPS_MAX || step > self.steps.len() {
            return;
        }
        self.steps.truncate(step);
        self.distinct = self.distinct.min(step);
        let from = self.steps.last().map_or(0, |step| step.to);
        self.bytes.truncate(from);
        self.bytes.extend_from_slice(before_value);
        let wide = Wide::of(before_value);
        self.steps.push(Step { from, to: self.bytes.len(), name_from: name.start, name_to: name.end, wide });
    }

    /// Whether no two of the `read` entries that an object had are equal; `entries` are those that were kept.
    #[inline]
    pub(super) fn are_distinct<V>(&mut self, read: usize, entries: &[(Cow<'_, str>, V)]) -> bool {
        if read <= self.distinct {
            return true;
        }
        let are_distinct = are_distinct(entries);
        // An entry that was left out has not been compared.
        if are_distinct && entries.len() == read && read <= self.steps.len() {
            self.distinct = read;
        }
        are_distinct
    }
}

/// Whether no name occurs twice.
pub(super) fn are_distinct<V>(entries: &[(Cow<'_, str>, V)]) -> bool {
    // Comparing all pairs beats sorting for the usual dozens of entries: most pairs differ in length or in the first bytes.
    const PAIRS_UP_TO: usize = 32;
    if entries.len() <= PAIRS_UP_TO {
        return (1..entries.len()).all(|at| entries[..at].iter().all(|(name, _)| *name != entries[at].0));
    }
    let mut names: Vec<&str> = entries.iter().map(|(name, _)| name.as_ref()).collect();
    names.sort_unstable();
    names.windows(2).all(|pair| pair[0] != pair[1])
}

/// The shapes of an event and of the maps in it.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    pub(super) event: Shape,
    pub(super) maps: MapShapes,
}

/// The shapes of the maps in an event.
#[derive(Debug, Default)]
pub(super) struct MapShapes {
    pub(super) probabilities: Shape,
    pub(super) features: Shape,
    pub(super) tags: Shape,
    pub(super) attributions: Shape,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries<'a>(names: &[&'a str]) -> Vec<(Cow<'a, str>, ())> {
        names.iter().map(|name| (Cow::Borrowed(*name), ())).collect()
    }

    #[test]
    fn what_was_learnt_is_recognised_until_something_else_is() {
        let mut shape = Shape::default();
        shape.learn(0, b"\"a\":", 1..2);
        shape.learn(1, b", \"bc\": ", 3..5);
        assert_eq!(shape.matches(0, b"\"a\":1"), Some((4, 1..2)));
        assert_eq!(shape.matches(1, b", \"bc\": 2}"), Some((8, 3..5)));
        assert_eq!(shape.matches(1, b", \"bd\": 2}"), None);
        assert_eq!(shape.matches(1, b", \"bc"), None);
        assert_eq!(shape.matches(2, b", \"bc\": 2}"), None);
        shape.learn(0, b"\"z\" :", 1..2);
        assert_eq!(shape.matches(0, b"\"z\" :"), Some((5, 1..2)));
        assert_eq!(shape.matches(1, b", \"bc\": 2}"), None, "what followed another entry is forgotten");
        shape.learn(7, b",\"q\":", 2..3);
        assert_eq!(shape.matches(7, b",\"q\":"), None, "there is no eighth entry without a seventh");
    }

    #[test]
    fn names_of_every_length_are_told_from_those_that_differ_in_any_byte() {
        for length in 1..=2 * WIDE {
            let step: Vec<u8> = (0..length as u8).map(|at| b'A' + at % 26).collect();
            let mut shape = Shape::default();
            shape.learn(0, &step, 0..length);
            for after in [0, 1, WIDE] {
                let text = [&step[..], &vec![b'z'; after]].concat();
                assert_eq!(shape.matches(0, &text), Some((length, 0..length)), "{length} bytes, {after} after them");
                for at in 0..length {
                    let mut other = text.clone();
                    other[at] ^= 1;
                    assert_eq!(shape.matches(0, &other), None, "{length} bytes, {after} after them, not byte {at}");
                }
                assert_eq!(shape.matches(0, &text[..length - 1]), None);
            }
        }
    }

    #[test]
    fn names_are_compared_again_when_one_of_them_is_new_or_was_left_out() {
        let mut shape = Shape::default();
        for (step, text) in [&b"\"a\":"[..], b",\"b\":"].into_iter().enumerate() {
            shape.learn(step, text, 1..2);
        }
        assert!(shape.are_distinct(2, &entries(&["a"])), "one of the two was null");
        assert!(!shape.are_distinct(2, &entries(&["a", "a"])), "and had not been compared");
        assert!(shape.are_distinct(2, &entries(&["a", "b"])));
        assert!(shape.are_distinct(2, &entries(&["not", "looked at"])));
        shape.learn(1, b",\"a\":", 2..3);
        assert!(!shape.are_distinct(2, &entries(&["a", "a"])));
    }
}
