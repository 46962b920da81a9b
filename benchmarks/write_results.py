"""Write docs/RESULTS.md from the JSON files in benchmarks/results: no number in it comes from anywhere else.

python benchmarks/write_results.py [--check]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import operator
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "RESULTS.md"
NEAR = 0.05  # of what a figure is to be near


@dataclasses.dataclass(frozen=True)
class Section:
    """One benchmark's part of the page: its figures in order, each with what it means and what was wanted.

    With ``columns``, figures whose names end so make a table of their own, a row for what stands before. With ``rest`` all
    other figures follow under their own names, since they depend on what was tried. With ``rungs`` the figures are tables
    of delivered models and of rungs; ``goals`` are what was wanted of some: the name, the least value, and words for it.
    """

    name: str
    title: str
    command: str
    text: str
    figures: tuple[tuple[str, str, str], ...]
    rest: bool = False
    rungs: bool = False
    columns: tuple[str, ...] = ()
    goals: tuple[tuple[str, float, str], ...] = ()


BESIDE = {"covid-ct": "ladder,everything,pretrained,random"}  # and of the others the pair
TOGETHER = "No patients are named: near-duplicates stay together, and every other image counts as one."
OPTIMISTIC = (
    "Optimistic even by patient: the sources of these films differ by class, and those of Covid-19 have no patient id."
)
THAW_GOALS = "at least 6", "at least 25", "at least 12"
FASTAI_PARTS = (
    ("covid-ct", "Official test part of 203 images."),
    ("chest-xray3", "Test part: the first of five patient-grouped folds."),
)
SECTIONS = (
    Section(
        "throughput",
        "Files to features",
        "python benchmarks/throughput.py --json benchmarks/results/throughput.json",
        "covid-ct, EfficientNet-Lite0, f32, images a second. Each ratio is of two runs next to each other in time; medians.",
        (
            ("items", "images", ""),
            ("pairs", "pairs of runs", ""),
            ("ours", "Thawline, images a second", ""),
            ("plain", "timm + DataLoader, default layout, images a second", ""),
            ("channels_last", "timm + DataLoader, channels-last, images a second", ""),
            ("ratio_plain", "Thawline over default layout", "at least 4"),
            ("ratio_channels_last", "Thawline over channels-last", "at least 2"),
            ("decode_alone", "decoder alone on all cores, images a second", ""),
            ("engine_alone", "engine alone on all cores, images a second", ""),
            ("share_of_limit", "measured rate over 1 ÷ (1/decode + 1/engine)", "at least 0.8"),
        ),
    ),
    Section(
        "heads",
        "Fitting and selecting the linear head",
        "python benchmarks/heads.py --json benchmarks/results/heads.json",
        "5 strengths x 5 folds on 1,124 x 1,280 features of 3 classes, against scikit-learn's LogisticRegression doing the "
        "same, in turn.",
        (
            ("seconds_ours", "Thawline, seconds", ""),
            ("seconds_sklearn", "scikit-learn with its default threads, seconds", ""),
            ("ratio_sklearn", "scikit-learn over Thawline", "at least 10"),
            ("ratio_sklearn_one_thread", "scikit-learn held to one thread over Thawline", ""),
            ("same_choice", "both choose the same strength (1 = yes)", "1"),
            ("max_probability_difference", "ours against a tightly converged fit, largest difference", "at most 0.001"),
            ("max_probability_difference_sklearn", "scikit-learn at its default tolerance against the same", ""),
            ("seconds_sklearn_converged", "scikit-learn, tightly converged, one thread, seconds", ""),
        ),
    ),
    Section(
        "main_job",
        "The main job without thawing",
        "python benchmarks/main_job.py --fastai PYTHON --json benchmarks/results/main_job.json",
        "covid-ct, official test part of 203 images, seed 0, heads of the frozen network only; wall seconds of the whole "
        "command. The peers fit on the train part and choose on val. The main job develops on train and val together; "
        "`same_items_…` is the main job on the "
        "train part alone, the items that the peers fit on. 95 % intervals from resampling patients.",
        (
            ("seconds", "main job, cold cache, seconds", ""),
            ("peak_rss_mib", "peak memory, MiB", ""),
            ("auc", "test AUC", ""),
            ("auc_low", "… lower bound", ""),
            ("auc_high", "… upper bound", ""),
            ("accuracy", "test accuracy", ""),
            ("accuracy_low", "… lower bound", ""),
            ("accuracy_high", "… upper bound", ""),
            ("warm_seconds", "second run, warm cache, seconds", ""),
            ("warm_share", "second run over first", ""),
            ("same_items_auc", "fitted on train only: test AUC", ""),
            ("same_items_auc_low", "… lower bound", ""),
            ("same_items_auc_high", "… upper bound", ""),
            ("same_items_accuracy", "fitted on train only: test accuracy", ""),
            ("plain_auc", "plain linear probe: AUC", ""),
            ("plain_accuracy", "plain linear probe: accuracy", ""),
            ("plain_seconds", "plain linear probe, seconds", ""),
            ("plain_channels_last_seconds", "plain linear probe, channels-last, seconds", ""),
            ("fastai_seed0_auc", "fastai fine_tune(5), seed 0: AUC", ""),
            ("fastai_seed0_accuracy", "fastai fine_tune(5), seed 0: accuracy", ""),
            ("fastai_seed0_seconds", "fastai fine_tune(5), seed 0, seconds", ""),
            ("fastai_seed1_auc", "fastai fine_tune(5), seed 1: AUC", ""),
            ("fastai_seed1_accuracy", "fastai fine_tune(5), seed 1: accuracy", ""),
            ("fastai_seed1_seconds", "fastai fine_tune(5), seed 1, seconds", ""),
        ),
    ),
    *(
        Section(
            name,
            f"Training above a thaw line, {arithmetic}",
            f"python benchmarks/thaw_step.py {flags}--json benchmarks/results/{name}.json",
            "EfficientNet-Lite0 at 224 px, batches of 32: the suffix on cached activations, beside a plain freeze and full "
            "fine-tuning, in turn. By line: items a second of `ours`, of a plain `freeze`, and of ours with the prefix of "
            "four views over 15 epochs (`amortised`); then the ratios.",
            (
                ("items", "images", ""),
                ("rounds", "rounds, medians are shown", ""),
                ("bf16", "bf16 arithmetic (1 = yes)", ""),
                ("top_vs_freeze", "suffix steps over a plain freeze, at blocks.6", wanted[0]),
                ("top_vs_full", "suffix steps over full fine-tuning, at blocks.6", wanted[1]),
                (
                    "amortised_vs_full",
                    "with the prefix of four views over 15 epochs, over full, at blocks.6",
                    wanted[2],
                ),
                ("prefix", "files to cached activations, images a second", ""),
                ("full", "full fine-tuning, items a second", ""),
            ),
            columns=("ours", "freeze", "amortised", "top_vs_freeze", "top_vs_full", "amortised_vs_full"),
        )
        for name, arithmetic, flags, wanted in (
            ("thaw_step", "with bf16 arithmetic", "", THAW_GOALS),
            ("thaw_step_f32", "on a processor without it", "", THAW_GOALS),
            ("thaw_step_h200", "on a large GPU", "--device cuda ", ("", "", "")),
        )
    ),
    Section(
        "arithmetic",
        "Training steps in float32 and bf16",
        "python benchmarks/arithmetic.py --json benchmarks/results/arithmetic.json",
        "EfficientNet-Lite0 on a processor with bf16 arithmetic, batches of 32, at 224 and 288 px: items a second in f32, "
        "in bf16 by torch's own kernels (`bf16_torch`), in bf16 as Thawline takes them; ratios are of neighbours in time.",
        (("rounds", "rounds, medians are shown", ""),),
        columns=("f32", "bf16_torch", "bf16", "over_f32", "over_torch"),
    ),
    *(
        Section(
            f"against_fastai_{data}",
            f"The whole job against fastai and plain PyTorch: {data}",
            f"python benchmarks/against_fastai.py {data} --fastai PYTHON "
            f"--json benchmarks/results/against_fastai_{data}.json",
            f"{part} Same images, split, backbone and weights; wall seconds of whole commands, ours with a cold cache. The "
            "peers choose their epoch on val; ours develops on train and val together. The ladder measures a larger input "
            "beside 224 px; the single fits are at 224 px.",
            (
                (
                    "one_fit_ratio",
                    "fastai's time over one fit of ours at as many epochs, at the chosen line, else blocks.5",
                    "at least 3",
                ),
                ("auc_gain_equal_time", "our test AUC with fastai's time as the budget, less fastai's mean", "above 0"),
                ("auc_gain_equal_time_low", "… lower bound, the same resamples of patients for both", ""),
                ("auc_gain_equal_time_high", "… upper bound", ""),
                ("time_to_match_ratio", "fastai's time over ours to the first rung as good on test", "at least 5"),
                ("plain_over_ladder", "plain fine-tuning's time over that of the whole ladder", ""),
                ("plain_gain_equal_time", "the ladder's test AUC less plain fine-tuning's", ""),
                ("plain_gain_equal_time_low", "… lower bound", ""),
                ("plain_gain_equal_time_high", "… upper bound", ""),
                ("plain_fit_ratio", "plain fine-tuning's time over one fit of ours at as many epochs", ""),
                ("plain_fit_gain", "test AUC of that fit less plain fine-tuning's", ""),
                ("plain_fit_gain_low", "… lower bound", ""),
                ("plain_fit_gain_high", "… upper bound", ""),
            ),
            rest=True,
            columns=("auc", "auc_low", "auc_high", "accuracy", "accuracy_low", "accuracy_high", "seconds"),
        )
        for data, part in FASTAI_PARTS
    ),
    *(
        Section(
            f"against_fastai_long_{data}",
            f"fastai for 20 epochs: {data}",
            f"python benchmarks/against_fastai.py {data} --long --fastai PYTHON "
            f"--json benchmarks/results/against_fastai_long_{data}.json",
            f"{part} fastai's recipe as above, for 20 epochs in place of 5, seed 0; 95 % intervals from resampling "
            "patients. Other work ran on the same cores, so that it would take less time alone.",
            (
                ("auc", "test AUC", ""),
                ("auc_low", "… lower bound", ""),
                ("auc_high", "… upper bound", ""),
                ("accuracy", "test accuracy", ""),
                ("accuracy_low", "… lower bound", ""),
                ("accuracy_high", "… upper bound", ""),
                ("seconds", "wall seconds", ""),
            ),
        )
        for data, part in FASTAI_PARTS
    ),
    *(
        Section(
            f"accuracy_{data}",
            f"Accuracy: {data}",
            f"python benchmarks/accuracy.py {data} --beside {BESIDE.get(data, 'pretrained,random')} "
            f"--json benchmarks/results/accuracy_{data}.json",
            f"{text} The delivered model on test items, with 95 % intervals from resampling patients; then the rungs "
            "out of fold on development items, as the ladder saw them. A rung with fewer folds was scouted only: its "
            "figures are of those folds, and not comparable with the others'. Of several runs all figures are means.",
            (),
            rungs=True,
            goals=goals,
        )
        for data, text, goals in (
            (
                "chest-xray3",
                f"Image-level five-fold, as published, all folds pooled. {OPTIMISTIC}",
                (("accuracy_low_seed0", 0.8702, "accuracy, lower bound, above the 87.02 % of DarkCovidNet"),),
            ),
            ("chest-xray3-grouped", f"Patient-grouped five-fold, all folds pooled. {OPTIMISTIC}", ()),
            (
                "covid-ct",
                "Official split, 203 test images. In the seconds of the random start are 30 minutes of standstill.",
                (("auc_seed0", 0.85, "AUC"),),
            ),
            (
                "pneumoniamnist",
                "Official split, 28 px. The random start shared its core with other work for most of its seconds.",
                (
                    ("auc_seed0", 0.962, "AUC, above ResNet-50's at 224 px"),
                    ("accuracy_seed0", 0.884, "accuracy, above ResNet-50's at 224 px"),
                ),
            ),
            ("breast-us", f"Three classes, a test part of its own by seed. {TOGETHER}", ()),
            ("brain-mri", f"Tumour or none, 253 images, a test part of its own by seed. {TOGETHER}", ()),
        )
    ),
    Section(
        "audit",
        "The audit",
        "python benchmarks/audit.py --json benchmarks/results/audit.json",
        "Near-duplicates planted among 500 made-up films: recall and precision by kind; items a second of the search for "
        "them on pictures that are drawn already (`items`), and of the whole audit of files on disk, none of them known "
        "(`whole`). Leaks, shortcuts (AUC of a source without and with what is planted) and wrong labels planted, in "
        "chest-xray3 (5 %; `first`: of as many as were planted, the surest). Of the clean films two are taken for a crop of "
        "one another, which is said three times (two labels, two patients, one picture), and some films, none "
        "wrongly labelled, for the other class: a note. Then brain-mri and breast-us: groups that are found, and of the "
        "frozen network with a linear head test and out-of-fold AUC, means over six splits, with near-duplicates kept "
        "together and apart.",
        (
            ("identical_recall", "identical copies, recall", "at least 0.98"),
            ("identical_precision", "identical copies, precision", "at least 0.98"),
            ("re_encoded_recall", "re-encoded copies, recall", "at least 0.98"),
            ("re_encoded_precision", "re-encoded copies, precision", "at least 0.98"),
        ),
        rest=True,
    ),
    Section(
        "views",
        "Cached views against fresh augmentation",
        "python benchmarks/views.py --json benchmarks/results/views.json",
        "chest-xray3, two of five grouped folds, line blocks.5, xray's augmentation, the same recipe and one seed, no "
        "search; losses at each setting's best scale on the scored items. Differences of a hundredth are within what "
        "another seed gives.",
        (),
        rest=True,
        columns=("log_loss", "auc", "accuracy", "seconds_a_fold"),
    ),
    Section(
        "stop_rule",
        "The rules of the ladder",
        "python benchmarks/stop_rule.py --json benchmarks/results/stop_rule.json",
        "Simulated ladders with known truth: true AUC of the rung that is chosen, and compute spent on lines, when any two "
        "idle lines in a row end the ladder (`any`), when only deep ones count (`deep`), and when lines are scouted on some "
        "folds first (`scout`, the ladder as it is). `none`: no line gains; `top`: the first gains all; `deep`: only lines "
        "from blocks.5 down do; `slow`: each a little. `half` has half of the budget that all lines take, `short` a "
        "third of what the ladder takes where each gains a little.",
        (("ladders", "simulated ladders of each kind", ""),),
        columns=("auc", "compute"),
    ),
    Section(
        "frozen_scale",
        "A fold that stays frozen",
        "python benchmarks/frozen_scale.py --json benchmarks/results/frozen_scale.json",
        "Log-loss of a frozen network's linear head on items never seen, 20 draws of about so many training items: as it "
        "is, and scaled as an inner fold would have it; what the scale loses, and its standard error. Made-up features, "
        "then those of EfficientNet-Lite0 on real images.",
        (),
        columns=("as_it_is", "scaled", "lost", "lost_se"),
    ),
    *(
        Section(
            f"backbones_{data}",
            f"Families of backbones: {data}",
            f"python benchmarks/backbones.py {data} {flags}--json benchmarks/results/backbones_{data}.json",
            f"{text} Test AUC and accuracy with 95 % intervals from resampling patients, seed 0: the frozen network with a "
            "linear head; what the ladder delivered, at the line in the name where it thawed; and the same network trained "
            "from a random start on the same images, for as many epochs as its own validation wants, as two networks of two "
            "folds. Random starts ran on a core and a share of an NVIDIA H100 each, but for VGG16's, on two cores. Runs "
            "were made on several machines, which their parts in `benchmarks/results/parts/backbones` name: seconds are not "
            "comparable.",
            (),
            columns=("auc", "auc_low", "auc_high", "accuracy", "accuracy_low", "accuracy_high", "seconds"),
        )
        for data, flags, text in (
            (
                "covid-ct",
                "--budget 2m ",
                "Official test part; the ladders ran on an NVIDIA H200, two minutes of choosing.",
            ),
            (
                "chest-xray3",
                "",
                f"A test part of patients, the same for all networks; the ladders ran on an NVIDIA H100. {OPTIMISTIC}",
            ),
            (
                "breast-us",
                "",
                "A test part of images, the same for all networks, as these data name no patients; the ladders ran on two "
                "cores.",
            ),
        )
    ),
    Section(
        "backbones_engine",
        "Families of backbones: engine",
        "python benchmarks/backbones.py engine --json benchmarks/results/backbones_engine.json",
        "Images a second of the engine and of torch, channels-last, both f32, in turn.",
        (),
        columns=("engine", "torch", "ratio"),
    ),
    Section(
        "dimensions",
        "Volumes: adrenalmnist3d",
        "python benchmarks/dimensions.py --json benchmarks/results/dimensions.json",
        "Shape of the adrenal gland from CT, 64 voxels a side; 1,286 volumes to learn from, the official 298 to test, "
        "EfficientNet-Lite0, seed 0. Test AUC and accuracy with 95 % intervals. `frozen`: 64 px, a linear head; a bag has "
        "16 slices of 64, ACS and inflation see all. `attention`: the same bag, its gated attention trained. `frozen_32`, "
        "`pretrained_32` and `random_32`: 16 slices of 32 px, frozen, and everything trained from the bundled weights and "
        "from a random start, as two networks of two folds. Published at 28 voxels a side (Yang et al. 2023): ResNet-18 in "
        "three dimensions .827 and .721, with ACS .839 and .754. Each ran on one core; those of random starts were shared "
        "with other work, and their seconds mean little.",
        (),
        columns=("auc", "auc_low", "auc_high", "accuracy", "accuracy_low", "accuracy_high", "seconds"),
    ),
    Section(
        "coverage",
        "Intervals that hold the truth",
        "python benchmarks/coverage.py --json benchmarks/results/coverage.json",
        "A thousand made-up cohorts a row, of known AUC; names are the shape of the scores, the AUC, patients, the share of "
        "positive ones and the most images of a patient, which correlate by a half. 95 % intervals, how often they hold the "
        "truth and how wide they are: ours (DeLong of patients, score interval); DeLong of items as if each were a patient; "
        "percentiles of a bootstrap of patients. One standard error of a coverage is .007. No formula knows the shapes "
        "`wide` (positives spread twice as wide) and `hidden` (some positives look like negatives); they count for no goal. "
        "Proportions are of patients with up to eight items.",
        (
            ("auc_coverage_min", "lowest coverage of normal scores", "at least 0.93"),
            ("auc_coverage_max", "highest, of 50 patients a class or more", "at most 0.97"),
            ("proportion_coverage_min", "lowest coverage of proportions", "at least 0.93"),
            ("proportion_coverage_max", "highest", ""),
        ),
        columns=(
            *("coverage", "width", "items_coverage", "items_width"),
            *("bootstrap_coverage", "bootstrap_width"),
        ),
    ),
    Section(
        "judge",
        "The judge",
        "python benchmarks/judge.py --json benchmarks/results/judge.json",
        "One evaluation of predictions of two classes with 2,000 resamples of patients, all metrics and intervals, against "
        "a loop of the same resamples with scikit-learn's functions, a hundredth of which is timed. Then AUC, DeLong's "
        "variance and covariance, statistic, p-value and bounds of the paired test against pROC's, over 20 cohorts.",
        (
            ("items", "predictions", ""),
            ("resamples", "resamples of patients", ""),
            ("evaluate_seconds", "the whole evaluation, seconds", ""),
            ("loop_seconds", "the loop, seconds", ""),
            ("speed_up", "loop over ours", ""),
            ("delong_max_error", "largest difference from pROC", "at most 0.000001"),
        ),
    ),
    Section(
        "learning_curve",
        "Learning curves foretold",
        "python benchmarks/learning_curve.py --json benchmarks/results/learning_curve.json",
        "Frozen EfficientNet-Lite0 with a linear head, official test parts. The AUC that a head of all development patients "
        "has on the test part, foretold from fewer patients; errors are in points, hundredths of AUC. `test`: heads of up "
        "to half of the patients, scored on the test part. `left_out`: as a run does it, heads of up to three quarters of "
        "them, scored on the others: the test part of pneumoniamnist differs from its development part, which no curve can "
        "foretell. `hindcast`: the largest size foretold from half of it.",
        (("repeats", "subsets of each size", ""),),
        columns=(
            *("patients_seen", "patients", "auc_seen", "foretold", "foretold_low", "foretold_high", "measured"),
            *("error_points", "held", "ten_times", "ten_times_low", "ten_times_high"),
            *("hindcast_error_points", "hindcast_held"),
        ),
    ),
    Section(
        "noise",
        "Labels that are noise",
        "python benchmarks/noise.py --json benchmarks/results/noise.json",
        "Films of 60 made-up patients whose labels are permuted by patient, through the whole pipeline: heads and thaw "
        "lines of EfficientNet-Lite0 at 32 px, choice, calibration, threshold and prediction sets, once for each seed.",
        (
            ("seeds", "permutations", ""),
            ("mean_auc", "mean test AUC", ""),
            ("errors_from_half", "its distance from .5 in standard errors", "at most 3"),
            ("covered", "95 % intervals that hold .5", "at least 43"),
        ),
        rest=True,
    ),
    Section(
        "nested",
        "Few patients",
        "python benchmarks/nested.py --draws 15 --json benchmarks/results/nested.json",
        "About a hundred images, drawn by patient from chest-xray3 (three classes) and covid-ct, are all that a run has: "
        "heads of the frozen EfficientNet-Lite0 at 128 px. Its AUC by the test part (a fifth), out of fold and by nested "
        "cross-validation is held against that of its model on all images that were not drawn. Errors are in points, "
        "hundredths of AUC: bias is their mean. Intervals are of the sampling of patients: that a model of so few images "
        "varies with them, they do not cover, nor that parts share what they learn from.",
        (("draws", "draws", ""), ("items", "images of each, about", "")),
        columns=("bias_points", "bias_se", "rms_points", "width", "covered"),
    ),
    Section(
        "slides",
        "Whole slides",
        "python benchmarks/slides.py --json benchmarks/results/slides.json",
        "A made-up slide of 60,000 x 60,000 px at 0.25 µm per pixel, tiles of 224 px at 0.5, EfficientNet-Lite0, one core. "
        "Everything is timed in turn, in five rounds; ratios are those of a round, medians. Plain OpenSlide is one loop of "
        "read_region and a bicubic resize. Memory is the peak of a process that does nothing else.",
        (
            ("tissue_tiles", "tiles of tissue on the slide", ""),
            ("open_seconds", "to open it and find its tissue, seconds", ""),
            ("plain_openslide_tiles_per_second", "plain OpenSlide, tiles a second", ""),
            ("decoder_tiles_per_second", "decoder alone, tiles a second", ""),
            ("decoder_ratio", "decoder over plain OpenSlide", ""),
            ("engine_tiles_per_second", "engine alone, tiles a second", ""),
            ("both_tiles_per_second", "both, tiles a second", ""),
            ("both_ratio", "both over 1 / (1 / decoder + 1 / engine)", "near 1"),
            ("peak_mib", "peak memory, MiB", "under 2048"),
        ),
    ),
    Section(
        "startup",
        "Start-up",
        "python benchmarks/startup.py --json benchmarks/results/startup.json",
        "Whole processes, in turn; medians.",
        (
            ("python_seconds", "bare Python, seconds", ""),
            ("import_seconds", "import thawline, seconds", ""),
            ("help_seconds", "thawline --help, seconds", "under 0.3"),
        ),
    ),
)


def main() -> None:
    """Write the page, or with --check say whether it is what the JSON files give."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        PAGE.write_text(format_page(), encoding="utf-8")
    elif PAGE.read_text("utf-8") != format_page():
        sys.exit(f"{PAGE} is not what benchmarks/results gives; run python benchmarks/write_results.py")


