"""A run on whole slides, from the forecast to the report; one that was killed; and how much memory a large slide takes."""

from __future__ import annotations

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
from PIL import Image

import thawline
from helpers import Notes
from slides import save_dicom_slide
from thawline.auditing import audit_data
from thawline.data.slide_phantoms import CLASSES, MANIFEST, draw_slide, make_slides, write_large_slide
from thawline.errors import DataError, ModelError, OptionError, UnreadableItemsError
from thawline.job import plan_only
from thawline.learn.features import SHARD_SECONDS
from thawline.options import RunOptions
from thawline.predict import predict_files
from thawline.types import BAG

pytestmark = pytest.mark.slow
N_SLIDES, SIDE = 16, 640
MOST_MIB = 2048


class Steps(Notes):
    """Keeps what each step came to as well; interrupts once some units of a step are done."""

    def __init__(self, stop_in: str = "", after: int = 0) -> None:
        super().__init__()
        self.ends: dict[str, str] = {}
        self.done: dict[str, int] = {}
        self.stop_in, self.after, self.step = stop_in, after, ""

    def begin(self, step: str, total: int | None = None) -> None:
        self.step = step

    def advance(self, units: int = 1) -> None:
        self.done[self.step] = self.done.get(self.step, 0) + units
        if self.step == self.stop_in and self.done[self.step] >= self.after:
            raise KeyboardInterrupt

    def end(self, note: str = "") -> None:
        self.ends[self.step] = note


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_slides(tmp_path_factory.mktemp("slides"), N_SLIDES, side_px=SIDE)


@pytest.fixture(scope="module")
def about(tiny_file: Path) -> dict[str, Any]:
    """Options that keep a run short: a tiny network, which sees tiles of 64 px at 1 µm per pixel."""
    return {"weights": tiny_file, "backbone": "tiny", "folds": 2, "controls": "none", "budget": "none", "mpp": 1.0}


