"""The classifiers on top of frozen features: one table of heads, and how their strength is chosen.

Every head has one hyper-parameter, its strength, listed from the strongest regularisation to the weakest. Where several
are listed, log-loss on folds inside the training part that keep patients together chooses; the scored fold is seen
once, by the prediction. A new head is a new row of `HEADS`. Where items have several labels, each gets a head of its own.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np

from thawline.data.splits import deal_groups
from thawline.errors import DataError, OptionError
from thawline.judge.calibration import correct_prior
from thawline.learn.linear import (
    STRENGTHS,
    LinearHead,
    balance_classes,
    check_class_weight,
    check_features,
    check_labels,
    decompose,
    fit_path,
    measure_columns,
    score_items,
)
from thawline.types import MISSING, Listener, SilentListener

if TYPE_CHECKING:
    from thawline.types import BoolArray, Features, Groups, IntArray, Labels, Probabilities

Strategy: TypeAlias = Literal["feature_extractor", "feature_extractor_hybrid"]

N_TREES, N_COMPONENTS, N_ROUNDS, CALIBRATION_FOLDS = 200, 64, 60, 3
FEW_ITEMS = 5000
ITEMS_A_THREAD = 500  # on 16 threads, nearest neighbours of 543 items took ten times as long as on 2
N_BINS = 32  # with weights, scikit-learn takes milliseconds for every bin of every column


class Head(Protocol):
    """A fitted classifier of features."""

    @property
    def name(self) -> str:
        """Its row in `HEADS`."""

    @property
    def n_classes(self) -> int:
        """Columns of `predict_proba`, also for classes that its training part lacked."""

    def predict_proba(self, features: Features) -> Probabilities:
        """Return probabilities, float64 (items, classes), for features of shape (items, features)."""


@dataclasses.dataclass(frozen=True)
class Training:
    """The items a head is fitted on, and how: features (items, features), labels and groups (items,).

    Several labels an item have shape (items, labels), see `fit_labels`.
    """

    features: Features
    labels: Labels
    groups: Groups
    n_classes: int
    seed: int = 0
    class_weight: str | None = None
    n_jobs: int = 1

    def take(self, items: BoolArray) -> Training:
        """Return the part where ``items`` (items,) is true."""
        parts = {name: getattr(self, name)[items] for name in ("features", "labels", "groups")}
        return dataclasses.replace(self, **parts)


@dataclasses.dataclass(frozen=True)
class ForeignHead:
    """A fitted scikit-learn pipeline as a head.

    ``present`` are the classes of its columns, ``trained_prior`` their shares as weighted in training and ``prior`` as
    they were; equal where nothing is to correct. ``votes`` is what stands behind a probability (neighbours, trees,
    items): the n of Laplace's rule (n p + 1) / (n + classes), which keeps every log-loss finite.
    """

    name: str
    n_classes: int
    model: Any
    present: tuple[int, ...]
    trained_prior: tuple[float, ...]
    prior: tuple[float, ...]
    votes: int

    def predict_proba(self, features: Features) -> Probabilities:
        """Return probabilities, float64 (items, classes), for ``features`` of shape (items, features)."""
        check_features(features, int(self.model.n_features_in_))
        if not len(features):
            return np.empty((0, self.n_classes))
        found = np.asarray(self.model.predict_proba(np.asarray(features, np.float32)), np.float64)
        if self.trained_prior != self.prior:
            found = correct_prior(found, self.trained_prior, self.prior)
        spread = np.zeros((len(features), self.n_classes))
        spread[:, self.present] = found / found.sum(axis=1, keepdims=True)
        return (self.votes * spread + 1) / (self.votes + self.n_classes)


@dataclasses.dataclass(frozen=True)
class LabelHeads:
    """A head of two classes for each of several labels, all of one row of `HEADS`, with the strengths of each."""

    name: str
    heads: tuple[Head, ...]
    strengths: tuple[float, ...]

    @property
    def n_classes(self) -> int:
        """Columns of `predict_proba`: the labels."""
        return len(self.heads)

    def predict_proba(self, features: Features) -> Probabilities:
        """Return the probability of each label, float64 (items, labels), for ``features`` of shape (items, features)."""
        return np.stack([head.predict_proba(features)[:, 1] for head in self.heads], axis=1)


@dataclasses.dataclass(frozen=True)
class HeadRow:
    """One kind of head: ``fit`` returns a head for each of the given strengths, in their order."""

    name: str
    strategy: Strategy
    strengths: tuple[float, ...]
    meaning: str
    fit: Callable[[Training, Sequence[float]], Sequence[Head]]


@dataclasses.dataclass(frozen=True)
class FoldResult:
    """One outer fold: the head of its training part and the probabilities of its scored items, in their order."""

    fold: int
    strength: float
    probabilities: Probabilities
    seconds: float
    head: Head


@dataclasses.dataclass(frozen=True)
class OutOfFold:
    """Probabilities (items, classes), nan where the fold is -1; strengths and seconds by fold number."""

    probabilities: Probabilities
    strengths: dict[int, float]
    seconds: dict[int, float]


def fit_linear(training: Training, strengths: Sequence[float]) -> Sequence[Head]:
    """Fit the linear head, all strengths from one decomposition."""
    basis = decompose(training.features)
    return fit_path(basis, training.labels, training.n_classes, strengths, class_weight=training.class_weight)


def fit_svm(training: Training, strengths: Sequence[float]) -> Sequence[Head]:
    """Fit support vector machines with Gaussian kernels of width by the variance of the features.

    Probabilities are Platt's sigmoids (Advances in Large Margin Classifiers, 1999) on decisions for items that the
    machine has not seen, patients kept together. Where a class has one patient they have to be those it has seen.
    """
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    inner = make_folds(training.labels, training.groups, CALIBRATION_FOLDS, training.seed)
    splits = None if inner is None else [(np.flatnonzero(~part), np.flatnonzero(part)) for _, part in _split(inner)]
    scaler = StandardScaler().fit(training.features)
    standardised = scaler.transform(training.features)

    def fit(strength: float) -> Head:
        machine = SVC(C=strength, class_weight=training.class_weight)
        if splits is None:
            machine = FrozenEstimator(machine.fit(standardised, training.labels))
        calibrated = CalibratedClassifierCV(machine, method="sigmoid", ensemble=False, cv=splits)
        calibrated.fit(standardised, training.labels)
        # the sigmoids are fitted without weights: they bring the probabilities back to the prior by themselves
        return _wrap("svm", training, make_pipeline(scaler, calibrated), len(training.labels), corrected=True)

    return [fit(strength) for strength in strengths]


def fit_random_forest(training: Training, strengths: Sequence[float]) -> Sequence[Head]:
    """Fit forests of `N_TREES` trees; the strength is the smallest number of items in a leaf."""
    from sklearn.ensemble import RandomForestClassifier

    settings = {"class_weight": training.class_weight, "random_state": training.seed, "n_jobs": training.n_jobs}

    def fit(strength: float) -> Head:
        forest = RandomForestClassifier(N_TREES, min_samples_leaf=int(strength), **settings)
        return _wrap("random_forest", training, forest.fit(training.features, training.labels), N_TREES)

    return [fit(strength) for strength in strengths]


def fit_k_nn(training: Training, strengths: Sequence[float]) -> Sequence[Head]:
    """Fit nearest neighbours on standardised features; the strength is their number, at most that of the items.

    Class weights change nothing: correcting the weighted votes by the prior gives the plain votes again.
    """
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def fit(strength: float) -> Head:
        neighbours = min(int(strength), len(training.labels))
        model = make_pipeline(
            StandardScaler(), KNeighborsClassifier(neighbours, algorithm="brute", n_jobs=training.n_jobs)
        )
        model.fit(training.features, training.labels)
        return _wrap("k_nn", training, model, neighbours, corrected=True)

    return [fit(strength) for strength in strengths]


def fit_gradient_boosting(training: Training, strengths: Sequence[float]) -> Sequence[Head]:
    """Fit `N_ROUNDS` rounds of boosted trees on the first `N_COMPONENTS` components; the strength is leaves a tree."""
    from sklearn.decomposition import PCA
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    # small trees end in milliseconds: on busy cores, threads would wait for each other ten times as long
    n_threads = training.n_jobs if len(training.labels) > FEW_ITEMS else 1
    components = min(N_COMPONENTS, *training.features.shape)
    settings = {
        "max_iter": N_ROUNDS,
        "max_bins": N_BINS,
        "min_samples_leaf": 10,
        "early_stopping": False,
        "random_state": training.seed,
    }

    def fit(strength: float) -> Head:
        boosted = HistGradientBoostingClassifier(
            max_leaf_nodes=int(strength), class_weight=training.class_weight, **settings
        )
        reduction = PCA(components, svd_solver="randomized", random_state=training.seed)
        model = make_pipeline(StandardScaler(), reduction, boosted).fit(training.features, training.labels)
        return _wrap("gradient_boosting", training, model, len(training.labels))

    with threadpool_limits(n_threads):
        return [fit(strength) for strength in strengths]


HEADS: dict[str, HeadRow] = {
    row.name: row
    for row in (
        HeadRow("linear", "feature_extractor", STRENGTHS, "inverse L2 penalty (C)", fit_linear),
        HeadRow("svm", "feature_extractor_hybrid", (0.1, 1.0, 10.0), "inverse margin penalty (C)", fit_svm),
        HeadRow("random_forest", "feature_extractor_hybrid", (1,), "least items a leaf", fit_random_forest),
        HeadRow("k_nn", "feature_extractor_hybrid", (45, 15, 5), "neighbours", fit_k_nn),
        HeadRow("gradient_boosting", "feature_extractor_hybrid", (4, 16), "leaves a tree", fit_gradient_boosting),
    )
}


def fit_labels(
    row: HeadRow, training: Training, fit: Callable[[Training, BoolArray], tuple[Head, float]]
) -> LabelHeads:
    """Fit a head of two classes for each label of ``training``, on the items where it is known.

    ``fit`` returns a head and its strength for those items, which its second argument marks. A label with one value only, or
    none, gets its share by Laplace's rule, (n with it + 1) / (n + 2), for every item.
    """
    found = []
    for values in training.labels.T:
        known = values != MISSING
        part = dataclasses.replace(training.take(known), labels=values[known], n_classes=2)
        told = len(np.unique(part.labels)) == 2
        found.append(fit(part, known) if told else (_hold_share(part), row.strengths[len(row.strengths) // 2]))
    return LabelHeads(row.name, tuple(head for head, _ in found), tuple(float(strength) for _, strength in found))


def _hold_share(part: Training) -> LinearHead:
    """Return the head of two classes that gives every item the share of those with a label."""
    n_features, n_having = part.features.shape[1], int(part.labels.sum())
    odds = (n_having + 1) / (len(part.labels) - n_having + 1)
    zeros = np.zeros(n_features)
    return LinearHead(zeros, np.ones(n_features), np.zeros((2, n_features)), np.array([0.0, np.log(odds)]))


def merge_linear(found: LabelHeads, features: Features) -> LinearHead:
    """Return linear heads of labels as one, whose logits (items, labels) are the log-odds of each; to start a network from.

    It standardises by the mean and scale of ``features``, those of the training items.
    """
    affine = [head.to_affine() for head in found.heads if isinstance(head, LinearHead)]
    slopes = np.stack([each[1] - each[0] for each, _ in affine])
    offsets = np.array([each[1] - each[0] for _, each in affine])
    mean, scale = measure_columns(features)
    return LinearHead(mean, scale, slopes * scale, offsets + slopes @ mean)


def find_row(name: str) -> HeadRow:
    """Return the row of `HEADS`; raises OptionError with the names there are."""
    if name not in HEADS:
        raise OptionError(f"There is no head {name!r}; choose one of {', '.join(HEADS)}.")
    return HEADS[name]


def share_threads(n_threads: int, n_items: int) -> int:
    """Return how many of the threads so few items are worth: more of them wait for each other longer than they work."""
    return min(n_threads, max(2, n_items // ITEMS_A_THREAD))


def fit_fold(
    name: str,
    features: Features,
    labels: Labels,
    groups: Groups,
    folds: IntArray,
    fold: int,
    n_classes: int,
    *,
    seed: int,
    inner_folds: int = 3,
    class_weight: str | None = None,
    n_jobs: int = 1,
) -> FoldResult:
    """Fit the head ``name`` on all items outside ``fold`` and predict those within, which nothing else touches.

    The strength is chosen by log-loss on ``inner_folds`` folds of the training part; the middle one where they cannot
    be made. Raises DataError where features are not finite, arrays differ in length, the fold is empty, or the training
    part has fewer than two classes.
    """
    from threadpoolctl import threadpool_limits

    start = time.perf_counter()
    row = find_row(name)
    n_jobs = share_threads(n_jobs, len(labels))
    everything = _check(Training(features, labels, groups, n_classes, seed, class_weight, n_jobs), folds)
    scored = np.asarray(folds) == fold
    if not scored.any():
        raise DataError(f"Fold {fold} has no items to score; folds present: {np.unique(folds).tolist()}.")
    training = everything.take(~scored)
    with threadpool_limits(n_jobs):
        head, strength = fit_part(row, training, inner_folds)
        probabilities = head.predict_proba(everything.features[scored])
    return FoldResult(fold, strength, probabilities, time.perf_counter() - start, head)


def fit_part(row: HeadRow, training: Training, inner_folds: int = 3) -> tuple[Head, float]:
    """Return the head of one training part, and its strength, chosen on ``inner_folds`` folds of that part.

    Of several labels the strength is the median of theirs. Raises DataError where the part has fewer than two classes.
    """
    if training.labels.ndim == 2:
        labelled = fit_labels(row, training, lambda part, _: fit_part(row, part, inner_folds))
        return labelled, float(np.median(labelled.strengths))
    check_labels(training.labels, len(training.labels), training.n_classes)
    inner = make_folds(training.labels, training.groups, inner_folds, training.seed)
    strength = choose_strength(row, training, inner)
    return row.fit(training, [strength])[0], strength


def cross_fit(
    name: str,
    features: Features,
    labels: Labels,
    groups: Groups,
    folds: IntArray,
    n_classes: int,
    *,
    seed: int,
    inner_folds: int = 3,
    class_weight: str | None = None,
    n_jobs: int = 1,
    listener: Listener | None = None,
) -> OutOfFold:
    """Run `fit_fold` for every fold of ``folds`` (items,); items of fold -1 train and are never scored."""
    listener = listener or SilentListener()
    probabilities = np.full((len(labels), n_classes), np.nan)
    strengths, seconds = {}, {}
    options: dict[str, Any] = {"seed": seed, "inner_folds": inner_folds, "class_weight": class_weight, "n_jobs": n_jobs}
    listener.begin(f"head {name}", len(list(_split(folds))))
    for fold, scored in _split(folds):
        result = fit_fold(name, features, labels, groups, folds, fold, n_classes, **options)
        probabilities[scored] = result.probabilities
        strengths[fold], seconds[fold] = result.strength, result.seconds
        listener.advance()
    listener.end(f"strengths {sorted(set(strengths.values()))}")
    return OutOfFold(probabilities, strengths, seconds)


def fit_final(
    name: str,
    features: Features,
    labels: Labels,
    groups: Groups,
    n_classes: int,
    *,
    folds: IntArray,
    seed: int,
    class_weight: str | None = None,
    n_jobs: int = 1,
) -> tuple[Head, float]:
    """Return the head fitted on all items, and its strength: that of the smallest mean log-loss on the given outer folds.

    Of several labels each has its own, and the strength is their median. Raises as `fit_fold`.
    """
    from threadpoolctl import threadpool_limits

    def fit(part: Training, known: BoolArray) -> tuple[Head, float]:
        strength = choose_strength(row, part, np.asarray(folds)[known])
        return row.fit(part, [strength])[0], strength

    row, n_jobs = find_row(name), share_threads(n_jobs, len(labels))
    training = _check(Training(features, labels, groups, n_classes, seed, class_weight, n_jobs), folds)
    with threadpool_limits(n_jobs):
        if training.labels.ndim == 2:
            labelled = fit_labels(row, training, fit)
            return labelled, float(np.median(labelled.strengths))
        return fit(training, np.ones(len(training.labels), bool))


def choose_strength(row: HeadRow, training: Training, folds: IntArray | None) -> float:
    """Return the strength with the smallest mean log-loss on ``folds`` of the training part, of equals the strongest.

    The only strength of a row needs no folds. Folds whose complement holds fewer than two classes are passed over;
    without any other, or with None, the middle strength is returned.
    """
    losses = []
    for _, scored in _split(folds) if folds is not None and len(row.strengths) > 1 else ():
        part = training.take(~scored)
        if len(np.unique(part.labels)) < 2:
            continue
        heads = row.fit(part, row.strengths)
        found = [head.predict_proba(training.features[scored]) for head in heads]
        losses.append(np.stack([score_items(one, training.labels[scored]) for one in found]))
    if not losses:
        return row.strengths[len(row.strengths) // 2]
    return row.strengths[int(np.concatenate(losses, axis=1).mean(axis=1).argmin())]


def make_folds(labels: Labels, groups: Groups, n_folds: int, seed: int) -> IntArray | None:
    """Return the fold of each item, (items,): stratified by label, groups kept whole, shuffled with ``seed``.

    At most as many folds as the rarest class has groups; None where a class would lie within one fold. Several labels an
    item are dealt by `splits.deal_groups`, in as many folds as there are groups for: a fold may lack a value of a label.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if labels.ndim == 2:
        n_folds = min(n_folds, len(np.unique(groups)))
        dealt = deal_groups(labels, groups, n_folds, seed) if n_folds > 1 else groups * 0
        return dealt if len(np.unique(dealt)) == n_folds > 1 else None
    n_folds = min([n_folds, *(len(np.unique(groups[labels == label])) for label in np.unique(labels))])
    if n_folds < 2:
        return None
    folds = np.empty(len(labels), np.int64)
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    for fold, (_, scored) in enumerate(splitter.split(np.zeros((len(labels), 1)), labels, groups)):
        folds[scored] = fold
    return folds if all(len(np.unique(folds[labels == label])) > 1 for label in np.unique(labels)) else None


