"""What several tests need: a listener that keeps warnings, and small films."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from thawline.data.phantoms import PhantomOptions, make_phantoms
from thawline.types import SilentListener


class Notes(SilentListener):
    """Keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        """Keep a warning."""
        self.warnings.append(message)


def make_films(folder: Path, *, side: int | None = 58, **changes: Any) -> Path:
    """Draw small phantoms, cropped to squares of ``side``: those leave no aspect rule to measure, which saves time."""
    make_phantoms(folder, PhantomOptions(**{"n_patients": 24, "size_px": 64, "views": (1, 2), **changes}))
    for path in (folder / "images").iterdir() if side else ():
        with Image.open(path) as image:
            image.crop((0, 0, side, side)).save(path)
    return folder
