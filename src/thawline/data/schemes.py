"""Splits by a column of the table: sites left out one at a time, one site or the latest patients as the test part.

Both ask more of a model than folds of the same patients' kind: whether it works elsewhere, and later.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from thawline.data.splits import Splits, check_parts, fold_others, make_folds, mark_values
from thawline.errors import DataError, OptionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from thawline.types import BoolArray, Groups, IntArray, Item, Labels

SITE, TIME = "site", "time"
LATEST_SHARE = 0.2  # of the patients, that a test part of the latest has
MOST_SITES = 20


def read_scheme(flag: str, text: str, kinds: Sequence[str]) -> tuple[str, str, str]:
    """Read ``site:COLUMN``, ``site:COLUMN=VALUE`` or ``time:COLUMN`` into kind, column and value. Raises OptionError."""
    kind, _, rest = text.partition(":")
    column, _, value = rest.partition("=")
    if kind not in kinds or not column.strip():
        shown = " or ".join(
            f"{each}:COLUMN" + ("=VALUE" if flag == "--test" and each == SITE else "") for each in kinds
        )
        raise OptionError(f"{flag}: expected {shown}, found {text!r}")
    return kind, column.strip().lower(), value.strip()


def take_scheme(text: str | None) -> tuple[str, str, str]:
    """Return kind, column and value of a split by a column, empty of any other; ``text`` has passed `read_scheme`."""
    return read_scheme("", text, (SITE, TIME)) if text and ":" in text else ("", "", "")


def check_schemes(items: Sequence[Item], test: str | None, validation: str, *, split_given: bool) -> None:
    """Check, before an image is read, that items have what their splits are to be chosen by.

    Raises OptionError for a column, value or given part that there is not, DataError for cells that are blank or no dates.
    """
    if test is not None and (split_given or validation == "given"):
        raise OptionError(
            "--test: chooses a test part, and these data come with one; leave it out, or the split column"
        )
    if validation == "given" and not split_given:
        raise OptionError("--validation given: expected a split column with train, val and test; these data have none")
    kind, column, value = take_scheme(test)
    if kind:
        _choose_test(items, np.arange(len(items)), kind, column, value)
    kind, column, _ = take_scheme(validation)
    if kind:
        _read_column("--validation", items, column)


def split_by_columns(
    items: Sequence[Item],
    labels: Labels,
    groups: Groups,
    seed: int,
    wanted: int,
    *,
    test: str | None,
    sites: str | None,
    split_given: bool = False,
) -> Splits:
    """Return a test part by ``test``, a site or the latest patients, and folds by ``sites``, or stratified where None.

    ``test`` and ``sites`` are as `read_scheme` reads them; without ``test`` the part of a given split, or a stratified fifth
    of the patients, is the test part. No group of ``groups`` is ever divided. Raises DataError where a part lacks a class,
    OptionError for a column or value that there is not.
    """
    said = []
    if split_given:
        is_test = np.array([item.split == "test" for item in items])
        check_parts(labels, is_test)
        said.append("test part as given")
    elif test is None:
        parts, n_parts = make_folds(labels, groups, seed, round(1 / LATEST_SHARE))
        is_test = parts == 0
        said.append(f"one of {n_parts} stratified parts of the patients is the test part")
    else:
        is_test, reason = _choose_test(items, groups, *read_scheme("--test", test, (SITE, TIME)))
        check_parts(labels, is_test)
        said.append(reason)
    folds = np.full(len(items), -1, np.int64)
    rest = ~is_test
    if sites is None:
        folds[rest], n_folds = make_folds(labels[rest], groups[rest], seed, wanted)
        said.append(f"{n_folds} folds by patient, stratified")
    else:
        _, column, _ = read_scheme("--validation", sites, (SITE,))
        names = _read_column("--validation", items, column)
        folds, n_folds = _fold_by_site(np.array(names), labels, groups, rest)
        said.append(f"{n_folds} folds, each a value of {column} that the others do not have")
    return Splits(is_test, folds, n_folds, "; ".join(said))


def fold_other_sites(
    items: Sequence[Item], labels: Labels, groups: Groups, aside: BoolArray, seed: int, wanted: int, *, sites: str
) -> Splits:
    """Fold all items but those put aside by site, or stratified where too few sites are left. Raises DataError."""
    _, column, _ = read_scheme("--validation", sites, (SITE,))
    names = _read_column("--validation", items, column)
    try:
        folds, n_folds = _fold_by_site(np.array(names), labels, groups, ~aside)
    except DataError:
        return fold_others(labels, groups, aside, seed, wanted)
    return Splits(aside, folds, n_folds, f"a site is put aside; {n_folds} folds, each a value of {column}")


def _choose_test(items: Sequence[Item], groups: Groups, kind: str, column: str, value: str) -> tuple[BoolArray, str]:
    cells = _read_column("--test", items, column)
    if kind == TIME:
        return _choose_latest(np.array([_read_date(cell, column) for cell in cells]), groups), (
            f"the latest {LATEST_SHARE:.0%} of the patients by {column} are the test part"
        )
    if value not in cells or not value:
        found = ", ".join(sorted(set(cells))[:MOST_SITES])
        raise OptionError(f"--test: no item has {value!r} in column {column!r}; expected one of {found}")
    chosen = np.unique(groups[np.array(cells) == value])
    return np.isin(groups, chosen), f"patients with {column} {value} are the test part"


def _choose_latest(dates: IntArray, groups: Groups) -> BoolArray:
    """Return the items of the latest groups, each dated by its last item."""
    names, places = np.unique(groups, return_inverse=True)
    last = np.full(len(names), dates.min())
    np.maximum.at(last, places, dates)
    order = np.argsort(last, kind="stable")
    n_test = max(1, round(LATEST_SHARE * len(names)))
    return np.isin(places, order[-n_test:])


def _fold_by_site(sites: NDArray[np.str_], labels: Labels, groups: Groups, rest: BoolArray) -> tuple[IntArray, int]:
    """Return the fold of each item: the site of its group, or where that has several, the one of most of its items."""
    names = sorted({str(site) for site in sites[rest]})
    if not 2 <= len(names) <= MOST_SITES:
        raise DataError(
            f"--validation: expected 2 to {MOST_SITES} sites among the development items, found {len(names)}: "
            f"{', '.join(names[:5])}; name another column"
        )
    owner = {group: Counter(sites[groups == group].tolist()).most_common(1)[0][0] for group in np.unique(groups[rest])}
    folds = np.full(len(sites), -1, np.int64)
    for place in np.flatnonzero(rest):
        folds[place] = names.index(str(owner[groups[place]]))
    marks = mark_values(labels)
    for number, name in enumerate(names):
        lacking = np.flatnonzero(~marks[rest & (folds != number)].any(axis=0)).tolist()
        if lacking and labels.ndim == 1:
            raise DataError(
                f"--validation: without the site {name} nothing is left of {len(lacking)} class(es) (numbers {lacking}, "
                "sorted by name); every class is needed at two sites at least"
            )
        if lacking:
            short = sorted({place % labels.shape[1] for place in lacking})
            raise DataError(
                f"--validation: without the site {name} {len(short)} label(s) have one value only (numbers {short}, sorted "
                "by name); items with each and items known to be without are needed at two sites at least"
            )
    return folds, len(names)


def _read_column(flag: str, items: Sequence[Item], column: str) -> list[str]:
    """Return the cells of a column. Raises OptionError where there is none, DataError where some are blank."""
    known = sorted({name for item in items for name in item.metadata})
    if column not in known:
        raise OptionError(f"{flag}: no column {column!r}; the table has {', '.join(known) or 'no others'}")
    cells = [item.metadata.get(column, "") for item in items]
    blank = [place for place, cell in enumerate(cells) if not cell]
    if blank:
        raise DataError(
            f"{flag}: {len(blank)} items have nothing in column {column!r}, the first is item {blank[0]}; fill it"
        )
    return cells


def _read_date(cell: str, column: str) -> int:
    """Return a date as a number that rises with time: of 2024-03-01, 20240301, 2024-03 or 2024. Raises DataError."""
    match = re.fullmatch(r"(\d{4})(?:-?(\d{2}))?(?:-?(\d{2}))?(?:[T ].*)?", cell)
    try:
        year, month, day = (int(part or 1) for part in match.groups()) if match else (0, 0, 0)
        return dt.date(year, month, day).toordinal()
    except ValueError as error:
        raise DataError(
            f"--test: column {column!r} holds {cell!r}, which is no date; expected such as 2024-03-01, 20240301 or 2024"
        ) from error
