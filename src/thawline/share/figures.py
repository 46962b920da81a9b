"""Figures of the report as SVG text: plain data in, one `<svg>` element out, the same bytes every time.

Text stays text (it scales, is searched and read aloud); colours keep a contrast of at least 3 to 1 on white, differ for
colour-blind readers and never carry a meaning alone: line patterns and marker shapes repeat it.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN = 4.6  # 442 CSS pixels: text is still readable when a phone shrinks the figure to 350
MAX_CURVES = 6  # lines that can be told apart in one figure
INK, QUIET, GRID = "#1d2730", "#5b6670", "#d9dee3"
ACCENT = "#0072b2"
LINES = (  # colour and dash pattern of each curve, after Okabe and Ito with the light tones darkened
    (ACCENT, "solid"),
    ("#d55e00", "dashed"),
    ("#007a5a", "dashdot"),
    ("#333333", "dotted"),
    ("#aa4499", (0, (6, 1.5))),
    ("#8c6d00", (0, (3, 1, 1, 1, 1, 1))),
)
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a "$" in a class name is a dollar sign
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so the layout is the same on every machine
    "font.size": 10,
    "axes.labelsize": 10,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.8,
    "legend.frameon": True,
    "legend.framealpha": 0.9,
    "legend.edgecolor": "none",
    "legend.fontsize": 9,
}


class Caption(NamedTuple):
    """What makes a figure its own: ``key`` starts every id in it (letters, digits, dashes), ``text`` is read aloud."""

    key: str
    text: str


def draw_roc(
    curves: Sequence[Mapping[str, Any]], caption: Caption, operating_point: Mapping[str, Any] | None = None
) -> str:
    """Draw receiver operating characteristic curves and return them as SVG text.

    Each curve holds ``name``, ``auc`` (float or None) and the points ``fpr`` and ``tpr``, from (0, 0) to (1, 1); curves
    after the first `MAX_CURVES` are not drawn. ``operating_point`` holds the estimates ``sensitivity`` and
    ``specificity`` at the threshold.
    """
    with open_figure(WIDTH_IN) as figure:
        axes = figure.add_subplot(aspect="equal", xlabel="1 − specificity", ylabel="Sensitivity")
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=(0, (2, 3)))
        for curve, (colour, dashes) in zip(curves, LINES, strict=False):
            auc = "–" if curve["auc"] is None else f"{curve['auc']:.3f}"
            label = f"{auc}  {shorten(curve['name'], 26)}"
            axes.plot(curve["fpr"], curve["tpr"], color=colour, linestyle=dashes, label=label, clip_on=False)
        if operating_point is not None:
            mark_operating_point(axes, operating_point)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.legend(loc="lower right", title="AUC", alignment="left", title_fontsize=9)
        return to_svg(figure, caption)


def mark_operating_point(axes: Axes, point: Mapping[str, Any]) -> None:
    """Mark sensitivity and specificity at the threshold in use, with their intervals as a cross where they have one."""
    sensitivity, specificity = point["sensitivity"], point["specificity"]
    if sensitivity["value"] is None or specificity["value"] is None:
        return
    x, y = 1 - specificity["value"], sensitivity["value"]
    whiskers: dict[str, Any] = {"color": INK, "linewidth": 1.0, "clip_on": False}
    if specificity["low"] is not None and specificity["high"] is not None:
        axes.plot([1 - specificity["high"], 1 - specificity["low"]], [y, y], **whiskers)
    if sensitivity["low"] is not None and sensitivity["high"] is not None:
        axes.plot([x, x], [sensitivity["low"], sensitivity["high"]], **whiskers)
    axes.plot(x, y, marker="o", markersize=6, markerfacecolor="white", markeredgecolor=INK, clip_on=False, zorder=5)


def draw_reliability(bins: Mapping[str, Sequence[float]], caption: Caption, line: int = 0) -> str:
    """Draw a reliability curve (DeGroot and Fienberg 1983) above the number of items in each bin, as SVG text.

    ``bins`` holds, for each bin that is not empty, ``predicted`` (mean probability), ``observed`` (fraction) and
    ``count`` (items). ``line`` picks colour and dash pattern from `LINES`, so that a class looks as in the ROC figure.
    """
    colour, dashes = LINES[line % len(LINES)]
    with open_figure(WIDTH_IN) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        above.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=(0, (2, 3)))
        above.plot(bins["predicted"], bins["observed"], color=colour, linestyle=dashes, clip_on=False)
        above.plot(bins["predicted"], bins["observed"], "o", color=colour, markersize=5, clip_on=False)
        above.set(xlim=(0, 1), ylim=(0, 1), ylabel="Observed fraction")
        below.vlines(bins["predicted"], 0, bins["count"], color=colour, linewidth=5, clip_on=False)
        below.set(xlabel="Predicted probability", ylabel="Items", ylim=(0, None))
        below.locator_params(axis="y", nbins=3, integer=True)
        figure.align_ylabels()
        return to_svg(figure, caption)


def draw_ladder(rungs: Sequence[Mapping[str, Any]], caption: Caption) -> str:
    """Draw the out-of-fold AUC of every rung with its interval, first rung on top, and return it as SVG text.

    Each rung holds ``name``, ``auc`` (an estimate), ``chosen`` and ``control`` (bool). Names stand above their line, so
    that long ones do not squeeze the scale.
    """
    with open_figure(WIDTH_IN, 0.8 + 0.47 * len(rungs)) as figure:
        axes = figure.add_subplot(xlabel="Out-of-fold AUC")
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set(yticks=[], ylim=(len(rungs) - 0.4, -0.75))
        for row, rung in enumerate(rungs):
            draw_rung(axes, row, rung)
        axes.margins(x=0.04)
        return to_svg(figure, caption)


def draw_rung(axes: Axes, row: int, rung: Mapping[str, Any]) -> None:
    """Draw one row of the ladder: name, whisker, and a diamond if chosen, a hollow circle if a control."""
    auc = rung["auc"]
    note = " — chosen" if rung["chosen"] else " — control" if rung["control"] else ""
    missing = " — no AUC" if auc["value"] is None else ""
    colour = ACCENT if rung["chosen"] else INK if not rung["control"] else QUIET
    axes.text(
        0, row - 0.27, shorten(rung["name"], 52) + note + missing, transform=axes.get_yaxis_transform(), fontsize=9,
        color=colour, fontweight="bold" if rung["chosen"] else "normal", va="center",
    )  # fmt: skip
    if auc["value"] is None:
        return
    if auc["low"] is not None and auc["high"] is not None:
        axes.plot([auc["low"], auc["high"]], [row + 0.1] * 2, color=colour, linewidth=2.2 if rung["chosen"] else 1.4)
    marker = "D" if rung["chosen"] else "o"
    axes.plot(
        auc["value"], row + 0.1, marker=marker, markersize=6, color=colour,
        markerfacecolor="white" if rung["control"] else colour,
    )  # fmt: skip


@contextmanager
def open_figure(width_in: float, height_in: float | None = None) -> Iterator[Figure]:
    """Yield an empty figure under this module's style; the user's matplotlib settings are neither used nor changed."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        # The reader's browser draws the text; a letter that the layout font lacks only moves a label a little.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield Figure(figsize=(width_in, height_in or width_in), layout="constrained")


def to_svg(figure: Figure, caption: Caption) -> str:
    """Return the figure as one `<svg>` element whose ids start with ``caption.key``; to call inside `open_figure`."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    mpl.rcParams["svg.hashsalt"] = caption.key
    stream = io.StringIO()
    FigureCanvasSVG(figure).print_figure(
        stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    text = stream.getvalue()
    svg = re.sub(r"<[^>]+>", lambda tag: own_ids(tag.group(), caption.key), text[text.index("<svg") :].strip())
    label = html.escape(caption.text, quote=True)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def own_ids(tag: str, key: str) -> str:
    """Put ``key`` before the id in one tag and before every reference to one, so that figures can share a page."""
    return re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{key}-", tag)


def shorten(text: str, width: int) -> str:
    """Cut a long name to ``width`` characters, the last of them an ellipsis; line breaks become spaces."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"
