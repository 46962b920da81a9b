"""A network of the user's own: checked, thawed, kept without its code, loaded where it is given again."""

from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import thawline
from helpers import Notes, make_films
from thawline.errors import OptionError, ThawlineError, WeightsError
from thawline.learn import networks
from thawline.learn.facts import describe_backbone
from thawline.learn.loading import fit_weights, load_backbone, load_random
from thawline.learn.networks import OwnNetwork, draw_weights
from thawline.learn.weights import keep_network
from thawline.types import Depth, Reading


def make_module(activation=nn.ReLU):
    torch.manual_seed(0)
    layers = []
    for before, after in ((3, 8), (8, 16), (16, 24), (24, 32)):
        layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), activation()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def make_own(**changes):
    about = {"name": "four", "module": make_module(), "size_px": 64, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    return OwnNetwork(**{**about, "licence": "ours", "pretrained_on": "nothing", **changes})


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(networks, "_OWN", {})


def test_it_is_kept_and_built_as_it_was_given():
    own = make_own()
    weights = keep_network(own)
    assert (weights.architecture.name, weights.licence, weights.source) == ("own/four", "ours", "the user's own")
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(load_backbone(weights)(images), own.module(images))
    assert keep_network(own).sha256 == weights.sha256  # so that a run can go on


def make_deep(**changes):
    """A network of three dimensions, for volumes of eight slices."""
    torch.manual_seed(0)
    layers = []
    for before, after in ((3, 8), (8, 16), (16, 24), (24, 32)):
        layers += [nn.Conv3d(before, after, 3, 2, 1, bias=False), nn.BatchNorm3d(after), nn.ReLU()]
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten())
    return make_own(**{"name": "deep", "module": module, "size_px": 32, "n_slices": 8, **changes})


def test_one_of_three_dimensions_is_cut_at_its_own_lines():
    depth = Depth(8, "native")
    facts = describe_backbone(keep_network(make_deep()), depth=depth)
    assert [line.name for line in facts.lines] == ["9", "6", "3", "0"]
    assert facts.lines[-1].shape == (3, 8, 32, 32)
    fitted = fit_weights(keep_network(make_deep()), 32, Reading(dimensions="3d_native", slices="spread:8", n_slices=8))
    images = torch.rand(16, 3, 32, 32)
    with torch.no_grad():
        expected = make_deep().module.eval()(images.reshape(2, 8, 3, 32, 32).transpose(1, 2))
        assert torch.equal(load_backbone(fitted)(images), expected)
    with pytest.raises(OptionError, match="failed on two volumes of 8 slices of 32 px"):
        make_deep(module=make_module()).check()


@pytest.mark.slow
def test_a_run_with_one_of_three_dimensions(tmp_path):
    draw = np.random.default_rng(0)
    labels = np.arange(40) % 2
    volumes = draw.normal(100, 30, (40, 6, 32, 32)) + 60 * labels[:, None, None, None]
    np.savez(tmp_path / "volumes.npz", images=np.clip(volumes, 0, 255).astype(np.uint8), labels=labels)
    about = {"thaw_line": "9", "folds": 2, "views": 1, "controls": "none", "budget": "none"}
    own = make_deep()
    finished = thawline.run(tmp_path / "volumes.npz", tmp_path / "run", network=own, listener=Notes(), **about)
    reading = thawline.load_model(tmp_path / "run", network=own).contract.reading
    assert (reading.dimensions, reading.n_slices) == ("3d_native", 8)  # of six slices two are shown twice
    assert finished.metrics["validation"]["auc"]["value"] > 0.8
    with pytest.raises(OptionError, match=r"--dimensions 3d_native: belongs to a thawline\.OwnNetwork with n_slices"):
        thawline.run(tmp_path / "volumes.npz", tmp_path / "none", dimensions="3d_native", listener=Notes())


def make_monai(seed):
    """A narrow ResNet-10 of MONAI's, of three dimensions and one channel, as MedicalNet's weights want them."""
    nets = pytest.importorskip("monai.networks.nets")
    torch.manual_seed(seed)
    about = {"spatial_dims": 3, "n_input_channels": 1, "feed_forward": False, "bias_downsample": False}
    return nets.ResNet("basic", [1, 1, 1, 1], [8, 16, 24, 32], **about)


