"""Networks as timm, torchvision or Thawline build them, from a name and a few options.

`build_network` makes a network with its classifier and random weights, `cut_classifier` leaves the backbone: pixels in,
pooled features out. `describe_elsewhere` describes what has no row in `learn.backbones`.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import inspect
import math
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from thawline.errors import OptionError, WeightsError
from thawline.files import json_digest
from thawline.options import LEAST_PX, MOST_PX
from thawline.types import Contract, Interpolation

if TYPE_CHECKING:
    from torch import nn

Builder = Literal["timm", "torchvision", "thawline", "own"]
BUILDERS: tuple[Builder, ...] = ("timm", "torchvision", "thawline")  # that a description of weights may name
Triple = tuple[float, float, float]
CLASSIFIERS = ("classifier", "fc", "head", "heads", "AuxLogits", "aux1", "aux2")  # torchvision's names for what is cut
WITH_AUXILIARY = ("googlenet", "inception_v3")  # torchvision's networks with classifiers on the way
NO_AUXILIARY = {"aux_logits": False, "init_weights": False}


@dataclasses.dataclass(frozen=True, slots=True)
class Architecture:
    """How to build one network, and the input it was trained on.

    Of a ``summed`` one the first convolution sees one channel, with the sum of its weights over three.
    """

    name: str
    builder: Builder
    model: str
    size_px: int
    mean: Triple
    std: Triple
    interpolation: Interpolation
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    summed: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; `from_json` reverses it."""
        return {**dataclasses.asdict(self), "mean": [*self.mean], "std": [*self.std], "options": dict(self.options)}

    def contract(self, **changes: Any) -> Contract:
        """Return the contract of the input that it was trained on, with some fields changed."""
        own = Contract(self.size_px, self.mean, self.std, self.interpolation)
        return dataclasses.replace(own, **changes)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Architecture:
        """Rebuild from `to_json`; raises TypeError on unknown or missing fields."""
        fields: Any = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
        fields.pop("aliases", None)  # models made before 2026-11-25 have them
        return cls(**fields)


def find_contract_problem(about: Architecture) -> str:
    """Say what is wrong with the input that a description of weights asks for; nothing where it can be used."""
    for name, triple in (("mean", about.mean), ("std", about.std)):
        numbers = isinstance(triple, tuple) and all(isinstance(value, int | float) for value in triple)
        if not numbers or len(triple) != 3 or not all(map(math.isfinite, triple)):
            return f"expected {name} of three numbers, found {triple!r}"
    if min(about.std) <= 0 or max(map(abs, about.mean)) > 1:
        return f"expected mean and std of pixels from 0 to 1, std above 0; found {about.mean} and {about.std}"
    if not LEAST_PX <= about.size_px <= MOST_PX:
        return f"expected images of {LEAST_PX} to {MOST_PX} px, found {about.size_px}"
    if about.interpolation not in ("bilinear", "bicubic"):
        return f"expected interpolation bilinear or bicubic, found {about.interpolation!r}"
    return ""


@dataclasses.dataclass(frozen=True, eq=False)
class OwnNetwork:
    """A network of the user's own, with its trained weights and its input contract.

    ``module`` takes normalised float32 images (items, 3, size_px, size_px) and gives features (items, features); ``mean``
    and ``std`` are those of the three channels, of pixels from 0 to 1. With ``n_slices`` it is of three dimensions and takes
    volumes of so many slices, (items, 3, n_slices, size_px, size_px).
    """

    name: str
    module: nn.Module
    size_px: int
    mean: Triple
    std: Triple
    interpolation: Interpolation = "bilinear"
    licence: str = "not stated"
    pretrained_on: str = "not stated"
    n_slices: int = 0

    def check(self) -> None:
        """Register it for this process. Raises OptionError for a bad name, or another output than features."""
        import torch
        from torch import nn

        if not re.fullmatch(r"\w[\w.-]*", self.name):
            raise OptionError(f"network {self.name!r}: expected a name of letters, digits, dots and dashes")
        if not isinstance(self.module, nn.Module):
            raise OptionError(f"network {self.name!r}: expected a torch.nn.Module, found {type(self.module).__name__}")
        odd = [key for key, value in self.module.state_dict().items() if not isinstance(value, torch.Tensor)]
        if odd:
            raise OptionError(f"network {self.name!r}: expected a state of tensors alone, found {', '.join(odd[:3])}")
        self.module.eval()
        try:
            with torch.no_grad():
                found = self.module(torch.zeros(2, 3, *([self.n_slices] if self.n_slices else []), *[self.size_px] * 2))
        except Exception as error:  # the user's own code raises anything
            what = f"volumes of {self.n_slices} slices" if self.n_slices else "images"
            raise OptionError(
                f"network {self.name!r}: failed on two {what} of {self.size_px} px ({type(error).__name__}: {error})"
            ) from error
        if not isinstance(found, torch.Tensor) or found.ndim != 2 or len(found) != 2:
            shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise OptionError(f"network {self.name!r}: expected features (2, features) of two images, found {shape}")
        about = self.describe()
        if problem := find_contract_problem(about):
            raise OptionError(f"network {self.name!r}: {problem}")
        _OWN.pop((about.model, about.options["code"]), None)  # the last given comes last
        _OWN[about.model, about.options["code"]] = self

    def describe(self) -> Architecture:
        """Return its architecture, as runs and models state it, with a digest of its code."""
        options = {"code": _digest_code(self.module)}
        name = f"own/{self.name}"
        return Architecture(name, "own", self.name, self.size_px, self.mean, self.std, self.interpolation, options)


