"""Prediction with a delivered model: the same numbers as in the run, from any place, for any way to name images."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import thawline
from helpers import Notes, make_films
from thawline.errors import DataError, UnreadableItemsError
from thawline.predict import predict_files
from thawline.share.bundle import Model

pytestmark = pytest.mark.slow

Row = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Finished:
    data: Path
    run: Path

    def read_rows(self, split: str = "test") -> list[Row]:
        with (self.run / "predictions.csv").open(encoding="utf-8", newline="") as stream:
            return [row for row in csv.DictReader(stream) if row["split"] == split]


def make_run(folder: Path, **changes: Any) -> Finished:
    make_films(folder / "data", **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAWLINE_DATA", str(folder / "ledger"))
        thawline.run(folder / "data", folder / "run", head="linear", listener=Notes())
    return Finished(folder / "data", folder / "run")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return make_run(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="module")
def model(finished: Finished) -> Model:
    return thawline.load_model(finished.run)


def predict(finished: Finished, *paths: Path, **options: Any) -> list[Row]:
    text = predict_files(finished.run, list(paths), **{"listener": Notes(), **options})
    return list(csv.DictReader(io.StringIO(text)))


def test_test_part_is_predicted_as_in_the_run(finished: Finished) -> None:
    rows = finished.read_rows()
    found = predict(finished, *(finished.data / row["item"] for row in rows))
    assert [row["item"] for row in found] == [str(finished.data / row["item"]) for row in rows]
    for name in ("p_healthy", "p_lesion"):
        expected = [float(row[name]) for row in rows]
        assert [float(row[name]) for row in found] == pytest.approx(expected, abs=1e-4)
    assert all(row["predicted"] == ("lesion" if float(row["p_lesion"]) >= 0.5 else "healthy") for row in found)


@pytest.mark.slow
def test_model_folder_alone_on_a_machine_with_a_fresh_cache(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished.run / "model", tmp_path / "elsewhere")
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "cache"))
    rows, notes = finished.read_rows(), Notes()
    model = thawline.load_model(tmp_path / "elsewhere", listener=notes)
    found = model.predict_proba([finished.data / row["item"] for row in rows], notes)
    assert found[:, 1] == pytest.approx([float(row["p_lesion"]) for row in rows], abs=1e-4)
    assert notes.warnings == []
    assert (tmp_path / "cache" / "features").is_dir()


def test_renamed_and_repacked_images_are_predicted_alike(finished: Finished, tmp_path: Path) -> None:
    row = finished.read_rows()[0]
    with Image.open(finished.data / row["item"]) as image:
        image.save(tmp_path / "other.tif")
    (found,) = predict(finished, tmp_path / "other.tif")
    assert float(found["p_lesion"]) == pytest.approx(float(row["p_lesion"]), abs=1e-6)


def test_folders_files_and_manifests_name_each_image_once(finished: Finished, tmp_path: Path) -> None:
    everything = sorted(str(path) for path in (finished.data / "images").iterdir())
    whole = predict(finished, finished.data)
    assert [row["item"] for row in whole] == everything
    assert predict(finished, finished.data / "manifest.csv") == whole
    first = Path(everything[0])
    assert predict(finished, first, finished.data / "images", first) == whole
    manifest = finished.data / "some.csv"
    manifest.write_text("path\nimages/p0002_v1.png\nimages/p0001_v1.png\n")
    some = predict(finished, manifest)
    assert [Path(row["item"]).name for row in some] == ["p0002_v1.png", "p0001_v1.png"]
    manifest.unlink()


def test_manifest_that_leaves_its_folder_needs_permission(finished: Finished, tmp_path: Path) -> None:
    image = finished.data / "images" / "p0001_v1.png"
    (tmp_path / "list.csv").write_text(f"path\n{image}\n")
    with pytest.raises(DataError, match="--allow-outside"):
        predict(finished, tmp_path / "list.csv")
    (row,) = predict(finished, tmp_path / "list.csv", allow_outside=True)
    assert row["item"] == str(image)


def test_json_lines_hold_what_the_table_holds(finished: Finished) -> None:
    image = finished.data / "images" / "p0001_v1.png"
    (row,) = predict(finished, image)
    line = json.loads(predict_files(finished.run, [image], as_json=True, listener=Notes()))
    said = {True: "yes", False: "no"}
    assert {key: said[value] if isinstance(value, bool) else str(value) for key, value in line.items()} == row
    assert list(row)[-3:] == ["set", "abstain", "unfamiliar"]


def test_arrays_and_paths_give_the_same(finished: Finished, model: Model) -> None:
    paths = [finished.data / row["item"] for row in finished.read_rows()]
    pixels = [np.asarray(Image.open(path)) for path in paths]
    expected = model.predict_proba(paths)
    assert np.array_equal(model.predict_proba(pixels), expected)
    assert np.array_equal(model.predict_proba([str(path) for path in paths]), expected)
    assert np.array_equal(model.predict_proba(np.stack(pixels)), expected)
    assert model.predict(paths) == [("healthy", "lesion")[int(row[1] >= 0.5)] for row in expected]
    assert model.predict_proba([]).shape == (0, 2)


def test_an_image_saved_by_numpy_is_predicted_alike(finished: Finished, tmp_path: Path) -> None:
    image = sorted((finished.data / "images").iterdir())[0]
    with Image.open(image) as opened:
        np.save(tmp_path / "film.npy", np.asarray(opened), allow_pickle=False)
    one, other = predict(finished, image, tmp_path / "film.npy")
    assert {**one, "item": ""} == {**other, "item": ""}


def test_unreadable_images_are_refused_or_left_out(finished: Finished, model: Model, tmp_path: Path) -> None:
    (tmp_path / "b.png").write_text("no image")
    shutil.copy(finished.data / "images" / "p0001_v1.png", tmp_path / "a.png")
    with pytest.raises(UnreadableItemsError, match="1 of 2 items cannot be read") as caught:
        predict(finished, tmp_path)
    assert [path for path, _ in caught.value.problems] == [str(tmp_path / "b.png")]
    notes = Notes()
    (row,) = predict(finished, tmp_path, skip_unreadable=True, listener=notes)
    assert row["item"] == str(tmp_path / "a.png")
    assert notes.warnings == ["left out 1 unreadable images of 2"]
    found = model.predict_proba([tmp_path / "b.png", tmp_path / "a.png"], skip_unreadable=True)
    assert np.isnan(found[0]).all()
    assert float(row["p_lesion"]) == pytest.approx(found[1, 1], abs=1e-8)


def test_eight_bit_colour_is_taken_by_a_model_of_grey_images(finished: Finished, model: Model) -> None:
    pixels = np.asarray(Image.open(finished.data / "images" / "p0001_v1.png"))
    assert np.array_equal(model.predict_proba([np.stack([pixels] * 3, axis=2)]), model.predict_proba([pixels]))


@pytest.mark.slow
def test_values_outside_the_range_of_the_run_are_said(tmp_path: Path) -> None:
    finished = make_run(tmp_path, bits=16)
    model, notes = thawline.load_model(finished.run), Notes()
    assert model.contract.wide_range == (0.0, 4095.0)
    film = np.asarray(Image.open(finished.data / "images" / "p0001_v1.png"))
    assert film.dtype == np.uint16
    inside = model.predict_proba([film], notes)
    assert notes.warnings == []
    beyond = film.copy()
    beyond[0, 0], clipped = 60_000, film.copy()
    clipped[0, 0] = 4095
    found = model.predict_proba([film, beyond, clipped], notes)
    assert len(notes.warnings) == 1
    assert notes.warnings[0].startswith("1 of 3 images have values outside 0 to 4095")
    assert found[0] == pytest.approx(inside[0], abs=1e-12)
    assert found[1] == pytest.approx(found[2], abs=1e-12)
    rows = finished.read_rows()
    again = model.predict_proba([finished.data / row["item"] for row in rows])
    assert again[:, 1] == pytest.approx([float(row["p_lesion"]) for row in rows], abs=1e-4)
