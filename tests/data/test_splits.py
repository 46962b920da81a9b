"""Splits: no patient on both sides, every class everywhere, and the same on any machine."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from thawline.data.dataset import load_dataset
from thawline.data.splits import (
    Leak,
    check_parts,
    count_groups,
    find_identical,
    find_leaks,
    keep_given_validation,
    make_folds,
    make_groups,
    split_as_given,
    split_items,
)
from thawline.errors import DataError
from thawline.types import Item


@st.composite
def cohorts(draw, least_pure=6):
    """Labels and groups of items in any order: every class has some patients of its own, others are of mixed labels."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_classes, n_mixed = draw(st.integers(2, 4)), draw(st.integers(0, 6))
    n_pure = [draw(st.integers(least_pure, 20)) for _ in range(n_classes)]
    labels, groups = [], []
    for group, label in enumerate(np.repeat(np.arange(n_classes), n_pure)):
        n_items = int(rng.integers(1, 4))
        labels += [label] * n_items
        groups += [group] * n_items
    for group in range(n_mixed):
        n_items = int(rng.integers(2, 5))
        labels += list(rng.integers(0, n_classes, n_items))
        groups += [sum(n_pure) + group] * n_items
    order = rng.permutation(len(labels))
    return np.array(labels, np.int64)[order], np.array(groups, np.int64)[order]


def make_cohort(n_patients, n_classes=2, seed=0, items=(1, 4)):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_patients), rng.integers(*items, n_patients))
    return groups % n_classes, groups


def make_items(splits, patients=None, labels=None):
    labels = labels or ["a"] * len(splits)
    patients = patients or [f"p{number}" for number in range(len(splits))]
    return [Item(f"{n}.png", labels[n], patients[n], split) for n, split in enumerate(splits)]


# --- properties -----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=15)
@given(cohorts(), st.integers(0, 2**40), st.integers(2, 6))
def test_groups_never_cross_and_every_class_is_in_every_part(cohort, seed, wanted):
    labels, groups = cohort
    splits = split_items(labels, groups, seed, wanted)
    part = np.where(splits.is_test, -1, splits.folds)
    for group in np.unique(groups):
        assert len(np.unique(part[groups == group])) == 1
    assert set(np.unique(part)) == {-1, *range(splits.n_folds)}
    for number in range(-1, splits.n_folds):
        assert set(labels[part == number]) == set(labels)
    assert 2 <= splits.n_folds <= wanted
    assert (splits.folds[splits.is_test] == -1).all()


@settings(deadline=None, max_examples=5)
@given(cohorts(), st.integers(0, 1000))
def test_the_same_seed_gives_the_same_split(cohort, seed):
    first, second = (split_items(*cohort, seed) for _ in range(2))
    np.testing.assert_array_equal(first.is_test, second.is_test)
    np.testing.assert_array_equal(first.folds, second.folds)
    assert (first.n_folds, first.reason) == (second.n_folds, second.reason)


def test_other_seeds_give_other_splits():
    labels, groups = make_cohort(60)
    found = {tuple(np.where(s.is_test, -1, s.folds)) for s in (split_items(labels, groups, seed) for seed in range(8))}
    assert len(found) == 8


def test_the_names_of_patients_do_not_matter_but_for_their_order():
    labels, groups = make_cohort(40)
    first, second = split_items(labels, groups, 3), split_items(labels, groups * 7 + 100, 3)
    np.testing.assert_array_equal(first.is_test, second.is_test)
    np.testing.assert_array_equal(first.folds, second.folds)


def test_the_order_of_a_manifest_does_not_matter(tmp_path):
    rows = [f"{n}.png,{'ill' if n % 3 else 'well'},p{n // 2}" for n in range(60)]
    found = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        for n in range(60):
            (folder / f"{n}.png").touch()
        random.Random(number).shuffle(rows)
        (folder / "manifest.csv").write_text("path,label,patient\n" + "\n".join(rows) + "\n")
        dataset = load_dataset(folder)
        groups = make_groups([item.patient for item in dataset.items], [])
        splits = split_items(dataset.labels(), groups, 0)
        part = np.where(splits.is_test, -1, splits.folds).tolist()
        found.append({item.path: number for item, number in zip(dataset.items, part, strict=True)})
    assert found[0] == found[1]


@pytest.mark.parametrize("n_classes", [2, 5])
def test_the_test_part_is_a_fifth_of_the_patients_and_of_each_class(n_classes):
    labels, groups = make_cohort(400, n_classes)
    splits = split_items(labels, groups, 0)
    everyone, tested = count_groups(labels, groups), count_groups(labels[splits.is_test], groups[splits.is_test])
    assert abs(tested.sum() / everyone.sum() - 0.2) < 0.02
    assert (abs(tested / everyone - 0.2) < 0.04).all()
    assert "one of 5 stratified parts of the patients is the test part" in splits.reason


