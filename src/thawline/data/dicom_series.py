"""A DICOM series as a volume: its files sorted along their normal, values of the modality in canonical axes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.data import dicom
from thawline.data.dicom_values import guard, list_values
from thawline.data.stacks import Faults, Slice, Stack, list_slices, stack_slices
from thawline.data.suv import find_suv_factor
from thawline.data.volumes import MAX_VOXELS, Volume, find_windows, make_isotropic
from thawline.errors import ImageError
from thawline.types import SUV, SUV_WINDOW, WINDOWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thawline.types import Pixels, Reading

LEAST_SLICES = 3  # of a series that is a volume and not some images
TO_RAS = np.diag([-1.0, -1.0, 1.0])  # DICOM's axes run to the left and to the back


@dataclasses.dataclass(frozen=True, slots=True)
class DicomSeries:
    """The files of one series, read when they are needed, and the faults that their headers tell."""

    paths: tuple[Path, ...]
    faults: Faults = dataclasses.field(default=Faults(), compare=False)

    def read(self) -> tuple[bytes, ...]:
        """Return the bytes of all files. Raises ImageError where one cannot be read."""
        try:
            return tuple(path.read_bytes() for path in self.paths)
        except OSError as error:
            raise ImageError(f"a file of the series cannot be read: {error.strerror}") from error


def is_volume(stack: Stack) -> bool:
    """Tell whether the slices of a series are a volume: they have positions in one orientation, at several places."""
    return stack.by_position and len(stack.order) >= LEAST_SLICES


def read_series(files: Sequence[bytes], reading: Reading) -> tuple[Volume, tuple[dicom.Window, ...]]:
    """Return a series as a volume, float32, and the windows that it is shown through.

    Values are those of the modality (Hounsfield units of CT), padding is nan, which is shown black. Of slices in one place
    the first counts. Without named windows the first of the file's middle slice counts, without such percentiles of the
    whole volume. Raises ImageError where the files are no volume of grey slices of one size.
    """
    found = [dicom.read_object(data) for data in files]
    frames = [(each, frame) for each in found for frame in _list_frames(each)]
    columns, rows = dicom.read_size(found[0])
    if rows * columns * len(frames) > MAX_VOXELS:
        raise ImageError(f"{len(frames)} slices of {columns} x {rows} px; expected at most {MAX_VOXELS:,} voxels")
    stack = stack_slices([frame for _, frame in frames])
    if not is_volume(stack) or stack.spacing_mm is None:
        raise ImageError(
            f"{len(frames)} slices without positions in one orientation; expected a series that is a volume"
        )
    kept = [frames[index] for index in stack.order]
    slices = [_read_values(each, frame.frame) for each, frame in kept]
    if len({each.shape for each in slices}) > 1:
        sizes = sorted({f"{each.shape[1]} x {each.shape[0]}" for each in slices})
        raise ImageError(f"slices of {', '.join(sizes[:4])} px in one series; expected one size")
    (first, place), middle = kept[0], kept[len(kept) // 2]
    factor = find_suv_factor(first) if SUV in reading.windows else 1.0
    values = np.stack(slices, axis=-1).transpose(1, 0, 2) * np.float32(factor)
    volume = _turn(values, first, place, stack.spacing_mm, kept)
    volume = make_isotropic(volume) if reading.isotropic else volume
    return volume, _find_windows(volume, *middle, reading)


def _list_frames(found: Any) -> tuple[Slice, ...]:
    return guard("geometry", lambda: tuple(list_slices(found)))


def _read_values(found: Any, frame: int) -> Pixels:
    """Return the values of the modality of one frame, float32 (rows, columns), padding as nan."""
    from pydicom.pixels.processing import apply_modality_lut

    if str(found.get("PhotometricInterpretation", "")) != "MONOCHROME2":
        raise ImageError("slices that are not grey from black to white (MONOCHROME2) make no volume; expected such")
    stored = dicom.read_stored(found, frame)
    group = dicom.find_group(found, "PixelValueTransformationSequence", frame)
    values: Pixels = guard("grayscale", lambda: np.asarray(apply_modality_lut(stored, group), np.float32))
    padding = dicom.find_padding(stored, found)
    return np.where(padding, np.float32(np.nan), values)


def _turn(values: Pixels, found: Any, place: Slice, spacing_mm: float, kept: Sequence[tuple[Any, Slice]]) -> Volume:
    """Bring values (columns, rows, slices) to the canonical axes nearest to their own."""
    import nibabel

    measures = dicom.find_group(found, "PixelMeasuresSequence", place.frame)
    apart = guard("pixel spacing", lambda: [float(each) for each in list_values(measures.get("PixelSpacing"))])
    if len(apart) != 2 or min(apart) <= 0:
        raise ImageError("the series does not say how far apart its pixels are; expected PixelSpacing")
    orientation, start = np.array(place.orientation), np.array(place.position)
    across = np.array(kept[1][1].position) - start
    normal = np.cross(orientation[:3], orientation[3:])
    normal = normal if normal @ across > 0 else -normal
    axes = np.stack([orientation[:3] * apart[1], orientation[3:] * apart[0], normal * spacing_mm], axis=1)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = TO_RAS @ axes, TO_RAS @ start
    turned: Any = nibabel.as_closest_canonical(nibabel.Nifti1Image(values, affine))
    x, y, z = (float(each) for each in turned.header.get_zooms()[:3])
    return Volume(np.asanyarray(turned.dataobj), (x, y, z))


def _find_windows(volume: Volume, found: Any, place: Slice, reading: Reading) -> tuple[dicom.Window, ...]:
    """Return the windows of the reading, else the file's own, else that of percentiles."""
    kind = str(found.get("Modality", ""))
    if any(name in WINDOWS for name in reading.windows) and kind != "CT":
        raise ImageError("named windows are in Hounsfield units, which only CT has; take CENTRE/WIDTH")
    if SUV in reading.windows:
        rest = dataclasses.replace(reading, windows=tuple(name for name in reading.windows if name != SUV))
        others = iter(find_windows(volume, rest)) if rest.windows else iter(())
        return tuple(dicom.Window(*SUV_WINDOW) if name == SUV else next(others) for name in reading.windows)
    own = guard("window", lambda: dicom.find_window(found, place.frame)) if not reading.windows else None
    return find_windows(volume, reading) if own is None else (own,)
