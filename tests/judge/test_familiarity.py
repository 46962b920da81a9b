"""Referees: scikit-learn's Ledoit-Wolf covariance, Mahalanobis distance and nearest neighbours, the closed form of normals,
simulated patients of known truth."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad
from sklearn.covariance import LedoitWolf, ledoit_wolf_shrinkage
from sklearn.neighbors import NearestNeighbors

from thawline.errors import DataError, OptionError
from thawline.judge.familiarity import (
    Familiarity,
    find_shrinkage,
    fit_familiarity,
    fit_mahalanobis,
    fit_neighbours,
    score_familiarity,
)
from thawline.judge.metrics import roc_auc

KINDS = ["mahalanobis", "knn"]


def make_features(n_patients, width, seed=0, most=1, n_classes=2):
    """Normal features whose spread falls off, in classes apart, of patients with up to so many items that are alike."""
    draw = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_patients), draw.integers(1, most + 1, n_patients))
    labels = groups % n_classes
    spread = np.exp(-np.arange(width) / 40) + 0.05
    means = np.random.default_rng(99).normal(size=(n_classes, width)) * spread
    own = draw.normal(size=(n_patients, width))[groups] * (most > 1)
    features = means[labels] + (own + draw.normal(size=(len(groups), width))) / np.sqrt(1 + (most > 1)) * spread
    return features.astype(np.float32), labels, groups


@pytest.mark.parametrize(("n_items", "width"), [(400, 20), (30, 60), (100, 300)])
def test_distance_is_that_of_scikit_learns_shrunk_covariance(n_items, width):
    features, labels, _ = make_features(n_items, width)
    means = np.stack([features[labels == k].mean(axis=0) for k in (0, 1)]).astype(np.float64)
    residuals = features - means[labels]
    referee = LedoitWolf(assume_centered=True).fit(residuals)
    new = make_features(50, width, seed=1)[0] * 1.5
    expected = np.sqrt(np.min([referee.mahalanobis(new - mean) for mean in means], axis=0))
    np.testing.assert_allclose(score_familiarity(fit_mahalanobis(features, labels), new), expected, rtol=1e-4)
    found = find_shrinkage(residuals, np.linalg.eigvalsh(residuals.T @ residuals / n_items))
    assert found == pytest.approx(ledoit_wolf_shrinkage(residuals, assume_centered=True))
    assert 0.001 < found < 0.999


def test_directions_that_are_left_out_have_their_mean_variance():
    features = np.random.default_rng(0).normal(size=(3000, 200)) * np.linspace(3, 1, 200)
    fitted = fit_mahalanobis(features, np.zeros(3000, int))
    assert fitted.directions.shape == (200, 128)
    covariance = LedoitWolf().fit(features).covariance_
    outside = np.linalg.svd(fitted.directions)[0][:, 128:]
    assert fitted.rest == pytest.approx(np.trace(outside.T @ covariance @ outside) / 72, rel=1e-4)
    inside = np.linalg.eigvalsh(covariance)[-128:]
    np.testing.assert_allclose(fitted.variances, inside, rtol=1e-4)


def test_what_is_strange_where_nothing_varies_is_seen():
    """Development items lie in a plane, fewer of them than features: whatever leaves the plane is strange."""
    draw = np.random.default_rng(0)
    plane = np.linalg.qr(draw.normal(size=(300, 2)))[0].T
    features = draw.normal(size=(40, 2)) @ plane
    fitted = fit_familiarity(features, np.zeros(40, int), np.arange(40))
    inside, beside = draw.normal(size=(200, 2)) @ plane, draw.normal(size=(200, 2)) @ plane
    beside += 0.5 * np.linalg.qr(np.column_stack([plane.T, draw.normal(size=300)]))[0][:, 2]
    assert (score_familiarity(fitted, inside) > fitted.limit).mean() < 0.2
    assert (score_familiarity(fitted, beside) > fitted.limit).all()


def test_auc_against_shifted_normals_is_the_closed_form():
    """The squared distance is χ² of 6 degrees, that of items shifted by 2.5 standard deviations non-central χ²."""
    draw = np.random.default_rng(0)
    mix = np.linalg.qr(draw.normal(size=(6, 6)))[0] * np.linspace(1, 2, 6)
    known, same, other = (draw.normal(size=(n, 6)) for n in (20_000, 6000, 6000))
    fitted = fit_familiarity(known @ mix, np.zeros(20_000, int), np.arange(20_000))
    scores = [score_familiarity(fitted, each @ mix) for each in (same, other + np.array([2.5, 0, 0, 0, 0, 0]))]
    expected = quad(lambda x: stats.chi2(6).cdf(x) * stats.ncx2(6, 6.25).pdf(x), 0, 200)[0]
    found = roc_auc(np.repeat([0, 1], 6000), np.concatenate(scores))
    assert found == pytest.approx(expected, abs=0.012)
    assert fitted.limit == pytest.approx(np.sqrt(stats.chi2(6).ppf(0.95)), rel=0.01)
    assert 0.7 < expected < 0.9


@pytest.mark.parametrize(("n_items", "k"), [(300, 1), (1900, 2)])
def test_neighbours_are_those_of_scikit_learn(n_items, k):
    features, labels, groups = make_features(n_items, 30)
    new = make_features(200, 30, seed=1)[0]
    fitted = fit_familiarity(features, labels, groups, kind="knn")
    scaled = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (features, new)]
    expected = NearestNeighbors(n_neighbors=k).fit(scaled[0]).kneighbors(scaled[1])[0][:, -1]
    assert fitted.n_neighbours == k
    np.testing.assert_allclose(score_familiarity(fitted, new), expected, atol=1e-3)  # rows are kept as float16
    np.testing.assert_allclose(score_familiarity(fitted, new * 7), score_familiarity(fitted, new), atol=1e-6)


def test_rows_kept_are_few_and_evenly_from_patients():
    """Of 300 patients, one with 4,000 items, each adds as many as it has until 2,000 are there."""
    groups = np.repeat(np.arange(300), [4000, *[5] * 299])
    features = np.eye(300, dtype=np.float32)[groups]
    rows = fit_neighbours(features, groups, seed=0).rows
    assert rows.shape == (2000, 300)
    assert rows.dtype == np.float16
    assert sorted(np.bincount(rows.argmax(axis=1)).tolist()) == [*[5] * 299, 505]
    assert (np.diff(rows.argmax(axis=1)) < 0).sum() > 300  # and in no order that tells patients apart


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n_patients", "width", "most"), [(60, 300, 1), (60, 300, 5), (300, 40, 1), (150, 40, 8)])
def test_about_one_in_twenty_new_items_is_flagged(kind, n_patients, width, most):
    flagged = []
    for seed in range(10):
        fitted = fit_familiarity(*make_features(n_patients, width, seed, most), kind=kind, seed=seed)
        new = make_features(500, width, 1000 + seed)[0]
        flagged.append((score_familiarity(fitted, new) > fitted.limit).mean())
    assert 0.02 < np.mean(flagged) < 0.07


@pytest.mark.parametrize("kind", KINDS)
def test_no_patient_is_scored_by_itself(kind):
    """A patient's items are nearly the same: judged by each other they would be familiar, and all new ones strange."""
    draw = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 10)
    features = draw.normal(size=(60, 200))[groups] + 0.01 * draw.normal(size=(600, 200))
    new = draw.normal(size=(300, 200))
    labels = np.zeros(600, int)
    honest = fit_familiarity(features, labels, groups, kind=kind)
    assert (score_familiarity(honest, new) > honest.limit).mean() < 0.15
    pretended = fit_familiarity(features, labels, np.arange(600), kind=kind)
    assert (score_familiarity(pretended, new) > pretended.limit).mean() > 0.8


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_fitted_survives_saving(kind, tmp_path):
    features, labels, groups = make_features(30, 10)
    fitted = fit_familiarity(features, labels, groups, kind=kind)
    np.savez(tmp_path / "familiarity.npz", **fitted.arrays())
    with np.load(tmp_path / "familiarity.npz") as arrays:
        again = Familiarity.from_arrays(dict(arrays), json.loads(json.dumps(fitted.to_json(), allow_nan=False)))
    assert again.to_json() == fitted.to_json()
    np.testing.assert_array_equal(score_familiarity(again, features), score_familiarity(fitted, features))
    assert again.note == ""


