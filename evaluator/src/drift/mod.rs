//! How far a window's column lies from the reference's: pure functions of two samples or two counts.

pub mod kolmogorov;
pub mod ks;
pub mod psi;

pub use ks::{KolmogorovSmirnov, ks_2samp};
pub use psi::{Bins, population_stability_index};