def format_page() -> str:
    """Return the page."""
    parts = [
        "# Results",
        "Every number on this page is generated from the JSON files in `benchmarks/results`, which the commands below "
        "wrote. Machines are shared and noisy: read the ratios, which compare runs side by side in time, not the seconds.",
    ]
    parts.append("\n".join(["## Wanted and reached", "", *format_goals()]))
    parts += [format_section(section) for section in SECTIONS if result_path(section).is_file()]
    return "\n\n".join(parts) + "\n"


def format_section(section: Section) -> str:
    """Return one benchmark's heading, command, table and environment."""
    result = json.loads(result_path(section).read_text("utf-8"))
    figures, where = result["figures"], result["environment"]
    table = format_accuracy(figures) if section.rungs else format_tables(section, figures)
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    gpu = f"{where['gpu']} beside " if where.get("gpu") else ""
    machine = (
        list_machines(section.name.removeprefix("accuracy_"))
        if section.rungs
        else f"Measured on {gpu}{where['processor']}, {where['cores']} cores, load {where['load']} before the end"
    )
    return "\n".join(
        [
            f"## {section.title}",
            "",
            section.text,
            "",
            "```",
            section.command,
            "```",
            "",
            *table,
            "",
            f"{machine}; Python {where['python']}, {versions}.",
        ]
    )


