"""Volumes: however a file lays its axes out, the same slice is shown, and two libraries read the same values."""

from __future__ import annotations

import gzip
import io
import itertools
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own convention
from hypothesis import given, settings
from hypothesis import strategies as st

from thawline.data.readers import decode, describe, is_image_name, may_be_dicom
from thawline.data.volumes import EXTENSIONS, name_format, read_volume
from thawline.errors import ImageError
from thawline.types import Reading

SHAPE = (12, 15, 9)  # left to right, back to front, foot to head
SPACING = (1.0, 2.0, 3.0)
TELLING = "MUSTERMANN"


def make_values(shape: tuple[int, ...] = SHAPE, dtype: Any = np.int16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2000, shape).astype(dtype)


def save_nifti(
    values: np.ndarray, axes: str = "RAS", *, packed: bool = False, spacing: Any = SPACING, **tags: Any
) -> bytes:
    """The bytes of a file whose axes run to these ends; ``values`` and ``spacing`` are given in canonical axes."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-40, 20, 7)
    image = nibabel.Nifti1Image(values, affine)
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.io_orientation(affine), nibabel.orientations.axcodes2ornt(tuple(axes))
    )
    image = image.as_reoriented(turn)
    for name, value in tags.items():
        image.header[name] = value
    data: bytes = image.to_bytes()
    return gzip.compress(data, 1) if packed else data


def save_by_itk(values: np.ndarray, path: Path, axes: str = "RAS", *, compress: bool = False) -> bytes:
    image = sitk.GetImageFromArray(values.T)
    image.SetSpacing(SPACING)
    image.SetDirection(sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation("RAS"))
    sitk.WriteImage(sitk.DICOMOrient(image, axes), str(path), useCompression=compress)
    return path.read_bytes()


ALL_AXES = ["".join(ends) for order in itertools.permutations(("LR", "AP", "SI")) for ends in itertools.product(*order)]


@pytest.mark.parametrize("axes", ALL_AXES)
@pytest.mark.parametrize("name", ["volume.nii", "volume.nii.gz", "volume.nrrd", "volume.mha"])
def test_any_layout_of_axes_is_one_volume(axes: str, name: str, tmp_path: Path) -> None:
    values = make_values()
    data = (
        save_nifti(values, axes, packed=name.endswith("gz"))
        if ".nii" in name
        else save_by_itk(values, tmp_path / name, axes, compress=axes[0] in "LAS")
    )
    volume = read_volume(data)
    np.testing.assert_array_equal(volume.values, values)
    assert volume.spacing_mm == pytest.approx(SPACING)


def test_a_slice_is_shown_as_radiologists_look_at_it() -> None:
    """The patient's right on the left, front on top; in sagittal slices the front on the left, the head on top."""
    values = np.zeros(SHAPE, np.int16)
    values[-1, 0, 0] = 1000  # right, back, foot
    values[0, -1, -1] = 500  # left, front, head
    data = save_nifti(values, "PIR", spacing=(1, 1, 1))

    def show(plane: str, frame: str) -> np.ndarray:
        return decode(data, reading=Reading(("500/1000",), frame, plane))

    assert show("axial", "first").shape == (15, 12)
    assert show("axial", "first")[-1, 0] == 255  # back and right of the lowest slice
    assert show("axial", "last")[0, -1] == 128
    assert show("coronal", "first")[-1, 0] == 255
    assert show("coronal", "last")[0, -1] == 128
    assert show("sagittal", "last")[-1, -1] == 255
    assert show("sagittal", "first")[0, 0] == 128


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(ALL_AXES),
    st.sampled_from(["axial", "coronal", "sagittal"]),
    st.sampled_from(["first", "middle", "last", "2"]),
    st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64]),
)
def test_what_is_shown_does_not_depend_on_how_it_is_stored(axes: str, plane: str, frame: str, dtype: Any) -> None:
    values = make_values(dtype=np.uint8)
    reading = Reading((), frame, plane)
    shown = decode(save_nifti(values.astype(dtype), axes), reading=reading)
    np.testing.assert_array_equal(shown, decode(save_nifti(values), reading=reading))


