"""Few patients: how far one test part, cross-validation and nested cross-validation lie from what the model is worth.

    python benchmarks/nested.py [--draws 20] [--items 100] [--json FILE]

Of a large set about so many images are drawn, by patient, and are all that a run has: heads of the frozen EfficientNet-Lite0
at 128 px, chosen among, nested cross-validation included. What its model is worth is its AUC on all images that were not
drawn, some hundred to some thousand. Errors are in points, hundredths of AUC: an estimate less that.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

import thawline
from environment import write_json
from peers import SHARED
from thawline.data.dataset import load_dataset
from thawline.data.splits import make_folds, make_groups
from thawline.judge.metrics import macro_auc
from thawline.types import SilentListener

DATA = ("chest-xray3", "covid-ct")  # which name patients
PARTS = ("test", "validation", "nested")
OPTIONS = {
    "strategy": "feature_extractor,feature_extractor_hybrid",
    "size_px": 128,
    "audit": "none",
    "controls": "none",
    "nested": "1",
    "allow_outside": True,
}


class Quiet(SilentListener):
    """Nobody watches."""

    def warn(self, message: str) -> None:
        """Ignore it."""


def main() -> None:
    """Run all draws, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--work", type=Path, default=Path("work") / "nested")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    os.environ.update(THAWLINE_DATA=str(work / "ledger"), THAWLINE_CACHE=str(work / "cache"))
    figures: dict[str, float] = {"draws": options.draws, "items": options.items}
    for name in DATA:
        found = [draw_and_judge(name, options.items, seed, work) for seed in range(options.draws)]
        for part in PARTS:
            figures |= {f"{name}_{part}_{key}": value for key, value in hold_to_truth(found, part).items()}
    if options.json:
        write_json(options.json, figures)


def draw_and_judge(name: str, n_items: int, seed: int, work: Path) -> dict[str, Any]:
    """Return the AUC that each part of a run on some images says, and that of its model on all others."""
    dataset = load_dataset(SHARED / "data" / name)
    labels, groups = dataset.labels(), make_groups([item.patient for item in dataset.items], [])
    drawn = make_folds(labels, groups, seed, round(len(labels) / n_items))[0] == 0
    manifest = work / f"{name}{seed}.csv"
    with manifest.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "patient"])
        for place in np.flatnonzero(drawn):
            item = dataset.items[place]
            writer.writerow([os.path.relpath(SHARED / "data" / name / item.path, work), item.label, item.patient])
    out = work / f"{name}{seed}"
    result = thawline.run(manifest, out, listener=Quiet(), **OPTIONS)
    model, rest = result.load_model(), np.flatnonzero(~drawn)
    probabilities = model.predict_proba([dataset.contents[place] for place in rest], Quiet())
    truth = macro_auc(labels[rest], probabilities, positive=1)
    found = {part: result.metrics[part]["auc"] for part in PARTS} | {"truth": truth}
    shutil.rmtree(out)
    print(name, seed, *(f"{found[part]['value']:.3f}" for part in PARTS), f"{truth:.3f}", flush=True)
    return found


def hold_to_truth(found: list[dict[str, Any]], part: str) -> dict[str, float]:
    """Return mean error and its standard error, root mean square error, width and coverage of intervals."""
    errors = 100 * np.array([each[part]["value"] - each["truth"] for each in found])
    ends = [(each[part]["low"] or 0.0, each[part]["high"] or 1.0) for each in found]  # so few that there is none: all
    widths = [high - low for low, high in ends]
    held = [low <= each["truth"] <= high for (low, high), each in zip(ends, found, strict=True)]
    return {
        "bias_points": float(errors.mean()),
        "bias_se": float(errors.std(ddof=1) / np.sqrt(len(errors))),
        "rms_points": float(np.sqrt((errors**2).mean())),
        "width": float(np.mean(widths)),
        "covered": float(np.mean(held)),
    }


if __name__ == "__main__":
    main()
