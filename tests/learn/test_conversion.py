"""Weights of other makers: the same outputs as Keras itself, and a refusal wherever order alone would decide."""

from __future__ import annotations

import dataclasses
import os
import pickle
import warnings

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from thawline.errors import OptionError, WeightsError
from thawline.learn.conversion import match_file, match_keras, match_tensors
from thawline.learn.keras_files import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    KERAS_NETWORKS,
    PREPROCESSING,
    check_keras_network,
    find_keras_network,
    flip_first_convolution,
    input_contract,
    read_keras,
)
from thawline.learn.lineage import trace_layers
from thawline.learn.networks import NO_AUXILIARY, Architecture, build_network, classifier_keys, cut_classifier

HALF = (0.5,) * 3


def describe(model, size_px=64, **options):
    """Describe a network here, with what it needs to be Keras'."""
    builder, _, name = model.partition("/")
    architecture = Architecture(name, builder, name, size_px, HALF, HALF, "bilinear", options)
    row = find_keras_network(architecture)
    return dataclasses.replace(architecture, options={**(row.options if row else {}), **options})


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


# --- Keras as the referee ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keras(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("KERAS_BACKEND", "torch")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        module = pytest.importorskip("keras")
    if module.backend.backend() != "torch":
        pytest.skip("Keras was imported with another backend")
    return module


def draw_images(n, size_px, seed):
    """Make images from 0 to 255, (n, size, size, 3), that differ in more than noise."""
    low = torch.from_numpy(np.random.default_rng(seed).uniform(0, 255, (n, 3, 4, 4)))
    images = functional.interpolate(low, (size_px, size_px), mode="bicubic").numpy().transpose(0, 2, 3, 1)
    return np.clip(images + 25 * draw(n, size_px, size_px, 3, seed=seed), 0, 255).astype("float32")


def prepare(images, name, mode):
    """Prepare images as Keras' preprocess_input does; two families do it within the network."""
    if name.startswith(("EfficientNet", "MobileNetV3")):
        return images
    if mode == "caffe":
        return images[..., ::-1] - np.array([103.939, 116.779, 123.68], "float32")
    mean, std = PREPROCESSING[mode]
    return ((images / 255 - np.array(mean)) / np.array(std)).astype("float32")


def make_keras(keras, name, mode, size_px, has_head):
    """Make a network with random weights, random statistics, and activations of a usual size all the way."""
    head = {"classifier_activation": None} if has_head else {"pooling": "avg"}
    model = getattr(keras.applications, name)(
        weights=None, include_top=has_head, input_shape=(size_px, size_px, 3), **head
    )
    rng = np.random.default_rng(7)
    for layer in model.layers:
        values = [np.asarray(weight.value.detach().numpy()) for weight in layer.weights]
        moved = [value * rng.uniform(0.8, 1.2, value.shape) + rng.normal(0, 0.05, value.shape) for value in values]
        if isinstance(layer, keras.layers.Normalization):
            moved = [np.array([0.4, 0.5, 0.6]), np.array([0.04, 0.06, 0.08]), np.zeros(())]
        kernels = [i for i, value in enumerate(values) if value.ndim == 4]
        for i in kernels:  # those of Keras are too small to tell networks apart without training
            depthwise = values[i].shape[3] == 1
            fan = np.prod(values[i].shape[: 2 if depthwise else 3])
            moved[i] = rng.normal(0, (2 / fan) ** 0.5, values[i].shape)
        if moved:
            layer.set_weights(moved)
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    with torch.no_grad():
        model(torch.from_numpy(prepare(draw_images(8, size_px, 5), name, mode).copy()), training=True)
    return model


def run_ours(match, architecture, images):
    """Run the network here with what was matched, on the images that the contract asks for."""
    row = find_keras_network(architecture)
    tensors = flip_first_convolution(match.tensors) if row.mode == "caffe" else match.tensors
    network = build_network(architecture)
    network.load_state_dict(tensors, strict=match.has_head)
    network = network if match.has_head else cut_classifier(network, architecture)
    mean, std = match.contract or input_contract(row.mode)
    pixels = ((images / 255 - np.array(mean)) / np.array(std)).astype("float32")
    with torch.no_grad():
        return network.eval()(torch.from_numpy(pixels).permute(0, 3, 1, 2)).numpy()


