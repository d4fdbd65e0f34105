//! Canonical text: the one spelling of a class, so that `1`, `1.0` and `"1"` are the same class wherever they come from.
//!
//! Numbers are compared as exact decimals, never through a float: an integer of thirty digits keeps them all.
use std::borrow::Cow;
use std::fmt::Write as _;

/// The longest plain spelling of a number. Beyond it (`1e300`) the exponent is kept, or a label of six bytes would
/// become three hundred; smaller would put exponents on identifiers that people write out in full.
const PLAIN_LENGTH_MAX: i64 = 64;

/// The canonical text of a class.
///
/// # Inputs
/// The content of a JSON string, or the text of a JSON number or boolean.
/// # Returns
/// A text that is a JSON number becomes its shortest decimal form (`1.0`, `1e0` → `1`; `-0` → `0`); all else stays as
/// it is: `01`, ` 1`, `true`, `fraud`.
pub fn canonical(text: &str) -> Cow<'_, str> {
    match Decimal::parse(text) {
        None => Cow::Borrowed(text),
        Some(number) if number.is_plain_integer => Cow::Borrowed(text),
        Some(number) => number.spell().map_or(Cow::Borrowed(text), Cow::Owned),
    }
}

/// The number that a canonical text stands for, if it is one and finite as a double.
pub fn canonical_value(text: &str) -> Option<f64> {
    Decimal::parse(text)?;
    text.parse::<f64>().ok().filter(|value| value.is_finite())
}

/// Whether the whole text matches the number grammar of JSON (RFC 8259, section 6).
pub fn is_json_number(text: &str) -> bool {
    Decimal::parse(text).is_some()
}

/// The parts of a JSON number's text.
struct Decimal<'a> {
    negative: bool,
    integer: &'a str,
    fraction: &'a str,
    exponent: &'a str,
    /// No fraction, no exponent, not `-0`, and not too long to be written out: already canonical.
    is_plain_integer: bool,
}

impl<'a> Decimal<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (negative, rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (integer, rest) = digits(rest);
        if integer.is_empty() || (integer.len() > 1 && integer.starts_with('0')) {
            return None;
        }
        let (fraction, rest) = match rest.strip_prefix('.') {
            None => ("", rest),
            Some(rest) => match digits(rest) {
                ("", _) => return None,
                parts => parts,
            },
        };
        let exponent = match rest.strip_prefix(['e', 'E']) {
            None if rest.is_empty() => "",
            None => return None,
            Some(exponent) => {
                let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
                if !matches!(digits(unsigned), (some, "") if !some.is_empty()) {
                    return None;
                }
                exponent
            }
        };
        let is_plain_integer = fraction.is_empty()
            && exponent.is_empty()
            && !(negative && integer == "0")
            && integer.len() as i64 <= PLAIN_LENGTH_MAX;
        Some(Self { negative, integer, fraction, exponent, is_plain_integer })
    }

    /// `None` if the exponent itself is out of any range; such a text stays as it is.
    fn spell(&self) -> Option<String> {
        let exponent = if self.exponent.is_empty() { 0 } else { self.exponent.parse::<i32>().ok()? };
        let mut digits = format!("{}{}", self.integer, self.fraction);
        // The value is 0.DIGITS × 10^point.
        let mut point = self.integer.len() as i64 + i64::from(exponent);
        digits.truncate(digits.trim_end_matches('0').len());
        let leading = digits.len() - digits.trim_start_matches('0').len();
        digits.drain(..leading);
        point -= leading as i64;
        if digits.is_empty() {
            return Some("0".to_owned());
        }
        let mut text = String::with_capacity(digits.len() + 8);
        if self.negative {
            text.push('-');
        }
        let length = digits.len() as i64;
        if (1..=PLAIN_LENGTH_MAX).contains(&point) {
            if point >= length {
                text.push_str(&digits);
                text.extend(std::iter::repeat_n('0', (point - length) as usize));
            } else {
                text.push_str(&digits[..point as usize]);
                text.push('.');
                text.push_str(&digits[point as usize..]);
            }
        } else if point <= 0 && -point <= PLAIN_LENGTH_MAX {
            text.push_str("0.");
            text.extend(std::iter::repeat_n('0', -point as usize));
            text.push_str(&digits);
        } else {
            text.push_str(&digits[..1]);
            if digits.len() > 1 {
                text.push('.');
                text.push_str(&digits[1..]);
            }
            write!(text, "e{}", point - 1).expect("a string takes all that is written");
        }
        Some(text)
    }
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_take_their_shortest_form_and_other_texts_stay() {
        let table = [
            ("1", "1"),
            ("1.0", "1"),
            ("1e0", "1"),
            ("1E+0", "1"),
            ("10e-1", "1"),
            ("-0", "0"),
            ("-0.0", "0"),
            ("0e5", "0"),
            ("01", "01"),
            (" 1", " 1"),
            ("1 ", "1 "),
            ("+1", "+1"),
            (".5", ".5"),
            ("5.", "5."),
            ("1e", "1e"),
            ("", ""),
            ("-", "-"),
            ("0.50", "0.5"),
            ("5e-1", "0.5"),
            ("-1.50", "-1.5"),
            ("1.5e3", "1500"),
            ("123456.789e3", "123456789"),
            ("0.001", "0.001"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("12345678901234567890123456789.0", "12345678901234567890123456789"),
            ("1e300", "1e300"),
            ("12e299", "1.2e300"),
            ("1e-300", "1e-300"),
            ("1e20", "100000000000000000000"),
            ("1e99999999999999999999", "1e99999999999999999999"),
            ("1e64", "1e64"),
            // Too long to be written out, yet one number has one spelling, and all its digits.
            (&format!("25{}", "0".repeat(70)), "2.5e71"),
            (&"9".repeat(65), &format!("9.{}e64", "9".repeat(64))),
            ("true", "true"),
            ("True", "True"),
            ("fraud", "fraud"),
            ("NaN", "NaN"),
            ("0x1", "0x1"),
            ("١", "١"),
        ];
        for (text, expected) in table {
            assert_eq!(canonical(text), expected, "{text:?}");
        }
    }

    #[test]
    fn values_are_those_of_numbers_only() {
        assert_eq!(canonical_value("1.5"), Some(1.5));
        for text in ["true", "", "inf", "NaN", "01", "1e999", "1_0"] {
            assert_eq!(canonical_value(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn canonical_text_is_a_fixed_point_of_equal_value(value in proptest::num::f64::NORMAL) {
            for text in [format!("{value}"), format!("{value:e}")] {
                let once = canonical(&text).into_owned();
                prop_assert_eq!(canonical(&once).into_owned(), once.clone());
                prop_assert_eq!(canonical_value(&once), Some(value));
            }
            prop_assert_eq!(canonical(&format!("{value}")).into_owned(), canonical(&format!("{value:e}")).into_owned());
        }

        #[test]
        fn any_text_has_a_canonical_text(text in ".{0,40}") {
            let once = canonical(&text).into_owned();
            prop_assert_eq!(canonical(&once).into_owned(), once);
        }
    }
}
