"""Decoders remark on metadata through Python warnings; whatever matters they raise."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_QUIET = threading.RLock()  # the warning filters belong to the whole process: one thread at a time may change them


@contextmanager
def silence() -> Iterator[None]:
    """Keep the remarks of decoders from becoming warnings of ours, in one thread at a time."""
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
