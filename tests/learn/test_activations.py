"""Activations: from the cache or computed for every batch, what the prefix gives for that view of that item."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from thawline.data.readers import content_digest, decode
from thawline.data.transforms import prepare
from thawline.errors import DataError
from thawline.learn import activations as activations_module
from thawline.learn import features as features_module
from thawline.learn.activations import FRESH_VIEWS, FreshActivations, fill_activations, open_fresh
from thawline.learn.augment import CLEAN, View, augment
from thawline.learn.loading import load_backbone
from thawline.learn.stages import find_stages, list_lines
from thawline.learn.weight_files import read_sidecar
from thawline.types import Augmentation, Contract, Hardware, SilentListener

pytestmark = pytest.mark.slow

HARDWARE = Hardware(cores=2, memory_mib=1000)
TURNS = Augmentation(15.0, 0.1, (0.9, 1.1), flip_sides=True, tone=0.2)
LINES = ("blocks.4", "blocks.2")
N_VIEWS, SEED = 2, 7


@pytest.fixture(scope="module")
def weights(tiny_file):
    return read_sidecar(tiny_file, "tiny")


@pytest.fixture(scope="module")
def contract(weights):
    about = weights.architecture
    return Contract(about.size_px, about.mean, about.std, about.interpolation, "squash")


@pytest.fixture(scope="module")
def stages(weights):
    return find_stages(load_backbone(weights))


@pytest.fixture(scope="module")
def lines(stages):
    known = {line.name: line for line in list_lines(stages, 64)}
    return tuple(known[name] for name in LINES)


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """Six image files, the last with the bytes of the second, and their digests."""
    draw, folder = np.random.default_rng(0), tmp_path_factory.mktemp("items")
    paths = [folder / f"{number}.png" for number in range(6)]
    for path in paths[:5]:
        coarse = draw.integers(0, 256, (6, 7, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((70, 60)).save(path)
    paths[5].write_bytes(paths[1].read_bytes())
    return paths, [content_digest(path.read_bytes()) for path in paths]


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """A cache for this file, so that what one test has filled is there for the next."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("THAWLINE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def fill(items, weights, contract, lines):
    def fill(augmentation=TURNS, n_views=N_VIEWS, seed=SEED, lines=lines, contract=contract, contents=items[0]):
        about = contents, items[1], weights, contract, HARDWARE, lines, augmentation, n_views, seed, SilentListener()
        return fill_activations(*about)

    return fill


@pytest.fixture
def fresh(items, weights, contract, lines):
    def fresh(line=lines[0], augmentation=TURNS, seed=SEED, contents=items[0]):
        return open_fresh(contents, items[1], weights, contract, HARDWARE, line, augmentation, seed)

    return fresh


def take(source, items, views):
    return source.take(np.asarray(items), np.asarray(views)).numpy()


def expect(stages, items, contract, line, number, augmentation=TURNS, seed=SEED):
    """The referee: the prefix in torch, on each view prepared by itself."""
    import torch

    view = View(number, seed, augmentation) if number else CLEAN
    inputs = [
        augment(prepare(decode(path.read_bytes()), contract), view, digest) for path, digest in zip(*items, strict=True)
    ]
    images = (torch.from_numpy(np.stack(inputs)).float() / 255 - torch.tensor(contract.mean)) / torch.tensor(
        contract.std
    )
    with torch.no_grad():
        return stages.prefix([line])(images.permute(0, 3, 1, 2))[0].numpy()


def check_close(found, expected):
    """Equal but for the rounding to float16, and that of two engines."""
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, found.astype(np.float16))
    np.testing.assert_allclose(found, expected, rtol=2**-10, atol=1e-4 * np.abs(expected).max())


def list_spaces(found):
    return [space.folder for space in found[LINES[0]].spaces]


# --- from the cache ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(N_VIEWS + 1))
def test_cached_activations_are_those_of_the_prefix_on_that_view(fill, stages, items, contract, lines, number):
    found = fill()
    assert tuple(found) == LINES
    for line in lines:
        expected = expect(stages, items, contract, line.name, number)
        assert expected.shape == (6, *line.shape)
        check_close(take(found[line.name], range(6), [number] * 6), expected)


def test_every_view_of_an_item_is_another(fill):
    found = fill()[LINES[0]]
    assert found.n_views == N_VIEWS
    views = [take(found, range(6), [number] * 6) for number in range(N_VIEWS + 1)]
    for first, second in [(0, 1), (0, 2), (1, 2)]:
        assert (np.abs(views[first] - views[second]).reshape(6, -1).max(1) > 0.01).all()


def test_without_augmented_views_the_clean_one_is_there(fill, stages, items, contract):
    found = fill(n_views=0)[LINES[1]]
    assert found.n_views == 0
    check_close(take(found, range(6), [0] * 6), expect(stages, items, contract, LINES[1], 0))


def test_items_come_in_the_order_asked_for_each_in_its_own_view_and_may_repeat(fill):
    found = fill()[LINES[1]]
    each = np.stack([take(found, range(6), [number] * 6) for number in range(N_VIEWS + 1)])
    chosen, views = np.array([4, 0, 4, 4, 2, 0, 5]), np.array([2, 0, 1, 2, 0, 0, 1])
    np.testing.assert_array_equal(take(found, chosen, views), each[views, chosen])


