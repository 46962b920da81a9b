"""The tables of a run: every item once, in its place, with numbers that read back as they were."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thawline.data.dataset import Dataset
from thawline.data.splits import Splits
from thawline.judge.statistics import choose_within_one_se
from thawline.learn.ladder import Rung
from thawline.share.results import describe_candidates, describe_ladder, format_predictions, format_splits
from thawline.types import Item

Row = dict[str, str]


def make_dataset(names: list[str], labels: list[str], patients: list[str] | None = None) -> Dataset:
    items = tuple(Item(*row) for row in zip(names, labels, patients or names, strict=True))
    return Dataset(Path(), "manifest", items, tuple(sorted(set(labels))), [Path(name) for name in names])


def make_splits(folds: list[int]) -> Splits:
    """Folds of the items; None of them is negative but -1 (trained on only) and -2, which stands for the test part."""
    found = np.array(folds)
    return Splits(found == -2, np.where(found == -2, -1, found), 2, "for the test")


def read(text: str) -> list[Row]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_splits_list_every_item_with_its_number() -> None:
    data = make_dataset(["a.png", "b.png", "c.png", "d.png"], ["x", "y", "x", "y"], ["p", "p", "q", "q"])
    rows = read(format_splits(data, [0, 2, 3], make_splits([1, -2, -1])))
    assert [(row["number"], row["item"], row["patient"], row["label"], row["split"], row["fold"]) for row in rows] == [
        ("0", "a.png", "p", "x", "development", "1"),
        ("1", "b.png", "p", "y", "left_out", ""),
        ("2", "c.png", "q", "x", "test", ""),
        ("3", "d.png", "q", "y", "development", "-1"),
    ]


def test_predictions_leave_out_what_was_never_scored() -> None:
    data = make_dataset(["a", "b", "c"], ["x", "y", "x"])
    table = np.array([[0.25, 0.75], [np.nan, np.nan], [0.5, 0.5]])
    rows = read(format_predictions(data, make_splits([0, -1, -2]), table))
    assert [(row["item"], row["split"], row["fold"], row["p_y"]) for row in rows] == [
        ("a", "development", "0", "0.75"),
        ("c", "test", "", "0.5"),
    ]


@settings(deadline=None, max_examples=50)
@given(
    names=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
        min_size=1,
        max_size=5,
        unique=True,
    ),
    scores=st.lists(st.floats(0, 1), min_size=5, max_size=5),
)
def test_any_name_and_number_reads_back(names: list[str], scores: list[float]) -> None:
    data = make_dataset(names, names, [name[::-1] for name in names])
    table = np.array(scores[: len(names)])[:, None].repeat(len(data.classes), axis=1)
    rows = read(format_predictions(data, make_splits([0] * len(names)), table))
    assert [(row["item"], row["patient"], row["label"]) for row in rows] == [(n, n[::-1], n) for n in names]
    for row, score in zip(rows, scores, strict=False):
        assert [float(row[f"p_{name}"]) for name in data.classes] == pytest.approx([score] * len(names), rel=1e-8)


def test_candidates_are_compared_with_the_best() -> None:
    losses = np.array([[1.0, 2.0, 3.0, 2.0], [0.5, 1.5, 2.5, 1.5], [1.0, 1.0, 1.0, 1.5]])
    rows = describe_candidates(["a", "b", "c"], choose_within_one_se(losses, np.arange(4)))
    assert [row["candidate"] for row in rows] == ["a", "b", "c"]
    assert [row["log_loss"] for row in rows] == pytest.approx(losses.mean(axis=1))
    assert [row["difference"] for row in rows] == pytest.approx(losses.mean(axis=1) - losses.mean(axis=1).min())
    assert rows[2]["standard_error"] == 0
    assert all(type(value) is float for row in rows for key, value in row.items() if key != "candidate")


def test_an_error_that_cannot_be_estimated_is_none() -> None:
    (row, _) = describe_candidates(["a", "b"], choose_within_one_se(np.array([[1.0], [0.5]]), np.zeros(1, int)))
    assert row["standard_error"] is None


def test_ladder_lists_the_rungs_in_their_order_and_marks_one() -> None:
    rungs = [
        Rung(number, strategy, head, np.empty((0, 2)), (0.1, 1.0), 1.23456)
        for number, (strategy, head) in enumerate(
            [("feature_extractor", "linear"), ("feature_extractor_hybrid", "svm")]
        )
    ]
    sections: list[dict[str, Any]] = [{"auc": {"value": v}, "accuracy": {"value": v}, "rest": 1} for v in (0.8, 0.9)]
    table: list[dict[str, Any]] = [{"log_loss": 0.5, "difference": 0.0, "standard_error": None}] * 2
    rows = describe_ladder(rungs, sections, table, rungs[1])
    assert [(row["rung"], row["head"], row["auc"]["value"], row["chosen"]) for row in rows] == [
        (0, "linear", 0.8, False),
        (1, "svm", 0.9, True),
    ]
    assert rows[0]["seconds"] == 1.235
    assert rows[0]["strengths"] == [0.1, 1.0]
    assert "rest" not in rows[0]
