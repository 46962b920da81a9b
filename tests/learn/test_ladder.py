"""The ladder: rungs resume at the last finished fold, stops are remembered with their numbers, the cheapest good wins."""

from __future__ import annotations

import dataclasses
import json
import time

import numpy as np
import pytest

from thawline.errors import DataError, TrainingError
from thawline.journal import Journal
from thawline.judge.comparisons import compare_aucs, paired_difference
from thawline.learn.development import Development
from thawline.learn.ladder import Climb, Forecast, Ladder, Rules, Rung, TriedRung, choose_rung, list_rungs
from thawline.options import CONTROLS
from thawline.plan import Plan
from thawline.types import BackboneFacts, Choice, Line, SilentListener

N_ITEMS = 120
RULES = Rules(budget_s=1e9, useful_gain=0.01)
HEADS = (Rung(0, "feature_extractor"), Rung(1, "feature_extractor_hybrid", "svm"))


def make_development(n_folds=3, unscored=6):
    """Two items a patient; the patients of the last ``unscored`` items are trained on and never scored."""
    groups = np.arange(N_ITEMS) // 2
    folds = groups // 2 % n_folds
    folds[N_ITEMS - unscored :] = -1
    return Development(groups % 2, groups, folds, 2)


def make_line(number, name, share):
    return Rung(number, "fine_tuning_from_scratch" if share == 1 else "fine_tuning", line=name, thawed_fraction=share)


LINES = tuple(
    make_line(3 + n, name, share)
    for n, (name, share) in enumerate([("e", 0.2), ("d", 0.4), ("c", 0.6), ("b", 0.8), ("a", 0.9), ("stem", 1.0)])
)
HANDCRAFTED = Rung(2, "handcrafted")
RANDOM = Rung(9, "random_init", line="stem", thawed_fraction=1.0)
EVERYTHING = (*HEADS, HANDCRAFTED, *LINES, RANDOM)


class Fits:
    """A fitter whose rungs know the labels as well as ``sharpness`` says; counts, and may be interrupted at a fold."""

    def __init__(self, sharpness=None, forecasts=None, interrupt_at=None, n_trials=None):
        self.n_trials = n_trials or {}
        self.sharpness, self.forecasts, self.interrupt_at = sharpness or {}, forecasts or {}, interrupt_at
        self.calls, self.seen, self.prepared, self.development = [], [], [], make_development()

    def forecast(self, rung, tried):
        self.seen.append([each.rung.name for each in tried])
        seconds = self.forecasts.get(rung.name, 1.0)
        return None if seconds is None else Forecast(seconds / 4, seconds / 4)  # for three folds

    def prepare(self, rung):
        self.prepared.append((rung.name, len(self.calls)))

    def fit(self, rung, fold):
        if len(self.calls) == self.interrupt_at:
            raise KeyboardInterrupt
        self.calls.append((rung.name, fold))
        labels = self.development.labels[self.development.folds == fold]
        common = np.random.default_rng(fold).normal(size=len(labels))
        own = np.random.default_rng([rung.number + 1, fold]).normal(size=len(labels))
        logits = common + 0.05 * own + self.sharpness.get(rung.name, 1.0) * labels
        positive = 1 / (1 + np.exp(0.5 - logits))
        value = {"probabilities": np.stack([1 - positive, positive], axis=1), "n_epochs": fold, "logits": logits}
        if rung.line in self.n_trials:
            value["trials"] = [{}] * self.n_trials[rung.line]
        return value, {"linear.weight": np.full(3, float(fold))} if rung.line else None


def spend(*seconds):
    """What was spent at each time it is asked, the last for ever after."""
    rest = list(seconds)
    return lambda: rest.pop(0) if len(rest) > 1 else rest[0]


def run_climb(folder, fits, rungs=EVERYTHING, rules=RULES, spent=0.0, listener=None):
    spent_s = spent if callable(spent) else lambda: spent
    folder.mkdir(exist_ok=True)
    about = Journal(folder), listener or SilentListener(), rules, spent_s
    return Ladder(fits, fits.development, *about).climb(rungs)


def list_names(found):
    return [each.rung.name for each in found.tried]


def assert_same(found, expected):
    assert found.stops == expected.stops
    assert list_names(found) == list_names(expected)
    for one, other in zip(found.tried, expected.tried, strict=True):
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
        for name in ("rung", "folds", "forecast_s", "gain", "chance"):
            assert getattr(one, name) == getattr(other, name), name


def test_what_lies_between_rungs_is_no_cost_of_theirs(tmp_path):
    class Busy(Fits):
        """Takes a while for a fold, and none to prepare."""

        def fit(self, rung, fold):
            spend_cpu(0.02)
            return super().fit(rung, fold)

    def climb(fits, rungs):
        journal = Journal(tmp_path)
        spend_cpu(0.5)  # as for features, or for what a resumed run reads again
        Ladder(fits, fits.development, journal, SilentListener(), RULES, lambda: 0.0).climb(rungs)
        return journal

    with pytest.raises(KeyboardInterrupt):
        climb(Busy(interrupt_at=4), HEADS)
    journal = climb(Busy(), HEADS)
    for rung in HEADS:
        assert 0.06 <= journal.costs(f"{rung.unit} ")["cpu_seconds"] < 0.4
    assert journal.costs("")["cpu_seconds"] >= 1.0


