"""Stages: the blocks of a backbone at which a thaw line can lie, found in the network's own structure.

The network is traced with `torch.fx` (Reed et al. 2022), its blocks kept whole. A line lies in front of a block where one
tensor alone crosses from what is below to what is above, and no weights serve on both sides. Prefix and suffix share the
modules of the network they were cut from, and their names.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from thawline.errors import ModelError, OptionError
from thawline.learn.bags import LINE, make_attention, merge, part, pool, stack
from thawline.learn.networks import count_parameters
from thawline.types import ATTENTION, Depth, Line

if TYPE_CHECKING:
    from torch import Tensor, fx, nn

LEAST_STAGES = 5  # with fewer, the largest block is opened


@dataclasses.dataclass(frozen=True)
class Stages:
    """A traced backbone; ``crossings`` names its lines, top to bottom, with the node whose tensor crosses each.

    With a ``depth`` an item is several images, one after the other. Of a bag (items, slices, …) cross a line, and what is
    above all lines joins their features; a volume is put together below all lines.
    """

    network: nn.Module
    graph: fx.Graph
    crossings: dict[str, fx.Node]
    opened: frozenset[str]
    depth: Depth | None = None

    @property
    def bag(self) -> Depth | None:
        """The depth, where the network takes slices one by one."""
        return None if self.depth is None or self.depth.is_volume else self.depth

    def hold(self, depth: Depth | None, size_px: int) -> Stages:
        """Return the stages for items of so many images; attention over slices is a part of the network, and has a line.

        The network is to take images of ``size_px``.
        """
        if depth is None or depth.join != ATTENTION:
            return dataclasses.replace(self, depth=depth)
        top = _find_output(self.graph)
        if not hasattr(self.network, LINE):
            self.network.add_module(LINE, make_attention(_count_features(self.network, size_px)).eval())
        return dataclasses.replace(self, depth=depth, crossings={LINE: top, **self.crossings})

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the lines, top to bottom; the last one thaws everything."""
        return tuple(self.crossings)

    def prefix(self, lines: Sequence[str]) -> nn.Module:
        """Return what is below: images to the activations at each of the lines, a tuple in their order.

        Raises OptionError for a line that is none.
        """
        return self._take(None, tuple(self._cross(line) for line in lines))

    def suffix(self, line: str) -> nn.Module:
        """Return what is above a line: its activations to features. Raises OptionError for a line that is none."""
        return self._take(self._cross(line), _find_output(self.graph), is_whole=True)

    def between(self, lower: str, upper: str) -> nn.Module:
        """Return what carries the activations at one line to a line above it, or to itself.

        Raises OptionError for a line that is none, and where ``upper`` lies below ``lower``.
        """
        start, end = self._cross(lower), self._cross(upper)
        if self.names.index(upper) > self.names.index(lower):
            raise OptionError(
                f"expected {lower!r} or a line above it, found {upper!r}, which is below; exchange the two"
            )
        return self._take(start, end)

    def _cross(self, line: str) -> fx.Node:
        if line not in self.crossings:
            raise OptionError(f"--thaw-line: expected one of {', '.join(self.crossings)}; found {line!r}")
        return self.crossings[line]

    def _leave(self, graph: fx.Graph, node: fx.Node, *, is_whole: bool) -> fx.Node:
        """Add what is done with the slices of a bag at the end of a part: joined where it ``is_whole``, else kept apart."""
        bag = self.bag
        if bag is None:
            return node
        if is_whole and bag.join != ATTENTION:
            return graph.call_function(pool, (node, bag.n_slices, bag.join))
        parted = graph.call_function(part, (node, bag.n_slices))
        return graph.call_module(LINE, (parted,)) if is_whole else parted

    def _take(self, start: fx.Node | None, end: fx.Node | tuple[fx.Node, ...], *, is_whole: bool = False) -> nn.Module:
        """Copy the part of the graph that leads from ``start`` (None: the images) to ``end``; ``is_whole`` to the very end.

        What crosses a line is cloned, since blocks may overwrite their input.
        """
        from torch import fx

        ends = end if isinstance(end, tuple) else (end,)
        needed = _trace_back(ends, start)
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        if start is not None:
            given = graph.placeholder("activations")
            copies[start] = graph.call_method("clone", (graph.call_function(merge, (given,)) if self.bag else given,))
        found = dict(copies)
        for node in self.graph.nodes:
            if node in needed:
                copies[node] = graph.node_copy(node, copies.__getitem__)
                if node.op == "placeholder" and self.depth and self.depth.is_volume:
                    copies[node] = graph.call_function(stack, (copies[node], self.depth.n_slices))
                found[node] = graph.call_method("clone", (copies[node],)) if node in ends else copies[node]
        for node in ends:
            found[node] = self._leave(graph, found[node], is_whole=is_whole)
        graph.output(tuple(found[node] for node in ends) if isinstance(end, tuple) else found[end])
        return fx.GraphModule(self.network, graph)


