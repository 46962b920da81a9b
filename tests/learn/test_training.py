"""Training: the loop learns, repeats itself to the last bit, and does each thing that its recipe says, checked by hand."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections import OrderedDict
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thawline.errors import TrainingError
from thawline.learn.cuts import make_classifier
from thawline.learn.linear import LinearHead
from thawline.learn.loading import load_backbone
from thawline.learn.objective import make_objective
from thawline.learn.stages import find_stages
from thawline.learn.training import (
    RGN_BATCHES,
    Recipe,
    count_classes,
    lay_out,
    make_optimiser,
    make_schedule,
    predict_logits,
    train,
    weight_rates,
)
from thawline.learn.weight_files import read_sidecar

N_ITEMS, N_FEATURES, N_CLASSES = 60, 8, 3
QUICK = Recipe(learning_rate=0.01, epochs=4, batch_items=16, mixup=0.0)
BLOCKS = ("conv_head", "blocks.4", "blocks.3")
RUNG = "fine_tuning above blocks.5"


class Given:
    """Activations from an array (views, items, …), view 0 first; notes what is asked for, and in which mode."""

    def __init__(self, views):
        self.rows, self.asked = np.asarray(views, np.float32), []
        self.n_views = len(views) - 1

    def take(self, items, views):
        import torch

        self.asked.append((items.copy(), views.copy()))
        return torch.from_numpy(self.rows[views, items])


def make_problem(n_views=2, seed=0):
    """Three classes far apart; every view is the item and a little noise."""
    draw = np.random.default_rng(seed)
    labels = np.arange(N_ITEMS) % N_CLASSES
    clean = 6 * np.eye(N_CLASSES, N_FEATURES)[labels] + draw.normal(size=(N_ITEMS, N_FEATURES))
    return Given([clean, *(clean + 0.1 * draw.normal(size=clean.shape) for _ in range(n_views))]), labels


def make_network(*, norm=True, dropout=0.0, seed=0):
    """A classifier with a hidden layer; its standardisation is one that batches would change."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden = nn.Linear(N_FEATURES, 6)
    parts = [hidden, *([nn.BatchNorm1d(6)] if norm else []), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
    draw = np.random.default_rng(seed)
    scales = draw.normal(size=6), draw.uniform(1, 2, 6)
    return make_classifier(
        nn.Sequential(*parts), LinearHead(*scales, draw.normal(size=(N_CLASSES, 6)), draw.normal(size=N_CLASSES))
    )


def run(recipe=QUICK, network=None, problem=None, items=None, **options):
    activations, labels = problem or make_problem()
    items = np.arange(N_ITEMS) if items is None else items
    return train(make_network() if network is None else network, activations, labels, items, recipe, RUNG, **options)


def copy_state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def is_same(first, second):
    import torch

    one, other = (module if isinstance(module, dict) else module.state_dict() for module in (first, second))
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@contextmanager
def watch_steps(note, *, before=False):
    """Call ``note(optimiser)`` around every step that any optimiser takes."""
    from torch.optim import optimizer as module

    register = module.register_optimizer_step_pre_hook if before else module.register_optimizer_step_post_hook
    hook = register(lambda optimiser, *about: note(optimiser))
    try:
        yield
    finally:
        hook.remove()


def list_parameters(optimiser):
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


def cross_entropy(logits, labels, smoothing=0.0):
    """The referee: mean log-loss by its formula, in float64, against (1 - s) of the class and s of all evenly."""
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    wanted = (1 - smoothing) * np.eye(logits.shape[1])[labels] + smoothing / logits.shape[1]
    return -(wanted * logs).sum(axis=1).mean()


def compute_logits(network, rows):
    import torch

    with torch.no_grad():
        return copy.deepcopy(network).eval()(torch.from_numpy(np.asarray(rows, np.float32))).double().numpy()


# --- it learns, and repeats itself ------------------------------------------------------------------------------------


@pytest.mark.parametrize("train_norms", [False, True])
def test_a_separable_problem_is_learnt(train_norms):
    recipe = dataclasses.replace(
        QUICK, learning_rate=0.03, epochs=40, head_rate=1.0, label_smoothing=0.0, train_norms=train_norms
    )
    found, epochs = run(recipe)
    losses = [epoch.training_loss for epoch in epochs]
    assert losses[-1] < 0.1 < 0.5 < losses[0]
    unseen, labels = make_problem(seed=1)
    right = predict_logits(found, unseen, np.arange(N_ITEMS)).argmax(1) == labels
    assert right.mean() > 0.95


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_the_same_seed_gives_the_same_weights_to_the_last_bit_another_seed_others(mixup):
    def train_with(seed):
        recipe = Recipe(learning_rate=0.01, epochs=2, batch_items=16, mixup=mixup, seed=seed)
        return run(recipe, make_network(dropout=0.3))

    (one, epochs), (same, same_epochs), (other, _) = train_with(5), train_with(5), train_with(6)
    assert is_same(one, same)
    assert epochs == same_epochs
    assert not is_same(one, other)


def test_convolutions_repeat_themselves_and_leave_the_network_they_were_copied_from(tiny_file):
    stages = find_stages(load_backbone(read_sidecar(tiny_file, "tiny")))
    shape = stages.prefix(["blocks.4"])(_make_images())[0].shape[1:]
    draw = np.random.default_rng(0)
    problem = Given(draw.normal(size=(2, 10, *shape))), np.arange(10) % 2
    before = copy_state(stages.network)

    def fit():
        head = LinearHead(np.zeros(256), np.ones(256), np.zeros((2, 256)), np.zeros(2))
        classifier = make_classifier(copy.deepcopy(stages.suffix("blocks.4")), head)
        return train(classifier, *problem, np.arange(10), Recipe(epochs=2, batch_items=5), RUNG)

    (one, epochs), (other, _) = fit(), fit()
    assert is_same(one, other)
    assert epochs[0].training_loss != epochs[1].training_loss
    assert is_same(stages.network, before)


def _make_images():
    import torch

    return torch.zeros(1, 3, 64, 64)


def test_only_the_items_that_are_given_are_used():
    activations, labels = make_problem()
    items = np.array([2, 3, 5, 7, 11, 13, 17])
    labels = np.where(np.isin(np.arange(N_ITEMS), items), labels, -1000)  # any other one would be an error
    run(problem=(activations, labels), items=items)
    for epoch in range(QUICK.epochs):
        assert sorted(activations.asked[epoch][0]) == items.tolist()


# --- batch normalisation ----------------------------------------------------------------------------------------------


def get_statistics(network, part):
    return [network.get_buffer(f"{part}.{name}").clone() for name in ("running_mean", "running_var")]


def test_running_statistics_stay_to_the_last_bit_unless_asked_otherwise():
    import torch

    network = make_network()
    kept = {part: get_statistics(network, part) for part in ("suffix.1", "standardise")}
    found, _ = run(network=network)
    for trained in (network, found):
        for part, statistics in kept.items():
            assert all(map(torch.equal, get_statistics(trained, part), statistics)), part
    assert not torch.equal(found.get_parameter("suffix.1.weight"), torch.ones(6))  # what there is to train is trained


def test_statistics_that_are_trained_are_averaged_but_never_those_of_the_standardisation():
    import torch

    network = make_network()
    normal, standard = (get_statistics(network, part) for part in ("suffix.1", "standardise"))
    seen = []
    recipe = Recipe(learning_rate=0.01, epochs=3, batch_items=16, train_norms=True, average=2.0)
    with watch_steps(lambda _: seen.append(get_statistics(network, "suffix.1"))):
        found, _ = run(recipe, network)
    for trained in (network, found):
        assert all(map(torch.equal, get_statistics(trained, "standardise"), standard))
        assert not any(map(torch.equal, get_statistics(trained, "suffix.1"), normal))
    for place, average in enumerate(get_statistics(found, "suffix.1")):
        expected = average_by_hand([statistics[place].numpy() for statistics in seen], window=2.0 * 4)
        np.testing.assert_allclose(average.numpy(), expected, rtol=1e-5)


# --- learning rates ---------------------------------------------------------------------------------------------------


def test_rates_fall_from_the_head_down_and_nothing_of_one_dimension_is_decayed(tiny_file):
    from torch import nn

    stages = find_stages(load_backbone(read_sidecar(tiny_file, "tiny")))
    head = LinearHead(np.zeros(256), np.ones(256), np.zeros((2, 256)), np.zeros(2))
    classifier = make_classifier(stages.suffix("blocks.3"), head)
    recipe = Recipe(learning_rate=0.01, decay=0.5, head_rate=3.0, weight_decay=0.3, rated_size=0.0)
    optimiser = make_optimiser(classifier, recipe, BLOCKS)
    depths = {"linear": 0.03, "bn2": 0.01, "conv_head": 0.01, "blocks.4": 0.005, "blocks.3": 0.0025}
    settings_of = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimiser.param_groups
        for parameter in group["params"]
    }
    checked = set()
    for block, rate in depths.items():
        owner = classifier if block == "linear" else classifier.get_submodule("suffix")
        for parameter in owner.get_submodule(block).parameters():
            assert settings_of[id(parameter)] == (pytest.approx(rate), 0.3 if parameter.ndim > 1 else 0.0), block
            checked.add(id(parameter))
    assert checked == {*map(id, classifier.parameters())}
    assert len(list_parameters(optimiser)) == len(checked)
    rates = [group["lr"] for group in optimiser.param_groups]
    assert rates == sorted(rates, reverse=True) == [group["rate"] for group in optimiser.param_groups]
    assert isinstance(
        classifier.get_submodule("suffix.bn2"), nn.BatchNorm2d
    )  # decayed by nothing, though it has weights


