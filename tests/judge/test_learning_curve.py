"""Referees: SciPy's curve_fit, prior draws weighed by SciPy's likelihood, closed forms, and simulations of known truth."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import curve_fit

from thawline.errors import DataError, OptionError
from thawline.judge import learning_curve
from thawline.judge.learning_curve import (
    average_repeats,
    check_by_hiding,
    choose_sizes,
    draw_subsets,
    extrapolate,
    find_size,
    find_size_for_width,
    fit_curve,
    predict_aucs,
)
from thawline.judge.metrics import roc_auc

SIZES = np.array([25, 36, 52, 74, 106, 152, 218, 312])


def follow(n, a, b, c):
    return a - b * np.asarray(n, float) ** -c


# --- sizes and subsets ------------------------------------------------------------------------------------------------


@given(st.integers(20, 5000), st.floats(0.05, 0.5), st.integers(3, 10))
def test_sizes_grow_by_one_factor_and_hold_a_few_of_the_rarest(n_patients, share, n_sizes):
    n_rarest = max(round(n_patients * share), 10)
    sizes = choose_sizes(n_patients, n_rarest, n_sizes=n_sizes)
    assert sizes[-1] == n_patients
    assert sizes[0] * n_rarest / n_patients >= 5 - 1e-9
    assert 2 * sizes[0] - 1 <= n_patients <= 16 * sizes[0] + 15
    factor = (sizes[-1] / sizes[0]) ** (1 / (n_sizes - 1))
    if len(sizes) == n_sizes:  # where none of them rounds to another
        assert (np.abs(sizes - sizes[0] * factor ** np.arange(n_sizes)) <= 0.5 + 1e-6).all()
    assert (np.diff(sizes) > 0).all()


def test_sizes_that_teach_nothing_are_refused():
    assert choose_sizes(400, 200, smallest=10)[0] == 10
    for n_patients, n_rarest in ((20, 9), (0, 0), (1, 1), (300, 0), (20, 40)):
        with pytest.raises(DataError, match=f"{n_patients} patients, {n_rarest} of that class"):
            choose_sizes(n_patients, n_rarest)
    with pytest.raises(DataError, match="Raise n_sizes"):
        choose_sizes(400, 200, n_sizes=2)


def make_patients(seed, n_patients=60, n_classes=3):
    """Patients of one to four items, each patient of one class but every seventh, who has two."""
    draw = np.random.default_rng(seed)
    groups = draw.permutation(np.repeat(np.arange(n_patients) * 3, draw.integers(1, 5, n_patients)))
    labels = draw.choice(n_classes, p=[0.6, 0.3, 0.1], size=n_patients)[groups // 3]
    mixed = (groups // 3 % 7 == 0) & (draw.random(len(groups)) < 0.5)
    return groups, np.where(mixed, 0, labels)


def name_classes(groups, labels):
    return {g: tuple(np.unique(labels[groups == g], axis=0).ravel()) for g in np.unique(groups)}


@settings(max_examples=40)
@given(st.integers(0, 99), st.integers(1, 60))
def test_subsets_are_of_whole_patients_in_proportion_to_their_classes(seed, size):
    groups, labels = make_patients(seed)
    chosen = draw_subsets(groups, labels, size, 3, seed)
    assert chosen.shape == (3, len(groups))
    kinds = name_classes(groups, labels)
    for row in chosen:
        taken = np.unique(groups[row])
        assert len(taken) == size
        assert not np.isin(groups[~row], taken).any()
        for kind in set(kinds.values()):
            n_all = sum(each == kind for each in kinds.values())
            n_taken = sum(kinds[g] == kind for g in taken)
            assert abs(n_taken - n_all * size / 60) < 2


def test_subsets_are_nested_and_each_patient_is_as_likely():
    groups, labels = make_patients(0)
    small, large = (draw_subsets(groups, labels, size, 4000, seed=1) for size in (20, 45))
    assert (large | ~small).all()
    first = [np.flatnonzero(groups == g)[0] for g in np.unique(groups)]
    np.testing.assert_allclose(small[:, first].mean(axis=0), 20 / 60, atol=4 * np.sqrt(2 / 9 / 4000))
    np.testing.assert_array_equal(small[:5], draw_subsets(groups, labels, 20, 5, seed=1))
    assert (small[:5] != draw_subsets(groups, labels, 20, 5, seed=2)).any()


def test_subsets_of_several_labels_of_one_class_and_of_one_patient():
    draw = np.random.default_rng(0)
    groups, labels = np.arange(80), draw.choice([1, 0, -1], p=[0.2, 0.7, 0.1], size=(80, 3))
    labels[:10] = [1, 1, 1]
    taken = draw_subsets(groups, labels, 40, 50, seed=0)
    assert set(taken[:, (labels == 1).all(axis=1)].sum(axis=1)) <= {5, 6, 4}
    assert draw_subsets(groups, np.zeros(80, int), 7, 2, seed=0).sum() == 14
    assert draw_subsets(np.array([4, 4]), np.array([0, 1]), 1, 1, seed=0).all()
    for size in (0, 81):
        with pytest.raises(OptionError, match=f"all 80 patients; found size={size}"):
            draw_subsets(groups, labels, size, 1, seed=0)
    with pytest.raises(OptionError, match="all 0 patients"):
        draw_subsets(np.array([], int), np.array([], int), 1, 1, seed=0)
    with pytest.raises(DataError, match="groups 80, labels 2"):
        draw_subsets(groups, labels[:2], 1, 1, seed=0)


# --- repeats ----------------------------------------------------------------------------------------------------------


def test_average_finds_the_covariance_that_repeats_were_drawn_with():
    spread = 0.3 * SIZES**-0.5
    correlation = np.minimum.outer(SIZES, SIZES) / np.maximum.outer(SIZES, SIZES)
    table = np.random.default_rng(0).multivariate_normal(
        follow(SIZES, 0.9, 1.0, 0.5), correlation * np.outer(spread, spread), size=2000
    )
    means, covariance, common = average_repeats(SIZES, table, tested_share=0.4)
    np.testing.assert_allclose(means, table.mean(axis=0))
    expected = correlation * np.outer(spread, spread) * (1 / 2000 + 0.03)
    np.testing.assert_allclose(covariance, expected, rtol=0.1)
    assert common == pytest.approx(spread[-1] * np.sqrt(1.5 * 0.4 / 0.6), rel=0.05)
    assert average_repeats(SIZES, table, tested_share=0)[2] == 0


def test_error_common_to_sizes_is_that_of_all_patients_and_half_its_variance_more():
    """The mean over a quarter of 400 patients, drawn anew each time, is at best as sure as the mean over all of them."""
    draw = np.random.default_rng(1)
    scores, found = draw.normal(0.8, 0.4, 400), []
    for _ in range(20):
        parts = [scores[draw.permutation(400)[:100]].mean() for _ in range(40)]
        found.append(average_repeats([10, 20, 40], np.tile(parts, (3, 1)).T)[2])
    assert np.mean(found) == pytest.approx(np.sqrt(1.5) * scores.std() / np.sqrt(400), rel=0.05)


def test_repeats_without_a_class_are_left_out():
    table = np.random.default_rng(2).normal(0.8, 0.03, (12, 3))
    holes = np.insert(table, 4, [0.7, np.nan, 0.8], axis=0)
    for one, other in zip(average_repeats([10, 20, 40], holes), average_repeats([10, 20, 40], table), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(DataError, match="found 1 of 2"):
        average_repeats([10, 20, 40], holes[3:5])
    with pytest.raises(DataError, match=r"found shape \(12, 3\)"):
        average_repeats([10, 20, 40, 80], table)
    with pytest.raises(DataError, match="found 2"):
        average_repeats([10, 20], table[:, :2])
    with pytest.raises(OptionError, match="tested_share=1"):
        average_repeats([10, 20, 40], table, tested_share=1)


# --- fits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "c"), [(0.9, 1.2, 0.6), (0.95, 0.8, 0.4), (0.85, 3, 0.9), (0.99, 2, 1.2), (0.8, 0.5, 0.2)]
)
def test_a_curve_without_noise_is_continued_as_by_curve_fit(a, b, c):
    aucs = follow(SIZES, a, b, c)
    fitted = curve_fit(follow, SIZES, aucs, p0=(0.9, 1, 0.5), maxfev=20_000)[0]
    curve = fit_curve(SIZES, aucs, np.zeros(8))
    assert curve.note == ""
    for n, found in zip((624, 1560, 3120), extrapolate(curve, [624, 1560, 3120]), strict=True):
        assert found.value == pytest.approx(follow(n, *fitted), abs=0.002)
        assert found.low - 0.001 <= follow(n, a, b, c) <= found.high + 0.001
    wanted = follow(1000, a, b, c)
    assert find_size(curve, wanted).value == pytest.approx((b / (a - wanted)) ** (1 / c), rel=0.2)


def draw_priors(n_draws, first):
    """Curves as the prior has them: a and d even over 0.5 <= a - d <= a <= 1, exponent and shift even over their steps."""
    draw = np.random.default_rng(3)
    asymptotes, starts = np.sort(draw.uniform(0.5, 1, (2, n_draws)), axis=0)[::-1]
    exponents = draw.choice(learning_curve.EXPONENTS, n_draws)
    offsets = draw.choice(learning_curve.OFFSETS, n_draws) * first
    return lambda n: asymptotes - (asymptotes - starts) * ((n + offsets) / (first + offsets)) ** -exponents


@pytest.mark.parametrize(("noise", "nearness"), [(0.01, 0.2), (0.03, 0.055)])  # fewer draws count where noise is small
def test_intervals_are_those_of_prior_draws_weighed_by_their_likelihood(noise, nearness):
    sizes = SIZES[::2]
    correlation = np.sqrt(np.minimum.outer(sizes, sizes) / np.maximum.outer(sizes, sizes))
    aucs = follow(sizes, 0.9, 0.9, 0.5) + noise * np.array([0.2, -0.3, 0.3, 0.0])
    curves = draw_priors(400_000, sizes[0])
    apart = np.stack([curves(n) for n in sizes], axis=1) - aucs
    weights = stats.multivariate_normal(np.zeros(4), noise**2 * correlation).pdf(apart)
    found = fit_curve(sizes, aucs, noise**2 * correlation)
    for n, estimate in zip((218, 436, 2180), extrapolate(found, [218, 436, 2180]), strict=True):
        values = curves(n)
        order = np.argsort(values)
        shares = np.cumsum(weights[order]) / weights.sum()
        expected = [values[order][np.searchsorted(shares, each)] for each in (0.025, 0.5, 0.975)]
        assert (estimate.low, estimate.value, estimate.high) == pytest.approx(expected, abs=nearness * noise)


def test_a_level_error_moves_all_sizes_alike_and_never_past_one():
    aucs = follow(SIZES, 0.9, 1.0, 0.6)
    without, with_it = (
        predict_aucs(fit_curve(SIZES, aucs, np.full(8, 1e-3), error), [312, 624]) for error in (0, 0.03)
    )
    assert with_it.std(axis=1) == pytest.approx([0.03, 0.03], rel=0.15)
    assert (with_it[1] - with_it[0]).std() < 1.5 * (without[1] - without[0]).std() + 0.003
    near_one = predict_aucs(fit_curve(SIZES, np.linspace(0.97, 0.995, 8), np.full(8, 1e-3), 0.01), [312, 3120])
    assert near_one.max() <= 1


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=3, max_size=6), st.floats(0, 0.2), st.floats(0, 0.1), st.integers(0, 9))
def test_whatever_the_points_a_curve_is_fitted_that_does_not_fall(aucs, error, level_error, seed):
    sizes = SIZES[: len(aucs)]
    curve = fit_curve(sizes, aucs, np.full(len(aucs), error), level_error, seed=seed)
    paths = predict_aucs(curve, [sizes[0], sizes[-1], 1e4, 1e6])
    assert np.isfinite(paths).all()
    assert (np.diff(paths, axis=0) >= 0).all()
    assert ((paths >= 0) & (paths <= 1)).all()
    wanted = find_size(curve, 0.9)
    assert sizes[0] <= wanted.low <= wanted.value <= wanted.high


def test_a_flat_curve_promises_nothing_and_says_so():
    noise = 0.004 * np.array([1, -1, 0.5, -0.5, 1, -1, 0.3, -0.2])
    curve = fit_curve(SIZES, 0.8 + noise, np.full(8, 0.004))
    later = extrapolate(curve, [624])[0]
    assert "no growth beyond its error from 25 to 312 patients" in later.method
    assert later.value == pytest.approx(0.8, abs=0.005)
    assert later.high - later.low < 0.03
    needed = find_size(curve, 0.95)
    assert np.isinf([needed.value, needed.high]).all()
    share = float((curve.asymptotes <= 0.95).mean())
    assert f"out of reach in {share:.0%} of 4000" in needed.method


def test_falling_and_scattered_curves_are_wide_and_say_so():
    straight = follow(SIZES, 0.9, 1.0, 0.5)
    calm = extrapolate(fit_curve(SIZES, straight, np.full(8, 0.005)), [624])[0]
    scattered = extrapolate(fit_curve(SIZES, straight + 0.04 * (-1) ** np.arange(8), np.full(8, 0.005)), [624])[0]
    assert "times as far from any curve as their errors" in scattered.method
    assert scattered.high - scattered.low > 4 * (calm.high - calm.low)
    falling = extrapolate(fit_curve(SIZES, straight[::-1], np.full(8, 0.005)), [624])[0]
    assert "falls with more patients" in falling.method
    assert falling.low < straight.mean() < falling.high
    assert falling.high - falling.low > 3 * (calm.high - calm.low)


def test_an_auc_of_one_throughout_is_not_taken_for_certain():
    means, covariance, common = average_repeats(SIZES, np.ones((20, 8)))
    found = extrapolate(fit_curve(SIZES, means, covariance, common), [312, 3120])
    assert "every AUC is 1" in found[0].method
    for each in found:
        assert 0.98 < each.low < 0.9995
        assert each.high == pytest.approx(1, abs=1e-3)
    assert find_size(fit_curve(SIZES, means, covariance, common), 0.95).value == SIZES[0]


def test_points_that_make_no_curve_are_refused():
    aucs, errors = follow(SIZES, 0.9, 1.0, 0.5), np.full(8, 0.01)
    with pytest.raises(DataError, match="3 sizes or more; found 2"):
        fit_curve(SIZES[:2], aucs[:2], errors[:2])
    with pytest.raises(DataError, match="found 0"):
        fit_curve([], [], [])
    with pytest.raises(DataError, match="must increase"):
        fit_curve(SIZES[::-1], aucs, errors)
    with pytest.raises(DataError, match="Leave out sizes without one"):
        fit_curve(SIZES, np.where(SIZES == 74, np.nan, aucs), errors)
    for wrong in (errors * np.nan, -errors, np.eye(8)[:, :7], 1e-4 - 2e-4 * np.eye(8)):
        with pytest.raises(DataError, match="finite and not negative"):
            fit_curve(SIZES, aucs, wrong)
    with pytest.raises(DataError, match="found -1"):
        fit_curve(SIZES, aucs, errors, -1)
    with pytest.raises(DataError, match="errors 3"):
        fit_curve(SIZES, aucs, errors[:3])


# --- what a curve says ------------------------------------------------------------------------------------------------


def test_needed_size_and_expected_auc_are_two_views_of_the_same_curves():
    curve = fit_curve(SIZES, follow(SIZES, 0.92, 0.9, 0.5), np.full(8, 0.004), 0.01)
    wanted = find_size(curve, 0.88, level=0.5)
    assert 312 < wanted.low < wanted.value < wanted.high
    for share, n in ((0.25, wanted.low), (0.5, wanted.value), (0.75, wanted.high)):
        assert (predict_aucs(curve, n) >= 0.88).mean() == pytest.approx(share, abs=0.002)
    narrow, wide = (extrapolate(curve, [624], level=level)[0] for level in (0.5, 0.95))
    assert wide.low < narrow.low < narrow.value == wide.value < narrow.high < wide.high
    assert find_size(curve, 0.6).high == SIZES[0]


def test_questions_outside_their_range_are_refused():
    curve = fit_curve(SIZES, follow(SIZES, 0.92, 0.9, 0.5), np.full(8, 0.004))
    with pytest.raises(OptionError, match=r"25 patients, on; found \[10.0\]"):
        extrapolate(curve, [10])
    with pytest.raises(OptionError, match="found 95"):
        extrapolate(curve, [312], level=95)
    for auc in (0.5, 1, float("nan")):
        with pytest.raises(OptionError, match="wanted AUC"):
            find_size(curve, auc)
    with pytest.raises(dataclasses.FrozenInstanceError):
        curve.note = ""


@pytest.mark.parametrize(("auc", "prevalence", "width"), [(0.8, 0.3, 0.1), (0.95, 0.5, 0.05), (0.7, 0.1, 0.2)])
def test_test_part_is_the_smallest_that_is_narrow_enough_for_exponential_scores(auc, prevalence, width):
    """Hanley and McNeil's variance is exact where scores are exponential, with rates whose odds are the AUC's."""
    n_patients = find_size_for_width(auc, width, prevalence)
    draw, areas = np.random.default_rng(4), []
    n_positive = round(n_patients * prevalence)
    truth = np.arange(n_patients) < n_positive
    for _ in range(3000):
        scores = draw.exponential(np.where(truth, auc / (1 - auc), 1.0))
        areas.append(roc_auc(truth, scores))
    assert 2 * 1.96 * np.std(areas) == pytest.approx(width, rel=0.06)


@given(st.floats(0.5, 0.99), st.floats(0.02, 0.4), st.floats(0.05, 0.95), st.floats(0.2, 3))
def test_one_patient_fewer_in_the_test_part_would_be_too_wide(auc, width, prevalence, design_effect):
    def measure(n):
        positive = min(max(round(n * prevalence), 1), n - 1)
        negative = n - positive
        q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
        terms = auc * (1 - auc) + (positive - 1) * (q1 - auc**2) + (negative - 1) * (q2 - auc**2)
        return 2 * stats.norm.ppf(0.975) * np.sqrt(design_effect * terms / positive / negative)

    found = find_size_for_width(auc, width, prevalence, design_effect)
    assert measure(found) <= width * (1 + 1e-9)
    assert found == 2 or measure(found - 1) > width * (1 - 1e-9)


def test_impossible_test_parts_are_refused():
    for values in ((1.0, 0.1, 0.5), (0.8, 0.0, 0.5), (0.8, 0.1, 1.0), (0.8, float("nan"), 0.5)):
        with pytest.raises(OptionError, match="must lie between 0 and 1"):
            find_size_for_width(*values)
    with pytest.raises(OptionError, match="found 0"):
        find_size_for_width(0.8, 0.1, 0.5, 0)


# --- known truth ------------------------------------------------------------------------------------------------------


def test_hidden_sizes_are_predicted():
    aucs = follow(SIZES, 0.9, 1.0, 0.5)
    found = check_by_hiding(SIZES, aucs, np.full(8, 0.003))
    assert found.held
    assert (found.size, found.measured) == (312, aucs[-1])
    assert found.error_points == pytest.approx(100 * (found.predicted.value - aucs[-1]))
    assert abs(found.error_points) < 1
    assert "152 patients and fewer" in found.predicted.method
    fallen = check_by_hiding(SIZES, np.append(aucs[:-1], 0.7), np.full(8, 0.003))
    assert not fallen.held
    assert fallen.predicted == found.predicted
    with pytest.raises(DataError, match=r"at most 31\.2 patients; found 1"):
        check_by_hiding(SIZES, aucs, np.full(8, 0.003), factor=10)


def test_an_error_in_common_is_no_doubt_about_what_is_hidden():
    aucs, together = follow(SIZES, 0.9, 1.0, 0.5), 0.03**2 * np.full((8, 8), 1.0)
    alone, common = (check_by_hiding(SIZES, aucs, 0.002**2 * np.eye(8) + more) for more in (0.0, together))
    widths = [each.predicted.high - each.predicted.low for each in (alone, common)]
    assert widths[1] < 1.5 * widths[0]
    assert check_by_hiding(SIZES, aucs, np.full(8, 0.03)).predicted.high - common.predicted.high > 0.01


@pytest.mark.slow
def test_intervals_cover_simulated_power_laws():
    """Laws of all kinds, errors that are correlated as those of nested parts are, and one common to all sizes."""
    draw, held, hidden = np.random.default_rng(5), [], []
    root = np.linalg.cholesky(np.sqrt(np.minimum.outer(SIZES, SIZES) / np.maximum.outer(SIZES, SIZES)))
    for _ in range(200):
        a, c, level = draw.uniform(0.7, 0.99), draw.uniform(0.2, 1.5), draw.choice([0.0, 0.01, 0.02])
        b = (a - draw.uniform(0.5, a)) * SIZES[0] ** c
        errors = draw.choice([0.003, 0.01]) * (SIZES[0] / SIZES) ** 0.3
        aucs = follow(SIZES, a, b, c) + errors * (root @ draw.standard_normal(8)) + level * draw.standard_normal()
        points = SIZES, np.clip(aucs, 0, 1), root @ root.T * np.outer(errors, errors)
        found = extrapolate(fit_curve(*points, level), [624, 1560])
        held.append([f.low <= follow(n, a, b, c) <= f.high for f, n in zip(found, (624, 1560), strict=True)])
        hidden.append(check_by_hiding(*points).held)
    assert (np.mean(held, axis=0) >= 0.92).all()
    assert (np.mean(held, axis=0) <= 0.99).all()
    assert 0.92 <= np.mean(hidden) <= 0.995


def fit_discriminant(features, truth):
    """Return the direction of Fisher's discriminant with a little ridge."""
    centred = np.concatenate([features[truth == k] - features[truth == k].mean(axis=0) for k in (0, 1)])
    within = centred.T @ centred / len(centred) + 0.2 * np.eye(features.shape[1])
    return np.linalg.solve(within, features[truth == 1].mean(axis=0) - features[truth == 0].mean(axis=0))


