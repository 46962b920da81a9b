"""The linear head: L2-regularised multinomial logistic regression, one decomposition for a whole path of strengths.

The penalty is blind to rotations, so features that are much wider than the items are many are replaced by the square
Cholesky factor of their Gram matrix. The leading axes of what is left, found by randomised subspace iteration (Halko,
Martinsson and Tropp, SIAM Review 53:217, 2011, algorithm 4.4), precondition a truncated Newton method (Nocedal and
Wright, Numerical Optimization, algorithm 7.1): along them the Hessian is taken as if all items had the mean curvature,
which for any penalty is a formula (Frangella, Tropp and Udell, SIAM Journal on Matrix Analysis 44:718, 2023). They
change the way to the minimum, not the minimum.

Classes live in contrasts (orthonormal columns that sum to zero), which loses nothing: at the optimum the coefficients
of all classes sum to zero. Products with the features are float32, all else is float64.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np

from thawline.errors import DataError, ModelError, OptionError
from thawline.types import MISSING

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from threadpoolctl import ThreadpoolController

    from thawline.types import Features, FloatArray, IntArray, Labels, Probabilities

    Scores: TypeAlias = NDArray[np.float32]
    Solve: TypeAlias = Callable[[FloatArray], FloatArray]

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
N_AXES, POWER_STEPS = 72, 2
TOLERANCE = 3e-4  # on the preconditioned gradient norm: the loss summed over items is then within its half square
NEWTON_STEPS, INNER_STEPS, FORCING = 100, 200, 0.3
FLOOR = 1e-10  # relative, added to the diagonal of a Gram matrix that centring has made singular
SMALL = 10_000_000  # elements of a matrix that one thread multiplies as fast as many
ROWS = 8192  # items that are converted to float64 at a time


@dataclasses.dataclass(frozen=True)
class LinearHead:
    """Softmax of an affine map of standardised features.

    ``mean`` and ``scale`` have shape (features,), ``coefficients`` (classes, features), ``intercept`` (classes,), all
    float64.
    """

    mean: FloatArray
    scale: FloatArray
    coefficients: FloatArray
    intercept: FloatArray
    name: ClassVar[str] = "linear"

    @property
    def n_classes(self) -> int:
        """Columns of `predict_proba`."""
        return len(self.intercept)

    def predict_logits(self, features: Features) -> FloatArray:
        """Return logits, float64 (items, classes), for ``features`` of shape (items, features)."""
        check_features(features, len(self.mean))
        slopes, offset = self.to_affine()
        parts = [np.asarray(part, np.float64) @ slopes.T + offset for _, part in _cut_rows(features)]
        return np.concatenate(parts) if parts else np.empty((0, self.n_classes))

    def to_affine(self) -> tuple[FloatArray, FloatArray]:
        """Return slopes (classes, features) and offsets (classes,) for features that are not standardised."""
        slopes = self.coefficients / self.scale
        return slopes, self.intercept - slopes @ self.mean

    def predict_proba(self, features: Features) -> Probabilities:
        """Return probabilities, float64 (items, classes), for ``features`` of shape (items, features)."""
        logits = self.predict_logits(features)
        expected = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(expected / expected.sum(axis=1, keepdims=True))

    def to_tensors(self) -> dict[str, FloatArray]:
        """Return the four arrays by name; `from_tensors` reverses it."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Any]) -> LinearHead:
        """Rebuild from `to_tensors`; raises ModelError on missing arrays, other shapes or values that are not finite."""
        names = [field.name for field in dataclasses.fields(cls)]
        if sorted(tensors) != sorted(names):
            raise ModelError(f"A linear head holds the arrays {sorted(names)}; found {sorted(tensors)}.")
        arrays = {name: np.asarray(tensors[name], np.float64) for name in names}
        shapes = {name: array.shape for name, array in arrays.items()}
        classes, features = (*shapes["coefficients"], 0, 0)[:2]
        wanted = dict(zip(names, [(features,), (features,), (classes, features), (classes,)], strict=True))
        if shapes != wanted or classes < 2:
            raise ModelError(f"A linear head of {classes} classes has arrays of shapes {wanted}; found {shapes}.")
        broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
        if broken:
            raise ModelError(f"A linear head holds finite numbers only; {broken} hold others. Fit or copy it again.")
        return cls(**arrays)


