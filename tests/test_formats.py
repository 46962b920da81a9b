"""The ways to store an image: each is tried, one after the other fails, and what is missing is named."""

from __future__ import annotations

import dataclasses
import importlib.machinery
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from thawline import formats
from thawline.data.readers import EXTENSIONS, decode, is_image_name
from thawline.data.slide_files import INSTALL, SUFFIXES
from thawline.errors import ImageError
from thawline.findings import Finding
from thawline.formats import ENCODINGS


def name_all(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda each: f"{each.format} {each.variety}")
def test_every_encoding_can_be_read_or_says_what_it_needs(encoding: formats.Encoding) -> None:
    problem = formats.try_encoding(encoding, formats.make_samples()[encoding.pixels])
    if problem:
        assert encoding.variety == "16-bit colour LZW"
        assert formats.explain_problem(encoding, problem).remedy == "pip install imagecodecs"


def test_every_format_that_is_read_is_tried() -> None:
    names = {"JPEG": ".jpg", "TIFF": ".tif", "NIfTI": ".nii", "MetaImage": ".mha", "NumPy": ".npy"}
    tried = {names.get(each.format, f".{each.format.lower()}") for each in ENCODINGS}
    assert tried | {".jpeg", ".tiff", ".nii.gz", ".dcm", *SUFFIXES} == set(EXTENSIONS)  # see check_dicom, check_slides
    assert all(is_image_name(Path(f"film{extension}")) for extension in tried)


def test_samples_use_all_their_bits() -> None:
    samples = formats.make_samples()
    assert {name: pixels.dtype.name for name, pixels in samples.items()} == {
        "grey": "uint8",
        "colour": "uint8",
        "wide": "uint16",
        "wide colour": "uint16",
        "float": "float32",
    }
    assert (samples["wide"] % 256 != 0).all()


@pytest.mark.parametrize(("format_", "needed"), [("PNG", True), ("JPEG", True), ("TIFF", False), ("WebP", False)])
def test_a_decoder_that_fails_is_named(format_: str, needed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(pixels: Any) -> bytes:
        raise OSError(f"encoder {format_} not available")

    broken = [dataclasses.replace(each, encode=encode) if each.format == format_ else each for each in ENCODINGS]
    monkeypatch.setattr(formats, "ENCODINGS", tuple(broken))
    found = name_all(formats.check_decoders())
    wrong = [finding for finding in found.values() if finding.status == "wrong"]
    assert format_ not in found
    assert len(wrong) == sum(each.format == format_ for each in ENCODINGS)
    assert {(finding.found, finding.needed) for finding in wrong} == {
        (f"OSError: encoder {format_} not available", needed)
    }


def test_a_decoder_that_changes_pixels_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, lossy = (next(each for each in ENCODINGS if each.exact is wanted) for wanted in (True, False))
    samples, read = formats.make_samples(), decode
    monkeypatch.setattr(formats, "decode", lambda data, reading: read(data, reading=reading) ^ np.uint8(1))
    assert formats.try_encoding(exact, samples[exact.pixels]) == "pixels differ by 1 on average"
    assert formats.try_encoding(lossy, samples[lossy.pixels]) == ""
    monkeypatch.setattr(formats, "decode", lambda data, reading: read(data, reading=reading) ^ np.uint8(64))
    assert formats.try_encoding(lossy, samples[lossy.pixels]).startswith("pixels differ by ")
    monkeypatch.setattr(formats, "decode", lambda data, reading: read(data, reading=reading)[1:])
    assert formats.try_encoding(exact, samples[exact.pixels]) == "read as uint8 (23, 32), stored as uint8 (24, 32)"


def test_without_pydicom_there_is_no_dicom_and_runs_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    finding = name_all(formats.check_dicom())["DICOM"]
    assert (finding.status, finding.needed, finding.remedy) == ("missing", False, formats.DICOM_PACKAGES)


def test_transfer_syntaxes_are_asked_of_pydicom(monkeypatch: pytest.MonkeyPatch) -> None:
    package, pixels = ModuleType("pydicom"), ModuleType("pydicom.pixels")
    package.__spec__ = importlib.machinery.ModuleSpec("pydicom", None)
    plugins = {"1.2.840.10008.1.2.4.50": ("gdcm", "pillow"), "1.2.840.10008.1.2.4.51": ("pillow",)}
    pixels.get_decoder = lambda uid: SimpleNamespace(  # type: ignore[attr-defined]
        is_available=uid in plugins or uid.startswith("1.2.840.10008.1.2.1"), available_plugins=plugins.get(uid, ())
    )
    monkeypatch.setitem(sys.modules, "pydicom", package)
    monkeypatch.setitem(sys.modules, "pydicom.pixels", pixels)
    found = name_all(formats.check_dicom())
    assert len(found) == 2 + len(formats.TRANSFER_SYNTAXES)
    assert (found["JPEG baseline"].status, found["JPEG baseline"].found) == ("ok", "gdcm, pillow")
    assert found["explicit little endian"].status == "ok"
    assert (found["JPEG extended, 8 bit"].status, found["JPEG extended, 12 bit"].status) == ("ok", "missing")
    assert "dcmdjpeg" in found["JPEG extended, 12 bit"].remedy
    assert found["HTJ2K"].remedy == "pip install pylibjpeg pylibjpeg-openjpeg"
    assert not any(finding.needed for finding in found.values())


def test_every_transfer_syntax_is_one_that_pydicom_knows() -> None:
    uids = pytest.importorskip("pydicom.uid")
    for _, uid, _, _ in formats.TRANSFER_SYNTAXES:
        assert uids.UID(uid).is_transfer_syntax
    found = name_all(formats.check_dicom())
    assert {found[name].status for name in ("RLE", "implicit little endian", "explicit big endian")} == {"ok"}


def test_slides_are_written_and_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = formats.check_slides()
    assert (found.section, found.status, found.found) == ("decoders", "ok", "openslide, tiffslide")

    def refuse(slide: object) -> None:
        raise ImageError("a whole slide, which nothing here reads")

    monkeypatch.setattr(formats, "Pyramid", refuse)
    lacking = formats.check_slides()
    assert [each.name for each in lacking] == ["slides through openslide", "slides through tiffslide"]
    assert {(each.status, each.remedy, each.needed) for each in lacking} == {("missing", INSTALL, False)}
