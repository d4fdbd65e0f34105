"""Makes the golden values of this folder: trusted peers' answers on small, deterministic rows.

Run in an environment with numpy, scipy and scikit-learn, from any folder:

    python make_golden.py

The versions that made the values stand in each file.
"""

import json
import platform
import warnings
from pathlib import Path

import numpy as np
import scipy
import sklearn
from scipy import stats
from sklearn import metrics as m
from sklearn.calibration import calibration_curve

warnings.simplefilter("ignore")
HERE = Path(__file__).parent
VERSIONS = {
    "python": platform.python_version(),
    "numpy": np.__version__,
    "scipy": scipy.__version__,
    "scikit-learn": sklearn.__version__,
}


def save(name, cases):
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
    for metric, of in {"precision": m.precision_score, "recall": m.recall_score, "f1": m.f1_score}.items():
        for average in ["macro", "weighted", "micro"]:
            overall[f"{metric}_{average}"] = of(y, predicted, average=average, zero_division=0)
        values = of(y, predicted, labels=names, average=None, zero_division=np.nan)
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
    }
    return {
        "name": name,
        "label": [None if np.isnan(v) else float(v) for v in y],
        "prediction": [None if np.isnan(v) else float(v) for v in p],
        "expected": {k: None if v is None else number(v) for k, v in expected.items()},
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
    return {
        "name": name,
        "reference": [float(v) for v in reference],
        "current": [float(v) for v in current],
        "statistic": float(test.statistic),
        "p_value": float(test.pvalue),
        "psi": psi(np.asarray(reference, float), np.asarray(current, float)),
    }


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
save("drift", drift())
save("kolmogorov", asymptotic())
