"""What training minimises: cross-entropy, and what changes it for classes that are rare or items that are easy.

Weights and balanced sampling bend the probabilities towards the rare classes. So that the logits stay those of the natural
shares from the first step to the last, the loss is taken of logits to which the log of each class's weight is added: at
its minimum, what is left over without it is the prior as it was (Menon et al., Long-tail learning via logit adjustment,
ICLR 2021; the log-prior correction of the heads, the other way round).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from thawline.types import FloatArray, IntArray, Labels


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss of logits for items at given positions.

    ``class_weights`` (classes,) average to 1 over the training items; ``weigh`` says that they weight the loss, else items
    are drawn by them. ``focal`` is the exponent of the focal loss (Lin et al., ICCV 2017), 0 for plain cross-entropy.
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


def make_objective(
    labels: Labels, items: IntArray, n_classes: int, *, balance: str, label_smoothing: float, focal: float
) -> Objective:
    """Make the loss for training on ``items`` (positions into ``labels``); ``balance`` is one of `types.BALANCES`.

    Weights are those of scikit-learn's ``balanced``: items over classes times items of the class; a class without items
    has the largest of the others.
    """
    import torch

    weights = None
    if balance != "none":
        counts = np.bincount(labels[items], minlength=n_classes)
        weights = len(items) / (np.count_nonzero(counts) * np.maximum(counts, 1).astype(np.float64))
        weights[counts == 0] = weights[counts > 0].max()
    return Objective(torch.from_numpy(labels), items, weights, balance == "weights", label_smoothing, focal)
