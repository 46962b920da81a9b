"""The audit as the first step of a run: what needs no label before items are split, the rest among development items after.

All return plain JSON data, which a run keeps in its journal; items are named by their numbers in all data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from thawline.audit.items import Inspection
from thawline.audit.leaks import find_copies, judge_near, keep_together
from thawline.audit.names import suggest_patients
from thawline.audit.oddities import judge_mislabelled, judge_outliers
from thawline.audit.pictures import draw_pictures
from thawline.audit.privacy import find_private
from thawline.audit.quality import judge_quality
from thawline.audit.series import judge_series
from thawline.audit.shortcuts import find_shortcuts, judge_shortcuts
from thawline.audit.tables import make_tables
from thawline.audit.traits import list_origins
from thawline.files import json_digest
from thawline.types import Listener, Reading

if TYPE_CHECKING:
    from thawline.types import Features, Groups, IntArray, Labels, Probabilities

VERSION = (
    1  # of what is found: raise it when the same items would give another, so that no sitting takes an earlier one's
)


def audit_copies(
    inspection: Inspection, reading: Reading, known: Mapping[str, Any] | None, threads: int, listener: Listener
) -> dict[str, Any]:
    """Find near-duplicates, odd images and series, identities and sites.

    These are ``findings``, ``tables``, and the pairs of positions that stay ``together``. ``known`` is what an earlier
    sitting found, which is taken where the items are the same.
    """
    dataset = inspection.dataset
    content = json_digest([VERSION, [facts.pixel_digest for facts in inspection.facts]])
    if known is not None and known["content"] == content:
        return dict(known)
    pictures = draw_pictures(dataset.contents, inspection.digests, threads, listener, reading)
    listener.begin("near-duplicates")
    copies = find_copies([facts.pixel_digest for facts in inspection.facts], pictures.grey)
    listener.end(f"{len(copies.near)} groups")
    origins = list_origins(dataset.contents, threads)
    found = (
        *judge_near(dataset, copies),
        *suggest_patients(dataset, copies),
        *judge_quality(inspection.facts, pictures.grey, [each["modality"] for each in origins]),
        *judge_series(dataset.contents),
        *find_private(dataset.contents, pictures, threads),
    )
    return {
        "content": content,
        "findings": [each.number(inspection.numbers).to_json() for each in found],
        "tables": [each.to_json() for each in make_tables(dataset, origins)],
        "together": keep_together(dataset, copies),
    }


def audit_shortcuts(
    inspection: Inspection,
    shown: IntArray,
    labels: Labels,
    groups: Groups,
    reading: Reading,
    seed: int,
    threads: int,
    listener: Listener,
) -> dict[str, Any]:
    """Find what predicts the labels of the items at the positions ``shown`` that must not, as ``findings``.

    ``shortcuts`` is how well each source does. ``labels`` and ``groups`` are those of all items.
    """
    contents, digests = (
        [whole[place] for place in shown] for whole in (inspection.dataset.contents, inspection.digests)
    )
    pictures = draw_pictures(contents, digests, threads, listener, reading)
    listener.begin("shortcuts")
    facts = [inspection.facts[place] for place in shown]
    names = inspection.dataset.classes
    found = find_shortcuts(contents, facts, pictures, labels[shown], groups[shown], seed, threads, names)
    numbers = [inspection.numbers[place] for place in shown]
    findings = [each.number(numbers).to_json() for each in judge_shortcuts(found)]
    listener.end(f"{len(findings)} of {len(found)} sources")
    return {"findings": findings, "shortcuts": [each.to_json() for each in found]}


def audit_outliers(inspection: Inspection, shown: IntArray, features: Features) -> list[dict[str, Any]]:
    """Return the outliers among the items at the positions ``shown``, whose features are given, as findings."""
    numbers = [inspection.numbers[place] for place in shown]
    return [each.number(numbers).to_json() for each in judge_outliers(features)]


def audit_labels(
    inspection: Inspection, shown: IntArray, labels: Labels, probabilities: Probabilities
) -> list[dict[str, Any]]:
    """Return the likely mislabelled among the items at the positions ``shown``, which have these labels, as findings."""
    numbers = [inspection.numbers[place] for place in shown]
    return [each.number(numbers).to_json() for each in judge_mislabelled(labels, probabilities)]
