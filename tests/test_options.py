"""The options of the main job: declared once, checked, and all of them on the command line."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from thawline.errors import OptionError
from thawline.options import (
    ALL_HEADS,
    HEADS,
    STRATEGIES,
    RunOptions,
    change_options,
    check_options,
    list_heads,
    resolve_strategy,
)

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


@pytest.mark.parametrize("field", [f for f in FIELDS if f.metadata["least"] is not None], ids=lambda field: field.name)
def test_least_values_are_enforced(field):
    least = field.metadata["least"]
    assert getattr(check_options(RunOptions(**{field.name: least})), field.name) == least
    with pytest.raises(OptionError, match=f"--{field.name}: expected {least} or more, found {least - 1}"):
        check_options(RunOptions(**{field.name: least - 1}))


def test_a_budget_needs_its_unit():
    with pytest.raises(OptionError, match="expected a time with its unit, such as 90s, 20m or 2h; found '20'"):
        check_options(RunOptions(budget="20"))


@pytest.mark.parametrize(
    ("given", "name"),
    [(alias, name) for name, aliases in STRATEGIES.items() for alias in (name, name.upper(), f" {name} ", *aliases)],
)
def test_aliases_of_strategies_are_resolved(given, name):
    assert resolve_strategy(given) == name
    assert check_options(RunOptions(strategy=given)).strategy == name


def test_no_alias_stands_for_two_strategies():
    names = [name for strategy, aliases in STRATEGIES.items() for name in (strategy, *aliases)]
    assert len(names) == len(set(names))


def test_an_unknown_strategy_is_refused():
    with pytest.raises(OptionError, match=r"--strategy: expected one of feature_extractor, .*; found 'prompting'"):
        check_options(RunOptions(strategy="prompting"))


def test_head_and_strategy_must_agree():
    assert list_heads(check_options(RunOptions(strategy="hybrid", head="svm"))) == ("svm",)
    with pytest.raises(
        OptionError, match="--head linear does not belong to --strategy feature_extractor_hybrid: svm, "
    ):
        check_options(RunOptions(strategy="hybrid", head="linear"))


def test_heads_to_try_keep_their_order():
    assert list_heads(RunOptions()) == ALL_HEADS
    assert list_heads(RunOptions(strategy="feature_extractor")) == ("linear",)
    assert list_heads(RunOptions(strategy="feature_extractor_hybrid")) == HEADS["feature_extractor_hybrid"]
    assert list_heads(RunOptions(head="k_nn")) == ("k_nn",)
    assert set(HEADS) == set(STRATEGIES)


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
