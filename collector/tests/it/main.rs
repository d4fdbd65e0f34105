//! The collector as a whole: on its in-memory twins with faults, and on brokers.
mod kafka;
mod reading;
mod stage;
