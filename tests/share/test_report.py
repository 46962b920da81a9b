"""The page says what the files of the run folder say, to anyone, and nothing that must stay in the folder."""

from __future__ import annotations

import csv
import html
import itertools
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thawline.errors import ModelError, OutputError
from thawline.growth import foretell
from thawline.judge.conformal import fit_sets
from thawline.judge.evaluation import evaluate
from thawline.judgement import (
    Scored,
    judge_calibration,
    judge_decision,
    judge_doubts,
    judge_readings,
    judge_subgroups,
)
from thawline.share.folder import WITHHELD, list_names, withhold
from thawline.share.report import render, write_report
from thawline.share.safeguards import Safeguards
from thawline.share.summary import summarise
from thawline.share.words import format_estimate, format_number, format_percent, format_plain, format_seconds

pytestmark = pytest.mark.slow

HOSTILE = "<script>alert(1)</script>"
VOID = {"meta", "img", "br", "link", "input", "hr"}


# --- a run folder ----------------------------------------------------------------------------------------------------


def write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False), "utf-8")


def draw_predictions(classes: tuple[str, ...], n_patients: int, per_patient: int, seed: int) -> dict[str, Any]:
    """Two items in five patients are hard; identifiers look like a hospital's."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_patients), per_patient)
    labels = np.repeat(np.arange(n_patients) % len(classes), per_patient)
    logits = rng.normal(size=(len(labels), len(classes)))
    logits[np.arange(len(labels)), labels] += 1.6
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return {"labels": labels, "groups": groups, "probabilities": probabilities, "folds": groups // len(classes) % 5}


def write_predictions(run: Path, classes: tuple[str, ...], parts: dict[str, dict[str, Any]]) -> None:
    with (run / "predictions.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["item", "patient", "split", "label", "fold", *(f"p_{name}" for name in classes)])
        number = 0
        for split, part in parts.items():
            for label, group, row, fold in zip(
                part["labels"], part["groups"], part["probabilities"], part["folds"], strict=True
            ):
                item = f"class{label}/Scan of Jane Doe ({number}).png"
                writer.writerow(
                    [item, f"MRN-{split[0]}{group:05d}", split, classes[label], fold if split != "test" else "", *row]
                )
                number += 1


def judge_part(part: dict[str, Any], classes: tuple[str, ...], positive: str | None, folds: bool) -> dict[str, Any]:
    return evaluate(
        part["labels"], part["probabilities"], part["groups"], classes, positive,
        folds=part["folds"] if folds else None, n_resamples=200,
    )  # fmt: skip


def count_class(part: dict[str, Any], classes: tuple[str, ...]) -> dict[str, dict[str, int]]:
    return {
        name: {
            "items": int((part["labels"] == k).sum()),
            "patients": len(np.unique(part["groups"][part["labels"] == k])),
        }
        for k, name in enumerate(classes)
    }


def shift(estimate: dict[str, Any], by: float) -> dict[str, Any]:
    ends = ("value", "low", "high")
    return {**estimate, **{key: estimate[key] + by for key in ends if estimate[key] is not None}}


def make_curve(n_epochs: int, start: float) -> list[float]:
    """Losses of a search from the start on, ten epochs, smallest after ``n_epochs``."""
    return [start + 0.01 * abs(epoch - n_epochs) for epoch in range(11)]


def make_rung(
    rung: int, strategy: str, line: str | None, head: str, auc: dict[str, Any], **changes: Any
) -> dict[str, Any]:
    """One entry of the ladder, as describe_ladder returns it: of a head, unless ``changes`` say otherwise."""
    return {
        "rung": rung, "strategy": strategy, "thaw_line": line, "thawed_fraction": 0.0, "head": head, "auc": auc,
        "accuracy": auc, "log_loss": None, "difference": None, "standard_error": None, "gain": None,
        "chance_of_useful_gain": None, "strengths": [], "learning_rates": [], "epochs": [], "curves": [], "precision": None,
        "n_folds": 5, "seconds": None, "forecast_seconds": None, "cpu_seconds": 17.25, "peak_rss_mib": None,
        "energy_wh": 0.0625, "chosen": False, **changes,
    }  # fmt: skip


def make_ladder(validation: dict[str, Any]) -> list[dict[str, Any]]:
    auc = validation["auc"]
    gain = {"value": 0.05, "low": -0.0127, "high": 0.1127, "level": 0.95, "method": "paired, resampling patients"}
    compared = [
        {"log_loss": loss, "difference": difference, "standard_error": error}
        for loss, difference, error in (
            (0.452, 0.031, 0.012),
            (0.497, 0.076, None),
            (0.423, 0.002, 0.009),
            (0.421, 0.0, 0.0),
        )
    ]
    stuck, moved = [4, 0, 7, 0, 2], [5, 4, 4, 4, 5]
    return [
        make_rung(0, "feature_extractor", None, "linear", shift(auc, -0.05), **compared[0], seconds=3.2),
        make_rung(1, "feature_extractor_hybrid", None, "random_forest", shift(auc, -0.06), **compared[1], seconds=9.8,
                  forecast_seconds=19.2, gain=shift(gain, -0.06), chance_of_useful_gain=0.02),
        make_rung(2, "fine_tuning", "conv_head", "linear", auc, **compared[2], seconds=41.0, forecast_seconds=35.26,
                  gain=gain, chance_of_useful_gain=0.9, thawed_fraction=0.122, chosen=True, epochs=stuck,
                  learning_rates=[8e-4, 8e-4, 2e-4, 2e-4, 2e-4], curves=[
                      [make_curve(10, 0.7), make_curve(stop, 0.4 + 0.03 * fold)] for fold, stop in enumerate(stuck)]),
        make_rung(3, "fine_tuning", "blocks.6", "linear", auc, **compared[3], seconds=127.5, forecast_seconds=100.0,
                  gain=shift(gain, -0.05), chance_of_useful_gain=0.04, thawed_fraction=0.55, epochs=moved,
                  learning_rates=[8e-4] * 5, curves=[[make_curve(n_epochs, 0.4)] for n_epochs in moved]),
        make_rung(4, "handcrafted", None, "linear", shift(auc, -0.2), log_loss=0.611, seconds=12.4),
        make_rung(5, "random_init", "conv_stem", "linear", {**auc, "low": None, "high": None}, log_loss=0.700,
                  seconds=3907.0, forecast_seconds=3906.0, thawed_fraction=1.0, epochs=[0] * 5, learning_rates=[2e-4] * 5,
                  curves=[[make_curve(0, 0.69)] * 2] * 5),
    ]  # fmt: skip


def make_stops() -> list[dict[str, Any]]:
    lines = [{"rung": "fine_tuning conv_head", "chance": 0.031}, {"rung": "fine_tuning blocks.6", "chance": 0.058}]
    return [
        {"before": "k_nn", "reason": "budget", "budget_s": 1200.0, "spent_s": 1100.4, "forecast_s": 180.0},
        {"before": "fine_tuning blocks.5", "reason": "no useful gain", "useful_gain": 0.01, "lines": lines},
    ]


def make_plan() -> dict[str, Any]:
    evidence = [
        {"candidate": "squash", "log_loss": 0.452, "difference": 0.0, "standard_error": 0.0},
        {"candidate": "letterbox", "log_loss": 0.468, "difference": 0.016, "standard_error": 0.011},
    ]
    choices: list[dict[str, Any]] = [
        {"name": "aspect", "value": "squash", "kind": "empirical", "candidates": ["squash", "letterbox", "crop"],
         "reason": "The lowest out-of-fold log-loss with a linear head.", "evidence": evidence},
        {"name": "backbone", "value": "efficientnet_lite0", "kind": "given", "candidates": None, "evidence": None,
         "reason": "Set with --backbone."},
        {"name": "folds", "value": 5, "kind": "fixed", "candidates": None, "evidence": None,
         "reason": "Five patient-grouped folds."},
        {"name": "batch_norm", "value": {"frozen": True, "momentum": None}, "kind": "rule", "candidates": [1, 2.5],
         "reason": "Frozen layers keep the statistics of pretraining.", "evidence": None},
        {"name": "precision", "value": "bf16", "kind": "empirical", "candidates": ["f32", "bf16"], "reason": "It agrees.",
         "evidence": [{"candidate": "bf16", "smallest_cosine": 0.9991, "n_items": 64}]},
        {"name": "highest_block", "value": None, "kind": "fixed", "candidates": None, "evidence": None, "reason": "all"},
        {"name": "tta", "value": False, "kind": "fixed", "candidates": None, "evidence": None, "reason": "one view"},
        {"name": "final", "value": "ensemble", "kind": "fixed", "candidates": None, "evidence": None, "reason": "kept"},
        {"name": "rung", "value": "fine_tuning conv_head", "kind": "empirical",
         "candidates": ["linear", "fine_tuning conv_head"],
         "reason": "the first within one standard error of the best, fine_tuning conv_head, not linear",
         "evidence": [{"candidate": "linear", "log_loss": 0.452, "difference": 0.031, "standard_error": 0.012}]},
    ]  # fmt: skip
    return {"schema": 1, "thawline": "0.1.0", "digest": "9f" * 32, "fingerprint": "3a" * 32, "choices": choices}


def make_fingerprint(parts: dict[str, dict[str, Any]], classes: tuple[str, ...]) -> dict[str, Any]:
    counts = {name: count_class(part, classes) for name, part in parts.items()}
    whole = {
        name: {key: sum(c[name][key] for c in counts.values()) for key in ("items", "patients")} for name in classes
    }
    size = {"min": 124, "median": 360.5, "max": 1853}
    return {
        "schema": 1, "digest": "3a" * 32, "n_items": sum(len(part["labels"]) for part in parts.values()),
        "n_patients": sum(len(np.unique(part["groups"])) for part in parts.values()), "patients_given": True,
        "n_blank_patients": 3, "n_together": 0, "classes": whole, "parts": {"test": {}, **counts},
        "width_px": size, "height_px": size,
        "bits": {"8": 746}, "channels": {"1": 12, "3": 734}, "formats": {"JPEG": 700, "PNG": 46},
        "wide_range": None, "imbalance": 1.14, "split_given": False,
    }  # fmt: skip


def make_finding(name: str, severity: str, groups: list[list[int]]) -> dict[str, Any]:
    return {"name": name, "severity": severity, "text": "what it means", "groups": groups, "counted": True, "shown": []}


def make_audit(classes: tuple[str, ...]) -> dict[str, Any]:
    reason = "cannot identify image file '/data/ward 7/Jane Doe (7).png'"
    return {
        "schema": 1,
        "unreadable": [{"item": item, "label": classes[0], "reason": reason} for item in (12, 77)],
        "left_out": [{"item": 4, "label": classes[0], "reason": "identical items with different labels"}],
        "overrides": ["--allow-leak", "--skip-unreadable"],
        "findings": [make_finding("patients across splits", "fatal", [[21, 345]]),
                     make_finding("identical images with different labels", "severe", [[4, 19]]),
                     make_finding("identical images", "note", [[3, 17], [5, 6, 9]])],
        "tables": [{"title": title, "counts": {row: {name: {"items": 7, "patients": 5} for name in classes} for row in rows}}
                   for title, rows in (("data", ["all"]), ("hospital", ["north", "a/b"]))],
        "support": "on the given test part (5 + 5 patients) an interval of ±0.2",
        "shortcuts": [], "warnings": [{"level": "caution", "text":
            "Patient MRN-d00003 has a file C:\\scans\\Jane.dcm of an odd size: class0/Scan of Jane Doe (6).png."}],
        "test_openings": {"count": 2, "plans": 2},
    }  # fmt: skip


def make_spec() -> dict[str, Any]:
    packages = {"torch": "2.8.0", "timm": "1.0.20"}
    environment = {
        "python": "3.11.9",
        "platform": "Linux",
        "packages": packages,
        "processor": "x86",
        "engine": "openvino",
    }
    weights = {"name": "efficientnet_lite0", "sha256": "c0" * 32, "source": "/opt/weights/lite0.safetensors",
               "licence": "Apache-2.0", "pretrained_on": "ImageNet-1k"}  # fmt: skip
    options = {"data": "/data/ward 7", "out": "runs/jane", "budget_minutes": 20, "positive": None, "hold_test": False}
    return {"schema": 1, "thawline": "0.1.0", "seed": 7, "options": options, "environment": environment,
            "weights": weights, "model_digest": "77" * 32}  # fmt: skip


def write_examples(run: Path, classes: tuple[str, ...], n: int = 6) -> None:
    from PIL import Image

    (run / "examples").mkdir()
    for item in range(n):
        yy, xx = np.mgrid[:96, :96]
        disc = 200 * np.exp(-((yy - 40 - 3 * item) ** 2 + (xx - 48) ** 2) / 600)
        Image.fromarray(disc.astype(np.uint8)).save(run / "examples" / f"{item + 30}.png")
    examples = [
        {"item": item + 30, "label": classes[0], "predicted": classes[1], "probability": 0.991 - item / 100,
         "image": f"examples/{item + 30}.png"} for item in range(n)
    ]  # fmt: skip
    write_json(run / "examples.json", examples)


def make_readings(part: Scored, index: int) -> dict[str, Any]:
    """A reader who calls three items in four rightly, and one who scores half of the items."""
    truth, places = (part.labels == index).astype(float), np.arange(len(part.labels))
    return {"a": np.where(places % 4 == 0, 1 - truth, truth), "b": np.where(places % 2, truth + places % 7 / 3, np.nan)}


def make_judgement(parts: dict[str, dict[str, Any]], classes: tuple[str, ...], positive: str | None) -> dict[str, Any]:
    """What is judged beside the metrics, from the functions that a run judges with."""
    index = None if positive is None else classes.index(positive)
    scored = {
        "validation" if split == "development" else "test": Scored(
            part["labels"], part["probabilities"], part["groups"], np.arange(len(part["labels"]))
        )
        for split, part in parts.items()
    }

    def judge(about: Any) -> dict[str, Any]:
        return {"test": None} | {name: about(part) for name, part in scored.items()}

    sets = fit_sets(scored["validation"].labels, scored["validation"].probabilities, scored["validation"].groups)
    return {
        "calibration": {"map": "platt", **judge(lambda part: judge_calibration(part, classes, index, 0))},
        "decision": None
        if index is None
        else {
            "choice": None,
            **judge(lambda part: judge_decision(part, index, 0.5, prevalence=0.1, draws=None, seed=0)),
        },
        "readers": None if index is None else judge(lambda part: judge_readings(part, index, make_readings(part, index))),
        "doubts": judge(lambda part: judge_doubts(part, Safeguards(sets=sets), 0)),
        "familiarity": {"kind": "mahalanobis", "share": 0.95, "limit": 3.0, "note": "", "n_test_items": 180,
                        "n_unfamiliar": 7},
        "growth": foretell(
            np.array([10, 20, 40, 80]),
            np.array([[0.70, 0.75, 0.79, 0.82], [0.72, 0.76, 0.80, 0.83], [0.69, 0.76, 0.80, 0.82]]),
            scored["validation"],
            120,
            5,
            0,
        ),
        "subgroups": judge(
            lambda part: judge_subgroups(
                part,
                {"sex": ["F" if group % 4 < 2 else "M" for group in part.groups]},
                {"classes": classes, "positive": positive, "threshold": 0.5},
                index,
            )
        ),
    }  # fmt: skip


def write_run(
    run: Path,
    classes: tuple[str, ...] = ("COVID", "NonCOVID"),
    *,
    test: bool = True,
    n_patients: int = 60,
    per_patient: int = 3,
) -> Path:
    """Write a whole run folder with numbers from the evaluation itself."""
    run.mkdir(parents=True)
    positive = classes[0] if len(classes) == 2 else None
    parts = {"development": draw_predictions(classes, 2 * n_patients, per_patient, 1)}
    if test:
        parts["test"] = draw_predictions(classes, n_patients, per_patient, 2)
    validation = judge_part(parts["development"], classes, positive, folds=True)
    metrics = {
        "schema": 1,
        "task": {"kind": "binary" if positive else "multiclass", "classes": classes, "positive": positive, "threshold": 0.5},
        "chosen": {"backbone": "efficientnet_lite0", "strategy": "fine_tuning", "thaw_line": "conv_head",
                   "thawed_fraction": 0.122, "head": "linear", "n_networks": 5},
        "test": judge_part(parts["test"], classes, positive, folds=False) if test else None,
        "validation": validation,
        "ladder": make_ladder(validation),
        "stops": make_stops(),
        "nested": None,
        **make_judgement(parts, classes, positive),
        "cost": {"seconds": {"read": 8.1, "features": 21.7, "heads": 14.2, "training": 302.0, "total": 371.4},
                 "cpu_seconds": {"read": 5.2, "features": 40.1, "heads": 20.0, "training": 590.6, "total": 655.9},
                 "peak_rss_mib": 1432.7, "peak_rss_mib_by_step": {"read": 600, "features": None, "heads": 900},
                 "energy_wh": None, "energy_wh_by_step": {"read": 0.1, "training": 1.9}, "energy_method": "by hand",
                 "inference": {"measured_on": "development", "n_items": 128, "per_items": 1000, "seconds": 3.94,
                               "cpu_seconds": 7.5, "energy_wh": 0.0315, "peak_rss_mib": 812, "start_seconds": 0.25,
                               "energy_method": "estimated: by hand", "model_mib": 13.25}},
    }  # fmt: skip
    files = {"metrics": metrics, "plan": make_plan(), "fingerprint": make_fingerprint(parts, classes),
             "audit": make_audit(classes), "spec": make_spec()}  # fmt: skip
    for name, data in files.items():
        write_json(run / f"{name}.json", data)
    write_predictions(run, classes, parts)
    write_examples(run, classes)
    return run


def change(run: Path, name: str, **changes: Any) -> None:
    write_json(run / name, json.loads((run / name).read_text("utf-8")) | changes)


class Page(HTMLParser):
    """A page taken apart: text, tags, attributes; fails on tags that do not close in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text("utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(self.source)
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    def list_values(self, attribute: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(attribute))]


