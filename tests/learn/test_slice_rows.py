"""Rows of slices: each tile is computed once, whatever bags it is part of, and an interrupted run goes on at the tile."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from slides import read_tiles
from thawline.data.readers import content_digest, open_stack, read_content
from thawline.data.slices import choose_places
from thawline.data.slide_phantoms import draw_slide, write_picture
from thawline.data.transforms import prepare
from thawline.errors import DataError
from thawline.learn import features as features_module
from thawline.learn.augment import View, augment
from thawline.learn.backbones import BACKBONES
from thawline.learn.bags import LINE
from thawline.learn.features import extract, fill_space
from thawline.learn.weight_files import Weights
from thawline.types import Augmentation, Contract, Hardware, SilentListener

WEIGHTS = Weights(BACKBONES[0].architecture, Path("/nowhere/weights.pth"), "ab" * 32, "file", "CC0", "nothing")
HARDWARE = Hardware(cores=2, memory_mib=1000)
N_SLICES = 6


class Engine:
    """Means and corners of the input as features; counts what it computes."""

    batch_items = 4
    n_computed = 0

    def run(self, batches):
        for batch in batches:
            Engine.n_computed += len(batch)
            pixels = batch.astype(np.float32).reshape(len(batch), -1)
            yield np.concatenate([pixels.mean(axis=1, keepdims=True), pixels[:, :4]], axis=1)


class Interrupt(SilentListener):
    """Interrupts once some tiles are done."""

    def __init__(self, after):
        self.after, self.total, self.note = after, None, ""

    def begin(self, step, total=None):
        self.total = total

    def advance(self, units=1):
        self.after -= units
        if self.after <= 0:
            raise KeyboardInterrupt

    def end(self, note=""):
        self.note = note


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """A cache of its own and an engine that costs nothing."""
    monkeypatch.setenv("THAWLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Engine, "n_computed", 0)
    monkeypatch.setattr(features_module, "open_engine", lambda *about: Engine())
    return Engine


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Three slides of different sizes, and their digests."""
    folder = tmp_path_factory.mktemp("slides")
    sizes = (300, 400, 200)
    paths = [write_picture(folder / f"{side}.svs", draw_slide(side, side)[0], 0.5, n_levels=1) for side in sizes]
    return paths, [content_digest(read_content(path)) for path in paths]


def make_contract(slices="all", n_slices=N_SLICES, pooling="mean"):
    return Contract(8, (0.5,) * 3, (0.5,) * 3, "bilinear", reading=read_tiles(32, 0.5, slices, n_slices, pooling))


def run_extract(slides, contract, listener=None, weights=WEIGHTS, **options):
    return extract(*slides, weights, contract, HARDWARE, listener or SilentListener(), **options)


def compute_tiles(path, contract, indices, change=lambda image: image):
    """Features of tiles, without threads, batches or cache; rounded as they are at rest."""
    stack = open_stack(read_content(path), None, contract.reading)
    inputs = np.stack([change(prepare(stack.show("axial", index), contract)) for index in indices])
    return next(Engine().run([inputs])).astype(np.float16).astype(np.float32)


def choose(path, contract):
    return choose_places(open_stack(read_content(path), None, contract.reading).count("axial"), contract.reading)


@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
def test_features_of_a_bag_are_those_of_its_tiles_joined(slides, engine, pooling):
    contract = make_contract("spread:6", pooling=pooling)
    found = run_extract(slides, contract)
    join = np.max if pooling == "max" else np.mean
    expected = [join(compute_tiles(path, contract, choose(path, contract)), axis=0) for path in slides[0]]
    np.testing.assert_allclose(found.features, expected, rtol=1e-5)
    assert (found.n_computed, found.n_cached, found.n_images) == (3, 0, 3 * N_SLICES)


def test_poolings_and_bags_of_the_same_tiles_share_them(slides, engine, monkeypatch):
    counts = [len(set(choose(path, make_contract(n_slices=200)))) for path in slides[0]]
    found = run_extract(
        slides, make_contract(n_slices=200)
    )  # more than there are: some are repeated, none computed twice
    assert found.n_images == engine.n_computed == sum(counts)
    for contract in (
        make_contract(n_slices=200, pooling="max"),
        make_contract("spread:5", 5),
        make_contract("every:3", 70),
    ):
        assert run_extract(slides, contract).n_images == 0
    filled = fill_space(
        *slides,
        dataclasses.replace(WEIGHTS, taps=(LINE,)),
        make_contract(n_slices=200, pooling="attention"),
        HARDWARE,
        SilentListener(),
        "prefix",
    )
    assert engine.n_computed == sum(counts)
    rows = np.empty((3, 200 * 5), np.float16)
    filled.rows.read(slides[1], rows)
    contract = make_contract(n_slices=200)
    tiles = [compute_tiles(path, contract, choose(path, contract)) for path in slides[0]]
    np.testing.assert_array_equal(rows.reshape(3, 200, 5), tiles)
    part = np.empty((1, 5), np.float16)
    filled.rows.read(slides[1][1:2], part, slice(35, 40))
    np.testing.assert_array_equal(part[0], tiles[1][7])


def test_what_the_cache_holds_is_neither_opened_nor_computed(slides, engine, monkeypatch):
    contract = make_contract("spread:6")
    first = run_extract(slides, contract).features
    monkeypatch.setattr(features_module, "open_stack", lambda *about: pytest.fail("opened again"))
    monkeypatch.setattr(features_module, "open_engine", lambda *about: pytest.fail("computed again"))
    again = run_extract((slides[0][::-1], slides[1][::-1]), contract)
    np.testing.assert_array_equal(again.features, first[::-1])
    assert (again.n_computed, again.n_cached, again.n_images) == (0, 3, 0)


@pytest.mark.parametrize("after", [1, 9, 30])
def test_an_interrupted_extraction_goes_on_at_the_tile(slides, engine, after):
    contract = make_contract(n_slices=60)
    total = sum(len(set(choose(path, contract))) for path in slides[0])
    listener = Interrupt(after)
    with pytest.raises(KeyboardInterrupt):
        run_extract(slides, contract, listener)
    done = engine.n_computed
    assert done < total
    watched = Interrupt(10**9)
    found = run_extract(slides, contract, watched)
    kept = total - found.n_images
    assert kept >= after
    assert kept % engine.batch_items == 0
    assert watched.total >= found.n_images
    expected = [compute_tiles(path, contract, choose(path, contract)).mean(axis=0) for path in slides[0]]
    np.testing.assert_allclose(found.features, expected, rtol=1e-5)


def test_all_tiles_of_a_slide_are_seen_alike_in_a_view(slides, engine):
    view = View(1, 3, Augmentation(flip_sides=True, flip_vertically=True, tone=0.2))
    contract = make_contract("spread:6")
    found = run_extract(slides, contract, view=view)
    for path, digest, row in zip(*slides, found.features, strict=True):
        tiles = compute_tiles(path, contract, choose(path, contract), lambda image, d=digest: augment(image, view, d))
        np.testing.assert_allclose(row, tiles.mean(axis=0), rtol=1e-5)


def test_a_slide_that_is_gone_is_named(slides, engine, tmp_path):
    with pytest.raises(
        DataError, match=r"gone\.svs cannot be prepared for the network: damaged, cut off or unsupported"
    ):
        run_extract(([tmp_path / "gone.svs"], ["ab" * 32]), make_contract())
