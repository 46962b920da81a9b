"""Weights of other makers, brought to the names and layout of a network here.

Tensors are matched by name where the names agree, else by order, and by order only where every role and shape agrees.
Order says nothing about two layers of one shape that lie side by side, such as the last convolution of a residual block and
that of its shortcut: there the names have to say which is which, or the file is refused.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from thawline.errors import WeightsError
from thawline.learn.keras_files import (
    KERAS_SUFFIXES,
    NUMBERED,
    KerasFile,
    KerasLayer,
    KerasNetwork,
    check_keras_network,
    read_keras,
)
from thawline.learn.lineage import COUNTER, Slot, trace_layers
from thawline.learn.networks import Architecture, Triple, build_network, classifier_keys
from thawline.learn.weight_files import SUFFIXES, is_ordered, name_some, read_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

AUXILIARY = ("AuxLogits.", "aux1.", "aux2.", "aux_classifier.")  # classifiers on the way, which no network here has
ROLES = ("conv", "depthwise", "pointwise", "dense", "norm")
COUNT = re.compile(r"(\d+)([a-z](?=[_.]|$))?")  # 4, or 4b as in block4b_expand_conv


@dataclasses.dataclass(frozen=True, slots=True)
class Match:
    """What a file holds for one network.

    ``tensors`` are under the network's own names, float32; ``pairs`` say (their name, ours). Without ``has_head`` there are
    none of the classifier. ``contract`` is the (mean, std) that the file itself asks for, where it holds such a layer.
    """

    tensors: dict[str, Tensor]
    pairs: tuple[tuple[str, str], ...]
    has_head: bool
    by: Literal["name", "order"]
    contract: tuple[Triple, Triple] | None = None

    def describe(self) -> str:
        """Return a few printable lines: how many tensors, matched how, the first pairs and the last."""
        shown = [*self.pairs[:3], *self.pairs[-1:]] if len(self.pairs) > 4 else list(self.pairs)
        lines = [f"  {theirs} -> {ours}" for theirs, ours in shown]
        if len(self.pairs) > 4:
            lines.insert(3, f"  ... {len(self.pairs) - 4} more")
        head = "with its classifier" if self.has_head else "without a classifier"
        return "\n".join([f"{len(self.pairs)} tensors matched by {self.by}, {head}", *lines])


def match_file(path: Path, architecture: Architecture) -> Match:
    """Read a weight file of PyTorch or Keras and match it onto the network of ``architecture``. Raises WeightsError."""
    if path.suffix in (*SUFFIXES, *KERAS_SUFFIXES) and not path.is_file():
        raise WeightsError(f"expected a weight file, found {path}, which is none; check the name")
    if path.suffix in KERAS_SUFFIXES:
        row = check_keras_network(architecture)
        file, network = read_keras(path), build_network(architecture)
        head = classifier_keys(network, architecture)
        return match_keras(file, network, head, row, size_px=architecture.size_px, source=path.name)
    if path.suffix not in SUFFIXES:
        wanted = ", ".join((*SUFFIXES, *KERAS_SUFFIXES))
        raise WeightsError(
            f"expected a weight file ({wanted}), found {path}; a .keras file is saved as one with "
            "model.save_weights('NAME.weights.h5')"
        )
    tensors, network = read_tensors(path), build_network(architecture)
    head = classifier_keys(network, architecture)
    return match_tensors(
        tensors, network, head, size_px=architecture.size_px, source=path.name, is_ordered=is_ordered(path)
    )


# --- a file of PyTorch ------------------------------------------------------------------------------------------------


def match_tensors(
    given: Mapping[str, Tensor],
    network: nn.Module,
    head: Collection[str] = (),
    *,
    size_px: int,
    source: str,
    is_ordered: bool = True,
) -> Match:
    """Match named tensors onto a network, by name or else by order; ``head`` names those that may be missing.

    A classifier of other layers or classes is left out. Raises WeightsError that says what does not fit.
    """
    own = {key: tensor for key, tensor in network.state_dict().items() if not key.endswith(COUNTER)}
    given = {key: tensor for key, tensor in given.items() if not key.endswith(COUNTER)}
    given = _strip_prefix(given, own)
    given = {key: tensor for key, tensor in given.items() if key in own or not key.startswith(AUXILIARY)}
    parts = tuple({f"{key.rpartition('.')[0]}." for key in head})
    given = {key: tensor for key, tensor in given.items() if key in own or not parts or not key.startswith(parts)}
    known = given.keys() & own.keys()
    if len(known) * 2 > len(own) or not is_ordered:
        missing, unknown = own.keys() - given.keys() - set(head), given.keys() - own.keys()
        if missing or unknown:
            raise WeightsError(
                f"{source} does not fit {_name(network)}: {len(missing)} tensors missing ({name_some(missing)}), "
                f"{len(unknown)} unknown ({name_some(unknown)}); take out what belongs to no layer, or, where all names are "
                "foreign, bring a .pth file, which keeps the order"
            )
        found = {key: (key, given[key]) for key in own if key in known}
        return _finish(found, network, head, "name", source)
    names = _pair_by_order(given, own, head, network, source)
    _check_numbers(list(names.values()), source)
    modules = {ours.rpartition(".")[0]: theirs.rpartition(".")[0] for ours, theirs in names.items()}
    slots = [slot for slot in trace_layers(network, size_px) if slot.name in modules]
    _check_beside(slots, modules, network, source)
    return _finish({ours: (theirs, given[theirs]) for ours, theirs in names.items()}, network, head, "order", source)


def _strip_prefix(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the first words that all names share, such as ``module.``, where more names are known without them."""
    best = stripped = dict(given)
    while stripped and len({key.partition(".")[0] for key in stripped}) == 1 and all("." in key for key in stripped):
        stripped = {key.partition(".")[2]: tensor for key, tensor in stripped.items()}
        if len(stripped.keys() & own.keys()) > len(best.keys() & own.keys()):
            best = stripped
    return best


