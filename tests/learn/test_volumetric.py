"""Networks taken to three dimensions: each convolution against its definition, whole ones against their parts."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from referees import TOLERANCE, measure_difference
from thawline.errors import OptionError
from thawline.learn.engine import TorchEngine, open_engine, smallest_cosine
from thawline.learn.facts import describe_backbone
from thawline.learn.loading import find_stages_of, fit_weights, load_backbone, load_blocks, load_random
from thawline.learn.networks import build_network, cut_classifier, describe_elsewhere
from thawline.learn.volumetric import convolve_acs, inflate, is_faithful, make_volumetric
from thawline.learn.weights import find_weights
from thawline.types import Contract, Depth, Hardware, Reading

FLAT = ("torchvision/resnet18", "timm/mobilenetv2_100", "timm/tf_efficientnet_lite0", "timm/resnet10t")
KINDS = ("acs", "inflated")
N_SLICES, SIZE_PX = 20, 64


@pytest.fixture(scope="module")
def weights():
    return find_weights("efficientnet_lite0")


def build(name):
    return cut_classifier(build_network(describe_elsewhere(name)), describe_elsewhere(name)).eval()


def draw(*shape, seed=0):
    import torch

    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


# --- convolutions -----------------------------------------------------------------------------------------------------


def embed_filters(convolution):
    """The definition: each filter flat in its plane, in the middle of a cube of zeros."""
    import torch

    kernel = convolution.weight.detach()
    n_filters, n_inputs, size, _ = kernel.shape
    groups, middle = convolution.groups, (size - 1) // 2
    n_units, unit = (groups, n_filters // groups) if groups > 1 else (n_filters, 1)
    cubes = torch.zeros(n_filters, n_inputs, size, size, size)
    for number in range(n_filters):
        place = number // unit
        if place < n_units // 3:
            cubes[number, :, middle] = kernel[number]
        elif place < 2 * n_units // 3:
            cubes[number, :, :, middle] = kernel[number]
        else:
            cubes[number, :, :, :, middle] = kernel[number]
    return cubes


def convolve_fully(images, cubes, convolution, edges):
    from torch.nn import functional

    padded = functional.pad(images, [each for pair in edges[::-1] for each in pair])
    about = convolution.stride[0], 0, convolution.dilation[0], convolution.groups
    return functional.conv3d(padded, cubes, convolution.bias, *about)


@settings(deadline=None, max_examples=60)
@given(
    size=st.integers(1, 5),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    padding=st.integers(0, 2),
    groups=st.sampled_from([1, 2, 6]),
    sides=st.tuples(*[st.integers(5, 9)] * 3),
    bias=st.booleans(),
)
def test_acs_convolutions_are_flat_filters_in_cubes(size, stride, dilation, padding, groups, sides, bias):
    import torch
    from torch import nn

    assume(dilation * (size - 1) + 1 <= min(sides) + 2 * padding)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flat = nn.Conv2d(6, 12, size, stride, padding, dilation, groups, bias)
    made = make_volumetric(copy.deepcopy(flat), "acs")
    images = draw(2, 6, *sides)
    with torch.no_grad():
        expected = convolve_fully(images, embed_filters(flat), flat, [(padding, padding)] * 3)
        assert measure_difference(made(images), expected) < TOLERANCE
        assert {name: tensor.shape for name, tensor in made.state_dict().items()} == {
            name: tensor.shape for name, tensor in flat.state_dict().items()
        }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (5, 2), (1, 2)])
def test_same_padding_is_that_of_the_flat_convolution_along_every_axis(kind, size, stride):
    import torch

    from thawline.learn.torchvision_operators import import_torchvision

    import_torchvision()
    from timm.layers import Conv2dSame
    from timm.layers.padding import get_same_padding

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flat = Conv2dSame(3, 7, size, stride)
    images = draw(2, 3, 6, 7, 9)
    lacks = [get_same_padding(n, size, stride, 1) for n in images.shape[2:]]
    edges = [(lack // 2, lack - lack // 2) for lack in lacks]
    cubes = embed_filters(flat) if kind == "acs" else inflate(flat.weight.detach())
    with torch.no_grad():
        expected = convolve_fully(images, cubes, flat, edges)
        assert measure_difference(make_volumetric(flat, kind)(images), expected) < TOLERANCE


def test_filters_of_axial_planes_see_each_slice_as_the_flat_network_does():
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flat = nn.Conv2d(4, 9, 3, padding=1)
    images = draw(2, 4, 5, 8, 8)
    with torch.no_grad():
        found = make_volumetric(copy.deepcopy(flat), "acs")(images)
        expected = torch.stack([flat(images[:, :, place]) for place in range(5)], dim=2)
        assert measure_difference(found[:, :3], expected[:, :3]) < TOLERANCE
        turned = torch.stack([flat(images[..., place]) for place in range(8)], dim=4)
        assert measure_difference(found[:, 6:], turned[:, 6:]) < TOLERANCE


def test_an_inflated_convolution_of_equal_slices_is_the_flat_one():
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flat = nn.Conv2d(4, 6, 3, stride=2, padding=1)
    image = draw(2, 4, 9, 9)
    with torch.no_grad():
        found = make_volumetric(copy.deepcopy(flat), "inflated")(image.unsqueeze(2).repeat(1, 1, 9, 1, 1))
        for place in (1, 2, 3):  # at the ends zeros are seen
            assert measure_difference(found[:, :, place], flat(image)) < TOLERANCE


@pytest.mark.parametrize("n_slices", [1, 2])
def test_few_slices_are_not_faded_by_zeros_beyond_them(n_slices):
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flat = nn.Conv2d(4, 6, 5, padding=2)
    image = draw(2, 4, 9, 9)
    with torch.no_grad():
        found = make_volumetric(copy.deepcopy(flat), "inflated")(image.unsqueeze(2).repeat(1, 1, n_slices, 1, 1))
        assert found.shape[2] == n_slices
        for place in range(n_slices):
            assert measure_difference(found[:, :, place], flat(image)) < TOLERANCE


@pytest.mark.slow
def test_a_few_small_slices_leave_something_of_an_inflated_network(weights):
    import torch

    n_slices, size_px = 16, 32  # one slice is left after five strides
    fitted = fit_weights(weights, size_px, Reading(dimensions="3d_inflated", n_slices=n_slices))
    with torch.inference_mode():
        assert load_backbone(fitted)(draw(2 * n_slices, 3, size_px, size_px)).abs().max() > 0.1


def test_a_convolution_sees_only_what_it_is_given():
    import torch

    flat = torch.nn.Conv2d(1, 3, 3, padding=1, bias=False)
    made = make_volumetric(flat, "acs")
    assert convolve_acs(torch.zeros(1, 1, 4, 4, 4), made).abs().max() == 0


# --- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", FLAT)
def test_networks_of_convolutions_go_to_three_dimensions_with_their_names(name):
    import torch

    flat = build(name)
    assert is_faithful(flat, 33, 33)
    for kind in KINDS:
        made = make_volumetric(copy.deepcopy(flat), kind).eval()
        assert made.state_dict().keys() == flat.state_dict().keys()
        with torch.no_grad():
            features = made(draw(2, 3, 33, 33, 33))
            assert features.shape == flat(draw(2, 3, 33, 33)).shape
            assert torch.isfinite(features).all()
            assert features.std() > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm/efficientnet_b0", "timm/mobilenetv3_small_100"])
def test_a_network_that_averages_over_axes_by_their_numbers_is_not_faithful(name):
    """Squeeze and excitation: what was height and width is depth and height then, and nothing fails."""
    flat = build(name)
    assert make_volumetric(copy.deepcopy(flat), "acs")(draw(1, 3, 32, 64, 64)).shape == flat(draw(1, 3, 64, 64)).shape
    assert not is_faithful(flat, 32, 64)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm/convnext_atto", "timm/efficientnet_b0", "timm/vit_tiny_patch16_224"])
@pytest.mark.parametrize("kind", KINDS)
def test_others_are_refused_before_anything_is_run(weights, name, kind, monkeypatch):
    from thawline.learn import facts

    architecture = describe_elsewhere(name)
    monkeypatch.setattr(facts, "_load", lambda _: build(name))
    other = dataclasses.replace(weights, architecture=architecture)
    with pytest.raises(OptionError, match=rf"--dimensions 3d_{kind}.*choose another --backbone"):
        describe_backbone(other, lines=False, depth=Depth(32, kind))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_prefix_and_suffix_are_the_whole_at_every_line(weights, kind):
    import torch

    depth = Depth(N_SLICES, kind)
    lines = describe_backbone(weights, size_px=SIZE_PX, depth=depth).lines
    assert lines[-1].shape == (3, N_SLICES, SIZE_PX, SIZE_PX)
    assert lines[-1].thawed_fraction == lines[-1].compute_fraction == 1
    fitted = fit_weights(weights, SIZE_PX, Reading(dimensions=f"3d_{kind}", n_slices=N_SLICES))
    assert fitted.depth == depth
    names = [line.name for line in lines]
    stages = find_stages_of(fitted, load_blocks(fitted), names)
    images = draw(2 * N_SLICES, 3, SIZE_PX, SIZE_PX)
    with torch.no_grad():
        volumes = images.reshape(2, N_SLICES, 3, SIZE_PX, SIZE_PX).transpose(1, 2)
        expected = load_blocks(fitted)(volumes)
        assert measure_difference(load_backbone(fitted)(images), expected) < TOLERANCE
        for line, activations in zip(lines, stages.prefix(names)(images), strict=True):
            assert tuple(activations.shape) == (2, *line.shape)
            assert measure_difference(stages.suffix(line.name)(activations), expected) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_computes_what_torch_computes(weights, kind, tmp_path, monkeypatch):
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path))
    about = weights.architecture
    reading = Reading(dimensions=f"3d_{kind}", slices="all", n_slices=N_SLICES)
    contract = Contract(SIZE_PX, about.mean, about.std, about.interpolation, reading=reading)
    hardware = Hardware(cores=2, memory_mib=1000)
    inputs = np.random.default_rng(0).integers(0, 256, (3, N_SLICES, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    engines = (
        open_engine(weights, contract, hardware),
        TorchEngine(fit_weights(weights, SIZE_PX, reading), contract, hardware),
    )
    found = [np.concatenate(list(each.run(iter([each_one[None] for each_one in inputs])))) for each in engines]
    assert found[0].shape == found[1].shape == (3, found[0].shape[1])
    assert smallest_cosine(*found) > 0.9999


@pytest.mark.slow
def test_a_random_start_of_inflated_kernels_has_the_variance_of_its_fan_in(weights):
    fitted = fit_weights(weights, SIZE_PX, Reading(dimensions="3d_inflated", n_slices=N_SLICES))
    flat, cubic = load_random(dataclasses.replace(fitted, depth=None), 3), load_random(fitted, 3)
    names = [
        name for name, each in flat.named_parameters() if each.ndim == 4 and each.shape[2] > 1 and each.numel() > 500
    ]
    assert names
    for name in names:
        before, after = flat.get_parameter(name).detach(), cubic.get_parameter(name).detach()
        assert after.shape == (*before.shape[:2], before.shape[2], *before.shape[2:])
        assert float(after.std()) == pytest.approx(float(before.std()) / before.shape[2] ** 0.5, rel=0.1)
        assert float((after[:, :, 0] - after[:, :, 1]).abs().max()) > 0
