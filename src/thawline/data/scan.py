"""One look at every item before anything is decided: digests, facts, and a reason for each one that cannot be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.cache import Space
from thawline.data.readers import READER_VERSION, USUAL, ImageFacts, content_digest, describe, read_content
from thawline.errors import ImageError
from thawline.types import Listener, Reading

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from thawline.types import Content

_ROW = np.dtype(
    [
        ("width_px", "u4"),
        ("height_px", "u4"),
        ("channels", "u1"),
        ("bits", "u1"),
        ("format", "U8"),
        ("minimum", "f8"),
        ("maximum", "f8"),
        ("pixel_digest", "U64"),
        ("slices", "u4"),
    ]
)
_SHARD_ROWS = 4096


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """What is known of one item: ``digest`` of its bytes and its facts, or the ``problem`` that keeps it out."""

    digest: str
    facts: ImageFacts | None
    problem: str = ""


def scan(contents: Sequence[Content], threads: int, listener: Listener, reading: Reading = USUAL) -> list[Look]:
    """Read every item once, in ``threads`` threads; what the cache knows by content is not decoded again."""
    how = {} if reading == USUAL else {"reading": reading.to_json()}
    space = Space("facts", {"reader": READER_VERSION, "row": str(_ROW), **how})
    looks: list[Look] = []
    fresh: dict[str, ImageFacts] = {}
    listener.begin("reading", len(contents))
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(contents), _SHARD_ROWS):  # so that a million items are not all in flight at once
            part = contents[start : start + _SHARD_ROWS]
            for look, is_new in pool.map(lambda content: _look(content, space, reading), part):
                looks.append(look)
                if is_new and look.facts is not None:
                    fresh[look.digest] = look.facts
                listener.advance()
            _keep(space, fresh)
    n_bad = sum(look.facts is None for look in looks)
    listener.end(f"{len(looks)} items" + (f", {n_bad} unreadable" if n_bad else ""))
    return looks


def _look(content: Content, space: Space, reading: Reading) -> tuple[Look, bool]:
    try:
        data = read_content(content)
        digest = content_digest(data)
        if digest in space:
            row = np.empty(1, _ROW)
            space.read([digest], row)
            return Look(digest, ImageFacts(**dict(_to_fields(row)))), False
        return Look(digest, describe(data, reading)), True
    except ImageError as error:
        return Look("", None, str(error)), False


def _keep(space: Space, fresh: dict[str, ImageFacts]) -> None:
    """Write the new facts as one shard and forget them."""
    if fresh:
        rows = np.array([dataclasses.astuple(facts) for facts in fresh.values()], _ROW)
        space.write(list(fresh), rows)
        fresh.clear()


def _to_fields(row: NDArray[Any]) -> Iterator[tuple[str, Any]]:
    for name in _ROW.names or ():
        yield name, row[name][0].item()
