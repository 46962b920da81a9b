"""Who could be told from the data: identity-bearing tags of DICOM headers, and text burned into images.

Said by tag and by place, never by value.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from thawline.audit.findings import Finding
from thawline.audit.marks import PLACES
from thawline.audit.pictures import Pictures
from thawline.audit.traits import list_tags
from thawline.data.readers import is_slide, read_content
from thawline.data.slide_files import Pyramid
from thawline.errors import ImageError
from thawline.types import Slide

if TYPE_CHECKING:
    from thawline.types import Content

TAGS = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientBirthName",
    "PatientMotherBirthName",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "OtherPatientIDs",
    "OtherPatientNames",
    "MedicalRecordLocator",
    "MilitaryRank",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PerformingPhysicianName",
    "NameOfPhysiciansReadingStudy",
    "RequestingPhysician",
    "OperatorsName",
    "InstitutionName",
    "InstitutionAddress",
    "PatientComments",
)
REMOVED = "PatientIdentityRemoved"
LABELS = ("label", "macro")  # pictures in a whole slide: of its label, and of the whole glass


def find_private(contents: Sequence[Content], pictures: Pictures, threads: int) -> Iterator[Finding]:
    """Yield all that tells who somebody is: in headers, on pictures, and on the labels of slides."""
    yield from judge_privacy(find_identities(contents, threads), pictures)
    yield from judge_labels(find_labels(contents, threads))


def find_identities(contents: Sequence[Content], threads: int) -> dict[str, tuple[int, ...]]:
    """Return by tag the positions of the items whose header has a value there, in the order of `TAGS`."""
    places: dict[str, list[int]] = defaultdict(list)
    for number, values in enumerate(list_tags(contents, [*TAGS, REMOVED], threads)):
        is_removed = values.get(REMOVED, "").upper() == "YES"  # what is left are keys
        for tag in () if is_removed else filter(values.get, TAGS):
            places[tag].append(number)
    return {tag: tuple(places[tag]) for tag in TAGS if tag in places}


def find_labels(contents: Sequence[Content], threads: int) -> dict[str, tuple[int, ...]]:
    """Return by kind the positions of the whole slides that carry a picture of their label, or one that shows it."""
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(_list_labels, contents))
    kinds = {kind: tuple(number for number, each in enumerate(found) if kind in each) for kind in LABELS}
    return {kind: places for kind, places in kinds.items() if places}


def _list_labels(content: Content) -> tuple[str, ...]:
    """Return which pictures of its label a whole slide carries; none where it is no slide, or cannot be opened."""
    if not is_slide(content):
        return ()
    try:
        data = read_content(content)
        names = {name.lower() for name in Pyramid(data).associated} if isinstance(data, Slide) else set[str]()
    except ImageError:
        return ()
    return tuple(kind for kind in LABELS if kind in names)


def judge_labels(labels: dict[str, tuple[int, ...]]) -> Iterator[Finding]:
    """Yield the slides that carry pictures of their label."""
    if labels:
        counts = ", ".join(f"{kind} ({len(places)})" for kind, places in labels.items())
        text = (
            f"slides carry pictures that may show a name: {counts}; nothing of them is read by a run; remove them first"
        )
        yield Finding("pictures of slide labels", "note", text, tuple(labels.values()), counted=False)


def judge_privacy(identities: dict[str, tuple[int, ...]], pictures: Pictures) -> Iterator[Finding]:
    """Yield what tells who somebody is: a group a tag, and a group a place of burned-in text."""
    if identities:
        counts = ", ".join(f"{tag} ({len(items)})" for tag, items in identities.items())
        text = f"{counts}; nothing of it is kept by a run; thawline deidentify writes a copy without"
        yield Finding("identity-bearing tags", "note", text, tuple(identities.values()), counted=False)
    found = {
        place: tuple(int(item) for item in (pictures.letters[:, number] > 0).nonzero()[0])
        for number, place in enumerate(PLACES)
    }
    places = {place: items for place, items in found.items() if items}
    if places:
        counts = ", ".join(f"{place} ({len(items)})" for place, items in places.items())
        text = f"text seems to be burned in: {counts}; it may name a patient, or tell the label: look, then crop or cover it"
        yield Finding("burned-in text", "note", text, tuple(places.values()), counted=False)