def list_machines(data: str) -> str:
    """Say on what machines the runs of an accuracy benchmark were made, by their names in the folder of parts."""
    runs: dict[str, set[str]] = {}
    for path in sorted((HERE / "results" / "parts" / data).glob("*.json")):
        where = json.loads(path.read_text("utf-8"))["environment"]
        runs.setdefault(where.get("gpu") or where["processor"], set()).add(path.stem.partition("-fold")[0])
    return "Runs: " + "; ".join(f"{', '.join(sorted(names))} on {machine}" for machine, names in runs.items())


def format_goals() -> list[str]:
    """Return a table of all that was wanted, with what was reached."""
    table = ["| benchmark | figure | wanted | reached | |", "| --- | --- | --- | --- | --- |"]
    for section in SECTIONS:
        if not result_path(section).is_file():
            continue
        figures = json.loads(result_path(section).read_text("utf-8"))["figures"]
        goals = [(key, meaning, wanted) for key, meaning, wanted in section.figures if wanted]
        goals += [(key, meaning, f"above {value}") for key, value, meaning in section.goals]
        for key, meaning, wanted in goals:
            reached = meets(figures[key], wanted)
            short = "" if reached else f"short by {format_figure(abs(figures[key] - float(wanted.split()[-1])))}"
            cells = f"[{section.name}](#{link(section.title)})", meaning, wanted, format_figure(figures[key]), short
            table.append(f"| {' | '.join(cells)} |")
    return table


