//! How often a score was right: isotonic regression on labelled rows, frozen with the reference.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{LossBins, rows::ClassRows};
use crate::metrics::{
    Undefined, Weight,
    scores::{Side, runs},
};

/// Blocks of a curve. Noise makes far fewer (some hundred of a million rows); where there are more, neighbours are joined two by two.
const BLOCKS_MAX: usize = 4_096;

/// What a reference says of rows whose label is not known yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Calibration {
    /// The positive class's share by score.
    Binary(Curve),
    /// Each class's share by its own probability.
    Multiclass(BTreeMap<String, Curve>),
    /// The losses by prediction.
    Regression(LossBins),
    /// Nothing: why.
    None(Undefined),
}

/// A share that does not fall as the score rises.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Ascending, one or more.
    blocks: Vec<Block>,
    /// Effective rows of the positive class.
    positives: f64,
    /// Effective rows of all others.
    negatives: f64,
}

/// Scores that share one value.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// The smallest score in it.
    pub low: f64,
    /// The largest.
    pub high: f64,
    /// The share of positives, by weight.
    pub share: f64,
    /// Effective rows.
    pub rows: f64,
}

/// Where a score lies on a curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// The block at or below it.
    pub block: usize,
    /// How far it is on the way to the next, in `[0, 1)`.
    pub onward: f64,
    /// The share there.
    pub share: f64,
}

/// A block under construction, by weights.
#[derive(Clone, Copy)]
struct Pool {
    low: f64,
    high: f64,
    positives: f64,
    weight: f64,
    squares: f64,
}

impl Pool {
    fn join(&mut self, next: &Self) {
        self.high = next.high;
        self.positives += next.positives;
        self.weight += next.weight;
        self.squares += next.squares;
    }
}

impl Curve {
    /// Fits the curve.
    ///
    /// # Formula
    /// The non-decreasing function with the least `Σ w (y − f(score))²`: neighbours that fall are pooled until none does.
    /// Between blocks it is linear, beyond the outer ones constant.
    /// # Source
    /// Ayer et al. (1955), pool adjacent violators; Zadrozny & Elkan (2002) for calibration; scikit-learn's
    /// `IsotonicRegression(out_of_bounds="clip")`, which this equals.
    /// # Inputs
    /// Sorted scores of either class.
    /// # Returns
    /// `no_labels` without rows, `one_class` unless both classes occur.
    pub fn fit(positives: &Side, negatives: &Side) -> Result<Self, Undefined> {
        let (of_positives, of_negatives) = (positives.mass(), negatives.mass());
        match (of_positives.rows(), of_negatives.rows()) {
            (0, 0) => return Err(Undefined::NoLabels),
            (0, _) | (_, 0) => return Err(Undefined::OneClass),
            _ => {}
        }
        let mut pools: Vec<Pool> = Vec::new();
        for run in runs(positives, negatives) {
            let mut pool = Pool {
                low: run.score,
                high: run.score,
                positives: run.positives,
                weight: run.positives + run.negatives,
                squares: run.positive_squares + run.negative_squares,
            };
            while let Some(before) = pools.last_mut()
                && before.positives * pool.weight >= pool.positives * before.weight
            {
                before.join(&pool);
                pool = *before;
                pools.pop();
            }
            pools.push(pool);
        }
        while pools.len() > BLOCKS_MAX {
            pools = pools
                .chunks(2)
                .map(|pair| {
                    let mut joined = pair[0];
                    pair[1..].iter().for_each(|next| joined.join(next));
                    joined
                })
                .collect();
        }
        let block = |pool: Pool| Block {
            low: pool.low,
            high: pool.high,
            share: pool.positives / pool.weight,
            rows: pool.weight * (pool.weight / pool.squares),
        };
        Ok(Self {
            blocks: pools.into_iter().map(block).collect(),
            positives: of_positives.effective_rows(),
            negatives: of_negatives.effective_rows(),
        })
    }

    /// The blocks, ascending.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Effective rows of the scarcer class.
    pub fn scarcest(&self) -> f64 {
        self.positives.min(self.negatives)
    }

    /// Whether a score lies beyond all that were seen.
    pub fn is_beyond(&self, score: f64) -> bool {
        self.blocks.first().is_none_or(|first| score < first.low)
            || self.blocks.last().is_none_or(|last| score > last.high)
    }

    /// Where a score lies. `from`: a block at or before it, which spares the search over ascending scores; it is moved on.
    pub fn place(&self, score: f64, from: &mut usize) -> Place {
        while self.blocks.get(*from + 1).is_some_and(|next| next.low <= score) {
            *from += 1;
        }
        let (block, at) = (*from, &self.blocks[*from]);
        let next = self.blocks.get(block + 1).filter(|_| score > at.high);
        let onward = next.map_or(0.0, |next| (score - at.high) / (next.low - at.high));
        // A gap that reaches to infinity has no middle.
        let onward = if (0.0..1.0).contains(&onward) { onward } else { 0.0 };
        let share = next.map_or(at.share, |next| at.share + onward * (next.share - at.share));
        Place { block, onward, share }
    }

    /// Where any score lies.
    pub fn find(&self, score: f64) -> Place {
        let mut from = self.blocks.partition_point(|block| block.low <= score).saturating_sub(1);
        self.place(score, &mut from)
    }

