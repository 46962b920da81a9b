"""What a thawed rung delivers: the mean of its members' softmaxes, or one network trained for their median steps."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax

from thawline.errors import DataError
from thawline.judge.calibration import fit_temperature
from thawline.learn import ensemble
from thawline.learn.cuts import load_ensemble, make_classifier, split_members
from thawline.learn.development import Development
from thawline.learn.ensemble import EnsembleHead, calibrate_members, name_members, refit
from thawline.learn.heads import fit_final
from thawline.learn.linear import LinearHead
from thawline.learn.stages import find_stages
from thawline.learn.thawing import Thaw, fit_start
from thawline.learn.training import Recipe, predict_logits, train

N_ITEMS, LINE, RUNG = 96, "3", "fine_tuning 3"
RECIPE = Recipe(learning_rate=1e-2, epochs=10, batch_items=20)  # five steps an epoch


class Table:
    """Activations from an array."""

    n_views = 0

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows

    def take(self, items: np.ndarray, views: np.ndarray) -> torch.Tensor:
        return self.rows[items]


@pytest.fixture
def thaw() -> Thaw:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [torch.nn.Linear(6, 6) for _ in range(5)]
    network = torch.nn.Sequential(*layers).eval()
    stages = find_stages(network)
    groups = np.arange(N_ITEMS) // 2
    labels = groups % 2
    images = torch.from_numpy(np.random.default_rng(0).normal(labels[:, None], 1.0, (N_ITEMS, 6))).float()
    with torch.no_grad():
        (rows,) = stages.prefix([LINE])(images)
        features = network(images).numpy()
    return Thaw(stages, LINE, Table(rows), features, Development(labels, groups, groups // 2 % 3, 2), RECIPE)


def make_folds(
    development: Development, overconfidence: tuple[float, ...] = (1.0, 3.0, 0.5)
) -> dict[int, dict[str, Any]]:
    """What each fold recorded: logits that exaggerate, to different degrees."""
    draw = np.random.default_rng(1)
    found = {}
    for fold, factor in enumerate(overconfidence):
        labels = development.labels[development.folds == fold]
        logits = draw.normal(size=(len(labels), 2)) + np.eye(2)[labels]
        found[fold] = {"logits": factor * logits, "learning_rate": 10.0 ** -(fold + 1), "n_steps": 5 * (2 + 2 * fold)}
    return found


# --- the mean of members ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_members", "n_classes"), [(1, 2), (3, 2), (2, 5)])
def test_an_ensemble_is_the_mean_of_the_members_softmaxes(n_members: int, n_classes: int) -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(7, n_members, n_classes)) * 4
    temperatures = tuple(draw.uniform(0.3, 4, n_members).tolist())
    expected = sum(softmax(logits[:, k] / t, axis=1) for k, t in enumerate(temperatures)) / n_members
    found = EnsembleHead(temperatures, n_classes).predict_proba(logits.reshape(7, -1))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found.dtype == np.float64
    halved = EnsembleHead(temperatures, n_classes).predict_proba(logits.reshape(7, -1).astype(np.float16))
    np.testing.assert_allclose(halved, expected, atol=0.02)


def test_an_ensemble_of_no_items_is_empty_and_large_logits_do_not_overflow() -> None:
    head = EnsembleHead((0.05, 1.0), 3)
    assert head.predict_proba(np.zeros((0, 6), np.float32)).shape == (0, 3)
    found = head.predict_proba(np.array([[1e4, 0.0, -1e4, 0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(found, [[(1 + 1 / 3) / 2, 1 / 6, 1 / 6]])


@pytest.mark.parametrize("shape", [(4, 5), (4, 7), (6,), (2, 3, 2)])
def test_logits_of_another_width_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="6 logits an item are expected, 3 a member"):
        EnsembleHead((1.0, 1.0), 3).predict_proba(np.zeros(shape, np.float32))


def test_each_member_is_calibrated_on_its_own_held_out_fold(thaw: Thaw) -> None:
    folds = make_folds(thaw.development)
    head = calibrate_members(folds, thaw.development)
    assert head.n_classes == 2
    of, grid = thaw.development, np.geomspace(0.05, 20, 2001)
    for fold, found in enumerate(head.temperatures):
        labels, logits = of.labels[of.folds == fold], folds[fold]["logits"]
        losses = [-np.log(softmax(logits / t, axis=1)[np.arange(len(labels)), labels]).mean() for t in grid]
        assert found == pytest.approx(grid[int(np.argmin(losses))], rel=0.01)
    assert len(set(head.temperatures)) == 3


def test_members_of_a_model_folder_are_those_of_the_folds(thaw: Thaw) -> None:
    """From fold networks to named tensors, to one network and its head: the mean of each fold's own softmax."""
    draw = np.random.default_rng(0)
    members = []
    for _ in range(3):
        head = LinearHead(np.zeros(6), np.ones(6), draw.normal(size=(2, 6)), draw.normal(size=2))
        members.append(make_classifier(copy.deepcopy(thaw.stages.suffix(LINE)), head, layers=2))
    arrays = [{name: tensor.numpy().copy() for name, tensor in each.state_dict().items()} for each in members]
    named = name_members(arrays)
    assert len(named) == sum(map(len, arrays))
    tensors = {name: torch.from_numpy(array) for name, array in named.items()}
    for member, again in zip(arrays, split_members(tensors), strict=True):
        assert all(np.array_equal(again[name].numpy(), array) for name, array in member.items())
    images = torch.from_numpy(draw.normal(size=(5, 6))).float()
    temperatures = (0.5, 1.0, 3.0)
    with torch.no_grad():
        logits = load_ensemble(thaw.stages, LINE, tensors)(images).numpy()
        (activations,) = thaw.stages.prefix([LINE])(images)
        each = [
            softmax(member(activations).double().numpy() / t, 1)
            for member, t in zip(members, temperatures, strict=True)
        ]
    np.testing.assert_allclose(EnsembleHead(temperatures, 2).predict_proba(logits), np.mean(each, axis=0), atol=1e-6)


