"""What the ladder is worth on real data: every rung and control out of fold, the delivered model on test items.

    python benchmarks/accuracy.py DATA [--seeds 3] [--budget 20m] [--beside KINDS] [--jobs 1] [--work FOLDER]
                                       [--parts FOLDER] [--json FILE]

covid-ct and pneumoniamnist have an official test part, breast-us and brain-mri one of their own by seed; where they name no
patients near-duplicates stay together. chest-xray3 has none: `chest-xray3` takes five folds at the level of images, as
published, and `chest-xray3-grouped` five of patients; each fold is the test part of a run of its own, and the five are
pooled. Seed 0 climbs the whole ladder; the others try the frozen head and the line it chose most often.

``--beside ladder,everything,pretrained,random`` also runs, with seed 0 and of five folds on the first: the ladder once more
without controls, so that seconds are of one machine; everything trained from the pretrained network, without a ladder or a
budget; the same as two networks of two folds at 224 px, and two such from a random start: what lies between them is what
transfer bought.
Runs are kept in the work folder; a second start goes on where the first was stopped. What a finished run came to is also
kept in the folder of parts, small enough to be committed, so that folds of hours can be made one a day, or on several
machines.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from environment import environment, write_json
from peers import MODALITIES, SHARED, run_ours, run_side_by_side
from thawline.files import write_atomic
from thawline.judge.evaluation import evaluate
from thawline.options import CONTROLS

N_FOLDS = 5
ALONE = ["--controls", "none", "--seed", "0"]
PAIR = [*ALONE, "--budget", "none", "--size-px", "224", "--folds", "2"]  # five folds of large images take hours
BESIDE = {
    "ladder": ALONE,
    "everything": [*ALONE, "--budget", "none", "--strategy", "fine_tuning_from_scratch"],
    "pretrained": [*PAIR, "--strategy", "fine_tuning_from_scratch"],
    "random": [*PAIR, "--strategy", "random_init"],
}


def main() -> None:
    """Run all folds and seeds, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=MODALITIES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", default="20m")
    parser.add_argument("--beside", default="", help=f"some of {','.join(BESIDE)}: what the ladder saved, and gained")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, on a GPU")
    parser.add_argument("--work", type=Path, default=Path("work") / "accuracy")
    parser.add_argument("--parts", type=Path, default=Path(__file__).parent / "results" / "parts")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    work = (options.work / options.data).resolve()
    parts = options.parts / options.data
    for folder in (work, parts):
        folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(THAWLINE_DATA=str(work / "ledger"), THAWLINE_CACHE=str(work / "cache"))
    flags = [
        "--budget",
        options.budget,
        "--modality",
        MODALITIES[options.data],
        "--tta",
        "--controls",
        ",".join(CONTROLS),
    ]
    if options.data == "pneumoniamnist":  # identical images in its train and val, none of them in test
        flags += ["--allow-leak", "--validation", "given"]
    if options.data.startswith("chest-xray3"):  # the published folds part images; one pair of them is identical
        flags += ["--allow-leak"]
    figures: dict[str, Any] = {}
    for seed in range(options.seeds):
        data = list_data(options.data, work, seed)
        found = run_folds(data, work / f"seed{seed}", parts, [*flags, "--seed", str(seed)], options.jobs)
        figures |= {f"{name}_seed{seed}": value for name, value in score_pooled(found, seed).items()}
        figures |= {
            f"{'' if seed == 0 else f'seed{seed}_'}{key}": value for key, value in describe_rungs(found).items()
        }
        if seed == 0:
            kinds = [kind for kind in options.beside.split(",") if kind]
            figures |= compare_first(found[0], kinds, work, parts, flags, data[0])
            flags = [*flags, *choose_rungs(found)]
    for key, value in figures.items():
        print(f"{key:<48} {value:10.3f}")
    if options.json:
        write_json(options.json, figures)


def run_folds(data: list[Path], out: Path, parts: Path, flags: list[str], n_jobs: int) -> list[dict[str, Any]]:
    """Run on each fold's data, see `run_once`; ``out`` is what the names of their folders begin with."""

    def run(fold: int) -> dict[str, Any]:
        return run_once(data[fold], out.with_name(f"{out.name}-fold{fold}"), parts, flags)

    return run_side_by_side(run, range(len(data)), n_jobs)


def run_once(data: Path, out: Path, parts: Path, flags: list[str]) -> dict[str, Any]:
    """Run and keep what came of it in the folder of parts; read it where it is there, made with the same flags.

    Patients and items are numbers there. Ends with a message where it was made with other flags.
    """
    part = parts / f"{out.name}.json"
    if not part.is_file():
        found = run_ours(data, out, *flags)
        kept = {
            "flags": flags,
            "wall_seconds": found["wall_seconds"],
            "metrics": {key: found["metrics"][key] for key in ("task", "ladder", "test")},
            "labels": found["labels"].tolist(),
            "patients": np.unique(found["patients"], return_inverse=True)[1].tolist(),
            "probabilities": found["probabilities"].round(5).tolist(),
        }
        write_atomic(part, json.dumps({**kept, "environment": environment()}) + "\n")
    kept = json.loads(part.read_text("utf-8"))
    if kept["flags"] != flags:
        sys.exit(f"{part} was made with {' '.join(kept['flags'])}, not {' '.join(flags)}: move it away to run again")
    return kept


