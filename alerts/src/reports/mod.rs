//! Reports that are made by themselves.
//!
//! ```text
//! the clock ─► due       which occurrences of a schedule are to be made; the newest of those that were missed
//!          ─► Maker      a report of each model: the root crate brings it
//!          ─► a draft    created if absent: whoever is first decides what it says
//!          ─► reports/   its files
//!          ─► log        a chain for each report; the record that follows makes the occurrence count, once
//!          ─► deliver    each sink follows the chain, as it does that of alerts; message, send
//! ```
//! A process that dies between draft and record leaves a draft, which the next one adopts.
mod due;
mod log;
mod message;
mod stage;

use async_trait::async_trait;
use bytes::Bytes;
use driftline_schemas::clock::Micros;
use driftline_schemas::config::ReportFormat;
use serde::{Deserialize, Serialize};

pub use due::{Due, due};
pub use log::{Filed, Made, Record};
pub use stage::{Parts, run};

/// How reports come about. It is brought by whoever can query the tables.
#[async_trait]
pub trait Maker: Send + Sync {
    /// All models that the store knows.
    ///
    /// # Errors
    /// Why they are not to be had now.
    async fn models(&self) -> Result<Vec<String>, String>;

    /// A report of one model's windows that start in `[from, to)`, in the formats asked for; `None` if there are none.
    ///
    /// # Errors
    /// Why there is none now.
    async fn make(
        &self,
        model: &str,
        from: Micros,
        to: Micros,
        formats: &[ReportFormat],
    ) -> Result<Option<Written>, String>;
}

/// A report of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// Windows that it is about.
    pub windows: u64,
    /// What a person should know first.
    pub findings: Vec<Told>,
    /// It, in each format.
    pub files: Vec<(ReportFormat, Bytes)>,
}

/// A sentence of a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// `bad`, `notable` or `fine`.
    pub severity: String,
    /// The sentence.
    pub text: String,
}
