"""Items of several images: a bag, whose images pass one by one and whose features are joined, or a volume of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thawline.types import SLICE_POOLING

LINE = SLICE_POOLING
HIDDEN_UNITS = 128

if TYPE_CHECKING:
    from torch import Tensor, nn

    from thawline.types import Depth


def merge(activations: Tensor) -> Tensor:
    """Return (items, slices, …) as (items x slices, …), images in the layout that convolutions are fastest in."""
    import torch

    merged = activations.flatten(0, 1)
    return merged.contiguous(memory_format=torch.channels_last) if merged.ndim == 4 else merged


def part(merged: Tensor, n_slices: int) -> Tensor:
    """Reverse `merge`."""
    return merged.reshape(-1, n_slices, *merged.shape[1:])


def pool(features: Tensor, n_slices: int, pooling: str) -> Tensor:
    """Join features, (items x slices, features), to those of the items: their maximum, else their mean.

    The mean is also where attention starts.
    """
    bags = part(features, n_slices)
    return bags.amax(1) if pooling == "max" else bags.mean(1)


def make_attention(n_features: int, seed: int = 0) -> nn.Module:
    """Return gated attention pooling (Ilse, Tomczak and Welling, ICML 2018), (items, slices, features) to (items, features).

    The weight of slice k is the softmax over slices of w (tanh(V h_k) * sigmoid(U h_k)). It starts with w at zero, where
    it is the mean, so that a head of the mean is the start of training.
    """
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(seed)

    class GatedAttention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.values, self.gates = (nn.Linear(n_features, HIDDEN_UNITS) for _ in range(2))
            self.scores = nn.Linear(HIDDEN_UNITS, 1, bias=False)
            for layer in (self.values, self.gates):
                nn.init.normal_(layer.weight, 0, n_features**-0.5, generator=generator)
                nn.init.zeros_(layer.bias)
            nn.init.zeros_(self.scores.weight)

        def forward(self, bags: Tensor) -> Tensor:
            return (self.weigh(bags).unsqueeze(-1) * bags).sum(1)

        def weigh(self, bags: Tensor) -> Tensor:
            hidden = torch.tanh(self.values(bags)) * torch.sigmoid(self.gates(bags))
            return torch.softmax(self.scores(hidden).squeeze(-1), dim=1)

    with torch.random.fork_rng(devices=[]):  # layers draw from the global generator before they are filled
        return GatedAttention()


def stack(images: Tensor, n_slices: int) -> Tensor:
    """Return (items x slices, channels, height, width) as volumes, (items, channels, slices, height, width)."""
    return part(images, n_slices).transpose(1, 2)


def take_slices(backbone: nn.Module, depth: Depth) -> nn.Module:
    """Return the network from (items x slices) images to one row of features an item."""
    from torch import nn

    class Sliced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbone

        def forward(self, images: Tensor) -> Tensor:
            if depth.is_volume:
                features: Tensor = self.backbone(stack(images, depth.n_slices))
                return features
            return pool(self.backbone(images), depth.n_slices, depth.join)

    return Sliced().eval()