@pytest.mark.parametrize("kind", KINDS)
def test_with_too_few_patients_nothing_is_unfamiliar_and_it_is_said(kind):
    features, labels, _ = make_features(72, 10)
    few = fit_familiarity(features, labels, np.arange(72) // 4, kind=kind)
    assert (few.limit, few.n_patients) == (np.inf, 18)
    assert "at least 19 patients; with 18" in few.note
    assert Familiarity.from_arrays(few.arrays(), few.to_json()).limit == np.inf
    assert np.isfinite(fit_familiarity(features, labels, np.arange(72) // 4, kind=kind, share=0.9).limit)


def test_features_that_are_always_zero_do_no_harm():
    """Such a feature may not be infinitely strange where it is not zero, nor make all others count for nothing."""
    features, labels, groups = make_features(200, 6)
    wide = np.hstack([features, np.zeros((200, 4), np.float32)])
    fitted = fit_familiarity(wide, labels, groups)
    near, far = wide.copy(), wide + np.float32(5)
    near[:, 6:] = 1e-6
    np.testing.assert_allclose(score_familiarity(fitted, near), score_familiarity(fitted, wide), rtol=1e-2)
    assert (score_familiarity(fitted, far) > fitted.limit).all()
    signs = np.column_stack([np.arange(40) % 2 * 2 - 1, np.zeros((40, 2))])  # so even that nothing is shrunk
    scores = score_familiarity(fit_familiarity(signs, np.zeros(40, int), np.arange(40)), [[1, 0, 0], [1, 1, 0]])
    assert scores[0] == pytest.approx(1)
    assert 10 < scores[1] < np.inf
    blank = fit_familiarity(np.zeros((25, 3)), labels[:25], groups[:25], kind="knn")
    np.testing.assert_array_equal(score_familiarity(blank, np.array([[0, 0, 0], [0, 2, 0]])), [0, 1])


@pytest.mark.parametrize("kind", KINDS)
def test_no_items_have_no_scores(kind):
    features, labels, groups = make_features(30, 5)
    assert score_familiarity(fit_familiarity(features, labels, groups, kind=kind), features[:0]).shape == (0,)


def test_what_cannot_be_used_is_refused():
    features, labels, groups = make_features(30, 5)
    fitted = fit_familiarity(features, labels, groups)
    with pytest.raises(OptionError, match="found 'cosine'"):
        fit_familiarity(features, labels, groups, kind="cosine")
    with pytest.raises(OptionError, match="found 95"):
        fit_familiarity(features, labels, groups, share=95)
    with pytest.raises(DataError, match=r"two patients are needed .* found 1"):
        fit_familiarity(features, labels, np.zeros(30, int))
    with pytest.raises(DataError, match=r"two patients are needed .* found 0"):
        fit_familiarity(features[:0], labels[:0], groups[:0])
    with pytest.raises(DataError, match="none that do in 29 items of 2 classes"):
        fit_familiarity(np.ones((30, 5)), labels, groups)
    with pytest.raises(DataError, match="groups 29"):
        fit_familiarity(features, labels, groups[:29])
    with pytest.raises(DataError, match=r"\(items, 5\) are needed; found \(30, 4\)"):
        score_familiarity(fitted, features[:, :4])
    with pytest.raises(DataError, match=r"found \(30,\)"):
        score_familiarity(fitted, features[:, 0])
    features[7, 2] = np.nan
    for attempt in (lambda: fit_familiarity(features, labels, groups), lambda: score_familiarity(fitted, features)):
        with pytest.raises(DataError, match="row 7 is not"):
            attempt()
