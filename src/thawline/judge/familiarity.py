"""How strange an item is to a model: the distance of its features from those of the development items.

"mahalanobis" is the default: it keeps means and directions, but no row of an item unless that is alone in its class. On
EfficientNet-Lite0 features of ultrasound images and radiographs it was on a par with "knn": better at noise and at a new
disease, worse at cut-outs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from thawline.errors import DataError, OptionError
from thawline.judge.conformal import find_quantile
from thawline.judge.metrics import CHUNK_BYTES, check_lengths, divide

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from thawline.types import Features, FloatArray, Groups, IntArray, Labels

FamiliarityKind = Literal["mahalanobis", "knn"]
LEAST_FOLDS, MOST_FOLDS, FOLD_BUDGET = 5, 50, 5000  # the last over the number of patients is that of folds
N_DIRECTIONS = 128  # with the rest as one variance no worse than all 1,280 of a network, in a tenth of the room
N_ROWS = 2000
NEIGHBOURS_SHARE = 0.001  # Sun et al. 2022: the 50th of 50,000
SMALLEST_VARIANCE = 1e-6  # of the mean one: keeps distances along directions without variance finite


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Familiarity:
    """What `score_familiarity` needs. An item whose score is above ``limit`` is unfamiliar; infinite: none ever is.

    "mahalanobis": ``rows`` are class means, (classes, features), and ``directions`` those of the greatest variance within
    classes, (features, directions), with their ``variances``, (directions,), and ``rest``, the mean one of all others.
    "knn": ``rows`` are development features of length one, float16, and the score is the distance of the
    ``n_neighbours``-th nearest.
    """

    kind: FamiliarityKind
    rows: NDArray[Any]
    directions: NDArray[np.float32]
    variances: FloatArray
    rest: float = 1.0
    n_neighbours: int = 1
    share: float = 0.95
    limit: float = math.inf
    n_patients: int = 0

    @property
    def note(self) -> str:
        """Say why nothing counts as unfamiliar; empty where something may."""
        if math.isfinite(self.limit):
            return ""
        needed = math.ceil(self.share / (1 - self.share) - 1e-9)
        return (
            f"A limit at {self.share:g} needs at least {needed} patients; with {self.n_patients} no item is unfamiliar."
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name, to be saved beside `to_json`."""
        return {name: getattr(self, name) for name in ("rows", "directions", "variances")}

    def to_json(self) -> dict[str, Any]:
        """Return the other fields as plain JSON data; an infinite limit is None."""
        names = ("kind", "share", "limit", "n_patients", "rest", "n_neighbours")
        return {name: getattr(self, name) for name in names} | ({} if math.isfinite(self.limit) else {"limit": None})

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], data: Mapping[str, Any]) -> Familiarity:
        """Rebuild from `arrays` and `to_json`; raises TypeError or KeyError on unknown or missing fields."""
        return cls(**{**data, **arrays, "limit": math.inf if data["limit"] is None else data["limit"]})


def fit_familiarity(
    features: Features,
    labels: Labels,
    groups: Groups,
    *,
    kind: FamiliarityKind = "mahalanobis",
    share: float = 0.95,
    seed: int = 0,
) -> Familiarity:
    """Return a score of strangeness, and its limit, which an item of a new patient stays below with a chance of ``share``.

    ``features``, float of shape (items, features), are those of the development items; ``labels`` and ``groups``
    (patients) have shape (items,), with labels all 0 where classes do not exclude each other. "mahalanobis" is the distance
    from the nearest class mean under one covariance (Lee et al., NeurIPS 2018), see `fit_mahalanobis`; "knn" that from the
    k-th nearest development item (Sun et al., ICML 2022), see `fit_neighbours`.

    The limit is the `find_quantile` of scores that the patients of each fold have from the others, so that none is scored by
    what it was fitted to. As the folds have less to learn from than the whole, somewhat less than 1 − ``share`` is flagged.
    Raises OptionError for another kind or a share outside (0, 1), and DataError where features are not finite, where those
    of "mahalanobis" do not vary, and below two patients.
    """
    if not 0 < share < 1:
        raise OptionError(f"The share must lie between 0 and 1; found {share}. Pass for example 0.95.")
    if kind not in ("mahalanobis", "knn"):
        raise OptionError(f"The kind must be 'mahalanobis' or 'knn'; found {kind!r}. Pass one of them.")
    rows, classes = check_features(features), np.unique(labels, return_inverse=True)[1]
    check_lengths(features=rows, labels=labels, groups=groups)
    names, patients = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise DataError(f"At least two patients are needed to judge how strange new ones are; found {len(names)}.")
    folds = _deal_patients(classes, patients, seed)
    scores = np.empty(len(rows))
    for fold in np.unique(folds):
        held = folds == fold
        scores[held] = score_familiarity(_fit(kind, rows[~held], classes[~held], patients[~held], seed), rows[held])
    limit = find_quantile(scores, patients, share)
    fitted = _fit(kind, rows, classes, patients, seed)
    return dataclasses.replace(fitted, share=share, limit=limit, n_patients=len(names))


