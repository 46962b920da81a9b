"""Nothing calls out: the whole main job runs with every connection to another machine forbidden."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from thawline.data.phantoms import PhantomOptions, make_phantoms

WATCH = """
import json, sys
calls = []

def refuse(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else "local"
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = arguments[0]
    else:
        return
    if host not in ("local", "localhost", "127.0.0.1", "::1", None):
        calls.append([event, str(host)])
        raise OSError(f"the network is forbidden here: {event} {host}")

sys.addaudithook(refuse)
"""
COMMANDS = """
from thawline.cli import app

codes = []
for arguments in json.loads(sys.argv[1]):
    try:
        app(arguments)
    except SystemExit as end:
        codes.append(end.code or 0)
loaded = [name for name, module in sys.modules.items() if module is not None]
print(json.dumps({"calls": calls, "codes": codes, "loaded": loaded}))
"""
CALL = """
import socket
try:
    socket.create_connection(("192.0.2.1", 80), timeout=1)
except OSError as error:
    print(json.dumps({"calls": calls, "error": str(error)}))
"""


def run_watched(code: str, *arguments: str, **environment: str) -> dict[str, Any]:
    """Run code in a process whose connections are watched; return the JSON of its last line."""
    done = subprocess.run(
        [sys.executable, "-c", WATCH + code, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_the_watch_sees_a_connection() -> None:
    found = run_watched(CALL)
    assert ["socket.connect", "192.0.2.1"] in found["calls"] or ["socket.getaddrinfo", "192.0.2.1"] in found["calls"]
    assert "the network is forbidden here" in found["error"]


@pytest.mark.slow
def test_main_job_prediction_and_report_call_nobody(tmp_path: Path) -> None:
    make_phantoms(tmp_path / "data", PhantomOptions(n_patients=20, size_px=64, views=(1, 1)))
    data, run = str(tmp_path / "data"), str(tmp_path / "run")
    commands = [
        ["run", data, "--out", run, "--budget", "0.01s"],
        ["predict", run, data, "--out", str(tmp_path / "found.csv")],
        ["report", run],
        ["cache"],
        ["doctor"],
        ["backbones", "--json"],
        ["weights", "list"],
        ["weights", "verify"],
    ]
    found = run_watched(
        COMMANDS,
        json.dumps(commands),
        THAWLINE_CACHE=str(tmp_path / "cache"),  # empty, so that the network is converted, too
        THAWLINE_DATA=str(tmp_path / "ledger"),
    )
    assert found["codes"] == [0] * len(commands)
    assert found["calls"] == []
    assert "openvino" in found["loaded"]
    assert not [name for name in found["loaded"] if name.startswith("openvino_telemetry")]
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert re.findall(r"https?://(?!www\.w3\.org/)\S+", page) == []


@pytest.mark.slow
def test_weights_that_only_the_hub_has_are_asked_for_and_then_refused(tmp_path: Path) -> None:
    """The one call there is, and only because the user names weights that are not here."""
    make_phantoms(tmp_path / "data", PhantomOptions(n_patients=20, size_px=64, views=(1, 1)))
    command = ["run", str(tmp_path / "data"), "--out", str(tmp_path / "run"), "--backbone", "timm/resnet18"]
    environment = {"THAWLINE_CACHE": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hub")}
    found = run_watched(COMMANDS, json.dumps([command]), **environment)
    assert found["codes"] == [2]
    assert not (tmp_path / "run").exists()
