"""The report of a run: the files of a run folder become one plain dict, and the dict becomes one HTML page.

The page needs no network, no script and no other file. It names items by number only: patients, paths and file names of
the run folder stay there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import thawline
from thawline.files import write_atomic
from thawline.share.figures import (
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
from thawline.share.flow import describe_flow, draw_flow
from thawline.share.headline import PARTS
from thawline.share.summary import summarise, summarise_findings, summarise_shortcuts, summarise_tables
from thawline.share.words import (
    count_things,
    format_estimate,
    format_interval,
    format_number,
    format_percent,
    format_seconds,
    format_signed,
    write_p,
)

if TYPE_CHECKING:
    from jinja2 import Environment


def write_report(run: Path) -> Path:
    """Write ``run``/report.html from the other files of the run folder and return its path.

    The file is replaced in one step, so that a reader never meets half a page; the same folder gives the same bytes.
    Raises ModelError where a file is missing or damaged, OutputError where the page cannot be written.
    """
    return write_atomic(run / "report.html", render(summarise(run)).encode("utf-8", "replace"))


def render(summary: Mapping[str, Any]) -> str:
    """Return the page for a summary; everything in it is escaped, and a missing key is an error."""
    return make_environment().get_template("report.html.j2").render(**summary, figures=draw_figures(summary))


def draw_figures(summary: Mapping[str, Any], kept: dict[str, tuple[str, bytes]] | None = None) -> dict[str, Any]:
    """Return the figures of the page as SVG text: ``flow``, ``roc``, ``ladder``, ``training``, ``net_benefit``, ``risk``,
    ``growth`` (or None), ``reliability`` (one a class), ``other_training`` (one for each trained rung not chosen).

    Where there is ``kept``, each goes there too, as SVG and PDF by its key.
    """
    curves, part = summary["curves"], PARTS[summary["part"]].lower()
    names = ", ".join(f"{curve['name']} {format_number(curve['auc'])}" for curve in curves["roc"])
    flow, ladder, training = summary["flow"], summary["ladder"], summary["training"]
    decision, doubts, growth = summary["decision"], summary["doubts"], summary["growth"]

    def say(key: str, text: str) -> Caption:
        return Caption(key, text, kept)

    roc = say("roc", f"ROC curve, {part}. Area under the curve: {names}.")
    return {
        "flow": draw_flow(flow, say("flow", describe_flow(flow))),
        "roc": draw_roc(curves["roc"], roc, curves["operating_point"], summary["readers"]) if curves["roc"] else None,
        "reliability": [
            draw_reliability(bins, say(f"reliability-{line}", describe_reliability(bins, part)), line)
            for line, bins in enumerate(curves["reliability"])
        ],
        "net_benefit": decision
        and draw_net_benefit(decision["net_benefit"], say("benefit", f"Decision curve, {part}. {decision['useful']}")),
        "risk": doubts and draw_risk(doubts["curve"], say("risk", describe_risk(doubts["curve"], part))),
        "growth": growth["curve"] and draw_growth(growth["curve"], say("growth", describe_growth(growth))),
        "ladder": draw_ladder(ladder, say("ladder", describe_ladder(ladder))),
        "training": draw_training(training["folds"], say("training", describe_training(training)))
        if training
        else None,
        "other_training": [
            draw_training(other["folds"], say(f"training-{number}", describe_training(other)))
            for number, other in enumerate(summary["other_training"], 1)
        ],
    }


def describe_ladder(rungs: Sequence[Mapping[str, Any]]) -> str:
    """Return the ladder in words, for readers who do not see the figure."""
    said = []
    for rung in rungs:
        note = " (chosen)" if rung["chosen"] else " (control)" if rung["control"] else ""
        note += f" on {rung['scouted']}" if rung["scouted"] else ""
        cost = "" if rung["seconds"] is None else f" in {format_seconds(rung['seconds'])}"
        said.append(f"{rung['name']}{note}: {format_estimate(rung['auc'])}{cost}")
    return f"Out-of-fold AUC of every rung, and the time it took. {'; '.join(said)}."


def describe_training(training: Mapping[str, Any]) -> str:
    """Return training curves in words."""
    folds = "; ".join(
        f"fold {fold['fold']} from {format_number(fold['losses'][0])} at the start to {format_number(fold['reached'])} "
        f"after {count_things(fold['n_epochs'], 'epoch')}"
        for fold in training["folds"]
    )
    return f"Inner log-loss of {training['name']} by epoch: {folds}."


def describe_reliability(bins: Mapping[str, Any], part: str) -> str:
    """Return a reliability curve in words, for readers who do not see it."""
    points = zip(bins["confidence"], bins["frequency"], strict=True)
    said = ", ".join(f"{predicted:.2f} predicted and {observed:.2f} observed" for predicted, observed in points)
    return f"Reliability curve of {bins['name']}, {part}: {said}."


def describe_risk(curve: Mapping[str, Any], part: str) -> str:
    """Return errors by the share of items answered in words."""
    points = zip(curve["coverages"], curve["risks"], strict=True)
    said = ", ".join(f"{format_number(risk['value'])} of {format_percent(share)}" for share, risk in points)
    return f"Share of wrong answers among the surest items, {part}: {said}."


def describe_growth(growth: Mapping[str, Any]) -> str:
    """Return a learning curve in words."""
    said = ", ".join(f"{format_estimate(row['auc'])} with {row['n_patients']}" for row in growth["rows"])
    return f"AUC to be expected by the number of patients to learn from: {said}."


def render_audit(folder: Path, audit: Mapping[str, Any], classes: Sequence[str]) -> str:
    """Return the page of an audit, as `audit.json` in the folder holds it, whose examples lie there."""
    return (
        make_environment()
        .get_template("audit.html.j2")
        .render(
            n_items=audit["n_items"],
            support=audit["support"],
            tables=summarise_tables(audit, classes),
            classes=classes,
            findings=summarise_findings(folder, audit["findings"]),
            shortcuts=summarise_shortcuts(audit),
            version=thawline.__version__,
        )
    )


def make_environment() -> Environment:
    """Return the template environment: everything is escaped, and a name the summary lacks is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("thawline.share", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        estimate=format_estimate,
        interval=format_interval,
        number=format_number,
        p_value=write_p,
        percent=format_percent,
        seconds=format_seconds,
        shorten=shorten,
        signed=format_signed,
    )
    return environment
