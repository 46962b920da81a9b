"""The linear head against scikit-learn's logistic regression, solved to a tight tolerance."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from thawline.errors import DataError, ModelError, OptionError
from thawline.judge.calibration import correct_prior
from thawline.learn import linear

CLOSE = 1e-3  # in probability
SHAPES = {
    "wide binary": (60, 150, 2),
    "wide": (50, 90, 3),
    "square": (80, 80, 3),
    "tall binary": (300, 20, 2),
    "tall": (400, 30, 4),
    "tiny": (6, 40, 2),
    "tiny three": (7, 3, 3),
    "one feature": (50, 1, 2),
}


def make_data(shape, seed=0):
    """Correlated, non-negative features of unequal scale, classes that overlap."""
    n_items, n_features, n_classes = shape
    rng = np.random.default_rng(seed)
    labels = np.arange(n_items) % n_classes
    factors = rng.standard_normal((n_items, max(n_features // 2, 1)))
    factors += 0.6 * rng.standard_normal((n_classes, factors.shape[1]))[labels]
    raw = factors @ rng.standard_normal((factors.shape[1], n_features)) + rng.standard_normal((n_items, n_features))
    return (np.maximum(raw, -1) * rng.uniform(0.1, 10, n_features) + 3).astype(np.float32), labels


def fit_reference(features, labels, strength, weights=None):
    """Return scikit-learn's probabilities for the standardised features as a function of new features."""
    scaler = StandardScaler().fit(features.astype(np.float64))
    # Newton's method takes its own way to the same minimum, and reaches it to many digits
    model = LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-10, max_iter=500)
    model.fit(scaler.transform(features.astype(np.float64)), labels, sample_weight=weights)
    return lambda new: model.predict_proba(scaler.transform(new.astype(np.float64)))


def measure_gradient(head, features, labels, strength, weights):
    """Return the norm of the objective's gradient in the head's own parameters, by its closed form in float64."""
    standardised = (features.astype(np.float64) - head.mean) / head.scale
    residuals = (head.predict_proba(features) - np.eye(head.n_classes)[labels]) * weights[:, None]
    # two symmetric vectors share the penalty of scikit-learn's one
    penalty = head.coefficients * (2 if head.n_classes == 2 else 1) / strength
    return np.linalg.norm(residuals.T @ standardised + penalty), np.abs(residuals.sum(axis=0)).max()


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_path_equals_scikit_learn(shape, weighted):
    features, labels = make_data(shape)
    new, _ = make_data(shape, seed=1)
    weights = np.random.default_rng(2).uniform(0.2, 3, len(labels)) if weighted else np.ones(len(labels))
    heads = linear.fit_path(linear.decompose(features), labels, shape[2], item_weights=weights if weighted else None)
    for strength, head in zip(linear.STRENGTHS, heads, strict=True):
        reference = fit_reference(features, labels, strength, weights)
        for part in (features, new):
            found = head.predict_proba(part)
            assert np.abs(found - reference(part)).max() < CLOSE
            np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_solve_converges(shape):
    features, labels = make_data(shape)
    heads = linear.fit_path(linear.decompose(features), labels, shape[2])
    for strength, head in zip(linear.STRENGTHS, heads, strict=True):
        start = np.linalg.norm((features - head.mean) / head.scale)
        slope, balance = measure_gradient(head, features, labels, strength, np.ones(len(labels)))
        assert slope < 1e-3 * start
        assert balance < 1e-2


@pytest.mark.parametrize("shape", [(40, 100, 3), (200, 30, 3)], ids=["wide", "tall"])
def test_collinear_and_constant_features_are_no_obstacle(shape):
    features, labels = make_data(shape)
    features[:, 1] = 2 * features[:, 0] + 1
    features[:, 2] = 7.3
    features[:, 3] = 0
    features[5] = features[6]
    heads = linear.fit_path(linear.decompose(features), labels, 3)
    for strength, head in zip(linear.STRENGTHS, heads, strict=True):
        assert head.scale[2] == head.scale[3] == 1
        assert np.abs(head.coefficients[:, 2:4]).max() < 1e-6
        np.testing.assert_allclose(head.coefficients[:, 0], head.coefficients[:, 1], atol=1e-4)
        reference = fit_reference(features, labels, strength)(features)
        assert np.abs(head.predict_proba(features) - reference).max() < CLOSE


