"""Makes all golden values of this folder: trusted peers' answers on small, deterministic rows. From the repository's root:

    scripts/python.sh evaluator/golden/make_golden.py

runs it with the versions that scripts/requirements.txt pins; those that made the values stand in each file.
"""

import functools
import json
import platform
import runpy
import warnings
from pathlib import Path

import numpy as np
import scipy
import sklearn
from scipy import special, stats
from scipy.spatial import distance
from sklearn import metrics as m
from sklearn.calibration import calibration_curve
from sklearn.decomposition import PCA

warnings.simplefilter("ignore")
HERE = Path(__file__).parent
VERSIONS = {
    "python": platform.python_version(),
    "numpy": np.__version__,
    "scipy": scipy.__version__,
    "scikit-learn": sklearn.__version__,
}


COUNTS = {}


def count(quantities):
    for quantity, value in quantities.items():
        COUNTS[quantity] = COUNTS.get(quantity, 0) + (value is not None)


def weighed(quantity):
    """A distance of numbers (x) or categories (word) whose rows weigh: one line of the list."""
    column, _, method = quantity.partition("_")
    return f"{method} by weight" if column in ("x", "word") else quantity


def save(name, cases):
    for case in cases:
        over_bins = [case] if "jensen_shannon" in case else []
        for quantities in [case.get("expected", {}), *over_bins]:
            names = {name for name in quantities if not name.endswith("p_value")} - {"name", "reference", "current", "statistic"}
            count({weighed(name): quantities[name] for name in names} | ({"ks": 0.0} if "statistic" in quantities else {}))
        count({f"difference of {metric}": value[0] for metric, value in case.get("compared", {}).items()})
        for metric, by_class in case.get("by_class", {}).items():
            for value in by_class.values():
                count({metric: value})
    text = json.dumps({"versions": VERSIONS, "cases": cases}, indent=None, separators=(",", ":"))
    (HERE / f"{name}.json").write_text(text.replace('{"name"', '\n{"name"') + "\n")


def number(x):
    x = float(x)
    return None if not np.isfinite(x) else x


def calibration_error(y, p):
    edges = np.linspace(0.0, 1.0, 11)
    bins = np.searchsorted(edges[1:-1], p)
    error = sum(abs(y[bins == b].mean() - p[bins == b].mean()) * (bins == b).sum() for b in np.unique(bins)) / len(y)
    # The same bins as scikit-learn's, or the number means nothing.
    share, mean = calibration_curve(y, p, n_bins=10) if len(set(y)) == 2 else (None, None)
    if share is not None:
        assert np.allclose(share, [y[bins == b].mean() for b in np.unique(bins)])
    return error


def binary_case(name, y, score, threshold=0.5, null_rows=()):
    """`null_rows`: rows whose score is missing. They have no prediction either and count nowhere."""
    y, score = np.asarray(y), np.asarray(score, dtype=float)
    keep = np.array([i not in set(null_rows) for i in range(len(y))], dtype=bool)
    yk, sk = y[keep], score[keep]
    predicted = (sk >= threshold).astype(int)
    both, any_positive = len(set(yk)) == 2, 1 in yk
    said = set(predicted)
    expected = {
        "accuracy": m.accuracy_score(yk, predicted),
        "balanced_accuracy": m.balanced_accuracy_score(yk, predicted) if both else None,
        "matthews_corrcoef": m.matthews_corrcoef(yk, predicted) if both and len(said) == 2 else None,
        "precision": m.precision_score(yk, predicted) if 1 in said else None,
        "recall": m.recall_score(yk, predicted) if any_positive else None,
        "specificity": m.recall_score(yk, predicted, pos_label=0) if 0 in yk else None,
        "f1": m.f1_score(yk, predicted) if any_positive or 1 in said else None,
        "f0_5": m.fbeta_score(yk, predicted, beta=0.5) if any_positive or 1 in said else None,
        "f2": m.fbeta_score(yk, predicted, beta=2) if any_positive or 1 in said else None,
        "jaccard": m.jaccard_score(yk, predicted) if any_positive or 1 in said else None,
        "false_positive_rate": 1 - m.recall_score(yk, predicted, pos_label=0) if 0 in yk else None,
        "false_negative_rate": 1 - m.recall_score(yk, predicted) if any_positive else None,
        "cohen_kappa": m.cohen_kappa_score(yk, predicted) if both else None,
        "roc_auc": m.roc_auc_score(yk, sk) if both else None,
        "average_precision": m.average_precision_score(yk, sk) if any_positive else None,
        "log_loss": m.log_loss(yk, sk, labels=[0, 1]),
        "brier_score": np.mean((sk - yk) ** 2),
        "expected_calibration_error": calibration_error(yk, sk),
    }
    if both:
        assert np.isclose(expected["brier_score"], m.brier_score_loss(yk, sk))
    return {
        "name": name,
        "label": [int(v) for v in y],
        "score": [None if i in set(null_rows) else float(v) for i, v in enumerate(score)],
        "threshold": threshold,
        "expected": {k: None if v is None else number(v) for k, v in expected.items()},
    }


