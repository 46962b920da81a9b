"""What the plan is told of a backbone: its weights, its input, and the lines at which it can be thawed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from thawline.errors import ModelError, OptionError, WeightsError
from thawline.learn.loading import fit_weights, load_backbone
from thawline.learn.stages import find_stages, list_lines
from thawline.learn.weight_files import Weights
from thawline.types import BackboneFacts

if TYPE_CHECKING:
    from torch import nn


def describe_backbone(
    weights: Weights, *, lines: bool = True, layers: bool = False, size_px: int | None = None, n_slices: int = 0
) -> BackboneFacts:
    """Describe a backbone; the ``lines`` between its blocks, and those between its ``layers``, take seconds to find.

    It is described for images of ``size_px``, by default those it was trained on, and for bags of ``n_slices``, whose
    activations are crossed as many times. A network whose blocks cannot be traced has no lines. Raises OptionError where it
    does not take images of that size.
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
        n_slices=n_slices,
    )
    resized = size_px != architecture.size_px
    if not (lines or layers or resized):
        return facts
    try:
        backbone = _load(fit_weights(weights, size_px))
    except WeightsError:
        if not resized:
            raise
        backbone = None
    if backbone is None or (resized and not _takes(backbone, size_px)):
        raise OptionError(
            f"{architecture.name} takes images of {architecture.size_px} px, as in its training, and fails on {size_px} px; "
            "leave out --size-px, or size_px in a plan file"
        )
    if not (lines or layers):
        return facts
    try:
        coarse = list_lines(find_stages(backbone), size_px)
        fine = list_lines(find_stages(backbone, fine=True), size_px) if layers else ()
    except ModelError:
        return facts
    if n_slices:
        coarse, fine = (
            tuple(dataclasses.replace(line, shape=(n_slices, *line.shape)) for line in lines)
            for lines in (coarse, fine)
        )
    return dataclasses.replace(facts, lines=coarse, fine_lines=fine)


def takes_size(weights: Weights, size_px: int) -> bool:
    """Tell whether a backbone computes features of images of ``size_px``."""
    try:
        return _takes(_load(fit_weights(weights, size_px)), size_px)
    except WeightsError:
        return False


def _load(weights: Weights) -> nn.Module:
    """Load the whole backbone, whatever is run of it."""
    return load_backbone(dataclasses.replace(weights, taps=(), thaw_line=None))


def _takes(backbone: nn.Module, size_px: int) -> bool:
    import torch

    try:
        with torch.inference_mode():
            backbone(torch.zeros(1, 3, size_px, size_px))
    except (AssertionError, RuntimeError, ValueError):
        return False
    return True
