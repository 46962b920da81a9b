"""Made-up whole slides with known truth: tissue of two textures on glass, as pyramids of JPEG tiles that OpenSlide opens."""

from __future__ import annotations

import csv
import functools
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from thawline.types import BoolArray, Pixels

    Encode = Callable[[int, int, int], bytes]  # level, row and column of a tile to its JPEG

Form = Literal["svs", "tiff", "ome"]
MANIFEST = "manifest.csv"
CLASSES = ("normal", "tumour")
GLASS, STROMA, TUMOUR, NUCLEUS = (243, 242, 244), (222, 160, 196), (176, 118, 178), (92, 52, 122)
TUMOUR_RADIUS = 0.13
TILE_PX = 256
QUALITY = 90
JPEG_COMPRESSION = 7
OME = (
    '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" '
    'SizeX="{width}" SizeY="{height}" SizeC="3" SizeZ="1" SizeT="1" '
    'PhysicalSizeX="{mpp:g}" PhysicalSizeY="{mpp:g}" Interleaved="true"><Channel ID="Channel:0:0" SamplesPerPixel="3"/>'
    '<TiffData IFD="0" PlaneCount="1"/></Pixels></Image></OME>'
)


def draw_slide(seed: int, side_px: int = 1536, *, tumour: float = 0.0) -> tuple[Pixels, BoolArray, BoolArray]:
    """Draw a slide, uint8 (side, side, 3): glass, an ellipse of tissue, in it a round tumour; and masks of these.

    ``tumour`` is its radius as a share of the side, 0 for none.
    """
    draw = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side_px, :side_px] / side_px
    middle, radii = draw.uniform(0.42, 0.58, 2), draw.uniform(0.26, 0.36, 2)
    tissue = ((rows - middle[0]) / radii[0]) ** 2 + ((columns - middle[1]) / radii[1]) ** 2 < 1
    place = middle + draw.uniform(-0.1, 0.1, 2)
    ill = ((rows - place[0]) ** 2 + (columns - place[1]) ** 2 < tumour**2) & tissue
    picture = np.where(tissue[..., None], STROMA, GLASS).astype(np.float32)
    picture[ill] = TUMOUR
    stain = draw.uniform(0.95, 1.05, 3)  # no two are stained alike
    for mask, share, radius_px in ((tissue & ~ill, 0.0008, 3), (ill, 0.003, 5)):
        _add_nuclei(picture, mask, share, radius_px, draw)
    picture += 4 * draw.standard_normal((side_px, side_px, 1), np.float32) * tissue[..., None]
    picture[tissue] *= stain
    return np.clip(picture, 0, 255).astype(np.uint8), tissue, ill


def _add_nuclei(picture: Pixels, mask: BoolArray, share: float, radius_px: int, draw: np.random.Generator) -> None:
    """Draw round nuclei, whose middles are such a share of the pixels of a mask."""
    middles = np.argwhere(mask & (draw.random(mask.shape, np.float32) < share))
    disc = (
        np.argwhere(np.hypot(*np.mgrid[-radius_px : radius_px + 1, -radius_px : radius_px + 1]) <= radius_px)
        - radius_px
    )
    places = (middles[:, None] + disc[None]).reshape(-1, 2)
    inside = ((places >= 0) & (places < mask.shape)).all(axis=1)
    rows, columns = places[inside].T
    picture[rows[mask[rows, columns]], columns[mask[rows, columns]]] = NUCLEUS


def make_slides(
    folder: Path,
    n_slides: int = 16,
    *,
    seed: int = 0,
    side_px: int = 1536,
    mpp: float = 0.5,
    tumour: float = TUMOUR_RADIUS,
) -> Path:
    """Write slides of both classes with a manifest, two of each patient, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / MANIFEST).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "patient"])
        for number in range(n_slides):
            label = CLASSES[number // 2 % 2]
            picture, _, _ = draw_slide(seed * 1000 + number, side_px, tumour=tumour if label == CLASSES[1] else 0)
            write_picture(folder / f"{number:03d}.svs", picture, mpp)
            writer.writerow([f"{number:03d}.svs", label, f"patient {number // 2}"])
    return folder


def write_picture(path: Path, picture: Pixels, mpp: float | None, form: Form = "svs", *, n_levels: int = 3) -> Path:
    """Write a picture as a pyramid of levels, each half of the one before, in one of the forms of TIFF."""
    levels = list(itertools.accumulate([picture] * n_levels, lambda above, _: halve(above)))

    def encode(level: int, row: int, column: int) -> bytes:
        tile = levels[level][row * TILE_PX : (row + 1) * TILE_PX, column * TILE_PX : (column + 1) * TILE_PX]
        missing = [(0, TILE_PX - length) for length in tile.shape[:2]]
        return encode_tile(np.pad(tile, [*missing, (0, 0)], mode="edge"))

    return write_pyramid(path, [(each.shape[1], each.shape[0]) for each in levels], encode, mpp, form)


def halve(picture: Pixels) -> Pixels:
    """Return a picture at half of its size, the mean of four pixels each."""
    from PIL import Image

    return np.asarray(Image.fromarray(picture).reduce(2))


def encode_tile(tile: Pixels) -> bytes:
    """Return the JPEG of a tile, its colours at full resolution."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(tile).save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()


