"""The pixels of one item: read whole, at their full depth, or refused with a one-line reason.

Which module reads a file is told by its first bytes: `image_files`, `dicom`, `volumes`, `arrays`. DICOM objects are read as
a display shows them. Every refusal is an `ImageError` without the path, which the caller knows.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.data import arrays, dicom, dicom_series, slides, volumes
from thawline.data.dicom_values import guard
from thawline.data.image_files import MAX_PIXELS, MIN_SIDE_PX, SIGNATURES, check_size, decode_file, narrow
from thawline.data.quiet import silence
from thawline.data.slices import Stack, take_bag, take_image
from thawline.data.slide_files import SUFFIXES, digest_slide, is_slide_file
from thawline.errors import ImageError
from thawline.types import PLANES, Reading, Slide

if TYPE_CHECKING:
    from thawline.types import Content, Data, Pixels

READER_VERSION = 1  # part of every cache key: raise it when the same bytes would give other pixels
USUAL = Reading()
EXTENSIONS = (
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"),
    *(*volumes.EXTENSIONS, *SUFFIXES, arrays.NPY, ".dcm"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class ImageFacts:
    """What one image is, at full resolution.

    ``channels`` is 1 for grey, also where a file stores grey as three equal channels; ``bits`` is 8, 16 or 32 (float);
    ``pixel_digest`` is equal for images of equal pixels, whatever the file format. Of an item that is looked at as a whole,
    ``slices`` are those across the plane; sides are those of its middle one, the rest is of all of them.
    """

    width_px: int
    height_px: int
    channels: int
    bits: int
    format: str
    minimum: float
    maximum: float
    pixel_digest: str
    slices: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; `from_json` reverses it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ImageFacts:
        """Rebuild from `to_json`; raises TypeError on unknown or missing fields."""
        return cls(**data)


def is_image_name(path: Path) -> bool:
    """Tell whether the extension is one of `EXTENSIONS`, in any case."""
    return path.name.lower().endswith(EXTENSIONS)


def may_be_dicom(path: Path) -> bool:
    """Tell whether the name leaves it open that a file is DICOM: its extension is that, or no image's."""
    return not path.name.lower().endswith(EXTENSIONS[:-1])


def is_slide(content: Content) -> bool:
    """Tell a whole slide, by little more than its name."""
    return isinstance(content, Slide) or (isinstance(content, Path) and is_slide_file(content, MAX_PIXELS))


def read_content(content: Content) -> Data:
    """Read the bytes of a file; an array is returned as it is, a whole slide unread.

    Raises ImageError where the file cannot be read.
    """
    if isinstance(content, np.ndarray):
        return content
    if not isinstance(content, Path):
        return content.read()
    if is_slide(content):
        return Slide((content,))
    try:
        return content.read_bytes()
    except (OSError, ValueError) as error:
        raise ImageError(f"the file cannot be read: {getattr(error, 'strerror', None) or error}") from error


def content_digest(data: Data) -> str:
    """Return 64 hex digits of BLAKE2b-256: of the bytes, or of shape, type and values of an array (little-endian).

    Of several files it is that of their digests, one after the other. A whole slide is read in chunks. Raises ImageError
    where that cannot be read.
    """
    if isinstance(data, Slide):
        return digest_slide(data)
    if isinstance(data, bytes):
        return hashlib.blake2b(data, digest_size=32).hexdigest()
    if isinstance(data, tuple):
        return content_digest("".join(map(content_digest, data)).encode())
    little = np.ascontiguousarray(data, dtype=data.dtype.newbyteorder("<"))
    digest = hashlib.blake2b(f"{little.shape}{little.dtype.str}".encode(), digest_size=32)
    digest.update(little.tobytes())
    return digest.hexdigest()


def decode(data: Data, *, reduce_to_px: int | None = None, reading: Reading = USUAL) -> Pixels:
    """Decode the bytes of an image file, or check an array, into the pixels of one image.

    Returns uint8, uint16 or float32, shape (height, width) or (height, width, 3), EXIF orientation applied, alpha
    composited over black. ``reduce_to_px`` lets JPEG be decoded at a reduced scale that leaves both sides at least
    twice that long, ``reading`` says how DICOM and volumes are read; a bag is shown by its middle slice. Raises ImageError
    for anything damaged, empty, too large, too small, or wider than can be kept.
    """
    pixels = take_image(open_stack(data, reduce_to_px, reading), reading)
    if reduce_to_px is not None and not reading.n_slices and _is_constant(pixels):
        return decode(data, reading=reading)  # the reduction may have blurred the content away
    return pixels if reading.n_slices else _check_pixels(pixels)


