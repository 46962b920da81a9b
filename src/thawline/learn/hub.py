"""Weights from the hub: fetched by the libraries that know them, checked, never half-used.

timm's come from the Hugging Face hub, or the mirror that ``HF_ENDPOINT`` names, with the token of ``HF_TOKEN`` where one is
set; torchvision's and a few older ones from a fixed address. A broken download goes on where it stopped. A file is taken
whole only: against the SHA-256 that the hub states for large files, or against its start in the file's own name.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from thawline.cache import cache_path
from thawline.errors import WeightsError
from thawline.files import file_digest, said_plainly
from thawline.learn.networks import Architecture
from thawline.learn.weight_files import read_tensors

if TYPE_CHECKING:
    from torch import nn

HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # the safe one first, as timm looks for them
HUB_SECONDS = 4.0  # a host name that is not found by then counts as out of reach
DIGEST = re.compile(r"[0-9a-f]{64}")
NAMED_DIGEST = re.compile(r"-([0-9a-f]{8,})\.")


def fetch_network(architecture: Architecture) -> nn.Module:
    """Fetch a library's default weights, once, and return the network that they fill.

    Raises WeightsError for a file that is not what the hub says it is; what the hub's clients raise else is theirs.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    place = _locate(architecture)
    if architecture.builder == "timm":
        return _fetch_timm(architecture, place)
    from torchvision import models

    _download(place.url)
    with _weights_only():
        network: nn.Module = models.get_model(architecture.model, weights="DEFAULT", progress=False)
    return network


def name_source(architecture: Architecture) -> str:
    """Name what `fetch_network` fetches, without the address of a mirror."""
    place = _locate(architecture)
    return f"{architecture.builder} hub: {place.repository or _name_file(place.url)}"


def name_digest(architecture: Architecture) -> str:
    """Return what is known before fetching of the SHA-256 of what `fetch_network` fetches; large files' hubs state all."""
    place = _locate(architecture)
    match = None if place.repository else NAMED_DIGEST.search(_name_file(place.url))
    return f"begins with {match[1]}" if match else "as the hub states it, checked when fetched"


class _Place(NamedTuple):
    """Where default weights lie: a repository with the name of a file in it, where that is given; else an address."""

    repository: str | None
    file: str | None
    url: str


def _locate(architecture: Architecture) -> _Place:
    """Ask the library where its default weights lie. Raises WeightsError where it has none."""
    from thawline.learn.torchvision_operators import import_torchvision

    import_torchvision()
    if architecture.builder == "torchvision":
        from torchvision import models

        return _Place(None, None, models.get_model_weights(architecture.model).DEFAULT.url)
    import timm

    config = timm.get_pretrained_cfg(architecture.model)
    if config is None or not (config.hf_hub_id or config.url):
        raise WeightsError(f"timm has no weights for {architecture.model}; give a file with --weights")
    return _Place(config.hf_hub_id, config.hf_hub_filename, config.url or "")


def is_reachable(url: str) -> bool:
    """Tell whether the host of ``url`` has an address; a proxy, where one is set, looks it up itself."""
    if urllib.request.getproxies().keys() & {"http", "https", "all"}:
        return True
    found = threading.Event()

    def look_up() -> None:
        with contextlib.suppress(OSError, UnicodeError):
            socket.getaddrinfo(urllib.parse.urlsplit(url).hostname, None)
            found.set()

    thread = threading.Thread(target=look_up, daemon=True)  # the system's own timeout can be half a minute
    thread.start()
    thread.join(HUB_SECONDS)
    return found.is_set()


def _fetch_timm(architecture: Architecture, place: _Place) -> nn.Module:
    """Let timm rename and resample what its file holds, which is read here, without running anything."""
    import timm

    with _fetched(place) as file:
        given = {"state_dict": read_tensors(file)}
    network: nn.Module = timm.create_model(
        architecture.model, pretrained=True, pretrained_cfg_overlay=given, **architecture.options
    )
    return network


@contextlib.contextmanager
def _fetched(place: _Place) -> Iterator[Path]:
    """Lend a file of weights: from a repository, or what the hub's client keeps of it; else from a fixed address."""
    repository = place.repository
    if repository is None:
        yield _download(place.url)
        return
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    names = (place.file,) if place.file else HUB_FILES
    kept = [path for each in names if isinstance(path := try_to_load_from_cache(repository, each), str)]
    if kept:
        blob = Path(kept[0]).resolve()  # the client names what it keeps by the digest of large files
        if DIGEST.fullmatch(blob.name):
            _check_start(blob, blob.name)
        yield Path(kept[0])
        return
    with _failing_fast():
        for each in names:
            address = hf_hub_url(repository, each)
            try:
                about = get_hf_file_metadata(address)
            except EntryNotFoundError:
                continue
            headers = build_hf_headers()
            if urllib.parse.urlsplit(about.location).netloc != urllib.parse.urlsplit(address).netloc:
                headers.pop("authorization", None)  # the token is the hub's, not that of who keeps its files
            path = cache_path() / "downloads" / "hub" / f"{about.etag}-{each}"
            start = str(about.etag) if DIGEST.fullmatch(str(about.etag)) else ""
            try:
                yield take_whole(
                    path,
                    about.location,
                    functools.partial(_check_start, start=start),
                    headers=headers,
                    expected_size=about.size,
                )
            finally:
                path.unlink(missing_ok=True)  # what it is turned into is kept
            return
    raise WeightsError(f"{repository}: expected one of {', '.join(names)} on the hub, found none")


def _download(url: str) -> Path:
    """Fetch a file from a fixed address to where torch keeps such. Raises WeightsError."""
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / _name_file(url)
    match = NAMED_DIGEST.search(path.name)
    start = match[1] if match else ""
    if path.is_file():
        _check_start(path, start)
    elif not is_reachable(url):
        raise OSError(f"{urllib.parse.urlsplit(url).hostname} has no address")
    return take_whole(path, url, functools.partial(_check_start, start=start))


def take_whole(path: Path, url: str, check: Callable[[Path], None], **how: Any) -> Path:
    """Fetch a file where it is not there; a broken download goes on where it stopped.

    ``check`` is given the whole file under another name, and removes it and raises where it is not what it should be.
    """
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    unfinished = path.with_name(f"{path.name}.incomplete")
    with said_plainly(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(path.with_name(f"{path.name}.lock")):  # two processes would write into one file
        if path.is_file():
            return path
        try:
            with unfinished.open("ab") as file:
                http_get(url, file, resume_size=file.tell(), displayed_filename=_name_file(url), **how)
        except HfHubHTTPError as error:
            if error.response.status_code != 416:  # there was no more to fetch
                raise
        check(unfinished)
        unfinished.replace(path)
    return path


def _name_file(url: str) -> str:
    return urllib.parse.urlsplit(url).path.rpartition("/")[2]


def _check_start(path: Path, start: str) -> None:
    """Remove a file whose digest does not begin as it should. Raises WeightsError."""
    found = file_digest(path)
    if not found.startswith(start):
        path.unlink()
        raise WeightsError(
            f"{path.name}: expected a SHA-256 that begins with {start}, found {found}: the download was changed on the way, "
            "and is removed. Fetch it again"
        )


@contextlib.contextmanager
def _weights_only() -> Iterator[None]:
    """Keep torch from running what a file holds, where a library would let it."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    was = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if was is None:
            del os.environ[name]
        else:
            os.environ[name] = was


@contextlib.contextmanager
def _failing_fast() -> Iterator[None]:
    """Take the hub's client offline where its host has no address: what it keeps still loads, the rest fails at once."""
    from huggingface_hub import constants

    was = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = was or not is_reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was
