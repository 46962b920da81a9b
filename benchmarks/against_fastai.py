"""The whole job against fastai's recipe and careful plain PyTorch, on the same data, split, backbone and weights.

    python benchmarks/against_fastai.py DATA --fastai PYTHON [--seeds 3] [--long] [--work FOLDER] [--json FILE]

DATA is covid-ct (official split) or chest-xray3 (the peers' grouped fold 0 is the test part). Against fastai, three
comparisons: one fit of ours at the same number of epochs, at the line the ladder chose, else `blocks.5`; test AUC with a
budget equal to fastai's time; fastai's time over the time at which our ladder first holds a rung whose test AUC is at least
fastai's. fastai's time is that of its fastest seed, or channels-last where that is faster. Against plain fine-tuning of
everything: the same ladder, and one fit of ours at as many epochs as it has. What has been run is kept in the work folder,
so that a second start goes on. `--long` runs fastai alone, once, for as many epochs as help it, with an interval.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from environment import write_json
from peers import MODALITIES, open_frozen, run_ours, run_peer, split_data

EPOCHS, LONG_EPOCHS, PLAIN_EPOCHS = 5, 20, {"covid-ct": 15, "chest-xray3": 10}
RESAMPLES = 2000


def main() -> None:
    """Run all sides one after the other, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=("covid-ct", "chest-xray3"))
    parser.add_argument("--fastai", required=True, help="Python of an environment that has fastai")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--long", action="store_true", help=f"fastai alone, at {LONG_EPOCHS} epochs")
    parser.add_argument("--work", type=Path, default=Path("work") / "against_fastai")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    work = (options.work / options.data).resolve()
    os.environ.update(THAWLINE_DATA=str(work / "ledger"), THAWLINE_CACHE=str(work / "cache"))
    manifest = split_data(options.data, work)

    def run_fastai(out: str, *flags: str) -> dict[str, Any]:
        return run_peer(options.fastai, "fastai_fine_tune.py", manifest.parent, work / f"{out}.npz", *flags)

    if options.long:
        flags = ("--epochs", str(LONG_EPOCHS), "--seed", "0")
        return report(measure_long(run_fastai("fastai_long", *flags), read_patients(manifest)), options.json)
    peers = {
        f"fastai_{EPOCHS}_epochs_seed{seed}": run_fastai(
            f"fastai_{EPOCHS}_{seed}", "--epochs", str(EPOCHS), "--seed", str(seed)
        )
        for seed in range(options.seeds)
    }
    peers["fastai_channels_last"] = run_fastai(
        "fastai_channels_last", "--epochs", str(EPOCHS), "--seed", "0", "--channels-last"
    )
    plain_epochs = PLAIN_EPOCHS[options.data]
    plain = peers["plain"] = run_peer(
        sys.executable,
        "plain_fine_tune.py",
        manifest.parent,
        work / "plain.npz",
        "--epochs",
        str(plain_epochs),
    )
    figures: dict[str, float] = {}
    for name, peer in peers.items():
        figures |= {f"{name}_auc": measure_auc(peer), f"{name}_accuracy": measure_accuracy(peer)}
        figures[f"{name}_seconds"] = float(peer["wall_seconds"])
    five = [name for name in peers if name.startswith(f"fastai_{EPOCHS}_")]
    # the machine is shared: others only slow it down
    seconds = min(figures[f"{name}_seconds"] for name in (*five, "fastai_channels_last"))
    auc = float(np.mean([figures[f"{name}_auc"] for name in five]))
    figures |= {"fastai_seconds": seconds, "fastai_auc": auc}
    modality = MODALITIES[options.data]
    ours = run_ours(manifest, work / "equal_time", "--budget", f"{seconds:.0f}s", "--modality", modality)
    figures |= describe(ours)
    figures |= measure_gain(ours, [peers[name] for name in five], "auc_gain_equal_time")
    figures |= measure_gain(ours, [plain], "plain_gain_equal_time")
    figures["plain_over_ladder"] = figures["plain_seconds"] / ours["wall_seconds"]
    line = ours["metrics"]["chosen"]["thaw_line"] or "blocks.5"
    fit = fit_once(manifest, work, line, EPOCHS, modality)
    figures |= {"one_fit_seconds": fit["wall_seconds"], "one_fit_ratio": seconds / fit["wall_seconds"]}
    fit = fit_once(manifest, work, line, plain_epochs, modality)
    figures |= {"plain_fit_seconds": fit["wall_seconds"], "plain_fit_auc": measure_auc(fit)}
    figures["plain_fit_ratio"] = figures["plain_seconds"] / fit["wall_seconds"]
    figures |= measure_gain({**fit, "patients": ours["patients"]}, [plain], "plain_fit_gain")
    return report(figures | find_match(manifest, work, auc, seconds), options.json)


