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
    draw_ladder,
    draw_reliability,
    draw_roc,
    shorten,
)

HOSTILE = "<script>alert(1)</script>"
SVG = "{http://www.w3.org/2000/svg}"
ROC = Caption("roc", "ROC curve")
POINTS = {"fpr": [0.0, 0.0, 0.25, 0.5, 1.0], "tpr": [0.0, 0.4, 0.75, 0.9, 1.0]}
BINS = {"predicted": [0.05, 0.31, 0.62, 0.94], "observed": [0.1, 0.2, 0.7, 1.0], "count": [20.0, 4.0, 7.0, 33.0]}


def make_estimate(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "level": 0.95, "method": ""}


def make_rung(name: str, auc: dict[str, Any], *, chosen: bool = False, control: bool = False) -> dict[str, Any]:
    return {"name": name, "auc": auc, "chosen": chosen, "control": control}


RUNGS = [
    make_rung("feature extractor, linear head", make_estimate(0.85, 0.81, 0.89)),
    make_rung("fine tuning from blocks.5", make_estimate(0.88, 0.84, 0.92), chosen=True),
    make_rung("random init", make_estimate(0.70), control=True),
    make_rung("handcrafted", make_estimate(None), control=True),
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


@pytest.fixture(params=["roc", "reliability", "ladder"])
def svg(request: pytest.FixtureRequest) -> str:
    return draw(request.param)


def draw(name: str, key: str = "") -> str:
    caption = Caption(key or name, "words")
    if name == "roc":
        return draw_roc([{"name": "COVID", "auc": 0.9, **POINTS}], caption)
    return draw_reliability(BINS, caption) if name == "reliability" else draw_ladder(RUNGS, caption)


def test_a_roc_curve_passes_through_its_points() -> None:
    svg = draw("roc")
    (line,) = [path for path in list_paths(svg, ACCENT) if len(path) == len(POINTS["fpr"])]
    np.testing.assert_allclose(np.polyval(read_scale(svg, "x"), [x for x, _ in line]), POINTS["fpr"], atol=1e-4)
    np.testing.assert_allclose(np.polyval(read_scale(svg, "y"), [y for _, y in line]), POINTS["tpr"], atol=1e-4)


def test_a_reliability_curve_passes_through_its_bins_and_bars_rise_with_the_count() -> None:
    svg = draw("reliability")
    line = next(path for path in list_paths(svg, ACCENT) if len(path) == len(BINS["predicted"]))
    to_x, to_y = read_scale(svg, "x", axes=2), read_scale(svg, "y", axes=1)
    np.testing.assert_allclose(np.polyval(to_x, [x for x, _ in line]), BINS["predicted"], atol=1e-4)
    np.testing.assert_allclose(np.polyval(to_y, [y for _, y in line]), BINS["observed"], atol=1e-4)
    bars = [path for path in list_paths(svg, ACCENT) if len(path) == 2 and path[0][0] == path[1][0]]
    heights = np.array([path[0][1] - path[1][1] for path in bars])
    np.testing.assert_allclose(heights / heights.sum(), np.array(BINS["count"]) / sum(BINS["count"]), atol=1e-4)


def test_whiskers_of_the_ladder_span_the_intervals() -> None:
    svg = draw("ladder")
    scale = read_scale(svg, "x")
    spans = [np.polyval(scale, [x for x, _ in path]) for path in list_paths(svg, ACCENT) if len(path) == 2]
    assert any(np.allclose(span, [0.84, 0.92], atol=1e-4) for span in spans)
    spans = [np.polyval(scale, [x for x, _ in path]) for path in list_paths(svg, INK) if len(path) == 2]
    assert any(np.allclose(span, [0.81, 0.89], atol=1e-4) for span in spans)


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
    for words in ("fine tuning from blocks.5 — chosen", "random init — control", "handcrafted — control — no AUC"):
        assert words in said


def test_the_same_data_gives_the_same_bytes(svg: str, request: pytest.FixtureRequest) -> None:
    assert draw(request.node.callspec.params["svg"]) == svg


def test_the_users_settings_are_neither_used_nor_changed(svg: str, request: pytest.FixtureRequest) -> None:
    with mpl.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.facecolor": "black", "lines.linewidth": 9}):
        before = dict(mpl.rcParams)
        assert draw(request.node.callspec.params["svg"]) == svg
        assert dict(mpl.rcParams) == before


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
