"""Networks of the literature that neither timm nor torchvision has, each from its paper.

All take float32 images (items, 3, height, width) and give logits (items, classes). What a backbone keeps of them is
``features``, pooled; what follows is ``classifier``. None comes with weights.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


class Network(nn.Module):
    """Features and a classifier of them."""

    def __init__(self, features: dict[str, nn.Module], classifier: dict[str, nn.Module]) -> None:
        super().__init__()
        self.features = nn.Sequential(OrderedDict(features))
        self.classifier = nn.Sequential(OrderedDict(classifier))

    def backbone(self) -> nn.Module:
        """Return what gives pooled features (items, features), on the same modules."""
        return nn.Sequential(OrderedDict(features=self.features, pool=Pool()))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (items, classes) for images (items, 3, height, width)."""
        found: Tensor = self.classifier(self.features(images))
        return found


class Pool(nn.Module):
    """The mean of each map; what has none left stays as it is."""

    def forward(self, features: Tensor) -> Tensor:
        """Return (items, maps)."""
        return features.mean(dim=(2, 3)) if features.ndim == 4 else features


# --- LeNet-5 (LeCun et al. 1998, Proc. IEEE 86:2278) ------------------------------------------------------------------

C3_INPUTS = (  # the maps of S2 that each map of C3 sees: table I of the paper
    *((first, (first + 1) % 6, (first + 2) % 6) for first in range(6)),
    *(tuple((first + step) % 6 for step in range(4)) for first in range(6)),
    *(tuple((first + step) % 6 for step in (0, 1, 3, 4)) for first in range(3)),
    tuple(range(6)),
)


class Grey(nn.Module):
    """The mean of the three channels: what a network of grey images is given."""

    def forward(self, images: Tensor) -> Tensor:
        """Return (items, 1, height, width)."""
        return images.mean(dim=1, keepdim=True)


class Subsampling(nn.Module):
    """Means of 2 x 2 pixels, times a coefficient and plus a bias of each map, through a sigmoid."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(maps, 1, 1)), nn.Parameter(torch.zeros(maps, 1, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of half the height and width."""
        return torch.sigmoid(functional.avg_pool2d(maps, 2) * self.weight + self.bias)


class PartialConvolution(nn.Module):
    """A 5 x 5 convolution whose output maps each see some input maps only."""

    def __init__(self, inputs: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.inputs = [list(each) for each in inputs]
        self.maps = nn.ModuleList(nn.Conv2d(len(each), 1, 5) for each in inputs)

    def forward(self, maps: Tensor) -> Tensor:
        """Return one output map for each list of inputs."""
        return torch.cat([each(maps[:, seen]) for each, seen in zip(self.maps, self.inputs, strict=True)], dim=1)


def lenet5(num_classes: int = 10) -> nn.Module:
    """LeNet-5, with the mean of colours as its grey input and a linear output in place of the fixed radial functions."""
    features = {
        "c1": nn.Sequential(Grey(), nn.Conv2d(1, 6, 5)),
        "s2": Subsampling(6),
        "c3": PartialConvolution(C3_INPUTS),
        "s4": Subsampling(16),
    }
    classifier = {
        "c5": nn.Conv2d(16, 120, 5),
        "tanh5": nn.Tanh(),
        "pool": nn.AdaptiveAvgPool2d(1),  # one pixel is left of the 32 x 32 of the paper
        "flatten": nn.Flatten(),
        "f6": nn.Linear(120, 84),
        "tanh6": nn.Tanh(),
        "output": nn.Linear(84, num_classes),
    }
    return Network(features, classifier)


# --- networks of Caffe ------------------------------------------------------------------------------------------------


def _rectified(convolution: nn.Module, *after: nn.Module) -> nn.Module:
    return nn.Sequential(convolution, nn.ReLU(inplace=True), *after)


def _connected(widths: Sequence[int], num_classes: int) -> dict[str, nn.Module]:
    """Fully connected layers with dropout, as Krizhevsky et al. have them, then the output."""
    layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    for number, (before, after) in enumerate(itertools.pairwise(widths), start=6):
        layers[f"fc{number}"] = _rectified(nn.Linear(before, after), nn.Dropout())
    return {**layers, f"fc{5 + len(widths)}": nn.Linear(widths[-1], num_classes)}


def cifarnet(num_classes: int = 10) -> nn.Module:
    """CifarNet: three convolutions of 32 x 32 px, as medical images met it (Shin et al. 2016, IEEE TMI 35:1285)."""
    features = {
        "conv1": nn.Sequential(nn.Conv2d(3, 32, 5, padding=2), nn.MaxPool2d(3, 2, ceil_mode=True), nn.ReLU()),
        "conv2": _rectified(nn.Conv2d(32, 32, 5, padding=2), nn.AvgPool2d(3, 2, ceil_mode=True)),
        "conv3": _rectified(nn.Conv2d(32, 64, 5, padding=2), nn.AvgPool2d(3, 2, ceil_mode=True)),
    }
    classifier = {"flatten": nn.Flatten(), "ip1": nn.Linear(1024, 64), "ip2": nn.Linear(64, num_classes)}
    return Network(features, classifier)


def caffenet(num_classes: int = 1000) -> nn.Module:
    """CaffeNet (Jia et al. 2014, ACM MM): AlexNet in two groups, with normalisation after pooling."""

    def pooled() -> tuple[nn.Module, nn.Module]:
        return nn.MaxPool2d(3, 2), nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)

    features = {
        "conv1": _rectified(nn.Conv2d(3, 96, 11, 4), *pooled()),
        "conv2": _rectified(nn.Conv2d(96, 256, 5, padding=2, groups=2), *pooled()),
        "conv3": _rectified(nn.Conv2d(256, 384, 3, padding=1)),
        "conv4": _rectified(nn.Conv2d(384, 384, 3, padding=1, groups=2)),
        "conv5": _rectified(nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.MaxPool2d(3, 2)),
    }
    return Network(features, _connected((9216, 4096, 4096), num_classes))


