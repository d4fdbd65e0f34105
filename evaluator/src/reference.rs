//! What a window is compared with: the distribution of every column, and how often scores were right, frozen under a version.

use std::collections::BTreeMap;

use datafusion::prelude::SessionContext;
use driftline_schemas::reference::{ReferenceMetrics, ReferenceValue};
use driftline_schemas::tables::Task;
use driftline_store::{Store, paths};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

pub use crate::window::columns::Column;
use crate::{
    Error, EvaluationContext,
    drift::{
        Bins, Counts, KolmogorovSmirnov, Method, Sample, SampleRef, Shares, chi_square, components::Components,
        deviation, kolmogorov, ks_of_samples, mean_and_deviation, population_stability_index, wasserstein,
    },
    estimate::Calibration,
    metrics::{Undefined, Weight, binned::Limit},
    window::calibrate::calibrate,
    window::columns::{Categories, Columns, NumberReader, attributions, count_rows, read_categories},
    window::components::fit,
};

/// What sums of two doubles each may lose, beside one.
const ROUNDING: f64 = 1e-14;
/// Values kept of a numeric column, fewer where memory asks for it. A larger sample is thinned to evenly spaced order statistics, which moves a
/// Kolmogorov–Smirnov statistic by at most one part in as many.
const SAMPLE_MAX: usize = 1_000_000;
/// Values kept at the least: fewer would show.
const SAMPLE_MIN: usize = 1 << 14;
/// What a kept value takes, most of all: itself, and its digits in what is written. Half of the memory is for them.
const VALUE_BYTES: u64 = 2 * (8 + 20);
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
    /// What its numeric features have in common; none unless there are two, and in references of before there were components.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub components: Option<Components>,
    /// The metrics of its labelled rows, which rules may be held against; none of past windows, without labels, and in references
    /// of before they were kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<ReferenceMetrics>,
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
        /// What each of them stands for; nothing if all stand for themselves.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        weights: Vec<Weight>,
        /// The deciles of all values read.
        bins: Bins,
        /// What all values read say where fewer are kept.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        whole: Option<Whole>,
    },
    /// Texts.
    Categorical {
        /// Values read.
        n: u64,
        /// Rows of each kept category.
        categories: BTreeMap<String, u64>,
        /// What they stand for, if not for themselves.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        weighed: Option<WeighedCategories>,
    },
}

/// What all values of a column say of which fewer are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Whole {
    /// How far the distribution function of the kept ones is from that of all, at the most.
    share: f64,
    /// The Wasserstein distance of the kept ones from all; none where it is no number.
    moved: Option<f64>,
    /// The standard deviation of all; none if they are constant.
    deviation: Option<f64>,
    /// What all stand for, by decile.
    counts: Vec<f64>,
    /// Rows of equal weight that would say as much as all.
    effective_rows: f64,
}

impl Whole {
    fn of(all: SampleRef<'_>, kept: SampleRef<'_>, bins: &Bins) -> Self {
        let counts = bins.weigh(all);
        let apart = ks_of_samples(all, kept).map_or(0.0, |test| test.statistic);
        let moved = wasserstein(all, kept).zip(all.reach_bound()).map(|(moved, reach)| moved + reach);
        Self {
            share: apart + all.share_bound(),
            moved: moved.filter(|moved| moved.is_finite()),
            deviation: deviation(all).filter(|deviation| deviation.is_finite()),
            counts: counts.bins,
            effective_rows: counts.effective_rows,
        }
    }
}

/// What the rows of categories stand for, where they do not for themselves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WeighedCategories {
    /// The weight of each kept category.
    categories: BTreeMap<String, f64>,
    /// The weight of all others.
    others: f64,
    /// Rows of equal weight that would say as much.
    effective_rows: f64,
}

impl WeighedCategories {
    #[cfg(test)]
    pub(crate) fn of<const N: usize>(categories: [(&str, f64); N], others: f64) -> Self {
        let categories = categories.map(|(name, weight)| (name.to_owned(), weight)).into();
        Self { categories, others, effective_rows: 1.0 }
    }

    /// The weight of each kept category.
    pub(crate) fn categories(&self) -> BTreeMap<&str, f64> {
        self.categories.iter().map(|(name, weight)| (name.as_str(), *weight)).collect()
    }

