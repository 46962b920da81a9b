"""What a run cost: steps, what they leave over, and money at stated prices."""

from __future__ import annotations

from typing import Any

import pytest

from thawline.share.expenses import REST, summarise_cost
from thawline.share.study import Study

COST: dict[str, Any] = {
    "seconds": {"read": 90.0, "training": 3600.0, "total": 4000.0},
    "cpu_seconds": {"read": 80.0, "training": 7000.0, "total": 7100.0},
    "peak_rss_mib": 900,
    "peak_rss_mib_by_step": {"read": 300, "training": 900},
    "energy_wh": 50.0,
    "energy_wh_by_step": {"read": 1.0, "training": 40.0},
    "energy_method": "measured",
    "inference": {
        "measured_on": "test", "n_items": 1500, "per_items": 1000, "seconds": 36.0, "cpu_seconds": 70.0, "energy_wh": 0.5,
        "peak_rss_mib": None, "start_seconds": None, "energy_method": "measured: by meters", "model_mib": 13.26,
    },
}  # fmt: skip
LADDER: list[dict[str, Any]] = [
    {"name": name, "chosen": False, "control": False, "scouted": "", "auc": {"value": auc}, "seconds": seconds,
     "cpu_seconds": 12.0, "peak_rss_mib": 700, "energy_wh": 2.0, "log_loss": 0.5}
    for name, auc, seconds in (("linear", 0.8, 18.0), ("deep", 0.9, None))
]  # fmt: skip


def summarise(cost: dict[str, Any], study: Study | None = None) -> dict[str, Any]:
    return summarise_cost(cost, LADDER, study or Study())


def test_steps_and_what_they_leave_over() -> None:
    found = summarise(COST)
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == ["read", "training", REST]
    assert rows["training"] | {"share": 0} == {
        "name": "training", "seconds": 3600.0, "share": 0, "cpu_seconds": 7000.0, "peak_rss_mib": 900, "energy_wh": 40.0,
        "money": None,
    }  # fmt: skip
    assert rows[REST]["seconds"] == pytest.approx(310)
    assert sum(row["share"] for row in found["rows"]) == pytest.approx(1)
    assert (found["money"], found["prices"], found["energy_method"]) == (None, "", "measured")


def test_a_step_whose_peak_is_not_known_is_said() -> None:
    assert summarise(COST)["peaks_known"]
    found = summarise(COST | {"peak_rss_mib_by_step": {"read": None, "training": 900}})
    assert [row["peak_rss_mib"] for row in found["rows"]] == [None, 900, None]
    assert not found["peaks_known"]


def test_money_at_stated_prices() -> None:
    found = summarise(COST, Study(price_per_hour=1.8, price_per_kwh=0.4, currency="EUR"))
    rows = {row["name"]: row["money"] for row in found["rows"]}
    assert rows["training"] == pytest.approx(1.8 + 0.04 * 0.4)
    assert found["money"] == pytest.approx(2.0 + 0.05 * 0.4)
    assert found["prices"] == "1.8 EUR an hour and 0.4 EUR a kWh"


def test_steps_that_take_no_time_are_no_division_by_it() -> None:
    nothing = {name: {} if isinstance(value, dict) else None for name, value in COST.items()}
    given = {**nothing, "seconds": {"read": 0.0, "total": 0.0}, "inference": COST["inference"]}
    found = summarise(given, Study(price_per_kwh=1.0))
    assert found["rows"][0]["share"] == 0
    assert found["energy_wh"] is None


def test_what_each_strategy_cost_stands_beside_its_auc() -> None:
    plain, priced = summarise(COST), summarise(COST, Study(price_per_hour=2.0, price_per_kwh=5.0))
    assert plain["strategies"][0] == {
        "name": "linear", "chosen": False, "control": False, "scouted": "", "auc": {"value": 0.8}, "seconds": 18.0,
        "cpu_seconds": 12.0, "peak_rss_mib": 700, "energy_wh": 2.0, "money": None,
    }  # fmt: skip
    assert [row["money"] for row in priced["strategies"]] == [pytest.approx(18 / 3600 * 2 + 0.002 * 5), None]


def test_what_predicting_costs() -> None:
    found = summarise(COST, Study(price_per_hour=2.0, price_per_kwh=5.0))["inference"]
    assert found["money"] == pytest.approx(0.01 * 2 + 0.0005 * 5)
    assert (found["seconds"], found["cpu_seconds"], found["peak_rss_mib"], found["model_mib"]) == (36, 70, None, 13.26)
    assert found["told"].replace("\u202f", " ") == (
        "Predicting 1 000 items takes 36.0 s, 1 min 10 s of core time and 0.500 Wh (measured), starting included; "
        "measured on 1 500 predictions of test items, all computed as for new items. The model takes 13.3 MiB on disk."
    )


def test_what_predicting_costs_may_not_be_known() -> None:
    names = ("measured_on", "n_items", "seconds", "cpu_seconds", "energy_wh", "start_seconds", "energy_method")
    unknown = COST["inference"] | dict.fromkeys(names)
    found = summarise(COST | {"inference": unknown}, Study(price_per_hour=2.0))["inference"]
    assert (found["money"], found["seconds"], found["items_told"]) == (None, None, "1\u202f000 items")
    assert found["told"].startswith("What predicting costs was not measured")
