"""The ladder: rungs resume without refitting, a stop is remembered, and the cheapest good one is chosen."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import log_loss

from thawline.errors import DataError
from thawline.journal import Journal
from thawline.learn import ladder
from thawline.learn.heads import fit_fold
from thawline.learn.ladder import Development, Rung, choose_rung, climb, cross_fit
from thawline.options import ALL_HEADS
from thawline.types import SilentListener

N_ITEMS = 60
HEADS = ("linear", "svm", "k_nn")


def make_development(n_folds=3, unscored=6):
    """Two items a patient; the patients of the last ``unscored`` items are trained on and never scored."""
    groups = np.arange(N_ITEMS) // 2
    folds = groups // 2 % n_folds
    folds[N_ITEMS - unscored :] = -1
    return Development(groups % 2, groups, folds, 2)


def make_features(distance=1.0):
    labels = make_development().labels
    return (np.random.default_rng(0).normal(size=(N_ITEMS, 5)) + distance * labels[:, None]).astype(np.float32)


class Fits:
    """Stands in for `fit_fold`: probabilities that tell head and fold; counts, and may be interrupted."""

    def __init__(self, interrupt_at=None):
        self.calls, self.interrupt_at, self.options = [], interrupt_at, []

    def __call__(self, head, features, labels, groups, folds, fold, n_classes, **options):
        if len(self.calls) == self.interrupt_at:
            raise KeyboardInterrupt
        self.calls.append((head, fold))
        self.options.append(options)
        rng = np.random.default_rng([ALL_HEADS.index(head), fold])
        positive = rng.uniform(0.1, 0.9, int((folds == fold).sum()))
        return SimpleNamespace(probabilities=np.stack([1 - positive, positive], axis=1), strength=10.0**fold)


@pytest.fixture
def fits(monkeypatch):
    fits = Fits()
    monkeypatch.setattr(ladder, "fit_fold", fits)
    return fits


def run_climb(folder, heads=HEADS, features=None, development=None, may_go_on=lambda: True, **options):
    options = {"seed": 0, "class_weight": "none", **options}
    features = make_features() if features is None else features
    development = development or make_development()
    journal = Journal(folder)
    return climb(heads, features, development, journal, SilentListener(), may_go_on=may_go_on, **options)


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
        assert (one.number, one.strategy, one.head, one.strengths) == (
            other.number,
            other.strategy,
            other.head,
            other.strengths,
        )
        assert one.seconds == other.seconds


# --- climbing ---------------------------------------------------------------------------------------------------------


def test_every_head_is_fitted_on_every_fold_in_order(tmp_path, fits):
    rungs = run_climb(tmp_path)
    assert fits.calls == [(head, fold) for head in HEADS for fold in range(3)]
    assert [(rung.number, rung.head, rung.strategy) for rung in rungs] == [
        (0, "linear", "feature_extractor"),
        (1, "svm", "feature_extractor_hybrid"),
        (2, "k_nn", "feature_extractor_hybrid"),
    ]
    assert rungs[0].strengths == (1.0, 10.0, 100.0)
    for rung in rungs:
        assert np.isnan(rung.probabilities[-6:]).all()
        np.testing.assert_allclose(rung.probabilities[:-6].sum(axis=1), 1)


def test_a_resumed_climb_fits_nothing_again(tmp_path, fits):
    first = run_climb(tmp_path)
    fits.calls.clear()
    assert_same(run_climb(tmp_path), first)
    assert fits.calls == []


@pytest.mark.parametrize("n_done", [0, 1, 4, 8])
def test_an_interrupted_climb_goes_on_where_it_stopped(tmp_path, monkeypatch, n_done):
    whole, broken, rest = Fits(), Fits(interrupt_at=n_done), Fits()
    monkeypatch.setattr(ladder, "fit_fold", broken)
    with pytest.raises(KeyboardInterrupt):
        run_climb(tmp_path / "broken")
    monkeypatch.setattr(ladder, "fit_fold", rest)
    resumed = run_climb(tmp_path / "broken")
    monkeypatch.setattr(ladder, "fit_fold", whole)
    expected = run_climb(tmp_path / "whole")
    assert broken.calls + rest.calls == whole.calls
    for one, other in zip(resumed, expected, strict=True):
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
        assert one.strengths == other.strengths


@pytest.fixture(autouse=True)
def run_folders(tmp_path):
    for name in ("broken", "whole"):
        (tmp_path / name).mkdir()


def test_the_first_rung_is_finished_whatever_the_budget(tmp_path, fits):
    rungs = run_climb(tmp_path, may_go_on=lambda: False)
    assert [rung.head for rung in rungs] == ["linear"]
    assert len(fits.calls) == 3


def test_a_stop_is_journaled_and_repeated_on_resume(tmp_path, fits):
    budget = iter([True, False])
    rungs = run_climb(tmp_path, may_go_on=lambda: next(budget))
    assert [rung.head for rung in rungs] == ["linear", "svm"]
    assert Journal(tmp_path).find("stop before k_nn") == {"reason": "budget spent", "tried": ["linear", "svm"]}
    fits.calls.clear()
    lines = (tmp_path / "journal.jsonl").read_bytes()
    assert_same(run_climb(tmp_path, may_go_on=lambda: True), rungs)
    assert fits.calls == []
    assert (tmp_path / "journal.jsonl").read_bytes() == lines


def test_the_budget_is_asked_for_before_each_rung_after_the_first(tmp_path, fits):
    asked = []
    run_climb(tmp_path, may_go_on=lambda: asked.append(len(fits.calls)) or True)
    assert asked == [3, 6]


def test_progress_is_counted_in_folds(tmp_path, fits):
    said = []

    class Note(SilentListener):
        """Keeps what it is told."""

        def begin(self, step, total=None):
            said.append((step, total))

        def advance(self, units=1):
            said.append(units)

        def end(self, note=""):
            said.append(note)

    for _ in range(2):
        said.clear()
        climb(
            HEADS[:2],
            make_features(),
            make_development(),
            Journal(tmp_path),
            Note(),
            seed=0,
            class_weight="none",
            may_go_on=lambda: True,
        )
        assert said == [("heads", 6), *[1] * 6, "2 of 2 rungs"]


@pytest.mark.parametrize(("class_weight", "passed"), [("none", None), ("balanced", "balanced")])
def test_seed_and_class_weight_reach_the_head(tmp_path, fits, class_weight, passed):
    run_climb(tmp_path, seed=7, class_weight=class_weight)
    assert {(options["seed"], options["class_weight"]) for options in fits.options} == {(7, passed)}


def test_seconds_are_those_of_the_rungs_own_folds(tmp_path, fits):
    rungs = run_climb(tmp_path)
    journal = Journal(tmp_path)
    journal.record("rung 1 svm fold 2", {"probabilities": rungs[1].probabilities[:1], "strength": 1.0}, 1000.0)
    journal = Journal(tmp_path)
    assert journal.seconds("rung 1 svm fold") >= 1000
    assert journal.seconds("rung 0 linear fold") == rungs[0].seconds < 1000


def test_probabilities_that_are_not_finite_are_refused(tmp_path, monkeypatch):
    def fit(head, features, labels, groups, folds, fold, n_classes, **options):
        return SimpleNamespace(probabilities=np.full(((folds == fold).sum(), 2), np.nan), strength=1.0)

    monkeypatch.setattr(ladder, "fit_fold", fit)
    with pytest.raises(DataError, match="head linear gave probabilities that are not finite"):
        run_climb(tmp_path)


# --- against the heads themselves -------------------------------------------------------------------------------------


def test_a_cross_fit_is_the_fits_of_its_folds(tmp_path):
    features, development = make_features(), make_development()
    probabilities, strengths = cross_fit(
        "aspect crop", "linear", features, development, Journal(tmp_path), SilentListener(), seed=0
    )
    about = (features, development.labels, development.groups, development.folds)
    for fold in range(3):
        expected = fit_fold("linear", *about, fold, 2, seed=0)
        np.testing.assert_allclose(probabilities[development.folds == fold], expected.probabilities)
        assert strengths[fold] == expected.strength
    assert np.isnan(probabilities[development.folds == -1]).all()
    assert "aspect crop fold 2" in Journal(tmp_path)


def test_losses_are_those_of_the_scored_items():
    development = make_development()
    positive = np.random.default_rng(1).uniform(0.05, 0.95, N_ITEMS)
    probabilities = np.stack([1 - positive, positive], axis=1)
    probabilities[-6:] = np.nan
    losses = development.losses(probabilities)
    assert development.scored().tolist() == list(range(N_ITEMS - 6))
    assert losses.mean() == pytest.approx(log_loss(development.labels[:-6], positive[:-6]))


# --- choosing ---------------------------------------------------------------------------------------------------------


def make_rung(number, losses, development):
    """A rung whose loss on each item is the one given."""
    right = np.exp(-losses)
    probabilities = np.empty((N_ITEMS, 2))
    probabilities[np.arange(N_ITEMS), development.labels] = right
    probabilities[np.arange(N_ITEMS), 1 - development.labels] = 1 - right
    return Rung(number, "s", f"head {number}", probabilities, (1.0,), 0.0)


@pytest.mark.parametrize(
    ("gaps", "chosen"),
    [
        ([0.0, 0.3, 0.3], 0),
        ([0.3, 0.0, 0.0], 1),
        ([0.3, 0.3, 0.0], 2),
        ([0.9, 0.04, 0.0], 2),
        ([0.9, 0.02, 0.0], 1),
        ([0.02, 0.9, 0.0], 0),
    ],
)
def test_the_first_rung_within_one_standard_error_is_chosen(gaps, chosen):
    """Against the last rung, paired differences of one item a patient are ``gap`` on average with a known spread."""
    development = Development(make_development().labels, np.arange(N_ITEMS), np.arange(N_ITEMS) % 3, 2)
    spread = np.tile([-1.0, 1.0], N_ITEMS // 2) * 0.2  # standard error 0.2 * sqrt(60 / 59) / sqrt(60) = 0.026
    losses = [0.5 + gap + (spread if gap else 0.0) for gap in gaps]
    rungs = [make_rung(number, np.broadcast_to(loss, N_ITEMS), development) for number, loss in enumerate(losses)]
    found = choose_rung(rungs, development)
    assert found.chosen == chosen
    assert gaps[found.best] == 0.0
    np.testing.assert_allclose(found.differences, gaps, atol=1e-9)
    expected = [0.2 / np.sqrt(N_ITEMS - 1) if gap else 0.0 for gap in gaps]
    np.testing.assert_allclose(found.standard_errors, expected, atol=1e-9)


def test_items_that_are_never_scored_do_not_choose():
    development = make_development()
    losses = np.full((2, N_ITEMS), 0.5)
    losses[0, :-6] += 0.2
    losses[1, -6:] += 50.0
    rungs = [make_rung(number, each, development) for number, each in enumerate(losses)]
    assert choose_rung(rungs, development).chosen == 1