@dataclasses.dataclass(frozen=True)
class Basis:
    """One decomposition of a training part, shared by all strengths.

    ``standardised`` is float32 (items, features). ``scores`` is what problems are solved in, float32 (items, r): the
    same array, or where features are many ``factor``, lower triangular float64 (items, items), which else is None.
    ``axes`` (m, r), float32, are orthonormal; ``energies`` (m,) is the squared norm of the scores along each, ``rest``
    the mean of it along the others.
    """

    mean: FloatArray
    scale: FloatArray
    standardised: Scores
    scores: Scores
    axes: Scores
    energies: FloatArray
    rest: float
    factor: FloatArray | None = None

    def project(self, weights: FloatArray) -> FloatArray:
        """Return weights (contrasts, r) times scores: (contrasts, items)."""
        return _multiply(self.scores, weights)

    def gather(self, residuals: FloatArray) -> FloatArray:
        """Return residuals (contrasts, items) times scores, the transpose of `project`: (contrasts, r)."""
        return _multiply(self.scores.T, residuals)

    def restore(self, weights: FloatArray) -> FloatArray:
        """Return the weights of standardised features, (contrasts, features), that `project` to the same."""
        if self.factor is None:
            return weights
        items = np.linalg.solve(self.factor.T, weights.T).T
        return np.asarray(sum(items[:, at : at + ROWS] @ part for at, part in _cut_rows(self.standardised)))


@dataclasses.dataclass(frozen=True)
class Selection:
    """Out-of-fold results of every strength.

    ``losses`` (strengths, items) and ``probabilities`` (strengths, items, classes) are nan where the fold is -1.
    """

    strengths: tuple[float, ...]
    losses: FloatArray
    probabilities: FloatArray

    @property
    def best(self) -> int:
        """Index of the strength with the smallest mean loss; of equals the strongest penalty."""
        means = np.nanmean(self.losses, axis=1)
        return min(range(len(self.strengths)), key=lambda index: (means[index], self.strengths[index]))


@dataclasses.dataclass(frozen=True)
class _Problem:
    """The penalised loss of one training part at one strength; vectors are (contrasts, r + 1), intercepts last."""

    basis: Basis
    targets: FloatArray  # (classes, items), one-hot
    item_weights: FloatArray
    contrasts: FloatArray  # (classes, classes - 1)
    strength: float

    def image(self, vector: FloatArray) -> FloatArray:
        """Return the logits of the contrasts, (contrasts, items)."""
        return self.basis.project(vector[:, :-1]) + vector[:, -1:]

    def penalise(self, vector: FloatArray) -> FloatArray:
        """Return the gradient of the penalty, which leaves the intercepts alone."""
        gradient = vector / self.strength
        gradient[:, -1] = 0
        return gradient

    def pull_back(self, residuals: FloatArray, vector: FloatArray) -> FloatArray:
        """Return the gradient that belongs to residuals (classes, items), with the penalty at ``vector``."""
        inner = self.contrasts.T @ residuals
        return np.column_stack([self.basis.gather(inner), inner.sum(axis=1)]) + self.penalise(vector)

    def evaluate(self, vector: FloatArray, image: FloatArray) -> tuple[float, FloatArray]:
        """Return the objective, and the probabilities (classes, items)."""
        logits = self.contrasts @ image
        logits -= logits.max(axis=0)
        expected = np.exp(logits)
        total = expected.sum(axis=0)
        losses = np.log(total) - (logits * self.targets).sum(axis=0)
        objective = self.item_weights @ losses + 0.5 * float((vector * self.penalise(vector)).sum())
        return float(objective), expected / total

    def curve(self, direction: FloatArray, image: FloatArray, probabilities: FloatArray) -> FloatArray:
        """Return the Hessian at ``probabilities`` times ``direction``, whose image is given."""
        moved = self.contrasts @ image
        spread = probabilities * (moved - (probabilities * moved).sum(axis=0))
        return self.pull_back(spread * self.item_weights, direction)

    def precondition(self, probabilities: FloatArray) -> Solve:
        """Return the solver for the Hessian in which every item has the mean curvature."""
        basis, n_items = self.basis, self.targets.shape[1]
        weighted = probabilities * self.item_weights
        mean = (np.diag(weighted.sum(axis=1)) - weighted @ probabilities.T) / n_items
        curvatures, turn = np.linalg.eigh(self.contrasts.T @ mean @ self.contrasts)
        curvatures = np.maximum(curvatures, 1e-8)[:, None]  # where all items are certain
        rest = 1 / (curvatures * basis.rest + 1 / self.strength)
        along = 1 / (curvatures * basis.energies + 1 / self.strength) - rest

        def solve(vector: FloatArray) -> FloatArray:
            turned = turn.T @ vector
            inner = turned[:, :-1]
            solved = rest * inner + _multiply(basis.axes.T, along * _multiply(basis.axes, inner))
            return np.asarray(turn @ np.column_stack([solved, turned[:, -1:] / (curvatures * n_items)]))

        return solve


