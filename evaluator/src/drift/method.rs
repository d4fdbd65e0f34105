//! The methods by name, and when a column counts as drifted.

/// The level at which a test rejects.
pub const LEVEL: f64 = 0.05;

/// A way to measure drift.
///
/// A column has drifted by a method if the statistic reaches the method's threshold **and** the test that goes with the method
/// rejects at [`LEVEL`]: with many rows a test rejects distances that matter to nobody, with few a distance is large by chance.
/// The test is Kolmogorov–Smirnov's for `ks` and the Wasserstein distances, Welch's of the mean errors for `pca_reconstruction`, Pearson's over
/// the same bins for all others.
/// One method decides for its column ([`Method::decides`]), so that ten methods do not make ten chances of a false alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// Kolmogorov–Smirnov's statistic.
    Ks,
    /// The population stability index.
    Psi,
    /// Wasserstein's distance in the column's unit.
    Wasserstein,
    /// The same over the reference's standard deviation.
    WassersteinNormed,
    /// Jensen–Shannon's distance in base 2.
    JensenShannon,
    /// Hellinger's distance.
    Hellinger,
    /// Pearson's statistic.
    Chi2,
    /// Half the sum of the differences of shares.
    TotalVariation,
    /// The largest of these differences.
    LInfinity,
    /// Kullback–Leibler's divergence, nats.
    Kl,
    /// How far the mean error of rebuilding rows from the reference's principal components has moved, in its standard deviations.
    PcaReconstruction,
}

impl Method {
    /// The word in the `method` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ks => "ks",
            Self::Psi => "psi",
            Self::Wasserstein => "wasserstein",
            Self::WassersteinNormed => "wasserstein_normed",
            Self::JensenShannon => "jensen_shannon",
            Self::Hellinger => "hellinger",
            Self::Chi2 => "chi2",
            Self::TotalVariation => "total_variation",
            Self::LInfinity => "l_infinity",
            Self::Kl => "kl",
            Self::PcaReconstruction => "pca_reconstruction",
        }
    }

    /// The effect from which on drift matters. For [`Chi2`](Self::Chi2) it is Cramér's V, for [`Wasserstein`](Self::Wasserstein)
    /// a share of the reference's standard deviation: their own thresholds grow with the rows and the unit.
    pub fn effect_min(self) -> f64 {
        match self {
            // The banking rule of thumb for a major shift.
            Self::Psi => 0.2,
            _ => 0.1,
        }
    }

    /// Whether the method is a test itself, whose p-value is published beside it.
    pub fn is_test(self) -> bool {
        matches!(self, Self::Ks | Self::Chi2 | Self::PcaReconstruction)
    }

    /// Whether the method decides for its column: Kolmogorov–Smirnov for numbers, whose statistic needs no bins;
    /// Jensen–Shannon for categories, which is bounded and needs no floor for empty bins. All features together have one method.
    pub fn decides(self, is_numeric: bool) -> bool {
        match self {
            Self::Ks => is_numeric,
            Self::JensenShannon => !is_numeric,
            Self::PcaReconstruction => true,
            _ => false,
        }
    }
}
