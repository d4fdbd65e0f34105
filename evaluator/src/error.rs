//! What can go wrong in this crate. An undefined metric is none of it.

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
}
