"""The plan: pure, with a reason for each choice; what an edited file may change and what not."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thawline.errors import OptionError
from thawline.judge.statistics import hanley_mcneil_error
from thawline.options import ALL_HEADS, RunOptions
from thawline.plan import (
    EDITABLE,
    Plan,
    apply_given,
    find_depth,
    follow_size,
    make_plan,
    read_plan,
    settle_headline,
)
from thawline.plan_thawing import RECIPE, name_strategy
from thawline.types import BAG, BackboneFacts, Depth, Hardware, Kind, Line, Reading

LINES = (
    Line("conv_head", 0.12, 0.05, (320, 7, 7)),
    Line("blocks.6", 0.30, 0.13, (192, 7, 7)),
    Line("blocks.5", 0.79, 0.37, (112, 14, 14)),
    Line("conv_stem", 1.0, 1.0, (3, 224, 224)),
)
FROZEN = BackboneFacts(
    "efficientnet_lite0",
    224,
    224,
    (0.5, 0.5, 0.5),
    (0.5, 0.5, 0.5),
    "bicubic",
    "PyPI package",
    "Apache-2.0",
    "ImageNet-1k",
)
FACTS = dataclasses.replace(FROZEN, lines=LINES, fine_lines=(LINES[0], *(LINES[place] for place in (1, 2, 3))))
RUNGS = (
    *ALL_HEADS,
    "fine_tuning conv_head",
    "fine_tuning blocks.6",
    "fine_tuning blocks.5",
    "fine_tuning_from_scratch conv_stem",
)
NAMES = [line.name for line in LINES]
HARDWARE = Hardware(cores=4, memory_mib=16000)


def make_print(classes=None, **changes):
    """A fingerprint of some hundred films: ``classes`` maps names to (items, patients)."""
    classes = classes or {"normal": (300, 150), "pneumonia": (200, 100)}
    counts = {name: {"items": items, "patients": patients} for name, (items, patients) in classes.items()}
    test = {name: {"items": items // 5, "patients": patients // 5} for name, (items, patients) in classes.items()}
    return {
        "n_items": sum(items for items, _ in classes.values()),
        "n_patients": sum(patients for _, patients in classes.values()),
        "patients_given": True,
        "n_together": 0,
        "split_given": False,
        "classes": counts,
        "parts": {"development": counts, "test": test},
        "split_reason": "5 folds by patient",
        "imbalance": 1.5,
        "width_px": {"min": 150, "median": 200, "max": 320},
        "height_px": {"min": 150, "median": 200, "max": 320},
        "aspect_ratio": {"min": 0.8, "median": 1.0, "max": 1.4},
        "bits": {"8": 400},
        "channels": {"1": 400},
        "wide_range": None,
        "test_has_wide": False,
        "digest": "0123456789abcdef",
        **changes,
    }


def plan_for(fingerprint=None, hardware=HARDWARE, facts=FACTS, **options):
    return make_plan(fingerprint or make_print(), hardware, facts, RunOptions(**options))


CASES = {
    "two classes": plan_for(),
    "three classes": plan_for(make_print({"a": (50, 20), "b": (60, 30), "c": (10, 5)})),
    "given split": plan_for(make_print(split_given=True)),
    "wide": plan_for(make_print(wide_range=[0.0, 4095.0], bits={"16": 300, "8": 100})),
    "square, bf16": plan_for(
        make_print(aspect_ratio={"min": 1.0, "median": 1.0, "max": 1.0}), Hardware(8, 1000, bf16=True, cuda="GPU")
    ),
    "many items": plan_for(make_print({"a": (30_000, 9000), "b": (2000, 900)})),
    "many options": plan_for(
        seed=3, head="svm", positive="normal", precision="bf16", class_weight="balanced", hold_test=True
    ),
    "no lines": plan_for(facts=FROZEN),
    "colour": plan_for(make_print(channels={"1": 3, "3": 397}), modality="microscopy", side_matters=True),
    "thawed only": plan_for(strategy="fine_tuning,fine_tuning_from_scratch", sequence="layers", views=2),
    "one line": plan_for(thaw_line="blocks.5", mixup=0.2, loss="focal", sampling="balanced", train_norms=True),
    "a block": plan_for(blocks="blocks.5:blocks.6", auto_rgn=True, useful_gain=0.02, final="refit"),
    "controls": plan_for(strategy="handcrafted,random_init"),
    "tta": plan_for(tta=True),
    "all controls": plan_for(controls="handcrafted,random_init", hardware=Hardware(2, 1000, cache_mib=1)),
}
every_case = pytest.mark.parametrize("plan", CASES.values(), ids=CASES)


# --- every plan -------------------------------------------------------------------------------------------------------


@every_case
def test_every_choice_has_a_known_kind_and_a_reason(plan):
    for choice in plan.choices:
        assert choice.kind in get_args(Kind)
        assert len(choice.reason) >= 10
    names = [choice.name for choice in plan.choices]
    assert len(names) == len(set(names))


@every_case
def test_an_open_choice_is_empirical_and_names_its_candidates(plan):
    for choice in plan.choices:
        assert (choice.kind == "empirical") == (choice.candidates is not None)
        if choice.kind == "empirical":
            assert choice.value is None
            assert len(choice.candidates) >= 2


@every_case
def test_a_plan_survives_its_file(plan, tmp_path):
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(plan.to_json()), "utf-8")
    read = read_plan(file)
    assert read == plan
    assert read.digest() == plan.digest() == plan.to_json()["digest"]
    assert apply_given(plan, read) == plan


@every_case
def test_the_printed_plan_has_a_line_for_each_choice(plan):
    lines = str(plan).splitlines()
    assert len(lines) == len(plan.choices)
    for line, choice in zip(lines, plan.choices, strict=True):
        assert line.split()[0] == choice.name
        assert choice.reason in line
        if choice.kind == "empirical":
            assert line.split()[1] == "?"
            assert line.endswith(f"(among {', '.join(map(str, choice.candidates))})")


@pytest.mark.parametrize(
    "options",
    [{}, {"ratio": 0.5}, {"strategy": "random_init,frozen", "side_matters": True}],
    ids=["", "ratio", "mixed"],
)
def test_the_same_facts_give_the_same_plan_and_are_left_alone(options):
    fingerprint = make_print()
    before = copy.deepcopy((fingerprint, FACTS, RECIPE))
    first = plan_for(fingerprint, **options)
    text = json.dumps(first.to_json())
    first["recipe"]["epochs"] = 99  # what one caller does with its plan is no other's affair
    first["lines"].append("another")
    second = plan_for(fingerprint, **options)
    assert json.dumps(second.to_json()) == text
    assert (fingerprint, FACTS, RECIPE) == before


# --- choices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "positive"),
    [
        (("COVID", "NonCOVID"), "COVID"),
        (("no", "yes"), "yes"),
        (("benign", "malignant"), "malignant"),
        (("healthy", "lesion"), "lesion"),
        (("0", "1"), "1"),
        (("NORMAL", "PNEUMONIA"), "PNEUMONIA"),
        (("Negative", "Positive"), "Positive"),
        (("control", "patient"), "patient"),
        (("Effusion", "No Finding"), "Effusion"),
        (("No_Findings", "any"), "any"),
        (("fracture", "non-fracture"), "fracture"),
        (("Disease", "No-Findings"), "Disease"),
    ],
)
@pytest.mark.parametrize("n_first", [50, 500])
def test_the_positive_class_is_the_one_whose_name_does_not_say_normal(names, positive, n_first):
    for order in (names, names[::-1]):
        plan = plan_for(make_print({order[0]: (n_first, 40), order[1]: (200, 80)}))
        assert plan["positive"] == positive
        assert plan.find("positive").kind == "rule"


@pytest.mark.parametrize("names", [("cat", "dog"), ("normal", "no_findings"), ("norm", "abnormal"), ("1", "2")])
def test_where_no_name_tells_the_rarer_class_is_positive_and_the_plan_says_so(names):
    plan = plan_for(make_print({names[0]: (100, 50), names[1]: (99, 50)}))
    assert plan["positive"] == names[1]
    assert "the rarer class" in plan.find("positive").reason
    assert "--positive" in plan.find("positive").reason
    assert plan_for(make_print({names[0]: (70, 50), names[1]: (70, 50)}))["positive"] == min(names)


def test_several_classes_have_no_positive():
    plan = CASES["three classes"]
    assert (plan["task"], plan["positive"]) == ("multiclass", None)
    assert CASES["two classes"]["task"] == "binary"


def test_the_user_may_name_the_positive_class():
    choice = plan_for(positive="normal").find("positive")
    assert (choice.value, choice.kind) == ("normal", "given")
    with pytest.raises(OptionError, match="--positive: expected one of normal, pneumonia; found 'Pneumonia'"):
        plan_for(positive="Pneumonia")
    with pytest.raises(OptionError, match="--positive a: belongs to a task of two classes, found 3"):
        plan_for(make_print({"a": (50, 20), "b": (60, 30), "c": (10, 5)}), positive="a")


def test_the_headline_says_how_wide_the_interval_will_be():
    plan = plan_for(make_print({"a": (400, 200), "b": (400, 100)}))
    width = 1.96 * hanley_mcneil_error(0.85, 20, 40)
    assert f"60 test patients: an AUC near .85 would have a 95 % interval of about ±{width:.2f}" in str(plan)
    assert plan_for(hold_test=True)["headline"] == "development folds"


def test_the_headline_follows_nested_cross_validation_where_nobody_chose_the_test_part():
    about = make_print(), RunOptions()
    plan = settle_headline(plan_for(nested="2"), *about)
    assert (plan["nested"], plan["headline"]) == (2, "nested cross-validation")
    assert apply_given(plan_for(nested="never"), plan)["nested"] == 0  # an option outweighs the file
    again = settle_headline(apply_given(plan_for(), plan), *about)
    assert (again["nested"], again["headline"]) == (2, "nested cross-validation")
    assert settle_headline(apply_given(plan_for(), plan_for(nested="never")), *about)["headline"] == "test part"
    closed = plan_for(nested="1", hold_test=True)
    assert settle_headline(closed, make_print(), RunOptions(hold_test=True))["headline"] == "nested cross-validation"
    given = plan_for(make_print(split_given=True), nested="1")
    settled = settle_headline(given, make_print(split_given=True), RunOptions())
    assert (settled["nested"], settled["headline"]) == (1, "test part")


@pytest.mark.parametrize("value", [-1, 101, True, "1"])
def test_repeats_of_nested_cross_validation_out_of_range_are_refused(value):
    plan = plan_for()
    wrong = dataclasses.replace(plan, choices=(dataclasses.replace(plan.find("nested"), value=value),))
    with pytest.raises(OptionError, match="--plan: nested: expected how many repeats"):
        apply_given(plan, wrong)


@pytest.mark.parametrize(("auc", "n_positive", "n_negative"), [(0.85, 20, 40), (0.7, 15, 15), (0.95, 60, 30)])
def test_the_error_of_an_auc_is_that_of_exponential_scores(auc, n_positive, n_negative):
    """Hanley and McNeil's Q1 and Q2 are exact where the scores of both classes are exponential."""
    rng = np.random.default_rng(0)
    n_samples = 20_000
    negative = rng.exponential(1.0, (n_samples, n_negative))
    positive = rng.exponential(auc / (1 - auc), (n_samples, n_positive))  # P(positive > negative) = auc
    found = np.zeros(n_samples)
    for column in range(n_positive):
        found += (positive[:, column : column + 1] > negative).mean(axis=1)
    found /= n_positive
    assert found.mean() == pytest.approx(auc, abs=0.003)
    assert hanley_mcneil_error(auc, n_positive, n_negative) == pytest.approx(found.std(), rel=0.02)


