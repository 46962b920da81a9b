"""Depthwise convolutions in bf16 on a processor, with gradients by ways that the kernels at hand are fast on.

oneDNN multiplies bf16 twice as fast as float32, but has no fast kernel for two gradients of a depthwise convolution: that
of a weight of more than 3 x 3, and that of the input where the stride is larger than one. Each takes 20 to 90 times as long
as the forward pass, so that training in bf16 is slower than in float32. Both are put together from what is fast:

- the gradient of a large kernel from those of its 3 x 3 pieces, each a convolution of the input moved by as much;
- the gradient of a strided input as a convolution of stride one with the kernel turned round, over the gradient of the
  output with zeros between its values (Dumoulin and Visin, A guide to convolution arithmetic, 2016, chapter 4).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

FAST = 3  # the largest side of a kernel whose own gradient is fast


@functools.cache
def make_mode() -> Any:
    """Return a context inside which such convolutions are computed so, under autocast to bf16; all else as ever."""
    import torch
    from torch.overrides import TorchFunctionMode

    class QuickDepthwise(TorchFunctionMode):
        def __torch_function__(
            self, function: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            if function is torch.conv2d and not kwargs and _is_slow(*args):
                images, weight, bias, stride, padding = args[:5]
                return convolve(images, weight, bias, stride[0], padding[0])
            return function(*args, **(kwargs or {}))

    return QuickDepthwise()


def _is_slow(
    images: Tensor,
    weight: Tensor,
    _bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> bool:
    """Tell whether a convolution is depthwise, of one stride, padding and side for both axes, and slow in bf16."""
    channels, width, *sides = weight.shape
    pairs = stride, padding, dilation
    return (
        groups == channels == images.shape[1]
        and width == 1
        and all(isinstance(pair, tuple) and pair[0] == pair[1] for pair in (*pairs, tuple(sides)))
        and dilation[0] == 1
        and padding[0] < sides[0]
        and (sides[0] > FAST or stride[0] > 1)
    )


def convolve(images: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """Return the depthwise convolution in bf16, with gradients of images (items, channels, rows, columns), weight, bias."""
    import torch

    with torch.autocast("cpu", enabled=False):
        half = [None if each is None else each.to(torch.bfloat16) for each in (images, weight, bias)]
        found: Tensor = _make_function().apply(*half, stride, padding)
    return found


@functools.cache
def _make_function() -> Any:
    import torch

    class Depthwise(torch.autograd.Function):
        @staticmethod
        def forward(
            context: Any, images: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int
        ) -> Tensor:
            context.save_for_backward(images, weight)
            context.about = stride, padding
            return torch.conv2d(images, weight, bias, stride, padding, groups=len(weight))

        @staticmethod
        def backward(context: Any, slope: Tensor) -> Any:
            images, weight = context.saved_tensors
            stride, padding = context.about
            wanted = context.needs_input_grad
            return (
                find_input_slope(slope, images, weight, stride, padding) if wanted[0] else None,
                find_weight_slope(slope, images, weight, stride, padding) if wanted[1] else None,
                slope.sum((0, 2, 3)) if wanted[2] else None,
                None,
                None,
            )

    return Depthwise


def find_input_slope(slope: Tensor, images: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Return the gradient of the images where that of the output is ``slope``."""
    import torch

    side = weight.shape[-1]
    if stride > 1:
        rest = [(size + 2 * padding - side) % stride for size in images.shape[2:]]
        spread = [(size - 1) * stride + 1 + more for size, more in zip(slope.shape[2:], rest, strict=True)]
        zeros = torch.empty(*slope.shape[:2], *spread, dtype=slope.dtype, memory_format=torch.channels_last).zero_()
        zeros[:, :, ::stride, ::stride][:, :, : slope.shape[2], : slope.shape[3]] = slope
        slope = zeros
    return torch.conv2d(slope, weight.flip(2, 3), None, 1, side - 1 - padding, groups=len(weight))


def find_weight_slope(slope: Tensor, images: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Return the gradient of the weight where that of the output is ``slope``."""
    import torch

    side = weight.shape[-1]
    if side <= FAST:
        return _ask_torch(slope, images, weight, stride, padding)
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    rows, columns = (stride * (size - 1) + FAST for size in slope.shape[2:])
    piece, found = weight[:, :, :FAST, :FAST].contiguous(), torch.empty_like(weight)
    places = (*range(0, side - FAST, FAST), side - FAST)
    for top in places:
        for left in places:
            part = padded[:, :, top : top + rows, left : left + columns]
            part = part.contiguous(memory_format=torch.channels_last)
            found[:, :, top : top + FAST, left : left + FAST] = _ask_torch(slope, part, piece, stride, 0)
    return found


def _ask_torch(slope: Tensor, images: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Return the gradient of the weight by torch's own kernel."""
    import torch

    both, groups = (stride, stride), len(weight)
    about = None, both, (padding, padding), (1, 1), False, (0, 0), groups, (False, True, False)
    found: Tensor = torch.ops.aten.convolution_backward(slope, images, weight, *about)[1]
    return found
