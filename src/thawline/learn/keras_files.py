"""Weight files of Keras, read without Keras, and which of its networks are the same as one here.

Only tensors and names are read, never a configuration. Kernels come out in the layout of PyTorch: (out, in, height, width)
and (out, in); a batch normalisation without scale or shift gets ones or zeros later, where the network says that it has it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thawline.errors import OptionError, WeightsError
from thawline.learn.networks import Architecture, Triple

if TYPE_CHECKING:
    from torch import Tensor

KERAS_SUFFIXES = (".h5", ".hdf5")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PREPROCESSING: dict[str, tuple[Triple, Triple]] = {
    "caffe": ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255,) * 3),  # and blue first: flip_first_convolution
    "tf": ((0.5,) * 3, (0.5,) * 3),
    "torch": (IMAGENET_MEAN, IMAGENET_STD),
}
SAME = {"pad_type": "same", "bn_eps": 1e-3}

# the variables of a class of layers by position, as the files of Keras 3 number them
VARIABLES = {
    "conv2d": ("kernel", "bias"),
    "depthwise_conv2d": ("depthwise_kernel", "bias"),
    "separable_conv2d": ("depthwise_kernel", "pointwise_kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "normalization": ("mean", "variance", "count"),
}
CONTAINERS = ("layers", "_layer_checkpoint_dependencies")  # of Keras 3, of Keras 2.12 to 2.15
OLD_NAMES = {"W": "kernel", "b": "bias", "running_mean": "moving_mean", "running_std": "moving_variance"}
LEAVES = {leaf for leaves in VARIABLES.values() for leaf in leaves}
OLD_LEAF = re.compile(r".*_(W|b|gamma|beta|running_mean|running_std|depthwise_kernel|pointwise_kernel)(?:_\d+)?")
NUMBERED = re.compile(r"(conv2d|batch_normalization)(?:_(\d+))?")  # names that Keras gave, in the order of creation

Found = dict[str, dict[str, tuple[str, "Tensor"]]]  # layer: variable: full name, values


@dataclasses.dataclass(frozen=True, slots=True)
class KerasLayer:
    """One layer: ``tensors`` by PyTorch's own words (weight, bias, running_mean, running_var), ``sources`` their names."""

    name: str
    role: str
    tensors: Mapping[str, Tensor]
    sources: Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class KerasFile:
    """The layers of a file, in the file's order within each role, and the (mean, std) of a layer that normalises images."""

    layers: tuple[KerasLayer, ...]
    contract: tuple[Triple, Triple] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class KerasNetwork:
    """One network of Keras Applications: what it is here, and what it takes to be the same, or why it is not.

    ``numbered`` finds the layers here whose counterparts Keras named by number; those numbers follow our own order. Of
    the other names, ``kinds`` finds a beginning whose number is a size. ``remainders`` are those of the image size by 32
    at which padding and pooling fall on the same pixels.
    """

    name: str
    models: tuple[str, ...]
    mode: str
    epsilon: float = 1e-3
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    remainders: tuple[int, ...] = ()
    numbered: str = ""
    kinds: str = ""
    refusal: str = ""


_FIRST_STRIDE = "Keras strides in the first 1 x 1 convolution of a block and gives every convolution a bias"
_PREACTIVATION = "Keras strides at the end of a stage and gives convolutions a bias"
_BORDERS = "the average pooling of Keras leaves the border out, that of timm and torchvision counts it as zeros"

# fmt: off
KERAS_NETWORKS: tuple[KerasNetwork, ...] = (
    KerasNetwork("VGG16", ("torchvision/vgg16",), "caffe"),
    KerasNetwork("VGG19", ("torchvision/vgg19",), "caffe"),
    KerasNetwork("MobileNet", ("timm/mobilenetv1_100",), "tf", options=SAME, remainders=(0,)),
    KerasNetwork("MobileNetV2", ("timm/mobilenetv2_100",), "tf", options=SAME),
    KerasNetwork("MobileNetV3Small", ("timm/mobilenetv3_small_100",), "tf", options=SAME),
    KerasNetwork("MobileNetV3Large", ("timm/mobilenetv3_large_100",), "tf", options=SAME),
    *(KerasNetwork(f"DenseNet{n}", (f"timm/densenet{n}", f"torchvision/densenet{n}"), "torch", 1.001e-5)
      for n in (121, 169, 201)),
    *(KerasNetwork(f"EfficientNetB{n}", (f"timm/tf_efficientnet_b{n}",), "torch") for n in range(8)),
    KerasNetwork("Xception", ("timm/legacy_xception",), "tf", remainders=(7, 8), numbered=r"\.skip(bn)?$"),
    KerasNetwork("InceptionResNetV2", ("timm/inception_resnet_v2",), "tf", numbered=r"^(?!conv2d_7b).*\.(conv|bn)$",
                 kinds="block(35|17|8)_"),
    KerasNetwork("InceptionV3", ("timm/inception_v3", "torchvision/inception_v3"), "tf", numbered=r".*\.(conv|bn)$",
                 refusal=_BORDERS),
    *(KerasNetwork(f"ResNet{n}", (f"timm/resnet{n}", f"torchvision/resnet{n}"), "caffe", refusal=_FIRST_STRIDE)
      for n in (50, 101, 152)),
    *(KerasNetwork(f"ResNet{n}V2", (f"timm/resnetv2_{n}",), "tf", refusal=_PREACTIVATION) for n in (50, 101, 152)),
)
# fmt: on