def test_square_images_leave_no_aspect_to_measure():
    assert (CASES["square, bf16"]["aspect"], CASES["square, bf16"].find("aspect").kind) == ("squash", "rule")
    nearly = plan_for(make_print(aspect_ratio={"min": 0.98, "median": 1.0, "max": 1.02}))
    assert nearly["aspect"] == "squash"
    assert CASES["two classes"].find("aspect").candidates == ("squash", "letterbox", "crop")


def test_precision_is_measured_where_the_processor_has_bf16():
    assert plan_for()["precision"] == "f32"
    assert plan_for(hardware=Hardware(2, 1000, bf16=True)).find("precision").candidates == ("bf16", "f32")
    given_precision = plan_for(hardware=Hardware(2, 1000, bf16=True), precision="f32").find("precision")
    assert (given_precision.value, given_precision.kind) == ("f32", "given")


def test_the_engine_is_the_gpu_where_there_is_one():
    assert plan_for()["engine"] == "cpu"
    assert plan_for(hardware=Hardware(2, 1000, cuda="H100"))["engine"] == "cuda"


def test_wide_pixels_get_one_range():
    choice = CASES["wide"].find("wide_range")
    assert choice.value == [0.0, 4095.0]
    assert "300 images of 16 bits, 100 images of 8 bits" in choice.reason
    assert CASES["two classes"]["wide_range"] is None


