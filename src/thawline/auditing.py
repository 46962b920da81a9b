"""The audit of a data set by itself: what `thawline audit` does."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thawline.audit.findings import SEVERITIES, SHORTCUT, Finding
from thawline.audit.leaks import find_copies, judge_identical, judge_near, keep_together
from thawline.audit.pictures import draw_pictures
from thawline.audit.privacy import find_identities, judge_privacy
from thawline.audit.shortcuts import Shortcut, find_shortcuts, judge_shortcuts
from thawline.cost import count_cores
from thawline.data.dataset import load_dataset, take_items
from thawline.data.scan import scan
from thawline.data.splits import make_groups
from thawline.share.words import count_things
from thawline.types import Listener, Reading, SilentListener

SHOWN_GROUPS, SHOWN_ITEMS = 5, 4
SEED = 0  # of the folds that shortcuts are measured on
LOOK = Reading(dimensions="auto")  # volumes are looked at whole, and shown by their middle slice


@dataclasses.dataclass(frozen=True)
class Audit:
    """What was found in a data set; ``paths`` are those of its items, by their numbers."""

    findings: tuple[Finding, ...]
    shortcuts: tuple[Shortcut, ...]
    paths: Sequence[str]

    @property
    def is_fatal(self) -> bool:
        """Tell whether anything was found that must not be."""
        return any(each.severity == "fatal" for each in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; items by their numbers only."""
        return {
            "schema": 1,
            "n_items": len(self.paths),
            "findings": [each.to_json() for each in self.findings],
            "shortcuts": [each.to_json() for each in self.shortcuts],
        }


def audit_data(
    data: Path,
    *,
    labels: Path | None = None,
    keys: str | None = None,
    allow_outside: bool = False,
    listener: Listener | None = None,
) -> Audit:
    """Audit a data set: what `load_dataset` reads. Raises DataError."""
    listener = listener or SilentListener()
    dataset = load_dataset(data, labels=labels, keys=keys, allow_outside=allow_outside)
    cores = count_cores()
    looks = scan(dataset.contents, cores, listener, LOOK)
    readable = [number for number, look in enumerate(looks) if look.facts is not None]
    seen = take_items(dataset, readable)
    pictures = draw_pictures(seen.contents, [looks[number].digest for number in readable], cores, listener)
    listener.begin("near-duplicates")
    copies = find_copies([look.facts.pixel_digest for look in looks if look.facts is not None], pictures.grey)
    listener.end(count_things(len(copies.near), "group"))
    listener.begin("shortcuts")
    facts = [look.facts for look in looks if look.facts is not None]
    groups = make_groups([item.patient for item in seen.items], [*copies.identical, *keep_together(seen, copies)])
    shortcuts = find_shortcuts(seen.contents, facts, pictures, seen.labels(), groups, SEED, cores)
    listener.end(count_things(len(shortcuts), "source"))
    judged = (
        *judge_identical(seen, copies),
        *judge_near(seen, copies),
        *judge_shortcuts(shortcuts),
        *judge_privacy(find_identities(seen.contents, cores), pictures),
    )
    findings = [each.number(readable) for each in judged]
    if len(readable) < len(looks):
        text = "cannot be read: repair or remove them, or leave them out with --skip-unreadable"
        lost = tuple((number,) for number, look in enumerate(looks) if look.facts is None)
        findings.append(Finding("unreadable items", "severe", text, lost))
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Audit(tuple(findings), tuple(shortcuts), [item.path for item in dataset.items])


def format_audit(audit: Audit) -> str:
    """Return the audit as text, with some files that show each finding."""
    if not audit.findings:
        return f"{len(audit.paths)} items: no copies, near-duplicates or leaks found"
    lines = []
    for each in audit.findings:
        count = "" if each.name.startswith(SHORTCUT) else f"{len(each.groups)} x "
        lines.append(f"{each.severity}: {count}{each.name}: {each.text}")
        for group in each.groups[:SHOWN_GROUPS]:
            more = f", … {len(group) - SHOWN_ITEMS} more" if len(group) > SHOWN_ITEMS else ""
            lines.append("  - " + ", ".join(audit.paths[number] for number in group[:SHOWN_ITEMS]) + more)
        if len(each.groups) > SHOWN_GROUPS:
            lines.append(f"  … {len(each.groups) - SHOWN_GROUPS} more (--json lists all)")
    return "\n".join(lines)