def binary():
    rng = np.random.default_rng(20261121)
    y = (rng.random(500) < 0.3).astype(int)
    smooth = np.clip(rng.normal(0.35 + 0.25 * y, 0.2), 0, 1)
    return [
        binary_case("smooth", y, smooth),
        binary_case("ties", y, np.round(smooth, 1)),
        binary_case("few_values", y, np.round(smooth * 2) / 2),
        binary_case("constant_score", y[:40], np.full(40, 0.5)),
        binary_case("no_positives", np.zeros(20, int), smooth[:20]),
        binary_case("only_positives", np.ones(20, int), smooth[:20]),
        binary_case("perfect", [0, 0, 1, 1], [0.0, 0.1, 0.9, 1.0]),
        binary_case("surely_wrong", [1, 1, 0, 0], [0.0, 0.1, 0.9, 1.0]),
        binary_case("one_row", [1], [0.7]),
        binary_case("threshold", y[:100], smooth[:100], threshold=0.3),
        binary_case("missing_scores", y[:60], smooth[:60], null_rows=range(0, 60, 7)),
        binary_case("bin_edges", [0, 1] * 11, np.repeat(np.linspace(0, 1, 11), 2)),
        binary_case("tiny_scores", y[:200], smooth[:200] ** 40),
    ]


def multiclass_case(name, classes, y, predicted, probabilities=None):
    names = sorted(set(y) | set(predicted))
    per_class, overall = {}, {}
    labelled = sorted(set(y))
    overall["accuracy"] = m.accuracy_score(y, predicted)
    overall["balanced_accuracy"] = m.balanced_accuracy_score(y, predicted) if len(labelled) > 1 else None
    defined = len(labelled) > 1 and len(set(predicted)) > 1
    overall["matthews_corrcoef"] = m.matthews_corrcoef(y, predicted) if defined else None
    overall["cohen_kappa"] = m.cohen_kappa_score(y, predicted) if len(labelled) > 1 else None
    rates = {
        "precision": m.precision_score,
        "recall": m.recall_score,
        "f1": m.f1_score,
        "f0_5": functools.partial(m.fbeta_score, beta=0.5),
        "f2": functools.partial(m.fbeta_score, beta=2),
        "jaccard": m.jaccard_score,
    }
    for metric, of in rates.items():
        for average in ["macro", "weighted", "micro"]:
            overall[f"{metric}_{average}"] = of(y, predicted, average=average, zero_division=0)
        # jaccard_score knows no NaN; a class is here because it occurs, so its Jaccard share is defined.
        zero = 0 if metric == "jaccard" else np.nan
        values = of(y, predicted, labels=names, average=None, zero_division=zero)
        per_class[metric] = {c: number(v) for c, v in zip(names, values)}
    if probabilities is not None:
        overall["log_loss"] = m.log_loss(y, probabilities, labels=classes)
        overall["brier_score"] = m.brier_score_loss(y, probabilities, labels=classes)
        per_class["roc_auc"] = {
            c: number(m.roc_auc_score([v == c for v in y], probabilities[:, i])) if c in labelled and len(labelled) > 1 else None
            for i, c in enumerate(classes)
        }
        if labelled == list(classes):
            overall["roc_auc_macro"] = m.roc_auc_score(y, probabilities, multi_class="ovr", average="macro")
            overall["roc_auc_weighted"] = m.roc_auc_score(y, probabilities, multi_class="ovr", average="weighted")
            overall["roc_auc_ovo_macro"] = m.roc_auc_score(y, probabilities, multi_class="ovo", average="macro")
            overall["roc_auc_ovo_weighted"] = m.roc_auc_score(y, probabilities, multi_class="ovo", average="weighted")
    return {
        "name": name,
        "label": list(y),
        "prediction": list(predicted),
        "classes": list(classes),
        "probabilities": None if probabilities is None else probabilities.tolist(),
        "expected": {k: None if v is None else number(v) for k, v in overall.items()},
        "by_class": per_class,
    }


def multiclass():
    rng = np.random.default_rng(7)
    classes = ["bird", "cat", "dog"]
    index = rng.integers(0, 3, 300)
    logits = rng.normal(size=(300, 3)) + 1.5 * np.eye(3)[index]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    y = [classes[i] for i in index]
    best = [classes[i] for i in p.argmax(axis=1)]
    rounded = np.round(p, 1)
    rounded = rounded / rounded.sum(axis=1, keepdims=True)
    return [
        multiclass_case("probabilities", classes, y, best, p),
        multiclass_case("ties", classes, y, best, rounded),
        multiclass_case("no_probabilities", classes, y, best),
        multiclass_case("class_never_predicted", classes, y, [b if b != "dog" else "cat" for b in best]),
        multiclass_case("class_never_labelled", classes, ["cat", "cat", "dog"], ["cat", "bird", "dog"]),
        multiclass_case("one_class", classes, ["cat"] * 5, ["cat", "cat", "dog", "cat", "bird"]),
    ]


