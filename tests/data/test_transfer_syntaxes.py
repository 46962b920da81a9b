"""Transfer syntaxes of which pydicom ships no file: made here by another encoder, their pixels held against its own decoder.

HTJ2K is encoded by OpenJPH and read through OpenJPEG, lossless JPEG encoded by liblj92 and read through gdcm.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate

from helpers import make_dicom, save_dicom
from thawline.data import dicom

PREFIX = "1.2.840.10008.1.2.4."
SIDES = (60, 50)
ROUNDED_LEVELS = 2  # by which two decoders of irreversible wavelets round apart, of 16 bits


def draw(bits: int, channels: int = 0) -> np.ndarray:
    """Waves with noise on them over most of the range of so many bits."""
    rows, columns = np.indices(SIDES)
    noise = np.random.default_rng(0).random((*SIDES, max(1, channels)))
    waves = [(np.sin(columns / 9 + channel) * np.cos(rows / 7) + 1) / 2 for channel in range(max(1, channels))]
    values = (0.9 * np.stack(waves, axis=2) + 0.1 * noise) * (2**bits - 1)
    return values[..., : channels or 1].astype(np.uint8 if bits <= 8 else np.uint16).squeeze()


def wrap(stream: bytes, pixels: np.ndarray, bits: int, syntax: str, photometric: str = "") -> bytes:
    """A DICOM file of one encoded frame."""
    found = make_dicom(pixels, BitsStored=bits, HighBit=bits - 1, PixelData=encapsulate([bytes(stream)]))
    if photometric:
        found.PhotometricInterpretation = photometric
    found.file_meta.TransferSyntaxUID = PREFIX + syntax
    found["PixelData"].VR, found["PixelData"].is_undefined_length = "OB", True
    return save_dicom(found)


def read(data: bytes) -> np.ndarray:
    return dicom.read_stored(dicom.read_object(data))


@pytest.mark.parametrize("syntax", ["201", "202"])
@pytest.mark.parametrize(("bits", "channels"), [(8, 0), (12, 0), (16, 0), (8, 3)])
def test_lossless_htj2k_gives_back_what_was_encoded(syntax: str, bits: int, channels: int) -> None:
    pixels = draw(bits, channels)
    stream = imagecodecs.htj2k_encode(pixels, reversible=True, tlm=syntax == "202")  # its order is RPCL in any case
    np.testing.assert_array_equal(read(wrap(stream, pixels, bits, syntax, "YBR_RCT" if channels else "")), pixels)
    np.testing.assert_array_equal(imagecodecs.htj2k_decode(stream), pixels)


@pytest.mark.parametrize("coarseness", [0.001, 0.01])
@pytest.mark.parametrize(("bits", "channels"), [(8, 0), (16, 0), (8, 3)])
def test_lossy_htj2k_is_what_another_decoder_makes_of_it(coarseness: float, bits: int, channels: int) -> None:
    pixels = draw(bits, channels)
    stream = imagecodecs.htj2k_encode(pixels, coarseness, reversible=False)
    expected = imagecodecs.htj2k_decode(stream).astype(int)
    found = read(wrap(stream, pixels, bits, "203", "YBR_ICT" if channels else "")).astype(int)
    assert np.abs(found - expected).max() <= (ROUNDED_LEVELS if bits > 8 else 1)
    assert np.abs(found - pixels).mean() <= 2 * coarseness * 2**bits


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_lossless_jpeg_of_any_predictor_gives_back_what_was_encoded(bits: int) -> None:
    pixels = draw(bits)
    stream = bytes(imagecodecs.ljpeg_encode(pixels, bitspersample=bits))
    scan = stream.index(b"\xff\xda")
    n_components = stream[scan + 4]
    assert stream[scan + 5 + 2 * n_components] != 1  # else it were the other syntax, selection value 1
    np.testing.assert_array_equal(read(wrap(stream, pixels, bits, "57")), pixels)
    np.testing.assert_array_equal(imagecodecs.ljpeg_decode(stream), pixels)


def encode_extended(pixels: np.ndarray) -> bytes:
    """JPEG of 8 bits, said to be extended sequential, of which baseline is a part."""
    stream = bytes(imagecodecs.jpeg8_encode(pixels, 90))
    assert stream.count(b"\xff\xc0") == 1
    return stream.replace(b"\xff\xc0", b"\xff\xc1")


@pytest.mark.parametrize("channels", [0, 3])
def test_extended_jpeg_of_8_bits_is_what_another_decoder_makes_of_it(channels: int) -> None:
    pixels = draw(8, channels)
    stream = encode_extended(pixels)
    found = read(wrap(stream, pixels, 8, "51", "YBR_FULL_422" if channels else "")).astype(int)
    assert np.abs(found - imagecodecs.jpeg8_decode(stream)).max() <= 1
    assert np.abs(found - pixels).mean() <= (8 if channels else 5)  # colours are halved, and noise is not smooth


@pytest.mark.parametrize(
    ("syntax", "encode", "bits"),
    [("57", imagecodecs.ljpeg_encode, 8), ("57", imagecodecs.ljpeg_encode, 16), ("51", encode_extended, 8)],
)
def test_dcmtk_reads_the_same(syntax: str, encode: Callable[[Any], bytes], bits: int, tmp_path: Path) -> None:
    if shutil.which("dcmdjpeg") is None:
        pytest.skip("dcmtk is not installed")
    pixels = draw(bits)
    data = wrap(encode(pixels), pixels, bits, syntax)
    (tmp_path / "encoded.dcm").write_bytes(data)
    subprocess.run(["dcmdjpeg", "-q", "encoded.dcm", "plain.dcm"], cwd=tmp_path, check=True, capture_output=True)
    expected = pydicom.dcmread(tmp_path / "plain.dcm").pixel_array.astype(int)
    assert np.abs(read(data).astype(int) - expected).max() <= (1 if syntax == "51" else 0)
