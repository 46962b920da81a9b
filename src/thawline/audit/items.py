"""Which items may take part: readable, not contradicting each other, and not on both sides of a given split.

Everything that goes into the audit's record is item numbers; messages on the terminal name files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from thawline.audit.leaks import judge_identical
from thawline.audit.tables import make_tables, say_support
from thawline.data.dataset import Dataset, check_dataset, take_items
from thawline.data.readers import ImageFacts
from thawline.data.scan import Look
from thawline.data.splits import Leak, find_identical, find_leaks
from thawline.errors import DataError, LeakError, UnreadableItemsError, bullets
from thawline.options import RunOptions
from thawline.types import Listener


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What takes part: ``dataset``, ``facts`` and ``digests`` aligned; ``numbers`` are the item numbers in ``everything``.

    ``identical`` holds positions in ``dataset``; ``record`` is the content of `audit.json`.
    """

    everything: Dataset
    dataset: Dataset
    facts: tuple[ImageFacts, ...]
    digests: tuple[str, ...]
    numbers: tuple[int, ...]
    identical: tuple[tuple[int, ...], ...]
    record: dict[str, Any]


def inspect_items(dataset: Dataset, looks: Sequence[Look], options: RunOptions, listener: Listener) -> Inspection:
    """Decide which items take part. Raises UnreadableItemsError, LeakError, or DataError where too few remain."""
    unreadable = [number for number, look in enumerate(looks) if look.facts is None]
    if unreadable and not options.skip_unreadable:
        raise UnreadableItemsError([(dataset.items[n].path, looks[n].problem) for n in unreadable], len(looks))
    readable = [number for number in range(len(looks)) if looks[number].facts is not None]
    seen = take_items(dataset, readable)
    identical = find_identical([_facts(looks[n]).pixel_digest for n in readable])
    leaks = [leak.number(readable) for leak in find_leaks(seen.items, identical)] if dataset.split_given else []
    if leaks and not options.allow_leak:
        raise LeakError(_describe_leaks(dataset, leaks))
    copies = _number(identical, readable)
    contradicting = [group for group in copies if dataset.contradict(group)]
    out = {number for group in contradicting for number in group}
    kept = [number for number in readable if number not in out]
    for message in _warn(dataset, looks, unreadable, copies, contradicting):
        listener.warn(message)
    taking_part = _keep(dataset, kept)
    position = {number: index for index, number in enumerate(kept)}
    return Inspection(
        everything=dataset,
        dataset=taking_part,
        facts=tuple(_facts(looks[number]) for number in kept),
        digests=tuple(looks[number].digest for number in kept),
        numbers=tuple(kept),
        identical=tuple(tuple(position[n] for n in group) for group in copies if group[0] in position),
        record={
            **_record(dataset, looks, unreadable, copies, contradicting, leaks),
            "findings": [each.number(readable).to_json() for each in judge_identical(seen, identical)],
            "tables": [each.to_json() for each in make_tables(taking_part)],
            "support": say_support(taking_part),
        },
    )


def _facts(look: Look) -> ImageFacts:
    if look.facts is None:
        raise ValueError("an unreadable item has no facts")
    return look.facts


def _number(groups: Sequence[tuple[int, ...]], numbers: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(numbers[position] for position in group) for group in groups]


def _keep(dataset: Dataset, kept: Sequence[int]) -> Dataset:
    """Return the data set without the items left out, checked again. Raises DataError."""
    remaining = take_items(dataset, kept)
    gone = [name for name, count in remaining.count_items().items() if not count]
    if gone:
        raise DataError(f"no usable item is left of {', '.join(gone)}: all were unreadable or contradicted each other")
    if len(kept) < len(dataset.items):
        check_dataset(remaining)
    return remaining


def _describe_leaks(dataset: Dataset, leaks: Sequence[Leak]) -> str:
    lines = []
    for leak in leaks:
        what = f"patient {dataset.items[leak.items[0]].patient}" if leak.kind == "patient" else "identical images"
        shown = ", ".join(f"{dataset.items[n].path} ({dataset.items[n].split})" for n in leak.items[:6])
        lines.append(f"{what}: {shown}" + (f", … {len(leak.items) - 6} more" if len(leak.items) > 6 else ""))
    patients = sum(leak.kind == "patient" for leak in leaks)
    reaches_test = any(dataset.items[number].split == "test" for leak in leaks for number in leak.items)
    hint = "" if reaches_test else " None reaches test, and train and val are folded anew by patient: it is safe here."
    return (
        f"the given split leaks: {patients} patients and {len(leaks) - patients} sets of identical images stand in more "
        f"than one part, expected none; figures would be too good:\n{bullets(lines)}\n"
        "Correct the split column, or drop it to have a new split made by patient. --allow-leak goes on all the same, and "
        f"the report says so.{hint}"
    )


def _warn(
    dataset: Dataset,
    looks: Sequence[Look],
    unreadable: Sequence[int],
    copies: Sequence[tuple[int, ...]],
    contradicting: Sequence[tuple[int, ...]],
) -> list[str]:
    messages = list(dataset.notes)
    if unreadable:
        lines = [f"{dataset.items[number].path}: {looks[number].problem}" for number in unreadable]
        messages.append(f"left out {len(unreadable)} unreadable items:\n{bullets(lines)}")
    if contradicting:
        lines = [
            " = ".join(f"{dataset.items[n].path} ({dataset.items[n].label})" for n in group) for group in contradicting
        ]
        messages.append(
            f"left out {len(contradicting)} sets of identical images with different labels:\n{bullets(lines)}"
        )
    if len(copies) > len(contradicting):
        messages.append(
            f"{len(copies) - len(contradicting)} sets of identical images; each stays together in every split"
        )
    return messages


def _record(
    dataset: Dataset,
    looks: Sequence[Look],
    unreadable: Sequence[int],
    copies: Sequence[tuple[int, ...]],
    contradicting: Sequence[tuple[int, ...]],
    leaks: Sequence[Leak],
) -> dict[str, Any]:
    def entry(number: int, reason: str) -> dict[str, Any]:
        return {"item": number, "label": dataset.items[number].label, "reason": reason}

    out = [entry(number, looks[number].problem) for number in unreadable]
    twice = [entry(n, "identical to an image with another label") for group in contradicting for n in group]
    return {
        "schema": 1,
        "n_items": len(dataset.items),
        "unreadable": out,
        "identical": [list(group) for group in copies],
        "contradicting": [list(group) for group in contradicting],
        "across_split": [
            {
                "kind": leak.kind,
                "items": list(leak.items),
                "parts": sorted({str(dataset.items[number].split) for number in leak.items}),
            }
            for leak in leaks
        ],
        "left_out": out + twice,
        "overrides": (["--allow-leak"] if leaks else []) + (["--skip-unreadable"] if unreadable else []),
        "shortcuts": [],
        "warnings": [],
        "test_openings": None,
    }