@pytest.fixture(scope="module")
def finished(slides: Path, about: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> thawline.RunResult:
    listener = Steps()
    found = thawline.run(
        slides, tmp_path_factory.mktemp("run") / "run", listener=listener, strategy="feature_extractor", **about
    )
    (found.folder / "ends.json").write_text(json.dumps(listener.ends), "utf-8")
    return found


def read_choices(run: thawline.RunResult) -> dict[str, Any]:
    return {choice["name"]: choice["value"] for choice in run.plan["choices"]}


def check_model(run: thawline.RunResult, slides: Path) -> None:
    """Hold the model against the predictions of its run."""
    with (run.folder / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        tests = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    expected = [[float(row[f"p_{name}"]) for name in CLASSES] for row in tests]
    found = run.load_model().predict_proba([slides / row["item"] for row in tests])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.ptp(found[:, 0]) > 1e-3


def test_a_run_learns_from_slides_and_its_model_takes_new_ones(finished: thawline.RunResult, slides: Path) -> None:
    choices = read_choices(finished)
    assert [choices[name] for name in ("dimensions", "slices", "mpp", "tile_px", "size_px", "aspect", "pooling")] == [
        *(BAG, "spread:256", 1.0, 64, 64, "squash", "mean")
    ]
    assert finished.metrics["validation"]["auc"]["value"] > 0.8
    assert finished.metrics["validation"]["n_patients"] < finished.metrics["validation"]["n_items"]
    check_model(finished, slides)
    page = finished.report.read_text("utf-8")
    assert "tiles of tissue" in page


def test_tiles_are_counted_and_the_time_is_forecast_before_the_work(finished: thawline.RunResult) -> None:
    ends = json.loads((finished.folder / "ends.json").read_text("utf-8"))
    lines = [json.loads(line) for line in (finished.folder / "journal.jsonl").read_text("utf-8").splitlines()]
    (forecast,) = [line["value"] for line in lines if line["unit"] == "tiles"]
    assert list(ends).index("tiles") < list(ends).index("features")
    assert forecast["slides"] == N_SLIDES
    assert forecast["tissue"] >= forecast["to_compute"] > 5 * N_SLIDES
    assert forecast["tiles_per_second"] > 0
    assert ends["tiles"].startswith(
        f"{N_SLIDES} slides, {forecast['tissue']:,} tiles of tissue, {forecast['to_compute']:,} to compute, "
    )
    computed = sum(int(ends[step].split()[0]) for step in ("features", "features, test"))
    assert computed == forecast["to_compute"]


def test_attention_is_trained_on_the_same_tiles(
    finished: thawline.RunResult, slides: Path, about: dict[str, Any], tmp_path: Path
) -> None:
    listener = Steps()
    found = thawline.run(
        slides,
        tmp_path / "run",
        listener=listener,
        pooling="attention",
        thaw_line="slice_pooling",
        audit="none",
        **about,
    )
    assert found.metrics["chosen"]["thaw_line"] == "slice_pooling"
    assert [read_choices(found)[name] for name in ("lines", "views")] == [["slice_pooling"], 0]
    assert listener.ends["features"].startswith("all ")  # of the run before, whose mean they were
    assert listener.ends["features, test"].startswith("all ")
    check_model(found, slides)
    predict_files(found.folder, [slides / "002.svs"], heat_maps=tmp_path / "maps", listener=Steps())
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["002.csv", "002.png"]


def test_a_run_that_is_stopped_goes_on_at_the_tile(
    slides: Path, about: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "cache"))
    about = {**about, "strategy": "feature_extractor", "audit": "none", "precision": "f32"}
    with pytest.raises(KeyboardInterrupt):
        thawline.run(slides, tmp_path / "run", listener=Steps("features", 100), **about)
    listener = Steps()
    found = thawline.run(slides, tmp_path / "run", listener=listener, **about)
    whole = thawline.run(slides, tmp_path / "again", listener=Steps(), **about)
    assert found.metrics["validation"]["auc"] == whole.metrics["validation"]["auc"]
    n_left = int(listener.ends["features"].split()[0])
    with monkeypatch.context() as patch:
        patch.setenv("THAWLINE_CACHE", str(tmp_path / "empty"))
        listener = Steps()
        thawline.run(slides, tmp_path / "anew", listener=listener, **about)
    n_whole = int(listener.ends["features"].split()[0])
    assert n_whole - n_left >= 100


KILLED = """
import json, sys, time
from pathlib import Path
import thawline
from thawline.learn import features
from thawline.types import SilentListener

class Slow(SilentListener):
    step = ""
    def begin(self, step, total=None):
        self.step = step
    def advance(self, units=1):
        if self.step == "features":
            print(units, time.monotonic(), flush=True)
            time.sleep(0.2)

features.SHARD_SECONDS = float(sys.argv[1])
thawline.run(sys.argv[2], sys.argv[3], listener=Slow(), weights=Path(sys.argv[4]), **json.loads(sys.argv[5]))
"""


def kill_after(n_tiles: int, command: list[str]) -> list[tuple[int, float]]:
    """Start a run in a process of its own, kill it when so many tiles are done, and return how many were done when."""
    done: list[tuple[int, float]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            units, moment = line.split()
            done.append((int(units), float(moment)))
            if sum(each for each, _ in done) >= n_tiles:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    return done


def test_a_run_that_is_killed_loses_no_more_than_a_shard_of_time(
    slides: Path, about: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "cache"))
    about = {**about, "strategy": "feature_extractor", "audit": "none", "precision": "f32", "nested": "never"}
    shard_seconds, run = 0.5, tmp_path / "run"
    plain = json.dumps({name: value for name, value in about.items() if name != "weights"})
    given = [str(shard_seconds), str(slides), str(run), str(about["weights"]), plain]
    command = [sys.executable, "-c", KILLED, *given]
    done = kill_after(100, command)
    kept = sum(path.stat().st_size for path in (tmp_path / "cache" / "features").glob("*/*.keys")) // 32
    moments = [moment for _, moment in done]
    longest = max(later - earlier for earlier, later in itertools.pairwise(moments))
    safe = moments[-1] - shard_seconds - 2 * longest  # a shard is written with the batch that ends after its time
    assert kept > 0
    assert sum(units for units, moment in done if moment < safe) <= kept <= sum(units for units, _ in done)
    listener = Steps()
    resumed = thawline.run(slides, run, listener=listener, **about)
    n_left = int(listener.ends["features"].split()[0])
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "empty"))
    whole = thawline.run(slides, tmp_path / "whole", listener=listener, **about)
    assert n_left == int(listener.ends["features"].split()[0]) - kept
    assert (run / "predictions.csv").read_bytes() == (whole.folder / "predictions.csv").read_bytes()
    assert resumed.metrics["validation"] == whole.metrics["validation"]


def test_what_a_kill_may_lose_is_what_the_guide_says() -> None:
    guide = (Path(__file__).parents[1] / "docs" / "guide" / "README.md").read_text("utf-8")
    assert f"a kill at most {SHARD_SECONDS:.0f} seconds" in guide


