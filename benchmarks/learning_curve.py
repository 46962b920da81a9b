"""Learning curves on real images: the AUC with all patients, foretold from half of them or fewer.

    python benchmarks/learning_curve.py [--data NAMES] [--repeats 20] [--json FILE]

Features of the frozen EfficientNet-Lite0, the linear head with its strength chosen by patient in five folds, each data set's
own test part. Twice: ``test`` scores every head on the test part, so that what remains is the error of the continuation
from half of the development patients to all; ``left_out`` is what a user has, who trains on up to three quarters of the
development patients and scores on the others, and compares with the test part all the same. Points are 100 × AUC.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from environment import write_json
from peers import SHARED, open_frozen
from thawline.data.dataset import load_dataset
from thawline.data.splits import make_folds, make_groups
from thawline.judge import learning_curve
from thawline.judge.metrics import macro_auc
from thawline.learn.features import extract
from thawline.learn.linear import STRENGTHS, decompose, fit_path, select_linear
from thawline.types import SilentListener

TESTED_SHARE, N_FOLDS = 0.25, 5
FILES = {"covid-ct": "covid-ct", "pneumoniamnist": "npz/pneumoniamnist.npz"}


def main() -> None:
    """Measure, continue, compare; print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=",".join(FILES))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures: dict[str, Any] = {"repeats": options.repeats}
    for name in options.data.split(","):
        development, test = read_parts(FILES[name])
        whole = score(fit_head(*development), test)
        for way, found in (
            ("test", continue_on_test(development, test, options.repeats)),
            ("left_out", continue_left_out(development, options.repeats)),
        ):
            figures |= {f"{name}_{way}_{key}": value for key, value in compare(*found, whole).items()}
    for key, value in figures.items():
        print(f"{key:<44} {value:10.4f}")
    if options.json:
        write_json(options.json, figures)


def read_parts(path: str) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return features, labels and patients of the development part, and of the test part."""
    dataset, quiet = load_dataset(SHARED / "data" / path), SilentListener()
    features = np.asarray(extract(*open_frozen(dataset, quiet)[0], quiet).features, np.float32)
    arrays = features, dataset.labels(), make_groups([item.patient for item in dataset.items], [])
    held = np.array([item.split == "test" for item in dataset.items])
    return tuple(each[~held] for each in arrays), tuple(each[held] for each in arrays)


def fit_head(features: Any, labels: Any, groups: Any) -> Any:
    """Return the linear head of the strength that is best out of fold."""
    n_classes = int(labels.max()) + 1
    found = select_linear(features, labels, make_folds(labels, groups, 0, N_FOLDS)[0], n_classes)
    return fit_path(decompose(features), labels, n_classes, [STRENGTHS[found.best]])[0]


def score(head: Any, part: tuple[Any, ...]) -> float:
    """Return the AUC of a head on a part."""
    return macro_auc(part[1], head.predict_proba(part[0]))


def continue_on_test(development: Any, test: Any, n_repeats: int) -> tuple[Any, Any, int]:
    """Return sizes up to half of the patients, AUCs (repeats, sizes) on the test part, and the number of all patients."""
    n_patients, n_rarest = count_patients(*development[1:])
    sizes = learning_curve.choose_sizes(n_patients // 2, n_rarest // 2)
    subsets = [learning_curve.draw_subsets(development[2], development[1], size, n_repeats, 0) for size in sizes]
    aucs = [[score(fit_head(*take(development, row)), test) for row in rows] for rows in subsets]
    return sizes, (np.array(aucs).T, 0.0), n_patients


def continue_left_out(development: Any, n_repeats: int) -> tuple[Any, Any, int]:
    """Return sizes up to three quarters of the patients, AUCs on the patients left out, and the number of all."""
    n_patients, n_rarest = count_patients(*development[1:])
    share = 1 - TESTED_SHARE
    sizes = learning_curve.choose_sizes(round(share * n_patients), round(share * n_rarest))
    subsets = [learning_curve.draw_subsets(development[2], development[1], size, n_repeats, 1) for size in sizes]
    held = [take(development, ~row) for row in subsets[-1]]
    aucs = [[score(fit_head(*take(development, row)), held[k]) for k, row in enumerate(rows)] for rows in subsets]
    return sizes, (np.array(aucs).T, TESTED_SHARE), n_patients


def count_patients(labels: Any, groups: Any) -> tuple[int, int]:
    """Return the number of patients, and of those with an item of the rarest class."""
    return len(np.unique(groups)), min(len(np.unique(groups[labels == k])) for k in np.unique(labels))


def take(part: tuple[Any, ...], items: Any) -> tuple[Any, ...]:
    """Return some items of a part."""
    return tuple(each[items] for each in part)


def compare(sizes: Any, scored: tuple[Any, float], n_patients: int, whole: float) -> dict[str, Any]:
    """Return what was foretold, its error in points, and whether the interval holds the AUC of the head of all."""
    aucs, share = scored
    means, covariance, common = learning_curve.average_repeats(sizes, aucs, tested_share=share)
    curve = learning_curve.fit_curve(sizes, means, covariance, common)
    foretold, ten = learning_curve.extrapolate(curve, [n_patients, 10 * n_patients])
    hidden = learning_curve.check_by_hiding(sizes, means, covariance)
    return {
        "patients_seen": int(sizes[-1]),
        "patients": n_patients,
        "auc_seen": float(means[-1]),
        "foretold": foretold.value,
        "foretold_low": foretold.low,
        "foretold_high": foretold.high,
        "measured": whole,
        "error_points": 100 * (foretold.value - whole),
        "held": float(foretold.low <= whole <= foretold.high),
        "ten_times": ten.value,
        "ten_times_low": ten.low,
        "ten_times_high": ten.high,
        "hindcast_error_points": hidden.error_points,
        "hindcast_held": float(hidden.held),
    }


if __name__ == "__main__":
    main()
