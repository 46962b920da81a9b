"""The tables of a finished run: which item was where, what was predicted of it, and what each rung was worth."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.data.dataset import Dataset
from thawline.data.splits import Splits
from thawline.judge.statistics import Selection
from thawline.learn.ladder import Rung

if TYPE_CHECKING:
    from thawline.types import Probabilities


def format_splits(everything: Dataset, numbers: Sequence[int], splits: Splits) -> str:
    """Return `splits.csv`: every item with its number, in development or test, or left out. Private to the run.

    ``numbers`` are the item numbers that ``splits`` is aligned with.
    """
    position = {number: index for index, number in enumerate(numbers)}
    rows = []
    for number, item in enumerate(everything.items):
        index = position.get(number)
        part = "left_out" if index is None else _name_part(splits, index)
        fold = "" if index is None or splits.is_test[index] else int(splits.folds[index])
        rows.append([number, item.path, item.patient, item.label, part, fold])
    return format_csv(["number", "item", "patient", "label", "split", "fold"], rows)


def format_predictions(dataset: Dataset, splits: Splits, probabilities: Probabilities) -> str:
    """Return `predictions.csv`: out of fold for development, the delivered model's for test; unscored items left out."""
    rows = []
    for index in map(int, np.flatnonzero(np.isfinite(probabilities).all(axis=1))):
        item = dataset.items[index]
        fold = "" if splits.is_test[index] else int(splits.folds[index])
        own = [f"{value:.9g}" for value in probabilities[index]]
        rows.append([item.path, item.patient, _name_part(splits, index), item.label, fold, *own])
    return format_csv(["item", "patient", "split", "label", "fold", *(f"p_{name}" for name in dataset.classes)], rows)


def describe_candidates(candidates: Sequence[str], selection: Selection) -> list[dict[str, Any]]:
    """Return one dict a candidate: its mean log-loss, and the paired difference to the best with its standard error."""
    columns = selection.mean_losses, selection.differences, selection.standard_errors
    return [
        {
            "candidate": candidate,
            "log_loss": float(loss),
            "difference": float(difference),
            "standard_error": float(error) if np.isfinite(error) else None,
        }
        for candidate, loss, difference, error in zip(candidates, *columns, strict=True)
    ]


def describe_ladder(
    rungs: Sequence[Rung], sections: Sequence[Mapping[str, Any]], table: Sequence[Mapping[str, Any]], chosen: Rung
) -> list[dict[str, Any]]:
    """Return the ladder of `metrics.json`; ``sections`` are the evaluations of the rungs, ``table`` their comparison."""
    return [
        {
            "rung": rung.number,
            "strategy": rung.strategy,
            "thaw_line": None,
            "head": rung.head,
            "auc": section["auc"],
            "accuracy": section["accuracy"],
            "log_loss": row["log_loss"],
            "difference": row["difference"],
            "standard_error": row["standard_error"],
            "strengths": list(rung.strengths),
            "seconds": round(rung.seconds, 3),
            "chosen": rung is chosen,
        }
        for rung, section, row in zip(rungs, sections, table, strict=True)
    ]


def _name_part(splits: Splits, index: int) -> str:
    return "test" if splits.is_test[index] else "development"


def format_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a CSV table that any reader takes apart again, whatever the fields hold."""
    text = io.StringIO()
    plain, quoted = (csv.writer(text, lineterminator="\n", quoting=how) for how in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    for row in (header, *rows):
        alone = any("\r" in str(field) for field in row)  # not quoted by itself, yet read as the end of a line
        (quoted if alone else plain).writerow(row)
    return text.getvalue()
