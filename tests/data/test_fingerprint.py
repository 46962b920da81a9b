"""The fingerprint: counts and ranges of the development part, and nothing that names anybody."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from thawline.data.dataset import Dataset
from thawline.data.fingerprint import find_wide_range, make_fingerprint
from thawline.data.readers import ImageFacts
from thawline.data.splits import Splits
from thawline.types import Item

LABELS = np.array([0, 0, 1, 1, 1, 0, 1], np.int64)
GROUPS = np.array([0, 0, 1, 2, 3, 4, 1], np.int64)
IS_TEST = np.array([0, 0, 0, 1, 0, 1, 0], bool)


def make_fact(number=0, **changes):
    fact = ImageFacts(100, 50, 1, 8, "PNG", 0.0, 255.0, f"{number:064x}")
    return dataclasses.replace(fact, **changes)


def make_dataset():
    items = tuple(
        Item(f"ward-7/meier{n}.png", "well" if label else "ill", f"PATIENT-{group}", None, {"doctor": "dr-schulz"})
        for n, (label, group) in enumerate(zip(LABELS, GROUPS, strict=True))
    )
    return Dataset(Path("/home/mueller/films"), "manifest", items, ("ill", "well"), [Path("x")] * 7, True, 2, False)


def make_print(facts=None, is_test=IS_TEST, **changes):
    facts = facts or [make_fact(n) for n in range(7)]
    dataset = dataclasses.replace(make_dataset(), **changes)
    splits = Splits(is_test, np.where(is_test, -1, 0).astype(np.int64), 2, "2 folds by patient")
    return make_fingerprint(dataset, facts, LABELS, GROUPS, splits)


def test_items_and_patients_are_counted_by_class_and_part():
    found = make_print()
    assert (found["n_items"], found["n_patients"], found["imbalance"]) == (7, 5, 1.333)
    assert found["classes"] == {"ill": {"items": 3, "patients": 2}, "well": {"items": 4, "patients": 3}}
    assert found["parts"] == {
        "development": {"ill": {"items": 2, "patients": 1}, "well": {"items": 3, "patients": 2}},
        "test": {"ill": {"items": 1, "patients": 1}, "well": {"items": 1, "patients": 1}},
    }
    assert (found["patients_given"], found["n_blank_patients"], found["split_given"]) == (True, 2, False)
    assert (found["n_folds"], found["split_reason"]) == (2, "2 folds by patient")


def test_ranges_are_those_of_the_development_part():
    facts = [make_fact(n, width_px=100 + 10 * n, height_px=100, channels=1 + 2 * (n == 0)) for n in range(7)]
    found = make_print(facts)  # development: items 0, 1, 2, 4, 6
    assert found["width_px"] == {"min": 100, "median": 120.0, "max": 160}
    assert found["height_px"] == {"min": 100, "median": 100.0, "max": 100}
    assert found["aspect_ratio"] == {"min": 1.0, "median": 1.2, "max": 1.6}
    assert found["channels"] == {"1": 4, "3": 1}
    assert found["bits"] == {"8": 5}
    assert found["formats"] == {"PNG": 5}


def test_the_test_part_is_only_counted():
    strange = {
        "width_px": 9999,
        "height_px": 1,
        "channels": 3,
        "bits": 32,
        "format": "TIFF",
        "minimum": -5e9,
        "maximum": 5e9,
    }
    plain = make_print()
    found = make_print([make_fact(n, **(strange if IS_TEST[n] else {})) for n in range(7)])
    differing = {key for key in plain if plain[key] != found[key]}
    assert differing == {"test_has_wide", "digest"}
    assert (plain["test_has_wide"], found["test_has_wide"]) == (False, True)


def test_no_name_and_no_path_is_in_it():
    text = json.dumps(make_print()).lower()
    for private in ("patient-", "meier", "ward", "mueller", "films", "schulz", "/", "0" * 63):
        assert private not in text
    assert '"ill"' in text


def test_it_is_plain_json_and_its_digest_covers_all_of_it():
    found = make_print()
    assert json.loads(json.dumps(found)) == found
    others = [
        make_print([make_fact(n + 1) for n in range(7)]),
        make_print(is_test=~IS_TEST),
        make_print(patients_given=False),
        make_print(classes=("a", "b")),
    ]
    assert len({found["digest"], *(other["digest"] for other in others)}) == 5
    assert make_print()["digest"] == found["digest"]


def test_the_content_does_not_depend_on_the_order_of_items():
    facts = [make_fact(n) for n in range(7)]
    assert make_print(facts)["content"] == make_print(facts[::-1])["content"]
    assert make_print(facts)["content"] != make_print([*facts[:6], make_fact(99)])["content"]


@pytest.mark.parametrize(
    ("bits", "ranges", "expected"),
    [
        pytest.param([8, 8], [(0, 255), (0, 200)], None, id="8 bits"),
        pytest.param([16, 16], [(0, 3071), (12, 4095)], [0.0, 4095.0], id="12 bits in 16"),
        pytest.param([16, 16], [(0, 3071), (12, 4000)], [0.0, 4095.0], id="12 bits not all used"),
        pytest.param([16], [(0, 4096)], [0.0, 8191.0], id="one beyond 12 bits"),
        pytest.param([16], [(100, 65535)], [0.0, 65535.0], id="16 bits"),
        pytest.param([16], [(0, 255)], [0.0, 255.0], id="8 bits in 16"),
        pytest.param([16], [(0, 1)], [0.0, 1.0], id="a mask"),
        pytest.param([8, 16], [(0, 255), (0, 1000)], [0.0, 1023.0], id="8 bits beside 10"),
        pytest.param([32, 32], [(-1024, 1800.5), (-1000, 3000)], [-1024.0, 3000.0], id="signed: Hounsfield units"),
        pytest.param([32], [(0, 0.75)], [0.0, 0.75], id="fractions"),
        pytest.param([16, 32], [(0, 4095), (-1, 100)], [-1.0, 4095.0], id="16 bits beside signed"),
    ],
)
def test_one_black_and_white_for_all_wide_pixels(bits, ranges, expected):
    facts = [
        make_fact(bits=depth, minimum=float(low), maximum=float(high))
        for depth, (low, high) in zip(bits, ranges, strict=True)
    ]
    assert find_wide_range(facts) == expected
    assert find_wide_range(facts[::-1]) == expected