def decompose(features: Features) -> Basis:
    """Standardise ``features`` (items, features) and find their leading axes; see the module for the method.

    Mean and scale are those of these items; a column without variance has scale 1. Needs one float32 copy of the
    features, and where they are more than twice the items two square matrices of the items. Raises DataError on values
    that are not finite.
    """
    check_features(features)
    mean, scale = measure_columns(features)
    standardised = np.empty(features.shape, np.float32)
    for at, part in _cut_rows(features):
        standardised[at : at + ROWS] = (np.asarray(part, np.float64) - mean) * (1 / scale)
    scores, factor = standardised, None
    with _limit_threads(standardised.size):
        if 2 * features.shape[0] < features.shape[1]:
            factor = _factorise_gram(standardised)
            scores = factor.astype(np.float32)
        return Basis(mean, scale, standardised, scores, *_find_axes(scores), factor)


def fit_path(
    basis: Basis,
    labels: Labels,
    n_classes: int,
    strengths: Sequence[float] = STRENGTHS,
    item_weights: FloatArray | None = None,
    class_weight: str | None = None,
) -> list[LinearHead]:
    """Fit one head for each strength, each started from the head of the next stronger penalty; in the given order.

    The objective is the sum over items of weight x log-loss, plus ||coefficients||² / (2 strength), the intercept free:
    scikit-learn's ``LogisticRegression(C=strength)``, which for two classes penalises the one difference vector.
    ``balanced`` weighs classes by items / (classes present x items of the class) and then takes the shift of the prior
    out of the intercept. A class without items keeps zero coefficients and a probability below 1 / (items + 1).
    Raises DataError for fewer than two classes, OptionError for a strength or weight that is not positive.
    """
    _check_strengths(strengths)
    check_class_weight(class_weight)
    present, numbers = np.unique(np.asarray(labels), return_inverse=True)
    check_labels(labels, len(basis.standardised), n_classes)
    class_weights = balance_classes(numbers) if class_weight else np.ones(len(present))
    weights = class_weights[numbers] * (
        1.0 if item_weights is None else _check_weights(item_weights, len(basis.standardised))
    )
    targets = np.ascontiguousarray(np.eye(len(present))[numbers].T)
    contrasts = _make_contrasts(len(present))
    prior = targets @ weights / weights.sum()
    vector = np.zeros((len(present) - 1, basis.scores.shape[1] + 1))
    vector[:, -1] = contrasts.T @ np.log(prior)
    vectors = {}
    with _limit_threads(basis.scores.size):
        for strength in sorted(set(strengths)):
            # scikit-learn's one sigmoid vector is the difference of two: twice the squared norm of the contrast
            own = strength / 2 if len(present) == 2 else strength
            vector = _minimise(_Problem(basis, targets, weights, contrasts, own), vector)
            vectors[strength] = vector
        path = np.stack([vectors[strength] for strength in strengths])
        weights = basis.restore(path[..., :-1].reshape(-1, path.shape[2] - 1)).reshape(*path.shape[:2], -1)
    shift = np.log(class_weights)
    return [
        _place(basis, contrasts @ part, contrasts @ biases - shift, present, n_classes)
        for part, biases in zip(weights, path[..., -1], strict=True)
    ]


