#!/usr/bin/env python3
"""Computes a window's metrics with scikit-learn on its rows in history/, beside those in metrics/, and compares them to 1e-9.

    scripts/compare_sklearn.py STORE --model M [--window 2026-01-01T00:00:00Z]
    scripts/compare_sklearn.py STORE --all

Slices are the whole window, each version, and each value of a single tag or of a text feature. Exit codes: 0 equal, 1 it could
not run, 3 something differs.
"""

import argparse
import datetime
import math
import pathlib
import sys
import warnings

import numpy as np
from sklearn import metrics as sk

import driftline_tables as tables

AVERAGES = ("macro", "weighted", "micro")
warnings.filterwarnings("ignore", category=UserWarning)
warnings.filterwarnings("ignore", category=RuntimeWarning)


def expected_calibration_error(actual: np.ndarray, score: np.ndarray) -> float:
    """10 equal-width bins as in `calibration_curve`, open on the left; the share-weighted gap between a bin's mean score and its
    share of positives."""
    bins = np.searchsorted(np.linspace(0.0, 1.0, 11)[1:-1], score)
    gaps = [abs(actual[bins == b].mean() - score[bins == b].mean()) * (bins == b).sum() for b in np.unique(bins)]
    return math.fsum(gaps) / len(score)


def defined(denominator: float, value) -> float | None:
    return float(value()) if denominator > 0 else None


def binary(actual: list, predicted: list, score: list, positive: str) -> dict:
    """Metric → value, None where it is undefined."""
    a = np.array([label == positive for label in actual], dtype=int)
    p = np.array([label == positive for label in predicted], dtype=int)
    tn, fp, fn, tp = sk.confusion_matrix(a, p, labels=[0, 1]).ravel() if len(a) else (0, 0, 0, 0)
    both = tp + fn > 0 and tn + fp > 0
    denominator = float(tp + fp) * float(tp + fn) * float(tn + fp) * float(tn + fn)
    found = {
        "accuracy": defined(len(a), lambda: sk.accuracy_score(a, p)),
        "balanced_accuracy": defined(both, lambda: sk.balanced_accuracy_score(a, p)),
        "precision": defined(tp + fp, lambda: sk.precision_score(a, p)),
        "recall": defined(tp + fn, lambda: sk.recall_score(a, p)),
        "specificity": defined(tn + fp, lambda: sk.recall_score(a, p, pos_label=0)),
        "f1": defined(2 * tp + fp + fn, lambda: sk.f1_score(a, p)),
        "matthews_corrcoef": defined(denominator, lambda: sk.matthews_corrcoef(a, p)),
    }
    if len(a) and all(value is not None for value in score):
        s = np.array(score, dtype=float)
        found["roc_auc"] = defined(both, lambda: sk.roc_auc_score(a, s))
        found["average_precision"] = defined(tp + fn, lambda: sk.average_precision_score(a, s))
        if ((s >= 0) & (s <= 1)).all():
            found["log_loss"] = float(sk.log_loss(a, s, labels=[0, 1]))
            found["brier_score"] = float(np.mean((s - a) ** 2))
            found["expected_calibration_error"] = expected_calibration_error(a, s)
    return found


def multiclass(actual: list, predicted: list) -> dict:
    if not actual:
        return {"accuracy": None}
    classes = sorted(set(actual) | set(predicted))
    found = {
        "accuracy": float(sk.accuracy_score(actual, predicted)),
        "matthews_corrcoef": defined(
            len(set(actual)) > 1 and len(set(predicted)) > 1, lambda: sk.matthews_corrcoef(actual, predicted)
        ),
    }
    for average in AVERAGES:
        values = sk.precision_recall_fscore_support(actual, predicted, labels=classes, average=average, zero_division=0)
        for name, value in zip(("precision", "recall", "f1"), values):
            found[f"{name}_{average}"] = float(value)
    return found


def one_class(actual: list, predicted: list, name: str) -> dict:
    a = [label == name for label in actual]
    p = [label == name for label in predicted]
    tp = sum(x and y for x, y in zip(a, p))
    tn = sum(not x and not y for x, y in zip(a, p))
    return {
        "precision": defined(sum(p), lambda: tp / sum(p)),
        "recall": defined(sum(a), lambda: tp / sum(a)),
        "f1": defined(sum(a) + sum(p), lambda: 2 * tp / (sum(a) + sum(p))),
        "specificity": defined(len(a) - sum(a), lambda: tn / (len(a) - sum(a))),
    }


