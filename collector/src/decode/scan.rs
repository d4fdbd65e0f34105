//! JSON without backslashes and control characters, token by token.
//!
//! This scanner understands less than JSON and never more: what it does not understand, valid or not, is left to
//! `serde_json`, which alone decides what is JSON.

use super::shape::Shape;

/// Not for this scanner.
#[derive(Debug)]
pub(super) struct Unusual;

/// A scalar.
#[derive(Debug, Clone, Copy)]
pub(super) enum Token<'a> {
    Null,
    Bool(bool),
    /// As it is written, and its value, which is finite.
    Number {
        text: &'a str,
        value: f64,
    },
    Text(&'a str),
}

/// A place in an event's text.
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    /// A text in which every quote begins or ends a string, or [`Unusual`].
    pub(super) fn new(text: &'a str) -> Result<Self, Unusual> {
        // Without a way out of the loop the compiler makes vector instructions of it.
        let odd = text.bytes().fold(0, |odd, byte| odd | u8::from(byte == b'\\') | u8::from(byte < b' '));
        if odd != 0 { Err(Unusual) } else { Ok(Self { text, at: 0 }) }
    }

    /// Reads an object: `entry` gets each name and must read the value that follows. Returns how many there were.
    #[inline]
    pub(super) fn object(
        &mut self,
        shape: &mut Shape,
        mut entry: impl FnMut(&mut Self, &'a str) -> Result<(), Unusual>,
    ) -> Result<usize, Unusual> {
        self.expect(b'{')?;
        let mut read = 0;
        while self.peek() != Some(b'}') {
            let name = self.name(shape, read)?;
            entry(self, name)?;
            read += 1;
        }
        self.at += 1;
        Ok(read)
    }

    /// What lies before a value: a comma unless it is the first, the name, and a colon.
    #[inline]
    fn name(&mut self, shape: &mut Shape, step: usize) -> Result<&'a str, Unusual> {
        let rest = &self.text[self.at..];
        if let Some((length, name)) = shape.matches(step, rest.as_bytes()) {
            self.at += length;
            return Ok(&rest[name]);
        }
        self.new_name(shape, step)
    }

    #[inline(never)]
    fn new_name(&mut self, shape: &mut Shape, step: usize) -> Result<&'a str, Unusual> {
        let start = self.at;
        if step > 0 {
            self.expect(b',')?;
        }
        if self.peek() != Some(b'"') {
            return Err(Unusual);
        }
        let from = self.at + 1 - start;
        let name = self.string()?;
        self.expect(b':')?;
        // The blanks before the value belong to what is remembered.
        self.peek();
        shape.learn(step, &self.text.as_bytes()[start..self.at], from..from + name.len());
        Ok(name)
    }

    /// The next value, if it is a scalar.
    #[inline]
    pub(super) fn token(&mut self) -> Result<Token<'a>, Unusual> {
        match self.peek() {
            Some(b'"') => self.string().map(Token::Text),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'n') => self.literal("null").map(|()| Token::Null),
            Some(b't') => self.literal("true").map(|()| Token::Bool(true)),
            Some(b'f') => self.literal("false").map(|()| Token::Bool(false)),
            _ => Err(Unusual),
        }
    }

    /// Reads a null, if one is next.
    #[inline]
    pub(super) fn takes_null(&mut self) -> Result<bool, Unusual> {
        if self.peek() == Some(b'n') { self.literal("null").map(|()| true) } else { Ok(false) }
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
            if byte != b' ' {
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

    /// The content of a string that begins here.
    #[inline]
    fn string(&mut self) -> Result<&'a str, Unusual> {
        let start = self.at + 1;
        let bytes = self.text.as_bytes();
        let mut at = start;
        while let Some(eight) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
            let quotes = quotes(u64::from_le_bytes(*eight));
            if quotes != 0 {
                at += (quotes.trailing_zeros() / 8) as usize;
                return Ok(self.close(start, at));
            }
            at += 8;
        }
        while *bytes.get(at).ok_or(Unusual)? != b'"' {
            at += 1;
        }
        Ok(self.close(start, at))
    }

    #[inline]
    fn close(&mut self, start: usize, end: usize) -> &'a str {
        self.at = end + 1;
        &self.text[start..end]
    }

    /// RFC 8259, section 6. The digits are added up on the way; what they add up to is the value if it can be said to be
    /// exact (Clinger 1990): both the digits and the power of ten are doubles, and one division rounds once.
    #[inline]
    fn number(&mut self) -> Result<Token<'a>, Unusual> {
        let start = self.at;
        let is_negative = self.takes(b'-');
        let mut sum = 0_u64;
        // A digit after a leading zero is no separator: whoever reads on finds the number unusual.
        let integer = if self.takes(b'0') { 1 } else { self.digits(&mut sum)? };
        let fraction = if self.takes(b'.') { self.digits(&mut sum)? } else { 0 };
        let has_exponent = self.takes(b'e') || self.takes(b'E');
        if has_exponent {
            if !self.takes(b'+') {
                self.takes(b'-');
            }
            self.digits(&mut 0)?;
        }
        let text = &self.text[start..self.at];
        let is_exact = !has_exponent && integer + fraction <= EXACT_DIGITS;
        let value = if is_exact {
            let value = sum as f64 / POWERS_OF_TEN[fraction];
            if is_negative { -value } else { value }
        } else {
            text.parse().map_err(|_| Unusual)?
        };
        if value.is_finite() { Ok(Token::Number { text, value }) } else { Err(Unusual) }
    }

    #[inline]
    fn takes(&mut self, byte: u8) -> bool {
        let is_next = self.text.as_bytes().get(self.at) == Some(&byte);
        self.at += usize::from(is_next);
        is_next
    }

    /// Reads at least one digit; adds them to `sum`, which is right for up to 19 of them.
    #[inline]
    fn digits(&mut self, sum: &mut u64) -> Result<usize, Unusual> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        while let Some(digit) = bytes.get(self.at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
            *sum = sum.wrapping_mul(10).wrapping_add(u64::from(digit));
            self.at += 1;
        }
        let read = self.at - start;
        if read == 0 { Err(Unusual) } else { Ok(read) }
    }
}