def test_the_same_bytes_are_stored_once(fill, items):
    assert items[1][1] == items[1][5]
    found = fill()
    assert [len(space) for space in found[LINES[0]].spaces] == [5, 5, 5]
    for folder in list_spaces(found):
        assert sum(len(np.load(shard)) for shard in folder.glob("*.npy")) == 5
    rows = take(found[LINES[0]], [1, 5], [2, 2])
    np.testing.assert_array_equal(rows[0], rows[1])


def test_a_second_fill_computes_and_decodes_nothing(fill, monkeypatch):
    first = fill()
    for name in ("open_engine", "decode", "read_content"):
        monkeypatch.setattr(features_module, name, lambda *about, name=name, **options: pytest.fail(f"{name} again"))
    second = fill()
    for name in LINES:
        np.testing.assert_array_equal(take(second[name], range(6), [1] * 6), take(first[name], range(6), [1] * 6))


def test_more_views_are_added_to_those_that_are_there(fill, monkeypatch):
    computed = []
    fill()
    monkeypatch.setattr(features_module, "_compute", lambda inputs, digests, *about: computed.append(len(digests)))
    fill(n_views=N_VIEWS + 1)
    assert computed == [5]


def test_another_seed_augmentation_or_set_of_lines_is_kept_apart(fill, lines, monkeypatch):
    monkeypatch.setattr(
        features_module, "_compute", lambda *about: None
    )  # which spaces are asked for, not what is in them
    usual, seeded = list_spaces(fill()), list_spaces(fill(seed=SEED + 1))
    stronger = list_spaces(fill(augmentation=dataclasses.replace(TURNS, turn_deg=30.0)))
    assert len(set(usual)) == N_VIEWS + 1
    assert usual[0] == seeded[0] == stronger[0]  # the clean view is drawn from nothing
    assert len({*usual[1:], *seeded[1:], *stronger[1:]}) == 3 * N_VIEWS
    alone, turned = list_spaces(fill(lines=lines[:1])), list_spaces(fill(lines=lines[::-1]))
    assert len({*usual, *alone, *turned}) == 3 * (N_VIEWS + 1)


def test_lines_keep_their_columns_whatever_their_order(fill, lines):
    one, other = fill(), fill(lines=lines[::-1])
    for name in LINES:
        check_close(take(other[name], range(6), [1] * 6), take(one[name], range(6), [1] * 6))


def test_activations_are_kept_in_half_precision_whatever_features_are(fill, contract):
    wide = fill(contract=dataclasses.replace(contract, feature_dtype="float32"))
    assert list_spaces(wide) == list_spaces(fill())
    assert {np.load(shard).dtype for shard in list_spaces(wide)[0].glob("*.npy")} == {np.dtype(np.float16)}


# --- fresh for every batch --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1])
def test_fresh_activations_are_the_cached_ones_of_the_same_view(fill, fresh, lines, place):
    cached, opened = fill()[LINES[place]], fresh(lines[place])
    chosen, views = [4, 0, 4, 2, 5, 1, 3, 3, 0, 2, 1], [2, 0, 1, 0, 0, 1, 1, 2, 1, 2, 2]
    check_close(take(opened, chosen, views), take(cached, chosen, views))


def test_fresh_views_are_those_of_the_prefix_and_hardly_ever_the_same(fresh, stages, items, contract):
    opened = fresh()
    assert opened.n_views == FRESH_VIEWS
    found = take(opened, range(6), [0] * 6)
    check_close(found, expect(stages, items, contract, LINES[0], 0))
    late = take(opened, range(6), [FRESH_VIEWS] * 6)
    check_close(late, expect(stages, items, contract, LINES[0], FRESH_VIEWS))
    assert np.abs(late - found).max() > 0.01


def test_a_fresh_view_follows_the_seed(fresh):
    same, again, other = (take(fresh(seed=seed), [0, 1], [1, 1]) for seed in (SEED, SEED, SEED + 1))
    np.testing.assert_array_equal(same, again)
    assert np.abs(same - other).max() > 0.01


def test_arrays_are_taken_like_files(fill, fresh, items, lines):
    arrays = [decode(path.read_bytes()) for path in items[0]]
    check_close(take(fresh(contents=arrays), range(6), [1] * 6), take(fill()[LINES[0]], range(6), [1] * 6))


def test_nothing_fresh_is_kept(fresh, monkeypatch):
    monkeypatch.setattr(activations_module, "fill_space", lambda *about: pytest.fail("kept"))
    monkeypatch.setattr(features_module, "open_space", lambda *about: pytest.fail("kept"))
    assert take(fresh(), [0], [1]).shape[0] == 1


def test_an_item_that_has_become_unreadable_is_named(fresh, items, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(items[0][2].read_bytes()[:100])
    opened = fresh(contents=[*items[0][:2], broken, *items[0][3:]])
    with pytest.raises(DataError, match=r"broken\.png"):
        take(opened, [0, 2, 1], [0, 1, 0])


def test_what_does_not_fit_half_precision_is_passed_on_as_infinite_without_a_warning(items, contract):
    class Loud:
        batch_items = 4

        def run(self, batches):
            for batch in batches:
                yield np.full((len(batch), 2), 1e6, np.float32)

    loud = FreshActivations(items[0], tuple(items[1]), Loud(), contract, TURNS, SEED, (2,), threads=1)
    assert np.isposinf(take(loud, [0, 1], [0, 1])).all()
