"""The model folder: what it holds, that it is checked when it is read, and that it computes what it computed."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import thawline
import thawline.share.bundle as bundle
from helpers import Notes
from thawline.errors import ModelError
from thawline.files import file_digest, json_digest
from thawline.learn.augment import augment, list_views
from thawline.learn.cuts import make_classifier
from thawline.learn.engine import detect_hardware
from thawline.learn.ensemble import EnsembleHead, make_frozen_member, name_members, take_weights
from thawline.learn.handcrafted import extract_handcrafted
from thawline.learn.heads import fit_final
from thawline.learn.linear import LinearHead
from thawline.learn.loading import load_backbone
from thawline.learn.stages import find_stages_at
from thawline.learn.weight_files import Weights
from thawline.learn.weights import find_weights
from thawline.share.bundle import Model, draw_probe, find_problem, load_model, save_model
from thawline.types import Augmentation, Contract, Hardware, SilentListener

pytestmark = pytest.mark.slow

TASK = {"kind": "binary", "classes": ["a", "b"], "positive": "b", "threshold": 0.3}
CONTRACT = Contract(224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def weights() -> Weights:
    return find_weights("efficientnet_lite0")


@pytest.fixture(scope="module")
def hardware() -> Hardware:
    return detect_hardware("cpu")


@pytest.fixture(scope="module")
def head() -> LinearHead:
    """A head of moderate slopes, so that probabilities lie well within 0 and 1."""
    noise = np.random.Generator(np.random.PCG64(0))
    slopes = noise.normal(size=(2, 1280)) * 0.005
    return LinearHead(np.zeros(1280), np.ones(1280), slopes, np.zeros(2))


@pytest.fixture(scope="module")
def saved(
    weights: Weights, hardware: Hardware, head: LinearHead, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Model]:
    folder = tmp_path_factory.mktemp("saved") / "model"
    return folder, save_model(folder, weights=weights, contract=CONTRACT, head=head, hardware=hardware, task=TASK)


@pytest.fixture
def folder(saved: tuple[Path, Model], tmp_path: Path) -> Path:
    """A copy of the model folder to spoil."""
    return Path(shutil.copytree(saved[0], tmp_path / "model"))


def change_contract(folder: Path, **changes: Any) -> None:
    """Change what the contract states, as another version or machine would have written it: with its own digest."""
    path = folder / "contract.json"
    facts = {**json.loads(path.read_text("utf-8")), **changes}
    del facts["digest"]
    path.write_text(json.dumps({**facts, "digest": json_digest(facts)}), "utf-8")


def test_folder_holds_all_that_prediction_needs(saved: tuple[Path, Model], weights: Weights) -> None:
    folder, model = saved
    assert {path.name for path in folder.iterdir()} == {
        "contract.json",
        "weights.safetensors",
        "head.json",
        "head.safetensors",
    }
    facts = json.loads((folder / "contract.json").read_text("utf-8"))
    assert facts["thawline"] == thawline.__version__
    assert facts["task"] == TASK
    assert facts["weights"]["sha256"] == weights.sha256
    assert str(weights.path) not in json.dumps(facts)
    assert (model.classes, model.positive, model.threshold, model.contract) == (("a", "b"), "b", 0.3, CONTRACT)


def test_backbone_without_its_classifier_is_kept_bit_by_bit(saved: tuple[Path, Model], weights: Weights) -> None:
    kept = load_file(saved[0] / "weights.safetensors")
    own = load_backbone(weights).state_dict()
    assert not any(key.startswith("classifier") for key in kept)
    assert set(kept) == set(own)
    assert all(np.array_equal(kept[key], own[key].numpy()) for key in kept)


def test_model_read_back_predicts_what_the_network_and_the_head_compute(
    saved: tuple[Path, Model], weights: Weights, head: LinearHead
) -> None:
    """The referee is plain torch on the same input, without engine, cache or rounding."""
    import torch

    image = np.random.Generator(np.random.PCG64(1)).integers(0, 256, (224, 224, 3), np.uint8)
    given = torch.from_numpy((image / 255 - 0.5) / 0.5).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        features = load_backbone(weights)(given).numpy()
    notes = Notes()
    found = load_model(saved[0], device="cpu", listener=notes).predict_proba([image])
    assert found == pytest.approx(head.predict_proba(features), abs=2e-3)  # features are rounded to float16
    assert notes.warnings == []


def test_threshold_decides_the_name(saved: tuple[Path, Model]) -> None:
    table = np.array([[0.71, 0.29], [0.7, 0.3], [0.2, 0.8]])
    assert saved[1].name_classes(table) == ["a", "b", "b"]
    several = dataclasses.replace(saved[1], classes=("a", "b", "c"), positive=None)
    assert several.name_classes(np.array([[0.3, 0.3, 0.4], [0.5, 0.2, 0.3]])) == ["c", "a"]


@pytest.mark.slow
def test_foreign_heads_are_kept_too(weights: Weights, hardware: Hardware, tmp_path: Path) -> None:
    noise = np.random.Generator(np.random.PCG64(0))
    labels = np.arange(40) % 2
    features = noise.normal(size=(40, 1280)).astype(np.float32) + labels[:, None].astype(np.float32)
    head, _ = fit_final("k_nn", features, labels, np.arange(40), 2, folds=np.arange(40) // 2 % 4, seed=0)
    made = save_model(tmp_path, weights=weights, contract=CONTRACT, head=head, hardware=hardware, task=TASK)
    image = draw_probe(CONTRACT)
    assert np.array_equal(load_model(tmp_path, device="cpu").predict_proba([image]), made.predict_proba([image]))
    assert (tmp_path / "head.skops").is_file()


@pytest.mark.parametrize("scales", [((0.7,), (1.25,)), ((0.7, 0.6), (0.0, 1.1))], ids=["networks", "and frozen heads"])
def test_networks_above_a_thaw_line_are_kept_and_predict_as_one(
    weights: Weights, hardware: Hardware, head: LinearHead, tmp_path: Path, scales: tuple[tuple[float, ...], ...]
) -> None:
    """The referee is plain torch: every network and frozen head by itself, and the mean of their probabilities."""
    import torch

    contract = dataclasses.replace(CONTRACT, feature_dtype="float32")
    stages = find_stages_at(load_backbone(weights), ["blocks.6"])
    networks = [make_classifier(copy.deepcopy(stages.suffix("blocks.6")), head) for _ in range(2)]
    with torch.no_grad():  # as training leaves them: each with weights of its own, in the suffix too
        for number, network in enumerate(networks):
            for parameter in network.parameters():
                parameter.mul_(1 + 0.02 * number)
    heads = [dataclasses.replace(head, intercept=np.array([0.0, shift])) for shift in (0.5, -0.5)]
    members, suffix = list(networks), stages.suffix("blocks.6")
    if len(scales[0]) > 1:
        members.append(make_frozen_member(suffix, heads))
    folder = tmp_path / "model"
    made = save_model(
        folder,
        weights=weights,
        contract=contract,
        head=EnsembleHead(scales, 2),
        hardware=hardware,
        task=TASK,
        thaw_line="blocks.6",
        members=name_members([take_weights(member) for member in members]),
    )
    image = np.random.Generator(np.random.PCG64(2)).integers(0, 256, (224, 224, 3), np.uint8)
    given = torch.from_numpy((image / 255 - 0.5) / 0.5).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        (activations,) = stages.prefix(["blocks.6"])(given)
        features = suffix(activations).numpy()
        each = []
        for network, frozen, row in zip(networks, heads, scales, strict=True):
            logits = row[0] * network(activations).double()
            if len(row) > 1:
                logits += row[1] * torch.from_numpy(features @ frozen.coefficients.T + frozen.intercept)
            each.append(logits.softmax(1).numpy())
    notes = Notes()
    found = load_model(folder, device="cpu", listener=notes)
    assert notes.warnings == []
    assert np.abs(each[0] - each[1]).max() > 0.01
    assert found.predict_proba([image]) == pytest.approx((each[0] + each[1]) / 2, abs=2e-4)
    assert np.array_equal(found.predict_proba([image]), made.predict_proba([image]))
    assert (found.weights.thaw_line, found.weights.sha256) == ("blocks.6", file_digest(folder / "weights.safetensors"))


def test_views_of_an_image_are_averaged(
    weights: Weights, hardware: Hardware, head: LinearHead, saved: tuple[Path, Model], tmp_path: Path
) -> None:
    """The referee is the model of one view, given the views as images of their own."""
    views = list_views(2, 3, Augmentation(turn_deg=20, shift=0.1, tone=0.2, flip_sides=True))
    about: dict[str, Any] = {"contract": CONTRACT, "head": head, "hardware": hardware, "task": TASK}
    save_model(tmp_path, weights=weights, views=views, **about)
    image = np.random.Generator(np.random.PCG64(4)).integers(0, 256, (224, 224, 3), np.uint8)
    digest = bundle.scan([image], 1, SilentListener())[0].digest
    each = saved[1].predict_proba([augment(image, view, digest) for view in views])
    found = load_model(tmp_path, device="cpu").predict_proba([image])
    assert np.ptp(each, axis=0).max() > 1e-3
    assert found[0] == pytest.approx(each.mean(axis=0), abs=1e-6)


def test_a_head_of_handcrafted_features_uses_no_backbone(weights: Weights, hardware: Hardware, tmp_path: Path) -> None:
    noise = np.random.Generator(np.random.PCG64(5))
    images = [noise.integers(0, 256, (64, 64), np.uint8) for _ in range(2)]
    features = extract_handcrafted(images, CONTRACT, 1, SilentListener())
    width = features.shape[1]
    head = LinearHead(np.zeros(width), np.ones(width), noise.normal(size=(2, width)), np.zeros(2))
    about: dict[str, Any] = {"contract": CONTRACT, "head": head, "hardware": hardware, "task": TASK}
    save_model(tmp_path, weights=weights, texture=True, **about)
    assert load_model(tmp_path, device="cpu").predict_proba(images) == pytest.approx(head.predict_proba(features))


def test_run_folder_leads_to_its_model(folder: Path) -> None:
    assert load_model(folder.parent).classes == ("a", "b")
    assert load_model(str(folder)).digest == load_model(folder.parent).digest


@pytest.mark.parametrize("name", ["weights.safetensors", "head.safetensors", "head.json", "contract.json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_damage_is_noticed(name: str, damage: str, folder: Path) -> None:
    path = folder / name
    content = path.read_bytes()
    half = len(content) // 2
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[:half] + (b"#" + content[half + 1 :] if damage == "changed" else b""))
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)
    assert name in str(caught.value)


def test_swapped_classes_are_noticed_although_they_compute_the_same(folder: Path) -> None:
    path = folder / "contract.json"
    text = path.read_text("utf-8").replace('"a"', '"x"').replace('"b"', '"a"').replace('"x"', '"b"')
    path.write_text(text, "utf-8")
    with pytest.raises(ModelError, match="what it states is not what its digest says"):
        load_model(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 99}, r"expected schema and reader \(1, 1\), found \(99, 1\)"),
        ({"reader": 99, "thawline": "9.9"}, "the model is of Thawline 9.9"),
        ({"probe": None}, "the model was not finished"),
        ({"probe": [0.5]}, "expected one probability a class"),
        ({"input": {"size_px": 224}}, "cannot be used: TypeError"),
        ({"task": {"classes": ["a", "b"]}}, "cannot be used: KeyError"),
        ({"files": {"head.skops": "0"}}, "expected the file head.skops, found none"),
    ],
)
def test_contracts_that_cannot_be_followed(changes: dict[str, Any], message: str, folder: Path) -> None:
    change_contract(folder, **changes)
    with pytest.raises(ModelError, match=message):
        load_model(folder)


def test_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"expected a run folder or a model folder with contract\.json, found none"):
        load_model(tmp_path)


@pytest.mark.parametrize("wide", [None, (0.0, 4095.0), (-3.0, 2.5)])
def test_own_test_image_uses_the_whole_range(wide: tuple[float, float] | None) -> None:
    contract = dataclasses.replace(CONTRACT, wide_range=wide)
    image = draw_probe(contract)
    assert image.shape == (96, 128)
    assert image.dtype == (np.uint8 if wide is None else np.float32)
    low, high = wide or (0, 255)
    assert (image.min(), image.max()) == pytest.approx((low, high), abs=0.01 * (high - low))
    assert np.array_equal(image, draw_probe(contract))
    assert find_problem(bundle.scan([image], 1, SilentListener())[0], contract) == ""


class Shifted:
    """An engine whose features are off by some share, as those of another processor or library may be."""

    def __init__(self, engine: Any, share: float) -> None:
        self.engine, self.share, self.batch_items = engine, share, engine.batch_items

    def run(self, batches: Any) -> Iterator[Any]:
        for features in self.engine.run(batches):
            yield features * (1 + self.share)


def shift_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, share: float) -> None:
    import thawline.learn.features as features_module

    real = features_module.open_engine
    monkeypatch.setattr(features_module, "open_engine", lambda *given: Shifted(real(*given), share))
    monkeypatch.setattr(
        features_module, "open_space", lambda *given: features_module.Space("f", {}, tmp_path / "cache")
    )


def test_engine_that_computes_other_numbers_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shift_engine(monkeypatch, tmp_path, 0.5)
    with pytest.raises(ModelError, match="this machine computes other probabilities than the run did"):
        load_model(folder)


def test_engine_that_computes_nan_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LinearHead, "predict_proba", lambda self, features: np.full((len(features), 2), np.nan))
    with pytest.raises(ModelError, match="this machine computes other probabilities"):
        load_model(folder)


def test_small_differences_are_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe, notes = json.loads((folder / "contract.json").read_text("utf-8"))["probe"], Notes()
    change_contract(folder, probe=[probe[0] + 1e-3, probe[1] - 1e-3], engine="openvino 1999.1")
    load_model(folder, listener=notes)
    assert len(notes.warnings) == 1
    assert "probabilities differ by 1.0e-03" in notes.warnings[0]
    assert "made with openvino 1999.1" in notes.warnings[0]


def test_precision_that_this_processor_lacks_falls_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        bundle, "detect_hardware", lambda device: dataclasses.replace(detect_hardware("cpu"), bf16=False)
    )
    change_contract(folder, input={**CONTRACT.to_json(), "precision": "bf16"})
    notes = Notes()
    model = load_model(folder, listener=notes)
    assert model.contract.precision == "f32"
    assert notes.warnings == [
        "the model was made with bf16 arithmetic, which this processor lacks; f32 is used, and probabilities may differ "
        "by up to 0.01"
    ]


def test_only_heads_of_the_table_are_saved(weights: Weights, hardware: Hardware, tmp_path: Path) -> None:
    class Own:
        name, n_classes = "own", 2

        def predict_proba(self, features: Sequence[Any]) -> Any:
            return np.full((len(features), 2), 0.5)

    with pytest.raises(ModelError, match=r"Only heads named linear, .* can be stored; found Own"):
        save_model(tmp_path, weights=weights, contract=CONTRACT, head=Own(), hardware=hardware, task=TASK)
