//! What can go wrong in this crate. An undefined metric is none of it.

use std::error::Error as StdError;

use datafusion::{arrow::error::ArrowError, error::DataFusionError};

/// A failed evaluation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// DataFusion could not plan or run the query: a missing object, memory over its bound, or a fault of ours.
    #[error("query failed")]
    Query(#[from] DataFusionError),
    /// A batch does not have the shape it should.
    #[error("arrow failed")]
    Arrow(#[from] ArrowError),
    /// An aggregate gave back something that is not its own report.
    #[error("aggregate result unreadable: {0}")]
    Report(#[from] serde_json::Error),
    /// A table has no column that its task needs.
    #[error("table {table} has no column {column}")]
    MissingColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] driftline_store::Error),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] driftline_ledger::Error),
    /// A table's object cannot be read or written.
    #[error("parquet: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// A table's object does not hold the table.
    #[error("table: {0}")]
    Table(#[from] driftline_schemas::tables::TableError),
    /// A reference cannot be read.
    #[error("reference {location}: {cause}")]
    Reference {
        /// Where it should be.
        location: String,
        /// Why not.
        cause: String,
    },
    /// A job follows a configuration that the ledger does not hold.
    #[error("the ledger has no configuration {0}")]
    NoConfig(u64),
}

impl Error {
    /// It and its causes, outermost first: where a text is all that can be passed on.
    pub fn with_causes(&self) -> String {
        let mut said: Vec<String> = Vec::new();
        for cause in std::iter::successors(Some(self as &(dyn StdError + 'static)), |&cause| cause.source()) {
            let text = cause.to_string();
            // Those that are transparent say what their cause says.
            if said.last() != Some(&text) {
                said.push(text);
            }
        }
        said.join(": ")
    }

    /// Whether a query needed more memory than it may have.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::Query(error) if matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)))
    }

    /// Whether the same call may succeed later: the store does not answer, or an object was replaced while it was read.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Store(error) => {
                error.disposition() == driftline_store::Disposition::Retry
                    || matches!(error, driftline_store::Error::Changed { .. })
            }
            Self::Ledger(error) => error.is_transient(),
            Self::Query(error) => comes_from_the_store(error),
            Self::Arrow(error) => comes_from_the_store(error),
            Self::Parquet(error) => comes_from_the_store(error),
            _ => false,
        }
    }
}

/// Whether the store's answer is somewhere among the causes: readers of Parquet wrap it in errors of their own, as often as they
/// have layers.
fn comes_from_the_store(error: &(dyn StdError + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |&cause| cause.source());
    causes.any(|cause| cause.is::<object_store::Error>() || cause.is::<std::io::Error>())
}

#[cfg(test)]
mod tests {
    use parquet::errors::ParquetError;

    use super::*;

    /// What a reader of Parquet makes of an object that is replaced under its hands.
    #[test]
    fn an_object_that_was_replaced_while_it_was_read_is_read_again_however_deep_it_is_wrapped() {
        let replaced = || object_store::Error::Precondition { path: "history/x".into(), source: "replaced".into() };
        let wrapped = || ParquetError::External(Box::new(replaced()));
        for error in [
            Error::from(DataFusionError::from(replaced())),
            Error::from(DataFusionError::from(wrapped())),
            Error::from(DataFusionError::from(wrapped()).context("read a window")),
            Error::from(DataFusionError::External(Box::new(DataFusionError::from(wrapped())))),
            Error::from(ParquetError::External(Box::new(wrapped()))),
            Error::from(ArrowError::ExternalError(Box::new(wrapped()))),
        ] {
            assert!(error.is_transient(), "{error:?}");
        }
        let ours = Error::from(DataFusionError::Plan("no such column".into()));
        assert!(!ours.is_transient(), "{ours:?}");
    }
}
