"""How each strategy of the ladder fits one fold, and what it needs: features, activations at a line, textures.

Whatever is needed is opened when the first fold asks for it, so that a resumed run opens nothing for what it has.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from thawline.judge.calibration import blend
from thawline.learn.activations import Activations, CachedActivations, fill_activations, open_fresh
from thawline.learn.augment import View, list_views
from thawline.learn.bags import LINE
from thawline.learn.development import Development
from thawline.learn.ensemble import take_weights
from thawline.learn.features import extract
from thawline.learn.handcrafted import extract_handcrafted
from thawline.learn.heads import FoldResult, Head, fit_final, fit_fold
from thawline.learn.ladder import Forecast, Rung, TriedRung, count_trials
from thawline.learn.linear import LinearHead
from thawline.learn.loading import find_stages_of, fit_weights, load_blocks, load_random
from thawline.learn.stages import Stages
from thawline.learn.thawing import INNER_FOLDS, Thaw, ThawedFold, thaw_fold, zero_head
from thawline.learn.training import RGN_BATCHES, compare_bf16, train
from thawline.learn.weight_files import Weights
from thawline.types import Augmentation, Contract, Hardware, Line, Listener, Recipe

if TYPE_CHECKING:
    from torch import Tensor, nn

    from thawline.judge.calibration import Scales
    from thawline.types import Content, Features, IntArray, Probabilities

RELATIVE_COSTS = {"linear": 1.0, "svm": 4.0, "random_forest": 6.0, "k_nn": 0.5, "gradient_boosting": 10.0}  # of heads
PREFIX_SECONDS = 0.012  # an item, where this run has computed no features
TIMED_STEPS = 2
FORWARD_SHARE = 0.4  # of a step that a prediction takes
TEXTURE_SECONDS = 0.022
FULL_DECAY = 0.8  # of the rate from block to block where everything is trained: Clark et al., ELECTRA, ICLR 2020
LEAST_COSINE = 0.99  # of gradients in bf16 with those in float32
FRESH_TTA_VIEWS = 4  # where none are cached
FROZEN_HEAD = "frozen."  # in front of the names of its arrays


class Source(NamedTuple):
    """Where the development items and the backbone come from."""

    contents: Sequence[Content]
    digests: Sequence[str]
    weights: Weights
    contract: Contract
    hardware: Hardware


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the plan says of fitting: weights of classes for the heads; for thawing the recipe, the lines by name, those
    of them whose activations are cached for ``n_views`` augmented views, and the options of `Thaw`."""

    class_weight: str | None
    recipe: Recipe
    lines: Mapping[str, Line]
    cached: tuple[str, ...]
    n_views: int
    augmentation: Augmentation
    upper: str | None = None
    head_layers: int = 1
    seed: int = 0


