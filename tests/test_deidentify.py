"""Copies without identities: no byte of a copy tells whom it is of, pixels are as they were, and labels still join."""

from __future__ import annotations

import csv
import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from typer.testing import CliRunner

from helpers import Notes, make_dicom
from thawline.cli import app
from thawline.data.dataset import load_dataset
from thawline.data.profile import find_change, key_uid
from thawline.deidentify import LOG, deidentify
from thawline.errors import DataError, OutputError

TELLING = ("MUSTERMANN", "Erika", "PAT-4711", "ACC-99831", "19631123", "Dr. House", "1.2.826.77.5")


@pytest.fixture(autouse=True)
def own_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAWLINE_DATA", str(tmp_path / "own"))


def make_telling(number: int = 0, patient: str = "PAT-4711", **tags: Any) -> Dataset:
    """An image whose header tells whom it is of, at every place where a header may."""
    usual = {
        "PatientID": patient,
        "PatientName": "MUSTERMANN^Erika",
        "PatientBirthDate": "19631123",
        "AccessionNumber": "ACC-99831",
        "ReferringPhysicianName": "Dr. House",
        "StudyInstanceUID": "1.2.826.77.5.1",
        "SeriesInstanceUID": "1.2.826.77.5.1.1",
        "SOPInstanceUID": f"1.2.826.77.5.1.1.{number + 1}",
        "StudyDate": "20240102",
        "StudyDescription": "Thorax of MUSTERMANN",
        "BodyPartExamined": "CHEST",
        "KVP": "120",
        "SequenceName": "Erika",  # which the profile keeps
        "FilterType": "ALUMINIUM",
    }
    found = make_dicom(np.arange(48 * 48, dtype=np.uint16).reshape(48, 48) + np.uint16(number), **{**usual, **tags})
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID
    inner = Dataset()
    inner.ReferencedSOPClassUID, inner.ReferencedSOPInstanceUID = found.SOPClassUID, "1.2.826.77.5.9"
    inner.PatientID, inner.RequestingPhysician = patient, "Dr. House"
    found.SourceImageSequence = Sequence([inner])
    block = found.private_block(0x0099, "A MAKER", create=True)
    block.add_new(1, "LO", "MUSTERMANN")
    found.preamble = b"MUSTERMANN".ljust(128, b" ")
    return found


def save(folder: Path, *objects: Dataset) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, each in enumerate(objects):
        each.save_as(folder / f"MUSTERMANN {number}.dcm", enforce_file_format=True)
    return folder


def list_copies(out: Path) -> list[Path]:
    return sorted(out.rglob("*.dcm"))


def test_no_byte_tells_and_pixels_are_as_they_were(tmp_path: Path) -> None:
    given = [make_telling(number) for number in range(3)]
    done = deidentify(save(tmp_path / "data", *given), tmp_path / "out", listener=Notes())
    copies = list_copies(tmp_path / "out")
    assert len(copies) == len(done.copies) == 3
    whole = b"".join(path.read_bytes() + str(path.relative_to(tmp_path)).encode() for path in copies)
    whole += (tmp_path / "out" / LOG).read_bytes()
    assert [text for text in TELLING if text.lower().encode() in whole.lower()] == []
    pixels = sorted(pydicom.dcmread(path).PixelData for path in copies)
    assert pixels == sorted(each.PixelData for each in given)
    copy = pydicom.dcmread(copies[0])
    assert (copy.BodyPartExamined, copy.KVP, copy.PatientIdentityRemoved) == ("CHEST", 120, "YES")
    assert copy.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert copy.PatientName == ""
    assert ("SequenceName" in copy, copy.FilterType) == (False, "ALUMINIUM")
    assert copy.file_meta.MediaStorageSOPInstanceUID == copy.SOPInstanceUID


