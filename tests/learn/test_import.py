"""Files of other makers brought in: described, listed, found again, and the same network as they were of."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from thawline.audit.pretraining import describe_licence
from thawline.cli import app
from thawline.errors import OptionError, WeightsError
from thawline.learn.air_gap import import_weights, verify_weights
from thawline.learn.backbones import find_row
from thawline.learn.loading import load_network
from thawline.learn.networks import build_network
from thawline.learn.weights import find_weights


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("THAWLINE_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr("thawline.learn.weights.fetch_network", lambda _: pytest.fail("asked a hub"))
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def store(tmp_path, name, *, prefix="", without=(), **options):
    """Write the random weights of a row's network as somebody else would; return the file and the network."""
    torch.manual_seed(0)
    row = find_row(name)
    about = dataclasses.replace(row.architecture, options={**row.architecture.options, **options})
    network = build_network(about)
    tensors = {prefix + key: tensor for key, tensor in network.state_dict().items() if not key.startswith(without)}
    torch.save({"epoch": 3, "state_dict": tensors}, tmp_path / "theirs.pth")
    return tmp_path / "theirs.pth", network


def run(network, images):
    with torch.no_grad():
        return network(images)


@pytest.mark.slow
def test_a_checkpoint_of_a_training_script_comes_in_under_its_own_names(tmp_path, folder):
    file, network = store(tmp_path, "ResNet18", prefix="module.")
    written, match = import_weights(file, "ResNet-18", folder, licence="MIT", pretrained_on="our own films")
    assert (match.by, match.has_head) == ("name", True)
    found = find_weights("resnet18")
    assert found == written
    assert (found.licence, found.pretrained_on) == ("MIT", "our own films")
    assert found.source.startswith("imported from theirs.pth, SHA-256 ")
    assert not [each for each in verify_weights() if each.place == "folder" and each.problem]
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(run(load_network(found), images), run(network, images))


def test_what_nobody_said_is_not_made_up(tmp_path, folder):
    file, _ = store(tmp_path, "SqueezeNet")
    written, _ = import_weights(file, "SqueezeNet", folder)
    assert (written.licence, written.pretrained_on) == ("not stated", "not stated")
    assert describe_licence(written.licence)


@pytest.mark.slow
def test_a_row_that_is_named_by_its_data_has_seen_them(tmp_path, folder):
    file, network = store(tmp_path, "CheXNet")
    written, match = import_weights(file, "CheXNet", folder)
    assert written.pretrained_on == "ChestX-ray14 (NIH)"
    assert match.has_head
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(run(load_network(find_weights("chexnet")), images), run(network, images))


def test_another_number_of_classes_leaves_the_classifier_behind(tmp_path, folder):
    file, network = store(tmp_path, "SqueezeNet", num_classes=7)
    written, match = import_weights(file, "SqueezeNet", folder)
    assert not match.has_head
    assert not written.has_head
    kept = load_network(written).state_dict()
    assert all(torch.equal(kept[key], value) for key, value in network.state_dict().items() if "classifier" not in key)


def test_blue_first_from_0_to_255_is_turned_into_our_order(tmp_path, folder):
    file, network = store(tmp_path, "SqueezeNet")
    written, _ = import_weights(file, "SqueezeNet", folder, preprocessing="caffe")
    about = written.architecture
    rgb = torch.rand(2, 3, 64, 64)
    theirs = rgb.flip(1) * 255 - torch.tensor([103.939, 116.779, 123.68])[:, None, None]
    mean, std = (torch.tensor(each)[:, None, None] for each in (about.mean, about.std))
    assert torch.allclose(run(load_network(written), (rgb - mean) / std), run(network, theirs), rtol=1e-4, atol=1e-2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of its own use of numpy
def test_a_file_of_keras_is_the_same_network_here(tmp_path, folder, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    theirs = keras.applications.MobileNetV2(weights=None, input_shape=(96, 96, 3))
    theirs.save(tmp_path / "theirs.h5")
    done = CliRunner().invoke(
        app, ["weights", "import", str(tmp_path / "theirs.h5"), "--as", "MobileNet2", "--licence", "Apache-2.0"]
    )
    assert done.exit_code == 0, done.output
    assert "tensors matched by order, with its classifier" in done.stderr
    facts = json.loads((folder / "mobilenet2.json").read_text())
    assert facts["builder_options"] == {"pad_type": "same", "bn_eps": 0.001}
    assert facts["contract"]["mean"] == [0.5] * 3
    images = np.random.default_rng(0).uniform(-1, 1, (2, 96, 96, 3)).astype(np.float32)
    ours = run(load_network(find_weights("MobileNet2")), torch.from_numpy(images).permute(0, 3, 1, 2)).softmax(1)
    assert np.allclose(ours.numpy(), np.asarray(theirs.predict(images, verbose=0)), atol=1e-5)


def test_a_network_of_keras_that_is_another_is_refused(tmp_path, folder):
    (tmp_path / "theirs.h5").write_bytes(b"")
    with pytest.raises(WeightsError, match="Keras' ResNet50 is another network, Keras strides in the first"):
        import_weights(tmp_path / "theirs.h5", "ResNet50", folder)


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("theirs.h5", b"junk", "theirs.h5"),
        ("theirs.pth", b"junk", "cannot be read as weights"),
        ("theirs.txt", b"junk", "expected a weight file"),
        (None, b"", "theirs.pth"),
    ],
)
def test_what_is_no_file_of_weights_is_said_and_leaves_nothing(tmp_path, folder, name, raw, said):
    if name:
        (tmp_path / name).write_bytes(raw)
    with pytest.raises(WeightsError, match=said):
        import_weights(tmp_path / (name or "theirs.pth"), "VGG16", folder)
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_weights_of_another_network_are_refused(tmp_path, folder):
    file, _ = store(tmp_path, "ResNet18")
    with pytest.raises(WeightsError, match=r"theirs\.pth does not fit"):
        import_weights(file, "ResNet34", folder)
    with pytest.raises(OptionError, match="unknown backbone"):
        import_weights(file, "reznet", folder)
    with pytest.raises(OptionError, match="unknown preprocessing"):
        import_weights(file, "ResNet18", folder, preprocessing="lua")


def test_without_a_folder_the_command_says_what_to_give(tmp_path, monkeypatch):
    monkeypatch.delenv("THAWLINE_WEIGHTS")
    done = CliRunner().invoke(app, ["weights", "import", str(tmp_path / "a.pth"), "--as", "vgg16"])
    assert done.exit_code == 2
    assert "expected --out FOLDER or THAWLINE_WEIGHTS" in done.stderr
