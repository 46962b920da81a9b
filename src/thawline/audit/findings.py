"""What an audit finds, and how grave it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

Severity = Literal["fatal", "severe", "note"]
SHORTCUT = "shortcut: "  # how the names of those begin, of which a group shows a class
SEVERITIES: tuple[Severity, ...] = ("fatal", "severe", "note")


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing found: ``groups`` of item numbers show it, ``text`` says what it means and what to do.

    Groups are ``counted`` where each is a case of it, else they are kinds, such as classes or places, with examples.
    ``remarks`` say something of each group, or there are none.
    """

    name: str
    severity: Severity
    text: str
    groups: tuple[tuple[int, ...], ...]
    counted: bool = True
    remarks: tuple[str, ...] = ()

    def number(self, numbers: Sequence[int]) -> Finding:
        """Return the finding with the numbers of its items for their positions."""
        return dataclasses.replace(self, groups=tuple(tuple(numbers[item] for item in group) for group in self.groups))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data, as `audit.json` holds it."""
        return dataclasses.asdict(self)
