//! How well the rows of one query are ranked.

use super::wire::{Reader, put_u64s};

/// The metrics of a query, in published order.
pub const METRICS: usize = 5;

/// The names of the metrics to rank k.
pub fn names(k: usize) -> [String; METRICS] {
    [
        format!("ndcg_at_{k}"),
        "mean_reciprocal_rank".to_owned(),
        format!("map_at_{k}"),
        format!("hit_rate_at_{k}"),
        format!("recall_at_{k}"),
    ]
}

/// The rows of one query: score and relevance of each, sixteen bytes a row.
///
/// # Formula
/// Rows by falling score; a row is relevant if its relevance is above 0, R rows are.
/// NDCG@k: `Σᵢ relᵢ / log₂(i + 1)` over the first k, over the same of the best order; rows of equal score share the mean of their
/// places. Reciprocal rank: of the first relevant row. AP@k: `Σᵢ P(i)` over relevant rows among the first k, over `min(R, k)`.
/// Hit rate@k: whether a relevant row is among the first k. Recall@k: the share of relevant rows among the first k.
/// Among equal scores relevant rows come last, but for NDCG: an order that the model did not give earns nothing.
/// # Source
/// Järvelin & Kekäläinen (2002), with the linear gain; McSherry & Najork (2008) for ties, as scikit-learn's `ndcg_score`; Voorhees (1999).
/// # Inputs
/// A row whose score or relevance is NaN is left out.
/// # Returns
/// `None` for a query without a relevant row, of which nothing can be found, and for one with a relevance below 0.
#[derive(Debug, Clone, Default)]
pub struct RankedQuery {
    /// Bits of score and relevance.
    rows: Vec<[u64; 2]>,
}

impl PartialEq for RankedQuery {
    /// Equal as multisets.
    fn eq(&self, other: &Self) -> bool {
        let sorted = |query: &Self| {
            let mut rows = query.rows.clone();
            rows.sort_unstable();
            rows
        };
        sorted(self) == sorted(other)
    }
}

impl RankedQuery {
    /// Adds a row.
    pub fn push(&mut self, score: f64, relevance: f64) {
        if !score.is_nan() && !relevance.is_nan() {
            // No negative zero: equal rows have equal bits.
            self.rows.push([(score + 0.0).to_bits(), (relevance + 0.0).to_bits()]);
        }
    }

    /// Adds all rows of another state.
    pub fn merge(&mut self, other: &Self) {
        self.rows.extend_from_slice(&other.rows);
    }

    /// The metrics, in the order of [`names`].
    pub fn value(&self, k: usize) -> Option<[f64; METRICS]> {
        let mut rows: Vec<(f64, f64)> =
            self.rows.iter().map(|[score, relevance]| (f64::from_bits(*score), f64::from_bits(*relevance))).collect();
        let relevant = rows.iter().filter(|(_, relevance)| *relevance > 0.0).count();
        if relevant == 0 || rows.iter().any(|(_, relevance)| *relevance < 0.0) {
            return None;
        }
        rows.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.total_cmp(&b.1)));
        let (mut first, mut found, mut precisions) = (None, 0_usize, 0.0);
        for (place, (_, relevance)) in rows.iter().enumerate() {
            if *relevance > 0.0 {
                first = first.or(Some(place + 1));
                if place < k {
                    found += 1;
                    precisions += found as f64 / (place + 1) as f64;
                }
            }
        }
        let best = {
            let mut gains: Vec<f64> = rows.iter().map(|(_, relevance)| *relevance).collect();
            gains.sort_unstable_by(|a, b| b.total_cmp(a));
            gains.iter().take(k).enumerate().map(|(place, gain)| gain * discount(place)).sum::<f64>()
        };
        Some([
            discounted(&rows, k) / best,
            1.0 / first? as f64,
            precisions / relevant.min(k) as f64,
            f64::from(u8::from(found > 0)),
            found as f64 / relevant as f64,
        ])
    }

    /// Memory held beyond the struct, bytes.
    pub fn size(&self) -> usize {
        self.rows.capacity() * size_of::<[u64; 2]>()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64s(out, self.rows.as_flattened());
    }

    pub(crate) fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let mut words = Vec::new();
        reader.extend_u64s(&mut words)?;
        let (rows, rest) = words.as_chunks::<2>();
        self.rows.extend_from_slice(rows);
        rest.is_empty().then_some(())
    }
}

