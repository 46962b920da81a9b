"""Patients in file names are suggested where near-duplicates bear them out, and nowhere else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from thawline.audit.duplicates import Duplicate
from thawline.audit.leaks import Copies
from thawline.audit.names import list_patterns, suggest_patients
from thawline.data.dataset import Dataset, own_patient
from thawline.types import Item


def make_dataset(paths: list[str], patients: dict[int, str] | None = None) -> Dataset:
    items = tuple(
        Item(path, "ab"[number % 2], (patients or {}).get(number, own_patient(path)))
        for number, path in enumerate(paths)
    )
    return Dataset(Path(), "folder", items, ("a", "b"), [Path(path) for path in paths])


def pair_up(*pairs: tuple[int, int]) -> Copies:
    return Copies((), pairs, tuple(Duplicate(*pair, "copy", 0.95) for pair in pairs))


def name_all(pattern: str) -> list[str]:
    """Names of two images of each of 12 patients, one after the other."""
    return [pattern.format(patient=100 + number // 2, view=number % 2 + 1, running=number) for number in range(24)]


PAIRS = tuple((2 * number, 2 * number + 1) for number in range(5))


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("a/P{patient}_{view}.png", "the first part of the name"),
        ("a/site_{patient}_{view}.png", "the first 2 parts of the name"),
        ("a/{running}-{patient}-x.png", "part 2 of the name"),
        ("a/{patient}/{running}.png", "the folder of a file"),
        ("a/pat{patient}v{view}.png", "the number that the name begins with"),
    ],
)
def test_what_pairs_share_is_suggested(pattern: str, said: str) -> None:
    (found,) = suggest_patients(make_dataset(name_all(pattern)), pair_up(*PAIRS))
    assert found.text.startswith(f"{said} joins 100 % of 5 pairs")
    assert found.severity == "severe"
    assert found.groups == tuple((2 * number, 2 * number + 1) for number in range(12))


@pytest.mark.parametrize("pattern", ["a/{running}.png", "a/film_{running}.png", "a/benign ({running}).png"])
def test_running_numbers_are_no_patients(pattern: str) -> None:
    assert list(suggest_patients(make_dataset(name_all(pattern)), pair_up(*PAIRS))) == []


def test_pairs_of_other_patients_bear_nothing_out() -> None:
    paths = name_all("a/P{patient}_{view}.png")
    assert list(suggest_patients(make_dataset(paths), pair_up((0, 2), (4, 7), (8, 11), (1, 20)))) == []


def test_few_pairs_or_named_patients_suggest_nothing() -> None:
    paths = name_all("a/P{patient}_{view}.png")
    assert list(suggest_patients(make_dataset(paths), pair_up(*PAIRS[:2]))) == []
    named = make_dataset(paths, dict.fromkeys(range(24), "someone"))
    assert list(suggest_patients(named, pair_up(*PAIRS))) == []


def test_what_nearly_all_share_is_no_patient() -> None:
    paths = [f"a/{'scan' if number else 'other'}_{number}.png" for number in range(24)]
    assert list(suggest_patients(make_dataset(paths), pair_up((1, 2), (3, 4), (5, 6)))) == []


def test_names_of_all_kinds_have_patterns() -> None:
    for pattern in list_patterns(["a/1.png", "b/ü_ä.png", "c", "d/.png", "e/x_y_z_1_2_3.tif"]):
        assert len(pattern.keys) == 5


def test_folders_of_classes_are_no_patients_and_hide_none() -> None:
    paths = [f"class{number // 20}/p{number // 2}_{number % 2}.png" for number in range(160)]
    items = tuple(Item(path, path.split("/")[0], own_patient(path)) for path in paths)
    classes = tuple(sorted({item.label for item in items}))
    dataset = Dataset(Path(), "folder", items, classes, [Path(path) for path in paths])
    (found,) = suggest_patients(dataset, pair_up(*((2 * number, 2 * number + 1) for number in range(80))))
    assert found.text.startswith("the first part of the name joins 100 %")


def test_items_of_arrays_have_numbers_and_no_names() -> None:
    dataset = dataclasses.replace(make_dataset([f"{number:05d}" for number in range(60)]), kind="arrays")
    assert list(suggest_patients(dataset, pair_up(*((number, number + 1) for number in range(40))))) == []
    loose = dataclasses.replace(dataset, kind="folder")
    assert list(suggest_patients(loose, pair_up(*((number, number + 1) for number in range(40))))) == []
