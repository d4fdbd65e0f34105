//! The one place that reads the wall clock; everything else takes time as an argument.
use chrono::{DateTime, Utc};

/// Microseconds since 1970-01-01T00:00Z; the resolution of every time that Driftline stores.
pub type Micros = i64;

/// Microseconds in a second.
pub const SECOND: Micros = 1_000_000;
/// Microseconds in a minute.
pub const MINUTE: Micros = 60 * SECOND;
/// Microseconds in a day of 24 hours.
pub const DAY: Micros = 24 * 60 * MINUTE;

/// The wall clock.
#[allow(clippy::disallowed_methods)] // the home of the clock
pub fn now() -> DateTime<Utc> {
    Utc::now()
}

/// The wall clock in microseconds.
pub fn now_micros() -> Micros {
    now().timestamp_micros()
}

/// A stored time as a calendar time; times out of chrono's range saturate.
pub fn time_of(micros: Micros) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or(if micros < 0 {
        DateTime::<Utc>::MIN_UTC
    } else {
        DateTime::<Utc>::MAX_UTC
    })
}

/// `2026-01-03T00:00:00Z`: how times are shown to people and put into names.
pub fn show(micros: Micros) -> String {
    time_of(micros).to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
}
