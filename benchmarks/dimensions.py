"""Volumes as a slice, as three channels, as a bag, and in three dimensions: bundled weights and a random start.

    python benchmarks/dimensions.py [--kinds NAMES] [--starts NAMES] [--work FOLDER] [--parts FOLDER] [--json FILE]

adrenalmnist3d (shape of the adrenal gland from CT, 64 voxels a side), its own split by patient, EfficientNet-Lite0. Every
kind frozen at 64 px, with its linear head; volumes have all slices, bags 16; attention is trained, and nothing else is.
Bags and volumes also of 16 slices of 32 px, near the 28 that published figures are of: frozen, and all of it trained from
the bundled weights and from a random start, as two networks of two folds. ``ladder``, in 20 minutes at 64 px, is not among
the starts unless it is asked for. Runs are kept in the work folder, what they came to in that of parts: a second start goes
on.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from backbones import keep_run, take_scores
from environment import write_json
from peers import SHARED

DATA = SHARED / "data" / "npz" / "adrenalmnist3d_64.npz"
KINDS = {
    "slice": ["--frame", "middle", "--skip-unreadable"],  # one volume of training has nothing in its middle
    "neighbours": ["--dimensions", "2.5d_neighbours"],
    "orthogonal": ["--dimensions", "2.5d_orthogonal"],
    "bag_mean": ["--dimensions", "2.5d_bag"],
    "bag_max": ["--dimensions", "2.5d_bag", "--pooling", "max"],
    "bag_attention": ["--dimensions", "2.5d_bag", "--pooling", "attention"],
    "acs": ["--dimensions", "3d_acs"],
    "inflated": ["--dimensions", "3d_inflated"],
}
VOLUMES = ("acs", "inflated")  # of which all slices are taken, or few
TRAINED = ("bag_mean", *VOLUMES)
ATTENTION = ["--strategy", "fine_tuning", "--thaw-line", "slice_pooling", "--budget", "none"]
SMALL, LARGE = ["--size-px", "32"], ["--size-px", "64"]
WHOLE = "feature_extractor,fine_tuning,fine_tuning_from_scratch"
STARTS = {
    "frozen": [*LARGE, "--strategy", "feature_extractor"],
    "frozen_32": [*SMALL, "--strategy", "feature_extractor"],
    "pretrained_32": [*SMALL, "--strategy", "fine_tuning_from_scratch", "--folds", "2", "--budget", "none"],
    "random_32": [*SMALL, "--strategy", "random_init", "--folds", "2", "--budget", "none"],
    "attention": [*LARGE, *ATTENTION],
    "ladder": [*LARGE, "--strategy", WHOLE, "--budget", "20m"],
}


def main() -> None:
    """Run all that is not there yet, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--starts", default="frozen,frozen_32,pretrained_32,random_32,attention")
    parser.add_argument("--work", type=Path, default=Path("work") / "dimensions")
    parser.add_argument("--parts", type=Path, default=Path(__file__).parent / "results" / "parts" / "dimensions")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    work = options.work.resolve()
    os.environ.update(THAWLINE_DATA=str(work / "ledger"), THAWLINE_CACHE=str(work / "cache"))
    figures: dict[str, Any] = {}
    for kind in options.kinds.split(","):
        for start in options.starts.split(","):
            wanted = "attention" if kind == "bag_attention" else "frozen"
            if start != wanted and (kind not in TRAINED or start == "attention"):
                continue
            few = "spread:16" if start.endswith("_32") else "all"
            slices = ["--slices", few] if kind in VOLUMES else []
            flags = ["--controls", "none", *STARTS[start], *KINDS[kind], *slices]
            name = f"{kind}_{start}"
            figures |= take_scores(name, keep_run(DATA, name, flags, work, options.parts))
    for key, value in figures.items():
        print(f"{key:<60} {value:10.3f}")
    if options.json:
        write_json(options.json, figures)


if __name__ == "__main__":
    main()
