"""Slices in space: any order of files gives one order of slices, and planted faults are found as they were planted."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from helpers import make_dicom
from thawline.data.stacks import Faults, Slice, list_slices, stack_slices

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def make_slices(places, orientation=AXIAL, way=None):
    """Slices at these distances along ``way``, which without one is the normal."""
    way = np.cross(orientation[:3], orientation[3:]) if way is None else np.asarray(way)
    return [
        Slice(0, number, tuple((np.array([-120.0, -80.0, 40.0]) + place * way).tolist()), orientation)
        for number, place in enumerate(places, start=1)
    ]


@settings(deadline=None, max_examples=60)
@given(
    st.integers(2, 40),
    st.floats(0.3, 12),
    st.floats(-3, 3),
    st.floats(-3, 3),
    st.randoms(use_true_random=False),
)
def test_any_order_of_files_gives_the_order_along_the_normal(n_slices, gap, yaw, pitch, shuffle):
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]]
    )
    orientation = tuple((turn @ np.array([[1.0, 0], [0, 1], [0, 0]])).T.ravel().tolist())
    slices = make_slices(np.arange(n_slices) * gap, orientation)
    mixed = list(range(n_slices))
    shuffle.shuffle(mixed)
    stack = stack_slices([slices[index] for index in mixed])
    found = [mixed[index] for index in stack.order]
    assert found in (list(range(n_slices)), list(range(n_slices))[::-1])
    assert stack.spacing_mm == pytest.approx(gap, rel=1e-6)
    assert (stack.n_missing, stack.doubled, stack.by_position) == (0, (), True)
    assert stack.tilt_deg < 1e-3


def test_the_order_goes_towards_the_head_whichever_way_the_rows_run():
    up = stack_slices(make_slices([0, 5, 10]))
    upside_down = stack_slices(make_slices([0, 5, 10], (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)))
    assert up.order == (0, 1, 2)
    assert upside_down.order == (2, 1, 0)  # its normal looks to the feet
    assert stack_slices(make_slices([0, 5, 10], SAGITTAL)).order == (2, 1, 0)  # from right to left


@pytest.mark.parametrize(("left_out", "n_missing"), [((3,), 1), ((3, 4, 5), 3), ((2, 7), 2), ((0, 9), 0)])
def test_missing_slices_are_counted_where_they_leave_a_gap(left_out, n_missing):
    places = [2.5 * number for number in range(10) if number not in left_out]
    random.Random(0).shuffle(places)
    stack = stack_slices(make_slices(places))
    assert (stack.n_missing, stack.spacing_mm) == (n_missing, pytest.approx(2.5))


def test_of_slices_in_one_place_the_first_number_stays():
    slices = make_slices([0, 3, 6, 3, 9, 0.001])
    stack = stack_slices(slices[::-1])
    assert [slices[::-1][index].number for index in stack.order] == [1, 2, 3, 5]
    assert sorted(slices[::-1][index].number for index in stack.doubled) == [4, 6]
    assert stack.n_missing == 0


@pytest.mark.parametrize("tilt", [0.0, 2.0, 17.5, -20.0])
def test_a_tilted_gantry_is_measured(tilt):
    angle = np.radians(tilt)
    orientation = (1.0, 0.0, 0.0, 0.0, float(np.cos(angle)), float(np.sin(angle)))
    stack = stack_slices(make_slices(np.arange(12) * 4.0, orientation, way=(0, 0, 1)))  # the table moves along the body
    assert stack.tilt_deg == pytest.approx(abs(tilt), abs=1e-4)
    assert stack.spacing_mm == pytest.approx(4 * np.cos(angle))
    assert stack.order == tuple(range(12))


def test_faults_are_said_with_their_numbers_and_rounding_is_none():
    angle = np.radians(12)
    orientation = (1.0, 0.0, 0.0, 0.0, float(np.cos(angle)), float(np.sin(angle)))
    faults = stack_slices(make_slices([0, 4, 8, 8, 20, 24], orientation, way=(0, 0, 1))).faults
    assert (faults.n_slices, faults.n_missing, faults.n_doubled) == (5, 2, 1)
    assert str(faults) == "2 of 7 slices missing, 1 of 6 slices doubled, tilted by 12.0°"
    assert faults.share_missing == pytest.approx(2 / 7)
    assert stack_slices(make_slices([0, 5, 10], way=(0, 0.004, 1))).tilt_deg > 0.2
    assert str(stack_slices(make_slices([0, 5, 10], way=(0, 0.004, 1))).faults) == str(Faults()) == ""
    assert Faults().share_missing == 0


@pytest.mark.parametrize(
    "broken",
    [
        Slice(0, 2),
        Slice(0, 2, (0.0, 0.0, 5.0), SAGITTAL),
        Slice(0, 2, (0.0, 0.0, 5.0), (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)),
        Slice(0, 2, (0.0, 0.0, 5.0), (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)),
    ],
)
def test_without_a_common_normal_the_numbers_decide(broken):
    whole = make_slices([10, 0])
    stack = stack_slices([Slice(0, 3, *_place(whole[0])), broken, Slice(0, 1, *_place(whole[1]))])
    assert (stack.order, stack.by_position, stack.spacing_mm) == ((2, 1, 0), False, None)


def _place(found):
    return found.position, found.orientation


def test_one_slice_and_none():
    assert stack_slices(make_slices([4])).order == (0,)
    assert stack_slices([]).order == ()


def test_an_object_says_where_it_lies():
    found = make_dicom(InstanceNumber="7", ImagePositionPatient=[1, 2, 3], ImageOrientationPatient=list(AXIAL))
    assert list(list_slices(found)) == [Slice(0, 7, (1.0, 2.0, 3.0), AXIAL)]
    assert list(list_slices(make_dicom())) == [Slice(0, 0)]
    found.ImagePositionPatient = [1, 2]
    assert next(list_slices(found)).position is None


def test_frames_of_an_enhanced_object_lie_where_their_groups_say():
    def group(**tags):
        part = Dataset()
        for name, (attribute, value) in tags.items():
            inner = Dataset()
            setattr(inner, attribute, value)
            setattr(part, name, Sequence([inner]))
        return part

    found = make_dicom(np.zeros((8, 8), np.uint16), NumberOfFrames=3, InstanceNumber="1")
    found.SharedFunctionalGroupsSequence = Sequence(
        [group(PlaneOrientationSequence=("ImageOrientationPatient", list(AXIAL)))]
    )
    found.PerFrameFunctionalGroupsSequence = Sequence(
        [group(PlanePositionSequence=("ImagePositionPatient", [0, 0, place])) for place in (4, 0, 2)]
    )
    slices = list(list_slices(found))
    assert [each.position for each in slices] == [(0, 0, 4), (0, 0, 0), (0, 0, 2)]
    assert {each.orientation for each in slices} == {AXIAL}
    assert stack_slices(slices).order == (1, 2, 0)