def regression(actual: list, predicted: list) -> dict:
    if not actual:
        return {"mean_absolute_error": None}
    a, p = np.array(actual, dtype=float), np.array(predicted, dtype=float)
    return {
        "mean_absolute_error": float(sk.mean_absolute_error(a, p)),
        "mean_squared_error": float(sk.mean_squared_error(a, p)),
        "root_mean_squared_error": float(sk.root_mean_squared_error(a, p)),
        "mean_absolute_percentage_error": float(sk.mean_absolute_percentage_error(a, p)),
        "median_absolute_error": float(sk.median_absolute_error(a, p)),
        "mean_error": math.fsum(p - a) / len(a),
        "r2": defined(len(a) > 1 and np.ptp(a) > 0, lambda: sk.r2_score(a, p)),
    }


def likely_positive(rows: list[dict]) -> str | None:
    """Of two predicted classes the one with the higher mean score, for a model that no configuration names."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        if row["prediction"] is not None and row["score"] is not None:
            scores.setdefault(row["prediction"], []).append(row["score"])
    return max(scores, key=lambda name: np.mean(scores[name]), default=None)


class Comparison:
    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.sql = tables.connect()
        self.models = tables.config_models(arguments.config)
        self.compared = 0
        self.differences = 0
        self.left_out: set[str] = set()

    def query(self, query: str, parameters: list) -> list[dict]:
        cursor = self.sql.execute(query, parameters)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row)) for row in cursor.fetchall()]

    def run(self) -> int:
        store = pathlib.Path(self.arguments.store).resolve()
        for table in ("history", "metrics"):
            if not tables.create_table_view(self.sql, store, table):
                print(f"{table}/ is empty", file=sys.stderr)
                return 1
        where, parameters = "true", []
        if self.arguments.model is not None:
            where, parameters = "model_name = ?", [self.arguments.model]
        if self.arguments.window:
            start = datetime.datetime.fromisoformat(self.arguments.window.replace("Z", "+00:00"))
            where += " AND window_start = ?"
            parameters.append(start if start.tzinfo else start.replace(tzinfo=datetime.timezone.utc))
        windows = self.query(f"SELECT DISTINCT model_name, window_start FROM metrics WHERE {where} ORDER BY ALL", parameters)
        if not windows:
            print("no such window in metrics/", file=sys.stderr)
            return 1
        print(f"{'model':<20} {'window':<20} {'slice':<24} {'metric':<34} {'driftline':>24} {'scikit-learn':>24}")
        for window in windows:
            self.compare_window(window["model_name"], window["window_start"])
        if self.left_out:
            print(f"not compared: {', '.join(sorted(self.left_out))}")
        print(f"{len(windows)} windows, {self.compared} values compared, {self.differences} differences")
        return 3 if self.differences or not self.compared else 0

    def compare_window(self, model: str, start: datetime.datetime) -> None:
        have = tables.columns(self.sql, "history")
        wanted = " AND ".join(
            ["model_name = ?", "window_start = ?"]
            + [f"{column} IS NULL" for column in ("error", "invalid_reason") if column in have]
            + ["NOT after_final" for column in ("after_final",) if column in have]
        )
        rows = self.query(f"SELECT * FROM history WHERE {wanted}", [model, start])
        said = self.query("SELECT * FROM metrics WHERE model_name = ? AND window_start = ?", [model, start])
        names = {row["metric"] for row in said}
        task = self.models.get(model, {}).get("task")
        if task is None:
            task = "regression" if "mean_absolute_error" in names else "multiclass" if "f1_macro" in names else "binary"
        configured = self.models.get(model, {}).get("positive_class")
        # Classes are compared in canonical text; a number in the configuration is its shortest decimal form.
        configured = None if configured is None else f"{configured:g}" if isinstance(configured, (int, float)) else configured
        positive = self.arguments.positive_class or configured or likely_positive(rows)
        slices: dict[tuple, list[dict]] = {}
        for row in said:
            slices.setdefault((row["model_version"], row["segment"], row["segment_value"]), []).append(row)
        for (version, segment, value), lines in sorted(slices.items(), key=lambda entry: str(entry[0])):
            column = self.segment_column(segment, have)
            if segment is not None and column is None:
                self.left_out.add(f"segment {segment}")
                continue
            inside = [
                row
                for row in rows
                if (version is None or row["model_version"] == version) and (column is None or row[column] == value)
            ]
            self.compare_slice(model, start, "/".join(str(part) for part in (version, value) if part is not None) or "all", task, positive, inside, lines)

    @staticmethod
    def segment_column(segment: str | None, have: set[str]) -> str | None:
        if segment is None:
            return None
        candidates = [f"tag_{segment}"]
        if segment.startswith("features."):
            candidates.append(f"feature_{segment.removeprefix('features.')}_text")
        return next((column for column in candidates if column in have), None)

    def compare_slice(self, model, start, slice_name, task, positive, rows, lines) -> None:
        labelled = [row for row in rows if row["label"] is not None]
        if task == "regression":
            labelled = [row for row in labelled if row["label_value"] is not None and row["prediction_value"] is not None]
            expected = regression([row["label_value"] for row in labelled], [row["prediction_value"] for row in labelled])
            actual, predicted = [], []
        else:
            actual = [row["label"] for row in labelled]
            predicted = [self.prediction(row, positive, actual) for row in labelled]
            if task == "binary":
                expected = binary(actual, predicted, [self.score(row, positive) for row in labelled], positive)
            else:
                expected = multiclass(actual, predicted)
        for line in sorted(lines, key=lambda line: (line["metric"], line["class"] or "")):
            name = line["metric"]
            values = expected if line["class"] is None else one_class(actual, predicted, line["class"])
            if line["n"] != len(rows) or line["n_labelled"] != len(labelled):
                self.report(model, start, slice_name, f"{name}: n, n_labelled", f"{line['n']}, {line['n_labelled']}", f"{len(rows)}, {len(labelled)}", False)
            if name not in values:
                if line["value"] is not None:
                    self.left_out.add(name)
                continue
            other = values[name]
            if line["value"] is None or other is None:
                # Undefined is null with a reason, on both sides.
                equal = line["value"] is None and other is None and line["reason"] is not None
            else:
                # A window beyond memory says how far its value may be off.
                equal = abs(line["value"] - other) <= 1e-9 * max(1.0, abs(other)) + (line.get("error_bound") or 0.0)
            said = line["value"] if line["value"] is not None else f"null ({line['reason']})"
            label = name if line["class"] is None else f"{name} of {line['class']}"
            self.report(model, start, slice_name, label, said, other, equal)

    def prediction(self, row: dict, positive: str | None, actual: list) -> str | None:
        """What was predicted; derived from the score or the probabilities where the event did not say."""
        if row["prediction"] is not None:
            return row["prediction"]
        probabilities = dict(row.get("probabilities") or {})
        if row["score"] is not None:
            threshold = self.models.get(row["model_name"], {}).get("threshold", 0.5)
            negative = next((label for label in actual if label != positive), "not " + str(positive))
            return positive if row["score"] >= threshold else negative
        return max(probabilities, key=probabilities.get, default=None)

    @staticmethod
    def score(row: dict, positive: str | None) -> float | None:
        return row["score"] if row["score"] is not None else dict(row.get("probabilities") or {}).get(positive)

    def report(self, model, start, slice_name, metric, said, other, equal: bool) -> None:
        self.compared += 1
        self.differences += not equal
        if not equal or not self.arguments.quiet:
            mark = "" if equal else "  DIFFERS"
            print(f"{model:<20} {start:%Y-%m-%dT%H:%M:%SZ} {slice_name:<24} {metric:<34} {said!s:>24} {other!s:>24}{mark}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", help="the store's folder")
    parser.add_argument("--model", help="one model")
    parser.add_argument("--all", action="store_true", help="every model")
    parser.add_argument("--window", help="the start of one window; without it every window")
    parser.add_argument("--config", help="driftline.toml, for tasks, positive classes and thresholds")
    parser.add_argument("--positive-class", help="of a binary model that is not configured")
    parser.add_argument("--quiet", action="store_true", help="print differences only")
    arguments = parser.parse_args()
    if (arguments.model is None) != arguments.all:
        parser.error("either --model or --all")
    return Comparison(arguments).run()


if __name__ == "__main__":
    sys.exit(main())
