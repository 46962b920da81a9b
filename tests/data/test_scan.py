"""The one look at every item: facts, digests, and a reason for each that cannot be read."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from helpers import make_dicom, save_dicom
from thawline.data import scan as scan_module
from thawline.data.readers import content_digest, describe
from thawline.data.scan import Look, scan
from thawline.types import Reading, SilentListener


class Counter(SilentListener):
    """Remembers what it was told."""

    def __init__(self):
        self.said = []

    def begin(self, step, total=None):
        self.said.append((step, total))

    def advance(self, units=1):
        self.said.append(units)

    def end(self, note=""):
        self.said.append(note)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (20 + n, 30, 3), dtype=np.uint8) for n in range(3)]
    pixels.append(rng.integers(0, 4096, (16, 16), dtype=np.uint16))
    paths = [tmp_path / f"{n}.png" for n in range(4)]
    for path, array in zip(paths, pixels, strict=True):
        Image.fromarray(array).save(path)
    return paths


def test_looks_are_in_order_and_say_what_each_item_is(files):
    looks = scan(files, 2, SilentListener())
    assert [look.facts for look in looks] == [describe(path.read_bytes()) for path in files]
    assert [look.digest for look in looks] == [content_digest(path.read_bytes()) for path in files]
    assert [look.facts.height_px for look in looks] == [20, 21, 22, 16]
    assert (looks[3].facts.bits, looks[3].facts.channels) == (16, 1)
    assert all(look.problem == "" for look in looks)


def test_a_second_look_decodes_nothing_and_says_the_same(files, monkeypatch, tmp_path):
    first = scan(files, 2, SilentListener())
    monkeypatch.setattr(scan_module, "describe", lambda data: pytest.fail("decoded again"))
    moved = files[0].rename(tmp_path / "another name.png")
    assert scan([moved, *files[1:]], 2, SilentListener()) == first


def test_changed_content_is_looked_at_again(files):
    before = scan(files, 2, SilentListener())
    Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20)).save(files[1])
    after = scan(files, 2, SilentListener())
    assert after[1].facts.width_px == 20
    assert after[0] == before[0]
    assert after[1].digest != before[1].digest


def test_unreadable_items_keep_their_place_and_reason(files, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    files[2].write_bytes(files[2].read_bytes()[:100])
    listener = Counter()
    looks = scan([files[0], tmp_path / "text.png", files[2], tmp_path / "absent.png", files[3]], 2, listener)
    assert [look.facts is None for look in looks] == [False, True, True, True, False]
    assert "the file starts with b'no image'" in looks[1].problem
    assert looks[2].problem
    assert "No such file" in looks[3].problem
    assert looks[1] == Look("", None, looks[1].problem)
    assert listener.said == [("reading", 5), 1, 1, 1, 1, 1, "5 items, 3 unreadable"]


def test_arrays_are_items_too():
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (12, 9), dtype=np.uint8), rng.normal(size=(8, 8)).astype(np.float32)]
    arrays.append(np.zeros((10, 10), np.uint8))
    for _ in range(2):
        first, second, blank = scan(arrays, 1, SilentListener())
        assert (first.facts.width_px, first.facts.height_px, first.facts.bits) == (9, 12, 8)
        assert (second.facts.minimum, second.facts.maximum) == (arrays[1].min(), arrays[1].max())
        assert "all 10 x 10 pixels are 0" in blank.problem


def test_identical_pixels_in_different_formats_share_a_pixel_digest(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for name in ("a.png", "b.bmp", "c.tif"):
        Image.fromarray(pixels).save(tmp_path / name)
    looks = scan([tmp_path / "a.png", tmp_path / "b.bmp", tmp_path / "c.tif"], 1, SilentListener())
    assert len({look.facts.pixel_digest for look in looks}) == 1
    assert len({look.digest for look in looks}) == 3


def test_facts_are_kept_as_the_look_goes_on(files, monkeypatch):
    monkeypatch.setattr(scan_module, "_SHARD_ROWS", 2)
    contents = [*files, files[0]]

    class Interrupt(SilentListener):
        """Stops the look after the third item."""

        seen = 0

        def advance(self, units=1):
            self.seen += units
            if self.seen == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(contents, 1, Interrupt())
    decoded = []
    monkeypatch.setattr(scan_module, "describe", lambda data, _: decoded.append(content_digest(data)) or describe(data))
    scan(contents, 1, SilentListener())
    assert decoded == [content_digest(path.read_bytes()) for path in files[2:]]


def test_facts_of_another_reading_are_facts_of_their_own(tmp_path):
    file = tmp_path / "film.dcm"
    file.write_bytes(save_dicom(make_dicom()))
    facts = [
        look.facts
        for reading in (Reading(), Reading(("20/10",)), Reading(), Reading(("20/10", "32/64", "40/8")))
        for look in scan([file], 1, SilentListener(), reading)
    ]
    assert facts[0] == facts[2]
    assert len({each.pixel_digest for each in facts}) == 3
    assert [each.channels for each in facts] == [1, 1, 1, 3]
