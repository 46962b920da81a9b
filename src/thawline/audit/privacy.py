"""Who could be told from the data: tags of DICOM headers, pictures of slide labels, and text burned into images.

Said by tag and by place, never by value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from thawline.audit.findings import Finding
from thawline.audit.identities import WHO, find_identities
from thawline.audit.marks import PLACES
from thawline.audit.pictures import Pictures
from thawline.data.readers import is_slide, read_content
from thawline.data.slide_files import Pyramid
from thawline.errors import ImageError
from thawline.types import Slide

if TYPE_CHECKING:
    from thawline.audit.identities import Told
    from thawline.types import Content

MOST_NAMED = 5  # tags of a kind, those of most items
LABELS = ("label", "macro")  # pictures in a whole slide: of its label, and of the whole glass


def find_private(contents: Sequence[Content], pictures: Pictures, threads: int) -> Iterator[Finding]:
    """Yield all that tells who somebody is: in headers, on pictures, and on the labels of slides."""
    yield from judge_privacy(find_identities(contents, threads), pictures)
    yield from judge_labels(find_labels(contents, threads))


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


def judge_privacy(told: Told, pictures: Pictures) -> Iterator[Finding]:
    """Yield what tells who somebody is: a group a tag, or a kind of tags, and a group a place of burned-in text."""
    if who := told.get(WHO):
        counts = ", ".join(f"{tag} ({len(items)})" for tag, items in who.items())
        text = f"{counts}; nothing of it is kept by a run; thawline deidentify writes a copy without"
        yield Finding("identity-bearing tags", "note", text, tuple(who.values()), counted=False)
    if hints := {kind: tags for kind, tags in told.items() if kind != WHO}:
        kinds = "; ".join(f"{kind}: {_count_tags(tags)}" for kind, tags in hints.items())
        text = f"{kinds}; thawline deidentify removes or replaces all of them, and lists them file by file"
        groups = tuple(tuple(sorted({item for items in tags.values() for item in items})) for tags in hints.values())
        yield Finding("tags that narrow down who it is", "note", text, groups, counted=False)
    found = {
        place: tuple(int(item) for item in (pictures.letters[:, number] > 0).nonzero()[0])
        for number, place in enumerate(PLACES)
    }
    places = {place: items for place, items in found.items() if items}
    if places:
        counts = ", ".join(f"{place} ({len(items)})" for place, items in places.items())
        text = f"text seems to be burned in: {counts}; it may name a patient, or tell the label: look, then crop or cover it"
        yield Finding("burned-in text", "note", text, tuple(places.values()), counted=False)


def _count_tags(tags: Mapping[str, Sequence[int]]) -> str:
    """Name the tags of a kind that most items have, and how many others there are."""
    first = sorted(tags, key=lambda tag: -len(tags[tag]))[:MOST_NAMED]
    counts = ", ".join(f"{tag} ({len(tags[tag])})" for tag in first)
    return f"{counts} and {len(tags) - len(first)} more" if len(tags) > len(first) else counts
