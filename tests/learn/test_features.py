"""Features: computed once for each content and each way of making them, in order, and kept whatever happens."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs

from helpers import Notes
from thawline.data.readers import content_digest, decode
from thawline.data.transforms import prepare
from thawline.errors import DataError, OutputError
from thawline.learn import features as features_module
from thawline.learn.augment import View, augment
from thawline.learn.backbones import BACKBONES, find_row
from thawline.learn.features import extract, fill_space, open_space, prepare_all
from thawline.learn.weight_files import Weights
from thawline.learn.weights import find_weights
from thawline.types import Augmentation, Contract, Hardware, SilentListener

WEIGHTS = Weights(BACKBONES[0].architecture, Path("/nowhere/weights.pth"), "ab" * 32, "file", "CC0", "nothing")
CONTRACT = Contract(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", "squash")
HARDWARE = Hardware(cores=2, memory_mib=1000)
FLIPS = Augmentation(flip_sides=True, flip_vertically=True)
ROW_BYTES = 5 * 4  # of the fake engine's features as float32


class FakeEngine:
    """Means and corners of the input as features; counts what it computes."""

    batch_items = 4
    n_computed = 0
    scale = 1.0

    def run(self, batches):
        for batch in batches:
            assert batch.shape[1:] == (8, 8, 3)
            FakeEngine.n_computed += len(batch)
            pixels = batch.astype(np.float32).reshape(len(batch), -1)
            yield np.concatenate([pixels.mean(axis=1, keepdims=True) / 3, pixels[:, :4]], axis=1) * self.scale


@pytest.fixture
def fake_engine(tmp_path, monkeypatch):
    """A cache of its own and an engine that costs nothing."""
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(FakeEngine, "n_computed", 0)
    monkeypatch.setattr(features_module, "open_engine", lambda *about: FakeEngine())
    monkeypatch.setattr(features_module, "name_engine", lambda hardware: f"fake on {hardware.cuda or 'cpu'}")
    return FakeEngine


@pytest.fixture
def items(tmp_path):
    """Ten image files and their content digests."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{n}.png" for n in range(10)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return paths, [content_digest(path.read_bytes()) for path in paths]


def run_extract(paths, digests, weights=WEIGHTS, contract=CONTRACT, hardware=HARDWARE, listener=None):
    return extract(paths, digests, weights, contract, hardware, listener or SilentListener())


def expect(paths, contract=CONTRACT):
    """Features worked out item by item, without threads, batches or cache; rounded as they are at rest."""
    inputs = [prepare(decode(path.read_bytes()), contract) for path in paths]
    return np.concatenate(list(FakeEngine().run([np.stack([item]) for item in inputs]))).astype(np.float16)


def test_features_that_are_all_zero_are_said_and_others_are_not(fake_engine, items, monkeypatch):
    told = Notes()
    run_extract(*items, listener=told)
    assert told.warnings == []
    monkeypatch.setattr(fake_engine, "scale", 0.0)
    run_extract(*items, contract=dataclasses.replace(CONTRACT, interpolation="bicubic"), listener=told)
    (warning,) = told.warnings
    assert "of all 10 items are zero: efficientnet_lite0 keeps nothing of images of 8 px, and nothing" in warning


class Interrupt(SilentListener):
    """Interrupts once some items are done."""

    def __init__(self, after):
        self.after = after

    def advance(self, units=1):
        self.after -= units
        if self.after <= 0:
            raise KeyboardInterrupt


# --- what is computed -------------------------------------------------------------------------------------------------


def test_features_are_in_order_and_rounded_to_float16(items, fake_engine):
    found = run_extract(*items)
    assert found.features.dtype == np.float32
    np.testing.assert_array_equal(found.features, expect(items[0]))
    assert (found.n_computed, found.n_cached) == (10, 0)
    shards = list(open_space(WEIGHTS, CONTRACT, HARDWARE).folder.glob("*.npy"))
    assert {np.load(shard).dtype for shard in shards} == {np.dtype(np.float16)}