def test_many_items_are_read_in_parts(monkeypatch):
    features, labels = make_data((300, 20, 3))
    whole = linear.fit_path(linear.decompose(features), labels, 3, [0.1])[0]
    monkeypatch.setattr(linear, "ROWS", 64)
    parts = linear.fit_path(linear.decompose(features), labels, 3, [0.1])[0]
    np.testing.assert_allclose(parts.predict_proba(features), whole.predict_proba(features), atol=1e-5)


@settings(deadline=None, max_examples=15)
@given(
    n_items=st.integers(4, 30),
    n_features=st.integers(1, 30),
    n_classes=st.integers(2, 4),
    seed=st.integers(0, 99),
    strength=st.sampled_from(linear.STRENGTHS),
)
def test_any_shape_equals_scikit_learn(n_items, n_features, n_classes, seed, strength):
    features, labels = make_data((max(n_items, n_classes), n_features, n_classes), seed)
    head = linear.fit_path(linear.decompose(features), labels, n_classes, [strength])[0]
    assert np.abs(head.predict_proba(features) - fit_reference(features, labels, strength)(features)).max() < CLOSE


@settings(deadline=None, max_examples=10)
@given(shape=st.tuples(st.integers(2, 25), st.integers(1, 25)), seed=st.integers(0, 99))
def test_basis_is_a_rotation_of_the_standardised_features(shape, seed):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal(shape).astype(np.float32)
    basis = linear.decompose(features)
    standardised = StandardScaler().fit_transform(features.astype(np.float64))
    size = basis.scores.shape[1]
    assert size == (shape[0] if 2 * shape[0] < shape[1] else shape[1])
    weights = rng.standard_normal((2, size))
    residuals = rng.standard_normal((2, shape[0]))
    # the factor of a centred Gram matrix has the root of its floor along the constant, where all items have nothing
    floor = 0 if basis.factor is None else np.sqrt(linear.FLOOR * standardised.size) * np.abs(weights).max()
    found, expected = basis.project(weights), basis.restore(weights) @ standardised.T
    np.testing.assert_allclose(found, expected, atol=1e-4 + floor)
    sides = (basis.gather(residuals) * weights).sum(), (basis.project(weights) * residuals).sum()
    np.testing.assert_allclose(*sides, rtol=1e-4, atol=1e-4)
    scores = basis.project(np.eye(size))
    np.testing.assert_allclose(scores.T @ scores, standardised @ standardised.T, atol=1e-3)


@pytest.mark.parametrize("shape", [(300, 200), (90, 400), (30, 40)], ids=["tall", "wide", "all axes"])
def test_leading_axes_are_those_of_the_singular_values(shape):
    rng = np.random.default_rng(0)
    features = rng.standard_normal(shape) @ np.diag(0.93 ** np.arange(shape[1])) @ rng.standard_normal((shape[1],) * 2)
    basis = linear.decompose(features.astype(np.float32))
    values = np.linalg.svd(StandardScaler().fit_transform(features), compute_uv=False) ** 2
    np.testing.assert_allclose(np.sort(basis.energies)[::-1][:30], values[:30], rtol=1e-3, atol=1e-3 * values[0])
    np.testing.assert_allclose(basis.axes @ basis.axes.T, np.eye(len(basis.axes)), atol=1e-5)
    total = basis.energies.sum() + basis.rest * max(min(shape) - len(basis.axes), 1)
    np.testing.assert_allclose(total, np.prod(shape), rtol=1e-3)


