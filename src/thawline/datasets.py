"""Public data sets by name: those of MedMNIST, fetched once and verified, with their licence.

What there is, where it lies and its digest are what the medmnist package says (Yang et al., Scientific Data 10:41, 2023).
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib.util
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thawline.errors import DataError, OptionError
from thawline.files import said_plainly
from thawline.learn.hub import is_reachable, take_whole

FIRST_PX = 28


@dataclasses.dataclass(frozen=True, slots=True)
class PublicSet:
    """One set: ``sizes_px`` are the sides of its images or volumes, ``classes`` are named under the numbers of the file."""

    name: str
    task: str
    licence: str
    sizes_px: tuple[int, ...]
    is_volumes: bool
    counts: Mapping[str, int]
    classes: Mapping[str, str]
    about: str

    def file_name(self, size_px: int) -> str:
        """Return how MedMNIST calls the file of a size."""
        return f"{self.name}{'' if size_px == FIRST_PX else f'_{size_px}'}.npz"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return dataclasses.asdict(self)


def list_sets() -> list[PublicSet]:
    """Return all sets, by name. Raises OptionError where the medmnist package is not installed."""
    return [_read_set(name, about) for name, about in sorted(_read_table().items())]


def find_set(name: str) -> PublicSet:
    """Return a set by its name, however it is spaced or capitalised. Raises OptionError for one that there is not."""
    sets = {each.name: each for each in list_sets()}
    wanted = "".join(letter for letter in name.lower() if letter.isalnum())
    if wanted not in sets:
        near = difflib.get_close_matches(wanted, sets, n=3)
        raise OptionError(
            f"unknown data set {name!r}: expected one of MedMNIST"
            + (f"; close to it: {', '.join(near)}" if near else f": {', '.join(sets)}")
        )
    return sets[wanted]


def fetch_set(found: PublicSet, folder: Path, size_px: int = FIRST_PX) -> Path:
    """Return the file of a set in ``folder``, fetched where it is not there yet; one that is there is verified too.

    A broken download goes on where it stopped. Raises OptionError for a size that there is not, DataError for a file that is
    not what MedMNIST says it is, or that cannot be reached.
    """
    if size_px not in found.sizes_px:
        raise OptionError(f"--size {size_px}: {found.name} comes in {', '.join(map(str, found.sizes_px))} px")
    about, suffix = _read_table()[found.name], "" if size_px == FIRST_PX else f"_{size_px}"
    url, digest = about[f"url{suffix}"], about[f"MD5{suffix}"]
    path = folder / found.file_name(size_px)
    if path.is_file():
        _check_digest(path, digest, f"{path} is damaged or another file; remove it and fetch it again")
        return path
    by_hand = (
        f"On a machine with internet, run thawline datasets get {found.name} --size {size_px} --out FOLDER, or fetch {url}; "
        f"copy {path.name} here (MD5 {digest})"
    )
    host = urllib.parse.urlsplit(url).hostname
    if not is_reachable(url):
        raise DataError(f"{path.name} cannot be fetched: {host} has no address here. {by_hand}")

    def check(unfinished: Path) -> None:
        try:
            _check_digest(unfinished, digest, "the download was changed on the way and is removed; fetch it again")
        except DataError:
            unfinished.unlink()
            raise

    with said_plainly(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        return take_whole(path, url, check)
    except DataError:
        raise
    except Exception as error:  # a client of another library raises what it likes
        raise DataError(f"{path.name} could not be fetched from {host} ({type(error).__name__}). {by_hand}") from error


def _check_digest(path: Path, digest: str, remedy: str) -> None:
    """Compare the MD5 that MedMNIST states: against damage, not against malice. Raises DataError."""
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != digest:
        raise DataError(f"{path.name}: expected MD5 {digest}, found {found}: {remedy}")


def _read_table() -> Mapping[str, Mapping[str, Any]]:
    """Return what the medmnist package says of each set."""
    if importlib.util.find_spec("medmnist") is None:
        raise OptionError("public data sets come through the medmnist package: pip install 'thawline[medmnist]'")
    from thawline.learn.torchvision_operators import import_torchvision

    import_torchvision()  # medmnist imports it
    info = importlib.import_module("medmnist.info")
    table: Mapping[str, Mapping[str, Any]] = info.INFO
    return table


def _read_set(name: str, about: Mapping[str, Any]) -> PublicSet:
    sizes = [FIRST_PX, *(int(key.removeprefix("url_")) for key in about if key.startswith("url_"))]
    return PublicSet(
        name=name,
        task=about["task"],
        licence=about["license"],
        sizes_px=tuple(sorted(sizes)),
        is_volumes=name.endswith("3d"),
        counts=dict(about["n_samples"]),
        classes=dict(about["label"]),
        about=about["description"],
    )
