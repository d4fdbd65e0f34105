//! What a window is compared with: the distribution of every column, and how often scores were right, frozen under a version.

use std::collections::BTreeMap;

use datafusion::prelude::SessionContext;
use driftline_schemas::tables::Task;
use driftline_store::encode_segment;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

pub use crate::window::columns::Column;
use crate::{
    Error,
    drift::{
        Bins, KolmogorovSmirnov, Method, Shares, chi_square, deviation, ks_2samp, population_stability_index,
        wasserstein,
    },
    estimate::Calibration,
    metrics::Undefined,
    window::calibrate::calibrate,
    window::columns::{Categories, Columns, count_rows, read_categories, read_numbers},
};

/// Values kept of a numeric column. A larger sample is thinned to evenly spaced order statistics, which moves a
/// Kolmogorov–Smirnov statistic by at most one part in this.
const SAMPLE_MAX: usize = 1_000_000;
/// Categories kept of a text column, the most frequent ones; the others count as unseen, in the reference too.
pub const CATEGORIES_MAX: usize = 1_000;

/// A frozen reference of one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// Hash of the content: equal distributions have equal versions, whenever and wherever they were read.
    pub version: String,
    /// Every column with at least one value.
    pub columns: Vec<ReferenceColumn>,
    /// Valid rows that it was read from; 0 in those of before it was kept.
    #[serde(default)]
    pub rows: u64,
    /// What its labelled rows say of scores; none in references of before there were estimates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// The positive class that a binary model's calibration is of, if it was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positive_class: Option<String>,
}

/// What a model's rows mean, as far as a reference depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Terms {
    /// What it predicts.
    pub task: Task,
    /// A binary model's positive class, in canonical text. Without one, `1` and `true` are positive.
    pub positive_class: Option<String>,
}

impl From<Task> for Terms {
    fn from(task: Task) -> Self {
        Self { task, positive_class: None }
    }
}

/// One column of a reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReferenceColumn {
    /// Which.
    pub column: Column,
    /// Its values.
    pub values: ReferenceValues,
}

/// The distribution of one column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReferenceValues {
    /// Numbers.
    Numeric {
        /// Values read.
        n: u64,
        /// Ascending, at most a million.
        sample: Vec<f64>,
        /// The deciles of all values read.
        bins: Bins,
    },
    /// Texts.
    Categorical {
        /// Values read.
        n: u64,
        /// Rows of each kept category.
        categories: BTreeMap<String, u64>,
    },
}

/// Where a model's reference of a version lies in the store.
pub fn path_of(model: &str, version: &str) -> String {
    format!("references/model_name={}/{version}.json", encode_segment(model))
}

