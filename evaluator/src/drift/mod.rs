//! How far a window's column lies from the reference's: pure functions of two samples or two counts; and how far its rows lie from what
//! the reference's features have in common.

pub mod chi_square;
pub mod components;
pub mod divergence;
pub mod kolmogorov;
pub mod ks;
pub mod method;
pub mod psi;
pub mod sample;
pub mod wasserstein;

pub use chi_square::{ChiSquare, chi_square};
pub use divergence::Shares;
pub use ks::{KolmogorovSmirnov, ks_2samp, ks_of_samples};
pub use method::{LEVEL, Method};
pub use psi::{Bins, Counts, population_stability_index};
pub use sample::{Sample, SampleRef};
pub use wasserstein::{deviation, mean_and_deviation, wasserstein};
