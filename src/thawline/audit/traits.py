"""What a file says of how an image came to be, which must not tell its label: format, compression, modality, device."""

from __future__ import annotations

import contextlib
import io
import statistics
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from thawline.data.dicom import PREFIX, is_dicom
from thawline.data.dicom_series import DicomSeries
from thawline.data.dicom_values import guard
from thawline.data.image_files import DECODER_ERRORS
from thawline.data.quiet import silence
from thawline.data.readers import read_content
from thawline.errors import ImageError
from thawline.types import Slide

if TYPE_CHECKING:
    from thawline.types import Content

Traits: TypeAlias = Mapping[str, str | float]

EXIF = {"maker": 271, "model": 272, "software": 305}
DICOM = {
    "modality": "Modality",
    "maker": "Manufacturer",
    "model": "ManufacturerModelName",
    "station": "StationName",
    "software": "SoftwareVersions",
    "institution": "InstitutionName",
}
ORIGIN = ("modality", "institution", "station")


def read_traits(content: Content) -> Traits:
    """Return what the header of an item says; nothing for an array, or where the header cannot be read.

    Texts are as the file has them: they are compared with each other, and must not be printed.
    """
    with open_header(content) as (stream, size):
        if stream is None:
            return {}
        start = stream.read(PREFIX[0].stop)
        stream.seek(0)
        try:
            return {"bytes": float(size), **(_read_dicom(stream) if is_dicom(start) else _read_image(stream))}
        except (ImageError, *DECODER_ERRORS):
            return {"bytes": float(size)}


def list_tags(contents: Sequence[Content], tags: Sequence[str], threads: int) -> list[dict[str, str]]:
    """Return what the DICOM header of each item has in these tags, "" for nothing; an empty dict where there is no header.

    What is returned may name a person or a place, and must not be printed.
    """
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda content: _take_tags(content, tags), contents))


def list_origins(contents: Sequence[Content], threads: int) -> list[dict[str, str]]:
    """Return by the names of `ORIGIN` what the DICOM header of each item says, "" for nothing; not to be printed either."""
    found = list_tags(contents, [DICOM[name] for name in ORIGIN], threads)
    return [{name: tags.get(DICOM[name], "") for name in ORIGIN} for tags in found]


def _take_tags(content: Content, tags: Sequence[str]) -> dict[str, str]:
    with open_header(content) as (stream, _):
        if stream is None or not is_dicom(stream.read(PREFIX[0].stop)):
            return {}
        stream.seek(0)
        try:
            with silence():
                return guard("header", lambda: _read_texts(_open_dicom(stream, tags), tags))
        except ImageError:
            return {}


@contextlib.contextmanager
def open_header(content: Content) -> Iterator[tuple[BinaryIO | None, int]]:
    """Open the file of an item, of several the first, and say how long it is; None for an array, or where it is gone."""
    path = content.paths[0] if isinstance(content, DicomSeries | Slide) else content
    try:
        if isinstance(path, Path):
            with path.open("rb") as stream:
                yield stream, path.stat().st_size
            return
        data = read_content(path)
    except (OSError, ImageError):
        yield None, 0
        return
    data = data[0] if isinstance(data, tuple) and data else data
    yield (io.BytesIO(data), len(data)) if isinstance(data, bytes) else (None, 0)


def _read_image(stream: BinaryIO) -> dict[str, str | float]:
    """Read what Pillow finds before it decodes anything."""
    from PIL import Image, UnidentifiedImageError

    try:
        with silence(), Image.open(stream) as image:
            tables = getattr(image, "quantization", None) or {}
            exif = image.getexif()
            found: dict[str, str | float] = {"mode": image.mode, "compression": str(image.info.get("compression", ""))}
            if tables:
                found["coarseness"] = statistics.fmean(tables[min(tables)])  # of a JPEG, of its luminance
            found |= {name: str(exif[tag]).strip() for name, tag in EXIF.items() if tag in exif}
            return found
    except (UnidentifiedImageError, Image.DecompressionBombError):  # nothing is decoded, and slides are as large
        return {}


def _read_dicom(stream: BinaryIO) -> dict[str, str | float]:
    """Read the header of a DICOM object."""

    def read() -> dict[str, str | float]:
        header = _open_dicom(stream, list(DICOM.values()))
        meta = getattr(header, "file_meta", None)
        texts = _read_texts(header, list(DICOM.values()))
        syntax = str(meta.get("TransferSyntaxUID", "")) if meta is not None else ""
        return {**{name: texts[tag] for name, tag in DICOM.items() if texts[tag]}, "compression": syntax}

    with silence():
        return guard("header", read)


def _open_dicom(stream: BinaryIO, tags: Sequence[str]) -> Any:
    """Return pydicom's data set of these tags alone."""
    import pydicom

    return pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=list(tags))


def _read_texts(header: Any, tags: Sequence[str]) -> dict[str, str]:
    return {tag: str(header.get(tag) or "").strip() for tag in tags}