def find_stages(network: nn.Module, *, fine: bool = False) -> Stages:
    """Trace a backbone and find its lines: between its blocks, or, where ``fine``, between as small parts as there are.

    Raises ModelError for a network whose forward pass cannot be traced.
    """
    try:
        stages = _trace(network, frozenset())
    except Exception as error:  # tracing runs the network's own code, which raises anything
        raise ModelError(
            f"the blocks of {type(network).__name__} cannot be traced ({type(error).__name__}: {error}), so no thaw line "
            "can be found; use it frozen, with --strategy feature_extractor, or choose another --backbone"
        ) from error
    tried: set[str] = set()
    while fine or len(stages.crossings) < LEAST_STAGES:
        block = _find_largest(stages, tried)
        if not block:
            break
        tried.update(block)
        try:
            finer = _trace(network, stages.opened | block)
        except Exception:  # noqa: S112, BLE001 - a block that cannot be traced stays whole
            continue
        if len(finer.crossings) > len(stages.crossings):
            stages = finer
    return stages


def find_stages_at(network: nn.Module, lines: Sequence[str]) -> Stages:
    """Find stages that have all ``lines``: between blocks, or where one of them is no block between the smallest parts.

    Raises ModelError as `find_stages`.
    """
    stages = find_stages(network)
    return stages if {*lines} - {LINE} <= set(stages.names) else find_stages(network, fine=True)


