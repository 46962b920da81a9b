"""Networks of three dimensions out of pretrained ones of two, with the same names for all their weights.

ACS convolutions (Yang et al., Reinventing 2D convolutions for 3D images, IEEE JBHI 25:3009, 2021) let a third of the filters
see each of the axial, coronal and sagittal planes: the weights stay what they are. Inflation (Carreira and Zisserman, CVPR
2017) repeats each filter along the depth and divides by the repetitions. All else, normalisation and pooling, follows suit.
"""

from __future__ import annotations

import copy
import itertools
import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from thawline.errors import OptionError
from thawline.types import NATIVE

if TYPE_CHECKING:
    from torch import Tensor, nn

AXES = (2, 3, 4)  # depth, height, width: axial filters are flat along the first, coronal and sagittal along the others
SHALLOW = 3  # an inflated kernel repeats the ends of fewer slices: zeros beyond them would fade them to nothing
LARGEST_DIFFERENCE = 1e-4  # of the largest feature, float32 through a whole network
ANY_DIMENSIONS = ("Dropout", "DropPath")  # begin the names of modules that take images of any


def make_volumetric(network: nn.Module, kind: str, path: str = "") -> nn.Module:
    """Return the network taken to three dimensions, "acs" or "inflated"; it is changed in place. One that is native stays.

    Raises OptionError, naming the part by its ``path``, where one of its parts has no counterpart.
    """
    if kind == NATIVE:
        return network
    if (made := _convert(network, kind)) is not None:
        return made
    name = type(network).__name__
    if "2d" in name and not name.startswith(ANY_DIMENSIONS):
        raise OptionError(
            f"--dimensions 3d_{kind}: expected a network of convolutions, batch normalisation and pooling, found {name} "
            f"({path}); choose another --backbone, such as efficientnet_lite0 or resnet18"
        )
    for own, part in list(network.named_children()):
        setattr(network, own, make_volumetric(part, kind, f"{path}.{own}".lstrip(".")))
    return network


def inflate(kernel: Tensor) -> Tensor:
    """Return a kernel (out, in, height, width) repeated along its depth, which is its height, to the same sum."""
    depth = kernel.shape[2]
    return kernel.unsqueeze(2).repeat(1, 1, depth, 1, 1) / depth


def is_faithful(network: nn.Module, n_slices: int, size_px: int) -> bool:
    """Tell whether a network of two dimensions means the same in three.

    Inflated, and with the ends of a volume repeated beyond them, it gives for a volume of equal slices what it gives for one
    of them. A network that says in its own code which axes it averages over does not.
    """
    import torch

    inflated = make_volumetric(copy.deepcopy(network), "inflated")
    for part in inflated.modules():
        if hasattr(part, "repeats_below"):
            part.__dict__["repeats_below"] = sys.maxsize
    ramp = torch.linspace(-1, 1, size_px)  # what differs from side to side tells the axes apart
    noise = torch.randn(1, 3, size_px, size_px, generator=torch.Generator().manual_seed(0))
    image = noise * (1 + ramp) + 2 * ramp[:, None]
    with torch.inference_mode():
        expected = network(image)
        try:
            found = inflated(image.unsqueeze(2).repeat(1, 1, n_slices, 1, 1))
        except (AssertionError, RuntimeError, ValueError):
            return False
    difference = float((found - expected).abs().max()) if found.shape == expected.shape else math.inf
    return bool(difference <= LARGEST_DIFFERENCE * float(expected.abs().max()))


def redraw_kernels(network: nn.Module) -> nn.Module:
    """Draw inflated kernels anew, each voxel by itself, with the variance that their fan-in asks for; in place.

    Those of ACS convolutions are of two dimensions and stay as they were drawn.
    """
    import torch

    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == len(AXES) + 2:
                parameter.normal_(0, float(parameter.std()) * math.sqrt(parameter.shape[2]))
    return network


