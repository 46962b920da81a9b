"""Standardised uptake values of PET: stored activity to g/ml by body weight, where the header allows it.

After the vendor-neutral pseudo-code of QIBA's profile for FDG-PET (2013): the injected dose, decayed to the start of the
scan unless the activity was corrected to the time of the injection, by the weight of the patient. SPECT has no such scale.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, NoReturn

from thawline.data.dicom_values import guard, list_values
from thawline.errors import ImageError

PHILIPS_FACTOR = 0x70531000  # of stored counts, where Philips writes them
CORRECTIONS = ("ATTN", "DECAY")
GRAMS = 1000.0


def find_suv_factor(found: Any) -> float:
    """Return what rescaled values of a PET image are multiplied by to be SUV, g/ml.

    Raises ImageError that names the attribute that is missing or says something else; no value is repeated.
    """
    return guard("uptake values", lambda: _find_factor(found))


def _find_factor(found: Any) -> float:
    if str(found.get("Modality", "")) != "PT":
        raise ImageError("standardised uptake values are defined for PET; this image is of another modality")
    units = str(found.get("Units", "")).upper()
    if units == "GML":
        return 1.0
    done = [str(each).upper() for each in list_values(found.get("CorrectedImage"))]
    lacking = [each for each in CORRECTIONS if each not in done]
    if lacking:
        _refuse(f"CorrectedImage names no {' and no '.join(lacking)}")
    if units == "CNTS":
        if PHILIPS_FACTOR not in found:
            _refuse("Units are counts, without the factor that Philips keeps")
        return float(found[PHILIPS_FACTOR].value)
    if units != "BQML":
        _refuse("Units are neither BQML nor GML")
    sequence = found.get("RadiopharmaceuticalInformationSequence")
    if not sequence:
        _refuse("RadiopharmaceuticalInformationSequence is missing")
    drug = sequence[0]
    weight_kg, dose_bq = _read_number(found, "PatientWeight"), _read_number(drug, "RadionuclideTotalDose")
    when = str(found.get("DecayCorrection", "")).upper()
    if when == "ADMIN":
        return weight_kg * GRAMS / dose_bq
    if when != "START":
        _refuse("DecayCorrection is neither START nor ADMIN")
    seconds = (_find_scan_start(found) - _find_injection(found, drug)).total_seconds()
    if not 0 <= seconds < 24 * 3600:
        _refuse("the injection is not within the day before the scan")
    return weight_kg * GRAMS / (dose_bq * 2 ** (-seconds / _read_number(drug, "RadionuclideHalfLife")))


def _find_scan_start(found: Any) -> dt.datetime:
    """Return when the series began: the time its activity is corrected to, unless that was written when it was made anew."""
    series = _read_time(found, "SeriesDate", "SeriesTime")
    if series > _read_time(found, "AcquisitionDate", "AcquisitionTime"):
        _refuse("SeriesTime is later than AcquisitionTime, so that the start of the scan is unknown")
    return series


def _find_injection(found: Any, drug: Any) -> dt.datetime:
    """Return when the tracer was given: by date and time, or by the time on the day of the series."""
    from pydicom.valuerep import DT

    if drug.get("RadiopharmaceuticalStartDateTime"):
        moment: dt.datetime = DT(str(drug.RadiopharmaceuticalStartDateTime))
        return moment.replace(tzinfo=None)
    if not drug.get("RadiopharmaceuticalStartTime"):
        _refuse("RadiopharmaceuticalStartTime is missing")
    return _join_time(found.SeriesDate, drug.RadiopharmaceuticalStartTime)


def _read_time(found: Any, date: str, time: str) -> dt.datetime:
    for name in (date, time):
        if not found.get(name):
            _refuse(f"{name} is missing")
    return _join_time(found.get(date), found.get(time))


def _join_time(date: Any, time: Any) -> dt.datetime:
    from pydicom.valuerep import DA, TM

    day, clock = DA(str(date)), TM(str(time))
    return dt.datetime.combine(day, clock)


def _read_number(found: Any, name: str) -> float:
    """Return a positive number of the header."""
    value = float(found.get(name) or 0)
    if not 0 < value < float("inf"):
        _refuse(f"{name} is missing or not positive")
    return value


def _refuse(reason: str) -> NoReturn:
    raise ImageError(
        f"the header does not allow standardised uptake values: {reason}; --window CENTRE/WIDTH takes its own units"
    )
