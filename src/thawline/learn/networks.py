"""The backbones that have a name: one visible row each, any other timm or torchvision name beside them.

A row says who builds the network, the input it was trained on and where its weights come from. `build_network` makes the
network with its classifier, `cut_classifier` leaves the backbone: pixels in, pooled features out.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from thawline.errors import OptionError, WeightsError
from thawline.types import Interpolation

if TYPE_CHECKING:
    from torch import nn

Builder = Literal["timm", "torchvision"]
Triple = tuple[float, float, float]
HALF: Triple = (0.5, 0.5, 0.5)
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
CLASSIFIERS = ("classifier", "fc", "head", "heads", "AuxLogits", "aux1", "aux2")  # torchvision's names for what is cut


@dataclasses.dataclass(frozen=True, slots=True)
class Architecture:
    """How to build one network, and the input it was trained on."""

    name: str
    builder: Builder
    model: str
    size_px: int
    mean: Triple
    std: Triple
    interpolation: Interpolation
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    aliases: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; `from_json` reverses it."""
        return {**dataclasses.asdict(self), "options": dict(self.options)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Architecture:
        """Rebuild from `to_json`; raises TypeError on unknown or missing fields."""
        fields: Any = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
        return cls(**fields)


def _lite(number: int, size_px: int) -> Architecture:
    return Architecture(
        f"efficientnet_lite{number}",
        "timm",
        f"tf_efficientnet_lite{number}",
        size_px,
        HALF,
        HALF,
        "bicubic",
        aliases=(f"tf_efficientnet_lite{number}", f"efficientnet-lite{number}"),
    )


BACKBONES: tuple[Architecture, ...] = (_lite(0, 224), _lite(1, 240), _lite(2, 260))
DEFAULT_BACKBONE = BACKBONES[0].name


def find_row(name: str) -> Architecture | None:
    """Return the table's row for a name or alias (any case), or None."""
    wanted = name.lower()
    return next((row for row in BACKBONES if wanted == row.name or wanted in row.aliases), None)


def describe_elsewhere(name: str) -> Architecture:
    """Describe a backbone that timm or torchvision has: ``timm/NAME``, ``torchvision/NAME`` or a bare name.

    The input contract is the library's own for its default weights; a name that timm has replaced gets its present one.
    Raises OptionError for a name that neither has.
    """
    from thawline.learn.torchvision_operators import import_torchvision

    import_torchvision()
    import timm
    from torchvision import models

    library, _, model = name.rpartition("/")
    model = model if library == "torchvision" else model.removeprefix("timm/")
    current, config = _find_timm(model)
    if library in ("", "timm") and config is not None:
        return _describe_timm(config, current)
    if library in ("", "torchvision") and model in models.list_models(module=models):
        return _describe_torchvision(models.get_model_weights(model), model)
    known = [row.name for row in BACKBONES]
    names = dict.fromkeys([*known, *timm.list_models(), *models.list_models(module=models)])
    close = difflib.get_close_matches(model.partition(".")[0], list(names), 5)
    raise OptionError(
        f"unknown backbone {name!r}: expected {', '.join(known)}, or a name that timm or torchvision has"
        + (f"; close to it: {', '.join(close)}" if close else "")
    )


def _find_timm(model: str) -> tuple[str, Any]:
    """Return the name that timm builds a model under, and its input contract: None where it has no such weights."""
    import timm
    from timm.models import get_deprecated_models

    current = get_deprecated_models().get(model, model) or model  # None for what was removed
    try:
        return current, timm.get_pretrained_cfg(current)
    except RuntimeError:  # a network that timm has, with a tag of weights that it has not
        return current, None


def _describe_timm(config: Any, model: str) -> Architecture:
    interpolation: Any = config.interpolation if config.interpolation in ("bilinear", "bicubic") else "bicubic"
    return Architecture(
        f"timm/{model}", "timm", model, config.input_size[-1], tuple(config.mean), tuple(config.std), interpolation
    )


def _describe_torchvision(weights: Any, model: str) -> Architecture:
    transforms = weights.DEFAULT.transforms()
    return Architecture(
        f"torchvision/{model}",
        "torchvision",
        model,
        int(transforms.crop_size[0]),
        tuple(transforms.mean),
        tuple(transforms.std),
        "bicubic" if "bicubic" in str(transforms.interpolation).lower() else "bilinear",
    )


def build_network(architecture: Architecture) -> nn.Module:
    """Build the whole network with its 1000-class classifier and random weights. Raises WeightsError."""
    from thawline.learn.torchvision_operators import import_torchvision

    import_torchvision()
    import timm
    from torchvision import models

    try:
        if architecture.builder == "timm":
            network: nn.Module = timm.create_model(architecture.model, pretrained=False, **architecture.options)
        else:
            network = models.get_model(architecture.model, weights=None, **architecture.options)
    except (RuntimeError, ValueError, TypeError) as error:
        raise WeightsError(
            f"{architecture.builder} cannot build {architecture.model!r} with {dict(architecture.options)}: {error}"
        ) from error
    return network.eval()


def cut_classifier(network: nn.Module, architecture: Architecture) -> nn.Module:
    """Return the backbone of a network: float32 (items, 3, height, width) to pooled features (items, features)."""
    if architecture.builder == "timm":
        network.reset_classifier(0)  # type: ignore[operator]
        return network.eval()
    return _cut_torchvision(network).eval()


def classifier_keys(network: nn.Module, architecture: Architecture) -> set[str]:
    """Names of the tensors that belong to the classifier: what weights without a head may lack."""
    if architecture.builder == "timm":
        config: Any = network.default_cfg
        names = config["classifier"] if isinstance(config["classifier"], tuple | list) else [config["classifier"]]
    else:
        names = CLASSIFIERS
    return {key for key in network.state_dict() if any(key.startswith(f"{name}.") for name in names)}


def _cut_torchvision(network: nn.Module) -> nn.Module:
    """Replace torchvision's last block: pooled convolutional features where there are any, else what fed the head."""
    from torch import nn

    children = dict(network.named_children())
    if "features" in children and "classifier" in children:
        # densenet applies its last ReLU in forward(), outside `features`
        activation = nn.ReLU() if type(network).__name__ == "DenseNet" else nn.Identity()
        parts = {"features": children["features"], "activation": activation}
        return nn.Sequential(OrderedDict(parts, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))
    for name in ("fc", "heads", "head"):
        if name in children:
            setattr(network, name, nn.Identity())
            return network
    raise WeightsError(
        f"{type(network).__name__} has none of the blocks {', '.join(CLASSIFIERS)} to cut at; found {', '.join(children)}"
    )