def test_rates_of_weights_follow_their_size_up_to_a_limit():
    """Root mean squares of 0.02, 0.08 and 1 beside a rated size of 0.04; a bias and the head have the plain rate."""
    import torch
    from torch import nn

    suffix = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    sizes = (0.02, 0.08, 1.0)
    with torch.no_grad():
        for layer, size in zip(suffix, sizes, strict=True):
            layer.weight.copy_(size * torch.tensor([1.0, -1.0]).repeat(8).reshape(4, 4))
    classifier = make_classifier(suffix, LinearHead(np.zeros(4), np.ones(4), np.full((2, 4), 9.0), np.zeros(2)))
    recipe = Recipe(learning_rate=0.01, decay=1.0, head_rate=1.0, rated_size=0.04)
    rates = {id(group["params"][0]): group["rate"] for group in make_optimiser(classifier, recipe).param_groups}
    found = [[rates[id(layer.weight)], rates[id(layer.bias)]] for layer in suffix]
    np.testing.assert_allclose(found, [[0.005, 0.01], [0.02, 0.01], [0.04, 0.01]], rtol=1e-6)
    assert rates[id(classifier.get_parameter("linear.weight"))] == 0.01


def test_a_suffix_without_weights_trains_the_head_alone():
    from torch import nn

    head = LinearHead(np.zeros(8), np.ones(8), np.zeros((3, 8)), np.zeros(3))
    classifier = make_classifier(nn.ReLU(), head)
    recipe = dataclasses.replace(QUICK, head_rate=0.5)
    assert [group["lr"] for group in make_optimiser(classifier, recipe).param_groups] == [0.005, 0.005]
    _, epochs = run(recipe, network=classifier)
    assert epochs[0].training_loss > epochs[-1].training_loss
    assert epochs[0].training_loss < math.log(3) + 0.05


