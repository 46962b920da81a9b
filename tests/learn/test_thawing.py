"""One fold above a thaw line: it starts as the frozen rung, trains inside its training part, and is scored once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.metrics import log_loss

from small_networks import HalfBlind
from thawline.errors import TrainingError
from thawline.learn import thawing
from thawline.learn.development import Development
from thawline.learn.heads import HEADS, FoldResult, Training, fit_fold, fit_part
from thawline.learn.linear import LinearHead
from thawline.learn.stages import find_stages
from thawline.learn.thawing import (
    SLOWER,
    Thaw,
    ThawedFold,
    Trial,
    fit_head,
    fit_heads,
    part_inner,
    search,
    thaw_fold,
    zero_head,
)
from thawline.learn.training import predict_logits, train
from thawline.types import BALANCES, Recipe

N_ITEMS, LINE, RUNG = 120, "top", "fine_tuning top"
RECIPE = Recipe(rated_size=0.0, learning_rate=3e-2, epochs=5, batch_items=16, average=0.5, head_rate=0.3, mixup=0.0)
GOOD = Trial(1e-2, (0.7, 0.4, 0.6), (0.6, 0.5), 0.3, 0.1)
POOR = Trial(1e-2, (0.7, 0.5), (0.6, 0.5), 0.2, 0.3)  # gains less than its error
HARD = (0.5, 0.3)
WORSE = Trial(1e-2, (0.4, 0.5, 0.6), (0.0, 1.2), 0.0, 0.0)  # no epoch is better than the start


class Tower(torch.nn.Module):
    """Five layers, each with a normalisation of its own."""

    def __init__(self) -> None:
        super().__init__()
        for name in "abcde":
            self.add_module(name, torch.nn.Linear(12, 12))
            self.add_module(f"norm_{name}", torch.nn.BatchNorm1d(12))
        self.act = torch.nn.ReLU()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for name in "abcde":
            images = self.act(self.get_submodule(f"norm_{name}")(self.get_submodule(name)(images)))
        return images


@dataclasses.dataclass
class Table:
    """Activations of items from an array; remembers which items were taken."""

    rows: torch.Tensor
    n_views: int = 0
    seen: list[int] = dataclasses.field(default_factory=list)

    def take(self, items: np.ndarray, views: np.ndarray) -> torch.Tensor:
        self.seen.extend(items.tolist())
        return self.rows[items]


def make_thaw(
    make_network: Callable[[], torch.nn.Module],
    line: str,
    recipe: Recipe = RECIPE,
    apart: tuple[float, float] = (1.2, 0.0),
    **options: Any,
) -> Thaw:
    """Two items a patient, four folds of whole patients; classes lie ``apart`` in the first columns, and the others."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = make_network().eval()
    draw = np.random.default_rng(0)
    groups = np.arange(N_ITEMS) // 2
    labels = groups % 2
    images = torch.from_numpy(draw.standard_normal((N_ITEMS, 12))).float()
    images += torch.from_numpy((2.0 * labels[:, None] - 1) * np.repeat(apart, 6)).float()
    stages = find_stages(network)
    with torch.no_grad():
        (rows,) = stages.prefix([line])(images)
        features = network(images).numpy()
    development = Development(labels, groups, groups // 2 % 4, 2)
    return dataclasses.replace(Thaw(stages, line, Table(rows), features, development, recipe), **options)


@pytest.fixture
def thaw() -> Thaw:
    return make_thaw(HalfBlind, LINE)


@pytest.fixture
def hard() -> Thaw:
    """The frozen network sees something, the other columns tell more, and neither parts the classes."""
    return make_thaw(HalfBlind, LINE, apart=HARD)


def lean(thaw: Thaw, class_weight: str | None) -> Thaw:
    """A third of the patients in one class, so that weights of classes count."""
    of = dataclasses.replace(thaw.development, labels=(thaw.development.groups % 3 == 0).astype(np.int64))
    return dataclasses.replace(thaw, development=of, class_weight=class_weight)


def fit_frozen(thaw: Thaw, fold: int, class_weight: str | None = None) -> FoldResult:
    assert thaw.features is not None
    of = thaw.development
    return fit_fold(
        "linear",
        thaw.features,
        of.labels,
        of.groups,
        of.folds,
        fold,
        2,
        seed=thaw.recipe.seed,
        class_weight=class_weight,
    )


def list_training(thaw: Thaw, fold: int) -> np.ndarray:
    return np.flatnonzero(thaw.development.folds != fold)


def copy_state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def list_changed(module: torch.nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}


def at_rate(thaw: Thaw, rate: float) -> Thaw:
    return dataclasses.replace(thaw, recipe=dataclasses.replace(thaw.recipe, learning_rate=rate))


def list_inner(thaw: Thaw, fold: int) -> tuple[np.ndarray, np.ndarray]:
    return part_inner(thaw, list_training(thaw, fold))


def minimise_loss(labels: np.ndarray, *sources: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best scales, found without a gradient, and the loss of each item at them."""

    def lose(scales: np.ndarray) -> np.ndarray:
        blended = sum(scale * each for scale, each in zip(scales, sources, strict=True))
        return -np.asarray(log_softmax(blended, axis=1))[np.arange(len(labels)), labels]

    bounds, settings = [(0.0, 100.0)] * len(sources), {"xatol": 1e-7, "fatol": 1e-10, "maxiter": 4000}
    share = 1 / len(sources)  # with several, each is expected to be this, give or take as much

    def doubt(scales: np.ndarray) -> float:
        return float(((scales - share) ** 2).sum() / share**2 / 2 / len(labels)) if len(sources) > 1 else 0.0

    found = minimize(
        lambda scales: lose(scales).mean() + doubt(scales),
        [0.7] * len(sources),
        method="Nelder-Mead",
        bounds=bounds,
        options=settings,
    )
    return found.x, lose(found.x)


# --- the start --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("head_layers", [1, 2, 3])
def test_before_the_first_step_a_fold_is_that_of_the_frozen_rung(
    thaw: Thaw, head_layers: int, class_weight: str | None, balance: str
) -> None:
    recipe = dataclasses.replace(thaw.recipe, balance=balance, seed=3)
    thaw = dataclasses.replace(lean(thaw, class_weight), head_layers=head_layers, recipe=recipe)
    frozen = fit_frozen(thaw, 1, class_weight)
    other = fit_frozen(thaw, 1, None if class_weight else "balanced")
    assert abs(frozen.probabilities - other.probabilities).max() > 1e-3
    scored = np.flatnonzero(thaw.development.folds == 1)
    start = thaw.start(fit_head(thaw, list_training(thaw, 1)))
    found = softmax(predict_logits(start, thaw.activations, scored), axis=1)
    np.testing.assert_allclose(found, frozen.probabilities, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("calm", [0.0, 1e-4, 1e-3, 1e-1, 1.0])
def test_training_starts_with_a_linear_head_no_less_regularised_than_the_recipe_says(
    hard: Thaw, calm: float, class_weight: str | None
) -> None:
    """The frozen rung's own where folds of the same items choose as strong a penalty, or none is asked for."""
    thaw = dataclasses.replace(hard, recipe=dataclasses.replace(RECIPE, start_strength=calm), class_weight=class_weight)
    items = list_training(thaw, 1)
    assert thaw.features is not None
    of = thaw.development
    part = Training(
        np.asarray(thaw.features[items], np.float32), of.labels[items], of.groups[items], 2, 0, class_weight
    )
    chosen, strength = fit_part(HEADS["linear"], part)
    assert 1e-4 < strength < 1.0
    (expected,) = HEADS["linear"].fit(part, [min(calm or strength, strength)])
    found = fit_heads(thaw, items)
    for one, other in zip(found, (expected, chosen), strict=True):
        assert isinstance(other, LinearHead)
        np.testing.assert_allclose(one.predict_logits(thaw.features), other.predict_logits(thaw.features), atol=1e-9)
    sizes = [np.abs(head.coefficients).sum() for head in found]
    assert (sizes[0] < sizes[1]) == (0 < calm < strength)


# --- a trial ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "n_epochs"), [((0.5, 0.4, 0.3, 0.3), 2), ((0.3, 0.4), 0), ((0.3, 0.3), 0), ((0.0,), 0)]
)
def test_a_trial_counts_the_epochs_to_its_smallest_loss(losses: tuple[float, ...], n_epochs: int) -> None:
    assert Trial(1e-3, losses, (1.0, 0.0), 0.2, 0.3).n_epochs == n_epochs


def test_probabilities_are_a_softmax_of_the_scaled_sum_of_the_sources() -> None:
    """Odds of 9 at a scale of a half, times odds of 2: of 6."""
    logits = np.array([[[2 * np.log(3.0), 0.0], [0.0, 0.0]], [[np.log(2.0), 0.0], [0.0, 0.0]]])
    found = ThawedFold(0, logits, (), 1e-3, 1, (0.5, 1.0), torch.nn.Identity(), None)
    np.testing.assert_allclose(found.probabilities, [[6 / 7, 1 / 7], [0.5, 0.5]])
    alone = dataclasses.replace(found, logits=logits[:1], scales=(0.5,))
    np.testing.assert_allclose(alone.probabilities, [[0.75, 0.25], [0.5, 0.5]])


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_trial_holds_losses_of_the_best_blend_and_the_gain_with_its_error_by_patient(
    hard: Thaw, monkeypatch: pytest.MonkeyPatch, pretrained: bool
) -> None:
    """The referee finds the scales of each epoch without a gradient, and the error by its formula for patients of two."""
    logits: list[np.ndarray] = []

    def predict(classifier: Any, activations: Any, items: np.ndarray, *_: Any) -> np.ndarray:
        np.testing.assert_array_equal(items, held)
        logits.append(predict_logits(classifier, activations, items))
        return logits[-1]

    start = make_thaw(Tower, "a", dataclasses.replace(RECIPE, train_norms=True), HARD, features=None)
    thaw = hard if pretrained else start
    learned, held = list_inner(thaw, 3)
    monkeypatch.setattr(thawing, "predict_logits", predict)
    trial = search(thaw, learned, held, RUNG)[0][0]
    of = thaw.development
    frozen = [fit_head(thaw, learned).predict_logits(thaw.features[held])] if thaw.features is not None else []
    fits = [minimise_loss(of.labels[held], *(frozen or logits[:1]))]
    fits += [minimise_loss(of.labels[held], each, *frozen) for each in logits[1 : RECIPE.epochs + 1]]
    price = 1 / len(held) if pretrained else 0.0  # of the second scale
    means = np.array([losses.mean() for _, losses in fits]) + price * (np.arange(len(fits)) > 0)
    assert len(trial.losses) == RECIPE.epochs + 1
    np.testing.assert_allclose(trial.losses, means, atol=1e-5)
    best = int(np.argmin(means))
    assert trial.n_epochs == best > 0
    np.testing.assert_allclose(trial.scales, fits[best][0], rtol=0.02, atol=2e-3)
    patients = of.groups[held].reshape(-1, 2)
    assert (patients[:, 0] == patients[:, 1]).all()
    by_patient = (fits[0][1] - fits[best][1]).reshape(-1, 2).mean(axis=1)
    assert trial.gain == pytest.approx(by_patient.mean() - price, abs=1e-4)
    assert trial.gain_error == pytest.approx(by_patient.std(ddof=1) / np.sqrt(len(by_patient)), rel=0.02)
    if pretrained:
        assert max(trial.losses) <= trial.losses[0] + price + 1e-6  # a blend can always leave the network out


@pytest.mark.slow
def test_networks_that_learned_nothing_leave_most_folds_frozen(thaw: Thaw, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the price of the second scale it would be none: a blend fitted on the same items always looks better."""
    learned, held = list_inner(thaw, 3)
    draw = np.random.default_rng(0)
    labels = thaw.development.labels[held]
    frozen = draw.normal(size=(len(held), 2)) + np.eye(2)[labels]

    def train_nothing(start: Any, *_: Any, validate: Callable[[Any], float], **__: Any) -> Any:
        monkeypatch.setattr(thawing, "predict_logits", lambda *_: draw.normal(size=frozen.shape))
        validate(start)
        return start, []

    monkeypatch.setattr(thawing, "train", train_nothing)
    stayed = 0
    for _ in range(60):
        monkeypatch.setattr(thawing, "predict_logits", lambda *_: frozen)
        ((trial, *_), _) = search(at_rate(thaw, 1e-2), learned, held, RUNG)
        stayed += trial.n_epochs == 0
    assert stayed >= 50  # a chi-square of one degree, one-sided, exceeds 2 in one of 12


def test_a_network_without_finite_numbers_is_refused_before_it_is_trained(
    thaw: Thaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thawing, "predict_logits", lambda _, __, items, *___: np.full((len(items), 2), np.nan))
    with pytest.raises(TrainingError, match=f"^{RUNG}: the network gives no finite numbers before it is trained"):
        search(at_rate(thaw, 1e-2), *list_inner(thaw, 3), RUNG)


# --- the search -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "rates", "kept"),
    [
        ([GOOD], [8.0], 0),
        ([POOR, GOOD], [8.0, 8.0 / SLOWER], 1),
        ([POOR, WORSE], [8.0, 8.0 / SLOWER], 1),
        ([POOR, dataclasses.replace(POOR, losses=(0.7, 0.6)), GOOD], [8.0, 8.0 / SLOWER], 0),
        ([POOR, POOR], [8.0, 8.0 / SLOWER], 0),
        ([WORSE, GOOD], [8.0], 0),
    ],
)
def test_a_smaller_rate_is_tried_where_the_first_gains_within_its_error_and_no_third(
    thaw: Thaw, monkeypatch: pytest.MonkeyPatch, script: list[Trial], rates: list[float], kept: int
) -> None:
    tried: list[float] = []
    networks = [torch.nn.Identity() for _ in script]

    def try_rate(*about: Any) -> tuple[Trial, torch.nn.Module]:
        tried.append(about[-1])
        return script[len(tried) - 1], networks[len(tried) - 1]

    monkeypatch.setattr(thawing, "_try_rate", try_rate)
    trials, network = search(at_rate(thaw, 8.0), *list_inner(thaw, 3), RUNG)
    assert trials == tuple(script[: len(rates)])
    assert tried == rates
    assert network is networks[kept]  # of the smallest loss, of equals the first


def test_a_fold_has_what_the_best_trial_found(thaw: Thaw, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = POOR, dataclasses.replace(GOOD, learning_rate=3e-3, losses=(0.7, 0.6, 0.3)), POOR

    def find(thaw: Thaw, learned: np.ndarray, held: np.ndarray, rung: str) -> Any:
        return trials, thaw.start(fit_head(thaw, learned))

    monkeypatch.setattr(thawing, "search", find)
    found = thaw_fold(thaw, 1, RUNG)
    assert (found.fold, found.trials, found.learning_rate, found.scales) == (1, trials, 3e-3, GOOD.scales)
    assert found.n_epochs == 2


@pytest.mark.parametrize("fold", [0, 3])
def test_a_fifth_of_the_patients_is_held_back_of_both_classes(thaw: Thaw, fold: int) -> None:
    of = thaw.development
    learned, held = list_inner(thaw, fold)
    assert sorted([*learned, *held]) == list_training(thaw, fold).tolist()
    assert not set(of.groups[learned]) & set(of.groups[held])
    assert len(held) / len(list_training(thaw, fold)) == pytest.approx(0.2, abs=0.05)
    assert set(of.labels[held]) == {0, 1}
    again = part_inner(dataclasses.replace(thaw, recipe=dataclasses.replace(RECIPE, seed=5)), list_training(thaw, fold))
    assert set(again[1]) != set(held)


def test_the_search_never_sees_the_scored_fold_and_trains_on_the_learned_part(
    thaw: Thaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[np.ndarray] = []

    def note(start: Any, activations: Any, labels: Any, items: np.ndarray, *about: Any, **options: Any) -> Any:
        trained.append(items)
        return train(start, activations, labels, items, *about, **options)

    monkeypatch.setattr(thawing, "train", note)
    assert isinstance(thaw.activations, Table)
    learned, held = list_inner(thaw, 3)
    trials, _ = search(at_rate(thaw, 1e-2), learned, held, RUNG)
    assert len(trained) == len(trials)
    for items in trained:
        np.testing.assert_array_equal(items, learned)
    assert set(thaw.activations.seen) == set(learned) | set(held)
    assert not set(thaw.activations.seen) & set(np.flatnonzero(thaw.development.folds == 3))


def test_with_one_patient_in_a_class_nothing_is_held_back_and_the_fold_stays_frozen(thaw: Thaw) -> None:
    of = dataclasses.replace(thaw.development, labels=(thaw.development.groups == 1).astype(np.int64))
    thaw = dataclasses.replace(thaw, development=of)
    learned, held = list_inner(thaw, 3)
    np.testing.assert_array_equal(learned, list_training(thaw, 3))
    assert len(held) == 0
    found = thaw_fold(thaw, 3, RUNG)
    assert [trial.n_epochs for trial in found.trials] == [0]
    assert (found.n_epochs, found.scales) == (0, (0.0, 1.0))
    np.testing.assert_allclose(found.probabilities, fit_frozen(thaw, 3).probabilities, atol=1e-6)


def test_logits_that_are_not_finite_end_the_search_with_the_name_of_the_rung(
    thaw: Thaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def predict(classifier: Any, activations: Any, items: np.ndarray, *_: Any) -> np.ndarray:
        calls.append(1)
        return np.full((len(items), 2), np.inf if len(calls) == 3 else 0.0)

    monkeypatch.setattr(thawing, "predict_logits", predict)
    with pytest.raises(TrainingError, match=f"^{RUNG}: the validation loss is nan in epoch 2"):
        search(at_rate(thaw, 1e-2), *list_inner(thaw, 3), RUNG)


# --- a whole fold -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head_layers", [1, 2])
def test_thawing_finds_what_the_frozen_network_did_not_pass_on(thaw: Thaw, head_layers: int) -> None:
    found = thaw_fold(dataclasses.replace(thaw, head_layers=head_layers), 2, RUNG)
    labels = thaw.development.labels[thaw.development.folds == 2]
    frozen = fit_frozen(thaw, 2).probabilities
    assert found.logits.shape == (2, len(labels), 2)
    right = [(each.argmax(axis=1) == labels).mean() for each in (found.logits[0], found.probabilities, frozen)]
    assert min(right[:2]) > right[2] + 0.1
    assert log_loss(labels, found.probabilities) < log_loss(labels, frozen) - 0.1
    best = min(found.trials, key=lambda trial: min(trial.losses))
    assert (found.learning_rate, found.n_epochs, found.scales) == (best.learning_rate, best.n_epochs, best.scales)
    assert 1 <= found.n_epochs <= RECIPE.epochs


def test_a_folds_network_is_its_start_trained_on_the_learned_part_for_the_epochs_found(hard: Thaw) -> None:
    thaw = hard
    found = thaw_fold(thaw, 2, RUNG)
    learned, _ = list_inner(thaw, 2)
    assert found.n_epochs >= 1
    recipe = dataclasses.replace(RECIPE, learning_rate=found.learning_rate, stop=found.n_epochs)
    about = thaw.activations, thaw.development.labels, learned, recipe, RUNG
    expected, _ = train(thaw.start(fit_heads(thaw, learned)[0]), *about, blocks=thaw.blocks)
    assert not list_changed(found.classifier, copy_state(expected))
    recipe = dataclasses.replace(recipe, stop=found.n_epochs - 1)
    earlier, _ = train(thaw.start(fit_heads(thaw, learned)[0]), *about[:3], recipe, RUNG, blocks=thaw.blocks)
    assert list_changed(found.classifier, copy_state(earlier))
    scored = np.flatnonzero(thaw.development.folds == 2)
    np.testing.assert_array_equal(found.logits[0], predict_logits(expected, thaw.activations, scored))


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_the_second_source_of_a_fold_is_the_frozen_head_of_its_whole_training_part(
    thaw: Thaw, class_weight: str | None
) -> None:
    thaw = dataclasses.replace(lean(thaw, class_weight), recipe=dataclasses.replace(RECIPE, epochs=1))
    found = thaw_fold(thaw, 1, RUNG)
    frozen = fit_frozen(thaw, 1, class_weight)
    np.testing.assert_allclose(softmax(found.logits[1], axis=1), frozen.probabilities, atol=1e-12)
    assert found.head is not None
    assert isinstance(frozen.head, LinearHead)
    for name, array in frozen.head.to_tensors().items():
        np.testing.assert_array_equal(found.head.to_tensors()[name], array)


def test_a_fold_without_an_epoch_is_the_frozen_rung_as_it_is(hard: Thaw) -> None:
    thaw = dataclasses.replace(hard, recipe=dataclasses.replace(RECIPE, stop=0))
    found = thaw_fold(thaw, 1, RUNG)
    learned, held = list_inner(thaw, 1)
    assert thaw.features is not None
    start = fit_head(thaw, learned)
    (scale,), losses = minimise_loss(thaw.development.labels[held], start.predict_logits(thaw.features[held]))
    assert scale > 1.5  # what the few items held back would have, and do not get
    assert found.scales == (0.0, 1.0)
    assert found.trials[0].losses == (pytest.approx(losses.mean(), abs=1e-5),)
    assert (len(found.trials), found.n_epochs) == (1, 0)
    assert (found.trials[0].gain, found.trials[0].gain_error) == (0.0, 0.0)
    np.testing.assert_allclose(found.probabilities, fit_frozen(thaw, 1).probabilities, atol=1e-12)
    assert not list_changed(found.classifier, copy_state(thaw.start(start)))


def test_the_scored_fold_changes_nothing_but_its_logits_and_its_labels_not_even_those(thaw: Thaw) -> None:
    clean, of = thaw_fold(thaw, 0, RUNG), thaw.development
    assert thaw.features is not None
    rows, features = thaw.activations.rows.clone(), thaw.features.copy()  # type: ignore[attr-defined]
    rows[of.folds == 0] *= 100
    features[of.folds == 0] += 50
    wrong = dataclasses.replace(of, labels=np.where(of.folds == 0, 1 - of.labels, of.labels))
    relabelled = thaw_fold(dataclasses.replace(thaw, development=wrong), 0, RUNG)
    moved = thaw_fold(dataclasses.replace(thaw, activations=Table(rows), features=features), 0, RUNG)
    for found in (relabelled, moved):
        assert found.trials == clean.trials
        assert not list_changed(found.classifier, copy_state(clean.classifier))
        assert found.head is not None
        assert clean.head is not None
        np.testing.assert_array_equal(found.head.coefficients, clean.head.coefficients)
    np.testing.assert_array_equal(relabelled.logits, clean.logits)
    assert not any(np.allclose(now, before) for now, before in zip(moved.logits, clean.logits, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"auto_rgn": True, "mixup": 0.3, "balance": "sampling", "focal": 1.0}])
def test_the_same_seed_gives_the_same_fold_and_the_network_stays_as_it_was(thaw: Thaw, changes: dict[str, Any]) -> None:
    thaw = dataclasses.replace(thaw, recipe=dataclasses.replace(RECIPE, **changes), head_layers=2)
    before = copy_state(thaw.stages.network)
    first, second = (thaw_fold(thaw, 1, RUNG) for _ in range(2))
    np.testing.assert_array_equal(first.logits, second.logits)
    assert first.trials == second.trials
    assert first.n_epochs > 0
    assert not list_changed(thaw.stages.network, before)


# --- blocks above the highest one that is trained ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("train_norms", [False, True])
@pytest.mark.parametrize(("upper", "trained"), [(None, "cde"), ("d", "cd"), ("c", "c")])
def test_training_a_block_touches_nothing_outside_of_it(upper: str | None, trained: str, train_norms: bool) -> None:
    thaw = make_thaw(Tower, "c", dataclasses.replace(RECIPE, train_norms=train_norms), upper=upper)
    assert thaw.blocks == ("e", "d", "c")
    whole = copy_state(thaw.stages.network)
    start = thaw.start(fit_head(thaw, list_training(thaw, 0)))
    before = copy_state(start)
    about = thaw.activations, thaw.development.labels, list_training(thaw, 0)
    for found in (train(start, *about, thaw.recipe, RUNG, blocks=thaw.blocks)[0], start):
        changed = list_changed(found, before)
        blocks = {name.split(".")[1].removeprefix("norm_") for name in changed if name.startswith("suffix.")}
        assert blocks == set(trained)
        assert {name for name in changed if not name.startswith("suffix.")} == {"linear.weight", "linear.bias"}
        statistics = {name for name in changed if "running" in name or "batches" in name}
        expected = {f"suffix.norm_{each}.{name}" for each in trained for name in ("running_mean", "running_var")}
        expected |= {f"suffix.norm_{each}.num_batches_tracked" for each in trained}
        assert statistics == (expected if train_norms else set())
    assert not list_changed(thaw.stages.network, whole)


# --- a random start ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("head_layers", [1, 2])
def test_a_random_start_has_zero_logits_and_trains_everything_with_its_statistics(head_layers: int) -> None:
    recipe = dataclasses.replace(RECIPE, train_norms=True, decay=1.0, head_rate=1.0, epochs=20)
    thaw = make_thaw(Tower, "a", recipe, features=None, head_layers=head_layers)
    items = np.arange(N_ITEMS)
    start = thaw.start(fit_head(thaw, items))
    before = copy_state(start)
    np.testing.assert_array_equal(predict_logits(start, thaw.activations, items), np.zeros((N_ITEMS, 2)))
    found, epochs = train(start, thaw.activations, thaw.development.labels, items, recipe, RUNG, blocks=thaw.blocks)
    changed = list_changed(found, before)
    standardisation = {name for name in before if name.startswith("standardise.")}
    kept = {name for name in before if name not in changed}
    assert kept == standardisation
    assert epochs[-1].training_loss < epochs[0].training_loss - 0.1
    right = predict_logits(found, thaw.activations, items).argmax(axis=1) == thaw.development.labels
    assert right.mean() > 0.8


def test_a_random_start_has_no_frozen_head_beside_it() -> None:
    thaw = make_thaw(Tower, "a", dataclasses.replace(RECIPE, train_norms=True), features=None)
    found = thaw_fold(thaw, 1, "random_init")
    labels = thaw.development.labels[thaw.development.folds == 1]
    assert found.head is None
    assert found.logits.shape == (1, len(labels), 2)
    assert found.n_epochs > 0
    np.testing.assert_allclose(found.probabilities, softmax(found.scales[0] * found.logits[0], axis=1))
    assert log_loss(labels, found.probabilities) < np.log(2) - 0.1


@pytest.mark.parametrize("held_back", [True, False])
def test_a_random_start_that_does_not_train_stays_at_even_chances(held_back: bool) -> None:
    thaw = make_thaw(Tower, "a", dataclasses.replace(RECIPE, stop=0), features=None)
    if not held_back:
        labels = (thaw.development.groups == 2).astype(np.int64)
        thaw = dataclasses.replace(thaw, development=dataclasses.replace(thaw.development, labels=labels))
        assert len(list_inner(thaw, 0)[1]) == 0
    found = thaw_fold(thaw, 0, "random_init")
    assert (found.n_epochs, len(found.scales)) == (0, 1)
    np.testing.assert_array_equal(found.probabilities, np.full((32, 2), 0.5))


@pytest.mark.parametrize(("make_network", "line", "width"), [(HalfBlind, LINE, 8), (Tower, "b", 12)])
def test_a_head_of_zeros_is_as_wide_as_what_the_suffix_gives(make_network: Any, line: str, width: int) -> None:
    thaw = make_thaw(make_network, line)
    head = zero_head(thaw.stages, line, thaw.activations, 4)
    np.testing.assert_array_equal(head.coefficients, np.zeros((4, width)))
    np.testing.assert_array_equal(head.predict_proba(np.ones((3, width), np.float32)), np.full((3, 4), 0.25))
