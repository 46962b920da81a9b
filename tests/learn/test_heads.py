"""Every row of the table of heads: what it learns, and what it must not see."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from thawline.errors import DataError, OptionError
from thawline.learn import heads
from thawline.learn.linear import LinearHead, select_linear

every_head = pytest.mark.parametrize("name", list(heads.HEADS))


@pytest.fixture(autouse=True)
def small_ensembles(monkeypatch):
    monkeypatch.setattr(heads, "N_TREES", 10)
    monkeypatch.setattr(heads, "N_ROUNDS", 20)


@pytest.mark.parametrize(
    ("n_threads", "n_items", "expected"), [(16, 20, 2), (16, 2000, 4), (16, 10**6, 16), (2, 2000, 2), (1, 20, 1)]
)
def test_few_items_are_worth_few_threads(n_threads, n_items, expected):
    assert heads.share_threads(n_threads, n_items) == expected


def make_data(n_items=96, n_classes=2, distance=2.5, seed=0):
    """Two items a patient, four folds of whole patients, classes some standard deviations apart."""
    rng = np.random.default_rng(seed)
    groups = np.arange(n_items) // 2
    labels = groups % n_classes
    centres = rng.standard_normal((n_classes, 12))
    centres *= distance / np.linalg.norm(centres[0] - centres[1])
    features = 5 + 3 * (centres[labels] + rng.standard_normal((n_items, 12)))
    folds = groups // n_classes % 4
    return features.astype(np.float32), labels, groups, folds


def fit_middle(name, data, n_classes=2, **options):
    features, labels, groups, _ = data
    row = heads.HEADS[name]
    training = heads.Training(features, labels, groups, n_classes, **options)
    return row.fit(training, [row.strengths[len(row.strengths) // 2]])[0]


def test_rows_are_in_order_and_described():
    assert list(heads.HEADS) == ["linear", "svm", "random_forest", "k_nn", "gradient_boosting"]
    for name, row in heads.HEADS.items():
        assert row.name == name
        assert row.strategy == ("feature_extractor" if name == "linear" else "feature_extractor_hybrid")
        assert 1 <= len(row.strengths) <= 5
        assert row.meaning


@every_head
def test_strengths_run_from_strong_to_weak_regularisation(name):
    features, labels, *_ = data = make_data(n_items=240, distance=0)
    row = heads.HEADS[name]
    strengths = (5.0, 1.0) if name == "random_forest" else row.strengths
    fitted = row.fit(heads.Training(*data[:3], 2), strengths)
    losses = [heads.score_items(head.predict_proba(features), labels).mean() for head in fitted]
    if name != "svm":  # its sigmoids are fitted on unseen items, and tell noise for what it is
        assert losses[-1] < losses[0]
    assert len(fitted) == len(strengths)
    assert all(head.name == name for head in fitted)


def test_an_only_strength_needs_no_folds(monkeypatch):
    """A forest of a training part is fitted once, and is the one of that strength."""
    data = make_data()
    row, calls = heads.HEADS["random_forest"], []
    monkeypatch.setitem(
        heads.HEADS,
        row.name,
        dataclasses.replace(row, fit=lambda *given: calls.append(given[1]) or row.fit(*given)),
    )
    found = heads.fit_fold(row.name, *data, 1, 2, seed=0)
    assert calls == [[found.strength]] == [list(row.strengths)]


@pytest.mark.slow
@every_head
@pytest.mark.parametrize("n_classes", [2, 3])
def test_separable_classes_are_found(name, n_classes):
    data = make_data(n_classes=n_classes, distance=5)
    labels, folds = data[1], data[3]
    found = heads.cross_fit(name, *data, n_classes, seed=0)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
    assert (found.probabilities.argmax(axis=1) == labels).mean() > 0.9
    assert log_loss(labels, found.probabilities) < 0.6 * np.log(n_classes)
    assert list(found.strengths) == list(found.seconds) == sorted(set(folds))
    assert set(found.strengths.values()) <= set(heads.HEADS[name].strengths)


@pytest.mark.slow
@every_head
def test_permuted_labels_are_chance(name):
    features, labels, groups, folds = make_data(n_items=160)
    patients = np.random.default_rng(3).permutation(labels[::2])
    found = heads.cross_fit(name, features, np.repeat(patients, 2), groups, folds, 2, seed=0)
    assert log_loss(np.repeat(patients, 2), found.probabilities) > np.log(2) - 0.03
    assert abs((found.probabilities.argmax(axis=1) == np.repeat(patients, 2)).mean() - 0.5) < 0.2


@pytest.mark.slow
@every_head
def test_same_seed_same_result(name):
    data = make_data()
    first, second = (heads.fit_fold(name, *data, 1, 2, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.probabilities, second.probabilities)
    assert first.strength == second.strength


@pytest.mark.slow
@every_head
def test_the_scored_fold_touches_nothing(name):
    """Garbage in the scored items, but one, leaves the head, its strength and that one's probabilities as they were."""
    features, labels, groups, folds = make_data()
    scored = np.flatnonzero(folds == 2)
    poisoned, wrong = features.copy(), labels.copy()
    poisoned[scored[1:]] = 1e4 * np.random.default_rng(0).standard_normal((len(scored) - 1, 12))
    wrong[scored] = 1 - labels[scored]
    clean = heads.fit_fold(name, features, labels, groups, folds, 2, 2, seed=0)
    dirty = heads.fit_fold(name, poisoned, wrong, groups, folds, 2, 2, seed=0)
    assert clean.strength == dirty.strength
    np.testing.assert_array_equal(clean.probabilities[0], dirty.probabilities[0])
    np.testing.assert_array_equal(clean.head.predict_proba(features), dirty.head.predict_proba(features))
    poisoned[folds == 1] *= 100
    other = heads.fit_fold(name, poisoned, wrong, groups, folds, 2, 2, seed=0)
    assert not np.array_equal(clean.head.predict_proba(features), other.head.predict_proba(features))