def overfeat_fast(num_classes: int = 1000) -> nn.Module:
    """The fast network of OverFeat (Sermanet et al. 2014, ICLR, table 1)."""
    features = {
        "conv1": _rectified(nn.Conv2d(3, 96, 11, 4), nn.MaxPool2d(2)),
        "conv2": _rectified(nn.Conv2d(96, 256, 5), nn.MaxPool2d(2)),
        "conv3": _rectified(nn.Conv2d(256, 512, 3, padding=1)),
        "conv4": _rectified(nn.Conv2d(512, 1024, 3, padding=1)),
        "conv5": _rectified(nn.Conv2d(1024, 1024, 3, padding=1), nn.MaxPool2d(2)),
    }
    return Network(features, _connected((36864, 3072, 4096), num_classes))


# --- Inception2, also BN-Inception (Ioffe and Szegedy 2015, ICML) -----------------------------------------------------


def _normed(before: int, after: int, kernel: int = 1, stride: int = 1) -> nn.Module:
    convolution = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


class Inception(nn.Module):
    """Branches side by side: 1 x 1 (none where 0), 3 x 3, twice 3 x 3, and pooling; of stride 2 where there is no 1 x 1."""

    def __init__(
        self, before: int, single: int, three: tuple[int, int], double: tuple[int, int], pooled: int, pool: str
    ) -> None:
        super().__init__()
        stride = 1 if single else 2
        self.branches = nn.ModuleList([_normed(before, single)] if single else [])
        self.branches.append(nn.Sequential(_normed(before, three[0]), _normed(*three, 3, stride)))
        twice = _normed(double[0], double[1], 3), _normed(double[1], double[1], 3, stride)
        self.branches.append(nn.Sequential(_normed(before, double[0]), *twice))
        pooling: nn.Module = nn.AvgPool2d(3, 1, 1) if pool == "mean" else nn.MaxPool2d(3, 1, 1)
        last = [pooling, _normed(before, pooled)] if pooled else [nn.MaxPool2d(3, 2, ceil_mode=True)]
        self.branches.append(nn.Sequential(*last))

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps of all branches, one after the other."""
        return torch.cat([branch(maps) for branch in self.branches], dim=1)


INCEPTIONS: dict[str, tuple[int, int, tuple[int, int], tuple[int, int], int, str]] = {
    "inception_3a": (192, 64, (64, 64), (64, 96), 32, "mean"),
    "inception_3b": (256, 64, (64, 96), (64, 96), 64, "mean"),
    "inception_3c": (320, 0, (128, 160), (64, 96), 0, "max"),
    "inception_4a": (576, 224, (64, 96), (96, 128), 128, "mean"),
    "inception_4b": (576, 192, (96, 128), (96, 128), 128, "mean"),
    "inception_4c": (576, 160, (128, 160), (128, 160), 128, "mean"),
    "inception_4d": (608, 96, (128, 192), (160, 192), 128, "mean"),
    "inception_4e": (608, 0, (128, 192), (192, 256), 0, "max"),
    "inception_5a": (1056, 352, (192, 320), (160, 224), 128, "mean"),
    "inception_5b": (1024, 352, (192, 320), (192, 224), 128, "max"),
}


def inception2(num_classes: int = 1000) -> nn.Module:
    """Inception2 with the widths of its published Caffe model, which are 32 maps wider in two blocks than the paper's."""
    stem = {
        "conv1": nn.Sequential(_normed(3, 64, 7, 2), nn.MaxPool2d(3, 2, ceil_mode=True)),
        "conv2": nn.Sequential(_normed(64, 64), _normed(64, 192, 3), nn.MaxPool2d(3, 2, ceil_mode=True)),
    }
    blocks = {name: Inception(*widths) for name, widths in INCEPTIONS.items()}
    classifier = {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(1024, num_classes)}
    return Network({**stem, **blocks}, classifier)


