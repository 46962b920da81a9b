"""Identities are said by tag and place, never by value."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from helpers import make_dicom, save_dicom
from slides import add_label
from thawline.audit.identities import DATES, PRIVATE, WHO
from thawline.audit.marks import PLACES
from thawline.audit.pictures import Pictures
from thawline.audit.privacy import find_labels, find_private, judge_labels, judge_privacy
from thawline.data.slide_phantoms import draw_slide, write_picture


def make_pictures(n_items: int) -> Pictures:
    return Pictures(np.zeros((n_items, 64, 64), np.uint8), *np.zeros((2, n_items, len(PLACES)), np.uint8))


def test_identities_are_a_group_each_and_what_narrows_down_is_a_group_a_kind() -> None:
    who = {"PatientName": (0,), "PatientID": (0, 1), "OtherPatientIDsSequence.PatientID": (1,)}
    dates = {f"Date{number}": tuple(range(number)) for number in range(1, 8)}
    identities, hints = judge_privacy({WHO: who, DATES: dates, PRIVATE: {"group 0099": (2, 4)}}, make_pictures(7))
    assert "PatientName (1), PatientID (2), OtherPatientIDsSequence.PatientID (1); nothing" in identities.text
    assert identities.groups == ((0,), (0, 1), (1,))
    assert hints.groups == ((0, 1, 2, 3, 4, 5, 6), (2, 4))
    assert hints.text.startswith(
        "dates, times and ages: Date7 (7), Date6 (6), Date5 (5), Date4 (4), Date3 (3) and 2 more; "
        "private elements: group 0099 (2); thawline deidentify"
    )


def test_burned_in_text_by_place() -> None:
    pictures = make_pictures(4)
    pictures.letters[1, 0] = pictures.letters[3, 0] = 12
    pictures.letters[3, 8] = 4
    pictures.signs[2, 4] = 1  # a single letter names nobody
    (finding,) = judge_privacy({}, pictures)
    assert "top left (2), bottom right (1)" in finding.text
    assert finding.groups == ((1, 3), (3,))


def test_no_finding_holds_a_value(tmp_path: Path) -> None:
    (tmp_path / "film.dcm").write_bytes(save_dicom(make_dicom(InstitutionName="A clinic", StudyDate="20240102")))
    found = list(find_private([tmp_path / "film.dcm"], make_pictures(1), 1))
    assert [each.name for each in found] == ["identity-bearing tags", "tags that narrow down who it is"]
    assert not [value for value in ("MUSTERMANN", "A clinic", "20240102", "1.2.3") if value in str(found)]


def test_nothing_is_said_where_nothing_is_found() -> None:
    assert list(judge_privacy({}, make_pictures(3))) == []


def test_pictures_of_slide_labels_are_named(tmp_path: Path) -> None:
    picture = draw_slide(0, 300)[0]
    paths = [write_picture(tmp_path / f"{number}.svs", picture, 0.5) for number in range(4)]
    add_label(paths[1], "label")
    add_label(paths[2], "label")
    add_label(paths[2], "macro")
    (tmp_path / "damaged.svs").write_bytes(b"II*\x00 no slide")
    contents = [*paths, tmp_path / "damaged.svs", picture]
    assert find_labels(contents, 2) == {"label": (1, 2), "macro": (2,)}
    (finding,) = judge_labels(find_labels(contents, 1))
    assert finding.name == "pictures of slide labels"
    assert "label (2), macro (1)" in finding.text
    assert not list(judge_labels({}))
