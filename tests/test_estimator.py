"""ThawClassifier as scikit-learn expects a classifier to be, over images instead of a matrix."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.utils.estimator_checks import check_estimator

import thawline
import thawline.estimator as estimator_module
from helpers import make_films
from thawline import ThawClassifier
from thawline.errors import DataError, OptionError, UnreadableItemsError
from thawline.judge.metrics import item_log_loss
from thawline.types import SilentListener

pytestmark = pytest.mark.slow

# The other checks of scikit-learn fit a matrix (items, features), which a classifier of images has no use for; those
# of its promises that are not about matrices are kept with images below.
CHECKS = {
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_estimators_unfitted",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_valid_tag_types",
}


@dataclasses.dataclass(frozen=True)
class Films:
    """Square phantoms: paths, arrays (items, 58, 58), labels and patients, aligned."""

    folder: Path
    paths: list[Path]
    pixels: Any
    labels: Any
    patients: Any


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Films:
    folder = make_films(tmp_path_factory.mktemp("films") / "data")
    with (folder / "manifest.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    paths = [folder / row["path"] for row in rows]
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    labels, patients = (np.array([row[name] for row in rows]) for name in ("label", "patient"))
    return Films(folder, paths, pixels, labels, patients)


@pytest.fixture(scope="module")
def fitted(films: Films) -> ThawClassifier:
    return ThawClassifier().fit(films.paths, films.labels, groups=films.patients)


def test_checks_of_scikit_learn_that_need_no_matrix() -> None:
    results = check_estimator(ThawClassifier(), on_fail=None, on_skip=None)
    passed = {result["check_name"] for result in results if result["status"] == "passed"}
    assert passed >= CHECKS


def test_parameters_survive_cloning_and_fitting(films: Films, fitted: ThawClassifier) -> None:
    assert fitted.get_params() == ThawClassifier().get_params()
    changed = clone(fitted).set_params(folds=3)
    assert changed.get_params()["folds"] == 3
    with pytest.raises(NotFittedError):
        changed.predict(films.paths)
    with pytest.raises(ValueError, match="Invalid parameter 'colour'"):
        clone(fitted).set_params(colour="red")


def test_fit_gives_the_estimator_and_what_it_learnt(films: Films, fitted: ThawClassifier) -> None:
    assert isinstance(fitted, ThawClassifier)
    assert fitted.classes_.tolist() == ["healthy", "lesion"]
    assert fitted.head_name_ == "linear"
    assert fitted.contract_.aspect == "squash"


def test_probabilities_and_classes(films: Films, fitted: ThawClassifier) -> None:
    found = fitted.predict_proba(films.paths)
    assert found.shape == (len(films.paths), 2)
    assert found.dtype == np.float64
    assert found.sum(axis=1) == pytest.approx(np.ones(len(found)), abs=1e-12)
    assert (fitted.predict(films.paths) == fitted.classes_[found.argmax(axis=1)]).all()
    assert fitted.score(films.paths, films.labels) > 0.5  # it has seen them
    assert fitted.predict_proba([]).shape == (0, 2)


def test_paths_texts_and_arrays_are_the_same_images(films: Films, fitted: ThawClassifier) -> None:
    expected = fitted.predict_proba(films.paths)
    assert np.array_equal(fitted.predict_proba([str(path) for path in films.paths]), expected)
    assert np.array_equal(fitted.predict_proba(films.pixels), expected)
    assert np.array_equal(fitted.predict_proba(np.stack([films.pixels] * 3, axis=3)), expected)


def test_an_image_is_judged_by_itself(films: Films, fitted: ThawClassifier) -> None:
    expected = fitted.predict_proba(films.pixels)
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(expected))
    assert fitted.predict_proba(films.pixels[order]) == pytest.approx(expected[order], abs=1e-12)
    assert fitted.predict_proba(films.pixels[5:8]) == pytest.approx(expected[5:8], abs=1e-12)


def test_fitting_twice_gives_the_same(films: Films, fitted: ThawClassifier) -> None:
    before = fitted.predict_proba(films.paths)
    again = ThawClassifier().fit(films.pixels, films.labels, groups=films.patients)
    assert np.array_equal(again.predict_proba(films.paths), before)
    assert np.array_equal(
        again.fit(films.paths, films.labels, groups=films.patients).predict_proba(films.paths), before
    )


@pytest.mark.parametrize(
    "names", [np.array([7, 3]), np.array([True, False]), np.array(["ja", "nein"]), np.array([0.0, 1.0])]
)
def test_labels_of_any_kind_come_back_as_they_were(names: Any, films: Films, fitted: ThawClassifier) -> None:
    labels = names[(films.labels == "lesion").astype(int)]
    found = ThawClassifier().fit(films.paths, labels, groups=films.patients)
    assert found.classes_.tolist() == np.unique(names).tolist()
    assert found.predict(films.paths).dtype == names.dtype
    columns = [found.classes_.tolist().index(name) for name in names]
    assert np.allclose(found.predict_proba(films.paths)[:, columns], fitted.predict_proba(films.paths), atol=1e-3)


@pytest.mark.parametrize("given", [True, False])
def test_patients_stay_together_where_they_are_given(
    given: bool, films: Films, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    real = estimator_module.fit_final

    def watch(name: str, features: Any, labels: Any, groups: Any, *rest: Any, **more: Any) -> Any:
        seen.update(groups=groups, folds=more["folds"])
        return real(name, features, labels, groups, *rest, **more)

    monkeypatch.setattr(estimator_module, "fit_final", watch)
    ThawClassifier().fit(films.paths, films.labels, groups=films.patients if given else None)
    torn = [name for name in np.unique(films.patients) if len(set(seen["folds"][films.patients == name])) > 1]
    assert bool(torn) != given
    assert len(np.unique(seen["groups"])) == (len(np.unique(films.patients)) if given else len(films.paths))


def test_identical_images_stay_together(films: Films, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    real = estimator_module.fit_final

    def watch(name: str, features: Any, labels: Any, groups: Any, *rest: Any, **more: Any) -> Any:
        seen.update(groups=groups)
        return real(name, features, labels, groups, *rest, **more)

    monkeypatch.setattr(estimator_module, "fit_final", watch)
    n = len(films.paths)
    ThawClassifier().fit([*films.paths, *films.paths[:4]], [*films.labels, *films.labels[:4]])
    assert seen["groups"][n:].tolist() == seen["groups"][:4].tolist()
    assert len(np.unique(seen["groups"])) == n


@pytest.mark.slow
def test_cross_validation_with_patients(films: Films) -> None:
    settings: dict[str, Any] = {"cv": GroupKFold(3), "groups": films.patients}
    scores = cross_val_score(
        ThawClassifier(), films.paths, films.labels, **settings, params={"groups": films.patients}, error_score="raise"
    )
    again = cross_val_score(
        ThawClassifier(), films.pixels, films.labels, **settings, params={"groups": films.patients}, error_score="raise"
    )
    assert scores.shape == (3,)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert scores.tolist() == again.tolist()


@pytest.mark.slow
def test_it_is_the_model_that_a_run_delivers(films: Films, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAWLINE_DATA", str(tmp_path / "ledger"))
    thawline.run(films.folder, tmp_path / "run", head="linear", precision="f32", listener=SilentListener())
    with (tmp_path / "run" / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    development, test = ([row for row in rows if row["split"] == part] for part in ("development", "test"))
    own = ThawClassifier().fit(
        [films.folder / row["item"] for row in development],
        [row["label"] for row in development],
        groups=[row["patient"] for row in development],
    )
    found = own.predict_proba([films.folder / row["item"] for row in test])
    assert found[:, 1] == pytest.approx([float(row["p_lesion"]) for row in test], abs=1e-6)


@pytest.mark.slow
def test_heads_are_compared_out_of_fold(films: Films, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimator_module, "list_heads", lambda options: ("linear", "k_nn"))
    seen: list[Any] = []
    real = estimator_module.choose_within_one_se

    def watch(losses: Any, groups: Any) -> Any:
        seen.append((losses, real(losses, groups)))
        return seen[-1][1]

    monkeypatch.setattr(estimator_module, "choose_within_one_se", watch)
    fitted = ThawClassifier(head=None).fit(films.paths, films.labels, groups=films.patients)
    losses, selection = seen[0]
    assert losses.shape == (2, len(films.paths))
    assert fitted.head_name_ == ("linear", "k_nn")[selection.chosen]
    codes = np.searchsorted(fitted.classes_, films.labels)
    in_sample = item_log_loss(codes, fitted.predict_proba(films.paths)).mean()
    assert losses[selection.chosen].mean() > in_sample  # what is compared has not been seen


@pytest.mark.slow
def test_deeper_pixels(films: Films) -> None:
    deep = films.pixels.astype(np.uint16) * 16
    fitted = ThawClassifier().fit(deep, films.labels, groups=films.patients)
    assert fitted.contract_.wide_range == (0.0, 4095.0)
    assert fitted.predict_proba(deep[:3]).shape == (3, 2)


def test_deeper_pixels_than_those_it_was_made_from(films: Films, fitted: ThawClassifier) -> None:
    with pytest.raises(UnreadableItemsError, match="1: 16-bit pixels, but the model was made from 8-bit images only"):
        fitted.predict_proba([films.pixels[0], films.pixels[1].astype(np.uint16) * 16])


def test_unreadable_images_are_listed_by_position(films: Films, fitted: ThawClassifier, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    for use in (fitted.predict, lambda images: ThawClassifier().fit(images, ["a"] * 6 + ["b"] * 6)):
        with pytest.raises(UnreadableItemsError, match=r"2 of 12 items cannot be read:\n  - 10: .*\n  - 11: the file"):
            use([*films.paths[:10], tmp_path / "text.png", tmp_path / "nowhere.png"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a"] * 12, "there is only one class, a \\(12\\)"),
        (["a"] * 11 + ["b"], "b: 1 images of 1 patient"),
        (["a"] * 6, "12 images but 6 labels"),
        ([None] * 6 + ["b"] * 6, "no label for 6 images, at positions 0, 1, 2"),
        (None, "requires y to be passed, but the target y is None"),
    ],
)
def test_labels_that_cannot_be_learnt(labels: Any, message: str, films: Films) -> None:
    with pytest.raises(DataError, match=message):
        ThawClassifier().fit(films.pixels[:12], labels)


def test_a_matrix_is_no_set_of_images() -> None:
    with pytest.raises(DataError, match="images of shape \\(12, 5\\); expected \\(items, height, width"):
        ThawClassifier().fit(np.zeros((12, 5)), [0, 1] * 6)


@pytest.mark.parametrize("wrong", [{"head": "brain"}, {"folds": 1}, {"class_weight": "heavy"}, {"random_state": -1}])
def test_parameters_out_of_range(wrong: dict[str, Any], films: Films) -> None:
    with pytest.raises(OptionError, match="expected"):
        ThawClassifier(**wrong).fit(films.pixels, films.labels)