def list_lines(stages: Stages, size_px: int) -> tuple[Line, ...]:
    """Describe the lines, top to bottom: shares of parameters and of compute above each, shape of what crosses.

    The network is to be in eval mode. Compute is that of one image, or of one volume. Raises ModelError where its parts, one
    after the other, are not what the whole is.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    names, depth = stages.names, stages.depth
    parameters = [count_parameters(stages.suffix(name)) for name in names]
    stages = dataclasses.replace(stages, depth=None)
    flops, shapes = [], []
    shape = (3, depth.n_slices, size_px, size_px) if depth and depth.is_volume else (3, size_px, size_px)
    images = torch.linspace(-1, 1, math.prod(shape)).reshape(1, *shape)
    crossing: Tensor = images
    upper: list[Any] = [*names[:-1][::-1], None]
    with torch.enable_grad():  # without gradients the counter fails on a block that is given a parameter
        for line, above in zip(names[::-1], upper, strict=True):
            shapes.append(tuple(crossing.shape[1:]))
            part = stages.suffix(line) if above is None else stages.between(line, above)
            with FlopCounterMode(display=False) as counter:
                crossing = part(crossing).detach()
            flops.append(counter.get_total_flops())
    with torch.no_grad():
        _check_same(crossing, stages.network(images), stages.network)
    compute = [sum(flops[len(flops) - 1 - place :]) for place in range(len(names))]
    front = () if depth is None or depth.is_volume else (depth.n_slices,)
    return tuple(
        Line(name, count / parameters[-1], share / max(compute[-1], 1), (*front, *shape))
        for name, count, share, shape in zip(names, parameters, compute, shapes[::-1], strict=True)
    )


def _trace(network: nn.Module, opened: frozenset[str]) -> Stages:
    """Trace with all blocks kept whole but the ``opened`` ones, and find where lines can lie."""
    from torch import fx

    class BlockTracer(fx.Tracer):
        def is_leaf_module(self, _module: nn.Module, name: str) -> bool:
            return name not in opened

    options = list(inspect.signature(network.forward).parameters.values())[1:]
    defaults = {option.name: option.default for option in options if option.default is not option.empty}
    graph = BlockTracer().trace(network, defaults)
    images = next(node for node in graph.nodes if node.op == "placeholder")
    output = _find_output(graph)
    used = _trace_back((output,), None)
    crossings: dict[str, fx.Node] = {}
    for node in graph.nodes:
        if node not in used or node.op != "call_module" or not _trains(network.get_submodule(str(node.target))):
            continue
        if not crossings:
            crossings[str(node.target)] = images
        elif node.all_input_nodes and (below := node.all_input_nodes[0]) not in crossings.values():
            above = _trace_back((output,), below)
            if images not in above and not _share_weights(network, above, _trace_back((below,), None)):
                crossings[str(node.target)] = below
    if not crossings:
        raise ValueError("it has no block with weights to train")
    return Stages(network, graph, dict(reversed(crossings.items())), opened)


def _trace_back(ends: Sequence[fx.Node], start: fx.Node | None) -> set[fx.Node]:
    """Return all nodes that ``ends`` depend on other than through ``start``."""
    found: set[fx.Node] = set()
    waiting = [node for node in ends if node is not start]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += [given for given in node.all_input_nodes if given is not start]
    return found


def _check_same(found: Tensor, expected: Tensor, network: nn.Module) -> None:
    """Raise ModelError where a network does more than its trace shows, such as a change in place that it does not use."""
    import torch

    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())):
        raise ModelError(
            f"the parts of {type(network).__name__} should give what the whole network gives, but differ by up to "
            f"{float((found - expected).abs().max()):.3g}; use it frozen, with --strategy feature_extractor"
        )


def _share_weights(network: nn.Module, above: set[fx.Node], below: set[fx.Node]) -> bool:
    """Tell whether any parameter serves above and below: training the one would change the other."""
    return not _find_weights(network, above).isdisjoint(_find_weights(network, below))


def _find_weights(network: nn.Module, nodes: set[fx.Node]) -> set[int]:
    """Identify the parameters that these nodes use."""
    from torch import nn

    found: set[int] = set()
    for node in nodes:
        if node.op == "call_module":
            found.update(map(id, network.get_submodule(str(node.target)).parameters()))
        elif node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            value = getattr(network.get_submodule(owner), name)
            found.update([id(value)] if isinstance(value, nn.Parameter) else [])
    return found


def _find_largest(stages: Stages, tried: set[str]) -> frozenset[str]:
    """Name the largest block not ``tried`` that holds several blocks, with the shells around them; empty where none does."""
    found: dict[frozenset[str], int] = {}
    for node in stages.graph.nodes:
        if node.op != "call_module" or node.target in tried:
            continue
        name, shells = str(node.target), set()
        parts = _list_parts(stages.network, name)
        while parts:
            shells.add(name)
            if len(parts) > 1:
                found[frozenset(shells)] = count_parameters(stages.network.get_submodule(name))
                break
            name = parts[0]
            parts = _list_parts(stages.network, name)
    return max(found, key=found.__getitem__, default=frozenset())


def _list_parts(network: nn.Module, name: str) -> list[str]:
    """Names of the blocks inside a block that have something to train."""
    return [f"{name}.{part}" for part, module in network.get_submodule(name).named_children() if _trains(module)]


def _trains(module: nn.Module) -> bool:
    """Tell whether a block has weights of its own to train, more than those of a normalisation."""
    from torch import nn

    norms = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
    parts = [part for part in module.modules() if next(part.parameters(recurse=False), None) is not None]
    return any(not isinstance(part, norms) for part in parts)


def _count_features(network: nn.Module, size_px: int) -> int:
    """Return how wide the features of a backbone are."""
    import torch

    with torch.inference_mode():
        return int(network(torch.zeros(1, 3, size_px, size_px)).shape[1])


def _find_output(graph: fx.Graph) -> fx.Node:
    """Return the node that the graph returns. Raises ValueError where it returns anything but one."""
    end = next(node for node in graph.nodes if node.op == "output")
    found: Any = end.args[0]
    if len(end.all_input_nodes) != 1 or found is not end.all_input_nodes[0]:
        raise ValueError("it returns something else than one tensor")
    return found  # type: ignore[no-any-return]
