"""Several labels an item: texts and cells mean what was written, and what means nothing is refused by its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from thawline.data.dataset import from_arrays, load_dataset, name_columns
from thawline.data.label_sets import (
    contradict,
    count_values,
    find_strata,
    join_cells,
    join_texts,
    parse_labels,
    split_cells,
    write_labels,
)
from thawline.data.manifest import read_labels
from thawline.errors import DataError
from thawline.types import MISSING

NAMES = ("effusion", "mass", "two words")
VALUES = st.sampled_from([1, 0, MISSING])


@given(st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=1))
def test_texts_and_cells_are_read_back(rows):
    texts = [write_labels(row, NAMES) for row in rows]
    np.testing.assert_array_equal(parse_labels(texts, NAMES), rows)
    records = {number: split_cells(text, NAMES) for number, text in enumerate(texts)}
    assert join_cells(records, [f"label:{name}" for name in reversed(NAMES)], "table") == (texts, 0)


@given(st.lists(st.lists(st.sampled_from(NAMES), unique=True), min_size=1))
def test_joined_names_are_read_in_any_order_and_none_in_many_words(rows):
    words = ["No Finding", "none", "no_finding", "NORMAL", "healthy"]
    said = ["|".join(row) or words[place % 5] for place, row in enumerate(rows)]
    texts, names = join_texts(said, range(len(said)), "table")
    assert names == tuple(sorted({name for row in rows for name in row}))
    for row, labels in zip(rows, parse_labels(texts, names), strict=True):
        assert {name for name, value in zip(names, labels, strict=True) if value == 1} == set(row)
        assert MISSING not in labels


def test_joined_names_that_say_nothing_and_both():
    texts, names = join_texts(["b|?a", "", "a"], [2, 3, 4], "table")
    assert names == ("a", "b")
    np.testing.assert_array_equal(parse_labels(texts, names), [[MISSING, 1], [MISSING, MISSING], [1, 0]])
    for wrong in ("No Finding|a", "a|", "a||b"):
        with pytest.raises(DataError, match="in row 7 names labels and says that there is none"):
            join_texts([wrong], [7], "table")


def test_counts_strata_and_contradictions():
    labels = np.array([[1, 0], [1, MISSING], [0, 1], [0, 0], [MISSING, 0]])
    counts = count_values(labels, np.array([0, 0, 1, 2, 2]), ("a", "b"))
    assert counts["a"] == {
        "items": 2,
        "patients": 1,
        "negative_items": 2,
        "negative_patients": 2,
        "missing_items": 1,
    }
    assert find_strata(labels).tolist() == [0, 0, 1, 2, 2]
    assert contradict(labels[[0, 2]])
    assert not contradict(labels[[0, 1]])
    assert not contradict(labels[[3, 4]])


def write_table(folder: Path, header: str, rows: list[str], n_items: int = 12) -> Path:
    for number in range(n_items):
        Image.new("L", (8, 8), number).save(folder / f"{number}.png")
    lines = [f"path,patient,{header}", *(f"{number}.png,p{number},{row}" for number, row in enumerate(rows))]
    (folder / "manifest.csv").write_text("\n".join(lines), "utf-8")
    return folder


GOOD = [("1", "0")[number % 2] + "," + ("0", "1", "")[number % 3] for number in range(12)]


def test_columns_of_labels(tmp_path):
    rows = [*GOOD[:9], "u,", "-1,-1", "1.0,0"]
    dataset = load_dataset(write_table(tmp_path, "label:Pleural Effusion,Label:Mass", rows))
    assert dataset.multilabel
    assert dataset.classes == ("Mass", "Pleural Effusion")
    assert len(dataset.items) == 10
    assert dataset.notes == (
        "3 labels are said to be uncertain (-1 or u) and count as not known",
        "2 of 12 items were left out, as none of their labels is known",
    )
    first = {item.path: item.label for item in dataset.items}
    assert (first["0.png"], first["1.png"], first["2.png"]) == ("Pleural Effusion", "Mass", "Pleural Effusion|?Mass")
    assert first["3.png"] == "none"
    assert dataset.labels()[[item.path for item in dataset.items].index("5.png")].tolist() == [MISSING, 0]
    assert dataset.count_items() == {"Mass": 3, "Pleural Effusion": 6}


@pytest.mark.parametrize(
    ("header", "rows", "said"),
    [
        ("label:a,label:b", ["yes,0", *GOOD[1:]], "the column label:a holds 'yes' in row 2; expected 1, 0"),
        ("label:a,label:b", ["1,2", "1,2", *GOOD[2:]], "the column label:b holds '2' in row 2, 3; expected 1, 0"),
        ("label:a,label:a", GOOD, "the column label:a more than once"),
        ("label:a,label", GOOD, "has the column label and label:a; keep one"),
        ("label:a|b,label:b", GOOD, "'label:a|b' names no label"),
        ("label:,label:b", GOOD, "'label:' names no label"),
        ("label:none,label:b", GOOD, "'label:none' names no label"),
        ("label:a,scanner", GOOD, "there is one label, a; at least 2 labels"),
        ("label:a,label:b", [f"1,{row[2:]}" for row in GOOD], "- a: 12 images of 12 patients have it, 0 images of 0"),
        ("label:a,label:b", ["0,1", *(["0,0"] * 10), "1,1"], "- a: 1 images of 1 patients have it, 11 images of 11"),
        ("label:a,label:b", [","] * 12, "there are 0 images with a known label"),
    ],
)
def test_columns_that_are_refused(tmp_path, header, rows, said):
    with pytest.raises(DataError) as caught:
        load_dataset(write_table(tmp_path, header, rows))
    assert said in str(caught.value)


def test_tables_of_labels_take_columns_and_joined_names(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("SOPInstanceUID;label:Mass;label:Effusion\n1.2;1;\n1.3;0;1\n", "utf-8")
    found = read_labels(table)
    assert (found.column, found.names) == ("instance", ("Effusion", "Mass"))
    assert [row.label for row in found.rows] == ["Mass|?Effusion", "Effusion"]
    assert [row.metadata for row in found.rows] == [{}, {}]
    table.write_text("study,label\n1.2,Mass|Effusion\n1.3,No Finding\n", "utf-8")
    assert [row.label for row in read_labels(table, joined=True).rows] == ["Effusion|Mass", "none"]
    assert [row.label for row in read_labels(table).rows] == ["Mass|Effusion", "No Finding"]


def test_joined_names_are_several_labels_only_where_that_is_said(tmp_path):
    rows = [("a|b", "No Finding", "a", "b")[number % 4] for number in range(12)]
    folder = write_table(tmp_path, "label", rows)
    several = load_dataset(folder, multilabel=True)
    assert (several.multilabel, several.classes) == (True, ("a", "b"))
    assert several.count_items() == {"a": 6, "b": 6}
    single = load_dataset(folder)
    assert single.classes == ("No Finding", "a", "a|b", "b")
    assert not single.multilabel
    assert "--multilabel reads names joined by | as several labels" in single.notes[0]
    (tmp_path / "classes" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match=r"--multilabel: .* has a folder a class"):
        load_dataset(tmp_path / "classes", multilabel=True)


def test_arrays_of_several_labels(tmp_path):
    images = np.arange(12 * 64, dtype=np.uint8).reshape(12, 8, 8)
    labels = np.array([[number % 2, number % 3 == 0] for number in range(12)], np.float32)
    labels[1, 0] = np.nan
    np.savez(tmp_path / "films.npz", images=images, labels=labels)
    for dataset in (load_dataset(tmp_path / "films.npz"), from_arrays(images, labels)):
        assert (dataset.multilabel, dataset.classes) == (True, ("0", "1"))
        expected = labels.astype(np.float64)
        np.testing.assert_array_equal(dataset.labels(), np.where(np.isnan(expected), MISSING, expected))
    labels[4, 1] = 3
    with pytest.raises(DataError, match="item 4 has 3 as its label 1, 1 such in all"):
        from_arrays(images, labels)
    with pytest.raises(DataError, match="y: expected one label an item, or as many for each"):
        from_arrays(images, [[1, 0]] * 11 + [[1]])
    np.savez(tmp_path / "joined.npz", images=images, labels=np.array(["a|b", "none", "b"] * 4))
    assert load_dataset(tmp_path / "joined.npz", multilabel=True).count_items() == {"a": 4, "b": 8}


def test_a_medmnist_file_of_several_labels(tmp_path):
    parts = {}
    for split, count in (("train", 12), ("val", 4), ("test", 6)):
        parts[f"{split}_images"] = np.arange(count * 64, dtype=np.uint8).reshape(count, 8, 8)
        parts[f"{split}_labels"] = np.stack([np.arange(count) % 2, np.arange(count) % 3 == 0], axis=1).astype(np.uint8)
    np.savez(tmp_path / "chest.npz", **parts)
    dataset = load_dataset(tmp_path / "chest.npz")
    assert (dataset.multilabel, dataset.classes, dataset.split_given) == (True, ("0", "1"), True)
    assert dataset.count_splits() == {"train": 12, "val": 4, "test": 6}
    assert dataset.count_items() == {"0": 11, "1": 8}


def test_columns_of_a_table_that_are_numbers_are_called_alike_everywhere():
    import pandas as pd

    table = pd.DataFrame([[1.0, 0.0], [0.0, 1.0]] * 6, columns=[2.0, "mass"])
    assert name_columns(table, "y") == ["2", "mass"]
    assert from_arrays(np.zeros((12, 16, 16), np.uint8), table).classes == ("2", "mass")
    assert name_columns(table.to_numpy(), "y") == ["0", "1"]
