"""How heads are stored in a model folder: numbers as safetensors, scikit-learn's as skops, never as pickles."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.errors import ModelError
from thawline.learn.ensemble import EnsembleHead
from thawline.learn.heads import HEADS, ForeignHead, Head, LabelHeads
from thawline.learn.linear import LinearHead

if TYPE_CHECKING:
    from thawline.judge.calibration import Scales

SCHEMA = 1
NAMES = (*HEADS, EnsembleHead.name)
LISTS: dict[str, type] = {"present": int, "trained_prior": float, "prior": float}
# what fitted heads hold beyond the types that skops itself knows to be harmless
TRUSTED = frozenset(
    f"sklearn.{name}"
    for name in (
        "calibration._CalibratedClassifier",
        "calibration._SigmoidCalibration",
        "ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "tree._tree.Tree",
    )
)


def save_head(head: Head, folder: Path, stem: str = "head") -> None:
    """Write ``head.json`` and the numbers beside it: ``head.safetensors`` (linear) or ``head.skops``, into ``folder``.

    Heads of several labels are ``head.0.json``, ``head.1.json``, … with theirs. ``stem`` is what names begin with.
    """
    from safetensors.numpy import save
    from skops.io import dumps

    folder.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {"schema": SCHEMA, "name": head.name, "n_classes": head.n_classes}
    if isinstance(head, LinearHead):
        arrays = {name: np.ascontiguousarray(array) for name, array in head.to_tensors().items()}
        (folder / f"{stem}.safetensors").write_bytes(save(arrays))
    elif isinstance(head, EnsembleHead):
        facts["scales"] = json.loads(json.dumps(head.scales))
    elif isinstance(head, LabelHeads):
        facts["strengths"] = list(head.strengths)
        for number, each in enumerate(head.heads):
            save_head(each, folder, f"{stem}.{number}")
    elif isinstance(head, ForeignHead):
        import sklearn

        facts |= {name: getattr(head, name) for name in (*LISTS, "votes")}
        facts["scikit_learn"] = sklearn.__version__
        (folder / f"{stem}.skops").write_bytes(dumps(head.model))
    else:
        raise ModelError(f"Only heads named {', '.join(NAMES)} can be stored; found {type(head).__name__}.")
    (folder / f"{stem}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def load_head(folder: Path, stem: str = "head") -> Head:
    """Read what `save_head` wrote; the probabilities are the same to the last bit.

    Raises ModelError where a file is missing, damaged, or holds a type that no head is made of; names that type.
    """
    facts = _read_facts(folder / f"{stem}.json")
    if "strengths" in facts:
        return _load_labels(folder, stem, facts)
    if facts["name"] == "linear":
        return _load_linear(folder / f"{stem}.safetensors", facts)
    if facts["name"] == EnsembleHead.name:
        return _load_ensemble(folder / f"{stem}.json", facts)
    model = _load_model(folder / f"{stem}.skops", facts)
    try:
        lists = {name: tuple(map(kind, facts[name])) for name, kind in LISTS.items()}
        return ForeignHead(facts["name"], int(facts["n_classes"]), model, **lists, votes=int(facts["votes"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{folder / f'{stem}.json'} lacks or misstates {error}; copy the model folder again."
        ) from error


def _load_labels(folder: Path, stem: str, facts: dict[str, Any]) -> Head:
    """Read the heads of several labels. Raises ModelError unless each is one of two classes."""
    try:
        strengths = tuple(map(float, facts["strengths"]))
    except (TypeError, ValueError) as error:
        raise ModelError(f"{folder / f'{stem}.json'} misstates {error}; copy the model folder again.") from error
    heads = tuple(load_head(folder, f"{stem}.{number}") for number in range(len(strengths)))
    sizes = [head.n_classes if isinstance(head, LinearHead | ForeignHead) else 0 for head in heads]
    if not heads or len(heads) != facts.get("n_classes") or set(sizes) != {2}:
        raise ModelError(
            f"{folder / f'{stem}.json'}: expected {facts.get('n_classes')} heads of two classes, one a label, found "
            f"{sizes} classes; copy the model folder again."
        )
    return LabelHeads(facts["name"], heads, strengths)


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}); a model folder holds it. Copy the folder again.") from error
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA or facts.get("name") not in NAMES:
        raise ModelError(
            f"{path} should describe a head of schema {SCHEMA} named one of {list(NAMES)}; found {str(facts)[:200]}."
        )
    return facts


def _load_linear(path: Path, facts: dict[str, Any]) -> LinearHead:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read ({error}); copy the model folder again.") from error
    head = LinearHead.from_tensors(tensors)
    if head.n_classes != facts.get("n_classes"):
        raise ModelError(f"{path} has {head.n_classes} classes, head.json {facts.get('n_classes')}: not one model.")
    return head


def _load_ensemble(path: Path, facts: dict[str, Any]) -> Head:
    try:
        scales = tuple(_read_scales(row) for row in facts["scales"])
        n_classes = int(facts["n_classes"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} lacks or misstates {error}; copy the model folder again.") from error
    finite = all(0 <= scale < math.inf for row in scales for scale in np.ravel(row))
    shapes = {np.shape(row)[1:] for row in scales}
    finite = finite and shapes in ({()}, {(n_classes,)})
    if {len(row) for row in scales} not in ({1}, {2}) or not finite:
        raise ModelError(f"{path}: expected one or two scales a member, found {scales}; copy the model folder again.")
    return EnsembleHead(scales, n_classes)


def _read_scales(row: Any) -> Scales:
    """Return the scales of a member: a number a source, or of several labels a row a source."""
    if all(isinstance(each, list) for each in row):
        return tuple(tuple(map(float, each)) for each in row)
    return tuple(map(float, row))


def _load_model(path: Path, facts: dict[str, Any]) -> Any:
    from skops.io import get_untrusted_types, loads

    try:
        content = path.read_bytes()
        unknown = set(get_untrusted_types(data=content))
        model = loads(content, trusted=sorted(unknown)) if unknown <= TRUSTED else None
    except Exception as error:  # a damaged archive fails in many ways
        raise ModelError(
            f"{path} cannot be read ({type(error).__name__}: {error}); it was written with scikit-learn "
            f"{facts.get('scikit_learn')}. Copy the model folder again, or install that version."
        ) from error
    if not unknown <= TRUSTED:
        raise ModelError(
            f"{path} holds {', '.join(sorted(unknown - TRUSTED))}, which no head is made of and which could run code: "
            "it is not loaded. Fit the head again, or get the model from where it was made."
        )
    if not hasattr(model, "predict_proba") or not hasattr(model, "n_features_in_"):
        raise ModelError(f"{path} should hold a fitted scikit-learn classifier; found {type(model).__name__}.")
    return model
