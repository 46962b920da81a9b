"""The hub, played by a local server that speaks its protocol: tokens, slow and broken links, changed bytes, no address."""

from __future__ import annotations

import functools
import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch
from safetensors.torch import save

from thawline.errors import WeightsError
from thawline.learn import hub as hub_module
from thawline.learn import weights as weights_module
from thawline.learn.backbones import find_row
from thawline.learn.loading import load_network
from thawline.learn.networks import build_network, describe_elsewhere
from thawline.learn.weight_files import read_sidecar
from thawline.learn.weights import find_weights

NAME = "timm/test_resnet"
TOKEN = "hf_only_for_this_test"
CHUNK = 4096


class Hub(ThreadingHTTPServer):
    """Serves one file under any path that ends with a known name; what goes wrong is set by the test."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str, str | None]] = []  # method, path, range
        self.breaks: list[int] = []  # bytes after which an answer breaks off, one an answer
        self.pause_seconds = 0.0
        self.stalls: list[float] = []  # seconds before an answer goes on, one an answer
        self.commit = "a" * 40
        self.token: str | None = None
        self.changed = False
        self.elsewhere: str | None = None  # another host that keeps the bytes
        self.tokens: list[str | None] = []
        self.takes_ranges = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def ranges(self) -> list[str | None]:
        """The range of each request for a file's bytes."""
        return [asked for method, _, asked in self.asked if method == "GET"]


class Handler(BaseHTTPRequestHandler):
    """Answers as the hub does: metadata in headers, bytes from where they are asked for."""

    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, *about: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        served = self.server
        name = self.path.partition("?")[0].rpartition("/")[2]
        asked = self.headers.get("Range")
        served.asked.append((self.command, self.path, asked))
        served.tokens.append(self.headers.get("Authorization"))
        if served.token and self.headers.get("Authorization") != f"Bearer {served.token}":
            return self.refuse(401, "GatedRepo", "Access to this repository is restricted")
        if name not in served.files:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        data = served.files[name]
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked and served.takes_ranges else 0
        if start >= len(data):
            return self.refuse(416, "", "Range not satisfiable")
        self.send_response(302 if served.elsewhere else 206 if start else 200)
        digest = hashlib.sha256(data).hexdigest()
        for header, value in {
            "X-Repo-Commit": served.commit,
            "ETag": f'"{digest}"',
            "X-Linked-Etag": f'"{digest}"',
            "X-Linked-Size": str(len(data)),
            "Content-Length": str(len(data) - start),
            **({"Location": f"{served.elsewhere}/{name}"} if served.elsewhere else {}),
            **({"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}),
        }.items():
            self.send_header(header, value)
        self.end_headers()
        if with_body and not served.elsewhere:
            self.send(data[start:])
        return None

    def send(self, data: bytes) -> None:
        served = self.server
        if served.changed:
            data = data[:-1] + bytes([data[-1] ^ 1])
        limit = served.breaks.pop(0) if served.breaks else len(data)
        for place in range(0, min(limit, len(data)), CHUNK):
            self.wfile.write(data[place : min(place + CHUNK, limit)])
            threading.Event().wait(served.stalls.pop(0) if served.stalls and place else served.pause_seconds)
        self.close_connection = limit < len(data)

    def refuse(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[Hub]:
    from huggingface_hub import close_session, constants

    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name in ("HF_TOKEN",)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # what a break can lose; of large files 10 MB
    close_session()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
    close_session()


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network(describe_elsewhere(NAME))


@pytest.fixture
def served(hub, network):
    hub.files["model.safetensors"] = save(network.state_dict())
    return hub


def check_found(network, name: str = NAME):
    """Check that the weights found fill the same network, and hand them back."""
    found = find_weights(name)
    loaded = load_network(found).state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in network.state_dict().items())
    return found


# --- timm and the Hugging Face hub ------------------------------------------------------------------------------------


def test_what_the_hub_gives_is_kept_with_its_description_and_not_asked_for_again(
    served, network, tmp_path, monkeypatch
):
    first = check_found(network)
    assert (first.source, first.has_head, first.architecture.size_px) == (
        "timm hub: timm/test_resnet.r160_in1k",
        True,
        160,
    )
    asked = len(served.asked)
    assert asked > 0
    again = check_found(network)
    assert (again, len(served.asked)) == (first, asked)
    folder = tmp_path / "air gap"
    first.path.parent.rename(folder)
    monkeypatch.setenv("THAWLINE_WEIGHTS", str(folder))
    assert check_found(network).path.parent == folder
    assert len(served.asked) == asked


@pytest.mark.slow
def test_a_broken_download_goes_on_where_it_stopped(served, network):
    served.breaks = [50_000, 30_000]
    check_found(network)
    assert served.ranges() == [None, "bytes=50000-", "bytes=80000-"]


@pytest.mark.slow
def test_a_server_that_knows_no_ranges_is_read_from_the_start(served, network):
    served.takes_ranges, served.breaks = False, [50_000]
    check_found(network)
    assert served.ranges() == [None, "bytes=50000-"]


@pytest.mark.slow
def test_a_download_that_stays_broken_leaves_nothing_half_used_and_goes_on_later(served, network, monkeypatch):
    served.breaks = [20_000, *[0] * 20]
    with pytest.raises(WeightsError, match=r"the hub did not give them \("):
        find_weights(NAME)
    assert not list(weights_module.cache_path().rglob("*.safetensors"))
    served.breaks.clear()
    check_found(network)
    assert served.ranges()[-1] == "bytes=20000-"


@pytest.mark.slow
def test_a_slow_link_is_waited_for(served, network, monkeypatch):
    served.pause_seconds = 0.003  # 463 pieces
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.3)  # less than the whole takes
    check_found(network)
    assert served.ranges() == [None]


@pytest.mark.slow
def test_a_link_that_stalls_is_asked_again(served, network, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    served.stalls = [1.0]
    check_found(network)
    assert len(served.ranges()) == 2


def test_bytes_changed_on_the_way_are_refused_and_removed(served, network):
    served.changed = True
    with pytest.raises(WeightsError, match=r"expected a SHA-256 that begins with \w{64}, found \w{64}"):
        find_weights(NAME)
    served.changed = False
    check_found(network)


def test_a_token_opens_what_is_closed_without(served, network, monkeypatch):
    served.token = TOKEN
    with pytest.raises(WeightsError, match=r"the hub did not give them \(GatedRepoError: .*set HF_TOKEN") as caught:
        find_weights(NAME)
    assert TOKEN not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    found = check_found(network)
    assert TOKEN not in found.path.with_suffix(".json").read_text()


def test_a_pickle_that_would_run_something_is_refused(hub, network, tmp_path):
    class Runs:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"conv1.weight": Runs()}, tmp_path / "evil.bin")
    hub.files["pytorch_model.bin"] = (tmp_path / "evil.bin").read_bytes()
    with pytest.raises(WeightsError, match="holds something else than tensors, which is never run"):
        find_weights(NAME)
    assert not (tmp_path / "ran").exists()
    hub.commit = "b" * 40
    torch.save(network.state_dict(), tmp_path / "good.bin")
    hub.files["pytorch_model.bin"] = (tmp_path / "good.bin").read_bytes()
    check_found(network)


