//! How far a window's column lies from the reference's: pure functions of two samples or two counts.

pub mod chi_square;
pub mod divergence;
pub mod kolmogorov;
pub mod ks;
pub mod method;
pub mod psi;
pub mod wasserstein;

pub use chi_square::{ChiSquare, chi_square};
pub use divergence::Shares;
pub use ks::{KolmogorovSmirnov, ks_2samp};
pub use method::{LEVEL, Method};
pub use psi::{Bins, population_stability_index};
pub use wasserstein::{deviation, wasserstein};
