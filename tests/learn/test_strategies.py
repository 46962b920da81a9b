"""How rungs are fitted: each from what it needs, opened when it is first asked for, and forecast from what is known."""

from __future__ import annotations

import dataclasses
import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import softmax

from thawline.journal import Journal
from thawline.learn import strategies
from thawline.learn.development import Development
from thawline.learn.ensemble import take_weights
from thawline.learn.features import extract
from thawline.learn.heads import fit_final, fit_fold
from thawline.learn.ladder import Ladder, Rules, Rung, TriedRung
from thawline.learn.loading import load_backbone
from thawline.learn.stages import find_stages, find_stages_at, list_lines
from thawline.learn.strategies import (
    FORWARD_SHARE,
    FULL_DECAY,
    INNER_FOLDS,
    PREFIX_SECONDS,
    RELATIVE_COSTS,
    TEXTURE_SECONDS,
    Settings,
    Source,
    Strategies,
    collect_weights,
    record_fold,
    split_weights,
    time_step,
)
from thawline.learn.thawing import fit_head, thaw_fold
from thawline.learn.training import predict_logits, train
from thawline.learn.weights import find_weights
from thawline.types import Augmentation, Contract, Hardware, Line, Recipe, SilentListener

N_ITEMS, WIDTH, N_VIEWS = 96, 8, 2
BLOCKS = ("e", "d", "c", "b", "a")  # from the top down
LINES = {name: Line(name, (n + 1) / 5, (n + 1) / 5, (WIDTH,)) for n, name in enumerate(BLOCKS)}
RECIPE = Recipe(learning_rate=2e-2, epochs=3, batch_items=16, decay=0.85, average=0.5)
LINEAR = Rung(0, "feature_extractor")
UPPER, LOWER = (Rung(n, "fine_tuning", line=name, thawed_fraction=0.2 * n) for n, name in ((1, "d"), (2, "b")))
RANDOM = Rung(3, "random_init", line="a", thawed_fraction=1.0)
TEXTURE = Rung(4, "handcrafted")


def make_network(seed):
    """Five layers, each with a normalisation of its own; the middle ones pass on half of what they are given."""
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            for name in BLOCKS[::-1]:
                self.add_module(name, nn.Linear(WIDTH, WIDTH))
                self.add_module(f"norm_{name}", nn.BatchNorm1d(WIDTH))
            self.act = nn.ReLU()

        def forward(self, images):
            for name in BLOCKS[::-1]:
                images = self.act(self.get_submodule(f"norm_{name}")(self.get_submodule(name)(images)))
            return images

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network().eval()


class Table:
    """Activations from an array (views, items, …)."""

    def __init__(self, rows):
        self.rows, self.n_views = rows, len(rows) - 1

    def take(self, items, views):
        return self.rows[views, items]


