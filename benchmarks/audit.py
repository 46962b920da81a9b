"""What the audit finds of planted near-duplicates, of each kind, and how long it takes.

    python benchmarks/audit.py [--sizes 1000,10000] [--json FILE]

Films of made-up patients, all different, with copies of every tenth planted: one kind at a time for recall (planted pairs
that are found) and precision (found pairs that were planted), all kinds together for the speed at a number of items.
Pictures are drawn in memory; decoding, which the run needs anyhow, is not timed.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from environment import write_json
from thawline.audit.duplicates import SIDE_PX, draw_picture, find_duplicates
from thawline.data.phantoms import PhantomOptions, make_phantoms

N_FILMS, EVERY, SIZE_PX = 500, 10, 192


def encode(image: Image.Image) -> Image.Image:
    """Return the image as a JPEG of quality 60 has it."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return Image.open(io.BytesIO(buffer.getvalue()))


def crop(image: Image.Image, draw: np.random.Generator) -> Image.Image:
    """Return nine tenths of each side, from anywhere."""
    sides = [round(0.9 * side) for side in image.size]
    left, top = (int(draw.integers(0, side - own + 1)) for side, own in zip(image.size, sides, strict=True))
    return image.crop((left, top, left + sides[0], top + sides[1]))


CHANGES: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "identical": lambda image, _: image.copy(),
    "re_encoded": lambda image, _: encode(image),
    "mirrored": lambda image, _: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "rotated_90": lambda image, _: image.transpose(Image.Transpose.ROTATE_90),
    "cropped_90": crop,
    "brighter_20": lambda image, _: ImageEnhance.Brightness(image).enhance(1.2),
    "darker_20": lambda image, _: ImageEnhance.Brightness(image).enhance(0.8),
}


def main() -> None:
    """Plant, look, count, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1000,10000", help="numbers of items to time")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    films, draw = draw_films(N_FILMS), np.random.default_rng(0)
    pictures = draw_all(films)
    figures: dict[str, Any] = {"films": N_FILMS, "planted": N_FILMS // EVERY}
    for name, change in CHANGES.items():
        planted = draw_all([change(films[number], draw) for number in range(0, N_FILMS, EVERY)])
        found = {(each.first, each.second) for each in find_duplicates(np.concatenate([pictures, planted]))}
        wanted = {(number, N_FILMS + place) for place, number in enumerate(range(0, N_FILMS, EVERY))}
        figures[f"{name}_recall"] = len(found & wanted) / len(wanted)
        figures[f"{name}_precision"] = len(found & wanted) / max(len(found), 1)
    for size in map(int, options.sizes.split(",")):
        figures[f"items_{size}_a_second"] = time_items(pictures, size)
    for key, value in figures.items():
        print(f"{key:<40} {value:10.3f}")
    if options.json:
        write_json(options.json, figures)


def draw_films(n_films: int) -> list[Image.Image]:
    """Draw one film each of so many patients."""
    with tempfile.TemporaryDirectory() as folder:
        make_phantoms(Path(folder), PhantomOptions(n_patients=n_films, size_px=SIZE_PX, views=(1, 1)))
        return [Image.open(path).convert("L") for path in sorted((Path(folder) / "images").iterdir())]


def draw_all(images: list[Image.Image]) -> Any:
    """Return the small pictures that are compared."""
    return np.stack([draw_picture(np.asarray(image)) for image in images])


def time_items(pictures: Any, size: int) -> float:
    """Return items a second for so many pictures: those of films, each with a smooth field of its own laid over it."""
    draw = np.random.default_rng(1)
    many = np.empty((size, SIDE_PX, SIDE_PX), np.uint8)
    for place in range(size):
        field = Image.fromarray(draw.normal(0, 60, (8, 8)).astype(np.float32))
        laid = np.asarray(field.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC))
        many[place] = np.clip(pictures[place % len(pictures)] + laid, 0, 255)
    began = time.perf_counter()
    find_duplicates(many)
    return size / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
