"""A head a label: each is that of two classes on the items where it is known, and what is not known has no part in it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit

from thawline.errors import DataError, ModelError
from thawline.learn import heads
from thawline.learn.ensemble import EnsembleHead
from thawline.learn.head_files import load_head, save_head
from thawline.learn.heads import HEADS, LabelHeads, Training, cross_fit, fit_final, fit_fold, fit_part, merge_linear

every_head = pytest.mark.parametrize("name", list(HEADS))
N_LABELS = 3


@pytest.fixture(autouse=True)
def small_ensembles(monkeypatch):
    monkeypatch.setattr(heads, "N_TREES", 10)
    monkeypatch.setattr(heads, "N_ROUNDS", 20)


def make_data(missing=0.25, n_items=120, seed=0):
    """Two items a patient; three labels, each of which moves a feature of its own, and the truth behind what is hidden."""
    draw = np.random.default_rng(seed)
    groups = np.arange(n_items) // 2
    truth = np.repeat(draw.random((n_items // 2, N_LABELS)) < (0.3, 0.5, 0.6), 2, axis=0).astype(np.int64)
    features = (5 + draw.standard_normal((n_items, 12)) + 1.5 * np.pad(truth, ((0, 0), (0, 9)))).astype(np.float32)
    hidden = draw.random(truth.shape) < missing
    hidden[hidden.all(axis=1), 0] = False
    return features, np.where(hidden, -1, truth), groups


@every_head
def test_a_label_has_the_head_that_its_known_items_have_as_two_classes(name):
    features, labels, groups = make_data()
    folds = groups % 3
    found = fit_fold(name, features, labels, groups, folds, 0, N_LABELS, seed=0)
    assert isinstance(found.head, LabelHeads)
    for k in range(N_LABELS):
        known = labels[:, k] >= 0
        training = Training(*(each[known & (folds != 0)] for each in (features, labels[:, k], groups)), 2)
        alone, strength = fit_part(HEADS[name], training)
        np.testing.assert_allclose(
            found.probabilities[:, k], alone.predict_proba(features[folds == 0])[:, 1], atol=1e-6
        )
        assert found.head.strengths[k] == strength
    assert found.strength == np.median(found.head.strengths)


def test_linear_heads_of_labels_that_are_all_known_are_runs_of_two_classes():
    features, labels, groups = make_data(missing=0)
    folds = groups % 3
    found = cross_fit("linear", features, labels, groups, folds, N_LABELS, seed=0)
    head, _ = fit_final("linear", features, labels, groups, N_LABELS, folds=folds, seed=0)
    for k in range(N_LABELS):
        alone = cross_fit("linear", features, labels[:, k], groups, folds, 2, seed=0)
        np.testing.assert_array_equal(found.probabilities[:, k], alone.probabilities[:, 1])
        final, _ = fit_final("linear", features, labels[:, k], groups, 2, folds=folds, seed=0)
        np.testing.assert_array_equal(head.predict_proba(features)[:, k], final.predict_proba(features)[:, 1])


@every_head
def test_features_of_an_item_do_not_matter_to_a_label_that_is_not_known_of_it(name):
    features, labels, groups = make_data()
    labels[:20, 0] = -1
    labels[:20, 1] = groups[:20] % 2
    changed = features.copy()
    changed[:20] = np.random.default_rng(9).standard_normal((20, 12)) * 50
    first, second = (
        fit_part(HEADS[name], Training(each, labels, groups, N_LABELS))[0].predict_proba(features[20:])
        for each in (features, changed)
    )
    np.testing.assert_array_equal(first[:, 0], second[:, 0])
    assert np.abs(first[:, 1] - second[:, 1]).max() > 1e-3


def test_a_label_of_one_value_gets_its_share_for_every_item():
    features, labels, groups = make_data()
    labels[:, 1] = np.where(np.arange(len(labels)) < 30, 1, -1)
    labels[:, 2] = -1
    labels[labels[:, 0] < 0, 0] = 0
    head, _ = fit_part(HEADS["k_nn"], Training(features, labels, groups, N_LABELS))
    found = head.predict_proba(features)
    np.testing.assert_allclose(found[:, 1], 31 / 32)
    np.testing.assert_allclose(found[:, 2], 1 / 2)
    assert np.ptp(found[:, 0]) > 0.1


def test_linear_heads_are_one_with_the_log_odds_of_each_label():
    features, labels, groups = make_data()
    labels[labels[:, 0] == 1, 0] = -1
    labels[(labels < 0).all(axis=1), 0] = 0
    found, _ = fit_part(HEADS["linear"], Training(features, labels, groups, N_LABELS))
    assert isinstance(found, LabelHeads)
    merged = merge_linear(found, features)
    np.testing.assert_allclose(merged.predict_logits(features), logit(found.predict_proba(features)), atol=1e-6)
    np.testing.assert_allclose(expit(merged.predict_logits(features)), found.predict_proba(features), atol=1e-7)
    np.testing.assert_allclose(merged.mean, features.mean(axis=0, dtype=np.float64), rtol=1e-6)


@every_head
def test_stored_heads_of_labels_give_the_same_probabilities(name, tmp_path):
    features, labels, groups = make_data()
    labels[:, 2] = np.where(labels[:, 2] >= 0, 1, -1)  # of one value
    labels[(labels < 0).all(axis=1), 0] = 0
    head, _ = fit_part(HEADS[name], Training(features, labels, groups, N_LABELS))
    save_head(head, tmp_path)
    again = load_head(tmp_path)
    np.testing.assert_array_equal(again.predict_proba(features), head.predict_proba(features))
    assert (again.name, again.n_classes, again.strengths) == (name, N_LABELS, head.strengths)
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith("head.")]
    (tmp_path / "head.1.json").unlink()
    with pytest.raises(ModelError, match=r"head\.1\.json"):
        load_head(tmp_path)


def test_heads_that_are_none_of_two_classes_are_refused(tmp_path):
    features, labels, groups = make_data()
    head, _ = fit_part(HEADS["linear"], Training(features, labels, groups, N_LABELS))
    save_head(head, tmp_path)
    save_head(EnsembleHead(((1.0,),), 2), tmp_path, "head.1")
    with pytest.raises(ModelError, match=r"expected 3 heads of two classes, one a label, found \[2, 0, 2\]"):
        load_head(tmp_path)


def test_scales_of_labels_are_stored(tmp_path):
    logits = np.random.default_rng(0).normal(size=(7, 2 * 2 * N_LABELS)).astype(np.float32)
    head = EnsembleHead((((1.0, 0.5, 0.2), (0.0, 0.3, 0.7)), ((0.2, 0.2, 2.0), (0.1, 0.0, 0.0))), N_LABELS)
    save_head(head, tmp_path)
    again = load_head(tmp_path)
    assert again == head
    table = logits.reshape(7, 2, 2, N_LABELS)  # items, sources, members, labels
    members = [expit(sum(np.array(head.scales[m][s]) * table[:, s, m] for s in range(2))) for m in range(2)]
    np.testing.assert_allclose(again.predict_proba(logits), np.mean(members, axis=0), atol=1e-7)
    save_head(EnsembleHead((((1.0, 0.5),),), N_LABELS), tmp_path)
    with pytest.raises(ModelError, match="expected one or two scales a member"):
        load_head(tmp_path)


def test_labels_that_do_not_fit_are_refused():
    features, labels, groups = make_data()
    for wrong, said in (
        (labels[:, :2], r"shape \(120, 3\)"),
        (np.where(labels == 1, 2, labels), "of 1, 0 and -1"),
        (np.full_like(labels, -1), "120 items without any"),
    ):
        with pytest.raises(DataError, match=said):
            fit_fold("linear", features, wrong, groups, groups % 3, 0, N_LABELS, seed=0)