def regression_case(name, y, p):
    y, p = np.asarray(y, float), np.asarray(p, float)
    keep = ~(np.isnan(y) | np.isnan(p))
    yk, pk = y[keep], p[keep]
    constant = len(yk) < 2 or bool((yk == yk[0]).all())
    expected = {
        "mean_absolute_error": m.mean_absolute_error(yk, pk),
        "mean_squared_error": m.mean_squared_error(yk, pk),
        "root_mean_squared_error": m.root_mean_squared_error(yk, pk),
        "mean_absolute_percentage_error": m.mean_absolute_percentage_error(yk, pk),
        "r2": None if constant else m.r2_score(yk, pk),
        "median_absolute_error": m.median_absolute_error(yk, pk),
        "mean_error": np.mean(pk - yk),
        "mean_squared_log_error": m.mean_squared_log_error(yk, pk) if min(yk.min(), pk.min()) > -1 else None,
        "explained_variance": None if constant else m.explained_variance_score(yk, pk),
        "max_error": m.max_error(yk, pk),
        "mean_pinball_loss_q10": m.mean_pinball_loss(yk, pk, alpha=0.1),
        "mean_pinball_loss_q90": m.mean_pinball_loss(yk, pk, alpha=0.9),
        "huber_loss": np.mean(special.huber(1.0, pk - yk)),
    }
    for percent in [5, 25, 50, 75, 95]:
        quantile = np.percentile(pk - yk, percent, method="averaged_inverted_cdf")
        expected[f"error_q{percent:02}"] = quantile
    # The constants that are best for each loss.
    low, high = yk.min(), yk.max()
    baselines = {
        "mean_absolute_error": m.mean_absolute_error(yk, np.full_like(yk, np.median(yk))),
        "mean_squared_error": m.mean_squared_error(yk, np.full_like(yk, yk.mean())),
        "root_mean_squared_error": m.root_mean_squared_error(yk, np.full_like(yk, yk.mean())),
        "max_error": m.max_error(yk, np.full_like(yk, (low + high) / 2)),
        "mean_pinball_loss_q90": m.mean_pinball_loss(
            yk, np.full_like(yk, np.percentile(yk, 90, method="averaged_inverted_cdf")), alpha=0.9
        ),
    }
    return {
        "name": name,
        "label": [None if np.isnan(v) else float(v) for v in y],
        "prediction": [None if np.isnan(v) else float(v) for v in p],
        "expected": {k: None if v is None else number(v) for k, v in expected.items()},
        "baselines": {k: number(v) for k, v in baselines.items()},
    }


def regression():
    rng = np.random.default_rng(11)
    y = rng.normal(50, 10, 301)
    p = y + rng.normal(0.5, 3, 301)
    holes_y, holes_p = y[:50].copy(), p[:50].copy()
    holes_y[::9] = np.nan
    holes_p[::11] = np.nan
    return [
        regression_case("smooth", y, p),
        regression_case("even_rows", y[:300], p[:300]),
        regression_case("far_from_zero", y[:50] + 1e9, p[:50] + 1e9),
        regression_case("constant_truth", np.full(10, 3.0), np.linspace(2, 4, 10)),
        regression_case("constant_prediction", y[:40], np.full(40, 50.0)),
        regression_case("one_row", [3.0], [2.0]),
        regression_case("zero_truth", [0.0, 1.0, 2.0], [0.5, 1.0, 2.5]),
        regression_case("missing_values", holes_y, holes_p),
        regression_case("skewed", np.exp(rng.normal(1, 1, 200)), np.exp(rng.normal(1, 1, 200))),
        regression_case("below_minus_one", [-2.0, 1.0, 3.0], [0.0, 1.0, 2.5]),
    ]


def weighted():
    """Rows that were kept with a chance count one over it: scikit-learn's `sample_weight`."""
    rng = np.random.default_rng(23)
    n = 400
    rate = rng.choice([1.0, 0.5, 0.3, 0.01], n)
    weight = 1 / rate
    y = (rng.random(n) < 0.4).astype(int)
    score = np.round(np.clip(rng.normal(0.4 + 0.2 * y, 0.2), 0, 1), 2)
    predicted = (score >= 0.5).astype(int)
    w = {"sample_weight": weight}
    edges = np.linspace(0.0, 1.0, 11)
    bins = np.searchsorted(edges[1:-1], score)
    error = sum(abs(np.sum(((y - score) * weight)[bins == b])) for b in np.unique(bins)) / weight.sum()
    of_classes = {
        "accuracy": m.accuracy_score(y, predicted, **w),
        "balanced_accuracy": m.balanced_accuracy_score(y, predicted, **w),
        "matthews_corrcoef": m.matthews_corrcoef(y, predicted, **w),
        "cohen_kappa": m.cohen_kappa_score(y, predicted, **w),
        "precision": m.precision_score(y, predicted, **w),
        "recall": m.recall_score(y, predicted, **w),
        "f1": m.f1_score(y, predicted, **w),
        "f2": m.fbeta_score(y, predicted, beta=2, **w),
        "jaccard": m.jaccard_score(y, predicted, **w),
        "roc_auc": m.roc_auc_score(y, score, **w),
        "average_precision": m.average_precision_score(y, score, **w),
        "log_loss": m.log_loss(y, score, **w),
        "brier_score": m.brier_score_loss(y, score, **w),
        "expected_calibration_error": error,
    }
    truth = rng.normal(20, 5, n)
    guess = truth + rng.normal(0.3, 2, n)
    errors = guess - truth
    of_numbers = {
        "mean_absolute_error": m.mean_absolute_error(truth, guess, **w),
        "mean_squared_error": m.mean_squared_error(truth, guess, **w),
        "root_mean_squared_error": m.root_mean_squared_error(truth, guess, **w),
        "mean_absolute_percentage_error": m.mean_absolute_percentage_error(truth, guess, **w),
        "mean_squared_log_error": m.mean_squared_log_error(truth, guess, **w),
        "r2": m.r2_score(truth, guess, **w),
        "explained_variance": m.explained_variance_score(truth, guess, **w),
        "median_absolute_error": m.median_absolute_error(truth, guess, **w),
        "mean_pinball_loss_q10": m.mean_pinball_loss(truth, guess, alpha=0.1, **w),
        "mean_error": np.average(errors, weights=weight),
    }
    rows = {"rate": rate.tolist()}
    return [
        {"name": "binary", **rows, "label": y.tolist(), "value": score.tolist(), "expected": {k: number(v) for k, v in of_classes.items()}},
        {"name": "regression", **rows, "label": truth.tolist(), "value": guess.tolist(), "expected": {k: number(v) for k, v in of_numbers.items()}},
    ]