class House:
    """Stands in for all that strategies open, and notes what is opened."""

    def __init__(self, monkeypatch):
        import torch

        self.opened, self.network = [], make_network(0)
        groups = np.arange(N_ITEMS) // 2
        self.development = Development(groups % 2, groups, groups // 2 % 3, 2)
        draw = np.random.default_rng(0)
        images = draw.normal(size=(N_ITEMS, WIDTH)) + 2.0 * self.development.labels[:, None] * np.eye(WIDTH)[0]
        views = images + 0.1 * draw.normal(size=(N_VIEWS + 1, 1, WIDTH)) * [[[0]], *[[[1]]] * N_VIEWS]
        self.images = torch.from_numpy(views).float()
        self.stages = find_stages(self.network)
        with torch.no_grad():
            self.features = self.network(self.images[0]).numpy()
        self.texture = draw.normal(size=(N_ITEMS, 5)).astype(np.float32) + self.development.labels[:, None]
        for name in ("load_blocks", "load_random", "fill_activations", "open_fresh", "extract_handcrafted"):
            monkeypatch.setattr(strategies, name, getattr(self, name))
        monkeypatch.setattr(strategies, "fit_weights", lambda weights, *_: weights)
        monkeypatch.setattr(
            strategies, "find_stages_of", lambda _weights, network, lines: find_stages_at(network, lines)
        )

    def lean(self):
        """Leave a third of the patients in one class, so that weights of classes count."""
        labels = (self.development.groups % 3 == 0).astype(np.int64)
        self.development = dataclasses.replace(self.development, labels=labels)
        return self.development

    def load_blocks(self, weights):
        self.opened.append(("backbone", weights))
        return self.network

    def load_random(self, weights, seed):
        self.opened.append(("random", seed))
        return make_network(seed + 100)

    def _cut(self, line):
        import torch

        prefix = self.stages.prefix([line])
        with torch.no_grad():
            return Table(torch.stack([prefix(view)[0] for view in self.images]))

    def fill_activations(
        self, contents, digests, weights, contract, hardware, lines, augmentation, n_views, seed, listener
    ):
        self.opened.append(("cache", tuple(line.name for line in lines), n_views, seed))
        return {line.name: self._cut(line.name) for line in lines}

    def open_fresh(self, contents, digests, weights, contract, hardware, line, augmentation, seed):
        self.opened.append(("fresh", line.name, seed))
        return self._cut(line.name)

    def extract_handcrafted(self, contents, contract, cores, listener):
        self.opened.append(("texture", cores))
        return self.texture

    def make(self, prefix_s=None, **changes):
        contract = Contract(WIDTH, (0.5,) * 3, (0.5,) * 3)
        source = Source([None] * N_ITEMS, ["digest"] * N_ITEMS, "weights", contract, Hardware(2, 4096))
        settings = Settings(None, RECIPE, LINES, ("d", "b"), N_VIEWS, Augmentation(), seed=3)
        settings = dataclasses.replace(settings, **changes)
        return Strategies(source, self.features, self.development, settings, SilentListener(), prefix_s)


@pytest.fixture
def house(monkeypatch):
    return House(monkeypatch)


def make_tried(rung, seconds, forecast_s=None, **folds):
    """A rung that was tried; ``folds`` are lists of what its folds recorded."""
    records = tuple({name: values[fold] for name, values in folds.items()} for fold in range(3))
    return TriedRung(rung, np.zeros((N_ITEMS, 2)), records, seconds, forecast_s)


# --- heads ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("rung", [LINEAR, Rung(1, "feature_extractor_hybrid", "random_forest"), TEXTURE])
def test_a_head_is_fitted_on_its_features_with_the_plans_weights(house, rung, class_weight):
    of = house.lean()
    made, features = house.make(class_weight=class_weight), house.texture if rung is TEXTURE else house.features
    value, weights = made.fit(rung, 2)
    expected = fit_fold(rung.head, features, of.labels, of.groups, of.folds, 2, 2, seed=3, class_weight=class_weight)
    np.testing.assert_allclose(value["probabilities"], expected.probabilities)
    assert value["strength"] == expected.strength
    assert weights is None
    made.fit(rung, 0)
    assert house.opened == ([("texture", 2)] if rung is TEXTURE else [])


@pytest.mark.parametrize("rung", [LINEAR, TEXTURE])
def test_the_final_head_is_fitted_on_all_items(house, rung):
    of, features = house.lean(), house.texture if rung is TEXTURE else house.features
    head, strength = house.make(class_weight="balanced").fit_final(rung)
    about = of.labels, of.groups, of.n_classes
    expected, wanted = fit_final("linear", features, *about, folds=of.folds, seed=3, class_weight="balanced")
    np.testing.assert_allclose(head.predict_proba(features), expected.predict_proba(features))
    assert strength == wanted
    np.testing.assert_allclose(head.mean, features.mean(axis=0), atol=1e-5)  # of all, not of a part


# --- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_rung_above_a_line_is_its_folds_trained_one_by_one(house):
    made = house.make(head_layers=2)
    value, weights = made.fit(LOWER, 1)
    expected = thaw_fold(made.thaw(LOWER), 1, LOWER.name)
    np.testing.assert_array_equal(value["probabilities"], expected.probabilities)
    np.testing.assert_allclose(value["probabilities"].sum(axis=1), 1)
    assert value.keys() == {
        "probabilities", "logits", "learning_rate", "n_epochs", "scales", "trials", "precision"
    }  # fmt: skip
    assert value["precision"] == "f32"
    state, head = expected.classifier.state_dict(), expected.head.to_tensors()
    assert weights.keys() == {*state, *(f"frozen.{name}" for name in head)}
    assert all(np.array_equal(weights[name], tensor.numpy()) for name, tensor in state.items())
    assert all(np.array_equal(weights[f"frozen.{name}"], array) for name, array in head.items())
    again = made.train_again(LOWER, 1)
    assert again.keys() == weights.keys()
    assert all(np.array_equal(again[name], array) for name, array in weights.items())
    thaw = made.thaw(LOWER)
    assert (thaw.line, thaw.head_layers, thaw.upper, thaw.recipe) == ("b", 2, None, RECIPE)


def test_the_highest_block_that_is_trained_is_passed_on_but_not_to_a_random_start(house):
    made = house.make(upper="d")
    assert made.thaw(LOWER).upper == "d"
    assert made.thaw(RANDOM).upper is None


def test_activations_of_all_cached_lines_are_filled_once_and_others_opened_fresh(house):
    made = house.make()
    for rung in (UPPER, LOWER, UPPER):
        made.thaw(rung)
    assert house.opened.count(("cache", ("d", "b"), N_VIEWS, 3)) == 1
    assert house.opened.count(("backbone", "weights")) == 1
    assert {each[0] for each in house.opened} == {"backbone", "cache"}
    assert made.thaw(dataclasses.replace(UPPER, line="c")).activations.rows.shape == (N_VIEWS + 1, N_ITEMS, WIDTH)
    assert house.opened[-1] == ("fresh", "c", 3)


def test_what_a_rung_needs_is_opened_when_it_is_prepared(house):
    made = house.make()
    made.prepare(LINEAR)
    assert house.opened == []
    made.prepare(TEXTURE)
    made.prepare(UPPER)
    assert house.opened == [("texture", 2), ("cache", ("d", "b"), N_VIEWS, 3)]
    made.prepare(LOWER)
    made.fit(TEXTURE, 0)
    assert len(house.opened) == 2


def test_a_random_start_has_its_own_network_and_starts_at_even_chances(house):
    """It has no features to start from, no rates that fall, and trains its normalisations."""
    made = house.make(recipe=dataclasses.replace(RECIPE, auto_rgn=True), seed=4)
    thaw = made.thaw(RANDOM)
    assert thaw.features is None
    assert thaw.recipe == dataclasses.replace(RECIPE, train_norms=True, decay=1.0, auto_rgn=False)
    random = make_network(104).state_dict()
    start = thaw.start(fit_head(thaw, np.arange(N_ITEMS)))
    assert all((start.get_submodule("suffix").state_dict()[name] == tensor).all() for name, tensor in random.items())
    np.testing.assert_array_equal(predict_logits(start, thaw.activations, np.arange(5)), np.zeros((5, 2)))
    assert house.opened == [("fresh", "a", 4), ("random", 4)]
    about = thaw.activations, house.development.labels, np.arange(N_ITEMS), thaw.recipe, RANDOM.name
    trained = train(start, *about, blocks=thaw.blocks)[0].get_submodule("suffix").state_dict()
    assert not any((trained[name] == tensor).all() for name, tensor in random.items())
    value, weights = made.fit(RANDOM, 0)
    np.testing.assert_allclose(value["probabilities"].sum(axis=1), 1)
    assert {f"suffix.{name}" for name in random} < weights.keys()
    assert split_weights(weights)[1] is None
    assert (value["logits"].shape[0], len(value["scales"])) == (1, 1)


def test_views_are_averaged_as_probabilities_of_the_blend_with_the_clean_frozen_head(house):
    """The referee for the frozen head is plain arithmetic on the features that the whole network gives the clean view."""
    import torch

    made = house.make()
    _, weights = made.fit(LOWER, 1)
    found = made.score_views(LOWER, 1, weights, (0.7, 0.4))
    thaw, scored = made.thaw(LOWER), np.flatnonzero(house.development.folds == 1)
    classifier = thaw.start(fit_head(thaw, np.flatnonzero(house.development.folds != 1)))
    network = {name: torch.from_numpy(array) for name, array in weights.items() if not name.startswith("frozen.")}
    classifier.load_state_dict(network)
    mean, scale, coefficients, intercept = (
        weights[f"frozen.{name}"] for name in ("mean", "scale", "coefficients", "intercept")
    )
    with torch.no_grad():
        features = house.network(house.images[0][scored]).double().numpy()
        frozen = (features - mean) / scale @ coefficients.T + intercept
        views = [classifier.eval()(each[scored]).double().numpy() for each in thaw.activations.rows]
    logits = [0.7 * each + 0.4 * frozen for each in views]
    np.testing.assert_allclose(found, np.mean([softmax(each, axis=1) for each in logits], axis=0), atol=1e-5)
    assert not np.allclose(found, softmax(logits[0], axis=1), atol=1e-4)


@pytest.mark.parametrize("rung", [LOWER, RANDOM])
def test_over_views_that_are_alike_the_score_is_that_of_the_fold(house, rung):
    house.images = house.images[:1].expand(N_VIEWS + 1, -1, -1)
    made = house.make(cached=("d", "b", "a"))
    value, weights = made.fit(rung, 2)
    found = made.score_views(rung, 2, weights, value["scales"])
    np.testing.assert_allclose(found, value["probabilities"], atol=1e-5)


def test_weights_of_a_fold_are_parted_as_they_were_put_together(house):
    found = thaw_fold(house.make().thaw(UPPER), 0, UPPER.name)
    network, head = split_weights(collect_weights(found))
    expected = take_weights(found.classifier)
    assert network.keys() == expected.keys()
    assert all(np.array_equal(network[name], array) for name, array in expected.items())
    np.testing.assert_array_equal(head.predict_logits(house.features), found.head.predict_logits(house.features))
    assert split_weights(collect_weights(dataclasses.replace(found, head=None)))[1] is None


# --- a whole climb ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_climb_of_networks_comes_to_the_same_and_opens_nothing_for_what_it_has(house, tmp_path, monkeypatch):
    rungs, rules = (LINEAR, UPPER), Rules(1e9, 0.01)
    quick = {"recipe": dataclasses.replace(RECIPE, epochs=1)}

    def run(folder, made):
        folder.mkdir(exist_ok=True)
        return Ladder(made, house.development, Journal(folder), SilentListener(), rules, lambda: 0.0).climb(rungs)

    whole = run(tmp_path / "whole", house.make(**quick))
    real, calls = strategies.thaw_fold, []

    def interrupt(*about):
        calls.append(about[1])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*about)

    monkeypatch.setattr(strategies, "thaw_fold", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", house.make(**quick))
    resumed = run(tmp_path / "broken", house.make(**quick))
    assert calls == [0, 1, 1, 2]
    for one, other in zip(resumed.tried, whole.tried, strict=True):
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
        assert (one.gain, one.chance) == (other.gain, other.chance)
    for fold in range(3):
        kept = [Journal(tmp_path / name).find(f"{UPPER.unit} fold {fold} weights") for name in ("whole", "broken")]
        assert kept[0].keys() == kept[1].keys()
        assert all(np.array_equal(kept[0][name], kept[1][name]) for name in kept[0])
    house.opened.clear()
    again = run(tmp_path / "broken", house.make(**quick))
    assert house.opened == []
    np.testing.assert_array_equal(again.tried[1].probabilities, whole.tried[1].probabilities)


# --- forecasts --------------------------------------------------------------------------------------------------------


def test_heads_are_forecast_by_what_they_cost_beside_the_linear_one(house):
    made, tried = house.make(), [make_tried(LINEAR, 3.0, strength=[1, 2, 3])]
    for head, cost in RELATIVE_COSTS.items():
        rung = Rung(1, "feature_extractor_hybrid", head)
        assert made.forecast(rung, ()) is None
        assert made.forecast(rung, tried) == (0.0, cost)  # it took three seconds for three folds
    texture = TEXTURE_SECONDS * N_ITEMS / 2
    assert made.forecast(TEXTURE, tried) == pytest.approx((texture, 1.0))
    assert made.forecast(TEXTURE, ()) == pytest.approx((texture, 0.2))
    assert house.opened == []


def test_lines_are_forecast_from_timed_steps_by_the_items_that_training_sees(house, monkeypatch):
    """Three folds, each trained once, on what is left of two thirds of the items when a part of them is held back."""
    seen = []
    monkeypatch.setattr(strategies, "time_step", lambda *about: seen.append(about) or 0.01)
    made = house.make(prefix_s=0.5)
    n_taken = (N_ITEMS * 2 / 3) * RECIPE.epochs
    n_steps = n_taken * (1 - 1 / INNER_FOLDS) + FORWARD_SHARE * n_taken / INNER_FOLDS
    filling = N_ITEMS * (N_VIEWS + 1) * 0.5
    assert made.forecast(UPPER, ()) == pytest.approx((filling, n_steps * 0.01))
    assert seen[0][1:] == (LINES["d"], 2, RECIPE, None)
    fresh = dataclasses.replace(UPPER, line="c")
    assert made.forecast(fresh, ()) == pytest.approx((0.0, n_steps * 0.01 + n_taken * 0.5))
    made.prepare(UPPER)
    assert made.forecast(UPPER, ()) == pytest.approx((0.0, n_steps * 0.01))
    assert house.make().prefix_s == PREFIX_SECONDS
    searched = make_tried(LOWER, 1.0, trials=[[1], [1, 2], [1, 2]])
    in_all = n_steps * 5 / 3  # trials a fold at the line above
    assert made.forecast(UPPER, [searched]) == pytest.approx((0.0, in_all * 0.01))


@pytest.mark.parametrize(("epochs", "batch_items", "n_weighted"), [(2, 3, 12), (5, 10_000, None)])
def test_relative_gradients_are_forecast_as_well(house, monkeypatch, epochs, batch_items, n_weighted):
    """Up to four batches of each epoch are taken once more, at a line that is not cached through the prefix as well."""
    monkeypatch.setattr(strategies, "time_step", lambda *_: 0.01)
    recipe = dataclasses.replace(RECIPE, epochs=epochs, batch_items=batch_items)
    plain, weighted = (
        house.make(prefix_s=0.5, recipe=dataclasses.replace(recipe, auto_rgn=flag)) for flag in (False, True)
    )
    n_weighted = n_weighted * epochs if n_weighted else N_ITEMS * 2 / 3 * (1 - 1 / INNER_FOLDS) * epochs
    for line, item_s in (("d", 0.01), ("c", 0.51)):
        rung = dataclasses.replace(UPPER, line=line)
        more_s = weighted.forecast(rung, ()).fold_s - plain.forecast(rung, ()).fold_s
        assert more_s == pytest.approx(n_weighted * item_s)


def test_a_given_validation_part_is_forecast_by_the_items_that_are_trained_on(house, monkeypatch):
    monkeypatch.setattr(strategies, "time_step", lambda *_: 0.01)
    whole = house.make().forecast(UPPER, ())
    folds = np.where(house.development.folds == 0, 0, -1)  # one part is scored, two thirds are only trained on
    house.development = dataclasses.replace(house.development, folds=folds)
    assert house.make().forecast(UPPER, ()) == pytest.approx(whole)


@pytest.mark.parametrize(("cosine", "expected"), [(0.999, True), (0.98, False)])
def test_bf16_is_trained_in_where_its_gradients_agree_at_the_line(house, monkeypatch, cosine, expected):
    asked = []
    monkeypatch.setattr(strategies, "compare_bf16", lambda start, *_: asked.append(start) or cosine)
    made = house.make()
    assert not made.thaw(UPPER).recipe.bf16  # the processor has none
    made.source = made.source._replace(hardware=Hardware(2, 4096, bf16=True))
    assert asked == []
    for rung in (UPPER, UPPER, LOWER, dataclasses.replace(RANDOM, line="b")):
        assert made.thaw(rung).recipe.bf16 is expected
    assert len(asked) == 3  # two lines, and a random start at one of them


def test_rates_fall_from_block_to_block_where_everything_is_trained(house):
    made = house.make(recipe=dataclasses.replace(RECIPE, decay=1.0))
    everything = Rung(5, "fine_tuning_from_scratch", line="a", thawed_fraction=1.0)
    assert [made.thaw(rung).recipe.decay for rung in (UPPER, everything, RANDOM)] == [1.0, FULL_DECAY, 1.0]
    slower = house.make(recipe=dataclasses.replace(RECIPE, decay=0.5))
    assert slower.thaw(everything).recipe.decay == 0.5


def test_drawing_classes_evenly_leaves_the_start_that_of_the_frozen_rung(house):
    """Its probabilities are those of the natural shares either way; weights change the frozen rung as well."""
    training, plain = np.arange(60), house.make().thaw(UPPER)
    drawn = house.make(recipe=dataclasses.replace(RECIPE, balance="sampling")).thaw(UPPER)
    weighted = house.make(class_weight="balanced").thaw(UPPER)
    np.testing.assert_array_equal(fit_head(drawn, training).coefficients, fit_head(plain, training).coefficients)
    few = np.concatenate([training[house.development.labels[training] == 0], training[-4:]])
    assert not np.array_equal(fit_head(weighted, few).coefficients, fit_head(plain, few).coefficients)


def test_timing_a_step_changes_neither_the_network_nor_the_generators(house):
    import torch

    before = take_weights(house.network)
    state = torch.get_rng_state()
    found = time_step(house.stages, LINES["c"], 3, dataclasses.replace(RECIPE, auto_rgn=True))
    assert 0 < found < 10
    assert torch.equal(torch.get_rng_state(), state)
    assert all(np.array_equal(array, before[name]) for name, array in take_weights(house.network).items())


def test_a_record_is_plain_but_for_its_arrays(house, tmp_path):
    value, weights = house.make().fit(UPPER, 0)
    journal = Journal(tmp_path)
    journal.record("fold", value, 0.0)
    journal.record("weights", weights, 0.0)
    found = Journal(tmp_path).find("fold")
    assert found["trials"] == [
        {**trial, "losses": list(trial["losses"]), "scales": list(trial["scales"])} for trial in value["trials"]
    ]
    assert {name: found[name] for name in ("learning_rate", "n_epochs", "scales")} == {
        name: value[name] for name in ("learning_rate", "n_epochs", "scales")
    }
    again = Journal(tmp_path).find("weights")
    assert all(
        np.array_equal(again[name], array) and again[name].dtype == array.dtype for name, array in weights.items()
    )


def test_a_record_says_what_the_fold_came_to():
    fold = SimpleNamespace(probabilities=1, logits=2, learning_rate=3, n_epochs=4, scales=(6, 7), trials=(), head=8)
    names = ("probabilities", "logits", "learning_rate", "n_epochs", "scales")
    assert record_fold(fold) == dict(zip(names, [1, 2, 3, 4, [6, 7]], strict=True)) | {"trials": []}


# --- the packaged backbone --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_packaged_backbone_is_thawed_at_its_top_line():
    """Two dozen images, their upper half bright or not; one fold of a rung above conv_head starts from the frozen one."""
    draw = np.random.default_rng(0)
    labels = np.arange(24) // 2 % 2
    images = draw.integers(0, 120, size=(24, 64, 64, 3))
    images[labels == 1, :32] += 100
    images = images.astype(np.uint8)
    weights = find_weights("efficientnet_lite0")
    hardware = Hardware(1, 4096)
    contract = Contract(64, weights.architecture.mean, weights.architecture.std, weights.architecture.interpolation)
    digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    source = Source(list(images), digests, weights, contract, hardware)
    features = extract(*source, SilentListener()).features
    development = Development(labels, np.arange(24), np.arange(24) // 4 % 3, 2)
    line = next(each for each in list_lines(find_stages(load_backbone(weights)), 64) if each.name == "conv_head")
    settings = Settings(None, RECIPE, {"conv_head": line}, ("conv_head",), 1, Augmentation(shift=0.05))
    made = Strategies(source, features, development, settings, SilentListener())
    rung = Rung(1, "fine_tuning", line="conv_head", thawed_fraction=line.thawed_fraction)
    assert min(made.forecast(rung, ())) > 0
    thaw = made.thaw(rung)
    assert thaw.activations.n_views == 1
    of, scored = development, np.flatnonzero(development.folds == 0)
    start = thaw.start(fit_head(thaw, np.flatnonzero(of.folds != 0)))
    found = softmax(predict_logits(start, thaw.activations, scored), axis=1)
    frozen = fit_fold("linear", features, of.labels, of.groups, of.folds, 0, 2, seed=0).probabilities
    np.testing.assert_allclose(found, frozen, atol=0.01)  # activations rest as float16
    value, kept = made.fit(rung, 0)
    assert value["probabilities"].shape == (8, 2)
    assert (value["probabilities"].argmax(axis=1) == labels[scored]).mean() > 0.6
    assert "suffix.conv_head.weight" in kept
    assert not any(name.startswith("suffix.blocks") for name in kept)
