"""What several tests need: a listener that keeps warnings, small films, and DICOM objects."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from thawline.data.phantoms import PhantomOptions, make_phantoms
from thawline.types import SilentListener


class Notes(SilentListener):
    """Keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        """Keep a warning."""
        self.warnings.append(message)


def make_films(folder: Path, *, side: int | None = 58, **changes: Any) -> Path:
    """Draw small phantoms, cropped to squares of ``side``: those leave no aspect rule to measure, which saves time."""
    make_phantoms(folder, PhantomOptions(**{"n_patients": 24, "size_px": 64, "views": (1, 2), **changes}))
    for path in (folder / "images").iterdir() if side else ():
        with Image.open(path) as image:
            image.crop((0, 0, side, side)).save(path)
    return folder


def make_dicom(stored: np.ndarray | None = None, **tags: Any) -> Dataset:
    """A secondary capture of these values, without any a ramp of 8 x 8, of the patient 17 by the name of Mustermann."""
    stored = np.arange(64, dtype=np.uint16).reshape(8, 8) if stored is None else stored
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID = SecondaryCaptureImageStorage
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID = "1.2.3"
    found.PatientID, found.PatientName, found.Modality = "17", "MUSTERMANN", "OT"
    found.Rows, found.Columns = stored.shape[:2]
    found.SamplesPerPixel = 3 if stored.ndim == 3 else 1
    found.PhotometricInterpretation = "RGB" if stored.ndim == 3 else "MONOCHROME2"
    if stored.ndim == 3:
        found.PlanarConfiguration = 0
    found.BitsAllocated = found.BitsStored = 8 * stored.itemsize
    found.HighBit, found.PixelRepresentation = found.BitsStored - 1, int(stored.dtype.kind == "i")
    found.PixelData = stored.tobytes()
    for name, value in tags.items():
        setattr(found, name, value)
    return found


def save_dicom(found: Dataset) -> bytes:
    """The bytes of its file."""
    buffer = io.BytesIO()
    found.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
