"""Cuts: a tapped network gives the activations, a classifier repeats its head, an ensemble its members, blocks freeze."""

from __future__ import annotations

import copy
import re
from collections import OrderedDict

import numpy as np
import pytest

from thawline.errors import WeightsError
from thawline.learn.cuts import (
    HIDDEN_UNITS,
    MEMBERS,
    freeze_above,
    group_parameters,
    load_ensemble,
    make_classifier,
    split_members,
    tap_lines,
)
from thawline.learn.linear import LinearHead
from thawline.learn.loading import load_backbone
from thawline.learn.stages import find_stages
from thawline.learn.weights import find_weights

LINES = ("conv_head", "blocks.5", "blocks.2", "conv_stem")


def make_head(n_features, n_classes=3, seed=0):
    draw = np.random.default_rng(seed)
    return LinearHead(
        draw.normal(size=n_features),
        draw.uniform(0.1, 2, n_features),
        draw.normal(size=(n_classes, n_features)) / np.sqrt(n_features),
        draw.normal(size=n_classes),
    )


def make_images(items=3, size_px=64, seed=0):
    import torch

    return torch.from_numpy(np.random.default_rng(seed).normal(size=(items, 3, size_px, size_px)).astype(np.float32))


def make_stages(seed=0):
    """Six blocks, each with weights, a normalisation among them; four features."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            OrderedDict(
                a=nn.Conv2d(3, 4, 3, padding=1),
                b=nn.Conv2d(4, 4, 3, padding=1),
                c=nn.Sequential(nn.Conv2d(4, 5, 3, stride=2), nn.BatchNorm2d(5), nn.ReLU()),
                d=nn.Conv2d(5, 4, 3),
                e=nn.Conv2d(4, 4, 1),
                pool=nn.AdaptiveAvgPool2d(1),
                flat=nn.Flatten(),
            )
        )
    return find_stages(network.eval())


def make_members(stages, line, n_members, n_classes=3, layers=1):
    """Classifiers above a line, each with other weights, and their tensors as a model folder holds them."""
    import torch

    members, tensors = [], {}
    for number in range(n_members):
        suffix, head = copy.deepcopy(stages.suffix(line)), make_head(4, n_classes, seed=number)
        member = make_classifier(suffix, head, layers=layers, seed=number)
        with torch.no_grad():
            for parameter in member.parameters():
                parameter.add_(0.01 * (number + 1))
        members.append(member)
        tensors |= {f"{MEMBERS}{number}.{name}": tensor.clone() for name, tensor in member.state_dict().items()}
    return members, tensors


@pytest.fixture(scope="module")
def lite0():
    return find_stages(load_backbone(find_weights("efficientnet_lite0")))


# --- activations at several lines -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("lines", [LINES, LINES[::-1], ("blocks.2",)])
def test_a_tapped_network_gives_the_activations_of_each_line_one_after_the_other(lite0, lines):
    import torch

    images = make_images()
    with torch.no_grad():
        rows = tap_lines(lite0, lines)(images)
        alone = [lite0.prefix([line])(images)[0] for line in lines]
    start = 0
    for activations in alone:
        end = start + activations[0].numel()
        assert torch.equal(rows[:, start:end], activations.reshape(len(images), -1))
        start = end
    assert start == rows.shape[1]


@pytest.mark.slow
def test_the_lowest_line_taps_the_images_themselves(lite0):
    import torch

    images = make_images()
    assert torch.equal(tap_lines(lite0, ["conv_stem"])(images), images.flatten(1))


# --- a classifier -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES)
def test_a_classifier_above_any_line_repeats_its_head(lite0, line):
    import torch

    images = make_images()
    with torch.no_grad():
        features = lite0.network(images).numpy()
        head = LinearHead(features.mean(0), features.std(0) + 0.1, *_slopes(features.shape[1]))
        (activations,) = lite0.prefix([line])(images)
        logits = make_classifier(lite0.suffix(line), head)(activations)
    expected = head.predict_proba(features)
    assert np.ptp(expected, axis=0).min() > 0.01  # or the images could not be told apart
    np.testing.assert_allclose(torch.softmax(logits.double(), 1).numpy(), expected, atol=1e-5)


def _slopes(n_features):
    head = make_head(n_features)
    return head.coefficients, head.intercept


def test_logits_are_those_of_the_head_by_its_formula():
    import torch
    from torch import nn

    head, rows = make_head(6, 4), np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    expected = ((rows - head.mean) / head.scale) @ head.coefficients.T + head.intercept
    with torch.no_grad():
        found = make_classifier(nn.Identity(), head)(torch.from_numpy(rows))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_the_standardisation_holds_nothing_to_train_and_is_the_heads():
    from torch import nn

    head = make_head(6)
    standardise = make_classifier(nn.Linear(2, 6), head).get_submodule("standardise")
    assert [*standardise.parameters()] == []
    assert 0 < standardise.eps < 1e-30  # torch 2.11 refuses zero
    np.testing.assert_array_equal(standardise.running_mean.numpy(), head.mean.astype(np.float32))
    np.testing.assert_allclose(np.sqrt(standardise.running_var.numpy()), head.scale, rtol=1e-6)


def test_a_classifier_shares_the_weights_of_its_suffix_and_comes_in_evaluation_mode():
    stages = make_stages()
    suffix = stages.suffix("c").train()
    classifier = make_classifier(suffix, make_head(4))
    assert not any(part.training for part in classifier.modules())
    assert classifier.get_parameter("suffix.d.weight") is stages.network.get_parameter("d.weight")


def test_neither_a_classifier_nor_an_ensemble_draws_from_torchs_generator():
    import torch

    stages = make_stages()
    before = torch.get_rng_state()
    _, tensors = make_members(stages, "c", 2)
    load_ensemble(stages, "c", tensors)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_column_that_hardly_varies_is_still_divided_by_its_own_scale():
    import torch
    from torch import nn

    head = LinearHead(np.zeros(1), np.array([1e-10]), np.array([[1.0], [-1.0]]), np.zeros(2))
    with torch.no_grad():
        logits = make_classifier(nn.Identity(), head)(torch.tensor([[3e-10]]))
    np.testing.assert_allclose(logits.numpy(), [[3.0, -3.0]], rtol=1e-5)


# --- several fully connected layers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3, 40])
@pytest.mark.parametrize("layers", [2, 3])
def test_a_head_of_several_layers_starts_as_exactly_the_linear_one(layers, n_classes):
    """Also where two units a class are more than there are hidden units else."""
    import torch
    from torch import nn

    head, rows = make_head(6, n_classes), torch.from_numpy(np.random.default_rng(1).normal(size=(50, 6))).float()
    several = make_classifier(nn.Identity(), head, layers=layers, seed=3)
    with torch.no_grad():
        found, expected = several(rows), make_classifier(nn.Identity(), head)(rows)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-6 * float(expected.abs().max()))
    formula = ((rows.double().numpy() - head.mean) / head.scale) @ head.coefficients.T + head.intercept
    np.testing.assert_allclose(found.numpy(), formula, atol=1e-5)
    widths = [tuple(part.weight.shape) for part in several.modules() if isinstance(part, nn.Linear)]
    units = max(HIDDEN_UNITS, 2 * n_classes)
    assert widths == [(units, 6), *[(units, units)] * (layers - 2), (n_classes, units)]


def test_further_units_are_drawn_from_the_seed_and_learn_from_the_first_step():
    import torch
    from torch import nn

    before = torch.get_rng_state()
    one, same, other = (make_classifier(nn.Identity(), make_head(6), layers=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    drawn = [each.get_parameter("hidden.0.weight")[6:] for each in (one, same, other)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert float(drawn[0].detach().std()) == pytest.approx(np.sqrt(2 / 6), rel=0.15)  # He et al. 2015
    rows = torch.from_numpy(np.random.default_rng(1).normal(size=(50, 6))).float()
    nn.functional.cross_entropy(one(rows), torch.arange(50) % 3).backward()
    slopes = one.get_parameter("linear.weight").grad
    assert slopes is not None
    assert (slopes[:, 6:].abs().sum(0) > 0).float().mean() > 0.8  # dead units aside
    assert float(one.get_parameter("linear.weight").detach()[:, 6:].abs().sum()) == 0


# --- blocks that stay -------------------------------------------------------------------------------------------------


def list_trained(suffix):
    return {name for name, parameter in suffix.named_parameters() if parameter.requires_grad}


def test_parameters_are_grouped_by_block_and_each_belongs_to_one():
    suffix = make_stages().suffix("b")
    blocks = ("e", "d", "c", "b")
    names = {id(parameter): name for name, parameter in suffix.named_parameters()}
    groups = [[names[id(parameter)] for parameter in group] for group in group_parameters(suffix, blocks)]
    assert [{name.split(".")[0] for name in group} for group in groups] == [{block} for block in blocks]
    assert sorted(name for group in groups for name in group) == sorted(names.values())
    assert "c.1.weight" in groups[2]


def test_what_lies_between_two_blocks_belongs_to_the_lower_one():
    from torch import nn

    parts = OrderedDict(b1=nn.Linear(3, 3), between=nn.LayerNorm(3), b10=nn.Linear(3, 3), end=nn.LayerNorm(3))
    suffix = nn.Sequential(parts)
    names = {id(parameter): name for name, parameter in suffix.named_parameters()}
    upper, lower = ({names[id(each)] for each in group} for group in group_parameters(suffix, ("b10", "b1")))
    assert lower == {"b1.weight", "b1.bias", "between.weight", "between.bias"}
    assert upper == {"b10.weight", "b10.bias", "end.weight", "end.bias"}
    assert len(group_parameters(suffix, ())) == 1


@pytest.mark.parametrize(("upper", "trained"), [("e", "edcb"), ("d", "dcb"), ("c", "cb"), ("b", "b")])
def test_only_blocks_from_the_upper_one_down_are_trained(upper, trained):
    suffix = make_stages().suffix("b")
    freeze_above(suffix, ("e", "d", "c", "b"), upper)
    assert {name.split(".")[0] for name in list_trained(suffix)} == set(trained)


# --- an ensemble ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("line", "layers"), [("e", 1), ("c", 1), ("a", 1), ("c", 2), ("e", 3)])
def test_an_ensemble_gives_the_logits_of_each_member_in_order(line, layers):
    import torch

    stages, images = make_stages(), make_images(4, 12)
    members, tensors = make_members(stages, line, 12, layers=layers)
    assert len({name.split(".")[1] for name in tensors}) == 12
    with torch.no_grad():
        (activations,) = stages.prefix([line])(images)
        expected = torch.cat([member(activations) for member in members], 1)
        found = load_ensemble(stages, line, dict(sorted(tensors.items())))(images)  # as a file sorts them: 0, 1, 10, 11
    assert found.shape == (4, 36)
    assert torch.equal(found, expected)
    assert len({tuple(row) for row in expected.reshape(4, 12, 3)[0].tolist()}) == 12


def test_an_ensemble_survives_a_file_beside_the_networks_own_tensors(tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    stages, images = make_stages(), make_images(2, 12)
    _, tensors = make_members(stages, "c", 3)
    save_file({**stages.network.state_dict(), **tensors}, tmp_path / "weights.safetensors")
    with torch.no_grad():
        found = load_ensemble(stages, "c", load_file(tmp_path / "weights.safetensors"))(images)
        assert torch.equal(found, load_ensemble(stages, "c", tensors)(images))


def test_members_share_no_memory_with_each_other_or_the_network():
    stages = make_stages()
    _, tensors = make_members(stages, "c", 3)
    before = copy.deepcopy(stages.network.state_dict())
    ensemble = load_ensemble(stages, "c", tensors)
    owners = [*ensemble.get_submodule("members").children(), stages.network]
    places = [{tensor.data_ptr() for tensor in owner.state_dict().values()} for owner in owners]
    places.append({tensor.data_ptr() for tensor in tensors.values()})
    assert all(len(place) > 5 for place in places)
    assert len(set.union(*places)) == sum(map(len, places))
    assert all((tensor == before[name]).all() for name, tensor in stages.network.state_dict().items())
    assert not any(part.training for part in ensemble.modules())


def drop(name):
    return lambda tensors: tensors.pop(f"{MEMBERS}1.{name}")


def rename(name):
    return lambda tensors: tensors.update({f"{MEMBERS}1.{name}_old": tensors.pop(f"{MEMBERS}1.{name}")})


def reshape(name, *shape):
    def change(tensors):
        tensors[f"{MEMBERS}1.{name}"] = tensors[f"{MEMBERS}1.{name}"].new_zeros(shape)

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (drop("suffix.d.weight"), "suffix.d.weight"),
        (drop("suffix.c.1.running_var"), "suffix.c.1.running_var"),
        (drop("standardise.running_mean"), "standardise.running_mean"),
        (drop("linear.bias"), "linear.bias"),
        (drop("linear.weight"), "linear.weight"),
        (rename("suffix.e.bias"), "suffix.e.bias_old"),
        (rename("linear.weight"), "linear.weight"),
        (reshape("suffix.d.weight", 4, 5, 1, 1), "suffix.d.weight"),
        (reshape("linear.weight", 12), "(12,)"),
        (reshape("linear.weight", 4, 4), "linear.bias"),
        (reshape("linear.weight", 3, 5), "standardise.running_mean"),
    ],
)
def test_a_member_that_does_not_fit_is_named_with_its_line_and_tensor(change, named):
    stages = make_stages()
    _, tensors = make_members(stages, "c", 3)
    change(tensors)
    with pytest.raises(WeightsError, match=rf"member 1 above c.*{re.escape(named)}"):
        load_ensemble(stages, "c", tensors)


def test_tensors_of_another_line_are_refused():
    stages = make_stages()
    _, tensors = make_members(stages, "b", 2)
    with pytest.raises(WeightsError, match=r"member 0 above c .*suffix\.b\.weight"):
        load_ensemble(stages, "c", tensors)


@pytest.mark.parametrize("n_networks", [1, 2, 4])
def test_the_last_member_may_have_the_classes_of_all_others_together(n_networks):
    import torch

    stages, images = make_stages(), make_images(4, 12)
    members, tensors = make_members(stages, "c", n_networks)
    (last,), given = make_members(stages, "c", 1, n_classes=3 * n_networks)
    tensors |= {name.replace(f"{MEMBERS}0.", f"{MEMBERS}{n_networks}."): tensor for name, tensor in given.items()}
    with torch.no_grad():
        (activations,) = stages.prefix(["c"])(images)
        expected = torch.cat([member(activations) for member in [*members, last]], 1)
        found = load_ensemble(stages, "c", tensors)(images)
    assert found.shape == (4, 2 * 3 * n_networks)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("sizes", [(2, 3), (3, 3, 2), (3, 3, 9), (3, 2, 3), (3, 2, 5), (3, 6, 3)])
def test_members_with_other_classes_are_refused(sizes):
    stages, tensors = make_stages(), {}
    for number, n_classes in enumerate(sizes):
        given = make_members(stages, "c", 1, n_classes)[1]
        tensors |= {name.replace(f"{MEMBERS}0.", f"{MEMBERS}{number}."): tensor for name, tensor in given.items()}
    with pytest.raises(WeightsError, match=rf"above c, .*found {re.escape(str([*sizes]))} classes"):
        load_ensemble(stages, "c", tensors)


def test_members_are_split_in_the_order_of_their_numbers():
    import torch

    numbers = [10, 2, 0, 11, 1, 9, 3, 8, 4, 7, 5, 6]
    tensors = {f"{MEMBERS}{number}.linear.bias": torch.tensor([float(number)]) for number in numbers}
    found = split_members({"conv_stem.weight": torch.zeros(1), **tensors})
    assert [{name: float(tensor) for name, tensor in member.items()} for member in found] == [
        {"linear.bias": number} for number in range(12)
    ]


@pytest.mark.parametrize(
    ("numbers", "found"),
    [(["0", "2"], "0, 2"), (["1"], "1"), (["0", "x"], "0, x"), (["0", "01"], "0, 01"), ([], "none")],
)
def test_a_missing_member_is_refused(numbers, found):
    import torch

    with pytest.raises(WeightsError, match=rf"without a gap, found {found};"):
        split_members({f"{MEMBERS}{number}.linear.bias": torch.zeros(1) for number in numbers})
