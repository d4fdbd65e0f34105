//! Kafka to raw/: decodes, windows and flushes events into one chain of objects per source partition.