@pytest.mark.parametrize("several", [False, True])
def test_the_patient_with_most_items_comes_into_any_fold(several):
    """Groups are dealt from the largest on, which would always come into the first fold, and so into the test part."""
    sizes = [16, 9, *[1] * 60, *[2] * 20]
    groups = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.random.default_rng(0).integers(0, 2, (len(sizes), 2))[groups]
    given = labels if several else labels[:, 0]
    found = [make_folds(given, groups, seed, 5)[0] for seed in range(100)]
    for patient in (0, 1):
        counts = np.bincount([folds[groups == patient][0] for folds in found], minlength=5)
        assert counts.min() >= 8  # of 20 on average: fewer are seen once in a thousand times
    equal = np.arange(len(sizes))  # one item each: nothing is to be mended
    assert not np.array_equal(
        make_folds(given[: len(sizes)], equal, 0, 5)[0], make_folds(given[: len(sizes)], equal, 1, 5)[0]
    )


def test_a_small_example_is_split_the_same_on_any_machine():
    labels = np.array([0, 0, 1, 1, 0, 1, 0, 1, 1, 0, 0, 1, 1, 0, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1], np.int64)
    groups = np.array([0, 0, 1, 1, 2, 3, 4, 5, 5, 6, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 17, 18], np.int64)
    splits = split_items(labels, groups, seed=0, wanted_folds=3)
    assert np.flatnonzero(splits.is_test).tolist() == [16, 17, 21, 22, 23]
    assert splits.folds.tolist() == [1, 1, 2, 2, 2, 1, 2, 0, 0, 0, 0, 2, 1, 2, 1, 0, -1, -1, 1, 0, 1, -1, -1, -1]
    assert splits.n_folds == 3


# --- folds ----------------------------------------------------------------------------------------------------------


def test_fewer_folds_are_made_where_a_class_has_few_patients_and_the_reason_says_so():
    labels = np.array([0] * 40 + [1] * 4, np.int64)
    splits = split_items(labels, np.arange(44), 0)
    assert splits.n_folds == 3
    assert splits.reason == (
        "one of 4 stratified parts of the patients is the test part; "
        "3 folds instead of 5: the rarest class has 3 patients in development"
    )


@pytest.mark.parametrize("n_rare", [1, 2])
def test_too_few_patients_of_a_class_are_refused(n_rare):
    labels = np.array([0] * 20 + [1] * n_rare, np.int64)
    with pytest.raises(
        DataError, match=r"at least two patients of every class to develop on, besides one for the test"
    ):
        split_items(labels, np.arange(20 + n_rare), 0)


def test_many_items_of_one_patient_are_one_patient():
    labels, groups = np.array([0] * 20 + [1] * 20, np.int64), np.array([*range(20), *([99] * 20)], np.int64)
    with pytest.raises(DataError, match=r"found \[20, 1\] patients by class"):
        make_folds(labels, groups, 0, 5)


def test_patients_are_counted_in_every_class_that_they_have_items_of():
    labels, groups = np.array([0, 0, 1, 1, 3], np.int64), np.array([5, 5, 5, 6, 7], np.int64)
    assert count_groups(labels, groups).tolist() == [1, 2, 0, 1]


# --- identical images and groups --------------------------------------------------------------------------------------


def test_identical_images_are_found_in_the_order_of_their_first():
    assert find_identical(["a", "b", "c", "b", "a", "d", "b"]) == [(0, 4), (1, 3, 6)]
    assert find_identical([]) == []


def test_patients_are_merged_through_chains_of_identical_images():
    patients = ["a", "b", "b", "c", "d", "d", "e"]
    groups = make_groups(patients, [(0, 1), (2, 3)])  # a = b through one image, b = c through another
    assert groups[0] == groups[1] == groups[2] == groups[3]
    assert groups[4] == groups[5]
    assert len({groups[0], groups[4], groups[6]}) == 3
    assert groups.dtype == np.int64


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_groups_are_the_connected_components(data):
    n_items = data.draw(st.integers(1, 25))
    patients = data.draw(st.lists(st.sampled_from("abcdefghij"), min_size=n_items, max_size=n_items))
    digests = data.draw(st.lists(st.integers(0, 15), min_size=n_items, max_size=n_items))
    groups = make_groups(patients, find_identical([str(digest) for digest in digests]))
    nodes = [ord(name) - ord("a") for name in patients], [10 + digest for digest in digests]
    _, component = connected_components(coo_array((np.ones(n_items), nodes), shape=(26, 26)), directed=False)
    expected = component[nodes[0]]
    np.testing.assert_array_equal(groups[:, None] == groups, expected[:, None] == expected)
    assert sorted(set(groups.tolist())) == list(range(len(set(groups.tolist()))))


# --- given splits -----------------------------------------------------------------------------------------------------


def test_a_given_test_part_is_kept_and_the_rest_folded_by_group():
    labels, groups = make_cohort(40)
    given = ["test" if group < 10 else "val" if group < 14 else "train" for group in groups]
    splits = split_as_given(make_items(given), labels, groups, seed=0)
    assert splits.is_test.tolist() == [part == "test" for part in given]
    assert splits.n_folds == 5
    for group in np.unique(groups):
        assert len(np.unique(splits.folds[groups == group])) == 1
    assert splits.reason.startswith("test part as given, train and val together are development; 5 folds by patient")


