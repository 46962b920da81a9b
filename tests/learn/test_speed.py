"""How fast a backbone is: measured apart, kept, found again on the same hardware only."""

from __future__ import annotations

import dataclasses
import json
import subprocess

import pytest

from thawline.errors import ModelError, WeightsError
from thawline.learn import speed as speed_module
from thawline.learn.engine import detect_hardware
from thawline.learn.speed import Speed, find_speed, measure_apart, measure_speed, name_hardware, read_speeds
from thawline.learn.weights import find_weights
from thawline.types import Hardware

HERE = Hardware(2, 4096)


@pytest.fixture(autouse=True)
def own_data(tmp_path, monkeypatch):
    monkeypatch.setenv("THAWLINE_DATA", str(tmp_path / "data"))


def keep(*speeds):
    speed_module.write_json(speed_module.speeds_path(), [dataclasses.asdict(each) for each in speeds])


def test_it_is_found_on_the_same_hardware_at_the_same_size_only():
    kept = Speed("vgg16", 224, "f32", name_hardware(HERE), 12.5, 900)
    keep(kept)
    assert find_speed("vgg16", 224, "f32", HERE) == kept
    for about in (("vgg19", 224, "f32", HERE), ("vgg16", 256, "f32", HERE), ("vgg16", 224, "bf16", HERE)):
        assert find_speed(*about) is None
    assert find_speed("vgg16", 224, "f32", dataclasses.replace(HERE, cores=4)) is None
    assert find_speed("vgg16", 224, "f32", dataclasses.replace(HERE, cuda="H100")) is None


@pytest.mark.parametrize("raw", ["", "{", "[1]", '[{"name": "x"}]', "{}"])
def test_what_cannot_be_read_counts_for_nothing(raw):
    speed_module.speeds_path().parent.mkdir()
    speed_module.speeds_path().write_text(raw)
    assert read_speeds() == []


@pytest.mark.slow
def test_the_rates_are_those_of_a_clock(monkeypatch):
    monkeypatch.setattr(speed_module, "LEAST_SECONDS", 0.2)
    found = measure_speed(find_weights("efficientnet_lite0"), detect_hardware("cpu"))
    assert (found.name, found.size_px, found.line) == ("efficientnet_lite0", 224, "blocks.3")
    assert 0.5 < found.prefix_items_s < 50_000
    assert 0.5 < found.training_items_s < 50_000
    assert 0 < found.prefix_mib <= found.training_mib


def test_a_rate_is_items_over_seconds(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(speed_module.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(speed_module, "LEAST_SECONDS", 2.0)
    assert speed_module._time(lambda: 30) == 60 / 3


@pytest.mark.slow
def test_a_process_of_its_own_measures_and_what_it_found_is_kept(tiny_file, monkeypatch):
    monkeypatch.setenv("THAWLINE_WEIGHTS", str(tiny_file.parent))
    found = measure_apart("tiny")
    assert (found.name, found.hardware) == ("tiny", name_hardware(detect_hardware()))
    assert read_speeds() == [found]


def test_a_second_measurement_takes_the_place_of_the_first(monkeypatch):
    other, first = (Speed(name, 224, "f32", name_hardware(HERE), 12.5, 900) for name in ("vgg16", "efficientnet_lite0"))
    keep(first, other)
    second = dataclasses.replace(first, prefix_items_s=20.0)
    printed = json.dumps(dataclasses.asdict(second))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, printed, ""))
    assert measure_apart("EfficientNet-Lite0") == second
    assert read_speeds() == [other, second]


def test_a_process_that_fails_is_said(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nMemoryError: too large\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ModelError, match="measuring efficientnet_lite0 ended with code 1: MemoryError: too large"):
        measure_apart("efficientnet_lite0")
    assert read_speeds() == []


def test_weights_that_are_not_here_are_said(monkeypatch):
    monkeypatch.setattr("thawline.learn.weights.fetch_network", lambda _: pytest.fail("asked a hub"))
    with pytest.raises(WeightsError, match="no weights for lenet5"):
        measure_apart("LeNet-5")
