"""Slices: the images that an item is made of, and which of them a network is shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from thawline.data.slice_forms import INFORMATIVE, read_form
from thawline.errors import ImageError
from thawline.types import MIDDLE, PLANES, Reading

if TYPE_CHECKING:
    from thawline.types import Pixels

N_CHANNELS = 3


@dataclasses.dataclass(frozen=True)
class Stack:
    """The slices of one item: how many lie across each plane, and one of them as a display shows it, pixels square.

    Of a whole slide these are tiles; its ``picture`` shows it whole.
    """

    format: str
    counts: Mapping[str, int]
    show: Callable[[str, int], Pixels]
    picture: Pixels | None = None

    def count(self, plane: str) -> int:
        """Return the number of slices across a plane. Raises ImageError where the item is not cut that way."""
        if plane not in self.counts:
            raise ImageError(
                f"the frames of a {self.format} object have one plane; expected a volume for {plane} slices"
            )
        return self.counts[plane]


def find_slice(n_slices: int, wanted: str) -> int:
    """Return the index of a slice by its word or its number from 1. Raises ImageError where there are not so many."""
    words = {"only": 0, "first": 0, MIDDLE: n_slices // 2, "last": n_slices - 1}
    index = words[wanted] if wanted in words else int(wanted) - 1
    if not 0 <= index < n_slices:
        raise ImageError(f"slice or frame {wanted} was asked for, and there are {n_slices}")
    return index


def take_image(stack: Stack, reading: Reading) -> Pixels:
    """Return the one image that stands for an item: a slice, or three as channels; of a bag the middle one.

    A picture comes before all of these.
    """
    if stack.picture is not None:
        return stack.picture
    if reading.dimensions == "2.5d_orthogonal":
        middle = [stack.show(plane, stack.count(plane) // 2) for plane in PLANES]
        side = max(length for each in middle for length in each.shape[:2])
        return join_channels([pad_square(each, side) for each in middle])
    n_slices, plane = stack.count(reading.plane), reading.plane
    index = find_slice(n_slices, MIDDLE if reading.n_slices else reading.frame)
    if reading.dimensions == "2.5d_neighbours":
        around = (min(max(each, 0), n_slices - 1) for each in (index - 1, index, index + 1))
        return join_channels([stack.show(plane, each) for each in around])
    return stack.show(plane, index)


def take_bag(stack: Stack, reading: Reading) -> list[Pixels]:
    """Return the ``n_slices`` images of a bag, in their order across the plane."""
    chosen = choose_slices(stack, reading)
    shown = {index: stack.show(reading.plane, index) for index in dict.fromkeys(chosen)}
    return [shown[index] for index in chosen]


def choose_slices(stack: Stack, reading: Reading) -> list[int]:
    """Return the indices of the slices of a bag, rising; where there are too few, some several times, evenly."""
    n_slices = stack.count(reading.plane)
    if read_form(reading.slices)[0] != INFORMATIVE or reading.n_slices >= n_slices:
        return choose_places(n_slices, reading)
    entropies = [measure_entropy(stack.show(reading.plane, index)) for index in range(n_slices)]
    return sorted(sorted(range(n_slices), key=lambda index: -entropies[index])[: reading.n_slices])


def choose_places(n_slices: int, reading: Reading) -> list[int]:
    """Return the indices of the slices of a bag where so many lie across the plane, whatever they show."""
    form, number = read_form(reading.slices)
    candidates = list(range(n_slices))
    if form == "every":
        candidates = candidates[::number]
    elif form == "centre" and number < n_slices:
        start = (n_slices - number) // 2
        candidates = candidates[start : start + number]
    return [
        candidates[(2 * place + 1) * len(candidates) // (2 * reading.n_slices)] for place in range(reading.n_slices)
    ]


def measure_entropy(pixels: Pixels) -> float:
    """Return Shannon's entropy of the values in 256 bins from the darkest to the brightest of 8 bits, else of the slice."""
    limits = (0, 256) if pixels.dtype == np.uint8 else (float(pixels.min()), float(pixels.max()) or 1.0)
    if limits[0] >= limits[1]:
        return 0.0
    counts, _ = np.histogram(pixels, 256, limits)
    shares = counts[counts > 0] / pixels.size
    return float(-(shares * np.log2(shares)).sum())


def join_channels(slices: list[Pixels]) -> Pixels:
    """Return three grey slices of one size as the channels of an image. Raises ImageError for slices in colour."""
    if any(each.ndim == N_CHANNELS and not bool((each == each[..., :1]).all()) for each in slices):
        raise ImageError("slices in colour, or through three windows, cannot be channels as well; take --dimensions 2d")
    return np.stack([each[..., 0] if each.ndim == N_CHANNELS else each for each in slices], axis=-1)


def pad_square(pixels: Pixels, side: int) -> Pixels:
    """Return a slice in the middle of a black square."""
    height, width = pixels.shape[:2]
    top, left = (side - height) // 2, (side - width) // 2
    edges = (top, side - height - top), (left, side - width - left)
    return np.pad(pixels, (*edges, *[(0, 0)] * (pixels.ndim - 2)))
