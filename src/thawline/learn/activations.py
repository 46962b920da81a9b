"""Activations at a thaw line: from the cache, which one pass over the views has filled for all lines, or from the prefix."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Protocol

import numpy as np

from thawline.learn.augment import CLEAN, View, augment, list_views
from thawline.learn.engine import Engine, open_engine
from thawline.learn.features import batch_inputs, fill_space, prepare_all
from thawline.learn.slice_rows import Rows
from thawline.learn.weight_files import Weights
from thawline.types import Augmentation, Contract, Hardware, Line, Listener

if TYPE_CHECKING:
    from torch import Tensor

    from thawline.types import Content, Inputs, IntArray

FRESH_VIEWS = 2**31  # so many that no epoch sees one again


class Activations(Protocol):
    """Where a suffix takes its input from."""

    @property
    def n_views(self) -> int:
        """Number of augmented views, 0 where there is the clean one only."""

    def take(self, items: IntArray, views: IntArray) -> Tensor:
        """Return float32 (items, …) for item positions and the number of each one's view; view 0 is the clean image."""


@dataclasses.dataclass(frozen=True)
class CachedActivations:
    """Activations at one line out of rows that hold those at several; ``spaces`` by number of the view."""

    spaces: tuple[Rows, ...]
    digests: tuple[str, ...]
    columns: slice
    shape: tuple[int, ...]

    @property
    def n_views(self) -> int:
        """Number of augmented views."""
        return len(self.spaces) - 1

    def take(self, items: IntArray, views: IntArray) -> Tensor:
        """See `Activations.take`."""
        import torch

        rows = np.empty((len(items), math.prod(self.shape)), np.float16)
        for view in np.unique(views):
            chosen = np.flatnonzero(views == view)
            part = np.empty((len(chosen), rows.shape[1]), np.float16)
            self.spaces[view].read([self.digests[item] for item in items[chosen]], part, self.columns)
            rows[chosen] = part
        return torch.from_numpy(rows.reshape(len(items), *self.shape)).float()


@dataclasses.dataclass(frozen=True)
class FreshActivations:
    """Activations at one line computed for every batch: a fresh view each time, nothing kept.

    ``threads`` decode. An item that can no longer be read raises DataError.
    """

    contents: Sequence[Content]
    digests: tuple[str, ...]
    engine: Engine
    contract: Contract
    augmentation: Augmentation
    seed: int
    shape: tuple[int, ...]
    threads: int
    n_views: int = FRESH_VIEWS

    def take(self, items: IntArray, views: IntArray) -> Tensor:
        """See `Activations.take`."""
        import torch

        def look(index: int, image: Inputs) -> Inputs:
            number = int(views[index])
            view = View(number, self.seed, self.augmentation) if number else CLEAN
            return augment(image, view, self.digests[items[index]])

        chosen = [self.contents[item] for item in items]
        with closing(prepare_all(chosen, self.contract, self.threads, look)) as inputs:
            rows = np.concatenate(list(self.engine.run(batch_inputs(inputs, self.engine.batch_items))))
        with np.errstate(over="ignore"):  # training says so, with the name of the rung
            halved = rows.reshape(len(items), *self.shape).astype(np.float16)
        return torch.from_numpy(halved).float()


def fill_activations(
    contents: Sequence[Content],
    digests: Sequence[str],
    weights: Weights,
    contract: Contract,
    hardware: Hardware,
    lines: Sequence[Line],
    augmentation: Augmentation,
    n_views: int,
    seed: int,
    listener: Listener,
) -> Mapping[str, CachedActivations]:
    """Fill the cache with the clean and ``n_views`` augmented views of all items, at all ``lines`` in one pass each.

    Returns activations by the name of the line. Kept as float16 whatever the contract says of features, as they are many
    times as large. Raises as `features.extract`.
    """
    contract = dataclasses.replace(contract, feature_dtype="float16")
    tapped = dataclasses.replace(weights, taps=tuple(line.name for line in lines))
    views = list_views(n_views, seed, augmentation)
    spaces = tuple(
        fill_space(
            contents, digests, tapped, contract, hardware, listener, f"prefix, view {view.number} of {n_views}", view
        ).rows
        for view in views
    )
    found, start = {}, 0
    for line in lines:
        end = start + math.prod(line.shape)
        found[line.name] = CachedActivations(spaces, tuple(digests), slice(start, end), line.shape)
        start = end
    return found


def open_fresh(
    contents: Sequence[Content],
    digests: Sequence[str],
    weights: Weights,
    contract: Contract,
    hardware: Hardware,
    line: Line,
    augmentation: Augmentation,
    seed: int,
) -> FreshActivations:
    """Open the prefix below one line, for data whose views would not fit the budget.

    View n of an item is what `fill_activations` calls its view n. Raises as `open_engine`.
    """
    engine = open_engine(dataclasses.replace(weights, taps=(line.name,)), contract, hardware)
    return FreshActivations(contents, tuple(digests), engine, contract, augmentation, seed, line.shape, hardware.cores)
