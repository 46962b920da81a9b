"""What goes with a model's head: how its probabilities are calibrated, and when it should not answer.

All of it was settled on out-of-fold predictions and features of the development part.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from thawline.judge.calibrators import Calibrator
from thawline.judge.conformal import SetRule, make_sets
from thawline.judge.familiarity import Familiarity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from thawline.types import BoolArray, FloatArray, Precision, Probabilities

FILE = "familiarity.safetensors"


@dataclasses.dataclass(frozen=True)
class Safeguards:
    """Any of them may be missing. Familiarity is judged by features of the frozen backbone in ``precision``."""

    calibrator: Calibrator | None = None
    sets: SetRule | None = None
    familiarity: Familiarity | None = None
    precision: Precision = "f32"

    def calibrate(self, probabilities: Probabilities) -> Probabilities:
        """Return calibrated probabilities, as they are where there is no calibrator."""
        return probabilities if self.calibrator is None else self.calibrator.apply(probabilities)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name, to be saved beside `to_json`."""
        return {} if self.familiarity is None else self.familiarity.arrays()

    def to_json(self) -> dict[str, Any]:
        """Return all but the arrays as plain JSON data."""
        parts = {"calibrator": self.calibrator, "sets": self.sets, "familiarity": self.familiarity}
        return {name: None if part is None else part.to_json() for name, part in parts.items()} | {
            "precision": self.precision
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Safeguards:
        """Rebuild from `to_json` and `arrays`; raises TypeError or KeyError on unknown or missing fields."""
        return cls(
            None if data["calibrator"] is None else Calibrator.from_json(data["calibrator"]),
            None if data["sets"] is None else SetRule.from_json(data["sets"]),
            None if data["familiarity"] is None else Familiarity.from_arrays(arrays, data["familiarity"]),
            data["precision"],
        )


def name_doubts(safeguards: Safeguards) -> list[str]:
    """Return the columns that `describe_doubts` has for a model."""
    return [
        *(["set", "abstain"] if safeguards.sets is not None else []),
        *(["unfamiliar"] if safeguards.familiarity is not None else []),
    ]


def describe_doubts(
    safeguards: Safeguards, probabilities: Probabilities, strangeness: FloatArray | None, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Return for each item what its row of predictions says beside the probabilities.

    ``set``: the classes that a prediction set holds; ``abstain``: that it does not hold exactly one, so that the model does
    not know; ``unfamiliar``: that the image is unlike those of development, whatever the probabilities say. What the model
    has no rule for is left out.
    """
    rows: list[dict[str, Any]] = [{} for _ in probabilities]
    if safeguards.sets is not None:
        held: BoolArray = make_sets(safeguards.sets, probabilities)
        for row, members in zip(rows, held, strict=True):
            row["set"] = "|".join(name for name, inside in zip(classes, members, strict=True) if inside)
            row["abstain"] = int(members.sum()) != 1
    if safeguards.familiarity is not None and strangeness is not None:
        for row, strange in zip(rows, strangeness, strict=True):
            row["unfamiliar"] = bool(strange > safeguards.familiarity.limit)
    return rows
