"""Holds NannyML's own CBPE against estimates.json: its calibrator and its estimators, on the same rows; and its PCA against components.json. From the repository's root:

    DRIFTLINE_VENV=~/.cache/driftline/venv-nannyml DRIFTLINE_REQUIREMENTS=evaluator/golden/requirements-nannyml.txt \\
        scripts/python.sh evaluator/golden/check_nannyml.py

In an environment of its own, for NannyML needs older versions of what the other outside judges use. Exits with 1 if a value differs. NannyML
knows no weights, says 0 where a denominator is, rounds counts to five digits under its areas, and lets chance order tied scores: such cases and
areas are left out or compared to four digits.
"""

import json
import os
import sys
from pathlib import Path

os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"

import numpy as np
import pandas as pd
from nannyml import DataReconstructionDriftCalculator
from nannyml.calibration import IsotonicCalibrator
from nannyml.performance_estimation.confidence_based import metrics as nannyml
from sklearn.impute import SimpleImputer

cases = json.loads((Path(__file__).parent / "estimates.json").read_text())["binary"]
compared = differing = 0
for case in cases:
    score, rate = np.array(case["score"]), np.array(case["rate"])
    reference = {name: np.array(values) for name, values in case["reference"].items()}
    if (rate != 1).any() or (reference["rate"] != 1).any():
        continue
    calibrator = IsotonicCalibrator()
    calibrator.fit(reference["score"], reference["label"])
    p = calibrator.calibrate(score)
    predicted = (score >= case["threshold"]).astype(int)
    estimates = {
        "accuracy": (nannyml.estimate_accuracy(predicted, p), 1e-9),
        "precision": (nannyml.estimate_precision(predicted, p), 1e-9),
        "recall": (nannyml.estimate_recall(predicted, p), 1e-9),
        "specificity": (nannyml.estimate_specificity(predicted, p), 1e-9),
        "f1": (nannyml.estimate_f1(predicted, p), 1e-9),
    }
    if len(set(score)) == len(score):
        estimates["roc_auc"] = (nannyml.estimate_roc_auc(p, score), 1e-4)
        estimates["average_precision"] = (nannyml.estimate_ap(p, score), 1e-4)
    for metric, (theirs, tolerance) in estimates.items():
        ours = case["expected"][metric]
        if ours is None:
            continue
        compared += 1
        if not abs(ours - theirs) <= tolerance:
            differing += 1
            print(f"{case['name']}: {metric}: {ours} is not NannyML's {theirs}")
# Its PCA of numbers; missing values, weights and less than three features are our own.
for case in json.loads((Path(__file__).parent / "components.json").read_text())["cases"]:
    columns = [f"f{i}" for i in range(len(case["reference"]))]
    frames = [pd.DataFrame(dict(zip(columns, case[side]))) for side in ("reference", "current")]
    if case["rates"] or len(columns) < 3 or any(frame.isna().any(axis=None) for frame in frames):
        continue
    theirs = []
    for frame in frames:
        calculator = DataReconstructionDriftCalculator(columns, chunk_number=1, imputer_continuous=SimpleImputer())
        theirs.append(calculator.fit(frames[0]).calculate(frame).filter(period="analysis").to_df()["reconstruction_error"]["value"].iloc[0])
    for side, ours, other in zip(("reference", "current"), case["errors"], theirs):
        compared += 1
        if not abs(ours - other) <= 1e-9:
            differing += 1
            print(f"{case['name']}: error of {side}: {ours} is not NannyML's {other}")
print(f"{compared} values compared with NannyML's, {differing} differ")
sys.exit(1 if differing or not compared else 0)
