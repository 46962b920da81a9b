"""The model folder: all that is needed to predict, and a check that this machine computes what the run computed.

``weights.safetensors`` (backbone, and what was trained above a thaw line), ``head.*``, ``familiarity.safetensors``,
``contract.json`` (preprocessing, classes, threshold, calibration, digests) and ``card.md``. Nothing in it runs code when it
is read.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import thawline
from thawline.data.label_sets import write_labels
from thawline.data.readers import READER_VERSION
from thawline.data.scan import Look, scan
from thawline.data.slides import FORMAT
from thawline.errors import ModelError, UnreadableItemsError
from thawline.files import file_digest, json_digest, said_plainly, write_atomic, write_json
from thawline.judge.evaluation import call_labels, predict_labels
from thawline.judge.familiarity import score_familiarity
from thawline.learn.augment import CLEAN, View
from thawline.learn.bags import LINE
from thawline.learn.engine import allowed_precisions, detect_hardware, name_engine
from thawline.learn.ensemble import EnsembleHead
from thawline.learn.features import Extraction, extract
from thawline.learn.handcrafted import extract_handcrafted
from thawline.learn.head_files import load_head, save_head
from thawline.learn.heads import Head
from thawline.learn.loading import read_backbone_tensors
from thawline.learn.networks import Architecture, OwnNetwork, replace_code
from thawline.learn.weight_files import Weights
from thawline.share.safeguards import FILE, Safeguards
from thawline.types import MULTILABEL, Contract, Hardware, Listener, SilentListener

if TYPE_CHECKING:
    from thawline.types import Content, FloatArray, Pixels, Probabilities

SCHEMA = 1
TOLERANCE = 1e-4  # probabilities at equal precision
LOOSE_TOLERANCE = 1e-2  # probabilities at another precision


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained classifier with its preprocessing contract; made by `load_model`.

    ``texture`` says that its head takes handcrafted features and the backbone is not used; ``views`` are those that
    predictions are averaged over, the clean one first. Where it is ``multilabel``, ``classes`` are labels, of which an image
    has any number, each with a probability of its own.
    """

    classes: tuple[str, ...]
    positive: str | None
    threshold: float
    contract: Contract
    weights: Weights
    head: Head
    hardware: Hardware
    digest: str
    texture: bool = False
    views: tuple[View, ...] = (CLEAN,)
    multilabel: bool = False
    safeguards: Safeguards = dataclasses.field(default_factory=Safeguards)

    def predict_proba(
        self, images: Sequence[Content | str], listener: Listener | None = None, *, skip_unreadable: bool = False
    ) -> Probabilities:
        """Return probabilities, float64, shape (images, classes), columns as ``classes``.

        ``images`` are paths or pixel arrays. Raises UnreadableItemsError; with ``skip_unreadable`` such rows are nan.
        """
        listener = listener or SilentListener()
        contents: list[Content] = [Path(image) if isinstance(image, str) else image for image in images]
        return self.predict_looked(contents, self.look(contents, listener), listener, skip_unreadable=skip_unreadable)

    def look(self, contents: Sequence[Content], listener: Listener) -> list[Look]:
        """Read every image once: its digest, and what it is or why it cannot be read."""
        return scan(contents, self.hardware.cores, listener, self.contract.reading) if contents else []

    def predict_looked(
        self, contents: Sequence[Content], looks: Sequence[Look], listener: Listener, *, skip_unreadable: bool = False
    ) -> Probabilities:
        """Return what `predict_proba` does, of images that were looked at. Raises UnreadableItemsError."""
        probabilities = np.full((len(contents), len(self.classes)), np.nan)
        problems = [find_problem(look, self.contract) for look in looks]
        good = [index for index, problem in enumerate(problems) if not problem]
        bad = [(_name(contents[index], index), problem) for index, problem in enumerate(problems) if problem]
        if bad and not skip_unreadable:
            raise UnreadableItemsError(bad, len(contents))
        self._warn_of_range([looks[index] for index in good], listener)
        if good:
            chosen, digests = [contents[index] for index in good], [looks[index].digest for index in good]
            probabilities[good] = self.classify(chosen, digests, listener)
        return probabilities

    def classify(
        self, contents: Sequence[Content], digests: Sequence[str], listener: Listener, step: str = "features"
    ) -> Probabilities:
        """Return probabilities of readable images, the mean over the model's views. Raises DataError.

        ``digests`` are those of the contents.
        """
        return self.score(self.extract_views(contents, digests, listener, step))

    def extract_views(
        self, contents: Sequence[Content], digests: Sequence[str], listener: Listener, step: str = "features"
    ) -> list[Extraction]:
        """Return what the head takes of readable images, of each of the model's views. Raises DataError."""
        if self.texture:
            texture = extract_handcrafted(contents, self.contract, self.hardware.cores, listener, step)
            return [Extraction(texture, len(texture), 0, len(texture))]
        about = (contents, digests, self.weights, self.contract, self.hardware, listener, step)
        return [extract(*about, view) for view in self.views]

    def score(self, views: Sequence[Extraction]) -> Probabilities:
        """Return the mean of the probabilities of all views, calibrated."""
        found = [view.features for view in views]
        if isinstance(self.head, EnsembleHead):
            found = [self.head.hold_frozen(features, found[0]) for features in found]
        mean = np.mean([self.head.predict_proba(features) for features in found], axis=0)
        return self.safeguards.calibrate(mean)

    def measure_strangeness(
        self, contents: Sequence[Content], digests: Sequence[str], listener: Listener, step: str = "familiarity"
    ) -> FloatArray | None:
        """Return how unlike the development items readable images are, (images,), None where the model cannot tell.

        By features of the frozen backbone, which a model with trained networks computes beside its own.
        """
        if self.safeguards.familiarity is None:
            return None
        frozen = dataclasses.replace(self.weights, thaw_line=None)
        contract = dataclasses.replace(self.contract, feature_dtype="float16", precision=self.safeguards.precision)
        features = extract(contents, digests, frozen, contract, self.hardware, listener, step).features
        return score_familiarity(self.safeguards.familiarity, features)

    def predict(self, images: Sequence[Content | str], listener: Listener | None = None) -> list[str]:
        """Return the class name of each image, at the model's threshold. Raises UnreadableItemsError."""
        return self.name_classes(self.predict_proba(images, listener))

    def name_classes(self, probabilities: Probabilities) -> list[str]:
        """Return the class that each row of probabilities stands for; several labels are joined by |, none is "none"."""
        if self.multilabel:
            return [write_labels(row, self.classes) for row in call_labels(probabilities, self.threshold)]
        return [self.classes[k] for k in predict_labels(probabilities, self.classes, self.positive, self.threshold)]

    def _warn_of_range(self, looks: Sequence[Look], listener: Listener) -> None:
        """Say when pixels lie outside the values that the model was made for: they are clipped."""
        if self.contract.wide_range is None:
            return
        low, high = self.contract.wide_range
        outside = sum(
            look.facts is not None and look.facts.bits > 8 and (look.facts.minimum < low or look.facts.maximum > high)
            for look in looks
        )
        if outside:
            listener.warn(
                f"{outside} of {len(looks)} images have values outside {low:g} to {high:g}, the range of the images "
                "that the model was made from; values beyond are clipped, so check the bit depth"
            )


