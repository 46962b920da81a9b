"""The survey's table 1, computed anew: by its own rule, against closed forms and against what is printed."""

from __future__ import annotations

import csv

import pytest
import torch

from thawline.learn.backbones import find_row
from thawline.learn.networks import build_network, count_parameters
from thawline.learn.survey import TABLE_1, count_by_rule, recompute


@pytest.fixture(scope="module")
def rows():
    return {row.printed.model: row for row in recompute()}


def test_all_are_explained_but_googlenet(rows):
    assert {model: row.agrees() for model, row in rows.items()} == {
        "LeNet5": True,
        "AlexNet": True,
        "VGG16": True,
        "GoogLeNet": False,
        "ResNet50": True,
    }


def test_layers_with_and_without_the_fully_connected_ones(rows):
    assert {model: (row.layers, row.feature_layers) for model, row in rows.items()} == {
        "LeNet5": (5, 2),
        "AlexNet": (8, 5),
        "VGG16": (16, 13),
        "GoogLeNet": (22, 21),
        "ResNet50": (50, 49),
    }


def test_lenet_by_the_tables_of_its_paper(rows):
    filters = [(5 * 5 * maps + 1) * count for maps, count in ((1, 6), (3, 6), (4, 9), (6, 1))]
    assert filters[0] == 156
    assert sum(filters[1:]) == 1_516
    features = sum(filters) + 2 * 6 + 2 * 16
    assert rows["LeNet5"].feature_reading == features == 1_716
    assert rows["LeNet5"].reading == features + (5 * 5 * 16 + 1) * 120 + (120 + 1) * 84 == 60_000


def test_alexnet_by_the_filters_of_its_paper(rows):
    shapes = ((11, 3, 96), (5, 96, 256), (3, 256, 384), (3, 384, 384), (3, 384, 256))
    features = sum((side * side * maps + 1) * count for side, maps, count in shapes)
    connected = sum((before + 1) * after for before, after in ((9216, 4096), (4096, 4096), (4096, 1000)))
    assert (rows["AlexNet"].reading, rows["AlexNet"].feature_reading) == (features + connected, features)


def test_vgg_of_two_classes(rows):
    with torch.device("meta"):
        row = find_row("VGG16")
        network = build_network(row.architecture)
        network.classifier[6] = torch.nn.Linear(4096, 2)
        assert rows["VGG16"].reading == count_parameters(network)


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "lenet5", "caffenet"])
def test_where_all_layers_have_biases_and_none_is_normalised_the_rule_is_the_count(name):
    row = find_row(name)
    with torch.device("meta"):
        assert count_by_rule(build_network(row.architecture), row) == (row.parameters, row.feature_parameters)


@pytest.mark.parametrize("name", ["inception1", "resnet50"])
def test_elsewhere_it_lacks_a_parameter_a_filter_of_what_normalisation_adds(name):
    row = find_row(name)
    with torch.device("meta"):
        network = build_network(row.architecture)
    filters = sum(each.out_channels for each in network.modules() if isinstance(each, torch.nn.Conv2d))
    assert count_by_rule(network, row)[1] == row.feature_parameters - filters


@pytest.mark.realdata
def test_the_printed_values_are_those_of_the_evidence(shared_data):
    with (shared_data.parent / "evidence" / "table1_backbones.csv").open(encoding="utf-8", newline="") as file:
        evidence = {row["model"]: row for row in csv.DictReader(file)}
    assert set(evidence) == {row.model for row in TABLE_1}
    for row in TABLE_1:
        found = evidence[row.model]
        assert row.year == int(found["year"])
        assert row.parameters == float(found["params_all"])
        assert row.feature_parameters == float(found["params_FE_only"])
        assert (row.layers, row.feature_layers) == (int(found["layers_total"]), int(found["layers_FE"]))
