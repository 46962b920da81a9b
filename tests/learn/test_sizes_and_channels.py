"""Networks at another size than that of their training, and with a first convolution for grey images."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import thawline
from helpers import Notes, make_films
from thawline.errors import OptionError, UnreadableItemsError
from thawline.learn.backbones import find_row
from thawline.learn.engine import open_engine, smallest_cosine
from thawline.learn.facts import describe_backbone, takes_size
from thawline.learn.loading import fit_weights, load_backbone, load_network
from thawline.learn.networks import Architecture, build_network, describe_elsewhere, fit_size, sum_channels
from thawline.learn.stages import find_stages
from thawline.learn.weight_files import Weights, write_weights
from thawline.learn.weights import find_weights
from thawline.types import Contract, Hardware

FIXED = [
    "vit_tiny",
    pytest.param("dinov2_small", marks=pytest.mark.slow),
    pytest.param("dinov3_small", marks=pytest.mark.slow),
    pytest.param("swin_tiny", marks=pytest.mark.slow),
]
HARDWARE = Hardware(1, 4096)


def make_weights(folder: Path, architecture: Architecture) -> Weights:
    """Write random weights of a network as it was trained, its positions among them."""
    torch.manual_seed(0)
    network = build_network(architecture)
    for name, parameter in network.named_parameters():
        if "pos_embed" in name or "bias_table" in name:
            torch.nn.init.normal_(parameter)
    about = Weights(architecture, Path(), "", "made up", "CC0", "nothing")
    return write_weights(folder / "made.safetensors", network.state_dict(), about)


# --- other sizes ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", FIXED)
def test_a_fixed_grid_is_resampled_as_timm_does_it(name, tmp_path):
    from thawline.learn.torchvision_operators import import_torchvision

    import_torchvision()
    import timm

    row = find_row(name)
    size_px = row.architecture.size_px - 64
    weights = make_weights(tmp_path, row.architecture)
    ours = load_network(fit_weights(weights, size_px))
    native = load_network(weights).state_dict()
    options = {**row.architecture.options, "img_size": size_px}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own interpolation
        theirs = timm.create_model(
            row.architecture.model, pretrained=True, pretrained_cfg_overlay={"state_dict": dict(native)}, **options
        ).eval()
    images = torch.rand(1, 3, size_px, size_px)
    with torch.no_grad():
        assert torch.allclose(ours(images), theirs(images), atol=1e-5)
        assert find_stages(load_backbone(fit_weights(weights, size_px))).names  # its lines can be found


def test_at_its_own_size_and_for_convolutions_nothing_is_built_anew():
    for name in ("vit_tiny", "resnet18", "vgg16", "dinov2_small"):
        architecture = find_row(name).architecture
        assert fit_size(architecture, architecture.size_px) is architecture
    for name in ("resnet18", "vgg16"):
        architecture = find_row(name).architecture
        assert fit_size(architecture, 320) is architecture
    assert fit_size(find_row("vit_tiny").architecture, 320).options["img_size"] == 320


def test_facts_of_a_fixed_grid_at_another_size(tmp_path):
    weights = make_weights(tmp_path, find_row("vit_tiny").architecture)
    facts = describe_backbone(weights, size_px=128)
    assert (facts.native_px, facts.size_px) == (224, 128)
    assert facts.lines[0].shape == ((128 // 16) ** 2 + 1, 192)
    assert takes_size(weights, 128)


@pytest.mark.slow
def test_the_engine_runs_it_at_another_size(tmp_path, monkeypatch):
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "cache"))
    weights = make_weights(tmp_path, find_row("vit_tiny").architecture)
    images = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), np.uint8)
    about = weights.architecture
    found = np.concatenate(
        list(open_engine(weights, Contract(128, about.mean, about.std, precision="f32"), HARDWARE).run([images]))
    )
    normal = (torch.from_numpy(images).float() / 255 - torch.tensor(about.mean)) / torch.tensor(about.std)
    with torch.no_grad():
        expected = load_backbone(fit_weights(weights, 128))(normal.permute(0, 3, 1, 2)).numpy()
    assert smallest_cosine(found, expected) > 0.9999


@pytest.mark.slow
def test_a_network_whose_weights_are_those_of_one_size_says_so(tmp_path):
    weights = make_weights(tmp_path, describe_elsewhere("timm/mixer_s32_224"))
    assert not takes_size(weights, 160)
    with pytest.raises(OptionError, match="takes images of 224 px, as in its training, and fails on 160 px"):
        describe_backbone(weights, size_px=160)


# --- one channel ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_vit", "torchvision/squeezenet1_1", "cifarnet"])
def test_where_all_channels_are_normalised_alike_summing_changes_nothing(name, tmp_path):
    row = find_row(name)
    architecture = row.architecture if row else describe_elsewhere(name)
    architecture = dataclasses.replace(architecture, mean=(0.4,) * 3, std=(0.2,) * 3)
    weights = make_weights(tmp_path, architecture)
    summed = dataclasses.replace(weights, architecture=sum_channels(architecture))
    assert summed.architecture.mean == pytest.approx(architecture.mean)
    grey = torch.rand(2, 1, architecture.size_px, architecture.size_px).expand(-1, 3, -1, -1)
    three, one = load_network(weights), load_network(summed)
    with torch.no_grad():
        assert torch.allclose(one(grey), three(grey), atol=1e-4)
    first = next(each for each in one.modules() if isinstance(each, torch.nn.Conv2d))
    assert (first.in_channels, first.weight.shape[1]) == (1, 1)


def test_different_normalisation_is_averaged():
    summed = sum_channels(find_row("resnet18").architecture)
    assert summed.mean == pytest.approx(((0.485 + 0.456 + 0.406) / 3,) * 3)
    assert summed.summed
    assert Architecture.from_json(json.loads(json.dumps(summed.to_json()))) == summed


def test_what_a_run_has_saved_is_loaded_as_it_was(tmp_path):
    weights = make_weights(tmp_path, describe_elsewhere("timm/test_resnet"))
    summed = dataclasses.replace(weights, architecture=sum_channels(weights.architecture))
    narrow = load_network(summed).state_dict()
    saved = write_weights(tmp_path / "saved.safetensors", narrow, summed)
    again = load_network(saved).state_dict()
    assert all(torch.equal(again[key], tensor) for key, tensor in narrow.items())


@pytest.mark.slow
def test_the_lines_the_engine_and_a_training_step_take_it(tmp_path, monkeypatch):
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "cache"))
    found = find_weights("efficientnet_lite0")
    weights = dataclasses.replace(found, architecture=sum_channels(found.architecture))
    facts = describe_backbone(weights, size_px=64)
    whole = describe_backbone(found, size_px=64)
    assert [line.name for line in facts.lines] == [line.name for line in whole.lines]
    stages = find_stages(load_backbone(weights))
    images = torch.rand(2, 1, 64, 64).expand(-1, 3, -1, -1) * 2 - 1
    line = stages.names[2]
    with torch.no_grad():
        (crossing,) = stages.prefix([line])(images)
        assert torch.allclose(stages.suffix(line)(crossing), load_backbone(found)(images), atol=1e-4)
    bottom = stages.suffix(stages.names[-1])
    bottom(images).sum().backward()
    assert bottom.get_parameter("conv_stem.weight").grad.shape == (32, 1, 3, 3)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 1), np.uint8).repeat(3, axis=3)
    runs = [
        np.concatenate(list(open_engine(each, Contract(64, (0.5,) * 3, (0.5,) * 3), HARDWARE).run([pixels])))
        for each in (weights, found)
    ]
    assert smallest_cosine(*runs) > 0.9999


def test_a_network_without_such_a_convolution_says_so():
    with pytest.raises(
        OptionError, match="--grey sum: expected a first convolution of three channels, lenet5 has none"
    ):
        build_network(sum_channels(find_row("LeNet-5").architecture))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm/resnetv2_50x1_bit", "timm/nf_resnet26"])
def test_a_first_convolution_that_standardises_its_weights_cannot_be_summed(name):
    with pytest.raises(OptionError, match="standardises its weights, so that their sum gives something else"):
        build_network(sum_channels(describe_elsewhere(name)))


@pytest.mark.slow
def test_a_run_of_grey_images_keeps_a_model_of_grey_images(tmp_path, monkeypatch, tiny_file):

    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("THAWLINE_DATA", str(tmp_path / "data"))
    films = make_films(tmp_path / "films", n_patients=30, contrast=0.6)
    about = {"thaw_line": "conv_stem", "folds": 2, "views": 1, "size_px": 64, "controls": "none", "budget": "none"}
    about |= {"weights": tiny_file, "backbone": "tiny"}
    result = thawline.run(films, tmp_path / "run", grey="sum", listener=Notes(), **about)
    assert result.metrics["ladder"][-1]["thaw_line"] == "conv_stem"
    model = thawline.load_model(tmp_path / "run")
    assert model.contract.grey
    image = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    found = model.predict_proba([image])
    assert np.allclose(thawline.load_model(tmp_path / "run" / "model").predict_proba([image]), found)
    assert np.allclose(model.predict_proba([np.stack([image] * 3, axis=2)]), found)  # grey, as some files store it
    with pytest.raises(UnreadableItemsError, match="a colour image, but the model was made for grey ones only"):
        model.predict_proba([np.stack([image, 255 - image, image], axis=2)])


def test_colour_images_are_refused_before_anything_is_run(tmp_path, monkeypatch):

    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    for number in range(24):
        folder = tmp_path / "images" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{number}.png")
    with pytest.raises(OptionError, match="--grey sum: expected grey images only, found 24 in colour"):
        thawline.plan_only(tmp_path / "images", thawline.RunOptions(grey="sum", strategy="feature_extractor"))
