"""Numbers and values as the report writes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from thawline.options import HEADS

ABSENT = "–"
NARROW = "\u202f"  # narrow no-break space, before a unit


def format_number(value: float | None, digits: int = 3) -> str:
    """Return a number with ``digits`` decimals, an en dash where there is none."""
    return ABSENT if value is None else f"{value:.{digits}f}".replace("-", "−")


def format_signed(value: float | None, digits: int = 3) -> str:
    """Return a difference with its sign, "+0.012" or "−0.004"; an en dash where there is none."""
    return ABSENT if value is None else f"{value:+.{digits}f}".replace("-", "−")


def format_estimate(estimate: Mapping[str, float | None]) -> str:
    """Return "0.873 [0.812, 0.921]"; the interval is left out, and that is said, where it is not defined."""
    if estimate["value"] is None:
        return ABSENT
    return f"{format_number(estimate['value'])} {format_interval(estimate)}"


def format_interval(estimate: Mapping[str, float | None], *, signed: bool = False) -> str:
    """Return "[0.812, 0.921]", with signs "[+0.012, +0.121]", or that there is none; without an upper end "[4.451, ∞)"."""
    if estimate["low"] is not None and estimate["high"] is None:
        return f"[{format_number(estimate['low'])}, ∞)"
    low, high = (format_signed(estimate[key]) if signed else format_number(estimate[key]) for key in ("low", "high"))
    return "(no interval)" if ABSENT in (low, high) else f"[{low}, {high}]"


def write_estimate(estimate: Mapping[str, Any]) -> str:
    """Return an estimate as plain text, for the terminal and the model card: "0.873 [0.812, 0.921]"."""
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if value is None:
        return "not defined"
    return f"{value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else "")


def write_p(p_value: float) -> str:
    """Return a p-value as a person would write it."""
    return "p < .001" if p_value < 0.001 else f"p = {p_value:.3f}"


def take_number(value: Any) -> float | None:
    """Return a finite float, or None; raises TypeError for anything else than a number or None."""
    if value is not None and not isinstance(value, int | float):
        raise TypeError(f"expected a number, found {value!r}")
    return None if value is None or not math.isfinite(value) else float(value)


def take_estimate(section: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return one estimate with None for what is absent or not finite; raises TypeError where it is no number."""
    given = section.get(key) or {}
    numbers = {name: take_number(given.get(name)) for name in ("value", "low", "high", "level")}
    return {**numbers, "method": given.get("method") or ""}


def write_percent(fraction: float) -> str:
    """Return a fraction as a whole percentage in plain text, for the terminal and the model card."""
    return format_percent(fraction).replace(NARROW, " ")


def format_percent(fraction: float) -> str:
    """Return a fraction as a whole percentage; 0 % and 100 % are said only where nothing, or all, is meant."""
    percent = round(100 * fraction)
    if percent == 0 and fraction > 0:
        return f"less than 1{NARROW}%"
    if percent == 100 and fraction < 1:
        return f"more than 99{NARROW}%"
    return f"{percent}{NARROW}%"


def format_seconds(seconds: float) -> str:
    """Return a duration in the units a person would use."""
    if seconds < 59.95:
        return f"{seconds:.1f}{NARROW}s"
    if seconds < 3599.5:
        return f"{round(seconds) // 60}{NARROW}min {round(seconds) % 60:02d}{NARROW}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}{NARROW}h {minutes % 60:02d}{NARROW}min"


def format_range(values: Sequence[float]) -> str:
    """Return "4 to 7", "5" where all are equal, an en dash without any; small numbers without an exponent."""
    import numpy as np

    ends = [np.format_float_positional(float(value), 3, fractional=False, trim="-") for value in sorted({*values})]
    return " to ".join(dict.fromkeys((ends[0], ends[-1]))) if ends else ABSENT


def format_plain(value: Any) -> str:
    """Return any plain JSON value as a person would write it."""
    if value is None or value in ([], {}):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{put_in_words(key)} {format_plain(entry)}" for key, entry in value.items())
    return ", ".join(map(format_plain, value)) if isinstance(value, list | tuple) else str(value)


def put_in_words(name: str) -> str:
    """Return an identifier as words: "feature_extractor" is a "feature extractor"."""
    return str(name).replace("_", " ")


def name_rung(strategy: str, line: str | None, head: str) -> str:
    """Return a rung in words: the strategy, with its head where the backbone is frozen and its thaw line where not."""
    words = put_in_words(strategy)
    if strategy in HEADS or (strategy == "handcrafted" and head != "linear"):
        return f"{words}, {put_in_words(head)} head"
    return f"{words} from {line}" if strategy == "fine_tuning" else words


def count_things(count: int, one: str, many: str = "") -> str:
    """Return "1 item", "2 items"; ``many`` is the plural where it is not ``one`` with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}".replace(",", NARROW)