def test_a_search_ends_some_epochs_after_its_best():
    losses = iter([0.9, 0.7, 0.8, 0.75, 0.71, 0.1])
    recipe = dataclasses.replace(QUICK, epochs=6, patience=3)
    _, epochs = run(recipe, validate=lambda _: next(losses))
    assert [epoch.validation_loss for epoch in epochs] == [0.9, 0.7, 0.8, 0.75, 0.71]


@settings(deadline=None, max_examples=40)
@given(epochs=st.integers(1, 8), n_steps=st.integers(1, 9), share=st.floats(0, 0.9))
def test_the_schedule_rises_evenly_and_descends_as_torchs_cosine(epochs, n_steps, share):
    import torch
    from torch.optim.lr_scheduler import CosineAnnealingLR

    total = epochs * n_steps
    warmup = max(1, round(share * total))
    factor = make_schedule(Recipe(epochs=epochs, warmup=share), n_steps)
    np.testing.assert_allclose([factor(step) for step in range(warmup)], np.arange(1, warmup + 1) / warmup)
    if total > warmup:
        optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        referee = CosineAnnealingLR(optimiser, T_max=total - warmup)
        for step in range(warmup, total):
            assert factor(step) == pytest.approx(referee.get_last_lr()[0], abs=1e-9)
            optimiser.step()
            referee.step()
        assert factor(total) == pytest.approx(0, abs=1e-12)


