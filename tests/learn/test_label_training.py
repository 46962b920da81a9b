"""Networks of several labels an item: the masked loss is torch's own, folds start as the frozen rung, blends go by label."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from small_networks import HalfBlind, Table
from thawline.errors import OptionError
from thawline.judge.calibration import blend, fit_blend
from thawline.judge.metrics import item_log_loss
from thawline.learn.cuts import make_classifier
from thawline.learn.development import Development
from thawline.learn.ensemble import calibrate_members
from thawline.learn.heads import HEADS, Training, fit_fold, fit_part
from thawline.learn.linear import LinearHead
from thawline.learn.objective import make_objective
from thawline.learn.stages import find_stages
from thawline.learn.thawing import Thaw, fit_head, fit_heads, part_inner, thaw_fold
from thawline.learn.training import predict_logits, train
from thawline.types import Recipe

LABELS = np.array([[1, 0, -1], [0, -1, 1], [-1, -1, 0], [1, 1, 1], [0, 0, -1], [0, 1, 0]])
CHOSEN = np.array([3, 0, 2, 5])
RECIPE = Recipe(rated_size=0.0, learning_rate=3e-2, epochs=5, batch_items=16, average=0.5, head_rate=0.3, mixup=0.0)


def make_logits(seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(len(CHOSEN), 3)) * 2).float()


def make(balance: str = "none", smoothing: float = 0.0, focal: float = 0.0) -> Any:
    return make_objective(LABELS, np.arange(5), 3, balance=balance, label_smoothing=smoothing, focal=focal)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_of_an_item_is_the_mean_over_its_known_labels(smoothing: float) -> None:
    logits = make_logits()
    expected = []
    for row, truth in zip(logits, LABELS[CHOSEN], strict=True):
        known = truth >= 0
        pairs = torch.stack([torch.zeros(known.sum()), row[known]], dim=1)
        expected.append(cross_entropy(pairs, torch.from_numpy(truth[known]), label_smoothing=smoothing))
    torch.testing.assert_close(make(smoothing=smoothing)(logits, CHOSEN), torch.stack(expected).mean())


def test_logits_of_what_is_not_known_have_no_gradient() -> None:
    logits = make_logits().requires_grad_()
    for objective in (make(), make("weights", 0.1, 2.0)):
        (slopes,) = torch.autograd.grad(objective(logits, CHOSEN), logits)
        assert ((slopes == 0).numpy() == (LABELS[CHOSEN] < 0)).all()


def test_a_focal_loss_by_its_closed_form() -> None:
    x = torch.tensor([[-2.0, 0.5, 3.0]])
    objective = make_objective(np.array([[1, 0, -1]]), np.arange(1), 3, balance="none", label_smoothing=0.0, focal=2.0)
    right = expit([-2.0, -0.5])
    expected = np.mean(-((1 - right) ** 2) * np.log(right))
    assert float(objective(x, np.array([0]))) == pytest.approx(expected, rel=1e-5)


def test_weights_of_a_label_are_those_of_two_classes_on_the_known_training_items() -> None:
    found = make("weights")
    counts = [(np.sum(column[:5] == 0), np.sum(column[:5] == 1)) for column in LABELS.T]
    expected = [[sum(pair) / (2 * own) for own in pair] for pair in counts]
    np.testing.assert_allclose(found.class_weights, np.transpose(expected))
    logits = make_logits()
    terms = []
    for row, truth in zip(logits, LABELS[CHOSEN], strict=True):
        losses = []
        for k in np.flatnonzero(truth >= 0):
            weight, shift = expected[k][truth[k]], np.log(expected[k][1] / expected[k][0])
            losses.append(weight * binary_cross_entropy_with_logits(row[k] + shift, torch.tensor(float(truth[k]))))
        terms.append(torch.stack(losses).mean())
    torch.testing.assert_close(found(logits, CHOSEN), torch.stack(terms).mean())
    one_sided = make_objective(np.ones((4, 2), int), np.arange(4), 2, balance="weights", label_smoothing=0, focal=0)
    np.testing.assert_array_equal(one_sided.class_weights, np.ones((2, 2)))


def test_balanced_drawing_is_refused() -> None:
    with pytest.raises(OptionError, match="expected none or weights for several labels"):
        make("sampling")


@pytest.mark.parametrize("balance", ["none", "weights"])
def test_trained_logits_are_those_of_the_natural_shares(balance: str) -> None:
    """A linear layer on one feature, trained to the end, comes to scikit-learn's logistic regression of each label.

    There an item counts for as much of a label as that is of those known of it.
    """
    draw = np.random.default_rng(0)
    features = draw.normal(size=(400, 1)).astype(np.float32)
    labels = (draw.random((400, 2)) < expit(features * (1.0, -1.5) - (1.5, 0.5))).astype(np.int64)
    labels[draw.random(labels.shape) < 0.3] = -1
    labels[(labels < 0).all(axis=1), 0] = 0
    head = LinearHead(np.zeros(1), np.ones(1), np.zeros((2, 1)), np.zeros(2))
    classifier = make_classifier(torch.nn.Identity(), head)
    about = {"batch_items": 400, "mixup": 0.0, "label_smoothing": 0.0, "weight_decay": 0.0, "head_rate": 1.0}
    recipe = Recipe(learning_rate=0.05, epochs=200, balance=balance, **about)
    table = Table(torch.from_numpy(features))
    trained, _ = train(classifier, table, labels, np.arange(400), recipe, "test")
    found = predict_logits(trained, table, np.arange(400))
    for k in range(2):
        known = labels[:, k] >= 0
        weights = 1 / (labels[known] >= 0).sum(axis=1)
        exact = LogisticRegression(C=1e6).fit(features[known], labels[known, k], weights).decision_function(features)
        tolerance = 0.1 if balance == "none" else 0.35  # weights fit the rare better, at the same share
        np.testing.assert_allclose(found[:, k], exact, atol=tolerance)
        shares = [np.average(each, weights=weights) for each in (expit(found[known, k]), labels[known, k])]
        assert shares[0] == pytest.approx(shares[1], abs=0.01)


def make_thaw(recipe: Recipe = RECIPE, n_items: int = 240) -> Thaw:
    """Two items a patient, four folds; each of two labels shows in columns that the frozen features do not see."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = HalfBlind().eval()
    draw = np.random.default_rng(0)
    groups = np.arange(n_items) // 2
    truth = np.repeat(draw.random((n_items // 2, 2)) < (0.5, 0.3), 2, axis=0).astype(np.int64)
    shown = np.repeat(2.0 * truth - 1, 3, axis=1)
    images = draw.standard_normal((n_items, 12)) + 1.2 * np.pad(shown, ((0, 0), (0, 6)))
    labels = np.where(draw.random(truth.shape) < 0.25, -1, truth)
    labels[(labels < 0).all(axis=1), 0] = truth[(labels < 0).all(axis=1), 0]
    stages = find_stages(network)
    with torch.no_grad():
        (rows,) = stages.prefix(["top"])(torch.from_numpy(images).float())
        features = network(torch.from_numpy(images).float()).numpy()
    development = Development(labels, groups, groups // 2 % 4, 2)
    return Thaw(stages, "top", Table(rows), features, development, recipe)


def test_before_the_first_step_a_fold_is_the_frozen_rung() -> None:
    thaw = make_thaw(dataclasses.replace(RECIPE, start_strength=0.0))
    development = thaw.development
    training, scored = np.flatnonzero(development.folds != 0), np.flatnonzero(development.folds == 0)
    about = development.labels, development.groups, development.folds
    frozen = fit_fold("linear", thaw.features, *about, 0, 2, seed=0)
    start = thaw.start(fit_heads(thaw, training)[0])
    np.testing.assert_allclose(expit(thaw.predict(start, scored)), frozen.probabilities, atol=1e-5)
    head = fit_head(thaw, training)
    np.testing.assert_allclose(head.predict_logits(thaw.features[scored]), logit(frozen.probabilities), atol=1e-5)


def test_a_calm_start_is_as_strongly_regularised_as_asked_and_no_less_than_the_frozen_rung() -> None:
    thaw = make_thaw(dataclasses.replace(RECIPE, start_strength=1e-3))
    items = np.flatnonzero(thaw.development.folds != 0)
    start, _ = fit_heads(thaw, items)
    part = Training(thaw.features[items], thaw.development.labels[items], thaw.development.groups[items], 2)
    chosen = fit_part(HEADS["linear"], part)[0].strengths
    for k, strength in enumerate(chosen):
        known = part.labels[:, k] >= 0
        own = Training(part.features[known], part.labels[known, k], part.groups[known], 2)
        (alone,) = HEADS["linear"].fit(own, [min(1e-3, strength)])
        logits = start.predict_logits(part.features)[:, k]
        np.testing.assert_allclose(expit(logits), alone.predict_proba(part.features)[:, 1], atol=1e-6)


def test_a_fold_learns_what_the_frozen_features_do_not_show() -> None:
    thaw = make_thaw()
    found = thaw_fold(thaw, 0, "test")
    development = thaw.development
    scored = development.folds == 0
    frozen = fit_fold("linear", thaw.features, development.labels, development.groups, development.folds, 0, 2, seed=0)
    assert found.n_epochs > 0
    assert np.shape(found.scales) == (2, 2)
    np.testing.assert_allclose(found.probabilities, blend(found.scales, *found.logits))
    losses = [
        item_log_loss(development.labels[scored], each).mean() for each in (found.probabilities, frozen.probabilities)
    ]
    assert losses[0] < losses[1] - 0.1
    members = calibrate_members({0: {"logits": found.logits}}, development)
    assert members.scales == (fit_blend(development.labels[scored], *found.logits),)


def test_the_inner_part_keeps_patients_whole_and_holds_both_values_of_each_label() -> None:
    development = (thaw := make_thaw()).development
    learned, held = part_inner(thaw, np.flatnonzero(development.folds != 1))
    assert not set(development.groups[learned]) & set(development.groups[held])
    assert len(held) == pytest.approx((development.folds != 1).sum() / 5, abs=4)
    for part in (learned, held):
        assert all({0, 1} <= set(column) for column in development.labels[part].T.tolist())


def test_a_fold_whose_network_is_no_better_stays_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    def ruin(start: torch.nn.Module, *_: Any, validate: Any, **__: Any) -> tuple[torch.nn.Module, list[Any]]:
        with torch.no_grad():
            for parameter in start.parameters():
                parameter.zero_()
        validate(start)
        return start, []

    monkeypatch.setattr("thawline.learn.thawing.train", ruin)
    thaw = make_thaw()
    found = thaw_fold(thaw, 0, "test")
    assert found.n_epochs == 0
    (frozen,) = np.asarray(found.scales)[1:]
    np.testing.assert_array_equal(found.scales[0], (0.0, 0.0))
    np.testing.assert_allclose(found.probabilities, expit(frozen * found.logits[1]))
    price = found.trials[0].losses[1] - found.trials[0].losses[0]
    held = part_inner(thaw, np.flatnonzero(thaw.development.folds != 0))[1]
    known = (thaw.development.labels[held] >= 0).sum()
    assert price == pytest.approx(2 / known, rel=0.5)  # of one more scale a label
