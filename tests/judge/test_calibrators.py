"""Referees: statsmodels, betacal, scikit-learn, a plain loop of cross-validation, symmetry, simulations of known truth."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import statsmodels.api as sm
from betacal import BetaCalibration
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold

from thawline.errors import DataError, OptionError
from thawline.judge import calibrators
from thawline.judge.calibrators import KINDS, UNCHANGED, Calibrator, choose_calibrator, fit_calibrator
from thawline.judge.metrics import roc_auc
from thawline.types import MISSING

FITTED = KINDS[1:]


def pair(positive):
    return np.column_stack([1 - np.asarray(positive), positive])


def make_binary(n_patients, mean_items=2, base=0.0, seed=0):
    """Labels, their true log-odds, and groups; items of a patient have like ones."""
    draw = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_patients), draw.poisson(mean_items - 1, n_patients) + 1)
    odds = base + 1.5 * draw.normal(size=n_patients)[groups] + draw.normal(size=len(groups))
    return (draw.random(len(groups)) < expit(odds)).astype(np.int64), odds, groups * 3


def make_several(n_items, n_classes=4, seed=0):
    """Labels, true logits of several classes, and groups of two items."""
    draw = np.random.default_rng(seed)
    logits = 1.5 * draw.normal(size=(n_items, n_classes))
    labels = (softmax(logits, axis=1).cumsum(axis=1) < draw.random((n_items, 1))).sum(axis=1)
    return labels, logits, np.arange(n_items) // 2


def fit_line(kind, labels, positive):
    return fit_calibrator(kind, labels, pair(positive), np.arange(len(labels))).maps[0]


# --- each kind --------------------------------------------------------------------------------------------------------


def test_none_changes_nothing():
    labels, odds, groups = make_binary(20)
    found = fit_calibrator("none", labels, pair(expit(odds)), groups)
    assert found == Calibrator("none", 2, False, ())
    np.testing.assert_array_equal(found.apply(pair(expit(odds))), pair(expit(odds)))


def test_platt_is_a_logistic_regression_with_a_prior_of_statsmodels():
    labels, odds, _ = make_binary(40, base=-1)
    given = 2.5 * odds + 1
    # the slope is 1 more than that of a regression from which the odds are taken off
    model = sm.GLM(labels, sm.add_constant(given), offset=given, family=sm.families.Binomial())
    fitted = model.fit_regularized(alpha=np.array([0, 1 / len(labels)]), L1_wt=0, maxiter=500, cnvrg_tol=1e-13)
    slope, same, intercept = fit_line("platt", labels, expit(given))
    assert (slope, intercept) == pytest.approx((1 + fitted.params[1], fitted.params[0]), abs=2e-4)
    assert same == slope


def test_of_many_items_platt_is_the_largest_likelihood():
    labels, odds, _ = make_binary(4000)
    given = 2.5 * odds + 1
    expected = sm.GLM(labels, sm.add_constant(given), family=sm.families.Binomial()).fit()
    slope, _, intercept = fit_line("platt", labels, expit(given))
    assert (slope, intercept) == pytest.approx((expected.params[1], expected.params[0]), abs=1e-3)


@pytest.mark.parametrize("transform", ["beta", "probit"])
def test_of_many_items_beta_is_that_of_betacal(transform):
    labels, odds, _ = make_binary(4000)
    given = expit(2 * odds - 0.5) if transform == "probit" else expit(odds) ** 0.5
    peer = BetaCalibration("abm").fit(given[:, np.newaxis], labels)
    a, b, _ = fit_line("beta", labels, given)
    assert min(a, b) > 0.1
    assert (a, b) == pytest.approx(peer.calibrator_.map_[:2], rel=0.02)
    found = fit_calibrator("beta", labels, pair(given), np.arange(len(labels))).apply(pair(given))
    np.testing.assert_allclose(found[:, 1], peer.predict(given), atol=1e-3)


def test_beta_of_few_items_is_the_most_probable_and_bounded():
    """The referee minimises without gradients; these data would have a slope below 0."""
    labels, odds, _ = make_binary(60, seed=3)
    given = np.clip(np.where(odds > 0, 0.97, expit(odds)), 0.001, 0.999)
    logs = np.column_stack([np.log(given), -np.log1p(-given)])

    def loss(line):
        told = logs @ line[:2] + line[2]
        return (np.logaddexp(0, told) - labels * told).sum() + ((line[:2] - 1) ** 2).sum() / 2

    bounds = [(1 / 40, 20), (1 / 40, 20), (-20, 20)]
    options = {"xatol": 1e-9, "fatol": 1e-12, "maxiter": 5000}
    expected = minimize(loss, [1, 1, 0], method="Nelder-Mead", bounds=bounds, options=options)
    found = fit_line("beta", labels, given)
    assert loss(np.array(found)) <= expected.fun + 1e-6
    assert found == pytest.approx(tuple(expected.x), abs=1e-2)
    flipped = fit_line("beta", 1 - labels, given)
    assert 1 / 40 in [pytest.approx(slope) for slope in flipped[:2]]


def test_isotonic_is_that_of_scikit_learn_mixed_with_platts_prior():
    """A line of the 0s and 1s is the same line of what the map rises to: 1 of (14 + 1) / (14 + 2) patients, say."""
    labels, odds, groups = make_binary(30, base=-1)
    given = expit(odds)
    least = 1 / (len(np.unique(groups[labels == 0])) + 2)
    n_with = len(np.unique(groups[labels == 1]))
    most = (n_with + 1) / (n_with + 2)
    assert n_with < (labels == 1).sum()
    peer = IsotonicRegression(out_of_bounds="clip").fit(given, labels)
    elsewhere = np.linspace(0, 1, 101)
    found = fit_calibrator("isotonic", labels, pair(given), groups).apply(pair(elsewhere))
    np.testing.assert_allclose(found[:, 1], least + (most - least) * peer.predict(elsewhere))
    assert (found[0, 1], found[-1, 1]) == pytest.approx((least, most))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "line"),
    [("temperature", (0.4, 0.4, 0.0)), ("platt", (0.6, 0.6, -0.8)), ("beta", (0.5, 1.4, 0.3))],
)
def test_the_line_of_a_simulation_is_found(kind, line):
    draw = np.random.default_rng(1)
    given = draw.beta(0.7, 0.7, 40_000).clip(1e-6, 1 - 1e-6)
    true = expit(line[0] * np.log(given) - line[1] * np.log1p(-given) + line[2])
    labels = (draw.random(40_000) < true).astype(np.int64)
    found = fit_calibrator(kind, labels, pair(given), np.arange(40_000))
    assert found.maps[0] == pytest.approx(line, abs=0.05)
    np.testing.assert_allclose(found.apply(pair(given))[:, 1], true, atol=0.02)


@pytest.mark.slow
def test_the_curve_of_a_simulation_is_found():
    draw = np.random.default_rng(1)
    given = draw.random(40_000)
    true = 0.3 + 0.4 * (given > 0.6)
    labels = (draw.random(40_000) < true).astype(np.int64)
    found = fit_calibrator("isotonic", labels, pair(given), np.arange(40_000)).apply(pair(given))
    assert np.abs(found[:, 1] - true).mean() < 0.01


@pytest.mark.parametrize("kind", FITTED)
def test_it_does_not_matter_which_class_comes_first(kind):
    labels, odds, groups = make_binary(40, base=0.7)
    given = pair(expit(2 * odds))
    found = fit_calibrator(kind, labels, given, groups).apply(given)
    swapped = fit_calibrator(kind, 1 - labels, given[:, ::-1], groups).apply(given[:, ::-1])
    np.testing.assert_allclose(swapped[:, ::-1], found, atol=1e-5)


# --- bounds, order and storage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FITTED)
def test_perfect_separation_stays_within_reason(kind):
    """Twenty patients ranked rightly are not proof of certainty."""
    labels = np.arange(20) % 2
    given = pair(np.where(labels == 1, 0.8, 0.2))
    found = fit_calibrator(kind, labels, given, np.arange(20)).apply(given)
    right = found[np.arange(20), labels]
    assert (right > 0.85).all()
    assert (right < 0.995).all()
    wrong = fit_calibrator(kind, 1 - labels, given, np.arange(20)).apply(given)
    assert (np.abs(wrong - 0.5) < 0.05).all()


@pytest.mark.parametrize("kind", FITTED)
def test_certain_probabilities_stay_finite(kind):
    labels, odds, groups = make_binary(40)
    positive = expit(odds)
    positive[:6] = [0, 1, 0, 1, 1e-300, 1 - 1e-16]
    labels[:6] = [1, 0, 0, 1, 0, 1]
    fitted = fit_calibrator(kind, labels, pair(positive), groups)
    found = fitted.apply(pair(positive))
    assert np.isfinite(found).all()
    assert 0 < log_loss(labels, found) < log_loss(labels, pair(positive).clip(1e-15))


probabilities = st.lists(st.integers(0, 10**6).map(lambda n: n / 10**6), min_size=4, max_size=40)


@given(positive=probabilities, seed=st.integers(0, 99), kind=st.sampled_from(FITTED))
@settings(max_examples=80, deadline=None)
def test_order_and_sums_stay(positive, seed, kind):
    draw = np.random.default_rng(seed)
    labels, other = draw.integers(2, size=len(positive)), np.sort(draw.random(50).round(5))
    fitted = fit_calibrator(kind, labels, pair(positive), draw.integers(9, size=len(positive)))
    found, there = fitted.apply(pair(positive)), fitted.apply(pair(other))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-12)
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(there[:, 1]) >= 0).all()
    assert (np.diff(there[:, 0]) <= 0).all()
    if kind != "isotonic" and len(set(labels)) == 2:
        for k in (0, 1):
            before = roc_auc(labels == k, pair(positive)[:, k])
            assert roc_auc(labels == k, found[:, k]) == pytest.approx(before, abs=1e-12)


def test_order_stays_among_the_smallest_probabilities_of_either_class():
    labels, odds, groups = make_binary(40)
    tiny = np.array([1e-40, 1e-30, 1e-20, 1e-16])
    for kind in FITTED[:-1]:
        fitted = fit_calibrator(kind, labels, pair(expit(odds)), groups)
        assert (np.diff(fitted.apply(np.column_stack([1 - tiny, tiny]))[:, 1]) > 0).all()
        assert (np.diff(fitted.apply(np.column_stack([tiny, 1 - tiny]))[:, 0]) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["two", "several", "labels"])
def test_a_calibrator_survives_json(kind, shape):
    labels, logits, groups = make_several(60, 2 if shape == "two" else 3)
    told, several = softmax(1.3 * logits, axis=1), shape == "labels"
    if several:
        labels = (np.random.default_rng(0).random((60, 3)) < told).astype(np.int64)
    fitted = fit_calibrator(kind, labels, told, groups, multilabel=several)
    again = Calibrator.from_json(json.loads(json.dumps(fitted.to_json())))
    assert again == fitted
    np.testing.assert_array_equal(again.apply(told), fitted.apply(told))
    assert fitted.apply(told[:0]).shape == (0, told.shape[1])
    with pytest.raises(dataclasses.FrozenInstanceError):
        fitted.kind = "none"


@pytest.mark.parametrize("kind", FITTED)
def test_a_class_that_is_absent_or_alone_is_left_unchanged(kind):
    given = pair([0.2, 0.4, 0.7])
    for labels in ([0, 0, 0], [1, 1, 1]):
        fitted = fit_calibrator(kind, np.array(labels), given, np.arange(3))
        assert fitted.maps == (UNCHANGED,)
        np.testing.assert_allclose(fitted.apply(given), given)


def test_equal_probabilities_become_the_prevalence():
    labels, given = np.array([1] * 30 + [0] * 70), pair(np.full(100, 0.2))
    for kind in ("platt", "beta"):
        found = fit_calibrator(kind, labels, given, np.arange(100)).apply(given)
        np.testing.assert_allclose(found[:, 1], 0.3, atol=1e-5)


# --- several classes, several labels ----------------------------------------------------------------------------------


def test_the_temperature_of_several_classes_is_the_best_of_a_grid():
    labels, logits, groups = make_several(60)
    given = softmax(2 * logits + 5, axis=1)
    grid = np.linspace(0.05, 3, 2000)
    logs = log_softmax(2 * grid[:, np.newaxis, np.newaxis] * logits, axis=2)
    losses = -logs[:, np.arange(60), labels].sum(axis=1) + (grid - 1) ** 2 / 2
    best = grid[int(np.argmin(losses))]
    found = fit_calibrator("temperature", labels, given, groups)
    assert np.array(found.maps)[0] == pytest.approx([best, best, 0], abs=0.003)
    np.testing.assert_allclose(found.apply(given), softmax(2 * best * logits, axis=1), atol=2e-3)


@pytest.mark.parametrize("kind", FITTED[1:])
def test_several_classes_are_mapped_against_the_rest_and_summed_to_one(kind):
    labels, logits, groups = make_several(200)
    labels[labels == 3] = 0  # a class that is absent
    given = softmax(2 * logits, axis=1)
    found = fit_calibrator(kind, labels, given, groups)
    assert found.maps[3] == UNCHANGED
    each = []
    for k in range(4):
        alone = fit_calibrator(kind, (labels == k).astype(int), pair(given[:, k]), groups)
        each.append(alone.apply(pair(given[:, k]))[:, 1])
    expected = np.column_stack(each)
    np.testing.assert_allclose(found.apply(given), expected / expected.sum(axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("kind", FITTED)
def test_each_label_is_mapped_by_itself_where_it_is_known(kind):
    labels, odds, groups = make_binary(60)
    draw = np.random.default_rng(0)
    given = expit(np.column_stack([2 * odds, odds + 1, odds]))
    table = np.column_stack([labels, labels, np.zeros_like(labels)])
    table[draw.random(len(labels)) < 0.3, 1] = MISSING
    found = fit_calibrator(kind, table, given, groups, multilabel=True)
    known = table[:, 1] != MISSING
    for k, kept in ((0, known | True), (1, known)):
        alone = fit_calibrator(kind, labels[kept], pair(given[kept, k]), groups[kept])
        np.testing.assert_allclose(found.apply(given)[:, k], alone.apply(pair(given[:, k]))[:, 1], atol=1e-9)
    np.testing.assert_allclose(found.apply(given)[:, 2], given[:, 2])


def test_two_labels_are_not_two_classes():
    labels, odds, groups = make_binary(40)
    given = expit(np.column_stack([odds, 3 * odds]))
    found = fit_calibrator("platt", np.column_stack([labels, labels]), given, groups, multilabel=True)
    assert len(found.maps) == 2
    assert found.maps[0][0] == pytest.approx(3 * found.maps[1][0], rel=0.1)


# --- the choice -------------------------------------------------------------------------------------------------------


def distort(odds, truth):
    """Log-odds that a calibrator of this kind sets right."""
    if truth == "beta":  # solve a ln p − b ln(1 − p) + c for p on a fine grid
        grid = np.linspace(-60, 60, 20_001)
        return np.interp(odds, 0.25 * -np.logaddexp(0, -grid) + 1.6 * np.logaddexp(0, grid), grid)
    return {"none": odds, "temperature": 2.5 * odds, "platt": 1.5 * odds + 2}[truth]


@pytest.mark.parametrize("truth", ["none", "temperature", "platt", "beta"])
def test_the_simplest_that_is_right_is_chosen(truth):
    labels, odds, groups = make_binary(400, seed=5)
    given = pair(expit(distort(odds, truth)))
    found, rows = choose_calibrator(labels, given, groups, seed=0)
    assert found.kind == truth
    assert found == fit_calibrator(truth, labels, given, groups)
    assert [row["kind"] for row in rows] == list(KINDS[:-1])


def test_a_curve_of_steps_is_chosen_isotonic_given_patients_enough():
    draw = np.random.default_rng(0)
    given, patients = draw.random(2500), np.arange(2500) // 5
    labels = (draw.random(2500) < np.select([given < 0.3, given < 0.9], [0.05, 0.5], 0.95)).astype(int)
    found, rows = choose_calibrator(labels, pair(given), patients, seed=1)
    assert found.kind == "isotonic" == rows[-1]["kind"]
    assert rows[-1]["difference"] == 0
    for fewer in (np.maximum(patients, 1), labels & (given > 0.95)):  # 499 patients; about 100 of one class
        groups, truth = (fewer, labels) if fewer.max() > 1 else (patients, fewer)
        assert [row["kind"] for row in choose_calibrator(truth, pair(given), groups, seed=1)[1]] == list(KINDS[:-1])


def test_losses_are_those_of_a_plain_loop_over_folds_of_patients():
    labels, odds, groups = make_binary(60, base=-0.5, seed=7)
    given = pair(expit(2 * odds))
    _, rows = choose_calibrator(labels, given, groups, seed=11)
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=11)
    for row in rows:
        found = np.empty_like(given)
        for fitted, scored in splitter.split(given, labels, groups):
            assert not set(groups[fitted]) & set(groups[scored])
            calibrator = fit_calibrator(row["kind"], labels[fitted], given[fitted], groups[fitted])
            found[scored] = calibrator.apply(given[scored])
        assert row["log_loss"] == pytest.approx(log_loss(labels, found))
    best = min(row["log_loss"] for row in rows)
    assert [row["difference"] for row in rows] == pytest.approx([row["log_loss"] - best for row in rows])
    assert json.loads(json.dumps(rows)) == list(rows)


def test_folds_keep_patients_whole_and_judge_every_item_once(monkeypatch):
    labels, odds, groups = make_binary(50, mean_items=4)
    seen = []
    monkeypatch.setattr(
        calibrators, "fit_calibrator", lambda *args, **more: seen.append(args[3]) or fit_calibrator(*args, **more)
    )
    choose_calibrator(labels, pair(expit(odds)), groups, seed=0)
    *fits, last = seen
    assert len(last) == len(groups)
    assert len(fits) == 5 * len(KINDS[:-1])
    for kind in range(len(KINDS[:-1])):
        left_out = [set(groups) - set(part) for part in fits[5 * kind : 5 * kind + 5]]
        assert sorted(patient for part in left_out for patient in part) == sorted(set(groups))


@pytest.mark.slow
def test_of_calibrated_probabilities_of_few_patients_nearly_all_are_left_alone():
    """And where overconfidence is plain, the choice makes probabilities better on average."""
    chosen, gains = [], []
    for trial in range(25):
        labels, odds, groups = make_binary(20, mean_items=3, seed=trial)
        chosen.append(choose_calibrator(labels, pair(expit(odds)), groups, seed=trial)[0].kind)
        found, _ = choose_calibrator(labels, pair(expit(4 * odds)), groups, seed=trial)
        true, others, _ = make_binary(500, seed=1000 + trial)
        before = pair(expit(4 * others))
        gains.append(log_loss(true, before.clip(1e-15)) - log_loss(true, found.apply(before).clip(1e-15)))
    assert chosen.count("none") >= 20
    assert np.mean(gains) > 0.2
    assert min(gains) > -0.1


def test_several_classes_and_labels_are_chosen_for():
    labels, logits, groups = make_several(400)
    found, rows = choose_calibrator(labels, softmax(3 * logits, axis=1), groups, seed=0)
    assert (found.kind, found.n_columns, len(rows)) == ("temperature", 4, 4)
    draw = np.random.default_rng(0)
    table = (draw.random(logits.shape) < expit(logits)).astype(np.int64)
    table[draw.random(table.shape) < 0.2] = MISSING
    table[:7] = MISSING
    told = expit(3 * logits)
    told[:7] = 0.5
    found, rows = choose_calibrator(table, told, groups, multilabel=True, seed=0)
    assert (found.kind, found.multilabel) == ("temperature", True)
    slopes = [line[0] for line in found.maps]
    assert slopes == pytest.approx([1 / 3] * 4, abs=0.1)
    assert found == choose_calibrator(table[7:], told[7:], groups[7:], multilabel=True, seed=0)[0]


@pytest.mark.parametrize(
    ("labels", "groups"),
    [([1], [0]), ([0, 1, 0, 1], [3, 3, 3, 3]), ([0, 0, 0, 0], [1, 2, 3, 4]), ([0, 0, 0, 1], [1, 2, 3, 4])],
)
def test_too_few_patients_change_nothing(labels, groups):
    given = pair(np.linspace(0.2, 0.9, len(labels)))
    found, rows = choose_calibrator(np.array(labels), given, np.array(groups), seed=0)
    assert found == Calibrator("none", 2, False, ())
    assert [row["kind"] for row in rows] == ["none"]
    assert rows[0]["log_loss"] == pytest.approx(log_loss(labels, given, labels=[0, 1]))


def test_few_patients_of_both_classes_can_be_judged():
    labels, groups = np.array([0, 1, 0, 1, 1, 0]), np.array([1, 1, 2, 2, 3, 3])
    _, rows = choose_calibrator(labels, pair([0.1, 0.6, 0.2, 0.9, 0.3, 0.4]), groups, seed=0)
    assert len(rows) == 4
    assert all(np.isfinite(row["log_loss"]) for row in rows)


def test_unusable_input_is_refused():
    labels, given, groups = np.array([0, 1]), pair([0.2, 0.7]), np.array([1, 2])
    fitted = fit_calibrator("platt", labels, given, groups)
    with pytest.raises(OptionError, match="found 'sigmoid'"):
        fit_calibrator("sigmoid", labels, given, groups)
    with pytest.raises(OptionError, match="found 'magic'"):
        Calibrator.from_json({**fitted.to_json(), "kind": "magic"})
    with pytest.raises(DataError, match="of 2 columns are expected; found 3"):
        fitted.apply(np.full((1, 3), 1 / 3))
    with pytest.raises(DataError, match="row 0, column 1 holds nan"):
        fitted.apply(np.array([[0.5, np.nan]]))
    with pytest.raises(DataError, match=r"found shape \(2,\)"):
        fitted.apply(np.array([0.5, 0.5]))
    with pytest.raises(DataError, match=r"at least two classes are needed; found shape \(2, 1\)"):
        fit_calibrator("platt", np.zeros(2, int), given[:, 1:], groups)
    with pytest.raises(DataError, match="groups 3"):
        choose_calibrator(labels, given, np.arange(3), seed=0)
    with pytest.raises(DataError, match="found none"):
        choose_calibrator(labels[:0], given[:0], groups[:0], seed=0)
    with pytest.raises(DataError, match="found none"):
        fit_calibrator("platt", np.full((2, 2), MISSING), given, groups, multilabel=True)
    with pytest.raises(DataError, match="Labels from 0 to 1 are needed; found 0 to 2"):
        fit_calibrator("platt", np.array([0, 2]), given, groups)
    with pytest.raises(DataError, match=r"Labels of shape \(items, labels\)"):
        fit_calibrator("platt", labels, given, groups, multilabel=True)
