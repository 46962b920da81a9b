"""What of DICOM headers tells who somebody is, or narrows it down: by tag and place, at every depth, never by value.

Which tags do is said by the table that `thawline deidentify` goes by (PS3.15, annex E): see `data.profile`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from thawline.data.dicom import PREFIX, is_dicom
from thawline.data.dicom_series import DicomSeries
from thawline.data.dicom_values import guard
from thawline.data.profile import find_change
from thawline.data.quiet import silence
from thawline.data.readers import read_content
from thawline.errors import ImageError
from thawline.types import Slide

if TYPE_CHECKING:
    from thawline.types import Content

    Told: TypeAlias = Mapping[str, Mapping[str, tuple[int, ...]]]  # by kind and tag the positions of items

KINDS = WHO, DATES, TEXTS, OTHERS, UIDS, PRIVATE = (
    *("identities", "dates, times and ages", "descriptions", "places, devices and codes", "UIDs", "private elements"),
)
TAGS = (  # beside names of persons, all of which are identities
    *("PatientName", "PatientID", "PatientBirthDate", "PatientBirthName", "PatientMotherBirthName", "PatientAddress"),
    *("PatientTelephoneNumbers", "PatientTelecomInformation", "OtherPatientIDs", "OtherPatientNames"),
    *("MedicalRecordLocator", "MilitaryRank", "InsurancePlanIdentification", "AdmissionID", "AccessionNumber"),
    *("ReferringPhysicianName", "ReferringPhysicianAddress", "ReferringPhysicianTelephoneNumbers"),
    *("PersonAddress", "PersonTelephoneNumbers", "PersonTelecomInformation"),
    *("InstitutionName", "InstitutionAddress", "PatientComments"),
)
BY_TYPE = {"PN": WHO, "UI": UIDS, "DA": DATES, "TM": DATES, "DT": DATES, "AS": DATES}
TEXT_TYPES, TEXT_ENDS = ("LT", "ST", "UT"), ("Description", "Comments")
REMOVED = "PatientIdentityRemoved"


def find_identities(contents: Sequence[Content], threads: int) -> Told:
    """Return by kind, in the order of `KINDS`, and by tag the positions of the items whose headers have a value there.

    All files of an item count. Those whose header says that identities were removed have none: what is left are keys.
    """
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(list_told, contents))
    places: dict[str, dict[str, list[int]]] = {kind: {} for kind in KINDS}
    for number, told in enumerate(found):
        for kind, name in told:
            places[kind].setdefault(name, []).append(number)
    return {
        kind: {name: tuple(tags[name]) for name in sorted(tags, key=_rank)} for kind, tags in places.items() if tags
    }


def _rank(name: str) -> tuple[int, str]:
    """Return what a tag is sorted by: identities as they are listed, all others by name behind them."""
    return (TAGS.index(name) if name in TAGS else len(TAGS)), name


def list_told(content: Content) -> set[tuple[str, str]]:
    """Return the tags of all files of an item that have a value, with their kinds; none where it is no DICOM object."""
    found: set[tuple[str, str]] = set()
    for source in _list_files(content):
        try:
            with silence():
                guard("header", lambda source=source: found.update(_read_told(source)))  # type: ignore[misc]
        except (ImageError, OSError):
            continue  # said where the item is read; what came before the damage is kept
    return found


def _list_files(content: Content) -> Sequence[Path | bytes]:
    """Return the files of an item, those that are not on disk as bytes; none of an array."""
    if isinstance(content, DicomSeries | Slide):
        return content.paths
    if isinstance(content, Path):
        return (content,)
    try:
        data = read_content(content)
    except ImageError:
        return ()
    parts = data if isinstance(data, tuple) else (data,)
    return [each for each in parts if isinstance(each, bytes)]


def _read_told(source: Path | bytes) -> Iterator[tuple[str, str]]:
    """Yield the tags of one file that have a value, with their kinds. May raise what pydicom raises."""
    import pydicom

    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as stream:
        if not is_dicom(stream.read(PREFIX[0].stop)):
            return
        stream.seek(0)
        header = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
    if str(header.get(REMOVED) or "").strip().upper() != "YES":
        yield from _walk(header, ())


def _walk(dataset: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield the tags of one level, and of the sequences in it, which are named before them."""
    from pydicom.datadict import dictionary_VR, keyword_for_tag

    for tag in list(dataset.keys()):
        if tag.is_private:
            yield PRIVATE, f"group {tag.group:04X}"
            continue
        keyword = keyword_for_tag(tag)
        kind = dictionary_VR(tag) if keyword else "UN"
        name, is_told = ".".join((*path, keyword or f"{tag.group:04X},{tag.element:04X}")), find_change(tag) is not None
        if kind == "SQ":
            items = dataset[tag].value
            if items and is_told:
                yield OTHERS, name
            for item in items:
                yield from _walk(item, (*path, keyword))
        elif is_told and _has_value(dataset.get_item(tag)):
            yield _find_kind(keyword, kind), name


def _find_kind(keyword: str, value_type: str) -> str:
    """Return the kind of a tag, by its keyword and the type of its value."""
    if keyword in TAGS:
        return WHO
    is_text = value_type in TEXT_TYPES or keyword.endswith(TEXT_ENDS)
    return BY_TYPE.get(value_type, TEXTS if is_text else OTHERS)


def _has_value(element: Any) -> bool:
    """Tell whether an element, read or not, holds more than blanks."""
    value = element.value
    return bool(value.strip(b" \0") if isinstance(value, bytes) else str(value if value is not None else "").strip())
