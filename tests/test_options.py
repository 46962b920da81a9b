"""The options of the main job: declared once, checked, and all of them on the command line."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from thawline.errors import OptionError
from thawline.options import (
    ALL_HEADS,
    CONTROLS,
    HEADS,
    STRATEGIES,
    THAWED,
    RunOptions,
    change_options,
    check_options,
    list_heads,
    list_strategies,
    make_reading,
    resolve_strategy,
)
from thawline.types import Reading

FIELDS = dataclasses.fields(RunOptions)
every_field = pytest.mark.parametrize("field", FIELDS, ids=[field.name for field in FIELDS])


@pytest.fixture(scope="module")
def run_help():
    """What ``thawline run --help`` prints, with every run of white space as one blank."""
    environment = {**os.environ, "COLUMNS": "200", "TERM": "dumb"}
    done = subprocess.run(
        [sys.executable, "-m", "thawline.cli", "run", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return " ".join(done.stdout.split())


@every_field
def test_every_option_has_a_meaning_of_one_sentence_line_and_a_default(field):
    assert re.fullmatch(r"[A-Z][^\n]{10,118}\.", field.metadata["meaning"])
    assert field.default is not dataclasses.MISSING


@every_field
def test_every_option_is_on_the_command_line(run_help, field):
    shown = run_help.split(f"--{field.name.replace('_', '-')} ", 1)
    assert len(shown) == 2
    assert field.metadata["meaning"] in shown[1]
    if field.metadata["among"]:
        assert f"One of {', '.join(field.metadata['among'])}." in shown[1]
    if field.default is not None and not isinstance(field.default, bool):
        assert f"[default: {field.default}]" in shown[1].split(" --", 1)[0]


def test_the_defaults_are_in_their_ranges():
    assert check_options(RunOptions()) == RunOptions()


@pytest.mark.parametrize("field", [f for f in FIELDS if f.metadata["among"]], ids=lambda field: field.name)
def test_choices_are_enforced(field):
    for value in field.metadata["among"]:
        assert getattr(check_options(RunOptions(**{field.name: value})), field.name) == value
    flag, choices = field.name.replace("_", "-"), ", ".join(field.metadata["among"])
    with pytest.raises(OptionError, match=re.escape(f"--{flag}: expected one of {choices}; found 'other'")):
        check_options(RunOptions(**{field.name: "other"}))


@pytest.mark.parametrize("field", [f for f in FIELDS if f.metadata["most"] is not None], ids=lambda field: field.name)
def test_largest_values_are_enforced(field):
    most, flag = field.metadata["most"], field.name.replace("_", "-")
    assert getattr(check_options(RunOptions(**{field.name: most})), field.name) == most
    with pytest.raises(OptionError, match=f"^--{flag}: expected at most {most}, found {most + 1}$"):
        check_options(RunOptions(**{field.name: most + 1}))


@pytest.mark.parametrize("field", [f for f in FIELDS if f.metadata["least"] is not None], ids=lambda field: field.name)
def test_least_values_are_enforced(field):
    least, flag = field.metadata["least"], field.name.replace("_", "-")
    assert getattr(check_options(RunOptions(**{field.name: least})), field.name) == least
    for value in (least - 1, math.nan, math.inf):
        with pytest.raises(OptionError, match=f"^--{flag}: expected {least} or more, found {value}$"):
            check_options(RunOptions(**{field.name: value}))


def test_a_budget_needs_its_unit():
    with pytest.raises(OptionError, match="expected a time with its unit, such as 90s, 20m or 2h, or none; found '20'"):
        check_options(RunOptions(budget="20"))


@pytest.mark.parametrize(
    ("given", "windows"),
    [(None, ()), ("lung", ("lung",)), ("40/400", ("40/400",)), ("lung, bone,-600.5/1", ("lung", "bone", "-600.5/1"))],
)
def test_windows_are_names_or_numbers(given, windows):
    assert make_reading(check_options(RunOptions(window=given, frame="7"))) == Reading(windows, "7")


@pytest.mark.parametrize("given", ["", "liver", "40/0.5", "40/-3", "40", "nan/400", "lung,,bone", "lung;bone"])
def test_a_window_that_there_is_not_is_refused(given):
    with pytest.raises(
        OptionError, match="--window: expected some of lung, bone, brain, soft_tissue, mammography, suv, or CENTRE"
    ):
        check_options(RunOptions(window=given))


@pytest.mark.parametrize("given", ["lung,bone", "lung,bone,brain,soft_tissue"])
def test_channels_are_one_or_three(given):
    with pytest.raises(
        OptionError, match=r"--window: expected one window, or three for the three channels; found [24]"
    ):
        check_options(RunOptions(window=given))


@pytest.mark.parametrize("given", ["", "0", "-1", "1.5", "second", "12345678"])
def test_a_frame_is_a_word_or_a_number_from_1(given):
    with pytest.raises(
        OptionError, match="--frame: expected one of only, first, middle, last, or a number from 1; found"
    ):
        check_options(RunOptions(frame=given))


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (spelling, name)
        for name, aliases in STRATEGIES.items()
        for each in (name, *aliases)
        for spelling in (each, each.upper(), f" {each} ", each.replace(" ", "-"), each.replace(" ", "_"))
    ],
)
def test_aliases_of_strategies_are_resolved_however_they_are_spelt(given, name):
    assert resolve_strategy(given) == name
    assert check_options(RunOptions(strategy=given)).strategy == name


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("linear-probe", "feature_extractor"),
        ("Off-the-shelf  features", "feature_extractor_hybrid"),
        ("Shallow tuning", "fine_tuning"),
        ("layer-wise fine-tuning", "fine_tuning"),
        ("Deep tuning", "fine_tuning_from_scratch"),
        ("End-to-End", "fine_tuning_from_scratch"),
        ("full fine-tuning", "fine_tuning_from_scratch"),
        ("from scratch", "random_init"),
        ("full training", "random_init"),
        ("HOG + LBP", "handcrafted"),
    ],
)
def test_terms_of_the_literature_mean_what_they_mean_there(given, name):
    assert resolve_strategy(given) == name


def test_no_alias_stands_for_two_strategies():
    names = [name for strategy, aliases in STRATEGIES.items() for name in (strategy, *aliases)]
    plain = [re.sub("[-_ ]+", " ", name.lower()) for name in names]
    assert len(plain) == len(set(plain))


@pytest.mark.parametrize(
    "given", ["prompting", "", "frozen,", "frozen,prompting", "frozen hybrid", "fine_tuning;hybrid"]
)
def test_an_unknown_strategy_is_refused(given):
    found = re.escape(repr(next(name for name in given.split(",") if name != "frozen")))
    with pytest.raises(OptionError, match=rf"--strategy: expected some of {', '.join(STRATEGIES)}; found {found}$"):
        check_options(RunOptions(strategy=given))


def test_several_strategies_are_listed_once_in_the_order_of_the_ladder():
    options = check_options(RunOptions(strategy="from scratch, Full fine-tuning,hybrid,frozen,linear probe"))
    assert options.strategy == "feature_extractor,feature_extractor_hybrid,fine_tuning_from_scratch,random_init"
    assert list_strategies(options) == tuple(options.strategy.split(","))
    assert check_options(options) == options
    assert list_heads(options) == ALL_HEADS


# --- what is left to try ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (*HEADS, *THAWED, "handcrafted")),
        ({"controls": "none"}, (*HEADS, *THAWED)),
        ({"controls": ""}, (*HEADS, *THAWED)),
        ({"controls": "random_init, handcrafted"}, (*HEADS, *THAWED, *CONTROLS)),
        ({"controls": "random_init"}, (*HEADS, *THAWED, "random_init")),
        ({"head": "linear"}, ("feature_extractor",)),
        ({"head": "svm", "controls": "random_init"}, ("feature_extractor_hybrid", "random_init")),
        ({"strategy": "handcrafted"}, ("handcrafted",)),
        ({"thaw_line": "blocks.5"}, ("fine_tuning",)),
        ({"ratio": 0.5}, ("fine_tuning",)),
        ({"last_layers": 2}, ("fine_tuning",)),
        ({"blocks": "blocks.4:blocks.5"}, ("fine_tuning",)),
        ({"blocks": "blocks.4:blocks.5", "strategy": "frozen,fine tuning"}, ("feature_extractor", "fine_tuning")),
    ],
)
def test_strategies_left_to_try(changes, expected):
    assert list_strategies(check_options(RunOptions(**changes))) == expected


@pytest.mark.parametrize("controls", ["hog", "handcrafted,hog", "handcrafted random_init", "None"])
def test_unknown_controls_are_refused(controls):
    with pytest.raises(OptionError, match="--controls: expected some of handcrafted, random_init, or none; found '"):
        check_options(RunOptions(controls=controls))


# --- where the line lies ----------------------------------------------------------------------------------------------

LINES = {"thaw_line": "blocks.5", "ratio": 0.5, "last_layers": 3, "blocks": "blocks.4:blocks.5"}


@pytest.mark.parametrize("pair", list(itertools.combinations(LINES, 2)), ids="-".join)
def test_two_ways_of_naming_a_line_are_refused(pair):
    first, second = (f"--{name.replace('_', '-')}" for name in pair)
    with pytest.raises(OptionError, match=f"^{first} and {second}: expected one of them"):
        check_options(RunOptions(**{name: LINES[name] for name in pair}))


@pytest.mark.parametrize("name", LINES)
def test_a_line_goes_with_fine_tuning_only(name):
    for strategy in ("fine tuning", "frozen,partial fine-tuning", "fine_tuning,random_init"):
        assert getattr(check_options(RunOptions(strategy=strategy, **{name: LINES[name]})), name) == LINES[name]
    flag = f"--{name.replace('_', '-')}"
    for others in ({"strategy": "frozen"}, {"strategy": "full fine-tuning"}, {"head": "linear"}):
        with pytest.raises(OptionError, match=f"^{flag}: belongs to --strategy fine_tuning; leave out --head"):
            check_options(RunOptions(**others, **{name: LINES[name]}))


def test_a_ratio_is_a_share():
    for ratio in (1, 1e-9, 0.5):
        assert check_options(RunOptions(ratio=ratio)).ratio == ratio
    for ratio in (0, -0.1, 1.01, math.nan, math.inf):
        with pytest.raises(OptionError, match=f"--ratio: expected a share above 0 and at most 1, found {ratio}"):
            check_options(RunOptions(ratio=ratio))


@pytest.mark.parametrize("blocks", ["blocks.4", "", "a:b:c", "blocks.4-blocks.5"])
def test_blocks_are_two_names_with_a_colon_between(blocks):
    with pytest.raises(OptionError, match=f"--blocks: expected LOWEST:HIGHEST, such as .*; found {blocks!r}"):
        check_options(RunOptions(blocks=blocks))


# --- heads ------------------------------------------------------------------------------------------------------------


def test_head_and_strategy_must_agree():
    assert list_heads(check_options(RunOptions(strategy="hybrid", head="svm"))) == ("svm",)
    assert list_heads(check_options(RunOptions(strategy="frozen,hybrid", head="svm"))) == ("svm",)
    with pytest.raises(
        OptionError,
        match="--head linear does not belong to --strategy feature_extractor_hybrid, random_init; its heads are svm, ",
    ):
        check_options(RunOptions(strategy="from scratch,hybrid", head="linear"))
    with pytest.raises(
        OptionError, match="--head linear does not belong to --strategy fine_tuning; its heads are none"
    ):
        check_options(RunOptions(strategy="fine tuning", head="linear"))


def test_heads_to_try_keep_their_order():
    assert list_heads(RunOptions()) == ALL_HEADS
    assert list_heads(RunOptions(strategy="feature_extractor")) == ("linear",)
    assert list_heads(RunOptions(strategy="feature_extractor_hybrid")) == HEADS["feature_extractor_hybrid"]
    assert list_heads(RunOptions(strategy="hybrid,frozen")) == ALL_HEADS
    assert list_heads(RunOptions(head="k_nn")) == ("k_nn",)
    assert list_heads(RunOptions(thaw_line="blocks.5")) == ()


def test_every_strategy_has_heads_or_thaws_or_is_a_control():
    assert (*HEADS, *THAWED, *CONTROLS) == tuple(STRATEGIES)


def test_every_head_to_try_is_one_that_can_be_fitted():
    from thawline.learn import heads

    assert set(ALL_HEADS) == set(heads.HEADS)


def test_changes_make_new_options_and_unknown_names_are_refused():
    options = RunOptions()
    assert change_options(options, seed=3, head="svm") == RunOptions(seed=3, head="svm")
    assert options == RunOptions()
    with pytest.raises(OptionError, match="unknown option sead, folts: expected some of backbone, weights, "):
        change_options(options, sead=3, folts=2, seed=1)


def test_json_holds_every_option_and_no_path():
    data = json.loads(json.dumps(RunOptions(weights=Path("/secret/place/file.pth")).to_json()))
    assert data.keys() == {field.name for field in FIELDS}
    assert data["weights"] == "file.pth"
    assert RunOptions().to_json()["weights"] is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"slices": "some"}, "--slices: expected all, or every:NUMBER"),
        ({"slices": "all", "frame": "middle"}, "--slices: belongs to --dimensions 2.5d_bag or 3d_acs"),
        ({"slices": "all", "dimensions": "2d"}, "--slices: belongs to --dimensions 2.5d_bag or 3d_acs"),
        ({"pooling": "max", "dimensions": "3d_acs"}, "--pooling: belongs to --dimensions 2.5d_bag"),
        (
            {"frame": "3", "dimensions": "2.5d_bag"},
            "--frame 3: names one slice, where --dimensions 2.5d_bag takes its own",
        ),
        ({"frame": "3", "dimensions": "2.5d_orthogonal"}, "--frame 3: names one slice"),
        ({"grey": "sum", "dimensions": "2.5d_neighbours"}, "--grey sum: shows one channel, where --dimensions"),
        ({"dimensions": "4d"}, "--dimensions: expected one of auto, 2d, 2.5d_neighbours"),
    ],
)
def test_what_contradicts_itself_about_slices_is_refused(options, reason):
    with pytest.raises(OptionError, match=reason):
        check_options(RunOptions(**options))


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, ("auto", "only")),
        ({"frame": "last"}, ("2d", "last")),
        ({"dimensions": "2d"}, ("2d", "middle")),
        ({"dimensions": "2.5d_neighbours"}, ("2.5d_neighbours", "middle")),
        ({"dimensions": "2.5d_neighbours", "frame": "4"}, ("2.5d_neighbours", "4")),
        ({"dimensions": "2.5d_orthogonal"}, ("2.5d_orthogonal", "only")),
        ({"slices": "every:2", "pooling": "max"}, ("auto", "only")),
        ({"slices": "all", "dimensions": "3d_inflated"}, ("3d_inflated", "only")),
    ],
)
def test_dimensions_and_frame_say_each_other(options, found):
    reading = make_reading(check_options(RunOptions(**options)))
    assert (reading.dimensions, reading.frame) == found
