"""What a run means, for people who read no statistics: a board, a group of patients. Counts of images, not rates.

Natural frequencies after Gigerenzer et al., Psychological Science in the Public Interest 8:53 (2007).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thawline.data.schemes import SITE, take_scheme
from thawline.share.study import Study
from thawline.share.words import count_things
from thawline.types import MULTILABEL

LARGE, SMALL, RARE = 1000, 100, 0.2  # images that a rate is told of; the large number where the condition is rare
UNLIKELY = 0.05  # p-value below which a difference between groups is told


def tell_plainly(
    summary: Mapping[str, Any], study: Study, options: Mapping[str, Any] | None = None
) -> list[dict[str, str]]:
    """Return paragraphs, each with its ``heading`` and ``text``, of what `summary.summarise` found.

    ``options`` are those of the run.
    """
    return [
        {"heading": "What it does", "text": " ".join(tell_purpose(summary["task"], study))},
        {"heading": "How it was tested", "text": " ".join(tell_test(summary))},
        {"heading": "How good it is", "text": " ".join(tell_quality(summary))},
        {"heading": "What it cannot do", "text": " ".join(tell_limits(summary, options or {}))},
    ]


def tell_purpose(task: Mapping[str, Any], study: Study) -> list[str]:
    """Return what the program does, and what it is meant for."""
    classes, positive = list(task["classes"]), task.get("positive")
    if task["kind"] == MULTILABEL:
        does = f"says of each of {count_things(len(classes), 'finding')} how likely it is"
    elif len(classes) == 2 and positive in classes:
        other = next(name for name in classes if name != positive)
        does = f"says how likely it shows {positive} rather than {other}"
    else:
        does = f"says how likely each of {count_things(len(classes), 'class', 'classes')} is"
    use = study.stated.get("intended_use")
    stated = (
        f"Its makers state what it is for: {use.rstrip('.')}." if use else "Its makers do not state what it is for."
    )
    return [
        f"A computer program looks at a medical image and {does}. It learned this from images that people labelled.",
        stated,
    ]


def tell_test(summary: Mapping[str, Any]) -> list[str]:
    """Return on how many images and patients the program was tested, and whether it had seen them."""
    part, data = summary["parts"][0], summary["data"]
    patients = count_things(part["n_patients"], "patient") if data["patients_given"] else "patients who are not known"
    on = f"{count_things(part['n_items'], 'image')} of {patients}"
    if summary["part"] == "test":
        said = [f"It was tested on {on} that were put aside before it learned anything."]
    elif summary["part"] == "nested":
        said = [
            f"The way it is made was tested on {on}: it was made anew {_count_makings(summary['nested'])} times, each time "
            "with some of them put aside before it learned anything."
        ]
    else:
        said = [
            f"It was tested on {on}, each time on some that it had not learned from. "
            "A test on patients put aside from the start was not made."
        ]
    if not data["patients_given"]:
        said.append(
            "Images of one person may have served for learning and for the test; it may be worse than it seems."
        )
    return said


def _count_makings(nested: Mapping[str, Any]) -> int:
    return int(nested["n_folds"] * nested["n_repeats"])


def tell_quality(summary: Mapping[str, Any]) -> list[str]:
    """Return how often the program is right, in counts of images, with what chance alone leaves open."""
    task, point = summary["task"], summary["curves"]["operating_point"]
    auc = summary["auc"]
    if auc["value"] is not None and auc["low"] is not None and auc["low"] <= 0.5:
        doubt = ["On these patients it may be no better than tossing a coin."]
    else:
        doubt = []
    if point is not None and summary["decision"] is not None and None not in _values(point):
        return _count_calls(point, float(summary["decision"]["prevalence"]), str(task["positive"])) + doubt
    right = next(row["estimates"][0] for row in summary["scores"] if row["name"] == "Accuracy")
    if right["value"] is None:
        return ["How good it is cannot be told from this test.", *doubt]
    what = "of the findings that are known" if task["kind"] == MULTILABEL else "images"
    said = [f"Of {SMALL} {what} it gets about {_say_count(right, SMALL)} right."]
    return said + _compare_to_guess(summary) + doubt


def _values(point: Mapping[str, Mapping[str, Any]]) -> list[float | None]:
    return [estimate["value"] for estimate in point.values()]


def _count_calls(point: Mapping[str, Any], prevalence: float, positive: str) -> list[str]:
    """Return what becomes of so many images at the threshold in use."""
    n_images = SMALL if RARE <= prevalence <= 1 - RARE else LARGE
    with_it = round(n_images * prevalence)
    without = n_images - with_it
    sensitivity, specificity = point["sensitivity"], point["specificity"]
    missed, wrong = (
        {"value": 1 - each["value"], "low": _rest(each["high"]), "high": _rest(each["low"])}
        for each in (sensitivity, specificity)
    )
    return [
        f"Suppose that {with_it} of {n_images} images show {positive}.",
        f"Of these {with_it} it finds about {_say_count(sensitivity, with_it)}, and misses {_say_count(missed, with_it)}.",
        f"Of the other {without} it wrongly calls about {_say_count(wrong, without)}.",
        "The numbers in brackets are the range in which the true ones probably lie.",
    ]


def _rest(share: float | None) -> float | None:
    return None if share is None else 1 - share


def _say_count(share: Mapping[str, float | None], n_images: int) -> str:
    """Return "26 (22 to 29)", a share of so many images; without an interval the count alone."""
    value, low, high = (_count(share[key], n_images) for key in ("value", "low", "high"))
    return f"{value}" if low is None or high is None else f"{value} ({low} to {high})"


def _count(share: float | None, n_images: int) -> int | None:
    return None if share is None else round(n_images * share)


def _compare_to_guess(summary: Mapping[str, Any]) -> list[str]:
    """Return how often always naming the most frequent class would be right, where an item has one class."""
    if summary["task"]["kind"] == MULTILABEL:
        return []
    counts = [row["n_items"] for row in summary["classes"][0]["rows"]]
    most = round(SMALL * max(counts) / max(sum(counts), 1))
    return [f"Always naming the most frequent class would be right for {most}."]


def tell_limits(summary: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    """Return what the program must not be trusted with."""
    kind, column, _ = take_scheme(options.get("test"))
    tested = (
        f"it was tested on one {column} that it had not learned from" if kind == SITE else "this was not tested here"
    )
    said = [
        "It is not a medical device, and no authority has approved it: it must not decide about a patient's care.",
        "It knows nothing but what it was taught: any other disease it will overlook.",
        f"At another hospital, with other devices or other patients, it may do worse; {tested}.",
        "It can be wrong while it seems sure.",
    ]
    return said + _tell_groups(summary["subgroups"])


def _tell_groups(tables: list[Mapping[str, Any]]) -> list[str]:
    if not tables:
        return ["Whether it works equally well for women and men, old and young was not examined."]
    uneven = [t["name"] for t in tables if any(p is not None and p < UNLIKELY for p in t["p_values"])]
    if uneven:
        return [f"It did not work equally well for all: results differ by {', '.join(uneven)}."]
    names = ", ".join(table["name"] for table in tables)
    return [f"No difference was seen by {names}, though a small one may have gone unseen."]
