"""The rule that ends the ladder, on simulated ladders with known truth: AUC kept and compute spent under two rules.

    python benchmarks/stop_rule.py [--ladders 60] [--json FILE]

`any` ends after two idle lines in a row, `deep` counts only lines that thaw at least half of the parameters. Scores of 600
items (binary, two a patient) are drawn for EfficientNet-Lite0's nine lines; all rungs share most of their noise, as rungs of
one network do. In *none* no line gains, in *top* the first line gains all there is, in *deep* only lines from `blocks.5`
down do, in *slow* each line gains a little. Cost is the sum of the shares of compute above the lines that were tried.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import norm

from environment import write_json
from thawline.judge.statistics import compare_aucs
from thawline.learn.ladder import IDLE_LINES, LEAST_CHANCE, LEAST_SHARE

SHARES = (0.12, 0.30, 0.79, 0.92, 0.98, 1.0, 1.0, 1.0, 1.0)  # of parameters, EfficientNet-Lite0, from the top down
COMPUTE = (0.05, 0.13, 0.37, 0.59, 0.70, 0.80, 0.95, 0.97, 1.0)
TRUTHS = {  # true AUC of the frozen rung and of each line
    "none": (0.85, *[0.85] * 9),
    "top": (0.85, *[0.89] * 9),
    "deep": (0.85, 0.85, 0.85, *[0.90] * 7),
    "slow": (0.85, *np.linspace(0.855, 0.90, 9)),
}
N_PATIENTS, COMMON = 300, 0.8


def main() -> None:
    """Climb simulated ladders under both rules, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ladders", type=int, default=60)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures: dict[str, float] = {"ladders": options.ladders}
    for name, truth in TRUTHS.items():
        found = {rule: np.zeros((options.ladders, 2)) for rule in ("any", "deep")}
        for number in range(options.ladders):
            chances = simulate_chances(truth, number)
            for rule, least in (("any", 0.0), ("deep", LEAST_SHARE)):
                n_tried = count_tried(chances, least)
                found[rule][number] = max(truth[: n_tried + 1]), sum(COMPUTE[:n_tried])
        for rule, table in found.items():
            figures |= {f"{name}_{rule}_auc": table[:, 0].mean(), f"{name}_{rule}_compute": table[:, 1].mean()}
    for key, value in figures.items():
        print(f"{key:<24} {value:8.3f}")
    if options.json:
        write_json(options.json, figures)


def simulate_chances(truth: tuple[float, ...], seed: int) -> list[float]:
    """Return the chance of a useful gain that each line shows on one simulated data set."""
    draw = np.random.default_rng(seed)
    groups = np.repeat(np.arange(N_PATIENTS), 2)
    labels, folds = groups % 2, groups // 2 % 5
    common = draw.normal(size=len(groups)) * 0.8 + np.repeat(draw.normal(size=N_PATIENTS), 2) * 0.6
    tables = []
    for auc in truth:  # binormal: AUC is the normal distribution at the distance over the root of 2
        own = draw.normal(size=len(groups))
        scores = labels * np.sqrt(2) * norm.ppf(auc) + np.sqrt(COMMON) * common + np.sqrt(1 - COMMON) * own
        positive = norm.cdf(scores - scores.mean())
        tables.append(np.stack([1 - positive, positive], axis=1))
    return [
        compare_aucs(tables[: place + 1], labels, groups, folds, useful_gain=0.01, n_resamples=300)[1]
        for place in range(1, len(tables))
    ]


def count_tried(chances: list[float], least_share: float) -> int:
    """Return how many lines are tried before two idle ones in a row, of those that thaw at least a share, end the ladder."""
    idle = 0
    for place, (chance, share) in enumerate(zip(chances, SHARES, strict=True), 1):
        if share >= least_share:
            idle = idle + 1 if chance < LEAST_CHANCE else 0
        if idle == IDLE_LINES:
            return place
    return len(chances)


if __name__ == "__main__":
    main()
