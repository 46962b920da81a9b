"""The judge: how fast beside a plain loop, and how near to pROC.

    python benchmarks/judge.py [--items 10000] [--resamples 2000] [--json FILE]

``evaluate_seconds`` is the whole evaluation of predictions of two classes, all metrics with their intervals; the loop does
the same resamples of patients one by one with scikit-learn's functions, as it stands in many papers' code: a part of its
resamples is timed and the whole is reckoned from it, twice, beside ours each time. ``delong_max_error`` is the largest
difference of AUC, variance, covariance, statistic, p-value and bounds from pROC's, where R with pROC is installed (Debian:
r-cran-proc), over cohorts with and without ties.
"""

from __future__ import annotations

import argparse
import csv
import math
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtri
from sklearn import metrics

from environment import write_json
from thawline.judge.auc import measure_areas
from thawline.judge.comparisons import compare_paired_aucs
from thawline.judge.evaluation import evaluate

TIMED, PAIRS, COHORTS = 20, 2, 20
SCRIPT = """suppressMessages(library(pROC)); for (k in 0:(N - 1)) { d <- read.csv(paste0(k, ".csv"))
a <- roc(d$y, d$s, quiet=TRUE, direction="<"); b <- roc(d$y, d$t, quiet=TRUE, direction="<")
x <- roc.test(a, b, method="delong")
cat(format(c(auc(a), auc(b), var(a), var(b), cov(a, b), x$statistic, x$p.value, x$conf.int), digits=15), "\\n") }"""


def main() -> None:
    """Time, compare, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    study = draw_study(options.items)
    ours, loops = [], []
    for _ in range(PAIRS):
        ours.append(time_ours(study, options.resamples))
        loops.append(time_loop(study, TIMED) * options.resamples / TIMED)
    figures: dict[str, Any] = {
        "items": options.items,
        "resamples": options.resamples,
        "evaluate_seconds": float(np.median(ours)),
        "loop_seconds": float(np.median(loops)),
        "speed_up": float(np.median(np.divide(loops, ours))),
    }
    if shutil.which("Rscript"):
        figures["delong_max_error"] = compare_with_proc()
    for key, value in figures.items():
        print(f"{key:<24} {value:12.3g}")
    if options.json:
        write_json(options.json, figures)


def draw_study(n_items: int) -> tuple[Any, Any, Any]:
    """Return labels, probabilities and patients, of two items each or so."""
    draw = np.random.default_rng(0)
    groups = draw.integers(n_items // 2, size=n_items)
    labels = groups % 2
    positive = 1 / (1 + np.exp(-draw.normal(1.5 * labels - 0.75)))
    return labels, np.column_stack([1 - positive, positive]), groups


def time_ours(study: tuple[Any, Any, Any], n_resamples: int) -> float:
    """Return the seconds of one evaluation."""
    began = time.perf_counter()
    evaluate(*study, ("no", "yes"), "yes", n_resamples=n_resamples)
    return time.perf_counter() - began


def time_loop(study: tuple[Any, Any, Any], n_resamples: int) -> float:
    """Return the seconds of so many resamples of patients, the same metrics by scikit-learn for each."""
    labels, probabilities, groups = study
    draw, names = np.random.default_rng(0), np.unique(groups)
    members = {name: np.flatnonzero(groups == name) for name in names}
    began = time.perf_counter()
    for _ in range(n_resamples):
        rows = np.concatenate([members[name] for name in draw.choice(names, len(names))])
        truth, given = labels[rows], probabilities[rows, 1]
        called = given >= 0.5
        metrics.roc_auc_score(truth, given)
        metrics.average_precision_score(truth, given)
        metrics.accuracy_score(truth, called)
        metrics.balanced_accuracy_score(truth, called)
        metrics.recall_score(truth, called)
        metrics.recall_score(truth, called, pos_label=0)
        metrics.brier_score_loss(truth, given)
        metrics.log_loss(truth, given)
    return time.perf_counter() - began


def compare_with_proc() -> float:
    """Return the largest difference from pROC over cohorts of patients with one item each."""
    draw, cohorts = np.random.default_rng(0), []
    for number in range(COHORTS):
        n_patients = int(draw.integers(20, 300))
        labels = (np.arange(n_patients) < n_patients * draw.uniform(0.2, 0.6)).astype(np.int64)
        scores = draw.normal(size=n_patients) + labels * math.sqrt(2) * ndtri(draw.uniform(0.6, 0.97))
        other = 0.5 * scores + draw.normal(size=n_patients)
        cohorts.append(
            (labels, scores.round(number % 3), other.round(number % 3)) if number % 2 else (labels, scores, other)
        )
    found = np.array([measure_pair(*cohort) for cohort in cohorts])
    with tempfile.TemporaryDirectory() as folder:
        for number, cohort in enumerate(cohorts):
            with (Path(folder) / f"{number}.csv").open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(
                    [("y", "s", "t"), *zip(*(column.tolist() for column in cohort), strict=True)]
                )
        command = ["Rscript", "-e", SCRIPT.replace("N - 1", str(COHORTS - 1))]
        text = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    expected = np.array([[float(each) for each in line.split()] for line in text.strip().splitlines()])
    return float(np.abs(found - expected).max())


def measure_pair(labels: Any, scores: Any, other: Any) -> list[float]:
    """Return what pROC's script prints of a cohort."""
    groups, given = np.arange(len(labels)), [np.column_stack([-each, each]) for each in (scores, other)]
    areas = measure_areas(labels, given, groups, [1])
    covariance = areas.covariance()
    test = compare_paired_aucs(labels, (given[0], given[1]), groups, [1])
    values = [*areas.values, covariance[0, 0], covariance[1, 1], covariance[0, 1]]
    difference = test.difference
    return [*values, difference.value / test.standard_error, test.p_value, difference.low, difference.high]


if __name__ == "__main__":
    main()
