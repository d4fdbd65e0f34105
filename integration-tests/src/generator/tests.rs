//! The generator's own consistency: a judge that contradicts itself judges nobody.

use std::collections::BTreeSet;

use super::*;

fn calm(predictions: usize) -> Options {
    Options { predictions, shares: Shares::calm(), malformed_of_each: 0, ..Options::default() }
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let options = Options { predictions: 300, ..Options::default() };
    assert_eq!(generate(&options), generate(&options));
    assert_ne!(generate(&options), generate(&Options { seed: 2, ..options }));
}

#[test]
fn offsets_are_contiguous_and_the_partition_accounts_count_them() {
    let Generated { records, truth } = generate(&Options::default());
    for (&(topic, partition), account) in &truth.partitions {
        let offsets: Vec<i64> =
            records.iter().filter(|r| r.topic == topic && r.partition == partition).map(|r| r.offset).collect();
        assert_eq!(offsets, (0..account.records as i64).collect::<Vec<_>>());
    }
}

#[test]
fn a1_the_accounts_add_up() {
    for seed in 0..20 {
        let options = Options { seed, predictions: 500, ..Options::default() };
        let truth = generate(&options).truth;
        let accepted =
            |topic| truth.partitions.iter().filter(|((t, _), _)| *t == topic).map(|(_, p)| p.accepted).sum::<u64>();
        assert_eq!(accepted(Topic::Predictions), truth.windows.values().map(|w| w.accepted).sum::<u64>());
        assert_eq!(accepted(Topic::Labels), truth.labels.values().map(LabelTerms::total).sum::<u64>());
        for (key, w) in &truth.windows {
            assert_eq!(w.accepted, w.duplicate + w.failed + w.invalid + w.labelled + w.waiting, "{key:?}");
            let whole = &w.figures[&Slice::default()];
            assert_eq!((whole.n, whole.n_labelled), (w.labelled + w.waiting, w.labelled), "{key:?}");
        }
    }
}

#[test]
fn segments_and_versions_each_add_up_to_the_whole() {
    let options = Options::default();
    for ((model, _), window) in generate(&options).truth.windows {
        let whole = window.figures[&Slice::default()].n;
        let versions: u64 = window
            .figures
            .iter()
            .filter(|(slice, _)| slice.version.is_some() && slice.segment.is_none())
            .map(|(_, figures)| figures.n)
            .sum();
        assert_eq!(versions, whole);
        for (tag, _) in &options.model(&model).unwrap().tags {
            let of_tag =
                |slice: &Slice| slice.version.is_none() && slice.segment.as_ref().is_some_and(|(name, _)| name == tag);
            let segments: u64 = window.figures.iter().filter(|(slice, _)| of_tag(slice)).map(|(_, f)| f.n).sum();
            assert_eq!(segments, whole);
        }
    }
}

#[test]
fn every_fault_occurs_in_a_run_with_the_defaults() {
    let truth = generate(&Options::default()).truth;
    for topic in [Topic::Predictions, Topic::Labels] {
        let seen: BTreeSet<&str> = truth
            .partitions
            .iter()
            .filter(|((t, _), _)| *t == topic)
            .flat_map(|(_, account)| account.rejected.keys().copied())
            .collect();
        assert_eq!(seen, BTreeSet::from(REASONS));
    }
    let sum = |of: fn(&LabelTerms) -> u64| truth.labels.values().map(of).sum::<u64>();
    for count in [
        sum(|l| l.duplicate),
        sum(|l| l.withdrawn),
        sum(|l| l.joined),
        sum(|l| l.superseded),
        sum(|l| l.too_late),
        sum(|l| l.too_early),
        sum(|l| l.orphaned),
    ] {
        assert!(count > 0, "{:?}", truth.labels);
    }
    let sum = |of: fn(&WindowTruth) -> u64| truth.windows.values().map(of).sum::<u64>();
    for count in [sum(|w| w.duplicate), sum(|w| w.failed), sum(|w| w.invalid), sum(|w| w.labelled), sum(|w| w.waiting)]
    {
        assert!(count > 0, "{:?}", truth.windows);
    }
}

#[test]
fn a_calm_run_labels_every_prediction_once() {
    let Generated { records, truth } = generate(&calm(400));
    assert_eq!(records.len(), 800);
    assert!(truth.windows.values().all(|w| w.labelled == w.accepted));
    assert_eq!(truth.labels.values().map(|l| l.joined).sum::<u64>(), 400);
    let auc = truth.windows.iter().find(|((model, _), _)| model == "churn/é 1").unwrap().1.figures[&Slice::default()]
        .metrics["roc_auc"];
    assert!(auc.is_some_and(|auc| (0.7..0.95).contains(&auc)), "{auc:?}");
}

#[test]
fn t4_the_truth_does_not_depend_on_the_order_in_which_events_are_looked_at() {
    let options = Options { predictions: 400, malformed_of_each: 0, ..Options::default() };
    let mut rng = StdRng::seed_from_u64(options.seed);
    let (mut predictions, mut labels) = (Vec::new(), Vec::new());
    for (serial, event) in plan::events(&options, &mut rng).into_iter().enumerate() {
        let position = Position { partition: serial as i32 % 3, offset: serial as i64 / 3, index: 0 };
        match event.elements.into_iter().next().unwrap() {
            Element::Prediction(event) => predictions.push((position, event)),
            Element::Label(event) => labels.push((position, event)),
            Element::Rejected(_) => {}
        }
    }
    let forward = truth::judge(&options, &predictions, &labels);
    predictions.reverse();
    labels.reverse();
    assert_eq!(truth::judge(&options, &predictions, &labels), forward);
}

