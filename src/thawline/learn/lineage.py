"""The layers of a network in the order of computing, and which of them depend on which others.

Nothing is computed for it: tensors that have shapes and no values go through the network, and every operation on them is
noted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

COUNTER = "num_batches_tracked"  # of a batch normalisation; old files lack it and nothing here uses it


@dataclasses.dataclass(frozen=True, slots=True)
class Slot:
    """One layer of a network: its place in the order of computing is that in `trace_layers`.

    ``upstream`` has a bit for every layer that it depends on; ``grid`` is (channels, height, width) where it takes a
    flattened image of them.
    """

    name: str
    role: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    bit: int
    upstream: int
    grid: tuple[int, ...] | None

    def is_beside(self, other: Slot) -> bool:
        """Whether neither layer depends on the other though they have one shape, so that they could be confused."""
        alike = (self.role, self.shapes) == (other.role, other.shapes)
        return alike and not self.upstream & other.bit and not other.upstream & self.bit


def trace_layers(network: nn.Module, size_px: int) -> list[Slot]:
    """Return the layers of a network in the order of computing, with what each depends on; nothing is computed.

    Layers that one image of (3, size_px, size_px) does not reach come last, dependent on nothing.
    """
    names = list(dict.fromkeys(key.rpartition(".")[0] for key in network.state_dict()))
    modules = dict(network.named_modules())
    lineage = _watch(network, {name: place for place, name in enumerate(names)}, size_px)
    depthwise = {place for place, name in enumerate(names) if _find_role(modules[name]) == "depthwise"}
    slots = []
    for place in [*lineage.upstream, *(place for place in range(len(names)) if place not in lineage.upstream)]:
        module = modules[names[place]]
        role = _find_role(module, follows_depthwise=lineage.fed_by.get(place) in depthwise)
        grid = lineage.grids.get(place) if role == "dense" else None
        upstream = lineage.upstream.get(place, 0)
        slots.append(Slot(names[place], role, _find_shapes(module), 1 << place, upstream, grid))
    return slots


def _find_role(module: nn.Module, follows_depthwise: bool = False) -> str:
    from torch import nn

    if isinstance(module, nn.Conv2d):
        if module.groups > 1 and module.weight.shape[1] == 1:
            return "depthwise"
        return "pointwise" if follows_depthwise and module.kernel_size == (1, 1) else "conv"
    if isinstance(module, nn.Linear):
        return "dense"
    return "norm" if isinstance(module, nn.BatchNorm2d) else type(module).__name__


def _find_shapes(module: nn.Module) -> tuple[tuple[str, tuple[int, ...]], ...]:
    own = module.state_dict()
    return tuple((leaf, tuple(own[leaf].shape)) for leaf in own if "." not in leaf and leaf != COUNTER)


@dataclasses.dataclass(frozen=True, slots=True)
class _Lineage:
    """By the place of a layer: a bit for each layer upstream, the layer right before it, the image it takes flattened."""

    upstream: dict[int, int]
    fed_by: dict[int, int]
    grids: dict[int, tuple[int, ...]]


def _watch(network: nn.Module, places: Mapping[str, int], size_px: int) -> _Lineage:
    """Follow one image through a network whose tensors have shapes and no values."""
    import torch
    from torch.func import functional_call
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    shadow = {key: torch.empty_like(tensor, device="meta") for key, tensor in state.items()}
    owners = {id(tensor): places.get(key.rpartition(".")[0]) for key, tensor in shadow.items()}
    lineage = _Lineage({}, {}, {})
    below: dict[int, int] = {}
    made: dict[int, int] = {}
    grid: dict[int, tuple[int, ...]] = {}
    kept: list[Any] = []  # an id is that of one tensor only as long as this lives

    def note(given: list[Tensor], results: list[Tensor]) -> None:
        data = [each for each in given if id(each) not in owners]
        own = {place for each in given if (place := owners.get(id(each))) is not None}
        seen = 0
        for each in data:
            seen |= below.get(id(each), 0)
        for place in own if data else ():
            lineage.upstream[place] = lineage.upstream.get(place, 0) | seen
            for each in data:
                if id(each) in made:
                    lineage.fed_by[place] = made[id(each)]
                if id(each) in grid:
                    lineage.grids[place] = grid[id(each)]
        for result in results:
            kept.append(result)
            if own and not data:  # a weight seen another way, such as transposed
                owners[id(result)] = next(iter(own))
                continue
            below[id(result)] = seen | sum(1 << place for place in own)
            made.update({id(result): place for place in own})
            if flat := None if own else _find_grid(data, result, grid):
                grid[id(result)] = flat

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, operation: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
            results = operation(*args, **(kwargs or {}))
            tensors = [
                [each for each in tree_leaves(side) if isinstance(each, torch.Tensor)]
                for side in ((args, kwargs), results)
            ]
            note(*tensors)
            return results

    with torch.no_grad(), Watch():  # type: ignore[no-untyped-call]
        functional_call(network, shadow, (torch.zeros(1, 3, size_px, size_px, device="meta"),))
    return lineage


def _find_grid(given: Sequence[Tensor], result: Tensor, known: Mapping[int, tuple[int, ...]]) -> tuple[int, ...] | None:
    """Return (channels, height, width) of what a result is the flattened image of, if it is."""
    for each in given:
        if each.ndim == 4 and result.shape == (each.shape[0], each[0].numel()) and each.shape[2:].numel() > 1:
            return tuple(each.shape[1:])
        if each.shape == result.shape and id(each) in known:
            return known[id(each)]
    return None