def select_linear(
    features: Features,
    labels: Labels,
    folds: IntArray,
    n_classes: int,
    strengths: Sequence[float] = STRENGTHS,
    *,
    class_weight: str | None = None,
    n_jobs: int = 1,
) -> Selection:
    """Fit all strengths on the complement of each fold, with one decomposition a fold, and score them on the fold.

    ``folds`` (items,) numbers the fold in which an item is scored; -1 never is, but always trains. ``n_jobs`` folds are
    solved at a time. Raises as `decompose` and `fit_path`.
    """
    numbers = [int(fold) for fold in np.unique(folds) if fold >= 0]
    probabilities = np.full((len(strengths), len(labels), n_classes), np.nan)

    def score(fold: int) -> None:
        training, scored = folds != fold, folds == fold
        basis = decompose(features[training])
        heads = fit_path(basis, labels[training], n_classes, strengths, class_weight=class_weight)
        for row, head in zip(probabilities, heads, strict=True):
            row[scored] = head.predict_proba(features[scored])

    # the limit is one of the whole process: several folds share it from outside
    with _limit_threads(0 if n_jobs > 1 else features.size), ThreadPoolExecutor(max(n_jobs, 1)) as pool:
        list(pool.map(score, numbers))
    losses = np.stack([score_items(row, labels) for row in probabilities])
    return Selection(tuple(strengths), losses, probabilities)


def score_items(probabilities: Probabilities, labels: Labels) -> FloatArray:
    """Return the log-loss of each item, (items,); nan where its probabilities are nan."""
    taken = np.take_along_axis(probabilities, np.asarray(labels)[:, None], axis=1)[:, 0]
    return -np.log(np.maximum(taken, np.finfo(np.float64).tiny))


def balance_classes(labels: Labels) -> FloatArray:
    """Return the weight of each class, items / (classes x items of the class), shape (max label + 1,)."""
    counts = np.bincount(labels)
    return np.asarray(len(labels) / (len(counts) * np.maximum(counts, 1)))


def check_features(features: Features, n_features: int | None = None) -> None:
    """Raise DataError unless ``features`` is (items, n_features) and finite; says how many rows are not."""
    if features.ndim != 2 or (n_features is not None and features.shape[1] != n_features):
        wanted = "any number of" if n_features is None else n_features
        raise DataError(f"Features must have shape (items, {wanted} features); found {features.shape}.")
    wrong = sum(int((~np.isfinite(part).all(axis=1)).sum()) for _, part in _cut_rows(features))
    if wrong:
        raise DataError(
            f"{wrong} of {len(features)} rows of features hold nan or inf; every value must be finite. "
            "Look for damaged images or an overflow in half precision, and extract the features again."
        )


def check_labels(labels: Labels, n_items: int, n_classes: int) -> None:
    """Raise DataError unless there are ``n_items`` labels within range, of at least two classes.

    Several labels an item have shape (items, classes), of 1, 0 and -1, and at least one is known of an item.
    """
    if np.ndim(labels) == 2:
        _check_several(labels, n_items, n_classes)
        return
    present = np.unique(np.asarray(labels))
    if len(labels) != n_items:
        raise DataError(f"Each item needs one label; found {len(labels)} labels for {n_items} items.")
    if len(present) and (present[0] < 0 or present[-1] >= n_classes):
        raise DataError(f"Labels must lie between 0 and {n_classes - 1}; found {present[0]} to {present[-1]}.")
    if len(present) < 2:
        raise DataError(
            f"A head needs training items of at least two classes; found {n_items} items of class {present.tolist()}. "
            "Use fewer folds, or add items of the other classes."
        )


