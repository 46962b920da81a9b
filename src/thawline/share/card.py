"""The model card: what the model is, what it was made from, how well it did, and what it is not for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import thawline
from thawline.learn.weight_files import Weights
from thawline.plan import Plan
from thawline.share.rungs import describe_delivery, describe_ratio, describe_thawing, find_chosen
from thawline.share.words import NARROW, name_rung, write_estimate
from thawline.types import MULTILABEL

HEADLINES = ("auc", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "brier", "ece")


def describe_task(task: Mapping[str, Any]) -> str:
    """Return what is told apart, in words."""
    if task["kind"] == MULTILABEL:
        return f"{task['kind']}; labels {', '.join(task['classes'])}, each with a probability of its own"
    return f"{task['kind']}; classes {', '.join(task['classes'])}; positive class {task['positive'] or 'none'}"


def write_card(metrics: Mapping[str, Any], plan: Plan, weights: Weights) -> str:
    """Return the model card as Markdown; it names no item and no patient. Sections after Mitchell et al., FAT* 2019."""
    task, chosen = metrics["task"], metrics["chosen"]
    part = "test" if metrics["test"] else "validation"
    where = "held-out test part" if metrics["test"] else "development folds (the test part was kept closed)"
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

## Performance

On the {where}: {section["n_items"]} items of {section["n_patients"]} patients; 95 % intervals from resampling patients.

| metric | value [95 % interval] |
| --- | --- |
{rows}

## Limits

Not a medical device: for research, not for the care of a patient. The figures hold for patients, devices and a
prevalence like those it was made from; anything else needs a validation of its own. Choices were made on the same
development folds that the cross-validated figures come from, so those are slightly optimistic.
"""
