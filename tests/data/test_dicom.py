"""DICOM objects: stored values as an independent decoder has them, shown values as the standard says, refusals by name."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from helpers import make_dicom, save_dicom
from thawline.data import dicom
from thawline.data.readers import decode, describe
from thawline.errors import ImageError
from thawline.types import WINDOWS, Reading

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"
TELLING = "MUSTERMANN"
RAMP = np.arange(64, dtype=np.uint16).reshape(8, 8)  # what helpers.make_dicom holds
# decoders of dcmtk by transfer syntax; it has none for JPEG 2000
PEERS = {
    "1.2.840.10008.1.2": ("dcmconv", "+te"),
    "1.2.840.10008.1.2.1": ("dcmconv", "+te"),
    "1.2.840.10008.1.2.1.99": ("dcmconv", "+te"),
    "1.2.840.10008.1.2.2": ("dcmconv", "+te"),
    "1.2.840.10008.1.2.5": ("dcmdrle",),
    "1.2.840.10008.1.2.4.50": ("dcmdjpeg",),
    "1.2.840.10008.1.2.4.51": ("dcmdjpeg",),
    "1.2.840.10008.1.2.4.57": ("dcmdjpeg",),
    "1.2.840.10008.1.2.4.70": ("dcmdjpeg",),
    "1.2.840.10008.1.2.4.80": ("dcmdjpls",),
    "1.2.840.10008.1.2.4.81": ("dcmdjpls",),
}
REFUSED = {  # files with pixels that no decoder at hand reads, and what is wrong with them
    "JPEG-lossy.dcm": "12-bit",
    "JPGExtended.dcm": "12-bit",
    "JPEG2000-embedded-sequence-delimiter.dcm": "in its pixels",
    "MR_truncated.dcm": "less than expected",
    "badVR.dcm": "in its number of frames",
    "nested_priv_SQ.dcm": "Missing required element",
    "meta_missing_tsyntax.dcm": "Missing required element",
}
PEER_FAILS = {  # a premature end of stream; 32-bit values of which only halves are turned round
    "SC_rgb_jpeg.dcm",
    "rtdose_expb.dcm",
    "rtdose_expb_1frame.dcm",
}


def show(found: Dataset, frame: int = 0) -> np.ndarray:
    return dicom.show(dicom.read_object(save_dicom(found)), frame)


def list_shipped() -> list[Path]:
    return sorted(path for path in SHIPPED.rglob("*") if path.is_file() and dicom.is_dicom(path.read_bytes()))


def read_shipped(path: Path) -> Any:
    """The object of a shipped file that has pixels, or a skip."""
    try:
        return dicom.read_object(path.read_bytes())
    except ImageError as error:
        pytest.skip(f"{path.name}: {error}")


# --- stored values ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def peer() -> str:
    """Where dcmtk is, or a skip."""
    if shutil.which("dcmdump") is None:
        pytest.skip("dcmtk is not installed")
    return "dcmdump"


def decode_by_peer(path: Path, folder: Path, syntax: str) -> tuple[Any, bytes]:
    """dcmtk's header and pixel bytes of a file, uncompressed."""
    plain = folder / "plain.dcm"
    command, *flags = PEERS[syntax]
    subprocess.run([command, "-q", *flags, path, plain], check=True, capture_output=True)
    subprocess.run(["dcmdump", "-q", "+W", folder, plain], check=True, capture_output=True)
    raw = max(folder.glob("plain.dcm.*.raw"), key=lambda each: each.stat().st_size)  # overlays are others
    return pydicom.dcmread(plain, stop_before_pixels=True), raw.read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", list_shipped(), ids=lambda path: path.name)