    /// The weight of all others.
    pub(crate) fn others(&self) -> f64 {
        self.others
    }
}

/// Where a model's reference of a version lies in the store.
pub fn path_of(model: &str, version: &str) -> String {
    paths::reference(model, version)
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
        Some(match reference.version_of_content() {
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
        let read = Columns::of(context, table).await?.without_idle_rate(context).await?;
        let read_from = read.valid_rows();
        let mut kept: BTreeMap<Column, ReferenceColumn> = BTreeMap::new();
        let mut moments = BTreeMap::new();
        let numeric: Vec<_> = read.numeric(task).into_iter().chain(attributions(context, &read).await?).collect();
        let values_max = read.budget().values(numeric.len() as u64, VALUE_BYTES, SAMPLE_MAX).max(SAMPLE_MIN);
        let mut reader = NumberReader::new(&read, &numeric, (None, 1), None);
        while let Some(samples) = reader.next(context).await? {
            for (column, by_group) in samples {
                let sample = Sample::merged(by_group.values().flat_map(BTreeMap::values));
                if let (Column::Feature(name), Some(found)) = (&column, mean_and_deviation(sample.as_ref())) {
                    moments.insert(name.clone(), found);
                }
                if let Some(values) = ReferenceValues::thinned(sample, values_max) {
                    kept.insert(column.clone(), ReferenceColumn { column, values });
                }
            }
        }
        for (column, text) in read.categorical(task) {
            let Some(values) = ReferenceValues::categorical(read_categories(context, &read, &text).await?) else {
                continue;
            };
            if kept.get(&column).is_none_or(|numeric| numeric.values.n() < values.n()) {
                if let Column::Feature(name) = &column {
                    moments.remove(name);
                }
                kept.insert(column.clone(), ReferenceColumn { column, values });
            }
        }
        let columns: Vec<ReferenceColumn> = kept.into_values().collect();
        let rows = count_rows(context, &read_from).await?;
        let calibration = calibrate(context, &read, &terms).await?;
        let components = fit(context, &read, &moments).await?;
        let positive_class = terms.positive_class.filter(|_| task == Task::Binary);
        let calibration = Some(calibration);
        let version = String::new();
        let unnamed = Self { version, columns, rows, calibration, positive_class, components, metrics: None };
        unnamed.named()
    }

    /// The same, with the metrics of its labelled rows: of the table that it was frozen from, judged as `context` says.
    pub async fn with_metrics(
        self,
        session: &SessionContext,
        table: &str,
        context: &EvaluationContext,
    ) -> Result<Self, Error> {
        let context = EvaluationContext { reference: None, ..context.clone() };
        let evaluated = crate::evaluate(session, table, &context).await?;
        let values: Vec<ReferenceValue> = evaluated.metrics.iter().filter_map(ReferenceValue::of).collect();
        let metrics = (!values.is_empty()).then_some(ReferenceMetrics {
            threshold: context.threshold,
            score_kind: context.score_kind,
            positive_class: context.positive_class,
            values,
        });
        Self { metrics, ..self }.named()
    }

    /// The same under the version that its content has.
    fn named(self) -> Result<Self, Error> {
        let version = self.version_of_content()?;
        Ok(Self { version, ..self })
    }

    /// Keeps it in the store under its version, so that what a result was measured against can be looked up for ever.
    ///
    /// # Returns
    /// Its path. Equal content has an equal name: what is there already is this.
    /// # Errors
    /// If the store cannot be written.
    pub async fn keep(&self, store: &Store, model: &str) -> Result<String, Error> {
        let path = path_of(model, &self.version);
        store.create(&path, serde_json::to_vec(self)?.into()).await?;
        Ok(path)
    }

    /// The values of a column, if the reference has any.
    pub fn column(&self, column: &Column) -> Option<&ReferenceValues> {
        self.columns.iter().find(|kept| &kept.column == column).map(|kept| &kept.values)
    }

    /// The hash of its content.
    fn version_of_content(&self) -> Result<String, serde_json::Error> {
        let columns = &self.columns;
        let fitted = self.calibration.as_ref().filter(|calibration| !matches!(calibration, Calibration::None(_)));
        // What has no labels, no two numbers, or no metrics of its own has the version that it had before there were such things.
        let mut hash = Xxh3::new();
        match (fitted, &self.components, &self.metrics) {
            (None, None, None) => serde_json::to_writer(&mut hash, columns)?,
            (Some(fitted), None, None) => serde_json::to_writer(&mut hash, &(columns, fitted))?,
            (fitted, Some(components), None) => serde_json::to_writer(&mut hash, &(columns, fitted, components))?,
            (fitted, components, Some(metrics)) => {
                serde_json::to_writer(&mut hash, &(columns, fitted, components, metrics))?;
            }
        }
        Ok(format!("{:016x}", hash.digest()))
    }
}

impl ReferenceValues {
    /// From a sorted sample; `None` if empty.
    pub fn numeric(sample: Sample) -> Option<Self> {
        Self::thinned(sample, SAMPLE_MAX)
    }

    fn thinned(sample: Sample, max: usize) -> Option<Self> {
        let (n, bins) = (sample.as_ref().rows(), Bins::of_sample(sample.as_ref()));
        if n == 0 {
            return None;
        }
        let is_whole = sample.as_ref().bins().is_empty() && sample.values().len() <= max;
        let kept = if is_whole { None } else { Some(sample.clone().thinned(max)) };
        let whole = kept.as_ref().map(|kept| Whole::of(sample.as_ref(), kept.as_ref(), &bins));
        let (sample, weights) = kept.unwrap_or(sample).into_parts();
        Some(Self::Numeric { n, bins, sample, weights, whole })
    }

    /// From the most frequent categories; `None` if there are no rows.
    pub(crate) fn categorical(categories: Categories) -> Option<Self> {
        let all = categories.all();
        let weighed = (!all.is_plain()).then(|| WeighedCategories {
            categories: categories.counts.iter().map(|(category, tally)| (category.clone(), tally.weight)).collect(),
            others: categories.others.weight,
            effective_rows: all.effective_rows(),
        });
        let counts = categories.counts.into_iter().map(|(category, tally)| (category, tally.rows)).collect();
        (all.rows > 0).then_some(Self::Categorical { n: all.rows, categories: counts, weighed })
    }

    /// A limit on a window's numbers under which nothing is lost that is counted by the reference's own edges: its deciles, its smallest
    /// and its largest value.
    pub(crate) fn with_cuts(&self, limit: Limit) -> Limit {
        let Self::Numeric { sample, bins, .. } = self else { return limit };
        let ends = bins.edges().iter().copied().chain(sample.last().copied());
        limit.with_cuts(ends).with_starts(sample.first().copied())
    }

    /// The share of its own values that would count as strange: texts beyond its most frequent ones.
    pub(crate) fn strange_share(&self) -> f64 {
        match self {
            Self::Numeric { .. } => 0.0,
            Self::Categorical { n, categories, .. } => 1.0 - categories.values().sum::<u64>() as f64 / *n as f64,
        }
    }

    /// Whether all its values are one.
    pub(crate) fn is_constant(&self) -> bool {
        match self {
            Self::Numeric { sample, .. } => sample.first() == sample.last(),
            Self::Categorical { n, categories, .. } => categories.values().any(|count| count == n),
        }
    }

    /// Values it rests on.
    pub fn n(&self) -> u64 {
        match self {
            Self::Numeric { n, .. } | Self::Categorical { n, .. } => *n,
        }
    }

    /// Kolmogorov–Smirnov of numbers.
    pub fn ks(&self, current: SampleRef<'_>) -> Result<KolmogorovSmirnov, Undefined> {
        match self {
            Self::Numeric { sample, weights, whole, .. } => {
                let test = ks_of_samples(SampleRef::new(sample, weights), current).ok_or(Undefined::NoRows)?;
                let Some(whole) = whole else { return Ok(test) };
                // As many rows as the reference has, not as are kept.
                let (m, n) = (whole.effective_rows, current.effective_rows());
                let rows = (m * n / (m + n)).round_ties_even().max(1.0) as u64;
                let p_value = kolmogorov::sf(rows, test.statistic).clamp(0.0, 1.0);
                Ok(KolmogorovSmirnov { p_value, ..test })
            }
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
    /// How far the statistic may lie from that of the rows as they are, where they are in bins; none if it is that.
    pub bound: Option<f64>,
}

impl Distance {
    /// Of rows as they are.
    pub fn exact(method: Method, threshold: f64, outcome: Result<(f64, f64), Undefined>) -> Self {
        Self { method, threshold, outcome, bound: None }
    }

    fn within(self, bound: f64) -> Self {
        // What is larger than any number says as little as the largest one.
        let bound = (bound > 0.0 && self.outcome.is_ok()).then(|| (bound + ROUNDING * (1.0 + bound)).min(f64::MAX));
        Self { bound, ..self }
    }
}

impl ReferenceValues {
    /// Every distance of numbers, by what rows stand for on either side.
    ///
    /// Distances over bins are over the reference's deciles, the outer ones open: what lies out of the reference's range is in
    /// these, and is counted by itself in `quality`.
    pub fn distances_of_numbers(&self, current: SampleRef<'_>) -> Vec<Distance> {
        let Self::Numeric { sample, weights, bins, whole, .. } = self else { return Vec::new() };
        let sample = SampleRef::new(sample, weights);
        let test = self.ks(current);
        let ks_p = test.map(|test| test.p_value);
        let spread = whole.as_ref().map_or_else(|| deviation(sample), |whole| whole.deviation);
        let moved = || {
            let reason = if current.is_empty() { Undefined::NoRows } else { Undefined::OutOfDomain };
            wasserstein(sample, current).ok_or(reason)
        };
        let with_p = |statistic: Result<f64, Undefined>| Ok((statistic?, ks_p?));
        // A distribution function is off by no more than the bin that it is asked in has; a row has been moved to the middle of its bin. Of the
        // reference, the kept values are so far from all: both are distances, and distances add up.
        let (thin_share, thin_reach) =
            whole.as_ref().map_or((0.0, 0.0), |whole| (whole.share, whole.moved.unwrap_or(f64::INFINITY)));
        let share = current.share_bound() + thin_share;
        let reach = current.reach_bound().unwrap_or(f64::INFINITY) + thin_reach;
        let scale = spread.unwrap_or(1.0);
        let normed = moved().and_then(|distance| Ok(distance / spread.ok_or(Undefined::Constant)?));
        let of = |method: Method, threshold, outcome| Distance::exact(method, threshold, outcome);
        let mut distances = vec![
            of(Method::Ks, Method::Ks.effect_min(), test.map(|test| (test.statistic, test.p_value))).within(share),
            of(Method::Wasserstein, spread.unwrap_or(0.0) * Method::Wasserstein.effect_min(), with_p(moved()))
                .within(reach),
            of(Method::WassersteinNormed, Method::WassersteinNormed.effect_min(), with_p(normed)).within(reach / scale),
        ];
        let counts = whole.as_ref().map_or_else(
            || bins.weigh(sample),
            |whole| Counts { bins: whole.counts.clone(), effective_rows: whole.effective_rows },
        );
        distances.extend(over_bins(&counts, &bins.weigh(current)));
        distances
    }

    /// Every distance of categories: one bin for each of the reference, and one for all it has not seen.
    pub(crate) fn distances_of_categories(&self, current: &Categories) -> Vec<Distance> {
        let Some((reference, counts)) = self.paired_categories(current) else { return Vec::new() };
        over_bins(&reference, &counts)
    }

    /// The share of numbers below the smallest or above the largest of the reference. `current` ascending.
    pub(crate) fn out_of_range(&self, current: SampleRef<'_>) -> Option<u64> {
        let Self::Numeric { sample, .. } = self else { return None };
        let (low, high) = (sample.first()?, sample.last()?);
        if !current.bins().is_empty() {
            // No bin reaches across the ends of the reference.
            let outside = current.bins().iter().filter(|bin| bin.largest() < *low || bin.smallest() > *high);
            return Some(outside.map(|bin| bin.mass.rows()).sum());
        }
        let current = current.values();
        let below = current.partition_point(|x| x < low);
        let above = current.len() - current.partition_point(|x| x <= high);
        Some((below + above) as u64)
    }

    fn paired_categories(&self, current: &Categories) -> Option<(Counts, Counts)> {
        let Self::Categorical { n, categories, weighed } = self else { return None };
        let reference = if let Some(weighed) = weighed {
            let bins = weighed.categories.values().copied().chain([weighed.others]).collect();
            Counts { bins, effective_rows: weighed.effective_rows }
        } else {
            let others = n - categories.values().sum::<u64>();
            Counts::of_rows(&categories.values().copied().chain([others]).collect::<Vec<u64>>())
        };
        let known = |category: &String| current.counts.get(category).copied().unwrap_or_default();
        let mut others = current.others;
        let unknown = current.counts.iter().filter(|(category, _)| !categories.contains_key(*category));
        unknown.for_each(|(_, tally)| others.add(*tally));
        let bins = categories.keys().map(|category| known(category).weight).chain([others.weight]).collect();
        Some((reference, Counts { bins, effective_rows: current.all().effective_rows() }))
    }
}

/// The distances over bins, all with the p-value of Pearson's test.
fn over_bins(reference: &Counts, current: &Counts) -> Vec<Distance> {
    let shares = Shares::of(reference, current).ok_or(Undefined::NoRows);
    let test = chi_square(reference, current).ok_or(Undefined::NoRows);
    let psi = population_stability_index(reference, current).ok_or(Undefined::NoRows);
    let of = |method: Method, statistic: Result<f64, Undefined>| {
        let outcome = statistic.and_then(|statistic| Ok((statistic, test?.p_value)));
        Distance::exact(method, method.effect_min(), outcome)
    };
    let by = |of: fn(&Shares) -> f64| shares.as_ref().map(of).map_err(|reason| *reason);
    let rows = test.map_or(0.0, |test| test.rows);
    vec![
        of(Method::Psi, psi),
        of(Method::JensenShannon, by(Shares::jensen_shannon)),
        of(Method::Hellinger, by(Shares::hellinger)),
        of(Method::TotalVariation, by(Shares::total_variation)),
        of(Method::LInfinity, by(Shares::l_infinity)),
        of(Method::Kl, by(Shares::kl)),
        Distance::exact(
            Method::Chi2,
            crate::drift::ChiSquare::statistic_of(rows, Method::Chi2.effect_min()),
            test.map(|test| (test.statistic, test.p_value)),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::window::columns::Tally;

    fn counts(pairs: &[(&str, u64)], others: u64) -> Categories {
        let counts = pairs.iter().map(|(category, n)| ((*category).to_owned(), Tally::of_rows(*n))).collect();
        Categories { counts, others: Tally::of_rows(others) }
    }

    fn psi(distances: &[Distance]) -> Result<f64, Undefined> {
        let psi = distances.iter().find(|distance| distance.method == Method::Psi).expect("measured");
        psi.outcome.map(|(statistic, _)| statistic)
    }

    /// Numbers with a long tail, ascending.
    fn long_tail(rows: u32) -> Sample {
        Sample::of_sorted((0..rows).map(|row| (1.0 - (f64::from(row) + 0.5) / f64::from(rows)).powf(-0.7)).collect())
    }

    #[test]
    fn what_is_not_kept_of_a_reference_is_in_its_bounds() {
        let whole = ReferenceValues::thinned(long_tail(30_000), usize::MAX).expect("rows");
        let thin = ReferenceValues::thinned(long_tail(30_000), 200).expect("rows");
        assert_eq!((whole.n(), thin.n()), (30_000, 30_000));
        let current = Sample::of_sorted(long_tail(5_000).values().iter().map(|value| value * 1.03 + 0.01).collect());
        let pairs = whole.distances_of_numbers(current.as_ref());
        let pairs = pairs.into_iter().zip(thin.distances_of_numbers(current.as_ref()));
        for (exact, found) in pairs {
            assert_eq!((exact.method, exact.bound), (found.method, None));
            let (value, statistic) = (exact.outcome.expect("defined").0, found.outcome.expect("defined").0);
            let off = (value - statistic).abs();
            let is_binned = !matches!(exact.method, Method::Ks | Method::Wasserstein | Method::WassersteinNormed);
            assert!(off <= found.bound.unwrap_or(0.0) + 1e-12, "{:?}: {value} {found:?}", exact.method);
            assert_eq!(found.bound.is_none(), is_binned, "{:?}: {found:?}", exact.method);
        }
        // The test is one of all rows: beside so few as are kept nothing would be significant.
        let same = |reference: &ReferenceValues| reference.ks(current.as_ref()).expect("rows").p_value;
        assert!(same(&thin) < 0.05 && same(&whole) < 0.05, "{} {}", same(&thin), same(&whole));
        let json = serde_json::to_string(&thin).expect("serializes");
        assert_eq!(serde_json::from_str::<ReferenceValues>(&json).expect("reads"), thin);
        assert!(!serde_json::to_string(&whole).expect("serializes").contains("whole"), "its version stays what it was");
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
    fn a_constant_reference_is_two_bins() {
        let reference = ReferenceValues::numeric(Sample::of_sorted(vec![3.0; 20])).expect("rows");
        let distances = |values: &[f64]| reference.distances_of_numbers(SampleRef::new(values, &[]));
        assert_eq!(psi(&distances(&[3.0, 3.0])), Ok(0.0));
        assert!(psi(&distances(&[4.0])).is_ok_and(|psi| psi > 9.0));
        let normed = distances(&[4.0]).into_iter().find(|d| d.method == Method::WassersteinNormed);
        assert_eq!(normed.map(|distance| distance.outcome), Some(Err(Undefined::Constant)));
        assert_eq!(reference.out_of_range(SampleRef::new(&[2.0, 3.0, 3.0, 4.0, 5.0], &[])), Some(3));
        assert_eq!(reference.ks(SampleRef::new(&[], &[])), Err(Undefined::NoRows));
    }

    fn number() -> impl Strategy<Value = f64> {
        prop_oneof![
            6 => 0.0..1.0_f64,
            2 => prop::sample::select(vec![0.0, 0.5, 0.25, -1.0, 2.0]),
            1 => -1e3..1e3_f64,
            1 => 0.5..0.5001_f64,
        ]
    }

    fn held(rows: &[(f64, f64)], limit: Option<Limit>) -> Sample {
        let mut sample = Sample::held_to(limit);
        for (value, rate) in rows {
            sample.push(*value, Weight::of_rate(Some(*rate)));
            sample.hold();
        }
        sample
    }

    proptest! {
        #[test]
        fn distances_over_bins_are_within_their_bounds(
            reference in prop::collection::vec(number(), 1..100),
            rows in prop::collection::vec((number(), prop_oneof![3 => Just(1.0), 1 => 0.1..1.0_f64]), 1..300),
            bins in 1_usize..40, cut in 0_usize..300,
        ) {
            let mut sorted = reference;
            sorted.sort_unstable_by(f64::total_cmp);
            let reference = ReferenceValues::numeric(Sample::of_sorted(sorted)).expect("rows");
            let limit = reference.with_cuts(Limit::of(bins));
            let exact = held(&rows, None).sorted();
            // Two partitions, one after the other and the other way round, through their encoding.
            let cut = cut.min(rows.len());
            let parts = [held(&rows[..cut], Some(limit.clone())), held(&rows[cut..], Some(limit.clone()))];
            let merged = |order: [usize; 2]| {
                let mut whole = Sample::held_to(Some(limit.clone()));
                for part in order {
                    let mut bytes = Vec::new();
                    parts[part].encode(&mut bytes);
                    whole.merge_encoded(&mut crate::metrics::wire::Reader::new(&bytes)).expect("whole state");
                    whole.hold();
                }
                whole.sorted()
            };
            let binned = merged([0, 1]);
            prop_assert_eq!(&binned, &merged([1, 0]));
            prop_assert_eq!(&binned, &held(&rows, Some(limit.clone())).sorted());
            prop_assert_eq!(binned.as_ref().mass(), exact.as_ref().mass());
            prop_assert_eq!(reference.out_of_range(binned.as_ref()), reference.out_of_range(exact.as_ref()));
            let both = reference.distances_of_numbers(exact.as_ref()).into_iter();
            for (one, other) in both.zip(reference.distances_of_numbers(binned.as_ref())) {
                prop_assert_eq!(one.bound, None);
                match (one.outcome, other.outcome) {
                    (Ok((value, _)), Ok((found, _))) => {
                        let bound = other.bound.unwrap_or(0.0) + 1e-10 * value.abs().max(1.0);
                        prop_assert!((value - found).abs() <= bound, "{:?} {:?}", one, other);
                    }
                    (one, other) => prop_assert_eq!(one.err(), other.err()),
                }
                let is_over_bins = !matches!(one.method, Method::Ks | Method::Wasserstein | Method::WassersteinNormed);
                prop_assert!(!is_over_bins || other.bound.is_none(), "{:?}", other);
            }
        }
    }
}