def test_the_schedule_by_its_closed_form():
    factor = make_schedule(Recipe(epochs=10, warmup=0.2), 5)
    assert factor(0) == pytest.approx(0.1)
    assert factor(9) == factor(10) == 1.0
    assert factor(30) == pytest.approx(0.5)
    assert factor(49) == pytest.approx(0.5 * (1 + math.cos(math.pi * 39 / 40)))
    assert factor(60) == 0.0


def test_steps_are_taken_at_the_rates_of_the_schedule():
    rates = []
    recipe = Recipe(learning_rate=0.01, epochs=4, batch_items=16, decay=0.5, head_rate=0.3, warmup=0.25, rated_size=0.0)
    with watch_steps(lambda optimiser: rates.append([group["lr"] for group in optimiser.param_groups]), before=True):
        run(recipe, blocks=("1", "0"))
    factors = [0.25, 0.5, 0.75, 1.0, *(0.5 * (1 + math.cos(math.pi * step / 12)) for step in range(12))]
    expected = np.outer(factors, [0.003, 0.003, 0.01, 0.01, 0.005, 0.005])  # head, normalisation, hidden layer
    np.testing.assert_allclose(rates, expected)


def test_what_needs_no_gradient_has_no_rate():
    network = make_network()
    network.get_parameter("suffix.0.weight").requires_grad_(False)
    for auto_rgn in (False, True):
        optimiser = make_optimiser(network, dataclasses.replace(QUICK, auto_rgn=auto_rgn), ("1", "0"))
        trained = {id(parameter) for parameter in list_parameters(optimiser)}
        assert trained == {id(parameter) for parameter in network.parameters() if parameter.requires_grad}


# --- rates by relative gradient ---------------------------------------------------------------------------------------


def make_two_parameters(bias=(0.5, -0.25)):
    """A network of two parameters: slopes of one feature for two classes, and their offsets."""
    from torch import nn

    head = LinearHead(np.zeros(1), np.ones(1), np.array([[0.8], [-0.6]]), np.array(bias))
    return make_classifier(nn.Identity(), head)


def relate_by_hand(rows, labels, slopes, offsets):
    """|g| / |w| of both parameters: the gradient of the mean log-loss is the mean of (p - y) x, and of (p - y)."""
    logits = rows @ slopes.T + offsets
    errors = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) - np.eye(2)[labels]
    gradients = errors.T @ rows / len(rows), errors.mean(axis=0)
    return [np.linalg.norm(g) / np.linalg.norm(w) for g, w in zip(gradients, (slopes, offsets), strict=True)]


def weigh(network, rows, labels, parts, recipe):
    import torch

    optimiser = make_optimiser(network, recipe)
    objective = make_objective(
        labels, np.arange(len(labels)), 2, balance=recipe.balance, label_smoothing=0.0, focal=recipe.focal
    )
    batches = [(torch.from_numpy(rows[part].astype(np.float32)), part) for part in parts]
    weight_rates(network, optimiser, batches, objective, recipe)
    assert all(parameter.grad is None for parameter in network.parameters())
    return [group["rate"] for group in optimiser.param_groups]


@pytest.mark.parametrize("parts", [[range(11)], [range(3), range(3, 11)], [range(7, 11), range(7)]])
def test_rates_follow_the_relative_gradient_by_hand(parts):
    """However the items are parted into batches, of different sizes."""
    draw = np.random.default_rng(0)
    rows, labels = draw.normal(size=(11, 1)), np.arange(11) % 2
    network = make_two_parameters()
    recipe = Recipe(learning_rate=0.02, auto_rgn=True, head_rate=0.3)
    found = weigh(network, rows, labels, [np.array(part) for part in parts], recipe)
    ratios = relate_by_hand(rows, labels, np.array([[0.8], [-0.6]]), np.array([0.5, -0.25]))
    np.testing.assert_allclose(found, 0.02 * np.array(ratios) / max(ratios), rtol=1e-5)
    assert max(found) == pytest.approx(0.02)
    assert min(found) < 0.9 * 0.02


