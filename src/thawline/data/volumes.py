"""NIfTI, NRRD and MetaImage: one file, one volume in canonical axes, and its slices as a display shows them.

nibabel reads NIfTI, SimpleITK the others. Every refusal is an `ImageError` that repeats no text of the file, which may name
a person.
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import re
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.errors import ImageError
from thawline.types import WINDOWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thawline.data.dicom import Window
    from thawline.types import Pixels, Reading

FORMATS = ("NIfTI", "NRRD", "MetaImage")
EXTENSIONS = (".nii", ".nii.gz", ".nrrd", ".mha")
MAX_VOXELS = 1 << 28
GZIP = b"\x1f\x8b"
NIFTI_MAGIC, NIFTI_PLACE, NIFTI_HEADER_BYTES = (b"n+1\x00", b"n+2\x00"), {348: 344, 540: 4}, 544
META_FIRST = (b"ObjectType", b"NDims", b"Comment")
DETACHED = re.compile(rb"^(?:data ?file|elementdatafile)\s*[:=](?!\s*local\s*$)", re.IGNORECASE | re.MULTILINE)
TO_FRONT = {"sagittal": 0, "coronal": 1, "axial": 2}  # the axis that a plane is cut across


@dataclasses.dataclass(frozen=True, slots=True)
class Volume:
    """Values of shape (left to right, back to front, foot to head), of their own type or float64 where the file scales them.

    ``spacing_mm`` lies between neighbours along each axis.
    """

    values: Pixels
    spacing_mm: tuple[float, float, float]

    def count(self, plane: str) -> int:
        """Return the number of slices across a plane."""
        return int(self.values.shape[TO_FRONT[plane]])

    def cut(self, plane: str, index: int) -> tuple[Pixels, float]:
        """Return a slice as a display has it, and how far apart its rows are by how far apart its columns are.

        The patient's right is on the left, the front on top (axial); the head is on top, the front on the left (sagittal).
        """
        axis = TO_FRONT[plane]
        across, up = (each for each in range(3) if each != axis)
        turned = np.take(self.values, index, axis=axis)[::-1, ::-1].T
        return turned, self.spacing_mm[up] / self.spacing_mm[across]


def name_format(data: bytes) -> str | None:
    """Return NIfTI, NRRD or MetaImage by the first bytes, None for anything else."""
    start = _peek(data)
    if any(start[place : place + 4] in NIFTI_MAGIC for place in NIFTI_PLACE.values()):
        return "NIfTI"
    if data.startswith(b"NRRD000"):
        return "NRRD"
    return "MetaImage" if data.startswith(META_FIRST) else None


def _peek(data: bytes) -> bytes:
    """Return the first bytes of a file, of what a compressed one holds."""
    if not data.startswith(GZIP):
        return data[:NIFTI_HEADER_BYTES]
    try:
        return zlib.decompressobj(wbits=31).decompress(data, NIFTI_HEADER_BYTES)
    except zlib.error:
        return b""


def read_volume(data: bytes, *, isotropic: bool = False) -> Volume:
    """Read a whole volume from the bytes of its file; ``isotropic`` resamples it linearly to its finest spacing.

    Raises ImageError for anything damaged, too large, of four dimensions or of colours.
    """
    name = name_format(data)
    if name is None:
        raise ImageError("no NIfTI, NRRD or MetaImage file")
    try:
        volume = _read_nifti(data) if name == "NIfTI" else _read_by_itk(data, name)
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - what it says may be text of the file
        raise ImageError(f"damaged, cut off or unsupported {name} ({type(error).__name__})") from None
    if volume.values.dtype.kind not in "iuf":
        raise ImageError(f"a {name} volume of {volume.values.dtype}; expected one number a voxel")
    return make_isotropic(volume) if isotropic else volume


def find_windows(volume: Volume, reading: Reading) -> tuple[Window, ...]:
    """Return the windows that a volume is shown through; without one black and white are percentiles of the volume.

    Raises ImageError for a window that belongs to DICOM.
    """
    from thawline.data.dicom import PERCENTILES, Window

    windows = []
    for name in reading.windows:
        if name not in WINDOWS and "/" not in name:
            raise ImageError(
                f"the window {name} is one of DICOM images; a volume takes CENTRE/WIDTH or {', '.join(WINDOWS)}"
            )
        centre, width = WINDOWS[name] if name in WINDOWS else map(float, name.split("/"))
        windows.append(Window(centre, width))
    if windows:
        return tuple(windows)
    inside = volume.values[np.isfinite(volume.values)]
    low, high = np.percentile(inside, PERCENTILES) if inside.size else (0.0, 0.0)
    if low == high:
        low, high = (float(inside.min()), float(inside.max())) if inside.size else (0.0, 0.0)
    return (Window((low + high) / 2, max(high - low, np.finfo(np.float64).tiny), "LINEAR_EXACT"),)


def show(stored: Pixels, windows: Sequence[Window]) -> Pixels:
    """Return a slice through windows as grey, or the three channels of an image: uint8, (rows, columns[, 3])."""
    values = np.clip(np.nan_to_num(stored.astype(np.float64), nan=-np.inf), -1e300, 1e300)
    with np.errstate(over="ignore"):
        shares = [window.apply(values) for window in windows]
    share = np.stack(shares, axis=-1) if len(shares) > 1 else shares[0]
    return np.rint(255 * share).astype(np.uint8)


def _read_nifti(data: bytes) -> Volume:
    """Read through nibabel: values scaled as the header says, axes brought to the nearest canonical ones."""
    import nibabel

    start = _peek(data)
    kind = nibabel.Nifti2Image if start[4:8] in NIFTI_MAGIC else nibabel.Nifti1Image
    header = kind.header_class.from_fileobj(io.BytesIO(start), check=False)
    shape = tuple(int(each) for each in header.get_data_shape())
    _check_shape(shape)
    if data.startswith(GZIP):  # no more than the header says comes out, whatever was packed
        n_bytes = int(header.get_data_offset()) + int(np.prod(shape)) * int(header.get_data_dtype().itemsize)
        data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(n_bytes)
    image: Any = kind.from_bytes(data)
    image = nibabel.as_closest_canonical(image)
    values = np.asanyarray(image.dataobj)
    return _finish(values.reshape(values.shape[:3]), image.header.get_zooms()[:3])


def _read_by_itk(data: bytes, name: str) -> Volume:
    """Read through SimpleITK, which wants a file; axes likewise."""
    import SimpleITK as sitk  # noqa: N813 - its own convention

    header = data[: data.find(b"\n\n") if name == "NRRD" and b"\n\n" in data else 1 << 14]
    if DETACHED.search(header.partition(b"\x00")[0]):
        raise ImageError(f"a {name} header whose values lie in another file; save both as one file")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("volume.nrrd" if name == "NRRD" else "volume.mha")
        path.write_bytes(data)
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        _check_shape(reader.GetSize())
        if reader.GetNumberOfComponents() != 1:
            raise ImageError(f"a {name} volume of {reader.GetNumberOfComponents()} numbers a voxel; expected one")
        image = reader.Execute()
    if image.GetDimension() == 4:
        image = image[:, :, :, 0]
    image = sitk.DICOMOrient(image, "RAS")  # SimpleITK names the ends that the axes run to
    return _finish(sitk.GetArrayFromImage(image).T, image.GetSpacing())


def _check_shape(shape: tuple[int, ...]) -> None:
    """Refuse what is no volume or no size; called with the header's, before anything is decompressed."""
    if len(shape) < 3 or any(length > 1 for length in shape[3:]):
        raise ImageError(
            f"{len(shape)} dimensions, {' x '.join(map(str, shape))}; expected a volume of three: save each time or channel "
            "as a file of its own"
        )
    if min(shape) < 1 or np.prod(shape, dtype=np.float64) > MAX_VOXELS:
        raise ImageError(f"the header says {' x '.join(map(str, shape))} voxels; expected 1 to {MAX_VOXELS:,} in all")


def _finish(values: Any, spacing: Any) -> Volume:
    """Check spacing, of which the sign says nothing, and make the record."""
    x, y, z = (abs(float(each)) for each in spacing)
    found = (x, y, z)
    if not all(0 < each < float("inf") for each in found):
        raise ImageError("the spacing of voxels is not three positive numbers")
    return Volume(np.asarray(values), found)


def make_isotropic(volume: Volume) -> Volume:
    """Resample linearly so that all spacings are the finest of them."""
    from scipy.ndimage import zoom

    finest = min(volume.spacing_mm)
    factors = [spacing / finest for spacing in volume.spacing_mm]
    if max(factors) == 1:
        return volume
    size = [round(length * factor) for length, factor in zip(volume.values.shape, factors, strict=True)]
    _check_shape(tuple(size))
    values = zoom(volume.values.astype(np.float32), factors, order=1, mode="nearest", grid_mode=True)
    return Volume(values, (finest, finest, finest))
