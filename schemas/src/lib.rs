//! The words all stages share: events, positions, windows, settings, Arrow schemas and the ledger's records.
