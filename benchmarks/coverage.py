"""How often intervals hold the truth: AUC and proportions of simulated cohorts whose truth is known.

    python benchmarks/coverage.py [--cohorts 1000] [--json FILE]

Cohorts of 30 to 300 patients with one image, or one to five with scores that correlate by a half; scores are normal in both
classes, as far apart as the AUC asks for. ``auc_coverage_min`` is the lowest coverage of all cases, ``auc_coverage_max`` the
highest where the rarer class has 50 patients or more. Beside our interval stand what papers usually have: DeLong's of items
as if each were a patient, and percentiles of a bootstrap of patients. Two more shapes of scores, of which no formula knows,
are reported apart: positives that spread twice as wide, and positives of whom some look like negatives.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtri

from environment import write_json
from thawline.judge.auc import estimate_auc, measure_areas
from thawline.judge.intervals import estimate_proportion
from thawline.judge.metrics import resample_auc
from thawline.judge.statistics import interval, patient_counts
from thawline.types import Estimate

AUCS = (0.7, 0.9, 0.98)
COHORTS = (
    (30, 0.5),
    (30, 0.3),
    (50, 0.5),
    (100, 0.5),
    (100, 0.2),
    (200, 0.3),
    (300, 0.5),
    (300, 0.1),
)  # patients, share
IMAGES = (1, 5)
SHAPES = ("normal", "wide", "hidden")
CORRELATION, N_RESAMPLES, MANY = 0.5, 400, 50
WIDTH, SHARE_HIDDEN = 2.0, 0.15
PROPORTIONS, PATIENTS = (0.7, 0.9, 0.98), (30, 50, 100, 300)


def main() -> None:
    """Simulate all cases, print a line each, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohorts", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures: dict[str, Any] = {"cohorts": options.cohorts}
    covered: dict[str, list[float]] = {"all": [], "many": []}
    for shape, auc, (n_patients, share), most in itertools.product(SHAPES, AUCS, COHORTS, IMAGES):
        others = shape == "normal"
        found = judge_case(shape, auc, n_patients, share, most, options.cohorts, compared=others)
        name = f"{shape}_{auc}_{n_patients}_{share}_{most}"
        figures |= {f"{name}_{key}": value for key, value in found.items()}
        print(f"{name:<28}" + "  ".join(f"{key} {value:.3f}" for key, value in found.items()), flush=True)
        if shape == "normal":
            covered["all"].append(found["coverage"])
            if n_patients * min(share, 1 - share) >= MANY:
                covered["many"].append(found["coverage"])
    figures |= {"auc_coverage_min": min(covered["all"]), "auc_coverage_max": max(covered["many"])}
    figures |= judge_proportions(options.cohorts)
    for key in ("auc_coverage_min", "auc_coverage_max", "proportion_coverage_min", "proportion_coverage_max"):
        print(f"{key:<28}{figures[key]:.3f}")
    if options.json:
        write_json(options.json, figures)


def judge_case(
    shape: str, auc: float, n_patients: int, share: float, most: int, n_cohorts: int, *, compared: bool
) -> dict[str, float]:
    """Return how often intervals of an AUC hold it, and their mean width; with ``compared`` of the usual ones too."""
    kinds: dict[str, Callable[..., Estimate]] = {"": estimate_ours}
    if compared:
        kinds |= {"items_": estimate_by_items, "bootstrap_": estimate_by_bootstrap}
    held, widths = dict.fromkeys(kinds, 0), dict.fromkeys(kinds, 0.0)
    for cohort in draw_cohorts(shape, auc, n_patients, share, most, n_cohorts):
        for kind, estimate in kinds.items():
            found = estimate(*cohort)
            held[kind] += found.low <= auc <= found.high
            widths[kind] += found.high - found.low
    return {
        f"{kind}{what}": table[kind] / n_cohorts
        for kind in kinds
        for what, table in (("coverage", held), ("width", widths))
    }


def draw_cohorts(
    shape: str, auc: float, n_patients: int, share: float, most: int, n_cohorts: int
) -> Iterator[tuple[Any, Any, Any]]:
    """Yield labels, scores and patients of cohorts; a patient has one class and one to ``most`` images."""
    draw = np.random.default_rng(1)
    positive = np.arange(n_patients) < round(n_patients * share)
    hidden_share = min(SHARE_HIDDEN, 0.8 * (1 - auc)) if shape == "hidden" else 0.0
    apart = math.sqrt(2) * ndtri((auc - hidden_share / 2) / (1 - hidden_share))
    if shape == "wide":
        apart = math.sqrt(1 + WIDTH**2) * ndtri(auc)
    for _ in range(n_cohorts):
        groups = np.repeat(np.arange(n_patients), draw.integers(1, most + 1, n_patients))
        labels = positive[groups]
        common, own = draw.normal(size=n_patients)[groups], draw.normal(size=len(groups))
        scores = math.sqrt(CORRELATION) * common + math.sqrt(1 - CORRELATION) * own
        scores *= np.where(labels & (shape == "wide"), WIDTH, 1.0)
        scores += apart * (labels & ~(draw.random(n_patients) < hidden_share)[groups])
        yield labels.astype(np.int64), scores, groups


def estimate_ours(labels: Any, scores: Any, groups: Any) -> Estimate:
    """Return the interval that Thawline reports."""
    return estimate_auc(measure_areas(labels, np.stack([-scores, scores], axis=1), groups, [1]))


def estimate_by_items(labels: Any, scores: Any, groups: Any) -> Estimate:
    """Return DeLong's interval of items as if each were a patient: value ± 1.96 standard errors."""
    areas = measure_areas(labels, np.stack([-scores, scores], axis=1), np.arange(len(groups)), [1])
    value, error = float(areas.values[0]), math.sqrt(float(areas.covariance()[0, 0]))
    return Estimate(value, value - 1.96 * error, value + 1.96 * error)


def estimate_by_bootstrap(labels: Any, scores: Any, groups: Any) -> Estimate:
    """Return percentiles of a bootstrap of patients."""
    values = resample_auc(labels, scores, patient_counts(groups, N_RESAMPLES, 0), groups)
    once = np.ones((1, int(groups.max()) + 1))
    return interval(values, float(resample_auc(labels, scores, once, groups)[0]), len(np.unique(groups)))


def judge_proportions(n_cohorts: int) -> dict[str, float]:
    """Return how often intervals of a proportion hold it: beta-binomial patients of one to eight items."""
    figures: dict[str, float] = {}
    for share, n_patients in itertools.product(PROPORTIONS, PATIENTS):
        draw, held = np.random.default_rng(2), 0
        for _ in range(n_cohorts):
            groups = np.repeat(np.arange(n_patients), draw.integers(1, 9, n_patients))
            own = draw.beta(3 * share, 3 * (1 - share), n_patients)
            found = estimate_proportion(draw.random(len(groups)) < own[groups], groups)
            held += found.low <= share <= found.high
        figures[f"proportion_{share}_{n_patients}_coverage"] = held / n_cohorts
    values = list(figures.values())
    return figures | {"proportion_coverage_min": min(values), "proportion_coverage_max": max(values)}


if __name__ == "__main__":
    main()
