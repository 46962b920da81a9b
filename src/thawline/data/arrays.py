"""Images in one array: NumPy (.npz), HDF5 and Zarr files that hold an array of images and one of labels, under their keys.

Images of HDF5 and Zarr are read one at a time, when they are needed. A .npy holds one image or volume. Nothing that a file
may hold is run.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from thawline.data.quiet import silence
from thawline.errors import DataError, ImageError
from thawline.types import Split

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from thawline.types import Content

NPY, NUMPY, MAGIC = ".npy", "NumPy", b"\x93NUMPY"  # of one item: extension, name, first bytes
NPZ, HDF5, ZARR = ".npz", (".h5", ".hdf5"), ".zarr"
EXTENSIONS = (NPZ, *HDF5, ZARR)
ROLES = {  # what an array is, and how it may be called where nobody says
    "images": ("images", "image", "x", "data"),
    "labels": ("labels", "label", "y", "target", "targets"),
    "patients": ("patients", "patient", "patient_id", "groups", "group"),
    "split": ("split", "splits"),
    "lesions": ("lesion_id", "lesion_ids"),  # what is called "lesions" may well be masks
}
CODECS = (
    *("bytes", "blosc", "zstd", "gzip", "zlib", "lz4", "bz2", "lzma", "delta", "shuffle", "crc32c", "transpose"),
    *("sharding_indexed", "vlen-utf8", "vlen-bytes", "fixedscaleoffset"),
)
MEDMNIST = tuple(f"{split}_{part}" for split in get_args(Split) for part in ("images", "labels"))
NEEDED = ("images", "labels")
ARRAY_ERRORS = (
    OSError,
    ValueError,
    EOFError,
    LookupError,
    SyntaxError,
    TypeError,
    MemoryError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    AttributeError,
)


@dataclasses.dataclass(frozen=True, slots=True)
class StackedImage:
    """One image of an array in an HDF5 or Zarr file, read when it is asked for."""

    path: Path
    key: str
    index: int

    def read(self) -> NDArray[Any]:
        """Return the pixels. Raises ImageError where they cannot be read."""
        try:
            return np.asarray(_open(self.path)[self.key][self.index])
        except Exception as error:  # chunks are decoded by what the file names
            reason = " ".join(str(error).split())[:200]
            raise ImageError(f"image {self.index} of {self.path.name} cannot be read: {reason}") from error


@dataclasses.dataclass(frozen=True)
class ImageStack:
    """What a file of arrays holds: contents, labels, (items,) or several an item, (items, labels); and where they are given
    patients, splits and lesions, one an item each."""

    contents: Sequence[Content]
    labels: NDArray[Any]
    patients: NDArray[Any] | None
    split: NDArray[Any] | None
    lesions: NDArray[Any] | None = None


def read_keys(keys: str) -> dict[str, str]:
    """Part "images=x,labels=y" into names by role. Raises ValueError for anything else."""
    found = {}
    for part in keys.split(","):
        role, mark, name = (each.strip() for each in part.partition("="))
        if not mark or not name or role not in ROLES or role in found:
            raise ValueError(
                f"expected some of {', '.join(f'{role}=NAME' for role in ROLES)}, each once; found {keys!r}"
            )
        found[role] = name
    return found


def read_stack(path: Path, keys: Mapping[str, str]) -> ImageStack:
    """Read an array of images, (items, height, width[, 3]) or (items, depth, height, width), and what stands beside it.

    ``keys`` name arrays by role; others are found by usual names. Raises DataError where the file is damaged, an array is
    missing, or lengths differ.
    """
    with _refuse_damage(path):
        arrays = _list_arrays(path)
        names = {role: _find_name(path, arrays, role, keys) for role in ROLES}
        images = arrays[str(names["images"])]
        others = {role: name for role, name in names.items() if role != "images" and name is not None}
        beside = {role: _read_column(path, name, arrays[name], role) for role, name in others.items()}
    if len(images.shape) not in (3, 4):
        raise DataError(
            f"{path.name}: {names['images']} has shape {tuple(images.shape)}; expected (items, height, width[, 3]) or "
            "(items, depth, height, width)"
        )
    for role, column in beside.items():
        if len(column) != images.shape[0]:
            raise DataError(
                f"{path.name}: {names[role]} has {len(column)} entries for {images.shape[0]} images; expected one each"
            )
    lazy = path.suffix.lower() != NPZ
    contents: Sequence[Content] = (
        [StackedImage(path, str(names["images"]), index) for index in range(images.shape[0])] if lazy else list(images)
    )
    return ImageStack(contents, beside["labels"], beside.get("patients"), beside.get("split"), beside.get("lesions"))


@contextmanager
def _refuse_damage(path: Path, hint: str = "") -> Iterator[None]:
    """Turn whatever the libraries raise on a damaged file into a DataError of one line."""
    try:
        yield
    except ARRAY_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path.name} is damaged or no {path.suffix} of plain arrays: {reason}{hint}") from error


def is_npy(data: bytes) -> bool:
    """Tell whether bytes begin as a .npy file does."""
    return data.startswith(MAGIC)


def read_npy(data: bytes) -> NDArray[Any]:
    """Return the array of a .npy file, of any shape, of numbers or truth values; it shares the memory of its bytes.

    Raises ImageError for what is damaged, cut off, or holds Python objects, which are never unpacked.
    """
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with silence():  # of headers that Python 2 wrote
            shape, by_columns, dtype = read(stream)
    except Exception as error:  # damaged headers are parsed as Python literals
        raise ImageError(f"damaged or unsupported {NPY}: its header cannot be read ({type(error).__name__})") from error
    if dtype.hasobject:
        raise ImageError(f"a {NPY} of pickled Python objects, which are never unpacked; save an array of numbers")
    if dtype.kind not in "biuf":
        raise ImageError(f"a {NPY} of type {dtype}; expected numbers, such as uint8, uint16 or float32")
    count = math.prod(shape)
    end = stream.tell() + count * dtype.itemsize
    if min(shape, default=1) < 1 or end > len(data):
        raise ImageError(f"empty or cut off: the {NPY} of shape {shape} should end at byte {end}, it has {len(data)}")
    return np.frombuffer(data, dtype, count, stream.tell()).reshape(shape, order="F" if by_columns else "C")


def is_medmnist(path: Path) -> bool:
    """Tell whether an .npz has any of the arrays of a MedMNIST file; one that cannot be read has none."""
    try:
        with zipfile.ZipFile(path) as file:
            return not {f"{name}.npy" for name in MEDMNIST}.isdisjoint(file.namelist())
    except ARRAY_ERRORS:
        return False


def read_medmnist(path: Path) -> dict[Split, tuple[NDArray[Any], NDArray[Any]]]:
    """Return images and labels of each split of a MedMNIST file. Raises DataError."""
    with _refuse_damage(path, "; expected the MedMNIST layout"):
        held = _list_arrays(path)
    missing = [name for name in MEDMNIST if name not in held]
    if missing:
        raise DataError(f"{path.name} lacks {', '.join(missing)}; found {', '.join(held) or 'no arrays'}")
    return {
        split: _check_part(path, split, held[f"{split}_images"], held[f"{split}_labels"]) for split in get_args(Split)
    }


def _check_part(
    path: Path, split: str, images: NDArray[Any], labels: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return images and labels, shape (items,) or (items, labels), or refuse what is not 8-bit."""
    name, shape = f"{path.name}: {split}_images", images.shape
    if images.ndim not in (3, 4) or images.dtype != np.uint8:
        raise DataError(
            f"{name} are {images.dtype} of shape {shape}; expected uint8, (items, height, width[, 3]) or (items, depth, "
            "height, width)"
        )
    if len(labels) != len(images) or labels.ndim not in (1, 2):
        raise DataError(
            f"{path.name}: {split}_labels of shape {labels.shape} for {len(images)} images; expected one each"
        )
    return images, labels if labels.ndim == 2 and labels.shape[1] > 1 else labels.reshape(len(images))


