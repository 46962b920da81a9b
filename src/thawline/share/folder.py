"""What the report reads from a run folder, and what it must never repeat: patients, paths and file names."""

from __future__ import annotations

import base64
import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from thawline.data.label_sets import parse_labels
from thawline.errors import ModelError

if TYPE_CHECKING:
    from thawline.types import Labels, Probabilities

SCHEMA = 1
NESTED_PREDICTIONS = "predictions_nested.csv"
WITHHELD = "[withheld]"
TELLING = 4  # characters from which the name of a lesion may tell whose it is; shorter ones number those of a patient
TRACE = re.compile(  # what looks like a path or a file of the data
    r"""(?<!\w) (['"]) (?:(?!\1).)* (?: [/\\] (?:(?!\1).)* | \.[A-Za-z]\w{1,5} ) \1
    | file:\S+
    | (?<![\w:/\\<.]) (?:~|\.\.?|[A-Za-z]:)? [/\\] [^\s'"<>|,;)]+
    | [^\s'"<>|,;(]* \.(?:png|jpe?g|bmp|gif|tiff?|webp|dcm|nii(?:\.gz)?|np[zy]|svs|ndpi|mh[ad]|nrrd|csv|parquet) (?!\w)
    """,
    re.IGNORECASE | re.VERBOSE,
)


class Predictions(NamedTuple):
    """What the page needs of the predictions: one part of them, and the ``names`` that must not appear."""

    labels: Labels
    probabilities: Probabilities
    names: frozenset[str]


@contextmanager
def blame(run: Path, name: str) -> Iterator[None]:
    """Turn what goes wrong with the content of file ``name`` into a ModelError that says what to do."""
    try:
        yield
    except FileNotFoundError as error:
        raise ModelError(f"The report needs {run / name}, which does not exist. {advise(run)}") from error
    except KeyError as error:
        raise ModelError(f"{run / name} is damaged: it holds no {error}. {advise(run)}") from error
    except (OSError, ValueError, TypeError, AttributeError, IndexError, csv.Error) as error:
        raise ModelError(f"{run / name} is damaged: {error}. {advise(run)}") from error


def advise(run: Path) -> str:
    """Say how to get a run folder whole again."""
    return f"Make it again with `thawline run DATA --out {run} --resume`; finished work is kept."


def read_json(run: Path, name: str) -> dict[str, Any]:
    """Return the JSON object in a file of the run folder; raises ModelError unless it is one, of this schema."""
    with blame(run, name):
        data = json.loads((run / name).read_text("utf-8"))
        if not isinstance(data, dict):
            raise TypeError(f"expected a JSON object, found {type(data).__name__}")
        if data["schema"] != SCHEMA:
            raise ValueError(f"expected schema {SCHEMA}, found {data['schema']!r}, of another version of Thawline")
        return data


def read_predictions(
    run: Path,
    classes: Sequence[str],
    split: str,
    *,
    multilabel: bool = False,
    column: str = "split",
    name: str = "predictions.csv",
) -> Predictions:
    """Read labels and probabilities of the rows of one split, and from all rows the names to keep off the page.

    Labels are places of ``classes``, (items,), or of several an item 1, 0 and -1, (items, labels).
    """
    labels: list[Any] = []
    probabilities: list[list[float]] = []
    names: set[str] = set()
    place = {name: index for index, name in enumerate(classes)}
    with blame(run, name), (run / name).open(encoding="utf-8", newline="") as stream:
        for line, row in enumerate(csv.DictReader(stream), start=2):
            names.update(list_names(row))
            unscored = row[column] != split or row["fold"] == "-1"
            if unscored or (row["label"] not in place and not multilabel):
                continue
            given = [float(row[f"p_{name}"]) for name in classes]
            if not all(0 <= probability <= 1 for probability in given):
                raise ValueError(f"row {line} holds {given} where probabilities were expected")
            labels.append(parse_labels([row["label"]], classes)[0] if multilabel else place[row["label"]])
            probabilities.append(given)
    table = np.asarray(probabilities, np.float64).reshape(len(labels), len(classes))
    truth = np.asarray(labels, np.int64).reshape((len(labels), len(classes)) if multilabel else len(labels))
    return Predictions(truth, table, frozenset(filter(is_telling, names - set(classes))))


def list_names(row: Mapping[str, str]) -> tuple[str, ...]:
    """Return what a row of `predictions.csv` says of who it is: the path of the item, its file name, patient and lesion."""
    lesion = row.get("lesion") or ""
    named = row["item"], re.split(r"[/\\]", row["item"])[-1], row["patient"]
    return (*named, lesion) if len(lesion) >= TELLING else named


def read_names(run: Path) -> frozenset[str]:
    """Return all names in `predictions.csv` that must stay in the run folder. Raises ModelError where it is damaged."""
    with blame(run, "predictions.csv"), (run / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        return frozenset(filter(is_telling, {name for row in csv.DictReader(stream) for name in list_names(row)}))


def is_telling(name: str) -> bool:
    """Say whether a name could be taken for nothing else: short plain numbers and plain words are not withheld."""
    digits = sum(character.isdigit() for character in name)
    return digits >= 5 or (len(name) > 1 and 0 < digits < len(name)) or "." in name.strip(".")


def withhold(data: Any, names: Iterable[str]) -> Any:
    """Return a copy of plain data in which every path, file name and known name inside a text reads "[withheld]"."""
    texts = "\n".join(list_texts(data))
    known = sorted((re.escape(name) for name in names if name in texts), key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(known)})(?!\w)") if known else None

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return TRACE.sub(WITHHELD, pattern.sub(WITHHELD, value) if pattern else value)
        if isinstance(value, Mapping):
            return {clean(key): clean(entry) for key, entry in value.items()}
        return [clean(entry) for entry in value] if isinstance(value, list | tuple) else value

    return clean(data)


def list_texts(data: Any) -> list[str]:
    """Return every text inside plain data, keys too."""
    if isinstance(data, str):
        return [data]
    entries = [*data.keys(), *data.values()] if isinstance(data, Mapping) else data
    return [text for entry in entries for text in list_texts(entry)] if isinstance(entries, list | tuple) else []


def read_image(run: Path, name: str) -> str:
    """Return a PNG or JPEG file of the run folder as a data URI; raises ModelError where it is none or lies outside."""
    with blame(run, name):
        path = (run / name).resolve()
        if not path.is_relative_to(run.resolve()):
            raise ValueError("expected an image inside the run folder, found one outside")
        content = path.read_bytes()
        kinds = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg"}
        kind = next((kind for magic, kind in kinds.items() if content.startswith(magic)), None)
        if kind is None:
            raise ValueError(f"expected a PNG or JPEG image, found bytes {content[:4]!r}")
        return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
