"""The most confident errors, as thumbnails: what a reader should look at first."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.data.readers import USUAL, decode, read_content
from thawline.data.transforms import prepare
from thawline.files import write_atomic, write_json
from thawline.judge.evaluation import predict_labels
from thawline.types import Contract, Reading

if TYPE_CHECKING:
    from thawline.types import Content, IntArray, Labels, Pixels, Probabilities

SHOWN = 8
SIZE_PX = 160


def write_examples(
    run: Path,
    contents: Sequence[Content],
    numbers: Sequence[int],
    shown: IntArray,
    labels: Labels,
    probabilities: Probabilities,
    about: tuple[tuple[str, ...], str | None, float],
    reading: Reading = USUAL,
) -> None:
    """Write `examples.json` and thumbnails of the errors with the highest probability among the positions ``shown``.

    ``contents``, ``numbers``, ``labels`` and ``probabilities`` are aligned; ``about`` holds classes, positive class and
    threshold; ``reading`` is the contract's. Files are named by item number.
    """
    classes = about[0]
    predicted = np.full(len(labels), -1)
    predicted[shown] = predict_labels(probabilities[shown], *about)
    wrong = [int(index) for index in shown if predicted[index] != labels[index]]
    wrong.sort(key=lambda index: (-probabilities[index, predicted[index]], index))
    shutil.rmtree(run / "examples", ignore_errors=True)
    rows: list[dict[str, Any]] = []
    for index in wrong[:SHOWN]:
        number = numbers[index]
        picture = write_atomic(
            run / "examples" / f"{number}.png",
            _draw_thumbnail(decode(read_content(contents[index]), reading=reading)),
        )
        rows.append(
            {
                "item": number,
                "label": classes[labels[index]],
                "predicted": classes[predicted[index]],
                "probability": float(probabilities[index, predicted[index]]),
                "image": picture.relative_to(run).as_posix(),
            }
        )
    write_json(run / "examples.json", rows)


def _draw_thumbnail(pixels: Pixels) -> bytes:
    """Return a letterboxed 8-bit PNG; deeper images from their own darkest to their own brightest value."""
    from PIL import Image

    wide = None if pixels.dtype == np.uint8 else (float(pixels.min()), float(pixels.max()))
    contract = Contract(SIZE_PX, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), aspect="letterbox", wide_range=wide)
    buffer = io.BytesIO()
    Image.fromarray(prepare(pixels, contract).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
