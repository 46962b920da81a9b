"""Data sets: labelled items from folders, manifests, MedMNIST files or arrays, in an order no file system decides."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from thawline.data import arrays, dicom_index
from thawline.data.dicom import read_patient
from thawline.data.identity import key_patient, read_secret
from thawline.data.label_sets import (
    JOIN,
    contradict,
    count_values,
    join_texts,
    name_label,
    parse_labels,
    read_array,
    sort_names,
    write_labels,
)
from thawline.data.manifest import EXTENSIONS as MANIFEST_EXTENSIONS
from thawline.data.manifest import LABEL_NAMES, NAMES, SPLITS, Manifest, Row, read_labels, read_manifest
from thawline.data.readers import EXTENSIONS, is_image_name, is_slide, may_be_dicom
from thawline.errors import DataError, bullets
from thawline.types import LEAST_MPP, MISSING, MOST_MPP, Item, Slide, Split

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from thawline.types import Content, Labels

    Pair = tuple[Item, Content]

Kind = Literal["folder", "manifest", "dicom", "npz", "arrays"]
MIN_ITEMS = 10
MIN_PATIENTS_PER_CLASS = 2
SEVERAL = "; --multilabel reads names joined by | as several labels"
SKIPPED = ("__macosx", "thumbs.db", "desktop.ini")  # left behind by file managers; names with a leading dot are, too
MPP = "mpp"  # the column of a table that says how many µm a pixel of a whole slide is
NOT_A_NAME = ("na", "n/a", "#n/a", "nan", "null", "none", "unknown")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Labelled items, sorted by path, with their contents (absolute paths or arrays) in the same order.

    ``classes`` are sorted, numbers by value; where the task is ``multilabel`` they are the names of the labels, of which an
    item has any number. ``patients_given`` is False where the data name no patients and each item counts as its own;
    ``n_blank_patients`` counts the items without one where others have one. ``notes`` are remarks for the user.
    """

    root: Path
    kind: Kind
    items: tuple[Item, ...]
    classes: tuple[str, ...]
    contents: Sequence[Content]
    patients_given: bool = False
    n_blank_patients: int = 0
    split_given: bool = False
    notes: tuple[str, ...] = ()
    multilabel: bool = False

    def labels(self) -> Labels:
        """Return the class index of each item, int64, shape (items,); of several labels 1, 0 or -1, (items, labels)."""
        if self.multilabel:
            return parse_labels([item.label for item in self.items], self.classes)
        index = {name: position for position, name in enumerate(self.classes)}
        return np.array([index[item.label] for item in self.items], dtype=np.int64)

    def contradict(self, numbers: Sequence[int]) -> bool:
        """Tell whether items have different labels; of several, one that some have and others are known not to have."""
        texts = {self.items[number].label for number in numbers}
        return len(texts) > 1 and (not self.multilabel or contradict(parse_labels(sorted(texts), self.classes)))

    def count_values(self) -> dict[str, dict[str, int]]:
        """Count of each of several labels who has it, who has not, and who is not known to: `label_sets.count_values`."""
        patients = np.unique([item.patient for item in self.items], return_inverse=True)[1]
        return count_values(self.labels(), patients, self.classes)

    def count_items(self) -> dict[str, int]:
        """Return the number of items of each class, in the order of ``classes``."""
        if self.multilabel:
            return {name: counts["items"] for name, counts in self.count_values().items()}
        counts = Counter(item.label for item in self.items)
        return {name: counts[name] for name in self.classes}

    def count_patients(self) -> dict[str, int]:
        """Return the number of patients with an item of each class; a patient may count in several classes."""
        if self.multilabel:
            return {name: counts["patients"] for name, counts in self.count_values().items()}
        pairs = Counter(label for label, _ in {(item.label, item.patient) for item in self.items})
        return {name: pairs[name] for name in self.classes}

    def count_splits(self) -> dict[Split, int]:
        """Return the number of items of each given split that occurs."""
        return dict(Counter(item.split for item in self.items if item.split is not None))