def test_what_belongs_together_still_does_and_two_copies_agree(tmp_path: Path) -> None:
    data = save(tmp_path / "data", make_telling(0), make_telling(1), make_telling(2, "PAT-4712"))
    deidentify(data, tmp_path / "one")
    deidentify(data, tmp_path / "two")
    one, two = ([path.relative_to(out) for path in list_copies(out)] for out in (tmp_path / "one", tmp_path / "two"))
    assert one == two
    assert all((tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes() for path in one)
    copies = [pydicom.dcmread(tmp_path / "one" / path) for path in one]
    assert len({each.PatientID for each in copies}) == 2
    assert len({each.StudyInstanceUID for each in copies}) == 1
    assert len({each.SOPInstanceUID for each in copies}) == 3


def test_another_sites_keys_are_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = save(tmp_path / "data", make_telling())
    deidentify(data, tmp_path / "one")
    monkeypatch.setenv("THAWLINE_DATA", str(tmp_path / "elsewhere"))
    deidentify(data, tmp_path / "two")
    names = [{part for path in list_copies(out) for part in path.relative_to(out).parts} for out in
             (tmp_path / "one", tmp_path / "two")]  # fmt: skip
    assert not names[0] & names[1]


@pytest.mark.parametrize("column", ["patient", "study", "instance", "accession"])
def test_the_table_of_labels_joins_the_copy_as_it_did(tmp_path: Path, column: str) -> None:
    given = [
        make_telling(
            number, f"PAT-{number}", AccessionNumber=f"ACC-{number}", StudyInstanceUID=f"1.2.826.77.6.{number}"
        )
        for number in range(12)
    ]
    values = {
        "patient": "PatientID",
        "study": "StudyInstanceUID",
        "instance": "SOPInstanceUID",
        "accession": "AccessionNumber",
    }
    data = save(tmp_path / "data", *given)
    with (data / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow([column, "label", "split", "name"])
        writer.writerows(
            [getattr(each, values[column]), "ab"[number % 2], "test" if number < 4 else "train", "MUSTERMANN"]
            for number, each in enumerate(given)
        )
    before = load_dataset(data)
    done = deidentify(data, tmp_path / "out")
    assert done.n_labels == 12
    assert "MUSTERMANN" not in (tmp_path / "out" / "labels.csv").read_text("utf-8")
    after = load_dataset(tmp_path / "out")
    assert sorted((item.label, item.split) for item in after.items) == sorted((i.label, i.split) for i in before.items)
    labels = {
        pydicom.dcmread(path).PixelData: item.label for item, path in zip(after.items, after.contents, strict=True)
    }
    assert labels == {each.PixelData: "ab"[number % 2] for number, each in enumerate(given)}


def test_text_in_the_image_leaves_it_out_until_it_is_allowed(tmp_path: Path) -> None:
    from PIL import Image, ImageDraw

    picture = Image.new("L", (300, 200))
    ImageDraw.Draw(picture).text((8, 8), "MUSTERMANN ERIKA", fill=255, font_size=16)
    marked = make_telling(7)
    plain = make_telling(8)
    said = make_telling(9, BurnedInAnnotation="YES")
    drawn = make_dicom(np.asarray(picture).copy(), SOPInstanceUID="1.2.826.77.5.1.1.10")
    data = save(tmp_path / "data", marked, plain, said, drawn)
    done = deidentify(data, tmp_path / "out")
    assert len(done.copies) == 2
    reasons = " ".join(reason for _, reason in done.left_out)
    assert "top left" in reasons
    assert "the header does not tell" in reasons
    allowed = deidentify(data, tmp_path / "all", keep_text=True)
    assert sorted(each.text for each in allowed.copies if each.text)[-1][0] == "top left"
    assert len(allowed.copies) == 4


def write_name(pixels: np.ndarray, at: tuple[int, int], font: int) -> np.ndarray:
    """The same pixels with a name in white on them."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(pixels)
    ImageDraw.Draw(picture).text(at, "MUSTERMANN ERIKA", fill=255, font_size=font)
    return np.asarray(picture)


def test_small_text_on_a_large_film_leaves_it_out(tmp_path: Path) -> None:
    rows, columns = np.indices((2500, 2048))
    film = (90 + 60 * np.sin(rows / 400) * np.cos(columns / 500)).astype(np.uint8)
    images = (film, write_name(film, (1500, 2400), 30))
    save(
        tmp_path / "data",
        *[make_dicom(each, SOPInstanceUID=f"1.2.826.77.{number}") for number, each in enumerate(images)],
    )
    done = deidentify(tmp_path / "data", tmp_path / "out")
    assert len(done.copies) == 1
    ((path, reason),) = done.left_out
    assert (path.name, "bottom right" in reason) == ("MUSTERMANN 1.dcm", True)


@pytest.mark.parametrize("marked", [0, 1, 7])
def test_a_name_in_any_frame_leaves_the_object_out(tmp_path: Path, marked: int) -> None:
    frames = np.full((8, 240, 320), 60, np.uint8)
    frames[:, 100:140, 100:200] = 120
    frames[marked] = write_name(frames[marked], (8, 8), 16)
    cine = make_dicom(frames.reshape(-1, 320), Rows=240, NumberOfFrames="8", SOPInstanceUID="1.2.826.77.2")
    done = deidentify(save(tmp_path / "data", cine, make_telling()), tmp_path / "out")
    assert len(done.copies) == 1
    assert "top left" in done.left_out[0][1]
    (copy,) = (each for each in deidentify(tmp_path / "data", tmp_path / "all", keep_text=True).copies if each.text)
    assert copy.text[0] == "top left"


def test_an_overlay_in_unused_bits_leaves_the_image_out(tmp_path: Path) -> None:
    hidden = make_telling(3)
    hidden.BitsStored, hidden.HighBit = 12, 11
    hidden.add_new(0x60000010, "US", 48)
    hidden.add_new(0x60000011, "US", 48)
    hidden.add_new(0x60000100, "US", 16)
    hidden.add_new(0x60000102, "US", 12)
    done = deidentify(save(tmp_path / "data", hidden, make_telling()), tmp_path / "out")
    assert len(done.copies) == 1
    assert "unused bits of the pixels, where an overlay lies" in done.left_out[0][1]


def test_what_is_no_image_is_left_out_and_said(tmp_path: Path) -> None:
    data = save(tmp_path / "data", make_telling())
    (data / "MUSTERMANN notes.txt").write_text("a note", "utf-8")
    report = make_telling(1)
    del report.PixelData
    report.save_as(data / "report.dcm", enforce_file_format=True)
    nameless = make_telling(2)
    nameless.SOPInstanceUID = ""
    nameless.save_as(data / "nameless.dcm", enforce_file_format=False)
    done = deidentify(data, tmp_path / "out")
    assert len(done.copies) == 1
    assert len(done.left_out) == 3
    assert "MUSTERMANN notes.txt" in str(done)
    assert "MUSTERMANN" not in (tmp_path / "out" / LOG).read_text("utf-8")
    save(tmp_path / "empty")
    (tmp_path / "empty" / "notes.txt").write_text("a note", "utf-8")
    with pytest.raises(DataError, match="expected DICOM images, none of 1 files"):
        deidentify(tmp_path / "empty", tmp_path / "none")


def test_a_folder_that_holds_something_or_lies_in_the_data_is_refused(tmp_path: Path) -> None:
    data = save(tmp_path / "data", make_telling())
    with pytest.raises(OutputError, match="new or empty"):
        deidentify(data, data)
    with pytest.raises(OutputError, match="lies in the data"):
        deidentify(data, data / "out")
    with pytest.raises(DataError, match="expected a folder"):
        deidentify(tmp_path / "nowhere", tmp_path / "out")


def test_the_command_says_what_was_done(tmp_path: Path) -> None:
    data = save(tmp_path / "data", make_telling())
    done = CliRunner().invoke(app, ["deidentify", str(data), str(tmp_path / "out"), "--quiet", "--json"])
    assert done.exit_code == 0
    log = json.loads(done.stdout)
    assert log == json.loads((tmp_path / "out" / LOG).read_text("utf-8"))
    (file,) = log["files"]
    assert file["private"] == 2
    assert {"PatientName", "PatientBirthDate"} <= {*file["removed"], *file["emptied"], *file["replaced"]}


def test_what_no_table_foresees_tells_nothing_either(tmp_path: Path) -> None:
    """Codes of persons in sequences, elements without a name, UIDs in texts and addresses, values among others."""
    given = make_telling()
    person = Dataset()
    person.CodeValue, person.CodingSchemeDesignator, person.CodeMeaning = "jsmith", "99X", "Smith, Jane"
    given.OperatorIdentificationSequence = Sequence([person])
    given.InstitutionCodeSequence = Sequence([person])
    given.add_new(0x00541111, "UN", b"MUSTERMANN PAT-4711 ")
    given.RetrieveURL = "https://pacs.clinic.example/studies/1.2.826.77.5.1"
    given.SOPInstanceUIDOfConcatenationSource = "1.2.826.77.5.8"
    given.ImageType = ["ORIGINAL", "PRIMARY", "MUSTERMANN"]
    given.FilterMaterial = "MUSTERMANN"
    deidentify(save(tmp_path / "data", given), tmp_path / "out")
    (path,) = list_copies(tmp_path / "out")
    content = path.read_bytes().lower()
    telling = (*TELLING, "jsmith", "Smith, Jane", "clinic.example")
    assert [text for text in telling if text.lower().encode() in content] == []
    assert list(pydicom.dcmread(path).ImageType) == ["ORIGINAL", "PRIMARY"]


def test_no_uid_leads_out_of_the_copy(tmp_path: Path) -> None:
    given = make_telling()
    given.save_as(tmp_path / "whole.dcm", enforce_file_format=True)
    content = (tmp_path / "whole.dcm").read_bytes()
    uid = b"1.2.826.77.5.1.1.1"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.dcm").write_bytes(content.replace(uid, b"1.2.840.10008./../x"[: len(uid)]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        deidentify(tmp_path / "data", tmp_path / "out")
    (path,) = tmp_path.glob("out/**/*.dcm")
    assert path.name.startswith("2.25.")
    assert len(path.relative_to(tmp_path / "out").parts) == 4


def test_two_images_of_one_uid_are_not_written_over_each_other(tmp_path: Path) -> None:
    first, second = make_telling(0), make_telling(1)
    second.SOPInstanceUID = second.file_meta.MediaStorageSOPInstanceUID = first.SOPInstanceUID
    done = deidentify(save(tmp_path / "data", first, first, second), tmp_path / "out")
    assert len(done.copies) == 1
    assert {reason for _, reason in done.left_out} == {
        "the same image as another file", "another image has its SOP Instance UID"
    }  # fmt: skip


def test_patients_of_the_table_are_kept_apart_and_together(tmp_path: Path) -> None:
    """The table knows two ids as one person, and the copy's table says so."""
    given = [make_telling(number, f"PAT-{number}", SeriesInstanceUID=f"1.2.826.77.6.{number}") for number in range(12)]
    data = save(tmp_path / "data", *given)
    lines = [f"{each.SeriesInstanceUID},{'ab'[number % 2]},person {number // 3}" for number, each in enumerate(given)]
    (data / "labels.csv").write_text("\n".join(["series,label,patient", *lines]) + "\n", "utf-8")
    before = load_dataset(data)
    deidentify(data, tmp_path / "out")
    after = load_dataset(tmp_path / "out")
    count = [sorted(Counter(item.patient for item in dataset.items).values()) for dataset in (before, after)]
    assert count[0] == count[1] == [3, 3, 3, 3]
    assert "person" not in (tmp_path / "out" / "labels.csv").read_text("utf-8")


def test_lesions_of_the_table_are_keyed_within_their_patient(tmp_path: Path) -> None:
    given = [
        make_telling(number, f"PAT-{number // 3}", SeriesInstanceUID=f"1.2.826.77.6.{number}") for number in range(12)
    ]
    data = save(tmp_path / "data", *given)
    lesions = ["left arm", "left arm", ""] * 4
    lines = [f"{each.SeriesInstanceUID},{'ab'[n // 3 % 2]},{lesions[n]}" for n, each in enumerate(given)]
    (data / "labels.csv").write_text("\n".join(["series,label,lesion", *lines]) + "\n", "utf-8")
    deidentify(data, tmp_path / "out")
    items = load_dataset(tmp_path / "out").items
    assert sorted(Counter((item.patient, item.lesion) for item in items).values()) == [1] * 4 + [2] * 4
    assert len({item.lesion for item in items} - {""}) == 4  # the same words of two patients are two lesions
    assert "arm" not in (tmp_path / "out" / "labels.csv").read_text("utf-8")


def test_a_table_that_fits_nothing_is_said_before_anything_is_written(tmp_path: Path) -> None:
    data = save(tmp_path / "data", make_telling())
    (data / "labels.csv").write_text("patient,label\nsomeone,a\n", "utf-8")
    with pytest.raises(DataError, match="none of the 1 values"):
        deidentify(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_uids_of_the_standard_are_kept_and_others_are_valid() -> None:
    assert key_uid(b"secret", "1.2.840.10008.1.2.1") == "1.2.840.10008.1.2.1"
    key = key_uid(b"secret", "1.2.826.77")
    assert pydicom.uid.UID(key).is_valid
    assert key != key_uid(b"another", "1.2.826.77")


def test_the_table_is_that_of_the_standard() -> None:
    """Some rows of PS3.15, table E.1-1, as they have been for years: name, date of birth, UIDs, curves, overlays."""
    tag = pydicom.tag.Tag
    known = {(0x10, 0x10): "emptied", (0x10, 0x30): "emptied", (0x08, 0x18): "replaced",
             (0x10, 0x1040): "removed", (0x08, 0x80): "replaced", (0x5002, 0x3000): "removed",
             (0x6004, 0x3000): "removed", (0x28, 0x10): None, (0x18, 0x60): None}  # fmt: skip
    assert {key: find_change(tag(*key)) for key in known} == known


NAMES = (
    "CT_small.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_bigendian.dcm",
    "JPEG2000.dcm",
    "MR_small_RLE.dcm",
    "examples_overlay.dcm",
    "examples_rgb_color.dcm",
    "SC_rgb_rle_2frame.dcm",
    "rtdose.dcm",
)


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize("name", NAMES)
def test_pydicoms_own_files(tmp_path: Path, name: str) -> None:
    """Pixels are bit for bit those of the original, no value of a name or an id is left anywhere in the header."""
    path = get_testdata_file(name)
    assert path is not None
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_bytes(Path(path).read_bytes())
    deidentify(tmp_path / "data", tmp_path / "out", keep_text=True)
    (file,) = list_copies(tmp_path / "out")
    before, after = pydicom.dcmread(path), pydicom.dcmread(file)
    assert before.PixelData == after.PixelData
    assert not [each for each in after.iterall() if each.tag.is_private]
    kept = {str(each.value) for each in after.iterall() if each.VR not in ("OW", "OB", "SQ")}
    for element in before.iterall():
        values = element.value if isinstance(element.value, MultiValue) else [element.value]
        telling = element.VR in ("PN", "UI") and not any(str(value).startswith("1.2.840.10008.") for value in values)
        for value in values if telling or element.keyword in ("PatientID", "AccessionNumber") else ():
            assert len(str(value)) < 4 or str(value) not in kept, element.keyword