def test_stored_values_are_those_of_another_decoder(peer: str, path: Path, tmp_path: Path) -> None:
    found = read_shipped(path)
    if path.name in REFUSED:
        pytest.skip("is refused")
    syntax = str(found.file_meta.get("TransferSyntaxUID", ExplicitVRLittleEndian))
    if syntax not in PEERS or path.name in PEER_FAILS:
        pytest.skip("dcmtk does not decode it")
    for frame in {0, dicom.count_frames(found) - 1}:
        stored = dicom.read_stored(found, frame)
        header, raw = decode_by_peer(path, tmp_path, syntax)
        for leftover in tmp_path.iterdir():
            leftover.unlink()
        if found.BitsAllocated == 1:
            expected = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")[: stored.size]
        elif header.PhotometricInterpretation == "YBR_FULL_422":
            pytest.skip("dcmtk leaves uncompressed colours as they are")
        else:
            size = stored.nbytes
            expected = np.frombuffer(raw[frame * size : (frame + 1) * size], stored.dtype.newbyteorder("<"))
        if stored.ndim == 3 and header.PlanarConfiguration == 1:
            expected = np.moveaxis(expected.reshape(3, *stored.shape[:2]), 0, 2)
        np.testing.assert_array_equal(stored, expected.reshape(stored.shape))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", list_shipped(), ids=lambda path: path.name)
def test_every_shipped_file_is_shown_or_refused_by_what_it_is(path: Path) -> None:
    try:
        found = dicom.read_object(path.read_bytes())
        shown = dicom.show(found, dicom.count_frames(found) - 1)
    except ImageError as error:
        said = str(error)
        assert REFUSED.get(path.name, "without pixels" if "without pixels" in said else "not an image") in said
        return
    assert path.name not in REFUSED
    assert shown.dtype in (np.uint8, np.uint16, np.uint32)
    assert shown.shape[:2] == (found.Rows, found.Columns)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "variant", ["RLE", "jp2klossless", "jpeg_ls_lossless", "implicit", "bigendian", "expb", "padded"]
)
def test_lossless_encodings_of_one_image_hold_the_same_values(variant: str) -> None:
    one, other = (
        dicom.read_stored(dicom.read_object((SHIPPED / f"MR_small{name}.dcm").read_bytes()))
        for name in ("", f"_{variant}")
    )
    np.testing.assert_array_equal(one, other)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("variant", ["expb", "rle"])
def test_values_of_32_bits_are_the_same_in_every_encoding(variant: str) -> None:
    one, other = (
        dicom.read_stored(dicom.read_object((SHIPPED / f"{name}.dcm").read_bytes()), 14)
        for name in ("rtdose", f"rtdose_{variant}")
    )
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("implicit", [True, False])
def test_a_data_set_without_meta_information_is_read(implicit: bool) -> None:
    found, buffer = make_dicom(), io.BytesIO()
    del found.file_meta
    found.save_as(buffer, implicit_vr=implicit, little_endian=True)
    assert dicom.is_dicom(buffer.getvalue())
    np.testing.assert_array_equal(dicom.read_stored(dicom.read_object(buffer.getvalue())), RAMP)


# --- shown values -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "path", [path for path in list_shipped() if "small" in path.name or path.parent.name[:2] in ("MR", "CT", "CR")]
)
def test_windows_are_those_of_another_display(peer: str, path: Path, tmp_path: Path) -> None:
    found = read_shipped(path)
    commands = PEERS.get(str(found.file_meta.TransferSyntaxUID), ("dcmdjpls",))
    if path.name in REFUSED or "WindowCenter" not in found or "dcmdjpls" in commands:
        pytest.skip("no window, or none that dcmj2pnm decodes")
    picture = tmp_path / "shown.pgm"
    subprocess.run(["dcmj2pnm", "-q", "+Wi", "1", "-O", "+op", path, picture], check=True, capture_output=True)
    expected = decode_pgm(picture.read_bytes())
    shown = dicom.show(found).astype(int)
    shown[dicom.find_padding(dicom.read_stored(found), found)] = 0
    outside = ~dicom.find_padding(dicom.read_stored(found), found)
    assert np.abs(shown - expected)[outside].max(initial=0) <= 1


def decode_pgm(data: bytes) -> np.ndarray:
    kind, columns, rows, top, pixels = data.split(maxsplit=3)[0], *map(int, data.split()[1:4]), data
    assert (kind, top) == (b"P5", 255)
    return np.frombuffer(pixels[-columns * rows :], np.uint8).reshape(rows, columns).astype(int)


