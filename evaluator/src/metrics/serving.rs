//! How a model was served: requests, errors and latency, from every row of a window.

use super::{
    Estimate, ExactSum, Outcome, Report, Undefined,
    binned::{Limit, hold_to},
    interval::{Interval, Method, wilson},
    mass::{Mass, Weight},
    moments::{Moments, of_moments},
    scores::Side,
    sorted::{SortedBins, SortedValues},
    wire::{Reader, put_f64s, put_u64, put_u64s},
};

/// Name of the number of requests.
pub const REQUESTS: &str = "requests";
/// Name of requests a second, which whoever knows the window's length works out.
pub const REQUESTS_PER_SECOND: &str = "requests_per_second";
/// Name of the number of failed requests.
pub const ERROR_COUNT: &str = "error_count";
/// Name of their share.
pub const ERROR_RATE: &str = "error_rate";
/// Name of the 95 % quantile of latency.
pub const LATENCY_P95: &str = "latency_p95_ms";
/// The quantiles of latency, by name.
const QUANTILES: [(&str, f64); 4] =
    [("latency_p50_ms", 0.5), ("latency_p90_ms", 0.9), (LATENCY_P95, 0.95), ("latency_p99_ms", 0.99)];

/// Requests, those that failed, and every latency: eight bytes for each, sixteen where rows weigh differently.
///
/// # Formula
/// `requests` and `error_count`: Σ of sampling weights, so the number of rows where all stand for themselves. `error_rate`:
/// their ratio, with Wilson's interval on Kish's effective rows. `latency_mean_ms`: Hall's interval. Quantiles: NumPy's
/// `averaged_inverted_cdf` over all rows, with the order statistics around them. `latency_max_ms`: without an interval.
/// # Source
/// Hyndman & Fan (1996) for the quantiles' definition, Conover (1999) for their intervals, Wilson (1927).
/// # Inputs
/// Rows that failed count too, with their latency if they have one. A latency that is null or NaN is none; an infinite one is kept
/// inside the largest float.
/// # Returns
/// Without a request the rate is `no_rows`; without a latency its figures are `no_values` (`no_rows` without a request).
#[derive(Debug, Clone, Default)]
pub struct ServingState {
    requests: Mass,
    failed: Mass,
    latencies: Vec<f64>,
    /// The weight of each latency, or nothing if all stand for themselves.
    weights: Vec<Weight>,
    held: Option<Box<Held>>,
}

/// What a state with a limit has in the place of latencies.
#[derive(Debug, Clone, Default, PartialEq)]
struct Held {
    limit: Limit,
    latencies: Side,
    /// Of all latencies, in bins or not.
    moments: Moments,
    is_negative: bool,
}

impl PartialEq for ServingState {
    /// Equal as multisets: order is not part of the state.
    fn eq(&self, other: &Self) -> bool {
        let sorted = |state: &Self| {
            let weights = state.weights.iter().copied().chain(std::iter::repeat(Weight::ONE));
            let mut pairs: Vec<(u64, Weight)> = state.latencies.iter().map(|ms| ms.to_bits()).zip(weights).collect();
            pairs.sort_unstable();
            pairs
        };
        self.requests == other.requests
            && self.failed == other.failed
            && sorted(self) == sorted(other)
            && self.held == other.held
    }
}

impl ServingState {
    /// An empty state that keeps no more than this, as long as [`hold`](Self::hold) is called.
    pub fn held_to(limit: Limit) -> Self {
        Self { held: Some(Box::new(Held { limit, ..Held::default() })), ..Self::default() }
    }

    /// Puts latencies into bins, if there is a limit; `is_last`: no row follows.
    pub fn hold(&mut self, is_last: bool) {
        let Some(held) = self.held.as_deref_mut() else { return };
        let weights = std::mem::take(&mut self.weights).into_iter().chain(std::iter::repeat(Weight::ONE));
        for (latency, weight) in std::mem::take(&mut self.latencies).into_iter().zip(weights) {
            held.moments.push(latency, weight);
            held.is_negative |= latency < 0.0;
            held.latencies.push_score(latency, weight);
        }
        hold_to(&held.limit, &mut [&mut held.latencies], is_last);
    }

