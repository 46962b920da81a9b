"""Numbers and values as the report writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ABSENT = "–"
NARROW = "\u202f"  # narrow no-break space, before a unit


def format_number(value: float | None, digits: int = 3) -> str:
    """Return a number with ``digits`` decimals, an en dash where there is none."""
    return ABSENT if value is None else f"{value:.{digits}f}".replace("-", "−")


def format_estimate(estimate: Mapping[str, float | None]) -> str:
    """Return "0.873 [0.812, 0.921]"; the interval is left out, and that is said, where it is not defined."""
    if estimate["value"] is None:
        return ABSENT
    if estimate["low"] is None or estimate["high"] is None:
        return f"{format_number(estimate['value'])} (no interval)"
    return f"{format_number(estimate['value'])} [{format_number(estimate['low'])}, {format_number(estimate['high'])}]"


def write_estimate(estimate: Mapping[str, Any]) -> str:
    """Return an estimate as plain text, for the terminal and the model card: "0.873 [0.812, 0.921]"."""
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if value is None:
        return "not defined"
    return f"{value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else "")


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


def count_things(count: int, one: str, many: str = "") -> str:
    """Return "1 item", "2 items"; ``many`` is the plural where it is not ``one`` with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}".replace(",", NARROW)