@pytest.mark.slow
@every_head
def test_whole_equals_its_folds_and_unscored_items_train(name):
    features, labels, groups, folds = make_data()
    folds = np.where(folds == 3, -1, folds)
    found = heads.cross_fit(name, features, labels, groups, folds, 2, seed=0)
    assert np.isnan(found.probabilities[folds == -1]).all()
    one = heads.fit_fold(name, features, labels, groups, folds, 1, 2, seed=0)
    np.testing.assert_array_equal(found.probabilities[folds == 1], one.probabilities)
    assert found.strengths[1] == one.strength
    without = folds >= 0
    parts = [array[without] for array in (features, labels, groups, folds)]
    fewer = heads.fit_fold(name, *parts, 1, 2, seed=0)
    assert not np.array_equal(fewer.probabilities, one.probabilities)


@pytest.mark.parametrize("name", ["svm", "k_nn", "gradient_boosting"])
def test_standardisation_is_that_of_the_training_part(name):
    data = make_data()
    result = heads.fit_fold(name, *data, 0, 2, seed=0)
    training = data[0][data[3] != 0].astype(np.float64)
    scaler = result.head.model[0]
    np.testing.assert_allclose(scaler.mean_, training.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(scaler.scale_, training.std(axis=0), rtol=1e-5)


def test_linear_standardisation_is_that_of_the_training_part():
    data = make_data()
    head = heads.fit_fold("linear", *data, 0, 2, seed=0).head
    training = data[0][data[3] != 0].astype(np.float64)
    np.testing.assert_allclose(head.mean, training.mean(axis=0))
    np.testing.assert_allclose(head.scale, training.std(axis=0))


def test_strength_is_that_of_the_smallest_inner_loss():
    features, labels, groups, folds = make_data(n_items=120, distance=1.0)
    result = heads.fit_fold("linear", features, labels, groups, folds, 0, 2, seed=4, inner_folds=3)
    part = folds != 0
    inner = heads.make_folds(labels[part], groups[part], 3, 4)
    losses = []
    for strength in heads.HEADS["linear"].strengths:
        total = 0.0
        for fold in range(3):
            model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, tol=1e-8, max_iter=5000))
            model.fit(features[part][inner != fold], labels[part][inner != fold])
            scored = inner == fold
            total += log_loss(labels[part][scored], model.predict_proba(features[part][scored]), normalize=False)
        losses.append(total)
    assert result.strength == heads.HEADS["linear"].strengths[int(np.argmin(losses))]


def test_final_head_uses_the_given_folds_and_all_items():
    features, labels, groups, folds = make_data(n_items=120, distance=1.0)
    head, strength = heads.fit_final("linear", features, labels, groups, 2, folds=folds, seed=0)
    selection = select_linear(features, labels, folds, 2)
    assert strength == selection.strengths[selection.best]
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=strength, tol=1e-8)).fit(features, labels)
    np.testing.assert_allclose(head.predict_proba(features), reference.predict_proba(features), atol=1e-3)


@pytest.mark.slow
@every_head
def test_final_head_of_every_row(name):
    features, labels, groups, folds = make_data(distance=4)
    head, strength = heads.fit_final(name, features, labels, groups, 2, folds=folds, seed=0)
    assert strength in heads.HEADS[name].strengths
    assert (head.predict_proba(features).argmax(axis=1) == labels).mean() > 0.9