def test_a_second_extraction_computes_and_decodes_nothing(items, fake_engine, monkeypatch):
    first = run_extract(*items)
    monkeypatch.setattr(features_module, "open_engine", lambda *about: pytest.fail("computed again"))
    for name in ("decode", "read_content"):
        monkeypatch.setattr(features_module, name, lambda *about, name=name, **options: pytest.fail(f"{name} again"))
    again = run_extract(items[0][::-1], items[1][::-1])
    np.testing.assert_array_equal(again.features, first.features[::-1])
    assert (again.n_computed, again.n_cached) == (0, 10)


def test_only_what_is_missing_is_computed(items, fake_engine):
    paths, digests = items
    run_extract(paths[:4], digests[:4])
    found = run_extract(paths, digests)
    assert (found.n_computed, found.n_cached, fake_engine.n_computed) == (6, 4, 10)
    np.testing.assert_array_equal(found.features, expect(paths))


def test_duplicates_are_computed_once(items, fake_engine):
    paths, digests = items
    order = [3, 1, 3, 3, 0, 1]
    found = run_extract([paths[n] for n in order], [digests[n] for n in order])
    assert (found.n_computed, found.n_cached, fake_engine.n_computed) == (3, 0, 3)
    np.testing.assert_array_equal(found.features, expect([paths[n] for n in order]))


def test_arrays_are_items_too(fake_engine):
    arrays = [np.random.default_rng(n).integers(0, 256, (8, 8, 3), dtype=np.uint8) for n in range(3)]
    found = run_extract(arrays, [content_digest(array) for array in arrays])
    np.testing.assert_array_equal(found.features[:, 1:4], [array.reshape(-1)[:3] for array in arrays])


def test_no_items_give_no_features(fake_engine):
    found = run_extract([], [])
    assert (len(found.features), found.n_computed, found.n_cached) == (0, 0, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"contract": dataclasses.replace(CONTRACT, aspect="crop")},
        {"contract": dataclasses.replace(CONTRACT, size_px=16)},
        {"contract": dataclasses.replace(CONTRACT, interpolation="bicubic")},
        {"contract": dataclasses.replace(CONTRACT, mean=(0.4, 0.5, 0.5))},
        {"contract": dataclasses.replace(CONTRACT, precision="bf16")},
        {"contract": dataclasses.replace(CONTRACT, wide_range=(0.0, 4095.0))},
        {"weights": dataclasses.replace(WEIGHTS, sha256="cd" * 32)},
        {"weights": dataclasses.replace(WEIGHTS, architecture=BACKBONES[1].architecture)},
        {"weights": dataclasses.replace(WEIGHTS, taps=("conv_head",))},
        {"weights": dataclasses.replace(WEIGHTS, taps=("conv_head", "blocks.6"))},
        {"weights": dataclasses.replace(WEIGHTS, thaw_line="blocks.6")},
        {"contract": dataclasses.replace(CONTRACT, feature_dtype="float32")},
        {"view": View(1, 0, FLIPS)},
        {"hardware": dataclasses.replace(HARDWARE, cuda="a GPU")},
    ],
)
def test_another_way_of_making_features_has_a_space_of_its_own(fake_engine, changes):
    about = {"weights": WEIGHTS, "contract": CONTRACT, "hardware": HARDWARE}
    assert open_space(**about).folder != open_space(**{**about, **changes}).folder


def test_the_place_of_the_weights_and_the_number_of_cores_do_not_matter(fake_engine):
    moved = dataclasses.replace(WEIGHTS, path=Path("/elsewhere.pth"), source="another file")
    assert open_space(moved, CONTRACT, Hardware(64, 9)).folder == open_space(WEIGHTS, CONTRACT, HARDWARE).folder


def test_another_contract_is_computed_anew(items, fake_engine):
    first = run_extract(*items)
    cropped = dataclasses.replace(CONTRACT, aspect="crop")
    second = run_extract(*items, contract=cropped)
    assert second.n_computed == 10
    np.testing.assert_array_equal(second.features, expect(items[0], cropped))
    assert not np.array_equal(first.features, second.features)


