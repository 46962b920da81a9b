"""Referees: pROC (R), a plain loop over pairs, the bootstrap of patients, and simulations of known truth."""

from __future__ import annotations

import csv
import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from cohorts import PROC, as_probabilities, make_candidates, make_cohort, make_pair, score_by_scikit_learn
from thawline.errors import DataError
from thawline.judge.auc import estimate_auc, measure_areas, place
from thawline.judge.statistics import patient_counts, resample_fold_aucs
from thawline.types import MISSING

SCRIPT = """suppressMessages(library(pROC)); d <- read.csv("scores.csv")
a <- roc(d$y, d$s, quiet=TRUE, direction="<"); b <- roc(d$y, d$t, quiet=TRUE, direction="<")
x <- roc.test(a, b, method="delong")
cat(format(c(auc(a), auc(b), var(a), var(b), cov(a, b), x$statistic, x$p.value, x$conf.int), digits=15))"""


def measure_pair(labels, scores, other, groups):
    return measure_areas(labels, [as_probabilities(scores), as_probabilities(other)], groups, [1])


@pytest.mark.parametrize("name", PROC)
def test_areas_and_their_covariance_are_those_of_proc(name):
    areas = measure_pair(*make_pair(name))
    covariance = areas.covariance()
    found = (*areas.values, covariance[0, 0], covariance[1, 1], covariance[0, 1])
    assert found == pytest.approx(PROC[name][:5], abs=1e-12)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("Rscript") is None, reason="R with pROC is not installed (Debian: r-cran-proc)")
@pytest.mark.parametrize("name", PROC)
def test_what_is_stored_of_proc_is_what_it_says(name, tmp_path):
    labels, scores, other, _ = make_pair(name)
    with (tmp_path / "scores.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("y", "s", "t"), *zip(labels, scores.tolist(), other.tolist(), strict=True)])
    found = subprocess.run(["Rscript", "-e", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False)
    if "there is no package called" in found.stderr:
        pytest.skip("pROC is not installed (Debian: r-cran-proc)")
    assert [float(each) for each in found.stdout.split()] == pytest.approx(PROC[name], abs=1e-10)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=1, max_size=12))
def test_places_are_shares_of_pairs_won(rows):
    truth, scores = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], float)
    found = place(truth, scores)
    for item, (own, score) in enumerate(zip(truth, scores, strict=True)):
        others = scores[truth != own]
        ahead = np.sign(score - others) if own else np.sign(others - score)
        expected = ((ahead + 1) / 2).mean() if len(others) else np.nan
        assert found[item] == pytest.approx(expected, nan_ok=True)


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match="row 1 holds nan"):
        place([True, False], [0.0, np.nan])


@pytest.mark.parametrize("mixed", [False, True])
def test_the_variance_of_patients_is_that_of_obuchowskis_sums(mixed):
    """His equations, patient by patient, in the plainest form; with ``mixed`` the two kinds of items of a patient covary."""
    labels, scores, groups = make_cohort(40, 0.4, 0.8, mixed=mixed, seed=3)
    truth = labels == 1
    area = roc_auc_score(labels, scores)
    sums = []
    for patient in np.unique(groups):
        positives, negatives = (scores[(groups == patient) & kind] for kind in (truth, ~truth))
        placed = [np.mean((each > scores[~truth]) + 0.5 * (each == scores[~truth])) for each in positives]
        passed = [np.mean((each < scores[truth]) + 0.5 * (each == scores[truth])) for each in negatives]
        sums.append([sum(placed) - len(placed) * area, sum(passed) - len(passed) * area, len(placed), len(passed)])
    x, y, n_x, n_y = np.array(sums).T
    m, n, patients = n_x.sum(), n_y.sum(), len(sums)
    with_x, with_y = (n_x > 0).sum(), (n_y > 0).sum()
    s10 = with_x / ((with_x - 1) * m) * (x**2).sum()
    s01 = with_y / ((with_y - 1) * n) * (y**2).sum()
    s11 = patients / (patients - 1) * (x * y).sum()
    found = measure_areas(labels, as_probabilities(scores), groups, [1])
    assert found.values[0] == pytest.approx(area)
    assert found.covariance()[0, 0] == pytest.approx(s10 / m + s01 / n + 2 * s11 / (m * n))


@pytest.mark.slow
@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_variance_of_a_mean_over_folds_and_classes_is_that_of_the_bootstrap(n_classes):
    (probabilities,), labels, groups, folds = make_candidates(1.5, n_patients=300, n_classes=n_classes, seed=4)
    classes = [1] if n_classes == 2 else [0, 1, 2]
    areas = measure_areas(labels, probabilities, groups, classes, folds)
    assert areas.values.mean() == pytest.approx(score_by_scikit_learn(labels, probabilities, folds))
    weights = patient_counts(groups, 1500, seed=0).astype(float)
    patients = np.unique(groups, return_inverse=True)[1]
    resampled = resample_fold_aucs(labels, probabilities, patients, folds, weights, classes).mean(axis=(0, 2))
    factor = np.full(len(classes), 1 / len(classes))
    assert np.sqrt(factor @ areas.covariance() @ factor) == pytest.approx(resampled.std(), rel=0.07)
    assert (areas.n_folds == 3).all()


