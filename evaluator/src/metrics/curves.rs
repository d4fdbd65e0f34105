//! Curves of a score against a yes-or-no truth: few points, and the area of all.
//!
//! ```text
//! runs of equal scores, ascending ─► Stretches ─► roc, gain            trapezoids: a corner between two thresholds keeps the area
//!                                 ─► Steps ─────► precision_recall     steps: the mean precision of a stretch of recall keeps it
//! ```

use serde::{Deserialize, Serialize};

use super::{exact_sum::DoubledSum, mass::Mass, scores::Run};

/// Points of a curve at most. Fewer show less of its shape; the area is exact with any number.
pub const POINTS_MAX: usize = 200;
/// Stretches into which a curve is cut that has more thresholds: two points each, and one at the end, are within [`POINTS_MAX`].
const STRETCHES: usize = POINTS_MAX / 2 - 1;

/// One curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// `roc`, `precision_recall`, `gain` or `reliability`.
    pub name: String,
    /// By ascending x.
    pub points: Vec<Point>,
}

/// One point of a curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// False-positive rate, recall, share of rows, or mean score.
    pub x: f64,
    /// True-positive rate, precision, share of positives, or share of positives in the bin.
    pub y: f64,
    /// The score from which on rows are taken; of `reliability` the bin's lower edge. None at the origin and at corners.
    pub threshold: Option<f64>,
    /// Lower bound of y's 95 % interval: of `reliability`.
    pub low: Option<f64>,
    /// Upper bound.
    pub high: Option<f64>,
    /// What the bin's rows weigh: of `reliability`.
    pub weight: Option<f64>,
}

impl Point {
    fn on((x, y): (f64, f64), threshold: Option<f64>) -> Self {
        Self { x, y, threshold, low: None, high: None, weight: None }
    }
}

/// The curves whose points are thresholds.
///
/// # Formula
/// `roc`: true-positive rate by false-positive rate. `gain`: share of positives by share of rows. Straight lines between
/// points. `precision_recall`: precision by recall, a step to each point from the one before it.
///
/// Up to [`POINTS_MAX`] thresholds are all there (of `precision_recall`, those that find a further positive). Of more, `roc` and
/// `gain` are cut into stretches of equal length (in x + y) that begin and end at thresholds; between these lies one corner, placed
/// on the line from the middle of the chord to the corner of its box so that the area below is that of all thresholds. It stays
/// inside the box, so the curve still rises. `precision_recall` is cut into stretches of equal recall, each at its mean precision.
/// So the trapezoids below `roc` sum to `roc_auc`, and the steps of `precision_recall` to `average_precision`, to rounding.
/// # Inputs
/// All runs, by ascending score; both classes.
#[derive(Debug)]
pub struct Curves {
    positives: f64,
    negatives: f64,
    /// What lies at or above the threshold at hand, and the area below the ROC curve from its upper end to there, all in weights.
    above: Vertex,
    area: DoubledSum,
    /// The first [`POINTS_MAX`] thresholds, and how many there were.
    first: Vec<Vertex>,
    vertices: usize,
    roc: Stretches,
    gain: Stretches,
    steps: Steps,
}

/// What is taken from a threshold on, in weights. At the origin it is nothing, and the threshold is none.
#[derive(Debug, Clone, Copy, Default)]
struct Vertex {
    positives: f64,
    negatives: f64,
    threshold: Option<f64>,
}

impl Curves {
    /// Before the first run.
    pub fn new(positives: &Mass, negatives: &Mass) -> Self {
        let (positives, negatives) = (positives.weight(), negatives.weight());
        let all = positives + negatives;
        Self {
            positives,
            negatives,
            above: Vertex { positives, negatives, threshold: None },
            area: DoubledSum::default(),
            first: Vec::new(),
            vertices: 0,
            roc: Stretches::new(1.0 / positives, 1.0 / negatives),
            gain: Stretches::new(1.0 / positives + 1.0 / all, 1.0 / all),
            steps: Steps::new(positives),
        }
    }