def test_a_given_validation_part_is_the_one_fold():
    given = ["train", "val", "test", "train", "test", "val"]
    splits = keep_given_validation(make_items(given), np.array([0, 0, 0, 1, 1, 1], np.int64))
    assert splits.folds.tolist() == [-1, 0, -1, -1, -1, 0]
    assert splits.is_test.tolist() == [False, False, True, False, True, False]
    assert splits.n_folds == 1


@pytest.mark.parametrize(
    ("given", "labels", "said"),
    [
        (["train"] * 4, [0, 1, 0, 1], "the split column has no row 'test'"),
        (["test"] * 4, [0, 1, 0, 1], "says 'test' in every row"),
        (["train", "train", "test", "test"], [0, 1, 0, 0], r"no item of 1 class\(es\) in test \(class numbers \[1\]"),
        (["train", "train", "test", "test"], [0, 0, 0, 1], r"no item of 1 class\(es\) in development"),
    ],
)
def test_a_given_split_without_a_class_in_each_part_is_refused(given, labels, said):
    labels = np.array(labels, np.int64)
    with pytest.raises(DataError, match=said):
        check_parts(labels, np.array([part == "test" for part in given]))
    with pytest.raises(DataError, match=said):
        split_as_given(make_items(given), labels, np.arange(4), 0)


def test_a_given_validation_part_without_a_class_is_refused():
    given = ["train", "train", "val", "test", "test"]
    with pytest.raises(DataError, match=r"no item of 1 class\(es\) in val"):
        keep_given_validation(make_items(given), np.array([0, 1, 0, 0, 1], np.int64))


def test_leaks_are_patients_and_identical_images_that_stand_in_two_parts():
    items = make_items(["train", "val", "train", "test", "test", "val"], ["p", "p", "q", "q", "r", "s"])
    assert find_leaks(items, [(0, 2), (4, 5)]) == [
        Leak("patient", (0, 1)),
        Leak("patient", (2, 3)),
        Leak("image", (4, 5)),
    ]
    assert find_leaks(make_items(["train", "train", "test"], ["p", "p", "q"]), [(0, 1)]) == []
    assert Leak("image", (0, 2)).number([3, 5, 8]) == Leak("image", (3, 8))


@st.composite
def several_labels(draw):
    """Labels (items, labels) of 1, 0 and -1 with two patients or more of each value, and the patients."""
    n_patients, n_labels = draw(st.integers(12, 40)), draw(st.integers(2, 4))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    groups = np.repeat(np.arange(n_patients), generator.integers(1, 4, n_patients))
    shares = generator.uniform(0.1, 0.5, n_labels)
    labels = (generator.random((len(groups), n_labels)) < shares).astype(np.int64)
    labels[generator.random(labels.shape) < 0.25] = -1
    labels[(labels == -1).all(axis=1), 0] = 0
    return labels, groups


@settings(max_examples=60, deadline=None)
@given(several_labels(), st.integers(2, 5), st.integers(0, 50))
def test_folds_of_several_labels_hold_both_values_of_each_and_whole_patients(data, wanted, seed):
    labels, groups = data
    counts = count_groups(labels, groups)
    assert counts.tolist() == [
        len({g for g, row in zip(groups, labels, strict=True) if row[k] == value})
        for value in (1, 0)
        for k in range(labels.shape[1])
    ]
    assume(counts.min() >= 2)
    try:
        folds, n_folds = make_folds(labels, groups, seed, wanted)
    except DataError:
        assert counts.min() < 4  # few patients may be tangled
        return
    assert set(folds.tolist()) == set(range(n_folds))
    assert all(len(set(folds[groups == group].tolist())) == 1 for group in groups)
    for fold in range(n_folds):
        for value in (0, 1):
            assert (labels[folds == fold] == value).any(axis=0).all()
            assert (labels[folds != fold] == value).any(axis=0).all()
    again, _ = make_folds(labels, groups, seed, wanted)
    np.testing.assert_array_equal(folds, again)


def test_folds_of_several_labels_have_like_shares_of_each():
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(400), 2)
    labels = np.repeat(generator.random((400, 5)) < (0.05, 0.1, 0.3, 0.5, 0.9), 2, axis=0).astype(np.int64)
    folds, n_folds = make_folds(labels, groups, 0, 5)
    assert n_folds == 5
    shares = np.stack([labels[folds == fold].mean(axis=0) for fold in range(5)])
    assert np.abs(shares - labels.mean(axis=0)).max() < 0.02
    assert np.ptp(np.bincount(folds)) <= 8
    other, _ = make_folds(labels, groups, 1, 5)
    assert (other != folds).any()


def test_a_given_split_of_several_labels_needs_both_values_in_each_part():
    labels = np.array([[0, 1], [1, 0], [1, 1], [1, 0]])
    is_test = np.array([False, False, True, True])
    with pytest.raises(DataError, match=r"in test the given split has 1 label\(s\) with one value only .*\[0\]"):
        check_parts(labels, is_test)
