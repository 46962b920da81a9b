"""What cached views lose against fresh augmentation: out-of-fold log-loss at 1, 4 and 8 cached views, and fresh ones.

    python benchmarks/views.py [--data chest-xray3] [--line blocks.5] [--folds 2] [--epochs 13] [--json FILE]

The modality's augmentation; the same folds, head, recipe and seed each time, no search. The loss is taken at each setting's
best scale of the logits, so that what differs is the network and not how sure it is. The first folds of five are scored.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from environment import write_json
from peers import MODALITIES, SHARED, open_frozen
from thawline.data.dataset import load_dataset
from thawline.data.splits import make_folds, make_groups
from thawline.judge.calibration import blend, fit_scales
from thawline.judge.metrics import item_log_loss, macro_auc
from thawline.learn.activations import fill_activations, open_fresh
from thawline.learn.development import Development
from thawline.learn.features import extract
from thawline.learn.loading import load_backbone
from thawline.learn.stages import find_stages
from thawline.learn.thawing import Thaw, fit_heads
from thawline.learn.training import predict_logits, train
from thawline.plan_thawing import AUGMENTATIONS
from thawline.types import Recipe, SilentListener

VIEWS = (1, 4, 8)


def main() -> None:
    """Train every setting on the same folds, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="chest-xray3")
    parser.add_argument("--line", default="blocks.5")
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=13)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    dataset = load_dataset(SHARED / "data" / options.data)
    quiet = SilentListener()
    about, facts = open_frozen(dataset, quiet)
    _, _, weights, _, hardware = about
    features = extract(*about, quiet).features
    labels, groups = dataset.labels(), make_groups([item.patient for item in dataset.items], [])
    development = Development(labels, groups, make_folds(labels, groups, 0, 5)[0], len(dataset.classes))
    line = next(each for each in facts.lines if each.name == options.line)
    augmentation = AUGMENTATIONS[MODALITIES.get(options.data, "unknown")][0]
    settings = {f"views_{k}": fill_activations(*about, [line], augmentation, k, 0, quiet)[line.name] for k in VIEWS}
    settings["fresh"] = open_fresh(*about, line, augmentation, 0)
    stages = find_stages(load_backbone(weights))
    figures: dict[str, float] = {"items": len(labels), "folds": options.folds, "epochs": options.epochs}
    for name, activations in settings.items():
        recipe = Recipe(epochs=options.epochs, bf16=hardware.bf16)
        thaw = Thaw(stages, line.name, activations, features, development, recipe)
        figures |= {f"{name}_{key}": value for key, value in score(thaw, range(options.folds)).items()}
        print(name, {key: value for key, value in figures.items() if key.startswith(name)}, flush=True)
    figures["loss_of_4_over_fresh"] = figures["views_4_log_loss"] - figures["fresh_log_loss"]
    if options.json:
        write_json(options.json, figures)


def score(thaw: Thaw, folds: range) -> dict[str, float]:
    """Train on the rest of each fold; return log-loss, AUC and accuracy out of fold, and seconds a fold."""
    development, began = thaw.development, time.perf_counter()
    losses, areas, right = [], [], []
    for fold in folds:
        training, scored = (np.flatnonzero(part) for part in (development.folds != fold, development.folds == fold))
        about = (thaw.activations, development.labels, training, thaw.recipe, "views")
        trained, _ = train(thaw.start(fit_heads(thaw, training)[0]), *about, blocks=thaw.blocks)
        logits, labels = predict_logits(trained, thaw.activations, scored), development.labels[scored]
        probabilities = blend(fit_scales(labels, logits), logits)
        losses.append(item_log_loss(labels, probabilities))
        areas.append(macro_auc(labels, probabilities))
        right.append(probabilities.argmax(axis=1) == labels)
    return {
        "log_loss": float(np.concatenate(losses).mean()),
        "auc": float(np.mean(areas)),
        "accuracy": float(np.concatenate(right).mean()),
        "seconds_a_fold": (time.perf_counter() - began) / len(folds),
    }


if __name__ == "__main__":
    main()
