"""Identities are said by tag and place, never by value."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from helpers import make_dicom
from slides import add_label
from thawline.audit.marks import PLACES
from thawline.audit.pictures import Pictures
from thawline.audit.privacy import find_identities, find_labels, judge_labels, judge_privacy
from thawline.data.slide_phantoms import draw_slide, write_picture


class Held:
    """Bytes where a file would be."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self) -> bytes:
        return self.data


def save(**tags: str) -> Held:
    stream = io.BytesIO()
    make_dicom(**tags).save_as(stream, enforce_file_format=True)
    return Held(stream.getvalue())


def make_pictures(n_items: int) -> Pictures:
    return Pictures(np.zeros((n_items, 64, 64), np.uint8), *np.zeros((2, n_items, len(PLACES)), np.uint8))


def test_tags_with_a_value_and_their_items() -> None:
    contents = [save(InstitutionName="A clinic"), save(PatientName="", PatientID="9"), np.zeros((20, 20), np.uint8),
                Held(b"no image"), save(PatientIdentityRemoved="YES")]  # fmt: skip
    found = find_identities(contents, 2)
    assert found == {"PatientName": (0,), "PatientID": (0, 1), "InstitutionName": (0,)}
    (finding,) = judge_privacy(found, make_pictures(5))
    assert "PatientName (1), PatientID (2), InstitutionName (1)" in finding.text
    assert "MUSTERMANN" not in str(finding)
    assert "A clinic" not in str(finding)
    assert finding.groups == ((0,), (0, 1), (0,))


def test_burned_in_text_by_place() -> None:
    pictures = make_pictures(4)
    pictures.letters[1, 0] = pictures.letters[3, 0] = 12
    pictures.letters[3, 8] = 4
    pictures.signs[2, 4] = 1  # a single letter names nobody
    (finding,) = judge_privacy({}, pictures)
    assert "top left (2), bottom right (1)" in finding.text
    assert finding.groups == ((1, 3), (3,))


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
