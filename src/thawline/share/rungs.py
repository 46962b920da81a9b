"""The ladder in words: what each rung is, how it was trained, why the ladder ended, and what was delivered."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from thawline.learn.ladder import FAILED, LEAST_CHANCE, LEAST_SHARE
from thawline.options import CONTROLS, HEADS, STRATEGIES, THAWED
from thawline.share.words import (
    ABSENT,
    NARROW,
    count_things,
    format_number,
    format_percent,
    format_range,
    format_seconds,
    format_signed,
    name_rung,
    put_in_words,
    take_estimate,
    take_number,
)

SPENT = ("cpu_seconds", "peak_rss_mib", "energy_wh")  # beside the seconds of the clock


def summarise_rung(rung: Mapping[str, Any], n_folds: int) -> dict[str, Any]:
    """Return one entry of the ladder of `metrics.json` with its name, its training and its forecast in words.

    ``scouted`` says which of the ``n_folds`` folds it has, where not all.
    """
    numbers = ("log_loss", "difference", "standard_error", "seconds", "forecast_seconds", *SPENT)
    found = {key: take_number(rung[key]) for key in numbers}
    ratio = None if rung["strategy"] == "handcrafted" else take_number(rung["thawed_fraction"])
    rates = [rate for rate, n_epochs in zip(rung["learning_rates"], rung["epochs"], strict=True) if n_epochs]
    return {
        "rung": rung["rung"],
        "name": _name(rung),
        "auc": take_estimate(rung, "auc"),
        "gain": take_estimate(rung, "gain"),
        "ratio": ratio,
        "learning_rate": format_range(rates),
        "epochs": format_epochs(rung["epochs"]),
        "forecast": format_forecast(found["seconds"], found["forecast_seconds"]),
        "chosen": bool(rung["chosen"]),
        "control": rung["strategy"] in CONTROLS,
        "scouted": "" if rung["n_folds"] == n_folds else f"{rung['n_folds']} of {count_things(n_folds, 'fold')}",
        **found,
    }


def format_epochs(epochs: Sequence[int]) -> str:
    """Return the epochs of the folds, "4 to 7"; folds that stayed frozen, which have 0, are counted and said."""
    trained = [n_epochs for n_epochs in epochs if n_epochs]
    if len(trained) == len(epochs):
        return format_range(trained)
    said = f"{len(trained)} of {count_things(len(epochs), 'fold')} trained"
    return f"{format_range(trained)}; {said}" if trained else said


def format_forecast(seconds: float | None, forecast: float | None) -> str:
    """Return what was forecast, with its error as a share of what it took; nothing where there was no forecast."""
    if forecast is None:
        return ""
    percent = round(100 * (forecast / seconds - 1)) if seconds else None
    error = "" if percent is None else f" ({format_signed(percent, 0) if percent else 0}{NARROW}%)"
    return f"forecast {format_seconds(forecast)}{error}"


def summarise_training(rung: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the inner losses of a rung by fold, each at its better learning rate; None for a frozen one.

    ``losses`` begin with the start, epoch 0. A fold without patients to part has no losses and is left out.
    """
    folds = []
    for fold, (n_epochs, tried) in enumerate(zip(rung["epochs"], rung["curves"], strict=True), start=1):
        losses = [float(loss) for loss in min(tried, key=min)]
        if len(losses) > 1:
            folds.append({"fold": fold, "n_epochs": int(n_epochs), "losses": losses, "reached": losses[int(n_epochs)]})
    return {"name": _name(rung), "n_folds": len(rung["epochs"]), "folds": folds} if folds else None


def describe_precision(ladder: Sequence[Mapping[str, Any]]) -> str:
    """Return which rungs were trained in bf16 in a sentence, nothing where none was."""
    names = {kind: [_name(rung) for rung in ladder if rung["precision"] == kind] for kind in ("bf16", "f32")}
    if not names["bf16"]:
        return ""
    others = f"; but not for {', '.join(names['f32'])}, where they do not" if names["f32"] else ""
    return f"Networks were trained in bf16, whose gradients agree with those in f32{others}."


def _name(rung: Mapping[str, Any]) -> str:
    return name_rung(rung["strategy"], rung["thaw_line"], rung["head"])


