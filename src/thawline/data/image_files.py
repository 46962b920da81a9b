"""Image files: PNG, JPEG, TIFF, BMP and WebP, decoded whole at their full depth, or refused with a one-line reason.

Pillow decodes; where Pillow would squeeze 16-bit colour into 8 bits, the two bytes of a sample are read apart (PNG) or
tifffile takes over (TIFF). Every refusal is an `ImageError`.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.data.quiet import silence
from thawline.errors import ImageError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

    from thawline.types import Pixels

MAX_PIXELS = 100_000_000
MIN_SIDE_PX = 8

SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    (b"BM", "BMP"),
    (b"RIFF", "WebP"),
)
# What Pillow and tifffile raise on damaged files, found by flipping and cutting bytes of valid ones.
DECODER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


def decode_file(data: bytes, name: str, reduce_to_px: int | None) -> Pixels:
    """Open, check the header, decode."""
    with _refuse_damage(name):
        if name == "TIFF":
            return _decode_tiff(data)
        image = _open(data, name)
        if name == "PNG":
            _open(data, name).verify()  # Pillow does not compare checksums while it decodes
        if name == "JPEG" and reduce_to_px is not None:
            image.draft(None, (2 * reduce_to_px, 2 * reduce_to_px))
        if name == "PNG" and data[24] == 16:
            pixels = _read_png_16(data, image)
        else:
            image.load()
            pixels = _to_pixels(image)
        with silence():  # after load: in PNG the orientation may follow the pixels
            orientation = image.getexif().get(0x0112, 1)
        return _orient(pixels, orientation)


def check_size(width: int, height: int) -> None:
    """Refuse a size that cannot be an image to classify; called with the header's size, before anything is decoded."""
    if width * height > MAX_PIXELS:
        found = f"{width} x {height} px = {width * height:,}"
        raise ImageError(f"the header says {found} pixels; at most {MAX_PIXELS:,} are read")
    if min(width, height) < MIN_SIDE_PX:
        raise ImageError(f"{width} x {height} px is too small: each side needs at least {MIN_SIDE_PX} px")


def narrow(array: Pixels) -> Pixels:
    """Keep uint8, uint16 and float32; turn other numbers into float32 where none of them changes, else refuse."""
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.newbyteorder("=") in (np.uint8, np.uint16, np.float32):
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind not in "iuf":
        raise ImageError(f"pixels of type {array.dtype}; expected uint8, uint16 or float32")
    with np.errstate(over="ignore", invalid="ignore"):
        narrowed = array.astype(np.float32)
        same = bool((narrowed.astype(array.dtype) == array)[np.isfinite(narrowed)].all())
    if not same:
        raise ImageError(f"{array.dtype} pixels do not fit float32 without loss; save them as uint16 or float32")
    return narrowed


