"""Files to features, images a second: Thawline against the loop that a competent engineer writes, in turn.

    python benchmarks/throughput.py [--quick] [--json FILE] [--data FOLDER]

The peer is `plain_linear_probe.py` of the shared folder (timm, DataLoader with two workers, batches of 32), once in its
default layout and once channels-last; its own clock covers the same span: files to features. `share_of_limit` compares
the measured rate with what decoder and engine could reach together on the same cores, 1 / (1/decode alone + 1/engine
alone), each alone on all cores, at f32.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from environment import write_json

QUICK_ITEMS = 64
SHARED = Path(os.environ.get("THAWLINE_SHARED", Path(__file__).parents[2] / "shared"))


def main() -> None:
    """Measure, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer images, one pair")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "covid-ct")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = take_items(options.data, Path(folder) / "data", QUICK_ITEMS) if options.quick else options.data
        os.environ["THAWLINE_CACHE"] = str(Path(folder) / "cache")
        figures = measure(data, 1 if options.quick else 3)
    for name, value in figures.items():
        print(f"{name:<22} {value:10.2f}")
    if options.json:
        write_json(options.json, figures)


def measure(data: Path, n_pairs: int) -> dict[str, float]:
    """Run ours and theirs in turn; ratios are of neighbours in time, then the median."""
    from thawline.data.dataset import load_dataset
    from thawline.data.readers import content_digest, read_content
    from thawline.learn.engine import detect_hardware, open_engine
    from thawline.learn.features import extract, prepare_all
    from thawline.learn.weights import find_weights
    from thawline.types import Contract, SilentListener

    dataset, hardware = load_dataset(data), detect_hardware("cpu")
    weights = find_weights("efficientnet_lite0")
    architecture = weights.architecture
    contract = Contract(architecture.size_px, architecture.mean, architecture.std, architecture.interpolation)
    digests = [content_digest(read_content(content)) for content in dataset.contents]
    n_items = len(dataset.items)
    open_engine(weights, contract, hardware)  # converts the network once, as any first run does
    features = Path(os.environ["THAWLINE_CACHE"]) / "features"

    def ours() -> float:
        shutil.rmtree(features, ignore_errors=True)
        seconds = clock(lambda: extract(dataset.contents, digests, weights, contract, hardware, SilentListener()))
        return n_items / seconds

    def decode_alone() -> float:
        return n_items / clock(lambda: sum(1 for _ in prepare_all(dataset.contents, contract, hardware.cores)))

    engine = open_engine(weights, contract, hardware)
    batch = np.random.default_rng(0).integers(0, 255, (engine.batch_items, 224, 224, 3)).astype(np.uint8)
    n_batches = -(-n_items // engine.batch_items)

    def engine_alone() -> float:
        seconds = clock(lambda: sum(1 for _ in engine.run(batch for _ in range(n_batches))))
        return n_batches * engine.batch_items / seconds

    rows = []
    for _ in range(n_pairs):
        row = {"decode_alone": decode_alone(), "engine_alone": engine_alone(), "ours": ours()}
        row["share_of_limit"] = row["ours"] * (1 / row["decode_alone"] + 1 / row["engine_alone"])
        row["plain"] = run_peer(data)
        row["ours_again"] = ours()
        row["channels_last"] = run_peer(data, "--channels-last")
        row["ratio_plain"] = (row["ours"] + row["ours_again"]) / 2 / row["plain"]
        row["ratio_channels_last"] = row["ours_again"] / row["channels_last"]
        rows.append(row)
    keys = [key for key in rows[0] if key != "ours_again"]
    return {"items": n_items, "pairs": n_pairs, **{key: statistics.median(row[key] for row in rows) for key in keys}}


def run_peer(data: Path, *flags: str) -> float:
    """Run the peer's script and return the images a second that it measured itself."""
    command = [sys.executable, str(SHARED / "peers" / "plain_linear_probe.py"), str(data), *flags]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(output.strip().splitlines()[-1])["images_per_second"])


def take_items(data: Path, folder: Path, n_items: int) -> Path:
    """Copy every k-th row of a manifest, with its image, so that both sides read the same few items."""
    with (data / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = rows[:: max(1, len(rows) // n_items)]
    for row in chosen:
        (folder / row["path"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data / row["path"], folder / row["path"])
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(chosen)
    return folder


def clock(work: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
