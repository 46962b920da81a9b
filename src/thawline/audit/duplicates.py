"""Near-duplicates: the same picture again, re-encoded, resized, brighter or darker, turned, mirrored or cropped.

Two steps. Candidates are nearest neighbours among coarse pictures of 16 x 16, looked up in an index of approximate
neighbours (HNSW: Malkov and Yashunin, IEEE TPAMI 42:824, 2020), each picture in its eight turns and as five crops. Each is
then verified on finer pictures, of which only details are compared, by normalised cross-correlation: patients of one kind
look alike as a whole, not in their details.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from thawline.audit.neighbours import Neighbours
from thawline.data.splits import find_leaders

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from thawline.types import FloatArray, IntArray, Pixels

SIDE_PX, COARSE_PX = 64, 16
DETAILS_PX = 0.7, 2.7  # sigmas of two blurs that details lie between: finer is lost in re-encoding, wider is anatomy
CROP_DETAILS_PX = 1.0, 2.7  # of crops, which never lie on whole pixels
FORMS_PX = 0.75, 2.5  # those of forms, of pictures of half the side: they tell whether a crop can be one
CROP_SHARE = 0.9  # of the side, of the crops that candidates are looked up with
CROP_SCALES = tuple(percent / 100 for percent in range(82, 99, 2))  # at which a crop is laid over the other picture
RIM_SHARE = 1 / 16  # of the side, at the rim of a crop, which a blur sees beyond, and is left out
LEAST_FORMS = 0.8  # correlation of forms at `CROP_SHARE` from which on all of them are tried
NEIGHBOURS, CROP_NEIGHBOURS = 10, 5
LEAST_ALIKE = 0.5  # cosine of coarse pictures from which on a pair is verified
LEAST_CORRELATION, LEAST_OF_CROPS = 0.9, 0.93  # of details, of two pictures that are one; crops may choose their place
LEAST_CONTRAST = 2.0  # grey levels of 255: a picture of less has no details
BATCH_PAIRS = 1024

Kind = Literal["copy", "turned", "cropped"]
Turn = tuple[int, bool]  # quarter turns to the left, after mirroring the sides or not
TURNS: tuple[Turn, ...] = tuple((quarters, mirrored) for mirrored in (False, True) for quarters in range(4))


@dataclasses.dataclass(frozen=True, slots=True)
class Duplicate:
    """Two items whose pictures are one: ``second`` is the ``first`` as a copy, turned or cropped, or the other way round.

    ``correlation`` is that of details.
    """

    first: int
    second: int
    kind: Kind
    correlation: float


def draw_picture(pixels: Pixels) -> NDArray[np.uint8]:
    """Return a small grey picture, (SIDE_PX, SIDE_PX), from its darkest to its brightest value."""
    from PIL import Image

    grey = pixels.astype(np.float32).mean(axis=2) if pixels.ndim == 3 else pixels.astype(np.float32)
    small = np.asarray(Image.fromarray(grey).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC))
    low, high = float(small.min()), float(small.max())
    return np.rint((small - low) * (255 / (high - low) if high > low else 0.0)).astype(np.uint8)


def find_duplicates(pictures: NDArray[np.uint8]) -> list[Duplicate]:
    """Return the pairs of pictures, (items, SIDE_PX, SIDE_PX), that are one, in the order of their items."""
    from threadpoolctl import threadpool_limits

    batches = (pictures[start : start + BATCH_PAIRS] for start in range(0, len(pictures), BATCH_PAIRS))
    usable = np.flatnonzero([each.std() >= LEAST_CONTRAST for batch in batches for each in batch])
    if len(usable) < 2:
        return []
    chosen = pictures[usable]
    found: dict[tuple[int, int], Duplicate] = {}
    with threadpool_limits(1):  # of many small steps, which several threads slow down
        whole, crops = _find_candidates(chosen)
        of_whole, of_crops = _verify_turns(chosen, whole), _verify_crops(chosen, crops)
    for kind, pairs, correlations in (("whole", whole, of_whole), ("cropped", crops, of_crops)):
        for (first, second, turn), correlation in zip(pairs.tolist(), correlations.tolist(), strict=True):
            low, high = sorted((int(usable[first]), int(usable[second])))
            name: Kind = "cropped" if kind == "cropped" else "copy" if turn == 0 else "turned"
            least = LEAST_OF_CROPS if name == "cropped" else LEAST_CORRELATION
            if correlation >= least and (low, high) not in found:
                found[low, high] = Duplicate(low, high, name, float(correlation))
    return [found[pair] for pair in sorted(found)]


def make_clusters(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Return the items that pairs connect, in groups of two and more, in the order of their first items."""
    groups: dict[int, list[int]] = defaultdict(list)
    for item, leader in find_leaders(sorted({item for pair in pairs for item in pair}), pairs).items():
        groups[leader].append(item)
    return sorted(map(tuple, groups.values()))


