"""What predicting costs with the finished model: of the test part, where that took long enough, or of development items.

Everything is computed, as it is for images that are new: what the cache holds already would cost nothing.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from thawline.cache import forget_all
from thawline.journal import Value
from thawline.learn.features import Extraction
from thawline.meter import ESTIMATE, MEASURED
from thawline.share.bundle import Model
from thawline.share.words import format_seconds
from thawline.state import Job
from thawline.types import SilentListener

UNIT = "inference"  # of the journal
PER_ITEMS = 1000
LEAST_TEST_S = 10.0  # that the test part takes, so that starting hardly counts
FIRST_IMAGES, MOST_IMAGES = 8, 4096  # in one pass over development items
SLOW_S, GAINED_S = 2.0, 0.4  # a first pass that is enough; by how much the last is to be longer than the first
SPENT = ("seconds", "cpu_seconds", "energy_wh")


class Pass(NamedTuple):
    """So many items were predicted, and what this cost: see `Journal.costs`."""

    n_items: int
    cost: Mapping[str, Any]


def measure_inference(job: Job, model: Model) -> None:
    """Record what predicting costs, unless the journal knows it; see `describe_passes`."""
    if UNIT in job.journal:
        return
    job.listener.begin("timing")
    passes, source = take_test(job), "test"
    if not passes:
        passes, source = time_passes(job, model), "development"
    found = {
        "measured_on": source if passes else None,
        **describe_passes(passes),
        "model_mib": weigh(job.out / "model"),
    }
    job.journal.record(UNIT, found, 0.0)
    seconds = found["seconds"]
    said = "not measured" if seconds is None else f"{format_seconds(seconds)} for {PER_ITEMS:,} items"
    job.listener.end(f"{said}, {found['model_mib']:.1f} MiB on disk")


def take_test(job: Job) -> list[Pass]:
    """Return the pass over the test part, none where it stayed closed, was partly known to the cache, or took no time."""
    found, cost = job.journal.find("test") or {}, job.journal.costs("test")
    if not found.get("n_computed") or cost["seconds"] < LEAST_TEST_S:
        return []
    return [Pass(found["n_computed"], cost)]


def count_computed(views: Sequence[Extraction]) -> int:
    """Return how many items were computed, 0 where some came from the cache in any of the views."""
    return 0 if any(view.n_cached for view in views) else views[0].n_computed


def time_passes(job: Job, model: Model) -> list[Pass]:
    """Predict a few development items, then more until it takes noticeably longer; no whole slides, which take minutes."""
    if job.options.tile_px is not None:
        return []
    n_items = max(1, FIRST_IMAGES // max(1, model.contract.reading.n_slices))
    passes: list[Pass] = []
    while True:
        unit = f"{UNIT} of {n_items} items"
        job.journal.begin()
        job.journal.unit(unit, functools.partial(_predict_anew, job, model, n_items))
        passes.append(Pass(n_items, job.journal.costs(unit)))
        first_s, last_s = (each.cost["seconds"] for each in (passes[0], passes[-1]))
        if first_s > SLOW_S or last_s > first_s + GAINED_S or n_items >= MOST_IMAGES:
            return passes
        n_items *= 2 if last_s > SLOW_S / 2 else 4


def _predict_anew(job: Job, model: Model, n_items: int) -> Value:
    """Predict so many development items, some of them several times, and tell which are unfamiliar, as `predict` does."""
    chosen = job.development_items()
    contents = [job.dataset.contents[chosen[place % len(chosen)]] for place in range(n_items)]
    digests = [hashlib.sha256(f"{UNIT} {place}".encode()).hexdigest() for place in range(n_items)]
    with forget_all():
        model.classify(contents, digests, SilentListener())
        model.measure_strangeness(contents, digests, SilentListener())
    return {"n_items": n_items}


def describe_passes(passes: Sequence[Pass]) -> dict[str, Any]:
    """Return what ``per_items`` items cost: seconds, processor seconds, energy, and peak memory; all None without a pass.

    Of several passes by the difference between the last and the first, so that starting is told apart; of one all of it.
    """
    if not passes:
        names = (*SPENT, "peak_rss_mib", "start_seconds", "n_items", "energy_method")
        return {"per_items": PER_ITEMS, **dict.fromkeys(names)}
    first, last = passes[0], passes[-1]
    if len(passes) == 1:
        first = Pass(0, dict.fromkeys(SPENT, 0.0))
    each = {key: max(last.cost[key] - first.cost[key], 0.0) / (last.n_items - first.n_items) for key in SPENT}
    start_s = max(first.cost["seconds"] - first.n_items * each["seconds"], 0.0)
    measured = all(one.cost["energy_measured"] for one in passes)
    return {
        "per_items": PER_ITEMS,
        **{key: round(PER_ITEMS * value, 4) for key, value in each.items()},
        "peak_rss_mib": last.cost["peak_rss_mib"],
        "start_seconds": round(start_s, 3) if len(passes) > 1 else None,
        "n_items": last.n_items,
        "energy_method": MEASURED if measured else ESTIMATE,
    }


def weigh(folder: Path) -> float:
    """Return the MiB of a model folder on disk, without its card."""
    return round(sum(path.stat().st_size for path in folder.iterdir() if path.suffix != ".md") / 2**20, 2)