def test_wide_pixels_in_the_test_part_only_are_refused():
    with pytest.raises(
        OptionError, match="images of the test part have more than 8 bits, none of the development part"
    ):
        plan_for(make_print(test_has_wide=True))


def test_slow_heads_are_left_out_for_many_items():
    plan = CASES["many items"]
    assert plan["heads"] == ["linear", "random_forest", "k_nn"]
    assert plan.find("rung").candidates == (*plan["heads"], *RUNGS[len(ALL_HEADS) :])
    assert CASES["two classes"]["heads"] == list(ALL_HEADS)
    slow_one = plan_for(make_print({"a": (30_000, 9000), "b": (2000, 900)}), head="svm")
    assert (slow_one["heads"], slow_one["rung"]) == (["svm"], "svm")


# --- the rung ---------------------------------------------------------------------------------------------------------


def test_the_rung_is_measured_among_heads_and_lines_in_the_order_of_the_ladder():
    choice = plan_for().find("rung")
    assert (choice.value, choice.kind, choice.candidates) == (None, "empirical", RUNGS)
    assert "one standard error" in choice.reason
    assert plan_for(controls="none").find("rung") == plan_for(controls="random_init").find("rung") == choice


@pytest.mark.parametrize(
    ("options", "rung"),
    [
        ({"head": "k_nn"}, "k_nn"),
        ({"strategy": "frozen"}, "linear"),
        ({"thaw_line": "blocks.6"}, "fine_tuning blocks.6"),
        ({"thaw_line": "conv_stem"}, "fine_tuning_from_scratch conv_stem"),
        ({"strategy": "full fine-tuning"}, "fine_tuning_from_scratch conv_stem"),
        ({"strategy": "full fine-tuning,random_init"}, "fine_tuning_from_scratch conv_stem"),
        ({"strategy": "handcrafted", "head": "linear"}, "handcrafted"),
        ({"strategy": "handcrafted", "head": "svm"}, "handcrafted svm"),
        ({"strategy": "random_init"}, "random_init"),
    ],
)
def test_the_only_rung_is_given(options, rung):
    choice = plan_for(**options).find("rung")
    assert (choice.value, choice.kind, choice.candidates) == (rung, "given", None)
    assert choice.reason == "the only one to try"


