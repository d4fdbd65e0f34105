#!/usr/bin/env python3
"""Computes what `driftline evaluate` must find in data/, with scikit-learn and SciPy, and writes it beside this script:

    scripts/python.sh integration-tests/golden/make_golden.py

Labels are joined by the rules of DESIGN.md, written down here once more: a label is eligible from 10 minutes before its prediction
to 30 days after it, both included; the last one wins, by its time and then by its place in the file. Windows align to the epoch.
"""

import datetime
import gzip
import json
import math
import pathlib
import platform
import re

import numpy as np
import scipy
import scipy.stats
import sklearn
from sklearn import metrics as sk

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE.parent.parent / "data"
DAY_US = 86_400_000_000
MAX_SKEW_US = 600_000_000
HORIZON_US = 30 * DAY_US
# Shares below this count as this, so that an empty bin stays finite.
SHARE_MIN = 1e-4

SETS = {
    "ma_employment": {"task": "binary", "window_us": DAY_US, "columns": ["score", "AGEP"]},
    "flight_airtime": {"task": "regression", "window_us": 14 * DAY_US, "columns": ["prediction", "DISTANCE", "DEPARTURE_DELAY"]},
}


def events(name: str, kind: str) -> list[dict]:
    with gzip.open(DATA / name / f"{kind}.jsonl.gz", "rt", encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    for event in found:
        event["time_us"] = micros(event["timestamp"])
    return found


def micros(text: str) -> int:
    time = datetime.datetime.fromisoformat(re.sub("Z$", "+00:00", text))
    return (time - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)) // datetime.timedelta(microseconds=1)


def join(predictions: list[dict], labels: list[dict]) -> None:
    by_id: dict[str, list[tuple]] = {}
    for place, label in enumerate(labels):
        by_id.setdefault(label["prediction_id"], []).append((label["time_us"], place, label["label"]))
    for prediction in predictions:
        eligible = [
            label
            for label in by_id.get(prediction["prediction_id"], [])
            if -MAX_SKEW_US <= label[0] - prediction["time_us"] <= HORIZON_US
        ]
        prediction["label"] = max(eligible, key=lambda label: label[:2])[2] if eligible else None


def value_of(event: dict, column: str) -> float | None:
    value = event.get(column) if column in ("score", "prediction") else event.get("features", {}).get(column)
    return None if value is None else float(value)


def column_of(rows: list[dict], column: str) -> np.ndarray:
    values = (value_of(row, column) for row in rows)
    return np.array([value for value in values if value is not None], dtype=float)


def binary(rows: list[dict]) -> dict:
    actual = np.array([int(row["label"]) for row in rows])
    predicted = np.array([int(row["prediction"]) for row in rows])
    score = np.array([row["score"] for row in rows], dtype=float)
    return {
        "accuracy": sk.accuracy_score(actual, predicted),
        "f1": sk.f1_score(actual, predicted),
        "roc_auc": sk.roc_auc_score(actual, score),
        "average_precision": sk.average_precision_score(actual, score),
        "log_loss": sk.log_loss(actual, score, labels=[0, 1]),
        "brier_score": sk.brier_score_loss(actual, score),
    }


def regression(rows: list[dict]) -> dict:
    actual = np.array([row["label"] for row in rows], dtype=float)
    predicted = np.array([row["prediction"] for row in rows], dtype=float)
    return {
        "mean_absolute_error": sk.mean_absolute_error(actual, predicted),
        "mean_squared_error": sk.mean_squared_error(actual, predicted),
        "root_mean_squared_error": sk.root_mean_squared_error(actual, predicted),
        "r2": sk.r2_score(actual, predicted),
        "median_absolute_error": sk.median_absolute_error(actual, predicted),
    }


def psi(reference: np.ndarray, current: np.ndarray) -> float:
    """On the reference's deciles; bins are open on the left."""
    edges = np.unique(np.quantile(reference, np.arange(1, 10) / 10))

    def shares(values: np.ndarray) -> np.ndarray:
        counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
        return np.maximum(counts / len(values), SHARE_MIN)

    r, c = shares(reference), shares(current)
    return math.fsum((c - r) * np.log(c / r))


def drift(reference: list[dict], rows: list[dict], columns: list[str]) -> list[dict]:
    found = []
    for column in columns:
        r, c = column_of(reference, column), column_of(rows, column)
        ks = scipy.stats.ks_2samp(c, r, method="auto")
        common = {"column": column, "n": len(c), "n_reference": len(r)}
        found.append({**common, "method": "ks", "statistic": float(ks.statistic), "p_value": float(ks.pvalue)})
        found.append({**common, "method": "psi", "statistic": psi(r, c), "p_value": None})
    return found


def golden(name: str, settings: dict) -> dict:
    predictions, labels, reference = (events(name, kind) for kind in ("predictions", "labels", "reference"))
    join(predictions, labels)
    windows: dict[int, list[dict]] = {}
    for prediction in predictions:
        windows.setdefault(prediction["time_us"] - prediction["time_us"] % settings["window_us"], []).append(prediction)
    figures = binary if settings["task"] == "binary" else regression
    found = []
    for start, rows in sorted(windows.items()):
        labelled = [row for row in rows if row["label"] is not None]
        found.append(
            {
                "window_start_us": start,
                "window_end_us": start + settings["window_us"],
                "n": len(rows),
                "n_labelled": len(labelled),
                "metrics": {metric: float(value) for metric, value in figures(labelled).items()},
                "drift": drift(reference, rows, settings["columns"]),
            }
        )
    versions = {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__, "scikit-learn": sklearn.__version__}
    made = {"made_by": "integration-tests/golden/make_golden.py", "versions": versions, "task": settings["task"], "windows": found}
    if settings["task"] == "binary":
        # What a file of labels and scores alone must give.
        figures_of_all = binary([row for row in predictions if row["label"] is not None])
        made["all"] = {metric: float(value) for metric, value in figures_of_all.items() if metric not in ("accuracy", "f1")}
    return made


def main() -> None:
    for name, settings in SETS.items():
        text = json.dumps(golden(name, settings), indent=1)
        (HERE / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        print(f"{name}.json: {text.count('window_start_us')} windows")


if __name__ == "__main__":
    main()
