"""Whole slides that tests make: one picture in four formats, and what is known of it."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import tifffile
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage

from thawline.data.slide_phantoms import TILE_PX, encode_tile, halve, write_picture
from thawline.types import BAG, Reading

MPP = 0.5
SUBFILES = {"label": 1, "macro": 9}  # how Aperio marks them


def read_tiles(
    tile_px: int = 64, mpp: float = MPP, slices: str = "all", n_slices: int = 0, pooling: str = "mean"
) -> Reading:
    """The reading of slides in tiles of this side."""
    dimensions = BAG if n_slices else "auto"
    return Reading(
        dimensions=dimensions,
        slices=slices if n_slices else "",
        n_slices=n_slices,
        pooling=pooling,
        mpp=mpp,
        tile_px=tile_px,
    )


def save_slide(folder: Path, picture: np.ndarray, form: str, mpp: float | None = MPP) -> Path:
    """Write a picture as svs, tiff, ome or dicom, and return the file, of a DICOM series the first."""
    if form == "dicom":
        return save_dicom_slide(folder / "series", picture, mpp or MPP)
    name = {"svs": "slide.svs", "tiff": "slide.tiff", "ome": "slide.ome.tif"}[form]
    return write_picture(folder / name, picture, mpp, form)  # type: ignore[arg-type]


def add_label(path: Path, name: str) -> None:
    """Add a picture of the label, or of the whole glass (macro), to an SVS file, as Aperio's scanners do."""
    with tifffile.TiffWriter(path, append=True) as writer:
        picture = np.full((40, 60, 3), 99, np.uint8)
        description = f"Aperio Image Library v1\n{name} 60x40"
        writer.write(picture, description=description, subfiletype=SUBFILES[name], photometric="rgb", metadata=None)


def save_dicom_slide(folder: Path, picture: np.ndarray, mpp: float, **tags: str) -> Path:
    """Write a picture as a series of whole slide microscopy, a file a level."""
    folder.mkdir(parents=True, exist_ok=True)
    levels = list(itertools.accumulate([picture] * 3, lambda above, _: halve(above)))
    for number, level in enumerate(levels):
        _make_level(level, number, mpp * 2**number, tags).save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return folder / "0.dcm"


def _make_level(level: np.ndarray, number: int, mpp: float, tags: dict[str, str]) -> Dataset:
    rows, columns = (-(-length // TILE_PX) for length in level.shape[:2])
    frames = []
    for row, column in itertools.product(range(rows), range(columns)):
        tile = level[row * TILE_PX : (row + 1) * TILE_PX, column * TILE_PX : (column + 1) * TILE_PX]
        frames.append(
            encode_tile(np.pad(tile, [*((0, TILE_PX - length) for length in tile.shape[:2]), (0, 0)], "edge"))
        )
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID = VLWholeSlideMicroscopyImageStorage
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID = (
        f"{tags.get('SeriesInstanceUID', '1.2.3')}.{number}"
    )
    found.SeriesInstanceUID, found.StudyInstanceUID, found.Modality = "1.2.3", "1.2", "SM"
    found.PatientID, found.PatientName = "17", "MUSTERMANN"
    found.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE" if number == 0 else "RESAMPLED"]
    found.TotalPixelMatrixRows, found.TotalPixelMatrixColumns = level.shape[:2]
    found.Rows = found.Columns = TILE_PX
    found.NumberOfFrames = len(frames)
    found.SamplesPerPixel, found.PhotometricInterpretation, found.PlanarConfiguration = 3, "YBR_FULL_422", 0
    found.BitsAllocated = found.BitsStored = 8
    found.HighBit, found.PixelRepresentation = 7, 0
    found.DimensionOrganizationType = "TILED_FULL"
    measures, groups = Dataset(), Dataset()
    measures.PixelSpacing = [mpp / 1000, mpp / 1000]
    groups.PixelMeasuresSequence = [measures]
    found.SharedFunctionalGroupsSequence = [groups]
    for name, value in tags.items():
        setattr(found, name, value)
    found.PixelData = encapsulate(frames)
    found["PixelData"].is_undefined_length = True
    return found
