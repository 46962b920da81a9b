"""The audit of a data set by itself: what `thawline audit` does."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thawline.audit.findings import SEVERITIES, Finding
from thawline.audit.leaks import find_copies, judge_identical, judge_near, keep_together
from thawline.audit.names import suggest_patients
from thawline.audit.oddities import judge_mislabelled, judge_outliers
from thawline.audit.pictures import MIDDLE_SLICE, draw_pictures
from thawline.audit.privacy import find_private
from thawline.audit.quality import judge_quality
from thawline.audit.series import judge_series
from thawline.audit.shortcuts import Shortcut, find_shortcuts, judge_shortcuts
from thawline.audit.tables import Table, make_tables, say_support
from thawline.audit.traits import list_origins
from thawline.cost import count_cores
from thawline.data.dataset import Dataset, load_dataset, take_items
from thawline.data.fingerprint import find_wide_range
from thawline.data.readers import ImageFacts
from thawline.data.scan import Look, scan
from thawline.data.slides import FORMAT
from thawline.data.splits import FOLDS, make_folds, make_groups
from thawline.errors import DataError
from thawline.files import require_empty, write_atomic, write_json
from thawline.learn.engine import detect_hardware
from thawline.learn.features import extract
from thawline.learn.heads import cross_fit
from thawline.learn.weights import find_weights
from thawline.options import RunOptions
from thawline.share.examples import show_findings
from thawline.share.report import render_audit
from thawline.share.words import count_things
from thawline.types import Listener, Reading, SilentListener

if TYPE_CHECKING:
    from thawline.types import Groups

SHOWN_GROUPS, SHOWN_ITEMS = 5, 4
UNREADABLE = "unreadable items"  # of which there is nothing to show
SEED = 0  # of the folds that shortcuts are measured on
LOOK = Reading(dimensions="auto")  # volumes are looked at whole, and shown by their middle slice


@dataclasses.dataclass(frozen=True)
class Audit:
    """What was found in a data set, what it holds, and what it supports."""

    findings: tuple[Finding, ...]
    shortcuts: tuple[Shortcut, ...]
    tables: tuple[Table, ...]
    support: str
    dataset: Dataset

    @property
    def paths(self) -> list[str]:
        """Paths of the items, by their numbers."""
        return [item.path for item in self.dataset.items]

    @property
    def is_fatal(self) -> bool:
        """Tell whether anything was found that must not be."""
        return any(each.severity == "fatal" for each in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; items by their numbers only."""
        return {
            "schema": 1,
            "n_items": len(self.dataset.items),
            "findings": [each.to_json() for each in self.findings],
            "shortcuts": [each.to_json() for each in self.shortcuts],
            "tables": [each.to_json() for each in self.tables],
            "support": self.support,
        }


def audit_data(
    data: Path,
    *,
    labels: Path | None = None,
    keys: str | None = None,
    allow_outside: bool = False,
    multilabel: bool = False,
    listener: Listener | None = None,
) -> Audit:
    """Audit a data set: what `load_dataset` reads. Raises DataError."""
    listener = listener or SilentListener()
    dataset = load_dataset(data, labels=labels, keys=keys, allow_outside=allow_outside, multilabel=multilabel)
    for note in dataset.notes:
        listener.warn(note)
    cores = count_cores()
    looks = scan(dataset.contents, cores, listener, LOOK)
    readable = [number for number, look in enumerate(looks) if look.facts is not None]
    seen, origins = take_items(dataset, readable), list_origins(dataset.contents, cores)
    findings: list[Finding] = []
    shortcuts: list[Shortcut] = []
    if len({item.label for item in seen.items}) > 1:
        modalities = [origins[number]["modality"] for number in readable]
        judged, shortcuts = _judge(seen, [looks[number] for number in readable], modalities, cores, listener)
        findings = [each.number(readable) for each in judged]
    if len(readable) < len(looks):
        text = "cannot be read: repair or remove them, or leave them out with --skip-unreadable"
        lost = tuple((number,) for number, look in enumerate(looks) if look.facts is None)
        findings.append(Finding(UNREADABLE, "severe", text, lost))
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    tables, support = tuple(make_tables(dataset, origins)), say_support(dataset)
    return Audit(tuple(findings), tuple(shortcuts), tables, support, dataset)


