"""Files of weights and the descriptions beside them: read, checked, written.

A file ``NAME.safetensors``, ``.pth``, ``.pt`` or ``.bin`` is described by a sidecar ``NAME.json`` (architecture, builder
options, input contract, SHA-256, licence, has_head): without one it is refused, because the wrong padding or mean loads
silently. Nothing that a file may hold is run.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thawline.errors import WeightsError
from thawline.files import file_digest, write_atomic, write_json
from thawline.learn.networks import BUILDERS, Architecture, find_contract_problem
from thawline.types import Depth

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
MANIFEST = "manifest.json"
KEYS = (
    "architecture",
    "backbone",
    "builder_options",
    "contract",
    "folded_batchnorm",
    "has_head",
    "licence",
    "pretrained_on",
    "sha256",
    "source",
)
NESTED = ("state_dict", "model_state_dict", "model")  # where training scripts keep a network's tensors


@dataclasses.dataclass(frozen=True, slots=True)
class Weights:
    """One file of weights and the network it belongs to.

    What is run of it: the backbone up to its pooled features; with ``taps`` the activations at these lines instead, one
    after the other in one row; with a ``thaw_line`` the ensemble that was trained above it, whose members the file holds
    as well. With a ``depth`` an item is several images, and the network takes them as that says.
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
    depth: Depth | None = None

    def describe(self) -> dict[str, Any]:
        """What a run records of its weights; no path, since paths are private to the machine."""
        fields = ("sha256", "source", "licence", "pretrained_on", "has_head", "folded_batchnorm")
        return {"name": self.architecture.name, **{name: getattr(self, name) for name in fields}}

    def describe_output(self) -> Any:
        """What the network that is run puts out: part of the key of everything that is computed with it."""
        found: Any = {"line": self.thaw_line, "output": "logits"} if self.thaw_line else list(self.taps) or "pooled"
        return {"output": found, **dataclasses.asdict(self.depth)} if self.depth else found

    @property
    def n_images(self) -> int:
        """How many images an item is."""
        return self.depth.n_slices if self.depth else 1


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
    listed = read_manifest(path.parent).get(path.stem)
    if listed is not None:
        check_digest(sidecar, str(listed.get("description_sha256")))
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
        licence, has_head = str(facts["licence"]), facts["has_head"]
        if not isinstance(has_head, bool):
            raise TypeError(f"has_head is {has_head!r}, expected true or false")
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise WeightsError(f"{sidecar}: cannot be used as a description of weights: {error!r}") from error
    _check_keys(facts, sidecar)
    if problem := find_contract_problem(architecture):
        raise WeightsError(f"{sidecar}: {problem}")
    if library not in BUILDERS:
        wanted = ", ".join(f"{builder}/NAME" for builder in BUILDERS)
        raise WeightsError(f"{sidecar}: expected an architecture {wanted}, found {library!r}")
    return Weights(
        architecture,
        path,
        check_digest(path, expected),
        source=str(facts.get("source", "file")),
        licence=licence,
        pretrained_on=str(facts.get("pretrained_on", "unknown")),
        has_head=has_head,
        folded_batchnorm=bool(facts.get("folded_batchnorm", False)),
    )


def _check_keys(facts: Mapping[str, Any], sidecar: Path) -> None:
    """Refuse a key that is nearly one of ours: a misspelt one would count for nothing, silently. Raises WeightsError."""
    for key in facts.keys() - set(KEYS):
        if close := difflib.get_close_matches(key, KEYS, 1, 0.8):
            raise WeightsError(f"{sidecar}: expected {close[0]!r}, found {key!r}; correct its spelling")


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Read what a packed folder lists: a description a name; empty where it has no manifest. Raises WeightsError."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        listed = json.loads(path.read_text("utf-8")).get("weights", {})  # another program's manifest has none
        return {str(name): dict(facts) for name, facts in listed.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path}: cannot be used as a manifest: {error!r}; pack the folder again") from error


def check_digest(path: Path, expected: str) -> str:
    """Return the SHA-256 of a file, as hex. Raises WeightsError where it is another than expected."""
    try:
        found = file_digest(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if found != expected.lower():
        raise WeightsError(
            f"{path}: expected SHA-256 {expected}, found {found}; the file was changed or cut. Fetch it again"
        )
    return found


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors without running anything the file may hold. Raises WeightsError."""
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # readers of damaged files raise anything
        if type(error).__name__ == "UnpicklingError":
            raise WeightsError(
                f"{path}: cannot be read as weights: it is damaged or holds something else than tensors, which is never "
                "run; fetch it again, or ask its makers for named tensors alone, best as safetensors"
            ) from error
        raise WeightsError(
            f"{path}: cannot be read as weights ({type(error).__name__}: {first_line(error)})"
        ) from error
    found = next((found[name] for name in NESTED if isinstance(found, Mapping) and name in found), found)
    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise WeightsError(f"{path}: expected named tensors, found {type(found).__name__} with other things in it")
    return dict(found)


def write_weights(path: Path, tensors: Mapping[str, Tensor], weights: Weights) -> Weights:
    """Write tensors as safetensors with their description beside them; what ``weights`` says of path and digest is not
    looked at. Raises OutputError."""
    write_atomic(path, _pack(tensors))
    written = dataclasses.replace(weights, path=path, sha256=file_digest(path))
    write_json(path.with_suffix(".json"), describe_file(written))
    return written


def _pack(tensors: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    packed: bytes = save({key: tensor.contiguous() for key, tensor in tensors.items()})
    return packed


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the file that `write_weights` makes of tensors, as hex."""
    return hashlib.sha256(_pack(tensors)).hexdigest()


def name_some(names: Collection[str]) -> str:
    """Name the first three in order, for a message."""
    shown = sorted(names)[:3]
    return ", ".join([*shown, "…"] if len(names) > 3 else shown) or "none"


def is_ordered(path: Path) -> bool:
    """Tell whether a file keeps its tensors in the order of the network: safetensors sorts them by name."""
    return path.suffix != ".safetensors"


def describe_file(weights: Weights) -> dict[str, Any]:
    """Return the description that belongs beside a file of weights; `read_sidecar` reads it."""
    about = weights.architecture
    return {
        "backbone": about.name,
        "architecture": f"{about.builder}/{about.model}",
        "builder_options": dict(about.options),
        "contract": {
            "size": about.size_px,
            "interpolation": about.interpolation,
            "mean": about.mean,
            "std": about.std,
        },
        "licence": weights.licence,
        "pretrained_on": weights.pretrained_on,
        "source": weights.source,
        "has_head": weights.has_head,
        "folded_batchnorm": weights.folded_batchnorm,
        "sha256": weights.sha256,
    }


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, cut where it is long."""
    return (str(error).splitlines() or [""])[0][:200]
