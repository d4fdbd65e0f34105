//! What can go wrong in the aggregator.

/// Whether to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The same call may succeed later.
    Retry,
    /// A person is needed.
    Stop,
}

/// An error of the aggregator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] driftline_store::Error),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] driftline_ledger::Error),
    /// An object does not hold what it should.
    #[error("corrupt object: {0}")]
    Corrupt(String),
    /// An object that something needs is not there.
    #[error("{path} is gone, and it is needed")]
    Gone {
        /// Which object.
        path: String,
    },
    /// Parquet cannot be read or written.
    #[error("parquet: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// Arrow arrays do not fit together.
    #[error("arrow: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
    /// The footer of a raw object cannot be read.
    #[error("raw object {path}: {source}")]
    Footer {
        /// Which object.
        path: String,
        /// Why.
        source: driftline_schemas::raw::FooterError,
    },
    /// A record of the ledger, or another JSON object, cannot be read.
    #[error("{path} cannot be read: {source}")]
    Json {
        /// Which object.
        path: String,
        /// Why.
        source: serde_json::Error,
    },
}

impl Error {
    /// Whether to try again.
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Store(error) if error.disposition() == driftline_store::Disposition::Retry => Disposition::Retry,
            Self::Ledger(error) if error.is_transient() => Disposition::Retry,
            _ => Disposition::Stop,
        }
    }
}