def test_labels_that_are_not_known_count_nowhere():
    labels, scores, groups = make_cohort(40, 0.5, 0.8, seed=5)
    known = np.random.default_rng(0).random(len(labels)) < 0.6
    several = np.column_stack([labels, np.where(known, labels, MISSING)])
    found = measure_areas(several, np.column_stack([scores, scores]), groups, [0, 1])
    expected = measure_areas(labels[known], as_probabilities(scores[known]), groups[known], [1])
    assert found.values == pytest.approx([roc_auc_score(labels, scores), expected.values[0]])
    assert found.covariance()[1, 1] == pytest.approx(expected.covariance()[0, 0])


def test_folds_without_a_side_are_left_out():
    labels, scores, groups = make_cohort(30, 0.5, 0.8, seed=6)
    folds = np.where(groups < 4, 7, groups % 2)  # the first four patients are all positive
    found = measure_areas(labels, as_probabilities(scores), groups, [1], folds)
    assert found.n_folds[0] == 2
    kept = folds != 7
    expected = measure_areas(labels[kept], as_probabilities(scores[kept]), groups[kept], [1], folds[kept])
    assert found.values == pytest.approx(expected.values)
    assert found.covariance() == pytest.approx(expected.covariance())


def test_an_absent_class_has_no_area():
    found = estimate_auc(measure_areas(np.zeros(4, int), np.full((4, 2), 0.5), np.arange(4), [1]))
    assert np.isnan([found.value, found.low, found.high]).all()
    assert found.method == "undefined: a class is absent"


def test_one_patient_of_a_class_leaves_an_area_without_interval():
    found = estimate_auc(
        measure_areas(np.array([1, 1, 0, 0]), as_probabilities(np.arange(4.0)), np.array([5, 5, 6, 7]), [1])
    )
    assert found.value == 0.0
    assert np.isnan([found.low, found.high]).all()
    assert found.method == "no interval: rests on 1 patient(s) of a class"


@pytest.mark.parametrize("n_patients", [4, 20, 200])
def test_a_perfect_area_is_not_certain(n_patients):
    labels, groups = np.arange(n_patients) % 2, np.arange(n_patients)
    found = estimate_auc(measure_areas(labels, as_probabilities(20.0 * labels), groups, [1]))
    assert (found.value, found.high) == (1.0, 1.0)
    again = estimate_auc(
        measure_areas(np.repeat(labels, 9), as_probabilities(np.repeat(20.0 * labels, 9)), groups.repeat(9), [1])
    )
    assert again.low == pytest.approx(found.low)  # copies of an item in the same patient are no new evidence
    assert {4: 0.0, 20: 0.7, 200: 0.95}[n_patients] < found.low < {4: 0.4, 20: 0.9, 200: 0.99}[n_patients]
    other = estimate_auc(measure_areas(labels, as_probabilities(-20.0 * labels), groups, [1]))
    assert (other.low, other.high) == pytest.approx((0.0, 1 - found.low))


def test_with_many_patients_the_interval_is_walds():
    labels, scores, groups = make_cohort(4000, 0.5, 0.8, seed=7)
    areas = measure_areas(labels, as_probabilities(scores), groups, [1])
    found, error = estimate_auc(areas), np.sqrt(areas.covariance()[0, 0])
    assert (found.low, found.high) == pytest.approx((found.value - 1.96 * error, found.value + 1.96 * error), abs=3e-4)


@settings(deadline=None, max_examples=40)
@given(st.integers(4, 40), st.sampled_from([0.2, 0.5, 0.8]), st.floats(0.3, 0.999), st.integers(0, 1000))
def test_intervals_lie_within_0_and_1_about_the_area(n_patients, prevalence, auc, seed):
    labels, scores, groups = make_cohort(n_patients, prevalence, auc, seed=seed)
    areas = measure_areas(labels, as_probabilities(scores), groups, [1])
    found = estimate_auc(areas)
    if np.isnan(found.low):
        assert min(len(np.unique(groups[labels == k])) for k in (0, 1)) < 2
        return
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high
    wider = estimate_auc(areas, level=0.99)
    assert wider.low <= found.low
    assert wider.high >= found.high


@pytest.mark.slow
@pytest.mark.parametrize(("n_patients", "auc", "most_items"), [(30, 0.9, 5), (100, 0.98, 5), (100, 0.7, 1)])
def test_intervals_hold_the_truth(n_patients, auc, most_items):
    """Of 400 cohorts; 1.1 points are one standard error. `benchmarks/coverage.py` has all cases, of 1,000."""
    covered = 0
    for seed in range(400):
        labels, scores, groups = make_cohort(n_patients, 0.5, auc, most_items=most_items, seed=seed)
        found = estimate_auc(measure_areas(labels, as_probabilities(scores), groups, [1]))
        covered += found.low <= auc <= found.high
    assert 0.92 <= covered / 400 <= 0.99