def _wrap(name: str, training: Training, model: Any, votes: int, *, corrected: bool = False) -> ForeignHead:
    """Return the head of a fitted pipeline; ``corrected`` where its probabilities already fit the prior."""
    present, numbers = np.unique(training.labels, return_inverse=True)
    counts = np.bincount(numbers).astype(np.float64)
    weights = balance_classes(numbers) if training.class_weight and not corrected else np.ones(len(present))
    trained, prior = (tuple((part / part.sum()).tolist()) for part in (counts * weights, counts))
    return ForeignHead(name, training.n_classes, model, tuple(present.tolist()), trained, prior, votes)


def _split(folds: IntArray) -> Iterator[tuple[int, BoolArray]]:
    """Yield the number of each fold from 0 on, and which items (items,) it scores."""
    numbers = np.asarray(folds)
    return ((int(fold), numbers == fold) for fold in np.unique(numbers) if fold >= 0)


def _check(training: Training, folds: IntArray) -> Training:
    """Return ``training`` with plain arrays; raises DataError unless all have one entry an item and features are finite."""
    lengths = {name: len(getattr(training, name)) for name in ("features", "labels", "groups")} | {"folds": len(folds)}
    if len(set(lengths.values())) > 1:
        raise DataError(f"Features, labels, groups and folds need one entry an item each; found {lengths}.")
    check_features(training.features)
    check_labels(training.labels, lengths["features"], training.n_classes)
    check_class_weight(training.class_weight)
    features = np.asarray(training.features, np.float32)  # they may rest as float16
    labels, groups = np.asarray(training.labels, np.int64), np.asarray(training.groups)
    return dataclasses.replace(training, features=features, labels=labels, groups=groups)