@pytest.mark.slow
@every_head
def test_a_part_is_fitted_as_the_fold_that_it_trains(name):
    features, labels, groups, folds = make_data()
    part = folds != 2
    training = heads.Training(features, labels, groups, 2, 5).take(part)
    head, strength = heads.fit_part(heads.HEADS[name], training)
    expected = heads.fit_fold(name, features, labels, groups, folds, 2, 2, seed=5)
    assert strength == expected.strength
    np.testing.assert_array_equal(head.predict_proba(features), expected.head.predict_proba(features))


def test_a_part_of_one_class_is_refused():
    features, labels, groups, _ = make_data()
    with pytest.raises(DataError, match="at least two classes"):
        heads.fit_part(heads.HEADS["linear"], heads.Training(features, labels, groups, 2).take(labels == 1))


def test_inner_folds_keep_patients_together():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 30, 200)
    labels = groups % 3
    folds = heads.make_folds(labels, groups, 3, seed=1)
    assert sorted(np.unique(folds)) == [0, 1, 2]
    assert all(len(np.unique(folds[groups == group])) == 1 for group in groups)
    np.testing.assert_array_equal(folds, heads.make_folds(labels, groups, 3, seed=1))
    assert heads.make_folds(labels, np.where(labels == 0, groups % 2 * 3, groups), 3, seed=1).max() == 1
    assert heads.make_folds(labels, np.where(labels == 0, 99, groups), 3, seed=1) is None


