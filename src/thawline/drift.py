"""How new data differ from those that a run's model was made from, as far as the run folder and the model tell.

Images by the fingerprint of the development part, classes by its counts, predictions by those out of fold, features by the
model's own limit of familiarity. Plain data come out; `share.drifted` puts them in words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.data.label_sets import count_values
from thawline.data.readers import ImageFacts
from thawline.judge.comparisons import correct_holm
from thawline.judge.drift import compare_counts, compare_values, take_means
from thawline.judge.familiarity import Familiarity
from thawline.judge.intervals import estimate_proportion
from thawline.types import plain

if TYPE_CHECKING:
    from thawline.types import FloatArray, Groups, Labels, Probabilities

KINDS: dict[str, Callable[[ImageFacts], Any]] = {
    "formats": lambda fact: fact.format,
    "channels": lambda fact: fact.channels,
    "bits": lambda fact: fact.bits,
}
RANGES: dict[str, Callable[[ImageFacts], float]] = {
    "width_px": lambda fact: fact.width_px,
    "height_px": lambda fact: fact.height_px,
    "aspect_ratio": lambda fact: round(fact.width_px / fact.height_px, 4),
    "slices": lambda fact: fact.slices,
}
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SHOWN = tuple(k / 20 for k in range(21))  # quantiles of probabilities that a figure is drawn by


def compare_images(fingerprint: Mapping[str, Any], facts: Sequence[ImageFacts]) -> dict[str, Any]:
    """Return sizes and kinds of images beside those of development, and of how many items they are outside of these."""
    ranges, kinds = {}, {}
    for name, take in RANGES.items():
        if (before := fingerprint.get(name)) is not None:
            values = np.array([take(fact) for fact in facts], np.float64)
            now = {"min": values.min(), "median": np.median(values), "max": values.max()}
            ranges[name] = {
                "development": {key: float(before[key]) for key in now},
                "external": {key: float(value) for key, value in now.items()},
                "n_outside": int(((values < before["min"]) | (values > before["max"])).sum()),
            }
    for name, kind in KINDS.items():
        known, counts = fingerprint[name], Counter(str(kind(fact)) for fact in facts)
        new = sum(count for value, count in counts.items() if value not in known)
        kinds[name] = {"development": dict(known), "external": dict(sorted(counts.items())), "n_new": new}
    return {"n_items": len(facts), "ranges": ranges, "kinds": kinds}


def compare_classes(
    fingerprint: Mapping[str, Any], labels: Labels, groups: Groups, classes: Sequence[str]
) -> dict[str, Any]:
    """Return items and patients of each class beside those of development, and how likely chance alone parts the shares.

    ``p_values`` has one entry "classes", or one a label, corrected for their number (Holm), of patients with it and without.
    """
    before = fingerprint["parts"]["development"]
    if labels.ndim == 2:
        now = count_values(labels, groups, classes)
        sides = ("patients", "negative_patients")
        found = [
            compare_counts([before[name][side] for side in sides], [now[name][side] for side in sides])
            for name in classes
        ]
        corrected = dict(zip(classes, correct_holm(found).tolist(), strict=True))
    else:
        now = {
            name: {"items": int((labels == k).sum()), "patients": len(np.unique(groups[labels == k]))}
            for k, name in enumerate(classes)
        }
        corrected = {
            "classes": compare_counts(*([part[name]["patients"] for name in classes] for part in (before, now)))
        }
    p_values = {name: value if np.isfinite(value) else None for name, value in corrected.items()}
    return {"development": {name: dict(before[name]) for name in classes}, "external": now, "p_values": p_values}


def compare_probabilities(
    predicted: Mapping[str, tuple[Probabilities, Groups]],
    now: tuple[Probabilities, Groups],
    columns: Mapping[str, int],
) -> dict[str, Any]:
    """Return how far probabilities of patients lie from those out of fold, of the classes ``columns`` by name.

    Each side is (probabilities, groups); p-values are corrected for the number of classes (Holm). Out of fold models of the
    folds predicted, not the finished one: ``own_test`` is how far the run's own "test" part lies from there, for that and by
    chance alone; None where it stayed closed.
    """
    before, test = predicted["development"], predicted["test"]
    found = {name: compare_values(before[0][:, k], before[1], now[0][:, k], now[1]) for name, k in columns.items()}
    corrected = correct_holm([shift.p_value for shift in found.values()])
    return {
        name: {
            "distance": shift.distance,
            "p_value": float(p_value),
            "stability": shift.stability,
            "stability_limit": shift.limit if np.isfinite(shift.limit) else None,
            "own_test": _compare_test(before, test, columns[name]) if len(test[1]) else None,
            "n_patients": {"development": shift.n_patients[0], "external": shift.n_patients[1]},
            "quantiles": {
                "levels": list(SHOWN),
                **{
                    part: np.quantile(take_means(each[:, columns[name]], groups), SHOWN).tolist()
                    for part, (each, groups) in (("development", before), ("external", now))
                },
            },
        }
        for (name, shift), p_value in zip(found.items(), corrected, strict=True)
    }


def _compare_test(
    before: tuple[Probabilities, Groups], test: tuple[Probabilities, Groups], column: int
) -> dict[str, float]:
    shift = compare_values(before[0][:, column], before[1], test[0][:, column], test[1])
    return {"distance": shift.distance, "p_value": shift.p_value}


def describe_strangeness(
    fitted: Familiarity | None, strangeness: FloatArray | None, groups: Groups
) -> dict[str, Any] | None:
    """Return how many items are unlike those of development, and quantiles of how unlike, in parts of the limit.

    None where the model cannot tell.
    """
    if fitted is None or strangeness is None:
        return None
    beyond = np.asarray(strangeness) > fitted.limit
    told = np.isfinite(fitted.limit) and fitted.limit > 0
    return {
        "share": fitted.share,
        "note": fitted.note,
        "n_items": len(beyond),
        "n_unfamiliar": int(beyond.sum()),
        "unfamiliar": plain(estimate_proportion(beyond, groups)),
        "quantiles": {
            "levels": list(QUANTILES),
            "of_limit": (np.quantile(strangeness, QUANTILES) / fitted.limit).tolist() if told else None,
        },
    }
