"""Training a classifier above a thaw line: one loop of short steps.

AdamW (Loshchilov and Hutter 2019) with linear warm-up and a cosine descent, learning rates that fall from the head down
(Howard and Ruder 2018), gradients clipped by their norm, weights averaged exponentially. Batch normalisation keeps the
running statistics of the pretrained network unless asked otherwise.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.errors import TrainingError
from thawline.learn.activations import Activations

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from thawline.types import FloatArray, IntArray, Labels

SCORED_ITEMS = 64  # items predicted at a time


@dataclasses.dataclass(frozen=True, slots=True)
class Recipe:
    """How a classifier is trained; one value each.

    ``learning_rate`` is that of the head and of the highest block; each block below has ``decay`` times that of the one
    above it. ``epochs`` is the length of the schedule, ``stop`` how many of them are run,
    ``patience`` how many without improvement end a validated one. Weights are averaged over the
    last ``average`` epochs or so.
    """

    learning_rate: float = 1e-3
    epochs: int = 12
    stop: int | None = None
    patience: int = 3
    batch_items: int = 32
    decay: float = 0.7
    weight_decay: float = 0.02
    warmup: float = 0.15
    clip_norm: float = 1.0
    average: float = 1.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    train_norms: bool = False
    seed: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch came to: mean training loss, and the validation loss of the averaged weights where there is one."""

    training_loss: float
    validation_loss: float | None


def train(
    classifier: nn.Module,
    activations: Activations,
    labels: Labels,
    items: IntArray,
    recipe: Recipe,
    rung: str,
    *,
    blocks: Sequence[str] = (),
    validate: Callable[[nn.Module], float] | None = None,
) -> tuple[nn.Module, list[Epoch]]:
    """Train ``classifier`` on ``items`` (positions into ``labels`` and activations); return averaged weights and epochs.

    ``blocks`` are those of the suffix, from the top down. With ``validate`` the weights of the epoch with the smallest
    validation loss are returned, and training ends ``recipe.patience`` epochs after it. The same seed gives the same result
    on the same machine. ``classifier`` itself is left with the weights of the last step. Raises TrainingError, naming
    the ``rung``, when a loss or a gradient is not finite.
    """
    import torch
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    n_steps = math.ceil(len(items) / recipe.batch_items)
    optimiser = make_optimiser(classifier, recipe, blocks)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, make_schedule(recipe, n_steps))
    decay = 1 - 1 / (1 + recipe.average * n_steps)
    average: Any = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    averaged = AveragedModel(classifier, multi_avg_fn=average, use_buffers=recipe.train_norms)
    averaged.eval()
    targets = torch.from_numpy(labels)
    epochs: list[Epoch] = []
    best: tuple[float, dict[str, Any]] | None = None
    best_number = 0
    draw = np.random.Generator(np.random.PCG64(recipe.seed))
    with _seeded(recipe.seed):
        for number in range(recipe.epochs if recipe.stop is None else recipe.stop):
            _prepare_modes(classifier, recipe)
            losses = []
            for chosen in np.array_split(draw.permutation(items), n_steps):
                views = _choose_views(len(chosen), activations.n_views, draw)
                losses.append(
                    _step(classifier, activations.take(chosen, views), targets[chosen], optimiser, recipe, draw)
                )
                schedule.step()
                averaged.update_parameters(classifier)
            epochs.append(_close_epoch(losses, averaged.module, validate, rung, number, recipe))
            loss = epochs[-1].validation_loss
            if loss is not None and (best is None or loss < best[0]):
                best, best_number = (loss, copy.deepcopy(averaged.module.state_dict())), number
            elif loss is not None and number - best_number >= recipe.patience:
                break
    found: nn.Module = averaged.module
    if best is not None:
        found.load_state_dict(best[1])
    return found.eval(), epochs


def predict_logits(classifier: nn.Module, activations: Activations, items: IntArray) -> FloatArray:
    """Return logits of the clean view, float64 (items, classes)."""
    import torch

    classifier.eval()
    parts = np.array_split(items, math.ceil(len(items) / SCORED_ITEMS))
    with torch.inference_mode():
        found = [classifier(activations.take(part, np.zeros(len(part), np.int64))).double().numpy() for part in parts]
    return np.concatenate(found)


