"""The state that the steps of one run share."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.audit.items import Inspection
from thawline.data.dataset import Dataset
from thawline.data.splits import Splits
from thawline.journal import Journal, find_peak
from thawline.learn.development import Development
from thawline.learn.features import Extraction, extract
from thawline.learn.strategies import Source
from thawline.learn.weight_files import Weights
from thawline.meter import ESTIMATE, MEASURED
from thawline.options import RunOptions
from thawline.plan import Plan
from thawline.types import BackboneFacts, Contract, Hardware, Listener

if TYPE_CHECKING:
    from thawline.types import Groups, IntArray, Labels


STEPS = {  # of a run, and how the names of their units begin
    "read": ("read",),
    "audit": ("audit",),
    "race": ("race",),
    "features": ("features", "tiles"),
    "choices": ("precision", "choice", "judgement"),
    "heads": ("rung",),
    "views": ("views of",),
    "final": ("final",),
    "test": ("test",),
    "nested": ("nested",),
    "timing": ("inference",),
}
# which a run may do without, and are not told where they took no time
RARE_STEPS = ("audit", "race", "views", "nested", "timing")


@dataclasses.dataclass
class Job:
    """The state that the steps of one run share; ``near`` is what `audit_copies` found.

    ``timed`` says what the backbone is known to take for one item, in seconds, by the size of its input.
    """

    out: Path
    options: RunOptions
    listener: Listener
    journal: Journal
    hardware: Hardware
    weights: Weights
    inspection: Inspection
    labels: Labels
    groups: Groups
    splits: Splits
    fingerprint: dict[str, Any]
    plan: Plan
    facts: BackboneFacts
    near: dict[str, Any]
    began: float
    timed: Mapping[int, float] = dataclasses.field(default_factory=dict)

    @property
    def dataset(self) -> Dataset:
        """The items that take part."""
        return self.inspection.dataset

    def development_items(self) -> IntArray:
        """Positions of the development items."""
        return np.flatnonzero(~self.splits.is_test)

    def development(self, chosen: IntArray | None = None) -> Development:
        """The development items, or those among them at the positions ``chosen``."""
        chosen = self.development_items() if chosen is None else chosen
        return Development(
            self.labels[chosen], self.groups[chosen], self.splits.folds[chosen], len(self.dataset.classes)
        )

    def source(self, chosen: IntArray, contract: Contract) -> Source:
        """Say where the items at the positions ``chosen`` and the backbone come from."""
        contents = [self.dataset.contents[index] for index in chosen]
        digests = [self.inspection.digests[index] for index in chosen]
        return Source(contents, digests, self.weights, contract, self.hardware)

    def spent_s(self) -> float:
        """Seconds spent on this run so far, those of earlier sittings included."""
        return max(self.journal.seconds(""), time.perf_counter() - self.began)

    def describe_task(self) -> dict[str, Any]:
        """Return the task as `metrics.json` holds it."""
        names = {"kind": "task", "positive": "positive", "threshold": "threshold"}
        return {**{key: self.plan[name] for key, name in names.items()}, "classes": list(self.dataset.classes)}

    def extract(self, chosen: IntArray, contract: Contract, step: str) -> Extraction:
        """Extract the features of the items at the positions ``chosen``."""
        at = time.perf_counter()
        found = extract(*self.source(chosen, contract), self.listener, step)
        if found.n_computed:
            value = {"computed": found.n_computed, "cached": found.n_cached, "images": found.n_images}
            self.journal.record(step, value, time.perf_counter() - at + self.journal.spent(step))
        return found

    def sum_costs(self, thawed: tuple[str, ...] = ()) -> dict[str, Any]:
        """Return what the run cost over all its sittings, in all and by step: time, processor time, peak memory, energy.

        ``thawed`` are the units of the rungs above a thaw line, which count as training and not as heads.
        """
        whole = self.journal.costs("")
        names = tuple(f"{unit} " for unit in thawed)
        steps = {step: sum_costs([self.journal.costs(unit, names) for unit in units]) for step, units in STEPS.items()}
        steps = {step: cost for step, cost in steps.items() if cost["seconds"] or step not in RARE_STEPS}
        training = sum_costs([self.journal.costs(name) for name in names])
        steps |= {"training": training, "total": {**whole, "peak_rss_mib": whole["held_mib"]}}
        return {
            **{key: {step: round(cost[key], 4) for step, cost in steps.items()} for key in ("seconds", "cpu_seconds")},
            "peak_rss_mib": whole["held_mib"],
            "peak_rss_mib_by_step": {step: cost["peak_rss_mib"] for step, cost in steps.items()},
            "energy_wh": whole["energy_wh"],
            "energy_wh_by_step": {step: round(cost["energy_wh"], 4) for step, cost in steps.items()},
            "energy_method": MEASURED if whole["energy_measured"] else ESTIMATE,
        }


def sum_costs(costs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sum of several `Journal.costs`, with the largest of their peaks, None where one is not known."""
    peaks = [each["peak_rss_mib"] for each in costs if each["held_mib"] is not None]
    return {
        **{key: sum(each[key] for each in costs) for key in ("seconds", "cpu_seconds", "energy_wh")},
        "peak_rss_mib": find_peak(peaks),
        "energy_measured": all(each["energy_measured"] for each in costs),
    }