def _pair_by_order(
    given: Mapping[str, Tensor], own: Mapping[str, Tensor], head: Collection[str], network: nn.Module, source: str
) -> dict[str, str]:
    """Pair our names with theirs in order where all roles and shapes agree, those of the classifier aside."""
    body = [key for key in own if key not in head]
    wanted = body if len(given) == len(body) else list(own)
    if len(given) != len(wanted):
        raise WeightsError(
            f"{source} does not fit {_name(network)}: no name is known and the number of tensors differs, expected "
            f"{len(own)} or, without the classifier, {len(body)}, found {len(given)}; these weights belong to another "
            "network"
        )
    for ours, theirs in zip(wanted, given, strict=True):
        if _leaf(ours) != _leaf(theirs) or (ours not in head and not _has_shape(given[theirs], own[ours])):
            raise WeightsError(
                f"{source} does not fit {_name(network)}: no name is known and the order differs, expected {ours} "
                f"{tuple(own[ours].shape)}, found {theirs} {tuple(given[theirs].shape)}; these weights belong to another "
                "network"
            )
        if theirs in own and theirs != ours:
            raise WeightsError(f"{source}: its order says that {theirs} is {ours}, its name says otherwise")
    return dict(zip(wanted, given, strict=True))


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _has_shape(given: Tensor, own: Tensor) -> bool:
    return given.shape == own.shape or sees_one(given, own)


def sees_one(given: Tensor, own: Tensor) -> bool:
    """Whether a first convolution was trained on one channel where ours sees three."""
    return given.ndim == 4 and given.shape[1] == 1 and own.shape == (given.shape[0], 3, *given.shape[2:])


def widen_first(given: Tensor, own: Tensor) -> Tensor:
    """Let a first convolution of one channel see the mean of three."""
    return given.expand_as(own) / 3 if sees_one(given, own) else given


def _finish(
    found: Mapping[str, tuple[str, Tensor]], network: nn.Module, head: Collection[str], by: Any, source: str
) -> Match:
    """Check every shape, leave out a classifier of other classes, and bring the tensors to float32."""
    import torch

    own = network.state_dict()
    fits = {key: _has_shape(tensor, own[key]) for key, (_, tensor) in found.items()}
    wrong = [
        f"{key}: expected {tuple(own[key].shape)}, found {tuple(found[key][1].shape)} ({found[key][0]})"
        for key in found
        if not fits[key] and key not in head
    ]
    if wrong:
        raise WeightsError(
            f"{source} does not fit {_name(network)}: {len(wrong)} tensors of another shape ({name_some(wrong)})"
        )
    spoilt = [key for key, (_, tensor) in found.items() if not bool(torch.isfinite(tensor).all())]
    if spoilt:
        raise WeightsError(
            f"{source}: expected finite numbers, found others in {name_some(spoilt)}; fetch the file again"
        )
    has_head = bool(head) and all(fits.get(key, False) for key in head)
    kept = {key: value for key, value in found.items() if has_head or key not in head}
    tensors = {key: widen_first(tensor.to(torch.float32), own[key]).contiguous() for key, (_, tensor) in kept.items()}
    counters = {key: torch.zeros_like(value) for key, value in own.items() if key.endswith(COUNTER)}
    pairs = tuple((theirs, key) for key, (theirs, _) in kept.items() if theirs)
    return Match({**tensors, **counters}, pairs, has_head, by)


