"""A finished run as new data are held against it: its numbers, its predictions, and which patients and images it knows."""

from __future__ import annotations

import csv
import dataclasses
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.data.dataset import own_patient
from thawline.errors import ModelError
from thawline.share.folder import blame, read_json

if TYPE_CHECKING:
    from thawline.types import Groups, Probabilities

PARTS = ("development", "test")


@dataclasses.dataclass(frozen=True)
class Finished:
    """``predicted`` holds probabilities (items, classes) and patients (items,): "development" out of fold, "test" empty
    where it stayed closed.

    ``patients`` are those that the data name, of each part; ``pixels`` the digests of its images, None where the run is of a
    version that kept none. Both are private to the run, and compared in memory only.
    """

    metrics: Mapping[str, Any]
    fingerprint: Mapping[str, Any]
    choices: Mapping[str, Any]
    plan_digest: str
    seed: int
    predicted: Mapping[str, tuple[Probabilities, Groups]]
    patients: Mapping[str, frozenset[str]]
    pixels: Mapping[str, frozenset[str]] | None


def read_finished(run: Path) -> Finished:
    """Read a run folder. Raises ModelError where it is none, or not finished, or damaged."""
    if not (run / "metrics.json").is_file():
        raise ModelError(
            f"{run}: expected the folder of a finished run, found no metrics.json in it; new data are held against what a "
            "run knows of its own, which a model folder by itself does not say"
        )
    metrics, fingerprint, plan, spec = (
        read_json(run, f"{name}.json") for name in ("metrics", "fingerprint", "plan", "spec")
    )
    with blame(run, "metrics.json"):
        classes = [str(name) for name in metrics["task"]["classes"]]
    with blame(run, "plan.json"):
        choices, digest = {choice["name"]: choice["value"] for choice in plan["choices"]}, str(plan["digest"])
    with blame(run, "spec.json"):
        seed = int(spec["seed"])
    predicted = _read_predicted(run, classes)
    return Finished(metrics, fingerprint, choices, digest, seed, predicted, *_read_known(run))


def _read_predicted(run: Path, classes: list[str]) -> dict[str, tuple[Probabilities, Groups]]:
    """Return the probabilities that items of each part were given by models that had not seen them, and their patients."""
    with blame(run, "predictions.csv"), (run / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["fold"] != "-1"]
        given = np.array([[float(row[f"p_{name}"]) for name in classes] for row in rows], np.float64)
        patients = np.unique([row["patient"] for row in rows], return_inverse=True)[1].astype(np.int64)
        inside = {part: np.array([row["split"] == part for row in rows], bool) for part in PARTS}
    return {part: (given.reshape(-1, len(classes))[chosen], patients[chosen]) for part, chosen in inside.items()}


def _read_known(run: Path) -> tuple[dict[str, frozenset[str]], dict[str, frozenset[str]] | None]:
    """Return named patients, and digests of pixels where they were kept, of the parts of a run."""
    patients, pixels = defaultdict(set), defaultdict(set)
    kept = False
    with blame(run, "splits.csv"), (run / "splits.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            kept = kept or "pixels" in row
            if row["patient"] != own_patient(row["item"]):
                patients[row["split"]].add(row["patient"])
            if row.get("pixels"):
                pixels[row["split"]].add(row["pixels"])
    named, seen = ({part: frozenset(found[part]) for part in PARTS} for found in (patients, pixels))
    return named, seen if kept else None
