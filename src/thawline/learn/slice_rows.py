"""Features of bags, made from those of their slices: each slice, or tile of a whole slide, is a row of the cache.

So an interrupted run goes on at the slice, bags of other slices or joined otherwise share what is there, and memory does
not grow with the number of slices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from thawline.cache import Space
from thawline.data.readers import READER_VERSION, content_digest
from thawline.learn.bags import LINE
from thawline.learn.weight_files import Weights
from thawline.types import BAG, POOLINGS, Contract, Reading

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from thawline.types import IntArray


class Rows(Protocol):
    """Where the rows of items are read from: a space of the cache, or what is made from one."""

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row."""

    def read(self, keys: Sequence[str], out: NDArray[Any], columns: slice | None = None) -> None:
        """Copy rows (some ``columns`` of them) into ``out``, one a key."""


def takes_singly(weights: Weights, contract: Contract) -> bool:
    """Tell whether slices of a bag pass the whole frozen backbone, one by one, so that each has features of its own."""
    is_bag = contract.reading.dimensions == BAG and contract.reading.n_slices > 0
    return is_bag and weights.thaw_line is None and weights.taps in ((), (LINE,))


def take_single(weights: Weights, contract: Contract) -> tuple[Weights, Contract]:
    """Return weights and contract of a slice by itself, the same whichever are shown and however they are joined."""
    reading = dataclasses.replace(contract.reading, slices="", n_slices=0, pooling=POOLINGS[0])
    return dataclasses.replace(weights, taps=(), depth=None), dataclasses.replace(contract, reading=reading)


def take_bags(weights: Weights) -> Weights:
    """Return the frozen backbone of what was trained above `bags.LINE`, giving the features of slices side by side."""
    return dataclasses.replace(weights, taps=(LINE,), thaw_line=None)


def name_row(digest: str, index: int) -> str:
    """Return the key of a slice of the item with this digest."""
    return content_digest(f"{digest} {index}".encode())


def open_choices(reading: Reading) -> Space:
    """Open the part of the cache that holds which slices of an item are shown."""
    how = dataclasses.replace(reading, pooling=POOLINGS[0]).to_json()
    return Space("slices", {"reader": READER_VERSION, "reading": how})


def read_choices(space: Space, digests: Sequence[str], n_slices: int) -> dict[str, IntArray]:
    """Return the slices that are shown of those items that the cache knows."""
    known = [digest for digest in digests if digest in space]
    rows = np.empty((len(known), n_slices), np.int64)
    space.read(known, rows)
    return dict(zip(known, rows, strict=True))


def write_choices(space: Space, choices: Mapping[str, Sequence[int]]) -> None:
    """Keep which slices are shown of some items."""
    if choices:
        space.write(list(choices), np.array(list(choices.values()), np.int32))


@dataclasses.dataclass(frozen=True)
class BagRows:
    """Rows of bags out of those of slices in a ``space``: features joined by a ``pooling``, or side by side without one.

    ``choices`` are the slices of each item, some several times.
    """

    space: Space
    choices: Mapping[str, IntArray]
    n_slices: int
    pooling: str | None

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        width = self.space.row_shape[0]
        return (width,) if self.pooling else (self.n_slices * width,)

    def read(self, keys: Sequence[str], out: NDArray[Any], columns: slice | None = None) -> None:
        """See `Rows.read`; the mean is also where attention starts."""
        chosen = slice(None) if columns is None else columns
        for row, key in enumerate(keys):
            slices = self.read_slices(key)
            if self.pooling is None:
                out[row] = slices.reshape(-1)[chosen]
            else:
                joined = slices.max(axis=0) if self.pooling == "max" else slices.mean(axis=0, dtype=np.float32)
                out[row] = joined[chosen]

    def read_slices(self, key: str) -> NDArray[Any]:
        """Return the features of the slices of one item, (slices, features), as they are at rest."""
        distinct, places = np.unique(self.choices[key], return_inverse=True)
        keys = [name_row(key, int(index)) for index in distinct]
        found = np.empty((len(keys), *self.space.row_shape), self.space.dtype)
        self.space.read(keys, found)
        return found[places]
