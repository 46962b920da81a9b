"""Outliers and wrong labels: planted ones are found, chance finds none, and the rules are those of their papers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import NearestNeighbors

from thawline.audit import neighbours
from thawline.audit.oddities import (
    FAR,
    LEAST_ITEMS,
    MAD_TO_SD,
    NEIGHBOURS,
    find_mislabelled,
    find_outliers,
    judge_mislabelled,
    judge_outliers,
)


def draw_features(n_items: int = 300, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return (draw.normal(size=40) * 3 + draw.normal(size=(n_items, 40))).astype(np.float32)


def test_planted_outliers_are_found_and_no_others() -> None:
    features = draw_features()
    others = draw_features(3, seed=9)
    assert set(find_outliers(np.concatenate([features, others])).tolist()) == {300, 301, 302}
    assert find_outliers(features).tolist() == []
    (finding,) = judge_outliers(np.concatenate([features, others]))
    assert (finding.severity, len(finding.groups)) == ("note", 3)


def test_distances_are_those_of_scikit_learn() -> None:
    features = np.concatenate([draw_features(200), 0.3 * draw_features(20, seed=5)])
    found = NearestNeighbors(n_neighbors=NEIGHBOURS + 1, metric="cosine").fit(features).kneighbors(features)[0]
    distance = found[:, 1:].mean(axis=1)
    middle = np.median(distance)
    limit = middle + FAR * MAD_TO_SD * np.median(np.abs(distance - middle))
    assert set(find_outliers(features).tolist()) == set(np.flatnonzero(distance > limit).tolist())


def test_the_index_of_many_items_finds_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "EXACT_ITEMS", 10)
    assert {300, 301} <= set(find_outliers(np.concatenate([draw_features(), draw_features(2, seed=9)])).tolist())


def test_few_items_have_no_outliers() -> None:
    assert len(find_outliers(draw_features(LEAST_ITEMS - 1))) == 0


@pytest.mark.parametrize("n_classes", [2, 4])
def test_flipped_labels_are_found_by_a_model_that_has_not_seen_them(n_classes: int) -> None:
    draw = np.random.default_rng(3)
    truth = np.arange(800) % n_classes
    features = draw.normal(size=(800, 10))
    for k in range(n_classes):
        features[:, k] += 5 * (truth == k)
    labels, flipped = truth.copy(), np.sort(draw.choice(800, 40, replace=False))  # 5 %
    labels[flipped] = (labels[flipped] + 1) % n_classes
    probabilities = cross_val_predict(LogisticRegression(), features, labels, cv=5, method="predict_proba")
    found = find_mislabelled(labels, probabilities)
    hits = np.isin(found, flipped).sum()
    assert hits >= 0.8 * len(flipped)
    assert hits >= 0.7 * len(found)
    assert np.isin(found[:10], flipped).all()  # the surest come first


def test_a_model_that_cannot_tell_the_classes_doubts_no_label() -> None:
    draw = np.random.default_rng(0)
    labels, table = np.arange(200) % 2, draw.dirichlet(np.ones(2), 200)
    assert len(find_mislabelled(labels, table)) > 20
    assert list(judge_mislabelled(labels, table)) == []


def test_the_rule_by_hand() -> None:
    """Thresholds are the means of the own class: .7 and .65; the third item is above the other's, and below its own."""
    labels = np.array([0, 0, 0, 1, 1])
    ill = np.array([0.1, 0.1, 0.7, 0.65, 0.65])
    assert find_mislabelled(labels, np.stack([1 - ill, ill], axis=1)).tolist() == [2]


def test_items_that_were_not_scored_are_none() -> None:
    labels = np.array([0, 1, 0, 1])
    table = np.array([[0.9, 0.1], [0.1, 0.9], [np.nan, np.nan], [0.9, 0.1]])
    assert 2 not in find_mislabelled(labels, table)
    (finding,) = judge_mislabelled(labels, table)
    assert "33.3 % of the items" in finding.text


@given(st.integers(0, 1000))
def test_whoever_is_found_is_taken_for_another_class(seed: int) -> None:
    draw = np.random.default_rng(seed)
    labels, table = draw.integers(0, 3, 40), draw.dirichlet(np.ones(3), 40)
    for item in find_mislabelled(labels, table):
        other = table[item].copy()
        other[labels[item]] = -1
        assert other.max() >= min(
            table[labels == k, k].mean() for k in range(3) if (labels == k).any() and k != labels[item]
        )


def test_flipped_labels_among_several_are_found_where_they_are_known() -> None:
    draw = np.random.default_rng(0)
    truth = (draw.random((400, 3)) < 0.4).astype(np.int64)
    given = np.clip(0.15 + 0.7 * truth + draw.normal(0, 0.08, truth.shape), 0.01, 0.99)
    given[:, 2] = draw.random(400)  # a label that the model does not tell: none is doubted
    labels = truth.copy()
    flipped = draw.permutation(400)[:20]
    labels[flipped[:12], 0] = 1 - labels[flipped[:12], 0]
    labels[flipped[12:], 1] = 1 - labels[flipped[12:], 1]
    labels[draw.random(labels.shape) < 0.2] = -1
    labels[(labels < 0).all(axis=1), 2] = 0
    wrong = (labels >= 0) & (labels != truth)
    found = find_mislabelled(labels, given)
    expected: set[int] = set()
    for k in range(2):
        known = np.flatnonzero(labels[:, k] >= 0)
        both = np.stack([1 - given[known, k], given[known, k]], axis=1)
        expected |= set(known[find_mislabelled(labels[known, k], both)].tolist())
    assert set(found.tolist()) == expected
    assert expected <= set(np.flatnonzero(wrong[:, :2].any(axis=1)).tolist())
    assert len(found) >= wrong[:, :2].sum() / 3
    changed = np.where(labels < 0, draw.random(labels.shape), given)
    np.testing.assert_array_equal(np.sort(find_mislabelled(labels, changed)), np.sort(found))
    (finding,) = judge_mislabelled(labels, given)
    assert "are said to have another label, or not to have one" in finding.text
    given[:3] = np.nan  # not scored
    assert set(find_mislabelled(labels, given).tolist()) == set(found.tolist()) - {0, 1, 2}