@every_head
def test_one_patient_in_a_class_takes_the_middle_strength(name):
    features, labels, groups, folds = make_data()
    groups = np.where(labels == 1, 999, groups)
    result = heads.fit_fold(name, features, labels, groups, folds, 0, 2, seed=0)
    strengths = heads.HEADS[name].strengths
    assert result.strength == strengths[len(strengths) // 2]
    assert np.isfinite(np.log(result.probabilities)).all()


@every_head
def test_a_class_absent_from_training_has_its_column(name):
    features, labels, groups, _ = make_data(distance=5)
    head = fit_middle(name, (features, labels * 2, groups, None), n_classes=4)
    found = head.predict_proba(features)
    assert found.shape == (96, 4)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert found.min() > 0
    assert found[:, [1, 3]].max() < 0.1
    assert (found.argmax(axis=1) == labels * 2).mean() > 0.9


@every_head
def test_class_weights_keep_the_prior(name):
    """With features that say nothing, balanced weights after their correction give the frequency of the class."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((400, 5)).astype(np.float32)
    labels = (np.arange(400) % 5 == 0).astype(int)
    row = heads.HEADS[name]
    training = heads.Training(features, labels, np.arange(400), 2, class_weight="balanced")
    head = row.fit(training, [row.strengths[0]])[0]
    fresh = rng.standard_normal((400, 5)).astype(np.float32)
    assert abs(head.predict_proba(fresh)[:, 1].mean() - 0.2) < 0.05


@pytest.mark.parametrize("name", ["linear", "svm", "random_forest", "gradient_boosting"])
def test_class_weights_change_the_fit(name):
    features, labels, groups, _ = make_data(n_items=120, distance=1)
    keep = (labels == 0) | (groups % 6 == 1)
    data = features[keep], labels[keep], groups[keep], None
    plain, balanced = (fit_middle(name, data, class_weight=weight) for weight in (None, "balanced"))
    assert not np.allclose(plain.predict_proba(features), balanced.predict_proba(features), atol=1e-4)


def make_peer(name, neighbours=15):
    """Return what scikit-learn's own pipeline of the middle strength is."""
    return {
        "random_forest": RandomForestClassifier(10, min_samples_leaf=1, random_state=0),
        "k_nn": make_pipeline(StandardScaler(), KNeighborsClassifier(neighbours)),
    }[name]


@pytest.mark.parametrize("name", ["random_forest", "k_nn"])
def test_votes_are_smoothed_by_the_rule_of_laplace(name):
    features, labels, *_ = data = make_data()
    plain = make_peer(name).fit(features, labels).predict_proba(features)
    votes = {"random_forest": 10, "k_nn": 15}[name]
    np.testing.assert_allclose(fit_middle(name, data).predict_proba(features), (votes * plain + 1) / (votes + 2))


def test_neighbours_are_capped_by_the_items():
    features, labels, groups, _ = make_data()
    few = heads.Training(features[:6], labels[:6], groups[:6], 2)
    found = heads.fit_k_nn(few, [45])[0].predict_proba(features)
    counts = np.bincount(labels[:6])
    np.testing.assert_allclose(found, np.tile((counts + 1) / 8, (96, 1)))


def test_machine_is_that_of_scikit_learn_and_calibrated():
    """The sigmoids are monotone in the decision of the support vector machine, and close to true frequencies."""
    features, labels, *_ = data = make_data(n_items=600, distance=1.5)
    found = fit_middle("svm", data).predict_proba(features)[:, 1]
    standardised = StandardScaler().fit_transform(features)
    decisions = SVC(C=1.0).fit(standardised, labels).decision_function(standardised)
    assert (np.diff(found[np.argsort(decisions)]) > -1e-6).all()
    many = make_data(n_items=4000, distance=1.5)
    truth = many[1][600:]
    predicted = fit_middle("svm", tuple(array[:600] for array in many)).predict_proba(many[0][600:])
    for low, high in [(0, 0.3), (0.3, 0.7), (0.7, 1.01)]:
        inside = (predicted[:, 1] >= low) & (predicted[:, 1] < high)
        assert abs(truth[inside].mean() - predicted[inside, 1].mean()) < 0.08


@every_head
def test_unusable_input_is_named(name):
    features, labels, groups, folds = make_data()
    broken = features.copy()
    broken[[1, 4, 9], 2] = np.nan
    with pytest.raises(DataError, match="3 of 96 rows"):
        heads.fit_fold(name, broken, labels, groups, folds, 0, 2, seed=0)
    head = fit_middle(name, (features, labels, groups, folds))
    with pytest.raises(DataError, match="1 of 2 rows"):
        head.predict_proba(broken[:2])
    with pytest.raises(DataError, match=r"12 features\)"):
        head.predict_proba(features[:, 1:])
    assert head.predict_proba(features[:0]).shape == (0, 2)


def test_unusable_calls_are_named():
    features, labels, groups, folds = make_data()
    with pytest.raises(OptionError, match="no head 'boosting'"):
        heads.fit_fold("boosting", features, labels, groups, folds, 0, 2, seed=0)
    with pytest.raises(DataError, match="'groups': 95"):
        heads.fit_fold("linear", features, labels, groups[1:], folds, 0, 2, seed=0)
    with pytest.raises(DataError, match="Fold 7 has no items"):
        heads.fit_fold("linear", features, labels, groups, folds, 7, 2, seed=0)
    with pytest.raises(DataError, match="at least two classes"):
        heads.fit_fold("svm", features, labels, groups, np.where(labels == 0, 0, -1), 0, 2, seed=0)
    with pytest.raises(OptionError, match="'auto'"):
        heads.fit_fold("svm", features, labels, groups, folds, 0, 2, seed=0, class_weight="auto")


def test_a_row_may_be_any_object():
    """A row of the caller's own goes the same way as those of the table."""
    features, labels, groups, folds = make_data()
    tried = []

    def fit(training, strengths):
        tried.append(list(strengths))
        return [LinearHead(np.zeros(12), np.ones(12), np.full((2, 12), s), np.zeros(2)) for s in strengths]

    row = dataclasses.replace(heads.HEADS["linear"], fit=fit, strengths=(3.0, 2.0))
    assert heads.choose_strength(row, heads.Training(features, labels, groups, 2), folds) == 3.0
    assert tried == [[3.0, 2.0]] * 4


def test_listener_hears_each_fold():
    class Counter:
        def __init__(self):
            self.heard = []

        def begin(self, step, total=None):
            self.heard.append((step, total))

        def advance(self, units=1):
            self.heard.append(units)

        def end(self, note=""):
            self.heard.append("end")

    listener = Counter()
    heads.cross_fit("linear", *make_data(), 2, seed=0, listener=listener)
    assert listener.heard == [("head linear", 4), 1, 1, 1, 1, "end"]


def test_boosting_is_that_of_scikit_learn_on_components():
    from sklearn.decomposition import PCA

    features, labels, *_ = data = make_data()
    boosted = HistGradientBoostingClassifier(
        max_iter=20, max_leaf_nodes=16, max_bins=32, min_samples_leaf=10, early_stopping=False, random_state=0
    )
    # as many components as features: a rotation, whatever the solver
    peer = make_pipeline(StandardScaler(), PCA(12, svd_solver="randomized", random_state=0), boosted)
    plain = peer.fit(features, labels).predict_proba(features)
    np.testing.assert_allclose(fit_middle("gradient_boosting", data).predict_proba(features), (96 * plain + 1) / 98)