def meets(value: float, wanted: str) -> bool:
    """Tell whether a figure is what was wanted: "at least 4", "above 0", "at most 0.001", "near 1", or a number."""
    *words, number = wanted.split()
    if words == ["near"]:
        return abs(value - float(number)) <= NEAR
    compare = {"at least": operator.ge, "above": operator.gt, "at most": operator.le, "under": operator.lt}
    return bool(compare.get(" ".join(words), operator.eq)(value, float(number)))


def link(title: str) -> str:
    """Return the anchor of a heading."""
    return re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")


def format_tables(section: Section, figures: Mapping[str, float]) -> list[str]:
    """Return the section's tables: figures one by one, and those that make rows and columns."""
    known = {key for key, *_ in section.figures}
    columns = sorted(section.columns, key=len, reverse=True)  # bf16_torch before bf16
    rows: dict[str, dict[str, float]] = {}
    single: dict[str, float] = {}
    for key, value in figures.items():
        column = next((each for each in columns if key not in known and key.endswith(f"_{each}")), None)
        if column is None:
            single[key] = value
        else:
            rows.setdefault(key.removesuffix(f"_{column}"), {})[column] = value
    table = format_table(section, single) if single else []
    if rows:
        shown = [each for each in section.columns if any(each in row for row in rows.values())]
        table += [*([""] if table else []), f"| | {' | '.join(shown)} |", f"| --- |{' --- |' * len(shown)}"]
        for name, row in rows.items():
            cells = [format_figure(row[each]) if each in row else "" for each in shown]
            table.append(f"| `{name}` | {' | '.join(cells)} |")
    return table