def test_a_parameter_that_is_all_zero_keeps_the_full_rate_and_counts_for_nothing():
    rows, labels = np.random.default_rng(0).normal(size=(11, 1)), np.arange(11) % 2
    recipe = Recipe(learning_rate=0.02, auto_rgn=True)
    assert weigh(make_two_parameters((0.0, 0.0)), rows, labels, [np.arange(11)], recipe) == pytest.approx([0.02] * 2)


def test_without_any_gradient_all_rates_are_full():
    rows, labels = np.zeros((4, 1)), np.arange(4) % 2
    recipe = Recipe(learning_rate=0.02, auto_rgn=True)
    network = make_two_parameters((0.0, 0.0))  # equal classes at equal chances: nothing to change
    assert weigh(network, rows, labels, [np.arange(4)], recipe) == pytest.approx([0.02] * 2)


def test_training_by_relative_gradients_weights_the_rates_of_every_epoch():
    problem, network = make_problem(n_views=0), make_network()
    rates = []
    recipe = dataclasses.replace(QUICK, auto_rgn=True, decay=0.1, head_rate=0.1)
    with watch_steps(lambda optimiser: rates.append([group["lr"] for group in optimiser.param_groups]), before=True):
        found, epochs = run(recipe, network, problem, blocks=("1", "0"))
    factor = make_schedule(recipe, 4)
    full = np.array(rates) / [[factor(step)] for step in range(16)]
    np.testing.assert_allclose(full.max(axis=1), 0.01, rtol=1e-6)  # neither decay nor the head's share have a say
    for epoch in range(4):
        np.testing.assert_allclose(full[4 * epoch : 4 * epoch + 4], full[[4 * epoch]].repeat(4, 0), rtol=1e-6)
    assert not np.allclose(full[0], full[4], rtol=1e-3)
    assert full.min() < 0.005
    again, same = run(recipe, make_network(), make_problem(n_views=0), blocks=("1", "0"))
    assert is_same(found, again)
    assert epochs == same


def test_the_first_batches_of_an_epoch_say_how_large_gradients_are():
    activations, labels = make_problem(n_views=1)
    run(dataclasses.replace(QUICK, epochs=1, batch_items=6, auto_rgn=True), problem=(activations, labels))
    asked = [items.tolist() for items, _ in activations.asked]
    assert len(asked) == 10 + RGN_BATCHES
    assert asked[:RGN_BATCHES] == asked[RGN_BATCHES : 2 * RGN_BATCHES]


# --- classes that are rare, items that are easy, and half the digits --------------------------------------------------


@pytest.mark.parametrize(
    ("balance", "focal", "mixup"),
    [("weights", 0.0, 0.0), ("weights", 2.0, 0.0), ("none", 2.0, 0.0), ("weights", 2.0, 0.5)],
)
def test_the_objective_of_the_recipe_is_what_is_minimised(balance, focal, mixup):
    import torch

    activations, labels = make_problem(n_views=0)
    labels = np.where(np.arange(N_ITEMS) < 40, 0, labels)  # the first class is common
    recipe = Recipe(
        epochs=1, batch_items=N_ITEMS, label_smoothing=0.1, balance=balance, focal=focal, mixup=mixup, seed=4
    )
    _, (epoch,) = run(recipe, problem=(activations, labels))
    objective = make_objective(labels, np.arange(N_ITEMS), 3, balance=balance, label_smoothing=0.1, focal=focal)
    draw = np.random.Generator(np.random.PCG64(4))
    items = draw.permutation(N_ITEMS)
    share, partners = (draw.beta(mixup, mixup), items[draw.permutation(N_ITEMS)]) if mixup else (1.0, items)
    rows = activations.rows[0].astype(np.float64)
    logits = torch.from_numpy(compute_logits(make_network(), share * rows[items] + (1 - share) * rows[partners]))
    expected = share * objective(logits, items) + (1 - share) * objective(logits, partners)
    assert epoch.training_loss == pytest.approx(float(expected), rel=1e-4)


def test_balanced_sampling_shows_the_rare_class_as_often_and_repeats_itself():
    def train_once():
        activations, labels = make_problem()
        labels = np.where(np.arange(N_ITEMS) % 10 == 0, 1, 0)
        recipe = dataclasses.replace(QUICK, epochs=20, balance="sampling")
        found, epochs = run(recipe, problem=(activations, labels))
        seen = np.concatenate([labels[items] for items, _ in activations.asked])
        return found, epochs, seen

    (one, epochs, seen), (other, same, _) = train_once(), train_once()
    assert seen.mean() == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(len(seen)))
    assert is_same(one, other)
    assert epochs == same