def test_two_controls_alone_are_measured_against_each_other():
    plan = CASES["controls"]
    assert (plan["heads"], plan["lines"]) == ([], [])
    assert plan.find("rung").candidates == (
        "handcrafted",
        *(f"handcrafted {head}" for head in ALL_HEADS[1:]),
        "random_init",
    )
    assert "a control is what is delivered" in plan.find("controls").reason


def test_heads_say_why_there_are_none():
    choice = CASES["thawed only"].find("heads")
    assert (choice.value, choice.kind) == ([], "given")
    assert "no strategy that freezes the whole backbone is asked for" in choice.reason


def test_a_line_has_the_strategy_that_trains_what_it_trains():
    fine = dataclasses.replace(FACTS, fine_lines=(*LINES[:3], Line("conv_stem.0", 1.0, 1.0, (3, 224, 224))))
    assert [name_strategy(name, fine) for name in (*NAMES, "conv_stem.0")] == [
        *["fine_tuning"] * 3,
        *["fine_tuning_from_scratch"] * 2,
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "fine_tuning"},
        {"strategy": "end to end"},
        {"strategy": "random_init"},
        {"thaw_line": "blocks.5"},
        {"ratio": 0.3},
        {"last_layers": 1},
        {"blocks": "blocks.5:blocks.6"},
    ],
)
def test_nothing_left_to_try_is_refused_with_the_reason(options):
    with pytest.raises(
        OptionError,
        match="--strategy: nothing is left to try: the blocks of efficientnet_lite0 cannot be traced, so it stays frozen; "
        "ask for feature_extractor too",
    ):
        plan_for(facts=FROZEN, **options)
    with_heads = plan_for(facts=FROZEN, **(options | {"strategy": "frozen,fine_tuning"}))
    assert (with_heads["rung"], with_heads["lines"]) == ("linear", [])


def test_a_network_of_one_line_has_nothing_for_partial_fine_tuning():
    facts = dataclasses.replace(FACTS, lines=LINES[-1:])
    with pytest.raises(OptionError, match="the only line of efficientnet_lite0 trains everything"):
        plan_for(facts=facts, strategy="fine_tuning")
    assert plan_for(facts=facts)["lines"] == ["conv_stem"]


def test_the_contract_repeats_the_plan():
    plan = plan_for(make_print(wide_range=[0.0, 4095.0]), Hardware(2, 1000, bf16=True))
    contract = plan.contract(FACTS, aspect="letterbox")
    assert (contract.size_px, contract.mean, contract.std) == (224, FACTS.mean, FACTS.std)
    assert (contract.interpolation, contract.aspect, contract.wide_range) == ("bicubic", "letterbox", (0.0, 4095.0))
    assert contract.precision == "f32"  # while it is open
    assert plan.decide("precision", "bf16", "measured").decide("aspect", "crop", "measured").contract(FACTS) == (
        dataclasses.replace(contract, precision="bf16", aspect="crop")
    )


def test_an_open_choice_is_settled_with_its_evidence():
    plan = plan_for()
    settled = plan.decide("aspect", "crop", "best of three", [{"candidate": "crop", "loss": 0.5}])
    assert settled["aspect"] == "crop"
    assert settled.find("aspect").evidence == ({"candidate": "crop", "loss": 0.5},)
    assert settled.find("aspect").kind == "empirical"
    assert plan["aspect"] is None
    assert [c for c in settled.choices if c.name != "aspect"] == [c for c in plan.choices if c.name != "aspect"]
    with pytest.raises(KeyError, match="aspects"):
        plan.decide("aspects", "crop", "no such choice")


# --- digest -----------------------------------------------------------------------------------------------------------


def test_the_digest_covers_values_and_nothing_else():
    plan = plan_for()
    reworded = Plan(
        tuple(dataclasses.replace(choice, reason="other words") for choice in plan.choices), plan.fingerprint
    )
    kinds = Plan(tuple(dataclasses.replace(choice, kind="given") for choice in plan.choices), plan.fingerprint)
    assert reworded.digest() == kinds.digest() == plan.digest()
    assert plan.decide("aspect", None, "", [{"loss": 1}]).digest() == plan.digest()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, len(plan_for().choices) - 1))
def test_the_digest_changes_with_any_value(position):
    plan = plan_for()
    choices = list(plan.choices)
    choices[position] = dataclasses.replace(choices[position], value="another value")
    beside = choices[position].name in ("nested", "headline")  # which change neither the model nor its test
    assert (Plan(tuple(choices), plan.fingerprint).digest() == plan.digest()) == beside