def save_model(
    folder: Path,
    *,
    weights: Weights,
    contract: Contract,
    head: Head,
    hardware: Hardware,
    task: Mapping[str, Any],
    thaw_line: str | None = None,
    members: Mapping[str, Any] | None = None,
    texture: bool = False,
    views: tuple[View, ...] = (CLEAN,),
    safeguards: Safeguards | None = None,
) -> Model:
    """Write a model folder and return the model, read back from it; ``task`` is that of `metrics.json`.

    ``members`` are the tensors of what was trained above ``thaw_line``, by their names in the folder.
    Raises OutputError.
    """
    import torch
    from safetensors.torch import save

    with said_plainly(folder):
        folder.mkdir(parents=True, exist_ok=True)
    trained = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in (members or {}).items()}
    write_atomic(folder / "weights.safetensors", save({**read_backbone_tensors(weights), **trained}))
    with said_plainly(folder):
        for stale in folder.glob("head.*"):
            stale.unlink()
        save_head(head, folder)
        (folder / FILE).unlink(missing_ok=True)
    safeguards = safeguards or Safeguards()
    if arrays := {name: torch.from_numpy(np.ascontiguousarray(each)) for name, each in safeguards.arrays().items()}:
        write_atomic(folder / FILE, save(arrays))
    files = sorted(path for path in folder.iterdir() if path.name.startswith(("weights.", "head.", "familiarity.")))
    facts = {
        "schema": SCHEMA,
        "thawline": thawline.__version__,
        "reader": READER_VERSION,
        "engine": name_engine(hardware),
        "architecture": weights.architecture.to_json(),
        "weights": weights.describe(),
        "thaw_line": thaw_line,
        "texture": texture,
        "views": [view.to_json() for view in views],
        "input": contract.to_json(),
        "head": head.name,
        "task": dict(task),
        "safeguards": safeguards.to_json(),
        "files": {path.name: file_digest(path) for path in files},
    }
    _write_contract(folder, {**facts, "probe": None})
    model = _read_model(folder, hardware)
    _write_contract(folder, {**facts, "probe": _predict_probe(model).tolist()})
    return _read_model(folder, hardware)