def test_a_full_cache_makes_room_for_the_features_in_use(items, fake_engine, monkeypatch):
    run_extract(*items, contract=dataclasses.replace(CONTRACT, aspect="crop"))
    monkeypatch.setenv("THAWLINE_CACHE_MIB", "0")
    found = run_extract(*items)
    np.testing.assert_array_equal(found.features, expect(items[0]))
    assert run_extract(*items).n_computed == 0
    assert run_extract(*items, contract=dataclasses.replace(CONTRACT, aspect="crop")).n_computed == 10


def test_the_step_and_what_came_of_it_are_said(items, fake_engine):
    said = []

    class Note(SilentListener):
        """Keeps what it is told."""

        def begin(self, step, total=None):
            said.append((step, total))

        def end(self, note=""):
            said.append(note)

    run_extract(*items, listener=Note())
    run_extract(*items, listener=Note())
    assert said == [("features", 10), "10 computed, 0 from the cache", ("features", 0), "all 10 from the cache"]


def test_a_view_is_computed_once_from_the_augmented_images(items, fake_engine):
    paths, digests = items
    view = View(2, 7, FLIPS)
    about = (*items, WEIGHTS, CONTRACT, HARDWARE, SilentListener(), "views", view)
    run_extract(*items)
    space, n_computed, n_found, _ = fill_space(*about)
    assert (n_computed, n_found) == (10, 0)
    inputs = [prepare(decode(path.read_bytes()), CONTRACT) for path in paths]
    seen = [augment(image, view, digest) for image, digest in zip(inputs, digests, strict=True)]
    assert any((one != other).any() for one, other in zip(inputs, seen, strict=True))
    rows = np.empty((10, 5), np.float16)
    space.read(digests, rows)
    expected = np.concatenate(list(FakeEngine().run([np.stack([image]) for image in seen])))
    np.testing.assert_array_equal(rows, expected.astype(np.float16))
    assert fill_space(*about)[1:] == (0, 10, 0)


def test_float32_features_are_kept_as_they_are(items, fake_engine):
    exact = dataclasses.replace(CONTRACT, feature_dtype="float32")
    inputs = [prepare(decode(path.read_bytes()), exact) for path in items[0]]
    expected = np.concatenate(list(FakeEngine().run([np.stack([image]) for image in inputs])))
    assert (expected != expected.astype(np.float16)).any()
    for _ in range(2):
        np.testing.assert_array_equal(run_extract(*items, contract=exact).features, expected)


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard_rows", [1, 4, 1024])
def test_an_interruption_keeps_what_was_finished(items, fake_engine, monkeypatch, shard_rows):
    monkeypatch.setattr(features_module, "SHARD_BYTES", shard_rows * ROW_BYTES)
    with pytest.raises(KeyboardInterrupt):
        run_extract(*items, listener=Interrupt(after=8))
    found = run_extract(*items)
    assert (found.n_computed, found.n_cached) == (2, 8)
    np.testing.assert_array_equal(found.features, expect(items[0]))


def test_an_item_that_became_unreadable_is_named_and_the_others_are_kept(items, fake_engine):
    paths, digests = items
    paths[9].unlink()
    with pytest.raises(DataError, match=r"9\.png cannot be prepared for the network: the file cannot be read: "):
        run_extract(paths, digests)
    assert run_extract(paths[:8], digests[:8]).n_computed == 0


def test_wide_pixels_under_a_contract_for_8_bits_are_refused_by_name(tmp_path, fake_engine):
    path = tmp_path / "wide.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 4096, (16, 16), dtype=np.uint16)).save(path)
    with pytest.raises(DataError, match=r"wide\.png cannot be .*: uint16 pixels, but the model was made from 8-bit"):
        run_extract([path], [content_digest(path.read_bytes())])


@pytest.mark.parametrize("scale", [1e6, np.nan, -np.inf])
def test_features_beyond_float16_are_refused(items, fake_engine, monkeypatch, scale):
    monkeypatch.setattr(FakeEngine, "scale", scale)
    with pytest.raises(DataError, match="10 items give features of efficientnet_lite0 that are not finite or beyond"):
        run_extract(*items)
    assert len(open_space(WEIGHTS, CONTRACT, HARDWARE)) == 0


