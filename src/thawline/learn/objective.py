"""What training minimises: cross-entropy, and what changes it for classes that are rare or items that are easy.

Weights and balanced sampling bend the probabilities towards the rare classes. So that the logits stay those of the natural
shares from the first step to the last, the loss is taken of logits to which the log of each class's weight is added: at
its minimum, what is left over without it is the prior as it was (Menon et al., Long-tail learning via logit adjustment,
ICLR 2021; the log-prior correction of the heads, the other way round). Of several labels an item each is a task of two
classes, and what is not known of an item has no part in it.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from thawline.errors import OptionError
from thawline.types import MISSING

if TYPE_CHECKING:
    from torch import Tensor

    from thawline.types import FloatArray, IntArray, Labels


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss of logits for items at given positions.

    ``class_weights`` (classes,) average to 1 over the training items; ``weigh`` says that they weight the loss, else items
    are drawn by them. ``focal`` is the exponent of the focal loss (Lin et al., ICCV 2017), 0 for plain cross-entropy. With
    ``targets`` of several labels, (items, labels), weights are those without and with each, (2, labels).
    """

    targets: Tensor
    items: IntArray
    class_weights: FloatArray | None
    weigh: bool
    label_smoothing: float
    focal: float

    def draw_items(self, draw: np.random.Generator) -> IntArray:
        """Return the items of one epoch in a random order: each once, or as many drawn so that classes come alike often."""
        if self.class_weights is None or self.weigh:
            return draw.permutation(self.items)
        chances = self.class_weights[self.targets.numpy()[self.items]]
        return draw.choice(self.items, len(self.items), p=chances / chances.sum())

    def __call__(self, logits: Tensor, chosen: IntArray) -> Tensor:
        """Return the mean loss of logits (items, classes) for the items at positions ``chosen``."""
        import torch
        from torch.nn.functional import cross_entropy

        targets = self.targets[chosen].to(logits.device)
        logits = logits.float()
        if targets.ndim == 2:
            return self._average_labels(logits, targets)
        weights = None
        if self.class_weights is not None:
            weights = torch.from_numpy(self.class_weights).to(logits)
            logits = logits + weights.log()
        losses = cross_entropy(logits, targets, reduction="none", label_smoothing=self.label_smoothing)
        if self.focal:
            shares = logits.softmax(1).gather(1, targets[:, None])[:, 0]
            losses = losses * (1 - shares) ** self.focal
        if weights is not None and self.weigh:
            losses = losses * weights[targets]
        return losses.mean()

    def _average_labels(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over items of the mean loss over their known labels; both arguments are (items, labels)."""
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits

        known, wanted = targets != MISSING, (targets == 1).float()
        weights = None
        if self.class_weights is not None:
            weights = torch.from_numpy(self.class_weights).to(logits)
            logits = logits + (weights[1] / weights[0]).log()
        smoothed = wanted * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses = binary_cross_entropy_with_logits(logits, smoothed, reduction="none")
        if self.focal:
            shares = torch.where(wanted > 0, logits, -logits).sigmoid()
            losses = losses * (1 - shares) ** self.focal
        if weights is not None:
            losses = losses * torch.where(wanted > 0, weights[1], weights[0])
        return ((losses * known).sum(1) / known.sum(1)).mean()


def make_objective(
    labels: Labels, items: IntArray, n_classes: int, *, balance: str, label_smoothing: float, focal: float
) -> Objective:
    """Make the loss for training on ``items`` (positions into ``labels``); ``balance`` is one of `types.BALANCES`.

    Weights are those of scikit-learn's ``balanced``: items over classes times items of the class; a class without items
    has the largest of the others. Of several labels an item each has such weights, of two classes; items cannot be drawn so
    that the values of all of them come alike often. Raises OptionError where that is asked for.
    """
    import torch

    weights = None
    if balance != "none" and labels.ndim == 2:
        return Objective(
            torch.from_numpy(labels), items, _weigh_values(labels[items], balance), True, label_smoothing, focal
        )
    if balance != "none":
        counts = np.bincount(labels[items], minlength=n_classes)
        weights = len(items) / (np.count_nonzero(counts) * np.maximum(counts, 1).astype(np.float64))
        weights[counts == 0] = weights[counts > 0].max()
    return Objective(torch.from_numpy(labels), items, weights, balance == "weights", label_smoothing, focal)


def _weigh_values(labels: Labels, balance: str) -> FloatArray:
    """Return the weights of items without and with each label, (2, labels); 1 where a label has one value only."""
    if balance != "weights":
        raise OptionError(f"balance: expected none or weights for several labels an item, found {balance!r}")
    counts = np.stack([(labels == value).sum(axis=0) for value in (0, 1)]).astype(np.float64)
    both = (counts > 0).all(axis=0)
    return np.asarray(np.where(both, counts.sum(axis=0) / (2 * np.maximum(counts, 1)), 1.0))
