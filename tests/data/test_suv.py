"""Uptake values against the formula by hand, and each thing that a header may lack."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from helpers import make_dicom, save_dicom
from thawline.data.quiet import silence
from thawline.data.readers import decode
from thawline.data.suv import find_suv_factor
from thawline.errors import ImageError
from thawline.types import Reading

FLUORINE_S = 6586.2
RAMP = np.arange(64, dtype=np.uint16).reshape(8, 8)


def make_pet(*, drug=None, **tags):
    """A slice of 70 kg that were given 370 MBq of fluorine an hour before the scan."""
    found = make_dicom(RAMP)
    inner = Dataset()
    given = {
        "RadionuclideTotalDose": "370e6",
        "RadionuclideHalfLife": str(FLUORINE_S),
        "RadiopharmaceuticalStartTime": "1000",
    }
    for name, value in {**given, **(drug or {})}.items():
        if value is not None:
            setattr(inner, name, value)
    usual = {
        "Modality": "PT",
        "Units": "BQML",
        "CorrectedImage": ["DECY", "ATTN", "DECAY"],
        "DecayCorrection": "START",
        "PatientWeight": "70",
        "SeriesDate": "20260301",
        "SeriesTime": "110000",
        "AcquisitionDate": "20260301",
        "AcquisitionTime": "110005.2",
        "RescaleSlope": "500",
        "RescaleIntercept": "0",
        "RadiopharmaceuticalInformationSequence": Sequence([inner]),
    }
    for name, value in {**usual, **tags}.items():
        if value is not None:
            setattr(found, name, value)
    return found


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({}, 70_000 / (370e6 * 0.5 ** (3600 / FLUORINE_S))),
        ({"DecayCorrection": "ADMIN"}, 70_000 / 370e6),
        ({"Units": "GML", "CorrectedImage": None}, 1.0),
        ({"drug": {"RadiopharmaceuticalStartDateTime": "20260228235959"}, "SeriesTime": "000059", "AcquisitionTime": "0101"},
         70_000 / (370e6 * 0.5 ** (60 / FLUORINE_S))),
        ({"drug": {"RadiopharmaceuticalStartDateTime": "20260301100000.000+0100"}},
         70_000 / (370e6 * 0.5 ** (3600 / FLUORINE_S))),
    ],
)  # fmt: skip
def test_the_factor_is_the_formula_s(changes, factor):
    assert find_suv_factor(make_pet(**changes)) == pytest.approx(factor, rel=1e-12)


def test_the_factor_of_philips_is_taken_for_counts():
    found = make_pet(Units="CNTS")
    with pytest.raises(ImageError, match="without the factor that Philips keeps"):
        find_suv_factor(found)
    found.add_new(0x70531000, "DS", "0.000437")
    assert find_suv_factor(found) == pytest.approx(0.000437)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"Modality": "NM"}, "defined for PET"),
        ({"Units": "PROPCPS"}, "Units are neither"),
        ({"CorrectedImage": ["ATTN"]}, "CorrectedImage names no DECAY"),
        ({"CorrectedImage": None}, "CorrectedImage names no ATTN and no DECAY"),
        ({"DecayCorrection": "NONE"}, "DecayCorrection is neither"),
        ({"PatientWeight": None}, "PatientWeight is missing"),
        ({"PatientWeight": "0"}, "PatientWeight is missing or not positive"),
        ({"RadiopharmaceuticalInformationSequence": None}, "RadiopharmaceuticalInformationSequence is missing"),
        ({"drug": {"RadionuclideTotalDose": None}}, "RadionuclideTotalDose is missing"),
        ({"drug": {"RadionuclideHalfLife": None}}, "RadionuclideHalfLife is missing"),
        ({"drug": {"RadiopharmaceuticalStartTime": None}}, "RadiopharmaceuticalStartTime is missing"),
        ({"drug": {"RadiopharmaceuticalStartTime": "1200"}}, "not within the day before"),
        ({"SeriesTime": None}, "SeriesTime is missing"),
        ({"SeriesTime": "180000"}, "SeriesTime is later than AcquisitionTime"),
        ({"drug": {"RadiopharmaceuticalStartTime": "MUSTERMANN"}}, "uptake values"),
    ],
)
def test_what_a_header_lacks_is_named_and_no_value(changes, said):
    with silence():
        found = make_pet(**changes)
    with pytest.raises(ImageError, match=said) as caught:
        find_suv_factor(found)
    assert "MUSTERMANN" not in str(caught.value)


def test_the_window_shows_zero_to_ten():
    shown = decode(save_dicom(make_pet()), reading=Reading(("suv",)))
    uptake = RAMP * 500.0 * find_suv_factor(make_pet())
    expected = np.clip((uptake - 4.5) / 9 + 0.5, 0, 1)  # LINEAR of DICOM: a width of 10 has 9 steps
    np.testing.assert_allclose(shown, np.rint(255 * expected), atol=1)
    with pytest.raises(ImageError, match="PatientWeight is missing"):
        decode(save_dicom(make_pet(PatientWeight=None)), reading=Reading(("suv",)))