def test_the_digest_changes_with_the_data():
    assert plan_for(make_print(digest="other data")).digest() != plan_for().digest()


# --- plan files -------------------------------------------------------------------------------------------------------


def edit(plan, tmp_path, **values):
    """Write a plan file with some values changed and read it back."""
    data = plan.to_json()
    for choice in data["choices"]:
        choice["value"] = values.get(choice["name"], choice["value"])
    file = tmp_path / "edited.json"
    file.write_text(json.dumps(data), "utf-8")
    return read_plan(file)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("aspect", "letterbox"),
        ("cached_lines", ["conv_head", "blocks.5"]),
        ("cached_lines", []),
        ("class_weight", "balanced"),
        ("heads", ["linear", "svm"]),
        ("heads", ["svm"]),
        ("interpolation", "bilinear"),
        ("lines", ["conv_head", "blocks.5"]),
        ("lines", ["conv_stem"]),
        ("lines", []),
        ("precision", "bf16"),
        ("recipe", {**RECIPE, "learning_rate": 1e-4, "epochs": 3, "decay": 1, "mixup": 1}),
        ("recipe", {**RECIPE, "balance": "sampling", "focal": 2.0, "train_norms": True, "auto_rgn": True}),
        ("recipe", {**RECIPE, "balance": "weights", "weight_decay": 0, "label_smoothing": 0, "batch_items": 1}),
        ("rung", "k_nn"),
        ("rung", "fine_tuning blocks.5"),
        ("rung", "fine_tuning_from_scratch conv_stem"),
        ("threshold", 0.3),
        ("useful_gain", 0),
        ("useful_gain", 0.02),
        ("wide_range", [0, 1023]),
        ("wide_range", [-1000.0, 400.5]),
    ],
)
def test_these_values_can_be_edited(tmp_path, name, value):
    plan = plan_for()
    changed = apply_given(plan, edit(plan, tmp_path, **{name: value}))
    assert changed[name] == value
    assert changed.find(name).kind == "given"
    assert changed.find(name).reason == f"given in the plan file (was {plan[name]!r})"
    assert changed.digest() != plan.digest()
    followers = {"heads": {"rung"}, "lines": {"rung", "cached_lines"}}.get(name, set())
    others = {choice.name for choice in plan.choices} - {name} - followers
    assert all(changed.find(other) == plan.find(other) for other in others)
    assert json.loads(json.dumps(changed.to_json()))["digest"] == changed.digest()


def test_every_editable_choice_can_be_given_and_taken_back(tmp_path):
    """A file of values that are the planned ones changes nothing, whatever was to be measured."""
    plan = plan_for(hardware=Hardware(2, 1000, bf16=True))
    assert {choice.name for choice in plan.choices} >= set(EDITABLE)
    measured = plan.decide("aspect", "crop", "measured").decide("precision", "f32", "measured")
    measured = measured.decide("rung", "fine_tuning blocks.5", "measured", [{"candidate": "linear"}])
    given = apply_given(plan, edit(measured, tmp_path))
    assert given.digest() == measured.digest()
    assert [choice.name for choice in given.choices if choice != plan.find(choice.name)] == [
        "aspect",
        "precision",
        "rung",
    ]


# --- edits that others follow -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heads", "lines", "rungs"),
    [
        (["linear", "svm"], NAMES, ("linear", "svm", *RUNGS[5:])),
        (["svm"], NAMES[1:3], ("svm", "fine_tuning blocks.6", "fine_tuning blocks.5")),
        (["linear"], ["conv_stem"], ("linear", "fine_tuning_from_scratch conv_stem")),
        (["linear", "k_nn"], [], ("linear", "k_nn")),
    ],
)
def test_edited_heads_and_lines_are_the_candidates(tmp_path, heads, lines, rungs):
    plan = plan_for()
    choice = apply_given(plan, edit(plan, tmp_path, heads=heads, lines=lines)).find("rung")
    assert (choice.value, choice.kind, choice.candidates) == (None, "empirical", rungs)


def test_the_only_candidate_that_edits_leave_is_the_rung(tmp_path):
    plan = plan_for()
    assert apply_given(plan, edit(plan, tmp_path, heads=["svm"], lines=[])).find("rung") == plan_for(head="svm").find(
        "rung"
    )


def test_a_rung_that_was_the_only_one_follows_edits_too(tmp_path):
    plan = plan_for(head="linear")
    assert apply_given(plan, edit(plan, tmp_path, heads=["svm"]))["rung"] == "svm"
    assert apply_given(plan, edit(plan, tmp_path, heads=["svm", "linear"])).find("rung").candidates == ("svm", "linear")
    assert apply_given(plan, edit(plan, tmp_path, heads=["svm", "linear"], rung="svm"))["rung"] == "svm"
    thawed = plan_for(thaw_line="blocks.5")
    wider = apply_given(thawed, edit(thawed, tmp_path, heads=["linear"]))
    assert wider.find("rung").candidates == ("linear", "fine_tuning blocks.5")


