"""The ways to store an image that can be read on this machine, each tried or asked for."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import importlib
import importlib.util
import io
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.data.readers import USUAL, decode
from thawline.data.slide_files import INSTALL, Pyramid
from thawline.data.slide_phantoms import Form, write_picture
from thawline.errors import ImageError
from thawline.findings import Finding, find_version, say_error
from thawline.types import Reading, Slide

if TYPE_CHECKING:
    from thawline.types import Pixels

LOSSY_LEVELS = 6.0  # of 255: what lossy compression may change a smooth image by, on average
SLIDE_FORMS: dict[str, tuple[Form, str]] = {"slide.svs": ("svs", "openslide"), "slide.ome.tif": ("ome", "tiffslide")}
AS_STORED = Reading(("128/256",))  # the window that leaves 8 bits as they are
DICOM_PACKAGES = "pip install pydicom pylibjpeg-openjpeg pylibjpeg-rle pyjpegls python-gdcm"


@dataclasses.dataclass(frozen=True, slots=True)
class Encoding:
    """One way to store an image: ``pixels`` is a key of `make_samples`, ``exact`` whether they come back as they were."""

    format: str
    variety: str
    pixels: str
    encode: Callable[[Pixels], bytes]
    exact: bool = True
    reading: Reading = USUAL


def check_decoders() -> list[Finding]:
    """Store a small image in every way of `ENCODINGS` and read it back through the readers that a run uses."""
    samples = make_samples()
    problems = [(encoding, try_encoding(encoding, samples[encoding.pixels])) for encoding in ENCODINGS]
    read: dict[str, list[str]] = {}
    for encoding, problem in problems:
        if not problem:
            read.setdefault(encoding.format, []).append(encoding.variety)
    findings = [Finding(name, "decoders", "ok", ", ".join(varieties)) for name, varieties in read.items()]
    return findings + [explain_problem(encoding, problem) for encoding, problem in problems if problem]


def check_slides() -> list[Finding]:
    """Write a small slide in each form of `SLIDE_FORMS`, and read it back through the library that a run uses."""
    findings, read = [], []
    picture = np.full((64, 64, 3), 200, np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        for name, (form, library) in SLIDE_FORMS.items():
            path = write_picture(Path(folder) / name, picture, 0.5, form, n_levels=2)
            try:
                found = Pyramid(Slide((path,))).read(0, 0, 64, 64, 32, 32)
            except ImageError as error:
                findings.append(Finding(f"slides through {library}", "decoders", "missing", say_error(error), INSTALL))
                continue
            if np.abs(found.astype(int) - 200).max() <= LOSSY_LEVELS:
                read.append(library)
            else:
                findings.append(
                    Finding(f"slides through {library}", "decoders", "wrong", "other pixels came back", INSTALL)
                )
    return [*([Finding("slides", "decoders", "ok", ", ".join(read))] if read else []), *findings]


def explain_problem(encoding: Encoding, problem: str) -> Finding:
    """Turn what `try_encoding` found wrong into a finding; most images are PNG or JPEG, so those two are needed."""
    name = f"{encoding.format} {encoding.variety}"
    if "imagecodecs" in problem:  # tifffile's own words for what it leaves to that package
        return Finding(name, "decoders", "missing", "needs a decoder", "pip install imagecodecs")
    remedy = "pip install --force-reinstall Pillow tifffile"
    return Finding(name, "decoders", "wrong", problem, remedy, needed=encoding.format in ("PNG", "JPEG"))


def try_encoding(encoding: Encoding, pixels: Pixels) -> str:
    """Store pixels and read them back; return what is wrong, or nothing."""
    try:
        found = decode(encoding.encode(pixels), reading=encoding.reading)
    except Exception as error:  # noqa: BLE001 - encoders of several libraries
        return say_error(error)
    if found.shape[:2] != pixels.shape[:2] or found.dtype != pixels.dtype:
        return f"read as {found.dtype} {found.shape}, stored as {pixels.dtype} {pixels.shape}"
    wanted = pixels[..., None] if found.ndim > pixels.ndim else pixels  # a palette is read as colour
    change = float(np.abs(found.astype(np.float64) - wanted).mean())
    if change > (0.0 if encoding.exact else LOSSY_LEVELS):
        return f"pixels differ by {change:.3g} on average"
    return ""


def make_samples() -> dict[str, Pixels]:
    """Make small smooth images, 32 x 24 px, whose low bytes matter as well; grey and colour, 8 and 16 bit and float."""
    rows, columns = np.mgrid[0:24, 0:32]
    grey = (4 * columns + 5 * rows).astype(np.uint8)
    colour = np.stack([grey, 255 - grey, 8 * columns.astype(np.uint8)], axis=2)
    wide, wide_colour = (pixels.astype(np.uint16) * np.uint16(256) + np.uint16(85) for pixels in (grey, colour))
    return {"grey": grey, "colour": colour, "wide": wide, "wide colour": wide_colour, "float": grey / np.float32(7)}


def _save(pixels: Pixels, name: str, mode: str = "", **options: Any) -> bytes:
    from PIL import Image

    buffer, image = io.BytesIO(), Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, name, **options)
    return buffer.getvalue()


def _save_wide_png(pixels: Pixels) -> bytes:
    """Write a PNG of 16-bit colour, which Pillow does not."""
    rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(">u2"))
    header = struct.pack(">2I5B", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for chunk in (b"IHDR" + header, b"IDAT" + zlib.compress(rows), b"IEND"):
        data += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return data


def _save_wide_tiff(pixels: Pixels, compression: str | None = None) -> bytes:
    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, photometric="rgb", compression=compression)
    return buffer.getvalue()


def _save_nifti(pixels: Pixels) -> bytes:
    """Write a volume of one axial slice."""
    import nibabel

    data: bytes = nibabel.Nifti1Image(pixels[::-1, ::-1].T[..., None], np.eye(4)).to_bytes()
    return data


def _save_by_itk(pixels: Pixels, suffix: str) -> bytes:
    """Write a volume of one axial slice through SimpleITK, whose axes run to the left and to the back."""
    import SimpleITK as sitk  # noqa: N813 - its own convention

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"volume{suffix}"
        sitk.WriteImage(sitk.GetImageFromArray(pixels[None]), str(path))
        return path.read_bytes()


def _save_npy(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, pixels, allow_pickle=False)
    return buffer.getvalue()


def _encode(name: str, **options: Any) -> Callable[[Pixels], bytes]:
    return functools.partial(_save, name=name, **options)


ENCODINGS: tuple[Encoding, ...] = (
    Encoding("PNG", "8-bit grey", "grey", _encode("PNG")),
    Encoding("PNG", "8-bit colour", "colour", _encode("PNG")),
    Encoding("PNG", "palette", "grey", _encode("PNG", mode="P")),
    Encoding("PNG", "16-bit grey", "wide", _encode("PNG")),
    Encoding("PNG", "16-bit colour", "wide colour", _save_wide_png),
    Encoding("JPEG", "grey", "grey", _encode("JPEG", quality=95), exact=False),
    Encoding("JPEG", "colour", "colour", _encode("JPEG", quality=95), exact=False),
    Encoding("JPEG", "progressive", "colour", _encode("JPEG", quality=95, progressive=True), exact=False),
    Encoding("TIFF", "8-bit", "colour", _encode("TIFF")),
    Encoding("TIFF", "LZW", "colour", _encode("TIFF", compression="tiff_lzw")),
    Encoding("TIFF", "deflate", "colour", _encode("TIFF", compression="tiff_adobe_deflate")),
    Encoding("TIFF", "PackBits", "colour", _encode("TIFF", compression="packbits")),
    Encoding("TIFF", "JPEG", "grey", _encode("TIFF", compression="jpeg"), exact=False),
    Encoding("TIFF", "16-bit grey", "wide", _encode("TIFF")),
    Encoding("TIFF", "16-bit grey LZW", "wide", _encode("TIFF", compression="tiff_lzw")),
    Encoding("TIFF", "32-bit float", "float", _encode("TIFF")),
    Encoding("TIFF", "16-bit colour", "wide colour", _save_wide_tiff),
    Encoding("TIFF", "16-bit colour deflate", "wide colour", functools.partial(_save_wide_tiff, compression="zlib")),
    Encoding("TIFF", "16-bit colour LZW", "wide colour", functools.partial(_save_wide_tiff, compression="lzw")),
    Encoding("BMP", "8-bit", "colour", _encode("BMP")),
    Encoding("WebP", "lossless", "colour", _encode("WebP", lossless=True)),
    Encoding("WebP", "lossy", "colour", _encode("WebP", quality=95), exact=False),
    Encoding("NIfTI", "volume", "grey", _save_nifti, reading=AS_STORED),
    Encoding(
        "NIfTI", "compressed volume", "grey", lambda pixels: gzip.compress(_save_nifti(pixels)), reading=AS_STORED
    ),
    Encoding("NRRD", "volume", "grey", functools.partial(_save_by_itk, suffix=".nrrd"), reading=AS_STORED),
    Encoding("MetaImage", "volume", "grey", functools.partial(_save_by_itk, suffix=".mha"), reading=AS_STORED),
    Encoding("NumPy", "8-bit colour", "colour", _save_npy),
    Encoding("NumPy", "32-bit float", "float", _save_npy),
)

# The transfer syntaxes that images come in: name, UID, the packages that decode it, and the plug-ins of pydicom that
# decode all of it (none named: any): Pillow keeps 8 bits of JPEG 2000 in colour.
TRANSFER_SYNTAXES: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("implicit little endian", "1.2.840.10008.1.2", "pydicom", ()),
    ("explicit little endian", "1.2.840.10008.1.2.1", "pydicom", ()),
    ("deflated little endian", "1.2.840.10008.1.2.1.99", "pydicom", ()),
    ("explicit big endian", "1.2.840.10008.1.2.2", "pydicom", ()),
    ("RLE", "1.2.840.10008.1.2.5", "pydicom", ()),
    ("JPEG baseline", "1.2.840.10008.1.2.4.50", "Pillow", ()),
    ("JPEG extended, 8 bit", "1.2.840.10008.1.2.4.51", "Pillow", ()),
    ("JPEG lossless, process 14", "1.2.840.10008.1.2.4.57", "python-gdcm", ()),
    ("JPEG lossless, SV1", "1.2.840.10008.1.2.4.70", "python-gdcm", ()),
    ("JPEG-LS lossless", "1.2.840.10008.1.2.4.80", "pyjpegls", ()),
    ("JPEG-LS near-lossless", "1.2.840.10008.1.2.4.81", "pyjpegls", ()),
    ("JPEG 2000 lossless", "1.2.840.10008.1.2.4.90", "pylibjpeg pylibjpeg-openjpeg", ("gdcm", "pylibjpeg")),
    ("JPEG 2000", "1.2.840.10008.1.2.4.91", "pylibjpeg pylibjpeg-openjpeg", ("gdcm", "pylibjpeg")),
    ("HTJ2K lossless", "1.2.840.10008.1.2.4.201", "pylibjpeg pylibjpeg-openjpeg", ()),
    ("HTJ2K lossless RPCL", "1.2.840.10008.1.2.4.202", "pylibjpeg pylibjpeg-openjpeg", ()),
    ("HTJ2K", "1.2.840.10008.1.2.4.203", "pylibjpeg pylibjpeg-openjpeg", ()),
)

JPEG_12_BIT = Finding(
    "JPEG extended, 12 bit",
    "DICOM",
    "missing",
    "no decoder under a free licence",
    "such files are refused by name; dcmdjpeg IN OUT (dcmtk) writes them uncompressed",
)


def check_dicom() -> list[Finding]:
    """Ask pydicom which transfer syntaxes it has a decoder for; without pydicom there is no DICOM."""
    if importlib.util.find_spec("pydicom") is None:
        return [Finding("DICOM", "DICOM", "missing", "pydicom, which reads DICOM, is not installed", DICOM_PACKAGES)]
    get_decoder: Callable[[str], Any] = importlib.import_module("pydicom.pixels").get_decoder
    findings = [Finding("pydicom", "DICOM", "ok", find_version("pydicom") or "version unknown")]
    for name, uid, packages, whole in TRANSFER_SYNTAXES:
        decoder = get_decoder(uid)
        plugins = [each for each in decoder.available_plugins if not whole or each in whole]
        if plugins or (decoder.is_available and not whole):
            findings.append(Finding(name, "DICOM", "ok", ", ".join(plugins) or "stored as it is"))
        else:
            findings.append(Finding(name, "DICOM", "missing", "no decoder", f"pip install {packages}"))
    return [*findings, JPEG_12_BIT]
