//! What the memory of a window's queries allows: all rows as they are wherever they fit, a limit on states where they do not.
//!
//! It is decided before a query runs, from the number of rows and the memory alone, so that no order of rows shows.

use datafusion::{
    arrow::{array::AsArray, datatypes::Int64Type},
    common::TableReference,
    datasource::MemTable,
    execution::memory_pool::MemoryLimit,
    prelude::SessionContext,
};

use super::{columns::collect, sql};
use crate::{
    Error,
    metrics::binned::{BIN_BYTES, BINS_MAX, BINS_MIN, Limit},
};

/// How often a state lies in memory at once, at the worst: a list with its room to grow for each partition, what is written of it, what
/// reads that, and the list with its room that all partitions end in. Fewer: a window that does not fit is tried. More: one that
/// would fit is held in bins.
const COPIES: u64 = 6;

/// Partitions that are counted on at the least, so that figures are the same wherever there are up to so many.
const PARTITIONS_MIN: u64 = 8;

/// The rows of a window, and the memory of one query.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    rows: u64,
    /// Bytes; none where nothing bounds it.
    memory: Option<u64>,
    partitions: u64,
}

impl Budget {
    /// Of a registered table. Its rows are counted only where memory has a bound; that reads footers, or nothing.
    pub(crate) async fn of(session: &SessionContext, table: &str) -> Result<Self, Error> {
        let memory = match session.runtime_env().memory_pool.memory_limit() {
            MemoryLimit::Finite(bytes) => Some(bytes as u64),
            MemoryLimit::Infinite | MemoryLimit::Unknown => None,
        };
        let partitions = (session.copied_config().target_partitions() as u64).max(PARTITIONS_MIN);
        let rows = if memory.is_some() { rows_of(session, table).await? } else { 0 };
        Ok(Self { rows, memory, partitions })
    }

    #[cfg(test)]
    pub(crate) fn of_rows(rows: u64, memory: u64) -> Self {
        Self { rows, memory: Some(memory), partitions: PARTITIONS_MIN }
    }

    /// With a fraction of the memory.
    pub(crate) fn divided(self, by: u64) -> Self {
        Self { memory: self.memory.map(|memory| memory / by), ..self }
    }

    /// Rows of the table; 0 where nobody asked.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// How many states of all rows fit, each of so many bytes a row.
    pub(crate) fn states(&self, bytes_per_row: u64) -> u64 {
        let Some(memory) = self.memory else { return u64::MAX };
        memory / self.rows.saturating_mul(bytes_per_row).saturating_mul(COPIES).max(1)
    }

    /// How many values of each of so many lists fit, each value of so many bytes: `max` at the most, a power of two where they are fewer, so that
    /// little more memory changes nothing.
    pub(crate) fn values(&self, lists: u64, bytes: u64, max: usize) -> usize {
        let fitting = self.memory.map_or(u64::MAX, |memory| memory / (lists.max(1) * bytes)).max(1);
        if fitting >= max as u64 { max } else { 1 << fitting.ilog2() }
    }

    /// Whether so much fits, bytes.
    pub(crate) fn holds(&self, bytes: u64) -> bool {
        self.memory.is_none_or(|memory| bytes <= memory)
    }

    /// Whether one such state fits.
    pub(crate) fn fits(&self, bytes_per_row: u64) -> bool {
        self.states(bytes_per_row) > 0
    }

    /// Into how many even shares rows have to fall so that a state of one share fits.
    pub(crate) fn shares(&self, bytes_per_row: u64) -> u64 {
        let all = self.rows.saturating_mul(bytes_per_row).saturating_mul(COPIES);
        self.memory.map_or(1, |memory| all.div_ceil(memory.max(1)).max(1))
    }

    /// How many states of the most bins fit.
    pub(crate) fn binned_states(&self) -> u64 {
        let one = (self.partitions + 1) * (BINS_MAX * BIN_BYTES) as u64;
        self.memory.map_or(u64::MAX, |memory| memory / one)
    }

    /// What each of so many states may keep where they do not fit: a power of two of bins, so that little more memory changes nothing.
    pub(crate) fn limit(&self, states: u64) -> Limit {
        let one = (self.partitions + 1) * states.max(1) * BIN_BYTES as u64;
        let bins = self.memory.map_or(BINS_MAX as u64, |memory| memory / one).max(1);
        Limit::of((1 << bins.ilog2().min(63)).clamp(BINS_MIN, BINS_MAX))
    }
}

async fn rows_of(session: &SessionContext, table: &str) -> Result<u64, Error> {
    let provider = session.table_provider(TableReference::bare(table)).await?;
    if let Some(held) = provider.downcast_ref::<MemTable>() {
        let mut rows = 0;
        for part in &held.batches {
            rows += part.read().await.iter().map(|batch| batch.num_rows() as u64).sum::<u64>();
        }
        return Ok(rows);
    }
    let batches = collect(session, &format!("SELECT count(*) AS n FROM {}", sql::name(table))).await?;
    Ok(batches.iter().map(|batch| batch.column(0).as_primitive::<Int64Type>().value(0) as u64).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_fit_as_they_are_up_to_a_sixth_of_the_memory() {
        let budget = |rows, memory| Budget { rows, memory: Some(memory), partitions: 8 };
        // Ten million scores beside half of a gigabyte, and beside half of 256 MB.
        assert!(budget(10_000_000, 500_000_000).fits(8));
        assert!(!budget(10_000_000, 128_000_000).fits(8));
        assert_eq!(budget(1_000_000, 500_000_000).states(8), 10);
        assert!(Budget { rows: u64::MAX, memory: None, partitions: 8 }.fits(u64::MAX));
        assert!(budget(0, 1).fits(8));
        let values = |memory, lists| budget(0, memory).values(lists, 25, 1_000_000);
        assert_eq!((values(500_000_000, 20), values(499_999_999, 20), values(0, 20)), (1_000_000, 1 << 19, 1));
        let shares = |rows, memory| budget(rows, memory).shares(8);
        assert_eq!((shares(1_000_000, 500_000_000), shares(10_000_000, 128_000_000), shares(0, 0)), (1, 4, 1));
    }

    #[test]
    fn a_limit_is_a_power_of_two_within_its_bounds() {
        let of = |memory, states| Budget { rows: 0, memory: Some(memory), partitions: 8 }.limit(states).bins;
        assert_eq!(of(1 << 40, 1), BINS_MAX);
        assert_eq!(of(1, 1_000_000), BINS_MIN);
        let bins = of(128_000_000, 40);
        assert!(bins.is_power_of_two() && bins * 40 * 9 * BIN_BYTES <= 128_000_000 && bins >= 1_024, "{bins}");
    }
}
