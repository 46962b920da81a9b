"""Training items a second above a thaw line: cached prefix against a plain freeze and full fine-tuning, in turn.

    python benchmarks/thaw_step.py [--quick] [--device cuda] [--json FILE] [--data FOLDER]

EfficientNet-Lite0 at 224 px, batches of 32. Ours trains the suffix on activations from the cache, with all that the loop
does (reading, averaging, clipping). The plain freeze runs the prefix without gradients for every batch, full fine-tuning
trains everything; both are channels-last, on images already in memory (of the GPU, with `--device cuda`), in bf16 where the
hardware has it, with normalisation in evaluation mode. `amortised` adds the time that decoding, augmenting and the prefix
took for four views, spread over 15 epochs.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from environment import write_json

SHARED = Path(os.environ.get("THAWLINE_SHARED", Path(__file__).parents[2] / "shared"))
LINES = ("conv_head", "blocks.6", "blocks.5", "blocks.3")
BATCH_ITEMS, N_VIEWS, N_EPOCHS, N_CLASSES = 32, 4, 15, 2


def main() -> None:
    """Measure, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer images, one round")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "covid-ct")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["THAWLINE_CACHE"] = folder
        figures = measure(options.data, options.device, *((64, 1) if options.quick else (256, 3)))
    for name, value in figures.items():
        print(f"{name:<32} {value:10.2f}")
    if options.json:
        write_json(options.json, figures)


def measure(data: Path, device: str, n_items: int, n_rounds: int) -> dict[str, float]:
    """Time all in turn, ``n_rounds`` times; ratios are of neighbours in time, then the median."""
    import torch

    from thawline.learn.engine import detect_hardware
    from thawline.learn.loading import load_backbone
    from thawline.learn.stages import find_stages
    from thawline.learn.weights import find_weights

    hardware = detect_hardware(device)
    torch.set_num_threads(hardware.cores)
    weights = find_weights("efficientnet_lite0")
    stages = find_stages(load_backbone(weights))
    labels = np.arange(n_items) % N_CLASSES
    activations, prefix_seconds = fill_cache(data, n_items, weights, stages, hardware)
    rows = []
    for _ in range(n_rounds):
        full = time_fastest(stages, None, n_items // 2, hardware)
        row = {"prefix": N_VIEWS / prefix_seconds, "full": full}
        for line in LINES:
            ours = time_ours(stages, line, activations[line], labels, hardware)
            freeze = time_fastest(stages, line, n_items // 2, hardware)
            amortised = 1 / (1 / ours + prefix_seconds / N_EPOCHS)
            row |= {f"{line}_ours": ours, f"{line}_freeze": freeze, f"{line}_amortised": amortised}
            row |= {f"{line}_top_vs_freeze": ours / freeze, f"{line}_top_vs_full": ours / full}
            row[f"{line}_amortised_vs_full"] = amortised / full
        rows.append(row)
    medians = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    headline = {key: medians[f"blocks.6_{key}"] for key in ("top_vs_freeze", "top_vs_full", "amortised_vs_full")}
    return {"items": n_items, "rounds": n_rounds, "bf16": float(hardware.bf16), **headline, **medians}


def fill_cache(data: Path, n_items: int, weights: Any, stages: Any, hardware: Any) -> tuple[Any, float]:
    """Fill the cache at all lines; return activations by line, and the seconds an item that the four views took."""
    from thawline.data.dataset import load_dataset
    from thawline.data.readers import content_digest, read_content
    from thawline.learn.activations import fill_activations
    from thawline.learn.stages import list_lines
    from thawline.types import Augmentation, Contract, SilentListener

    contents = load_dataset(data).contents[:n_items]
    digests = [content_digest(read_content(content)) for content in contents]
    row = weights.architecture
    precision = "bf16" if hardware.bf16 else "f32"  # as the plan has it
    contract = Contract(row.size_px, row.mean, row.std, row.interpolation, precision=precision)
    lines = [line for line in list_lines(stages, row.size_px) if line.name in LINES]
    recipe = Augmentation(turn_deg=8, shift=0.05, scale=(0.95, 1.2), flip_sides=True, tone=0.15)
    about = (weights, contract, hardware, lines, recipe)
    fill_activations(contents[:8], digests[:8], *about, 0, 0, SilentListener())  # converts the network once
    began = time.perf_counter()
    fill_activations(contents, digests, *about, 0, 0, SilentListener())
    clean = time.perf_counter() - began
    activations = fill_activations(contents, digests, *about, N_VIEWS, 0, SilentListener())
    return activations, (time.perf_counter() - began - clean) / n_items


def time_ours(stages: Any, line: str, activations: Any, labels: Any, hardware: Any) -> float:
    """Return training items a second of an epoch of the suffix on cached activations."""
    from thawline.learn.cuts import make_classifier
    from thawline.learn.training import Recipe, train

    items, recipe = np.arange(len(labels)), Recipe(epochs=1, bf16=hardware.bf16, device=hardware.device)
    classifier = make_classifier(copy.deepcopy(stages.suffix(line)), make_head())
    train(classifier, activations, labels, items[:BATCH_ITEMS], recipe, "warm-up")
    began = time.perf_counter()
    train(classifier, activations, labels, items, recipe, "benchmark")
    return len(items) / (time.perf_counter() - began)


def time_fastest(stages: Any, line: str | None, n_items: int, hardware: Any) -> float:
    """Return the rate of `time_plain` in the arithmetic that is faster here."""
    return max(time_plain(stages, line, n_items, reduced, hardware.device) for reduced in {False, hardware.bf16})


def time_plain(stages: Any, line: str | None, n_items: int, bf16: bool, device: str) -> float:
    """Return training items a second of the loop that an engineer writes: prefix without gradients, all else trained."""
    import torch
    from torch import nn

    prefix = copy.deepcopy(stages.prefix([line])).eval().to(device, memory_format=torch.channels_last) if line else None
    suffix = copy.deepcopy(stages.suffix(line or stages.names[-1]))
    network = nn.Sequential(suffix, nn.Linear(1280, N_CLASSES)).eval().to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
    images = torch.randn(BATCH_ITEMS, 3, 224, 224, device=device).contiguous(memory_format=torch.channels_last)
    targets = torch.arange(BATCH_ITEMS, device=device) % N_CLASSES

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            batch = images
            if prefix is not None:
                with torch.no_grad():
                    (batch,) = prefix(images)
            loss = nn.functional.cross_entropy(network(batch).float(), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    step()
    if device == "cuda":
        torch.cuda.synchronize()
    n_steps = max(1, n_items // BATCH_ITEMS)
    began = time.perf_counter()
    for _ in range(n_steps):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return n_steps * BATCH_ITEMS / (time.perf_counter() - began)


def make_head() -> Any:
    """Return a linear head of small slopes, as one that was fitted has."""
    from thawline.learn.linear import LinearHead

    slopes = np.random.default_rng(0).normal(size=(N_CLASSES, 1280)) * 0.01
    return LinearHead(np.zeros(1280), np.ones(1280), slopes, np.zeros(N_CLASSES))


if __name__ == "__main__":
    main()
