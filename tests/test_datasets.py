"""Public data sets: listed as the medmnist package has them, fetched from a local server, verified, and said offline."""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from medmnist import info
from typer.testing import CliRunner

from thawline import datasets
from thawline.cli import app
from thawline.data.dataset import load_dataset
from thawline.datasets import fetch_set, find_set, list_sets
from thawline.errors import DataError, OptionError


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder behind a server of this machine that holds a small set in the layout and under the name of a real one."""
    folder = tmp_path / "served"
    folder.mkdir()
    arrays = {}
    for split, count in (("train", 14), ("val", 4), ("test", 6)):
        arrays[f"{split}_images"] = np.random.default_rng(count).integers(0, 255, (count, 28, 28)).astype(np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % 2)[:, None].astype(np.uint8)
    np.savez(folder / "pneumoniamnist.npz", **arrays)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    about = {
        **info.INFO["pneumoniamnist"],
        "url": f"http://127.0.0.1:{server.server_address[1]}/pneumoniamnist.npz?download=1",
        "MD5": hashlib.md5((folder / "pneumoniamnist.npz").read_bytes(), usedforsecurity=False).hexdigest(),
    }
    monkeypatch.setattr(datasets, "_read_table", lambda: {**info.INFO, "pneumoniamnist": about})
    yield folder
    server.shutdown()
    server.server_close()


def test_sets_are_those_of_the_package() -> None:
    sets = {each.name: each for each in list_sets()}
    assert len(sets) == len(info.INFO) == 18
    assert sets["pneumoniamnist"].counts == {"train": 4708, "val": 524, "test": 624}
    assert sets["pneumoniamnist"].classes == {"0": "normal", "1": "pneumonia"}
    assert sets["adrenalmnist3d"].is_volumes
    assert sets["adrenalmnist3d"].sizes_px == (28, 64)
    assert sets["dermamnist"].licence == "CC BY-NC 4.0"
    assert sets["chestmnist"].task.startswith("multi-label")


@pytest.mark.parametrize("name", ["PneumoniaMNIST", "pneumonia-mnist", "pneumoniamnist"])
def test_a_set_is_found_however_it_is_spelt(name: str) -> None:
    assert find_set(name).name == "pneumoniamnist"


def test_a_set_that_there_is_not() -> None:
    with pytest.raises(OptionError, match=r"unknown data set 'pneumonamnist': .* close to it: pneumoniamnist"):
        find_set("pneumonamnist")
    with pytest.raises(OptionError, match="--size 100: pneumoniamnist comes in 28, 64, 128, 224 px"):
        fetch_set(find_set("pneumoniamnist"), Path(), 100)


def test_a_set_is_fetched_once_and_can_be_run(served: Path, tmp_path: Path) -> None:
    found = find_set("pneumoniamnist")
    path = fetch_set(found, tmp_path / "sets")
    assert path == tmp_path / "sets" / "pneumoniamnist.npz"
    assert path.read_bytes() == (served / "pneumoniamnist.npz").read_bytes()
    assert load_dataset(path).count_splits() == {"train": 14, "val": 4, "test": 6}
    (served / "pneumoniamnist.npz").unlink()
    assert fetch_set(found, tmp_path / "sets") == path
    path.write_bytes(b"damaged")
    with pytest.raises(DataError, match="is damaged or another file; remove it and fetch it again"):
        fetch_set(found, tmp_path / "sets")


def test_a_changed_download_is_removed(served: Path, tmp_path: Path) -> None:
    with (served / "pneumoniamnist.npz").open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(DataError, match=r"expected MD5 .* changed on the way and is removed"):
        fetch_set(find_set("pneumoniamnist"), tmp_path / "sets")
    assert not list((tmp_path / "sets").glob("*.npz*e"))
    assert not (tmp_path / "sets" / "pneumoniamnist.npz").exists()


def test_a_set_that_cannot_be_fetched_says_how_to_bring_it(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (served / "pneumoniamnist.npz").unlink()
    with pytest.raises(DataError, match=r"could not be fetched from 127.0.0.1 .*copy pneumoniamnist.npz here \(MD5 "):
        fetch_set(find_set("pneumoniamnist"), tmp_path / "sets")
    monkeypatch.setattr(datasets, "is_reachable", lambda _url: False)
    with pytest.raises(DataError, match=r"has no address here. On a machine with internet, run thawline datasets get"):
        fetch_set(find_set("pneumoniamnist"), tmp_path / "sets")


def test_without_the_package_its_command_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(OptionError, match=r"pip install 'thawline\[medmnist\]'"):
        list_sets()


def test_commands(served: Path, tmp_path: Path) -> None:
    listed = CliRunner().invoke(app, ["datasets", "list"])
    assert listed.exit_code == 0
    assert (
        "pneumoniamnist      5856 images     2 classes  binary-class; 28, 64, 128, 224 px; CC BY 4.0" in listed.stdout
    )
    got = CliRunner().invoke(app, ["datasets", "get", "PneumoniaMNIST", "--out", str(tmp_path)])
    assert got.exit_code == 0, got.stderr
    assert "licence  CC BY 4.0" in got.stdout
    assert f"thawline run {tmp_path / 'pneumoniamnist.npz'} --out RUN\n" in got.stdout
    found = json.loads(
        CliRunner().invoke(app, ["datasets", "get", "pneumoniamnist", "--out", str(tmp_path), "--json"]).stdout
    )
    assert found["classes"] == {"0": "normal", "1": "pneumonia"}
    wrong = CliRunner().invoke(app, ["datasets", "get", "nodulemnist"])
    assert wrong.exit_code == 2
    assert "close to it: nodulemnist3d" in wrong.stderr
