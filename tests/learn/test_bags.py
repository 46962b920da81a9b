"""Bags: what a network puts out for an item is the mean, or the maximum, of what it puts out for each slice."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.special import expit, softmax

from referees import TOLERANCE, make_images, measure_difference
from thawline.data.readers import content_digest
from thawline.learn.activations import fill_activations, open_fresh
from thawline.learn.augment import View, augment
from thawline.learn.bags import HIDDEN_UNITS, make_attention, merge, part, pool
from thawline.learn.cuts import make_classifier
from thawline.learn.engine import TorchEngine, open_engine
from thawline.learn.facts import describe_backbone
from thawline.learn.features import batch_inputs, extract, prepare_all
from thawline.learn.handcrafted import extract_handcrafted
from thawline.learn.linear import LinearHead
from thawline.learn.loading import find_stages_of, fit_weights, load_backbone
from thawline.learn.training import lay_out, predict_logits, train
from thawline.learn.weight_files import read_sidecar
from thawline.types import BAG, POOLINGS, Augmentation, Contract, Depth, Hardware, Reading, Recipe, SilentListener

pytestmark = pytest.mark.slow
HARDWARE = Hardware(cores=2, memory_mib=1000)
TURNS = Augmentation(15.0, 0.1, (0.9, 1.1), flip_sides=True, tone=0.2)
N_SLICES, SIZE_PX = 3, 64
JOIN = {"mean": np.mean, "max": np.max, "attention": np.mean}  # where that starts


@pytest.fixture(scope="module")
def weights(tiny_file):
    return read_sidecar(tiny_file, "tiny")


@pytest.fixture(scope="module")
def volumes():
    """Seven arrays of four to six slices, and their digests."""
    draw = np.random.default_rng(0)
    drawn = [draw.integers(0, 256, (4 + number % 3, 40, 40), dtype=np.uint8) for number in range(7)]
    return drawn, [content_digest(each) for each in drawn]


def draw_bags():
    import torch

    return torch.from_numpy(np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path))


def make_contract(weights, pooling="mean", *, slices="spread:3", n_slices=N_SLICES):
    about = weights.architecture
    reading = Reading(dimensions=BAG, slices=slices, n_slices=n_slices, pooling=pooling)
    return Contract(SIZE_PX, about.mean, about.std, about.interpolation, feature_dtype="float32", reading=reading)


def take_frames(contract, place):
    """The contract of the slice at a place of a bag of three among four to six."""
    return {
        depth: dataclasses.replace(contract, reading=Reading((), str(1 + (2 * place + 1) * depth // (2 * N_SLICES))))
        for depth in (4, 5, 6)
    }


def extract_singly(volumes, weights, contract):
    """The referee: features of the slices by themselves, (slices, items, features)."""
    found = []
    for place in range(N_SLICES):
        contracts = take_frames(contract, place)
        rows = [
            extract([each], [digest], weights, contracts[len(each)], HARDWARE, SilentListener()).features[0]
            for each, digest in zip(*volumes, strict=True)
        ]
        found.append(np.stack(rows))
    return np.stack(found)


def test_merging_and_parting_are_each_others_end():
    import torch

    activations = torch.arange(2 * 3 * 4 * 5 * 6.0).reshape(2, 3, 4, 5, 6)
    merged = merge(activations)
    assert merged.shape == (6, 4, 5, 6)
    assert merged.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(part(merged, 3), activations)
    tokens = activations.flatten(3)
    assert torch.equal(part(merge(tokens), 3), tokens)
    assert torch.equal(merge(tokens)[4], tokens[1, 1])


def test_attention_is_that_of_the_paper_and_starts_as_the_mean():
    import torch

    bags, attention = draw_bags(), make_attention(5, seed=3)
    with torch.no_grad():
        np.testing.assert_allclose(attention(bags).numpy(), bags.numpy().mean(1), rtol=1e-5, atol=1e-6)
        attention.scores.weight.copy_(torch.from_numpy(np.random.default_rng(1).normal(size=(1, HIDDEN_UNITS))))
        found, weights = attention(bags).numpy(), attention.weigh(bags).numpy()
    state = {name: tensor.numpy().astype(np.float64) for name, tensor in attention.state_dict().items()}
    for bag, row, shares in zip(bags.numpy().astype(np.float64), found, weights, strict=True):
        values = np.tanh(bag @ state["values.weight"].T + state["values.bias"])
        gates = expit(bag @ state["gates.weight"].T + state["gates.bias"])
        expected = softmax((values * gates) @ state["scores.weight"][0])
        np.testing.assert_allclose(shares, expected, rtol=1e-4)
        np.testing.assert_allclose(row, expected @ bag, rtol=1e-4, atol=1e-5)
    again = make_attention(5, seed=3).state_dict()
    assert all(torch.equal(again[name], attention.state_dict()[name]) for name in ("values.weight", "gates.weight"))


def test_attention_learns_which_slice_counts():
    """One slice of six, at any place, carries the class and a mark; the mean of all drowns it."""
    import torch

    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 400)
    bags = draw.normal(size=(400, 6, 8)).astype(np.float32)
    places = draw.integers(0, 6, 400)
    bags[np.arange(400), places, 0] = np.where(labels, 1.0, -1.0)
    bags[np.arange(400), places, 1] = 4.0
    activations = torch.from_numpy(bags)

    class Held:
        n_views = 0

        def take(self, items, _views):
            return activations[torch.from_numpy(items)]

    class Mean(torch.nn.Module):
        def forward(self, given):
            return given.mean(1)

    recipe = Recipe(learning_rate=3e-3, epochs=60, batch_items=32, mixup=0.0, label_smoothing=0.0, decay=1.0)
    head = LinearHead(np.zeros(8), np.ones(8), np.zeros((2, 8)), np.zeros(2))
    right = {}
    for name, suffix in (("attention", make_attention(8)), ("mean", Mean())):
        classifier, _ = train(make_classifier(suffix, head), Held(), labels, np.arange(300), recipe, "rung")
        logits = predict_logits(classifier, Held(), np.arange(300, 400))
        right[name] = float((logits.argmax(1) == labels[300:]).mean())
    assert right["attention"] > 0.9 > right["mean"] + 0.1


@pytest.mark.parametrize("pooling", JOIN)
def test_pooling_is_that_of_numpy(pooling):
    import torch

    features = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 5)))
    expected = JOIN[pooling](features.numpy().reshape(2, 3, 5), axis=1)
    np.testing.assert_allclose(pool(features, 3, pooling).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_features_of_a_bag_are_those_of_its_slices_pooled(weights, volumes, pooling):
    contract = make_contract(weights, pooling)
    found = extract(*volumes, weights, contract, HARDWARE, SilentListener()).features
    expected = JOIN[pooling](extract_singly(volumes, weights, contract), axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_engines_agree_on_bags(weights, volumes):
    contract = make_contract(weights, "max")
    inputs = np.stack(list(prepare_all(volumes[0][:3], contract, 2)))
    assert inputs.shape == (3, N_SLICES, SIZE_PX, SIZE_PX, 3)
    fitted = fit_weights(weights, SIZE_PX, contract.reading)
    found = []
    for engine in (open_engine(weights, contract, HARDWARE), TorchEngine(fitted, contract, HARDWARE)):
        assert engine.batch_items == 2  # eight images or fewer
        found.append(np.concatenate(list(engine.run(batch_inputs(iter(inputs), engine.batch_items)))))
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_prefix_and_suffix_are_the_whole_at_every_line(weights, pooling):
    import torch

    reading = make_contract(weights, pooling).reading
    network = load_backbone(weights)
    fitted = fit_weights(weights, SIZE_PX, reading)
    found = describe_backbone(weights, size_px=SIZE_PX, depth=Depth(N_SLICES, pooling)).lines
    names, lines = [line.name for line in found], {line.name: line for line in found}
    assert (names[0] == "slice_pooling") == (pooling == "attention")
    assert 0 < found[0].thawed_fraction < found[-1].thawed_fraction == 1
    stages = find_stages_of(fitted, network, names)
    assert stages.names == tuple(names)
    images = make_images(SIZE_PX, items=2 * N_SLICES)
    with torch.no_grad():
        singly = network(images).reshape(2, N_SLICES, -1)
        expected = singly.amax(1) if pooling == "max" else singly.mean(1)
        assert measure_difference(load_backbone(fitted)(images), expected) < TOLERANCE
        for name, activations in zip(names, stages.prefix(names)(images), strict=True):
            assert tuple(activations.shape) == (2, *lines[name].shape)
            assert measure_difference(stages.suffix(name)(activations), expected) < TOLERANCE


def test_activations_of_bags_from_the_cache_and_fresh_are_those_of_the_slices(weights, volumes):
    import torch

    contract = make_contract(weights)
    lines = describe_backbone(weights, size_px=SIZE_PX, depth=Depth(N_SLICES, "mean")).lines[:2]
    about = *volumes, weights, contract, HARDWARE
    cached = fill_activations(*about, lines, TURNS, 1, 7, SilentListener())
    stages = find_stages_of(fit_weights(weights, SIZE_PX), load_backbone(weights), [line.name for line in lines])
    items, views = np.array([5, 0, 5]), np.array([0, 1, 1])
    inputs = []
    for item, view in zip(items, views, strict=True):
        (clean,) = prepare_all([volumes[0][item]], contract, 1)
        look = View(1, 7, TURNS)
        inputs += [augment(each, look, volumes[1][item]) if view else each for each in clean]
    normal = (torch.from_numpy(np.stack(inputs)).float() / 255 - torch.tensor(contract.mean)) / torch.tensor(
        contract.std
    )
    for line in lines:
        with torch.no_grad():
            (expected,) = stages.prefix([line.name])(normal.permute(0, 3, 1, 2))
        expected = expected.reshape(3, *line.shape)
        fresh = open_fresh(*about, line, TURNS, 7)
        for source in (cached[line.name], fresh):
            found = source.take(items, views)
            assert found.shape == (3, *line.shape)
            assert measure_difference(found, expected) < 5e-3  # float16, and two engines


def test_a_classifier_starts_with_the_logits_of_a_head_on_pooled_features(weights, volumes):
    contract = make_contract(weights)
    features = extract(*volumes, weights, contract, HARDWARE, SilentListener()).features
    draw = np.random.default_rng(1)
    head = LinearHead(
        features.mean(0), features.std(0) + 0.1, draw.normal(size=(2, features.shape[1])), np.array([0.3, -0.3])
    )
    line = describe_backbone(weights, size_px=SIZE_PX, depth=Depth(N_SLICES, "mean")).lines[1]
    stages = find_stages_of(fit_weights(weights, SIZE_PX, contract.reading), load_backbone(weights), [line.name])
    about = *volumes, weights, contract, HARDWARE
    cached = fill_activations(*about, [line], TURNS, 0, 7, SilentListener())[line.name]
    classifier = make_classifier(stages.suffix(line.name), head)
    logits = [
        predict_logits(classifier, cached, np.arange(7), depth=each)
        for each in (Depth(N_SLICES, "mean"), None, Depth(100, "mean"))
    ]
    np.testing.assert_allclose(logits[0], head.predict_logits(features), atol=0.05)
    for each in logits[1:]:
        np.testing.assert_allclose(each, logits[0], atol=1e-4)
    assert lay_out(cached.take(np.arange(2), np.zeros(2, np.int64))).ndim == 5


def test_all_slices_of_an_item_are_seen_alike():
    image = np.random.default_rng(0).integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    bag = augment(np.stack([image, image // 2, image]), View(3, 1, TURNS), "digest")
    np.testing.assert_array_equal(bag[0], bag[2])
    np.testing.assert_array_equal(bag[0], augment(image, View(3, 1, TURNS), "digest"))
    np.testing.assert_array_equal(bag[1], augment(image // 2, View(3, 1, TURNS), "digest"))


def test_textures_of_a_bag_are_the_mean_of_its_slices(weights, volumes):
    contract = make_contract(weights)
    found = extract_handcrafted(volumes[0], contract, 2, SilentListener())
    singly = [
        np.stack(
            [
                extract_handcrafted([each], take_frames(contract, place)[len(each)], 1, SilentListener())[0]
                for each in volumes[0]
            ]
        )
        for place in range(N_SLICES)
    ]
    np.testing.assert_allclose(found, np.mean(singly, axis=0), atol=1e-6)