def test_strengths_come_back_in_the_given_order():
    features, labels = make_data((50, 80, 3))
    basis = linear.decompose(features)
    up, down = (linear.fit_path(basis, labels, 3, order) for order in ([0.001, 1.0, 0.001], [1.0, 0.001]))
    for first, second in [(up[0], down[1]), (up[1], down[0]), (up[2], down[1])]:
        np.testing.assert_array_equal(first.coefficients, second.coefficients)
    assert np.linalg.norm(up[1].coefficients) > np.linalg.norm(up[0].coefficients)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_balanced_weights_are_corrected_by_the_prior(n_classes):
    features, labels = make_data((120, 30, n_classes))
    labels = np.where(np.arange(120) % 5 > 0, 0, labels)
    head = linear.fit_path(linear.decompose(features), labels, n_classes, [0.01], class_weight="balanced")[0]
    weights = linear.balance_classes(labels)
    weighted = fit_reference(features, labels, 0.01, weights[labels])(features)
    corrected = correct_prior(weighted, np.ones(n_classes), np.bincount(labels))
    assert np.abs(head.predict_proba(features) - corrected).max() < CLOSE
    assert np.abs(weighted - corrected).max() > 0.05


def test_a_class_without_items_is_rare_but_possible():
    features, labels = make_data((40, 60, 2))
    labels = labels * 2
    head = linear.fit_path(linear.decompose(features), labels, 4, [0.01])[0]
    found = head.predict_proba(features)
    assert found.shape == (40, 4)
    assert found[:, [1, 3]].min() > 0
    assert found[:, [1, 3]].max() < 1 / 41
    assert not head.coefficients[[1, 3]].any()
    pair = found[:, [0, 2]] / found[:, [0, 2]].sum(axis=1, keepdims=True)
    assert np.abs(pair - fit_reference(features, labels, 0.01)(features)).max() < CLOSE


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_selection_scores_each_fold_with_the_other_items(n_jobs):
    features, labels = make_data((90, 40, 3))
    folds = np.arange(90) // 3 % 4 - 1
    found = linear.select_linear(features, labels, folds, 3, n_jobs=n_jobs)
    assert np.isnan(found.probabilities[:, folds == -1]).all()
    assert np.isnan(found.losses[:, folds == -1]).all()
    means = []
    for row, losses, strength in zip(found.probabilities, found.losses, linear.STRENGTHS, strict=True):
        reference = np.full((90, 3), np.nan)
        for fold in range(3):
            training = folds != fold
            reference[~training] = fit_reference(features[training], labels[training], strength)(features[~training])
        assert np.nanmax(np.abs(row - reference)) < CLOSE
        np.testing.assert_allclose(losses, -np.log(row[np.arange(90), labels]))
        means.append(np.nanmean(-np.log(reference[np.arange(90), labels])))
    assert found.best == np.argmin(means)


def test_of_equal_losses_the_strongest_penalty_is_best():
    assert linear.Selection((1.0, 0.1, 0.5), np.zeros((3, 4)), np.zeros((3, 4, 2))).best == 1


def test_threads_do_not_change_the_result():
    from threadpoolctl import threadpool_limits

    features, labels = make_data((120, 300, 3))
    results = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            results.append(linear.fit_path(linear.decompose(features), labels, 3)[-1].coefficients)
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("n_features", [4, 400])
def test_half_precision_at_rest_is_accepted(n_features):
    features, labels = make_data((60, n_features, 2))
    half = features.astype(np.float16)
    head = linear.fit_path(linear.decompose(half), labels, 2, [0.01])[0]
    assert np.abs(head.predict_proba(half) - fit_reference(half, labels, 0.01)(half)).max() < CLOSE


