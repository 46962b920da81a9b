"""The options of the main job: each declared once, with its default, its range and its meaning in one line.

The command line and the guide derive from here; `check_options` enforces the ranges.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thawline.cost import read_duration
from thawline.data.schemes import SITE, TIME, read_scheme
from thawline.data.slice_forms import INFORMATIVE, USUAL_SLICES, USUAL_TILES, read_form
from thawline.errors import OptionError
from thawline.types import (
    BAG,
    CHANNELS,
    DIMENSIONS,
    FRAMES,
    LEAST_MPP,
    MAMMOGRAPHY,
    MIDDLE,
    MOST_MPP,
    PLANES,
    POOLINGS,
    SUV,
    VOLUMES,
    WINDOWS,
    Reading,
)

STRATEGIES: dict[str, tuple[str, ...]] = {  # name: aliases accepted, as the literature has them
    "feature_extractor": ("frozen", "linear probe", "linear probing", "off the shelf"),
    "feature_extractor_hybrid": ("hybrid", "deep features + classifier", "off the shelf features"),
    "fine_tuning": (
        "partial fine tuning",
        "shallow tuning",
        "shallow fine tuning",
        "layer wise fine tuning",
        "surgical fine tuning",
    ),
    "fine_tuning_from_scratch": (
        "full fine tuning",
        "deep tuning",
        "deep fine tuning",
        "end to end",
        "end to end fine tuning",
    ),
    "handcrafted": ("hand crafted", "hand crafted features", "hog + lbp"),
    "random_init": (
        "from scratch",
        "training from scratch",
        "full training",
        "random initialisation",
        "random initialization",
    ),
}
HEADS: dict[str, tuple[str, ...]] = {  # strategy: its heads, cheapest first; this order is the order of preference
    "feature_extractor": ("linear",),
    "feature_extractor_hybrid": ("svm", "random_forest", "k_nn", "gradient_boosting"),
}
ALL_HEADS = tuple(head for heads in HEADS.values() for head in heads)
THAWED = ("fine_tuning", "fine_tuning_from_scratch")
TRAINED = (*THAWED, "random_init")  # all that train networks
CONTROLS = ("handcrafted", "random_init")  # reported, never chosen where there is anything else
MODALITIES = ("unknown", "xray", "ct", "mri", "ultrasound", "microscopy", "dermoscopy", "fundus", "endoscopy")

CALIBRATORS = ("none", "temperature", "platt", "beta", "isotonic")  # the simplest first: the order of preference
THRESHOLDS = ("sensitivity", "specificity", "cost")  # what a threshold may be chosen for

LEAST_PX, MOST_PX = 32, 1024
MOST_TILE_PX = 4096
AUTO, NEVER = "auto", "never"
FEW_PATIENTS = 400  # below it a test part of 20 % is judged with a wide interval
MOST_REPEATS = 100


def option(
    default: Any, meaning: str, *, among: tuple[str, ...] = (), least: int | None = None, most: int | None = None
) -> Any:
    """Declare one option: its default, its one-line meaning, and its range."""
    return dataclasses.field(
        default=default, metadata={"meaning": meaning, "among": among, "least": least, "most": most}
    )


@dataclasses.dataclass(frozen=True, slots=True)
class RunOptions:
    """What a user may decide about a run; everything else is decided by the plan."""

    backbone: str = option(
        "efficientnet_lite0",
        "Pretrained network: a name from the table, timm/NAME or torchvision/NAME; several, with commas, race.",
    )
    weights: Path | None = option(
        None, "Weight file to use, with its description NAME.json beside it, or a folder of such."
    )
    size_px: int | None = option(
        None,
        "Side of the network's input; else that of its training or a larger one, as measured.",
        least=LEAST_PX,
        most=MOST_PX,
    )
    strategy: str | None = option(
        None, "Try these strategies only, commas between them, by their names or by the terms of the literature."
    )
    head: str | None = option(None, "Try this head of the frozen backbone only.", among=ALL_HEADS)
    thaw_line: str | None = option(None, "Thaw from this line only; --plan-only lists them.")
    ratio: float | None = option(None, "Thaw at the line whose share of parameters above it is nearest to this.")
    last_layers: int | None = option(None, "Thaw the last so many layers.", least=1)
    blocks: str | None = option(None, "Thaw the contiguous blocks LOWEST:HIGHEST only, by the names of their lines.")
    sequence: str = option("blocks", "Steps of the thaw line: whole blocks, or layers.", among=("blocks", "layers"))
    head_layers: int = option(1, "Fully connected layers of a thawed network's head.", least=1)
    auto_rgn: bool = option(False, "Weight the learning rate of each parameter by its relative gradient norm.")
    train_norms: bool = option(False, "Train the running statistics of batch normalisation above the line.")
    mixup: float = option(0.4, "Manifold mixup: both parameters of the beta distribution, 0 for none.", least=0)
    loss: str = option("cross_entropy", "Loss of thawed networks.", among=("cross_entropy", "focal"))
    sampling: str = option("natural", "How items are drawn in training.", among=("natural", "balanced"))
    modality: str = option("unknown", "What the images are; decides how they are augmented.", among=MODALITIES)
    side_matters: bool = option(False, "Left and right must not be exchanged: no horizontal flips.")
    grey: str = option(
        "repeat",
        "Grey images: their values three times, or once to a first convolution summed over its channels.",
        among=("repeat", "sum"),
    )
    window: str | None = option(
        None,
        "Window of DICOM or volumes: lung, bone, brain, soft_tissue, mammography, suv or CENTRE/WIDTH; three make channels.",
    )
    labels: Path | None = option(
        None, "Table of labels of DICOM files: label, and patient, study, series, instance or accession."
    )
    keys: str | None = option(
        None, "Arrays of an .npz, HDF5 or Zarr file: images=NAME,labels=NAME, and patients, split, lesions likewise."
    )
    frame: str = option(
        "only", "Frame of DICOM images of several, or slice of volumes: first, middle, last or its number."
    )
    plane: str = option(PLANES[0], "Plane of the slices of volumes.", among=PLANES)
    isotropic: bool = option(False, "Resample volumes to their finest spacing first.")
    dimensions: str = option(
        "auto",
        "What a network is shown of a volume: one slice, three as channels, a bag, or all at once; auto: a frame, or a bag.",
        among=DIMENSIONS,
    )
    slices: str = option(
        AUTO,
        "Slices of a bag or volume, tiles of a slide: all, every:K, centre:N, spread:N (evenly) or informative:N (entropy).",
    )
    pooling: str = option(POOLINGS[0], "How the features of a bag's slices become those of the item.", among=POOLINGS)
    mpp: float = option(0.5, "Resolution at which the tiles of whole slides are read, in µm per pixel.")
    tile_px: int | None = option(
        None,
        "Side of the tiles of whole slides at that resolution; else that of the network's input.",
        least=LEAST_PX,
        most=MOST_TILE_PX,
    )
    views: int | None = option(None, "Augmented views to cache for each item; 0 computes fresh ones.", least=0)
    controls: str = option("handcrafted", "Controls to report, with commas between: handcrafted, random_init, or none.")
    useful_gain: float = option(0.01, "Gain in AUC below which a deeper line is not worth it.", least=0)
    tta: bool = option(False, "Average over augmented views in prediction, where that helps out of fold.")
    final: str = option(
        "auto",
        "What a thawed rung delivers: the networks of its folds, or one of all; auto: by the folds, up to three of all.",
        among=("auto", "ensemble", "refit"),
    )
    budget: str = option(
        "20m", "Time to spend on choosing, with its unit: 90s, 20m, 2h, or none. The first rung is always finished."
    )
    positive: str | None = option(None, "Positive class of a two-class task.")
    multilabel: bool = option(False, "The column label holds several names an item, joined by |.")
    grades: str | None = option(None, "Classes that are grades, in their order, commas between: an ordinal task.")
    seed: int = option(0, "Seed of splits, heads and intervals.", least=0, most=2**32 - 1)
    folds: int = option(5, "Development folds by patient; fewer where a class has too few patients.", least=2)
    validation: str = option(
        "folds", "Score development by folds, on the given val part, or site:COLUMN, by leaving out one site at a time."
    )
    nested: str = option(
        AUTO,
        "Choose anew with each fifth of the patients put aside: never, N times, or auto: below 400 patients, in budget.",
    )
    test: str | None = option(
        None, "Test part where none is given: site:COLUMN=VALUE, one site, or time:COLUMN, the latest patients."
    )
    class_weight: str = option("none", "Weight classes when fitting heads and networks.", among=("none", "balanced"))
    calibration: str = option(
        AUTO, "Map to calibrated probabilities; auto: chosen out of fold.", among=(AUTO, *CALIBRATORS)
    )
    threshold: str = option(
        "0.5",
        "Threshold: a probability, or sensitivity:0.9, specificity:0.9 or cost:RATIO (of a miss over a false alarm).",
    )
    prevalence: float | None = option(
        None, "Share of the positive class where the model is to be used; predictive values are given there too."
    )
    coverage: float = option(0.9, "Share of patients whose class prediction sets are to hold.")
    subgroups: str = option(
        AUTO, "Columns of the table to judge parts by, commas between, or none; auto: sex, age, site and the like."
    )
    precision: str = option(
        "auto", "Arithmetic of the engine; f32 is that of training too.", among=("auto", "f32", "bf16")
    )
    compile: bool = option(False, "Train through torch.compile, which pays on a GPU for many items.")
    device: str = option("auto", "Where the engine runs.", among=("auto", "cpu", "cuda"))
    audit: str = option(
        "full",
        "Look for near-duplicates, which stay together where no patient is named, and shortcuts; leaks: not for shortcuts.",
        among=("full", "leaks", "none"),
    )
    hold_test: bool = option(False, "Leave the test part closed: report development only.")
    allow_outside: bool = option(False, "Allow a manifest's paths to leave its folder.")
    allow_leak: bool = option(False, "Go on although patients or images cross the given split; the report says so.")
    skip_unreadable: bool = option(False, "Leave out items that cannot be read; the report says which.")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data, as `spec.json` holds it; files by their names only."""
        names = {
            field: path.name if path else None for field, path in (("weights", self.weights), ("labels", self.labels))
        }
        return dataclasses.asdict(self) | names


