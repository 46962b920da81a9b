"""The cache: results keyed by content, never by path; atomic writes, memory-mapped reads, kept under a limit.

A *space* is one way of turning the bytes of an item into something (a reader version, or weights with a contract); its
folder is named by the digest of that description. Inside, *shards* hold rows and the 32-byte keys they belong to. A
shard is written whole and renamed into place, so a kill loses at most the shard being filled.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

from thawline.errors import OptionError, OutputError
from thawline.files import json_digest, said_plainly, write_atomic, write_json

DEFAULT_LIMIT_MIB = 10_240
OPEN_MAPS = 24  # of a space: each holds a file open, and a process may open a few hundred on some systems
_KEY_BYTES = 32
_apart: ContextVar[Path | None] = ContextVar("apart", default=None)  # where spaces lie instead of the cache


def cache_path() -> Path:
    """Where the cache lies: ``THAWLINE_CACHE``, else the user's cache folder."""
    folder = os.environ.get("THAWLINE_CACHE")
    return Path(folder) if folder else user_cache_path("thawline", appauthor=False)


def limit_bytes() -> int:
    """Size limit of the cache: ``THAWLINE_CACHE_MIB``, else 10 GiB. Raises OptionError."""
    text = os.environ.get("THAWLINE_CACHE_MIB", str(DEFAULT_LIMIT_MIB))
    if not text.isdecimal():
        raise OptionError(f"THAWLINE_CACHE_MIB: expected a whole number of MiB, found {text!r}")
    return int(text) * 2**20


@contextlib.contextmanager
def forget_all() -> Iterator[None]:
    """Let nothing be found in spaces that are opened meanwhile, and keep nothing that is written to them."""
    with tempfile.TemporaryDirectory(prefix="thawline-", ignore_cleanup_errors=True) as folder:
        token = _apart.set(Path(folder))
        try:
            yield
        finally:
            _apart.reset(token)


class Space:
    """Rows of one kind, found by the content they were made from."""

    def __init__(self, kind: str, description: dict[str, Any], root: Path | None = None) -> None:
        self.folder = (root or _apart.get() or cache_path()) / kind / json_digest(description)[:24]
        self.description = description
        self._rows: dict[bytes, tuple[int, int]] = {}
        self._shards: list[NDArray[Any] | Path] = []  # mapped, or where it lies
        self._row_shape: tuple[int, ...] = (0,)
        self._dtype: np.dtype[Any] = np.dtype(np.float64)
        self._open_shards()

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key) in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row; (0,) while the space is empty."""
        return self._row_shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values; float64 while the space is empty."""
        return self._dtype

    def read(self, keys: Sequence[str], out: NDArray[Any], columns: slice | None = None) -> None:
        """Copy rows (some ``columns`` of them) into ``out``, one a key; raises KeyError for a key that is not there."""
        places = np.array([self._rows[bytes.fromhex(key)] for key in keys], dtype=np.int64).reshape(-1, 2)
        for number in np.unique(places[:, 0]):
            mask = places[:, 0] == number
            rows = places[mask, 1]
            shard = self._shards[number]
            mapped = _open_again(shard) if isinstance(shard, Path) else shard
            out[mask] = mapped[rows if columns is None else (rows, columns)]

    def write(self, keys: Sequence[str], rows: NDArray[Any]) -> None:
        """Add one shard: ``rows`` with one row a key. Raises OutputError; the shards before it stay whole."""
        if len(keys) != len(rows):
            raise ValueError(f"{len(keys)} keys for {len(rows)} rows")
        if not (self.folder / "space.json").is_file():
            write_json(self.folder / "space.json", self.description)
        name = uuid.uuid4().hex
        write_atomic(self.folder / f"{name}.keys", b"".join(map(bytes.fromhex, keys)))
        unfinished = self.folder / f".writing-{name}"
        with said_plainly(self.folder):
            try:
                with unfinished.open("wb") as file:
                    np.save(file, rows, allow_pickle=False)
                unfinished.replace(self.folder / f"{name}.npy")
            finally:
                unfinished.unlink(missing_ok=True)
        self._open_shard(self.folder / f"{name}.npy")

    def _open_shards(self) -> None:
        for path in sorted(self.folder.glob("*.npy")) if self.folder.is_dir() else ():
            self._open_shard(path)
            with contextlib.suppress(OSError):
                path.touch()  # the time of last use, which eviction goes by

    def _open_shard(self, path: Path) -> None:
        try:
            keys = path.with_suffix(".keys").read_bytes()
            shard = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return  # half a shard counts for nothing; it is written anew
        if len(keys) != _KEY_BYTES * len(shard):
            return
        number, self._row_shape, self._dtype = len(self._shards), tuple(shard.shape[1:]), shard.dtype
        # before its keys: another thread may look one up at once
        self._shards.append(shard if number < OPEN_MAPS else path)
        for row in range(len(shard)):
            self._rows[keys[row * _KEY_BYTES : (row + 1) * _KEY_BYTES]] = (number, row)


def _open_again(path: Path) -> NDArray[Any]:
    """Map a shard that was there before. Raises OutputError where it is gone."""
    try:
        shard: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise OutputError(
            f"the cache lost {path} while it was in use ({error.strerror}); run the same command again, and raise "
            "THAWLINE_CACHE_MIB where several runs share the cache"
        ) from error
    return shard


def list_spaces(root: Path | None = None) -> list[dict[str, Any]]:
    """Describe what the cache holds: kind, folder, files, bytes and time of last use, one dict a space."""
    top = root or cache_path()
    found = []
    for folder in sorted(path for path in top.glob("*/*") if path.is_dir()):
        files = list(_measure_files(folder))
        size, used = sum(size for size, _ in files), max((time for _, time in files), default=0.0)
        found.append({"kind": folder.parent.name, "folder": folder, "files": len(files), "bytes": size, "used": used})
    return found


def _measure_files(folder: Path) -> Iterator[tuple[int, float]]:
    """Yield bytes and time of last use of each file; those that another process takes away meanwhile are passed over."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                if path.is_file():
                    found = path.stat()
                    yield found.st_size, found.st_mtime


def evict(keep: Sequence[Path] = (), root: Path | None = None, limit: int | None = None) -> int:
    """Remove the spaces used longest ago until the cache is under its limit; return the bytes freed.

    ``keep`` names the folders that are in use now.
    """
    spaces = sorted(list_spaces(root), key=lambda space: space["used"])
    excess = sum(space["bytes"] for space in spaces) - (limit_bytes() if limit is None else limit)
    freed = 0
    for space in spaces:
        if freed >= excess:
            break
        if space["folder"] not in keep:
            freed += _remove(space["folder"])
    return freed


def clear(root: Path | None = None) -> int:
    """Remove all spaces; return the bytes freed. Nothing outside the cache's own folders is touched."""
    return sum(_remove(space["folder"]) for space in list_spaces(root))


def _remove(folder: Path) -> int:
    """Remove a space, moved aside first so that nobody finds half of it; one that another process holds may stay."""
    aside = folder.with_name(f".removing-{uuid.uuid4().hex}")
    try:
        folder.rename(aside)
    except OSError:
        return 0
    freed = sum(path.stat().st_size for path in aside.rglob("*") if path.is_file())
    shutil.rmtree(aside, ignore_errors=True)
    return freed