    /// Adds the next run: at its score, rows are taken with this precision.
    #[inline]
    pub fn add(&mut self, run: &Run, precision: f64) {
        let vertex = Vertex { threshold: Some(run.score), ..self.above };
        self.vertices += 1;
        if self.first.len() < POINTS_MAX {
            self.first.push(vertex);
        }
        self.roc.pass(vertex, &self.area);
        self.gain.pass(vertex, &self.area);
        if run.positives > 0.0 {
            self.steps.push(vertex, run.positives, precision);
        }
        self.area.push(run.negatives * (self.above.positives - run.positives / 2.0));
        // Weights are no whole numbers: what is left of them must not be less than nothing.
        self.above.positives = (self.above.positives - run.positives).max(0.0);
        self.above.negatives = (self.above.negatives - run.negatives).max(0.0);
    }

    /// All of them; none if the labels are of one class.
    pub fn value(mut self) -> Vec<Curve> {
        if self.positives <= 0.0 || self.negatives <= 0.0 {
            return Vec::new();
        }
        let origin = Vertex::default();
        let (roc, gain) = if self.vertices < POINTS_MAX {
            self.first.push(origin);
            let points = |point: &dyn Fn(&Vertex) -> (f64, f64)| -> Vec<Point> {
                self.first.iter().map(|vertex| Point::on(point(vertex), vertex.threshold)).collect()
            };
            (points(&|vertex| self.on_roc(vertex)), points(&|vertex| self.on_gain(vertex)))
        } else {
            self.roc.end(origin, &self.area);
            self.gain.end(origin, &self.area);
            let (of_roc, of_gain) =
                (self.positives * self.negatives, self.positives * (self.positives + self.negatives));
            // Against all rows instead of negatives, a stretch has the positives' own triangle and rectangle besides.
            let own =
                |from: &Vertex, to: &Vertex| (from.positives - to.positives) * (from.positives + to.positives) / 2.0;
            (
                self.roc.points(|vertex| self.on_roc(vertex), |area, _, _| area / of_roc),
                self.gain.points(|vertex| self.on_gain(vertex), |area, from, to| (area + own(from, to)) / of_gain),
            )
        };
        let precision_recall = self.steps.points(self.positives);
        [("roc", roc), ("precision_recall", precision_recall), ("gain", gain)]
            .map(|(name, mut points): (_, Vec<Point>)| {
                points.reverse();
                Curve { name: name.to_owned(), points }
            })
            .to_vec()
    }

    fn on_roc(&self, vertex: &Vertex) -> (f64, f64) {
        (vertex.negatives / self.negatives, vertex.positives / self.positives)
    }

    fn on_gain(&self, vertex: &Vertex) -> (f64, f64) {
        let all = vertex.positives + vertex.negatives;
        (all / (self.positives + self.negatives), vertex.positives / self.positives)
    }
}

/// A curve of straight lines that comes from its upper end, (1, 1), and is cut where its way, which is 2 long, has gone on by another part.
///
/// Nothing is divided on the way: there are as many runs as rows.
#[derive(Debug)]
struct Stretches {
    /// The way to the origin, x + y, of a positive and of a negative.
    of_positive: f64,
    of_negative: f64,
    /// What is left of the way where the next stretch ends.
    next: f64,
    /// Ends of stretches, and the area from the upper end to there.
    ends: Vec<(Vertex, DoubledSum)>,
}

impl Stretches {
    fn new(of_positive: f64, of_negative: f64) -> Self {
        Self { of_positive, of_negative, next: f64::INFINITY, ends: Vec::new() }
    }

    #[inline]
    fn pass(&mut self, vertex: Vertex, area: &DoubledSum) {
        if vertex.positives * self.of_positive + vertex.negatives * self.of_negative <= self.next {
            self.end(vertex, area);
        }
    }

