"""Predict files with a delivered model: one row an image."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.data.dataset import list_files
from thawline.data.dicom_index import gather_files
from thawline.data.dicom_series import DicomSeries
from thawline.errors import DataError, bullets
from thawline.files import require_empty
from thawline.share.bundle import load_model
from thawline.share.heat_maps import check_heat_maps, name_slides, write_heat_maps
from thawline.share.results import format_csv
from thawline.share.safeguards import describe_doubts, name_doubts
from thawline.types import Listener, SilentListener

if TYPE_CHECKING:
    from thawline.types import BoolArray, Content


def predict_files(
    run: Path,
    paths: Sequence[Path],
    *,
    device: str = "auto",
    skip_unreadable: bool = False,
    allow_outside: bool = False,
    as_json: bool = False,
    heat_maps: Path | None = None,
    listener: Listener | None = None,
) -> str:
    """Return CSV (item, predicted, one probability a class, doubts) or JSON lines for images, folders and manifests.

    Doubts are those of `safeguards.describe_doubts`, as far as the model can tell: ``set``, ``abstain``, ``unfamiliar``.

    Where the model takes volumes or slides, the files of a DICOM series that is one are one item, by the name of the first.
    Of whole slides, pictures and tables of the tiles that count are written into the new folder ``heat_maps``.
    Raises ModelError, DataError, and UnreadableItemsError unless ``skip_unreadable``.
    """
    listener = listener or SilentListener()
    files = list_files(paths, allow_outside=allow_outside)
    _refuse_torn_names(files)
    if heat_maps is not None:
        require_empty(heat_maps, "the heat maps")  # before hours of work, not after
    model = load_model(run, device=device, listener=listener)
    if heat_maps is not None:
        check_heat_maps(model)
    takes_one = model.contract.reading.dimensions == "2d" and model.contract.reading.frame == "only"
    items: list[tuple[Path, Content]] = [(file, file) for file in files] if takes_one else [*gather_files(files)]
    files = [file for file, _ in items]
    contents = [content for _, content in items]
    _warn_of_faults(items, listener)
    looks = model.look(contents, listener)
    probabilities = model.predict_looked(contents, looks, listener, skip_unreadable=skip_unreadable)
    readable: BoolArray = ~np.isnan(probabilities[:, 0])
    if heat_maps is not None:
        shown, stems = np.flatnonzero(readable), name_slides(files)
        slides, digests = [contents[place] for place in shown], [looks[place].digest for place in shown]
        write_heat_maps(model, slides, digests, [stems[place] for place in shown], heat_maps, listener)
    if not readable.all():
        listener.warn(f"left out {int((~readable).sum())} unreadable images of {len(files)}")
    kept = [file for file, keep in zip(files, readable, strict=True) if keep]
    names, given = model.name_classes(probabilities[readable]), probabilities[readable]
    places = np.flatnonzero(readable)
    about = [contents[place] for place in places], [looks[place].digest for place in places]
    strangeness = model.measure_strangeness(*about, listener) if len(places) else None
    doubts = describe_doubts(model.safeguards, given, strangeness, model.classes)
    rows = [
        {"item": str(file), "predicted": name, **_name_columns(model.classes, row), **doubt}
        for file, name, row, doubt in zip(kept, names, given, doubts, strict=True)
    ]
    if as_json:
        return "".join(_format_lines(rows))
    columns = ["item", "predicted", *(f"p_{name}" for name in model.classes), *name_doubts(model.safeguards)]
    return format_csv(columns, [list(row.values()) for row in rows])


def _warn_of_faults(items: Sequence[tuple[Path, Content]], listener: Listener) -> None:
    """Say which series are no whole volumes: their predictions are of what is there."""
    series = [(file, content.faults) for file, content in items if isinstance(content, DicomSeries)]
    faulty = [f"{file}: {faults}" for file, faults in series if str(faults)]
    if faulty:
        what = f"{len(faulty)} of {len(series)} series are not whole volumes, and are predicted as they are"
        listener.warn(f"{what}:\n{bullets(faulty)}")


def _refuse_torn_names(files: Sequence[Path]) -> None:
    """Refuse file names that no table can hold, before anything is computed."""
    torn = [ascii(str(file)) for file in files if str(file) != str(file).encode("utf-8", "replace").decode("utf-8")]
    if torn:
        raise DataError(
            f"{len(torn)} file names are not UTF-8 and cannot be written to tables; rename:\n{bullets(torn)}"
        )


def _name_columns(classes: Sequence[str], row: Any) -> dict[str, float]:
    return {f"p_{name}": float(f"{value:.9g}") for name, value in zip(classes, row, strict=True)}


def _format_lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield json.dumps(row, ensure_ascii=False) + "\n"
