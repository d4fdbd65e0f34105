//! How a metric's state travels between threads and workers: little-endian fields, one after the other.
//! Decoding answers `None` when the bytes end early, so a truncated state is an error and never a smaller number.

pub(crate) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_i64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_u64(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

pub(crate) fn put_u64s(out: &mut Vec<u8>, values: &[u64]) {
    put_words(out, values.iter().map(|value| value.to_le_bytes()));
}

pub(crate) fn put_f64s(out: &mut Vec<u8>, values: &[f64]) {
    put_words(out, values.iter().map(|value| value.to_bits().to_le_bytes()));
}

/// The room is made once: a check per word would cost as much as the copy.
fn put_words(out: &mut Vec<u8>, words: impl ExactSizeIterator<Item = [u8; 8]>) {
    put_u64(out, words.len() as u64);
    let from = out.len();
    out.resize(from + words.len() * 8, 0);
    let (room, _) = out[from..].as_chunks_mut::<8>();
    for (slot, word) in room.iter_mut().zip(words) {
        *slot = word;
    }
}

/// Takes fields off the front of a state.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        let (head, rest) = self.rest.split_first_chunk::<8>()?;
        self.rest = rest;
        Some(u64::from_le_bytes(*head))
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.u64().map(|bits| bits as i64)
    }

    pub(crate) fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.u64()?).ok()?;
        let (head, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        String::from_utf8(head.to_vec()).ok()
    }

    /// Appends a list of words to `into`, so that merging needs no copy in between.
    pub(crate) fn extend_u64s(&mut self, into: &mut Vec<u64>) -> Option<()> {
        into.extend(self.words()?.map(u64::from_le_bytes));
        Some(())
    }

    /// The same for floats.
    pub(crate) fn extend_f64s(&mut self, into: &mut Vec<f64>) -> Option<()> {
        into.extend(self.words()?.map(|word| f64::from_bits(u64::from_le_bytes(word))));
        Some(())
    }

    fn words(&mut self) -> Option<impl ExactSizeIterator<Item = [u8; 8]> + use<'a>> {
        let count = usize::try_from(self.u64()?).ok()?;
        let (head, rest) = self.rest.split_at_checked(count.checked_mul(8)?)?;
        self.rest = rest;
        let (words, _) = head.as_chunks::<8>();
        Some(words.iter().copied())
    }
}
