"""What the plan is told of a backbone: its weights, its input, and the lines at which it can be thawed."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING

from thawline.errors import ModelError, OptionError, WeightsError
from thawline.learn.loading import fit_weights, load_backbone
from thawline.learn.stages import find_stages, list_lines
from thawline.learn.volumetric import is_faithful, make_volumetric
from thawline.learn.weight_files import Weights
from thawline.types import NATIVE, BackboneFacts, Depth

if TYPE_CHECKING:
    from torch import nn


def describe_backbone(
    weights: Weights,
    *,
    lines: bool = True,
    layers: bool = False,
    size_px: int | None = None,
    depth: Depth | None = None,
) -> BackboneFacts:
    """Describe a backbone; the ``lines`` between its blocks, and those between its ``layers``, take seconds to find.

    It is described for images of ``size_px``, by default those it was trained on, and for items of several with a ``depth``.
    A network whose blocks cannot be traced has no lines. Raises OptionError where it does not take images of that size, or
    no volumes.
    """
    architecture = weights.architecture
    size_px = size_px or architecture.size_px
    facts = BackboneFacts(
        name=architecture.name,
        native_px=architecture.size_px,
        size_px=size_px,
        mean=architecture.mean,
        std=architecture.std,
        interpolation=architecture.interpolation,
        source=weights.source,
        licence=weights.licence,
        pretrained_on=weights.pretrained_on,
        folded_batchnorm=weights.folded_batchnorm,
        n_slices=depth.n_slices if depth else 0,
    )
    resized, whole = size_px != architecture.size_px, depth is not None and depth.is_volume
    if not (lines or layers or resized or whole):
        return facts
    try:
        backbone = _load(fit_weights(weights, size_px))
    except WeightsError:
        if not resized:
            raise
        backbone = None
    native = depth is not None and depth.join == NATIVE
    sides = (depth.n_slices, size_px) if depth is not None and native else (size_px,)
    if backbone is None or ((resized or native) and not _takes(backbone, *sides)):
        raise OptionError(
            f"{architecture.name} takes images of {architecture.size_px} px, as in its training, and fails on {size_px} px; "
            "leave out --size-px, or size_px in a plan file"
        )
    if depth is not None and whole:
        backbone = _make_whole(backbone, depth, architecture.name, size_px)
    if not (lines or layers):
        return facts
    try:
        stages = [find_stages(backbone, fine=fine) for fine in ((False, True) if layers else (False,))]
        found = [list_lines(each.hold(depth, size_px), size_px) for each in stages]
    except ModelError:
        return facts
    return dataclasses.replace(facts, lines=found[0], fine_lines=found[1] if layers else ())


def _make_whole(backbone: nn.Module, depth: Depth, name: str, size_px: int) -> nn.Module:
    """Return the backbone taken to three dimensions. Raises OptionError where that cannot be done."""
    made = make_volumetric(copy.deepcopy(backbone), depth.join)
    if depth.join != NATIVE and not is_faithful(backbone, depth.n_slices, size_px):
        raise OptionError(
            f"--dimensions 3d_{depth.join}: {name} does not mean the same on volumes ({depth.n_slices} slices of {size_px} "
            "px), or fails on them; choose another --backbone, such as efficientnet_lite0 or resnet18, or more --slices"
        )
    return made


def takes_size(weights: Weights, size_px: int) -> bool:
    """Tell whether a backbone computes features of images of ``size_px``."""
    try:
        return _takes(_load(fit_weights(weights, size_px)), size_px)
    except WeightsError:
        return False


def _load(weights: Weights) -> nn.Module:
    """Load the whole backbone, whatever is run of it."""
    return load_backbone(dataclasses.replace(weights, taps=(), thaw_line=None))


def _takes(backbone: nn.Module, *sides: int) -> bool:
    import torch

    try:
        with torch.inference_mode():
            backbone(torch.zeros(1, 3, *sides, sides[-1]))
    except (AssertionError, RuntimeError, ValueError):
        return False
    return True
