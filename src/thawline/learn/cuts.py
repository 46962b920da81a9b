"""Networks made of the parts of a cut backbone: activations at several lines at once, a classifier, an ensemble of them."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import TYPE_CHECKING

from thawline.errors import WeightsError
from thawline.learn.linear import LinearHead

if TYPE_CHECKING:
    from torch import Tensor, nn

    from thawline.learn.stages import Stages

MEMBERS = "members."  # in front of the names of an ensemble's tensors
RETRY = "copy the model folder again"
HIDDEN_UNITS = 64


def tap_lines(stages: Stages, lines: Sequence[str]) -> nn.Module:
    """Return the network from images to the activations at all ``lines``, one after the other in one row an item."""
    import torch
    from torch import nn

    class Tapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.prefix = stages.prefix(lines)

        def forward(self, images: Tensor) -> Tensor:
            return torch.cat([activations.flatten(1) for activations in self.prefix(images)], dim=1)

    return Tapped().eval()


def make_classifier(suffix: nn.Module, head: LinearHead, *, layers: int = 1, seed: int = 0) -> nn.Module:
    """Put a head on a suffix: activations in, logits (items, classes) out, those of the linear head to the last digits.

    The head's standardisation stays what it was, a normalisation without anything to train. With several ``layers`` the
    logits pass through fully connected layers with ReLU first: two units a class carry its positive and negative part,
    so that their difference is the logit, and further units, `HIDDEN_UNITS` in all, start where they change nothing.
    The suffix is taken as it is, so that training the classifier trains the network that it was cut from; give a copy
    where that is to stay.
    """
    import torch

    classifier = _join(suffix, len(head.mean), head.n_classes, layers)
    slopes, offsets = torch.from_numpy(head.coefficients).float(), torch.from_numpy(head.intercept).float()
    with torch.no_grad():
        classifier.get_buffer("standardise.running_mean").copy_(torch.from_numpy(head.mean))
        classifier.get_buffer("standardise.running_var").copy_(torch.from_numpy(head.scale**2))
        if layers > 1:
            slopes, offsets = _fill_hidden(classifier.get_submodule("hidden"), slopes, offsets, seed)
        classifier.get_parameter("linear.weight").copy_(slopes)
        classifier.get_parameter("linear.bias").copy_(offsets)
    return classifier.eval()


def freeze_above(suffix: nn.Module, blocks: Sequence[str], upper: str) -> None:
    """Let the blocks of a suffix, named from the top down, be trained from ``upper`` down only."""
    for parameters in group_parameters(suffix, blocks)[: blocks.index(upper)]:
        for parameter in parameters:
            parameter.requires_grad_(False)


def group_parameters(suffix: nn.Module, blocks: Sequence[str]) -> list[list[nn.Parameter]]:
    """Return the parameters of each block, named from the top down; what lies between two belongs to the lower one."""
    groups: list[list[nn.Parameter]] = [[] for _ in blocks] or [[]]
    place = len(groups) - 1
    for name, parameter in suffix.named_parameters():
        place = next((index for index, block in enumerate(blocks) if name.startswith(f"{block}.")), place)
        groups[place].append(parameter)
    return groups


def load_ensemble(stages: Stages, line: str, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Rebuild the ensemble above a line from the tensors of a model folder, ``members.0.suffix…`` among them.

    Images in, the members' logits in one row out. Each member has weights of its own, shared with nothing; the last may be
    the suffix as it was, with the frozen heads of all others. Raises WeightsError where tensors do not fit.
    """
    import torch
    from torch import nn

    members = [
        _load_member(stages.suffix(line), given, f"member {number} above {line}")
        for number, given in enumerate(split_members(tensors))
    ]
    sizes = [len(member.get_parameter("linear.bias")) for member in members]
    if len(set(sizes[:-1])) > 1 or sizes[-1] not in (sizes[0], sum(sizes[:-1])):
        raise WeightsError(
            f"expected members with the same classes above {line}, the last perhaps with all of theirs; found {sizes} "
            f"classes; {RETRY}"
        )

    class Ensemble(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.prefix = stages.prefix([line])
            self.members = nn.ModuleList(members)

        def forward(self, images: Tensor) -> Tensor:
            (activations,) = self.prefix(images)
            return torch.cat([member(activations) for member in self.members], dim=1)

    return Ensemble().eval()


def split_members(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Return the tensors of each member under the names they have in it. Raises WeightsError where a member is missing."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(MEMBERS):
            number, _, name = key.removeprefix(MEMBERS).partition(".")
            found.setdefault(number, {})[name] = tensor
    wanted = [str(number) for number in range(len(found))]
    if not found or found.keys() != set(wanted):
        raise WeightsError(f"expected members 0, 1, 2, … without a gap, found {', '.join(found) or 'none'}; {RETRY}")
    return [found[number] for number in wanted]


def _load_member(suffix: nn.Module, given: Mapping[str, Tensor], name: str) -> nn.Module:
    """Fill a copy of the suffix, and the head on it. Raises WeightsError with the ``name`` of the member."""
    import copy

    weight, first = given.get("linear.weight"), given.get("hidden.0.weight")
    if weight is None or weight.ndim != 2:
        shape = "none" if weight is None else tuple(weight.shape)
        raise WeightsError(f"{name}: expected linear.weight of shape (classes, features), found {shape}; {RETRY}")
    layers = 1 + sum(key.startswith("hidden.") and key.endswith(".weight") for key in given)
    width = weight.shape[1] if first is None else first.shape[1]
    member = _join(copy.deepcopy(suffix), width, weight.shape[0], layers)
    try:
        member.load_state_dict(dict(given))
    except RuntimeError as error:
        raise WeightsError(f"{name} does not fit: {shorten(str(error), 1000, placeholder=' …')}; {RETRY}") from error
    return member


def _join(suffix: nn.Module, n_features: int, n_classes: int, layers: int) -> nn.Module:
    """Put a standardisation and fully connected layers, yet to be filled, on a suffix."""
    import torch
    from torch import nn

    parts: dict[str, nn.Module] = {"suffix": suffix}
    nothing = torch.finfo(torch.float32).tiny  # torch before 2.12 refuses zero
    parts["standardise"] = nn.BatchNorm1d(n_features, eps=nothing, affine=False)
    if layers > 1:
        widths = [n_features] + [max(HIDDEN_UNITS, 2 * n_classes)] * (layers - 1)
        stack: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            stack += [_make_linear(before, after), nn.ReLU()]
        parts["hidden"], n_features = nn.Sequential(*stack), widths[-1]
    parts["linear"] = _make_linear(n_features, n_classes)
    return nn.Sequential(OrderedDict(parts))


def _make_linear(n_before: int, n_after: int) -> nn.Module:
    """Make a layer that is not initialised: that would draw from torch's global generator."""
    from torch import nn
    from torch.nn.utils import skip_init

    return skip_init(nn.Linear, n_before, n_after)  # type: ignore[no-untyped-call,no-any-return]


def _fill_hidden(hidden: nn.Module, slopes: Tensor, offsets: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Fill hidden layers so that a linear head passes through them; return slopes and offsets of the last layer.

    The units that carry it come first, the others start at random (He et al. 2015) with nothing behind them.
    """
    import torch

    n_classes, generator = len(slopes), torch.Generator().manual_seed(seed)
    carried = torch.cat([slopes, -slopes]), torch.cat([offsets, -offsets])
    layers = [layer for layer in hidden.children() if isinstance(layer, torch.nn.Linear)]
    for layer in layers:
        torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        layer.bias.zero_()
        layer.weight[: 2 * n_classes].zero_()
        layer.weight[: 2 * n_classes, : carried[0].shape[1]] = carried[0]
        layer.bias[: 2 * n_classes] = carried[1]
        carried = torch.eye(2 * n_classes), torch.zeros(2 * n_classes)
    last = torch.zeros(n_classes, layers[-1].out_features)
    last[:, :n_classes], last[:, n_classes : 2 * n_classes] = torch.eye(n_classes), -torch.eye(n_classes)
    return last, torch.zeros(n_classes)
