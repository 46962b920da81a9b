"""Convolution and normalisation as one: the same numbers, the same gradients, and nothing left behind."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from thawline.learn.fusing import find_pairs, fused_norms


class Padded(nn.Conv2d):
    """A convolution that pads in its own way."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.pad(images, (0, 1, 0, 1)))


class NormAct(nn.BatchNorm2d):
    """Normalisation and activation in one block, as timm has it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU6()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.act(self.drop(super().forward(images)))
        return found


class Network(nn.Module):
    """Pairs of several kinds, and two normalisations that have no convolution of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = Padded(3, 6, 3, bias=False), NormAct(6)
        self.second, self.norm2 = nn.Conv2d(6, 6, 3, groups=6, padding=1), nn.BatchNorm2d(6, affine=False)
        self.third, self.shared = nn.Conv2d(6, 4, 1, stride=2), nn.BatchNorm2d(4)
        self.lone = nn.BatchNorm2d(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        below = self.norm2(self.second(self.norm1(self.first(images))))
        mapped = self.third(below)
        found: torch.Tensor = self.lone(self.shared(mapped) + mapped)
        return found.flatten(1)


def make_network() -> Network:
    """A network in float64 whose running statistics are not those of a fresh one."""
    torch.manual_seed(0)
    network = Network().double()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()  # type: ignore[union-attr]
            part.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            if part.affine:
                nn.init.normal_(part.weight)
                nn.init.normal_(part.bias)
    return network.eval()


def step(network: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    network.zero_grad()
    found = network(images)
    found.square().sum().backward()
    return found.detach(), [parameter.grad.clone() for parameter in network.parameters()]  # type: ignore[union-attr]


def test_only_a_convolution_that_feeds_its_normalisation_alone_is_a_pair() -> None:
    network = make_network()
    names = {id(module): name for name, module in network.named_modules()}
    assert [(names[id(one)], names[id(other)]) for one, other in find_pairs(network)] == [
        ("first", "norm1"),
        ("second", "norm2"),
    ]


def test_outputs_and_gradients_are_those_of_the_parts() -> None:
    network, images = make_network(), torch.randn(5, 3, 9, 9, dtype=torch.float64)
    expected, slopes = step(network, images)
    with fused_norms(network) as n_pairs:
        found, fused_slopes = step(network, images)
    assert n_pairs == 2
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(fused_slopes, slopes, rtol=1e-10, atol=1e-10)


def test_parameters_and_statistics_change_as_without_it() -> None:
    images = torch.randn(5, 3, 9, 9, dtype=torch.float64)
    states = []
    for fused in (False, True):
        network = make_network()
        optimiser = torch.optim.AdamW(network.parameters(), 1e-2)
        for _ in range(5):
            if fused:
                with fused_norms(network):
                    step(network, images)
            else:
                step(network, images)
            optimiser.step()
        states.append(network.state_dict())
    start = make_network().state_dict()
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=1e-9, atol=1e-9)
        if "running" in name:
            assert torch.equal(states[1][name], start[name])


def test_nothing_is_left_of_it_afterwards_even_after_an_error() -> None:
    network = make_network()
    with pytest.raises(KeyboardInterrupt), fused_norms(network):
        raise KeyboardInterrupt
    assert not any("forward" in module.__dict__ for module in network.modules())
    copied = copy.deepcopy(network)
    images = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(copied(images), network(images))


def test_normalisation_in_training_mode_is_left_alone() -> None:
    network = make_network()
    network.norm1.train()
    assert [other for _, other in find_pairs(network)] == [network.norm2]


def test_a_network_that_cannot_be_traced_has_no_pairs() -> None:
    class Branching(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images if images.sum() > 0 else -images

    with fused_norms(Branching()) as n_pairs:
        assert n_pairs == 0


@pytest.mark.slow
def test_a_real_network_has_as_many_pairs_as_normalisations() -> None:
    from thawline.learn.loading import load_backbone
    from thawline.learn.weights import find_weights

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = load_backbone(find_weights("efficientnet_lite0"))
    norms = sum(isinstance(part, nn.BatchNorm2d) for part in network.modules())
    assert len(find_pairs(network)) == norms
    images = torch.randn(2, 3, 96, 96)
    expected = network(images)
    with fused_norms(network):
        torch.testing.assert_close(network(images), expected, rtol=1e-3, atol=1e-4)