def load_dataset(
    data: Path,
    *,
    labels: Path | None = None,
    keys: str | None = None,
    allow_outside: bool = False,
    multilabel: bool = False,
) -> Dataset:
    """Load and check labelled images.

    ``data`` is a folder with a manifest, with a subfolder a class, or of DICOM files and a table of labels, which
    ``labels`` names where it lies elsewhere; a manifest file, a DICOMDIR, or a file of arrays, of which ``keys`` say which
    is what (`arrays.read_keys`). Only names, labels and headers are read, not the images (an .npz is read whole). Paths and
    links that leave the data are refused unless ``allow_outside``. With ``multilabel`` a label is several names joined by |.
    Raises DataError where the data are missing, contradictory or too few.
    """
    path = _find(data)
    if path.suffix.lower() in arrays.EXTENSIONS and not _is_directory(path):
        dataset = _load_arrays(path, keys, multilabel)
        check_dataset(dataset)
        return dataset
    if keys is not None:
        raise DataError(f"--keys: names arrays in a file of {', '.join(arrays.EXTENSIONS)}; {path.name} is none")
    manifests = _find_tables(path, NAMES)
    tables = [_find(labels)] if labels is not None else [] if manifests else _find_tables(path, LABEL_NAMES)
    if labels is not None or _is_directory(path) or (tables and any(map(dicom_index.is_dicom_file, _walk(path, None)))):
        dataset = _load_dicom(path, tables, allow_outside, multilabel)
    elif path.is_file():
        dataset = _load_file(path, allow_outside, multilabel)
    elif manifests:
        dataset = _load_manifest(manifests[0], allow_outside, multilabel)
    elif multilabel:
        raise DataError(f"--multilabel: {path} has a folder a class; several labels need a {NAMES[0]} that names them")
    else:
        dataset = _load_folder(path, allow_outside)
    check_dataset(dataset)
    return dataset


def _find_tables(path: Path, names: Sequence[str]) -> list[Path]:
    """Return the one file of these names that a folder holds, if any. Raises DataError where there are two."""
    folder = path.parent if _is_directory(path) else path
    found = [folder / name for name in names if (folder / name).is_file()]
    if len(found) > 1:
        both = " and ".join(each.name for each in found)
        raise DataError(f"{folder} holds both {both}; remove one, since they could disagree")
    return found


def _is_directory(path: Path) -> bool:
    """Tell a DICOMDIR."""
    return path.name.upper() == dicom_index.DIRECTORY and path.is_file()


def check_dataset(dataset: Dataset) -> None:
    """Refuse what nothing can be learnt from: one class, under 10 items, a class of fewer than 2 patients.

    Of several labels an item: fewer than two, or one that fewer than 2 patients have, or have not. Raises DataError that
    states the counts found and the least needed.
    """
    if dataset.multilabel:
        _check_values(dataset)
        return
    counts, n_items = dataset.count_items(), len(dataset.items)
    found = ", ".join(f"{name} ({count})" for name, count in counts.items())
    least = f"at least 2 classes, {MIN_ITEMS} images in all and {MIN_PATIENTS_PER_CLASS} patients a class are needed"
    if len(counts) < 2:
        raise DataError(f"there is only one class, {found or 'with no item'}; {least}")
    if n_items < MIN_ITEMS:
        raise DataError(f"there are {n_items} images in all: {found}; {least}, and some hundred to learn something")
    few = [name for name, count in dataset.count_patients().items() if count < MIN_PATIENTS_PER_CLASS]
    if few:
        lines = [f"{name}: {counts[name]} images of {dataset.count_patients()[name]} patient" for name in few]
        hint = SEVERAL if any(JOIN in name for name in few) else ""
        raise DataError(
            f"{len(few)} classes have fewer than {MIN_PATIENTS_PER_CLASS} patients; {least}{hint}:\n{bullets(lines)}"
        )


def _check_values(dataset: Dataset) -> None:
    """Refuse labels of which too little is known. Raises DataError that names them, with their counts."""
    counts, n_items = dataset.count_values(), len(dataset.items)
    least = (
        f"at least 2 labels, {MIN_ITEMS} images with a known one, and of each label {MIN_PATIENTS_PER_CLASS} patients "
    )
    least += f"who have it and {MIN_PATIENTS_PER_CLASS} who are known not to are needed"
    if len(counts) < 2:
        raise DataError(
            f"there is one label, {', '.join(counts) or 'with no name'}; {least}; one alone is a column label"
        )
    if n_items < MIN_ITEMS:
        raise DataError(f"there are {n_items} images with a known label; {least}, and some hundred to learn something")
    few = {
        name: own
        for name, own in counts.items()
        if min(own["patients"], own["negative_patients"]) < MIN_PATIENTS_PER_CLASS
    }
    if few:
        lines = [
            f"{name}: {own['items']} images of {own['patients']} patients have it, {own['negative_items']} images of "
            f"{own['negative_patients']} patients have not, {own['missing_items']} images are not known"
            for name, own in few.items()
        ]
        raise DataError(
            f"{len(few)} labels have one value only, or too few patients with one; {least}; leave them out:\n"
            f"{bullets(lines)}"
        )


