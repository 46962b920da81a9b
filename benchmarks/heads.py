"""Choose and fit the linear head: ours against scikit-learn pipelines, 5 strengths x 5 folds and the final fit.

    python benchmarks/heads.py [--quick] [--json FILE] [--features FILE.npz] [--jobs N]

FILE.npz holds ``features`` (items, features), ``labels`` and ``groups`` (items,). Without it features are made up: as
many and as wide as those of EfficientNet-Lite0 on chest-xray3, not negative, correlated, with classes that overlap.
Both sides run in turn in one process. scikit-learn runs twice, as it comes (its default threads) and held to one
thread, which is the faster of the two where numpy and scipy each bring a pool of threads. Its default tolerance stops
well before the minimum at weak penalties; differences are from a tight float64 fit, whose seconds are printed too.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from environment import environment, write_json
from thawline.learn.linear import STRENGTHS, decompose, fit_path, select_linear

N_FOLDS, N_PAIRS, TIGHT = 5, 3, 1e-8


def make_features(seed: int = 0) -> dict[str, np.ndarray]:
    """Return 1,124 x 1,280 made-up features with the spectrum of pooled activations, three classes that overlap."""
    rng = np.random.default_rng(seed)
    n_items, n_features, n_factors = 1124, 1280, 900
    labels = np.repeat([0, 1, 2], [124, 500, 500])
    factors = rng.standard_normal((n_items, n_factors))
    factors[:, 2:40] += 0.25 * rng.standard_normal((3, 38))[labels]
    decay = (1 + np.arange(n_factors)) ** -0.65
    raw = (factors * decay) @ rng.standard_normal((n_factors, n_features))
    raw += 0.1 * raw.std() * rng.standard_normal(raw.shape) - rng.uniform(0, 1, n_features) * raw.std()
    softened = np.logaddexp(0, 4 * raw / raw.std()) / 4  # the mean over a map of rectified values is never quite zero
    return {"features": softened.astype(np.float32), "labels": labels, "groups": np.arange(n_items)}


def read_features(path: Path) -> dict[str, np.ndarray]:
    """Return the three arrays of an npz file."""
    with np.load(path, allow_pickle=False) as content:
        return {name: content[name] for name in ("features", "labels", "groups")}


def make_folds(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the fold of each item, the same for both sides."""
    folds = np.empty(len(labels), np.int64)
    splitter = StratifiedGroupKFold(N_FOLDS, shuffle=True, random_state=0)
    for fold, (_, scored) in enumerate(splitter.split(labels, labels, groups)):
        folds[scored] = fold
    return folds


def choose_ours(data: dict[str, np.ndarray], folds: np.ndarray, jobs: int) -> tuple[int, np.ndarray]:
    """Choose and fit with Thawline; the index of the strength, and out-of-fold probabilities of every strength."""
    n_classes = int(data["labels"].max()) + 1
    selection = select_linear(data["features"], data["labels"], folds, n_classes, n_jobs=jobs)
    fit_path(decompose(data["features"]), data["labels"], n_classes, [STRENGTHS[selection.best]])
    return selection.best, selection.probabilities


def choose_sklearn(data: dict[str, np.ndarray], folds: np.ndarray, **settings: Any) -> tuple[int, np.ndarray]:
    """Choose and fit the same with scikit-learn pipelines."""
    features, labels = data["features"], data["labels"]
    probabilities = np.empty((len(STRENGTHS), len(labels), int(labels.max()) + 1))

    def fit(strength: float, training: np.ndarray) -> Any:
        head = make_pipeline(StandardScaler(), LogisticRegression(C=strength, **{"max_iter": 1000, **settings}))
        return head.fit(features[training], labels[training])

    for row, strength in zip(probabilities, STRENGTHS, strict=True):
        for fold in range(N_FOLDS):
            row[folds == fold] = fit(strength, folds != fold).predict_proba(features[folds == fold])
    probabilities /= probabilities.sum(axis=2, keepdims=True)  # float32 sums are not quite one
    best = int(np.argmin([log_loss(labels, row) for row in probabilities]))
    fit(STRENGTHS[best], np.ones(len(labels), bool))
    return best, probabilities


def measure(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return wall-clock seconds and the result."""
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def compare(data: dict[str, np.ndarray], n_pairs: int, jobs: int) -> dict[str, Any]:
    """Measure both sides in turn and return the figures."""
    folds = make_folds(data["labels"], data["groups"])
    small = {name: array[::8] for name, array in data.items()}
    choose_ours(small, folds[::8], jobs)  # imports and thread pools belong to neither side
    choose_sklearn(small, folds[::8])
    seconds: dict[str, list[float]] = {"ours": [], "sklearn": [], "one_thread": []}
    for _ in range(n_pairs):
        spent, ours = measure(lambda: choose_ours(data, folds, jobs))
        seconds["ours"].append(spent)
        spent, theirs = measure(lambda: choose_sklearn(data, folds))
        seconds["sklearn"].append(spent)
        with threadpool_limits(1):
            seconds["one_thread"].append(measure(lambda: choose_sklearn(data, folds))[0])
    # float64 and a tight tolerance: the solution that both sides approach
    exact = {**data, "features": data["features"].astype(np.float64)}
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        tight, (_, reference) = measure(lambda: choose_sklearn(exact, folds, tol=TIGHT, max_iter=20000))
    times = {name: np.array(values) for name, values in seconds.items()}
    return {
        "ratio_sklearn": float(np.median(times["sklearn"] / times["ours"])),
        "ratio_sklearn_one_thread": float(np.median(times["one_thread"] / times["ours"])),
        "same_choice": int(ours[0] == theirs[0]),
        "strength": STRENGTHS[ours[0]],
        "seconds_ours": float(np.median(times["ours"])),
        "seconds_sklearn": float(np.median(times["sklearn"])),
        "seconds_sklearn_one_thread": float(np.median(times["one_thread"])),
        "seconds_sklearn_converged": tight,
        "max_probability_difference": float(np.abs(ours[1] - reference).max()),
        "max_probability_difference_sklearn": float(np.abs(theirs[1] - reference).max()),
        "pairs": n_pairs,
        "jobs": jobs,
    }


def main() -> None:
    """Measure, print a table, and write the figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one pair instead of three")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--features", "--data", type=Path, help="npz file with features, labels and groups")
    parser.add_argument("--jobs", type=int, default=environment()["cores"], help="folds we solve at a time")
    options = parser.parse_args()
    data = read_features(options.features) if options.features else make_features()
    figures = compare(data, 1 if options.quick else N_PAIRS, options.jobs)
    origin = (
        str(options.features) if options.features else "made up (decaying spectrum, rectified, overlapping classes)"
    )
    items, features = data["features"].shape
    print(f"{items} items x {features} features, {len(np.unique(data['labels']))} classes, {origin}")
    print(f"{len(STRENGTHS)} strengths x {N_FOLDS} folds and the final fit; medians of {figures['pairs']} runs in turn")
    for name, value in figures.items():
        print(f"  {name:<36} {value:.3g}")
    if options.json:
        write_json(options.json, {**figures, "features": origin, "items": items})


if __name__ == "__main__":
    main()