def list_data(name: str, work: Path, seed: int) -> list[Path]:
    """Return what to run on: the data as they are, or a manifest a fold."""
    if name == "pneumoniamnist":
        return [SHARED / "data" / "npz" / "pneumoniamnist.npz"]
    if not name.startswith("chest-xray3"):
        return [SHARED / "data" / name]
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    data = SHARED / "data" / "chest-xray3"
    with (data / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = [row["label"] for row in rows]
    grouped = name.endswith("grouped")
    patients = [row.get("patient") or row["path"] for row in rows]
    splitter = (StratifiedGroupKFold if grouped else StratifiedKFold)(N_FOLDS, shuffle=True, random_state=seed)
    manifests = []
    for fold, (_, test) in enumerate(splitter.split(np.zeros(len(labels)), labels, patients if grouped else None)):
        manifests.append(work / f"seed{seed}-fold{fold}.csv")
        with manifests[-1].open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", "patient", "split"])
            for number, row in enumerate(rows):
                part = "test" if number in set(test.tolist()) else "train"
                writer.writerow([data / row["path"], row["label"], patients[number] if grouped else "", part])
    return manifests


def score_pooled(found: list[dict[str, Any]], seed: int) -> dict[str, float]:
    """Score the test predictions of all folds: AUC within folds, accuracy over all items, intervals by patient.

    A run by itself has scored them: by the groups that it kept together, which predictions do not name.
    """
    scores = {
        "seconds": sum(each["wall_seconds"] for each in found),
        "items": float(sum(len(each["labels"]) for each in found)),
    }
    if len(found) == 1 and "test" in found[0]["metrics"]:
        return scores | take_ends(found[0]["metrics"]["test"])
    labels, probabilities = (
        np.concatenate([np.asarray(each[key]) for each in found]) for key in ("labels", "probabilities")
    )
    folds = np.concatenate([np.full(len(each["labels"]), number) for number, each in enumerate(found)])
    patients = np.concatenate([each["patients"] for each in found])  # numbers within a fold: none is in two of them
    task = found[0]["metrics"]["task"]
    section = evaluate(
        labels,
        probabilities,
        np.unique(np.stack([folds, patients]), axis=1, return_inverse=True)[1].ravel(),
        tuple(task["classes"]),
        task["positive"],
        folds=folds,
        seed=seed,
    )
    return scores | take_ends(section)


def take_ends(section: dict[str, Any]) -> dict[str, float]:
    """Return AUC and accuracy with their intervals."""
    return {f"{metric}{suffix}": section[metric][end] for metric in ("auc", "accuracy") for suffix, end in ENDS.items()}


ENDS = {"": "value", "_low": "low", "_high": "high"}


def compare_first(
    found: dict[str, Any], kinds: Sequence[str], work: Path, parts: Path, flags: list[str], data: Path
) -> dict[str, float]:
    """Return what the first run ``found`` came to, and beside it the same with everything trained, or the ladder again."""
    if not kinds:
        return {}
    scores = {f"first_{metric}": value for metric, value in score_pooled([found], 0).items()}
    for kind in kinds:
        beside = run_once(data, work / f"{kind}-fold0", parts, [*flags, *BESIDE[kind]])
        scores |= {f"{kind}_{metric}": value for metric, value in score_pooled([beside], 0).items()}
    if "everything" in kinds:
        scores["ladder_auc_gain"] = scores["first_auc"] - scores["everything_auc"]
    if {"ladder", "everything"} <= {*kinds}:
        scores["ladder_speed_up"] = scores["everything_seconds"] / scores["ladder_seconds"]
        scores["ladder_auc_gain"] = scores["ladder_auc"] - scores["everything_auc"]
    if {"pretrained", "random"} <= {*kinds}:
        scores["transfer_auc_gain"] = scores["pretrained_auc"] - scores["random_auc"]
    return scores


def choose_rungs(found: list[dict[str, Any]]) -> list[str]:
    """Return the flags that make the other seeds try the frozen heads, or the line that was chosen most often, only."""
    chosen = [rung["thaw_line"] for each in found for rung in each["metrics"]["ladder"] if rung["chosen"]]
    line = max(chosen, key=chosen.count)
    if line is None:
        return ["--strategy", "feature_extractor,feature_extractor_hybrid", "--controls", "none"]
    return ["--strategy", "feature_extractor,fine_tuning", "--thaw-line", line, "--controls", "none"]


def describe_rungs(found: list[dict[str, Any]]) -> dict[str, float]:
    """Return each rung's out-of-fold AUC and accuracy, folds (fewer where only scouted) and seconds, means over the runs
    that tried it, and how often it won. Intervals are means too: wide enough, however much the runs' items overlap."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for each in found:
        for rung in each["metrics"]["ladder"]:
            control = rung["strategy"] if rung["strategy"] in CONTROLS else None
            name = control or rung["thaw_line"] or rung["head"]
            rows.setdefault(name, []).append(rung)
    figures = {}
    for name, rungs in rows.items():
        figures |= {
            f"rung_{name}_auc{suffix}": float(np.mean([rung["auc"][end] for rung in rungs]))
            for suffix, end in ENDS.items()
        }
        figures |= {
            f"rung_{name}_accuracy": float(np.mean([rung["accuracy"]["value"] for rung in rungs])),
            f"rung_{name}_folds": float(np.mean([rung["n_folds"] for rung in rungs])),
            f"rung_{name}_seconds": float(np.mean([rung["seconds"] for rung in rungs])),
            f"rung_{name}_chosen": float(sum(rung["chosen"] for rung in rungs)),
        }
    return figures


if __name__ == "__main__":
    main()
