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

from thawline.share.words import count_things

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN = 4.6  # 442 CSS pixels: text is still readable when a phone shrinks the figure to 350
NARROW_IN = 4.0  # 384 CSS pixels, for figures with much text
LOG_SPAN = 20  # most over least seconds, from which on a log scale shows more
LEAST_S = 0.001  # what a clock reading of 0.000 stands for on it
LEAST_SHARE = 0.2  # of items answered, below which a band of few items would set the scale
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
    """What makes a figure its own: ``key`` starts every id in it (letters, digits, dashes), ``text`` is read aloud.

    Where there is ``kept``, the figure goes there too under its key, as SVG and as PDF.
    """

    key: str
    text: str
    kept: dict[str, tuple[str, bytes]] | None = None


def draw_roc(
    curves: Sequence[Mapping[str, Any]],
    caption: Caption,
    operating_point: Mapping[str, Any] | None = None,
    readers: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Draw receiver operating characteristic curves and return them as SVG text.

    Each curve holds ``name``, ``auc`` (float or None) and the points ``fpr`` and ``tpr``, from (0, 0) to (1, 1); curves
    after the first `MAX_CURVES` are not drawn. ``operating_point`` holds the estimates ``sensitivity`` and
    ``specificity`` at the threshold; so does the ``point`` of each of the ``readers``, which are numbered from 1.
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
        for number, reader in enumerate(readers, start=1):
            mark_operating_point(axes, reader["point"] or {}, str(number))
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.legend(loc="lower right", title="AUC", alignment="left", title_fontsize=9)
        return to_svg(figure, caption)


def mark_operating_point(axes: Axes, point: Mapping[str, Any], name: str = "") -> None:
    """Mark sensitivity and specificity at the threshold in use, with their intervals as a cross where they have one.

    A ``name`` makes it that of a reader: a square with the name beside it.
    """
    sensitivity, specificity = (point.get(key, {"value": None}) for key in ("sensitivity", "specificity"))
    if sensitivity["value"] is None or specificity["value"] is None:
        return
    x, y = 1 - specificity["value"], sensitivity["value"]
    whiskers: dict[str, Any] = {"color": INK, "linewidth": 1.0, "clip_on": False}
    if specificity["low"] is not None and specificity["high"] is not None:
        axes.plot([1 - specificity["high"], 1 - specificity["low"]], [y, y], **whiskers)
    if sensitivity["low"] is not None and sensitivity["high"] is not None:
        axes.plot([x, x], [sensitivity["low"], sensitivity["high"]], **whiskers)
    shape = "s" if name else "o"
    axes.plot(x, y, marker=shape, markersize=6, markerfacecolor="white", markeredgecolor=INK, clip_on=False, zorder=5)
    if name:
        axes.annotate(name, (x, y), (5, -11), textcoords="offset points", fontsize=9, color=INK, zorder=6)


def draw_reliability(bins: Mapping[str, Any], caption: Caption, line: int = 0) -> str:
    """Draw a reliability curve (DeGroot and Fienberg 1983) above the number of items in each bin, as SVG text.

    ``bins`` holds for each bin ``confidence`` (mean probability), ``frequency``, its bounds ``low`` and ``high`` and
    ``count`` (items), and a smooth ``curve`` of ``predicted``, ``observed``, ``low`` and ``high``. ``line`` picks colour and
    dash pattern from `LINES`, so that a class looks as in the ROC figure.
    """
    colour, dashes = LINES[line % len(LINES)]
    with open_figure(WIDTH_IN) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        above.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=(0, (2, 3)))
        draw_band(above, bins["curve"]["predicted"], bins["curve"], "observed", colour, dashes)
        ranges = take_defined(bins["confidence"], bins["low"], bins["high"])
        above.vlines(*ranges, color=colour, linewidth=1.0)
        above.plot(bins["confidence"], bins["frequency"], "o", color=colour, markersize=5, clip_on=False)
        above.set(xlim=(0, 1), ylim=(0, 1), ylabel="Observed fraction")
        below.vlines(bins["confidence"], 0, bins["count"], color=colour, linewidth=5, clip_on=False)
        below.set(xlabel="Predicted probability", ylabel="Items", ylim=(0, None))
        below.locator_params(axis="y", nbins=3, integer=True)
        figure.align_ylabels()
        return to_svg(figure, caption)


def draw_net_benefit(curve: Mapping[str, Any], caption: Caption) -> str:
    """Draw a decision curve (Vickers and Elkin 2006) and return it as SVG text.

    ``curve`` holds ``thresholds``, and for ``model`` and ``treat_all`` the ``value``, ``low`` and ``high`` at each.
    """
    with open_figure(WIDTH_IN) as figure:
        axes = figure.add_subplot(xlabel="Threshold probability", ylabel="Net benefit")
        axes.axhline(0, color=QUIET, linewidth=0.8, linestyle=(0, (2, 3)), label="nobody treated")
        for (key, label), (colour, dashes) in zip(
            (("model", "by the model"), ("treat_all", "everybody treated")), LINES, strict=False
        ):
            draw_band(axes, curve["thresholds"], curve[key], "value", colour, dashes, label)
        most = max((value for value in curve["model"]["high"] if value is not None), default=1.0)
        axes.set(xlim=(0, 1), ylim=(-0.15 * most, 1.1 * most))
        axes.legend(loc="upper right")
        return to_svg(figure, caption)


