"""DICOM folders and a table of labels: what is joined, what is left out and said, and that nothing said names a person."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pydicom
import pytest
from pydicom.fileset import FileSet

from helpers import make_dicom, save_dicom
from thawline.data import dicom_index
from thawline.data.dataset import list_files, load_dataset
from thawline.data.dicom_index import read_directory, read_header, read_headers
from thawline.data.identity import key_patient, read_secret
from thawline.data.stacks import stack_slices
from thawline.errors import DataError

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests"
TELLING = "XK-4711"
N_PATIENTS = 6


@pytest.fixture(autouse=True)
def own_secret(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("THAWLINE_DATA", str(tmp_path_factory.mktemp("site")))


def make_archive(folder, extension="", **tags):
    """Six patients of one study, two series a study, two images a series, in folders as an archive exports them."""
    for patient in range(N_PATIENTS):
        for series in range(2):
            for number in range(2):
                found = make_dicom(
                    PatientID=f"{TELLING}-{patient}",
                    StudyInstanceUID=f"1.2.{patient}",
                    SeriesInstanceUID=f"1.2.{patient}.{series}",
                    SOPInstanceUID=f"1.2.{patient}.{series}.{number}",
                    AccessionNumber=f"000{patient}",
                    InstanceNumber=str(number),
                    Modality="CT",
                    ImagePositionPatient=[0, 0, number * 5],
                    ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
                    **tags,
                )
                found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID
                path = folder / f"P{patient}" / f"S{series}" / f"IM{number}{extension}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(save_dicom(found))
    return folder


def write_table(path, column, rows, **more):
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([column, "label", *more])
        writer.writerows([[*row, *cells] for row, *cells in zip(rows, *more.values(), strict=True)])
    return path


def label(patient):
    return "ill" if patient % 2 else "well"


@pytest.mark.parametrize(
    ("column", "pattern"),
    [
        ("patient", f"{TELLING}-{{0}}"),
        ("PatientID", f"{TELLING}-{{0}}"),
        ("study", "1.2.{0}"),
        ("Study Instance UID", "1.2.{0}"),
        ("AccessionNumber", "000{0}"),
    ],
)
def test_labels_are_joined_by_what_the_table_names(tmp_path, column, pattern):
    make_archive(tmp_path)
    write_table(tmp_path / "labels.csv", column, [(pattern.format(each), label(each)) for each in range(N_PATIENTS)])
    dataset = load_dataset(tmp_path)
    assert dataset.kind == "dicom"
    assert len(dataset.items) == 4 * N_PATIENTS
    assert all(item.label == label(int(item.path[1])) for item in dataset.items)
    secret = read_secret()
    assert {item.patient for item in dataset.items} == {
        key_patient(secret, f"{TELLING}-{each}") for each in range(N_PATIENTS)
    }
    assert (dataset.patients_given, dataset.n_blank_patients) == (True, 0)
    assert any(
        note == "12 series are of several images; each image is an item of its patient" for note in dataset.notes
    )


def test_the_finest_column_joins_and_others_are_left_out(tmp_path):
    make_archive(tmp_path, ".dcm")
    rows = [(f"1.2.{patient}.1", label(patient)) for patient in range(N_PATIENTS)]
    table = write_table(
        tmp_path / "scores.csv",
        "SeriesInstanceUID",
        rows,
        StudyInstanceUID=["x"] * 6,
        split=["train"] * 4 + ["test"] * 2,
    )
    dataset = load_dataset(tmp_path, labels=table)
    assert {item.path.split("/")[1] for item in dataset.items} == {"S1"}
    assert all(item.split == ("train" if int(item.path[1]) < 4 else "test") for item in dataset.items)
    assert "12 DICOM images without a row in scores.csv were left out" in dataset.notes
    assert {name for item in dataset.items for name in item.metadata} == set()


def test_one_image_can_be_named_and_rows_without_an_image_are_said(tmp_path):
    make_archive(tmp_path)
    rows = [(f"1.2.{patient}.0.{number}", label(patient)) for patient in range(N_PATIENTS) for number in range(2)]
    write_table(tmp_path / "labels.csv", "sopinstanceuid", [*rows, ("9.9", "ill"), ("9.8", "ill")])
    dataset = load_dataset(tmp_path)
    assert len(dataset.items) == 12
    assert "2 rows of labels.csv have no image: row 14, 15" in dataset.notes


def test_a_patient_in_the_table_groups_and_is_keyed(tmp_path):
    """Where de-identification gave each study a patient of its own, the table knows better."""
    make_archive(tmp_path)
    rows = [(f"1.2.{patient}", label(patient)) for patient in range(N_PATIENTS)]
    write_table(tmp_path / "labels.csv", "study", rows, patient=["A", "B", "A", "B", "C", "D"])
    dataset = load_dataset(tmp_path)
    keys = {item.path[:2]: item.patient for item in dataset.items}
    assert keys["P0"] == keys["P2"] == key_patient(read_secret(), "A")
    assert len(set(keys.values())) == 4


def test_a_lesion_in_the_table_is_that_of_the_header_s_patient(tmp_path):
    make_archive(tmp_path)
    series = [(patient, number) for patient in range(N_PATIENTS) for number in range(2)]
    rows = [(f"1.2.{patient}.{number}", label(patient)) for patient, number in series]
    write_table(tmp_path / "labels.csv", "series", rows, lesion=[f"L{number}" for _, number in series])
    dataset = load_dataset(tmp_path)
    assert {item.path[:5]: item.lesion for item in dataset.items} == {f"P{p}/S{n}": f"L{n}" for p, n in series}
    assert {name for item in dataset.items for name in item.metadata} == set()


def test_without_a_patient_the_study_groups(tmp_path):
    make_archive(tmp_path)
    for path in tmp_path.rglob("IM*"):
        found = pydicom.dcmread(path)
        found.PatientID = ""
        found.save_as(path)
    write_table(tmp_path / "labels.csv", "study", [(f"1.2.{each}", label(each)) for each in range(N_PATIENTS)])
    dataset = load_dataset(tmp_path)
    assert len({item.patient for item in dataset.items}) == N_PATIENTS
    assert "24 images name no patient; those of one study count as one patient" in dataset.notes


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("accession", [str(each) for each in range(1, 7)], "leading zeros differ, which spreadsheets remove"),
        (
            "patient",
            [f"1.2.{each}" for each in range(6)],
            "those of the attribute StudyInstanceUID: call the column study",
        ),
        ("series", ["a", "b", "c", "d", "e", "f"], "expected what stands in the attribute SeriesInstanceUID"),
    ],
)
def test_a_table_that_fits_nowhere_is_explained_without_a_value(tmp_path, column, values, said):
    make_archive(tmp_path)
    write_table(tmp_path / "labels.csv", column, [(each, "ill") for each in values])
    with pytest.raises(DataError, match=said) as caught:
        load_dataset(tmp_path)
    assert f"none of the 6 values of its column {column} is that of one of the 24 DICOM images" in str(caught.value)
    assert TELLING not in str(caught.value)


def test_a_patient_in_two_rows_is_refused_by_the_rows(tmp_path):
    make_archive(tmp_path)
    rows = [(f"{TELLING}-{each}", label(each)) for each in (0, 1, 2, 1)]
    write_table(tmp_path / "labels.csv", "patient", rows)
    with pytest.raises(DataError, match="stand in more than one row; keep the row that is right:\n") as caught:
        load_dataset(tmp_path)
    assert "rows 3, 5" in str(caught.value)
    assert TELLING not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("path,label", "none of the columns instance, series, study, accession, patient to join labels by"),
        ("study,grade", "has no column label; found 'study', 'grade'; expected study,label"),
        ("study,StudyInstanceUID,label", "has the column study more than once"),
    ],
)
def test_columns_that_join_nothing_are_refused(tmp_path, header, said):
    (tmp_path / "labels.csv").write_text(header + "\n" + ",".join("1" * (header.count(",") + 1)) + "\n", "utf-8")
    with pytest.raises(DataError, match=said):
        load_dataset(tmp_path, labels=tmp_path / "labels.csv")


def test_two_tables_or_none_are_refused(tmp_path):
    make_archive(tmp_path)
    for name in ("labels.csv", "labels.parquet"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"holds both labels.csv and labels.parquet"):
        load_dataset(tmp_path)
    (tmp_path / "one").write_bytes(b"")
    with pytest.raises(DataError, match="joins labels to a folder of DICOM files or a DICOMDIR"):
        load_dataset(tmp_path / "one", labels=tmp_path / "labels.csv")


def test_a_table_beside_class_folders_of_other_images_is_left_alone(tmp_path):
    for number in range(12):
        path = tmp_path / label(number) / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "labels.csv").write_text("image,label\n", "utf-8")
    assert load_dataset(tmp_path).kind == "folder"


def test_localizers_and_objects_without_images_are_left_out_and_counted(tmp_path):
    make_archive(tmp_path)
    scout = make_dicom(StudyInstanceUID="1.2.0", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    report = make_dicom(StudyInstanceUID="1.2.0", Modality="SR")
    for name in ("Rows", "Columns", "PixelData"):
        del report[name]
    for name, found in (
        ("scout", scout),
        ("report", report),
        ("mask", make_dicom(StudyInstanceUID="1.2.0", Modality="SEG")),
    ):
        (tmp_path / name).write_bytes(save_dicom(found))
    (tmp_path / "notes.txt").write_text("no DICOM", "utf-8")
    write_table(tmp_path / "labels.csv", "study", [(f"1.2.{each}", label(each)) for each in range(N_PATIENTS)])
    dataset = load_dataset(tmp_path)
    assert len(dataset.items) == 24
    assert "1 localizers were left out" in dataset.notes
    assert "2 DICOM objects that are no images (reports, segmentations and the like) were left out" in dataset.notes


def test_faults_of_series_are_said(tmp_path):
    make_archive(tmp_path)
    for number, place in ((2, 10), (3, 15), (4, 40), (5, 40)):
        found = pydicom.dcmread(tmp_path / "P0" / "S0" / "IM0")
        found.SOPInstanceUID = f"1.2.0.0.{number}"
        found.ImagePositionPatient, found.InstanceNumber = [0, 0, place], str(number)
        found.save_as(tmp_path / "P0" / "S0" / f"IM{number}")
    write_table(tmp_path / "labels.csv", "study", [(f"1.2.{each}", label(each)) for each in range(N_PATIENTS)])
    notes = load_dataset(tmp_path).notes
    fault = "P0/S0/IM0: 4 of 9 slices missing, 1 of 6 slices doubled"
    assert f"1 of 12 series are not whole volumes:\n  - {fault}" in notes
    assert not any("tilted" in note for note in notes)


# --- DICOMDIR ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def medium(tmp_path):
    """The archive as a medium with a DICOMDIR, written by pydicom."""
    files = FileSet()
    for path in sorted(make_archive(tmp_path / "archive", StudyID="1", SeriesNumber="1").rglob("IM*")):
        found = pydicom.dcmread(path)
        found.StudyDate, found.StudyTime = "20260101", "1200"
        files.add(found)
    files.write(tmp_path / "medium")
    files._stage["t"].cleanup()  # pydicom leaves it to the garbage collector, which warns
    return tmp_path / "medium"


@pytest.mark.slow
@pytest.mark.parametrize("given", ["folder", "file"])
def test_a_directory_says_which_files_count(medium, given):
    stray = make_dicom(PatientID=f"{TELLING}-0", StudyInstanceUID="1.2.0")
    (medium / "stray").write_bytes(save_dicom(stray))
    table = write_table(medium / "labels.csv", "study", [(f"1.2.{each}", label(each)) for each in range(N_PATIENTS)])
    dataset = load_dataset(medium if given == "folder" else medium / "DICOMDIR", labels=table)
    assert len(dataset.items) == 24
    assert load_dataset(medium).items == dataset.items


def test_names_that_copying_made_lower_case_are_found(medium):
    for path in sorted(medium.rglob("*"), reverse=True):
        if path.name != "DICOMDIR":
            path.rename(path.with_name(path.name.lower()))
    assert len(read_directory(medium / "DICOMDIR")) == 24


def test_files_that_a_directory_names_and_nobody_has_are_listed(medium):
    gone = read_directory(medium / "DICOMDIR")[3]
    gone.unlink()
    with pytest.raises(DataError, match="1 of 24 files that it names do not exist") as caught:
        read_directory(medium / "DICOMDIR")
    assert gone.relative_to(medium).as_posix() in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [["..", "OUT"], ["/etc", "PASSWD"], ["A\\..\\B"]])
def test_a_directory_cannot_lead_out_of_its_folder(medium, parts):
    found = pydicom.dcmread(medium / "DICOMDIR")
    record = next(each for each in found.DirectoryRecordSequence if "ReferencedFileID" in each)
    record["ReferencedFileID"]._value = parts
    found.save_as(medium / "DICOMDIR")
    with pytest.raises(DataError, match="1 of 24 files that it names do not exist"):
        read_directory(medium / "DICOMDIR")


def test_a_link_out_of_a_medium_is_refused(medium, tmp_path):
    file = read_directory(medium / "DICOMDIR")[0]
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    write_table(medium / "labels.csv", "study", [(f"1.2.{each}", label(each)) for each in range(N_PATIENTS)])
    with pytest.raises(DataError, match="is a link that leads out of the data"):
        load_dataset(medium)
    assert len(load_dataset(medium, allow_outside=True).items) == 24


@pytest.mark.slow
def test_a_directory_needs_labels_and_must_be_one(medium):
    with pytest.raises(DataError, match="needs a table of labels"):
        load_dataset(medium / "DICOMDIR")
    (medium / "DICOMDIR").write_bytes(b"MUSTERMANN" * 30)
    with pytest.raises(DataError, match="in its list of files") as caught:
        read_directory(medium / "DICOMDIR")
    assert "MUSTERMANN" not in str(caught.value)


@pytest.mark.parametrize("name", ["DICOMDIR", "DICOMDIR-bigEnd", "DICOMDIR-implicit", "DICOMDIR-reordered"])
def test_directories_that_pydicom_ships_are_read(name, tmp_path):
    shutil.copytree(SHIPPED, tmp_path / "medium")
    headers, problems = read_headers(read_directory(tmp_path / "medium" / name))
    assert not problems
    assert len(headers) == 31
    assert {header.modality for header in headers} == {"CT", "CR", "MR"}
    assert all(header.has_image for header in headers)
    by_series: dict[str, int] = {}
    for header in headers:
        by_series[header.series] = by_series.get(header.series, 0) + 1
    assert max(by_series.values()) == 7


# --- files ------------------------------------------------------------------------------------------------------------


def test_files_without_an_extension_are_images_where_they_are_dicom(tmp_path):
    for number in range(12):
        folder = tmp_path / label(number)
        folder.mkdir(exist_ok=True)
        (folder / f"1.2.840.{number}").write_bytes(save_dicom(make_dicom(PatientID=str(number))))
        (folder / "README").write_text("no image", "utf-8")
    dataset = load_dataset(tmp_path)
    assert len(dataset.items) == 12
    assert dataset.notes == ("2 files that are no images were left out: no extension (2)",)
    assert len(list_files([tmp_path])) == 12
    assert list_files([tmp_path / "ill" / "1.2.840.1"])
    with pytest.raises(DataError, match="is no image"):
        list_files([tmp_path / "ill" / "README"])


def test_what_is_damaged_is_counted_and_what_is_no_dicom_passed_over(tmp_path):
    make_archive(tmp_path)
    damaged = bytearray(save_dicom(make_dicom(StudyInstanceUID="1.2.0")))
    (tmp_path / "damaged").write_bytes(bytes(damaged[:150]) + b"\xff" * 40)
    write_table(tmp_path / "labels.csv", "study", [(f"1.2.{each}", label(each)) for each in range(N_PATIENTS)])
    assert len(load_dataset(tmp_path).items) == 24
    assert read_header(tmp_path / "labels.csv") is None


def test_damaged_geometry_leaves_an_image(tmp_path, monkeypatch):
    def fail(_found):
        raise ValueError(TELLING)

    monkeypatch.setattr(dicom_index, "list_slices", fail)
    path = tmp_path / "film"
    path.write_bytes(save_dicom(make_dicom()))
    header = read_header(path)
    assert header is not None
    assert [each.position for each in header.slices] == [None]


@pytest.mark.realdata
def test_real_series_are_stacked_as_they_were_numbered(shared_data):
    """The names of the files are mixed; instance numbers, which the order does not look at, are the referee."""
    headers, problems = read_headers(sorted((shared_data / "dicom").rglob("*.dcm")))
    assert (len(headers), problems) == (66, [])
    assert len({header.study for header in headers}) == 1
    series = {header.series for header in headers}
    assert len(series) == 3
    for name in series:
        slices = [each for header in headers if header.series == name for each in header.slices]
        stack = stack_slices(slices)
        numbers = [slices[index].number for index in stack.order]
        assert numbers in (sorted(numbers), sorted(numbers)[::-1])
        assert (len(numbers), stack.n_missing, stack.doubled) == (22, 0, ())
        assert stack.spacing_mm == pytest.approx(6.5)
