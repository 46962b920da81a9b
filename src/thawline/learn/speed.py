"""How fast a backbone is on this machine: measured in a process of its own, kept for the table and for forecasts."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from thawline.cost import peak_rss_mib, read_processor_name
from thawline.errors import ModelError
from thawline.files import write_json
from thawline.learn.engine import Engine, allowed_precisions, detect_hardware, name_engine, open_engine
from thawline.learn.features import batch_inputs, prepare_slices
from thawline.learn.loading import load_backbone
from thawline.learn.slice_rows import take_single
from thawline.learn.weights import find_weights
from thawline.ledger import data_path
from thawline.types import Contract, Hardware, Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from thawline.learn.weight_files import Weights
    from thawline.types import Content, Inputs, IntArray

LEAST_SECONDS = 2.0  # that a rate is measured over
BATCH_ITEMS, N_CLASSES = 32, 2
TIMED_TILES = 64  # of a slide


@dataclasses.dataclass(frozen=True, slots=True)
class Speed:
    """Rates on this machine: images a second through the frozen backbone, and through a training step above its middle
    ``line`` from activations at hand (None where it has no lines); peak memory in MiB of a process that does only this."""

    name: str
    size_px: int
    precision: str
    hardware: str
    prefix_items_s: float
    prefix_mib: int
    line: str | None = None
    training_items_s: float | None = None
    training_mib: int | None = None


def name_hardware(hardware: Hardware) -> str:
    """Name what a speed depends on: the engine with its version, the cores or the GPU."""
    return f"{name_engine(hardware)}, {hardware.cuda or f'{hardware.cores} cores of {read_processor_name()}'}"


def measure_speed(weights: Weights, hardware: Hardware) -> Speed:
    """Measure one backbone at the size it was trained on, in the narrowest precision that this hardware computes in."""
    about = weights.architecture
    precision = allowed_precisions(hardware)[-1]
    engine = open_engine(weights, about.contract(precision=precision), hardware)
    noise: Inputs = np.random.default_rng(0).integers(
        0, 256, (engine.batch_items, about.size_px, about.size_px, 3), np.uint8
    )
    list(engine.run([noise] * 2))
    prefix = time_engine(engine, noise, LEAST_SECONDS)
    measured = Speed(about.name, about.size_px, precision, name_hardware(hardware), round(prefix, 2), peak_rss_mib())
    found = _measure_training(weights, hardware)
    if found is None:
        return measured
    return dataclasses.replace(
        measured, line=found[0], training_items_s=round(found[1], 2), training_mib=peak_rss_mib()
    )


def time_engine(engine: Engine, batch: Inputs, seconds: float) -> float:
    """Return images a second of an engine that is kept busy with one batch for about so many ``seconds``."""
    began = time.perf_counter()

    def repeat() -> Iterator[Inputs]:
        while time.perf_counter() < began + seconds:
            yield batch

    n_images = sum(len(features) for features in engine.run(repeat()))
    return n_images / (time.perf_counter() - began)


def time_tiles(content: Content, weights: Weights, contract: Contract, hardware: Hardware) -> tuple[float, float]:
    """Return seconds to open a slide, and to bring a tile of it to features, by `TIMED_TILES`. Raises as `extract`."""
    single = take_single(weights, contract)
    engine = open_engine(*single, hardware)
    some = dataclasses.replace(contract, reading=contract.reading.show_tiles(TIMED_TILES))
    images = prepare_slices([("", content)], some, hardware.cores, {}, [], frozenset(), lambda _, image: image)
    began = [time.perf_counter()]

    def watch() -> Iterator[Inputs]:
        for image in images:
            if len(began) == 1:
                began.append(time.perf_counter())
            yield image

    with closing(images):
        n_tiles = sum(len(features) for features in engine.run(batch_inputs(watch(), engine.batch_items)))
    return began[1] - began[0], (time.perf_counter() - began[1]) / n_tiles


def measure_apart(name: str) -> Speed:
    """Measure a backbone in a process of its own, so that its memory is its own, and keep what was found.

    Raises WeightsError where its weights are not here, ModelError where the process fails.
    """
    find_weights(name)
    command = [sys.executable, "-m", "thawline.learn.speed", name]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)  # noqa: S603
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
        raise ModelError(f"measuring {name} ended with code {done.returncode}: {said}")
    speed = Speed(**json.loads(done.stdout))
    kept = [each for each in read_speeds() if _key(each) != _key(speed)]
    write_json(speeds_path(), [dataclasses.asdict(each) for each in [*kept, speed]])
    return speed


def speeds_path() -> Path:
    """Where the measured speeds lie on this machine."""
    return data_path() / "speeds.json"


def read_speeds() -> list[Speed]:
    """Return what was measured so far; what cannot be read counts for nothing."""
    try:
        return [Speed(**each) for each in json.loads(speeds_path().read_text("utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def find_speed(name: str, size_px: int, precision: str, hardware: Hardware) -> Speed | None:
    """Return what was measured of a backbone on hardware like this, or None."""
    wanted = (name, size_px, precision, name_hardware(hardware))
    return next((each for each in read_speeds() if _key(each) == wanted), None)


def _key(speed: Speed) -> tuple[str, int, str, str]:
    return speed.name, speed.size_px, speed.precision, speed.hardware


@dataclasses.dataclass(frozen=True)
class _Noise:
    """Activations that are always the same noise."""

    rows: Tensor
    n_views: int = 0

    def take(self, items: IntArray, views: IntArray) -> Tensor:  # noqa: ARG002
        return self.rows[: len(items)]


def _measure_training(weights: Weights, hardware: Hardware) -> tuple[str, float] | None:
    """Return the middle line and the items a second of training above it, None for a network without lines."""
    import torch

    from thawline.learn.cuts import make_classifier
    from thawline.learn.stages import find_stages
    from thawline.learn.thawing import zero_head
    from thawline.learn.training import train

    torch.set_num_threads(hardware.cores)
    try:
        stages = find_stages(load_backbone(weights))
    except ModelError:
        return None
    line, size_px = stages.names[len(stages.names) // 2], weights.architecture.size_px
    with torch.inference_mode():
        (rows,) = stages.prefix([line])(torch.rand(BATCH_ITEMS, 3, size_px, size_px))
    noise = _Noise(rows.clone())
    head = zero_head(stages, line, noise, N_CLASSES)
    classifier = make_classifier(stages.suffix(line), head)
    recipe = Recipe(epochs=1, batch_items=BATCH_ITEMS, device=hardware.device, bf16=hardware.bf16)
    items = np.arange(2 * BATCH_ITEMS)

    def run() -> int:
        train(classifier, noise, items % N_CLASSES, items, recipe, line)
        return len(items)

    run()
    return line, _time(run)


def _time(run: Callable[[], int]) -> float:
    """Return the items a second of what is run again and again."""
    began, n_items = time.perf_counter(), 0
    while not n_items or time.perf_counter() - began < LEAST_SECONDS:
        n_items += run()
    return n_items / (time.perf_counter() - began)


def main() -> None:
    """Measure the backbone that the command line names, and print what was found as JSON."""
    speed = measure_speed(find_weights(sys.argv[1]), detect_hardware())
    sys.stdout.write(json.dumps(dataclasses.asdict(speed)) + "\n")


if __name__ == "__main__":
    main()
