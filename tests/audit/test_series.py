"""Series that are no whole volumes are said, each with its numbers, the worst first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from thawline.audit.series import judge_series
from thawline.data.dicom_series import DicomSeries
from thawline.data.stacks import Faults

WHOLE = Faults(40)


def make_series(*faults: Faults) -> list[DicomSeries]:
    return [DicomSeries((Path(f"{number}.dcm"),), each) for number, each in enumerate(faults)]


def test_whole_series_and_other_items_have_none() -> None:
    contents = [*make_series(WHOLE, WHOLE), Path("film.png"), np.zeros((8, 8))]
    assert list(judge_series(contents)) == []


def test_each_kind_is_said_with_its_numbers_the_worst_first() -> None:
    contents = make_series(Faults(99, 1), WHOLE, Faults(30, 10, 0, 3.0), Faults(20, 0, 20, 15.5))
    missing, doubled, tilted = judge_series(contents)
    assert (missing.name, missing.groups) == ("missing slices", ((2,), (0,)))
    assert missing.remarks == ("10 of 40 slices missing", "1 of 100 slices missing")
    assert missing.text.startswith("2 of 4 volumes, the worst 10 of 40 slices missing: ")
    assert (doubled.name, doubled.groups, doubled.remarks) == ("doubled slices", ((3,),), ("20 of 40 slices doubled",))
    assert (tilted.name, tilted.groups) == ("tilted series", ((3,), (2,)))
    assert tilted.remarks == ("tilted by 15.5°", "tilted by 3.0°")
    assert missing.number([5, 6, 7, 8]).groups == ((7,), (5,))


@pytest.mark.parametrize(("n_missing", "severity"), [(1, "note"), (9, "note"), (10, "severe")])
def test_many_missing_slices_are_severe(n_missing: int, severity: str) -> None:
    (found,) = judge_series(make_series(Faults(90, n_missing)))
    assert found.severity == severity
