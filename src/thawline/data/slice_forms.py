"""The ways to say which slices make a bag: all, or every:K, centre:N, spread:N (evenly), informative:N (by entropy)."""

from __future__ import annotations

import math
import re

FORMS = ("all", "every", "centre", "spread", INFORMATIVE := "informative")  # all but the first with a number
USUAL_SLICES = "spread:16"
USUAL_TILES = "spread:256"  # of a whole slide


def read_form(slices: str) -> tuple[str, int]:
    """Part which slices make a bag into the form and its number, 0 for all. Raises ValueError for anything else."""
    if slices == FORMS[0]:
        return slices, 0
    found = re.fullmatch(rf"({'|'.join(FORMS[1:])}):([1-9]\d{{0,3}})", slices)
    if found is None:
        raise ValueError(f"expected all, or {', '.join(f'{form}:NUMBER' for form in FORMS[1:])}; found {slices!r}")
    return found[1], int(found[2])


def count_shown(slices: str, most: int) -> int:
    """Return how many slices a bag holds where the deepest item has ``most``."""
    form, number = read_form(slices)
    return most if form == "all" else math.ceil(most / number) if form == "every" else min(number, most)
