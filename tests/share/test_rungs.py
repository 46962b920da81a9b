"""The ladder in words: every rung has one name, every stop a sentence with its numbers."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thawline.learn.ladder import Rung
from thawline.options import ALL_HEADS, CONTROLS, HEADS, THAWED
from thawline.share.rungs import (
    describe_delivery,
    describe_precision,
    describe_ratio,
    describe_thawing,
    explain_stop,
    find_chosen,
    format_epochs,
    format_forecast,
    summarise_training,
    translate_rung,
    translate_rungs,
)
from thawline.share.words import format_interval, format_range, format_signed, name_rung, write_percent

RUNGS = [
    *(Rung(0, strategy, head) for strategy, heads in HEADS.items() for head in heads),
    *(Rung(0, strategy, line="blocks.5") for strategy in THAWED),
    Rung(0, "handcrafted"),
    Rung(0, "random_init", line="conv_stem"),
]


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
def test_what_the_journal_calls_a_rung_becomes_what_the_ladder_calls_it(rung: Rung) -> None:
    words = name_rung(rung.strategy, rung.line, rung.head)
    assert translate_rung(rung.name) == words
    assert "_" not in words


def test_names_differ() -> None:
    assert len({name_rung(rung.strategy, rung.line, rung.head) for rung in RUNGS}) == len(RUNGS)
    assert len(RUNGS) == len(ALL_HEADS) + len(THAWED) + len(CONTROLS)


def test_a_rung_that_is_none_is_said() -> None:
    with pytest.raises(ValueError, match="expected the name of a rung, found 'bert'"):
        translate_rung("bert")


def test_texts_name_rungs_as_a_whole_and_once() -> None:
    names = ["linear", "fine_tuning blocks.5", "fine_tuning blocks.5.1"]
    text = "best linear, not fine_tuning blocks.5.1; before fine_tuning blocks.5: budget, nonlinear"
    assert translate_rungs(text, names) == (
        "best feature extractor, linear head, not fine tuning from blocks.5.1; before fine tuning from blocks.5: budget, "
        "nonlinear"
    )
    assert translate_rungs(text, []) == text


STAYED = {"within": "fine_tuning blocks.6", "folds": 1, "n_folds": 5}


def test_a_line_that_stayed_scouted_says_why() -> None:
    stop = {
        **STAYED,
        "reason": "behind",
        "best": "fine_tuning blocks.4",
        "difference": 0.0541,
        "standard_error": 0.0213,
    }
    expected = "its log-loss on them was 0.054 (standard error 0.021) above that of fine tuning from blocks.4."
    assert plain(explain_stop(stop)) == f"Fine tuning from blocks.6 was left after 1 of 5 folds: {expected}"
    stop |= {"best": "linear", "difference": 0.0123}
    expected = (
        "its log-loss on them was 0.012 (standard error 0.021) above that of feature extractor, linear head, which is"
    )
    assert plain(explain_stop(stop)) == f"Fine tuning from blocks.6 was left after 1 of 5 folds: {expected} cheaper."
    stop |= {"difference": 0.0, "standard_error": 0.0}
    expected = "it gained nothing on them over feature extractor, linear head, which is cheaper."
    assert plain(explain_stop(stop)) == f"Fine tuning from blocks.6 was left after 1 of 5 folds: {expected}"
    stop = {**STAYED, "reason": "budget", "budget_s": 90.0, "spent_s": 80.0, "forecast_s": 12.34}
    expected = "1 min 30 s were spent, and its other folds were forecast to take 12.3 s."
    assert plain(explain_stop(stop)) == (
        f"Fine tuning from blocks.6 was left after 1 of 5 folds: 1 min 20 s of the budget of {expected}"
    )


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("svm", "The rung feature extractor hybrid, svm head was left out: "),
        ("fine_tuning blocks.4", "The ladder ended before fine tuning from blocks.4: "),
        ("fine_tuning_from_scratch conv_stem", "The ladder ended before fine tuning from scratch: "),
        ("random_init", "The control random init was left out: "),
    ],
)
def test_only_a_line_ends_the_ladder(before: str, said: str) -> None:
    stop = {"before": before, "reason": "budget", "budget_s": 90.0, "spent_s": 80.0, "forecast_s": 12.34}
    expected = "1 min 30 s were spent, and it was forecast to take 12.3 s."
    assert plain(explain_stop(stop)) == f"{said}1 min 20 s of the budget of {expected}"


@pytest.mark.parametrize(("spent", "forecast"), [(95.0, 4.0), (95.0, None), (90.1, 0.0)])
def test_a_budget_that_is_spent_needs_no_forecast(spent: float, forecast: float | None) -> None:
    stop = {"before": "svm", "reason": "budget", "budget_s": 90.0, "spent_s": spent, "forecast_s": forecast}
    assert plain(explain_stop(stop)).endswith(f": the budget of 1 min 30 s was spent (1 min {spent - 60:.0f} s).")


def test_a_stop_for_want_of_gain_names_its_lines() -> None:
    lines = [{"rung": "fine_tuning blocks.6", "chance": 0.002}, {"rung": "fine_tuning blocks.5", "chance": 0.0999}]
    stop = {"before": "fine_tuning blocks.4", "reason": "no useful gain", "useful_gain": 0.025, "lines": lines}
    assert plain(explain_stop(stop)) == (
        "The ladder ended before fine tuning from blocks.4: the chance of an AUC at least 0.025 above the best rung so far "
        "was 0.2 % for fine tuning from blocks.6 and 9.9 % for fine tuning from blocks.5; 2 lines in a row below 10 % end "
        "the ladder, of those that thaw 50 % of the parameters or more."
    )


def plain(text: str) -> str:
    return text.replace("\u202f", " ")


@pytest.mark.parametrize(
    ("epochs", "said"),
    [
        ([], "–"),
        ([5, 5], "5"),
        ([4, 9, 7], "4 to 9"),
        ([0, 0, 0, 0, 0], "0 of 5 folds trained"),
        ([0], "0 of 1 fold trained"),
        ([0, 3, 12], "3 to 12; 2 of 3 folds trained"),
    ],
)
def test_epochs_of_the_folds(epochs: list[int], said: str) -> None:
    assert format_epochs(epochs) == said


@given(st.lists(st.integers(0, 200), min_size=1, max_size=10))
@settings(max_examples=50, deadline=None)
def test_epochs_say_the_ends_and_count_the_idle(epochs: list[int]) -> None:
    said = format_epochs(epochs)
    numbers = [int(number) for number in re.findall(r"\d+", said)]
    trained = [n for n in epochs if n]
    ends = sorted({min(trained), max(trained)}) if trained else []
    counts = [len(trained), len(epochs)] if len(trained) < len(epochs) else []
    assert numbers == ends + counts


@pytest.mark.parametrize(
    ("seconds", "forecast", "said"),
    [
        (10.0, None, ""),
        (None, 12.0, "forecast 12.0 s"),
        (0.0, 12.0, "forecast 12.0 s"),
        (10.0, 12.0, "forecast 12.0 s (+20 %)"),
        (100.0, 75.0, "forecast 1 min 15 s (−25 %)"),
        (10.0, 9.99, "forecast 10.0 s (0 %)"),
        (3.0, 99.0, "forecast 1 min 39 s (+3200 %)"),
    ],
)
def test_forecasts_come_with_their_error(seconds: float | None, forecast: float | None, said: str) -> None:
    assert plain(format_forecast(seconds, forecast)) == said


@pytest.mark.parametrize(
    ("values", "said"),
    [([], "–"), ([8e-4, 8e-4], "0.0008"), ([1.25e-5, 8e-4, 2e-4], "0.0000125 to 0.0008"), ([10, 4], "4 to 10")],
)
def test_ranges(values: list[float], said: str) -> None:
    assert format_range(values) == said


def test_signs() -> None:
    gain = {"value": 0.05, "low": -0.0127, "high": 0.1127}
    assert [format_signed(value) for value in (0.05, -0.0127, None)] == ["+0.050", "−0.013", "–"]
    assert format_interval(gain, signed=True) == "[−0.013, +0.113]"
    assert format_interval({**gain, "low": None}) == "(no interval)"
    assert [write_percent(share) for share in (0.858, 0.999, 0.0)] == ["86 %", "more than 99 %", "0 %"]


def make_rung(curves: list[list[list[float]]], epochs: list[int], *, chosen: bool = True) -> dict[str, Any]:
    return {"strategy": "fine_tuning", "thaw_line": "blocks.6", "thawed_fraction": 0.5, "head": "linear", "curves": curves,
            "epochs": epochs, "chosen": chosen}  # fmt: skip


def test_the_curve_of_a_fold_is_that_of_the_learning_rate_it_was_trained_at() -> None:
    """The referee is the search itself: a fold is trained at the rate whose smallest loss is smallest."""
    slow, fast = [0.5, 0.45, 0.44], [0.5, 0.4, 0.6]
    training = summarise_training(make_rung([[slow, fast], [fast, slow], [slow]], [1, 1, 2]))
    assert training is not None
    assert training["name"] == "fine tuning from blocks.6"
    assert [fold["losses"] for fold in training["folds"]] == [fast, fast, slow]
    assert [fold["reached"] for fold in training["folds"]] == [0.4, 0.4, 0.44]


@pytest.mark.parametrize("curves", [[], [[[0.0]], [[0.0]]]])
def test_no_curves_of_a_rung_that_trained_nothing(curves: list[list[list[float]]]) -> None:
    assert summarise_training(make_rung(curves, [0] * len(curves))) is None


def test_only_a_frozen_backbone_is_called_frozen_below_the_head() -> None:
    said = {rung.name: describe_thawing({"strategy": rung.strategy, "thaw_line": rung.line}) for rung in RUNGS}
    assert {name for name, words in said.items() if "below the head is frozen" in words} == set(ALL_HEADS)
    upper = describe_thawing({"strategy": "fine_tuning_from_scratch", "thaw_line": "conv_stem"}, "blocks.2")
    assert upper == "conv_stem: trained from there up to blocks.2; the rest of the backbone is frozen"


def test_a_rung_that_could_not_be_trained_says_why() -> None:
    about = {"reason": "failed", "error": "its loss is nan in epoch 2"}
    assert explain_stop({"before": "fine_tuning blocks.4", **about}) == (
        "Fine tuning from blocks.4 was left out: it could not be trained (its loss is nan in epoch 2)."
    )
    found = explain_stop({"within": "fine_tuning blocks.4", "folds": 2, "n_folds": 5, **about})
    assert found.startswith("Fine tuning from blocks.4 was left after 2 of 5")
    assert found.endswith("it could not be trained (its loss is nan in epoch 2).")


def test_handcrafted_features_are_named_with_their_head() -> None:
    assert translate_rung("handcrafted") == "handcrafted"
    assert translate_rung("handcrafted gradient_boosting") == "handcrafted, gradient boosting head"


def test_ratio_in_words() -> None:
    line: dict[str, Any] = {"strategy": "fine_tuning", "thaw_line": "blocks.5", "thawed_fraction": 0.858}
    assert plain(describe_ratio(line)) == "86 % of the backbone's parameters"
    head = {**line, "strategy": "feature_extractor", "thaw_line": None, "thawed_fraction": 0.0}
    assert plain(describe_ratio(head)) == "0 % of the backbone's parameters"
    assert describe_ratio({**line, "strategy": "handcrafted"}) == "–"


def test_delivery_counts_networks_that_were_not_trained() -> None:
    rung = make_rung([], [0, 3, 0, 0])
    assert describe_delivery(rung, "ensemble", 4).endswith(
        "; 3 of 4 not trained, since no epoch was better than no training"
    )
    assert describe_delivery(rung, "refit", 1).endswith("epochs of the folds, which is none")
    head = describe_delivery({**rung, "epochs": []}, "ensemble", None)
    assert head == "linear head, refitted on all development patients"


def test_one_rung_is_chosen() -> None:
    ladder = [make_rung([], [], chosen=chosen) for chosen in (False, True, False)]
    assert find_chosen(ladder) is ladder[1]
    with pytest.raises(ValueError, match="expected one rung of the ladder to be chosen, found 2"):
        find_chosen([*ladder, ladder[1]])


@pytest.mark.parametrize(
    ("precisions", "expected"),
    [
        ([None, "f32", "f32"], ""),
        ([None], ""),
        ([None, "bf16", "bf16"], "Networks were trained in bf16, whose gradients agree with those in f32."),
        (
            [None, "f32", "bf16"],
            "Networks were trained in bf16, whose gradients agree with those in f32; but not for fine tuning from "
            "blocks.1, where they do not.",
        ),
    ],
)
def test_it_is_said_where_networks_were_trained_in_bf16(precisions: list[str | None], expected: str) -> None:
    lines = [
        {"strategy": "fine_tuning", "thaw_line": f"blocks.{number}", "head": "linear", "precision": precision}
        for number, precision in enumerate(precisions)
    ]
    assert describe_precision(lines) == expected
