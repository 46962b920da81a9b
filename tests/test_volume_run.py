"""A run on volumes: a slice of each, three as channels, or a bag; and a model that takes the same of new ones."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

import thawline
from helpers import Notes, make_dicom, make_films, save_dicom
from thawline.predict import predict_files
from thawline.types import BAG, Reading

pytestmark = pytest.mark.slow
FROZEN = {"strategy": "feature_extractor", "controls": "none"}


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films as the middle slices of volumes, between two of noise."""
    folder = tmp_path_factory.mktemp("volumes")
    drawn = make_films(tmp_path_factory.mktemp("drawn"), contrast=0.8)
    with (drawn / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    noise = np.random.default_rng(0).integers(0, 255, (58, 58, 2)).astype(np.uint8)
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, ["path", "label", "patient"])
        writer.writeheader()
        for number, row in enumerate(rows):
            with Image.open(drawn / row["path"]) as image:
                film = np.asarray(image.convert("L"))[::-1, ::-1].T
            values = np.stack([noise[..., 0], film, noise[..., 1]], axis=-1)
            nibabel.save(nibabel.Nifti1Image(values, np.diag([1, 1, 8, 1])), folder / f"{number}.nii.gz")
            writer.writerow({"path": f"{number}.nii.gz", "label": row["label"], "patient": row["patient"]})
    return folder


def read_choices(finished: thawline.RunResult) -> dict[str, Any]:
    return {choice["name"]: choice["value"] for choice in finished.plan["choices"]}