def change_options(options: RunOptions, **changes: Any) -> RunOptions:
    """Return the options with some fields changed. Raises OptionError for a name that is none."""
    known = [field.name for field in dataclasses.fields(options)]
    unknown = [name for name in changes if name not in known]
    if unknown:
        raise OptionError(f"unknown option {', '.join(unknown)}: expected some of {', '.join(known)}")
    return dataclasses.replace(options, **changes)


def check_options(options: RunOptions) -> RunOptions:
    """Check every option against its range and resolve aliases. Raises OptionError."""
    for field in dataclasses.fields(options):
        value, among = getattr(options, field.name), field.metadata["among"]
        least, most = field.metadata["least"], field.metadata["most"]
        if among and value is not None and value not in among:
            raise OptionError(f"--{field.name.replace('_', '-')}: expected one of {', '.join(among)}; found {value!r}")
        if least is not None and value is not None and not least <= value < math.inf:
            raise OptionError(f"--{field.name.replace('_', '-')}: expected {least} or more, found {value}")
        if most is not None and value is not None and value > most:
            raise OptionError(f"--{field.name.replace('_', '-')}: expected at most {most}, found {value}")
    read_duration(options.budget)
    if options.ratio is not None and not 0 < options.ratio <= 1:
        raise OptionError(f"--ratio: expected a share above 0 and at most 1, found {options.ratio}")
    if options.blocks is not None and options.blocks.count(":") != 1:
        raise OptionError(f"--blocks: expected LOWEST:HIGHEST, such as blocks.4:blocks.5; found {options.blocks!r}")
    _check_shares(options)
    _check_schemes(options)
    make_reading(options)
    _check_lines(options)
    if options.multilabel:
        check_multilabel(options)
    list_backbones(options)
    for name in _list_controls(options):
        if name not in (*CONTROLS, "none"):
            raise OptionError(f"--controls: expected some of {', '.join(CONTROLS)}, or none; found {name!r}")
    strategies = list_strategies(options)
    takes_head = "handcrafted" in strategies or any(options.head in HEADS.get(each, ()) for each in strategies)
    if options.strategy is not None and options.head and not takes_head:
        raise OptionError(
            f"--head {options.head} does not belong to --strategy {', '.join(strategies)}; its heads are "
            f"{', '.join(head for each in strategies for head in HEADS.get(each, ())) or 'none'}"
        )
    return dataclasses.replace(options, strategy=",".join(strategies) if options.strategy is not None else None)


