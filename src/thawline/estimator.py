"""ThawClassifier: frozen features and a chosen head as a scikit-learn estimator over images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from thawline.audit.pretraining import check_weights
from thawline.data.dataset import check_dataset, from_arrays, name_columns
from thawline.data.fingerprint import find_wide_range
from thawline.data.scan import scan
from thawline.data.splits import find_identical, make_folds, make_groups
from thawline.errors import DataError, UnreadableItemsError
from thawline.judge.comparisons import choose_within_one_se
from thawline.judge.evaluation import call_labels
from thawline.judge.metrics import item_log_loss
from thawline.learn.engine import detect_hardware
from thawline.learn.features import extract
from thawline.learn.heads import cross_fit, fit_final
from thawline.learn.weights import find_weights
from thawline.options import RunOptions, check_options, list_heads
from thawline.share.bundle import find_problem
from thawline.types import Aspect, Contract, SilentListener

if TYPE_CHECKING:
    from thawline.types import Content, Features, Groups, Labels, Probabilities


class ThawClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Classify images by frozen pretrained features and a head.

    ``X`` is a sequence of paths, or an array of shape (items, height, width[, 3]); ``y`` are class names or numbers, or of
    several labels an item 1, 0 and NaN (not known), shape (items, labels). Heads are compared by patient-grouped out-of-fold
    log-loss, as `thawline run` does, when ``head`` is None; the default fits the linear head alone. ``groups`` in `fit` name
    the patient of each image.
    """

    def __init__(
        self,
        backbone: str = "efficientnet_lite0",
        head: str | None = "linear",
        aspect: Aspect = "squash",
        folds: int = 5,
        class_weight: str = "none",
        random_state: int = 0,
        device: str = "auto",
    ) -> None:
        self.backbone = backbone
        self.head = head
        self.aspect = aspect
        self.folds = folds
        self.class_weight = class_weight
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any, groups: Sequence[Any] | None = None) -> ThawClassifier:  # noqa: N803
        """Extract features, choose the head and its strength by folds of patients, fit it on everything.

        Raises DataError, UnreadableItemsError and OptionError as `thawline run` does.
        """
        options = check_options(
            RunOptions(
                backbone=self.backbone,
                head=self.head,
                folds=self.folds,
                class_weight=self.class_weight,
                seed=self.random_state,
                device=self.device,
            )
        )
        if y is None:
            raise DataError("ThawClassifier requires y to be passed, but the target y is None; give one label an image")
        dataset = from_arrays(X, y, groups)
        check_dataset(dataset)
        if dataset.multilabel:
            self.classes_ = np.asarray(getattr(y, "columns", range(len(dataset.classes))))
            labels = dataset.labels()[:, [dataset.classes.index(name) for name in name_columns(y, "y")]]
        else:
            self.classes_, labels = np.unique(np.asarray(y), return_inverse=True)
        self.multilabel_ = dataset.multilabel
        self.hardware_ = detect_hardware(self.device)
        self.weights_ = find_weights(self.backbone)
        for remark in check_weights(dataset, self.weights_, options.modality):
            SilentListener().warn(remark["text"])
        looks = self._look(dataset.contents)
        copies = find_identical([look.facts.pixel_digest for look in looks])
        patients = make_groups([item.patient for item in dataset.items], copies)
        wide = find_wide_range([look.facts for look in looks])
        wide_range = (wide[0], wide[1]) if wide else None
        self.contract_ = self.weights_.architecture.contract(aspect=self.aspect, wide_range=wide_range)
        features = self._extract(dataset.contents, [look.digest for look in looks])
        self._fit_heads(features, labels.astype(np.int64), patients, options)
        return self

    def predict_proba(self, X: Any) -> Probabilities:  # noqa: N803
        """Return probabilities, float64, shape (images, classes), columns as ``classes_``. Raises UnreadableItemsError.

        Of several labels an item these are the columns of ``y``.
        """
        check_is_fitted(self)
        contents: list[Content] = [Path(each) if isinstance(each, str | Path) else np.asarray(each) for each in X]
        if not contents:
            return np.empty((0, len(self.classes_)))
        features = self._extract(contents, [look.digest for look in self._look(contents, self.contract_)])
        found: Probabilities = self.head_.predict_proba(features)
        return found

    def predict(self, X: Any) -> Any:  # noqa: N803
        """Return the most probable class of each image; of several labels 1 or 0 for each. Raises UnreadableItemsError."""
        probabilities = self.predict_proba(X)
        if self.multilabel_:
            return call_labels(probabilities)
        return self.classes_[probabilities.argmax(axis=1)]

    def _fit_heads(self, features: Features, labels: Labels, groups: Groups, options: RunOptions) -> None:
        folds, _ = make_folds(labels, groups, self.random_state, self.folds)
        names, n_classes = list_heads(options), len(self.classes_)
        settings: dict[str, Any] = {
            "seed": self.random_state,
            "class_weight": "balanced" if self.class_weight == "balanced" else None,
            "n_jobs": self.hardware_.cores,
        }
        losses = np.zeros((len(names), len(labels)))
        for row, name in enumerate(names if len(names) > 1 else ()):
            found = cross_fit(name, features, labels, groups, folds, n_classes, **settings)
            losses[row] = item_log_loss(labels, found.probabilities)
        self.head_name_ = names[choose_within_one_se(losses, groups).chosen]
        self.head_, self.strength_ = fit_final(
            self.head_name_, features, labels, groups, n_classes, folds=folds, **settings
        )

    def _look(self, contents: Sequence[Content], contract: Contract | None = None) -> list[Any]:
        looks = scan(contents, self.hardware_.cores, SilentListener())
        problems = [find_problem(look, contract) if contract else look.problem for look in looks]
        bad = [(str(number), problem) for number, problem in enumerate(problems) if problem]
        if bad:
            raise UnreadableItemsError(bad, len(looks))
        return looks

    def _extract(self, contents: Sequence[Content], digests: Sequence[str]) -> Features:
        return extract(contents, digests, self.weights_, self.contract_, self.hardware_, SilentListener()).features
