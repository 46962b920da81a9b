"""Depthwise convolutions in bf16: torch's own gradients are the referee, in float64 where they are to be exact."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from thawline.learn.depthwise import convolve, find_input_slope, find_weight_slope, make_mode

CHANNELS = 3


def make_part(side: int, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, weight and bias in float64, whose gradients are wanted."""
    draw = torch.Generator().manual_seed(side)
    shapes = (2, CHANNELS, *size), (CHANNELS, 1, side, side), (CHANNELS,)
    images, weight, bias = (
        torch.randn(shape, generator=draw, dtype=torch.float64).requires_grad_() for shape in shapes
    )
    return images, weight, bias


@settings(deadline=None, max_examples=60)
@given(
    side=st.integers(1, 9),
    stride=st.integers(1, 4),
    padding=st.integers(0, 4),
    rows=st.integers(9, 16),
    columns=st.integers(9, 16),
)
def test_gradients_are_those_of_torch(side: int, stride: int, padding: int, rows: int, columns: int) -> None:
    padding = min(padding, side - 1)
    images, weight, _ = make_part(side, (rows, columns))
    found = torch.conv2d(images, weight, None, stride, padding, groups=CHANNELS)
    slope = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found.backward(slope)
    with torch.no_grad():
        about = slope, images, weight, stride, padding
        torch.testing.assert_close(find_input_slope(*about), images.grad)
        torch.testing.assert_close(find_weight_slope(*about), weight.grad)


@pytest.mark.parametrize(("side", "stride"), [(5, 1), (5, 2), (3, 2), (7, 1)])
def test_the_convolution_in_bf16_is_that_in_float32_but_for_rounding(side: int, stride: int) -> None:
    images, weight, bias = make_part(side, (14, 15))
    slopes = []
    for quick in (False, True):
        given = [each.detach().float().requires_grad_() for each in (images, weight, bias)]
        if quick:
            found = convolve(*given, stride, side // 2)
            assert found.dtype == torch.bfloat16
        else:
            found = torch.conv2d(*given, stride, side // 2, groups=CHANNELS)
        found.float().square().sum().backward()
        slopes.append([found.detach().float(), *(each.grad for each in given)])
    for exact, rounded in zip(*slopes, strict=True):
        assert float((exact - rounded).norm() / exact.norm()) < 0.01


def test_what_needs_no_gradient_gets_none() -> None:
    images, weight, _ = make_part(5, (9, 9))
    weight.requires_grad_(False)
    convolve(images, weight, None, 1, 2).float().sum().backward()
    assert images.grad is not None
    assert weight.grad is None


def note_calls(network: nn.Module, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Kernel side and stride of each convolution that the mode took."""
    taken: list[tuple[int, int]] = []

    def note(images: torch.Tensor, weight: torch.Tensor, bias: Any, stride: int, padding: int) -> torch.Tensor:
        taken.append((weight.shape[-1], stride))
        return convolve(images, weight, bias, stride, padding)

    monkeypatch.setattr("thawline.learn.depthwise.convolve", note)
    with torch.autocast("cpu", torch.bfloat16), make_mode():
        network(images)
    return taken


def test_only_depthwise_convolutions_that_are_slow_in_bf16_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 8, 5, padding=2, groups=4),
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 8, 5, padding=4, dilation=2, groups=8),
        nn.Conv2d(8, 8, (5, 3), padding=(2, 1), groups=8),
        nn.Conv2d(8, 8, 5, padding="same", groups=8),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),
        nn.Conv2d(8, 8, 5, padding=2, groups=8),
    )
    assert note_calls(network, torch.randn(2, 4, 16, 16), monkeypatch) == [(3, 2), (5, 1)]


def test_a_network_has_the_gradients_that_it_has_in_float32() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU6(), nn.Conv2d(16, 16, 5, 2, 2, groups=16), nn.ReLU6(), nn.Conv2d(16, 4, 1)
    )
    other, images = copy.deepcopy(network), torch.randn(8, 3, 20, 20)
    network(images).square().mean().backward()
    with torch.autocast("cpu", torch.bfloat16), make_mode():
        found = other(images)
    found.float().square().mean().backward()
    exact, rounded = (torch.cat([each.grad.flatten() for each in part.parameters()]) for part in (network, other))
    assert float(torch.nn.functional.cosine_similarity(exact, rounded, dim=0)) > 0.999