def _check_shares(options: RunOptions) -> None:
    """Check what is a share, and the threshold. Raises OptionError."""
    for name in ("prevalence", "coverage"):
        value = getattr(options, name)
        if value is not None and not 0 < value < 1:
            raise OptionError(f"--{name}: expected a share between 0 and 1, such as 0.1; found {value}")
    read_threshold(options.threshold)


def _check_schemes(options: RunOptions) -> None:
    """Check what splits are chosen by, and that folds are not counted where they are not dealt. Raises OptionError."""
    if options.validation not in ("folds", "given"):
        if not options.validation.startswith(f"{SITE}:"):
            raise OptionError(f"--validation: expected folds, given or site:COLUMN; found {options.validation!r}")
        read_scheme("--validation", options.validation, (SITE,))
    by_data = options.validation == "given" or options.validation.startswith(f"{SITE}:")
    if by_data and options.folds != RunOptions().folds:
        raise OptionError(
            f"--folds {options.folds}: belongs to --validation folds; by {options.validation} the data say what is scored; "
            "leave one of them out"
        )
    if options.test is not None:
        read_scheme("--test", options.test, (SITE, TIME))
    if read_nested(options.nested) and options.validation == "given":
        raise OptionError(
            "--nested: needs folds to put aside in turn, and --validation given leaves one; use folds there"
        )
    if (read_nested(options.nested) or 0) > 1 and options.validation != "folds":
        raise OptionError(
            f"--nested {options.nested}: sites are put aside once; leave it at 1, or use --validation folds"
        )


