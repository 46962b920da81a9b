"""Training steps in float32, in bf16 by torch's own kernels, and in bf16 as Thawline takes them, in turn.

    python benchmarks/arithmetic.py [--rounds 3] [--json FILE]

EfficientNet-Lite0, batches of 32, made-up activations at each line: what a step costs does not depend on what they are.
Ratios are of neighbours in time, then the median. On a processor without bf16 there is nothing to be measured.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from environment import write_json
from thawline.learn import training
from thawline.learn.engine import detect_hardware
from thawline.learn.loading import load_backbone
from thawline.learn.stages import find_stages, list_lines
from thawline.learn.strategies import time_step
from thawline.learn.weights import find_weights
from thawline.types import Recipe

LINES = ("conv_head", "blocks.6", "blocks.5", "blocks.4", "blocks.3", "blocks.1")
SIZES_PX = (224, 288)
N_CLASSES = 3


def main() -> None:
    """Time all in turn, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    import torch

    hardware = detect_hardware("cpu")
    if not hardware.bf16:
        sys.exit("this processor has no bf16 arithmetic: there is nothing to be compared")
    torch.set_num_threads(hardware.cores)
    stages = find_stages(load_backbone(find_weights("efficientnet_lite0")))
    figures: dict[str, float] = {"rounds": options.rounds}
    for size_px in SIZES_PX:
        for line in list_lines(stages, size_px):
            if line.name in LINES:
                figures |= {
                    f"{line.name}_{size_px}_{key}": value for key, value in measure(stages, line, options.rounds)
                }
    for name, value in figures.items():
        print(f"{name:<40} {value:10.2f}")
    if options.json:
        write_json(options.json, figures)


def measure(stages: Any, line: Any, n_rounds: int) -> list[tuple[str, float]]:
    """Return items a second of each, and the ratios."""
    rows = []
    for _ in range(n_rounds):
        full = 1 / time_step(stages, line, N_CLASSES, Recipe())
        with mock.patch.object(training, "make_mode", contextlib.nullcontext):
            torchs = 1 / time_step(stages, line, N_CLASSES, Recipe(bf16=True))
        ours = 1 / time_step(stages, line, N_CLASSES, Recipe(bf16=True))
        rows.append(
            {"f32": full, "bf16_torch": torchs, "bf16": ours, "over_f32": ours / full, "over_torch": ours / torchs}
        )
    return [(key, statistics.median(row[key] for row in rows)) for key in rows[0]]


if __name__ == "__main__":
    main()