class Normals:
    """Two items a patient, correlated 0.5, of two normal classes ``apart`` along one of 40 axes."""

    def __init__(self, apart, seed):
        self.apart, self.draw = apart, np.random.default_rng(seed)

    def make(self, n_patients):
        truth = np.repeat(np.arange(n_patients) % 2, 2)
        features = self.draw.normal(size=(2 * n_patients, 40)) + np.repeat(
            self.draw.normal(size=(n_patients, 40)), 2, axis=0
        )
        features /= np.sqrt(2)
        features[:, 0] += self.apart * truth
        return features, truth, np.repeat(np.arange(n_patients), 2)

    def expect(self, n_patients, n_trainings):
        """Return the mean over training parts of the AUC in an endless test part."""
        directions = [fit_discriminant(*self.make(n_patients)[:2]) for _ in range(n_trainings)]
        return np.mean([stats.norm.cdf(d[0] * self.apart / np.linalg.norm(d) / np.sqrt(2)) for d in directions])


def measure_curve(world, sizes, seed):
    """Return what 120 new patients, ten times a quarter of them tested on, say of the AUC at each size."""
    features, labels, groups = world.make(120)
    subsets = [draw_subsets(groups, labels, size, 10, seed) for size in sizes]
    aucs = np.empty((10, len(sizes)))
    for place, row in np.ndindex(len(sizes), 10):
        taught, tested = subsets[place][row], ~subsets[-1][row]
        direction = fit_discriminant(features[taught], labels[taught])
        aucs[row, place] = roc_auc(labels[tested], features[tested] @ direction)
    return average_repeats(sizes, aucs)


