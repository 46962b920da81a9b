"""Every row of the table, walked: lines, one training step, engine and ONNX are those of the whole network.

At low resolution and with random weights, since neither changes what is cut where.
"""

from __future__ import annotations

import copy
import gc
import warnings
from pathlib import Path

import numpy as np
import pytest

from referees import check_every_line, make_images, measure_difference
from thawline.learn import engine
from thawline.learn.backbones import BACKBONES
from thawline.learn.engine import OpenVinoEngine, smallest_cosine
from thawline.learn.networks import build_network, cut_classifier, fit_size
from thawline.learn.stages import find_stages
from thawline.learn.weight_files import Weights
from thawline.types import Contract

pytestmark = pytest.mark.slow
SIZE_PX = 64
LARGER = {  # what loses more to strides, has patches of 14 px, or is so deep that rounding grows where there are few px
    **dict.fromkeys(("caffenet", "overfeat", "inception", "radimagenet", "xception", "efficientnetv2"), 96),
    "dinov2": 70,
}
FIXED = ("lenet", "cifarnet")  # take images of one size


def choose_size(row):
    """The side at which a row is walked: small, or its own where it takes no other."""
    if row.name in FIXED:
        return row.architecture.size_px
    return next((size for name, size in LARGER.items() if row.name.startswith(name)), SIZE_PX)


def settle_norms(network, size_px):
    """Let running statistics be those of some images.

    At their start the activations of a very deep network grow from block to block, to 10 million in EfficientNetV2-L, and
    the rounding with them, until no two ways of computing agree.
    """
    import torch

    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():
        network.train()(make_images(size_px, items=4))
    network.eval()


def list_different():
    """Rows of which no earlier one builds the same backbone: what is trained for other classes is walked once."""
    found = {}
    for row in BACKBONES:
        about = row.architecture.to_json()
        options = sorted((name, str(value)) for name, value in about["options"].items() if name != "num_classes")
        found.setdefault((about["builder"], about["model"].partition(".")[0], *options), row)
    return list(found.values())


def forget_graphs():
    """Free what torch keeps of each traced network for the life of the process: of all rows together, 10 GB."""
    import torch

    torch._C._jit_clear_class_registry()
    torch.jit._state._clear_class_state()
    torch.jit._recursive.concrete_type_store = torch.jit._recursive.ConcreteTypeStore()
    gc.collect()


@pytest.fixture(scope="module", params=list_different(), ids=lambda row: row.name)
def built(request):
    """A row and its backbone with random weights from a fixed seed."""
    import torch

    row = request.param
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(0)
        architecture = fit_size(row.architecture, choose_size(row))
        network = cut_classifier(build_network(architecture), architecture)
        if row.family == "EfficientNetV2":
            settle_norms(network, choose_size(row))
    yield row, network
    del network
    forget_graphs()


def test_every_line_cuts_it_into_two_parts_that_are_the_whole(built):
    row, network = built
    stages = find_stages(network)
    assert len(stages.names) >= 3
    check_every_line(network, stages, choose_size(row), items=1)


def test_a_training_step_above_a_middle_line_changes_nothing_below_it(built):
    import torch

    row, untouched = built
    network, before = copy.deepcopy(untouched), untouched.state_dict()
    stages = find_stages(network)
    line = stages.names[len(stages.names) // 2]
    prefix, suffix = stages.prefix([line]), stages.suffix(line)
    with torch.no_grad():
        (activations,) = prefix(make_images(choose_size(row), items=1))
    optimiser = torch.optim.SGD(suffix.parameters(), lr=0.1)
    suffix(activations).square().mean().backward()
    optimiser.step()
    after, own = network.state_dict(), suffix.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert changed <= set(own)
    assert set(before) - set(own) == set(prefix.state_dict()) - set(own)


def test_the_engine_computes_what_torch_computes(built, monkeypatch, tmp_path):
    import torch

    row, network = built
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path))  # not to be found by another test, and gone with this one
    monkeypatch.setattr(engine, "load_backbone", lambda _weights: network)
    monkeypatch.setattr(engine, "BATCH_ITEMS", 2)
    about, size_px = row.architecture, choose_size(row)
    contract = Contract(size_px, about.mean, about.std, about.interpolation)
    weights = Weights(about, Path("none"), "0" * 64, "random", "none", "nothing")
    inputs = np.random.default_rng(0).integers(0, 256, (2, size_px, size_px, 3)).astype(np.uint8)
    (found,) = OpenVinoEngine(weights, contract, 1).run([inputs])
    normal = (torch.from_numpy(inputs).float() / 255 - torch.tensor(about.mean)) / torch.tensor(about.std)
    with torch.no_grad():
        expected = network(normal.permute(0, 3, 1, 2)).numpy()
    assert found.shape == expected.shape
    assert smallest_cosine(found, expected) >= 0.9999


def test_its_onnx_export_runs(built, tmp_path, monkeypatch):
    import onnxruntime
    import torch
    from torch.onnx._internal.torchscript_exporter._globals import GLOBALS

    monkeypatch.setattr(GLOBALS, "onnx_shape_inference", False)  # two thirds of the time; the file is run to prove it
    row, network = built
    images, newer = make_images(choose_size(row), items=1), row.family == "DINOv3"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of branches that never change here, and of its own end
        # torch's older exporter takes a fifth of the time; DINOv3 needs the newer one
        faster = {} if newer else {"do_constant_folding": False}
        torch.onnx.export(network, (images,), tmp_path / "backbone.onnx", dynamo=newer, verbose=False, **faster)
        expected = network(images)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # one image is run
    session = onnxruntime.InferenceSession(str(tmp_path / "backbone.onnx"), options, ["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    assert measure_difference(torch.from_numpy(found), expected) < 1e-4