def _find_name(path: Path, arrays: Mapping[str, Any], role: str, keys: Mapping[str, str]) -> str | None:
    """Return the name of the array of a role, None where there need be none. Raises DataError."""
    held = ", ".join(f"{name} {tuple(array.shape)}" for name, array in list(arrays.items())[:20]) or "no arrays"
    if role in keys:
        if keys[role] not in arrays:
            raise DataError(f"{path.name} has no array {keys[role]!r}; found {held}")
        return keys[role]
    usual = [name for name in arrays if name.rpartition("/")[2].lower() in ROLES[role]]
    if role == "images" and len(usual) != 1:
        usual = [name for name, array in arrays.items() if len(array.shape) in (3, 4)]
    if len(usual) == 1:
        return usual[0]
    if role in NEEDED or len(usual) > 1:
        raise DataError(
            f"{path.name}: expected one array of {role}, found {', '.join(usual) or 'none'} among {held}; name it with "
            "--keys images=NAME,labels=NAME"
        )
    return None


def _read_column(path: Path, name: str, array: Any, role: str) -> NDArray[Any]:
    """Return one value an item, text decoded; of labels there may be several. Raises DataError for several of others."""
    values = np.asarray(array[:])
    if values.ndim > 1 and values.shape[0] == values.size:
        values = values.reshape(-1)
    if values.ndim != 1 and not (role == "labels" and values.ndim == 2):
        raise DataError(f"{path.name}: {name} has shape {values.shape}; expected one value an item")
    if values.dtype.kind in "SO" and values.ndim == 1:
        values = np.array([each.decode() if isinstance(each, bytes) else str(each) for each in values])
    return values


