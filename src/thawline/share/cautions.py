"""What a reader must know before believing the numbers: from the audit, the overrides and the size of the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from thawline.options import FEW_PATIENTS
from thawline.share.words import count_things

Level: TypeAlias = Literal["warning", "caution", "note"]
Caution: TypeAlias = dict[str, str]

FEW_OF_A_CLASS = 10  # patients; below it the figures of a class hang on single patients
SHOWN_ITEMS = 20
OVERRIDES = {
    "--allow-leak": "Patients or identical images on both sides of the split were accepted. The figures of the test part "
    "are too good by an unknown amount.",
    "--skip-unreadable": "Items that cannot be read were left out instead of stopping the run.",
    "--allow-outside": "Files outside the data folder were read.",
}


def say(level: Level, text: str) -> Caution:
    """Return one caution as plain data."""
    return {"level": level, "text": text}


def list_cautions(
    audit: Mapping[str, Any], fingerprint: Mapping[str, Any], section: Mapping[str, Any]
) -> list[Caution]:
    """Return all cautions, the gravest first; ``section`` is the part of `metrics.json` that makes the headline."""
    found = [*describe_overrides(audit), *describe_omissions(audit), *describe_findings(audit)]
    found += describe_size(fingerprint, section)
    found += [say(remark["level"], str(remark["text"])) for remark in audit["warnings"]]
    found += describe_openings(audit.get("test_openings"))
    return sorted(found, key=lambda caution: ("warning", "caution", "note").index(caution["level"]))


def describe_overrides(audit: Mapping[str, Any]) -> list[Caution]:
    """Return what was accepted that a run would refuse."""
    return [say("warning", f"{flag}: {OVERRIDES.get(flag, 'a check was overridden.')}") for flag in audit["overrides"]]


def describe_omissions(audit: Mapping[str, Any]) -> list[Caution]:
    """Return how many items were left out, by class and by reason; the reasons of single files stay in the run folder."""
    found = []
    if audit["unreadable"]:
        classes = count_by(str(entry["label"]) for entry in audit["unreadable"])
        what = count_things(len(audit["unreadable"]), "item")
        found.append(
            say(
                "warning",
                f"{what} could not be read and were left out: {classes}. If reading fails more often in "
                "one class, the figures are biased.",
            )
        )
    if audit["left_out"]:
        what = count_things(len(audit["left_out"]), "item")
        found.append(
            say("caution", f"{what} left out: {count_by(str(entry['reason']) for entry in audit['left_out'])}.")
        )
    return found


def describe_findings(audit: Mapping[str, Any]) -> list[Caution]:
    """Return what the audit found, shortcuts in one sentence: a table has their figures."""
    found, shortcuts = [], []
    for finding in audit["findings"]:
        level: Level = "note" if finding["severity"] == "note" else "warning"
        name, _, source = finding["name"].partition("shortcut: ")
        if source:
            shortcuts += [source] if level == "warning" else []
            continue
        counted = f": {count_things(len(finding['groups']), 'group')} ({list_items(finding['groups'])})"
        found.append(say(level, f"{name.capitalize()}{counted if finding['counted'] else ''}: {finding['text']}."))
    if shortcuts:
        text = (
            f"Labels are predicted from what may not be the disease: {', '.join(shortcuts)}. See what the audit found."
        )
        found.append(say("warning", text))
    return found


def describe_openings(openings: Mapping[str, int] | None) -> list[Caution]:
    """Return how often the test part was looked at; more than once by several plans makes its figure optimistic."""
    if openings is None:
        return []
    times, plans = int(openings["count"]), int(openings["plans"])
    text = f"The test part was opened {count_things(times, 'time')} by {count_things(plans, 'plan')}."
    if plans > 1:
        return [say("warning", f"{text} Choosing a plan after seeing test results makes them too good.")]
    return [say("note", text)]


def describe_size(fingerprint: Mapping[str, Any], section: Mapping[str, Any]) -> list[Caution]:
    """Return the cautions that follow from the number of patients, in all and behind the headline."""
    found = []
    near = ", near-duplicates as one" if fingerprint["n_together"] else ""
    if not fingerprint["patients_given"]:
        found.append(
            say(
                "warning",
                f"No patients were given: every item counts as a patient of its own{near}. Images of one "
                "patient may stand on both sides of a split, and the intervals are too narrow.",
            )
        )
    elif fingerprint["n_blank_patients"]:
        what = count_things(int(fingerprint["n_blank_patients"]), "item")
        found.append(say("caution", f"{what} without a patient, each counted as a patient of its own."))
    if fingerprint["n_patients"] < FEW_PATIENTS:
        what = count_things(int(fingerprint["n_patients"]), "patient")
        inside = count_things(int(section["n_patients"]), "patient")
        found.append(
            say(
                "caution",
                f"Few patients: {what} in all, {inside} behind the headline. Read the interval, not the single figure.",
            )
        )
    few = {name: row["n_patients"] for name, row in section["per_class"].items() if row["n_patients"] < FEW_OF_A_CLASS}
    if few:
        listed = ", ".join(f"{name} ({count})" for name, count in few.items())
        what = "Labels" if "multilabel" in fingerprint else "Classes"
        found.append(say("caution", f"{what} with fewer than {FEW_OF_A_CLASS} patients behind the headline: {listed}."))
    return found


def count_by(names: Iterable[str]) -> str:
    """Return "COVID (7), NonCOVID (5)", the most frequent first."""
    return ", ".join(
        f"{name} ({count})" for name, count in sorted(Counter(names).items(), key=lambda pair: (-pair[1], pair[0]))
    )


def list_items(sets: Iterable[Sequence[int]]) -> str:
    """Return the items of all sets as "items 3, 4, 9", cut after `SHOWN_ITEMS`; the whole list is in audit.json."""
    shown = sorted({int(item) for items in sets for item in items})
    rest = f" and {len(shown) - SHOWN_ITEMS} more" if len(shown) > SHOWN_ITEMS else ""
    return f"items {', '.join(map(str, shown[:SHOWN_ITEMS]))}{rest}"
