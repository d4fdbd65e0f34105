//! history/ to metrics/: metrics, drift and accounts of every window, with DataFusion.