def turn(pictures: NDArray[Any], number: int) -> NDArray[Any]:
    """Return pictures, (…, side, side), in one of `TURNS`."""
    quarters, mirrored = TURNS[number]
    return np.rot90(pictures[..., ::-1] if mirrored else pictures, quarters, axes=(-2, -1))


def _find_candidates(pictures: NDArray[np.uint8]) -> tuple[IntArray, IntArray]:
    """Return pairs to verify, rows of (first, second, turn of the first), as wholes; and (crop, of what, 0)."""
    index = Neighbours(_describe(pictures))

    def look_up(turned: NDArray[np.uint8], n_neighbours: int) -> tuple[IntArray, FloatArray]:
        """Return rows of a query and a neighbour that is alike, and how much."""
        keys, distances = index.search(_describe(turned), min(n_neighbours + 1, len(turned)))
        alike = 1 - distances
        queries, places = np.nonzero((alike >= LEAST_ALIKE) & (keys != np.arange(len(turned))[:, None]))
        return np.stack([queries, keys[queries, places]], axis=1), alike[queries, places]

    whole, alike = [], []
    for number in range(len(TURNS)):
        pairs, values = look_up(turn(pictures, number), NEIGHBOURS)
        whole.append(np.column_stack([pairs, np.full(len(pairs), number)]))
        alike.append(values)
    crops = [look_up(cropped, CROP_NEIGHBOURS)[0][:, ::-1] for cropped in _crop(pictures)]
    as_crops = np.unique(np.concatenate(crops), axis=0)
    return _keep_best(np.concatenate(whole), np.concatenate(alike)), np.column_stack(
        [as_crops, np.zeros(len(as_crops), int)]
    )


def _keep_best(rows: IntArray, alike: FloatArray) -> IntArray:
    """Return of the rows of each pair, whichever is first, the one that is most alike, of equals the first."""
    low, high = rows[:, :2].min(axis=1), rows[:, :2].max(axis=1)
    order = np.lexsort((np.arange(len(rows)), -alike, high, low))
    is_new = np.ones(len(rows), bool)
    is_new[1:] = (np.diff(low[order]) != 0) | (np.diff(high[order]) != 0)
    return rows[order[is_new]]


def _describe(pictures: NDArray[Any]) -> Any:
    """Return coarse pictures as rows of mean zero and length one, float32."""
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    found = np.empty((len(pictures), COARSE_PX**2), np.float32)
    for start in range(0, len(pictures), BATCH_PAIRS):
        given = torch.from_numpy(np.ascontiguousarray(pictures[start : start + BATCH_PAIRS], np.float32))[:, None]
        rows = adaptive_avg_pool2d(given, COARSE_PX).flatten(1)
        rows = rows - rows.mean(1, keepdim=True)
        found[start : start + BATCH_PAIRS] = (rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-6)).numpy()
    return found


