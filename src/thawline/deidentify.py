"""A copy of DICOM images without identities: what `thawline deidentify` does."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thawline.audit.marks import PLACES, find_lines
from thawline.audit.pictures import MIDDLE_SLICE
from thawline.data import dicom_index
from thawline.data.dataset import walk_files
from thawline.data.dicom import read_object
from thawline.data.dicom_values import guard
from thawline.data.identity import key_lesion, key_patient, read_secret
from thawline.data.label_sets import split_cells
from thawline.data.manifest import LABEL_NAMES, Manifest, Row, read_labels
from thawline.data.profile import METHOD, Changes, clean, key_uid
from thawline.data.quiet import silence
from thawline.data.readers import content_digest, walk_slices
from thawline.errors import DataError, ImageError, OutputError, bullets
from thawline.files import require_empty, write_atomic, write_json
from thawline.types import Listener, SilentListener

if TYPE_CHECKING:
    from pydicom import Dataset

LOG, LABELS = "deidentified.json", LABEL_NAMES[0]
NO_IMAGE = "no DICOM image"
ROWS, DATA = 0x0010, 0x3000  # elements of an overlay


@dataclasses.dataclass(frozen=True)
class Copy:
    """One file that was written: its name in the new folder, what was done, and where text seems to be burned in."""

    file: str
    changes: Changes
    text: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data without any value of the original."""
        return {"file": self.file, **self.changes.to_json(), "text": list(self.text)}


@dataclasses.dataclass(frozen=True)
class Deidentified:
    """What came of it: the copies, and the files that were left out, with the reason."""

    out: Path
    copies: tuple[Copy, ...]
    left_out: tuple[tuple[Path, str], ...]
    n_labels: int

    def to_json(self) -> dict[str, Any]:
        """Return the log as plain JSON data: files that were left out are counted by reason, as their names may tell."""
        reasons = [reason for _, reason in self.left_out]
        return {
            "schema": 1,
            "method": METHOD,
            "files": [each.to_json() for each in self.copies],
            "left_out": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
            "n_labels": self.n_labels,
        }

    def __str__(self) -> str:
        """Return what a person reads: counts, and the files that were left out by name."""
        lines = [f"{len(self.copies)} files written to {self.out}, {self.n_labels} rows of {LABELS}"]
        if self.left_out:
            lines.append(f"{len(self.left_out)} files left out:")
            lines.append(bullets([f"{path}: {reason}" for path, reason in self.left_out]))
        return "\n".join(lines)


def deidentify(
    data: Path,
    out: Path,
    *,
    labels: Path | None = None,
    keep_text: bool = False,
    allow_outside: bool = False,
    listener: Listener | None = None,
) -> Deidentified:
    """Copy the DICOM images of a folder without identities, with a log, and their table of labels under the new keys.

    Files and folders of the copy are named by keys. Objects without images are left out, and so are images that seem to
    have text burned in, unless ``keep_text``. Two copies at one site agree, as keys come from its secret.
    Raises DataError where there is nothing to copy, OutputError where the copy cannot be written.
    """
    listener = listener or SilentListener()
    if not data.is_dir():
        raise DataError(f"{data}: expected a folder of DICOM files; found none there")
    require_empty(out, "the copy")
    if out.resolve().is_relative_to(data.resolve()):
        raise OutputError(f"{out} lies in the data themselves; choose a folder outside {data}")
    files = list(walk_files(data, allow_outside=allow_outside))
    tables = {path for path in (labels, *(data / name for name in LABEL_NAMES)) if path is not None}
    secret = read_secret()
    rows = _join_labels(_find_table(data, labels, files), files, secret)
    copies: list[Copy] = []
    left_out: list[tuple[Path, str]] = []
    written: dict[str, str] = {}
    listener.begin("files", len(files))
    for path in files:
        try:
            copies.append(_copy(path, out, secret, written, keep_text=keep_text))
        except ImageError as error:
            if path not in tables:
                left_out.append((path, str(error)))
        listener.advance(1)
    listener.end(f"{len(copies)} written, {len(left_out)} left out")
    if not copies:
        lines = [f"{path}: {reason}" for path, reason in left_out]
        raise DataError(f"{data}: expected DICOM images, none of {len(files)} files could be copied:\n{bullets(lines)}")
    n_labels = _write_labels(rows, {path for path, _ in left_out}, out)
    done = Deidentified(out, tuple(copies), tuple(left_out), n_labels)
    write_json(out / LOG, done.to_json())
    return done