# --- which network of Keras is which one here -------------------------------------------------------------------------


def find_keras_network(architecture: Architecture) -> KerasNetwork | None:
    """Return the network of Keras Applications that has the layers of ``architecture``, or None.

    The networks that were compared with Keras itself, output for output, are those of `KERAS_NETWORKS` without a
    refusal: VGG16 and 19, MobileNet at multiples of 32 px, MobileNetV2, MobileNetV3 with its classifier (Keras leaves its
    last convolution out together with it), DenseNet, EfficientNet as timm's ``tf_``, InceptionResNetV2, and Xception at
    71, 103, ... 295 px, where its pooling falls on the same pixels.
    """
    model = f"{architecture.builder}/{architecture.model.partition('.')[0]}"
    return next((row for row in KERAS_NETWORKS if model in row.models), None)


def check_keras_network(architecture: Architecture) -> KerasNetwork:
    """Return the network of Keras that ``architecture`` is the same as. Raises WeightsError where there is none."""
    row, model = find_keras_network(architecture), f"{architecture.builder}/{architecture.model}"
    if row is None:
        known = ", ".join(row.name for row in KERAS_NETWORKS if not row.refusal)
        raise WeightsError(
            f"weights of Keras for {model}: expected a network that is known to be the same as Keras' ({known}); bring a "
            "PyTorch file"
        )
    if row.refusal:
        raise WeightsError(
            f"weights of Keras for {model}: Keras' {row.name} is another network, {row.refusal}; bring a PyTorch file"
        )
    lacking = {key: value for key, value in row.options.items() if architecture.options.get(key) != value}
    if lacking:
        raise WeightsError(
            f"weights of Keras for {model}: expected the builder options {dict(row.options)}, found "
            f"{dict(architecture.options)}; add {lacking}, or the padding differs from Keras'"
        )
    if row.remainders and architecture.size_px % 32 not in row.remainders:
        sizes = (size for size in range(architecture.size_px, 63, -1) if size % 32 in row.remainders)
        below = next(sizes, 64 + row.remainders[0])
        raise WeightsError(
            f"weights of Keras for {model}: at {architecture.size_px} px Keras' {row.name} pads other pixels than ours; "
            f"use a size where both agree, such as {below} px"
        )
    return row


def input_contract(mode: str) -> tuple[Triple, Triple]:
    """Return (mean, std) of RGB images from 0 to 1 for a mode of Keras' preprocess_input. Raises OptionError.

    ``caffe`` also asks for `flip_first_convolution`, since it is blue that comes first there.
    """
    if mode not in PREPROCESSING:
        raise OptionError(f"unknown preprocessing {mode!r}: expected one of {', '.join(PREPROCESSING)}")
    return PREPROCESSING[mode]