# --- DarkNet19 (Redmon and Farhadi 2017, CVPR, table 6) ---------------------------------------------------------------


def darknet19(num_classes: int = 1000) -> nn.Module:
    """DarkNet19: 3 x 3 convolutions, narrowed by 1 x 1 between, halved by pooling between groups."""
    groups = ((32,), (64,), (128, 64, 128), (256, 128, 256), (512, 256, 512, 256, 512), (1024, 512, 1024, 512, 1024))
    features: dict[str, nn.Module] = {}
    before, number = 3, 0
    for group in groups:
        for place, after in enumerate(group):
            number += 1
            kernel = 1 if place % 2 else 3
            convolution = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)
            parts = [convolution, nn.BatchNorm2d(after), nn.LeakyReLU(0.1, inplace=True)]
            ends = place == len(group) - 1 and group is not groups[-1]
            features[f"conv{number}"] = nn.Sequential(*parts, *([nn.MaxPool2d(2)] if ends else []))
            before = after
    classifier = {"conv": nn.Conv2d(before, num_classes, 1), "pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    return Network(features, classifier)


# --- Mobile-Former (Chen et al. 2022, CVPR; sizes of its table 1) -----------------------------------------------------

TOKENS, WIDTH, HEADS = 6, 192, 2
MOBILE_FORMERS = (  # maps before, expanded, after, stride
    (16, 96, 24, 2),
    (24, 96, 24, 1),
    (24, 144, 48, 2),
    (48, 192, 48, 1),
    (48, 288, 96, 2),
    (96, 384, 96, 1),
    (96, 576, 128, 1),
    (128, 768, 128, 1),
    (128, 768, 192, 2),
    (192, 1152, 192, 1),
    (192, 1152, 192, 1),
)


def _pack(maps: Tensor, tokens: Tensor) -> Tensor:
    """Put global tokens and square maps into one row an item, so that one tensor crosses between blocks."""
    return torch.cat([tokens.flatten(1), maps.flatten(1)], dim=1)


def _unpack(state: Tensor, n_maps: int) -> tuple[Tensor, Tensor]:
    """Return maps (items, maps, side, side) and tokens (items, tokens, width)."""
    tokens, maps = state[:, : TOKENS * WIDTH], state[:, TOKENS * WIDTH :]
    side = math.isqrt(maps.shape[1] // n_maps)
    return maps.reshape(-1, n_maps, side, side), tokens.reshape(-1, TOKENS, WIDTH)


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of several heads, all (items, places, channels)."""

    def split(each: Tensor) -> Tensor:
        return each.reshape(*each.shape[:2], HEADS, -1).transpose(1, 2)

    return (
        functional.scaled_dot_product_attention(split(queries), split(keys), split(values)).transpose(1, 2).flatten(2)
    )


class DynamicRelu(nn.Module):
    """The larger of two lines of each map, set by the first token (Chen et al. 2020, ECCV)."""

    def __init__(self, n_maps: int) -> None:
        super().__init__()
        self.lines = nn.Sequential(nn.Linear(WIDTH, WIDTH // 4), nn.ReLU(), nn.Linear(WIDTH // 4, 4 * n_maps))

    def forward(self, maps: Tensor, token: Tensor) -> Tensor:
        """Return maps of the same shape; ``token`` is (items, width)."""
        moved = 2 * torch.sigmoid(self.lines(token)[..., None, None]) - 1
        first, second, low, high = moved.chunk(4, dim=1)
        return torch.maximum(maps * (1 + first) + low / 2, maps * second + high / 2)


class Former(nn.Module):
    """A transformer block over the tokens, normalised after each of its two steps."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed, self.joined = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.widened = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens (items, tokens, width)."""
        tokens = self.norm1(tokens + self.joined(_attend(*self.mixed(tokens).chunk(3, dim=2))))
        found: Tensor = self.norm2(tokens + self.widened(tokens))
        return found


class MobileFormer(nn.Module):
    """A convolutional block and a transformer block side by side, with a bridge each way."""

    def __init__(self, before: int, expanded: int, after: int, stride: int) -> None:
        super().__init__()
        self.before, self.skips = before, stride == 1 and before == after
        self.query, self.found = nn.Linear(WIDTH, before), nn.Linear(before, WIDTH)
        self.former = Former()
        wide = (
            expanded if stride == 1 else before
        )  # where a block halves the maps, its depthwise convolution expands them
        self.expand, self.first = None, None
        if stride == 1:
            self.expand = nn.Sequential(nn.Conv2d(before, expanded, 1, bias=False), nn.BatchNorm2d(expanded))
            self.first = DynamicRelu(expanded)
        deep = nn.Conv2d(wide, expanded, 3, stride, 1, groups=wide, bias=False)
        self.deep, self.second = nn.Sequential(deep, nn.BatchNorm2d(expanded)), DynamicRelu(expanded)
        self.project = nn.Sequential(nn.Conv2d(expanded, after, 1, bias=False), nn.BatchNorm2d(after))
        self.key, self.value = nn.Linear(WIDTH, after), nn.Linear(WIDTH, after)

    def forward(self, state: Tensor) -> Tensor:
        """Return the packed state after the block for the one before it."""
        maps, tokens = _unpack(state, self.before)
        places = maps.flatten(2).transpose(1, 2)
        tokens = self.former(tokens + self.found(_attend(self.query(tokens), places, places)))
        wide = maps
        if self.expand is not None and self.first is not None:
            wide = self.first(self.expand(maps), tokens[:, 0])
        found = self.project(self.second(self.deep(wide), tokens[:, 0]))
        found = found + maps if self.skips else found
        places = found.flatten(2).transpose(1, 2)
        given = _attend(places, self.key(tokens), self.value(tokens))
        return _pack(found + given.transpose(1, 2).reshape(found.shape), tokens)


class Tokens(nn.Module):
    """The learned tokens that every image begins with, beside its maps."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(1, TOKENS, WIDTH))

    def forward(self, maps: Tensor) -> Tensor:
        """Return the packed state."""
        return _pack(maps, self.tokens.expand(maps.shape[0], -1, -1))


class Summary(nn.Module):
    """The means of widened maps and the first token, one row an item."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.before = before
        self.widen = nn.Sequential(nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after), nn.Hardswish())

    def forward(self, state: Tensor) -> Tensor:
        """Return (items, after + width)."""
        maps, tokens = _unpack(state, self.before)
        return torch.cat([self.widen(maps).mean(dim=(2, 3)), tokens[:, 0]], dim=1)


def mobile_former(num_classes: int = 1000) -> nn.Module:
    """Mobile-Former of 294 million multiplications: square images only."""
    deep = nn.Conv2d(16, 32, 3, padding=1, groups=16, bias=False)
    lite = [deep, nn.BatchNorm2d(32), nn.ReLU6(), nn.Conv2d(32, 16, 1, bias=False), nn.BatchNorm2d(16)]
    features: dict[str, nn.Module] = {
        "stem": nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish()),
        "lite": nn.Sequential(*lite),
        "tokens": Tokens(),
        **{f"block{number}": MobileFormer(*sizes) for number, sizes in enumerate(MOBILE_FORMERS, start=1)},
        "summary": Summary(192, 1152),
    }
    classifier = {"fc1": nn.Linear(1152 + WIDTH, 1920), "act": nn.Hardswish(), "fc2": nn.Linear(1920, num_classes)}
    return Network(features, classifier)


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "lenet5": lenet5,
    "cifarnet": cifarnet,
    "caffenet": caffenet,
    "overfeat_fast": overfeat_fast,
    "inception2": inception2,
    "darknet19": darknet19,
    "mobile_former": mobile_former,
}
