"""The end of a run: what was found of predictions, written down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.audit.findings import SEVERITIES
from thawline.audit.step import audit_labels
from thawline.choosing import Chosen
from thawline.files import write_atomic, write_json
from thawline.inference import UNIT as INFERENCE
from thawline.judgement import assess, evaluate_part, take_scored, take_test
from thawline.learn.ladder import TriedRung
from thawline.nesting import Nested, describe_nested, format_nested
from thawline.share.card import write_card
from thawline.share.examples import show_findings, write_examples
from thawline.share.folder import NESTED_PREDICTIONS, read_names
from thawline.share.results import describe_candidates, describe_ladder, format_predictions
from thawline.share.study import find_study
from thawline.state import Job

if TYPE_CHECKING:
    from thawline.types import Probabilities, Reading


def judge(
    job: Job, found: Chosen, test: Probabilities | None, nested: Nested | None, growth: Mapping[str, Any]
) -> None:
    """Write predictions, metrics, examples, audit and model card: everything but the page.

    ``growth`` is what `measure_growth` foretells.
    """
    job.listener.begin("judging")
    task, development, climb, chosen = job.describe_task(), job.development(), found.climb, found.rung
    is_test, seed = job.splits.is_test, job.options.seed

    def measure(each: TriedRung) -> dict[str, Any]:
        return evaluate_part(take_scored(job, each), task, seed)

    sections = [measure(each) for each in climb.tried]
    place = [each.rung for each in climb.tried].index(chosen.rung)
    delivered = sections[place] if chosen is climb.tried[place] else measure(chosen)
    costs = [job.journal.costs(f"{each.rung.unit} ") for each in climb.tried]
    compared = describe_candidates([each.rung.name for each in climb.eligible], found.selection)
    parts = {
        "validation": take_scored(job, chosen),
        "test": None if test is None else take_test(job, test),
        "nested": None if nested is None else nested.repeats[0],
    }
    metrics = {
        "schema": 1,
        "task": task,
        "chosen": {
            "backbone": job.facts.name,
            "strategy": chosen.rung.strategy,
            "thaw_line": chosen.rung.line,
            "thawed_fraction": chosen.rung.thawed_fraction,
            "head": chosen.rung.head,
            "n_networks": (job.journal.find("final") or {}).get("networks"),
        },
        "nested": None if nested is None else describe_nested(job, nested),
        "test": None if parts["test"] is None else evaluate_part(parts["test"], task, seed),
        "validation": delivered,
        "ladder": describe_ladder(climb.tried, sections, compared, chosen.rung, costs),
        "stops": list(climb.stops),
        **assess(job, parts, found.safeguards, (job.journal.find("test") or {}).get("strangeness")),
        "growth": dict(growth),
    }
    probabilities = np.full((len(job.labels), len(job.dataset.classes)), np.nan)
    probabilities[~is_test] = chosen.probabilities
    if test is not None:
        probabilities[is_test] = test
    shown = np.flatnonzero(np.isfinite(probabilities).all(axis=1) if test is None else is_test)
    write_atomic(job.out / "predictions.csv", format_predictions(job.dataset, job.splits, probabilities))
    if nested is not None:
        write_atomic(job.out / NESTED_PREDICTIONS, format_nested(job.dataset, nested))
    reading = job.plan.contract(job.facts).reading
    about = (job.dataset.classes, task["positive"], task["threshold"])
    write_examples(
        job.out, job.dataset.contents, job.inspection.numbers, shown, job.labels, probabilities, about, reading
    )
    if job.options.audit == "full":
        about_labels = job.development_items(), development.labels, chosen.probabilities
        job.inspection.record["findings"] += audit_labels(job.inspection, *about_labels)
    _write_audit(job, reading)
    about_use = find_study(job.out), read_names(job.out)
    cost = {"inference": job.journal.find(INFERENCE)}
    write_atomic(
        job.out / "model" / "card.md", write_card({**metrics, "cost": cost}, job.plan, job.weights, *about_use)
    )
    job.listener.end()
    thawed = tuple(each.rung.unit for each in climb.tried if each.rung.line)
    write_json(job.out / "metrics.json", {**metrics, "cost": job.sum_costs(thawed) | cost})


def _write_audit(job: Job, reading: Reading) -> None:
    """Write what was found of all items, the gravest first, with pictures of some; labels of a closed test part stay so."""
    everything, numbers, is_test = job.inspection.everything, job.inspection.numbers, job.splits.is_test
    held: set[int] = set()
    if job.options.hold_test:  # given labels of the test part that take no part are its labels as well
        held = {numbers[place] for place in np.flatnonzero(is_test)}
        held |= {number for number, item in enumerate(everything.items) if item.split == "test"}
    record = job.inspection.record
    ranked = sorted(record["findings"], key=lambda finding: SEVERITIES.index(finding["severity"]))
    findings = show_findings(job.out, ranked, everything, reading, held)
    openings = (job.journal.find("test") or {}).get("openings")
    write_json(job.out / "audit.json", {**record, "findings": findings, "test_openings": openings})