def delong(y, score):
    """DeLong's error by its definition, from the placements of all pairs; then the logit interval."""
    positive, negative = score[y == 1], score[y == 0]
    beats = (positive[:, None] > negative[None, :]) + 0.5 * (positive[:, None] == negative[None, :])
    auc = beats.mean()
    error = np.sqrt(beats.mean(axis=1).var(ddof=1) / len(positive) + beats.mean(axis=0).var(ddof=1) / len(negative))
    z = stats.norm.ppf(0.975)
    return special.expit(special.logit(auc) + np.array([-z, z]) * error / (auc * (1 - auc)))


def intervals():
    rng = np.random.default_rng(29)
    cases = []
    for name, n, prevalence, digits in [("smooth", 300, 0.3, 16), ("ties", 120, 0.5, 1), ("rare", 400, 0.05, 3)]:
        y = (rng.random(n) < prevalence).astype(int)
        score = np.round(np.clip(rng.normal(0.35 + 0.25 * y, 0.2), 0, 1), digits)
        predicted = (score >= 0.5).astype(int)
        tp, fp = int((y & predicted).sum()), int(((1 - y) & predicted).sum())
        fn, tn = int((y & (1 - predicted)).sum()), int(((1 - y) & (1 - predicted)).sum())
        wilson = lambda k, n: list(stats.binomtest(k, n).proportion_ci(method="wilson"))
        jaccard = np.array(wilson(tp, tp + fp + fn))
        cases.append(
            {
                "name": name,
                "label": y.tolist(),
                "score": score.tolist(),
                "expected": {
                    "roc_auc": delong(y, score).tolist(),
                    "accuracy": wilson(tp + tn, n),
                    "precision": wilson(tp, tp + fp),
                    "recall": wilson(tp, tp + fn),
                    "false_positive_rate": wilson(fp, fp + tn),
                    "jaccard": jaccard.tolist(),
                    "f1": (2 * jaccard / (1 + jaccard)).tolist(),
                },
            }
        )
    return cases


def placements(y, score):
    """Of each row, the share of the other class that it beats, from all pairs."""
    positive, negative = score[y == 1], score[y == 0]
    beats = (positive[:, None] > negative[None, :]) + 0.5 * (positive[:, None] == negative[None, :])
    return beats.mean(axis=1), beats.mean(axis=0)


def wilson(hits, rows):
    ends = stats.binomtest(int(hits), int(rows)).proportion_ci(method="wilson")
    return np.array([hits / rows, ends.low, ends.high])


def by_mover(a, b, correlation=0.0):
    """Newcombe's interval of b − a from (value, low, high) of each, and the p-value of its arm towards 0."""
    arm = lambda x, y: np.sqrt(max(x * x - 2 * correlation * x * y + y * y, 0))
    d = b[0] - a[0]
    low, high = d - arm(a[2] - a[0], b[0] - b[1]), d + arm(a[0] - a[1], b[2] - b[0])
    z = stats.norm.ppf(0.975)
    p = 1.0 if d == 0 else 2 * stats.norm.sf(abs(z * d / (d - low if d > 0 else high - d)))
    return [d, low, high, p]


def by_error(d, error):
    z = stats.norm.ppf(0.975)
    return [d, d - z * error, d + z * error, 2 * stats.norm.sf(abs(d / error))]


def of_t(test, level=0.95):
    """SciPy's t tests are of the first less the second."""
    ends = test.confidence_interval(level)
    return [ends.low, ends.high, test.pvalue]


def rates(y, predicted):
    """Hits, rows and the influence of each row on the ratio, by name."""
    hit = (y == predicted).astype(float)
    subsets = {
        "accuracy": (hit, np.ones(len(y))),
        "precision": (hit, (predicted == 1).astype(float)),
        "recall": (hit, (y == 1).astype(float)),
        "specificity": (hit, (y == 0).astype(float)),
    }
    of = {}
    for name, (hits, rows) in subsets.items():
        share = (hits * rows).sum() / rows.sum()
        of[name] = ((hits * rows).sum(), rows.sum(), rows * (hits - share) / rows.sum())
    tp, misses = ((y == 1) & (predicted == 1)), ((y == 1) ^ (predicted == 1))
    # F1 is Jaccard's share on another scale.
    all_rows = tp.sum() + misses.sum()
    of["f1"] = (tp.sum(), all_rows, ((tp | misses) * (tp - tp.sum() / all_rows)) / all_rows)
    return of


def correlated(a, b):
    scale = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / scale) if scale > 0 else 0.0


