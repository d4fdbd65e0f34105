//! How long labels take: the arrival curve, with rows that still wait as censored.

use std::{collections::BTreeMap, sync::LazyLock};

use crate::metrics::{
    interval::Z_95,
    wire::{Reader, put_i64, put_u64},
};

/// Microseconds of a second.
const SECOND: i64 = 1_000_000;
/// After how many seconds the curve is published: 1 h, 6 h, 1, 3, 7, 14, 30 and 90 days.
pub const MARKS: [i64; 8] = [3_600, 21_600, 86_400, 259_200, 604_800, 1_209_600, 2_592_000, 7_776_000];
/// Where lags are counted exactly, seconds: the marks, and what lies before and after them.
const STEPS: [i64; 14] =
    [0, 1, 10, 60, 600, MARKS[0], MARKS[1], MARKS[2], MARKS[3], MARKS[4], MARKS[5], MARKS[6], MARKS[7], 31_536_000];
/// Bins between two steps. More show the median finer: from a second on, a bin ends at most a
/// twenty-fifth later than it begins.
const BINS_PER_STEP: usize = 64;
/// Instants that a window's waiting rows are told apart by; their age is known to this part of the window's length.
pub const PLACES: i64 = 1_024;

/// Upper edges of the bins of lags, microseconds, ascending; a mark is an edge. The first bin is that of no lag at all.
static EDGES: LazyLock<Vec<i64>> = LazyLock::new(|| {
    let mut edges = vec![0];
    for pair in STEPS.windows(2) {
        let (from, to) = (pair[0].max(1) * SECOND, pair[1] * SECOND);
        let from = if pair[0] == 0 { SECOND / 1_000 } else { from };
        let ratio = to as f64 / from as f64;
        for bin in 1..BINS_PER_STEP {
            edges.push((from as f64 * ratio.powf(bin as f64 / BINS_PER_STEP as f64)) as i64);
        }
        edges.push(to);
    }
    edges
});

/// Rows with their lags and, where they wait, their places.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arrivals {
    /// Labelled rows by bin of their lag.
    labelled: BTreeMap<u64, u64>,
    /// Rows without a label by their place in the window.
    waiting: BTreeMap<i64, u64>,
}

/// How labels have come.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrival {
    /// At each of [`MARKS`].
    pub marks: Vec<Mark>,
    /// Seconds until half of the rows have a label; none if that is not known yet, or never comes.
    pub median_seconds: Option<f64>,
}

/// How much has come after so long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mark {
    /// Seconds after the prediction.
    pub within_seconds: i64,
    /// The share of rows that have a label by then, with its 95 % interval; none where no row has been waited for so long.
    pub share: Option<(f64, f64, f64)>,
    /// Rows that were waited for so long, or have a label by then.
    pub known: u64,
}

impl Arrivals {
    /// Adds a row: the microseconds from its prediction to its label, or, if it has none, its place in the window, from 0 to
    /// [`PLACES`]. A label that is older than its prediction came at once.
    pub fn push(&mut self, lag: Option<i64>, place: i64) {
        match lag {
            Some(lag) => {
                let bin = EDGES.partition_point(|edge| *edge < lag);
                *self.labelled.entry(bin as u64).or_default() += 1;
            }
            None => *self.waiting.entry(place.clamp(0, PLACES)).or_default() += 1,
        }
    }

    /// Adds all rows of another state.
    pub fn merge(&mut self, other: &Self) {
        other.labelled.iter().for_each(|(bin, rows)| *self.labelled.entry(*bin).or_default() += rows);
        other.waiting.iter().for_each(|(place, rows)| *self.waiting.entry(*place).or_default() += rows);
    }

    /// Rows with a label.
    pub fn labelled(&self) -> u64 {
        self.labelled.values().sum()
    }

    /// Rows without.
    pub fn waiting(&self) -> u64 {
        self.waiting.values().sum()
    }

