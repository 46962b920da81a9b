"""What training minimises, against torch's losses, closed forms, and problems whose true probabilities are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.functional import cross_entropy

from thawline.learn.cuts import make_classifier
from thawline.learn.linear import LinearHead
from thawline.learn.objective import Objective, make_objective
from thawline.learn.training import predict_logits, train
from thawline.types import BALANCES, Recipe

LABELS = np.array([0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 0, 1])
ITEMS = np.arange(10)  # the last two items are no training items


def make(balance: str = "none", smoothing: float = 0.0, focal: float = 0.0, n_classes: int = 3) -> Objective:
    return make_objective(LABELS, ITEMS, n_classes, balance=balance, label_smoothing=smoothing, focal=focal)


def make_logits(n_items: int = 10, n_classes: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(n_items, n_classes)) * 2).float()


# --- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_without_focus_or_balance_it_is_cross_entropy(smoothing: float) -> None:
    chosen = np.array([7, 0, 9, 3])
    expected = cross_entropy(make_logits(4), torch.from_numpy(LABELS[chosen]), label_smoothing=smoothing)
    torch.testing.assert_close(make(smoothing=smoothing)(make_logits(4), chosen), expected)


def test_a_focal_loss_by_its_closed_form() -> None:
    """With two classes and logits (0, x): p = 1 / (1 + exp(-x)), and the loss of class 1 is -(1 - p)^2 ln p."""
    x = np.array([-2.0, 0.0, 1.0, 3.0])
    objective = make_objective(np.ones(4, np.int64), np.arange(4), 2, balance="none", label_smoothing=0.0, focal=2.0)
    right = 1 / (1 + np.exp(-x))
    for item, each in enumerate(x):
        found = objective(torch.tensor([[0.0, each]]), np.array([item]))
        assert float(found) == pytest.approx(-((1 - right[item]) ** 2) * np.log(right[item]), rel=1e-5)
    assert float(objective(torch.tensor([[0.0, 0.0]]), np.array([0]))) == pytest.approx(0.25 * np.log(2))


def test_focus_leaves_out_what_is_easy_and_its_gradient_is_that_of_the_whole_formula() -> None:
    logits = torch.tensor([[0.3, -0.2, 0.9]], dtype=torch.float64, requires_grad=True)
    objective = make(focal=2.0)

    def lose(values: torch.Tensor) -> torch.Tensor:
        share = values.softmax(1)[0, 0]
        return -((1 - share) ** 2) * share.log()

    (found,) = torch.autograd.grad(objective(logits, np.array([0])), logits)
    (expected,) = torch.autograd.grad(lose(logits), logits)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    easy = torch.tensor([[9.0, 0.0, 0.0]])
    assert float(objective(easy, np.array([0]))) < 1e-6 * float(make()(easy, np.array([0])))


def test_weights_are_scikit_learns_of_the_training_items_and_average_to_one() -> None:
    for balance in ("weights", "sampling"):
        weights = make(balance).class_weights
        assert weights is not None
        expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS[ITEMS])
        np.testing.assert_allclose(weights, expected)
        assert weights[LABELS[ITEMS]].mean() == pytest.approx(1)
    assert make().class_weights is None


def test_a_class_without_items_has_the_largest_weight_of_the_others() -> None:
    weights = make("weights", n_classes=5).class_weights
    assert weights is not None
    np.testing.assert_allclose(weights[:3], make("weights").class_weights)
    np.testing.assert_allclose(weights[3:], weights.max())
    assert np.isfinite(float(make("weights", n_classes=5)(make_logits(10, 5), ITEMS)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_weighted_loss_by_hand_has_the_log_of_the_weights_in_its_logits(smoothing: float) -> None:
    weights = compute_class_weight("balanced", classes=np.arange(3), y=LABELS[ITEMS])
    shifted = make_logits().double().numpy() + np.log(weights)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    wanted = (1 - smoothing) * np.eye(3)[LABELS[ITEMS]] + smoothing / 3
    losses = -(wanted * logs).sum(axis=1)
    weighted, drawn = (make(name, smoothing)(make_logits(), ITEMS) for name in ("weights", "sampling"))
    assert float(weighted) == pytest.approx((losses * weights[LABELS[ITEMS]]).mean(), rel=1e-5)
    assert float(drawn) == pytest.approx(losses.mean(), rel=1e-5)


def test_half_precision_logits_are_scored_in_full() -> None:
    found = make("weights")(make_logits().bfloat16(), ITEMS)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, make("weights")(make_logits().bfloat16().float(), ITEMS))


# --- items of an epoch ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balance", ["none", "weights"])
def test_an_epoch_has_every_item_once_in_a_random_order(balance: str) -> None:
    draw = np.random.default_rng(0)
    orders = [make(balance).draw_items(draw) for _ in range(5)]
    assert all(sorted(order) == ITEMS.tolist() for order in orders)
    assert len({tuple(order) for order in orders}) == 5


def test_balanced_sampling_draws_classes_alike_and_items_of_a_class_alike() -> None:
    draw, objective = np.random.default_rng(0), make("sampling")
    drawn = np.concatenate([objective.draw_items(draw) for _ in range(1500)])
    assert len(drawn) == 1500 * len(ITEMS)
    assert set(drawn) == set(ITEMS)
    classes, items = np.bincount(LABELS[drawn]), np.bincount(drawn)
    sides = 5 * np.sqrt(len(drawn) * 2 / 9)  # five standard deviations of a third
    assert (np.abs(classes - len(drawn) / 3) < sides).all()
    expected = len(drawn) / 3 / np.bincount(LABELS[ITEMS])[LABELS[ITEMS]]
    assert (np.abs(items - expected) < 5 * np.sqrt(expected)).all()


# --- the natural prior ------------------------------------------------------------------------------------------------


def minimise(objective: Objective, chosen: np.ndarray) -> np.ndarray:
    """The constant logits with the smallest loss, as probabilities."""
    logits = torch.zeros(3, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def close() -> torch.Tensor:
        optimiser.zero_grad()
        loss = objective(logits.expand(len(chosen), 3), chosen)
        loss.backward()
        return loss

    optimiser.step(close)  # type: ignore[arg-type]
    return logits.detach().softmax(0).numpy()


@pytest.mark.parametrize("balance", BALANCES)
def test_where_features_say_nothing_what_is_learnt_is_the_prior(balance: str) -> None:
    chosen = ITEMS
    if balance == "sampling":  # what is drawn on average: 30 items of each class
        counts = np.bincount(LABELS[ITEMS])
        chosen = np.repeat(ITEMS, 30 // counts[LABELS[ITEMS]])
        assert np.bincount(LABELS[chosen]).tolist() == [30, 30, 30]
    np.testing.assert_allclose(minimise(make(balance), chosen), [0.5, 0.3, 0.2], atol=1e-4)


class Rows:
    """Activations that are the features themselves."""

    n_views = 0

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = torch.from_numpy(rows.astype(np.float32))

    def take(self, items: np.ndarray, views: np.ndarray) -> torch.Tensor:
        return self.rows[items]


def make_rare(n_items: int = 800) -> tuple[np.ndarray, np.ndarray]:
    """One item in ten is positive; the classes lie one and a half standard deviations apart."""
    labels = (np.arange(n_items) % 10 == 0).astype(np.int64)
    return np.random.default_rng(0).normal(labels[:, None] * [1.5, 0.0]), labels


def learn(balance: str) -> np.ndarray:
    rows, labels = make_rare()
    start = make_classifier(torch.nn.Identity(), LinearHead(np.zeros(2), np.ones(2), np.zeros((2, 2)), np.zeros(2)))
    plain = {"head_rate": 1.0, "weight_decay": 0.0, "label_smoothing": 0.0, "mixup": 0.0}
    recipe = Recipe(0.1, epochs=30, batch_items=100, balance=balance, **plain)
    found, _ = train(start, Rows(rows), labels, np.arange(len(labels)), recipe, "rung")
    return predict_logits(found, Rows(rows), np.arange(len(labels)))


@pytest.mark.slow
def test_trained_logits_stay_at_the_natural_prior_however_classes_are_balanced() -> None:
    rows, labels = make_rare()
    referee = LogisticRegression(C=1e6).fit(rows, labels).predict_proba(rows)[:, 1]
    for balance in BALANCES:
        logits = learn(balance)
        found = softmax(logits, axis=1)[:, 1]
        assert found.mean() == pytest.approx(0.1, abs=0.015), balance
        assert np.abs(found - referee).mean() < 0.025, balance
        weights = compute_class_weight("balanced", classes=np.arange(2), y=labels)
        assert softmax(logits + np.log(weights), axis=1)[:, 1].mean() > 0.25  # what it would be without the shift