def measure_difference(found, expected):
    """Return the largest difference, in standard deviations from image to image."""
    return float(abs(found - expected).max() / expected.std(axis=0).mean())


CASES = [
    ("MobileNet", "timm/mobilenetv1_100", 64, True),
    ("MobileNetV2", "timm/mobilenetv2_100", 70, False),
    ("MobileNetV3Small", "timm/mobilenetv3_small_100", 75, True),
    ("DenseNet121", "torchvision/densenet121", 64, False),
    ("EfficientNetB0", "timm/tf_efficientnet_b0", 64, True),
    pytest.param("MobileNetV2", "timm/mobilenetv2_100", 64, True, marks=pytest.mark.slow),
    pytest.param("Xception", "timm/legacy_xception", 71, True, marks=pytest.mark.slow),
    pytest.param("InceptionResNetV2", "timm/inception_resnet_v2", 75, True, marks=pytest.mark.slow),
    pytest.param("VGG16", "torchvision/vgg16", 40, False, marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("name", "model", "size_px", "has_head"), CASES)
def test_a_network_of_keras_puts_out_the_same_here(keras, tmp_path, name, model, size_px, has_head):
    architecture = describe(model, size_px)
    mode = find_keras_network(architecture).mode
    theirs = make_keras(keras, name, mode, size_px, has_head)
    images = draw_images(2, size_px, 1)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(prepare(images, name, mode).copy()), training=False).numpy()
    theirs.save(tmp_path / "x.h5")
    theirs.save_weights(tmp_path / "x.weights.h5")
    match, numbered = (match_file(tmp_path / file, architecture) for file in ("x.h5", "x.weights.h5"))
    assert (match.has_head, match.by) == (has_head, "order")
    assert match.tensors.keys() == numbered.tensors.keys()
    assert all(torch.equal(match.tensors[key], numbered.tensors[key]) for key in match.tensors)
    assert measure_difference(run_ours(match, architecture, images), expected) < 2e-3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_without_its_options_the_network_is_another(keras, tmp_path):
    architecture = describe("timm/mobilenetv2_100")
    plain = dataclasses.replace(architecture, options={})
    theirs = make_keras(keras, "MobileNetV2", "tf", 64, False)
    images = draw_images(2, 64, 1)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(prepare(images, "MobileNetV2", "tf")), training=False).numpy()
    theirs.save_weights(tmp_path / "x.weights.h5")
    with pytest.raises(WeightsError, match=r"expected the builder options .*pad_type.* found \{\}; add .*same"):
        match_file(tmp_path / "x.weights.h5", plain)
    match = match_file(tmp_path / "x.weights.h5", architecture)
    assert measure_difference(run_ours(match, plain, images), expected) > 0.1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_inception3_differs_by_the_border_of_its_pooling_alone(keras, tmp_path, monkeypatch):
    architecture = describe("torchvision/inception_v3", 75, **NO_AUXILIARY)
    theirs = make_keras(keras, "InceptionV3", "tf", 75, True)
    images = draw_images(2, 75, 1)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(prepare(images, "InceptionV3", "tf")), training=False).numpy()
    theirs.save(tmp_path / "x.h5")
    with pytest.raises(WeightsError, match="Keras' InceptionV3 is another network, the average pooling"):
        match_file(tmp_path / "x.h5", architecture)
    network = build_network(architecture)
    head, row = classifier_keys(network, architecture), find_keras_network(architecture)
    match = match_keras(read_keras(tmp_path / "x.h5"), network, head, row, size_px=75, source="x.h5")
    assert measure_difference(run_ours(match, architecture, images), expected) > 0.1
    pool = functional.avg_pool2d
    monkeypatch.setattr(functional, "avg_pool2d", lambda x, **how: pool(x, **how, count_include_pad=False))
    assert measure_difference(run_ours(match, architecture, images), expected) < 5e-3


# --- files written by hand --------------------------------------------------------------------------------------------


