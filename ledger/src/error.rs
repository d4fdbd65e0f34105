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
    /// The ledger's records have been deleted up to a boundary beyond the slot that this process stood at.
    #[error("the ledger begins at record {boundary} by now, and this process stood at {seq}: it begins anew")]
    Behind {
        /// Where it stood.
        seq: u64,
        /// The first record that is kept.
        boundary: u64,
    },
    /// An object that the ledger cannot do without is gone.
    #[error("{path} is gone, and the ledger's first records are deleted: restore it")]
    Gone {
        /// Which object.
        path: String,
    },
}

impl Error {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Store(error) => error.disposition() == driftline_store::Disposition::Retry,
            Self::Behind { .. } => true,
            _ => false,
        }
    }
}
