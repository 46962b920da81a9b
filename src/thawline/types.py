"""Array shapes, units, and the small records that every layer shares.

Conventions
  pixels         uint8, uint16 or float32; shape (height, width) for grey, (height, width, 3) for RGB; first row on top
  inputs         uint8, or float32 on the same 0 to 255 scale; shape (items[, slices], size_px, size_px, 3)
  features       float32 at work and float16 at rest; shape (items, features)
  labels         int64, shape (items,): index into the sorted tuple of class names; where items have several labels,
                 shape (items, labels): 1, 0, or `MISSING` where it is not known
  groups         int64, shape (items,): what never crosses a split (a patient, or patients merged by identical images)
  probabilities  float64, shape (items, classes); each row sums to one, but where items have several labels
  names          *_px pixels, *_mib mebibytes, seconds are wall-clock
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels: TypeAlias = NDArray[Any]
    Inputs: TypeAlias = NDArray[Any]
    Features: TypeAlias = NDArray[np.float32]
    Labels: TypeAlias = NDArray[np.int64]
    Groups: TypeAlias = NDArray[np.int64]
    Probabilities: TypeAlias = NDArray[np.float64]
    FloatArray: TypeAlias = NDArray[np.float64]
    IntArray: TypeAlias = NDArray[np.int64]
    BoolArray: TypeAlias = NDArray[np.bool_]
    Data: TypeAlias = "bytes | Pixels | tuple[bytes, ...] | Slide"  # a file, an array, the files of a series, a slide
    Content: TypeAlias = "Path | NDArray[Any] | Unread"  # where the pixels of an item are

Aspect = Literal["squash", "letterbox", "crop"]
Interpolation = Literal["bilinear", "bicubic"]
Precision = Literal["f32", "bf16", "f16"]
Split = Literal["train", "val", "test"]
BALANCES = ("none", "weights", "sampling")
MULTILABEL = "multilabel"  # the kind of a task of several labels an item
MISSING = -1  # one of them that is not known
ASPECTS: tuple[Aspect, ...] = ("squash", "letterbox", "crop")


# Centre and width in Hounsfield units, as radiology departments set them; mammograms have no unit: see `dicom.show`.
WINDOWS = {"lung": (-600, 1500), "bone": (400, 1800), "brain": (40, 80), "soft_tissue": (50, 400)}
MAMMOGRAPHY = "mammography"
SUV, SUV_WINDOW = "suv", (5.0, 10.0)  # g/ml, of PET
FRAMES = ("only", "first", MIDDLE := "middle", "last")
PLANES = ("axial", "coronal", "sagittal")
DIMENSIONS = ("auto", "2d", "2.5d_neighbours", "2.5d_orthogonal", "2.5d_bag", "3d_acs", "3d_inflated", "3d_native")
NATIVE = "native"  # of three dimensions by birth: a network of the user's own
CHANNELS = ("2.5d_neighbours", "2.5d_orthogonal")  # three slices as those of an image
BAG, VOLUMES = "2.5d_bag", {"3d_acs": "acs", "3d_inflated": "inflated", "3d_native": NATIVE}
LEAST_MPP, MOST_MPP = 0.05, 50.0  # µm per pixel of whole slides
POOLINGS = ("mean", "max", ATTENTION := "attention")
SLICE_POOLING = "slice_pooling"  # the line above a whole backbone: how slices are weighted is trained, and the head


Kind = Literal["fixed", "rule", "empirical", "given"]


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """How the stored values of a DICOM object, a volume or a slide become pixels; other images are read in one way.

    ``windows`` are names of `WINDOWS`, `MAMMOGRAPHY`, `SUV`, or CENTRE/WIDTH in the object's own units: one, or three as
    channels; none for what the file says. ``frame`` is one of `FRAMES` or a number from 1: which of several; "only" refuses
    several. Volumes are cut across a ``plane`` of `PLANES`, after resampling to one spacing where ``isotropic``.
    ``dimensions`` is one of `DIMENSIONS`; of a bag, and in three dimensions, a network is shown ``n_slices`` of an item,
    those that ``slices`` says (see `data.slices`); the features of a bag are joined by a ``pooling`` of `POOLINGS`. The
    slices of a whole slide are tiles of ``tile_px`` at ``mpp`` µm per pixel; both are 0 for anything else.
    """

    windows: tuple[str, ...] = ()
    frame: str = "only"
    plane: str = PLANES[0]
    isotropic: bool = False
    dimensions: str = "2d"
    slices: str = ""
    n_slices: int = 0
    pooling: str = POOLINGS[0]
    mpp: float = 0.0
    tile_px: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; what only slides have is left out elsewhere, so that it changes no key."""
        data = dataclasses.asdict(self)
        return data if self.tile_px else {name: data[name] for name in data if name not in ("mpp", "tile_px")}

    def show_tiles(self, most: int) -> Reading:
        """Return the reading of at most so many tiles of a whole slide, spread evenly; of anything else it stays."""
        if not self.tile_px or self.n_slices <= most:
            return self
        return dataclasses.replace(self, slices=f"spread:{most}", n_slices=most)

    @property
    def depth(self) -> Depth | None:
        """How a network takes the slices of an item, None where it is shown one image."""
        return Depth(self.n_slices, VOLUMES.get(self.dimensions, self.pooling)) if self.n_slices else None


