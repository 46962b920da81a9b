"""What the data hold: items and patients by class, part and site, and how sure an AUC on them can be."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from thawline.data.dataset import Dataset
from thawline.data.identity import key_site, read_secret
from thawline.data.label_sets import parse_labels
from thawline.data.splits import TEST_FOLDS
from thawline.judge.statistics import forecast_interval
from thawline.types import MISSING, Item

SITES = ("site", "hospital", "institution", "centre", "center", "clinic", "scanner", "source")  # names of columns
PLACES = ("institution", "station")  # of DICOM headers, where no column names sites
NOT_SAID = "not said"
MOST_SITES = 50  # of a column or a tag that names sites


@dataclasses.dataclass(frozen=True)
class Table:
    """Counts of items and of patients: of each row by class, in the order of ``classes``."""

    title: str
    classes: tuple[str, ...]
    rows: dict[str, tuple[tuple[int, int], ...]]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        counts = {
            name: {label: {"items": items, "patients": patients} for label, (items, patients) in self._pair(row)}
            for name, row in self.rows.items()
        }
        return {"title": self.title, "counts": counts}

    def _pair(self, row: Sequence[tuple[int, int]]) -> list[tuple[str, tuple[int, int]]]:
        return list(zip(self.classes, row, strict=True))

    def __str__(self) -> str:
        """Return a line a row: items of each class, patients in brackets."""
        lines = [
            f"{name}: {', '.join(f'{label} {items} ({patients})' for label, (items, patients) in self._pair(row))}"
            for name, row in self.rows.items()
        ]
        return "\n".join([f"{self.title}, items (patients):", *(f"  {line}" for line in lines)])


def make_tables(dataset: Dataset, origins: Sequence[Mapping[str, str]] = ()) -> list[Table]:
    """Return the tables of all items, of the parts of a given split, and of sites, where these are known.

    Sites are those of a column, else those of DICOM headers, whose ``origins``, one an item, name them: under keys.
    """
    tables = [_count("data", dataset, {"all": dataset.items})]
    if dataset.split_given:
        tables.append(_count("split", dataset, _group([str(item.split) for item in dataset.items], dataset.items)))
    columns = {name.lower(): name for item in dataset.items[:1] for name in item.metadata}
    column = next((columns[name] for name in SITES if name in columns), None)
    if column is not None:
        found = {column: [str(item.metadata.get(column) or NOT_SAID) for item in dataset.items]}
    else:
        found = {f"{place}, under keys": _key_sites(origins, place) for place in PLACES}
    sites = next(((title, names) for title, names in found.items() if _are_sites(names)), None)
    return tables if sites is None else [*tables, _count(sites[0], dataset, _group(sites[1], dataset.items))]


def _key_sites(origins: Sequence[Mapping[str, str]], place: str) -> list[str]:
    """Return the keys of the sites that headers name; nothing where they name no two."""
    names = [each[place] for each in origins]
    if len(set(names) - {""}) < 2:
        return []
    secret = read_secret()
    keys = {name: key_site(secret, name) if name else NOT_SAID for name in set(names)}
    return [keys[name] for name in names]


def _are_sites(names: Sequence[str]) -> bool:
    """Tell whether names, one an item, are few enough to be those of sites."""
    return 0 < len(set(names)) <= min(MOST_SITES, len(names) // 2)


def say_support(dataset: Dataset) -> str:
    """Say what a test part of these data can support: the given one, or one of a fifth of the patients."""
    test = [item for item in dataset.items if item.split == "test"]
    given = dataset.split_given and bool(test)
    rows = list(_count("", dataset, {"": test if given else dataset.items}).rows.values())
    parts = [[patients if given else patients // TEST_FOLDS for _, patients in row] for row in rows]
    counts = min(map(list, zip(*parts[:2], strict=True)), key=min) if dataset.multilabel else parts[0]
    if not min(counts):
        return "too few patients of a class for a test part of a fifth: report the folds"
    part = "the given test part" if given else "a test part of a fifth of the patients"
    of = " with and without the rarest label" if dataset.multilabel else ""
    return f"on {part} ({' + '.join(map(str, counts))} patients{of}) {forecast_interval(counts)}"


def _group(names: Sequence[str], items: Sequence[Item]) -> dict[str, list[Item]]:
    groups: dict[str, list[Item]] = {name: [] for name in sorted(set(names))}
    for name, item in zip(names, items, strict=True):
        groups[name].append(item)
    return groups


def _count(title: str, dataset: Dataset, groups: dict[str, Any]) -> Table:
    classes = dataset.classes
    rows: dict[str, tuple[tuple[int, int], ...]] = {}
    if dataset.multilabel:
        for name, members in groups.items():
            rows |= {f"{name}, {what}": row for what, row in _count_labels(members, classes)}
        return Table(title, classes, rows)
    for name, members in groups.items():
        n_items = Counter(item.label for item in members)
        n_patients = Counter(label for label, _ in {(item.label, item.patient) for item in members})
        rows[name] = tuple((n_items[label], n_patients[label]) for label in classes)
    return Table(title, classes, rows)


def _count_labels(members: Sequence[Item], classes: Sequence[str]) -> Iterator[tuple[str, tuple[tuple[int, int], ...]]]:
    """Yield how many items and patients have each of several labels, have it not, and are not known to."""
    labels = parse_labels([item.label for item in members], classes)
    patients = np.array([item.patient for item in members])
    for what, value in (("with", 1), ("without", 0), ("not known", MISSING)):
        marks = labels == value
        yield what, tuple((int(mark.sum()), len(set(patients[mark].tolist()))) for mark in marks.T)