def from_arrays(
    contents: Sequence[Content | str] | NDArray[Any],
    labels: Sequence[Any] | NDArray[Any],
    groups: Sequence[Any] | NDArray[Any] | None = None,
) -> Dataset:
    """Build a data set from paths or from an array of shape (items, height, width[, 3]), in the order given.

    ``labels`` are names or numbers, one an item, or of shape (items, labels) 1, 0, and NaN where one is not known: the
    labels are then called by the columns of a data frame, else by numbers, and items of which none is known are left out.
    ``groups`` name the patient of each item, None or NaN one of its own. Item paths are running numbers. Raises DataError
    where lengths or shapes disagree or a label is missing; whether the data suffice is for `check_dataset` to judge.
    """
    if isinstance(contents, np.ndarray) and contents.dtype.kind in "biuf" and contents.ndim not in (3, 4):
        raise DataError(f"images of shape {contents.shape}; expected (items, height, width[, 3])")
    sources = [Path(each).absolute() if isinstance(each, (str, Path)) else each for each in contents]
    given = [None] * len(sources) if groups is None else list(groups)
    for name, values in (("labels", labels), ("groups", given)):
        if len(values) != len(sources):
            raise DataError(f"{len(sources)} images but {len(values)} {name}; expected one an image")
    texts, names = _write_array(labels, "y")
    missing = [str(number) for number, label in enumerate(texts) if _is_missing(label)]
    if missing:
        raise DataError(f"no label for {len(missing)} images, at positions {', '.join(missing[:10])}; leave them out")
    pairs: list[Pair] = []
    width = max(5, len(str(len(sources))))
    for number, (source, label, group) in enumerate(zip(sources, texts, given, strict=True)):
        path = f"{number:0{width}d}"
        patient = own_patient(path) if _is_missing(group) else _name_value(group)
        pairs.append((Item(path, _name_value(label), patient), source))
    n_blank = 0 if groups is None else sum(map(_is_missing, given))
    return _build(Path(), "arrays", pairs, names, patients_given=groups is not None, n_blank_patients=n_blank)


def _write_array(labels: Any, source: str) -> tuple[Sequence[Any], tuple[str, ...] | None]:
    """Return one label an item as they are; several as texts, with their names. Raises DataError."""
    try:
        shape = np.shape(labels)
    except ValueError as error:
        raise DataError(f"{source}: expected one label an item, or as many for each; found rows that differ") from error
    if len(shape) != 2 or shape[1] == 1:
        return labels, None
    named = name_columns(labels, source)
    names = sort_names(named)
    if len(set(names)) < len(names):
        raise DataError(f"{source}: expected another name for each label, found {', '.join(names)}")
    values = read_array(np.asarray(labels), source)[:, [named.index(name) for name in names]]
    return [write_labels(row, names) for row in values], names


def name_columns(labels: Any, source: str) -> list[str]:
    """Return the name of each of several labels, in the order of the columns of a table: its own, else numbers."""
    columns = getattr(labels, "columns", range(np.shape(labels)[1]))
    return [name_label(_name_value(column), source) for column in columns]


def list_files(paths: Sequence[Path], *, allow_outside: bool = False) -> list[Path]:
    """Return the image files to predict, each once: files as given, folders searched throughout, manifests read.

    Manifests need a ``path`` column only; where it leads out of the manifest's folder, ``allow_outside`` is needed.
    Raises DataError for what is missing or no image, and where nothing is left.
    """
    files: dict[Path, None] = {}
    for path in map(_find, paths):
        if path.is_dir():
            files.update(dict.fromkeys(file for file in _walk(path, None) if _is_image(file)))
        elif path.suffix.lower() in MANIFEST_EXTENSIONS:
            rows = read_manifest(path, need_label=False).rows
            files.update(dict.fromkeys(file for _, file in _resolve_rows(path, rows, allow_outside)))
        elif _is_image(path):
            files[path] = None
        else:
            raise DataError(f"{path} is no image; expected {', '.join(EXTENSIONS)}, a folder or a manifest")
    if not files:
        raise DataError(
            f"no images in {', '.join(map(str, paths)) or 'an empty list'}; expected {', '.join(EXTENSIONS)}"
        )
    return list(files)


