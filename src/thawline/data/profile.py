"""A DICOM data set without identities: the basic confidentiality profile of PS3.15, annex E, with its table of 2026c.

The table is dicom-anonymizer's. What it says is done at every depth of sequences. Patients and UIDs get keys of the site
(`identity`), so that what belongs together still does. Texts that are kept but repeat a name or an id go as well.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import hmac
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from thawline.data.identity import key_patient

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset

    Change = Literal["removed", "emptied", "replaced"]

EDITION = "2026c"
METHOD = f"Thawline, basic confidentiality profile, PS3.15 {EDITION}"  # 64 characters at most
ACTIONS: Mapping[str, Change] = {  # of several that an element may need the one that keeps objects valid
    "X_TAGS": "removed",
    "Z_TAGS": "emptied",
    "X_Z_TAGS": "emptied",
    "D_TAGS": "replaced",
    "Z_D_TAGS": "replaced",
    "X_D_TAGS": "replaced",
    "X_Z_D_TAGS": "replaced",
    "X_Z_U_STAR_TAGS": "emptied",
    "U_TAGS": "replaced",
}
BULK = ("OB", "OD", "OF", "OL", "OV", "OW", "AT", "SQ")  # which hold no text, pixels among them
NAMES = ("PatientName", "PatientBirthName", "PatientMotherBirthName", "OtherPatientNames")
IDS = (
    *("PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "AdmissionID", "PatientBirthDate"),
    *("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"),
)
LEAST_LETTERS = 4  # of a name or id that is looked for in texts: shorter ones are in everything


@dataclasses.dataclass(frozen=True)
class Changes:
    """What was done, as keywords of elements; ``private`` counts those without one."""

    removed: frozenset[str]
    emptied: frozenset[str]
    replaced: frozenset[str]
    private: int

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data: keywords, never values."""
        return {
            "removed": sorted(self.removed),
            "emptied": sorted(self.emptied),
            "replaced": sorted(self.replaced),
            "private": self.private,
        }


@functools.cache
def read_table() -> tuple[dict[tuple[int, int], Change], tuple[tuple[int, int, int, int, Change], ...]]:
    """Return what the profile does to elements: by (group, element), and by (group, element, masks of both) for ranges."""
    from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector

    table = dicom_anonymization_database_selector(f"dicomfields_{EDITION}")
    single: dict[tuple[int, int], Change] = {}
    ranges: list[tuple[int, int, int, int, Change]] = []
    for name, change in ACTIONS.items():
        for tag in table[name]:
            if len(tag) == 2:
                single[tag] = change
            else:
                ranges.append((*tag, change))
    return single, tuple(ranges)


def find_change(tag: Any) -> Change | None:
    """Return what the profile does to an element; None where it is kept."""
    single, ranges = read_table()
    found = single.get((tag.group, tag.element))
    for group, element, group_mask, element_mask, change in ranges if found is None else ():
        if tag.group & group_mask == group & group_mask and tag.element & element_mask == element & element_mask:
            return change
    return found


def key_uid(secret: bytes, uid: str) -> str:
    """Return the key of a UID, itself one (PS3.5, annex B.2); those that the standard lists are kept."""
    from pydicom.uid import UID

    if not uid or UID(uid).name != uid:  # which has a name
        return uid
    return f"2.25.{int.from_bytes(hmac.new(secret, f'uid {uid}'.encode(), hashlib.sha256).digest()[:16], 'big')}"


def clean(dataset: Dataset, secret: bytes) -> Changes:
    """Take the identities out of a data set, in place, its file meta information aside.

    Whatever cannot be emptied or replaced is removed. May raise what pydicom raises for damaged elements.
    """
    from pydicom.sr.codedict import codes

    patient = str(dataset.get("PatientID") or "").strip()
    issuer = str(dataset.get("IssuerOfPatientID") or "").strip()
    pattern = _compile(_list_identities(dataset))
    done: dict[Change, set[str]] = {"removed": set(), "emptied": set(), "replaced": set()}
    n_private = _clean_level(dataset, lambda uid: key_uid(secret, uid), pattern, done)
    if patient:
        dataset.PatientID = key_patient(secret, patient, issuer)
        done["replaced"].add("PatientID")
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = METHOD
    code = codes.DCM.BasicApplicationConfidentialityProfile
    dataset.DeidentificationMethodCodeSequence = [_make_code(code)]
    dataset.LongitudinalTemporalInformationModified = "REMOVED"
    return Changes(frozenset(done["removed"]), frozenset(done["emptied"]), frozenset(done["replaced"]), n_private)