def _list_arrays(path: Path) -> dict[str, Any]:
    """Return the arrays of a file by name, those of HDF5 and Zarr unread."""
    suffix = path.suffix.lower()
    if suffix == NPZ:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    found: dict[str, Any] = {}
    opened = _open(path)
    if suffix in HDF5:
        import h5py

        opened.visititems(lambda name, each: found.update({name: each} if isinstance(each, h5py.Dataset) else {}))
        elsewhere = [name for name, each in found.items() if each.is_virtual or each.external]
        if elsewhere:
            raise DataError(f"{path.name}: {', '.join(elsewhere)} lies in other files; copy it into one")
    else:
        import zarr

        found.update({name: each for name, each in opened.members(max_depth=None) if isinstance(each, zarr.Array)})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of types that are no standard yet
            for name, each in found.items():
                _check_codecs(path, name, each.metadata.to_dict())
    return dict(sorted(found.items()))


def _check_codecs(path: Path, name: str, about: Any) -> None:
    """Refuse an array whose values pass through any but known codecs: there is one that runs what it is given."""
    steps = [*(about.get("codecs") or ()), *(about.get("filters") or ()), about.get("compressor")]
    for step in steps:
        if step is None:
            continue
        codec = str(step.get("name", step.get("id"))).removeprefix("numcodecs.")
        if codec not in CODECS:
            raise DataError(f"{path.name}: {name} is stored with the codec {codec!r}; expected {', '.join(CODECS)}")
        _check_codecs(path, name, step.get("configuration") or {})  # shards hold codecs of their own


def _open(path: Path) -> Any:
    """Open an HDF5 or Zarr file to read, once for as long as it is unchanged."""
    return _open_version(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _open_version(path: Path, _mtime_ns: int) -> Any:
    """Open an HDF5 or Zarr file to read. Raises DataError where the library is missing."""
    if path.suffix.lower() in HDF5:
        import h5py

        return h5py.File(path, "r")
    try:
        import zarr
    except ImportError as error:
        raise DataError(
            f"{path.name} is a Zarr folder, for which zarr is needed: pip install 'thawline[zarr]'"
        ) from error
    return zarr.open_group(path, mode="r")
