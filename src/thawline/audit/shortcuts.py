"""Shortcuts: how well labels are predicted from what must not tell them, such as file size, station or border.

A model may learn them in place of the disease (Zech et al., PLOS Medicine 15:e1002683, 2018; DeGrave et al., Nature Machine
Intelligence 3:610, 2021). Each source is shown alone to a forest of trees, on folds by patient. What it finds in pixels may
be anatomy as well, which the examples tell; what it finds in a header cannot be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from thawline.audit.duplicates import SIDE_PX
from thawline.audit.findings import SHORTCUT, Finding
from thawline.audit.pictures import Pictures
from thawline.audit.traits import read_traits
from thawline.data.label_sets import find_strata
from thawline.data.readers import ImageFacts
from thawline.data.splits import make_folds
from thawline.errors import DataError
from thawline.judge.evaluation import evaluate
from thawline.types import MISSING

if TYPE_CHECKING:
    from thawline.audit.traits import Traits
    from thawline.types import Content, FloatArray, Groups, IntArray, Labels

    Sources: TypeAlias = Mapping[str, FloatArray]  # name of a source: what it says of each item, (items, columns)

LEAST_AUC, SEVERE_AUC = 0.6, 0.7  # of the lower bound, from which on a source is found, and is severe
CELL_PX = 4  # of the pixels that are shown
BORDER_PX, CORNER_PX, MARGIN_PX = 4, 12, 12  # widths of border and corners, and of the background around the middle
N_TREES, LEAST_LEAF = 50, 3
MOST_ITEMS = 4000  # shown to the trees: chosen by chance where there are more
N_RESAMPLES = 500
SHOWN_ITEMS = 3  # of each class
IN_HEADERS = "classes come from different places, which a network sees in the pixels as well: balance the sources"
IN_PIXELS = "look whether it is the disease that shows there; if not, crop or cover it"
UNSEEN = -1.0  # what a header does not say
DEVICE = {  # source: traits of headers that it is made of
    "modality": ("modality",),
    "manufacturer": ("maker", "model"),
    "station": ("station",),
    "software": ("software",),
    "institution": ("institution",),
}
HEADERS = ("file format", "size", "aspect", "bit depth", "compression", *DEVICE)
PIXELS = ("border", "corners", "background", "burned-in marks")


@dataclasses.dataclass(frozen=True, slots=True)
class Shortcut:
    """How well a source predicts the label: AUC with its interval, and items that show it, a group a class.

    Of several labels an item it is the ``label`` that it predicts best.
    """

    source: str
    auc: float
    low: float
    high: float
    shown: tuple[tuple[int, ...], ...]
    label: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data, as `audit.json` holds it."""
        of = {"label": self.label} if self.label else {}
        return {"source": self.source, **of, "auc": {"value": self.auc, "low": self.low, "high": self.high}}


def find_shortcuts(
    contents: Sequence[Content],
    facts: Sequence[ImageFacts],
    pictures: Pictures,
    labels: Labels,
    groups: Groups,
    seed: int,
    threads: int,
    names: Sequence[str] = (),
) -> list[Shortcut]:
    """Return how well each source that differs among these items predicts their labels; the first five are aligned.

    Of very many items some are chosen by chance, as many of each class. ``names`` are those of several labels an item.
    """
    chosen = choose_items(labels, seed)
    sources = gather_sources(
        [contents[item] for item in chosen], [facts[item] for item in chosen], pictures.take(chosen), threads
    )
    about = labels[chosen], groups[chosen], seed, threads
    found = measure_shortcuts(sources, *about) if labels.ndim == 1 else measure_labels(sources, *about, names)
    return [
        dataclasses.replace(each, shown=tuple(tuple(chosen[list(group)].tolist()) for group in each.shown))
        for each in found
    ]


def choose_items(labels: Labels, seed: int) -> IntArray:
    """Return the positions of at most `MOST_ITEMS` items, a share of each class, of rare ones all."""
    labels = find_strata(labels)
    draw, present = np.random.default_rng(seed), np.unique(labels)
    share = MOST_ITEMS // max(len(present), 1)
    parts = [draw.permutation(np.flatnonzero(labels == number))[:share] for number in present]
    return np.sort(np.concatenate(parts)) if parts else np.empty(0, np.int64)


def gather_sources(
    contents: Sequence[Content], facts: Sequence[ImageFacts], pictures: Pictures, threads: int
) -> dict[str, FloatArray]:
    """Return what each source says of each item, sources aside that say the same of all; all arguments are aligned.

    Headers are read again, pixels are not. What texts of headers say is numbered, and not kept.
    """
    with ThreadPoolExecutor(threads) as pool:
        traits = list(pool.map(read_traits, contents))
    return dict(_select_telling(traits, facts, pictures))


def _select_telling(
    traits: Sequence[Traits], facts: Sequence[ImageFacts], pictures: Pictures
) -> Iterator[tuple[str, FloatArray]]:
    areas = [each.width_px * each.height_px * each.slices for each in facts]
    columns: dict[str, list[Sequence[Any]]] = {
        "file format": [[each.format for each in facts], [each.get("mode") for each in traits]],
        "size": [
            [each.width_px for each in facts],
            [each.height_px for each in facts],
            [each.slices for each in facts],
        ],
        "aspect": [[each.width_px / each.height_px for each in facts]],
        "bit depth": [[each.bits for each in facts], [each.channels for each in facts]],
        "compression": [
            [float(each.get("bytes", UNSEEN)) / area for each, area in zip(traits, areas, strict=True)],
            *([each.get(name) for each in traits] for name in ("compression", "coarseness")),
        ],
    }
    columns |= {source: [[each.get(name) for each in traits] for name in names] for source, names in DEVICE.items()}
    found = {name: np.column_stack([_number(values) for values in given]) for name, given in columns.items()}
    found |= dict(zip(PIXELS, _take_pixels(pictures), strict=True))
    for name, each in found.items():
        if bool((each != each[:1]).any()):
            yield name, each