_OWN: dict[tuple[str, str], OwnNetwork] = {}  # of this process, by name and code: a description cannot name code


def _digest_code(module: nn.Module) -> str:
    """Return a digest of what a module is made of: its parts as they print, and the source of those that are not torch's."""
    kinds = dict.fromkeys(type(part) for part in module.modules() if not type(part).__module__.startswith("torch."))
    texts = [repr(module)]
    for kind in kinds:
        try:
            texts.append(inspect.getsource(kind))
        except (OSError, TypeError):  # typed at a prompt
            texts.append(f"{kind.__module__}.{kind.__qualname__}")
    return json_digest(texts)[:16]


def describe_elsewhere(name: str, known: Sequence[str] = ()) -> Architecture:
    """Describe a backbone that timm or torchvision has: ``timm/NAME``, ``torchvision/NAME`` or a bare name.

    The input contract is the library's own for its default weights; a name that timm has replaced gets its present one.
    Raises OptionError for a name that neither has, with those that are close to it, the ``known`` ones first.
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
    names = dict.fromkeys([*known, *timm.list_models(), *models.list_models(module=models)])
    close = difflib.get_close_matches(model.partition(".")[0], list(names), 5)
    raise OptionError(
        f"unknown backbone {name!r}: expected a network of the literature, such as ResNet50, or a name that timm or "
        "torchvision has" + (f"; close to it: {', '.join(close)}" if close else "")
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
    auxiliary = model in WITH_AUXILIARY
    return Architecture(
        f"torchvision/{model}",
        "torchvision",
        model,
        int(transforms.crop_size[0]),
        # with its weights the library turns the normalisation it asks for into this one
        (0.5,) * 3 if auxiliary else tuple(transforms.mean),
        (0.5,) * 3 if auxiliary else tuple(transforms.std),
        "bicubic" if "bicubic" in str(transforms.interpolation).lower() else "bilinear",
        NO_AUXILIARY if auxiliary else {},
    )


def build_network(architecture: Architecture) -> nn.Module:
    """Build the whole network with its 1000-class classifier and random weights. Raises WeightsError."""
    from thawline.learn.torchvision_operators import import_torchvision

    import_torchvision()
    import timm
    from torchvision import models

    from thawline.learn.architectures import ARCHITECTURES

    try:
        if architecture.builder == "timm":
            network: nn.Module = timm.create_model(architecture.model, pretrained=False, **architecture.options)
        elif architecture.builder == "torchvision":
            network = models.get_model(architecture.model, weights=None, **architecture.options)
        elif architecture.builder == "own":
            network = copy.deepcopy(find_own(architecture).module)
        else:
            network = ARCHITECTURES[architecture.model](**architecture.options)
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise WeightsError(
            f"{architecture.builder} cannot build {architecture.model!r} with {dict(architecture.options)}: {error}"
        ) from error
    if architecture.summed:
        narrow_first(network, architecture.name)
    return network.eval()


def replace_code(architecture: Architecture) -> Architecture:
    """Return a model's own network with the code that this process was given last under its name, so that nothing that was
    computed with other code is taken for it; the model's test image tells whether it computes the same.

    Raises WeightsError where this process was given none.
    """
    codes = [code for name, code in _OWN if name == architecture.model]
    return (
        dataclasses.replace(architecture, options={"code": codes[-1]}) if codes else find_own(architecture).describe()
    )


def find_own(architecture: Architecture) -> OwnNetwork:
    """Return the user's own network of this name and code. Raises WeightsError where this process was not given it."""
    found = _OWN.get((architecture.model, str(architecture.options.get("code"))))
    if found is None:
        name = architecture.model
        raise WeightsError(
            f"{name!r} is a network of somebody's own: give it as network=thawline.OwnNetwork({name!r}, ...) to run or "
            "load_model in Python"
        )
    return found


