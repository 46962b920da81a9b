"""What predicting costs: of which items, by which passes, and that nothing of it comes from the cache."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from helpers import Notes
from thawline.inference import Pass, count_computed, describe_passes, measure_inference, take_test, weigh
from thawline.journal import Journal
from thawline.learn.features import Extraction


def make_cost(seconds: float, **changes: Any) -> dict[str, Any]:
    cost = {"seconds": seconds, "cpu_seconds": 2 * seconds, "energy_wh": seconds / 100, "peak_rss_mib": 70}
    return {**cost, "held_mib": 90, "energy_measured": True, **changes}


@pytest.fixture(autouse=True)
def as_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes end as they do in use, where other tests take one."""
    monkeypatch.setattr("thawline.inference.SLOW_S", 2.0)


class Clockwork:
    """A model that takes a while to start, and then the same for each item; a first look at an item is noted."""

    def __init__(self, start_s: float, item_s: float) -> None:
        self.start_s, self.item_s, self.digests = start_s, item_s, list[list[str]]()
        self.contract = SimpleNamespace(reading=SimpleNamespace(n_slices=0))

    def classify(self, contents: list[Any], digests: list[str], listener: Any) -> None:
        assert len(contents) == len(digests) == len({*digests})
        self.digests.append(digests)
        time.sleep(self.start_s + self.item_s * len(contents))

    def measure_strangeness(self, contents: list[Any], digests: list[str], listener: Any) -> None:
        """Take no time."""


def make_job(folder: Path, **options: Any) -> Any:
    (folder / "model").mkdir(exist_ok=True)
    return SimpleNamespace(
        out=folder, journal=Journal(folder), listener=Notes(), options=SimpleNamespace(**{"tile_px": None, **options}),
        development_items=lambda: np.array([4, 7, 9]), dataset=SimpleNamespace(contents=[*range(10)]),
    )  # fmt: skip


def test_starting_is_told_apart_from_what_each_item_takes() -> None:
    found = describe_passes([Pass(10, make_cost(3.0)), Pass(20, make_cost(3.5)), Pass(40, make_cost(6.0))])
    assert found == {
        "per_items": 1000, "seconds": 100.0, "cpu_seconds": 200.0, "energy_wh": 1.0, "peak_rss_mib": 70,
        "start_seconds": 2.0, "n_items": 40,
        "energy_method": "measured: counters of the processors (RAPL) and GPUs (NVML) of the whole machine",
    }  # fmt: skip
    assert describe_passes([Pass(10, make_cost(1, energy_measured=False))])["energy_method"].startswith("estimated")


def test_of_one_pass_all_counts_and_starting_is_not_told() -> None:
    found = describe_passes([Pass(500, make_cost(20.0))])
    assert (found["seconds"], found["cpu_seconds"], found["start_seconds"]) == (40.0, 80.0, None)


def test_a_clock_that_jitters_gives_no_negative_costs() -> None:
    found = describe_passes([Pass(8, make_cost(1.0)), Pass(16, make_cost(0.9))])
    assert (found["seconds"], found["start_seconds"]) == (0.0, 1.0)


def test_without_a_pass_nothing_is_told() -> None:
    found = describe_passes([])
    assert found.pop("per_items") == 1000
    assert {*found.values()} == {None}
    assert found.keys() == describe_passes([Pass(8, make_cost(1.0))]).keys() - {"per_items"}


def test_development_items_are_predicted_until_it_takes_noticeably_longer(tmp_path: Path) -> None:
    job, model = make_job(tmp_path), Clockwork(0.1, 0.004)
    measure_inference(job, model)  # type: ignore[arg-type]
    found = job.journal.find("inference")
    assert [len(digests) for digests in model.digests] == [8, 32, 128]
    assert (found["measured_on"], found["n_items"]) == ("development", 128)
    assert found["seconds"] == pytest.approx(4.0, rel=0.1)
    assert found["start_seconds"] == pytest.approx(0.1, abs=0.05)
    resumed = make_job(tmp_path)
    measure_inference(resumed, model)  # type: ignore[arg-type]
    assert len(model.digests) == 3
    assert resumed.journal.find("inference") == found


def test_passes_that_an_earlier_sitting_finished_are_not_made_again(tmp_path: Path) -> None:
    job, model = make_job(tmp_path), Clockwork(0.0, 0.004)
    job.journal.record("inference of 8 items", {}, 0.5)
    job.journal.record("inference of 32 items", {}, 1.5)
    measure_inference(job, model)  # type: ignore[arg-type]
    assert model.digests == []
    assert job.journal.find("inference")["seconds"] == pytest.approx(1000 / 24)


def test_one_slow_pass_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thawline.inference.SLOW_S", 0.02)
    model = Clockwork(0.05, 0.0)
    measure_inference(make_job(tmp_path), model)  # type: ignore[arg-type]
    assert [len(digests) for digests in model.digests] == [8]


def test_of_bags_few_are_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thawline.inference.SLOW_S", 0.0)
    model = Clockwork(0.0, 0.001)
    model.contract.reading.n_slices = 16
    measure_inference(make_job(tmp_path), model)  # type: ignore[arg-type]
    assert [len(digests) for digests in model.digests] == [1]


def record_test(job: Any, n_computed: int | None, seconds: float) -> None:
    value = {"probabilities": np.zeros((3, 2))} | ({} if n_computed is None else {"n_computed": n_computed})
    job.journal.record("test", value, seconds)


def test_a_test_part_that_was_all_computed_and_took_long_tells_it(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    record_test(job, 3, 12.0)
    measure_inference(job, Clockwork(0, 0))  # type: ignore[arg-type]
    found = job.journal.find("inference")
    assert (found["measured_on"], found["n_items"], found["seconds"]) == ("test", 3, 4000.0)
    assert found["start_seconds"] is None


@pytest.mark.parametrize(("n_computed", "seconds"), [(0, 12.0), (3, 2.0), (None, 12.0)])
def test_a_test_part_that_the_cache_knew_or_that_took_no_time_tells_nothing(
    tmp_path: Path, n_computed: int | None, seconds: float
) -> None:
    job = make_job(tmp_path)
    assert take_test(job) == []
    record_test(job, n_computed, seconds)
    assert take_test(job) == []


def test_whole_slides_are_predicted_for_no_timing(tmp_path: Path) -> None:
    job, model = make_job(tmp_path, tile_px=224), Clockwork(0, 0)
    measure_inference(job, model)  # type: ignore[arg-type]
    assert model.digests == []
    assert job.journal.find("inference")["measured_on"] is None


def test_items_count_as_computed_where_no_view_found_any_in_the_cache() -> None:
    nothing = np.empty((5, 2), np.float32)
    whole, part = Extraction(nothing, 4, 0, 4), Extraction(nothing, 3, 1, 3)
    assert (count_computed([whole, whole]), count_computed([whole, part]), count_computed([part])) == (4, 0, 0)


def test_a_model_is_weighed_without_its_card(tmp_path: Path) -> None:
    for name, n_bytes in (("weights.safetensors", 2**20), ("head.json", 2**19), ("card.md", 2**22)):
        (tmp_path / name).write_bytes(bytes(n_bytes))
    assert weigh(tmp_path) == 1.5