def draw_risk(curve: Mapping[str, Any], caption: Caption) -> str:
    """Draw the risk among items answered by their share, ``coverages`` with the estimates ``risks``, as SVG text."""
    risks = {key: [risk[key] for risk in curve["risks"]] for key in ("value", "low", "high")}
    with open_figure(WIDTH_IN, 0.7 * WIDTH_IN) as figure:
        axes = figure.add_subplot(xlabel="Share of items answered", ylabel="Wrong among these")
        draw_band(axes, curve["coverages"], risks, "value", *LINES[0])
        pairs = zip(curve["coverages"], risks["high"], strict=True)
        shown = [high for share, high in pairs if high and share >= LEAST_SHARE]
        axes.set(xlim=(0, 1), ylim=(0, 1.1 * max(shown, default=1.0)))
        return to_svg(figure, caption)


def draw_growth(curve: Mapping[str, Any], caption: Caption) -> str:
    """Draw a learning curve with its band on a log scale of patients, and return it as SVG text.

    ``curve`` holds ``sizes`` and ``aucs`` as measured, the fitted one as ``shown`` (columns ``n_patients``, ``value``,
    ``low`` and ``high``), and ``delivered``, the estimate of the delivered rung at its ``n_patients``.
    """
    shown, delivered = curve["shown"], curve["delivered"]
    with open_figure(WIDTH_IN, 0.8 * WIDTH_IN) as figure:
        axes = figure.add_subplot(xlabel="Patients to learn from (log scale)", ylabel="AUC", xscale="log")
        draw_band(axes, shown["n_patients"], shown, "value", *LINES[0], "foretold, frozen backbone")
        axes.plot(curve["sizes"], curve["aucs"], "o", color=ACCENT, markersize=5, label="measured, frozen backbone")
        if delivered["value"] is not None:
            axes.plot(
                delivered["n_patients"], delivered["value"], "D", color=LINES[1][0], label="delivered, out of fold"
            )
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.10g}")
        axes.xaxis.set_minor_formatter(lambda *_: "")
        axes.legend(loc="lower right")
        return to_svg(figure, caption)


def draw_band(
    axes: Axes,
    places: Sequence[float],
    curve: Mapping[str, Sequence[float | None]],
    key: str,
    colour: str,
    dashes: Any,
    label: str | None = None,
) -> None:
    """Draw a curve, ``curve[key]`` at ``places``, with its band from ``low`` to ``high`` where these are defined."""
    axes.plot(*take_defined(places, curve[key]), color=colour, linestyle=dashes, label=label)
    where, low, high = take_defined(places, curve["low"], curve["high"])
    axes.fill_between(where, low, high, color=colour, alpha=0.15, linewidth=0)


def take_defined(*columns: Sequence[float | None]) -> list[list[float]]:
    """Return columns without the rows in which one has no number."""
    rows = [row for row in zip(*columns, strict=True) if None not in row]
    return [[float(row[place]) for row in rows if row[place] is not None] for place in range(len(columns))]


def draw_ladder(rungs: Sequence[Mapping[str, Any]], caption: Caption) -> str:
    """Draw the out-of-fold AUC of every rung with its interval, first rung on top, and beside it the seconds it took.

    Each rung holds ``name``, ``auc`` (an estimate), ``seconds`` (float or None), ``chosen`` and ``control`` (bool), and
    ``scouted``, the folds it has in words where not all. Names stand above their line, across both panels, so that long
    ones do not squeeze the scale. Returns SVG text.
    """
    with open_figure(NARROW_IN, 0.95 + 0.47 * len(rungs)) as figure:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[2.1, 1])
        for axes in (left, right):
            axes.grid(visible=False, axis="y")
            axes.spines["left"].set_visible(False)
            axes.set(yticks=[], ylim=(len(rungs) - 0.4, -0.75))
        left.set(xlabel="Out-of-fold AUC", zorder=1)  # names lie over the panel of seconds
        left.patch.set_visible(False)
        for row, rung in enumerate(rungs):
            draw_rung(left, row, rung)
        left.margins(x=0.05)
        draw_seconds(right, rungs)
        return to_svg(figure, caption)


