"""What a thawed rung delivers: the mean of its members' blends, or one network trained for their median steps."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from small_networks import Table
from thawline.errors import DataError
from thawline.learn import ensemble
from thawline.learn.cuts import load_ensemble, make_classifier, split_members
from thawline.learn.development import Development
from thawline.learn.ensemble import (
    EnsembleHead,
    calibrate_members,
    make_frozen_member,
    name_members,
    refit,
    take_weights,
)
from thawline.learn.heads import fit_final
from thawline.learn.linear import LinearHead
from thawline.learn.stages import find_stages
from thawline.learn.thawing import Thaw, fit_head, fit_heads
from thawline.learn.training import predict_logits, train
from thawline.types import Recipe

N_ITEMS, LINE, RUNG = 96, "3", "fine_tuning 3"
RECIPE = Recipe(learning_rate=1e-2, epochs=10, batch_items=20)  # five steps an epoch


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
    development: Development, overconfidence: tuple[float, ...] = (1.0, 3.0, 0.5), n_sources: int = 2
) -> dict[int, dict[str, Any]]:
    """What each fold recorded: logits that exaggerate, to different degrees; (sources, items, classes)."""
    draw = np.random.default_rng(1)
    found = {}
    for fold, factor in enumerate(overconfidence):
        labels = development.labels[development.folds == fold]
        logits = draw.normal(size=(n_sources, len(labels), 2)) + np.eye(2)[labels]
        found[fold] = {"logits": factor * logits, "learning_rate": 10.0 ** -(fold + 1), "n_epochs": 2 + 2 * fold}
    return found


def make_heads(n_heads: int, n_classes: int = 2, n_features: int = 6) -> list[LinearHead]:
    draw = np.random.default_rng(3)
    return [
        LinearHead(
            draw.normal(size=n_features),
            draw.uniform(0.3, 2, n_features),
            draw.normal(size=(n_classes, n_features)),
            draw.normal(size=n_classes),
        )
        for _ in range(n_heads)
    ]


def minimise_scales(labels: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """The scales with the smallest log-loss, found without a gradient; of several, each is expected near its share."""
    share = 1 / len(sources)

    def lose(scales: np.ndarray) -> float:
        logs = log_softmax(sum(scale * each for scale, each in zip(scales, sources, strict=True)), axis=1)
        doubt = float(((scales - share) ** 2).sum() / share**2 / 2 / len(labels)) if len(sources) > 1 else 0.0
        return float(-logs[np.arange(len(labels)), labels].mean()) + doubt

    bounds, settings = [(0.0, 20.0)] * len(sources), {"xatol": 1e-7, "fatol": 1e-11, "maxiter": 4000}
    return np.asarray(minimize(lose, [0.7] * len(sources), method="Nelder-Mead", bounds=bounds, options=settings).x)


# --- the mean of members ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_sources", "n_members", "n_classes"), [(1, 1, 2), (2, 1, 3), (1, 3, 2), (2, 3, 2), (2, 2, 5)]
)
def test_an_ensemble_is_the_mean_of_softmaxes_of_scaled_sums(n_sources: int, n_members: int, n_classes: int) -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(7, n_sources, n_members, n_classes)) * 4
    scales = tuple(map(tuple, draw.uniform(0.3, 2, (n_members, n_sources)).tolist()))
    sums = [
        sum(scale * logits[:, source, member] for source, scale in enumerate(row)) for member, row in enumerate(scales)
    ]
    expected = sum(softmax(each, axis=1) for each in sums) / n_members
    found = EnsembleHead(scales, n_classes).predict_proba(logits.reshape(7, -1))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found.dtype == np.float64
    halved = EnsembleHead(scales, n_classes).predict_proba(logits.reshape(7, -1).astype(np.float16))
    np.testing.assert_allclose(halved, expected, atol=0.02)


@pytest.mark.parametrize("n_sources", [1, 2])
def test_frozen_heads_keep_their_logits_of_the_clean_view(n_sources: int) -> None:
    head = EnsembleHead(((0.5,) * n_sources,) * 2, 3)
    clean, view = np.zeros((4, 6 * n_sources), np.float32), np.ones((4, 6 * n_sources), np.float32)
    held = head.hold_frozen(view, clean)
    assert (held[:, :6] == 1).all()
    assert (held[:, 6:] == 0).all()
    assert held.shape == view.shape


def test_an_ensemble_of_no_items_is_empty_and_large_logits_do_not_overflow() -> None:
    head = EnsembleHead(((20.0,), (1.0,)), 3)
    assert head.predict_proba(np.zeros((0, 6), np.float32)).shape == (0, 3)
    found = head.predict_proba(np.array([[1e4, 0.0, -1e4, 0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(found, [[(1 + 1 / 3) / 2, 1 / 6, 1 / 6]])


@pytest.mark.parametrize("scales", [((1.0,), (1.0,)), ((1.0, 0.5),)])
@pytest.mark.parametrize("shape", [(4, 5), (4, 7), (4, 3), (4, 12), (6,), (2, 3, 2)])
def test_logits_of_another_width_are_refused(scales: tuple[tuple[float, ...], ...], shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="6 logits an item are expected, 3 a member"):
        EnsembleHead(scales, 3).predict_proba(np.zeros(shape, np.float32))


@pytest.mark.parametrize("n_sources", [1, 2])
def test_each_member_is_blended_by_its_own_held_out_fold(thaw: Thaw, n_sources: int) -> None:
    folds = make_folds(thaw.development, n_sources=n_sources)
    head = calibrate_members(folds, thaw.development)
    assert head.n_classes == 2
    of = thaw.development
    for fold, found in enumerate(head.scales):
        expected = minimise_scales(of.labels[of.folds == fold], folds[fold]["logits"])
        np.testing.assert_allclose(found, expected, rtol=5e-3, atol=1e-4)
        assert len(found) == n_sources
    assert len(set(head.scales)) == 3


# --- the member of frozen heads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_heads", "n_classes"), [(1, 2), (3, 2), (2, 5)])
def test_the_frozen_member_gives_the_logits_of_all_heads_in_one_row(thaw: Thaw, n_heads: int, n_classes: int) -> None:
    heads, suffix = make_heads(n_heads, n_classes), thaw.stages.suffix(LINE)
    member = make_frozen_member(suffix, heads)
    found = predict_logits(member, thaw.activations, np.arange(N_ITEMS))
    assert thaw.features is not None
    expected = [
        ((thaw.features - head.mean) / head.scale) @ head.coefficients.T + head.intercept for head in heads
    ]  # the formula of a linear head
    assert found.shape == (N_ITEMS, n_heads * n_classes)
    np.testing.assert_allclose(found, np.concatenate(expected, axis=1), atol=1e-4)
    owned = {tensor.data_ptr() for tensor in member.state_dict().values()}
    assert not owned & {tensor.data_ptr() for tensor in suffix.state_dict().values()}


@pytest.mark.parametrize("with_frozen", [True, False])
@pytest.mark.parametrize("n_networks", [1, 3])
def test_members_of_a_model_folder_are_those_of_the_folds(thaw: Thaw, n_networks: int, with_frozen: bool) -> None:
    """From fold networks and heads to named tensors, to one network and its head: the mean of each fold's own blend."""
    draw = np.random.default_rng(0)
    networks = []
    for head in make_heads(n_networks):
        networks.append(make_classifier(copy.deepcopy(thaw.stages.suffix(LINE)), head, layers=2))
        with torch.no_grad():  # each trained on its own
            for parameter in networks[-1].parameters():
                parameter.add_(torch.from_numpy(0.1 * draw.normal(size=tuple(parameter.shape))).float())
    heads = make_heads(2 * n_networks)[n_networks:]
    members = [*networks, make_frozen_member(thaw.stages.suffix(LINE), heads)] if with_frozen else networks
    arrays = [take_weights(each) for each in members]
    named = name_members(arrays)
    assert len(named) == sum(map(len, arrays))
    tensors = {name: torch.from_numpy(array) for name, array in named.items()}
    for member, again in zip(arrays, split_members(tensors), strict=True):
        assert all(np.array_equal(again[name].numpy(), array) for name, array in member.items())
    scales = [(0.5, 0.8), (1.0, 0.0), (0.2, 1.5)][:n_networks]
    images = torch.from_numpy(draw.normal(size=(5, 6))).float()
    with torch.no_grad():
        logits = load_ensemble(thaw.stages, LINE, tensors)(images).numpy()
        (activations,) = thaw.stages.prefix([LINE])(images)
        features = thaw.stages.network(images).numpy()
        sums = [
            scale * network(activations).double().numpy() + with_frozen * other * head.predict_logits(features)
            for network, head, (scale, other) in zip(networks, heads, scales, strict=True)
        ]
    rows = tuple(row if with_frozen else row[:1] for row in scales)
    expected = np.mean([softmax(each, axis=1) for each in sums], axis=0)
    np.testing.assert_allclose(EnsembleHead(rows, 2).predict_proba(logits), expected, atol=1e-5)


