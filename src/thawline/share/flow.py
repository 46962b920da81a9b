"""The way of items and patients into the parts of a run, as data, as a drawing, and in words (STARD 2015, CLAIM 2024)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from thawline.share.figures import ACCENT, INK, NARROW_IN, Caption, open_figure, shorten, to_svg
from thawline.share.words import count_things

if TYPE_CHECKING:
    from matplotlib.axes import Axes

UNREADABLE = "could not be read"
SHOWN_CLASSES, SHOWN_REASONS = 6, 4  # lines of a box
LINE_IN, PAD_IN, GAP_IN = 0.19, 0.1, 0.28  # height of a line, above and below the lines, between boxes
HALF = 0.485  # share of the width that a box takes where two stand side by side
WIDE, NARROW = 48, 23  # letters of a line in a box of the whole width, and of half of it


def summarise_flow(
    audit: Mapping[str, Any], fingerprint: Mapping[str, Any], classes: Sequence[str], *, tested: bool
) -> dict[str, Any]:
    """Return how many items were found, left out and why, by class, and what each part holds.

    ``tested`` says that the test part was opened. Patients of what is left out are not counted: their items have none on
    record.
    """
    unreadable = {int(entry["item"]) for entry in audit["unreadable"]}
    reasons = [(UNREADABLE, str(entry["label"])) for entry in audit["unreadable"]]
    reasons += [
        (str(entry["reason"]), str(entry["label"]))
        for entry in audit["left_out"]
        if int(entry["item"]) not in unreadable
    ]
    left_out = [
        {"reason": reason, "n_items": count, "classes": dict(Counter(label for why, label in reasons if why == reason))}
        for reason, count in Counter(why for why, _ in reasons).items()
    ]
    parts = [
        {
            "name": name,
            "closed": name == "test" and not tested,
            "rows": _count_classes(fingerprint["parts"][name], classes),
        }
        for name in ("development", "test")
        if fingerprint["parts"].get(name)
    ]
    return {
        "n_found": int(fingerprint["n_items"]) + len(reasons),
        "n_left_out": len(reasons),
        "left_out": left_out,
        "n_items": int(fingerprint["n_items"]),
        "n_patients": int(fingerprint["n_patients"]),
        "patients_given": bool(fingerprint["patients_given"]),
        "parts": parts,
    }


def _count_classes(counts: Mapping[str, Any], classes: Sequence[str]) -> list[dict[str, Any]]:
    none = {"items": 0, "patients": 0}
    found = {name: counts.get(name) or none for name in classes}
    return [{"name": name, "n_items": int(c["items"]), "n_patients": int(c["patients"])} for name, c in found.items()]


def describe_flow(flow: Mapping[str, Any]) -> str:
    """Return the diagram in words, for readers who do not see it."""
    said = [f"{count_things(flow['n_found'], 'item')} found."]
    for row in flow["left_out"]:
        by_class = ", ".join(f"{name} {count}" for name, count in row["classes"].items())
        said.append(f"Left out, {row['reason']}: {row['n_items']} ({by_class}).")
    said.append(f"{_say_included(flow)}.")
    for part in flow["parts"]:
        rows = "; ".join(f"{row['name']} {_say_counts(row, flow)}" for row in part["rows"])
        said.append(f"{_name_part(part)}: {rows}.")
    return " ".join(said)


def _say_included(flow: Mapping[str, Any]) -> str:
    patients = f" of {count_things(flow['n_patients'], 'patient')}" if flow["patients_given"] else ""
    return f"{count_things(flow['n_items'], 'item')}{patients} took part"


def _say_counts(row: Mapping[str, Any], flow: Mapping[str, Any]) -> str:
    return f"{row['n_items']} ({row['n_patients']})" if flow["patients_given"] else str(row["n_items"])


def _name_part(part: Mapping[str, Any]) -> str:
    return f"{part['name'].capitalize()}{', closed' if part['closed'] else ''}"


def draw_flow(flow: Mapping[str, Any], caption: Caption) -> str:
    """Draw the diagram, boxes from top to bottom, and return it as SVG text."""
    rows: list[list[list[str]]] = [[[f"Found: {count_things(flow['n_found'], 'item')}"]]]
    if flow["left_out"]:
        rows.append([_list_reasons(flow)])
    rows.append([[_say_included(flow)]])
    if flow["parts"]:
        rows.append([_list_part(part, flow) for part in flow["parts"]])
    heights = [2 * PAD_IN + LINE_IN * max(map(len, boxes)) for boxes in rows]
    height_in = sum(heights) + GAP_IN * (len(rows) - 1) + 0.1
    with open_figure(NARROW_IN, height_in) as figure:
        axes = figure.add_subplot(xlim=(0, 1), ylim=(height_in, 0))
        axes.axis("off")
        top = 0.05
        for place, (boxes, height) in enumerate(zip(rows, heights, strict=True)):
            if place:
                _draw_arrows(axes, top - GAP_IN, len(boxes))
            _draw_boxes(axes, top, height, boxes)
            top += height + GAP_IN
        return to_svg(figure, caption)


def _list_reasons(flow: Mapping[str, Any]) -> list[str]:
    lines = [f"{row['n_items']} {row['reason']}" for row in flow["left_out"]]
    return _cut([f"Left out: {count_things(flow['n_left_out'], 'item')}"], lines, SHOWN_REASONS, "reasons", WIDE)


def _list_part(part: Mapping[str, Any], flow: Mapping[str, Any]) -> list[str]:
    lines = [f"{shorten(row['name'], NARROW - 10)}: {_say_counts(row, flow)}" for row in part["rows"]]
    unit = "items (patients)" if flow["patients_given"] else "items"
    return _cut([_name_part(part), unit], lines, SHOWN_CLASSES, "classes", NARROW)


def _cut(head: list[str], lines: Sequence[str], shown: int, what: str, width: int) -> list[str]:
    rest = [f"and {len(lines) - shown} more {what}"] if len(lines) > shown else []
    return [shorten(line, width) for line in (*head, *lines[:shown], *rest)]


def _draw_boxes(axes: Axes, top: float, height: float, boxes: Sequence[Sequence[str]]) -> None:
    from matplotlib.patches import Rectangle

    width = 0.98 if len(boxes) == 1 else HALF
    for place, lines in enumerate(boxes):
        left = 0.01 if place == 0 else 0.99 - width
        axes.add_patch(Rectangle((left, top), width, height, facecolor="white", edgecolor=ACCENT, linewidth=1.2))
        for number, line in enumerate(lines):
            axes.text(
                left + 0.02, top + PAD_IN + LINE_IN * (number + 0.5), line, fontsize=9, color=INK, va="center",
                fontweight="bold" if number == 0 else "normal", in_layout=False,
            )  # fmt: skip


def _draw_arrows(axes: Axes, top: float, n_boxes: int) -> None:
    for x in (0.5,) if n_boxes == 1 else (0.25, 0.75):
        axes.annotate(
            "",
            (x, top + GAP_IN - 0.02),
            (x, top + 0.02),
            arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1.0},
        )
