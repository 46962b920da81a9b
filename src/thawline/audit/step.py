"""The audit as the first step of a run: near-duplicates before items are split, shortcuts among development items after.

Both return plain JSON data, which a run keeps in its journal; items are named by their numbers in all data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from thawline.audit.items import Inspection
from thawline.audit.leaks import find_copies, judge_near, keep_together
from thawline.audit.pictures import draw_pictures
from thawline.audit.shortcuts import find_shortcuts, judge_shortcuts
from thawline.files import json_digest
from thawline.types import Listener

if TYPE_CHECKING:
    from thawline.types import Groups, IntArray, Labels


def audit_copies(
    inspection: Inspection, known: Mapping[str, Any] | None, threads: int, listener: Listener
) -> dict[str, Any]:
    """Find near-duplicates: what they mean, as ``findings``, and the pairs of positions that stay ``together``.

    ``known`` is what an earlier sitting found, which is taken where the items are the same.
    """
    content = json_digest([facts.pixel_digest for facts in inspection.facts])
    if known is not None and known["content"] == content:
        return dict(known)
    pictures = draw_pictures(inspection.dataset.contents, inspection.digests, threads, listener)
    listener.begin("near-duplicates")
    copies = find_copies([facts.pixel_digest for facts in inspection.facts], pictures.grey)
    findings = [each.number(inspection.numbers).to_json() for each in judge_near(inspection.dataset, copies)]
    listener.end(f"{len(copies.near)} groups")
    return {"content": content, "findings": findings, "together": keep_together(inspection.dataset, copies)}


def audit_shortcuts(
    inspection: Inspection,
    shown: IntArray,
    labels: Labels,
    groups: Groups,
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
    pictures = draw_pictures(contents, digests, threads, listener)
    listener.begin("shortcuts")
    facts = [inspection.facts[place] for place in shown]
    found = find_shortcuts(contents, facts, pictures, labels[shown], groups[shown], seed, threads)
    numbers = [inspection.numbers[place] for place in shown]
    findings = [each.number(numbers).to_json() for each in judge_shortcuts(found)]
    listener.end(f"{len(findings)} of {len(found)} sources")
    return {"findings": findings, "shortcuts": [each.to_json() for each in found]}
