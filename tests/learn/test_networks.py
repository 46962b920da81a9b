"""Networks as libraries build them: their names, their classifiers, and the cut that leaves pooled features."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from thawline.errors import OptionError, WeightsError
from thawline.learn.backbones import BACKBONES
from thawline.learn.networks import (
    NO_AUXILIARY,
    WITH_AUXILIARY,
    Architecture,
    build_network,
    classifier_keys,
    cut_classifier,
    describe_elsewhere,
)
from thawline.learn.torchvision_operators import import_torchvision

LITE0 = BACKBONES[0].architecture


@pytest.fixture(scope="module")
def timm():
    """The library, imported the way the package does it."""
    import_torchvision()
    return importlib.import_module("timm")


def make_torchvision(model, **options):
    return Architecture(
        f"torchvision/{model}", "torchvision", model, 224, (0.5,) * 3, (0.5,) * 3, "bilinear", options=options
    )


# --- elsewhere --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "builder", "model", "size_px", "interpolation"),
    [
        ("timm/resnet10t", "timm", "resnet10t", 176, "bicubic"),
        ("resnet18", "timm", "resnet18", 224, "bicubic"),
        ("timm/resnet18.a1_in1k", "timm", "resnet18.a1_in1k", 224, "bicubic"),
        ("torchvision/resnet18", "torchvision", "resnet18", 224, "bilinear"),
        ("torchvision/efficientnet_b1", "torchvision", "efficientnet_b1", 240, "bilinear"),
        ("squeezenet1_0", "torchvision", "squeezenet1_0", 224, "bilinear"),
    ],
)
def test_other_names_are_described_as_their_library_does(name, builder, model, size_px, interpolation):
    found = describe_elsewhere(name)
    assert (found.name, found.builder, found.model) == (f"{builder}/{model}", builder, model)
    assert (found.size_px, found.interpolation) == (size_px, interpolation)
    assert (found.mean, found.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "current"),
    [("timm/xception", "legacy_xception"), ("convnext_tiny_in22k", "convnext_tiny.fb_in22k")],
)
def test_a_name_that_timm_has_replaced_is_described_by_its_present_one(old, current):
    assert describe_elsewhere(old) == describe_elsewhere(f"timm/{current}")
    assert describe_elsewhere(old).model == current


@pytest.mark.slow
def test_every_replaced_name_is_described_as_the_library_resolves_it(timm):
    from timm.models import get_deprecated_models

    known = {*timm.list_models(), *timm.list_pretrained()}
    replaced = get_deprecated_models()
    found = {}
    for old in replaced:
        try:
            found[old] = describe_elsewhere(f"timm/{old}").model
        except OptionError as error:
            assert str(error).startswith(f"unknown backbone 'timm/{old}': ")  # noqa: PT017
    assert found == {old: current for old, current in replaced.items() if current in known}
    assert len(found) > 100


@pytest.mark.slow
def test_a_replaced_name_is_built_as_the_library_builds_it(timm):
    found = build_network(describe_elsewhere("timm/xception"))
    with pytest.warns(UserWarning, match="deprecated model name xception"):
        expected = timm.create_model("xception")
    assert {key: tensor.shape for key, tensor in found.state_dict().items()} == {
        key: tensor.shape for key, tensor in expected.state_dict().items()
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("resnet81", "resnet18"),
        ("efficientnet_lite9", "efficientnet_lite0"),
        ("timm/squeezenet1_0", "squeezenet1_0"),
        ("timm/resnet18.no_such_weights", "resnet18"),
        ("torchvision/resnet10t", "resnet10t"),
        ("keras/resnet18", "resnet18"),
    ],
)
def test_an_unknown_name_is_refused_with_those_close_to_it(name, close):
    with pytest.raises(
        OptionError, match=f"unknown backbone '{name}': expected a network of the literature, such as ResNet50, "
    ) as caught:
        describe_elsewhere(name, [row.name for row in BACKBONES])
    suggestions = str(caught.value).split("close to it: ")[1].split(", ")
    assert close in suggestions
    assert len(suggestions) == len(set(suggestions))


@pytest.mark.slow
def test_a_name_that_is_near_to_nothing_has_no_suggestion():
    with pytest.raises(OptionError, match=r"or a name that timm or torchvision has$"):
        describe_elsewhere("qqqqqqqq")


@pytest.mark.slow
def test_every_name_of_both_libraries_can_be_described(timm):
    from torchvision import models

    for name in [f"timm/{n}" for n in timm.list_models()] + [f"torchvision/{n}" for n in models.list_models(models)]:
        found = describe_elsewhere(name)
        assert found.name == name
        assert 16 <= found.size_px <= 1024
        assert len(found.mean) == len(found.std) == 3
        assert found.interpolation in ("bilinear", "bicubic")


# --- networks and cuts ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    [
        Architecture("x", "timm", "no_such_network", 224, (0.5,) * 3, (0.5,) * 3, "bicubic"),
        Architecture("x", "timm", "resnet10t", 224, (0.5,) * 3, (0.5,) * 3, "bicubic", {"no_such_option": 1}),
        make_torchvision("no_such_network"),
        make_torchvision("resnet18", no_such_option=1),
    ],
    ids=lambda architecture: f"{architecture.builder} {architecture.model}",
)
def test_what_cannot_be_built_is_refused_by_name(architecture):
    with pytest.raises(WeightsError, match=f"{architecture.builder} cannot build '{architecture.model}' with"):
        build_network(architecture)


def run_network(network, size_px=64, seed=0):
    import torch

    inputs = torch.from_numpy(np.random.default_rng(seed).normal(size=(2, 3, size_px, size_px)).astype(np.float32))
    with torch.no_grad():
        return network(inputs)


@pytest.mark.slow
def test_the_default_backbone_is_cut_before_its_classifier():
    network = build_network(LITE0)
    scores, classifier = run_network(network), network.classifier
    features = run_network(cut_classifier(network, LITE0))
    assert features.shape == (2, 1280)
    np.testing.assert_allclose(classifier(features).detach(), scores, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "n_features", "node"), [("resnet18", 512, "flatten"), ("densenet121", 1024, "flatten")]
)
def test_a_cut_of_torchvision_gives_what_its_own_extractor_gives(model, n_features, node):
    architecture = make_torchvision(model)
    network = build_network(architecture)
    from torchvision.models.feature_extraction import create_feature_extractor  # importable once a network was built

    expected = run_network(create_feature_extractor(network, {node: "features"}))["features"]
    found = run_network(cut_classifier(network, architecture))
    assert found.shape == (2, n_features)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "n_features"), [("squeezenet1_0", 512), ("mobilenet_v3_small", 576)])
def test_convolutional_features_are_pooled(model, n_features):
    architecture = make_torchvision(model)
    network = build_network(architecture)
    expected = run_network(network.features).mean(dim=(2, 3))
    found = run_network(cut_classifier(network, architecture))
    assert found.shape == (2, n_features)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.slow
def test_a_network_without_a_known_classifier_is_refused():
    from torch import nn

    with pytest.raises(WeightsError, match=r"Sequential has none of the blocks .* to cut at; found 0"):
        cut_classifier(nn.Sequential(nn.Linear(3, 3)), make_torchvision("resnet18"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        (LITE0, {"classifier.weight", "classifier.bias"}),
        (make_torchvision("resnet18"), {"fc.weight", "fc.bias"}),
        (make_torchvision("squeezenet1_0"), {"classifier.1.weight", "classifier.1.bias"}),
        (make_torchvision("googlenet", **NO_AUXILIARY), {"fc.weight", "fc.bias"}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_tensors_of_the_classifier_are_known(architecture, expected):
    assert classifier_keys(build_network(architecture), architecture) == expected


@pytest.mark.slow
@pytest.mark.parametrize("model", WITH_AUXILIARY)
def test_classifiers_on_the_way_belong_to_the_classifier_and_are_left_out(model):
    whole, cut = make_torchvision(model, init_weights=False), make_torchvision(model, **NO_AUXILIARY)
    given, kept = build_network(whole), build_network(cut)
    auxiliary = given.state_dict().keys() - kept.state_dict().keys()
    assert auxiliary
    assert classifier_keys(given, whole) == auxiliary | {"fc.weight", "fc.bias"}
    found = describe_elsewhere(f"torchvision/{model}")
    assert (found.mean, found.std, found.options) == ((0.5,) * 3, (0.5,) * 3, NO_AUXILIARY)


@pytest.mark.slow
@pytest.mark.parametrize("model", WITH_AUXILIARY)
def test_half_and_half_is_what_the_library_turns_its_own_normalisation_into(model):
    import torch

    pixels = torch.rand(2, 3, 107, 107, generator=torch.Generator().manual_seed(0))
    network = build_network(make_torchvision(model, **NO_AUXILIARY))
    mean, std = (torch.tensor(each).reshape(3, 1, 1) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        ours = network((pixels - 0.5) / 0.5)
        network.transform_input = True  # as the library sets it with its weights
        torch.testing.assert_close(ours, network((pixels - mean) / std), rtol=1e-4, atol=1e-4)


def test_an_architecture_as_json_is_what_comes_back_from_a_file():
    import json

    for row in BACKBONES:
        written = row.architecture.to_json()
        assert json.loads(json.dumps(written)) == written
        assert Architecture.from_json(written) == row.architecture
