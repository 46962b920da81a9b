"""What is seen of an item: its picture, and marks on any of its slices; kept in the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from helpers import make_dicom, save_dicom
from thawline.audit.marks import PLACES
from thawline.audit.pictures import MOST_SLICES, Pictures, draw_pictures
from thawline.data.readers import content_digest
from thawline.errors import DataError
from thawline.types import SilentListener


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "cache"))


def draw(folder: Path, *data: bytes) -> Pictures:
    paths = [folder / str(number) for number in range(len(data))]
    for path, each in zip(paths, data, strict=True):
        path.write_bytes(each)
    return draw_pictures(paths, [content_digest(each) for each in data], 1, SilentListener())


def make_cine(n_frames: int, marked: int | None) -> bytes:
    """Frames of a disc, one of which has a name and a sign on it."""
    rows, columns = np.indices((200, 300))
    frames = np.repeat((60 + 80 * (np.hypot(rows - 100, columns - 150) < 60))[None].astype(np.uint8), n_frames, axis=0)
    if marked is not None:
        picture = Image.fromarray(frames[marked])
        ImageDraw.Draw(picture).text((8, 8), "MUSTERMANN", fill=255, font_size=16)
        ImageDraw.Draw(picture).text((270, 170), "R", fill=255, font_size=18)
        frames[marked] = np.asarray(picture)
    return save_dicom(make_dicom(frames.reshape(-1, 300), Rows=200, NumberOfFrames=str(n_frames)))


@pytest.mark.parametrize("marked", [0, 3, 9])
def test_marks_on_any_frame_are_seen(tmp_path: Path, marked: int) -> None:
    seen = draw(tmp_path, make_cine(10, marked), make_cine(10, None))
    assert seen.letters[0, PLACES.index("top left")] >= 8
    assert seen.signs[0, PLACES.index("bottom right")] == 1
    assert not seen.letters[1].any()
    assert not seen.signs[1].any()
    assert seen.grey.shape == (2, 64, 64)


def test_of_many_frames_the_first_the_last_and_some_between_are_seen(tmp_path: Path) -> None:
    n_frames = 3 * MOST_SLICES
    seen = draw(tmp_path, *[make_cine(n_frames, marked) for marked in (0, 1, n_frames // 2, n_frames - 1)])
    assert seen.letters.any(axis=1).tolist() == [True, False, True, True]


def test_what_was_seen_once_is_taken_from_the_cache(tmp_path: Path) -> None:
    data = make_cine(3, 1)
    first = draw(tmp_path, data)
    (tmp_path / "0").unlink()
    again = draw_pictures([tmp_path / "0"], [content_digest(data)], 1, SilentListener())
    np.testing.assert_array_equal(first.letters, again.letters)
    np.testing.assert_array_equal(first.take(np.array([0])).signs, again.signs)
    with pytest.raises(DataError, match="cannot be read any more"):
        draw_pictures([tmp_path / "0"], ["00" * 32], 1, SilentListener())
