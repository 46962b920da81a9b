"""What a file says of how an image came to be, which must not tell its label: format, compression, device."""

from __future__ import annotations

import io
import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from thawline.data.dicom import is_dicom
from thawline.data.quiet import silence
from thawline.data.readers import DECODER_ERRORS

if TYPE_CHECKING:
    from thawline.types import Data

Traits: TypeAlias = Mapping[str, str | float]

EXIF = {"maker": 271, "model": 272, "software": 305}
DICOM = {
    "maker": "Manufacturer",
    "model": "ManufacturerModelName",
    "station": "StationName",
    "software": "SoftwareVersions",
    "institution": "InstitutionName",
}


def read_traits(data: Data) -> Traits:
    """Return what the header of an item says; nothing for an array, or where the header cannot be read.

    Texts of the device are as the file has them: they are compared with each other, and must not be printed.
    """
    if isinstance(data, tuple):
        return read_traits(data[0]) if data else {}
    if not isinstance(data, bytes):
        return {}
    try:
        return {"bytes": float(len(data)), **(_read_dicom(data) if is_dicom(data) else _read_image(data))}
    except DECODER_ERRORS:
        return {"bytes": float(len(data))}


def _read_image(data: bytes) -> dict[str, str | float]:
    """Read what Pillow finds before it decodes anything."""
    from PIL import Image, UnidentifiedImageError

    try:
        with silence(), Image.open(io.BytesIO(data)) as image:
            tables = getattr(image, "quantization", None) or {}
            exif = image.getexif()
            found: dict[str, str | float] = {"mode": image.mode, "compression": str(image.info.get("compression", ""))}
            if tables:
                found["coarseness"] = statistics.fmean(tables[min(tables)])  # of a JPEG, of its luminance
            found |= {name: str(exif[tag]).strip() for name, tag in EXIF.items() if tag in exif}
            return found
    except UnidentifiedImageError:
        return {}


def _read_dicom(data: bytes) -> dict[str, str | float]:
    """Read the header of a DICOM object."""
    import pydicom

    with silence():
        header = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, force=True)
        meta = getattr(header, "file_meta", None)
        found = {name: str(header.get(keyword, "")).strip() for name, keyword in DICOM.items()}
        syntax = str(meta.get("TransferSyntaxUID", "")) if meta is not None else ""
    return {**{name: value for name, value in found.items() if value}, "compression": syntax}