def test_cached_lines_are_those_that_an_edit_leaves_and_the_file_can_be_given_again(tmp_path):
    plan = plan_for()
    assert plan["cached_lines"] == ["conv_head", "blocks.6", "blocks.5"]
    changed = apply_given(plan, edit(plan, tmp_path, lines=["blocks.6", "conv_stem"]))
    assert changed["cached_lines"] == ["blocks.6"]
    assert apply_given(plan, edit(changed, tmp_path)).digest() == changed.digest()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rung": "k_nn", "heads": ["linear", "svm"]}, r"rung: expected one of linear, svm, fine_.*; found 'k_nn'$"),
        (
            {"rung": "fine_tuning blocks.5", "lines": []},
            r"rung: expected one of linear, .*; found 'fine_tuning blocks.5'$",
        ),
    ],
)
def test_edits_that_contradict_each_other_are_refused(tmp_path, values, message):
    plan = plan_for()
    with pytest.raises(OptionError, match=f"^--plan: {message}"):
        apply_given(plan, edit(plan, tmp_path, **values))


def test_edits_that_leave_nothing_to_try_are_refused(tmp_path):
    plan = plan_for(strategy="fine_tuning")
    with pytest.raises(OptionError, match="--plan: heads and lines leave nothing to try; keep one"):
        apply_given(plan, edit(plan, tmp_path, lines=[]))


def test_an_edited_size_is_given(tmp_path):
    plan = plan_for()
    found = apply_given(plan, edit(plan, tmp_path, size_px=160))
    assert (found["size_px"], found.find("size_px").kind) == (160, "given")
    assert [c for c in found.choices if c.name != "size_px"] == [c for c in plan.choices if c.name != "size_px"]


# --- the size of the input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "height", "value", "candidates"),
    [(225, 225, None, (224, 288)), (224, 900, 224, None), (900, 224, 224, None), (28, 28, 224, None)],
)
def test_a_larger_size_is_measured_where_half_of_the_images_have_the_detail(width, height, value, candidates):
    sides = {"width_px": width, "height_px": height}
    choice = plan_for(make_print(**{name: {"median": side} for name, side in sides.items()})).find("size_px")
    assert (choice.value, choice.candidates) == (value, candidates)
    assert choice.kind == ("rule" if value else "empirical")


@pytest.mark.parametrize(("native", "larger"), [(224, 288), (240, 320), (260, 320), (299, 384), (64, 96)])
def test_the_larger_size_is_nine_sevenths_in_steps_that_networks_halve(native, larger):
    facts = dataclasses.replace(FACTS, native_px=native, size_px=native)
    wide = {name: {"median": 1000} for name in ("width_px", "height_px")}
    assert plan_for(make_print(**wide), facts=facts).find("size_px").candidates == (native, larger)


def test_a_size_that_is_asked_for_is_not_measured():
    wide = {name: {"median": 1000} for name in ("width_px", "height_px")}
    choice = plan_for(make_print(**wide), size_px=320).find("size_px")
    assert (choice.value, choice.kind, choice.candidates) == (320, "given", None)


def test_a_contract_has_the_size_of_training_while_it_is_open():
    plan = plan_for(make_print(**{name: {"median": 1000} for name in ("width_px", "height_px")}))
    assert plan.contract(FACTS).size_px == 224
    assert plan.contract(FACTS, size_px=288).size_px == 288
    assert plan.decide("size_px", 288, "measured").contract(FACTS).size_px == 288


def enlarge(times):
    """Facts of the same network for images of which each line takes so many times the room."""
    lines = tuple(dataclasses.replace(line, shape=(line.shape[0] * times, *line.shape[1:])) for line in FACTS.lines)
    return dataclasses.replace(FACTS, size_px=288, lines=lines)


def test_views_and_cached_lines_follow_the_size():
    hardware = dataclasses.replace(HARDWARE, cache_mib=1000)
    plan = plan_for(hardware=hardware)
    for times in (2, 1000):
        larger = enlarge(times)
        found = follow_size(plan, make_print(), hardware, larger, RunOptions())
        wanted = plan_for(hardware=hardware, facts=larger)
        assert (found["views"], found["cached_lines"]) == (wanted["views"], wanted["cached_lines"])
        rest = [c for c in plan.choices if c.name not in ("views", "cached_lines")]
        assert [c for c in found.choices if c.name not in ("views", "cached_lines")] == rest
    assert (found["views"], found["cached_lines"]) == (0, [])


def test_edited_lines_stay_edited_at_another_size(tmp_path):
    plan = plan_for()
    fewer = apply_given(plan, edit(plan, tmp_path, lines=["blocks.6", "conv_stem"]))
    assert follow_size(fewer, make_print(), HARDWARE, enlarge(1), RunOptions())["cached_lines"] == ["blocks.6"]
    fresh = apply_given(plan, edit(plan, tmp_path, cached_lines=["conv_head"]))
    assert follow_size(fresh, make_print(), HARDWARE, enlarge(1), RunOptions())["cached_lines"] == ["conv_head"]


