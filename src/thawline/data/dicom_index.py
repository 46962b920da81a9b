"""Which DICOM files there are and what belongs together: headers of a folder or a DICOMDIR, and labels joined to them.

Pixels are not read. What names a person stays in a `Header`; what leaves this module carries keys, see `identity`.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thawline.data.dicom import NO_IMAGES, PREFIX, is_dicom
from thawline.data.dicom_series import DicomSeries, is_volume
from thawline.data.dicom_values import guard, list_values
from thawline.data.manifest import JOINS
from thawline.data.quiet import silence
from thawline.data.slide_files import SLIDE_CLASS
from thawline.data.stacks import Slice, list_slices, stack_slices
from thawline.errors import DataError, ImageError, bullets
from thawline.types import Slide

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from thawline.data.manifest import Manifest, Row

DIRECTORY = "DICOMDIR"
TEXTS = {  # field of a header: the attribute it comes from
    "patient": "PatientID",
    "issuer": "IssuerOfPatientID",
    "study": "StudyInstanceUID",
    "series": "SeriesInstanceUID",
    "instance": "SOPInstanceUID",
    "accession": "AccessionNumber",
    "modality": "Modality",
    "kind": "SOPClassUID",
}
GEOMETRY = (
    *("ImagePositionPatient", "ImageOrientationPatient", "InstanceNumber", "NumberOfFrames"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
KINDS = ("Rows", "ImageType")


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """What the header of one file says; texts are empty where it says nothing. ``slices`` are its frames in space."""

    path: Path
    patient: str
    issuer: str
    study: str
    series: str
    instance: str
    accession: str
    modality: str
    kind: str
    has_image: bool
    is_localizer: bool
    slices: tuple[Slice, ...]


def is_dicom_file(path: Path) -> bool:
    """Tell by its first bytes whether a file is DICOM, whatever its name; a DICOMDIR is a directory, not an object."""
    if path.name.upper() == DIRECTORY:
        return False
    place, mark = PREFIX
    try:
        with path.open("rb") as stream:
            return stream.read(place.stop)[place] == mark
    except OSError:
        return False


def read_directory(path: Path) -> list[Path]:
    """Return the files that a DICOMDIR names (PS3.3, annex F), in its order. Raises DataError where one does not exist."""
    import pydicom

    def read() -> list[tuple[str, ...]]:
        found = pydicom.dcmread(path, specific_tags=["DirectoryRecordSequence"])
        names = [record.get("ReferencedFileID") for record in found.DirectoryRecordSequence]
        return [(name,) if isinstance(name, str) else tuple(name) for name in names if name]

    try:
        with silence():
            names = guard("list of files", read)
    except ImageError as error:
        raise DataError(f"{path}: {error}") from None
    files = [_find_file(path.parent, parts) for parts in names]
    missing = ["/".join(parts) for parts, file in zip(names, files, strict=True) if file is None]
    if missing:
        raise DataError(f"{path}: {len(missing)} of {len(names)} files that it names do not exist:\n{bullets(missing)}")
    return [file for file in files if file is not None]


def _find_file(folder: Path, parts: tuple[str, ...]) -> Path | None:
    """Return a file by the upper-case name that media have, or as copying may have left it; never outside the folder."""
    if any(part in ("", ".", "..") or "/" in part or "\\" in part for part in parts):
        return None
    for each in (parts, tuple(part.lower() for part in parts)):
        if folder.joinpath(*each).is_file():
            return folder.joinpath(*each)
    return None


def read_headers(files: Iterable[Path]) -> tuple[list[Header], list[tuple[Path, str]]]:
    """Return the headers of those files that are DICOM, and those that cannot be read, with the reason."""
    headers: list[Header] = []
    problems: list[tuple[Path, str]] = []
    with silence():
        for path in files:
            try:
                header = read_header(path)
            except ImageError as error:
                problems.append((path, str(error)))
                continue
            if header is not None:
                headers.append(header)
    return headers, problems


def read_header(path: Path) -> Header | None:
    """Return the header of a file, None where it is no DICOM. Raises ImageError where it is damaged."""
    import pydicom

    try:
        with path.open("rb") as stream:
            if not is_dicom(stream.read(PREFIX[0].stop)):
                return None
            stream.seek(0)
            tags = [*TEXTS.values(), *GEOMETRY, *KINDS]
            found = guard(
                "header", lambda: pydicom.dcmread(stream, force=True, stop_before_pixels=True, specific_tags=list(tags))
            )
    except OSError as error:
        raise ImageError(f"the file cannot be read: {error.strerror}") from error
    texts = guard("header", lambda: {field: str(found.get(tag) or "").strip() for field, tag in TEXTS.items()})
    kinds = guard("image type", lambda: [str(each).upper() for each in list_values(found.get("ImageType"))])
    return Header(
        path,
        **texts,
        has_image=found.get("Rows") is not None and texts["modality"] not in NO_IMAGES,
        is_localizer="LOCALIZER" in kinds,
        slices=() if texts["kind"] == SLIDE_CLASS.decode() else _read_slices(found),
    )


def _read_slices(found: Any) -> tuple[Slice, ...]:
    """Return the frames of an object; where their geometry is damaged one without a place."""
    try:
        return guard("geometry", lambda: tuple(list_slices(found)))
    except ImageError:
        return (Slice(0, 0),)


def join_labels(table: Manifest, headers: Sequence[Header], source: str) -> tuple[list[tuple[Header, Row]], list[str]]:
    """Return the images that have a row in a table of labels, with it, and remarks on what was left out.

    Raises DataError where no row fits: nothing that is said repeats a value, which may be an identity.
    """
    images = [header for header in headers if header.has_image and not header.is_localizer]
    rows = {row.path: row for row in table.rows}
    pairs = [(header, row) for header in images if (row := rows.get(getattr(header, table.column))) is not None]
    if not pairs:
        raise DataError(
            f"{source}: none of the {len(rows)} values of its column {table.column} is that of one of the {len(images)} "
            f"DICOM images{_explain_mismatch(rows, images, table.column)}"
        )
    notes = []
    n_others, n_scouts = sum(not each.has_image for each in headers), sum(each.is_localizer for each in headers)
    for count, what in (
        (n_others, "DICOM objects that are no images (reports, segmentations and the like)"),
        (n_scouts, "localizers"),
        (len(images) - len(pairs), f"DICOM images without a row in {source}"),
    ):
        notes += [f"{count} {what} were left out"] if count else []
    used = {row.number for _, row in pairs}
    unused = [row.number for row in table.rows if row.number not in used]
    if unused:
        few = ", ".join(map(str, unused[:10])) + (", …" if len(unused) > 10 else "")
        notes.append(f"{len(unused)} rows of {source} have no image: row {few}")
    return pairs, notes


def _explain_mismatch(rows: dict[str, Row], images: Sequence[Header], column: str) -> str:
    """Say what a spreadsheet or another column may have done to the values."""
    found = {getattr(header, column) for header in images}
    if {value.lstrip("0") for value in rows} & {value.lstrip("0") for value in found}:
        return "; leading zeros differ, which spreadsheets remove: keep the column as text"
    for other in JOINS:
        if other != column and set(rows) & {getattr(header, other) for header in images}:
            return f"; but they are those of the attribute {TEXTS[other]}: call the column {other}"
    return f"; expected what stands in the attribute {TEXTS[column]}"


def gather_files(files: Sequence[Path]) -> list[tuple[Path, Path | DicomSeries | Slide]]:
    """Return files with what is read for each: of DICOM series that are volumes or slides the first file, with all."""
    headers, _ = read_headers([file for file in files if is_dicom_file(file)])
    images = [header for header in headers if header.has_image and not header.is_localizer]
    found: dict[Path, Path | DicomSeries | Slide] = dict(gather_items(images))
    gathered = {header.path for header in images} - found.keys()
    return [(file, found.get(file, file)) for file in files if file not in gathered]


def gather_items(
    images: Iterable[Header], *, by_instance: bool = False
) -> Iterator[tuple[Path, Path | DicomSeries | Slide]]:
    """Yield the items: each series that is a volume or a slide once, by its first file, all other images by themselves.

    Where labels are joined by instance, every image is an item of its own.
    """
    for members in [[image] for image in images] if by_instance else _group_series(images):
        first, *others = sorted(image.path for image in members)
        stack = stack_slices([each for image in members for each in image.slices])
        if all(image.kind == SLIDE_CLASS.decode() for image in members):
            yield first, Slide((first, *others))
        elif is_volume(stack):
            yield first, DicomSeries((first, *others), stack.faults)
        else:
            yield from ((path, path) for path in (first, *others))


def _group_series(images: Iterable[Header]) -> list[list[Header]]:
    """Return the images of each series together; one whose header does not say its series is one of its own."""
    series: dict[str, list[Header]] = defaultdict(list)
    for image in images:
        series[image.series or image.instance or str(image.path)].append(image)
    return list(series.values())


def describe_series(images: Iterable[Header], root: Path, *, by_instance: bool) -> list[str]:
    """Remark on series of several images: how many there are, and which are no whole volumes, by their first file."""
    stacks = {}
    for members in _group_series(images):
        slices = [each for image in members for each in image.slices]
        if len(slices) > 1:
            stacks[min(image.path for image in members).relative_to(root).as_posix()] = stack_slices(slices)
    if not stacks:
        return []
    n_volumes = 0 if by_instance else sum(map(is_volume, stacks.values()))
    what = f"{n_volumes} of them are volumes, an item each" if n_volumes else "each image is an item of its patient"
    notes = [f"{len(stacks)} series are of several images; {what}"]
    faulty = [f"{name}: {stack.faults}" for name, stack in stacks.items() if str(stack.faults)]
    if faulty:
        notes.append(f"{len(faulty)} of {len(stacks)} series are not whole volumes:\n{bullets(faulty)}")
    if n_scattered := sum(not stack.by_position for stack in stacks.values()):
        notes.append(f"{n_scattered} of {len(stacks)} series have no positions in one orientation")
    return notes
