"""The whole main job on covid-ct, cold and warm, beside the plain peer and fastai.

    python benchmarks/main_job.py [--quick] [--json FILE] [--fastai PYTHON]

Both sides are scored on the official test part. `auc` is the main job as it is: development is train and val together.
`same_items_auc` is the main job on the train rows alone, the items that the peers fit on (they choose on val, which ours
then does not see). fastai needs an environment of its own: name its Python with --fastai.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from environment import write_json

SHARED = Path(os.environ.get("THAWLINE_SHARED", Path(__file__).parents[2] / "shared"))
DATA = SHARED / "data" / "covid-ct"


def main() -> None:
    """Run all sides one after the other, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the linear head only, no peers")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--fastai", help="Python of an environment that has fastai")
    parser.add_argument("--fastai-seeds", type=int, default=2)
    options = parser.parse_args()
    frozen = ["--strategy", "feature_extractor,feature_extractor_hybrid", "--controls", "none"]
    extra = ["--head", "linear"] if options.quick else frozen
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.update(THAWLINE_CACHE=str(folder / "cache"), THAWLINE_DATA=str(folder / "ledger"))
        cold, warm = (run_ours(DATA, folder / part, extra) for part in ("cold", "warm"))
        figures = {
            "seconds": cold["seconds"],
            "peak_rss_mib": cold["metrics"]["cost"]["peak_rss_mib"],
            **take_scores(cold["metrics"], ""),
            "warm_seconds": warm["seconds"],
            "warm_share": warm["seconds"] / cold["seconds"],
        }
        if not options.quick:
            same = run_ours(write_train_manifest(folder), folder / "same", ["--allow-outside", *extra])
            figures |= take_scores(same["metrics"], "same_items_")
            figures |= run_peer("plain", sys.executable, "plain_linear_probe.py")
            figures |= run_peer("plain_channels_last", sys.executable, "plain_linear_probe.py", "--channels-last")
        for seed in range(options.fastai_seeds) if options.fastai else ():
            figures |= run_peer(f"fastai_seed{seed}", options.fastai, "fastai_fine_tune.py", "--seed", str(seed))
    for key, value in figures.items():
        print(f"{key:<32} {value:10.3f}")
    if options.json:
        write_json(options.json, figures)


def run_ours(data: Path, out: Path, extra: list[str]) -> dict[str, Any]:
    """Run the command line as a user does and return its wall seconds and metrics."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "thawline.cli", "run", str(data), "--out", str(out), "--quiet", "--json", *extra]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {"seconds": time.perf_counter() - began, "metrics": json.loads(output)["metrics"]}


def take_scores(metrics: dict[str, Any], prefix: str) -> dict[str, float]:
    """Return the test AUC and accuracy with their intervals as flat figures."""
    return {
        f"{prefix}{metric}{suffix}": metrics["test"][metric][end]
        for metric in ("auc", "accuracy")
        for suffix, end in (("", "value"), ("_low", "low"), ("_high", "high"))
    }


def write_train_manifest(folder: Path) -> Path:
    """Write a manifest of the train and test rows only, pointing at the images where they are."""
    with (DATA / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] != "val"]
    path = folder / "train_only.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["path", "label", "patient", "split"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, "path": str(DATA / row["path"])} for row in rows)
    return path


def run_peer(name: str, python: str, script: str, *flags: str) -> dict[str, float]:
    """Run a peer's script on the same data and return what it scored, and its seconds, start-up included."""
    began = time.perf_counter()
    command = [python, str(SHARED / "peers" / script), str(DATA), *flags]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    scores = json.loads(output.strip().splitlines()[-1])
    return {
        f"{name}_auc": scores["auc"],
        f"{name}_accuracy": scores["accuracy"],
        f"{name}_seconds": time.perf_counter() - began,
    }


if __name__ == "__main__":
    main()
