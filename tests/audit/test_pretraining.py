"""What weights bring with them: licences that forbid, and images that the data hold as well."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thawline.audit.pretraining import PERMISSIVE, PUBLIC_SETS, check_weights, count_named, describe_licence
from thawline.data.dataset import Dataset, load_dataset
from thawline.learn.backbones import BACKBONES, FILMS, NO_WEIGHTS, find_row
from thawline.learn.weight_files import Weights
from thawline.options import MODALITIES
from thawline.types import Item

NIH, RADIMAGENET = "ChestX-ray14 (NIH)", "RadImageNet"


def make_dataset(*paths: str, **metadata: str) -> Dataset:
    items = tuple(Item(path, "a", path, None, metadata) for path in paths)
    return Dataset(Path(), "folder", items, ("a",), [Path(path) for path in paths])


def make_weights(pretrained_on: str = "ImageNet-1k", licence: str = "Apache-2.0") -> Weights:
    return Weights(find_row("CheXNet").architecture, Path(), "", "file", licence, pretrained_on)


def test_photographs_and_a_free_licence_are_no_matter():
    assert check_weights(make_dataset("00000001_000.png"), make_weights(), "xray") == []


@pytest.mark.parametrize("modality", MODALITIES)
def test_films_are_a_matter_for_films(modality):
    found = check_weights(make_dataset("a.png"), make_weights(NIH), modality)
    assert [remark["level"] for remark in found] == (["caution"] if modality in ("xray", "unknown") else [])


def test_items_named_as_those_of_the_set_are_counted():
    dataset = make_dataset("sub/00000001_000.png", "00000002_011.jpg", "film.png", "000_000.png")
    [remark] = check_weights(dataset, make_weights(NIH), "xray")
    assert remark["level"] == "warning"
    assert "2 of 4 items are named as its images are" in remark["text"]
    assert "00000001" not in remark["text"]


def test_other_columns_of_the_manifest_count_too():
    dataset = make_dataset("cxr_1.jpg", original_name="images\\00000001_000.png")
    assert [remark["level"] for remark in check_weights(dataset, make_weights(NIH), "ct")] == ["warning"]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("PadChest", "216840111366964012283393834152009027160348352_00-014-087.png"),
        ("CheXpert", "train/patient00001/study1/view1_frontal.jpg"),
        ("MIMIC-CXR", "02aa804e-bde0afdd-112c0b34-7bc16630-4e384014.dcm"),
        ("Open-I", "CXR1_1_IM-0001-3001.png"),
    ],
)
def test_each_set_knows_its_own_names(name, path):
    known = next(each for each in PUBLIC_SETS if each.name == name)
    assert count_named(make_dataset(path, "film.png"), known) == 1
    others = [each for each in PUBLIC_SETS if each is not known]
    assert sum(count_named(make_dataset(path), each) for each in others) == 0


def test_weights_of_many_sets_name_each():
    found = check_weights(make_dataset("a.png"), make_weights(FILMS), "xray")
    assert len(found) == len([each for each in PUBLIC_SETS if each.name in FILMS]) == 6


@given(st.sampled_from(PERMISSIVE), st.booleans())
def test_free_licences_pass_however_they_are_written(licence, upper):
    assert describe_licence(f" {licence.upper() if upper else licence} ") is None


@pytest.mark.parametrize("licence", ["CC BY 4.0 (VGG)", "apache 2.0", "CC-BY-4.0"])
def test_free_licences_as_they_are_found(licence):
    assert describe_licence(licence) is None


@pytest.mark.parametrize("licence", ["MIT (non-commercial use only)", "BSD-3-Clause (weights CC-BY-NC)"])
def test_what_stands_in_brackets_counts(licence):
    assert describe_licence(licence)


@pytest.mark.parametrize(
    "written", ["ChestXray14", "chest x-ray 14, then ours", "NIH ChestX-ray8", "MIMIC CXR", "padchest"]
)
def test_sets_are_known_however_they_are_written(written):
    assert check_weights(make_dataset("a.png"), make_weights(written), "xray")


@pytest.mark.parametrize("licence", ["cc-by-nc-4.0", "dinov3-license", "unknown", "", "see the model's page"])
def test_any_other_licence_is_to_be_read(licence):
    assert f'"{licence}", may forbid clinical or commercial use' in str(describe_licence(licence))


def test_the_rows_whose_licence_is_to_be_read():
    found = {row.name for row in BACKBONES if row.licence != NO_WEIGHTS and describe_licence(row.licence)}
    assert found == {
        "dinov3_small",
        "dinov3_base",
        "radimagenet_resnet50",
        "radimagenet_densenet121",
        "radimagenet_inception3",
    }


def test_every_medical_set_of_the_table_is_known():
    medical = {row.pretrained_on for row in BACKBONES if row.family == "DenseNet" or "radimagenet" in row.name}
    for pretrained_on in medical - {"ImageNet-1k"}:
        assert check_weights(make_dataset("a.png"), make_weights(pretrained_on), "unknown"), pretrained_on


@pytest.mark.realdata
def test_the_films_of_the_nih_are_found_in_chest_xray3(shared_data):
    dataset = load_dataset(shared_data / "chest-xray3")
    [remark] = check_weights(dataset, make_weights(NIH), "xray")
    assert "1000 of 1124 items" in remark["text"]