def spend_cpu(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


# --- the rungs of a plan ----------------------------------------------------------------------------------------------


def make_plan(rung=None, heads=("linear", "svm"), lines=("conv_head", "blocks.1", "stem"), controls=CONTROLS, **others):
    textured = ["linear"] if "handcrafted" in controls else []
    values = {"heads": heads, "lines": lines, "controls": controls, "rung": rung, "highest_block": None}
    values |= {"handcrafted_heads": textured, **others}
    return Plan(tuple(Choice(name, value, "fixed", "") for name, value in values.items()))


def make_facts():
    lines = tuple(
        Line(name, share, share, (3,)) for name, share in (("conv_head", 0.1), ("blocks.1", 0.5), ("stem", 1.0))
    )
    fine = (Line("blocks.1.0", 0.45, 0.4, (3,)), lines[-1])
    return BackboneFacts("tiny", 64, 64, (0.5,) * 3, (0.5,) * 3, "bicubic", "package", "MIT", "nothing", lines, fine)


def test_rungs_are_numbered_in_their_order_with_their_lines():
    found = list_rungs(make_plan(), make_facts())
    assert [(each.number, each.strategy, each.name, each.thawed_fraction) for each in found] == [
        (0, "feature_extractor", "linear", 0.0),
        (1, "feature_extractor_hybrid", "svm", 0.0),
        (2, "handcrafted", "handcrafted", 0.0),
        (3, "fine_tuning", "fine_tuning conv_head", 0.1),
        (4, "fine_tuning", "fine_tuning blocks.1", 0.5),
        (5, "fine_tuning_from_scratch", "fine_tuning_from_scratch stem", 1.0),
        (6, "random_init", "random_init", 1.0),
    ]
    assert found[6].line == "stem"
    assert found[2].line is None
    assert found[4].unit == "rung 4 fine_tuning blocks.1"


def test_a_line_between_layers_is_a_rung_too():
    (found,) = list_rungs(make_plan(heads=(), lines=("blocks.1.0",), controls=()), make_facts())
    assert (found.name, found.thawed_fraction) == ("fine_tuning blocks.1.0", 0.45)


def test_a_block_frozen_above_counts_as_frozen():
    plan = make_plan(heads=(), lines=("stem",), controls=(), highest_block="blocks.1")
    (found,) = list_rungs(plan, make_facts())
    assert (found.name, found.thawed_fraction) == ("fine_tuning stem", 0.9)  # conv_head stays
    plan = make_plan(heads=(), lines=("stem",), controls=(), highest_block="conv_head")
    (found,) = list_rungs(plan, make_facts())
    assert (found.name, found.thawed_fraction) == ("fine_tuning_from_scratch stem", 1.0)


def test_handcrafted_features_have_a_rung_for_each_of_their_heads():
    plan = make_plan(heads=(), lines=(), controls=("handcrafted", "random_init"), handcrafted_heads=["linear", "svm"])
    found = list_rungs(plan, make_facts())
    assert [(each.name, each.head) for each in found] == [
        ("handcrafted", "linear"),
        ("handcrafted svm", "svm"),
        ("random_init", "linear"),
    ]
    named = plan.decide("rung", "handcrafted svm", "given")
    assert [each.name for each in list_rungs(named, make_facts())] == ["handcrafted svm"]


@pytest.mark.parametrize("name", ["svm", "fine_tuning blocks.1"])
def test_where_the_plan_names_the_rung_that_one_is_tried_and_the_controls(name):
    found = list_rungs(make_plan(rung=name), make_facts())
    assert {each.name for each in found} == {name, *CONTROLS}
    whole = {each.name: each for each in list_rungs(make_plan(), make_facts())}
    assert all(each == whole[each.name] for each in found)  # the numbers, which the journal has, stay


def test_a_rung_that_cannot_be_trained_is_left_out_and_not_tried_again(tmp_path):
    class Breaks(Fits):
        def fit(self, rung, fold):
            if rung.name == "fine_tuning d":
                self.calls.append((rung.name, fold))
                raise TrainingError("fine_tuning d: the training loss is nan")
            return super().fit(rung, fold)

    fits = Breaks()
    found = run_climb(tmp_path, fits, (*HEADS, *LINES[:3]))
    assert list_names(found) == ["linear", "svm", "fine_tuning e", "fine_tuning c"]
    (stop,) = found.stops
    assert stop == {
        "before": "fine_tuning d",
        "reason": "failed",
        "error": "fine_tuning d: the training loss is nan",
    }
    again = Breaks()
    assert_same(run_climb(tmp_path, again, (*HEADS, *LINES[:3])), found)
    assert again.calls == []
    with pytest.raises(TrainingError, match="loss is nan"):  # where there is nothing else
        run_climb(tmp_path / "alone", Breaks(), LINES[1:2])


# --- climbing ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_rung_is_fitted_on_every_fold_in_order_and_sees_those_before_it(tmp_path):
    fits = Fits({each.name: 0.3 * each.number for each in EVERYTHING})
    found = run_climb(tmp_path, fits)
    assert fits.calls == [(rung.name, fold) for rung in EVERYTHING for fold in range(3)]
    assert fits.seen == [[each.name for each in EVERYTHING[:number]] for number in range(10)]
    assert [each.rung for each in found.tried] == list(EVERYTHING)
    assert found.stops == ()
    for each in found.tried:
        assert np.isnan(each.probabilities[-6:]).all()
        np.testing.assert_allclose(each.probabilities[:-6].sum(axis=1), 1)
        assert each.folds == ({"n_epochs": 0}, {"n_epochs": 1}, {"n_epochs": 2})
        assert each.forecast_s == 1.0


def test_weights_are_kept_beside_the_fold_and_before_it(tmp_path):
    run_climb(tmp_path, Fits(), [HEADS[0], LINES[0]])
    journal = Journal(tmp_path)
    np.testing.assert_array_equal(journal.find("rung 3 fine_tuning e fold 2 weights")["linear.weight"], np.full(3, 2.0))
    assert "rung 0 linear fold 0" in journal
    assert "rung 0 linear fold 0 weights" not in journal
    units = [json.loads(line)["unit"] for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert units.index("rung 3 fine_tuning e fold 1 weights") == units.index("rung 3 fine_tuning e fold 1") - 1


@pytest.mark.slow
def test_a_resumed_climb_fits_nothing_again_and_writes_nothing(tmp_path):
    fits = Fits()
    first = run_climb(tmp_path, fits)
    fits.calls.clear()
    fits.prepared.clear()
    lines = (tmp_path / "journal.jsonl").read_bytes()
    again = run_climb(tmp_path, fits, spent=1e12)
    assert_same(again, first)
    assert [each.seconds for each in again.tried] == [each.seconds for each in first.tried]
    assert fits.calls == fits.prepared == []
    assert (tmp_path / "journal.jsonl").read_bytes() == lines


def test_what_a_rung_needs_is_prepared_before_its_first_unfinished_fold(tmp_path):
    broken, rest = Fits(interrupt_at=4), Fits()
    with pytest.raises(KeyboardInterrupt):
        run_climb(tmp_path, broken, (*HEADS, LINES[0]))
    assert broken.prepared == [("linear", 0), ("svm", 3)]
    run_climb(tmp_path, rest, (*HEADS, LINES[0]))
    assert rest.prepared == [("svm", 0), ("fine_tuning e", 2)]


@pytest.mark.slow
@pytest.mark.parametrize("n_done", [0, 1, 5, 9, 20])
def test_an_interrupted_climb_goes_on_at_the_last_finished_fold(tmp_path, n_done):
    whole, broken, rest = Fits(), Fits(interrupt_at=n_done), Fits()
    with pytest.raises(KeyboardInterrupt):
        run_climb(tmp_path / "broken", broken)
    resumed = run_climb(tmp_path / "broken", rest)
    assert_same(resumed, run_climb(tmp_path / "whole", whole))
    assert broken.calls + rest.calls == whole.calls


def test_progress_is_counted_in_folds_and_says_what_came_of_a_rung(tmp_path):
    said = []

    class Note(SilentListener):
        """Keeps what it is told."""

        def begin(self, step, total=None):
            said.append((step, total))

        def advance(self, units=1):
            said.append(units)

        def end(self, note=""):
            said.append(note)

    for _ in range(2):  # fitted, and resumed
        said.clear()
        fits = Fits({"svm": 4.0})
        first, second = run_climb(tmp_path, fits, HEADS, listener=Note()).tried
        losses = [fits.development.losses(each.probabilities).mean() for each in (first, second)]
        assert said == [
            ("linear", 3),
            *[1] * 3,
            f"log-loss {losses[0]:.4f}",
            ("svm", 3),
            *[1] * 3,
            f"log-loss {losses[1]:.4f}, AUC {second.gain.value:+.3f} to the best before",
        ]
        assert second.gain.value > 0.1


def test_what_a_line_is_forecast_to_take_is_said_before_it_is_tried(tmp_path):
    said = []

    class Note(SilentListener):
        """Keeps what is begun and what it ended with."""

        def begin(self, step, total=None):
            said.append(step)

        def end(self, note=""):
            said.append(note)

    run_climb(tmp_path, Fits(forecasts={"fine_tuning c": 8.0}), (HEADS[0], LINES[2]), Rules(60.0, 0.01), 5.0, Note())
    assert said[2:5] == ["forecast", "fine_tuning c: 8 s for 3 folds; 5 s of 60 s spent", "fine_tuning c"]


def test_seconds_are_those_of_the_rungs_own_folds_in_all_executions(tmp_path):
    journal = Journal(tmp_path)
    journal.record("rung 0 linear fold 0", {"probabilities": Fits().fit(HEADS[0], 0)[0]["probabilities"]}, 1000.0)
    journal.record("rung 1 svm fold 1", {"probabilities": Fits().fit(HEADS[1], 1)[0]["probabilities"]}, 300.0)
    journal.record("rung 10 svm fold 0", {}, 1e6)
    found = run_climb(tmp_path, Fits(), HEADS)
    assert 1000 <= found.tried[0].seconds < 1100
    assert 300 <= found.tried[1].seconds < 400


def test_probabilities_that_are_not_finite_are_refused(tmp_path):
    fits = Fits({"svm": np.nan})
    with pytest.raises(DataError, match="svm gave probabilities that are not finite"):
        run_climb(tmp_path, fits)


def test_a_gain_is_compared_with_the_best_before_it_that_is_no_control(tmp_path):
    fits = Fits({"handcrafted": 9.0, "linear": 2.0, "svm": 1.0})
    first = dataclasses.replace(HANDCRAFTED, number=-1)
    found = run_climb(tmp_path, fits, (first, *HEADS, LINES[0]), Rules(1e9, 0.01, seed=4))
    assert found.tried[0].gain is None is found.tried[0].chance
    assert found.tried[1].gain is None  # nothing but a control before it
    of, scored = fits.development, fits.development.scored()
    for number in (2, 3):
        given = [each.probabilities[scored] for each in found.tried[1 : number + 1]]
        about = of.labels[scored], of.groups[scored], of.folds[scored]
        expected = compare_aucs(given, *about, useful_gain=0.01, seed=4)
        assert (found.tried[number].gain, found.tried[number].chance) == expected
    assert found.tried[2].gain.value < 0


# --- stops ------------------------------------------------------------------------------------------------------------


def test_two_idle_deep_lines_end_the_ladder_and_controls_are_still_tried(tmp_path):
    fits = Fits({each.name: 0.2 for each in LINES} | {"linear": 4.0})
    found = run_climb(tmp_path, fits)
    assert list_names(found) == [each.name for each in (*HEADS, HANDCRAFTED, *LINES[:4], RANDOM)]
    (stop,) = found.stops
    chances = {each.rung.name: each.chance for each in found.tried}
    assert stop == {
        "before": "fine_tuning a",
        "reason": "no useful gain",
        "useful_gain": 0.01,
        "lines": [{"rung": f"fine_tuning {name}", "chance": chances[f"fine_tuning {name}"]} for name in "cb"],
    }
    assert all(line["chance"] < 0.1 for line in stop["lines"])
    assert Journal(tmp_path).find("stop before fine_tuning a") == stop


def test_shallow_lines_that_gain_nothing_end_nothing(tmp_path):
    shallow = [dataclasses.replace(each, thawed_fraction=0.49) for each in LINES]
    fits = Fits({each.name: 0.2 for each in LINES} | {"linear": 4.0})
    found = run_climb(tmp_path, fits, (*HEADS, *shallow))
    assert len(found.tried) == 8
    assert all(each.chance < 0.1 for each in found.tried[2:])
    assert found.stops == ()


@pytest.mark.slow
@pytest.mark.parametrize("useful", ["fine_tuning c", "fine_tuning b"])
def test_one_deep_line_that_gains_keeps_the_ladder_going(tmp_path, useful):
    fits = Fits({each.name: 0.2 for each in LINES} | {"linear": 2.0, useful: 6.0})
    found = run_climb(tmp_path, fits, (*HEADS, *LINES))
    ends = {"fine_tuning c": ["fine_tuning_from_scratch stem"], "fine_tuning b": []}
    assert [stop["before"] for stop in found.stops] == ends[useful]
    assert found.tried[list_names(found).index(useful)].chance > 0.9


def test_a_budget_stop_has_its_numbers_and_is_honoured_on_resume(tmp_path):
    """Heads that do not fit are left out one by one; after a line that does not, no deeper one is tried."""
    fits = Fits({each.name: 1.0 + each.number for each in EVERYTHING}, {"svm": 50.04, "fine_tuning c": 33.0})
    rules = Rules(budget_s=40.0, useful_gain=0.01)
    found = run_climb(tmp_path, fits, rules=rules, spent=9.96)
    assert list_names(found) == ["linear", "handcrafted", "fine_tuning e", "fine_tuning d", "random_init"]
    numbers = {"reason": "budget", "budget_s": 40.0, "spent_s": 10.0}
    assert found.stops == (
        {"before": "svm", **numbers, "forecast_s": 50.0},
        {"before": "fine_tuning c", **numbers, "forecast_s": 33.0},
    )
    assert Journal(tmp_path).find("stop before svm") == {"before": "svm", **numbers, "forecast_s": 50.0}
    fits.calls.clear()
    lines = (tmp_path / "journal.jsonl").read_bytes()
    again = run_climb(tmp_path, fits, rules=Rules(1e9, 0.01))  # more to spend changes nothing that is decided
    assert_same(again, found)
    assert fits.calls == []
    assert (tmp_path / "journal.jsonl").read_bytes() == lines


def test_the_first_rung_is_finished_whatever_the_budget(tmp_path):
    fits = Fits(forecasts={"linear": 100.0})
    found = run_climb(tmp_path, fits, rules=Rules(0.0, 0.01), spent=5.0)
    assert list_names(found) == ["linear"]
    assert [stop["before"] for stop in found.stops] == ["svm", "handcrafted", "fine_tuning e", "random_init"]


def test_what_cannot_be_forecast_is_tried_while_there_is_time(tmp_path):
    fits = Fits(forecasts={"svm": None, "handcrafted": None})
    rungs = (*HEADS, HANDCRAFTED)
    found = run_climb(tmp_path, fits, rungs, Rules(10.0, 0.01), spend(9.0, 11.0))
    assert list_names(found) == ["linear", "svm"]
    assert found.tried[1].forecast_s is None
    assert found.stops[0] == {
        "before": "handcrafted",
        "reason": "budget",
        "budget_s": 10.0,
        "spent_s": 11.0,
        "forecast_s": None,
    }


def test_a_rung_that_was_begun_is_finished_on_resume_whatever_was_spent(tmp_path):
    broken, rest = Fits(interrupt_at=4), Fits()
    with pytest.raises(KeyboardInterrupt):
        run_climb(tmp_path, broken, HEADS, Rules(10.0, 0.01))
    found = run_climb(tmp_path, rest, HEADS, Rules(10.0, 0.01), spent=1e6)
    assert rest.calls == [("svm", 1), ("svm", 2)]
    assert found.stops == ()


def test_the_budget_is_asked_for_once_before_each_rung_but_the_first(tmp_path):
    fits, asked = Fits(), []
    run_climb(tmp_path, fits, HEADS, spent=lambda: asked.append(len(fits.calls)) or 0.0)
    assert asked == [3]


# --- scouting ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def scouts(monkeypatch):
    """One fold of the three, of 20 patients, is enough to scout."""
    allow_scouts(monkeypatch, 20, 10)


def allow_scouts(monkeypatch, n_patients, of_class):
    monkeypatch.setattr("thawline.learn.ladder.SCOUTED_PATIENTS", n_patients)
    monkeypatch.setattr("thawline.learn.ladder.SCOUTED_OF_CLASS", of_class)


def count_folds(found):
    return {each.rung.name.removeprefix("fine_tuning "): len(each.folds) for each in found.tried}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_patients", "of_class", "n_folds"),
    [(1, 1, 1), (20, 1, 1), (21, 1, 2), (39, 1, 2), (40, 1, 3), (1, 10, 1), (1, 11, 2), (1, 20, 3), (999, 999, 3)],
)
def test_as_few_folds_are_scouted_as_have_the_patients(tmp_path, monkeypatch, n_patients, of_class, n_folds):
    """Folds have 20, 19 and 18 patients with two images each; of the rarer class 10, 9 and 9."""
    allow_scouts(monkeypatch, n_patients, of_class)
    fits = Fits({"linear": 9.0, "fine_tuning e": 1.0})
    found = run_climb(tmp_path, fits, (*HEADS, LINES[0]))
    assert count_folds(found) == {"linear": 3, "svm": 3, "e": n_folds}


@pytest.mark.usefixtures("scouts")
def test_lines_are_scouted_down_and_those_not_behind_are_finished_the_best_first(tmp_path):
    fits = Fits({"linear": 1.0, "svm": 1.0, "fine_tuning c": 4.1, "fine_tuning b": 4.0})
    found = run_climb(tmp_path, fits, (*HEADS, *LINES[:4]))
    assert count_folds(found) == {"linear": 3, "svm": 3, "e": 1, "d": 1, "c": 3, "b": 3}
    lines = [call for call in fits.calls if call[0].startswith("fine")]
    assert [name[-1] for name, _ in lines] == list("edcbbbcc")
    assert {each.rung.name for each in found.eligible} == {"linear", "svm", "fine_tuning c", "fine_tuning b"}
    assert [stop["within"] for stop in found.stops] == ["fine_tuning e", "fine_tuning d"]
    first, part = {each.rung.name: each for each in found.tried}, fits.development.keep_folds(1)
    for stop in found.stops:
        given = [part.losses(first[name].probabilities) for name in (stop["within"], "fine_tuning b")]
        difference, error = paired_difference(*given, part.groups[part.scored()])
        assert stop == {
            "within": stop["within"],
            "folds": 1,
            "n_folds": 3,
            "reason": "behind",
            "best": "fine_tuning b",
            "difference": pytest.approx(difference),
            "standard_error": pytest.approx(error),
        }
        assert difference > error
    scouted = first["fine_tuning e"]
    assert np.isfinite(scouted.probabilities).all(axis=1).tolist() == (part.folds == 0).tolist()
    assert (scouted.forecast_s, first["fine_tuning b"].forecast_s) == (0.5, 1.0)


@pytest.mark.slow
@pytest.mark.usefixtures("scouts")
@pytest.mark.parametrize(
    ("sharp", "others", "n_folds"),
    [
        ({"linear": 4.0, "fine_tuning e": 3.9}, (), {"e": 1}),  # a little behind what is cheaper
        ({"linear": 4.0, "fine_tuning e": 4.1}, (), {"e": 3}),  # a little ahead
        ({"linear": 1.0, "fine_tuning e": 3.9, "fine_tuning d": 4.2}, LINES[1:2], {"e": 3, "d": 3}),  # cheaper itself
        (
            {"linear": 4.0, "fine_tuning e": 3.9, "fine_tuning d": 4.12},
            LINES[1:2],
            {"e": 1, "d": 3},
        ),  # not the cheapest
    ],
)
def test_a_line_no_better_than_a_cheaper_rung_is_left(tmp_path, sharp, others, n_folds):
    found = run_climb(tmp_path, Fits(sharp), (HEADS[0], LINES[0], *others))
    assert count_folds(found) == {"linear": 3, **n_folds}
    for stop in found.stops:
        assert (stop["within"], stop["reason"], stop["best"]) == ("fine_tuning e", "behind", "linear")
        assert 0 < stop["difference"] < stop["standard_error"]


@pytest.mark.usefixtures("scouts")
def test_gains_are_compared_on_the_same_folds_and_anew_when_all_are_there(tmp_path):
    fits = Fits({"linear": 1.0, "fine_tuning e": 1.2, "fine_tuning d": 6.0, "fine_tuning c": 7.5})
    found = run_climb(tmp_path, fits, (*HEADS, *LINES[:3]))
    assert count_folds(found) == {"linear": 3, "svm": 3, "e": 1, "d": 3, "c": 3}
    for number, rivals in ((2, (0, 1)), (3, (0, 1)), (4, (0, 1, 3))):
        part = fits.development.keep_folds(len(found.tried[number].folds))
        scored = part.scored()
        given = [found.tried[place].probabilities[scored] for place in (*rivals, number)]
        about = part.labels[scored], part.groups[scored], part.folds[scored]
        expected = compare_aucs(given, *about, useful_gain=0.01)
        assert (found.tried[number].gain, found.tried[number].chance) == expected


@pytest.mark.usefixtures("scouts")
def test_idle_lines_end_the_descent_on_the_scouted_folds(tmp_path):
    fits = Fits({each.name: 0.2 for each in LINES} | {"linear": 6.0})
    found = run_climb(tmp_path, fits, (*HEADS, *LINES))
    assert count_folds(found) == {"linear": 3, "svm": 3, "e": 1, "d": 1, "c": 1, "b": 1}
    assert [stop["reason"] for stop in found.stops] == ["no useful gain", *["behind"] * 4]
    assert [each.rung.name for each in found.eligible] == ["linear", "svm"]


@pytest.mark.usefixtures("scouts")
def test_what_does_not_fit_into_the_budget_stays_scouted_and_a_resumed_climb_decides_the_same(tmp_path):
    sharp = {"linear": 1.0, "fine_tuning d": 3.8, "fine_tuning c": 4.0}
    fits, rules = Fits(sharp), Rules(10.0, 0.01)
    found = run_climb(tmp_path, fits, (*HEADS, *LINES[:3]), rules, spend(*[0.0] * 10, 20.0))
    assert count_folds(found) == {"linear": 3, "svm": 3, "e": 1, "d": 1, "c": 3}
    budget, behind = found.stops
    assert {**budget, "forecast_s": 0.0} == {
        "within": "fine_tuning d",
        "folds": 1,
        "n_folds": 3,
        "reason": "budget",
        "budget_s": 10.0,
        "spent_s": 20.0,
        "forecast_s": 0.0,
    }
    assert behind["reason"] == "behind"
    journal = (tmp_path / "journal.jsonl").read_bytes()
    rest = Fits(sharp)
    assert_same(run_climb(tmp_path, rest, (*HEADS, *LINES[:3]), RULES), found)
    assert rest.calls == []
    assert (tmp_path / "journal.jsonl").read_bytes() == journal


@pytest.mark.slow
@pytest.mark.usefixtures("scouts")
@pytest.mark.parametrize("n_done", [6, 8, 9, 10, 11])
def test_an_interrupted_climb_goes_on_while_scouting_and_while_finishing(tmp_path, n_done):
    sharp = {"linear": 1.0, "fine_tuning d": 3.8, "fine_tuning c": 4.0}
    whole, broken, rest = Fits(sharp), Fits(sharp, interrupt_at=n_done), Fits(sharp)
    rungs = (*HEADS, *LINES[:3])
    with pytest.raises(KeyboardInterrupt):
        run_climb(tmp_path / "broken", broken, rungs)
    resumed = run_climb(tmp_path / "broken", rest, rungs, Rules(1e9, 0.01), spent=0.0)
    assert_same(resumed, run_climb(tmp_path / "whole", whole, rungs))
    assert broken.calls + rest.calls == whole.calls


@pytest.mark.usefixtures("scouts")
def test_the_rest_of_the_best_may_not_fit_and_the_next_is_not_behind_what_is_not_finished(tmp_path):
    """Two folds more take twice what the first took, times the trials that folds of all lines took in the mean."""
    fits = Fits({"linear": 1.0, "fine_tuning d": 4.0, "fine_tuning c": 9.0}, n_trials={"c": 1, "d": 3, "e": 2})
    journal = Journal(tmp_path)
    for rung, seconds in zip(LINES[:3], (10.0, 30.0, 100.0), strict=True):
        value, _ = fits.fit(rung, 0)
        journal.record(rung.fold_unit(0), value, seconds)
    fits.calls.clear()
    found = run_climb(tmp_path, fits, (*HEADS, *LINES[:3]), Rules(300.0, 0.01))
    assert count_folds(found) == {"linear": 3, "svm": 3, "e": 1, "d": 1, "c": 1}
    short, *behind = found.stops
    assert (short["within"], short["reason"], short["forecast_s"]) == ("fine_tuning c", "budget", 100.0 * 2 * 2)
    assert {(stop["within"], stop["reason"], stop["best"]) for stop in behind} == {
        ("fine_tuning d", "behind", "fine_tuning c"),
        ("fine_tuning e", "behind", "fine_tuning c"),
    }
    assert [each.rung.name for each in found.eligible] == ["linear", "svm", "fine_tuning c"]


@pytest.mark.usefixtures("scouts")
def test_no_other_fold_of_a_line_is_begun_once_the_budget_is_spent_and_a_resumed_climb_has_as_many(tmp_path):
    """A line may take longer than was forecast: it keeps the folds it has, and can be chosen by them."""
    sharp = {"linear": 1.0, "fine_tuning c": 9.0}
    fits, rules = Fits(sharp), Rules(10.0, 0.01)
    found = run_climb(tmp_path, fits, (*HEADS, LINES[2]), rules, spend(*[0.0] * 5, 20.0))
    assert fits.calls[-2:] == [("fine_tuning c", 0), ("fine_tuning c", 1)]
    assert count_folds(found) == {"linear": 3, "svm": 3, "c": 2}
    about = {"within": "fine_tuning c", "folds": 2, "n_folds": 3, "reason": "budget"}
    assert found.stops == ({**about, "budget_s": 10.0, "spent_s": 20.0, "forecast_s": None},)
    assert [each.rung.name for each in found.eligible] == ["linear", "svm", "fine_tuning c"]
    line = found.tried[-1]
    assert np.array_equal(np.isfinite(line.probabilities[:, 0]), np.isin(fits.development.folds, (0, 1)))
    journal = (tmp_path / "journal.jsonl").read_bytes()
    rest = Fits(sharp)
    assert_same(run_climb(tmp_path, rest, (*HEADS, LINES[2]), RULES), found)
    assert rest.calls == rest.prepared == []
    assert (tmp_path / "journal.jsonl").read_bytes() == journal


@pytest.mark.usefixtures("scouts")
def test_a_line_that_was_left_for_want_of_budget_is_compared_on_the_folds_that_it_has(tmp_path):
    """Its one fold decides, on which it knows more than the heads do; their other folds do not count."""
    fits = Fits({"linear": 1.0, "fine_tuning c": 9.0})
    found = run_climb(tmp_path, fits, (*HEADS, LINES[2]), Rules(10.0, 0.01), spend(*[0.0] * 3, 20.0))
    assert count_folds(found) == {"linear": 3, "svm": 3, "c": 1}
    selection = choose_rung(found.eligible, fits.development)
    assert found.eligible[selection.chosen].rung.name == "fine_tuning c"
    part = fits.development.keep_folds(1)
    expected = [part.losses(each.probabilities).mean() for each in found.eligible]
    np.testing.assert_allclose(selection.mean_losses, expected)


@pytest.mark.parametrize(("n_folds", "eligible"), [(3, ["linear", "fine_tuning c"]), (1, None)])
def test_once_a_line_has_all_folds_those_left_for_want_of_budget_cannot_be_chosen(n_folds, eligible):
    """Lines get their folds the best first: what a cheaper one shows on few does not outweigh them."""
    rungs = {rung.name: rung for rung in (HEADS[0], LINES[1], LINES[2])}
    counts = {"linear": 3, "fine_tuning d": 1, "fine_tuning c": n_folds}
    tried = [TriedRung(rung, np.empty((0, 2)), ({},) * counts[name], 1.0) for name, rung in rungs.items()]
    stops = [{"within": name, "reason": "budget"} for name in rungs if counts[name] < 3]
    found = [each.rung.name for each in Climb(tuple(tried), tuple(stops), 3).eligible]
    assert found == (eligible or list(rungs))


@pytest.mark.usefixtures("scouts")
def test_the_first_rung_is_whole_whatever_it_is_worth_so_that_it_does_not_set_others_aside(tmp_path):
    """Where no head is asked for, the top line is fitted on all folds at once."""
    fits = Fits({"fine_tuning c": 9.0})
    found = run_climb(tmp_path, fits, LINES[:3], Rules(10.0, 0.01), spend(*[0.0] * 4, 20.0))
    assert count_folds(found) == {"e": 3, "d": 1, "c": 1}
    assert [each.rung.name for each in found.eligible] == ["fine_tuning e", "fine_tuning c"]
    assert choose_rung(found.eligible, fits.development).chosen == 1


def test_a_control_that_cannot_be_trained_is_left_out_where_there_is_anything_to_deliver(tmp_path):
    class Failing(Fits):
        def fit(self, rung, fold):
            if rung.line:
                raise TrainingError("the loss is not finite")
            return super().fit(rung, fold)

    found = run_climb(tmp_path, Failing(), (HANDCRAFTED, RANDOM))
    assert [each.rung for each in found.eligible] == [HANDCRAFTED]
    assert found.stops[0]["reason"] == "failed"
    with pytest.raises(TrainingError):  # what was asked for is not to be replaced by a control
        run_climb(tmp_path / "line", Failing(), (HANDCRAFTED, LINES[0]))


@pytest.mark.usefixtures("scouts")
@pytest.mark.parametrize(("final", "tried"), [(0.0, True), (5.0, False)])
def test_the_budget_has_room_for_what_delivering_a_line_takes(tmp_path, final, tried):
    fits = Fits(forecasts={"fine_tuning c": 4.0})  # a second for what comes once, and one a fold
    found = run_climb(tmp_path, fits, (*HEADS, LINES[2]), Rules(6.5, 0.01, final=final))
    assert ("fine_tuning c" in list_names(found)) is tried
    if not tried:
        assert found.stops[0]["forecast_s"] == pytest.approx(1 + 1 + 5)


@pytest.mark.usefixtures("scouts")
def test_a_line_that_is_all_that_can_be_chosen_is_finished_whatever_the_budget(tmp_path):
    found = run_climb(tmp_path, Fits(), (HANDCRAFTED, LINES[2], RANDOM), Rules(0.0, 0.01), spent=5.0)
    assert count_folds(found) == {"handcrafted": 3, "c": 3}
    assert [each.rung.name for each in found.eligible] == ["fine_tuning c"]


# --- choosing ---------------------------------------------------------------------------------------------------------


def make_rung(number, losses, development, strategy="feature_extractor"):
    """A rung whose loss on each item is the one given."""
    right = np.exp(-losses)
    probabilities = np.empty((N_ITEMS, 2))
    probabilities[np.arange(N_ITEMS), development.labels] = right
    probabilities[np.arange(N_ITEMS), 1 - development.labels] = 1 - right
    return TriedRung(Rung(number, strategy), probabilities, ({},) * 3, 0.0)


@pytest.mark.parametrize(
    ("gaps", "chosen"),
    [
        ([0.0, 0.3, 0.3], 0),
        ([0.3, 0.0, 0.0], 1),
        ([0.3, 0.3, 0.0], 2),
        ([0.9, 0.04, 0.0], 2),
        ([0.9, 0.015, 0.0], 1),
        ([0.015, 0.9, 0.0], 0),
    ],
)
def test_the_first_rung_within_one_standard_error_is_chosen(gaps, chosen):
    """Against the last rung, paired differences of one item a patient are ``gap`` on average with a known spread."""
    development = Development(make_development().labels, np.arange(N_ITEMS), np.arange(N_ITEMS) % 3, 2)
    spread = np.tile([-1.0, 1.0], N_ITEMS // 2) * 0.2  # standard error 0.2 / sqrt(119) = 0.018
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


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_is_never_chosen_however_good_unless_there_is_nothing_else(control):
    development = make_development()
    heads = [make_rung(number, np.full(N_ITEMS, 0.6 - number / 10), development) for number in range(2)]
    best = make_rung(2, np.full(N_ITEMS, 0.01), development, control)
    climbed = Climb((heads[0], best, heads[1]), (), 3)
    assert climbed.eligible == (heads[0], heads[1])
    assert choose_rung(climbed.eligible, development).chosen == 1
    alone = Climb((best,), (), 3)
    assert alone.eligible == (best,)
    assert choose_rung(alone.eligible, development).chosen == 0