def draw_rung(axes: Axes, row: int, rung: Mapping[str, Any]) -> None:
    """Draw one row of the ladder: name, whisker, and its marker."""
    auc = rung["auc"]
    note = " — chosen" if rung["chosen"] else " — control" if rung["control"] else ""
    note += f" — {rung['scouted']}" if rung["scouted"] else ""
    missing = " — no AUC" if auc["value"] is None else ""
    axes.text(
        0, row - 0.27, shorten(rung["name"], 48) + note + missing, transform=axes.get_yaxis_transform(), fontsize=9,
        color=pick_colour(rung), fontweight="bold" if rung["chosen"] else "normal", va="center", in_layout=False,
    )  # fmt: skip
    if auc["value"] is None:
        return
    if auc["low"] is not None and auc["high"] is not None:
        width = 2.2 if rung["chosen"] else 1.4
        axes.plot([auc["low"], auc["high"]], [row + 0.1] * 2, color=pick_colour(rung), linewidth=width)
    mark_rung(axes, auc["value"], row, rung)


def draw_seconds(axes: Axes, rungs: Sequence[Mapping[str, Any]]) -> None:
    """Draw and write the seconds of every rung, on a log scale where they span more than a factor `LOG_SPAN`."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    given = [max(rung["seconds"], LEAST_S) for rung in rungs if rung["seconds"] is not None] or [1.0]
    least, most = min(given), max(given)
    is_log = most > LOG_SPAN * least
    if is_log:
        axes.set_xscale("log")
        axes.set_xlim(least / 2, most * 2)
        axes.minorticks_off()
    else:
        axes.set_xlim(0, 1.1 * most)
    axes.set_xlabel("Seconds\n(log scale)" if is_log else "Seconds")
    axes.xaxis.set_major_locator(LogLocator(numticks=3) if is_log else MaxNLocator(3))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.10g}")
    middle = (least * most) ** 0.5 if is_log else most / 2
    for row, rung in enumerate(rungs):
        if rung["seconds"] is not None:
            seconds = max(rung["seconds"], LEAST_S)
            mark_rung(axes, seconds, row, rung)
            side = 7 if seconds <= middle else -7
            axes.annotate(
                f"{rung['seconds']:.{0 if seconds >= 9.95 else 1}f}", (seconds, row + 0.1), (side, 0), fontsize=9,
                textcoords="offset points", ha="left" if side > 0 else "right", va="center_baseline", in_layout=False,
                color=pick_colour(rung),
            )  # fmt: skip


def pick_colour(rung: Mapping[str, Any]) -> str:
    """Return the colour of a rung."""
    return ACCENT if rung["chosen"] else QUIET if rung["control"] else INK


def mark_rung(axes: Axes, x: float, row: int, rung: Mapping[str, Any]) -> None:
    """Put the marker of a rung into its row: a diamond if chosen, a hollow circle if a control, a triangle if scouted."""
    colour, shape = pick_colour(rung), "D" if rung["chosen"] else "^" if rung["scouted"] else "o"
    axes.plot(
        x, row + 0.1, marker=shape, markersize=6, color=colour, clip_on=False,
        markerfacecolor="white" if rung["control"] else colour,
    )  # fmt: skip


def draw_training(folds: Sequence[Mapping[str, Any]], caption: Caption) -> str:
    """Draw the inner loss of every fold by epoch, from the start on, and return it as SVG text.

    Each fold holds ``fold`` (its number), ``losses`` (epoch 0 is before training) and ``n_epochs``, where it stopped: a
    filled circle, a hollow one where that is 0.
    """
    from matplotlib.ticker import MaxNLocator

    with open_figure(NARROW_IN, 3.0 + 0.18 * ((len(folds) + 1) // 2)) as figure:
        axes = figure.add_subplot(xlabel="Epoch (0: before training)", ylabel="Inner log-loss, calibrated")
        for place, fold in enumerate(folds):
            colour, dashes = LINES[place % len(LINES)]
            stop = fold["n_epochs"]
            said = count_things(stop, "epoch") if stop else "not trained"
            axes.plot(
                range(len(fold["losses"])), fold["losses"], color=colour, linestyle=dashes, linewidth=1.5,
                marker="o", markevery=[stop], markerfacecolor=colour if stop else "white", clip_on=False,
                label=f"fold {fold['fold']}: {said}",
            )  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside lower center", ncols=2)
        return to_svg(figure, caption)


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
    said = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    if caption.kept is not None:
        caption.kept[caption.key] = said, to_pdf(figure)
    return said


def to_pdf(figure: Figure) -> bytes:
    """Return the figure as PDF with its letters as a font that can be edited; to call inside `open_figure`."""
    import matplotlib as mpl
    from matplotlib.backends.backend_pdf import FigureCanvasPdf

    mpl.rcParams["pdf.fonttype"] = 42
    stream = io.BytesIO()
    nothing = {"CreationDate": None, "Creator": None, "Producer": None}
    FigureCanvasPdf(figure).print_figure(stream, format="pdf", metadata=nothing)
    return stream.getvalue()


def own_ids(tag: str, key: str) -> str:
    """Put ``key`` before the id in one tag and before every reference to one, so that figures can share a page."""
    return re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{key}-", tag)


def shorten(text: str, width: int) -> str:
    """Cut a long name to ``width`` characters, the last of them an ellipsis; line breaks become spaces."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"
