"""Networks filled with their weights: whole, as backbones, at another size or for grey images, from a random start."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from thawline.errors import WeightsError
from thawline.learn.bags import take_slices
from thawline.learn.conversion import match_tensors, sees_one, widen_first
from thawline.learn.cuts import MEMBERS, load_ensemble, tap_lines
from thawline.learn.networks import (
    Architecture,
    build_network,
    classifier_keys,
    cut_classifier,
    draw_weights,
    fit_size,
    narrow_first,
)
from thawline.learn.stages import Stages, find_stages_at
from thawline.learn.volumetric import make_volumetric, redraw_kernels
from thawline.learn.weight_files import Weights, is_ordered, name_some, read_tensors
from thawline.learn.weights import PACKAGES
from thawline.types import NATIVE, Reading

if TYPE_CHECKING:
    from torch import Tensor, nn


def fit_weights(weights: Weights, size_px: int, reading: Reading | None = None) -> Weights:
    """Return the weights for images of ``size_px``, see `networks.fit_size`, and for items as they are read."""
    architecture = fit_size(weights.architecture, size_px)
    depth = weights.depth if reading is None else reading.depth
    return dataclasses.replace(weights, architecture=architecture, depth=depth)


def load_network(weights: Weights) -> nn.Module:
    """Build the network of ``weights`` and fill it, classifier included where the file has one. Raises WeightsError."""
    network = _build(weights)
    return _fill(network, weights, read_tensors(weights.path))


def _build(weights: Weights) -> nn.Module:
    """Build the network as the file has it, of three channels."""
    return build_network(dataclasses.replace(weights.architecture, summed=False))


def _fill(network: nn.Module, weights: Weights, tensors: Mapping[str, Tensor]) -> nn.Module:
    about, own = weights.architecture, network.state_dict()
    given = {key: tensor for key, tensor in tensors.items() if not key.startswith(MEMBERS)}
    if given.keys().isdisjoint(own):
        given = _rename(given, network, weights)
    given = _resample(given, network, about)
    is_narrow = any(key in own and sees_one(given[key], own[key]) for key in given)
    if about.summed and is_narrow:  # as a run has saved it
        narrow_first(network, about.name)
        own = network.state_dict()
    given = {key: widen_first(tensor, own[key]) if key in own else tensor for key, tensor in given.items()}
    missing, unexpected = own.keys() - given.keys(), given.keys() - own.keys()
    allowed = set() if weights.has_head else classifier_keys(network, weights.architecture)
    wrong = [
        f"{key}: expected {tuple(own[key].shape)}, found {tuple(given[key].shape)}"
        for key in own.keys() & given.keys()
        if own[key].shape != given[key].shape
    ]
    if missing - allowed or unexpected or wrong:
        raise WeightsError(
            f"{weights.path.name} does not fit {weights.architecture.model}: {len(missing - allowed)} tensors missing "
            f"({name_some(missing - allowed)}), {len(unexpected)} unknown ({name_some(unexpected)}), "
            f"{len(wrong)} of another shape ({name_some(wrong)})"
        )
    network.load_state_dict({**own, **given})
    if about.summed and not is_narrow:
        narrow_first(network, about.name)
    return network.eval()


def _resample(given: dict[str, Tensor], network: nn.Module, architecture: Architecture) -> dict[str, Tensor]:
    """Let timm resample positions to another grid of patches than that of the file, as it does for its own."""
    if "img_size" not in architecture.options:
        return given
    adapt = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how its own interpolation is laid out
        return given if adapt is None else dict(adapt(given, network))


def load_backbone(weights: Weights) -> nn.Module:
    """Build what ``weights`` say is run: normalised float32 (items[ x slices], 3, size, size) in, one row an item out."""
    tensors = read_tensors(weights.path)
    backbone = load_blocks(weights, tensors)
    if weights.thaw_line:
        return load_ensemble(find_stages_of(weights, backbone, [weights.thaw_line]), weights.thaw_line, tensors)
    if weights.taps:
        return tap_lines(find_stages_of(weights, backbone, weights.taps), weights.taps)
    return take_slices(backbone, weights.depth) if weights.depth else backbone


def load_blocks(weights: Weights, tensors: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Build the backbone as its blocks are: images, or volumes, in, features out. Raises WeightsError."""
    tensors = read_tensors(weights.path) if tensors is None else tensors
    backbone = cut_classifier(_fill(_build(weights), weights, tensors), weights.architecture)
    return make_volumetric(backbone, weights.depth.join) if weights.depth and weights.depth.is_volume else backbone


def find_stages_of(weights: Weights, network: nn.Module, lines: Sequence[str]) -> Stages:
    """Find stages of the network of ``weights`` that have all ``lines``, for the items that it takes."""
    about = weights.architecture
    return find_stages_at(network, lines).hold(weights.depth, int(about.options.get("img_size", about.size_px)))


def load_random(weights: Weights, seed: int) -> nn.Module:
    """Build the backbone of ``weights`` at its random start: the control of transfer, asked for by name only."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(weights.architecture)
        if weights.architecture.builder == "own":  # it comes trained
            draw_weights(network)
        backbone = cut_classifier(network, weights.architecture)
        if weights.depth is None or not weights.depth.is_volume or weights.depth.join == NATIVE:
            return backbone
        return redraw_kernels(make_volumetric(backbone, weights.depth.join))


def read_backbone_tensors(weights: Weights) -> dict[str, Tensor]:
    """Return the network's tensors without its classifier's, under the network's own names: what a model folder keeps."""
    network = load_network(weights)
    cut = classifier_keys(network, weights.architecture)
    return {key: tensor.contiguous() for key, tensor in network.state_dict().items() if key not in cut}


def _rename(given: Mapping[str, Tensor], network: nn.Module, weights: Weights) -> dict[str, Tensor]:
    """Bring foreign names to the network's own: those of a known package by order, others as far as that can be proved."""
    if weights.sha256 in {package.sha256 for package in PACKAGES}:
        return dict(zip(network.state_dict(), given.values(), strict=True))
    about, path = weights.architecture, weights.path
    head = classifier_keys(network, about)
    match = match_tensors(given, network, head, size_px=about.size_px, source=path.name, is_ordered=is_ordered(path))
    return match.tensors