@pytest.mark.slow
@pytest.mark.parametrize("apart", [1.2, 2.2])
def test_intervals_cover_real_learning_curves_and_those_of_the_plain_law_do_not(apart, monkeypatch):
    world, sizes = Normals(apart, 6), choose_sizes(90, 45)
    measured = [measure_curve(world, sizes, seed) for seed in range(60)]
    truth = np.array([world.expect(n, 300) for n in (90, 180, 450)])

    def hold(values):
        low, high = np.quantile(values, [0.025, 0.975], axis=1)
        return (low <= truth[1:]) & (truth[1:] <= high)

    def gain(points):  # what is common to all sizes aside, which is most of the error
        aucs = predict_aucs(fit_curve(sizes, *points[:2]), [90, 180, 450])
        return aucs[1:] - aucs[0] + truth[0]

    found = [extrapolate(fit_curve(sizes, *points), [180, 450]) for points in measured]
    held = [[each.low <= auc <= each.high for each, auc in zip(pair, truth[1:], strict=True)] for pair in found]
    assert (np.mean(held, axis=0) >= 0.87).all()
    assert (np.abs(np.mean([[each.value for each in pair] for pair in found], axis=0) - truth[1:]) < 0.015).all()
    assert (np.mean([hold(gain(points)) for points in measured], axis=0) >= 0.9).all()
    monkeypatch.setattr(learning_curve, "OFFSETS", (0.0,))
    assert np.mean([hold(gain(points))[0] for points in measured]) < 0.9