def test_a_repository_without_weights_is_named(hub):
    with pytest.raises(WeightsError, match=r"timm/test_resnet\.r160_in1k: expected one of model\.safetensors, "):
        find_weights(NAME)


def test_a_name_that_timm_has_no_weights_for(hub):
    with pytest.raises(WeightsError, match="timm has no weights for resnetv2_152"):
        hub_module.fetch_network(find_row("ResNet152V2").architecture)


def test_what_was_damaged_since_it_was_kept_is_fetched_again(served, network):
    kept = check_found(network).path
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    check_found(network)
    kept.unlink()
    check_found(network)
    assert len(served.ranges()) == 3


@pytest.mark.slow
def test_two_that_fetch_one_file_do_not_write_into_each_other(served, tmp_path):
    served.pause_seconds = 0.002
    url, path = f"{served.url}/model.safetensors", tmp_path / "one" / "model.safetensors"
    digest = hashlib.sha256(served.files["model.safetensors"]).hexdigest()
    done = []

    def take():
        done.append(hub_module.take_whole(path, url, functools.partial(hub_module._check_start, start=digest)))

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [path] * 3
    assert path.read_bytes() == served.files["model.safetensors"]
    assert served.ranges() == [None]


@pytest.mark.slow
def test_the_token_goes_to_the_hub_and_to_nobody_who_keeps_its_files(served, network, monkeypatch):
    elsewhere = Hub()
    elsewhere.files = served.files
    threading.Thread(target=elsewhere.serve_forever, args=(0.02,), daemon=True).start()
    served.token = TOKEN
    served.elsewhere = f"http://localhost:{elsewhere.server_address[1]}"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    check_found(network)
    elsewhere.shutdown()
    elsewhere.server_close()
    assert TOKEN in str(served.tokens)
    assert set(elsewhere.tokens) == {None}


