"""Whole slides: tiles a second by the decoder, the engine and both, against plain OpenSlide, and peak memory.

    python benchmarks/slides.py [--side 60000] [--tiles 256] [--rounds 5] [--work FOLDER] [--json FILE]

A made-up slide, a pyramid of JPEG tiles at 0.25 µm per pixel, read in tiles of 224 px at 0.5 µm per pixel: the level that is
read is twice as fine, as on a slide scanned at 40x whose levels are quarters. EfficientNet-Lite0. All are timed in turn, in
every round; ratios are those of a round, and their median counts. The bound of both is 1 / (1 / decoder + 1 / engine), since
they share the cores. Memory is that of a process which extracts the features of the tiles and does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import openslide
from PIL import Image

from environment import write_json
from thawline.cost import peak_rss_mib
from thawline.data.readers import open_stack, read_content
from thawline.data.scan import scan
from thawline.data.slide_phantoms import write_large_slide
from thawline.data.slides import locate_tiles
from thawline.learn.engine import Engine, allowed_precisions, detect_hardware, open_engine
from thawline.learn.features import batch_inputs, extract, prepare_slices
from thawline.learn.slice_rows import take_single
from thawline.learn.weights import find_weights
from thawline.types import BAG, Contract, Reading, SilentListener

MPP, SLIDE_MPP, TILE_PX = 0.5, 0.25, 224
BACKBONE = "efficientnet_lite0"


def make_contract(n_tiles: int) -> Contract:
    """Return the contract of so many tiles of a slide, in the narrowest precision of this machine."""
    hardware = detect_hardware("cpu")
    reading = Reading(dimensions=BAG, slices=f"spread:{n_tiles}", n_slices=n_tiles, mpp=MPP, tile_px=TILE_PX)
    precision = allowed_precisions(hardware)[-1]
    return find_weights(BACKBONE).architecture.contract(precision=precision, reading=reading)


def decode(path: Path, contract: Contract) -> Iterator[Any]:
    """Yield the tiles of a slide as a run prepares them."""
    cores = detect_hardware("cpu").cores
    with closing(prepare_slices([("", path)], contract, cores, {}, [], frozenset(), lambda _, tile: tile)) as tiles:
        yield from tiles


def count_per_second(images: Iterator[Any]) -> float:
    """Return images a second from the second one on, as the first waits for the slide to be opened."""
    next(images)
    began = time.perf_counter()
    n_images = sum(len(each) if each.ndim == 2 else 1 for each in images)
    return n_images / (time.perf_counter() - began)


def read_plainly(path: Path, contract: Contract) -> float:
    """Return tiles a second of OpenSlide and Pillow in one loop: the same tiles, read at the finest level."""
    corners = locate_tiles(read_content(path), contract.reading)[2].corners_px()
    chosen = corners[np.linspace(0, len(corners) - 1, contract.reading.n_slices).astype(int)]
    side = round(TILE_PX * MPP / SLIDE_MPP)
    with openslide.OpenSlide(str(path)) as slide:
        began = time.perf_counter()
        for x, y in chosen:
            tile = slide.read_region((int(x), int(y)), 0, (side, side)).convert("RGB")
            np.asarray(tile.resize((TILE_PX, TILE_PX), Image.Resampling.BICUBIC))
        return len(chosen) / (time.perf_counter() - began)


def time_round(path: Path, contract: Contract, engine: Engine) -> dict[str, float]:
    """Return tiles a second of everything, one after the other."""
    tiles = list(decode(path, contract))
    found = {
        "plain_openslide": read_plainly(path, contract),
        "decoder": count_per_second(decode(path, contract)),
        "engine": count_per_second(engine.run(batch_inputs(iter(tiles), engine.batch_items))),
    }
    both = engine.run(batch_inputs(decode(path, contract), engine.batch_items))
    return found | {"both": count_per_second(both)}


def measure_memory(path: Path, n_tiles: int) -> int:
    """Extract features of the tiles in this process, and return its peak memory in MiB."""
    contract, hardware = make_contract(n_tiles), detect_hardware("cpu")
    (look,) = scan([path], hardware.cores, SilentListener(), contract.reading)
    extract([path], [look.digest], find_weights(BACKBONE), contract, hardware, SilentListener())
    return peak_rss_mib()


def main() -> None:
    """Run all, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=60_000)
    parser.add_argument("--tiles", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("work") / "slides")
    parser.add_argument("--memory-of", type=Path, help="used by the benchmark itself")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    os.environ.update(THAWLINE_DATA=str(work / "ledger"), THAWLINE_CACHE=str(work / "cache"))
    if options.memory_of:
        print(json.dumps(measure_memory(options.memory_of, options.tiles)))
        return
    shutil.rmtree(work / "cache", ignore_errors=True)  # whose rows would cost no memory
    path = write_large_slide(work / "slide.svs", options.side, SLIDE_MPP)
    contract = make_contract(options.tiles)
    began = time.perf_counter()
    n_tissue = open_stack(read_content(path), None, contract.reading).count("axial")
    figures: dict[str, float] = {"tissue_tiles": n_tissue, "open_seconds": time.perf_counter() - began}
    engine = open_engine(*take_single(find_weights(BACKBONE), contract), detect_hardware("cpu"))
    rounds = [time_round(path, contract, engine) for _ in range(options.rounds)]
    for name in rounds[0]:
        figures[f"{name}_tiles_per_second"] = statistics.median(each[name] for each in rounds)
    figures["decoder_ratio"] = statistics.median(each["decoder"] / each["plain_openslide"] for each in rounds)
    figures["both_ratio"] = statistics.median(
        each["both"] * (1 / each["decoder"] + 1 / each["engine"]) for each in rounds
    )
    command = [sys.executable, __file__, "--memory-of", str(path), "--tiles", str(options.tiles), "--work", str(work)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures["peak_mib"] = json.loads(done.stdout.splitlines()[-1])
    for key, value in figures.items():
        print(f"{key:<40} {value:10.3f}")
    if options.json:
        write_json(options.json, figures)


if __name__ == "__main__":
    main()
