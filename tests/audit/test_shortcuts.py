"""Shortcuts: what is planted in headers and pixels is found with the right AUC, and nothing is where nothing is planted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from sklearn.metrics import roc_auc_score

from helpers import make_dicom, save_dicom
from thawline.audit.findings import SHORTCUT
from thawline.audit.pictures import Pictures, draw_pictures
from thawline.audit.shortcuts import (
    HEADERS,
    PIXELS,
    Shortcut,
    choose_items,
    find_shortcuts,
    gather_sources,
    judge_shortcuts,
    measure_shortcuts,
)
from thawline.data.readers import content_digest, describe
from thawline.types import SilentListener

N_ITEMS = 120
LABELS = np.arange(N_ITEMS) % 2
GROUPS = np.arange(N_ITEMS) // 4 * 2 + LABELS  # two items of a patient, of one class


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "cache"))


def save(folder: Path, plant: Any = None, plain: Any = None) -> dict[str, Shortcut]:
    """Save noise pictures, by ``plant`` where the label is 1, else by ``plain``, and return what predicts the labels."""
    draw, paths = np.random.default_rng(0), []
    for number, label in enumerate(LABELS):
        image = Image.fromarray(draw.integers(60, 200, (64, 64)).astype(np.uint8))
        paths.append(((plant if label else plain) or as_png)(image, folder / f"{number}.png"))
    data = [path.read_bytes() for path in paths]
    pictures = draw_pictures(paths, [content_digest(each) for each in data], 1, SilentListener())
    facts = [describe(each) for each in data]
    return {each.source: each for each in find_shortcuts(paths, facts, pictures, LABELS, GROUPS, 0, 1)}


def list_found(found: dict[str, Shortcut]) -> set[str]:
    return {each.name.removeprefix(SHORTCUT) for each in judge_shortcuts(list(found.values()))}


def as_png(image: Image.Image, path: Path) -> Path:
    image.save(path)
    return path


def as_jpeg(image: Image.Image, path: Path) -> Path:
    image.save(path.with_suffix(".jpg"), quality=95)
    return path.with_suffix(".jpg")


def with_frame(image: Image.Image, path: Path) -> Path:
    pixels = np.array(image)
    pixels[:3] = 255
    return as_png(Image.fromarray(pixels), path)


def with_corners(image: Image.Image, path: Path) -> Path:
    pixels = np.array(image)
    pixels[4:12, 4:12] = pixels[-12:-4, -12:-4] = 255  # inside of the border
    return as_png(Image.fromarray(pixels), path)


def with_words(text: str) -> Any:
    """Save a larger image with a text on a dark plate."""

    def save_as(image: Image.Image, path: Path) -> Path:
        wide = image.resize((128, 128))
        pen = ImageDraw.Draw(wide)
        pen.rectangle((28, 50, 106, 68), fill=60)
        pen.text((30, 52), text, fill=255, font_size=13)
        return as_png(wide, path)

    return save_as


def deeper(image: Image.Image, path: Path) -> Path:
    return as_png(Image.fromarray(np.asarray(image, np.uint16) * 257), path)


def wider(image: Image.Image, path: Path) -> Path:
    return as_png(image.resize((80, 64)), path)


def as_dicom(**tags: str) -> Any:
    """Save one and the same image with these tags, each as long in both classes: that of the file is a source as well."""

    def save_as(_: Image.Image, path: Path) -> Path:
        about = {"Manufacturer": "Maker A", "ManufacturerModelName": "Model 1", "StationName": "CT1", "Modality": "MR"}
        about |= {"SoftwareVersions": "1.0", "InstitutionName": "Clinic 1", **tags}
        path.write_bytes(save_dicom(make_dicom(**about)))
        return path

    return save_as


def as_photograph(maker: str, software: str) -> Any:
    """Save as JPEG with these tags of EXIF."""

    def save_as(image: Image.Image, path: Path) -> Path:
        exif = Image.Exif()
        exif[271], exif[305] = maker, software
        image.save(path.with_suffix(".jpg"), quality=95, exif=exif)
        return path.with_suffix(".jpg")

    return save_as


def test_nothing_is_found_where_nothing_is_planted(tmp_path: Path) -> None:
    found = save(tmp_path)
    assert "size" not in found  # all say the same
    assert list(judge_shortcuts(list(found.values()))) == []


@pytest.mark.parametrize(
    ("plant", "sources"),
    [
        (as_jpeg, {"file format", "compression"}),
        (with_frame, {"border", "background"}),
        (with_corners, {"corners", "background"}),
        (deeper, {"bit depth", "file format"}),
        (wider, {"size", "aspect"}),
    ],
)
def test_what_is_planted_is_found(tmp_path: Path, plant: Any, sources: set[str]) -> None:
    found = save(tmp_path, plant)
    assert all(found[source].auc > 0.99 for source in sources)
    assert sources <= list_found(found)
    for source in sources:
        shown = found[source].shown
        assert [{int(LABELS[item]) for item in group} for group in shown] == [{0}, {1}]


@pytest.mark.parametrize(
    ("tags", "source"),
    [
        ({"Modality": "CT"}, "modality"),
        ({"Manufacturer": "Maker B"}, "manufacturer"),
        ({"ManufacturerModelName": "Model 2"}, "manufacturer"),
        ({"StationName": "CT2"}, "station"),
        ({"SoftwareVersions": "2.0"}, "software"),
        ({"InstitutionName": "Clinic 2"}, "institution"),
    ],
    ids=lambda each: each if isinstance(each, str) else next(iter(each)),
)
def test_what_a_header_tells_is_found_by_its_own_name_and_no_other(
    tmp_path: Path, tags: dict[str, str], source: str
) -> None:
    found = save(tmp_path, as_dicom(**tags), as_dicom())
    assert list_found(found) == {source}
    assert found[source].auc > 0.99
    assert {int(LABELS[item]) for item in found[source].shown[1]} == {1}
    assert not [value for value in tags.values() if value in str(found)]


def test_the_maker_of_a_photograph_is_not_its_software(tmp_path: Path) -> None:
    by = as_photograph("Maker A", "1.0")
    (tmp_path / "maker").mkdir()
    (tmp_path / "software").mkdir()
    assert list_found(save(tmp_path / "maker", as_photograph("Maker B", "1.0"), by)) == {"manufacturer"}
    assert list_found(save(tmp_path / "software", as_photograph("Maker A", "2.0"), by)) == {"software"}


def test_burned_in_letters_are_found(tmp_path: Path) -> None:
    found = save(tmp_path, with_words("PORTABLE"), with_words(""))
    assert found["burned-in marks"].auc > 0.99
    assert "burned-in marks" in list_found(found)


@pytest.mark.parametrize("text", ["L", "AP"])
def test_single_letters_of_one_class_are_found(tmp_path: Path, text: str) -> None:
    found = save(tmp_path, with_words(text), with_words(""))
    assert found["burned-in marks"].auc > 0.99


def test_auc_is_that_of_the_rank_where_one_number_tells(tmp_path: Path) -> None:
    """A source of one noisy number: trees find about what ranking by the number itself gives."""
    draw = np.random.default_rng(1)
    labels, groups = np.arange(800) % 2, np.arange(800)
    values = draw.normal(size=800) + labels
    (found,) = measure_shortcuts({"size": values[:, None]}, labels, groups, 0, 1)
    assert found.auc == pytest.approx(roc_auc_score(labels, values), abs=0.04)
    assert found.low < found.auc < found.high


def test_a_patients_own_mark_is_no_shortcut() -> None:
    """Each patient has a number of its own, which tells labels only where a patient stands on both sides."""
    draw = np.random.default_rng(2)
    groups = np.repeat(np.arange(100), 4)
    labels = np.repeat(draw.integers(0, 2, 100), 4)
    values = np.repeat(draw.normal(size=100), 4)[:, None]
    (found,) = measure_shortcuts({"station": values}, labels, groups, 0, 1)
    assert found.auc == pytest.approx(0.5, abs=0.15)
    assert list(judge_shortcuts([found])) == []


def test_of_many_items_rare_classes_are_all_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thawline.audit.shortcuts.MOST_ITEMS", 100)
    labels = np.array([0] * 5000 + [1] * 30)
    chosen = choose_items(labels, 0)
    assert (int((labels[chosen] == 0).sum()), int((labels[chosen] == 1).sum())) == (50, 30)
    assert len(np.unique(chosen)) == 80
    assert choose_items(np.empty(0, int), 0).tolist() == []


def test_items_that_are_shown_keep_their_positions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thawline.audit.shortcuts.MOST_ITEMS", 60)
    found = save(tmp_path, wider)["size"]
    assert found.auc == 1.0
    assert all(int(LABELS[item]) == place for place, group in enumerate(found.shown) for item in group)


def test_one_class_has_no_shortcuts() -> None:
    assert measure_shortcuts({"size": np.arange(9.0)[:, None]}, np.zeros(9, int), np.arange(9), 0, 1) == []


def test_classes_of_one_patient_are_not_folded() -> None:
    labels = np.array([0] * 8 + [1])
    assert measure_shortcuts({"size": labels[:, None].astype(float)}, labels, np.arange(9), 0, 1) == []


def test_severity_and_remedy_follow_bound_and_source() -> None:
    found = [Shortcut("border", 0.8, 0.75, 0.9, ((1,),)), Shortcut("size", 0.7, 0.65, 0.8, ((2,),)),
             Shortcut("station", 0.6, 0.55, 0.8, ((3,),))]  # fmt: skip
    border, size = judge_shortcuts(found[::-1])
    assert (border.severity, size.severity) == ("severe", "note")
    assert "0.800 [0.750, 0.900]" in border.text
    assert "crop or cover" in border.text
    assert "balance" in size.text


def test_volumes_and_arrays_have_no_header(tmp_path: Path) -> None:
    arrays = [np.random.default_rng(n).integers(0, 256, (40, 40)).astype(np.uint8) for n in range(6)]
    grey = np.zeros((6, 64, 64), np.uint8)
    pictures = Pictures(grey, *np.zeros((2, 6, 9), np.uint8))
    found = gather_sources(arrays, [describe(each) for each in arrays], pictures, 1)
    assert found == {}
    assert not set(HEADERS) & set(PIXELS)
