"""What a run cost, by step and by strategy, and what predicting costs: time, processor time, peak memory, energy, and money
where prices are stated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from thawline.share.study import Study
from thawline.share.words import NARROW, count_things, format_seconds, put_in_words, take_number

REST = "everything else"
LEAST_SHARE = 0.01  # of the total, below which what the steps leave over is not told


def summarise_cost(cost: Mapping[str, Any], ladder: Sequence[Mapping[str, Any]], study: Study) -> dict[str, Any]:
    """Return what each step, each rung of the ladder and the whole took, and what predicting takes with the model.

    ``ladder`` is that of the summary. Money is None where no price is stated.

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
        "strategies": [_describe_rung(rung, study) for rung in ladder],
        "inference": _describe_inference(cost["inference"], study),
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


def _describe_rung(rung: Mapping[str, Any], study: Study) -> dict[str, Any]:
    """Return what a rung of the summary cost, beside its AUC out of fold."""
    kept = ("name", "chosen", "control", "scouted", "auc", "seconds", "cpu_seconds", "peak_rss_mib", "energy_wh")
    return {**{key: rung[key] for key in kept}, "money": _price(rung, study)}


def _describe_inference(inference: Mapping[str, Any], study: Study) -> dict[str, Any]:
    """Return what predicting ``per_items`` items costs, and how large the model is on disk."""
    kept = ("seconds", "cpu_seconds", "peak_rss_mib", "energy_wh", "start_seconds", "n_items", "per_items", "model_mib")
    found: dict[str, Any] = {key: take_number(inference[key]) for key in kept}
    found |= {"n_items": inference["n_items"], "per_items": inference["per_items"]}
    told = {"items_told": count_things(inference["per_items"], "item"), "told": tell_inference(inference)}
    return {**found, "money": _price(found, study), **told}


def _price(taken: Mapping[str, Any], study: Study) -> float | None:
    return None if taken["seconds"] is None else study.price(taken["seconds"], taken["energy_wh"])


def tell_inference(inference: Mapping[str, Any]) -> str:
    """Return in a sentence or two what predicting costs with the model; ``inference`` is that of `metrics.json`."""
    size = f"The model takes {inference['model_mib']:.1f}{NARROW}MiB on disk."
    if inference["seconds"] is None:
        return f"What predicting costs was not measured: no slide of a test part was computed in this run. {size}"
    seconds, cores = (format_seconds(inference[key]) for key in ("seconds", "cpu_seconds"))
    part = "of test items" if inference["measured_on"] == "test" else "of development items"
    start = inference["start_seconds"]
    method = inference["energy_method"].partition(":")[0]
    starting = "starting included" if start is None else f"after {format_seconds(start)} to start"
    return (
        f"Predicting {count_things(inference['per_items'], 'item')} takes {seconds}, {cores} of core time and "
        f"{inference['energy_wh']:.3f}{NARROW}Wh ({method}), {starting}; measured on "
        f"{count_things(inference['n_items'], 'prediction')} {part}, all computed as for new items. {size}"
    )


def _describe_prices(study: Study) -> str:
    """Return the stated prices in words, empty where there are none."""
    unit = f" {study.currency}" if study.currency else ""
    said = [
        f"{price:g}{unit} {of}"
        for price, of in ((study.price_per_hour, "an hour"), (study.price_per_kwh, "a kWh"))
        if price is not None
    ]
    return " and ".join(said)