class Tiny(nn.Module):
    """Two convolutions, a normalisation, a separable convolution, and a dense layer on a flattened image."""

    def __init__(self, channels=4, multiplier=1, kernel=3, size_px=6, n_classes=5):
        super().__init__()
        side = size_px - 2 * (kernel - 1)
        self.first = nn.Conv2d(3, channels, kernel)
        self.norm = nn.BatchNorm2d(channels, eps=1e-3)
        self.each = nn.Conv2d(channels, channels * multiplier, kernel, groups=channels, bias=False)
        self.mix = nn.Conv2d(channels * multiplier, 3, 1)
        self.fc = nn.Linear(3 * side * side, n_classes)

    def forward(self, x):
        x = self.mix(self.each(torch.relu(self.norm(self.first(x)))))
        return self.fc(torch.dropout(torch.relu(x).flatten(1), 0.5, self.training))


def make_tiny(channels=4, multiplier=1, kernel=3, size_px=6):
    side = size_px - 2 * (kernel - 1)
    return {
        "first": {"kernel": draw(kernel, kernel, 3, channels), "bias": draw(channels, seed=1)},
        "norm": {
            "beta": draw(channels, seed=2),
            "moving_mean": draw(channels, seed=3),
            "moving_variance": abs(draw(channels, seed=4)),
        },
        "sep": {
            "depthwise_kernel": draw(kernel, kernel, channels, multiplier, seed=5),
            "pointwise_kernel": draw(1, 1, channels * multiplier, 3, seed=6),
            "bias": draw(3, seed=7),
        },
        "top": {"kernel": draw(side * side * 3, 5, seed=8), "bias": draw(5, seed=9)},
    }


def write_listed(path, layers, under="model_weights", name="{layer}/{leaf}:0"):
    """Write the layout that lists layers and weights, with the state of an optimizer beside them."""
    with h5py.File(path, "w") as file:
        root = file.require_group(under)
        file.require_group("optimizer_weights")["Adam/first/kernel/m:0"] = draw(3)
        root.attrs["layer_names"] = [layer.encode() for layer in ["input_1", *layers]]
        root.require_group("input_1").attrs["weight_names"] = np.zeros(0, "S1")
        for layer, leaves in layers.items():
            names = [name.format(layer=layer, leaf=leaf) for leaf in leaves]
            root.require_group(layer).attrs["weight_names"] = names
            for title, values in zip(names, leaves.values(), strict=True):
                root[layer][title] = values
    return path


def write_numbered(path, layers, titles=None, container="layers"):
    """Write the layout of numbered variables."""
    with h5py.File(path, "w") as file:
        file["optimizer/vars/0"] = draw(3)
        for layer, leaves in layers.items():
            group = file.require_group(f"{container}/{layer}/vars")
            if titles:
                group.attrs["name"] = titles[layer]
            for number, values in enumerate(leaves.values()):
                group[str(number)] = values
    return path


def convolve(x, kernel, by_channel=False):
    """Convolve (height, width, in) with Keras' (height, width, in, out) as its documentation says: the referee."""
    windows = sliding_window_view(x, kernel.shape[:2], axis=(0, 1))  # (height, width, in, kernel height, kernel width)
    if by_channel:
        found = np.einsum("hwcij,ijcm->hwcm", windows, kernel)
        return found.reshape(*found.shape[:2], -1)
    return np.einsum("hwcij,ijco->hwo", windows, kernel)


def run_tiny(layers, image):
    first, norm, sep, top = layers.values()
    x = convolve(image, first["kernel"]) + first["bias"]
    x = (x - norm["moving_mean"]) / np.sqrt(norm["moving_variance"] + 1e-3) + norm["beta"]
    x = convolve(np.maximum(x, 0), sep["depthwise_kernel"], by_channel=True)
    x = convolve(x, sep["pointwise_kernel"]) + sep["bias"]
    return np.maximum(x, 0).flatten() @ top["kernel"] + top["bias"]


def match_tiny(path, network=None, head=("fc.weight", "fc.bias"), size_px=6):
    return match_keras(read_keras(path), network or Tiny(), head, size_px=size_px, source=path.name)


