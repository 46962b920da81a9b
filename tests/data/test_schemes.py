"""Splits by site and by time: no group is divided, whole sites are left out, the latest are tested."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thawline.data.schemes import check_schemes, read_scheme, split_by_columns
from thawline.errors import DataError, OptionError
from thawline.types import Item


def make_items(n_patients=40, n_sites=4, n_items=2):
    """Patients of two items, classes in turn, sites and years by patient."""
    items, labels, groups = [], [], []
    for patient in range(n_patients):
        for number in range(n_items):
            about = {"site": "ABCDEFG"[patient // 2 % n_sites], "year": f"{2000 + patient}-0{number + 1}-15"}
            items.append(Item(f"{patient}_{number}.png", str(patient % 2), f"p{patient}", metadata=about))
            labels.append(patient % 2)
            groups.append(patient)
    return items, np.array(labels), np.array(groups)


def split(items, labels, groups, test=None, sites=None, seed=0):
    return split_by_columns(items, labels, groups, seed, 5, test=test, sites=sites)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 50), st.integers(2, 5))
def test_each_fold_is_a_site_that_no_other_fold_has(seed, n_sites):
    items, labels, groups = make_items(n_sites=n_sites)
    found = split(items, labels, groups, sites="site:site", seed=seed)
    assert found.n_folds == n_sites
    for fold in range(n_sites):
        assert len({item.metadata["site"] for item, own in zip(items, found.folds, strict=True) if own == fold}) == 1
    assert (found.folds[found.is_test] == -1).all()
    assert (found.folds[~found.is_test] >= 0).all()
    assert not set(groups[found.is_test]) & set(groups[~found.is_test])
    assert "each a value of site that the others do not have" in found.reason


def test_the_latest_patients_are_the_test_part():
    items, labels, groups = make_items()
    found = split(items, labels, groups, test="time:year")
    assert sorted(set(groups[found.is_test])) == list(range(32, 40))
    assert found.n_folds == 5
    assert "the latest 20% of the patients by year are the test part" in found.reason


def test_a_site_is_the_test_part():
    items, labels, groups = make_items()
    found = split(items, labels, groups, test="site:site=B", sites="site:site")
    assert {item.metadata["site"] for item, own in zip(items, found.is_test, strict=True) if own} == {"B"}
    assert found.n_folds == 3


def test_a_patient_of_two_sites_stays_whole():
    items, labels, groups = make_items(n_items=3)
    items[0] = Item("x.png", "0", "p0", metadata={"site": "D", "year": "2000"})
    found = split(items, labels, groups, sites="site:site")
    if not found.is_test[0]:
        assert len(set(found.folds[groups == 0])) == 1
    tested = split(items, labels, groups, test="site:site=D")
    assert tested.is_test[groups == 0].all()


@pytest.mark.parametrize(
    ("cell", "later"),
    [("2024", "2025"), ("20240301", "2024-03-02"), ("2024-03", "2024-04-01T10:00"), ("1999-12-31", "2000")],
)
def test_dates_of_several_forms_are_in_order(cell, later):
    items, labels, groups = make_items()
    changed = [
        Item(
            item.path,
            item.label,
            item.patient,
            metadata={"site": "A", "year": later if group in (4, 7, 9, 12, 1, 3, 5, 8) else cell},
        )
        for item, group in zip(items, groups, strict=True)
    ]
    assert set(groups[split(changed, labels, groups, test="time:year").is_test]) == {4, 7, 9, 12, 1, 3, 5, 8}


@pytest.mark.parametrize(
    ("test", "validation", "split_given", "error", "said"),
    [
        ("time:year", "folds", True, OptionError, "--test: chooses a test part, and these data come with one"),
        ("time:year", "given", False, OptionError, "--test: chooses a test part, and these data come with one"),
        (None, "given", False, OptionError, "--validation given: expected a split column"),
        (None, "site:hospital", False, OptionError, "--validation: no column 'hospital'; the table has site, year"),
        ("time:date", "folds", False, OptionError, "--test: no column 'date'"),
        ("site:site=Z", "folds", False, OptionError, "--test: no item has 'Z' in column 'site'"),
        ("time:site", "folds", False, DataError, "holds 'A', which is no date"),
    ],
)
def test_what_splits_are_chosen_by_is_checked_before_an_image_is_read(test, validation, split_given, error, said):
    items, _, _ = make_items()
    for kept in ((None, "folds"), ("time:year", "site:site"), ("site:site=B", "folds")):
        check_schemes(items, *kept, split_given=False)
    check_schemes(items, None, "given", split_given=True)
    with pytest.raises(error, match=said):
        check_schemes(items, test, validation, split_given=split_given)


def test_what_cannot_be_split_is_refused():
    items, labels, groups = make_items()
    with pytest.raises(OptionError, match=r"--test: expected site:COLUMN=VALUE or time:COLUMN, found 'year'"):
        split(items, labels, groups, test="year")
    with pytest.raises(OptionError, match=r"--validation: no column 'hospital'; the table has site, year"):
        split(items, labels, groups, sites="site:hospital")
    with pytest.raises(OptionError, match=r"no item has 'Z' in column 'site'; expected one of A, B, C, D"):
        split(items, labels, groups, test="site:site=Z")
    with pytest.raises(DataError, match=r"holds 'A', which is no date"):
        split(items, labels, groups, test="time:site")
    with pytest.raises(DataError, match="expected 2 to 20 sites among the development items, found"):
        split(items, labels, groups, sites="site:year")
    only = [Item(item.path, item.label, item.patient, metadata={"site": "AB"[int(item.label)]}) for item in items]
    with pytest.raises(DataError, match=r"without the site A nothing is left of 1 class"):
        split(only, labels, groups, sites="site:site")
    both = np.stack([labels, 1 - labels, np.arange(len(labels)) % 2], axis=1)
    assert split(items, both, groups, sites="site:site").n_folds == 4
    with pytest.raises(DataError, match=r"without the site A 2 label\(s\) have one value only \(numbers \[0, 1\]"):
        split(only, both, groups, sites="site:site", test=None)
    blank = [Item(item.path, item.label, item.patient, metadata={"site": ""}) for item in items]
    with pytest.raises(DataError, match="80 items have nothing in column 'site', the first is item 0"):
        split(blank, labels, groups, sites="site:site")
    assert read_scheme("--test", "site: Clinic =North", ("site",)) == ("site", "clinic", "North")
