"""Training a classifier above a thaw line: one loop of short steps.

AdamW (Loshchilov and Hutter 2019) with linear warm-up and a cosine descent, learning rates that fall from the head down
(Howard and Ruder 2018), gradients clipped by their norm, weights averaged exponentially. Batch normalisation keeps the
running statistics of the pretrained network unless asked otherwise. On a GPU, and where the processor multiplies in bf16,
the same loop runs under autocast.
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
from thawline.learn.cuts import group_parameters
from thawline.learn.depthwise import make_mode
from thawline.learn.fusing import fused_norms
from thawline.learn.objective import Objective, make_objective
from thawline.types import Depth, Recipe

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from thawline.types import FloatArray, IntArray, Labels

SCORED_ITEMS = 64  # items predicted at a time
LARGEST_SHARE = 4.0  # of the rate that weights may have for being large
RGN_BATCHES = 4  # whose gradients weight the rates of an epoch


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

    classifier.to(recipe.device)
    n_steps = recipe.count_steps(len(items))
    optimiser, factor = make_optimiser(classifier, recipe, blocks), make_schedule(recipe, n_steps)
    objective = make_objective(
        labels,
        items,
        count_classes(classifier),
        balance=recipe.balance,
        label_smoothing=recipe.label_smoothing,
        focal=recipe.focal,
    )
    decay = 1 - 1 / (1 + recipe.average * n_steps)
    average: Any = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    averaged = AveragedModel(classifier, multi_avg_fn=average, use_buffers=recipe.train_norms)
    averaged.eval()
    epochs: list[Epoch] = []
    best: tuple[float, dict[str, Any]] | None = None
    best_number = 0
    draw = np.random.Generator(np.random.PCG64(recipe.seed))
    _prepare_modes(classifier, recipe)
    forward: Any = torch.compile(classifier) if recipe.compiled else classifier
    # a GPU waits for its kernels to be launched, and fusing is many small ones
    fused = fused_norms(classifier) if recipe.device == "cpu" else contextlib.nullcontext()
    with _seeded(recipe.seed), fused:
        for number in range(recipe.epochs if recipe.stop is None else recipe.stop):
            batches = _draw_batches(objective, activations, n_steps, draw)
            if recipe.auto_rgn:
                first = [(activations.take(chosen, views), chosen) for chosen, views in batches[:RGN_BATCHES]]
                weight_rates(classifier, optimiser, first, objective, recipe)
            losses = []
            for step, (chosen, views) in enumerate(batches):
                _set_rates(optimiser, factor(number * n_steps + step))
                batch = activations.take(chosen, views)
                losses.append(_step(forward, batch, chosen, objective, optimiser, recipe, draw))
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


def predict_logits(
    classifier: nn.Module, activations: Activations, items: IntArray, view: int = 0, depth: Depth | None = None
) -> FloatArray:
    """Return logits of one view, by default the clean one, float64 (items, classes), in float32 arithmetic.

    Items of several images take as much more memory, so that fewer go at a time.
    """
    import torch

    classifier.eval()
    device = next(classifier.parameters()).device
    n_items = max(1, SCORED_ITEMS // (depth.n_slices if depth else 1))
    parts = np.array_split(items, max(1, math.ceil(len(items) / n_items)))
    with torch.inference_mode():
        found = [
            classifier(lay_out(activations.take(part, np.full(len(part), view)).to(device))).double().cpu().numpy()
            for part in parts
        ]
    return np.concatenate(found)


def make_optimiser(classifier: nn.Module, recipe: Recipe, blocks: Sequence[str] = ()) -> torch.optim.Optimizer:
    """Group parameters: the head, then the ``blocks`` of the suffix from the top, each slower by ``recipe.decay``.

    Every parameter is a group of its own, with its full ``rate`` beside the present one. Weights of the suffix have a rate
    in proportion to their size, see `Recipe`: a step then changes all of them by the same share, as in LAMB (You et al.,
    ICLR 2020). What has one dimension (biases, normalisations) is not decayed; what needs no gradient is left out. With
    ``auto_rgn`` all are at one rate.
    """
    from torch.optim import AdamW

    suffix = group_parameters(classifier.get_submodule("suffix"), blocks)
    head = [each for name, each in classifier.named_parameters() if not name.startswith("suffix.")]
    shares = [(recipe.head_rate, each) for each in head]
    for depth, parameters in enumerate(suffix):
        shares += [(recipe.decay**depth * _relate_size(each, recipe), each) for each in parameters]
    groups = []
    for share, parameter in shares:
        rate = recipe.learning_rate * (1.0 if recipe.auto_rgn else share)
        decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
        if parameter.requires_grad:
            groups.append({"params": [parameter], "lr": rate, "rate": rate, "weight_decay": decay})
    return AdamW(groups, fused=True)


def _relate_size(parameter: nn.Parameter, recipe: Recipe) -> float:
    """Return the root mean square of weights over that which has the recipe's rate, within limits; 1 for vectors, zeros."""
    if parameter.ndim < 2 or not recipe.rated_size:
        return 1.0
    size = float(parameter.detach().square().mean().sqrt())
    return min(size / recipe.rated_size, LARGEST_SHARE) if size else 1.0


def make_schedule(recipe: Recipe, n_steps: int) -> Callable[[int], float]:
    """Return the factor of the learning rate at each step: linear warm-up, then half a cosine down to zero."""
    total = recipe.epochs * n_steps
    warmup = max(1, round(recipe.warmup * total))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))

    return factor