@pytest.fixture(scope="module")
def binary_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("binary") / "run")


@pytest.fixture(scope="module")
def page(binary_run: Path) -> Page:
    return Page(write_report(binary_run))


@pytest.fixture
def run(binary_run: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(binary_run, tmp_path / "run")


def list_estimates(data: Any) -> list[dict[str, Any]]:
    if isinstance(data, dict) and "method" in data and "value" in data:
        return [data]
    entries = data.values() if isinstance(data, dict) else data if isinstance(data, list) else []
    return [estimate for entry in entries for estimate in list_estimates(entry)]


# --- what the page says ----------------------------------------------------------------------------------------------


def test_every_estimate_of_the_metrics_stands_on_the_page(page: Page, binary_run: Path) -> None:
    metrics = json.loads((binary_run / "metrics.json").read_text("utf-8"))
    hidden = (
        "decision",
        "doubts",
        "subgroups",
        "growth",
        "readers",
    )  # of which some are drawn, and others are those of one part only
    estimates = list_estimates({key: value for key, value in metrics.items() if key not in hidden})
    assert len(estimates) > 30
    gains = [rung["gain"] for rung in metrics["ladder"] if rung["gain"]]
    assert len(gains) == 3
    for estimate in estimates:
        if estimate["value"] is not None and estimate["low"] is not None:
            sign = "+" if estimate in gains else ""
            value, low, high = (f"{estimate[key]:{sign}.3f}".replace("-", "−") for key in ("value", "low", "high"))
            assert f"{value} [{low}, {high}]" in page.text


def test_the_headline_is_the_test_part(page: Page, binary_run: Path) -> None:
    test = json.loads((binary_run / "metrics.json").read_text("utf-8"))["test"]
    head = page.text[: page.text.index("Warnings and overrides")]
    assert f"AUC on the test part {test['auc']['value']:.3f} [{test['auc']['low']:.3f}" in head
    assert f"{test['n_items']} items of {test['n_patients']} patients" in head
    assert f"in {round(100 * test['auc']['value'])} % of such pairs" in head
    for words in (
        "Strategy fine tuning", "Thaw line conv_head: trained from there up; everything below it is frozen",
        "Fine-tuning ratio 12 % of the backbone's parameters", "Backbone efficientnet_lite0", "Head linear",
        "ensemble of the 5 folds' networks, each blended with the frozen head and calibrated on its own held-out fold",
        "2 of 5 not trained",
    ):  # fmt: skip
        assert words in head, words
    assert "the test part was predicted by all 5 as one" in page.text


def test_without_a_test_part_the_headline_is_labelled_cross_validated(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", test=False)
    page = Page(write_report(run))
    auc = json.loads((run / "metrics.json").read_text("utf-8"))["validation"]["auc"]
    assert f"Cross-validated AUC (no test result) {auc['value']:.3f}" in page.text
    assert "AUC on the test part" not in page.text
    assert "No ROC curve" not in page.text


def test_counts_of_the_confusion_matrix(page: Page, binary_run: Path) -> None:
    counts = json.loads((binary_run / "metrics.json").read_text("utf-8"))["test"]["confusion"]["counts"]
    table = page.source[page.source.index('<table class="confusion') :].split("</table>")[0]
    cells = [int(cell) for cell in re.findall(r"<td[^>]*>(\d+)<small>", table)]
    assert cells == [count for row in counts for count in row]


def test_plan_and_cost(page: Page) -> None:
    for words in (
        "letterbox: log-loss 0.468 (to the best 0.016 ± 0.011)",
        "bf16: smallest cosine 0.9991, n items 64", "frozen yes, momentum none", "Candidates: 1, 2.5.",
        "the best, fine tuning from conv_head, not feature extractor, linear head",
        "feature extractor, linear head: log-loss 0.452 (to the best 0.031 ± 0.012)",
        "everything else 25.4 s", "Peak memory: 1433 MiB", "Energy: not measured", "9f" * 32, "77" * 32, "ImageNet-1k",
        "budget minutes 20", "seed 7", "Not a medical device.",
    ):  # fmt: skip
        assert words in page.text, words


def test_training_and_inference_are_told_apart(page: Page, binary_run: Path) -> None:
    cost = page.text[page.text.index("What it cost") :]
    making, using = cost[cost.index("Making the model") :].split("Using the model")
    auc = json.loads((binary_run / "metrics.json").read_text("utf-8"))["ladder"][2]["auc"]
    assert f"fine tuning from conv_head (chosen) 41.0 s 17.2 s – 0.062 {auc['value']:.3f}" in making
    assert "random init (control) 1 h 05 min" in making
    assert "1 000 items 3.9 s 7.5 s 812 0.032 0.2 s 13.2" in using
    assert (
        "Predicting 1 000 items takes 3.9 s, 7.5 s of core time and 0.032 Wh (estimated), after 0.2 s to start; measured on "
        "128 predictions of development items, all computed as for new items. The model takes 13.2 MiB on disk."
        in using
    )


def read_ladder(page: Page) -> list[list[str]]:
    """The rows of the table, cell by cell, without markup."""
    table = page.source[page.source.index('<table class="rungs') :].split("</table>")[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in table.split("<tr")[1:]]
    plain = [[html.unescape(re.sub(r"<[^>]+>", " ", cell)).replace("\u202f", " ") for cell in row] for row in rows]
    return [[" ".join(cell.split()) for cell in row] for row in plain]


def test_the_table_of_the_ladder(page: Page, binary_run: Path) -> None:
    rungs = json.loads((binary_run / "metrics.json").read_text("utf-8"))["ladder"]
    auc = [
        "{value:.3f} [{low:.3f}, {high:.3f}]".format(**rung["auc"]) if rung["auc"]["low"] else None for rung in rungs
    ]
    auc[5] = f"{rungs[5]['auc']['value']:.3f} (no interval)"
    header, *rows = read_ladder(page)
    assert header == ["Rung", "Strategy and thaw line", "Fine-tuning ratio", "Learning rate", "Epochs", "Time", "AUC",
                      "Gain", "Log-loss", "Difference"]  # fmt: skip
    assert rows == [
        ["0", "feature extractor, linear head", "0 %", "–", "–", "3.2 s", auc[0], "–", "0.452", "0.031 ± 0.012"],
        ["1", "feature extractor hybrid, random forest head", "0 %", "–", "–", "9.8 s forecast 19.2 s (+96 %)", auc[1],
         "−0.010 [−0.073, +0.053]", "0.497", "0.076 (no error)"],
        ["2", "fine tuning from conv_head (chosen)", "12 %", "0.0002 to 0.0008", "2 to 7; 3 of 5 folds trained",
         "41.0 s forecast 35.3 s (−14 %)", auc[2], "+0.050 [−0.013, +0.113]", "0.423", "0.002 ± 0.009"],
        ["3", "fine tuning from blocks.6", "55 %", "0.0008", "4 to 5", "2 min 08 s forecast 1 min 40 s (−22 %)", auc[3],
         "+0.000 [−0.063, +0.063]", "0.421", "0.000 ± 0.000"],
        ["4", "handcrafted (control)", "–", "–", "–", "12.4 s", auc[4], "–", "0.611", "–"],
        ["5", "random init (control)", "100 %", "–", "0 of 5 folds trained", "1 h 05 min forecast 1 h 05 min (0 %)",
         auc[5], "–", "0.700", "–"],
    ]  # fmt: skip


def test_the_ladder_says_where_it_ended_and_why(page: Page, run: Path) -> None:
    assert '<li><a href="#ladder">Ladder</a></li>' in page.source
    assert '<h2 id="ladder">Ladder</h2>' in page.source
    for words in (
        "The rung feature extractor hybrid, k nn head was left out: 18 min 20 s of the budget of 20 min 00 s were spent, "
        "and it was forecast to take 3 min 00 s.",
        "The ladder ended before fine tuning from blocks.5: the chance of an AUC at least 0.01 above the best rung so far "
        "was 3.1 % for fine tuning from conv_head and 5.8 % for fine tuning from blocks.6; 2 lines in a row below 10 % end "
        "the ladder, of those that thaw 50 % of the parameters or more.",
    ):
        assert words in page.text, words
    change(run, "metrics.json", stops=[])
    assert "Every rung of the plan was tried." in Page(write_report(run)).text
    assert "Every rung of the plan was tried." not in page.text


def test_training_curves_of_the_chosen_rung(page: Page, run: Path) -> None:
    assert (
        "Inner log-loss of fine tuning from conv_head by epoch: fold 1 from 0.440 at the start to 0.400 after 4 epochs; "
        "fold 2 from 0.430 at the start to 0.430 after 0 epochs; "
    ) in html.unescape(page.source)
    assert "left out" not in page.text[page.text.index("Training of fine tuning") :]
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    metrics["ladder"][2]["curves"][1] = [[0.0]]  # too few patients to be parted
    change(run, "metrics.json", ladder=metrics["ladder"])
    assert [fold["fold"] for fold in summarise(run)["training"]["folds"]] == [1, 3, 4, 5]
    assert "folds with too few patients to hold any back are left out" in Page(write_report(run)).text
    metrics["ladder"][2]["curves"] = [[[0.0]]] * 5
    change(run, "metrics.json", ladder=metrics["ladder"])
    assert summarise(run)["training"] is None


def test_a_frozen_rung_has_no_training_curves_and_no_thaw_line(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    for rung in metrics["ladder"]:
        rung["chosen"] = rung["rung"] == 1
    chosen = {
        "strategy": "feature_extractor_hybrid",
        "thaw_line": None,
        "thawed_fraction": 0.0,
        "head": "random_forest",
        "n_networks": None,
    }
    change(run, "metrics.json", ladder=metrics["ladder"], chosen={**metrics["chosen"], **chosen})
    page = Page(write_report(run))
    assert summarise(run)["training"] is None
    assert "Training of the other rungs" in page.text  # those that trained are shown whatever is chosen
    assert len([tag for tag, _ in page.tags if tag == "svg"]) == 7 + len(summarise(run)["other_training"])
    for words in ("Thaw line none: everything below the head is frozen", "Fine-tuning ratio 0 %",
                  "Delivered random forest head, refitted on all development patients"):  # fmt: skip
        assert words in page.text, words
    assert "predicted by all" not in page.text


@pytest.mark.parametrize("n_chosen", [0, 2])
def test_a_ladder_without_one_chosen_rung_is_damaged(run: Path, n_chosen: int) -> None:
    ladder = json.loads((run / "metrics.json").read_text("utf-8"))["ladder"]
    for rung in ladder:
        rung["chosen"] = rung["rung"] < n_chosen
    change(run, "metrics.json", ladder=ladder)
    with pytest.raises(ModelError, match=f"metrics.json is damaged: expected one rung .* chosen, found {n_chosen}"):
        write_report(run)


def test_warnings_and_overrides_stand_before_the_results(page: Page) -> None:
    said = page.text[page.text.index("Warnings and overrides") : page.text.index("Thawline drew the split")]
    for words in (
        "--allow-leak: Patients or identical images", "--skip-unreadable",
        "Patients across splits: 1 group (items 21, 345): what it means.",
        "2 items could not be read and were left out: COVID (2)",
        "1 item left out: identical items with different labels (1)",
        "Warning. Identical images with different labels: 1 group (items 4, 19)",
        "Note. Identical images: 2 groups (items 3, 5, 6, 9, 17)", "opened 2 times by 2 plans",
        "3 items without a patient",
        "Few patients: 180 patients in all, 60 patients behind the headline",
    ):  # fmt: skip
        assert words in said, words


def test_findings_of_the_audit_are_shown_with_their_pictures(run: Path) -> None:
    images = [f"examples/{item}.png" for item in (30, 31)]
    shown = [[{"item": item, "label": "COVID", "split": split, "image": image, "remark": remark}
              for item, split, image, remark in zip((30, 31), ("test", "train"), images, ("", "4 of 9 slices missing"),
                                                    strict=True)]]  # fmt: skip
    finding = {"name": "near-duplicates across splits", "severity": "severe", "text": "look, then correct it",
               "counted": True, "groups": [[30, 31], [40, 41]]}  # fmt: skip
    change(run, "audit.json", findings=[{**finding, "shown": shown}])
    page = Page(write_report(run))
    assert "Near-duplicates across splits: 2 groups (items 30, 31, 40, 41): look, then correct it." in page.text
    assert "Near-duplicates across splits severe look, then correct it. Not all are shown." in page.text
    assert "Item 30 COVID, test Item 31 COVID, train: 4 of 9 slices missing" in page.text
    alts = [attrs.get("alt") for tag, attrs in page.tags if tag == "img"]
    assert alts.count("Item 31: COVID") == 1


def test_sites_are_a_table_and_what_the_data_support_is_said(page: Page) -> None:
    assert "Items of each class, patients in brackets: hospital" in page.text
    assert "north 7 (5) 7 (5)" in page.text
    assert "patients in brackets: data" not in page.text  # which stands above, by development and test
    assert "What these data can support, by counts alone: on the given test part (5 + 5 patients)" in page.text


def test_shortcuts_are_a_table_and_one_warning(run: Path) -> None:
    auc = {"value": 0.81, "low": 0.77, "high": 0.85}
    shown = [[{"item": 30, "label": "COVID", "split": None, "image": "examples/30.png"}]]
    findings = [
        {"name": f"shortcut: {source}", "severity": severity, "text": "alone it predicts the label", "groups": [[30]],
         "counted": False, "shown": shown}
        for source, severity in (("border", "severe"), ("size", "severe"), ("aspect", "note"))
    ]  # fmt: skip
    change(run, "audit.json", findings=findings, shortcuts=[{"source": "border", "auc": auc}])
    page = Page(write_report(run))
    assert "Labels are predicted from what may not be the disease: border, size." in page.text
    assert "border 0.810 [0.770, 0.850]" in page.text
    assert "Shortcut: aspect note alone it predicts the label." in page.text


def test_a_clean_run_says_only_how_often_the_test_part_was_opened(run: Path) -> None:
    keys = ("unreadable", "left_out", "overrides", "findings", "warnings")
    empty: dict[str, Any] = {key: [] for key in keys}
    change(run, "audit.json", **empty, test_openings={"count": 1, "plans": 1})
    change(run, "fingerprint.json", n_patients=4000, n_blank_patients=0)
    assert [warning["level"] for warning in summarise(run)["warnings"]] == ["note"]
    change(run, "audit.json", test_openings=None)
    assert summarise(run)["warnings"] == []
    assert "Warnings and overrides" not in Page(write_report(run)).text


def test_missing_patients_are_a_warning_and_a_limit(run: Path) -> None:
    change(run, "fingerprint.json", patients_given=False)
    text = Page(write_report(run)).text
    assert "No patients were given" in text
    assert "none given: each item counts as one" in text


def test_curves_have_the_area_and_the_mass_of_the_predictions(binary_run: Path) -> None:
    summary = summarise(binary_run)
    metrics = json.loads((binary_run / "metrics.json").read_text("utf-8"))
    (roc,), (bins,) = summary["curves"]["roc"], summary["curves"]["reliability"]
    assert roc["name"] == bins["name"] == "COVID"
    assert np.trapezoid(roc["tpr"], roc["fpr"]) == pytest.approx(metrics["test"]["auc"]["value"], abs=1e-12)
    assert sum(bins["count"]) == metrics["test"]["n_items"]
    n_covid = metrics["test"]["per_class"]["COVID"]["n_items"]
    assert np.dot(bins["frequency"], bins["count"]) == pytest.approx(n_covid)


def test_judgement_is_on_the_page(page: Page, binary_run: Path) -> None:
    metrics = json.loads((binary_run / "metrics.json").read_text("utf-8"))
    slope = metrics["calibration"]["test"]["COVID"]["slope"]
    assert f"{format_number(slope['value'])} [{format_number(slope['low'])}, " in page.text
    assert "Probabilities pass a map (platt)" in page.text
    workload = metrics["decision"]["test"]["workload"]
    assert "Of 1 000 patients, 100 of whom have the condition (10 %), the model calls " in page.text
    assert f"It misses {workload['missed']['value']:.0f} [" in page.text
    sets = metrics["doubts"]["test"]["sets"]["coverage"]
    assert f"Sets that hold the true class {format_estimate(sets)}" in page.text
    assert "Of the test part 7 of 180 do (4 %)" in page.text
    assert "By sex" in page.text
    foretold = metrics["growth"]["foretold"][2]
    assert f"600 {format_estimate(foretold)}" in page.text  # five times the 120 patients
    assert "As a check, the AUC of 80 patients was foretold from half of them" in page.text
    p_value = metrics["subgroups"]["test"]["sex"]["p_values_corrected"]["auc"]
    assert f"p = {format_number(p_value)}" in page.text


def test_readers_stand_beside_the_model(page: Page, binary_run: Path) -> None:
    readers = json.loads((binary_run / "metrics.json").read_text("utf-8"))["readers"]["test"]
    said = page.text[page.text.index("Beside readers") :].split("Whether probabilities")[0]
    assert "1 a" in said
    for found in readers.values():
        assert all(format_estimate(found[key]) in said for key in ("reader", "model"))
        assert f"{found['difference']['value']:+.3f}".replace("-", "−") in said
    assert readers["b"]["n_items"] * 2 == readers["a"]["n_items"] == 180
    svg = page.source[page.source.index('<svg role="img" aria-label="ROC') :].split("</svg>")[0]
    assert (">1</text>" in svg, ">2</text>" in svg) == (True, False)  # of those who call
    assert "Squares are readers" in page.text


def test_several_classes_have_no_decision(tmp_path: Path) -> None:
    page = Page(write_report(write_run(tmp_path / "run", ("a", "b", "c"))))
    assert "What decisions by it would mean" not in page.text
    assert "When it should not answer" in page.text
    assert page.text.count("Calibration of") == 3


def test_a_ratio_without_an_upper_end_says_so() -> None:
    assert format_estimate({"value": 9.0, "low": 4.451, "high": None}) == "9.000 [4.451, ∞)"


def test_the_summary_is_plain_data(binary_run: Path) -> None:
    summary = summarise(binary_run)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


# --- what the page does not say --------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [("COVID", "NonCOVID"), ("a", "b", "c")])
def test_no_patient_path_or_file_name(tmp_path: Path, classes: tuple[str, ...]) -> None:
    run = write_run(tmp_path / "Jane", classes)
    source = html.unescape(write_report(run).read_text("utf-8"))
    with (run / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        assert row["patient"] not in source
        assert row["item"] not in source
    for words in ("Jane", "ward 7", ".png", "/opt", "MRN", str(tmp_path)):
        assert words not in source
    assert WITHHELD in source


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see /home/jane/x.png, twice", f"see {WITHHELD}, twice"),
        (r"in 'C:\scans\a b', here", f"in {WITHHELD}, here"),
        ("no image '/ward 7/Jane Doe (7).png'", f"no image {WITHHELD}"),
        ('no image "Jane Doe (7).png"', f"no image {WITHHELD}"),
        ("the patient's 'blocks.5'", "the patient's 'blocks.5'"),
        ("from ~/weights", f"from {WITHHELD}"),
        ("scan.nii.gz is 3D", f"{WITHHELD} is 3D"),
        ("file:///tmp/x", WITHHELD),
        ("patient p27 and p275", f"patient {WITHHELD} and p275"),
        ("in A and/or B, 3/4, items/s", "in A and/or B, 3/4, items/s"),
        ("https://huggingface.co/timm/x", "https://huggingface.co/timm/x"),
        ("blocks.5 at 0.5 of 12 items", "blocks.5 at 0.5 of 12 items"),
    ],
)
def test_withhold(text: str, expected: str) -> None:
    assert withhold({"a": [text, 1, None]}, frozenset({"p27"})) == {"a": [expected, 1, None]}


def test_lesions_are_names_unless_they_only_number_those_of_a_patient() -> None:
    row = {"item": "a/b.png", "patient": "p1"}
    assert list_names(row) == list_names(row | {"lesion": "L2"}) == ("a/b.png", "b.png", "p1")
    assert list_names(row | {"lesion": "MEIER-3"}) == ("a/b.png", "b.png", "p1", "MEIER-3")


def test_nothing_on_the_page_asks_for_the_network_or_runs(page: Page) -> None:
    names = {tag for tag, _ in page.tags}
    assert names.isdisjoint({"script", "link", "iframe", "object", "embed", "form", "base", "video", "audio"})
    assert all(value.startswith("data:image/png;base64,") for value in page.list_values("src"))
    links = [attributes["href"] for _, attributes in page.tags if "href" in attributes]
    assert all(str(link).startswith("#") for link in links)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "@import" not in page.source
    assert re.findall(r"url\((?!#)", page.source) == []


def test_ids_are_unique_and_every_reference_meets_one(page: Page) -> None:
    ids = page.list_values("id")
    assert len(ids) == len(set(ids))
    wanted = re.findall(r"url\(#([^)]+)\)", page.source)
    wanted += [link[1:] for name in ("href", "xlink:href") for link in page.list_values(name)]
    wanted += page.list_values("aria-labelledby")
    assert len(wanted) > 20
    assert set(wanted) <= set(ids)


def test_headings_descend_in_order_and_figures_have_words(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert ("html", {"lang": "en"}) in page.tags
    figures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(figures) == 8 + 2  # curves of two lines that were not chosen
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in figures)
    assert all(attributes["alt"] for tag, attributes in page.tags if tag == "img")


@pytest.mark.parametrize("others", [("plain",), ("plain", "other")])
def test_a_hostile_class_name_is_only_text(tmp_path: Path, others: tuple[str, ...]) -> None:
    page = Page(write_report(write_run(tmp_path / "run", (HOSTILE, *others))))
    assert "<script" not in page.source
    svg = page.source[page.source.index('<svg role="img" aria-label="ROC') :].split("</svg>")[0]
    assert f"{html.escape(HOSTILE)}</text>" in svg
    assert HOSTILE in page.text


def test_hostile_texts_everywhere(run: Path) -> None:
    plan = make_plan()
    for choice in plan["choices"]:
        kept = choice["name"] in {"highest_block", "final", "tta"}
        choice |= {"reason": HOSTILE, "value": HOSTILE, "name": choice["name"] if kept else HOSTILE, "kind": HOSTILE}
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    for rung in (metrics["chosen"], *metrics["ladder"]):
        rung |= {"thaw_line": HOSTILE, "head": HOSTILE}
    metrics["stops"][1]["before"] = f"fine_tuning {HOSTILE}"
    change(run, "metrics.json", **metrics)
    change(run, "plan.json", choices=plan["choices"])
    change(
        run,
        "audit.json",
        warnings=[{"level": "note", "text": text} for text in (HOSTILE, '" onload="x')],
        overrides=[HOSTILE],
    )
    change(run, "spec.json", options={HOSTILE: HOSTILE})
    page = Page(write_report(run))
    assert not {"script"} & {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


# --- odd runs --------------------------------------------------------------------------------------------------------


def test_three_classes(tmp_path: Path) -> None:
    page = Page(write_report(write_run(tmp_path / "run", ("COVID", "normal", "pneumonia"))))
    assert "Image classification into 3 classes" in page.text
    assert (
        len([tag for tag, _ in page.tags if tag == "svg"]) == 2 + 3 + 2 + 2 + 2
    )  # flow and risk, two lines that were not chosen
    assert "averaged over the 3 classes" in page.text


def test_thirty_classes_draw_the_six_worst(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tuple(f"class number {k:02d}" for k in range(30)), n_patients=60, per_patient=1)
    page = Page(write_report(run))
    per_class = json.loads((run / "metrics.json").read_text("utf-8"))["test"]["per_class"]
    worst = sorted(per_class, key=lambda name: per_class[name]["auc"]["value"])[:6]
    assert {curve["name"] for curve in summarise(run)["curves"]["roc"]} == set(worst)
    assert "the figures of the other 24 are in the table" in page.text


def test_long_and_odd_class_names(tmp_path: Path) -> None:
    classes = ("x" * 200, "_$正常^{\\ 'quoted' & \"twice\"")
    page = Page(write_report(write_run(tmp_path / "run", classes)))
    assert all(name in page.text for name in classes)


def test_one_item_a_class(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", n_patients=2, per_patient=1)
    page = Page(write_report(run))
    auc = json.loads((run / "metrics.json").read_text("utf-8"))["test"]["auc"]
    assert format_estimate(auc) in page.text
    assert auc["method"] in page.text
    assert "Classes with fewer than 10 patients behind the headline: COVID (1), NonCOVID (1)" in page.text


def test_null_and_not_finite_numbers_read_as_absent(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    nothing = {"value": None, "low": None, "high": None, "level": 0.95, "method": ""}
    for key in ("auc", "ece", "sensitivity"):
        metrics["test"][key] = nothing
    metrics["test"]["brier"] = {**nothing, "value": float("nan")}
    metrics["test"]["patient_level"] = metrics["validation"]["patient_level"] = None
    metrics["test"]["confusion"] = None
    metrics["ladder"][0]["auc"] = nothing
    metrics["cost"] |= {"peak_rss_mib": None, "energy_wh": 12.345}
    write_json(run / "metrics.json", metrics)
    page = Page(write_report(run))
    assert "The AUC is not defined here" in page.text
    assert "no interval could be computed" in page.text
    assert "nan" not in page.text.replace("finance", "")
    assert "per patient" not in page.text
    assert "Confusion matrix" not in page.text
    assert "Peak memory: not measured. The system did not count it anew for every step" in page.text
    assert "Energy: 12.3 Wh" in page.text


def test_a_part_with_one_class_has_no_curves(run: Path) -> None:
    lines = (run / "predictions.csv").read_text("utf-8").splitlines()
    kept = [line for line in lines if not (",test," in line and ",NonCOVID," in line)]
    (run / "predictions.csv").write_text("\n".join(kept), "utf-8")
    assert "No ROC curve" in Page(write_report(run)).text


def test_an_interval_across_one_half_says_so(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    metrics["test"]["auc"] |= {"value": 0.55, "low": 0.45, "high": 0.65}
    write_json(run / "metrics.json", metrics)
    assert "no better than chance" in Page(write_report(run)).text


def test_optional_examples_and_their_images(run: Path) -> None:
    examples = json.loads((run / "examples.json").read_text("utf-8"))
    write_json(run / "examples.json", [{**examples[0], "image": None}])
    assert "no image kept" in Page(write_report(run)).text
    (run / "examples.json").unlink()
    assert "most confident errors" not in Page(write_report(run)).text


def test_the_same_folder_gives_the_same_bytes(run: Path) -> None:
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    assert sorted(path.name for path in run.iterdir() if "report" in path.name) == ["report.html"]


# --- damage ----------------------------------------------------------------------------------------------------------

NAMES = ("metrics.json", "plan.json", "fingerprint.json", "audit.json", "spec.json", "predictions.csv")


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named_with_what_to_do(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(ModelError, match=rf"{re.escape(name)}, which does not exist.*thawline run .*--resume"):
        write_report(run)


@pytest.mark.parametrize("name", [*NAMES, "examples.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b'{"schema": 1}', b'{"schema": 9}', b"\xff\xfe{", b"\x00,1\n2"])
def test_a_damaged_file_is_named(run: Path, name: str, content: bytes) -> None:
    if name == "examples.json" and content == b"[]":
        content = b"[1]"  # an empty list is a list of examples
    if name == "predictions.csv" and content in {b"", b"[]", b'{"schema": 1}', b'{"schema": 9}'}:
        content = b"item,patient\n1,2\n"
    (run / name).write_bytes(content)
    with pytest.raises(ModelError, match=rf"{re.escape(name)} is damaged.*--resume"):
        write_report(run)


@pytest.mark.parametrize("key", ["task", "nested", "test", "chosen", "validation", "ladder", "stops", "cost"])
def test_a_missing_key_is_named(run: Path, key: str) -> None:
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    del metrics[key]
    write_json(run / "metrics.json", metrics)
    with pytest.raises(ModelError, match=f"metrics.json is damaged: it holds no '{key}'"):
        write_report(run)


@pytest.mark.parametrize("value", ["nan", "1.5", "-0.1", "x", ""])
def test_a_probability_that_is_none_is_refused(run: Path, value: str) -> None:
    text = (run / "predictions.csv").read_text("utf-8").rstrip()
    (run / "predictions.csv").write_text(f"{text.rpartition(',')[0]},{value}\n", "utf-8")
    with pytest.raises(ModelError, match=r"predictions.csv is damaged"):
        write_report(run)


@pytest.mark.parametrize("image", ["../secret.png", "metrics.json", "examples/none.png"])
def test_an_image_outside_or_not_an_image_is_refused(run: Path, image: str) -> None:
    (run.parent / "secret.png").write_bytes(b"\x89PNG secret")
    examples = json.loads((run / "examples.json").read_text("utf-8"))
    write_json(run / "examples.json", [{**examples[0], "image": image}])
    with pytest.raises(ModelError, match=re.escape(image.rpartition("/")[2])):
        write_report(run)


def test_a_failed_writing_leaves_the_old_report(run: Path) -> None:
    (run / "report.html").unlink(missing_ok=True)
    (run / "report.html").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*report\.html"):
        write_report(run)
    assert [path.name for path in run.iterdir() if path.name.startswith(".")] == []


def test_a_summary_without_a_key_is_an_error_of_ours(binary_run: Path) -> None:
    from jinja2 import UndefinedError

    summary = summarise(binary_run)
    del summary["chosen"]
    with pytest.raises(UndefinedError):
        render(summary)


# --- numbers ---------------------------------------------------------------------------------------------------------


@given(st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_percent_is_within_half_a_percent_and_never_claims_all_or_nothing(fraction: float) -> None:
    text = format_percent(fraction)
    number = float(re.sub(r"[^0-9.]", "", text))
    assert abs(number - 100 * fraction) <= 1
    assert (text[0] == "0") == (fraction == 0)
    assert (text.startswith("100")) == (fraction == 1)


def test_formats() -> None:
    whole = {"value": 0.87349, "low": 0.812, "high": 0.9211}
    assert format_estimate(whole) == "0.873 [0.812, 0.921]"
    assert format_estimate({**whole, "low": None}) == "0.873 (no interval)"
    assert format_estimate({**whole, "value": None}) == "–"
    assert format_number(-0.5, 1) == "−0.5"
    assert [format_seconds(s).replace("\u202f", " ") for s in (0.04, 59.9, 61.4, 3600, 7325)] == [
        "0.0 s", "59.9 s", "1 min 01 s", "1 h 00 min", "2 h 02 min"
    ]  # fmt: skip
    assert format_plain({"a_b": [1, 0.1, None, True], "c": {}}) == "a b 1, 0.1, none, yes, c none"
