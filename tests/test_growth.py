"""Learning curves of a run: what is measured is what plain scikit-learn style loops measure, and little data say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import thawline
from helpers import Notes, make_films
from thawline import growth
from thawline.judge.learning_curve import choose_sizes, draw_subsets
from thawline.judgement import Scored


def make_features(n_patients: int, *, gain: float = 0.8, seed: int = 0) -> tuple[Any, Any, Any]:
    """Normal features of patients with two items each; the class shifts the first."""
    draw = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_patients), 2)
    labels = groups % 2
    features = draw.normal(size=(len(groups), 20)).astype(np.float32)
    features[:, 0] += gain * labels
    return features, labels.astype(np.int64), groups


def test_aucs_are_those_of_heads_on_the_patients_left_out() -> None:
    features, labels, groups = make_features(80)
    sizes = choose_sizes(60, 30)
    found = growth._measure_sizes(features, labels, groups, sizes, 3)
    assert found["sizes"].tolist() == sizes.tolist()
    assert found["aucs"].shape == (growth.N_REPEATS, len(sizes))
    rows = draw_subsets(groups, labels, int(sizes[2]), growth.N_REPEATS, 3)[1]
    tested = ~draw_subsets(groups, labels, int(sizes[-1]), growth.N_REPEATS, 3)[1]
    assert not set(groups[rows]) & set(groups[tested])
    first = draw_subsets(groups, labels, int(sizes[2]), growth.N_REPEATS, 3)[0]
    strength = growth._choose_strength(features, labels, groups, first)
    assert found["aucs"][1, 2] == growth._score(features, labels, strength, rows, tested)
    assert found["aucs"][:, -1].mean() > found["aucs"][:, 0].mean()  # more patients teach more


def test_of_very_many_items_some_patients_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels, groups = make_features(80)
    monkeypatch.setattr(growth, "MOST_ITEMS", 80)
    kept = growth._limit_items(labels, groups, 0)
    assert kept.sum() == 80
    assert set(groups[kept]).isdisjoint(groups[~kept])
    found = growth._measure_sizes(features, labels, groups, choose_sizes(60, 30), 0)
    assert found["sizes"][-1] == 30


def test_what_is_foretold_grows_with_patients_and_is_checked() -> None:
    features, labels, groups = make_features(200, gain=1.2)
    sizes = choose_sizes(150, 75)
    measured = growth._measure_sizes(features, labels, groups, sizes, 0)
    scores = 1 / (1 + np.exp(-features[:, 0].astype(float)))
    part = Scored(labels, np.column_stack([1 - scores, scores]), groups, np.arange(len(labels)), groups % 5)
    found = growth.foretell(measured["sizes"], measured["aucs"], part, 200, 5, 0)
    json.dumps(found, allow_nan=False)
    assert [row["n_patients"] for row in found["foretold"]] == [200, 400, 1000, 2000]
    values = [row["value"] for row in found["foretold"]]
    assert values == sorted(values)
    assert all(row["auc"] > values[0] for row in found["wanted"])
    assert found["delivered"]["n_patients"] == 160
    narrow, wide = (row["n_patients"] for row in reversed(found["test_patients"]))
    assert narrow > wide > 20
    assert abs(found["check"]["error_points"]) < 10


@pytest.mark.slow
def test_few_patients_have_no_curve_and_it_is_said(tmp_path: Path) -> None:
    data = make_films(tmp_path / "data", n_patients=12)
    thawline.run(data, tmp_path / "run", head="linear", listener=Notes())
    found = json.loads((tmp_path / "run" / "metrics.json").read_text("utf-8"))["growth"]
    assert list(found) == ["note"]
    assert "A learning curve starts from half of the patients or fewer" in found["note"]
    assert "No learning curve: A learning curve starts" in (tmp_path / "run" / "report.html").read_text("utf-8")