#[test]
fn accepted_payloads_are_the_json_of_their_events() {
    let Generated { records, truth } = generate(&Options { malformed_of_each: 0, ..Options::default() });
    let mut events = 0;
    for record in &records {
        let value: serde_json::Value = serde_json::from_slice(record.payload.as_ref().unwrap()).unwrap();
        events += value.as_array().map_or(1, Vec::len) as u64;
    }
    assert_eq!(events, truth.partitions.values().map(|p| p.accepted + p.rejected.values().sum::<u64>()).sum::<u64>());
}

/// Rules that are easy to get wrong, on events written by hand.
mod rules {
    use super::*;

    const T: i64 = 1_740_902_400_000_000;

    fn options() -> Options {
        Options { models: vec![ModelOptions::new("m", Task::Binary(["1", "0"]))], ..Options::default() }
    }

    fn at(offset: i64) -> Position {
        Position { partition: 0, offset, index: 0 }
    }

    fn prediction(version: &str, time_us: i64) -> PredictionEvent {
        PredictionEvent {
            model: "m".to_owned(),
            version: version.to_owned(),
            id: "a".to_owned(),
            time_us,
            prediction: Some(Value::Class("1".to_owned())),
            score: Some(0.9),
            probabilities: Vec::new(),
            error: None,
            tags: Vec::new(),
        }
    }

    fn label(time_us: i64, value: Option<&str>, hint_us: Option<i64>) -> LabelEvent {
        let label = value.map_or(Value::Null, |class| Value::Class(class.to_owned()));
        LabelEvent { model: "m".to_owned(), id: "a".to_owned(), time_us, label, hint_us }
    }

    fn check(predictions: Vec<PredictionEvent>, labels: Vec<LabelEvent>, terms: LabelTerms, current: &[Option<&str>]) {
        let place = |n: usize| at(n as i64);
        let predictions: Vec<_> = predictions.into_iter().enumerate().map(|(n, e)| (place(n), e)).collect();
        let labels: Vec<_> = labels.into_iter().enumerate().map(|(n, e)| (place(n), e)).collect();
        let truth = truth::judge(&options(), &predictions, &labels);
        assert_eq!(truth.labels["m"], terms);
        let found: Vec<Option<&str>> =
            truth.rows.iter().map(|row| row.current.as_ref().and_then(|(label, _)| label.label.class())).collect();
        assert_eq!(found, current);
    }

    #[test]
    fn the_last_label_wins_by_time_and_then_by_position() {
        let labels = vec![label(T + 9, Some("1"), None), label(T + 9, Some("0"), None), label(T + 5, Some("1"), None)];
        check(
            vec![prediction("1", T)],
            labels,
            LabelTerms { joined: 1, superseded: 2, ..LabelTerms::default() },
            &[Some("0")],
        );
    }

    #[test]
    fn a_withdrawal_is_not_undone_by_an_older_label() {
        let labels = vec![label(T + 9, None, None), label(T + 5, Some("1"), None)];
        check(
            vec![prediction("1", T)],
            labels,
            LabelTerms { withdrawn: 1, superseded: 1, ..LabelTerms::default() },
            &[None],
        );
    }

    #[test]
    fn a_label_reaches_both_versions_and_a_hint_only_its_window() {
        let hour = 3_600_000_000;
        let predictions = vec![prediction("1", T), prediction("2", T), prediction("1", T + hour)];
        let both = vec![label(T + hour, Some("0"), None)];
        let joined = LabelTerms { joined: 1, ..LabelTerms::default() };
        check(predictions.clone(), both, joined, &[Some("0"), Some("0"), Some("0")]);
        let hinted = vec![label(T + hour, Some("0"), Some(T + 5))];
        check(predictions.clone(), hinted, joined, &[Some("0"), Some("0"), None]);
        let astray = vec![label(T, Some("0"), Some(T - 1))];
        check(predictions, astray, LabelTerms { orphaned: 1, ..LabelTerms::default() }, &[None, None, None]);
    }

    #[test]
    fn the_bounds_of_eligibility_are_inside() {
        let horizon = 30 * 86_400_000_000;
        for (delay, terms) in [
            (-MAX_SKEW_US, LabelTerms { joined: 1, ..LabelTerms::default() }),
            (-MAX_SKEW_US - 1, LabelTerms { too_early: 1, ..LabelTerms::default() }),
            (horizon, LabelTerms { joined: 1, ..LabelTerms::default() }),
            (horizon + 1, LabelTerms { too_late: 1, ..LabelTerms::default() }),
        ] {
            let current = if terms.joined == 1 { [Some("1")] } else { [None] };
            check(vec![prediction("1", T)], vec![label(T + delay, Some("1"), None)], terms, &current);
        }
    }

    #[test]
    fn the_earliest_prediction_stands_and_not_the_first_to_arrive() {
        let predictions = [(at(0), prediction("1", T + 5)), (at(1), prediction("1", T)), (at(2), prediction("1", T))];
        let truth = truth::judge(&options(), &predictions, &[]);
        assert_eq!((truth.rows.len(), truth.rows[0].position), (1, at(1)));
        assert_eq!(truth.windows[&("m".to_owned(), T)].duplicate, 2);
    }
}