def compared_binary(name, y, scores, paired):
    """Two versions on the same rows, or one on the first half and one on the second."""
    half = len(y) // 2
    rows = [slice(None)] * 2 if paired else [slice(0, half), slice(half, None)]
    labels, values = [y[r] for r in rows], [s[r] for s, r in zip(scores, rows)]
    predicted = [(v >= 0.5).astype(int) for v in values]
    expected = {}
    placed = [placements(l, v) for l, v in zip(labels, values)]
    d = placed[1][0].mean() - placed[0][0].mean()
    if paired:
        parts = [placed[1][side] - placed[0][side] for side in (0, 1)]
        error = np.sqrt(sum(part.var(ddof=1) / len(part) for part in parts))
    else:
        error = np.sqrt(sum(side.var(ddof=1) / len(side) for both in placed for side in both))
    expected["roc_auc"] = by_error(d, error)
    counts = [rates(l, p) for l, p in zip(labels, predicted)]
    for metric in counts[0]:
        bounds = [wilson(hits, n) for hits, n, _ in (counts[0][metric], counts[1][metric])]
        if metric == "f1":
            bounds = [2 * b / (1 + b) for b in bounds]
        correlation = correlated(counts[0][metric][2], counts[1][metric][2]) if paired else 0.0
        expected[metric] = by_mover(*bounds, correlation)
    losses = {"log_loss": lambda l, v: -np.log(np.where(l == 1, v, 1 - v)), "brier_score": lambda l, v: (v - l) ** 2}
    for metric, loss in losses.items():
        first, second = [loss(l, v) for l, v in zip(labels, values)]
        test = stats.ttest_rel(second, first) if paired else stats.ttest_ind(second, first, equal_var=False)
        expected[metric] = [second.mean() - first.mean(), *of_t(test)]
    return comparison_case(name, "binary", paired, labels, values, expected)


def compared_regression(name, y, predictions, paired):
    half = len(y) // 2
    rows = [slice(None)] * 2 if paired else [slice(0, half), slice(half, None)]
    labels, values = [y[r] for r in rows], [p[r] for p, r in zip(predictions, rows)]
    losses = {
        "mean_absolute_error": lambda l, v: np.abs(v - l),
        "mean_squared_error": lambda l, v: (v - l) ** 2,
        "mean_error": lambda l, v: v - l,
    }
    expected = {}
    for metric, loss in losses.items():
        first, second = [loss(l, v) for l, v in zip(labels, values)]
        test = stats.ttest_rel(second, first) if paired else stats.ttest_ind(second, first, equal_var=False)
        expected[metric] = [second.mean() - first.mean(), *of_t(test)]
    return comparison_case(name, "regression", paired, labels, values, expected)


def comparison_case(name, task, paired, labels, values, expected):
    return {
        "name": name,
        "task": task,
        "paired": paired,
        "label": [[float(v) for v in l] for l in labels],
        "value": [[float(v) for v in l] for l in values],
        "compared": {k: [number(x) for x in v] for k, v in expected.items()},
    }


def comparisons():
    rng = np.random.default_rng(41)
    n = 600
    y = (rng.random(n) < 0.4).astype(int)
    common = rng.normal(size=n)
    score = lambda pull, digits: np.clip(np.round(special.expit(pull * y - 0.5 + common + 0.6 * rng.normal(size=n)), digits), 0.001, 0.999)
    a, b, coarse = score(1.0, 6), score(1.6, 6), score(1.4, 1)
    truth = rng.normal(50, 10, n)
    shared = rng.normal(0, 2, n)
    p, q = truth + shared + rng.normal(0, 1, n), truth + shared + rng.normal(0.2, 1.2, n)
    cases = [
        compared_binary("paired", y, [a, b], True),
        compared_binary("paired_ties", y, [a, coarse], True),
        compared_binary("paired_few", y[:60], [a[:60], b[:60]], True),
        compared_binary("independent", y, [a, b], False),
        compared_binary("independent_ties", y, [a, coarse], False),
        compared_regression("paired_errors", truth, [p, q], True),
        compared_regression("independent_errors", truth, [p, q], False),
    ]
    return cases


def serving_case(name, latency, failed, rate):
    """Requests, errors and latency. Quantiles and means are over the requests with a latency, whether they failed or not."""
    latency, failed, rate = np.asarray(latency, float), np.asarray(failed, bool), np.asarray(rate, float)
    weight = 1 / rate
    timed = ~np.isnan(latency)
    values, weights = latency[timed], weight[timed]
    expected = {
        "requests": weight.sum(),
        "error_count": weight[failed].sum(),
        "error_rate": weight[failed].sum() / weight.sum(),
        "latency_mean_ms": np.average(values, weights=weights) if len(values) else None,
        "latency_max_ms": values.max() if len(values) else None,
    }
    for percent in [50, 90, 95, 99]:
        if not len(values):
            quantile = None
        elif (rate == 1).all():
            quantile = np.percentile(values, percent, method="averaged_inverted_cdf")
        else:
            # NumPy averages no two values where rows weigh; the weights here hit no quantile exactly.
            quantile = np.percentile(values, percent, method="inverted_cdf", weights=weights)
        expected[f"latency_p{percent}_ms"] = quantile
    intervals = {}
    if (rate == 1).all():
        intervals["error_rate"] = list(stats.binomtest(int(failed.sum()), len(failed)).proportion_ci(method="wilson"))
        median = stats.quantile_test(values, p=0.5).confidence_interval(0.95) if len(values) > 10 else None
        if median is not None and np.isfinite([median.low, median.high]).all():
            intervals["latency_p50_ms"] = [float(median.low), float(median.high)]
    return {
        "name": name,
        "latency": [None if np.isnan(v) else float(v) for v in latency],
        "failed": [bool(v) for v in failed],
        "rate": [float(v) for v in rate],
        "expected": {k: None if v is None else number(v) for k, v in expected.items()},
        "intervals": intervals,
    }


