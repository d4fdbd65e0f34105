"""Makes estimates.json: what scikit-learn makes of calibrated probabilities, each row taken twice. From the repository's root:

    scripts/python.sh evaluator/golden/make_estimates.py

A row that is positive with probability p is p of a positive row and 1 - p of a negative one; the estimated metrics are scikit-learn's on
these, with their shares as weights. check_nannyml.py beside this holds NannyML itself against the same values.
"""

import json
import platform
from pathlib import Path

import numpy as np
import sklearn
from sklearn import metrics as m
from sklearn.isotonic import IsotonicRegression

HERE = Path(__file__).parent
VERSIONS = {"python": platform.python_version(), "numpy": np.__version__, "scikit-learn": sklearn.__version__}


def floats(values):
    return [float(v) for v in values]


def calibrator(score, label, weight):
    return IsotonicRegression(out_of_bounds="clip", increasing=True).fit(score, label, sample_weight=weight)


def expected_of_binary(score, predicted, p, weight):
    y = np.r_[np.ones(len(p)), np.zeros(len(p))]
    w = np.r_[weight * p, weight * (1 - p)]
    said, scores = np.r_[predicted, predicted], np.r_[score, score]
    kept = w > 0
    y, w, said, scores = y[kept], w[kept], said[kept], scores[kept]
    total = w.sum()
    both, any_positive, any_negative = len(set(y)) == 2, (y == 1).any(), (y == 0).any()
    of = dict(sample_weight=w)
    cell = lambda truth, prediction: w[(y == truth) & (said == prediction)].sum() / total
    return {
        "accuracy": m.accuracy_score(y, said, **of),
        "precision": m.precision_score(y, said, **of) if said.any() else None,
        "recall": m.recall_score(y, said, **of) if any_positive else None,
        "specificity": m.recall_score(y, said, pos_label=0, **of) if any_negative else None,
        "f1": m.f1_score(y, said, **of) if any_positive or said.any() else None,
        "roc_auc": m.roc_auc_score(y, scores, **of) if both else None,
        "average_precision": m.average_precision_score(y, scores, **of) if any_positive else None,
        "true_positive_share": cell(1, 1),
        "false_positive_share": cell(0, 1),
        "false_negative_share": cell(1, 0),
        "true_negative_share": cell(0, 0),
    }


def binary_case(name, reference, window, threshold=0.5):
    score, label, rate = reference
    scores, rates = window
    fitted = calibrator(score, label, 1 / rate)
    p = fitted.predict(scores)
    predicted = (scores >= threshold).astype(int)
    expected = expected_of_binary(scores, predicted, p, 1 / rates)
    return {
        "name": name,
        "reference": {"score": floats(score), "label": [int(v) for v in label], "rate": floats(rate)},
        "score": floats(scores),
        "rate": floats(rates),
        "threshold": threshold,
        "expected": {k: None if v is None else float(v) for k, v in expected.items()},
    }


def binary():
    rng = np.random.default_rng(20261128)

    def draw(n, power=2.0):
        score = np.round(rng.random(n), 4)
        return score, (rng.random(n) < 0.9 * score**power).astype(int)

    ones = np.ones
    margins = lambda p: np.round(np.log((p + 0.001) / (1.001 - p)), 6)
    score, label = draw(600)
    window = np.round(rng.beta(2, 2, 300), 6)
    rounded, of_rounded = np.round(score, 1), label
    cases = [
        binary_case("smooth", (score, label, ones(600)), (window, ones(300))),
        binary_case("threshold", (score, label, ones(600)), (window, ones(300)), threshold=0.2),
        binary_case("ties", (rounded, of_rounded, ones(600)), (np.round(window, 1), ones(300))),
        binary_case("between_blocks", (rounded, of_rounded, ones(600)), (window, ones(300))),
        binary_case("beyond_the_reference", (np.round(score * 0.5 + 0.25, 4), label, ones(600)), (window, ones(300))),
        binary_case("nothing_predicted", (score, label, ones(600)), (np.round(window * 0.4, 6), ones(300))),
        binary_case("one_row", (score, label, ones(600)), (np.array([0.7]), ones(1))),
        binary_case("surely_negative", (np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1]), ones(4)), (np.array([0.05, 0.1, 0.15]), ones(3))),
        binary_case("weighted", (score, label, rng.choice([0.25, 0.5, 1.0], 600)), (window, rng.choice([0.125, 0.5, 1.0], 300))),
        binary_case("margins", (margins(score), label, ones(600)), (margins(window), ones(300)), threshold=0.0),
    ]
    return cases