    /// Adds a request; `latency` in milliseconds.
    pub fn push(&mut self, has_failed: bool, latency: Option<f64>, weight: Weight) {
        self.requests.push(weight);
        if has_failed {
            self.failed.push(weight);
        }
        if let Some(latency) = latency {
            self.push_latency(latency, weight);
        }
    }

    /// Adds requests that stand for themselves, without their latencies.
    pub fn push_counts(&mut self, requests: u64, failed: u64) {
        self.requests.merge(&Mass::of_rows(requests));
        self.failed.merge(&Mass::of_rows(failed));
    }

    /// Adds the latency of a request that has been counted.
    #[inline]
    pub fn push_latency(&mut self, latency: f64, weight: Weight) {
        if latency.is_nan() {
            return;
        }
        if weight != Weight::ONE && self.weights.is_empty() {
            self.weights.resize(self.latencies.len(), Weight::ONE);
            self.weights.push(weight);
        } else if !self.weights.is_empty() {
            self.weights.push(weight);
        }
        self.latencies.push(latency.clamp(f64::MIN, f64::MAX));
    }

    /// Adds all requests of another state.
    pub fn merge(&mut self, other: &Self) {
        self.requests.merge(&other.requests);
        self.failed.merge(&other.failed);
        let before = self.latencies.len();
        self.latencies.extend_from_slice(&other.latencies);
        self.extend_weights(before, &other.weights);
        if let (Some(mine), Some(theirs)) = (&mut self.held, &other.held) {
            mine.latencies.merge(&theirs.latencies);
            mine.moments.merge(&theirs.moments);
            mine.is_negative |= theirs.is_negative;
        }
    }

    /// Every figure but [`REQUESTS_PER_SECOND`].
    pub fn report(mut self) -> Report {
        if let Some(held) = &mut self.held
            && held.latencies.bins().is_empty()
        {
            // Few enough to be judged as they are.
            (self.latencies, self.weights) = std::mem::take(&mut held.latencies).into_listed();
        }
        let mut report = Report::default();
        report.add(REQUESTS, None, Ok(Estimate::bare(self.requests.weight())));
        report.add(ERROR_COUNT, None, Ok(Estimate::bare(self.failed.weight())));
        report.add(ERROR_RATE, None, self.error_rate());
        let mut names = vec!["latency_mean_ms"];
        names.extend(QUANTILES.iter().map(|(name, _)| *name));
        names.push("latency_max_ms");
        if let Some(held) = self.held.take().filter(|held| !held.latencies.bins().is_empty()) {
            held.report(&mut report);
            return report;
        }
        if self.latencies.is_empty() {
            let reason = if self.requests.rows() == 0 { Undefined::NoRows } else { Undefined::NoValues };
            names.iter().for_each(|name| report.add(name, None, Err(reason)));
            return report;
        }
        report.add("latency_mean_ms", None, Ok(self.mean_latency()));
        let sorted = SortedValues::of(self.latencies, self.weights);
        for (name, quantile) in QUANTILES {
            report.add(name, None, Ok(sorted.quantile_estimate(quantile)));
        }
        let longest = sorted.values().last().copied().ok_or(Undefined::NoValues);
        report.add("latency_max_ms", None, longest.map(Estimate::bare));
        report
    }

    /// Memory held beyond the struct, bytes.
    pub fn size(&self) -> usize {
        (self.latencies.capacity() + self.weights.capacity()) * size_of::<f64>()
            + self.held.as_ref().map_or(0, |held| size_of::<Held>() + held.latencies.size())
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.requests.encode(out);
        self.failed.encode(out);
        put_f64s(out, &self.latencies);
        put_u64s(out, &self.weights.iter().map(|weight| weight.bits()).collect::<Vec<u64>>());
        if let Some(held) = &self.held {
            held.latencies.encode(out);
            held.moments.encode(out);
            put_u64(out, u64::from(held.is_negative));
        }
    }

