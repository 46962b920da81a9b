"""How new data differ from those of development: counts by hand, and the limits that the model has."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from thawline.data.readers import ImageFacts
from thawline.drift import compare_classes, compare_images, compare_probabilities, describe_strangeness
from thawline.judge.familiarity import Familiarity, fit_familiarity

FACTS = ImageFacts(
    width_px=60, height_px=40, channels=1, bits=8, format="PNG", minimum=0, maximum=255, pixel_digest="", slices=1
)
FINGERPRINT = {
    "width_px": {"min": 50, "median": 60.0, "max": 70},
    "height_px": {"min": 40, "median": 40.0, "max": 40},
    "aspect_ratio": {"min": 1.25, "median": 1.5, "max": 1.75},
    "formats": {"PNG": 90},
    "channels": {"1": 90},
    "bits": {"8": 90},
    "parts": {"development": {"healthy": {"items": 60, "patients": 40}, "lesion": {"items": 30, "patients": 20}}},
}


def test_images_outside_of_what_was_seen_are_counted() -> None:
    wide = dataclasses.replace(FACTS, width_px=80, format="JPEG")
    deep = dataclasses.replace(FACTS, bits=16)
    found = compare_images(FINGERPRINT, [FACTS, FACTS, wide, deep])
    assert {name: own["n_outside"] for name, own in found["ranges"].items()} == {
        "width_px": 1,
        "height_px": 0,
        "aspect_ratio": 1,
    }
    assert found["ranges"]["width_px"]["external"] == {"min": 60, "median": 60, "max": 80}
    assert {name: own["n_new"] for name, own in found["kinds"].items()} == {"formats": 1, "channels": 0, "bits": 1}
    assert found["kinds"]["formats"]["external"] == {"JPEG": 1, "PNG": 3}


def test_the_mix_of_classes_is_compared_by_patients() -> None:
    labels, groups = np.array([0, 0, 1, 1, 1, 1]), np.array([0, 1, 2, 2, 3, 4])
    found = compare_classes(FINGERPRINT, labels, groups, ("healthy", "lesion"))
    assert found["external"] == {"healthy": {"items": 2, "patients": 2}, "lesion": {"items": 4, "patients": 3}}
    referee = chi2_contingency([[40, 20], [2, 3]], correction=False).pvalue
    assert found["p_values"] == {"classes": pytest.approx(referee)}


def test_each_of_several_labels_is_compared_where_it_is_known() -> None:
    before = {"patients": 30, "negative_patients": 30}
    fingerprint = {"parts": {"development": {"a": before, "b": before}}}
    labels = np.array([[1, -1]] * 18 + [[0, -1]] * 2)
    found = compare_classes(fingerprint, labels, np.arange(20), ("a", "b"))
    referee = chi2_contingency([[30, 30], [18, 2]], correction=False).pvalue
    assert found["p_values"] == {"a": pytest.approx(referee), "b": None}


def test_probabilities_are_compared_with_those_out_of_fold_and_so_is_the_test_part() -> None:
    draw = np.random.default_rng(0)

    def make(n: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
        scores = 1 / (1 + np.exp(-draw.normal(shift, 1, n)))
        return np.stack([1 - scores, scores], axis=1), np.arange(n)

    predicted = {"development": make(100, 0), "test": make(40, 0)}
    found = compare_probabilities(predicted, make(80, 1), {"lesion": 1})["lesion"]
    assert found["p_value"] < 1e-4
    assert found["stability"] > found["stability_limit"]
    assert found["own_test"]["p_value"] > 0.05
    assert found["n_patients"] == {"development": 100, "external": 80}
    assert found["quantiles"]["external"][10] > found["quantiles"]["development"][10] + 0.1
    closed = {**predicted, "test": (np.empty((0, 2)), np.empty(0, np.int64))}
    assert compare_probabilities(closed, make(80, 0), {"lesion": 1})["lesion"]["own_test"] is None


def test_strangeness_is_told_in_parts_of_the_limit() -> None:
    draw = np.random.default_rng(1)
    features = draw.normal(size=(200, 4)).astype(np.float32)
    fitted = fit_familiarity(features, np.zeros(200, np.int64), np.arange(200))
    scores = np.array([0.5, 0.9, 1.1, 3.0]) * fitted.limit
    found = describe_strangeness(fitted, scores, np.array([0, 0, 1, 2]))
    assert found is not None
    assert (found["n_unfamiliar"], found["n_items"]) == (2, 4)
    assert found["quantiles"]["of_limit"] == pytest.approx(
        np.quantile([0.5, 0.9, 1.1, 3.0], (0.05, 0.25, 0.5, 0.75, 0.95))
    )
    assert describe_strangeness(None, None, np.arange(4)) is None
    unlimited: Familiarity = dataclasses.replace(fitted, limit=np.inf)
    open_ended = describe_strangeness(unlimited, scores, np.arange(4))
    assert open_ended is not None
    assert (open_ended["n_unfamiliar"], open_ended["quantiles"]["of_limit"]) == (0, None)
