"""One fold above a thaw line: it starts as the frozen rung, searches inside its training part, and is scored once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.metrics import log_loss

from thawline.errors import TrainingError
from thawline.learn import thawing
from thawline.learn.development import Development
from thawline.learn.heads import FoldResult, fit_fold
from thawline.learn.stages import find_stages
from thawline.learn.thawing import (
    SLOWER,
    Thaw,
    ThawedFold,
    Trial,
    fit_start,
    search,
    thaw_fold,
    to_probabilities,
    zero_head,
)
from thawline.learn.training import Epoch, Recipe, predict_logits, train

N_ITEMS, LINE, RUNG = 120, "top", "fine_tuning top"
RECIPE = Recipe(learning_rate=3e-2, epochs=5, batch_items=16, average=0.5)
GOOD, POOR = Trial(1e-2, (0.7, 0.5, 0.6), 1.5, 0.2, 0.1), Trial(1e-2, (0.7, 0.4), 1.5, 0.3, 0.4)
WORSE = Trial(1e-2, (0.4, 0.5, 0.6), 1.5, 0.0, 0.0)  # no epoch is better than the start


class Backbone(torch.nn.Module):
    """A frozen layer and one that can be thawed; the second sees only half of what tells the classes apart."""

    def __init__(self) -> None:
        super().__init__()
        self.bottom, self.top, self.act = torch.nn.Linear(12, 12), torch.nn.Linear(12, 8), torch.nn.ReLU()
        with torch.no_grad():
            self.bottom.weight.copy_(torch.eye(12))
            self.top.weight[:, :6] = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.act(self.top(self.bottom(images)))
        return features


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


def make_thaw(make_network: Callable[[], torch.nn.Module], line: str, recipe: Recipe = RECIPE, **options: Any) -> Thaw:
    """Two items a patient, four folds of whole patients; classes differ in half of the columns."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = make_network().eval()
    draw = np.random.default_rng(0)
    groups = np.arange(N_ITEMS) // 2
    labels = groups % 2
    images = torch.from_numpy(draw.standard_normal((N_ITEMS, 12))).float()
    images[:, :6] += 1.2 * torch.from_numpy(2.0 * labels[:, None] - 1).float()
    stages = find_stages(network)
    with torch.no_grad():
        (rows,) = stages.prefix([line])(images)
        features = network(images).numpy()
    development = Development(labels, groups, groups // 2 % 4, 2)
    return dataclasses.replace(Thaw(stages, line, Table(rows), features, development, recipe), **options)


@pytest.fixture
def thaw() -> Thaw:
    return make_thaw(Backbone, LINE)


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


# --- the start --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balance", ["none", "weights", "sampling"])
@pytest.mark.parametrize("head_layers", [1, 2, 3])
def test_before_the_first_step_a_fold_is_that_of_the_frozen_rung(thaw: Thaw, head_layers: int, balance: str) -> None:
    recipe = dataclasses.replace(thaw.recipe, balance=balance, seed=3)
    thaw = dataclasses.replace(thaw, head_layers=head_layers, recipe=recipe)
    head = fit_frozen(thaw, 1, None if balance == "none" else "balanced")
    start = fit_start(thaw, list_training(thaw, 1))
    found = to_probabilities(predict_logits(start, thaw.activations, np.flatnonzero(thaw.development.folds == 1)))
    np.testing.assert_allclose(found, head.probabilities, atol=1e-6)


@pytest.mark.parametrize(("trials", "n_calls"), [((POOR, POOR), 0), ((POOR,), 0), ((GOOD,), 1), ((POOR, GOOD), 1)])
def test_a_fold_trains_only_where_an_epoch_gains_more_than_its_error(
    thaw: Thaw, monkeypatch: pytest.MonkeyPatch, trials: tuple[Trial, ...], n_calls: int
) -> None:
    recipes: list[Recipe] = []

    def note(start: Any, activations: Any, labels: Any, items: Any, recipe: Recipe, rung: str, **_: Any) -> Any:
        recipes.append(recipe)
        np.testing.assert_array_equal(items, list_training(thaw, 1))
        return start, []

    trials = tuple(dataclasses.replace(trial, learning_rate=10.0**-n) for n, trial in enumerate(trials))
    monkeypatch.setattr(thawing, "search", lambda *_: trials)
    monkeypatch.setattr(thawing, "train", note)
    found = thaw_fold(thaw, 1, RUNG)
    assert len(recipes) == n_calls
    if n_calls:
        assert (recipes[0].learning_rate, recipes[0].stop) == (trials[-1].learning_rate, 1)
        assert recipes[0].epochs == RECIPE.epochs
        assert (found.n_epochs, found.n_steps, found.temperature) == (1, 6, 1.5)  # 90 items in batches of 16
    else:
        assert (found.n_epochs, found.n_steps, found.temperature) == (0, 0, 1.0)
        np.testing.assert_allclose(found.probabilities, fit_frozen(thaw, 1).probabilities, atol=1e-6)


def test_a_trial_counts_the_epochs_to_its_smallest_loss_where_it_gains_more_than_its_error() -> None:
    assert Trial(1e-3, (0.5, 0.4, 0.3, 0.3), 1.0, 0.2, 0.19).n_epochs == 2
    assert Trial(1e-3, (0.5, 0.4, 0.3, 0.3), 1.0, 0.2, 0.2).n_epochs == 0
    assert Trial(1e-3, (0.3, 0.4), 1.0, 0.0, 0.0).n_epochs == 0


def test_probabilities_are_a_softmax_at_the_temperature() -> None:
    logits = np.array([[2 * np.log(3.0), 0.0], [0.0, 0.0]])
    found = ThawedFold(0, logits, (), 1e-3, 1, 1, 2.0, torch.nn.Identity(), 0.0)
    np.testing.assert_allclose(found.probabilities, [[0.75, 0.25], [0.5, 0.5]])


# --- the search -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "rates"),
    [
        ([GOOD], [8.0]),
        ([POOR, GOOD], [8.0, 8.0 / SLOWER]),
        ([POOR, POOR, GOOD], [8.0, 8.0 / SLOWER]),
        ([WORSE, GOOD], [8.0]),
    ],
)
def test_a_smaller_rate_is_tried_where_the_first_gains_within_its_error_and_no_third(
    thaw: Thaw, monkeypatch: pytest.MonkeyPatch, script: list[Trial], rates: list[float]
) -> None:
    tried: list[float] = []

    def try_rate(*about: Any) -> Trial:
        tried.append(about[-1])
        return script[len(tried) - 1]

    monkeypatch.setattr(thawing, "_try_rate", try_rate)
    assert search(thaw, list_training(thaw, 3), RUNG, 8.0) == tuple(script[: len(rates)])
    assert tried == rates


