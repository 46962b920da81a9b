"""DICOM series that are no whole volumes, and are read as such: slices missing, in one place, or stacked with a tilt."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from thawline.audit.findings import Finding, Severity
from thawline.data.dicom_series import DicomSeries
from thawline.data.stacks import Faults

if TYPE_CHECKING:
    from thawline.types import Content

MANY_MISSING = 0.1  # of the slices of a volume


class Kind(NamedTuple):
    """A kind of fault: how bad it is, how it is said of one series, what it means, and how bad a severe one is."""

    name: str
    measure: Callable[[Faults], float]
    say: Callable[[Faults], str]
    meaning: str
    severe_from: float = math.inf


KINDS = (
    Kind(
        "missing slices",
        lambda faults: faults.share_missing,
        Faults.say_missing,
        "nobody sees what lies there, and the gaps are closed up; fetch the slices, or leave the series out",
        MANY_MISSING,
    ),
    Kind(
        "doubled slices",
        lambda faults: faults.n_doubled,
        Faults.say_doubled,
        "the first in a place is seen; where these are two scans, phases or echoes in one series, take them apart",
    ),
    Kind(
        "tilted series",
        lambda faults: faults.tilt_deg,
        Faults.say_tilt,
        "the gantry was tilted, and slices are stacked as if it were straight: views across them lean",
    ),
)


def judge_series(contents: Sequence[Content]) -> Iterator[Finding]:
    """Yield the faults of series that are volumes, of each kind the series that have it, the worst first."""
    series = {number: each.faults for number, each in enumerate(contents) if isinstance(each, DicomSeries)}
    for kind in KINDS:
        bad = {number: kind.measure(faults) for number, faults in series.items() if kind.measure(faults)}
        if not bad:
            continue
        found = sorted(bad, key=lambda number: -bad[number])
        remarks = tuple(kind.say(series[number]) for number in found)
        text = f"{len(found)} of {len(series)} volumes, the worst {remarks[0]}: {kind.meaning}"
        severity: Severity = "severe" if bad[found[0]] >= kind.severe_from else "note"
        yield Finding(kind.name, severity, text, tuple((number,) for number in found), remarks=remarks)