@dataclasses.dataclass(frozen=True, slots=True)
class Depth:
    """How a network takes the ``n_slices`` of an item: one by one, features joined by one of `POOLINGS`; or, made over to
    three dimensions in one of the ways of `VOLUMES`, as a whole."""

    n_slices: int
    join: str

    @property
    def is_volume(self) -> bool:
        """Tell whether the network itself is of three dimensions."""
        return self.join in VOLUMES.values()


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One labelled image: ``path`` is relative to the data (POSIX slashes), ``patient`` is never empty.

    ``lesion`` is named within its patient, and empty where the item shows one of its own, or nobody says which.
    Several labels are one text, see `data.label_sets`.
    """

    path: str
    label: str
    patient: str
    split: Split | None = None
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    lesion: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Contract:
    """How pixels become the input of a backbone, and its output a feature; stored with the model and repeated exactly.

    ``grey`` takes no colour images.
    ``wide_range`` is the (black, white) pair that pixels of more than 8 bits are scaled by, one for the whole data set;
    None where every image has 8 bits. ``crop`` takes the centred square, ``letterbox`` pads with black, ``squash``
    stretches both sides to ``size_px``. ``reading`` comes before all of these.
    """

    size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation = "bicubic"
    aspect: Aspect = "squash"
    wide_range: tuple[float, float] | None = None
    precision: Precision = "f32"
    feature_dtype: Literal["float16", "float32"] = "float16"
    grey: bool = False
    reading: Reading = Reading()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; `from_json` reverses it. The usual reading is left out, so that it changes no key."""
        data = dataclasses.asdict(self) | {"reading": self.reading.to_json()}
        if self.reading == Reading():
            del data["reading"]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Contract:
        """Rebuild from `to_json`; raises TypeError or KeyError on unknown or missing fields."""
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
        }
        reading = fields.get("reading")
        if isinstance(reading, Mapping):
            fields["reading"] = Reading(**{**reading, "windows": tuple(reading["windows"])})
        return cls(**fields)


