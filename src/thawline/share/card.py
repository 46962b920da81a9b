"""The model card: what the model is, what it was made from, how well it did, and what it is not for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import thawline
from thawline.files import write_atomic
from thawline.learn.weight_files import Weights
from thawline.plan import Plan
from thawline.share.expenses import tell_inference
from thawline.share.folder import read_names, withhold
from thawline.share.headline import find_headline, name_threshold
from thawline.share.judged import (
    describe_familiarity,
    summarise_calibration,
    summarise_decision,
    summarise_doubts,
    summarise_subgroups,
)
from thawline.share.rungs import describe_delivery, describe_ratio, describe_thawing, find_chosen
from thawline.share.study import Study, find_study
from thawline.share.words import NARROW, name_rung, put_in_words, write_estimate
from thawline.types import MULTILABEL

USE = "## Intended use"
STATED = ("intended_use", "users", "target_population", "limitations")  # keys of the study file that the card repeats
ON = {
    "nested": "nested folds, whose models and all choices were made anew without them",
    "test": "held-out test part",
    "validation": "development folds (the test part was kept closed)",
}
HEADLINES = ("auc", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "brier", "ece")


def describe_task(task: Mapping[str, Any]) -> str:
    """Return what is told apart, in words."""
    if task["kind"] == MULTILABEL:
        return f"{task['kind']}; labels {', '.join(task['classes'])}, each with a probability of its own"
    return f"{task['kind']}; classes {', '.join(task['classes'])}; positive class {task['positive'] or 'none'}"


def describe_use(study: Study, names: Iterable[str] = ()) -> str:
    """Return what the makers state of the use of the model; ``names`` are those that must not be repeated."""
    stated = withhold({key: study.stated[key] for key in STATED if key in study.stated}, names)
    lines = [f"- **{put_in_words(key).capitalize()}**: {text}" for key, text in stated.items()]
    return "\n".join(lines) or "Not stated by its makers."


def describe_judgement(metrics: Mapping[str, Any], part: str) -> str:
    """Return calibration, threshold, subgroups and safeguards, as far as the task has them, each a section of the card."""
    sections = {
        "Calibration": _list_calibration(metrics, part),
        "Threshold": _list_decision(metrics, part),
        "Subgroups": _list_subgroups(metrics, part),
        "Safeguards": _list_safeguards(metrics, part),
    }
    return "\n\n".join(f"## {name}\n\n" + "\n".join(f"- {line}" for line in lines) for name, lines in sections.items())


def _list_calibration(metrics: Mapping[str, Any], part: str) -> list[str]:
    found = summarise_calibration(metrics["calibration"], [part], part)
    used = (
        "Probabilities are those of the model"
        if found["map"] == "none"
        else f"Probabilities pass a map: {found['map']}"
    )
    return [
        f"{used}; fitted out of fold where there is a map.",
        *(
            f"{row['name']}: slope {write_estimate(row['slope'])} (1 is right), intercept "
            f"{write_estimate(row['intercept'])} (0 is right)"
            for row in found["rows"]
        ),
    ]


def _list_decision(metrics: Mapping[str, Any], part: str) -> list[str]:
    found = summarise_decision(metrics["decision"], [part], part)
    if found is None:
        several = metrics["task"]["kind"] == MULTILABEL
        return ["A label is called at its own probability." if several else "The most probable class is called."]
    called = f"Called from a probability of {found['threshold']:.3g} on."
    told = name_threshold(found["threshold"], metrics[part])
    return [called, *(found["choice"] or []), *(f"{each} (At {told}.)" for each in found["workload"])]


def _list_subgroups(metrics: Mapping[str, Any], part: str) -> list[str]:
    return [
        f"{table['name']}, {row['name']} ({row['n_items']} items of {row['n_patients']} patients"
        f"{', too few to compare' if row['is_small'] else ''}): "
        + ", ".join(f"{name} {write_estimate(e)}" for name, e in zip(table["metrics"], row["estimates"], strict=True))
        for table in summarise_subgroups(metrics["subgroups"], part)
        for row in table["rows"]
    ] or ["Not examined: the data name no groups."]


def _list_safeguards(metrics: Mapping[str, Any], part: str) -> list[str]:
    found = summarise_doubts(metrics["doubts"], [part], part)
    rows = [] if found is None else [f"{row['name']}: {write_estimate(row['estimates'][0])}" for row in found["rows"]]
    familiar = describe_familiarity(metrics["familiarity"])
    return [*rows, *([familiar] if familiar else [])] or ["None: the model always answers."]


def restate_card(run: Path) -> None:
    """Let the model card in the run folder, if there is one, say what the study file there states of the model's use."""
    path = run / "model" / "card.md"
    if not path.is_file():
        return
    use = describe_use(find_study(run), read_names(run))
    text = path.read_text("utf-8")
    write_atomic(path, re.sub(rf"(?s)({USE}\n\n).*?(?=\n\n## )", lambda found: found[1] + use, text, count=1))


