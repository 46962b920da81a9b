"""Folders of weights for a machine without internet: packed or brought in, listed in a manifest, verified.

A packed folder holds one ``NAME.safetensors`` and its description ``NAME.json`` for each network, and ``manifest.json``
with the SHA-256 of both. ``THAWLINE_WEIGHTS`` or ``--weights`` names it; a changed byte in either file is refused.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import thawline
from thawline.cache import cache_path
from thawline.errors import WeightsError
from thawline.files import file_digest, write_json
from thawline.learn.backbones import BACKBONES, find_architecture, find_row
from thawline.learn.conversion import Match, match_file
from thawline.learn.keras_files import (
    KERAS_SUFFIXES,
    find_keras_network,
    flip_first_convolution,
    input_contract,
)
from thawline.learn.loading import load_network, read_backbone_tensors
from thawline.learn.networks import fit_size
from thawline.learn.weight_files import MANIFEST, Weights, describe_file, read_manifest, read_sidecar, write_weights
from thawline.learn.weights import find_weights, list_files, place_weights, weight_folders

if TYPE_CHECKING:
    from torch import Tensor


NOT_STATED = "not stated"


@dataclasses.dataclass(frozen=True, slots=True)
class Checked:
    """Weights that were looked at; ``problem`` is empty where they are what their description says."""

    name: str
    place: str
    problem: str = ""


def pack_weights(folder: Path, names: Sequence[str]) -> Iterator[Weights]:
    """Put the weights of each network into a folder, one after the other, and list them in its manifest.

    Those that are not at hand are fetched. Raises WeightsError, OptionError, OutputError.
    """
    for name in names:
        found = find_weights(name)
        # under the network's own names, whatever those of the file were
        tensors = load_network(found).state_dict() if found.has_head else read_backbone_tensors(found)
        yield add_to_folder(folder, found, tensors)


def add_to_folder(folder: Path, weights: Weights, tensors: Mapping[str, Tensor]) -> Weights:
    """Write tensors with their description into a folder and list both in its manifest.

    Raises OutputError, and WeightsError for a manifest that cannot be read.
    """
    listed = read_manifest(folder)
    stem = weights.architecture.name.replace("/", "_")
    written = write_weights(folder / f"{stem}.safetensors", tensors, weights)
    listed[stem] = {**describe_file(written), "description_sha256": file_digest(written.path.with_suffix(".json"))}
    write_json(folder / MANIFEST, {"schema": 1, "thawline": thawline.__version__, "weights": listed})
    return written


def import_weights(
    file: Path,
    name: str,
    folder: Path,
    *,
    preprocessing: str | None = None,
    size_px: int | None = None,
    licence: str = NOT_STATED,
    pretrained_on: str = "",
) -> tuple[Weights, Match]:
    """Bring a weight file of PyTorch or Keras to the network ``name``, and write it with its description into a folder.

    ``preprocessing`` is one of Keras' modes, where images are to be prepared otherwise than as the network's row, the
    file or its network of Keras says; ``size_px`` likewise. Raises WeightsError, OptionError, OutputError.
    """
    row, architecture = find_row(name), find_architecture(name)
    keras = find_keras_network(architecture) if file.suffix in KERAS_SUFFIXES else None
    options = {**architecture.options, **(keras.options if keras else {})}
    architecture = dataclasses.replace(architecture, options=options)
    if size_px is not None:
        architecture = dataclasses.replace(fit_size(architecture, size_px), size_px=size_px)
    match = match_file(file, architecture)
    mode = preprocessing or (keras.mode if keras else None)
    if mode is not None:
        mean, std = input_contract(mode) if preprocessing or match.contract is None else match.contract
        architecture = dataclasses.replace(architecture, mean=mean, std=std)
    tensors = flip_first_convolution(match.tensors) if mode == "caffe" else match.tensors
    given = row.pretrained_on if row and not row.is_fetched else NOT_STATED  # a row without a hub names its own weights
    about = Weights(
        architecture,
        file,
        "",
        source=f"imported from {file.name}, SHA-256 {file_digest(file)}",
        licence=licence,
        pretrained_on=pretrained_on or given,
        has_head=match.has_head,
    )
    return add_to_folder(folder, about, tensors), match


def verify_weights(folder: Path | None = None) -> Iterator[Checked]:
    """Check every file of weights in a folder against its description and the manifest; without one, all on this machine.

    Raises WeightsError where there is no such folder.
    """
    if folder is not None:
        if not folder.is_dir():
            raise WeightsError(f"expected a folder of weights, found {folder}; check the name")
        yield from _verify_folder(folder, str(folder))
        return
    for each in weight_folders():
        yield from _verify_folder(each, "folder")
    for row in BACKBONES:
        if place_weights(row) == "package":
            yield _check(row.name, "package", functools.partial(find_weights, row.name))
    for each in sorted((cache_path() / "weights").glob("*")):
        yield from _verify_folder(each, "cache")


def _verify_folder(folder: Path, place: str) -> Iterator[Checked]:
    """Check the files of a folder; also what the manifest lists and the folder lacks."""
    try:
        listed = set(read_manifest(folder))
    except WeightsError as error:
        listed = set()
        yield Checked(MANIFEST, place, str(error))
    for path in list_files(folder):
        listed.discard(path.stem)
        yield _check(path.stem, place, functools.partial(read_sidecar, path, path.stem))
    for name in sorted(listed):
        yield Checked(name, place, f"{folder / MANIFEST} lists it, and it is not there; pack or copy it again")


def _check(name: str, place: str, look: Callable[[], Weights]) -> Checked:
    try:
        look()
    except WeightsError as error:
        return Checked(name, place, str(error))
    return Checked(name, place)