def read_nested(text: str) -> int | None:
    """Return how often nested cross-validation is asked for, 0 for never and None for auto. Raises OptionError."""
    if text in (AUTO, NEVER):
        return None if text == AUTO else 0
    if not text.isdecimal() or not 0 < int(text) <= MOST_REPEATS:
        raise OptionError(f"--nested: expected {AUTO}, {NEVER}, or 1 to {MOST_REPEATS} repeats; found {text!r}")
    return int(text)


def read_threshold(text: str) -> tuple[str, float]:
    """Read ``0.5``, ``sensitivity:0.9``, ``specificity:0.9`` or ``cost:10``: what is wanted, and how much of it.

    Raises OptionError.
    """
    name, colon, number = text.partition(":")
    kind = name.strip() if colon else "probability"
    try:
        wanted = float(number if colon else name)
    except ValueError:
        wanted = math.nan
    fits = 0 < wanted < (math.inf if kind == "cost" else 1)
    if kind not in ("probability", *THRESHOLDS) or not fits:
        raise OptionError(
            f"--threshold: expected a share such as 0.5, or sensitivity:0.9, specificity:0.9, cost:10; found {text!r}"
        )
    return kind, wanted


def make_reading(options: RunOptions) -> Reading:
    """Return how DICOM images, volumes and slides are read. Raises OptionError for a window or slices that there cannot be.

    With ``tile_px``, which a run fills in where its items are whole slides, it is that of slides. Dimensions that are "auto"
    are settled by the plan, once it is known what there is.
    """
    names = tuple(name.strip() for name in options.window.split(",")) if options.window is not None else ()
    for name in names:
        numbers = re.fullmatch(r"(-?\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)", name)
        if name not in (*WINDOWS, MAMMOGRAPHY, SUV) and (numbers is None or float(numbers[2]) < 1):
            known = ", ".join((*WINDOWS, MAMMOGRAPHY, SUV))
            raise OptionError(f"--window: expected some of {known}, or CENTRE/WIDTH such as 40/400; found {name!r}")
    if len(names) not in (0, 1, 3):
        raise OptionError(f"--window: expected one window, or three for the three channels; found {len(names)}")
    if options.frame not in FRAMES and not re.fullmatch(r"[1-9]\d{0,6}", options.frame):
        raise OptionError(f"--frame: expected one of {', '.join(FRAMES)}, or a number from 1; found {options.frame!r}")
    dimensions, frame = _settle_dimensions(options)
    try:
        form, _ = read_form(settle_slices(options))
    except ValueError as error:
        raise OptionError(f"--slices: {error}") from error
    if not LEAST_MPP <= options.mpp <= MOST_MPP:
        raise OptionError(f"--mpp: expected {LEAST_MPP} to {MOST_MPP:g} µm per pixel, found {options.mpp}")
    reading = Reading(names, frame, options.plane, options.isotropic, dimensions)
    if options.tile_px is None:
        return reading
    if (reading.dimensions not in ("auto", BAG)) or reading != Reading(dimensions=dimensions) or form == INFORMATIVE:
        raise OptionError(
            f"whole slides are bags of tiles: expected --dimensions auto or {BAG}, without --frame, --window, --plane, "
            f"--isotropic and --slices {INFORMATIVE}, which would read every tile; leave these out"
        )
    return dataclasses.replace(reading, mpp=float(options.mpp), tile_px=options.tile_px)