def test_under_bf16_it_learns_as_well_and_weights_stay_float32():
    import torch

    recipe = dataclasses.replace(QUICK, learning_rate=0.03, epochs=8, head_rate=1.0)
    (full, plain), (half, short) = run(recipe), run(dataclasses.replace(recipe, bf16=True))
    assert {tensor.dtype for tensor in half.state_dict().values()} == {torch.float32, torch.int64}
    assert not is_same(full, half)
    np.testing.assert_allclose(
        [epoch.training_loss for epoch in short], [epoch.training_loss for epoch in plain], rtol=0.02
    )
    about = make_problem()[0], np.arange(N_ITEMS)
    np.testing.assert_allclose(predict_logits(half, *about), predict_logits(full, *about), atol=0.05)
    assert short[-1].training_loss < 0.8 * short[0].training_loss


def test_on_a_gpu_it_comes_to_the_same():
    import torch

    if not torch.cuda.is_available():
        pytest.skip("there is no GPU that torch can use")
    (here, plain), (there, epochs) = run(), run(dataclasses.replace(QUICK, device="cuda"))
    assert {parameter.device.type for parameter in there.parameters()} == {"cuda"}
    np.testing.assert_allclose(
        [epoch.training_loss for epoch in epochs], [epoch.training_loss for epoch in plain], rtol=1e-3
    )
    about = make_problem()[0], np.arange(N_ITEMS)
    np.testing.assert_allclose(predict_logits(there, *about), predict_logits(here, *about), atol=0.02)


def test_classes_are_counted_by_the_last_layer():
    assert count_classes(make_network()) == N_CLASSES
    assert count_classes(make_two_parameters()) == 2


# --- how far, and which weights ---------------------------------------------------------------------------------------


def test_no_epochs_leave_the_classifier_as_it_is():
    network = make_network()
    found, epochs = run(Recipe(stop=0), network, validate=lambda _: pytest.fail("nothing to validate"))
    assert epochs == []
    assert is_same(found, make_network())
    assert is_same(network, make_network())


def test_a_stop_runs_so_many_epochs_of_the_longer_schedule():
    states = []

    def note(module):
        states.append(copy_state(module))
        return 1.0 / len(states)

    whole = Recipe(learning_rate=0.01, epochs=6, batch_items=16, mixup=0.3)
    _, epochs = run(whole, validate=note)
    found, stopped = run(Recipe(learning_rate=0.01, epochs=6, batch_items=16, mixup=0.3, stop=3))
    assert [epoch.training_loss for epoch in stopped] == [epoch.training_loss for epoch in epochs[:3]]
    assert is_same(found, states[2])
    shorter, _ = run(Recipe(learning_rate=0.01, epochs=3, batch_items=16, mixup=0.3))
    assert not is_same(shorter, found)


def average_by_hand(values, window):
    """Exponential average that starts at the first value, each later one with the share 1 / (1 + window)."""
    share, found = 1 / (1 + window), values[0].astype(np.float64)
    for value in values[1:]:
        found = (1 - share) * found + share * value
    return found


@pytest.mark.parametrize("epochs_back", [0.0, 0.5, 2.0])
def test_weights_are_averaged_over_the_last_epochs(epochs_back):
    network, steps = make_network(), []
    with watch_steps(lambda _: steps.append({n: p.detach().clone().numpy() for n, p in network.named_parameters()})):
        found, _ = run(Recipe(learning_rate=0.03, epochs=3, batch_items=16, average=epochs_back), network)
    assert len(steps) == 12
    for name, parameter in found.named_parameters():
        expected = average_by_hand([step[name] for step in steps], window=epochs_back * 4)
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-4, atol=1e-6)
    assert is_same(found, network) is (epochs_back == 0)