@contextmanager
def _refuse_damage(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into an ImageError of one line."""
    from PIL.Image import DecompressionBombError

    try:
        yield
    except (*DECODER_ERRORS, DecompressionBombError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"damaged, cut off or unsupported {name}: {reason[:200]}") from error


def _open(data: bytes, name: str) -> ImageFile:
    """Read the header through Pillow's class for the format: `Image.open` would judge the size by a global limit."""
    from PIL import BmpImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

    opener: dict[str, type[ImageFile]] = {
        "PNG": PngImagePlugin.PngImageFile,
        "JPEG": JpegImagePlugin.JpegImageFile,
        "TIFF": TiffImagePlugin.TiffImageFile,
        "BMP": BmpImagePlugin.BmpImageFile,
        "WebP": WebPImagePlugin.WebPImageFile,
    }
    with silence():
        image = opener[name](io.BytesIO(data))
        check_size(*image.size)
        _check_pages(getattr(image, "n_frames", 1), name)
    return image


def _check_pages(n_pages: int, name: str) -> None:
    """Refuse files of several pages: which one is meant is not ours to guess."""
    if n_pages != 1:
        raise ImageError(f"the {name} holds {n_pages} pages; one image a file is read, so save the page that counts")


def _to_pixels(image: ImageFile) -> Pixels:
    """Turn a loaded Pillow image into grey or RGB pixels of its own depth."""
    mode = image.mode
    if mode.startswith(("I;16", "F")):
        return _blacken_key(narrow(np.asarray(image)), image.info.get("transparency"))
    if mode in ("P", "PA", "1", "L", "RGB") and (mode == "PA" or "transparency" in image.info):
        return _composite(np.asarray(image.convert("RGBA")))
    if mode in ("LA", "RGBA"):
        return _composite(np.asarray(image))
    if mode in ("La", "RGBa", "RGBX"):  # already multiplied by alpha, or alpha without meaning
        return np.asarray(image)[..., 0] if mode == "La" else np.asarray(image)[..., :3]
    if mode == "1":
        return np.asarray(image.convert("L"))
    if mode in ("P", "CMYK", "YCbCr"):
        return np.asarray(image.convert("RGB"))
    if mode in ("L", "RGB"):
        return np.asarray(image)
    raise ImageError(f"colour mode {mode} is not read; save the image as grey or RGB")


def _composite(pixels: Pixels) -> Pixels:
    """Lay pixels with alpha, shape (height, width, 2 or 4), over black: value x alpha / full, rounded half up."""
    full = np.uint32(np.iinfo(pixels.dtype).max)
    product = pixels[..., :-1].astype(np.uint32) * pixels[..., -1:]
    colour = ((product + full // 2) // full).astype(pixels.dtype)
    return colour[..., 0] if colour.shape[2] == 1 else colour


def _blacken_key(pixels: Pixels, key: Any) -> Pixels:
    """Set the pixels of the one transparent colour that a PNG may name (``key``: grey value or RGB triple) to black."""
    if key is None:
        return pixels
    clear = pixels == np.asarray(key, dtype=pixels.dtype)
    if pixels.ndim == 3:
        clear = clear.all(axis=2, keepdims=True)
    return np.where(clear, np.zeros_like(pixels), pixels)


def _read_png_16(data: bytes, image: ImageFile) -> Pixels:
    """Read a 16-bit PNG at full depth.

    Pillow unpacks 16-bit colour to its high bytes; asked for the other byte order, the same decoder gives the low ones.
    Grey with alpha has four bytes a pixel, which are taken as they are.
    """
    layout = image.tile[0].args
    if layout in ("RGB;16B", "RGBA;16B"):
        low = _open(data, "PNG")
        low.tile = [low.tile[0]._replace(args=f"{image.mode};16L")]
        pixels = np.asarray(image).astype(np.uint16) << 8 | np.asarray(low)
    elif layout == "LA;16B" and image.mode == "RGBA":
        image.tile = [image.tile[0]._replace(args="RGBA")]
        parts = np.asarray(image).astype(np.uint16)
        pixels = parts[..., 0::2] << 8 | parts[..., 1::2]
    elif image.mode.startswith("I;16"):
        image.load()
        return _to_pixels(image)
    else:
        raise ImageError(f"16-bit PNG of layout {layout} cannot be read at full depth; save it as 16-bit grey")
    if pixels.shape[2] in (2, 4):
        return _composite(pixels)
    return _blacken_key(pixels, image.info.get("transparency"))


def _decode_tiff(data: bytes) -> Pixels:
    """Let Pillow decode what it keeps whole, tifffile the rest (wide colour, wide white-is-zero, signed integers)."""
    try:
        image = _open(data, "TIFF")
    except (SyntaxError, OSError):  # a layout that Pillow does not know
        return _decode_wide_tiff(data)
    tags = getattr(image, "tag_v2", {})
    bits, signed, white_is_zero = max(tags.get(258, (1,))), 2 in tags.get(339, (1,)), tags.get(262) == 0
    kept = bits <= 8 and not signed
    kept |= bits <= 16 and image.mode.startswith("I;16") and not white_is_zero
    kept |= bits == 32 and image.mode == "F" and not white_is_zero
    if not kept:
        return _decode_wide_tiff(data)
    with silence():
        image.load()  # Pillow turns a TIFF upright here
    return _to_pixels(image)


def _decode_wide_tiff(data: bytes) -> Pixels:
    """Read a one-page TIFF through tifffile: grey or RGB, with or without alpha, integer or floating point."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        _check_pages(len(file.pages), "TIFF")
        page: Any = file.pages[0]
        check_size(page.imagewidth, page.imagelength)
        (n_tags,) = struct.unpack_from(file.tiff.tagnoformat, data, page.offset)
        if len(page.tags) != n_tags:  # tifffile passes over what lies beyond the end, such as the bits of a sample
            raise ImageError(f"cut off or damaged: {len(page.tags)} of {n_tags} tags can be read")
        _check_wide_page(page, len(data))
        pixels = page.asarray().reshape(-1, page.imagelength, page.imagewidth, page.samplesperpixel)[0]
        if page.planarconfig == 2 and page.samplesperpixel > 1:
            pixels = np.moveaxis(page.asarray().reshape(-1, page.imagelength, page.imagewidth), 0, 2)
        if page.photometric == 0:
            pixels = np.iinfo(np.uint16).max - pixels
        alpha = page.extrasamples[0] if page.extrasamples else 0
        tag = page.tags.get(274)
    if pixels.shape[2] in (2, 4):
        pixels = _composite(pixels) if alpha == 2 else pixels[..., :-1]
    pixels = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    return _orient(narrow(pixels), 1 if tag is None else tag.value)


def _check_wide_page(page: Any, n_bytes: int) -> None:
    """Refuse a TIFF page that tifffile would misread, or fill up with zeros where the file was cut off."""
    samples, extra = page.samplesperpixel, len(page.extrasamples)
    grey, colour = page.photometric in (0, 1) and samples - extra == 1, page.photometric == 2 and samples - extra == 3
    if not (grey or colour) or extra > 1:
        raise ImageError(f"TIFF with {samples} samples a pixel, photometric {page.photometric}; save it as grey or RGB")
    if page.imagedepth != 1:
        raise ImageError(f"TIFF of depth {page.imagedepth}: volumes are not read as images")
    if (extra or page.photometric == 0) and page.dtype != np.uint16:
        raise ImageError(f"TIFF of type {page.dtype} with alpha or white-is-zero; save it black-is-zero without alpha")
    ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if not ends or min(page.databytecounts) == 0 or max(ends) > n_bytes:
        raise ImageError(f"cut off: the pixels should end at byte {max(ends, default=0)}, the file has {n_bytes}")


def _orient(pixels: Pixels, orientation: Any) -> Pixels:
    """Turn stored rows and columns upright (EXIF 2.3, tag 0x0112; values 1 to 8, others mean upright)."""
    match orientation:
        case 2:
            return pixels[:, ::-1]
        case 3:
            return pixels[::-1, ::-1]
        case 4:
            return pixels[::-1]
        case 5:
            return pixels.swapaxes(0, 1)
        case 6:
            return pixels.swapaxes(0, 1)[:, ::-1]
        case 7:
            return pixels[::-1, ::-1].swapaxes(0, 1)
        case 8:
            return pixels.swapaxes(0, 1)[::-1]
    return pixels
