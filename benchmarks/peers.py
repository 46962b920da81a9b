"""What comparisons share: the peers' own splits as manifests, their predictions, and runs of ours as users start them."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

SHARED = Path(os.environ.get("THAWLINE_SHARED", Path(__file__).parents[2] / "shared"))
Found = TypeVar("Found")
MODALITIES = {
    "covid-ct": "ct",
    "pneumoniamnist": "xray",
    "chest-xray3": "xray",
    "chest-xray3-grouped": "xray",
    "breast-us": "ultrasound",
    "brain-mri": "mri",
}
PEER = """
import contextlib, runpy, sys
import numpy as np, peer_data, torch
out, bf16, script = sys.argv[1:4]
sys.argv = sys.argv[3:]
if bf16 == "emulated":
    torch.autocast = lambda *_, **__: contextlib.nullcontext()
whole = peer_data.score
def score(name, labels, probabilities, seconds, **more):
    np.savez(out, labels=labels, probabilities=probabilities, seconds=seconds)
    whole(name, labels, probabilities, seconds, **more)
peer_data.score = score
runpy.run_path(script, run_name="__main__")
"""


def open_frozen(dataset: Any, listener: Any) -> tuple[tuple[Any, ...], Any]:
    """Return what `extract` and `fill_activations` take first, for EfficientNet-Lite0 in its own size, and its facts."""
    from thawline.data.scan import scan
    from thawline.learn.engine import detect_hardware
    from thawline.learn.facts import describe_backbone
    from thawline.learn.weights import find_weights
    from thawline.types import Contract

    hardware, weights = detect_hardware(), find_weights("efficientnet_lite0")
    digests = [look.digest for look in scan(dataset.contents, hardware.cores, listener)]
    facts = describe_backbone(weights)
    contract = Contract(facts.size_px, facts.mean, facts.std, facts.interpolation)
    return (dataset.contents, digests, weights, contract, hardware), facts


def split_data(name: str, folder: Path, fold: int = 0) -> Path:
    """Write a manifest with the split that the peers take, and return it: their val is for choosing, so development.

    The peers part train and val by image; we fold both anew, by patient.
    """
    sys.path.insert(0, str(SHARED / "peers"))
    from peer_data import read

    data = SHARED / "data" / name
    paths, labels, classes, part = read(str(data), fold, 0)
    patients = _read_patients(data)
    manifest = folder / f"{name}-fold{fold}" / "manifest.csv"
    manifest.parent.mkdir(parents=True, exist_ok=True)
    with manifest.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "patient", "split"])
        for path, label, each in zip(paths, labels, part, strict=True):
            writer.writerow([path, classes[label], patients.get(path, ""), "test" if each == "test" else "train"])
    return manifest


def run_peer(python: str, script: str, data: Path, out: Path, *flags: str) -> dict[str, Any]:
    """Run a peer once and keep its test predictions in ``out``; a file that is there is not made again.

    Where the processor has no bf16 arithmetic a peer that asks for it computes in f32: emulated it takes many times as long.
    """
    from thawline.learn.engine import detect_hardware

    if not out.is_file():
        out.parent.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        bf16 = "native" if detect_hardware().bf16 else "emulated"
        command = [python, "-c", PEER, str(out), bf16, str(SHARED / "peers" / script), str(data), *flags]
        environment = {**os.environ, "PYTHONPATH": str(SHARED / "peers")}
        subprocess.run(command, check=True, env=environment)
        with np.load(out) as found:
            kept = dict(found)
        np.savez(out, **{**kept, "wall_seconds": time.perf_counter() - began})
    with np.load(out) as found:
        return dict(found)


def run_ours(data: Path, out: Path, *flags: str) -> dict[str, Any]:
    """Run the command line as a user does; return wall seconds, metrics, and test labels and probabilities.

    A run that is finished is read, one that was stopped goes on.
    """
    began = time.perf_counter()
    command = [sys.executable, "-m", "thawline.cli", "run", str(data), "--out", str(out), "--allow-outside", "--json"]
    output = subprocess.run([*command, "--quiet", *flags], check=True, stdout=subprocess.PIPE, text=True).stdout
    seconds = time.perf_counter() - began
    kept = out / "wall_seconds.txt"
    if not kept.is_file():
        kept.write_text(f"{seconds:.3f}", "utf-8")
    metrics = json.loads(output)["metrics"]
    with (out / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    classes = metrics["task"]["classes"]
    return {
        "metrics": metrics,
        "wall_seconds": float(kept.read_text("utf-8")),
        "items": [row["item"] for row in rows],
        "patients": [row["patient"] or row["item"] for row in rows],
        "labels": np.array([classes.index(row["label"]) for row in rows]),
        "probabilities": np.array([[float(row[f"p_{name}"]) for name in classes] for row in rows]),
    }


def run_side_by_side(work: Callable[[Any], Found], tasks: Sequence[Any], n_jobs: int) -> list[Found]:
    """Return ``work`` of each task, in their order, ``n_jobs`` at a time; what each starts has its share of the cores.

    For a GPU, which one small network leaves idle most of the time. Seconds are those of runs that share it.
    """
    if n_jobs == 1:
        return [work(task) for task in tasks]
    cores = sorted(os.sched_getaffinity(0))
    shares: SimpleQueue[list[int]] = SimpleQueue()
    for number in range(n_jobs):
        shares.put(cores[number::n_jobs])
    with ThreadPoolExecutor(n_jobs, initializer=lambda: os.sched_setaffinity(0, shares.get())) as pool:
        return list(pool.map(work, tasks))


def _read_patients(data: Path) -> dict[str, str]:
    manifest = data / "manifest.csv"
    if not manifest.is_file():
        return {}
    with manifest.open(encoding="utf-8", newline="") as file:
        return {str(data / row["path"]): row.get("patient", "") for row in csv.DictReader(file)}