def flip_first_convolution(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with the input channels of the first convolution, (out, 3, height, width), turned round.

    A network that was trained on blue, green, red then takes red, green, blue. Raises WeightsError where it is not plain
    which convolution is the first.
    """
    firsts = [key for key, tensor in tensors.items() if tensor.ndim == 4 and tensor.shape[1] == 3]
    if len(firsts) != 1:
        raise WeightsError(
            f"expected one convolution with three input channels to flip, found {len(firsts)} ({', '.join(firsts[:3])}); "
            "the mode 'caffe' is for networks that see images in colour"
        )
    return {**tensors, firsts[0]: tensors[firsts[0]].flip(1).contiguous()}


# --- reading ----------------------------------------------------------------------------------------------------------


def read_keras(path: Path) -> KerasFile:
    """Read the layers of a weight file or whole model of Keras (.h5, .weights.h5). Raises WeightsError."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return _order_layers(_read_groups(file), path)
    except WeightsError:
        raise
    except Exception as error:  # the reader of damaged files raises anything
        raise WeightsError(f"{path}: cannot be read as weights of Keras: {type(error).__name__}: {error}") from error


def _read_groups(file: Any) -> Found:
    root = file.get("model_weights", file)
    if "layer_names" in root.attrs or "layer_names0" in root.attrs:
        return _read_listed(root)
    if any(name in file for name in CONTAINERS):
        return _read_numbered(file)
    raise WeightsError(
        f"{file.filename}: expected the weights of Keras (layer_names, model_weights or layers), found "
        f"{', '.join(list(file)[:5]) or 'nothing'}; save them with model.save_weights('NAME.weights.h5')"
    )


def _read_listed(root: Any) -> Found:
    """Read the layout of Keras 1 and 2 and of whole models, which lists its layers and their variables in order."""
    found: Found = {}
    for layer in _read_names(root, "layer_names"):
        for name in _read_names(root[layer], "weight_names"):
            owner, _, last = name.removesuffix(":0").rpartition("/")
            if last == "seed_generator_state":  # of dropout
                continue
            leaf = last if last in LEAVES else _read_old_name(last)
            if leaf is None:
                raise WeightsError(_say_kind(root.file.filename, layer, last))
            found.setdefault(owner or layer, {})[leaf] = (name, _read_tensor(root[layer][name], root.file))
    return found


def _read_old_name(name: str) -> str | None:
    """Return what Keras 2 calls a variable that Keras 1 calls block1_conv1_W_1, or None for anything else."""
    match = OLD_LEAF.fullmatch(f"_{name}")
    return OLD_NAMES.get(match[1], match[1]) if match else None


def _read_names(group: Any, key: str) -> list[str]:
    """Read a list of names, which Keras cuts in pieces where it is long."""
    pieces = [group.attrs[key]] if key in group.attrs else []
    while f"{key}{len(pieces)}" in group.attrs:
        pieces.append(group.attrs[f"{key}{len(pieces)}"])
    return [name.decode() if isinstance(name, bytes) else str(name) for piece in pieces for name in piece]


def _read_numbered(file: Any) -> Found:
    """Read the layout of Keras 3: groups in the order of the alphabet, numbered within each class of layers."""
    found: Found = {}
    homes: dict[str, str] = {}
    for home, kind, group in sorted(_walk_containers(file), key=lambda each: (each[1], each[0].count("/"), each[0])):
        pattern = re.compile(rf"{kind}(?:_(\d+))?")
        names = sorted(group, key=lambda name: int(pattern.fullmatch(name)[1] or 0))  # type: ignore[index]
        if [int(pattern.fullmatch(name)[1] or 0) for name in names] != list(range(len(names))):  # type: ignore[index]
            raise WeightsError(f"{file.filename}: expected the layers {kind}, {kind}_1, ..., found {', '.join(names)}")
        if homes.setdefault(kind, home) != home or {"depthwise_conv2d", "separable_conv2d"} <= homes.keys():
            raise WeightsError(
                f"{file.filename}: the order of its layers ({kind}) is not written in it; save the model as NAME.h5"
            )
        for name in names:
            title, values = _read_variables(file, f"{home}/{name}", kind)
            if title in found:
                raise WeightsError(f"{file.filename}: expected different names of layers, found {title} twice")
            found[title] = values
    return found


def _walk_containers(group: Any, at: str = "") -> Iterator[tuple[str, str, list[str]]]:
    """Yield every container, class of layers in it, and the names of those that hold variables."""
    for container in (name for name in CONTAINERS if name in group):
        kinds: dict[str, list[str]] = {}
        for name, child in group[container].items():
            if len(child.get("vars", ())):
                kinds.setdefault(re.sub(r"_\d+$", "", name), []).append(name)
            yield from _walk_containers(child, f"{at}/{container}/{name}")
        for kind, names in kinds.items():
            yield f"{at}/{container}", kind, names


def _read_variables(file: Any, place: str, kind: str) -> tuple[str, dict[str, tuple[str, Tensor]]]:
    """Read the variables of one layer; newer versions of Keras keep its own name beside them."""
    group = file[f"{place}/vars"]
    title, leaves = str(group.attrs.get("name", place.strip("/"))), VARIABLES.get(kind, ())
    if kind == "batch_normalization" and len(group) < 4:
        # Keras' own networks leave out the scale, never the shift alone
        leaves = leaves[1:] if len(group) == 3 else leaves[2:]
    if len(group) > len(leaves):
        raise WeightsError(_say_kind(file.filename, title, kind))
    values = [_read_tensor(group[str(number)], file) for number in range(len(group))]
    return title, {leaf: (f"{title}/{leaf}", value) for leaf, value in zip(leaves, values, strict=False)}


def _read_tensor(dataset: Any, file: Any) -> Tensor:
    import numpy as np
    import torch

    if dataset.is_virtual or dataset.external or dataset.file.filename != file.filename:
        raise WeightsError(
            f"{file.filename}: {dataset.name}: expected values in the file itself, found a link elsewhere"
        )
    values = torch.from_numpy(np.asarray(dataset[()], dtype=np.float32))
    if not bool(torch.isfinite(values).all()):
        raise WeightsError(f"{file.filename}: {dataset.name}: expected finite numbers, found others among them")
    return values


def _say_kind(file: str, layer: str, found: str) -> str:
    return (
        f"{file}: layer {layer}: expected a convolution, a dense layer or a batch normalisation, found {found}, which is "
        "none that can be converted; bring a PyTorch file"
    )


# --- layout -----------------------------------------------------------------------------------------------------------


def _order_layers(found: Found, path: Path) -> KerasFile:
    layers: list[KerasLayer] = []
    contract = None
    for name, values in found.items():
        if {"mean", "variance"} <= values.keys():
            contract = _read_contract(*(values[leaf][1].flatten().tolist() for leaf in ("mean", "variance")))
        else:
            layers += _convert_layer(name, values, path)
    if not layers:
        raise WeightsError(
            f"{path}: expected layers with weights, found none; was the model saved before it was built?"
        )
    return KerasFile(tuple(layers), contract)


def _convert_layer(name: str, values: Mapping[str, tuple[str, Tensor]], path: Path) -> list[KerasLayer]:
    """Bring one layer to PyTorch's layout; a separable convolution becomes two."""
    kernel = values["kernel"][1] if "kernel" in values else None
    if "moving_mean" in values and "moving_variance" in values:
        if bool((values["moving_variance"][1] < 0).any()):
            raise WeightsError(f"{path}: layer {name}: expected variances of 0 or more, found some below")
        return [_make_layer(name, "norm", values, weight="gamma")]
    if "pointwise_kernel" in values and "depthwise_kernel" in values:
        first = {"depthwise_kernel": values["depthwise_kernel"]}
        return [
            _make_layer(name, "depthwise", first, weight="depthwise_kernel"),
            _make_layer(name, "pointwise", values, weight="pointwise_kernel"),
        ]
    if "depthwise_kernel" in values:
        return [_make_layer(name, "depthwise", values, weight="depthwise_kernel")]
    if kernel is not None and kernel.ndim == 2:
        return [_make_layer(name, "dense", values, weight="kernel")]
    if kernel is not None and kernel.ndim == 4:
        # Keras 3 calls the kernel of a depthwise convolution just that; no network has a 3 x 3 convolution to one channel
        alone = kernel.shape[3] == 1 and kernel.shape[2] > 1 and kernel.shape[0] * kernel.shape[1] > 1
        return [_make_layer(name, "depthwise" if alone else "conv", values, weight="kernel")]
    raise WeightsError(_say_kind(str(path), name, ", ".join(values)))


def _make_layer(name: str, role: str, values: Mapping[str, tuple[str, Tensor]], weight: str) -> KerasLayer:
    names = {weight: "weight", "bias": "bias"}
    if role == "norm":
        names |= {"beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    ours = {names[leaf]: value for leaf, value in values.items() if leaf in names}
    tensors = {leaf: value for leaf, (_, value) in ours.items()}
    if role != "norm":
        tensors["weight"] = _turn_kernel(tensors["weight"], role)
    return KerasLayer(name, role, tensors, {leaf: source for leaf, (source, _) in ours.items()})


def _turn_kernel(kernel: Tensor, role: str) -> Tensor:
    """Turn (height, width, in, out) to (out, in, height, width), (in, out) to (out, in); depthwise to one row a channel."""
    if role == "dense":
        return kernel.T.contiguous()
    height, width, channels, filters = kernel.shape
    if role == "depthwise":
        return kernel.permute(2, 3, 0, 1).reshape(channels * filters, 1, height, width).contiguous()
    return kernel.permute(3, 2, 0, 1).contiguous()


def _read_contract(mean: Sequence[float], variance: Sequence[float]) -> tuple[Triple, Triple]:
    """Return (mean, std) of images from 0 to 1, as the layer that normalises them says.

    Keras' EfficientNet with the weights of ImageNet holds standard deviations as variances, and divides by their root
    once more in a layer without weights.
    """
    three = len(mean) in (1, 3) and len(mean) == len(variance)
    if not three:
        raise WeightsError(f"expected a normalisation of three colours, found one of {len(mean)} means")
    divides_again = max(abs(a - b) for a, b in zip(variance, IMAGENET_STD, strict=False)) < 1e-4
    std = [value if divides_again else value**0.5 for value in variance]
    pair = [tuple(values) * (3 // len(values)) for values in (tuple(mean), tuple(std))]
    return pair[0], pair[1]  # type: ignore[return-value]