impl Reference {
    /// Reads a reference that was frozen before; `None` if the bytes are something else.
    ///
    /// # Errors
    /// If it says that it is one, and is not whole, or its content is not that of its version.
    pub fn from_json(bytes: &[u8]) -> Option<Result<Self, String>> {
        #[derive(Deserialize)]
        struct Named {
            #[serde(rename = "version")]
            _version: String,
            #[serde(rename = "columns")]
            _columns: Vec<serde::de::IgnoredAny>,
        }
        serde_json::from_slice::<Named>(bytes).ok()?;
        let reference: Self = match serde_json::from_slice(bytes) {
            Ok(reference) => reference,
            Err(error) => return Some(Err(error.to_string())),
        };
        Some(match version_of(&reference.columns, reference.calibration.as_ref()) {
            Ok(version) if version == reference.version => Ok(reference),
            Ok(version) => Err(format!("its content is of version {version}, and it says {}", reference.version)),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Freezes the rows of a table that has the columns of `history`.
    ///
    /// Rows that failed or were refused are left out; labels are needed for estimates only. A feature that holds both numbers
    /// and texts is taken as what it holds more of, as numbers if both alike.
    pub async fn from_table(context: &SessionContext, table: &str, terms: impl Into<Terms>) -> Result<Self, Error> {
        let terms = terms.into();
        let task = terms.task;
        let read = Columns::of(context, table).await?;
        let read_from = read.valid_rows();
        let mut kept: BTreeMap<Column, ReferenceColumn> = BTreeMap::new();
        for (column, by_group) in read_numbers(context, &read, &read.numeric(task), None).await? {
            let mut sample: Vec<f64> = by_group.into_values().flat_map(BTreeMap::into_values).flatten().collect();
            sample.sort_unstable_by(f64::total_cmp);
            if let Some(values) = ReferenceValues::numeric(sample) {
                kept.insert(column.clone(), ReferenceColumn { column, values });
            }
        }
        for (column, text) in read.categorical(task) {
            let Some(values) = ReferenceValues::categorical(read_categories(context, &read, &text).await?) else {
                continue;
            };
            if kept.get(&column).is_none_or(|numeric| numeric.values.n() < values.n()) {
                kept.insert(column.clone(), ReferenceColumn { column, values });
            }
        }
        let columns: Vec<ReferenceColumn> = kept.into_values().collect();
        let rows = count_rows(context, &read_from).await?;
        let calibration = calibrate(context, &read, &terms).await?;
        let version = version_of(&columns, Some(&calibration))?;
        let positive_class = terms.positive_class.filter(|_| task == Task::Binary);
        Ok(Self { version, columns, rows, calibration: Some(calibration), positive_class })
    }

    /// The values of a column, if the reference has any.
    pub fn column(&self, column: &Column) -> Option<&ReferenceValues> {
        self.columns.iter().find(|kept| &kept.column == column).map(|kept| &kept.values)
    }
}

/// The hash of a reference's content.
fn version_of(columns: &[ReferenceColumn], calibration: Option<&Calibration>) -> Result<String, serde_json::Error> {
    let content = match calibration {
        // What has no labels has the version that it had before there were calibrations.
        None | Some(Calibration::None(_)) => serde_json::to_vec(columns)?,
        Some(fitted) => serde_json::to_vec(&(columns, fitted))?,
    };
    Ok(format!("{:016x}", xxh3_64(&content)))
}

impl ReferenceValues {
    /// From an ascending sample without NaN; `None` if empty.
    pub fn numeric(sample: Vec<f64>) -> Option<Self> {
        let (n, bins) = (sample.len() as u64, Bins::deciles(&sample));
        (n > 0).then(|| Self::Numeric { n, bins, sample: thin(sample, SAMPLE_MAX) })
    }

    /// From the most frequent categories; `None` if there are no rows.
    pub(crate) fn categorical(categories: Categories) -> Option<Self> {
        let n = categories.counts.values().sum::<u64>() + categories.others;
        (n > 0).then_some(Self::Categorical { n, categories: categories.counts })
    }

    /// The share of its own values that would count as strange: texts beyond its most frequent ones.
    pub(crate) fn strange_share(&self) -> f64 {
        match self {
            Self::Numeric { .. } => 0.0,
            Self::Categorical { n, categories } => 1.0 - categories.values().sum::<u64>() as f64 / *n as f64,
        }
    }

    /// Whether all its values are one.
    pub(crate) fn is_constant(&self) -> bool {
        match self {
            Self::Numeric { sample, .. } => sample.first() == sample.last(),
            Self::Categorical { n, categories } => categories.values().any(|count| count == n),
        }
    }

    /// Values it rests on.
    pub fn n(&self) -> u64 {
        match self {
            Self::Numeric { n, .. } | Self::Categorical { n, .. } => *n,
        }
    }

    /// Kolmogorov–Smirnov of numbers. `current` ascending, without NaN.
    pub fn ks(&self, current: &[f64]) -> Result<KolmogorovSmirnov, Undefined> {
        match self {
            Self::Numeric { sample, .. } => ks_2samp(sample, current).ok_or(Undefined::NoRows),
            Self::Categorical { .. } => Err(Undefined::NoReference),
        }
    }
}

/// One distance of one column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distance {
    /// How it was measured.
    pub method: Method,
    /// The statistic from which on the column counts as drifted, if the test rejects too.
    pub threshold: f64,
    /// The statistic and the p-value of the test that goes with it.
    pub outcome: Result<(f64, f64), Undefined>,
}

impl ReferenceValues {
    /// Every distance of numbers. `current` ascending, without NaN.
    ///
    /// Distances over bins are over the reference's deciles, the outer ones open: what lies out of the reference's range is in
    /// these, and is counted by itself in `quality`.
    pub fn distances_of_numbers(&self, current: &[f64]) -> Vec<Distance> {
        let Self::Numeric { sample, bins, .. } = self else { return Vec::new() };
        let test = self.ks(current);
        let ks_p = test.map(|test| test.p_value);
        let spread = deviation(sample);
        let moved = || {
            let reason = if current.is_empty() { Undefined::NoRows } else { Undefined::OutOfDomain };
            wasserstein(sample, current).ok_or(reason)
        };
        let with_p = |statistic: Result<f64, Undefined>| Ok((statistic?, ks_p?));
        let mut distances = vec![
            Distance {
                method: Method::Ks,
                threshold: Method::Ks.effect_min(),
                outcome: test.map(|test| (test.statistic, test.p_value)),
            },
            Distance {
                method: Method::Wasserstein,
                threshold: spread.unwrap_or(0.0) * Method::Wasserstein.effect_min(),
                outcome: with_p(moved()),
            },
            Distance {
                method: Method::WassersteinNormed,
                threshold: Method::WassersteinNormed.effect_min(),
                outcome: with_p(moved().and_then(|distance| Ok(distance / spread.ok_or(Undefined::Constant)?))),
            },
        ];
        distances.extend(over_bins(&bins.count(sample), &bins.count(current)));
        distances
    }

    /// Every distance of categories: one bin for each of the reference, and one for all it has not seen.
    pub(crate) fn distances_of_categories(&self, current: &Categories) -> Vec<Distance> {
        let Some((reference, counts)) = self.paired_categories(current) else { return Vec::new() };
        over_bins(&reference, &counts)
    }

    /// The share of numbers below the smallest or above the largest of the reference. `current` ascending.
    pub(crate) fn out_of_range(&self, current: &[f64]) -> Option<u64> {
        let Self::Numeric { sample, .. } = self else { return None };
        let (low, high) = (sample.first()?, sample.last()?);
        let below = current.partition_point(|x| x < low);
        let above = current.len() - current.partition_point(|x| x <= high);
        Some((below + above) as u64)
    }

    fn paired_categories(&self, current: &Categories) -> Option<(Vec<u64>, Vec<u64>)> {
        let Self::Categorical { n, categories } = self else { return None };
        let mut reference: Vec<u64> = categories.values().copied().collect();
        let mut counts: Vec<u64> = categories.keys().map(|c| current.counts.get(c).copied().unwrap_or(0)).collect();
        reference.push(n - reference.iter().sum::<u64>());
        counts.push(current.n() - counts.iter().sum::<u64>());
        Some((reference, counts))
    }
}

/// The distances over bins, all with the p-value of Pearson's test.
fn over_bins(reference: &[u64], current: &[u64]) -> Vec<Distance> {
    let shares = Shares::of(reference, current).ok_or(Undefined::NoRows);
    let test = chi_square(reference, current).ok_or(Undefined::NoRows);
    let psi = population_stability_index(reference, current).ok_or(Undefined::NoRows);
    let of = |method: Method, statistic: Result<f64, Undefined>| Distance {
        method,
        threshold: method.effect_min(),
        outcome: statistic.and_then(|statistic| Ok((statistic, test?.p_value))),
    };
    let by = |of: fn(&Shares) -> f64| shares.as_ref().map(of).map_err(|reason| *reason);
    let rows = test.map_or(0, |test| test.rows);
    vec![
        of(Method::Psi, psi),
        of(Method::JensenShannon, by(Shares::jensen_shannon)),
        of(Method::Hellinger, by(Shares::hellinger)),
        of(Method::TotalVariation, by(Shares::total_variation)),
        of(Method::LInfinity, by(Shares::l_infinity)),
        of(Method::Kl, by(Shares::kl)),
        Distance {
            method: Method::Chi2,
            threshold: crate::drift::ChiSquare::statistic_of(rows, Method::Chi2.effect_min()),
            outcome: test.map(|test| (test.statistic, test.p_value)),
        },
    ]
}

/// Evenly spaced order statistics, both ends included.
fn thin(sample: Vec<f64>, max: usize) -> Vec<f64> {
    if sample.len() <= max {
        return sample;
    }
    let last = (sample.len() - 1) as u128;
    (0..max).map(|i| sample[(i as u128 * last / (max as u128 - 1)) as usize]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pairs: &[(&str, u64)], others: u64) -> Categories {
        Categories { counts: pairs.iter().map(|(category, n)| ((*category).to_owned(), *n)).collect(), others }
    }

    fn psi(distances: &[Distance]) -> Result<f64, Undefined> {
        let psi = distances.iter().find(|distance| distance.method == Method::Psi).expect("measured");
        psi.outcome.map(|(statistic, _)| statistic)
    }

    #[test]
    fn an_unseen_category_has_its_own_bin() {
        let reference = ReferenceValues::categorical(counts(&[("a", 5), ("b", 5)], 0)).expect("rows");
        let psi = |current: Categories| psi(&reference.distances_of_categories(&current));
        assert_eq!(psi(counts(&[("a", 2), ("b", 2)], 0)), Ok(0.0));
        let expected = 2.0 * (0.25 - 0.5) * 0.5_f64.ln() + (0.5 - 1e-4) * (0.5_f64 / 1e-4).ln();
        for unseen in [counts(&[("a", 1), ("b", 1), ("c", 2)], 0), counts(&[("a", 1), ("b", 1)], 2)] {
            let psi = psi(unseen).expect("rows");
            assert!((psi - expected).abs() < 1e-14, "{psi}");
        }
        assert_eq!(psi(counts(&[], 0)), Err(Undefined::NoRows));
        assert_eq!(ReferenceValues::categorical(counts(&[], 0)), None);
    }

    #[test]
    fn categories_beyond_the_cap_count_as_unseen_on_both_sides() {
        let reference = ReferenceValues::categorical(counts(&[("a", 5)], 5)).expect("rows");
        assert_eq!(psi(&reference.distances_of_categories(&counts(&[("a", 1), ("z", 1)], 0))), Ok(0.0));
    }

    #[test]
    fn a_thinned_sample_keeps_its_ends() {
        let sample: Vec<f64> = (0..1000).map(f64::from).collect();
        let thinned = thin(sample, 10);
        assert_eq!((thinned.len(), thinned[0], thinned[9]), (10, 0.0, 999.0));
    }

    #[test]
    fn a_constant_reference_is_two_bins() {
        let reference = ReferenceValues::numeric(vec![3.0; 20]).expect("rows");
        assert_eq!(psi(&reference.distances_of_numbers(&[3.0, 3.0])), Ok(0.0));
        assert!(psi(&reference.distances_of_numbers(&[4.0])).is_ok_and(|psi| psi > 9.0));
        let normed = reference.distances_of_numbers(&[4.0]).into_iter().find(|d| d.method == Method::WassersteinNormed);
        assert_eq!(normed.map(|distance| distance.outcome), Some(Err(Undefined::Constant)));
        assert_eq!(reference.out_of_range(&[2.0, 3.0, 3.0, 4.0, 5.0]), Some(3));
        assert_eq!(reference.ks(&[]), Err(Undefined::NoRows));
    }
}