def settle_slices(options: RunOptions) -> str:
    """Return which slices of a bag are shown, where the options leave it open as is usual: of slides there are many more."""
    if options.slices != AUTO:
        return options.slices
    return USUAL_SLICES if options.tile_px is None else USUAL_TILES


def _settle_dimensions(options: RunOptions) -> tuple[str, str]:
    """Return dimensions and frame, of which each may say the other. Raises OptionError where they contradict."""
    dimensions, frame = options.dimensions, options.frame
    usual = RunOptions()
    for flag, given, owners in (
        ("--slices", options.slices != usual.slices, (BAG, *VOLUMES)),
        ("--pooling", options.pooling != usual.pooling, (BAG,)),
    ):
        if given and (dimensions not in ("auto", *owners) or frame != usual.frame):
            wanted = " or ".join(owners)
            raise OptionError(f"{flag}: belongs to --dimensions {wanted}, without --frame; leave one of them out")
    if options.grey == "sum" and dimensions in CHANNELS:
        raise OptionError(f"--grey sum: shows one channel, where --dimensions {dimensions} fills three; leave one out")
    if frame == usual.frame:
        return dimensions, MIDDLE if dimensions in ("2d", "2.5d_neighbours") else frame
    if dimensions not in ("auto", "2d", "2.5d_neighbours"):
        raise OptionError(
            f"--frame {frame}: names one slice, where --dimensions {dimensions} takes its own; leave it out"
        )
    return ("2d" if dimensions == "auto" else dimensions), frame


def _check_lines(options: RunOptions) -> None:
    """Refuse two ways of saying where the line lies, and such a way for strategies without one. Raises OptionError."""
    names = ("thaw_line", "ratio", "last_layers", "blocks")
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) is not None]
    if len(given) > 1:
        raise OptionError(f"{' and '.join(given)}: expected one of them, since each says where the thaw line lies")
    if given and (options.head or "fine_tuning" not in list_strategies(options)):
        raise OptionError(f"{given[0]}: belongs to --strategy fine_tuning; leave out --head and other strategies")


def check_multilabel(options: RunOptions) -> None:
    """Refuse what belongs to tasks of one label an item, for those of several. Raises OptionError."""
    kind, _ = read_threshold(options.threshold)
    if kind != "probability":
        raise OptionError(
            f"--threshold {options.threshold}: belongs to one label an item, these have several, all called from one "
            "threshold on; state a share such as 0.3, or leave it out"
        )
    usual = RunOptions()
    for name, instead in (
        ("positive", "every label has a probability of its own"),
        ("grades", "grades are one label an item"),
        ("sampling", "items of several labels cannot be drawn so that all come alike often; --class-weight does that"),
        ("prevalence", "each of them has a share of its own"),
        ("coverage", "prediction sets are of classes that exclude each other"),
        ("subgroups", "their parts are not judged apart"),
    ):
        found = getattr(options, name)
        if found != getattr(usual, name) and (name, found) != ("subgroups", "none"):
            raise OptionError(
                f"--{name} {found}: belongs to one label an item, these have several; {instead}: leave it out"
            )


