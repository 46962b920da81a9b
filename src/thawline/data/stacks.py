"""Slices in space: their order along the normal, and what a series lacks to be a volume.

Positions and orientations are those of DICOM (PS3.3, C.7.6.2.1.1): millimetres in the frame of the patient, x to the left, y
to the back, z to the head.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.data.dicom import count_frames, find_group

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PARALLEL = 1e-3  # by how much direction cosines of one stack may differ: they are written with few digits
SAME_MM = 1e-2  # below this two slices lie in one place
GAP = 1.5  # a distance of so many usual ones leaves room for a slice
TILT_DEG = 0.5  # of the direction of the stack against its normal: less is rounding


@dataclasses.dataclass(frozen=True, slots=True)
class Slice:
    """One frame in space: ``position`` of its first pixel's centre in mm, ``orientation`` of its rows and columns."""

    frame: int
    number: int
    position: tuple[float, float, float] | None = None
    orientation: tuple[float, float, float, float, float, float] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Faults:
    """What keeps ``n_slices`` slices, each in a place of its own, from being a whole volume; nothing unless it is said.

    ``n_missing`` slices would fill gaps, ``n_doubled`` more lie where another one lies already; ``tilt_deg`` is that of
    `Stack`, 0 where it is rounding.
    """

    n_slices: int = 0
    n_missing: int = 0
    n_doubled: int = 0
    tilt_deg: float = 0.0

    @property
    def share_missing(self) -> float:
        """Share of the slices that would be there without gaps."""
        return self.n_missing / max(self.n_missing + self.n_slices, 1)

    def __str__(self) -> str:
        """Say all faults in a line; "" where there are none."""
        return ", ".join(filter(None, (self.say_missing(), self.say_doubled(), self.say_tilt())))

    def say_missing(self) -> str:
        """Say how many slices are missing, of how many."""
        return f"{self.n_missing} of {self.n_missing + self.n_slices} slices missing" if self.n_missing else ""

    def say_doubled(self) -> str:
        """Say how many slices lie where another one lies already, of how many."""
        return f"{self.n_doubled} of {self.n_doubled + self.n_slices} slices doubled" if self.n_doubled else ""

    def say_tilt(self) -> str:
        """Say how far the gantry was tilted."""
        return f"tilted by {self.tilt_deg:.1f}°" if self.tilt_deg else ""


@dataclasses.dataclass(frozen=True, slots=True)
class Stack:
    """Slices as a volume: ``order`` are indices from foot to head, right to left or front to back, whichever the normal is.

    ``spacing_mm`` lies between neighbours, None where positions do not say it; ``n_missing`` slices would fill the gaps;
    ``doubled`` are indices, left out of ``order``, of slices where another one lies already; ``tilt_deg`` is the angle
    between the direction in which slices follow each other and their normal. ``by_position`` is False where the order is
    that of the instance numbers.
    """

    order: tuple[int, ...]
    spacing_mm: float | None
    n_missing: int
    doubled: tuple[int, ...]
    tilt_deg: float
    by_position: bool

    @property
    def faults(self) -> Faults:
        """What keeps it from being a whole volume."""
        tilt_deg = self.tilt_deg if self.tilt_deg > TILT_DEG else 0.0
        return Faults(len(self.order), self.n_missing, len(self.doubled), tilt_deg)


def list_slices(found: Any) -> Iterator[Slice]:
    """Yield the frames of a DICOM object: of functional groups where it has them, else of the object itself."""
    number = int(found.get("InstanceNumber") or 0)
    for frame in range(count_frames(found)):
        position = find_group(found, "PlanePositionSequence", frame).get("ImagePositionPatient")
        orientation = find_group(found, "PlaneOrientationSequence", frame).get("ImageOrientationPatient")
        yield Slice(frame, number, _take_numbers(position, 3), _take_numbers(orientation, 6))


def _take_numbers(values: Any, count: int) -> Any:
    """Return so many finite numbers as a tuple, or None."""
    numbers = tuple(float(each) for each in values or ())
    return numbers if len(numbers) == count and bool(np.isfinite(numbers).all()) else None


def stack_slices(slices: Sequence[Slice]) -> Stack:
    """Sort slices along their common normal and find what is wrong with them.

    Without positions, or where orientations differ (several scans in one series), the order is that of the instance
    numbers, then of the frames.
    """
    numbered = tuple(sorted(range(len(slices)), key=lambda index: (slices[index].number, slices[index].frame)))
    normal = _find_normal(slices)
    if normal is None:
        return Stack(numbered, None, 0, (), 0.0, by_position=False)
    positions = np.array([each.position for each in slices])
    places = positions @ normal
    order = sorted(numbered, key=lambda index: places[index])  # stable: of two in one place the first number stays
    kept, doubled = order[:1], list[int]()
    for index in order[1:]:
        (kept if places[index] - places[kept[-1]] > SAME_MM else doubled).append(index)
    gaps = np.diff(places[kept])
    if not len(gaps):
        return Stack(tuple(kept), None, 0, tuple(doubled), 0.0, by_position=True)
    usual = float(np.median(gaps))
    n_missing = int(sum(round(gap / usual) - 1 for gap in gaps if gap > GAP * usual))
    way = positions[kept[-1]] - positions[kept[0]]
    tilt_deg = float(np.degrees(np.arccos(min(1.0, float(way @ normal) / float(np.linalg.norm(way))))))
    return Stack(tuple(kept), usual, n_missing, tuple(doubled), tilt_deg, by_position=True)


def _find_normal(slices: Sequence[Slice]) -> Any:
    """Return the unit normal of slices that all have a position and one orientation, towards its largest axis; else None."""
    if not slices or any(each.position is None or each.orientation is None for each in slices):
        return None
    orientations = np.array([each.orientation for each in slices])
    if float(np.abs(orientations - orientations[0]).max()) > PARALLEL:
        return None
    normal = np.cross(orientations[0, :3], orientations[0, 3:])
    length = float(np.linalg.norm(normal))
    if abs(length - 1) > 10 * PARALLEL:  # rows and columns that are not at right angles, or no directions at all
        return None
    normal /= length
    return normal if normal[np.argmax(np.abs(normal))] > 0 else -normal