def find_chosen(ladder: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the rung that was chosen. Raises ValueError unless there is one."""
    chosen = [rung for rung in ladder if rung["chosen"]]
    if len(chosen) != 1:
        raise ValueError(f"expected one rung of the ladder to be chosen, found {len(chosen)}")
    return chosen[0]


def translate_rung(name: str) -> str:
    """Return what plan, journal and stops call a rung in the words of the report. Raises ValueError where it is none."""
    first, _, line = name.partition(" ")
    if first == "handcrafted":
        return name_rung(first, None, line or "linear")
    strategy = first if first in STRATEGIES else next((key for key, heads in HEADS.items() if first in heads), None)
    if strategy is None:
        raise ValueError(f"expected the name of a rung, found {name!r}")
    return name_rung(strategy, line or None, first)


def translate_rungs(text: str, names: Sequence[str]) -> str:
    """Return a text in which every one of the rungs ``names`` reads as the report has it."""
    if not names:
        return text
    known = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.sub(rf"(?<![\w.])(?:{known})(?![\w.])", lambda found: translate_rung(found.group()), text)


def explain_stop(stop: Mapping[str, Any]) -> str:
    """Return in a sentence, with its numbers, why a rung was not tried, or only on some folds; for a line, why the ladder
    ended there."""
    if "within" in stop:
        name, folds = translate_rung(stop["within"]), f"{stop['folds']} of {count_things(stop['n_folds'], 'fold')}"
        return f"{name[:1].upper()}{name[1:]} was left after {folds}: {_explain_reason(stop)}."
    name, strategy = translate_rung(stop["before"]), stop["before"].partition(" ")[0]
    why = _explain_reason(stop)
    if stop["reason"] == FAILED:
        return f"{name[:1].upper()}{name[1:]} was left out: {why}."
    if strategy in THAWED:
        return f"The ladder ended before {name}: {why}."
    return f"The {'control' if strategy in CONTROLS else 'rung'} {name} was left out: {why}."


def _explain_reason(stop: Mapping[str, Any]) -> str:
    if stop["reason"] == FAILED:
        return f"it could not be trained ({stop['error']})"
    explain = {"budget": _explain_budget, "behind": _explain_lag, "no useful gain": _explain_gains}
    return explain[stop["reason"]](stop)


def _explain_budget(stop: Mapping[str, Any]) -> str:
    budget, spent, forecast = (take_number(stop[key]) for key in ("budget_s", "spent_s", "forecast_s"))
    if budget is None or spent is None:
        raise ValueError(f"expected the seconds of budget and spent, found {dict(stop)}")
    if forecast is None or spent > budget:
        return f"the budget of {format_seconds(budget)} was spent ({format_seconds(spent)})"
    return (
        f"{format_seconds(spent)} of the budget of {format_seconds(budget)} were spent, and "
        f"{'its other folds were' if 'within' in stop else 'it was'} forecast to take {format_seconds(forecast)}"
    )


def _explain_lag(stop: Mapping[str, Any]) -> str:
    best = translate_rung(stop["best"])
    difference, error = (take_number(stop[key]) for key in ("difference", "standard_error"))
    if not difference:
        return f"it gained nothing on them over {best}, which is cheaper"
    numbers = f"{format_number(difference)} (standard error {format_number(error)})"
    lag = f"its log-loss on them was {numbers} above that of {best}"
    return lag if error is None or difference > error else f"{lag}, which is cheaper"


def _explain_gains(stop: Mapping[str, Any]) -> str:
    chances = [
        100 * min(line["chance"], LEAST_CHANCE - 0.001) for line in stop["lines"]
    ]  # never rounded up to the limit
    lines = " and ".join(
        f"{chance:.1f}{NARROW}% for {translate_rung(line['rung'])}"
        for chance, line in zip(chances, stop["lines"], strict=True)
    )
    return (
        f"the chance of an AUC at least {stop['useful_gain']:g} above the best rung so far was {lines}; "
        f"{count_things(len(stop['lines']), 'line')} in a row below {format_percent(LEAST_CHANCE)} end the ladder, of those "
        f"that thaw {format_percent(LEAST_SHARE)} of the parameters or more"
    )


def describe_thawing(chosen: Mapping[str, Any], highest_block: str | None = None) -> str:
    """Return what of the network is trained and what is frozen; ``highest_block`` is the plan's choice of that name."""
    strategy, line = chosen["strategy"], chosen["thaw_line"]
    if strategy == "handcrafted":
        return "none: no network is used"
    if strategy == "random_init":
        return "none: every layer is trained, from a random start"
    if line is None:
        return "none: everything below the head is frozen"
    if highest_block is not None:
        return f"{line}: trained from there up to {highest_block}; the rest of the backbone is frozen"
    if strategy == "fine_tuning_from_scratch":
        return f"{line}, the lowest: every layer is trained, from the pretrained weights"
    return f"{line}: trained from there up; everything below it is frozen"


def describe_ratio(chosen: Mapping[str, Any]) -> str:
    """Return the fine-tuning ratio in words."""
    if chosen["strategy"] == "handcrafted":
        return ABSENT
    return f"{format_percent(chosen['thawed_fraction'])} of the backbone's parameters"


def describe_delivery(
    rung: Mapping[str, Any], final: str, n_networks: int | None, *, several_views: bool = False
) -> str:
    """Return what the model folder holds of the chosen rung: ``n_networks``, where it is one that thaws.

    ``final`` and ``several_views`` are choices of the plan.
    """
    views = "; each image is predicted as the mean over several views" if several_views else ""
    return f"{_describe_model(rung, final, n_networks)}{views}"


def _describe_model(rung: Mapping[str, Any], final: str, n_networks: int | None) -> str:
    epochs = rung["epochs"]
    blended = "" if rung["strategy"] == "random_init" else "blended with the frozen head and "
    if not epochs:
        return f"{put_in_words(rung['head'])} head, refitted on all development patients"
    if final == "refit":
        none = "" if round(statistics.median(epochs)) else ", which is none"
        some = "one network" if n_networks == 1 else f"{n_networks} networks with a seed each"
        return f"{some}, trained on all development patients for the median number of epochs of the folds{none}"
    n_idle = sum(not n_epochs for n_epochs in epochs)
    idle = f"; {n_idle} of {len(epochs)} not trained, since no epoch was better than no training" if n_idle else ""
    if len(epochs) == 1:
        return f"the network of the one fold, {blended}calibrated on its held-out patients{idle}"
    return f"ensemble of the {len(epochs)} folds' networks, each {blended}calibrated on its own held-out fold{idle}"