def format_table(section: Section, figures: Mapping[str, float]) -> list[str]:
    """Return a table of the section's figures, and of all others where it wants them."""
    rows = [
        f"| {meaning} (`{key}`) | {format_figure(figures[key])} | {wanted} |"
        for key, meaning, wanted in section.figures
        if key in figures
    ]
    known = {key for key, *_ in section.figures}
    if section.rest:
        rows += [f"| `{key}` | {format_figure(value)} | |" for key, value in figures.items() if key not in known]
    return ["| figure | value | wanted |", "| --- | --- | --- |", *rows]


def format_accuracy(figures: Mapping[str, float]) -> list[str]:
    """Return a table of what each seed delivered, and one of the rungs of the first."""
    table = ["| seed | test items | test AUC | test accuracy | seconds |", "| --- | --- | --- | --- | --- |"]
    seeds = sorted(key.removeprefix("auc_seed") for key in figures if key.startswith("auc_seed"))
    rows = [(seed, f"{{}}_seed{seed}") for seed in seeds]
    for key, name in (
        ("ladder", "once more, on the machine of the next"),
        ("everything", "everything trained from the start"),
        ("pretrained", "everything trained from the start, two networks"),
        ("random", "everything trained from a random start, two networks"),
    ):
        rows += [(f"0, {name}", f"{key}_{{}}")] if f"{key}_auc" in figures else []
    for name, pattern in rows:
        scores = [format_interval(figures, pattern.format(f"{metric}{{}}")) for metric in ("auc", "accuracy")]
        items, seconds = (format_figure(figures[pattern.format(each)]) for each in ("items", "seconds"))
        table.append(f"| {name} | {items} | {' | '.join(scores)} | {seconds} |")
    if "ladder_speed_up" in figures:
        more = format_figure(figures["ladder_speed_up"])
        gain = f"{figures['ladder_auc_gain']:+.3f}"
        table += ["", f"Training everything takes {more} times as long as the ladder, whose AUC is {gain} beside it."]
    elif "ladder_auc_gain" in figures:
        table += ["", f"The ladder's AUC is {figures['ladder_auc_gain']:+.3f} beside that of training everything."]
    if "transfer_auc_gain" in figures:
        gain = f"{figures['transfer_auc_gain']:+.3f}"
        table += ["", f"The pretrained start brings {gain} AUC where everything is trained."]
    table += [
        "",
        "| seed | rung | AUC out of fold | accuracy | folds | seconds | chosen |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for key in [key for key in figures if "rung_" in key and key.endswith("_folds")]:
        prefix, _, name = key.removesuffix("_folds").partition("rung_")
        rung = f"{prefix}rung_{name}"
        others = [format_figure(figures[f"{rung}_{each}"]) for each in ("accuracy", "folds", "seconds", "chosen")]
        seed = prefix.strip("_").removeprefix("seed") or "0"
        table.append(f"| {seed} | `{name}` | {format_interval(figures, f'{rung}_auc{{}}')} | {' | '.join(others)} |")
    return table


def format_interval(figures: Mapping[str, float], key: str) -> str:
    """Return a figure with its interval where it has one; ``key`` has braces in the place of ``_low`` and ``_high``."""
    ends = [figures.get(key.format(end)) for end in ("_low", "_high")]
    interval = "" if None in ends else f" [{', '.join(format_figure(end) for end in ends)}]"
    return f"{format_figure(figures[key.format('')])}{interval}"


def format_figure(value: Any) -> str:
    """Return a number with as many digits as it deserves."""
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value)}"
    return f"{value:.1e}" if abs(value) < 0.001 else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def result_path(section: Section) -> Path:
    """Where a benchmark's JSON lies."""
    return HERE / "results" / f"{section.name}.json"


if __name__ == "__main__":
    main()
