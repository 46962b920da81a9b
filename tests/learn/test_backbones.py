"""The table of backbones: every row by its names, its input, its size as printed and as counted."""

from __future__ import annotations

import importlib
import json
import re

import pytest

from thawline.learn import backbones
from thawline.learn.backbones import BACKBONES, NO_WEIGHTS, find_row
from thawline.learn.networks import Architecture, build_network, count_layers, count_parameters, cut_classifier
from thawline.learn.torchvision_operators import import_torchvision
from thawline.options import RunOptions

every_row = pytest.mark.parametrize("row", BACKBONES, ids=[row.name for row in BACKBONES])
NAMED = {  # networks that carry their number of layers in their name
    *("vgg16", "vgg19", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "darknet19", "darknet53"),
    *("resnet50v2", "resnet101v2", "resnet152v2", "densenet121", "densenet169", "densenet201"),
}


@pytest.fixture(scope="module")
def timm():
    """The library, imported the way the package does it."""
    import_torchvision()
    return importlib.import_module("timm")


# --- names ------------------------------------------------------------------------------------------------------------


@every_row
def test_a_row_is_found_by_its_names_in_any_case_and_with_any_dashes(row):
    for name in (row.name, *row.aliases):
        for spelt in (name, name.upper(), name.replace("_", "-"), name.replace("_", " "), name.replace("-", "")):
            assert find_row(spelt) is row


def test_no_name_stands_for_two_rows():
    names = [name.translate(backbones.DASHES).lower() for row in BACKBONES for name in {row.name, *row.aliases}]
    assert len(names) == len(set(names))
    assert find_row("resnet_of_dreams") is None
    assert RunOptions().backbone == backbones.DEFAULT_BACKBONE == "efficientnet_lite0"


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("GoogLeNet", "inception1"),
        ("BN-Inception", "inception2"),
        ("Inception V3", "inception3"),
        ("Inception-ResNet-v2", "inception_resnet2"),
        ("ResNet-50", "resnet50"),
        ("ResNet50V2", "resnet50v2"),
        ("DenseNet-121", "densenet121"),
        ("MobileNet", "mobilenet1"),
        ("mobilenetv2_100", "mobilenet2"),
        ("tf_efficientnet_lite0", "efficientnet_lite0"),
        ("EfficientNetV2-S", "efficientnetv2_s"),
        ("CheXNet", "chexnet"),
        ("LeNet-5", "lenet5"),
        ("ViT-B/16", "vit_base"),
        ("swin_tiny_patch4_window7_224", "swin_tiny"),
    ],
)
def test_the_terms_of_the_literature_are_taken(name, row):
    assert find_row(name).name == row


@every_row
def test_a_row_survives_json(row):
    again = Architecture.from_json(json.loads(json.dumps(row.architecture.to_json())))
    assert again == row.architecture
    assert json.loads(json.dumps(row.to_json()))["parameters"] == row.parameters
    with pytest.raises(TypeError, match="depth"):
        Architecture.from_json({**row.architecture.to_json(), "depth": 3})


# --- facts ------------------------------------------------------------------------------------------------------------


@every_row
def test_a_row_says_who_described_the_network_and_what_its_weights_may_be_used_for(row):
    assert re.search(r"(19|20)\d\d, \S", row.citation)
    assert 1998 <= row.year <= 2026
    if row.licence == NO_WEIGHTS:
        assert row.architecture.builder == "thawline" or row.note
    assert row.pretrained_on
    assert 32 <= row.architecture.size_px <= 600


@pytest.mark.slow
@every_row
def test_a_row_states_the_input_and_licence_that_the_library_states(row, timm):
    about = row.architecture
    if about.builder != "timm":
        pytest.skip("built elsewhere")
    config = timm.get_pretrained_cfg(about.model)
    assert about.size_px == config.input_size[1] == config.input_size[2] or "img_size" in about.options
    assert (about.mean, about.std, about.interpolation) == (config.mean, config.std, config.interpolation)
    if row.licence != NO_WEIGHTS:
        assert config.has_weights
        assert row.licence.lower().replace(" license", "-license").startswith(config.license)


def build_light(row):
    """The network of a row without memory for its weights."""
    import torch

    with torch.device("meta"):
        return build_network(row.architecture)


@pytest.mark.slow
@every_row
def test_a_network_is_as_large_and_deep_as_its_row_says(row):
    network = build_light(row)
    assert count_parameters(network) == row.parameters
    assert count_layers(network, row.architecture.size_px) == row.layers
    assert row.name not in NAMED or str(row.layers) in row.name
    assert count_parameters(cut_classifier(network, row.architecture)) == row.feature_parameters


@every_row
def test_what_is_printed_is_what_is_counted_or_the_row_says_why_not(row):
    number, unit = re.fullmatch(r"([\d.,]+)(M?)", row.published).groups()
    digits = len(number.partition(".")[2])
    printed = float(number.replace(",", "")) * (1e6 if unit else 1)
    half_a_digit = 0.5 * 10.0**-digits * (1e6 if unit else 1)
    assert abs(row.parameters - printed) <= half_a_digit or row.note