# --- a file of Keras --------------------------------------------------------------------------------------------------


def match_keras(
    file: KerasFile,
    network: nn.Module,
    head: Collection[str] = (),
    row: KerasNetwork | None = None,
    *,
    size_px: int,
    source: str,
) -> Match:
    """Match the layers of Keras onto a network: role by role in order, those named by number in the order of creation.

    The epsilon of ``row`` goes into the variances where the network has another. A classifier of other layers or classes is
    left out. Raises WeightsError.
    """
    slots = trace_layers(network, size_px)
    other = next((slot for slot in slots if slot.role not in ROLES), None)
    if other is not None:
        raise WeightsError(f"{_name(network)}: layer {other.name} is of a kind that no file of Keras is converted to")
    pattern = re.compile(row.numbered) if row and row.numbered else None
    paired = _pair_layers(file.layers, slots, head, pattern, network, source)
    for role in ROLES:
        names = [layer.name for layer in file.layers if layer.role == role]
        _check_numbers(
            [name for name in names if not (pattern and NUMBERED.fullmatch(name))], source, row.kinds if row else ""
        )
    found: dict[str, tuple[str, Tensor]] = {}
    for slot, layer in paired:
        found |= _fit_layer(slot, layer, network, source)
    plain = [slot for slot, _ in paired if not (pattern and pattern.search(slot.name))]
    _check_beside(plain, {slot.name: layer.name for slot, layer in paired}, network, source)
    match = _finish({key: found[key] for key in network.state_dict() if key in found}, network, head, "order", source)
    if row is not None:
        _move_epsilon(match.tensors, network, row.epsilon)
    return dataclasses.replace(match, contract=file.contract)


def _pair_layers(
    layers: Sequence[KerasLayer],
    slots: Sequence[Slot],
    head: Collection[str],
    numbered: re.Pattern[str] | None,
    network: nn.Module,
    source: str,
) -> list[tuple[Slot, KerasLayer]]:
    layers = _rename_roles(layers, slots)
    separable = any(layer.role == "pointwise" for layer in layers)
    if not separable:
        slots = [dataclasses.replace(slot, role="conv") if slot.role == "pointwise" else slot for slot in slots]
    body = [slot for slot in slots if not any(key.startswith(f"{slot.name}.") for key in head)]
    if _count_dense(layers) != _count_dense(slots) and _count_dense(slots) == len(slots) - len(body):
        layers, slots = [layer for layer in layers if layer.role != "dense"], body  # a head of other layers, or none
    ours, theirs = (
        _sort_groups(slots, numbered and numbered.search),
        _sort_groups(layers, numbered and NUMBERED.fullmatch),
    )
    places = {name: place for place, (name, _) in enumerate(network.named_modules())}
    paired = []
    for role, by_number in itertools.product(ROLES, (False, True)):
        left, right = ours.get((role, by_number), []), theirs.get((role, by_number), [])
        if len(left) != len(right):
            raise WeightsError(
                f"{source} does not fit {_name(network)}: expected {len(left)} layers of the role {role}"
                f"{' that Keras names by number' if by_number else ''}, found {len(right)}; these weights belong to another "
                "network, or the file keeps no names (save the whole model as NAME.h5)"
            )
        if by_number:
            left = sorted(left, key=lambda slot: places[slot.name])
            right = sorted(right, key=lambda layer: _creation(layer.name))
        paired += list(zip(left, right, strict=True))
    return paired


def _count_dense(items: Sequence[Any]) -> int:
    return sum(item.role == "dense" for item in items)


def _sort_groups(items: Sequence[Any], is_numbered: Callable[[str], Any] | None) -> dict[tuple[str, bool], list[Any]]:
    groups: dict[tuple[str, bool], list[Any]] = {}
    for item in items:
        groups.setdefault((item.role, bool(is_numbered and is_numbered(item.name))), []).append(item)
    return groups


def _creation(name: str) -> int:
    match = NUMBERED.fullmatch(name)
    return int(match[2] or 0) if match else 0