def load_model(
    folder: Path | str, *, network: OwnNetwork | None = None, device: str = "auto", listener: Listener | None = None
) -> Model:
    """Load a model from a run folder or its model folder, and check that it computes here what it computed there.

    A model with a ``network`` of the user's own is given it again, since a model folder holds no code.
    Raises ModelError where files are missing, changed or of another version. Where this processor lacks the precision
    of the contract, f32 is used, with a warning.
    """
    if network is not None:
        network.check()
    folder = Path(folder)
    folder = folder / "model" if (folder / "model" / "contract.json").is_file() else folder
    listener = listener or SilentListener()
    model = _read_model(folder, detect_hardware(device))
    facts = _read_contract(folder)
    tolerance = TOLERANCE
    if model.contract.precision not in allowed_precisions(model.hardware):
        listener.warn(
            f"the model was made with {model.contract.precision} arithmetic, which this processor lacks; f32 is used, and "
            f"probabilities may differ by up to {LOOSE_TOLERANCE}"
        )
        model = dataclasses.replace(model, contract=dataclasses.replace(model.contract, precision="f32"))
        tolerance = LOOSE_TOLERANCE
    difference = np.abs(_predict_probe(model) - _read_probe(folder, facts)).max()
    if not difference <= LOOSE_TOLERANCE:
        raise ModelError(
            f"{folder}: this machine computes other probabilities than the run did (difference {difference:.4f} on the "
            f"model's own test image, expected at most {LOOSE_TOLERANCE}); made with {facts['engine']}, here "
            f"{name_engine(model.hardware)}. Install the versions that the run's spec.json names"
        )
    if difference > tolerance:
        listener.warn(
            f"probabilities differ by {difference:.1e} from the run's on the model's own test image (expected at most "
            f"{tolerance:g}); made with {facts['engine']}, here {name_engine(model.hardware)}"
        )
    return model


def find_problem(look: Look, contract: Contract) -> str:
    """Say why an image cannot be predicted under ``contract``; empty where it can."""
    if look.facts is not None and look.facts.bits > 8 and contract.wide_range is None:
        return f"{look.facts.bits}-bit pixels, but the model was made from 8-bit images only; convert it to 8 bits"
    if look.facts is not None and look.facts.channels > 2 and contract.grey:
        return "a colour image, but the model was made for grey ones only (--grey sum); convert it to grey"
    if look.facts is not None and look.facts.format != "array":
        tiled = contract.reading.tile_px > 0
        if tiled and look.facts.format != FORMAT:
            return "an image, but the model was made for whole slides; give it slides"
        if look.facts.format == FORMAT and not tiled:
            return "a whole slide, but the model was made for images or volumes; give it such"
    return look.problem


def draw_probe(contract: Contract) -> Pixels:
    """Draw the model's own test image: rings and a ramp in whole numbers, 96 x 128, as deep as the contract's images."""
    rows, columns = np.mgrid[0:96, 0:128]
    rings: Pixels = ((rows - 40) ** 2 + (columns - 70) ** 2) // 13 % 256
    mixed: Pixels = (rings + 2 * columns) // 2 % 256
    if contract.wide_range is None:
        return mixed.astype(np.uint8)
    low, high = contract.wide_range
    return (low + (high - low) * mixed / 255).astype(np.float32)


