//! The ordinary event in one pass: no escapes, and nothing nested but the maps that an event has.
//!
//! What is not ordinary, valid or not, is left to `serde_json`, which decides alone what is JSON: this scanner
//! understands less than JSON and never more, so it changes how long a record takes and not what becomes of it.
use std::borrow::Cow;

use super::Rejection;
use super::field::Raw;

/// Not for this scanner.
#[derive(Debug)]
pub(super) struct Unusual;

/// A place in an event's text.
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Reads an object: `entry` gets each name and must read the value that follows.
    pub(super) fn object(
        &mut self,
        mut entry: impl FnMut(&mut Self, &'a str) -> Result<(), Unusual>,
    ) -> Result<(), Unusual> {
        self.expect(b'{')?;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(Unusual);
            }
            let name = self.string()?;
            self.expect(b':')?;
            entry(self, name)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(Unusual),
            }
        }
    }

    /// The text of a string, a number or a literal.
    pub(super) fn scalar(&mut self) -> Result<Raw<'a>, Unusual> {
        let first = self.peek();
        let start = self.at;
        match first {
            Some(b'"') => drop(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b'n') => self.literal("null")?,
            Some(b't') => self.literal("true")?,
            Some(b'f') => self.literal("false")?,
            _ => return Err(Unusual),
        }
        Ok(Raw::plain(&self.text[start..self.at]))
    }

    /// The entries of an object of scalars; `None` for null.
    pub(super) fn map<V>(
        &mut self,
        mut entries: Vec<(Cow<'a, str>, V)>,
        fault: &mut Option<Rejection>,
        read: impl Fn(&Cow<'a, str>, Raw<'a>) -> Result<Option<V>, Rejection>,
    ) -> Result<Option<Vec<(Cow<'a, str>, V)>>, Unusual> {
        if self.peek() == Some(b'n') {
            return self.literal("null").map(|()| None);
        }
        self.object(|scanner, name| {
            let name = Cow::Borrowed(name);
            match read(&name, scanner.scalar()?) {
                Ok(Some(value)) => entries.push((name, value)),
                Ok(None) => {}
                Err(rejection) => {
                    fault.get_or_insert(rejection);
                }
            }
            Ok(())
        })?;
        Ok(Some(entries))
    }

    /// Nothing but blanks may follow.
    pub(super) fn end(&mut self) -> Result<(), Unusual> {
        if self.peek().is_none() { Ok(()) } else { Err(Unusual) }
    }

    /// The next byte that is no blank.
    #[inline]
    fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.as_bytes().get(self.at)?;
            if !matches!(byte, b' ' | b'\n' | b'\t' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Result<(), Unusual> {
        if self.peek() != Some(byte) {
            return Err(Unusual);
        }
        self.at += 1;
        Ok(())
    }

    fn literal(&mut self, word: &str) -> Result<(), Unusual> {
        let end = self.at + word.len();
        if self.text.as_bytes().get(self.at..end) != Some(word.as_bytes()) {
            return Err(Unusual);
        }
        self.at = end;
        Ok(())
    }

    /// The content of a string that begins here and has no escapes.
    #[inline]
    fn string(&mut self) -> Result<&'a str, Unusual> {
        let start = self.at + 1;
        let bytes = self.text.as_bytes();
        let mut at = start;
        while let Some(eight) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
            let marks = special(u64::from_le_bytes(*eight));
            if marks != 0 {
                at += (marks.trailing_zeros() / 8) as usize;
                return self.close(start, at);
            }
            at += 8;
        }
        while bytes.get(at).is_some_and(|byte| *byte >= 0x20 && *byte != b'"' && *byte != b'\\') {
            at += 1;
        }
        self.close(start, at)
    }

    #[inline]
    fn close(&mut self, start: usize, end: usize) -> Result<&'a str, Unusual> {
        if self.text.as_bytes().get(end) != Some(&b'"') {
            return Err(Unusual);
        }
        self.at = end + 1;
        Ok(&self.text[start..end])
    }

    /// RFC 8259, section 6.
    fn number(&mut self) -> Result<(), Unusual> {
        let bytes = self.text.as_bytes();
        if bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        // A digit after a leading zero is no separator: whoever reads on finds the number unusual.
        if bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(bytes.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    #[inline]
    fn digits(&mut self) -> Result<(), Unusual> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        while bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at == start { Err(Unusual) } else { Ok(()) }
    }
}

/// The high bit of each byte that ends a plain run: a quote, a backslash or a control character. Right up to the first
/// of them; bytes after it may be marked in error.
#[inline]
fn special(eight: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGHS: u64 = u64::from_le_bytes([0x80; 8]);
    const QUOTES: u64 = u64::from_le_bytes([b'"'; 8]);
    const BACKSLASHES: u64 = u64::from_le_bytes([b'\\'; 8]);
    const BLANKS: u64 = u64::from_le_bytes([b' '; 8]);
    let zero_in = |bytes: u64| bytes.wrapping_sub(ONES) & !bytes;
    (zero_in(eight ^ QUOTES) | zero_in(eight ^ BACKSLASHES) | (eight.wrapping_sub(BLANKS) & !eight)) & HIGHS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_scalar(text: &str) -> bool {
        let mut scanner = Scanner::new(text);
        scanner.scalar().is_ok() && scanner.end().is_ok()
    }

    #[test]
    fn every_byte_ends_a_string_or_does_not_wherever_it_stands() {
        for byte in 0..=0x7f_u8 {
            for before in 0..18 {
                let mut bytes = vec![b'a'; before];
                bytes.push(byte);
                bytes.extend_from_slice("é, and more of it".as_bytes());
                let text = format!("\"{}\"", String::from_utf8(bytes).unwrap());
                let json = serde_json::from_str::<&str>(&text);
                assert_eq!(is_scalar(&text), json.is_ok(), "{text:?}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn what_is_no_json_is_unusual(text in "[-+0-9.eE]{0,6}|[a-z\"\\\\ ]{0,6}|nul+|true?|fals?e") {
            let json = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            prop_assert_eq!(is_scalar(&text), json && !text.contains('\\'));
        }
    }
}