class Strategies:
    """Fits the rungs of one run; see `ladder.Fitter`. ``prefix_s`` is what the backbone takes for one item."""

    def __init__(
        self,
        source: Source,
        features: Features,
        development: Development,
        settings: Settings,
        listener: Listener,
        prefix_s: float | None = None,
    ) -> None:
        self.source, self.features, self.development = source, features, development
        self.settings, self.listener = settings, listener
        self.prefix_s = prefix_s or PREFIX_SECONDS * max(1, source.contract.reading.n_slices)
        self._cached: Mapping[str, CachedActivations] = {}
        self._fresh: dict[str, Activations] = {}
        self._bf16: dict[tuple[str, bool], bool] = {}

    def forecast(self, rung: Rung, tried: Sequence[TriedRung]) -> Forecast | None:
        """See `ladder.Fitter.forecast`: heads by what they cost beside the linear one, lines by a few timed steps."""
        linear = next((each.seconds / len(each.folds) for each in tried if each.rung.name == "linear"), None)
        if rung.strategy == "handcrafted":
            return Forecast(TEXTURE_SECONDS * len(self.source.digests) / self.source.hardware.cores, linear or 0.2)
        if rung.line is None:
            return None if linear is None else Forecast(0.0, linear * RELATIVE_COSTS[rung.head])
        return self._forecast_thaw(rung, count_trials(tried))

    def prepare(self, rung: Rung) -> None:
        """See `ladder.Fitter.prepare`: the activations that the cache is to hold, or the texture features."""
        if rung.strategy == "handcrafted":
            _ = self.texture
        elif rung.line is not None:
            self._open(rung.line)

    def fit(self, rung: Rung, fold: int) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """See `ladder.Fitter.fit`."""
        if rung.line is None:
            features = self.texture if rung.strategy == "handcrafted" else self.features
            result = self._fit_fold(rung.head, features, fold)
            return {"probabilities": result.probabilities, "strength": float(result.strength)}, None
        thaw = self.thaw(rung)
        found = thaw_fold(thaw, fold, rung.name)
        return {**record_fold(found), "precision": "bf16" if thaw.recipe.bf16 else "f32"}, collect_weights(found)

    def train_again(self, rung: Rung, fold: int) -> dict[str, Any]:
        """Return the weights of a fold above a line, as they were."""
        return collect_weights(thaw_fold(self.thaw(rung), fold, rung.name))

    def score_views(self, rung: Rung, fold: int, weights: Mapping[str, Any], scales: Scales = ()) -> Probabilities:
        """Return the mean probabilities over all views of the items of ``fold``, of the network that is not to see them.

        The frozen head that is blended in sees the clean one only, see `EnsembleHead.hold_frozen`. For a head of the frozen
        backbone, which is fitted again for it, ``weights`` and ``scales`` do not matter.
        """
        scored = np.flatnonzero(self.development.folds == fold)
        if rung.line is None:
            head = self._fit_fold(rung.head, self.features, fold).head
            return np.asarray(np.mean([head.predict_proba(view[scored]) for view in self.views_of_features], axis=0))
        import torch

        thaw = self.thaw(rung)
        network, frozen = split_weights(weights)
        classifier = thaw.start(zero_head(thaw.stages, thaw.line, thaw.activations, self.development.n_classes))
        classifier.load_state_dict({name: torch.from_numpy(array) for name, array in network.items()})
        clean = [] if frozen is None else [frozen.predict_logits(self.features[scored])]
        logits = [thaw.predict(classifier, scored, view.number) for view in self.views]
        return np.asarray(np.mean([blend(scales, each, *clean) for each in logits], axis=0))

    def fit_final(self, rung: Rung) -> tuple[Head, float]:
        """Return the head of a rung without a line fitted on all items, and its strength."""
        development, settings = self.development, self.settings
        return fit_final(
            rung.head,
            self.texture if rung.strategy == "handcrafted" else self.features,
            development.labels,
            development.groups,
            development.n_classes,
            folds=development.folds,
            seed=settings.seed,
            class_weight=settings.class_weight,
            n_jobs=self.source.hardware.cores,
        )

    @functools.cached_property
    def views_of_features(self) -> list[Features]:
        """Features of the frozen backbone of all items, a table for each view."""
        about = (*self.source, self.listener)
        return [extract(*about, f"features, view {view.number}", view).features for view in self.views]

    @property
    def views(self) -> tuple[View, ...]:
        """The clean view and the augmented ones that predictions may be averaged over."""
        settings = self.settings
        return list_views(settings.n_views or FRESH_TTA_VIEWS, settings.seed, settings.augmentation)

    def thaw(self, rung: Rung) -> Thaw:
        """Return what the folds of a rung above a thaw line share."""
        line = str(rung.line)
        settings, development = self.settings, self.development
        activations, recipe, layers = self._open(line), settings.recipe, settings.head_layers
        if rung.strategy == "fine_tuning_from_scratch":
            recipe = dataclasses.replace(recipe, decay=min(recipe.decay, FULL_DECAY))
        if rung.strategy == "random_init":  # all of it is trained, whatever block the options name as the highest
            recipe = dataclasses.replace(recipe, train_norms=True, decay=1.0, auto_rgn=False)
            thaw = Thaw(self.random_stages, line, activations, None, development, recipe, None, layers)
        else:
            about = (recipe, settings.upper, layers, settings.class_weight)
            thaw = Thaw(self.stages, line, activations, self.features, development, *about)
        return dataclasses.replace(thaw, recipe=dataclasses.replace(recipe, bf16=self._trains_in_bf16(thaw)))

    def _trains_in_bf16(self, thaw: Thaw) -> bool:
        """Tell whether the hardware has bf16, and gradients in it agree with those in float32 at this line."""
        key = thaw.line, thaw.features is None
        if self.source.hardware.bf16 and key not in self._bf16:
            labels, items = self.development.labels, np.arange(len(self.development.labels))
            head = zero_head(thaw.stages, thaw.line, thaw.activations, self.development.n_classes)
            noise = np.random.default_rng(self.settings.seed).normal(size=head.coefficients.shape)
            start = thaw.start(dataclasses.replace(head, coefficients=noise / np.sqrt(noise.shape[1])))
            cosine = compare_bf16(start, thaw.activations, labels, items, thaw.recipe)
            self._bf16[key] = cosine >= LEAST_COSINE
        return self._bf16.get(key, False)

    @functools.cached_property
    def stages(self) -> Stages:
        """The stages of the pretrained backbone."""
        return self._find_stages(load_blocks(self._weights))

    @functools.cached_property
    def random_stages(self) -> Stages:
        """The stages of the same network at its random start."""
        return self._find_stages(load_random(self._weights, self.settings.seed))

    @property
    def _weights(self) -> Weights:
        contract = self.source.contract
        return fit_weights(self.source.weights, contract.size_px, contract.reading)

    def _find_stages(self, network: nn.Module) -> Stages:
        """Return stages that have the lines and the highest block that is trained."""
        upper = self.settings.upper
        return find_stages_of(self._weights, network, (*self.settings.lines, *([] if upper is None else [upper])))

    @functools.cached_property
    def texture(self) -> Features:
        """Handcrafted features of all items."""
        source = self.source
        return extract_handcrafted(source.contents, source.contract, source.hardware.cores, self.listener)

    def _fit_fold(self, head: str, features: Features, fold: int) -> FoldResult:
        development = self.development
        return fit_fold(
            head,
            features,
            development.labels,
            development.groups,
            development.folds,
            fold,
            development.n_classes,
            seed=self.settings.seed,
            class_weight=self.settings.class_weight,
            n_jobs=self.source.hardware.cores,
        )

    def _open(self, line: str) -> Activations:
        """Return the activations at a line, from the cache where the plan has room for them."""
        source, settings = self.source, self.settings
        if line not in settings.cached:
            if line not in self._fresh:  # one engine at a time
                self._fresh = {line: open_fresh(*source, settings.lines[line], settings.augmentation, settings.seed)}
            return self._fresh[line]
        if not self._cached:
            chosen = [settings.lines[name] for name in settings.cached]
            self._cached = fill_activations(
                *source,
                chosen,
                settings.augmentation,
                settings.n_views,
                settings.seed,
                self.listener,
            )
        return self._cached[line]

    def _forecast_thaw(self, rung: Rung, n_trials: float) -> Forecast:
        """Seconds, if each fold trains so many times for the whole schedule."""
        line, recipe = self.settings.lines[str(rung.line)], self.settings.recipe
        recipe = dataclasses.replace(recipe, bf16=self.source.hardware.bf16)  # most likely, see _trains_in_bf16
        n_items, folds = len(self.development.labels), self.development.list_folds()
        n_training = np.mean([np.count_nonzero(self.development.folds != fold) for fold in folds])
        n_taken = n_trials * float(n_training) * recipe.epochs  # learned or, without a step, predicted
        learned, predicted = n_taken * (1 - 1 / INNER_FOLDS), n_taken / INNER_FOLDS
        if recipe.auto_rgn:  # some batches of each epoch are taken once more
            n_weighted = min(learned, n_trials * recipe.epochs * RGN_BATCHES * recipe.batch_items)
            learned, n_taken = learned + n_weighted, n_taken + n_weighted
        upper = None if rung.strategy == "random_init" else self.settings.upper
        step_s = time_step(self.stages, line, self.development.n_classes, recipe, upper)
        fold_s = (learned + FORWARD_SHARE * predicted) * step_s
        if line.name not in self.settings.cached:
            return Forecast(0.0, fold_s + n_taken * self.prefix_s)
        n_passes = self.settings.n_views + (self.settings.cached != (LINE,))  # features are there already
        return Forecast(0.0 if self._cached else n_items * n_passes * self.prefix_s, fold_s)


