"""What is decided about judgement before training: by whom, and what is left to be measured."""

from __future__ import annotations

import pytest

from thawline.errors import OptionError
from thawline.options import CALIBRATORS, RunOptions, check_options, check_task, read_threshold
from thawline.plan_judging import choose_judging, choose_nesting

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


@pytest.mark.parametrize(
    ("about", "changes", "expected"),
    [
        ({}, {}, (None, "empirical", "399 patients are below 400")),
        ({}, {"hold_test": True}, (None, "empirical", "399 patients are below 400")),
        ({"n_patients": 400}, {}, (0, "rule", "400 patients: from 400 on")),
        ({"split_given": True}, {}, (0, "rule", "the test part is a chosen one")),
        ({}, {"test": "site:hospital=A"}, (0, "rule", "the test part is a chosen one")),
        ({}, {"validation": "site:hospital"}, (0, "rule", "not scored by folds of patients")),
        ({}, {"nested": "never"}, (0, "given", "--nested")),
        ({"n_patients": 5000, "split_given": True}, {"nested": "3"}, (3, "given", "--nested")),
    ],
)
def test_nested_cross_validation_is_for_few_patients_whose_test_part_nobody_chose(
    monkeypatch, about, changes, expected
):
    monkeypatch.setattr("thawline.plan_judging.FEW_PATIENTS", 400)
    found = choose_nesting({"n_patients": 399, "split_given": False, **about}, RunOptions(**changes))
    assert (found.value, found.kind) == expected[:2]
    assert expected[2] in found.reason


@pytest.mark.parametrize("text", ["", "0", "-1", "101", "1.5", "always", "Auto"])
def test_repeats_that_are_none_are_refused(text):
    with pytest.raises(OptionError, match="--nested: expected auto, never, or 1 to 100 repeats"):
        check_options(RunOptions(nested=text))


def test_one_given_validation_part_has_no_folds_to_put_aside():
    with pytest.raises(OptionError, match="--nested 2: sites are put aside once"):
        check_options(RunOptions(nested="2", validation="site:hospital"))
    with pytest.raises(OptionError, match="--nested: needs folds to put aside"):
        check_options(RunOptions(nested="1", validation="given"))
    assert check_options(RunOptions(validation="given")).nested == "auto"


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


def test_several_classes_and_several_labels_have_what_there_is_for_them():
    classes, labels = choose(THREE, coverage=0.8), choose({**TWO, "multilabel": {}}, threshold="0.2")
    assert [(each["threshold"].value, each["threshold"].kind) for each in (classes, labels)] == [
        (0.5, "fixed"),
        (0.2, "given"),
    ]
    assert [each["coverage"].value for each in (classes, labels)] == [0.8, None]
    assert [(each["prevalence"].value, each["prevalence"].kind) for each in (classes, labels)] == [(None, "rule")] * 2


WISHES = {  # option: what may be wished of it, and of which tasks
    "positive": ("a", {"two"}),
    "threshold": ("0.3", {"two", "labels"}),
    "threshold for a rate": ("sensitivity:0.9", {"two"}),
    "threshold by cost": ("cost:10", {"two"}),
    "prevalence": (0.05, {"two"}),
    "coverage": (0.8, {"two", "three", "grades"}),
    "calibration": ("platt", {"two", "three", "grades", "labels"}),
    "subgroups": ("sex", {"two", "three", "grades"}),
    "subgroups of none": ("none", {"two", "three", "grades", "labels"}),
    "grades": ("a,b,c", {"grades"}),
    "test": ("time:year", {"two", "three", "grades", "labels"}),
    "validation": ("site:hospital", {"two", "three", "grades", "labels"}),
    "folds": (3, {"two", "three", "grades", "labels"}),
}
TASKS = {
    "two": (("a", "b"), {}, False),
    "three": (("a", "b", "c"), {}, False),
    "grades": (("a", "b", "c"), {"grades": "a,b,c"}, False),
    "labels": (("a", "b", "c"), {}, True),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("wish", WISHES)
def test_a_wish_that_a_task_has_no_place_for_is_refused(wish, task):
    (value, kept), (classes, more, multilabel) = WISHES[wish], TASKS[task]
    option = wish.partition(" ")[0]
    options = check_options(RunOptions(**{**more, option: value}))
    if task in kept or (option == "grades" and not multilabel):  # that classes are these grades is for the data to say
        check_task(options, classes, multilabel=multilabel)
        return
    of = "one label an item, these have several" if multilabel else "a task of two classes, found 3"
    with pytest.raises(OptionError, match=f"^--{option} {value}: belongs to {of}.*leave it out$"):
        check_task(options, classes, multilabel=multilabel)


def test_a_positive_class_that_is_none_is_refused():
    for classes in (("a", "b"), ("a", "b", "c")):
        with pytest.raises(OptionError, match=f"--positive: expected one of {', '.join(classes)}; found 'none'"):
            check_task(RunOptions(positive="none"), classes, multilabel=False)


@pytest.mark.parametrize("validation", ["given", "site:hospital"])
def test_folds_are_not_counted_where_the_data_say_what_is_scored(validation):
    with pytest.raises(OptionError, match=f"--folds 3: belongs to --validation folds; by {validation} the data"):
        check_options(RunOptions(validation=validation, folds=3))
    assert check_options(RunOptions(validation=validation)).folds == RunOptions().folds


@pytest.mark.parametrize("text", ["", "1", "0", "nan", "sensitivity", "sensitivity:1", "cost:0", "cost:inf", "auc:0.9"])
def test_thresholds_that_are_none_are_refused(text):
    with pytest.raises(OptionError, match="--threshold: expected"):
        check_options(RunOptions(threshold=text))


@pytest.mark.parametrize("changes", [{"prevalence": 0.0}, {"prevalence": 1.0}, {"coverage": 1.5}])
def test_shares_out_of_their_range_are_refused(changes):
    with pytest.raises(OptionError, match=f"--{next(iter(changes))}: expected a share"):
        check_options(RunOptions(**changes))
