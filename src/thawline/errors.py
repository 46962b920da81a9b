"""Every error that Thawline raises on purpose, in one tree.

::

    ThawlineError                 exit code 1: our own fault, unless a subclass says otherwise
    ├── InputError                exit code 2: what was given cannot be used
    │   ├── OptionError           an option, or a plan file, has a value that cannot be used
    │   ├── DataError             the data set cannot be used: missing, empty, contradictory, too small
    │   │   └── UnreadableItemsError   some items cannot be read; lists all of them
    │   ├── ImageError            one image cannot be read (collected into UnreadableItemsError)
    │   ├── WeightsError          weights are missing, changed or lack their description
    │   ├── ModelError            a run or model folder is missing, damaged or from another version
    │   ├── TrainingError         a network cannot be trained with what was given: its loss is not finite
    │   └── OutputError           the output folder cannot be written or holds something else
    └── LeakError                 exit code 3: refused for safety, a patient or an image crosses the split

A message says what was expected, what was found and where, and what to do next. Item lists are cut for the message and
whole in the attribute.
"""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 20  # lines of a list that fit on a screen; the rest is counted


class ThawlineError(Exception):
    """Base of all errors raised on purpose; ``exit_code`` is what the command line returns."""

    exit_code = 1


class InputError(ThawlineError):
    """What was given cannot be used as it is."""

    exit_code = 2


class OptionError(InputError):
    """An option, or a value in a plan file, is not one that can be used."""


class DataError(InputError):
    """The data set as a whole cannot be used."""


class ImageError(InputError):
    """One image cannot be read, or holds nothing to read."""


class UnreadableItemsError(DataError):
    """Some items cannot be read; ``problems`` holds every (path, reason)."""

    def __init__(self, problems: Sequence[tuple[str, str]], n_items: int) -> None:
        self.problems = tuple(problems)
        lines = [f"{path}: {reason}" for path, reason in self.problems]
        super().__init__(
            f"{len(self.problems)} of {n_items} items cannot be read:\n{bullets(lines)}\n"
            "Repair or remove them, or leave them out with --skip-unreadable (the report then says which and how many)."
        )


class WeightsError(InputError):
    """Weights are missing, changed, or come without the description that makes them safe to load."""


class ModelError(InputError):
    """A run folder or model folder is missing, damaged, or of another version."""


class TrainingError(InputError):
    """Training came to a loss that is not finite."""


class OutputError(InputError):
    """The output folder cannot be written, is full, or holds something else."""


class LeakError(ThawlineError):
    """A patient or an identical image stands on both sides of a split."""

    exit_code = 3


def bullets(lines: Sequence[str], shown: int = SHOWN) -> str:
    """Format lines as an indented list, cut after ``shown`` with a count of the rest."""
    rest = len(lines) - shown
    return "\n".join([*(f"  - {line}" for line in lines[:shown]), *([f"  … and {rest} more"] if rest > 0 else [])])
