//! What can go wrong with the ledger.

/// An error of the ledger.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] driftline_store::Error),
    /// A record or snapshot cannot be read.
    #[error("{path} cannot be read: {source}")]
    Json {
        /// Which object.
        path: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A record of a newer version.
    #[error("{path} has format {format}, which this version does not know: upgrade Driftline here")]
    Format {
        /// Which object.
        path: String,
        /// Its format.
        format: u32,
    },
}

impl Error {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Store(error) if error.disposition() == driftline_store::Disposition::Retry)
    }
}