@given(st.floats(-2000, 2000), st.floats(1, 4000), st.lists(st.floats(-3000, 3000), min_size=1, max_size=9))
def test_a_linear_window_is_the_standards_pseudo_code(centre: float, width: float, values: list[float]) -> None:
    found = dicom.Window(centre, width).apply(np.array(values))
    for value, share in zip(values, found, strict=True):
        if value <= centre - 0.5 - (width - 1) / 2:
            expected = 0.0
        elif value > centre - 0.5 + (width - 1) / 2:
            expected = 1.0
        else:
            expected = (value - (centre - 0.5)) / (width - 1) + 0.5
        assert share == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("function", "half", "more"), [("LINEAR_EXACT", 0.5, 0.75), ("SIGMOID", 0.5, 1 / (1 + np.exp(-1)))]
)
def test_other_functions_of_a_window(function: str, half: float, more: float) -> None:
    found = dicom.Window(100, 40, function).apply(np.array([100.0, 110.0, 1e6, -1e6]))
    np.testing.assert_allclose(found, [half, more, 1, 0], atol=1e-9)


def test_an_unknown_function_of_a_window_counts_as_linear() -> None:
    about = {"WindowCenter": "20", "WindowWidth": "10"}
    np.testing.assert_array_equal(show(make_dicom(VOILUTFunction="CURVED", **about)), show(make_dicom(**about)))


@pytest.mark.parametrize("width", [0, -5, float("nan"), 0.5])
def test_an_impossible_width_is_refused(width: float) -> None:
    with pytest.raises(ImageError, match="the window's width is"):
        dicom.Window(40, width).apply(np.zeros(3))


def test_rescaled_values_go_through_the_window() -> None:
    shown = show(make_dicom(RescaleSlope="2", RescaleIntercept="-10", WindowCenter="40.5", WindowWidth="41"))
    np.testing.assert_array_equal(shown, np.rint(255 * np.clip((2.0 * RAMP - 10 - 40) / 40 + 0.5, 0, 1)))


def test_the_first_of_several_windows_is_taken() -> None:
    both = show(make_dicom(WindowCenter=["20", "50"], WindowWidth=["10", "5"]))
    np.testing.assert_array_equal(both, show(make_dicom(WindowCenter="20", WindowWidth="10")))


def test_without_a_window_the_percentiles_are_black_and_white() -> None:
    values = np.random.default_rng(0).integers(0, 4000, (32, 32)).astype(np.uint16)
    shown, (low, high) = show(make_dicom(values)), np.percentile(values, dicom.PERCENTILES)
    np.testing.assert_array_equal(shown, np.rint(255 * np.clip((values - low) / (high - low), 0, 1)))


def test_monochrome1_is_the_negative() -> None:
    window = {"WindowCenter": "32", "WindowWidth": "64"}
    negative = show(make_dicom(PhotometricInterpretation="MONOCHROME1", **window))
    np.testing.assert_allclose(255 - negative.astype(int), show(make_dicom(**window)), atol=1)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("limits", [{"PixelPaddingValue": 0}, {"PixelPaddingValue": 63, "PixelPaddingRangeLimit": 60}])
def test_padding_is_black_and_does_not_count(photometric: str, limits: dict[str, int]) -> None:
    found = make_dicom(PhotometricInterpretation=photometric, **limits)
    ends = sorted((limits["PixelPaddingValue"], limits.get("PixelPaddingRangeLimit", limits["PixelPaddingValue"])))
    padded = (ends[0] <= RAMP) & (ends[1] >= RAMP)
    shown = show(found)
    assert (shown[padded] == 0).all()
    assert {shown[~padded].min(), shown[~padded].max()} >= {0, 255}


def test_signed_values_and_bits_that_are_not_stored() -> None:
    stored = (RAMP.astype(np.int16) - 32).astype(np.int16)
    found = make_dicom(stored, WindowCenter="0.5", WindowWidth="65")
    np.testing.assert_array_equal(show(found), np.rint(255 * np.clip(stored / 64 + 0.5, 0, 1)))
    dirty = (RAMP | 0xF000).astype(np.uint16)  # an overlay in the bits above, as old scanners wrote
    np.testing.assert_array_equal(
        dicom.read_stored(dicom.read_object(save_dicom(make_dicom(dirty, BitsStored=12, HighBit=11)))), RAMP
    )


def test_a_lookup_table_goes_before_the_window() -> None:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [64, 0, 16], [int(value) for value in np.linspace(0, 65535, 64)[::-1]]
    table["LUTDescriptor"].VR = "US"
    table["LUTData"].VR = "US"
    shown = show(make_dicom(VOILUTSequence=Sequence([table]), WindowCenter="1", WindowWidth="1"))
    np.testing.assert_allclose(shown.ravel(), 255 * np.linspace(1, 0, 64), atol=0.51)


