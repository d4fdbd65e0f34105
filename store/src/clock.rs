//! The wall clock, for times of files.
use std::time::SystemTime;

/// Now.
#[allow(clippy::disallowed_methods)] // files carry wall-clock times
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}
