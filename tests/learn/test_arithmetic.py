"""Training in narrower arithmetic, and compiled: the same numbers as far as they can be."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from thawline.learn.cuts import make_classifier
from thawline.learn.linear import LinearHead
from thawline.learn.training import Recipe, compare_bf16, predict_logits, train

N_ITEMS, RECIPE = 48, Recipe(learning_rate=0.01, epochs=2, batch_items=16)


class Given:
    """Activations of items from an array."""

    n_views = 0

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = torch.from_numpy(rows).float()

    def take(self, items: np.ndarray, _views: np.ndarray) -> torch.Tensor:
        return self.rows[items]


def make_problem() -> tuple[Given, np.ndarray]:
    draw, labels = np.random.default_rng(0), np.arange(N_ITEMS) % 2
    return Given(draw.normal(size=(N_ITEMS, 12)) + labels[:, None]), labels


def make_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    head = LinearHead(np.zeros(16), np.ones(16), draw.normal(size=(2, 16)), np.zeros(2))
    return make_classifier(nn.Sequential(nn.Linear(12, 16), nn.ReLU()), head)


def test_gradients_in_bf16_agree_with_those_in_float32() -> None:
    activations, labels = make_problem()
    cosine = compare_bf16(make_network(), activations, labels, np.arange(N_ITEMS), RECIPE)
    assert 0.99 < cosine < 1 - 1e-9


def test_what_bf16_cannot_hold_is_found() -> None:
    class Cancelling(nn.Module):
        """Large numbers whose small difference is what tells the classes apart."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(12, 16)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = (self.layer(rows) + 4096.0) - 4096.0
            return found

    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    head = LinearHead(np.zeros(16), np.ones(16), draw.normal(size=(2, 16)), np.zeros(2))
    activations, labels = make_problem()
    found = make_classifier(Cancelling(), head)
    cosine = compare_bf16(found, activations, labels, np.arange(N_ITEMS), RECIPE)
    plain = compare_bf16(make_network(), activations, labels, np.arange(N_ITEMS), RECIPE)
    assert cosine < plain


def test_training_in_bf16_ends_near_that_in_float32() -> None:
    activations, labels = make_problem()
    items, logits = np.arange(N_ITEMS), []
    for bf16 in (False, True):
        trained, _ = train(make_network(), activations, labels, items, dataclasses.replace(RECIPE, bf16=bf16), "rung")
        logits.append(predict_logits(trained, activations, items))
    assert np.abs(logits[0] - logits[1]).max() > 0
    assert np.corrcoef(logits[0].ravel(), logits[1].ravel())[0, 1] > 0.999


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
def test_compiled_training_ends_where_plain_training_does() -> None:
    activations, labels = make_problem()
    items, logits = np.arange(N_ITEMS), []
    for compiled in (False, True):
        recipe = dataclasses.replace(RECIPE, compiled=compiled)
        trained, _ = train(make_network(), activations, labels, items, recipe, "rung")
        logits.append(predict_logits(trained, activations, items))
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-4)
