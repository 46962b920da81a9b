"""Fixtures that all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from thawline.files import file_digest, write_json


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cache, ledger and weights out of the tests; all workers share one cache, as converting is slow."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("THAWLINE_CACHE", str(shared / "cache"))
        environment.setenv("THAWLINE_DATA", str(base / "data"))
        for name in ("THAWLINE_WEIGHTS", "THAWLINE_CACHE_MIB", "THAWLINE_ENGINE"):
            environment.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def short_judging() -> Iterator[None]:
    """Let runs be judged by one test part unless they ask for more, and time predictions once: both take much longer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("thawline.plan_judging.FEW_PATIENTS", 0)
        patch.setattr("thawline.inference.SLOW_S", 0.0)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images, or a skip where it is absent."""
    beside = Path(__file__).parents[2] / "shared"
    folder = Path(os.environ.get("THAWLINE_SHARED", beside)) / "data"
    if not folder.is_dir():
        pytest.skip(f"no real images in {folder}; set THAWLINE_SHARED")
    return folder


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