@pytest.mark.parametrize(
    ("script", "best"), [((3, 1, 2, 4), 1), ((4, 3, 2, 1), 3), ((1, 2, 3, 4), 0), ((2, 1, 1, 2), 1)]
)
def test_with_validation_the_weights_of_the_best_epoch_are_returned(script, best):
    states, modes = [], []

    def validate(module):
        states.append(copy_state(module))
        modes.append(any(part.training for part in module.modules()))
        return float(script[len(states) - 1])

    found, epochs = run(network=make_network(dropout=0.2).train(), validate=validate)
    assert [epoch.validation_loss for epoch in epochs] == list(script)
    assert is_same(found, states[best])
    assert not any(is_same(found, state) for number, state in enumerate(states) if number != best)
    assert not any(modes)
    assert not any(part.training for part in found.modules())


def test_validation_does_not_change_what_is_trained():
    activations, labels = make_problem()
    seen = []

    def validate(module):
        seen.append(cross_entropy(predict_logits(module, activations, np.arange(N_ITEMS)), labels))
        return -len(seen)  # the last epoch is the best

    alone, epochs = run(problem=(activations, labels))
    watched, watched_epochs = run(problem=(activations, labels), validate=validate)
    assert is_same(alone, watched)
    assert [epoch.training_loss for epoch in epochs] == [epoch.training_loss for epoch in watched_epochs]
    assert all(epoch.validation_loss is None for epoch in epochs)
    assert seen[-1] < seen[0]


# --- gradients and losses ---------------------------------------------------------------------------------------------


def test_the_gradient_is_clipped_by_its_norm():
    import torch

    def measure(clip_norm):
        norms = []

        def note(optimiser):
            norms.append(float(torch.cat([p.grad.flatten() for p in list_parameters(optimiser)]).double().norm()))

        with watch_steps(note, before=True):
            run(Recipe(learning_rate=1e-6, epochs=1, batch_items=16, mixup=0.0, clip_norm=clip_norm))
        return np.array(norms)

    free = measure(1e9)
    limit = float(np.median(free))
    np.testing.assert_allclose(measure(limit), np.minimum(free, limit), rtol=1e-3)
    assert free.min() < limit < free.max()


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_an_activation_that_is_not_finite_is_an_error_that_names_the_rung(value):
    activations, labels = make_problem()
    activations.rows[:, 7, 3] = value
    with pytest.raises(TrainingError, match=rf"^{RUNG}: the training loss is nan in epoch 1 at learning rate 0\.01"):
        run(problem=(activations, labels), validate=lambda _: pytest.fail("validated"))


def test_a_learning_rate_beyond_reason_is_an_error_that_names_it():
    with pytest.raises(TrainingError, match=rf"{RUNG}: the training loss is nan .* learning rate 1e\+30"):
        run(Recipe(learning_rate=1e30, batch_items=16))


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_a_validation_loss_that_is_not_finite_is_an_error_that_names_the_rung(loss):
    script = iter([1.0, loss])
    with pytest.raises(TrainingError, match=rf"{RUNG}: the validation loss is {loss} in epoch 2"):
        run(validate=lambda _: next(script))


def test_a_gradient_that_is_not_finite_is_an_error_even_at_the_last_step():
    from torch import nn

    class Root(nn.Module):
        """Finite at zero, where its slope is not."""

        def forward(self, rows):
            return rows.sqrt()

    suffix = nn.Sequential(OrderedDict(hidden=nn.Linear(8, 6), root=Root()))
    nn.init.zeros_(suffix.hidden.weight)
    nn.init.zeros_(suffix.hidden.bias)
    network = make_classifier(
        suffix, LinearHead(np.zeros(6), np.ones(6), np.ones((3, 6)) * [[1], [2], [3]], np.zeros(3))
    )
    with pytest.raises(TrainingError, match=RUNG):
        run(Recipe(epochs=1, batch_items=N_ITEMS), network)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_a_plain_batch_by_hand(smoothing):
    activations, labels = make_problem(n_views=1)
    recipe = Recipe(epochs=1, batch_items=N_ITEMS, mixup=0.0, label_smoothing=smoothing)
    _, (epoch,) = run(recipe, problem=(activations, labels))
    expected = cross_entropy(compute_logits(make_network(), activations.rows[1]), labels, smoothing)
    assert epoch.training_loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_mixup_gives_the_loss_of_the_mixed_pairs_by_hand(seed, smoothing):
    activations, labels = make_problem(n_views=0)
    recipe = Recipe(epochs=1, batch_items=N_ITEMS, mixup=0.7, label_smoothing=smoothing, seed=seed)
    _, (epoch,) = run(recipe, problem=(activations, labels))
    draw = np.random.Generator(np.random.PCG64(seed))  # what is drawn, in this order: items, share, partners
    items = draw.permutation(N_ITEMS)
    share, partners = draw.beta(0.7, 0.7), items[draw.permutation(N_ITEMS)]
    assert 0.01 < share < 0.99
    rows = activations.rows[0].astype(np.float64)
    logits = compute_logits(make_network(), share * rows[items] + (1 - share) * rows[partners])
    pairs = (cross_entropy(logits, labels[order], smoothing) for order in (items, partners))
    expected = np.dot([share, 1 - share], list(pairs))
    assert epoch.training_loss == pytest.approx(expected, rel=1e-5)