def make_optimiser(classifier: nn.Module, recipe: Recipe, blocks: Sequence[str] = ()) -> torch.optim.Optimizer:
    """Group parameters: the head, then the ``blocks`` of the suffix from the top, each slower by ``recipe.decay``.

    What has one dimension (biases, normalisations) is not decayed.
    """
    from torch.optim import AdamW

    parts = [
        list(classifier.get_submodule("linear").parameters()),
        *group_parameters(classifier.get_submodule("suffix"), blocks),
    ]
    groups = []
    for depth, parameters in enumerate(parts):
        rate = recipe.learning_rate * recipe.decay ** max(depth - 1, 0)
        for decayed in (True, False):
            chosen = [parameter for parameter in parameters if (parameter.ndim > 1) is decayed]
            if chosen:
                groups.append({"params": chosen, "lr": rate, "weight_decay": recipe.weight_decay if decayed else 0.0})
    return AdamW(groups, fused=True)


def group_parameters(suffix: nn.Module, blocks: Sequence[str]) -> list[list[nn.Parameter]]:
    """Return the parameters of each block, named from the top down; what lies between two belongs to the lower one."""
    groups: list[list[nn.Parameter]] = [[] for _ in blocks] or [[]]
    place = len(groups) - 1
    for name, parameter in suffix.named_parameters():
        place = next((index for index, block in enumerate(blocks) if name.startswith(f"{block}.")), place)
        groups[place].append(parameter)
    return groups


def make_schedule(recipe: Recipe, n_steps: int) -> Callable[[int], float]:
    """Return the factor of the learning rate at each step: linear warm-up, then half a cosine down to zero."""
    total = recipe.epochs * n_steps
    warmup = max(1, round(recipe.warmup * total))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))

    return factor


def _step(
    classifier: nn.Module,
    activations: Tensor,
    targets: Tensor,
    optimiser: torch.optim.Optimizer,
    recipe: Recipe,
    draw: np.random.Generator,
) -> float:
    """Take one step on one batch and return its loss, nan where the gradient has spoilt the weights."""
    from torch.nn.functional import cross_entropy
    from torch.nn.utils import clip_grad_norm_

    activations = lay_out(activations)
    share, order = 1.0, np.arange(len(targets))
    if recipe.mixup:  # between activations: manifold mixup (Verma et al. 2019)
        share, order = float(draw.beta(recipe.mixup, recipe.mixup)), draw.permutation(len(targets))
        activations = share * activations + (1 - share) * activations[order]
    logits = classifier(activations)
    loss = share * cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)
    if share < 1:
        loss = loss + (1 - share) * cross_entropy(logits, targets[order], label_smoothing=recipe.label_smoothing)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = clip_grad_norm_(classifier.parameters(), recipe.clip_norm)
    optimiser.step()
    return float(loss.detach()) if math.isfinite(norm) else math.nan


def lay_out(activations: Tensor) -> Tensor:
    """Return images of channels in the layout that convolutions are fastest in; anything else as it is."""
    import torch

    return activations.contiguous(memory_format=torch.channels_last) if activations.ndim == 4 else activations


def _close_epoch(
    losses: list[float],
    averaged: nn.Module,
    validate: Callable[[nn.Module], float] | None,
    rung: str,
    number: int,
    recipe: Recipe,
) -> Epoch:
    """Check the losses of an epoch, that of its averaged weights among them."""
    training = sum(losses) / len(losses)
    validation = validate(averaged) if validate and math.isfinite(training) else None
    for name, loss in (("training", training), ("validation", validation)):
        if loss is not None and not math.isfinite(loss):
            raise TrainingError(
                f"{rung}: the {name} loss is {loss} in epoch {number + 1} at learning rate {recipe.learning_rate:g}, where "
                "a finite number was expected; check the value range of the images, or leave this rung out with --thaw-line"
            )
    return Epoch(training, validation)


def _choose_views(n_items: int, n_views: int, draw: np.random.Generator) -> IntArray:
    """Draw an augmented view for each item, the clean one where there are no others."""
    return draw.integers(1, n_views + 1, size=n_items) if n_views else np.zeros(n_items, np.int64)


def _prepare_modes(classifier: nn.Module, recipe: Recipe) -> None:
    """Training mode, but for batch normalisation whose running statistics are to stay."""
    from torch.nn.modules.batchnorm import _BatchNorm

    classifier.train()
    kept = classifier if not recipe.train_norms else classifier.get_submodule("standardise")
    for part in kept.modules():
        if isinstance(part, _BatchNorm):
            part.eval()


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's own generator, which dropout draws from, for the block."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