def _number(values: Sequence[Any]) -> FloatArray:
    """Return numbers as they are, texts as their places in the sorted list of them, and nothing as `UNSEEN`."""
    names = {text: place for place, text in enumerate(sorted({each for each in values if isinstance(each, str)}))}
    return np.array([UNSEEN if each is None else names.get(each, each) for each in values], np.float64)


def _take_pixels(pictures: Pictures) -> tuple[FloatArray, ...]:
    """Return border, corners and background in cells, and the counts of letters and signs: each (items, columns)."""
    grey = pictures.grey.astype(np.float64)
    n_items, n_cells = len(grey), SIDE_PX // CELL_PX
    cells = grey.reshape(n_items, n_cells, CELL_PX, n_cells, CELL_PX).mean(axis=(2, 4))
    row, column = np.indices((n_cells, n_cells))
    depth = np.minimum.reduce([row, column, n_cells - 1 - row, n_cells - 1 - column])  # cells to the nearest side
    near = [np.minimum(each, n_cells - 1 - each) for each in (row, column)]
    corner = (near[0] < CORNER_PX // CELL_PX) & (near[1] < CORNER_PX // CELL_PX)
    border, background = depth < BORDER_PX // CELL_PX, depth < MARGIN_PX // CELL_PX
    marks = np.hstack([pictures.letters, pictures.signs]).astype(np.float64)
    return (*(cells[:, mask] for mask in (border, corner, background)), marks)


def measure_shortcuts(sources: Sources, labels: Labels, groups: Groups, seed: int, threads: int) -> list[Shortcut]:
    """Predict the label from each source alone on folds by group, and return how well; none where nothing can be folded.

    ``labels`` and ``groups`` have shape (items,); items are named by their positions. AUCs of several classes are means.
    """
    from sklearn.ensemble import ExtraTreesClassifier

    present, labels = np.unique(labels, return_inverse=True)
    if len(present) < 2:
        return []
    classes = tuple(map(str, range(len(present))))
    try:
        folds, n_folds = make_folds(labels, groups, seed, 5)
    except DataError:
        return []

    def measure(source: tuple[str, FloatArray]) -> Shortcut | None:
        name, values = source
        probabilities = np.zeros((len(labels), len(classes)))
        for fold in range(n_folds):
            trees = ExtraTreesClassifier(N_TREES, min_samples_leaf=LEAST_LEAF, random_state=seed)
            trees.fit(values[folds != fold], labels[folds != fold])
            probabilities[folds == fold] = trees.predict_proba(values[folds == fold])
        section = evaluate(
            labels, probabilities, groups, classes, classes[-1], folds=folds, seed=seed, n_resamples=N_RESAMPLES
        )
        auc = section["auc"]
        if None in (auc["value"], auc["low"], auc["high"]):
            return None
        shown = tuple(tuple(places.tolist()) for places in _show(labels, probabilities, len(classes)) if len(places))
        return Shortcut(name, auc["value"], auc["low"], auc["high"], shown)

    with ThreadPoolExecutor(threads) as pool:  # a source each: trees of few items are too small to be shared out
        return [found for found in pool.map(measure, sources.items()) if found is not None]


def measure_labels(
    sources: Sources, labels: Labels, groups: Groups, seed: int, threads: int, names: Sequence[str]
) -> list[Shortcut]:
    """Return how well each source predicts the one of several labels, (items, labels), that it predicts best."""
    best: dict[str, Shortcut] = {}
    for name, values in zip(names, labels.T, strict=True):
        known = np.flatnonzero(values != MISSING)
        parts = {source: columns[known] for source, columns in sources.items()}
        for found in measure_shortcuts(parts, values[known], groups[known], seed, threads):
            if found.source not in best or found.low > best[found.source].low:
                shown = tuple(tuple(known[list(group)].tolist()) for group in found.shown)
                best[found.source] = dataclasses.replace(found, shown=shown, label=name)
    return [best[source] for source in sources if source in best]


def _show(labels: Labels, probabilities: FloatArray, n_classes: int) -> Iterator[IntArray]:
    """Yield of each class the places of the items that the source tells most surely."""
    for number in range(n_classes):
        of_class = np.flatnonzero(labels == number)
        surest = np.argsort(-probabilities[of_class, number], kind="stable")[:SHOWN_ITEMS]
        yield of_class[surest]


def judge_shortcuts(shortcuts: Sequence[Shortcut]) -> Iterator[Finding]:
    """Yield the sources that predict the label better than chance, the best first."""
    for each in sorted(shortcuts, key=lambda shortcut: -shortcut.low):
        if each.low < LEAST_AUC:
            continue
        remedy = IN_HEADERS if each.source in HEADERS else IN_PIXELS
        how_well = f"{each.auc:.3f} [{each.low:.3f}, {each.high:.3f}]"
        label = f"the label {each.label}, and others less well," if each.label else "the label"
        text = f"alone it predicts {label} with an AUC of {how_well}; {remedy}"
        yield Finding(
            SHORTCUT + each.source, "severe" if each.low >= SEVERE_AUC else "note", text, each.shown, counted=False
        )
