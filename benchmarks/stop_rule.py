"""The rules of the ladder on simulated data with known truth: AUC of the rung they choose, and compute spent on lines.

    python benchmarks/stop_rule.py [--ladders 60] [--json FILE]

`any` ends after two idle lines in a row, `deep` counts only lines that thaw at least half of the parameters, both with all
folds of every line; `scout` is the ladder as it is: lines are scouted on some folds, and those not behind are finished.
Scores of 900 items (binary, two a patient, five folds) are drawn for EfficientNet-Lite0's nine lines; all rungs share most
of their noise, as rungs of one network do. In *none* no line gains, in *top* the first line gains all there is, in *deep*
only lines from `blocks.5` down do, in *slow* each line gains a little. Compute is the share above a line, summed over folds
and divided by their number; `half` has a budget of 2.7 of it, half of what all lines take on all folds, `short` one of 1.0.
"""

from __future__ import annotations

import argparse
import functools
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from environment import write_json
from thawline.journal import Journal
from thawline.judge.comparisons import compare_aucs
from thawline.learn import ladder
from thawline.learn.development import Development
from thawline.learn.ladder import Forecast, Ladder, Rules, Rung, choose_rung
from thawline.types import SilentListener

SHARES = (0.12, 0.30, 0.79, 0.92, 0.98, 1.0, 1.0, 1.0, 1.0)  # of parameters, EfficientNet-Lite0, from the top down
COMPUTE = (0.05, 0.13, 0.37, 0.59, 0.70, 0.80, 0.95, 0.97, 1.0)
TRUTHS = {  # true AUC of the frozen rung and of each line
    "none": (0.85, *[0.85] * 9),
    "top": (0.85, *[0.89] * 9),
    "deep": (0.85, 0.85, 0.85, *[0.90] * 7),
    "slow": (0.85, *np.linspace(0.855, 0.90, 9)),
}
RULES = {  # least share of parameters that a line thaws to count, and patients that are scouted
    "any": (0.0, math.inf),
    "deep": (ladder.LEAST_SHARE, math.inf),
    "scout": (ladder.LEAST_SHARE, ladder.SCOUTED_PATIENTS),
}
BUDGETS = {"whole": math.inf, "half": 2.7, "short": 1.0}
N_PATIENTS, N_FOLDS, COMMON = 450, 5, 0.8


class Simulated:
    """Fits a simulated ladder: see `ladder.Fitter`."""

    def __init__(self, truth: tuple[float, ...], seed: int) -> None:
        draw = np.random.default_rng(seed)
        groups = np.repeat(np.arange(N_PATIENTS), 2)
        self.development = Development(groups % 2, groups, groups // 2 % N_FOLDS, 2)
        common = draw.normal(size=len(groups)) * 0.8 + np.repeat(draw.normal(size=N_PATIENTS), 2) * 0.6
        self.spent = 0.0
        self.tables = []
        for auc in truth:  # binormal: AUC is the normal distribution at the distance over the root of 2
            own, distance = draw.normal(size=len(groups)), np.sqrt(2) * norm.ppf(auc)
            scores = (groups % 2 - 0.5) * distance + np.sqrt(COMMON) * common + np.sqrt(1 - COMMON) * own
            positive = 1 / (1 + np.exp(-distance * scores))  # its true probability: the variance is one
            self.tables.append(np.stack([1 - positive, positive], axis=1))

    def forecast(self, rung: Rung, _tried: Any) -> Forecast:
        """What a fold of a line costs; the frozen rung is free."""
        return Forecast(0.0, COMPUTE[rung.number - 1] / N_FOLDS if rung.number else 0.0)

    def prepare(self, rung: Rung) -> None:
        """Nothing is needed."""

    def fit(self, rung: Rung, fold: int) -> tuple[dict[str, Any], None]:
        """Return what was drawn."""
        self.spent += self.forecast(rung, ()).fold_s
        return {"probabilities": self.tables[rung.number][self.development.folds == fold]}, None


class Costs(Journal):
    """A journal whose seconds are the simulated ones."""

    def seconds(self, prefix: str) -> float:
        """What the folds of a line cost that are finished."""
        number = int(prefix.split()[1])
        done = sum(f"{prefix.removesuffix('fold ')}fold {fold}" in self for fold in range(N_FOLDS))
        return done * COMPUTE[number - 1] / N_FOLDS


def main() -> None:
    """Climb simulated ladders under all rules, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ladders", type=int, default=60)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    ladder.compare_aucs = functools.partial(compare_aucs, n_resamples=200)
    figures: dict[str, float] = {"ladders": options.ladders}
    for name, truth in TRUTHS.items():
        for rule in RULES:
            for budget in BUDGETS:
                found = np.array([climb_once(truth, seed, rule, budget) for seed in range(options.ladders)])
                key = f"{name}_{rule}_{budget}"
                figures |= {f"{key}_auc": found[:, 0].mean(), f"{key}_compute": found[:, 1].mean()}
    for key, value in figures.items():
        print(f"{key:<28} {value:8.3f}")
    if options.json:
        write_json(options.json, figures)


def climb_once(truth: tuple[float, ...], seed: int, rule: str, budget: str) -> tuple[float, float]:
    """Return the true AUC of the rung that one simulated ladder chooses, and what it spent."""
    ladder.LEAST_SHARE, ladder.SCOUTED_PATIENTS = RULES[rule]
    fits = Simulated(truth, seed)
    rungs = [Rung(0, "feature_extractor")]
    rungs += [Rung(n, "fine_tuning", line=f"line{n}", thawed_fraction=share) for n, share in enumerate(SHARES, 1)]
    with tempfile.TemporaryDirectory() as folder:
        about = fits, fits.development, Costs(Path(folder)), SilentListener(), Rules(BUDGETS[budget], 0.01, seed)
        found = Ladder(*about, lambda: fits.spent).climb(rungs)
    chosen = found.eligible[choose_rung(found.eligible, fits.development).chosen]
    return truth[chosen.rung.number], fits.spent


if __name__ == "__main__":
    main()