class OfOneChannel(nn.Module):
    """Shows a network of grey volumes one of three channels, which are alike."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, volumes):
        return self.network(volumes[:, :1])


def make_balls(n_items):
    """Volumes of noise, every second with a ball in it, somewhere; and which have one."""
    draw = np.random.default_rng(0)
    places = np.stack(np.meshgrid(*(np.arange(side) for side in (8, 32, 32)), indexing="ij"), axis=-1)
    labels = np.arange(n_items) % 2
    middles = draw.uniform((3, 10, 10), (5, 22, 22), (n_items, 3))
    balls = np.array([np.linalg.norm(places - middle, axis=-1) < 4 for middle in middles])
    volumes = draw.normal(90, 15, balls.shape) + 60 * balls * labels[:, None, None, None]
    return np.clip(volumes, 0, 255).astype(np.uint8), labels


@pytest.mark.slow
def test_a_network_of_monai_with_weights_of_ones_own_is_run_frozen_and_thawed(tmp_path):
    torch.save(make_monai(1).state_dict(), tmp_path / "trained.pt")
    network = make_monai(2)
    network.load_state_dict(torch.load(tmp_path / "trained.pt", weights_only=True))
    own = make_own(name="monai-resnet10", module=OfOneChannel(network), size_px=32, n_slices=8)
    volumes, labels = make_balls(60)
    np.savez(tmp_path / "volumes.npz", images=volumes, labels=labels)
    about = {"thaw_line": "network.layer4", "strategy": "feature_extractor,fine_tuning", "folds": 2, "views": 1}
    about |= {"controls": "none", "budget": "none"}
    finished = thawline.run(tmp_path / "volumes.npz", tmp_path / "run", network=own, listener=Notes(), **about)
    tried = [(rung["strategy"], rung["thaw_line"]) for rung in finished.metrics["ladder"]]
    assert tried == [("feature_extractor", None), ("fine_tuning", "network.layer4")]
    assert finished.metrics["validation"]["auc"]["value"] > 0.8
    model = thawline.load_model(tmp_path / "run", network=own)
    assert (model.contract.reading.dimensions, model.contract.reading.n_slices) == ("3d_native", 8)
    with (tmp_path / "run" / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        tests = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    found = model.predict_proba([volumes[int(row["item"])] for row in tests])[:, 1]
    assert found == pytest.approx([float(row["p_1"]) for row in tests], abs=1e-4)
    fitted = fit_weights(keep_network(own), 32, model.contract.reading)
    images = torch.rand(16, 3, 32, 32)
    with torch.no_grad():
        expected = make_monai(1).eval()(images[:, :1].reshape(2, 8, 1, 32, 32).transpose(1, 2))
        assert torch.allclose(load_backbone(fitted)(images), expected, atol=1e-5)


def test_its_random_start_shares_nothing_with_it():
    weights = keep_network(make_own())
    first, again, other = (load_random(weights, seed).get_parameter("0.weight") for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, load_backbone(weights).get_parameter("0.weight"))


def test_a_parameter_that_nobody_draws_is_named():
    module = make_module()
    module.register_parameter("scale", nn.Parameter(torch.ones(1)))
    with pytest.raises(WeightsError, match=r"expected layers with reset_parameters\(\), found none for scale"):
        draw_weights(module)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (nn.Conv2d(3, 4, 3), r"expected features \(2, features\) of two images, found \(2, 4, 62, 62\)"),
        (nn.Linear(5, 2), r"failed on two images of 64 px \(RuntimeError"),
        (nn.LSTM(64, 4), "failed on two images|found tuple"),
    ],
)
def test_what_gives_no_features_is_refused(module, said):
    with pytest.raises(OptionError, match=said):
        keep_network(make_own(module=module))


def test_two_of_one_name_do_not_get_into_each_others_way():
    first, second = make_own(), make_own(module=make_module(nn.Tanh))
    with torch.no_grad():
        second.module[0].weight.mul_(2)
    kept = keep_network(first), keep_network(second)
    assert kept[0].path != kept[1].path
    assert kept[0].architecture != kept[1].architecture
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for own, weights in zip((first, second), kept, strict=True):
            assert torch.equal(load_backbone(weights)(images), own.module(images))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mean": (0.5,)}, "expected mean of three numbers"),
        ({"mean": 0.5}, "expected mean of three numbers"),
        ({"mean": (127.0,) * 3}, "expected mean and std of pixels from 0 to 1"),
        ({"std": (0.0,) * 3}, "std above 0"),
        ({"interpolation": "lanczos"}, "expected interpolation bilinear or bicubic"),
    ],
)
def test_an_input_that_cannot_be_is_refused(changes, said, tmp_path):
    with pytest.raises(OptionError, match=said):
        thawline.run(tmp_path, tmp_path / "run", network=make_own(**changes))


def test_what_is_no_own_network_is_refused(tmp_path):
    with pytest.raises(OptionError, match=r"expected a thawline\.OwnNetwork, found Sequential"):
        thawline.run(tmp_path, tmp_path / "run", network=make_module())
    with pytest.raises(OptionError, match=r"expected a torch\.nn\.Module, found str"):
        thawline.run(tmp_path, tmp_path / "run", network=make_own(module="resnet"))
    with pytest.raises(OptionError, match="expected neither --backbone nor --weights"):
        thawline.run(tmp_path, tmp_path / "run", network=make_own(), backbone="vgg16")


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b"])
def test_a_name_that_is_none_for_a_file_is_refused(name):
    with pytest.raises(OptionError, match="expected a name of letters, digits, dots and dashes"):
        keep_network(make_own(name=name))


@pytest.mark.slow
def test_a_run_thaws_it_and_its_model_needs_it_again(tmp_path, monkeypatch):
    monkeypatch.setenv("THAWLINE_DATA", str(tmp_path / "data"))
    films = make_films(tmp_path / "films", n_patients=30, contrast=0.6)
    own = make_own()
    about = {"thaw_line": "9", "folds": 2, "views": 1, "controls": "none"}
    result = thawline.run(films, tmp_path / "run", network=own, listener=Notes(), **about)
    tried = {rung["thaw_line"] for rung in result.metrics["ladder"]}
    assert "9" in tried
    assert result.metrics["chosen"]["backbone"] == "own/four"
    image = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    expected = result.load_model().predict_proba([image])
    networks._OWN.clear()  # another process
    with pytest.raises(ThawlineError, match="'four' is a network of somebody's own: give it as network="):
        thawline.load_model(tmp_path / "run")
    again = dataclasses.replace(own, module=make_module())
    assert np.allclose(thawline.load_model(tmp_path / "run", network=again).predict_proba([image]), expected)
    other = dataclasses.replace(own, module=make_module(nn.Tanh))
    with pytest.raises(ThawlineError, match="this machine computes other probabilities than the run did"):
        thawline.load_model(tmp_path / "run", network=other)
    for changed in (other, dataclasses.replace(own, std=(0.3,) * 3), make_own(size_px=96)):
        with pytest.raises(ThawlineError, match="holds another run"):
            thawline.run(films, tmp_path / "run", network=changed, listener=Notes(), **about)
