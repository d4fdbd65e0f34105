//! What can go wrong.
use driftline_store::Disposition;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store.
    #[error("store")]
    Store(#[from] driftline_store::Error),
    /// The ledger.
    #[error("ledger")]
    Ledger(#[from] driftline_ledger::Error),
    /// An object of a table that is no Parquet of ours.
    #[error("{path} cannot be read")]
    Table {
        /// The object.
        path: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An object of ours that is no JSON of ours.
    #[error("{path} cannot be understood")]
    Json {
        /// The object.
        path: String,
        /// Why not.
        source: serde_json::Error,
    },
    /// A record of a newer build.
    #[error(
        "{path} has format {format}, and this build reads up to {known}: run the build that wrote it, or a newer one"
    )]
    Format {
        /// The record.
        path: String,
        /// Its format.
        format: u32,
        /// The newest one that is known here.
        known: u32,
    },
}

impl Error {
    /// Whether it may be another matter in a while.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Store(error) => error.disposition() == Disposition::Retry,
            Self::Ledger(error) => error.is_transient(),
            Self::Table { .. } | Self::Json { .. } | Self::Format { .. } => false,
        }
    }
}