def draw_weights(network: nn.Module) -> None:
    """Draw random weights anew in every layer. Raises WeightsError for parameters that no layer of torch's own draws."""
    drawn: set[int] = set()
    for module in network.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
            drawn.update(id(each) for each in module.parameters(recurse=False))
    left = [name for name, each in network.named_parameters() if id(each) not in drawn]
    if left:
        raise WeightsError(
            f"a random start: expected layers with reset_parameters(), found none for {', '.join(left[:3])}; leave out "
            "random_init"
        )


def fit_size(architecture: Architecture, size_px: int) -> Architecture:
    """Return what to build for images of ``size_px``: of networks with a fixed grid of patches, one with another grid.

    Their positions are resampled from those that they were trained on, by timm, when they are loaded.
    """
    if size_px == architecture.size_px or architecture.builder != "timm":
        return architecture
    from thawline.learn.torchvision_operators import import_torchvision

    import_torchvision()
    _, config = _find_timm(architecture.model)
    if config is None or not config.fixed_input_size:
        return architecture
    return dataclasses.replace(architecture, options={**architecture.options, "img_size": size_px})


def sum_channels(architecture: Architecture) -> Architecture:
    """Return the same network for grey images: they are normalised by the means over the three channels."""
    mean, std = ((sum(triple) / 3,) * 3 for triple in (architecture.mean, architecture.std))
    return dataclasses.replace(architecture, mean=mean, std=std, summed=True)


def narrow_first(network: nn.Module, name: str) -> None:
    """Let the first convolution see one channel, with the sum of its weights.

    Raises OptionError for a network ``name`` whose first convolution is not one of three channels, or does more with its
    weights than to multiply by them, as weight standardisation does.
    """
    import torch
    from torch import nn

    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.in_channels != 3 or first.groups > 1:
        raise OptionError(f"--grey sum: expected a first convolution of three channels, {name} has none; leave it out")
    ramp = torch.linspace(0, 1, 64 * 64, device=first.weight.device)
    grey = ramp.reshape(1, 1, 64, 64).expand(-1, 3, -1, -1)
    with torch.no_grad():
        before = first(grey)
        first.weight = nn.Parameter(first.weight.detach().sum(dim=1, keepdim=True))
        first.in_channels = 1
        first.register_forward_pre_hook(_take_first_channel)
        after = first(grey)
    if not before.is_meta and not torch.allclose(after, before, rtol=1e-3, atol=1e-3 * float(before.abs().max())):
        raise OptionError(
            f"--grey sum: the first convolution of {name} standardises its weights, so that their sum gives something else; "
            "leave it out"
        )


def _take_first_channel(_module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return (given[0][:, :1], *given[1:])


def cut_classifier(network: nn.Module, architecture: Architecture) -> nn.Module:
    """Return the backbone of a network: float32 (items, 3, height, width) to pooled features (items, features)."""
    if architecture.builder == "timm":
        network.reset_classifier(0)  # type: ignore[operator]
        return network.eval()
    if architecture.builder == "own":
        return network.eval()
    if architecture.builder == "thawline":
        found: nn.Module = network.backbone()  # type: ignore[operator]
        return found.eval()
    return _cut_torchvision(network).eval()


def classifier_keys(network: nn.Module, architecture: Architecture) -> set[str]:
    """Names of the tensors that belong to the classifier: what weights without a head may lack."""
    if architecture.builder == "own":
        return set()
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


def count_parameters(network: nn.Module) -> int:
    """Count the parameters of a network, shared ones once."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_layers(network: nn.Module, size_px: int) -> int:
    """Count the layers with weights (convolutions and matrix products) on the longest way from images to output.

    This is the number that ResNet50, VGG16 or DenseNet121 carry in their names. The network may lie on the meta device.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    weighted = {"aten.convolution", "aten.addmm", "aten.mm", "aten.bmm"}
    weights = {id(parameter) for parameter in network.parameters()}
    depth: dict[int, int] = {}
    kept: list[Any] = list(network.parameters())  # an id is that of one tensor only as long as this lives

    class Depth(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, operation: Any, _types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            found = operation(*args, **(kwargs or {}))
            given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
            own = [each for each in given if id(each) in weights]
            counts = bool(own) and str(operation).rpartition(".")[0] in weighted
            below = max((depth.get(id(each), 0) for each in given), default=0)
            for each in tree_leaves(found):
                if isinstance(each, torch.Tensor):
                    kept.append(each)
                    depth[id(each)] = below + counts
                    if own and len(own) == len(given):  # a weight seen another way, such as transposed
                        weights.add(id(each))
            return found

    images = torch.zeros(1, 3, size_px, size_px, device=next(network.parameters()).device)
    with torch.no_grad(), Depth():  # type: ignore[no-untyped-call]
        output = network(images)
    return depth[id(output)]