# --- edits that are refused -------------------------------------------------------------------------------------------

HEADS_EXPECTED = f"some of {list(ALL_HEADS)}, each once"
RUNGS_EXPECTED = f"one of {', '.join(RUNGS)}, as heads and lines say"
LINES_EXPECTED = f"some of {NAMES}, in their order"
RECIPE_EXPECTED = "the fields of the planned one, each a number or word of its kind: {"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("aspect", "stretch", "squash, letterbox, crop"),
        ("cached_lines", ["conv_stem"], f"some of {NAMES[:3]}, in their order"),
        ("cached_lines", ["blocks.6", "conv_head"], f"some of {NAMES[:3]}, in their order"),
        ("cached_lines", "conv_head", f"some of {NAMES[:3]}, in their order"),
        ("class_weight", 2, "none or balanced"),
        ("heads", [], HEADS_EXPECTED),
        ("heads", ["linear", "perceptron"], HEADS_EXPECTED),
        ("heads", [["linear"]], HEADS_EXPECTED),
        ("heads", "linear", HEADS_EXPECTED),
        ("heads", ["linear", "svm", "linear"], HEADS_EXPECTED),
        ("lines", ["blocks.7"], LINES_EXPECTED),
        ("lines", ["blocks.5", "conv_head"], LINES_EXPECTED),
        ("lines", ["blocks.5", "blocks.5"], LINES_EXPECTED),
        ("lines", "blocks.5", LINES_EXPECTED),
        ("lines", [["blocks.5"]], LINES_EXPECTED),
        ("lines", {"blocks.5": 1}, LINES_EXPECTED),
        *[
            ("recipe", {**RECIPE, field: value}, RECIPE_EXPECTED)
            for field, values in {
                "learning_rate": (0, -1e-4, -1, "8e-4", True, None, math.inf, math.nan),
                "epochs": (0, -1, 2.5, 11.0, True, "10"),
                "batch_items": (0, 16.0, False),
                "decay": (0.0, 1.5, -0.5, [0.85]),
                "weight_decay": (-0.02, -1, math.inf),
                "label_smoothing": (1.0, -0.1, "0.1"),
                "mixup": (-0.2, -1, math.nan, True),
                "balance": ("heavy", 1, None, ["none"]),
                "focal": (-2, "2"),
                "train_norms": (1, "yes", None),
                "auto_rgn": (1.0, "no"),
                "momentum": (0.9,),
            }.items()
            for value in values
        ],
        ("recipe", {"learning_rate": 1e-4}, RECIPE_EXPECTED),
        ("recipe", {}, RECIPE_EXPECTED),
        ("recipe", "AdamW", RECIPE_EXPECTED),
        ("recipe", [RECIPE], RECIPE_EXPECTED),
        ("rung", "perceptron", RUNGS_EXPECTED),
        ("rung", "blocks.5", RUNGS_EXPECTED),
        ("rung", "feature_extractor linear", RUNGS_EXPECTED),
        ("rung", "handcrafted", RUNGS_EXPECTED),
        ("rung", ["linear"], RUNGS_EXPECTED),
        ("useful_gain", -0.01, "a number from 0, below 1"),
        ("useful_gain", 1.0, "a number from 0, below 1"),
        ("useful_gain", "0.02", "a number from 0, below 1"),
        ("useful_gain", True, "a number from 0, below 1"),
        ("useful_gain", math.nan, "a number from 0, below 1"),
        ("interpolation", "nearest", "bilinear or bicubic"),
        ("precision", "f16", "f32 or bf16"),
        ("size_px", 16, "a whole number from 32 to 1024"),
        ("size_px", 224.5, "a whole number from 32 to 1024"),
        ("threshold", 1.0, "a number between 0 and 1"),
        ("threshold", "0.4", "a number between 0 and 1"),
        ("wide_range", [5, 5], "two numbers, black below white"),
        ("wide_range", [0, 1, 2], "two numbers, black below white"),
        ("wide_range", [[0], 1], "two numbers, black below white"),
        ("wide_range", [0, float("inf")], "two numbers, black below white"),
    ],
)
def test_values_out_of_range_are_refused(tmp_path, name, value, expected):
    plan = plan_for()
    with pytest.raises(OptionError, match=re.escape(f"--plan: {name}: expected {expected}")) as caught:
        apply_given(plan, edit(plan, tmp_path, **{name: value}))
    assert str(caught.value).endswith(f"found {value!r}")


def test_a_threshold_belongs_to_two_classes_or_to_labels(tmp_path):
    assert apply_given(plan_for(), edit(plan_for(), tmp_path, threshold=0.3))["threshold"] == 0.3
    plan = CASES["three classes"]
    with pytest.raises(OptionError, match=r"--plan: threshold: expected 0\.5, found 0\.3: of several classes"):
        apply_given(plan, edit(plan, tmp_path, threshold=0.3))
    assert apply_given(plan, edit(plan, tmp_path, heads=["linear"]))["threshold"] == 0.5
    with pytest.raises(OptionError, match=r"--threshold cost:2: belongs to a task of two classes, found 3"):
        plan_for(make_print({"a": (50, 20), "b": (60, 30), "c": (10, 5)}), threshold="cost:2")