def test_pixels_are_square_and_spacing_may_be_made_one() -> None:
    values = make_values()
    data = save_nifti(values)
    assert decode(data, reading=Reading((), "middle")).shape == (30, 12)
    assert decode(data, reading=Reading((), "middle", "coronal")).shape == (27, 12)
    volume = read_volume(data, isotropic=True)
    assert volume.values.shape == (12, 30, 27)
    assert volume.spacing_mm == (1.0, 1.0, 1.0)
    assert decode(data, reading=Reading((), "27", "axial", isotropic=True)).shape == (30, 12)


def test_resampling_is_that_of_simple_itk() -> None:
    ramp = np.add.outer(np.add.outer(np.arange(12) * 1.0, np.arange(15) * 2.0), np.arange(9) * 3.0).astype(np.float32)
    found = read_volume(save_nifti(ramp), isotropic=True).values
    image = sitk.GetImageFromArray(ramp.T)
    image.SetSpacing(SPACING)
    grid = sitk.Image([12, 30, 27], sitk.sitkFloat32)
    grid.SetOrigin((0.0, -0.5, -1.0))  # edges of the two grids coincide
    expected = sitk.GetArrayFromImage(sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear)).T
    inner = (slice(None), slice(2, -2), slice(3, -3))
    np.testing.assert_allclose(found[inner], expected[inner], atol=1e-3)


def test_values_are_scaled_as_the_header_says() -> None:
    image = nibabel.Nifti1Image(make_values(), np.eye(4))
    image.header.set_slope_inter(0.5, -1000)
    stored = io.BytesIO()
    image.file_map["image"].fileobj = stored
    image.to_file_map()
    volume = read_volume(stored.getvalue())
    np.testing.assert_array_equal(volume.values, make_values() * 0.5 - 1000)
    assert volume.values.dtype == np.float64


def test_windows_of_units_and_several_as_channels() -> None:
    values = np.linspace(-1200, 1200, np.prod(SHAPE)).reshape(SHAPE).astype(np.int16)
    data = save_nifti(values, spacing=(1, 1, 1))
    lung = decode(data, reading=Reading(("lung",), "first")).astype(float)
    expected = np.clip((values[::-1, ::-1, 0].T - (-600 - 0.5)) / 1499 + 0.5, 0, 1) * 255
    np.testing.assert_allclose(lung, expected, atol=1)
    assert decode(data, reading=Reading(("lung", "bone", "0/2400"), "middle")).shape == (15, 12, 3)
    for name in ("suv", "mammography"):
        with pytest.raises(ImageError, match=f"the window {name} is one of DICOM images"):
            decode(data, reading=Reading((name,), "first"))


def test_what_is_no_number_is_black() -> None:
    values = make_values(dtype=np.float32)
    values[3, 4, 5] = np.nan
    shown = decode(save_nifti(values, spacing=(1, 1, 1)), reading=Reading((), "6"))
    assert shown[15 - 1 - 4, 12 - 1 - 3] == 0
    with pytest.raises(ImageError, match="no image content"):
        decode(save_nifti(np.full(SHAPE, np.nan, np.float32)), reading=Reading((), "first"))


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_volume_needs_a_slice_to_be_chosen() -> None:
    with pytest.raises(
        ImageError, match=r"the NIfTI object holds 9 slices or frames, .* choose one with --frame middle"
    ):
        decode(save_nifti(make_values()))
    with pytest.raises(ImageError, match="frame 10 was asked for, and"):
        decode(save_nifti(make_values()), reading=Reading((), "10"))
    assert decode(save_nifti(make_values((12, 15, 1)))).shape == (30, 12)


@pytest.mark.parametrize("shape", [(9, 9, 9, 4), (9, 9), (9, 9, 9, 1, 3)])
def test_other_than_three_dimensions_are_refused(shape: tuple[int, ...]) -> None:
    data = nibabel.Nifti1Image(make_values(shape), np.eye(4)).to_bytes()
    with pytest.raises(ImageError, match=f"{len(shape)} dimensions, .*; expected a volume of three"):
        decode(data, reading=Reading((), "first"))
    one = nibabel.Nifti1Image(make_values((9, 9, 9, 1)), np.eye(4)).to_bytes()
    assert read_volume(one).values.shape == (9, 9, 9)


