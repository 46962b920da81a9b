"""The audit of a data set: planted copies, turned and cropped ones, and crossing patients are found where they harm."""

from __future__ import annotations

import csv
import json
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from helpers import Notes, make_dicom, make_films, save_dicom
from thawline.auditing import audit_data, format_audit, write_audit
from thawline.cli import app
from thawline.errors import DataError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("THAWLINE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, str]]]:
    """One film each of 24 patients, and the rows of their manifest."""
    folder = make_films(tmp_path_factory.mktemp("films"), side=None, views=(1, 1), size_px=128)
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        return folder, list(csv.DictReader(stream))


def write(folder: Path, rows: list[dict[str, str]], names: tuple[str, ...]) -> Path:
    with (folder / "other.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return folder / "other.csv"


def plant(folder: Path, row: dict[str, str], name: str, change: Any, **others: str) -> dict[str, str]:
    with Image.open(folder / row["path"]) as image:
        change(image.convert("L")).save(folder / "images" / name)
    return {**row, "path": f"images/{name}", **others}


def turn(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.ROTATE_270)


def darken(image: Image.Image) -> Image.Image:
    return image.point(lambda value: int(0.8 * value))


def name_groups(audit: Any, name: str) -> list[list[str]]:
    (found,) = [each for each in audit.findings if each.name == name]
    return [[audit.paths[number] for number in group] for group in found.groups]


def test_a_clean_set_has_no_findings(films: tuple[Path, list[dict[str, str]]]) -> None:
    folder, rows = films
    audit = audit_data(write(folder, rows, ("path", "label", "patient")), listener=Notes())
    assert audit.findings == ()
    assert not audit.is_fatal
    first, second, *rest = format_audit(audit).splitlines()
    assert first == "data, items (patients):"
    assert second.startswith("  all: healthy ")
    assert rest[0].startswith("on a test part of a fifth of the patients")
    assert rest[1:] == ["nothing found"]


def test_what_is_planted_is_found_where_it_harms(films: tuple[Path, list[dict[str, str]]]) -> None:
    folder, rows = films
    first, second, third, fourth = rows[:4]
    other = {"healthy": "lesion", "lesion": "healthy"}
    everyone = [{**row, "split": "test" if number % 5 == 0 else "train"} for number, row in enumerate(rows)]
    planted = [
        plant(folder, first, "turned.png", turn, split="train"),  # its film is in test
        plant(folder, second, "darker.png", darken, label=other[second["label"]], split="train"),
        plant(folder, third, "another.png", darken, patient="someone else", split="train"),
        plant(folder, fourth, "same.png", lambda image: image, split="train"),
    ]
    audit = audit_data(write(folder, [*everyone, *planted], ("path", "label", "patient", "split")), listener=Notes())
    assert name_groups(audit, "near-duplicates across splits") == [sorted([first["path"], "images/turned.png"])]
    assert name_groups(audit, "near-duplicates with different labels") == [
        sorted([second["path"], "images/darker.png"])
    ]
    assert name_groups(audit, "near-duplicates across patients") == [sorted([third["path"], "images/another.png"])]
    assert name_groups(audit, "identical images") == [sorted([fourth["path"], "images/same.png"])]
    assert len(name_groups(audit, "near-duplicates")) == 3
    assert name_groups(audit, "patients across splits") == [sorted([first["path"], "images/turned.png"])]
    assert audit.is_fatal
    assert [each.severity for each in audit.findings] == ["fatal", "severe", "severe", "severe", "note", "note"]
    text = format_audit(audit)
    assert f"  - {', '.join(sorted([first['path'], 'images/turned.png']))}" in text
    found = json.dumps(audit.to_json())
    assert all(row["patient"] not in found and row["path"] not in found for row in rows)


def test_the_command_exits_as_what_it_finds_is_grave(films: tuple[Path, list[dict[str, str]]]) -> None:
    folder, rows = films
    both = [{**rows[0], "split": "test"}, *({**row, "split": "train"} for row in rows[1:])]
    planted = plant(folder, rows[0], "copy.png", lambda image: image, split="train")
    path = write(folder, [*both, planted], ("path", "label", "patient", "split"))
    done = CliRunner().invoke(app, ["audit", str(path), "--json", "--quiet"])
    assert done.exit_code == 3
    names = [each["name"] for each in json.loads(done.stdout)["findings"]]
    assert names[:2] == ["patients across splits", "identical images across splits"]
    clean = CliRunner().invoke(app, ["audit", str(write(folder, rows, ("path", "label", "patient"))), "--quiet"])
    assert (clean.exit_code, clean.stdout.splitlines()[-1]) == (0, "nothing found")


def test_unreadable_items_are_a_finding_and_do_not_stop_it(films: tuple[Path, list[dict[str, str]]]) -> None:
    folder, rows = films
    (folder / "images" / "broken.png").write_bytes(b"no image")
    broken = {**rows[0], "path": "images/broken.png"}
    audit = audit_data(write(folder, [*rows, broken], ("path", "label", "patient")), listener=Notes())
    assert name_groups(audit, "unreadable items") == [["images/broken.png"]]


def test_unreadable_classes_leave_the_tables_and_the_unreadable(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(8):
            (tmp_path / label / f"{number}.png").write_bytes(b"no image")
    audit = audit_data(tmp_path, listener=Notes())
    assert [(each.name, len(each.groups)) for each in audit.findings] == [("unreadable items", 16)]
    Image.fromarray(np.eye(20, dtype=np.uint8)).save(tmp_path / "a" / "0.png")
    assert [len(each.groups) for each in audit_data(tmp_path, listener=Notes()).findings] == [15]
    assert format_audit(audit).startswith("data, items (patients):")


def test_volumes_are_audited_by_their_middle_slices(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    volumes = np.cumsum(draw.normal(size=(12, 9, 40, 40)), axis=2)
    volumes[7] = volumes[3][:, ::-1]  # mirrored
    spread = (volumes - volumes.min()) / np.ptp(volumes)
    np.savez(tmp_path / "stack.npz", images=(255 * spread).astype(np.uint8), labels=np.arange(12) % 2)
    audit = audit_data(tmp_path / "stack.npz", listener=Notes())
    assert [each.groups for each in audit.findings if each.name == "near-duplicates"] == [((3, 7),)]


def test_a_volume_whose_middle_slice_is_blank_is_no_error(tmp_path: Path) -> None:
    volumes = np.random.default_rng(0).integers(0, 256, (12, 9, 40, 40)).astype(np.uint8)
    volumes[5, 4] = 7
    np.savez(tmp_path / "stack.npz", images=volumes, labels=np.arange(12) % 2)
    found = audit_data(tmp_path / "stack.npz", listener=Notes()).findings
    assert [(each.name, each.groups) for each in found] == [("nearly blank images", ((5,),))]


def test_modalities_that_go_along_with_the_label_are_found(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for number in range(60):
        label, modality = ("a", "MR") if number % 2 else ("b", "CT")
        (tmp_path / label).mkdir(exist_ok=True)
        stored = draw.integers(0, 4096, (32, 32)).astype(np.uint16)
        found = make_dicom(stored, Modality=modality, PatientID=str(number), StationName="WARD7")
        (tmp_path / label / f"{number}.dcm").write_bytes(save_dicom(found))
    audit = audit_data(tmp_path, listener=Notes())
    (mixed,) = [each for each in audit.findings if each.name == "mixed modalities"]
    assert {audit.dataset.items[number].label for (number,) in mixed.groups} == {"a", "b"}
    assert mixed.text.startswith("MR (30), CT (30)")
    assert "shortcut: modality" in {each.name for each in audit.findings if each.severity == "severe"}
    assert "WARD7" not in json.dumps(audit.to_json()) + format_audit(audit)


def write_volumes(folder: Path) -> Path:
    """Twelve series of eight slices with a table of labels; of the fourth two slices are lost, the sixth is tilted."""
    draw = np.random.default_rng(0)
    for number in range(12):
        tilt = np.radians(14.0 if number == 5 else 0.0)
        about = {"PatientID": f"XK-4711-{number}", "Modality": "CT", "StudyInstanceUID": f"1.2.{number}"}
        about |= {"SeriesInstanceUID": f"1.2.{number}.1", "PixelSpacing": [1, 1]}
        about |= {"ImageOrientationPatient": [1, 0, 0, 0, float(np.cos(tilt)), float(np.sin(tilt))]}
        (folder / f"s{number:02d}").mkdir(parents=True)
        for place in set(range(8)) - ({3, 4} if number == 3 else set()):
            where = {"SOPInstanceUID": f"1.2.{number}.1.{place}", "ImagePositionPatient": [0, 0, 5 * place]}
            found = make_dicom(draw.integers(0, 900, (24, 24)).astype(np.uint16), **about, **where)
            (folder / f"s{number:02d}" / f"{place}.dcm").write_bytes(save_dicom(found))
    rows = [f"1.2.{number},{number % 2}" for number in range(12)]
    (folder / "labels.csv").write_text("\n".join(["study,label", *rows, ""]), "utf-8")
    return folder


def test_series_that_are_no_whole_volumes_are_named_and_shown(tmp_path: Path) -> None:
    data, notes = write_volumes(tmp_path / "data"), Notes()
    audit = audit_data(data, listener=notes)
    faults = {each.name: each for each in audit.findings if each.name in ("missing slices", "tilted series")}
    assert {name: each.groups for name, each in faults.items()} == {"missing slices": ((3,),), "tilted series": ((5,),)}
    assert faults["missing slices"].severity == "severe"
    text = format_audit(audit)
    assert "  - s03/0.dcm: 2 of 8 slices missing\n" in text
    assert "  - s05/0.dcm: tilted by 14.0°" in text
    assert any("2 of 12 series are not whole volumes:\n  - s03/0.dcm: 2 of 8 slices" in note for note in notes.warnings)
    page = write_audit(audit, tmp_path / "out").read_text("utf-8")
    assert "2 of 8 slices missing</li>" in page
    assert "XK-4711" not in page + text + json.dumps(audit.to_json())


def test_bad_input_is_the_data_sets_own_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        audit_data(tmp_path / "nowhere")


def take_some(data: Path, folder: Path, every: int, paths: Container[str] = ()) -> Path:
    """Write a manifest of every so many-th item of real data, and of those with these absolute paths."""
    with (data / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        rows = [{**row, "path": str(data / row["path"])} for row in csv.DictReader(stream)]
    kept = [row for number, row in enumerate(rows) if number % every == 0 or row["path"] in paths]
    with (folder / "some.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(kept[0]))
        writer.writeheader()
        writer.writerows(kept)
    return folder / "some.csv"


@pytest.mark.realdata
def test_the_same_slices_are_labelled_both_ways_in_covid_ct(shared_data: Path, tmp_path: Path) -> None:
    """Two figures of one paper stand in its test part as COVID and in its training part as NonCOVID."""
    data = shared_data / "covid-ct"
    wanted = [[f"{data}/images/ct_{number}.jpg" for number in pair] for pair in (("0348", "0544"), ("0349", "0545"))]
    some = take_some(data, tmp_path, 4, {path for pair in wanted for path in pair})
    audit = audit_data(some, allow_outside=True, listener=Notes())
    assert name_groups(audit, "near-duplicates with different labels") == wanted
    assert not audit.is_fatal


@pytest.mark.realdata
def test_the_sources_of_chest_xray3_differ_by_class(shared_data: Path, tmp_path: Path) -> None:
    """Its classes were gathered from collections of their own, which sizes, borders and backgrounds tell apart."""
    audit = audit_data(take_some(shared_data / "chest-xray3", tmp_path, 2), allow_outside=True, listener=Notes())
    low = {each.source: each.low for each in audit.shortcuts}
    assert min(low["size"], low["border"], low["background"]) > 0.65
    severe = {each.name for each in audit.findings if each.severity == "severe"}
    assert {"shortcut: border", "shortcut: background"} <= severe


@pytest.mark.realdata
def test_the_known_copies_of_brain_mri_are_found(shared_data: Path) -> None:
    audit = audit_data(shared_data / "brain-mri", listener=Notes())
    assert len(name_groups(audit, "identical images")) == 22


def test_the_page_shows_an_example_of_each_finding(films: tuple[Path, list[dict[str, str]]], tmp_path: Path) -> None:
    folder, rows = films
    (folder / "images" / "broken.png").write_bytes(b"no image")
    planted = [plant(folder, rows[0], "turned.png", turn), {**rows[1], "path": "images/broken.png"}]
    path = write(folder, [*rows, *planted], ("path", "label", "patient"))
    done = CliRunner().invoke(app, ["audit", str(path), "--out", str(tmp_path / "out"), "--quiet"])
    assert done.exit_code == 0
    assert str(tmp_path / "out" / "audit.html") in done.stdout.replace("\n", "")
    page = (tmp_path / "out" / "audit.html").read_text("utf-8")
    found = json.loads((tmp_path / "out" / "audit.json").read_text("utf-8"))
    names = [each["name"] for each in found["findings"]]
    assert {"near-duplicates", "unreadable items"} <= set(names)
    assert all(name.capitalize() in page for name in names)
    n_shown = sum(len(group) for each in found["findings"] for group in each["shown"])
    assert page.count("<img") == n_shown >= 2
    assert ("healthy" in page, "built-in" in page) == (True, False)
    n_healthy = sum(row["label"] == "healthy" for row in [*rows, planted[0], planted[1]])
    assert f'<td class="n">{n_healthy} (' in page
    assert all(row["path"] not in page and row["patient"] not in page for row in rows)
    again = CliRunner().invoke(app, ["audit", str(path), "--out", str(tmp_path / "out"), "--quiet"])
    assert (again.exit_code, "new or empty folder" in again.output) == (2, True)
