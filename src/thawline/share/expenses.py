"""What a run cost, by step: time, processor time, peak memory, energy, and money where prices are stated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thawline.share.study import Study
from thawline.share.words import put_in_words, take_number

REST = "everything else"
LEAST_SHARE = 0.01  # of the total, below which what the steps leave over is not told


def summarise_cost(cost: Mapping[str, Any], study: Study) -> dict[str, Any]:
    """Return what each step and the whole took; money is None where no price is stated.

    Seconds are those of the clock, ``cpu_seconds`` those of all cores, ``peak_rss_mib`` MiB, None where the system counts no
    peak of a step, ``energy_wh`` Wh.
    """
    seconds = {name: take_number(value) or 0.0 for name, value in cost["seconds"].items()}
    steps = {name: value for name, value in seconds.items() if name != "total"}
    total = max(seconds.get("total", 0.0), sum(steps.values()))
    rows = [_describe_step(name, value, total, cost, study) for name, value in steps.items()]
    rest = total - sum(steps.values())
    if rest > LEAST_SHARE * total:
        nothing = {"cpu_seconds": None, "peak_rss_mib": None, "energy_wh": None}
        rows.append({"name": REST, "seconds": rest, "share": rest / total, **nothing, "money": None})
    energy = take_number(cost["energy_wh"])
    return {
        "rows": rows,
        "total": total,
        "cpu_seconds": take_number(cost["cpu_seconds"].get("total")),
        "peak_rss_mib": take_number(cost["peak_rss_mib"]),
        "peaks_known": all(row["peak_rss_mib"] is not None for row in rows if row["cpu_seconds"]),
        "energy_wh": energy,
        "energy_method": str(cost["energy_method"]),
        "money": study.price(total, energy),
        "currency": study.currency,
        "prices": _describe_prices(study),
    }


def _describe_step(name: str, seconds: float, total: float, cost: Mapping[str, Any], study: Study) -> dict[str, Any]:
    taken = {
        key: take_number(cost[source].get(name))
        for key, source in (
            ("cpu_seconds", "cpu_seconds"),
            ("peak_rss_mib", "peak_rss_mib_by_step"),
            ("energy_wh", "energy_wh_by_step"),
        )
    }
    return {
        "name": put_in_words(name),
        "seconds": seconds,
        "share": seconds / total if total else 0.0,
        **taken,
        "money": study.price(seconds, taken["energy_wh"]),
    }


def _describe_prices(study: Study) -> str:
    """Return the stated prices in words, empty where there are none."""
    unit = f" {study.currency}" if study.currency else ""
    said = [
        f"{price:g}{unit} {of}"
        for price, of in ((study.price_per_hour, "an hour"), (study.price_per_kwh, "a kWh"))
        if price is not None
    ]
    return " and ".join(said)
