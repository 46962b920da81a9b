"""Stored heads: the same probabilities to the last bit, nothing that could run code, and a plain word on damage."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skops.io import dumps

from thawline.errors import ModelError
from thawline.learn import head_files, heads
from thawline.learn.ensemble import EnsembleHead
from thawline.learn.head_files import load_head, save_head

every_head = pytest.mark.parametrize("name", list(heads.HEADS))


@pytest.fixture(autouse=True)
def small_ensembles(monkeypatch):
    monkeypatch.setattr(heads, "N_TREES", 10)
    monkeypatch.setattr(heads, "N_ROUNDS", 20)


def make_data(n_classes=2, n_items=96):
    """Two items a patient, classes some standard deviations apart."""
    draw = np.random.default_rng(0)
    groups = np.arange(n_items) // 2
    labels = groups % n_classes
    features = 5 + draw.standard_normal((n_items, 12)) + 2 * np.eye(12)[labels]
    return features.astype(np.float32), labels, groups


def fit_middle(name, data, n_classes=2, **options):
    row = heads.HEADS[name]
    training = heads.Training(*data, n_classes, **options)
    return row.fit(training, [row.strengths[len(row.strengths) // 2]])[0]


@every_head
def test_stored_heads_give_the_same_probabilities(name, tmp_path):
    data = make_data(n_classes=3)
    head = fit_middle(name, data, n_classes=3, class_weight="balanced")
    save_head(head, tmp_path / "model")
    again = load_head(tmp_path / "model")
    np.testing.assert_array_equal(again.predict_proba(data[0]), head.predict_proba(data[0]))
    assert (again.name, again.n_classes) == (name, 3)
    assert not list(tmp_path.rglob("*.pkl"))
    files = {"head.json", "head.safetensors" if name == "linear" else "head.skops"}
    assert {path.name for path in (tmp_path / "model").iterdir()} == files


def save_foreign(model, folder):
    """Store a model in place of that of a k-NN head."""
    save_head(fit_middle("k_nn", make_data()), folder)
    (folder / "head.skops").write_bytes(dumps(model))


class Intruder(KNeighborsClassifier):
    """A type that no head is made of."""


def test_a_type_outside_the_list_is_named_and_not_loaded(tmp_path):
    features, labels, *_ = make_data()
    save_foreign(make_pipeline(StandardScaler(), Intruder()).fit(features, labels), tmp_path)
    with pytest.raises(ModelError, match="Intruder"):
        load_head(tmp_path)


@pytest.mark.parametrize("entry", sorted(head_files.TRUSTED))
def test_each_trusted_type_is_needed_by_some_head(entry, monkeypatch, tmp_path):
    monkeypatch.setattr(head_files, "TRUSTED", head_files.TRUSTED - {entry})
    name = next(name for part, name in NEEDED_BY.items() if part in entry)
    save_head(fit_middle(name, make_data()), tmp_path)
    with pytest.raises(ModelError, match=f"holds {entry},"):
        load_head(tmp_path)


NEEDED_BY = {"calibration": "svm", "tree._tree": "random_forest", "hist_gradient": "gradient_boosting"}


def test_damaged_folders_are_refused(tmp_path):
    features, labels, *_ = make_data()
    with pytest.raises(ModelError, match=r"head\.json cannot be read"):
        load_head(tmp_path)
    save_foreign(StandardScaler().fit(features), tmp_path)
    with pytest.raises(ModelError, match="found StandardScaler"):
        load_head(tmp_path)
    (tmp_path / "head.skops").write_bytes(b"PK not an archive")
    with pytest.raises(ModelError, match="written with scikit-learn"):
        load_head(tmp_path)
    facts = json.loads((tmp_path / "head.json").read_text())
    (tmp_path / "head.json").write_text(json.dumps(facts | {"schema": 99}))
    with pytest.raises(ModelError, match="schema 1"):
        load_head(tmp_path)
    save_foreign(make_pipeline(KNeighborsClassifier(algorithm="brute")).fit(features, labels), tmp_path)
    (tmp_path / "head.json").write_text(json.dumps({key: value for key, value in facts.items() if key != "votes"}))
    with pytest.raises(ModelError, match="'votes'"):
        load_head(tmp_path)


def test_damaged_linear_head_is_refused(tmp_path):
    save_head(fit_middle("linear", make_data()), tmp_path)
    whole = (tmp_path / "head.safetensors").read_bytes()
    (tmp_path / "head.safetensors").write_bytes(whole[:-8])
    with pytest.raises(ModelError, match="cannot be read"):
        load_head(tmp_path)
    (tmp_path / "head.safetensors").write_bytes(whole)
    facts = json.loads((tmp_path / "head.json").read_text())
    (tmp_path / "head.json").write_text(json.dumps(facts | {"n_classes": 5}))
    with pytest.raises(ModelError, match="2 classes"):
        load_head(tmp_path)


def test_only_heads_of_the_table_are_stored(tmp_path):
    class Lookalike:
        name, n_classes = "linear", 2

    with pytest.raises(ModelError, match="found Lookalike"):
        save_head(Lookalike(), tmp_path)


# --- ensembles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scales", [((0.7,), (1.0 / 3.0,), (12.5,)), ((0.7, 0.0), (1.0 / 3.0, 0.1), (0.0, 12.5))])
def test_a_stored_ensemble_gives_the_same_probabilities(tmp_path, scales):
    head = EnsembleHead(scales, 4)
    save_head(head, tmp_path / "model")
    again = load_head(tmp_path / "model")
    assert again == head
    logits = np.random.default_rng(0).normal(size=(9, 12 * len(scales[0]))).astype(np.float32)
    np.testing.assert_array_equal(again.predict_proba(logits), head.predict_proba(logits))
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["head.json"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scales": None}, "lacks or misstates"),
        ({"scales": [1.0, 2.0]}, "lacks or misstates"),
        ({"scales": [["large"]]}, "lacks or misstates"),
        ({"scales": []}, "expected one or two scales a member"),
        ({"scales": [[], []]}, "one or two scales a member"),
        ({"scales": [[1.0, 0.5], [2.0]]}, r"a member, found \(\(1\.0, 0\.5\), \(2\.0,\)\)"),
        ({"scales": [[1.0, 2.0, 3.0]]}, "one or two scales a member"),
        ({"scales": [[-1.0]]}, "one or two scales a member"),
        ({"scales": [[1.0, float("nan")]]}, "one or two scales a member"),
        ({"scales": [[float("inf")]]}, "one or two scales a member"),
        ({"n_classes": "many"}, "lacks or misstates"),
        ({"name": "orchestra"}, "named one of"),
    ],
)
def test_a_damaged_ensemble_is_refused(tmp_path, changes, said):
    save_head(EnsembleHead(((1.0,), (2.0,)), 3), tmp_path)
    facts = json.loads((tmp_path / "head.json").read_text())
    (tmp_path / "head.json").write_text(json.dumps({**facts, **changes}))
    with pytest.raises(ModelError, match=said):
        load_head(tmp_path)


@pytest.mark.parametrize("missing", ["scales", "n_classes"])
def test_an_ensemble_lacks_nothing(tmp_path, missing):
    save_head(EnsembleHead(((1.0,), (2.0,)), 3), tmp_path)
    facts = json.loads((tmp_path / "head.json").read_text())
    del facts[missing]
    (tmp_path / "head.json").write_text(json.dumps(facts))
    with pytest.raises(ModelError, match=f"lacks or misstates '{missing}'"):
        load_head(tmp_path)
