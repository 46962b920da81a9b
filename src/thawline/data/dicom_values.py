"""Values of a DICOM header: asked for without an error of pydicom's, one or several."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

from thawline.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable

Found = TypeVar("Found")


def guard(part: str, read: Callable[[], Found]) -> Found:
    """Return what ``read`` returns; whatever it raises becomes an ImageError that repeats nothing in quotes.

    pydicom turns the bytes of an element into a value when it is first asked for, so that any question may raise.
    """
    try:
        return read()
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - decoders of five libraries raise anything
        said = re.sub(r"""'[^']*'|"[^"]*\"""", "…", " ".join(str(error).split()))[:160]
        raise ImageError(
            f"damaged, cut off or unsupported DICOM, in its {part}: {said or type(error).__name__}"
        ) from None


def list_values(value: Any) -> list[Any]:
    """Return one value or several as a list, none as an empty one."""
    return [] if value is None else [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)


def take_first(value: Any) -> Any:
    """Return a value, or the first of several."""
    return next(iter(list_values(value)), None)
