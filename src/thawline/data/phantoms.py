"""Chest-film phantoms: made-up patients with known truth, for the demo and for tests.

A film is drawn from a patient's anatomy (lungs, heart, ribs, vessels: the same in all views) and a view (pose, exposure,
noise). Coordinates run from -1 to 1, x to the right and y down, so the patient's left side, with the heart, has x > 0.
Signals are 0 (black, air) to 1 (white). Shapes are polynomials and random numbers come from numpy's PCG64: with the same
numpy, the same options give the same pixels on any machine.
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from thawline.errors import OptionError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from thawline.types import BoolArray, Pixels

    Plane: TypeAlias = NDArray[Any]  # float32, one value a pixel, shape (rows, columns)

DEFAULT_CONTRAST = 0.8  # a linear head on frozen EfficientNet-Lite0 features then reaches a test AUC of about 0.87
LABELS = ("healthy", "lesion")
MANIFEST = "manifest.csv"
LEVELS = {8: 255, 16: 4095}  # white, by bits of the file: 16 bits hold the 12 of a detector
BAND_ROWS = 32  # drawn at a time: what is in work stays in the processor's cache

PARTS = {"test": 0.2, "val": 0.1, "train": 1.0}  # share of the patients of each kind; train takes the rest

# Random streams of their own, so that a planted fault or a split leaves everything else as it was
TABLE, ANATOMY, VIEW, SCANNER, SPLIT, NOISE, LEAK, COPIES = range(8)

ANATOMY_RANGES = {  # what makes one patient look unlike another: uniform, in film coordinates unless said otherwise
    "lung_x": (0.41, 0.46),  # centre of a lung, from the midline
    "lung_y": (0.10, 0.20),
    "lung_width": (0.35, 0.41),  # half axes of a lung
    "lung_height": (0.86, 0.96),
    "lung_taper": (0.08, 0.22),  # how much wider a lung is below than above, as a share
    "lung_air": (0.66, 0.74),  # share of the signal that air takes away
    "diaphragm_y": (0.42, 0.60),
    "diaphragm_dome": (0.14, 0.28),
    "heart_x": (0.09, 0.17),
    "heart_y": (0.32, 0.42),
    "heart_width": (0.26, 0.38),  # half axes of the heart
    "heart_height": (0.30, 0.36),
    "mediastinum": (0.08, 0.13),  # half width
    "rib_spacing": (0.150, 0.185),
    "rib_phase": (0.0, 1.0),  # share of the spacing
    "rib_slope": (0.5, 0.9),
    "rib_strength": (0.06, 0.09),  # signal
    "breast": (0.0, 0.10),  # signal
    "tissue": (0.64, 0.70),  # signal
    "vessels": (0.11, 0.16),  # signal
    "clutter": (0.06, 0.12),  # share of the signal
}
POSE_RANGES = {"shift_x": (-0.07, 0.07), "shift_y": (-0.07, 0.07), "turn": (-0.08, 0.08), "zoom": (0.94, 1.08)}
EXPOSURE_RANGE = (0.88, 1.12)
HEIGHT_RATIO = (0.92, 1.16)  # of a film, over its width


@dataclasses.dataclass(frozen=True, slots=True)
class PhantomOptions:
    """What to make; checked when made, `OptionError` says which value cannot be used.

    ``views`` is the least and the largest number of films a patient. Films are ``size_px`` wide and of varying height.
    ``contrast`` is what a lesion adds, as a share of the signal of the lung around it. ``prevalence`` is the share of
    diseased patients. With 16 ``bits`` the files hold 12-bit values.

    Planted faults: ``duplicates`` are copies, pixel for pixel, of that many films as films of new patients (with a
    split, on its other side); ``contradicting`` are such copies under the other label (in the same part); ``shortcut``
    is the correlation of disease and scanner with two scanners; ``label_noise`` is the share of patients under the wrong
    label; ``leak`` patients stand in two parts of the ``split``. ``patients`` gives the manifest a column patient.
    """

    n_patients: int = 200
    views: tuple[int, int] = (2, 2)
    size_px: int = 256
    contrast: float = DEFAULT_CONTRAST
    prevalence: float = 0.5
    scanners: int = 2
    seed: int = 0
    bits: int = 8
    duplicates: int = 0
    contradicting: int = 0
    shortcut: float = 0.0
    label_noise: float = 0.0
    split: bool = False
    leak: int = 0
    patients: bool = True

    def __post_init__(self) -> None:
        _check_ranges(self)
        _check_faults(self)


def _check_ranges(options: PhantomOptions) -> None:
    """Raise OptionError for a value that cannot be used whatever the others are."""
    counts = {"n_patients": (2, 9999), "size_px": (32, 4096), "scanners": (1, len(SCANNERS)), "seed": (0, 2**63 - 1),
              "duplicates": (0, 9999), "contradicting": (0, 9999), "leak": (0, 9999)}  # fmt: skip
    for name, (low, high) in counts.items():
        value = getattr(options, name)
        _require(isinstance(value, int) and low <= value <= high, name, f"a whole number from {low} to {high}", value)
    for name in ("contrast", "shortcut", "label_noise"):
        value = getattr(options, name)
        _require(0 <= value <= 1, name, "a number from 0 to 1", value)
    _require(0 < options.prevalence < 1, "prevalence", "above 0 and below 1", options.prevalence)
    _require(options.bits in LEVELS, "bits", "8 or 16", options.bits)
    ordered = len(options.views) == 2 and 1 <= options.views[0] <= options.views[1] <= 9
    _require(ordered, "views", "(fewest, most) with 1 <= fewest <= most <= 9", options.views)


def _check_faults(options: PhantomOptions) -> None:
    """Raise OptionError for faults that the other options leave no room for."""
    n, copies = options.n_patients, options.duplicates + options.contradicting
    _require(copies <= n, "duplicates + contradicting", f"at most n_patients = {n}", copies)
    _require(not options.shortcut or options.scanners > 1, "scanners", "at least 2 for a shortcut", options.scanners)
    _require(not options.leak or options.split, "split", "True where patients are to leak", options.split)
    _require(options.leak <= n, "leak", f"at most n_patients = {n}", options.leak)
    _require(not options.leak or options.views[1] > 1, "views", "up to at least 2 for a leak", options.views)
    rarer = min(_count_diseased(options), n - _count_diseased(options))
    _require(not options.split or rarer >= 3, "split", "left out with under 3 patients of a label", f"{rarer} patients")


def _require(fulfilled: bool, name: str, expected: str, found: object) -> None:
    """Raise OptionError with the option's name, what it must be and what was found."""
    if not fulfilled:
        raise OptionError(f"Phantom option {name} must be {expected}; found {found!r}. Choose another value.")