def convolve_acs(images: Tensor, convolution: Any) -> Tensor:
    """Convolve (items, channels, depth, height, width) with the filters of a convolution of two dimensions.

    The first third of the filters lies in axial planes, the second in coronal, the last in sagittal ones; along the axis
    that a filter has no extent, it sees what the middle of its kernel would.
    """
    import torch
    from torch.nn import functional

    kernel, stride, groups = convolution.weight, convolution.stride[0], convolution.groups
    size, dilation = kernel.shape[2], convolution.dilation[0]
    images = _pad(images, convolution)
    reach = dilation * (size - 1)
    middle = dilation * ((size - 1) // 2)
    n_filters, n_inputs = kernel.shape[0] // groups, images.shape[1] // groups
    found = []
    for axis, (start, end) in zip(AXES, _part_filters(kernel.shape[0], groups), strict=True):
        if start == end:
            continue
        flat = images.narrow(axis, middle, images.shape[axis] - reach) if reach else images
        own = 1
        if groups > 1:
            own = (end - start) // n_filters
            flat = flat[:, start // n_filters * n_inputs : end // n_filters * n_inputs]
        filters = kernel[start:end].unsqueeze(axis)
        bias = None if convolution.bias is None else convolution.bias[start:end]
        spread = [1 if each == axis else dilation for each in AXES]
        found.append(functional.conv3d(flat, filters, bias, stride, 0, spread, own))
    return torch.cat(found, dim=1)


def _part_filters(n_filters: int, groups: int) -> list[tuple[int, int]]:
    """Return first and last of the filters of each plane: thirds, of whole groups."""
    of_group = n_filters // groups
    n_units = groups if groups > 1 else n_filters
    unit = of_group if groups > 1 else 1
    ends = [0, *(unit * (n_units * place // 3) for place in (1, 2)), n_filters]
    return list(itertools.pairwise(ends))


def _convert(part: nn.Module, kind: str) -> nn.Module | None:
    """Return the counterpart of a module in three dimensions, None where it has none or needs none."""
    from torch import nn

    if isinstance(part, nn.Conv2d):
        _check_kernel(part, kind)
        return _make_convolution(part, kind)
    if isinstance(part, nn.BatchNorm2d):
        return _make_norm(part)
    if isinstance(part, (nn.MaxPool2d, nn.AvgPool2d)) and type(part).__name__ in ("MaxPool2d", "AvgPool2d"):
        return _make_pool(part)
    is_mean = isinstance(part, nn.AdaptiveAvgPool2d) and part.output_size in (1, (1, 1))
    if is_mean:
        return nn.AdaptiveAvgPool3d(1)
    if type(part).__name__ == "SelectAdaptivePool2d" and cast(Any, part).pool_type in ("avg", "fast", "fastavg"):
        flattens = any(
            isinstance(each, nn.Flatten) or getattr(each, "flatten", False) is True for each in part.modules()
        )
        return nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(1) if flattens else nn.Identity())
    return None


def _check_kernel(convolution: nn.Conv2d, kind: str) -> None:
    """Refuse kernels that are not as high as wide, or are filled at their edges with other than zeros."""
    square = all(len(set(pair)) == 1 for pair in (convolution.kernel_size, convolution.stride, convolution.dilation))
    if not square or convolution.padding_mode != "zeros":
        raise OptionError(
            f"--dimensions 3d_{kind}: expected square kernels, padded with zeros, found {convolution}; choose another "
            "--backbone, such as efficientnet_lite0 or resnet18"
        )


def _make_convolution(convolution: nn.Conv2d, kind: str) -> nn.Module:
    """Return a module with weight and bias of the same names that convolves in three dimensions."""
    from torch import nn
    from torch.nn import functional

    class Volumetric(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kernel = convolution.weight if kind == "acs" else nn.Parameter(inflate(convolution.weight.detach()))
            self.weight, self.bias = kernel, convolution.bias
            self.stride, self.dilation, self.groups = convolution.stride, convolution.dilation, convolution.groups
            self.padding, self.kernel_size = convolution.padding, convolution.kernel_size
            self.pads_to_same = "Same" in type(convolution).__name__
            self.repeats_below = SHALLOW if kind == "inflated" else 0

        def forward(self, images: Tensor) -> Tensor:
            if kind == "acs":
                return convolve_acs(images, self)
            padded = _pad(images, self)
            about = self.stride[0], 0, self.dilation[0], self.groups
            return functional.conv3d(padded, self.weight, self.bias, *about)

    made = Volumetric()
    made.train(convolution.training)
    return made


def _pad(images: Tensor, convolution: Any) -> Tensor:
    """Pad all three axes as the convolution of two dimensions pads its own; ends of few slices are repeated, not zeros."""
    from torch.nn import functional

    size, stride, dilation = (pair[0] for pair in (convolution.kernel_size, convolution.stride, convolution.dilation))
    reach = dilation * (size - 1)
    if convolution.pads_to_same or convolution.padding == "same":  # TensorFlow's rule: as many as the last step lacks
        lacks = [max((math.ceil(n / stride) - 1) * stride + reach + 1 - n, 0) for n in images.shape[2:]]
        edges = [(lack // 2, lack - lack // 2) for lack in lacks]
    elif convolution.padding == "valid":
        return images
    else:
        own = convolution.padding
        edges = [(own[0], own[0]), *((each, each) for each in own)]
    if images.shape[2] < convolution.repeats_below:
        images = functional.pad(images, (0, 0, 0, 0, *edges[0]), mode="replicate")
        edges = [(0, 0), *edges[1:]]
    flat = [each for pair in edges[::-1] for each in pair]
    return functional.pad(images, flat) if any(flat) else images


def _make_norm(norm: nn.BatchNorm2d) -> nn.Module:
    """Return batch normalisation of three dimensions with the same statistics, and timm's `drop` and `act` behind it."""
    from torch import nn

    class Norm(nn.BatchNorm3d):
        def forward(self, images: Tensor) -> Tensor:
            images = super().forward(images)
            for name in ("drop", "act"):
                part: Callable[[Tensor], Tensor] | None = getattr(self, name, None)
                images = images if part is None else part(images)
            return images

    made = Norm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    made._parameters, made._buffers = norm._parameters, norm._buffers
    for name, child in norm.named_children():
        made.add_module(name, child)
    made.train(norm.training)
    return made


def _make_pool(pool: nn.Module) -> nn.Module:
    """Return the same pooling of three dimensions."""
    from torch import nn

    kind = nn.MaxPool3d if isinstance(pool, nn.MaxPool2d) else nn.AvgPool3d
    made = kind(1)
    for name in made.__constants__:
        value = copy.copy(getattr(pool, name))
        if isinstance(value, tuple):
            value = (value[0], *value)
        setattr(made, name, value)
    return made