def test_four_dimensions_and_vectors_of_itk_are_refused(tmp_path: Path) -> None:
    for name in ("volume.nrrd", "volume.mha"):
        sitk.WriteImage(sitk.GetImageFromArray(make_values((4, 9, 9, 9)), isVector=False), str(tmp_path / name))
        with pytest.raises(ImageError, match="4 dimensions"):
            read_volume((tmp_path / name).read_bytes())
        sitk.WriteImage(sitk.GetImageFromArray(make_values((9, 9, 9, 3)), isVector=True), str(tmp_path / name))
        with pytest.raises(ImageError, match="3 numbers a voxel"):
            read_volume((tmp_path / name).read_bytes())


def test_colours_and_complex_numbers_are_refused() -> None:
    colours = np.zeros((9, 9, 9), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    for values in (colours, np.ones((9, 9, 9), np.complex64)):
        with pytest.raises(ImageError, match="expected one number a voxel"):
            read_volume(nibabel.Nifti1Image(values, np.eye(4)).to_bytes())


def test_a_size_that_no_memory_holds_is_refused_before_it_is_read() -> None:
    data = bytearray(save_nifti(make_values()))
    data[40:56] = np.array([3, 30000, 30000, 30000, 1, 1, 1, 1], np.int16).tobytes()
    for each in (bytes(data), gzip.compress(bytes(data))):
        with pytest.raises(ImageError, match="the header says 30000 x 30000 x 30000 voxels"):
            read_volume(each)


def test_no_more_is_unpacked_than_the_header_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Watched(gzip.GzipFile):
        def read(self, size: int | None = -1) -> bytes:
            asked.append(size or -1)
            return super().read(size)

    data = save_nifti(make_values())
    packed = gzip.compress(data + bytes(10_000_000))
    monkeypatch.setattr("thawline.data.volumes.gzip.GzipFile", Watched)
    np.testing.assert_array_equal(read_volume(packed).values, make_values())
    assert asked == [len(data)]


@pytest.mark.parametrize("name", ["volume.mhd", "volume.nhdr"])
def test_values_in_another_file_are_refused(name: str, tmp_path: Path) -> None:
    """Nor does anybody else's file come in by such a name."""
    data = save_by_itk(make_values(), tmp_path / name)
    with pytest.raises(ImageError, match="whose values lie in another file; save both as one file"):
        read_volume(data)


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_damage_is_refused_or_read_but_never_ours(data: st.DataObject) -> None:
    whole = bytearray(save_nifti(make_values((8, 8, 3)), descrip=TELLING, packed=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, min(400, len(whole) - 1)))] = data.draw(st.integers(0, 255))
    try:
        found = str(decode(bytes(whole[: data.draw(st.integers(1, len(whole)))]), reading=Reading((), "first")).ndim)
    except ImageError as error:
        found = str(error)
    assert TELLING not in found


@pytest.mark.parametrize("name", ["volume.nrrd", "volume.mha"])
def test_cut_off_files_of_itk_are_refused(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = save_by_itk(make_values(), tmp_path / name)
    for length in (20, 200, len(data) // 2):
        with pytest.raises(ImageError, match=r"damaged, cut off or unsupported|no NIfTI"):
            read_volume(data[:length])
    assert not capfd.readouterr().out


# --- names and real files ---------------------------------------------------------------------------------------------


def test_their_names_are_images_and_no_dicom(tmp_path: Path) -> None:
    for extension in EXTENSIONS:
        assert is_image_name(tmp_path / f"case 1.T1{extension.upper()}")
        assert not may_be_dicom(tmp_path / f"case{extension}")
    assert not is_image_name(tmp_path / "archive.gz")
    assert name_format(gzip.compress(b"no volume" * 100)) is None
    assert name_format(b"\x1f\x8b damaged") is None
    facts = describe(save_nifti(make_values(), spacing=(1, 1, 1)), Reading((), "middle"))
    assert (facts.format, facts.width_px, facts.height_px, facts.bits) == ("NIfTI", 12, 15, 8)


@pytest.mark.realdata
def test_real_files_are_those_of_another_library(shared_data: Path) -> None:
    paths = sorted((shared_data / "nifti").glob("*.nii.gz"))
    assert len(paths) == 40
    for path in paths:
        volume = read_volume(path.read_bytes())
        image = sitk.DICOMOrient(sitk.ReadImage(str(path)), "RAS")
        np.testing.assert_array_equal(volume.values, sitk.GetArrayFromImage(image).T)
        assert volume.spacing_mm == pytest.approx(image.GetSpacing(), rel=1e-5)
        assert decode(path.read_bytes(), reading=Reading((), "middle")).ndim == 2