def serving():
    rng = np.random.default_rng(37)
    n = 400
    latency = np.exp(rng.normal(3, 1, n))
    failed = rng.random(n) < 0.06
    holes = latency.copy()
    holes[failed] = np.nan
    one = np.ones(n)
    return [
        serving_case("smooth", latency, failed, one),
        serving_case("failures_without_latency", holes, failed, one),
        serving_case("ties", np.round(latency, -1), failed, one),
        serving_case("odd_rows", latency[:37], failed[:37], one[:37]),
        serving_case("none_failed", latency[:50], np.zeros(50), one[:50]),
        serving_case("no_latency", np.full(20, np.nan), failed[:20], one[:20]),
        serving_case("kept_by_chance", latency, failed, rng.choice([1.0, 0.37, 0.11], n)),
        serving_case("one_row", [12.5], [False], [1.0]),
    ]


def ranking_case(name, queries, k, graded):
    """`queries`: relevance and score of each query's rows. Queries without a relevant row are left out, as nothing can be found."""
    of = {f"ndcg_at_{k}": [], "mean_reciprocal_rank": [], f"map_at_{k}": [], f"hit_rate_at_{k}": [], f"recall_at_{k}": []}
    for relevance, score in queries:
        relevance, score = np.asarray(relevance, float), np.asarray(score, float)
        relevant = relevance > 0
        if not relevant.any():
            continue
        # Among equal scores relevant rows come last.
        order = np.lexsort((relevance, -score))
        hits = relevant[order]
        ranks = np.flatnonzero(hits) + 1
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        reciprocal = 1 / ranks[0]
        average = (precision * hits)[:k].sum() / min(relevant.sum(), k)
        if len(score) > 1 and len(set(score)) == len(score):
            whole = (precision * hits).sum() / relevant.sum()
            assert np.isclose(whole, m.label_ranking_average_precision_score([relevant], [score]))
            worst = m.coverage_error([relevant], [score])
            assert worst == ranks[-1]
        ndcg = m.ndcg_score([relevance], [score], k=k) if len(relevance) > 1 else 1.0
        for values, value in zip(of.values(), [ndcg, reciprocal, average, float(hits[:k].any()), hits[:k].sum() / relevant.sum()]):
            values.append(value)
    return {
        "name": name,
        "k": k,
        "graded": graded,
        "query": [f"q{at}" for at, (relevance, _) in enumerate(queries) for _ in relevance],
        "label": [float(x) for relevance, _ in queries for x in relevance],
        "score": [float(x) for _, score in queries for x in score],
        "queries": len(of["mean_reciprocal_rank"]),
        "expected": {metric: number(np.mean(values)) for metric, values in of.items()},
    }


def ranking():
    rng = np.random.default_rng(43)
    def draw(n, levels, digits):
        queries = []
        for _ in range(n):
            rows = rng.integers(1, 15)
            relevance = rng.choice(levels, rows)
            queries.append((relevance, np.round(0.2 * relevance + rng.random(rows), digits)))
        return queries
    return [
        ranking_case("clicks", draw(60, [0, 0, 0, 1], 9), 5, False),
        ranking_case("graded", draw(60, [0, 0, 1, 2, 3], 9), 10, True),
        ranking_case("graded_ties", draw(60, [0, 0, 1, 3], 1), 3, True),
        ranking_case("first_only", draw(40, [0, 1], 9), 1, False),
    ]


def psi(reference, current):
    edges = np.unique(np.quantile(reference, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]))
    shares = []
    for sample in (reference, current):
        counts = np.bincount(np.searchsorted(edges, sample, side="left"), minlength=len(edges) + 1)
        shares.append(np.maximum(counts / len(sample), 1e-4))
    r, c = shares
    return float(np.sum((c - r) * np.log(c / r)))


def drift_case(name, reference, current):
    test = stats.ks_2samp(reference, current)
    r, c = np.asarray(reference, float), np.asarray(current, float)
    wasserstein = stats.wasserstein_distance(r, c)
    return {
        "name": name,
        "reference": [float(v) for v in reference],
        "current": [float(v) for v in current],
        "statistic": float(test.statistic),
        "p_value": float(test.pvalue),
        "psi": psi(r, c),
        "wasserstein": float(wasserstein),
        "wasserstein_normed": float(wasserstein / r.std()) if r.std() > 0 else None,
        **over_bins(*binned(r, c)),
    }


def binned(reference, current):
    edges = np.unique(np.quantile(reference, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]))
    count = lambda sample: np.bincount(np.searchsorted(edges, sample, side="left"), minlength=len(edges) + 1)
    return count(reference), count(current)


def over_bins(reference, current):
    """Distances of two counts over the same bins, and Pearson's test with rare bins pooled."""
    r, c = reference / reference.sum(), current / current.sum()
    floored = lambda shares: np.maximum(shares, 1e-4)
    bins = sorted(zip((reference + current).tolist(), reference.tolist(), current.tolist()))
    bins = [(a, b) for total, a, b in bins if total > 0]
    rarer = min(reference.sum(), current.sum()) / (reference.sum() + current.sum())
    is_rare = lambda bin: sum(bin) * rarer < 5
    pool = None
    while bins and (is_rare(bins[0]) or (pool is not None and is_rare(pool))):
        first = bins.pop(0)
        pool = first if pool is None else (pool[0] + first[0], pool[1] + first[1])
    kept = bins + ([pool] if pool is not None else [])
    test = stats.chi2_contingency(np.array(kept).T, correction=False) if len(kept) > 1 else None
    return {
        "jensen_shannon": float(distance.jensenshannon(r, c, base=2)),
        "hellinger": float(np.sqrt(1 - np.sqrt(r * c).sum())) if not np.allclose(r, c) else 0.0,
        "total_variation": float(np.abs(r - c).sum() / 2),
        "l_infinity": float(np.abs(r - c).max()),
        "kl": max(float(np.sum(floored(c) * np.log(floored(c) / floored(r)))), 0.0),
        "chi2": 0.0 if test is None else float(test.statistic),
        "chi2_p_value": 1.0 if test is None else float(test.pvalue),
    }


