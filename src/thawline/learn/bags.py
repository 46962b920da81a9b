"""Items of several images: a bag, whose images pass one by one and whose features are joined, or a volume of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    """Join features, (items x slices, features), to those of the items: their mean or their maximum."""
    bags = part(features, n_slices)
    return bags.amax(1) if pooling == "max" else bags.mean(1)


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