def test_an_enhanced_object_has_values_for_each_frame() -> None:
    def make_group(slope: str, centre: str) -> Dataset:
        group, values, window = Dataset(), Dataset(), Dataset()
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = slope, "0", "HU"
        window.WindowCenter, window.WindowWidth = centre, "65"
        group.PixelValueTransformationSequence, group.FrameVOILUTSequence = Sequence([values]), Sequence([window])
        return group

    groups = Sequence([make_group("1", "32.5"), make_group("10", "320.5")])
    found = make_dicom(
        np.stack([RAMP, RAMP]).reshape(16, 8), Rows=8, NumberOfFrames="2", PerFrameFunctionalGroupsSequence=groups
    )
    first, second = show(found, 0), show(found, 1)
    np.testing.assert_array_equal(first, np.rint(255 * np.clip((RAMP - 32.0) / 64 + 0.5, 0, 1)))
    np.testing.assert_array_equal(second, np.rint(255 * np.clip((10.0 * RAMP - 320) / 64 + 0.5, 0, 1)))


def test_colour_stays_as_it_is_and_a_palette_is_looked_up() -> None:
    colour = np.random.default_rng(1).integers(0, 256, (9, 10, 3)).astype(np.uint8)
    np.testing.assert_array_equal(show(make_dicom(colour)), colour)
    shown = dicom.show(dicom.read_object((SHIPPED / "examples_palette.dcm").read_bytes()))
    assert (shown.dtype, shown.shape) == (np.uint8, (350, 800, 3))
    assert shown.max() > 200


# --- windows and frames that are asked for ----------------------------------------------------------------------------


def make_ct(**tags: Any) -> Any:
    """Values from -1000 to 2000 Hounsfield units."""
    stored = np.linspace(0, 3000, 64).reshape(8, 8).astype(np.uint16)
    return make_dicom(stored, Modality="CT", RescaleSlope="1", RescaleIntercept="-1000", **tags)


@pytest.mark.parametrize("name", list(WINDOWS))
def test_a_named_window_is_in_hounsfield_units(name: str) -> None:
    found = dicom.read_object(save_dicom(make_ct(WindowCenter="1", WindowWidth="2")))
    values = dicom.read_stored(found) - 1000.0
    centre, width = WINDOWS[name]
    expected = np.rint(255 * dicom.Window(centre, width).apply(values))
    np.testing.assert_array_equal(dicom.show(found, 0, (name,)), expected)


def test_three_windows_become_channels() -> None:
    found = dicom.read_object(save_dicom(make_ct()))
    names = ("lung", "soft_tissue", "700/1000")
    shown = dicom.show(found, 0, names)
    assert shown.shape == (8, 8, 3)
    for channel, name in enumerate(names):
        np.testing.assert_array_equal(shown[..., channel], dicom.show(found, 0, (name,)))


def test_hounsfield_units_are_for_ct_only() -> None:
    found = dicom.read_object(save_dicom(make_dicom(Modality="MR")))
    with pytest.raises(
        ImageError, match="the window lung is in Hounsfield units, which only CT has; found the modality MR"
    ):
        dicom.show(found, 0, ("lung",))
    assert dicom.show(found, 0, ("32/64",)).max() > 200


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_mammogram_is_stretched_over_the_breast_alone(photometric: str) -> None:
    stored = np.zeros((32, 32), np.uint16)
    stored[:, 16:] = np.linspace(2000, 3000, 512).reshape(32, 16)
    if photometric == "MONOCHROME1":
        stored = 4095 - stored
    found = dicom.read_object(save_dicom(make_dicom(stored, Modality="MG", PhotometricInterpretation=photometric)))
    plain, shown = dicom.show(found).astype(int), dicom.show(found, 0, ("mammography",)).astype(int)
    assert (shown[:, :16] == 0).all()
    assert np.ptp(shown[:, 16:]) >= 250
    assert np.ptp(plain[:, 16:]) < 120


