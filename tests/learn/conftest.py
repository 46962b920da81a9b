"""A network so small that building, storing and converting it costs next to nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from thawline.files import file_digest, write_json


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weight file with its description: timm's smallest test network, filled from a fixed seed."""
    from thawline.learn.torchvision_operators import import_torchvision

    import_torchvision()
    import timm
    import torch
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("test_efficientnet")
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(network.state_dict(), path)
    facts = {
        "architecture": "timm/test_efficientnet",
        "builder_options": {},
        "contract": {"size": 64, "interpolation": "bicubic", "mean": [0.5, 0.4, 0.3], "std": [0.5, 0.6, 0.7]},
        "licence": "CC0",
        "has_head": True,
        "pretrained_on": "nothing",
        "sha256": file_digest(path),
    }
    write_json(path.with_suffix(".json"), facts)
    return path
