"""The fingerprint of a data set: what the plan is made from, in counts and ranges; no names, no paths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.data.dataset import Dataset
from thawline.data.label_sets import count_values
from thawline.data.readers import ImageFacts
from thawline.data.splits import Splits
from thawline.files import json_digest

if TYPE_CHECKING:
    from thawline.types import BoolArray, Groups, Labels


def make_fingerprint(
    dataset: Dataset,
    facts: Sequence[ImageFacts],
    labels: Labels,
    groups: Groups,
    splits: Splits,
    n_together: int = 0,
) -> dict[str, Any]:
    """Describe the items that take part, those of the first five alike. The result is plain JSON data.

    ``n_together`` counts those that stay with a near-duplicate, as no patient is named.

    Sizes, depths and value ranges are those of the development part: the test part is only counted.
    """
    development = ~splits.is_test
    seen = [fact for fact, keep in zip(facts, development, strict=True) if keep]
    fingerprint = {
        "schema": 1,
        "n_items": len(labels),
        "n_patients": len(np.unique(groups)),
        "patients_given": dataset.patients_given,
        "n_blank_patients": dataset.n_blank_patients,
        "n_together": n_together,
        "split_given": dataset.split_given,
        "classes": _count_classes(dataset.classes, labels, groups, np.ones(len(labels), bool)),
        "parts": {
            "development": _count_classes(dataset.classes, labels, groups, development),
            "test": _count_classes(dataset.classes, labels, groups, splits.is_test),
        },
        "n_folds": splits.n_folds,
        "split_reason": splits.reason,
        "imbalance": round(_compare_counts(labels, dataset.classes), 3),
        "width_px": _describe_range([fact.width_px for fact in seen]),
        "height_px": _describe_range([fact.height_px for fact in seen]),
        "aspect_ratio": _describe_range([round(fact.width_px / fact.height_px, 4) for fact in seen]),
        "bits": _count(fact.bits for fact in seen),
        "channels": _count(fact.channels for fact in seen),
        "formats": _count(fact.format for fact in seen),
        "wide_range": find_wide_range(seen),
        "test_has_wide": any(fact.bits > 8 for fact, keep in zip(facts, splits.is_test, strict=True) if keep),
        "content": json_digest(sorted(fact.pixel_digest for fact in facts)),
    }
    if any(fact.slices > 1 for fact in facts):
        fingerprint["slices"] = _describe_range([fact.slices for fact in seen])
    if dataset.multilabel:  # whose counts by label do not sum to the items
        fingerprint["multilabel"] = {
            name: {"items": int(part.sum()), "patients": len(np.unique(groups[part]))}
            for name, part in (("development", development), ("test", splits.is_test))
        }
    return {**fingerprint, "digest": json_digest(fingerprint)}


def _compare_counts(labels: Labels, classes: Sequence[str]) -> float:
    """Return how many times the items of the smallest class the largest has; of several labels, the most of any label."""
    if labels.ndim == 1:
        n_items = np.bincount(labels, minlength=len(classes))
        return float(n_items.max() / n_items.min())
    both = np.stack([(labels == value).sum(axis=0) for value in (0, 1)])
    return float((both.max(axis=0) / both.min(axis=0)).max())


def find_wide_range(facts: Sequence[ImageFacts]) -> list[float] | None:
    """Return (black, white) for pixels of more than 8 bits, one rule for the whole data set; None for 8 bits only.

    Whole numbers from 0: white is the largest value of the bits in use (a 12-bit film in a 16-bit file: 4095). Negative
    or fractional values: the range seen.
    """
    wide = [fact for fact in facts if fact.bits > 8]
    if not wide:
        return None
    low, high = min(fact.minimum for fact in wide), max(fact.maximum for fact in wide)
    if low >= 0 and all(fact.bits == 16 for fact in wide):
        return [0.0, float(2 ** int(high).bit_length() - 1)]
    return [float(low), float(high)]


def _count_classes(
    classes: Sequence[str], labels: Labels, groups: Groups, part: BoolArray
) -> dict[str, dict[str, int]]:
    if labels.ndim == 2:
        return count_values(labels[part], groups[part], classes)
    counts = {}
    for number, name in enumerate(classes):
        chosen = part & (labels == number)
        counts[name] = {"items": int(chosen.sum()), "patients": len(np.unique(groups[chosen]))}
    return counts


def _describe_range(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "median": float(np.median(values)), "max": max(values)}


def _count(values: Any) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values).items())}
