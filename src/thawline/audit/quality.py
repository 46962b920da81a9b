"""Images that are not like the others: nearly blank, clipped, inverted, or of another kind or modality."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from thawline.audit.findings import Finding
from thawline.data.dicom import MODALITIES
from thawline.data.readers import ImageFacts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from thawline.types import BoolArray, FloatArray

COARSE_PX = 16
SAME, LEAST_SHOWN = 8, 0.01  # grey levels from the median, and the share of pixels that differ by more
MOST_WHITE, FAR_WHITE = (
    0.2,
    3.0,
)  # share of pixels at the brightest value, and interquartile ranges above the third quartile
LEAST_COMMON = 0.4  # median correlation with the mean picture, from which on the images show one thing in one pose
INVERTED = -0.3  # correlation with it, below which an image is its negative
LEAST_ITEMS = 50  # that are compared
BATCH = 1024


def judge_quality(facts: Sequence[ImageFacts], grey: NDArray[np.uint8], modalities: Sequence[str]) -> Iterator[Finding]:
    """Yield what images are not like the others, by their small ``grey`` pictures, (items, side, side).

    ``modalities`` are those of DICOM headers, "" where none is said. All arguments are aligned.
    """
    blank = find_blank(grey)
    for name, found, text in (
        ("nearly blank images", blank, "hardly anything shows: look, then leave them out"),
        (
            "clipped images",
            find_clipped(grey) & ~blank,
            "much more is white than in the others, and what was there is lost",
        ),
        ("inverted images", find_inverted(grey, ~blank), "they are like the negative of the others: invert them"),
    ):
        if found.any():
            yield Finding(name, "note", text, tuple((int(item),) for item in np.flatnonzero(found)))
    yield from _judge_kinds(facts, modalities)


def _judge_kinds(facts: Sequence[ImageFacts], modalities: Sequence[str]) -> Iterator[Finding]:
    """Yield the kinds of images that are mixed, by an example of each: the label may go along with them."""
    for name, kinds in (
        ("grey and colour images", ["colour" if each.channels > 2 else "grey" for each in facts]),
        ("images and volumes", ["volume" if each.slices > 1 else "image" for each in facts]),
        ("mixed modalities", [each if each in ("", *MODALITIES) else "another" for each in modalities]),
    ):
        counts = Counter(filter(None, kinds))
        if len(counts) > 1:
            text = f"{', '.join(f'{kind} ({count})' for kind, count in counts.most_common())}: mixed, look at each kind"
            yield Finding(name, "note", text, tuple((kinds.index(kind),) for kind in counts), counted=False)


def find_blank(grey: NDArray[np.uint8]) -> BoolArray:
    """Tell which images are of one value but for a few pixels."""
    shares = [(np.abs(rows - np.median(rows, axis=1, keepdims=True)) > SAME).mean(axis=1) for rows in _cut(grey)]
    return np.asarray(np.concatenate(shares) < LEAST_SHOWN)


def find_clipped(grey: NDArray[np.uint8]) -> BoolArray:
    """Tell which images have one bright value over a large part, far larger than in the others."""
    shares = [  # not of the brightest value: resizing leaves a rim above a plateau
        (np.abs(rows - np.quantile(rows, 0.95, axis=1, keepdims=True)) <= 1).mean(axis=1) for rows in _cut(grey)
    ]
    share = np.concatenate(shares)
    low, high = np.quantile(share, [0.25, 0.75])
    return np.asarray(share > max(MOST_WHITE, float(high + FAR_WHITE * (high - low))))


def find_inverted(grey: NDArray[np.uint8], usable: BoolArray) -> BoolArray:
    """Tell which images are like the negative of the others, where these are alike."""
    coarse = _shrink(grey)
    found = np.zeros(len(grey), bool)
    if usable.sum() < LEAST_ITEMS:
        return found
    mean = coarse[usable].mean(axis=0)
    mean /= max(float(np.linalg.norm(mean)), 1e-9)
    alike = coarse @ mean
    if float(np.median(alike[usable])) >= LEAST_COMMON:
        found = usable & (alike < INVERTED)
    return found


def _cut(grey: NDArray[np.uint8]) -> Iterator[NDArray[np.int16]]:
    """Yield the pixels of some pictures at a time, a row each."""
    for start in range(0, len(grey), BATCH):
        yield grey[start : start + BATCH].reshape(-1, grey[0].size).astype(np.int16)


def _shrink(grey: NDArray[np.uint8]) -> FloatArray:
    """Return coarse pictures as rows of mean zero and length one."""
    cell = grey.shape[1] // COARSE_PX
    cells = grey.reshape(len(grey), COARSE_PX, cell, COARSE_PX, cell)
    rows = cells.mean(axis=(2, 4), dtype=np.float32).reshape(len(grey), -1).astype(np.float64)
    rows -= rows.mean(axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9))
