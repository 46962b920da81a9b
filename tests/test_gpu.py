"""On a GPU: the code that runs on a processor comes to the same there. Skipped where torch finds none."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import thawline
from helpers import Notes, make_films
from thawline.learn.engine import allowed_precisions, detect_hardware, open_engine, smallest_cosine
from thawline.learn.weights import find_weights
from thawline.share.bundle import load_model

pytestmark = pytest.mark.slow

FAST = {"thaw_line": "conv_head", "folds": 2, "views": 1}
LEAST_COSINE = {"f32": 0.9999, "bf16": 0.99}


@pytest.fixture(scope="module", autouse=True)
def card() -> str:
    """The name of the GPU."""
    found = detect_hardware().cuda
    if found is None:
        pytest.skip("there is no GPU that torch can use")
    return found


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_films(tmp_path_factory.mktemp("films"), n_patients=30, contrast=0.6)


def run(films: Path, out: Path, **options: Any) -> thawline.RunResult:
    return thawline.run(films, out, listener=Notes(), **{**FAST, "device": "cuda", **options})


@pytest.fixture(scope="module")
def finished(films: Path, tmp_path_factory: pytest.TempPathFactory) -> thawline.RunResult:
    """One finished run above the top line."""
    return run(films, tmp_path_factory.mktemp("finished") / "run")


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_features_are_those_of_the_processor(precision: str) -> None:
    gpu, processor = detect_hardware("cuda"), detect_hardware("cpu")
    if precision not in allowed_precisions(gpu):
        pytest.skip(f"this GPU has no {precision} of its own")
    weights = find_weights("efficientnet_lite0")
    contract = weights.architecture.contract()
    images = np.random.default_rng(0).integers(0, 256, (5, contract.size_px, contract.size_px, 3), np.uint8)
    there = open_engine(weights, dataclasses.replace(contract, precision=precision), gpu)
    here = open_engine(weights, contract, processor)
    found, expected = (np.concatenate(list(engine.run([images]))) for engine in (there, here))
    assert smallest_cosine(found, expected) >= LEAST_COSINE[precision]
    if precision == "f32":
        assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()


def test_a_run_says_what_it_ran_on(finished: thawline.RunResult, card: str) -> None:
    assert json.loads((finished.folder / "spec.json").read_text("utf-8"))["environment"]["gpu"] == card
    assert finished.metrics["chosen"]["thaw_line"] == "conv_head"


def test_its_model_predicts_the_same_on_the_processor(finished: thawline.RunResult, films: Path) -> None:
    files = sorted((films / "images").iterdir())
    there, here = (load_model(finished.folder, device=device).predict_proba(files) for device in ("cuda", "cpu"))
    np.testing.assert_allclose(there, here, atol=0.05)  # in bf16, which GPU and processor round differently


@pytest.mark.parametrize("line", ["conv_head", "blocks.4"])
def test_the_same_seed_gives_the_same_probabilities(line: str, films: Path, tmp_path: Path) -> None:
    one, other = (run(films, tmp_path / name, thaw_line=line) for name in ("one", "other"))
    assert (one.folder / "predictions.csv").read_bytes() == (other.folder / "predictions.csv").read_bytes()


def test_everything_can_be_trained_from_images_that_no_cache_holds(films: Path, tmp_path: Path) -> None:
    found = run(films, tmp_path / "run", strategy="fine_tuning_from_scratch", thaw_line=None)
    assert found.metrics["chosen"]["strategy"] == "fine_tuning_from_scratch"


def test_a_compiled_training_comes_to_much_the_same(finished: thawline.RunResult, films: Path, tmp_path: Path) -> None:
    compiled = run(films, tmp_path / "run", compile=True)
    (one,), (other,) = finished.metrics["ladder"], compiled.metrics["ladder"]
    assert one["log_loss"] == pytest.approx(other["log_loss"], abs=0.05)