def _check_several(labels: Labels, n_items: int, n_classes: int) -> None:
    if labels.shape != (n_items, n_classes) or not np.isin(labels, (1, 0, MISSING)).all():
        raise DataError(
            f"Labels of shape {(n_items, n_classes)}, of 1, 0 and {MISSING} (not known), are needed; found {labels.shape} "
            f"of {np.unique(labels)[:9].tolist()}."
        )
    unknown = int((labels == MISSING).all(axis=1).sum())
    if unknown:
        raise DataError(f"Of each item one label must be known; found {unknown} items without any. Leave them out.")


def check_class_weight(class_weight: str | None) -> None:
    """Raise OptionError unless ``class_weight`` is None or "balanced"."""
    if class_weight not in (None, "balanced"):
        raise OptionError(f"Class weights are None or 'balanced'; found {class_weight!r}.")


def measure_columns(features: Features) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard deviation of each column, float64; the scale of a constant column is 1."""
    mean = np.sum([np.ones(len(part)) @ np.asarray(part, np.float64) for _, part in _cut_rows(features)], axis=0)
    mean /= len(features)
    squares = np.zeros(features.shape[1])
    for _, part in _cut_rows(features):
        centred = np.asarray(part, np.float64) - mean
        squares += np.einsum("ij,ij->j", centred, centred)
    scale = np.sqrt(squares / len(features))
    # rounding of the mean leaves a constant column a variance of its own size
    return mean, np.where(scale <= 10 * np.finfo(np.float64).eps * np.abs(mean), 1.0, scale)


def _limit_threads(size: int) -> contextlib.AbstractContextManager[Any]:
    """Hold products with ``size`` elements to one thread where more gain nothing.

    The results then do not depend on the machine's cores; idle threads that wait busily would cost several times more.
    """
    return _find_blas().limit(limits=1, user_api="blas") if size < SMALL else contextlib.nullcontext()


@functools.cache
def _find_blas() -> ThreadpoolController:
    """Find numpy's library, once: looking for it takes 10 ms, as long as a fit of few items."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _cut_rows(features: Any) -> Iterator[tuple[int, Any]]:
    """Yield consecutive parts of `ROWS` items with their offsets, so that copies stay small."""
    return ((at, features[at : at + ROWS]) for at in range(0, len(features), ROWS))


def _multiply(matrix: Scores, rows: FloatArray) -> FloatArray:
    """Return each of the few rows times the matrix; one by one, for which the libraries are quicker than as a block."""
    return np.stack([matrix @ row for row in rows.astype(np.float32)]).astype(np.float64)


def _make_contrasts(n_classes: int) -> FloatArray:
    """Return orthonormal columns that sum to zero (Helmert), shape (classes, classes - 1)."""
    upper = np.triu(np.ones((n_classes, n_classes - 1)))
    upper[np.arange(1, n_classes), np.arange(n_classes - 1)] = -np.arange(1, n_classes)
    return np.asarray(upper / np.linalg.norm(upper, axis=0))


def _factorise_gram(standardised: Scores) -> FloatArray:
    """Return the Cholesky factor of X X', (items, items), summed in float64 over blocks of features."""
    gram = np.zeros((len(standardised),) * 2)
    for _, part in _cut_rows(standardised.T):
        wide = np.asarray(part.T, np.float64)
        gram += wide @ wide.T
    gram[np.diag_indices_from(gram)] += FLOOR * max(float(np.trace(gram)), 1.0)
    return np.asarray(np.linalg.cholesky(gram), np.float64)