def report(figures: dict[str, float], path: Path | None) -> None:
    """Print the figures, and write them where a file is named."""
    for key, value in figures.items():
        print(f"{key:<40} {value:10.3f}")
    if path:
        write_json(path, figures)


def read_patients(manifest: Path) -> np.ndarray:
    """Return the patient of each test row, or the row's own path where none is known."""
    with manifest.open(encoding="utf-8", newline="") as file:
        return np.array([row["patient"] or row["path"] for row in csv.DictReader(file) if row["split"] == "test"])


def measure_long(peer: dict[str, Any], patients: np.ndarray) -> dict[str, float]:
    """Return AUC and accuracy with intervals from resampled patients, and seconds."""
    figures = {"seconds": float(peer["wall_seconds"])}
    for name, measure in (("auc", measure_auc), ("accuracy", measure_accuracy)):
        found = [measure(peer, chosen) for chosen in draw_patients(patients, peer["labels"])]
        low, high = map(float, np.quantile(found, [0.025, 0.975]))
        figures |= {name: measure(peer), f"{name}_low": low, f"{name}_high": high}
    return figures


def draw_patients(patients: np.ndarray, labels: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows of resampled patients, the same ones at every call, where each class is among them."""
    draw = np.random.default_rng(0)
    _, place = np.unique(patients, return_inverse=True)
    members = [np.flatnonzero(place == number) for number in range(place.max() + 1)]
    for _ in range(RESAMPLES):
        chosen = np.concatenate([members[number] for number in draw.integers(len(members), size=len(members))])
        if len(np.unique(labels[chosen])) == len(np.unique(labels)):
            yield chosen


def describe(ours: dict[str, Any]) -> dict[str, float]:
    """Return the scores and the seconds of the run that had fastai's time."""
    found = {"equal_time_seconds": ours["wall_seconds"]}
    for metric in ("auc", "accuracy"):
        for suffix, end in (("", "value"), ("_low", "low"), ("_high", "high")):
            found[f"equal_time_{metric}{suffix}"] = ours["metrics"]["test"][metric][end]
    return found


def measure_gain(ours: dict[str, Any], peers: list[dict[str, Any]], name: str) -> dict[str, float]:
    """Return our AUC less the mean of the peers', with an interval from the same resamples of patients for all."""
    if not all(np.array_equal(peer["labels"], ours["labels"]) for peer in peers):
        raise SystemExit("the peers' test rows are not ours")
    gains = [
        measure_auc(ours, chosen) - np.mean([measure_auc(peer, chosen) for peer in peers])
        for chosen in draw_patients(np.asarray(ours["patients"]), ours["labels"])
    ]
    gain = measure_auc(ours) - float(np.mean([measure_auc(peer) for peer in peers]))
    low, high = map(float, np.quantile(gains, [0.025, 0.975]))
    return {name: gain, f"{name}_low": low, f"{name}_high": high}


def fit_once(manifest: Path, work: Path, line: str, epochs: int, modality: str) -> dict[str, Any]:
    """Time one fit of ours from files to test probabilities, with a cold cache: no search, one training."""
    import tempfile

    from thawline.data.dataset import load_dataset
    from thawline.judge.calibration import blend
    from thawline.learn.activations import fill_activations
    from thawline.learn.development import Development
    from thawline.learn.features import extract
    from thawline.learn.loading import load_backbone
    from thawline.learn.stages import find_stages
    from thawline.learn.thawing import Thaw, fit_heads
    from thawline.learn.training import predict_logits, train
    from thawline.plan_thawing import AUGMENTATIONS
    from thawline.types import Recipe, SilentListener

    cache, quiet = os.environ["THAWLINE_CACHE"], SilentListener()
    with tempfile.TemporaryDirectory(dir=work) as folder:
        os.environ["THAWLINE_CACHE"] = folder
        began = time.perf_counter()
        dataset = load_dataset(manifest, allow_outside=True)
        about, facts = open_frozen(dataset, quiet)
        _, _, weights, _, hardware = about
        is_test = np.array([item.split == "test" for item in dataset.items])
        labels, groups = dataset.labels(), np.arange(len(is_test))
        features = extract(*about, quiet).features
        lines = [each for each in facts.lines if each.name == line]
        (activations,) = fill_activations(*about, lines, AUGMENTATIONS[modality][0], 4, 0, quiet).values()
        development = Development(labels, groups, np.where(is_test, 0, 1), len(dataset.classes))
        recipe = Recipe(epochs=epochs, bf16=hardware.bf16)
        thaw = Thaw(find_stages(load_backbone(weights)), line, activations, features, development, recipe)
        items = np.flatnonzero(~is_test)
        start = thaw.start(fit_heads(thaw, items)[0])
        trained, _ = train(start, activations, labels, items, recipe, "one fit", blocks=thaw.blocks)
        probabilities = blend((1.0,), predict_logits(trained, activations, np.flatnonzero(is_test)))
        seconds = time.perf_counter() - began
    os.environ["THAWLINE_CACHE"] = cache
    return {"labels": labels[is_test], "probabilities": probabilities, "wall_seconds": seconds}


def find_match(manifest: Path, work: Path, auc: float, seconds: float) -> dict[str, float]:
    """Return the first rung, from the frozen one down, whose delivered model reaches ``auc``, and the time it took.

    Each rung is a run of its own with the rungs above it, from a cold cache of its own.
    """
    spent = 0.0
    cache = os.environ["THAWLINE_CACHE"]
    for number, flags in enumerate((("--head", "linear"), ("--thaw-line", "blocks.6"), ("--thaw-line", "blocks.5"))):
        os.environ["THAWLINE_CACHE"] = str(work / f"cache_match{number}")
        found = run_ours(manifest, work / f"match{number}", *flags)
        os.environ["THAWLINE_CACHE"] = cache
        spent += found["wall_seconds"]
        if measure_auc(found) >= auc:
            return {"match_rung": number, "match_seconds": spent, "time_to_match_ratio": seconds / spent}
    return {"match_rung": float("nan"), "match_seconds": spent, "time_to_match_ratio": 0.0}


def measure_auc(found: dict[str, Any], chosen: Any = slice(None)) -> float:
    """Macro one-vs-rest AUC, as the peers score it."""
    from sklearn.metrics import roc_auc_score

    labels, probabilities = found["labels"][chosen], found["probabilities"][chosen]
    if probabilities.shape[1] == 2:
        return float(roc_auc_score(labels, probabilities[:, 1]))
    return float(roc_auc_score(labels, probabilities / probabilities.sum(axis=1, keepdims=True), multi_class="ovr"))


def measure_accuracy(found: dict[str, Any], chosen: Any = slice(None)) -> float:
    """Share of items whose most probable class is the right one."""
    return float((found["probabilities"][chosen].argmax(axis=1) == found["labels"][chosen]).mean())


if __name__ == "__main__":
    main()
