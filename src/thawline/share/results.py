"""The tables of a finished run: which item was where, what was predicted of it, and what each rung was worth."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.data.dataset import Dataset
from thawline.data.splits import Splits
from thawline.judge.comparisons import Selection
from thawline.learn.ladder import Rung, TriedRung
from thawline.types import Item

if TYPE_CHECKING:
    from thawline.types import Probabilities


def format_splits(everything: Dataset, numbers: Sequence[int], splits: Splits, pixel_digests: Sequence[str]) -> str:
    """Return `splits.csv`: every item with its number, in development or test, or left out. Private to the run.

    ``numbers`` are the item numbers that ``splits`` is aligned with, and the digests of pixels, by which the same image is
    known again among other data.
    """
    position = {number: index for index, number in enumerate(numbers)}
    lesions, rows = name_lesions(everything.items), []
    for number, item in enumerate(everything.items):
        index = position.get(number)
        part = "left_out" if index is None else _name_part(splits, index)
        fold = "" if index is None or splits.is_test[index] else int(splits.folds[index])
        digest = "" if index is None else pixel_digests[index]
        own = [names[number] for names in lesions.values()]
        rows.append([number, item.path, item.patient, *own, item.label, part, fold, digest])
    return format_csv(["number", "item", "patient", *lesions, "label", "split", "fold", "pixels"], rows)


def name_lesions(items: Sequence[Item]) -> dict[str, list[str]]:
    """Return the column of lesions by its name, one cell an item; none where no item names one. Private to the run."""
    names = [item.lesion for item in items]
    return {"lesion": names} if any(names) else {}


def format_predictions(dataset: Dataset, splits: Splits, probabilities: Probabilities) -> str:
    """Return `predictions.csv`: out of fold for development, the delivered model's for test; unscored items left out."""
    lesions, rows = name_lesions(dataset.items), []
    for index in map(int, np.flatnonzero(np.isfinite(probabilities).all(axis=1))):
        item = dataset.items[index]
        fold = "" if splits.is_test[index] else int(splits.folds[index])
        own = [f"{value:.9g}" for value in probabilities[index]]
        lesion = [names[index] for names in lesions.values()]
        rows.append([item.path, item.patient, *lesion, _name_part(splits, index), item.label, fold, *own])
    columns = [f"p_{name}" for name in dataset.classes]
    return format_csv(["item", "patient", *lesions, "split", "label", "fold", *columns], rows)


def describe_candidates(candidates: Sequence[Any], selection: Selection) -> list[dict[str, Any]]:
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
    tried: Sequence[TriedRung],
    sections: Sequence[Mapping[str, Any]],
    compared: Sequence[Mapping[str, Any]],
    chosen: Rung,
    costs: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Return the ladder of `metrics.json`.

    ``sections`` are the evaluations of the rungs, ``costs`` what the journal has of each; ``compared`` holds those that
    could be chosen, by name.
    """
    table = {row["candidate"]: row for row in compared}
    nothing = {"log_loss": None, "difference": None, "standard_error": None}
    ladder = []
    for each, section, cost in zip(tried, sections, costs, strict=True):
        loss = section.get("item_log_loss", section["log_loss"])  # of several labels, as candidates are compared
        row = table.get(each.rung.name, {**nothing, "log_loss": loss["value"]})
        folds = each.folds
        thawed = [fold for fold in folds if "n_epochs" in fold]
        ladder.append(
            {
                "rung": each.rung.number,
                "strategy": each.rung.strategy,
                "thaw_line": each.rung.line,
                "thawed_fraction": each.rung.thawed_fraction,
                "head": each.rung.head,
                "auc": section["auc"],
                "accuracy": section["accuracy"],
                **{key: row[key] for key in nothing},
                "gain": each.gain.to_json() if each.gain else None,
                "chance_of_useful_gain": each.chance,
                "strengths": [fold["strength"] for fold in folds if "strength" in fold],
                "learning_rates": [fold["learning_rate"] for fold in thawed],
                "epochs": [fold["n_epochs"] for fold in thawed],
                "curves": [[trial["losses"] for trial in fold["trials"]] for fold in thawed],
                "precision": thawed[0].get("precision") if thawed else None,
                "n_folds": len(folds),
                "seconds": round(each.seconds, 3),
                "forecast_seconds": each.forecast_s,
                **{key: cost[key] for key in ("cpu_seconds", "peak_rss_mib", "energy_wh")},
                "chosen": each.rung == chosen,
            }
        )
    return ladder


def _name_part(splits: Splits, index: int) -> str:
    return "test" if splits.is_test[index] else "development"


def format_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a CSV table that any reader takes apart again, whatever the fields hold; true and false are yes and no."""
    text = io.StringIO()
    plain, quoted = (csv.writer(text, lineterminator="\n", quoting=how) for how in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    said = [[("no", "yes")[field] if isinstance(field, bool) else field for field in row] for row in rows]
    for row in (header, *said):
        alone = any("\r" in str(field) for field in row)  # not quoted by itself, yet read as the end of a line
        (quoted if alone else plain).writerow(row)
    return text.getvalue()
