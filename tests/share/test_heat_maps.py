"""Heat maps: attention that was trained points at the tumour that was drawn, and only such models have maps."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import Notes
from slides import read_tiles
from thawline.data.readers import content_digest, read_content
from thawline.data.slide_phantoms import draw_slide, write_picture
from thawline.errors import ModelError
from thawline.learn.activations import fill_activations
from thawline.learn.augment import CLEAN
from thawline.learn.bags import LINE
from thawline.learn.cuts import make_classifier
from thawline.learn.engine import detect_hardware
from thawline.learn.ensemble import EnsembleHead, name_members, take_weights
from thawline.learn.facts import describe_backbone
from thawline.learn.features import extract
from thawline.learn.linear import LinearHead
from thawline.learn.loading import find_stages_of, fit_weights, load_backbone
from thawline.learn.training import predict_logits, train
from thawline.learn.weight_files import read_sidecar
from thawline.predict import predict_files
from thawline.share.bundle import load_model, save_model
from thawline.share.heat_maps import check_heat_maps, name_slides, write_heat_maps
from thawline.types import Augmentation, Contract, Recipe, SilentListener

pytestmark = pytest.mark.slow
SIDE, TILE_PX, RADIUS, N_SLICES = 512, 32, 0.1, 110
SEEDS = range(10)
TASK = {"classes": ["normal", "tumour"], "positive": "tumour", "threshold": 0.5}


def find_digest(path):
    return content_digest(read_content(path))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_file):
    """A model whose attention was trained on slides of which every second has a tumour; folder, slides."""
    folder = tmp_path_factory.mktemp("heat maps")
    paths = [
        write_picture(folder / f"{seed}.svs", draw_slide(seed, SIDE, tumour=RADIUS * (seed % 2))[0], 0.5, n_levels=2)
        for seed in SEEDS
    ]
    digests, labels = [*map(find_digest, paths)], np.array(SEEDS) % 2
    weights, hardware = read_sidecar(tiny_file, "tiny"), detect_hardware("cpu")
    about = weights.architecture
    contract = Contract(64, about.mean, about.std, reading=read_tiles(TILE_PX, 0.5, "all", N_SLICES, "attention"))
    line = describe_backbone(weights, size_px=64, depth=contract.reading.depth).lines[0]
    assert line.name == LINE
    source = paths, digests, weights, contract, hardware
    activations = fill_activations(*source, [line], Augmentation(), 0, 0, SilentListener())[LINE]
    stages = find_stages_of(fit_weights(weights, 64, contract.reading), load_backbone(weights), [LINE])
    features = extract(*source, SilentListener()).features
    head = LinearHead(features.mean(0), features.std(0) + 1e-6, np.zeros((2, features.shape[1])), np.zeros(2))
    recipe = Recipe(learning_rate=1e-2, epochs=40, batch_items=6, mixup=0.0, label_smoothing=0.0, seed=1)
    items = np.arange(len(labels))
    classifier, _ = train(make_classifier(stages.suffix(LINE), head), activations, labels, items, recipe, "attention")
    members = name_members([take_weights(classifier)])
    model = save_model(
        folder / "model",
        weights=weights,
        contract=contract,
        head=EnsembleHead(((1.0,),), 2),
        hardware=hardware,
        task=TASK,
        thaw_line=LINE,
        members=members,
        views=(CLEAN,),
    )
    logits = predict_logits(classifier, activations, items)
    return model, paths, logits - logits.mean(axis=1, keepdims=True)


def read_table(path: Path):
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return np.array([[int(row["x_px"]), int(row["y_px"])] for row in rows]), np.array(
        [float(row["weight"]) for row in rows]
    )


def test_the_model_is_what_was_trained(trained):
    model, paths, logits = trained
    found = np.log(model.predict_proba(paths))
    np.testing.assert_allclose(found - found.mean(axis=1, keepdims=True), logits, atol=1e-4)


def test_attention_points_at_the_tumour(trained, tmp_path):
    model, paths, _ = trained
    ill = paths[1:6:2]
    text = predict_files(model.weights.path.parent, ill, heat_maps=tmp_path / "maps", listener=SilentListener())
    assert len(text.splitlines()) == 1 + len(ill)
    shares = []
    for path in ill:
        corners, weights = read_table(tmp_path / "maps" / f"{path.stem}.csv")
        assert weights.sum() == pytest.approx(1, abs=1e-3)
        mask = draw_slide(int(path.stem), SIDE, tumour=RADIUS)[2]
        inside = np.array([mask[y : y + TILE_PX, x : x + TILE_PX].mean() for x, y in corners])
        shares.append(weights[inside > 0.5].mean() / weights[inside == 0].mean())
        with Image.open(tmp_path / "maps" / f"{path.stem}.png") as image:
            assert min(image.size) > 300
            assert not {*image.info} - {"Software", "dpi"}
    assert np.median(shares) > 1.5
    assert sorted(each.name for each in (tmp_path / "maps").iterdir()) == sorted(
        f"{path.stem}{suffix}" for path in ill for suffix in (".csv", ".png")
    )


def test_maxima_are_shares_of_features(trained, tmp_path):
    model, paths, _ = trained
    reading = dataclasses.replace(model.contract.reading, pooling="max")
    contract = dataclasses.replace(model.contract, reading=reading)
    largest = dataclasses.replace(
        model, contract=contract, weights=dataclasses.replace(model.weights, thaw_line=None), head=None
    )
    (table,) = write_heat_maps(largest, paths[:1], [find_digest(paths[0])], ["one"], tmp_path, SilentListener())
    _, weights = read_table(table)
    assert weights.sum() == pytest.approx(1, abs=1e-3)
    n_features = fill_count(largest, paths[0])
    np.testing.assert_allclose(weights * n_features, np.rint(weights * n_features), atol=0.01)
    assert 1 < np.count_nonzero(weights) <= n_features


def fill_count(model, path):
    """Number of features of the backbone."""
    return extract(
        [path], [find_digest(path)], model.weights, model.contract, model.hardware, SilentListener()
    ).features.shape[1]


def test_what_is_no_slide_is_left_out_of_maps_too(trained, tmp_path):
    model, paths, _ = trained
    Image.linear_gradient("L").save(tmp_path / "photo.png")
    given = [tmp_path / "photo.png", paths[1]]
    about = {"skip_unreadable": True, "heat_maps": tmp_path / "maps", "listener": Notes()}
    table = predict_files(model.weights.path.parent, given, **about)
    assert len(table.splitlines()) == 2
    assert {each.name for each in (tmp_path / "maps").iterdir()} == {f"{paths[1].stem}.csv", f"{paths[1].stem}.png"}


def test_models_without_weights_of_tiles_are_refused(trained):
    model, _, _ = trained

    def change(thaw_line=None, texture=False, **reading):
        changed = dataclasses.replace(model.contract.reading, **reading)
        return dataclasses.replace(
            model,
            contract=dataclasses.replace(model.contract, reading=changed),
            weights=dataclasses.replace(model.weights, thaw_line=thaw_line),
            texture=texture,
        )

    check_heat_maps(model)
    for other, message in (
        (change(), "takes the mean of its tiles, to which all count alike; run with --pooling attention"),
        (change(LINE, tile_px=0), "expected a model of whole slides, found one of images"),
        (change("blocks.2"), r"found a network trained above blocks\.2; run with --pooling attention --thaw-line"),
        (change(texture=True), "found handcrafted features"),
    ):
        with pytest.raises(ModelError, match=message):
            check_heat_maps(other)


def test_maps_are_named_by_the_stems_of_their_slides():
    paths = [Path("a/one.svs"), Path("b/one.svs"), Path("two.ome.tif"), Path("c/one.tiff")]
    assert name_slides(paths) == ["one", "one-2", "two.ome", "one-3"]


def test_attention_that_was_not_trained_is_said(trained, tmp_path):
    model, paths, _ = trained
    even = load_model(model.weights.path.parent)
    from thawline.learn.bags import make_attention
    from thawline.share import heat_maps

    class Heard(SilentListener):
        said = ""

        def warn(self, message):
            self.said += message

    with pytest.MonkeyPatch.context() as patch:
        n_features = fill_count(
            dataclasses.replace(even, weights=dataclasses.replace(even.weights, thaw_line=None)), paths[0]
        )
        patch.setattr(heat_maps, "_load_attention", lambda _model: [make_attention(n_features)])
        listener = Heard()
        write_heat_maps(even, paths[:1], [find_digest(paths[0])], ["one"], tmp_path, listener)
    assert "attention stayed what it starts as, the mean" in listener.said
