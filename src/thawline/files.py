"""Files that are whole or absent: atomic writes, digests, and errors that say what to do about a full disk."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thawline.errors import OutputError

_CHUNK = 1 << 20


@contextlib.contextmanager
def said_plainly(path: Path) -> Iterator[None]:
    """Turn a failed write below ``path`` into an OutputError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = "the disk is full; free some space and run the same command again, finished work is kept"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            reason = "it is not writable; choose another folder or change its permissions"
        elif error.errno in (errno.ENOTDIR, errno.EEXIST):
            reason = "a file stands where a folder is needed; choose another folder"
        else:
            reason = str(error)
        raise OutputError(f"cannot write {path}: {reason}") from error


def require_empty(folder: Path, purpose: str) -> None:
    """Raise OutputError where a folder that is to be written holds something, or is none."""
    with said_plainly(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise OutputError(f"{folder}: expected a new or empty folder for {purpose}; choose another one")


def write_atomic(path: Path, data: bytes | str) -> Path:
    """Write ``data`` so that ``path`` holds all of it or what it held before; raises OutputError."""
    raw = data.encode() if isinstance(data, str) else data
    with said_plainly(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.parent / f".writing-{uuid.uuid4().hex}"
        try:
            with unfinished.open("xb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    return path


def write_json(path: Path, data: Any) -> Path:
    """Write plain data as indented UTF-8 JSON; NaN is refused, since JSON has none (ValueError)."""
    return write_atomic(path, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def json_digest(data: Any) -> str:
    """SHA-256 of plain data in one canonical JSON form, as hex: equal data, equal digest."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
