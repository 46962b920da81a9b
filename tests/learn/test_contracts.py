"""What the input contract is worth: on photographs that ImageNet has classes for, a wrong one costs accuracy, ours not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from skimage import data as photographs

from thawline.data.transforms import prepare
from thawline.learn.loading import load_network
from thawline.learn.weights import find_weights
from thawline.types import Contract

CLASSES = {  # of ImageNet-1k, for each photograph
    "chelsea": set(range(281, 286)),  # house cats
    "coffee": {504, 967, 968},  # mug, espresso, cup
    "rocket": {657, 744, 812},  # missile, projectile, shuttle
    "camera": {759, 872},  # reflex camera, tripod
}
N_VIEWS = 12
HALF, IMAGENET = ((0.5,) * 3, (0.5,) * 3), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def views():
    """Random squares of the photographs, half of them mirrored, with the classes that are right."""
    draw = np.random.default_rng(0)
    found = []
    for name, classes in CLASSES.items():
        pixels = getattr(photographs, name)()
        pixels = np.stack([pixels] * 3, axis=2) if pixels.ndim == 2 else pixels
        for _ in range(N_VIEWS):
            side = int(min(pixels.shape[:2]) * draw.uniform(0.55, 1))
            top, left = (int(draw.integers(0, whole - side + 1)) for whole in pixels.shape[:2])
            view = pixels[top : top + side, left : left + side]
            found.append((np.ascontiguousarray(view[:, ::-1] if draw.random() < 0.5 else view), classes))
    return found


def score(network, about, views, mean, std, *, reverse=False):
    """Return the accuracy, and the mean probability of the right classes."""
    contract = Contract(about.size_px, mean, std, about.interpolation)
    inputs = torch.from_numpy(np.stack([prepare(view, contract) for view, _ in views])).float() / 255
    normal = ((inputs.flip(3) if reverse else inputs) - torch.tensor(mean)) / torch.tensor(std)
    with torch.no_grad():
        found = network(normal.permute(0, 3, 1, 2).contiguous()).softmax(1)
    right = [classes for _, classes in views]
    accuracy = np.mean([int(row.argmax()) in classes for row, classes in zip(found, right, strict=True)])
    return float(accuracy), float(
        np.mean([float(row[sorted(classes)].sum()) for row, classes in zip(found, right, strict=True)])
    )


@pytest.mark.slow
def test_a_wrong_normalisation_or_order_of_channels_costs_and_ours_does_not(views):
    weights = find_weights("efficientnet_lite0")
    network, about = load_network(weights), weights.architecture
    accuracy, certainty = score(network, about, views, about.mean, about.std)
    assert accuracy > 0.9
    assert certainty > 0.8
    wrong = {
        "that of another network": score(network, about, views, *IMAGENET),
        "none": score(network, about, views, (0.0,) * 3, (1.0,) * 3),
        "blue first": score(network, about, views, *HALF, reverse=True),
        "0 to 255": score(network, about, views, (0.0,) * 3, (1 / 255,) * 3),
    }
    assert all(other < certainty - 0.02 for _, other in wrong.values()), wrong
    for name in ("none", "blue first"):
        assert wrong[name][0] < accuracy, name
    assert wrong["0 to 255"][0] < 0.3


@pytest.mark.realdata
@pytest.mark.slow
def test_a_wrong_padding_costs_and_the_description_of_the_file_does_not(views, shared_data, monkeypatch):
    monkeypatch.setenv("THAWLINE_WEIGHTS", str(shared_data.parent / "weights"))
    weights = find_weights("MobileNet2")
    about = weights.architecture
    assert about.options == {"pad_type": "same"}
    ours = score(load_network(weights), about, views, about.mean, about.std)
    plain = dataclasses.replace(weights, architecture=dataclasses.replace(about, options={}))
    padded = score(load_network(plain), about, views, about.mean, about.std)
    assert ours[0] > 0.95
    assert padded[0] < ours[0]
    assert padded[1] < ours[1] - 0.02
