"""Tags of headers that tell who somebody is: at every depth, in all files of an item, by the table of the standard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from helpers import make_dicom, save_dicom
from thawline.audit.identities import DATES, KINDS, OTHERS, PRIVATE, TEXTS, UIDS, WHO, find_identities, list_told
from thawline.data.dicom_series import DicomSeries
from thawline.data.profile import find_change


class Held:
    """Bytes where a file would be."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def read(self) -> Any:
        return self.data


def save(**tags: Any) -> Held:
    return Held(save_dicom(make_dicom(**tags)))


def test_tags_with_a_value_and_their_items() -> None:
    contents = [save(InstitutionName="A clinic"), save(PatientName="", PatientID="9"), np.zeros((20, 20), np.uint8),
                Held(b"no image"), save(PatientIdentityRemoved="YES"), save(PatientID="  ")]  # fmt: skip
    found = find_identities(contents, 2)
    assert found[WHO] == {"PatientName": (0, 5), "PatientID": (0, 1), "InstitutionName": (0,)}
    assert list(found[WHO]) == ["PatientName", "PatientID", "InstitutionName"]
    assert found[UIDS] == {"SOPInstanceUID": (0, 1, 5)}
    assert set(found) == {WHO, UIDS}


def test_every_kind_is_told_apart() -> None:
    given = make_dicom(StudyDate="20240102", PatientAge="061Y", StudyDescription="Thorax", ImageComments="see above")
    given.StationName, given.PatientSex, given.DeviceSerialNumber, given.OperatorsName = "CT2", "F", "4711", "House"
    given.KVP, given.BodyPartExamined = "120", "CHEST"  # which the profile keeps
    given.private_block(0x0099, "A MAKER", create=True).add_new(1, "LO", "MUSTERMANN")
    found = {kind: set(tags) for kind, tags in find_identities([Held(save_dicom(given))], 1).items()}
    assert found == {
        WHO: {"PatientName", "PatientID", "OperatorsName"},
        DATES: {"StudyDate", "PatientAge"},
        TEXTS: {"StudyDescription", "ImageComments"},
        OTHERS: {"StationName", "PatientSex", "DeviceSerialNumber"},
        UIDS: {"SOPInstanceUID"},
        PRIVATE: {"group 0099"},
    }
    assert list(find_identities([Held(save_dicom(given))], 1)) == list(KINDS)
    assert "MUSTERMANN" not in str(found)


def test_what_lies_in_sequences_is_named_by_its_place() -> None:
    inner, outer, given = Dataset(), Dataset(), make_dicom()
    inner.PatientID, inner.TypeOfPatientID = "PAT-4711", "TEXT"
    outer.AccessionNumber, outer.OtherPatientIDsSequence = "ACC-1", Sequence([inner])
    given.RequestAttributesSequence = Sequence([outer])
    given.SourceImageSequence = Sequence([])  # of nothing
    found = list_told(Held(save_dicom(given)))
    assert (WHO, "RequestAttributesSequence.AccessionNumber") in found
    assert (WHO, "RequestAttributesSequence.OtherPatientIDsSequence.PatientID") in found
    assert (OTHERS, "RequestAttributesSequence") in found
    assert "SourceImageSequence" not in {name for _, name in found}


def test_all_files_of_an_item_count(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.dcm" for number in range(4)]
    for number, path in enumerate(paths[:3]):
        tags = {"StationName": "CT2"} if number == 2 else {"AccessionNumber": "ACC-1"} if number == 1 else {}
        path.write_bytes(save_dicom(make_dicom(PatientIdentityRemoved="NO" if number else "YES", **tags)))
    series = DicomSeries(tuple(paths))  # the last of which is gone
    expected = {(WHO, "PatientName"), (WHO, "PatientID"), (WHO, "AccessionNumber"), (OTHERS, "StationName")}
    assert list_told(series) == {*expected, (UIDS, "SOPInstanceUID")}
    assert list_told(Held(tuple(path.read_bytes() for path in paths[:3]))) == list_told(series)
    assert list_told(paths[1]) == {*expected, (UIDS, "SOPInstanceUID")} - {(OTHERS, "StationName")}


def test_all_that_is_named_is_in_the_table_of_the_profile() -> None:
    given = make_dicom(StudyDate="20240102", StationName="CT2", KVP="120", ReferringPhysicianName="House")
    names = {name for _, name in list_told(Held(save_dicom(given)))}
    assert names == {element.keyword for element in given if find_change(element.tag) is not None}
    assert "KVP" not in names


@given(data=st.data())
def test_damaged_headers_are_no_error_and_tell_no_value(data: st.DataObject) -> None:
    whole = bytearray(save_dicom(make_dicom(StudyDescription="MUSTERMANN", StationName="MUSTERMANN")))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    assert "MUSTERMANN" not in str(list_told(Held(cut)))