def test_every_other_choice_belongs_to_options_or_data(tmp_path):
    plan = plan_for()
    for name in {choice.name for choice in plan.choices} - set(EDITABLE):
        with pytest.raises(
            OptionError, match=f"--plan: {name} is 'edited' in the file and .* by an option or by the data"
        ):
            apply_given(plan, edit(plan, tmp_path, **{name: "edited"}))


def test_a_plan_of_other_data_is_refused(tmp_path):
    other = edit(plan_for(make_print({"a": (50, 20), "b": (60, 30), "c": (10, 5)})), tmp_path)
    with pytest.raises(OptionError, match="--plan: task is 'multiclass' in the file and 'binary' for these data"):
        apply_given(plan_for(), other)


def test_unknown_choices_are_refused():
    plan = plan_for()
    odd = Plan((dataclasses.replace(plan.find("aspect"), name="aspects"),), plan.fingerprint)
    with pytest.raises(OptionError, match="--plan: unknown choices aspects; known: task, positive, "):
        apply_given(plan, odd)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "[]",
        "5",
        '{"fingerprint": "x"}',
        '{"choices": []}',
        '{"fingerprint": "x", "choices": ["aspect"]}',
        '{"fingerprint": "x", "choices": [{"name": "aspect"}]}',
        '{"fingerprint": "x", "choices": [{"name": "a", "value": 1, "kind": "rule", "reason": "r", "extra": 1}]}',
        '{"fingerprint": "x", "choices": [{"name": "a", "value": 1, "kind": "rule", "reason": "r", "candidates": 1}]}',
    ],
)
def test_a_file_that_is_no_plan_is_refused(tmp_path, text):
    file = tmp_path / "plan.json"
    file.write_text(text)
    with pytest.raises(OptionError, match=r"plan\.json is not a plan as --plan-only --json prints it"):
        read_plan(file)


def test_a_missing_plan_file_is_said(tmp_path):
    with pytest.raises(
        OptionError, match=r"--plan: cannot read .*absent\.json: No such file.*make one with --plan-only"
    ):
        read_plan(tmp_path / "absent.json")


def test_the_rarer_class_is_that_of_development_whatever_the_test_part_holds():
    found = make_print({"left": (100, 50), "right": (90, 50)})
    development = {"left": {"items": 60, "patients": 30}, "right": {"items": 80, "patients": 45}}
    plan = plan_for({**found, "parts": {**found["parts"], "development": development}})
    assert plan["positive"] == "left"


# --- what is shown of volumes -----------------------------------------------------------------------------------------


def print_volumes(most=64):
    return {**make_print(), "slices": {"min": 20, "median": 40.0, "max": most}}


def name_values(plan):
    return {choice.name: choice.value for choice in plan.choices}


def test_images_are_shown_as_they_are_and_volumes_as_bags():
    plan = plan_for()
    assert (plan["dimensions"], plan.contract(FACTS).reading) == ("2d", Reading())
    assert "slices" not in name_values(plan)
    plan = plan_for(print_volumes())
    expected = Reading(dimensions=BAG, slices="spread:16", n_slices=16)
    assert plan.contract(FACTS).reading == expected
    assert "20 to 64 slices" in plan.find("dimensions").reason
    assert find_depth(print_volumes(), RunOptions()) == Depth(16, "mean")
    assert find_depth(make_print(), RunOptions()) is None


@pytest.mark.parametrize(
    ("options", "depth"),
    [
        ({"slices": "all", "pooling": "max"}, Depth(64, "max")),
        ({"slices": "every:10"}, Depth(7, "mean")),
        ({"dimensions": "3d_acs", "slices": "spread:32"}, Depth(32, "acs")),
        ({"dimensions": "2.5d_neighbours"}, None),
        ({"frame": "first"}, None),
    ],
)
def test_what_options_say_of_volumes(options, depth):
    plan = plan_for(print_volumes(), **options)
    reading = plan.contract(FACTS).reading
    assert reading.depth == depth == find_depth(print_volumes(), RunOptions(**options))
    assert plan.find("dimensions").kind == ("rule" if depth and "dimensions" not in options else "given")
    assert ("pooling" in name_values(plan)) == (depth is not None and not depth.is_volume)


@pytest.mark.parametrize(
    ("n_slices", "size_px", "items"),
    [(0, 224, 32), (2, 224, 32), (16, 224, 4), (16, 64, 32), (64, 224, 2), (300, 448, 2)],
)
def test_steps_of_bags_hold_fewer_items_the_larger_their_slices(n_slices, size_px, items):
    facts = dataclasses.replace(FACTS, n_slices=n_slices, size_px=size_px)
    assert plan_for(print_volumes(), facts=facts)["recipe"]["batch_items"] == items