def _judge(
    dataset: Dataset, looks: Sequence[Look], modalities: Sequence[str], cores: int, listener: Listener
) -> tuple[list[Finding], list[Shortcut]]:
    """Return what is found among readable items of several classes."""
    digests, facts = [look.digest for look in looks], [look.facts for look in looks if look.facts is not None]
    pictures = draw_pictures(dataset.contents, digests, cores, listener)
    listener.begin("near-duplicates")
    copies = find_copies([each.pixel_digest for each in facts], pictures.grey)
    listener.end(count_things(len(copies.near), "group"))
    listener.begin("shortcuts")
    groups = make_groups([item.patient for item in dataset.items], [*copies.identical, *keep_together(dataset, copies)])
    about = dataset.labels(), groups, SEED, cores, dataset.classes
    shortcuts = find_shortcuts(dataset.contents, facts, pictures, *about)
    listener.end(count_things(len(shortcuts), "source"))
    found = [
        *judge_identical(dataset, copies.identical),
        *judge_near(dataset, copies),
        *suggest_patients(dataset, copies),
        *judge_shortcuts(shortcuts),
        *_judge_by_network(dataset, digests, facts, groups, listener),
        *judge_quality(facts, pictures.grey, modalities),
        *judge_series(dataset.contents),
        *find_private(dataset.contents, pictures, cores),
    ]
    return found, shortcuts


def _judge_by_network(
    dataset: Dataset, digests: Sequence[str], facts: Sequence[ImageFacts], groups: Groups, listener: Listener
) -> list[Finding]:
    """Return outliers and likely mislabelled items, by features of the default network: of volumes the middle slice, of
    slides the overview."""
    hardware, weights = detect_hardware("cpu"), find_weights(RunOptions().backbone)
    wide = find_wide_range(facts)
    contract = weights.architecture.contract(
        wide_range=(wide[0], wide[1]) if wide else None,
        reading=MIDDLE_SLICE if any(each.slices > 1 or each.format == FORMAT for each in facts) else Reading(),
    )
    features = extract(dataset.contents, digests, weights, contract, hardware, listener).features
    found, labels = list(judge_outliers(features)), dataset.labels()
    settings: dict[str, Any] = {"seed": SEED, "n_jobs": hardware.cores, "listener": listener}
    try:
        folds, _ = make_folds(labels, groups, SEED, FOLDS)
        out_of_fold = cross_fit("linear", features, labels, groups, folds, len(dataset.classes), **settings)
    except DataError:  # too few patients of a class
        return found
    return [*found, *judge_mislabelled(labels, out_of_fold.probabilities)]


def write_audit(audit: Audit, out: Path) -> Path:
    """Write an audit into a new or empty folder, as a page with examples and as JSON data, and return the page.

    Both name items by their numbers. Raises OutputError where the folder holds something.
    """
    require_empty(out, "the audit")
    found = audit.to_json()
    shown = [each for each in found["findings"] if each["name"] != UNREADABLE]
    lost = [{**each, "shown": []} for each in found["findings"] if each["name"] == UNREADABLE]
    found["findings"] = [*show_findings(out, shown, audit.dataset, MIDDLE_SLICE), *lost]
    write_json(out / "audit.json", found)
    return write_atomic(out / "audit.html", render_audit(out, found, audit.dataset.classes))


def format_audit(audit: Audit) -> str:
    """Return the audit as text, with some files that show each finding."""
    paths = audit.paths
    lines = [*map(str, audit.tables), audit.support]
    if not audit.findings:
        lines.append("nothing found")
    for each in audit.findings:
        count = f"{len(each.groups)} x " if each.counted else ""
        lines.append(f"{each.severity}: {count}{each.name}: {each.text}")
        remarks = each.remarks or ("",) * len(each.groups)
        for group, remark in list(zip(each.groups, remarks, strict=True))[:SHOWN_GROUPS]:
            more = f", … {len(group) - SHOWN_ITEMS} more" if len(group) > SHOWN_ITEMS else ""
            said = f": {remark}" if remark else ""
            lines.append("  - " + ", ".join(paths[number] for number in group[:SHOWN_ITEMS]) + more + said)
        if len(each.groups) > SHOWN_GROUPS:
            lines.append(f"  … {len(each.groups) - SHOWN_GROUPS} more (--json lists all)")
    return "\n".join(lines)