@settings(max_examples=15, deadline=None)
@given(channels=st.integers(2, 5), multiplier=st.integers(1, 3), kernel=st.integers(2, 3), extra=st.integers(1, 4))
def test_any_layer_computes_what_keras_documents(tmp_path_factory, channels, multiplier, kernel, extra):
    size_px = 2 * (kernel - 1) + extra
    layers, image = make_tiny(channels, multiplier, kernel, size_px), draw(size_px, size_px, 3, seed=11)
    path = write_listed(tmp_path_factory.mktemp("files") / "x.h5", layers)
    network = Tiny(channels, multiplier, kernel, size_px).eval()
    network.load_state_dict(match_tiny(path, network, size_px=size_px).tensors)
    with torch.no_grad():
        found = network(torch.from_numpy(image).permute(2, 0, 1)[None])[0].numpy()
    np.testing.assert_allclose(found, run_tiny(layers, image), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("under", ["model_weights", "/"])
@pytest.mark.parametrize("name", ["{layer}/{leaf}:0", "{layer}/{leaf}", "outer/{layer}/{leaf}:0", "{layer}_{leaf}_1:0"])
def test_every_age_of_listed_files_is_read(tmp_path, under, name):
    layers = make_tiny()
    expected = match_tiny(write_listed(tmp_path / "a.h5", layers))
    if "_1:0" in name:  # Keras 1
        old = {"kernel": "W", "bias": "b", "moving_mean": "running_mean", "moving_variance": "running_std"}
        layers = {key: {old.get(leaf, leaf): value for leaf, value in each.items()} for key, each in layers.items()}
    match = match_tiny(write_listed(tmp_path / "b.h5", layers, under, name))
    assert all(torch.equal(match.tensors[key], expected.tensors[key]) for key in expected.tensors)
    assert match.pairs[0][1] == "first.weight"
    assert match.has_head
    assert torch.equal(match.tensors["norm.weight"], torch.ones(4))
    assert len(match.pairs) == len(expected.tensors) - 2  # without the scale that Keras left out, and the counter


@pytest.mark.parametrize("container", ["layers", "_layer_checkpoint_dependencies"])
def test_numbered_files_are_read_in_the_order_of_numbers(tmp_path, container):
    network = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(12)))
    names = ["conv2d", *(f"conv2d_{number}" for number in range(1, 12))]  # conv2d_10 stands before conv2d_2 in the file
    layers = {name: {"kernel": draw(1, 1, 3, 3, seed=i), "bias": draw(3)} for i, name in enumerate(names)}
    match = match_tiny(write_numbered(tmp_path / "x.weights.h5", layers, container=container), network, ())
    for number in range(12):
        expected = draw(1, 1, 3, 3, seed=number)[0, 0].T
        np.testing.assert_array_equal(match.tensors[f"{number}.weight"][:, :, 0, 0], expected)


def test_a_long_list_of_layers_comes_in_pieces(tmp_path):
    layers = make_tiny()
    expected = match_tiny(write_listed(tmp_path / "a.h5", layers))
    with h5py.File(tmp_path / "a.h5", "a") as file:
        names = file["model_weights"].attrs.pop("layer_names")
        file["model_weights"].attrs["layer_names0"], file["model_weights"].attrs["layer_names1"] = names[:2], names[2:]
    assert match_tiny(tmp_path / "a.h5").pairs == expected.pairs


def test_a_file_without_its_classifier_matches_the_rest(tmp_path):
    layers = make_tiny()
    del layers["top"]
    match = match_tiny(write_listed(tmp_path / "x.h5", layers))
    assert not match.has_head
    assert not any(key.startswith("fc") for key in match.tensors)
    other = {**layers, "top": {"kernel": draw(12, 9), "bias": draw(9)}}
    assert match_tiny(write_listed(tmp_path / "y.h5", other)).pairs == match.pairs
    other = {**make_tiny(), "more": {"kernel": draw(5, 2), "bias": draw(2)}}
    assert match_tiny(write_listed(tmp_path / "z.h5", other)).pairs == match.pairs


