"""Fixtures that all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


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


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images, or a skip where it is absent."""
    beside = Path(__file__).parents[2] / "shared"
    folder = Path(os.environ.get("THAWLINE_SHARED", beside)) / "data"
    if not folder.is_dir():
        pytest.skip(f"no real images in {folder}; set THAWLINE_SHARED")
    return folder