def _copy(path: Path, out: Path, secret: bytes, written: dict[str, str], *, keep_text: bool) -> Copy:
    """Write one file without identities. Raises ImageError with the reason that leaves it out.

    ``written`` are the digests of what was written, by name.
    """
    if not dicom_index.is_dicom_file(path):
        raise ImageError(NO_IMAGE)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"the file cannot be read: {error.strerror}") from error
    with silence():
        dataset = read_object(data)
        places = _find_text(dataset, data, keep_text=keep_text)
        if places and not keep_text:
            raise ImageError(f"text seems to be burned in at {', '.join(places)}; look, then --keep-text")
        name = "/".join(_name_folders(dataset, secret)) + ".dcm"
        changes = guard("elements", lambda: clean(dataset, secret))
        content = guard("elements", lambda: _write(dataset))
    digest = content_digest(content)
    if name in written:
        same = "the same image as another file" if written[name] == digest else "another image has its SOP Instance UID"
        raise ImageError(same)
    written[name] = digest
    write_atomic(out / name, content)
    return Copy(name, changes, places)


def _find_text(dataset: Dataset, data: bytes, *, keep_text: bool) -> tuple[str, ...]:
    """Return where text seems to be burned into the image, or into any of its frames, or that the header says so.

    Raises ImageError for pixels that cannot be looked at, unless text is kept anyhow.
    """
    try:
        places = {line.place for _, pixels in walk_slices(data, MIDDLE_SLICE) for line in find_lines(pixels)}
    except ImageError:
        if not keep_text:
            raise
        places = set()
    found = [PLACES[place] for place in sorted(places)]
    if _hides_overlay(dataset):
        found.append("unused bits of the pixels, where an overlay lies")
    says = str(guard("header", lambda: dataset.get("BurnedInAnnotation", ""))).strip().upper()
    if not found and says == "YES":
        found.append("a place that the header does not tell")
    return tuple(found)


def _hides_overlay(dataset: Dataset) -> bool:
    """Tell whether an overlay has no data of its own, so that they lie in bits of the pixels (PS3.3 of 2004, C.9.2)."""
    return any((group, ROWS) in dataset and (group, DATA) not in dataset for group in range(0x6000, 0x601F, 2))


def _name_folders(dataset: Dataset, secret: bytes) -> Iterator[str]:
    """Yield the names of the folders and the file of a copy: patient, study, series, instance."""
    keywords = ("PatientID", "IssuerOfPatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    found = guard("header", lambda: [str(dataset.get(keyword) or "").strip() for keyword in keywords])
    patient, issuer, study, series, instance = found
    if not instance:
        raise ImageError("the object has no SOP Instance UID, by which the copy would be named")
    yield key_patient(secret, patient, issuer) if patient else "no-patient"
    yield from (key_uid(secret, uid) or "none" for uid in (study, series, instance))


def _write(dataset: Dataset) -> bytes:
    """Return the file of a data set, with file meta information and a preamble of its own."""
    from pydicom.dataset import FileMetaDataset

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta, dataset.preamble = meta, bytes(128)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _find_table(data: Path, labels: Path | None, files: Sequence[Path]) -> Manifest | None:
    """Read the table of labels that is named, or lies in the folder; None where there is none."""
    found = (
        [labels] if labels is not None else [path for path in files if path in {data / name for name in LABEL_NAMES}]
    )
    return read_labels(found[0]) if found else None


def _join_labels(table: Manifest | None, files: Sequence[Path], secret: bytes) -> dict[Path, dict[str, str]]:
    """Return the row of the new table that each labelled file has. Raises DataError where none has one.

    Of its columns those that join, patient, lesion, label and split are kept. Accession numbers are not, and become series,
    or instances where a series has several.
    """
    if table is None:
        return {}
    headers, _ = dicom_index.read_headers(files)
    joined, _ = dicom_index.join_labels(table, headers, "the table of labels")
    column = "series" if table.column == "accession" else table.column
    if column != table.column and _is_ambiguous(joined):
        column = "instance"
    rows = {}
    for header, row in joined:
        own = key_patient(secret, header.patient, header.issuer) if header.patient else ""
        named = "" if not row.patient else own if row.patient == header.patient else key_patient(secret, row.patient)
        key = own if column == "patient" else key_uid(secret, getattr(header, column))
        joins = {"patient": key} if column == "patient" else {column: key, "patient": named}
        lesion = key_lesion(secret, named or own or header.study, row.lesion) if row.lesion else ""
        said = {"label": row.label} if table.names is None else split_cells(row.label, table.names)
        rows[header.path] = {**joins, "lesion": lesion, **said, "split": row.split or ""}
    return rows


def _is_ambiguous(joined: Sequence[tuple[dicom_index.Header, Row]]) -> bool:
    """Tell whether images of one series have rows that say different things."""
    said = {(header.series, row.label, row.split, row.patient, row.lesion) for header, row in joined}
    return len(said) > len({header.series for header, _ in joined})


def _write_labels(rows: dict[Path, dict[str, str]], left_out: set[Path], out: Path) -> int:
    """Write the table of labels of the copies, and return its rows; columns without a value are left out."""
    kept = list({tuple(row.values()): row for path, row in rows.items() if path not in left_out}.values())
    names = [name for name in (kept[0] if kept else ()) if any(row[name] for row in kept)]
    if kept:
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(kept)
        write_atomic(out / LABELS, text.getvalue())
    return len(kept)
