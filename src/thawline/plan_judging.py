"""The choices of the plan that concern judgement: calibration, threshold, prevalence, prediction sets, intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thawline.options import CALIBRATORS, FEW_PATIENTS, RunOptions, read_nested, read_threshold
from thawline.types import Choice, Kind

NESTED = "nested cross-validation"
IN_WORDS = {"sensitivity": "a sensitivity of", "specificity": "a specificity of", "cost": "least cost at a ratio of"}


def choose_judging(fingerprint: Mapping[str, Any], options: RunOptions) -> tuple[Choice, ...]:
    """Return the choices of how predictions are calibrated, decided on and judged."""
    return (
        _choose_calibration(options),
        _choose_threshold(fingerprint, options),
        _choose_prevalence(fingerprint, options),
        _choose_coverage(fingerprint, options),
        Choice(
            "intervals",
            "patients",
            "fixed",
            "95 %, with patients as what is sampled: AUC by DeLong (Obuchowski), proportions by Wilson, the rest by BCa",
        ),
    )


def choose_nesting(fingerprint: Mapping[str, Any], options: RunOptions) -> Choice:
    """Return how often all choices are made again with each part of the patients put aside in turn; None: to be settled.

    Below `FEW_PATIENTS` one test part leaves a wide interval, where nobody else has chosen it.
    """
    wanted, n_patients = read_nested(options.nested), fingerprint["n_patients"]
    if wanted is not None:
        return Choice("nested", wanted, "given", "--nested")
    if fingerprint["split_given"] or options.test is not None:
        return Choice("nested", 0, "rule", "the test part is a chosen one, and judges alone; --nested 1 adds it")
    if options.validation != "folds":
        return Choice("nested", 0, "rule", "development is not scored by folds of patients; --nested 1 adds it")
    if n_patients >= FEW_PATIENTS:
        return Choice("nested", 0, "rule", f"{n_patients} patients: from {FEW_PATIENTS} on one test part is enough")
    reason = f"to be settled: {n_patients} patients are below {FEW_PATIENTS}, so where the budget has time for it"
    return Choice("nested", None, "empirical", reason, (0, 1))


def _choose_calibration(options: RunOptions) -> Choice:
    if options.calibration != RunOptions().calibration:
        return Choice("calibration", options.calibration, "given", "--calibration")
    reason = "to be measured: the simplest map whose log-loss out of fold is within one standard error of the best"
    return Choice("calibration", None, "empirical", reason, CALIBRATORS)


def _choose_prevalence(fingerprint: Mapping[str, Any], options: RunOptions) -> Choice:
    if "multilabel" in fingerprint or len(fingerprint["classes"]) > 2:
        return Choice("prevalence", None, "rule", "predictive values are of a decision between two classes")
    if options.prevalence is None:
        return Choice("prevalence", None, "fixed", "predictive values are those at the prevalence of these data")
    return Choice("prevalence", options.prevalence, "given", "--prevalence, where the model is to be used")


def _choose_coverage(fingerprint: Mapping[str, Any], options: RunOptions) -> Choice:
    if "multilabel" in fingerprint:
        return Choice("coverage", None, "rule", "prediction sets are of classes that exclude each other")
    kind: Kind = "fixed" if options.coverage == RunOptions().coverage else "given"
    sets = "prediction sets hold the true class as often, of patients, where they are like those of development"
    return Choice("coverage", options.coverage, kind, sets)


def _choose_threshold(fingerprint: Mapping[str, Any], options: RunOptions) -> Choice:
    kind, wanted = read_threshold(options.threshold)
    given = options.threshold != RunOptions().threshold
    if "multilabel" in fingerprint:
        reason = "a label is called where it is so probable, each by itself"
    elif len(fingerprint["classes"]) > 2:
        return Choice("threshold", 0.5, "fixed", "of several classes the most probable one is called")
    else:
        reason = "--threshold" if given else "a two-class decision takes the more probable class"
    if kind == "probability":
        return Choice("threshold", wanted, "given" if given else "fixed", reason)
    return Choice(
        "threshold", None, "empirical", f"to be measured: the threshold of {IN_WORDS[kind]} {wanted:g} out of fold"
    )