def categories():
    rng = np.random.default_rng(31)
    draw = lambda p, n: rng.multinomial(n, p)
    cases = []
    for name, reference, current in [
        ("same", [50, 30, 20], [50, 30, 20]),
        ("shifted", draw([0.5, 0.3, 0.2], 500), draw([0.4, 0.3, 0.3], 400)),
        ("gone", [50, 30, 20], [80, 0, 40]),
        ("rare", draw([0.9] + [0.01] * 10, 300), draw([0.8] + [0.02] * 10, 200)),
        ("many", draw([1 / 200] * 200, 1000), draw([1 / 200] * 200, 1000)),
        ("tiny", [1, 0], [0, 1]),
    ]:
        reference, current = np.asarray(reference), np.asarray(current)
        cases.append(
            {"name": name, "reference": reference.tolist(), "current": current.tolist(), **over_bins(reference, current)}
        )
    return cases


def drift():
    rng = np.random.default_rng(3)
    a = rng.normal(size=200)
    return [
        drift_case("same", a, a),
        drift_case("shifted", a, rng.normal(0.5, 1, 150)),
        drift_case("alike", a, rng.normal(size=317)),
        drift_case("equal_sizes", a, rng.normal(0.2, 1, 200)),
        drift_case("ties", np.round(a), np.round(rng.normal(0.3, 1, 120))),
        drift_case("constant", np.full(30, 2.0), np.full(20, 2.0)),
        drift_case("constant_moved", np.full(30, 2.0), np.full(20, 3.0)),
        drift_case("one_row", a, [0.1]),
        drift_case("one_each", [1.0], [2.0]),
        drift_case("disjoint", a[:50], a[:60] + 100),
        drift_case("coprime", rng.random(97), rng.random(89)),
    ]


def weighted_drift_case(name, reference, current):
    """Drift of rows that stand for several: distribution functions by weight, and tests on Kish's effective rows."""
    (r, r_rate), (c, c_rate) = reference, current
    u, v = 1 / r_rate, 1 / c_rate
    kish = lambda w: w.sum() ** 2 / (w**2).sum()
    grid = np.unique(np.r_[r, c])
    below = lambda x, w: np.array([w[x <= at].sum() for at in grid]) / w.sum()
    ks = np.abs(below(r, u) - below(c, v)).max()
    m, n = kish(u), kish(v)
    ks_p = stats.kstwo.sf(ks, max(round(m * n / (m + n)), 1))
    moved = stats.wasserstein_distance(r, c, u, v)
    mean = np.average(r, weights=u)
    deviation = np.sqrt(np.average((r - mean) ** 2, weights=u))
    # NumPy averages no two values where rows weigh; the weights here hit no tenth exactly.
    tenths = np.arange(1, 10) / 10
    of_weights = np.quantile(r, tenths, method="inverted_cdf", weights=u) if (r_rate != 1).any() else np.quantile(r, tenths)
    edges = np.unique(of_weights)
    binned = lambda x, w: np.bincount(np.searchsorted(edges, x, side="left"), weights=w, minlength=len(edges) + 1)
    expected = {"x_ks": ks, "x_ks_p_value": ks_p, "x_wasserstein": moved, "x_wasserstein_normed": moved / deviation}
    words = np.unique(np.round(r))
    # Each of the reference's words, and one bin for all others.
    worded = lambda x, w: np.array([w[np.round(x) == word].sum() for word in words] + [w[~np.isin(np.round(x), words)].sum()])
    for column, counts in [("x", binned), ("word", worded)]:
        a, b = counts(r, u), counts(c, v)
        floored = [np.maximum(side / side.sum(), 1e-4) for side in (a, b)]
        expected[f"{column}_psi"] = float(np.sum((floored[1] - floored[0]) * np.log(floored[1] / floored[0])))
        # The bins hold as many rows as there are effective ones.
        over = over_bins(a * m / a.sum(), b * n / b.sum())
        expected |= {f"{column}_{what}": value for what, value in over.items()}
    return {
        "name": name,
        "reference": [float(x) for x in r],
        "reference_rate": [float(x) for x in r_rate],
        "current": [float(x) for x in c],
        "current_rate": [float(x) for x in c_rate],
        "expected": {what: float(value) for what, value in expected.items()},
    }


def weighted_drift():
    rng = np.random.default_rng(43)
    rates = lambda n: rng.choice([1.0, 0.37, 0.11], n)
    one = np.ones
    a, b = np.round(rng.normal(size=300), 3), np.round(rng.normal(0.3, 1.2, 200), 3)
    selective = np.where(b > 0.5, 0.23, 1.0)
    return [
        weighted_drift_case("both", (a, rates(300)), (b, rates(200))),
        weighted_drift_case("current_alone", (a, one(300)), (b, rates(200))),
        weighted_drift_case("reference_alone", (a, rates(300)), (b, one(200))),
        weighted_drift_case("large_ones_kept_seldom", (a, one(300)), (b, selective)),
        weighted_drift_case("ties", (np.round(a, 1), rates(300)), (np.round(b, 1), rates(200))),
        weighted_drift_case("few", (a[:20], rates(20)), (b[:12], rates(12))),
    ]


