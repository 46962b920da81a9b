"""The state that the steps of one run share."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.audit.items import Inspection
from thawline.cost import peak_rss_mib
from thawline.data.dataset import Dataset
from thawline.data.splits import Splits
from thawline.journal import Journal
from thawline.learn.development import Development
from thawline.learn.features import Extraction, extract
from thawline.learn.strategies import Source
from thawline.learn.weight_files import Weights
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
    "choices": ("precision", "choice"),
    "heads": ("rung",),
    "views": ("views of",),
    "final": ("final",),
    "test": ("test",),
}
RARE_STEPS = ("audit", "race", "views")  # which a run may do without, and are not told where they took no time


@dataclasses.dataclass
class Job:
    """The state that the steps of one run share; ``near`` is what `audit_copies` found."""

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
        """Seconds by step over all sittings of the run, and the peak memory of this one.

        ``thawed`` are the units of the rungs above a thaw line, which count as training and not as heads.
        """
        seconds = {step: sum(map(self.journal.seconds, units)) for step, units in STEPS.items()}
        seconds = {step: taken for step, taken in seconds.items() if taken or step not in RARE_STEPS}
        training = sum(self.journal.seconds(f"{unit} ") for unit in thawed)
        seconds |= {"heads": seconds["heads"] - training, "training": training, "total": self.journal.seconds("")}
        return {
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
            "peak_rss_mib": peak_rss_mib(),
            "energy_wh": None,
        }
