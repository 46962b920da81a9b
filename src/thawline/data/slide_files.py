"""Whole slides as files: which files are slides, what belongs to one, and its pixels at any place and scale.

OpenSlide reads them. Of TIFF files that keep their levels as SubIFDs, as OME-TIFF does, it sees the largest only, so
tiffslide reads those. Every refusal is an `ImageError` that repeats no text of the file, which may name a person.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import math
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.data.dicom import is_dicom
from thawline.data.quiet import silence
from thawline.errors import ImageError

if TYPE_CHECKING:
    from thawline.types import Pixels, Slide

SUFFIXES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide")
UNDECIDED = (".tif", ".tiff", ".dcm", ".ima", "")  # what such a file is, its first bytes say
TIFF_MARKS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
SLIDE_CLASS = b"1.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage
START_BYTES = 1024  # of a DICOM file, within which its class stands
CHUNK_BYTES = 1 << 20
MOST_PIXELS = 1 << 22  # of a level, that are read at once
SAME_SCALE = 1.01  # levels that differ by less from what is asked for are taken as they are
WHITE = (255, 255, 255, 255)
INSTALL = "pip install 'thawline[slides]'"


def is_slide_file(path: Path, most_pixels: int) -> bool:
    """Tell a whole slide: by its extension, by its class of DICOM, or as a tiled TIFF of several levels.

    So is a TIFF of more than ``most_pixels``, which are too many for an image.
    """
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return True
    if suffix not in UNDECIDED and not suffix[1:].isdigit():  # series are numbered at times
        return False
    try:
        with path.open("rb") as stream:
            start = stream.read(START_BYTES)
    except (OSError, ValueError):
        return False
    if start[:4] in TIFF_MARKS:
        return _is_pyramid(path, most_pixels)
    return SLIDE_CLASS in start and is_dicom(start)


def _is_pyramid(path: Path, most_pixels: int) -> bool:
    """Tell from the headers of a TIFF; what cannot be read is left to the reader of images, which says why."""
    import tifffile

    try:
        with silence(), tifffile.TiffFile(path) as file:
            first: Any = file.pages.first
            if first.imagewidth * first.imagelength > most_pixels:
                return True
            others: Any = (file.pages[number] for number in range(1, len(file.pages)))
            return bool(first.is_tiled) and (
                bool(first.subifds) or any(each.is_tiled and each.imagewidth < first.imagewidth for each in others)
            )
    except Exception:  # noqa: BLE001 - a damaged header raises anything
        return False


def digest_slide(slide: Slide) -> str:
    """Return 64 hex digits of BLAKE2b-256 over the bytes of all files, read in chunks. Raises ImageError."""
    digests = [_digest_file(path) for path in list_files(slide)]
    if len(digests) == 1 and slide.mpp is None:
        return digests[0]
    return hashlib.blake2b(f"{''.join(digests)} {slide.mpp}".encode(), digest_size=32).hexdigest()


def _digest_file(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=32)
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
    except (OSError, ValueError) as error:
        raise ImageError(f"the file cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return digest.hexdigest()


def list_files(slide: Slide) -> list[Path]:
    """Return all files of a slide: those it names, and what lies beside them and belongs to them (MIRAX, DICOM)."""
    first = slide.paths[0]
    beside = first.with_suffix("")
    if first.suffix.lower() == ".mrxs" and beside.is_dir():
        return [first, *sorted(path for path in beside.iterdir() if path.is_file())]
    if len(slide.paths) == 1 and first.suffix.lower() not in SUFFIXES:
        return _list_series(first)
    return list(slide.paths)


def _list_series(path: Path) -> list[Path]:
    """Return the slide files beside a DICOM one that are of its series, itself among them; any other file alone."""
    import pydicom

    def find_series(file: Path) -> str:
        try:
            with silence():
                return str(
                    pydicom.dcmread(file, specific_tags=["SeriesInstanceUID"], stop_before_pixels=True)[0x20000E].value
                )
        except Exception:  # noqa: BLE001 - damaged, or no DICOM: no part of the series
            return ""

    def is_part(file: Path) -> bool:
        with file.open("rb") as stream:
            start = stream.read(START_BYTES)
        return SLIDE_CLASS in start and is_dicom(start)

    try:
        series = find_series(path) if is_part(path) else ""
        if not series:
            return [path]
        return sorted(
            file for file in path.parent.iterdir() if file.is_file() and is_part(file) and find_series(file) == series
        )
    except OSError as error:
        raise ImageError(f"the file cannot be read: {error.strerror}") from error


class Pyramid:
    """An open slide: ``size_px`` is (width, height) of its finest level, ``mpp`` µm per pixel along both, where it says so.

    ``associated`` names the pictures that come with it, such as that of the label. Threads may share one.
    """

    def __init__(self, slide: Slide) -> None:
        with _refuse_damage():
            self._handle, prefix = _open(slide.paths[0])
            weakref.finalize(self, self._handle.close)
            width, height = self._handle.dimensions
            self.size_px = int(width), int(height)
            self._levels = [(int(across), int(down)) for across, down in self._handle.level_dimensions]
            self.mpp = _find_mpp(slide, self._handle.properties, prefix)
            self.associated = tuple(self._handle.associated_images)
        self._lock = threading.Lock() if prefix == "tiffslide" else contextlib.nullcontext()

    def read(self, left: float, top: float, width: float, height: float, columns: int, rows: int) -> Pixels:
        """Return a rectangle, in pixels of the finest level, as (rows, columns, 3) uint8, smoothed where it is made smaller.

        The coarsest level that is fine enough is read, a bounded part of it at a time; what the slide leaves out is white.
        Raises ImageError where it is damaged.
        """
        level, (across, down) = self._find_level(min(width / columns, height / rows))
        if width * across * height * down > MOST_PIXELS and max(columns, rows) > 1:
            return self._read_parts(left, top, width, height, columns, rows)
        box = left * across, top * down, (left + width) * across, (top + height) * down
        with _refuse_damage():
            return self._take(level, box, columns, rows)

    def _read_parts(self, left: float, top: float, width: float, height: float, columns: int, rows: int) -> Pixels:
        """Read a rectangle in two parts, along the side of more pixels."""
        if columns >= rows:
            half, part = columns // 2, width * (columns // 2) / columns
            parts = (
                self.read(left, top, part, height, half, rows),
                self.read(left + part, top, width - part, height, columns - half, rows),
            )
            return np.concatenate(parts, axis=1)
        half, part = rows // 2, height * (rows // 2) / rows
        parts = (
            self.read(left, top, width, part, columns, half),
            self.read(left, top + part, width, height - part, columns, rows - half),
        )
        return np.concatenate(parts, axis=0)

    def _find_level(self, scale: float) -> tuple[int, tuple[float, float]]:
        """Return the coarsest level that is no coarser than ``scale``, and its size as a share of the finest."""
        shares = [(across / self.size_px[0], down / self.size_px[1]) for across, down in self._levels]
        fitting = [level for level, share in enumerate(shares) if 1 / min(share) <= scale * SAME_SCALE]
        best = max(fitting, key=lambda level: 1 / min(shares[level]), default=0)
        return best, shares[best]

    def _take(self, level: int, box: tuple[float, float, float, float], columns: int, rows: int) -> Pixels:
        """Read the ``box`` of a level and bring it to size.

        Nothing around it is read, though a filter could see it: where tiles of the file end there, others would be decoded.
        """
        from PIL import Image

        starts = [max(0, math.floor(box[axis] + 1e-6)) for axis in (0, 1)]
        ends = [
            min(self._levels[level][axis], max(math.ceil(box[axis + 2] - 1e-6), starts[axis] + 1)) for axis in (0, 1)
        ]
        sides = ends[0] - starts[0], ends[1] - starts[1]
        places = [round(starts[axis] * self.size_px[axis] / self._levels[level][axis]) for axis in (0, 1)]
        with self._lock:
            image = self._handle.read_region(tuple(places), level, sides)
        if image.mode == "RGBA":
            if image.getchannel("A").getextrema()[0] < 255:
                image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
            image = image.convert("RGB")
        if image.size != (columns, rows):
            inner = [min(max(box[place] - starts[place % 2], 0.0), float(sides[place % 2])) for place in range(4)]
            image = image.resize((columns, rows), Image.Resampling.BICUBIC, box=tuple(inner))
        return np.asarray(image)


def _open(path: Path) -> tuple[Any, str]:
    """Open a slide with the library that reads it; return the handle, and how its properties begin."""
    if _has_inner_levels(path):
        return _import("tiffslide").TiffSlide(path), "tiffslide"
    openslide = _import("openslide")
    if openslide.OpenSlide.detect_format(path) is None and path.suffix.lower() in (".tif", ".tiff"):
        return _import("tiffslide").TiffSlide(path), "tiffslide"
    return openslide.OpenSlide(path), "openslide"


def _has_inner_levels(path: Path) -> bool:
    """Tell a TIFF whose first page has SubIFDs."""
    import tifffile

    if path.suffix.lower() not in (".tif", ".tiff"):
        return False
    with silence(), tifffile.TiffFile(path) as file:
        first: Any = file.pages.first
        return bool(first.subifds)


def _import(name: str) -> Any:
    """Import a library of the extra. Raises ImageError that says how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImageError(f"a whole slide, which {name} reads, and that is not installed: {INSTALL}") from error


def _find_mpp(slide: Slide, properties: Any, prefix: str) -> tuple[float, float] | None:
    """Return µm per pixel along both sides: as given with the slide, else as it says."""
    if slide.mpp is not None:
        return slide.mpp, slide.mpp
    try:
        found = float(properties[f"{prefix}.mpp-x"]), float(properties[f"{prefix}.mpp-y"])
    except (KeyError, TypeError, ValueError):
        return None
    return found if all(0 < each < math.inf for each in found) else None


@contextlib.contextmanager
def _refuse_damage() -> Iterator[None]:
    """Turn what a library raises into an ImageError that repeats nothing of the file."""
    try:
        with silence():
            yield
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - what it says may be text of the file
        raise ImageError(f"damaged, cut off or unsupported slide ({type(error).__name__})") from None
