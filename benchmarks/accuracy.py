"""What the ladder is worth on real data: every rung and control out of fold, the delivered model on test items.

    python benchmarks/accuracy.py DATA [--seeds 3] [--budget 20m] [--everything] [--jobs 1] [--work FOLDER]
                                       [--parts FOLDER] [--json FILE]

covid-ct and pneumoniamnist have an official test part. chest-xray3 has none: `chest-xray3` takes five folds at the level of
images, as published, and `chest-xray3-grouped` five of patients; each fold is the test part of a run of its own, and the
five are pooled. Seed 0 climbs the whole ladder; the others try the frozen head and the line it chose most often. With
``--everything`` seed 0 also trains everything, without a ladder or a budget, beside the ladder once more.
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
from pathlib import Path
from typing import Any

import numpy as np

from environment import environment, write_json
from peers import MODALITIES, SHARED, run_ours, run_side_by_side
from thawline.files import write_atomic
from thawline.judge.evaluation import evaluate
from thawline.options import CONTROLS

N_FOLDS = 5


def main() -> None:
    """Run all folds and seeds, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=MODALITIES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", default="20m")
    parser.add_argument("--everything", action="store_true", help="what the ladder saved: everything trained as well")
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
            whole = flags
            flags = [*flags, *choose_rungs(found)]
    if options.everything:
        figures |= compare_everything(options.data, work, parts, whole, options.jobs)
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
            "metrics": {key: found["metrics"][key] for key in ("task", "ladder")},
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
    """Score the test predictions of all folds: AUC within folds, accuracy over all items, intervals by patient."""
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
    scores = {"seconds": sum(each["wall_seconds"] for each in found), "items": float(len(labels))}
    for metric in ("auc", "accuracy"):
        scores |= {f"{metric}{suffix}": section[metric][end] for suffix, end in ENDS.items()}
    return scores


ENDS = {"": "value", "_low": "low", "_high": "high"}


def compare_everything(name: str, work: Path, parts: Path, flags: list[str], n_jobs: int) -> dict[str, float]:
    """Return what the ladder saved and lost or gained: the same runs with everything trained from the start, no budget.

    The ladder is climbed once more beside it, without controls, so that seconds are of one machine.
    """
    alone = ["--controls", "none", "--seed", "0"]
    scores = {}
    for key, only in (
        ("beside", alone),
        ("everything", [*alone, "--budget", "none", "--strategy", "fine_tuning_from_scratch"]),
    ):
        found = run_folds(list_data(name, work, 0), work / key, parts, [*flags, *only], n_jobs)
        scores |= {f"{key}_{metric}": value for metric, value in score_pooled(found, 0).items()}
    return {
        **scores,
        "ladder_speed_up": scores["everything_seconds"] / scores["beside_seconds"],
        "ladder_auc_gain": scores["beside_auc"] - scores["everything_auc"],
    }


def choose_rungs(found: list[dict[str, Any]]) -> list[str]:
    """Return the flags that make the other seeds try the frozen heads, or the line that was chosen most often, only."""
    chosen = [rung["thaw_line"] for each in found for rung in each["metrics"]["ladder"] if rung["chosen"]]
    line = max(chosen, key=chosen.count)
    if line is None:
        return ["--strategy", "feature_extractor,feature_extractor_hybrid", "--controls", "none"]
    return ["--strategy", "feature_extractor,fine_tuning", "--thaw-line", line, "--controls", "none"]


def describe_rungs(found: list[dict[str, Any]]) -> dict[str, float]:
    """Return each rung's out-of-fold AUC and accuracy, folds (fewer where only scouted) and seconds, means over the runs
    that tried it, and how often it won; of one run the intervals too, as development parts of several overlap."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for each in found:
        for rung in each["metrics"]["ladder"]:
            control = rung["strategy"] if rung["strategy"] in CONTROLS else None
            name = control or rung["thaw_line"] or rung["head"]
            rows.setdefault(name, []).append(rung)
    figures = {}
    for name, rungs in rows.items():
        figures |= {
            f"rung_{name}_auc": float(np.mean([rung["auc"]["value"] for rung in rungs])),
            f"rung_{name}_accuracy": float(np.mean([rung["accuracy"]["value"] for rung in rungs])),
            f"rung_{name}_folds": float(np.mean([rung["n_folds"] for rung in rungs])),
            f"rung_{name}_seconds": float(np.mean([rung["seconds"] for rung in rungs])),
            f"rung_{name}_chosen": float(sum(rung["chosen"] for rung in rungs)),
        }
        if len(found) == 1:
            figures |= {f"rung_{name}_auc{suffix}": rungs[0]["auc"][end] for suffix, end in ENDS.items()}
    return figures


if __name__ == "__main__":
    main()