def order_classes(dataset: Dataset, grades: Sequence[str]) -> Dataset:
    """Return the data set with its classes in the order of the grades. Raises DataError where these are not its classes."""
    if sorted(grades) != sorted(dataset.classes) or len(grades) < 3:
        raise DataError(
            f"--grades: expected each of three classes or more once, {', '.join(dataset.classes)}; found {', '.join(grades)}"
        )
    return dataclasses.replace(dataset, classes=tuple(grades))


def take_items(dataset: Dataset, numbers: Sequence[int]) -> Dataset:
    """Return the data set with the items of these numbers alone; classes stay."""
    items = tuple(dataset.items[number] for number in numbers)
    return dataclasses.replace(dataset, items=items, contents=[dataset.contents[number] for number in numbers])


def own_patient(path: str) -> str:
    """Name the patient of an item that belongs to no known patient: one of its own."""
    return f"item:{path}"


def is_named(item: Item) -> bool:
    """Tell whether the data name the patient of an item."""
    return item.patient != own_patient(item.path)


def _is_missing(value: Any) -> bool:
    """Tell None and NaN."""
    return value is None or (isinstance(value, (float, np.floating)) and bool(np.isnan(value)))


def _name_value(value: Any) -> str:
    """Write a label or group as text; whole floats without a fraction."""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def _find(path: Path) -> Path:
    """Return the absolute path of something that exists, or say which name near it does."""
    absolute = Path(path).expanduser().absolute()
    if os.path.exists(absolute):  # noqa: PTH110  (unlike Path.exists, never raises)
        return absolute
    parent = next(folder for folder in absolute.parents if folder.is_dir())
    wanted = absolute.relative_to(parent).parts[0]
    near = difflib.get_close_matches(wanted, [entry.name for entry in parent.iterdir()], n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "check the path"
    raise DataError(f"{path} does not exist: there is no {wanted!r} in {parent}; {hint}")


def _build(
    root: Path, kind: Kind, pairs: Sequence[Pair], names: tuple[str, ...] | None = None, **facts: Any
) -> Dataset:
    """Sort items by path and classes by name or number, and fill the record; ``names`` are those of several labels."""
    if names is not None:
        pairs, facts = _leave_unknown(pairs, names, facts)
    pairs = _state_mpp(pairs)
    named = pairs if kind == "dicom" else _name_patients(pairs)
    if any(item.patient != before.patient for (item, _), (before, _) in zip(named, pairs, strict=True)):
        blank = sum(not is_named(item) for item, _ in named)
        facts |= {"patients_given": True, "n_blank_patients": blank}
    pairs = sorted(named, key=lambda pair: pair[0].path)
    items = tuple(item for item, _ in pairs)
    _refuse_lesions_alone(items)
    classes = sort_names({item.label for item in items}) if names is None else names
    notes = (*facts.pop("notes", ()), *_note_doubtful_names(items, classes))
    contents = [content for _, content in pairs]
    return Dataset(root, kind, items, classes, contents, notes=notes, multilabel=names is not None, **facts)


def _leave_unknown(
    pairs: Sequence[Pair], names: tuple[str, ...], facts: dict[str, Any]
) -> tuple[list[Pair], dict[str, Any]]:
    """Return the items of which a label is known, and the facts with a note of how many others there were."""
    known = (parse_labels([item.label for item, _ in pairs], names) != MISSING).any(axis=1)
    kept = [pair for pair, keep in zip(pairs, known, strict=True) if keep]
    if len(kept) == len(pairs):
        return kept, facts
    note = f"{len(pairs) - len(kept)} of {len(pairs)} items were left out, as none of their labels is known"
    if facts.get("n_blank_patients"):
        facts = {**facts, "n_blank_patients": sum(not is_named(item) for item, _ in kept)}
    return kept, {**facts, "notes": (*facts.get("notes", ()), note)}


def _state_mpp(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs, whole slides with the µm per pixel that a column of the table states. Raises DataError."""
    stated: list[Pair] = []
    for item, content in pairs:
        text = item.metadata.get(MPP, "").strip()
        if not text or isinstance(content, np.ndarray) or not is_slide(content):
            stated.append((item, content))
            continue
        try:
            mpp = float(text)
        except ValueError:
            mpp = math.nan
        if not LEAST_MPP <= mpp <= MOST_MPP:
            raise DataError(
                f"{item.path}: column {MPP}: expected µm per pixel of the slide, {LEAST_MPP} to {MOST_MPP:g}; found {text!r}"
            )
        paths = content.paths if isinstance(content, Slide) else (content,) if isinstance(content, Path) else ()
        stated.append((item, Slide(paths, mpp)))
    return stated


def _name_patients(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs, those of DICOM files that name no patient with the key of the patient in their header."""
    secret = b""
    named: list[Pair] = []
    for item, content in pairs:
        if isinstance(content, Path) and not is_named(item) and may_be_dicom(content):
            patient, issuer = read_patient(content)
            if patient:
                secret = secret or read_secret()
                named.append((dataclasses.replace(item, patient=key_patient(secret, patient, issuer)), content))
                continue
        named.append((item, content))
    return named


def _refuse_lesions_alone(items: Sequence[Item]) -> None:
    """Refuse lesions of nobody: their images would be taken for those of several patients, and stand in several parts."""
    alone = [item.path for item in items if item.lesion and not is_named(item)]
    if alone:
        raise DataError(
            f"{len(alone)} items name a lesion and no patient; expected a patient beside each lesion, which counts within "
            f"its patient. Fill in the patient, or where only lesions are known call the column patient:\n{bullets(alone)}"
        )


def _note_doubtful_names(items: Sequence[Item], classes: Sequence[str]) -> Iterator[str]:
    """Remark on classes that differ in case only, and on patients and lesions that look like a missing value."""
    folded = Counter(name.casefold() for name in classes)
    alike = [name for name in classes if folded[name.casefold()] > 1]
    if alike:
        yield f"classes {', '.join(map(repr, alike))} differ in upper and lower case only and are kept apart"
    joined = [name for name in classes if JOIN in name]
    if joined:
        yield f"{len(joined)} classes hold a {JOIN}, such as {joined[0]!r}, and are classes of their own{SEVERAL}"
    for name, count in sorted(Counter(item.patient for item in items if item.patient.lower() in NOT_A_NAME).items()):
        yield f"{count} items name the patient {name!r} and count as one patient; leave it blank where it is unknown"
    for name, count in sorted(Counter(item.lesion for item in items if item.lesion.lower() in NOT_A_NAME).items()):
        yield f"{count} items name the lesion {name!r}, one lesion of each patient; leave it blank where it is unknown"


def _load_file(path: Path, allow_outside: bool, multilabel: bool) -> Dataset:
    """Load a manifest or an .npz by its extension."""
    suffix = path.suffix.lower()
    if suffix in MANIFEST_EXTENSIONS:
        return _load_manifest(path, allow_outside, multilabel)
    found = "one item, which lies in a class folder or is named by a manifest" if is_image_name(path) else "no data set"
    raise DataError(
        f"{path} is {found}; expected a folder, a manifest ({', '.join(MANIFEST_EXTENSIONS)}), a "
        f"{dicom_index.DIRECTORY} or arrays ({', '.join(arrays.EXTENSIONS)})"
    )


class _Fence:
    """Tells whether a path, its links followed, stays in a folder; resolves each parent folder once."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))
        self._parents: dict[Path, Path] = {}

    def holds(self, path: Path) -> bool:
        """Return False where ``path`` leads out of the folder."""
        if path.parent not in self._parents:
            self._parents[path.parent] = Path(os.path.realpath(path.parent))
        target = Path(os.path.realpath(path)) if path.is_symlink() else self._parents[path.parent] / path.name
        return target.is_relative_to(self.root)


def _load_manifest(path: Path, allow_outside: bool, multilabel: bool) -> Dataset:
    """Load the items of a manifest; paths resolve against its folder."""
    manifest = read_manifest(path, joined=multilabel)
    pairs: list[Pair] = []
    for row, (name, file) in zip(manifest.rows, _resolve_rows(path, manifest.rows, allow_outside), strict=True):
        patient = row.patient or own_patient(name)
        pairs.append((Item(name, row.label, patient, row.split, row.metadata, row.lesion), file))
    return _build(
        path.parent,
        "manifest",
        pairs,
        manifest.names,
        notes=_note_uncertain(manifest),
        patients_given=manifest.patients_given,
        n_blank_patients=sum(not row.patient for row in manifest.rows) if manifest.patients_given else 0,
        split_given=manifest.split_given,
    )


def _note_uncertain(manifest: Manifest) -> tuple[str, ...]:
    """Remark on cells that say that a label is uncertain."""
    count = manifest.n_uncertain
    return (f"{count} labels are said to be uncertain (-1 or u) and count as not known",) if count else ()


def _resolve_rows(manifest: Path, rows: Sequence[Row], allow_outside: bool) -> list[tuple[str, Path]]:
    """Return item path and file of each row; refuse, with their rows, files that lie outside or do not exist."""
    fence = _Fence(manifest.parent)
    located = [_locate(manifest.parent, row.path) for row in rows]
    if not allow_outside:
        outside = [
            f"row {row.number}: {row.path}"
            for row, (_, file) in zip(rows, located, strict=True)
            if PureWindowsPath(row.path).anchor or PurePosixPath(row.path).is_absolute() or not fence.holds(file)
        ]
        if outside:
            raise DataError(
                f"{manifest.name}: {len(outside)} paths are absolute or lead out of {manifest.parent}; make them relative "
                f"to the manifest, or permit them with --allow-outside:\n{bullets(outside)}"
            )
    missing = [
        f"row {row.number}: {row.path}"
        for row, (_, file) in zip(rows, located, strict=True)
        if not os.path.isfile(file)  # noqa: PTH113  (unlike Path.is_file, never raises)
    ]
    if missing:
        raise DataError(
            f"{manifest.name}: {len(missing)} of {len(rows)} files do not exist; paths are relative to "
            f"{manifest.parent}:\n{bullets(missing)}"
        )
    return located


def _locate(folder: Path, text: str) -> tuple[str, Path]:
    """Return item path and file of a path in a manifest; backslashes separate folders where no file is called so."""
    if "\\" in text and not os.path.isfile(folder / text):  # noqa: PTH113
        text = text.replace("\\", "/")
    file = Path(os.path.normpath(folder / text))
    return (file.relative_to(folder).as_posix() if file.is_relative_to(folder) else Path(text).as_posix()), file


def _load_dicom(path: Path, tables: Sequence[Path], allow_outside: bool, multilabel: bool) -> Dataset:
    """Load the DICOM images of a folder, or those that a DICOMDIR names, that a table of labels has a row for."""
    if not tables:
        raise DataError(f"{path} needs a table of labels: {LABEL_NAMES[0]} beside it, or --labels TABLE")
    root = path.parent if path.is_file() else path
    if path.is_file() and not _is_directory(path):
        raise DataError(
            f"--labels joins labels to a folder of DICOM files or a {dicom_index.DIRECTORY}; {path} is a file"
        )
    table = read_labels(tables[0], joined=multilabel)
    fence = None if allow_outside else _Fence(root)
    directory = path if path.is_file() else root / dicom_index.DIRECTORY
    named = dicom_index.read_directory(directory) if directory.is_file() else list(_walk(root, fence))
    outside = next((file for file in named if fence is not None and not fence.holds(file)), None)
    if outside is not None:
        _refuse_link(outside)
    headers, problems = dicom_index.read_headers(named)
    rows, notes = dicom_index.join_labels(table, headers, tables[0].name)
    if problems:
        notes.append(f"{len(problems)} files whose DICOM header cannot be read were left out; of one: {problems[0][1]}")
    by_instance = table.column == "instance"
    notes += dicom_index.describe_series((header for header, _ in rows), root, by_instance=by_instance)
    secret = read_secret()
    pairs: list[Pair] = []
    joined = {header.path: (header, row) for header, row in rows}
    for file, content in dicom_index.gather_items((header for header, _ in rows), by_instance=by_instance):
        header, row = joined[file]
        name = file.relative_to(root).as_posix()
        group = _key_group(secret, header, row.patient) or own_patient(name)
        pairs.append((Item(name, row.label, group, row.split, row.metadata, row.lesion), content))
    n_own = sum(not is_named(item) for item, _ in pairs)
    n_unnamed = sum(not (header.patient or row.patient) for header, row in rows)
    if n_unnamed > n_own:
        notes.append(f"{n_unnamed - n_own} images name no patient; those of one study count as one patient")
    return _build(
        root,
        "dicom",
        pairs,
        table.names,
        notes=(*notes, *_note_uncertain(table)),
        patients_given=n_own < len(pairs),
        n_blank_patients=n_own if n_own < len(pairs) else 0,
        split_given=table.split_given,
    )


def _key_group(secret: bytes, header: dicom_index.Header, patient: str) -> str:
    """Return the key of whom an image is of: the patient that the table names, the header's, or the study's; or nothing."""
    if patient and patient != header.patient:
        return key_patient(secret, patient)
    if header.patient:
        return key_patient(secret, header.patient, header.issuer)
    return key_patient(secret, header.study, "study") if header.study else ""


def _load_folder(root: Path, allow_outside: bool) -> Dataset:
    """Load a folder with a subfolder a class; the images of a class may lie in folders of their own."""
    entries = [entry for entry in _list_folder(root) if not _is_skipped(entry.name)]
    folders = [entry for entry in entries if entry.is_dir()]
    fence = None if allow_outside else _Fence(root)
    found = {folder.name: list(_walk(folder, fence)) for folder in folders}
    images = {name: [file for file in files if _is_image(file)] for name, files in found.items()}
    known = {file for files in images.values() for file in files}
    others = Counter(
        file.suffix.lower() or "no extension" for files in found.values() for file in files if file not in known
    )
    outside = [entry for entry in entries if not entry.is_dir()]
    loose = sum(_is_image(entry) for entry in outside)
    others.update(entry.suffix.lower() or "no extension" for entry in outside if not _is_image(entry))
    counted = ", ".join(f"{suffix} ({count})" for suffix, count in sorted(others.items()))
    _check_folder(root, images, counted, loose)
    notes = [f"{sum(others.values())} files that are no images were left out: {counted}"] if others else []
    if loose:
        notes.append(f"{loose} images lie outside the class folders, so have no label, and were left out")
    pairs: list[Pair] = []
    for label, pictures in images.items():
        for file in pictures:
            path = file.relative_to(root).as_posix()
            pairs.append((Item(path, label, own_patient(path)), file))
    return _build(root, "folder", pairs, notes=tuple(notes))


def _check_folder(root: Path, images: dict[str, list[Path]], others: str, loose: int) -> None:
    """Refuse folders that hold no classes, or where what looks like a class is something else."""
    instead = f"; found instead: {others}" if others else ""
    if loose and not any(images.values()):
        raise DataError(
            f"{root} holds {loose} images without a label; move them to a subfolder a class or add {NAMES[0]} (for DICOM "
            f"files {LABEL_NAMES[0]} with patient, study, series, instance or accession, and label)"
        )
    if not any(images.values()):
        raise DataError(f"{root} holds no images in class folders{instead}; expected {', '.join(EXTENSIONS)} in each")
    if all(name.lower() in SPLITS for name in images):
        names = ", ".join(images)
        raise DataError(
            f"the folders of {root} are named after splits ({names}), not classes; add a {NAMES[0]} with the columns "
            "path,label,split"
        )
    empty = [name for name, files in images.items() if not files]
    if empty:
        raise DataError(
            f"{len(empty)} class folders of {root} hold no image: {', '.join(empty[:20])}{instead}; fill or remove them"
        )
    (first, *rest) = images
    if not rest and any(file.parent != root / first for file in images[first]):
        raise DataError(
            f"{root} holds one class folder only, {first}; if its subfolders are the classes, give {root / first}"
        )
    torn = [repr(file.name) for files in images.values() for file in files if not _is_text(str(file))]
    if torn:
        raise DataError(
            f"{len(torn)} file names are not UTF-8 and cannot be written to tables; rename:\n{bullets(torn)}"
        )


def _is_image(path: Path) -> bool:
    """Tell an image by its extension, or DICOM by its first bytes: scanners and archives give no extension, or any."""
    return is_image_name(path) or dicom_index.is_dicom_file(path)


def _is_text(name: str) -> bool:
    """Tell whether a file name can be written as UTF-8; names in another encoding cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _list_folder(folder: Path) -> list[Path]:
    """Return what lies in a folder, sorted by name."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from error


def _is_skipped(name: str) -> bool:
    """Tell hidden files and what file managers leave behind."""
    return name.startswith(".") or name.lower() in SKIPPED


def walk_files(folder: Path, *, allow_outside: bool = False) -> Iterator[Path]:
    """Yield the files in and below a folder, by name. Raises DataError for a link out of it, unless ``allow_outside``."""
    return _walk(folder, None if allow_outside else _Fence(folder))


def _walk(folder: Path, fence: _Fence | None, trail: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yield the files in and below a folder, by name; a link back to a folder on the way is not followed again.

    Raises DataError for a link that leads out of the fence.
    """
    if fence is not None and not fence.holds(folder):
        _refuse_link(folder)
    trail |= {os.path.realpath(folder)}
    for entry in _list_folder(folder):
        if _is_skipped(entry.name):
            continue
        if entry.is_dir():
            if os.path.realpath(entry) not in trail:
                yield from _walk(entry, fence, trail)
        elif fence is not None and not fence.holds(entry):
            _refuse_link(entry)
        else:
            yield entry


def _refuse_link(path: Path) -> None:
    """Raise for a link out of the data: what it leads to may change, or was never meant to be read."""
    target = os.path.realpath(path)
    raise DataError(
        f"{path} is a link that leads out of the data, to {target}; copy it, or permit it with --allow-outside"
    )


def _load_arrays(path: Path, keys: str | None, multilabel: bool) -> Dataset:
    """Load a file of arrays: of MedMNIST, or of images and labels under keys."""
    if keys is None and path.suffix.lower() == arrays.NPZ and arrays.is_medmnist(path):
        return _load_medmnist(path)
    try:
        named = {} if keys is None else arrays.read_keys(keys)
    except ValueError as error:
        raise DataError(f"--keys: {error}") from error
    stack = arrays.read_stack(path, named)
    width = max(5, len(str(len(stack.labels))))
    labels, names = _write_array(stack.labels, path.name)
    if multilabel and names is None:
        labels, names = join_texts([_name_value(label) for label in labels], range(len(labels)), path.name)
    pairs: list[Pair] = []
    n_blank = 0
    for index, (content, label) in enumerate(zip(stack.contents, labels, strict=True)):
        name = f"{index:0{width}d}"
        if _is_missing(label) or not _name_value(label):
            raise DataError(f"{path.name}: item {index} has no label; leave it out")
        patient, lesion = (_name_entry(column, index) for column in (stack.patients, stack.lesions))
        n_blank += not patient
        split = None if stack.split is None else _read_split(path, index, stack.split[index])
        item = Item(name, _name_value(label), patient or own_patient(name), split, lesion=lesion)
        pairs.append((item, content))
    given = stack.patients is not None
    return _build(
        path,
        "npz",
        pairs,
        names,
        patients_given=given,
        n_blank_patients=n_blank if given else 0,
        split_given=stack.split is not None,
    )


def _name_entry(column: NDArray[Any] | None, index: int) -> str:
    """Return what a column says of an item; nothing where there is none, or no value."""
    return "" if column is None or _is_missing(column[index]) else _name_value(column[index])


def _read_split(path: Path, index: int, value: Any) -> Split:
    """Return the split of an item. Raises DataError for another word."""
    name = SPLITS.get(_name_value(value).lower())
    if name is None:
        raise DataError(f"{path.name}: item {index} has the split {_name_value(value)!r}; expected {', '.join(SPLITS)}")
    return name


def _load_medmnist(path: Path) -> Dataset:
    """Load a MedMNIST file (Yang et al., Scientific Data 10:41, 2023): images or volumes, in given splits."""
    pairs: list[Pair] = []
    names: tuple[str, ...] | None = None
    parts = arrays.read_medmnist(path)
    if len({labels.shape[1:] for _, labels in parts.values()}) > 1:
        shapes = ", ".join(f"{split} {labels.shape}" for split, (_, labels) in parts.items())
        raise DataError(
            f"{path.name}: labels of different shapes in its parts: {shapes}; expected as many an image in each"
        )
    for split, (images, labels) in parts.items():
        width = max(5, len(str(len(images))))
        texts, names = _write_array(labels, path.name)
        for number, (image, label) in enumerate(zip(images, texts, strict=True)):
            name = f"{split}/{number:0{width}d}"
            pairs.append((Item(name, _name_value(label), own_patient(name), split), image))
    return _build(path, "npz", pairs, names, split_given=True)