def test_another_epsilon_goes_into_the_variance(tmp_path):
    path, network = write_listed(tmp_path / "x.h5", make_tiny()), Tiny()
    network.norm.eps = 1e-5
    row = next(row for row in KERAS_NETWORKS if row.name == "VGG16")
    match = match_keras(read_keras(path), network, (), row, size_px=6, source="x.h5")
    expected = make_tiny()["norm"]["moving_variance"] + 1e-3
    np.testing.assert_allclose(match.tensors["norm.running_var"].numpy() + 1e-5, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("variance", "std"), [((0.04, 0.09, 0.16), (0.2, 0.3, 0.4)), (IMAGENET_STD, IMAGENET_STD), ((1.0,) * 3, (1.0,) * 3)]
)
def test_a_layer_that_normalises_gives_the_contract(tmp_path, variance, std):
    first = {"mean": np.array(IMAGENET_MEAN, "float32"), "variance": np.array(variance), "count": np.array(0)}
    path = write_listed(tmp_path / "x.h5", {"normalization": first, **make_tiny()})
    np.testing.assert_allclose(match_tiny(path).contract, (IMAGENET_MEAN, std), rtol=1e-6)


# --- what is refused --------------------------------------------------------------------------------------------------


def change(layers, layer, **leaves):
    return {**layers, layer: {**layers[layer], **leaves}}


TINY = make_tiny()
BROKEN = [
    (
        change(TINY, "first", kernel=draw(5, 5, 3, 4)),
        r"1 tensors of another shape \(first.weight: expected \(4, 3, 3, 3\)",
    ),
    (change(TINY, "sep", bias=draw(4)), r"mix.bias: expected \(3,\), found \(4,\)"),
    (change(TINY, "first", kernel=draw(3, 3, 3, 4) * np.nan), "expected finite numbers"),
    (change(TINY, "norm", moving_variance=-np.ones(4)), "expected variances of 0 or more"),
    (change(TINY, "first", recurrent_kernel=draw(4, 4)), "first: expected a convolution.* found recurrent_kernel"),
    ({**TINY, "first": {"kernel": draw(3, 3, 3, 4)}}, "expected weight, bias for first, found weight in first"),
    ({**TINY, "first": {"bias": draw(4)}}, "first: expected a convolution"),
    ({**TINY, "more": TINY["norm"]}, "expected 1 layers of the role norm, found 2"),
    ({}, "expected layers with weights, found none"),
    ({"normalization": {"mean": draw(4), "variance": draw(4)}, **TINY}, "three colours, found one of 4"),
]


@pytest.mark.parametrize(("layers", "message"), BROKEN)
def test_what_does_not_fit_is_refused_with_its_reason(tmp_path, layers, message):
    with pytest.raises(WeightsError, match=message):
        match_tiny(write_listed(tmp_path / "x.h5", layers))


NUMBERED = [
    ({"conv2d": {"k": draw(1, 1, 3, 3)}, "conv2d_2": {"k": draw(1, 1, 3, 3)}}, "expected the layers conv2d, conv2d_1"),
    ({"lstm": {"k": draw(3, 3)}}, "layer layers/lstm: expected a convolution.* found lstm"),
    ({"conv2d": {"k": draw(1)}, "functional/layers/conv2d": {"k": draw(1)}}, r"order of its layers \(conv2d\) is not"),
    ({"dense": {"k": draw(3, 3), "b": draw(3), "c": draw(3)}}, "found dense"),
]


@pytest.mark.parametrize(("layers", "message"), NUMBERED)
def test_numbers_that_say_no_order_are_refused(tmp_path, layers, message):
    with pytest.raises(WeightsError, match=message):
        read_keras(write_numbered(tmp_path / "x.weights.h5", layers))


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = write_listed(tmp_path / "x.h5", TINY)
    (tmp_path / "cut.h5").write_bytes(path.read_bytes()[:3000])
    (tmp_path / "text.h5").write_text("no weights")
    for name in ("cut.h5", "text.h5", "missing.h5"):
        with pytest.raises(WeightsError, match=f"{name}: cannot be read as weights of Keras"):
            read_keras(tmp_path / name)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["images"] = draw(3)
    with pytest.raises(WeightsError, match=r"expected the weights of Keras .* found images"):
        read_keras(tmp_path / "other.h5")
    with h5py.File(path, "a") as file:
        del file["model_weights/top/top/bias:0"]
        file["model_weights/top/top/bias:0"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "images")
    with pytest.raises(WeightsError, match="found a link elsewhere"):
        read_keras(path)


