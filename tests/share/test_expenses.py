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
}


def test_steps_and_what_they_leave_over() -> None:
    found = summarise_cost(COST, Study())
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
    assert summarise_cost(COST, Study())["peaks_known"]
    found = summarise_cost(COST | {"peak_rss_mib_by_step": {"read": None, "training": 900}}, Study())
    assert [row["peak_rss_mib"] for row in found["rows"]] == [None, 900, None]
    assert not found["peaks_known"]


def test_money_at_stated_prices() -> None:
    found = summarise_cost(COST, Study(price_per_hour=1.8, price_per_kwh=0.4, currency="EUR"))
    rows = {row["name"]: row["money"] for row in found["rows"]}
    assert rows["training"] == pytest.approx(1.8 + 0.04 * 0.4)
    assert found["money"] == pytest.approx(2.0 + 0.05 * 0.4)
    assert found["prices"] == "1.8 EUR an hour and 0.4 EUR a kWh"


def test_steps_that_take_no_time_are_no_division_by_it() -> None:
    nothing = {name: {} if isinstance(value, dict) else None for name, value in COST.items()}
    found = summarise_cost({**nothing, "seconds": {"read": 0.0, "total": 0.0}}, Study(price_per_kwh=1.0))
    assert found["rows"][0]["share"] == 0
    assert found["energy_wh"] is None