def _find_axes(scores: Scores) -> tuple[Scores, FloatArray, float]:
    """Return the leading right singular vectors (m, r), their squared singular values, and the mean of the others."""
    rank = min(scores.shape)
    size = min(N_AXES, rank)
    axes = np.random.default_rng(0).standard_normal((scores.shape[1], size)).astype(np.float32)
    for _ in range(POWER_STEPS):
        axes = np.linalg.qr(scores.T @ (scores @ axes))[0]
    images = (scores @ axes).astype(np.float64)
    energies, turn = np.linalg.eigh(images.T @ images)
    energies = np.maximum(energies, 0)
    total = sum(float(np.einsum("ij,ij->", part, part, dtype=np.float64)) for _, part in _cut_rows(scores))
    rest = max(total - float(energies.sum()), 0.0) / max(rank - size, 1)
    return np.ascontiguousarray((axes @ turn).T, np.float32), energies, rest


def _minimise(problem: _Problem, vector: FloatArray) -> FloatArray:
    """Return the minimiser, by truncated Newton steps with a halving line search from ``vector``."""
    image = problem.image(vector)
    value, probabilities = problem.evaluate(vector, image)
    for _ in range(NEWTON_STEPS):
        residuals = (probabilities - problem.targets) * problem.item_weights
        gradient = problem.pull_back(residuals, vector)
        solve = problem.precondition(probabilities)
        # float32 products carry no more digits than that where the loss is a sum over very many items
        if float((gradient * solve(gradient)).sum()) < TOLERANCE**2 * max(1.0, value / 1000):
            break
        step, moved = _find_step(problem, gradient, probabilities, solve)
        slope = float((gradient * step).sum())
        for length in 0.5 ** np.arange(20):
            tried, there = vector + length * step, image + length * moved
            reached, expected = problem.evaluate(tried, there)
            if reached <= value + 1e-4 * length * slope + 1e-7 * abs(value):  # float32 products round the last term
                break
        else:
            break
        vector, image, value, probabilities = tried, there, reached, expected
    return vector


def _find_step(
    problem: _Problem, gradient: FloatArray, probabilities: FloatArray, solve: Solve
) -> tuple[FloatArray, FloatArray]:
    """Return the Newton step and its image, by preconditioned conjugate gradients to a third of the gradient."""
    residual = -gradient
    direction = ahead = solve(residual)
    step, moved = np.zeros_like(gradient), np.zeros_like(problem.targets[1:])
    size = float((residual * ahead).sum())
    goal = size * max(FORCING, TOLERANCE / 3 / np.sqrt(size)) ** 2
    for _ in range(INNER_STEPS):
        image = problem.image(direction)
        curved = problem.curve(direction, image, probabilities)
        length = size / float((direction * curved).sum())
        step += length * direction
        moved += length * image
        residual -= length * curved
        ahead = solve(residual)
        size, before = float((residual * ahead).sum()), size
        if size <= goal:
            break
        direction = ahead + size / before * direction
    return step, moved


def _place(basis: Basis, weights: FloatArray, biases: FloatArray, present: IntArray, n_classes: int) -> LinearHead:
    """Return the head with the weights (classes present, features) and biases of the classes that were present."""
    coefficients = np.zeros((n_classes, weights.shape[1]))
    # the largest logit of the others is at least zero, as they sum to zero
    intercept = np.full(n_classes, -np.log(len(basis.standardised) + 1.0))
    coefficients[present], intercept[present] = weights, biases - biases.mean()
    return LinearHead(basis.mean, basis.scale, coefficients, intercept)


def _check_strengths(strengths: Sequence[float]) -> None:
    if not strengths or not all(np.isfinite(strength) and strength > 0 for strength in strengths):
        raise OptionError(f"Strengths of a linear head are numbers above 0, at least one; found {list(strengths)}.")


def _check_weights(item_weights: FloatArray, n_items: int) -> FloatArray:
    weights = np.asarray(item_weights, np.float64)
    if weights.shape != (n_items,) or not (np.isfinite(weights) & (weights > 0)).all():
        raise OptionError(
            f"Each of the {n_items} items needs one finite weight above 0; found shape {weights.shape}"
            + (f", smallest {weights.min()}." if weights.size else ".")
        )
    return weights