@pytest.mark.parametrize("order", [(0, 2, 1, 3), (3, 2, 1, 0), "acbd"])
def test_layers_of_one_shape_in_another_order_are_refused(tmp_path, order):
    network = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(4)))
    layers = {f"block4{i}_conv": {"kernel": draw(1, 1, 3, 3), "bias": draw(3)} for i in order}
    with pytest.raises(WeightsError, match=r"expected block4\w_conv before block4\w_conv; the order .* was lost"):
        match_tiny(write_listed(tmp_path / "x.h5", layers), network, ())


class Branches(nn.Module):
    """Two convolutions side by side, and one after them."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.last = (nn.Conv2d(3, 3, 1) for _ in range(3))

    def forward(self, x):
        return self.last(self.left(x) - self.right(x))


def test_branches_of_one_shape_are_refused_without_names(tmp_path):
    layers = {name: {"kernel": draw(1, 1, 3, 3), "bias": draw(3)} for name in ("a", "b", "c")}
    message = "left and right of Branches have the same shape and lie side by side, .* the names a and b; bring"
    with pytest.raises(WeightsError, match=message):
        match_tiny(write_listed(tmp_path / "x.h5", layers), Branches(), ())
    network = Branches()
    tensors = {f"old.{key}": tensor for key, tensor in network.state_dict().items()}
    assert match_tensors(tensors, network, size_px=4, source="x").by == "name"
    named = {f"{letter}.{key}": value for (key, value), letter in zip(tensors.items(), "aabbcc", strict=True)}
    assert match_tensors(named, network, size_px=4, source="x").pairs[2] == ("b.old.right.weight", "right.weight")
    foreign = {key.replace("left", "l").replace("right", "r"): value for key, value in named.items()}
    with pytest.raises(WeightsError, match="left and right"):
        match_tensors(foreign, network, size_px=4, source="x")


def test_the_lineage_of_layers():
    slots = {slot.name: slot for slot in trace_layers(Branches(), 4)}
    assert slots["left"].is_beside(slots["right"])
    assert not slots["left"].is_beside(slots["last"])
    assert slots["last"].upstream == slots["left"].bit | slots["right"].bit
    tiny = {slot.name: (slot.role, slot.grid) for slot in trace_layers(Tiny(), 6)}
    assert tiny == {
        "first": ("conv", None),
        "norm": ("norm", None),
        "each": ("depthwise", None),
        "mix": ("pointwise", None),
        "fc": ("dense", (3, 2, 2)),
    }


# --- which networks of Keras ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", KERAS_NETWORKS, ids=lambda row: row.name)
def test_every_row_builds_or_says_why_not(row):
    for model in row.models:
        architecture = describe(model, 295 if row.name == "Xception" else 224)
        if row.refusal:
            with pytest.raises(WeightsError, match=f"{row.name} is another network, .*; bring a PyTorch file"):
                check_keras_network(architecture)
            continue
        assert check_keras_network(architecture) == row
        for module in build_network(architecture).modules() if row.options else ():
            if isinstance(module, nn.BatchNorm2d):
                assert module.eps == row.epsilon
            if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
                assert type(module).__name__ == "Conv2dSame"


def test_a_size_at_which_padding_differs_is_refused():
    with pytest.raises(WeightsError, match=r"at 299 px Keras' Xception pads other pixels.* such as 296 px"):
        check_keras_network(describe("timm/legacy_xception", 299))
    with pytest.raises(WeightsError, match=r"at 75 px Keras' MobileNet .* such as 64 px"):
        check_keras_network(describe("timm/mobilenetv1_100", 75))
    with pytest.raises(WeightsError, match=r"at 40 px Keras' MobileNet .* such as 64 px"):
        check_keras_network(describe("timm/mobilenetv1_100", 40))


def test_networks_that_keras_has_not_are_refused(tmp_path):
    path = write_listed(tmp_path / "x.h5", TINY)
    with pytest.raises(WeightsError, match=r"for timm/test_resnet: expected a network that is known .*VGG16, VGG19"):
        match_file(path, describe("timm/test_resnet"))
    with pytest.raises(WeightsError, match=r"Keras' ResNet50 is another network, Keras strides in the first 1 x 1"):
        match_file(path, describe("timm/resnet50.tv_in1k"))
    with pytest.raises(WeightsError, match=r"expected a weight file .* a .keras file is saved as one"):
        match_file(tmp_path / "x.keras", describe("timm/test_resnet"))


def test_the_modes_of_preparation():
    images = draw_images(1, 8, 3)
    for mode in PREPROCESSING:
        mean, std = input_contract(mode)
        ours = (images / 255 - np.array(mean)) / np.array(std)
        ours = ours[..., ::-1] if mode == "caffe" else ours
        np.testing.assert_allclose(ours, prepare(images, "", mode), rtol=1e-4, atol=1e-4)
    with pytest.raises(OptionError, match="unknown preprocessing 'bgr': expected one of caffe, tf, torch"):
        input_contract("bgr")


def test_the_first_convolution_is_flipped_and_no_other():
    tensors = {"a": torch.rand(4, 3, 3, 3), "b": torch.rand(3, 4, 1, 1), "c": torch.rand(3)}
    flipped = flip_first_convolution(tensors)
    image = torch.rand(1, 3, 5, 5)
    assert torch.allclose(
        functional.conv2d(image, flipped["a"]), functional.conv2d(image.flip(1), tensors["a"]), atol=1e-6
    )
    assert flipped["b"] is tensors["b"]
    with pytest.raises(WeightsError, match=r"one convolution with three input channels to flip, found 0"):
        flip_first_convolution({"b": tensors["b"]})


# --- files of PyTorch -------------------------------------------------------------------------------------------------


def rename_children(network):
    """Name the tensors as RadImageNet does: the children of the network by number, without the classifier."""
    body = nn.Sequential(*list(network.children())[:-1])
    return {f"backbone.{key}": tensor for key, tensor in body.state_dict().items()}


@pytest.fixture(scope="module")
def resnet50():
    return build_network(describe("torchvision/resnet50"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "inception_v3"])
def test_names_by_number_are_matched_where_they_tell_branches_apart(tmp_path, name):
    architecture = describe(f"torchvision/{name}", 96, **(NO_AUXILIARY if name == "inception_v3" else {}))
    network = build_network(architecture)
    torch.save({"state_dict": rename_children(network)}, tmp_path / "x.pth")
    match = match_file(tmp_path / "x.pth", architecture)
    assert (match.has_head, match.by) == (False, "order")
    own = network.state_dict()
    assert match.tensors.keys() == {key for key in own if not key.startswith("fc.")}
    assert all(torch.equal(tensor, own[key]) for key, tensor in match.tensors.items())
    if name == "resnet50":
        assert ("4.0.downsample.0.weight", "layer1.0.downsample.0.weight") in [
            (theirs.removeprefix("backbone."), ours) for theirs, ours in match.pairs
        ]


@pytest.mark.slow
def test_a_shortcut_before_the_convolution_it_resembles_is_refused(resnet50):
    given = rename_children(resnet50)
    swapped = {}
    for key, tensor in given.items():
        other = (
            key.replace(".0.conv3.", ".0.#")
            .replace(".0.downsample.0.", ".0.conv3.")
            .replace(".0.#", ".0.downsample.0.")
        )
        swapped[other] = tensor
    with pytest.raises(WeightsError, match=r"layer1.0.conv3 and layer1.0.downsample.0 of ResNet have the same shape"):
        match_tensors(swapped, resnet50, ("fc.weight", "fc.bias"), size_px=64, source="x.pth")
    nameless = {f"{i}.{key.rpartition('.')[2]}": tensor for i, (key, tensor) in enumerate(given.items())}
    with pytest.raises(WeightsError, match="bring a PyTorch file with the names of timm or torchvision"):
        match_tensors(nameless, resnet50, ("fc.weight", "fc.bias"), size_px=64, source="x.pth")


def test_blocks_in_another_order_are_refused(resnet50):
    given = rename_children(resnet50)
    keys = list(given)
    swapped = [key.replace("4.1.", "4.#.").replace("4.2.", "4.1.").replace("4.#.", "4.2.") for key in keys]
    with pytest.raises(
        WeightsError, match=r"expected \S*4\.1\.\S* before \S*4\.2\.\S*; the order of the layers was lost"
    ):
        match_tensors({key: given[key] for key in swapped}, resnet50, ("fc.weight", "fc.bias"), size_px=64, source="x")


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "module.", "module.encoder.", "model."])
def test_names_are_matched_behind_any_common_prefix(tmp_path, prefix):
    architecture = describe("torchvision/resnet18")
    own = build_network(architecture).state_dict()
    given = {f"{prefix}{key}": tensor.half() for key, tensor in own.items() if not key.endswith("num_batches_tracked")}
    torch.save(given, tmp_path / "x.pt")
    match = match_file(tmp_path / "x.pt", architecture)
    assert (match.has_head, match.by, len(match.pairs)) == (True, "name", len(given))
    assert match.tensors.keys() == own.keys()
    assert match.tensors["conv1.weight"].dtype == torch.float32
    lines = match.describe().splitlines()
    assert lines[0] == "102 tensors matched by name, with its classifier"
    assert lines[1] == "  conv1.weight -> conv1.weight"
    assert lines[4:] == ["  ... 98 more", "  fc.bias -> fc.bias"]


def test_a_classifier_of_other_classes_is_left_out_and_grey_is_widened():
    own = build_network(describe("torchvision/resnet18"))
    given = {
        **own.state_dict(),
        "conv1.weight": torch.ones(64, 1, 7, 7),
        "fc.weight": torch.rand(14, 512),
        "fc.bias": torch.rand(14),
        "aux1.fc.weight": torch.rand(2),
    }
    deeper = {key.replace("fc.", "fc.3."): tensor for key, tensor in given.items()}
    for names in (given, deeper, rename_children(own) | {"a.weight": given["fc.weight"], "a.bias": given["fc.bias"]}):
        match = match_tensors(names, own, ("fc.weight", "fc.bias"), size_px=64, source="x")
        assert not match.has_head
        assert "fc.weight" not in match.tensors
    match = match_tensors(given, own, ("fc.weight", "fc.bias"), size_px=64, source="x")
    torch.testing.assert_close(match.tensors["conv1.weight"], torch.full((64, 3, 7, 7), 1 / 3))


@pytest.mark.slow
def test_files_of_another_network_are_refused(tmp_path):
    architecture, own = describe("torchvision/resnet18"), build_network(describe("torchvision/resnet18")).state_dict()
    torch.save({**own, "extra.weight": torch.rand(3)}, tmp_path / "x.pth")
    with pytest.raises(
        WeightsError, match=r"x.pth does not fit ResNet: 0 tensors missing \(none\), 1 unknown \(extra.weight\)"
    ):
        match_file(tmp_path / "x.pth", architecture)
    torch.save({**own, "conv1.weight": torch.rand(64, 3, 3, 3)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"conv1.weight: expected \(64, 3, 7, 7\), found \(64, 3, 3, 3\)"):
        match_file(tmp_path / "x.pth", architecture)
    torch.save(nn.Linear(3, 3).state_dict(), tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="expected 102 or, without the classifier, 100, found 2"):
        match_file(tmp_path / "x.pth", architecture)
    save_file(rename_children(build_network(describe("torchvision/resnet18"))), tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"where all names are foreign, bring a \.pth file, which keeps the order"):
        match_file(tmp_path / "x.safetensors", architecture)


def test_nothing_in_a_file_is_run(tmp_path):
    class Spy:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "run"),))

    (tmp_path / "x.pth").write_bytes(pickle.dumps({"a": Spy()}))
    torch.save({"a": Spy()}, tmp_path / "y.pth")
    for name in ("x.pth", "y.pth"):
        with pytest.raises(WeightsError, match=f"{name}: cannot be read as weights"):
            match_file(tmp_path / name, describe("torchvision/resnet18"))
    assert not (tmp_path / "run").exists()
