"""DICOM series as volumes: SimpleITK reads the same files, and a NIfTI of the same array is shown alike."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own convention
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from helpers import make_dicom, save_dicom
from thawline.data.dataset import load_dataset
from thawline.data.dicom import read_object
from thawline.data.dicom_index import gather_files, read_headers
from thawline.data.dicom_series import DicomSeries, read_series
from thawline.data.readers import content_digest, decode, decode_bag, describe, read_content
from thawline.data.volumes import Volume
from thawline.errors import ImageError
from thawline.types import BAG, PLANES, Reading

N_SLICES, ROWS, COLUMNS = 9, 12, 10
ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "axial, turned": (0, 1, 0, -1, 0, 0),
    "axial, from the other side": (-1, 0, 0, 0, 1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique": (0.9848, 0.1736, 0, -0.1736, 0.9848, 0),
}


@pytest.fixture(autouse=True)
def own_secret(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAWLINE_DATA", str(tmp_path_factory.mktemp("site")))


def make_values(seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 4000, (N_SLICES, ROWS, COLUMNS)).astype(np.uint16)


def make_series(
    values: Any, orientation: Any = ORIENTATIONS["axial"], *, spacing: float = 2.5, **tags: Any
) -> list[Any]:
    """Objects of a series, slice after slice along the normal of rows and columns."""
    across = np.cross(orientation[:3], orientation[3:])
    made = []
    for number, stored in enumerate(values):
        place = np.array([-20.0, 30.0, 7.0]) + number * spacing * across
        about = {
            "SeriesInstanceUID": "1.2.3.4",
            "StudyInstanceUID": "1.2.3",
            "SOPInstanceUID": f"1.2.3.4.{number + 1}",
            "InstanceNumber": str(number + 1),
            "Modality": "CT",
            "RescaleSlope": "2",
            "RescaleIntercept": "-1024",
            "PixelSpacing": [0.5, 0.8],
            "ImagePositionPatient": [round(float(each), 6) for each in place],
            "ImageOrientationPatient": list(orientation),
        }
        found = make_dicom(stored, **{**about, **tags})
        found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID
        made.append(found)
    return made


def save_series(made: list[Any]) -> tuple[bytes, ...]:
    return tuple(save_dicom(each) for each in made)


def read_by_itk(files: Any, folder: Path) -> Volume:
    """The referee: GDCM sorts and scales, ITK turns."""
    for number, data in enumerate(files):
        (folder / f"{number:03d}.dcm").write_bytes(data)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = sitk.DICOMOrient(reader.Execute(), "RAS")
    x, y, z = image.GetSpacing()
    return Volume(sitk.GetArrayFromImage(image).T, (x, y, z))


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_volumes_are_those_of_itk_in_any_orientation(tmp_path: Path, name: str) -> None:
    files = save_series(make_series(make_values(), ORIENTATIONS[name]))
    mixed = tuple(files[index] for index in np.random.default_rng(1).permutation(N_SLICES))
    found, _ = read_series(mixed, Reading())
    expected = read_by_itk(files, tmp_path)
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_allclose(found.spacing_mm, expected.spacing_mm, rtol=1e-3)


@pytest.mark.parametrize("plane", PLANES)
def test_a_series_is_shown_as_a_nifti_of_the_same_values(plane: str) -> None:
    values = make_values()
    files = save_series(make_series(values))
    scaled = 2 * values.astype(np.float32) - 1024
    affine = np.diag([-0.8, -0.5, 2.5, 1.0])
    nifti = nibabel.Nifti1Image(scaled.transpose(2, 1, 0), affine).to_bytes()
    for windows in ((), ("40/400",), ("lung", "bone", "brain")):
        reading = Reading(windows, "middle", plane)
        np.testing.assert_array_equal(decode(files, reading=reading), decode(nifti, reading=reading))
    bag = Reading(plane=plane, dimensions=BAG, slices="spread:4", n_slices=4, isotropic=True)
    for ours, theirs in zip(decode_bag(files, reading=bag), decode_bag(nifti, reading=bag), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_files_window_counts_where_none_is_named() -> None:
    files = save_series(make_series(make_values(), WindowCenter="100", WindowWidth="500"))
    reading = Reading((), "middle")
    np.testing.assert_array_equal(
        decode(files, reading=reading), decode(files, reading=Reading(("100/500",), "middle"))
    )


def test_padding_is_black_and_takes_no_part_in_the_window() -> None:
    values = make_values() // 40 + 1000
    values[:, :3] = 0
    plain, padded = (
        decode(save_series(make_series(values, **tags)), reading=Reading((), "middle", isotropic=False))
        for tags in ({}, {"PixelPaddingValue": 0})
    )
    assert (padded[: padded.shape[0] // 4 - 1] == 0).all()
    assert padded[padded.shape[0] // 2 :].std() > 3 * plain[plain.shape[0] // 2 :].std()


def test_of_slices_in_one_place_the_first_counts() -> None:
    values = make_values()
    made = make_series(values)
    again = make_series(make_values(5))[4]
    again.InstanceNumber, again.SOPInstanceUID = "99", "1.2.3.4.99"
    with_double, _ = read_series(save_series([*made, again]), Reading())
    without, _ = read_series(save_series(made), Reading())
    np.testing.assert_array_equal(with_double.values, without.values)


@pytest.mark.parametrize(
    ("tags", "reading", "reason"),
    [
        ({"PhotometricInterpretation": "MONOCHROME1"}, Reading(), "not grey from black to white"),
        ({"PixelSpacing": None}, Reading(), "does not say how far apart its pixels are"),
        ({"ImageOrientationPatient": None}, Reading(), "9 slices without positions in one orientation"),
        ({"Modality": "MR"}, Reading(("lung",)), "named windows are in Hounsfield units"),
        ({}, Reading(("mammography",)), "the window mammography is one of DICOM images"),
        ({"Modality": "PT"}, Reading(("suv",)), "SUV|uptake|units"),
    ],
)
def test_what_is_no_volume_is_refused(tags: dict[str, Any], reading: Reading, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        read_series(save_series(make_series(make_values(), **tags)), reading)


def test_slices_of_two_sizes_are_refused() -> None:
    made = [*make_series(make_values())[:8], make_series(make_values()[:, :, :8])[8]]
    with pytest.raises(ImageError, match=r"slices of 10 x 12, 8 x 12 px in one series; expected one size"):
        read_series(save_series(made), Reading())


def test_more_voxels_than_are_read_are_refused_before_they_are_decoded() -> None:
    made = make_series(make_values())
    for each in made:
        each.Rows, each.Columns = 10_000, 10_000
    with pytest.raises(ImageError, match="9 slices of 10000 x 10000 px; expected at most"):
        read_series(save_series(made), Reading())


def test_a_digest_is_that_of_all_files() -> None:
    files = save_series(make_series(make_values()))
    other = save_series(make_series(make_values(1)))
    assert content_digest(files) == content_digest(tuple(files))
    assert len({content_digest(files), content_digest(files[:-1]), content_digest(other)}) == 3
    assert describe(files, Reading(dimensions="auto")).slices == N_SLICES


def make_enhanced(values: Any) -> Any:
    """One object of several frames, whose places are those of functional groups, out of order."""

    def group(**parts: dict[str, Any]) -> Dataset:
        found = Dataset()
        for name, tags in parts.items():
            inner = Dataset()
            for attribute, value in tags.items():
                setattr(inner, attribute, value)
            setattr(found, name, Sequence([inner]))
        return found

    order = np.random.default_rng(2).permutation(N_SLICES)
    found = make_dicom(values[order].reshape(-1, COLUMNS), Modality="CT", InstanceNumber="1")
    found.Rows, found.NumberOfFrames = ROWS, N_SLICES
    shared = {
        "PlaneOrientationSequence": {"ImageOrientationPatient": list(ORIENTATIONS["axial"])},
        "PixelMeasuresSequence": {"PixelSpacing": [0.5, 0.8]},
        "PixelValueTransformationSequence": {"RescaleSlope": "2", "RescaleIntercept": "-1024"},
    }
    found.SharedFunctionalGroupsSequence = Sequence([group(**shared)])
    places = [{"ImagePositionPatient": [-20.0, 30.0, 7.0 + 2.5 * place]} for place in order.tolist()]
    found.PerFrameFunctionalGroupsSequence = Sequence([group(PlanePositionSequence=place) for place in places])
    return found


def test_an_object_of_frames_with_places_is_the_volume_of_a_series_of_them(tmp_path: Path) -> None:
    enhanced, _ = read_series([save_dicom(make_enhanced(make_values()))], Reading())
    series, _ = read_series(save_series(make_series(make_values())), Reading())
    np.testing.assert_array_equal(enhanced.values, series.values)
    np.testing.assert_allclose(enhanced.spacing_mm, series.spacing_mm)
    (tmp_path / "enhanced").write_bytes(save_dicom(make_enhanced(make_values())))
    assert gather_files([tmp_path / "enhanced"]) == [(tmp_path / "enhanced", DicomSeries((tmp_path / "enhanced",)))]


# --- in a data set ----------------------------------------------------------------------------------------------------


def write_archive(folder: Path) -> None:
    """Six patients with a volume, a pair of views without places, and a localizer each."""
    for patient in range(6):
        uid, place = f"1.2.{patient}", folder / f"p{patient}"
        place.mkdir(parents=True)
        for number, found in enumerate(
            make_series(make_values(patient), PatientID=f"XK-{patient}", StudyInstanceUID=uid)
        ):
            found.SeriesInstanceUID, found.SOPInstanceUID = f"{uid}.1", f"{uid}.1.{number}"
            found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID
            (place / f"{8 - number}.dcm").write_bytes(save_dicom(found))
        for number in range(2):
            about = {"PatientID": f"XK-{patient}", "StudyInstanceUID": uid, "SeriesInstanceUID": f"{uid}.2"}
            found = make_dicom(make_values(patient)[number], Modality="DX", SOPInstanceUID=f"{uid}.2.{number}", **about)
            found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID
            (place / f"view{number}.dcm").write_bytes(save_dicom(found))


def write_labels(folder: Path, column: str, names: Any) -> None:
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([[column, "label"], *([name, label] for name, label in names)])


def test_a_series_that_is_a_volume_is_one_item_and_other_images_are_items_each(tmp_path: Path) -> None:
    write_archive(tmp_path)
    write_labels(tmp_path, "study", [(f"1.2.{each}", each % 2) for each in range(6)])
    dataset = load_dataset(tmp_path)
    assert len(dataset.items) == 6 * 3
    volumes = [content for content in dataset.contents if isinstance(content, DicomSeries)]
    assert [len(each.paths) for each in volumes] == [N_SLICES] * 6
    assert [item.path for item in dataset.items][:3] == ["p0/0.dcm", "p0/view0.dcm", "p0/view1.dcm"]
    assert len({item.patient for item in dataset.items}) == 6
    assert "12 series are of several images; 6 of them are volumes, an item each" in dataset.notes
    facts = describe(read_content(dataset.contents[0]), Reading(dimensions="auto"))
    assert (facts.slices, facts.format) == (N_SLICES, "DICOM series")


def test_labels_of_instances_make_every_slice_an_item(tmp_path: Path) -> None:
    write_archive(tmp_path)
    names = [
        (f"1.2.{patient}.1.{number}", patient % 2) for patient, number in itertools.product(range(6), range(N_SLICES))
    ]
    write_labels(tmp_path, "instance", names)
    dataset = load_dataset(tmp_path)
    assert len(dataset.items) == 6 * N_SLICES
    assert all(isinstance(content, Path) for content in dataset.contents)
    assert "6 series are of several images; each image is an item of its patient" in dataset.notes


def test_files_to_predict_are_gathered_alike(tmp_path: Path) -> None:
    write_archive(tmp_path)
    (tmp_path / "p0" / "other.png").write_bytes(b"no image")
    files = sorted(tmp_path.rglob("*.*"))
    found = dict(gather_files(files))
    assert sum(isinstance(each, DicomSeries) for each in found.values()) == 6
    assert len(found) == 6 * 3 + 1
    assert found[tmp_path / "p0" / "0.dcm"].paths == tuple(sorted((tmp_path / "p0").glob("[0-8].dcm")))


def test_faults_of_a_series_go_with_it(tmp_path: Path) -> None:
    made = make_series(make_values())
    again = make_series(make_values(5))[4]
    again.InstanceNumber, again.SOPInstanceUID = "99", "1.2.3.4.99"
    for number, found in enumerate([*made[:2], *made[4:], again]):
        (tmp_path / f"{number}.dcm").write_bytes(save_dicom(found))
    ((_, series),) = gather_files(sorted(tmp_path.iterdir()))
    assert str(series.faults) == "2 of 9 slices missing, 1 of 8 slices doubled"
    assert series == DicomSeries(series.paths)  # it is its files, whatever is wrong with them


def test_files_that_do_not_say_their_series_are_never_joined(tmp_path: Path) -> None:
    """Those of several patients would be one volume."""
    for number, found in enumerate(make_series(make_values())):
        del found.SeriesInstanceUID
        found.SOPInstanceUID = ""
        (tmp_path / f"{number}.dcm").write_bytes(save_dicom(found))
    files = sorted(tmp_path.iterdir())
    assert gather_files(files) == [(file, file) for file in files]


def test_a_file_that_is_gone_is_an_image_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="a file of the series cannot be read: No such file"):
        DicomSeries((tmp_path / "gone.dcm",)).read()


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["t1post", "t2", "flair"])
def test_real_series_are_those_of_itk(shared_data: Path, tmp_path: Path, name: str) -> None:
    paths = sorted((shared_data / "dicom" / name).glob("*.dcm"))
    files = DicomSeries(tuple(paths)).read()
    found, (window,) = read_series(files, Reading())
    expected = read_by_itk(files, tmp_path)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-6)
    np.testing.assert_allclose(found.spacing_mm, expected.spacing_mm, rtol=1e-3)
    assert window.width > 0
    headers, _ = read_headers(paths)
    assert read_object(files[0]).Modality == headers[0].modality == "MR"