def test_activations_beyond_float16_are_left_to_the_training_above_their_line():
    rows = np.array([[1e6, 1.0], [2.0, 3.0]], np.float32)
    tapped = dataclasses.replace(WEIGHTS, taps=("blocks.6", "blocks.5"))
    np.testing.assert_array_equal(features_module._round(rows, tapped, CONTRACT), [[np.inf, 1.0], [2.0, 3.0]])


def test_a_full_disk_is_said_and_finished_shards_stay(items, fake_engine, monkeypatch):
    monkeypatch.setattr(features_module, "SHARD_BYTES", 4 * ROW_BYTES)
    save, n_saved = np.save, []

    def save_once(file, rows, **options):
        n_saved.append(len(rows))
        if len(n_saved) > 1:
            raise OSError(28, "No space left on device")
        save(file, rows, **options)

    monkeypatch.setattr(np, "save", save_once)
    with pytest.raises(OutputError, match="the disk is full"):
        run_extract(*items)
    monkeypatch.setattr(np, "save", save)
    found = run_extract(*items)
    assert (found.n_computed, found.n_cached) == (6, 4)
    np.testing.assert_array_equal(found.features, expect(items[0]))


# --- decoding ahead ---------------------------------------------------------------------------------------------------


class Counted(list):
    """A list that counts how many of its entries were taken."""

    n_taken = 0

    def __iter__(self):
        for entry in super().__iter__():
            self.n_taken += 1
            yield entry


@pytest.mark.parametrize("threads", [1, 3])
def test_decoding_runs_ahead_by_a_bounded_number_of_items(threads):
    pixels = np.random.default_rng(0).integers(0, 256, (400, 8, 8, 3), dtype=np.uint8)
    contents, ahead = Counted(pixels), []
    for number, found in enumerate(prepare_all(contents, CONTRACT, threads)):
        np.testing.assert_array_equal(found, pixels[number])
        ahead.append(contents.n_taken - number - 1)
    assert max(ahead) == 8 * threads + 64
    assert len(ahead) == contents.n_taken == 400


def test_a_reader_that_stops_early_leaves_the_rest_undecoded(monkeypatch):
    decoded = []
    monkeypatch.setattr(features_module, "decode", lambda data, **options: decoded.append(1) or data)
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 8, 8, 3), dtype=np.uint8)
    ahead = prepare_all(list(pixels), CONTRACT, 2)
    next(ahead)
    ahead.close()
    assert len(decoded) <= 8 * 2 + 64 + 1


# --- the real engine --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_features_are_those_of_the_network(tmp_path):
    import torch

    from thawline.learn.loading import load_backbone

    row = find_row("efficientnet_lite0").architecture
    contract = Contract(row.size_px, row.mean, row.std, row.interpolation, "crop")
    weights, paths = find_weights(row.name), []
    for name in ("chelsea", "coffee", "astronaut"):
        paths.append(tmp_path / f"{name}.png")
        Image.fromarray(getattr(photographs, name)()).save(paths[-1])
    digests = [content_digest(path.read_bytes()) for path in paths]
    found = extract(paths, digests, weights, contract, HARDWARE, SilentListener()).features
    inputs = np.stack([prepare(decode(path.read_bytes()), contract) for path in paths])
    with torch.no_grad():
        expected = load_backbone(weights)(torch.from_numpy((inputs / 127.5 - 1).astype(np.float32)).permute(0, 3, 1, 2))
    np.testing.assert_allclose(found, expected, atol=2e-3, rtol=2e-3)  # float16 at rest
    again = extract(paths[::-1], digests[::-1], weights, contract, HARDWARE, SilentListener())
    assert again.n_computed == 0
    np.testing.assert_array_equal(again.features, found[::-1])


def test_the_description_of_a_space_is_kept_beside_it_and_names_no_path(items, fake_engine):
    run_extract(*items)
    text = (open_space(WEIGHTS, CONTRACT, HARDWARE).folder / "space.json").read_text("utf-8")
    assert json.loads(text)["weights"] == WEIGHTS.sha256
    assert "nowhere" not in text
    assert ".png" not in text