    fn end(&mut self, vertex: Vertex, area: &DoubledSum) {
        self.ends.push((vertex, *area));
        self.next = 2.0 - 2.0 * self.ends.len() as f64 / STRETCHES as f64;
    }

    /// From the upper end on: each end, and a corner between two, of which `share` makes the area below out of the ROC curve's in weights.
    fn points(
        &self,
        point: impl Fn(&Vertex) -> (f64, f64),
        share: impl Fn(f64, &Vertex, &Vertex) -> f64,
    ) -> Vec<Point> {
        let mut points = Vec::with_capacity(2 * self.ends.len());
        for (at, (end, area)) in self.ends.iter().enumerate() {
            let (x, y) = point(end);
            if let Some((before, area_before)) = at.checked_sub(1).map(|at| &self.ends[at]) {
                let (x_before, y_before) = point(before);
                let (wide, high) = (x_before - x, y_before - y);
                let beyond_chord = share(area.since(area_before), before, end) - wide * (y_before + y) / 2.0;
                // The corner of the box is half of it beyond the chord.
                let share = beyond_chord / (wide * high / 2.0);
                if share.is_finite() && share != 0.0 {
                    let corner = (x + wide * (1.0 - share) / 2.0, y + high * (1.0 + share) / 2.0);
                    points.push(Point::on((corner.0.clamp(x, x_before), corner.1.clamp(y, y_before)), None));
                }
            }
            points.push(Point::on((x, y), end.threshold));
        }
        points
    }
}

/// A curve of steps that comes from its upper end.
#[derive(Debug)]
struct Steps {
    /// The positives of a stretch, and of those that lie where the next one ends.
    wide: f64,
    next: f64,
    first: Vec<(Vertex, f64)>,
    vertices: usize,
    /// The upper end of each stretch, and its mean precision.
    ends: Vec<(Vertex, f64)>,
    /// The upper end of the stretch at hand, and the sum of its positives' precisions.
    open: Option<(Vertex, DoubledSum)>,
    /// The positives that lie below it.
    below: f64,
}

impl Steps {
    fn new(positives: f64) -> Self {
        let wide = positives / (POINTS_MAX - 1) as f64;
        let next = positives - wide;
        Self { wide, next, first: Vec::new(), vertices: 0, ends: Vec::new(), open: None, below: positives }
    }

    /// Adds a step that ends at the vertex.
    #[inline]
    fn push(&mut self, vertex: Vertex, positives: f64, precision: f64) {
        self.vertices += 1;
        if self.first.len() < POINTS_MAX {
            self.first.push((vertex, precision));
        }
        let (_, area) = self.open.get_or_insert((vertex, DoubledSum::default()));
        area.push(positives * precision);
        self.below = vertex.positives - positives;
        if self.below <= self.next {
            self.end_stretch();
        }
    }

    fn end_stretch(&mut self) {
        if let Some((end, area)) = self.open.take() {
            let wide = end.positives - self.below;
            self.ends.push((end, area.value() / wide));
            self.next = self.wide * ((POINTS_MAX - 2) as f64 - self.ends.len() as f64);
        }
    }

    fn points(&mut self, positives: f64) -> Vec<Point> {
        self.end_stretch();
        let vertices = if self.vertices <= POINTS_MAX { &self.first } else { &self.ends };
        let point = |(vertex, precision): &(Vertex, f64)| {
            Point::on((vertex.positives / positives, precision.min(1.0)), vertex.threshold)
        };
        vertices.iter().map(point).collect()
    }
}

