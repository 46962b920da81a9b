"""A finished model on data that it has never seen: what it reaches, how the data differ, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

import thawline
from helpers import Notes, make_films, make_marked_films, read_rows, write_rows
from thawline.errors import DataError, LeakError, ModelError, OptionError, OutputError, UnreadableItemsError
from thawline.files import file_digest
from thawline.predict import predict_files
from thawline.validating import Validation, validate

pytestmark = pytest.mark.slow


def rename_patients(data: Path, prefix: str = "elsewhere-") -> Path:
    """Let a hospital of its own number the patients of a manifest."""
    rows = read_rows(data / "manifest.csv")
    write_rows(data / "manifest.csv", [row | {"patient": prefix + row["patient"]} for row in rows])
    return data


def split_healthy(data: Path) -> Path:
    """Make three classes of two, the third known by how bright the image is."""
    rows = read_rows(data / "manifest.csv")
    for row in rows:
        if row["label"] == "healthy" and row["scanner"] == "B":
            row["label"] = "bright"
            with Image.open(data / row["path"]) as image:
                Image.fromarray(np.clip(np.array(image) + 60.0, 0, 255).astype(np.uint8)).save(data / row["path"])
    write_rows(data / "manifest.csv", rows)
    return data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on 60 patients, and 40 others of another hospital."""
    folder = tmp_path_factory.mktemp("validating")
    make_films(folder / "data", n_patients=60, contrast=1.0)
    rename_patients(make_films(folder / "other", n_patients=40, contrast=1.0, seed=5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAWLINE_DATA", str(folder / "ledger"))
        thawline.run(folder / "data", folder / "run", head="linear", threshold="sensitivity:0.8", listener=Notes())
    return folder


@pytest.fixture(autouse=True)
def own_ledger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("THAWLINE_DATA", str(tmp_path / "ledger"))


@pytest.fixture(scope="module")
def validated(folder: Path) -> Validation:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAWLINE_DATA", str(folder / "ledger"))
        return validate(folder / "run", folder / "other", folder / "validated", listener=Notes())


def test_the_figures_are_those_of_what_predict_says(folder: Path, validated: Validation) -> None:
    rows = read_rows(validated.folder / "predictions.csv")
    files = [folder / "other" / row["item"] for row in rows]
    predicted = list(csv.DictReader(io.StringIO(predict_files(folder / "run", files, listener=Notes()))))
    for name in ("predicted", "p_lesion", "set", "abstain", "unfamiliar"):
        assert [row[name] for row in rows] == [row[name] for row in predicted], name
    truth = np.array([row["label"] == "lesion" for row in rows])
    scores = np.array([float(row["p_lesion"]) for row in rows])
    section = validated.metrics["external"]
    assert section["auc"]["value"] == pytest.approx(roc_auc_score(truth, scores))
    called = scores >= validated.metrics["task"]["threshold"]
    assert section["sensitivity"]["value"] == pytest.approx(called[truth].mean())
    counts = validated.metrics["decision"]["counts"]
    assert counts["true_positives"] == (truth & called).sum()
    assert "bootstrap" in validated.metrics["decision"]["rates"]["sensitivity"]["method"]  # of thresholds as well
    sets = validated.metrics["doubts"]["sets"]["coverage"]["value"]
    assert sets == pytest.approx(np.mean([row["label"] in row["set"].split("|") for row in rows]))
    assert list(validated.metrics["calibration"]) == ["lesion"]
    assert list(validated.metrics["subgroups"]) == ["scanner", "view"]


def test_it_is_held_against_the_run(folder: Path, validated: Validation) -> None:
    own = json.loads((folder / "run" / "metrics.json").read_text("utf-8"))
    compared = validated.metrics["compared"]
    assert compared["with"] == "test"
    found = compared["metrics"]["auc"]
    value = validated.metrics["external"]["auc"]["value"] - own["test"]["auc"]["value"]
    assert found["difference"]["value"] == pytest.approx(value)
    assert found["difference"]["low"] < value < found["difference"]["high"]
    assert (found["p_value"] < 0.05) == (found["difference"]["low"] > 0 or found["difference"]["high"] < 0)


def test_data_of_the_same_kind_have_no_drift_of_images(validated: Validation) -> None:
    drift = validated.metrics["drift"]
    assert all(found["n_outside"] == 0 for found in drift["images"]["ranges"].values())
    assert all(found["n_new"] == 0 for found in drift["images"]["kinds"].values())
    assert drift["familiarity"]["n_unfamiliar"] <= 0.15 * drift["familiarity"]["n_items"]
    assert drift["classes"]["p_values"]["classes"] > 0.9
    assert drift["probabilities"]["lesion"]["n_patients"] == {"development": 48, "external": 40}
    assert 0 <= drift["probabilities"]["lesion"]["own_test"]["p_value"] <= 1
    assert not [text for text in drift["notable"] if "Width" in text or "unlike" in text]


def test_other_images_are_said_to_be_other(folder: Path, tmp_path: Path) -> None:
    data = rename_patients(make_films(tmp_path / "wide", n_patients=30, contrast=1.0, seed=6), "far-")
    draw = np.random.default_rng(0)
    for path in (data / "images").iterdir():
        with Image.open(path) as image:
            large = np.array(image.resize((116, 58)), np.float64)
        noise = np.stack([large[..., ::-1]] + [draw.integers(0, 256, large.shape)] * 2, axis=-1)
        Image.fromarray(noise.astype(np.uint8)).save(path)
    drift = validate(folder / "run", data, tmp_path / "out", listener=Notes()).metrics["drift"]
    said = " ".join(drift["notable"])
    n_items = drift["images"]["n_items"]
    assert drift["images"]["ranges"]["width_px"]["n_outside"] == n_items
    assert f"Width: {n_items} of {n_items} outside the range of development, 58 to 58" in said
    assert "Channels: 3, of development 1" in said
    assert drift["familiarity"]["n_unfamiliar"] > 0.9 * n_items
    assert "are unlike those of development" in said
    assert drift["familiarity"]["quantiles"]["of_limit"][2] > 1


def test_the_run_stays_as_it_is_but_for_its_folder_of_validations(folder: Path) -> None:
    def digest() -> dict[str, str]:
        files = [path for path in (folder / "run").rglob("*") if path.is_file() and "validations" not in path.parts]
        return {str(path): file_digest(path) for path in files}

    before = digest()
    first, second = (validate(folder / "run", folder / "other", listener=Notes()) for _ in range(2))
    assert digest() == before
    names = [path.relative_to(folder / "run").as_posix() for path in (first.folder, second.folder)]
    assert names == ["validations/other-1", "validations/other-2"]
    assert first.metrics == second.metrics | {"openings": first.metrics["openings"]}
    assert second.metrics["openings"] == {"count": 2, "plans": 1}
    assert thawline.run(folder / "data", folder / "run", head="linear", threshold="sensitivity:0.8", listener=Notes())


def test_no_name_reaches_page_or_numbers(folder: Path, validated: Validation) -> None:
    rows = read_rows(folder / "other" / "manifest.csv")
    for name in ("validation.html", "metrics.json"):
        text = (validated.folder / name).read_text("utf-8")
        assert "elsewhere" not in text
        assert str(folder) not in text
        assert not [row["path"] for row in rows if Path(row["path"]).stem in text]
    page = validated.page.read_text("utf-8")
    assert page.count("<svg") == 5  # ROC, calibration, decision, risk, probabilities
    assert "External less" not in page
    assert "external less test" in page
    assert not re.findall(r"(?:src|href)=[\"'](?!#|data:)", page)


def test_patients_of_the_development_part_are_refused_without_a_name(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LeakError) as caught:
        validate(folder / "run", folder / "data", tmp_path / "out", listener=Notes())
    development = {row["patient"] for row in read_rows(folder / "run" / "splits.csv") if row["split"] == "development"}
    assert f"shares {len(development)} patients by id" in str(caught.value)
    assert caught.value.exit_code == 3
    assert not [name for name in development if name in str(caught.value)]
    assert not (tmp_path / "out").exists()


def test_the_same_images_by_other_patients_are_refused_or_said(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "copied"
    (data / "images").mkdir(parents=True)
    known = [row for row in read_rows(folder / "run" / "splits.csv") if row["split"] == "development"][:3]
    rows = read_rows(folder / "other" / "manifest.csv")
    for row in rows:
        (data / row["path"]).write_bytes((folder / "other" / row["path"]).read_bytes())
    for number, row in enumerate(known):
        with Image.open(folder / "data" / row["item"]) as image:
            image.save(data / f"images/copy{number}.bmp")  # other bytes, the same pixels
        shown = {"path": f"images/copy{number}.bmp", "label": row["label"], "patient": f"new-{number}"}
        rows.append({key: shown.get(key, "") for key in rows[0]})
    write_rows(data / "manifest.csv", rows)
    with pytest.raises(LeakError, match=r"0 patients by id and 3 images by their pixels"):
        validate(folder / "run", data, tmp_path / "out", listener=Notes())
    found = validate(folder / "run", data, tmp_path / "out", allow_leak=True, listener=Notes())
    assert found.metrics["overrides"] == ["--allow-leak"]
    assert found.metrics["shared"]["images"] == 3
    assert "--allow-leak: patients or images that the model has learnt from" in found.page.read_text("utf-8")


def test_what_cannot_be_judged_is_refused_before_anything_is_computed(folder: Path, tmp_path: Path) -> None:
    run, other, out = folder / "run", folder / "other", tmp_path / "out"
    with pytest.raises(OptionError, match=r"--prevalence: expected a share between 0 and 1, found 1\.5"):
        validate(run, other, out, prevalence=1.5)
    alike = tmp_path / "alike"
    alike.mkdir()
    (alike / "images").symlink_to(other / "images")
    write_rows(alike / "manifest.csv", [row | {"scanner": "A"} for row in read_rows(other / "manifest.csv")])
    with pytest.raises(OptionError, match=r"--subgroups: column 'scanner' says 'A' of every item"):
        validate(run, alike, out, subgroups="scanner", allow_outside=True)
    with pytest.raises(ModelError, match=r"expected the folder of a finished run, found no metrics\.json"):
        validate(run / "model", other, out)
    with pytest.raises(OptionError, match="no column 'sex'"):
        validate(run, other, out, subgroups="sex", listener=Notes())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine")
    with pytest.raises(OutputError, match="new or empty folder for the validation"):
        validate(run, other, tmp_path / "full")


def test_classes_that_the_model_does_not_know_are_named(folder: Path, tmp_path: Path) -> None:
    data = make_films(tmp_path / "data", n_patients=12)
    rows = read_rows(data / "manifest.csv")
    write_rows(data / "manifest.csv", [row | {"label": row["label"].replace("lesion", "Lesions")} for row in rows])
    with pytest.raises(
        DataError, match=r"(?s)those of the model, healthy, lesion; found 1 others.*Lesions \(did you mean lesion"
    ):
        validate(folder / "run", data, tmp_path / "out", listener=Notes())


def test_unreadable_items_are_refused_or_left_out(folder: Path, tmp_path: Path) -> None:
    data = rename_patients(make_films(tmp_path / "data", n_patients=24, seed=9))
    rows = read_rows(data / "manifest.csv")
    (data / rows[0]["path"]).write_bytes(b"no image")
    Image.fromarray(np.full((58, 58), 2000, np.uint16) + np.arange(58, dtype=np.uint16)).save(data / rows[1]["path"])
    with pytest.raises(UnreadableItemsError, match="2 of"):
        validate(folder / "run", data, tmp_path / "out", listener=Notes())
    found = validate(folder / "run", data, tmp_path / "out", skip_unreadable=True, listener=Notes())
    assert found.metrics["data"]["n_unreadable"] == found.metrics["data"]["n_left_out"] == 2
    assert found.metrics["external"]["n_items"] == len(rows) - 2
    assert "--skip-unreadable" in found.page.read_text("utf-8")


def test_the_command_prints_a_summary_or_all_numbers(folder: Path, tmp_path: Path) -> None:
    from thawline.cli import app

    runner = CliRunner()
    command = ["validate", str(folder / "run"), str(folder / "other"), "--quiet", "--out"]
    done = runner.invoke(app, [*command, str(tmp_path / "a")])
    assert done.exit_code == 0, done.output
    assert "External AUC 0." in done.output
    assert "AUC less that of the run's test part" in done.output
    assert f"Page: {tmp_path / 'a' / 'validation.html'}" in done.output
    numbers = json.loads(runner.invoke(app, [*command, str(tmp_path / "b"), "--json", "--prevalence", "0.1"]).stdout)
    assert numbers["metrics"]["decision"]["prevalence"] == 0.1
    refused = runner.invoke(app, ["validate", str(folder / "run"), str(folder / "data"), "--out", str(tmp_path / "c")])
    assert refused.exit_code == 3


def test_a_class_that_the_data_lack_is_said(tmp_path: Path) -> None:
    data = split_healthy(make_films(tmp_path / "data", n_patients=48, contrast=1.0))
    thawline.run(data, tmp_path / "run", head="linear", audit="none", hold_test=True, listener=Notes())
    other = rename_patients(make_films(tmp_path / "other", n_patients=24, contrast=1.0, seed=7))
    notes = Notes()
    found = validate(tmp_path / "run", other, tmp_path / "out", listener=notes)
    assert any("has no items of bright" in text for text in notes.warnings)
    with pytest.raises(OptionError, match=r"--prevalence 0\.1: belongs to a task of two classes, found 3"):
        validate(tmp_path / "run", other, tmp_path / "none", prevalence=0.1)
    metrics: dict[str, Any] = found.metrics
    assert metrics["data"]["missing_classes"] == ["bright"]
    assert metrics["external"]["per_class"]["bright"]["auc"]["value"] is None
    assert metrics["external"]["auc"]["value"] is None
    assert metrics["compared"] is None
    assert metrics["drift"]["classes"]["p_values"]["classes"] < 0.05
    page = found.page.read_text("utf-8")
    assert "There are no items of bright" in page
    assert "not held against" in page
    rows = read_rows(found.folder / "predictions.csv")
    truth = {name: np.array([row["label"] == name for row in rows]) for name in ("healthy", "lesion")}
    aucs = [roc_auc_score(own, [float(row[f"p_{name}"]) for row in rows]) for name, own in truth.items()]
    assert metrics["external"]["auc_present"]["value"] == pytest.approx(np.mean(aucs))
    assert "the mean of those that can be told, of healthy, lesion, each" in page


def test_several_labels_an_item(tmp_path: Path) -> None:
    data, _ = make_marked_films(tmp_path / "data")
    thawline.run(data, tmp_path / "run", head="linear", audit="none", hold_test=True, listener=Notes())
    other, _ = make_marked_films(tmp_path / "other", seed=8)
    rename_patients(other)
    rows = read_rows(other / "manifest.csv")
    write_rows(
        other / "manifest.csv", [{key: cell for key, cell in row.items() if key != "label:ring"} for row in rows]
    )
    with pytest.raises(OptionError, match="--subgroups scanner: belongs to one label an item"):
        validate(tmp_path / "run", other, tmp_path / "out", subgroups="scanner")
    found = validate(tmp_path / "run", other, tmp_path / "out", listener=Notes())
    assert found.metrics["data"]["missing_classes"] == ["ring"]
    assert found.metrics["external"]["per_class"]["ring"]["n_known"] == 0
    assert found.metrics["external"]["per_class"]["disc"]["auc"]["value"] > 0.7
    assert (found.metrics["decision"], found.metrics["doubts"], found.metrics["subgroups"]) == (None, None, None)
    assert list(found.metrics["drift"]["probabilities"]) == ["bar", "disc", "ring"]
    other, _ = make_marked_films(tmp_path / "unknown", seed=8)
    rows = [
        {key.replace("ring", "rings"): cell for key, cell in row.items()} for row in read_rows(other / "manifest.csv")
    ]
    write_rows(other / "manifest.csv", rows)
    with pytest.raises(DataError, match=r"(?s)those of the model, bar, disc, ring; found 1 others.*did you mean ring"):
        validate(tmp_path / "run", other, tmp_path / "none", listener=Notes())