def check_model(finished: thawline.RunResult, volumes: Path, reading: Reading) -> None:
    """Hold the model against the predictions of its run."""
    model = finished.load_model()
    assert model.contract.reading == reading
    with (finished.folder / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        tests = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    names = [name for name in tests[0] if name.startswith("p_")]
    expected = [[float(row[name]) for name in names] for row in tests]
    found = model.predict_proba([volumes / row["item"] for row in tests])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.ptp(found[:, 0]) > 1e-3


@pytest.mark.parametrize(
    ("options", "reading"),
    [
        ({"frame": "middle"}, Reading((), "middle")),
        ({"dimensions": "2.5d_neighbours"}, Reading((), "middle", dimensions="2.5d_neighbours")),
        ({"dimensions": "2.5d_orthogonal"}, Reading(dimensions="2.5d_orthogonal")),
    ],
    ids=["slice", "neighbours", "orthogonal"],
)
def test_a_model_of_volumes_takes_the_slices_of_its_run(
    volumes: Path, tmp_path: Path, tiny_file: Path, options: dict[str, str], reading: Reading
) -> None:
    about = {**FROZEN, "weights": tiny_file, "backbone": "tiny", "calibration": "none", **options}  # or all are alike
    finished = thawline.run(volumes, tmp_path / "run", listener=Notes(), **about)
    assert read_choices(finished)["dimensions"] == reading.dimensions
    check_model(finished, volumes, reading)


def test_without_an_option_volumes_are_bags(volumes: Path, tmp_path: Path, tiny_file: Path) -> None:
    about = {**FROZEN, "weights": tiny_file, "backbone": "tiny", "controls": "handcrafted", "pooling": "max"}
    finished = thawline.run(volumes, tmp_path / "run", listener=Notes(), **about)
    choices = read_choices(finished)
    assert "<li>Slices 3 to 3, median 3.</li>" in finished.report.read_text("utf-8")
    assert [choices[name] for name in ("dimensions", "slices", "n_slices", "pooling")] == [BAG, "spread:16", 3, "max"]
    check_model(finished, volumes, Reading(dimensions=BAG, slices="spread:16", n_slices=3, pooling="max"))


def test_a_bag_is_thawed_and_delivered_as_it_was_judged(volumes: Path, tmp_path: Path, tiny_file: Path) -> None:
    about = {"weights": tiny_file, "backbone": "tiny", "thaw_line": "blocks.4", "strategy": "fine_tuning", "folds": 2}
    about |= {"views": 1, "controls": "none", "budget": "none", "final": "ensemble", "slices": "all"}
    finished = thawline.run(volumes, tmp_path / "run", listener=Notes(), **about)
    assert finished.metrics["chosen"]["thaw_line"] == "blocks.4"
    check_model(finished, volumes, Reading(dimensions=BAG, slices="all", n_slices=3))


def test_attention_over_slices_is_a_rung_of_its_own(volumes: Path, tmp_path: Path, tiny_file: Path) -> None:
    about = {
        "weights": tiny_file,
        "backbone": "tiny",
        "thaw_line": "slice_pooling",
        "strategy": "fine_tuning",
        "folds": 2,
    }
    about |= {"views": 1, "controls": "none", "budget": "none", "final": "refit", "pooling": "attention"}
    about |= {"calibration": "none", "seed": 1}  # the one might make all alike, and so does the training of seed 0
    finished = thawline.run(volumes, tmp_path / "run", listener=Notes(), **about)
    assert finished.metrics["chosen"]["thaw_line"] == "slice_pooling"
    check_model(finished, volumes, Reading(dimensions=BAG, slices="spread:16", n_slices=3, pooling="attention"))


@pytest.mark.parametrize("dimensions", ["3d_inflated", "3d_acs"])
def test_a_network_of_three_dimensions_is_thawed_and_delivered(volumes: Path, tmp_path: Path, dimensions: str) -> None:
    about = {
        "dimensions": dimensions,
        "size_px": 64,
        "thaw_line": "conv_head",
        "strategy": "fine_tuning",
        "folds": 2,
    }
    about |= {"views": 1, "controls": "none", "budget": "none", "final": "ensemble"}
    finished = thawline.run(volumes, tmp_path / "run", listener=Notes(), **about)
    assert finished.metrics["chosen"]["thaw_line"] == "conv_head"
    check_model(finished, volumes, Reading(dimensions=dimensions, slices="spread:16", n_slices=3))


def test_a_run_on_dicom_series_and_a_folder_of_such_to_predict(volumes: Path, tmp_path: Path, tiny_file: Path) -> None:
    folder = tmp_path / "archive"
    with (volumes / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for number, row in enumerate(rows):
        values = np.asanyarray(nibabel.load(volumes / row["path"]).dataobj)  # type: ignore[attr-defined]
        (folder / str(number)).mkdir(parents=True)
        for place in range(values.shape[2]):
            height = 80 if (number, place) == (0, 2) else 8 * place  # a gap below the last slice of the first series
            about = {"PatientID": row["patient"], "Modality": "MR", "StudyInstanceUID": f"1.2.{number}"}
            about |= {"SeriesInstanceUID": f"1.2.{number}.1", "SOPInstanceUID": f"1.2.{number}.1.{place}"}
            about |= {"ImagePositionPatient": [0, 0, height], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
            found = make_dicom(values[::-1, ::-1, place].T.astype(np.uint16), PixelSpacing=[1, 1], **about)
            found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID
            (folder / str(number) / f"{place}.dcm").write_bytes(save_dicom(found))
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(
            [["study", "label"], *([f"1.2.{number}", row["label"]] for number, row in enumerate(rows))]
        )
    about = {**FROZEN, "weights": tiny_file, "backbone": "tiny"}
    finished = thawline.run(folder, tmp_path / "run", listener=Notes(), **about)
    assert read_choices(finished)["n_slices"] == 3
    found = json.loads((finished.folder / "audit.json").read_text("utf-8"))["findings"]
    (missing,) = [each for each in found if each["name"] == "missing slices"]
    assert (missing["groups"], missing["remarks"]) == ([[0]], ["1 of 4 slices missing"])
    assert "1 of 4 slices missing</li>" in finished.report.read_text("utf-8")
    with (finished.folder / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        expected = {row["item"]: row for row in csv.DictReader(stream) if row["split"] == "test"}
    notes = Notes()
    table = predict_files(finished.folder, [folder], listener=notes)
    assert any(note.startswith(f"1 of {len(rows)} series are not whole volumes") for note in notes.warnings)
    assert any(f"{folder / '0' / '0.dcm'}: 1 of 4 slices missing" in note for note in notes.warnings)
    predicted = {Path(row["item"]).relative_to(folder).as_posix(): row for row in csv.DictReader(io.StringIO(table))}
    assert len(predicted) == len(rows)
    for item, row in expected.items():
        for name in (each for each in row if each.startswith("p_")):
            assert float(predicted[item][name]) == pytest.approx(float(row[name]), abs=1e-4)
