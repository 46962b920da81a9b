"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images, or a skip where it is absent."""
    beside = Path(__file__).parents[2] / "shared"
    folder = Path(os.environ.get("THAWLINE_SHARED", beside)) / "data"
    if not folder.is_dir():
        pytest.skip(f"no real images in {folder}; set THAWLINE_SHARED")
    return folder
