"""Convolution and the batch normalisation behind it as one, while training with running statistics that stay.

With m and v the running mean and variance, normalisation in eval mode is an affine map of each channel: of the output of
a convolution with weight W, gamma (W x - m) / sqrt(v + eps) + beta is the convolution with weight s W and bias beta - s m,
s = gamma / sqrt(v + eps) (Jacob et al., CVPR 2018, section 3.2). Here s W is computed anew from the parameters in every
step, so W, gamma and beta have the gradients that they have apart; what is saved is a pass over the activations forth and
back.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


@contextlib.contextmanager
def fused_norms(network: nn.Module) -> Iterator[int]:
    """Compute such pairs as one inside the block, and yield how many there are.

    Those whose normalisation is in training mode by then are left alone. Do not copy the network inside.
    """
    pairs = find_pairs(network)
    try:
        for convolution, norm in pairs:
            convolution.forward, norm.forward = _fuse(convolution, norm), _pass_on(norm)
        yield len(pairs)
    finally:
        for pair in pairs:
            for module in pair:
                del module.forward


def find_pairs(network: nn.Module) -> list[tuple[Any, Any]]:
    """Return each convolution whose output goes to a batch normalisation in eval mode and nowhere else.

    None for a network that cannot be traced. Modules that are used twice are left out.
    """
    from torch import fx, nn

    class PartTracer(fx.Tracer):
        def is_leaf_module(self, module: nn.Module, _name: str) -> bool:
            return isinstance(module, nn.BatchNorm2d) or next(module.children(), None) is None

    try:
        graph = PartTracer().trace(network)
    except Exception:  # noqa: BLE001 - tracing runs the network's own code, which raises anything
        return []
    called = [node.target for node in graph.nodes if node.op == "call_module"]
    pairs = []
    for node in graph.nodes:
        below = node.args[0] if node.op == "call_module" and len(node.args) == 1 else None
        if not isinstance(below, fx.Node) or below.op != "call_module" or len(below.users) != 1:
            continue
        if called.count(node.target) > 1 or called.count(below.target) > 1:
            continue
        norm, convolution = network.get_submodule(str(node.target)), network.get_submodule(str(below.target))
        if _is_norm(norm) and isinstance(convolution, nn.Conv2d):
            pairs.append((convolution, norm))
    return pairs


def _is_norm(module: nn.Module) -> bool:
    """Tell whether a module is batch normalisation in eval mode, alone or followed by `drop` and `act` as in timm."""
    from torch import nn

    known = {"", "drop", "act"} >= {name.partition(".")[0] for name, _ in module.named_modules()}
    return isinstance(module, nn.BatchNorm2d) and known and not module.training and module.running_mean is not None


def _fuse(convolution: nn.Conv2d, norm: Any) -> Callable[[Tensor], Tensor]:
    """Return the forward pass of both: the convolution's own, padding and all, with other numbers."""
    stand_in = copy.copy(convolution)
    stand_in.__dict__ = {**convolution.__dict__, "_parameters": {}}  # so that weight and bias can be any tensors

    def forward(images: Tensor) -> Tensor:
        scale = (norm.running_var + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight
        offset = norm.running_mean if convolution.bias is None else norm.running_mean - convolution.bias
        bias = -offset * scale if norm.bias is None else norm.bias - offset * scale
        stand_in.__dict__.update(weight=convolution.weight * scale[:, None, None, None], bias=bias)
        return stand_in.forward(images)

    return forward


def _pass_on(norm: Any) -> Callable[[Tensor], Tensor]:
    """Return what is left of a normalisation: its dropout and activation, where it has them."""

    def forward(images: Tensor) -> Tensor:
        for name in ("drop", "act"):
            part = getattr(norm, name, None)
            images = images if part is None else part(images)
        return images

    return forward
