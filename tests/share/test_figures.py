"""Figures hold the numbers they were given, as text and lines that anyone can read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thawline.share.figures import (
    ACCENT,
    INK,
    LINES,
    QUIET,
    Caption,
    draw_growth,
    draw_ladder,
    draw_net_benefit,
    draw_reliability,
    draw_risk,
    draw_roc,
    draw_training,
    shorten,
)

HOSTILE = "<script>alert(1)</script>"
SVG = "{http://www.w3.org/2000/svg}"
ROC = Caption("roc", "ROC curve")
POINTS = {"fpr": [0.0, 0.0, 0.25, 0.5, 1.0], "tpr": [0.0, 0.4, 0.75, 0.9, 1.0]}
BINS = {
    "confidence": [0.05, 0.31, 0.62, 0.94],
    "frequency": [0.1, 0.2, 0.7, 1.0],
    "low": [0.02, 0.1, 0.4, 0.8],
    "high": [0.3, 0.5, 0.9, 1.0],
    "count": [20.0, 4.0, 7.0, 33.0],
    "curve": {
        "predicted": [0.0, 0.25, 0.5, 0.75, 1.0],
        "observed": [0.05, 0.2, 0.55, 0.8, None],
        "low": [0.0, 0.1, 0.4, None, 0.6],
        "high": [0.2, 0.4, 0.7, 0.9, 1.0],
    },
}
BENEFIT = {
    "thresholds": [0.1, 0.3, 0.5, 0.7],
    "model": {"value": [0.4, 0.35, 0.3, 0.1], "low": [0.3, 0.25, 0.2, 0.0], "high": [0.5, 0.45, 0.4, 0.2]},
    "treat_all": {"value": [0.4, 0.2, -0.1, -0.6], "low": [0.3, 0.1, -0.2, -0.8], "high": [0.5, 0.3, 0.0, -0.4]},
}
GROWTH = {
    "sizes": [10, 20, 40],
    "aucs": [0.7, 0.75, 0.8],
    "shown": {"n_patients": [10, 100, 400, 800], "value": [0.7, 0.83, 0.86, 0.87], "low": [0.66, 0.78, 0.8, 0.81],
              "high": [0.74, 0.87, 0.9, 0.92]},
    "delivered": {"n_patients": 32, "value": 0.82, "low": 0.75, "high": 0.88},
}  # fmt: skip
RISK = {
    "coverages": [0.1, 0.5, 1.0],
    "risks": [{"value": 0.0, "low": 0.0, "high": 0.9}, {"value": 0.1, "low": 0.05, "high": 0.2},
              {"value": 0.2, "low": 0.1, "high": 0.3}],
}  # fmt: skip


def make_estimate(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "level": 0.95, "method": ""}


def make_rung(
    name: str, auc: dict[str, Any], seconds: float | None = 5.0, *, scouted: str = "", **marks: bool
) -> dict[str, Any]:
    marks = {"chosen": False, "control": False, **marks}
    return {"name": name, "auc": auc, "seconds": seconds, "scouted": scouted, **marks}


RUNGS = [
    make_rung("feature extractor, linear head", make_estimate(0.85, 0.81, 0.89), 3.5),
    make_rung("fine tuning from blocks.5", make_estimate(0.88, 0.84, 0.92), 420.0, chosen=True),
    make_rung("random init", make_estimate(0.70), 3907.0, control=True),
    make_rung("handcrafted", make_estimate(None), None, control=True),
    make_rung("fine tuning from blocks.4", make_estimate(0.9, 0.8, 1.0), 80.0, scouted="1 of 5 folds"),
]
AUC_PANEL, SECONDS_PANEL = 2, 1  # in the order of drawing: names lie over the seconds
FOLDS = [
    {"fold": 1, "n_epochs": 2, "losses": [0.5, 0.45, 0.4, 0.42]},
    {"fold": 3, "n_epochs": 0, "losses": [0.55, 0.56, 0.6, 0.62, 0.58]},
    {"fold": 4, "n_epochs": 1, "losses": [0.3, 0.25, 0.35, 0.33]},
]


def list_texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]


def list_paths(svg: str, colour: str) -> Iterator[list[tuple[float, float]]]:
    """Yield the corners of each line of a colour in the units of the page, y downwards."""
    for element in ET.fromstring(svg).iter(f"{SVG}path"):
        if f"stroke: {colour}" in element.get("style", "") and "M" in element.get("d", ""):
            numbers = [float(number) for number in re.findall(r"-?\d+\.?\d*", element.get("d", ""))]
            yield list(zip(numbers[::2], numbers[1::2], strict=True))


def read_scale(svg: str, axis: str, axes: int = 1) -> np.ndarray[Any, Any]:
    """Return slope and offset from page units to data, found from where the tick labels stand."""
    place = {"x": 0, "y": 1}[axis]
    (part,) = [group for group in ET.fromstring(svg).iter(f"{SVG}g") if group.get("id", "").endswith(f"-axes_{axes}")]
    ticks = []
    for tick in part.iter(f"{SVG}g"):
        if re.search(rf"-{axis}tick_\d+$", tick.get("id", "")):
            label, mark = next(tick.iter(f"{SVG}text")), next(tick.iter(f"{SVG}use"))
            ticks.append((float(mark.get("xy"[place], "")), float((label.text or "").replace("−", "-"))))
    return np.polyfit(*zip(*ticks, strict=True), 1)


@pytest.fixture(params=["roc", "reliability", "ladder", "training", "benefit", "risk", "growth"])
def svg(request: pytest.FixtureRequest) -> str:
    return draw(request.param)


def draw(name: str, key: str = "") -> str:
    caption = Caption(key or name, "words")
    if name == "roc":
        return draw_roc([{"name": "COVID", "auc": 0.9, **POINTS}], caption)
    if name == "training":
        return draw_training(FOLDS, caption)
    if name == "benefit":
        return draw_net_benefit(BENEFIT, caption)
    if name == "growth":
        return draw_growth(GROWTH, caption)
    if name == "risk":
        return draw_risk(RISK, caption)
    return draw_reliability(BINS, caption) if name == "reliability" else draw_ladder(RUNGS, caption)


def test_a_roc_curve_passes_through_its_points() -> None:
    svg = draw("roc")
    (line,) = [path for path in list_paths(svg, ACCENT) if len(path) == len(POINTS["fpr"])]
    np.testing.assert_allclose(np.polyval(read_scale(svg, "x"), [x for x, _ in line]), POINTS["fpr"], atol=1e-4)
    np.testing.assert_allclose(np.polyval(read_scale(svg, "y"), [y for _, y in line]), POINTS["tpr"], atol=1e-4)


def test_a_reliability_curve_has_bins_with_intervals_a_smooth_line_and_bars_that_rise_with_the_count() -> None:
    svg = draw("reliability")
    to_x, to_y = read_scale(svg, "x", axes=2), read_scale(svg, "y", axes=1)
    line = next(path for path in list_paths(svg, ACCENT) if len(path) == 4)  # of five points one is not defined
    np.testing.assert_allclose(np.polyval(to_x, [x for x, _ in line]), BINS["curve"]["predicted"][:4], atol=1e-4)
    np.testing.assert_allclose(np.polyval(to_y, [y for _, y in line]), BINS["curve"]["observed"][:4], atol=1e-4)
    vertical = [path for path in list_paths(svg, ACCENT) if len(path) == 2 and path[0][0] == path[1][0]]
    ranges, bars = vertical[:4], vertical[4:]
    np.testing.assert_allclose(np.polyval(to_x, [path[0][0] for path in ranges]), BINS["confidence"], atol=1e-4)
    np.testing.assert_allclose(np.polyval(to_y, [path[0][1] for path in ranges]), BINS["low"], atol=1e-4)
    np.testing.assert_allclose(np.polyval(to_y, [path[1][1] for path in ranges]), BINS["high"], atol=1e-4)
    heights = np.array([path[0][1] - path[1][1] for path in bars])
    np.testing.assert_allclose(heights / heights.sum(), np.array(BINS["count"]) / sum(BINS["count"]), atol=1e-4)


def test_a_decision_curve_passes_through_its_points_and_names_its_lines() -> None:
    svg = draw("benefit")
    (line,) = [path for path in list_paths(svg, ACCENT) if len(path) == 4]
    np.testing.assert_allclose(np.polyval(read_scale(svg, "x"), [x for x, _ in line]), BENEFIT["thresholds"], atol=1e-4)
    np.testing.assert_allclose(
        np.polyval(read_scale(svg, "y"), [y for _, y in line]), BENEFIT["model"]["value"], atol=1e-4
    )
    for name in ("nobody treated", "by the model", "everybody treated"):
        assert name in svg


def test_a_learning_curve_passes_through_its_points_and_shows_what_is_delivered() -> None:
    svg = draw("growth")
    (line,) = [path for path in list_paths(svg, ACCENT) if len(path) == 4]
    np.testing.assert_allclose(
        np.polyval(read_scale(svg, "y"), [y for _, y in line]), GROWTH["shown"]["value"], atol=1e-3
    )
    steps = np.diff([x for x, _ in line])
    np.testing.assert_allclose(steps / steps[0], np.diff(np.log10(GROWTH["shown"]["n_patients"])), atol=1e-3)
    assert "delivered, out of fold" in svg


def test_the_scale_of_errors_is_not_that_of_the_few_surest_items() -> None:
    svg = draw("risk")
    (line,) = [path for path in list_paths(svg, ACCENT) if len(path) == 3]
    np.testing.assert_allclose(np.polyval(read_scale(svg, "y"), [y for _, y in line]), [0.0, 0.1, 0.2], atol=1e-4)
    ticks = re.findall(r"<text[^>]*>(0\.\d+)</text>", svg)
    assert max(map(float, ticks)) <= 1.0


def test_whiskers_of_the_ladder_span_the_intervals() -> None:
    svg = draw("ladder")
    scale = read_scale(svg, "x", axes=AUC_PANEL)
    spans = [np.polyval(scale, [x for x, _ in path]) for path in list_paths(svg, ACCENT) if len(path) == 2]
    assert any(np.allclose(span, [0.84, 0.92], atol=1e-4) for span in spans)
    spans = [np.polyval(scale, [x for x, _ in path]) for path in list_paths(svg, INK) if len(path) == 2]
    assert any(np.allclose(span, [0.81, 0.89], atol=1e-4) for span in spans)


def list_marks(svg: str, axes: int) -> list[tuple[float, float]]:
    """Where the markers of one panel stand, in the units of the page, but for those of ticks."""
    (part,) = [group for group in ET.fromstring(svg).iter(f"{SVG}g") if group.get("id", "").endswith(f"-axes_{axes}")]
    lines = [line for line in part if "-line2d_" in line.get("id", "")]
    return [(float(mark.get("x", "")), float(mark.get("y", ""))) for line in lines for mark in line.iter(f"{SVG}use")]


@pytest.mark.parametrize(
    ("seconds", "is_log"),
    [
        ([3.5, 420.0, 3907.0], True),
        ([3.5, 69.0, 12.0], False),
        ([1.0, 20.0], False),
        ([1.0, 20.1], True),
        ([0.0, 9.0], True),
    ],
)
def test_seconds_stand_beside_their_rung_on_a_scale_that_shows_them(seconds: list[float], is_log: bool) -> None:
    rungs = [make_rung(f"rung {k}", make_estimate(0.8, 0.7, 0.9), s) for k, s in enumerate(seconds)]
    svg = draw_ladder(rungs, ROC)
    said = list_texts(svg)
    assert ("(log scale)" in said) == is_log
    assert "Seconds" in said
    assert all((f"{s:.1f}" if s < 9.95 else f"{s:.0f}") in said for s in seconds)
    aucs, marks = list_marks(svg, AUC_PANEL), list_marks(svg, SECONDS_PANEL)
    assert [y for _, y in marks] == [y for _, y in aucs]
    shown = np.array([max(s, 0.001) for s in seconds])
    places = np.array([x for x, _ in marks])
    if is_log:  # equal ratios are equal distances
        slope, offset = np.polyfit(np.log(shown), places, 1)
        np.testing.assert_allclose(slope * np.log(shown) + offset, places, atol=1e-3)
    else:
        np.testing.assert_allclose(np.polyval(read_scale(svg, "x", axes=SECONDS_PANEL), places), shown, atol=1e-3)


def test_names_of_the_ladder_take_nothing_from_its_scale() -> None:
    short, long = (
        read_scale(draw_ladder([make_rung("x" * n, make_estimate(0.8, 0.7, 0.9))], ROC), "x", AUC_PANEL)
        for n in (1, 60)
    )
    np.testing.assert_array_equal(short, long)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [None, 0.0])
def test_a_ladder_without_seconds_is_drawn_all_the_same(seconds: float | None) -> None:
    svg = draw_ladder([make_rung("one", make_estimate(0.8), seconds)], ROC)
    assert len(list_marks(svg, SECONDS_PANEL)) == (seconds is not None)
    assert "Out-of-fold AUC" in list_texts(svg)


def test_training_curves_pass_through_their_losses_and_mark_what_was_kept() -> None:
    svg = draw("training")
    to_x, to_y = read_scale(svg, "x"), read_scale(svg, "y")
    marks = [(np.polyval(to_x, x), np.polyval(to_y, y)) for x, y in list_marks(svg, 1)]
    for fold, mark, (colour, _) in zip(FOLDS, marks, LINES, strict=False):
        losses: Any = fold["losses"]
        line = next(path for path in list_paths(svg, colour) if len(path) == len(losses))
        np.testing.assert_allclose(np.polyval(to_x, [x for x, _ in line]), range(len(losses)), atol=1e-3)
        np.testing.assert_allclose(np.polyval(to_y, [y for _, y in line]), losses, atol=1e-4)
        np.testing.assert_allclose(mark, (fold["n_epochs"], losses[fold["n_epochs"]]), atol=1e-3)
    assert {"fold 1: 2 epochs", "fold 3: not trained", "fold 4: 1 epoch"} <= set(list_texts(svg))


def test_more_folds_than_line_patterns_are_all_drawn() -> None:
    svg = draw_training([{**FOLDS[0], "fold": k} for k in range(1, 13)], ROC)
    assert len(list_marks(svg, 1)) == 12
    assert "fold 12: 2 epochs" in list_texts(svg)


def test_the_operating_point_is_a_cross_of_both_intervals() -> None:
    point = {"sensitivity": make_estimate(0.8, 0.7, 0.9), "specificity": make_estimate(0.75, 0.6, 0.85)}
    svg = draw_roc([{"name": "COVID", "auc": 0.9, **POINTS}], ROC, point)
    lines = [path for path in list_paths(svg, INK) if len(path) == 2]
    along = {tuple(np.polyval(read_scale(svg, "x"), [x for x, _ in path]).round(3)) for path in lines}
    upright = {tuple(np.polyval(read_scale(svg, "y"), [y for _, y in path]).round(3)) for path in lines}
    assert (0.15, 0.4) in along
    assert (0.7, 0.9) in upright


@pytest.mark.parametrize("missing", ["sensitivity", "specificity"])
def test_no_operating_point_without_its_numbers(missing: str) -> None:
    point = {"sensitivity": make_estimate(0.8), "specificity": make_estimate(0.75)} | {missing: make_estimate(None)}
    curves = [{"name": "COVID", "auc": 0.9, **POINTS}]
    assert draw_roc(curves, ROC, point) == draw_roc(curves, ROC)


def test_names_and_marks_of_the_ladder() -> None:
    said = "\n".join(list_texts(draw("ladder")))
    for words in (
        "fine tuning from blocks.5 — chosen",
        "random init — control",
        "handcrafted — control — no AUC",
        "fine tuning from blocks.4 — 1 of 5 folds",
    ):
        assert words in said


@pytest.mark.slow
def test_the_same_data_gives_the_same_bytes(svg: str, request: pytest.FixtureRequest) -> None:
    assert draw(request.node.callspec.params["svg"]) == svg


@pytest.mark.slow
def test_the_users_settings_are_neither_used_nor_changed(svg: str, request: pytest.FixtureRequest) -> None:
    with mpl.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.facecolor": "black", "lines.linewidth": 9}):
        before = dict(mpl.rcParams)
        assert draw(request.node.callspec.params["svg"]) == svg
        assert dict(mpl.rcParams) == before


@pytest.mark.slow
def test_ids_of_two_figures_never_meet(svg: str, request: pytest.FixtureRequest) -> None:
    other = draw(request.node.callspec.params["svg"], "other")
    ids, others = (re.findall(r' id="([^"]+)"', text) for text in (svg, other))
    assert len(ids) == len(set(ids))
    assert set(ids).isdisjoint(others)
    assert set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", svg)) <= set(ids)


def test_it_is_one_labelled_element_with_text_and_without_a_date(svg: str) -> None:
    root = ET.fromstring(svg)
    assert (root.tag, root.get("role"), root.get("aria-label")) == (f"{SVG}svg", "img", "words")
    assert list_texts(svg)
    assert "<metadata" not in svg
    assert not re.search(r"https?://(?!www\.w3\.org/)", svg)


@pytest.mark.slow
@pytest.mark.parametrize("name", [HOSTILE, "_hidden", "$x^$", "正常", 'a"b&c', " "])
def test_any_name_is_drawn_as_it_is(name: str) -> None:
    curve = {"name": name, "auc": None, **POINTS}
    svg = draw_roc([curve], Caption("roc", name))
    assert f"–  {name.strip()}" in list_texts(svg)
    assert ET.fromstring(svg).get("aria-label") == name
    assert "<script" not in svg
    assert any(
        text.startswith(name.strip()) for text in list_texts(draw_ladder([make_rung(name, make_estimate(0.5))], ROC))
    )


def test_only_as_many_curves_as_can_be_told_apart() -> None:
    curves = [{"name": f"class {k}", "auc": 0.5, **POINTS} for k in range(9)]
    said = " ".join(list_texts(draw_roc(curves, ROC)))
    assert "class 5" in said
    assert "class 6" not in said


def compute_luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_lines_and_text_keep_their_contrast_and_patterns_differ() -> None:
    assert all(1.05 / (compute_luminance(colour) + 0.05) >= 3 for colour, _ in LINES)
    assert all(1.05 / (compute_luminance(colour) + 0.05) >= 4.5 for colour in (INK, QUIET, ACCENT))
    assert all(first != second for first, second in pairwise(sorted(str(dashes) for _, dashes in LINES)))


@given(st.text(max_size=60), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_shorten_keeps_the_beginning_and_the_width(text: str, width: int) -> None:
    short, line = shorten(text, width), " ".join(text.split())
    assert len(short) <= width
    assert short == line or (short.endswith("…") and line.startswith(short[:-1]))
