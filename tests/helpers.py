"""What several tests need: a listener that keeps warnings, small films, and DICOM objects."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from thawline.data.phantoms import PhantomOptions, make_phantoms
from thawline.types import SilentListener

MARKS = ("bar", "disc", "ring")  # labels of marked films, sorted


COSTS = ("seconds", "forecast_seconds", "cpu_seconds", "peak_rss_mib", "energy_wh")  # of a rung, which no run repeats


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


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def write_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write rows as a CSV file, with the columns of the first."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def stop_at_second_fold(patch: pytest.MonkeyPatch) -> list[int]:
    """Let a run be interrupted where the second fold above a line begins; return where the folds before are noted."""
    from thawline.learn import strategies

    thawed: list[int] = []
    whole = strategies.thaw_fold

    def kill_second(thaw: Any, fold: int, *about: Any) -> Any:
        if thawed:
            raise KeyboardInterrupt
        thawed.append(fold)
        return whole(thaw, fold, *about)

    patch.setattr(strategies, "thaw_fold", kill_second)
    return thawed


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


def make_marked_films(folder: Path, *, missing: float = 0.25, **changes: Any) -> tuple[Path, np.ndarray]:
    """Small phantoms with independent marks as labels: a disc, a bar and a ring, each in its own place, for a patient.

    The manifest has a column for each, in which a share of the cells is ``missing``; returns the folder and the truth,
    (films, marks) of 1 and 0, in the order of the sorted paths.
    """
    make_films(folder, **{"n_patients": 40, "contrast": 0.0, **changes})
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        rows = sorted(csv.DictReader(stream), key=lambda row: row["path"])
    draw = np.random.default_rng(0)
    patients = sorted({row["patient"] for row in rows})
    marked = dict(zip(patients, draw.random((len(patients), 3)) < (0.4, 0.5, 0.3), strict=True))
    truth = np.array([marked[row["patient"]] for row in rows]).astype(np.int64)
    for row, has in zip(rows, truth, strict=True):
        with Image.open(folder / row["path"]) as image:
            pixels = np.array(image)
        y, x = np.indices(pixels.shape) / len(pixels)
        radius = np.hypot(x - 0.25, y - 0.7)
        disc = np.hypot(x - 0.3, y - 0.3) < 0.13
        shapes = (abs(x - 0.75) < 0.16) & (abs(y - 0.5) < 0.05), disc, abs(radius - 0.12) < 0.04
        for shape, present in zip(shapes, has, strict=True):
            pixels[shape] = np.clip(pixels[shape] + 90.0 * present, 0, 255)
        Image.fromarray(pixels).save(folder / row["path"])
    hidden = draw.random(truth.shape) < missing
    hidden[hidden.all(axis=1), 0] = False
    for row, has, unknown in zip(rows, truth, hidden, strict=True):
        del row["label"]
        cells = ["" if gone else str(value) for value, gone in zip(has, unknown, strict=True)]
        row |= {f"label:{name}": cell for name, cell in zip(MARKS, cells, strict=True)}
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder, truth