def _make_code(code: Any) -> Dataset:
    from pydicom import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


def _clean_level(
    dataset: Dataset, key: Callable[[str], str], pattern: re.Pattern[str] | None, done: dict[Change, set[str]]
) -> int:
    """Do to the elements of one level, and to those of the sequences in it, what the profile says; count private ones.

    Beyond it goes what has no place in the standard, or no known type, and UIDs of instances get keys.
    """
    n_private = 0
    for tag in list(dataset.keys()):
        if tag.is_private:
            del dataset[tag]
            n_private += 1
            continue
        element, change = dataset[tag], find_change(tag)
        if not element.keyword or element.VR in ("UN", "UR"):
            change = "removed"
        elif change is None and element.VR == "UI" and "Class" not in element.keyword:
            change = "replaced"
        if change is not None:
            done[_change(dataset, element, change, key)].add(element.keyword or str(tag))
        elif pattern is not None and not _drop_told(dataset, element, pattern):
            done["removed"].add(element.keyword)
        if tag in dataset and element.VR == "SQ":
            n_private += sum(_clean_level(item, key, pattern, done) for item in dataset[tag].value)
    return n_private


def _drop_told(dataset: Dataset, element: DataElement, pattern: re.Pattern[str]) -> bool:
    """Drop the values of a kept element that repeat an identity, or all of it; return whether there was none."""
    from pydicom.multival import MultiValue

    if element.VR in BULK:
        return True
    values = list(element.value) if isinstance(element.value, MultiValue) else [element.value]
    kept = [value for value in values if not pattern.search(_as_text(value))]
    if len(kept) == len(values):
        return True
    if kept and element.VR == "CS":
        element.value = kept
    else:
        del dataset[element.tag]
    return False


def _as_text(value: Any) -> str:
    """Return what may have been written by a person: a number is none."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return "" if isinstance(value, int | float) and not isinstance(value, str) else str(value)


def _change(dataset: Dataset, element: DataElement, change: Change, key: Callable[[str], str]) -> Change:
    """Change one element, and return what was done: it is removed where there is no value to put in its place."""
    from dicomanonymizer.simpledicomanonymizer import empty_element, replace_element
    from pydicom.multival import MultiValue

    if change != "removed" and element.VR == "UI":
        value = element.value
        element.value = [key(str(each)) for each in value] if isinstance(value, MultiValue) else key(str(value or ""))
        return "replaced"
    if change == "emptied" and element.VR in ("DA", "DT", "TM"):
        element.value = ""
        return change
    if change == "emptied" and element.VR == "SQ":
        element.value = []
        return change
    if change != "removed" and element.VR != "SQ":  # of a sequence to be replaced no item can be made up
        with contextlib.suppress(NotImplementedError):
            (empty_element if change == "emptied" else replace_element)(element)
            return change
    del dataset[element.tag]
    return "removed"


def _list_identities(dataset: Dataset) -> Iterator[str]:
    """Yield names, in their parts, and ids that stand at the first level."""
    for keyword in NAMES:
        for name in _list_texts(dataset.get(keyword)):
            yield from re.split(r"[\^=\s,]+", name)
    for keyword in IDS:
        yield from _list_texts(dataset.get(keyword))


def _list_texts(value: Any) -> list[str]:
    from pydicom.multival import MultiValue

    return [str(each).strip() for each in value] if isinstance(value, MultiValue) else [str(value or "").strip()]


def _compile(identities: Iterator[str]) -> re.Pattern[str] | None:
    """Return a pattern of the texts that are long enough to be told, as words of their own."""
    told = sorted({re.escape(each) for each in identities if len(each) >= LEAST_LETTERS}, key=len, reverse=True)
    return re.compile(rf"(?<![^\W_])(?:{'|'.join(told)})(?![^\W_])", re.IGNORECASE) if told else None