# --- one network ------------------------------------------------------------------------------------------------------


def test_a_refit_is_one_training_on_all_items_for_the_median_steps_and_rate(thaw: Thaw) -> None:
    """Steps of 10, 20 and 30 at five an epoch are four epochs; rates of 0.1, 0.01 and 0.001 are 0.01."""
    folds = make_folds(thaw.development)
    classifier, head = refit(thaw, folds, RUNG)
    everything = np.arange(N_ITEMS)
    recipe = Recipe(learning_rate=1e-2, epochs=10, batch_items=20, stop=4)
    about = thaw.activations, thaw.development.labels, everything, recipe, RUNG
    expected, _ = train(fit_start(thaw, everything), *about, blocks=thaw.blocks)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(classifier.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)
    by_fold = [np.flatnonzero(thaw.development.folds == fold) for fold in range(3)]
    logits = np.concatenate([folds[fold]["logits"] for fold in range(3)])
    assert head.temperatures == (fit_temperature(thaw.development.labels[np.concatenate(by_fold)], logits),)
    assert head.n_classes == 2


@pytest.mark.parametrize(
    ("steps", "stop"), [((10, 20, 30), 4), ((0, 0, 50), None), ((0, 12, 50), 2), ((20, 20, 20), 4), ((0, 2, 2), None)]
)
def test_steps_become_whole_epochs_of_all_items(
    thaw: Thaw, monkeypatch: pytest.MonkeyPatch, steps: tuple[int, ...], stop: int | None
) -> None:
    recipes: list[Recipe] = []

    def note(start: Any, activations: Any, labels: Any, items: Any, recipe: Recipe, rung: str, **_: Any) -> Any:
        recipes.append(recipe)
        return start, []

    monkeypatch.setattr(ensemble, "train", note)
    folds = make_folds(thaw.development)
    for fold, count in enumerate(steps):
        folds[fold]["n_steps"] = count
    refit(thaw, folds, RUNG)
    assert [recipe.stop for recipe in recipes] == ([] if stop is None else [stop])
    assert all(recipe.learning_rate == pytest.approx(0.01) for recipe in recipes)


def test_where_most_folds_stayed_frozen_the_refit_is_the_head_of_all_items(thaw: Thaw) -> None:
    folds = make_folds(thaw.development)
    for value in folds.values():
        value["n_steps"] = 0
    classifier, head = refit(thaw, folds, RUNG)
    logits = predict_logits(classifier, thaw.activations, np.arange(N_ITEMS))
    of = thaw.development
    assert thaw.features is not None
    inner, strength = fit_final("linear", thaw.features, of.labels, of.groups, 2, folds=of.folds, seed=0)
    found = softmax(logits, axis=1)
    assert np.corrcoef(found[:, 1], inner.predict_proba(thaw.features)[:, 1])[0, 1] > 0.98
    assert strength > 0
    with_temperature = head.predict_proba(logits.astype(np.float32))
    np.testing.assert_allclose(with_temperature, softmax(logits / head.temperatures[0], axis=1), atol=1e-5)