def time_step(stages: Stages, line: Line, n_classes: int, recipe: Recipe, upper: str | None = None) -> float:
    """Time a few training steps above a line on made-up activations: seconds an item."""
    import torch

    class Zeros:
        n_views = 0

        def take(self, items: IntArray, _views: IntArray) -> Tensor:
            return torch.zeros(len(items), *line.shape)

    head = zero_head(stages, line.name, Zeros(), n_classes)
    thaw = Thaw(stages, line.name, Zeros(), None, _no_development(n_classes), recipe, upper)
    items = np.arange(recipe.batch_items)
    labels = items % n_classes

    def step(n_steps: int) -> float:
        began = time.perf_counter()
        start = thaw.start(head)
        quick = dataclasses.replace(recipe, epochs=n_steps, stop=n_steps, auto_rgn=False)
        train(start, Zeros(), labels, items, quick, "timing", blocks=thaw.blocks)
        return time.perf_counter() - began

    step(1)
    first, more = (min(step(n_steps) for _ in range(2)) for n_steps in (1, 1 + TIMED_STEPS))  # others only slow it down
    return max(more - first, 1e-6) / TIMED_STEPS / len(items)


def record_fold(found: ThawedFold) -> dict[str, Any]:
    """Return what the journal keeps of a trained fold, but for its weights."""
    return {
        "probabilities": found.probabilities,
        "logits": found.logits,
        "learning_rate": found.learning_rate,
        "n_epochs": found.n_epochs,
        "scales": list(found.scales),
        "trials": [dataclasses.asdict(trial) for trial in found.trials],
    }


def collect_weights(found: ThawedFold) -> dict[str, Any]:
    """Return all tensors of a fold as arrays by name: of its network, and of its frozen head."""
    head = {} if found.head is None else found.head.to_tensors()
    return {**take_weights(found.classifier), **{f"{FROZEN_HEAD}{name}": array for name, array in head.items()}}


def split_weights(weights: Mapping[str, Any]) -> tuple[dict[str, Any], LinearHead | None]:
    """Reverse `collect_weights`: the arrays of the network, and the frozen head where there is one."""
    network = {name: array for name, array in weights.items() if not name.startswith(FROZEN_HEAD)}
    head = {name.removeprefix(FROZEN_HEAD): array for name, array in weights.items() if name not in network}
    return network, LinearHead.from_tensors(head) if head else None


def _no_development(n_classes: int) -> Development:
    nothing = np.zeros(0, np.int64)
    return Development(nothing, nothing, nothing, n_classes)
