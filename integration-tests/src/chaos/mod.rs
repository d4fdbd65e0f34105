//! The harness that would catch a loss: real processes on a real Kafka and a real store, and everything done to them that can
//! happen; after each round all that Driftline says is compared with the truth.
//!
//! ```text
//! seed ─► deeds (what is done when) ─► World: producer · cast of processes · broker · proxy before the store
//!                                        │  round after round
//!                                        ▼
//!                                      judge (the generator's truth) · DuckDB (acknowledgements, Kafka's ends)
//! ```
//!
//! `simulation` does the same to the stages in memory, thousands of times; `planted` breaks the product on purpose and sees to
//! it that one of the two turns red.

pub mod cast;
pub mod deeds;
pub mod late;
pub mod planted;
pub mod proxy;
pub mod report;
pub mod simulation;
pub mod world;