@pytest.mark.parametrize(("wanted", "index"), [("first", 0), ("middle", 1), ("last", 2), ("1", 0), ("3", 2)])
def test_a_frame_is_taken_by_word_or_number(wanted: str, index: int) -> None:
    frames = [np.roll(RAMP, number) for number in range(3)]
    window = {"WindowCenter": "32", "WindowWidth": "64"}
    data = save_dicom(make_dicom(np.concatenate(frames), Rows=8, NumberOfFrames="3", **window))
    found = decode(data, reading=Reading(frame=wanted))
    np.testing.assert_array_equal(found, decode(save_dicom(make_dicom(frames[index], **window))))


def test_a_frame_that_is_not_there_is_refused() -> None:
    with pytest.raises(ImageError, match="slice or frame 4 was asked for, and there are 1"):
        decode(save_dicom(make_dicom()), reading=Reading(frame="4"))


# --- as an image of a data set ----------------------------------------------------------------------------------------


def test_the_reader_takes_it_for_an_image() -> None:
    facts = describe(save_dicom(make_dicom()))
    assert (facts.format, facts.width_px, facts.height_px, facts.channels, facts.bits) == ("DICOM", 8, 8, 1, 8)
    np.testing.assert_array_equal(decode(save_dicom(make_dicom())), show(make_dicom()))


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"Rows": 4}, "too small"),
        ({"Rows": 60000, "Columns": 60000}, "the header says 60000 x 60000"),
        (
            {"NumberOfFrames": "7"},
            "holds 7 slices or frames, and one image is expected; choose one with --frame middle",
        ),
        ({"Modality": "SEG"}, "a DICOM object of modality SEG, a segmentation, not an image"),
        ({"PhotometricInterpretation": TELLING}, "in its pixels|expected grey, palette or colour"),
        (
            {"Modality": TELLING},
            "the window lung is in Hounsfield units, which only CT has; found the modality unknown",
        ),
        ({"PixelData": b"\0" * 20}, "in its pixels: The number of bytes of pixel data is less than expected"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_read_says_why_and_no_value_of_the_file(tags: dict[str, Any], said: str) -> None:
    with pytest.raises(ImageError, match=said) as caught:
        decode(save_dicom(make_dicom(**tags)), reading=Reading(("lung",) if tags.get("Modality") == TELLING else ()))
    assert not [word for word in ("17", TELLING) if word in str(caught.value)]


def test_an_object_without_an_image_is_named() -> None:
    found = make_dicom()
    del found.PixelData
    with pytest.raises(ImageError, match=r"without pixels \(Secondary Capture Image Storage\); expected an image"):
        decode(save_dicom(found))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_is_refused_or_read_but_never_ours(data: st.DataObject) -> None:
    whole = bytearray(save_dicom(make_dicom(WindowCenter="20", WindowWidth="10")))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = str(decode(bytes(whole[: data.draw(st.integers(1, len(whole)))])).ndim)
    except ImageError as error:
        found = str(error)
    assert TELLING not in found


def test_a_class_of_objects_that_no_standard_names_is_not_repeated() -> None:
    image = make_dicom(SOPClassUID="1.2.3.19641231")
    del image.PixelData
    with pytest.raises(ImageError, match=r"without pixels \(unknown\)"):
        decode(save_dicom(image))
    image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    with pytest.raises(ImageError, match=r"without pixels \(Basic Text SR Storage\)"):
        decode(save_dicom(image))


# --- pixels that are not square ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "shape"),
    [
        ({"PixelSpacing": [0.5, 0.5]}, (8, 8)),
        ({"PixelSpacing": [1.0, 0.5]}, (16, 8)),
        ({"PixelSpacing": [0.5, 0.75]}, (8, 12)),
        ({"PixelSpacing": [0.5, 0.504]}, (8, 8)),
        ({"ImagerPixelSpacing": [0.2, 0.1]}, (16, 8)),
        ({"PixelAspectRatio": ["4", "3"]}, (11, 8)),
        ({"PixelSpacing": [0.5, 0.5], "PixelAspectRatio": ["4", "3"]}, (8, 8)),
        ({"PixelSpacing": [0, 0]}, (8, 8)),
    ],
)
def test_pixels_become_square(tags: dict[str, Any], shape: tuple[int, int]) -> None:
    shown = decode(save_dicom(make_dicom(np.repeat(RAMP[:, :1], 8, axis=1), **tags)))
    assert shown.shape == shape
    assert (np.diff(shown.astype(int), axis=0) >= 0).all()
    assert shown.min() == 0
    assert shown.max() == 255


