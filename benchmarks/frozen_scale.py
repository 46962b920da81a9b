"""A fold that stays frozen: its head as it is, or scaled as its inner part would have it. Log-loss on items never seen.

    python benchmarks/frozen_scale.py [--draws 20] [--json FILE]

Made-up features (normal, 400 axes of falling variance, two classes, from hardly apart to well) and those of the frozen
EfficientNet-Lite0 on real images. Of so many items a draw, by patient, an inner fold of five is held back: the scale is that
of a head which the others taught, the head is that of all, as in a fold of a rung. All items that are not drawn are scored.
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
from thawline.judge.calibration import blend, fit_scales
from thawline.judge.metrics import item_log_loss
from thawline.learn.features import extract
from thawline.learn.heads import HEADS, Training, fit_part
from thawline.types import SilentListener

SIZES = (60, 120, 250, 500)  # items of a training part, about; at most half of a set
APART = {"weak": 0.04, "fair": 0.07, "strong": 0.15}
DATA = ("covid-ct", "breast-us", "brain-mri", "chest-xray3")


def main() -> None:
    """Draw, fit, score, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sets: dict[str, Any] = {name: lambda draw, apart=apart: make_features(apart, draw) for name, apart in APART.items()}
    for name in DATA:
        content = read_features(name)
        sets[name] = lambda _, content=content: content
    figures: dict[str, float] = {}
    for name, make in sets.items():
        for size in [size for size in SIZES if size <= len(make(0)[1]) / 2]:
            found = np.array([compare(*make(draw), size, draw) for draw in range(options.draws)])
            gained = found[:, 1] - found[:, 0]
            figures |= {
                f"{name}_{size}_as_it_is": float(found[:, 0].mean()),
                f"{name}_{size}_scaled": float(found[:, 1].mean()),
                f"{name}_{size}_lost": float(gained.mean()),
                f"{name}_{size}_lost_se": float(gained.std(ddof=1) / np.sqrt(options.draws)),
            }
            print(f"{name:<12} {size:5} {found[:, 0].mean():8.4f} {gained.mean():+8.4f}", flush=True)
    if options.json:
        write_json(options.json, figures)


def compare(features: Any, labels: Any, groups: Any, size: int, seed: int) -> tuple[float, float]:
    """Return the log-loss of the head as it is, and scaled, on the items that are not drawn for training."""
    n_parts = round(len(labels) / size)
    taught = make_folds(labels, groups, seed, n_parts)[0] == 0
    inner = make_folds(labels[taught], groups[taught], seed, 5)[0]
    items = np.flatnonzero(taught)
    learned, held, n_classes = items[inner != 0], items[inner == 0], int(labels.max()) + 1

    def fit(part: Any) -> Any:
        training = Training(features[part], labels[part], groups[part], n_classes, seed, None, 1)
        return fit_part(HEADS["linear"], training)[0]

    (scale,) = fit_scales(labels[held], fit(learned).predict_logits(features[held]))
    logits = fit(items).predict_logits(features[~taught])
    as_it_is, scaled = (item_log_loss(labels[~taught], blend((each,), logits)).mean() for each in (1.0, scale))
    return float(as_it_is), float(scaled)


def make_features(apart: float, seed: int, n_items: int = 3000) -> tuple[Any, Any, Any]:
    """Return normal features with two classes that lie ``apart``, their labels, and a patient an item."""
    draw = np.random.default_rng(seed)
    spread = np.exp(-np.arange(400) / 100) + 0.05
    labels = draw.integers(0, 2, n_items)
    means = draw.normal(size=(2, 400)) * apart * spread
    features = draw.normal(size=(n_items, 400)) * spread + means[labels]
    return features.astype(np.float32), labels, np.arange(n_items)


def read_features(name: str) -> tuple[Any, Any, Any]:
    """Return the features of the frozen backbone, labels and patients of all items of a data set."""
    dataset = load_dataset(SHARED / "data" / name)
    quiet = SilentListener()
    features = extract(*open_frozen(dataset, quiet)[0], quiet).features
    return np.asarray(features, np.float32), dataset.labels(), make_groups([item.patient for item in dataset.items], [])


if __name__ == "__main__":
    main()