def test_slides_and_images_are_not_mixed_and_models_take_their_own(
    finished: thawline.RunResult, slides: Path, about: dict[str, Any], tmp_path: Path
) -> None:
    image = tmp_path / "image.png"
    Image.fromarray(draw_slide(0, 128)[0]).save(image)
    rows = (slides / MANIFEST).read_text("utf-8").splitlines()
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for row in rows[1:]:
        name = row.partition(",")[0]
        (mixed / name).symlink_to(slides / name)
    image.rename(mixed / "image.png")
    (mixed / MANIFEST).write_text("\n".join([*rows, "image.png,normal,another"]), "utf-8")
    options = RunOptions(**about, allow_outside=True)
    with pytest.raises(
        DataError, match=rf"{N_SLIDES} items are whole slides and 1 are not: expected one kind"
    ) as caught:
        plan_only(mixed, options, listener=Steps())
    assert "image.png" in str(caught.value)
    with pytest.raises(UnreadableItemsError, match="an image, but the model was made for whole slides"):
        finished.load_model().predict_proba([mixed / "image.png"])
    with pytest.raises(ModelError, match="the model takes the mean of its tiles, to which all count alike"):
        predict_files(finished.folder, [slides / "000.svs"], heat_maps=tmp_path / "maps", listener=Steps())
    for changes, message in (
        ({"frame": "middle"}, "whole slides are bags of tiles: expected --dimensions auto or 2.5d_bag"),
        ({"dimensions": "3d_acs"}, "whole slides are bags of tiles"),
        ({"slices": "informative:4"}, "and --slices informative, which would read every tile"),
        ({"mpp": 0.0}, r"--mpp: expected 0\.05 to 50 µm per pixel, found 0\.0"),
    ):
        with pytest.raises(OptionError, match=message):
            plan_only(slides, RunOptions(**{**about, **changes}), listener=Steps())


def test_the_audit_looks_at_overviews(slides: Path) -> None:
    found = audit_data(slides, listener=Steps())
    assert not found.is_fatal
    assert "cannot be read" not in str(found.to_json())


def test_dicom_series_of_slides_are_items(slides: Path, about: dict[str, Any], tmp_path: Path) -> None:
    rows = ["series,label"]
    for number in range(10):
        label = CLASSES[number % 2]
        picture = draw_slide(number, 320, tumour=0.13 * (number % 2))[0]
        patient = f"patient {number}"
        tags = {"SeriesInstanceUID": f"1.2.{number}.1", "StudyInstanceUID": f"1.2.{number}", "PatientID": patient}
        save_dicom_slide(tmp_path / "archive" / str(number), picture, 0.5, **tags)
        rows.append(f"1.2.{number}.1,{label}")
    (tmp_path / "archive" / "labels.csv").write_text("\n".join(rows), "utf-8")
    plan = plan_only(tmp_path / "archive", RunOptions(**about), listener=Steps())
    assert plan["tile_px"] == 64
    assert plan["n_slices"] > 1


PROGRAM = """
import resource, sys
from pathlib import Path
from thawline.cost import peak_rss_mib
from thawline.data.scan import scan
from thawline.learn.engine import detect_hardware
from thawline.learn.features import extract
from thawline.learn.weight_files import read_sidecar
from thawline.types import Contract, Reading, SilentListener
path, weights = Path(sys.argv[1]), read_sidecar(Path(sys.argv[2]), "tiny")
about, hardware = weights.architecture, detect_hardware("cpu")
reading = Reading(dimensions="auto", mpp=0.5, tile_px=224)
(look,) = scan([path], hardware.cores, SilentListener(), reading)
bag = Reading(dimensions="2.5d_bag", slices="all", n_slices=look.facts.slices, mpp=0.5, tile_px=224)
contract = Contract(about.size_px, about.mean, about.std, reading=bag)
found = extract([path], [look.digest], weights, contract, hardware, SilentListener())
print(look.facts.width_px, look.facts.slices, found.n_images, peak_rss_mib())
"""


def test_a_slide_of_sixty_thousand_pixels_takes_less_than_two_gib(tmp_path: Path, tiny_file: Path) -> None:
    path = write_large_slide(tmp_path / "large.svs", 60_000, tissue_share=0.1)
    with openslide.OpenSlide(str(path)) as slide:
        assert slide.dimensions == (60_000, 60_000)
        assert slide.level_count == 4
    command = [sys.executable, "-c", PROGRAM, str(path), str(tiny_file)]
    environment = {**os.environ, "THAWLINE_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    side_px, n_tiles, n_computed, peak_mib = map(int, done.stdout.split())
    assert side_px == 60_000
    assert n_computed == n_tiles
    assert abs(n_tiles - (60_000 * 0.1 / 224) ** 2) < 0.2 * n_tiles
    assert peak_mib < MOST_MIB