# --- torchvision ------------------------------------------------------------------------------------------------------


@pytest.fixture
def films(hub, monkeypatch, tmp_path):
    """SqueezeNet as torchvision's hub serves it, its digest in its name."""
    from torchvision import models

    torch.manual_seed(0)
    network = models.get_model("squeezenet1_0")
    torch.save(network.state_dict(), tmp_path / "squeezenet.pth")
    data = (tmp_path / "squeezenet.pth").read_bytes()
    name = f"squeezenet1_0-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    hub.files[name] = data
    monkeypatch.setattr(models.SqueezeNet1_0_Weights.DEFAULT.value, "url", f"{hub.url}/models/{name}")
    return network


@pytest.mark.slow
def test_torchvision_goes_on_where_it_stopped_too(hub, films):
    hub.breaks = [1_000_000]
    found = check_found(films, "SqueezeNet")
    assert hub.ranges() == [None, "bytes=1000000-"]
    assert found.source.startswith("torchvision hub: squeezenet1_0-")
    assert (found.licence, found.pretrained_on) == ("BSD-3-Clause", "ImageNet-1k")
    assert read_sidecar(found.path, "squeezenet") == found


@pytest.mark.slow
def test_a_download_killed_before_it_was_renamed_is_whole(hub, films, tmp_path):
    [(name, data)] = hub.files.items()
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / f"{name}.incomplete").write_bytes(data)
    check_found(films, "SqueezeNet")
    assert [path.name for path in folder.iterdir() if path.suffix != ".lock"] == [name]


@pytest.mark.slow
def test_a_file_of_torch_that_was_changed_is_fetched_again(hub, films, tmp_path):
    [(name, data)] = hub.files.items()
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(data[:-1])
    with pytest.raises(WeightsError, match=f"expected a SHA-256 that begins with {name[14:22]}, found"):
        find_weights("SqueezeNet")
    check_found(films, "SqueezeNet")


@pytest.mark.slow
def test_torchvision_runs_nothing_that_a_file_holds(hub, monkeypatch, tmp_path):
    from torchvision import models

    class Runs:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"features.0.weight": Runs()}, tmp_path / "evil.pth")
    data = (tmp_path / "evil.pth").read_bytes()
    name = f"squeezenet1_0-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    hub.files[name] = data
    monkeypatch.setattr(models.SqueezeNet1_0_Weights.DEFAULT.value, "url", f"{hub.url}/models/{name}")
    with pytest.raises(WeightsError, match="UnpicklingError"):
        find_weights("SqueezeNet")
    assert not (tmp_path / "ran").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


# --- no hub -----------------------------------------------------------------------------------------------------------


def resolve_nothing(*about):
    raise socket.gaierror("no such host")


@pytest.fixture
def no_proxy(monkeypatch):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def test_without_an_address_the_hub_client_is_offline_for_the_call_only(monkeypatch, no_proxy):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", resolve_nothing)
    with hub_module._failing_fast():
        assert constants.HF_HUB_OFFLINE
        assert constants.is_offline_mode()
    assert not constants.HF_HUB_OFFLINE
    with pytest.raises(KeyError), hub_module._failing_fast():
        raise KeyError
    assert not constants.HF_HUB_OFFLINE


def test_with_an_address_or_a_proxy_the_hub_client_is_left_as_it_is(monkeypatch, no_proxy):
    from huggingface_hub import constants

    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port: asked.append(host) or [("an address",)])
    for offline in (False, True):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        with hub_module._failing_fast():
            assert offline == constants.HF_HUB_OFFLINE
    assert asked == ["huggingface.co"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", resolve_nothing)
    monkeypatch.setenv("https_proxy", "http://proxy.hospital.example:3128")
    with hub_module._failing_fast():
        assert not constants.HF_HUB_OFFLINE


def test_a_resolver_that_does_not_answer_counts_as_none(monkeypatch, no_proxy):
    answer = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *about: answer.wait(60))
    monkeypatch.setattr(hub_module, "HUB_SECONDS", 0.05)
    assert not hub_module.is_reachable("https://huggingface.co")
    answer.set()


@pytest.mark.parametrize(
    "name", [pytest.param(NAME, marks=pytest.mark.slow), "squeezenet", pytest.param("xception", marks=pytest.mark.slow)]
)
def test_no_internet_is_a_plain_error(name, monkeypatch, no_proxy, tmp_path):
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(socket, "getaddrinfo", resolve_nothing)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(WeightsError, match=rf"no weights for {name}: .*thawline weights pack FOLDER {name}"):
        find_weights(name)