def score_familiarity(fitted: Familiarity, features: Features) -> FloatArray:
    """Return how strange each item is, float64 of shape (items,): higher is stranger.

    Raises DataError unless features are finite and as many as those fitted.
    """
    rows = check_features(features)
    width = fitted.rows.shape[1]
    if rows.shape[1] != width:
        raise DataError(f"Features of shape (items, {width}) are needed; found {rows.shape}. Take the same network.")
    score = _score_mahalanobis if fitted.kind == "mahalanobis" else _score_neighbours
    n_rows = max(1, CHUNK_BYTES // (8 * 4 * max(width, len(fitted.rows))))
    return np.concatenate([np.empty(0), *(score(fitted, rows[k : k + n_rows]) for k in range(0, len(rows), n_rows))])


def check_features(features: ArrayLike) -> Features:
    """Return features as they are; raises DataError unless they have shape (items, features) and are finite."""
    rows = np.asarray(features)
    if rows.ndim != 2:
        raise DataError(f"Features of shape (items, features) are needed; found {rows.shape}.")
    wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(wrong):
        raise DataError(
            f"Features must be finite; row {wrong[0]} is not. Look at the image and the network it is from."
        )
    return rows


def fit_mahalanobis(features: Features, classes: IntArray) -> Familiarity:
    """Return class means, and the covariance within classes S shrunk to (1 − s) S + s m I, where m is its mean variance.

    The share s is that of `find_shrinkage`, so that fewer items than features are no trouble. Of the covariance the
    directions of greatest variance are kept, at most 128, and all others have their mean variance, as in probabilistic
    principal components (Tipping and Bishop, JRSS B 61:611, 1999). Without those others, where a strange item lies
    farthest, it goes unseen. ``classes`` count from 0. Raises DataError where no feature varies within a class.
    """
    present, place = np.unique(classes, return_inverse=True)
    rows = np.asarray(features, np.float64)
    means = np.stack([rows[place == k].mean(axis=0) for k in range(len(present))])
    residuals = rows - means[place]
    squares, directions = _find_directions(residuals)
    total, width = squares.sum(), rows.shape[1]
    if not total > 0:
        raise DataError(
            f"Features must vary within a class; found none that do in {len(rows)} items of {len(present)} classes. "
            "Fit on more items, or look at the network that the features are from."
        )
    shrinkage, kept = find_shrinkage(residuals, squares), squares[len(squares) - directions.shape[1] :]
    mean, least = total / width, SMALLEST_VARIANCE * total / width
    rest = (1 - shrinkage) * (total - kept.sum()) / max(width - len(kept), 1) + shrinkage * mean
    return Familiarity(
        kind="mahalanobis",
        rows=means.astype(np.float32),
        directions=directions.astype(np.float32),
        variances=np.maximum((1 - shrinkage) * kept + shrinkage * mean, least),
        rest=float(max(rest, least)),
    )


def find_shrinkage(residuals: FloatArray, squares: FloatArray) -> float:
    """Return the share of the identity in the covariance, 0 to 1, that has the least expected squared error.

    Ledoit and Wolf, Journal of Multivariate Analysis 88:365 (2004), section 3, with means known; ``residuals`` have shape
    (items, features) and ``squares`` are the eigenvalues of residualsᵀ residuals ÷ items, those of 0 left out or not.
    """
    n_items, width = residuals.shape
    found = (squares**2).sum()
    spread = found - squares.sum() ** 2 / width
    noise = (((residuals**2).sum(axis=1) ** 2).mean() - found) / n_items
    return float(np.clip(noise / spread, 0, 1)) if spread > 0 else 1.0


def _find_directions(residuals: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return all eigenvalues of residualsᵀ residuals ÷ items from low to high, and directions of the last, at most 128.

    With fewer items than features they are found from the products of items instead, and are as many as the items.
    """
    n_items, width = residuals.shape
    few = n_items < width
    products = residuals @ residuals.T if few else residuals.T @ residuals
    squares, vectors = np.linalg.eigh(products / n_items)
    squares = np.maximum(squares, 0)
    n_kept = min(N_DIRECTIONS, int((squares > 1e-10 * squares.sum()).sum()))
    vectors = vectors[:, len(squares) - n_kept :]
    if few:
        vectors = residuals.T @ vectors / np.sqrt(n_items * squares[len(squares) - n_kept :])
    return squares, vectors


def fit_neighbours(features: Features, patients: IntArray, seed: int) -> Familiarity:
    """Return at most 2,000 development items, scaled to length one, as evenly from the patients as their items allow.

    The neighbour is the n/1,000-th of n rows, as of Sun et al., so the first or second. Rows are in random order.
    """
    draw = np.random.Generator(np.random.PCG64(seed))
    order = draw.permutation(len(patients))
    by_patient = order[np.argsort(patients[order], kind="stable")]
    first = np.searchsorted(patients[by_patient], patients[by_patient])
    taken = by_patient[np.argsort(np.arange(len(order)) - first, kind="stable")][:N_ROWS]
    rows = _scale_rows(features[draw.permutation(taken)]).astype(np.float16)
    nothing = np.empty((rows.shape[1], 0), np.float32)
    return Familiarity("knn", rows, nothing, np.empty(0), n_neighbours=math.ceil(NEIGHBOURS_SHARE * len(rows)))


def _fit(kind: FamiliarityKind, features: Features, classes: IntArray, patients: IntArray, seed: int) -> Familiarity:
    return fit_mahalanobis(features, classes) if kind == "mahalanobis" else fit_neighbours(features, patients, seed)


def _deal_patients(classes: IntArray, patients: IntArray, seed: int) -> IntArray:
    """Return the fold of each item, (items,): patients in random order, those of a first class one after the other.

    There are more of them the fewer the patients are, as leaving some out then costs more of the score, and a fit less.
    """
    first = classes[np.unique(patients, return_index=True)[1]]
    shuffled = np.random.Generator(np.random.PCG64(seed)).permutation(len(first))
    n_folds, folds = int(np.clip(FOLD_BUDGET // len(first), LEAST_FOLDS, MOST_FOLDS)), np.empty(len(first), np.int64)
    folds[shuffled[np.argsort(first[shuffled], kind="stable")]] = np.arange(len(first)) % n_folds
    return folds[patients]


def _score_mahalanobis(fitted: Familiarity, features: Features) -> FloatArray:
    directions, nearest = fitted.directions.astype(np.float64), np.full(len(features), np.inf)
    for mean in fitted.rows.astype(np.float64):
        apart = features - mean
        along = apart @ directions
        squared = (along**2 / fitted.variances).sum(axis=1)
        if directions.shape[1] < len(directions):
            squared += ((apart - along @ directions.T) ** 2).sum(axis=1) / fitted.rest
        nearest = np.minimum(nearest, squared)
    return np.asarray(np.sqrt(nearest))


def _score_neighbours(fitted: Familiarity, features: Features) -> FloatArray:
    known, asked = _scale_rows(fitted.rows), _scale_rows(features)
    squared = (asked**2).sum(axis=1)[:, np.newaxis] + (known**2).sum(axis=1) - 2 * asked @ known.T
    nearest = np.partition(squared, fitted.n_neighbours - 1, axis=1)[:, fitted.n_neighbours - 1]
    return np.asarray(np.sqrt(np.maximum(nearest, 0)))


def _scale_rows(features: NDArray[Any]) -> FloatArray:
    """Return rows of length one; a row of zeros stays one."""
    rows = np.asarray(features, np.float64)
    return np.nan_to_num(divide(rows, np.linalg.norm(rows, axis=1, keepdims=True)))
