"""Columns of the table as parts of the items: sex, age in bands, site, scanner."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from thawline.errors import OptionError
from thawline.types import Item

TRAITS = ("sex", "gender", "age", "age_group", "age_band", "ethnicity", "race", "skin_type")  # of patients
CENTRES = ("site", "center", "centre", "hospital", "institution")
USUAL = (  # what is looked at unless columns are named
    *TRAITS,
    *CENTRES,
    *("scanner", "manufacturer", "device", "machine", "model"),
    *("view", "projection", "position", "source"),
)
AGE_YEARS = (18, 40, 65)  # where bands of age begin
N_BANDS = 3  # of other numbers, of equal size
MOST_PARTS, NUMBERS = 12, 6  # more values than these are no parts; more numbers than these are banded
UNKNOWN = "not known"


def list_strata(items: Sequence[Item], wanted: str) -> dict[str, list[str]]:
    """Return for each column that is ``wanted``, by name, the part that each item belongs to.

    ``wanted`` are columns with commas between, "none", or "auto" for those of `USUAL` that there are and that have several
    values. Numbers become bands: of age at `AGE_YEARS`, else of equal size. Raises OptionError for a column that there is
    not, or one that has more than `MOST_PARTS` values, as names and numbers of patients would.
    """
    if wanted == "none":
        return {}
    known = sorted({name for item in items for name in item.metadata})
    names = _read_names(wanted)
    usual = wanted == "auto"
    found = {}
    for name in [each for each in USUAL if each in known] if usual else names:
        if name not in known:
            raise OptionError(f"--subgroups: no column {name!r}; the table has {', '.join(known) or 'no others'}")
        parts = _make_parts(name, [item.metadata.get(name, "") for item in items])
        n_parts = len(set(parts))
        if n_parts > MOST_PARTS and not usual:
            raise OptionError(
                f"--subgroups: column {name!r} has {n_parts} values, expected {MOST_PARTS} at most; parts of so few "
                "items say nothing, and such a column may name patients. Group its values first"
            )
        if 1 < n_parts <= MOST_PARTS:
            found[name] = parts
    return found


def check_strata(items: Sequence[Item], wanted: str) -> None:
    """Refuse, before an image is read, what `list_strata` refuses, and columns that are named and have a single value.

    Raises OptionError.
    """
    found = list_strata(items, wanted)
    alike = [name for name in _read_names(wanted) if name not in found] if wanted not in ("auto", "none") else []
    if alike:
        value = _make_parts(alike[0], [items[0].metadata.get(alike[0], "")])[0]
        raise OptionError(
            f"--subgroups: column {alike[0]!r} says {value!r} of every item, which leaves nothing to compare; leave it out"
        )


def _read_names(wanted: str) -> list[str]:
    return [name.strip().lower() for name in wanted.split(",") if name.strip()]


def _make_parts(name: str, cells: Sequence[str]) -> list[str]:
    numbers = [_read_number(cell) for cell in cells]
    told = [number for number, cell in zip(numbers, cells, strict=True) if cell]
    is_numeric = bool(told) and not any(math.isnan(number) for number in told)
    if not is_numeric or len(set(told)) <= NUMBERS:
        return [cell or UNKNOWN for cell in cells]
    starts = list(AGE_YEARS) if name == "age" else _find_starts(told)
    names = _name_bands(starts)
    return [
        UNKNOWN if not cell else names[_count_below(starts, number)]
        for cell, number in zip(cells, numbers, strict=True)
    ]


def _read_number(cell: str) -> float:
    """Return a number, of DICOM's ages such as 045Y too; nan for anything else."""
    text = cell[:-1] if cell[-1:] in "Yy" and cell[:-1].isdigit() else cell
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def _find_starts(numbers: Sequence[float]) -> list[float]:
    """Return where bands of equal size begin, without those that nothing lies below."""
    ranked = sorted(numbers)
    starts = {ranked[len(ranked) * place // N_BANDS] for place in range(1, N_BANDS)}
    return sorted(start for start in starts if start > ranked[0])


def _count_below(starts: Sequence[float], number: float) -> int:
    return sum(start <= number for start in starts)


def _name_bands(starts: Sequence[float]) -> list[str]:
    first, last = f"under {starts[0]:g}", f"{starts[-1]:g} and over"
    return [first, *(f"{low:g} to under {high:g}" for low, high in itertools.pairwise(starts)), last]


def take_parts(strata: Mapping[str, Sequence[str]], chosen: Sequence[int]) -> dict[str, list[str]]:
    """Return the parts of some items."""
    return {name: [parts[place] for place in chosen] for name, parts in strata.items()}
