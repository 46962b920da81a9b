"""What headers say of how an image came to be, and what damaged ones do not."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers import make_dicom
from thawline.audit import traits
from thawline.data.dicom_series import DicomSeries
from thawline.data.slide_phantoms import write_large_slide
from thawline.types import Slide

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 40)).astype(np.uint8)


class Held:
    """Bytes where a file would be."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def read(self) -> Any:
        return self.data


def read_traits(data: Any) -> Any:
    return traits.read_traits(Held(data))


def encode(kind: str, mode: str = "L", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def test_mode_and_coarseness_of_files() -> None:
    fine, coarse = (read_traits(encode("JPEG", quality=quality)) for quality in (95, 40))
    assert fine["coarseness"] < coarse["coarseness"]
    assert read_traits(encode("PNG", "RGB"))["mode"] == "RGB"
    assert read_traits(encode("TIFF", compression="tiff_lzw"))["compression"] == "tiff_lzw"


def test_maker_and_software_of_exif() -> None:
    exif = Image.Exif()
    exif[271], exif[305] = "A maker", "Viewer 2"
    found = read_traits(encode("JPEG", exif=exif))
    assert (found["maker"], found["software"]) == ("A maker", "Viewer 2")
    assert "model" not in found


def test_devices_of_dicom_objects_and_no_patient(tmp_path: Path) -> None:
    given = make_dicom(Manufacturer="A maker", StationName="CT2", SoftwareVersions=["1", "2"], InstitutionName="")
    stream = io.BytesIO()
    given.save_as(stream, enforce_file_format=True)
    found = read_traits(stream.getvalue())
    assert (found["maker"], found["station"]) == ("A maker", "CT2")
    assert found["modality"] == "OT"
    assert "institution" not in found
    assert found["compression"] == "1.2.840.10008.1.2.1"
    assert not any("MUSTERMANN" in str(value) or value == "17" for value in found.values())
    assert read_traits((stream.getvalue(), b"")) == found
    path = tmp_path / "one.dcm"
    path.write_bytes(stream.getvalue())
    assert traits.read_traits(path) == traits.read_traits(DicomSeries((path, tmp_path / "gone.dcm"))) == found
    assert traits.read_traits(tmp_path / "gone.dcm") == {}


def test_origins_of_dicom_objects_and_of_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "one.dcm"
    make_dicom(Modality="MR", StationName="MR1").save_as(path, enforce_file_format=True)
    items = [path, DicomSeries((path,)), PIXELS, tmp_path / "gone.dcm", Held(encode("PNG"))]
    one, none = {"modality": "MR", "institution": "", "station": "MR1"}, dict.fromkeys(traits.ORIGIN, "")
    assert traits.list_origins(items, 2) == [one, one, none, none, none]


def test_an_empty_tag_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "one.dcm"
    make_dicom(StationName=None, InstitutionName="").save_as(path, enforce_file_format=True)
    (found,) = traits.list_tags([path], ["StationName", "InstitutionName", "Modality"], 1)
    assert found == {"StationName": "", "InstitutionName": "", "Modality": "OT"}
    assert traits.read_traits(path).keys() == {"bytes", "modality", "compression"}


def test_arrays_say_nothing() -> None:
    assert traits.read_traits(PIXELS) == {}
    assert read_traits(()) == {}


@given(st.binary(max_size=300))
def test_whatever_the_bytes_are_nothing_is_raised(data: bytes) -> None:
    assert read_traits(data)["bytes"] == len(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "DICOM"])
@given(data=st.data())
def test_damaged_headers_are_no_error(kind: str, data: st.DataObject) -> None:
    if kind == "DICOM":
        stream = io.BytesIO()
        make_dicom(Manufacturer="A maker").save_as(stream, enforce_file_format=True)
        whole = bytearray(stream.getvalue())
    else:
        whole = bytearray(encode(kind))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    assert read_traits(cut)["bytes"] == len(cut)


def test_an_element_of_a_wrong_length_is_no_error() -> None:
    """What pydicom raises for it is no ValueError, and once went through."""
    stream = io.BytesIO()
    make_dicom(Manufacturer="A maker").save_as(stream, enforce_file_format=True)
    whole = bytearray(stream.getvalue())
    assert whole[132:140] == b"\x02\x00\x00\x00UL\x04\x00"
    whole[138] = 1
    assert read_traits(bytes(whole))["bytes"] == len(whole)


def test_a_slide_larger_than_any_image_has_traits(tmp_path: Path) -> None:
    path = write_large_slide(tmp_path / "large.svs", 16_384)
    assert traits.read_traits(path) == {"bytes": float(path.stat().st_size)}
    assert traits.read_traits(Slide((path,))) == traits.read_traits(path)