    pub(crate) fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.requests.merge(&Mass::decode(reader)?);
        self.failed.merge(&Mass::decode(reader)?);
        let before = self.latencies.len();
        reader.extend_f64s(&mut self.latencies)?;
        let mut weights = Vec::new();
        reader.extend_u64s(&mut weights)?;
        self.extend_weights(before, &weights.into_iter().map(Weight::from_bits).collect::<Vec<_>>());
        if let Some(mine) = &mut self.held {
            mine.latencies.merge_encoded(reader)?;
            mine.moments.merge(&Moments::decode(reader)?);
            mine.is_negative |= reader.u64()? == 1;
        }
        Some(())
    }

    fn extend_weights(&mut self, before: usize, theirs: &[Weight]) {
        if self.weights.is_empty() && theirs.is_empty() {
            return;
        }
        self.weights.resize(before, Weight::ONE);
        self.weights.extend_from_slice(theirs);
        self.weights.resize(self.latencies.len(), Weight::ONE);
    }

    fn error_rate(&self) -> Outcome {
        if self.requests.rows() == 0 {
            return Err(Undefined::NoRows);
        }
        let value = self.failed.weight() / self.requests.weight();
        let rows = self.requests.effective_rows();
        let interval = Interval::new(wilson(value, rows), Method::Wilson).on_rows(rows).on_hits(value, rows);
        Ok(Estimate::bare(value).with_interval(interval))
    }

    /// Two passes, for the variance: latencies in milliseconds may be large beside their spread.
    fn mean_latency(&self) -> Estimate {
        let weighted = |of: &dyn Fn(f64) -> f64| -> f64 {
            let weights = self.weights.iter().copied().chain(std::iter::repeat(Weight::ONE));
            let sum: ExactSum = self.latencies.iter().zip(weights).map(|(ms, w)| w.value() * of(*ms)).collect();
            sum.value()
        };
        let mut mass = Mass::default();
        if self.weights.is_empty() {
            mass = Mass::of_rows(self.latencies.len() as u64);
        }
        self.weights.iter().for_each(|weight| mass.push(*weight));
        let (weight, rows) = (mass.weight(), mass.effective_rows());
        let mean = weighted(&|ms| ms) / weight;
        let variance = weighted(&|ms| (ms - mean).powi(2)) / weight;
        let skewness =
            if variance > 0.0 { weighted(&|ms| (ms - mean).powi(3)) / weight / variance.powf(1.5) } else { 0.0 };
        if mass.rows() < 2 || rows <= 1.0 || !variance.is_finite() || !skewness.is_finite() {
            return Estimate::bare(mean);
        }
        // A clock that went back makes a latency negative; then the mean may be too.
        let floor = if self.latencies.iter().all(|ms| *ms >= 0.0) { 0.0 } else { f64::NEG_INFINITY };
        let estimate = of_moments(mean, variance, skewness, rows, floor).with_rows(rows);
        Estimate { interval: estimate.interval.map(|interval| interval.on_skewness(skewness, rows)), ..estimate }
    }
}