def multiclass_case(name, reference, window, classes):
    p_reference, label = reference
    p_window, predicted = window
    calibrated = np.column_stack(
        [calibrator(p_reference[:, i], label == i, np.ones(len(label))).predict(p_window[:, i]) for i in range(len(classes))]
    )
    sums = calibrated.sum(axis=1, keepdims=True)
    calibrated = np.where(sums > 0, calibrated / np.where(sums > 0, sums, 1), p_window)
    n, k = calibrated.shape
    y, w = np.tile(np.arange(k), n), calibrated.ravel()
    said = np.repeat(predicted, k)
    of = dict(sample_weight=w, labels=range(k), average="macro", zero_division=0)
    each = dict(sample_weight=w, labels=range(k), average=None, zero_division=0)
    by_class = {
        metric: dict(zip(classes, of_metric(y, said, **each).tolist()))
        for metric, of_metric in [("precision", m.precision_score), ("recall", m.recall_score), ("f1", m.f1_score)]
    }
    areas = []
    for i in range(k):
        truth, weight = np.r_[np.ones(n), np.zeros(n)], np.r_[calibrated[:, i], 1 - calibrated[:, i]]
        areas.append(m.roc_auc_score(truth, np.r_[p_window[:, i], p_window[:, i]], sample_weight=weight))
    return {
        "name": name,
        "classes": classes,
        "reference": {"probabilities": p_reference.tolist(), "label": [classes[i] for i in label]},
        "probabilities": p_window.tolist(),
        "prediction": [classes[i] for i in predicted],
        "expected": {
            "accuracy": float(m.accuracy_score(y, said, sample_weight=w)),
            "precision_macro": float(m.precision_score(y, said, **of)),
            "recall_macro": float(m.recall_score(y, said, **of)),
            "f1_macro": float(m.f1_score(y, said, **of)),
            "roc_auc_macro": float(np.mean(areas)),
        },
        "by_class": by_class | {"roc_auc": dict(zip(classes, map(float, areas)))},
    }


def multiclass():
    rng = np.random.default_rng(11)
    classes = ["bird", "cat", "dog"]

    def draw(n):
        p = np.round(rng.dirichlet([0.8, 1.0, 1.2], n), 4)
        truth = p**1.5 / (p**1.5).sum(axis=1, keepdims=True)
        return p, np.array([rng.choice(3, p=row) for row in truth])

    reference = draw(500)
    window = draw(200)[0]
    rounded = np.round(window, 1)
    return [
        multiclass_case("most_probable", reference, (window, window.argmax(axis=1)), classes),
        multiclass_case("own_predictions", reference, (window, rng.integers(0, 3, 200)), classes),
        multiclass_case("ties", reference, (rounded, rounded.argmax(axis=1)), classes),
    ]


def regression_case(name, reference, window, bins_max=20, rows_per_bin=50):
    prediction, label = reference
    order = np.sort(prediction)
    bins = int(np.clip(len(order) // rows_per_bin, 1, bins_max))
    edges = np.unique([order[b * len(order) // bins - 1] for b in range(1, bins)])
    edges = edges[edges < order[-1]]
    of_reference, of_window = np.searchsorted(edges, prediction), np.searchsorted(edges, window)
    error = np.abs(prediction - label)
    absolute = np.array([error[of_reference == b].mean() for b in range(len(edges) + 1)])
    squared = np.array([(error[of_reference == b] ** 2).mean() for b in range(len(edges) + 1)])
    return {
        "name": name,
        "reference": {"prediction": floats(prediction), "label": floats(label)},
        "prediction": floats(window),
        "expected": {
            "mean_absolute_error": float(absolute[of_window].mean()),
            "mean_squared_error": float(squared[of_window].mean()),
            "root_mean_squared_error": float(np.sqrt(squared[of_window].mean())),
        },
    }


def regression():
    rng = np.random.default_rng(5)
    prediction = np.round(rng.gamma(2.0, 10.0, 1100), 3)
    label = np.round(prediction + rng.normal(0, 1 + prediction / 5), 3)
    window = np.round(rng.gamma(3.0, 10.0, 250), 3)
    few = np.round(prediction / 20) * 20
    return [
        regression_case("growing_errors", (prediction, label), window),
        regression_case("one_bin", (prediction[:60], label[:60]), window),
        regression_case("repeated_predictions", (few, label), np.round(window / 20) * 20),
        regression_case("constant_prediction", (np.full(200, 3.0), label[:200]), np.array([1.0, 3.0, 5.0])),
    ]


if __name__ == "__main__":
    cases = {"binary": binary(), "multiclass": multiclass(), "regression": regression()}
    text = json.dumps({"versions": VERSIONS, **cases}, separators=(",", ":"))
    (HERE / "estimates.json").write_text(text.replace('{"name"', '\n{"name"') + "\n")
    for task, of_task in cases.items():
        values = [v for c in of_task for v in c["expected"].values() if v is not None]
        by_class = sum(len(of_class) for c in of_task for of_class in c.get("by_class", {}).values())
        print(f"{task}: {len(of_task)} cases, {len(values)} values" + (f", {by_class} by class" if by_class else ""))
