"""One fold above a thaw line: it starts as the frozen rung, searches inside its training part, and is scored once."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from thawline.learn import thawing
from thawline.learn.heads import fit_fold
from thawline.learn.stages import find_stages
from thawline.learn.thawing import Thaw, Trial, search, thaw_fold, to_probabilities
from thawline.learn.training import Epoch, Recipe, predict_logits

N_ITEMS, LINE = 120, "top"
RECIPE = Recipe(epochs=5, batch_items=16, average=0.5)


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


@dataclasses.dataclass
class Table:
    """Activations of items from an array; remembers which items were taken."""

    rows: torch.Tensor
    n_views: int = 0
    seen: list[int] = dataclasses.field(default_factory=list)

    def take(self, items: np.ndarray, views: np.ndarray) -> torch.Tensor:
        self.seen.extend(items.tolist())
        return self.rows[items]


@pytest.fixture
def thaw() -> Thaw:
    """Two items a patient, four folds of whole patients; the classes differ in what the frozen network does not pass on."""
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    groups = np.arange(N_ITEMS) // 2
    labels = groups % 2
    images = torch.from_numpy(draw.standard_normal((N_ITEMS, 12))).float()
    images[:, :6] += 1.2 * torch.from_numpy(2.0 * labels[:, None] - 1).float()
    network = Backbone().eval()
    stages = find_stages(network)
    with torch.no_grad():
        (rows,) = stages.prefix([LINE])(images)
        features = network(images).numpy()
    folds = groups // 2 % 4
    return Thaw(stages, LINE, Table(rows), features, labels, groups, folds, 2, RECIPE, rates=(1e-3, 3e-2))


def test_before_the_first_step_a_fold_is_that_of_the_frozen_rung(thaw: Thaw) -> None:
    head = fit_fold("linear", thaw.features, thaw.labels, thaw.groups, thaw.folds, 1, 2, seed=0)
    scored = np.flatnonzero(thaw.folds == 1)
    found = to_probabilities(predict_logits(thaw.start(head.head), thaw.activations, scored))  # type: ignore[arg-type]
    np.testing.assert_allclose(found, head.probabilities, atol=1e-6)


def test_where_no_epoch_is_better_the_fold_stays_frozen(thaw: Thaw, monkeypatch: pytest.MonkeyPatch) -> None:
    worse = (Trial(1e-3, 0.5, (Epoch(0.4, 0.6), Epoch(0.3, 0.7))), Trial(3e-2, 0.5, (Epoch(0.4, 0.5),)))
    monkeypatch.setattr(thawing, "search", lambda *_: worse)
    monkeypatch.setattr(thawing, "train", lambda *_, **__: pytest.fail("trained"))
    found = thaw_fold(thaw, 1, "rung 5 top")
    head = fit_fold("linear", thaw.features, thaw.labels, thaw.groups, thaw.folds, 1, 2, seed=0)
    assert found.n_epochs == 0
    np.testing.assert_allclose(to_probabilities(found.logits), head.probabilities, atol=1e-6)


def test_thawing_finds_what_the_frozen_network_did_not_pass_on(thaw: Thaw) -> None:
    found = thaw_fold(thaw, 2, "rung 5 top")
    labels = thaw.labels[thaw.folds == 2]
    frozen = fit_fold("linear", thaw.features, thaw.labels, thaw.groups, thaw.folds, 2, 2, seed=0)
    assert found.logits.shape == (len(labels), 2)
    assert (found.logits.argmax(axis=1) == labels).mean() > (frozen.probabilities.argmax(axis=1) == labels).mean() + 0.1
    assert found.learning_rate == 3e-2
    assert 1 <= found.n_epochs <= RECIPE.epochs
    assert [trial.learning_rate for trial in found.trials] == [1e-3, 3e-2]


def test_the_search_never_sees_the_scored_fold_and_keeps_patients_whole(
    thaw: Thaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[np.ndarray] = []

    def train(start, activations, labels, items, *about, **options):  # type: ignore[no-untyped-def]
        trained.append(items)
        return start, [Epoch(0.1, 0.2)]

    monkeypatch.setattr(thawing, "train", train)
    assert isinstance(thaw.activations, Table)
    search(thaw, thaw.folds != 3, "rung 5 top")
    scored = np.flatnonzero(thaw.folds == 3)
    assert not set(thaw.activations.seen) & set(scored)
    learned, held = set(thaw.groups[trained[0]]), set(thaw.groups[sorted(set(thaw.activations.seen))])
    assert not learned & held
    assert learned | held == set(thaw.groups[thaw.folds != 3])


def test_labels_and_activations_of_the_scored_fold_change_nothing_but_its_logits(thaw: Thaw) -> None:
    clean = thaw_fold(thaw, 0, "rung 5 top")
    scored = thaw.folds == 0
    rows = thaw.activations.rows.clone()  # type: ignore[attr-defined]
    rows[scored] *= 100
    features, labels = thaw.features.copy(), thaw.labels.copy()
    features[scored] += 50
    labels[scored] = 1 - labels[scored]
    spoilt = dataclasses.replace(thaw, activations=Table(rows), features=features, labels=labels)
    found = thaw_fold(spoilt, 0, "rung 5 top")
    assert found.trials == clean.trials
    one, other = clean.classifier.state_dict(), found.classifier.state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_the_same_seed_gives_the_same_fold_and_the_network_stays_as_it_was(thaw: Thaw) -> None:
    before = {name: tensor.clone() for name, tensor in thaw.stages.network.state_dict().items()}
    first, second = (thaw_fold(thaw, 1, "rung 5 top") for _ in range(2))
    np.testing.assert_array_equal(first.logits, second.logits)
    assert first.n_epochs > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in thaw.stages.network.state_dict().items())


def test_with_one_patient_in_a_class_there_is_nothing_to_search_with(thaw: Thaw) -> None:
    labels = (thaw.groups == 1).astype(np.int64)
    found = search(dataclasses.replace(thaw, labels=labels), thaw.folds != 3, "rung 5 top")
    assert [trial.best()[1] for trial in found] == [0]


def test_a_trial_counts_the_epochs_to_its_smallest_loss() -> None:
    assert Trial(1e-3, 0.5, (Epoch(0.9, 0.4), Epoch(0.8, 0.3), Epoch(0.1, 0.3))).best() == (0.3, 2)
    assert Trial(1e-3, 0.3, (Epoch(0.9, 0.4),)).best() == (0.3, 0)


def test_softmax_by_its_closed_form() -> None:
    np.testing.assert_allclose(to_probabilities(np.array([[np.log(3.0), 0.0]])), [[0.75, 0.25]])