def check_task(options: RunOptions, classes: Sequence[str], *, multilabel: bool) -> None:
    """Refuse what belongs to other tasks than that of these classes, or labels, and a positive class that is none.

    Raises OptionError.
    """
    if multilabel:
        check_multilabel(options)
        return
    if options.positive is not None and options.positive not in classes:
        raise OptionError(f"--positive: expected one of {', '.join(classes)}; found {options.positive!r}")
    usual = RunOptions()
    for name, instead in (
        ("positive", "each is reported against the rest"),
        ("threshold", "the most probable one is called"),
        ("prevalence", "there are no predictive values of several"),
    ):
        found = getattr(options, name)
        if len(classes) != 2 and found != getattr(usual, name):
            raise OptionError(
                f"--{name} {found}: belongs to a task of two classes, found {len(classes)}; {instead}: leave it out"
            )


def resolve_strategy(name: str) -> str:
    """Return the one name of a strategy for it or an alias, however it is spaced. Raises OptionError."""
    wanted = _plain(name)
    for strategy, aliases in STRATEGIES.items():
        if wanted in map(_plain, (strategy, *aliases)):
            return strategy
    raise OptionError(f"--strategy: expected some of {', '.join(STRATEGIES)}; found {name!r}")


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("-", " ").replace("_", " ").split())


def list_strategies(options: RunOptions) -> tuple[str, ...]:
    """Strategies that the options leave to try, in the order of the ladder, controls last. Raises OptionError."""
    if options.strategy is not None:
        wanted = {resolve_strategy(name) for name in options.strategy.split(",")}
    elif options.head is not None:
        wanted = {next(strategy for strategy, heads in HEADS.items() if options.head in heads)}
    elif any(value is not None for value in (options.thaw_line, options.ratio, options.last_layers, options.blocks)):
        wanted = {"fine_tuning"}
    else:
        wanted = {*HEADS, *THAWED, *(name for name in _list_controls(options) if name in CONTROLS)}
    if options.controls != RunOptions().controls:  # asked for, whatever else is
        wanted |= {name for name in _list_controls(options) if name in CONTROLS}
    return tuple(name for name in STRATEGIES if name in wanted)


def list_grades(options: RunOptions) -> tuple[str, ...]:
    """Return the classes that are named as grades, from low to high; none where the task is not ordinal."""
    return tuple(name.strip() for name in (options.grades or "").split(",") if name.strip())


def steps_by_layers(options: RunOptions) -> bool:
    """Tell whether the thaw line is to step by layers, not by whole blocks."""
    return options.sequence == "layers" or options.last_layers is not None


def _list_controls(options: RunOptions) -> list[str]:
    return [name.strip() for name in options.controls.split(",") if name.strip()]


def list_backbones(options: RunOptions) -> tuple[str, ...]:
    """Backbones that the options name, each once. Raises OptionError where there is none, or a weight file for several."""
    names = tuple(dict.fromkeys(name.strip() for name in options.backbone.split(",") if name.strip()))
    if not names:
        raise OptionError(f"--backbone: expected one name or several with commas between, found {options.backbone!r}")
    if options.weights is not None and len(names) > 1 and not options.weights.is_dir():
        raise OptionError(f"--weights {options.weights.name}: belongs to one --backbone, found {', '.join(names)}")
    return names


def list_heads(options: RunOptions) -> tuple[str, ...]:
    """Heads of the frozen backbone that the options leave to try, in their fixed order."""
    heads = [head for strategy in list_strategies(options) for head in HEADS.get(strategy, ())]
    return tuple(head for head in heads if options.head in (None, head))