def decode_bag(data: Data, *, reduce_to_px: int | None = None, reading: Reading) -> list[Pixels]:
    """Decode the ``n_slices`` images of a bag, each as `decode` gives one; slices without content are allowed."""
    return [check_finite(each) for each in take_bag(open_stack(data, reduce_to_px, reading), reading)]


def walk_slices(data: Data, reading: Reading, most: int | None = None) -> Iterator[tuple[int, Pixels]]:
    """Yield the slices of an item one at a time with their indices, the middle one first; of a whole slide its picture.

    Beside the middle one all, or ``most``, evenly from the first to the last. Raises ImageError as `decode` does.
    """
    stack = open_stack(data, None, reading)
    if stack.picture is not None:
        yield 0, stack.picture
        return
    n_slices = stack.count(reading.plane)
    evenly = np.linspace(0, n_slices - 1, n_slices if most is None else min(most, n_slices)).round().astype(int)
    for index in dict.fromkeys([n_slices // 2, *evenly.tolist()]):
        yield index, check_finite(stack.show(reading.plane, index))


def describe(data: Data, reading: Reading = USUAL) -> ImageFacts:
    """Decode at full resolution and state size, depth, range and pixel digest. Raises ImageError as `decode` does.

    One image is described where the reading takes one slice of an item, else all slices across its plane. Of a whole slide
    sides are those of its finest level, and the rest is of its overview.
    """
    if isinstance(data, Slide):
        overview, sides, n_tiles = slides.survey_slide(data, reading)
        low, high = float(_check_pixels(overview).min()), float(overview.max())
        state = _state(overview, slides.FORMAT, low, high, content_digest(f"{sides}".encode() + overview.tobytes()))
        return dataclasses.replace(state, width_px=sides[0], height_px=sides[1], slices=n_tiles)
    stack = open_stack(data, None, reading)
    n_slices = stack.count(reading.plane)
    if n_slices == 1 or reading.dimensions == "2d":
        pixels = _drop_channels(_check_pixels(take_image(stack, reading)))
        return _state(pixels, stack.format, float(pixels.min()), float(pixels.max()), content_digest(pixels))
    take_image(stack, reading)  # refused where it has no such image
    digests, lows, highs = [], [], []
    middle: Pixels | None = None
    for index in range(n_slices):
        pixels = _drop_channels(check_finite(stack.show(reading.plane, index)))
        digests.append(content_digest(pixels))
        lows.append(float(pixels.min()))
        highs.append(float(pixels.max()))
        if index == n_slices // 2:
            middle = pixels
    low, high = min(lows), max(highs)
    if middle is None or low == high:
        raise ImageError(f"no image content: all pixels of {n_slices} slices are {low:g}")
    whole = hashlib.blake2b("".join(digests).encode(), digest_size=32).hexdigest()
    return dataclasses.replace(_state(middle, stack.format, low, high, whole), slices=n_slices)


def _state(pixels: Pixels, name: str, low: float, high: float, digest: str) -> ImageFacts:
    return ImageFacts(
        width_px=pixels.shape[1],
        height_px=pixels.shape[0],
        channels=3 if pixels.ndim == 3 else 1,
        bits=8 * pixels.dtype.itemsize,
        format=name,
        minimum=low,
        maximum=high,
        pixel_digest=digest,
    )


def _drop_channels(pixels: Pixels) -> Pixels:
    """Return grey that is stored as three equal channels as one."""
    return pixels[..., 0] if pixels.ndim == 3 and bool((pixels == pixels[..., :1]).all()) else pixels


def _is_constant(pixels: Pixels) -> bool:
    return bool((pixels == pixels[0, 0]).all())


def _check_pixels(pixels: Pixels) -> Pixels:
    """Refuse an image without content, or with values that are no numbers."""
    check_finite(pixels)
    if _is_constant(pixels):
        raise ImageError(f"no image content: all {pixels.shape[1]} x {pixels.shape[0]} pixels are {pixels[0, 0]}")
    return pixels


def check_finite(pixels: Pixels) -> Pixels:
    """Refuse values that are no numbers. Raises ImageError."""
    if pixels.dtype == np.float32 and not bool(np.isfinite(pixels).all()):
        n_bad = int(np.count_nonzero(~np.isfinite(pixels)))
        raise ImageError(f"{n_bad} of {pixels.size} values are NaN or infinite; pixels must be finite numbers")
    return pixels


def open_stack(data: Data, reduce_to_px: int | None, reading: Reading) -> Stack:
    """Open an item as its slices; an image is a stack of one, see `decode` for ``reduce_to_px``.

    Raises ImageError as `decode` does, and for several slices where the reading takes one.
    """
    if isinstance(data, np.ndarray):
        stack = _stack_array(data)
    elif isinstance(data, Slide):
        stack = slides.open_stack(data, reading)
    elif isinstance(data, tuple):
        stack = _stack_series(data, reading)
    else:
        name = _identify(data)
        if name == "DICOM":
            stack = _stack_frames(data, reading)
        elif name in volumes.FORMATS:
            stack = _stack_volume(data, name, reading)
        elif name == arrays.NUMPY:
            stack = _stack_array(arrays.read_npy(data), name)
        else:
            stack = _stack_image(decode_file(data, name, reduce_to_px), name)
    if reading.dimensions == "2d" and reading.frame == "only" and (n_slices := stack.count(reading.plane)) != 1:
        raise ImageError(
            f"the {stack.format} object holds {n_slices} slices or frames, and one image is expected; choose one with "
            "--frame middle, or show several with --dimensions 2.5d_bag"
        )
    return stack


def _stack_image(pixels: Pixels, name: str) -> Stack:
    """Return an image as a stack of one slice, whatever the plane."""
    return Stack(name, dict.fromkeys(PLANES, 1), lambda _plane, _index: pixels)


def _identify(data: bytes) -> str:
    """Name the format by the first bytes; the extension of a file is no evidence."""
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    for signature, name in SIGNATURES:
        if data.startswith(signature) and (name != "WebP" or data[8:12] == b"WEBP"):
            return name
    if dicom.is_dicom(data):
        return "DICOM"
    if arrays.is_npy(data):
        return arrays.NUMPY
    if (volume := volumes.name_format(data)) is not None:
        return volume
    *others, last = dict.fromkeys([*(name for _, name in SIGNATURES), "DICOM", *volumes.FORMATS, arrays.NUMPY])
    raise ImageError(f"not a {', '.join(others)} or {last} image: the file starts with {data[:8]!r}")


def _stack_array(array: Pixels, name: str = "array") -> Stack:
    """Return the slices of an array of three axes, of which the first is across axial slices; an image as it is."""
    if array.ndim != 3 or array.shape[2] < MIN_SIDE_PX:  # channels, or too narrow to be a slice
        return _stack_image(_take_array(array), name)

    def show(plane: str, index: int) -> Pixels:
        return _take_array(np.take(array, index, axis=PLANES.index(plane)))

    return Stack(name, dict(zip(PLANES, array.shape, strict=True)), show)


def _take_array(array: Pixels) -> Pixels:
    """Check shape and size of an array; (height, width, 1) becomes (height, width)."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ImageError(
            f"an array of shape {array.shape}; expected (height, width), (height, width, 3) or (depth, height, width)"
        )
    check_size(array.shape[1], array.shape[0])
    return narrow(array)


def _stack_frames(data: bytes, reading: Reading) -> Stack:
    """Return the frames of a DICOM object as a display shows them."""
    with silence():
        found = dicom.read_object(data)
        check_size(*dicom.read_size(found))
        n_frames = dicom.count_frames(found)

    def show(_plane: str, frame: int) -> Pixels:
        with silence():
            shown = guard("image", lambda: dicom.show(found, frame, reading.windows))
            ratio = guard("pixel spacing", lambda: dicom.find_pixel_ratio(found, frame))
            return narrow(dicom.make_square(shown, ratio))

    return Stack("DICOM", dict.fromkeys(PLANES, 1) if n_frames == 1 else {PLANES[0]: n_frames}, show)


def _stack_series(files: tuple[bytes, ...], reading: Reading) -> Stack:
    """Return the slices of a DICOM series as a display shows them."""
    with silence():
        volume, windows = dicom_series.read_series(files, reading)
        return _show_volume(volume, "DICOM series", windows)


def _stack_volume(data: bytes, name: str, reading: Reading) -> Stack:
    """Return the slices of a volume as a display shows them."""
    with silence():
        volume = volumes.read_volume(data, isotropic=reading.isotropic)
        return _show_volume(volume, name, volumes.find_windows(volume, reading))


def _show_volume(volume: volumes.Volume, name: str, windows: Sequence[dicom.Window]) -> Stack:
    def show(plane: str, index: int) -> Pixels:
        stored, ratio = volume.cut(plane, index)
        check_size(round(stored.shape[1] / min(ratio, 1)), round(stored.shape[0] * max(ratio, 1)))
        return dicom.make_square(volumes.show(stored, windows), ratio)

    return Stack(name, {plane: volume.count(plane) for plane in PLANES}, show)