def write_pyramid(
    path: Path, sizes: Sequence[tuple[int, int]], encode: Encode, mpp: float | None, form: Form, tile_px: int = TILE_PX
) -> Path:
    """Write levels of these sizes, (width, height), the finest first, tile by tile: nothing is in memory as a whole."""
    import tifffile

    width, height = sizes[0]
    with tifffile.TiffWriter(path, bigtiff=width * height > 1 << 30, ome=False) as writer:
        for level, (across, down) in enumerate(sizes):
            about: dict[str, Any] = {"subfiletype": int(level > 0 and form != "svs")}
            if mpp is not None:
                about |= {"resolution": (1e4 * across / width / mpp,) * 2, "resolutionunit": "CENTIMETER"}
            if form == "svs":
                stated = f"|MPP = {mpp:g}" if mpp is not None else ""
                about["description"] = (
                    f"Aperio Image Library v1\n{across}x{down} JPEG/RGB Q={QUALITY}|AppMag = 20{stated}"
                )
            if form == "ome" and level == 0:
                about |= {"subifds": len(sizes) - 1, "description": OME.format(width=width, height=height, mpp=mpp)}
            writer.write(
                _list_encoded(level, across, down, encode, tile_px),
                shape=(down, across, 3),
                dtype=np.uint8,
                tile=(tile_px, tile_px),
                compression=JPEG_COMPRESSION,
                photometric="ycbcr",
                subsampling=(1, 1),
                metadata=None,
                software=False,
                **about,
            )
    return path


def _list_encoded(level: int, width: int, height: int, encode: Encode, tile_px: int) -> Iterator[bytes]:
    """Yield the tiles of a level, row by row."""
    for row, column in itertools.product(range(-(-height // tile_px)), range(-(-width // tile_px))):
        yield encode(level, row, column)


def write_large_slide(path: Path, side_px: int = 60_000, mpp: float = 0.5, *, tissue_share: float = 0.3) -> Path:
    """Write a slide of any size in seconds: a square of tissue, of such a share of the side, in the middle of the glass.

    At each level tiles are one of glass and a few of tissue, cut on its edge; each level is a quarter of the finer one.
    """
    tile_px, shrink = 512, 4
    sizes = [(side_px, side_px)]
    while sizes[-1][0] > 2 * tile_px:
        sizes.append((sizes[-1][0] // shrink, sizes[-1][1] // shrink))
    low, high = side_px * (1 - tissue_share) / 2, side_px * (1 + tissue_share) / 2

    @functools.cache
    def draw(level: int, kind: int) -> Pixels:
        tissue = np.full((tile_px, tile_px, 3), STROMA if kind % 2 else TUMOUR, np.float32)
        random = np.random.default_rng(kind)
        _add_nuclei(tissue, np.ones((tile_px, tile_px), bool), 0.002, max(1, 5 >> level), random)
        return np.clip(tissue + random.normal(0, 4, (tile_px, tile_px, 1)), 0, 255).astype(np.uint8)

    @functools.cache
    def cut(level: int, kind: int, *edges: int) -> bytes:
        top, bottom, left, right = edges
        tile = np.full((tile_px, tile_px, 3), GLASS, np.uint8)
        tile[top:bottom, left:right] = draw(level, kind)[top:bottom, left:right]
        return encode_tile(tile)

    def encode(level: int, row: int, column: int) -> bytes:
        starts = [each * tile_px for each in (row, row, column, column)]
        wanted = [end / shrink**level - start for end, start in zip((low, high) * 2, starts, strict=True)]
        edges = [min(max(round(each), 0), tile_px) for each in wanted]
        is_glass = edges[0] == edges[1] or edges[2] == edges[3]
        return cut(level, 0, 0, 0, 0, 0) if is_glass else cut(level, 1 + (row + 3 * column) % 4, *edges)

    return write_pyramid(path, sizes, encode, mpp, "svs", tile_px)