def _crop(pictures: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Yield the four corners and the centre of all pictures."""
    side = round(CROP_SHARE * SIDE_PX)
    end = SIDE_PX - side
    for top, left in ((0, 0), (0, end), (end, 0), (end, end), (end // 2, end // 2)):
        yield pictures[:, top : top + side, left : left + side]


def _verify_turns(pictures: NDArray[np.uint8], pairs: IntArray) -> FloatArray:
    """Return the correlation of details of each pair, the first turned."""
    details = np.empty(pictures.shape, np.float16)
    for start in range(0, len(pictures), BATCH_PAIRS):
        batch = slice(start, start + BATCH_PAIRS)
        details[batch] = _standardise(_take_band(pictures[batch], DETAILS_PX)).reshape(-1, SIDE_PX, SIDE_PX)
    found = np.empty(len(pairs))
    for number in range(len(TURNS)):
        rows = np.flatnonzero(pairs[:, 2] == number)
        for start in range(0, len(rows), BATCH_PAIRS):
            part = rows[start : start + BATCH_PAIRS]
            ours, theirs = (details[pairs[part, column]].astype(np.float32) for column in (0, 1))
            found[part] = (turn(ours, number) * theirs).sum(axis=(1, 2))
    return found


def _verify_crops(pictures: NDArray[np.uint8], pairs: IntArray) -> FloatArray:
    """Return the largest correlation of details of the first, smaller, laid anywhere over the second."""
    found = np.full(len(pairs), -1.0)
    half = pictures.reshape(len(pictures), SIDE_PX // 2, 2, SIDE_PX // 2, 2).mean((2, 4), np.float32).astype(np.uint8)
    for start in range(0, len(pairs), BATCH_PAIRS):
        part = pairs[start : start + BATCH_PAIRS]
        forms = _lay_over(half, part, (CROP_SHARE,), FORMS_PX)
        likely = np.flatnonzero(forms >= LEAST_FORMS)
        if len(likely):
            found[start + likely] = _lay_over(pictures, part[likely], CROP_SCALES, CROP_DETAILS_PX)
    return found


def _lay_over(
    pictures: NDArray[np.uint8], pairs: IntArray, scales: Sequence[float], sigmas_px: tuple[float, float]
) -> FloatArray:
    """Return the largest correlation, over all places and scales, of the first of each pair, made smaller, with the second.

    Compared is what lies between two blurs. Products at all places are those of Fourier transforms.
    """
    import torch
    from torch.nn.functional import interpolate

    (crops, first), (grounds, second) = (np.unique(pairs[:, column], return_inverse=True) for column in (0, 1))
    first_rows, second_rows = torch.from_numpy(first), torch.from_numpy(second)
    shape = pictures.shape[1:]
    rim = round(RIM_SHARE * shape[0])
    ground = torch.from_numpy(_take_band(pictures[grounds], sigmas_px))
    under, total, square = torch.fft.rfft2(ground), _add_up(ground), _add_up(ground**2)
    whole = torch.from_numpy(pictures[crops])[:, None].float()
    found = torch.full((len(pairs),), -1.0)
    for size in (round(scale * shape[0]) for scale in scales):
        small = interpolate(whole, (size, size), mode="bicubic", antialias=True)[:, 0]
        details = torch.from_numpy(_take_band(small.numpy(), sigmas_px)[:, rim:-rim, rim:-rim])
        details = details - details.mean((1, 2), keepdim=True)
        details = details / details.norm(dim=(1, 2), keepdim=True).clamp_min(1e-6)
        side = size - 2 * rim
        sums = _sum_windows(total, side), _sum_windows(square, side)
        spread = (sums[1] - sums[0] ** 2 / side**2).clamp_min(1e-6).sqrt()
        laid, places = torch.fft.rfft2(details, shape).conj(), shape[0] - side + 1
        products = torch.fft.irfft2(laid[first_rows] * under[second_rows], shape)[:, :places, :places]
        found = torch.maximum(found, (products / spread[second_rows]).flatten(1).amax(1))
    return np.asarray(found.numpy(), np.float64)


def _add_up(images: Tensor) -> Tensor:
    """Return the sums above and left of every place, of one more row and column (Crow, Summed-area tables, 1984)."""
    from torch.nn.functional import pad

    return pad(images.double().cumsum(1).cumsum(2), (1, 0, 1, 0))


def _sum_windows(table: Tensor, side: int) -> Tensor:
    """Return the sums over all windows of ``side``, from a table of `_add_up`."""
    rows = table[:, side:] - table[:, :-side]
    return (rows[:, :, side:] - rows[:, :, :-side]).float()


def _take_band(pictures: NDArray[Any], sigmas_px: tuple[float, float]) -> NDArray[np.float32]:
    """Return what lies between two blurs: float32, of the same shape (pictures, side, side)."""
    from scipy.ndimage import gaussian_filter

    given = np.asarray(pictures, np.float32)
    fine, wide = (gaussian_filter(given, (0, sigma, sigma), mode="nearest") for sigma in sigmas_px)
    return np.asarray(fine - wide, np.float32)


def _standardise(pictures: NDArray[Any]) -> FloatArray:
    """Return rows of mean zero and length one."""
    rows = pictures.reshape(len(pictures), -1).astype(np.float64)
    rows -= rows.mean(axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6))
