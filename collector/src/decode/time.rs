//! Times as nearly all producers write them.
use chrono::DateTime;
use driftline_schemas::clock::Micros;

/// Microseconds UTC of an RFC 3339 text; `None` if it is none.
pub(super) fn rfc3339(text: &str) -> Option<Micros> {
    common(text.as_bytes()).or_else(|| DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_micros()))
}

/// `YYYY-MM-DDTHH:MM:SS`, one to nine digits of a fraction or none, and `Z` or `±HH:MM`. All else is `None`, and is for
/// chrono to decide: odd separators, leap seconds, what is no time at all.
fn common(text: &[u8]) -> Option<Micros> {
    let (head, rest) = text.split_first_chunk::<19>()?;
    let separators = [head[4], head[7], head[10], head[13], head[16]];
    if separators != *b"--T::" {
        return None;
    }
    let two = |at: usize| pair(head[at], head[at + 1]);
    let (year, month, day) = (two(0)? * 100 + two(2)?, two(5)?, two(8)?);
    let (hour, minute, second) = (two(11)?, two(14)?, two(17)?);
    if !(1..=12).contains(&month) || day == 0 || day > days_of_month(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (micros, rest) = fraction(rest)?;
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some((seconds - zone(rest)?) * 1_000_000 + micros)
}

fn pair(tens: u8, ones: u8) -> Option<i64> {
    (tens.is_ascii_digit() && ones.is_ascii_digit()).then(|| i64::from(tens - b'0') * 10 + i64::from(ones - b'0'))
}

/// Microseconds, what is finer cut off, and what follows.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some(digits) = text.strip_prefix(b".") else { return Some((0, text)) };
    let length = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if !(1..=9).contains(&length) {
        return None;
    }
    let digit = |at: usize| if at < length { i64::from(digits[at] - b'0') } else { 0 };
    Some(((0..6).fold(0, |micros, at| micros * 10 + digit(at)), &digits[length..]))
}

/// Seconds east of UTC.
fn zone(text: &[u8]) -> Option<i64> {
    match text {
        b"Z" => Some(0),
        [sign @ (b'+' | b'-'), a, b, b':', c, d] => {
            let (hours, minutes) = (pair(*a, *b)?, pair(*c, *d)?);
            let seconds = (hours <= 23 && minutes <= 59).then_some(hours * 3600 + minutes * 60)?;
            Some(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days of the proleptic Gregorian calendar, in years that begin in March so that a leap day comes last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    const DAYS_BEFORE_1970: i64 = 719_468; // from 0000-03-01
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - DAYS_BEFORE_1970
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn by_chrono(text: &str) -> Option<Micros> {
        DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_micros())
    }

    #[test]
    fn every_day_of_ten_thousand_years_is_chronos() {
        for year in 0..10_000 {
            for (month, day) in [(1, 1), (2, 28), (2, 29), (3, 1), (4, 31), (6, 30), (12, 31)] {
                let text = format!("{year:04}-{month:02}-{day:02}T23:59:59.999999999-23:59");
                assert_eq!(rfc3339(&text), by_chrono(&text), "{text}");
                assert_eq!(common(text.as_bytes()).is_some(), by_chrono(&text).is_some(), "{text}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn the_fast_way_agrees_with_chrono(
            text in "[0-9]{4}-[01][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{0,11})?(Z|z|[+-][0-2][0-9]:?[0-9]{2})?"
        ) {
            if let Some(time) = common(text.as_bytes()) {
                prop_assert_eq!(Some(time), by_chrono(&text));
            }
            prop_assert_eq!(rfc3339(&text), by_chrono(&text));
        }
    }
}
