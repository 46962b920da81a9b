"""What several tests hold cut networks against: the whole network, run once with torch's own hooks."""

from __future__ import annotations

from typing import Any

import numpy as np

from thawline.learn.stages import Stages, list_lines

WITHOUT_PRODUCTS = {"features.s4"}  # LeNet's subsampling adds and scales: no multiplication of matrices is counted
TOLERANCE = 1e-5  # of the largest feature, float32


def make_images(size_px: int, items: int = 2, seed: int = 0) -> Any:
    """Draw normal pixels, a torch tensor of shape (items, 3, size_px, size_px)."""
    import torch

    return torch.from_numpy(np.random.default_rng(seed).normal(size=(items, 3, size_px, size_px)).astype(np.float32))


def run_watched(network: Any, names: Any, images: Any) -> tuple[Any, dict[str, Any]]:
    """Run the whole network and note what each named block was given, with torch's own hooks."""
    import torch

    seen: dict[str, Any] = {}
    hooks = []
    for name in names:

        def note(_: Any, given: Any, name: str = name) -> None:
            seen.setdefault(name, given[0].clone())

        hooks.append(network.get_submodule(name).register_forward_pre_hook(note))
    with torch.no_grad():
        found = network(images)
    for hook in hooks:
        hook.remove()
    return found, seen


def measure_difference(found: Any, expected: Any) -> float:
    """Largest difference, as a share of the largest value."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def check_every_line(network: Any, stages: Stages, size_px: int, items: int = 2) -> None:
    """Hold prefix, suffix and their facts at every line against the whole network."""
    import torch

    images = make_images(size_px, items)
    whole, seen = run_watched(network, stages.names, images)
    lines = list_lines(stages, size_px)
    assert tuple(line.name for line in lines) == stages.names
    with torch.no_grad():
        together = stages.prefix(stages.names)(images)
        for line, activations in zip(lines, together, strict=True):
            assert torch.equal(activations, seen[line.name]), line.name
            assert tuple(activations.shape[1:]) == line.shape, line.name
            assert measure_difference(stages.suffix(line.name)(activations), whole) < TOLERANCE, line.name
            assert torch.equal(activations, seen[line.name]), f"{line.name} overwrote what it was given"
    for fractions in ([line.thawed_fraction for line in lines], [line.compute_fraction for line in lines]):
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1
    assert lines[0].thawed_fraction > 0
    assert lines[0].compute_fraction > 0 or lines[0].name in WITHOUT_PRODUCTS