def weight_rates(
    classifier: nn.Module,
    optimiser: torch.optim.Optimizer,
    batches: Sequence[tuple[Tensor, IntArray]],
    objective: Objective,
    recipe: Recipe,
) -> None:
    """Auto-RGN (Lee et al., Surgical fine-tuning, ICLR 2023): weight the rate of each parameter by its relative gradient.

    With g the gradient over the ``batches`` (activations and item positions) and w the parameter, the weight is |g| / |w|
    over the largest of these. A parameter that is all zero has no such number; it keeps the full rate.
    """
    optimiser.zero_grad(set_to_none=True)
    n_items = sum(len(chosen) for _, chosen in batches)
    for activations, chosen in batches:
        with _autocast(recipe):
            logits = classifier(lay_out(activations.to(recipe.device)))
        (objective(logits, chosen) * (len(chosen) / n_items)).backward()  # type: ignore[no-untyped-call]
    sizes = [float(group["params"][0].detach().norm()) for group in optimiser.param_groups]
    slopes = [float(group["params"][0].grad.norm()) for group in optimiser.param_groups]
    ratios = [slope / size if size else math.inf for slope, size in zip(slopes, sizes, strict=True)]
    largest = max((ratio for ratio in ratios if math.isfinite(ratio)), default=0.0)
    for group, ratio in zip(optimiser.param_groups, ratios, strict=True):
        group["rate"] = recipe.learning_rate * (ratio / largest if math.isfinite(ratio) and largest else 1.0)
    optimiser.zero_grad(set_to_none=True)


def compare_bf16(
    classifier: nn.Module, activations: Activations, labels: Labels, items: IntArray, recipe: Recipe
) -> float:
    """Return the cosine of the gradients of one batch in bf16 and in float32 arithmetic; 1 where they agree."""
    import torch

    chosen = items[: recipe.batch_items]
    about = {"balance": recipe.balance, "label_smoothing": recipe.label_smoothing, "focal": recipe.focal}
    objective = make_objective(labels, items, count_classes(classifier), **about)  # type: ignore[arg-type]
    batch = lay_out(activations.take(chosen, np.zeros(len(chosen), np.int64)).to(recipe.device))
    classifier.to(recipe.device).eval()
    slopes = []
    for reduced in (False, True):
        classifier.zero_grad(set_to_none=True)
        with _autocast(dataclasses.replace(recipe, bf16=reduced)):
            logits = classifier(batch)
        objective(logits, chosen).backward()  # type: ignore[no-untyped-call]
        found = [each.grad.flatten().float() for each in classifier.parameters() if each.grad is not None]
        slopes.append(torch.cat(found))
    classifier.zero_grad(set_to_none=True)
    exact, reduced_slopes = slopes
    return float(torch.nn.functional.cosine_similarity(exact, reduced_slopes, dim=0))


def count_classes(classifier: nn.Module) -> int:
    """Columns of the logits."""
    return len(classifier.get_parameter("linear.bias"))


def _set_rates(optimiser: torch.optim.Optimizer, factor: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = group["rate"] * factor


def _draw_batches(
    objective: Objective, activations: Activations, n_steps: int, draw: np.random.Generator
) -> list[tuple[IntArray, IntArray]]:
    """Draw the items of an epoch in batches, and an augmented view for each: the clean one where there are no others."""
    batches = []
    for chosen in np.array_split(objective.draw_items(draw), n_steps):
        none = np.zeros(len(chosen), np.int64)
        views = draw.integers(1, activations.n_views + 1, size=len(chosen)) if activations.n_views else none
        batches.append((chosen, views))
    return batches


def _step(
    classifier: nn.Module,
    activations: Tensor,
    chosen: IntArray,
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    recipe: Recipe,
    draw: np.random.Generator,
) -> float:
    """Take one step on one batch and return its loss, nan where the gradient has spoilt the weights."""
    from torch.nn.utils import clip_grad_norm_

    activations = lay_out(activations.to(recipe.device, non_blocking=True))
    share, order = 1.0, np.arange(len(chosen))
    if recipe.mixup:  # between activations: manifold mixup (Verma et al. 2019)
        share, order = float(draw.beta(recipe.mixup, recipe.mixup)), draw.permutation(len(chosen))
        activations = share * activations + (1 - share) * activations[order]
    with _autocast(recipe):
        logits = classifier(activations)
    loss = share * objective(logits, chosen)
    if share < 1:
        loss = loss + (1 - share) * objective(logits, chosen[order])
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = clip_grad_norm_(classifier.parameters(), recipe.clip_norm)
    optimiser.step()
    return float(loss.detach()) if math.isfinite(norm) else math.nan


def lay_out(activations: Tensor) -> Tensor:
    """Return images of channels in the layout that convolutions are fastest in; anything else as it is."""
    import torch

    return activations.contiguous(memory_format=torch.channels_last) if activations.ndim == 4 else activations


@contextlib.contextmanager
def _autocast(recipe: Recipe) -> Iterator[None]:
    """Run what follows in bf16 where the recipe says so."""
    import torch

    device = recipe.device.partition(":")[0]
    quick = make_mode() if recipe.bf16 and device == "cpu" and not recipe.compiled else contextlib.nullcontext()
    with torch.autocast(device, torch.bfloat16, enabled=recipe.bf16), quick:
        yield


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
                "a finite number was expected; check the value range of the images, or lower learning_rate in a plan file"
            )
    return Epoch(training, validation)


def _prepare_modes(classifier: nn.Module, recipe: Recipe) -> None:
    """Training mode, but for what is frozen, and batch normalisation whose running statistics are to stay."""
    from torch.nn.modules.batchnorm import _BatchNorm

    classifier.train()
    for part in classifier.modules():
        frozen = not any(parameter.requires_grad for parameter in part.parameters())
        if isinstance(part, _BatchNorm) and (frozen or not recipe.train_norms):
            part.eval()


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's own generator, which dropout draws from, for the block."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