impl Held {
    fn report(&self, report: &mut Report) {
        let floor = if self.is_negative { f64::NEG_INFINITY } else { 0.0 };
        report.add("latency_mean_ms", None, Ok(self.moments.mean_above(floor)));
        let sorted = SortedBins::of(self.latencies.bins().list());
        for (name, quantile) in QUANTILES {
            report.add(name, None, Ok(sorted.quantile_estimate(quantile)));
        }
        report.add(
            "latency_max_ms",
            None,
            sorted.ends().map(|(_, last)| Estimate::bare(last)).ok_or(Undefined::NoValues),
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::metrics::Warning;

    type Row = (bool, Option<f64>);

    fn state(rows: &[Row]) -> ServingState {
        let mut state = ServingState::default();
        for (has_failed, latency) in rows {
            // Which rows weigh more depends on the row alone.
            let rate = latency.map(|ms| if ms > 800.0 { 0.3 } else { 1.0 });
            state.push(*has_failed, *latency, Weight::of_rate(rate));
        }
        state
    }

    fn value(report: &Report, name: &str) -> Option<f64> {
        report.get(name).expect("every figure").value
    }

    #[test]
    fn hand_worked() {
        let mut rows: Vec<Row> = (1..=20).map(|ms| (false, Some(f64::from(ms)))).collect();
        rows.push((true, None));
        let report = state(&rows).report();
        for (name, expected) in [
            (REQUESTS, 21.0),
            (ERROR_COUNT, 1.0),
            (ERROR_RATE, 1.0 / 21.0),
            ("latency_mean_ms", 10.5),
            ("latency_p50_ms", 10.5),
            ("latency_p90_ms", 18.5),
            (LATENCY_P95, 19.5),
            ("latency_p99_ms", 20.0),
            ("latency_max_ms", 20.0),
        ] {
            assert_eq!(value(&report, name), Some(expected), "{name}");
        }
        // scipy.stats.binomtest(1, 21).proportion_ci(method="wilson")
        let rate = report.get(ERROR_RATE).expect("every figure");
        assert!((rate.ci_low.expect("rows") - 0.008455987809826385).abs() < 1e-12, "{rate:?}");
        assert!((rate.ci_high.expect("rows") - 0.22669360074122563).abs() < 1e-12, "{rate:?}");
        assert_eq!(rate.ci_warning, Some(Warning::FewRows), "it rests on a single failure");
        // Conover's table: of 20 rows the 6th and the 15th enclose the median; the 99 % quantile is beyond all.
        let median = report.get("latency_p50_ms").expect("every figure");
        assert_eq!((median.ci_low, median.ci_high), (Some(6.0), Some(15.0)));
        assert_eq!(report.get("latency_p99_ms").expect("every figure").ci_low, None);
    }

    #[test]
    fn e3_undefined_has_a_reason() {
        let nothing = state(&[]).report();
        assert_eq!((value(&nothing, REQUESTS), value(&nothing, ERROR_COUNT)), (Some(0.0), Some(0.0)));
        let reason = |report: &Report, name: &str| report.get(name).expect("every figure").reason;
        for name in [ERROR_RATE, "latency_mean_ms", LATENCY_P95, "latency_max_ms"] {
            assert_eq!(reason(&nothing, name), Some(Undefined::NoRows), "{name}");
        }
        let untimed = state(&[(false, None), (true, Some(f64::NAN))]).report();
        assert_eq!(
            (value(&untimed, ERROR_RATE), reason(&untimed, LATENCY_P95)),
            (Some(0.5), Some(Undefined::NoValues))
        );
        let one = state(&[(true, Some(7.0))]).report();
        assert_eq!((value(&one, ERROR_RATE), value(&one, "latency_p99_ms")), (Some(1.0), Some(7.0)));
        assert_eq!(one.get("latency_mean_ms").expect("every figure").ci_low, None);
        let endless = state(&[(false, Some(f64::INFINITY))]).report();
        assert_eq!(value(&endless, "latency_max_ms"), Some(f64::MAX));
    }

    #[test]
    fn a_row_of_weight_four_is_four_requests() {
        let (mut weighted, mut repeated) = (ServingState::default(), ServingState::default());
        for (has_failed, ms, times) in [(false, 5.0, 4), (true, 900.0, 1), (false, 20.0, 2), (true, 30.0, 4)] {
            weighted.push(has_failed, Some(ms), Weight::of_rate(Some(1.0 / f64::from(times))));
            (0..times).for_each(|_| repeated.push(has_failed, Some(ms), Weight::ONE));
        }
        let (weighted, repeated) = (weighted.report(), repeated.report());
        for (one, other) in weighted.metrics.iter().zip(&repeated.metrics) {
            let (a, b) = (one.value.expect("defined"), other.value.expect("defined"));
            assert!((a - b).abs() < 1e-9, "{one:?} {other:?}");
        }
        let width = |report: &Report| {
            let rate = report.get(ERROR_RATE).expect("every figure");
            rate.ci_high.expect("rows") - rate.ci_low.expect("rows")
        };
        assert!(width(&weighted) > width(&repeated), "the weight is no more rows than there are");
    }

    fn row() -> impl Strategy<Value = Row> {
        (any::<bool>(), prop::option::of(prop_oneof![0.0..1000.0_f64, Just(5.0), Just(f64::NAN), Just(-1.0)]))
    }

    proptest! {
        #[test]
        fn e1_serving_merges(rows in prop::collection::vec(row(), 0..60), cut in 0_usize..60) {
            let cut = cut.min(rows.len());
            let (mut left, right) = (state(&rows[..cut]), state(&rows[cut..]));
            let mut swapped = right.clone();
            let mut bytes = Vec::new();
            left.encode(&mut bytes);
            swapped.merge_encoded(&mut Reader::new(&bytes)).expect("whole state");
            left.merge(&right);
            prop_assert_eq!(&left, &swapped);
            prop_assert_eq!(&left, &state(&rows));
            prop_assert_eq!(left.report(), swapped.report());
        }
    }
}
