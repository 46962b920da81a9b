"""Labels that are noise, through the whole pipeline: what the test part says then.

    python benchmarks/noise.py [--seeds 50] [--nested] [--work FOLDER] [--json FILE]

With ``--nested`` every run is repeated with each part of the patients put aside, and ``nested_...`` says what comes of that.
Films of 60 made-up patients, two each, whose labels are permuted by patient, each time in another way. The whole of a
run: heads, thaw lines within a budget, the choice among them, calibration, a threshold for a sensitivity, prediction sets,
the test part. ``mean_auc`` should be .5 within three of its standard errors, and 95 % intervals hold .5 in 43 of 50 cases or
more.
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
from thawline.data.phantoms import MANIFEST, PhantomOptions, make_phantoms

OPTIONS = {
    "size_px": 32,
    "folds": 3,
    "audit": "none",
    "controls": "none",
    "budget": "15s",
    "threshold": "sensitivity:0.8",
}
N_PATIENTS = 60


def main() -> None:
    """Run all seeds, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--nested", action="store_true")
    parser.add_argument("--work", type=Path, default=Path("work") / "noise")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    work = options.work.resolve()
    os.environ.update(THAWLINE_DATA=str(work / "ledger"), THAWLINE_CACHE=str(work / "cache"))
    if not (work / "films" / MANIFEST).is_file():
        make_phantoms(work / "films", PhantomOptions(n_patients=N_PATIENTS, size_px=64, views=(1, 2)))
    found = [run_noise(work, seed, nested=options.nested) for seed in range(options.seeds)]
    figures = summarise(found)
    for key, value in figures.items():
        print(f"{key:<32} {value:10.3f}")
    if options.json:
        write_json(options.json, figures)


def run_noise(work: Path, seed: int, *, nested: bool) -> dict[str, Any]:
    """Return test and out-of-fold AUC, coverage of prediction sets and what was chosen, of labels permuted by patient."""
    data = permute_labels(work / "films", seed)
    out = work / f"run{seed}"
    metrics = thawline.run(data, out, seed=seed, nested="1" if nested else "never", **OPTIONS).metrics
    shutil.rmtree(out)
    return {
        "test": metrics["test"]["auc"],
        "validation": metrics["validation"]["auc"],
        **({"nested": metrics["nested"]["auc"]} if nested else {}),
        "sets": metrics["doubts"]["test"]["sets"]["coverage"]["value"],
        "thawed": metrics["chosen"]["thaw_line"] is not None,
        "n_rungs": len(metrics["ladder"]),
    }


def permute_labels(folder: Path, seed: int) -> Path:
    """Write a manifest in which patients have one another's labels, and return its path."""
    with (folder / MANIFEST).open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    labels = {row["patient"]: row["label"] for row in rows}
    others = np.random.default_rng(seed).permutation(list(labels.values()))
    given = dict(zip(labels, others, strict=True))
    path = folder / f"noise{seed}.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "patient"])
        writer.writerows([row["path"], given[row["patient"]], row["patient"]] for row in rows)
    return path


def summarise(found: list[dict[str, Any]]) -> dict[str, float]:
    """Return means over seeds, and how often intervals hold .5."""
    parts = {"": "test", **({"nested_": "nested"} if "nested" in found[0] else {})}
    return {
        "seeds": len(found),
        **{f"{name}{key}": value for name, part in parts.items() for key, value in hold_to_half(found, part).items()},
        "validation_mean_auc": float(np.mean([each["validation"]["value"] for each in found])),
        "set_coverage": float(np.mean([each["sets"] for each in found])),
        "thawed": float(sum(each["thawed"] for each in found)),
        "mean_rungs": float(np.mean([each["n_rungs"] for each in found])),
    }


def hold_to_half(found: list[dict[str, Any]], part: str) -> dict[str, float]:
    """Return the mean AUC of a part over seeds, how far it lies from .5, and how many intervals hold that."""
    aucs = [each[part] for each in found]
    values = np.array([each["value"] for each in aucs])
    error = values.std(ddof=1) / np.sqrt(len(values))
    return {
        "mean_auc": float(values.mean()),
        "standard_error": float(error),
        "errors_from_half": float(abs(values.mean() - 0.5) / error),
        "covered": float(sum(each["low"] <= 0.5 <= each["high"] for each in aucs)),
    }


if __name__ == "__main__":
    main()