def plain(record: Any) -> Any:
    """Return a record, or what it holds, as plain JSON data, with None for what is not finite."""
    import numpy as np

    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {field.name: plain(getattr(record, field.name)) for field in dataclasses.fields(record)}
    if isinstance(record, Mapping):
        return {key: plain(value) for key, value in record.items()}
    if isinstance(record, np.ndarray):
        return plain(record.tolist())
    if isinstance(record, list | tuple):
        return [plain(each) for each in record]
    if isinstance(record, float | np.floating):
        return float(record) if math.isfinite(record) else None
    return record.item() if isinstance(record, np.generic) else record


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval: ``level`` is the coverage aimed at, ``method`` how it was found."""

    value: float
    low: float
    high: float
    level: float = 0.95
    method: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data, as `metrics.json` holds it."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclasses.dataclass(frozen=True, slots=True)
class Augmentation:
    """How far a view may differ from the image: a turn in degrees, a shift as a share of the side, a range of scale,
    changes of tone (brightness, contrast) and colour as shares, hue in turns of the colour circle."""

    turn_deg: float = 0.0
    shift: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    flip_sides: bool = False
    flip_vertically: bool = False
    quarter_turns: bool = False
    tone: float = 0.0
    colour: float = 0.0
    hue: float = 0.0

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Augmentation:
        """Rebuild from plain JSON data; raises TypeError or KeyError for unknown or missing fields."""
        return cls(**{**data, "scale": tuple(data["scale"])})


@dataclasses.dataclass(frozen=True, slots=True)
class Recipe:
    """How a classifier is trained; one value each.

    ``learning_rate`` is that of weights of the highest block whose root mean square is ``rated_size``, others have it in
    proportion (0: all the same); each block below has ``decay`` times the rate of the one above it, the head ``head_rate``
    times it. ``epochs`` is the length of the schedule, ``stop`` how many of them are run, ``patience`` how many without
    improvement end a validated one. Weights are averaged over the last ``average`` epochs or so. ``mixup`` is the parameter
    of its beta distribution, 0 for none. ``start_strength`` is the largest inverse L2 penalty of the linear head that it
    starts with (0: that of the frozen rung, whatever it is). ``auto_rgn`` weights the rate of each parameter by its relative
    gradient norm. ``balance`` (one of `BALANCES`) and ``focal`` change the loss, see `learn.objective`. ``device`` is
    torch's name of one, ``bf16`` trains under autocast, ``compiled`` through torch.compile.
    """

    learning_rate: float = 2e-4
    epochs: int = 10
    stop: int | None = None
    patience: int = 10
    batch_items: int = 32
    decay: float = 1.0
    rated_size: float = 0.04
    head_rate: float = 2.5
    weight_decay: float = 0.02
    warmup: float = 0.2
    clip_norm: float = 1.0
    average: float = 1.0
    label_smoothing: float = 0.05
    mixup: float = 0.4
    start_strength: float = 1e-3
    balance: str = "none"
    focal: float = 0.0
    train_norms: bool = False
    auto_rgn: bool = False
    device: str = "cpu"
    bf16: bool = False
    compiled: bool = False
    seed: int = 0

    def count_steps(self, n_items: int) -> int:
        """Steps in an epoch of so many items."""
        return math.ceil(n_items / self.batch_items)


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """A thaw line: shares of the backbone's parameters and of its compute that lie above, and are trained; the shape of
    one item's activations at the line, without the items axis."""

    name: str
    thawed_fraction: float
    compute_fraction: float
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class BackboneFacts:
    """What the plan needs to know of a backbone and its weights; ``lines`` between its blocks, top to bottom, and
    ``fine_lines`` between its layers where those were asked for, as they are for images of ``size_px``, and for bags of
    ``n_slices`` where items are such."""

    name: str
    native_px: int  # it was trained on images of this size
    size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation
    source: str
    licence: str
    pretrained_on: str
    lines: tuple[Line, ...] = ()
    fine_lines: tuple[Line, ...] = ()
    folded_batchnorm: bool = False
    n_slices: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Hardware:
    """What the plan may count on: cores this process may use, memory, what the processor or GPU can do, and room in the
    cache for the activations of one run."""

    cores: int
    memory_mib: int
    bf16: bool = False
    cuda: str | None = None
    cache_mib: int = 2048

    @property
    def device(self) -> str:
        """Torch's name of where networks run."""
        return "cuda" if self.cuda else "cpu"


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """One decision of a plan: ``evidence`` holds one dict a candidate once an empirical choice has been measured."""

    name: str
    value: Any
    kind: Kind
    reason: str
    candidates: tuple[Any, ...] | None = None
    evidence: tuple[dict[str, Any], ...] | None = None


class Unread(Protocol):
    """The pixels of an item that are read when they are needed."""

    def read(self) -> Data:
        """Return what is to be decoded. Raises ImageError where it cannot be read."""


@dataclasses.dataclass(frozen=True, slots=True)
class Slide:
    """The files of one whole slide, opened when its pixels are needed; ``mpp`` overrules µm per pixel that it states."""

    paths: tuple[Path, ...]
    mpp: float | None = None

    def read(self) -> Slide:
        """Return itself: a slide is never in memory as a whole."""
        return self


class Listener(Protocol):
    """Whoever watches a run: a progress bar, a log, nobody."""

    def begin(self, step: str, total: int | None = None) -> None:
        """A step starts; ``total`` units are expected where that is known."""

    def advance(self, units: int = 1) -> None:
        """Some units of the current step are done."""

    def end(self, note: str = "") -> None:
        """The current step is done; ``note`` says in a few words what came of it."""

    def warn(self, message: str) -> None:
        """Something the user should know; the run goes on."""


class SilentListener:
    """Nobody watches; warnings become Python warnings, so that they are never lost."""

    def begin(self, step: str, total: int | None = None) -> None:
        """Ignore the start of a step."""

    def advance(self, units: int = 1) -> None:
        """Ignore progress."""

    def end(self, note: str = "") -> None:
        """Ignore the end of a step."""

    def warn(self, message: str) -> None:
        """Raise a Python warning."""
        warnings.warn(message, UserWarning, stacklevel=2)