/// Any number of so many digits is below 2⁵³, hence a double.
const EXACT_DIGITS: usize = 15;
/// As many as [`EXACT_DIGITS`] can ask for; all are doubles, as every power of ten up to the 22nd is.
const POWERS_OF_TEN: [f64; EXACT_DIGITS + 1] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// The high bit of each byte that is a quote. Right up to the first of them; bytes after it may be marked in error.
#[inline]
fn quotes(eight: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGHS: u64 = u64::from_le_bytes([0x80; 8]);
    const QUOTES: u64 = u64::from_le_bytes([b'"'; 8]);
    let zero_if_quote = eight ^ QUOTES;
    zero_if_quote.wrapping_sub(ONES) & !zero_if_quote & HIGHS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_scalar(text: &str) -> bool {
        Scanner::new(text).is_ok_and(|mut scanner| scanner.token().is_ok() && scanner.end().is_ok())
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
            let is_infinite = text.trim().parse::<f64>().is_ok_and(f64::is_infinite);
            prop_assert_eq!(is_scalar(&text), json && !text.contains('\\') && !is_infinite);
        }

        #[test]
        fn numbers_are_what_the_standard_library_reads(text in "-?(0|[1-9][0-9]{0,18})(\\.[0-9]{1,19})?([eE][+-]?[0-9]{1,2})?") {
            let mut scanner = Scanner::new(&text).unwrap();
            let Ok(Token::Number { value, .. }) = scanner.token() else { panic!("{text} is a number") };
            prop_assert_eq!(value.to_bits(), text.parse::<f64>().unwrap().to_bits());
        }
    }
}
