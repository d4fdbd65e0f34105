//! The words of `schemas` beside values from outside.
#![allow(clippy::unwrap_used)] // in a test, a panic is the report

mod windows;