/// A bin of the reliability curve.
pub(crate) fn reliability_point(
    lower_edge: f64,
    mean_score: f64,
    share: f64,
    (low, high): (f64, f64),
    weight: f64,
) -> Point {
    Point {
        x: mean_score,
        y: share,
        threshold: Some(lower_edge),
        low: Some(low),
        high: Some(high),
        weight: Some(weight),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::metrics::{Weight, scores::Scores};

    fn curves(rows: &[(f64, bool)]) -> (Vec<Curve>, crate::metrics::scores::ScoreMetrics) {
        let mut scores = Scores::default();
        for (score, is_positive) in rows {
            let rate = if *score > 0.9 { 0.3 } else { 1.0 };
            scores.push_weighted(*score, *is_positive, Weight::of_rate(Some(rate)));
        }
        let (metrics, curves) = scores.value_and_curves(true);
        (curves, metrics)
    }

    fn trapezoids(points: &[Point]) -> f64 {
        points.windows(2).map(|pair| (pair[1].x - pair[0].x) * (pair[0].y + pair[1].y) / 2.0).sum()
    }

    fn steps(points: &[Point]) -> f64 {
        let mut before = 0.0;
        let area = |point: &Point| {
            let width = point.x - before;
            before = point.x;
            width * point.y
        };
        points.iter().map(area).sum()
    }

    fn draws(n: usize, digits: f64) -> Vec<(f64, bool)> {
        let mut state = 11_u64;
        let mut draw = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        let row = |_| {
            let is_positive = draw() < 0.2;
            let score = (draw() + if is_positive { 0.4 } else { 0.0 }) / 1.4;
            ((score * digits).round() / digits, is_positive)
        };
        (0..n).map(row).collect()
    }

    #[test]
    fn hand_worked() {
        // scikit-learn's roc_curve and precision_recall_curve of its own example.
        let mut scores = Scores::default();
        for (score, is_positive) in [(0.1, false), (0.4, false), (0.35, true), (0.8, true)] {
            scores.push(score, is_positive);
        }
        let (_, curves) = scores.value_and_curves(true);
        let points = |name: &str| -> Vec<(f64, f64, Option<f64>)> {
            let curve = curves.iter().find(|curve| curve.name == name).expect("curve");
            curve.points.iter().map(|p| (p.x, p.y, p.threshold)).collect()
        };
        let roc = [
            (0.0, 0.0, None),
            (0.0, 0.5, Some(0.8)),
            (0.5, 0.5, Some(0.4)),
            (0.5, 1.0, Some(0.35)),
            (1.0, 1.0, Some(0.1)),
        ];
        assert_eq!(points("roc"), roc);
        assert_eq!(points("precision_recall"), [(0.5, 1.0, Some(0.8)), (1.0, 2.0 / 3.0, Some(0.35))]);
        let gain = [(0.0, 0.0), (0.25, 0.5), (0.5, 0.5), (0.75, 1.0), (1.0, 1.0)];
        assert_eq!(points("gain").iter().map(|(x, y, _)| (*x, *y)).collect::<Vec<_>>(), gain);
        let reliability = points("reliability");
        assert_eq!(reliability.len(), 3, "two rows share the tenth from 0.3 on: {reliability:?}");
        assert_eq!(reliability[1], (0.375, 0.5, Some(3.0 * 0.1)));
    }

    #[test]
    fn thinned_curves_keep_the_area_rise_and_are_short() {
        for (n, digits) in [(5_000, 1e9), (5_000, 250.0), (100_000, 1e9), (300, 1e9), (201, 1e9), (150, 1e9)] {
            let rows = draws(n, digits);
            let (curves, metrics) = curves(&rows);
            for curve in &curves {
                assert!(curve.points.len() <= POINTS_MAX, "{} of {n}: {}", curve.name, curve.points.len());
                assert!(n < 1000 || curve.name == "reliability" || curve.points.len() > 90, "{}", curve.name);
                assert!(curve.points.windows(2).all(|pair| pair[0].x <= pair[1].x), "{} of {n}", curve.name);
            }
            let of = |name: &str| &curves.iter().find(|curve| curve.name == name).expect("curve").points;
            assert!((trapezoids(of("roc")) - metrics.roc_auc.expect("defined").value).abs() < 1e-12, "{n}");
            assert!(
                (steps(of("precision_recall")) - metrics.average_precision.expect("defined").value).abs() < 1e-12,
                "{n}"
            );
            for name in ["roc", "gain"] {
                assert!(of(name).windows(2).all(|pair| pair[0].y <= pair[1].y), "{name} of {n} falls");
                let (first, last) = (of(name)[0], of(name)[of(name).len() - 1]);
                assert_eq!((first.x, first.y, last.x, last.y), (0.0, 0.0, 1.0, 1.0));
            }
            // The gain curve's area follows from the ROC curve's and the share of positives.
            let mass = |of: bool| {
                rows.iter().filter(|r| r.1 == of).map(|r| if r.0 > 0.9 { 1.0 / 0.3 } else { 1.0 }).sum::<f64>()
            };
            let share = mass(true) / (mass(true) + mass(false));
            let gain = share / 2.0 + (1.0 - share) * metrics.roc_auc.expect("defined").value;
            assert!((trapezoids(of("gain")) - gain).abs() < 1e-9, "{n}");
        }
    }

    #[test]
    fn every_threshold_of_a_thinned_curve_takes_the_rows_that_it_says() {
        let rows = draws(5_000, 1e9);
        let (curves, _) = curves(&rows);
        let mass = |of: bool, from: f64| -> f64 {
            rows.iter().filter(|r| r.1 == of && r.0 >= from).map(|r| if r.0 > 0.9 { 1.0 / 0.3 } else { 1.0 }).sum()
        };
        let (all_positives, all_negatives) = (mass(true, f64::MIN), mass(false, f64::MIN));
        for name in ["roc", "gain", "precision_recall"] {
            let curve = curves.iter().find(|curve| curve.name == name).expect("curve");
            let thresholds = curve.points.iter().filter_map(|point| Some((point, point.threshold?)));
            let mut count = 0;
            for (point, threshold) in thresholds {
                let (positives, negatives) = (mass(true, threshold), mass(false, threshold));
                let recall = positives / all_positives;
                let expected = match name {
                    "roc" => [negatives / all_negatives, recall],
                    "gain" => [(positives + negatives) / (all_positives + all_negatives), recall],
                    // The mean precision of a stretch ends at its recall.
                    _ => [recall, point.y],
                };
                assert!(
                    (point.x - expected[0]).abs() < 1e-9 && (point.y - expected[1]).abs() < 1e-9,
                    "{name} {point:?}"
                );
                count += 1;
            }
            assert!(count > 90, "{name}: {count}");
        }
    }

    #[test]
    fn e3_one_class_has_no_curve_but_reliability() {
        let (curves, _) = curves(&[(0.2, false), (0.3, false)]);
        assert_eq!(curves.iter().map(|curve| curve.name.as_str()).collect::<Vec<_>>(), ["reliability"]);
        assert!(self::curves(&[]).0.is_empty());
        let (margins, _) = self::curves(&[(-2.0, false), (3.0, true)]);
        assert!(margins.iter().all(|curve| curve.name != "reliability") && margins.len() == 3);
    }

    proptest! {
        #[test]
        fn any_scores_keep_their_areas(
            rows in prop::collection::vec((prop_oneof![0.0..1.0_f64, Just(0.5), Just(0.25)], any::<bool>()), 0..500),
        ) {
            let (curves, metrics) = curves(&rows);
            for curve in &curves {
                prop_assert!(curve.points.len() <= POINTS_MAX);
                match curve.name.as_str() {
                    "roc" => prop_assert!((trapezoids(&curve.points) - metrics.roc_auc.expect("two classes").value).abs() < 1e-12),
                    "precision_recall" => {
                        let exact = metrics.average_precision.expect("two classes").value;
                        prop_assert!((steps(&curve.points) - exact).abs() < 1e-12);
                    }
                    _ => {}
                }
                prop_assert!(curve.points.iter().all(|p| (0.0..=1.0).contains(&p.x) && (0.0..=1.0).contains(&p.y)));
            }
        }
    }
}