def load(thaw: Thaw, weights: dict[str, Any]) -> Any:
    """A classifier above the line with these weights."""
    classifier = thaw.start(fit_head(thaw, np.arange(N_ITEMS)))
    classifier.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    return classifier


# --- one network ------------------------------------------------------------------------------------------------------


def test_a_refit_is_one_training_on_all_items_for_the_median_epochs_and_rate(thaw: Thaw) -> None:
    """Epochs of 2, 4 and 6 are four; rates of 0.1, 0.01 and 0.001 are 0.01."""
    folds = make_folds(thaw.development)
    (classifier,), (frozen,), head = refit(thaw, folds, RUNG)
    everything = np.arange(N_ITEMS)
    recipe = Recipe(learning_rate=1e-2, epochs=10, batch_items=20, stop=4)
    about = thaw.activations, thaw.development.labels, everything, recipe, RUNG
    expected, _ = train(thaw.start(fit_heads(thaw, everything)[0]), *about, blocks=thaw.blocks)
    for name, array in take_weights(expected).items():
        np.testing.assert_allclose(classifier[name], array, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(frozen.coefficients, fit_head(thaw, everything).coefficients)
    assert head.n_classes == 2


@pytest.mark.parametrize("n_sources", [1, 2])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_the_scales_of_a_refit_are_those_of_all_out_of_fold_logits(
    thaw: Thaw, n_sources: int, order: tuple[int, ...]
) -> None:
    recorded = make_folds(thaw.development, n_sources=n_sources)
    folds = {fold: {**recorded[fold], "n_epochs": 0} for fold in order}
    head = refit(thaw, folds, RUNG)[2]
    pooled = np.zeros((n_sources, N_ITEMS, 2))
    for fold, value in recorded.items():
        pooled[:, thaw.development.folds == fold] = value["logits"]
    assert len(head.scales) == 1
    expected = minimise_scales(thaw.development.labels, pooled)
    np.testing.assert_allclose(head.scales[0], expected, rtol=5e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("epochs", "stop"), [((3, 5, 4), 4), ((0, 0, 5), None), ((0, 3, 5), 3), ((2, 2, 2), 2), ((0, 1, 1), 1)]
)
def test_a_refit_takes_the_median_of_epochs(
    thaw: Thaw, monkeypatch: pytest.MonkeyPatch, epochs: tuple[int, ...], stop: int | None
) -> None:
    recipes: list[Recipe] = []

    def note(start: Any, activations: Any, labels: Any, items: Any, recipe: Recipe, rung: str, **_: Any) -> Any:
        recipes.append(recipe)
        return start, []

    monkeypatch.setattr(ensemble, "train", note)
    folds = make_folds(thaw.development)
    for fold, count in enumerate(epochs):
        folds[fold]["n_epochs"] = count
    refit(thaw, folds, RUNG)
    assert [recipe.stop for recipe in recipes] == ([] if stop is None else [stop])
    assert all(recipe.learning_rate == pytest.approx(0.01) for recipe in recipes)


def test_networks_of_a_refit_differ_in_their_seeds_alone(thaw: Thaw) -> None:
    folds = make_folds(thaw.development)
    networks, frozen, head = refit(thaw, folds, RUNG, 3)
    assert len(networks) == len(frozen) == len(head.scales) == 3
    assert len(set(head.scales)) == 1
    weights = [network["linear.weight"] for network in networks]
    assert not any(np.array_equal(weights[0], other) for other in weights[1:])
    (alone,), _, _ = refit(dataclasses.replace(thaw, recipe=dataclasses.replace(thaw.recipe, seed=2)), folds, RUNG)
    torch.testing.assert_close(*map(torch.from_numpy, (alone["linear.weight"], weights[2])))


def test_networks_of_a_refit_that_are_known_are_not_trained_again(thaw: Thaw, monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[int, dict[str, Any]] = {}

    def keep(number: int, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if number not in known:
            known[number] = make()
        return known[number]

    first = refit(thaw, make_folds(thaw.development), RUNG, 2, keep)
    assert sorted(known) == [0, 1]
    monkeypatch.setattr(ensemble, "train", None)
    again = refit(thaw, make_folds(thaw.development), RUNG, 2, keep)
    assert again[0] == first[0]
    assert again[2] == first[2]


def test_where_most_folds_stayed_frozen_the_refit_is_the_head_of_all_items(thaw: Thaw) -> None:
    folds = make_folds(thaw.development)
    for value in folds.values():
        value["n_epochs"] = 0
    (weights,), (frozen,), head = refit(thaw, folds, RUNG, 3)
    logits = predict_logits(load(thaw, weights), thaw.activations, np.arange(N_ITEMS))
    of = thaw.development
    assert thaw.features is not None
    inner, strength = fit_final("linear", thaw.features, of.labels, of.groups, 2, folds=of.folds, seed=0)
    for found in (softmax(logits, axis=1), frozen.predict_proba(thaw.features)):
        assert np.corrcoef(found[:, 1], inner.predict_proba(thaw.features)[:, 1])[0, 1] > 0.98
    assert strength > 0
    ((first, second),) = head.scales
    row = np.concatenate([logits, frozen.predict_logits(thaw.features)], axis=1)
    # both are the same head, so that their scales add up
    np.testing.assert_allclose(head.predict_proba(row), softmax((first + second) * logits, axis=1), atol=1e-5)


def test_a_refit_from_a_random_start_has_no_frozen_head(thaw: Thaw) -> None:
    thaw = dataclasses.replace(thaw, features=None, recipe=dataclasses.replace(RECIPE, epochs=1))
    (weights,), frozen, head = refit(thaw, make_folds(thaw.development, n_sources=1), RUNG)
    assert frozen == []
    assert [len(row) for row in head.scales] == [1]
    logits = predict_logits(load(thaw, weights), thaw.activations, np.arange(N_ITEMS))
    assert logits.any()  # no longer zeros: it was trained
