"""Table 1 of the survey that Thawline follows, computed anew from the networks here.

Kim et al. 2022, Transfer learning for medical image classification: a literature review, BMC Medical Imaging 22:69. Its
rule: each filter of a x b pixels over c maps has a b c + 1 parameters, summed; so every layer counts as having biases, and
normalisation counts nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from thawline.learn.backbones import Backbone, find_row
from thawline.learn.networks import build_network, classifier_keys, count_layers

if TYPE_CHECKING:
    from torch import nn


@dataclasses.dataclass(frozen=True, slots=True)
class Printed:
    """One row as printed: parameters of all and of the feature extractor, layers of both; and why ours differ."""

    model: str
    backbone: str
    year: int
    parameters: float
    feature_parameters: float
    layers: int
    feature_layers: int
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Recomputed:
    """A printed row beside what the network here has, counted by the survey's rule.

    ``reading`` and ``feature_reading`` are the counts of the network that the printed ones belong to, and
    ``layer_reading`` the layers that were counted as printed, where that is something else than here.
    """

    printed: Printed
    parameters: int
    feature_parameters: int
    reading: int
    feature_reading: int
    layers: int
    layer_reading: int
    feature_layers: int
    feature_layer_reading: int

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return dataclasses.asdict(self)

    def agrees(self) -> bool:
        """Tell whether the printed counts are explained: to within one of the last digit that is printed."""
        pairs = (self.reading, self.printed.parameters), (self.feature_reading, self.printed.feature_parameters)
        counts = all(abs(found - printed) <= 0.1e6 if printed > 1e6 else found == printed for found, printed in pairs)
        layers = (self.layer_reading, self.feature_layer_reading) == (self.printed.layers, self.printed.feature_layers)
        return counts and layers


TABLE_1 = (
    Printed(
        "LeNet5", "lenet5", 1998, 60_000, 1_716, 4, 2,
        "all but the output, whose 84 x 10 weights are fixed in the paper; of its layers, C1 and C3, C5 and F6 are counted, "
        "neither the output nor the two subsampling layers, which have weights too",
    ),
    Printed(
        "AlexNet", "alexnet", 2012, 62.3e6, 3.7e6, 8, 5,
        "the paper's filters, as CaffeNet has them, counted without its two groups; the network here is torchvision's, with "
        "fewer filters",
    ),
    Printed(
        "VGG16", "vgg16", 2014, 134.2e6, 14.7e6, 16, 13,
        "an output of two classes instead of 1000: the count is of a network already made over for a medical question",
    ),
    Printed(
        "GoogLeNet", "inception1", 2014, 5.3e6, 5.3e6, 22, 21,
        "not explained: with and without the last layer cannot be the same, as that layer alone has 1,025,000; the network "
        "here has 3 x 3 kernels where the paper has 5 x 5",
    ),
    Printed(
        "ResNet50", "resnet50", 2015, 25.6e6, 23.5e6, 51, 50,
        "the parameters agree; 50 are 49 convolutions on the longest way and the output, so that one is counted too many",
    ),
)  # fmt: skip


LAYERS_AS_PRINTED = {"LeNet5": (-1, 0), "ResNet50": (1, 1)}  # the output left out; one of the features too many


def recompute() -> Iterator[Recomputed]:
    """Recompute each row, one after the other."""
    import torch

    for printed in TABLE_1:
        row = find_row(printed.backbone)
        if row is None:
            raise LookupError(f"{printed.backbone} has no row among the backbones")
        with torch.device("meta"):
            network = build_network(row.architecture)
            counts = count_by_rule(network, row)
            reading = read_as_printed(printed, row, counts)
            layers = count_layers(network, row.architecture.size_px)
            # the layers of a classifier come one after the other
            features = layers - len(_list_cut(network, row) & {name for name, _ in _list_layers(network)})
        all_more, features_more = LAYERS_AS_PRINTED.get(printed.model, (0, 0))
        yield Recomputed(printed, *counts, *reading, layers, layers + all_more, features, features + features_more)


def read_as_printed(printed: Printed, row: Backbone, counts: tuple[int, int]) -> tuple[int, int]:
    """Return the counts, in all and of the features, of the network that a printed row belongs to."""
    everything, features = counts
    if printed.model == "LeNet5":
        return everything - (84 + 1) * 10, features
    if printed.model == "VGG16":
        return everything - (4096 + 1) * (1000 - 2), features
    if printed.model == "AlexNet":
        caffenet = find_row("caffenet") or row
        return count_by_rule(build_network(caffenet.architecture), caffenet, grouped=False)
    return counts


def count_by_rule(network: nn.Module, row: Backbone, *, grouped: bool = True) -> tuple[int, int]:
    """Count parameters by the survey's rule: in all, and those that are not the classifier's.

    Without ``grouped`` every filter counts as seeing all maps.
    """
    cut = _list_cut(network, row)
    counts = {name: _count_layer(layer, grouped) for name, layer in _list_layers(network)}
    return sum(counts.values()), sum(count for name, count in counts.items() if name not in cut)


def _list_cut(network: nn.Module, row: Backbone) -> set[str]:
    """Name the modules of the classifier that hold parameters."""
    return {key.rpartition(".")[0] for key in classifier_keys(network, row.architecture)}


def _list_layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """List what has weights and is no normalisation: convolutions, fully connected layers, LeNet's subsampling."""
    from torch import nn

    from thawline.learn.architectures import PartialConvolution, Subsampling

    inside = {
        f"{name}.{part}"
        for name, layer in network.named_modules()
        if isinstance(layer, PartialConvolution)
        for part, _ in layer.named_modules()
        if part
    }
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | Subsampling | PartialConvolution) and name not in inside:
            yield name, layer


def _count_layer(layer: nn.Module, grouped: bool) -> int:
    from torch import nn

    if isinstance(layer, nn.Conv2d):
        maps = layer.in_channels // (layer.groups if grouped else 1)
        return (layer.kernel_size[0] * layer.kernel_size[1] * maps + 1) * layer.out_channels
    if isinstance(layer, nn.Linear):
        return (layer.in_features + 1) * layer.out_features
    # a coefficient and a bias each, or all 5 x 5 filters
    return sum(parameter.numel() for parameter in layer.parameters())