/// What a place (from 0) is worth.
fn discount(place: usize) -> f64 {
    1.0 / ((place + 2) as f64).log2()
}

/// The gain of the first k places; rows of equal score have the mean gain of their run at each of its places.
fn discounted(rows: &[(f64, f64)], k: usize) -> f64 {
    let mut gain = 0.0;
    let mut place = 0;
    for run in rows.chunk_by(|a, b| a.0 == b.0) {
        let mean = run.iter().map(|(_, relevance)| relevance).sum::<f64>() / run.len() as f64;
        let places = place..(place + run.len()).min(k.max(place));
        gain += mean * places.map(discount).sum::<f64>();
        place += run.len();
    }
    gain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query(rows: &[(f64, f64)]) -> RankedQuery {
        let mut query = RankedQuery::default();
        rows.iter().for_each(|(score, relevance)| query.push(*score, *relevance));
        query
    }

    #[test]
    fn hand_worked() {
        // Relevant at ranks 2, 3 and 5 of five; to rank 3.
        let rows = [(0.9, 0.0), (0.8, 1.0), (0.7, 2.0), (0.6, 0.0), (0.5, 1.0)];
        let [ndcg, reciprocal, map, hit, recall] = query(&rows).value(3).expect("relevant rows");
        let log = |i: f64| 1.0 / i.log2();
        let best = 2.0 + log(3.0) + log(4.0);
        assert!((ndcg - (log(3.0) + 2.0 * log(4.0)) / best).abs() < 1e-15, "{ndcg}");
        assert_eq!((reciprocal, hit, recall), (0.5, 1.0, 2.0 / 3.0));
        assert!((map - (0.5 + 2.0 / 3.0) / 3.0).abs() < 1e-15, "{map}");
        // Beyond k there is a relevant row all the same.
        let late = query(&[(0.9, 0.0), (0.8, 0.0), (0.7, 1.0)]).value(2).expect("a relevant row");
        assert_eq!(late, [0.0, 1.0 / 3.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn an_order_that_was_not_given_earns_nothing() {
        let [ndcg, reciprocal, map, hit, recall] = query(&[(0.5, 1.0), (0.5, 0.0), (0.5, 0.0)]).value(1).expect("one");
        assert!((ndcg - 1.0 / 3.0).abs() < 1e-15, "the mean over the orders: {ndcg}");
        assert_eq!((reciprocal, map, hit, recall), (1.0 / 3.0, 0.0, 0.0, 0.0));
    }

    #[test]
    fn e3_nothing_to_find_has_no_value() {
        assert_eq!(query(&[]).value(5), None);
        assert_eq!(query(&[(0.5, 0.0), (0.3, 0.0)]).value(5), None);
        assert_eq!(query(&[(0.5, 1.0), (0.3, -1.0)]).value(5), None);
        assert_eq!(query(&[(f64::NAN, 1.0), (0.3, f64::NAN)]).value(5), None);
        assert_eq!(query(&[(0.1, 1.0)]).value(5), Some([1.0; METRICS]));
    }

    proptest! {
        #[test]
        fn e1_queries_merge(
            rows in prop::collection::vec((prop_oneof![0.0..1.0_f64, Just(0.5)], 0.0..3.0_f64), 0..40), cut in 0_usize..40,
        ) {
            let cut = cut.min(rows.len());
            let (mut left, right) = (query(&rows[..cut]), query(&rows[cut..]));
            let mut swapped = right.clone();
            let mut bytes = Vec::new();
            left.encode(&mut bytes);
            swapped.merge_encoded(&mut Reader::new(&bytes)).expect("whole state");
            left.merge(&right);
            prop_assert_eq!(&left, &swapped);
            prop_assert_eq!(&left, &query(&rows));
            prop_assert_eq!(left.value(5), swapped.value(5));
            if let Some(metrics) = left.value(5) {
                prop_assert!(metrics.iter().all(|metric| (0.0..=1.0 + 1e-12).contains(metric)), "{metrics:?}");
            }
        }
    }
}