def _rename_roles(layers: Sequence[KerasLayer], slots: Sequence[Slot]) -> list[KerasLayer]:
    """Take a last 1 x 1 convolution for the dense layer that the network has instead, as in Keras' MobileNet."""
    convolutions = [layer for layer in layers if layer.role == "conv"]
    is_needed = any(slot.role == "dense" for slot in slots) and not any(layer.role == "dense" for layer in layers)
    n_slots = sum(slot.role in ("conv", "pointwise") for slot in slots)
    if not is_needed or len(convolutions) != n_slots + 1 or convolutions[-1].tensors["weight"].shape[2:] != (1, 1):
        return list(layers)
    last = convolutions[-1]
    tensors = {**last.tensors, "weight": last.tensors["weight"].flatten(1)}
    return [dataclasses.replace(layer, role="dense", tensors=tensors) if layer is last else layer for layer in layers]


def _fit_layer(slot: Slot, layer: KerasLayer, network: nn.Module, source: str) -> dict[str, tuple[str, Tensor]]:
    """Bring one layer of Keras to a slot: absent scale and shift filled, a flattened image in our order."""
    import torch

    shapes = dict(slot.shapes)
    tensors = dict(layer.tensors)
    if slot.role == "norm":
        fill = {"weight": torch.ones(shapes["running_mean"]), "bias": torch.zeros(shapes["running_mean"])}
        tensors = {leaf: fill[leaf] for leaf in fill if leaf in shapes} | tensors
    if slot.grid is not None and tensors["weight"].shape == shapes["weight"]:
        channels, height, width = slot.grid
        weight = tensors["weight"].reshape(-1, height, width, channels)  # Keras flattens with the channels last
        tensors["weight"] = weight.permute(0, 3, 1, 2).flatten(1)
    if tensors.keys() != shapes.keys():
        raise WeightsError(
            f"{source} does not fit {_name(network)}: expected {', '.join(shapes)} for {slot.name}, found "
            f"{', '.join(layer.tensors)} in {layer.name}; a bias on one side only means another "
            "network, as with Keras' ResNet"
        )
    return {f"{slot.name}.{leaf}": (layer.sources.get(leaf, ""), tensor) for leaf, tensor in tensors.items()}


def _move_epsilon(tensors: dict[str, Tensor], network: nn.Module, epsilon: float) -> None:
    """Add to each variance what the epsilon of Keras' normalisation is above ours: the same function, exactly."""
    for name, module in network.named_modules():
        if f"{name}.running_var" in tensors:
            own: Any = module.eps
            tensors[f"{name}.running_var"] = tensors[f"{name}.running_var"] + (epsilon - own)


# --- what order cannot say --------------------------------------------------------------------------------------------


def _check_beside(slots: Sequence[Slot], theirs: Mapping[str, str], network: nn.Module, source: str) -> None:
    """Refuse layers that lie side by side in one shape, where the names in the file do not tell them apart."""
    for one, two in itertools.combinations(slots, 2):
        if one.is_beside(two) and not _tells_apart((one.name, two.name), (theirs[one.name], theirs[two.name])):
            raise WeightsError(
                f"{source}: {one.name} and {two.name} of {_name(network)} have the same shape and lie side by side, so the "
                f"order does not say which is which, and neither do the names {theirs[one.name]} and {theirs[two.name]}; "
                "bring a PyTorch file with the names of timm or torchvision"
            )


def _tells_apart(ours: tuple[str, str], theirs: tuple[str, str]) -> bool:
    """Whether the last words of two names, as many as it takes to differ by more than a number, are in theirs as well."""
    left, right = (name.split(".") for name in ours)
    for length in range(1, min(len(left), len(right)) + 1):
        words = left[-length], right[-length]
        if words[0] != words[1]:
            agree = all(a.split(".")[-length:] == b.split(".")[-length:] for a, b in zip(ours, theirs, strict=True))
            return agree and not all(word.isdigit() for word in words)
    return False


def _check_numbers(names: Sequence[str], source: str, kinds: str = "") -> None:
    """Refuse names that differ in their numbers only and do not count up: the order was lost, or never kept.

    ``kinds`` finds a beginning whose numbers tell kinds of blocks apart and count nothing.
    """
    last: dict[str, tuple[list[tuple[int, str]], str]] = {}
    for name in names:
        kind = found[0] if kinds and (found := re.match(kinds, name)) else ""
        numbers = [(int(number), letter) for number, letter in COUNT.findall(name[len(kind) :])]
        pattern = kind + COUNT.sub("#", name[len(kind) :])
        before, earlier = last.get(pattern, ([], ""))
        if numbers < before:
            raise WeightsError(
                f"{source}: expected {name} before {earlier}; the order of the layers was lost, so it cannot stand for "
                "their names. Bring the file as it was first saved"
            )
        last[pattern] = numbers, name


def _name(network: nn.Module) -> str:
    return type(network).__name__
