"""What the plan says of thawing: lines, blocks, controls, views, augmentation, recipe."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thawline.errors import OptionError
from thawline.options import MODALITIES, RunOptions, check_options
from thawline.plan_thawing import (
    AUGMENTATIONS,
    ITEM_PASSES,
    LEAST_EPOCHS,
    RECIPE,
    VIEWS,
    WORTH_CACHING,
    check_recipe,
    choose_thawing,
    describe_line,
    list_chosen,
)
from thawline.types import BALANCES, Augmentation, BackboneFacts, Hardware, Line, Recipe

LITE0 = (  # the default backbone, to a few digits
    Line("conv_head", 0.12, 0.05, (320, 7, 7)),
    Line("blocks.6", 0.30, 0.13, (192, 7, 7)),
    Line("blocks.5", 0.79, 0.37, (112, 14, 14)),
    Line("blocks.4", 0.92, 0.59, (80, 14, 14)),
    Line("blocks.3", 0.98, 0.70, (40, 28, 28)),
    Line("blocks.2", 0.995, 0.80, (24, 56, 56)),
    Line("conv_stem", 1.0, 1.0, (3, 224, 224)),
)
FINE = (
    LITE0[0],
    Line("blocks.6.0", 0.30, 0.13, (192, 7, 7)),
    Line("blocks.5.3", 0.42, 0.18, (192, 7, 7)),
    Line("blocks.5.0", 0.79, 0.37, (112, 14, 14)),
    LITE0[-1],
)
NAMES = [line.name for line in LITE0]
FACTS = BackboneFacts(
    "lite0", 224, 224, (0.5,) * 3, (0.5,) * 3, "bicubic", "a package", "Apache-2.0", "ImageNet-1k", LITE0, FINE
)
ITEM_MIB = 512  # items of one line of 1024 values in float16 take 1 MiB


def make_print(n_items=500, channels=("1",)):
    halves = {"a": {"items": n_items // 2, "patients": 1}, "b": {"items": n_items - n_items // 2, "patients": 1}}
    return {"parts": {"development": halves}, "channels": dict.fromkeys(channels, n_items)}


def choose(facts=FACTS, cache_mib=100_000, n_items=500, channels=("1",), bf16=False, **options):
    """All choices of thawing by name."""
    hardware = Hardware(2, 4000, bf16, cache_mib=cache_mib)
    wanted = check_options(RunOptions(**options))
    return {each.name: each for each in choose_thawing(make_print(n_items, channels), hardware, facts, wanted)}


def with_lines(*lines, fine=()):
    return dataclasses.replace(FACTS, lines=lines, fine_lines=fine)


# --- lines ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "names", "kind"),
    [
        ({}, NAMES, "fixed"),
        ({"controls": "none"}, NAMES, "fixed"),
        ({"strategy": "partial fine-tuning"}, NAMES[:-1], "given"),
        ({"strategy": "full fine-tuning"}, NAMES[-1:], "given"),
        ({"strategy": "full fine-tuning,frozen,partial fine-tuning"}, NAMES, "given"),
        ({"sequence": "layers"}, [line.name for line in FINE], "given"),
        ({"sequence": "layers", "strategy": "fine_tuning"}, [line.name for line in FINE[:-1]], "given"),
        ({"thaw_line": "blocks.4"}, ["blocks.4"], "given"),
        ({"thaw_line": "conv_stem"}, ["conv_stem"], "given"),
        ({"thaw_line": "blocks.5.3", "sequence": "layers"}, ["blocks.5.3"], "given"),
        ({"strategy": "frozen,hybrid"}, [], "given"),
        ({"strategy": "random_init"}, [], "given"),
        ({"head": "linear"}, [], "given"),
    ],
)
def test_lines_are_those_that_the_strategies_thaw_from_the_top_down(options, names, kind):
    choice = choose(**options)["lines"]
    assert (choice.value, choice.kind) == (names, kind)
    for line in list_chosen(FACTS, names):
        assert describe_line(line) in choice.reason


def test_what_lies_above_a_line_is_said_in_shares():
    assert describe_line(Line("blocks.5", 0.7921, 0.3663, (1,))) == "blocks.5 (79% of parameters, 37% of compute)"
    assert "trained above: blocks.4 (92% of parameters, 59% of compute)" in choose(thaw_line="blocks.4")["lines"].reason


def test_no_lines_are_explained():
    frozen = dataclasses.replace(FACTS, lines=(), fine_lines=())
    assert choose(frozen)["lines"].reason == "the blocks of lite0 cannot be traced, so it stays frozen"
    assert choose(frozen)["lines"].kind == "rule"
    assert choose(frozen, strategy="frozen")["lines"].reason == "no strategy that thaws is asked for"
    assert "only the control random_init" in choose(strategy="frozen,random_init")["lines"].reason
    assert "cannot be traced" in choose(frozen, strategy="frozen,random_init")["lines"].reason


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"thaw_line": "blocks.7"}, "--thaw-line: expected one of conv_head, .*, conv_stem; found 'blocks.7'"),
        ({"thaw_line": ""}, "--thaw-line: expected one of conv_head, .*, conv_stem; found ''"),
        ({"thaw_line": "blocks.5.3"}, "--thaw-line: expected one of .*blocks.6, .*; found 'blocks.5.3'"),
        ({"thaw_line": "blocks.5", "sequence": "layers"}, "--thaw-line: expected .*blocks.5.0, .*; found 'blocks.5'"),
        ({"blocks": "blocks.7:blocks.5"}, "--blocks: expected one of conv_head, .*; found 'blocks.7'"),
        ({"blocks": ":blocks.5"}, "--blocks: expected one of conv_head, .*; found ''"),
    ],
)
def test_a_line_that_is_none_is_refused_with_those_there_are(options, found):
    with pytest.raises(OptionError, match=f"^{found}$"):
        choose(**options)


@settings(deadline=None, max_examples=60)
@given(ratio=st.floats(0.001, 1), sequence=st.sampled_from(["blocks", "layers"]))
def test_a_ratio_picks_the_nearest_line(ratio, sequence):
    lines = LITE0 if sequence == "blocks" else FINE
    distances = np.abs(np.array([line.thawed_fraction for line in lines]) - ratio)
    choice = choose(ratio=ratio, sequence=sequence)["lines"]
    assert (choice.value, choice.kind) == ([lines[int(distances.argmin())].name], "given")


@pytest.mark.parametrize(
    ("ratio", "name"),
    [
        (0.01, "conv_head"),
        (0.2, "conv_head"),
        (0.22, "blocks.6"),
        (0.54, "blocks.6"),
        (0.55, "blocks.5"),
        (1, "conv_stem"),
    ],
)
def test_ratios_about_the_middle_between_two_lines(ratio, name):
    assert choose(ratio=ratio)["lines"].value == [name]


@pytest.mark.parametrize("n_layers", range(1, len(FINE) + 1))
@pytest.mark.parametrize("sequence", ["blocks", "layers"])
def test_last_layers_are_counted_from_the_top_whatever_the_sequence(n_layers, sequence):
    (name,) = choose(last_layers=n_layers, sequence=sequence)["lines"].value
    above = [line.name for line in FINE].index(name) + 1
    assert above == n_layers


def test_more_layers_than_there_are_are_refused():
    with pytest.raises(OptionError, match="--last-layers: expected at most 5, found 6"):
        choose(last_layers=6)


# --- a block ----------------------------------------------------------------------------------------------------------


def test_everything_above_a_line_is_trained_unless_a_block_is_named():
    for options in ({}, {"thaw_line": "blocks.5"}, {"ratio": 0.5}, {"last_layers": 2}, {"strategy": "frozen"}):
        choice = choose(**options)["highest_block"]
        assert (choice.value, choice.kind) == (None, "fixed")


@pytest.mark.parametrize(
    ("blocks", "sequence"),
    [
        ("blocks.4:blocks.6", "blocks"),
        ("blocks.5:blocks.5", "blocks"),
        ("conv_stem:conv_head", "blocks"),
        ("blocks.5.0:blocks.5.3", "layers"),
    ],
)
def test_a_block_runs_from_the_lowest_to_the_highest(blocks, sequence):
    lowest, highest = blocks.split(":")
    choices = choose(blocks=blocks, sequence=sequence)
    assert (choices["lines"].value, choices["lines"].kind) == ([lowest], "given")
    assert (choices["highest_block"].value, choices["highest_block"].kind) == (highest, "given")
    assert f"what lies above {highest} stays frozen" in choices["highest_block"].reason


@pytest.mark.parametrize(
    ("blocks", "sequence"),
    [
        ("blocks.6:blocks.4", "blocks"),
        ("conv_head:conv_stem", "blocks"),
        ("blocks.4:blocks.7", "blocks"),
        ("blocks.4:", "blocks"),
        ("blocks.4:blocks.5.3", "blocks"),
        ("blocks.5.3:blocks.5.0", "layers"),
    ],
)
def test_a_block_the_wrong_way_round_or_with_an_unknown_top_is_refused(blocks, sequence):
    names = ", ".join(line.name for line in (LITE0 if sequence == "blocks" else FINE))
    with pytest.raises(
        OptionError, match=f"--blocks: expected LOWEST:HIGHEST among, from the top down, {names}; found '{blocks}'$"
    ):
        choose(blocks=blocks, sequence=sequence)


# --- controls ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "controls", "kind"),
    [
        ({}, ["handcrafted"], "fixed"),
        ({"controls": "none"}, [], "given"),
        ({"controls": "random_init,handcrafted"}, ["handcrafted", "random_init"], "given"),
        ({"controls": "random_init"}, ["random_init"], "given"),
        ({"strategy": "frozen"}, [], "given"),
        ({"head": "svm"}, [], "given"),
        ({"strategy": "frozen,from scratch"}, ["random_init"], "given"),
        ({"strategy": "handcrafted"}, ["handcrafted"], "given"),
    ],
)
def test_controls_are_those_asked_for(options, controls, kind):
    choice = choose(**options)["controls"]
    assert (choice.value, choice.kind) == (controls, kind)


def test_controls_say_what_becomes_of_them():
    assert "never chosen" in choose()["controls"].reason
    assert choose(controls="none")["controls"].reason == "none is asked for"
    assert "never chosen" in choose(strategy="frozen,handcrafted")["controls"].reason
    assert "a control is what is delivered" in choose(strategy="handcrafted")["controls"].reason
    frozen = with_lines()
    both = choose(frozen, controls="handcrafted,random_init")["controls"]
    assert both.value == ["handcrafted"]
    assert "without random_init, since the blocks of lite0 cannot be traced" in both.reason
    assert "cannot be traced" not in choose(frozen)["controls"].reason


# --- views ------------------------------------------------------------------------------------------------------------

TWO = (Line("top", 0.1, 0.1, (1024,)), Line("low", 0.5, 0.5, (1024,)))  # 1 MiB each for 512 items
TWO_AND_ALL = (*TWO, Line("all", 1.0, 1.0, (3, 8, 8)))


@pytest.mark.parametrize(
    ("cache_mib", "views"),
    [(1000, 4), (10, 4), (9, 2), (6, 2), (5, 1), (4, 1), (3, 0), (0, 0)],  # (views + the clean one) x 2 lines x 1 MiB
)
def test_views_fall_from_four_to_none_as_the_room_shrinks(cache_mib, views):
    for lines in (TWO, TWO_AND_ALL):
        choices = choose(with_lines(*lines), cache_mib, n_items=ITEM_MIB)
        assert (choices["views"].value, choices["views"].kind) == (views, "rule")
        assert choices["cached_lines"].value == (["top", "low"] if views else [])
        if views:
            said = f"{views} views and the clean one of 512 items take {2 * (views + 1)} of {cache_mib} MiB"
            assert choices["views"].reason == said
        else:
            assert f"1 views would take 4 MiB, there is room for {cache_mib}" in choices["views"].reason
            assert "THAWLINE_CACHE_MIB" in choices["views"].reason


def test_the_room_that_the_default_backbone_takes_is_counted_by_hand():
    """Five lines of 15,680, 9,408, 21,952, 15,680 and 31,360 values; 2 bytes each, 5 times, for 10,000 items."""
    need = (320 * 49 + 192 * 49 + 112 * 196 + 80 * 196 + 40 * 784) * 2 * 5 * 10_000 / 2**20
    assert need == pytest.approx(8972.17, abs=0.01)
    enough = choose(cache_mib=8973, n_items=10_000)
    assert (enough["views"].value, enough["cached_lines"].value) == (4, NAMES[:5])
    assert "10000 items take 8972 of 8973 MiB" in enough["views"].reason
    assert "at blocks.2, conv_stem the prefix runs for every batch" in enough["cached_lines"].reason
    short = choose(cache_mib=8972, n_items=10_000)
    assert (short["views"].value, short["cached_lines"].value) == (4, NAMES[:4])
    assert "at blocks.3, blocks.2, conv_stem the prefix runs" in short["cached_lines"].reason


def expect_views(lines, n_items, cache_mib, candidates=VIEWS):
    """The rule in whole bytes, written the other way round: the first number of views at which enough lines fit."""
    worth = [line for line in lines if line.compute_fraction <= 0.75]
    for n_views in candidates:
        kept, room = [], cache_mib * 2**20
        for line in worth:
            room -= int(np.prod(line.shape)) * 2 * n_items * (n_views + 1)
            if room < 0:
                break
            kept.append(line.name)
        if worth and len(kept) >= min(2, len(worth)):
            return n_views, kept
    return 0, []


@settings(deadline=None, max_examples=60)
@given(
    fractions=st.lists(st.floats(0.01, 0.99), min_size=1, max_size=6, unique=True).map(sorted),
    widths=st.lists(st.integers(1, 50_000), min_size=6, max_size=6),
    n_items=st.integers(2, 20_000),
    cache_mib=st.integers(0, 20_000),
    views=st.none() | st.integers(1, 9),
    controls=st.sampled_from(["none", "random_init"]),
)
def test_views_and_cached_lines_are_all_that_there_is_room_for(fractions, widths, n_items, cache_mib, views, controls):
    lines = [
        Line(f"line {place}", share, share, (2, width))
        for place, (share, width) in enumerate(zip(fractions, widths, strict=False))
    ]
    lines.append(Line("all", 1.0, 1.0, (3, 224, 224)))
    choices = choose(with_lines(*lines), cache_mib, n_items, views=views, controls=controls)
    expected = expect_views(lines, n_items, cache_mib, VIEWS if views is None else (views,))
    assert (choices["views"].value, choices["cached_lines"].value) == expected
    assert choices["views"].kind == ("given" if views is not None and expected[0] else "rule")


@pytest.mark.parametrize(("share", "cached"), [(0.7, True), (WORTH_CACHING, True), (0.7501, False), (0.99, False)])
def test_a_line_below_which_little_is_left_is_not_cached(share, cached):
    lines = (TWO[0], TWO[1], Line("deep", 0.9, share, (16,)), TWO_AND_ALL[-1])
    assert choose(with_lines(*lines))["cached_lines"].value == (["top", "low", "deep"] if cached else ["top", "low"])
    assert WORTH_CACHING == 0.75


def test_where_no_line_is_worth_it_the_room_is_not_to_blame():
    for options in ({"strategy": "full fine-tuning"}, {"thaw_line": "blocks.2"}, {"strategy": "frozen,random_init"}):
        choices = choose(**options)
        assert (choices["views"].value, choices["cached_lines"].value) == (0, [])
        assert "too little of the network to be kept" in choices["views"].reason
        assert "MiB" not in choices["views"].reason


def test_a_single_line_worth_it_is_cached_beside_those_that_are_not():
    choices = choose(ratio=0.5, strategy="fine_tuning,random_init")
    assert choices["lines"].value == ["blocks.6"]
    assert (choices["views"].value, choices["cached_lines"].value) == (4, ["blocks.6"])
    assert "at conv_stem the prefix runs for every batch" in choices["cached_lines"].reason


def test_views_asked_for_are_taken_or_it_is_said_why_not():
    facts = with_lines(*TWO)
    taken = choose(facts, 18, ITEM_MIB, views=8)
    assert (taken["views"].value, taken["views"].kind) == (8, "given")
    refused = choose(facts, 17, ITEM_MIB, views=8)
    assert (refused["views"].value, refused["views"].kind) == (0, "rule")
    assert "8 views would take 18 MiB, there is room for 17" in refused["views"].reason
    none = choose(facts, views=0)
    assert (none["views"].value, none["views"].kind, none["cached_lines"].value) == (0, "given", [])
    assert "--views 0: the prefix runs for every batch" in none["views"].reason
    frozen = choose(strategy="frozen")
    assert (frozen["views"].value, frozen["views"].reason, frozen["cached_lines"].value) == (0, "nothing is thawed", [])


# --- augmentation -----------------------------------------------------------------------------------------------------

every_modality = pytest.mark.parametrize("modality", MODALITIES)


def plan_augmentation(modality, channels=("3",), **options):
    """The planned augmentation, as those who draw views are given it."""
    choice = choose(modality=modality, channels=channels, **options)["augmentation"]
    return Augmentation(**{**choice.value, "scale": tuple(choice.value["scale"])}), choice


def test_every_modality_has_its_augmentation():
    assert set(AUGMENTATIONS) == set(MODALITIES)


@every_modality
def test_an_augmentation_says_why_and_whether_it_was_given(modality):
    augmentation, choice = plan_augmentation(modality)
    assert augmentation == AUGMENTATIONS[modality][0]
    assert choice.reason.startswith(f"{modality}: {AUGMENTATIONS[modality][1]}")
    assert choice.kind == ("rule" if modality == "unknown" else "given")
    assert ("left and right are exchanged (--side-matters forbids it)" in choice.reason) == augmentation.flip_sides
    assert "grey" not in choice.reason


@every_modality
@pytest.mark.parametrize("side_matters", [False, True])
def test_grey_images_get_neither_colour_nor_hue(modality, side_matters):
    for channels in (["1"], ["1", "2"], [1], [2]):
        augmentation, choice = plan_augmentation(modality, channels, side_matters=side_matters)
        assert (augmentation.colour, augmentation.hue) == (0, 0)
        assert "all images are grey, so no colour is changed" in choice.reason
    for channels in (["3"], ["1", "3"], ["4"]):
        augmentation, choice = plan_augmentation(modality, channels, side_matters=side_matters)
        assert (augmentation.colour, augmentation.hue) == (
            AUGMENTATIONS[modality][0].colour,
            AUGMENTATIONS[modality][0].hue,
        )
        assert "grey" not in choice.reason


def make_marks(size_px=41, width_px=5):
    """Black, with a red mark on the left, a green one at the top and a blue one in the middle."""
    image = np.zeros((size_px, size_px, 3), np.uint8)
    for channel, (row, column) in enumerate([(0, -10), (-10, 0), (0, 0)]):
        top, left = (size_px // 2 + place - width_px // 2 for place in (row, column))
        image[top : top + width_px, left : left + width_px, channel] = 255
    return image


def find_marks(view):
    """Where the marks on the left and at the top have gone, (row, column) each, from that in the middle."""
    found = []
    for channel in np.moveaxis(view.astype(float), 2, 0):
        mass = np.maximum(channel - (channel.min() + channel.max()) / 2, 0)  # contrast lifts the ground
        found.append((np.indices(mass.shape) * mass).sum(axis=(1, 2)) / mass.sum())
    left, top, middle = found
    return left - middle, top - middle


def draw_marks(modality, n_views=200, **options):
    """The marks in many views of a plan for grey images: sides of the marks, and whether they are mirrored."""
    from thawline.learn.augment import View, augment

    augmentation, _ = plan_augmentation(modality, ("1",), **options)
    image = make_marks()
    views = [augment(image, View(1 + number % 4, 0, augmentation), f"{number:08x}") for number in range(n_views)]
    assert len({view.tobytes() for view in views}) > 0.9 * n_views
    lefts, tops = (np.array(part) for part in zip(*map(find_marks, views), strict=True))
    return lefts, are_mirrored(lefts, tops)


def are_mirrored(lefts, tops):
    """Tell by the sign of the area between the two sides, which no turn changes."""
    return lefts[..., 0] * tops[..., 1] - lefts[..., 1] * tops[..., 0] > 0


def turns_deg(lefts):
    """By how much the mark on the left has gone round the middle, counter-clockwise as seen."""
    return np.degrees(np.arctan2(lefts[:, 0], -lefts[:, 1]))


def test_the_marks_tell_a_mirror_from_a_turn():
    image = make_marks()
    for turns in range(4):
        for mirrored in (False, True):
            left, top = find_marks(np.rot90(image[:, ::-1] if mirrored else image, turns))
            assert are_mirrored(left, top) == mirrored
            assert np.hypot(*left) == pytest.approx(10)
    assert turns_deg(np.array([find_marks(np.rot90(image))[0]])) == pytest.approx(90)


@pytest.mark.slow
@every_modality
def test_where_the_side_matters_nothing_exchanges_left_and_right(modality):
    lefts, mirrored = draw_marks(modality, side_matters=True)
    assert not mirrored.any()
    assert (lefts[:, 1] < -3).all()  # what was on the left has stayed there
    augmentation, choice = plan_augmentation(modality, side_matters=True)
    assert (augmentation.flip_sides, augmentation.flip_vertically, augmentation.quarter_turns) == (False,) * 3
    assert choice.kind == "given"
    assert "--side-matters: nothing that exchanges left and right" in choice.reason
    assert "left and right are exchanged" not in choice.reason


@pytest.mark.slow
@every_modality
def test_where_it_does_not_about_half_of_the_views_are_mirrored(modality):
    lefts, mirrored = draw_marks(modality)
    assert 0.3 < mirrored.mean() < 0.7
    assert (lefts[:, 1] > 3).any()


@pytest.mark.parametrize("modality", ["microscopy", "dermoscopy", "endoscopy"])
def test_what_has_no_way_up_is_turned_all_the_way_round(modality):
    lefts, mirrored = draw_marks(modality, n_views=300)
    for which in (mirrored, ~mirrored):
        angles = np.sort(turns_deg(lefts[which]))
        gaps = np.diff(angles, append=angles[0] + 360)
        assert gaps.max() < 25
    assert "full turns and flips" in AUGMENTATIONS[modality][1]


@pytest.mark.parametrize("modality", ["xray", "ct", "mri", "ultrasound", "fundus", "unknown"])
def test_what_has_a_way_up_is_turned_a_little_and_never_over(modality):
    allowed, _ = plan_augmentation(modality)
    assert allowed.turn_deg <= 15
    assert (allowed.flip_vertically, allowed.quarter_turns) == (False, False)
    lefts, mirrored = draw_marks(modality)
    angles = turns_deg(np.where(mirrored[:, None], lefts * (1, -1), lefts))
    assert np.abs(angles).max() <= allowed.turn_deg + 2  # as far as marks a few pixels wide can tell
    assert np.abs(angles).max() > 0.7 * allowed.turn_deg


def test_films_are_changed_less_than_slides():
    film, slide = (AUGMENTATIONS[name][0] for name in ("xray", "microscopy"))
    assert film.turn_deg <= 10
    assert film.shift <= 0.1
    assert max(abs(bound - 1) for bound in film.scale) < 0.11
    assert (film.colour, film.hue) == (0, 0)
    assert slide.colour > 0
    assert slide.hue > 0
    assert "small turns" in AUGMENTATIONS["xray"][1]


@pytest.mark.parametrize("modality", ["xray", "ct", "mri", "ultrasound", "fundus"])
def test_where_nothing_is_known_nothing_is_changed_more_than_where_something_is(modality):
    unknown, known = AUGMENTATIONS["unknown"][0], AUGMENTATIONS[modality][0]
    assert all(getattr(unknown, name) <= getattr(known, name) for name in ("turn_deg", "shift", "tone"))
    assert known.scale[0] <= unknown.scale[0] <= unknown.scale[1] <= known.scale[1]
    assert (unknown.colour, unknown.hue, unknown.flip_vertically) == (0, 0, False)


# --- recipe and gain --------------------------------------------------------------------------------------------------


def test_the_recipe_is_that_of_the_training_loop():
    assert Recipe(**RECIPE) == Recipe()
    choice = choose()["recipe"]
    assert (choice.value, choice.kind) == (RECIPE, "rule")
    assert check_recipe(RECIPE)
    for balance in BALANCES:
        assert check_recipe({**RECIPE, "balance": balance})


@settings(deadline=None, max_examples=60)
@given(
    n_items=st.integers(2, 200_000),
    budget=st.sampled_from([("90s", 1), ("20m", 1), ("30m", 1.5), ("40m", 2), ("41m", 2), ("5h", 2), ("none", 2)]),
    parts=st.sampled_from([({}, 1), ({"folds": 2}, 2.5), ({"folds": 10}, 1), ({"validation": "given"}, 5)]),
)
def test_many_items_are_gone_through_fewer_times_and_a_long_budget_or_few_folds_give_longer_trainings(
    n_items, budget, parts
):
    (said, longer), (limits, times) = budget, parts
    choice = choose(n_items=n_items, budget=said, **limits)["recipe"]
    epochs, most, passes = choice.value["epochs"], longer * RECIPE["epochs"], longer * times * ITEM_PASSES
    assert (choice.value, choice.kind) == ({**RECIPE, "epochs": epochs}, "rule")
    assert LEAST_EPOCHS <= epochs <= most
    if LEAST_EPOCHS < epochs < most:
        assert abs(epochs * n_items - passes) <= n_items / 2  # to the nearest epoch
    elif epochs == most:
        assert (epochs - 0.5) * n_items <= passes
    else:
        assert (epochs + 0.5) * n_items >= passes
    items = f"{n_items} items and what the budget has time for" if longer > 1 else f"{n_items} items"
    assert f"the epoch of the {epochs} that {items} call for" in choice.reason


@pytest.mark.parametrize(
    ("budget", "twice"),
    [("90s", "90s"), ("10m", "20m"), ("15m", "30m"), ("20m", "40m"), ("40m", "40m"), ("none", "none")],
)
def test_in_bf16_a_budget_has_time_for_what_twice_of_it_has_otherwise(budget, twice):
    fast, slow = choose(bf16=True, budget=budget)["recipe"], choose(budget=twice)["recipe"]
    assert fast.value == slow.value
    reason, _, arithmetic = fast.reason.partition("; in bf16")
    assert reason == slow.reason
    assert "--precision f32" in arithmetic


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({"mixup": 0.2}, {"mixup": 0.2}),
        ({"mixup": 0}, {"mixup": 0.0}),
        ({"mixup": 1}, {"mixup": 1.0}),
        ({"loss": "focal"}, {"focal": 2.0}),
        ({"sampling": "balanced"}, {"balance": "sampling"}),
        ({"class_weight": "balanced"}, {"balance": "weights"}),
        ({"class_weight": "balanced", "sampling": "balanced"}, {"balance": "sampling"}),
        ({"train_norms": True}, {"train_norms": True}),
        ({"auto_rgn": True}, {"auto_rgn": True}),
    ],
)
def test_options_change_the_recipe(options, changes):
    choice = choose(**options)["recipe"]
    assert (choice.value, choice.kind) == ({**RECIPE, **changes}, "given")
    assert all(type(choice.value[name]) is type(value) for name, value in RECIPE.items())
    assert check_recipe(choice.value)


def test_folded_normalisation_cannot_be_trained():
    folded = dataclasses.replace(FACTS, folded_batchnorm=True)
    assert choose(folded)["recipe"].value == RECIPE
    with pytest.raises(OptionError, match=r"--train-norms: batch normalisation of lite0 was folded into its weights"):
        choose(folded, train_norms=True)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(RECIPE)), st.sampled_from([None, "3", -1, -0.5, math.nan, math.inf, [1], {}, b"1"]))
def test_no_field_of_a_recipe_takes_what_is_no_value_for_anything(name, value):
    assert not check_recipe({**RECIPE, name: value})


@pytest.mark.parametrize(("gain", "kind"), [(0.01, "fixed"), (0.0, "given"), (0.03, "given")])
def test_the_useful_gain_is_that_of_the_option(gain, kind):
    choice = choose(useful_gain=gain)["useful_gain"]
    assert (choice.value, choice.kind) == (gain, kind)
    assert "10 %" in choice.reason
