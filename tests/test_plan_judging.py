"""What is decided about judgement before training: by whom, and what is left to be measured."""

from __future__ import annotations

import pytest

from thawline.errors import OptionError
from thawline.options import CALIBRATORS, RunOptions, check_options, read_threshold
from thawline.plan_judging import choose_judging

TWO, THREE = {"classes": {"a": {}, "b": {}}}, {"classes": {"a": {}, "b": {}, "c": {}}}


def choose(fingerprint, **changes):
    return {choice.name: choice for choice in choose_judging(fingerprint, RunOptions(**changes))}


def test_the_usual_choices():
    found = choose(TWO)
    assert {name: (choice.value, choice.kind) for name, choice in found.items()} == {
        "calibration": (None, "empirical"),
        "threshold": (0.5, "fixed"),
        "prevalence": (None, "fixed"),
        "coverage": (0.9, "fixed"),
        "intervals": ("patients", "fixed"),
    }
    assert found["calibration"].candidates == CALIBRATORS


def test_what_is_given_is_said_so():
    found = choose(TWO, calibration="platt", threshold="0.3", prevalence=0.02, coverage=0.8)
    given = {name: choice.value for name, choice in found.items() if choice.kind == "given"}
    assert given == {"calibration": "platt", "threshold": 0.3, "prevalence": 0.02, "coverage": 0.8}


@pytest.mark.parametrize("text", ["sensitivity:0.95", "specificity:0.8", "cost:10"])
def test_a_wish_for_the_threshold_is_left_to_be_measured(text):
    found = choose(TWO, threshold=text)["threshold"]
    assert (found.value, found.kind) == (None, "empirical")
    kind, wanted = read_threshold(text)
    assert f"{kind if kind != 'cost' else 'least cost'}" in found.reason
    assert f"{wanted:g}" in found.reason


def test_of_several_classes_the_most_probable_is_called_whatever_is_wished():
    assert choose(THREE, threshold="sensitivity:0.9")["threshold"].value == 0.5
    assert choose({**TWO, "multilabel": {}}, threshold="0.2")["threshold"].value == 0.2


@pytest.mark.parametrize("text", ["", "1", "0", "nan", "sensitivity", "sensitivity:1", "cost:0", "cost:inf", "auc:0.9"])
def test_thresholds_that_are_none_are_refused(text):
    with pytest.raises(OptionError, match="--threshold: expected"):
        check_options(RunOptions(threshold=text))


@pytest.mark.parametrize("changes", [{"prevalence": 0.0}, {"prevalence": 1.0}, {"coverage": 1.5}])
def test_shares_out_of_their_range_are_refused(changes):
    with pytest.raises(OptionError, match=f"--{next(iter(changes))}: expected a share"):
        check_options(RunOptions(**changes))