    /// The variance of each block's share.
    ///
    /// # Formula
    /// `p(1 − p)/n` with `p = (np̂ + 1)/(n + 2)`: a block in which all rows were alike is not sure of itself.
    /// # Source
    /// Agresti & Coull (1998), Approximate Is Better than "Exact", for the shift.
    pub fn variances(&self) -> Vec<f64> {
        let of = |block: &Block| {
            let share = (block.share * block.rows + 1.0) / (block.rows + 2.0);
            share * (1.0 - share) / block.rows
        };
        self.blocks.iter().map(of).collect()
    }
}

/// A curve for each class that occurs as a label, one against the rest. `rows`: their class is the label.
pub fn one_vs_rest(rows: &ClassRows) -> Result<BTreeMap<String, Curve>, Undefined> {
    let classes: Vec<&str> = rows.classes().into_iter().collect();
    if classes.is_empty() {
        return Err(if rows.counts().is_empty() { Undefined::NoLabels } else { Undefined::NoScores });
    }
    let table = rows.table(&classes);
    let mut curves = BTreeMap::new();
    for (at, class) in classes.iter().enumerate() {
        let (mut own, mut rest) = (Side::default(), Side::default());
        for row in 0..table.rows() {
            let weight: Weight = table.weights[row];
            let side = if table.class_of[row] == Some(at) { &mut own } else { &mut rest };
            side.push_score(table.row(row)[at], weight);
        }
        curves.insert((*class).to_owned(), Curve::fit(&own.sorted(), &rest.sorted())?);
    }
    Ok(curves)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn curve(rows: &[(f64, bool)]) -> Result<Curve, Undefined> {
        let (mut positives, mut negatives) = (Side::default(), Side::default());
        for (score, positive) in rows {
            if *positive { &mut positives } else { &mut negatives }.push_score(*score, Weight::ONE);
        }
        Curve::fit(&positives.sorted(), &negatives.sorted())
    }

    #[test]
    fn violators_are_pooled_and_gaps_are_bridged() {
        let curve =
            curve(&[(0.1, false), (0.2, true), (0.3, false), (0.5, true), (0.5, false), (0.9, true)]).expect("both");
        let shares: Vec<(f64, f64, f64, f64)> =
            curve.blocks().iter().map(|b| (b.low, b.high, b.share, b.rows)).collect();
        assert_eq!(shares, [(0.1, 0.1, 0.0, 1.0), (0.2, 0.5, 0.5, 4.0), (0.9, 0.9, 1.0, 1.0)]);
        for (score, share) in [(0.0, 0.0), (0.15, 0.25), (0.2, 0.5), (0.4, 0.5), (0.7, 0.75), (0.9, 1.0), (2.0, 1.0)] {
            assert!((curve.find(score).share - share).abs() < 1e-15, "{score}");
        }
        assert!(curve.is_beyond(0.05) && curve.is_beyond(0.95) && !curve.is_beyond(0.1) && !curve.is_beyond(0.9));
        assert!(curve.variances().iter().all(|variance| *variance > 0.0), "a pure block is not sure of itself");
    }

    #[test]
    fn e3_a_curve_needs_both_classes() {
        assert_eq!(curve(&[]), Err(Undefined::NoLabels));
        assert_eq!(curve(&[(0.5, true), (0.6, true)]), Err(Undefined::OneClass));
        assert_eq!(one_vs_rest(&ClassRows::default()), Err(Undefined::NoLabels));
        let mut unscored = ClassRows::default();
        unscored.push(Some("a"), &[], true, Weight::ONE);
        assert_eq!(one_vs_rest(&unscored), Err(Undefined::NoScores));
    }

    #[test]
    fn a_curve_has_a_bound() {
        // Each score's share is larger than the one before: no two are pooled.
        let (mut positives, mut negatives) = (Side::default(), Side::default());
        for at in 0..10_000_u32 {
            let share = f64::from(at + 1) / 10_002.0;
            positives.push_score(f64::from(at), Weight::of_rate(Some((1.0 / (1.0 + share)).min(0.999))));
            negatives.push_score(f64::from(at), Weight::of_rate(Some((1.0 / (2.0 - share)).min(0.999))));
        }
        let curve = Curve::fit(&positives.sorted(), &negatives.sorted()).expect("both");
        assert!(
            curve.blocks().len() <= BLOCKS_MAX && curve.blocks().len() > BLOCKS_MAX / 4,
            "{}",
            curve.blocks().len()
        );
        assert!(curve.blocks().windows(2).all(|pair| pair[0].share < pair[1].share && pair[0].high < pair[1].low));
    }

    proptest! {
        #[test]
        fn a_curve_never_falls_and_keeps_the_number_of_positives(
            rows in prop::collection::vec((0_u8..20, any::<bool>()), 2..80),
        ) {
            let rows: Vec<(f64, bool)> = rows.into_iter().map(|(score, positive)| (f64::from(score), positive)).collect();
            let Ok(curve) = curve(&rows) else { return Ok(()) };
            prop_assert!(curve.blocks().windows(2).all(|pair| pair[0].share < pair[1].share));
            let expected: f64 = rows.iter().map(|(score, _)| curve.find(*score).share).sum();
            let positives = rows.iter().filter(|(_, positive)| *positive).count() as f64;
            prop_assert!((expected - positives).abs() < 1e-9);
            // Walking up finds what searching finds.
            let mut from = 0;
            for half in 0..50_u32 {
                let score = f64::from(half) / 2.0 - 1.0;
                prop_assert_eq!(curve.place(score, &mut from), curve.find(score));
            }
        }
    }
}
