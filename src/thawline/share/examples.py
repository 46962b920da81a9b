"""Thumbnails of what a reader should look at: the most confident errors, and what the audit found."""

from __future__ import annotations

import io
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.data.dataset import Dataset
from thawline.data.readers import USUAL, decode, read_content
from thawline.data.transforms import prepare
from thawline.files import write_atomic, write_json
from thawline.judge.evaluation import call_labels, predict_labels
from thawline.types import MISSING, Contract, Reading

if TYPE_CHECKING:
    from thawline.types import Content, IntArray, Labels, Pixels, Probabilities

SHOWN = 8
SIZE_PX = 160
HELD = "held back"  # in place of the label of a test part that stays closed
SHOWN_GROUPS, SHOWN_OF_GROUP = 3, 4  # of each finding of the audit


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
    shutil.rmtree(run / "examples", ignore_errors=True)
    if labels.ndim == 2:
        rows = list(_list_wrong_labels(shown, labels, probabilities, about))
    else:
        rows = list(_list_wrong(shown, labels, probabilities, about))
    for row in rows:
        index = row["item"]
        row |= {"item": numbers[index], "image": _write_thumbnail(run, numbers[index], contents[index], reading)}
    write_json(run / "examples.json", rows)


def _list_wrong(
    shown: IntArray, labels: Labels, probabilities: Probabilities, about: tuple[tuple[str, ...], str | None, float]
) -> Iterator[dict[str, Any]]:
    """Yield the positions of the surest errors, with what they are and what they are called."""
    classes = about[0]
    predicted = np.full(len(labels), -1)
    predicted[shown] = predict_labels(probabilities[shown], *about)
    wrong = [int(index) for index in shown if predicted[index] != labels[index]]
    wrong.sort(key=lambda index: (-probabilities[index, predicted[index]], index))
    for index in wrong[:SHOWN]:
        yield {
            "item": index,
            "label": classes[labels[index]],
            "predicted": classes[predicted[index]],
            "probability": float(probabilities[index, predicted[index]]),
        }


def _list_wrong_labels(
    shown: IntArray, labels: Labels, probabilities: Probabilities, about: tuple[tuple[str, ...], str | None, float]
) -> Iterator[dict[str, Any]]:
    """Yield the positions of the items with the surest wrong call of a known label, each once, and that label."""
    names, _, threshold = about
    called = call_labels(probabilities[shown], threshold)
    chance = np.where(called == 1, probabilities[shown], 1 - probabilities[shown])
    sure = np.where((labels[shown] != MISSING) & (called != labels[shown]), chance, -1.0)
    for place in np.argsort(-sure.max(axis=1), kind="stable")[:SHOWN]:
        k = int(sure[place].argmax())
        if sure[place, k] >= 0:
            has, has_not = names[k], f"no {names[k]}"
            truth, call = (has, has_not) if labels[shown[place], k] == 1 else (has_not, has)
            found = {"label": truth, "predicted": call, "probability": float(sure[place, k])}
            yield {"item": int(shown[place]), **found}


def show_findings(
    run: Path,
    findings: Sequence[Mapping[str, Any]],
    dataset: Dataset,
    reading: Reading = USUAL,
    held: Collection[int] = (),
) -> list[dict[str, Any]]:
    """Return the findings of the audit with the first items of their first groups, whose thumbnails are written.

    They name items by their numbers in the ``dataset``; ``reading`` is the contract's. Of items whose number is ``held``
    the label is not told.
    """

    def show(number: int, remark: str) -> dict[str, Any]:
        item, content = dataset.items[number], dataset.contents[number]
        image, label = _write_thumbnail(run, number, content, reading), HELD if number in held else item.label
        return {"item": number, "label": label, "split": item.split, "image": image, "remark": remark}

    return [{**each, "shown": [[show(*one) for one in group] for group in _choose_shown(each)]} for each in findings]


def _choose_shown(finding: Mapping[str, Any]) -> list[list[tuple[int, str]]]:
    """Return the first items of the first groups, each with what is said of its group; of single items as many as there is
    room for, in one row."""
    groups = finding["groups"]
    remarked = list(zip(groups, finding.get("remarks") or [""] * len(groups), strict=True))
    if all(len(group) == 1 for group in groups):
        return [[(group[0], remark) for group, remark in remarked[:SHOWN]]]
    return [[(number, remark) for number in group[:SHOWN_OF_GROUP]] for group, remark in remarked[:SHOWN_GROUPS]]


def _write_thumbnail(run: Path, number: int, content: Content, reading: Reading) -> str:
    """Write the thumbnail of an item and return its name in the run folder."""
    pixels = decode(read_content(content), reading=reading)
    return write_atomic(run / "examples" / f"{number}.png", _draw_thumbnail(pixels)).relative_to(run).as_posix()


def _draw_thumbnail(pixels: Pixels) -> bytes:
    """Return a letterboxed 8-bit PNG; deeper images from their own darkest to their own brightest value."""
    from PIL import Image

    wide = None if pixels.dtype == np.uint8 else (float(pixels.min()), float(pixels.max()))
    contract = Contract(SIZE_PX, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), aspect="letterbox", wide_range=wide)
    buffer = io.BytesIO()
    Image.fromarray(prepare(pixels, contract).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
