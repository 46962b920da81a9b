"""Networks made of the parts of a cut backbone: activations at several lines at once, a classifier, an ensemble of them."""

from __future__ import annotations

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


def make_classifier(suffix: nn.Module, head: LinearHead) -> nn.Module:
    """Put a linear head on a suffix: activations in, logits (items, classes) out.

    The head's standardisation stays what it was, a normalisation without anything to train, so that the logits are those of
    the head on the features of the suffix. The suffix is taken as it is, so that training the classifier trains the network
    that it was cut from; give a copy where that is to stay.
    """
    import torch

    classifier = _join(suffix, len(head.mean), head.n_classes)
    with torch.no_grad():
        classifier.get_buffer("standardise.running_mean").copy_(torch.from_numpy(head.mean))
        classifier.get_buffer("standardise.running_var").copy_(torch.from_numpy(head.scale**2))
        classifier.get_parameter("linear.weight").copy_(torch.from_numpy(head.coefficients))
        classifier.get_parameter("linear.bias").copy_(torch.from_numpy(head.intercept))
    return classifier.eval()


def load_ensemble(stages: Stages, line: str, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Rebuild the ensemble above a line from the tensors of a model folder, ``members.0.suffix…`` among them.

    Images in, the members' logits in one row of (members x classes) out. Each member has weights of its own, shared with
    nothing. Raises WeightsError where tensors do not fit.
    """
    import torch
    from torch import nn

    members = [
        _load_member(stages.suffix(line), given, f"member {number} above {line}")
        for number, given in enumerate(split_members(tensors))
    ]
    if len(sizes := {len(member.get_parameter("linear.bias")) for member in members}) > 1:
        raise WeightsError(
            f"expected members with the same classes above {line}, found {sorted(sizes)} classes; {RETRY}"
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

    weight = given.get("linear.weight")
    if weight is None or weight.ndim != 2:
        shape = "none" if weight is None else tuple(weight.shape)
        raise WeightsError(f"{name}: expected linear.weight of shape (classes, features), found {shape}; {RETRY}")
    member = _join(copy.deepcopy(suffix), weight.shape[1], weight.shape[0])
    try:
        member.load_state_dict(dict(given))
    except RuntimeError as error:
        raise WeightsError(f"{name} does not fit: {shorten(str(error), 1000, placeholder=' …')}; {RETRY}") from error
    return member


def _join(suffix: nn.Module, n_features: int, n_classes: int) -> nn.Module:
    """Put a standardisation and a linear layer, yet to be filled, on a suffix."""
    from torch import nn
    from torch.nn.utils import skip_init

    standardise = nn.BatchNorm1d(n_features, eps=0.0, affine=False)
    # not initialised: that would draw from torch's global generator
    linear = skip_init(nn.Linear, n_features, n_classes)  # type: ignore[no-untyped-call]
    return nn.Sequential(OrderedDict(suffix=suffix, standardise=standardise, linear=linear))