@pytest.mark.parametrize(("rate", "first"), [(None, RECIPE.learning_rate), (0.5, 0.5)])
def test_the_search_begins_with_the_rate_that_is_inherited(
    thaw: Thaw, monkeypatch: pytest.MonkeyPatch, rate: float | None, first: float
) -> None:
    seen: list[float] = []
    monkeypatch.setattr(thawing, "search", lambda *about: seen.append(about[-1]) or (POOR,))
    thaw_fold(thaw, 1, RUNG, rate)
    assert seen == [first]


def test_a_trial_holds_calibrated_losses_and_the_gain_with_its_error_by_patient(
    thaw: Thaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The referee finds each temperature on a grid, and the error by its formula for patients of two items."""
    of, logits, held = thaw.development, [], []

    def predict(classifier: Any, activations: Any, items: np.ndarray) -> np.ndarray:
        logits.append(predict_logits(classifier, activations, items))
        held.append(items)
        return logits[-1]

    monkeypatch.setattr(thawing, "predict_logits", predict)
    (trial,) = search(thaw, list_training(thaw, 3), RUNG, RECIPE.learning_rate)
    labels = of.labels[held[0]]
    grid = np.geomspace(0.05, 20, 601)
    losses, temperatures = [], []
    for each in logits:
        logs = [log_softmax(each / t, axis=1)[np.arange(len(labels)), labels] for t in grid]
        best = int(np.argmax([part.mean() for part in logs]))
        losses.append(-logs[best])
        temperatures.append(grid[best])
    means = [part.mean() for part in losses]
    np.testing.assert_allclose(trial.losses, means, atol=1e-4)
    best = int(np.argmin(means))
    assert best > 0
    assert trial.temperature == pytest.approx(temperatures[best], rel=0.01)
    by_patient = (losses[0] - losses[best]).reshape(-1, 2).mean(axis=1)
    assert (of.groups[held[0]].reshape(-1, 2)[:, 0] == of.groups[held[0]].reshape(-1, 2)[:, 1]).all()
    assert trial.gain == pytest.approx(by_patient.mean(), abs=1e-4)
    assert trial.gain_error == pytest.approx(by_patient.std(ddof=1) / np.sqrt(len(by_patient)), rel=0.02)
    assert trial.n_epochs == best


def test_the_search_never_sees_the_scored_fold_and_keeps_patients_whole(
    thaw: Thaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[np.ndarray] = []

    def note(start: Any, activations: Any, labels: Any, items: np.ndarray, *about: Any, **options: Any) -> Any:
        trained.append(items)
        return start, [Epoch(0.1, 0.2)]

    monkeypatch.setattr(thawing, "train", note)
    assert isinstance(thaw.activations, Table)
    of = thaw.development
    search(thaw, list_training(thaw, 3), RUNG, 1e-2)
    scored = np.flatnonzero(of.folds == 3)
    assert not set(thaw.activations.seen) & set(scored)
    learned, held = set(of.groups[trained[0]]), set(of.groups[sorted(set(thaw.activations.seen))])
    assert not learned & held
    assert learned | held == set(of.groups[of.folds != 3])


def test_with_one_patient_in_a_class_there_is_nothing_to_search_with(thaw: Thaw) -> None:
    of = dataclasses.replace(thaw.development, labels=(thaw.development.groups == 1).astype(np.int64))
    found = search(dataclasses.replace(thaw, development=of), list_training(thaw, 3), RUNG, 1e-2)
    assert [trial.n_epochs for trial in found] == [0]


def test_logits_that_are_not_finite_end_the_search_with_the_name_of_the_rung(
    thaw: Thaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def predict(classifier: Any, activations: Any, items: np.ndarray) -> np.ndarray:
        calls.append(1)
        return np.full((len(items), 2), np.inf if len(calls) == 3 else 0.0)

    monkeypatch.setattr(thawing, "predict_logits", predict)
    with pytest.raises(TrainingError, match=f"^{RUNG}: the validation loss is nan in epoch 2"):
        search(thaw, list_training(thaw, 3), RUNG, 1e-2)


# --- a whole fold -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head_layers", [1, 2])
def test_thawing_finds_what_the_frozen_network_did_not_pass_on(thaw: Thaw, head_layers: int) -> None:
    found = thaw_fold(dataclasses.replace(thaw, head_layers=head_layers), 2, RUNG)
    labels = thaw.development.labels[thaw.development.folds == 2]
    frozen = fit_frozen(thaw, 2).probabilities
    assert found.logits.shape == (len(labels), 2)
    assert (found.logits.argmax(axis=1) == labels).mean() > (frozen.argmax(axis=1) == labels).mean() + 0.1
    assert log_loss(labels, found.probabilities) < log_loss(labels, frozen) - 0.1
    assert found.learning_rate == found.trials[-1].learning_rate
    assert 1 <= found.n_epochs <= RECIPE.epochs
    assert found.n_steps == 6 * found.n_epochs
    assert found.temperature == found.trials[-1].temperature
    assert found.seconds > 0


def test_a_fold_is_its_start_trained_on_its_whole_training_part_for_the_epochs_found(thaw: Thaw) -> None:
    found = thaw_fold(thaw, 2, RUNG)
    recipe = dataclasses.replace(RECIPE, learning_rate=found.learning_rate, stop=found.n_epochs)
    about = thaw.activations, thaw.development.labels, list_training(thaw, 2)
    expected, _ = train(fit_start(thaw, about[2]), *about, recipe, RUNG, blocks=thaw.blocks)
    assert not list_changed(found.classifier, copy_state(expected))


def test_labels_and_activations_of_the_scored_fold_change_nothing_but_its_logits(thaw: Thaw) -> None:
    clean = thaw_fold(thaw, 0, RUNG)
    of = thaw.development
    scored = of.folds == 0
    rows = thaw.activations.rows.clone()  # type: ignore[attr-defined]
    rows[scored] *= 100
    assert thaw.features is not None
    features, labels = thaw.features.copy(), of.labels.copy()
    features[scored] += 50
    labels[scored] = 1 - labels[scored]
    wrong = dataclasses.replace(of, labels=labels)
    found = thaw_fold(dataclasses.replace(thaw, activations=Table(rows), features=features, development=wrong), 0, RUNG)
    assert found.trials == clean.trials
    assert not list_changed(found.classifier, copy_state(clean.classifier))
    assert not np.allclose(found.logits, clean.logits)


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


@pytest.mark.parametrize("train_norms", [False, True])
@pytest.mark.parametrize(("upper", "trained"), [(None, "cde"), ("d", "cd"), ("c", "c")])
def test_training_a_block_touches_nothing_outside_of_it(upper: str | None, trained: str, train_norms: bool) -> None:
    thaw = make_thaw(Tower, "c", dataclasses.replace(RECIPE, train_norms=train_norms), upper=upper)
    assert thaw.blocks == ("e", "d", "c")
    whole = copy_state(thaw.stages.network)
    start = fit_start(thaw, list_training(thaw, 0))
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


@pytest.mark.parametrize("head_layers", [1, 2])
def test_a_random_start_has_zero_logits_and_trains_everything_with_its_statistics(head_layers: int) -> None:
    recipe = dataclasses.replace(RECIPE, train_norms=True, decay=1.0, head_rate=1.0, epochs=20)
    thaw = make_thaw(Tower, "a", recipe, features=None, head_layers=head_layers)
    items = np.arange(N_ITEMS)
    start = fit_start(thaw, items)
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


def test_a_random_start_that_gains_nothing_stays_at_even_chances(monkeypatch: pytest.MonkeyPatch) -> None:
    thaw = make_thaw(Tower, "a", features=None)
    monkeypatch.setattr(thawing, "search", lambda *_: (POOR,))
    np.testing.assert_array_equal(thaw_fold(thaw, 1, "random_init").probabilities, np.full((32, 2), 0.5))


@pytest.mark.parametrize(("make_network", "line", "width"), [(Backbone, LINE, 8), (Tower, "b", 12)])
def test_a_head_of_zeros_is_as_wide_as_what_the_suffix_gives(make_network: Any, line: str, width: int) -> None:
    thaw = make_thaw(make_network, line)
    head = zero_head(thaw.stages, line, thaw.activations, 4)
    np.testing.assert_array_equal(head.coefficients, np.zeros((4, width)))
    np.testing.assert_array_equal(head.predict_proba(np.ones((3, width), np.float32)), np.full((3, 4), 0.25))


def test_softmax_by_its_closed_form() -> None:
    np.testing.assert_allclose(to_probabilities(np.array([[np.log(3.0), 0.0]])), [[0.75, 0.25]])