    /// The share of rows that have a label after each time.
    ///
    /// # Formula
    /// `1 − Π (1 − dᵢ / (nᵢ − cᵢ/2))` over bins of lags: d labels came in the bin, c rows were waited for no longer than it, n had neither
    /// behind them. The interval is Greenwood's on the scale of `ln(−ln S)`; without a label Clopper and Pearson's of none in n rows.
    /// # Source
    /// Kaplan & Meier (1958); the life-table form with half of a bin's censored rows: Cutler & Ederer (1958); Kalbfleisch & Prentice (2002),
    /// The Statistical Analysis of Failure Time Data, 1.4, for the interval.
    /// # Inputs
    /// `waited`: how long a row at this place of the window has been waited for, microseconds; none for ever, as in a window that is
    /// final.
    pub fn value(&self, waited: impl Fn(i64) -> Option<i64>) -> Arrival {
        let bins = EDGES.len() + 1;
        let (mut labels, mut censored) = (vec![0_u64; bins], vec![0_u64; bins]);
        for (bin, rows) in &self.labelled {
            labels[*bin as usize] += rows;
        }
        let mut for_ever = 0;
        for (place, rows) in &self.waiting {
            match waited(*place) {
                // Waited for not even up to its own prediction: nothing is known of it.
                Some(waited) if waited < 0 => {}
                Some(waited) => censored[EDGES.partition_point(|edge| *edge < waited)] += rows,
                None => for_ever += rows,
            }
        }
        let all = labels.iter().sum::<u64>() + censored.iter().sum::<u64>() + for_ever;
        let mut at_risk = all as f64;
        let (mut remaining, mut greenwood, mut arrived) = (1.0_f64, 0.0, 0_u64);
        let (mut marks, mut median, mut left) = (Vec::new(), None, all);
        for bin in 0..EDGES.len() {
            let (came, lost) = (labels[bin] as f64, censored[bin] as f64);
            let exposed = at_risk - lost / 2.0;
            let before = remaining;
            if came > 0.0 && exposed > 0.0 {
                remaining *= (1.0 - came / exposed).max(0.0);
                if exposed > came {
                    greenwood += came / (exposed * (exposed - came));
                }
            }
            if median.is_none() && remaining <= 0.5 {
                let low = if bin == 0 { 0 } else { EDGES[bin - 1] } as f64;
                let part = (before - 0.5) / (before - remaining);
                median = Some((low + part * (EDGES[bin] as f64 - low)) / SECOND as f64);
            }
            at_risk -= came + lost;
            arrived += labels[bin];
            left -= labels[bin] + censored[bin];
            if let Some(within_seconds) = MARKS.into_iter().find(|mark| mark * SECOND == EDGES[bin]) {
                let is_known = left > 0 || (all > 0 && remaining <= 0.0);
                let share = is_known.then(|| interval(remaining, greenwood, left));
                marks.push(Mark { within_seconds, share, known: arrived + left });
            }
        }
        Arrival { marks, median_seconds: median }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.labelled.len() as u64);
        for (bin, rows) in &self.labelled {
            put_u64(out, *bin);
            put_u64(out, *rows);
        }
        put_u64(out, self.waiting.len() as u64);
        for (place, rows) in &self.waiting {
            put_i64(out, *place);
            put_u64(out, *rows);
        }
    }

    pub(crate) fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        for _ in 0..reader.u64()? {
            let bin = reader.u64().filter(|bin| *bin <= EDGES.len() as u64)?;
            *self.labelled.entry(bin).or_default() += reader.u64()?;
        }
        for _ in 0..reader.u64()? {
            let place = reader.i64()?;
            *self.waiting.entry(place).or_default() += reader.u64()?;
        }
        Some(())
    }

    /// Memory held, bytes: at most some thousand entries.
    pub fn size(&self) -> usize {
        48 * (self.labelled.len() + self.waiting.len())
    }
}