def test_head_survives_as_tensors():
    features, labels = make_data((40, 60, 3))
    head = linear.fit_path(linear.decompose(features), labels, 3, [0.1])[0]
    again = linear.LinearHead.from_tensors(head.to_tensors())
    np.testing.assert_array_equal(again.predict_proba(features), head.predict_proba(features))
    assert again.n_classes == 3
    assert head.predict_proba(features[:0]).shape == (0, 3)


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("rows", [1_000_000, 7])
def test_logits_are_those_of_the_standardised_features_and_of_the_affine_map(monkeypatch, n_classes, rows):
    """The referees are scikit-learn's scaler, and the map applied to features as they are."""
    monkeypatch.setattr(linear, "ROWS", rows)
    features, labels = make_data((40, 12, n_classes))
    head = linear.fit_path(linear.decompose(features), labels, n_classes, [0.1])[0]
    found = head.predict_logits(features)
    standardised = StandardScaler().fit(features.astype(np.float64)).transform(features.astype(np.float64))
    np.testing.assert_allclose(found, standardised @ head.coefficients.T + head.intercept, atol=1e-4)
    slopes, offsets = head.to_affine()
    assert (slopes.shape, offsets.shape) == ((n_classes, 12), (n_classes,))
    np.testing.assert_allclose(found, features.astype(np.float64) @ slopes.T + offsets, atol=1e-10)
    np.testing.assert_allclose(softmax(found, axis=1), head.predict_proba(features), rtol=1e-12)


def test_logits_need_the_features_of_the_fit_and_may_be_of_no_item():
    head = linear.LinearHead(np.zeros(3), np.ones(3), np.zeros((2, 3)), np.zeros(2))
    assert head.predict_logits(np.empty((0, 3), np.float32)).shape == (0, 2)
    with pytest.raises(DataError, match="3"):
        head.predict_logits(np.zeros((5, 4), np.float32))


def test_large_logits_do_not_overflow():
    head = linear.LinearHead(np.zeros(1), np.ones(1), np.array([[-1e4], [1e4]]), np.zeros(2))
    np.testing.assert_array_equal(head.predict_proba(np.array([[1.0], [-1.0]], np.float32)), [[0, 1], [1, 0]])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"mean": None}, "holds the arrays"),
        ({"mean": np.zeros(4)}, "shapes"),
        ({"intercept": np.zeros(2)}, "shapes"),
        ({"coefficients": np.zeros(3)}, "shapes"),
        ({"scale": np.full(3, np.nan)}, "'scale'"),
    ],
)
def test_damaged_tensors_are_refused(change, match):
    tensors = {"mean": np.zeros(3), "scale": np.ones(3), "coefficients": np.zeros((3, 3)), "intercept": np.zeros(3)}
    changed = {name: array for name, array in (tensors | change).items() if array is not None}
    with pytest.raises(ModelError, match=match):
        linear.LinearHead.from_tensors(changed)


def test_unusable_input_is_named():
    features, labels = make_data((30, 5, 2))
    basis = linear.decompose(features)
    broken = features.copy()
    broken[[3, 7], 1] = np.nan, np.inf
    with pytest.raises(DataError, match="2 of 30 rows"):
        linear.decompose(broken)
    with pytest.raises(DataError, match=r"found \(30,\)"):
        linear.decompose(features[:, 0])
    with pytest.raises(DataError, match="29 labels for 30 items"):
        linear.fit_path(basis, labels[1:], 2)
    with pytest.raises(DataError, match="between 0 and 1; found 0 to 2"):
        linear.fit_path(basis, np.where(labels, 2, 0), 2)
    with pytest.raises(DataError, match="at least two classes"):
        linear.fit_path(basis, np.zeros(30, int), 2)
    with pytest.raises(OptionError, match=r"found \[0\.1, 0\]"):
        linear.fit_path(basis, labels, 2, [0.1, 0])
    with pytest.raises(OptionError, match="weight above 0"):
        linear.fit_path(basis, labels, 2, item_weights=np.zeros(30))
    with pytest.raises(OptionError, match="found 'auto'"):
        linear.fit_path(basis, labels, 2, class_weight="auto")
    head = linear.fit_path(basis, labels, 2, [0.1])[0]
    with pytest.raises(DataError, match=r"5 features\); found \(30, 4\)"):
        head.predict_proba(features[:, :4])


def test_separable_classes_stay_finite():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20)
    features = (rng.standard_normal((40, 3)) + 50 * labels[:, None]).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        heads = linear.fit_path(linear.decompose(features), labels, 2, [1.0, 1e4])
    for head, strength in zip(heads, [1.0, 1e4], strict=True):
        reference = fit_reference(features, labels, strength)(features)
        assert np.abs(head.predict_proba(features) - reference).max() < CLOSE