# --- chance -----------------------------------------------------------------------------------------------------------


def test_dropout_draws_from_the_seed_and_leaves_torchs_and_numpys_generators_alone():
    import torch

    def lose(seed, mess):
        torch.manual_seed(mess)
        np.random.seed(mess)  # noqa: NPY002 - the global one is what is watched
        states = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
        _, (epoch,) = run(Recipe(epochs=1, batch_items=N_ITEMS, mixup=0.0, seed=seed), make_network(dropout=0.5))
        assert torch.equal(torch.get_rng_state(), states[0])
        assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
        return epoch.training_loss

    with torch.random.fork_rng(devices=[]):
        assert lose(1, mess=10) == lose(1, mess=11)
        assert abs(lose(2, mess=10) - lose(1, mess=10)) > 0.01  # one batch of all: the order alone changes less


def test_the_generator_is_restored_after_an_error():
    import torch

    before = torch.get_rng_state()
    with pytest.raises(TrainingError):
        run(Recipe(learning_rate=1e30, batch_items=16), make_network(dropout=0.5))
    assert torch.equal(torch.get_rng_state(), before)


def test_each_epoch_sees_every_item_once_in_even_batches_and_a_drawn_view():
    activations, labels = make_problem(n_views=3)
    run(Recipe(epochs=10, batch_items=17), problem=(activations, labels))
    assert [len(items) for items, _ in activations.asked] == [15] * 40
    views = np.concatenate([views for _, views in activations.asked])
    counts = np.bincount(views, minlength=4)
    assert counts[0] == 0
    assert len(counts) == 4
    assert (np.abs(counts[1:] - 200) < 5 * math.sqrt(600 * 2 / 9)).all()
    orders = [np.concatenate([items for items, _ in activations.asked[4 * n : 4 * n + 4]]) for n in range(10)]
    assert all(sorted(order) == list(range(N_ITEMS)) for order in orders)
    assert len({tuple(order) for order in orders}) == 10


def test_where_there_are_no_views_the_clean_one_is_taken():
    activations, labels = make_problem(n_views=0)
    run(problem=(activations, labels))
    assert {int(view) for _, views in activations.asked for view in views} == {0}


# --- prediction -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_items", [1, 5, 64, 65, 200])
def test_logits_are_those_of_the_clean_view_in_evaluation_mode_and_in_order(n_items):
    import torch

    activations, _ = make_problem()
    network = make_network(dropout=0.5).train()
    before = copy_state(network)
    items = np.random.default_rng(0).integers(0, N_ITEMS, n_items)
    found = predict_logits(network, activations, items)
    assert found.shape == (n_items, N_CLASSES)
    assert found.dtype == np.float64
    state = {name: tensor.double().numpy() for name, tensor in before.items()}
    hidden = activations.rows[0][items] @ state["suffix.0.weight"].T + state["suffix.0.bias"]
    features = np.maximum(hidden / math.sqrt(1 + 1e-5), 0)  # the running statistics of a new normalisation
    scale = np.sqrt(state["standardise.running_var"])
    standardised = (features - state["standardise.running_mean"]) / scale
    np.testing.assert_allclose(found, standardised @ state["linear.weight"].T + state["linear.bias"], atol=1e-5)
    assert {int(view) for _, views in activations.asked for view in views} == {0}
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_images_of_channels_are_laid_out_for_convolutions_without_changing_a_value():
    import torch

    images, rows = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5), torch.zeros(2, 3)
    found = lay_out(images)
    assert torch.equal(found, images)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert lay_out(rows) is rows