/// The share that has come, with its bounds.
fn interval(remaining: f64, greenwood: f64, left: u64) -> (f64, f64, f64) {
    let share = 1.0 - remaining;
    if remaining >= 1.0 {
        return (0.0, 0.0, 1.0 - 0.025_f64.powf(1.0 / left.max(1) as f64));
    }
    if remaining <= 0.0 {
        return (1.0, 1.0, 1.0);
    }
    let spread = Z_95 * greenwood.sqrt() / remaining.ln().abs();
    let at = |by: f64| 1.0 - remaining.powf(by.exp());
    (share, at(-spread).min(share), at(spread).max(share))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: i64 = 3_600 * SECOND;
    const DAY: i64 = 24 * HOUR;

    fn mark(arrival: &Arrival, seconds: i64) -> Mark {
        *arrival.marks.iter().find(|mark| mark.within_seconds == seconds).expect("published")
    }

    #[test]
    fn marks_are_edges_and_bins_are_narrow() {
        assert!(EDGES.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(MARKS.iter().all(|mark| EDGES.binary_search(&(mark * SECOND)).is_ok()));
        let wide = EDGES.windows(2).filter(|pair| pair[0] >= SECOND);
        assert!(wide.into_iter().all(|pair| pair[1] as f64 / pair[0] as f64 - 1.0 < 1.0 / 25.0));
    }

    #[test]
    fn without_censoring_it_is_the_share() {
        let mut arrivals = Arrivals::default();
        for (rows, lag) in [(3, Some(30 * 60 * SECOND)), (1, Some(HOUR)), (2, Some(HOUR + 1)), (4, None)] {
            (0..rows).for_each(|_| arrivals.push(lag, 0));
        }
        let arrival = arrivals.value(|_| None);
        let share = |seconds: i64| mark(&arrival, seconds).share.map(|(share, _, _)| share);
        assert!((share(3_600).expect("known") - 0.4).abs() < 1e-12, "a label on the mark has come by then");
        assert!((share(86_400).expect("known") - 0.6).abs() < 1e-12);
        assert_eq!(mark(&arrival, 86_400).known, 10);
        assert!(arrival.median_seconds.is_some_and(|median| (3_600.0..3_900.0).contains(&median)));
        // statsmodels' or lifelines' log-log interval of S = .6, n = 10: Greenwood .4/(10·.6).
        let (_, low, high) = mark(&arrival, 3_600).share.expect("known");
        let spread = 1.959963984540054 * (0.4_f64 / (10.0 * 0.6)).sqrt() / 0.6_f64.ln().abs();
        assert!((low - (1.0 - 0.6_f64.powf((-spread).exp()))).abs() < 1e-9);
        assert!((high - (1.0 - 0.6_f64.powf(spread.exp()))).abs() < 1e-9);
    }

    #[test]
    fn rows_that_were_waited_for_briefly_do_not_count_as_late() {
        // Ten rows whose labels come after two hours, and ten that were predicted an hour ago.
        let mut arrivals = Arrivals::default();
        (0..10).for_each(|_| arrivals.push(Some(2 * HOUR), 0));
        (0..10).for_each(|_| arrivals.push(None, PLACES));
        let arrival = arrivals.value(|place| Some(if place == PLACES { HOUR - SECOND } else { DAY }));
        assert_eq!(mark(&arrival, 3_600).share.map(|(share, _, _)| share), Some(0.0));
        assert_eq!(mark(&arrival, 21_600).share.map(|(share, _, _)| share), Some(1.0), "not a half");
        assert_eq!(mark(&arrival, 21_600).known, 10);
    }

    #[test]
    fn what_nobody_has_waited_for_is_not_known() {
        let mut arrivals = Arrivals::default();
        (0..5).for_each(|_| arrivals.push(Some(HOUR / 2), 0));
        (0..5).for_each(|_| arrivals.push(None, 0));
        let arrival = arrivals.value(|_| Some(2 * HOUR));
        assert!(mark(&arrival, 3_600).share.is_some_and(|(share, _, _)| (share - 0.5).abs() < 1e-12));
        assert_eq!(mark(&arrival, 21_600).share, None);
        let nothing = Arrivals::default().value(|_| None);
        assert!(nothing.marks.iter().all(|mark| mark.share.is_none()) && nothing.median_seconds.is_none());
        let mut ahead = Arrivals::default();
        ahead.push(None, 0);
        assert!(ahead.value(|_| Some(-1)).marks.iter().all(|mark| mark.share.is_none() && mark.known == 0));
        ahead.push(Some(-HOUR), 0);
        let at_once = ahead.value(|_| Some(-1));
        assert_eq!(mark(&at_once, 3_600).share.map(|(share, _, _)| share), Some(1.0));
    }

    #[test]
    fn the_curve_of_a_young_window_is_that_of_an_old_one() {
        // Exponential lags with a mean of a day; rows come over a day, and are looked at half a day after its end.
        let mut random = 9_u64;
        let mut draw = || {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((random >> 11) as f64 + 1.0) / (1_u64 << 53) as f64
        };
        let (mut arrivals, mut naive) = (Arrivals::default(), 0.0);
        let count = 40_000;
        for _ in 0..count {
            let place = (draw() * PLACES as f64) as i64;
            let waited = DAY / 2 + DAY * (PLACES - place) / PLACES;
            let lag = (-draw().ln() * DAY as f64) as i64;
            arrivals.push((lag <= waited).then_some(lag), place);
            naive += f64::from(u8::from(lag <= waited && lag <= DAY)) / f64::from(count);
        }
        let arrival = arrivals.value(|place| Some(DAY / 2 + DAY * (PLACES - place) / PLACES));
        let (share, low, high) = mark(&arrival, 86_400).share.expect("known");
        let truth = 1.0 - (-1.0_f64).exp();
        assert!(low < truth && truth < high && high - low < 0.02, "{low} {share} {high}");
        assert!(naive < truth - 0.05, "{naive} is biased");
        assert!(arrival.median_seconds.is_some_and(|median| (median / 86_400.0 - 2.0_f64.ln()).abs() < 0.02));
    }

    #[test]
    fn rows_that_were_waited_for_to_within_a_labels_bin_count_for_half() {
        let mut arrivals = Arrivals::default();
        arrivals.push(Some(HOUR / 2), 0);
        (0..2).for_each(|_| arrivals.push(None, 0));
        (0..3).for_each(|_| arrivals.push(None, 1));
        let arrival = arrivals.value(|place| Some(if place == 0 { HOUR / 2 } else { 10 * DAY }));
        // One of 6 − 2/2.
        assert!(mark(&arrival, 3_600).share.is_some_and(|(share, _, _)| (share - 0.2).abs() < 1e-12), "{arrival:?}");
    }

    #[test]
    fn the_median_lies_in_its_bin_where_half_of_the_rows_are() {
        let mut arrivals = Arrivals::default();
        (0..4).for_each(|_| arrivals.push(Some(HOUR / 2), 0));
        let bin = EDGES.partition_point(|edge| *edge < HOUR / 2);
        let middle = (EDGES[bin - 1] + EDGES[bin]) as f64 / 2.0 / SECOND as f64;
        let median = arrivals.value(|_| None).median_seconds.expect("all have come");
        assert!((median - middle).abs() < 1e-6, "{median} is not {middle}");
    }

    proptest! {
        #[test]
        fn e1_arrivals_merge(
            rows in prop::collection::vec((prop::option::of(-10_i64..40_000_000_000_000), 0_i64..1_100), 0..60),
            cut in 0_usize..60,
        ) {
            let of = |rows: &[(Option<i64>, i64)]| {
                let mut state = Arrivals::default();
                rows.iter().for_each(|(lag, place)| state.push(*lag, *place));
                state
            };
            let cut = cut.min(rows.len());
            let (left, right, all) = (of(&rows[..cut]), of(&rows[cut..]), of(&rows));
            let mut merged = left.clone();
            merged.merge(&right);
            prop_assert_eq!(&merged, &all);
            let mut bytes = Vec::new();
            left.encode(&mut bytes);
            let mut decoded = right.clone();
            prop_assert!(decoded.merge_encoded(&mut Reader::new(&bytes)).is_some());
            prop_assert_eq!(&decoded, &all);
            prop_assert_eq!(all.labelled() + all.waiting(), rows.len() as u64);
            for mark in all.value(|_| Some(20_000_000_000_000)).marks {
                if let Some((share, low, high)) = mark.share {
                    prop_assert!(0.0 <= low && low <= share && share <= high && high <= 1.0);
                }
            }
        }
    }
}