def _predict_probe(model: Model) -> Probabilities:
    """Return the probabilities of the model's own test image, (classes,), not calibrated, as a flat map would hide much."""
    plain = dataclasses.replace(model, safeguards=Safeguards())
    found: Probabilities = plain.predict_proba([draw_probe(model.contract)])[0]
    return found


def _read_model(folder: Path, hardware: Hardware) -> Model:
    facts = _read_contract(folder)
    for name, digest in facts["files"].items():
        path = folder / name
        if not path.is_file():
            raise ModelError(f"{folder}: expected the file {name}, found none; copy the whole model folder")
        if file_digest(path) != digest:
            raise ModelError(
                f"{path}: its SHA-256 is not the one in contract.json; the file was changed or cut. Copy it anew"
            )
    try:
        described = {key: facts["weights"][key] for key in ("sha256", "source", "licence", "pretrained_on")}
        if facts["thaw_line"] not in (None, LINE):  # above which no part of the backbone was trained
            described["sha256"] = facts["files"]["weights.safetensors"]
        architecture = Architecture.from_json(facts["architecture"])
        if architecture.builder == "own":
            architecture = replace_code(architecture)
        weights = Weights(
            architecture, folder / "weights.safetensors", **described, has_head=False, thaw_line=facts["thaw_line"]
        )
        task = facts["task"]
        return Model(
            classes=tuple(task["classes"]),
            positive=task["positive"],
            threshold=float(task["threshold"]),
            contract=Contract.from_json(facts["input"]),
            weights=weights,
            head=load_head(folder),
            hardware=hardware,
            digest=file_digest(folder / "contract.json"),
            texture=bool(facts["texture"]),
            views=tuple(View.from_json(view) for view in facts["views"]),
            multilabel=task.get("kind") == MULTILABEL,
            safeguards=_read_safeguards(folder, facts),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{folder / 'contract.json'}: cannot be used: {error!r}; copy the model folder anew"
        ) from error


def _read_safeguards(folder: Path, facts: Mapping[str, Any]) -> Safeguards:
    """Read what was settled about calibration and doubt; nothing of a model that was made before there was such."""
    from safetensors.numpy import load_file

    if "safeguards" not in facts:
        return Safeguards()
    return Safeguards.from_json(facts["safeguards"], load_file(folder / FILE) if FILE in facts["files"] else {})


def _read_probe(folder: Path, facts: Mapping[str, Any]) -> Probabilities:
    """Return the probabilities of the model's own test image, shape (classes,). Raises ModelError where there are none."""
    if not isinstance(facts.get("probe"), list) or len(facts["probe"]) != len(facts["task"]["classes"]):
        raise ModelError(
            f"{folder / 'contract.json'}: expected one probability a class of the model's own test image, found "
            f"{facts.get('probe')}: the model was not finished. Run the same `thawline run` again; finished work is kept"
        )
    return np.array(facts["probe"], np.float64)


def _write_contract(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write `contract.json` with the digest of what it states: a swapped class name would compute the same numbers."""
    write_json(folder / "contract.json", {**facts, "digest": json_digest(facts)})


def _read_contract(folder: Path) -> dict[str, Any]:
    path = folder / "contract.json"
    if not path.is_file():
        raise ModelError(f"{folder}: expected a run folder or a model folder with contract.json, found none")
    try:
        facts = dict(json.loads(path.read_text("utf-8")))
        found = facts["schema"], facts["reader"]
        stated = facts.pop("digest")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: cannot be read as a contract: {error!r}; copy the model folder anew") from error
    if found != (SCHEMA, READER_VERSION):
        raise ModelError(
            f"{path}: expected schema and reader {(SCHEMA, READER_VERSION)}, found {found}: the model is of Thawline "
            f"{facts.get('thawline', 'unknown')}, this is {thawline.__version__}. Use that version"
        )
    if json_digest(facts) != stated:
        raise ModelError(f"{path}: what it states is not what its digest says; it was changed or cut. Copy it anew")
    return facts


def _name(content: Content, index: int) -> str:
    return str(content) if isinstance(content, Path) else f"array {index}"