def rebuilt_case(name, reference, current, rates=None):
    """Mean errors of rebuilding rows from principal components of the reference, by scikit-learn; by their definition where rows weigh."""
    r, c = np.asarray(reference, float), np.asarray(current, float)
    u, v = (np.ones(len(r)), np.ones(len(c))) if rates is None else (1 / rates[0], 1 / rates[1])
    mean = np.average(np.nan_to_num(r), weights=u, axis=0) if not np.isnan(r).any() else np.nanmean(r, axis=0)
    filled = [np.where(np.isnan(x), mean, x) for x in (r, c)]
    if rates is None:
        deviation = np.nanstd(r, axis=0)
        z = [(x - mean) / deviation for x in filled]
        pca = PCA(n_components=0.65, svd_solver="full").fit(z[0]) if not np.isnan(r).any() else None
    else:
        deviation = np.sqrt(np.average((r - mean) ** 2, weights=u, axis=0))
        z = [(x - mean) / deviation for x in filled]
        pca = None
    if pca is not None and pca.n_components_ < r.shape[1]:
        errors = [np.linalg.norm(x - pca.inverse_transform(pca.transform(x)), axis=1) for x in z]
    else:
        values, axes = np.linalg.eigh((z[0] * u[:, None]).T @ z[0] / u.sum())
        order = np.argsort(values)[::-1]
        kept = min(int(np.searchsorted(np.cumsum(values[order]) / values.sum(), 0.65, side="right")) + 1, r.shape[1] - 1)
        axes = axes[:, order[:kept]]
        errors = [np.linalg.norm(x - x @ axes @ axes.T, axis=1) for x in z]
    kish = lambda w: w.sum() ** 2 / (w**2).sum()
    means = [np.average(e, weights=w) for e, w in zip(errors, (u, v))]
    rows = [kish(u), kish(v)]
    deviations = [
        np.sqrt(np.average((e - m) ** 2, weights=w) * n / (n - 1)) for e, m, w, n in zip(errors, means, (u, v), rows)
    ]
    test = stats.ttest_ind_from_stats(means[1], deviations[1], rows[1], means[0], deviations[0], rows[0], equal_var=False)
    column = lambda values: [None if np.isnan(x) else float(x) for x in values]
    return {
        "name": name,
        "reference": [column(x) for x in r.T],
        "current": [column(x) for x in c.T],
        "rates": None if rates is None else [[float(x) for x in of] for of in rates],
        "errors": [float(x) for x in means],
        "expected": {
            "pca_reconstruction": float(abs(means[1] - means[0]) / deviations[0]),
            "pca_reconstruction_p_value": float(test.pvalue),
        },
    }


def rebuilt():
    rng = np.random.default_rng(47)

    def draw(n, mix, noise=0.4):
        latent = rng.normal(size=(n, 2))
        return np.round(latent @ mix + noise * rng.normal(size=(n, mix.shape[1])) + [1, 200, -3, 0.5, 0], 4)

    mix = np.array([[1.0, 30, 0.2, 0.0, 1.0], [0.3, -10, 1.0, 0.5, -1.0]])
    other = mix * [[1, 1, 1, 1, 1], [1, -1, 1, -1, 1]]
    reference, alike, moved = draw(500, mix), draw(300, mix), draw(300, other)
    holes = lambda x, at: np.where(rng.random(x.shape) < at, np.nan, x)
    rates = lambda n: rng.choice([1.0, 0.37, 0.11], n)
    tight = np.round(reference * [1, 1, 1, 1, 0] + reference[:, [0]] * [0, 0, 0, 0, 2], 4)
    return [
        rebuilt_case("alike", reference, alike),
        rebuilt_case("margins_alike", reference, moved),
        rebuilt_case("holes", holes(reference, 0.05), holes(alike, 0.2)),
        rebuilt_case("nearly_flat", tight, np.round(alike, 4)),
        rebuilt_case("two_features", reference[:, :2], moved[:, :2]),
        rebuilt_case("two_alone", np.round(rng.normal(size=(200, 2)), 4), np.round(rng.normal(0.4, 1.3, size=(90, 2)), 4)),
        rebuilt_case("kept_by_chance", reference, moved, (rates(500), rates(300))),
    ]


def asymptotic():
    cases = []
    for n in [1, 2, 5, 10, 50, 140, 141, 500, 2000, 20000, 100000, 1000000, 50000000]:
        for z in [0.3, 0.5, 0.8, 1.0, 1.2, 1.36, 1.45, 1.5, 1.8, 2.2, 3.0]:
            x = z / np.sqrt(n)
            if x < 1:
                cases.append({"name": f"{n}/{z}", "n": n, "x": x, "sf": float(stats.kstwo.sf(x, n))})
    return cases


save("binary", binary())
save("multiclass", multiclass())
save("regression", regression())
save("weighted", weighted())
save("intervals", intervals())
save("comparisons", comparisons())
save("serving", serving())
save("ranking", ranking())
save("drift", drift())
save("weighted_drift", weighted_drift())
save("components", rebuilt())
save("categories", categories())
save("kolmogorov", asymptotic())

runpy.run_path(str(HERE / "make_estimates.py"), run_name="__main__")
# The README's table has these; scripts/test_scripts.py holds it to them.
(HERE / "counts.json").write_text(json.dumps(dict(sorted(COUNTS.items())), indent=1) + "\n")
for quantity, values in sorted(COUNTS.items()):
    print(f"{quantity:<34} {values:>4} values")