def test_colour_and_measures_of_frames_become_square() -> None:
    colour = np.tile(RAMP.astype(np.uint8)[..., None], 3)
    assert decode(save_dicom(make_dicom(colour, PixelAspectRatio=["2", "1"]))).shape == (16, 8, 3)
    found, group, measures = make_dicom(), Dataset(), Dataset()
    measures.PixelSpacing = [0.5, 1.0]
    group.PixelMeasuresSequence = Sequence([measures])
    found.SharedFunctionalGroupsSequence = Sequence([group])
    assert decode(save_dicom(found)).shape == (8, 16)


@pytest.mark.parametrize("spacing", [[30, 1], [1, 30]])
def test_pixels_that_no_scanner_has_are_refused(spacing: list[int]) -> None:
    with pytest.raises(ImageError, match="PixelSpacing says that pixels are"):
        decode(save_dicom(make_dicom(PixelSpacing=spacing)))


def test_square_pixels_are_those_of_dcmtk(peer: str, tmp_path: Path) -> None:
    """Its display makes pixels square too, by another interpolation: sizes are equal, values near."""
    rows, columns = np.mgrid[:40, :60]
    stored = (2000 * (1 + np.sin(rows / 6) * np.cos(columns / 9))).astype(np.uint16)
    found = make_dicom(stored, PixelSpacing=[0.75, 0.5], WindowCenter="2000", WindowWidth="4000")
    (tmp_path / "film.dcm").write_bytes(save_dicom(found))
    command = ["dcmj2pnm", "-q", "+Sxv", "60", "+Wi", "1", "+op", "film.dcm", "film.pgm"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    expected = decode_pgm((tmp_path / "film.pgm").read_bytes())
    shown = decode(save_dicom(found)).astype(int)
    assert shown.shape == expected.shape == (60, 60)
    assert np.abs(shown - expected).mean() < 3


# --- patients ---------------------------------------------------------------------------------------------------------


def test_the_patient_is_read_from_the_header_alone(tmp_path: Path) -> None:
    path = tmp_path / "film"
    path.write_bytes(save_dicom(make_dicom(IssuerOfPatientID="Ward 3")))
    assert dicom.read_patient(path) == ("17", "Ward 3")
    path.write_bytes(b"\x89PNG, not DICOM")
    assert dicom.read_patient(path) == ("", "")
    assert dicom.read_patient(tmp_path / "none") == ("", "")


# --- JPEG 2000, which dcmtk has no decoder for ------------------------------------------------------------------------

LOSSY_LEVELS = {"JPEG2000.dcm": 1}  # two decoders of lossy wavelets may round apart
J2K_FILES = (
    *("693_J2KI.dcm", "GDCMJ2K_TextGBR.dcm", "J2K_pixelrep_mismatch.dcm", "JPEG2000.dcm"),
    *("MR_small_jp2klossless.dcm", "SC_rgb_gdcm_KY.dcm", "examples_jpeg2k.dcm"),
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", J2K_FILES)
def test_stored_values_of_jpeg_2000_are_those_of_ffmpeg(name: str, tmp_path: Path) -> None:
    """Its decoder shares no code with OpenJPEG, which both plug-ins have."""
    from pydicom.encaps import generate_frames

    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    found = read_shipped(next(path for path in list_shipped() if path.name == name))
    (tmp_path / "frame.j2k").write_bytes(next(generate_frames(found.PixelData, number_of_frames=1)))
    stored = dicom.read_stored(found)
    command = ["ffmpeg", "-v", "quiet", "-i", tmp_path / "frame.j2k", "-f", "rawvideo"]
    kind, flag = ("u1", "rgb24") if stored.ndim == 3 else ("<u2", "gray16le")
    raw = subprocess.run([*command, "-pix_fmt", flag, "-"], check=False, capture_output=True).stdout
    decoded = np.frombuffer(raw, kind)[: stored.size].reshape(stored.shape).astype(np.int64)
    if name == "J2K_pixelrep_mismatch.dcm":  # the stream says 13 bits without a sign, the header with one
        decoded = decoded >> 3
        decoded = np.where(decoded >= 2**12, decoded - 2**13, decoded)
    elif stored.dtype.kind == "i":
        decoded = decoded - 2**15
    assert np.abs(decoded - stored).max() <= LOSSY_LEVELS.get(name, 0)
