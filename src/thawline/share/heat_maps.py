"""Heat maps of whole slides: which tiles a model looks at, as a picture over the overview and as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.data.readers import read_content
from thawline.data.slides import Tiling, locate_tiles
from thawline.errors import ModelError
from thawline.files import write_atomic
from thawline.learn.bags import LINE
from thawline.learn.features import fill_space
from thawline.learn.loading import fit_weights, load_backbone
from thawline.learn.slice_rows import BagRows, take_bags
from thawline.share.bundle import Model
from thawline.types import ATTENTION, Listener, Slide

if TYPE_CHECKING:
    from thawline.types import Content, FloatArray, IntArray, Pixels

COLUMNS = ("x_px", "y_px", "weight")
COLOURS, OPACITY = "inferno", 0.6
SIDE_IN, DPI = 7.0, 150
EVEN = 1e-3  # below which weights, as shares of that of all alike, do not differ


def check_heat_maps(model: Model) -> None:
    """Refuse a model that has no heat maps to show. Raises ModelError that says which have."""
    reading = model.contract.reading
    if not reading.tile_px:
        raise ModelError("--heat-maps: expected a model of whole slides, found one of images or volumes; leave it out")
    if model.weights.thaw_line not in (None, LINE) or model.texture:
        found = "handcrafted features" if model.texture else f"a network trained above {model.weights.thaw_line}"
        raise ModelError(
            f"--heat-maps: expected a model of frozen features, found {found}; run with --pooling {ATTENTION} "
            f"--thaw-line {LINE}"
        )
    if model.weights.thaw_line is None and reading.pooling != "max":
        raise ModelError(
            f"--heat-maps: the model takes the mean of its tiles, to which all count alike; run with --pooling {ATTENTION} "
            f"--thaw-line {LINE}, or with --pooling max"
        )


def write_heat_maps(
    model: Model,
    contents: Sequence[Content],
    digests: Sequence[str],
    names: Sequence[str],
    folder: Path,
    listener: Listener,
) -> list[Path]:
    """Write for each slide NAME.png, its overview with the weights of its tiles, and NAME.csv, and return the tables.

    A row of the table is a tile: its upper left corner in pixels of the finest level, and its weight; the weights of a slide
    sum to one. A weight is the mean of the trained members' attention or, where the maximum joins tiles, the share of the
    features that are largest in it. The contents are slides that the model takes, ``digests`` theirs. Raises ModelError for
    a model without any maps.
    """
    check_heat_maps(model)
    about = contents, digests, take_bags(model.weights), model.contract, model.hardware, listener, "features"
    rows = fill_space(*about).rows
    assert isinstance(rows, BagRows)  # noqa: S101 - what a bag of frozen features is
    members = _load_attention(model)
    listener.begin("heat maps", len(contents))
    tables, is_even = [], True
    for content, digest, name in zip(contents, digests, names, strict=True):
        chosen, weights = weigh_tiles(rows, digest, members)
        is_even &= float(np.ptp(weights)) * len(weights) < EVEN
        data = read_content(content)
        assert isinstance(data, Slide)  # noqa: S101 - others were refused
        overview, size_px, tiling = locate_tiles(data, model.contract.reading)
        corners = tiling.corners_px()[chosen]
        tables.append(write_atomic(folder / f"{name}.csv", _format_table(corners, weights)))
        write_atomic(folder / f"{name}.png", draw_heat_map(overview, size_px, tiling, chosen, weights))
        listener.advance()
    listener.end(f"{len(contents)} slides")
    if members and is_even:
        listener.warn(
            "attention stayed what it starts as, the mean: to train it did not pay, and the maps show nothing"
        )
    return tables


def name_slides(paths: Sequence[Path]) -> list[str]:
    """Return the stem of each path, with a number behind it where several have the same."""
    names: list[str] = []
    for path in paths:
        name, number = path.stem, 1
        while name in names:
            number += 1
            name = f"{path.stem}-{number}"
        names.append(name)
    return names


def _load_attention(model: Model) -> list[Any]:
    """Return the attention of each trained member; none where the maximum joins tiles."""
    if model.weights.thaw_line is None:
        return []
    ensemble: Any = load_backbone(fit_weights(model.weights, model.contract.size_px, model.contract.reading))
    trained = list(ensemble.members)[: len(getattr(model.head, "scales", ensemble.members))]  # a frozen one is the mean
    return [member.get_submodule(f"suffix.{LINE}") for member in trained]


def weigh_tiles(rows: BagRows, digest: str, members: Sequence[Any]) -> tuple[IntArray, FloatArray]:
    """Return the tiles of a slide that the model is shown, and the weight of each; weights sum to one.

    Where a slide has too few tiles and some are shown twice, what counts is the weight of one showing.
    """
    import torch

    distinct, places = np.unique(rows.choices[digest], return_inverse=True)
    bag = rows.read_slices(digest).astype(np.float32)
    weights = np.zeros(len(distinct))
    if members:
        with torch.inference_mode():
            found = [member.weigh(torch.from_numpy(bag)[None])[0].double().numpy() for member in members]
        weights[places] = np.mean(found, axis=0)  # the same for the same tile
    else:
        np.add.at(weights, places[bag.argmax(axis=0)], 1 / bag.shape[1])
    return distinct, weights / weights.sum()


def _format_table(corners: IntArray, weights: FloatArray) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([int(x), int(y), f"{weight:.6g}"] for (x, y), weight in zip(corners, weights, strict=True))
    return buffer.getvalue()


def draw_heat_map(
    overview: Pixels, size_px: tuple[int, int], tiling: Tiling, chosen: IntArray, weights: FloatArray
) -> bytes:
    """Return a PNG of the overview in grey with the ``chosen`` tiles coloured by weight, one being that of all alike."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    relative = weights * len(weights)
    norm = Normalize(0, max(2.0, float(relative.max())))
    rows, columns = overview.shape[:2]
    layer = np.zeros((rows, columns, 4))
    scale = np.array([columns / size_px[0], rows / size_px[1]])
    starts = np.rint(tiling.places[chosen] * np.array(tiling.side_px) * scale).astype(int)
    ends = np.rint((tiling.places[chosen] + 1) * np.array(tiling.side_px) * scale).astype(int)
    for (left, top), (right, bottom), value in zip(starts, ends, relative, strict=True):
        colour = colormaps[COLOURS](norm(value))[:3]
        layer[top : max(bottom, top + 1), left : max(right, left + 1)] = (*colour, OPACITY)
    figure = Figure(figsize=(SIDE_IN, SIDE_IN * min(2.0, max(0.5, rows / columns))), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(overview.mean(axis=2), cmap="gray", vmin=0, vmax=255)
    axes.imshow(layer)
    axes.set_axis_off()
    bar = figure.colorbar(ScalarMappable(norm, COLOURS), ax=axes, shrink=0.7)
    bar.set_label("weight of a tile; 1: as if all counted alike")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
