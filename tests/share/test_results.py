"""The tables of a run: every item once, in its place, with numbers that read back as they were."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thawline.data.dataset import Dataset
from thawline.data.splits import Splits
from thawline.judge.comparisons import choose_within_one_se
from thawline.learn.ladder import Rung, TriedRung
from thawline.share.results import describe_candidates, describe_ladder, format_predictions, format_splits
from thawline.types import Estimate, Item

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
    rows = read(format_splits(data, [0, 2, 3], make_splits([1, -2, -1]), ["f0", "f2", "f3"]))
    assert [(row["number"], row["item"], row["patient"], row["label"], row["split"], row["fold"]) for row in rows] == [
        ("0", "a.png", "p", "x", "development", "1"),
        ("1", "b.png", "p", "y", "left_out", ""),
        ("2", "c.png", "q", "x", "test", ""),
        ("3", "d.png", "q", "y", "development", "-1"),
    ]
    assert [row["pixels"] for row in rows] == ["f0", "", "f2", "f3"]


def test_lesions_have_a_column_where_there_are_any() -> None:
    data = make_dataset(["a.png", "b.png", "c.png"], ["x", "y", "x"], ["p", "p", "q"])
    items = tuple(dataclasses.replace(item, lesion=name) for item, name in zip(data.items, ("1", "", "2"), strict=True))
    data, splits, digests = dataclasses.replace(data, items=items), make_splits([0, -2, -1]), ["f0", "f1", "f2"]
    given = np.array([[0.25, 0.75], [0.5, 0.5], [np.nan, np.nan]])
    assert [(row["item"], row["lesion"]) for row in read(format_splits(data, [0, 1, 2], splits, digests))] == [
        ("a.png", "1"),
        ("b.png", ""),
        ("c.png", "2"),
    ]
    rows = read(format_predictions(data, splits, given))
    assert [(row["lesion"], row["split"], row["p_y"]) for row in rows] == [
        ("1", "development", "0.75"),
        ("", "test", "0.5"),
    ]
    assert list(rows[0]) == ["item", "patient", "lesion", "split", "label", "fold", "p_x", "p_y"]


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


def make_tried(rung: Rung, folds: list[dict[str, Any]], **changes: Any) -> TriedRung:
    return TriedRung(rung, np.empty((0, 2)), tuple(folds), 1.23456, **changes)


def make_thawed_fold(rate: float, n_epochs: int) -> dict[str, Any]:
    trials = [{"learning_rate": 4 * rate, "losses": (0.5, 0.6)}, {"learning_rate": rate, "losses": (0.5, 0.4)}]
    return {
        "learning_rate": rate,
        "n_epochs": n_epochs,
        "scales": [0.7, 0.2],
        "trials": trials,
        "precision": "bf16",
    }


GAIN = Estimate(0.02, -0.01, 0.05, method="paired")
TRIED = (
    make_tried(Rung(0, "feature_extractor", "linear"), [{"strength": 0.1}, {"strength": 1.0}]),
    make_tried(Rung(1, "feature_extractor_hybrid", "svm"), [{"strength": 3.0}] * 2, gain=GAIN, chance=0.75),
    make_tried(
        Rung(2, "fine_tuning", line="blocks.5", thawed_fraction=0.8),
        [make_thawed_fold(2e-4, 1), make_thawed_fold(8e-4, 0)],
        forecast_s=5.5,
    ),
    make_tried(Rung(3, "handcrafted"), [{"strength": 0.3}] * 2),
)
SECTIONS: list[dict[str, Any]] = [
    {"auc": {"value": v}, "accuracy": {"value": v + 0.05}, "log_loss": {"value": 1 - v}, "rest": 1}
    for v in (0.8, 0.85, 0.9, 0.6)
]


@pytest.fixture
def ladder() -> list[dict[str, Any]]:
    losses = np.array([[1.0, 2.0, 3.0, 2.0], [0.5, 1.5, 2.5, 1.5], [1.0, 1.0, 1.0, 1.5]])
    compared = describe_candidates([each.rung.name for each in TRIED[:3]], choose_within_one_se(losses, np.arange(4)))
    costs = [
        {"seconds": 1.0, "cpu_seconds": 2.5 + n, "peak_rss_mib": None, "energy_wh": 0.01, "rest": 1} for n in range(4)
    ]
    return describe_ladder(TRIED, SECTIONS, compared, TRIED[1].rung, costs)


def test_ladder_lists_the_rungs_in_their_order_and_marks_one(ladder: list[dict[str, Any]]) -> None:
    assert [(row["rung"], row["head"], row["thaw_line"], row["auc"]["value"], row["chosen"]) for row in ladder] == [
        (0, "linear", None, 0.8, False),
        (1, "svm", None, 0.85, True),
        (2, "linear", "blocks.5", 0.9, False),
        (3, "linear", None, 0.6, False),
    ]
    assert ladder[0]["seconds"] == 1.235
    assert [row["cpu_seconds"] for row in ladder] == [2.5, 3.5, 4.5, 5.5]
    assert (ladder[0]["peak_rss_mib"], ladder[0]["energy_wh"]) == (None, 0.01)
    assert ladder[0]["strengths"] == [0.1, 1.0]
    assert ladder[0]["accuracy"] == SECTIONS[0]["accuracy"]
    assert "rest" not in ladder[0]
    assert len({frozenset(row) for row in ladder}) == 1
    assert json.loads(json.dumps(ladder, allow_nan=False))[2]["curves"] == [[[0.5, 0.6], [0.5, 0.4]]] * 2


def test_ladder_says_how_each_fold_above_a_line_was_trained(ladder: list[dict[str, Any]]) -> None:
    assert (ladder[2]["learning_rates"], ladder[2]["epochs"]) == ([2e-4, 8e-4], [1, 0])
    assert (ladder[2]["thawed_fraction"], ladder[2]["forecast_seconds"]) == (0.8, 5.5)
    assert ladder[2]["strengths"] == []
    assert [row["precision"] for row in ladder] == [None, None, "bf16", None]
    for row in (ladder[0], ladder[1], ladder[3]):
        assert (row["learning_rates"], row["epochs"], row["curves"], row["thawed_fraction"]) == ([], [], [], 0.0)


def test_ladder_compares_all_but_controls(ladder: list[dict[str, Any]]) -> None:
    assert [row["log_loss"] for row in ladder] == pytest.approx([2.0, 1.5, 1.125, 0.4])
    assert [row["difference"] for row in ladder[:3]] == pytest.approx([0.875, 0.375, 0.0])
    assert (ladder[3]["difference"], ladder[3]["standard_error"]) == (None, None)
    assert [row["gain"] for row in ladder] == [None, GAIN.to_json(), None, None]
    assert [row["chance_of_useful_gain"] for row in ladder] == [None, 0.75, None, None]