def _tell_own(metrics: Mapping[str, Any], part: str) -> str:
    """Return what this model reached on its own test part, where the figures above are of models made like it."""
    if part != "nested" or metrics["test"] is None:
        return ""
    section = metrics["test"]
    return (
        f"This model alone, on its own test part of {section['n_patients']} patients: AUC {write_estimate(section['auc'])}, "
        f"accuracy {write_estimate(section['accuracy'])}.\n\n"
    )


def write_card(
    metrics: Mapping[str, Any], plan: Plan, weights: Weights, study: Study | None = None, names: Iterable[str] = ()
) -> str:
    """Return the model card as Markdown; it names no item and no patient. Sections after Mitchell et al., FAT* 2019.

    ``names`` are those that the study file must not bring in.
    """
    task, chosen = metrics["task"], metrics["chosen"]
    part = find_headline(metrics)
    where = ON[part]
    section = metrics[part]
    upper, rung = plan["highest_block"], find_chosen(metrics["ladder"])
    name = name_rung(chosen["strategy"], chosen["thaw_line"], chosen["head"])
    backbone = "" if chosen["strategy"] == "handcrafted" else f"{chosen['backbone']}, "
    rows = "\n".join(f"| {name.replace('_', ' ')} | {write_estimate(section[name])} |" for name in HEADLINES)
    return f"""# Model card

Made by Thawline {thawline.__version__}, plan {plan.digest()[:12]}.

- **Task**: {describe_task(task)}
- **Model**: {backbone}{name}
- **Thaw line**: {describe_thawing(chosen, upper)}
- **Fine-tuning ratio**: {describe_ratio(chosen).replace(NARROW, " ")}
- **Delivered**: {describe_delivery(rung, plan["final"], chosen["n_networks"], several_views=plan["tta"])}
- **Pretrained weights**: {weights.source}; licence {weights.licence}; trained on {weights.pretrained_on}
- **SHA-256 of the weights**: {weights.sha256}
- **Input**: {plan["size_px"]} px, {plan["aspect"]}, {plan["interpolation"]}
- **Black and white of images above 8 bits**: {plan["wide_range"] or "none, all have 8"}

{USE}

{describe_use(study or Study(), names)}

## Performance

On the {where}: {section["n_items"]} items of {section["n_patients"]} patients; 95 % intervals from resampling patients.

| metric | value [95 % interval] |
| --- | --- |
{rows}

{_tell_own(metrics, part)}{describe_judgement(metrics, part).replace(NARROW, " ")}

## Cost of use

{tell_inference(metrics["cost"]["inference"]).replace(NARROW, " ")}

## Limits

Not a medical device: for research, not for the care of a patient. The figures hold for patients, devices and a
prevalence like those it was made from; anything else needs a validation of its own. Choices were made on the same
development folds that the cross-validated figures come from, so those are slightly optimistic.
"""
