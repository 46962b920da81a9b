"""Referees: scikit-learn for the values, a slow loop over resamples for the intervals, exact bounds at the limits.

Intervals of AUCs and proportions are tested where they are made; here that each metric has its own.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as referee

from cohorts import score_by_scikit_learn
from thawline.errors import DataError, OptionError
from thawline.judge import metrics, statistics
from thawline.judge.auc import estimate_auc, measure_areas
from thawline.judge.calibration import ece
from thawline.judge.evaluation import evaluate, predict_labels
from thawline.judge.intervals import bound_bca, estimate_proportion, find_acceleration

OVERALL = (
    *("auc", "accuracy", "average_precision", "balanced_accuracy"),
    *("sensitivity", "specificity", "brier", "ece", "log_loss"),
)
TWO, THREE = ("COVID", "normal"), ("a", "b", "c")


def make_study(n_items=240, n_classes=3, n_patients=60, seed=0, gain=1.0):
    draw = np.random.default_rng(seed)
    groups = draw.integers(n_patients, size=n_items) * 7 + 3  # patient numbers need not be dense
    labels = draw.integers(n_classes, size=n_items)
    logits = draw.normal(size=(n_items, n_classes))
    logits[np.arange(n_items), labels] += gain
    probabilities = np.exp(logits)
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True), groups


def make_perfect(n_patients, n_items_each=1):
    labels = np.repeat(np.arange(n_patients) % 2, n_items_each)
    return labels, np.eye(2)[labels], np.repeat(np.arange(n_patients), n_items_each)


def measure_slowly(labels, probabilities, classes, positive, threshold, weights):
    """The same metrics from the plain functions, one weighting at a time."""
    predicted = predict_labels(probabilities, classes, positive, threshold)
    index = classes.index(positive) if len(classes) == 2 else 1
    of = [index] if len(classes) == 2 else range(len(classes))
    return {
        "auc": metrics.macro_auc(labels, probabilities, weights, positive=index),
        "accuracy": metrics.accuracy(labels, predicted, weights),
        "average_precision": np.mean(
            [referee.average_precision_score(labels == k, probabilities[:, k], sample_weight=weights) for k in of]
        ),
        "balanced_accuracy": metrics.balanced_accuracy(labels, predicted, weights),
        "sensitivity": np.mean([metrics.sensitivity(labels, predicted, k, weights) for k in of]),
        "specificity": np.mean([metrics.specificity(labels, predicted, k, weights) for k in of]),
        "brier": metrics.brier(labels, probabilities, weights, positive=index),
        "ece": ece(labels, probabilities, weights, positive=index),
        "log_loss": metrics.log_loss(labels, probabilities, weights),
    }


@pytest.mark.parametrize(
    ("classes", "positive", "threshold"), [(TWO, "COVID", 0.4), (TWO, "normal", 0.7), (THREE, None, 0.5)]
)
def test_values_and_intervals_agree_with_a_loop_over_resamples(classes, positive, threshold):
    labels, probabilities, groups = make_study(n_classes=len(classes))
    found = evaluate(labels, probabilities, groups, classes, positive, threshold, seed=3, n_resamples=80, level=0.9)
    place = np.unique(groups, return_inverse=True)[1]
    arguments = (labels, probabilities, classes, positive, threshold)
    point = measure_slowly(*arguments, None)
    slow = [measure_slowly(*arguments, row[place]) for row in statistics.patient_counts(groups, 80, seed=3)]
    without = [measure_slowly(*arguments, 1.0 * (place != patient)) for patient in range(place.max() + 1)]
    for name in OVERALL:
        assert found[name]["value"] == pytest.approx(point[name], abs=1e-12), name
        assert found[name]["level"] == 0.9
        if not found[name]["method"].startswith(("BCa", "percentile")):
            continue
        values = np.array([each[name] for each in slow])
        bounds = bound_bca(values, point[name], find_acceleration([each[name] for each in without]), level=0.9)
        if name == "ece":
            bounds = tuple(np.percentile(np.clip(values - values.mean() + point[name], 0, 1), [5, 95]))
        assert (found[name]["low"], found[name]["high"]) == pytest.approx(bounds, abs=1e-9), name


def test_areas_and_proportions_have_intervals_of_their_own():
    labels, probabilities, groups = make_study(n_classes=3)
    found = evaluate(labels, probabilities, groups, THREE, None, n_resamples=20)
    called = probabilities.argmax(axis=1)
    areas = measure_areas(labels, probabilities, groups, range(3))
    assert found["auc"] == estimate_auc(areas).to_json()
    assert found["per_class"]["b"]["auc"] == estimate_auc(areas.take([1])).to_json()
    assert found["accuracy"] == estimate_proportion(called == labels, groups).to_json()
    inside = labels == 1
    of_class = estimate_proportion((called == 1)[inside], groups[inside])
    assert found["per_class"]["b"]["sensitivity"] == of_class.to_json()
    two = evaluate(labels == 1, np.column_stack([1 - probabilities[:, 1], probabilities[:, 1]]), groups, TWO, "normal")
    rest = estimate_proportion((probabilities[:, 1] < 0.5)[~inside], groups[~inside])
    assert two["specificity"] == two["per_class"]["normal"]["specificity"] == rest.to_json()


def test_values_of_two_classes_agree_with_scikit_learn():
    labels, probabilities, groups = make_study(n_classes=2)
    found = evaluate(labels, probabilities, groups, TWO, "COVID", 0.3, n_resamples=20)
    truth, called = labels == 0, probabilities[:, 0] >= 0.3
    expected = {
        "auc": referee.roc_auc_score(truth, probabilities[:, 0]),
        "accuracy": referee.accuracy_score(truth, called),
        "balanced_accuracy": referee.balanced_accuracy_score(truth, called),
        "sensitivity": referee.recall_score(truth, called),
        "specificity": referee.recall_score(truth, called, pos_label=False),
        "brier": referee.brier_score_loss(truth, probabilities[:, 0]),
        "log_loss": referee.log_loss(truth, probabilities[:, 0]),
    }
    for name, value in expected.items():
        assert found[name]["value"] == pytest.approx(value), name
    assert found["per_class"]["normal"]["sensitivity"] == found["specificity"] | {
        "value": pytest.approx(expected["specificity"])
    }
    assert found["per_class"]["normal"]["auc"]["value"] == pytest.approx(expected["auc"])
    assert found["confusion"]["counts"] == referee.confusion_matrix(~truth, ~called).tolist()
    assert found["confusion"]["classes"] == ["COVID", "normal"]


def test_values_of_each_of_several_classes_agree_with_scikit_learn():
    labels, probabilities, groups = make_study()
    found = evaluate(labels, probabilities, groups, THREE, None, n_resamples=20)
    called = probabilities.argmax(axis=1)
    for k, name in enumerate(THREE):
        one = found["per_class"][name]
        assert one["n_items"] == (labels == k).sum()
        assert one["n_patients"] == len(set(groups[labels == k]))
        assert one["auc"]["value"] == pytest.approx(referee.roc_auc_score(labels == k, probabilities[:, k]))
        assert one["sensitivity"]["value"] == pytest.approx(referee.recall_score(labels == k, called == k))
        assert one["specificity"]["value"] == pytest.approx(referee.recall_score(labels != k, called != k))
    assert found["auc"]["value"] == pytest.approx(referee.roc_auc_score(labels, probabilities, multi_class="ovr"))


def test_shape_of_the_result_is_that_of_the_metrics_file():
    labels, probabilities, groups = make_study()
    found = evaluate(labels, probabilities, groups, THREE, None, n_resamples=30)
    assert list(found) == ["n_items", "n_patients", *OVERALL, "per_class", "confusion", "micro", "patient_level"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["n_items"], found["n_patients"]) == (240, len(set(groups)))
    for name in OVERALL:
        assert set(found[name]) == {"value", "low", "high", "level", "method"}
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
    of_class = ("auc", "average_precision", "sensitivity", "specificity")
    assert list(found["per_class"]["a"]) == ["n_items", "n_patients", *of_class]
    assert np.array(found["confusion"]["counts"]).sum() == 240
    assert found == evaluate(labels, probabilities, groups, THREE, None, n_resamples=30)
    assert found != evaluate(labels, probabilities, groups, THREE, None, n_resamples=30, seed=1)


@pytest.mark.parametrize("classes", [TWO, THREE])
def test_auc_of_out_of_fold_predictions_is_taken_within_folds(classes):
    labels, probabilities, groups = make_study(n_classes=len(classes))
    folds = groups % 4
    shifted = probabilities ** (1 + folds[:, np.newaxis])  # each fold has a scale of its own
    shifted /= shifted.sum(axis=1, keepdims=True)
    positive = "COVID" if classes == TWO else None
    index = 0 if classes == TWO else 1
    found = evaluate(labels, shifted, groups, classes, positive, folds=folds, n_resamples=40, seed=2)
    assert found["auc"]["value"] == pytest.approx(score_by_scikit_learn(labels, shifted, folds))
    assert found["auc"]["value"] != pytest.approx(metrics.macro_auc(labels, shifted, positive=index), abs=1e-4)
    classes_scored = [0] if classes == TWO else [0, 1, 2]
    assert found["auc"] == estimate_auc(measure_areas(labels, shifted, groups, classes_scored, folds)).to_json()
    one = [referee.roc_auc_score(labels[folds == f] == 0, shifted[folds == f, 0]) for f in range(4)]
    assert found["per_class"][classes[0]]["auc"]["value"] == pytest.approx(np.mean(one))


def test_items_that_no_fold_has_scored_are_left_out():
    labels, probabilities, groups = make_study()
    folds = groups % 3 - 1
    scored = folds >= 0
    unscored = np.where(scored[:, np.newaxis], probabilities, np.nan)
    found = evaluate(labels, unscored, groups, THREE, None, folds=folds, n_resamples=20)
    kept = (labels[scored], probabilities[scored], groups[scored], THREE, None)
    assert found == evaluate(*kept, folds=folds[scored], n_resamples=20)
    assert found["n_items"] == scored.sum()


def test_patients_whose_items_agree_are_judged_by_their_mean():
    draw = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 3)
    labels = np.repeat(np.arange(40) % 2, 3)
    labels[[0, 6]] = 1 - labels[[0, 6]]  # patients 0 and 2 disagree
    positive = np.clip(draw.normal(0.4 + 0.2 * labels, 0.2), 0, 1)
    found = evaluate(labels, np.column_stack([1 - positive, positive]), groups, ("a", "b"), "b", n_resamples=50)
    agreeing = np.setdiff1d(np.arange(40), [0, 2])
    mean, truth = positive.reshape(40, 3).mean(axis=1)[agreeing], labels[1::3][agreeing]
    level = found["patient_level"]
    assert level["n_patients"] == 38
    assert level["auc"]["value"] == pytest.approx(referee.roc_auc_score(truth, mean))
    assert level["accuracy"]["value"] == pytest.approx(np.mean((mean >= 0.5) == truth))
    by_patient = estimate_auc(measure_areas(truth, np.column_stack([1 - mean, mean]), agreeing, [1]))
    assert level["auc"] == by_patient.to_json()


def test_no_patient_level_where_it_adds_nothing():
    labels, probabilities, _ = make_study(n_items=50)
    assert evaluate(labels, probabilities, np.arange(50), THREE, None, n_resamples=5)["patient_level"] is None
    mixed = np.tile([0, 1], 25), np.full((50, 2), 0.5), np.repeat(np.arange(25), 2)
    assert evaluate(*mixed, TWO, "COVID", n_resamples=5)["patient_level"] is None


def test_perfect_predictions_are_not_certain():
    found = evaluate(*make_perfect(20, n_items_each=5), ("a", "b"), "b", n_resamples=200)
    everyone, one_class = (stats.binomtest(n, n).proportion_ci(0.95, method="exact").low for n in (20, 10))
    for name in ("auc", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "average_precision"):
        assert (found[name]["value"], found[name]["high"]) == (1, 1)
        assert 0.6 < found[name]["low"] < 0.9, name
    for name in ("balanced_accuracy", "average_precision"):
        assert found[name]["low"] == pytest.approx(one_class), name
        assert "10 patients" in found[name]["method"]
    assert (found["brier"]["value"], found["brier"]["low"]) == (0, 0)
    assert found["brier"]["high"] == pytest.approx(1 - everyone)
    assert found["patient_level"]["auc"] == found["auc"]
    folded = evaluate(*make_perfect(20, 5), ("a", "b"), "b", n_resamples=200, folds=np.repeat(np.arange(20) // 4, 5))
    assert 0.6 < folded["auc"]["low"] < found["auc"]["low"]  # each fold has a mean of its own to tell


def test_exact_bounds_rest_on_the_patients_that_a_metric_sees():
    of_patient = np.repeat([0, 1, 2], [12, 5, 3])
    labels, groups = np.append(np.repeat(of_patient, 2), [0, 1]), np.append(np.repeat(np.arange(20), 2), [20, 20])
    found = evaluate(labels, np.eye(3)[labels], groups, THREE, None, n_resamples=50)

    def bound(n_patients):
        return pytest.approx(0.025 ** (1 / n_patients))

    # patient 20 has both an a and a b, and so counts on each side of either
    for name, of_class, of_others in (("a", 13, 9), ("b", 6, 16), ("c", 3, 18)):
        assert (
            f"{of_class}.0 effective items of {of_class} patients" in found["per_class"][name]["sensitivity"]["method"]
        )
        assert f"{of_others}.0 effective items of {of_others} pat" in found["per_class"][name]["specificity"]["method"]
        assert found["per_class"][name]["average_precision"]["low"] == bound(min(of_class, of_others))
    assert (
        found["average_precision"]["low"]
        == found["sensitivity"]["low"]
        == found["balanced_accuracy"]["low"]
        == bound(3)
    )
    assert found["specificity"]["low"] == bound(9)
    assert "21.0 effective items of 21 patients" in found["accuracy"]["method"]
    assert found["brier"]["high"] == pytest.approx(2 - 2 * 0.025 ** (1 / 21))


@pytest.mark.parametrize("n_patients", [1, 2, 3])
@pytest.mark.parametrize("n_items", [1, 4])
def test_few_patients_never_crash(n_patients, n_items):
    draw = np.random.default_rng(0)
    groups = np.repeat(np.arange(n_patients), n_items)
    for classes, positive in ((TWO, "COVID"), (THREE, None)):
        labels = np.arange(len(groups)) % len(classes)
        probabilities = draw.dirichlet(np.ones(len(classes)), size=len(groups))
        for folds in (None, groups):
            found = evaluate(labels, probabilities, groups, classes, positive, folds=folds, n_resamples=30)
            json.dumps(found, allow_nan=False)
            assert found["accuracy"]["value"] == pytest.approx(
                np.mean(predict_labels(probabilities, classes, positive) == labels)
            )


def test_one_patient_has_values_and_no_interval():
    found = evaluate(*make_study(n_items=30, n_patients=1), THREE, None, n_resamples=30)
    assert 0 < found["accuracy"]["value"] < 1
    assert found["accuracy"]["low"] is None
    assert "no interval" in found["accuracy"]["method"]


def test_an_absent_class_leaves_gaps_and_means_over_the_rest():
    labels, probabilities, groups = make_study(n_classes=3)
    kept = labels != 2
    found = evaluate(labels[kept], probabilities[kept], groups[kept], THREE, None, n_resamples=30)
    assert found["auc"]["value"] is None
    assert "class is absent" in found["auc"]["method"]
    assert found["per_class"]["c"]["auc"]["value"] is None
    assert found["per_class"]["c"]["sensitivity"]["value"] is None
    assert found["per_class"]["c"]["specificity"]["value"] is not None
    recalls = [found["per_class"][name]["sensitivity"]["value"] for name in ("a", "b")]
    assert found["balanced_accuracy"]["value"] == pytest.approx(np.mean(recalls))


def test_resamples_without_a_class_are_counted():
    labels = np.array([0, 0, 0, 0, 1, 1])
    found = evaluate(labels, np.full((6, 2), 0.5), np.arange(6), TWO, "COVID", n_resamples=500)
    left_out = int(found["balanced_accuracy"]["method"].split("; ")[1].split()[0])
    expected = (2 / 3) ** 6 + (1 / 3) ** 6
    assert left_out / 500 == pytest.approx(expected, abs=0.04)
    assert "left out" not in found["brier"]["method"]


def test_fifty_thousand_items_are_possible():
    labels, probabilities, groups = make_study(n_items=50_000, n_patients=20_000)
    found = evaluate(labels, probabilities, groups, THREE, None, n_resamples=60)
    assert found["n_items"] == 50_000
    width = found["accuracy"]["high"] - found["accuracy"]["low"]
    p = found["accuracy"]["value"]
    assert width == pytest.approx(2 * 1.96 * np.sqrt(p * (1 - p) / 50_000), rel=0.35)


def test_predicted_labels_follow_the_threshold_or_the_most_likely_class():
    probabilities = np.array([[0.3, 0.7], [0.7, 0.3], [0.5, 0.5]])
    np.testing.assert_array_equal(predict_labels(probabilities, TWO, "normal"), [1, 0, 1])
    np.testing.assert_array_equal(predict_labels(probabilities, TWO, "COVID"), [1, 0, 0])
    np.testing.assert_array_equal(predict_labels(probabilities, TWO, "COVID", 0.3), [0, 0, 0])
    np.testing.assert_array_equal(predict_labels(probabilities, TWO, "COVID", 0.71), [1, 1, 1])
    np.testing.assert_array_equal(predict_labels(np.array([[0.2, 0.5, 0.3]]), THREE, None, 0.9), [1])


def test_unusable_input_is_refused():
    labels, probabilities, groups = make_study(n_items=10, n_classes=2)
    for positive in (None, "covid"):
        with pytest.raises(OptionError, match=f"found {positive!r}"):
            evaluate(labels, probabilities, groups, TWO, positive)
    with pytest.raises(OptionError, match=r"found 1\.5"):
        evaluate(labels, probabilities, groups, TWO, "COVID", 1.5)
    with pytest.raises(OptionError, match="At least two classes"):
        evaluate(labels, probabilities, groups, ("one",), "one")
    with pytest.raises(DataError, match="groups 9"):
        evaluate(labels, probabilities, groups[:9], TWO, "COVID")
    with pytest.raises(DataError, match=r"\(items, 3\) are needed; found \(10, 2\)"):
        evaluate(labels, probabilities, groups, THREE, None)
    with pytest.raises(DataError, match="row 0 holds 5"):
        evaluate(np.full(10, 5), probabilities, groups, TWO, "COVID")
    with pytest.raises(DataError, match="row 0 holds"):
        evaluate(labels, probabilities * 2, groups, TWO, "COVID")
    broken = np.where(np.arange(10)[:, np.newaxis] == 6, np.nan, probabilities)
    with pytest.raises(DataError, match="row 6 holds"):
        evaluate(labels, broken, groups, TWO, "COVID", folds=np.arange(10) - 5)
    with pytest.raises(DataError, match="found none"):
        evaluate(labels, probabilities, groups, TWO, "COVID", folds=np.full(10, -1))


@pytest.mark.parametrize("n_classes", [3, 5])
def test_grades_have_the_kappa_and_the_error_that_scikit_learn_finds(n_classes):
    labels, probabilities, groups = make_study(n_classes=n_classes, gain=0.7)
    classes = tuple("abcde"[:n_classes])
    found = evaluate(labels, probabilities, groups, classes, None, seed=1, n_resamples=40, level=0.9, ordinal=True)
    called, place = probabilities.argmax(axis=1), np.unique(groups, return_inverse=True)[1]
    grades = list(range(n_classes))
    expected = referee.cohen_kappa_score(labels, called, weights="quadratic", labels=grades)
    assert found["weighted_kappa"]["value"] == pytest.approx(expected, abs=1e-12)
    assert found["grade_error"]["value"] == pytest.approx(referee.mean_absolute_error(labels, called), abs=1e-12)

    def measure(counts):
        weights = counts[place]
        kappa = referee.cohen_kappa_score(labels, called, weights="quadratic", labels=grades, sample_weight=weights)
        return kappa, np.average(np.abs(labels - called), weights=weights)

    slow = np.array([measure(counts) for counts in statistics.patient_counts(groups, 40, seed=1)])
    without = np.array([measure(1.0 * (np.arange(place.max() + 1) != k)) for k in range(place.max() + 1)])
    for name, values, left_out in zip(("weighted_kappa", "grade_error"), slow.T, without.T, strict=True):
        bounds = bound_bca(values, found[name]["value"], find_acceleration(left_out), level=0.9)
        assert (found[name]["low"], found[name]["high"]) == pytest.approx(bounds, abs=1e-9)


def test_kappa_counts_how_far_off_a_call_is_and_plain_tasks_have_none():
    labels, groups = np.arange(300) % 3, np.arange(300)
    near, far = np.where(labels == 2, 1, labels), np.where(labels == 2, 0, labels)
    found = [
        evaluate(labels, np.eye(3)[called], groups, THREE, None, n_resamples=20, ordinal=True) for called in (near, far)
    ]
    kappas = [each["weighted_kappa"]["value"] for each in found]
    assert kappas[0] > kappas[1]
    assert [each["grade_error"]["value"] for each in found] == pytest.approx([1 / 3, 2 / 3])
    assert "weighted_kappa" not in evaluate(labels, np.eye(3)[near], groups, THREE, None, n_resamples=20)