def _count_diseased(options: PhantomOptions) -> int:
    """Return how many patients have a lesion: at least one, and not all."""
    return min(max(round(options.prevalence * options.n_patients), 1), options.n_patients - 1)


@dataclasses.dataclass(frozen=True, slots=True)
class Anatomy:
    """One patient: the values of `ANATOMY_RANGES`, and where the lesion is, or would be if the patient had one.

    ``vessels`` is noise of shape (2 lungs, rings, angles) around each hilum, ``clutter`` noise of shape (rows, columns)
    over the whole film. ``lobes`` holds x, y and radius of each blob that the lesion is made of.
    """

    values: Mapping[str, float]
    vessels: Plane
    clutter: Plane
    lobes: tuple[tuple[float, float, float], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Scanner:
    """How one device shows a patient: ``gain`` of the signal, ``noise`` as a share of it, ``grain`` 0 fine to 1 coarse."""

    name: str
    gain: float
    noise: float
    grain: float
    marker: tuple[str, ...]


SCANNERS = (
    Scanner("A", 1.00, 0.05, 0.0, ("#...", "#...", "#...", "#...", "####")),
    Scanner("B", 1.12, 0.06, 0.8, ("###.", "#..#", "###.", "#.#.", "#..#")),
    Scanner("C", 0.90, 0.07, 0.3, ("####", "#..#", "#..#", "#..#", "####")),
    Scanner("D", 1.06, 0.04, 1.0, ("#..#", "#..#", "####", "...#", "...#")),
)


def draw_anatomy(generator: np.random.Generator) -> Anatomy:
    """Draw one patient at random; the same number of random values is used for every patient."""
    values = {name: generator.uniform(low, high) for name, (low, high) in ANATOMY_RANGES.items()}
    start = generator.uniform(-1, 1, (2, 1, 36))
    steps = generator.uniform(-0.6, 0.6, (2, 8, 36))
    vessels = np.concatenate([start, steps], axis=1).cumsum(axis=1)  # a ring differs a little from the one inside it
    clutter = generator.uniform(-1, 1, (24, 24))
    lobes = tuple(_place_lesion(values, generator))
    return Anatomy(values, vessels.astype(np.float32), clutter.astype(np.float32), lobes)


def _place_lesion(value: Mapping[str, float], generator: np.random.Generator) -> Iterator[tuple[float, float, float]]:
    """Yield x, y, radius of a blob in one lung, clear of heart, midline and diaphragm, and of four smaller ones on it."""
    side = 1 if generator.random() < 0.5 else -1
    x = side * (value["lung_x"] + value["lung_width"] * generator.uniform(-0.1, 0.4))
    y = value["lung_y"] + value["lung_height"] * generator.uniform(-0.55, 0.12)
    radius = generator.uniform(0.17, 0.21)
    yield x, y, radius
    for _ in range(4):
        right, down = (radius * generator.uniform(-0.6, 0.6) for _ in range(2))
        yield x + right, y + down, radius * generator.uniform(0.4, 0.8)


def draw_film(
    anatomy: Anatomy,
    scanner: Scanner,
    shape: tuple[int, int],
    generator: np.random.Generator,
    *,
    contrast: float = 0.0,
    bits: int = 8,
) -> Pixels:
    """Draw one view of a patient: uint8 (white 255) or, with 16 ``bits``, uint16 (white 4095), shape (height, width).

    The lesion multiplies the signal, noise and all, by ``1 + contrast`` at its core; 0 is a film of a healthy patient.
    Pose, exposure and noise come from ``generator``, which is used in the same way whatever the contrast.
    """
    pose = {name: generator.uniform(low, high) for name, (low, high) in POSE_RANGES.items()}
    exposure = scanner.gain * generator.uniform(*EXPOSURE_RANGE)
    signal = exposure * (1 + _draw_noise(scanner, shape, generator))
    for top in range(0, shape[0], BAND_ROWS):
        band = signal[top : top + BAND_ROWS]
        x, y = _make_coordinates(pose, shape, top)
        band *= _draw_thorax(anatomy, x, y)
        if contrast:
            band *= 1 + contrast * _draw_lesion(anatomy, x, y)
    _stamp_marker(signal, scanner.marker)
    white = LEVELS[bits]
    return np.clip(np.rint(signal * white), 0, white).astype(np.uint8 if bits == 8 else np.uint16)


def _make_coordinates(pose: Mapping[str, float], shape: tuple[int, int], top: int) -> tuple[Plane, Plane]:
    """Return x and y in the patient's own frame of the pixels of one band of rows that starts at ``top``."""
    height, width = shape
    rows = np.arange(top, min(top + BAND_ROWS, height), dtype=np.float32)[:, None]
    v = ((rows + 0.5) * (2 / height) - 1 - pose["shift_y"]) * pose["zoom"]
    u = ((np.arange(width, dtype=np.float32) + 0.5) * (2 / width) - 1 - pose["shift_x"]) * pose["zoom"]
    return u + pose["turn"] * v, v - pose["turn"] * u


def _soften(depth: Plane, edge: float) -> Plane:
    """Return 0 where ``depth`` is negative, 1 beyond ``edge``, a smooth cubic step between."""
    t = np.clip(depth * (1 / edge), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def _bump(squared_radius: Plane) -> Plane:
    """Return a smooth bump: 1 at radius 0, falling to 0 at radius 1."""
    t = np.maximum(1 - squared_radius, 0)
    return np.asarray(t * t)


def _interpolate(grid: Plane, row: Plane, column: Plane) -> Plane:
    """Read ``grid`` at fractional places at least 0 and below its last row and column: smooth value noise."""
    i, j = row.astype(np.intp), column.astype(np.intp)
    down, right = _soften(row - i.astype(np.float32), 1), _soften(column - j.astype(np.float32), 1)
    flat, columns = grid.ravel(), grid.shape[1]
    corner = i * columns + j
    upper, lower = flat.take(corner), flat.take(corner + columns)
    upper += right * (flat.take(corner + 1) - upper)
    lower += right * (flat.take(corner + columns + 1) - lower)
    return np.asarray(upper + down * (lower - upper))


def _draw_thorax(anatomy: Anatomy, x: Plane, y: Plane) -> Plane:
    """Return the noise-free signal of a patient without lesion, from 0 to about 0.9."""
    value, side = anatomy.values, np.abs(x)
    air, cage = _draw_lungs(value, x, y)
    signal = value["tissue"] + 0.08 * y - 0.06 * side
    signal += value["breast"] * _bump(((side - 0.42) / 0.38) ** 2 + ((y - 0.40) / 0.38) ** 2)
    signal *= 1 - value["lung_air"] * air
    signal += cage * _draw_bones(value, side, y)
    signal += value["vessels"] * air * _draw_vessels(anatomy.vessels, x, y)
    signal -= 0.09 * _bump((x / 0.07) ** 2) * _soften(-0.15 - y, 0.3)  # the trachea
    signal *= 1 + value["clutter"] * _interpolate(anatomy.clutter, (y + 1.4) * 8, (x + 1.4) * 8)
    shoulders = np.minimum(y + 0.45, 0)
    return signal * _soften(0.98 - shoulders * shoulders - side, 0.12)


def _draw_lungs(value: Mapping[str, float], x: Plane, y: Plane) -> tuple[Plane, Plane]:
    """Return how much air each pixel sees, 0 to 1, and the rib cage around it, 0 to 1."""
    side = np.abs(x)
    along = (y - value["lung_y"]) / value["lung_height"]
    across = ((side - value["lung_x"]) / (value["lung_width"] * (1 + value["lung_taper"] * along))) ** 2
    inside = 1 - across - along * along
    dome = value["diaphragm_y"] + value["diaphragm_dome"] * across + 0.03 * np.sign(x)  # the liver lifts the right one
    air = _soften(inside, 0.22) * _soften(dome - y, 0.07)
    heart = ((x - value["heart_x"] - 0.3 * (y - value["heart_y"])) / value["heart_width"]) ** 2
    heart += ((y - value["heart_y"]) / value["heart_height"]) ** 2
    air *= 1 - 0.9 * _soften(1 - heart, 0.3)
    arch = 0.07 * _bump(((y + 0.27) / 0.13) ** 2) * (x > 0)  # of the aorta
    air *= 1 - 0.9 * _soften(value["mediastinum"] + 0.04 * y * y + arch - side + 0.04, 0.08)
    cage = _soften(inside + 0.25, 0.3) * (1 - 0.7 * _soften(y - dome + 0.1, 0.2))
    return air, cage


def _draw_bones(value: Mapping[str, float], side: Plane, y: Plane) -> Plane:
    """Return the signal of ribs, spine and collar bones."""
    out = side - 0.25
    square = out * out
    back = y - value["rib_slope"] * square + 0.1 * out
    front = y + value["rib_slope"] * (0.75 * out - 0.5 * square)
    bones = _draw_stripes(back * (1 / value["rib_spacing"]) + value["rib_phase"], 0.42)
    bones += 0.45 * _draw_stripes(front * (0.87 / value["rib_spacing"]), 0.36) * _soften(side - 0.2, 0.2)
    bones += _soften(0.085 - side, 0.04) * (0.5 + 0.5 * _draw_stripes(y * (1 / 0.13), 0.7))
    collar = y + 0.66 - 0.25 * out + 0.6 * square
    bones += 1.5 * _bump((collar / 0.045) ** 2) * _soften(side - 0.08, 0.08)
    return value["rib_strength"] * bones


def _draw_stripes(phase: Plane, width: float) -> Plane:
    """Return soft stripes that cover ``width`` of each unit of ``phase``, a little brighter along their edges."""
    distance = np.abs(phase - np.floor(phase) - 0.5) * (2 / width)  # 0 along the middle, 1 at the edge
    return _soften(1 - distance, 0.35) * (0.75 + 0.5 * distance * distance)


def _draw_vessels(noise: Plane, x: Plane, y: Plane) -> Plane:
    """Return 0 to about 1: ridges of noise that fan out from each hilum and thin out."""
    _, rings, angles = noise.shape
    grid = np.concatenate([noise, noise[:, :, :1]], axis=2).reshape(2 * rings, angles + 1)  # the circle closes
    dx, dy = np.abs(x) - 0.17, y - 0.02
    radius = np.sqrt(dx * dx + dy * dy)
    slant = dy / (np.abs(dx) + np.abs(dy) + 1e-6)  # grows with the angle, as exact arithmetic unlike an arc tangent
    turn = np.where(dx > 0, slant + 1, 3 - slant) * ((angles - 0.01) / 4)
    ring = np.minimum(radius * 5, rings - 1.01) + rings * (x > 0)
    ridge = 1 - np.abs(_interpolate(grid, ring, turn)) * (1.8 + 5 * radius)
    fading = _soften(radius, 0.3) * _soften(0.9 - radius, 0.8)  # no star where they meet, nothing at the edge
    return np.asarray(1.2 * _soften(ridge, 1) * fading + _bump((radius / 0.2) ** 2))


def _draw_lesion(anatomy: Anatomy, x: Plane, y: Plane) -> Plane:
    """Return the lesion's share of its contrast, 0 outside to 1 at its core: the union of soft blobs."""
    outside = np.ones_like(x)
    for centre_x, centre_y, radius in anatomy.lobes:
        outside *= 1 - _bump(((x - centre_x) ** 2 + (y - centre_y) ** 2) * (1 / radius**2))
    return 1 - outside


def _draw_noise(scanner: Scanner, shape: tuple[int, int], generator: np.random.Generator) -> Plane:
    """Return relative noise: white for a fine grain, the mean of 2 x 2 neighbours for a coarse one, or a mixture."""
    white = generator.standard_normal(shape, dtype=np.float32)
    pairs = white + np.roll(white, 1, axis=0)
    coarse = (pairs + np.roll(pairs, 1, axis=1)) * 0.5  # of the same variance
    return scanner.noise * ((1 - scanner.grain) * white + scanner.grain * coarse)


def _stamp_marker(signal: Plane, marker: tuple[str, ...]) -> None:
    """Lay the scanner's lead letter over the upper right corner, in place."""
    dot = max(1, signal.shape[1] // 64)
    glyph = np.array([[mark == "#" for mark in row] for row in marker]).repeat(dot, axis=0).repeat(dot, axis=1)
    rows, columns = glyph.shape
    corner = signal[dot : dot + rows, -dot - columns : -dot]
    corner[glyph] = 0.95


@dataclasses.dataclass(frozen=True, slots=True)
class _Film:
    """One row of the manifest, and what to draw for it; patients and views count from 1."""

    patient: int
    view: int
    label: str
    scanner: Scanner
    part: str
    shape: tuple[int, int]
    contrast: float

    @property
    def path(self) -> str:
        return f"images/p{self.patient:04d}_v{self.view}.png"


def make_phantoms(folder: Path, options: PhantomOptions) -> Path:
    """Write ``images/p0001_v1.png`` and so on, then ``manifest.csv``, into ``folder``; return the manifest's path.

    Columns are path, label ("lesion" or "healthy"), patient, scanner, view and, with a split, split. The manifest comes
    last, so where there is one the folder is complete. Raises OutputError where ``folder`` has one already or cannot be
    written.
    """
    manifest = folder / MANIFEST
    if manifest.exists():
        raise OutputError(f"Phantoms need a folder without {MANIFEST}; found {manifest}. Choose another folder.")
    films = _list_films(options)
    copies = _list_copies(films, options)
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for film in films:
            _write_png(folder / film.path, _draw(film, options), compress_level=1)
        for original, copy in copies:  # packed otherwise: the same pixels, not the same bytes
            _write_png(folder / copy.path, _draw(original, options), compress_level=6)
        _write_manifest(manifest, [*films, *(copy for _, copy in copies)], options)
    except OSError as error:
        raise OutputError(f"Phantoms cannot be written to {folder}: {error}. Choose another folder.") from error
    return manifest


def _make_generator(options: PhantomOptions, *stream: int) -> np.random.Generator:
    """Return the random stream of this seed with these numbers, apart from all others."""
    return np.random.Generator(np.random.PCG64([options.seed, *stream]))


def _list_films(options: PhantomOptions) -> list[_Film]:
    """Return the films of all patients, in order, faults other than copies included."""
    n = options.n_patients
    table = _make_generator(options, TABLE)
    diseased = table.permutation(n) < _count_diseased(options)
    heights = np.rint(options.size_px * table.uniform(*HEIGHT_RATIO, n)).astype(int).tolist()
    views = table.integers(options.views[0], options.views[1], n, endpoint=True)
    leaking = _make_generator(options, LEAK).permutation(n) < options.leak
    views[leaking] = np.maximum(views[leaking], 2)
    wrong = _make_generator(options, NOISE).permutation(n) < round(options.label_noise * n)
    scanners, parts = _assign_scanners(diseased, options), _assign_parts(diseased, options)
    return [
        _Film(
            patient=i + 1,
            view=view,
            label=LABELS[int(diseased[i] != wrong[i])],
            scanner=scanners[i],
            part=_swap_part(parts[i]) if leaking[i] and view == views[i] else parts[i],
            shape=(heights[i], options.size_px),
            contrast=options.contrast if diseased[i] else 0.0,
        )
        for i in range(n)
        for view in range(1, int(views[i]) + 1)
    ]


def _assign_scanners(diseased: BoolArray, options: PhantomOptions) -> list[Scanner]:
    """Deal out scanners evenly among diseased and among healthy patients, but for the share that takes the shortcut.

    Of each kind the share ``shortcut`` goes to every other scanner: with two of them, phi of scanner and disease is
    that share.
    """
    generator = _make_generator(options, SCANNER)
    devices = SCANNERS[: options.scanners]
    scanners = [devices[0]] * len(diseased)
    for kind in (False, True):
        members = generator.permutation(np.flatnonzero(diseased == kind)).tolist()
        n_shortcut = round(options.shortcut * len(members))
        for members_of, choice in ((members[:n_shortcut], devices[int(kind) :: 2]), (members[n_shortcut:], devices)):
            for member, scanner in zip(members_of, itertools.cycle(choice), strict=False):
                scanners[member] = scanner
    return scanners


def _assign_parts(diseased: BoolArray, options: PhantomOptions) -> list[str]:
    """Split diseased and healthy patients alike into the `PARTS`."""
    generator = _make_generator(options, SPLIT)
    parts = ["train"] * len(diseased)
    for kind in (False, True):
        members = generator.permutation(np.flatnonzero(diseased == kind)).tolist()
        for part, share in PARTS.items():
            count = max(1, round(share * np.count_nonzero(diseased == kind)))
            for member in members[:count]:
                parts[member] = part
            members = members[count:]
    return parts


def _swap_part(part: str) -> str:
    """Return a part on the other side of the split."""
    return "train" if part == "test" else "test"


def _list_copies(films: list[_Film], options: PhantomOptions) -> list[tuple[_Film, _Film]]:
    """Return (original, copy) for each planted copy; originals are first views of patients of their own."""
    firsts = [film for film in films if film.view == 1]
    order = _make_generator(options, COPIES).permutation(len(firsts))[: options.duplicates + options.contradicting]
    pairs = []
    for i, index in enumerate(order.tolist()):
        original = firsts[index]
        copy = dataclasses.replace(original, patient=options.n_patients + 1 + i)
        if i < options.duplicates:
            copy = dataclasses.replace(copy, part=_swap_part(copy.part))
        else:
            copy = dataclasses.replace(copy, label=LABELS[1 - LABELS.index(copy.label)])
        pairs.append((original, copy))
    return pairs


def _draw(film: _Film, options: PhantomOptions) -> Pixels:
    """Draw the film as its patient and view make it, whichever other films there are."""
    anatomy = draw_anatomy(_make_generator(options, ANATOMY, film.patient))
    generator = _make_generator(options, VIEW, film.patient, film.view)
    return draw_film(anatomy, film.scanner, film.shape, generator, contrast=film.contrast, bits=options.bits)


def _write_png(path: Path, pixels: Pixels, *, compress_level: int) -> None:
    """Write a grey PNG of 8 or 16 bits, as the type of ``pixels`` says."""
    from PIL import Image

    Image.fromarray(pixels).save(path, compress_level=compress_level)


def _write_manifest(path: Path, films: list[_Film], options: PhantomOptions) -> None:
    """Write one row a film, with the columns that the options ask for."""
    columns = ["path", "label", *(["patient"] if options.patients else []), "scanner", "view"]
    columns += ["split"] if options.split else []
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for film in films:
            row = {"path": film.path, "label": film.label, "patient": f"p{film.patient:04d}", "view": film.view}
            writer.writerow({**row, "scanner": film.scanner.name, "split": film.part})
