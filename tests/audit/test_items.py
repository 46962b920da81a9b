"""Which items may take part, what is refused, and what the record says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from thawline.audit.items import inspect_items
from thawline.audit.tables import say_support
from thawline.data.dataset import Dataset
from thawline.data.readers import ImageFacts
from thawline.data.scan import Look
from thawline.errors import DataError, LeakError, UnreadableItemsError
from thawline.options import RunOptions
from thawline.types import Item, SilentListener


class Warnings(SilentListener):
    """Keeps what it is warned of."""

    def __init__(self):
        self.messages = []

    def warn(self, message):
        self.messages.append(message)


def make_dataset(n_items=12, labels=None, patients=None, splits=None, notes=()):
    labels = labels or ["ill", "well"] * (n_items // 2)
    items = tuple(
        Item(f"films/{n:02d}.png", labels[n], (patients or {}).get(n, f"P-{n}"), splits[n] if splits else None)
        for n in range(n_items)
    )
    classes = tuple(sorted(set(labels)))
    contents = [Path(f"/data/films/{n:02d}.png") for n in range(n_items)]
    return Dataset(Path("/data"), "manifest", items, classes, contents, True, 0, splits is not None, notes)


def make_looks(n_items=12, same=(), unreadable=()):
    """Looks at different images; every tuple in ``same`` names items of equal pixels."""
    pixels = {n: f"pixels {group[0]}" for group in same for n in group}
    return [
        Look("", None, f"reason {n}")
        if n in unreadable
        else Look(f"bytes {n}", ImageFacts(9, 9, 1, 8, "PNG", 0.0, 9.0, pixels.get(n, f"pixels {n}")))
        for n in range(n_items)
    ]


def inspect(dataset, looks, **options):
    listener = Warnings()
    return inspect_items(dataset, looks, RunOptions(**options), listener), listener.messages


def test_clean_items_all_take_part():
    dataset, looks = make_dataset(), make_looks()
    found, messages = inspect(dataset, looks)
    assert found.dataset == found.everything == dataset
    assert found.numbers == tuple(range(12))
    assert found.digests == tuple(f"bytes {n}" for n in range(12))
    assert found.facts == tuple(look.facts for look in looks)
    assert found.identical == ()
    assert messages == []
    assert found.record == {
        "schema": 1,
        "n_items": 12,
        "unreadable": [],
        "identical": [],
        "contradicting": [],
        "across_split": [],
        "left_out": [],
        "overrides": [],
        "findings": [],
        "tables": [
            {"title": "data", "counts": {"all": {name: {"items": 6, "patients": 6} for name in ("ill", "well")}}}
        ],
        "support": say_support(dataset),
        "shortcuts": [],
        "warnings": [],
        "test_openings": None,
    }


def test_remarks_of_the_data_set_are_passed_on():
    _, messages = inspect(make_dataset(notes=("classes 'a', 'A' differ",)), make_looks())
    assert messages == ["classes 'a', 'A' differ"]


# --- unreadable -------------------------------------------------------------------------------------------------------


def test_unreadable_items_are_refused_with_file_and_reason():
    with pytest.raises(UnreadableItemsError, match="2 of 12 items cannot be read") as caught:
        inspect(make_dataset(), make_looks(unreadable=(3, 7)))
    assert caught.value.problems == (("films/03.png", "reason 3"), ("films/07.png", "reason 7"))
    assert "--skip-unreadable" in str(caught.value)
    assert caught.value.exit_code == 2


def test_unreadable_items_are_left_out_on_request_and_the_rest_stays_aligned():
    dataset, looks = make_dataset(16), make_looks(16, same=((5, 9),), unreadable=(3, 8))
    found, messages = inspect(dataset, looks, skip_unreadable=True)
    assert found.numbers == (0, 1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15)
    for position, number in enumerate(found.numbers):
        assert found.dataset.items[position] == dataset.items[number]
        assert found.dataset.contents[position] == dataset.contents[number]
        assert found.facts[position] == looks[number].facts
        assert found.digests[position] == f"bytes {number}"
    assert found.identical == ((4, 7),)  # positions of the items 5 and 9
    assert found.record["identical"] == [[5, 9]]
    assert found.record["left_out"] == [
        {"item": 3, "label": "well", "reason": "reason 3"},
        {"item": 8, "label": "ill", "reason": "reason 8"},
    ]
    assert found.record["overrides"] == ["--skip-unreadable"]
    assert "left out 2 unreadable items:\n  - films/03.png: reason 3\n  - films/08.png: reason 8" in messages[0]


def test_too_few_remaining_items_are_refused():
    with pytest.raises(DataError, match="there are 9 images in all"):
        inspect(make_dataset(), make_looks(unreadable=(0, 1, 2)), skip_unreadable=True)


def test_a_class_without_readable_items_is_refused_by_name():
    with pytest.raises(DataError, match="no usable item is left of well"):
        inspect(make_dataset(24), make_looks(24, unreadable=range(1, 24, 2)), skip_unreadable=True)


# --- identical images -------------------------------------------------------------------------------------------------


def test_identical_images_of_one_label_stay_and_are_said():
    found, messages = inspect(make_dataset(), make_looks(same=((0, 2, 4), (1, 3))))
    assert found.numbers == tuple(range(12))
    assert found.identical == ((0, 2, 4), (1, 3))
    assert messages == ["2 sets of identical images; each stays together in every split"]


def test_identical_images_of_different_labels_are_left_out_and_listed():
    found, messages = inspect(make_dataset(16), make_looks(16, same=((2, 5), (0, 4), (7, 8, 10))))
    assert found.numbers == (0, 1, 3, 4, 6, 9, 11, 12, 13, 14, 15)
    assert found.identical == ((0, 3),)
    assert found.record["contradicting"] == [[2, 5], [7, 8, 10]]
    assert found.record["identical"] == [[0, 4], [2, 5], [7, 8, 10]]
    assert [entry["item"] for entry in found.record["left_out"]] == [2, 5, 7, 8, 10]
    assert {entry["reason"] for entry in found.record["left_out"]} == {"identical to an image with another label"}
    assert "left out 2 sets of identical images with different labels" in messages[0]
    assert "films/02.png (ill) = films/05.png (well)" in messages[0]
    assert len(found.everything.items) == 16
    assert [(each["name"], each["groups"]) for each in found.record["findings"]] == [
        ("identical images with different labels", ((2, 5), (7, 8, 10))),
        ("identical images", ((0, 4), (2, 5), (7, 8, 10))),
    ]
    assert messages[1] == "1 sets of identical images; each stays together in every split"


def test_a_class_whose_items_all_contradict_is_refused():
    labels = ["ill"] * 12 + ["well"] * 2
    with pytest.raises(DataError, match="no usable item is left of well"):
        inspect(make_dataset(14, labels), make_looks(14, same=((0, 12), (1, 13))))


# --- leaks ------------------------------------------------------------------------------------------------------------

SPLITS = ["train"] * 6 + ["val"] * 2 + ["test"] * 4


def test_a_patient_in_two_parts_is_refused_for_safety():
    dataset = make_dataset(patients={0: "Anna", 9: "Anna"}, splits=SPLITS)
    with pytest.raises(LeakError, match="1 patients and 0 sets of identical images stand in more") as caught:
        inspect(dataset, make_looks())
    assert "patient Anna: films/00.png (train), films/09.png (test)" in str(caught.value)
    assert "--allow-leak" in str(caught.value)
    assert caught.value.exit_code == 3


def test_train_and_val_are_two_parts():
    with pytest.raises(LeakError, match="1 patients"):
        inspect(make_dataset(patients={0: "Anna", 6: "Anna"}, splits=SPLITS), make_looks())


@pytest.mark.parametrize("labels", [["ill", "well"] * 6, ["ill"] * 9 + ["well"] * 3])
def test_identical_images_in_two_parts_are_refused_whatever_their_labels(labels):
    with pytest.raises(LeakError, match="0 patients and 1 sets of identical images") as caught:
        inspect(make_dataset(labels=labels, splits=SPLITS), make_looks(same=((1, 10),)))
    assert "identical images: films/01.png (train), films/10.png (test)" in str(caught.value)


def test_a_long_leak_is_cut_with_a_count():
    dataset = make_dataset(patients=dict.fromkeys(range(12), "Anna"), splits=SPLITS)
    with pytest.raises(LeakError, match=r"films/05\.png \(train\), … 6 more"):
        inspect(dataset, make_looks())


def test_a_leak_may_be_allowed_and_is_recorded():
    dataset = make_dataset(patients={0: "Anna", 9: "Anna"}, splits=SPLITS)
    found, _ = inspect(dataset, make_looks(same=((2, 8),)), allow_leak=True)
    assert found.numbers == tuple(range(12))
    assert found.record["overrides"] == ["--allow-leak"]
    across = [(leak["kind"], leak["items"], leak["parts"]) for leak in found.record["across_split"]]
    assert across == [("patient", [0, 9], ["test", "train"]), ("image", [2, 8], ["test", "train"])]
    assert [(each["name"], each["severity"], each["groups"]) for each in found.record["findings"]] == [
        ("patients across splits", "fatal", ((0, 9),)),
        ("identical images across splits", "fatal", ((2, 8),)),
        ("identical images", "note", ((2, 8),)),
    ]


def test_an_unreadable_item_leaks_nothing_and_numbers_are_those_of_all_data():
    dataset = make_dataset(patients={0: "Anna", 9: "Anna", 1: "Bea", 10: "Bea"}, splits=SPLITS)
    found, _ = inspect(dataset, make_looks(unreadable=(0,)), skip_unreadable=True, allow_leak=True)
    assert [leak["items"] for leak in found.record["across_split"]] == [[1, 10]]
    assert [each["groups"] for each in found.record["findings"]] == [((1, 10),)]
    found, _ = inspect(
        make_dataset(patients={0: "Anna", 9: "Anna"}, splits=SPLITS), make_looks(unreadable=(0,)), skip_unreadable=True
    )
    assert found.record["across_split"] == []


def test_without_a_given_split_nothing_leaks():
    found, _ = inspect(make_dataset(patients={0: "Anna", 9: "Anna"}), make_looks(same=((1, 3),)))
    assert found.record["across_split"] == []


def test_the_record_names_items_by_number_only():
    dataset = make_dataset(24, patients={0: "Anna", 21: "Anna"}, splits=SPLITS * 2)
    looks = make_looks(24, same=((2, 20), (1, 4)), unreadable=(5,))
    found, _ = inspect(dataset, looks, allow_leak=True, skip_unreadable=True)
    assert found.record["across_split"]
    assert found.record["left_out"]
    text = json.dumps(found.record)
    assert not [word for word in ("films", ".png", "Anna", "P-", "/data") if word in text]
