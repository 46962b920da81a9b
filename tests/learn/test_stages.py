"""Stages: every line cuts a network into a prefix and a suffix that together are the network, whatever the architecture."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import warnings

import pytest

from referees import TOLERANCE, check_every_line, make_images, measure_difference, run_watched
from thawline.errors import ModelError, OptionError
from thawline.learn.backbones import BACKBONES
from thawline.learn.loading import load_backbone
from thawline.learn.networks import build_network, cut_classifier, describe_elsewhere
from thawline.learn.stages import find_stages, find_stages_at, list_lines
from thawline.learn.weight_files import read_sidecar
from thawline.learn.weights import find_weights

LITE0 = ("conv_head", *(f"blocks.{number}" for number in reversed(range(7))), "conv_stem")

ARCHITECTURES = (  # library and name, side of the input, what the lines look like from the top
    ("timm/resnet18", 64, ("layer4", "layer3", "layer2", "layer1", "conv1")),
    ("torchvision/resnet50", 64, ("layer4", "layer3", "layer2", "layer1", "conv1")),
    ("torchvision/vgg16", 64, ("features.28", "features.26")),
    ("torchvision/alexnet", 96, ("features.10", "features.8", "features.6", "features.3", "features.0")),
    ("torchvision/densenet121", 64, ("features.denseblock4", "features.transition3", "features.denseblock3")),
    ("torchvision/squeezenet1_0", 64, ("features.12", "features.10")),
    ("torchvision/googlenet", 64, ("inception5b", "inception5a", "inception4e")),
    ("torchvision/shufflenet_v2_x0_5", 64, ("conv5", "stage4", "stage3", "stage2", "conv1")),
    ("torchvision/vit_b_16", 64, ("encoder.layers.encoder_layer_11", "encoder.layers.encoder_layer_10")),
    ("torchvision/swin_t", 64, ("features.7", "features.6", "features.5")),
    ("timm/vit_tiny_patch16_224", 64, ("blocks.11", "blocks.10")),
    ("timm/swin_tiny_patch4_window7_224", 64, ("layers.3", "layers.2", "layers.1", "layers.0", "patch_embed")),
    ("timm/convnext_atto", 64, ("stages.3", "stages.2", "stages.1", "stages.0", "stem")),
    ("timm/inception_v3", 107, ("Mixed_7c", "Mixed_7b", "Mixed_7a")),
    ("timm/mobilenetv3_large_100", 64, ("conv_head", "blocks.6", "blocks.5")),
    ("timm/regnety_002", 64, ("s4", "s3", "s2", "s1", "stem")),
    ("timm/dla34", 64, ("level5", "level4", "level3")),
    ("timm/legacy_xception", 64, ("conv4", "conv3", "block12")),
    ("timm/cait_xxs24_224", 64, ("blocks_token_only.0", "blocks.23", "blocks.22")),
    ("timm/resnetv2_50", 64, ("stages.3", "stages.2", "stages.1", "stages.0", "stem")),
)
SIZED = {  # built for one size, by the option that says which
    "torchvision/vit_b_16": "image_size",
    "timm/vit_tiny_patch16_224": "img_size",
    "timm/swin_tiny_patch4_window7_224": "img_size",
    "timm/cait_xxs24_224": "img_size",
}
LARGE = {  # whose fine lines are many, of kinds that smaller networks have as well: found, and not run each
    *("torchvision/resnet50", "torchvision/densenet121", "torchvision/swin_t", "torchvision/vit_b_16"),
    *("timm/swin_tiny_patch4_window7_224", "timm/inception_v3", "timm/legacy_xception", "timm/resnetv2_50"),
    "timm/cait_xxs24_224",
}
WALKED = {f"{row.architecture.builder}/{row.architecture.model}" for row in BACKBONES}  # see test_every_backbone
every_architecture = pytest.mark.parametrize(
    ("name", "size_px", "top"), ARCHITECTURES, ids=[row[0].replace("/", " ") for row in ARCHITECTURES]
)


def make_network(name, size_px):
    architecture = describe_elsewhere(name)
    if name in SIZED:
        architecture = dataclasses.replace(architecture, options={SIZED[name]: size_px})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torchvision on how it will fill googlenet one day
        return cut_classifier(build_network(architecture), architecture)


# --- the default backbone, with its real weights ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def lite0():
    return load_backbone(find_weights("efficientnet_lite0"))


@pytest.fixture(scope="module")
def lite0_stages(lite0):
    return find_stages(lite0)


def test_the_lines_of_the_default_backbone_carry_the_names_of_its_blocks(lite0_stages):
    assert lite0_stages.names == LITE0


def test_the_default_backbone_is_the_same_cut_at_any_line(lite0, lite0_stages):
    check_every_line(lite0, lite0_stages, 128)


@pytest.mark.slow
def test_fine_lines_of_the_default_backbone_reach_every_block_that_no_skip_crosses(lite0):
    stages = find_stages(lite0, fine=True)
    assert {"conv_head", "blocks.5.3", "blocks.5.2", "blocks.5.1", "blocks.5.0.conv_pw", "conv_stem"} <= {*stages.names}
    assert "blocks.5.1.conv_dw" not in stages.names  # inside a block with a skip around it
    check_every_line(lite0, stages, 64)


def test_thawed_fraction_is_the_share_of_parameters_counted_by_hand(lite0, lite0_stages):
    order = ["conv_stem", "bn1", *(f"blocks.{number}" for number in range(7)), "conv_head", "bn2"]
    counts = [sum(tensor.numel() for tensor in lite0.get_submodule(name).parameters()) for name in order]
    assert sum(counts) == sum(tensor.numel() for tensor in lite0.parameters())
    lines = {line.name: line for line in list_lines(lite0_stages, 64)}
    for name in LITE0:
        assert lines[name].thawed_fraction == sum(counts[order.index(name) :]) / sum(counts)
    assert lines["conv_head"].thawed_fraction == (320 * 1280 + 2 * 1280) / sum(counts)


def test_between_two_lines_lies_what_leads_from_one_to_the_other(lite0, lite0_stages):
    import torch

    images = make_images(96)
    names = ("blocks.6", "blocks.3", "blocks.1", "conv_stem")
    _, seen = run_watched(lite0, names, images)
    with torch.no_grad():
        for place, lower in enumerate(names):
            for upper in names[: place + 1]:
                found = lite0_stages.between(lower, upper)(seen[lower])
                assert measure_difference(found, seen[upper]) < TOLERANCE
        stepwise = seen["conv_stem"]
        for lower, upper in (("conv_stem", "blocks.1"), ("blocks.1", "blocks.3"), ("blocks.3", "blocks.6")):
            stepwise = lite0_stages.between(lower, upper)(stepwise)
    assert measure_difference(stepwise, seen["blocks.6"]) < TOLERANCE


def test_a_prefix_of_several_lines_gives_what_each_gives_alone_in_the_order_asked_for(lite0_stages):
    import torch

    images, names = make_images(64), ("blocks.2", "conv_head", "conv_stem", "blocks.5")
    with torch.no_grad():
        together = lite0_stages.prefix(names)(images)
        assert len(together) == len(names)
        for name, found in zip(names, together, strict=True):
            (alone,) = lite0_stages.prefix([name])(images)
            assert torch.equal(found, alone)


def test_a_suffix_has_the_networks_own_tensors_under_their_own_names(lite0, lite0_stages):
    own = lite0.state_dict()
    order = ["conv_stem", "bn1", *(f"blocks.{number}" for number in range(7)), "conv_head", "bn2"]
    for name in LITE0:
        above = tuple(f"{block}." for block in order[order.index(name) :])
        found = lite0_stages.suffix(name).state_dict()
        assert set(found) == {key for key in own if key.startswith(above)}
        assert all(found[key].data_ptr() == own[key].data_ptr() for key in found)
        below = lite0_stages.prefix([name]).state_dict()
        assert set(below) == set(own) - set(found)


def test_a_training_step_above_a_line_changes_nothing_below_it(lite0):
    import torch

    network = copy.deepcopy(lite0)
    stages = find_stages(network)
    before, images = copy.deepcopy(network.state_dict()), make_images(64, items=4)
    (activations,) = stages.prefix(["blocks.5"])(images)
    suffix = stages.suffix("blocks.5").train()
    optimiser = torch.optim.SGD(suffix.parameters(), lr=0.1)
    suffix(activations.detach()).square().mean().backward()
    optimiser.step()
    after, above = network.state_dict(), tuple(f"{name}." for name in ("blocks.5", "blocks.6", "conv_head", "bn2"))
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert all(key.startswith(above) for key in changed)
    trained = {key for key in before if key.startswith(above)}
    assert {key for key in trained if "conv" in key or "running" in key} <= changed
    (again,) = stages.prefix(["blocks.5"])(images)
    assert torch.equal(again, activations)


def test_a_line_that_is_none_is_refused_with_those_there_are(lite0_stages):
    for ask in (
        lambda: lite0_stages.suffix("blocks.7"),
        lambda: lite0_stages.prefix(["conv_head", "blocks.7"]),
        lambda: lite0_stages.between("blocks.7", "conv_head"),
    ):
        with pytest.raises(OptionError, match=r"expected one of conv_head, blocks.6, .*conv_stem; found 'blocks.7'"):
            ask()


def test_between_the_wrong_way_round_is_refused(lite0_stages):
    with pytest.raises(OptionError, match=r"expected 'blocks.6' or a line above it, found 'blocks.2', which is below"):
        lite0_stages.between("blocks.6", "blocks.2")


# --- networks made by hand --------------------------------------------------------------------------------------------


def make_chain(*channels, kernel=3, norm=None):
    """Convolutions one after the other, each with a normalisation where one is given, then a mean over the image."""
    from torch import nn

    parts = []
    for below, above in itertools.pairwise(channels):
        parts += [nn.Conv2d(below, above, kernel, stride=2), *([norm(above)] if norm else []), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def test_compute_fraction_is_the_share_of_multiplications():
    channels, sides = (3, 8, 16, 8, 4, 12), [63]
    while len(sides) < len(channels):
        sides.append((sides[-1] - 3) // 2 + 1)
    steps = zip(itertools.pairwise(channels), sides[1:], strict=True)
    costs = [side**2 * below * above * 3**2 for (below, above), side in steps]
    lines = list_lines(find_stages(make_chain(*channels)), 63)
    assert [line.name for line in lines] == ["8", "6", "4", "2", "0"]
    for place, line in enumerate(reversed(lines)):
        assert line.compute_fraction == pytest.approx(sum(costs[place:]) / sum(costs), rel=1e-12)
        assert line.shape == (channels[place], sides[place], sides[place])


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("norm", ["BatchNorm2d", "GroupNorm", "InstanceNorm2d"])
def test_a_normalisation_alone_starts_no_stage(norm, fine):
    from torch import nn

    make = {
        "BatchNorm2d": nn.BatchNorm2d,
        "GroupNorm": lambda channels: nn.GroupNorm(2, channels),
        "InstanceNorm2d": lambda channels: nn.InstanceNorm2d(channels, affine=True),
    }[norm]
    network = make_chain(3, 4, 6, norm=make)
    stages = find_stages(network, fine=fine)
    assert stages.names == ("3", "0")
    first, second = [sum(tensor.numel() for tensor in part.parameters()) for part in (network[:3], network[3:])]
    assert list_lines(stages, 32)[0].thawed_fraction == second / (first + second)


def make_by_hand(forward, **blocks):
    """A network of the given blocks, run by ``forward(network, images)``."""
    from torch import nn

    class ByHand(nn.Module):
        def __init__(self):
            super().__init__()
            for name, block in blocks.items():
                setattr(self, name, block)

        def forward(self, images):
            return forward(self, images)

    return ByHand().eval()


def make_conv(below, above):
    from torch import nn

    return nn.Conv2d(below, above, 3, padding=1)


@pytest.mark.parametrize("fine", [False, True])
def test_no_line_lies_under_a_skip_connection(fine):
    def forward(network, images):
        below = network.a(images)
        return network.d(network.c(network.b(below)) + below).mean((2, 3))

    network = make_by_hand(forward, a=make_conv(3, 4), b=make_conv(4, 4), c=make_conv(4, 4), d=make_conv(4, 5))
    stages = find_stages(network, fine=fine)
    assert stages.names == ("d", "b", "a")
    check_every_line(network, stages, 16)


def test_no_line_lies_under_a_skip_from_the_images_themselves():
    def forward(network, images):
        return network.c(network.b(network.a(images)) + images).mean((2, 3))

    network = make_by_hand(forward, a=make_conv(3, 4), b=make_conv(4, 3), c=make_conv(3, 5))
    stages = find_stages(network)
    assert stages.names == ("c", "a")
    check_every_line(network, stages, 16)


def make_joining():
    """A block of two inputs."""
    from torch import nn

    class Joining(nn.Conv2d):
        def forward(self, first, second):
            return super().forward(first) * second

    return Joining(4, 4, 1)


def test_a_block_may_be_given_a_parameter_of_the_network():
    import torch
    from torch import nn

    def forward(network, images):
        return network.b(network.a(images), network.scale).mean((2, 3))

    scale = nn.Parameter(torch.full((1, 4, 1, 1), 0.5))
    network = make_by_hand(forward, a=make_conv(3, 4), b=make_joining(), scale=scale)
    stages = find_stages(network)
    assert stages.names == ("b", "a")
    check_every_line(network, stages, 16)
    above = sum(tensor.numel() for tensor in (scale, *network.b.parameters()))
    expected = above / sum(tensor.numel() for tensor in network.parameters())
    assert list_lines(stages, 16)[0].thawed_fraction == expected


def test_blocks_of_two_inputs_and_of_none_are_cut_where_one_tensor_carries_all():
    import torch
    from torch import nn

    class Token(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.full((1, 4, 1, 1), 0.5))

        def forward(self):
            return self.weight

    def forward(network, images):
        below = network.a(images)
        joined = network.b(below, below.sigmoid())
        apart = network.c(joined, below.sigmoid())  # two tensors cross in front of it
        return (network.d(apart) + network.token()).mean((2, 3))

    blocks = {"b": make_joining(), "c": make_joining(), "d": make_conv(4, 4), "token": Token()}
    network = make_by_hand(forward, a=make_conv(3, 4), **blocks)
    stages = find_stages(network)
    assert stages.names == ("d", "b", "a")
    check_every_line(network, stages, 16)


def test_a_skip_inside_a_block_leaves_the_block_whole_and_fine_opens_the_others():
    from torch import nn

    class Skipping(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = make_conv(4, 4), make_conv(4, 4)

        def forward(self, given):
            return self.two(self.one(given)) + given

    plain = [nn.Sequential(make_conv(4, 4), nn.ReLU(), make_conv(4, 4)) for _ in range(3)]
    network = nn.Sequential(
        make_conv(3, 4), plain[0], Skipping(), plain[1], plain[2], nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    network.eval()
    assert find_stages(network).names == ("4", "3", "2", "1", "0")
    stages = find_stages(network, fine=True)
    assert stages.names == ("4.2", "4.0", "3.2", "3.0", "2", "1.2", "1.0", "0")
    check_every_line(network, stages, 16)


def test_a_block_that_two_levels_share_ends_the_lines_above_its_first_use():
    def forward(network, images):
        return network.c(network.b(network.b(network.a(images)).relu())).mean((2, 3))

    network = make_by_hand(forward, a=make_conv(3, 4), b=make_conv(4, 4), c=make_conv(4, 5))
    stages = find_stages(network)
    assert stages.names == ("c", "b", "a")  # not in front of the second use: training it would change the first
    check_every_line(network, stages, 16)


def test_a_parameter_that_serves_above_and_below_allows_no_line_between():
    import torch
    from torch import nn

    def forward(network, images):
        below = network.b(network.a(images) + network.bias)
        return network.d(network.c(below) + network.bias).mean((2, 3))

    blocks = {"a": make_conv(3, 4), "b": make_conv(4, 4), "c": make_conv(4, 4), "d": make_conv(4, 5)}
    network = make_by_hand(forward, **blocks, bias=nn.Parameter(torch.ones(1, 4, 1, 1)))
    stages = find_stages(network)
    assert stages.names == ("d", "a")
    check_every_line(network, stages, 16)


def test_a_block_whose_result_nobody_uses_is_no_line():
    def forward(network, images):
        below = network.a(images)
        network.unused(below)
        return network.b(below).mean((2, 3))

    network = make_by_hand(forward, a=make_conv(3, 4), unused=make_conv(4, 4), b=make_conv(4, 4))
    assert find_stages(network).names == ("b", "a")


def test_a_block_that_overwrites_its_input_spoils_neither_prefix_nor_suffix():
    from torch import nn

    def make_block():
        return nn.Sequential(nn.LeakyReLU(0.5, inplace=True), make_conv(4, 4))

    network = nn.Sequential(make_conv(3, 4), *(make_block() for _ in range(4)), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    stages = find_stages(network.eval())
    assert stages.names == ("4", "3", "2", "1", "0")
    check_every_line(network, stages, 16)


def test_options_of_forward_keep_their_defaults():
    from torch import nn

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = make_conv(3, 4), make_conv(4, 4)

        def forward(self, images, scale=3.0, mask=None):
            below = self.a(images) * scale
            return self.b(below if mask is None else below * mask).mean((2, 3))

    network = Scaled().eval()
    stages = find_stages(network)
    assert stages.names == ("b", "a")
    check_every_line(network, stages, 16)


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda network, images: network.a(images if images.sum() > 0 else -images), "TraceError"),
        (lambda network, images: (network.a(images), images), "it returns something else than one tensor"),
        (lambda network, images: {"features": network.a(images)}, "it returns something else than one tensor"),
        (lambda network, images: images.mean((2, 3)), "it has no block with weights to train"),
    ],
    ids=["flow that depends on the data", "two results", "a dictionary", "nothing to train"],
)
def test_a_network_that_cannot_be_cut_is_refused_with_the_way_out(forward, reason):
    with pytest.raises(ModelError, match=rf"blocks of ByHand cannot be traced .*{reason}") as caught:
        find_stages(make_by_hand(forward, a=make_conv(3, 4)))
    assert "--strategy feature_extractor" in str(caught.value)


def test_a_network_that_does_more_than_its_trace_shows_is_refused():
    def forward(network, images):
        below = network.a(images)
        below.mul_(2)  # changes what is returned, unseen by the trace
        return network.b(below).mean((2, 3))

    stages = find_stages(make_by_hand(forward, a=make_conv(3, 4), b=make_conv(4, 4)))
    with pytest.raises(
        ModelError, match=r"parts of ByHand should give what the whole network gives, but differ by up to"
    ):
        list_lines(stages, 16)


# --- other architectures, with random weights -------------------------------------------------------------------------


@pytest.mark.parametrize("lines", [(), ("blocks.4",), ("conv_head", "conv_stem")])
def test_lines_between_blocks_are_found_without_opening_any(tiny_file, lines):
    network = load_backbone(read_sidecar(tiny_file, "tiny"))
    assert find_stages_at(network, lines).names == find_stages(network).names


@pytest.mark.slow
@pytest.mark.parametrize("others", [(), ("conv_head", "blocks.0.0.conv")])
def test_a_line_between_layers_opens_the_blocks_and_keeps_the_others(tiny_file, others):
    import torch

    network = load_backbone(read_sidecar(tiny_file, "tiny"))
    fine = find_stages(network, fine=True)
    layer = next(name for name in fine.names if name not in find_stages(network).names)
    lines = (layer, *(name for name in others if name in fine.names))
    stages = find_stages_at(network, lines)
    assert stages.names == fine.names
    images = make_images(64)
    with torch.no_grad():
        for line in lines:
            (activations,) = stages.prefix([line])(images)
            assert measure_difference(stages.suffix(line)(activations), network(images)) < TOLERANCE


def test_a_line_that_is_nowhere_is_refused_when_it_is_asked_for(tiny_file):
    stages = find_stages_at(load_backbone(read_sidecar(tiny_file, "tiny")), ["blocks.99"])
    with pytest.raises(OptionError, match=r"found 'blocks\.99'"):
        stages.suffix("blocks.99")


@pytest.mark.slow
@every_architecture
@pytest.mark.parametrize("fine", [False, True], ids=["blocks", "fine"])
def test_any_architecture_is_the_same_cut_at_any_line(name, size_px, top, fine):
    network = make_network(name, size_px)
    stages = find_stages(network, fine=fine)
    assert len(stages.names) >= (4 if not fine else len(find_stages(network).names))
    if not fine:
        assert stages.names[: len(top)] == top
    if name not in (LARGE if fine else WALKED):
        check_every_line(network, stages, size_px)
